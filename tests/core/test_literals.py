"""Literals from what strangers send: PostgreSQL's text, or ProtocolViolation, and never more than one literal each.

That they are psycopg2's own literals is shown in tests/client/test_parameters.py.
"""

import re
from typing import Any

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from client.wire.messages import ProtocolViolation
from poold.core.statements.literals import array_text, numbered, parse_array, reference_type, render, split_values

quick = examples(200)

BOOL, BYTEA, INT8, INT2, INT4, TEXT, FLOAT4, FLOAT8, NUMERIC = 16, 17, 20, 21, 23, 25, 700, 701, 1700
INT2S, INT4S, TEXTS, INT8S, FLOAT4S, FLOAT8S, NUMERICS, BOOLS, BYTEAS = (
    1005, 1007, 1009, 1016, 1021, 1022, 1231, 1000, 1001,
)  # fmt: skip
# By name, and the array's.
QUOTED = {
    "bytea": (17, 1001), "inet": (869, 1041), "date": (1082, 1182), "time": (1083, 1183), "timestamp": (1114, 1115),
    "timestamptz": (1184, 1185), "interval": (1186, 1187), "timetz": (1266, 1270), "uuid": (2950, 2951),
}  # fmt: skip
SCALAR_OIDS = [BOOL, INT2, INT4, INT8, FLOAT4, FLOAT8, NUMERIC, *(scalar for scalar, _ in QUOTED.values())]
ARRAY_OIDS = [INT2S, INT4S, INT8S, FLOAT4S, FLOAT8S, NUMERICS, BOOLS, TEXTS, *(array for _, array in QUOTED.values())]


def types_of(*oids: int) -> bytes:
    return b"".join(oid.to_bytes(4, "big") for oid in oids)


def values_of(*texts: bytes | None) -> bytes:
    return b"".join(b"\xff" * 4 if text is None else len(text).to_bytes(4, "big") + text for text in texts)


def literal(oid: int, text: bytes | None) -> bytes:
    """What is written for this one parameter."""
    rendered = render(b"[\0]", types_of(oid), values_of(text))
    assert rendered[:1] + rendered[-1:] == b"[]"
    return rendered[1:-1]


