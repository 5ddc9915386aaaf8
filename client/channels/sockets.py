"""The sockets that channels use, and how one is connected.

A plain one carries ZMTP as it is. With keys it is a `client.channels.curve.CurveSocket`, which looks the same to a
channel. If gevent or eventlet has put its own class in the place of `socket.socket`, a plain one is of that class,
so that other greenlets run while this one waits.
"""

from __future__ import annotations

import _socket
import array
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from client.channels.attempts import Attempts
from client.channels.timeouts import CONNECT_TIMEOUT, GONE_AFTER
from client.errors import connection_error
from client.interruptions import imported_whole, is_own
from client.wire.address import folder_trap, ipc_path, runtime_dir
from client.wire.keyfiles import Keys
from client.wire.messages import NOT_EXECUTED

if TYPE_CHECKING:
    from client.channels.curve import CurveSocket

# Bound here, because gevent and eventlet may take it away later. Under eventlet it is missing from the beginning, and a
# GreenSocket is used, which does not need it.
_poll: Any = getattr(select, "poll", None)
# BlockingIOError is a broker whose backlog is full for the moment.
_NOBODY_THERE = (ConnectionRefusedError, FileNotFoundError, BlockingIOError)
# Bytes of a descriptor that comes along with data, and what has to be there for it.
_ROOM_SIZE = array.array("i").itemsize
_ROOM = socket.CMSG_SPACE(_ROOM_SIZE)


