"""A statement and its parameters as they travel: NUL for each parameter, and the values apart, with their types.

psycopg2 writes parameters into the statement as literals, by adapters; programs may register adapters of their own. A
parameter means what PostgreSQL makes of that literal: 5 is an int4, 'x' is of unknown type, ARRAY[1, 1.5] is a
numeric[]. So each value gets the type that its literal would have and the text that would stand inside it; the broker
can put the very literal back (poold.core.statements.literals), or send type and text apart from the statement.

The common types are converted here, as long as psycopg2 would use its own adapter for them. All others are given to
psycopg2: if its literal is plainly 'text', or 'text'::type, it is taken apart again; any other literal stays in the
statement. Mistakes, and placeholders of unusual kinds, are left to psycopg2 as well, so the errors are its own.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from psycopg2 import _psycopg, extensions, extras

from client.interruptions import suppressed
from client.values import offline
from client.wire.limits import MAX_PARAMETERS

# How many statements' pieces are kept, and the longest such statement in characters: 25 MB at most, if somebody makes
# long statements in a loop. A program has some hundred, of some hundred characters each.
TEMPLATES_KEPT = 1000
LONGEST_KEPT = 8192
# PostgreSQL's arrays have at most as many dimensions (MAXDIM in its source).
MAX_DIMENSIONS = 6

# A value's type OID and its text with the length before it, as types and values have them.
Cell = tuple[bytes, bytes]


class Reference:
    """A cell of a result that is not known yet, as a parameter of a later statement; row None is a whole column.

    It may be a parameter, or stand in a tuple. source says whose result it is, and is not used in this module.
    """

    __slots__ = ("column", "row", "source")

    def __init__(self, source: Any, row: int | None, column: str | int) -> None:
        self.source = source
        self.row = row
        self.column = column

    def __repr__(self) -> str:
        return f"<Reference row={self.row} column={self.column!r}>"

    # psycopg2 calls this if a Reference stands in what it is to convert, and then getquoted, which raises. An error
    # raised by __conform__ itself would become "can't adapt type".
    def __conform__(self, protocol: Any) -> "Reference":
        return self

    def getquoted(self) -> bytes:
        """Refuse: there is no literal for it."""
        raise TypeError(
            "a result of this transaction block has no value yet, so it cannot be part of a list or of another value: "
            "use it as a parameter of its own (%s, %(name)s), or in a tuple (IN %s), in a statement whose placeholders "
            "are only these and fit its parameters"
        )


class Bound(NamedTuple):
    """A statement with its parameters, as client.wire.messages describes statement, types and values.

    references holds the parameters that are References, with their numbers from 0; they have type 0 and value NULL.
    """

    statement: bytes
    types: bytes
    values: bytes
    references: tuple[tuple[int, Reference], ...]


class Template(NamedTuple):
    """A statement cut at its placeholders. names is None if the placeholders have no names."""

    joined: bytes  # with NUL between the pieces
    pieces: list[bytes]
    names: list[str] | None


def bind(statement: Any, params: Sequence[Any] | Mapping[str, Any] | None) -> Bound:
    """Return the statement with NUL for its parameters, and their types and values.

    statement is str, bytes, a psycopg2.sql object, or a Bound, which is returned. As in psycopg2, '%' is special only
    when params is not None. A value that has no form but its literal stands in the statement and is no parameter.
    Raises what client.values.offline.render raises, and TypeError for a Reference in a place where none can be.

    This is the hot path, so the code of `cell_of` is repeated here: by timeit 1.5 microseconds for a known statement
    with two integers; psycopg2 takes 2.6 to render it.
    """
    if params is None:
        return statement if type(statement) is Bound else _rendered(statement, None)
    if type(statement) is str and len(statement) <= LONGEST_KEPT:
        template = _template_of_str(statement)
    else:
        template = _template_of_any(statement)
    if template is None:
        return _rendered(statement, params)
    joined, pieces, names = template
    ordered: Sequence[Any] | None = params  # type: ignore[assignment]  # a Mapping does not stay here
    kind = type(params)
    if names is not None or (kind is not tuple and kind is not list) or len(params) != len(pieces) - 1:
        ordered = _in_order(template, params)
    if ordered is None:
        return _rendered(statement, params)
    types, texts = [], []
    adapters, conversions = extensions.adapters, _CONVERSIONS
    for value in ordered:
        known = conversions.get(type(value))
        if known is None or adapters.get(known[0]) is not known[1]:
            break
        cell = known[2](value)
        if cell is None:
            break
        types.append(cell[0])
        texts.append(cell[1])
    else:
        if len(types) <= MAX_PARAMETERS:
            # As Bound(...), but without its call of a Python function.
            return tuple.__new__(Bound, (joined, b"".join(types), b"".join(texts), ()))
    assembly = Assembly(pieces, ordered)
    return assembly.bound() if len(assembly.types) <= MAX_PARAMETERS else _rendered(statement, params)


def _rendered(statement: Any, params: Any) -> Bound:
    """Return the statement with psycopg2's literals in it and no parameters; raises psycopg2's errors."""
    return Bound(offline.render(statement, params), b"", b"", ())


class Assembly:
    """A statement put together value by value, if some value is not simply one parameter."""

    __slots__ = ("references", "statement", "texts", "types")

    def __init__(self, pieces: Sequence[bytes], params: Sequence[Any]) -> None:
        self.statement = [pieces[0]]
        self.types: list[bytes] = []
        self.texts: list[bytes] = []
        self.references: list[tuple[int, Reference]] = []
        for value, piece in zip(params, pieces[1:], strict=True):
            self._add(value)
            self.statement.append(piece)

    def bound(self) -> Bound:
        """Return the finished statement."""
        return Bound(b"".join(self.statement), b"".join(self.types), b"".join(self.texts), tuple(self.references))

    def _add(self, value: Any) -> None:
        cell = cell_of(value)
        if cell is not None:
            self._add_parameter(cell)
        elif isinstance(value, Reference):
            self.references.append((len(self.types), value))
            self._add_parameter(_NULL)
        elif type(value) is tuple and extensions.adapters.get(_TUPLE) is extensions.SQL_IN:
            self._add_tuple(value)
        else:
            self._add_literal(offline.render(b"%s", (value,)))

    def _add_parameter(self, cell: Cell) -> None:
        self.statement.append(b"\0")
        self.types.append(cell[0])
        self.texts.append(cell[1])

    def _add_tuple(self, items: tuple[Any, ...]) -> None:
        """Add the items in parentheses, as psycopg2 writes a tuple for IN."""
        self.statement.append(b"(")
        for place, item in enumerate(items):
            if place:
                self.statement.append(b", ")
            self._add(item)
        self.statement.append(b")")

    def _add_literal(self, literal: bytes) -> None:
        """Add a value by its literal from psycopg2: as a parameter if the literal is a simple one, else as it is."""
        quoted = _QUOTED.fullmatch(literal)
        oid = _TYPES_BY_NAME.get(quoted[2]) if quoted else None
        if quoted and oid is not None:
            self._add_parameter((oid, _sized(quoted[1].replace(b"''", b"'"))))
        else:
            self.statement.append(literal)


def _template_of_any(statement: Any) -> Template | None:
    """Return the template of a statement that is not simply a str of usual length."""
    statement = offline.plain(statement)
    if isinstance(statement, str):
        with suppressed(UnicodeEncodeError):
            statement = str.encode(statement)
    if not isinstance(statement, bytes):
        return None
    return _template_of_bytes(statement) if len(statement) <= LONGEST_KEPT else _split(statement)


def _split(statement: str | bytes) -> Template | None:
    """Cut the statement at its placeholders; None if only psycopg2 knows what it means, or what is wrong with it.

    psycopg2 reads bytes, and so does this: a name ends at the first parenthesis.
    """
    with suppressed(UnicodeError):
        parts = _PLACEHOLDER.split(statement.encode() if isinstance(statement, str) else statement)
        places = [part for part in parts[1::2] if part != b"%"]
        names = [part[1:-2].decode() for part in places if part != b"s"]
        if b"" in places or len(names) not in (0, len(places)) or any(b"\0" in part for part in parts):
            return None
        parts[1::2] = [b"%" if part == b"%" else b"\0" for part in parts[1::2]]
        joined = b"".join(parts)
        return Template(joined, joined.split(b"\0"), names or None) if joined else None
    return None


# A percent sign and what psycopg2 expects behind it; the group is empty if something else follows.
_PLACEHOLDER = re.compile(rb"%(s|%|\([^()%]*\)s|)")
# Two caches: str and bytes of the same characters have equal hashes, and `python -bb` objects to comparing them.
_template_of_str = lru_cache(TEMPLATES_KEPT)(_split)
_template_of_bytes = lru_cache(TEMPLATES_KEPT)(_split)


def _in_order(template: Template, params: Any) -> Sequence[Any] | None:
    """Return the values in the order of the placeholders; None if they do not fit, or only psycopg2 knows how."""
    if len(template.pieces) == 1:
        return ()  # psycopg2 does not even look at params
    if template.names is not None:
        try:
            return [params[name] for name in template.names]
        except Exception:
            if type(params) is dict and params.keys() >= set(template.names):
                raise  # a signal handler's; any other error psycopg2 will meet again, and raise
            return None
    if isinstance(params, tuple | list) and len(params) == len(template.pieces) - 1:
        return [params[place] for place in range(len(params))]
    return None


def cell_of(value: Any) -> Cell | None:
    """Return the value as a parameter; None if it is not simply one."""
    known = _CONVERSIONS.get(type(value))
    return known[2](value) if known is not None and extensions.adapters.get(known[0]) is known[1] else None


def _sized(text: bytes) -> bytes:
    size = len(text)
    return (_SMALL[size] if size < 3000 else size.to_bytes(4, "big")) + text


# Four bytes for each small number: the lengths of short texts, and these types' OIDs.
_SMALL = [number.to_bytes(4, "big") for number in range(3000)]
_UNKNOWN, _INT4, _INT8, _NUMERIC, _FLOAT8, _INET = (_SMALL[oid] for oid in (0, 23, 20, 1700, 701, 869))
_BOOL, _BYTEA, _UUID, _DATE, _INTERVAL = (_SMALL[oid] for oid in (16, 17, 2950, 1082, 1186))
_TIME, _TIMETZ, _TIMESTAMP, _TIMESTAMPTZ = (_SMALL[oid] for oid in (1083, 1266, 1114, 1184))
# An adapter's quoted literal with its type, and the types whose values are always written so.
_QUOTED = re.compile(rb"'([^']*(?:''[^']*)*)'(?:::([a-z]+))?")
_TYPES_BY_NAME = {
    None: _UNKNOWN, b"bytea": _BYTEA, b"uuid": _UUID, b"date": _DATE, b"time": _TIME, b"timetz": _TIMETZ,
    b"timestamp": _TIMESTAMP, b"timestamptz": _TIMESTAMPTZ, b"interval": _INTERVAL, b"inet": _INET,
}  # fmt: skip
# An array's type by that of its items. psycopg2 writes ARRAY[...], whose type PostgreSQL finds by these rules.
_ARRAYS = {
    _UNKNOWN: 1009, _INT4: 1007, _INT8: 1016, _NUMERIC: 1231, _BOOL: 1000, _BYTEA: 1001, _UUID: 2951, _DATE: 1182,
    _INTERVAL: 1187, _TIME: 1183, _TIMETZ: 1270, _TIMESTAMP: 1115, _TIMESTAMPTZ: 1185,
}  # fmt: skip
_NUMBERS = (_NUMERIC, _INT8, _INT4)  # if the items have several of them, the array has the first
_BARE = frozenset((*_NUMBERS, _BOOL))  # need no quotes in an array

_NULL: Cell = (_UNKNOWN, b"\xff\xff\xff\xff")


def _int(value: int) -> Cell:
    text = str(value).encode()
    if -2147483648 <= value <= 2147483647:
        return _INT4, _SMALL[len(text)] + text
    return _INT8 if -(2**63) <= value < 2**63 else _NUMERIC, _sized(text)


def _float(value: float) -> Cell | None:
    text = repr(value)
    if text == "-0.0":
        return None  # -0.0::float8 is -(0.0::float8), the sign of which no numeric could keep
    if text[-1] in "nf":
        return _FLOAT8, _sized({"nan": b"NaN", "inf": b"Infinity", "-inf": b"-Infinity"}[text])
    return _NUMERIC, _sized(text.encode())


def _decimal(value: Decimal) -> Cell | None:
    """Return a parameter, of an integer type for a whole number, as psycopg2's literal is an integer."""
    if not value.is_finite():
        return None  # 'NaN'::numeric, also for infinity: it names its column numeric, which a parameter would not
    if not value and value.is_signed():
        return None  # as with floats
    text = str(value)
    is_int = len(text) <= 20 and text.removeprefix("-").isdigit()
    return _int(int(text))[0] if is_int else _NUMERIC, _sized(text.encode())


