"""One open connection to PostgreSQL on the loop: bytes to the wire and from it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from concurrent.futures import ThreadPoolExecutor
from enum import IntFlag
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg2

from poold.config.current import CurrentConfig
from poold.core.effects import Unit
from poold.postgres import libpq
from poold.postgres.errors import WireError
from poold.postgres.parameter_status import ParameterStatus
from poold.postgres.wire import Wire

if TYPE_CHECKING:
    from poold.postgres.backends import Backends

log = logging.getLogger(__name__)

# Seconds for which the end of what is cut off is waited for, and after which its cancel is repeated: PostgreSQL ignores
# one that comes before its statement.
CUT_OFF = 1.0
CUT_OFF_AGAIN = 0.05

# Above glibc's mmap threshold of 128 KiB each receive would map and unmap its memory, which costs ten times the call.
RECEIVE_BYTES = 65536


class Unread(IntFlag):
    """Why nothing is read from a connection for now."""

    UNFINISHED = 1  # all results that are not whole are too large together
    HELD = 2  # the client of its COPY has not taken what was sent


class BackendConnection:
    """One open connection to PostgreSQL."""

    def __init__(
        self,
        number: int,
        connection: Any,
        config: CurrentConfig,
        is_read_only: bool,
        owner: Backends,
        endpoint: str = "",
    ) -> None:
        self.number = number
        self.endpoint = endpoint
        self.pid = int(connection.get_backend_pid())
        reported = ParameterStatus(connection.get_parameter_status, is_read_only)
        prefix = b"poold_%b_" % secrets.token_hex(8).encode()
        self.wire = Wire(config.broker.max_result_bytes, reported, prefix)
        # Units of which nothing has been sent: those in the wire's outbox, and those in data not yet begun to be sent.
        self.waiting = 0
        self._untouched = 0
        self.unfinished = 0  # bytes of a result that is not whole
        self._pauses = Unread(0)
        self._feeding = 0  # bytes of a COPY's data that the socket has not taken yet
        # Bytes that have passed in both directions, and how many when it was last asked whether any do.
        self._passed, self._passed_then = 0, -1
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
    def descriptor(self) -> int:
        """The connection's descriptor."""
        return self._descriptor

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is on its way in either direction, on a connection without encryption."""
        return self.wire.is_at_rest and not self._remainder and type(self._socket) is socket.socket

    def take_over(self, units: list[Unit], unsent: bytes, untouched: int) -> bool:
        """Go on with units that were sent but for the bytes unsent, in which the last untouched ones are wholly.

        Returns False if the connection turns out to be lost.
        """
        self.wire.units.extend(units)
        self._untouched = untouched
        return not unsent or self._send(unsent)

    @property
    def unsent(self) -> int:
        """How many of the last units have certainly not reached the server."""
        return self._untouched + self.waiting

    def feed(self, data: bytes) -> None:
        """Give the server the next piece of a COPY's data; the next flush sends it."""
        if self.wire.feed(data):
            self._feeding += len(data)

    def is_heard(self) -> bool:
        """Whether the server, which waits for this side, may be heard: bytes have passed since this was last asked.

        True as well while nothing need pass: while nothing is read, or a COPY's data has not come.
        """
        need_none = bool(self._pauses) or (self.wire.copies.is_feeding and not self._feeding)
        before, self._passed_then = self._passed_then, -1 if need_none else self._passed
        return need_none or before < self._passed

    def flush(self) -> None:
        """Send as much of the wire's outbox as the socket takes now; do nothing while it has not taken earlier data."""
        outbox = self.wire.outbox
        if not outbox or self._remainder:
            return
        data = outbox[0] if len(outbox) == 1 else b"".join(outbox)
        outbox.clear()
        self._untouched, self.waiting = self.waiting, 0
        self._send(data)

    def _send(self, data: bytes | memoryview) -> bool:
        """Send as much as the socket takes now; False if the connection is lost."""
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._last_words()
            self._owner.lost(self, one_line(error))
            return False
        if sent:
            self._untouched = 0
            self._passed += sent
        # A view and no copy: of a large request the socket takes a hundredth at a time.
        self._remainder = memoryview(data)[sent:] if sent < len(data) else b""
        if self._feeding and sent:
            fed = min(self._feeding, sent)  # what else was sent is headers, and is not worth a closer look
            self._feeding -= fed
            self._owner.fed(self.number, fed)
        if bool(self._remainder) is not self._is_writing:
            self._is_writing = not self._is_writing
            if self._is_writing:
                self._poller.add_writer(self._descriptor, self._writable)
            else:
                self._poller.remove_writer(self._descriptor)
        return True

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
            self._passed += len(data)
            if not self.take(data):
                return
            if not (isinstance(self._socket, libpq.EncryptedSocket) and self._socket.pending()):
                break  # the poller tells when more has come, except for what OpenSSL's buffer holds
        if self.wire.outbox:
            self.flush()

    def take(self, data: bytes) -> bool:
        """Take bytes from the server; False if the connection is lost for what they are."""
        try:
            self._owner.received(self, data)
        except WireError as error:
            self._owner.lost(self, one_line(error))
            return False
        return True

    def _last_words(self) -> None:
        """Read what the server sent before it closed the connection: it may say why."""
        try:
            while data := self._socket.recv(RECEIVE_BYTES):
                self._owner.received(self, data)
        except (OSError, WireError):
            pass  # nothing more can be read

    def pause(self, why: Unread) -> None:
        """Read nothing more for now."""
        if not self._pauses:
            self._poller.remove_reader(self._descriptor)
        self._pauses |= why

    def resume(self, why: Unread) -> None:
        """Read again, unless there is another reason not to."""
        before, self._pauses = self._pauses, self._pauses & ~why
        if before and not self._pauses:
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

    async def cut_off(self, threads: ThreadPoolExecutor) -> None:
        """Cancel what runs, and close the connection when the server has said something, or after CUT_OFF seconds."""
        heard = asyncio.get_running_loop().create_future()
        self._ignore()
        self.wire.outbox.clear()
        try:
            async with asyncio.timeout(CUT_OFF):
                while not heard.done():
                    await libpq.cancel(self._connection, threads)
                    self._poller.add_reader(self._descriptor, partial(_settle, heard))
                    await asyncio.wait([heard], timeout=CUT_OFF_AGAIN)
        except (TimeoutError, libpq.LibpqError, psycopg2.Error, OSError) as error:
            log.warning("cut off without a cancel backend=%d error=%s", self.number, one_line(error))
        finally:
            self.close()

    def _ignore(self) -> None:
        """Read and write nothing any more; what was not sent as a whole is not run."""
        self._poller.remove_reader(self._descriptor)
        if self._is_writing:
            self._is_writing = False
            self._poller.remove_writer(self._descriptor)

    def close(self) -> None:
        """Close the connection.

        Also end a cancel: it has a connection of its own, which a server that does not answer would keep open for ever.
        """
        if self._cancelling is not None:
            self._cancelling.cancel()
        self._ignore()
        self._socket.detach()
        self._connection.close()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def one_line(error: BaseException) -> str:
    """The error's text on one line, for logs and for `poold stats`."""
    return " ".join(str(error).split()) or type(error).__name__
