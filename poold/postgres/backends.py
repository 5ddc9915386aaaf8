"""Backends: PostgreSQL connections on the event loop.

Effects of the core come in as method calls, facts go back to it. On the hot path, Execute and its completion, there is
no coroutine, no task and no thread: units are collected, each backend is written to once per turn, its descriptor
becomes readable, and the received bytes are cut into completions by `poold.postgres.wire`. Opening a backend and
cancelling on one are coroutines.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import psycopg2

from poold.config.model import Config
from poold.core.broker import Broker
from poold.core.effects import Unit
from poold.core.facts import Loss, Server
from poold.postgres import connect as connecting
from poold.postgres import libpq
from poold.postgres.errors import WireError
from poold.postgres.parameter_status import ParameterStatus
from poold.postgres.wire import Wire
from poold.system.poller import Poller

log = logging.getLogger(__name__)

# Above glibc's mmap threshold of 128 KiB each receive would map and unmap its memory, which costs ten times the call.
RECEIVE_BYTES = 65536
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

    def __init__(self, config: Config, broker: Broker, wake: Callable[[], None], poller: Poller) -> None:
        """wake is called after each fact given to broker: there may be effects to take."""
        self._config = config
        self._broker = broker
        self._wake = wake
        self.poller = poller
        self._open: dict[int, BackendConnection] = {}
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._looking: dict[int, asyncio.Task[None]] = {}  # questions about backends, until answered
        self._learned = {name: connecting.Learned() for name in config.endpoints}
        # Backends that were given units in this turn: enter by execute, leave by flush.
        self._unflushed: list[BackendConnection] = []
        # Bytes of results that are not whole, and the backends that are not read from until there are fewer: enter when
        # there are too many, leave when any such result is whole, or its backend is gone.
        self._unfinished = 0
        self._most_unfinished = int(UNFINISHED_RESULTS * config.broker.max_buffered_bytes)
        self._waiting: dict[int, BackendConnection] = {}
        self._threads = ThreadPoolExecutor(CANCEL_THREADS, thread_name_prefix="cancel")

    def connect(self, number: int, group: str, endpoint: str) -> None:
        """Begin to open a backend."""
        opening = self._open_backend(number, group, endpoint)
        self._opening[number] = asyncio.get_running_loop().create_task(opening)

    def execute(self, number: int, unit: Unit) -> None:
        """Run a unit; it is sent by the next flush."""
        backend = self._open.get(number)
        if backend is not None:
            if not backend.waiting:
                self._unflushed.append(backend)
            backend.waiting += 1
            backend.wire.send(unit)

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
            self._looking[number] = asyncio.get_running_loop().create_task(self._look(backend))

    def close(self, number: int, reason: str) -> None:
        """Close a backend, open or still opening."""
        task = self._opening.pop(number, None)
        if task is not None:
            task.cancel()
        backend = self._open.pop(number, None)
        if backend is not None:
            log.debug("backend closed number=%d reason=%s", number, reason)
            backend.close()
            self._finished(backend)

    def close_all(self) -> None:
        """Close every backend; for the end of the broker."""
        for number in [*self._opening, *self._open]:
            self.close(number, "the broker stops")
        for task in self._looking.values():
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _open_backend(self, number: int, group: str, endpoint: str) -> None:
        try:
            connection, server = await connecting.connect(
                self._config.endpoints[endpoint], self._config.groups[group], self._learned[endpoint]
            )
            backend = BackendConnection(number, connection, self._config, group, self, endpoint)
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

    async def _look(self, backend: BackendConnection) -> None:
        config, learned = self._config.endpoints[backend.endpoint], self._learned[backend.endpoint]
        try:
            is_at_work = await connecting.is_at_work(config, learned, backend.pid)
        except (psycopg2.Error, OSError, UnicodeError) as error:
            log.warning("look failed endpoint=%s error=%s", backend.endpoint, one_line(error))
            is_at_work = False
        finally:
            self._looking.pop(backend.number, None)
        self._broker.looked(backend.number, is_at_work, monotonic())
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
            if completions:
                if backend.unfinished:
                    self._finished(backend)
                    backend.wire.completed = []  # so that a large result is not kept any longer
                now = monotonic()
                for done in completions:
                    broker.completed(number, done, now)
                self._wake()
            else:
                self._goes_on(backend, len(data))

    def _goes_on(self, backend: BackendConnection, size: int) -> None:
        """Count bytes of a result that is not whole yet; if all together are too large, only the largest goes on."""
        backend.unfinished += size
        self._unfinished += size
        if self._unfinished > self._most_unfinished:
            largest = max(self._open.values(), key=lambda each: each.unfinished)
            if backend is not largest and backend.number in self._open:
                self._waiting[backend.number] = backend
                backend.pause()

    def _finished(self, backend: BackendConnection) -> None:
        """Take note that the backend's result is whole, or lost, and read again from those that wait."""
        self._unfinished -= backend.unfinished
        backend.unfinished = 0
        self._waiting.pop(backend.number, None)
        waiting, self._waiting = self._waiting, {}
        for each in waiting.values():
            each.resume()

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


