"""Statements and parameters as they travel: with the literals put back they are what psycopg2 makes, to the byte.

The judge is psycopg2's own mogrify, by way of client.values.offline.render.
"""

import math
from collections import OrderedDict, UserList, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Interface
from typing import Any
from uuid import UUID

import psycopg2
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from psycopg2 import extensions, extras, sql

from client.values import bind as parameters
from client.values import offline
from client.values.bind import Bound, Reference, bind
from poold.core.statements import literals

INDIA = timezone(timedelta(hours=5, minutes=30))
quick = examples(100)


def with_literals(bound: Bound) -> bytes:
    """What the broker makes of it when it runs the statement with literals."""
    return literals.render(bound.statement, bound.types, bound.values)


def outcome(run: Any, statement: Any, params: Any) -> Any:
    """The rendered statement, or the error, in a form that can be compared."""
    try:
        return run(statement, params)
    except Exception as error:  # noqa: BLE001  whatever it is, both must raise it
        return type(error), str(error)


def agree(statement: Any, params: Any) -> Bound | None:
    """Check that both ways have the same outcome; the Bound, None for an error."""
    ours = outcome(bind, statement, params)
    theirs = outcome(offline.render, statement, params)
    if not isinstance(ours, Bound):
        assert ours == theirs
        return None
    assert with_literals(ours) == theirs
    assert ours.statement.count(0) * 4 == len(ours.types)
    return ours


def parts(bound: Bound | None) -> tuple[bytes, list[int], list[bytes | None]]:
    """The statement, the types and the texts of its parameters."""
    assert bound is not None
    oids = [int.from_bytes(bound.types[at : at + 4], "big") for at in range(0, len(bound.types), 4)]
    return bound.statement, oids, literals.split_values(bound.values, len(oids))


class NoOffset(tzinfo):
    """A time zone that does not know its offset."""

    def utcoffset(self, _: datetime | None) -> None:
        return None

    dst = utcoffset

    def tzname(self, _: datetime | None) -> str:
        return "?"


class Colour(IntEnum):
    RED = 1


class Mood(Enum):
    """An enumeration that converts itself."""

    HAPPY = "it's ok"

    def __conform__(self, protocol: Any) -> Any:
        return extensions.adapt(self.value)


class Text(str):
    pass


Pair = namedtuple("Pair", "first second")

