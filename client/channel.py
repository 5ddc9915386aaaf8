"""One conversation with one broker: a DEALER socket, used by one thread of one process.

A channel connects once. When the broker goes away it is broken for good and its owner makes another, so a channel, its
request numbers and the leases opened through it live and die together. It starts no thread and takes no lock.

Facts about libzmq that shape it (http://api.zeromq.org/master:zmq-setsockopt):
- A socket inherited over fork says "sent" and loses the message: owners compare `pid` before each use.
- A request that libzmq holds while the broker is away is delivered to the next one there, long after its caller gave
  up. It is not run: each connection begins with Hello, and what comes before is refused. ZMQ_IMMEDIATE would hold
  nothing, but it discards replies that arrived just before the connection closed (2 in 100 when a broker answers and
  ends).
- A lost connection shows up only in the socket's monitor. Waiting for both at once doubles the cost of a request
  (zmq_poll asks each socket again and again), so a wait is cut into slices and the monitor is asked between them.
- The connection's descriptor stays open in forked children, so the broker would not see the parent die:
  `_after_fork_in_child` closes it there.
"""

import contextlib
import os
import sys
import time
import weakref
from importlib.metadata import PackageNotFoundError, version

import zmq
from zmq.utils.monitor import recv_monitor_message

from client.errors import DBConnectionError, DBError, UsageError, connection_error, error_from
from client.protocol import (
    MAX_NAME_CHARS,
    NOT_EXECUTED,
    REPLY_OVERHEAD_BYTES,
    UNKNOWN,
    VERSION,
    Answer,
    Cancel,
    Failure,
    Hello,
    ProtocolViolation,
    Request,
    Result,
    ToBroker,
    ToClient,
    Welcome,
    decode_reply,
    encode,
)

# How long to wait for a broker to be there: short enough for an error within a second, long enough for its restart.
CONNECT_TIMEOUT = 0.8
# Where one listens, how long it may take to say Welcome: many workers may start at once on a busy machine.
WELCOME_TIMEOUT = 10.0
# How soon libzmq tries again meanwhile, and at most how seldom later: the worker may be idle when its broker goes away.
RECONNECT_INTERVAL_MS = 20
LONGEST_RECONNECT_INTERVAL_MS = 2000
# ZMTP heartbeats find a peer that is stopped or unreachable, which no closed connection tells about.
HEARTBEAT_INTERVAL_MS = 10_000
HEARTBEAT_TIMEOUT_MS = 30_000

# How long a wait goes on until the monitor is asked whether the broker is still there.
SLICE_MS = 100
# So soon after a message from the broker it is taken to be there still; asking costs a twentieth of a request. Where
# that is wrong the wait ends with the truth, only a slice later.
TRUSTED_FOR = 0.01

# As plain numbers: pyzmq's own flags are enums, and combining or passing them costs more than the call.
_NOBLOCK = int(zmq.NOBLOCK)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)

_contexts: dict[int, zmq.Context[zmq.Socket[bytes]]] = {}
# Channels of this process. Those inherited over fork move to _inherited: destroying them would touch the parent's.
_channels: "weakref.WeakSet[Channel]" = weakref.WeakSet()
_inherited: list[object] = []


