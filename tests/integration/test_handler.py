"""The Handler's contract: results, rows, transactions, errors, limits, threads, interruptions."""

import contextlib
import copy
import gc
import io
import pickle
import signal
import string
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from brokers import Broker
from postgres import Postgres
from psycopg2 import errorcodes, extensions
from waiting import wait_until

from client import (
    DBConnectionError,
    DBError,
    DBQueryError,
    Handler,
    PoolTimeout,
    ResultTooLarge,
    TransactionLost,
    UnconfiguredGroupError,
    UsageError,
)
from client.errors import Diagnostics

EVERY_TRANSPORT = True
SCHEMA = "handler_test"
TABLES = f"""
CREATE SCHEMA {SCHEMA};
CREATE TABLE {SCHEMA}.parents (id integer PRIMARY KEY, name text NOT NULL CHECK (name <> 'bad'));
CREATE TABLE {SCHEMA}.children (
    id integer PRIMARY KEY,
    parent integer REFERENCES {SCHEMA}.parents DEFERRABLE INITIALLY DEFERRED
);
CREATE TABLE {SCHEMA}.counters (id integer PRIMARY KEY, value integer NOT NULL)
"""


@pytest.fixture(scope="module", autouse=True)
def schema(postgres: Postgres) -> Iterator[None]:
    postgres.execute(TABLES)
    yield
    postgres.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


@pytest.fixture(autouse=True)
def empty_tables(schema: None, postgres: Postgres) -> None:
    postgres.execute(f"TRUNCATE {SCHEMA}.parents, {SCHEMA}.children, {SCHEMA}.counters")


@pytest.fixture
def direct(postgres: Postgres) -> Iterator[extensions.connection]:
    """psycopg2 on a connection of its own."""
    connection = postgres.connect()
    yield connection
    connection.close()


def insert(handler: Handler, number: int, name: str = "somebody") -> None:
    handler.query(f"INSERT INTO {SCHEMA}.parents VALUES (%s, %s)", (number, name))


def leave_by_exception(handler: Handler) -> None:
    with handler as inside:
        insert(inside, 1)
        raise ZeroDivisionError


def ids(postgres: Postgres) -> list[int]:
    """What everybody can see in the table `parents`."""
    return [row[0] for row in postgres.execute(f"SELECT id FROM {SCHEMA}.parents ORDER BY id")]


def numbers(handler: Handler, last: int = 5) -> Any:
    """A result with one column and that many rows."""
    return handler.query("SELECT generate_series(1, %s) AS number", (last,))


def is_running(postgres: Postgres, text: str) -> bool:
    """Whether a statement with this text runs on some backend now."""
    return any(each["state"] == "active" and text in each["query"] for each in postgres.backends())


# Results.


def test_fetchone_gives_one_row_after_the_other_and_then_none(db: Handler) -> None:
    result = numbers(db, 2)
    assert [result.fetchone(), result.fetchone(), result.fetchone(), result.fetchone()] == [(1,), (2,), None, None]


def test_fetchmany_gives_arraysize_rows_or_as_many_as_it_is_asked_for(db: Handler) -> None:
    result = numbers(db, 6)
    assert result.fetchmany() == [(1,)]
    result.arraysize = 2
    assert result.fetchmany() == [(2,), (3,)]
    assert result.fetchmany(0) == []
    assert result.fetchmany(2) == [(4,), (5,)]
    assert result.fetchmany(9) == [(6,)]
    assert result.fetchmany(9) == []


def test_all_ways_to_read_share_one_position(db: Handler) -> None:
    result = numbers(db)
    assert result.fetchone() == (1,)
    for row in result:
        assert row == (2,)
        break
    assert next(result) == (3,)
    assert result.fetchall() == [(4,), (5,)]
    assert (result.fetchone(), result.fetchall(), list(result)) == (None, [], [])


def test_length_index_and_slice_look_without_moving_the_position(db: Handler) -> None:
    result = numbers(db)
    assert len(result) == 5
    assert (result[0], result[-1]) == ((1,), (5,))
    assert result[1:3] == [(2,), (3,)]
    with pytest.raises(IndexError):
        result[5]
    assert result.fetchone() == (1,)


def test_a_result_tells_its_columns_count_and_status(db: Handler) -> None:
    result = db.query("SELECT 1 AS one, 'two'::text AS two UNION ALL SELECT 2, NULL")
    assert result.columns == ("one", "two")
    assert [column.name for column in result.description] == ["one", "two"]
    assert [column.type_code for column in result.description] == [23, 25]
    assert [len(column) for column in result.description] == [7, 7]
    assert result.rowcount == 2
    assert result.statusmessage == "SELECT 2"
    assert repr(result) == "<Result 'SELECT 2' rowcount=2>"


def test_an_empty_result_has_columns_and_no_rows(db: Handler) -> None:
    result = db.query("SELECT 1 AS one WHERE false")
    assert (result.columns, result.rowcount, len(result), result.fetchone(), list(result)) == (("one",), 0, 0, None, [])


def test_a_statement_without_results_has_no_columns_and_reading_it_raises_as_in_psycopg2(db: Handler) -> None:
    result = db.query(f"INSERT INTO {SCHEMA}.parents VALUES (1, 'a'), (2, 'b')")
    assert (result.description, result.columns, result.rowcount, len(result)) == (None, None, 2, 0)
    assert result.statusmessage == "INSERT 0 2"
    reads: list[Callable[[], Any]] = [
        result.fetchone,
        result.fetchmany,
        result.fetchall,
        lambda: list(result),
        lambda: next(result),
        lambda: result[0],
    ]
    for read in reads:
        with pytest.raises(psycopg2.ProgrammingError, match="no results to fetch"):
            read()


