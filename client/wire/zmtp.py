"""ZMTP 3.1, as bytes in and bytes out: no socket, no clock.

ZeroMQ's own protocol (RFC 37/ZMTP, https://rfc.zeromq.org/spec/37/), so that the peer may be libzmq:

    greeting    64 bytes each way: signature, version, mechanism; ours is NULL, which has no authentication (with
                encryption `client.channels.curve` leaves all of this to libzmq)
    READY       a command each way with the socket's type
    frames      flags, length in 1 or 8 bytes, body; a message is one frame or several, all but the last with MORE
    commands    frames of their own: PING is answered with PONG, ERROR ends the connection

The client is a DEALER that connects to a ROUTER, the broker a ROUTER that DEALERs and REQs connect to; with NULL
nothing else distinguishes the two sides. A REQ puts an empty frame before its message, and expects one before the
answer.

Why not libzmq itself: it hands every message to a thread of its own and back, which costs more than everything else of
a request together, and it does not tell a side that the other is gone, which both need to know at once.

Every length is checked before memory is kept for it. What is absent: messages of several frames, which poold does not
use, so their frames are dropped as they come; mechanisms with authentication; versions before 3.0.
"""

from __future__ import annotations

from collections import deque

SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
GREETING_BYTES = 64
GREETING = SIGNATURE + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
# libzmq's READY and ERROR have some dozens of bytes.
MAX_COMMAND_BYTES = 4096

CLIENT, SERVER = "DEALER", "ROUTER"
# The types of sockets that each type can talk to.
_PEERS = {CLIENT: (b"ROUTER",), SERVER: (b"DEALER", b"REQ")}

# So many frames of one client a broker takes at once: thousands may have come together, while other clients wait.
FRAMES_AT_ONCE = 64

_MORE, _LONG, _COMMAND = 1, 2, 4
_PONG_CONTEXT_BYTES = 16


class ZmtpError(Exception):
    """The peer does not speak ZMTP as expected; the text says how."""


class ZmtpRefused(ZmtpError):
    """The peer has refused the connection; the text is its reason."""


class ZmtpConnection:
    """One connection: `received` takes bytes, `inbox` holds whole messages, `outbox` what must be sent.

    is_ready means that somebody else (libzmq) did the handshake, and only frames come.
    """

    __slots__ = (
        "_buffer",
        "_is_greeted",
        "_is_several",
        "_is_single",
        "_parts",
        "inbox",
        "is_behind",
        "is_ready",
        "max_message_bytes",
        "outbox",
        "peer",
        "role",
    )

    def __init__(self, max_message_bytes: int, role: str = CLIENT, *, is_ready: bool = False) -> None:
        self.max_message_bytes = max_message_bytes
        self.role = role
        self.peer = b""  # the other socket's type, once READY has come
        self.is_ready = is_ready
        # Messages of the peer: enter by received, leave by their reader. None is a dropped message of several frames.
        self.inbox: deque[bytes | None] = deque()
        # Bytes to be sent as they are: the handshake and answers to PING; their sender empties it.
        self.outbox = bytearray(b"" if is_ready else GREETING)
        # Whether there may be more whole frames in _buffer: `received(b"")` goes on with them.
        self.is_behind = False
        # Received bytes that are no whole greeting or frame yet.
        self._buffer = bytearray()
        self._is_greeted = is_ready
        # Whether the peer is ready and its messages have one frame: a REQ's have two.
        self._is_single = is_ready
        self._parts = 0  # frames of the message that is coming
        self._is_several = False  # whether that message has more than a delimiter before its last frame

    def received(self, data: bytes) -> None:
        """Take received bytes; raises ZmtpError, after which the connection is of no use."""
        self._buffer += data
        if not self._is_greeted and not self._take_greeting():
            return
        taken = 0
        while self._take_frame():
            taken += 1
            if taken == FRAMES_AT_ONCE and self.role == SERVER:
                self.is_behind = True
                return
        self.is_behind = False

    def only_message(self, data: bytes) -> bytes | None:
        """Return the message, if data is exactly one and no earlier bytes are pending; else None, and take nothing.

        The hot path of both sides.
        """
        size = len(data)
        if size > 1 and self._is_single and not self._buffer and not self._parts:
            if data[0] == 0:
                if size == data[1] + 2:
                    return data[2:]
            elif data[0] == _LONG and size > 8 and size == int.from_bytes(data[1:9], "big") + 9:
                return data[9:] if size <= self.max_message_bytes else None
        return None

    @property
    def is_drained(self) -> bool:
        """Whether all that has come was taken, all that had to be sent was, and only messages of one frame come."""
        return self._is_single and not (self.inbox or self.outbox or self._buffer or self._parts)

    @property
    def unfinished(self) -> int:
        """How many bytes have come of a greeting or frame that is not whole yet."""
        return len(self._buffer)

    def encoded(self, message: bytes) -> bytes:
        """Return the message as bytes for this peer."""
        return self.head(message) + message

    def head(self, message: bytes) -> bytes:
        """Return what is sent before the message, so that a long message need not be copied."""
        return b"\x01\x00" + frame_head(message) if self.peer == b"REQ" else frame_head(message)

    def _take_greeting(self) -> bool:
        greeting = self._buffer
        if greeting[:1] != SIGNATURE[: len(greeting[:1])] or greeting[9:10] != SIGNATURE[9 : len(greeting[:10])]:
            raise ZmtpError("the peer does not greet as ZeroMQ does")
        if len(greeting) > 10 and greeting[10] < 3:
            raise ZmtpError(f"the peer speaks ZMTP {greeting[10]}, expected 3 or later")
        if len(greeting) < GREETING_BYTES:
            return False
        mechanism = bytes(greeting[12:32]).rstrip(b"\0")
        if mechanism != b"NULL":
            raise ZmtpError(f"the peer wants the security mechanism {mechanism!r}, expected NULL")
        del greeting[:GREETING_BYTES]
        self._is_greeted = True
        self.outbox += command(b"READY", _property(b"Socket-Type", self.role.encode()))
        return True

    def _take_frame(self) -> bool:
        """Take one whole frame from the buffer; False if there is none yet."""
        buffer = self._buffer
        found = next_frame(buffer, self.max_message_bytes, self.role == SERVER)
        if found is None:
            return False
        flags, begin, end = found
        with memoryview(buffer) as view:
            body = bytes(view[begin:end])
        del buffer[:end]
        if flags & _COMMAND:
            self._take_command(body)
        elif not self.is_ready:
            raise ZmtpError("the peer sent a message before READY")
        else:
            self._take_part(body, bool(flags & _MORE))
        return True

    def _take_part(self, body: bytes, has_more: bool) -> None:
        """Take one frame of a message."""
        if has_more:
            # A REQ's first frame is its empty delimiter; any other with MORE is one too many.
            self._is_several = self._is_several or bool(self._parts) or bool(body) or self.peer != b"REQ"
            self._parts += 1
            return
        is_whole = not self._is_several and bool(self._parts) is (self.peer == b"REQ")
        self.inbox.append(body if is_whole else None)
        self._parts = 0
        self._is_several = False

    def _take_command(self, body: bytes) -> None:
        name = body[1 : 1 + body[0]] if body else b""
        if name == b"READY" and not self.is_ready:
            peer = _properties(body[6:]).get(b"socket-type", b"")
            if peer not in _PEERS[self.role]:
                self.outbox += command(b"ERROR", b"\x13Invalid socket type")
                raise ZmtpError(f"the peer is a {peer.decode('ascii', 'replace') or 'socket without a type'}")
            self.peer = peer
            self.is_ready = True
            self._is_single = peer != b"REQ"
        elif name == b"PING" and self.is_ready:
            # PING carries a time to live of two bytes and a context to be sent back.
            self.outbox += command(b"PONG", body[7 : 7 + _PONG_CONTEXT_BYTES])
        elif name == b"ERROR":
            raise ZmtpRefused(body[7:].decode("ascii", "replace"))
        elif name != b"PONG" or not self.is_ready:
            raise ZmtpError(f"the peer sent the command {name!r} out of place")