class Channel:
    """A conversation with the broker at address; raises DBConnectionError within a second where none is there."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.pid = os.getpid()
        self.welcome: Welcome
        self._last_request = 0
        self._is_broken = False
        self._descriptor: tuple[int, int] | None = None  # the connection's fd and inode
        self._slice_ms = 0  # the socket's RCVTIMEO
        self._heard = 0.0  # when the broker last sent something
        self._socket = _context().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_INTERVAL_MS)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, LONGEST_RECONNECT_INTERVAL_MS)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_INTERVAL_MS)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED)
        try:
            self.welcome = self._open()
        except BaseException:
            self.close()
            raise
        _channels.add(self)

    @property
    def is_usable(self) -> bool:
        """Whether the broker is still there and this process may use the channel."""
        if self.pid != os.getpid():
            return False
        if not self._is_broken and time.monotonic() - self._heard > TRUSTED_FOR:
            self._read_monitor()
        return not self._is_broken

    def next_request(self) -> int:
        """A number for the next request, greater than all before."""
        self._last_request += 1
        return self._last_request

    def call(self, message: Request, patience: float | None = None) -> Result | Answer:
        """Send the request and wait for its reply; a Failure is raised as its error.

        patience bounds the wait, in seconds; the broker's own limits are the rule, so it only has to cover a broker
        that hangs. A wait that ends otherwise, by patience or by a signal, withdraws the request.
        """
        self._send(message, f"broker at {self.address} went away before the request was sent")
        try:
            reply = self._reply_to(message.request, patience)
        except DBError:
            raise
        except BaseException:
            self.post(Cancel(message.request))
            raise
        if isinstance(reply, Failure):
            raise error_from(reply)
        return reply

    def post(self, message: ToBroker) -> None:
        """Send a message whose reply nobody waits for; a broker that is gone makes it void anyway."""
        if not self._is_broken:
            with contextlib.suppress(zmq.Again):
                self._socket.send(encode(message), zmq.NOBLOCK)

    def close(self) -> None:
        """End the conversation; the broker drops what this client still had there."""
        self._is_broken = True
        if self.pid == os.getpid() and not self._socket.closed:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._socket.close(linger=0)

    def __del__(self) -> None:
        if not sys.is_finalizing() and hasattr(self, "_monitor"):
            self.close()

    def _open(self) -> Welcome:
        try:
            self._socket.connect(self.address)
        except zmq.ZMQError as error:
            raise connection_error(f"cannot use address {self.address}: {error}", NOT_EXECUTED) from None
        hello = Hello(VERSION, self.pid, _application_name(), _release())
        try:
            self._send(hello, f"broker at {self.address} closed the connection at once")
            reply = self._next_reply(time.monotonic() + CONNECT_TIMEOUT)
            if reply is None and self._descriptor is not None:
                reply = self._next_reply(time.monotonic() + WELCOME_TIMEOUT)
        except DBConnectionError:
            text = f"broker at {self.address} went away before it said Welcome"
            raise connection_error(text, NOT_EXECUTED) from None
        if reply is None and self._descriptor is None:
            raise connection_error(
                f"no poold broker answers at {self.address}; start one there with: "
                f"poold start --address {self.address}",
                NOT_EXECUTED,
            )
        if isinstance(reply, Failure):
            raise error_from(reply)
        if not isinstance(reply, Welcome):
            raise connection_error(
                f"something listens at {self.address} but did not answer as a poold broker within "
                f"{WELCOME_TIMEOUT:g} s; check the address",
                NOT_EXECUTED,
            )
        # A reply above the broker's own limit is not from a broker: libzmq then drops the connection.
        self._socket.setsockopt(zmq.MAXMSGSIZE, reply.max_result_bytes + REPLY_OVERHEAD_BYTES)
        return reply

    def _send(self, message: ToBroker, lost: str) -> None:
        frame = encode(message)
        if len(frame) > 4096 and len(frame) > self.welcome.max_request_bytes:
            raise UsageError(
                f"the request has {len(frame)} bytes, the broker takes at most {self.welcome.max_request_bytes} "
                "(max_request_bytes); send it in parts"
            )
        try:
            self._socket.send(frame, _NOBLOCK)
        except zmq.Again:
            self._is_broken = True
            raise connection_error(lost, NOT_EXECUTED) from None

    def _reply_to(self, request: int, patience: float | None) -> Result | Answer | Failure:
        """The reply with this number. Late replies to requests given up earlier are passed over."""
        deadline = None if patience is None else time.monotonic() + patience
        while True:
            reply = self._next_reply(deadline)
            if reply is None:
                self.post(Cancel(request))
                raise connection_error(
                    f"broker at {self.address} did not answer within {patience:g} s; the statement may have run"
                )
            if isinstance(reply, Failure) and reply.request == 0:
                self._is_broken = True
                raise error_from(reply)
            if not isinstance(reply, Welcome) and reply.request == request:
                return reply

    def _next_reply(self, deadline: float | None) -> ToClient | None:
        """The next message from the broker, None at the deadline."""
        while True:
            self._set_slice(deadline)
            try:
                frame = self._socket.recv()
                break
            except zmq.Again:
                self._read_monitor()
            if self._is_broken:
                # In this order: what came before the connection was lost is received after the loss is known.
                try:
                    frame = self._socket.recv(_NOBLOCK)
                    break
                except zmq.Again:
                    text = f"broker at {self.address} went away before it answered; the statement may have run"
                    raise connection_error(text) from None
            if deadline is not None and time.monotonic() >= deadline:
                return None
        self._heard = time.monotonic()
        try:
            return decode_reply(frame)
        except ProtocolViolation as error:
            self._is_broken = True
            raise error_from(Failure(0, "none", "protocol", UNKNOWN, str(error), None, {})) from error

    def _set_slice(self, deadline: float | None) -> None:
        """Let the next recv wait for one slice, or for less where the deadline is nearer."""
        slice_ms = SLICE_MS
        if deadline is not None:
            slice_ms = min(SLICE_MS, max(1, int((deadline - time.monotonic()) * 1000) + 1))
        if slice_ms != self._slice_ms:
            self._slice_ms = slice_ms
            self._socket.setsockopt(zmq.RCVTIMEO, slice_ms)

    def _has_news(self) -> bool:
        return bool(int(self._monitor.getsockopt(_EVENTS)) & _POLLIN)

    def _read_monitor(self) -> None:
        while self._has_news():
            event = recv_monitor_message(self._monitor, zmq.NOBLOCK)
            if event["event"] == zmq.EVENT_DISCONNECTED:
                self._is_broken = True
            elif event["event"] == zmq.EVENT_CONNECTED:
                with contextlib.suppress(OSError):  # it may be closed again by now
                    self._descriptor = event["value"], os.fstat(event["value"]).st_ino


def _context() -> "zmq.Context[zmq.Socket[bytes]]":
    """This process's libzmq context; an inherited one has no I/O thread."""
    pid = os.getpid()
    if pid not in _contexts:
        _contexts[pid] = zmq.Context()
    return _contexts[pid]


def _application_name() -> str:
    """What `poold stats` shows for this client: the program's file name."""
    return os.path.basename(sys.argv[0] if sys.argv else "")[:MAX_NAME_CHARS]


def _release() -> str:
    try:
        return version("poold")
    except PackageNotFoundError:
        return "0+unknown"


def _after_fork_in_child() -> None:
    """Let go of the parent's connections without a word to the broker.

    The inode tells whether the number still means that connection: libzmq may have closed it in the parent and the
    program opened something else.
    """
    inherited = list(_channels)
    _inherited.extend(inherited)
    _channels.clear()
    for channel in inherited:
        if channel._descriptor is not None:
            fd, inode = channel._descriptor
            with contextlib.suppress(OSError):
                if os.fstat(fd).st_ino == inode:
                    os.close(fd)


os.register_at_fork(after_in_child=_after_fork_in_child)
