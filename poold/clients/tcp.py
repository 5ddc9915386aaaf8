"""Clients over tcp://: a libzmq ROUTER socket on the event loop, with CURVE if the broker has keys (see `curve_auth`).

Facts about libzmq that shape this module:
- ZMQ_FD is edge-triggered: after every send and receive EVENTS must be asked for again (`after_turn`), or the loop
  sleeps while messages wait. http://api.zeromq.org/master:zmq-getsockopt
- Without ROUTER_MANDATORY a reply to a client that is gone vanishes; with it the send fails with EHOSTUNREACH.
- Events of one I/O thread come in order, and a descriptor's DISCONNECTED comes before its number is used again. So the
  monitor is read before a client is registered, and a client whose descriptor is not connected by then is gone already.
- libzmq still delivers what a client sent before it went, even if another client has its descriptor by then. Only a
  send shows that the client is gone, and only after libzmq has handled its threads' commands, which asking for EVENTS
  makes it do. So several clients may have one descriptor for a moment, until the first reply to those that are gone
  fails.
"""

from __future__ import annotations

import asyncio
import struct

import zmq

from client.wire.keyfiles import read_secret
from poold.clients.curve_auth import ZapHandler, ask_for_keys
from poold.clients.transport import Peer, Receiver
from poold.config.client_keys import ClientKeys
from poold.config.current import CurrentConfig
from poold.config.model import BrokerConfig
from poold.core.clients.access import Caller

# Messages taken in one go; then backends get their turn.
RECEIVE_AT_ONCE = 256
# Connections that wait to be accepted: all workers of a host may start in the same second.
BACKLOG = 1024
HANDSHAKE_TIMEOUT_MS = 2000
# How long replies that were handed to libzmq may take to leave when the broker ends.
LINGER_MS = 1000
# Below this size a copy is cheaper than having libzmq's thread give the memory back.
COPY_BELOW = 65536

# As plain numbers: pyzmq's own flags are enums, and combining or passing them costs more than the call.
_NOBLOCK = int(zmq.NOBLOCK)
_SNDMORE_NOBLOCK = int(zmq.SNDMORE) | _NOBLOCK
_EVENTS = int(zmq.EVENTS)
_RCVMORE = int(zmq.RCVMORE)
_POLLIN = int(zmq.POLLIN)


class TcpPeer(Peer):
    """A client by its ROUTER identity and its descriptor."""

    __slots__ = ("descriptor", "identity", "key_name", "transport")

    def __init__(self, transport: TcpTransport, identity: bytes, descriptor: int, key_name: str) -> None:
        super().__init__(None, None, 0)
        self.key_name = key_name
        self.transport = transport
        self.identity = identity
        self.descriptor = descriptor

    def caller(self) -> Caller:
        """Return the client by its key's name, if the broker has keys."""
        return Caller(key=self.key_name)

    def send(self, message: bytes) -> bool:
        """Send without waiting; a client that left a thousand replies unread is dropped."""
        return self.transport.send(self, message)

    def drop(self) -> None:
        """End the conversation. libzmq keeps the connection; a message that still comes on it must be Hello."""
        self.transport.forget(self)


