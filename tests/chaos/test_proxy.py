"""Each toxic of the proxy does what it says, byte by byte, between two plain sockets."""

import select
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from flows import BLACK_HOLE, SLICED, Direction, Messages, Toxic
from proxy import Proxy
from waiting import wait_until

TO_SERVER, TO_BROKER = Direction.TO_SERVER, Direction.TO_BROKER
# Only a hang reaches it.
PATIENCE = 20.0
ROW = b"D" + (4 + 6).to_bytes(4) + b"\0\1row!"
READY = b"Z\0\0\0\5I"


class Server:
    """Listens; the test says what it does with a connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def parameters(self) -> dict[str, Any]:
        host, port = self._listener.getsockname()
        return {"host": host, "port": port}

    def accept(self) -> socket.socket:
        self._listener.settimeout(PATIENCE)
        made, _ = self._listener.accept()
        made.settimeout(PATIENCE)
        return made

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server) as made:
        yield made


@pytest.fixture
def ends(server: Server, proxy: Proxy) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The broker's end and the server's of a connection through the proxy."""
    broker = connect(proxy)
    there = server.accept()
    yield broker, there
    broker.close()
    there.close()


Ends = tuple[socket.socket, socket.socket]


def connect(proxy: Proxy) -> socket.socket:
    parameters = proxy.parameters
    return socket.create_connection((parameters["host"], parameters["port"]), PATIENCE)