def _str(value: str) -> Cell | None:
    text = value.encode()
    return (_UNKNOWN, _sized(text)) if b"\0" not in text else None


def _datetime(value: datetime) -> Cell:
    return _TIMESTAMP if value.tzinfo is None else _TIMESTAMPTZ, _sized(value.isoformat().encode())


def _time(value: time) -> Cell:
    return _TIME if value.tzinfo is None else _TIMETZ, _sized(value.isoformat().encode())


def _timedelta(value: timedelta) -> Cell:
    return _INTERVAL, _sized(b"%d days %d.%06d seconds" % (value.days, value.seconds, value.microseconds))


def _list(value: list[Any]) -> Cell | None:
    """Return an array, if the items are such that PostgreSQL gives ARRAY[...] a type that is known here.

    None for lists in lists of different lengths or depths, and if some list is empty or holds nothing but None: then
    PostgreSQL finds the type by other rules.
    """
    items, shape = value, [len(value)]
    while items and type(items[0]) is list:
        sizes = {len(item) if type(item) is list else -1 for item in items}
        shape.append(sizes.pop())
        if sizes or len(shape) > MAX_DIMENSIONS:
            return None
        items = [item for inner in items for item in inner]
    found = _items(items)
    if found is None:
        return None
    oids, texts = found
    for size in reversed(shape):
        rows = [texts[at : at + size] for at in range(0, len(texts), size)] if size else []
        if not rows or any(row.count(b"NULL") == size for row in rows):
            return None
        texts = [b"{" + b",".join(row) + b"}" for row in rows]
    numbers = [oid for oid in _NUMBERS if oid in oids]
    if len(oids) != max(len(numbers), 1):
        return None
    oid = numbers[0] if numbers else oids.pop()
    return (_SMALL[_ARRAYS[oid]], _sized(texts[0])) if oid in _ARRAYS else None


