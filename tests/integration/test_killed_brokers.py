"""A broker that is killed with much in hand: what it had not given to PostgreSQL is run by the next one."""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from typing import Any

import pytest
from brokers import Broker, poold
from postgres import Postgres
from waiting import wait_until

import client
from client import Handler

StartBroker = Callable[..., Broker]

CLEAN_UP = "DROP TABLE IF EXISTS begun; DROP FUNCTION IF EXISTS begun_slowly"
GROUPS = {
    "default": {"max_size": 2, "queue_timeout": 60},
    "transactions": {"autocommit": False, "max_size": 2, "queue_timeout": 60},
}
LONG = 60.0


@pytest.fixture
def broker(postgres: Postgres, start_broker: StartBroker) -> Broker:
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS begun; CREATE TABLE begun (token text)")
    return start_broker({"main": {**postgres.parameters, "query_timeout": 60}}, GROUPS)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as made:
        yield made


@pytest.fixture
def kept(postgres: Postgres) -> Callable[[], list[str]]:
    """The tokens that are there, once nothing of a killed broker's runs any more."""

    def ask() -> list[str]:
        with postgres.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT token FROM begun ORDER BY token")
            return [token for (token,) in cursor.fetchall()]

    return ask


INSERT = "INSERT INTO begun VALUES (%s)"


def by_query(address: str, token: str) -> None:
    Handler(address=address, connect_wait=LONG).query(INSERT, (token,))


def by_large_query(address: str, token: str) -> None:
    large = "INSERT INTO begun SELECT %s WHERE length(%s) > 5"
    Handler(address=address, connect_wait=LONG).query(large, (token, "x" * 500_000))


def by_query_with_a_timeout(address: str, token: str) -> None:
    Handler(address=address, connect_wait=LONG).query(INSERT, (token,), timeout=LONG)


def by_block(address: str, token: str) -> None:
    with Handler(address=address, connect_wait=LONG).transaction() as tx:
        tx.query(INSERT, (token,))
        tx.query("SELECT 1")


def by_session(address: str, token: str) -> None:
    with Handler(address=address, connect_wait=LONG).session() as session:
        session.query(INSERT, (token,))


def by_lease(address: str, token: str) -> None:
    with Handler("transactions", address=address, connect_wait=LONG) as leased:
        leased.query(INSERT, (token,))


def by_copy(address: str, token: str) -> None:
    Handler(address=address, connect_wait=LONG).copy_in("COPY begun FROM STDIN", StringIO(f"{token}\n"))


def by_stream(address: str, token: str) -> None:
    with Handler(address=address, connect_wait=LONG).stream("SELECT 1") as rows:
        assert len(list(rows)) == 1
    by_query(address, token)


WAYS = [by_query, by_large_query, by_query_with_a_timeout, by_block, by_session, by_lease, by_copy, by_stream]


def keep_busy(broker: Broker, threads: ThreadPoolExecutor) -> list[Any]:
    """Have all backends of both groups run something that may have had an effect."""
    asked = [threads.submit(broker.handler().query, "SELECT pg_sleep(120)") for _ in range(2)]
    for _ in range(2):
        leased = Handler("transactions", address=broker.address)
        asked.append(threads.submit(leased.query, "SELECT pg_sleep(120)"))
    for group in ("default", "transactions"):
        wait_until(
            lambda group=group: sum(broker.pool(group)[each] for each in ("active", "leased")) == 2,
            what=f"{group} to be busy",
        )
    return asked


def waiting(broker: Broker) -> int:
    return sum(group["waiting"] for group in broker.stats()["groups"].values())


def test_what_waits_for_a_backend_is_run_by_the_next_broker(
    broker: Broker, threads: ThreadPoolExecutor, kept: Callable[[], list[str]]
) -> None:
    busy = keep_busy(broker, threads)
    tokens = {f"{way.__name__} {number}": way for way in WAYS for number in range(2)}
    asked = [threads.submit(way, broker.address, token) for token, way in tokens.items()]
    wait_until(lambda: waiting(broker) == len(asked), what="all to wait")
    broker.kill()
    broker.start()
    for each in asked:
        each.result(LONG)
    assert kept() == sorted(tokens)
    outcomes = []
    for each in busy:
        with pytest.raises(client.DBError) as caught:
            each.result(LONG)
        outcomes.append(caught.value.outcome)
    assert outcomes[:2] == ["unknown"] * 2  # a statement that commits by itself
    assert "failed" not in outcomes


def test_so_is_what_waits_in_a_paused_group(
    broker: Broker, threads: ThreadPoolExecutor, kept: Callable[[], list[str]]
) -> None:
    by_query(broker.address, "before")
    assert poold("pause", "--address", broker.address).returncode == 0
    asked = [threads.submit(by_query, broker.address, f"paused {number}") for number in range(10)]
    wait_until(lambda: waiting(broker) == len(asked), what="all to wait")
    broker.kill()
    broker.start()
    for each in asked:
        each.result(LONG)
    assert kept() == ["before", *(f"paused {number}" for number in range(10))]


def test_what_a_lease_has_asked_and_nobody_has_begun_has_not_run(broker: Broker, threads: ThreadPoolExecutor) -> None:
    keep_busy(broker, threads)
    leased = Handler("transactions", address=broker.address, connect_wait=0.0)
    asked = threads.submit(leased.query, INSERT, ("nobody",))
    wait_until(lambda: waiting(broker) == 1, what="it to wait")
    broker.kill()
    with pytest.raises(client.DBConnectionError, match="no poold broker answers") as caught:
        asked.result(LONG)
    assert caught.value.outcome == "not executed"


def test_a_commit_that_was_begun_is_not_said_to_be_undone(
    broker: Broker, threads: ThreadPoolExecutor, postgres: Postgres
) -> None:
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE OR REPLACE FUNCTION begun_slowly() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;"
            "CREATE CONSTRAINT TRIGGER slowly AFTER INSERT ON begun DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION begun_slowly()"
        )
    leased = Handler("transactions", address=broker.address)
    leased.query(INSERT, ("committed?",))
    asked = threads.submit(leased.commit)
    with postgres.connect() as connection, connection.cursor() as cursor:
        connection.autocommit = True

        def is_committing() -> bool:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query ~* '^commit'")
            return bool(cursor.fetchone() == (1,))

        wait_until(is_committing, what="the COMMIT to begin")
    broker.kill()
    with pytest.raises(client.DBConnectionError) as caught:
        asked.result(LONG)
    assert caught.value.outcome == "unknown"
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'; DROP TABLE begun"
        )


def test_a_process_keeps_one_descriptor_for_it_at_most(broker: Broker) -> None:
    def shared() -> int:
        return sum("poold-begun" in target(each) for each in os.listdir("/proc/self/fd"))

    before = shared()
    sessions = [broker.handler().session() for _ in range(2)]
    for each in sessions:
        each.query("SELECT 1")
    assert shared() - before <= (0 if sys.version_info >= (3, 13) else 1)


def target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # that of the folder's list
        return ""
