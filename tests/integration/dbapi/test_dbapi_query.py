"""cursor.query is what was run, as psycopg2's: later changes of parameters do not change it, and it never raises."""

import io
from collections import UserDict
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg2 as theirs
import pytest
from brokers import Broker
from postgres import Postgres
from psycopg2 import sql
from psycopg2.extras import Json, NumericRange

from client import dbapi

Step = Callable[[Any], Any]


@pytest.fixture
def both(broker: Broker, postgres: Postgres) -> Iterator[tuple[Any, ...]]:
    """A connection of psycopg2's and two of this package, without a session and with one."""
    with (
        closing(theirs.connect(postgres.dsn())) as one,
        closing(dbapi.connect(broker.address)) as two,
        closing(dbapi.connect(broker.address, session=True)) as three,
    ):
        yield one, two, three


def kind_of(error: Exception) -> Any:
    """The class, of PostgreSQL's errors the code."""
    return getattr(error, "pgcode", None) or type(error).__name__


def seen(connection: Any, step: Step, *, is_named: bool = False) -> list[Any]:
    """What cursor.query is after a step, behind a statement, and again after one that fails on the server."""
    found: list[Any] = []
    for before in ([] if is_named else ["SELECT 'before'"], [] if is_named else ["SELECT %s, 'before'"]):
        with connection.cursor("named" if is_named else None) as cursor:
            for statement in before:
                cursor.execute(statement, (1,) if "%" in statement else None)
            try:
                step(cursor)
            except (theirs.Error, TypeError, ValueError, LookupError) as error:
                found += [kind_of(error), getattr(error, "cursor", None) in (cursor, None)]
            found.append(cursor.query)
        connection.rollback()
    return found


class Counting:
    """An adapter that gives something else each time."""

    def __init__(self) -> None:
        self.calls = 0

    def __conform__(self, protocol: Any) -> Any:
        return self

    def getquoted(self) -> bytes:
        self.calls += 1
        return b"1" if self.calls == 1 else b"never"


class Named(dict[str, Any]):
    def __missing__(self, name: str) -> Any:
        return len(name)


def changed(query: Any, parameters: Any, change: Callable[[Any], Any]) -> Step:
    """Run it, and change the parameters then."""

    def step(cursor: Any) -> None:
        given = parameters()
        cursor.execute(query, given)
        change(given)

    return step


def iterated(cursor: Any, values: list[int], query: str = "SELECT 6 / %s") -> None:
    """executemany from an iterable that uses one list again and again."""

    def sets() -> Iterator[list[int]]:
        kept = [0]
        for value in values:
            kept[0] = value
            yield kept
        kept[0] = 777

    cursor.executemany(query, sets())


