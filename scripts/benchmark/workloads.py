"""What a worker does again and again: each workload is a function that makes one request through a session.

A new one is a function here, an entry in WORKLOADS, and what it needs of `contestants.Session`.
"""

from random import Random
from typing import Protocol

from benchmark.contestants import Session
from benchmark.tables import random_account, random_transfer


class Workload(Protocol):
    """One request; scale is that of the tables."""

    def __call__(self, session: Session, chance: Random, scale: int) -> None: ...


def select(session: Session, chance: Random, scale: int) -> None:
    """One row by its primary key."""
    session.select(random_account(scale, chance))


def tpcb(session: Session, chance: Random, scale: int) -> None:
    """One TPC-B transaction: five statements and the commit."""
    session.tpcb(random_transfer(scale, chance))


WORKLOADS: dict[str, Workload] = {"select": select, "tpcb": tpcb}
