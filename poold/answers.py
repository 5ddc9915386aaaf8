"""What the broker says of itself: the answers to `poold stats` and to whoever collects metrics."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from time import monotonic
from typing import Any

from client.compiled import describe
from client.wire.arguments import unpacked_arguments
from client.wire.messages import Ask
from poold import __version__
from poold.clients.frontend import Frontend
from poold.clients.transport import Peer
from poold.config.current import CurrentConfig
from poold.core.broker import Broker
from poold.core.clients import access
from poold.core.figures import figures
from poold.metrics.exposition import Format, exposition
from poold.metrics.process import process_figures


class Answers:
    """Answers questions about the broker."""

    def __init__(self, config: CurrentConfig, broker: Broker, frontend: Frontend, lane: Any, why_no_lane: str) -> None:
        """lane is the compiled Lane, None without one; why_no_lane says why."""
        self._config = config
        self._broker = broker
        self._frontend = frontend
        self._lane = lane
        self._why_no_lane = why_no_lane
        self._started = monotonic()

    def stats(self, peer: Peer) -> dict[str, Any]:
        """Return the figures of the process, and the core's as far as this client may see them."""
        if self._lane is not None:
            self._lane.fold()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "pid": os.getpid(),
            "version": __version__,
            "lane": self._lane_in_words(),
            "address": self._frontend.address,
            "uptime_s": round(monotonic() - self._started, 1),
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
            "max_memory_kb": usage.ru_maxrss,
            "protocol_violations": self._frontend.violations,
            "dropped_replies": self._frontend.dropped,
            **self._broker.snapshot(monotonic(), self._reader(peer)),
        }

    def metrics(self, peer: Peer, message: Ask) -> dict[str, Any]:
        """Return metrics as text, of the groups that this client may use."""
        wanted = unpacked_arguments(message.arguments).get("format", [""])[0]
        found = Format.OPENMETRICS if wanted == "openmetrics" else Format.PROMETHEUS
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
        return None if access.is_admin(peer.caller(), self._config.broker.admin_uids) else peer.key

    def _lane_in_words(self) -> dict[str, Any]:
        return {"state": self._why_no_lane} if self._lane is None else {"state": describe(), **self._lane.counts}
