"""What the broker says of itself: the answers to `poold stats` and to whoever collects metrics."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

from client.compiled import describe
from client.wire.arguments import MOST_ROWS, unpacked_arguments
from client.wire.messages import Answer, Ask, Failure
from poold import __version__
from poold.clients.frontend import Frontend
from poold.clients.transport import Peer
from poold.config.current import CurrentConfig
from poold.core.broker import Broker
from poold.core.clients import access
from poold.core.figures import figures
from poold.core.operations.selection import NotPossible
from poold.core.sections.wanted import BACKENDS, Wanted, wanted
from poold.core.work import failures
from poold.lock_report import LockReport
from poold.metrics.exposition import Format, exposition
from poold.metrics.process import memory, process_figures

log = logging.getLogger(__name__)

BACKENDS_ALL = Wanted((BACKENDS,), MOST_ROWS)


class Answers:
    """Answers questions about the broker."""

    def __init__(
        self,
        config: CurrentConfig,
        broker: Broker,
        frontend: Frontend,
        lane: Any,
        why_no_lane: str,
        predecessors: Callable[[], list[dict[str, Any]]],
    ) -> None:
        """lane is the compiled Lane, None without one; why_no_lane says why.

        predecessors tells what brokers that this one has replaced still have to do.
        """
        self._predecessors = predecessors
        self._config = config
        self._broker = broker
        self._frontend = frontend
        self._lane = lane
        self._why_no_lane = why_no_lane
        self._started = monotonic()
        self._locks = LockReport(config)
        # Questions to servers that are under way.
        self._asking: set[asyncio.Task[None]] = set()

    def stats(self, peer: Peer, message: Ask) -> dict[str, Any] | Failure | None:
        """Return the figures of the process, and those of the core that are asked for and this client may see.

        None: servers have to be asked first, and the answer is sent then.
        """
        reader = self._reader(peer)
        try:
            asked = wanted(message)
        except NotPossible as error:
            return failures.usage(str(error))
        if (asked.reset or asked.locks) and reader is not None:
            what = "reset" if asked.reset else "locks"
            return failures.usage(f"stats with {what} is for root, the broker's own user and its admin_uids")
        if not asked.locks:
            return self._figures(peer, asked, reader)
        task = asyncio.get_running_loop().create_task(self._with_locks(peer, message.request, asked))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return None

    def close(self) -> None:
        """Ask servers nothing more."""
        for task in self._asking:
            task.cancel()

    async def _with_locks(self, peer: Peer, request: int, asked: Wanted) -> None:
        """Answer with what waits for locks as well."""
        report = await self._locks.make(lambda: self._look(BACKENDS_ALL)["backends"])
        self._frontend.reply(peer.key, Answer(request, {**self._figures(peer, asked, None), **report}))

    def _look(self, asked: Wanted, reader: int | None = None) -> dict[str, Any]:
        """Return the core's sections, with all that the lane has counted."""
        if self._lane is not None:
            self._lane.fold()
        return self._broker.snapshot(monotonic(), reader, asked)

    def _figures(self, peer: Peer, asked: Wanted, reader: int | None) -> dict[str, Any]:
        sections = self._look(asked, reader)
        now = monotonic()
        resident = memory()[1]
        memory_kb = resident and resident // 1024
        usage = resource.getrusage(resource.RUSAGE_SELF)
        shown = {
            "pid": os.getpid(),
            "version": __version__,
            "lane": self._lane_in_words(),
            "address": self._frontend.address,
            "uptime_s": round(now - self._started, 1),
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
            "memory_kb": memory_kb,
            "max_memory_kb": max(usage.ru_maxrss, memory_kb or 0),
            "protocol_violations": self._frontend.violations,
            "dropped_replies": self._frontend.dropped,
            "predecessors": self._predecessors() if reader is None else [],
            **sections,
        }
        if asked.reset:
            log.info("statements reset pid=%d uid=%s", peer.pid, peer.uid)
            for group in self._broker.groups.values():
                group.tallies.reset(now)
        return shown

    def metrics(self, peer: Peer, message: Ask) -> dict[str, Any]:
        """Return metrics as text, of the groups that this client may use."""
        asked = unpacked_arguments(message.arguments).get("format", [""])[0]
        found = Format.OPENMETRICS if asked == "openmetrics" else Format.PROMETHEUS
        return {"text": "".join(self.page(found, self._reader(peer)))}

    def page(self, wanted: Format, reader: int | None = None) -> Iterator[str]:
        """Make the text of all metrics as they are at this moment; reader is `poold.core.figures.figures`'s."""
        if self._lane is not None:
            self._lane.fold()
        return exposition(
            {
                **figures(self._broker, monotonic(), reader),
                "build": {"version": __version__, "lane": describe() if self._lane is not None else self._why_no_lane},
                "violations": self._frontend.violations,
                "dropped": self._frontend.dropped,
                "lane": None if self._lane is None else self._lane.counts,
                "process": process_figures(),
            },
            wanted,
        )

    def _reader(self, peer: Peer) -> int | None:
        """Return the key of a client that sees only the groups that it may use; None of an admin, who sees all."""
        return None if access.is_admin(peer.caller(), self._config.broker.admin_uids) else peer.key

    def _lane_in_words(self) -> dict[str, Any]:
        return {"state": self._why_no_lane} if self._lane is None else {"state": describe(), **self._lane.counts}
