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
    # Columns of the statements that were prepared, in order; fewer than asked for after a failure.
    prepared: list[bytes | None] = field(default_factory=list)
    # The types of their parameters, likewise.
    parameters: list[tuple[int, ...]] = field(default_factory=list)
    # How many statements got their parameters; one more than there are results where the failure came later.
    bound: int = 0
    # Whether a setting that PostgreSQL reports is not what it was when the backend was opened.
    is_changed: bool = False

    @property
    def is_unbound(self) -> bool:
        """Where it failed: whether the statement had not got its parameters yet."""
        return self.bound <= len(self.results)


class Loss(NamedTuple):
    """How a backend's connection was lost."""

    error: str
    unsent: int = 0  # of its units were not written at all
    partial: Sequence[StatementResult] = ()  # results of the first of the others, as far as they came
    last: Failure | None = None  # the FATAL error that ended it


@dataclass(frozen=True, slots=True)
class Server:
    """The PostgreSQL behind a backend.

    identity names the database cluster and its timeline: transaction ids mean the same only if it is the same.
    "" if it could not be learned.
    """

    version: int = 0  # as libpq counts, 160002
    identity: str = ""
    # Changes with each recovery from a crash: an id that was given to a transaction may be given again after one.
    epoch: str = ""
    pid: int = 0  # of its process
    names: int = 0  # prepared statements that the group's own functions have made in the session
