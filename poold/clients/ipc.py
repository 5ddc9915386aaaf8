"""Clients over ipc://: ZeroMQ's protocol on a plain unix socket, in the broker's own loop.

libzmq serves a host's clients through a thread of its own, mailboxes and wake-ups, which cost the broker more per
request than its own decisions (scripts/bench measures it). Here a readable descriptor is a client's message, and the
end of the file is the client's end. Any libzmq DEALER or REQ can connect all the same (`client.wire.zmtp`).

Nobody can hurt the others: a client is read a bounded number of bytes at a time, in turns that end by the clock;
replies it does not read are kept up to `client_buffer_bytes`, from there on it is not read from, and after
`client_write_timeout` it is dropped; there is a bound for all together as well (`poold.clients.unread_budget`). So is
dropped who does not finish its greeting or a message, or says again and again what is no message.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from time import monotonic

from client.wire.address import ipc_path
from client.wire.zmtp import SERVER, ZmtpConnection, ZmtpError, refusal
from poold.clients.connection_limits import Door
from poold.clients.partial_messages import Unfinished
from poold.clients.send_buffer import COPY_BELOW, Outgoing
from poold.clients.transport import Peer, Receiver
from poold.clients.unread_budget import Unread
from poold.config.model import BrokerConfig
from poold.system.poller import Poller
from poold.system.rate_limited_log import SparingLog

log = logging.getLogger(__name__)

RECEIVE_BYTES = 65536
# How long messages of one client are taken, and connections accepted, in one go: who floods waits for the others
# between two, and so much longer while they have something to say; and longer still who does not read, for whom nothing
# is begun anyway.
SECONDS_AT_ONCE = 0.0001
FLOOD_PAUSE = 0.001
UNREAD_PAUSE = 0.01
# Connections that wait to be accepted: all workers of a host may start in the same second.
BACKLOG = 1024
# Without a descriptor for another client, how long to wait for one.
ACCEPT_AGAIN = 0.1
HANDSHAKE_TIMEOUT = 2.0


class IpcTransport:
    """The listening socket, and its clients."""

    def __init__(self, config: BrokerConfig, frontend: Receiver, poller: Poller) -> None:
        path = ipc_path(config.address)
        assert path is not None
        self.config = config
        self.frontend = frontend
        self.loop = asyncio.get_running_loop()
        self.poller = poller
        self.log = SparingLog(log)
        self.heard = 0  # how often any client was read from
        self.unread = Unread(config)
        # Connections, from accept until they end.
        self.peers: set[IpcPeer] = set()
        self.unfinished = Unfinished(config.max_request_bytes, self.loop)
        self._path = path
        self._door = Door(config)
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
        until = monotonic() + SECONDS_AT_ONCE
        while monotonic() < until:
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
            objection = self._door.objection(connection, uid, gid)
            if objection is not None:
                self.log.warning("client refused pid=%d uid=%d gid=%d reason=%s", pid, uid, gid, objection[0])
                self._refuse(connection, objection[1])
            else:
                self._door.enter(uid)
                self.peers.add(IpcPeer(self, connection, uid, gid, pid))

    def forget(self, peer: IpcPeer) -> None:
        """It is about to be closed."""
        assert peer.uid is not None
        self.peers.discard(peer)
        self.unfinished.note(peer, 0)
        self._door.leave(peer.uid)

    def _refuse(self, connection: socket.socket, reason: str) -> None:
        """Tell why, and close."""
        with connection, contextlib.suppress(OSError):
            connection.send(refusal(reason))

    def _accept_again(self) -> None:
        if self._listener.fileno() >= 0:
            self.poller.add_reader(self._listener.fileno(), self._accept)


class IpcPeer(Peer):
    """One connection."""

    __slots__ = (
        "_heard", "_is_dropped", "_is_reading", "_is_scheduled", "_outgoing", "_socket", "_timer", "_transport",
        "_zmtp", "taken_at",
    )  # fmt: skip

    def __init__(self, transport: IpcTransport, connection: socket.socket, uid: int, gid: int, pid: int) -> None:
        super().__init__(uid, gid, pid)
        self._transport = transport
        self._socket = connection
        self._zmtp = ZmtpConnection(transport.config.max_request_bytes, SERVER)
        # What the socket did not take; while there is any, the loop watches for room. None until then.
        self._outgoing: Outgoing | None = None
        self.taken_at = 0.0  # when the socket last took something of that
        self._is_reading = True
        self._is_dropped = False
        self._is_scheduled = False  # whether it will take more messages soon
        self._heard = 0  # the transport's, when that was decided
        # Of the handshake, later of a client that leaves too much unread.
        self._timer: asyncio.TimerHandle | None = transport.loop.call_later(HANDSHAKE_TIMEOUT, self._handshake_overdue)
        transport.poller.add_reader(connection.fileno(), self._readable)
        self._flush_zmtp()

    def send(self, message: bytes) -> bool:
        """Send the message, or keep what the socket does not take now."""
        if self._is_dropped or self not in self._transport.peers:
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
        transport.forget(self)
        if self._timer is not None:
            self._timer.cancel()
        descriptor = self._socket.fileno()
        transport.poller.remove_reader(descriptor)
        if self._outgoing is not None:
            transport.unread.size -= self._outgoing.size
            transport.poller.remove_writer(descriptor)
        self._socket.close()

    def _end(self) -> None:
        if self in self._transport.peers:
            self.close()
            self._transport.frontend.gone(self)

    def _readable(self) -> None:
        self._transport.heard += 1
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
        self._receive(data)

    def _receive(self, data: bytes) -> None:
        """Hand what came to ZMTP, and on what comes of it."""
        zmtp = self._zmtp
        try:
            zmtp.received(data)
        except ZmtpError as error:
            self._drop_line("%s", error)
            self._flush_zmtp()
            self.drop()
            return
        self._transport.unfinished.note(self, 0 if zmtp.is_behind else zmtp.unfinished)
        if zmtp.outbox:
            self._flush_zmtp()
        if self._timer is not None and zmtp.is_ready and not self._is_over():
            self._stop_timer()
        self._take()

    def _take(self) -> None:
        """Give the frontend the messages that are whole; of many, some now."""
        frontend, inbox = self._transport.frontend, self._zmtp.inbox
        until = monotonic() + SECONDS_AT_ONCE
        while inbox and not self._is_dropped:
            payload = inbox.popleft()
            if payload is None:
                frontend.violated(self, "a message has one frame")
            else:
                frontend.message(self, payload)
            if monotonic() > until:
                break
        if inbox or self._zmtp.is_behind:
            self._pause_reading()
            if not self._is_scheduled:
                self._is_scheduled = True
                self._heard = self._transport.heard
                self._transport.loop.call_soon(self._on_schedule)
        frontend.wake()

    def _on_schedule(self) -> None:
        if self._outgoing is not None:
            self._transport.loop.call_later(UNREAD_PAUSE, self._after_pause)
        elif self._heard != self._transport.heard:
            self._transport.loop.call_later(FLOOD_PAUSE, self._after_pause)
        else:
            self._after_pause()

    def _after_pause(self) -> None:
        self._is_scheduled = False
        self._take_more()

    def _take_more(self) -> None:
        if self._is_scheduled or self._is_dropped or self not in self._transport.peers or self._is_over():
            return
        if self._zmtp.inbox:
            self._take()
        elif self._zmtp.is_behind:
            self._receive(b"")
        if not self._is_scheduled:
            self._resume_reading()

    def _flush_zmtp(self) -> None:
        outbox = self._zmtp.outbox
        if outbox:
            data = bytes(outbox)
            outbox.clear()
            self._write(data)

    def _write(self, *buffers: bytes) -> None:
        sent = 0
        if self._outgoing is None:
            size = sum(map(len, buffers))
            try:
                sent = self._socket.send(buffers[0]) if len(buffers) == 1 else self._socket.sendmsg(buffers)
            except BlockingIOError:
                pass
            except OSError:
                return  # the end of the file follows, and tells the rest
            if sent == size:
                return
            self._transport.poller.add_writer(self._socket.fileno(), self._writable)
            self._outgoing = Outgoing()
            self.taken_at = monotonic()
            self._transport.frontend.stalled(self)
        before = self._outgoing.size
        for buffer in buffers:
            self._outgoing.add(buffer)
        self._outgoing.take_away(sent)
        self._transport.unread.changed(self._outgoing.size - before, self._transport.peers)
        if self._is_dropped:
            return
        if self._outgoing.size > self._transport.unread.most_by_one:
            self._leaves_unread("")
            self.drop()
        elif self._is_over():
            self._pause_reading()
            if self._timer is None:
                timeout = self._transport.config.client_write_timeout
                self._timer = self._transport.loop.call_later(timeout, self._write_overdue, timeout)

    def _writable(self) -> None:
        outgoing = self._outgoing
        assert outgoing is not None
        if self._is_dropped:
            return
        try:
            sent = self._socket.sendmsg(outgoing.next())
        except BlockingIOError:
            return
        except OSError:
            self.drop()
            return
        outgoing.take_away(sent)
        self._transport.unread.size -= sent
        self.taken_at = monotonic()
        if not outgoing.size:
            self._outgoing = None
            self._transport.poller.remove_writer(self._socket.fileno())
            self._transport.frontend.reads(self)
        if not self._is_over():
            if self._zmtp.is_ready:
                self._stop_timer()
            self._take_more()

    def _is_over(self) -> bool:
        """Whether more is unread than a client may leave."""
        return self._outgoing is not None and self._outgoing.size > self._transport.config.client_buffer_bytes

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pause_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._transport.poller.remove_reader(self._socket.fileno())

    def _resume_reading(self) -> None:
        if not self._is_reading and not self._is_dropped and not self._is_over():
            self._is_reading = True
            self._transport.poller.add_reader(self._socket.fileno(), self._readable)

    def _handshake_overdue(self) -> None:
        self._drop_line("no handshake within %g s", HANDSHAKE_TIMEOUT)
        self._timer = None
        self.drop()

    def drop(self) -> None:
        """Close it soon, in a turn of its own, and send nothing more."""
        if not self._is_dropped:
            self._is_dropped = True
            self._pause_reading()
            self._transport.loop.call_soon(self._end)

    @property
    def is_heard(self) -> bool:
        """For `Unfinished`."""
        return self._is_reading

    def drop_unfinished(self, size: int, reason: str) -> None:
        """For `Unfinished`."""
        self._drop_line("a message of which %d bytes came: %s", size, reason)
        self.drop()

    @property
    def unread(self) -> int:
        """Bytes that it leaves unread; 0 once it is to be dropped."""
        return 0 if self._outgoing is None or self._is_dropped else self._outgoing.size

    def drop_unread(self) -> None:
        """There is too much unread, and of this client much."""
        assert self._outgoing is not None
        self._leaves_unread(", and all clients more than max_buffered_bytes = %d", self._transport.unread.most)
        self._transport.unread.size -= self._outgoing.size
        self._outgoing = Outgoing()
        self.drop()

    def _write_overdue(self, timeout: float) -> None:
        self._timer = None
        self._leaves_unread(" for client_write_timeout = %g s", timeout)
        self._end()

    def _leaves_unread(self, rest: str, *values: float) -> None:
        assert self._outgoing is not None
        self._transport.frontend.dropped += 1
        self._drop_line(f"it left %d bytes of replies unread{rest}", self._outgoing.size, *values)

    def _drop_line(self, reason: str, *values: object) -> None:
        self._transport.log.warning(f"client dropped pid=%d reason={reason}", self.pid, *values)
