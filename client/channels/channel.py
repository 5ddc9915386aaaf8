"""One conversation with one broker, used by one call at a time.

A channel connects once. When the broker goes away the channel is broken for good and its owner makes another, so a
channel, its request numbers and the leases opened through it live and die together. It is a plain blocking socket that
speaks ZeroMQ's protocol (`client.wire.zmtp`): no thread, no lock, one send, and mostly one recv, per request. Only if
there are keys, libzmq is behind it for encryption (`client.channels.curve`).

An exception may interrupt a call between any two instructions: a signal handler (of a time limit, of Ctrl-C) runs
wherever Python happens to be. A request may then be half sent, or a reply half read, and the bytes that follow would be
misread. So a channel counts as asked from before a request's first byte until its reply was taken. If a call ends while
its channel is asked, the channel is closed, which withdraws the request, and the exception goes on.

A broker that ends closes the connection, so a wait for its reply ends at once. One that hangs does not: after a silence
it is asked with ZeroMQ's PING, which it always answers.

A channel inherited over fork belongs to the parent: owners compare `pid` before each use. The child closes its copy of
the descriptor: it would keep the connection open, and the broker would not notice if the parent died.
"""

import os
import socket
import time
import weakref
from typing import TYPE_CHECKING, Any, NoReturn

from client.channels.begun import Begun
from client.channels.conversing import GoOn, conversed
from client.channels.ends import goodbye, no_answer, no_handshake, not_answered, not_sent, tells_of_unread
from client.channels.forks import let_go_after_fork
from client.channels.hello import greet
from client.channels.ledger import NOTHING_SHARED, shared
from client.channels.sockets import PlainSocket, connected
from client.channels.timeouts import CONNECT_TIMEOUT, GONE_AFTER, PING_AFTER, TRUSTED_FOR, WELCOME_TIMEOUT
from client.compiled import load
from client.errors import UNSERVED, DBError, UsageError, connection_error, error_from
from client.interruptions import is_own
from client.wire.codec import decode_reply, encode
from client.wire.keyfiles import Keys
from client.wire.limits import MAX_REQUEST_BYTES, REPLY_OVERHEAD_BYTES
from client.wire.messages import (
    NOT_EXECUTED,
    UNKNOWN,
    Answer,
    Failure,
    Hello,
    ProtocolViolation,
    Request,
    ResultMessage,
    ToBroker,
    ToClient,
    TransactionResult,
    Welcome,
    plain_failure,
)
from client.wire.zmtp import PING, ZmtpConnection, ZmtpError, ZmtpRefused, frame, frame_head

RECEIVE_BYTES = 65536
# From this size on a copy of the request costs more than another system call.
COPY_BELOW = 65536

if TYPE_CHECKING:
    _Fields = object
else:
    # Compiled code, where it is, works on the fields too.
    _Fields = getattr(load("client.lane.records"), "ChannelFields", object)


