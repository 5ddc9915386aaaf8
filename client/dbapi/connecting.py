"""How programs get a connection."""

from __future__ import annotations

from typing import Any

from client.dbapi.addresses import refuse_servers
from client.dbapi.connection import Connection
from client.dbapi.factories import checked_factory, with_ours
from client.handler import DEFAULT_GROUP


def connect(
    address: str | None = None,
    connection_factory: Any = None,
    cursor_factory: Any = None,
    *,
    group: str = DEFAULT_GROUP,
    **options: Any,
) -> Any:
    """Connect to a group of the broker's and return a connection as psycopg2's.

    address is the broker's, None for the default one. autocommit=True begins without transactions. session=True keeps
    one backend for the connection's life, for what outlives transactions: SET, temporary tables, advisory locks.
    tag, priority, prepare, settings, read_only, after, server_key, key, connect_wait, code_place and trace are
    `client.handler.Handler`'s.
    connection_factory and cursor_factory are classes of connections and cursors, as psycopg2's.

    Raises DBConnectionError, a psycopg2.OperationalError, if no broker is there. Whether PostgreSQL is there is seen by
    the first statement.
    """
    refuse_servers(address, options)
    checked_factory("cursor_factory", cursor_factory)
    factory = checked_factory("connection_factory", connection_factory)
    made = with_ours(factory or Connection, Connection)(address, group=group, **options)
    if not isinstance(made, Connection):
        raise TypeError(f"connection_factory must make a client.dbapi.extensions.connection, got {made!r}")
    if cursor_factory is not None:
        made.cursor_factory = cursor_factory
    if not made.closed:  # as a class is whose __init__ calls no other
        made.check_group()
    return made