def test_a_closed_result_has_no_rows(db: Handler) -> None:
    result = numbers(db)
    result.close()
    assert (len(result), result.fetchone(), result.fetchall()) == (0, None, [])


def test_several_statements_in_one_string_run_in_order_and_give_the_last_ones_result(
    db: Handler, postgres: Postgres
) -> None:
    result = db.query(f"INSERT INTO {SCHEMA}.parents VALUES (1, 'a'); SELECT count(*) AS n FROM {SCHEMA}.parents")
    assert result.fetchall() == [(1,)]
    result = db.query(f"SELECT 1; DELETE FROM {SCHEMA}.parents")
    assert (result.description, result.rowcount) == (None, 1)
    assert ids(postgres) == []


def test_several_statements_in_one_string_are_one_transaction(db: Handler, postgres: Postgres) -> None:
    with pytest.raises(psycopg2.errors.DivisionByZero):
        db.query(f"INSERT INTO {SCHEMA}.parents VALUES (1, 'a'); SELECT 1/0; SELECT 2")
    assert ids(postgres) == []


# Rows.


def test_a_row_answers_to_index_name_and_attribute(db: Handler) -> None:
    row = db.query('SELECT 1 AS id, \'Ann\' AS name, 3 AS "two words", 4 AS "ä"').fetchone()
    assert (row[0], row[-1], row[1:3]) == (1, 4, ("Ann", 3))
    assert (row["id"], row["name"], row["two words"], row["ä"]) == (1, "Ann", 3, 4)
    assert (row.id, row.name, getattr(row, "two words"), row.ä) == (1, "Ann", 3, 4)
    identifier, *rest = row
    assert (identifier, rest, len(row), list(row), "name" in row) == (1, ["Ann", 3, 4], 4, [1, "Ann", 3, 4], True)
    assert repr(row) == "Row(id=1, name='Ann', two words=3, ä=4)"


def test_a_row_is_a_mapping_where_one_is_wanted(db: Handler) -> None:
    row = db.query("SELECT 1 AS id, NULL AS name").fetchone()
    assert dict(row) == {"id": 1, "name": None}
    assert {**row} == {"id": 1, "name": None}
    assert (row.keys(), row.values(), list(row.items())) == (("id", "name"), (1, None), [("id", 1), ("name", None)])
    assert (row.get("id"), row.get("name", 7), row.get("age"), row.get("age", 7)) == (1, None, None, 7)


def test_a_row_without_the_column_says_which_it_has(db: Handler) -> None:
    row = db.query("SELECT 1 AS id, 2 AS name").fetchone()
    with pytest.raises(KeyError, match=r"no column 'nome'; this row has id, name"):
        row["nome"]
    with pytest.raises(AttributeError, match=r"no column 'nome'; this row has id, name"):
        row.nome  # noqa: B018  the attribute is what is tested
    with pytest.raises(IndexError):
        row[2]


def test_a_column_is_reached_even_where_tuples_or_rows_have_an_attribute_of_its_name(db: Handler) -> None:
    row = db.query('SELECT 1 AS count, 2 AS index, 3 AS keys, 4 AS get, 5 AS _names, 6 AS "__class__"').fetchone()
    assert (row.count, row.index) == (1, 2)
    names = ["count", "index", "keys", "get", "_names", "__class__"]
    assert [row[name] for name in names] == [1, 2, 3, 4, 5, 6]
    assert row.keys() == tuple(names)
    assert (row.get("get"), dict(row)["keys"]) == (4, 3)


def test_of_two_columns_with_the_same_name_the_last_one_answers_to_it(db: Handler) -> None:
    row = db.query("SELECT 1 AS a, 2 AS b, 3 AS a").fetchone()
    assert (row["a"], row.a, row[0], tuple(row)) == (3, 3, 1, (1, 2, 3))
    assert dict(row) == {"a": 3, "b": 2}
    assert row.keys() == ("a", "b", "a")


def test_rows_equal_tuples_lists_and_rows_with_the_same_values(db: Handler) -> None:
    row, other = db.query("SELECT 1 AS a, 'x' AS b UNION ALL SELECT 2, 'x'").fetchall()
    assert row == (1, "x")
    assert row == [1, "x"]
    assert row == db.query("SELECT 1 AS c, 'x' AS d").fetchone()
    assert row != other
    assert row != (1, "y")
    assert row != [1]
    assert row != {"a": 1, "b": "x"}
    assert row < other
    assert {row, (1, "x")} == {(1, "x")}


def test_a_scalar_of_rows_without_columns_is_an_error(db: Handler) -> None:
    with pytest.raises(LookupError, match=r"scalar\(\) wants a result with a column"):
        db.query("SELECT FROM generate_series(1, 2)").scalar()
    assert db.query("SELECT FROM generate_series(1, 0)").scalar() is None
    with db.transaction() as tx:
        pending = tx.query("SELECT")
    with pytest.raises(LookupError, match="wants a result with a column"):
        pending.scalar()


def test_rows_survive_pickling_and_copying(db: Handler) -> None:
    row = db.query("SELECT 1 AS id, ARRAY[1, 2] AS list").fetchone()
    for twin in (pickle.loads(pickle.dumps(row)), copy.copy(row), copy.deepcopy(row)):
        assert twin == row
        assert (twin.id, twin["list"]) == (1, [1, 2])


