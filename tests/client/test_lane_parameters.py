"""Parameters converted by compiled code: the same bytes as those of client.values.bind, or none."""

import math
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import IntEnum
from typing import Any

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from psycopg2 import extensions

from client.compiled import load
from client.values.bind import bind

parameters: Any = load("client.lane.parameters")
pytestmark = pytest.mark.skipif(parameters is None, reason="this run is without compiled code")


class Colour(IntEnum):
    RED = 1


class Text(str):
    """Not str itself, so a program may have registered an adapter for it."""


# Each is converted by compiled code.
PLAIN: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63 - 1, -(2**63)),
    *(0.0, 1.5, -1.5, 1e16, 1e22, 1e-7, 5e-324, 1.7976931348623157e308, math.inf, -math.inf),
    *("", "a", "it's \\ 100 %", "äöü€💩", "x" * 10_000, "\x7f\x80"),
    *map(Decimal, ("0", "1", "-1", "1.50", "1E+5", "-1E-10", "0E+3", "9" * 19, "9" * 20, "9" * 40, "-" + "9" * 20)),
    *(Decimal(2**63 - 1), Decimal(2**63), Decimal(-(2**63)), Decimal(-(2**63) - 1), Decimal("0.00")),
    *(b"", b"\x00\xff", bytes(range(256)), date(1, 1, 1), date(9999, 12, 31), date(2024, 2, 29)),
    *(time(0), time(23, 59, 59, 999999), time(1, 2, 3, 4), datetime(1, 1, 1), datetime(2024, 2, 29, 12, 0, 0, 50)),
    *(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, 1, 2, 3, 4, timezone(timedelta(seconds=-3601)))),
    *(timedelta(0), timedelta(-1, 5, 7), timedelta.max, timedelta.min, uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)),
    *([1, 2, 3], ["a", None], [[1, 2], [3, 4]], bytearray(b"ab"), time(1, tzinfo=UTC), [Decimal("1.5"), 2]),
]
# Each is left to bind.
ODD: list[Any] = [
    *(2**63, -(2**63) - 1, 10**100, -0.0, Decimal("NaN"), Decimal("-0"), Decimal("-0.00"), Decimal("Infinity")),
    *("a\0b", "\ud800", "x" * 100_000, b"x" * 100_000, Colour.RED, Text("a"), (1, 2), [], [None], {"a": 1}, object()),
    *(memoryview(b"ab"), [1] * 5000, [[1], [2, 3]], {1, 2}),
]


def outcome(convert: Any, statement: Any, params: Any) -> Any:
    """What came, or the type of what was raised."""
    try:
        found = convert(statement, params)
    except Exception as error:  # noqa: BLE001  whatever it is, both ways must raise it
        return type(error)
    return None if found is None else tuple(found[:3])


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_what_is_plain_is_converted_as_bind_does(value: Any) -> None:
    for params in ((value,), [value], (value, 1, value)):
        statement = "SELECT " + ", ".join(["%s"] * len(params))
        assert outcome(parameters.bound, statement, params) == outcome(bind, statement, params)
    named = "SELECT %(a)s, 10 %% 3, %(b)s, %(a)s"
    assert parameters.bound(named, {"a": value, "b": 2, "c": object()}) == tuple(
        bind(named, {"a": value, "b": 2, "c": object()})[:3]
    )


@pytest.mark.parametrize("value", ODD, ids=lambda value: f"{value!r:.20}")
def test_what_is_odd_is_left_to_bind(value: Any) -> None:
    assert parameters.bound("SELECT %s, %s", (1, value)) is None
    assert parameters.bound("SELECT %(a)s", {"a": value}) is None


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.floats(),
    st.decimals(),
    st.text(),
    st.binary(max_size=300),
    st.dates(),
    st.times(),
    st.datetimes(
        timezones=st.none() | st.just(UTC) | st.integers(-86399, 86399).map(lambda n: timezone(timedelta(0, n)))
    ),
    st.timedeltas(),
    st.uuids(),
    st.lists(st.integers() | st.none(), max_size=5),
)


