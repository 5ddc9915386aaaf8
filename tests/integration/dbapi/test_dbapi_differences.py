"""What docs/dbapi.md says is different from psycopg2: names that are taken, and what follows COMMIT as a statement."""

import re
from collections.abc import Callable
from contextlib import closing, nullcontext
from typing import Any

import psycopg2 as theirs
import pytest
from brokers import Broker
from documents import ROOT
from postgres import Postgres
from psycopg2 import extensions as their_extensions
from psycopg2 import extras as their_extras

from client import dbapi

Connect = Callable[[], Any]


@pytest.fixture
def psycopg2(postgres: Postgres) -> Connect:
    return lambda: theirs.connect(postgres.dsn())


@pytest.fixture(params=[False, True], ids=["plain", "session"])
def poold(request: pytest.FixtureRequest, broker: Broker) -> Connect:
    return lambda: dbapi.connect(broker.address, session=request.param)


def documented(whose: str) -> set[str]:
    """The names that the page says are taken."""
    page = (ROOT / "docs" / "dbapi.md").read_text("utf-8")
    found = re.search(rf"\bof {whose} ((?:`\w+`(?:,| and)?\s*)+)[;.]", page)
    assert found, f"docs/dbapi.md does not say which names of {whose} are taken"
    return set(re.findall(r"`(\w+)`", found[1]))


def taken(ours: Any, theirs: type) -> set[str]:
    return {name for name in {*dir(ours)} - {*dir(theirs)} if not name.startswith("_")}


def test_the_page_has_all_names_that_are_taken(poold: Connect) -> None:
    with closing(poold()) as connection, connection.cursor() as cursor, connection.cursor("named") as named:
        cursor.execute("SELECT 1")
        named.execute("SELECT 1")
        connection.info.dbname  # noqa: B018 - what is known of the server may be kept
        assert taken(connection, their_extensions.connection) == documented("connections")
        for made in (cursor, named):
            assert taken(made, their_extensions.cursor) == documented("cursors")


@pytest.mark.parametrize(
    ("connection_factory", "cursor_factory"),
    [
        (their_extras.DictConnection, their_extras.DictCursor),
        (their_extras.LoggingConnection, their_extras.LoggingCursor),
    ],
)
def test_no_more_names_are_taken_in_factories(broker: Broker, connection_factory: Any, cursor_factory: Any) -> None:
    with closing(dbapi.connect(broker.address, connection_factory=connection_factory)) as connection:
        if connection_factory is their_extras.LoggingConnection:
            connection.initialize(None)
        assert taken(connection, connection_factory) - {"log"} <= documented("connections")
        assert taken(connection.cursor(cursor_factory=cursor_factory), cursor_factory) <= documented("cursors")


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_transaction_follows_an_end_as_a_statement(psycopg2: Connect, poold: Connect, end: str) -> None:
    for connect, status in (
        (psycopg2, their_extensions.TRANSACTION_STATUS_IDLE),
        (poold, their_extensions.TRANSACTION_STATUS_INTRANS),
    ):
        with closing(connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.execute(end)
            cursor.execute("SELECT 1")
            assert connection.get_transaction_status() == status


def test_what_runs_in_no_transaction_wants_autocommit_behind_commit(psycopg2: Connect, poold: Connect) -> None:
    with closing(psycopg2()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.execute("COMMIT")
        cursor.execute("VACUUM pg_catalog.pg_am")
    with closing(poold()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.execute("COMMIT")
        with pytest.raises(theirs.errors.ActiveSqlTransaction):
            cursor.execute("VACUUM pg_catalog.pg_am")
        connection.rollback()
        connection.autocommit = True
        cursor.execute("VACUUM pg_catalog.pg_am")


def test_nothing_here_is_encrypted_or_not(poold: Connect) -> None:
    with closing(poold()) as connection, pytest.raises(theirs.NotSupportedError, match="no connection to PostgreSQL"):
        connection.info.ssl_in_use  # noqa: B018 - the attribute raises


# As pg_dump's output begins.
DUMP = """
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE TEMPORARY TABLE dumped (a text);
INSERT INTO dumped VALUES ('a\\');
"""


def test_the_head_of_a_dump_runs(psycopg2: Connect, poold: Connect) -> None:
    for connect in (psycopg2, poold):
        with closing(connect()) as connection, connection.cursor() as cursor:
            cursor.execute(DUMP)
            cursor.execute("SELECT a, current_setting('client_encoding') FROM dumped")
            assert cursor.fetchall() == [("a\\", "UTF8")]
            connection.rollback()
            with pytest.raises(theirs.Error) if connect is poold else nullcontext():
                cursor.execute("SET client_encoding = 'LATIN1'")


def test_what_all_rely_on_is_not_changed_behind_what_holds(poold: Connect) -> None:
    with closing(poold()) as connection, connection.cursor() as cursor:
        for statement in ("SET NAMES 'UTF8'; SET NAMES 'LATIN1'", "SET DateStyle = 'ISO, MDY'", "SET NAMES 'latin1'"):
            with pytest.raises(dbapi.InterfaceError, match="must not change"):
                cursor.execute(statement)
            connection.rollback()
        cursor.execute("SET NAMES 'utf8'")
        cursor.execute("SHOW client_encoding")
        assert cursor.fetchone() == ("UTF8",)
