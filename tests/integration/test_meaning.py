"""Statements whose meaning depends on when, by whom and under which settings they are read.

psycopg2 on a connection of its own is the judge: it reads every statement anew, at the moment at which it runs and
under the settings of its own client. Through poold it must mean the same on every path, however often it has run, and
whatever others ran before it on the same backend.
"""

import itertools
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from brokers import Broker
from examples import seeds
from postgres import Factory, Postgres
from psycopg2 import extensions, extras
from someone import Someone, attempt
from test_values import outcome
from waiting import wait_until

from client import DBError, Handler, UsageError

OPTIONS = "-c search_path=first,public -c TimeZone=Asia/Kolkata"
GROUPS = {
    "one": {"min_size": 1, "max_size": 1},
    "leased": {"min_size": 1, "max_size": 1, "autocommit": False},
}
# As often as it takes for a statement to be probed, prepared, and run on with a plan for any value.
RUNS = 12
TABLES = """
CREATE SCHEMA first; CREATE SCHEMA tenant; CREATE SCHEMA other_tenant;
CREATE ROLE reader; GRANT USAGE ON SCHEMA public, first, tenant TO reader;
CREATE TYPE mood AS ENUM ('sad', 'it''s ok', 'happy');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN days AS interval day;
CREATE DOMAIN short AS varchar(3);
CREATE TYPE pair AS (n int, what text);
CREATE TYPE moment AS (at timestamptz, what text);
CREATE TYPE stay AS (time interval day, what text);
CREATE TYPE span AS RANGE (subtype = timestamptz);
CREATE TABLE things (
    id int PRIMARY KEY, name varchar(5), code char(4), price numeric(8, 2), rough float4, small int2, big int8,
    at timestamptz, plain timestamp(0), day date, clock time(1), wait interval day, hours interval hour to minute,
    brief interval(0), waits interval day[], of_days days, mood mood, moods mood[], positive positive, pair pair,
    stay stay, short short, raw bytea, key uuid, flag boolean, data jsonb, span tstzrange, bits bit(3), far inet
);
INSERT INTO things (id, name, price, at, day, mood, flag, key, raw, wait, hours, brief, pair, moods)
SELECT n, 'n' || n, n * 1.5, '2026-01-01 12:00+00'::timestamptz + n * interval '6 hours', date '2026-01-01' + n,
    'sad', n % 2 = 0, ('00000000-0000-0000-0000-00000000000' || n)::uuid, '\\x00ff', '5 days', '2:30', '5 seconds',
    ROW(n, 'x')::pair, '{sad,happy}' FROM generate_series(1, 9) n;
CREATE TABLE clocks (id int, at timestamptz, day date, since timestamptz DEFAULT 'now', plain timestamp);
INSERT INTO clocks (id) VALUES (1);
CREATE TABLE codes (code text, active boolean, n int DEFAULT 0);
CREATE UNIQUE INDEX ON codes (code) WHERE active;
INSERT INTO codes VALUES ('a', true, 7);
CREATE INDEX ON things (day) WHERE flag;
CREATE TABLE tenant.things AS SELECT 'tenant' AS name, 100 AS id, '5'::text AS price, 'x'::text AS day;
CREATE TABLE item (code text); CREATE TABLE tenant.item (code int); CREATE TABLE other_tenant.item (code numeric(5, 1));
CREATE FUNCTION whose() RETURNS text LANGUAGE sql AS $$ SELECT 'public' $$;
CREATE FUNCTION tenant.whose() RETURNS text LANGUAGE sql AS $$ SELECT 'tenant' $$;
CREATE FUNCTION which(numeric) RETURNS text LANGUAGE sql AS $$ SELECT 'public numeric' $$;
CREATE FUNCTION tenant.which(int) RETURNS text LANGUAGE sql AS $$ SELECT 'tenant int' $$;
CREATE TYPE kind AS ENUM ('a', 'b'); CREATE TYPE tenant.kind AS ENUM ('a', 'c');
CREATE FUNCTION tenant.plus(int, int) RETURNS int LANGUAGE sql AS $$ SELECT 42 $$;
CREATE OPERATOR tenant.+ (FUNCTION = tenant.plus, LEFTARG = int, RIGHTARG = int);
CREATE VIEW seen AS SELECT id FROM things WHERE at >= '2026-01-02';
CREATE TABLE owned AS SELECT unnest('{reader,someone}'::text[]) AS owner;
ALTER TABLE owned ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON owned USING (owner = current_user);
GRANT ALL ON ALL TABLES IN SCHEMA public, tenant TO reader;
CREATE TABLE flags (id int, active boolean);
INSERT INTO flags SELECT g, g % 1000 = 0 FROM generate_series(1, 20000) g;
CREATE INDEX ON flags (id) WHERE active; ANALYZE flags;
CREATE TABLE jobs (id int, status text);
INSERT INTO jobs SELECT g, CASE WHEN g > 19995 THEN 'new' ELSE 'done' END FROM generate_series(1, 20000) g;
CREATE INDEX jobs_by_id ON jobs (id); CREATE INDEX jobs_by_status ON jobs (status); ANALYZE jobs;
CREATE TABLE by_key (id int PRIMARY KEY); INSERT INTO by_key SELECT generate_series(1, 20000); ANALYZE by_key
"""


@dataclass
class Paths:
    """All ways to run a statement: psycopg2's, and poold's in groups of one backend each on the same server."""

    server: Postgres
    broker: Broker
    connection: extensions.connection
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.db = self.broker.handler("one")
        self.tx = self.broker.handler("leased")

    def fresh(self, statement: str) -> str:
        """The statement as nobody has sent it before."""
        return f"{statement}\n/* {next(self.numbers)} */"

    def by_psycopg2(self, statement: str, params: Any = None, *before: str) -> Any:
        """The outcome on a connection of its own; behind others, in a transaction that is rolled back in the end."""
        cursor = self.connection.cursor()
        if not before:
            return outcome(lambda: (cursor.execute(statement, params), cursor)[1])
        cursor.execute("BEGIN")
        try:
            for each in before:
                cursor.execute(each)
            return outcome(lambda: (cursor.execute(statement, params), cursor)[1])
        finally:
            cursor.execute("ROLLBACK")

    def new_backends(self) -> None:
        """End the backends: on those that come nothing is prepared."""
        pids = [self.pid(handler) for handler in (self.db, self.tx)]
        self.server.execute("SELECT pg_terminate_backend(unnest(%s))", (pids,))

        def are_others() -> bool:
            try:
                return not set(pids) & {self.pid(handler) for handler in (self.db, self.tx)}
            except DBError:
                return False

        wait_until(are_others, 20, "backends in the place of those that ended")

    def pid(self, handler: Handler) -> int:
        try:
            return int(handler.query("SELECT pg_backend_pid()")[0][0])
        finally:
            handler.rollback()

    # Each path gives the outcomes of some runs, with what they are to be named in an error.

    def autocommit(self, statement: str, params: Any) -> Iterator[tuple[str, Any]]:
        for run in range(1, RUNS + 1):
            yield f"run {run}", outcome(lambda: self.db.query(statement, params))

    def lease(self, statement: str, params: Any) -> Iterator[tuple[str, Any]]:
        for lease in range(1, 5):
            try:
                for run in range(1, 4):
                    found = outcome(lambda: self.tx.query(statement, params))
                    yield f"run {run} in transaction {lease}", found
                    if len(found) != 4:
                        break
            finally:
                self.tx.rollback()

    def message(self, statement: str, params: Any) -> Iterator[tuple[str, Any]]:
        for run in range(1, 9):
            yield f"message {run}", message_outcome(self.db, [(statement, params)])

    def later_in_a_message(self, statement: str, params: Any) -> Iterator[tuple[str, Any]]:
        for run in range(1, 5):
            yield f"second in message {run}", message_outcome(self.db, ["SELECT 1", (statement, params)])

    def session(self, statement: str, params: Any) -> Iterator[tuple[str, Any]]:
        with self.db.session() as session:
            for run in range(1, 9):
                yield f"run {run} in a session", outcome(lambda: session.query(statement, params))

    def agree(self, statement: str, params: Any = None) -> Any:
        """All paths give what psycopg2 gives; that."""
        fresh = self.fresh(statement)
        theirs = self.by_psycopg2(fresh, params)
        for path in PATHS:
            for name, ours in path(self, fresh, params):
                assert same(ours, theirs), f"{name} of {fresh!r} with {params!r} gave\n{ours}\nbut psycopg2\n{theirs}"
        return theirs


