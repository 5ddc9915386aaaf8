"""Values on their way to PostgreSQL and back: poold must do exactly what psycopg2 does on a connection of its own.

The judge is psycopg2 itself: each statement runs on a direct connection as well, and both outcomes, values with their
types or errors with their texts, must be the same.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import IPv4Interface
from typing import Any
from uuid import UUID

import psycopg2
import pytest
from brokers import Broker
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from postgres import Postgres
from psycopg2 import extensions, extras, sql

from client import Handler

SCHEMA = "values_test"
TYPES = f"""
CREATE SCHEMA {SCHEMA};
CREATE TYPE {SCHEMA}.mood AS ENUM ('sad', 'it''s ok', 'happy');
CREATE DOMAIN {SCHEMA}.positive AS integer CHECK (VALUE > 0);
CREATE TYPE {SCHEMA}.pair AS (first integer, second text);
CREATE TYPE {SCHEMA}.moods AS RANGE (subtype = {SCHEMA}.mood);
CREATE TABLE {SCHEMA}.things (id integer PRIMARY KEY, price numeric(8, 2), label varchar(20), code char(5))
"""


@dataclass(frozen=True)
class Both:
    """The same statement by two ways."""

    handler: Handler
    connection: extensions.connection

    def outcomes(self, statement: Any, params: Any = None) -> tuple[Any, Any]:
        """What poold gave and what psycopg2 gave."""
        with self.connection.cursor() as cursor:
            theirs = outcome(lambda: (cursor.execute(statement, params), cursor)[1])
        return outcome(lambda: self.handler.query(statement, params)), theirs

    def agree(self, statement: Any, params: Any = None) -> Any:
        """Check that both outcomes are the same; the outcome."""
        ours, theirs = self.outcomes(statement, params)
        assert ours == theirs
        return ours


@pytest.fixture(scope="module")
def both(broker: Broker, postgres: Postgres) -> Iterator[Both]:
    direct = postgres.connect()
    with direct.cursor() as cursor:
        cursor.execute(TYPES)
    try:
        yield Both(broker.handler(), direct)
    finally:
        with direct.cursor() as cursor:
            cursor.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
        direct.close()


def outcome(run: Callable[[], Any]) -> Any:
    """All that a program can see of a statement, in a form that can be compared."""
    try:
        result = run()
        if result.description is None:
            return result.rowcount, result.statusmessage, None, None
        description = [tuple(column) for column in result.description]
        rows = [[seen(value) for value in row] for row in result.fetchall()]
        return result.rowcount, result.statusmessage, description, rows
    except psycopg2.Error as error:
        return psycopg2_class(error), error.pgcode, str(error)
    except Exception as error:  # noqa: BLE001  whatever it is, both must raise it
        return type(error), str(error)


def psycopg2_class(error: BaseException) -> type:
    """The class of psycopg2 that an error is an instance of."""
    return next(each for each in type(error).__mro__ if each.__module__.startswith("psycopg2"))


def seen(value: Any) -> Any:
    """A value with its type. repr tells -0.0 from 0.0, NaN from NaN not at all, and shows Decimal's digits."""
    if isinstance(value, list):
        return [seen(item) for item in value]
    if isinstance(value, memoryview):
        return memoryview, bytes(value)
    return type(value), repr(value)


def rows_of(result: Any) -> Any:
    """The values of an outcome that is no error."""
    assert len(result) == 4, f"expected rows, got {result}"
    return result[3]


# What hypothesis draws values from. PostgreSQL's text holds neither NUL nor surrogates; those have tests of their own.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
integers = st.one_of(
    st.integers(), st.sampled_from([s * 2**n + d for n in (15, 31, 63, 64) for s in (1, -1) for d in (-1, 0, 1)])
)
decimals = st.one_of(st.decimals(), st.decimals(allow_nan=False, allow_infinity=False, places=10))
offsets = st.integers(-15 * 60, 15 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
# A day from either end of the calendar, so that no time zone leads out of it.
first, last = datetime(1, 1, 2), datetime(9999, 12, 30)
naive = st.datetimes(first, last)
aware = st.datetimes(first, last, timezones=offsets)
naive_times = st.times()
aware_times = st.builds(lambda at, zone: at.replace(tzinfo=zone), st.times(), offsets)
durations = st.timedeltas(timedelta(days=-(10**8)), timedelta(days=10**8))
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)

