"""A socket with CURVE: to its channel a plain one, behind it libzmq, which encrypts.

libzmq speaks all of ZMTP by itself and takes and gives messages; a channel knows ZMTP's frames. So what goes in and out
here are the frames that a connection without encryption would carry after its handshake.

Facts about libzmq that shape it:
- A refused handshake looks like silence: libzmq tries again for ever. Only the socket's monitor tells, so it is asked
  as well. http://api.zeromq.org/master:zmq-socket-monitor
- A connection that was lost is made anew unseen, and the broker would not know who it is. So the next attempt is put
  off beyond the socket's life; a channel connects once.
- Nothing of libzmq may be touched in the child of a fork: its threads stayed with the parent. The child leaves it all
  as it is, and closes only its copy of the connection's descriptor.
"""

import itertools
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

import zmq

from client.channels import timeouts
from client.errors import UsageError, connection_error
from client.interruptions import is_own, suppressed
from client.wire.keyfiles import Keys
from client.wire.messages import NOT_EXECUTED
from client.wire.zmtp import command, frame

# When libzmq would connect again: six days, when the channel has long noticed. It adds up to as much at random, in 32
# bits.
_NEVER_MS = 2**29
_REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH
_OTHERWISE_FAILED = (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
_ENDS = (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED, zmq.EVENT_CONNECT_RETRIED)
_WATCHED = (
    zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | _REFUSED
    | _OTHERWISE_FAILED[0] | _OTHERWISE_FAILED[1] | _ENDS[0] | _ENDS[1] | _ENDS[2]
)  # fmt: skip
_COMMAND, _LONG_HEAD, _SHORT_HEAD = 4, 9, 2
_PONG = command(b"PONG", b"")

# Each connection takes three of libzmq's sockets, and each thread of a program has one: so many are 5,000 threads.
_MAX_SOCKETS = 16384

# libzmq's threads of this process: started with the first connection, for all of them.
_context: "_Context | None" = None
_lock = threading.Lock()
# For the names of monitors.
_numbers = itertools.count(1)
# What a parent had, kept so that nobody deletes it here.
_inherited: list[object] = []


class _Socket(zmq.Socket[bytes]):
    """One of libzmq's sockets. Its owner closes it; in the child of a fork, and when the program ends, nobody does."""

    def __del__(self) -> None:
        """pyzmq would warn."""


class _Context(zmq.Context["zmq.Socket[bytes]"]):
    """libzmq's threads of a process. They end with it; nobody waits for them.

    pyzmq would, where the interpreter deletes its modules in another order than it expects, and for ever if a program
    leaves a connection open.
    """

    def __del__(self) -> None:
        """Nothing."""


class CurveSocket:
    """A connection to the broker at address, encrypted, both sides known to each other.

    numeric is the address with its host as a number. Raises OSError where nobody can be reached, and DBConnectionError
    where the handshake fails.
    """

    def __init__(self, address: str, numeric: str, keys: Keys) -> None:
        self._address = address
        self._pid = os.getpid()
        self._timeout_ms = int(timeouts.PING_AFTER * 1000)
        self._has_ended = False
        self._is_closed = False
        self._is_asked = False  # with a PING that has no answer yet
        self._has_head = False  # of the message that comes next
        self._descriptor = -1
        self._ends: tuple[object, object] | None = None  # the names of the descriptor's two ends
        if not zmq.has("curve"):
            raise UsageError(
                f"this libzmq ({zmq.zmq_version()}) was built without CURVE, so keys cannot be used; install pyzmq "
                "from its wheels"
            )
        context = _own_context()
        self._dealer = context.socket(zmq.DEALER, _Socket)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.IPV6, 1),
            # A channel has one request at a time; what it may send is bounded by the broker's limits.
            (zmq.SNDHWM, 0),
            (zmq.RCVHWM, 0),
            (zmq.RECONNECT_IVL, _NEVER_MS),
            # The silence of a broker that hangs, as a channel knows it.
            (zmq.HEARTBEAT_IVL, int(timeouts.PING_AFTER * 1000)),
            (zmq.HEARTBEAT_TIMEOUT, int((timeouts.GONE_AFTER - timeouts.PING_AFTER) * 1000)),
            (zmq.HANDSHAKE_IVL, int(timeouts.WELCOME_TIMEOUT * 1000)),
            (zmq.TCP_KEEPALIVE, 1),
        ):
            self._dealer.setsockopt(option, value)
        self._dealer.curve_serverkey = keys.server.encode()
        self._dealer.curve_secretkey = keys.secret.encode()
        self._dealer.curve_publickey = zmq.curve_public(keys.secret.encode())
        self._monitor = context.socket(zmq.PAIR, _Socket)
        try:
            watch = f"inproc://poold-{next(_numbers)}"
            self._dealer.monitor(watch, _WATCHED)
            self._monitor.connect(watch)
            self._dealer.connect(numeric)
            self._connect()
            self._shake_hands()
        except BaseException:
            self.close()
            raise
        self._ends = _names_of(self._descriptor)

    def wait_at_most(self, seconds: float) -> None:
        """How long recv waits from here on before it raises BlockingIOError."""
        self._timeout_ms = max(1, int(seconds * 1000))

    def recv(self, _size: int, flags: int = 0) -> bytes:
        """The next message as one frame, b"" at the end; BlockingIOError where none comes in time."""
        if self._is_closed:
            return b""
        timeout_ms = 0 if flags & socket.MSG_DONTWAIT else self._timeout_ms
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            # Its end is told before the messages are asked for: what came before it is there by then.
            self._read_monitor()
            try:
                return frame(self._dealer.recv(zmq.NOBLOCK))
            except zmq.Again as error:
                if not is_own(error):
                    raise
                if self._has_ended:
                    return b""
            if self._is_asked:
                # libzmq asks the broker by itself, and ends the connection where there is no answer.
                self._is_asked = False
                return _PONG
            left_ms = max(0, int((deadline - time.monotonic()) * 1000))
            if not zmq.zmq_poll([(self._dealer, zmq.POLLIN), (self._monitor, zmq.POLLIN)], left_ms):
                raise BlockingIOError

    def sendall(self, data: bytes | bytearray, flags: int = 0) -> None:
        """Send the message in one frame; raises OSError where the connection has ended.

        With MSG_MORE it is the frame's head, and the message comes with the next call.
        """
        self._read_monitor()
        if self._has_ended:
            raise ConnectionResetError("the connection has ended")
        if not self._has_head and data[0] & _COMMAND:
            self._is_asked = True
            return
        head = 0 if self._has_head else _SHORT_HEAD if data[0] == 0 else _LONG_HEAD
        self._has_head = bool(flags & socket.MSG_MORE)
        if self._has_head:
            return
        try:
            self._dealer.send(bytes(memoryview(data)[head:]), zmq.NOBLOCK, copy=False)
        except zmq.ZMQError as error:
            if not is_own(error):
                raise
            raise ConnectionResetError(str(error)) from None

    def send_by(self, data: bytes, deadline: float) -> None:
        """The same; it never waits."""
        self.sendall(data)

    def fileno(self) -> int:
        """The connection's descriptor."""
        return self._descriptor

    def close(self) -> None:
        """End the connection; in the child of a fork let only go of it."""
        if self._is_closed:
            return
        self._is_closed = self._has_ended = True
        if self._pid == os.getpid():
            self._dealer.monitor(None, 0)
            self._monitor.close(linger=0)
            self._dealer.close(linger=0)
            return
        # The number may be somebody else's: libzmq may have closed the connection before the fork.
        if self._ends is not None and _names_of(self._descriptor) == self._ends:
            os.close(self._descriptor)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # By an argument: the module's own names may be gone by then.
        if hasattr(self, "_monitor") and not is_finalizing():
            self.close()

    def _connect(self) -> None:
        """Wait until the broker's host has taken the connection."""
        event = self._next_event(time.monotonic() + timeouts.CONNECT_TIMEOUT)
        if event is None:
            raise TimeoutError("timed out")
        kind, self._descriptor = event
        if kind != zmq.EVENT_CONNECTED:
            raise ConnectionRefusedError

    def _shake_hands(self) -> None:
        """Wait until both sides have accepted each other's keys."""
        event = self._next_event(time.monotonic() + timeouts.WELCOME_TIMEOUT)
        if event is None:
            self._failed(
                f"something listens there but did not answer the handshake within {timeouts.WELCOME_TIMEOUT:g} s; "
                "check the address, and whether the broker has keys (key_file)"
            )
        elif event[0] == _REFUSED:
            self._failed(
                "the broker refused this client's key; put its public key (NAME.key) into the broker's client_keys"
            )
        elif event[0] != zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._failed(
                "it ended the handshake; either the server key is not this broker's (take NAME.key that was made with "
                "its key_file), or it has no keys, or it is no poold broker"
            )

    def _failed(self, why: str) -> NoReturn:
        raise connection_error(f"no encrypted connection to {self._address}: {why}", NOT_EXECUTED)

    def _next_event(self, deadline: float) -> tuple[int, int] | None:
        """What the monitor tells next, and its value; None at the deadline."""
        left_ms = max(0, int((deadline - time.monotonic()) * 1000))
        if not self._monitor.poll(left_ms):
            return None
        told, _address = self._monitor.recv_multipart()
        # A 16-bit event and a 32-bit value.
        kind, value = struct.unpack("=hi", told)
        return int(kind), int(value)

    def _read_monitor(self) -> None:
        """Learn whether the connection has ended: nothing else happens after the handshake."""
        while not self._has_ended and self._next_event(0) is not None:
            self._has_ended = True


def _own_context() -> _Context:
    global _context  # of the process by nature
    with _lock:
        if _context is None:
            _context = _Context(io_threads=1)
            _context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
        return _context


def _names_of(descriptor: int) -> tuple[object, object] | None:
    """The names of a socket's two ends; None where it is none."""
    with suppressed(OSError):
        looked_at = socket.socket(fileno=descriptor)
        try:
            return looked_at.getsockname(), looked_at.getpeername()
        finally:
            looked_at.detach()
    return None


def _after_fork_in_child() -> None:
    """Begin anew; another thread of the parent may have held the lock."""
    global _context, _lock
    _inherited.append(_context)
    _context, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
