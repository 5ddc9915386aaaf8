"""A broker that stops, on a real server: what waits is for the next one, and what is cut off does not go on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from brokers import Broker, poold
from gates import Gate, gate
from postgres import Postgres
from waiting import wait_until

from client import DBConnectionError, Handler

StartBroker = Callable[..., Broker]
LONG = 20.0
GROUPS = {
    "default": {"max_size": 1, "queue_timeout": 30},
    "transactions": {"autocommit": False, "max_size": 1, "queue_timeout": 30},
}


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    made = ThreadPoolExecutor(16)
    yield made
    made.shutdown(wait=False, cancel_futures=True)


@pytest.fixture
def passage(postgres: Postgres) -> Iterator[Gate]:
    postgres.execute("DROP TABLE IF EXISTS stops")
    postgres.execute("CREATE TABLE stops (mark text)")
    with gate(postgres) as made:
        yield made
    postgres.execute("DROP TABLE stops")


@pytest.fixture
def broker(postgres: Postgres, start_broker: StartBroker) -> Broker:
    return start_broker({"main": {**postgres.parameters, "query_timeout": 0}}, GROUPS)


def marks(postgres: Postgres) -> list[str]:
    return [str(mark) for (mark,) in postgres.execute("SELECT mark FROM stops ORDER BY mark")]


def insert(db: Handler, mark: str, after: str = "1") -> Any:
    return db.query(f"INSERT INTO stops SELECT %s FROM (SELECT {after}) AS gate", (mark,))


def by_message(db: Handler, mark: str) -> Any:
    with db.transaction() as tx:
        done = tx.query("INSERT INTO stops VALUES (%s)", (mark,))
    return done.result()


def by_session(db: Handler, mark: str) -> Any:
    with db.session() as session:
        return session.query("INSERT INTO stops VALUES (%s)", (mark,))


def waiting(broker: Broker, threads: ThreadPoolExecutor, wait: float) -> list[Future[Any]]:
    """Inserts that wait for the backend, of all kinds; some are like those that the lane has run before."""
    ways = {"query": insert, "message": by_message, "session": by_session}
    found = []
    for count in range(9):
        way = list(ways)[count % 3]
        db = broker.handler(connect_wait=wait)
        found.append(threads.submit(ways[way], db, f"{count} {way}"))
    wait_until(lambda: broker.group()["waiting"] == 9, what="all to wait")
    return found


def warm(broker: Broker, postgres: Postgres) -> None:
    """Have the lane know what will wait."""
    for _ in range(20):
        insert(broker.handler(), "warm")
        by_message(broker.handler(), "warm")
    postgres.execute("DELETE FROM stops")


def test_what_waits_at_a_stop_is_not_begun_and_the_next_broker_has_it(
    broker: Broker, postgres: Postgres, passage: Gate, threads: ThreadPoolExecutor
) -> None:
    warm(broker, postgres)
    running = threads.submit(insert, broker.handler(), "running", passage.passage)
    passage.arrived()
    found = waiting(broker, threads, LONG)
    broker.signal(signal.SIGTERM)
    # Nobody of them is left there, long before what runs has ended.
    wait_until(lambda: "waiting: 0" in broker.log() or broker.group()["waiting"] == 0, what="all to be refused")
    passage.open()
    assert running.result(LONG).rowcount == 1
    broker.process.wait(LONG)
    assert marks(postgres) == ["running"]
    broker.start()
    for each in found:
        each.result(LONG)
    assert len(marks(postgres)) == 10


def test_what_waits_at_a_stop_is_told_so_if_no_broker_follows(
    broker: Broker, postgres: Postgres, passage: Gate, threads: ThreadPoolExecutor
) -> None:
    warm(broker, postgres)
    running = threads.submit(insert, broker.handler(), "running", passage.passage)
    passage.arrived()
    found = waiting(broker, threads, 0.0)
    broker.signal(signal.SIGTERM)
    for each in found:
        with pytest.raises(DBConnectionError) as caught:
            each.result(LONG)
        assert caught.value.outcome == "not executed"
        assert "shutting down" in str(caught.value) or "no broker" in str(caught.value)
    passage.open()
    running.result(LONG)
    assert marks(postgres) == ["running"]


def test_what_waits_at_a_restart_goes_to_the_new_broker_at_once(
    broker: Broker, postgres: Postgres, passage: Gate, threads: ThreadPoolExecutor
) -> None:
    warm(broker, postgres)
    running = threads.submit(insert, broker.handler(), "running", passage.passage)
    passage.arrived()
    found = waiting(broker, threads, 0.0)
    broker.restart()
    for each in found:
        each.result(LONG)  # by the new one, while what was begun still runs in the old one
    assert len(marks(postgres)) == 9
    passage.open()
    assert running.result(LONG).rowcount == 1


# What is cut off.

STEPS = {
    "stop --now": (),
    "SIGQUIT": (signal.SIGQUIT,),
    "SIGTERM twice": (signal.SIGTERM, signal.SIGTERM),
    "SIGINT twice": (signal.SIGINT, signal.SIGINT),
    "drain_timeout": (signal.SIGTERM,),
}


@pytest.mark.parametrize("how", STEPS)
def test_what_is_cut_off_does_not_go_on_at_the_server(
    how: str, postgres: Postgres, start_broker: StartBroker, passage: Gate, threads: ThreadPoolExecutor
) -> None:
    timeout = 0.2 if how == "drain_timeout" else LONG
    endpoint = {**postgres.parameters, "query_timeout": 0}
    groups = {"default": {"max_size": 4}, "transactions": {"autocommit": False, "max_size": 4}}
    broker = start_broker({"main": endpoint}, groups, broker={"drain_timeout": timeout})

    def in_a_message() -> Any:
        with broker.handler(connect_wait=0).transaction() as tx:
            done = tx.query(f"INSERT INTO stops SELECT 'message' FROM (SELECT {passage.passage}) AS gate")
        return done.result()

    def in_a_transaction() -> Any:
        with broker.handler("transactions", connect_wait=0) as db:
            return insert(db, "transaction", passage.passage)

    found = [
        threads.submit(insert, broker.handler(connect_wait=0), "query", passage.passage),
        threads.submit(in_a_message),
        threads.submit(in_a_transaction),
    ]
    passage.arrived(3)
    if how == "stop --now":
        assert poold("stop", "--now", f"--address={broker.address}").returncode == 0
    for place, number in enumerate(STEPS[how]):
        wait_until(lambda: place == 0 or broker.log().count("signal received") >= place, what="the signal before")  # noqa: B023
        broker.signal(number)
    broker.process.wait(LONG)
    assert passage.waiting() == []
    for each in found:
        with pytest.raises(DBConnectionError) as caught:
            each.result(LONG)
        assert caught.value.outcome in ("unknown", "not executed")
    passage.open()
    assert marks(postgres) == []


def test_a_server_that_takes_no_cancel_does_not_keep_the_broker(
    postgres: Postgres, start_broker: StartBroker, passage: Gate, threads: ThreadPoolExecutor
) -> None:
    broker = start_broker({"main": {**postgres.parameters, "query_timeout": 0}}, GROUPS)
    # A trigger that catches the cancel and goes on: nothing of PostgreSQL's would end it.
    stubborn = f"""DO $$ BEGIN LOOP BEGIN PERFORM {passage.passage}; EXIT; EXCEPTION WHEN query_canceled THEN NULL;
        END; END LOOP; END $$"""
    found = threads.submit(broker.handler(connect_wait=0).query, stubborn)
    passage.arrived()
    broker.signal(signal.SIGQUIT)
    broker.process.wait(LONG)
    with pytest.raises(DBConnectionError) as caught:
        found.result(LONG)
    assert caught.value.outcome == "unknown"
