"""psycopg2.extensions: psycopg2's own, but for the classes of connections, cursors and transaction identifiers."""

from __future__ import annotations

from typing import Any

from psycopg2 import extensions

from client.dbapi.connection import Connection
from client.dbapi.cursor import Cursor
from client.dbapi.info import ConnectionInfo
from client.dbapi.xid import Xid

__all__ = ["ConnectionInfo", "Xid", "connection", "cursor"]

connection: Any = Connection
cursor: Any = Cursor


def encrypt_password(password: str, user: str, scope: Any = None, algorithm: str | None = None) -> str:
    """Encrypt a password as ALTER ROLE takes it; algorithm None is the one of the connection's server."""
    if isinstance(scope, Cursor):
        scope = scope.connection
    if isinstance(scope, Connection) and algorithm is None:
        algorithm = scope.ask("SHOW password_encryption")[0][0]
    return extensions.encrypt_password(password, user, scope, algorithm)


def __getattr__(name: str) -> Any:
    return getattr(extensions, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(extensions)})
