"""What a query gives back: a Result, and its Rows.

A Row is a tuple whose class knows the column names, so it answers to index, name and attribute and costs no more than a
tuple. The class is made once per list of names. Cells stay PostgreSQL's bytes until their row is read.
"""

from collections.abc import ItemsView, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, overload

import psycopg2

from client import protocol
from client.values import Caster, cast_row, casters

# Programs have few distinct column lists; a generated one in a loop must not grow memory for ever.
ROW_CLASSES = 512


class Column(NamedTuple):
    """One column, the seven items of DB-API 2.0 (PEP 249, cursor.description)."""

    name: str
    type_code: int
    display_size: int | None
    internal_size: int | None
    precision: int | None
    scale: int | None
    null_ok: bool | None


class Row(tuple[Any, ...]):
    """One row: row[0], row['name'], row.name; iteration gives values, dict(row) the mapping.

    Where two columns have the same name, the last one answers to it, as in psycopg2's DictRow. A column named like one
    of the methods here (keys, values, items, get) is reached by index or by row['keys'].
    """

    __slots__ = ()
    _names: tuple[str, ...] = ()
    _index: dict[str, int] = {}  # noqa: RUF012  replaced in each subclass, never changed

    def __getitem__(self, key: Any) -> Any:
        if type(key) is str:
            try:
                key = self._index[key]
            except KeyError:
                raise KeyError(f"no column {key!r}; this row has {', '.join(self._names)}") from None
        return tuple.__getitem__(self, key)

    def __getattr__(self, name: str) -> Any:
        # Only reached where the class has no such attribute: for names that are no identifiers, and for mistakes.
        if name in self._index:
            return tuple.__getitem__(self, self._index[name])
        raise AttributeError(f"no column {name!r}; this row has {', '.join(self._names)}")

    def __eq__(self, other: object) -> bool:
        return tuple.__eq__(self, tuple(other) if isinstance(other, list) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__

    def keys(self) -> tuple[str, ...]:
        """The column names."""
        return self._names

    def values(self) -> tuple[Any, ...]:
        """The values."""
        return tuple(self)

    def items(self) -> ItemsView[str, Any]:
        """Pairs of name and value."""
        return {name: tuple.__getitem__(self, place) for name, place in self._index.items()}.items()

    def get(self, name: str, default: Any = None) -> Any:
        """The value of that column, or default."""
        return self[name] if name in self._index else default

    def __repr__(self) -> str:
        return f"Row({', '.join(f'{name}={value!r}' for name, value in zip(self._names, self, strict=True))})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (self._names, tuple(self))


def _revive(names: tuple[str, ...], values: tuple[Any, ...]) -> Row:
    return row_class(names)(values)


_METHODS = frozenset(("keys", "values", "items", "get"))


@lru_cache(maxsize=ROW_CLASSES)
def row_class(names: tuple[str, ...]) -> type[Row]:
    """The Row class of these column names. A name wins over tuple's own attributes: row.count is the column."""
    index = {name: place for place, name in enumerate(names)}
    body: dict[str, Any] = {"__slots__": (), "_names": names, "_index": index}
    for name, place in index.items():
        if not name.startswith("_") and name not in _METHODS:
            body[name] = property(_value_at(place))
    return type("Row", (Row,), body)


def _value_at(place: int) -> Any:
    return lambda row: tuple.__getitem__(row, place)


class Result:
    """The result of one statement, read like a psycopg2 cursor.

    Iteration and fetchone/fetchmany/fetchall move one common position and end with the last row, as a cursor's do;
    len(), result[i] and result[i:j] look without moving it. For a statement that returns no rows, columns and
    description are None and fetching raises psycopg2.ProgrammingError, as in psycopg2.
    """

    __slots__ = ("_cells", "_columns", "_position", "_read", "_row", "arraysize", "rowcount", "statusmessage")

    def __init__(self, reply: protocol.Result) -> None:
        self.rowcount = reply.rowcount
        self.statusmessage = reply.command
        self.arraysize = 1
        self._columns = reply.columns
        self._cells: Sequence[tuple[bytes | None, ...]] = reply.rows
        self._position = 0
        self._read: list[Caster] | None = None  # looked up when the first row is read
        self._row: type[Row] = Row

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The column names, None where the statement returns no rows."""
        return None if self._columns is None else tuple(column[0] for column in self._columns)

    @property
    def description(self) -> tuple[Column, ...] | None:
        """DB-API 2.0's description, None where the statement returns no rows."""
        if self._columns is None:
            return None
        return tuple(
            Column(name, oid, None, size, precision, scale, None) for name, oid, size, precision, scale in self._columns
        )

    def fetchone(self) -> Row | None:
        """The next row, None after the last."""
        position = self._position
        if position >= len(self._cells):
            self._need_rows()
            return None
        self._position = position + 1
        return self._make(self._cells[position])

    def fetchmany(self, size: int | None = None) -> list[Row]:
        """The next size rows (default: arraysize), fewer at the end."""
        self._need_rows()
        end = self._position + (self.arraysize if size is None else max(size, 0))
        rows = [self._make(cells) for cells in self._cells[self._position : end]]
        self._position += len(rows)
        return rows

    def fetchall(self) -> list[Row]:
        """All remaining rows."""
        return self.fetchmany(len(self._cells))

    def __iter__(self) -> Iterator[Row]:
        self._need_rows()
        return self

    def __next__(self) -> Row:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    def __len__(self) -> int:
        return len(self._cells)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        self._need_rows()
        if isinstance(place, slice):
            return [self._make(cells) for cells in self._cells[place]]
        return self._make(self._cells[place])

    def close(self) -> None:
        """Forget the rows. Never needed; programs written for cursors call it."""
        self._cells = ()

    def __repr__(self) -> str:
        return f"<Result {self.statusmessage!r} rowcount={self.rowcount}>"

    def _need_rows(self) -> None:
        if self._columns is None:
            raise psycopg2.ProgrammingError(
                f"no results to fetch: {self.statusmessage or 'the statement'} returns no rows"
            )

    def _make(self, cells: tuple[bytes | None, ...]) -> Row:
        if self._read is None:
            self._row, oids = _shape(self._columns or ())
            self._read = casters(oids)
        return self._row(cast_row(self._read, cells))


@lru_cache(maxsize=ROW_CLASSES)
def _shape(columns: tuple[tuple[Any, ...], ...]) -> tuple[type[Row], tuple[int, ...]]:
    """The Row class and the type OIDs of these columns."""
    return row_class(tuple(column[0] for column in columns)), tuple(column[1] for column in columns)
