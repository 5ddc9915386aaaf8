"""Cells of earlier results as parameters of later statements, within one transaction message."""

from __future__ import annotations

from collections.abc import Sequence

from client.wire.limits import MAX_REQUEST_BYTES
from client.wire.messages import StepReference
from poold.core.facts import StatementResult
from poold.core.statements import literals

# Cells that all references of a statement together may pass over to find theirs: half a second's work.
MAX_CELLS = 1_000_000


class ReferenceMissing(Exception):
    """The earlier statement returned no such row or column; the text says what it did return."""


def resolved(
    types: bytes, values: bytes, references: Sequence[StepReference], outcomes: Sequence[StatementResult | None]
) -> tuple[bytes, bytes]:
    """Return types and values with the referenced cells in place. outcomes are by step; raises ReferenceMissing.

    The cost is limited by MAX_REQUEST_BYTES and MAX_CELLS, as clients choose the number and the targets of references.
    """
    type_list = [types[place : place + 4] for place in range(0, len(types), 4)]
    value_list = literals.split_values(values, len(type_list))
    tables: dict[int, _Table] = {}  # by step
    bytes_left, cells_left = MAX_REQUEST_BYTES, MAX_CELLS
    for reference in references:
        table = tables.get(reference.step)
        if table is None:
            table = tables[reference.step] = _Table(outcomes[reference.step])
        oid, value, passed = table.look_up(reference, bytes_left, cells_left)
        bytes_left -= len(value or b"")
        cells_left -= passed
        type_list[reference.parameter] = oid.to_bytes(4, "big")
        value_list[reference.parameter] = value
    return b"".join(type_list), b"".join(map(_packed, value_list))


def only_cell(rows: bytes) -> bytes:
    """The first cell of the DataRow messages of a result; b"" for NULL and for no row."""
    return (_cell(rows, 0, 0) if rows else None) or b""


class _Table:
    """An earlier result that references point to. Raises ReferenceMissing if it cannot be used."""

    def __init__(self, result: StatementResult | None) -> None:
        if result is None:
            raise ReferenceMissing("it refers to a statement whose savepoint block was undone")
        if result.rows is None:
            raise ReferenceMissing("it refers to a statement whose result is larger than max_result_bytes")
        if result.columns is None:
            raise ReferenceMissing("it refers to a statement that returns no rows; add RETURNING")
        self._rows, self._count = result.rows, result.rowcount
        self._names, self._oids = _columns(result.columns)
        self._starts: list[int] | None = None  # where each DataRow begins

    def look_up(self, reference: StepReference, most_bytes: int, most_cells: int) -> tuple[int, bytes | None, int]:
        """The type to declare, the value, and how many cells were passed."""
        place = self._column(reference.column)
        if self._starts is None:
            self._starts = _offsets(self._rows, most_cells)
        starts, oid = self._starts, self._oids[place]
        passed = (place + 1) * (len(starts) if reference.row is None else 1)
        if passed > most_cells:
            raise _too_many()
        if reference.row is not None and reference.row >= len(starts):
            raise ReferenceMissing(f"it refers to row {reference.row} of a statement that returned {self._count} rows")
        cells = []
        for at in starts if reference.row is None else (starts[reference.row],):
            cells.append(_cell(self._rows, at, place))
            most_bytes -= len(cells[-1] or b"")
            if most_bytes < 0:
                raise ReferenceMissing(f"what it refers to has more than {MAX_REQUEST_BYTES} bytes together")
        if reference.row is None:
            return *_all_of(oid, cells), passed
        as_list = None if cells[0] is None else literals.array_reference(oid, cells[0])
        return *(as_list or (literals.reference_type(oid, as_array=False), cells[0])), passed

    def _column(self, wanted: str | int) -> int:
        """The number of a column. If names repeat, the last one, as in the client's rows."""
        names = self._names
        if isinstance(wanted, int):
            if wanted < len(names):
                return wanted
            raise ReferenceMissing(f"it refers to column {wanted} of a statement with {len(names)} columns")
        if wanted not in names:
            raise ReferenceMissing(f"it refers to column {wanted!r} of a statement with columns {', '.join(names)}")
        return len(names) - 1 - names[::-1].index(wanted)


def _all_of(oid: int, cells: list[bytes | None]) -> tuple[int, bytes]:
    """The type to declare and the text for all cells of a column as one array; arrays become its inner dimensions."""
    lists = [None if cell is None else literals.array_reference(oid, cell) for cell in cells]
    found = [each for each in lists if each is not None]
    if not found:
        return literals.reference_type(oid, as_array=True), literals.array_text(cells)
    text = b"{" + b",".join([b"NULL" if each is None else literals.without_bounds(each[1]) for each in lists]) + b"}"
    return (0 if (oid, b"{}") in found else max(each[0] for each in found)), text


def _columns(columns: bytes) -> tuple[list[str], list[int]]:
    """The columns' names and type OIDs."""
    names, oids = [], []
    at = 2
    for _ in range(int.from_bytes(columns[:2], "big")):
        end = columns.find(0, at)
        if end < 0:
            raise ReferenceMissing("it refers to a statement whose columns the server did not describe")
        names.append(columns[at:end].decode("utf-8", "replace"))
        oids.append(int.from_bytes(columns[end + 7 : end + 11], "big"))
        at = end + 19
    return names, oids


def _offsets(rows: bytes, most: int) -> list[int]:
    """Where each DataRow begins."""
    found, at = [], 0
    while at < len(rows):
        found.append(at)
        if len(found) > most:
            raise _too_many()
        at += 1 + int.from_bytes(rows[at + 1 : at + 5], "big")
    return found


def _too_many() -> ReferenceMissing:
    return ReferenceMissing(f"what it refers to is among more than {MAX_CELLS} cells; select less, or use a subquery")


def _cell(rows: bytes, at: int, place: int) -> bytes | None:
    """The cell of the DataRow at this offset."""
    at += 7
    for _ in range(place):
        at += 4 + max(int.from_bytes(rows[at : at + 4], "big", signed=True), 0)
    length = int.from_bytes(rows[at : at + 4], "big", signed=True)
    return None if length < 0 else rows[at + 4 : at + 4 + length]


def _packed(value: bytes | None) -> bytes:
    return b"\xff\xff\xff\xff" if value is None else len(value).to_bytes(4, "big") + value