PATHS: list[Callable[..., Iterator[tuple[str, Any]]]] = [
    Paths.autocommit, Paths.lease, Paths.message, Paths.later_in_a_message, Paths.session,
]  # fmt: skip


def same(ours: Any, theirs: Any) -> bool:
    """Whether they are the same; errors by class, code and first line (a message's error says where it stands)."""
    if len(theirs) == 4 or len(ours) == 4:
        return bool(ours == theirs)
    return bool(ours[:-1] == theirs[:-1] and theirs[-1].splitlines()[0] in ours[-1])


def message_outcome(db: Handler, statements: list[Any]) -> Any:
    """The outcome of the last of a message's statements; the message's error is its."""
    return outcome(lambda: db.run(statements, retries=0)[-1])


def truth(found: Any) -> Any:
    """The only cell of an outcome."""
    assert len(found) == 4, found
    return found[3][0][0]


@pytest.fixture(scope="module")
def paths(request: pytest.FixtureRequest, session_folder: Any, bindir: Any) -> Iterator[Paths]:
    factory = Factory(request.config.getoption("--postgres"), session_folder, bindir)
    server = factory()
    broker = Broker({"main": {**server.parameters, "options": OPTIONS, "query_timeout": 20}}, GROUPS)
    try:
        server.execute(TABLES)
        direct = server.connect(options=OPTIONS)
        yield Paths(server, broker.start(), direct)
        direct.close()
    finally:
        broker.close()
        factory.close()


# The moment at which a statement runs.

NOW = [
    # Spellings and quoting.
    "'now'::timestamptz", "' now '::timestamptz", "'NOW'::timestamptz", "'Now\t'::timestamptz", "E'now'::timestamptz",
    "E'\\156ow'::timestamptz", "E'n\\x6fw'::timestamptz", "E'\\u006eow'::timestamptz", "U&'now'::timestamptz",
    "U&'\\006eow'::timestamptz", "u&'!006eow' UESCAPE '!'::timestamptz", "$$now$$::timestamptz",
    "$of_all$now$of_all$::timestamptz", "'n'\n'ow'::timestamptz", "'no' -- it\n 'w'::timestamptz",
    "timestamptz 'now'", "TIMESTAMP WITH TIME ZONE 'now'", '"timestamptz" \'now\'', "pg_catalog.timestamptz 'now'",
    "timestamptz/**/'now'", "CAST('now' AS timestamptz)", "CAST('now' AS pg_catalog.timestamptz)",
    "timestamptz('now')", "'now'::timestamptz(6)", "timestamptz(6) 'now'", "'now'::text::timestamptz",
    "'now'::unknown::timestamptz", "('now')::timestamptz", "(((('now'))))::timestamptz", "%(now)s::timestamptz",
    "CAST(%(now)s AS timestamptz)", "timestamptz %(now)s",
    # Where it stands.
    "(ARRAY['now']::timestamptz[])[1]", "('{now}'::timestamptz[])[1]", "('{\"now\",infinity}'::timestamptz[])[1]",
    "('(now,x)'::moment).at", "(ROW('now', 'x')::moment).at", "lower('[now,)'::tstzrange)",
    "lower(tstzrange('now', NULL))", "lower('[now,)'::span)", "lower(('{[now,)}'::tstzmultirange))",
    "COALESCE(NULL, 'now')::timestamptz", "COALESCE(NULL::timestamptz, 'now')",
    "CASE WHEN true THEN 'now'::timestamptz END", "GREATEST('now'::timestamptz, '-infinity')",
    "(SELECT 'now'::timestamptz)", "(SELECT at FROM (VALUES ('now'::timestamptz)) v(at))",
    "'epoch'::timestamptz + ('now'::timestamptz - 'epoch'::timestamptz)",
    "date_trunc('microseconds', 'now'::timestamptz)",
    "(SELECT NULLIF('now', 'epoch'::timestamptz))", "timezone('UTC', timezone('UTC', timestamptz 'now'))",
]  # fmt: skip


@pytest.mark.parametrize("expression", NOW)
def test_now_is_the_moment_at_which_the_statement_runs(paths: Paths, expression: str) -> None:
    params = {"now": "now"} if "%(" in expression else None
    found = paths.agree(f"SELECT {expression} = now() AS it", params)
    assert truth(found) == (bool, "True")


NOW_IN = [
    ("SELECT count(*) = 0 AS it FROM clocks WHERE id = 0 OR now() <> 'now'", None),
    ("SELECT 'now' = now() AS it", None),
    ("SELECT now() IN ('now', 'epoch') AS it", None),
    ("SELECT now() = ANY('{now}') AS it", None),
    ("SELECT now() BETWEEN 'now' AND 'now' AS it", None),
    ("SELECT now() IS NOT DISTINCT FROM 'now' AS it", None),
    ("SELECT %s = now() AS it", ("now",)),
    ("SELECT age('now', now()) = '0' AS it", None),
    ("SELECT extract(epoch FROM timestamptz 'now') = extract(epoch FROM now()) AS it", None),
    ("UPDATE clocks SET at = 'now' WHERE id = 1 RETURNING at = now() AS it", None),
    ("UPDATE clocks SET (at, day) = ('now', 'today') RETURNING at = now() AND day = current_date AS it", None),
    ("UPDATE clocks SET at = %s RETURNING at = now() AS it", ("now",)),
    ("INSERT INTO clocks (id, at) VALUES (2, 'now') RETURNING at = now() AS it", None),
    ("INSERT INTO clocks (id, at) SELECT 2, 'now' RETURNING at = now() AS it", None),
    ("INSERT INTO clocks (id, at) VALUES (2, %s), (3, 'now') RETURNING at = now() AS it", ("now",)),
    ("WITH c AS (SELECT 'now'::timestamptz AS at) SELECT at = now() AS it FROM c", None),
    ("SELECT now() <= 'now' AND now() >= 'now' AS it FROM things LIMIT 1", None),
    ("SELECT 'now'::timestamp = localtimestamp AS it", None),
    ("SELECT timestamp 'now' = localtimestamp AS it", None),
    ("SELECT timestamp without time zone 'now' = localtimestamp AS it", None),
    ("SELECT 'now'::time = localtime AS it", None),
    ("SELECT time 'now' = localtime AS it", None),
    ("SELECT 'now'::timetz = current_time AS it", None),
    ("SELECT time with time zone 'now' = current_time AS it", None),
    ("SELECT 'now'::date = current_date AS it", None),
    # A column's default is read when the column is made.
    ("SELECT since = now() AS it FROM clocks LIMIT 1", None),
]


@pytest.mark.parametrize(("statement", "params"), NOW_IN, ids=[sql for sql, _ in NOW_IN])
def test_now_anywhere_in_a_statement_is_the_moment_at_which_it_runs(paths: Paths, statement: str, params: Any) -> None:
    found = paths.agree(statement, params)
    assert truth(found) == (bool, str("since" not in statement))