# What each becomes: the type of the literal that psycopg2 writes, and the text in it.
SINGLE: list[tuple[Any, int, bytes | None]] = [
    (None, 0, None),
    (True, 16, b"true"),
    (False, 16, b"false"),
    (0, 23, b"0"),
    (-5, 23, b"-5"),
    (2**31 - 1, 23, b"2147483647"),
    (2**31, 20, b"2147483648"),
    (-(2**31), 23, b"-2147483648"),
    (-(2**31) - 1, 20, b"-2147483649"),
    (2**63 - 1, 20, b"9223372036854775807"),
    (2**63, 1700, b"9223372036854775808"),
    (-(2**63), 20, b"-9223372036854775808"),
    (-(2**63) - 1, 1700, b"-9223372036854775809"),
    (10**30, 1700, b"1" + b"0" * 30),
    (1.5, 1700, b"1.5"),
    (5.0, 1700, b"5.0"),
    (-1e20, 1700, b"-1e+20"),
    (5e-324, 1700, b"5e-324"),
    (math.nan, 701, b"NaN"),
    (math.inf, 701, b"Infinity"),
    (-math.inf, 701, b"-Infinity"),
    (Decimal("1.50"), 1700, b"1.50"),
    (Decimal("-1E+5"), 1700, b"-1E+5"),
    # A literal without point and exponent is an integer, whoever wrote it.
    (Decimal("5"), 23, b"5"),
    (Decimal("-2147483649"), 20, b"-2147483649"),
    (Decimal("7" * 19), 20, b"7" * 19),
    (Decimal("9" * 19), 1700, b"9" * 19),
    (Decimal("7" * 5000), 1700, b"7" * 5000),
    ("", 0, b""),
    ("it's \\ 💩", 0, "it's \\ 💩".encode()),
    ("a" * 70_000, 0, b"a" * 70_000),
    (b"", 17, b"\\x"),
    (b"\0'\\\xff", 17, b"\\x00275cff"),
    (bytearray(b"ab"), 17, b"\\x6162"),
    (memoryview(b"ab"), 17, b"\\x6162"),
    (extensions.Binary(b"ab"), 17, b"\\x6162"),
    (date(1, 2, 3), 1082, b"0001-02-03"),
    (time(1, 2, 3, 4), 1083, b"01:02:03.000004"),
    (time(1, 2, tzinfo=INDIA), 1266, b"01:02:00+05:30"),
    (datetime(2024, 2, 29, 1, 2), 1114, b"2024-02-29T01:02:00"),
    (datetime(2024, 2, 29, tzinfo=INDIA), 1184, b"2024-02-29T00:00:00+05:30"),
    (datetime(2024, 2, 29, tzinfo=NoOffset()), 1184, b"2024-02-29T00:00:00"),
    (timedelta(-1, 3, 5), 1186, b"-1 days 3.000005 seconds"),
    (timedelta.max, 1186, b"999999999 days 86399.999999 seconds"),
    (UUID(int=5), 2950, b"00000000-0000-0000-0000-000000000005"),
    # By adapters that are not known here, from the literal.
    (Text("it's"), 0, b"it's"),
    (Mood.HAPPY, 0, b"it's ok"),
    (extras.Json({"a": "'"}), 0, b'{"a": "\'"}'),
    (extras.Inet("10.0.0.1/8"), 869, b"10.0.0.1/8"),
    (extras.NumericRange(1, 5), 0, b"[1,5)"),
    (extras.NumericRange(empty=True), 0, b"empty"),
    (extensions.AsIs("'a''b'::date"), 1082, b"a'b"),
    (extensions.AsIs("''"), 0, b""),
    # Lists. Of numbers that differ, the array has the widest type.
    ([1, -2], 1007, b"{1,-2}"),
    ([1, None], 1007, b"{1,NULL}"),
    ([1, 2**31], 1016, b"{1,2147483648}"),
    ([None, 1, -(2**31) - 1], 1016, b"{NULL,1,-2147483649}"),
    ([1, 2**63], 1231, b"{1,9223372036854775808}"),
    ([1.5, 1], 1231, b"{1.5,1}"),
    ([Decimal("1"), 2], 1007, b"{1,2}"),
    ([Decimal("1.0"), 2**40, 3], 1231, b"{1.0,1099511627776,3}"),
    (["a"], 1009, b'{"a"}'),
    (["a b", "", "NULL", None], 1009, b'{"a b","","NULL",NULL}'),
    (['"', "\\", '\\"', '","', "{}", "'"], 1009, b'{"\\"","\\\\","\\\\\\"","\\",\\"","{}","\'"}'),
    ([True, None, False], 1000, b"{true,NULL,false}"),
    ([b"a", b""], 1001, b'{"\\\\x61","\\\\x"}'),
    ([date(2024, 2, 29)], 1182, b'{"2024-02-29"}'),
    ([time(1)], 1183, b'{"01:00:00"}'),
    ([time(1, tzinfo=UTC)], 1270, b'{"01:00:00+00:00"}'),
    ([datetime(2024, 1, 1)], 1115, b'{"2024-01-01T00:00:00"}'),
    ([datetime(2024, 1, 1, tzinfo=UTC), None], 1185, b'{"2024-01-01T00:00:00+00:00",NULL}'),
    ([timedelta(1)], 1187, b'{"1 days 0.000000 seconds"}'),
    ([UUID(int=5)], 2951, b'{"00000000-0000-0000-0000-000000000005"}'),
    ([[1, 2], [None, 3]], 1007, b"{{1,2},{NULL,3}}"),
    ([[1], [2**40]], 1016, b"{{1},{1099511627776}}"),
    ([[["a"], ["b"]]], 1009, b'{{{"a"},{"b"}}}'),
    ([[[[[[1]]]]]], 1007, b"{{{{{{1}}}}}}"),
    # psycopg2 writes these as texts.
    ([], 0, b"{}"),
    ([None, None], 0, b"{NULL,NULL}"),
    ([[None]], 0, b"{{NULL}}"),
]


