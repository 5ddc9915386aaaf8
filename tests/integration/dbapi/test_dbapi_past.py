"""Classes whose methods call psycopg2's own past client.dbapi: what they send is never lost without an error."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2 as theirs
import pytest
from brokers import Broker
from psycopg2 import extensions, sql
from psycopg2.extras import DictConnection, DictCursor, RealDictCursor

from client import dbapi


class Logged(extensions.cursor):
    """psycopg2's documentation has such a class."""

    def execute(self, query: Any, vars: Any = None) -> None:
        extensions.cursor.execute(self, query, vars)

    def executemany(self, query: Any, vars_list: Any) -> None:
        extensions.cursor.executemany(self, query, vars_list)

    def callproc(self, procname: Any, parameters: Any = None) -> Any:
        return extensions.cursor.callproc(self, procname, parameters)

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
        extensions.cursor.copy_expert(self, sql, file, size)

    def copy_from(self, file: Any, table: str, *args: Any) -> None:  # type: ignore[override]  # as old programs have it
        extensions.cursor.copy_from(self, file, table)

    def fetchone(self) -> Any:
        return extensions.cursor.fetchone(self)

    def fetchall(self) -> Any:
        return extensions.cursor.fetchall(self)

    def close(self) -> None:
        extensions.cursor.close(self)


class LoggedDicts(DictCursor):
    def execute(self, query: Any, vars: Any = None) -> None:
        self._send(query, vars)

    def _send(self, query: Any, vars: Any) -> None:
        extensions.cursor.execute(self, query, vars)


class Old(extensions.connection):
    def commit(self) -> None:
        extensions.connection.commit(self)

    def rollback(self) -> None:
        extensions.connection.rollback(self)

    def cursor(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]  # as old programs have it
        return extensions.connection.cursor(self, *args, **kwargs)

    def reset(self) -> None:
        extensions.connection.reset(self)

    def set_session(self, *args: Any, **kwargs: Any) -> None:
        extensions.connection.set_session(self, *args, **kwargs)

    def cancel(self) -> None:
        extensions.connection.cancel(self)

    def close(self) -> None:
        extensions.connection.close(self)


