"""executemany in transactions and sessions: the same as psycopg2's on a connection of its own, in a few messages."""

import threading
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from brokers import Broker
from postgres import Postgres
from psycopg2 import sql
from psycopg2.extensions import AsIs
from psycopg2.extras import Json
from waiting import wait_until

from client import dbapi as psycopg2
from client.calls import Calls
from client.dbapi import extras
from client.wire.messages import BatchMessage, Commit, Query

StartBroker = Callable[..., Broker]

CLEAN_UP = "DROP TABLE IF EXISTS kept; DROP FUNCTION IF EXISTS said; DROP SEQUENCE IF EXISTS numbers"
TABLE = """
    DROP TABLE IF EXISTS kept;
    CREATE TABLE kept (id int PRIMARY KEY, name text, CHECK (id >= 0));
    CREATE OR REPLACE FUNCTION said(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'n is %', n;
    RETURN n; END $$;
"""
INSERT = "INSERT INTO kept VALUES (%s, %s)"


class Odd:
    """A value for which psycopg2 has no adapter."""


def reused() -> Iterator[dict[str, Any]]:
    """One object for all sets."""
    each: dict[str, Any] = {}
    for each["id"] in range(50):
        each["name"] = f"name {each['id']}"
        yield each


# Statement and sets; the sets come from a function, as an iterable may be used once.
Many = tuple[Any, Callable[[], Any]]
MANY: dict[str, Many] = {
    "rows": (INSERT, lambda: [(n, f"name {n}") for n in range(1200)]),
    "by name": ("INSERT INTO kept VALUES (%(id)s, %(name)s)", reused),
    "percent": ("INSERT INTO kept SELECT %s, '100%%' WHERE 5 %% 2 = 1", lambda: [(1,), (2,)]),
    "bytes": (b"INSERT INTO kept VALUES (%s, 'b')", lambda: [(1,), (2,)]),
    "composed": (sql.SQL("INSERT INTO {} VALUES (%s)").format(sql.Identifier("kept")), lambda: [[1], [2]]),
    "nothing": (INSERT, list),
    "no parameters": ("INSERT INTO kept SELECT count(*) FROM kept", lambda: [None, None, ()]),
    "other types": (INSERT, lambda: [(1, "a"), (2, None), (Decimal(3), date(2020, 1, 2)), (5, Json({"a": "b"}))]),
    "quoting": (INSERT, lambda: [(n, "it's \\ %s ; \"\n") for n in range(5)]),
    "literals": ("INSERT INTO kept VALUES (%s, 'x')", lambda: [(AsIs("1 + 1"),), (AsIs("4 * 4"),)]),
    "two statements": ("INSERT INTO kept VALUES (%s); DELETE FROM kept WHERE id = %s", lambda: [(1, 1), (2, 3)]),
    "a semicolon at the end": ("INSERT INTO kept VALUES (%s);  ", lambda: [(1,), (2,)]),
    "in a comment": ("/* INSERT */ -- two\n INSERT INTO kept VALUES (%s)", lambda: [(1,), (2,)]),
    "behind a nested comment": ("/* /* */ INSERT */ SAVEPOINT a%s", lambda: [(1,), (2,)]),
    "returning": ("INSERT INTO kept VALUES (%s) RETURNING id", lambda: [(1,), (2,)]),
    "selected": ("SELECT generate_series(1, %s)", lambda: [(5,), (2,)]),
    "no count": ("SET LOCAL work_mem = %s", lambda: [("4MB",), ("5MB",)]),
    "a mixture of counts": ("%s 1", lambda: [(AsIs(each),) for each in ("SELECT", "SET LOCAL geqo_seed =", "SELECT")]),
    "savepoints": ("SAVEPOINT %s", lambda: [(AsIs("a"),), (AsIs("b"),)]),
    "rolled back": ("INSERT INTO kept VALUES (%s); ROLLBACK", lambda: [(1,)]),
    "ended": ("COMMIT", lambda: [None]),
    "notices": ("SELECT said(%s)", lambda: [(n,) for n in range(60)]),
    "standard strings": (
        "SELECT set_config('bytea_output', %s, true), '\\a'", lambda: [("hex",), ("escape",), ("hex",)]
    ),
    "a set that does not fit": (INSERT, lambda: [(1, "a"), (2, "b"), (3,), (4, "d")]),
    "a first set that does not fit": (INSERT, lambda: [(1,), (2, "b")]),
    "a set without an adapter": (INSERT, lambda: [(1, "a"), (2, Odd())]),
    "NUL": (INSERT, lambda: [(1, "a"), (2, "b\0")]),
    "no iterable": (INSERT, lambda: 5),
    "a duplicate": (INSERT, lambda: [(1, "a"), (2, "b"), (1, "c"), (3, "d")]),
    "a duplicate far behind": (INSERT, lambda: [(n % 1700, "x") for n in range(1800)]),
    "a check": (INSERT, lambda: [(5, "a"), (-5, "b")]),
    "no number": (INSERT, lambda: [(1, "a"), ("x", "b")]),
    "no such table": ("INSERT INTO missing VALUES (%s)", lambda: [(1,), (2,)]),
    "wrong syntax": ("INSERT INTO\n  kept VALUE (%s)", lambda: [(1,), (2,)]),
    "an error behind notices": ("SELECT 1 / (5 - said(%s))", lambda: [(n,) for n in range(9)]),
    "empty": ("", lambda: [None, None]),
}  # fmt: skip


