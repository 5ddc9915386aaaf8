"""How transactions begin, and what commits by itself: after any order of settings as with psycopg2."""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import psycopg2 as theirs
import pytest
from brokers import Broker
from postgres import Postgres

from client import dbapi as psycopg2

SHOWN = ("transaction_isolation", "transaction_read_only", "transaction_deferrable")


def isolation(level: Any) -> Callable[[Any], None]:
    return lambda connection: setattr(connection, "isolation_level", level)


def autocommit(value: bool) -> Callable[[Any], None]:
    return lambda connection: setattr(connection, "autocommit", value)


STEPS: dict[str, Callable[[Any], Any]] = {
    "serializable": isolation("SERIALIZABLE"),
    "read committed": isolation(theirs.extensions.ISOLATION_LEVEL_READ_COMMITTED),
    "default": isolation(None),
    "autocommit": autocommit(True),
    "no autocommit": autocommit(False),
    "level 0": lambda connection: connection.set_isolation_level(0),
    "level 3": lambda connection: connection.set_isolation_level(3),
    "readonly": lambda connection: connection.set_session(readonly=True),
    "readonly false": lambda connection: setattr(connection, "readonly", False),
    "readonly none": lambda connection: setattr(connection, "readonly", None),
    "deferrable": lambda connection: setattr(connection, "deferrable", True),
    "all": lambda connection: connection.set_session("REPEATABLE READ", True, True, True),
    "none": lambda connection: connection.set_session("DEFAULT", "DEFAULT", "DEFAULT", False),
    "reset": lambda connection: connection.reset(),
}
# As SQLAlchemy and Alembic go about it, and then whatever chance makes of it.
ORDERS = [
    ["autocommit", "no autocommit", "read committed", "autocommit"],
    ["serializable", "autocommit"],
    ["readonly", "autocommit", "serializable"],
    ["all", "readonly none"],
    *(Random(seed).choices(list(STEPS), k=6) for seed in range(12)),
]


@pytest.fixture
def pair(broker: Broker, postgres: Postgres, session: bool) -> Iterator[tuple[Any, Any]]:
    ours, real = psycopg2.connect(broker.address, session=session), postgres.connect()
    real.autocommit = False
    yield ours, real
    ours.close()
    real.close()


@pytest.mark.parametrize("session", [False, True], ids=["plain", "session"])
@pytest.mark.parametrize("order", ORDERS, ids=", ".join)
def test_after_any_order_of_settings_statements_run_as_with_psycopg2(pair: tuple[Any, Any], order: list[str]) -> None:
    for step in order:
        found = []
        for connection in pair:
            STEPS[step](connection)
            with connection.cursor() as cursor:
                shown = []
                for name in SHOWN:
                    cursor.execute(f"SHOW {name}")
                    shown.append(cursor.fetchone())
                told = connection.isolation_level, connection.readonly, connection.deferrable, connection.autocommit
                found.append((shown, told, connection.status))
            connection.rollback()
        assert found[0] == found[1], step


@pytest.mark.parametrize("session", [False, True], ids=["plain", "session"])
def test_what_cannot_be_in_a_transaction_runs_by_itself_whatever_was_set_before(pair: tuple[Any, Any]) -> None:
    for connection in pair:
        connection.set_session("SERIALIZABLE", True, True)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("VACUUM pg_class")
            cursor.execute("CREATE TABLE modes (n int)")
            cursor.execute("DROP TABLE modes")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1 / 0",
        "SELECT nothing",
        "SELEC 1",
        "SELECT 1; SELECT 2",
        "SELECT 1; SELECT 1 / 0",
        "SELECT ';'",
        "DO $$ BEGIN RAISE EXCEPTION 'a' USING DETAIL = 'b', HINT = 'c'; END $$",
        "CREATE TABLE never_made (a int)",
        b"SELECT 1; SELECT 2",
        "",
    ],
)
def test_errors_with_autocommit_and_characteristics_are_psycopg2s(
    broker: Broker, postgres: Postgres, statement: Any
) -> None:
    told = []
    for connection in (theirs.connect(postgres.dsn()), psycopg2.connect(broker.address)):
        connection.set_session(readonly=True, autocommit=True)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                told.append((cursor.statusmessage, cursor.fetchall()))
        except theirs.Error as error:
            told.append((error.pgcode, str(error), error.pgerror))
        finally:
            connection.close()
    assert told[0] == told[1]
