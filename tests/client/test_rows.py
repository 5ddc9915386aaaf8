"""Results: PostgreSQL's messages in, rows of Python's values out: one by one, by replay, and by compiled code."""

import gc
import io
import itertools
import json
import os
import pickle
import socket
import struct
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import date
from decimal import Decimal
from functools import partial
from typing import Any

import psycopg2
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from psycopg2 import extensions
from waiting import wait_until

from client.values import casting, offline
from client.values import result as rows
from client.values.result import Column, Result, column_names
from client.values.row import Row
from client.wire import messages as protocol
from client.wire.messages import ProtocolViolation

BYTEA, INT, TEXT, POINT, INT_ARRAY, DATE, NUMERIC = 17, 23, 25, 600, 1007, 1082, 1700

Cells = Sequence[bytes | None]
# A column is its name and type OID, or those with typlen and typmod.
Spec = Sequence[tuple[Any, ...]]


def columns_of(spec: Spec) -> bytes:
    """The body of a RowDescription."""
    body = struct.pack("!H", len(spec))
    for name, oid, typlen, typmod in ((*column, -1, -1)[:4] for column in spec):
        raw = name if isinstance(name, bytes) else name.encode()
        body += raw + b"\0" + struct.pack("!IhIhih", 16384, 1, oid, typlen, typmod, 0)
    return body


def row_of(cells: Cells) -> bytes:
    """A DataRow."""
    body = struct.pack("!H", len(cells))
    for cell in cells:
        body += struct.pack("!i", -1) if cell is None else struct.pack("!i", len(cell)) + cell
    return b"D" + struct.pack("!I", len(body) + 4) + body


def reply_of(spec: Spec, table: Sequence[Cells]) -> protocol.ResultMessage:
    data = b"".join(map(row_of, table))
    return protocol.ResultMessage(7, "none", f"SELECT {len(table)}", len(table), columns_of(spec), data, ())


def result_of(spec: Spec, table: Sequence[Cells]) -> Result:
    return Result(reply_of(spec, table))


def cells_in(data: bytes) -> list[list[bytes | None]]:
    """The cells of DataRows, taken step by step as the manual has it."""
    stream, table = io.BytesIO(data), []
    while stream.read(1) == b"D":
        stream.read(4)
        cells = []
        for _ in range(int.from_bytes(stream.read(2))):
            size = int.from_bytes(stream.read(4), signed=True)
            cells.append(None if size < 0 else stream.read(size))
        table.append(cells)
    return table


def outcome(run: Callable[[], Any]) -> Any:
    """What came, with its types; or what was raised."""
    try:
        return [[seen(value) for value in row] for row in run()]
    except Exception as error:  # noqa: BLE001  whatever it is, both ways must raise it
        return type(error), str(error)


def seen(value: Any) -> Any:
    """A value with its type; repr tells -0.0 from 0.0 and shows Decimal's digits."""
    if isinstance(value, memoryview):
        return memoryview, bytes(value)
    return type(value), repr(value)


@contextmanager
def replaying(always: bool) -> Iterator[list[int]]:
    """Replay every result that is not read by its first row, or none, by Python code; what was replayed, in bytes."""
    replayed: list[int] = []
    replay = casting.replay

    def noted(columns: bytes, data: Any) -> Any:
        replayed.append(len(data))
        return replay(columns, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "is_worth_replay", lambda count, width, size: always)
        patch.setattr(rows, "replay", noted)
        turn_off_compiled_code(patch)
        yield replayed


def turn_off_compiled_code(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rows, "_ROWS", None)
    for name in ("fetchone", "fetchall"):
        method = getattr(Result, name)
        patch.setattr(Result, name, getattr(method, "__wrapped__", method))


WAYS: dict[str, Callable[[], Any]] = {"one by one": partial(replaying, False), "replayed": partial(replaying, True)}
if rows._ROWS is not None:
    WAYS["compiled"] = nullcontext


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each way to read rows."""
    with WAYS[request.param]():
        yield


all_ways = pytest.mark.usefixtures("way")


@pytest.fixture
def pure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns compiled code off, for what happens only without it."""
    turn_off_compiled_code(monkeypatch)


without_compiled = pytest.mark.usefixtures("pure")


def register(oid: int, read: Callable[[Any, Any], Any]) -> None:
    extensions.register_type(extensions.new_type((oid,), "MINE", read))


def descriptors() -> set[int]:
    """This process's open descriptors, but the one that looks."""
    return {number for number in map(int, os.listdir("/dev/fd")) if _is_open(number)}


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


NUMBERED: Spec = [("id", INT), ("name", TEXT)]


def numbered(count: int, first: int = 0) -> list[Cells]:
    return [(b"%d" % i, b"name %d" % i) for i in range(first, first + count)]


def values_of(count: int, first: int = 0) -> list[tuple[int, str]]:
    return [(i, f"name {i}") for i in range(first, first + count)]


# Rows


