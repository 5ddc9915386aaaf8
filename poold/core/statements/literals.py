"""Parameters as literals: the inverse of client.values.bind, byte for byte as psycopg2 writes them.

A statement travels with NUL for each parameter and runs in one of two forms, which must mean the same: with the values
as literals in its text, or prepared, with $1, $2, ... and the values apart. So a literal must have the very type that
is declared for its parameter. PostgreSQL gives a number without quotes a type by its size, and ARRAY[...] the type that
its items have in common; if that is not the declared type, text in quotes with a cast is written instead. psycopg2
binds no such values, but referenced cells may be such (the int8 5, the empty text[]).

Values come from clients and are not trusted. In quotes only a quote ends a literal, and quotes are doubled; backslashes
have no meaning, as backends keep standard_conforming_strings on. A value without quotes must match a pattern. Nothing
but ProtocolViolation is raised here.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from client.wire.messages import ProtocolViolation

# PostgreSQL's arrays have at most as many dimensions (MAXDIM in its source).
MAX_DIMENSIONS = 6

_BOOL, _INT2, _INT4, _INT8, _NUMERIC, _FLOAT4, _FLOAT8, _TEXT, _TEXT_ARRAY = 16, 21, 23, 20, 1700, 700, 701, 25, 1009
# Types that a parameter may be declared to have: their names, and the types of their arrays.
_TYPES = {
    _BOOL: (b"bool", 1000),
    _INT2: (b"int2", 1005),
    _INT4: (b"int4", 1007),
    _INT8: (b"int8", 1016),
    _NUMERIC: (b"numeric", 1231),
    _FLOAT4: (b"float4", 1021),
    _FLOAT8: (b"float", 1022),  # psycopg2's word
    17: (b"bytea", 1001),
    869: (b"inet", 1041),
    1082: (b"date", 1182),
    1083: (b"time", 1183),
    1114: (b"timestamp", 1115),
    1184: (b"timestamptz", 1185),
    1186: (b"interval", 1187),
    1266: (b"timetz", 1270),
    2950: (b"uuid", 2951),
}
_INTEGERS = (_INT2, _INT4, _INT8)
_NUMBERS = (*_INTEGERS, _NUMERIC, _FLOAT4, _FLOAT8)
# The types, as they travel, whose values may stand without quotes.
UNQUOTED = frozenset(oid.to_bytes(4, "big") for oid in _NUMBERS)
# "char", name, text, char(n), varchar: such parameters stay undeclared and get the type that their place asks for, as a
# quoted literal does.
_TEXTS = (18, 19, _TEXT, 1042, 1043)
_ARRAYS = frozenset((_TEXT_ARRAY, *(array for _, array in _TYPES.values())))
# Arrays that psycopg2 reads as lists of str, and so binds as ARRAY['a', ...], which is a text[]: those of "char", name,
# char(n), varchar, inet, cidr, macaddr. Arrays of types that it does not know (enums, domains) it reads as one str.
_READ_AS_TEXTS = frozenset((1002, 1003, 1014, 1015, 1041, 651, 1040))
_OID_ARRAY, _INT4_ARRAY, _INT8_ARRAY = 1028, 1007, 1016

Array = list[Any]  # of bytes and None, or of Arrays
Writer = Callable[[bytes], bytes]


def split_values(values: bytes, count: int) -> list[bytes | None]:
    """The values of count parameters, None for NULL."""
    found: list[bytes | None] = []
    at = 0
    for _ in range(count):
        size = int.from_bytes(values[at : at + 4], "big", signed=True)
        at += 4
        if size >= 0:
            found.append(values[at : at + size])
            at += size
        elif size == -1:
            found.append(None)
        else:
            raise ProtocolViolation(f"values: a parameter's length is {size}; expected -1 for NULL, or a size in bytes")
    # Finds a length that leads beyond the end or is itself cut off, as `at` never goes back.
    if at != len(values):
        raise ProtocolViolation(
            f"values: expected {at} bytes for {count} parameters with these lengths, got {len(values)}"
        )
    return found


def render(statement: bytes, types: bytes, values: bytes) -> bytes:
    """The statement with literals in place of NULs."""
    pieces = statement.split(b"\0")
    if len(types) != 4 * (len(pieces) - 1):
        raise ProtocolViolation(f"types: expected 4 bytes for each of {len(pieces) - 1} parameters, got {len(types)}")
    parts = [pieces[0]]
    for place, value in enumerate(split_values(values, len(pieces) - 1)):
        parts.append(b"NULL" if value is None else _WRITERS.get(types[4 * place : 4 * place + 4], _quoted)(value))
        parts.append(pieces[place + 1])
    rendered = b"".join(parts)
    if b"\0" in rendered:
        raise ProtocolViolation("values: a parameter contains NUL (0x00), which PostgreSQL's text cannot hold")
    return rendered


def numbered(statement: bytes) -> bytes:
    """The statement with $1, $2, ... in place of NULs."""
    first, *others = statement.split(b"\0")
    return first + b"".join([b"$%d%b" % (number, piece) for number, piece in enumerate(others, 1)])


def reference_type(oid: int, as_array: bool) -> int:
    """The type to declare for a parameter that is a cell of this type, or an array of such cells; 0 for none."""
    if oid in _TYPES:
        return _TYPES[oid][1] if as_array else oid
    if oid in _TEXTS:
        return _TEXT_ARRAY if as_array else 0
    return oid if oid in _ARRAYS and not as_array else 0


def array_reference(oid: int, text: bytes) -> tuple[int, bytes] | None:
    """The type to declare and the text for a cell that is an array; None if psycopg2 does not read it as a list.

    Arrays of types that may be declared keep their type and their bounds. Any other array becomes what a program would
    bind that read the cell with psycopg2: a list, which has no bounds. A list without a value is '{}' or '{NULL}',
    which gets the type that its place asks for.
    """
    if oid in _ARRAYS and oid not in _READ_AS_TEXTS:
        return oid, text
    if oid not in _READ_AS_TEXTS and oid != _OID_ARRAY:
        return None
    text = without_bounds(text)
    if _WITHOUT_VALUE.fullmatch(text):
        return 0, text
    if oid == _OID_ARRAY:
        return (_INT4_ARRAY if _common_type(parse_array(text), _INT8) == _INT4 else _INT8_ARRAY), text
    return _TEXT_ARRAY, text


def without_bounds(text: bytes) -> bytes:
    """The array's text without the bounds that PostgreSQL writes before it if its items do not count from 1."""
    bounds = _BOUNDS.match(text)
    return text[bounds.end() :] if bounds else text


