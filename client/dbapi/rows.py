"""The rows of a cursor: a Result read at a position that may be moved, by casters that may be the cursor's own.

Usually the Result casts its rows and they only become plain tuples here. Casters that were registered for one
connection or cursor, and a time zone's class of the cursor's own, are known to nobody but psycopg2's cursors; so these
rows are replayed (`client.values.casting`) on a cursor of psycopg2's that has been given the same.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from psycopg2 import extensions

from client.values.casting import block_end, replay_by, row_starts
from client.values.result import Result

Values = tuple[Any, ...]
# timestamptz, timetz, tstzrange, tstzmultirange, and arrays of them.
_WITH_TIME_ZONES = frozenset((1184, 1185, 1266, 1270, 3910, 3911, 4534, 6153))
# PostgreSQL's FirstNormalObjectId: the types of extensions and programs, which may have moments in them.
_FIRST_OF_PROGRAMS = 16384


class Rows:
    """The rows of one result. position is the number of the next row, from 0."""

    __slots__ = ("_is_moved", "_own", "_prepare", "_result", "_starts", "count", "position")

    def __init__(self, result: Result, prepare: Callable[[Any], None] | None) -> None:
        """prepare makes a psycopg2 cursor cast as the rows' cursor does; None if the Result does."""
        self.position = 0
        self.count = len(result)
        self._result = result
        self._prepare = prepare
        self._is_moved = False  # then the Result's own position is another one
        self._own: list[Values] | None = None  # all rows, once they were cast by the cursor's own casters
        self._starts: list[int] | None = None  # where each row begins, if they are cast one by one

    def one(self) -> Values | None:
        """The next row, None after the last."""
        if self._prepare is not None or self._is_moved:
            return next(iter(self.many(1)), None)
        self.position += 1
        row = self._result.fetchone()
        if row is None:
            self.position -= 1
            return None
        return tuple(row)

    def many(self, size: int) -> list[Values]:
        """The next rows, size at most."""
        at = self.position
        self.position = end = min(at + max(size, 0), self.count)
        if self._prepare is not None:
            return self._cast_own()[at:end] if self._can_cast_all() else self._cast_one_by_one(at, end)
        if self._is_moved:
            return list(map(tuple, self._result[at:end]))
        return list(map(tuple, self._result.fetchmany(end - at)))

    def all(self) -> list[Values]:
        """All rows from the position on."""
        if self._prepare is None and not self._is_moved:
            self.position = self.count
            return list(map(tuple, self._result.fetchall()))
        return self.many(self.count - self.position)

    def move(self, position: int) -> None:
        """Make the row of this number the next one; raises IndexError if there is none."""
        if not 0 <= position < self.count:
            raise IndexError(f"no row {position}; there are {self.count}")
        self.position = position
        self._is_moved = True

    def _can_cast_all(self) -> bool:
        """Whether all rows can be cast at once. If a caster fails for one, only reading that row raises its error."""
        if self._starts is None:
            try:
                self._cast_own()
            except Exception as error:
                starts = row_starts(data := self._result.as_sent()[1], 0, len(data))
                self._starts = [*starts, len(data)]
                if not any(self._raises(number, type(error)) for number in range(self.count)):
                    self._starts = None
                    raise  # not of a caster
        return self._starts is None

    def _raises(self, number: int, kind: type[Exception]) -> bool:
        try:
            self._cast_row(number)
        except kind:
            return True
        return False

    def _cast_row(self, number: int) -> list[Values]:
        assert self._prepare is not None
        assert self._starts is not None
        columns, data = self._result.as_sent()
        return replay_by(self._prepare, columns, memoryview(data)[self._starts[number] : self._starts[number + 1]])

    def _cast_one_by_one(self, at: int, end: int) -> list[Values]:
        rows: list[Values] = []
        for number in range(at, end):
            self.position = number + 1  # behind a row that cannot be read, as psycopg2's
            rows += self._cast_row(number)
        return rows

    def _cast_own(self) -> list[Values]:
        if self._own is None:
            assert self._prepare is not None
            columns, data = self._result.as_sent()
            rows: list[Values] = []
            at = 0
            while at < len(data):
                end = block_end(data, at, len(data))
                rows += replay_by(self._prepare, columns, memoryview(data)[at:end])
                at = end
            self._own = rows
        return self._own


class _Nothing(Rows):
    """The rows of a named cursor that has fetched none yet."""

    __slots__ = ()

    def __init__(self) -> None:
        self.position = self.count = 0


NO_ROWS = _Nothing()


def rows_of(result: Result, cursor: Any) -> Rows:
    """Return the rows of a result, cast as this cursor of psycopg2's would cast them."""

    def prepare(theirs: Any) -> None:
        for caster in (*cursor.connection.string_types.values(), *(cursor.string_types or {}).values()):
            extensions.register_type(caster, theirs)
        theirs.tzinfo_factory = cursor.tzinfo_factory

    return Rows(result, prepare if _casts_itself(result, cursor) else None)


def _casts_itself(result: Result, cursor: Any) -> bool:
    """Whether a column's type has a caster of this cursor or its connection, or needs its tzinfo_factory."""
    theirs, mine = cursor.connection.string_types, cursor.string_types or ()
    has_own_zones = cursor.tzinfo_factory is not datetime.timezone
    if not theirs and not mine and not has_own_zones:
        return False
    return any(
        oid in theirs or oid in mine or (has_own_zones and (oid in _WITH_TIME_ZONES or oid >= _FIRST_OF_PROGRAMS))
        for oid in result.type_oids
    )