# They change at midnight, which no test waits for; but in these zones it is never the same day.
EAST, WEST = {"TimeZone": "Pacific/Kiritimati"}, {"TimeZone": "Pacific/Pago_Pago"}
DAYS = [
    "'today'::date = current_date", "date 'today' = current_date", "DATE' Today ' = current_date",
    "'today' = current_date", "current_date = ANY('{today}')", "E'\\x74oday'::date = current_date",
    "U&'\\0074oday'::date = current_date", "$$today$$::date = current_date", "CAST('TODAY' AS date) = current_date",
    "'tomorrow'::date = current_date + 1", "date 'tomorrow' - 1 = current_date",
    "'yesterday'::date = current_date - 1", "date('yesterday') = current_date - 1",
    "'today'::timestamp = current_date", "timestamptz 'today' = current_date",
    "'today 12:30'::timestamptz = current_date + time '12:30'",
        "'tomorrow 08:00'::timestamp - interval '32:00' = current_date",
    "'12:30 yesterday'::timestamp = current_date - 1 + time '12:30'",
    "'today allballs'::timestamp = current_date", "lower('[today,)'::daterange) = current_date",
    "lower('[today,tomorrow]'::tsrange) = current_date", "(ARRAY['today', 'tomorrow']::date[])[2] = current_date + 1",
    "('{yesterday}'::date[])[1] = current_date - 1", "('(today,x)'::moment).at = current_date",
    "COALESCE(NULL::date, 'today') = current_date", "to_char(date 'today', 'J') = to_char(current_date, 'J')",
    "'tomorrow'::timestamptz = current_date + 1",
    "%(day)s::date = current_date", "%(day)s = current_date", "date %(day)s = current_date",
]  # fmt: skip


@pytest.mark.parametrize("condition", DAYS)
def test_days_are_those_of_the_day_and_the_zone_in_which_the_statement_runs(paths: Paths, condition: str) -> None:
    params = {"day": "today"} if "%(" in condition else None
    statement = paths.fresh(f"SELECT {condition} AS it")
    plain = [truth(outcome(lambda: paths.db.query(statement, params))) for _ in range(RUNS)]
    elsewhere = [
        truth(outcome(lambda zone=zone: paths.db.query(statement, params, settings=zone)))  # type: ignore[misc]
        for zone in (EAST, WEST, EAST, WEST)
    ]
    in_messages = [
        truth(message_outcome(paths.db, [f"SET LOCAL TimeZone = '{zone['TimeZone']}'", (statement, params)]))
        for zone in (EAST, WEST, EAST, WEST)
    ]
    # With literals in a database's own connection it is so by definition; and so it was there.
    cursor = paths.connection.cursor()
    cursor.execute(statement, params)
    assert cursor.fetchone() == (True,)
    assert {*plain, *elsewhere, *in_messages} == {(bool, "True")}, (plain, elsewhere, in_messages)


@pytest.mark.parametrize(
    "word", ["now", "today", "tomorrow", "yesterday", " Today ", "NOW", "today 12:00", "10:00 tomorrow"]
)
@pytest.mark.parametrize("form", ["'{}'::timestamptz", "timestamp '{}'", "CAST(E'{}' AS timestamptz)",
    "$${}$$::timestamp",
                                  "('{{\"{}\"}}'::timestamptz[])[1]", "COALESCE(NULL::timestamp, '{}')"])  # fmt: skip
def test_a_constant_that_is_read_by_the_clock_is_not_kept_on_the_server(paths: Paths, word: str, form: str) -> None:
    marker = f"kept_{next(paths.numbers)}"
    statement = f"SELECT {form.format(word)} AS {marker}"
    for _ in range(RUNS):
        paths.db.query(statement)
    kept = paths.db.query(f"SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%{marker}%'")
    assert [row[0] for row in kept if "pg_prepared_statements" not in row[0]] == []


# What a value means depends on the place it is put in.