def _items(items: list[Any]) -> tuple[set[bytes], list[bytes]] | None:
    """Return the types of an array's items, and their texts within braces. Items of one common kind go all at once."""
    kinds = set(map(type, items))
    if kinds == {int} and cell_of(0):
        return {_int(min(items))[0], _int(max(items))[0]}, ",".join(map(str, items)).encode().split(b",")
    if kinds == {str} and cell_of(""):
        with suppressed(UnicodeEncodeError):
            texts = _in_quotes("\0".join(items).encode()).replace(b"\0", b'"\0"').split(b"\0")
            return ({_UNKNOWN}, texts) if len(texts) == len(items) else None
        return None  # psycopg2's error names the place within the item
    oids, texts = set(), []
    for item in items:
        if item is None:
            texts.append(b"NULL")
            continue
        cell = cell_of(item)
        if cell is None:
            return None
        oids.add(cell[0])
        texts.append(cell[1][4:] if cell[0] in _BARE else _in_quotes(cell[1][4:]))
    return oids, texts


def _in_quotes(text: bytes) -> bytes:
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


_TUPLE = (tuple, extensions.ISQLQuote)
# By type of a value: its key among psycopg2's adapters, the adapter that psycopg2 itself has for it, and the conversion
# that gives the same. A conversion returns None for a value that only the adapter can convert.
_CONVERSIONS: dict[type, tuple[Any, Any, Callable[[Any], Cell | None]]] = {
    kind: ((kind, extensions.ISQLQuote), adapter, conversion)
    for kind, adapter, conversion in (
        (type(None), extensions.NoneAdapter, lambda value: _NULL),
        (bool, extensions.Boolean, lambda value: (_BOOL, _sized(b"true" if value else b"false"))),
        (int, extensions.Int, _int),
        (float, extensions.Float, _float),
        (Decimal, _psycopg.Decimal, _decimal),
        (str, extensions.QuotedString, _str),
        (bytes, extensions.Binary, lambda value: (_BYTEA, _sized(b"\\x" + value.hex().encode()))),
        (bytearray, extensions.Binary, lambda value: (_BYTEA, _sized(b"\\x" + value.hex().encode()))),
        (date, extensions.DateFromPy, lambda value: (_DATE, _sized(value.isoformat().encode()))),
        (time, extensions.TimeFromPy, _time),
        (datetime, extensions.TimestampFromPy, _datetime),
        (timedelta, extensions.IntervalFromPy, _timedelta),
        (UUID, extras.UUID_adapter, lambda value: (_UUID, _sized(str(value).encode()))),
        (list, _psycopg.List, _list),
    )
}
