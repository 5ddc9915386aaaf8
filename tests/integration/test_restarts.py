"""A broker that goes and comes back beside busy clients: they wait for it, and send again what nobody has begun."""

import fcntl
import gc
import os
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import StringIO
from typing import Any

import psycopg2.errors
import pytest
from brokers import Broker, listening, poold
from postgres import Postgres
from waiting import wait_until

import client
from client import Handler
from client.channels.channel import Channel

StartBroker = Callable[..., Broker]

CLEAN_UP = "DROP TABLE IF EXISTS over_a_restart"
GROUPS = {
    "default": {"max_size": 4, "queue_timeout": 30},
    "transactions": {"autocommit": False, "max_size": 4, "queue_timeout": 30},
}
# As long as a slow machine may take to start a broker.
LONG = 60.0


@pytest.fixture
def broker(postgres: Postgres, start_broker: StartBroker) -> Broker:
    return start_broker({"main": postgres.parameters}, GROUPS)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as made:
        yield made


def by_query(db: Handler) -> int:
    return int(db.query("SELECT 1 AS one")[0].one)


def by_query_with_a_timeout(db: Handler) -> int:
    return int(db.query("SELECT 1 AS one", timeout=LONG)[0].one)


def by_large_query(db: Handler) -> int:
    return int(db.query("SELECT length(%s) / 1000000 AS one", ("x" * 1_000_000,))[0].one)


def by_block(db: Handler) -> int:
    with db.transaction() as tx:
        first = tx.query("SELECT 1 AS one")
        tx.query("SELECT %s", (first["one"],))
    return int(first.result()[0].one)


def by_usual_block(db: Handler) -> int:
    with db.transaction() as tx:
        first = tx.query("SELECT 1 AS one")
    return int(first.result()[0].one)


def by_lease(db: Handler) -> int:
    with Handler("transactions", address=db._address, connect_wait=db._connect_wait) as leased:
        return int(leased.query("SELECT 1 AS one")[0].one)


def by_session(db: Handler) -> int:
    with db.session() as session:
        return int(session.query("SELECT 1 AS one")[0].one)


def by_copy_out(db: Handler) -> int:
    sink = StringIO()
    db.copy_out("COPY (SELECT 1) TO STDOUT", sink)
    return int(sink.getvalue())


def by_copy_in_a_lease(db: Handler) -> int:
    with Handler("transactions", address=db._address, connect_wait=db._connect_wait) as leased:
        sink = StringIO()
        leased.copy_out("COPY (SELECT 1) TO STDOUT", sink)
        return int(sink.getvalue())


def by_stream(db: Handler) -> int:
    with db.stream("SELECT 1 AS one") as rows:
        return int(next(iter(rows)).one)


WAYS = (
    by_query, by_query_with_a_timeout, by_large_query, by_block, by_usual_block, by_lease, by_session, by_copy_out,
    by_copy_in_a_lease, by_stream,
)  # fmt: skip


def asked(
    broker: Broker, threads: ThreadPoolExecutor, wait: float = LONG, before: Callable[[], object] | None = None
) -> list["Future[int]"]:
    """What the ways return, each in a thread of its own that has talked to the broker before.

    It has several free channels to that broker. What happens before they are asked: without a word the broker freezes.
    """
    known = threading.Barrier(len(WAYS) + 1)
    go_on, one_by_one = threading.Event(), threading.Lock()

    def ask(way: Callable[[Handler], int]) -> int:
        db = broker.handler(connect_wait=wait)
        with one_by_one, db.session() as one, db.session() as other:
            assert [by_query(each) for each in (one, other, db)] == [1, 1, 1]
        known.wait()
        assert go_on.wait(LONG)
        return way(db)

    found = [threads.submit(ask, way) for way in WAYS]
    known.wait()
    if before is None:
        os.kill(broker.pid, signal.SIGSTOP)
    else:
        before()
    go_on.set()
    return found


def have_sent() -> bool:
    """Whether all wait for the frozen broker, which has something unread of each."""
    channels = [each for each in gc.get_objects() if type(each) is Channel]
    return sum(1 for each in channels if not each._is_broken and unread(each._descriptor)) >= len(WAYS)


