"""Values on their way to PostgreSQL and back, exactly as psycopg2 converts them.

psycopg2 binds parameters as literals through its adapters and reads cells through its type casters; programs register
their own of both. Both want a connection: for the encoding, for the way of quoting, for the time zone's class. A worker
has none, so this module makes a connection to nowhere: libpq completes its handshake with a few bytes written by this
very process, after which it knows what it needs for quoting (UTF-8, standard_conforming_strings) and never hears
anything again. The broker keeps every backend at these same settings, else no literal would be safe.

Without it QuotedString doubles backslashes by the rules of 2005, and a caster given None for its cursor reads stray
memory. The connection does no I/O, so it may be inherited over fork and shared by threads.
"""

import socket
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import psycopg2
import psycopg2.extras
from psycopg2 import extensions

Caster = Callable[[bytes | None, Any], Any]

# psycopg2 knows uuid.UUID only where a program registered it; here it is a parameter like any other.
extensions.register_adapter(UUID, psycopg2.extras.UUID_adapter)

# Types whose values may lie outside Python's calendar: date, time, timestamp, timestamptz, interval, timetz; arrays.
_CALENDAR = frozenset((1082, 1083, 1114, 1184, 1186, 1266, 1115, 1182, 1183, 1185, 1187, 1270))

_cursor: Any = None


def render(statement: Any, params: Sequence[Any] | Mapping[str, Any] | None) -> bytes:
    """The statement with its parameters in place, as psycopg2 would send it.

    statement is str, bytes or a psycopg2.sql object. As in psycopg2, '%' is special only when params is not None.
    Raises what psycopg2 raises for parameters that do not fit (TypeError, IndexError, KeyError, ProgrammingError), and
    ValueError for what no statement can hold: NUL, or a lone surrogate.
    """
    rendered: bytes = _nowhere().mogrify(statement, params)
    if b"\0" in rendered:
        raise ValueError("the statement contains NUL (0x00), which PostgreSQL's text cannot hold; take it out")
    return rendered


def casters(oids: Sequence[int]) -> list[Caster]:
    """For each type OID the caster that psycopg2 would use now, programs' registrations included."""
    known = extensions.string_types
    return [
        known.get(oid, extensions.UNICODE) if oid not in _CALENDAR else _calendar_caster(known[oid]) for oid in oids
    ]


def cast_row(row_casters: Sequence[Caster], cells: Sequence[bytes | None]) -> list[Any]:
    """The Python values of one row's cells."""
    cursor = _cursor or _nowhere()
    return [cast(cell, cursor) for cast, cell in zip(row_casters, cells, strict=True)]


def _calendar_caster(theirs: Caster) -> Caster:
    """Their caster, and PostgreSQL's text for what Python's calendar cannot hold (years before 1 and after 9999)."""

    def cast(cell: bytes | None, cursor: Any) -> Any:
        try:
            return theirs(cell, cursor)
        except (ValueError, OverflowError, psycopg2.DataError):
            return cell.decode() if cell is not None else None

    return cast


def _nowhere() -> Any:
    """The cursor of the connection to nowhere, made at first use (0.4 ms)."""
    global _cursor  # made once per process; a race of two threads makes two, and either serves
    if _cursor is None:
        _cursor = _connect_to_nowhere().cursor()
    return _cursor


def _connect_to_nowhere() -> Any:
    """A libpq connection whose server side is written here and closed again.

    The messages are PostgreSQL's: https://www.postgresql.org/docs/current/protocol-message-formats.html
    """
    with tempfile.TemporaryDirectory(prefix="poold-") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/.s.PGSQL.1")
        listener.listen(1)
        connection = psycopg2.connect(
            host=folder,
            port=1,
            user="nobody",
            dbname="nowhere",
            client_encoding="UTF8",
            sslmode="disable",
            gssencmode="disable",
            async_=1,
        )
        peer, _ = listener.accept()
        with peer:
            while connection.poll() == extensions.POLL_WRITE:
                pass  # libpq sends its startup packet, which a local socket takes at once
            (length,) = struct.unpack("!I", peer.recv(4, socket.MSG_WAITALL))
            peer.recv(length - 4, socket.MSG_WAITALL)
            peer.sendall(_welcome())
            while (state := connection.poll()) != extensions.POLL_OK:
                if state != extensions.POLL_READ:
                    raise RuntimeError(f"libpq did not finish its handshake with nowhere: poll() says {state}")
        return connection


def _welcome() -> bytes:
    """AuthenticationOk, the ParameterStatus messages that matter for quoting, BackendKeyData, ReadyForQuery."""
    settings = {
        "client_encoding": "UTF8",
        "standard_conforming_strings": "on",
        "DateStyle": "ISO, MDY",
        "integer_datetimes": "on",
        "server_version": "15.0",
    }
    messages = [_message(b"R", struct.pack("!I", 0))]
    messages += [_message(b"S", f"{name}\0{value}\0".encode()) for name, value in settings.items()]
    messages += [_message(b"K", struct.pack("!II", 1, 1)), _message(b"Z", b"I")]
    return b"".join(messages)


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body
