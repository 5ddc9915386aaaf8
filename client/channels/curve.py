"""A socket encrypted by CURVE: its channel uses it like a plain one; behind it is libzmq, which encrypts.

libzmq speaks ZMTP by itself and takes and gives whole messages; a channel works with ZMTP's frames. So this socket
takes and gives the frames that a connection without encryption would carry after its handshake.

Facts about libzmq that shape this module:
- A refused handshake looks like silence: libzmq tries again for ever. Only the socket's monitor reports it, so the
  monitor is read as well. http://api.zeromq.org/master:zmq-socket-monitor
- libzmq silently replaces a connection that was lost, and the broker would not know whose the new one is. So the next
  attempt is put off beyond the socket's life; a channel connects once.
- libzmq waits for ever to report to a monitor that is closed already. So a monitor is closed after its socket has
  ended.
- Nothing of libzmq may be touched in the child of a fork: its threads stayed with the parent. The child leaves it all
  as it is, and closes only its copy of the connection's descriptor.
"""

import itertools
import os
import socket
import struct
import threading
import time
import weakref
from typing import NoReturn

import zmq

from client.channels import timeouts
from client.errors import UsageError, connection_error
from client.interruptions import is_own, suppressed
from client.wire.keyfiles import Keys
from client.wire.messages import NOT_EXECUTED
from client.wire.zmtp import command, frame

# The time before libzmq would connect again: six days, long after the channel has noticed the loss. libzmq adds up to
# as much at random, in 32 bits.
_NEVER_MS = 2**29
_REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH
_OTHERWISE_FAILED = (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
_ENDS = (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED, zmq.EVENT_CONNECT_RETRIED)
_WATCHED = (
    zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | _REFUSED
    | _OTHERWISE_FAILED[0] | _OTHERWISE_FAILED[1] | _ENDS[0] | _ENDS[1] | _ENDS[2] | zmq.EVENT_MONITOR_STOPPED
)  # fmt: skip
_COMMAND, _LONG_HEAD, _SHORT_HEAD = 4, 9, 2
_PONG = command(b"PONG", b"")

# Each connection takes three of libzmq's sockets, and each thread of a program has one: so many are 5,000 threads.
_MAX_SOCKETS = 16384

# libzmq's threads of this process: started with the first connection, for all of them.
_context: "_Context | None" = None
_lock = threading.Lock()
# Numbers that make the monitors' addresses unique.
_numbers = itertools.count(1)
# In the child of a fork: the parent's objects, kept so that Python never deletes them in this process.
_inherited: list[object] = []
# The monitors of all sockets: enter when made, leave when closed with their socket, or when `_sweep` finds that it has
# ended. The key is a weak reference to the socket, which appends itself to _gone when the socket is deleted. No Python
# code runs for that, because a signal handler's exception in it would be lost.
_monitors: "dict[weakref.ref[CurveSocket], _Socket]" = {}
_gone: "list[weakref.ref[CurveSocket]]" = []


# Of pyzmq's two socket classes the one in C. The other one runs Python code when it is deleted, and a signal handler's
# exception that arises there is lost.
_Socket = zmq.backend.Socket


class _Dealer(_Socket):
    """A DEALER that is closed with its last reference, except in the child of a fork."""

    __del__ = _Socket.close


class _Context(zmq.Context["zmq.Socket[bytes]"]):
    """libzmq's threads of a process. They end with the process; nobody waits for them.

    pyzmq's own class would wait if the interpreter deletes its modules in an order that pyzmq does not expect, and for
    ever if a program leaves a connection open.
    """

    def __del__(self) -> None:
        """Do nothing."""


class CurveSocket:
    """An encrypted connection to the broker at address; each side has proved its key to the other.

    numeric is the address with its host as a number. Raises OSError if nobody can be reached, DBConnectionError if the
    handshake fails, and UsageError if libzmq has no CURVE.
    """

    def __init__(self, address: str, numeric: str, keys: Keys) -> None:
        self._address = address
        self._pid = os.getpid()
        self._has_ended = False
        self._is_closed = False
        self._is_asked = False  # whether the channel's PING has no answer yet
        self._has_head = False  # whether the head of the next message's frame was given
        self._descriptor = -1
        self._inode: tuple[int, int] | None = None  # the descriptor's, which no other connection has
        if not zmq.has("curve"):
            raise UsageError(
                f"this libzmq ({zmq.zmq_version()}) was built without CURVE, so keys cannot be used; install pyzmq "
                "from its wheels"
            )
        context = _own_context()
        _sweep()
        self._dealer = _Dealer(context, zmq.DEALER)
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
            # Longer than the wait for the handshake, whose end would else be told as one by the broker.
            (zmq.HANDSHAKE_IVL, int(2 * timeouts.WELCOME_TIMEOUT * 1000)),
            (zmq.TCP_KEEPALIVE, 1),
            (zmq.CURVE_SERVERKEY, keys.server.encode()),
            (zmq.CURVE_SECRETKEY, keys.secret.encode()),
            (zmq.CURVE_PUBLICKEY, zmq.curve_public(keys.secret.encode())),
        ):
            self._dealer.set(option, value)
        self._monitor = _Socket(context, zmq.PAIR)
        self._monitor.set(zmq.LINGER, 0)
        self._reference = weakref.ref(self, _gone.append)
        _monitors[self._reference] = self._monitor
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
        self._inode = _inode_of(self._descriptor)

    def receive(self, _size: int, seconds: float) -> bytes:
        """Return the next message as one frame, b"" at the end; raises BlockingIOError if none comes in time."""
        if self._is_closed:
            return b""
        deadline = time.monotonic() + seconds
        while True:
            # The monitor first: if it reports the end, all messages that came before the end can be received by now.
            self._read_monitor()
            try:
                return frame(self._dealer.recv(zmq.NOBLOCK))
            except zmq.Again as error:
                if not is_own(error):
                    raise
                if self._has_ended:
                    return b""
            if self._is_asked:
                # libzmq asks the broker by itself, and ends the connection if there is no answer.
                self._is_asked = False
                return _PONG
            left_ms = max(0, int((deadline - time.monotonic()) * 1000))
            if not zmq.zmq_poll([(self._dealer, zmq.POLLIN), (self._monitor, zmq.POLLIN)], left_ms):
                raise BlockingIOError

    def sendall(self, data: bytes | bytearray, flags: int = 0) -> None:
        """Send the message in one frame; raises OSError if the connection has ended.

        With MSG_MORE data is only the frame's head, and the message comes with the next call. A command (PING) is not
        sent: libzmq asks the broker by itself, and receive gives the channel its answer.
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
            # By copy: to send without one pyzmq starts a thread, and an exception may interrupt that half-way.
            self._dealer.send(bytes(memoryview(data)[head:]), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if not is_own(error):
                raise
            raise ConnectionResetError(str(error)) from None

    def send_by(self, data: bytes, deadline: float) -> None:
        """Send the message as sendall does; libzmq never waits."""
        self.sendall(data)

    def fileno(self) -> int:
        """The connection's descriptor."""
        return self._descriptor

    def close(self) -> None:
        """End the connection; in the child of a fork only close its descriptor."""
        if self._is_closed:
            return
        self._has_ended = True
        if self._pid == os.getpid():
            # If an exception interrupts this, the rest is done when the socket is deleted.
            if not self._dealer.closed:
                self._dealer.monitor(None, 0)
            self._monitor.close()
            _monitors.pop(self._reference, None)
            self._dealer.close()
        # The descriptor may be another file's: libzmq may have closed the connection before the fork.
        elif self._inode is not None and _inode_of(self._descriptor) == self._inode:
            os.close(self._descriptor)
        self._is_closed = True

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
        """Return the monitor's next event and its value, None at the deadline."""
        left_ms = max(0, int((deadline - time.monotonic()) * 1000))
        if not zmq.zmq_poll([(self._monitor, zmq.POLLIN)], left_ms):
            return None
        told, _address = self._monitor.recv(), self._monitor.recv()
        # A 16-bit event and a 32-bit value.
        kind, value = struct.unpack("=hi", told)
        return int(kind), int(value)

    def _read_monitor(self) -> None:
        """Learn whether the connection has ended: the monitor reports nothing else after the handshake."""
        while not self._has_ended and self._next_event(0) is not None:
            self._has_ended = True


