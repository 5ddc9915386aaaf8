"""Transaction messages for real: what they return, what they refuse, and what is left in the tables."""

from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import md5
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from brokers import Broker, listening
from postgres import Postgres

import client
from client import Handler, PendingResult

EVERY_TRANSPORT = True
SCHEMA = "transactions_test"
TABLES = f"""
CREATE SCHEMA {SCHEMA};
SET search_path = {SCHEMA};
CREATE TYPE mood AS ENUM ('sad', 'it''s ok');
CREATE TYPE pair AS (first integer, second text);
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int, note text);
CREATE TABLE items (order_id bigint REFERENCES orders DEFERRABLE INITIALLY DEFERRED, sku text UNIQUE, n int DEFAULT 1);
CREATE TABLE accounts (id int PRIMARY KEY, balance int CHECK (balance >= 0));
CREATE FUNCTION say(what text) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN RAISE NOTICE '%', what; RETURN what; END $$;
"""
GROUPS = {
    "default": {"max_size": 3},
    "leases": {"autocommit": False, "max_size": 3},
    "literals": {"prepare": "off"},
    "reading": {"read_only": True},
    "single": {"max_size": 1},
}


@pytest.fixture(scope="module")
def broker(transport: str, postgres: Postgres) -> Iterator[Broker]:
    """A broker whose backends look for tables in this module's schema, and for deadlocks soon."""
    postgres.execute(TABLES)
    options = f"-c search_path={SCHEMA} -c deadlock_timeout=50ms"
    settings = {"max_result_bytes": 100_000, **listening(transport)}
    made = Broker({"main": {**postgres.parameters, "options": options}}, GROUPS, settings)
    try:
        yield made.start()
    finally:
        made.close()
        postgres.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


@pytest.fixture
def db(broker: Broker, postgres: Postgres) -> Handler:
    """A Handler, and the tables as each test wants them."""
    postgres.execute(
        f"SET search_path = {SCHEMA}; TRUNCATE orders, items, accounts RESTART IDENTITY;"
        " INSERT INTO accounts VALUES (1, 100), (2, 100)"
    )
    return broker.handler()


# What a block raises, its end does; so the whole block stands inside.
block_raises = pytest.raises


def rows(db: Handler, table: str) -> list[tuple[Any, ...]]:
    """What is in the table for everybody."""
    return [tuple(row) for row in db.query(f"SELECT * FROM {table} ORDER BY 1, 2")]


ADD_ORDER = "INSERT INTO orders (customer, note) VALUES (%s, %s) RETURNING id"
ADD_ITEM = "INSERT INTO items (order_id, sku) VALUES (%s, %s)"
DRAW = "UPDATE accounts SET balance = balance - %s WHERE id = %s"


# What a block returns.


def test_each_statement_has_the_result_that_it_has_by_itself(db: Handler) -> None:
    with db.transaction() as tx:
        made = tx.query("CREATE TABLE made (id int, name varchar(5), price numeric(8, 2))")
        filled = tx.query("INSERT INTO made VALUES (%s, %s, %s), (2, NULL, NULL)", (1, "one", 1.5))
        read = tx.query("SELECT *, now() AS at FROM made ORDER BY id")
        none = tx.query("SELECT * FROM made WHERE false")
        tx.query("DROP TABLE made")
        same = tx.query("SELECT now() AS at")
    assert (made.statusmessage, made.rowcount, made.description) == ("CREATE TABLE", -1, None)
    assert (filled.statusmessage, filled.rowcount, filled.columns) == ("INSERT 0 2", 2, None)
    assert (read.statusmessage, read.rowcount, read.columns) == ("SELECT 2", 2, ("id", "name", "price", "at"))
    assert read.description is not None
    assert [column.name for column in read.description] == ["id", "name", "price", "at"]
    assert [tuple(row)[:3] for row in read] == [(1, "one", pytest.approx(1.5)), (2, None, None)]
    assert (none.rowcount, none.fetchall(), len(none)) == (0, [], 0)
    assert read[0].at == same["at"], "all run in one transaction"
    assert tx.tries == 1