def seen(connection: Any, query: Any, sets: Any, warm: int = 0) -> dict[str, Any]:
    """What executemany has done there, and what it shows."""
    cursor = connection.cursor()
    cursor.execute(TABLE)
    connection.commit()
    for _ in range(warm):
        cursor.execute(INSERT, (1, "a"))
        connection.rollback()
    connection.notices.clear()
    cursor = connection.cursor()
    found: dict[str, Any] = {}
    try:
        cursor.executemany(query, sets())
    except Exception as error:  # noqa: BLE001  that is what is compared
        found["error"] = [each.__name__ for each in type(error).__mro__ if each.__module__.startswith("psycopg2")]
        if isinstance(error, psycopg2.Error):
            found |= {"pgcode": error.pgcode, "text": str(error), "diag": error.diag.message_primary}
            found["position"] = error.diag.statement_position
            found["cursor"] = error.pgcode is None or error.cursor is cursor
        else:
            found["error"] = type(error)
    if "error" not in found or found.get("pgcode"):
        found["rowcount"] = cursor.rowcount  # else psycopg2's is that of the last set that has run
    found |= {"status": cursor.statusmessage, "query": cursor.query}
    found |= {"description": cursor.description, "notices": list(connection.notices)}
    found["transaction"] = connection.get_transaction_status()
    if found["transaction"] != psycopg2.extensions.TRANSACTION_STATUS_INERROR:
        cursor.execute("SELECT * FROM kept ORDER BY id")
        found["rows"] = cursor.fetchall()
    connection.commit()
    cursor.execute("SELECT * FROM kept ORDER BY id")
    found["kept"] = cursor.fetchall()
    connection.rollback()
    return found


@pytest.fixture(params=["plain", "session"])
def connection(request: pytest.FixtureRequest, broker: Broker) -> Iterator[Any]:
    made = psycopg2.connect(broker.address, session=request.param == "session")
    yield made
    made.close()


@pytest.fixture
def theirs(postgres: Postgres) -> Iterator[Any]:
    made = postgres.connect()
    made.autocommit = False
    yield made
    made.close()


@pytest.mark.parametrize("name", MANY)
def test_executemany_does_what_psycopg2s_does(connection: Any, theirs: Any, name: str) -> None:
    expected = seen(theirs, *MANY[name])
    assert seen(connection, *MANY[name]) == expected


@pytest.mark.parametrize("name", ["rows", "a duplicate far behind", "other types", "no number"])
def test_it_does_so_with_statements_that_are_prepared(connection: Any, theirs: Any, name: str) -> None:
    expected = seen(theirs, *MANY[name])
    assert seen(connection, *MANY[name], warm=12) == expected


# How many messages it takes.


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """The kinds of the messages that are sent in leases."""
    kinds: list[type] = []
    call = Calls._call

    def noting(self: Any, channel: Any, message: Any, *rest: Any) -> Any:
        kinds.append(type(message))
        return call(self, channel, message, *rest)

    monkeypatch.setattr(Calls, "_call", noting)
    return kinds


def test_a_thousand_sets_are_one_message(connection: Any, sent: list[type]) -> None:
    cursor = connection.cursor()
    cursor.execute(TABLE)
    connection.commit()
    for before in (None, "SELECT 1"):
        if before:
            cursor.execute(before)
        sent.clear()
        cursor.executemany(INSERT, [(n, "x") for n in range(1000)])
        assert sent == [BatchMessage]
        connection.rollback()
    sent.clear()
    cursor.executemany(INSERT, [(n, "x") for n in range(2001)])
    assert sent == [BatchMessage, BatchMessage, Query]
    cursor.execute("SAVEPOINT a")
    with pytest.raises(psycopg2.errors.UniqueViolation):
        cursor.executemany(INSERT, [(3000, "x"), (3, "x")])
    cursor.execute("ROLLBACK TO a; SELECT count(*) FROM kept")
    assert cursor.fetchone() == (2001,)