@pytest.mark.parametrize("rows", ["row", "dict"])
def test_results_survive_pickling_and_copying_and_are_read_from_their_first_row(db: Handler, rows: str) -> None:
    numbers = "SELECT n, 'é' AS text FROM generate_series(1, 2000) AS n"
    readings: list[Callable[[Any], Any]] = [lambda _: None, lambda result: result.fetchone(), list, lambda r: r[5]]
    for read in readings:
        result = db.query(numbers, rows=rows)
        read(result)
        wanted = db.query(numbers, rows=rows).fetchall()
        for twin in (pickle.loads(pickle.dumps(result)), copy.copy(result), copy.deepcopy(result)):
            assert twin.fetchall() == wanted
            assert (twin.rowcount, twin.statusmessage, twin.columns) == (2000, "SELECT 2000", ("n", "text"))
            assert twin.description == result.description
    made = db.query("DO $$ BEGIN RAISE NOTICE 'n'; END $$")
    twin = pickle.loads(pickle.dumps(made))
    assert (twin.notices, twin.columns, twin.statusmessage) == (made.notices, None, "DO")
    assert twin.notices


# Autocommit.


def test_in_an_autocommit_group_each_statement_is_committed_at_once(db: Handler, postgres: Postgres) -> None:
    assert db.autocommit is True
    insert(db, 1)
    assert ids(postgres) == [1]
    assert db.in_transaction is False
    db.rollback()
    db.commit()
    assert ids(postgres) == [1]


def test_in_an_autocommit_group_leaving_the_block_by_an_exception_takes_nothing_back(
    broker: Broker, postgres: Postgres
) -> None:
    with pytest.raises(ZeroDivisionError):
        leave_by_exception(broker.handler("default"))
    assert ids(postgres) == [1]


@pytest.mark.parametrize("statement", ["BEGIN", "START TRANSACTION", "SELECT 1; BEGIN"])
def test_a_transaction_left_open_in_an_autocommit_group_is_refused_and_rolled_back(
    db: Handler, postgres: Postgres, statement: str
) -> None:
    with pytest.raises(UsageError, match=r"Handler\(autocommit=False\)"):
        db.query(f"{statement}; INSERT INTO {SCHEMA}.parents VALUES (1, 'a')")
    insert(db, 2)
    assert ids(postgres) == [2]
    assert all(each["state"] != "idle in transaction" for each in postgres.backends())


def test_a_whole_transaction_in_one_string_is_fine_in_an_autocommit_group(db: Handler, postgres: Postgres) -> None:
    db.query(f"BEGIN; INSERT INTO {SCHEMA}.parents VALUES (1, 'a'); COMMIT")
    db.query(f"BEGIN; INSERT INTO {SCHEMA}.parents VALUES (2, 'a'); ROLLBACK")
    assert ids(postgres) == [1]


# Transactions.


def test_a_transaction_lasts_from_the_first_statement_to_commit(tx: Handler, postgres: Postgres) -> None:
    assert (tx.autocommit, tx.in_transaction) == (False, False)
    insert(tx, 1)
    insert(tx, 2)
    assert tx.in_transaction is True
    assert ids(postgres) == []
    tx.commit()
    assert tx.in_transaction is False
    assert ids(postgres) == [1, 2]


def test_a_transaction_keeps_its_backend_and_its_moment(tx: Handler) -> None:
    statement = "SELECT pg_backend_pid(), now(), txid_current()"
    assert tx.query(statement).fetchone() == tx.query(statement).fetchone()


def test_rollback_takes_everything_back_and_the_handler_goes_on(tx: Handler, postgres: Postgres) -> None:
    insert(tx, 1)
    tx.rollback()
    assert tx.in_transaction is False
    insert(tx, 2)
    tx.commit()
    assert ids(postgres) == [2]


def test_commit_and_rollback_without_a_transaction_do_nothing(tx: Handler) -> None:
    tx.commit()
    tx.rollback()
    assert tx.query("SELECT 1").fetchone() == (1,)


def test_leaving_the_block_commits(broker: Broker, postgres: Postgres) -> None:
    with broker.handler("transactions") as tx:
        insert(tx, 1)
    assert tx.in_transaction is False
    assert ids(postgres) == [1]


def test_leaving_the_block_by_an_exception_rolls_back(broker: Broker, postgres: Postgres) -> None:
    tx = broker.handler("transactions")
    with pytest.raises(ZeroDivisionError):
        leave_by_exception(tx)
    assert tx.in_transaction is False
    assert ids(postgres) == []


def test_leaving_the_block_by_a_statements_error_rolls_back(broker: Broker, postgres: Postgres) -> None:
    insert(broker.handler("default"), 1)
    with pytest.raises(psycopg2.errors.UniqueViolation), broker.handler("transactions") as tx:
        tx.query(f"INSERT INTO {SCHEMA}.parents VALUES (2, 'a'); INSERT INTO {SCHEMA}.parents VALUES (1, 'a')")
    assert ids(postgres) == [1]
    assert broker.pool("transactions")["leased"] == 0


def test_a_handler_serves_one_block_after_the_other(broker: Broker, postgres: Postgres) -> None:
    tx = broker.handler("transactions")
    for number in (1, 2):
        with tx:
            insert(tx, number)
    assert ids(postgres) == [1, 2]