def read(end: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer where the connection ends before."""
    data = b""
    while len(data) < size and (more := end.recv(size - len(data))):
        data += more
    return data


def pass_both_ways(one: socket.socket, other: socket.socket) -> None:
    """Both hear each other; what was sent before has come then."""
    for source, sink in ((one, other), (other, one)):
        source.sendall(b"hello")
        assert read(sink, 5) == b"hello"


def hears_nothing(proxy: Proxy, end: socket.socket) -> bool:
    """Whether nothing has come to this end after the proxy has had two turns to pass it on."""
    for _ in range(2):
        proxy._wish(lambda: None)
    return not select.select([end], [], [], 0)[0]


def test_without_a_toxic_all_goes_through_and_an_end_ends_the_other(ends: Ends, proxy: Proxy) -> None:
    broker, server = ends
    pass_both_ways(broker, server)
    large = bytes(range(256)) * 20_000
    server.setblocking(False)
    sent, got = 0, bytearray()
    while len(got) < len(large):
        if sent < len(large) and select.select([], [server], [], 0)[1]:
            sent += server.send(large[sent:])
        if select.select([broker], [], [], 0)[0]:
            got += broker.recv(65536)
    assert bytes(got) == large
    # The proxy counts after it has sent.
    wait_until(lambda: proxy.answered == len(large) + 5, what="all of it to be counted")
    server.settimeout(PATIENCE)
    broker.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    server.sendall(b"still here")
    assert read(broker, 10) == b"still here", "one direction ends without the other"
    server.close()
    assert broker.recv(1) == b""
    wait_until(lambda: proxy.connections == 0, what="the proxy to close both ends")


def test_reset_breaks_off_both_ends(ends: Ends, proxy: Proxy) -> None:
    pass_both_ways(*ends)
    proxy.reset()
    for end in ends:
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    assert proxy.connections == 0


def test_a_share_is_some_of_the_connections(server: Server, proxy: Proxy) -> None:
    brokers = [connect(proxy) for _ in range(40)]
    servers = [server.accept() for _ in brokers]
    wait_until(lambda: proxy.connections == 40, what="all connections")
    proxy.reset(share=0.5)
    assert 5 < proxy.connections < 35
    for each in (*brokers, *servers):
        each.close()


def test_a_black_hole_swallows_what_comes_and_its_end(ends: Ends, server: Server, proxy: Proxy) -> None:
    broker, there = ends
    proxy.infect(BLACK_HOLE)
    broker.sendall(b"lost")
    there.sendall(b"lost as well")
    new = connect(proxy)
    new.sendall(b"anybody?")
    new_there = server.accept()
    assert all(hears_nothing(proxy, end) for end in (*ends, new, new_there))
    broker.close()
    assert hears_nothing(proxy, there), "nor does it hear of the end"
    new.close()
    new_there.close()


def test_a_connection_that_lost_a_byte_in_a_black_hole_never_passes_another(ends: Ends, proxy: Proxy) -> None:
    broker, server = ends
    pass_both_ways(broker, server)
    proxy.infect(BLACK_HOLE)
    broker.sendall(b"lost")
    assert hears_nothing(proxy, server)
    proxy.heal()
    broker.sendall(b"after the gap")
    assert hears_nothing(proxy, server)
    broker.close()
    with pytest.raises(ConnectionResetError):
        server.recv(1)


def test_a_connection_that_lost_nothing_in_a_black_hole_goes_on(ends: Ends, server: Server, proxy: Proxy) -> None:
    pass_both_ways(*ends)
    proxy.infect(BLACK_HOLE)
    proxy.heal()
    pass_both_ways(*ends)
    new = connect(proxy)
    there = server.accept()
    pass_both_ways(new, there)
    new.close()
    there.close()


def test_an_end_that_a_black_hole_has_hidden_is_told_when_it_is_over(ends: Ends, proxy: Proxy) -> None:
    broker, server = ends
    proxy.infect(BLACK_HOLE)
    broker.close()
    assert hears_nothing(proxy, server)
    proxy.heal()
    with pytest.raises(ConnectionResetError):
        server.recv(1)


def test_latency_holds_each_byte_back_for_so_long_and_keeps_their_order(ends: Ends, proxy: Proxy) -> None:
    broker, server = ends
    proxy.infect(Toxic(latency=0.2), TO_BROKER)
    begin = time.monotonic()
    server.sendall(b"first ")
    server.sendall(b"second")
    assert read(broker, 12) == b"first second"
    assert time.monotonic() - begin >= 0.2, "it cannot have come before"
    server.sendall(b"third")
    proxy.heal()
    assert read(broker, 5) == b"third"


def test_slices_send_one_byte_at_a_time(ends: Ends, proxy: Proxy) -> None:
    broker, server = ends
    proxy.infect(SLICED, TO_SERVER)
    before = proxy.sends
    broker.sendall(b"x" * 300)
    assert read(server, 300) == b"x" * 300
    proxy._wish(lambda: None)
    assert proxy.sends - before == 300
    server.sendall(b"y" * 300)
    assert read(broker, 300) == b"y" * 300
    proxy._wish(lambda: None)
    assert proxy.sends - before < 600, "the other direction is as it was"


def test_sever_ends_a_connection_in_the_middle_of_a_row(ends: Ends, proxy: Proxy) -> None:
    broker, server = ends
    pass_both_ways_as_postgres(ends)
    proxy.sever(b"D")
    server.sendall(READY + ROW)
    assert read(broker, 100) == READY + ROW[:8]
    assert server.recv(1) == b""


def test_sever_takes_its_message_where_it_begins_and_not_a_byte_that_looks_like_it(ends: Ends, proxy: Proxy) -> None:
    broker, server = ends
    pass_both_ways_as_postgres(ends)
    proxy.sever(b"C")
    with_letter = b"D" + (4 + 3).to_bytes(4) + b"CCC"
    server.sendall(with_letter)
    assert read(broker, len(with_letter)) == with_letter
    server.sendall(b"C" + (4 + 7).to_bytes(4) + b"COMMIT\0")
    assert read(broker, 100) == b"C" + (4 + 7).to_bytes(4) + b"COM"


def pass_both_ways_as_postgres(ends: Ends) -> None:
    """As pass_both_ways, and the proxy knows where the server's messages begin."""
    broker, server = ends
    broker.sendall(b"query")
    assert read(server, 5) == b"query"
    server.sendall(READY)
    assert read(broker, 6) == READY


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
def test_the_middle_of_a_message_is_found_however_it_comes(size: int) -> None:
    stream = READY + ROW + READY
    messages, passed = Messages(), 0
    for begin in range(0, len(stream), size):
        piece = stream[begin : begin + size]
        place = messages.middle(piece, b"D")
        if place is not None:
            passed = begin + place
            break
    assert len(READY) + 5 <= passed <= len(READY) + 8


@pytest.mark.parametrize("direction", [TO_SERVER, TO_BROKER])
def test_slow_close_tells_one_end_and_the_other_only_when_it_is_over(
    ends: Ends, proxy: Proxy, direction: Direction
) -> None:
    told, lingering = ends if direction is TO_BROKER else reversed(ends)
    pass_both_ways(told, lingering)
    proxy.slow_close(direction)
    assert told.recv(1) == b""
    told.close()
    assert hears_nothing(proxy, lingering)
    lingering.sendall(b"hello?")
    assert hears_nothing(proxy, lingering)
    proxy.heal()
    with pytest.raises(ConnectionResetError):
        lingering.recv(1)


def test_down_refuses_connections_until_it_is_up_and_keeps_those_there_are(
    ends: Ends, server: Server, proxy: Proxy
) -> None:
    proxy.down()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    pass_both_ways(*ends)
    proxy.up()
    new = connect(proxy)
    there = server.accept()
    pass_both_ways(new, there)
    new.close()
    there.close()


def test_hold_keeps_the_answers_and_heal_lets_them_go(ends: Ends, proxy: Proxy) -> None:
    broker, server = ends
    proxy.hold()
    broker.sendall(b"question")
    assert read(server, 8) == b"question"
    server.sendall(b"answer")
    assert hears_nothing(proxy, broker)
    proxy.heal()
    assert read(broker, 6) == b"answer"


def test_cut_ends_all_connections_and_leads_new_ones_elsewhere(ends: Ends, proxy: Proxy) -> None:
    other = Server()
    try:
        proxy.cut(other)
        assert [end.recv(1) for end in ends] == [b"", b""]
        new = connect(proxy)
        there = other.accept()
        pass_both_ways(new, there)
        new.close()
        there.close()
    finally:
        other.close()
