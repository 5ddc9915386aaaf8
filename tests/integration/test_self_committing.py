"""What statements that may commit by themselves are told when they fail, on a real server."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from brokers import Broker
from postgres import Factory, Postgres
from waiting import wait_until

import client
from client.handler import Handler

OBJECTS = """
    DROP TABLE IF EXISTS outcome_t, outcome_dup, outcome_u CASCADE;
    CREATE TABLE outcome_t (a int); CREATE TABLE outcome_dup (a int); INSERT INTO outcome_dup VALUES (1), (1);
    CREATE TABLE outcome_u (a int UNIQUE DEFERRABLE INITIALLY DEFERRED);
    CREATE OR REPLACE PROCEDURE outcome_commits() LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO outcome_t VALUES (1); COMMIT; RAISE 'later'; END $$;
    CREATE OR REPLACE PROCEDURE outcome_fails() LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO outcome_t VALUES (1); RAISE 'at once'; END $$;
    CREATE OR REPLACE PROCEDURE outcome_serial() LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO outcome_t VALUES (1); RAISE SQLSTATE '40001'; END $$;
    CREATE OR REPLACE PROCEDURE outcome_commits_serial() LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO outcome_t VALUES (1); COMMIT; RAISE SQLSTATE '40001'; END $$;
"""
SLEEP = "pg_sleep(60)"

# What fails after it has committed something, and what fails in one step.
IN_PARTS = (
    "CALL outcome_commits()",
    "DO $$ BEGIN INSERT INTO outcome_t VALUES (1); COMMIT; RAISE 'later'; END $$",
    "BEGIN; INSERT INTO outcome_t VALUES (1); COMMIT; SELECT 1 / 0",
    "INSERT INTO outcome_t VALUES (1); COMMIT; SELECT 1 / 0",
    "/* a */ begin; INSERT INTO outcome_t VALUES (1); end; INSERT INTO outcome_u VALUES (1), (1)",
    "BEGIN; INSERT INTO outcome_t VALUES (1); COMMIT AND CHAIN; SELECT 1 / 0",
    "BEGIN; INSERT INTO outcome_t VALUES (1); COMMIT; BEGIN; SELECT 1 / 0",
    "SELECT 1; COMMIT; INSERT INTO outcome_t VALUES (1); COMMIT; DO $$ BEGIN RAISE 'later'; END $$",
)
IN_ONE_STEP = (
    "CALL outcome_fails()",
    "DO $$ BEGIN INSERT INTO outcome_t VALUES (1); RAISE 'at once'; END $$",
    "INSERT INTO outcome_t VALUES (1); SELECT 1 / 0",
    "BEGIN; INSERT INTO outcome_u VALUES (1), (1); COMMIT",
    "CREATE UNIQUE INDEX ON outcome_dup (a)",
    "DROP INDEX CONCURRENTLY outcome_none",
    "VACUUM outcome_none",
    "ALTER TABLE outcome_none ADD COLUMN b int",
    "BEGIN; INSERT INTO outcome_t VALUES (1); COMMIT; SYNTAX ERROR",
)


@pytest.fixture
def table(postgres: Postgres) -> Iterator[Postgres]:
    """The server with empty tables and the procedures."""
    postgres.execute(OBJECTS)
    yield postgres
    postgres.execute("DROP TABLE outcome_t, outcome_dup, outcome_u CASCADE")
    postgres.execute("DROP PROCEDURE outcome_commits, outcome_fails, outcome_serial, outcome_commits_serial")


def rows(server: Postgres) -> int:
    return int(server.execute("SELECT count(*) FROM outcome_t")[0][0])


def error_of(db: Any, sql: str, **options: Any) -> client.DBError:
    with pytest.raises(client.DBError) as caught:
        db.query(sql, **options)
    return caught.value


@pytest.mark.parametrize("sql", IN_PARTS)
def test_what_committed_before_it_failed_is_unknown(db: Handler, table: Postgres, sql: str) -> None:
    error = error_of(db, sql)
    assert rows(table) == 1
    assert (error.outcome, error.retryable) == ("unknown", False)
    assert "may have been committed" in str(error)


@pytest.mark.parametrize("sql", IN_PARTS[:2])
def test_so_is_what_has_settings(db: Handler, table: Postgres, sql: str) -> None:
    assert error_of(db, sql, settings={"TimeZone": "Asia/Kolkata"}).outcome == "unknown"
    assert error_of(db, "CALL outcome_fails()", settings={"TimeZone": "Asia/Kolkata"}).outcome == "failed"
    assert rows(table) == 1


@pytest.mark.parametrize("sql", IN_ONE_STEP)
def test_what_failed_in_one_step_had_no_effect(db: Handler, table: Postgres, sql: str) -> None:
    error = error_of(db, sql)
    assert error.outcome == "failed", error
    assert rows(table) == 0
    assert "may have" not in str(error)


def test_a_lost_race_is_worth_another_try_only_where_nothing_was_committed(db: Handler, table: Postgres) -> None:
    assert error_of(db, "CALL outcome_serial()").retryable
    assert rows(table) == 0
    error = error_of(db, "CALL outcome_commits_serial()")
    assert (error.pgcode, error.outcome, rows(table)) == ("40001", "unknown", 1)


@pytest.mark.parametrize("sql", IN_PARTS[:6])
def test_in_a_session_as_well(db: Handler, table: Postgres, sql: str) -> None:
    with db.session() as session:
        error = error_of(session, sql)
        assert (error.outcome, rows(table)) == ("unknown", 1)
        session.rollback()
        found = error_of(session, "CALL outcome_fails()")
        assert found.outcome == "failed", found
        assert rows(table) == 1


def test_a_string_that_commits_its_lease_is_unknown_when_it_fails(tx: Handler, table: Postgres) -> None:
    tx.query("INSERT INTO outcome_t VALUES (1)")
    assert error_of(tx, "COMMIT; INSERT INTO outcome_t VALUES (2); SELECT 1 / 0").outcome == "unknown"
    assert rows(table) == 1


def test_a_string_in_a_lease_that_cannot_commit_has_failed(tx: Handler, table: Postgres) -> None:
    assert error_of(tx, "INSERT INTO outcome_t VALUES (2); SELECT 1 / 0").outcome == "failed"
    tx.rollback()
    assert error_of(tx, "CALL outcome_commits()").outcome == "failed"
    tx.rollback()
    assert rows(table) == 0


def test_an_index_that_could_not_be_made_concurrently_is_told_of(db: Handler, table: Postgres) -> None:
    error = error_of(db, "CREATE UNIQUE INDEX CONCURRENTLY outcome_i ON outcome_dup (a)")
    assert (error.outcome, error.pgcode) == ("unknown", "23505")
    assert table.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'outcome_i'::regclass") == [(False,)]


@pytest.mark.parametrize(("first", "outcome"), [("COMMIT", "unknown"), ("NULL", "failed")])
def test_a_block_that_runs_out_of_time(db: Handler, table: Postgres, first: str, outcome: str) -> None:
    sql = f"DO $$ BEGIN INSERT INTO outcome_t VALUES (1); {first}; PERFORM {SLEEP}; END $$"
    error = error_of(db, sql, timeout=0.5)
    assert (error.pgcode, error.outcome) == ("57014", outcome)
    assert rows(table) == (first == "COMMIT")
    assert db.query("SELECT 1")[0][0] == 1


@pytest.mark.parametrize(("first", "outcome"), [("COMMIT", "unknown"), ("NULL", "failed")])
def test_a_block_that_is_cancelled(db: Handler, table: Postgres, first: str, outcome: str) -> None:
    found: list[client.DBError] = []
    sql = f"DO $$ BEGIN INSERT INTO outcome_t VALUES (1); {first}; PERFORM {SLEEP}; END $$"
    thread = threading.Thread(target=lambda: found.append(error_of(db, sql)))
    thread.start()
    wait_until(lambda: bool(sleeping(table)), what="the block to sleep")
    db.cancel()
    thread.join()
    assert [(error.pgcode, error.outcome) for error in found] == [("57014", outcome)]
    assert rows(table) == (first == "COMMIT")


@pytest.mark.parametrize("first", ["COMMIT", "NULL"])
def test_a_block_whose_backend_is_ended_is_unknown(db: Handler, table: Postgres, first: str) -> None:
    found: list[client.DBError] = []
    sql = f"DO $$ BEGIN INSERT INTO outcome_t VALUES (1); {first}; PERFORM {SLEEP}; END $$"
    thread = threading.Thread(target=lambda: found.append(error_of(db, sql)))
    thread.start()
    wait_until(lambda: bool(sleeping(table)), what="the block to sleep")
    for pid in sleeping(table):
        table.execute("SELECT pg_terminate_backend(%s)", (pid,))
    thread.join()
    assert [error.outcome for error in found] == ["unknown"]
    assert rows(table) == (first == "COMMIT"), "it ran once"


def sleeping(server: Postgres) -> list[int]:
    return [each["pid"] for each in server.backends() if each["wait_event"] == "PgSleep"]


def test_settings_of_a_procedure_hold_over_its_commits_and_not_longer(db: Handler, table: Postgres) -> None:
    db.query(
        "DO $$ BEGIN COMMIT; INSERT INTO outcome_t VALUES (length(current_setting('TimeZone'))); END $$",
        settings={"TimeZone": "Asia/Kolkata"},
    )
    assert table.execute("SELECT a FROM outcome_t") == [(len("Asia/Kolkata"),)]
    assert {db.query("SHOW TimeZone")[0][0] for _ in range(5)} == {table.execute("SHOW TimeZone")[0][0]}
    db.query("VACUUM outcome_t", settings={"maintenance_work_mem": "2MB"})


def test_where_a_setting_is_refused_the_procedure_does_not_run(db: Handler, table: Postgres) -> None:
    error = error_of(db, "CALL outcome_commits()", settings={"work_mem": "much"})
    assert (error.pgcode, error.outcome, rows(table)) == ("22023", "failed", 0)


@pytest.fixture
def hostile(fresh_postgres: Factory, start_broker: Any) -> tuple[Broker, Postgres]:
    """A server whose search_path brings operators and tables of the same names."""
    server = fresh_postgres()
    server.execute(OBJECTS)
    server.execute("""
        CREATE SCHEMA evil;
        CREATE FUNCTION evil.no(text, text) RETURNS bool LANGUAGE sql AS 'SELECT false';
        CREATE FUNCTION evil.no(int, int) RETURNS bool LANGUAGE sql AS 'SELECT false';
        CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.no);
        CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.no);
        CREATE VIEW evil.pg_locks AS SELECT 'virtualxid'::text AS locktype, '1/1'::text AS virtualtransaction, 1 AS pid;
        ALTER ROLE CURRENT_USER SET search_path = evil, public, pg_catalog
    """)
    return start_broker({"main": server.parameters}), server


def test_the_question_means_the_same_in_any_search_path(hostile: tuple[Broker, Postgres]) -> None:
    broker, server = hostile
    db = broker.handler("default")
    assert error_of(db, "CALL outcome_commits()").outcome == "unknown"
    assert error_of(db, "CALL outcome_fails()").outcome == "failed"
    assert rows(server) == 1