@pytest.mark.parametrize(
    ("oid", "text", "expected"),
    [
        (0, b"", b"''"),
        (0, b"it's", b"'it''s'"),
        (0, b"\\'; DROP TABLE x; --", b"'\\''; DROP TABLE x; --'"),
        (TEXT, b"5", b"'5'"),
        (1043, b"a", b"'a'"),
        (1042, b"a ", b"'a '"),
        (114, b"{}", b"'{}'"),
        (2**32 - 1, b"x", b"'x'"),
        (BOOL, b"t", b"true"),
        (BOOL, b"true", b"true"),
        (BOOL, b"f", b"false"),
        (BOOL, b"false", b"false"),
        (INT4, b"5", b"5"),
        (INT4, b"-5", b" -5"),
        (INT4, b"-2147483648", b" -2147483648"),
        (INT8, b"2147483648", b"2147483648"),
        (INT8, b"-9223372036854775808", b" -9223372036854775808"),
        (NUMERIC, b"9223372036854775808", b"9223372036854775808"),
        (NUMERIC, b"1.50", b"1.50"),
        (NUMERIC, b"-1e+20", b" -1e+20"),
        (NUMERIC, b"1E-7", b"1E-7"),
        (NUMERIC, b"NaN", b"'NaN'::numeric"),
        (FLOAT8, b"NaN", b"'NaN'::float"),
        (FLOAT8, b"-Infinity", b"'-Infinity'::float"),
        # Without quotes these would be of another type.
        (INT4, b"2147483648", b"'2147483648'::int4"),
        (INT8, b"5", b"'5'::int8"),
        (INT8, b"9223372036854775808", b"'9223372036854775808'::int8"),
        (INT2, b"-1", b"'-1'::int2"),
        (NUMERIC, b"5", b"'5'::numeric"),
        (NUMERIC, b"-Infinity", b"'-Infinity'::numeric"),
        (FLOAT8, b"1.5", b"'1.5'::float"),
        (FLOAT4, b"-1e-20", b"'-1e-20'::float4"),
        (BYTEA, b"\\x00ff", b"'\\x00ff'::bytea"),
        (1082, b"2024-02-29", b"'2024-02-29'::date"),
        (1082, b"' || version() || '", b"''' || version() || '''::date"),
        (1184, b"infinity", b"'infinity'::timestamptz"),
        # Arrays.
        (INT4S, b"{1,-2,NULL}", b"ARRAY[1, -2,NULL]"),
        (INT4S, b"{-1}", b"ARRAY[ -1]"),
        (INT4S, b"{2147483647}", b"ARRAY[2147483647]"),
        (INT4S, b'{"5"}', b"ARRAY[5]"),
        (INT4S, b"{{1,2},{3,NULL}}", b"ARRAY[ARRAY[1,2],ARRAY[3,NULL]]"),
        (INT8S, b"{1,-2147483649}", b"ARRAY[1, -2147483649]"),
        (NUMERICS, b"{1,1.5}", b"ARRAY[1,1.5]"),
        (NUMERICS, b"{NaN,-1}", b"ARRAY['NaN'::numeric, -1]"),
        (NUMERICS, b"{-Infinity}", b"ARRAY['-Infinity'::numeric]"),
        (NUMERICS, b"{1,9223372036854775808}", b"ARRAY[1,9223372036854775808]"),
        (BOOLS, b"{t,f,true,NULL}", b"ARRAY[true,false,true,NULL]"),
        (TEXTS, b'{"a","it\'s","","NULL"}', b"ARRAY['a','it''s','','NULL']"),
        (TEXTS, b'{a,"b c",NULL,null,Null}', b"ARRAY['a','b c',NULL,NULL,NULL]"),
        (TEXTS, b'{"\\\\","\\"","\\\\\\"","\\",\\""}', b"ARRAY['\\','\"','\\\"','\",\"']"),
        (TEXTS, b'{"\\a\\\'"}', b"ARRAY['a''']"),
        (TEXTS, b'{{"a"},{"b"}}', b"ARRAY[ARRAY['a'],ARRAY['b']]"),
        (BYTEAS, b'{"\\\\x61"}', b"ARRAY['\\x61'::bytea]"),
        (1185, b'{"2024-01-01 00:00:00+00",NULL}', b"ARRAY['2024-01-01 00:00:00+00'::timestamptz,NULL]"),
        # ARRAY[...] of these would be of another type, of none, or would count from 1.
        (INT4S, b"{}", b"'{}'::int4[]"),
        (INT4S, b"{NULL}", b"'{NULL}'::int4[]"),
        (INT4S, b"{1,2147483648}", b"'{1,2147483648}'::int4[]"),
        (INT4S, b"{{1},{NULL}}", b"'{{1},{NULL}}'::int4[]"),
        (INT4S, b"[2:3]={1,2}", b"'[2:3]={1,2}'::int4[]"),
        (INT4S, b"[0:0][-1:0]={{1,2}}", b"'[0:0][-1:0]={{1,2}}'::int4[]"),
        (INT8S, b"{1,2}", b"'{1,2}'::int8[]"),
        (NUMERICS, b"{1,2}", b"'{1,2}'::numeric[]"),
        (INT2S, b"{1}", b"'{1}'::int2[]"),
        (FLOAT4S, b"{1.5}", b"'{1.5}'::float4[]"),
        (FLOAT8S, b"{1.5,NaN}", b"'{1.5,NaN}'::float[]"),
        (TEXTS, b"{}", b"'{}'::text[]"),
        (TEXTS, b"{NULL}", b"'{NULL}'::text[]"),
        (TEXTS, b"{{it's},{NULL}}", b"'{{it''s},{NULL}}'::text[]"),
    ],
)
def test_a_parameter_is_written_as_a_literal_of_its_very_type(oid: int, text: bytes, expected: bytes) -> None:
    assert literal(oid, text) == expected


@pytest.mark.parametrize("oid", [0, TEXT, 600, *SCALAR_OIDS, *ARRAY_OIDS])
def test_null_is_null_whatever_its_type(oid: int) -> None:
    assert literal(oid, None) == b"NULL"


@pytest.mark.parametrize("name", QUOTED)
def test_types_in_quotes_are_named_alone_and_in_arrays(name: str) -> None:
    scalar, array = QUOTED[name]
    expected = f"'it''s'::{name}".encode()
    assert literal(scalar, b"it's") == expected
    assert literal(array, b'{"it\'s",NULL}') == b"ARRAY[" + expected + b",NULL]"
    assert literal(array, b"{}") == f"'{{}}'::{name}[]".encode()