class TcpTransport:
    """The ROUTER socket: bound on creation."""

    def __init__(self, config: CurrentConfig, frontend: Receiver) -> None:
        self._frontend = frontend
        self._loop = asyncio.get_running_loop()
        # Clients by ROUTER identity and by descriptor: enter with their first message, leave when gone.
        self._by_identity: dict[bytes, TcpPeer] = {}
        self._by_descriptor: dict[int, list[TcpPeer]] = {}
        # Descriptors of all connections, as the monitor reports them.
        self._connected: set[int] = set()
        self._has_sent = False  # since EVENTS was last asked for
        self._is_closed = False
        self._address = config.broker.address
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.LINGER, LINGER_MS),
            (zmq.MAXMSGSIZE, config.broker.max_request_bytes),
            (zmq.BACKLOG, BACKLOG),
            (zmq.HANDSHAKE_IVL, HANDSHAKE_TIMEOUT_MS),
            (zmq.IPV6, 1),
            # If a client's machine vanishes, this is known after a minute. ZeroMQ's own heartbeats cannot be used: a
            # client without keys reads nothing while it waits for no reply, so it would not answer them.
            (zmq.TCP_KEEPALIVE, 1),
            (zmq.TCP_KEEPALIVE_IDLE, 30),
            (zmq.TCP_KEEPALIVE_INTVL, 10),
            (zmq.TCP_KEEPALIVE_CNT, 3),
        ):
            self._socket.setsockopt(option, value)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._zap: ZapHandler | None = None
        try:
            self._bind(config.broker)
        except BaseException:
            self._close_sockets()
            raise
        self._descriptors = [int(self._socket.getsockopt(zmq.FD)), int(self._monitor.getsockopt(zmq.FD))]
        self._loop.add_reader(self._descriptors[0], self._receive)
        self._loop.add_reader(self._descriptors[1], self._read_monitor)
        if self._zap is not None:
            self._descriptors.append(int(self._zap.socket.getsockopt(zmq.FD)))
            self._loop.add_reader(self._descriptors[2], self._answer_zap)
            # Clients may have asked to connect since the probe, unseen by the loop.
            self._loop.call_soon(self._answer_zap)

    @property
    def address(self) -> str:
        """The address, as it is configured. libzmq's own word for it has IPv4 addresses in the form of IPv6."""
        return self._address

    def _bind(self, config: BrokerConfig) -> None:
        """Listen; if the broker has keys, first make the ZAP handler, and then prove that unlisted keys are refused."""
        server_key = b""
        if config.key_file is not None and config.client_keys is not None:
            self._zap = ZapHandler(self._context, ClientKeys(config.client_keys))
            server_key = ask_for_keys(self._socket, read_secret(config.key_file))
        try:
            self._socket.bind(config.address)
        except zmq.ZMQError as error:
            raise OSError(f"cannot listen at {config.address}: {error}") from None
        if self._zap is not None:
            self._zap.prove(self._context, str(self._socket.getsockopt_string(zmq.LAST_ENDPOINT)), server_key)

    def send(self, peer: TcpPeer, message: bytes) -> bool:
        """Send without waiting; if that is impossible, drop the client and return False."""
        try:
            self._has_sent = True
            self._socket.send(peer.identity, _SNDMORE_NOBLOCK)
            self._socket.send(message, _NOBLOCK, copy=len(message) < COPY_BELOW)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self.forget(peer)
            return False
        return True

    def after_turn(self) -> None:
        """Look for messages that arrived while the turn sent: the descriptor does not become readable for them."""
        if self._has_sent:
            self._has_sent = False
            if int(self._socket.getsockopt(_EVENTS)) & _POLLIN:
                self._loop.call_soon(self._receive)

    def begin(self) -> None:
        """Do nothing: libzmq has accepted clients since it was bound."""

    def accept_all(self) -> None:
        """Do nothing: no other broker has the socket."""

    def draining(self) -> None:
        """Do nothing: the socket ends with this broker."""

    def leave(self) -> None:
        """Do nothing: no other broker has the socket."""

    @property
    def listener(self) -> int:
        """None that another broker could have."""
        return -1

    def read_last(self) -> None:
        """Take what has come. libzmq cannot refuse what comes later: its clients do not learn what became of it."""
        self._receive()

    @property
    def unread_bytes(self) -> int:
        """None that is known: libzmq holds it."""
        return 0

    async def finish(self) -> None:
        """Return at once: libzmq sends what it holds when it is closed."""

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
        if self._zap is not None:
            self._zap.socket.close(linger=0)
        self._context.term()

    def _answer_zap(self) -> None:
        if self._zap is not None and not self._is_closed:
            self._zap.answer()

    def _receive(self) -> None:
        """Take the messages that have come, at most RECEIVE_AT_ONCE in one go."""
        if self._is_closed:
            return
        socket, frontend = self._socket, self._frontend
        for _ in range(RECEIVE_AT_ONCE):
            # A recv that finds nothing asks libzmq for events as well; to get EVENTS before each message costs more.
            try:
                identity = socket.recv(_NOBLOCK)
            except zmq.Again:
                self._has_sent = False
                break
            peer = self._by_identity.get(identity)
            if peer is None:
                # Only a frame received without copying says where it came from.
                frame = socket.recv(_NOBLOCK, copy=False)
                payload = frame.bytes
                peer = self._arrived(identity, frame)
            else:
                payload = socket.recv(_NOBLOCK)
            is_several = bool(socket.getsockopt(_RCVMORE))
            if is_several:
                self._drop_parts()
            if peer is None:
                continue
            if is_several:
                frontend.violated(peer, "a message has one frame")
            else:
                frontend.message(peer, payload)
        else:
            self._loop.call_soon(self._receive)
        frontend.wake()

    def _arrived(self, identity: bytes, frame: zmq.Frame) -> TcpPeer | None:
        """Register a client by its first message; return None if it is gone already."""
        descriptor = int(frame.get(zmq.SRCFD))
        self._read_monitor()
        if descriptor not in self._connected:
            return None
        self._socket.getsockopt(_EVENTS)  # so that the first reply fails if another has its descriptor
        # Without keys there is no User-Id; with keys libzmq sets it to the name that the ZAP handler has given.
        key_name = "" if self._zap is None else str(frame.get("User-Id"))
        peer = TcpPeer(self, identity, descriptor, key_name)
        self._by_identity[identity] = peer
        self._by_descriptor.setdefault(descriptor, []).append(peer)
        return peer

    def _drop_parts(self) -> None:
        while self._socket.getsockopt(_RCVMORE):
            self._socket.recv(_NOBLOCK)

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
                for peer in [*self._by_descriptor.get(descriptor, ())]:
                    self.forget(peer)

    def forget(self, peer: TcpPeer) -> None:
        """Remove a client that is gone or dropped: further messages of its connection belong to nobody."""
        if self._by_identity.pop(peer.identity, None) is not None:
            here = self._by_descriptor[peer.descriptor]
            here.remove(peer)
            if not here:
                del self._by_descriptor[peer.descriptor]
            self._frontend.gone(peer)
