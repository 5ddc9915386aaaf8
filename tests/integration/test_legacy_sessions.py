"""Programs that rely on one connection for each with block: groups with `legacy_session`, and pgdbpool's Query."""

import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import psycopg2
import pytest
from brokers import Broker
from postgres import Postgres
from waiting import wait_until

import client as dbpool
from client import Handler, UsageError
from client.channels import registry

GROUPS = {
    "default": {"max_size": 1, "legacy_session": True},
    "usual": {"max_size": 1},
    "transactions": {"max_size": 2, "autocommit": False},
}


@pytest.fixture(scope="module")
def legacy(postgres: Postgres) -> Iterator[Broker]:
    postgres.execute("CREATE TABLE legacy_sessions (id integer)")
    broker = Broker({"main": postgres.parameters}, GROUPS, {})
    try:
        yield broker.start()
    finally:
        broker.close()
        postgres.execute("DROP TABLE legacy_sessions")


@pytest.fixture(autouse=True)
def empty(legacy: Broker, postgres: Postgres) -> None:
    postgres.execute("TRUNCATE legacy_sessions")


def ids(postgres: Postgres) -> list[int]:
    return [row[0] for row in postgres.execute("SELECT id FROM legacy_sessions ORDER BY id")]


def insert(db: Handler, number: int) -> None:
    db.query("INSERT INTO legacy_sessions VALUES (%s)", (number,))


def fail_in_a_transaction(db: Handler) -> None:
    with db:
        insert(db, 1)
        db.query("BEGIN")
        insert(db, 2)
        raise ZeroDivisionError


def test_a_with_block_keeps_its_session_and_leaves_nothing_behind(legacy: Broker, postgres: Postgres) -> None:
    db = legacy.handler()
    usual = db.query("SHOW work_mem").scalar()
    for number in range(2):
        with db:
            for _ in range(5):
                assert db.query("SELECT 1").scalar() == 1  # so the compiled code knows it
            db.query("SET work_mem = '3MB'")
            db.query("CREATE TEMP TABLE chosen AS SELECT 7 AS id")
            assert (db.query("SHOW work_mem").scalar(), db.query("SELECT id FROM chosen").scalar()) == ("3MB", 7)
            insert(db, number)
            assert len(ids(postgres)) == number + 1
        assert db.query("SHOW work_mem").scalar() == usual
        with pytest.raises(psycopg2.errors.UndefinedTable):
            db.query("SELECT * FROM chosen")
        with pytest.raises(UsageError):
            db.query("SET work_mem = '3MB'")


def test_transactions_in_a_with_block_are_the_programs(legacy: Broker, postgres: Postgres) -> None:
    with legacy.handler() as db:
        assert (db.autocommit, db.in_transaction) == (True, False)
        db.query("BEGIN")
        insert(db, 1)
        assert (db.in_transaction, ids(postgres)) == (True, [])
        assert [row.id for row in db.stream("SELECT id FROM legacy_sessions")] == [1]
        db.query("COMMIT")
        assert (db.in_transaction, ids(postgres)) == (False, [1])
        db.query("BEGIN")
        insert(db, 2)
        db.commit()
        db.query("BEGIN")
        insert(db, 3)
        db.rollback()
        assert ids(postgres) == [1, 2]
        db.query("BEGIN")
        insert(db, 4)
    assert ids(postgres) == [1, 2, 4]  # what is open at the end is committed, as in pgdbpool
    postgres.execute("TRUNCATE legacy_sessions")
    with pytest.raises(ZeroDivisionError):
        fail_in_a_transaction(legacy.handler())
    assert ids(postgres) == [1]
    assert legacy.handler().query("SELECT 1", timeout=5).scalar() == 1  # the only backend is free


ELSEWHERE: dict[str, Callable[[Handler], Any]] = {
    "transaction": lambda db: db.transaction(),
    "transaction with options": lambda db: db.transaction(isolation="serializable"),
    "run": lambda db: db.run(["SELECT 1"]),
    "session": lambda db: db.session(),
    "stream": lambda db: db.stream("SELECT 1"),
    "stream with options": lambda db: db.stream("SELECT 1", timeout=5, read_only=True),
}


@pytest.mark.parametrize("way", ELSEWHERE.values(), ids=ELSEWHERE)
def test_nothing_in_the_block_runs_without_what_it_has_set(legacy: Broker, way: Callable[[Handler], Any]) -> None:
    with legacy.handler() as db:
        with db.transaction() as before:
            found = before.query("SELECT 1")
        assert found.scalar() == 1
        for _ in range(5):
            db.query("SET search_path = pg_catalog")
        with pytest.raises(UsageError):
            way(db)
        db.query("BEGIN")
        if "stream" not in way.__code__.co_names:
            with pytest.raises(UsageError):
                way(db)
        db.commit()
        assert db.query("SHOW search_path").scalar() == "pg_catalog"
    assert way(db) is not None


