"""What a query gives back: a Result.

A Result keeps PostgreSQL's messages as they came; nothing in them is looked at before a row is read. The first row is
read by itself, since many programs want no other. The rows behind it are read one by one too or, if there are many
cells, a block at a time by psycopg2 itself (`client.values.casting`). Compiled code reads all of them, where it is and
all columns' casters are psycopg2's own. Unless all rows are wanted, only one block is held decoded.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple, Self, overload

import psycopg2

from client.compiled import load
from client.interruptions import is_own
from client.values.casting import (
    BLOCK_BYTES,
    Caster,
    block_end,
    cast_row,
    casters,
    describe,
    is_worth_replay,
    parse_columns,
    replay,
    row_end,
    row_starts,
)
from client.values.offline import _nowhere
from client.values.row import COLUMN_LISTS, Row, row_class
from client.wire import messages

# Read rows and make results in compiled code, where it is.
_ROWS, _REPLIES, _METHODS = (load(f"client.lane.{name}") for name in ("rows", "replies", "methods"))
# What psycopg2 raises for a cell that it cannot read: no UTF-8, beyond the calendar, beyond its type.
_UNREADABLE = (psycopg2.Error, ValueError, OverflowError)
_NO_ROWS: Iterator[Any] = iter(())
# Stands for no rows as well, once a loop has read them all: the next loop begins at the first row again.
_READ: Iterator[Any] = iter(())


class _SevenItems(NamedTuple):
    """The seven items of one column in DB-API 2.0's cursor.description (PEP 249)."""

    name: str
    type_code: int
    display_size: int | None
    internal_size: int | None
    precision: int | None
    scale: int | None
    null_ok: bool | None


class Column(_SevenItems):
    """One column: the seven items of DB-API 2.0, and as in psycopg2 the attributes table_oid and table_column.

    table_oid and table_column are the OID of the column's table and its number there; None if it has no table.
    """

    table_oid: int | None
    table_column: int | None

    @classmethod
    def like(cls, theirs: Any) -> Self:
        """Make a Column of psycopg2's."""
        made = cls(*theirs)
        made.table_oid, made.table_column = theirs.table_oid, theirs.table_column
        return made


if TYPE_CHECKING:
    _Fields = object
else:
    # Compiled code, where it is, works on the fields too.
    _Fields = getattr(load("client.lane.records"), "ResultFields", object)