def test_literals_take_the_places_of_nuls_in_order() -> None:
    types, values = types_of(INT4, 0, INT4S, 0), values_of(b"1", b"\\0 $2", b"{1}", None)
    assert render(b"a\0b\0\0c\0", types, values) == b"a1b'\\0 $2'ARRAY[1]cNULL"
    assert render(b"SELECT 1", b"", b"") == b"SELECT 1"
    assert render(b"\0", types_of(0), values_of(b"")) == b"''"


def test_numbers_take_the_places_of_nuls_in_order() -> None:
    assert numbered(b"SELECT 1") == b"SELECT 1"
    assert numbered(b"") == b""
    assert numbered(b"\0") == b"$1"
    assert numbered(b"a = \0 AND b IN (\0, \0)") == b"a = $1 AND b IN ($2, $3)"
    assert numbered(b",".join([b"\0"] * 11)).endswith(b",$9,$10,$11")


NO_NUMBERS = [
    b"", b" ", b"-", b"--1", b"+1", b"1 ", b" 1", b"1\n", b"01", b"0x1", b"1_000", b"1;", b"1--", b"1e", b"1e5.5",
    b".5", b"5.", b"1.5.5", b"1,2", b"1 OR 1=1", b"$1", b"nan", b"NAN", b"infinity", b"Inf", b"+Infinity", b"NULL",
    b"null", b"true", b"'1'", b"1'", b"'", b"\xb2", "\u0661".encode(), b"1/0", b"(1)", b"-(1)",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_NUMBERS)
@pytest.mark.parametrize(
    ("scalar", "array"), [(INT2, INT2S), (INT4, INT4S), (INT8, INT8S), (NUMERIC, NUMERICS), (FLOAT8, FLOAT8S)]
)
def test_what_is_no_number_is_refused_where_a_number_is_declared(scalar: int, array: int, text: bytes) -> None:
    quoted = b'"' + text + b'"'
    for oid, hostile in [(scalar, text), (array, b"{1,%b}" % quoted), (array, b"{{1,2},{NULL,%b}}" % quoted)]:
        with pytest.raises(ProtocolViolation):
            literal(oid, hostile)


@pytest.mark.parametrize("text", [b"1.5", b"1e5", b"NaN", b"Infinity"])
@pytest.mark.parametrize(("scalar", "array"), [(INT2, INT2S), (INT4, INT4S), (INT8, INT8S)])
def test_other_numbers_are_no_integers(scalar: int, array: int, text: bytes) -> None:
    for oid, hostile in [(scalar, text), (array, b"{" + text + b"}"), (array, b"{1," + text + b"}")]:
        with pytest.raises(ProtocolViolation):
            literal(oid, hostile)


@pytest.mark.parametrize("text", [b"", b"T", b"TRUE", b"yes", b"1", b"on", b"true ", b"NULL", b"true; x"])
def test_what_is_no_boolean_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        literal(BOOL, text)
    with pytest.raises(ProtocolViolation):
        literal(BOOLS, b'{"' + text + b'"}')


MALFORMED = [
    b"", b" ", b"1", b"a", b"NULL", b"{", b"}", b"{{", b"}{", b"{}{}", b"{} ", b" {}", b"{ }", b"{,}", b"{1,}", b"{,1}",
    b"{1,,2}", b"{1}2", b"{1}}", b"{{1}", b"{1},{2}", b"{1},", b"{1 2}", b"{1, 2}", b"{ 1}", b"{1\n}", b"{{}}",
    b"{{},{}}", b"{{1},{}}", b"{{1},2}", b"{1,{2}}", b"{{1},{2,3}}", b"{{1},{{2}}}", b"{{1},NULL}", b'{"1}', b'{1"}',
    b'{"1""2"}', b'{"1"2}', b'{1"2"}', b'{"1\\"}', b"{1\\}", b"{\\1}", b'{"', b'{"\\', b"{{{{{{{1}}}}}}}", b"{{{{{{{",
    b"[1:1]={", b"[1:1]{1}", b"[1]={1}", b"[a:b]={1}", b"[1:1]=[1:1]={1}", b"[1:1] ={1}", b"[1:1]=", b"{[1:1]={1}",
    b"[1:1][1:1][1:1][1:1][1:1][1:1][1:1]={1}", b"{1}'", b"{1}--", b"{1}]::int[]; DROP TABLE x; --",
]  # fmt: skip


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_array_is_refused_whatever_its_type(text: bytes) -> None:
    for oid in ARRAY_OIDS:
        with pytest.raises(ProtocolViolation):
            literal(oid, text)


