"""Values on their way to PostgreSQL, and the connection to nowhere that psycopg2 needs for them.

psycopg2 binds parameters as literals through its adapters and reads cells through its type casters; programs register
their own of both. Both need a connection: for the encoding, the way of quoting, and the time zone's class. A worker
has none, so this module makes a connection to nowhere: libpq completes its handshake with a few bytes written by this
very process. From then on libpq knows what it needs for quoting (UTF-8, standard_conforming_strings) and never receives
anything more. The broker keeps every backend at these same settings, else no literal would be safe.

Without a connection QuotedString doubles backslashes by the rules of 2005, and a caster given None for its cursor reads
stray memory. This connection does no I/O, so it may be inherited over fork and shared by threads. (The connections that
`client.values.casting` makes keep their server side open and may not.)

It is made by psycopg2's own class: tracing agents replace `psycopg2.connect` by something whose connections and cursors
are proxies, and C code that is given a proxy reads memory that belongs to something else.
"""

import _socket
import contextlib
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any
from uuid import UUID

import psycopg2.extras
from psycopg2 import _psycopg, extensions, sql

from client.interruptions import imported_whole, is_own

# psycopg2 knows uuid.UUID only if a program registered it; here it is a parameter like any other.
extensions.register_adapter(UUID, psycopg2.extras.UUID_adapter)

_cursor: Any = None


def render(statement: Any, params: Sequence[Any] | Mapping[str, Any] | None) -> bytes:
    """Return the statement with its parameters in place, as psycopg2 would send it.

    statement is str, bytes or a psycopg2.sql object. As in psycopg2, '%' is special only when params is not None.
    Raises what psycopg2 raises for parameters that do not fit (TypeError, IndexError, KeyError, ProgrammingError), and
    ValueError for text that no statement can hold: NUL, or a lone surrogate.
    """
    rendered: bytes = _nowhere().mogrify(statement, params)
    if b"\0" in rendered:
        raise ValueError("the statement contains NUL (0x00), which PostgreSQL's text cannot hold; take it out")
    return rendered


def plain(statement: Any) -> Any:
    """Return the text of a psycopg2.sql object; anything else as it is."""
    return statement.as_string(_nowhere()) if isinstance(statement, sql.Composable) else statement


def _nowhere() -> Any:
    """Return the cursor of the connection to nowhere, made at first use (0.4 ms)."""
    global _cursor  # made once per process; a race of two threads makes two, and either serves
    if _cursor is None:
        connection, server = connect_to_nowhere()
        server.close()
        _cursor = connection.cursor()
    return _cursor


class ServerSocket(_socket.socket):
    """The server's side of a connection to nowhere. Nothing ever waits for it, so it needs no socket of gevent's."""

    # In C, so no signal handler's exception can arise in it, where it would be lost.
    __del__ = _socket.socket.close


# From this version on libpq connects to names that begin with @, which are in no folder.
_KNOWS_ABSTRACT = 140000
# Settings that libpq would otherwise take from the environment; there they might make it connect elsewhere, or expect
# more of its server than is played here.
_SETTINGS: dict[str, Any] = {
    "port": 1,
    "user": "nobody",
    "dbname": "nowhere",
    "client_encoding": "UTF8",
    "options": "",
    "hostaddr": "",
    "requirepeer": "",
    "target_session_attrs": "any",
    "sslmode": "disable",
    "gssencmode": "disable",
    **({"channel_binding": "disable"} if extensions.libpq_version() >= 130000 else {}),
    **({"require_auth": ""} if extensions.libpq_version() >= 160000 else {}),
    **({"sslnegotiation": "postgres"} if extensions.libpq_version() >= 170000 else {}),
}


def _plain(dsn: str) -> Any:
    # Not psycopg2.connect, see above.
    return _psycopg.connection(dsn, async_=1)


