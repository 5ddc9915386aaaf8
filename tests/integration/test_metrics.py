"""Metrics of a real broker: that they are true, who gets them, and what becomes of them when the broker is replaced."""

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, poold
from people import NOBODY, only_root, poold_as
from postgres import Postgres, free_port
from scrapes import OPENMETRICS, Samples, check_histograms, scrape, shrunken, statuses
from waiting import wait_until

import client
from client import Handler

StartBroker = Callable[..., Broker]

GROUPS = {
    "default": {"max_size": 2, "max_waiting": 3},
    "transactions": {"autocommit": False, "max_size": 2},
}
# A server that is not there.
NOWHERE = {"host": "127.0.0.1", "port": 1, "dbname": "x", "user": "x"}


class Watched:
    """A broker with metrics, and its port for them."""

    def __init__(self, start: StartBroker, **more: Any) -> None:
        self.port = free_port()
        settings = {"metrics_address": f"127.0.0.1:{self.port}", **more.pop("broker", {})}
        self.broker: Broker = start(**{"groups": GROUPS, **more}, broker=settings)

    def samples(self) -> Samples:
        return Samples(scrape(self.port))


@pytest.fixture
def watched(start_broker: StartBroker) -> Watched:
    return Watched(start_broker)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def since(before: Samples, after: Samples, name: str, **labels: str) -> float:
    """How much has been added; what was not there before was 0."""
    had = [value for (each, pairs), value in before.items() if each == name and set(labels.items()) <= pairs]
    return after.of(name, **labels) - sum(had)


def test_figures_are_what_was_done(watched: Watched) -> None:
    broker, before = watched.broker, watched.samples()
    db = broker.handler()
    for each in range(400):
        db.query("SELECT %s", (each,))
    for _ in range(3):
        with pytest.raises(client.DBQueryError):
            db.query("SELECT 1 / 0")
    with pytest.raises(client.DBQueryError):
        db.query("SELECT * FROM missing")
    for _ in range(60):
        with db.transaction() as tx:
            tx.query("SELECT 1")
            tx.query("SELECT 2")
    with db.session() as session:
        session.query("SELECT 1")
    for _ in range(5):
        with broker.handler("transactions") as lease:
            lease.query("SELECT 1")
            lease.query("SELECT 2")
    after = watched.samples()

    def grown(name: str, **labels: str) -> float:
        return since(before, after, name, **labels)

    # A session is released, a transaction is committed; only the latter is a request.
    assert grown("poold_requests_total", group="default") == 400 + 4 + 60 + 1
    assert grown("poold_requests_total", group="transactions") == 5 * 3
    assert grown("poold_errors_total", group="default", sqlstate_class="22") == 3
    assert grown("poold_errors_total", group="default", sqlstate_class="42") == 1
    assert grown("poold_errors_total") == 4
    assert grown("poold_transaction_seconds_count", group="default", kind="message") == 60
    assert grown("poold_transaction_seconds_count", group="default", kind="session") == 1
    assert grown("poold_transaction_seconds_count", group="transactions", kind="lease") == 5
    assert grown("poold_run_seconds_count", group="default") == 400 + 4 + 60 + 1
    assert grown("poold_wait_seconds_count") == grown("poold_requests_total")
    assert grown("poold_backend_requests_total") >= grown("poold_requests_total")
    assert after.of("poold_connect_seconds_count") == after.of("poold_backends_opened_total")
    assert 0 < grown("poold_run_seconds_sum") < 60
    if broker.stats()["lane"]["state"] == "compiled":
        assert grown("poold_lane_requests_total") > 100
    shown = broker.stats()
    for name, group in shown["groups"].items():
        assert after.of("poold_requests_total", group=name) == group["requests"]
        assert after.of("poold_errors_total", group=name) == group["errors"]
        assert after.of("poold_group_max_backends", group=name) == group["max_size"]
        assert after.of("poold_backends", group=name) == sum(each["size"] for each in group["endpoints"].values())
    assert check_histograms(after) >= 8


