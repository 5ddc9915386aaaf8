"""Clients over ipc://: ZeroMQ's protocol on a plain unix socket, in the broker's own loop.

libzmq serves a host's clients through a thread of its own, mailboxes and wake-ups, which cost the broker more per
request than its own decisions (scripts/bench measures it). Here a readable descriptor is a client's message, and the
end of the file is the client's end. Any libzmq DEALER or REQ can connect all the same (`client.wire.zmtp`).

No client can hurt the others. Of each a bounded number of bytes is read at a time, in turns that end by the clock. If
a client leaves more than `client_buffer_bytes` of replies unread, nothing more is read from it, and after
`client_write_timeout` it is dropped; what all clients together leave unread has a bound as well
(`poold.clients.unread_budget`). A client is also dropped if it does not finish its greeting or a message, or if it
breaks the protocol again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from pathlib import Path
from time import monotonic

from client.wire.address import ipc_path
from client.wire.zmtp import refusal
from poold.clients.connection_limits import ConnectionLimits
from poold.clients.ipc_peer import SECONDS_AT_ONCE, IpcPeer
from poold.clients.partial_messages import PartialMessages
from poold.clients.transport import Receiver
from poold.clients.unread_budget import UnreadBudget
from poold.config.current import CurrentConfig
from poold.config.model import BrokerConfig
from poold.system.poller import Poller
from poold.system.rate_limited_log import RateLimitedLog

log = logging.getLogger(__name__)

# Connections that wait to be accepted: all workers of a host may start in the same second.
BACKLOG = 1024
# How long to wait before accepting again after no descriptor was left for another client.
ACCEPT_AGAIN = 0.1


class IpcTransport:
    """The listening socket, and its clients."""

    def __init__(
        self,
        config: CurrentConfig,
        frontend: Receiver,
        poller: Poller,
        inherited: socket.socket | None = None,
        is_managed: bool = False,
    ) -> None:
        """Listen at the address; inherited is a socket that does so already, with its own mode and backlog.

        is_managed: it is the service manager's, and outlives this broker. Nobody is accepted before `begin`.
        """
        path = ipc_path(config.broker.address)
        assert path is not None
        self.config = config
        self.frontend = frontend
        self.loop = asyncio.get_running_loop()
        self.poller = poller
        self.log = RateLimitedLog(log)
        self.heard = 0  # how often any client was read from
        self.unread = UnreadBudget(config)
        # Connections, from accept until they end.
        self.peers: set[IpcPeer] = set()
        self.unfinished = PartialMessages(config.broker.max_request_bytes, self.loop)
        self._path = path
        self._door = ConnectionLimits(config)
        self._is_begun = False  # whether clients are accepted
        self._is_left = False  # whether nobody is accepted any more
        self._failures = 0  # how often in a row nobody could be accepted; the first of them is logged
        self._is_managed = is_managed
        self._listener = _listener(config.broker, path) if inherited is None else inherited
        self.is_ending = False  # nothing more is read
        self._finished: asyncio.Future[None] = self.loop.create_future()

    @property
    def address(self) -> str:
        """The address that is bound."""
        return f"ipc://{self._path}"

    def begin(self) -> None:
        """Accept clients from here on."""
        if not self._is_begun and not self._is_left:
            self._is_begun = True
            self.poller.add_reader(self._listener.fileno(), self._accept)

    def after_turn(self) -> None:
        """Do nothing: replies were sent as they came."""

    def draining(self) -> None:
        """Leave whoever connects from here on to the next broker, if the socket outlives this one."""
        if self._is_managed:
            self.leave()

    @property
    def listener(self) -> int:
        """The descriptor of the listening socket."""
        return self._listener.fileno()

    def accept_all(self) -> None:
        """Accept, or refuse, whoever has connected by now."""
        while not self._is_left and self._accept_some():
            pass

    def leave(self) -> None:
        """Accept nobody any more: another broker does, at the same socket."""
        if not self._is_left:
            self._is_left = True
            self.poller.remove_reader(self._listener.fileno())

    def read_last(self) -> None:
        """Take what has come from all clients, and nothing later: they fail to send any more then."""
        if self.is_ending:
            return
        self.is_ending = True
        self.leave()
        self._listener.close()
        for peer in list(self.peers):
            peer.read_last()

    @property
    def unread_bytes(self) -> int:
        """How much all clients leave unread, beside what their sockets hold."""
        return self.unread.size

    async def finish(self) -> None:
        """Return when all replies are on their way."""
        self.sent()
        await self._finished

    def sent(self) -> None:
        """Take note that a client has taken what was sent to it."""
        if self.is_ending and not self._finished.done() and not any(peer.unread for peer in self.peers):
            self._finished.set_result(None)

    def close(self) -> None:
        """Close all connections. Clients still get what their sockets hold already."""
        self.leave()
        self._listener.close()
        for peer in list(self.peers):
            peer.close()

    def _accept(self) -> None:
        self._accept_some()

    def _accept_some(self) -> bool:
        """Accept those who wait, for a moment; returns whether there may be more of them."""
        until = monotonic() + SECONDS_AT_ONCE
        while monotonic() < until:
            try:
                connection, _address = self._listener.accept()
            except BlockingIOError:
                return False
            except OSError as error:
                # No descriptor or no memory is left; the listener stays readable, so it is not watched for a moment.
                if not self._failures:
                    self.log.warning("accept failed clients=%d error=%s", len(self.peers), error)
                self._failures += 1
                self.poller.remove_reader(self._listener.fileno())
                self.loop.call_later(ACCEPT_AGAIN, self._accept_again)
                return False
            if self._failures:
                self.log.warning("clients are accepted again failures=%d", self._failures)
                self._failures = 0
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid, uid, gid = struct.unpack("3i", credentials)
            connection.setblocking(False)
            objection = self._door.objection(connection, uid, gid)
            if objection is not None:
                self.log.warning("client refused pid=%d uid=%d gid=%d reason=%s", pid, uid, gid, objection[0])
                self._refuse(connection, objection[1])
            else:
                self._door.enter(uid)
                self.peers.add(IpcPeer(self, connection, uid, gid, pid))
        return True

    def forget(self, peer: IpcPeer) -> None:
        """Remove a client that is about to be closed."""
        assert peer.uid is not None
        self.peers.discard(peer)
        self.unfinished.note(peer, 0)
        self._door.leave(peer.uid)
        self.sent()

    def _refuse(self, connection: socket.socket, reason: str) -> None:
        """Tell the client why it may not connect, and close the connection."""
        with connection, contextlib.suppress(OSError):
            connection.send(refusal(reason))

    def _accept_again(self) -> None:
        if not self._is_left:
            self.poller.add_reader(self._listener.fileno(), self._accept)


def _listener(config: BrokerConfig, path: Path) -> socket.socket:
    """Return a socket that listens there. Its file is for the owner and its group, or for everybody if lists decide."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    mask = os.umask(0o111 if config.has_lists else 0o117)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen at {config.address}: {error.strerror}") from None
    finally:
        os.umask(mask)
    listener.listen(BACKLOG)
    return listener