_WITHOUT_VALUE = re.compile(rb"[{},]*(?:NULL[{},]+)*")


def array_text(cells: Sequence[bytes | None]) -> bytes:
    """The cells as an array of one dimension, in PostgreSQL's text."""
    return b"{" + b",".join([_array_item(cell) for cell in cells]) + b"}"


def parse_array(text: bytes) -> Array:
    """The items of an array in PostgreSQL's text; raises ProtocolViolation if it is malformed. Linear.

    Spaces between items, which PostgreSQL reads but never writes, are refused.
    """
    if text == b"{}":
        return []
    whole: Array = []
    nesting = [whole]  # whole, which gets the outermost array as its only item, and the arrays that are open
    at, expects_item = 0, True
    while (token := _ARRAY_TOKEN.match(text, at)) is not None:
        at = token.end()
        quoted, bare, mark = token.groups()
        if len(nesting) == 1 and (whole or mark != b"{"):
            raise _malformed()
        if not expects_item:
            if mark == b"}":
                nesting.pop()
            elif mark == b",":
                expects_item = True
            else:
                raise _malformed()
        elif mark is None:
            nesting[-1].append(_ESCAPED.sub(rb"\1", quoted) if bare is None else _null_or(bare))
            expects_item = False
        elif mark == b"{" and len(nesting) <= MAX_DIMENSIONS:
            nesting[-1].append([])
            nesting.append(nesting[-1][-1])
        else:
            raise _malformed()
    if at != len(text) or len(nesting) != 1 or not whole:
        raise _malformed()
    _dimensions(whole[0])
    return whole[0]  # type: ignore[no-any-return]  # an Array