def test_a_block_inside_of_another_is_in_its_session(legacy: Broker, postgres: Postgres) -> None:
    with legacy.handler() as db:
        with db:
            db.query("SET work_mem = '3MB'")
        for _ in range(5):
            assert db.query("SHOW work_mem").scalar() == "3MB"
        with pytest.raises(ZeroDivisionError):
            fail_in_a_transaction(db)
        with db:
            db.query("BEGIN")
            insert(db, 3)
        assert (ids(postgres), db.query("SHOW work_mem").scalar()) == ([1, 3], "3MB")
    with pytest.raises(UsageError):
        db.query("SET work_mem = '3MB'")
    assert legacy.handler().query("SELECT 1", timeout=5).scalar() == 1  # the only backend is free


def test_what_may_run_in_the_block_sees_what_it_has_set(legacy: Broker) -> None:
    with legacy.handler() as db:
        db.query("SET search_path = pg_catalog")
        out = BytesIO()
        db.copy_out("COPY (SELECT current_setting('search_path')) TO STDOUT", out)
        db.query("BEGIN")
        with db.stream("SELECT current_setting('search_path') AS it") as rows:
            assert (out.getvalue(), [row.it for row in rows]) == (b"pg_catalog\n", ["pg_catalog"])


def test_its_notices_options_and_cancels_are_the_handlers(legacy: Broker) -> None:
    with legacy.handler(rows="dict") as db:
        db.query("DO $$ BEGIN RAISE NOTICE 'heard'; END $$")
        assert list(db.notices) == ["NOTICE:  heard\n"]
        assert db.query("SELECT current_setting('work_mem') AS it", settings={"work_mem": "2MB"}).one() == {"it": "2MB"}
        assert db.query("SELECT 1 AS it", rows="row").one().it == 1

        def cancel() -> None:
            wait_until(lambda: db._calls, what="the wait")
            assert db.cancel() == 1

        other = threading.Thread(target=cancel)
        other.start()
        with pytest.raises(psycopg2.errors.QueryCanceled):
            db.query("SELECT pg_sleep(60)")
        other.join()
        with pytest.raises(psycopg2.errors.QueryCanceled):
            db.query("SELECT pg_sleep(60)", timeout=0.2)


def test_other_groups_and_handlers_that_decide_themselves_have_no_such_session(legacy: Broker) -> None:
    for db in (legacy.handler("usual"), legacy.handler(autocommit=True)):
        with db, pytest.raises(UsageError):
            db.query("SET work_mem = '3MB'")
    with legacy.handler(autocommit=False) as db:
        assert [db.query("SELECT 1").scalar(), db.in_transaction] == [1, True]
    with legacy.handler("transactions") as db:
        assert [db.query("SELECT 1").scalar(), db.in_transaction] == [1, True]


def test_pgdbpools_query_runs_statements_in_a_group(
    legacy: Broker, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_settings", registry.Settings())
    config: dict[str, Any] = {"address": legacy.address, "groups": {"default": {"connection_count": 5}}}
    dbpool.Connection.init(config)
    assert dbpool.Connection.get_max_pool_size("default") == 5
    with pytest.raises(dbpool.UnconfiguredGroupError, match="no 'other' with a connection_count"):
        dbpool.Connection.get_max_pool_size("other")
    for group in ("default", "transactions"):
        rows = dbpool.Query.execute((group, 3), "SELECT %s AS it", ("x",))
        assert [row["it"] for row in rows] == ["x"]
        dbpool.Query.execute((group, 0), "INSERT INTO legacy_sessions VALUES (1)")
        dbpool.Query.check_db((group, 0))
    assert ids(postgres) == [1, 1]
    with pytest.raises(dbpool.DBQueryError):
        dbpool.Query.execute(("default", 0), "SELECT * FROM nowhere")
    dbpool.Connection.init(config | {"address": f"ipc://{legacy.folder}/nobody"})
    with pytest.raises(dbpool.DBOfflineError, match="no poold broker answers"):
        dbpool.Query.check_db(("default", 0))


def test_a_copy_in_a_with_block_is_in_its_session(legacy: Broker) -> None:
    with legacy.handler() as db:
        db.query("CREATE TEMP TABLE chosen (id integer)")
        assert db.copy_in("COPY chosen FROM STDIN", b"1\n2\n").rowcount == 2
        assert db.query("SELECT count(*) FROM chosen").scalar() == 2
