"""The server of metrics and those who connect to it: collectors, and strangers who want to keep the broker busy."""

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from time import monotonic

import pytest
import uvloop
from postgres import free_port

from poold.metrics import budget, connection, server
from poold.metrics.exposition import Format
from poold.metrics.http import MAX_HEAD_BYTES
from poold.metrics.server import MAX_CONNECTIONS, MetricsServer, metrics_socket
from poold.system.poller import Poller
from poold.system.tcp_listener import host_and_port, listening_socket

HEAD = b"Host: a\r\n\r\n"
GET = b"GET /metrics HTTP/1.1\r\n" + HEAD
LAST = b"GET /metrics HTTP/1.1\r\nConnection: close\r\n" + HEAD
# Beyond what the sockets of both sides hold.
LARGE = 24 * 1024 * 1024
SHORT = 0.05

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(autouse=True)
def much_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server need not rest, as pages here may be large and take long."""
    monkeypatch.setattr(budget, "MOST", 60.0)


class Stage:
    """A server, the parts of its page, and connections to it."""

    def __init__(self) -> None:
        self.parts: Callable[[], Iterator[str]] = lambda: iter(("one\n", "two\n"))
        self.made: list[Format] = []
        self.port = free_port()
        self.poller = Poller()
        listener = listening_socket("metrics_address", f"127.0.0.1:{self.port}")
        self.server = MetricsServer(listener, self.poller, self._page)
        self.server.start()
        self._writers: list[asyncio.StreamWriter] = []

    def _page(self, wanted: Format) -> Iterator[str]:
        self.made.append(wanted)
        return self.parts()

    async def connect(self, said: bytes = b"") -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=LARGE)
        self._writers.append(writer)
        writer.write(said)
        return reader, writer

    async def close(self) -> None:
        self.server.close()
        self.poller.close()
        for writer in self._writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def play(scene: Callable[[Stage], Awaitable[None]]) -> None:
    """Run the scene on a loop like the broker's."""

    unexpected = []

    async def staged() -> None:
        # In the broker whatever gets here ends it.
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unexpected.append(context))
        stage = Stage()
        try:
            await scene(stage)
        finally:
            await stage.close()

    uvloop.run(staged())
    assert unexpected == []


