"""executemany: what is not sent if its iterable fails, and what goes one by one with autocommit, as by `execute`."""

import copy
import os
import pickle
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from brokers import Broker
from postgres import Postgres
from psycopg2.extensions import AsIs, adapt, register_adapter

from client import dbapi as psycopg2

StartBroker = Callable[..., Broker]

CLEAN_UP = "DROP TABLE IF EXISTS gathered, gathered_sizes, gathered_too; DROP FUNCTION IF EXISTS gathered_raises"
TABLE = "DROP TABLE IF EXISTS gathered; CREATE TABLE gathered (id int)"
INSERT = "INSERT INTO gathered VALUES (%s)"
MODES = {
    "by itself": {"autocommit": True},
    "in a transaction": {},
    "in a session": {"session": True},
    "in a session with autocommit": {"session": True, "autocommit": True},
}


class TooLate(TimeoutError):
    """A time limit of the program's."""


class Slow:
    """A value for which the time limit runs out while it is converted."""


@pytest.fixture(params=MODES)
def connection(request: pytest.FixtureRequest, broker: Broker) -> Iterator[Any]:
    made = psycopg2.connect(broker.address, **MODES[request.param])
    made.cursor().execute(TABLE)
    made.commit()
    yield made
    made.close()


@pytest.fixture
def alarm() -> Iterator[Callable[[], None]]:
    """Have a signal handler raise TooLate."""

    def handler(*_: object) -> None:
        raise TooLate

    before = signal.signal(signal.SIGALRM, handler)
    yield lambda: os.kill(os.getpid(), signal.SIGALRM)
    signal.signal(signal.SIGALRM, before)


def failing(sets: int, fail: Callable[[], None]) -> Iterator[tuple[int]]:
    for number in range(sets):
        yield (number,)
    fail()


def no_more() -> None:
    raise OSError("no more")


def kept(connection: Any) -> int:
    """How many rows others see once the transaction is committed."""
    connection.commit()
    cursor = connection.cursor()
    cursor.execute("SELECT count(*) FROM gathered")
    (count,) = cursor.fetchone()
    connection.commit()
    return int(count)


@pytest.mark.parametrize(("sets", "sent"), [(0, 0), (1, 0), (700, 0), (1700, 1000)])
def test_what_was_gathered_when_the_iterable_failed_is_not_run(connection: Any, sets: int, sent: int) -> None:
    cursor = connection.cursor()
    with pytest.raises(OSError, match="no more"):
        cursor.executemany(INSERT, failing(sets, no_more))
    assert kept(connection) == sent


@pytest.mark.parametrize("sets", [0, 3, 999])
def test_a_signal_handler_that_ends_the_gathering_ends_all(
    connection: Any, alarm: Callable[[], None], sets: int
) -> None:
    with pytest.raises(TooLate):
        connection.cursor().executemany(INSERT, failing(sets, alarm))
    assert kept(connection) == 0


def test_so_does_one_that_runs_while_a_value_is_converted(connection: Any, alarm: Callable[[], None]) -> None:
    def convert(_: Slow) -> Any:
        alarm()
        return adapt(1)

    register_adapter(Slow, convert)
    with pytest.raises(TooLate):
        connection.cursor().executemany(INSERT, [(1,), (2,), (Slow(),), (3,)])
    assert kept(connection) == 0


def test_a_set_that_does_not_fit_comes_behind_those_before_it(connection: Any) -> None:
    with pytest.raises(TypeError, match="not all arguments converted"):
        connection.cursor().executemany(INSERT, [(1,), (2,), (3, 4), (5,)])
    assert kept(connection) == 2


# With autocommit and without a session.