def test_two_handlers_of_one_thread_are_isolated_from_each_other(broker: Broker) -> None:
    with broker.handler("transactions") as one, broker.handler("transactions") as other:
        insert(one, 1)
        count = f"SELECT count(*) FROM {SCHEMA}.parents"
        assert (one.query(count).fetchone(), other.query(count).fetchone()) == ((1,), (0,))
        assert one.query("SELECT pg_backend_pid()").fetchone() != other.query("SELECT pg_backend_pid()").fetchone()
        one.commit()
        assert other.query(count).fetchone() == (1,)


def test_after_an_error_the_transaction_is_failed_until_rollback(tx: Handler, postgres: Postgres) -> None:
    insert(tx, 1)
    with pytest.raises(psycopg2.errors.DivisionByZero):
        tx.query("SELECT 1/0")
    assert tx.in_transaction is True
    with pytest.raises(psycopg2.errors.InFailedSqlTransaction):
        tx.query("SELECT 1")
    tx.rollback()
    assert tx.query("SELECT 1").fetchone() == (1,)
    assert ids(postgres) == []


def test_commit_of_a_failed_transaction_raises_and_nothing_is_committed(
    broker: Broker, tx: Handler, postgres: Postgres
) -> None:
    insert(tx, 1)
    with pytest.raises(psycopg2.errors.DivisionByZero):
        tx.query("SELECT 1/0")
    with pytest.raises(psycopg2.errors.InFailedSqlTransaction, match="nothing was committed") as caught:
        tx.commit()
    assert (caught.value.pgcode, caught.value.outcome) == ("25P02", "failed")
    assert tx.in_transaction is False
    assert ids(postgres) == []
    assert broker.pool("transactions")["leased"] == 0
    insert(tx, 2)
    tx.commit()
    assert ids(postgres) == [2]


def test_leaving_the_block_of_a_failed_transaction_raises(broker: Broker) -> None:
    tx = broker.handler("transactions")
    with pytest.raises(psycopg2.errors.DivisionByZero):
        tx.query("SELECT 1/0")
    with pytest.raises(psycopg2.errors.InFailedSqlTransaction), tx:
        pass
    assert broker.pool("transactions")["leased"] == 0


def test_a_savepoint_saves_a_transaction_from_an_error(tx: Handler, postgres: Postgres) -> None:
    insert(tx, 1)
    tx.query("SAVEPOINT here")
    with pytest.raises(psycopg2.errors.UniqueViolation):
        insert(tx, 1)
    tx.query("ROLLBACK TO here")
    insert(tx, 2)
    tx.commit()
    assert ids(postgres) == [1, 2]


@pytest.mark.parametrize(("ending", "expected"), [("COMMIT", [1]), ("ROLLBACK", []), ("END", [1]), ("ABORT", [])])
def test_a_programs_own_commit_or_rollback_ends_the_transaction(
    broker: Broker, tx: Handler, postgres: Postgres, ending: str, expected: list[int]
) -> None:
    insert(tx, 1)
    tx.query(ending)
    assert tx.in_transaction is False
    assert broker.pool("transactions")["leased"] == 0
    assert ids(postgres) == expected
    tx.commit()
    tx.rollback()
    assert ids(postgres) == expected


def test_a_programs_own_commit_and_chain_goes_on_with_the_next_transaction(tx: Handler, postgres: Postgres) -> None:
    insert(tx, 1)
    tx.query("COMMIT AND CHAIN")
    assert tx.in_transaction is True
    insert(tx, 2)
    tx.rollback()
    assert ids(postgres) == [1]


def test_a_deferred_constraint_raises_at_commit_and_the_backend_is_free_again(
    broker: Broker, tx: Handler, postgres: Postgres
) -> None:
    insert(tx, 1)
    tx.query(f"INSERT INTO {SCHEMA}.children VALUES (1, 99)")
    with pytest.raises(psycopg2.errors.ForeignKeyViolation) as caught:
        tx.commit()
    assert caught.value.diag.constraint_name == "children_parent_fkey"
    assert tx.in_transaction is False
    assert ids(postgres) == []
    assert broker.pool("transactions")["leased"] == 0


def test_a_deferred_constraint_raises_when_the_block_is_left(broker: Broker) -> None:
    with pytest.raises(psycopg2.errors.ForeignKeyViolation), broker.handler("transactions") as tx:
        tx.query(f"INSERT INTO {SCHEMA}.children VALUES (1, 99)")


def test_a_first_statement_that_fails_leaves_a_failed_transaction(tx: Handler) -> None:
    with pytest.raises(psycopg2.errors.UndefinedTable):
        tx.query("SELECT * FROM nowhere")
    assert tx.in_transaction is True
    tx.rollback()
    assert tx.query("SELECT 1").fetchone() == (1,)


def test_what_literals_rely_on_cannot_be_set(broker: Broker, db: Handler) -> None:
    before = broker.pool()["closed"]
    settings = {"standard_conforming_strings": "off", "client_encoding": "LATIN1", "DateStyle": "SQL, DMY"}
    for closed, (name, value) in enumerate(settings.items(), before + 1):
        with pytest.raises(UsageError, match=name):
            db.query("SELECT set_config(%s, %s, false), 1 AS more", (name, value))
        assert broker.pool()["closed"] == closed
        shown = db.query("SELECT %s, '2024-02-03'::date::text, %s", ("\\'", "ä")).fetchone()
        assert shown == ("\\'", "2024-02-03", "ä")