@pytest.mark.parametrize(("value", "oid", "text"), SINGLE, ids=[f"{case[0]!r:.50}" for case in SINGLE])
def test_a_value_becomes_a_parameter_of_its_literals_type(value: Any, oid: int, text: bytes | None) -> None:
    assert parts(agree("a %s b", (value,))) == (b"a \0 b", [oid], [text])
    assert parts(agree("a %(x)s b", {"x": value})) == (b"a \0 b", [oid], [text])
    assert parts(agree("a IN %s", ((value, value),))) == (b"a IN (\0, \0)", [oid, oid], [text, text])


# Values that have no other form than their literal, which then stands in the statement.
LITERAL: list[Any] = [
    -0.0,
    Decimal("-0"),
    Decimal("-0.00"),
    (),
    Colour.RED,
    extensions.AsIs("1 + 1"),
    extensions.AsIs("'a' || 'b'"),
    extensions.AsIs("E'a'"),
    extensions.AsIs("'a'::citext"),
    extensions.AsIs("'5'::numeric"),
    extensions.AsIs("'x'::float"),
    extras.DateRange(date(2024, 1, 1)),
    [1, True],
    [1, "a"],
    ["a", b"a"],
    [1.5, math.nan],
    [math.inf],
    [-0.0],
    [date(2024, 1, 1), datetime(2024, 1, 1)],
    [datetime(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC)],
    [Text("a")],
    [Colour.RED, 1],
    [extras.Inet("::1")],
    [(1, 2), (3, 4)],
    [[]],
    [[], []],
    [[], 1],
    [1, []],
    [[1], []],
    [[1], None],
    [None, [1]],
    [[1], [None]],
    [[1], [2, 3]],
    [[1], [[2]]],
    [[[[[[[1]]]]]]],
]


@pytest.mark.parametrize("value", LITERAL, ids=[f"{value!r:.50}" for value in LITERAL])
def test_a_value_without_such_a_form_stands_in_the_statement_as_its_literal(value: Any) -> None:
    statement, oids, _ = parts(agree("a %s b, %s", (value, 7)))
    assert statement.startswith(offline.render("a %s b, ", (value,)))
    assert oids == [23]


REFUSED: list[Any] = [
    object(),
    {"a": 1},
    {1, 2},
    1j,
    [object()],
    [1, {}],
    (1, object()),
    "a\0b",
    ["a", "b\0"],
    ("\0",),
    extensions.AsIs("\0"),
    "\ud800",
    ["a", "b\ud800"],
    "a" * 100 + "\udfff",
    memoryview(b"abcd")[::2],
    10**5000,
    [1, 10**5000],
]


@pytest.mark.parametrize("value", REFUSED, ids=[f"{type(value).__name__}-{n}" for n, value in enumerate(REFUSED)])
def test_a_value_that_psycopg2_refuses_is_refused_with_the_same_error(value: Any) -> None:
    assert agree("%s, %s", (1, value)) is None
    assert agree("%(a)s", {"a": value}) is None


def test_a_tuple_is_a_parameter_for_each_item() -> None:
    found = agree("SELECT %s IN %s", (1, (1, -1, None, "a")))
    assert parts(found) == (b"SELECT \0 IN (\0, \0, \0, \0)", [23, 23, 23, 0, 0], [b"1", b"1", b"-1", None, b"a"])
    assert parts(agree("%s", (((1, 2), ([3], ())),)))[0] == b"((\0, \0), (\0, ()))"
    assert parts(agree("%s", (Pair(1, 2),)))[0] == b"(1, 2)", "psycopg2's adapter for a subclass is found by psycopg2"