# What executemany has to run as execute does, or refuse as execute does: statement, its sets, and how many rows are
# there afterwards.
ALONE: dict[str, tuple[str, list[Any], int]] = {
    "VACUUM": ("VACUUM %s", [(AsIs("gathered"),)] * 2, 0),
    "concurrently": ("CREATE INDEX CONCURRENTLY ON gathered ((id + %s))", [(1,), (2,)], 0),
    "commits": ("DO $$ BEGIN INSERT INTO gathered VALUES (%s); COMMIT; END $$", [(1,), (2,)], 2),
    "several": ("INSERT INTO gathered VALUES (%s); INSERT INTO gathered VALUES (%s)", [(1, 2), (3, 4)], 4),
    "several at times": ("INSERT INTO gathered VALUES (%s)", [(1,), (AsIs("2); DELETE FROM gathered; SELECT (3"),)], 0),
    "EXPLAIN": ("EXPLAIN ANALYZE INSERT INTO gathered VALUES (%s)", [(1,), (2,)], 2),
    "CREATE": ("CREATE TABLE IF NOT EXISTS gathered_too (id int DEFAULT %s)", [(1,), (2,)], 0),
    "nothing": ("", [None, None], 0),
    "SET": ("SET work_mem = %s", [("4MB",), ("5MB",)], 0),
    "LISTEN": ("LISTEN %s", [(AsIs("a"),), (AsIs("b"),)], 0),
    "temporary": ("CREATE TEMP TABLE %s (id int)", [(AsIs("a"),), (AsIs("b"),)], 0),
    "into temporary": ("SELECT %s AS id INTO TEMP t", [(1,)] * 3, 0),
    "locks": ("SELECT pg_advisory_lock(%s)", [(1,), (2,)], 0),
    "tried locks": ("SELECT pg_try_advisory_lock_shared(%s)", [(1,), (2,), (3,)], 0),
    "currval": ("SELECT currval(%s)", [("s",), ("t",)], 0),
    "seeds": ("SELECT setseed(%s)", [(0.5,), (0.6,)], 0),
    "PREPARE": ("PREPARE p%s AS SELECT 1", [(AsIs("1"),), (AsIs("2"),)], 0),
    "BEGIN": ("BEGIN", [None, None], 0),
    "a COPY": ("COPY gathered TO STDOUT", [None, None], 0),
    "what all rely on": ("SET LOCAL client_encoding = %s", [("latin1",), ("latin1",)], 0),
    "DISCARD": ("DISCARD ALL", [None, None], 0),
}  # fmt: skip


def done(connection: Any, run: Callable[[Any], object]) -> tuple[Any, ...]:
    """What it came to: the error's class and text, the status, and how many rows there are."""
    cursor = connection.cursor()
    cursor.execute(TABLE)
    cursor = connection.cursor()
    error = None
    try:
        run(cursor)
    except psycopg2.Error as failed:
        outcome = getattr(failed, "outcome", None)  # psycopg2 itself refuses an empty text
        error = type(failed).__name__, outcome, re.sub(r"^statement 1 of \d \(.*?\): ", "", str(failed))
    return error, connection.get_transaction_status(), cursor.statusmessage if error is None else None, kept(connection)


@pytest.mark.parametrize("name", ALONE)
def test_by_itself_it_does_what_execute_does(broker: Broker, name: str) -> None:
    statement, sets, rows = ALONE[name]
    connection = psycopg2.connect(broker.address, autocommit=True)

    def one_by_one(cursor: Any) -> None:
        for each in sets:
            cursor.execute(statement, each)

    expected = done(connection, one_by_one)
    found = done(connection, lambda cursor: cursor.executemany(statement, sets))
    assert found == expected
    assert found[-1] == rows
    connection.close()


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT %s FROM generate_series(1, 3)",
        "INSERT INTO gathered SELECT %s FROM generate_series(1, 3)",
        "EXPLAIN SELECT %s",
        "EXPLAIN ANALYZE INSERT INTO gathered VALUES (%s)",
        "SET LOCAL work_mem = '%sMB'",
        "DO 'BEGIN PERFORM %s; END'",
        "VALUES (%s), (1)",
    ],
)
def test_as_many_rows_are_counted_as_by_psycopg2(
    broker: Broker, postgres: Postgres, statement: str, autocommit: bool
) -> None:
    counts = []
    for connection in (postgres.connect(), psycopg2.connect(broker.address)):
        connection.autocommit = autocommit
        cursor = connection.cursor()
        cursor.execute(TABLE)
        cursor.executemany(statement, [(64,), (65,), (66,)])
        counts.append(cursor.rowcount)
        connection.rollback()
        connection.close()
    assert counts[1] == counts[0]


def test_no_total_is_told_of_a_generator(broker: Broker) -> None:
    connection = psycopg2.connect(broker.address, autocommit=True)
    cursor = connection.cursor()
    cursor.execute(TABLE)
    sets = (("x" if number == 1500 else number,) for number in range(9000))
    with pytest.raises(psycopg2.errors.InvalidTextRepresentation, match=r"^statement 1501 \(INSERT") as caught:
        cursor.executemany(INSERT, sets)
    assert caught.value.statement_index == 1500
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    connection.close()


def test_by_itself_a_message_is_a_transaction(broker: Broker, postgres: Postgres) -> None:
    connection = psycopg2.connect(broker.address, autocommit=True)
    cursor = connection.cursor()
    cursor.execute(TABLE)
    cursor.executemany(INSERT, ((number,) for number in range(2001)))
    assert (cursor.rowcount, cursor.statusmessage, cursor.query) == (2001, "INSERT 0 1", INSERT.encode() % b"2000")
    with pytest.raises(psycopg2.errors.InvalidTextRepresentation, match=r"^statement 3 of 5 \(INSERT") as caught:
        cursor.executemany(INSERT, [(1,), (2,), ("x",), (4,), (5,)])
    assert caught.value.statement_index == 2
    with pytest.raises(psycopg2.errors.InvalidTextRepresentation, match=r"^statement 1001 of 1001 \(INSERT") as caught:
        cursor.executemany(INSERT, [*((number,) for number in range(1000)), ("x",)])
    assert caught.value.statement_index == 1000
    with postgres.connect() as other, other.cursor() as theirs:
        theirs.execute("SELECT count(*), count(DISTINCT xmin::text) FROM gathered")
        assert theirs.fetchone() == (3001, 4)
    connection.close()


