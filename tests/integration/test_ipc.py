"""Clients over ipc://: who may come, who is dropped, and what becomes of the work of those who go."""

import contextlib
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq
from brokers import Broker, order, run
from postgres import server_folder
from waiting import wait_until

import client
from client.channels.channel import Channel
from client.wire.codec import decode_reply, encode
from client.wire.messages import VERSION, Answer, Ask, Hello, Query, ResultMessage, Welcome
from client.wire.zmtp import GREETING, PING, ZmtpConnection, command

StartBroker = Callable[..., Broker]
HELLO = encode(Hello(VERSION, 1, "by hand", "0"))
LEASES = {"default": {"max_size": 2}, "transactions": {"autocommit": False, "max_size": 1}}
NOBODY = 65534


class Raw:
    """A client that reads only when it is told to."""

    def __init__(self, broker: Broker) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(broker.socket))
        self._zmtp = ZmtpConnection(100_000_000)
        self._number = 0

    def greet(self) -> Welcome:
        while not self._zmtp.is_ready:
            self._flush()
            self._receive()
        self._flush()
        self.socket.sendall(self._zmtp.encoded(HELLO))
        welcome = self.hear()
        assert isinstance(welcome, Welcome)
        return welcome

    def ask(self, what: str = "stats") -> None:
        self._number += 1
        self.socket.sendall(self._zmtp.encoded(encode(Ask(self._number, what))))

    def ask_for_ever(self) -> None:
        """Until the socket takes no more."""
        while True:
            self.ask()

    def query(self, sql: str, group: str = "default", lease: int = 0) -> None:
        self._number += 1
        query = Query(self._number, group, lease, bool(lease), sql.encode(), b"", b"", True, None, "")
        self.socket.sendall(self._zmtp.encoded(encode(query)))

    def leave_unread(self, broker: Broker) -> None:
        """Ask the broker's first question, whose reply is larger than a socket's buffer; and wait until it is there."""
        self.query("SELECT repeat('x', 5000000)")
        wait_until(lambda: broker.pool()["requests"] == 1 and broker.pool()["idle"] == 1, what="the reply to wait")

    def hear(self) -> Any:
        while not self._zmtp.inbox:
            self._receive()
        return decode_reply(self._zmtp.inbox.popleft() or b"")

    def ended(self) -> bytes:
        """Read until the broker closes the connection; what it said before."""
        said = b""
        try:
            while data := self.socket.recv(65536):
                said += data
        except ConnectionResetError:
            pass  # with something of ours unread
        return said

    def close(self) -> None:
        self.socket.close()

    def _flush(self) -> None:
        self.socket.sendall(self._zmtp.outbox)
        self._zmtp.outbox.clear()

    def _receive(self) -> None:
        data = self.socket.recv(65536)
        assert data, "the broker closed the connection"
        self._zmtp.received(data)


@pytest.fixture
def connect() -> Iterator[Callable[[Broker], Raw]]:
    """Connects to brokers, and closes with the test."""
    made: list[Raw] = []

    def connect(broker: Broker) -> Raw:
        made.append(Raw(broker))
        return made[-1]

    yield connect
    for each in made:
        each.close()


Connect = Callable[[Broker], Raw]


# Any libzmq DEALER or REQ.


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.REQ])
def test_a_libzmq_dealer_or_req_is_a_client_like_any_other(broker: Broker, kind: int) -> None:
    with zmq.Context() as context, context.socket(kind) as theirs:
        theirs.setsockopt(zmq.LINGER, 0)
        theirs.setsockopt(zmq.RCVTIMEO, 20_000)
        theirs.setsockopt(zmq.HEARTBEAT_IVL, 20)
        theirs.setsockopt(zmq.HEARTBEAT_TIMEOUT, 20_000)
        theirs.connect(broker.address)
        theirs.send(HELLO)
        assert isinstance(decode_reply(theirs.recv()), Welcome)
        for number, size in enumerate([0, 1, 300, 5_000_000], 1):
            sql = f"SELECT repeat('x', {size})"
            theirs.send(encode(Query(number, "default", 0, False, sql.encode(), b"", b"", True, None, "")))
            reply = decode_reply(theirs.recv())
            assert isinstance(reply, ResultMessage)
            assert (reply.request, reply.rowcount, reply.rows.count(b"x")) == (number, 1, size)


@pytest.mark.parametrize("kind", ["PUB", "PUSH", "SUB", "PAIR"])
def test_libzmqs_other_sockets_are_refused_and_logged(start_broker: StartBroker, connect: Connect, kind: str) -> None:
    broker = start_broker()
    other = connect(broker)
    other.socket.sendall(
        GREETING + command(b"READY", b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind.encode())
    )
    assert other.ended().endswith(command(b"ERROR", b"\x13Invalid socket type"))
    wait_until(lambda: f"the peer is a {kind}" in broker.log(), what="the line in the log")


