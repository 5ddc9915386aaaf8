"""Cursors of client.dbapi: statements, rows, casters of their own, cursors of the server's, COPY."""

import io
import uuid
from collections.abc import Iterator
from datetime import timedelta, timezone
from decimal import Decimal
from typing import Any

import psycopg2 as theirs
import pytest
from brokers import Broker
from psycopg2 import sql
from psycopg2.extensions import new_array_type, new_type, register_type

from client import TransactionLost
from client import dbapi as psycopg2
from client.dbapi import extras


@pytest.fixture(params=["plain", "session"])
def connection(request: pytest.FixtureRequest, broker: Broker) -> Iterator[Any]:
    """A connection without a session, and one with it."""
    made = psycopg2.connect(broker.address, session=request.param == "session")
    yield made
    made.close()


@pytest.fixture
def cursor(connection: Any) -> Any:
    return connection.cursor()


def test_rows_are_plain_tuples(cursor: Any) -> None:
    cursor.execute("SELECT n, n::numeric / 2, 'x' FROM generate_series(1, 5) AS n")
    assert cursor.rowcount == 5
    row = cursor.fetchone()
    assert type(row) is tuple
    assert row == (1, Decimal("0.5"), "x")
    assert cursor.rownumber == 1
    assert [type(each) for each in cursor.fetchmany(2)] == [tuple, tuple]
    cursor.arraysize = 1
    assert [n for n, *_ in cursor.fetchmany()] == [4]
    assert [n for n, *_ in cursor] == [5]
    assert cursor.fetchone() is None
    assert cursor.fetchall() == cursor.fetchmany(3) == []


def test_a_cursor_scrolls(cursor: Any) -> None:
    cursor.execute("SELECT n FROM generate_series(0, 9) AS n")
    cursor.fetchmany(3)
    cursor.scroll(2)
    assert cursor.fetchone() == (5,)
    cursor.scroll(-6)
    assert cursor.fetchmany(2) == [(0,), (1,)]
    cursor.scroll(8, "absolute")
    assert cursor.fetchall() == [(8,), (9,)]
    for value, mode in ((10, "absolute"), (-11, "relative"), (-1, "absolute")):
        with pytest.raises(psycopg2.ProgrammingError, match="out of bounds"):
            cursor.scroll(value, mode)
    with pytest.raises(psycopg2.ProgrammingError, match="relative"):
        cursor.scroll(1, "sideways")
    named = cursor.connection.cursor("scrolled")
    named.execute("SELECT generate_series(0, 9)")
    named.scroll(2, "sideways")  # as psycopg2's
    assert named.fetchone() == (2,)
    with pytest.raises(TypeError, match="argument 2 must be str, not None"):
        named.scroll(1, None)


def test_a_cursor_tells_what_it_has_done(cursor: Any) -> None:
    assert (cursor.description, cursor.rowcount, cursor.query, cursor.statusmessage) == (None, -1, None, None)
    cursor.execute("SELECT %(a)s AS a, oid FROM pg_class LIMIT 1", {"a": "it's"})
    assert cursor.query == b"SELECT 'it''s' AS a, oid FROM pg_class LIMIT 1"
    assert [column.name for column in cursor.description] == ["a", "oid"]
    assert cursor.description[0].type_code == psycopg2.STRING
    assert cursor.description[1].table_oid == 1259
    assert cursor.statusmessage == "SELECT 1"
    assert cursor.mogrify("SELECT %s", (None,)) == b"SELECT NULL"
    cursor.execute("CREATE TEMP TABLE told (id int)")
    assert cursor.description is None
    with pytest.raises(psycopg2.ProgrammingError, match="no results to fetch"):
        cursor.fetchone()
    cursor.execute("INSERT INTO told VALUES (1), (2)")
    assert (cursor.rowcount, cursor.lastrowid, cursor.statusmessage) == (2, 0, "INSERT 0 2")


def test_what_a_cursor_refuses(cursor: Any) -> None:
    with pytest.raises(psycopg2.ProgrammingError, match="empty"):
        cursor.execute("")
    with pytest.raises(psycopg2.NotSupportedError):
        cursor.nextset()
    cursor.setinputsizes([1])
    cursor.setoutputsize(1)
    for name in ("scrollable", "withhold"):
        with pytest.raises(psycopg2.ProgrammingError, match="unnamed"):
            setattr(cursor, name, True)
    cursor.close()
    for call in (cursor.fetchone, cursor.fetchall, cursor.nextset, lambda: cursor.execute("SELECT 1")):
        with pytest.raises(psycopg2.InterfaceError, match="cursor already closed"):
            call()


def test_functions_are_called_by_name(cursor: Any) -> None:
    assert cursor.callproc("lower", ("ABC",)) == ("ABC",)
    assert cursor.fetchall() == [("abc",)]
    assert cursor.callproc("make_interval", {"days": 2}) is None
    assert cursor.fetchone() == (timedelta(days=2),)
    with pytest.raises(TypeError):
        cursor.callproc("lower", 5)