def test_large_sets_are_as_many_messages_as_they_need(start_broker: StartBroker, sent: list[type]) -> None:
    broker = start_broker(broker={"max_request_bytes": 20_000})
    connection = psycopg2.connect(broker.address)
    cursor = connection.cursor()
    cursor.execute(TABLE)
    sent.clear()
    cursor.executemany(INSERT, [(n, "x" * size) for n, size in enumerate([4000, 4000, 15000, 10, 10, 9000, 9000])])
    assert sent == [BatchMessage, Query, BatchMessage, Query]
    cursor.execute("SELECT sum(length(name)) FROM kept")
    assert cursor.fetchone() == (4000 * 2 + 15000 + 20 + 18000,)
    with pytest.raises(psycopg2.Error, match="max_request_bytes"):
        cursor.executemany(INSERT, [(100, "x"), (101, "x" * 30000)])
    cursor.execute("SELECT count(*) FROM kept WHERE id = 100")
    assert cursor.fetchone() == (1,)
    connection.close()


def test_sets_with_too_many_words_for_one_message_are_sent_in_parts(connection: Any, sent: list[type]) -> None:
    cursor = connection.cursor()
    sums = [(AsIs(f"{n}" + " + abs(1)" * 70),) for n in range(1000)]
    cursor.execute("SELECT 1")
    sent.clear()
    cursor.executemany("SELECT generate_series(1, 2 + 0 * (%s))", sums)
    assert cursor.rowcount == 2000
    assert 3 <= sent.count(BatchMessage) < 10


def test_a_wide_table_is_no_longer_to_read_for_its_many_rows(connection: Any, sent: list[type]) -> None:
    cursor = connection.cursor()
    columns = ", ".join(f"c{n} int" for n in range(60))
    cursor.execute(f"CREATE TEMP TABLE wide ({columns})")
    for autocommit in (False, True):
        if autocommit and not connection.is_session:
            break
        sent.clear()
        cursor.executemany(f"INSERT INTO wide VALUES ({', '.join(['%s'] * 60)})", [[n] * 60 for n in range(1000)])
        assert (cursor.rowcount, sent) == (1000, [BatchMessage, *([Commit] if autocommit else [])])
        connection.commit()
        connection.autocommit = True


# Autocommit.


def test_in_a_session_with_autocommit_a_message_is_a_transaction(broker: Broker, sent: list[type]) -> None:
    connection = psycopg2.connect(broker.address, session=True, autocommit=True)
    cursor = connection.cursor()
    cursor.execute(TABLE)
    sent.clear()
    cursor.executemany(INSERT, [(n, "x") for n in range(1500)])
    assert sent == [BatchMessage, Commit] * 2
    assert cursor.rowcount == 1500
    with pytest.raises(psycopg2.errors.UniqueViolation):
        cursor.executemany(INSERT, [(2000, "x"), (3, "x")])
    assert connection.autocommit
    assert connection.get_transaction_status() == psycopg2.extensions.TRANSACTION_STATUS_IDLE
    cursor.execute("SELECT count(*), count(DISTINCT xmin::text) FROM kept")
    assert cursor.fetchone() == (1500, 2)
    cursor.execute("BEGIN")
    cursor.executemany(INSERT, [(4000, "x"), (4001, "x")])
    cursor.execute("ROLLBACK")
    cursor.execute("SELECT count(*) FROM kept WHERE id >= 4000")
    assert cursor.fetchone() == (0,)
    connection.close()


def test_the_place_of_an_error_counts_all_sets(broker: Broker, connection: Any) -> None:
    alone = psycopg2.connect(broker.address, autocommit=True)
    cursor = alone.cursor()
    cursor.execute(TABLE)
    sets = [(n if n != 1234 else 7, "x") for n in range(1500)]
    with pytest.raises(psycopg2.errors.UniqueViolation, match=r"^statement 1235 of 1500 \(INSERT") as caught:
        cursor.executemany(INSERT, sets)
    assert caught.value.statement_index == 1234
    cursor.execute("TRUNCATE kept")
    with pytest.raises(psycopg2.errors.UniqueViolation) as caught:
        connection.cursor().executemany(INSERT, sets)
    assert caught.value.statement_index == 1234
    alone.close()


