"""A transaction whose backend is lost during a statement: all of it is rolled back, and its program is told."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
import pytest
from brokers import Broker
from postgres import Postgres
from waiting import wait_until

from client import CommitOutcomeUnknown, Handler, TransactionLost, dbapi

LONG = 60.0
SLEEP = "pg_sleep(600)"
# The words that end a transaction, where they end none.
INNOCENT = {
    "on conflict": f"INSERT INTO during SELECT 2 FROM {SLEEP} ON CONFLICT DO NOTHING",
    "case": f"INSERT INTO during SELECT CASE WHEN n IS NULL THEN 2 ELSE 3 END FROM {SLEEP} n",
    "column": f"SELECT 1 AS commit, 2 AS prepare FROM {SLEEP}",
    "literal": f"SELECT 'commit; prepare' FROM {SLEEP}",
    "comment": f"SELECT 1 FROM {SLEEP} -- call do end commit",
    "DO": f"DO $$ BEGIN PERFORM {SLEEP}; COMMIT; END $$",
    "CALL": "CALL during_it()",
    "several": f"INSERT INTO during VALUES (5); SELECT 1 FROM {SLEEP} WHERE CASE WHEN true THEN true END",
}
IN_DOUBT = {
    "several": f"SELECT 1 FROM {SLEEP}; COMMIT",
    "commented": f"SELECT 1 FROM {SLEEP}; /* at last */ END",
}


@pytest.fixture
def table(postgres: Postgres) -> Iterator[str]:
    postgres.execute(
        "CREATE TABLE during (id int UNIQUE);"
        f"CREATE PROCEDURE during_it() LANGUAGE plpgsql AS $$ BEGIN PERFORM {SLEEP}; COMMIT; END $$"
    )
    yield "during"
    postgres.execute("DROP PROCEDURE during_it; DROP TABLE during")


def lose(postgres: Postgres, run: Callable[[], object]) -> BaseException | None:
    """End the backend in the middle of this; what it raises."""
    asleep = "FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND application_name = 'poold'"
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(run)
        wait_until(lambda: postgres.execute(f"SELECT pid {asleep}"), what="the statement runs")
        postgres.execute(f"SELECT pg_terminate_backend(pid) {asleep}")
        return running.exception(LONG)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("name", INNOCENT)
def test_it_is_lost_until_it_is_rolled_back(broker: Broker, postgres: Postgres, name: str) -> None:
    with Handler("default", address=broker.address, autocommit=False) as db:
        db.query("INSERT INTO during VALUES (1)")
        error = lose(postgres, lambda: db.query(INNOCENT[name]))
        assert isinstance(error, TransactionLost), repr(error)
        assert (error.outcome, error.is_safe_to_repeat) == ("not executed", True)
        for again in (lambda: db.query("INSERT INTO during VALUES (3)"), db.commit):
            with pytest.raises(TransactionLost):
                again()
        db.rollback()
        db.query("INSERT INTO during VALUES (4)")
        db.commit()
    assert postgres.execute("SELECT id FROM during") == [(4,)]


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("is_many", [False, True])
@pytest.mark.parametrize("name", INNOCENT)
def test_so_it_is_for_a_cursor(broker: Broker, postgres: Postgres, name: str, is_many: bool) -> None:
    connection = dbapi.connect(broker.address)
    cursor = connection.cursor()
    cursor.execute("INSERT INTO during VALUES (1)")

    def run() -> Any:
        return cursor.executemany(INNOCENT[name], [None]) if is_many else cursor.execute(INNOCENT[name])

    error = lose(postgres, run)
    assert isinstance(error, psycopg2.OperationalError), repr(error)
    assert getattr(error, "outcome", None) == "not executed"
    for again in (lambda: cursor.execute("INSERT INTO during VALUES (3)"), connection.commit):
        with pytest.raises(psycopg2.OperationalError):
            again()
    connection.rollback()
    connection.close()
    assert postgres.execute("SELECT id FROM during") == []


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("name", IN_DOUBT)
def test_where_it_may_have_been_committed_nothing_goes_on_before_a_rollback(
    broker: Broker, postgres: Postgres, name: str
) -> None:
    with Handler("default", address=broker.address, autocommit=False) as db:
        db.query("INSERT INTO during VALUES (1)")
        error = lose(postgres, lambda: db.query(IN_DOUBT[name]))
        assert getattr(error, "outcome", None) == "unknown", repr(error)
        for again in (lambda: db.query("INSERT INTO during VALUES (3)"), db.commit):
            with pytest.raises(CommitOutcomeUnknown):
                again()
        db.rollback()
    assert postgres.execute("SELECT id FROM during") == []