def test_a_row_is_read_by_index_name_and_attribute() -> None:
    row = result_of([("id", INT), ("name", TEXT), ("note", TEXT)], [(b"5", "ä€💩".encode(), None)]).fetchone()
    assert row is not None
    assert (row[0], row["id"], row.id, row[-2]) == (5, 5, 5, "ä€💩")
    assert (row.name, row["note"], row[1:]) == ("ä€💩", None, ("ä€💩", None))
    assert row == (5, "ä€💩", None) == tuple(row)
    assert row == [5, "ä€💩", None]
    assert row != (5, "ä€💩")
    assert hash(row) == hash((5, "ä€💩", None))
    assert dict(row) == {"id": 5, "name": "ä€💩", "note": None} == dict(row.items())
    assert (row.keys(), row.values()) == (("id", "name", "note"), (5, "ä€💩", None))
    assert (row.get("id"), row.get("nothing"), row.get("nothing", 3)) == (5, None, 3)
    assert repr(row) == "Row(id=5, name='ä€💩', note=None)"


def test_a_name_that_no_column_has_is_an_error_that_tells_the_names() -> None:
    row: Any = result_of(NUMBERED, numbered(1)).fetchone()
    with pytest.raises(KeyError, match="no column 'nothing'; this row has id, name"):
        row["nothing"]
    with pytest.raises(AttributeError, match="no column 'nothing'; this row has id, name"):
        _ = row.nothing
    with pytest.raises(IndexError):
        row[2]


def test_the_last_of_columns_with_the_same_name_answers_to_it() -> None:
    row: Any = result_of([("a", INT), ("a", INT), ("b", INT)], [(b"1", b"2", b"3")]).fetchone()
    assert (row, row.a, row["a"], row.keys()) == ((1, 2, 3), 2, 2, ("a", "a", "b"))
    assert repr(row) == "Row(a=1, a=2, b=3)"


ODD = ["", "two words", "?column?", "class", "count", "index", "keys", "get", "_names", "__class__", "1", "ä", "x" * 63]


def test_columns_with_odd_names_are_reached_by_them() -> None:
    row: Any = result_of([(name, INT) for name in ODD], [[b"%d" % i for i in range(len(ODD))]]).fetchone()
    assert [row[name] for name in ODD] == list(range(len(ODD)))
    assert (row.count, row.index, getattr(row, "class"), getattr(row, "two words")) == (4, 5, 3, 1)
    assert row.keys() == tuple(ODD)  # the method; the column is row['keys']
    assert isinstance(row, Row)


@all_ways
def test_a_row_can_be_pickled() -> None:
    row = result_of(NUMBERED, numbered(3)).fetchall()[2]
    again = pickle.loads(pickle.dumps(row))
    assert (again, again.name, type(again)) == (row, "name 2", type(row))


# Reading


@all_ways
def test_all_ways_of_reading_share_one_position() -> None:
    result = result_of(NUMBERED, numbered(12))
    expected = values_of(12)
    assert result.fetchone() == expected[0]
    assert result.fetchone() == expected[1]
    assert result.fetchmany() == expected[2:3]
    assert result.fetchmany(2) == expected[3:5]
    assert result.fetchmany(0) == result.fetchmany(-1) == []
    assert next(result) == expected[5]
    for row in result:
        assert row == expected[6]
        break
    iterator = iter(result)
    assert next(iterator) == expected[7]
    assert result.fetchone() == expected[8]
    assert next(iterator) == expected[9]
    assert result.fetchall() == expected[10:]
    assert result.fetchone() is None
    assert list(iterator) == list(result) == result.fetchall() == result.fetchmany(5) == []
    with pytest.raises(StopIteration):
        next(result)


@all_ways
def test_an_iterator_goes_on_where_others_read_on_into_the_next_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(casting, "BLOCK_BYTES", 100)  # four rows
    result = result_of(NUMBERED, numbered(20))
    iterator = iter(result)
    read = [next(iterator), *result.fetchmany(6), next(iterator), result.fetchone(), *iterator]
    assert read == values_of(20)


