"""Cells of earlier results as parameters of later statements, within one transaction message."""

from __future__ import annotations

from collections.abc import Sequence

from client.protocol import Reference
from poold.core import literals
from poold.core.facts import Outcome


class ReferenceMissing(Exception):
    """The earlier statement returned no such row or column; the text says what it did return."""


def resolved(
    types: bytes, values: bytes, references: Sequence[Reference], outcomes: Sequence[Outcome | None]
) -> tuple[bytes, bytes]:
    """types and values with the referenced cells in place. outcomes are by step; raises ReferenceMissing."""
    type_list = [types[place : place + 4] for place in range(0, len(types), 4)]
    value_list = literals.split_values(values, len(type_list))
    for reference in references:
        outcome = outcomes[reference.step]
        if outcome is None:
            raise ReferenceMissing("it refers to a statement whose savepoint block was undone")
        oid, value = _look_up(reference, outcome)
        type_list[reference.parameter] = oid.to_bytes(4, "big")
        value_list[reference.parameter] = value
    return b"".join(type_list), b"".join(map(_packed, value_list))


def only_cell(rows: bytes) -> bytes:
    """The cell of a result of one row and one column; b"" for NULL and for no row."""
    return (_cell(rows, 0, 0) if rows else None) or b""


def _look_up(reference: Reference, outcome: Outcome) -> tuple[int, bytes | None]:
    """The type to declare, and the value."""
    _command, count, columns, rows, _notices = outcome
    if rows is None:
        raise ReferenceMissing("it refers to a statement whose result is larger than max_result_bytes")
    if columns is None:
        raise ReferenceMissing("it refers to a statement that returns no rows; add RETURNING")
    place, oid = _column(reference.column, columns)
    if reference.row is None:
        cells = [_cell(rows, at, place) for at in _offsets(rows)]
        return literals.reference_type(oid, as_array=True), literals.array_text(cells)
    for number, at in enumerate(_offsets(rows)):
        if number == reference.row:
            return literals.reference_type(oid, as_array=False), _cell(rows, at, place)
    raise ReferenceMissing(f"it refers to row {reference.row} of a statement that returned {count} rows")


def _column(wanted: str | int, columns: bytes) -> tuple[int, int]:
    """The number and the type OID of a column. Where names repeat, the last one, as in the client's rows."""
    names, oids = [], []
    at = 2
    for _ in range(int.from_bytes(columns[:2], "big")):
        end = columns.find(0, at)
        if end < 0:
            raise ReferenceMissing("it refers to a statement whose columns the server did not describe")
        names.append(columns[at:end].decode("utf-8", "replace"))
        oids.append(int.from_bytes(columns[end + 7 : end + 11], "big"))
        at = end + 19
    if isinstance(wanted, int):
        if wanted < len(names):
            return wanted, oids[wanted]
        raise ReferenceMissing(f"it refers to column {wanted} of a statement with {len(names)} columns")
    if wanted not in names:
        raise ReferenceMissing(f"it refers to column {wanted!r} of a statement with columns {', '.join(names)}")
    place = len(names) - 1 - names[::-1].index(wanted)
    return place, oids[place]


def _offsets(rows: bytes) -> list[int]:
    """Where each DataRow begins."""
    found, at = [], 0
    while at < len(rows):
        found.append(at)
        at += 1 + int.from_bytes(rows[at + 1 : at + 5], "big")
    return found


def _cell(rows: bytes, at: int, place: int) -> bytes | None:
    """The cell of the DataRow at this offset."""
    at += 7
    for _ in range(place):
        at += 4 + max(int.from_bytes(rows[at : at + 4], "big", signed=True), 0)
    length = int.from_bytes(rows[at : at + 4], "big", signed=True)
    return None if length < 0 else rows[at + 4 : at + 4 + length]


def _packed(value: bytes | None) -> bytes:
    return b"\xff\xff\xff\xff" if value is None else len(value).to_bytes(4, "big") + value
