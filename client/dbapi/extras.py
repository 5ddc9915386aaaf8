"""psycopg2.extras: psycopg2's own functions, and its connections and cursors made of the ones of this package.

psycopg2's classes may be given to connect() and cursor() as well; these are the same ones for programs that derive
classes of their own.
"""

from __future__ import annotations

from typing import Any, NoReturn

from psycopg2 import extras

from client.dbapi.connection import Connection
from client.dbapi.cursor import Cursor
from client.dbapi.factories import with_ours

DictCursor: Any = with_ours(extras.DictCursor, Cursor)
RealDictCursor: Any = with_ours(extras.RealDictCursor, Cursor)
NamedTupleCursor: Any = with_ours(extras.NamedTupleCursor, Cursor)
LoggingCursor: Any = with_ours(extras.LoggingCursor, Cursor)
MinTimeLoggingCursor: Any = with_ours(extras.MinTimeLoggingCursor, Cursor)
DictConnection: Any = with_ours(extras.DictConnection, Connection)
RealDictConnection: Any = with_ours(extras.RealDictConnection, Connection)
NamedTupleConnection: Any = with_ours(extras.NamedTupleConnection, Connection)
LoggingConnection: Any = with_ours(extras.LoggingConnection, Connection)
MinTimeLoggingConnection: Any = with_ours(extras.MinTimeLoggingConnection, Connection)


def wait_select(conn: Any) -> NoReturn:
    """Refuse: there are no asynchronous connections to wait for."""
    conn.poll()
    raise AssertionError("poll() refuses")


def __getattr__(name: str) -> Any:
    return getattr(extras, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(extras)})
