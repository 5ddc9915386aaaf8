"""The ways to the database that a worker may take, behind one interface.

A contestant is made in the owner and pickled into each worker, so it holds names and addresses; its session holds the
connections. Each does what a program would: one connection per worker, a new cursor or result for each statement, and
the row that was asked for is read.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import psycopg2

from benchmark.broker import STATEMENTS, TRANSACTIONS
from benchmark.tables import SELECT, TPCB
from client import Handler


class Session(Protocol):
    """A worker's way to the database. What a workload does not use is never opened."""

    def select(self, aid: int) -> None:
        """Read the balance of an account: one statement by itself."""

    def tpcb(self, transfer: dict[str, int]) -> None:
        """The statements of tables.TPCB in one transaction, committed on return."""


class Contestant(Protocol):
    """Something that a session can be had from."""

    @property
    def name(self) -> str:
        """As shown in the report."""

    def connect(self) -> Session:
        """Open a session; called in the worker."""


@dataclass(frozen=True)
class Poold:
    """Through a broker, with the groups of `benchmark.broker`."""

    name: str
    address: str

    def connect(self) -> Session:
        return PooldSession(self.address)


class PooldSession:
    """Handlers of one worker: they share its channel to the broker."""

    def __init__(self, address: str) -> None:
        self._statements = Handler(STATEMENTS, address=address)
        self._transactions = Handler(TRANSACTIONS, address=address)

    def select(self, aid: int) -> None:
        self._statements.query(SELECT, (aid,)).fetchone()

    def tpcb(self, transfer: dict[str, int]) -> None:
        with self._transactions as db:
            for statement in TPCB:
                result = db.query(statement, transfer)
                if result.columns is not None:
                    result.fetchone()


@dataclass(frozen=True)
class Psycopg2:
    """By psycopg2, to PostgreSQL itself or to a pooler that speaks its protocol."""

    name: str
    dsn: str

    def connect(self) -> Session:
        return Psycopg2Session(self.dsn)


class Psycopg2Session:
    """One connection: the workload uses one of the two."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def select(self, aid: int) -> None:
        with self._autocommit.cursor() as cursor:
            cursor.execute(SELECT, (aid,))
            cursor.fetchone()

    def tpcb(self, transfer: dict[str, int]) -> None:
        with self._transactional.cursor() as cursor:
            for statement in TPCB:
                cursor.execute(statement, transfer)
                if cursor.description is not None:
                    cursor.fetchone()
        self._transactional.commit()

    @cached_property
    def _autocommit(self) -> Any:
        connection = psycopg2.connect(self._dsn)
        connection.autocommit = True
        return connection

    @cached_property
    def _transactional(self) -> Any:
        return psycopg2.connect(self._dsn)