# An item in quotes, an item without, or a mark. It is matched at the end of the last one, never searched for: after an
# opening quote without an end a search would begin again at each of the quotes behind it.
_ARRAY_TOKEN = re.compile(rb'"((?:[^"\\]++|\\(?:.|\Z))*+)"|([^\s"\\{},]++)|([{},])', re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_BARE_ITEM = re.compile(rb"[0-9A-Za-z_.:+-]+")


def _null_or(item: bytes) -> bytes | None:
    return None if item.upper() == b"NULL" else item


def _array_item(cell: bytes | None) -> bytes:
    if cell is None:
        return b"NULL"
    if _BARE_ITEM.fullmatch(cell) and _null_or(cell) is not None:
        return cell
    return b'"' + cell.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def _dimensions(array: Array) -> tuple[int, ...]:
    """How many items there are on each level, which must be the same in all arrays of a level."""
    inner = {_dimensions(item) if type(item) is list else () for item in array}
    if len(inner) != 1:
        raise _malformed()
    return len(array), *inner.pop()


def _malformed() -> ProtocolViolation:
    return ProtocolViolation('values: a malformed array; expected PostgreSQL\'s text, as {1,NULL} or {{"a b"},{"\\""}}')


def _quoted(text: bytes) -> bytes:
    return b"'" + text.replace(b"'", b"''") + b"'"


def _with_cast(name: bytes) -> Writer:
    end = b"'::" + name
    return lambda text: b"'" + text.replace(b"'", b"''") + end


def _bool(text: bytes) -> bytes:
    if text not in _BOOLS:
        raise ProtocolViolation("values: expected true or false for a parameter of type bool")
    return _BOOLS[text]


_BOOLS = {b"t": b"true", b"true": b"true", b"f": b"false", b"false": b"false"}
_INTEGER = re.compile(rb"-?(?:0|[1-9][0-9]*+)")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?")
_SPECIAL = (b"NaN", b"Infinity", b"-Infinity")


def _bare_type(text: bytes, declared: int) -> int:
    """The type that PostgreSQL finds for this number without quotes, 0 if it must have quotes.

    As in its make_const, for which the sign belongs to the number.
    """
    if _INTEGER.fullmatch(text):
        number = int(text) if len(text) <= 20 else 2**63
        return _INT4 if -(2**31) <= number < 2**31 else _INT8 if -(2**63) <= number < 2**63 else _NUMERIC
    if declared not in _INTEGERS:
        if _NUMBER.fullmatch(text):
            return _NUMERIC
        if text in _SPECIAL:
            return 0
    raise ProtocolViolation(f"values: expected a number for a parameter of type {_TYPES[declared][0].decode()}")


def _signed(text: bytes) -> bytes:
    # The space keeps two minus signs from becoming the beginning of a comment.
    return b" " + text if text.startswith(b"-") else text


def _number_writer(oid: int) -> Writer:
    with_cast = _with_cast(_TYPES[oid][0])
    return lambda text: _signed(text) if _bare_type(text, oid) == oid else with_cast(text)


def _array_writer(oid: int, name: bytes, write: Writer) -> Writer:
    """The writer for arrays with items of this type. name is the type's in casts, write the writer of its items."""
    with_cast = _with_cast(name + b"[]")

    def write_array(text: bytes) -> bytes:
        bounds = _BOUNDS.match(text)
        array = parse_array(text[bounds.end() :] if bounds else text)
        is_its_type = oid not in _NUMBERS or _common_type(array, oid) == oid
        literal = _array_literal(array, write) if is_its_type and not bounds else None
        return with_cast(text) if literal is None else literal

    return write_array


# The bounds that PostgreSQL writes before an array whose items do not count from 1.
_BOUNDS = re.compile(rb"(?:\[-?[0-9]{1,10}:-?[0-9]{1,10}\]){1,6}=")


def _common_type(array: Array, declared: int) -> int:
    """The type that PostgreSQL gives to these numbers in ARRAY[...]: the widest of theirs."""
    bare = {_bare_type(number, declared) or _NUMERIC for number in _leaves(array) if number is not None}
    return next((oid for oid in (_NUMERIC, _INT8, _INT4) if oid in bare), 0)


def _leaves(array: Array) -> Iterator[bytes | None]:
    for item in array:
        if type(item) is list:
            yield from _leaves(item)
        else:
            yield item


def _array_literal(array: Array, write: Writer) -> bytes | None:
    """ARRAY[...]; None if some array in it holds nothing but NULL, as PostgreSQL could not tell its type."""
    parts: list[bytes] = []
    for item in array:
        part = b"NULL" if item is None else _array_literal(item, write) if type(item) is list else write(item)
        if part is None:
            return None
        parts.append(part)
    return b"ARRAY[" + b",".join(parts) + b"]" if parts.count(b"NULL") < len(parts) else None


def _number_in_array(text: bytes) -> bytes:
    """A number whose pattern has been checked; NaN only if the array is numeric."""
    return _numeric_special(text) if text in _SPECIAL else _signed(text)


_numeric_special = _with_cast(b"numeric")


def _text_array(text: bytes) -> bytes:
    """A text[]. If all its items are in quotes, without the parser, which takes a hundred times as long."""
    # Escaped backslashes and quotes are replaced by NUL and a letter, as no text contains NUL. Then quotes are only
    # around items. A backslash that is left escapes another character: that is for the parser.
    plain = text.replace(b"\\\\", b"\0b").replace(b'\\"', b"\0q")
    items = plain[2:-2]
    rest = items.replace(b'","', b"")
    if b"\0" in text or plain != b'{"' + items + b'"}' or b'"' in rest or b"\\" in rest:
        return _any_text_array(text)
    items = items.replace(b"'", b"''").replace(b'","', b"','")
    return b"ARRAY['" + items.replace(b"\0q", b'"').replace(b"\0b", b"\\") + b"']"


_any_text_array = _array_writer(_TEXT, b"text", _quoted)


def _int4_array(text: bytes) -> bytes:
    """An int4[]. If it is one row of short integers, without the parser, which takes ten times as long."""
    items = text[1:-1]
    if text == b"{" + items + b"}" and all(map(_SHORT_INTEGER.fullmatch, items.split(b","))):
        return b"ARRAY[" + items.replace(b"-", b" -") + b"]"
    return _any_int4_array(text)


_SHORT_INTEGER = re.compile(rb"-?(?:0|[1-9][0-9]{0,8})")
_any_int4_array = _array_writer(_INT4, b"int4", _number_in_array)


def _writers() -> Iterator[tuple[int, Writer]]:
    """The writer of literals for each type. Values of any other type are written as literals of unknown type."""
    for oid, (name, array) in _TYPES.items():
        write = _bool if oid == _BOOL else _number_writer(oid) if oid in _NUMBERS else _with_cast(name)
        yield oid, write
        yield array, _array_writer(oid, name, _number_in_array if oid in _NUMBERS else write)
    yield _TYPES[_INT4][1], _int4_array
    yield _TEXT_ARRAY, _text_array


_WRITERS = {oid.to_bytes(4, "big"): write for oid, write in _writers()}