def unread(descriptor: int) -> int:
    """How many bytes the other end of this unix socket has not read."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def test_what_a_killed_broker_has_not_read_another_one_runs(broker: Broker, threads: ThreadPoolExecutor) -> None:
    found = asked(broker, threads)
    wait_until(have_sent, what="all requests to be sent")
    broker.kill()
    broker.start()
    assert [each.result(LONG) for each in found] == [1] * len(WAYS)


def test_what_comes_too_late_for_a_broker_that_stops_another_one_runs(
    broker: Broker, threads: ThreadPoolExecutor
) -> None:
    found = asked(broker, threads)
    wait_until(have_sent, what="all requests to be sent")
    os.kill(broker.pid, signal.SIGTERM)
    os.kill(broker.pid, signal.SIGCONT)
    broker.process.wait(LONG)
    broker.start()
    assert [each.result(LONG) for each in found] == [1] * len(WAYS)


def test_what_a_broker_refuses_after_a_restart_the_new_one_runs_at_once(
    broker: Broker, threads: ThreadPoolExecutor
) -> None:
    old, holder = broker.process, broker.handler("transactions")
    holder.query("SELECT 1")  # so the old broker goes on

    found = asked(broker, threads, 0.0, broker.restart)
    assert [each.result(LONG) for each in found] == [1] * len(WAYS)
    assert old.poll() is None
    holder.rollback()


def test_what_a_broker_has_not_read_when_it_ends_behind_a_restart_the_new_one_runs_at_once(
    broker: Broker, threads: ThreadPoolExecutor
) -> None:
    old, holder = broker.process, broker.handler("transactions")
    holder.query("SELECT 1")

    def restart_and_freeze() -> None:
        broker.restart()
        old.send_signal(signal.SIGSTOP)

    found = asked(broker, threads, 0.0, restart_and_freeze)
    wait_until(have_sent, what="all requests to be sent")
    broker._earlier.remove(old)
    old.kill()
    old.wait()
    assert [each.result(LONG) for each in found] == [1] * len(WAYS)


def replaced_beside_busy_clients(
    broker: Broker, threads: ThreadPoolExecutor, replace: Callable[[], None], wait: float = LONG
) -> None:
    """Replace the broker three times, while each of the ways is gone all the time and has to succeed."""
    over, counts = threading.Event(), [0] * len(WAYS)

    def work(number: int) -> None:
        db = broker.handler(connect_wait=wait)
        while not over.is_set():
            assert WAYS[number](db) == 1
            counts[number] += 1

    working = [threads.submit(work, number) for number in range(len(WAYS))]
    try:
        for _ in range(3):
            before = list(counts)
            wait_until(
                lambda before=before: all(now > then + 1 for now, then in zip(counts, before, strict=True)),
                LONG,
                "all to be served",
            )
            replace()
    finally:
        over.set()
    for each in working:
        each.result(LONG)


def test_a_stop_beside_busy_clients_loses_nothing(broker: Broker, threads: ThreadPoolExecutor) -> None:
    def stop_and_start() -> None:
        broker.stop()
        broker.start()

    replaced_beside_busy_clients(broker, threads, stop_and_start)


@pytest.mark.parametrize("wait", [0.0, LONG])
def test_a_restart_beside_busy_clients_is_not_noticed(broker: Broker, threads: ThreadPoolExecutor, wait: float) -> None:
    def restart() -> None:
        old = broker.process
        broker.restart()
        assert old.wait(LONG) == 0

    replaced_beside_busy_clients(broker, threads, restart, wait)


def test_a_transaction_ends_on_the_broker_that_has_begun_it(broker: Broker) -> None:
    db, other, old = broker.handler("transactions"), broker.handler("transactions"), broker.process
    db.query("CREATE TABLE over_a_restart (id int)")
    with broker.handler().session() as session:
        session.query("SET application_name = 'kept'")
        broker.restart()
        assert other.query("SELECT 1 AS one")[0].one == 1
        db.query("INSERT INTO over_a_restart VALUES (1)")
        db.commit()
        assert session.query("SHOW application_name").scalar() == "kept"
        assert old.poll() is None
    assert old.wait(LONG) == 0
    assert other.query("SELECT count(*) FROM over_a_restart").scalar() == 1
    other.rollback()


def test_a_cancel_does_not_count_what_the_old_broker_still_runs(
    broker: Broker, postgres: Postgres, threads: ThreadPoolExecutor
) -> None:
    db, old = broker.handler("transactions"), broker.process
    running = threads.submit(db.query, "SELECT pg_sleep(600) /* behind the restart */")
    mine = "FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%(600) /* behind the restart */'"
    wait_until(lambda: postgres.execute(f"SELECT pid {mine}"), what="the statement runs")
    broker.restart()
    assert db.cancel() == 0
    assert postgres.execute(f"SELECT pg_cancel_backend(pid) {mine}") == [(True,)]
    with pytest.raises(psycopg2.errors.QueryCanceled):
        running.result(LONG)
    db.rollback()
    assert old.wait(LONG) == 0


def test_the_new_broker_has_the_new_configuration(broker: Broker, postgres: Postgres) -> None:
    broker.configure({"main": postgres.parameters}, {**GROUPS, "another": {}})
    broker.restart()
    assert broker.handler("another").query("SELECT 1 AS one")[0].one == 1


def test_a_new_broker_that_does_not_start_changes_nothing(broker: Broker, postgres: Postgres) -> None:
    db = broker.handler("transactions")
    db.query("SELECT 1")
    config = broker.config.read_text("utf-8")
    broker.config.write_text("[broker]\nno_such_key = 1\n", "utf-8")
    failed = poold("restart", f"--address={broker.address}")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert f"not restarted, process {broker.pid} goes on: {broker.config}: problems found: " in failed.stderr
    assert "no_such_key" in failed.stderr
    assert "no_such_key" in broker.log()
    assert db.query("SELECT 1 AS one")[0].one == 1
    db.rollback()
    broker.config.write_text(config, "utf-8")
    broker.restart()
    assert db.query("SELECT 1 AS one")[0].one == 1
    db.rollback()


def test_a_broker_over_tcp_cannot_be_restarted(postgres: Postgres, start_broker: StartBroker) -> None:
    broker = start_broker({"main": postgres.parameters}, GROUPS, listening("tcp"))
    failed = poold("restart", f"--address={broker.address}")
    assert failed.returncode == 1
    assert "restart is for root" in failed.stderr


def test_a_killed_successor_leaves_nothing_in_the_way(broker: Broker) -> None:
    broker.restart()
    broker.kill()
    broker.start()
    assert by_query(broker.handler()) == 1


def test_an_open_transaction_is_not_begun_again_elsewhere(broker: Broker) -> None:
    db = broker.handler("transactions", connect_wait=LONG)
    db.query("SELECT 1")
    broker.kill()
    broker.start()
    with pytest.raises(client.TransactionLost):
        db.query("SELECT 1")
    db.rollback()
    assert db.query("SELECT 1 AS one")[0].one == 1


def test_a_statement_that_may_have_run_is_not_sent_again(broker: Broker, threads: ThreadPoolExecutor) -> None:
    db = broker.handler(connect_wait=LONG)
    asked = threads.submit(db.query, "SELECT pg_sleep(60)")
    wait_until(lambda: broker.pool()["active"] == 1, what="the statement to run")
    broker.kill()
    with pytest.raises(client.DBConnectionError) as caught:
        asked.result(LONG)
    assert caught.value.outcome == "unknown"


def test_a_client_waits_for_a_broker_that_is_to_come(
    postgres: Postgres, start_broker: StartBroker, threads: ThreadPoolExecutor
) -> None:
    broker = start_broker({"main": postgres.parameters}, GROUPS)
    broker.stop()
    found = [threads.submit(way, broker.handler(connect_wait=LONG)) for way in WAYS]
    broker.start()
    assert [each.result(LONG) for each in found] == [1] * len(WAYS)


def test_who_does_not_want_to_wait_is_told_at_once(broker: Broker) -> None:
    db = broker.handler(connect_wait=0)
    broker.stop()
    for _ in range(2):
        with pytest.raises(client.DBConnectionError, match="no poold broker answers") as caught:
            db.query("SELECT 1")
        assert caught.value.outcome == "not executed"


def test_a_timeout_bounds_the_wait_for_a_broker(broker: Broker) -> None:
    db = broker.handler(connect_wait=10 * LONG)
    broker.stop()
    began = time.monotonic()
    with pytest.raises(client.DBConnectionError, match="no poold broker answers"):
        db.query("SELECT 1", timeout=0.1)
    assert time.monotonic() - began < LONG


@pytest.mark.parametrize("wrong", [-1, "soon", True, float("nan"), 1e12])
def test_a_wait_that_is_none_is_refused(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"connect_wait is .*; expected seconds"):
        Handler(connect_wait=wrong)
    with pytest.raises(ValueError, match=r"config\['connect_wait'\] is .*; expected seconds"):
        client.Connection.init({"connect_wait": wrong})
    monkeypatch.setenv("POOLD_CONNECT_WAIT", str(wrong))
    with pytest.raises(ValueError, match=r"POOLD_CONNECT_WAIT is .*; expected seconds"):
        Handler()