SCALARS = {
    "bool": st.booleans(),
    "int": integers,
    "float": st.floats(),
    "Decimal": decimals,
    "str": texts,
    "bytes": st.binary(),
    "date": st.dates(),
    "naive time": naive_times,
    "aware time": aware_times,
    "naive datetime": naive,
    "aware datetime": aware,
    "timedelta": durations,
    "UUID": st.uuids(),
}
scalars = st.one_of(st.none(), *SCALARS.values())
quick = examples(60)


@pytest.mark.parametrize("kind", SCALARS)
def test_a_parameter_comes_back_as_psycopg2_brings_it_back(both: Both, kind: str) -> None:
    @quick
    @given(SCALARS[kind])
    def check(value: Any) -> None:
        assert len(rows_of(both.agree("SELECT %s AS it", (value,)))) == 1

    check()


@pytest.mark.parametrize("kind", SCALARS)
def test_a_list_comes_back_as_psycopg2_brings_it_back(both: Both, kind: str) -> None:
    item = st.none() | SCALARS[kind]
    lists = st.lists(item, max_size=4) | st.lists(st.lists(item, min_size=2, max_size=2), min_size=1, max_size=3)

    @quick
    @given(lists)
    def check(value: Any) -> None:
        both.agree("SELECT %s AS it", (value,))

    check()


@quick
@given(st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=6))
def test_any_nesting_of_any_values_has_the_outcome_it_has_in_psycopg2(both: Both, value: Any) -> None:
    both.agree("SELECT %s AS it", (value,))


@quick
@given(scalars, st.lists(scalars, max_size=4).map(tuple))
def test_a_tuple_is_a_list_for_in_as_in_psycopg2(both: Both, needle: Any, haystack: tuple[Any, ...]) -> None:
    both.agree("SELECT %s IN %s AS found", (needle, haystack))


@quick
@given(jsons)
def test_json_comes_back_as_psycopg2_brings_it_back(both: Both, value: Any) -> None:
    wrapped = extras.Json(value)
    both.agree("SELECT %s::json AS json, %s::jsonb AS jsonb, %s AS unknown", (wrapped, wrapped, wrapped))


bounds = st.sampled_from(["[]", "[)", "(]", "()"])
RANGES = {
    "int4range": st.builds(extras.NumericRange, st.integers(-9, 9) | st.none(), st.integers(-9, 9) | st.none(), bounds),
    "numrange": st.builds(extras.NumericRange, decimals | st.none(), decimals | st.none(), bounds),
    "daterange": st.builds(extras.DateRange, st.dates() | st.none(), st.dates() | st.none(), bounds),
    "tsrange": st.builds(extras.DateTimeRange, naive | st.none(), naive | st.none(), bounds),
    "tstzrange": st.builds(extras.DateTimeTZRange, aware | st.none(), aware | st.none(), bounds),
}


@pytest.mark.parametrize("kind", RANGES)
def test_a_range_comes_back_as_psycopg2_brings_it_back(both: Both, kind: str) -> None:
    @quick
    @given(RANGES[kind])
    def check(value: Any) -> None:
        both.agree(f"SELECT %s::{kind} AS it, ARRAY[%s::{kind}] AS list", (value, value))

    check()


def test_empty_ranges_of_all_kinds_come_back_empty(both: Both) -> None:
    for kind, cls in [("int8range", extras.NumericRange), ("daterange", extras.DateRange)]:
        assert rows_of(both.agree(f"SELECT %s::{kind}", (cls(empty=True),))) == [[seen(cls(empty=True))]]


@quick
@given(st.dictionaries(st.sampled_from(["a", "b_1", "ä", "with space"]), scalars, min_size=4))
def test_parameters_by_name_come_back_as_psycopg2_brings_them_back(both: Both, params: dict[str, Any]) -> None:
    both.agree("SELECT %(a)s, %(b_1)s, %(ä)s, %(with space)s, %(a)s", params)