def _own_context() -> _Context:
    global _context  # one per process
    with _lock:
        if _context is None:
            _context = _Context(io_threads=1)
            _context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
        return _context


def _sweep() -> None:
    """Close the monitors of deleted sockets, as far as libzmq has ended these."""
    for _ in range(len(_gone)):
        try:
            reference = _gone.pop(0)
        except IndexError as error:  # another thread sweeps as well
            if not is_own(error):
                raise
            return
        monitor = _monitors.get(reference)
        if monitor is None:
            continue
        if _has_stopped(monitor):
            monitor.close()
            _monitors.pop(reference, None)
        else:
            _gone.append(reference)


def _has_stopped(monitor: zmq.backend.Socket) -> bool:
    """Whether the monitor has reported the end of its socket, which is its last event."""
    try:
        while True:
            told, _address = monitor.recv(zmq.NOBLOCK), monitor.recv()
            if struct.unpack("=hi", told)[0] == zmq.EVENT_MONITOR_STOPPED:
                return True
    except zmq.Again as error:
        if not is_own(error):
            raise
        return False


def _inode_of(descriptor: int) -> tuple[int, int] | None:
    """Return the device and inode that identify an open file; None if the descriptor is not open.

    No socket object is made of the descriptor: if an exception deleted it, it would close libzmq's connection.
    """
    with suppressed(OSError):
        about = os.fstat(descriptor)
        return about.st_dev, about.st_ino
    return None


def _after_fork_in_child() -> None:
    """Begin with a new context, and a new lock, as another thread of the parent may have held the old one."""
    global _context, _lock
    _inherited.extend((_context, dict(_monitors)))
    _context, _lock = None, threading.Lock()
    _monitors.clear()
    _gone.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