HOSTILE_AND_LONG = [
    b'{"' + b'\\"' * 100_000,
    b'{"' + b"\\" * 200_001,
    b'{"' + b'","' * 60_000,
    b'{"' + b'a","' * 60_000 + b'"',
    b"{" * 200_000,
    b"{1," * 60_000,
    b"{" + b"1," * 100_000,
    b"{" + b"1" * 200_000,
    b"{" + b"-" * 200_000 + b'"}',
    b"[1:1]" * 200_000,
    b"'" * 200_000,
]


@pytest.mark.parametrize("text", HOSTILE_AND_LONG, ids=[f"{text[:12]!r}" for text in HOSTILE_AND_LONG])
@pytest.mark.parametrize("oid", [INT4S, NUMERICS, TEXTS, BYTEAS])
def test_a_long_malformed_array_is_refused_in_linear_time(oid: int, text: bytes) -> None:
    # A moment where the time is linear; where it is not, the test runs into its timeout.
    with pytest.raises(ProtocolViolation):
        literal(oid, text)


def test_digits_in_any_number_are_written() -> None:
    digits = b"7" * 1_000_000
    assert literal(NUMERIC, digits) == digits
    assert literal(NUMERICS, b"{" + digits + b"}") == b"ARRAY[" + digits + b"]"
    assert literal(INT4, digits) == b"'" + digits + b"'::int4"


@pytest.mark.parametrize(
    ("values", "count"),
    [
        (b"", 1),
        (b"\0\0\0", 1),
        (b"\xff\xff\xff", 1),
        (b"\0\0\0\0", 0),
        (b"\0\0\0\1", 1),
        (b"\0\0\0\1ab", 1),
        (b"\x7f\xff\xff\xffa", 1),
        (b"\xff\xff\xff\xfe", 1),
        (b"\x80\0\0\0", 1),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff", 1),
        (b"\0\0\0\1a\0\0", 2),
        (b"\0\0\0\5a\0\0\0\0", 2),
    ],
)
def test_values_that_do_not_add_up_are_refused(values: bytes, count: int) -> None:
    with pytest.raises(ProtocolViolation):
        split_values(values, count)
    with pytest.raises(ProtocolViolation):
        render(b"\0" * count, types_of(*[0] * count), values)


@given(st.lists(st.none() | st.binary()))
def test_values_are_split_where_they_were_joined(texts: list[bytes | None]) -> None:
    assert split_values(values_of(*texts), len(texts)) == texts