def next_frame(buffer: bytes | bytearray, max_message_bytes: int, may_be_several: bool) -> tuple[int, int, int] | None:
    """The first frame of the buffer: its flags, and where its body begins and ends; None if it is not whole yet.

    may_be_several: a message may have several frames. Raises ZmtpError for what is no frame, or is too long.
    """
    if len(buffer) < 2:
        return None
    flags = buffer[0]
    if flags & ~(_MORE | _LONG | _COMMAND) or (flags & _MORE and (flags & _COMMAND or not may_be_several)):
        raise ZmtpError(f"the peer sent a frame with flags {flags:#04x}, expected a message of one frame")
    begin = 9 if flags & _LONG else 2
    if len(buffer) < begin:
        return None
    length = int.from_bytes(buffer[1:begin], "big")
    limit = MAX_COMMAND_BYTES if flags & _COMMAND else max_message_bytes
    if length > limit:
        raise ZmtpError(f"the peer sent a frame of {length} bytes, expected at most {limit}")
    return None if len(buffer) < begin + length else (flags, begin, begin + length)


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value


def _properties(body: bytes) -> dict[bytes, bytes]:
    """Return READY's properties by name in lower case: case does not matter in names."""
    found = {}
    place = 0
    while place < len(body):
        end = place + 1 + body[place]
        length = int.from_bytes(body[end : end + 4], "big")
        if end + 4 + length > len(body):
            raise ZmtpError("the peer sent a READY that ends too early")
        found[body[place + 1 : end].lower()] = body[end + 4 : end + 4 + length]
        place = end + 4 + length
    return found


def command(name: bytes, body: bytes) -> bytes:
    """Return a command as a frame; name and body have less than 255 bytes together."""
    return bytes((_COMMAND, 1 + len(name) + len(body), len(name))) + name + body


# Asks whether the peer is there. Its time to live is 0: the peer need not close the connection if we fall silent.
PING = command(b"PING", b"\0\0")


def refusal(reason: str) -> bytes:
    """Return all that is sent to a peer that may not connect. The reason has at most 200 ASCII characters."""
    text = reason.encode("ascii")
    return GREETING + command(b"ERROR", bytes((len(text),)) + text)


def frame_head(message: bytes) -> bytes:
    """Return flags and length of a message that is one frame."""
    return bytes((0, len(message))) if len(message) < 256 else b"\x02" + len(message).to_bytes(8, "big")


def frame(message: bytes) -> bytes:
    """Return a message as one frame."""
    return frame_head(message) + message