STATEMENTS: list[tuple[Any, Any]] = [
    ("SELECT 1", None),
    ("SELECT 5 % 3, '%s', '%%'", None),
    ("SELECT %s", None),
    ("", None),
    ("  ", None),
    (b"SELECT '\xff'", None),
    ("SELECT '\0'", None),
    ("SELECT '\ud800'", None),
    # Without placeholders psycopg2 does not look at the parameters.
    ("SELECT 1", ()),
    ("SELECT 1", []),
    ("SELECT 1", {}),
    ("SELECT 1", (1, 2)),
    ("SELECT 1", "x"),
    ("SELECT 1", 5),
    ("SELECT 5 %% 3", ()),
    ("SELECT 5 %% 3", (1,)),
    ("SELECT 5 %% 3", object()),
    ("%%", ()),
    ("", ()),
    ("  ", ()),
    # Placeholders.
    ("%s", (1,)),
    ("%s%s", (1, 2)),
    ("%s", [1]),
    ("%s %% %%%s%%", (1, 2)),
    ("%%s %s", (1,)),
    ("%%%%s", ()),
    ("'%s' || \"%s\" -- %s", (1, 2, 3)),
    ("%(a)s, %(b)s, %(a)s", {"a": 1, "b": "x", "unused": object()}),
    ("%(a)s%%", {"a": 1}),
    ("%()s", {"": 1}),
    ("%(ä ö)s %(\n)s %(a[0])s", {"ä ö": 1, "\n": 2, "a[0]": 3}),
    (b"SELECT %s, '\xff'", (1,)),
    (b"%(\xc3\xa4)s", {"ä": 1}),
    (Text("SELECT %s"), (1,)),
    (sql.SQL("SELECT {} AS {}").format(sql.Placeholder(), sql.Identifier('a "b" %%')), (1,)),
    (sql.SQL("SELECT {}, {}").format(sql.Placeholder("x"), sql.Literal("it's")), {"x": [1]}),
    (sql.SQL("SELECT {}").format(sql.Literal(1)), None),
    ("%s", range(5, 6)),
    ("%s", UserList([5])),
    ("%s", "t"),
    ("%s, %s", Pair(1, 2)),
    ("%(a)s", OrderedDict(a=1)),
    # Mistakes.
    ("%s", ()),
    ("%s", {}),
    ("%s", {0: 1}),
    ("%s", (1, 2)),
    ("%s, %s", (1,)),
    ("%s, %s", (object(),)),
    ("%s", 1),
    ("%s", {1, 2}),
    ("%s", "text"),
    ("%(a)s", {}),
    ("%(b)s, %(a)s", {"b": object()}),
    ("%(a)s", (1,)),
    ("%(a)s", [1]),
    ("%(a)s", 5),
    ("%(a)s, %s", {"a": 1}),
    ("%s, %(a)s", {"a": 1}),
    ("%s, %(a)s", (1,)),
    ("5 % 3", ()),
    ("%", (1,)),
    ("%d", (1,)),
    ("%b", (1,)),
    ("%5s", (1,)),
    ("% s", (1,)),
    ("%.1s", (1,)),
    ("%(a)d", {"a": 1}),
    ("%(a) s", {"a": 1}),
    ("%(a", {"a": 1}),
    ("%(a%s)s", {"a%s": 1}),
    ("%(a(b)s", {"a(b": 1}),
    ("%(a(b)c)s", {"a(b)c": 1}),
    (b"%(\xff)s", {"a": 1}),
    ("%s \0", (1,)),
    ("%(\0)s", {"\0": 1}),
    ("%s \ud800", (1,)),
    ("%(\ud800)s", {"\ud800": 1}),
    (Text("%s \ud800"), (1,)),
    (1, (1,)),
    (None, None),
    (["SELECT %s"], (1,)),
    (bytearray(b"%s"), (1,)),
]


@pytest.mark.parametrize(("statement", "params"), STATEMENTS, ids=[ascii(case)[:70] for case in STATEMENTS])
def test_a_statement_has_the_outcome_it_has_in_psycopg2(statement: Any, params: Any) -> None:
    # Twice, as the second time its pieces are known.
    assert agree(statement, params) == agree(statement, params)