def test_run_takes_a_list_of_statements_and_returns_their_results(db: Handler) -> None:
    results = db.run([(DRAW, (30, 1), 1), "SELECT sum(balance) FROM accounts", (DRAW, (20, 2))])
    assert [result.rowcount for result in results] == [1, 1, 1]
    assert results[1][0][0] == 170
    assert rows(db, "accounts") == [(1, 70), (2, 80)]


def test_the_same_transaction_is_right_before_and_after_its_statements_are_prepared(
    db: Handler, broker: Broker
) -> None:
    before = broker.group()["statements"]["prepared"]

    def order_once(number: int) -> None:
        with db.transaction() as tx:
            order = tx.query(ADD_ORDER, (number, None), expect=1)
            tx.query(ADD_ITEM, (order["id"], f"sku {number}"))
            count = tx.query("SELECT count(*) AS n, max(order_id) AS last FROM items")
        assert (order["id"], count["n"], count["last"]) == (number + 1, number + 1, number + 1)

    ran = 0
    while broker.group()["statements"]["prepared"] < before + 3:  # examined one after the other
        order_once(ran)
        ran += 1
    for number in range(ran, ran + 20):
        order_once(number)


@pytest.mark.parametrize("group", ["literals", "leases", "single"])
def test_a_block_runs_in_a_group_of_any_kind(db: Handler, broker: Broker, group: str) -> None:
    other = broker.handler(group)
    for number in range(5):
        with other.transaction() as tx:
            order = tx.query(ADD_ORDER, (number, "n"))
            tx.query(ADD_ITEM, (order["id"], str(number)), prepare=False)
    assert len(rows(db, "items")) == 5
    if group == "literals":
        assert broker.group("literals")["statements"]["prepared"] == 0


# References.

TYPES = [
    "1::int2", "1::int4", "1::int8", "1.50::numeric", "1.5::float4", "1e-300::float8", "'NaN'::float8", "true",
    "'it''s'::text", "'v'::varchar(5)", "'c'::char(4)", "'n'::name", "'\\x00ff'::bytea", "'2024-02-29'::date",
    "'infinity'::date", "'12:34:56.789'::time", "'12:34+05:30'::timetz", "'2024-02-29 12:34'::timestamp",
    "'2024-02-29 12:34+05'::timestamptz", "'1 year -2 days 3.5 seconds'::interval",
    "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid", "'192.168.0.1/24'::inet", "'{\"a\": [1, null]}'::jsonb",
    "ARRAY[1, NULL]", "ARRAY['a,b', '\"', NULL]", "ARRAY[[1.5], [2]]", "'{}'::int[]", "'[5:6]={1,2}'::int[]",
    "'it''s ok'::mood", "(1, 'a \"quoted\"')::pair", "'[1,5)'::int4range", "B'1010'", "NULL::int", "NULL::mood",
]  # fmt: skip


@pytest.mark.parametrize("expression", TYPES)
def test_a_cell_of_any_type_is_a_parameter_of_a_later_statement(db: Handler, expression: str) -> None:
    for _ in range(5):
        with db.transaction() as tx:
            tx.query(f"CREATE TEMP TABLE made ON COMMIT DROP AS SELECT {expression} AS it")
            it = tx.query("SELECT it FROM made")
            tx.query("INSERT INTO made VALUES (%s)", (it["it"],))
            tx.query("INSERT INTO made VALUES (%s), (%s)", (it[0].it, it[0][0]), expect=2)
            found = tx.query("SELECT count(*) AS n, count(DISTINCT it::text) AS kinds, count(it) AS known FROM made")
        assert tuple(found[0]) in ((4, 1, 4), (4, 0, 0))


@pytest.mark.parametrize("expression", ["1", "1::int8", "1.5", "'it''s'::text", "'2024-02-29'::date", "'sad'::mood"])
def test_a_column_is_an_array_of_a_later_statement(db: Handler, expression: str) -> None:
    for _ in range(5):
        with db.transaction() as tx:
            some = tx.query(f"SELECT {expression} AS it UNION ALL SELECT NULL")
            none = tx.query(f"SELECT {expression} AS it WHERE false")
            found = tx.query(
                f"SELECT {expression} = ANY(%s) AS some, {expression} = ANY(%s) AS none, {expression} IN %s AS listed",
                (some.column("it"), none.column(0), (some["it"], some[0][0])),
            )
        assert tuple(found[0]) == (True, False, True)
        assert some.column("it")[1] is None