@given(st.lists(values, max_size=8), st.booleans())
@examples(500)
def test_any_values_become_what_bind_makes_of_them(params: list[Any], is_tuple: bool) -> None:
    statement = "SELECT " + ", ".join(["%s"] * len(params)) + " 'ä'"
    given_params = tuple(params) if is_tuple else params
    found = outcome(parameters.bound, statement, given_params)
    assert found is None or found == outcome(bind, statement, given_params)


STATEMENTS: list[tuple[Any, Any]] = [
    *(("SELECT 1", None), ("SELECT 1", ()), ("SELECT '%'", None), ("SELECT %%", ()), ("SELECT 1", {"a": 1})),
    *(("SELECT 'ä💩'", None), ("SELECT 1; SELECT 2", None), ("SELECT 1", [1, 2]), ("SELECT 1", 5)),
]
ODD_STATEMENTS: list[tuple[Any, Any]] = [
    *(("", None), ("", ()), ("SELECT %s", ()), ("SELECT %s", (1, 2)), ("SELECT %s", {"a": 1}), ("SELECT %s", 5)),
    *(("SELECT %(a)s", {"b": 1}), ("SELECT %(a)s", (1,)), ("SELECT %d", (1,)), ("SELECT '%'", ()), (b"SELECT 1", None)),
    *(("SELECT \0", None), ("SELECT \ud800", None), ("SELECT " + "x" * 9000, None), (Text("SELECT 1"), None)),
    *(("SELECT %s %(a)s", {"a": 1}), (5, None), ("SELECT %s", "a"), ("SELECT %(a)s", None)),
]


@pytest.mark.parametrize(("statement", "params"), STATEMENTS)
def test_statements_are_as_bind_has_them(statement: Any, params: Any) -> None:
    assert parameters.bound(statement, params) == tuple(bind(statement, params)[:3])


@pytest.mark.parametrize(("statement", "params"), ODD_STATEMENTS[:-1])
def test_odd_statements_and_parameters_that_do_not_fit_are_left_to_bind(statement: Any, params: Any) -> None:
    assert parameters.bound(statement, params) is None


@pytest.mark.usefixtures("registrations")
@pytest.mark.parametrize("value", [None, True, 1, 1.5, Decimal(1), "a", b"a", date.max, time.max, datetime.max, [1]])
def test_a_programs_adapter_counts_from_when_it_is_registered(value: Any) -> None:
    assert parameters.bound("SELECT %s", (value,)) is not None
    extensions.register_adapter(type(value), lambda _: extensions.AsIs("mine"))
    assert parameters.bound("SELECT %s", (value,)) is None


def test_a_list_that_is_emptied_while_it_is_read_does_no_harm() -> None:
    class Zone(tzinfo):
        def utcoffset(self, _: Any) -> timedelta:
            params.clear()
            return timedelta(0)

    params: list[Any] = [datetime(2024, 1, 1, tzinfo=Zone()), 1, 2]
    assert parameters.bound("SELECT %s, %s, %s", params) is None


def test_an_exception_of_a_value_reaches_the_program() -> None:
    class Zone(tzinfo):
        def utcoffset(self, _: Any) -> timedelta:
            raise KeyError("mine")

    params = (datetime(2024, 1, 1, tzinfo=Zone()), 1, 2)
    with pytest.raises(KeyError, match="mine"):
        parameters.bound("SELECT %s, %s, %s", params)


def test_more_statements_than_are_kept_are_no_fewer() -> None:
    for number in range(2500):
        assert parameters.bound(f"SELECT {number}, %s", (number,))[0] == b"SELECT %d, \0" % number
        assert parameters.bound(f"SELECT {number}", None)[0] == b"SELECT %d" % number
