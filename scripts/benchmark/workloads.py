"""What a worker does again and again: each workload is a function that makes one request through a session.

A new one is a function here and an entry in WORKLOADS. Each looks at what it gets: some libraries make Python's values
only then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Protocol, cast

from benchmark.contestants import MappingSession, Session, Step
from benchmark.tables import (
    CHANGE_ACCOUNT,
    READ_ACCOUNT,
    REPORT,
    REPORT_VALUES,
    SELECT,
    SHORT,
    SLOW,
    STALLED,
    TPCB,
    TPCB_READ,
    random_account,
    random_changes,
    random_transfer,
)

if TYPE_CHECKING:
    from benchmark.orm import Objects

# This share of the mixed workload's requests is slow.
SLOW_SHARE = 0.1
# And this one of the workload that stalls.
STALLED_SHARE = 0.01


class Request(Protocol):
    """One request; scale is that of the tables. Returns True where it is to be counted apart."""

    def __call__(self, session: Session, chance: Random, scale: int) -> bool | None: ...


class WrongAnswer(RuntimeError):
    """A session gave something else than PostgreSQL has."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is requested, and what it means to the tables."""

    summary: str
    request: Request
    writes: bool = False
    history: int = 0  # rows that each request adds to pgbench_history
    has_objects: bool = False  # it goes by SQLAlchemy's ORM, and wants a MappingSession


def select(session: Session, chance: Random, scale: int) -> None:
    _check(session.one(SELECT, (random_account(scale, chance),)), 1)


def tpcb(session: Session, chance: Random, scale: int) -> None:
    transfer = random_transfer(scale, chance)
    (row,) = session.transaction([Step(statement, transfer, statement is TPCB_READ) for statement in TPCB])
    _check(row, 1)


def rows(session: Session, chance: Random, scale: int) -> None:
    values = 0
    for row in session.all(REPORT):
        for value in row:
            values += value is not None
    if values != REPORT_VALUES:
        raise WrongAnswer(f"{REPORT}: expected {REPORT_VALUES} values that are not NULL, got {values}")


def long(session: Session, chance: Random, scale: int) -> None:
    steps: list[Step] = []
    for change in random_changes(scale, chance):
        steps += (Step(READ_ACCOUNT, change, True), Step(CHANGE_ACCOUNT, change, False))
    for row in session.transaction(steps):
        _check(row, 3)


def mixed(session: Session, chance: Random, scale: int) -> bool:
    is_slow = chance.random() < SLOW_SHARE
    if is_slow:
        session.one(SLOW)
    else:
        select(session, chance, scale)
    return is_slow


def stalls(session: Session, chance: Random, scale: int) -> bool:
    is_stalled = chance.random() < STALLED_SHARE
    session.one(STALLED if is_stalled else SHORT)
    return is_stalled


def orm_get(session: Session, chance: Random, scale: int) -> None:
    _check((_objects(session).get(random_account(scale, chance), is_alone=False),), 1)


def orm_read(session: Session, chance: Random, scale: int) -> None:
    _check((_objects(session).get(random_account(scale, chance), is_alone=True),), 1)


def orm_work(session: Session, chance: Random, scale: int) -> None:
    _check((_objects(session).work(scale, chance),), 1)


def _objects(session: Session) -> "Objects":
    return cast(MappingSession, session).objects


def _check(row: Sequence[Any], columns: int) -> None:
    """The row has so many columns, and all are numbers."""
    count = 0
    for value in row:
        count += isinstance(value, int)
    if count != columns:
        raise WrongAnswer(f"expected a row of {columns} numbers, got {row!r}")


WORKLOADS = {
    "select": Workload("one row by its primary key", select),
    "tpcb": Workload("a TPC-B transaction: five statements and the commit", tpcb, writes=True, history=1),
    "rows": Workload("1,000 rows of 10 columns, all values read", rows),
    "long": Workload("a transaction of 20 statements: ten accounts are read and changed", long, writes=True),
    "mixed": Workload("nine in ten as in select, one in ten takes 20 ms; p99 of the short ones apart", mixed),
    "stalls": Workload("99 in 100 take 1 ms, one takes 500 ms; p99 of the short ones apart", stalls),
    "orm-get": Workload("one object by its key, in a session of SQLAlchemy's ORM", orm_get, has_objects=True),
    "orm-read": Workload("the same with AUTOCOMMIT", orm_read, has_objects=True),
    "orm-work": Workload(
        "an object is read and changed, a row is added, commit", orm_work, writes=True, history=1, has_objects=True
    ),
}
# Without those of SQLAlchemy's, which say more of it than of what is behind it.
USUAL = tuple(name for name, each in WORKLOADS.items() if not each.has_objects)
