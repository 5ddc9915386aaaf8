"""Groups that are read_only, on a real server: nothing is written, by any way."""

import contextlib
import threading
from collections.abc import Iterator

import pytest
from brokers import Broker
from postgres import Postgres
from waiting import wait_until

import client
from client.handler import Handler

GROUPS = {
    "default": {"autocommit": True, "max_size": 2, "read_only": True},
    "transactions": {"autocommit": False, "max_size": 1, "read_only": True},
}
# The name is put together as it runs, and no text shows it.
LIFT = "SELECT set_config('default_' || 'transaction_read' || '_only', 'off', false), 1 AS more"
LIFT_NOW = "SELECT set_config('transaction_read' || '_only', 'off', true)"
WRITE = "INSERT INTO read_only_t VALUES (1)"


@pytest.fixture
def reader(postgres: Postgres, start_broker: object) -> Iterator[Broker]:
    postgres.execute("DROP TABLE IF EXISTS read_only_t; CREATE TABLE read_only_t (a int)")
    postgres.execute(
        "CREATE OR REPLACE PROCEDURE read_only_p() LANGUAGE plpgsql AS $$ BEGIN"
        f" PERFORM set_config('default_' || 'transaction_read_only', 'off', false); COMMIT; {WRITE}; END $$"
    )
    yield start_broker(groups=GROUPS)  # type: ignore[operator]
    postgres.execute("DROP TABLE read_only_t; DROP PROCEDURE read_only_p")


def rows(server: Postgres) -> int:
    return int(server.execute("SELECT count(*) FROM read_only_t")[0][0])


def attempt(db: object, sql: str) -> client.DBError | None:
    try:
        db.query(sql)  # type: ignore[attr-defined]
    except client.DBError as error:
        return error
    return None


@pytest.mark.parametrize(
    "sql",
    [
        WRITE,
        f"SET TRANSACTION READ WRITE; {WRITE}",
        f"BEGIN READ WRITE; {WRITE}; COMMIT; SELECT 1",
        f"{LIFT}; {WRITE}",
        f"{LIFT}; COMMIT; {WRITE}",
        f"BEGIN; {LIFT}; {WRITE}; COMMIT",
        f"{LIFT_NOW}; {WRITE}",
        "CALL read_only_p()",
        f"DO $$ BEGIN COMMIT; SET TRANSACTION READ WRITE; {WRITE}; END $$",
        f"CREATE FUNCTION read_only_f() RETURNS int LANGUAGE sql AS 'SELECT 1'; {WRITE}",
    ],
)
def test_no_statement_writes(reader: Broker, postgres: Postgres, sql: str) -> None:
    for group in GROUPS:
        db = reader.handler(group)
        assert attempt(db, sql) is not None
        db.rollback()
    assert rows(postgres) == 0


def test_a_setting_that_a_statement_lifts_ends_its_connection(reader: Broker, postgres: Postgres) -> None:
    db = reader.handler("default")
    error = attempt(db, LIFT)
    assert isinstance(error, client.UsageError)
    assert "default_transaction_read_only" in str(error)
    assert attempt(db, WRITE) is not None
    session = db.session()
    with contextlib.suppress(client.DBError), session as inside:
        assert attempt(inside, LIFT) is not None
        assert attempt(inside, WRITE) is not None
    tx = reader.handler("transactions")
    assert attempt(tx, LIFT) is not None
    tx.rollback()
    for sql in (LIFT_NOW, WRITE):
        assert attempt(tx, sql) is not None
        tx.rollback()
    assert rows(postgres) == 0
    assert db.query("SELECT 1")[0][0] == 1


def test_a_transaction_cannot_be_made_read_write(reader: Broker, postgres: Postgres) -> None:
    db = reader.handler("default")
    for steps in ((LIFT_NOW, WRITE), (LIFT, WRITE), ("CALL read_only_p()", WRITE)):
        with pytest.raises(client.DBError):
            db.run(steps)
    with pytest.raises(client.UsageError):
        db.run([WRITE], read_only=False)
    assert rows(postgres) == 0


def test_what_was_lost_is_not_run_again(reader: Broker, postgres: Postgres) -> None:
    found: list[client.DBError | None] = []
    db: Handler = reader.handler("default")
    thread = threading.Thread(target=lambda: found.append(attempt(db, "SELECT pg_sleep(60)")))
    thread.start()
    wait_until(lambda: bool(sleeping(postgres)), what="the statement to run")
    for pid in sleeping(postgres):
        postgres.execute("SELECT pg_terminate_backend(%s)", (pid,))
    thread.join()
    assert [error is not None and error.outcome for error in found] == ["failed"]
    assert not sleeping(postgres)


def sleeping(server: Postgres) -> list[int]:
    return [each["pid"] for each in server.backends() if each["wait_event"] == "PgSleep"]