def test_who_waits_who_is_refused_and_who_waited_too_long(watched: Watched, threads: ThreadPoolExecutor) -> None:
    broker, before = watched.broker, watched.samples()
    gate = "SELECT pg_advisory_lock(772)"
    with broker.handler("default").session() as holder:
        holder.query(gate)
        one = threads.submit(lambda: broker.handler().query("SELECT pg_advisory_xact_lock(772)"))
        wait_until(lambda: watched.samples().of("poold_backends", group="default", state="active") == 1)
        assert watched.samples().of("poold_backends", group="default", state="leased") == 1
        waiting = [threads.submit(lambda: broker.handler(priority="batch").query("SELECT 1")) for _ in range(3)]
        wait_until(lambda: watched.samples().of("poold_requests_waiting", group="default", priority="batch") == 3)
        assert watched.samples().of("poold_requests_waiting", group="default") == 3
        oldest = watched.samples().of("poold_oldest_wait_seconds", group="default")
        assert watched.samples().of("poold_oldest_wait_seconds", group="default") > oldest > 0
        with pytest.raises(client.TooManyRequests):
            broker.handler().query("SELECT 1")
        holder.query("SELECT pg_advisory_unlock(772)")
        one.result(30)
        for each in waiting:
            each.result(30)
    late = broker.handler("transactions")
    with broker.handler("transactions") as first, broker.handler("transactions") as second:
        first.query("SELECT 1")
        second.query("SELECT 1")
        with pytest.raises(client.PoolTimeout):
            late.query("SELECT 1", timeout=0.05)
        first.commit()
        second.commit()
    after = watched.samples()
    assert since(before, after, "poold_requests_refused_total", group="default", reason="max_waiting") == 1
    assert since(before, after, "poold_requests_refused_total") == 1
    assert since(before, after, "poold_request_timeouts_total", group="transactions") == 1
    assert since(before, after, "poold_request_timeouts_total") == 1
    assert since(before, after, "poold_errors_total", group="default", sqlstate_class="too-many-requests") == 1
    assert since(before, after, "poold_errors_total", group="transactions", sqlstate_class="pool-timeout") == 1
    assert since(before, after, "poold_errors_total") == 2
    assert after.of("poold_requests_waiting") == after.of("poold_oldest_wait_seconds") == 0


def test_under_load_what_counts_only_grows_and_histograms_are_whole(
    watched: Watched, threads: ThreadPoolExecutor
) -> None:
    is_over = threading.Event()

    def work(priority: str) -> int:
        db, done = watched.broker.handler(priority=priority), 0
        while not is_over.is_set():
            db.query("SELECT %s", (done,))
            with db.transaction() as tx:
                tx.query("SELECT 1")
            with suppress(client.DBQueryError):
                db.query("SELECT 1 / 0")
            done += 3
        return done

    running = [threads.submit(work, priority) for priority in ("interactive", "normal", "batch")]
    try:
        before = first = watched.samples()
        for place in range(60):
            after = Samples(scrape(watched.port, OPENMETRICS if place % 2 else "text/plain"))
            assert shrunken(before.growing(), after.growing()) == []
            check_histograms(after)
            before = after
    finally:
        is_over.set()
    done = sum(each.result(30) for each in running)
    assert since(first, watched.samples(), "poold_requests_total", group="default") <= done
    assert watched.samples().of("poold_requests_total", group="default") == done


def test_an_endpoint_that_is_away_and_a_paused_group_are_seen(start_broker: StartBroker, postgres: Postgres) -> None:
    endpoints = {"main": postgres.parameters, "away": NOWHERE}
    watched = Watched(start_broker, endpoints=endpoints, groups={"default": {}, "lost": {"endpoints": ["away"]}})
    wait_until(lambda: watched.samples().of("poold_connect_failures_total", group="lost", endpoint="away") > 1)
    found = watched.samples()
    assert found.of("poold_endpoint_state", group="lost", endpoint="away", state="available") == 0
    assert found.of("poold_endpoint_role", endpoint="main", role="primary") == 1
    assert found.of("poold_endpoint_role", endpoint="away", role="unknown") == 1
    assert (
        found.of("poold_endpoint_answers", endpoint="main"),
        found.of("poold_endpoint_answers", endpoint="away"),
    ) == (
        1,
        0,
    )
    assert found.of("poold_endpoint_wal_bytes", endpoint="main") > 0
    assert not [pairs for name, pairs in found if name == "poold_endpoint_wal_bytes" and ("endpoint", "away") in pairs]
    assert poold("pause", "default", f"--address={watched.broker.address}").returncode == 0
    found = watched.samples()
    assert found.of("poold_group_state", group="default", state="paused") == 1
    assert found.of("poold_group_state", group="default") == 1
    assert found.of("poold_endpoint_paused", group="default", endpoint="main") == 1


# Who gets them.


@pytest.mark.parametrize("text_format", ["prometheus", "openmetrics"])
def test_the_command_prints_what_the_address_has(watched: Watched, text_format: str) -> None:
    watched.broker.handler().query("SELECT 1")
    done = poold("stats", f"--format={text_format}", f"--address={watched.broker.address}")
    assert (done.returncode, done.stderr) == (0, "")
    printed = Samples(done.stdout)
    served = Samples(scrape(watched.port, OPENMETRICS if text_format == "openmetrics" else "*/*"))
    assert printed.keys() == served.keys()
    assert printed.types == served.types
    assert done.stdout.endswith("# EOF\n") == (text_format == "openmetrics")
    assert printed.of("poold_requests_total") == served.of("poold_requests_total") == 1