minus = timedelta(days=-1, seconds=5)
CASES: list[tuple[str, Any]] = [
    # Intervals, whose fields and digits are those of the column.
    *[(f"UPDATE things SET {column} = %s WHERE id = 1 RETURNING {column}::text", (value,))
      for column in ("wait", "hours", "brief", "of_days") for value in ("5", "2:30", "1 day 02:03:04.567", "-5", None)],
    *[(f"INSERT INTO things (id, {column}) VALUES (100 + (random() * 1e9)::int, %s) RETURNING {column}::text", ("5",))
      for column in ("wait", "hours", "brief", "of_days")],
    ("UPDATE things SET waits = %s WHERE id = 1 RETURNING waits::text", (["5", "7"],)),
    ("UPDATE things SET waits = %s WHERE id = 1 RETURNING waits::text", ("{5,7}",)),
    ("UPDATE things SET waits[2] = %s WHERE id = 1 RETURNING waits::text", ("5",)),
    ("UPDATE things SET stay = %s WHERE id = 1 RETURNING stay::text", ("(5,x)",)),
    ("UPDATE things SET stay.time = %s WHERE id = 1 RETURNING stay::text", ("5",)),
    ("SELECT count(*) FROM things WHERE wait = %s", ("5",)),
    ("SELECT count(*) FROM things WHERE wait > %s", ("5",)),
    ("SELECT %s::interval day::text AS it", ("5",)),
    ("SELECT CAST(%s AS interval hour to minute)::text AS it", ("2:30",)),
    ("SELECT %s::interval(0)::text AS it", ("1.567 seconds",)),
    ("SELECT %s::days::text AS it", ("5",)),
    ("SELECT (%s::interval day[])::text AS it", (["5"],)),
    ("SELECT COALESCE(%s, wait)::text AS it FROM things ORDER BY id", ("5",)),
    ("SELECT CASE WHEN id > 4 THEN wait ELSE %s END::text AS it FROM things ORDER BY id", ("5",)),
    ("SELECT wait::text FROM things WHERE id = 1 UNION SELECT %s", ("5",)),
    ("SELECT at + %s FROM things ORDER BY id", ("5",)),
    ("SELECT (now() - %s < now()) AS it", ("5",)),
    ("INSERT INTO things (id, wait) VALUES (1, %s) ON CONFLICT (id) DO UPDATE SET wait = EXCLUDED.wait "
     "RETURNING wait::text",
     ("5",)),
    # Scales and lengths.
    ("UPDATE things SET price = %s WHERE id = 1 RETURNING price", (Decimal("1.10"),)),
    ("UPDATE things SET price = %s WHERE id = 1 RETURNING price", (1.005,)),
    ("UPDATE things SET price = %s WHERE id = 1 RETURNING price", (10_000_000,)),
    ("UPDATE things SET price = %s + price WHERE id = 2 RETURNING price - %s", (0, Decimal("1.100"))),
    ("SELECT %s + 1, %s * 2, %s / 3", (Decimal("1.10"), Decimal("1.10"), Decimal("-1.10"))),
    ("SELECT count(*) FROM things WHERE price = %s", (1.5,)),
    ("SELECT count(*) FROM things WHERE price = %s", ("1.50",)),
    ("SELECT count(*) FROM things WHERE rough = %s", (0.1,)),
    ("UPDATE things SET rough = %s WHERE id = 1 RETURNING rough, rough = %s AS it", (0.1, 0.1)),
    ("UPDATE things SET name = %s WHERE id = 1 RETURNING name", ("abc  ",)),
    ("UPDATE things SET name = %s WHERE id = 1 RETURNING name", ("too long",)),
    ("UPDATE things SET name = %s WHERE id = 1 RETURNING name", ("abcde   ",)),
    ("UPDATE things SET code = %s WHERE id = 1 RETURNING code, code = %s AS it, length(code)", ("a", "a   ")),
    ("UPDATE things SET short = %s WHERE id = 1", ("abcd",)),
    ("SELECT %s::varchar(3) AS it, %s::char(3) AS c, %s::numeric(4, 1) AS n", ("abcdef", "ab", "12.345")),
    ("UPDATE things SET plain = %s, clock = %s WHERE id = 1 RETURNING plain, clock",
     ("2026-01-01 12:00:00.6", "12:00:00.25")),
    ("UPDATE things SET small = %s WHERE id = 1", (40_000,)),
    ("UPDATE things SET small = %s, big = %s WHERE id = 1 RETURNING small + 1, big + 1", ("7", "8")),
    ("UPDATE things SET bits = %s WHERE id = 1 RETURNING bits", ("101",)),
    # Types that only the column tells.
    ("SELECT id FROM things WHERE mood = %s ORDER BY id", ("sad",)),
    ("SELECT id FROM things WHERE mood > %s ORDER BY id", ("it's ok",)),
    ("SELECT id FROM things WHERE mood IN %s ORDER BY id", (("sad", "happy"),)),
    ("SELECT id FROM things WHERE mood = ANY(%s) ORDER BY id", (["sad"],)),
    ("SELECT id FROM things WHERE mood = ANY(%s::mood[]) ORDER BY id", (["sad"],)),
    ("SELECT id FROM things WHERE mood = %s", ("glad",)),
    ("UPDATE things SET moods = %s WHERE id = 1 RETURNING moods", (["sad"],)),
    ("UPDATE things SET moods = %s::mood[] WHERE id = 1 RETURNING moods", (["sad", "it's ok"],)),
    ("UPDATE things SET moods[1] = %s WHERE id = 1 RETURNING moods", ("happy",)),
    ("UPDATE things SET positive = %s WHERE id = 1 RETURNING positive", (5,)),
    ("UPDATE things SET positive = %s WHERE id = 1 RETURNING positive", (-5,)),
    ("SELECT %s::positive AS it", ("-5",)),
    ("UPDATE things SET pair = %s WHERE id = 1 RETURNING pair, (pair).n", ("(1,x)",)),
    ("UPDATE things SET pair = %s WHERE id = 1 RETURNING pair, (pair).n", ((1, "x"),)),
    ("UPDATE things SET pair = ROW(%s, %s) WHERE id = 1 RETURNING pair, (pair).n", ("1", "x")),
    ("UPDATE things SET pair.n = %s WHERE id = 1 RETURNING pair", ("7",)),
    ("SELECT id FROM things WHERE pair = %s::pair", ((3, "x"),)),
    ("UPDATE things SET span = %s WHERE id = 1 RETURNING span", ("[2026-01-01,2026-01-02)",)),
    ("UPDATE things SET span = %s WHERE id = 1 RETURNING span",
     (extras.DateTimeTZRange(datetime(2026, 1, 1, tzinfo=UTC), None),)),
    ("SELECT id FROM things WHERE key = %s", ("00000000-0000-0000-0000-000000000005",)),
    ("SELECT id FROM things WHERE key = %s::uuid", ("00000000-0000-0000-0000-000000000005",)),
    ("SELECT id FROM things WHERE id = %s", ("5",)),
    ("SELECT id FROM things WHERE id = %s", (5.0,)),
    ("SELECT id FROM things WHERE name = %s", (5,)),
    ("SELECT id FROM things WHERE day = %s", ("2026-01-03",)),
    ("SELECT id FROM things WHERE day = %s ORDER BY id", (datetime(2026, 1, 3),)),
    ("SELECT id FROM things WHERE at::date = %s ORDER BY id", (date(2026, 1, 2),)),
    ("SELECT id FROM things WHERE at >= %s AND at < %s ORDER BY id", (date(2026, 1, 2), "2026-01-03")),
    ("SELECT id FROM things WHERE at >= %s ORDER BY id", (datetime(2026, 1, 2, 12),)),
    ("SELECT data -> %s, data ->> %s FROM things WHERE id = 1", ("a", 0)),
    ("SELECT %s || %s AS it", ("a", 5)),
    ("SELECT %s || %s AS it", ([1], 5)),
    ("SELECT which(%s) AS it", (5,)),
    ("SELECT which(%s) AS it", ("5",)),
    ("SELECT far FROM things WHERE far << %s", ("10.0.0.0/8",)),
    # Clauses that read a number as a place.
    ("SELECT id, name FROM things WHERE id < 4 ORDER BY %s DESC", (1,)),
    ("SELECT id, name FROM things WHERE id < 4 ORDER BY %s", ("name",)),
    ("SELECT flag, count(*) FROM things GROUP BY %s ORDER BY %s", (1, 1)),
    ("SELECT flag, count(*) FROM things GROUP BY flag, %s::int ORDER BY 1", (1,)),
    ("SELECT day - %s AS d, count(*) FROM things GROUP BY day - %s ORDER BY 1", (1, 1)),
    ("SELECT DISTINCT ON (%s) id FROM things ORDER BY 1", (1,)),
    ("SELECT id FROM things ORDER BY id LIMIT %s OFFSET %s", (3, "2")),
    # Indexes that only values match.
    ("INSERT INTO codes (code, active) VALUES (%s, true) ON CONFLICT (code) WHERE active = %s "
     "DO UPDATE SET n = 7 RETURNING n",
     ("a", True)),
    ("INSERT INTO codes (code, active) VALUES (%s, true) ON CONFLICT (code) WHERE active DO NOTHING RETURNING n",
        ("a",)),
    ("INSERT INTO codes (code, active) VALUES (%s, true) ON CONFLICT (code) WHERE active = %s DO NOTHING", ("a",
        False)),
    ("SELECT id FROM things WHERE flag = %s AND day = %s ORDER BY id", (True, "2026-01-03")),
    # LIKE, percent signs, backslashes, bytes.
    ("SELECT id FROM things WHERE name LIKE %s ORDER BY id", ("n%",)),
    ("SELECT id FROM things WHERE name LIKE 'n%%' AND name LIKE %s ORDER BY id", ("%5",)),
    ("SELECT %s LIKE %s ESCAPE %s AS it", ("a%b", "a!%b", "!")),
    ("SELECT %s LIKE %s AS it", ("a\\b", "a\\\\b")),
    ("SELECT %s AS it, length(%s)", ("\\", "it's \\'")),
    ("SELECT E'\\\\' || %s || '\\' AS it", ("\\n",)),
    ("SELECT %s ~ %s AS it", ("a1", "\\d")),
    ("SELECT name ~* %s FROM things WHERE id = 1", ("^N\\d$",)),
    ("SELECT %s::bytea AS it, %s AS raw", ("\\x00ff", b"\x00\\'")),
    ("SELECT id FROM things WHERE raw = %s ORDER BY id", (b"\x00\xff",)),
    ("SELECT id FROM things WHERE raw = %s ORDER BY id", ("\\x00ff",)),
    ("UPDATE things SET raw = %s WHERE id = 1 RETURNING raw, length(raw)", ("\\000\\\\",)),
    # Signs.
    ("SELECT %s::date AS it", ("2026-01-02",)),
    ("SELECT day - %s AS it FROM things WHERE id = 1", (-5,)),
    ("SELECT day -%s AS it FROM things WHERE id = 1", (-5,)),
    ("SELECT 5 -%s, 5 - -%s, 5-%s, -%s, - %s", (-3, -3, -3, -3, -3)),
    ("SELECT %s-%s, %s - %s", (-3, -4, -3, -4)),
    ("SELECT %s::text, (%s)::text, CAST(%s AS text)", (-5, -5, -5)),
    ("SELECT %s::int2, %s::float8, %s::numeric(5, 1)", (-5, -5.5, Decimal("-5.55"))),
    ("SELECT %s::int4, %s::int8", (-(2**31), -(2**63))),
    ("SELECT %s ^ 2, 2 ^ %s, abs(%s), %s %% 3, @ %s", (-3, -3, -3, -5, -5)),
    ("SELECT %s::uuid, %s::date - %s::date", (UUID(int=5), date(2026, 1, 3), "2026-01-01")),
    ("SELECT %s + interval '-1 day', %s - interval '1 day'", (date(2026, 1, 1), datetime(2026, 1, 1))),
    ("SELECT %s::interval, -%s, %s * -1", (minus, minus, minus)),
    ("SELECT (data ->> 'a')::int - %s FROM things WHERE id = 1", (-1,)),
    ("SELECT ARRAY[%s, %s] AS it, %s = ANY(ARRAY[-1, 2])", (-1, 2, -1)),
    ("SELECT '{\"a\": 1}'::jsonb - %s AS it", ("a",)),
    ("SELECT id FROM things WHERE id BETWEEN %s AND -%s ORDER BY id", (-5, -3)),
    # Views and functions with constants of their own, which are read once by anybody.
    ("SELECT count(*) FROM seen", None),
    ("SELECT whose(), 'a'::kind, %s::kind", ("b",)),
    ("SELECT 'c'::kind", None),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "params"), CASES, ids=[f"{s[:70]}-{p!r:.30}" for s, p in CASES])
