"""A row of a result: a tuple whose class knows the column names.

So it answers to index, name and attribute and costs no more than a tuple. The class is made once per list of names.
"""

from collections.abc import ItemsView
from functools import lru_cache
from typing import Any

from client.interruptions import is_own

# Programs have few distinct column lists; a generated one in a loop must not grow memory for ever.
COLUMN_LISTS = 512


class Row(tuple[Any, ...]):
    """One row: row[0], row['name'], row.name; iteration gives values, dict(row) and row._asdict() the mapping.

    A text in row asks for a column of that name, as in psycopg2's DictRow; anything else in row for a value, as in a
    tuple.

    If two columns have the same name, the name means the last one, as in psycopg2's DictRow. A column named like one of
    the methods here (keys, values, items, get) is reached by index or by row['keys'].
    """

    __slots__ = ()
    _names: tuple[str, ...] = ()
    _index: dict[str, int] = {}  # noqa: RUF012  replaced in each subclass, never changed

    def __getitem__(self, key: Any) -> Any:
        if type(key) is str:
            try:
                key = self._index[key]
            except KeyError as error:
                if not is_own(error):
                    raise
                raise KeyError(f"no column {key!r}; this row has {', '.join(self._names)}") from None
        return tuple.__getitem__(self, key)

    def __getattr__(self, name: str) -> Any:
        # Only reached if the class has no such attribute: for names that begin with an underscore, and for mistakes.
        if name in self._index:
            return tuple.__getitem__(self, self._index[name])
        raise AttributeError(f"no column {name!r}; this row has {', '.join(self._names)}")

    def __eq__(self, other: object) -> bool:
        return tuple.__eq__(self, tuple(other) if isinstance(other, list) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__

    def __contains__(self, key: object) -> bool:
        return key in self._index if isinstance(key, str) else tuple.__contains__(self, key)

    def keys(self) -> tuple[str, ...]:
        """The column names."""
        return self._names

    def values(self) -> tuple[Any, ...]:
        """The values."""
        return tuple(self)

    def items(self) -> ItemsView[str, Any]:
        """Pairs of name and value."""
        return self._asdict().items()

    def _asdict(self) -> dict[str, Any]:
        """The mapping of names to values, as a namedtuple's: for json.dumps and the like."""
        return {name: tuple.__getitem__(self, place) for name, place in self._index.items()}

    def get(self, name: str, default: Any = None) -> Any:
        """The value of that column, or default."""
        return self[name] if name in self._index else default

    def __repr__(self) -> str:
        return f"Row({', '.join(f'{name}={value!r}' for name, value in zip(self._names, self, strict=True))})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (self._names, tuple(map(_portable, self)))

    def __copy__(self) -> "Row":
        return self


class _Bytes:
    """A bytea's memoryview, which can be neither pickled nor copied, on its way: what comes out is a memoryview."""

    __slots__ = ("_view",)

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def __reduce__(self) -> tuple[Any, ...]:
        return _view, (bytes(self._view), self._view.format)


def _view(data: bytes, form: Any) -> Any:
    # psycopg2's have a form of their own, by which memoryviews compare.
    return memoryview(data).cast(form)


def _portable(value: Any) -> Any:
    """Return the value as it can be pickled; a bytea, or an array of such."""
    if type(value) is memoryview:
        return _Bytes(value)
    return [_portable(each) for each in value] if type(value) is list else value


def _revive(names: tuple[str, ...], values: tuple[Any, ...]) -> Row:
    return row_class(names)(values)


_METHODS = frozenset(("keys", "values", "items", "get"))


@lru_cache(maxsize=COLUMN_LISTS)
def row_class(names: tuple[str, ...]) -> type[Row]:
    """Make the Row class of these column names. A name wins over tuple's own attributes: row.count is the column."""
    index = {name: place for place, name in enumerate(names)}
    body: dict[str, Any] = {"__slots__": (), "_names": names, "_index": index}
    for name, place in index.items():
        if not name.startswith("_") and name not in _METHODS:
            body[name] = property(_value_at(place))
    return type("Row", (Row,), body)


def _value_at(place: int) -> Any:
    return lambda row: tuple.__getitem__(row, place)