def test_placeholders_of_the_common_kinds_become_parameters() -> None:
    assert parts(agree("a = %s AND b LIKE '50%%' || %s", (1, "x"))) == (
        b"a = \0 AND b LIKE '50%' || \0",
        [23, 0],
        [b"1", b"x"],
    )
    assert parts(agree("%(b)s, %(a)s, %(b)s", {"a": 1, "b": "x"})) == (b"\0, \0, \0", [0, 23, 0], [b"x", b"1", b"x"])
    assert parts(agree(sql.SQL("{}").format(sql.Placeholder()), (1,))) == (b"\0", [23], [b"1"])
    assert parts(agree(b"\xff %s", [1])) == (b"\xff \0", [23], [b"1"])


def test_without_params_a_statement_travels_as_it_is() -> None:
    assert bind("SELECT '%s', 5 % 3", None) == (b"SELECT '%s', 5 % 3", b"", b"", ())
    assert bind("SELECT 1", ()) == (b"SELECT 1", b"", b"", ())


def test_what_bind_counts_in_sixteen_bits_goes_as_literals() -> None:
    most = bind("SELECT 1 IN %s", (tuple(range(65535)),))
    assert len(most.types) == 4 * 65535
    more = agree("SELECT 1 IN %s", (tuple(range(65536)),))
    assert more is not None
    assert more.types == b""
    assert agree(", ".join(["%s"] * 65536), list(range(65536))) is not None


def test_only_so_many_statements_of_usual_length_are_kept() -> None:
    before = parameters._template_of_str.cache_info().currsize
    long = "%s" + " " * parameters.LONGEST_KEPT
    assert agree(long, (1,)) is not None
    assert agree(long.encode(), (1,)) is not None
    assert parameters._template_of_str.cache_info().currsize == before
    for number in range(parameters.TEMPLATES_KEPT + 10):
        assert bind(f"{number} %s", (1,)).statement == b"%d \0" % number
    assert parameters._template_of_str.cache_info().currsize == parameters.TEMPLATES_KEPT


def test_a_reference_is_a_parameter_without_a_value() -> None:
    first, second = Reference("result", 0, "id"), Reference("result", None, 1)
    found = bind("%s, %s, %s", (5, first, second))
    assert parts(found) == (b"\0, \0, \0", [23, 0, 0], [b"5", None, None])
    assert found.references == ((1, first), (2, second))
    named = bind("%(a)s, %(a)s", {"a": first})
    assert named.references == ((0, first), (1, first))
    assert (first.source, first.row, first.column) == ("result", 0, "id")


def test_a_reference_may_stand_in_a_tuple() -> None:
    reference = Reference("result", 0, "id")
    found = bind("a IN %s AND b = %s", ((1, (reference, "x")), [2]))
    assert parts(found) == (b"a IN (\0, (\0, \0)) AND b = \0", [23, 0, 0, 1007], [b"1", None, b"x", b"{2}"])
    assert found.references == ((1, reference),)


@pytest.mark.parametrize(
    ("statement", "params"),
    [
        ("%s", ([Reference("result", 0, "id")],)),
        ("%s", ([1, [Reference("result", 0, "id")]],)),
        ("%s, %s", (Reference("result", 0, "id"),)),
        ("%d", (Reference("result", 0, "id"),)),
        ("%s", (extras.NumericRange(Reference("result", 0, "id")),)),
        ("%s", ((Reference("result", 0, "id"),) * 65536,)),
    ],
)
def test_a_reference_elsewhere_is_refused_with_a_text_that_helps(statement: str, params: Any) -> None:
    with pytest.raises(TypeError, match=r"has no value yet.*: use it as a parameter of its own"):
        bind(statement, params)


@pytest.mark.usefixtures("registrations")
@pytest.mark.parametrize("kind", [bool, int, float, Decimal, str, bytes, date, datetime, UUID, list, tuple])
def test_an_adapter_that_a_program_registers_later_is_used_from_then_on(kind: type) -> None:
    value = next(case[0] for case in SINGLE if type(case[0]) is kind) if kind is not tuple else (1, 2)
    nested = [value, [value], (value, [value])]
    for one in nested:
        agree("SELECT %s", (one,))
    extensions.register_adapter(kind, lambda _: extensions.AsIs("'theirs'::citext"))
    assert parts(agree("SELECT %s", (value,)))[0] == b"SELECT 'theirs'::citext"
    for one in nested:
        found = agree("SELECT %s", (one,))
        assert found is not None
        assert b"theirs" in found.statement