def test_what_sets_what_literals_rely_on_is_refused_and_its_transaction_goes_on(
    tx: Handler, postgres: Postgres
) -> None:
    insert(tx, 1)
    with pytest.raises(UsageError, match="standard_conforming_strings") as caught:
        tx.query("SET LOCAL standard_conforming_strings = off")
    assert caught.value.outcome == "not executed"
    assert tx.in_transaction is True
    assert tx.query("SELECT current_setting('standard_conforming_strings'), %s", ("\\",))[0] == ("on", "\\")
    insert(tx, 2)
    tx.commit()
    assert ids(postgres) == [1, 2]


@pytest.mark.parametrize("direction", ["TO STDOUT", "FROM STDIN"])
@pytest.mark.parametrize("group", ["default", "transactions"])
def test_copy_gives_an_error_and_the_broker_goes_on(broker: Broker, direction: str, group: str) -> None:
    handler = broker.handler(group)
    for _ in range(5):
        with pytest.raises(DBError) as caught:
            handler.query(f"COPY {SCHEMA}.parents {direction}")
        assert isinstance(caught.value, psycopg2.Error)
        handler.rollback()
    assert handler.query("SELECT 1").fetchone() == (1,)
    handler.rollback()
    wait_until(lambda: broker.pool(group)["connecting"] == 0, what="the backends in place of those in COPY")
    assert broker.pool(group)["size"] <= 4


def test_notices_and_notifications_are_harmless(db: Handler) -> None:
    db.query("LISTEN somewhere; NOTIFY somewhere, 'something'; UNLISTEN *")
    result = db.query("DO $$ BEGIN FOR i IN 1..1000 LOOP RAISE WARNING 'number % ä', i; END LOOP; END $$; SELECT 1")
    assert result.fetchall() == [(1,)]
    assert db.query("SELECT 2").fetchone() == (2,)


# Errors.


def raised(code: str, more: str = "") -> str:
    """A statement that raises an error with this SQLSTATE."""
    return f"DO $$ BEGIN RAISE EXCEPTION 'raised ä' USING ERRCODE = '{code}'{more}; END $$"


ERRORS = [
    "SELECT 1/0",
    "SELECT * FROM nowhere",
    "SELECT nothing FROM generate_series(1, 2)",
    "SELEKT 1",
    "SELECT 1 +\n  2 +\n  nothing + 4",
    "SELECT 'ä'::integer",
    "SELECT 10::numeric ^ 1000000",
    "SELECT 'abc'::varchar(2)::char(1) || repeat('x', 1073741824)",
    "SELECT (SELECT 1 UNION SELECT 2)",
    f"INSERT INTO {SCHEMA}.parents VALUES (1, 'a'), (1, 'b')",
    f"INSERT INTO {SCHEMA}.parents VALUES (1, NULL)",
    f"INSERT INTO {SCHEMA}.parents VALUES (1, 'bad')",
    f"INSERT INTO {SCHEMA}.children VALUES (1, 1)",
    "SET LOCAL statement_timeout = 'soon'",
    "CREATE DATABASE template1",
    "VACUUM; SELECT 1",
    "SELECT nextval('no_such_sequence')",
    "SELECT pg_catalog.set_config('no', NULL, false, 1)",
    "SELECT * FROM pg_read_file('/no/such/file')",
    "SELECT '{'::json",
    "SELECT ARRAY[1, 'a']",
    raised("P0001"),
    raised("P0001", ", DETAIL = 'detail', HINT = 'hint', TABLE = 't', COLUMN = 'c', SCHEMA = 's', DATATYPE = 'd'"),
    raised("XY123"),
    raised("22XYZ"),
    raised("40001"),
    raised("57P01"),
    "DO $$ BEGIN PERFORM 1/0; END $$",
    "DO $$ BEGIN EXECUTE 'SELEKT 1'; END $$",
    "DO $$ BEGIN RAISE EXCEPTION E'two\\nlines\\n'; END $$",
    "DO $$ BEGIN RAISE EXCEPTION ''; END $$",
]


def seen(error: Any) -> dict[str, Any]:
    """All that a program can see of an error of PostgreSQL."""
    diag = {name: getattr(error.diag, name) for name in Diagnostics.FIELDS}
    return {"text": str(error), "pgcode": error.pgcode, "pgerror": error.pgerror, **diag}


def errors_of(db: Handler, direct: extensions.connection, statement: str) -> tuple[Any, Any]:
    """The error of poold and the error of psycopg2."""
    with direct.cursor() as cursor, pytest.raises(psycopg2.Error) as theirs:
        cursor.execute(statement)
    with pytest.raises(DBQueryError) as ours:
        db.query(statement)
    return ours.value, theirs.value


@pytest.mark.parametrize("statement", ERRORS)
def test_an_error_is_what_psycopg2_would_have_raised(
    db: Handler, direct: extensions.connection, statement: str
) -> None:
    ours, theirs = errors_of(db, direct, statement)
    assert isinstance(ours, type(theirs))
    assert type(ours).__name__ == type(theirs).__name__
    assert seen(ours) == seen(theirs)
    assert ours.outcome == "failed"