def test_ping_is_answered_while_a_statement_runs(broker: Broker, connect: Connect) -> None:
    raw = connect(broker)
    raw.greet()
    raw.query("SELECT pg_sleep(1000)")
    raw.socket.sendall(PING)
    assert raw.socket.recv(100) == command(b"PONG", b"")


# Who may come.


def test_who_does_not_finish_the_handshake_is_dropped_and_who_does_stays(
    start_broker: StartBroker, connect: Connect
) -> None:
    broker = start_broker()
    stays = connect(broker)
    stays.greet()
    late = {said: connect(broker) for said in (b"", GREETING[:30], GREETING)}
    for said, each in late.items():
        each.socket.sendall(said)
    for each in late.values():
        assert each.ended().startswith(GREETING)
    wait_until(lambda: broker.log().count("no handshake within 2 s") == len(late), what="the lines in the log")
    stays.ask("ping")
    assert isinstance(stays.hear(), Answer)


def test_a_client_above_max_clients_is_told_and_may_come_when_another_has_gone(start_broker: StartBroker) -> None:
    broker = start_broker(broker={"max_clients": 2})
    channels = [Channel(broker.address), Channel(broker.address)]
    with pytest.raises(client.DBConnectionError, match="it has 2 clients already, see max_clients") as caught:
        Channel(broker.address)
    assert caught.value.outcome == "not executed"
    channels.pop().close()

    def comes() -> bool:
        try:
            channels.append(Channel(broker.address))
        except client.DBConnectionError:
            return False
        return True

    wait_until(comes, what="room for another client")
    for channel in channels:
        channel.close()


def test_more_clients_than_descriptors_are_an_error_at_the_start() -> None:
    with server_folder() as folder:
        config = folder / "poold.toml"
        config.write_text(
            f'[broker]\naddress = "ipc://{folder}/s"\nmax_clients = 1000\n'
            f'[endpoints.main]\nhost = "{folder}"\ndbname = "a"\nuser = "a"\n[groups.default]\n'
        )
        command = f"ulimit -n 200; exec {sys.executable} -m poold start --config {config}"
        done = run("bash", "-c", command)
        assert done.returncode == 1
        assert "1000 for max_clients" in done.stderr
        assert "this process may have 200; raise the limit" in done.stderr
        assert "Traceback" not in done.stderr


ASK = """
import client, sys
try:
    client.Handler(address=sys.argv[1]).query("SELECT 1")
except client.DBConnectionError as error:
    sys.exit(str(error))
"""


def as_nobody(broker: Broker, groups: list[int]) -> str:
    """A query by another user; what was wrong with it."""
    broker.folder.chmod(0o755)
    # Loaded before the change of user, who may not read everything that belongs to this one.
    load = "import os, client.channels.channel\n"
    change = f"os.setgroups({groups}); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    done = run(sys.executable, "-c", load + change + ASK, broker.address)
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(
    ("settings", "groups", "refusal"),
    [
        ({}, [], "is kept out"),
        ({"allow_uids": [NOBODY]}, [], ""),
        ({"allow_gids": [NOBODY]}, [], ""),
        ({"allow_gids": [4242]}, [1, 4242], ""),
        ({"allow_uids": [4242]}, [4242], f"user {NOBODY} is not allowed"),
        ({"allow_gids": [4242]}, [1], f"user {NOBODY} is not allowed"),
    ],
)
def test_lists_of_users_and_groups_decide_where_there_are_any(
    start_broker: StartBroker, settings: dict[str, list[int]], groups: list[int], refusal: str
) -> None:
    broker = start_broker(broker=settings)
    said = as_nobody(broker, groups)
    assert refusal in said
    assert bool(refusal) is bool(said), said
    assert broker.handler().query("SELECT 1")[0][0] == 1  # root and the broker's own user always


# Who floods, and who does not read.


def test_a_client_that_asks_without_reading_is_not_read_from_and_starves_nobody(
    start_broker: StartBroker, connect: Connect
) -> None:
    broker = start_broker(broker={"client_buffer_bytes": 65536, "client_write_timeout": 600})
    flood = connect(broker)
    flood.greet()

    def ask() -> None:
        with contextlib.suppress(OSError):
            flood.ask_for_ever()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        db = broker.handler()
        assert [db.query("SELECT %s::int", (n,))[0][0] for n in range(200)] == list(range(200))
        # From here on it reads: one answer for each request, in order.
        for number in range(1, 2001):
            assert flood.hear().request == number
    finally:
        flood.socket.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_reading_again_in_time_is_soon_enough(start_broker: StartBroker, connect: Connect) -> None:
    broker = start_broker(broker={"client_buffer_bytes": 65536, "client_write_timeout": 600})
    slow = connect(broker)
    slow.greet()
    for _ in range(20):
        slow.query("SELECT repeat('x', 1000000)")
    wait_until(lambda: broker.group()["requests"] > 0, what="the first to run")
    replies = [slow.hear() for _ in range(20)]
    assert sorted(reply.request for reply in replies) == list(range(1, 21))
    assert {len(reply.rows) > 1_000_000 for reply in replies} == {True}
    slow.ask("ping")
    assert isinstance(slow.hear(), Answer)