@pytest.mark.parametrize(
    ("statement", "types"), [(b"\0", b""), (b"", types_of(0)), (b"\0", b"\0\0\0"), (b"\0\0", b"\0" * 4)]
)
def test_types_that_do_not_fit_the_statement_are_refused(statement: bytes, types: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        render(statement, types, values_of(*[b""] * statement.count(0)))


@pytest.mark.parametrize("oid", [0, TEXT, 1082, BYTEA, INT4, NUMERIC, *ARRAY_OIDS])
@pytest.mark.parametrize("text", [b"\0", b"1\0", b"{1,\0}", b'{"\0"}', b'{"a","\0q"}', b'{"\0b\\\\"}'])
def test_nul_in_a_value_is_refused(oid: int, text: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        literal(oid, text)


# A literal with all that is in quotes taken out: Q for each.
_NUMBER = r"(?: -|)[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
_ONE = rf"(?:NULL|true|false|{_NUMBER}|Q(?:::[a-z0-9]+)?)"
_ROW = rf"{_ONE}(?:,{_ONE})*"


def is_one_literal(text: bytes) -> bool:
    """Whether this is one literal to PostgreSQL's lexer, where backslashes mean nothing in quotes."""
    shape = re.sub(r"'(?:[^']|'')*'", "Q", text.decode("latin-1"))
    while (inner := re.sub(rf"ARRAY\[{_ROW}\]", "NULL", shape)) != shape:
        shape = inner
    return re.fullmatch(rf"{_ONE}|Q::[a-z0-9]+\[\]", shape) is not None


def test_the_judge_of_literals_tells_one_from_more() -> None:
    for text in [b"NULL", b"''", b"'a''b'::date", b" -1.5e+20", b"ARRAY[ARRAY['a'],ARRAY[NULL]]", b"'{}'::int4[]"]:
        assert is_one_literal(text)
    for text in [
        b"",
        b"1;",
        b"''x",
        b"'a'b'",
        b"1 OR 1",
        b"--1",
        b"-1",
        b"'a'::date--",
        b"ARRAY[1]]",
        b"'\\''",
        b"1''",
    ]:
        assert not is_one_literal(text)


hostile_texts = st.one_of(
    st.binary(),
    st.text("'\"\\{},[]:=;-+.eENULtrfaI \n\0/*$0123456789", max_size=30).map(str.encode),
    st.lists(st.sampled_from([b"{", b"}", b",", b'"', b"\\", b"'", b"1", b"-1", b"1.5", b"NULL", b"t", b"a"])).map(
        b"".join
    ),
    st.lists(st.none() | st.binary(max_size=5)).map(array_text),
    st.lists(st.none() | st.sampled_from([b"1", b"-1", b"2147483648", b"1.5", b"NaN", b"'", b"t"])).map(array_text),
)


@examples(1000)
@given(st.sampled_from([0, TEXT, 600, *SCALAR_OIDS, *ARRAY_OIDS]), hostile_texts)
def test_no_value_writes_more_than_one_literal(oid: int, text: bytes) -> None:
    try:
        written = literal(oid, text)
    except ProtocolViolation:
        return
    assert is_one_literal(written)


@quick
@given(st.binary() | st.lists(st.sampled_from([b"\0", b"'", b" x "])).map(b"".join), st.binary(), st.binary())
def test_nothing_but_protocol_violation_is_raised(statement: bytes, types: bytes, values: bytes) -> None:
    try:
        render(statement, types, values)
    except ProtocolViolation:
        pass


@quick
@given(st.lists(st.none() | st.binary() | st.sampled_from([b"", b"NULL", b"null", b'"', b"\\", b"{}", b"a b", b"5"])))
def test_cells_come_out_of_an_arrays_text_as_they_went_in(cells: list[bytes | None]) -> None:
    assert parse_array(array_text(cells)) == cells


@quick
@given(st.lists(st.text().map(str.encode), min_size=1))
def test_both_ways_to_write_texts_agree(texts: list[bytes]) -> None:
    """With all items in quotes there is a shorter way; a NULL at the end takes the longer one."""
    quoted = [b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"' for text in texts]
    if any(b"\0" in text for text in texts):
        return
    shorter, longer = b"{" + b",".join(quoted) + b"}", b"{" + b",".join([*quoted, b"NULL"]) + b"}"
    assert literal(TEXTS, shorter)[:-1] == literal(TEXTS, longer)[: -len(b",NULL]")]


def test_an_arrays_text_has_quotes_where_it_needs_them() -> None:
    assert array_text([]) == b"{}"
    assert array_text([b"1", None, b"-1.5", b"2024-01-01", b""]) == b'{1,NULL,-1.5,2024-01-01,""}'
    assert array_text([b"NULL", b"nuLl", b"a b", b'"', b"\\", b"{", "ä".encode()]) == (
        b'{"NULL","nuLl","a b","\\"","\\\\","{","\xc3\xa4"}'
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"{}", []),
        (b"{1,NULL}", [b"1", None]),
        (b'{{"a b"},{"\\"\\n"}}', [[b"a b"], [b'"n']]),
        (b"{{{{{{1}}}}}}", [[[[[[b"1"]]]]]]),
    ],
)
def test_arrays_are_parsed_with_their_dimensions(text: bytes, expected: Any) -> None:
    assert parse_array(text) == expected


@pytest.mark.parametrize(
    ("oid", "as_cell", "as_item"),
    [
        (INT2, INT2, INT2S), (INT4, INT4, INT4S), (INT8, INT8, INT8S), (FLOAT4, FLOAT4, FLOAT4S), (BOOL, BOOL, BOOLS),
        (FLOAT8, FLOAT8, FLOAT8S), (NUMERIC, NUMERIC, NUMERICS), *((one, one, array) for one, array in QUOTED.values()),
        # What its place asks for.
        (25, 0, TEXTS), (1043, 0, TEXTS), (1042, 0, TEXTS), (19, 0, TEXTS), (18, 0, TEXTS),
        (0, 0, 0), (114, 0, 0), (3802, 0, 0), (600, 0, 0), (16385, 0, 0), (2249, 0, 0),
        # No type has arrays of arrays.
        (INT4S, INT4S, 0), (TEXTS, TEXTS, 0), (1015, 0, 0),
    ],
)  # fmt: skip
def test_a_referenced_cell_keeps_its_type_where_it_can(oid: int, as_cell: int, as_item: int) -> None:
    assert reference_type(oid, as_array=False) == as_cell
    assert reference_type(oid, as_array=True) == as_item