def test_every_sqlstate_is_of_the_class_it_has_in_psycopg2(db: Handler, direct: extensions.connection) -> None:
    known = {code for name, code in vars(errorcodes).items() if name.isupper() and len(str(code)) == 5}
    # Two characters are the class: of each that can be, one that psycopg2 has no name for.
    characters = string.digits + string.ascii_uppercase
    unknown = {f"{first}{second}Q9Z" for first in characters for second in characters}
    assert len(known) > 200
    wrong = {}
    for code in sorted((known | unknown) - {"00000"}):
        ours, theirs = errors_of(db, direct, raised(code))
        assert (ours.pgcode, str(ours)) == (code, str(theirs))
        if not isinstance(ours, type(theirs)):
            wrong[code] = f"{type(ours).__name__}, not {type(theirs).__name__}"
    assert wrong == {}


@pytest.mark.parametrize("statement", ERRORS)
def test_an_error_survives_pickling(db: Handler, statement: str) -> None:
    with pytest.raises(DBQueryError) as caught:
        db.query(statement)
    twin = pickle.loads(pickle.dumps(caught.value))
    assert type(twin) is type(caught.value)
    assert (seen(twin), twin.outcome, twin.retryable) == (
        seen(caught.value),
        caught.value.outcome,
        caught.value.retryable,
    )


def test_pickled_errors_are_understood_by_another_process(db: Handler, start_worker: Any) -> None:
    with pytest.raises(psycopg2.errors.DivisionByZero) as caught:
        db.query("SELECT 1/0")
    worker = start_worker(
        "import pickle, psycopg2.errors\n"
        "error = pickle.loads(bytes.fromhex(sys.stdin.readline()))\n"
        "tell([isinstance(error, psycopg2.errors.DivisionByZero), error.pgcode, str(error)])\n"
    )
    worker.say(pickle.dumps(caught.value).hex())
    assert worker.hear() == [True, "22012", str(caught.value)]


def test_only_lost_races_and_what_was_not_executed_are_retryable(db: Handler) -> None:
    retryable = {}
    for code in ("40001", "40P01", "23505", "57014"):
        with pytest.raises(DBQueryError) as caught:
            db.query(raised(code))
        error = caught.value
        retryable[code] = (error.retryable, error.is_safe_to_repeat, error.is_transient)
    safe = (False, True, False)
    assert retryable == {"40001": (True, True, True), "40P01": (True, True, True), "23505": safe, "57014": safe}


def test_an_unknown_group_is_refused_with_the_names_of_those_there_are(broker: Broker) -> None:
    known = r"no group 'nowhere' for this client; it has default, transactions"
    with pytest.raises(UnconfiguredGroupError, match=known):
        broker.handler("nowhere").query("SELECT 1")


def test_without_a_broker_the_error_says_the_address_and_how_to_start_one(tmp_path: Any) -> None:
    address = f"ipc://{tmp_path}/nobody"
    with pytest.raises(DBConnectionError) as caught:
        Handler(address=address).query("SELECT 1")
    assert str(caught.value) == (
        f"no poold broker answers at {address}; start one there with: poold start --address {address}"
    )
    assert (caught.value.outcome, caught.value.retryable) == ("not executed", True)
    assert isinstance(caught.value, psycopg2.OperationalError)


def test_a_handler_goes_on_when_its_broker_is_back(start_broker: Any) -> None:
    broker = start_broker()
    db, tx = broker.handler("default"), broker.handler("transactions")
    assert db.query("SELECT 1").fetchone() == (1,)
    tx.query("SELECT 1")
    broker.kill()
    with pytest.raises(DBConnectionError):
        db.query("SELECT 2")
    broker.start()
    assert db.query("SELECT 3").fetchone() == (3,)
    with pytest.raises(TransactionLost, match="went away"):
        tx.query("SELECT 4")
    tx.rollback()
    assert tx.query("SELECT 5").fetchone() == (5,)


# Time.


@pytest.fixture
def narrow(start_broker: Any) -> Broker:
    """A broker whose groups have one backend each, on an endpoint with a short query_timeout."""
    one = {"max_size": 1, "queue_timeout": 20}
    return start_broker(groups={"default": {**one, "autocommit": True}, "transactions": {**one, "autocommit": False}})


def test_a_statement_beyond_its_timeout_is_canceled_and_its_backend_serves_on(narrow: Broker) -> None:
    db = narrow.handler()
    backend = db.query("SELECT pg_backend_pid()").fetchone()
    with pytest.raises(psycopg2.errors.QueryCanceled, match=r"timeout of 0\.2 s"):
        db.query("SELECT pg_sleep(60)", timeout=0.2)
    assert db.query("SELECT pg_backend_pid()").fetchone() == backend
    assert narrow.pool()["opened"] == 1


def test_a_statement_beyond_its_timeout_fails_its_transaction(narrow: Broker, postgres: Postgres) -> None:
    tx = narrow.handler("transactions")
    insert(tx, 1)
    with pytest.raises(psycopg2.errors.QueryCanceled):
        tx.query("SELECT pg_sleep(60)", timeout=0.2)
    with pytest.raises(psycopg2.errors.InFailedSqlTransaction):
        tx.query("SELECT 1")
    tx.rollback()
    insert(tx, 2)
    tx.commit()
    assert ids(postgres) == [2]
    assert narrow.pool("transactions")["opened"] == 1


def test_a_statement_beyond_its_timeout_in_the_queue_does_not_run(narrow: Broker, postgres: Postgres) -> None:
    with narrow.handler("transactions") as holder:
        holder.query("SELECT 1")
        waiter = narrow.handler("transactions")
        with pytest.raises(PoolTimeout) as caught:
            waiter.query(f"INSERT INTO {SCHEMA}.parents VALUES (1, 'a')", timeout=0.2)
        assert (caught.value.outcome, waiter.in_transaction) == ("not executed", False)
    insert(waiter, 2)
    waiter.commit()
    assert ids(postgres) == [2]