class OldMade(extensions.connection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        extensions.connection.__init__(self, *args, **kwargs)


@pytest.fixture(params=["plain", "session", "autocommit"])
def connect(request: pytest.FixtureRequest, broker: Broker) -> Iterator[Callable[..., Any]]:
    made = []
    kind = request.param

    def connect(**more: Any) -> Any:
        made.append(dbapi.connect(broker.address, session=kind == "session", autocommit=kind == "autocommit", **more))
        return made[-1]

    yield connect
    for each in made:
        each.close()


CALLS: dict[str, Callable[[Any], Any]] = {
    "execute": lambda cursor: cursor.execute("CREATE TABLE never_made (a int)"),
    "executemany": lambda cursor: cursor.executemany("SELECT %s", [(1,)]),
    "callproc": lambda cursor: cursor.callproc("now"),
    "copy_expert": lambda cursor: cursor.copy_expert("COPY pg_class TO STDOUT", io.StringIO()),
    "copy_from": lambda cursor: cursor.copy_from(io.StringIO(), "never_made"),
    "fetchone": lambda cursor: cursor.fetchone(),
    "fetchall": lambda cursor: cursor.fetchall(),
}


@pytest.mark.parametrize("call", list(CALLS))
def test_a_cursor_that_calls_past_the_package_is_told(connect: Callable[..., Any], call: str) -> None:
    with connect().cursor(cursor_factory=Logged) as cursor:
        for _ in range(2):
            with pytest.raises(dbapi.InterfaceError, match=rf"Logged\.{call}\(\) calls .* past .* super\(\)"):
                CALLS[call](cursor)
        assert cursor.query is None


def test_what_calls_each_other_tells_which_calls_past(connect: Callable[..., Any]) -> None:
    with pytest.raises(dbapi.InterfaceError, match=r"LoggedDicts\._send\(\) calls"):
        connect(cursor_factory=LoggedDicts).cursor().execute("SELECT 1")


def test_a_cursor_closed_past_the_package_is_closed(connect: Callable[..., Any]) -> None:
    cursor = connect().cursor(cursor_factory=Logged)
    assert not cursor.closed
    cursor.close()
    assert cursor.closed
    with pytest.raises(dbapi.InterfaceError, match=r"^cursor already closed$"):
        extensions.cursor.execute(cursor, "SELECT 1")


@pytest.mark.parametrize("kind", [extensions.cursor, DictCursor, RealDictCursor])
def test_a_cursor_of_psycopg2s_on_the_connection_refuses(connect: Callable[..., Any], kind: Any) -> None:
    cursor = kind(connect())
    for call in ("execute", "executemany", "callproc", "copy_expert", "copy_from"):
        with pytest.raises(dbapi.ProgrammingError, match="asynchronous"):
            CALLS[call](cursor)


def test_a_cursor_made_past_the_package_works(connect: Callable[..., Any]) -> None:
    class Made(extensions.cursor):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            extensions.cursor.__init__(self, *args, **kwargs)
            self.arraysize = 7

    with connect(cursor_factory=Made).cursor() as cursor:
        cursor.execute("SELECT n FROM generate_series(1, 9) AS n")
        assert len(cursor.fetchmany()) == 7
    connection = connect(cursor_factory=Made)
    connection.autocommit = False
    with connection.cursor("named") as cursor:
        assert cursor.name == "named"
        cursor.execute("SELECT n FROM generate_series(1, 9) AS n")
        assert cursor.fetchone() == (1,)


@pytest.mark.parametrize("call", ["commit", "rollback", "cursor", "reset", "set_session", "cancel"])
def test_a_connection_that_calls_past_the_package_is_told(connect: Callable[..., Any], call: str) -> None:
    connection = connect(connection_factory=Old)
    for _ in range(2):
        with pytest.raises(dbapi.InterfaceError, match=rf"Old\.{call}\(\) calls .* past .* super\(\)"):
            getattr(connection, call)()


@pytest.mark.parametrize("session", [False, True])
def test_a_connection_closed_past_the_package_is_closed_and_rolled_back(broker: Broker, session: bool) -> None:
    with dbapi.connect(broker.address, autocommit=True).cursor() as other:
        connection = dbapi.connect(broker.address, session=session, connection_factory=Old)
        with dbapi.extensions.connection.cursor(connection) as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(4711)")
        connection.close()
        assert connection.closed == 1
        other.execute("SELECT pg_advisory_xact_lock(4711)")  # waits until it is free


def test_a_connection_made_past_the_package_is_told(broker: Broker) -> None:
    with pytest.raises(dbapi.InterfaceError, match=r"OldMade\.__init__\(\) calls"):
        dbapi.connect(broker.address, connection_factory=OldMade)


def test_errors_of_the_programs_own_are_left_alone(connect: Callable[..., Any]) -> None:
    class Mine(extensions.cursor):
        def execute(self, query: Any, vars: Any = None) -> None:
            super().execute(query, vars)

        def fail(self) -> None:
            raise TypeError("invalid keyword argument")

    with connect().cursor(cursor_factory=Mine) as cursor:
        with pytest.raises(theirs.ProgrammingError, match=r"^no results to fetch$"):
            cursor.fetchone()
        with pytest.raises(TypeError, match=r"^invalid keyword argument$"):
            cursor.fail()
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
    with pytest.raises(theirs.InterfaceError, match=r"^cursor already closed$"):
        cursor.execute("SELECT 1")


def test_psycopg2s_functions_take_connections_and_cursors(connect: Callable[..., Any]) -> None:
    connection = connect(connection_factory=DictConnection)
    with connection.cursor() as cursor:
        for scope in (connection, cursor):
            assert extensions.quote_ident('a"b', scope) == '"a""b"'
            assert sql.SQL("{} {}").format(sql.Identifier("a"), sql.Literal("b'")).as_string(scope) == "\"a\" 'b'''"
            extensions.register_type(extensions.new_type((23,), "TENFOLD", lambda text, _: int(text or 0) * 10), scope)
        cursor.execute("SELECT 7")
        assert cursor.fetchone() == [70]
        assert cursor.cast(23, "7") == 70
        assert cursor.mogrify("SELECT %s", ("a\\",)) == b"SELECT 'a\\'"
