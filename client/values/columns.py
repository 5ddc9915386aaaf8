"""RowDescription, PostgreSQL's message about a result's columns: whether it is one, their names and types.

https://www.postgresql.org/docs/current/protocol-message-formats.html#PROTOCOL-MESSAGE-FORMATS-ROWDESCRIPTION
"""

import re
import struct

# What follows a column's name: OID of its table, its number there, OID of its type, typlen, typmod, format.
_FIELD = struct.Struct("!IhIhih")
_COLUMN = re.compile(rb"[^\0]*+\0.{18}", re.DOTALL)
_COLUMNS = re.compile(rb"..(?:[^\0]*+\0.{18})*+", re.DOTALL)


def are_columns(body: bytes) -> bool:
    """Whether it is the body of a RowDescription: as many columns as it says, and nothing else."""
    return bool(_COLUMNS.fullmatch(body)) and len(_COLUMN.findall(body, 2)) == int.from_bytes(body[:2], "big")


def names_and_types(body: bytes) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the columns' names and the OIDs of their types; are_columns must be true of the body."""
    found = [match[0] for match in _COLUMN.finditer(body, 2)]
    oids = [_FIELD.unpack_from(column, len(column) - _FIELD.size)[2] for column in found]
    return tuple(column[: -_FIELD.size - 1].decode() for column in found), tuple(oids)


def unnamed_column(oid: int) -> bytes:
    """Return the body of a RowDescription of one column of this type, in text format."""
    return b"\0\1\0" + _FIELD.pack(0, 0, oid, -1, -1, 0)