async def answered(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The status of one answer, and its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    return int(head.split()[1]), await reader.readexactly(int(fields[b"Content-Length"]))


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What still comes, when the other side has ended the connection."""
    with suppress(ConnectionResetError):
        return await reader.read()
    return b""


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  what is waited for has no event
        await asyncio.sleep(0.001)


PAGE = (200, b"one\ntwo\n")


def test_a_connection_is_kept_for_the_next_time_until_its_client_wants_otherwise() -> None:
    async def scene(stage: Stage) -> None:
        reader, writer = await stage.connect(GET)
        for _ in range(3):
            assert await answered(reader) == PAGE
            writer.write(GET)
        assert await answered(reader) == PAGE
        writer.write(LAST)
        assert await answered(reader) == PAGE
        assert await ended(reader) == b""

    play(scene)


def test_a_request_may_come_in_any_pieces_and_with_line_ends_before_it() -> None:
    async def scene(stage: Stage) -> None:
        reader, writer = await stage.connect()
        for octet in b"\r\n\r\n" + GET:
            writer.write(bytes([octet]))
            await writer.drain()
        assert await answered(reader) == PAGE

    play(scene)


def test_requests_behind_one_another_are_answered_in_their_order_even_if_that_was_all() -> None:
    async def scene(stage: Stage) -> None:
        reader, writer = await stage.connect(GET + b"GET /other HTTP/1.1\r\n" + HEAD + GET)
        writer.write_eof()
        assert [await answered(reader) for _ in range(3)] == [PAGE, (404, b"there is only /metrics\n"), PAGE]
        assert await ended(reader) == b""

    play(scene)


def test_all_that_wait_for_the_same_get_one_page_and_each_format_is_another() -> None:
    async def scene(stage: Stage) -> None:
        readers = [(await stage.connect())[0] for _ in range(6)]
        wanted = b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\n" + HEAD
        held = stage.server._connections
        await until(lambda: len(held) == len(readers))
        for place, each in enumerate(stage._writers):
            each.write(wanted if place % 2 else GET)
        assert [await answered(reader) for reader in readers] == [PAGE] * 6
        assert {*stage.made} == {*Format}

    play(scene)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\n\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nX: " + b"a" * (2 * MAX_HEAD_BYTES), 431),
        (b"a" * (4 * MAX_HEAD_BYTES), 431),
        (b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"a" * 100_000, 405),
        (b"GET /metrics HTTP/3.0\r\n" + HEAD, 505),
    ],
    ids=["tls", "bare line ends", "a long field", "no line", "a body", "a version"],
)
def test_what_is_no_request_is_answered_and_the_connection_ends(said: bytes, status: int) -> None:
    async def scene(stage: Stage) -> None:
        reader, writer = await stage.connect(said)
        assert (await answered(reader))[0] == status
        writer.write_eof()
        assert await ended(reader) == b""
        assert not stage.made
        await until(lambda: not stage.server._connections)

    play(scene)


@pytest.mark.parametrize("some", [b"G", b"\r\n"], ids=["a letter", "a line end"])
def test_what_comes_of_a_request_is_no_new_time_for_it(some: bytes) -> None:
    near, far = socket.socketpair()
    with near, far:
        begun = connection.Connection(near, 100.0)
        for now in (100.0, 102.0, 104.0):
            far.send(some)
            assert begun.receive(now)
            assert not begun.find_request()
            assert begun.deadline == 100.0 + connection.REQUEST_TIMEOUT


def test_who_does_not_finish_a_request_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REQUEST_TIMEOUT", SHORT)
    monkeypatch.setattr(server, "LOOK", SHORT)

    async def scene(stage: Stage) -> None:
        silent, _ = await stage.connect()
        slow, writer = await stage.connect(GET)
        assert await answered(slow) == PAGE

        async def trickle() -> None:
            with suppress(OSError):
                while not writer.is_closing():
                    writer.write(b"G")
                    await asyncio.sleep(SHORT / 5)

        trickling = asyncio.create_task(trickle())
        assert await ended(silent) == b""
        assert await ended(slow) == b""  # each byte of a request is no new time for it
        trickling.cancel()

    play(scene)


def test_who_idles_for_long_or_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "IDLE_TIMEOUT", SHORT)
    monkeypatch.setattr(connection, "WRITE_TIMEOUT", SHORT)
    monkeypatch.setattr(server, "LOOK", SHORT)

    async def scene(stage: Stage) -> None:
        idle, _ = await stage.connect(GET)
        assert await answered(idle) == PAGE
        assert await ended(idle) == b""
        stage.parts = lambda: iter(("x" * LARGE,))
        with socket.create_connection(("127.0.0.1", stage.port)) as lazy:
            lazy.sendall(GET)
            await until(lambda: stage.server._connections and stage.made[1:])
            await until(lambda: not stage.server._connections)
            taken = 0
            with suppress(ConnectionResetError):
                while some := lazy.recv(1 << 20):
                    taken += len(some)
            assert 0 < taken < LARGE

    play(scene)


def test_who_reads_slowly_gets_all_while_others_are_served() -> None:
    async def scene(stage: Stage) -> None:
        stage.parts = lambda: iter(("x" * LARGE,))
        slow, _ = await stage.connect(LAST)
        await until(lambda: any(each.state is connection.State.WRITING for each in stage.server._connections.values()))
        stage.parts = lambda: iter(("one\n", "two\n"))
        other, _ = await stage.connect(LAST)
        assert await answered(other) == PAGE
        assert (await answered(slow))[1] == b"x" * LARGE

    play(scene)


def test_of_too_many_connections_the_one_that_idles_longest_makes_room() -> None:
    async def scene(stage: Stage) -> None:
        first, _ = await stage.connect()
        others = [await stage.connect() for _ in range(MAX_CONNECTIONS - 1)]
        held = stage.server._connections
        await until(lambda: len(held) == MAX_CONNECTIONS)
        for reader, writer in others:
            writer.write(GET)
            assert await answered(reader) == PAGE
        newest, _ = await stage.connect(LAST)
        assert await answered(newest) == PAGE
        assert await ended(first) == b""
        # A flood of them hurts nobody who asks at once.
        for _ in range(5 * MAX_CONNECTIONS):
            await stage.connect()
            asking, _ = await stage.connect(LAST)
            assert await answered(asking) == PAGE
            assert len(held) <= MAX_CONNECTIONS

    play(scene)


def test_while_all_connections_wait_for_their_page_others_wait_to_be_accepted() -> None:
    async def scene(stage: Stage) -> None:
        is_there = False

        def parts() -> Iterator[str]:
            yield "one\n"
            while not is_there:
                yield ""
            yield "two\n"

        stage.parts = parts
        asking = [await stage.connect(LAST) for _ in range(MAX_CONNECTIONS)]
        await until(lambda: len(stage.server._waiting) + len(stage.server._served) == MAX_CONNECTIONS)
        late, _ = await stage.connect(LAST)
        await until(lambda: not stage.server._is_listening)
        is_there = True
        assert [await answered(reader) for reader, _ in asking] == [PAGE] * MAX_CONNECTIONS
        assert await answered(late) == PAGE

    play(scene)


def test_who_leaves_while_his_page_is_made_is_nobody_s_harm() -> None:
    async def scene(stage: Stage) -> None:
        is_there = False

        def parts() -> Iterator[str]:
            while not is_there:
                yield ""
            yield "one\n"

        stage.parts = parts
        with socket.create_connection(("127.0.0.1", stage.port)) as gone:
            gone.sendall(GET)
            await until(lambda: stage.made)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # its end is a reset
        is_there = True
        await until(lambda: not stage.server._connections)
        stage.parts = lambda: iter(("one\n", "two\n"))
        reader, _ = await stage.connect(LAST)
        assert await answered(reader) == PAGE

    play(scene)


def test_the_loop_has_its_turns_while_a_page_is_made() -> None:
    async def scene(stage: Stage) -> None:
        turns = 0

        def parts() -> Iterator[str]:
            while turns < 100:
                end = monotonic() + server.SLICE
                while monotonic() < end:
                    pass
                yield "x"

        stage.parts = parts
        reader, _ = await stage.connect(LAST)
        answer = asyncio.create_task(answered(reader))
        while not answer.done():
            turns += 1
            await asyncio.sleep(0)
        status, page = answer.result()
        assert (status, turns >= 100) == (200, True)
        assert len(page) <= turns

    play(scene)


def test_who_takes_too_much_time_lets_the_server_rest_and_is_served_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MOST", 0.001)

    async def scene(stage: Stage) -> None:
        rests = 0
        rest = stage.server._rest

        def counted(seconds: float) -> None:
            nonlocal rests
            rests += 1
            rest(seconds)
            assert not stage.server._is_listening
            assert not any(each.descriptor in stage.poller._readers for each in stage.server._connections.values())

        monkeypatch.setattr(stage.server, "_rest", counted)
        readers = [(await stage.connect(GET * 20))[0] for _ in range(5)]
        for reader in readers:
            assert [await answered(reader) for _ in range(20)] == [PAGE] * 20
        assert rests
        late, _ = await stage.connect(LAST)
        assert await answered(late) == PAGE

    play(scene)


def test_who_has_left_the_socket_answers_what_was_asked_and_nothing_else() -> None:
    async def scene(stage: Stage) -> None:
        idle, _ = await stage.connect(GET)
        assert await answered(idle) == PAGE
        asking, writer = await stage.connect(GET)
        assert await answered(asking) == PAGE
        partial, finishing = await stage.connect(GET[:-2])
        new, beginning = await stage.connect()
        await until(lambda: len(stage.server._connections) == 4)
        writer.write(GET)
        await writer.drain()
        stage.server.leave()
        assert await answered(asking) == PAGE
        finishing.write(GET[-2:])
        beginning.write(GET)
        assert [await answered(reader) for reader in (partial, new)] == [PAGE, PAGE]
        assert [await ended(reader) for reader in (asking, idle, partial, new)] == [b""] * 4
        assert stage.server.descriptor == -1
        with pytest.raises(ConnectionRefusedError):
            await stage.connect()
        stage.server.leave()

    play(scene)


def test_the_end_waits_for_the_last_answers_but_not_for_who_does_not_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LAST_ANSWERS", 60.0)

    async def scene(stage: Stage) -> None:
        reader, writer = await stage.connect()
        await until(lambda: stage.server._connections)
        ending = asyncio.create_task(stage.server.finish())
        await until(lambda: stage.server.descriptor == -1)
        writer.write(GET)
        assert await answered(reader) == PAGE
        writer.close()
        await ending
        await stage.server.finish()

    async def with_a_silent_one(stage: Stage) -> None:
        monkeypatch.setattr(server, "LAST_ANSWERS", SHORT)
        await stage.connect()
        await until(lambda: stage.server._connections)
        await stage.server.finish()
        assert stage.server._connections

    play(scene)
    play(with_a_silent_one)


def test_without_a_socket_there_is_nothing_to_do() -> None:
    async def nobody() -> None:
        poller = Poller()
        idle = MetricsServer(metrics_socket(None, -1), poller, lambda wanted: iter(()))
        assert idle.descriptor == -1
        idle.start()
        idle.leave()
        idle.close()
        poller.close()

    uvloop.run(nobody())


# The socket.


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:9127", ("127.0.0.1", 9127)),
        ("[::1]:1", ("::1", 1)),
        ("localhost:65535", ("localhost", 65535)),
        ("metrics.example.com:80", ("metrics.example.com", 80)),
    ],
)
def test_an_address_has_a_host_and_a_port(address: str, parts: tuple[str, int]) -> None:
    assert host_and_port(address) == parts


@pytest.mark.parametrize(
    "address",
    [
        *("", "9127", ":9127", "localhost", "localhost:", "localhost:0", "localhost:65536", "localhost:-1", "[]:1"),
        *(
            "::1:9127",
            "http://localhost:9127",
            "a b:1",
            "[::1]",
            "tcp://127.0.0.1:1",
            "localhost:\u0661",
            "localhost:1\n",
        ),
    ],
)
def test_what_is_no_address_is_refused_with_what_is_expected(address: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT, as in 127"):
        host_and_port(address)


def test_an_address_in_use_is_refused_in_words_and_connections_that_have_ended_do_not_hold_it() -> None:
    port = free_port()
    with listening_socket("metrics_address", f"127.0.0.1:{port}") as first:
        with pytest.raises(
            OSError, match=f"metrics_address = '127.0.0.1:{port}' cannot be used: address already in use"
        ):
            listening_socket("metrics_address", f"127.0.0.1:{port}")
        with socket.create_connection(("127.0.0.1", port)) as client:
            first.setblocking(True)
            first.accept()[0].close()  # who closes first has the connection in TIME_WAIT
            assert client.recv(1) == b""
    listening_socket("metrics_address", f"127.0.0.1:{port}").close()


@pytest.mark.parametrize("address", ["nowhere.invalid:9127", "192.0.2.1:9127"])
def test_an_address_that_is_not_this_machine_s_is_refused_in_words(address: str) -> None:
    with pytest.raises(OSError, match=f"metrics_address = '{address}' cannot be used: .*; choose another one"):
        listening_socket("metrics_address", address)


def test_a_socket_that_was_left_is_used_at_its_address_and_closed_if_there_is_another_one() -> None:
    port, other = free_port(), free_port()
    left = listening_socket("metrics_address", f"127.0.0.1:{port}")
    descriptor = left.detach()
    same = listening_socket("metrics_address", f"localhost:{port}", descriptor)
    assert same.fileno() == descriptor
    assert not os.get_inheritable(descriptor)
    moved = listening_socket("metrics_address", f"127.0.0.1:{other}", same.detach())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    assert metrics_socket(None, moved.detach()) is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", other))