@quick
@given(texts)
def test_text_within_a_statement_comes_back_as_it_was(both: Both, text: str) -> None:
    quoted = text.replace("'", "''")
    assert rows_of(both.agree(f"SELECT '{quoted}' AS it")) == [[seen(text)]]


EXPRESSIONS = """
    NULL
    true
    false
    1::smallint
    1::integer
    9223372036854775807
    -9223372036854775808
    123456789012345678901234567890
    1.50
    '1e-20'::numeric
    '1e400'::numeric
    'NaN'::numeric
    'Infinity'::numeric
    '-Infinity'::numeric
    1.5::numeric(10, 4)
    1.1::real
    'NaN'::real
    1.1::float8
    'Infinity'::float8
    '-0'::float8
    5e-324::float8
    '12.34'::money
    'it''s'::text
    'abc'::varchar(10)
    'abc'::char(5)
    'x'::"char"
    'name'::name
    ''
    E'tab\\t newline\\n return\\r backslash\\\\ bell\\a'
    '💩 ä \u0301'
    '\\x00ff61'::bytea
    ''::bytea
    ARRAY['\\x00ff'::bytea, NULL]
    '2024-02-29'::date
    'infinity'::date
    '-infinity'::date
    '0001-01-01'::date
    '9999-12-31'::date
    '12:34:56'::time
    '12:34:56.789012'::time(3)
    '12:34:56+05:30'::timetz
    '12:34:56.5-11:30:15'::timetz
    '2024-02-29 12:34:56.789'::timestamp
    'infinity'::timestamp
    '-infinity'::timestamp
    '2024-02-29 12:34:56.789+05:30'::timestamptz
    'infinity'::timestamptz
    '-infinity'::timestamptz
    '1 year 2 months 3 days 04:05:06.7'::interval
    '-1 year +2 days -00:00:00.000001'::interval
    '1 microsecond'::interval
    '100000 hours'::interval
    '00:00:00'::interval
    ARRAY[1, NULL, 3]
    '{}'::integer[]
    ARRAY[[1, 2], [3, NULL]]
    ARRAY[[['a', 'b']], [['c', NULL]]]
    '[5:6]={1,2}'::integer[]
    ARRAY['a,b', '"', '\\', '{}', 'NULL', '', NULL, ' ']
    ARRAY[1.5, 'NaN']::numeric[]
    ARRAY[true, NULL]
    ARRAY['2024-02-29'::date, NULL]
    ARRAY['12:00'::time]
    ARRAY['2024-02-29 12:00'::timestamp]
    ARRAY['2024-02-29 12:00+00'::timestamptz, NULL]
    ARRAY['1 day'::interval]
    ARRAY['a'::name, 'b']
    ARRAY['a'::"char"]
    ARRAY['ab'::char(4)]
    ARRAY[1.5::real]
    ARRAY[1::smallint]
    ARRAY[1::bigint]
    '1 2 3'::int2vector
    '1 2'::oidvector
    '{"a": [1, 2.5, null, "ä"], "b": {}}'::json
    '{"a": [1, 2.5, null, "ä"], "b": {}}'::jsonb
    'null'::jsonb
    '12345678901234567890.123'::jsonb
    ARRAY['{"a": 1}'::json]
    ARRAY['{"a": 1}'::jsonb, NULL]
    '$.a[*]'::jsonpath
    ROW(1, 'two', NULL)
    (1, 'a "quoted, \\ text')::values_test.pair
    ARRAY[(1, 'a')::values_test.pair]
    'it''s ok'::values_test.mood
    ARRAY['sad', NULL]::values_test.mood[]
    '[sad,happy)'::values_test.moods
    5::values_test.positive
    ARRAY[5::values_test.positive]
    '[1,5)'::int4range
    '(,5]'::int8range
    'empty'::numrange
    '[1.5,2.5]'::numrange
    '[2024-01-01,2024-02-01)'::daterange
    '[2024-01-01,infinity)'::daterange
    '[2024-01-01 10:00,)'::tsrange
    '(2024-01-01 10:00+02,2024-01-02 10:00+02]'::tstzrange
    ARRAY['[1,5)'::int4range, 'empty']
    '192.168.0.1/24'::inet
    '::1'::inet
    '10.0.0.0/8'::cidr
    ARRAY['192.168.0.1'::inet]
    '08:00:2b:01:02:03'::macaddr
    '08:00:2b:01:02:03:04:05'::macaddr8
    '(1.5,-2)'::point
    '{1,2,3}'::line
    '[(0,0),(1,1)]'::lseg
    '((0,0),(1,1))'::box
    '((0,0),(1,1),(2,0))'::path
    '((0,0),(1,1),(2,0))'::polygon
    '<(0,0),2>'::circle
    ARRAY['(1,2)'::point]
    B'1010'
    '1010'::varbit
    B'1'::bit(3)
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid
    ARRAY['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid]
    '<a>1 &amp; 2</a>'::xml
    1::oid
    'pg_class'::regclass
    'integer'::regtype
    'abs(integer)'::regprocedure
    '16/B374D848'::pg_lsn
    '10:20:10,14,15'::txid_snapshot
    '5'::xid
    '(0,1)'::tid
    to_tsvector('simple', 'a fat cat''s hat')
    to_tsquery('simple', 'fat & cat')
    pg_sleep(0)
    set_config('application_name', 'poold', false) || ''
    generate_series(1, 3)
    1 AS "1", 2 AS "two words", 3 AS "ä", 4 AS two, 5 AS two
    current_database()
    1 WHERE false
""".strip().splitlines()