@pytest.mark.parametrize("other", ["--json", "--watch"])
def test_a_format_goes_with_no_other_one(other: str) -> None:
    done = poold("stats", "--format=prometheus", other, "--address=ipc:///tmp/poold-none")
    assert done.returncode == 2
    assert "--format goes with neither --json nor --watch" in done.stderr


@only_root
def test_a_user_sees_the_figures_of_his_groups_by_the_command_and_of_all_at_the_address(
    start_broker: StartBroker,
) -> None:
    groups = {"default": {}, "salaries": {"allow_users": ["0"]}}
    watched = Watched(start_broker, groups=groups, broker={"allow_uids": [NOBODY]})
    watched.broker.folder.chmod(0o755)
    mine = poold_as(NOBODY, "stats", "--format=prometheus", f"--address={watched.broker.address}")
    assert mine.returncode == 0, mine.stderr
    assert 'group="default"' in mine.stdout
    assert "salaries" not in mine.stdout
    assert 'group="salaries"' in scrape(watched.port)


def test_nothing_of_clients_or_secrets_is_told(start_broker: StartBroker, postgres: Postgres) -> None:
    parameters = {**postgres.parameters, "password": "hushhush"}
    watched = Watched(start_broker, endpoints={"main": parameters, "away": {**NOWHERE, "password": "hushhush"}})
    watched.broker.handler(tag="a-tag-of-mine").query("SELECT 'a-statement-of-mine'")
    with pytest.raises(client.DBQueryError):
        watched.broker.handler(tag="a-tag-of-mine").query("SELECT 'a-statement-of-mine'::int")
    text = scrape(watched.port)
    for secret in ("hushhush", "mine", f'"{parameters["user"]}', str(parameters["host"])):
        assert secret not in text
    assert set(statuses(watched.port, ("GET", "/"), ("GET", "/metrics"), ("PUT", "/metrics"))) == {404, 200, 405}


def test_without_an_address_nothing_listens_and_the_command_works_all_the_same(start_broker: StartBroker) -> None:
    broker = start_broker(groups=GROUPS)
    done = poold("stats", "--format=prometheus", f"--address={broker.address}")
    assert Samples(done.stdout).of("poold_state", state="running") == 1
    with open(f"/proc/{broker.pid}/net/tcp", encoding="ascii") as file:
        inodes = {line.split()[9] for line in file if line.split()[3] == "0A"}
    assert not [link for link in sockets_of(broker.pid) if link in inodes]