class BackendConnection:
    """One open connection to PostgreSQL."""

    def __init__(
        self, number: int, connection: Any, config: Config, group: str, owner: Backends, endpoint: str = ""
    ) -> None:
        self.number = number
        self.endpoint = endpoint
        self.pid = int(connection.get_backend_pid())
        reported = ParameterStatus(connection.get_parameter_status, config.groups[group].read_only)
        prefix = b"poold_%b_" % secrets.token_hex(8).encode()
        self.wire = Wire(config.broker.max_result_bytes, reported, prefix)
        # Units of which nothing has been sent: those in the wire's outbox, and those in data not yet begun to be sent.
        self.waiting = 0
        self._untouched = 0
        self.unfinished = 0  # bytes of a result that is not whole
        self._connection = connection
        self._owner = owner
        self._poller = owner.poller
        self._descriptor: int = connection.fileno()
        self._socket: socket.socket | libpq.EncryptedSocket
        if libpq.is_encrypted(connection):
            self._socket = libpq.EncryptedSocket(connection)
        else:
            self._socket = socket.socket(fileno=self._descriptor)
        self._remainder: bytes | memoryview = b""  # data that the socket did not take yet
        self._is_writing = False
        self._cancelling: asyncio.Task[None] | None = None  # the last cancel
        self._poller.add_reader(self._descriptor, self._readable)

    @property
    def unsent(self) -> int:
        """How many of the last units have certainly not reached the server."""
        return self._untouched + self.waiting

    def flush(self) -> None:
        """Send as much of the wire's outbox as the socket takes now; do nothing while it has not taken earlier data."""
        outbox = self.wire.outbox
        if not outbox or self._remainder:
            return
        data = outbox[0] if len(outbox) == 1 else b"".join(outbox)
        outbox.clear()
        self._untouched, self.waiting = self.waiting, 0
        self._send(data)

    def _send(self, data: bytes | memoryview) -> None:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._last_words()
            self._owner.lost(self, one_line(error))
            return
        if sent:
            self._untouched = 0
        # A view and no copy: of a large request the socket takes a hundredth at a time.
        self._remainder = memoryview(data)[sent:] if sent < len(data) else b""
        if bool(self._remainder) is not self._is_writing:
            self._is_writing = not self._is_writing
            if self._is_writing:
                self._poller.add_writer(self._descriptor, self._writable)
            else:
                self._poller.remove_writer(self._descriptor)

    def _writable(self) -> None:
        self._send(self._remainder)
        if not self._remainder:
            self.flush()

    def _readable(self) -> None:
        """The server sent something, or closed the connection."""
        while True:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                self._owner.lost(self, one_line(error))
                return
            if not data:
                self._owner.lost(self, "server closed the connection unexpectedly")
                return
            try:
                self._owner.received(self, data)
            except WireError as error:
                self._owner.lost(self, one_line(error))
                return
            if not (isinstance(self._socket, libpq.EncryptedSocket) and self._socket.pending()):
                break  # the poller tells when more has come, except for what OpenSSL's buffer holds
        if self.wire.outbox:
            self.flush()

    def _last_words(self) -> None:
        """Read what the server sent before it closed the connection: it may say why."""
        try:
            while data := self._socket.recv(RECEIVE_BYTES):
                self._owner.received(self, data)
        except (OSError, WireError):
            pass  # nothing more can be read

    def pause(self) -> None:
        """Read nothing more for now."""
        self._poller.remove_reader(self._descriptor)

    def resume(self) -> None:
        """Read again."""
        self._poller.add_reader(self._descriptor, self._readable)

    def begin_cancel(self, threads: ThreadPoolExecutor) -> None:
        """Cancel what the backend runs; the core asks for another cancel only when this one is settled."""
        self._cancelling = asyncio.get_running_loop().create_task(self._cancel(threads))

    async def _cancel(self, threads: ThreadPoolExecutor) -> None:
        """Ask the server to cancel; tell the core when the server has taken it, or it has failed."""
        try:
            await libpq.cancel(self._connection, threads)
        except (libpq.LibpqError, psycopg2.Error, OSError) as error:
            log.warning("cancel failed backend=%d error=%s", self.number, one_line(error))
        self._owner.cancelled(self.number)

    def close(self) -> None:
        """Close the connection.

        Also end a cancel: it has a connection of its own, which a server that does not answer would keep open for ever.
        """
        if self._cancelling is not None:
            self._cancelling.cancel()
        self._poller.remove_reader(self._descriptor)
        if self._is_writing:
            self._is_writing = False
            self._poller.remove_writer(self._descriptor)
        self._socket.detach()
        self._connection.close()


def one_line(error: BaseException) -> str:
    """The error's text on one line, for logs and for `poold stats`."""
    return " ".join(str(error).split()) or type(error).__name__