class Channel(_Fields):
    """A conversation with the broker at address; raises DBConnectionError if none is there within wait seconds.

    patience bounds the wait for the broker's Welcome, in seconds, if it is shorter than WELCOME_TIMEOUT.
    """

    def __init__(
        self, address: str, keys: Keys | None = None, patience: float | None = None, wait: float = CONNECT_TIMEOUT
    ) -> None:
        self.address = address
        self.pid = os.getpid()
        self.welcome: Welcome
        # The last error that this channel raised: a caller compares, as other code may raise the same class. Held
        # weakly: its traceback refers to the channel, and such a cycle would last until the next garbage collection.
        self._error: weakref.ref[DBError] | None = None
        self._last_request = 0
        self._asked = self._answered = 0  # the last request of which a byte may have gone, and whose reply was taken
        self._is_broken = False
        # The last request behind which something else was sent, and whether the broker has gone without reading all.
        self._spoke_in, self._is_unread = 0, False
        self._is_over, self._ledger = False, NOTHING_SHARED  # whether it has gone, and what it has begun
        self.goodbye: Failure | None = None  # why the broker has ended the conversation, if it has said so
        self._heard = 0.0  # when the broker last sent something
        self._is_drained = False  # False: it has to be looked up whether all that came was taken
        self._max_request_bytes = MAX_REQUEST_BYTES  # until Welcome tells the broker's own
        self._zmtp = ZmtpConnection(REPLY_OVERHEAD_BYTES, is_ready=keys is not None)
        self._socket = connected(address, keys, wait)
        try:
            let_go_after_fork(self._socket)
            self.welcome = greet(self, WELCOME_TIMEOUT if patience is None else min(patience, WELCOME_TIMEOUT))
            self._ledger = shared(self._socket, self.welcome)
        except BaseException:
            self.close()
            raise
        # For compiled code, which uses plain sockets only: the descriptor, and whether a group has autocommit.
        self._descriptor = self._socket.fileno() if type(self._socket) is PlainSocket else -1
        self._groups = self.welcome.groups
        self._max_request_bytes = self.welcome.max_request_bytes
        self._zmtp.max_message_bytes = self.welcome.max_result_bytes + REPLY_OVERHEAD_BYTES

    @property
    def is_usable(self) -> bool:
        """Whether the broker is still there and this process may use the channel. Reads from the socket."""
        if self.pid != os.getpid() or self._asked != self._answered:
            return False
        if not self._is_broken and time.monotonic() - self._heard > TRUSTED_FOR:
            self._look()
        return not self._is_broken

    def next_request(self) -> int:
        """A number for the next request, greater than all before."""
        self._last_request += 1
        return self._last_request

    def was_sent(self, request: int) -> bool:
        """Whether a byte of this request may have been sent."""
        return self._asked >= request

    def was_answered(self, request: int) -> bool:
        """Whether the reply to this request was taken."""
        return self._answered >= request

    def call(
        self, message: Request | Begun, patience: float | None = None, go_on: GoOn | None = None
    ) -> ResultMessage | TransactionResult | Answer:
        """Send the request, or go on with it, and wait for its reply; a Failure is raised as its error.

        patience bounds sending and waiting together, in seconds; the broker enforces its own limits, so patience only
        has to cover a broker that hangs. If a request that may have been sent ends without its reply, the channel is
        closed and the broker withdraws the request. Exceptions of signal handlers pass unchanged. go_on is for a COPY,
        as in `client.channels.conversing`.
        """
        request = message[0]
        reply: ResultMessage | TransactionResult | Answer | Failure | None
        try:
            if self._asked != self._answered and not isinstance(message, Begun):
                self.close()  # an earlier call was interrupted before it could close the channel
            if isinstance(message, Begun):
                self._go_on(message)
                reply = self.reply_to(request, patience)
            elif go_on is not None:
                reply = conversed(self, message, patience, go_on)
            elif patience is None:
                self.send(message)
                # The hot path: the reply comes alone and whole.
                reply = self._quick_reply(request)
                if reply is None:
                    reply = self.reply_to(request, None)
            else:
                deadline = time.monotonic() + patience
                self.send(message, deadline)
                reply = self.reply_to(request, patience, deadline)
            self._answered = request
        except BaseException:
            if self._asked != self._answered:
                self.close()
            raise
        if type(reply) is Failure:
            raise self._own(error_from(reply))
        return reply  # type: ignore[return-value]  # no Failure

    def _quick_reply(self, request: int) -> ResultMessage | TransactionResult | Answer | Failure | None:
        """Return the reply if it comes next and in one piece; else keep what came and return None."""
        zmtp = self._zmtp
        if zmtp.inbox:
            return None
        try:
            data = self._socket.receive(RECEIVE_BYTES, PING_AFTER)
        except OSError as error:
            if not is_own(error):
                raise
            self._is_unread = tells_of_unread(self.address, error)
            return None  # _receive meets the error again and handles it
        payload = zmtp.only_message(data)
        if payload is None:
            self._take(data)
            return None
        self._heard = time.monotonic()
        reply = self._decoded(payload)
        if reply[0] == request and type(reply) is not Welcome:
            return reply  # type: ignore[return-value]  # no Welcome
        self._is_drained = False
        zmtp.inbox.append(payload)
        return None

    def post(self, message: ToBroker) -> None:
        """Send a message that gets no reply; do nothing if the broker is gone, as the message has no purpose then."""
        if not self._is_broken:
            self._is_broken = True  # until all of it has gone out
            try:
                self._socket.sendall(frame(encode(message)), socket.MSG_DONTWAIT)
            except OSError as error:
                if not is_own(error):
                    raise
            else:
                self._is_broken = False

    def close(self) -> None:
        """End the conversation; the broker drops what this client still had there."""
        self._is_broken = True
        self._socket.close()

    def is_unserved(self, error: BaseException) -> bool:
        """Whether the error, of a call, says that no broker has begun the request: another one may have it."""
        return error is self.error and isinstance(error, DBError) and error.failure.kind == UNSERVED

    @property
    def error(self) -> DBError | None:
        """The last error that the channel itself raised, None if nothing refers to it any more."""
        return None if self._error is None else self._error()

    def _own(self, error: DBError) -> DBError:
        """Return the error, remembered as this channel's."""
        self._error = weakref.ref(error)
        return error

    def shake_hands(self, deadline: float) -> bool:
        """Go through ZeroMQ's handshake; return False if it is not over at the deadline."""
        while not self._zmtp.is_ready:
            if self._is_broken:
                raise self._own(no_handshake(self.address))
            if time.monotonic() >= deadline:
                return False
            self._flush()
            self._receive(deadline)
        return True

    def _go_on(self, begun: Begun) -> None:
        """Send what is left of a request, and take what has come."""
        if begun.unsent:
            try:
                self._socket.sendall(begun.unsent)
            except OSError as error:
                self._not_sent(error)
        if begun.received is not None:
            self._take(begun.received)

    def send(self, message: ToBroker, deadline: float | None = None) -> None:
        """Send the message; raises DBConnectionError if not all of it could be sent. `call` goes on with a Begun."""
        encoded = encode(message)
        if len(encoded) > self._max_request_bytes:
            size, most = len(encoded), self._max_request_bytes
            text = f"the request has {size} bytes, the broker takes at most {most} (max_request_bytes)"
            raise self._own(UsageError(f"{text}; send it in parts"))
        is_more = self._asked == message[0] != self._answered  # of a COPY that is under way
        if self._asked != self._answered:
            self._spoke_in = message[0]
        if type(message) is not Hello:
            self._asked = message[0]
        try:
            if deadline is not None:
                self._socket.send_by(frame(encoded), deadline)
            elif len(encoded) < COPY_BELOW:
                self._socket.sendall(frame(encoded))
            else:
                self._socket.sendall(frame_head(encoded), socket.MSG_MORE)
                self._socket.sendall(encoded)
        except OSError as error:
            self._not_sent(error, is_more)

    def _not_sent(self, error: OSError, is_more: bool = False) -> NoReturn:
        """Raise what tells that a request, or more of one, was not sent as a whole."""
        if not is_own(error):
            raise error
        self._look()
        self._is_broken = True
        raise self._own(not_sent(self.address, error, is_more, self.goodbye)) from None

    def reply_to(self, request: int, patience: float | None, deadline: float | None = None) -> Any:
        """Return the next message about this request; skip late replies to requests given up earlier."""
        if deadline is None and patience is not None:
            deadline = time.monotonic() + patience
        while True:
            reply = self.next_reply(deadline)
            if reply is None:
                raise self._own(no_answer(self.address, patience or 0.0))
            if self._is_about(request, reply):
                return reply

    def replies_here(self, request: int) -> list[Any]:
        """Return the messages about this request that have come; a silence counts from here on."""
        while self._receive(None, 0.0) and not self._is_broken:
            pass
        self._heard = time.monotonic()
        found: list[Any] = []
        while self._zmtp.inbox or (self._is_broken and not found):
            reply = self.next_reply(None)
            if self._is_about(request, reply):
                found.append(reply)
        return found

    def _is_about(self, request: int, reply: Any) -> bool:
        """Whether the message is about this request; raises what the broker says of the conversation as a whole."""
        if isinstance(reply, Welcome):
            return False
        if isinstance(reply, Failure) and reply.request == 0:
            self._is_broken, self.goodbye = True, reply
            raise self._own(goodbye(reply))
        return bool(reply.request == request)

    def next_reply(self, deadline: float | None) -> ToClient | None:
        """Return the next message from the broker, None at the deadline if none has come until it is looked for."""
        inbox = self._zmtp.inbox
        while not inbox:
            has_come = self._receive(deadline)  # also behind the deadline: it may have come while this process slept
            if self._is_broken and not inbox:
                is_unread = not self._asked or (self._is_unread and self._asked != self._spoke_in)
                has_not_begun = self._is_over and self._ledger.has_not_begun(self._asked)
                raise self._own(not_answered(self.address, is_unread, has_not_begun))
            if not has_come and deadline is not None and time.monotonic() >= deadline:
                return None
        return self._decoded(inbox.popleft() or b"")

    def _decoded(self, payload: bytes) -> ToClient:
        try:
            return decode_reply(payload)
        except ProtocolViolation as error:
            self._is_broken = True
            raise self._own(error_from(plain_failure("protocol", UNKNOWN, str(error)))) from error

    def _receive(self, deadline: float | None, most: float = PING_AFTER) -> bool:
        """Take what comes within so many seconds, and until the deadline; return whether anything did."""
        wait = most if deadline is None else min(most, max(0.001, deadline - time.monotonic()))
        try:
            data = self._socket.receive(RECEIVE_BYTES, wait)
        except OSError as error:
            if not is_own(error):
                raise
            if isinstance(error, BlockingIOError):
                if most:
                    self._break_silence()
                return False
            self._is_unread = tells_of_unread(self.address, error)
            data = b""
        self._take(data)
        return bool(data)

    def _take(self, data: bytes) -> bool:
        """Hand received bytes to ZMTP; return False if the connection has ended (no bytes)."""
        self._is_drained = False
        self._heard = time.monotonic()
        if not data:
            self._is_broken = self._is_over = True
            return False
        try:
            self._zmtp.received(data)
        except ZmtpRefused as error:
            self._is_broken = True
            raise self._own(connection_error(f"it refused the connection: {error}", NOT_EXECUTED, True)) from None
        except ZmtpError as error:
            self._is_broken = True
            text = f"{self.address}: {error}; is it a poold broker?"
            raise self._own(error_from(plain_failure("protocol", UNKNOWN, text))) from error
        return self._flush() if self._zmtp.outbox and self._zmtp.is_ready else True

    def _flush(self) -> bool:
        """Send what ZMTP has to say; return False if the connection has ended."""
        data, self._zmtp.outbox = self._zmtp.outbox, bytearray()
        self._spoke_in = self._asked
        try:
            self._socket.sendall(data)
        except OSError as error:
            if not is_own(error):
                raise
            self._is_broken = True
            return False
        return True

    def _break_silence(self) -> None:
        """Find out why nothing came for a while: the broker waits for PostgreSQL, or is gone."""
        silence = time.monotonic() - self._heard
        if self._heard and silence >= GONE_AFTER:
            self._is_broken = True
        elif silence >= PING_AFTER and self._zmtp.is_ready:
            self._zmtp.outbox += PING
            self._flush()

    def _look(self) -> None:
        """Take what came while nobody waited: an end of the connection, a PING, a late reply, the broker's goodbye."""
        self._is_broken = True  # until what came was taken
        try:
            data: bytes | None = self._socket.receive(RECEIVE_BYTES, 0.0)
        except OSError as error:
            if not is_own(error):
                raise
            data = None if isinstance(error, BlockingIOError) else b""
        is_over = data is not None and not self._take(data)
        while self._zmtp.inbox and self.goodbye is None:
            reply = self._decoded(self._zmtp.inbox.popleft() or b"")
            if isinstance(reply, Failure) and reply.request == 0:
                self.goodbye, is_over = reply, True
        self._heard = time.monotonic()
        self._is_broken = is_over