MISSING: list[tuple[str, Callable[[PendingResult], Any], str]] = [
    ("SELECT 1 AS a WHERE false", lambda result: result["a"], "row 0 of a statement that returned 0 rows"),
    ("SELECT 1 AS a", lambda result: result[3]["a"], "row 3 of a statement that returned 1 rows"),
    ("SELECT 1 AS a, 2 AS b", lambda result: result["c"], "column 'c' of a statement with columns a, b"),
    ("SELECT 1 AS a", lambda result: result[0][7], "column 7 of a statement with 1 columns"),
    ("UPDATE accounts SET balance = 0", lambda result: result["id"], "add RETURNING"),
    ("SELECT repeat('x', 200000) AS a", lambda result: result["a"], "larger than max_result_bytes"),
]


@pytest.mark.parametrize(("source", "refer", "words"), MISSING, ids=[case[2] for case in MISSING])
def test_a_reference_to_what_is_not_there_rolls_everything_back(
    db: Handler, source: str, refer: Callable[[PendingResult], Any], words: str
) -> None:
    with block_raises(client.ExpectationFailed, match=words) as caught, db.transaction() as tx:
        tx.query(DRAW, (1, 1))
        result = tx.query(source)
        tx.query("SELECT %s::text", (refer(result),))
    assert (caught.value.outcome, caught.value.statement_index) == ("failed", 2)
    assert rows(db, "accounts") == [(1, 100), (2, 100)]


def test_a_reference_to_an_undone_savepoint_block_rolls_everything_back(db: Handler) -> None:
    with block_raises(client.ExpectationFailed, match="savepoint block was undone"), db.transaction() as tx:
        tx.query(DRAW, (1, 1))
        with tx.savepoint():
            result = tx.query("SELECT 1 AS a")
            tx.query("SELECT 1 / 0")
        tx.query("SELECT %s", (result["a"],))
    assert rows(db, "accounts") == [(1, 100), (2, 100)]


# Conditions and errors.


@pytest.mark.parametrize("expect", [2, 0, (2, 5), (2, None), (0, 0)])
def test_another_row_count_than_expected_rolls_everything_back(db: Handler, expect: Any) -> None:
    with block_raises(client.ExpectationFailed, match="got 1") as caught, db.transaction() as tx:
        first = tx.query(DRAW, (1, 2))
        tx.query(DRAW, (1, 1), expect=expect)
        tx.query(DRAW, (1, 2))
    assert isinstance(caught.value, psycopg2.IntegrityError)
    assert (caught.value.outcome, caught.value.statement_index, caught.value.statement) == ("failed", 1, DRAW)
    assert rows(db, "accounts") == [(1, 100), (2, 100)]
    with pytest.raises(client.UsageError, match="nothing of this transaction was committed") as unread:
        first.result()
    assert unread.value.outcome == "failed"


@pytest.mark.parametrize("expect", [1, (1, 1), (0, 1), (0, None), (1, None), None])
def test_the_expected_row_count_commits(db: Handler, expect: Any) -> None:
    with db.transaction() as tx:
        tx.query(DRAW, (1, 1), expect=expect)
        tx.query("SELECT 1", expect=expect)
    assert rows(db, "accounts") == [(1, 99), (2, 100)]


ERRORS: list[tuple[str, Any, type[psycopg2.Error]]] = [
    ("INSERT INTO accounts VALUES (%s, 1)", (1,), psycopg2.errors.UniqueViolation),
    (DRAW, (101, 1), psycopg2.errors.CheckViolation),
    ("SELECT 1 / %s", (0,), psycopg2.errors.DivisionByZero),
    ("SELECT %s::int", ("x",), psycopg2.errors.InvalidTextRepresentation),
    ("SELECT nonsense", None, psycopg2.errors.UndefinedColumn),
    ("SELEC %s", (1,), psycopg2.errors.SyntaxError),
    ("DO $$ BEGIN COMMIT; END $$", None, psycopg2.errors.InvalidTransactionTermination),
]


