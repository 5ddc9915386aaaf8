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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres import Postgres
from psycopg2 import extensions, extras
from test_values import SCALARS
from ways import Ways

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
    jsonb_build_object('a', n, 'b', null), ARRAY['t' || n, 'it''s'], '2024-02-29 12:00+00', '2024-02-29', '1 day', n * 1e10, n, n % 2 = 0, NULL, '\\x00ff',
    '10.0.0.1', NULL FROM generate_series(1, 5) n;
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
    ("SELECT COALESCE(%s, name) AS it FROM things ORDER BY id", (None,), P),
    ("SELECT CASE WHEN %s THEN %s ELSE %s END AS it", (True, 1, 2.5), P),
    ("SELECT CASE WHEN id > %s THEN 'big' ELSE %s END AS it FROM things ORDER BY id", (3, "small"), P),
    ("SELECT %s IS NULL AS it", (5,), P),
    ("SELECT %s IS NULL AS it", ("x",), R),
    ("SELECT date_trunc(%s, at), count(*) FROM things GROUP BY date_trunc(%s, at)", ("day", "day"), R),
    ("SELECT at AT TIME ZONE %s, now() - %s < now() FROM things", ("Asia/Tokyo", timedelta(days=1)), P),
    ("SELECT day + %s, day - %s, at + %s FROM things", (5, date(2024, 1, 1), timedelta(hours=1)), P),
    ("SELECT substring(name from %s for %s), position(%s in name), trim(%s) FROM things", (2, 3, "m", " a "), P),
    ("SELECT lpad(%s, %s, %s)", ("a", 5, "*"), P),
    ("SELECT loud(%s)", (5,), P),
    # Casts.
    ("SELECT %s::int, %s::int8, %s::text, %s::numeric", ("5", 5, 5, "1.50"), P),
    ("SELECT %s::date, %s::timestamptz, %s::interval", ("2024-02-29", "2024-02-29 12:00+05", "1 day -3 hours"), P),
    ("SELECT %s::char(5) || '|', %s::varchar(2), %s::bit(4), %s::numeric(4, 1)", ("ab", "abc", "10101", "5.55"), P),
    ("SELECT CAST(%s AS int[]), %s::text[]", ("{1,2}", ["a"]), P),
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
    ("SELECT both_, (both_).second, mood, size FROM things WHERE both_ = %s AND mood = %s", ("(1,x)", "sad"), P),
    ("SELECT count(*) FROM things WHERE at < %s AND day = %s AND wait = %s", (noon, noon.date(), timedelta(1)), P),
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
    ("CREATE TABLE IF NOT EXISTS log (what text)", None, R),
    ("ALTER TABLE things ALTER price SET DEFAULT %s", (5,), R),
    ("SET work_mem = %s", ("4MB",), R),
    ("SHOW work_mem", None, R),
    ("EXPLAIN (COSTS OFF) SELECT %s", (5,), R),
    ("DO $$ BEGIN PERFORM 1; END $$", None, R),
    ("SELECT set_config('work_mem', %s, false)", ("5MB",), R),
    ("SELECT %s; SELECT %s AS it", (1, 2), R),
    ("SELECT %s;", (1,), P),
    ("-- a remark\nSELECT %s AS it /* another /* in it */ */ -- and one", (1,), P),
    ("SELECT %s AS it INTO TEMP dropped; DROP TABLE dropped", (1,), R),
    ("", None, L),
    ("-- nothing", None, L),
    ("SELECT %s FROM nowhere", (1,), L),
    ("SELECT U&'\\00e4', E'\\'', B'101', X'ff', 'a' 'b', %s", (1,), L),
    ("SELECT U&'\\00e4' AS u, E'it\\'s' AS e, B'101' AS b, X'ff' AS x, %s AS it", (1,), P),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "params", "fate"), CASES, ids=[f"{s!r:.70}-{p!r:.30}" for s, p, _ in CASES])
def test_a_statement_has_one_outcome_whichever_way_it_runs(ways: Ways, statement: str, params: Any, fate: str) -> None:
    assert ways.fate(statement, params) == fate