class Greeted(socket.socket):
    """A socket on which a descriptor may come along with Welcome."""

    descriptor: int | None = None  # what came, until somebody takes it
    is_greeting = False  # whether one may come

    def kept(self, received: tuple[bytes, list[tuple[int, int, bytes]], int, Any]) -> bytes:
        """Return the data that was received, and keep the descriptor that came along."""
        data, along, _, _ = received
        for level, kind, packed in along:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                for each in array.array("i", packed[: len(packed) // _ROOM_SIZE * _ROOM_SIZE]):
                    if self.descriptor is not None:
                        os.close(self.descriptor)
                    self.descriptor = each
        return data

    def greeted(self) -> int | None:
        """Take what came along; nothing does from here on."""
        self.is_greeting = False
        descriptor, self.descriptor = self.descriptor, None
        return descriptor


class PlainSocket(Greeted):
    """A blocking socket.

    A thread that waits in recv on a unix socket is woken twice per request: also when the peer reads what was sent, as
    the kernel tells all who sleep on a socket that there is room for writing. One that waits in poll is woken once.
    """

    def __init__(self, family: int) -> None:
        super().__init__(family)
        poller = _poll()
        poller.register(self.fileno(), select.POLLIN)
        self._wait_ms: Callable[[float], list[Any]] = poller.poll
        self.is_greeting = family == socket.AF_UNIX

    def receive(self, size: int, seconds: float) -> bytes:
        """Return what comes first, at most size bytes, b"" at the end; raises BlockingIOError if nothing comes in time.

        seconds may be 0.
        """
        if not self._wait_ms(seconds * 1000):
            raise BlockingIOError
        if self.is_greeting:
            return self.kept(self.recvmsg(size, _ROOM, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC))
        return self.recv(size, socket.MSG_DONTWAIT)

    def send_by(self, data: bytes, deadline: float) -> None:
        """Send all of data; raises BlockingIOError if the peer has not taken it by the deadline."""
        unsent = memoryview(data)
        while unsent:
            try:
                unsent = unsent[self.send(unsent, socket.MSG_DONTWAIT) :]
            except BlockingIOError as error:
                if not is_own(error):
                    raise
                _wait_for_room(self, deadline)

    # Sockets are closed by being deleted, as a Handler has no close(); Python's own __del__ would warn of that. This
    # one is in C, so no signal handler's exception can arise in it, where it would be lost.
    __del__ = _socket.socket.close


class GreenSocket(Greeted):
    """A blocking socket of gevent's or eventlet's class, which waits in its hub.

    That class knows neither SO_SNDTIMEO nor MSG_DONTWAIT; its own timeout ends a wait. Eventlet's does not receive
    descriptors.
    """

    def __init__(self, family: int) -> None:
        super().__init__(family)
        self.is_greeting = family == socket.AF_UNIX and hasattr(socket.socket, "recvmsg")

    def receive(self, size: int, seconds: float) -> bytes:
        """Return what comes first, at most size bytes, b"" at the end; raises BlockingIOError if nothing comes in time.

        seconds may be 0.
        """
        if self.is_greeting:
            return self.kept(self._within(seconds, super().recvmsg, size, _ROOM, socket.MSG_CMSG_CLOEXEC))
        return self._within(seconds, super().recv, size)  # type: ignore[no-any-return]  # recv gives bytes

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send as a blocking socket would with GONE_AFTER as its SO_SNDTIMEO."""
        at_most = 0.0 if flags & socket.MSG_DONTWAIT else GONE_AFTER
        self._within(at_most, super().sendall, data, flags & ~socket.MSG_DONTWAIT)

    def send_by(self, data: bytes, deadline: float) -> None:
        """Send all of data; raises BlockingIOError if the peer has not taken it by the deadline."""
        self._within(max(0.001, deadline - time.monotonic()), super().sendall, data)

    def _within(self, seconds: float, work: Any, *arguments: Any) -> Any:
        before = self.gettimeout()
        self.settimeout(seconds)
        try:
            return work(*arguments)
        except TimeoutError as error:
            if not is_own(error):
                raise
            raise BlockingIOError(error.errno, "timed out") from None
        finally:
            self.settimeout(before)

    def __del__(self) -> None:
        self.close()


# Chosen by the class that is in place when this module is imported: gevent's patching has to come first in a program.
_SOCKET: type[Any] = PlainSocket if issubclass(socket.socket, _socket.socket) else GreenSocket


def is_over(descriptor: int) -> bool:
    """Whether one side of this socket has closed it; reads nothing, so any thread may ask. False if nobody can tell."""
    if _poll is None:
        return False
    if descriptor < 0:
        return True
    poller = _poll()
    poller.register(descriptor, select.POLLRDHUP)
    return bool(poller.poll(0))


def _wait_for_room(plain: PlainSocket, deadline: float) -> None:
    """Wait until the peer takes more."""
    left_ms = int((deadline - time.monotonic()) * 1000) + 1
    poller = _poll()
    poller.register(plain, select.POLLOUT)
    if left_ms <= 0 or not poller.poll(left_ms):
        raise BlockingIOError


def connected(
    address: str, keys: Keys | None = None, wait: float = CONNECT_TIMEOUT
) -> PlainSocket | GreenSocket | CurveSocket:
    """Return a socket connected to address; if nobody listens, try again for so many seconds.

    Raises DBConnectionError if no connection comes about.
    """
    attempts = Attempts(wait)
    while True:
        try:
            return _plain(address) if keys is None else _encrypted(address, keys)
        except OSError as error:
            if not is_own(error):
                raise
            path = ipc_path(address)
            other = None if path is None else imported_whole("client.channels.permissions").occupant(path)
            if other is not None:
                raise connection_error(f"not connected to {address}: {other}", NOT_EXECUTED) from None
            if isinstance(error, _NOBODY_THERE) and attempts.another():
                continue
            if path is not None and isinstance(error, PermissionError):
                explained: str = imported_whole("client.channels.permissions").refusal(path)
                raise connection_error(f"not connected to {address}: {explained}", NOT_EXECUTED, True) from None
            # That nobody listens is the usual reason and needs no words; a name that nobody knows, say, does.
            why = "" if isinstance(error, _NOBODY_THERE) else f" ({error.strerror or error})"
            raise connection_error(
                f"no poold broker answers at {address}{why}; start one there with: poold start --address {address}",
                NOT_EXECUTED,
            ) from None


def _plain(address: str) -> PlainSocket | GreenSocket:
    path = ipc_path(address)
    if path is not None and path.parent == runtime_dir() and (trap := folder_trap(path.parent)) is not None:
        raise connection_error(f"not connected to {address}: {trap}", NOT_EXECUTED)
    made: PlainSocket | GreenSocket = _SOCKET(_family(address) if path is None else socket.AF_UNIX)
    try:
        if path is None:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.settimeout(CONNECT_TIMEOUT)
        made.connect(_host_and_port(address) if path is None else str(path))
        made.setblocking(True)
        # A broker that reads nothing for so long hangs.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(GONE_AFTER))
    except BaseException:
        made.close()
        raise
    return made


def _encrypted(address: str, keys: Keys) -> CurveSocket:
    # Imported only here, because libzmq is a heavy import and has threads of its own.
    made: type[CurveSocket] = imported_whole("client.channels.curve").CurveSocket
    # Looked up here: libzmq would look up a name in a thread of its own, and not report its failure.
    host, port = _host_and_port(address)
    found = socket.getaddrinfo(host, port, _family(address), socket.SOCK_STREAM)[0][4]
    numeric = f"tcp://[{found[0]}]:{port}" if "[" in address else f"tcp://{found[0]}:{port}"
    return made(address, numeric, keys)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if "[" in address else socket.AF_INET


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host.strip("[]"), int(port)


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
