"""ZeroMQ's protocol: every split of the stream, on both sides, and garbage. libzmq itself is in test_zmtp_peers."""

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from client.wire.zmtp import CLIENT, GREETING, GREETING_BYTES, PING, SERVER, ZmtpConnection, ZmtpError, command, frame


def ready(kind: bytes) -> bytes:
    return command(b"READY", b"\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind)


READY = ready(b"ROUTER")
# By our role: what peers say before their first message.
HELLOS = {CLIENT: [GREETING + READY], SERVER: [GREETING + ready(b"DEALER"), GREETING + ready(b"REQ")]}
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
        (GREETING + command(b"ERROR", b"\4nope"), "^nope$"),
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


# Frames of any kind, sound and unsound, and what is none.
PIECES = st.one_of(
    st.binary(max_size=300).map(frame),
    st.binary(max_size=20).map(lambda body: b"\x01" + bytes((len(body),)) + body),  # more frames follow
    st.binary(max_size=20).map(lambda body: b"\x02" + len(body).to_bytes(8, "big") + body),
    st.sampled_from([b"\x01\0", PING, command(b"PONG", b""), command(b"ERROR", b""), *map(ready, (b"REQ", b"PUB"))]),
    st.binary(max_size=12),
)
STREAMS = st.builds(lambda before, pieces: (before, b"".join(pieces)), st.booleans(), st.lists(PIECES, max_size=8))


@given(st.sampled_from([CLIENT, SERVER]), STREAMS, st.integers(0, 1), st.integers(1, 50))
@examples(600)
def test_garbage_raises_nothing_but_the_protocols_error(
    role: str, stream: tuple[bool, bytes], which: int, size: int
) -> None:
    is_greeted, garbage = stream
    before = HELLOS[role][which % len(HELLOS[role])] if is_greeted else b""
    connection = ZmtpConnection(LIMIT, role)
    try:
        feed(connection, before + garbage, [size])
    except ZmtpError:
        pass
    assert sum(len(each or b"") for each in connection.inbox) <= len(garbage)
    assert len(connection.outbox) <= len(GREETING) + 64 + len(garbage)


@given(
    st.sampled_from([CLIENT, SERVER]),
    st.integers(0, 1),
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(1, 200),
)
@examples(600)
def test_a_sound_conversation_with_wrong_bytes_raises_nothing_but_the_protocols_error(
    role: str, which: int, errors: list[tuple[int, int]], size: int
) -> None:
    stream = bytearray(HELLOS[role][which % len(HELLOS[role])] + frame(b"one") + PING + frame(b"x" * 300) + frame(b""))
    for place, value in errors:
        stream[place % len(stream)] = value
    try:
        feed(ZmtpConnection(LIMIT, role), bytes(stream), [size])
    except ZmtpError:
        return


def taken(connection: ZmtpConnection, pieces: list[bytes]) -> tuple[list[bytes | None], str]:
    """What comes of a stream in these pieces where each is tried as the only message first; and the error."""
    found: list[bytes | None] = []
    try:
        for piece in pieces:
            message = connection.only_message(piece)
            if message is None:
                connection.received(piece)
                found += connection.inbox
                connection.inbox.clear()
            else:
                found.append(message)
    except ZmtpError as error:
        return found + list(connection.inbox), str(error)
    return found, ""


@given(st.sampled_from([CLIENT, SERVER]), st.integers(0, 1), st.lists(PIECES, max_size=8), st.data())
@examples(300)
def test_the_hot_path_and_the_other_take_the_same_from_any_stream(
    role: str, which: int, pieces: list[bytes], data: st.DataObject
) -> None:
    hello = HELLOS[role][which % len(HELLOS[role])]
    # Pieces as they were sent, and some that are torn or glued to the next.
    torn = [hello]
    for piece in pieces:
        place = data.draw(st.sampled_from([0, 0, 0, len(piece) // 2]))
        if place or not data.draw(st.booleans()):
            torn += [piece[:place], piece[place:]]
        else:
            torn[-1] += piece
    plain = ZmtpConnection(LIMIT, role)
    error = ""
    try:
        for piece in torn:
            plain.received(piece)
    except ZmtpError as caught:
        error = str(caught)
    assert taken(ZmtpConnection(LIMIT, role), torn) == (list(plain.inbox), error)


@given(st.lists(st.binary(max_size=600), max_size=8), st.lists(st.integers(1, 400), min_size=1, max_size=5))
@examples(100)
def test_what_one_side_says_the_other_hears_however_the_stream_is_cut(messages: list[bytes], sizes: list[int]) -> None:
    client, server = ZmtpConnection(LIMIT, CLIENT), ZmtpConnection(LIMIT, SERVER)
    while client.outbox or server.outbox:
        for speaker, hearer in ((client, server), (server, client)):
            said = bytes(speaker.outbox)
            speaker.outbox.clear()
            feed(hearer, said, sizes)
    assert client.is_ready
    assert server.is_ready
    for speaker, hearer in ((client, server), (server, client)):
        feed(hearer, b"".join(map(speaker.encoded, messages)), sizes)
        assert list(hearer.inbox) == messages
    feed(server, PING, sizes)
    feed(client, bytes(server.outbox), sizes)  # PONG is no message
    assert list(client.inbox) == messages


@pytest.mark.parametrize("hello", HELLOS[SERVER], ids=["DEALER", "REQ"])
def test_every_single_split_of_a_clients_conversation_gives_the_same(hello: bytes) -> None:
    delimiter = b"\x01\0" if b"REQ" in hello else b""
    several = b"\x01\x01a" + frame(b"b")
    stream = (
        hello + delimiter + frame(b"short") + PING + several + delimiter + frame(b"x" * 300) + delimiter + frame(b"")
    )
    for place in range(len(stream) + 1):
        connection = ZmtpConnection(LIMIT, SERVER)
        connection.received(stream[:place])
        connection.received(stream[place:])
        assert list(connection.inbox) == [b"short", None, b"x" * 300, b""]
        assert connection.outbox.endswith(command(b"PONG", b""))


def test_a_frame_above_the_limit_is_refused_by_its_head_alone() -> None:
    connection = connected()
    connection.received(b"\x02" + LIMIT.to_bytes(8, "big"))
    with pytest.raises(ZmtpError, match=f"frame of {LIMIT + 1} bytes, expected at most {LIMIT}"):
        connected().received(b"\x02" + (LIMIT + 1).to_bytes(8, "big"))
