"""SQLAlchemy's ORM on pgbench's tables: what programs do that work with objects."""

from datetime import datetime
from functools import cached_property
from random import Random
from urllib.parse import quote

import psycopg2
from sqlalchemy import Engine, create_engine, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.sql import func

from benchmark.tables import random_transfer


class Base(DeclarativeBase):
    """pgbench's tables, those that are used here."""


class Account(Base):
    """A row of pgbench_accounts."""

    __tablename__ = "pgbench_accounts"

    aid: Mapped[int] = mapped_column(primary_key=True)
    bid: Mapped[int]
    abalance: Mapped[int]


class History(Base):
    """A row of pgbench_history; the table has no key, and the ORM wants to hear of one."""

    __tablename__ = "pgbench_history"

    tid: Mapped[int] = mapped_column(primary_key=True)
    bid: Mapped[int]
    aid: Mapped[int] = mapped_column(primary_key=True)
    delta: Mapped[int]
    mtime: Mapped[datetime]


def through_poold(address: str, group: str) -> Engine:
    """An engine on the broker at this address."""
    return create_engine(f"postgresql+poold:///{group}?address={quote(address, safe='')}")


def by_psycopg2(dsn: str) -> Engine:
    """An engine with SQLAlchemy's pool of psycopg2's connections; one thread uses one of them."""
    return create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(dsn))


class Objects:
    """A worker's engines."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @cached_property
    def _autocommit(self) -> Engine:
        return self._engine.execution_options(isolation_level="AUTOCOMMIT")

    def get(self, aid: int, is_alone: bool) -> int:
        """The balance of one account, read in a transaction, or with is_alone by a statement that is by itself."""
        with Session(self._autocommit if is_alone else self._engine) as session:
            return session.get_one(Account, aid).abalance

    def work(self, scale: int, chance: Random) -> int:
        """A unit of work: an account is read and changed, and a row of history is added; returns the new balance."""
        transfer = random_transfer(scale, chance)
        with Session(self._engine, expire_on_commit=False) as session:
            account = session.get_one(Account, transfer["aid"])
            account.abalance += transfer["delta"]
            session.execute(insert(History).values(**transfer, mtime=func.current_timestamp()))
            session.commit()
        return account.abalance
