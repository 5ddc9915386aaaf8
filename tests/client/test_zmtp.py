"""ZeroMQ's protocol, the connecting side: every split of the stream, garbage, and libzmq itself at the other end."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from client.zmtp import GREETING, GREETING_BYTES, PING, ZmtpConnection, ZmtpError, command, frame

READY = command(b"READY", b"\x0bSocket-Type\0\0\0\x06ROUTER")
LIMIT = 100_000


def connected(limit: int = LIMIT) -> ZmtpConnection:
    connection = ZmtpConnection(limit)
    connection.received(GREETING + READY)
    assert connection.is_ready
    connection.outbox.clear()
    return connection


def feed(connection: ZmtpConnection, stream: bytes, sizes: list[int]) -> None:
    """The stream in pieces of these sizes, again and again."""
    place = turn = 0
    while place < len(stream):
        size = sizes[turn % len(sizes)]
        connection.received(stream[place : place + size])
        place, turn = place + size, turn + 1


@given(st.lists(st.binary(max_size=600), max_size=8), st.lists(st.integers(1, 400), min_size=1, max_size=5))
@examples(100)
def test_messages_arrive_whole_and_in_order_however_the_stream_is_cut(messages: list[bytes], sizes: list[int]) -> None:
    connection = ZmtpConnection(LIMIT)
    feed(connection, GREETING + READY + b"".join(map(frame, messages)), sizes)
    assert list(connection.inbox) == messages


def test_every_single_split_of_a_conversation_gives_the_same() -> None:
    stream = GREETING + READY + frame(b"short") + PING + frame(b"x" * 300) + frame(b"")
    for place in range(len(stream) + 1):
        connection = ZmtpConnection(LIMIT)
        connection.received(stream[:place])
        connection.received(stream[place:])
        assert list(connection.inbox) == [b"short", b"x" * 300, b""]


def test_the_handshake_says_our_greeting_then_ready_when_the_peer_has_greeted() -> None:
    connection = ZmtpConnection(LIMIT)
    assert bytes(connection.outbox) == GREETING
    assert len(GREETING) == GREETING_BYTES
    connection.outbox.clear()
    connection.received(GREETING[:-1])
    assert not connection.outbox
    connection.received(GREETING[-1:])
    assert connection.outbox.startswith(b"\x04")
    assert b"DEALER" in connection.outbox
    assert not connection.is_ready


def test_ping_is_answered_with_its_own_context() -> None:
    connection = connected()
    connection.received(command(b"PING", b"\0\x05context"))
    assert bytes(connection.outbox) == command(b"PONG", b"context")
    assert not connection.inbox


def replaced(place: int, value: bytes) -> bytes:
    return GREETING[:place] + value + GREETING[place + len(value) :]


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "does not greet"),
        (replaced(9, b"\0"), "does not greet"),
        (replaced(10, b"\1"), "speaks ZMTP 1"),
        (replaced(12, b"PLAIN"), "PLAIN"),
        (GREETING + frame(b"early"), "before READY"),
        (GREETING + command(b"ERROR", b"\4nope"), "refused the connection: nope"),
        (GREETING + command(b"PING", b"\0\0"), "out of place"),
        (GREETING + READY + READY, "out of place"),
        (GREETING + READY + command(b"SUBSCRIBE", b""), "out of place"),
        (GREETING + READY + b"\x01\x01a", "one frame"),
        (GREETING + READY + b"\x10\x01a", "flags 0x10"),
        (GREETING + READY + b"\x02" + (LIMIT + 1).to_bytes(8, "big"), f"expected at most {LIMIT}"),
        (GREETING + READY + b"\x06" + (2**63).to_bytes(8, "big"), "expected at most 4096"),
    ],
)
def test_a_peer_that_speaks_otherwise_is_refused_with_the_reason(stream: bytes, why: str) -> None:
    with pytest.raises(ZmtpError, match=why):
        ZmtpConnection(LIMIT).received(stream)
    with pytest.raises(ZmtpError, match=why):
        feed(ZmtpConnection(LIMIT), stream, [1])


@given(st.binary(max_size=300), st.sampled_from([b"", GREETING, GREETING + READY]), st.integers(1, 50))
@examples(2000)
def test_garbage_raises_nothing_but_the_protocols_error(garbage: bytes, before: bytes, size: int) -> None:
    try:
        feed(ZmtpConnection(LIMIT), before + garbage, [size])
    except ZmtpError:
        return


class Router:
    """libzmq at the other end, and a plain socket with our protocol at this one."""

    def __init__(self, path: Path) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.LINGER, 0)
        self.router.setsockopt(zmq.HEARTBEAT_IVL, 20)
        self.router.setsockopt(zmq.HEARTBEAT_TIMEOUT, 10_000)
        self.router.bind(f"ipc://{path}")
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self.zmtp = ZmtpConnection(50_000_000)
        while not self.zmtp.is_ready:
            self.exchange()

    def exchange(self) -> None:
        self.socket.sendall(self.zmtp.outbox)
        self.zmtp.outbox.clear()
        data = self.socket.recv(65536)
        assert data, "libzmq closed the connection"
        self.zmtp.received(data)

    def close(self) -> None:
        self.socket.close()
        self.router.close()
        self.context.term()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Router]:
    made = Router(tmp_path / "z")
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_536, 20_000_000])
def test_libzmq_and_we_understand_each_other_at_every_size(peer: Router, size: int) -> None:
    message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    # libzmq's own thread reads it; the socket's buffer need not hold it.
    peer.socket.sendall(peer.zmtp.outbox + frame(message))
    peer.zmtp.outbox.clear()
    identity, received = peer.router.recv_multipart()
    assert received == message
    peer.router.send_multipart([identity, message])
    while not peer.zmtp.inbox:
        peer.exchange()
    assert peer.zmtp.inbox.popleft() == message


def test_libzmqs_heartbeats_are_answered_and_ours_as_well(peer: Router) -> None:
    pings = 0
    while pings < 3:
        peer.socket.sendall(peer.zmtp.outbox)
        peer.zmtp.outbox.clear()
        peer.zmtp.received(peer.socket.recv(65536))
        pings += bool(peer.zmtp.outbox)
    peer.socket.sendall(PING)
    answer = b""
    while b"PONG" not in answer:
        answer += peer.socket.recv(65536)
