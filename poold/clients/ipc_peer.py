"""One client of an ipc:// address: messages are read in turns, unread replies are kept up to a limit."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from array import array
from enum import IntEnum
from time import monotonic
from typing import TYPE_CHECKING

from client.wire.zmtp import SERVER, ZmtpConnection, ZmtpError
from poold.clients.send_buffer import COPY_BELOW, SendBuffer
from poold.clients.transport import Peer

if TYPE_CHECKING:
    from poold.clients.ipc import IpcTransport

RECEIVE_BYTES = 65536
# How long messages of one client are taken, and connections accepted, in one go. A client that has sent more waits for
# its next turn: FLOOD_PAUSE if other clients were read from meanwhile, and UNREAD_PAUSE if it leaves replies unread, as
# nothing is begun for it then anyway.
SECONDS_AT_ONCE = 0.0001
FLOOD_PAUSE = 0.001
UNREAD_PAUSE = 0.01
HANDSHAKE_TIMEOUT = 2.0


class PeerState(IntEnum):
    """Whether a client is read from."""

    READING = 0  # it is read from
    WAITING = 1  # messages received already wait for their turn, and no more is read
    HELD = 2  # no more is read: it leaves too much unread, or its turn has come
    LEAVING = 3  # the conversation is over; nothing is read, and what was sent before still goes out
    DROPPED = 4  # to be closed in a callback of its own; nothing is read or sent
    CLOSED = 5  # gone


# Plain names, used for every message: to look up a member of an Enum costs five times as much.
READING, WAITING, HELD, LEAVING, DROPPED, CLOSED = PeerState
_NEXT = (  # what may follow each of them
    (WAITING, HELD, LEAVING, DROPPED, CLOSED),
    (HELD, LEAVING, DROPPED, CLOSED),
    (READING, WAITING, LEAVING, DROPPED, CLOSED),
    (DROPPED, CLOSED),
    (CLOSED,),
    (),
)


class IpcPeer(Peer):
    """One client's connection."""

    shares_memory = True
    __slots__ = ("_heard", "_outgoing", "_socket", "_state", "_timer", "_transport", "_zmtp", "taken_at")

    def __init__(self, transport: IpcTransport, connection: socket.socket, uid: int, gid: int, pid: int) -> None:
        super().__init__(uid, gid, pid)
        self._transport = transport
        self._socket = connection
        self._zmtp = ZmtpConnection(transport.config.broker.max_request_bytes, SERVER)
        # Replies that the socket did not take yet; while there are any, the loop watches for room. Else None.
        self._outgoing: SendBuffer | None = None
        self.taken_at = 0.0  # when the socket last took some of these
        self._state = READING
        self._heard = 0  # transport.heard when the client began to wait for its turn
        # The time limit of the handshake, later of leaving too much unread, or anything once the conversation is over.
        self._timer: asyncio.TimerHandle | None = transport.loop.call_later(HANDSHAKE_TIMEOUT, self._handshake_overdue)
        transport.poller.add_reader(connection.fileno(), self._readable)
        self._flush_zmtp()

    def send(self, message: bytes) -> bool:
        """Send the message, or keep what the socket does not take now; False if the client is gone."""
        if self._state >= LEAVING:
            return False
        if len(message) < COPY_BELOW:
            self._write(self._zmtp.encoded(message))
        else:
            self._write(self._zmtp.head(message), message)
        return True

    def welcome(self, message: bytes) -> None:
        """Send the first message, and along with it the descriptor of the client's entry, if it has one."""
        data = self._zmtp.encoded(message)
        if self.entry is None or self._outgoing is not None or self._state >= LEAVING:
            self._write(data)
            return
        sent, along = 0, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [self.entry.descriptor]))]
        try:
            sent = self._socket.sendmsg([data], along)
        except OSError:
            pass  # it goes without, or the end of the file follows and is handled there
        if sent < len(data):
            self._write(data[sent:])

    def greeted(self, client: object) -> None:
        """Let the lane serve the client."""
        self._transport.poller.enter(self._socket.fileno(), self, client)

    @property
    def is_quiet(self) -> bool:
        """Whether the lane may read the next message and send its reply: nothing else is under way."""
        return self._state is READING and self._outgoing is None and self._timer is None and self._zmtp.is_drained

    def keep(self, data: bytes) -> None:
        """Send the rest of what the lane could not send."""
        self._write(data)

    def read_last(self) -> None:
        """Take all messages that have come, and let the client fail to send others."""
        if self._state >= LEAVING:
            return
        if self._state is not HELD:
            self._become(HELD)
        try:
            self._socket.shutdown(socket.SHUT_RD)  # what has come already can be read
            self._take_all(b"")
            while self._state < LEAVING and (data := self._socket.recv(RECEIVE_BYTES)):
                self._take_all(data)
        except ZmtpError as error:
            self._drop_line("%s", error)
            self._cut()
        except OSError:
            self._cut()  # it is gone

    def _take_all(self, data: bytes) -> None:
        """Give the frontend all messages that are whole with this data; raises ZmtpError."""
        zmtp = self._zmtp
        zmtp.received(data)
        while self._state < LEAVING:
            while zmtp.inbox:
                self._give(zmtp.inbox.popleft())
            if not zmtp.is_behind:
                break
            zmtp.received(b"")
        self._flush_zmtp()

    def close(self) -> None:
        """Close the connection; the caller tells the frontend."""
        transport = self._transport
        if self._state is CLOSED:
            return
        self._become(CLOSED)
        transport.forget(self)
        if self._timer is not None:
            self._timer.cancel()
        descriptor = self._socket.fileno()
        if self._outgoing is not None:
            transport.unread.size -= self._outgoing.size
            transport.poller.remove_writer(descriptor)
        transport.poller.leave(descriptor)
        self._socket.close()

    def _become(self, state: PeerState) -> None:
        """Change the state; a transition that the table does not know is a bug and raises."""
        if state not in _NEXT[self._state]:
            raise AssertionError(f"a client that is {self._state.name} cannot become {state.name}")
        if self._state is READING:
            self._transport.poller.remove_reader(self._socket.fileno())
        elif state is READING:
            self._transport.poller.add_reader(self._socket.fileno(), self._readable)
        self._state = state

    def _end(self) -> None:
        if self._state is not CLOSED:
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
        self.received(data)

    def received(self, data: bytes) -> None:
        """Take received bytes; none at the end of the file."""
        if not data:
            self._cut()
            return
        zmtp = self._zmtp
        payload = zmtp.only_message(data)
        if payload is not None and not zmtp.inbox:
            self._transport.frontend.message(self, payload)
            self._transport.frontend.wake()
            return
        self._receive(data)

    def _receive(self, data: bytes) -> None:
        """Hand received bytes to ZMTP, and take the messages that come of them."""
        zmtp = self._zmtp
        try:
            zmtp.received(data)
        except ZmtpError as error:
            self._drop_line("%s", error)
            self._flush_zmtp()
            self._cut()
            return
        self._transport.unfinished.note(self, 0 if zmtp.is_behind else zmtp.unfinished)
        if zmtp.outbox:
            self._flush_zmtp()
        if self._timer is not None and zmtp.is_ready and not self._is_over():
            self._stop_timer()
        self._take()

    def _take(self) -> None:
        """Give the frontend the messages that are whole, as many as SECONDS_AT_ONCE allows."""
        frontend, inbox = self._transport.frontend, self._zmtp.inbox
        until = monotonic() + SECONDS_AT_ONCE
        while inbox and self._state < LEAVING:
            self._give(inbox.popleft())
            if monotonic() > until:
                break
        if self._state < LEAVING and (inbox or self._zmtp.is_behind):
            self._become(WAITING)
            self._heard = self._transport.heard
            self._transport.loop.call_soon(self._choose_pause)
        frontend.wake()

    def _give(self, payload: bytes | None) -> None:
        """Give the frontend a message, None if it was none of one frame."""
        if payload is None:
            self._transport.frontend.violated(self, "a message has one frame")
        else:
            self._transport.frontend.message(self, payload)

    def _choose_pause(self) -> None:
        if self._outgoing is not None:
            self._transport.loop.call_later(UNREAD_PAUSE, self._after_pause)
        elif self._heard != self._transport.heard:
            self._transport.loop.call_later(FLOOD_PAUSE, self._after_pause)
        else:
            self._after_pause()

    def _after_pause(self) -> None:
        if self._state is WAITING and not self._transport.is_ending:
            self._become(HELD)
            if not self._is_over():
                self._take_more()

    def _take_more(self) -> None:
        """Take messages of a client that was held, and read from it again if it may go on."""
        if self._transport.is_ending:
            self._transport.sent()
            return
        if self._zmtp.inbox:
            self._take()
        elif self._zmtp.is_behind:
            self._receive(b"")
        if self._state is HELD and not self._is_over():
            self._become(READING)

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
                return  # the end of the file follows, and is handled there
            if sent == size:
                return
            self._transport.poller.add_writer(self._socket.fileno(), self._writable)
            self._outgoing = SendBuffer()
            self.taken_at = monotonic()
            self._transport.frontend.stalled(self)
        before = self._outgoing.size
        for buffer in buffers:
            self._outgoing.add(buffer)
        self._outgoing.take_away(sent)
        self._transport.unread.changed(self._outgoing.size - before, self._transport.peers)
        if self._state >= LEAVING:
            return
        if self._outgoing.size > self._transport.unread.most_by_one:
            self._leaves_unread("")
            self._cut()
        elif self._is_over():
            if self._state is READING:
                self._become(HELD)
            if self._timer is None:
                timeout = self._transport.config.broker.client_write_timeout
                self._timer = self._transport.loop.call_later(timeout, self._write_overdue, timeout)

    def _writable(self) -> None:
        outgoing = self._outgoing
        assert outgoing is not None
        if self._state >= DROPPED:
            return
        try:
            sent = self._socket.sendmsg(outgoing.next())
        except BlockingIOError:
            return
        except OSError:
            self._cut()
            return
        outgoing.take_away(sent)
        self._transport.unread.size -= sent
        self.taken_at = monotonic()
        if not outgoing.size:
            self._outgoing = None
            self._transport.poller.remove_writer(self._socket.fileno())
            if self._state is LEAVING:
                self._end()
                return
            self._transport.frontend.reads(self)
        if self._state is not LEAVING and not self._is_over():
            if self._zmtp.is_ready:
                self._stop_timer()
            if self._state is HELD:
                self._take_more()

    def _is_over(self) -> bool:
        """Whether the client leaves more unread than it may."""
        return self._outgoing is not None and self._outgoing.size > self._transport.config.broker.client_buffer_bytes

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _handshake_overdue(self) -> None:
        self._drop_line("no handshake within %g s", HANDSHAKE_TIMEOUT)
        self._timer = None
        self._cut()

    def drop(self) -> None:
        """End the conversation soon, in a callback of its own; the connection once what was sent before is out."""
        if self._state < LEAVING:
            self._become(LEAVING)
            self._transport.loop.call_soon(self._leave)

    def _leave(self) -> None:
        if self._state is not LEAVING:
            return
        if self._outgoing is None:
            self._end()
            return
        with contextlib.suppress(OSError):  # the client is gone, which sending finds out
            self._socket.shutdown(socket.SHUT_RD)  # so that it fails to send anything more
        self._transport.poller.leave(self._socket.fileno())
        self._stop_timer()
        timeout = self._transport.config.broker.client_write_timeout
        self._timer = self._transport.loop.call_later(timeout, self._write_overdue, timeout)
        self._transport.frontend.gone(self)

    def _cut(self) -> None:
        """Close the connection soon, in a callback of its own, and send nothing more."""
        if self._state < DROPPED:
            self._become(DROPPED)
            self._transport.loop.call_soon(self._end)

    @property
    def is_heard(self) -> bool:
        """Whether the client is read from, for `PartialMessages`."""
        return self._state is READING

    def drop_unfinished(self, size: int, reason: str) -> None:
        """Drop the client because a message did not end, for `PartialMessages`."""
        self._drop_line("a message of which %d bytes came: %s", size, reason)
        self._cut()

    @property
    def unread(self) -> int:
        """Bytes that the client leaves unread; 0 once it is to be dropped."""
        return 0 if self._outgoing is None or self._state >= DROPPED else self._outgoing.size

    def drop_unread(self) -> None:
        """Drop the client because all clients together leave too much unread; forget its replies."""
        assert self._outgoing is not None
        self._leaves_unread(", and all clients more than max_buffered_bytes = %d", self._transport.unread.most)
        self._transport.unread.size -= self._outgoing.size
        self._outgoing = SendBuffer()
        self._cut()

    def _write_overdue(self, timeout: float) -> None:
        self._timer = None
        self._leaves_unread(" for client_write_timeout = %g s", timeout)
        self._end()

    def _leaves_unread(self, rest: str, *values: float) -> None:
        assert self._outgoing is not None
        self._transport.frontend.dropped += 1
        self._drop_line(f"it left %d bytes of replies unread{rest}", self._outgoing.size, *values)

    def _drop_line(self, reason: str, *values: object) -> None:
        self._transport.log.warning("client dropped pid=%d reason=%s", self.pid, reason % values)
