"""Clients over ipc://: ZeroMQ's protocol on a plain unix socket, in the broker's own loop.

libzmq serves a host's clients through a thread of its own, mailboxes and wake-ups, which cost the broker more per
request than its own decisions (scripts/bench measures it). Here a readable descriptor is a client's message, and the
end of the file is the client's end. Any libzmq DEALER or REQ can connect all the same (`client.zmtp`).

Nobody can hurt the others: a client is read a bounded number of bytes at a time, in turns; replies it does not read
are kept up to `client_buffer_bytes`, from there on it is not read from, and after `client_write_timeout` it is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import struct

from client.address import ipc_path
from client.zmtp import SERVER, ZmtpConnection, ZmtpError
from poold.config import BrokerConfig
from poold.frontend import Frontend, Peer
from poold.poller import Poller

log = logging.getLogger(__name__)

RECEIVE_BYTES = 65536
# Messages of one client taken in one go: a client that floods waits for the others between two.
MESSAGES_AT_ONCE = 64
# Connections that wait to be accepted, and are accepted in one go: all workers of a host may start in the same second.
BACKLOG = 1024
ACCEPT_AT_ONCE = 64
# Without a descriptor for another client, how long to wait for one.
ACCEPT_AGAIN = 0.1
HANDSHAKE_TIMEOUT = 2.0
# Descriptors that are not clients': backends while they are replaced, the loop's own, files being read.
SPARE_DESCRIPTORS = 64


class IpcTransport:
    """The listening socket, and its clients."""

    def __init__(self, config: BrokerConfig, frontend: Frontend, poller: Poller) -> None:
        path = ipc_path(config.address)
        assert path is not None
        self.config = config
        self.frontend = frontend
        self.loop = asyncio.get_running_loop()
        self.poller = poller
        # Connections, from accept until they end.
        self.peers: set[IpcPeer] = set()
        self._path = path
        self._limit = descriptor_limit(config.max_clients)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # The socket file is made by bind: for the owner and its group.
        mask = os.umask(0o117)
        try:
            self._listener.bind(str(path))
        except OSError as error:
            self._listener.close()
            raise OSError(f"cannot listen at {config.address}: {error.strerror}") from None
        finally:
            os.umask(mask)
        self._listener.listen(BACKLOG)
        self.poller.add_reader(self._listener.fileno(), self._accept)

    @property
    def address(self) -> str:
        """The address that is bound."""
        return f"ipc://{self._path}"

    def after_turn(self) -> None:
        """Replies were sent as they came."""

    def close(self) -> None:
        """Let go of all clients. What their sockets hold already, they still get."""
        self.poller.remove_reader(self._listener.fileno())
        self._listener.close()
        for peer in list(self.peers):
            peer.close()

    def _accept(self) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            try:
                connection, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # No descriptor or no memory is left; the listener stays readable, so look away for a moment.
                log.warning("accept failed clients=%d error=%s", len(self.peers), error)
                self.poller.remove_reader(self._listener.fileno())
                self.loop.call_later(ACCEPT_AGAIN, self._accept_again)
                return
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid, uid, gid = struct.unpack("3i", credentials)
            if len(self.peers) >= self._limit:
                log.warning("client refused pid=%d reason=max_clients limit=%d", pid, self._limit)
                connection.close()
            elif not self._is_allowed(uid, gid):
                log.warning("client refused pid=%d uid=%d reason=allow_uids", pid, uid)
                connection.close()
            else:
                connection.setblocking(False)
                self.peers.add(IpcPeer(self, connection, uid, gid, pid))

    def _accept_again(self) -> None:
        if self._listener.fileno() >= 0:
            self.poller.add_reader(self._listener.fileno(), self._accept)

    def _is_allowed(self, uid: int, gid: int) -> bool:
        """Whether this user may connect; without lists the mode of the socket file has decided that."""
        config = self.config
        if not config.allow_uids and not config.allow_gids:
            return True
        return uid in (0, os.getuid()) or uid in config.allow_uids or gid in config.allow_gids


class IpcPeer(Peer):
    """One connection."""

    __slots__ = ("_is_reading", "_outgoing", "_socket", "_timer", "_transport", "_zmtp")

    def __init__(self, transport: IpcTransport, connection: socket.socket, uid: int, gid: int, pid: int) -> None:
        super().__init__(uid, gid, pid)
        self._transport = transport
        self._socket = connection
        self._zmtp = ZmtpConnection(transport.config.max_request_bytes, SERVER)
        # What the socket did not take; the loop watches for room while there is any.
        self._outgoing = bytearray()
        self._is_reading = True
        # Of the handshake, later of a client that does not read.
        self._timer: asyncio.TimerHandle | None = transport.loop.call_later(HANDSHAKE_TIMEOUT, self._handshake_overdue)
        transport.poller.add_reader(connection.fileno(), self._readable)
        self._flush_zmtp()

    def send(self, message: bytes) -> bool:
        """Send the message, or keep what the socket does not take now."""
        if self not in self._transport.peers:
            return False
        self._write(self._zmtp.encoded(message))
        return True

    def close(self) -> None:
        """Let go of the connection; the frontend is told by whoever knows why."""
        transport = self._transport
        if self not in transport.peers:
            return
        transport.peers.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        descriptor = self._socket.fileno()
        transport.poller.remove_reader(descriptor)
        if self._outgoing:
            transport.poller.remove_writer(descriptor)
        self._socket.close()

    def _end(self) -> None:
        self.close()
        self._transport.frontend.gone(self)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        zmtp = self._zmtp
        payload = zmtp.only_message(data)
        if payload is not None and not zmtp.inbox:
            self._transport.frontend.message(self, payload)
            self._transport.frontend.wake()
            return
        try:
            zmtp.received(data)
        except ZmtpError as error:
            log.warning("client dropped pid=%d reason=%s", self.pid, error)
            self._flush_zmtp()
            self._end()
            return
        if zmtp.outbox:
            self._flush_zmtp()
        if self._timer is not None and zmtp.is_ready and not self._outgoing:
            self._timer.cancel()
            self._timer = None
        if zmtp.inbox:
            self._take()

    def _take(self) -> None:
        """Give the frontend the messages that are whole; of many, some now."""
        frontend, inbox = self._transport.frontend, self._zmtp.inbox
        for _ in range(MESSAGES_AT_ONCE):
            payload = inbox.popleft()
            if payload is None:
                frontend.violated(self, "a message has one frame")
            else:
                frontend.message(self, payload)
            if not inbox:
                break
        else:
            self._pause_reading()
            self._transport.loop.call_soon(self._take_more)
        frontend.wake()

    def _take_more(self) -> None:
        if self not in self._transport.peers:
            return
        self._resume_reading()
        if self._zmtp.inbox and self._is_reading:
            self._take()

    def _flush_zmtp(self) -> None:
        outbox = self._zmtp.outbox
        if outbox:
            data = bytes(outbox)
            outbox.clear()
            self._write(data)

    def _write(self, data: bytes) -> None:
        if self._outgoing:
            self._outgoing += data
        else:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return  # the end of the file follows, and tells the rest
            if sent == len(data):
                return
            self._outgoing += memoryview(data)[sent:]
            self._transport.poller.add_writer(self._socket.fileno(), self._writable)
        if len(self._outgoing) > self._transport.config.client_buffer_bytes and self._is_reading:
            self._pause_reading()
            if self._timer is not None:
                self._timer.cancel()
            timeout = self._transport.config.client_write_timeout
            self._timer = self._transport.loop.call_later(timeout, self._write_overdue)

    def _writable(self) -> None:
        outgoing = self._outgoing
        try:
            with memoryview(outgoing) as view:
                sent = self._socket.send(view[: 4 * RECEIVE_BYTES])
        except BlockingIOError:
            return
        except OSError:
            self._end()
            return
        del outgoing[:sent]
        if not outgoing:
            self._transport.poller.remove_writer(self._socket.fileno())
            if self._timer is not None and self._zmtp.is_ready:
                self._timer.cancel()
                self._timer = None
            self._take_more()

    def _pause_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._transport.poller.remove_reader(self._socket.fileno())

    def _resume_reading(self) -> None:
        if not self._is_reading and len(self._outgoing) <= self._transport.config.client_buffer_bytes:
            self._is_reading = True
            self._transport.poller.add_reader(self._socket.fileno(), self._readable)

    def _handshake_overdue(self) -> None:
        if self._zmtp.is_ready:
            return  # a client that reads slowly
        log.warning("client dropped pid=%d reason=no handshake within %g s", self.pid, HANDSHAKE_TIMEOUT)
        self._timer = None
        self._end()

    def _write_overdue(self) -> None:
        self._timer = None
        self._transport.frontend.dropped += 1
        log.warning(
            "client dropped pid=%d reason=it left %d bytes of replies unread for client_write_timeout = %g s",
            self.pid,
            len(self._outgoing),
            self._transport.config.client_write_timeout,
        )
        self._end()


def descriptor_limit(max_clients: int) -> int:
    """How many clients there may be, 0 for as many as there are descriptors. Raises ValueError for more than that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = hard - SPARE_DESCRIPTORS
    if max_clients > room:
        raise ValueError(
            f"max_clients = {max_clients} needs {max_clients + SPARE_DESCRIPTORS} descriptors, this process may have "
            f"{hard}; raise the limit (ulimit -n, LimitNOFILE= of systemd) or lower max_clients"
        )
    return max_clients or room