def test_a_value_means_what_it_means_as_a_literal(paths: Paths, statement: str, params: Any) -> None:
    paths.agree(statement, params)


@pytest.mark.parametrize(("statement", "params"), [
    ("SELECT %s::timestamptz AS it", [("now",), ("2026-01-01",), ("2026-01-01 12:00+05",)]),
    ("SELECT id FROM things WHERE id = %s", [(5,), ("5",), (2**40,), (5.5,), (None,), (Decimal(5),)]),
    ("UPDATE things SET wait = %s WHERE id = 1 RETURNING wait::text", [(timedelta(5),), ("5",), ("5 hours",), (None,)]),
    ("UPDATE things SET price = %s WHERE id = 1 RETURNING price",
        [(1,), ("1.005",), (1.005,), (Decimal("1.005"),), ("x",)]),
    ("SELECT %s::int AS it", [("5",), (5,), (-5,), ("-5",), (5.5,), ("x",), (True,)]),
    ("SELECT id FROM things WHERE name = %s", [("n1",), (5,), (None,), (["n1"],), (b"n1",)]),
])  # fmt: skip
def test_values_of_many_types_in_turn_mean_what_they_mean_as_literals(
    paths: Paths, statement: str, params: Any
) -> None:
    fresh = paths.fresh(statement)
    for value in params * 6:
        theirs = paths.by_psycopg2(fresh, value)
        if value != ("now",):
            assert same(outcome(lambda value=value: paths.db.query(fresh, value)), theirs), value  # type: ignore[misc]
            assert same(message_outcome(paths.db, [(fresh, value)]), theirs), value
            with paths.db.session() as session:
                assert same(outcome(lambda value=value: session.query(fresh, value)), theirs), value  # type: ignore[misc]


# Others ran first.

# What depends on the settings under which it is read.
DEPENDENT: list[tuple[str, Any]] = [
    ("SELECT timestamptz '2026-01-01 12:00' AS it", None),
    ("SELECT '2026-01-01 12:00'::timestamptz AS it", None),
    ("SELECT %s::timestamptz AS it", ("2026-01-01 12:00",)),
    ("SELECT id FROM public.things WHERE at < '2026-01-02' ORDER BY id", None),
    ("SELECT id FROM public.things WHERE at >= %s ORDER BY id", ("2026-01-02",)),
    ("SELECT date_trunc('day', at) FROM public.things ORDER BY id", None),
    ("SELECT '{2026-01-01 12:00}'::timestamptz[] AS it", None),
    ("SELECT '01/02/2026'::date AS it", None),
    ("SELECT date '01/02/2026' - date '2026-01-01' AS it", None),
    ("SELECT %s::date AS it", ("01/02/2026",)),
    (
        "SELECT interval '1-2' = interval '1 year 2 months' AS it, '-1 2:03:04'::interval = '-1 days -2:03:04' AS n",
        None,
    ),
    ("SELECT * FROM things ORDER BY id LIMIT 1", None),
    ("SELECT name FROM things WHERE id = %s", (100,)),
    ("INSERT INTO item (code) VALUES (%s) RETURNING code::text", ("007",)),
    ("INSERT INTO item (code) VALUES ('007.25') RETURNING code::text", None),
    ("SELECT whose() AS it", None),
    ("SELECT which(%s) AS it", (5,)),
    ("SELECT 'c'::kind::text AS it", None),
    ("SELECT 1 + 1 AS it", None),
    ("SELECT %s + 1 AS it", (1,)),
    ("SELECT count(*) FROM public.owned", None),
    ("SELECT current_schema() AS it, current_user::text AS who", None),
    ("SELECT NULL = NULL AS it, id = NULL AS n FROM public.things LIMIT 1", None),
]
# What others do before a statement, in words of PostgreSQL.
ZONE, PATH = "SET LOCAL TimeZone = 'America/New_York'", "SET LOCAL search_path = tenant, public"
BEFORE = [
    ZONE,
    PATH,
    "SET LOCAL search_path = other_tenant, tenant, pg_catalog",
    "SET LOCAL search_path = tenant, pg_catalog",
    "SET LOCAL DateStyle = 'ISO, DMY'",
    "SET LOCAL IntervalStyle = 'sql_standard'",
    "SET LOCAL ROLE reader",
    "SET LOCAL transform_null_equals = on",
    "SELECT set_config('search_path', 'tenant', true)",
    "SELECT set_config('TimeZone', 'Asia/Tokyo', true)",
    "DO $$ BEGIN SET LOCAL search_path = tenant; END $$",
    "DO $$ BEGIN PERFORM set_config('TimeZone', 'Asia/Tokyo', true); END $$",
    "DO $$ BEGIN SET LOCAL ROLE reader; END $$",
    "UPDATE pg_settings SET setting = 'Asia/Tokyo' WHERE name = 'TimeZone'",
    "CREATE TEMP TABLE things (id int, name text) ON COMMIT DROP",
    "CREATE TEMP TABLE item (code int) ON COMMIT DROP",
    "CREATE TABLE first.things (id bigint, name text)",
    "ALTER TABLE item ALTER code TYPE varchar(2) USING 'x'",
]
SETTINGS = [
    {"TimeZone": "America/New_York"},
    {"search_path": "tenant"},
    {"search_path": "tenant, public", "TimeZone": "Asia/Tokyo"},
    {"search_path": "other_tenant, public"},
    {"DateStyle": "ISO, DMY"},
    {"role": "reader"},
    {"transform_null_equals": "on"},
]


def by_settings(settings: dict[str, str]) -> list[str]:
    """The same in words of PostgreSQL."""
    return [f"SELECT set_config('{name}', '{value}', true)" for name, value in settings.items()]


def refused(found: Any) -> bool:
    """Whether poold, not PostgreSQL, has refused it; whoever is refused is told so, and gets nothing wrong."""
    return isinstance(found, UsageError)


@dataclass
class Poisoner:
    """Somebody else, on the same backends."""

    paths: Paths
    way: str
    before: str | dict[str, str]

    def run(self, statement: str, params: Any) -> Any:
        """The statement behind `before`, and the outcome; None where poold refuses to have it so."""
        paths, before = self.paths, self.before
        if isinstance(before, dict):
            return known(
                attempt(lambda: outcome_or_refusal(lambda: paths.db.query(statement, params, settings=before)))
            )
        if self.way == "message":
            return known(outcome_or_refusal(lambda: paths.db.run([before, (statement, params)], retries=0)[-1]))
        handler = paths.tx if self.way == "lease" else paths.db.session()
        try:
            if self.way == "session":
                handler.query("BEGIN")
            first = attempt(handler.query, before)
            if isinstance(first, UsageError):
                return None
            assert not isinstance(first, Exception), f"{before}: {first!r}"
            return known(outcome_or_refusal(lambda: handler.query(statement, params)))
        finally:
            handler.rollback()
            if self.way == "session":
                handler.close()  # type: ignore[attr-defined]

    def theirs(self, statement: str, params: Any) -> Any:
        before = by_settings(self.before) if isinstance(self.before, dict) else [self.before]
        return self.paths.by_psycopg2(statement, params, *before)


