"""Named cursors read results of any size: in parts that fit, and never past rows that have not come."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2 as theirs
import pytest
from brokers import Broker
from postgres import Postgres

from client import ResultTooLarge, dbapi

# In bytes, and as small as it can be.
LIMIT = 4096
LARGE = "SELECT n, repeat('x', 400) FROM generate_series(1, 200) AS n"
# One row is much larger than all before it: it fits, and no other one beside it.
UNEVEN = "SELECT n, repeat('x', CASE n WHEN 50 THEN 4050 ELSE 1 END) FROM generate_series(1, 200) AS n"


@pytest.fixture(scope="module")
def small(postgres: Postgres) -> Iterator[Broker]:
    """A broker with a small limit."""
    broker = Broker({"main": postgres.parameters}, {"default": {}}, {"max_result_bytes": LIMIT})
    try:
        yield broker.start()
    finally:
        broker.close()


@pytest.fixture(params=["plain", "session", "held"])
def connect(request: pytest.FixtureRequest, small: Broker) -> Iterator[Callable[[], Any]]:
    """Makes a named cursor."""
    kind = request.param
    with closing(dbapi.connect(small.address, session=kind != "plain")) as connection:
        connection.autocommit = kind == "held"
        numbers = iter(range(100))
        yield lambda: connection.cursor(f"n{next(numbers)}", withhold=kind == "held")


@pytest.fixture
def other(postgres: Postgres) -> Iterator[Callable[[], Any]]:
    """Makes a named cursor of psycopg2's."""
    with closing(theirs.connect(postgres.dsn())) as connection:
        numbers = iter(range(100))
        yield lambda: connection.cursor(f"n{next(numbers)}")


def told(cursor: Any, rows: Any) -> tuple[Any, ...]:
    return rows, cursor.rowcount, cursor.rownumber, cursor.statusmessage


def steps(cursor: Any) -> Iterator[tuple[Any, ...]]:
    """What a program sees that reads in all ways."""
    cursor.itersize = 20
    yield told(cursor, cursor.fetchone())
    yield told(cursor, cursor.fetchmany(70))
    yield told(cursor, [next(cursor) for _ in range(25)])
    yield told(cursor, cursor.fetchone())
    yield told(cursor, next(cursor))
    yield told(cursor, cursor.fetchall())
    yield told(cursor, cursor.fetchmany(3))
    yield told(cursor, cursor.fetchall())
    yield told(cursor, list(cursor))
    yield told(cursor, cursor.fetchone())


def test_large_rows_come_as_psycopg2s(connect: Callable[[], Any], other: Callable[[], Any]) -> None:
    ours, theirs = connect(), other()
    ours.execute(LARGE)
    theirs.execute(LARGE)
    assert list(steps(ours)) == list(steps(theirs))


@pytest.mark.parametrize("rows", [0, 1, 2, 65, 66, 300])
def test_all_rows_come_whatever_their_number(connect: Callable[[], Any], rows: int) -> None:
    expected = [(n, "x" * 20) for n in range(1, rows + 1)]
    for read in (
        lambda cursor: cursor.fetchall(),
        lambda cursor: list(cursor),
        lambda cursor: cursor.fetchmany(1000),
        lambda cursor: [*cursor.fetchmany(33), *cursor.fetchall()],
        lambda cursor: list(iter(cursor.fetchone, None)),
    ):
        cursor = connect()
        cursor.execute("SELECT n, repeat('x', 20) FROM generate_series(1, %s) AS n", (rows,))
        assert read(cursor) == expected
        assert read(cursor) == []
        cursor.close()


READS: dict[str, Callable[[Any], Any]] = {
    "fetchall": lambda cursor: cursor.fetchall(),
    "fetchmany": lambda cursor: cursor.fetchmany(150),
    "next": lambda cursor: list(cursor),
    "fetchone": lambda cursor: cursor.fetchone(),
}


@pytest.mark.parametrize("read", ["fetchall", "fetchmany", "next"])
def test_rows_that_have_not_come_are_not_passed_in_silence(connect: Callable[[], Any], read: str) -> None:
    cursor = connect()
    cursor.execute(UNEVEN)
    with pytest.raises(ResultTooLarge, match=r"smaller itersize, or call fetchmany\(size\)") as caught:
        READS[read](cursor)
    assert caught.value.cursor is cursor
    assert (cursor.rowcount, cursor.rownumber, cursor.description) == (-1, 0, None)
    for again in READS.values():
        with pytest.raises(dbapi.ProgrammingError, match=r"moved past rows .* itersize"):
            again(cursor)
    with pytest.raises(dbapi.ProgrammingError, match="moved past rows"):
        cursor.scroll(1)
    cursor.close()
    second = connect()
    second.execute(UNEVEN)
    second.itersize = 1
    assert [n for n, _ in second] == list(range(1, 201))
    second.close()


def test_a_row_that_is_too_large_is_no_end(connect: Callable[[], Any]) -> None:
    cursor = connect()
    cursor.execute(f"SELECT repeat('x', {LIMIT}) FROM generate_series(1, 3)")
    with pytest.raises(ResultTooLarge, match="the row is too large"):
        cursor.fetchone()
    with pytest.raises(dbapi.ProgrammingError, match="moved past rows"):
        cursor.fetchone()


def test_a_scrollable_cursor_goes_back_to_a_known_row(connect: Callable[[], Any]) -> None:
    cursor = connect()
    cursor.scrollable = True
    cursor.execute(UNEVEN)
    with pytest.raises(ResultTooLarge):
        cursor.fetchall()
    cursor.scroll(0, "absolute")
    cursor.itersize = 1
    assert [n for n, _ in cursor] == list(range(1, 201))


def test_an_exception_between_parts_is_not_taken_for_an_end(
    connect: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cursor = connect()
    cursor.execute(LARGE)
    fetched = []
    on_server = type(cursor)._on_server

    def interrupted(self: Any, statement: str) -> Any:
        if len(fetched) == 3:
            raise KeyboardInterrupt
        fetched.append(statement)
        return on_server(self, statement)

    monkeypatch.setattr(type(cursor), "_on_server", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cursor.fetchall()
    monkeypatch.undo()
    with pytest.raises(dbapi.ProgrammingError, match="moved past rows"):
        cursor.fetchone()


@pytest.mark.parametrize("connect", ["plain", "session"], indirect=True)
def test_rows_before_an_error_are_forgotten_as_psycopg2s(connect: Callable[[], Any], other: Callable[[], Any]) -> None:
    seen = []
    for cursor in (connect(), other()):
        cursor.itersize = 2
        cursor.execute("SELECT 60 / (60 - n) FROM generate_series(1, 100) AS n OFFSET 0")
        found: list[Any] = [next(cursor), next(cursor), next(cursor)]
        for read in READS.values():
            try:
                found.append(read(cursor))
            except theirs.Error as error:
                found.append((error.pgcode, cursor.rowcount, cursor.rownumber, cursor.description))
        seen.append(found)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_transaction_that_ends_in_the_loop_is_noticed_by_the_next_row(
    small: Broker, other: Callable[[], Any], end: str
) -> None:
    with closing(dbapi.connect(small.address)) as connection:
        for cursor in (connection.cursor("looped"), other()):
            cursor.execute("SELECT generate_series(1, 10)")
            assert next(cursor) == (1,)
            getattr(cursor.connection, end)()
            with pytest.raises(theirs.ProgrammingError, match="named cursor isn't valid anymore"):
                next(cursor)
