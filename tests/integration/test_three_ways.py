"""Literal or prepared, a statement must give what psycopg2 gives: values, types, columns, counts, tags and errors.

psycopg2 on a connection of its own is the judge. Which statements really are prepared is said for each of them, so that
one which stays with literals for no good reason is noticed.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from brokers import Broker
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from postgres import Postgres
from psycopg2 import extras
from test_values import SCALARS
from ways import Ways

from client import StatementRefused

SCHEMA = "three_ways"
TABLES = f"""
CREATE SCHEMA {SCHEMA};
SET search_path = {SCHEMA};
CREATE TYPE mood AS ENUM ('sad', 'it''s ok');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE TYPE pair AS (first integer, second text);
CREATE TABLE things (
    id int PRIMARY KEY, name varchar(20) NOT NULL, code char(5), price numeric(8, 2), mood mood, size positive,
    both_ pair, data jsonb, tags text[], at timestamptz, day date, wait interval, big int8, small int2, flag bool,
    key uuid UNIQUE, raw bytea, far inet, parent int REFERENCES things
);
INSERT INTO things SELECT n, 'name ' || n, 'c' || n, n * 1.5, 'sad', n, ROW(n, 'x')::pair,
    jsonb_build_object('a', n, 'b', null), ARRAY['t' || n, 'it''s'], '2024-02-29 12:00+00', '2024-02-29', '1 day',
    n * 1e10, n, n % 2 = 0, NULL, '\\x00ff', '10.0.0.1', NULL FROM generate_series(1, 5) n;
