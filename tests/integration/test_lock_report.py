"""Which lock a statement waits for, and who has it: prepared transactions, advisory locks and others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
from brokers import Broker, poold
from postgres import Postgres
from waiting import wait_until

StartBroker = Callable[..., Broker]


@pytest.fixture
def server(preparing_postgres: Postgres) -> Postgres:
    return preparing_postgres


@pytest.fixture
def broker(start_broker: StartBroker, server: Postgres) -> Broker:
    return start_broker(endpoints={"main": server.parameters}, groups={"default": {"max_size": 3}})


@pytest.fixture
def stranger(server: Postgres) -> Iterator[Any]:
    connection = psycopg2.connect(**server.parameters, application_name="stranger", options="-c lock_timeout=30s")
    yield connection
    connection.close()


def stats(broker: Broker, *words: str) -> dict[str, Any]:
    done = poold("stats", "backends", "--locks", *words, f"--address={broker.address}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if "--json" in words else {"text": done.stdout}


@contextmanager
def waits(broker: Broker, statement: str) -> Iterator[dict[str, Any]]:
    """Yields what is told of the statement that waits for a lock; then it must get that."""
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(lambda: broker.handler(tag="waiter").query(statement, settings={"lock_timeout": "60s"}))
        wait_until(lambda: future.done() or stats(broker, "--json")["locks"], what=f"{statement} to wait")
        assert not future.done(), future.exception()
        (wait,) = stats(broker, "--json")["locks"]
        yield wait
        future.result(60)


@pytest.mark.parametrize("gid", ["shop 17", "it's \\ \u00e4\n\x1b[31m"])
@pytest.mark.parametrize("kind", ["row", "table"])
def test_a_prepared_transaction_is_named_with_what_ends_it(
    broker: Broker, stranger: Any, server: Postgres, gid: str, kind: str
) -> None:
    with stranger.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS items AS SELECT 1 AS id, 0 AS n")
        stranger.commit()
        cursor.execute("UPDATE items SET n = 1")
        cursor.execute("PREPARE TRANSACTION %s", (gid,))
        stranger.commit()
        cursor.execute("LOCK TABLE items IN ACCESS SHARE MODE")
        cursor.execute("PREPARE TRANSACTION 'harmless'")
        stranger.commit()
    statement = "UPDATE items SET n = 2" if kind == "row" else "CREATE INDEX ON items (id)"
    with waits(broker, statement) as wait:
        (blocker,) = wait["blocked_by"]
        assert (blocker["gid"], blocker["state"], blocker["server_pid"]) == (gid, "prepared transaction", None)
        assert (blocker["database"], blocker["user"]) == (server.parameters["dbname"], server.parameters["user"])
        assert blocker["prepared_age_ms"] >= 0
        assert wait["lock"]["in_words"] == (
            "a row of public.items (0,1)" if kind == "row" else "public.items (ShareLock)"
        )
        shown = stats(broker)["text"]
        assert "ROLLBACK PREPARED" in shown
        assert "\x1b" not in shown
        stranger.autocommit = True
        with stranger.cursor() as cursor:
            cursor.execute(blocker["end_with"])
            cursor.execute("ROLLBACK PREPARED 'harmless'")
    with stranger.cursor() as cursor:
        cursor.execute("DROP TABLE items")


@pytest.mark.parametrize(
    ("call", "key", "words"),
    [
        ("pg_advisory_lock(772)", 772, "advisory lock 772 (ExclusiveLock)"),
        ("pg_advisory_lock(-9223372036854775807)", -(2**63) + 1, "advisory lock -9223372036854775807 (ExclusiveLock)"),
        ("pg_advisory_lock_shared(8589934597)", 8589934597, "advisory lock 8589934597 (ShareLock)"),
        ("pg_advisory_lock(7, -42)", [7, -42], "advisory lock (7, -42) (ExclusiveLock)"),
    ],
)
def test_an_advisory_lock_has_its_key(broker: Broker, stranger: Any, call: str, key: Any, words: str) -> None:
    held = call.replace("_shared", "")
    with stranger.cursor() as cursor:
        cursor.execute(f"SELECT {held}")
        with waits(
            broker,
            f"SELECT {call.replace('advisory', 'advisory_xact')}".replace("xact_lock_shared", "xact_lock_shared"),
        ) as wait:
            assert (wait["lock"]["key"], wait["lock"]["in_words"]) == (key, words)
            assert wait["blocked_by"][0]["server_pid"] == stranger.get_backend_pid()
            assert words in stats(broker)["text"]
            cursor.execute(f"SELECT {held.replace('lock', 'unlock')}")


def test_transactions_and_other_things_have_their_names(broker: Broker, stranger: Any) -> None:
    with stranger.cursor() as cursor:
        cursor.execute("CREATE TABLE uniques (id int PRIMARY KEY)")
        cursor.execute("CREATE SCHEMA things")
        stranger.commit()
        cursor.execute("INSERT INTO uniques VALUES (1)")
        cursor.execute("SELECT pg_catalog.pg_current_xact_id()::text")
        (number,) = cursor.fetchone()
        with waits(broker, "INSERT INTO uniques VALUES (1)") as wait:
            assert wait["lock"]["transaction"] == number
            assert wait["lock"]["in_words"] == f"the end of transaction {number}"
            stranger.rollback()
        cursor.execute("CREATE TABLE things.one ()")
        with waits(broker, "DROP SCHEMA things") as wait:
            assert wait["lock"]["object"] == "schema things"
            assert wait["lock"]["in_words"] == "schema things (AccessExclusiveLock)"
            stranger.rollback()
