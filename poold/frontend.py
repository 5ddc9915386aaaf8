"""The broker's side towards clients: a libzmq ROUTER socket on the event loop.

Frames in, facts to the core; replies out. Who a client is comes from the kernel on ipc (`Peer-Address`), and its end
from the socket's monitor: the DISCONNECTED event names the descriptor that its frames carried.

Facts about libzmq that shape it:
- ZMQ_FD is edge-triggered: after every send and receive EVENTS must be asked again (`after_turn`), or the loop sleeps
  on waiting messages. http://api.zeromq.org/master:zmq-getsockopt
- Without ROUTER_MANDATORY a reply to a client that is gone vanishes; with it the send says EHOSTUNREACH.
- Events of one I/O thread come in order, and a descriptor's DISCONNECTED comes before its number is used again. So the
  monitor is read before a client is registered, and a client whose descriptor is not connected by then is gone already.
"""

import asyncio
import logging
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

import zmq

from client.protocol import (
    NOT_EXECUTED,
    TX_NONE,
    VERSION,
    Answer,
    Ask,
    Cancel,
    Commit,
    Failure,
    Hello,
    ProtocolViolation,
    Query,
    Result,
    Rollback,
    ToClient,
    Transaction,
    TransactionResult,
    Welcome,
    decode_request,
    encode,
)
from poold import __version__
from poold.config import Config
from poold.core.broker import Broker

log = logging.getLogger(__name__)

# Messages taken in one go: between two, backends get their turn.
RECEIVE_AT_ONCE = 256
# Connections that wait to be accepted: all workers of a host may start in the same second.
BACKLOG = 1024
HANDSHAKE_TIMEOUT_MS = 2000
# How long replies that were handed to libzmq may take to leave when the broker ends.
LINGER_MS = 1000
# Below this copying is cheaper than telling libzmq's thread to hand the memory back.
COPY_BELOW = 65536

# As plain numbers: pyzmq's own flags are enums, and combining or passing them costs more than the call.
_NOBLOCK = int(zmq.NOBLOCK)
_SNDMORE_NOBLOCK = int(zmq.SNDMORE) | _NOBLOCK
_EVENTS = int(zmq.EVENTS)
_RCVMORE = int(zmq.RCVMORE)
_POLLIN = int(zmq.POLLIN)


@dataclass(frozen=True, slots=True)
class Peer:
    """A client's other end. uid is None where the transport does not tell it."""

    key: int
    identity: bytes
    descriptor: int
    uid: int | None
    pid: int