CREATE TABLE log (what text, n int);
CREATE SEQUENCE numbers;
CREATE FUNCTION which(int) RETURNS text LANGUAGE sql AS $$ SELECT 'int4' $$;
CREATE FUNCTION which(int8) RETURNS text LANGUAGE sql AS $$ SELECT 'int8' $$;
CREATE FUNCTION which(numeric) RETURNS text LANGUAGE sql AS $$ SELECT 'numeric' $$;
CREATE FUNCTION which(text) RETURNS text LANGUAGE sql AS $$ SELECT 'text' $$;
CREATE FUNCTION which(date) RETURNS text LANGUAGE sql AS $$ SELECT 'date' $$;
CREATE FUNCTION which(text[]) RETURNS text LANGUAGE sql AS $$ SELECT 'texts' $$;
CREATE FUNCTION loud(n int) RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN RAISE NOTICE 'n is %', n; IF n > 9 THEN RAISE 'too much: %', n USING HINT = 'x'; END IF; RETURN n; END $$
"""


@pytest.fixture(scope="module")
def ways(postgres: Postgres) -> Iterator[Ways]:
    """A broker with one backend, and a connection like it."""
    postgres.execute(TABLES)
    options = f"-c search_path={SCHEMA} -c TimeZone=Asia/Kolkata"
    broker = Broker({"main": {**postgres.parameters, "options": options}}, {"default": {"max_size": 1}})
    direct = postgres.connect(options=options)
    try:
        yield Ways(broker.start(), direct)
    finally:
        direct.close()
        broker.close()
        postgres.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


# Statements and what becomes of them: P is prepared, R is refused and stays with literals, L is not even tried since it
# never succeeds.
P, R, L = "prepared", "refused", "literal"
# After this one nothing that was known of any statement need hold, so it is not asked.
D = "defines something"
noon = datetime(2024, 2, 29, 12)
CASES: list[tuple[str, Any, str]] = [
    # Places that take no parameter.
    ("SELECT INTERVAL %s", ("1 day",), R),
    ("SELECT DATE %s, TIMESTAMP %s", ("2024-02-29", "2024-02-29 12:00"), R),
    ("SELECT interval '%s days'", (5,), R),
    ("SELECT '%s items', 'it''s %s'", (5, 6), R),
    ('SELECT 1 AS "%s"', (5,), R),
    ("SELECT extract(%s FROM day) FROM things", ("year",), R),
    ("SELECT E%s, N%s", ("a", "b"), R),
    ("SELECT 1 /* %s */", (5,), R),
    ("SELECT 1 -- %s", (5,), R),
    ("SELECT $$%s$$", (5,), R),
    ("SELECT %s::date AS day, $tag$ it's $1 %%s $tag$", ("2024-02-29",), P),
    # Operators and functions.
    ("SELECT %s || %s AS it", ("a", "b"), P),
    ("SELECT name || %s FROM things", ("!",), P),
    ("SELECT %s + %s, %s - %s, %s * %s, %s / %s, %s %% %s", (7, -2, 7, -2, 7, -2, 7, -2, 7, -2), P),
    ("SELECT %s ^ 2 AS a, -%s AS b, @ %s AS c, 2 - %s AS d, 2-%s AS e", (-5, -5, -5, -5, -5), P),
    ("SELECT %s + 1.5", (Decimal("1.10"),), P),
    ("SELECT which(%s)", (5,), P),
    ("SELECT which(%s)", (-(2**40),), P),
    ("SELECT which(%s)", (2**70,), P),
    ("SELECT which(%s)", (1.5,), P),
    ("SELECT which(%s)", ("5",), P),
    ("SELECT which(%s)", (date(2024, 2, 29),), P),
    ("SELECT which(%s)", (["a"],), P),
    ("SELECT which(%s)", (True,), L),
    ("SELECT pg_typeof(%s), pg_typeof(%s), pg_typeof(%s)", (5, b"x", [1.5]), P),
    ("SELECT pg_typeof(%s)", ("x",), R),
    ("SELECT format('%%s is %%s', %s, %s)", ("a", 1), R),
    ("SELECT concat(%s, %s, NULL)", (1, date(2024, 2, 29)), P),
    ("SELECT greatest(%s, %s), coalesce(%s, 'none'), nullif(%s, 5)", (1, 2.5, None, 5), P),
    ("SELECT COALESCE(%s, name) AS it FROM things ORDER BY id", (None,), R),
    ("SELECT COALESCE(%s, name) || '' AS it FROM things ORDER BY id", (None,), P),
    ("SELECT CASE WHEN %s THEN %s ELSE %s END AS it", (True, 1, 2.5), P),
    ("SELECT CASE WHEN id > %s THEN 'big' ELSE %s END AS it FROM things ORDER BY id", (3, "small"), P),
    ("SELECT %s IS NULL AS it", (5,), P),
    ("SELECT %s IS NULL AS it", ("x",), R),
    ("SELECT date_trunc(%s, at), count(*) FROM things GROUP BY date_trunc(%s, at)", ("day", "day"), R),
    ("SELECT at AT TIME ZONE %s, now() - %s < now() FROM things", ("Asia/Tokyo", timedelta(days=1)), R),
    ("SELECT day + %s, day - %s, at + %s FROM things", (5, date(2024, 1, 1), timedelta(hours=1)), R),
    ("SELECT substring(name from %s for %s), position(%s in name), trim(%s) FROM things", (2, 3, "m", " a "), P),
    ("SELECT lpad(%s, %s, %s)", ("a", 5, "*"), P),
    ("SELECT loud(%s)", (5,), P),
    # Casts.
    ("SELECT %s::int, %s::int8, %s::text, %s::numeric", ("5", 5, 5, "1.50"), P),
    ("SELECT %s::date, %s::timestamptz, %s::interval", ("2024-02-29", "2024-02-29 12:00+05", "1 day -3 hours"), R),
    ("SELECT %s::char(5) || '|', %s::varchar(2), %s::bit(4), %s::numeric(4, 1)", ("ab", "abc", "10101", "5.55"), P),
    ("SELECT CAST(%s AS int[]), %s::text[] AS it", ("{1,2}", ["a"]), P),
    ("SELECT %s::mood, %s::positive, %s::pair, %s::regclass", ("sad", 5, "(1,a)", "things"), P),
    ("SELECT %s::bool, %s::jsonb, %s::uuid, %s::inet", ("t", "[1]", str(UUID(int=5)), "::1"), P),
    # Lists.
    ("SELECT id FROM things WHERE id IN %s ORDER BY id", ((1, 3, 9),), P),
    ("SELECT id FROM things WHERE id IN %s ORDER BY id", ((1, None, 2**40),), P),
    ("SELECT id FROM things WHERE name IN %s ORDER BY id", (("name 1", "it's"),), P),
    ("SELECT id FROM things WHERE id = ANY(%s) ORDER BY id", ([1, 3, None],), P),
    ("SELECT id FROM things WHERE id = ANY(%s) ORDER BY id", ([],), P),
    ("SELECT id FROM things WHERE name = ANY(%s) ORDER BY id", (["name 1", 'a "b" \\'],), P),
    ("SELECT id FROM things WHERE (id, name) IN %s", (((1, "name 1"), (2, "x")),), P),
    ("SELECT tags || %s, tags @> %s, tags && %s FROM things", (["a"], ["t1"], ["it's"]), P),
    ("SELECT %s || %s AS it", ([1, 2], 3), P),
    ("SELECT (%s)[2] AS it", ([1, 2],), P),
    ("SELECT unnest(%s) AS it", ([[1, 2], [3, None]],), P),
    # jsonb.
    ("SELECT data ? %s, data ?| %s, data ?& %s FROM things", ("a", ["a", "z"], ["a", "z"]), P),
    ("SELECT data -> %s, data ->> %s, data #> %s, data @> %s FROM things", ("a", "b", ["a"], extras.Json({"a": 1})), P),
    ("SELECT %s::jsonb -> %s, %s::jsonb - %s", (extras.Json([1, 2]), 1, extras.Json(["a"]), "a"), P),
    ("SELECT jsonb_set(data, %s, %s) FROM things", (["a"], extras.Json("x")), P),
    ("SELECT jsonb_path_query(data, %s) FROM things", ("$.a",), P),
    ("SELECT json_build_object(%s, %s)", ("a", 1), R),
    ("SELECT to_jsonb(%s), to_jsonb(%s)", (1.10, [1, 2]), P),
    # Clauses.
    ("SELECT id FROM things ORDER BY id LIMIT %s OFFSET %s", (2, 1), P),
    ("SELECT id FROM things ORDER BY id LIMIT %s", (None,), P),
    ("SELECT id FROM things ORDER BY id FETCH FIRST %s ROWS ONLY", (2,), P),
    ("SELECT id, name FROM things ORDER BY %s", (2,), R),
    ("SELECT id, name FROM things ORDER BY %s DESC, id", (2,), R),
    ("SELECT id, name FROM things ORDER BY id * %s", (-1,), P),
    ("SELECT id, name FROM things ORDER BY %s", ("name",), L),
    ("SELECT flag, count(*) FROM things GROUP BY %s ORDER BY %s", (1, 1), R),
    ("SELECT DISTINCT ON (%s) flag, id FROM things ORDER BY flag, id", (1,), R),
    ("SELECT name LIKE '%%me%%', name LIKE %s, name ~ %s FROM things", ("%1", "^n"), P),
    ("SELECT id FROM things WHERE id BETWEEN %s AND %s OR name = %s ORDER BY id", (2, 3, "name 5"), P),
    ("SELECT sum(id) OVER (ORDER BY id ROWS BETWEEN %s PRECEDING AND CURRENT ROW) FROM things", (1,), P),
    ("SELECT flag, count(*) FROM things GROUP BY flag HAVING count(*) > %s ORDER BY flag", (2,), P),
    ("SELECT 1 AS it UNION SELECT %s ORDER BY it", (5,), P),
    ("SELECT %s AS it UNION ALL SELECT NULL", (5,), P),
    ("SELECT %s AS it UNION ALL SELECT name FROM things", ("x",), P),
    ("VALUES (%s, %s), (%s, NULL)", (1, "a", 2.5), P),
    ("SELECT * FROM (VALUES (%s), (%s)) v(x) JOIN things ON id = x", (1, 2), P),
    ("SELECT * FROM generate_series(%s, %s) n", (1, 3), P),
    ("WITH RECURSIVE t(n) AS (VALUES (%s) UNION ALL SELECT n + 1 FROM t WHERE n < %s) SELECT n FROM t", (1, 5), P),
    ("SELECT id FROM things WHERE id = %s FOR UPDATE", (1,), P),
    ("SELECT t FROM things t WHERE id = %s", (1,), P),
    ("SELECT both_, (both_).second, mood, size FROM things WHERE both_ = %s AND mood = %s", ("(1,x)", "sad"), L),
    ("SELECT both_, (both_).second, mood, size FROM things WHERE both_ = %s::pair", ("(3,x)",), P),
    ("SELECT count(*) FROM things WHERE at < %s AND day = %s AND wait = %s", (noon, noon.date(), timedelta(1)), R),
    ("SELECT id FROM things WHERE raw = %s AND far = %s AND key IS NULL", (b"\x00\xff", "10.0.0.1"), P),
    ("TABLE things", None, P),
    # Writing; each can be repeated.
    ("INSERT INTO log VALUES (%s, %s), (%s, NULL)", ("a", 1, "b"), P),
    ("INSERT INTO log SELECT %s, id FROM things WHERE id > %s", ("c", 3), P),
    ("INSERT INTO log (what) VALUES (%s) RETURNING *", ("d",), P),
    ("UPDATE things SET price = %s, tags = %s, day = %s WHERE id = %s", (1.5, ["x", "y"], date(2024, 3, 1), 1), P),
    ("UPDATE things SET name = %s WHERE id = %s RETURNING name, length(name)", ("it's \\ me", 2), P),
    ("UPDATE things SET mood = %s, size = %s, both_ = %s WHERE id = 1", ("it's ok", 7, "(5,z)"), P),
    ("UPDATE things SET flag = %s, key = %s, raw = %s, data = %s WHERE id = 1",
     (False, UUID(int=7), b"\x01", extras.Json({"k": [1]})), P),
    ("INSERT INTO things (id, name) VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name RETURNING *",
     (1, "again"), P),
    ("WITH w AS (UPDATE things SET small = %s WHERE id = %s RETURNING id) SELECT * FROM w", (3, 1), P),
    ("WITH w AS (INSERT INTO log VALUES (%s) RETURNING what) SELECT count(*) FROM w", ("e",), P),
    ("DELETE FROM things WHERE id = %s", (99,), P),
    ("DELETE FROM log WHERE what = %s RETURNING 1", ("nobody",), P),
    ("MERGE INTO things USING (SELECT %s AS k) s ON id = k WHEN MATCHED THEN UPDATE SET small = %s", (1, 4), P),
    # What cannot be prepared, or is several, or nothing.
    ("CREATE TABLE IF NOT EXISTS log (what text)", None, D),
    ("ALTER TABLE things ALTER price SET DEFAULT %s", (5,), D),
    ("SET LOCAL work_mem = %s", ("4MB",), R),
    ("SHOW work_mem", None, R),
    ("EXPLAIN (COSTS OFF) SELECT %s", (5,), R),
    ("DO $$ BEGIN PERFORM 1; END $$", None, D),
    ("SELECT set_config('work_mem', %s, false), 1 AS more", ("5MB",), R),
    ("SELECT %s; SELECT %s AS it", (1, 2), D),
    ("SELECT %s;", (1,), P),
    ("-- a remark\nSELECT %s AS it /* another /* in it */ */ -- and one", (1,), P),
    ("SELECT %s AS it INTO TEMP dropped; DROP TABLE dropped", (1,), D),
    ("", None, L),
    ("-- nothing", None, L),
    ("SELECT %s FROM nowhere", (1,), L),
    ("SELECT U&'\\00e4', E'\\'', B'101', X'ff', 'a' 'b', %s", (1,), L),
    ("SELECT U&'\\00e4' AS u, E'it\\'s' AS e, B'101' AS b, X'ff' AS x, %s AS it", (1,), P),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "params", "fate"), CASES, ids=[f"{s!r:.70}-{p!r:.30}" for s, p, _ in CASES])
def test_a_statement_has_one_outcome_whichever_way_it_runs(ways: Ways, statement: str, params: Any, fate: str) -> None:
    if fate == D:
        ways.agree(statement, params)
    else:
        assert ways.fate(statement, params) == fate


# Prepared with the first parameters, each fails with the second: in PostgreSQL's parser where they are literals, and
# when they are bound, planned or used where they are not.
FAILURES: list[tuple[str, Any, Any]] = [
    ("SELECT 1 / %s", (1,), (0,)),
    ("SELECT id / %s FROM things", (1,), (0,)),
    ("SELECT %s::int AS it", ("1",), ("x",)),
    ("SELECT %s + 1, %s::date", ("1", "2024-02-29"), ("1", "2024-02-30")),
    ("SELECT %s::int2", (1,), (70000,)),
    ("SELECT %s + 2147483647", (-1,), (1,)),
    ("SELECT %s::jsonb -> 'a'", ("{}",), ("{x",)),
    ("SELECT (data ->> %s)::date FROM things", ("b",), ("a",)),
    ("SELECT count(*) FROM things WHERE mood = %s", ("sad",), ("glad",)),
    ("SELECT count(*) FROM things WHERE id = ANY(%s)", ("{1}",), ("{x}",)),
    ("SELECT count(*) FROM things WHERE name ~ %s", ("a",), ("(",)),
    ("SELECT %s::regclass", ("things",), ("nothing",)),
    ("SELECT nextval(%s) > 0", ("numbers",), ("nothing",)),
    ("SELECT id FROM things LIMIT %s", (1,), (-1,)),
    ("SELECT substring(name from 1 for %s) FROM things", (1,), (-1,)),
    ("SELECT now() AT TIME ZONE %s IS NULL", ("UTC",), ("Nowhere",)),
    ("SELECT loud(%s)", (5,), (10,)),
    ("SELECT (SELECT id FROM things WHERE id <= %s)", (1,), (2,)),
    ("INSERT INTO things (id, name) VALUES (%s, %s) ON CONFLICT (key) DO NOTHING", (None, "x"), (None, "x")),
    ("INSERT INTO things (id, name) SELECT %s, %s WHERE %s", (1, "x", False), (1, "x", True)),
    ("UPDATE things SET name = %s WHERE id = 1", ("x",), ("x" * 21,)),
    ("UPDATE things SET name = %s WHERE id = 1", ("x",), (None,)),
    ("UPDATE things SET price = %s WHERE id = 1", (1,), (10_000_000,)),
    ("UPDATE things SET size = %s WHERE id = 1", (1,), (-1,)),
    ("UPDATE things SET parent = %s WHERE id = 1", (2,), (99,)),
    ("UPDATE things SET small = %s WHERE id = 1", (1,), (40000,)),
    ("UPDATE things SET key = %s WHERE id IN (1, 2)", (None,), ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",)),
]


@pytest.mark.parametrize(("statement", "good", "bad"), FAILURES, ids=[f"{s!r:.60}-{b!r:.30}" for s, _, b in FAILURES])
def test_an_error_has_the_same_class_code_text_and_details_whichever_way(
    ways: Ways, statement: str, good: Any, bad: Any
) -> None:
    fate = ways.fate(statement, bad, good)
    assert fate == (L if good == bad else P)


def test_notices_are_the_same_whichever_way(ways: Ways) -> None:
    ways.connection.notices.clear()
    ways.by_psycopg2("SELECT loud(%s)", (5,))
    for prepare in (False, *[True] * 6):
        assert list(ways.handler.query("SELECT loud(%s)", (5,), prepare=prepare).notices) == ways.connection.notices


# Values in every place that takes any.
VALUES: list[Any] = [
    None, True, False, 0, 5, -5, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63 - 1, 2**63, -(2**63), 2**70, 0.1, -1.5,
    1e300, 1e-300, 5e-324, float("nan"), float("inf"), float("-inf"), -0.0, Decimal("1.10"), Decimal("-7"),
    Decimal("1E+5"), Decimal("-0"), "", "it's", 'a "b" \\ %s \n', "NULL", "ä💩", b"", b"\x00'\\\xff",
    bytearray(b"x"), memoryview(b"y"), date(2024, 2, 29), date(1, 1, 1), date(9999, 12, 31), noon,
    noon.replace(microsecond=1), noon.replace(tzinfo=UTC), time(12, 34, 56, 789), time(1, tzinfo=UTC),
    timedelta(days=-1, seconds=1), timedelta(0, 0, 1), UUID(int=5), [], [None], [1, None], [2**40, 1], [1.5, 1],
    ["a,b", None], ["", '"', "\\", "NULL", "{}"], [[1, 2], [3, 4]], [["a"], [None]], [[]], [True], [b"x"], [noon],
    [timedelta(1)], [UUID(int=5)], [date(2024, 2, 29), None], [Decimal("1.5"), 2], [1, "a"], [[1], [1, 2]], (1, 2),
    ("a", None), (), extras.Json({"a": [1, None]}), [extras.Json(1)], extras.NumericRange(1, 5), extras.Inet("::1"),
]  # fmt: skip
FORMS = [
    "SELECT %s", "SELECT %s AS it", "VALUES (%s)", "SELECT ARRAY[%s] AS it", "SELECT CASE WHEN 1 = 1 THEN %s END AS it",
    "SELECT COALESCE(%s, NULL) AS it", "SELECT %s AS it UNION ALL SELECT NULL", "SELECT (%s, 1) AS it",
    "SELECT it FROM (SELECT %s AS it) x WHERE it IS NOT NULL", "SELECT pg_typeof(%s)", "SELECT %s IS NULL AS it",
    "SELECT concat(%s, '|')", "SELECT max(it) AS it FROM (VALUES (%s), (NULL)) v(it)", "INSERT INTO log SELECT 'x', %s",
    "SELECT 'x' AS it WHERE %s", "SELECT %s = ANY(ARRAY[NULL, 5])", "SELECT to_json(%s)", "SELECT length(%s)",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_any_value_has_one_outcome_whichever_way(ways: Ways, form: str) -> None:
    for value in VALUES:
        ways.agree(form, (value,))


def test_common_values_are_prepared_where_their_columns_name_does_not_tell(ways: Ways) -> None:
    literal = [value for value in VALUES if ways.fate("SELECT %s IS NOT DISTINCT FROM %s AS it", (value, value)) != P]
    intervals = [timedelta(days=-1, seconds=1), timedelta(0, 0, 1), [timedelta(1)]]
    assert [value for value in literal if value not in intervals] == [[[]], [1, "a"], [[1], [1, 2]], ()]
    assert all(value in literal for value in intervals), "their literals are read in other ways than parameters"


TEMPLATES = [
    "SELECT %s AS it", "SELECT COALESCE(%s, '7') AS it", "SELECT %s || '' AS it", "SELECT id FROM things WHERE id = %s",
    "SELECT name FROM things WHERE name = %s", "SELECT big FROM things WHERE big > %s ORDER BY 1", "SELECT which(%s)",
    "INSERT INTO log (n) VALUES (%s) RETURNING n", "UPDATE things SET price = %s WHERE id = 3 RETURNING price",
    "SELECT price * %s AS it FROM things ORDER BY id", "SELECT %s IN (1, 2) AS it", "SELECT id FROM things LIMIT %s",
    "SELECT CASE WHEN id = %s THEN 1 ELSE 2 END AS it FROM things ORDER BY id", "SELECT %s::varchar AS it",
]  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
def test_one_template_with_values_of_all_kinds_in_turn(ways: Ways, template: str) -> None:
    values = [None, 1, 2**40, 2**70, "a", "2", 1.5, Decimal("2"), True, None, 3, date(2024, 2, 29), [1], "b"]
    for _ in range(6):
        for value in values:
            assert ways.by_poold(template, (value,)) == ways.by_psycopg2(template, (value,)), value


@pytest.mark.parametrize("kind", SCALARS)
def test_any_value_of_a_kind_has_one_outcome_whichever_way(ways: Ways, kind: str) -> None:
    @examples(40)
    @given(SCALARS[kind], st.lists(st.none() | SCALARS[kind], max_size=3))
    def check(value: Any, values: list[Any]) -> None:
        statement, params = "SELECT %s AS it, %s AS list, %s IN %s AS found", (value, values, value, (value, None))
        theirs = ways.by_psycopg2(statement, params)
        assert ways.by_poold(statement, params, prepare=False) == theirs
        assert ways.by_poold(statement, params) == theirs

    check()


# A sign before a literal binds less than a cast behind it, -5::text is -(5::text), and it takes the column's name away.
CASTS = ["SELECT %s::text", "SELECT %s::int8::text", "SELECT %s::int4", "SELECT %s::bool"]


@pytest.mark.parametrize("statement", CASTS)
@pytest.mark.parametrize("number", [-5, -(2**31), -1.5])
def test_a_negative_number_before_a_cast_is_what_psycopg2_makes_of_it(ways: Ways, statement: str, number: Any) -> None:
    ways.fate(statement, (number,), (type(number)(5),))


def test_a_column_without_a_name_is_named_as_its_literal_names_it(ways: Ways) -> None:
    for value in (Decimal("1.5"), Decimal("NaN"), 1.5, float("nan"), True, None, "x"):
        ways.agree("SELECT %s", (value,))


@pytest.mark.parametrize("statement", ["SELECT %s::interval day", "SELECT CAST(%s AS INTERVAL HOUR TO MINUTE)"])
def test_an_interval_with_fields_reads_its_text_by_them(ways: Ways, statement: str) -> None:
    for text in ("5", "2:30", "1 day 02:03:04"):
        ways.agree(statement, (text,))


def test_what_differs_each_time_differs_each_time(ways: Ways) -> None:
    statement = "SELECT nextval(%s) AS n, random() AS r, clock_timestamp() AS at, now() AS began, %s AS it"
    columns = ways.by_psycopg2(statement, ("numbers", 1))[2]
    rows = [ways.handler.query(statement, ("numbers", 1)) for _ in range(10)]
    assert all([tuple(column) for column in result.description] == columns for result in rows)
    assert [result[0].n - rows[0][0].n for result in rows] == list(range(10))
    assert len({result[0].r for result in rows}) == len({result[0].began for result in rows}) == 10


def test_runs_after_the_third_are_really_prepared(ways: Ways) -> None:
    statement = "SELECT %s + 1 AS really"
    for number in range(10):
        assert ways.handler.query(statement, (number,))[0].really == number + 1
    counted = (
        "SELECT custom_plans + generic_plans FROM pg_prepared_statements WHERE statement = 'SELECT $1 + 1 AS really'"
    )
    assert [tuple(row) for row in ways.handler.query(counted)] == [(2,)], (
        "five runs were planned for their values, then it was parsed anew"
    )


@pytest.mark.parametrize("statement", ["COPY things TO STDOUT", "COPY things FROM STDIN", "COPY (SELECT %s) TO STDOUT"])
def test_copy_is_refused_in_words_that_help(ways: Ways, statement: str) -> None:
    for _ in range(5):
        with pytest.raises(StatementRefused, match=r"COPY (FROM|TO) STD(IN|OUT)"):
            ways.handler.query(statement, (1,))
    assert ways.handler.query("SELECT 1")[0][0] == 1
