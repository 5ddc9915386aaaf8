"""The messages that the broker sends to PostgreSQL, as bytes.

https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import struct

from poold.core.effects import Bind, Command, Deallocate, Flush, Plain, Prepare, SimpleQuery, Unit

SYNC = b"S\0\0\0\4"
# Execute of the unnamed portal, without a limit of rows.
_EXECUTE = b"E\0\0\0\x09\0\0\0\0\0"
# The end of Bind, all results as text, and Execute.
_RESULTS_EXECUTE = b"\0\0" + _EXECUTE
_COPY_FAIL = b"f\0\0\0\x09COPY\0"
_FLUSH = b"H\0\0\0\4"
_BIND_NOTHING = b"B\0\0\0\x0c\0\0\0\0\0\0\0\0"
_DESCRIBE_PORTAL = b"D\0\0\0\6P\0"
_head_of_bind = struct.Struct("!cI").pack
_parameters = struct.Struct("!HH").pack  # formats that follow (none: all are text), and how many parameters


def query(sql: bytes) -> bytes:
    """Return a simple query."""
    return _message(b"Q", sql + b"\0")


def bind_head(name: bytes, count: int) -> bytes:
    """What Bind has before the values: the unnamed portal, the statement, and how many parameters it has, as text."""
    return b"\0%b\0%b" % (name, _parameters(0, count))


def bind(head: bytes, values: bytes) -> bytes:
    """Bind and Execute of a prepared statement. The hot path."""
    return _head_of_bind(b"B", 6 + len(head) + len(values)) + head + values + _RESULTS_EXECUTE


def encoded(command: Command, prefix: bytes) -> bytes:
    """A command of the extended protocol, but for Bind; prefix goes before names."""
    match command:
        case Flush():
            return _FLUSH
        case Plain(sql):
            return _parse(b"", sql, b"") + _BIND_NOTHING + _DESCRIBE_PORTAL + _EXECUTE
        case Prepare(name, sql, types):
            return _parse(prefix + name, sql, types) + _message(b"D", b"S" + prefix + name + b"\0")
        case Deallocate(name):
            return _message(b"C", b"S" + prefix + name + b"\0")
        case Bind() | SimpleQuery():
            raise AssertionError(f"{command!r} is not written here")


def no_data(unit: Unit) -> bytes:
    """Return the answer to COPY FROM STDIN in this unit: there is no data.

    In the extended protocol the server waits for another Sync, whose ReadyForQuery is the unit's.
    """
    return _COPY_FAIL if type(unit[0]) is SimpleQuery else _COPY_FAIL + SYNC


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def _parse(name: bytes, sql: bytes, types: bytes) -> bytes:
    return _message(b"P", b"%b\0%b\0%b%b" % (name, sql, (len(types) // 4).to_bytes(2, "big"), types))