class Frontend:
    """The clients' socket: bind on creation, close at the end."""

    def __init__(
        self,
        config: Config,
        broker: Broker,
        ask: Callable[[str, Peer], dict[str, Any] | Failure],
        wake: Callable[[], None],
    ) -> None:
        """ask answers questions to the broker itself; wake is called after each fact given to broker."""
        self._config = config
        self._broker = broker
        self._ask = ask
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        # Greeted clients, by ROUTER identity, by the core's key and by descriptor: enter with Hello, leave when gone.
        self._by_identity: dict[bytes, Peer] = {}
        self._by_key: dict[int, Peer] = {}
        self._by_descriptor: dict[int, Peer] = {}
        # Descriptors of all connections, greeted or not, as the monitor tells.
        self._connected: set[int] = set()
        self._last_key = 0
        self._has_sent = False  # since EVENTS was last asked
        self._is_closed = False
        self.violations = 0  # messages that were none of the protocol
        self.dropped = 0  # replies whose client was gone or did not read
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.LINGER, LINGER_MS),
            (zmq.MAXMSGSIZE, config.broker.max_request_bytes),
            (zmq.BACKLOG, BACKLOG),
            (zmq.HANDSHAKE_IVL, HANDSHAKE_TIMEOUT_MS),
        ):
            self._socket.setsockopt(option, value)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        try:
            self._bind(config.broker.address)
        except BaseException:
            self._close_sockets()
            raise
        self._descriptors = int(self._socket.getsockopt(zmq.FD)), int(self._monitor.getsockopt(zmq.FD))
        self._loop.add_reader(self._descriptors[0], self._receive)
        self._loop.add_reader(self._descriptors[1], self._read_monitor)

    @property
    def address(self) -> str:
        """The address that is bound; for tcp with its real port."""
        return str(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))

    def reply(self, key: int, body: Result | TransactionResult | Failure) -> None:
        """Send the final reply of a request."""
        peer = self._by_key.get(key)
        if peer is None:
            self.dropped += 1
        else:
            self._send(peer.identity, encode(body))

    def after_turn(self) -> None:
        """Ask for what arrived while the turn sent: the descriptor will not tell again."""
        if self._has_sent:
            self._has_sent = False
            if int(self._socket.getsockopt(_EVENTS)) & _POLLIN:
                self._loop.call_soon(self._receive)

    def close(self) -> None:
        """Send what libzmq still holds, then close. A callback that is scheduled already finds nothing to do."""
        self._is_closed = True
        for descriptor in self._descriptors:
            self._loop.remove_reader(descriptor)
        self._close_sockets()

    def _close_sockets(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close()
        self._context.term()

    def _bind(self, address: str) -> None:
        # The socket file is made by bind: for the owner and its group.
        mask = os.umask(0o117)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            raise OSError(f"cannot listen at {address}: {error}") from None
        finally:
            os.umask(mask)

    def _receive(self) -> None:
        """Take the messages that are there; many are taken in turns."""
        if self._is_closed:
            return
        socket = self._socket
        for _ in range(RECEIVE_AT_ONCE):
            # An empty recv asks libzmq for events as well; asking EVENTS before each message costs more.
            try:
                identity = socket.recv(_NOBLOCK)
            except zmq.Again:
                self._has_sent = False
                break
            peer = self._by_identity.get(identity)
            # Only a frame taken without copying tells where it came from, which a newcomer's is asked for.
            payload: Any = socket.recv(_NOBLOCK, copy=peer is not None)
            if socket.getsockopt(_RCVMORE):
                self._drop_parts()
                self._violated(identity, "a message has one frame")
            elif peer is not None:
                self._take(peer, payload)
            else:
                self._greet(identity, payload)
        else:
            self._loop.call_soon(self._receive)
        self._wake()

    def _drop_parts(self) -> None:
        while self._socket.getsockopt(_RCVMORE):
            self._socket.recv(_NOBLOCK)

    def _take(self, peer: Peer, payload: bytes) -> None:
        """A message of a greeted client."""
        try:
            message = decode_request(payload)
        except ProtocolViolation as violation:
            self._violated(peer.identity, str(violation))
            return
        if isinstance(message, (Query, Transaction, Commit, Rollback)):
            self._broker.request(peer.key, message, monotonic())
        elif isinstance(message, Cancel):
            self._broker.cancel(peer.key, message.request, monotonic())
        elif isinstance(message, Ask):
            answer = self._ask(message.what, peer)
            if isinstance(answer, Failure):
                self._send(peer.identity, encode(answer._replace(request=message.request)))
            else:
                self._send(peer.identity, encode(Answer(message.request, answer)))
        else:
            self._violated(peer.identity, "Hello was said already")

    def _greet(self, identity: bytes, frame: zmq.Frame) -> None:
        """The first message of a client, which must be Hello in this version."""
        try:
            hello = decode_request(frame.bytes)
        except ProtocolViolation as violation:
            self._violated(identity, str(violation))
            return
        if not isinstance(hello, Hello):
            self._violated(identity, "expected Hello first")
            return
        if hello.version != VERSION:
            text = (
                f"this broker (poold {__version__}) speaks protocol version {VERSION}, the client "
                f"(poold {hello.release}) version {hello.version}; install the same poold release on both sides"
            )
            self._violated(identity, text)
            return
        self._read_monitor()
        descriptor = int(frame.get(zmq.SRCFD))
        if descriptor not in self._connected:
            return
        self._last_key += 1
        uid, pid = _credentials(str(frame.get("Peer-Address")))
        peer = Peer(self._last_key, identity, descriptor, uid, pid or hello.pid)
        broker = self._config.broker
        groups = {name: group.autocommit for name, group in self._config.groups.items()}
        welcome = Welcome(VERSION, os.getpid(), __version__, broker.max_request_bytes, broker.max_result_bytes, groups)
        self._by_identity[identity] = self._by_key[peer.key] = self._by_descriptor[descriptor] = peer
        self._broker.client_arrived(peer.key, peer.pid, hello.application_name)
        self._send(identity, encode(welcome))

    def _violated(self, identity: bytes, why: str) -> None:
        """Say what was wrong, count it, go on."""
        self.violations += 1
        log.warning("protocol violation count=%d reason=%s", self.violations, why)
        refusal: ToClient = Failure(0, TX_NONE, "protocol", NOT_EXECUTED, f"not understood: {why}", None, {})
        self._send(identity, encode(refusal))

    def _send(self, identity: bytes, message: bytes) -> None:
        """Send without waiting. A client that is gone, or that left a thousand replies unread, is dropped."""
        try:
            self._has_sent = True
            self._socket.send(identity, _SNDMORE_NOBLOCK)
            self._socket.send(message, _NOBLOCK, copy=len(message) < COPY_BELOW)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self.dropped += 1
            peer = self._by_identity.get(identity)
            if peer is not None:
                self._forget(peer)

    def _read_monitor(self) -> None:
        """Learn which connections came and went. The monitor's descriptor is edge-triggered as well."""
        while True:
            try:
                event, _address = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            # A 16-bit event and a 32-bit value. http://api.zeromq.org/master:zmq-socket-monitor
            kind, descriptor = struct.unpack("=hi", event)
            if kind == zmq.EVENT_ACCEPTED:
                self._connected.add(descriptor)
            else:
                self._connected.discard(descriptor)
                peer = self._by_descriptor.get(descriptor)
                if peer is not None:
                    self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        del self._by_identity[peer.identity], self._by_key[peer.key], self._by_descriptor[peer.descriptor]
        self._broker.client_gone(peer.key, monotonic())
        self._wake()


def _credentials(peer_address: str) -> tuple[int | None, int]:
    """uid and pid of a peer: libzmq's Peer-Address is `localhost:UID:GID:PID` on ipc, an address on tcp."""
    parts = peer_address.split(":")
    if len(parts) == 4 and parts[0] == "localhost":
        return int(parts[1]), int(parts[3])
    return None, 0