@pytest.mark.parametrize(("statement", "params", "kind"), ERRORS, ids=[case[0] for case in ERRORS])
def test_an_error_names_its_statement_and_rolls_everything_back(
    db: Handler, postgres: Postgres, statement: str, params: Any, kind: type[psycopg2.Error]
) -> None:
    connection = postgres.connect(options=f"-c search_path={SCHEMA}")
    connection.autocommit = False
    with closing(connection), connection.cursor() as cursor, pytest.raises(kind) as direct:
        cursor.execute(statement, params)
    for _ in range(5):  # prepared as soon as it can be
        with block_raises(kind) as caught, db.transaction() as tx:
            tx.query(DRAW, (1, 2))
            tx.query(statement, params)
            after = tx.query("SELECT 5")
        assert isinstance(caught.value, client.DBQueryError)
        assert (caught.value.pgcode, caught.value.outcome) == (direct.value.pgcode, "failed")
        assert str(caught.value) == f"statement 2 of 3 ({statement}): {direct.value}"
        assert (caught.value.statement_index, caught.value.statement) == (1, statement)
        with pytest.raises(client.UsageError):
            after.fetchall()
    assert rows(db, "accounts") == [(1, 100), (2, 100)]


def test_a_deferred_constraint_fails_at_the_end_and_rolls_everything_back(db: Handler) -> None:
    with block_raises(psycopg2.errors.ForeignKeyViolation) as caught, db.transaction() as tx:
        tx.query(DRAW, (1, 1))
        tx.query(ADD_ITEM, (99, "of no order"))
    assert (caught.value.outcome, caught.value.statement_index) == ("failed", None)
    assert rows(db, "accounts") == [(1, 100), (2, 100)]
    with db.transaction() as tx:
        tx.query(ADD_ITEM, (1, "before its order"))
        tx.query(ADD_ORDER, (1, None))
    assert rows(db, "items") == [(1, "before its order", 1)]


def test_an_exception_of_the_program_sends_nothing(db: Handler, broker: Broker) -> None:
    requests = broker.group()["requests"]
    with block_raises(KeyError), db.transaction() as tx:
        tx.query(DRAW, (1, 1))
        raise KeyError("mine")
    assert broker.group()["requests"] == requests
    assert rows(db, "accounts") == [(1, 100), (2, 100)]


REFUSED = [
    ("COPY accounts TO STDOUT", "COPY"),
    ("SELECT 1; SELECT 2", "several statements"),
    ("BEGIN", "begins or ends a transaction"),
    ("ROLLBACK", "begins or ends a transaction"),
    ("SAVEPOINT mine", "begins or ends a transaction"),
    ("-- nothing", "empty"),
]


@pytest.mark.parametrize(("statement", "words"), REFUSED)
def test_what_no_block_can_hold_is_refused_and_nothing_runs(db: Handler, statement: str, words: str) -> None:
    with block_raises(client.DBError, match=words) as caught, db.transaction() as tx:
        tx.query(DRAW, (1, 1))
        tx.query(statement)
    assert caught.value.outcome == "not executed"
    assert rows(db, "accounts") == [(1, 100), (2, 100)]


# Limits.


def test_a_thousand_statements_are_one_transaction_and_one_more_is_refused(db: Handler) -> None:
    results = db.run([("SELECT %s AS n", (number,)) for number in range(1000)])
    assert [result[0].n for result in results] == list(range(1000))
    with pytest.raises(client.UsageError, match="1000"):
        db.run(["SELECT 1"] * 1001)


def test_long_values_arrive_as_they_are(db: Handler) -> None:
    for number in range(5):
        text, items = chr(97 + number) * 3_000_000, [number] * 100_000
        results = db.run([("SELECT md5(%s) AS it", (text,)), ("SELECT md5(%s::text) AS it", (items,))])
        literal = "{" + ",".join(map(str, items)) + "}"
        assert [each[0].it for each in results] == [md5(each.encode()).hexdigest() for each in (text, literal)]