class Result(_Fields):
    """The result of one statement, read like a psycopg2 cursor.

    fetchone, fetchmany, fetchall, next() and loops move one common position and end with the last row, as a cursor's
    do. A loop (`for row in result`, list(result)) goes on behind the rows that were fetched; once a loop has read all
    rows from the first to the last, or has found none left, the next one begins at the first row again. A loop over
    islice(result, n) looks like any other: to read in parts use fetchmany(n), or islice of one iter(result).
    len(), result[i], result[i:j], first(), one() and scalar() look without moving the position. For a statement that
    returns no rows, columns and description are None and fetching raises psycopg2.ProgrammingError, as in psycopg2. A
    cell that its caster cannot read raises the caster's error when its row is read; the position is behind that row
    then.

    notices are PostgreSQL's messages to the client, as in psycopg2's connection.notices.
    """

    __slots__ = () if _Fields is not object else (
        "_ahead", "_at", "_casters", "_columns", "_count", "_dicts", "_reader", "_row", "_rows", "_starts",
        "arraysize", "notices", "rowcount", "statusmessage",
    )  # fmt: skip

    def __init__(self, reply: messages.ResultMessage, dicts: bool = False) -> None:
        """dicts: whether each row is a dict instead of a Row."""
        self.rowcount = self._count = reply.rowcount
        self.statusmessage = reply.command
        self.notices = reply.notices
        self.arraysize = 1
        self._dicts = dicts
        self._columns = reply.columns
        self._rows = reply.rows
        # The rows that are read next, and the byte where the rows behind them begin.
        self._ahead: Iterator[Any] = _NO_ROWS
        self._at = 0
        self._casters: list[Caster] | None = None  # looked up when the first row is read, like the Row class
        self._reader: Any = None  # the compiled one, looked up too
        self._row: Callable[[Any], Any] = Row
        self._starts: array[int] | None = None  # where each row begins, once one is asked for by its number

    @classmethod
    def from_fields(cls, fields: Sequence[Any], dicts: bool = False) -> Self:
        """Make the Result of a ResultMessage with these fields, in their order."""
        return cls(messages.ResultMessage._make(fields), dicts)

    def __reduce__(self) -> tuple[Any, ...]:
        """What pickle and copy keep: the result as it came. The other one is read from its first row."""
        fields = (0, messages.TX_NONE, self.statusmessage, self.rowcount, self._columns, self._rows, self.notices)
        return type(self).from_fields, (fields, self._dicts)

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The column names, None if the statement returns no rows."""
        return None if self._columns is None else column_names(self._columns)

    @property
    def description(self) -> tuple[Column, ...] | None:
        """DB-API 2.0's description, None if the statement returns no rows."""
        return None if self._columns is None else _description(self._columns)

    def fetchone(self) -> Any:
        """The next row, None after the last."""
        for row in self._ahead:
            return row
        if self._at == 0 and self._rows:  # the hot path: the first row
            self._at = row_end(self._rows, 0)
            return self._row_at(0)
        if self._look_ahead():
            return next(self._ahead)
        self._need_rows()
        return None

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """The next size rows (default: arraysize), fewer at the end."""
        self._need_rows()
        rows = chain.from_iterable(self._all_ahead())
        return self._take((islice(rows, self.arraysize if size is None else max(size, 0)),))

    def fetchall(self) -> list[Any]:
        """All remaining rows."""
        self._need_rows()
        return self._take(self._all_ahead())

    def first(self) -> Any:
        """The first row, None if there is none."""
        self._need_rows()
        return self._row_at(0) if self._rows else None

    def one(self) -> Any:
        """The only row; raises LookupError if there is none, or more than one."""
        self._need_rows()
        if (count := len(self)) != 1:
            raise LookupError(f"one() wants a result of exactly one row; this one has {count}")
        return self._row_at(0)

    def scalar(self) -> Any:
        """The first column of the first row, None if there is no row."""
        self._need_rows()
        if not self._rows:
            return None
        values = cast_row(self._casters or self._look_up(), self._rows, 0)
        if not values:
            raise LookupError("scalar() wants a result with a column; this one has rows without any")
        return values[0]

    def __iter__(self) -> Iterator[Any]:
        self._need_rows()
        if self._ahead is _READ:
            self._ahead, self._at = _NO_ROWS, 0
        if self._ahead is _NO_ROWS and self._at == 0:
            return chain.from_iterable(self._all_ahead(_READ))
        return self._rest()

    def __next__(self) -> Any:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    def __len__(self) -> int:
        return self._count if self._rows else 0

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> list[Any]: ...
    def __getitem__(self, place: int | slice) -> Any:
        self._need_rows()
        if self._starts is None:
            self._starts = row_starts(self._rows, 0, len(self._rows))
        if isinstance(place, slice):
            return self._slice(self._starts, place)
        try:
            at = self._starts[place]
        except IndexError as error:
            if not is_own(error):
                raise
            raise IndexError(f"no row {place}; this result has {len(self._starts)} rows") from None
        return self._row_at(at)

    @property
    def type_oids(self) -> tuple[int, ...]:
        """The OIDs of the columns' types; none if the statement returns no rows."""
        return () if self._columns is None else _shape(self._columns)[1]

    def as_sent(self) -> tuple[bytes, bytes]:
        """The columns and rows as PostgreSQL sent them, see client.wire.messages; b"" and b"" without rows."""
        return self._columns or b"", self._rows

    def close(self) -> None:
        """Forget the rows. Never needed; programs written for cursors call it."""
        self._rows = b""
        self._ahead = _NO_ROWS
        self._starts = None

    def __repr__(self) -> str:
        return f"<Result {self.statusmessage!r} rowcount={self.rowcount}>"

    def _need_rows(self) -> None:
        if self._columns is None:
            raise psycopg2.ProgrammingError(
                f"no results to fetch: {self.statusmessage or 'the statement'} returns no rows"
            )

    def _take(self, parts: Iterable[Iterable[Any]]) -> list[Any]:
        """Return all these rows; if one cannot be read, those before it are put back, to be read next."""
        rows: list[Any] = []
        try:
            for part in parts:
                rows += part
        except BaseException:
            self._ahead = chain(rows, self._ahead)
            raise
        return rows

    def _all_ahead(self, behind: Iterator[Any] | None = None) -> Iterator[Iterator[Any]]:
        """Yield _ahead, each time it is replaced, until the end, and replace it then by behind, if that is given.

        Other reads may come in between.
        """
        while True:
            yield (ahead := self._ahead)
            if ahead is self._ahead and not self._look_ahead():
                break
        if behind is not None:
            self._ahead = behind

    def _rest(self) -> Iterator[Any]:
        """Yield the rows behind those that were read; if there are none, the next loop begins at the first row."""
        is_empty = True
        for row in chain.from_iterable(self._all_ahead()):
            is_empty = False
            yield row
        if is_empty:
            self._ahead = _READ

    def _look_ahead(self) -> bool:
        """Put the next rows into _ahead; False if there are none."""
        if self._at >= len(self._rows):
            return False
        self._ahead, self._at = self._some(self._at, len(self._rows))
        return True

    def _slice(self, starts: "array[int]", place: slice) -> list[Any]:
        first, last, step = place.indices(len(starts))
        if step != 1:
            return list(map(self._row_at, starts[place]))
        rows: list[Any] = []
        if first < last:
            at, end = starts[first], starts[last] if last < len(starts) else len(self._rows)
            while at < end:
                some, at = self._some(at, end)
                rows += some
        return rows

    def _some(self, at: int, end: int) -> tuple[Iterator[Any], int]:
        """Return rows from byte at on, and the byte where the rows behind them begin, end at the latest."""
        if (reader := self._reader or self._find_reader()) is not None and reader.is_own:
            rows, behind = reader.read(self._rows, at, end, BLOCK_BYTES)
            if rows:
                return iter(rows), behind
        casters = self._casters or self._look_up()
        if is_worth_replay(self._count, len(casters), len(self._rows)):
            end = block_end(self._rows, at, end)
            values = self._replayed(at, end)
            if values is not None:
                return map(self._row, values), end
        # Not self._row_at: a Result that refers to itself would keep its bytes until the next garbage collection.
        read = partial(_read, self._row, casters, self._rows)
        return map(read, row_starts(self._rows, at, end)), end

    def _replayed(self, at: int, end: int) -> list[tuple[Any, ...]] | None:
        """Return the values of the rows between two bytes; None if one of them cannot be read this way."""
        assert self._columns is not None
        try:
            return replay(self._columns, memoryview(self._rows)[at:end])
        except _UNREADABLE:
            # A signal handler may raise the same. Rows that cannot be read fail a second time; else it goes on.
            if self._is_replayable(at, end):
                raise
            return None
        except Exception as error:
            # A program's own caster may raise anything. So may its signal handler (of a time limit, say); if no row
            # raises the same again, the exception must reach the program.
            for start in row_starts(self._rows, at, end):
                try:
                    self._row_at(start)
                except type(error):
                    return None
            raise

    def _is_replayable(self, at: int, end: int) -> bool:
        """Whether the rows between two bytes can be replayed."""
        assert self._columns is not None
        try:
            replay(self._columns, memoryview(self._rows)[at:end])
        except _UNREADABLE:
            return False
        return True

    def _row_at(self, at: int) -> Any:
        if (reader := self._reader or self._find_reader()) is not None and reader.is_own:
            row: Any = reader.row(self._rows, at)
            if row is not None:
                return row
        casters = self._casters
        if casters is None:
            casters = self._look_up()
        return self._row(cast_row(casters, self._rows, at))

    def _find_reader(self) -> Any:
        """Return the compiled reader of these columns; None if there is no compiled code."""
        if _ROWS is None or (known := _ROWS.reader_of(self)) is not None:
            return None if _ROWS is None else known
        assert self._columns is not None
        row, oids = _shape(self._columns)
        names = column_names(self._columns) if self._dicts else None
        self._reader = _ROWS.Reader(row, oids, casters(oids), _nowhere(), names)
        _ROWS.keep(self._columns, self._reader)
        return self._reader

    def _look_up(self) -> list[Caster]:
        assert self._columns is not None
        row, oids = _shape(self._columns)
        self._row = partial(_as_dict, column_names(self._columns)) if self._dicts else row
        self._casters = found = casters(oids)
        return found


def _read(row: Callable[[Any], Any], row_casters: list[Caster], rows: bytes, at: int) -> Any:
    return row(cast_row(row_casters, rows, at))


def _as_dict(names: tuple[str, ...], values: Iterable[Any]) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))


@lru_cache(maxsize=COLUMN_LISTS)
def column_names(columns: bytes) -> tuple[str, ...]:
    """Return the names in the body of a RowDescription."""
    return parse_columns(columns)[0]


@lru_cache(maxsize=COLUMN_LISTS)
def _shape(columns: bytes) -> tuple[type[Row], tuple[int, ...]]:
    """Return the Row class and the type OIDs of these columns."""
    names, oids = parse_columns(columns)
    return row_class(names), oids


@lru_cache(maxsize=COLUMN_LISTS)
def _description(columns: bytes) -> tuple[Column, ...]:
    """Return psycopg2's description of these columns, as our Columns."""
    return tuple(Column.like(column) for column in describe(columns))


if _ROWS is not None and _REPLIES is not None:
    _ROWS.use(_NO_ROWS)
    _REPLIES.use(Result, Row, _NO_ROWS)
if _METHODS is not None:
    _METHODS.before(Result, "fetchone", "fetchall")