@pytest.mark.parametrize("expression", [line.strip() for line in EXPRESSIONS])
def test_an_expression_gives_what_psycopg2_gives(both: Both, expression: str) -> None:
    both.agree(f"SELECT {expression}")


def test_a_select_without_columns_has_rows_without_cells(both: Both) -> None:
    assert rows_of(both.agree("SELECT FROM generate_series(1, 2)")) == [[], []]


# psycopg2 raises an error for these; a program that can say nothing about them has their text at least.
FAR = {
    "'0044-03-15 BC'::date": "0044-03-15 BC",
    "'20000-01-01'::date": "20000-01-01",
    "'0044-03-15 12:00 BC'::timestamp": "0044-03-15 12:00:00 BC",
    "'20000-01-01'::timestamp": "20000-01-01 00:00:00",
    "ARRAY['0044-03-15 BC'::date, '2024-01-01']": '{"0044-03-15 BC",2024-01-01}',
    "ARRAY['infinity'::date]": "{infinity}",  # psycopg2 reads it, but not in an array
    "ARRAY['20000-01-01'::timestamp]": '{"20000-01-01 00:00:00"}',
    "'170000000 years'::interval": "170000000 years",
}


@pytest.mark.parametrize("expression", FAR)
def test_what_pythons_calendar_cannot_hold_comes_as_postgresqls_text(both: Both, expression: str) -> None:
    ours, theirs = both.outcomes(f"SELECT {expression}, 1")
    assert issubclass(theirs[0], ValueError | OverflowError | psycopg2.DataError)
    assert rows_of(ours) == [[seen(FAR[expression]), seen(1)]]


def test_a_far_moment_with_time_zone_comes_as_postgresqls_text(both: Both) -> None:
    # The zone it is shown in is the server's.
    ours, theirs = both.outcomes("SELECT '20000-06-01 12:00+00'::timestamptz, '0044-03-15 12:00+00 BC'::timestamptz")
    assert issubclass(theirs[0], ValueError | psycopg2.DataError)
    [[(far_type, far), (old_type, old)]] = rows_of(ours)
    assert (far_type, old_type) == (str, str)
    assert "20000-06-0" in far
    assert old.endswith(" BC'")