def test_a_result_too_large_is_an_error_of_its_own_and_the_rest_is_committed(db: Handler) -> None:
    with db.transaction() as tx:
        tx.query(DRAW, (1, 1))
        large = tx.query("SELECT repeat('x', 200000)")
        small = tx.query("SELECT 1")
    assert rows(db, "accounts") == [(1, 99), (2, 100)]
    with pytest.raises(client.ResultTooLarge) as caught:
        large.fetchall()
    assert caught.value.outcome == "executed"
    assert small[0][0] == 1


def test_a_block_beside_an_open_interactive_transaction_is_refused(broker: Broker) -> None:
    db = broker.handler("leases")
    with db:
        db.query("SELECT 1")
        with pytest.raises(client.UsageError, match="commit"):
            db.transaction()
    assert db.run(["SELECT 1"])[0].rowcount == 1


# Notices and options.


def test_notices_belong_to_their_statement_and_are_kept_by_the_handler(db: Handler) -> None:
    with db.transaction() as tx:
        one = tx.query("SELECT say(%s)", ("one",))
        quiet = tx.query("SELECT 1")
        with tx.savepoint():
            tx.query("SELECT say('undone')")
            tx.query("SELECT 1 / length(say('')) AS n")
        two = tx.query("SELECT say('two'), say('three')")
    assert one.notices == ("NOTICE:  one\n",)
    assert quiet.notices == ()
    assert two.notices == ("NOTICE:  two\n", "NOTICE:  three\n")
    assert [each for each in db.notices if "undone" not in each] == [
        "NOTICE:  one\n", "NOTICE:  \n", "NOTICE:  two\n", "NOTICE:  three\n"
    ]  # fmt: skip
    with block_raises(psycopg2.errors.DivisionByZero) as caught, db.transaction() as tx:
        tx.query("SELECT 1 / length(say(''))")
    assert caught.value.notices == ("NOTICE:  \n",)
    assert db.notices[-1] == "NOTICE:  \n"


OPTIONS: list[tuple[dict[str, Any], tuple[str, str, str]]] = [
    ({}, ("read committed", "off", "off")),
    ({"isolation": "repeatable read"}, ("repeatable read", "off", "off")),
    ({"isolation": "serializable", "read_only": True, "deferrable": True}, ("serializable", "on", "on")),
    ({"isolation": "READ_UNCOMMITTED", "read_only": False}, ("read uncommitted", "off", "off")),
]


@pytest.mark.parametrize(("options", "shown"), OPTIONS, ids=[str(case[0]) for case in OPTIONS])
def test_options_are_those_of_begin(db: Handler, options: dict[str, Any], shown: tuple[str, str, str]) -> None:
    settings = ("transaction_isolation", "transaction_read_only", "transaction_deferrable")
    for _ in range(2):
        results = db.run([f"SHOW {name}" for name in settings], **options)
        assert tuple(result[0][0] for result in results) == shown


def test_what_cannot_be_written_is_said_by_postgresql(db: Handler, broker: Broker) -> None:
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        db.run([(DRAW, (1, 1))], read_only=True)
    reading = broker.handler("reading")
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        reading.run([(DRAW, (1, 1))])
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        reading.query(DRAW, (1, 1))
    assert reading.run(["SELECT sum(balance) FROM accounts"])[0][0][0] == 200


def test_a_blocks_first_statement_may_set_its_transaction(db: Handler) -> None:
    with db.transaction() as tx:
        tx.query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        tx.query(DRAW, (1, 1))
        level = tx.query("SHOW transaction_isolation")
    assert level[0][0] == "serializable"


def test_settings_of_a_block_end_with_it(db: Handler) -> None:
    results = db.run(["SET LOCAL work_mem = '77kB'", "SHOW work_mem"])
    assert results[1][0][0] == "77kB"
    assert {db.query("SHOW work_mem")[0][0] for _ in range(5)} != {"77kB"}