def connect_to_nowhere(make: Callable[[str], Any] = _plain) -> tuple[Any, ServerSocket]:
    """Return an asynchronous psycopg2 connection, ready for queries, and its server side, which the caller plays.

    make begins to connect and returns the connection. The messages are PostgreSQL's: https://www.postgresql.org/docs/current/protocol-message-formats.html
    """
    connection, server = _met_without_a_folder(make) or _met_in_a_folder(make)
    poll = _psycopg.connection.poll  # a subclass may have another one
    try:
        while poll(connection) == extensions.POLL_WRITE:
            pass  # libpq sends its startup packet, which a local socket takes at once
        (length,) = struct.unpack("!I", server.recv(4, _socket.MSG_WAITALL))
        server.recv(length - 4, _socket.MSG_WAITALL)
        server.sendall(_welcome())
        while (state := poll(connection)) != extensions.POLL_OK:
            if state != extensions.POLL_READ:
                raise RuntimeError(f"libpq did not finish its handshake with nowhere: poll() says {state}")
    except BaseException:
        server.close()
        raise
    return connection, server


def _met_without_a_folder(make: Callable[[str], Any]) -> tuple[Any, ServerSocket] | None:
    """Make both sides of a connection by a name that is in no folder; None if the system or libpq has no such names.

    A program may have no folder in which it can write. Everybody on the machine may connect to such a name, or occupy
    it, so it is checked who has connected, and if that was another process the next name is tried.
    """
    if extensions.libpq_version() < _KNOWS_ABSTRACT or not _PEER:
        return None
    for _ in range(3):
        name = f"poold-{os.getpid()}-{os.urandom(16).hex()}"
        with contextlib.closing(ServerSocket(_socket.AF_UNIX)) as listener:
            try:
                listener.bind(f"\0{name}/.s.PGSQL.1".encode())
            except OSError as error:
                if not is_own(error):
                    raise
                continue
            connection, server = _met(f"@{name}", listener, make)
            (pid,) = struct.unpack_from("i", server.getsockopt(_socket.SOL_SOCKET, _PEER, 12)) if server else (0,)
            if server is not None and pid == os.getpid():
                return connection, server
    return None


def _met_in_a_folder(make: Callable[[str], Any]) -> tuple[Any, ServerSocket]:
    """Make both sides of a connection by a name in a folder that nobody else may enter."""
    folder = imported_whole("tempfile").TemporaryDirectory(prefix="poold-")
    with folder as host, contextlib.closing(ServerSocket(_socket.AF_UNIX)) as listener:
        listener.bind(f"{host}/.s.PGSQL.1")
        connection, server = _met(host, listener, make)
        if server is None:
            raise RuntimeError(f"libpq did not connect to nowhere, in {host}")
        return connection, server


def _met(host: str, listener: ServerSocket, make: Callable[[str], Any]) -> tuple[Any, ServerSocket | None]:
    """Return libpq's side of a connection to the listener, and the server side of the first one that came, if any."""
    listener.listen(1)
    # libpq connects at once, or not at all if others were faster.
    connection = make(f"{extensions.make_dsn(host=host)} {_settings()}")
    listener.setblocking(False)
    try:
        server = ServerSocket(fileno=listener._accept()[0])  # type: ignore[attr-defined]  # what socket.accept calls
    except BlockingIOError as error:
        if not is_own(error):
            raise
        return connection, None
    server.setblocking(True)
    return connection, server


# The option by which Linux, which alone has names in no folder, tells who is at the other end (man 7 unix).
_PEER: int = getattr(_socket, "SO_PEERCRED", 0)


@cache
def _settings() -> str:
    """Return _SETTINGS as libpq takes them, made once: it costs a tenth of a millisecond."""
    return str(extensions.make_dsn(**_SETTINGS))


@cache
def _welcome() -> bytes:
    """Return AuthenticationOk, the ParameterStatus messages that matter, BackendKeyData and ReadyForQuery."""
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
    """Return a message of PostgreSQL's protocol."""
    return kind + struct.pack("!I", len(body) + 4) + body
