"""Values on their way to PostgreSQL, and the connection to nowhere that psycopg2 wants for them.

psycopg2 binds parameters as literals through its adapters and reads cells through its type casters; programs register
their own of both. Both want a connection: for the encoding, for the way of quoting, for the time zone's class. A worker
has none, so this module makes a connection to nowhere: libpq completes its handshake with a few bytes written by this
very process, after which it knows what it needs for quoting (UTF-8, standard_conforming_strings) and never hears
anything again. The broker keeps every backend at these same settings, else no literal would be safe.

Without it QuotedString doubles backslashes by the rules of 2005, and a caster given None for its cursor reads stray
memory. The connection does no I/O, so it may be inherited over fork and shared by threads. (`client.datarows` makes
others, whose server side stays open; those may not.)
"""

import socket
import struct
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import psycopg2
import psycopg2.extras
from psycopg2 import extensions

# psycopg2 knows uuid.UUID only where a program registered it; here it is a parameter like any other.
extensions.register_adapter(UUID, psycopg2.extras.UUID_adapter)

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


def _nowhere() -> Any:
    """The cursor of the connection to nowhere, made at first use (0.4 ms)."""
    global _cursor  # made once per process; a race of two threads makes two, and either serves
    if _cursor is None:
        connection, server = connect_to_nowhere()
        server.close()
        _cursor = connection.cursor()
    return _cursor


def connect_to_nowhere() -> tuple[Any, socket.socket]:
    """An asynchronous libpq connection, ready for queries, and its server side, which is the caller's to play.

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
        server, _ = listener.accept()
        try:
            while connection.poll() == extensions.POLL_WRITE:
                pass  # libpq sends its startup packet, which a local socket takes at once
            (length,) = struct.unpack("!I", server.recv(4, socket.MSG_WAITALL))
            server.recv(length - 4, socket.MSG_WAITALL)
            server.sendall(_welcome())
            while (state := connection.poll()) != extensions.POLL_OK:
                if state != extensions.POLL_READ:
                    raise RuntimeError(f"libpq did not finish its handshake with nowhere: poll() says {state}")
        except BaseException:
            server.close()
            raise
    return connection, server


def _welcome() -> bytes:
    """AuthenticationOk, the ParameterStatus messages that matter for quoting, BackendKeyData, ReadyForQuery."""
    settings = {
        "client_encoding": "UTF8",
        "standard_conforming_strings": "on",
        "DateStyle": "ISO, MDY",
        "integer_datetimes": "on",
        "server_version": "15.0",
    }
    messages = [message(b"R", struct.pack("!I", 0))]
    messages += [message(b"S", f"{name}\0{value}\0".encode()) for name, value in settings.items()]
    messages += [message(b"K", struct.pack("!II", 1, 1)), message(b"Z", b"I")]
    return b"".join(messages)


def message(kind: bytes, body: bytes) -> bytes:
    """A message of PostgreSQL's protocol."""
    return kind + struct.pack("!I", len(body) + 4) + body