STEPS: dict[str, Step] = {
    "nothing": lambda cursor: None,
    "no parameters": lambda cursor: cursor.execute("SELECT 1"),
    "bytes": lambda cursor: cursor.execute(b"SELECT 1"),
    "percent": lambda cursor: cursor.execute("SELECT 1 %% 2, %s", (1,)),
    "empty tuple": lambda cursor: cursor.execute("SELECT '%%'", ()),
    "composed": lambda cursor: cursor.execute(sql.SQL("SELECT {}").format(sql.Literal([1, 2]))),
    "scalars": lambda cursor: cursor.execute(
        "SELECT %s, %s, %s, %s, %s, %s", (1, 1.5, "a'\\", None, True, Decimal("1.10"))
    ),
    "moments": lambda cursor: cursor.execute(
        "SELECT %s, %s, %s, %s", (date(2020, 1, 2), datetime(2020, 1, 2, tzinfo=UTC), timedelta(1, 2), b"\0\1")
    ),
    "uuid": lambda cursor: cursor.execute("SELECT %s::text", (str(UUID(int=5)),)),
    "list": changed("SELECT %s, %s", lambda: [1, "a"], lambda given: given.clear()),
    "dict": changed("SELECT %(a)s", lambda: {"a": 1}, lambda given: given.update(a=2)),
    "dict cleared": changed("SELECT %(a)s", lambda: {"a": 1}, lambda given: given.clear()),
    "subclass": changed("SELECT %(a)s, %(bc)s", lambda: Named(a=1), lambda given: given.update(bc=9)),
    "mapping": changed("SELECT %(a)s", lambda: UserDict(a=1), lambda given: given.update(a=9)),
    "inner list": changed("SELECT %s", lambda: ([1, 2],), lambda given: given[0].clear()),
    "inner lists": changed("SELECT %s", lambda: ([[1, 2], [3, 4]],), lambda given: given[0][0].clear()),
    "inner tuple": changed("SELECT 1 WHERE 1 IN %s", lambda: [(1, 2)], lambda given: given.clear()),
    "json": changed("SELECT %s", lambda: (Json({"a": [1]}),), lambda given: given[0].adapted["a"].append(2)),
    "range": lambda cursor: cursor.execute("SELECT %s", (NumericRange(1, 2),)),
    "bytearray": changed("SELECT %s", lambda: (bytearray(b"abc"),), lambda given: given[0].clear()),
    "one literal": lambda cursor: cursor.execute("SELECT %s", (Counting(),)),
    "one literal each": lambda cursor: cursor.execute(
        "SELECT %(a)s, %(b)s", {"a": Counting(), "b": [Counting()], "c": object()}
    ),
    "one literal of each set": lambda cursor: cursor.executemany("SELECT %s", [(Counting(),), (Counting(),)]),
    "as is": lambda cursor: cursor.execute("SELECT %s", (theirs.extensions.AsIs("1 + 1"),)),
    "too many": lambda cursor: cursor.execute("SELECT %s", (1, 2)),
    "too few": lambda cursor: cursor.execute("SELECT %s, %s", (1,)),
    "no such name": lambda cursor: cursor.execute("SELECT %(a)s", {}),
    "no adapter": lambda cursor: cursor.execute("SELECT %s", (object(),)),
    "no adapter inside": lambda cursor: cursor.execute(sql.SQL("SELECT {}").format(sql.Literal(object()))),
    "no statement": lambda cursor: cursor.execute(5),
    "empty": lambda cursor: cursor.execute(""),
    "format": lambda cursor: cursor.execute("SELECT %d", (1,)),
    "NUL inside": lambda cursor: cursor.execute("SELECT %s", ("a\0b",)),
    "syntax": lambda cursor: cursor.execute("SELEC %s", (1,)),
    "failing": lambda cursor: cursor.execute("SELECT 1 / %s", [0]),
    "callproc": lambda cursor: cursor.callproc("abs", [-5]),
    "callproc by name": lambda cursor: cursor.callproc("make_date", {"year": 2020, "month": 1, "day": 2}),
    "callproc failing": lambda cursor: cursor.callproc("make_date", [1, 2, 300]),
    "callproc unfit": lambda cursor: cursor.callproc("abs", [object()]),
    "executemany": lambda cursor: cursor.executemany("SELECT %s", [(1,), (2,)]),
    "executemany of none": lambda cursor: cursor.executemany("SELECT %s", []),
    "executemany failing": lambda cursor: cursor.executemany("SELECT 6 / %s", [(1,), (0,), (2,)]),
    "executemany unfit": lambda cursor: cursor.executemany("SELECT %s", [(1,), (2, 3)]),
    "executemany reusing": lambda cursor: iterated(cursor, [1, 2, 3]),
    "executemany reusing, failing": lambda cursor: iterated(cursor, [1, 0, 3]),
    "executemany one by one": lambda cursor: iterated(cursor, [1, 0, 3], "SELECT 1; SELECT 6 / %s"),
    "executemany by name": lambda cursor: cursor.executemany("SELECT %(a)s", [{"a": 1}, {"a": 2}]),
    "copy_expert": lambda cursor: cursor.copy_expert("COPY (SELECT 1) TO STDOUT", io.StringIO()),
    "copy_expert failing": lambda cursor: cursor.copy_expert("COPY (SELECT 1 / 0) TO STDOUT", io.StringIO()),
    "copy_to": lambda cursor: cursor.copy_to(io.StringIO(), "pg_range", columns=["rngtypid"]),
    "mogrify": lambda cursor: cursor.mogrify("SELECT %s", (1,)),
    "fetch": lambda cursor: cursor.fetchone(),
}


@pytest.mark.parametrize("name", list(STEPS))
def test_query_is_what_was_run(both: tuple[Any, ...], name: str) -> None:
    expected, *found = [seen(connection, STEPS[name]) for connection in both]
    for each in found:
        assert each == expected


@pytest.mark.parametrize(
    "step",
    [
        lambda cursor: cursor.execute("SELECT %s", (1,)),
        changed("SELECT %s", lambda: [[1, 2]], lambda given: given.clear()),
        lambda cursor: (cursor.execute("SELECT %s", (1,)), cursor.fetchall()),
        lambda cursor: cursor.execute("SELEC %s", (1,)),
        lambda cursor: cursor.execute("SELECT %s", (1, 2)),
    ],
)
def test_query_of_named_cursors_is_what_was_run(both: tuple[Any, ...], step: Step) -> None:
    expected, *found = [seen(connection, step, is_named=True) for connection in both]
    for each in found:
        assert each == expected


def test_query_is_there_in_the_middle_of_the_call(broker: Broker) -> None:
    with closing(dbapi.connect(broker.address)) as connection, connection.cursor() as cursor:

        class Asking(io.StringIO):
            def write(self, text: str) -> int:
                seen.append(cursor.query)
                return super().write(text)

        seen: list[Any] = []
        cursor.copy_expert("COPY (SELECT 1) TO STDOUT", Asking())
        assert seen == [b"COPY (SELECT 1) TO STDOUT"]
