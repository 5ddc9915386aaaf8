"""What a unit's answer consists of: a result for each command that runs, a description for each one prepared."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache

from client.compiled import load
from client.values.columns import are_columns
from client.wire.limits import MAX_NUMBER
from poold.core.effects import Bind, Flush, Plain, Prepare, SimpleQuery, Unit
from poold.core.facts import StatementResult
from poold.postgres.errors import WireError

# PostgreSQL's own command tags have at most 64 bytes (COMPLETION_TAG_BUFSIZE).
MAX_TAG_BYTES = 256
# Kinds of results of one string of statements; PostgreSQL has some 200 tags.
MAX_KINDS = 1000
# The most columns that a query can have (MaxTupleAttributeNumber), each with a name of 63 bytes, its NUL and 18 more;
# twice that for servers built with longer names.
MAX_DESCRIPTION_BYTES = 2 * 1664 * (64 + 18)
_RUNNING = (Bind, Plain, SimpleQuery)
_result = StatementResult._make  # costs two thirds of StatementResult(...)
_head, _length = struct.Struct("!BI").unpack_from, struct.Struct("!I").unpack_from
_BIND_COMPLETE, _READY = b"2\0\0\0\4", b"Z\0\0\0\5I"  # ready outside of a transaction


def next_place(unit: Unit, place: int) -> int:
    """Return the place of the next command behind place (-1 at first) that has a result; len(unit) if there is none."""
    if type(unit[0]) is SimpleQuery:
        return 0  # any number of results
    place += 1
    while place < len(unit) and type(unit[place]) not in _RUNNING:
        place += 1
    return place


def is_whole(unit: Unit, results: int, descriptions: int) -> bool:
    """Whether so many results and descriptions are the unit's whole answer."""
    if type(unit[0]) is SimpleQuery:
        return results > 0
    kinds = [type(command) for command in unit]
    return results == kinds.count(Bind) + kinds.count(Plain) and descriptions == kinds.count(Prepare)


def read_tag(tag: bytes) -> tuple[str, int]:
    """Return a command tag as text, and the number of rows in it or -1; raises WireError."""
    if len(tag) > MAX_TAG_BYTES:
        raise WireError(f"the server sent a command tag of {len(tag)} bytes, expected at most {MAX_TAG_BYTES}")
    text = tag.decode("utf-8", "replace")
    last = text.rpartition(" ")[2]
    count = int(last) if last.isascii() and last.isdecimal() else -1
    if count > MAX_NUMBER:
        raise WireError(f"the server sent {text!r:.100} as a command tag, expected at most {MAX_NUMBER} rows")
    return text, count


def check_sum(descriptions: Iterable[bytes | None], most: int) -> None:
    """Raise WireError if the descriptions together have more than most bytes."""
    size = sum(map(len, filter(None, descriptions)))
    if size > most:
        raise WireError(f"the server described columns of prepared statements in {size} bytes, expected {most} at most")


@lru_cache(maxsize=16)
def check_description(body: bytes) -> None:
    """Raise WireError if the body is no RowDescription, which clients could not read."""
    if len(body) > MAX_DESCRIPTION_BYTES:
        raise WireError(f"the server described columns in {len(body)} bytes, expected {MAX_DESCRIPTION_BYTES} at most")
    if not are_columns(body):
        raise WireError(f"the server sent {body!r:.100} where the description of columns was expected")


def forget_rows(results: list[StatementResult], kinds: set[tuple[str, bool]]) -> None:
    """Remove the last result of a simple query, as another follows; the first of each kind is kept without its rows."""
    earlier = results.pop()
    kind = kind_of(earlier)
    if kind not in kinds:
        kinds.add(kind)
        if len(kinds) > MAX_KINDS:
            raise WireError(f"the server answered with results of {len(kinds)} kinds, expected {MAX_KINDS} at most")
        results.append(without_rows(earlier))


def prepares(unit: Unit, name: bytes) -> bool:
    """Whether the unit prepares a statement under this name."""
    return any(type(command) is Prepare and command.name == name for command in unit)


def read_types(body: bytes) -> tuple[int, ...]:
    """Return the OIDs in a ParameterDescription; raises WireError."""
    count = len(body) // 4
    if len(body) != 2 + 4 * count:
        raise WireError(f"the server described parameters in {len(body)} bytes")
    return struct.unpack_from(f"!{count}I", body, 2)


def kind_of(result: StatementResult) -> tuple[str, bool]:
    """Return a result's kind: its tag without numbers, and whether it has columns."""
    return result.command.rstrip("0123456789 "), result.columns is not None


def text_at(unit: Unit, place: int) -> bytes | None:
    """Return the text of the unit's command at place, None if there is none."""
    return getattr(unit[place], "sql", None) if place < len(unit) else None


def with_notices(result: StatementResult, late: tuple[str, ...]) -> StatementResult:
    """Return a unit's last result with late notices: all of a string of statements, else those of the commit."""
    return result._replace(notices=(*result.notices, *late))


def without_rows(result: StatementResult) -> StatementResult:
    """Return the result without rows, column descriptions and notices."""
    return result._replace(columns=None if result.columns is None else b"", rows=b"", notices=())


def rows_end(data: bytes, at: int, wanted: int = 0x44) -> tuple[int, int]:
    """Return the byte behind the whole messages of a kind that follow one another from byte at, and their number.

    wanted is DataRow's type, or CopyData's: both come one for each row.
    """
    end, count = len(data), 0
    while at + 5 <= end:
        kind, length = _head(data, at)
        if kind != wanted or length < 4 or at + length >= end:
            break
        at += 1 + length
        count += 1
    return at, count


# In compiled code, where it is: large results have hardly anything else.
_CUTTING = load("poold.lane.cutting")
if _CUTTING is not None:
    rows_end = _CUTTING.rows_end


def whole_answers(
    data: bytes,
    units: Iterable[Unit],
    columns: Mapping[bytes, bytes | None],
    tags: Mapping[bytes, tuple[str, int]],
    max_result_bytes: int,
) -> tuple[list[list[StatementResult]], int]:
    """The hot path: answers to prepared statements that are in data whole, for the first of these units, and their end.

    For each statement BindComplete, rows and CommandComplete, then ReadyForQuery outside a transaction, without
    anything in between. All else ends it, and is left to whoever reads message by message. columns are the
    descriptions of prepared statements by name, tags the command tags that were read before.

    If data ends at a Flush within a unit, the end is ~place (below 0), place being where that unit's answer begins.
    """
    found: list[list[StatementResult]] = []
    position, end = 0, len(data)
    for unit in units:
        at = position
        results: list[StatementResult] = []
        for command in unit:
            if type(command) is not Bind:
                if type(command) is Flush:
                    if at == end:
                        return found, ~position
                    continue
                return found, position
            if not data.startswith(_BIND_COMPLETE, at):
                return found, position
            rows_from = at + 5
            at, count = rows_end(data, rows_from)
            if at + 5 > end or data[at] != 0x43 or at - rows_from > max_result_bytes:
                return found, position
            after = at + 1 + _length(data, at + 1)[0]
            word = tags.get(data[at + 5 : after - 1])
            if word is None or after > end:
                return found, position
            described = columns.get(command.name)
            rowcount = word[1] if described is None else count
            results.append(_result((word[0], rowcount, described, data[rows_from:at], ())))
            at = after
        if not data.startswith(_READY, at):
            return found, position
        found.append(results)
        position = at + 6
    return found, position