STATEMENTS = [
    f"INSERT INTO {SCHEMA}.things VALUES (1, 1.5, 'one', 'a'), (2, NULL, NULL, NULL)",
    f"SELECT * FROM {SCHEMA}.things ORDER BY id",
    f"UPDATE {SCHEMA}.things SET price = 2 WHERE id = 1 RETURNING price, label",
    f"UPDATE {SCHEMA}.things SET price = 2 WHERE id = 99",
    f"DELETE FROM {SCHEMA}.things",
    f"CREATE TABLE {SCHEMA}.more AS SELECT 1 AS a",
    f"TRUNCATE {SCHEMA}.more",
    f"DROP TABLE {SCHEMA}.more",
    "SET LOCAL work_mem = '4MB'",
    "SHOW server_version",
    "EXPLAIN SELECT 1",
    "VALUES (1, 'a'), (2, 'b')",
    "DO $$ BEGIN PERFORM 1; END $$",
    "SELECT 1; SELECT 2 AS second",
    "SELECT 1;",
    "-- a remark\nSELECT 1 -- another",
    "SELECT 'ab' 'cd'",
]


def test_every_kind_of_statement_has_the_count_tag_and_columns_it_has_in_psycopg2(both: Both) -> None:
    # One after the other on both ways would see each other's changes: each way goes over all of them by itself.
    def by_psycopg2(statement: str) -> Any:
        with both.connection.cursor() as cursor:
            return outcome(lambda: (cursor.execute(statement), cursor)[1])

    theirs = [by_psycopg2(statement) for statement in STATEMENTS]
    assert [outcome(lambda s=statement: both.handler.query(s)) for statement in STATEMENTS] == theirs


PLACEHOLDERS: list[tuple[Any, Any]] = [
    ("SELECT %s, %s", (1, "a")),
    ("SELECT %s, %s", [1, "a"]),
    ("SELECT %(a)s, %(b)s, %(a)s", {"a": 1, "b": "x", "unused": 3}),
    ("SELECT 5 %% 3", ()),
    ("SELECT 5 %% 3, %s", (1,)),
    ("SELECT 5 % 3", None),
    ("SELECT '%s', '%%'", None),
    ("SELECT '%s', '%%'", ()),
    ("SELECT '50%' LIKE '50%%'", None),
    ("SELECT '50%' LIKE '50%%'", ()),
    ("SELECT %s LIKE '50%%'", ("50 percent",)),
    ("SELECT %s LIKE %s", ("50%", "50\\%")),
    ("SELECT '%s' || %s", ("a", "b")),
    ("SELECT 1", ()),
    ("SELECT 1", {}),
    ("SELECT 1", []),
    (b"SELECT %s", ("bytes",)),
    (sql.SQL("SELECT {} AS {}").format(sql.Literal("it's"), sql.Identifier('a "b"')), None),
    (sql.SQL("SELECT {}, {}").format(sql.Placeholder(), sql.Placeholder()), (1, 2)),
    (sql.SQL("SELECT {}").format(sql.Placeholder("x")), {"x": [1, None]}),
    (sql.SQL("SELECT {} ").format(sql.Literal(date(2024, 2, 29))), None),
    ("SELECT %s", ((1, "a", None),)),
    ("SELECT 1 IN %s", ((),)),
    ("SELECT %s", (b"\x00\xff",)),
    ("SELECT %s", (bytearray(b"\x00"),)),
    ("SELECT %s", (memoryview(b"\x00"),)),
    ("SELECT %s", (extensions.AsIs("1 + 1"),)),
    ("SELECT %s", (extensions.Binary(b"\\'"),)),
    ("SELECT %s", (math.pi,)),
    ("SELECT %s", (UUID(int=5),)),
    ("SELECT %s", (True,)),
    ("SELECT %s", (datetime(2024, 2, 29, 12, tzinfo=UTC),)),
    ("SELECT %s", (Decimal("1E+5"),)),
    ("SELECT %s", (time(23, 59, 59, 999999),)),
    ("SELECT - %s, -%s", (-1, -1.5)),
    # Mistakes.
    ("SELECT %s", None),
    ("SELECT %s", ()),
    ("SELECT %s", (1, 2)),
    ("SELECT %s, %s", (1,)),
    ("SELECT %s", {"a": 1}),
    ("SELECT %(a)s", (1,)),
    ("SELECT %(a)s", {"b": 1}),
    ("SELECT %(a)s, %s", {"a": 1}),
    ("SELECT %d", (1,)),
    ("SELECT %(a)d", {"a": 1}),
    ("SELECT %", (1,)),
    ("SELECT %(a", {"a": 1}),
    ("SELECT %s", "text"),
    ("SELECT %s", "t"),
    ("SELECT %s", 1),
    ("SELECT %s", {1, 2}),
    ("SELECT %s", (object(),)),
    ("SELECT %s", ({"a": 1},)),
    ("SELECT %s", ([object()],)),
    ("SELECT %s", ([1, "a"],)),
    ("SELECT %s", ([[1], [1, 2]],)),
    (1, None),
    (None, None),
    (["SELECT 1"], None),
    (b"SELECT '\xff'", None),
    ("", None),
    ("  ", None),
    (";", None),
    ("-- nothing", None),
]