def test_query_timeout_of_the_endpoint_bounds_every_statement(start_broker: Any, postgres: Postgres) -> None:
    broker = start_broker(endpoints={"main": {**postgres.parameters, "query_timeout": 0.3}})
    with pytest.raises(psycopg2.errors.QueryCanceled, match="statement timeout"):
        broker.handler().query("SELECT pg_sleep(60)")
    with pytest.raises(psycopg2.errors.QueryCanceled, match="statement timeout"):
        broker.handler("transactions").query("SELECT pg_sleep(60)")


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e12, True, "5", b"5", [5]])
def test_a_timeout_that_is_none_is_refused(db: Handler, timeout: Any) -> None:
    for call in (
        lambda: db.transaction(timeout=timeout),
        lambda: db.run(["SELECT 1"], timeout=timeout),
        lambda: db.copy_in("COPY t FROM STDIN", b"", timeout=timeout),
        lambda: db.copy_out("COPY t TO STDOUT", io.BytesIO(), timeout=timeout),
        lambda: db.stream("SELECT 1", timeout=timeout),
        lambda: db.session().query("SELECT 1", timeout=timeout),
        lambda: db.query_prepared((1,), timeout),
    ):
        with pytest.raises(ValueError, match=r"timeout is .*; expected seconds, above 0 and up to 31622400, or None"):
            call()
    with pytest.raises(ValueError, match="timeout is"):
        db.query("SELECT 1", timeout=timeout)


# What one client does to others, or to itself.


def test_no_client_can_spoil_the_intervals_of_others(narrow: Broker) -> None:
    # psycopg2 reads intervals in PostgreSQL's own style only.
    with contextlib.suppress(UsageError):
        narrow.handler().query("SET IntervalStyle = 'iso_8601'")
    assert narrow.handler().query("SELECT '1 day 02:00'::interval").fetchone() == (timedelta(days=1, hours=2),)


@pytest.mark.parametrize("tag", ["x" * 129, "a\0b", "\ud800"], ids=["long", "NUL", "surrogate"])
def test_a_tag_that_cannot_be_sent_is_refused_in_the_client(broker: Broker, tag: str) -> None:
    before = broker.stats()["protocol_violations"]
    for group in ("default", "transactions"):
        with pytest.raises(ValueError):  # noqa: PT011  UnicodeEncodeError is one as well
            broker.handler(group, tag=tag).query("SELECT 1")
    assert broker.stats()["protocol_violations"] == before


# Size.


@pytest.fixture
def small(start_broker: Any) -> Broker:
    """A broker with small limits."""
    return start_broker(broker={"max_request_bytes": 10_000, "max_result_bytes": 100_000})


@pytest.mark.parametrize(
    "result",
    ["repeat('x', 100000)", "repeat('x', 100) FROM generate_series(1, 990)", "1 FROM generate_series(1, 100000)"],
    ids=["one cell", "some rows", "many rows"],
)
def test_a_result_above_the_limit_is_refused_and_its_statement_was_executed(
    small: Broker, postgres: Postgres, result: str
) -> None:
    statement = f"INSERT INTO {SCHEMA}.parents VALUES (%s, 'a'); SELECT {result}"
    db, tx = small.handler("default"), small.handler("transactions")
    for handler, number in ((db, 1), (tx, 2)):
        with pytest.raises(ResultTooLarge, match=r"100000 bytes \(max_result_bytes") as caught:
            handler.query(statement, (number,))
        assert (caught.value.outcome, caught.value.retryable) == ("executed", False)
        assert handler.query("SELECT repeat('x', 99000)").fetchone() == ("x" * 99000,)
    tx.commit()
    assert ids(postgres) == [1, 2]


def test_a_request_above_the_limit_is_refused_in_the_client(small: Broker) -> None:
    db, tx = small.handler("default"), small.handler("transactions")
    for handler in (db, tx):
        with pytest.raises(UsageError, match=r"the broker takes at most 10000 \(max_request_bytes\)"):
            handler.query("SELECT %s", ("x" * 10_000,))
        assert handler.in_transaction is False
    assert [small.group(name)["requests"] for name in ("default", "transactions")] == [0, 0]
    tx.query("SELECT 1")
    with pytest.raises(UsageError, match="max_request_bytes"):
        tx.query("SELECT %s", ("x" * 10_000,))
    assert tx.query("SELECT %s", ("x" * 9_000,)).fetchone() == ("x" * 9_000,)
    tx.commit()
    assert small.stats()["protocol_violations"] == 0


def test_twenty_megabytes_arrive_intact(db: Handler) -> None:
    cell = "0123456789" * 2_000_000
    assert db.query("SELECT repeat('0123456789', 2000000) AS it").fetchone().it == cell


def test_a_hundred_thousand_rows_arrive_intact(db: Handler) -> None:
    result = db.query("SELECT n, 'row ' || n FROM generate_series(1, 100000) AS n")
    assert result.rowcount == 100_000
    assert result.fetchall() == [(n, f"row {n}") for n in range(1, 100_001)]


@pytest.mark.parametrize("count", [999, 1000, 1001, 2000, 65535, 65536])
def test_results_of_any_number_of_rows_are_complete(db: Handler, count: int) -> None:
    assert [row[0] for row in numbers(db, count)] == list(range(1, count + 1))


