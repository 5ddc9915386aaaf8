"""Cursors whose rows are not tuples: by name like a mapping, by name and number, or as named tuples.

The rows are psycopg2's own classes, so that programs' checks of types go on working.
"""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from functools import lru_cache
from typing import Any

from psycopg2 import extensions, extras

from client.dbapi.cursor import Cursor
from client.dbapi.rows import Values
from client.values.result import Result


class DictCursor(Cursor):
    """A cursor whose rows are lists that also answer to column names (psycopg2.extras.DictRow)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.row_factory = extras.DictRow
        # Column names and their places, for the rows.
        self.index: dict[str, int] = OrderedDict()

    def _keep(self, result: Result, has_rows: bool = True) -> None:
        super()._keep(result, has_rows)
        self.index = OrderedDict((name, place) for place, name in enumerate((has_rows and result.columns) or ()))


class RealDictCursor(Cursor):
    """A cursor whose rows are dicts by column name (psycopg2.extras.RealDictRow)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.row_factory = extras.RealDictRow
        # The columns' names by their places, for the rows.
        self.column_mapping: list[str] = []

    def _keep(self, result: Result, has_rows: bool = True) -> None:
        super()._keep(result, has_rows)
        self.column_mapping = list((has_rows and result.columns) or ())

    def _made(self, values: Values) -> Any:
        # psycopg2's class lets nobody but psycopg2's own cursors fill a row by places.
        if self.row_factory is extras.RealDictRow:
            return extras.RealDictRow(zip(self.column_mapping, values, strict=True))
        return super()._made(values)


class NamedTupleCursor(Cursor):
    """A cursor whose rows are named tuples. A name that no attribute can have is changed as psycopg2 changes it."""

    # Made from the columns of the present result, when the first of its rows is read.
    Record: Any = None
    MAX_CACHE = 1024

    def _keep(self, result: Result, has_rows: bool = True) -> None:
        super()._keep(result, has_rows)
        self.Record = None

    def _made(self, values: Values) -> Any:
        if self.Record is None:
            self.Record = self._make_nt()
        return self.Record._make(values)

    def _all_made(self, rows: list[Values]) -> list[Any]:
        return [self._made(values) for values in rows]

    def _make_nt(self) -> Any:
        return self._cached_make_nt(tuple(column[0] for column in self.description or ()))

    @classmethod
    def _do_make_nt(cls, key: tuple[str, ...]) -> Any:
        return namedtuple("Record", [_identifier(name) for name in key])

    @classmethod
    def _cached_make_nt(cls, key: tuple[str, ...]) -> Any:
        own: Any = cls
        return _record(own, key)


@lru_cache(512)
def _record(cls: Any, key: tuple[str, ...]) -> Any:
    return cls._do_make_nt(key)


def _identifier(name: str) -> str:
    changed: str = extras._re_clean.sub("_", name)  # type: ignore[attr-defined]  # so that names are psycopg2's
    return "f" + changed if changed[:1] == "_" or changed[:1].isdigit() else changed


_OURS: dict[Any, Any] = {
    extensions.cursor: Cursor,
    extras.DictCursor: DictCursor,
    extras.RealDictCursor: RealDictCursor,
    extras.NamedTupleCursor: NamedTupleCursor,
}


def known_factory(factory: Any) -> Any:
    """Return the factory, or the class here that stands for psycopg2's own, which needs psycopg2's connection."""
    try:
        return _OURS.get(factory, factory)
    except TypeError:
        return factory  # it cannot be hashed
