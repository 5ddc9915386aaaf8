"""The contestant pgdbpool, https://pypi.org/project/pgdbpool: a pool inside each worker process.

It asks the server whether the connection is alive before each statement, which is a round trip more.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pgdbpool.pool import Connection, Handler  # the package itself exports nothing
from psycopg2.extensions import parse_dsn

from benchmark.contestants import Params, Psycopg2, Session, Step

GROUP = "bench"


@dataclass(frozen=True)
class PgDbPool:
    """By pgdbpool on PostgreSQL itself. A worker process does one thing at a time: one connection, no locks."""

    name: str
    dsn: str

    def connect(self) -> Session:
        return PgDbPoolSession(self.dsn)

    def hold(self, count: int) -> Any:
        """Without the pool, of which a process can have one: its idle connections are psycopg2's."""
        return Psycopg2(self.name, self.dsn).hold(count)


class PgDbPoolSession:
    """One connection: a workload uses one of the two groups."""

    def __init__(self, dsn: str) -> None:
        self._parts = parse_dsn(dsn)

    def one(self, statement: str, params: Params = None) -> Any:
        with Handler(self._autocommit) as db:
            return db.query(statement, params).fetchone()

    def all(self, statement: str, params: Params = None) -> Any:
        with Handler(self._autocommit) as db:
            return db.query(statement, params).fetchall()

    def transaction(self, steps: Sequence[Step]) -> list[Any]:
        rows = []
        with Handler(self._transactional) as db:
            for statement, params, has_row in steps:
                cursor = db.query(statement, params)
                if has_row:
                    rows.append(cursor.fetchone())
            db.commit()
        return rows

    @cached_property
    def _autocommit(self) -> str:
        return self._group(autocommit=True)

    @cached_property
    def _transactional(self) -> str:
        return self._group(autocommit=False)

    def _group(self, autocommit: bool) -> str:
        """Connect; returns the group's name. There is one configuration per process."""
        # It has no setting for the port, but libpq looks here.
        os.environ["PGPORT"] = self._parts["port"]
        database = {
            "host": self._parts["host"],
            "name": self._parts["dbname"],
            "user": self._parts["user"],
            "pass": "",
            "query_timeout": 60_000,
        }
        group = {"connection_count": 1, "autocommit": autocommit}
        Connection.init({"type": "non-threaded", "db": database, "groups": {GROUP: group}})
        return GROUP