def test_an_iterable_may_give_one_object_again_and_again(broker: Broker) -> None:
    connection = psycopg2.connect(broker.address, autocommit=True)
    cursor = connection.cursor()
    cursor.execute(TABLE)
    cursor.executemany("INSERT INTO kept VALUES (%(id)s, %(name)s)", reused())
    assert cursor.rowcount == 50
    assert cursor.query == b"INSERT INTO kept VALUES (49, 'name 49')"
    connection.close()


# Interruptions.


def test_another_thread_cancels_it(connection: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(TABLE)
    connection.commit()
    errors: list[Exception] = []

    def run() -> None:
        try:
            cursor.executemany("INSERT INTO kept SELECT %s FROM pg_sleep(%s)", [(1, 0), (2, 60), (3, 0)])
        except psycopg2.Error as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: bool(connection._own._calls))
    while thread.is_alive():
        connection.cancel()
        thread.join(0.1)
    (error,) = errors
    assert isinstance(error, psycopg2.errors.QueryCanceled)
    connection.rollback()
    cursor.execute("SELECT count(*) FROM kept")
    assert cursor.fetchone() == (0,)


def test_its_backend_is_lost(connection: Any, theirs: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(TABLE)
    connection.commit()
    with pytest.raises(psycopg2.OperationalError) as caught:
        cursor.executemany(
            "INSERT INTO kept SELECT %s WHERE NOT %s OR pg_terminate_backend(pg_backend_pid())",
            [(1, False), (2, True), (3, False)],
        )
    assert caught.value.outcome == "not executed"
    assert connection.get_transaction_status() == psycopg2.extensions.TRANSACTION_STATUS_UNKNOWN
    assert connection.closed == (2 if connection.is_session else 0)
    if not connection.is_session:
        connection.rollback()
    with theirs.cursor() as other:
        other.execute("SELECT count(*) FROM kept")
        assert other.fetchone() == (0,)
    if not connection.is_session:
        cursor.executemany(INSERT, [(1, "a"), (2, "b")])
        assert cursor.rowcount == 2


# What it shares with others.


def test_settings_travel_with_it(broker: Broker) -> None:
    connection = psycopg2.connect(broker.address, settings={"work_mem": "7MB"})
    cursor = connection.cursor()
    cursor.execute(TABLE)
    connection.commit()
    cursor.executemany("INSERT INTO kept SELECT %s, current_setting('work_mem')", [(1,), (2,)])
    cursor.execute("SELECT name FROM kept")
    assert cursor.fetchall() == [("7MB",), ("7MB",)]
    connection.close()


def test_characteristics_hold_for_it(connection: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(TABLE)
    connection.commit()
    connection.set_session(isolation_level="SERIALIZABLE")
    cursor.executemany("INSERT INTO kept SELECT %s, current_setting('transaction_isolation')", [(1,), (2,)])
    cursor.execute("SELECT DISTINCT name FROM kept")
    assert cursor.fetchall() == [("serializable",)]
    connection.rollback()
    connection.set_session(readonly=True)
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        cursor.executemany(INSERT, [(1, "a"), (2, "b")])
    connection.rollback()


def test_in_a_read_only_group_it_only_reads(start_broker: StartBroker) -> None:
    broker = start_broker(groups={"default": {"read_only": True}})
    connection = psycopg2.connect(broker.address)
    cursor = connection.cursor()
    cursor.executemany("SELECT generate_series(1, %s)", [(1,), (2,)])
    assert cursor.rowcount == 3
    with pytest.raises(psycopg2.Error):
        cursor.executemany("INSERT INTO kept VALUES (%s)", [(1,), (2,)])
    connection.rollback()
    connection.close()


def test_with_read_only_it_only_reads(broker: Broker) -> None:
    maker = psycopg2.connect(broker.address, autocommit=True)
    maker.cursor().execute("CREATE SEQUENCE IF NOT EXISTS numbers")
    maker.close()
    connection = psycopg2.connect(broker.address, read_only=True)
    cursor = connection.cursor()
    cursor.executemany("SELECT generate_series(1, %s)", [(1,), (2,)])
    assert cursor.rowcount == 3
    connection.rollback()
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        cursor.executemany("SELECT nextval(%s)", [("numbers",), ("numbers",)])
    connection.rollback()
    connection.close()


def test_the_helpers_of_extras_go_on_working(connection: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(TABLE)
    extras.execute_batch(cursor, INSERT, [(n, "x") for n in range(250)])
    extras.execute_values(cursor, "INSERT INTO kept VALUES %s", [(n, "x") for n in range(250, 500)])
    cursor.execute("SELECT count(*) FROM kept")
    assert cursor.fetchone() == (500,)
    connection.rollback()
