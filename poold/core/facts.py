"""What the shell tells the core about a backend, as values."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from client.wire.messages import Failure, TransactionStatus


class StatementResult(NamedTuple):
    """One statement's result, as client.wire.messages' ResultMessage has it."""

    command: str  # the command tag
    rowcount: int  # psycopg2's
    columns: bytes | None  # None if the statement returns no rows
    rows: bytes | None  # None if they were too large to keep
    notices: tuple[str, ...]


@dataclass(slots=True)
class Completion:
    """How a unit ended. A failure belongs to the command after the last one with a result."""

    transaction: TransactionStatus  # one of client.wire.messages's TX_NONE, TX_ACTIVE, TX_FAILED, TX_BROKEN
    results: list[StatementResult] = field(default_factory=list, repr=False)
    failure: Failure | None = field(default=None, repr=False)
    # Columns of the statements that were prepared, in order; after a failure fewer than the unit has.
    prepared: list[bytes | None] = field(default_factory=list)
    # The types of their parameters, likewise.
    parameters: list[tuple[int, ...]] = field(default_factory=list)
    # How many statements got their parameters; one more than there are results if one failed after it got them.
    bound: int = 0
    # Whether a setting that PostgreSQL reports differs from when the backend was opened.
    is_changed: bool = False
    # How many of the units behind it had ended when the end of this one was read: nobody can tell them apart in time.
    behind: int = 0

    @property
    def is_unbound(self) -> bool:
        """Of a failure: whether the statement that failed had not got its parameters yet."""
        return self.bound <= len(self.results)


class Loss(NamedTuple):
    """How a backend's connection was lost."""

    error: str
    unsent: int = 0  # how many of the backend's last units were not written at all
    partial: Sequence[StatementResult] = ()  # results of the first unit, as far as they came
    last: Failure | None = None  # the FATAL error by which PostgreSQL ended the connection


@dataclass(frozen=True, slots=True)
class Server:
    """The PostgreSQL behind a backend.

    identity names the database cluster and its timeline, "" if they are not known: on servers of another identity a
    transaction id means something else.
    """

    version: int = 0  # as libpq counts, 160002
    identity: str = ""
    # Changes with each recovery from a crash, after which the server may give a transaction's id to another one.
    epoch: str = ""
    pid: int = 0  # of the server process
    names: int = 0  # prepared statements that the session had from its start, made by the group's own functions
    is_encrypted: bool = False  # what passes between it and the broker
    # Whether it was a standby when the backend was opened; None if it did not say (before PostgreSQL 14).
    is_standby: bool | None = None


class Location(NamedTuple):
    """How far an endpoint's server has come in the log, in bytes."""

    is_in_recovery: bool
    flushed: int  # by a primary; of a standby what it has replayed
    inserted: int  # likewise


@dataclass(frozen=True, slots=True)
class Observation:
    """What an endpoint's server says of itself."""

    system: str  # the database cluster's system identifier, the same on a primary and its standbys
    is_in_recovery: bool  # whether it is a standby
    timeline: int  # the one that it writes, or receives
    started: str  # when the server started, as it tells it
    position: int  # in the write-ahead log, in bytes: flushed by a primary, replayed by a standby
    catalogs: str = ""  # the answer to Observe's question
    # Whether synchronous_commit is set for the role or the database: COMMIT may be answered before it is flushed.
    is_loose: bool = False