def test_a_row_may_have_as_many_columns_as_postgresql_allows(db: Handler) -> None:
    row = db.query(f"SELECT {', '.join(f'{n} AS c{n}' for n in range(1664))}").fetchone()
    assert (tuple(row), row.c1663) == (tuple(range(1664)), 1663)


def test_a_statement_of_five_megabytes_arrives_intact(db: Handler) -> None:
    text = "äbc'\\" * 1_000_000
    assert db.query("SELECT %s AS it", (text,)).fetchone().it == text


# Threads.


def in_threads(work: Callable[[int], Any], count: int = 8) -> list[Any]:
    """The results of work(0), work(1), ... of as many threads that began at the same moment."""
    together = threading.Barrier(count)

    def begin(number: int) -> Any:
        together.wait(timeout=60)
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(begin, range(count)))


def test_threads_share_a_handler_and_each_gets_its_own_answers(db: Handler) -> None:
    def work(number: int) -> list[int]:
        wanted = [number * 1000 + step for step in range(100)]
        assert [db.query("SELECT %s", (value,)).fetchone()[0] for value in wanted] == wanted
        return wanted

    assert sum(map(len, in_threads(work))) == 800


def test_transactions_of_threads_lose_no_update(broker: Broker, postgres: Postgres) -> None:
    postgres.execute(f"INSERT INTO {SCHEMA}.counters VALUES (1, 0)")

    def work(_: int) -> None:
        tx = broker.handler("transactions")
        for _ in range(20):
            with tx:
                value = tx.query(f"SELECT value FROM {SCHEMA}.counters WHERE id = 1 FOR UPDATE").fetchone().value
                tx.query(f"UPDATE {SCHEMA}.counters SET value = %s WHERE id = 1", (value + 1,))

    in_threads(work)
    assert postgres.execute(f"SELECT value FROM {SCHEMA}.counters") == [(160,)]


def test_a_transaction_may_be_used_by_one_thread_after_the_other(tx: Handler, postgres: Postgres) -> None:
    count = f"SELECT count(*), pg_backend_pid() FROM {SCHEMA}.parents"
    for number in range(1, 4):
        thread = threading.Thread(target=insert, args=(tx, number))
        thread.start()
        thread.join()  # the transaction outlives the thread that began it
    assert tx.in_transaction is True
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.submit(tx.query, count).result(), tx.query(count)
        assert first.fetchone() == second.fetchone()
        threads.submit(tx.commit).result()
    assert tx.in_transaction is False
    assert ids(postgres) == [1, 2, 3]


def test_two_threads_at_once_in_one_transaction_are_refused_with_what_to_do(tx: Handler, postgres: Postgres) -> None:
    insert(tx, 1)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(tx.query, "SELECT 'long', pg_sleep(2)")
        wait_until(lambda: is_running(postgres, "'long'"), what="the other thread's statement")
        for use in (lambda: tx.query("SELECT 1"), tx.commit, tx.rollback):
            with pytest.raises(UsageError, match=r"in the middle of a call.* use another Handler") as caught:
                use()
            assert (caught.value.outcome, caught.value.retryable) == ("not executed", False)
        assert waiting.result().fetchone()[0] == "long"
    assert tx.query(f"SELECT count(*) FROM {SCHEMA}.parents").fetchone() == (1,)


def test_a_handler_that_is_forgotten_after_its_thread_ended_frees_its_backend(
    broker: Broker, postgres: Postgres
) -> None:
    def work() -> None:
        insert(broker.handler("transactions"), 1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    wait_until(lambda: broker.pool("transactions")["leased"] == 0, what="the end of the forgotten transaction")
    assert ids(postgres) == []


# Ends.


def test_a_handler_that_is_forgotten_inside_a_transaction_frees_its_backend(broker: Broker, postgres: Postgres) -> None:
    handler = broker.handler("transactions")
    insert(handler, 1)
    assert broker.pool("transactions")["leased"] == 1
    del handler
    gc.collect()
    wait_until(lambda: broker.pool("transactions")["leased"] == 0, what="the end of the forgotten transaction")
    assert ids(postgres) == []


INTERRUPTED = """
from client import Handler

db = Handler(sys.argv[1])
db.query("INSERT INTO handler_test.parents VALUES (1, 'a')")
tell("ready")
try:
    db.query("SELECT pg_sleep(60), 'interrupt me'", timeout=100)
except KeyboardInterrupt:
    tell("interrupted")
db.rollback()
tell(db.query("SELECT 'alive'").fetchone()[0])
db.commit()
"""


@pytest.mark.parametrize(("group", "expected"), [("default", [1]), ("transactions", [])])
def test_an_interrupted_query_is_canceled_and_the_handler_goes_on(
    start_broker: Any, start_worker: Any, postgres: Postgres, group: str, expected: list[int]
) -> None:
    broker = start_broker(endpoints={"main": {**postgres.parameters, "query_timeout": 60}})
    worker = start_worker(INTERRUPTED, group, address=broker.address)
    assert worker.hear() == "ready"
    wait_until(lambda: is_running(postgres, "interrupt me"), what="the statement to be interrupted")
    worker.signal(signal.SIGINT)
    assert worker.finish() == ["interrupted", "alive"]
    wait_until(lambda: not is_running(postgres, "interrupt me"), what="the end of the interrupted statement")
    assert ids(postgres) == expected
    assert broker.group(group)["withdrawn"] == 1