def outcome_or_refusal(run: Callable[[], Any]) -> Any:
    """`outcome`, or the UsageError itself."""
    refusals: list[UsageError] = []

    def noted() -> Any:
        try:
            return run()
        except UsageError as error:
            refusals.append(error)
            raise

    found = outcome(noted)
    return refusals[0] if refusals else found


def known(found: Any) -> Any:
    return None if isinstance(found, UsageError) else found


# A message commits what its first statement makes, and everybody would have it.
POISONS: list[tuple[str, Any]] = [("settings", each) for each in SETTINGS] + [
    (way, each)
    for way in ("message", "lease", "session")
    for each in BEFORE
    if way != "message" or not each.startswith(("CREATE TABLE", "ALTER"))
]


@pytest.mark.parametrize("seed", seeds(1))
@pytest.mark.parametrize(("way", "before"), POISONS, ids=[f"{way}-{before}" for way, before in POISONS])
def test_what_others_set_first_is_in_force_for_them_alone(paths: Paths, way: str, before: Any, seed: int) -> None:
    chance = random.Random(f"{seed} {way} {before}")
    poisoner = Poisoner(paths, way, before)
    # A run of others' may be the one that probes it, the first with what is prepared, or one of many.
    some = chance.sample(DEPENDENT, 6)
    runs = {fresh: chance.randrange(8) for fresh in [(paths.fresh(sql), params) for sql, params in some]}
    with Someone() as somebody:
        wrong = []
        right = {each: paths.by_psycopg2(*each) for each in runs}
        for each, count in runs.items():
            for run in range(count):
                found = outcome(lambda each=each: paths.db.query(*each))  # type: ignore[misc]
                if not same(found, right[each]):
                    wrong.append((f"run {run} before", each, found, right[each]))
        if chance.random() < 0.3:
            paths.new_backends()
        for each in runs:
            theirs = poisoner.theirs(*each)
            for run in range(2):
                ours = somebody.do(poisoner.run, *each)
                if ours is not None and not same(ours, theirs):
                    wrong.append((f"run {run} behind {before}", each, ours, theirs))
        for each in runs:
            for name, found in [
                *[("as others then", outcome(lambda each=each: paths.db.query(*each))) for _ in range(2)],  # type: ignore[misc]
                ("in a message then", message_outcome(paths.db, [each])),
                next(paths.lease(*each)),
            ]:
                if not same(found, right[each]):
                    wrong.append((name, each, found, right[each]))
    assert not wrong, f"{len(wrong)} are wrong; by {way} behind {before}:\n" + "\n".join(
        f"    {name}, {each[0]!r} with {each[1]!r}:\n        {ours}\n        but psycopg2\n        {theirs}"
        for name, each, ours, theirs in wrong[:4]
    )


def test_the_meanings_do_depend_on_what_comes_before(paths: Paths) -> None:
    unmoved = [
        before
        for way, before in POISONS
        if way in ("settings", "message")
        and all(
            same(Poisoner(paths, way, before).theirs(*each), paths.by_psycopg2(*each))
            for each in [(paths.fresh(sql), params) for sql, params in DEPENDENT]
        )
    ]
    assert unmoved == []


# The planner.


@dataclass
class Reads:
    """How many rows and index entries are read, by PostgreSQL's own count: no clock tells as exactly what a plan is."""

    paths: Paths

    def of(self, statement: str, params: Any, **more: Any) -> int:
        """By one run through poold."""
        before = self._count()
        self.paths.db.query(statement, params, **more)
        return self._count() - before

    def by_psycopg2(self, statement: str, params: Any) -> int:
        before = self._counted(self.paths.connection)
        self.paths.connection.cursor().execute(statement, params)
        return self._counted(self.paths.connection) - before

    def _count(self) -> int:
        # A backend tells what it has counted when it is asked to, at the end of that transaction.
        self.paths.db.query("SELECT pg_stat_force_next_flush()", prepare=False)
        self.paths.db.query("SELECT 1", prepare=False)
        return self._counted(self.paths.connection)

    def _counted(self, connection: extensions.connection) -> int:
        cursor = connection.cursor()
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute(
            "SELECT (SELECT sum(coalesce(seq_tup_read, 0)) FROM pg_stat_user_tables WHERE relname = ANY(%(of)s)) + "
            "(SELECT sum(coalesce(idx_tup_read, 0)) FROM pg_stat_user_indexes WHERE relname = ANY(%(of)s))",
            {"of": ["jobs", "by_key", "flags"]},
        )
        row = cursor.fetchone()
        assert row is not None
        return int(row[0])


JOBS = "SELECT id FROM jobs WHERE status = %s ORDER BY id LIMIT 10"
BY_KEY = "SELECT id FROM by_key WHERE id = %s"
FEW = 1000


def test_a_rare_value_is_found_as_quickly_as_with_a_literal_after_many_runs_with_a_common_one(paths: Paths) -> None:
    reads = Reads(paths)
    assert reads.by_psycopg2(JOBS, ("new",)) < FEW, "with a literal"
    for _ in range(RUNS):
        paths.db.query(JOBS, ("done",))
    assert reads.of(JOBS, ("new",)) < FEW
    for _ in range(RUNS):
        with paths.tx as tx:
            tx.query(JOBS, ("done",))
        paths.db.run([(JOBS, ("done",))])
    assert reads.of(JOBS, ("new",)) < FEW


@pytest.mark.parametrize("runs", [0, 3, 6, 9])
def test_others_planner_settings_do_not_get_into_a_plan(paths: Paths, runs: int) -> None:
    reads, statement = Reads(paths), paths.fresh(BY_KEY)
    slow = {"enable_indexscan": "off", "enable_bitmapscan": "off", "enable_indexonlyscan": "off"}
    for number in range(runs):
        paths.db.query(statement, (number,))
    paths.db.query(statement, (5,), settings=slow)
    paths.db.run([*[f"SET LOCAL {name} = {value}" for name, value in slow.items()], (statement, (5,))])
    assert [reads.of(statement, (number,)) < FEW for number in range(3)] == [True] * 3
    assert reads.of(statement, (5,), settings=slow) >= FEW, "and they are in force for whom they are"


def test_a_partial_index_matches_however_often_the_statement_has_run(paths: Paths) -> None:
    reads, statement = Reads(paths), "SELECT count(*) FROM flags WHERE active = %s AND id > %s"
    assert reads.by_psycopg2(statement, (True, 5)) < FEW, "with literals"
    assert [reads.of(statement, (True, 5)) < FEW for _ in range(RUNS + 4)] == [True] * (RUNS + 4)


UPSERT = "INSERT INTO codes (code, active) VALUES (%s, true) ON CONFLICT (code) WHERE active = %s DO UPDATE SET n = 1"


def test_no_transaction_fails_for_how_its_statements_were_prepared(paths: Paths) -> None:
    def transaction() -> str:
        with paths.tx as tx:
            return tx.query(UPSERT, ("b", True)).statusmessage or ""

    assert [attempt(transaction) for _ in range(40)] == ["INSERT 0 1"] * 40


# Definitions that change.

