"""Clients over ipc://: ZeroMQ's protocol on a plain unix socket, in the broker's own loop.

libzmq serves a host's clients through a thread of its own, mailboxes and wake-ups, which cost the broker more per
request than its own decisions (scripts/bench measures it). Here a readable descriptor is a client's message, and the
end of the file is the client's end. Any libzmq DEALER or REQ can connect all the same (`client.zmtp`).

Nobody can hurt the others: a client is read a bounded number of bytes at a time, in turns; replies it does not read
are kept up to `client_buffer_bytes`, from there on it is not read from, and after `client_write_timeout` it is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
import struct
from collections import deque
from itertools import islice

from client.address import ipc_path
from client.zmtp import SERVER, ZmtpConnection, ZmtpError, refusal
from poold.config import BrokerConfig
from poold.frontend import Frontend, Peer
from poold.poller import Poller

log = logging.getLogger(__name__)

RECEIVE_BYTES = 65536
# From this size on a copy of a reply costs more than sending its head and itself as two buffers.
COPY_BELOW = 65536
# Buffers of replies given to the system in one call.
BUFFERS_AT_ONCE = 64
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
# <asm-generic/socket.h>: all groups of the peer. Python does not name it, and takes at most so many bytes.
SO_PEERGROUPS = 59
GROUPS_BYTES = 1024


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
        # The socket file is made by bind: for the owner and its group, or for all where lists decide.
        mask = os.umask(0o111 if config.allow_uids or config.allow_gids else 0o117)
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
            connection.setblocking(False)
            if len(self.peers) >= self._limit:
                log.warning("client refused pid=%d reason=max_clients limit=%d", pid, self._limit)
                self._refuse(connection, f"it has {self._limit} clients already, see max_clients")
            elif not self._is_allowed(connection, uid, gid):
                log.warning("client refused pid=%d uid=%d gid=%d reason=allow_uids, allow_gids", pid, uid, gid)
                self._refuse(connection, f"user {uid} is not allowed, see allow_uids and allow_gids")
            else:
                self.peers.add(IpcPeer(self, connection, uid, gid, pid))

    def _refuse(self, connection: socket.socket, reason: str) -> None:
        """Tell why, and close."""
        with connection, contextlib.suppress(OSError):
            connection.send(refusal(reason))

    def _accept_again(self) -> None:
        if self._listener.fileno() >= 0:
            self.poller.add_reader(self._listener.fileno(), self._accept)

    def _is_allowed(self, connection: socket.socket, uid: int, gid: int) -> bool:
        """Whether this user may connect; without lists the mode of the socket file has decided that."""
        config = self.config
        if not config.allow_uids and not config.allow_gids:
            return True
        if uid in (0, os.getuid()) or uid in (*config.allow_uids, *config.admin_uids) or gid in config.allow_gids:
            return True
        if not config.allow_gids:
            return False
        try:
            packed = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUPS_BYTES)
        except OSError:
            return False  # Linux before 4.13, or more than 256 groups
        return any(group in config.allow_gids for (group,) in struct.iter_unpack("I", packed))


class IpcPeer(Peer):
    """One connection."""

    __slots__ = ("_is_reading", "_outgoing", "_socket", "_timer", "_transport", "_unsent", "_zmtp")

    def __init__(self, transport: IpcTransport, connection: socket.socket, uid: int, gid: int, pid: int) -> None:
        super().__init__(uid, gid, pid)
        self._transport = transport
        self._socket = connection
        self._zmtp = ZmtpConnection(transport.config.max_request_bytes, SERVER)
        # What the socket did not take, and its size; while there is any, the loop watches for room. None until then.
        # Small replies are joined, as an object for each would be larger than they are; large ones are not copied.
        self._outgoing: deque[bytearray | memoryview] | None = None
        self._unsent = 0
        self._is_reading = True
        # Of the handshake, later of a client that leaves too much unread.
        self._timer: asyncio.TimerHandle | None = transport.loop.call_later(HANDSHAKE_TIMEOUT, self._handshake_overdue)
        transport.poller.add_reader(connection.fileno(), self._readable)
        self._flush_zmtp()

    def send(self, message: bytes) -> bool:
        """Send the message, or keep what the socket does not take now."""
        if self not in self._transport.peers:
            return False
        if len(message) < COPY_BELOW:
            self._write(self._zmtp.encoded(message))
        else:
            self._write(self._zmtp.head(message), message)
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
        if self._unsent:
            transport.poller.remove_writer(descriptor)
        self._socket.close()

    def drop(self) -> None:
        """End the conversation; what the socket has taken still arrives."""
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
            self.drop()
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
            self.drop()
            return
        if zmtp.outbox:
            self._flush_zmtp()
        if self._timer is not None and zmtp.is_ready and not self._is_over():
            self._stop_timer()
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

    def _write(self, *buffers: bytes) -> None:
        if not self._unsent:
            size = sum(map(len, buffers))
            try:
                sent = self._socket.send(buffers[0]) if len(buffers) == 1 else self._socket.sendmsg(buffers)
            except BlockingIOError:
                sent = 0
            except OSError:
                return  # the end of the file follows, and tells the rest
            if sent == size:
                return
            self._transport.poller.add_writer(self._socket.fileno(), self._writable)
        else:
            sent = 0
        if self._outgoing is None:
            self._outgoing = deque()
        for buffer in buffers:
            self._keep(buffer)
        self._take_away(sent)
        if self._is_over():
            self._pause_reading()
            if self._timer is None:
                timeout = self._transport.config.client_write_timeout
                self._timer = self._transport.loop.call_later(timeout, self._write_overdue)

    def _writable(self) -> None:
        assert self._outgoing is not None
        try:
            sent = self._socket.sendmsg(list(islice(self._outgoing, BUFFERS_AT_ONCE)))
        except BlockingIOError:
            return
        except OSError:
            self.drop()
            return
        self._take_away(sent)
        if not self._unsent:
            self._outgoing = None
            self._transport.poller.remove_writer(self._socket.fileno())
        if not self._is_over():
            if self._zmtp.is_ready:
                self._stop_timer()
            self._take_more()

    def _keep(self, buffer: bytes) -> None:
        outgoing = self._outgoing
        assert outgoing is not None
        self._unsent += len(buffer)
        if len(buffer) >= COPY_BELOW:
            outgoing.append(memoryview(buffer))
        elif outgoing and isinstance(last := outgoing[-1], bytearray) and len(last) < COPY_BELOW:
            last += buffer
        else:
            outgoing.append(bytearray(buffer))

    def _take_away(self, sent: int) -> None:
        """The socket took so many bytes of what is outgoing."""
        outgoing = self._outgoing
        assert outgoing is not None
        self._unsent -= sent
        while sent:
            first = outgoing.popleft()
            if sent < len(first):
                outgoing.appendleft(first[sent:])
                return
            sent -= len(first)

    def _is_over(self) -> bool:
        """Whether more is unread than a client may leave."""
        return self._unsent > self._transport.config.client_buffer_bytes

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pause_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._transport.poller.remove_reader(self._socket.fileno())

    def _resume_reading(self) -> None:
        if not self._is_reading and not self._is_over():
            self._is_reading = True
            self._transport.poller.add_reader(self._socket.fileno(), self._readable)

    def _handshake_overdue(self) -> None:
        log.warning("client dropped pid=%d reason=no handshake within %g s", self.pid, HANDSHAKE_TIMEOUT)
        self._timer = None
        self.drop()

    def _write_overdue(self) -> None:
        self._timer = None
        self._transport.frontend.dropped += 1
        log.warning(
            "client dropped pid=%d reason=it left %d bytes of replies unread for client_write_timeout = %g s",
            self.pid,
            self._unsent,
            self._transport.config.client_write_timeout,
        )
        self.drop()


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