def test_sets_by_themselves_that_are_too_large_for_one_message(start_broker: StartBroker) -> None:
    broker = start_broker(broker={"max_request_bytes": 20_000})
    connection = psycopg2.connect(broker.address, autocommit=True)
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE gathered_sizes (name text)")
    sizes = [4000, 4000, 15000, 10, 10, 9000, 9000]
    cursor.executemany("INSERT INTO gathered_sizes VALUES (%s)", [("x" * size,) for size in sizes])
    cursor.execute("SELECT sum(length(name)) FROM gathered_sizes")
    assert cursor.fetchone() == (sum(sizes),)
    with pytest.raises(psycopg2.Error, match="max_request_bytes"):
        cursor.executemany("INSERT INTO gathered_sizes VALUES (%s)", [("x",), ("x" * 30000,)])
    connection.close()


def test_characteristics_hold_for_it(broker: Broker) -> None:
    connection = psycopg2.connect(broker.address, autocommit=True)
    connection.cursor().execute(TABLE)
    connection.set_session(readonly=True)
    for sets in ([(1,)], [(1,), (2,)]):
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            connection.cursor().executemany(INSERT, sets)
    assert kept(connection) == 0
    connection.close()


@pytest.mark.parametrize("make", [list, lambda: iter(()), lambda: failing(0, no_more)])
def test_if_nothing_is_run_the_statement_before_stays(
    connection: Any, postgres: Postgres, make: Callable[[], Any]
) -> None:
    theirs = postgres.connect()
    found = []
    for cursor in (connection.cursor(), theirs.cursor()):
        cursor.execute("SELECT 7 AS seven")
        error = None
        try:
            cursor.executemany("SELECT %s", make())
        except OSError as failed:
            error = str(failed)
        found.append((error, cursor.rowcount, cursor.description[0].name, cursor.query))
    theirs.close()
    assert found[0] == found[1]


# What is said of an executemany of which some is committed.

RAISES = """
    CREATE OR REPLACE FUNCTION gathered_raises(n int) RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN IF n = 1500 THEN RAISE 'lost a race' USING ERRCODE = '40001'; END IF; RETURN n; END $$
"""


@pytest.mark.parametrize("mode", ["by itself", "in a session with autocommit"])
@pytest.mark.parametrize(
    ("statement", "rows"),
    [
        ("INSERT INTO gathered SELECT gathered_raises(%s)", 1000),
        ("INSERT INTO gathered SELECT gathered_raises(%s); SELECT ';'", 1500),
    ],
)
def test_what_has_committed_before_is_not_safe_to_repeat(broker: Broker, mode: str, statement: str, rows: int) -> None:
    connection = psycopg2.connect(broker.address, **MODES[mode])
    cursor = connection.cursor()
    for each in (TABLE, RAISES):
        cursor.execute(each)
    words = rf"lost a race.*; {rows} sets before it are committed"
    with pytest.raises(psycopg2.errors.SerializationFailure, match=f"(?s){words}") as caught:
        cursor.executemany(statement, [(number,) for number in range(2000)])
    error = caught.value
    assert (error.outcome, error.is_safe_to_repeat, error.retryable) == ("unknown", False, False)
    assert (error.statement_index, error.pgcode) == (1500, "40001")
    assert cursor.query == (statement % 1500).encode()
    assert kept(connection) == rows
    with pytest.raises(psycopg2.errors.SerializationFailure) as caught:
        cursor.executemany(statement, [(1500,), (1,)])
    assert (caught.value.outcome, caught.value.retryable, kept(connection)) == ("failed", True, rows)
    connection.close()


@pytest.mark.parametrize("mode", ["in a transaction", "in a session"])
def test_in_a_transaction_all_of_it_is_undone(broker: Broker, mode: str) -> None:
    connection = psycopg2.connect(broker.address, **MODES[mode])
    cursor = connection.cursor()
    for each in (TABLE, RAISES):
        cursor.execute(each)
    connection.commit()
    with pytest.raises(psycopg2.errors.SerializationFailure, match=r"^lost a race\n") as caught:
        cursor.executemany("INSERT INTO gathered SELECT gathered_raises(%s)", [(number,) for number in range(2000)])
    assert (caught.value.outcome, caught.value.retryable, caught.value.statement_index) == ("failed", True, 1500)
    for again in (copy.copy(caught.value), pickle.loads(pickle.dumps(caught.value))):
        assert (str(again), again.args, again.statement_index) == (str(caught.value), caught.value.args, 1500)
    connection.rollback()
    assert kept(connection) == 0
    connection.close()