# How it begins, what changes it, and a statement that tells.
CHANGES: dict[str, tuple[str, str, str, Any]] = {
    "a column's type": (
        "CREATE TABLE {0} (code int)", "ALTER TABLE {0} ALTER code TYPE text",
        "INSERT INTO {0} VALUES (%s) RETURNING code::text", ("007",)),
    "a column's type, read": (
        "CREATE TABLE {0} AS SELECT 5 AS code", "ALTER TABLE {0} ALTER code TYPE numeric(5, 2)",
        "SELECT code FROM {0} WHERE code >= %s", (1,)),
    "a column's length": (
        "CREATE TABLE {0} (code varchar(9))", "ALTER TABLE {0} ALTER code TYPE varchar(2) USING 'x'",
        "INSERT INTO {0} VALUES (%s) RETURNING code", ("abc",)),
    "one column more": ("CREATE TABLE {0} AS SELECT 1 AS a", "ALTER TABLE {0} ADD b int DEFAULT 7",
        "SELECT * FROM {0}", None),
    "one column less": ("CREATE TABLE {0} AS SELECT 1 AS a, 2 AS b", "ALTER TABLE {0} DROP a", "SELECT * FROM {0}",
        None),
    "a column of that name again": (
        "CREATE TABLE {0} AS SELECT 1 AS a, 2 AS b", "ALTER TABLE {0} DROP a, ADD a text DEFAULT 'x'",
        "SELECT * FROM {0} WHERE b = %s", (2,)),
    "a column's name": (
        "CREATE TABLE {0} AS SELECT 1 AS a", "ALTER TABLE {0} RENAME a TO b", "SELECT * FROM {0}", None),
    "another table of that name": (
        "CREATE TABLE {0} AS SELECT 1 AS a", "DROP TABLE {0}; CREATE TABLE {0} AS SELECT 'x'::text AS a",
        "SELECT a FROM {0}", None),
    "two tables' names": (
        "CREATE TABLE {0} AS SELECT 1 AS a; CREATE TABLE {0}_b AS SELECT 2 AS a",
        "ALTER TABLE {0} RENAME TO {0}_c; ALTER TABLE {0}_b RENAME TO {0}", "SELECT a FROM {0} WHERE a > %s", (0,)),
    "a table that comes before": (
        "CREATE TABLE {0} AS SELECT 1 AS a", "CREATE TABLE first.{0} (a int)",
        "SELECT count(*) FROM {0} WHERE a >= %s", (0,)),
    "a table that comes before, AS": (
        "CREATE TABLE {0} AS SELECT 1 AS a", "CREATE TABLE first.{0} AS SELECT 2 AS a", "SELECT a FROM {0}", None),
    "a table that comes before, INTO": (
        "CREATE TABLE {0} AS SELECT 1 AS a", "SELECT 2 AS a INTO first.{0}", "SELECT a FROM {0} WHERE a > %s", (0,)),
    "a table that moves": (
        "CREATE TABLE {0} AS SELECT 1 AS a; CREATE TABLE tenant.{0} AS SELECT 2 AS a",
        "ALTER TABLE tenant.{0} SET SCHEMA first", "SELECT a FROM {0} WHERE a > %s", (0,)),
    "a view that comes before": (
        "CREATE TABLE {0} AS SELECT 1 AS a", "CREATE VIEW first.{0} AS SELECT 2 AS a",
        "SELECT a FROM {0} WHERE a > %s", (0,)),
    "a view": (
        "CREATE VIEW {0} AS SELECT 1 AS a", "CREATE OR REPLACE VIEW {0} AS SELECT 2 AS a",
        "SELECT a FROM {0} WHERE a > %s", (0,)),
    "a function that fits better": (
        "CREATE FUNCTION {0}(numeric) RETURNS text RETURN 'numeric'",
        "CREATE FUNCTION {0}(int) RETURNS text RETURN 'int'",
        "SELECT {0}(%s) AS it", (5,)),
    "a function that comes before": (
        "CREATE FUNCTION {0}(int) RETURNS text RETURN 'public'",
        "CREATE FUNCTION first.{0}(int) RETURNS text RETURN 'first'",
        "SELECT {0}(%s) AS it", (5,)),
    "a function": (
        "CREATE FUNCTION {0}(int) RETURNS text LANGUAGE sql IMMUTABLE RETURN 'before'",
        "CREATE OR REPLACE FUNCTION {0}(int) RETURNS text LANGUAGE sql IMMUTABLE RETURN 'after'",
        "SELECT {0}(5) AS it", None),
    "a function's type": (
        "CREATE FUNCTION {0}() RETURNS int RETURN 1",
        "DROP FUNCTION {0}(); CREATE FUNCTION {0}() RETURNS text RETURN 'x'",
        "SELECT {0}() AS it", None),
    "a type that comes before": (
        "CREATE TYPE {0} AS ENUM ('a')", "CREATE TYPE first.{0} AS ENUM ('b')", "SELECT 'b'::{0}::text AS it", None),
    "a domain's check": (
        "CREATE DOMAIN {0} AS int", "ALTER DOMAIN {0} ADD CHECK (VALUE > 9)", "SELECT %s::{0} AS it", (5,)),
    "a value of an enum": (
        "CREATE TYPE {0} AS ENUM ('a'); CREATE TABLE {0}_t (e {0})", "ALTER TYPE {0} RENAME VALUE 'a' TO 'b'",
        "INSERT INTO {0}_t VALUES (%s)", ("a",)),
    "an operator that comes before": (
        "CREATE FUNCTION {0}(text, int) RETURNS int RETURN 1; "
        "CREATE FUNCTION first.{0}(text, int) RETURNS int RETURN 2; "
        "CREATE OPERATOR <#{1}> (FUNCTION = {0}, LEFTARG = text, RIGHTARG = int)",
        "CREATE OPERATOR first.<#{1}> (FUNCTION = first.{0}, LEFTARG = text, RIGHTARG = int)",
        "SELECT 'x' <#{1}> %s AS it", (5,)),
    "a cast": (
        "CREATE TYPE {0} AS (a int); CREATE FUNCTION {0}_f({0}) RETURNS int RETURN 7; CREATE TABLE {0}_t (n {0}); "
        "INSERT INTO {0}_t VALUES (ROW(1))",
        "CREATE CAST ({0} AS int) WITH FUNCTION {0}_f AS IMPLICIT", "SELECT n + %s AS it FROM {0}_t", (1,)),
    "a policy": (
        "CREATE TABLE {0} AS SELECT 1 AS a; CREATE VIEW {0}_v AS SELECT * FROM {0}; ALTER VIEW {0}_v OWNER TO reader; "
        "ALTER TABLE {0} OWNER TO reader", "ALTER TABLE {0} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "SELECT count(*) FROM {0}_v WHERE a > %s", (0,)),
    "a default": (
        "CREATE TABLE {0} (a int, b int DEFAULT 1)", "ALTER TABLE {0} ALTER b SET DEFAULT 2",
        "INSERT INTO {0} (a) VALUES (%s) RETURNING b", (5,)),
    "a rule": (
        "CREATE TABLE {0} (a int)", "CREATE RULE r AS ON INSERT TO {0} DO INSTEAD NOTHING",
        "INSERT INTO {0} (a) VALUES (%s)", (5,)),
    "a unique index that goes": (
        "CREATE TABLE {0} (a int PRIMARY KEY, n int); INSERT INTO {0} VALUES (5, 0)",
        "ALTER TABLE {0} DROP CONSTRAINT {0}_pkey",
        "INSERT INTO {0} VALUES (%s, 1) ON CONFLICT (a) DO UPDATE SET n = 2 RETURNING n", (5,)),
    "a privilege": (
        "CREATE TABLE {0} AS SELECT 1 AS a; GRANT SELECT ON {0} TO reader; CREATE VIEW {0}_v AS SELECT * FROM {0}; "
        "ALTER VIEW {0}_v OWNER TO reader", "REVOKE SELECT ON {0} FROM reader",
        "SELECT count(*) FROM {0}_v WHERE a > %s",
        (0,)),
}  # fmt: skip
INTO, AS = re.compile(r"SELECT 2 AS a INTO (\S+)"), r"CREATE TABLE \1 AS SELECT 2 AS a"


def changes(paths: Paths, name: str) -> tuple[str, str, Any]:
    """Make what is to change; what changes it, and the statement that tells, with names that nobody has used."""
    number = next(paths.numbers)
    begin, change, statement, params = CHANGES[name]
    # An operator has no letters in its name.
    operator = "".join("@|&!~#"[int(digit, 6)] for digit in base_six(number))
    begin, change, statement = (
        text.replace("{0}", f"made_{number}").replace("{1}", operator) for text in (begin, change, statement)
    )
    paths.server.execute("SET search_path = public; " + begin)
    return change, statement, params


def base_six(number: int) -> str:
    return "".join(str(number // 6**place % 6) for place in range(5))


def in_block(change: str) -> str:
    """The change in a DO block, where INTO would be plpgsql's own."""
    return f"DO $do$ BEGIN {INTO.sub(AS, change)}; END $do$"


def by_query(paths: Paths, change: str) -> None:
    for each in change.split("; "):
        paths.db.query(each)


def by_string(paths: Paths, change: str) -> None:
    paths.db.query(change)


def by_do(paths: Paths, change: str) -> None:
    paths.db.query(in_block(change))


def by_message(paths: Paths, change: str) -> None:
    paths.db.run(["SELECT 1", *change.split("; ")])


def by_lease(paths: Paths, change: str) -> None:
    with paths.tx as tx:
        for each in change.split("; "):
            tx.query(each)


def by_session(paths: Paths, change: str) -> None:
    with paths.db.session() as session:
        for each in change.split("; "):
            session.query(each)


def by_function(paths: Paths, change: str) -> None:
    number = next(paths.numbers)
    paths.server.execute(
        f"CREATE FUNCTION public.change_{number}() RETURNS int LANGUAGE plpgsql AS "
        f"$f$ BEGIN {INTO.sub(AS, change)}; RETURN 1; END $f$"
    )
    paths.db.query(f"SELECT public.change_{number}()")


BY_POOLD = [by_query, by_string, by_do, by_message, by_lease, by_session]


def by_another_program(paths: Paths, change: str) -> None:
    paths.server.execute("SET search_path = first, public; " + change)


@dataclass
class Changing:
    """A definition that is to change, and a statement that tells, which has often run by all ways."""

    paths: Paths
    change: str
    statement: str
    params: Any

    def runs(self) -> Iterator[tuple[str, Any]]:
        yield "a query", outcome(lambda: self.paths.db.query(self.statement, self.params))
        yield "a message", message_outcome(self.paths.db, [(self.statement, self.params)])
        yield next(self.paths.lease(self.statement, self.params))

    def wrong(self) -> list[str]:
        """The ways by which it is not as by psycopg2."""
        found = []
        for way, ours in self.runs():
            theirs = self.paths.by_psycopg2(self.statement, self.params)
            if not same(ours, theirs):
                found.append(f"{way} of {self.statement!r} gave\n    {ours}\nbut psycopg2\n    {theirs}")
        return found


def changing(paths: Paths, name: str) -> Changing:
    made = Changing(paths, *changes(paths, name))
    for _ in range(8):
        assert made.wrong() == [], f"before {made.change}"
    return made


@pytest.mark.parametrize("seed", seeds(1))
@pytest.mark.parametrize("name", CHANGES)
def test_what_is_changed_through_poold_counts_from_the_next_statement_on(paths: Paths, name: str, seed: int) -> None:
    chance = random.Random(f"{seed} {name}")
    for by in [by_do, *chance.sample([by for by in BY_POOLD if by is not by_do], 2)]:
        made = changing(paths, name)
        by(paths, made.change)
        for run in range(3):
            assert made.wrong() == [], f"{by.__name__}, run {run} after {made.change}"


# No statement that was prepared before fails for these, nor does PostgreSQL read it anew by itself (as it does all of
# them for an operator or a schema): nothing tells but the catalogs.
SILENT = [
    "a table that comes before", "a table that comes before, AS", "a table that comes before, INTO",
    "a table that moves", "a view that comes before", "a function that fits better", "a function that comes before",
]  # fmt: skip
LOUD = [name for name in CHANGES if name not in SILENT]


@pytest.mark.parametrize("names", [SILENT, LOUD], ids=["silently", "loudly"])
@pytest.mark.parametrize("by", [by_another_program, by_function])
def test_what_other_programs_and_functions_change_counts_soon(
    paths: Paths, by: Callable[[Paths, str], None], names: list[str]
) -> None:
    # All at once: whoever notices it in seconds does so for all.
    those = {name: changing(paths, name) for name in names}
    for made in those.values():
        by(paths, made.change)
    deadline = time.monotonic() + 15
    while True:
        wrong = {name: ways for name, made in those.items() if (ways := made.wrong())}
        if not wrong or time.monotonic() > deadline:
            break
    assert not wrong, f"{sorted(wrong)}\n" + next(iter(wrong.values()))[0]


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("is_do", [False, True], ids=["plainly", "in DO"])
def test_what_an_open_transaction_changes_counts_in_it_and_ends_with_it(paths: Paths, name: str, is_do: bool) -> None:
    change, statement, params = changes(paths, name)
    before = paths.by_psycopg2(statement, params)
    for _ in range(RUNS):
        assert same(next(paths.lease(statement, params))[1], before)
    steps = change.split("; ")
    if is_do:
        steps = [in_block(change)]
    inside = paths.by_psycopg2(statement, params, *steps)
    try:
        paths.tx.query(statement, params) if len(before) == 4 else None
        for each in steps:
            paths.tx.query(each)
        ours = outcome(lambda: paths.tx.query(statement, params))
    finally:
        paths.tx.rollback()
    assert same(ours, inside), f"after {change!r} in the same transaction it gave\n{ours}\nbut psycopg2\n{inside}"
    for name, once in [next(paths.lease(statement, params)), *itertools.islice(paths.autocommit(statement, params), 2)]:
        assert same(once, before), f"{name} after {change!r} was rolled back gave\n{once}\nbut psycopg2\n{before}"


def test_a_clients_block_cannot_replace_what_is_prepared_for_others(paths: Paths) -> None:
    statement = paths.fresh("SELECT id FROM things WHERE id = %s AND name IS NOT NULL")
    for _ in range(RUNS):
        paths.db.query(statement, (5,))
    names = paths.db.query("SELECT name FROM pg_prepared_statements WHERE statement LIKE 'SELECT id FROM things%'")
    for (name,) in names.fetchall() or [("poold_1",)]:
        other = f"EXECUTE 'PREPARE \"{name}\" (int) AS SELECT 666 AS id'"
        replace = f"DO $$ BEGIN EXECUTE 'DEALLOCATE \"{name}\"'; {other}; END $$"
        attempt(paths.db.query, replace)
        assert paths.db.query(statement, (5,))[0][0] == 5
    attempt(paths.db.query, "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$")
    assert [paths.db.query(statement, (number,))[0][0] for number in (5, 6, 7)] == [5, 6, 7]


# A role's and a database's own settings.


@pytest.mark.parametrize("setting", ["DateStyle = 'ISO, DMY'", "DateStyle = 'ISO, YMD'", "TimeZone = 'Asia/Tokyo'",
                                     "search_path = tenant, public"])  # fmt: skip
@pytest.mark.parametrize("whose", ["ROLE", "DATABASE"])
def test_what_a_role_or_a_database_is_set_to_is_in_force(paths: Paths, setting: str, whose: str) -> None:
    user, database = paths.server.parameters["user"], paths.server.parameters["dbname"]
    what = f"ROLE {user}" if whose == "ROLE" else f"DATABASE {database}"
    paths.server.execute(f"ALTER {what} SET {setting}")
    try:
        broker = Broker({"main": paths.server.parameters}, {"default": {"max_size": 1}})
        try:
            db = broker.start().handler()
            cursor = paths.server.connect().cursor()
            for sql, params in DEPENDENT:
                theirs = outcome(lambda sql=sql, params=params: (cursor.execute(sql, params), cursor)[1])  # type: ignore[misc]
                for run in range(6):
                    ours = outcome(lambda sql=sql, params=params: db.query(sql, params))  # type: ignore[misc]
                    assert same(ours, theirs), f"run {run} of {sql!r} gave\n{ours}\nbut psycopg2\n{theirs}"
            cursor.connection.close()
        finally:
            broker.close()
    finally:
        paths.server.execute(f"ALTER {what} RESET {setting.split(' ')[0]}")
