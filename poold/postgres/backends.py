"""Backends: PostgreSQL connections on the event loop.

Effects of the core come in as method calls, facts go back to it. On the hot path, Execute and its completion, there is
no coroutine, no task and no thread: units are collected, each backend is written to once per turn, its descriptor
becomes readable, and the received bytes are cut into completions by `poold.postgres.wire`. Opening a backend and
cancelling on one are coroutines.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic

import psycopg2

from poold.config.changes import changed_endpoints
from poold.config.current import CurrentConfig
from poold.config.model import Config, EndpointConfig, GroupConfig
from poold.core.broker import Broker
from poold.core.effects import Unit
from poold.core.facts import Completion, Loss, Server
from poold.core.pools.group import Group
from poold.core.records.flow import Flight
from poold.postgres import connect as connecting
from poold.postgres import libpq
from poold.postgres.backend import BackendConnection, Unread, one_line
from poold.postgres.connect import Doing
from poold.postgres.wire import Wire
from poold.system.poller import Poller

log = logging.getLogger(__name__)

# The limit of all results together that are not whole yet, as a part of max_buffered_bytes: beyond it only the backend
# with the largest is read from, and PostgreSQL waits with the others.
UNFINISHED_RESULTS = 0.25
# Cancels under way at once, if each blocks a thread for as long as the server takes to answer.
CANCEL_THREADS = 8


class Backends:
    """All backends of the broker, by number.

    An effect may name a backend that was lost after the core decided and before the effect is carried out. The core has
    been told of the loss by then, and has answered the request; the effect is ignored.
    """

    def __init__(self, config: CurrentConfig, broker: Broker, wake: Callable[[], None], poller: Poller) -> None:
        """wake is called after each fact given to broker: there may be effects to take."""
        self._config = config
        self._broker = broker
        self._wake = wake
        self.poller = poller
        self._open: dict[int, BackendConnection] = {}
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._looking: dict[int, asyncio.Task[None]] = {}  # questions about backends, until answered
        self._learned: defaultdict[str, connecting.Learned] = defaultdict(connecting.Learned)
        # Backends that were given units in this turn: enter by execute, leave by flush.
        self._unflushed: list[BackendConnection] = []
        # Bytes of results that are not whole, and the backends that are not read from until there are fewer: enter when
        # there are too many, leave when any such result is whole, or its backend is gone.
        self._unfinished = 0
        self._waiting: dict[int, BackendConnection] = {}
        # Those that are closed when what they run has been cancelled.
        self._leaving: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(CANCEL_THREADS, thread_name_prefix="cancel")

    def connect(self, number: int, group: str, endpoint: str, is_read_only: bool = False) -> None:
        """Begin to open a backend. is_read_only: its session writes nothing, even if its group's could."""
        config, where = self._config.groups.get(group), self._config.endpoints.get(endpoint)
        if config is None or where is None:
            return  # a reload has removed it, and the core has closed the backend
        config = replace(config, read_only=True) if is_read_only else config
        opening = self._open_backend(number, config, where.named(group), self._learned[endpoint], endpoint)
        self._opening[number] = asyncio.get_running_loop().create_task(opening)

    def execute(self, number: int, unit: Unit) -> None:
        """Run a unit; it is sent by the next flush."""
        backend = self._open.get(number)
        if backend is not None:
            if not backend.waiting:
                self._unflushed.append(backend)
            backend.waiting += 1
            backend.wire.send(unit)

    def feed(self, number: int, data: bytes) -> None:
        """Give the backend the next piece of the data of its COPY; it is sent by the next flush."""
        if (backend := self._open.get(number)) is not None:
            backend.feed(data)
            self._unflushed.append(backend)

    def end_feed(self, number: int, error: str | None) -> None:
        """End the data of the backend's COPY."""
        if (backend := self._open.get(number)) is not None:
            backend.wire.end_feed(error)
            self._unflushed.append(backend)

    def hold(self, number: int, is_held: bool) -> None:
        """Read nothing more from the backend, or read again."""
        if (backend := self._open.get(number)) is not None:
            if is_held:
                backend.pause(Unread.HELD)
            else:
                backend.resume(Unread.HELD)

    def flush(self) -> None:
        """Send what the turn has given to backends."""
        for backend in self._unflushed:
            backend.flush()
        self._unflushed.clear()

    def cancel(self, number: int) -> None:
        """Cancel what the backend runs."""
        if (backend := self._open.get(number)) is not None:
            backend.begin_cancel(self._threads)

    def look(self, number: int) -> None:
        """Ask by another connection what the server does for the backend; the core gets an answer in any case."""
        if (backend := self._open.get(number)) is not None and number not in self._looking:
            config, learned = self._config.endpoints.get(backend.endpoint), self._learned[backend.endpoint]
            self._looking[number] = asyncio.get_running_loop().create_task(self._look(backend, config, learned))

    def lendable(self, number: int) -> tuple[int, Wire] | None:
        """Return what the lane needs of the backend: its descriptor and its wire; None if it cannot have it now."""
        backend = self._open.get(number)
        if backend is None or not backend.is_at_rest:
            return None
        return backend.descriptor, backend.wire

    def close(self, number: int, reason: str, is_cancelled: bool = False) -> None:
        """Close a backend, open or still opening; if is_cancelled when what it runs has been cancelled."""
        task = self._opening.pop(number, None)
        if task is not None:
            task.cancel()
        backend = self._open.pop(number, None)
        if backend is not None:
            log.debug("backend closed number=%d reason=%s", number, reason)
            self._finished(backend)
            if is_cancelled:
                leaving = asyncio.get_running_loop().create_task(backend.cut_off(self._threads))
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)
            else:
                backend.close()

    async def finish(self) -> None:
        """Wait until what runs on the backends that were closed is cancelled; for a second at most."""
        if self._leaving:
            await asyncio.wait(self._leaving)

    def reconfigured(self, before: Config, renewed: Collection[str]) -> None:
        """Forget what was learned of endpoints that are others than before; renewed are those with other files."""
        changed = changed_endpoints(before, self._config, renewed)
        for name in [each for each in self._learned if each in changed]:
            del self._learned[name]

    def close_all(self) -> None:
        """Close every backend; for the end of the broker."""
        for number in [*self._opening, *self._open]:
            self.close(number, "the broker stops")
        for task in (*self._looking.values(), *self._leaving):
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _open_backend(
        self, number: int, group: GroupConfig, config: EndpointConfig, learned: connecting.Learned, endpoint: str
    ) -> None:
        try:
            connection, server = await connecting.connect(config, group, learned)
            backend = BackendConnection(number, connection, self._config, group.read_only, self, endpoint)
        except (psycopg2.Error, OSError, UnicodeError, libpq.LibpqError) as error:
            log.warning("connect failed endpoint=%s error=%s", endpoint, one_line(error))
            self._opening.pop(number, None)
            self._broker.connect_failed(number, one_line(error), monotonic())
            self._wake()
        else:
            del self._opening[number]
            self._open[number] = backend
            log.debug("backend opened number=%d endpoint=%s", number, endpoint)
            self.opened(number, server)

    async def _look(
        self, backend: BackendConnection, config: EndpointConfig | None, learned: connecting.Learned
    ) -> None:
        """config is None if a reload has removed the backend's endpoint: then nobody can be asked there."""
        try:
            doing = Doing.IDLE if config is None else await connecting.doing(config, learned, backend.pid)
            is_at_work = doing is Doing.WORKING or (doing is Doing.WAITING and backend.is_heard())
        except (psycopg2.Error, OSError, UnicodeError) as error:
            log.warning("look failed endpoint=%s error=%s", backend.endpoint, one_line(error))
            is_at_work = False
        finally:
            self._looking.pop(backend.number, None)
        self._broker.looked(backend.number, is_at_work, monotonic())
        self._wake()

    # Facts, from the lane.

    def lent_back(self, number: int) -> None:
        """Tell the core that the lane has given back a backend that runs nothing."""
        self._broker.lent_back(number, monotonic())
        self._wake()

    def handed_over(self, number: int, unread: bytes, unsent: bytes, untouched: int) -> None:
        """Take back a backend with all that it runs.

        unread is what came and was not taken; unsent is what the socket did not take, and untouched how many of the
        last units are wholly in it.
        """
        backend = self._open[number]
        units = self._broker.handed_over(number, monotonic())
        if backend.take_over(units, unsent, untouched) and unread:
            backend.take(unread)
        self._wake()

    def queued(self, flights: Sequence[Flight]) -> None:
        """Tell the core that requests of the lane wait for too long."""
        self._broker.queued(flights, monotonic())
        self._wake()

    def waits(self, group: Group) -> None:
        """Tell the core that a request of the lane's begins to wait."""
        self._broker.waits(group, monotonic())
        self._wake()

    # Facts, from the backends.

    def opened(self, number: int, server: Server) -> None:
        """Tell the core that the backend is ready."""
        self._broker.opened(number, monotonic(), server)
        self._wake()

    def received(self, backend: BackendConnection, data: bytes) -> None:
        """Take bytes from the server, and tell the core of the units that ended with them; raises WireError."""
        broker, number = self._broker, backend.number
        try:
            backend.wire.received(data)
        finally:
            completions = backend.wire.completed  # also if it raises: these had ended before
            is_copying = backend.wire.copies.has_news
            if is_copying:
                completions = self._pass_on(backend, completions)
            if completions:
                if backend.unfinished:
                    self._finished(backend)
                    backend.wire.completed = []  # so that a large result is not kept any longer
                now = monotonic()
                behind = len(completions)
                for done in completions:
                    done.behind = behind = behind - 1
                    broker.completed(number, done, now)
                self._wake()
            elif not is_copying:
                self._goes_on(backend, len(data))

    def _pass_on(self, backend: BackendConnection, completions: list[Completion]) -> list[Completion]:
        """Tell the core of the data of a COPY, and of the units that ended before it; return the others."""
        broker, number, copies, now = self._broker, backend.number, backend.wire.copies, monotonic()
        for done in completions[: copies.behind]:
            broker.completed(number, done, now)
        is_begun, data = copies.take()
        if is_begun:
            broker.copying.begun(number, now)
        if data:
            broker.copying.came(number, data, now)
        self._wake()
        return completions[copies.behind :]

    def fed(self, number: int, size: int) -> None:
        """Tell the core that so many bytes of a COPY's data are on their way to the server."""
        self._broker.copying.fed(number, size, monotonic())
        self._wake()

    def _goes_on(self, backend: BackendConnection, size: int) -> None:
        """Count bytes of a result that is not whole yet; if all together are too large, only the largest goes on."""
        backend.unfinished += size
        self._unfinished += size
        if self._unfinished > UNFINISHED_RESULTS * self._config.broker.max_buffered_bytes:
            largest = max(self._open.values(), key=lambda each: each.unfinished)
            if backend is not largest and backend.number in self._open:
                self._waiting[backend.number] = backend
                backend.pause(Unread.UNFINISHED)

    def _finished(self, backend: BackendConnection) -> None:
        """Take note that the backend's result is whole, or lost, and read again from those that wait."""
        self._unfinished -= backend.unfinished
        backend.unfinished = 0
        self._waiting.pop(backend.number, None)
        waiting, self._waiting = self._waiting, {}
        for each in waiting.values():
            each.resume(Unread.UNFINISHED)

    def cancelled(self, number: int) -> None:
        """Tell the core that a cancel is settled."""
        self._broker.cancelled(number, monotonic())
        self._wake()

    def lost(self, backend: BackendConnection, error: str) -> None:
        """Close a connection that is gone, and tell the core."""
        if self._open.pop(backend.number, None) is None:
            return
        backend.close()
        self._finished(backend)
        wire = backend.wire
        last = wire.last_failure()
        self._broker.lost(backend.number, Loss(wire.fatal or error, backend.unsent, wire.partial(), last), monotonic())
        self._wake()
