"""psycopg2.pool for connections of this package.

The connections hold no backend between transactions, so a pool of them saves next to nothing; it is here for programs
that were written with one.
"""

from __future__ import annotations

from typing import Any

from psycopg2 import pool
from psycopg2.pool import PoolError

from client.dbapi.connecting import connect

__all__ = ["AbstractConnectionPool", "PoolError", "SimpleConnectionPool", "ThreadedConnectionPool"]


class AbstractConnectionPool(pool.AbstractConnectionPool):
    """What both pools are."""

    def _connect(self, key: Any = None) -> Any:
        """Make another connection, for key if it is given, else for whoever comes next."""
        own: Any = self
        made = connect(*own._args, **own._kwargs)
        if key is None:
            own._pool.append(made)
        else:
            own._used[key] = made
            own._rused[id(made)] = key
        return made


class SimpleConnectionPool(AbstractConnectionPool, pool.SimpleConnectionPool):
    """A pool for one thread."""


class ThreadedConnectionPool(AbstractConnectionPool, pool.ThreadedConnectionPool):
    """A pool for several threads."""