@pytest.mark.parametrize(("statement", "params"), PLACEHOLDERS, ids=[f"{s!r:.60}-{p!r:.40}" for s, p in PLACEHOLDERS])
def test_placeholders_and_mistakes_have_the_outcome_they_have_in_psycopg2(
    both: Both, statement: Any, params: Any
) -> None:
    both.agree(statement, params)


# Each was harmful to somebody's quoting once.
NASTY = [
    "'", "''", "'''", '"', "\\", "\\\\", "\\'", "'\\", "\\''", "\\x41", "\\n", "\n", "\r\n", "\t", "\b", "\x01", "\x7f",
    "$$", "$1", "$tag$", "%", "%s", "%%", "%(a)s", "--", "/*", "*/", ";", "'; DROP TABLE x; --", "E'\\''", "U&'\\0041'",
    "\u0301", "\u2028", "\ufeff", "\uffff", "ÿ", "\U0001f4a9", "\U0010ffff", "‮", "¥", "¿'", "縗'", "縗\\", "a" * 70_000,
]  # fmt: skip


def test_text_that_was_harmful_elsewhere_comes_back_as_it_was(both: Both) -> None:
    placeholders = ", ".join(["%s"] * len(NASTY))
    assert rows_of(both.agree(f"SELECT {placeholders}", NASTY)) == [[seen(text) for text in NASTY]]
    assert rows_of(both.agree("SELECT %s", (NASTY,))) == [[seen(NASTY)]]
    for text in NASTY:
        assert rows_of(both.agree("SELECT octet_length(%s)", (text,))) == [[seen(len(text.encode()))]]


REFUSED: list[tuple[str, Any, type[Exception]]] = [
    ("SELECT '\0'", None, ValueError),
    ("SELECT 1\0; SELECT 2", (), ValueError),
    ("SELECT %s", ("a\0b",), ValueError),
    ("SELECT %s", (["a", "\0"],), ValueError),
    ("SELECT 1 IN %s", (("\0",),), ValueError),
    ("SELECT %(a)s", {"a": "\0"}, ValueError),
    ("SELECT %s", (extensions.AsIs("\0"),), ValueError),
    ("SELECT '\ud800'", None, UnicodeEncodeError),
    ("SELECT %s", ("\udfff",), UnicodeEncodeError),
    ("SELECT %s", (["\ud800"],), UnicodeEncodeError),
    ("SELECT %(a)s", {"a": "a\udc80b"}, UnicodeEncodeError),
    ("SELECT %(\ud800)s", {"\ud800": 1}, UnicodeEncodeError),
]


@pytest.mark.parametrize(("statement", "params", "expected"), REFUSED, ids=[ascii(case[:2]) for case in REFUSED])
def test_what_no_text_can_hold_is_refused_before_it_reaches_the_broker(
    broker: Broker, statement: str, params: Any, expected: type[Exception]
) -> None:
    handler = broker.handler()
    before, violations = broker.group()["requests"], broker.stats()["protocol_violations"]
    with pytest.raises(expected):
        handler.query(statement, params)
    assert broker.group()["requests"] == before
    assert broker.stats()["protocol_violations"] == violations
    assert handler.query("SELECT 1").fetchone() == (1,)


