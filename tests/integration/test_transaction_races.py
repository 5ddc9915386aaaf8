"""Transaction messages that meet others: those that lost a race are run again, and every one counts once."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg2.errors
import pytest
from brokers import Broker
from gates import gate
from ledger import ADD, ENDPOINT, TABLES, book, drop_tables, tags, terminate
from postgres import Postgres
from waiting import wait_until

import client

GROUPS = {"default": {"max_size": 3, "track_outcome": True}}


@pytest.fixture(scope="module")
def broker(postgres: Postgres) -> Iterator[Broker]:
    """A broker on the session's server with this module's tables."""
    postgres.execute(TABLES)
    made = Broker({"main": {**postgres.parameters, **ENDPOINT}}, GROUPS)
    try:
        yield made.start()
    finally:
        made.close()
        drop_tables(postgres)


@pytest.fixture
def server(postgres: Postgres, broker: Broker) -> Postgres:
    """The server, its tables empty."""
    postgres.execute("TRUNCATE ledger")
    return postgres


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Threads for clients that wait. One that waits too long ends with its broker."""
    made = ThreadPoolExecutor(8)
    yield made
    made.shutdown(wait=False, cancel_futures=True)


def test_serializable_transactions_that_race_are_run_again_as_if_one_had_come_first(
    server: Postgres, broker: Broker, threads: ThreadPoolExecutor
) -> None:
    before = broker.group()["retries"]
    count = "INSERT INTO ledger (tag, amount) SELECT %s, count(*) FROM ledger"
    with gate(server) as closed:
        statements = ["SELECT count(*) FROM ledger", f"SELECT {closed.passage}"]
        racing = [
            threads.submit(book, broker, *statements, (count, (name,)), isolation="serializable") for name in "ab"
        ]
        closed.arrived(2)
        closed.open()
        tries = sorted(each.result(20).tries for each in racing)
    assert tries[0] == 1
    assert tries[1] > 1
    assert server.execute("SELECT amount FROM ledger ORDER BY amount") == [(0,), (1,)]
    assert broker.group()["retries"] == before + sum(tries) - 2


def test_a_deadlock_is_broken_and_both_transactions_are_committed(
    server: Postgres, broker: Broker, threads: ThreadPoolExecutor
) -> None:
    server.execute("INSERT INTO ledger VALUES ('a'), ('b')")
    take = "UPDATE ledger SET amount = amount + 1 WHERE tag = %s"
    with gate(server) as closed:
        crossing = [
            threads.submit(book, broker, (take, (one,)), f"SELECT {closed.passage}", (take, (other,), 1))
            for one, other in ("ab", "ba")
        ]
        closed.arrived(2)
        closed.open()
        assert sum(each.result(20).tries for each in crossing) > 2
    assert server.execute("SELECT amount FROM ledger") == [(3,), (3,)]


@pytest.mark.parametrize(("options", "runs"), [({}, 4), ({"retries": 0}, 1), ({"retries": 6}, 7)])
def test_a_race_that_is_always_lost_is_given_up_after_its_retries(
    server: Postgres, broker: Broker, options: dict[str, int], runs: int
) -> None:
    server.execute("CREATE SEQUENCE runs")
    try:
        with pytest.raises(psycopg2.errors.SerializationFailure, match="mine") as caught:
            book(
                broker,
                (ADD, ("never",)),
                "SELECT nextval('runs')",
                "DO $$ BEGIN RAISE 'mine' USING ERRCODE = '40001'; END $$",
                **options,
            )
        assert (caught.value.retryable, caught.value.outcome) == (True, "failed")
        assert server.execute("SELECT last_value FROM runs") == [(runs,)]
        assert tags(server) == []
    finally:
        server.execute("DROP SEQUENCE runs")


def test_under_load_with_backends_dying_every_transaction_is_committed_once_or_not_at_all(
    server: Postgres, broker: Broker, threads: ThreadPoolExecutor
) -> None:
    chance, is_over, killed = random.Random(4), threading.Event(), set()

    def work(worker: int) -> dict[str, str]:
        found: dict[str, str] = {}
        while not is_over.is_set():
            tag = f"{worker}/{len(found)}"
            try:
                book(broker, (ADD, (tag,)), (ADD, (tag + " too",)), retries=10)
            except client.DBError as error:
                found[tag] = error.outcome
            else:
                found[tag] = "committed"
        return found

    def victims() -> list[int]:
        known = broker.server_pids()  # other brokers have backends of that name too
        served = "application_name = 'poold' AND backend_type = 'client backend' AND state <> 'idle'"
        found = server.execute(f"SELECT pid FROM pg_stat_activity WHERE {served}")
        return [pid for (pid,) in found if pid in known and pid not in killed]

    workers = [threads.submit(work, number) for number in range(6)]
    try:
        while len(killed) < 8:
            pid = chance.choice(wait_until(victims, what="a busy backend"))
            terminate(server, pid)
            killed.add(pid)
            wait_until(lambda pid=pid: pid not in broker.server_pids(), what="the broker to notice")
    finally:
        is_over.set()
    found = {tag: outcome for worker in workers for tag, outcome in worker.result(30).items()}
    written = tags(server)
    there = set(written)
    assert len(written) == len(there), "none is committed twice"
    for tag, outcome in found.items():
        halves = (tag in there) + (tag + " too" in there)
        assert halves in (0, 2), "all of it or nothing"
        if outcome != "unknown":
            assert (halves == 2) == (outcome == "committed"), (tag, outcome)
    assert len(found) > 100
    assert sum(outcome == "committed" for outcome in found.values()) >= len(found) - len(killed)
