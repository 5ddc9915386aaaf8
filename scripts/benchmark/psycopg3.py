"""The contestants that use psycopg 3: by itself, and with its pool."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import psycopg
import psycopg_pool

from benchmark.contestants import LAST_REQUEST, Params, Session, Step


@dataclass(frozen=True)
class Psycopg3:
    """By psycopg 3, to PostgreSQL itself or to a pooler that speaks its protocol.

    By itself it prepares a statement on the server once it has been used a few times (prepare_threshold). Behind a
    pooler that gives each transaction another backend, and knows nothing of prepared statements, it must not.
    https://www.psycopg.org/psycopg3/docs/advanced/prepare.html
    """

    name: str
    dsn: str
    prepares: bool

    def connect(self) -> Session:
        return Psycopg3Session(self.dsn, self.prepares)

    def hold(self, count: int) -> Any:
        sessions = [Psycopg3Session(self.dsn, self.prepares) for _ in range(count)]
        for session in sessions:
            session.one(*LAST_REQUEST)
        return sessions


class Psycopg3Session:
    """One connection: a workload uses one of the two."""

    def __init__(self, dsn: str, prepares: bool) -> None:
        self._dsn = dsn
        self._options: dict[str, Any] = {} if prepares else {"prepare_threshold": None}

    def one(self, statement: str, params: Params = None) -> Any:
        with self._autocommit.cursor() as cursor:
            return cursor.execute(statement, params).fetchone()

    def all(self, statement: str, params: Params = None) -> Any:
        with self._autocommit.cursor() as cursor:
            return cursor.execute(statement, params).fetchall()

    def transaction(self, steps: Sequence[Step]) -> list[Any]:
        rows = _run(self._transactional, steps)
        self._transactional.commit()
        return rows

    @cached_property
    def _autocommit(self) -> Any:
        return psycopg.connect(self._dsn, autocommit=True, **self._options)

    @cached_property
    def _transactional(self) -> Any:
        return psycopg.connect(self._dsn, **self._options)


@dataclass(frozen=True)
class PsycopgPool:
    """By psycopg 3's pool on PostgreSQL itself.

    It is a pool inside one process, and a worker process does one thing at a time: so each worker has a pool of one
    connection, and gets it from there for each request.
    """

    name: str
    dsn: str

    def connect(self) -> Session:
        return PsycopgPoolSession(self.dsn)

    def hold(self, count: int) -> Any:
        """Without the pools: an idle one does nothing, and each would have threads of its own."""
        return Psycopg3(self.name, self.dsn, prepares=True).hold(count)


class PsycopgPoolSession:
    """One pool of one connection: a workload uses one of the two."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def one(self, statement: str, params: Params = None) -> Any:
        with self._autocommit.connection() as connection, connection.cursor() as cursor:
            return cursor.execute(statement, params).fetchone()

    def all(self, statement: str, params: Params = None) -> Any:
        with self._autocommit.connection() as connection, connection.cursor() as cursor:
            return cursor.execute(statement, params).fetchall()

    def transaction(self, steps: Sequence[Step]) -> list[Any]:
        with self._transactional.connection() as connection:  # commits at the end of the block
            return _run(connection, steps)

    @cached_property
    def _autocommit(self) -> Any:
        return self._pool(autocommit=True)

    @cached_property
    def _transactional(self) -> Any:
        return self._pool(autocommit=False)

    def _pool(self, autocommit: bool) -> Any:
        pool = psycopg_pool.ConnectionPool(
            self._dsn, kwargs={"autocommit": autocommit}, min_size=1, max_size=1, num_workers=1, open=False
        )
        pool.open(wait=True)
        return pool


def _run(connection: Any, steps: Sequence[Step]) -> list[Any]:
    rows = []
    with connection.cursor() as cursor:
        for statement, params, has_row in steps:
            cursor.execute(statement, params)
            if has_row:
                rows.append(cursor.fetchone())
    return rows
