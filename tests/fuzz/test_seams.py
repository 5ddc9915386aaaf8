"""The hot path's pure functions beside `reference`, which does the same plainly: equal for all sound and hostile input.

These are the seams that other implementations may take the place of: ZMTP frames, requests and replies as bytes, whole
answers of PostgreSQL's, Bind, and the casting of rows. Who adds one adds it to the list of its seam.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import corpus
import psycopg2
import pytest
import reference
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from mutator import Population
from parts import chunks
from reference import REFUSED
from shapes import reshaped

from client.compiled import load
from client.values import casting
from client.values.columns import unnamed_column
from client.values.offline import _nowhere
from client.values.row import Row
from client.wire import codec, zmtp
from client.wire.messages import ProtocolViolation, Query
from poold.core.effects import Bind, Flush, Plain, SimpleQuery, Unit
from poold.postgres import messages, wire
from poold.postgres.errors import WireError
from poold.postgres.parameter_status import ParameterStatus

SEEDS = st.integers(0, 2**64 - 1)
LONGEST = 1000
RESULT_LIMIT = 1 << 16


def inputs(seed: int, seeds: Sequence[bytes], words: Sequence[bytes] = (), reshape: Any = None) -> list[bytes]:
    """A sound input, and hostile ones made of such."""
    dice = Random(seed)
    population = Population(seeds, dice, words, reshape)
    return [dice.choice(seeds), *(population.next() for _ in range(5))]


# ZMTP frames.

FRAMES = [zmtp.next_frame]


@pytest.mark.parametrize("next_frame", FRAMES)
@given(SEEDS, st.booleans())
@examples(200)
def test_frames(next_frame: Callable[..., Any], seed: int, may_be_several: bool) -> None:
    talks = [zmtp.frame(b"x" * 255) + zmtp.frame(b"x" * 256), *map(zmtp.frame, corpus.REQUESTS), zmtp.PING]
    talks += [b"\x01\x00" + zmtp.frame(b"a"), *(talk[1 + len(zmtp.GREETING) :] for talk in corpus.zmtp(b"DEALER"))]
    for data in inputs(seed, talks, corpus.ZMTP_WORDS):
        found: list[tuple[int, bytes]] = []
        rest, end = data, 0
        left: str | int
        try:
            while (frame := next_frame(bytearray(rest), LONGEST, may_be_several)) is not None:
                flags, begin, end = frame
                found.append((flags, rest[begin:end]))
                rest = rest[end:]
            left = len(rest)
        except zmtp.ZmtpError:
            left = REFUSED
        assert (found, left) == reference.frames(data, LONGEST, may_be_several), data.hex()


# Requests and replies.

REQUESTS = [codec.decode_request]
REPLIES = [codec.encode]


@pytest.mark.parametrize("decode_request", REQUESTS)
@given(SEEDS)
@examples(200)
def test_requests(decode_request: Callable[[bytes], Any], seed: int) -> None:
    for data in inputs(seed, corpus.MESSAGES, corpus.MSGPACK_WORDS, reshaped):
        try:
            found = decode_request(data)
        except ProtocolViolation:
            found = REFUSED
        right = reference.request(data)
        assert type(found) is type(right), data.hex()
        assert repr(found) == repr(right), data.hex()


@pytest.mark.parametrize("encode", REPLIES)
@pytest.mark.parametrize("frame", corpus.REPLIES)
def test_replies(encode: Callable[[Any], bytes], frame: bytes) -> None:
    reply = codec.decode_reply(frame)
    assert encode(reply) == reference.encoded(reply) == frame


# Answers of PostgreSQL's.

UNITS: tuple[tuple[Unit, ...], ...] = (
    ((Bind(b"k", 0, b""),),),
    ((Bind(b"k", 0, b""), Bind(b"i", 0, b"")), (Bind(b"k", 0, b""),)),
    ((Bind(b"i", 0, b""), Bind(b"k", 0, b""), Flush(), Bind(b"k", 0, b"")), (SimpleQuery(b"SELECT 1"),)),
    ((Bind(b"i", 0, b""),), (Plain(b"SELECT 1"),), (Bind(b"k", 0, b""),)),
)
COLUMNS = {b"k": corpus.columns(id=corpus.INT4, name=corpus.TEXT), b"i": None}
WHOLE = [wire.whole_answers]


def told(units: Sequence[Unit], data: bytes) -> list[Any]:
    """The completions of the answers in data, which comes as its first byte says; REFUSED ends them."""
    found = wire.Wire(RESULT_LIMIT, ParameterStatus(lambda _: "on"))
    found._columns.update(COLUMNS)
    found._tags.update({b"SELECT 1": ("SELECT 1", 1), b"INSERT 0 1": ("INSERT 0 1", 1), b"BEGIN": ("BEGIN", -1)})
    for unit in units:
        found.send(unit)
    done: list[Any] = []
    try:
        for chunk in chunks(data):
            done += found.received(chunk)
        return [*done, found.partial()]
    except WireError:
        return [*done, REFUSED]


def nothing_at_once(*_: Any) -> tuple[list[Any], int]:
    """No answer is taken as a whole: each is read message by message."""
    return [], 0


@pytest.mark.parametrize("whole_answers", WHOLE)
@given(SEEDS)
@examples(200)
def test_whole_answers(whole_answers: Callable[..., Any], seed: int) -> None:
    good = corpus.BOUND + corpus._ROW * 3 + corpus.message(b"C", b"SELECT 1\0")
    plain = corpus.BOUND + corpus.message(b"C", b"INSERT 0 1\0")
    talks = [
        bytes((cut,)) + body
        for cut in (0, 1, 9)
        for body in (good + corpus.READY, good + plain + corpus.READY + good + corpus.READY, plain + good + good)
    ]
    for data in inputs(seed, [*talks, *(stream[1:] for stream in corpus.STREAMS)], corpus.WIRE_WORDS):
        for units in UNITS:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(wire, "whole_answers", whole_answers)
                at_once = told(units, data)
                patch.setattr(wire, "whole_answers", nothing_at_once)
                one_by_one = told(units, data)
            # A refusal may come with fewer completions before it: the whole of a chunk is refused then.
            if REFUSED in (at_once[-1], one_by_one[-1]):
                assert at_once[-1] == one_by_one[-1] == REFUSED, data.hex()
            else:
                assert repr(at_once) == repr(one_by_one), data.hex()
                assert at_once == one_by_one, data.hex()


def test_answers_are_taken_at_once() -> None:
    unit: Unit = (Bind(b"k", 0, b""), Bind(b"i", 0, b""))
    rows = corpus._ROW * 3
    body = corpus.BOUND + rows + corpus.message(b"C", b"SELECT 1\0")
    body += corpus.BOUND + corpus.message(b"C", b"INSERT 0 1\0") + corpus.READY
    tags = {b"SELECT 1": ("SELECT 1", 1), b"INSERT 0 1": ("INSERT 0 1", 1)}
    (results,), end = wire.whole_answers(body + b"2", deque([unit, unit]), COLUMNS, tags, RESULT_LIMIT)
    assert end == len(body)
    assert results[0] == ("SELECT 1", 3, COLUMNS[b"k"], rows, ())
    assert results[1] == ("INSERT 0 1", 1, None, b"", ())


ROWS_END = [wire.rows_end]


@pytest.mark.parametrize("rows_end", ROWS_END)
@given(SEEDS, st.integers(0, 40))
@examples(200)
def test_where_rows_end(rows_end: Callable[..., Any], seed: int, at: int) -> None:
    rows = [corpus._ROW * count for count in range(5)]
    for data in inputs(seed, [*rows, *(each + corpus.READY for each in rows)], corpus.WIRE_WORDS):
        for begin in (0, at):
            assert rows_end(data, begin) == reference.rows_end(data, begin), data.hex()


# Bind.

BINDS = [lambda name, values: messages.bind(messages.bind_head(name, len(values)), corpus.values(*values))]


@pytest.mark.parametrize("bind", BINDS)
@given(st.binary(max_size=40), st.lists(st.none() | st.binary(max_size=300), max_size=40))
@examples(200)
def test_bind(bind: Callable[[bytes, list[bytes | None]], bytes], name: bytes, values: list[bytes | None]) -> None:
    name = name.replace(b"\0", b"")
    assert bind(name, values) == reference.bind(name, values)


# Rows.

# Texts as PostgreSQL writes them, by type.
TEXTS: dict[int, tuple[bytes, ...]] = {
    16: (b"t", b"f"),
    17: (b"\\x", b"\\x00ff10"),
    20: (b"-9223372036854775808", b"5"),
    21: (b"-1",),
    23: (b"0", b"2147483647"),
    25: (b"", b"a", "\u00e9\U0001f600".encode(), b'it\'s \\ "quoted"'),
    114: (b'{"a": [1, null]}', b"null"),
    700: (b"1.5", b"NaN"),
    701: (b"-Infinity", b"1e-07", b"0.1"),
    1000: (b"{t,f,NULL}",),
    1005: (b"{1,2}",),
    1007: (b"{}", b"{1,NULL,-3}", b"{{1,2},{3,4}}"),
    1009: (b'{a,"b,\\"c\\\\",NULL,"NULL",""}', b"{{a},{b}}"),
    1016: (b"{5}",),
    1021: (b"{1.5,NaN}",),
    1043: (b"x",),
    1082: (b"2024-02-29", b"infinity", b"0044-03-15 BC", b"12024-01-01"),
    1083: (b"24:00:00", b"12:34:56.789"),
    1114: (b"2024-01-01 00:00:00.5", b"-infinity"),
    1182: (b"{2024-01-01,NULL}", b"{infinity}"),
    1184: (b"2024-01-01 00:00:00+05:30", b"0001-01-01 00:00:00+00 BC"),
    1185: (b'{"2024-01-01 00:00:00+00"}',),
    1186: (b"1 year 2 mons -3 days 04:05:06.7", b"-00:00:01"),
    1231: (b"{1.50,NaN}",),
    1266: (b"12:00:00-08",),
    1700: (b"1.50", b"NaN", b"-0.0000001"),
    2950: (b"00000000-0000-0000-0000-000000000001",),
    3802: (b"[1, 2.5]",),
}
# A type whose cells compiled code leaves to their caster.
BYTEA = 17
# Dates, times and intervals, and arrays of them.
CALENDAR = (1082, 1083, 1114, 1115, 1182, 1183, 1184, 1185, 1186, 1187, 1266, 1270)


def cast_row(_oids: Sequence[int], casters: Sequence[Any], rows: bytes, at: int) -> list[Any]:
    return casting.cast_row(casters, rows, at)


def compiled_cast_row(oids: Sequence[int], casters: Sequence[Any], rows: bytes, at: int) -> list[Any]:
    """The row by compiled code, if that can read it, as a Result has it."""
    row = compiled_rows.Reader(Row, oids, casters, _nowhere()).row(rows, at)
    return casting.cast_row(casters, rows, at) if row is None else list(row)


compiled_rows: Any = load("client.lane.rows")
CASTS = [cast_row] if compiled_rows is None else [cast_row, compiled_cast_row]
ROWS = st.lists(
    st.sampled_from(sorted(TEXTS)).flatmap(
        lambda oid: st.tuples(st.just(oid), st.lists(st.none() | st.sampled_from(TEXTS[oid]), min_size=3, max_size=3))
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("cast_row", CASTS)
@given(ROWS)
@examples(200)
def test_rows(cast_row: Callable[..., list[Any]], columns: list[tuple[int, list[bytes | None]]]) -> None:
    oids = [oid for oid, _ in columns]
    casters = casting.casters(oids)
    rows = b"".join(corpus.row(*(cells[place] for _, cells in columns)) for place in range(3))
    at = 0
    for place in range(3):
        right = [_value(oid, cells[place]) for oid, cells in columns]
        assert _plain(cast_row(oids, casters, rows, at)) == _plain(right)
        at = casting.row_end(rows, at)


@pytest.mark.parametrize("cast_row", CASTS)
@given(SEEDS, st.integers(0, 4))
@examples(200)
def test_rows_that_are_not_whole(cast_row: Callable[..., list[Any]], seed: int, width: int) -> None:
    sound = [corpus.row(*[b"a"] * width), corpus.row(*[None] * width), corpus.row(*[b"b" * 300] * (width + 1))]
    for rows in inputs(seed, sound, corpus.WIRE_WORDS):
        cells = reference.cells(rows[: 1 + int.from_bytes(rows[1:5], "big")], width) or REFUSED
        try:
            found: Any = cast_row([BYTEA] * width, [_as_it_is] * width, rows, 0)
        except ProtocolViolation:
            found = REFUSED
        assert found == (cells if cells == REFUSED else cells[0]), rows.hex()


@pytest.mark.skipif(compiled_rows is None, reason="this run is without compiled code")
@given(SEEDS, st.sampled_from(sorted(TEXTS)))
@examples(300)
def test_cells_of_any_bytes(seed: int, oid: int) -> None:
    """Whatever a cell holds, compiled code makes of it what its caster does, or leaves it to it.

    The caster is not asked for what compiled code leaves to it: some arrays that are none psycopg2 reads for ever.
    """
    (caster,) = casting.casters([oid])
    reader = compiled_rows.Reader(Row, [oid], [_left_alone], _nowhere())
    for cell in inputs(seed, TEXTS[oid], (b"0", b"-", b",", b"{", b'"', b":", b".", b" ", b"NULL", b"\xff")):
        try:
            row = reader.row(corpus.row(cell), 0)
        except NotImplementedError:
            continue
        assert row is None or _plain(list(row)) == _plain([caster(cell, _nowhere())]), cell


def _left_alone(_cell: bytes | None, _cursor: Any) -> Any:
    raise NotImplementedError


@pytest.mark.skipif(compiled_rows is None, reason="this run is without compiled code")
@given(SEEDS, st.integers(0, 3))
@examples(200)
def test_blocks_of_rows(seed: int, width: int) -> None:
    """Rows that are not whole end a block, or keep all of it from being read; nothing is read behind them."""
    reader = compiled_rows.Reader(Row, [25] * width, casting.casters([25] * width), _nowhere())
    sound = corpus.row(*[b"a"] * width)
    for rows in inputs(seed, [sound * 3, sound + corpus.row(*[None] * width), sound + sound[:-1]], corpus.WIRE_WORDS):
        for most in (1, 1 << 40):
            found, at = reader.read(rows, 0, len(rows), most)
            right = reference.cells(rows[:at], width) or REFUSED
            assert right != REFUSED or not found, rows.hex()
            texts = [[None if cell is None else cell.decode() for cell in row] for row in right] if found else []
            assert [list(row) for row in found] == texts, rows.hex()


def _as_it_is(cell: bytes | None, _cursor: Any) -> bytes | None:
    return cell


def _value(oid: int, cell: bytes | None) -> Any:
    """What psycopg2 makes of the cell in a result of its own.

    What Python's calendar cannot hold is PostgreSQL's text; psycopg2 has no value for it.
    """
    try:
        rows = casting.replay(unnamed_column(oid), corpus.row(cell))
    except (psycopg2.Error, ValueError, OverflowError):
        assert oid in CALENDAR
        assert cell is not None
        return cell.decode()
    assert rows is not None
    return rows[0][0]


def _plain(value: Any) -> str:
    """As text, in which NaN equals itself; of bytes their content."""
    if isinstance(value, list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return repr(bytes(value)) if isinstance(value, memoryview) else repr(value)


def test_a_query_is_read_as_what_it_is() -> None:
    assert isinstance(reference.request(codec.encode(corpus.QUERY)), Query)