def test_nothing_more_is_begun_for_who_does_not_read_until_it_does(start_broker: StartBroker, connect: Connect) -> None:
    broker = start_broker(groups={"default": {"max_size": 1}})
    deaf = connect(broker)
    deaf.greet()
    deaf.leave_unread(broker)
    for _ in range(20):
        deaf.query("SELECT 1")
    wait_until(lambda: broker.group()["requests"] == 21, what="the others to come")
    assert broker.handler().query("SELECT 2")[0][0] == 2
    (shown,) = [each for each in broker.stats()["processes"] if each["held"]]
    assert (shown["requests"], shown["held"]) == (20, 20)
    assert broker.pool()["requests"] == 2
    assert [deaf.hear().request for _ in range(21)] == list(range(1, 22))


def test_who_is_ended_with_replies_unread_still_gets_them_and_hears_why(
    start_broker: StartBroker, connect: Connect
) -> None:
    broker = start_broker(groups=LEASES)
    slow = connect(broker)
    slow.greet()
    slow.query("SELECT 1", "transactions", lease=1)
    slow.leave_unread(broker)
    order(broker, "kill", f"--pid={os.getpid()}")
    wait_until(lambda: broker.pool("transactions")["idle"] == 1, what="the transaction to be rolled back")
    with pytest.raises(BrokenPipeError):
        slow.ask("ping")
    replies = [slow.hear() for _ in range(3)]
    assert sorted(getattr(reply, "request", 0) for reply in replies) == [0, 1, 2]
    assert max(len(getattr(reply, "rows", b"")) for reply in replies) > 5_000_000
    assert replies[2].message == "disconnected: an administrator ended it"
    assert slow.ended() == b""
    broker.handler().query("SELECT 1")
    assert "client dropped" not in broker.log()


def test_a_broker_that_stops_waits_for_who_reads_its_replies_slowly(
    start_broker: StartBroker, connect: Connect
) -> None:
    broker = start_broker()
    slow = connect(broker)
    slow.greet()
    slow.leave_unread(broker)
    broker.signal(signal.SIGTERM)
    wait_until(broker.is_deaf, what="the broker to take no more")
    reply = slow.hear()
    assert isinstance(reply, ResultMessage)
    assert len(reply.rows) > 5_000_000
    assert broker.wait() == 0
    assert "leave replies unread" not in broker.log()


def test_who_is_ended_and_never_reads_is_dropped_when_it_has_had_its_time(
    start_broker: StartBroker, connect: Connect
) -> None:
    broker = start_broker(broker={"client_write_timeout": 0.3})
    deaf = connect(broker)
    deaf.greet()
    deaf.leave_unread(broker)
    order(broker, "kill", f"--pid={os.getpid()}")
    wait_until(lambda: "unread for client_write_timeout = 0.3 s" in broker.log(), what="the deaf client to be dropped")
    assert deaf.ended() != b""
    assert broker.stop() == 0


@pytest.mark.parametrize("large", [True, False])
def test_a_client_that_never_reads_is_dropped_with_all_that_it_had(
    start_broker: StartBroker, connect: Connect, large: bool
) -> None:
    broker = start_broker(groups=LEASES, broker={"client_buffer_bytes": 65536, "client_write_timeout": 0.3})
    deaf = connect(broker)
    deaf.greet()
    deaf.query("SELECT 1", "transactions", lease=1)
    deaf.query("SELECT pg_sleep(1000)")
    wait_until(lambda: broker.pool("transactions")["leased"] == 1, what="the lease")
    wait_until(lambda: broker.pool()["active"] == 1, what="the statement to run")
    if large:
        deaf.query("SELECT repeat('x', 5000000)")
    else:
        # Many at once: it is paused for their number before it is for its replies.
        deaf.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            deaf.ask_for_ever()
    wait_until(lambda: "unread for client_write_timeout = 0.3 s" in broker.log(), what="the deaf client to be dropped")
    wait_until(lambda: broker.pool("transactions")["idle"] == 1, what="the transaction to be rolled back")
    wait_until(lambda: broker.pool()["active"] == 0, what="the statement to be cancelled")
    assert broker.handler().query("SELECT 1")[0][0] == 1


@pytest.mark.parametrize("how", ["close", "half"])
def test_the_end_of_the_file_is_the_clients_end(start_broker: StartBroker, connect: Connect, how: str) -> None:
    broker = start_broker(groups=LEASES)
    raw = connect(broker)
    raw.greet()
    raw.query("SELECT 1", "transactions", lease=1)
    raw.hear()
    raw.query("SELECT pg_sleep(1000)")
    wait_until(lambda: broker.pool()["active"] == 1, what="the statement to run")
    raw.close() if how == "close" else raw.socket.shutdown(socket.SHUT_WR)
    wait_until(lambda: broker.pool("transactions")["idle"] == 1, what="the transaction to be rolled back")
    wait_until(lambda: broker.pool()["active"] == 0, what="the statement to be cancelled")
    assert broker.group()["withdrawn"] == 1