def sockets_of(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    found = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            target = str(each.readlink())
            if target.startswith("socket:["):
                found.add(target[len("socket:[") : -1])
    return found


# The address.


def test_an_address_that_is_taken_keeps_the_broker_from_starting_and_says_so(start_broker: StartBroker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        broker = start_broker(groups=GROUPS, broker={"metrics_address": f"127.0.0.1:{port}"}, start=False)
        with pytest.raises(AssertionError, match="code 1 while starting"):
            broker.start()
        assert f"poold: metrics_address = '127.0.0.1:{port}' cannot be used: address already in use;" in broker.log()
        assert "Traceback" not in broker.log()
    broker.start()
    assert Samples(scrape(port)).of("poold_clients") == 0


def test_two_brokers_do_not_share_an_address(watched: Watched, start_broker: StartBroker) -> None:
    second = start_broker(groups=GROUPS, broker={"metrics_address": f"127.0.0.1:{watched.port}"}, start=False)
    with pytest.raises(AssertionError, match="code 1 while starting"):
        second.start()
    assert watched.samples().of("poold_state", state="running") == 1


def test_a_broker_that_was_killed_leaves_the_address_to_the_next_one(watched: Watched) -> None:
    with closing(socket.create_connection(("127.0.0.1", watched.port))) as kept:
        kept.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        assert kept.recv(1)
        watched.broker.kill()
        watched.broker.start()
        assert watched.samples().of("poold_state", state="running") == 1
    watched.broker.stop()
    watched.broker.start()
    assert watched.samples().of("poold_state", state="running") == 1


def test_metrics_are_there_while_servers_are_not(start_broker: StartBroker, threads: ThreadPoolExecutor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = free_port()
        endpoint = {**NOWHERE, "port": silent.getsockname()[1]}
        broker = start_broker({"main": endpoint}, GROUPS, {"metrics_address": f"127.0.0.1:{port}"}, start=False)
        starting = threads.submit(broker.start)

        def is_served() -> bool:
            with suppress(OSError):
                return Samples(scrape(port)).of("poold_backends", state="connecting") > 0
            return False

        wait_until(is_served)
        assert not starting.done()
        starting.result(30)


# Another broker in its place.


def test_a_restart_refuses_no_scrape_and_in_the_end_the_new_broker_answers_all(
    watched: Watched, threads: ThreadPoolExecutor
) -> None:
    is_over = threading.Event()

    def collect() -> list[float]:
        started = []
        while not is_over.is_set():
            started.append(Samples(scrape(watched.port)).of("process_start_time_seconds"))
        return started

    collecting = [threads.submit(collect) for _ in range(2)]
    for _ in range(2):
        watched.broker.restart()
        now = watched.samples().of("process_start_time_seconds")
        wait_until(lambda now=now: watched.samples().of("process_start_time_seconds") == now)  # type: ignore[misc]
    is_over.set()
    for each in collecting:
        started = each.result(30)
        assert len(set(started)) == 3
        assert started[-1] == max(started)


def test_an_open_connection_is_ended_in_good_order_by_the_broker_that_leaves(watched: Watched) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", watched.port, timeout=30)
    connection.request("GET", "/metrics")
    first = Samples(connection.getresponse().read().decode())
    with watched.broker.handler("transactions") as lease:
        lease.query("SELECT 1")  # the old broker stays until this has ended
        watched.broker.restart()
        assert connection.sock is not None
        assert connection.sock.recv(1) == b""
        connection.close()
        connection.request("GET", "/metrics")
        second = Samples(connection.getresponse().read().decode())
        connection.close()
        assert second.of("process_start_time_seconds") > first.of("process_start_time_seconds")
        lease.commit()


def test_a_restart_takes_another_address_or_none_from_the_configuration(
    watched: Watched, start_broker: StartBroker, postgres: Postgres
) -> None:
    broker, other = watched.broker, free_port()
    endpoints = {"main": postgres.parameters}
    broker.configure(endpoints, GROUPS, {"metrics_address": f"127.0.0.1:{other}"})
    broker.restart()
    assert Samples(scrape(other)).of("poold_state", state="running") == 1
    wait_until(lambda: is_refused(watched.port))
    broker.configure(endpoints, GROUPS)
    broker.restart()
    wait_until(lambda: is_refused(other))
    broker.configure(endpoints, GROUPS, {"metrics_address": f"127.0.0.1:{watched.port}"})
    broker.restart()
    assert watched.samples().of("poold_state", state="running") == 1


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_restart_to_an_address_that_is_taken_fails_and_the_old_broker_goes_on(
    watched: Watched, postgres: Postgres
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        watched.broker.configure({"main": postgres.parameters}, GROUPS, {"metrics_address": taken})
        done = poold("restart", f"--address={watched.broker.address}")
    assert done.returncode == 1
    assert f"metrics_address = '{taken}' cannot be used" in watched.broker.log()
    assert watched.samples().of("poold_state", state="running") == 1


def test_a_broker_that_drains_says_so(watched: Watched, threads: ThreadPoolExecutor) -> None:
    with watched.broker.handler("transactions") as lease:
        lease.query("SELECT 1")
        stopping = threads.submit(watched.broker.stop)
        wait_until(lambda: watched.samples().of("poold_state", state="draining") == 1)
        assert watched.samples().of("poold_state") == 1
        lease.commit()
    assert stopping.result(30) == 0


# Strangers.


def test_strangers_at_the_address_keep_neither_clients_nor_collectors_out(
    watched: Watched, threads: ThreadPoolExecutor
) -> None:
    is_over = threading.Event()
    head = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"

    def bother(how: Callable[[socket.socket], None]) -> None:
        while not is_over.is_set():
            with suppress(OSError), socket.create_connection(("127.0.0.1", watched.port), timeout=1) as connection:
                how(connection)

    def never_ends(connection: socket.socket) -> None:
        while not is_over.is_set():
            connection.sendall(b"x")
            time.sleep(0.01)  # as slowly as it may

    def never_reads(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while not is_over.is_set():
            connection.sendall(head * 100)

    def asks_all_the_time(connection: socket.socket) -> None:
        while not is_over.is_set() and connection.recv(1 << 20):
            connection.sendall(head)

    def only_connects(connection: socket.socket) -> None:
        connection.shutdown(socket.SHUT_WR)

    ways = [never_ends, never_reads, asks_all_the_time, only_connects, lambda c: c.sendall(b"\xff" * 100_000)]
    bothering = [threads.submit(bother, how) for how in ways]
    try:
        db = Handler(address=watched.broker.address)
        for each in range(300):
            assert db.query("SELECT %s", (each,))[0][0] == each
        found = [watched.samples() for _ in range(10)]
    finally:
        is_over.set()
    for stranger in bothering:
        stranger.result(30)
    assert found[-1].of("poold_requests_total") == 300
    assert found[-1].of("process_open_fds") < 100