@all_ways
@pytest.mark.parametrize("count", [0, 1, 12])
def test_each_loop_over_a_whole_result_begins_at_the_first_row(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(casting, "BLOCK_BYTES", 100)
    result = result_of(NUMBERED, numbered(count))
    for _ in range(3):
        assert len(list(result)) == count
        assert (result.fetchone(), result.fetchmany(3), result.fetchall(), next(result, None)) == (None, [], [], None)
        assert [*result] == values_of(count)


@all_ways
def test_a_loop_goes_on_behind_what_was_read_and_the_next_but_one_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(casting, "BLOCK_BYTES", 100)
    for count in (1, 3, 12):
        result = result_of(NUMBERED, numbered(count))
        for _ in range(2):
            assert next(iter(result)) == values_of(1)[0]
            assert list(result) == values_of(count)[1:]
            if count > 1:
                assert list(result) == []
            assert [result.fetchone(), result.fetchall(), result.fetchmany(4)] == [None, [], []]
        assert list(result) == values_of(count)


@all_ways
def test_what_was_fetched_to_the_end_gives_a_loop_nothing() -> None:
    for read in (
        lambda result: result.fetchall(),
        lambda result: result.fetchmany(5),
        lambda result: [*map(next, [result] * 5)],
    ):
        result = result_of(NUMBERED, numbered(5))
        assert len(read(result)) == 5
        assert list(result) == []
        assert list(result) == values_of(5)


@all_ways
@pytest.mark.parametrize("size", range(1, 8))
def test_reading_by_slices_of_loops_ends(size: int) -> None:
    result = result_of(NUMBERED, numbered(7))
    parts = []
    while part := list(itertools.islice(result, size)):
        parts += part
    assert parts == values_of(7)
    rows = iter(result)
    assert [*itertools.chain(*iter(lambda: list(itertools.islice(rows, 100)), []))] == values_of(7)


@all_ways
def test_first_one_and_scalar_do_not_move_the_position() -> None:
    result = result_of(NUMBERED, numbered(3))
    result.fetchone()
    assert (result.first(), result.scalar(), result.fetchone()) == ((0, "name 0"), 0, (1, "name 1"))
    with pytest.raises(LookupError, match="exactly one row; this one has 3"):
        result.one()
    single, empty = result_of(NUMBERED, numbered(1, 8)), result_of(NUMBERED, [])
    assert (single.one().name, single.first().id, single.scalar(), single.fetchone()) == ("name 8", 8, 8, (8, "name 8"))
    assert (empty.first(), empty.scalar()) == (None, None)
    with pytest.raises(LookupError, match="exactly one row; this one has 0"):
        empty.one()


@all_ways
def test_rows_may_be_dicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(casting, "BLOCK_BYTES", 100)
    expected = [{"id": number, "name": name} for number, name in values_of(12)]
    for read in (list, Result.fetchall, lambda result: result[:], lambda result: [*iter(result.fetchone, None)]):
        result = Result(reply_of(NUMBERED, numbered(12)), dicts=True)
        assert read(result) == expected
        assert {type(row) for row in result[:]} == {dict}
    assert (result.first(), result[3], result.scalar()) == (expected[0], expected[3], 0)
    assert json.loads(json.dumps(result[2:4])) == expected[2:4]
    assert result_of(NUMBERED, numbered(12)).fetchall() == values_of(12)
    twice = Result(reply_of([("a", 23), ("a", 23)], [(b"1", b"2")]), dicts=True)
    assert (twice.fetchone(), twice.scalar()) == ({"a": 2}, 1)


def test_a_row_becomes_a_dict() -> None:
    row = result_of([("id", 23), ("note", 25)], [(b"1", None)]).one()
    assert row._asdict() == dict(row) == {"id": 1, "note": None}
    assert json.dumps(row._asdict()) == '{"id": 1, "note": null}'
    assert ("id" in row, "other" in row, 1 in row, 2 in row, None in row) == (True, False, True, False, True)
    assert str(row) == "Row(id=1, note=None)"


@all_ways
def test_arraysize_is_how_many_rows_fetchmany_gives() -> None:
    result = result_of(NUMBERED, numbered(5))
    assert result.arraysize == 1
    result.arraysize = 3
    assert [len(result.fetchmany()), len(result.fetchmany())] == [3, 2]


@all_ways
def test_looking_at_a_row_does_not_move_the_position() -> None:
    result = result_of(NUMBERED, numbered(9))
    result.fetchone()
    assert (result[3], result[-1], result[0]) == (*values_of(1, 3), *values_of(1, 8), *values_of(1))
    assert len(result) == 9
    assert list(reversed(result)) == values_of(9)[::-1]
    assert result.fetchone() == (1, "name 1")
    for place in (9, -10):
        with pytest.raises(IndexError, match=f"no row {place}; this result has 9 rows"):
            result[place]
    with pytest.raises(TypeError):
        result["name"]  # type: ignore[call-overload]  # the mistake is the test


PLACES = [None, 0, 1, 4, 6, 7, 99, -1, -3, -7, -99]


@all_ways
@pytest.mark.parametrize("block", [30, 90, casting.BLOCK_BYTES])
def test_a_slice_is_what_it_is_of_a_list(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(casting, "BLOCK_BYTES", block)
    result, expected = result_of(NUMBERED, numbered(7)), values_of(7)
    for place in itertools.starmap(slice, itertools.product(PLACES, PLACES, [None, 1, 2, -1, -2])):
        assert result[place] == expected[place]
    assert result_of(NUMBERED, [])[:] == []


def test_a_result_says_what_it_is() -> None:
    reply = reply_of(NUMBERED, numbered(3))
    result = Result(reply._replace(notices=("NOTICE:  one\n", "WARNING:  two\n")))
    assert (result.rowcount, result.statusmessage, len(result)) == (3, "SELECT 3", 3)
    assert (result.columns, column_names(reply.columns or b"")) == (("id", "name"), ("id", "name"))
    assert result.notices == ("NOTICE:  one\n", "WARNING:  two\n")
    assert repr(result) == "<Result 'SELECT 3' rowcount=3>"


def test_a_result_is_made_of_the_fields_of_its_message() -> None:
    result = Result.from_fields(tuple(reply_of(NUMBERED, numbered(3))))
    assert (result.rowcount, result.statusmessage, result.notices) == (3, "SELECT 3", ())
    assert result.fetchall() == values_of(3)


def test_a_statement_without_rows_has_nothing_to_fetch() -> None:
    result = Result(protocol.ResultMessage(1, "none", "UPDATE 5", 5, None, b"", ()))
    assert (result.rowcount, len(result), result.columns, result.description) == (5, 0, None, None)
    peeks = result.first, result.one, result.scalar, lambda: result[0]
    for read in (result.fetchone, result.fetchmany, result.fetchall, lambda: iter(result), *peeks):
        with pytest.raises(psycopg2.ProgrammingError, match="no results to fetch: UPDATE 5 returns no rows"):
            read()
    with pytest.raises(psycopg2.ProgrammingError):
        next(result)


@all_ways
def test_a_result_may_have_no_rows_or_rows_without_cells() -> None:
    empty = result_of(NUMBERED, [])
    assert (empty.fetchone(), empty.fetchall(), list(empty), len(empty)) == (None, [], [], 0)
    assert empty.columns == ("id", "name")
    bare = result_of([], [(), ()])
    assert (bare.columns, bare.description, len(bare), bare[1]) == ((), (), 2, ())
    assert bare.fetchall() == [(), ()]


@all_ways
def test_a_closed_result_has_no_rows_left() -> None:
    for read in (0, 1, 2):
        result = result_of(NUMBERED, numbered(5))
        result.fetchmany(read)
        assert result[4] == (4, "name 4")
        result.close()
        assert (result.fetchone(), result.fetchall(), list(result), len(result)) == (None, [], [], 0)
        assert (result.rowcount, result.columns) == (5, ("id", "name"))
        with pytest.raises(IndexError):
            result[0]


def test_nothing_is_looked_at_before_a_row_is_read() -> None:
    result = Result(protocol.ResultMessage(1, "none", "SELECT 1", 1, b"garbage", b"garbage", ()))
    assert (len(result), result.rowcount, repr(result)) == (1, 1, "<Result 'SELECT 1' rowcount=1>")
    with pytest.raises(ProtocolViolation):
        result.fetchone()


def test_the_first_row_is_read_by_itself_and_those_behind_it_by_blocks() -> None:
    result = result_of(NUMBERED, numbered(20_000))
    with replaying(True) as replayed:
        assert result.fetchone() == (0, "name 0")
        assert replayed == []
        assert result.fetchone() == (1, "name 1")
        assert len(replayed) == 1
        assert result.fetchall() == values_of(19_998, 2)
    assert casting.BLOCK_BYTES >= replayed[0] > casting.BLOCK_BYTES - 100
    assert len(replayed) == 3


# Values


def plain_values(spec: Spec, data: bytes) -> list[list[Any]]:
    """The rows as psycopg2 casts them, with none of the code under test but its cursor."""
    cursor = offline._nowhere()
    cast = [extensions.string_types.get(column[1], extensions.UNICODE) for column in spec]
    return [[read(cell, cursor) for read, cell in zip(cast, cells, strict=True)] for cells in cells_in(data)]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).map(str.encode)
CELLS: dict[int, st.SearchStrategy[bytes]] = {
    TEXT: texts,
    INT: st.integers(-(2**31), 2**31 - 1).map(lambda number: b"%d" % number),
    NUMERIC: st.decimals(allow_nan=False, allow_infinity=False).map(lambda number: str(number).encode()),
    DATE: st.dates().map(lambda day: day.isoformat().encode()),
    BYTEA: st.binary().map(lambda data: b"\\x" + data.hex().encode()),
    16: st.sampled_from([b"t", b"f"]),
    701: st.floats().map(lambda number: repr(number).encode()),
    1009: st.just(b'{"a,b",NULL,"\\"",c}'),
    99_999: texts,  # a type that nobody registered
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[Spec, list[Cells]]:
    spec = [(f"c{i}", oid) for i, oid in enumerate(draw(st.lists(st.sampled_from(list(CELLS)), max_size=5)))]
    return spec, draw(st.lists(st.tuples(*(st.none() | CELLS[oid] for _, oid in spec)), max_size=12))


@examples(100)
@given(tables(), st.integers(1, 12))
def test_any_cells_come_as_psycopg2_casts_them_in_all_ways(table: tuple[Spec, list[Cells]], size: int) -> None:
    reply = reply_of(*table)
    expected = outcome(lambda: plain_values(table[0], reply.rows))
    for way in WAYS.values():
        with way():
            assert outcome(Result(reply).fetchall) == expected
            assert outcome(lambda: Result(reply)) == expected
            assert outcome(lambda: Result(reply)[:]) == expected
            assert outcome(lambda: by_ones(Result(reply))) == expected
            assert outcome(lambda: by_parts(Result(reply), size)) == expected
            assert outcome(lambda: by_numbers(Result(reply))) == expected


def by_ones(result: Result) -> Any:
    return list(iter(result.fetchone, None))


def by_parts(result: Result, size: int) -> Any:
    return list(itertools.chain.from_iterable(iter(lambda: result.fetchmany(size), [])))


def by_numbers(result: Result) -> Any:
    return [result[i] for i in range(len(result))]


def test_a_large_result_is_replayed_and_is_what_it_is_one_by_one() -> None:
    spec: Spec = [("i", INT), ("t", TEXT), ("n", NUMERIC), ("d", DATE), ("b", BYTEA), ("f", 701)]
    table = [
        (b"%d" % i, None if i % 7 else b"text %d" % i, b"%d.50" % i, b"2024-02-%02d" % (i % 29 + 1), b"\\x00ff", b"1e9")
        for i in range(10_000)
    ]
    reply = reply_of(spec, table)
    assert len(reply.rows) > 2 * casting.BLOCK_BYTES
    with replaying(False):
        expected = outcome(Result(reply).fetchall)
    with replaying(True) as replayed:
        assert outcome(Result(reply).fetchall) == expected
    assert sum(replayed) == len(reply.rows)
    assert max(replayed) <= casting.BLOCK_BYTES


@without_compiled
@pytest.mark.parametrize(
    ("count", "width", "cell", "expected"),
    [
        (1, 1, b"1", False),
        (1, 500, b"1", False),
        (64, 1, b"1", False),
        (65, 1, b"1", True),
        (1000, 10, b"1", True),
        (100, 2, b"x" * 1000, True),
        (100, 2, b"x" * 2000, False),
    ],
)
def test_a_result_is_replayed_where_it_has_many_cells_and_they_are_short(
    monkeypatch: pytest.MonkeyPatch, count: int, width: int, cell: bytes, expected: bool
) -> None:
    replayed = []
    monkeypatch.setattr(rows, "replay", lambda *given: replayed.append(given))
    result = result_of([(f"c{i}", TEXT) for i in range(width)], [[cell] * width] * count)
    assert len(result.fetchall()) == count
    assert bool(replayed) is expected


def test_a_wrong_count_of_rows_does_no_harm() -> None:
    reply = reply_of(NUMBERED, numbered(100))
    for count in (0, 1, 99, 10_000):
        result = Result(reply._replace(rowcount=count))
        assert (result[99], result[98:]) == ((99, "name 99"), values_of(2, 98))
        assert result.fetchall() == values_of(100)


@all_ways
def test_a_cell_of_5_mb_arrives_between_small_ones() -> None:
    long = b"x" * 5_000_000
    table: list[Cells] = [*numbered(50), (b"50", long), *numbered(49, 51)]
    result = result_of(NUMBERED, table)
    expected = [*values_of(50), (50, long.decode()), *values_of(49, 51)]
    assert result[50] == expected[50]
    assert result.fetchall() == expected


@all_ways
def test_dates_beyond_pythons_calendar_come_as_postgresqls_text() -> None:
    spec: Spec = [("day", DATE), ("days", 1182)]
    near: Cells = (b"2024-02-29", b"{2024-02-29,NULL}")
    far: Cells = (b"0044-03-15 BC", b'{"0044-03-15 BC",2024-01-01}')
    result = result_of(spec, [near, far, near, (b"20000-01-01", None), (b"infinity", None)])
    good = (date(2024, 2, 29), [date(2024, 2, 29), None])
    expected = [good, ("0044-03-15 BC", '{"0044-03-15 BC",2024-01-01}'), good, ("20000-01-01", None), (date.max, None)]
    assert result.fetchall() == expected
    assert [result[i] for i in range(5)] == expected


@all_ways
def test_a_cell_that_is_no_utf8_raises_when_its_row_is_read() -> None:
    table = numbered(5)
    table[2] = (b"2", b"\xff")
    result = result_of(NUMBERED, table)
    assert [result[i] for i in (0, 1, 3, 4)] == [*values_of(2), *values_of(2, 3)]
    assert [result.fetchone(), result.fetchone()] == values_of(2)
    with pytest.raises(UnicodeDecodeError):
        result.fetchone()
    assert result.fetchall() == values_of(2, 3)
    with pytest.raises(UnicodeDecodeError):
        result[2]


@all_ways
def test_rows_before_one_that_cannot_be_read_are_not_lost() -> None:
    for read in (Result.fetchall, lambda result: result.fetchmany(4)):
        table = numbered(5)
        table[2] = (b"2", b"\xff")
        result = result_of(NUMBERED, table)
        with pytest.raises(UnicodeDecodeError):
            read(result)
        assert result.fetchall() == [*values_of(2), *values_of(2, 3)]


@all_ways
def test_a_first_row_that_cannot_be_read_does_not_bar_the_others() -> None:
    result = result_of(NUMBERED, [(b"0", b"\xff"), *numbered(3, 1)])
    with pytest.raises(UnicodeDecodeError):
        result.fetchone()
    assert list(result) == values_of(3, 1)


def test_column_names_are_utf8() -> None:
    assert result_of([("ä€💩", INT)], []).columns == ("ä€💩",)
    with pytest.raises(UnicodeDecodeError):
        _ = result_of([(b"\xff", INT)], []).columns


# Made by PostgreSQL 16 and read by psycopg2 2.9: type OID, typlen, typmod; internal size, precision, scale.
DESCRIPTIONS = {
    "numeric(10,2)": (1700, -1, 655366, 10, 10, 2),
    "numeric": (1700, -1, -1, -1, 65535, 65535),
    "numeric(5,-2)": (1700, -1, 329730, 5, 5, 2046),
    "numeric(1000,0)": (1700, -1, 65536004, 1000, 1000, 0),
    "numeric(5,3)[]": (1231, -1, 327687, 327683, None, None),
    "varchar(20)": (1043, -1, 24, 20, None, None),
    "text": (25, -1, -1, -1, None, None),
    "char(5)": (1042, -1, 9, 5, None, None),
    "integer": (23, 4, -1, 4, None, None),
    "timestamptz(3)": (1184, 8, 3, 8, None, None),
    "bit(3)": (1560, -1, 3, -1, None, None),
    "varbit(9)": (1562, -1, 9, 5, None, None),
    "varchar(7)[]": (1015, -1, 11, 7, None, None),
    "interval(2)": (1186, 16, 2147418114, 16, None, None),
    "name": (19, 64, -1, 64, None, None),
}


def test_a_description_is_psycopg2s() -> None:
    result = result_of([(name, *facts[:3]) for name, facts in DESCRIPTIONS.items()], [])
    assert result.description == tuple(
        Column(name, facts[0], None, *facts[3:], None) for name, facts in DESCRIPTIONS.items()
    )
    assert result.description[0].type_code == psycopg2.NUMBER


# Programs' own casters


@all_ways
@pytest.mark.usefixtures("registrations")
def test_a_caster_counts_from_when_it_is_registered() -> None:
    reply = reply_of([("at", POINT), ("price", NUMERIC)], [(b"(1,2)", b"1.5")] * 3)
    early, late = Result(reply), Result(reply)
    assert early.fetchone() == ("(1,2)", Decimal("1.5"))
    register(POINT, lambda text, _: text and text.upper() + "!")
    extensions.register_type(extensions.new_type((NUMERIC,), "FLOAT", extensions.FLOAT))
    assert late.fetchall() == Result(reply)[:] == [("(1,2)!", 1.5)] * 3


@all_ways
@pytest.mark.usefixtures("registrations")
def test_a_caster_is_given_text_or_none_and_a_cursor_of_psycopg2() -> None:
    given = []
    register(POINT, lambda text, cursor: given.append((text, cursor.cast(INT, "5"), type(cursor))))
    assert result_of([("at", POINT)], [("(1,ä)".encode(),), (None,)]).fetchall() == [(None,), (None,)]
    assert given == [("(1,ä)", 5, extensions.cursor), (None, 5, extensions.cursor)]


@all_ways
@pytest.mark.usefixtures("registrations")
def test_a_caster_may_make_something_of_null() -> None:
    register(POINT, lambda text, _: text or "nowhere")
    register(DATE, lambda text, _: text or "never")
    result = result_of([("at", POINT), ("day", DATE), ("id", INT)], [(None, None, None), (b"x", None, b"1")])
    assert (result.fetchone(), result[1]) == (("nowhere", "never", None), ("x", "never", 1))
    assert result.fetchall() == [("x", "never", 1)]


class MyError(Exception):
    """What only a program knows."""


@all_ways
@pytest.mark.usefixtures("registrations")
@pytest.mark.parametrize("raised", [MyError, KeyError, struct.error, OSError, psycopg2.InterfaceError])
def test_a_caster_that_fails_raises_its_own_error_when_its_row_is_read(raised: type[Exception]) -> None:
    def read(text: str, _: Any) -> str:
        if text == "bad":
            raise raised("cannot read it")
        return text

    register(POINT, read)
    result = result_of([("at", POINT)], [(b"a",), (b"b",), (b"bad",), (b"c",)])
    assert [result.fetchone(), result.fetchone()] == [("a",), ("b",)]
    with pytest.raises(raised, match="cannot read it"):
        result.fetchone()
    assert result.fetchall() == [("c",)]


@all_ways
@pytest.mark.usefixtures("registrations")
def test_a_caster_may_read_results_itself() -> None:
    inner = reply_of(NUMBERED, numbered(100))
    register(POINT, lambda text, _: text + Result(inner).fetchall()[99].name)
    assert result_of([("at", POINT)], [(b"%d " % i,) for i in range(100)]).fetchall() == [
        (f"{i} name 99",) for i in range(100)
    ]


@all_ways
@pytest.mark.usefixtures("registrations")
def test_an_interrupt_in_a_caster_gets_through_and_nothing_is_lost() -> None:
    interrupts = [KeyboardInterrupt()]

    def read(text: str, _: Any) -> str:
        if text == "3" and interrupts:
            raise interrupts.pop()
        return text

    register(POINT, read)
    result = result_of([("at", POINT)], [(b"%d" % i,) for i in range(6)])
    with pytest.raises(KeyboardInterrupt):
        result.fetchall()
    assert result[3] == ("3",)
    assert result_of(NUMBERED, numbered(9)).fetchall() == values_of(9)


@pytest.mark.usefixtures("registrations")
def test_a_caster_that_closes_the_connection_only_costs_time() -> None:
    register(POINT, lambda text, cursor: (cursor.connection.close(), text)[1])
    # The connection of the other way belongs to everybody and must not be closed, so only a replay is tried.
    reply = reply_of([("at", POINT)], [(b"a",)] * 3)
    assert casting.replay(reply.columns or b"", reply.rows) == [("a",)] * 3
    with replaying(True):
        for _ in range(3):
            assert result_of(NUMBERED, numbered(9)).fetchall() == values_of(9)


@without_compiled
def test_a_time_limit_that_ends_a_replay_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        raise MyError("time limit")

    result = result_of(NUMBERED, numbered(1000))
    with monkeypatch.context() as patch:
        patch.setattr(rows, "replay", interrupted)
        with pytest.raises(MyError, match="time limit"):
            result.fetchall()
    assert result.fetchall() == values_of(1000)


# Bytes that no broker sends

GOOD = row_of((b"1", b"a"))
WRONG_ROWS = {
    "cut in the header": GOOD[:3],
    "cut in a length": GOOD[:9],
    "cut in a cell": GOOD[:-1],
    "cut at a cell": GOOD[:12],
    "too few cells": row_of((b"1",)),
    "too many cells": row_of((b"1", b"a", b"b")),
    "fewer cells than its count": row_of((b"1",)).replace(b"\0\1", b"\0\2", 1),
    "another count": GOOD[:5] + struct.pack("!H", 3) + GOOD[7:],
    "another message": b"E" + GOOD[1:],
    "the end of the result": struct.pack("!cIc", b"Z", 5, b"I"),
    "a whole end of the result, and more": b"C\0\0\0\x0dSELECT 9\0Z\0\0\0\x05I" + GOOD,
    "length too short": GOOD[:1] + struct.pack("!I", 5) + GOOD[5:],
    "length too long": GOOD[:1] + struct.pack("!I", 99) + GOOD[5:],
    "length zero": GOOD[:1] + struct.pack("!I", 0) + GOOD[5:],
    "length of gigabytes": GOOD[:1] + struct.pack("!I", 2**32 - 1) + GOOD[5:],
    "cell too long": GOOD[:7] + struct.pack("!i", 2**31 - 1) + GOOD[11:],
    "trailing": GOOD + b"\0",
}


@all_ways
@pytest.mark.parametrize("wrong", WRONG_ROWS)
@pytest.mark.parametrize("read", [lambda result: [result.fetchone() for _ in range(9)], Result.fetchall, list])
def test_rows_that_are_none_are_an_error_and_never_waited_for(wrong: str, read: Callable[[Result], Any]) -> None:
    reply = reply_of(NUMBERED, numbered(3))
    with pytest.raises(ProtocolViolation, match="the broker sent"):
        read(Result(reply._replace(rows=reply.rows + WRONG_ROWS[wrong])))
    assert casting.replay(reply.columns or b"", reply.rows) == values_of(3)


@pytest.mark.parametrize("wrong", sorted(set(WRONG_ROWS) - {"trailing"}))
def test_a_first_row_that_is_none_is_an_error(wrong: str) -> None:
    reply = reply_of(NUMBERED, [(b"1", b"a")])
    result = Result(reply._replace(rows=WRONG_ROWS[wrong]))
    with pytest.raises(ProtocolViolation, match="the broker sent"):
        result.fetchone()


@all_ways
@pytest.mark.parametrize("size", [0, 1, 2, 5, 20, 30])
def test_columns_that_are_none_are_an_error(size: int) -> None:
    reply = reply_of(NUMBERED, numbered(3))
    result = Result(reply._replace(columns=(reply.columns or b"")[:size]))
    for read in (result.fetchone, result.fetchall, lambda: result.columns):
        with pytest.raises(ProtocolViolation, match="no RowDescription"):
            read()


# Replays


def close_replays() -> None:
    while casting._idle:
        casting._idle.pop().close()


class Something:
    """May be referred to weakly."""


@pytest.mark.parametrize("read", [Result.fetchall, list, Result.fetchone])
def test_a_row_that_is_part_of_a_circle_is_garbage_like_anything_else(read: Callable[[Result], Any]) -> None:
    result = Result(reply_of([("id", INT), ("list", INT_ARRAY)], [(b"1", b"{1,2}")] * 3))
    found = read(result)
    row = found if isinstance(found, Row) else found[1]
    something = Something()
    row["list"].extend([row, something])
    kept = weakref.ref(something)
    del result, found, row, something
    gc.collect()
    assert kept() is None


@pytest.mark.skipif(rows._ROWS is None, reason="compiled code does it")
def test_rows_of_plain_values_are_no_work_for_the_garbage_collector() -> None:
    spec = [("id", INT), ("name", TEXT), ("total", NUMERIC), ("day", DATE), ("list", INT_ARRAY)]
    plain, other = [b"1", b"a", b"1.5", b"2024-02-29", None], [b"1", b"a", b"1.5", b"2024-02-29", b"{1}"]
    found = Result(reply_of(spec, [plain, other, plain])).fetchall()
    assert [gc.is_tracked(row) for row in found] == [False, True, False]


@without_compiled
def test_threads_read_at_the_same_time() -> None:
    def read(first: int) -> None:
        for _ in range(5):
            assert Result(replies[first]).fetchall() == values_of(3000, first)
        done.append(first)

    replies = [reply_of(NUMBERED, numbered(3000, first)) for first in range(8)]
    done: list[int] = []
    threads = [threading.Thread(target=read, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == list(range(8))
    assert len(casting._idle) == len(casting._open) <= casting.IDLE_REPLAYS


def test_replays_that_many_needed_at_once_are_not_all_kept() -> None:
    before = descriptors()
    close_replays()
    used = [casting._borrow() for _ in range(casting.IDLE_REPLAYS + 3)]
    for server in used:
        casting._give_back(server)
    assert len(casting._open) == len(casting._idle) == casting.IDLE_REPLAYS
    close_replays()
    assert not casting._open
    assert len(descriptors()) <= len(before)


@pytest.mark.usefixtures("registrations")
def test_no_descriptor_is_left_by_results_that_fail() -> None:
    def read(text: str, cursor: Any) -> str:
        if text == "close":
            cursor.connection.close()
        if text == "raise":
            raise MyError
        return text

    register(POINT, read)
    spec: Spec = [("at", POINT)]
    with replaying(True):
        result_of(NUMBERED, numbered(9)).fetchall()
        before = descriptors()
        for _ in range(20):
            reply = reply_of(spec, [(b"a",), (b"raise",)])
            with pytest.raises(MyError):
                Result(reply).fetchall()
            casting.replay(columns_of(spec), row_of([b"close"]))
            for wrong in WRONG_ROWS.values():
                with pytest.raises(ProtocolViolation):
                    Result(reply_of(NUMBERED, [])._replace(rows=wrong)).fetchall()
            assert result_of(NUMBERED, numbered(9)).fetchall() == values_of(9)
    assert descriptors() == before


def libpq_fails() -> Any:
    raise psycopg2.OperationalError("no socket")


# What the system refuses is raised where it is asked, so not by a function of this module.
@without_compiled
@pytest.mark.parametrize("fail", [partial(os.close, -1), libpq_fails])
def test_without_a_replay_rows_are_read_one_by_one(monkeypatch: pytest.MonkeyPatch, fail: Callable[[], Any]) -> None:
    close_replays()
    monkeypatch.setattr(casting, "connect_to_nowhere", fail)
    assert result_of(NUMBERED, numbered(1000)).fetchall() == values_of(1000)


@without_compiled
@pytest.mark.parametrize("size", [1, 50_000, 100_000])
def test_a_socket_that_takes_little_at_once_is_enough(size: int) -> None:
    server = casting._Replay()
    server._server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    casting._give_back(server)
    result = result_of(NUMBERED, numbered(10_000))
    assert result.fetchall() == values_of(10_000)
    assert casting._idle.pop() is server
    server.close()


def test_a_row_longer_than_a_block_is_not_replayed() -> None:
    columns = columns_of([("text", TEXT)])
    longest = row_of([b"x" * (casting.BLOCK_BYTES - 11)])
    assert casting.replay(columns, longest) == [("x" * (casting.BLOCK_BYTES - 11),)]
    assert casting.replay(columns, row_of([b"x" * (casting.BLOCK_BYTES - 10)])) is None


def test_reading_some_rows_of_a_large_result_takes_the_memory_of_a_block() -> None:
    result = result_of([("id", INT)], [(b"%d" % i,) for i in range(300_000)])
    result_of(NUMBERED, numbered(1000)).fetchall()
    tracemalloc.start()
    try:
        assert result.fetchmany(3) == [(0,), (1,), (2,)]
        assert result.fetchone() == (3,)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 15 * casting.BLOCK_BYTES


@all_ways
def test_a_result_that_nobody_holds_any_more_is_gone_at_once() -> None:
    reply = reply_of(NUMBERED, numbered(500))
    references = sys.getrefcount(reply.rows)
    gc.disable()
    try:
        result = Result(reply)
        result.fetchone()
        result.fetchmany(3)
        for _ in result:
            break
        _ = result[3], result[:9]
        while_held = sys.getrefcount(reply.rows)
        del result, _
        left = sys.getrefcount(reply.rows)
    finally:
        gc.enable()
    assert while_held > left == references


# Forks


def in_child(run: Callable[[], None]) -> None:
    """Run it in a forked child; its error is this test's."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = b"died"
        try:
            run()
            said = b"good"
        except BaseException as error:  # noqa: BLE001  the parent raises it
            said = repr(error).encode()
        finally:
            os.write(writing, said)
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    assert said == b"good", said.decode()


@without_compiled
def test_a_child_reads_by_replays_of_its_own_and_leaves_the_parents_alone() -> None:
    def read() -> None:
        assert not inherited & descriptors()
        assert result.fetchall() == values_of(4999, 1)
        gc.collect()
        assert Result(reply).fetchall() == values_of(5000)
        (own,) = casting._open
        assert own._pid == os.getpid()

    reply = reply_of(NUMBERED, numbered(5000))
    assert Result(reply).fetchall() == values_of(5000)
    idle = list(casting._idle)
    result = Result(reply)
    assert result.fetchone() == (0, "name 0")
    inherited = {server._descriptor for server in idle} | {server._server.fileno() for server in idle}
    assert inherited <= descriptors()
    for _ in range(3):
        in_child(read)
        assert Result(reply).fetchall() == values_of(5000)
    assert casting._idle == idle
    assert result.fetchall() == values_of(4999, 1)


@without_compiled
def test_a_replay_of_another_process_is_not_used_even_where_python_did_not_see_the_fork(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    close_replays()
    before = descriptors()
    server = casting._Replay()
    server._pid -= 1
    monkeypatch.setattr(server, "play", None)
    casting._idle.append(server)
    assert result_of(NUMBERED, numbered(1000)).fetchall() == values_of(1000)
    assert server not in casting._open
    close_replays()
    assert descriptors() == before
    server._connection.close()  # being this process's in truth, before its number is another's


@pytest.mark.usefixtures("registrations")
def test_a_fork_while_another_thread_replays_leaves_the_child_none_of_its_descriptors() -> None:
    is_reading, may_go_on = threading.Event(), threading.Event()

    def read(text: str, _: Any) -> str:
        is_reading.set()
        assert may_go_on.wait(30)
        return text

    def check() -> None:
        assert not inherited & descriptors()
        assert result_of(NUMBERED, numbered(1000)).fetchall() == values_of(1000)

    register(POINT, read)
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.extend(result_of([("at", POINT)], [(b"a",)] * 100).fetchall()))
    thread.start()
    try:
        wait_until(is_reading.is_set)
        inherited = {number for server in casting._open for number in (server._descriptor, server._server.fileno())}
        assert inherited
        in_child(check)
    finally:
        may_go_on.set()
        thread.join()
    assert got == [("a",)] * 100


@pytest.mark.usefixtures("registrations")
def test_a_caster_may_fork() -> None:
    def read(text: str, _: Any) -> str:
        if text == "fork":
            pids.append(os.fork())
        return text

    def check() -> None:
        assert result_of([("at", POINT)], [(b"a",)] * 99 + [(b"fork",)]).fetchall() == [("a",)] * 99 + [("fork",)]
        if pids[0]:
            assert os.waitpid(pids[0], 0)[1] == 0
        assert result_of(NUMBERED, numbered(1000)).fetchall() == values_of(1000)
        if not pids[0]:
            os._exit(0)

    register(POINT, read)
    pids: list[int] = []
    in_child(check)  # so that no grandchild runs on in pytest