@pytest.mark.parametrize("autocommit", [False, True])
def test_executemany_adds_up_the_rows(connection: Any, autocommit: bool) -> None:
    cursor = connection.cursor()
    cursor.execute("DROP TABLE IF EXISTS many; CREATE TABLE many (id int, name text)")
    connection.commit()
    connection.autocommit = autocommit
    cursor.executemany("INSERT INTO many VALUES (%s, %s)", ((n, f"name {n}") for n in range(1500)))
    assert cursor.rowcount == 1500
    cursor.executemany("UPDATE many SET name = 'x' WHERE id < %(n)s", [{"n": 10}, {"n": 20}, {"n": 0}])
    assert cursor.rowcount == 30
    cursor.executemany("DELETE FROM many WHERE id = %s", [])
    assert cursor.rowcount == 0
    with pytest.raises(psycopg2.ProgrammingError, match="no results to fetch"):
        cursor.fetchone()
    with pytest.raises(psycopg2.errors.DivisionByZero):
        cursor.executemany("DELETE FROM many WHERE id = 1 / %s", [(1,), (0,)])
    assert cursor.rowcount == -1
    connection.rollback()
    connection.autocommit = True
    cursor.execute("DROP TABLE many")


def test_with_autocommit_what_executemany_does_is_one_transaction(broker: Broker) -> None:
    connection = psycopg2.connect(broker.address, autocommit=True)
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE together (id int PRIMARY KEY)")
    cursor.executemany("INSERT INTO together VALUES (%s)", [(n,) for n in range(100)])
    cursor.execute("SELECT count(*), count(DISTINCT xmin::text) FROM together")
    assert cursor.fetchone() == (100, 1)
    with pytest.raises(psycopg2.errors.UniqueViolation):
        cursor.executemany("INSERT INTO together VALUES (%s)", [(200,), (5,)])
    cursor.execute("SELECT count(*) FROM together; DROP TABLE together; SELECT 1")
    cursor.execute("SELECT to_regclass('together')")
    assert cursor.fetchone() == (None,)
    connection.close()


def upper(text: str | None, cursor: Any) -> str | None:
    return None if text is None else text.upper()


def test_casters_belong_to_everybody_to_a_connection_or_to_a_cursor(broker: Broker, connection: Any) -> None:
    caster = new_type((25,), "UPPER", upper)
    register_type(caster, connection)
    register_type(new_array_type((1009,), "UPPERS", caster), connection)
    asked = "SELECT 'abc'::text, NULL::text, ARRAY['a', 'b'], 5"
    mine, other = connection.cursor(), psycopg2.connect(broker.address).cursor()
    mine.execute(asked)
    other.execute(asked)
    assert mine.fetchone() == ("ABC", None, ["A", "B"], 5)
    assert other.fetchone() == ("abc", None, ["a", "b"], 5)
    register_type(new_type((23,), "TEXT", lambda text, cursor: f"<{text}>"), mine)
    mine.execute(asked)
    assert mine.fetchall() == [("ABC", None, ["A", "B"], "<5>")]
    assert mine.cast(23, "7") == "<7>"
    assert connection.cursor().cast(23, "7") == 7
    other.connection.close()


def test_a_cursors_own_casters_read_large_results_whole(connection: Any) -> None:
    cursor = connection.cursor()
    register_type(new_type((25,), "UPPER", upper), cursor)
    cursor.execute(
        "SELECT n, repeat('x', 1000) FROM generate_series(1, 2000) AS n UNION ALL SELECT 0, repeat('y', 900000)"
    )
    assert cursor.fetchone() == (1, "X" * 1000)
    cursor.scroll(1999, "absolute")
    assert cursor.fetchone() == (2000, "X" * 1000)
    assert cursor.fetchall() == [(0, "Y" * 900000)]


def test_a_cursor_has_its_own_time_zones(cursor: Any) -> None:
    cursor.tzinfo_factory = lambda offset: timezone(offset, "there")
    cursor.execute("SELECT '2020-01-01 12:00+02'::timestamptz AT TIME ZONE 'UTC' AT TIME ZONE 'UTC'")
    assert cursor.fetchone()[0].tzname() == "there"


def test_a_casters_own_error_is_raised_when_its_row_is_read(cursor: Any) -> None:
    def refuse(text: str | None, cursor: Any) -> int:
        raise LookupError(f"no {text}")

    register_type(new_type((23,), "NONE", refuse), cursor)
    cursor.execute("SELECT 5")
    with pytest.raises(LookupError, match="no 5"):
        cursor.fetchone()