@pytest.mark.usefixtures("registrations")
def test_types_that_a_program_registers_are_parameters_where_their_literal_is_simple() -> None:
    extensions.register_adapter(dict, extras.Json)
    assert parts(agree("%s", ({"a": None},)))[1:] == ([0], [b'{"a": null}'])
    extras.register_ipaddress()
    assert parts(agree("%s", (IPv4Interface("10.0.0.1/8"),)))[1:] == ([0], [b"10.0.0.1/8"])
    assert agree("%s", (complex(1, 2),)) is None
    extensions.register_adapter(complex, lambda value: extensions.AsIs(f"point({value.real}, {value.imag})"))
    assert parts(agree("%s", (complex(1, 2),)))[0] == b"point(1.0, 2.0)"


def test_an_adapters_error_comes_through() -> None:
    class Broken:
        def __conform__(self, protocol: Any) -> Any:
            return self

        def getquoted(self) -> bytes:
            raise ArithmeticError("cannot")

    with pytest.raises(ArithmeticError, match="cannot"):
        bind("%s, %s", (1, Broken()))
    with pytest.raises(psycopg2.ProgrammingError, match="can't adapt type 'object'"):
        bind("%s", (object(),))


# What hypothesis draws values from.
texts = st.text() | st.text("'\"\\{},NULL %s\0\t\n-", max_size=8)
integers = st.one_of(
    st.integers(), st.sampled_from([s * 2**n + d for n in (15, 31, 63, 64) for s in (1, -1) for d in (-1, 0, 1)])
)
offsets = st.integers(-15 * 60, 15 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
SCALARS = {
    "bool": st.booleans(),
    "int": integers,
    "float": st.floats(),
    "Decimal": st.decimals() | integers.map(Decimal),
    "number": integers | st.floats() | st.decimals(),
    "str": texts,
    "bytes": st.binary(),
    "date": st.dates(),
    "time": st.times(timezones=st.none() | offsets),
    "datetime": st.datetimes(timezones=st.none() | offsets),
    "timedelta": st.timedeltas(),
    "UUID": st.uuids(),
    "AsIs": texts.map(extensions.AsIs),
    "Json": st.dictionaries(texts, texts, max_size=2).map(extras.Json),
}
scalars = st.one_of(st.none(), *SCALARS.values())


@pytest.mark.parametrize("kind", SCALARS)
def test_any_value_becomes_psycopg2s_literal_again(kind: str) -> None:
    item = st.none() | SCALARS[kind]
    shaped = st.tuples(st.integers(1, 3), st.integers(1, 3)).flatmap(
        lambda shape: st.lists(st.lists(item, min_size=shape[0], max_size=shape[0]), min_size=shape[1], max_size=3)
    )

    @quick
    @given(SCALARS[kind] | st.lists(item, max_size=4) | shaped | st.lists(item, max_size=4).map(tuple))
    def check(value: Any) -> None:
        agree("SELECT %s AS it", (value,))

    check()


@quick
@given(st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple)))
def test_any_nesting_of_any_values_becomes_psycopg2s_literal_again(value: Any) -> None:
    agree("SELECT %(it)s AS it, %(it)s", {"it": value})


@quick
@given(
    st.lists(st.sampled_from(["%s", "%%", "%(a)s", "%(b c)s", "%", "s", "%d", "(", ")", "'", "ä", " "]), max_size=6),
    st.lists(scalars, max_size=4) | st.dictionaries(st.sampled_from(["a", "b c"]), scalars),
    st.booleans(),
)
def test_any_placeholders_have_the_outcome_they_have_in_psycopg2(
    pieces: list[str], params: Any, as_bytes: bool
) -> None:
    statement = "".join(pieces)
    agree(statement.encode() if as_bytes else statement, tuple(params) if isinstance(params, list) else params)


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("-Infinity"), [Decimal("NaN"), -1]])
def test_what_names_its_column_as_a_literal_stays_a_literal(value: Any) -> None:
    bound = bind("SELECT %s", (value,))
    assert (bound.types, bound.values) == (b"", b"")
    assert b"'NaN'::numeric" in bound.statement
