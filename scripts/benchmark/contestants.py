"""The ways to the database that a worker may take, behind one interface; here those that need psycopg2 only.

A contestant is made in the owner and pickled into each worker, so it holds names and addresses; its session holds the
connections. Each does what a program would: one connection per worker, a new cursor or result for each statement, and
the rows that were asked for are read.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import psycopg2

from benchmark.broker import STATEMENTS, TRANSACTIONS
from benchmark.tables import SELECT
from client import Handler

if TYPE_CHECKING:
    from benchmark.orm import Objects  # SQLAlchemy is imported by those who use it: it takes a second

Params = Sequence[Any] | Mapping[str, Any] | None
# What an idle session has done before: the backend that it may have for itself has its caches then.
LAST_REQUEST = (SELECT, (1,))


class Step(NamedTuple):
    """One statement of a transaction."""

    statement: str
    params: Params
    has_row: bool  # it returns a row, which is read


class Session(Protocol):
    """A worker's way to the database. What a workload does not use is never opened."""

    def one(self, statement: str, params: Params = None) -> Any:
        """Run a statement by itself and read its row."""

    def all(self, statement: str, params: Params = None) -> Any:
        """Run a statement by itself and read its rows."""

    def transaction(self, steps: Sequence[Step]) -> list[Any]:
        """Run the steps in one transaction, committed on return; returns the rows of those that have one."""


class MappingSession(Session, Protocol):
    """A way that SQLAlchemy can take as well."""

    @property
    def objects(self) -> "Objects":
        """The ORM's, on an engine of the worker's."""


class Contestant(Protocol):
    """Something that a session can be had from."""

    @property
    def name(self) -> str:
        """As shown in the report."""

    def connect(self) -> Session:
        """Open a session; called in the worker."""

    def hold(self, count: int) -> Any:
        """Open idle sessions, or what is the same to everybody else; they last as long as what is returned."""


@dataclass(frozen=True)
class Poold:
    """Through a broker, with the groups of `benchmark.broker`; a transaction is one message."""

    name: str
    address: str

    def connect(self) -> Session:
        return PooldSession(self.address)

    def hold(self, count: int) -> Any:
        """Each idle session is a channel to the broker, and a channel belongs to a thread."""
        return [IdleThread(self.address) for _ in range(count)]


class PooldSession:
    """One Handler."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._db = Handler(STATEMENTS, address=address)

    def one(self, statement: str, params: Params = None) -> Any:
        return self._db.query(statement, params).fetchone()

    def all(self, statement: str, params: Params = None) -> Any:
        return self._db.query(statement, params).fetchall()

    def transaction(self, steps: Sequence[Step]) -> list[Any]:
        with self._db.transaction() as tx:
            results = [tx.query(statement, params) for statement, params, _ in steps]
        return [result.fetchone() for result, step in zip(results, steps, strict=True) if step.has_row]

    @cached_property
    def objects(self) -> "Objects":
        from benchmark.orm import Objects, through_poold

        return Objects(through_poold(self._address, STATEMENTS))


class IdleThread:
    """A thread that has asked the broker once and waits for its process's end."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._error: Exception | None = None
        self._has_asked = threading.Event()
        threading.Thread(target=self._live, daemon=True).start()
        self._has_asked.wait()
        if self._error is not None:
            raise self._error

    def _live(self) -> None:
        try:
            db = Handler(STATEMENTS, address=self._address)
            db.query(*LAST_REQUEST).fetchone()
        except Exception as error:  # noqa: BLE001 - raised by the thread that waits for it
            self._error = error
            return
        finally:
            self._has_asked.set()
        threading.Event().wait()


@dataclass(frozen=True)
class PooldInteractive(Poold):
    """Through the broker as well, with a lease for each transaction: a message for each statement of it."""

    def connect(self) -> Session:
        return PooldInteractiveSession(self.address)


class PooldInteractiveSession(PooldSession):
    """One Handler for each group: they share the worker's channel to the broker."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._leasing = Handler(TRANSACTIONS, address=address)

    def transaction(self, steps: Sequence[Step]) -> list[Any]:
        rows = []
        with self._leasing as db:
            for statement, params, has_row in steps:
                result = db.query(statement, params)
                if has_row:
                    rows.append(result.fetchone())
        return rows


@dataclass(frozen=True)
class Psycopg2:
    """By psycopg2, to PostgreSQL itself or to a pooler that speaks its protocol."""

    name: str
    dsn: str

    def connect(self) -> Session:
        return Psycopg2Session(self.dsn)

    def hold(self, count: int) -> Any:
        sessions = [Psycopg2Session(self.dsn) for _ in range(count)]
        for session in sessions:
            session.one(*LAST_REQUEST)
        return sessions


class Psycopg2Session:
    """One connection: a workload uses one of the two."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def one(self, statement: str, params: Params = None) -> Any:
        with self._autocommit.cursor() as cursor:
            cursor.execute(statement, params)
            return cursor.fetchone()

    def all(self, statement: str, params: Params = None) -> Any:
        with self._autocommit.cursor() as cursor:
            cursor.execute(statement, params)
            return cursor.fetchall()

    def transaction(self, steps: Sequence[Step]) -> list[Any]:
        rows = []
        with self._transactional.cursor() as cursor:
            for statement, params, has_row in steps:
                cursor.execute(statement, params)
                if has_row:
                    rows.append(cursor.fetchone())
        self._transactional.commit()
        return rows

    @cached_property
    def objects(self) -> "Objects":
        from benchmark.orm import Objects, by_psycopg2

        return Objects(by_psycopg2(self._dsn))

    @cached_property
    def _autocommit(self) -> Any:
        connection = psycopg2.connect(self._dsn)
        connection.autocommit = True
        return connection

    @cached_property
    def _transactional(self) -> Any:
        return psycopg2.connect(self._dsn)