def test_extras_of_psycopg2_take_connections_and_cursors(connection: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("CREATE TEMP TABLE taken (id int, place point, made jsonb)")
    cursor.execute("CREATE TYPE pg_temp.pair AS (a int, b text)")
    extras.execute_values(cursor, "INSERT INTO taken (id) VALUES %s", [(n,) for n in range(250)])
    extras.execute_batch(cursor, "UPDATE taken SET id = -id WHERE id = %s", [(n,) for n in range(250)])
    cursor.execute("SELECT count(*), min(id), max(id) FROM taken")
    assert cursor.fetchone() == (250, -249, 0)
    extras.register_composite("pg_temp.pair", cursor)
    cursor.execute("SELECT (1, 'x')::pg_temp.pair")
    assert cursor.fetchone()[0].b == "x"
    extras.register_default_jsonb(connection, loads=lambda text: f"<{text}>")
    cursor.execute("SELECT '{\"a\": 1}'::jsonb, %s", (extras.Json({"b": 2}),))
    assert cursor.fetchone() == ('<{"a": 1}>', '{"b": 2}')
    extras.register_uuid(conn_or_curs=connection)
    cursor.execute("SELECT %s", (uuid.UUID(int=7),))
    assert cursor.fetchone() == (uuid.UUID(int=7),)
    cursor.execute("SELECT int4range(1, 5)")
    assert cursor.fetchone() == (extras.NumericRange(1, 5),)
    connection.rollback()


def test_composed_statements_ask_the_connection_how_to_quote(connection: Any) -> None:
    made = sql.SQL("SELECT {} AS {}").format(sql.Literal("it's"), sql.Identifier('a "b"'))
    assert made.as_string(connection) == made.as_string(connection.cursor()) == """SELECT 'it''s' AS "a ""b\"\"\""""
    assert theirs.extensions.quote_ident("a b", connection) == '"a b"'
    cursor = connection.cursor()
    cursor.execute(made)
    assert cursor.description[0].name == 'a "b"'


def test_a_named_cursor_is_read_in_parts(connection: Any) -> None:
    with connection.cursor('of "mine"', scrollable=True) as cursor:
        cursor.itersize = 3
        cursor.execute("SELECT n FROM generate_series(1, %s) AS n", (10,))
        assert cursor.description is None
        assert cursor.fetchone() == (1,)
        assert cursor.description[0].name == "n"
        assert cursor.fetchmany(2) == [(2,), (3,)]
        cursor.scroll(1)
        assert cursor.fetchone() == (5,)
        cursor.scroll(0, "absolute")
        assert [n for (n,) in cursor] == list(range(1, 11))
        cursor.scroll(8, "absolute")
        assert cursor.fetchall() == [(9,), (10,)]
        with pytest.raises(psycopg2.ProgrammingError, match="more than once"):
            cursor.execute("SELECT 1")
        with pytest.raises(psycopg2.ProgrammingError, match="executemany"):
            cursor.executemany("SELECT 1", [])
    check = connection.cursor()
    check.execute("SELECT count(*) FROM pg_cursors WHERE name = %s", ('of "mine"',))
    assert check.fetchone() == (0,)


def test_a_named_cursor_belongs_to_its_transaction(connection: Any) -> None:
    cursor = connection.cursor("mine")
    cursor.execute("SELECT 1")
    connection.commit()
    with pytest.raises(psycopg2.ProgrammingError, match="isn't valid anymore"):
        cursor.fetchone()
    connection.autocommit = True
    with pytest.raises(psycopg2.ProgrammingError, match="outside of transactions"):
        connection.cursor("other").execute("SELECT 1")


def test_a_cursor_with_hold_outlives_its_transaction_in_a_session(broker: Broker) -> None:
    connection = psycopg2.connect(broker.address, session=True)
    cursor = connection.cursor("held", withhold=True)
    cursor.execute("SELECT n FROM generate_series(1, 3) AS n")
    connection.commit()
    assert cursor.fetchall() == [(1,), (2,), (3,)]
    assert connection.status == psycopg2.extensions.STATUS_READY
    cursor.close()
    connection.close()


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("isolation", [None, "serializable"])
def test_copy_reads_and_writes_files(connection: Any, autocommit: bool, isolation: str | None) -> None:
    cursor = connection.cursor()
    cursor.execute('DROP TABLE IF EXISTS "The copied"; CREATE TABLE "The copied" (id int, "na me" text)')
    connection.commit()
    connection.set_session(autocommit=autocommit, isolation_level=isolation)
    cursor.copy_from(io.StringIO("1;ä\n2;-\n"), "The copied", sep=";", null="-", columns=("id", "na me"))
    assert cursor.rowcount == 2
    cursor.copy_expert('COPY "The copied" FROM STDIN WITH CSV', io.BytesIO("3,€\n".encode()))
    text, data = io.StringIO(), io.BytesIO()
    cursor.copy_to(text, "The copied", sep="|", null="none")
    assert text.getvalue() == "1|ä\n2|none\n3|€\n"
    cursor.copy_expert(
        sql.SQL("COPY (SELECT 'from stdin' FROM {}) TO STDOUT").format(sql.Identifier("The copied")), data
    )
    assert data.getvalue() == b"from stdin\n" * 3
    with pytest.raises(psycopg2.errors.InvalidTextRepresentation):
        cursor.copy_from(io.StringIO("one\tx\n"), "The copied")
    connection.rollback()
    connection.set_session(autocommit=True, isolation_level="default")
    cursor.execute('DROP TABLE "The copied"')
    with pytest.raises(TypeError, match="read"):
        cursor.copy_from("no file", "The copied")
    with pytest.raises(TypeError, match="write"):
        cursor.copy_to("no file", "The copied")


def test_errors_speak_of_what_a_cursor_has(broker: Broker) -> None:
    connection = psycopg2.connect(broker.address)
    connection.autocommit = True
    cursor = connection.cursor()
    for call, said in (
        (lambda: cursor.execute("COPY pg_class FROM STDIN"), r"use copy_expert\(sql, file\)$"),
        (lambda: cursor.execute("COPY pg_class TO STDOUT"), r"use copy_expert\(sql, file\)$"),
        (lambda: cursor.executemany("COPY pg_class TO STDOUT", [(), ()]), r"; use copy_expert\(sql, file\)$"),
        (lambda: cursor.copy_expert("SELECT 1", io.StringIO()), r"run other statements by execute\(\)$"),
        (lambda: cursor.copy_expert("COPY pg_class TO/**/STDOUT", io.StringIO()), None),
        (lambda: cursor.copy_expert("COPY pg_class FROM/**/STDIN", io.StringIO()), "nothing but space between"),
        (lambda: cursor.execute("SELECT lastval()"), "session=True"),
    ):
        if said is None:
            call()
            continue
        with pytest.raises(theirs.Error, match=said) as caught:
            call()
        assert caught.value.cursor is cursor
        assert "db." not in str(caught.value)
    connection.close()


def test_a_lost_session_says_that_it_wants_another_connection(start_broker: Any, postgres: Any) -> None:
    broker = start_broker()
    connection = psycopg2.connect(broker.address, session=True)
    cursor = connection.cursor()
    cursor.execute("SELECT pg_backend_pid()")
    postgres.execute("SELECT pg_terminate_backend(%s)", cursor.fetchone())
    with pytest.raises(TransactionLost, match=r"; connect anew$") as caught:
        cursor.execute("SELECT 1")
    assert caught.value.outcome == "not executed"
    connection.close()


def test_two_phases(fresh_postgres: Any, start_broker: Any) -> None:
    server = fresh_postgres(max_prepared_transactions="2")
    broker = start_broker({"main": server.parameters})
    connection = psycopg2.connect(broker.address)
    server.execute("CREATE TABLE phases (id int)")
    xid = connection.xid(7, "global", "branch")
    connection.tpc_begin(xid)
    connection.cursor().execute("INSERT INTO phases VALUES (1)")
    with pytest.raises(psycopg2.ProgrammingError, match="tpc_commit"):
        connection.commit()
    connection.tpc_prepare()
    assert connection.status == psycopg2.extensions.STATUS_PREPARED
    with pytest.raises(psycopg2.ProgrammingError, match="prepared two-phase"):
        connection.cursor().execute("SELECT 1")
    connection.close()
    other = psycopg2.connect(broker.address)
    (found,) = other.tpc_recover()
    assert (tuple(found), found.database, str(found)) == (tuple(xid), "postgres", str(xid))
    other.tpc_commit(found)
    assert other.tpc_recover() == []
    assert server.execute("SELECT * FROM phases") == [(1,)]
    other.close()


def test_a_row_that_a_caster_cannot_read_is_passed_by_its_error(cursor: Any) -> None:
    def inverse(text: str, _: Any) -> float:
        return 1 / (int(text) - 2)

    register_type(new_type((23,), "INVERSE", inverse), cursor)
    for fetch in (lambda: [cursor.fetchone()], lambda: cursor.fetchmany(1)):
        cursor.execute("SELECT generate_series(1, 4)")
        assert fetch() == [(-1.0,)]
        with pytest.raises(ZeroDivisionError):
            fetch()
        assert fetch() == [(1.0,)]
        assert cursor.fetchall() == [(0.5,)]
        assert cursor.fetchall() == []


def test_the_commit_of_a_failed_transaction_is_silent_as_psycopg2s(connection: Any, cursor: Any) -> None:
    with pytest.raises(theirs.errors.DivisionByZero):
        cursor.execute("SELECT 1 / 0")
    connection.commit()
    cursor.execute("SELECT 1")
    assert cursor.fetchone() == (1,)