@pytest.fixture
def registrations() -> Iterator[None]:
    """Takes back what a test registers, for types of Python and of PostgreSQL."""
    adapters, casters = dict(extensions.adapters), dict(extensions.string_types)
    try:
        yield
    finally:
        for registry, before in ((extensions.adapters, adapters), (extensions.string_types, casters)):
            registry.clear()
            registry.update(before)


class Money:
    """A type of a program's own."""

    def __init__(self, amount: int) -> None:
        self.amount = amount


class MoneyAdapter:
    """Quotes with the connection's help, as psycopg2's own string adapter does."""

    def __init__(self, money: Money) -> None:
        self._text = extensions.QuotedString(f"{money.amount} \\ €")

    def prepare(self, connection: extensions.connection) -> None:
        self._text.prepare(connection)

    def getquoted(self) -> bytes:
        return bytes(self._text.getquoted())


@pytest.mark.usefixtures("registrations")
def test_a_registered_adapter_is_used(both: Both) -> None:
    statement, params = "SELECT %s, %s", (Money(5), [Money(6)])
    mistake = both.agree(statement, params)
    assert mistake[0] is psycopg2.ProgrammingError
    extensions.register_adapter(Money, MoneyAdapter)
    assert rows_of(both.agree(statement, params)) == [[seen("5 \\ €"), seen(["6 \\ €"])]]


@pytest.mark.usefixtures("registrations")
def test_a_dict_is_a_parameter_where_the_program_registered_json_for_it(both: Both) -> None:
    extensions.register_adapter(dict, extras.Json)
    assert rows_of(both.agree("SELECT %s::jsonb", ({"a": [1, None]},))) == [[seen({"a": [1, None]})]]


@pytest.mark.usefixtures("registrations")
def test_a_registered_typecaster_is_used(both: Both) -> None:
    statement = "SELECT '(1.5,2)'::point AS at, 1.5::numeric AS price, NULL::point AS nowhere"
    assert rows_of(both.agree(statement)) == [[seen("(1.5,2)"), seen(Decimal("1.5")), seen(None)]]
    to_complex = extensions.new_type(
        (600,), "POINT", lambda text, _: text and complex(*map(float, text[1:-1].split(",")))
    )
    extensions.register_type(to_complex)
    extensions.register_type(extensions.new_type((1700,), "FLOAT", extensions.FLOAT))
    assert rows_of(both.agree(statement)) == [[seen(1.5 + 2j), seen(1.5), seen(None)]]


@pytest.mark.usefixtures("registrations")
def test_a_typecaster_that_fails_raises_its_own_error_when_its_row_is_read(both: Both) -> None:
    def fail(text: str, _: Any) -> Any:
        raise ArithmeticError(f"cannot read {text}")

    extensions.register_type(extensions.new_type((600,), "POINT", fail))
    assert both.agree("SELECT 1, '(1,2)'::point") == (ArithmeticError, "cannot read (1,2)")


@pytest.mark.usefixtures("registrations")
def test_psycopg2s_own_registrations_are_honoured(both: Both) -> None:
    extras.register_uuid()
    extras.register_default_jsonb(globally=True, loads=lambda text: ("loaded", text))
    extras.register_composite(f"{SCHEMA}.pair", both.connection, globally=True)
    extras.register_ipaddress()
    found = both.agree(
        "SELECT 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, ARRAY['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid],"
        " '{}'::jsonb, (1, 'a, b')::values_test.pair, ARRAY[(1, NULL)::values_test.pair], %s::inet",
        (IPv4Interface("10.0.0.1/8"),),
    )
    [[uuid, uuids, loaded, pair, pairs, address]] = rows_of(found)
    assert uuid == uuids[0] == seen(UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"))
    assert loaded == seen(("loaded", "{}"))
    assert pair[1] == "pair(first=1, second='a, b')"
    assert pairs[0][1] == "pair(first=1, second=None)"
    assert address == seen(IPv4Interface("10.0.0.1/8"))


def test_ten_thousand_digits_arrive(both: Both) -> None:
    digits = Decimal("7" * 5_000 + "." + "3" * 5_000)
    assert rows_of(both.agree("SELECT %s", (digits,))) == [[seen(digits)]]
