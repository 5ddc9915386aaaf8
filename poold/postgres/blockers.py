"""Asking a server which of the broker's sessions wait for a lock, and whose locks these are.

By a connection of its own, for one question: so no group gives up a backend for it, and nobody waits for it. Any role
may ask; of other roles' sessions members of pg_read_all_stats are told more.

https://www.postgresql.org/docs/current/view-pg-locks.html
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg2

from poold.config.model import EndpointConfig
from poold.postgres.backend import one_line
from poold.postgres.connect import Learned, UnsuitableServer, ask, plain

# Seconds for the connection and both answers together.
TIMEOUT = 3.0
# Who waits for a row waits for the end of a transaction, and has the lock of the row's place in the queue meanwhile:
# that tells the relation and the row.
_WAITS = """
SELECT l.pid, l.locktype, l.mode,
    (SELECT n.nspname::pg_catalog.text OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) c.relname::pg_catalog.text
        FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
        WHERE c.oid OPERATOR(pg_catalog.=) coalesce(l.relation, t.relation)),
    pg_catalog.pg_blocking_pids(l.pid),
    coalesce(l.page, t.page), coalesce(l.tuple, t.tuple),
    CASE WHEN l.locktype OPERATOR(pg_catalog.=) 'object'
        THEN pg_catalog.pg_describe_object(l.classid, l.objid, l.objsubid::pg_catalog.int4) END,
    ARRAY[%(what)s]
FROM pg_catalog.pg_locks AS l LEFT JOIN LATERAL (
    SELECT o.relation, o.page, o.tuple FROM pg_catalog.pg_locks AS o
    WHERE o.pid OPERATOR(pg_catalog.=) l.pid AND o.granted AND o.locktype OPERATOR(pg_catalog.=) 'tuple'
        AND l.relation IS NULL
    LIMIT 1) AS t ON true
WHERE NOT l.granted AND l.pid OPERATOR(pg_catalog.=) ANY (%%s::pg_catalog.int4[])
ORDER BY l.pid
"""
# Those of prepared transactions have no process. Among them is one of the transaction's own number, and all that belong
# to it have its virtual transaction.
_PREPARED = """
SELECT p.gid, p.database::pg_catalog.text, p.owner::pg_catalog.text,
    EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) p.prepared)::pg_catalog.float8,
    l.locktype, l.mode, ARRAY[%(what)s]
FROM pg_catalog.pg_prepared_xacts AS p
    JOIN pg_catalog.pg_locks AS own ON own.transactionid OPERATOR(pg_catalog.=) p.transaction AND own.pid IS NULL
    JOIN pg_catalog.pg_locks AS l ON l.virtualtransaction OPERATOR(pg_catalog.=) own.virtualtransaction
WHERE own.granted AND l.pid IS NULL AND l.granted
LIMIT %(limit)s
"""
_WHAT = ("database", "relation", "page", "tuple", "virtualxid", "transactionid", "classid", "objid", "objsubid")
_COLUMNS = ", ".join([f"l.{column}::pg_catalog.text" for column in _WHAT])
# Locks of prepared transactions that are looked at.
MOST_PREPARED = 10_000
# Which modes exclude each other, by their places: https://www.postgresql.org/docs/current/explicit-locking.html
_MODES = ("AccessShare", "RowShare", "RowExclusive", "ShareUpdateExclusive", "Share", "ShareRowExclusive", "Exclusive",
          "AccessExclusive")  # fmt: skip
_EXCLUDED = ("7", "67", "4567", "34567", "23567", "234567", "1234567", "01234567")
_SESSIONS = """
SELECT a.pid, a.application_name, a.usename::pg_catalog.text, a.datname::pg_catalog.text, a.state,
    EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) a.query_start)::pg_catalog.float8,
    EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) a.xact_start)::pg_catalog.float8
FROM pg_catalog.pg_stat_activity AS a
WHERE a.pid OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.int4[])
"""


class Wait(NamedTuple):
    """A session that waits for a lock."""

    pid: int  # its server process
    kind: str  # pg_locks' locktype
    mode: str
    relation: str | None  # with its schema; None if the lock is of none, or nobody can tell
    blockers: list[int]  # server processes that have it, or wait before this one; 0 is a prepared transaction
    page: int | None  # these two are a row's place in its relation
    line: int | None
    object: str | None  # as PostgreSQL describes it, if the lock is of one
    what: list[str | None]  # all that pg_locks says of the lock: the columns of _WHAT

    def of(self, column: str) -> str | None:
        """Return what pg_locks has in this column, one of _WHAT."""
        return self.what[_WHAT.index(column)]

    @property
    def key(self) -> int | tuple[int, int] | None:
        """The key of an advisory lock: a bigint, or two ints."""
        if self.kind != "advisory":
            return None
        high, low = int(self.of("classid") or 0), int(self.of("objid") or 0)
        if self.of("objsubid") == "1":
            return _signed(high << 32 | low, 64)
        return _signed(high, 32), _signed(low, 32)

    def is_excluded_by(self, held: Held) -> bool:
        """Whether it has to wait for the end of this prepared transaction."""
        if (self.kind, self.what) != (held.kind, held.what):
            return False
        modes = [mode.removesuffix("Lock") for mode in (self.mode, held.mode)]
        if not set(modes) <= set(_MODES):
            return True  # of an extension's own method
        mine, its = map(_MODES.index, modes)
        return str(its) in _EXCLUDED[mine]


class Held(NamedTuple):
    """A lock of a prepared transaction."""

    gid: str
    database: str  # in which it was prepared, and has to be ended
    user: str
    age: float  # seconds since it was prepared
    kind: str
    mode: str
    what: list[str | None]


class Session(NamedTuple):
    """A session of whomever. None: the server does not tell the broker's role."""

    pid: int
    application_name: str | None
    user: str | None
    database: str | None
    state: str | None
    query_age: float | None  # seconds since its last statement began
    transaction_age: float | None


@dataclass(frozen=True, slots=True)
class Locks:
    """What a server has answered."""

    waits: tuple[Wait, ...] = ()
    sessions: tuple[Session, ...] = ()  # of those who block
    prepared: tuple[Held, ...] = ()  # locks of prepared transactions, if these block
    error: str = ""  # why it has not


async def locks(config: EndpointConfig, learned: Learned, pids: Collection[int]) -> Locks:
    """Ask which of these server processes wait for a lock; within TIMEOUT there is an answer, or the reason why not."""
    connection: Any = None
    try:
        async with asyncio.timeout(TIMEOUT):
            connection = await plain(config, learned)
            waits = tuple(Wait(*row) for row in await ask(connection, _WAITS % {"what": _COLUMNS}, (list(pids),)))
            others = sorted({pid for wait in waits for pid in wait.blockers})
            sessions = await ask(connection, _SESSIONS, (others,)) if others else []
            prepared = []
            if 0 in others:
                prepared = await ask(connection, _PREPARED % {"what": _COLUMNS, "limit": MOST_PREPARED}, ())
            return Locks(waits, tuple(Session(*row) for row in sessions), tuple(Held(*row) for row in prepared))
    except TimeoutError:
        return Locks(error=f"no answer within {TIMEOUT:g} s")
    except (TypeError, UnsuitableServer):
        return Locks(error="it answered with something else")
    except (psycopg2.Error, OSError, UnicodeError) as error:
        return Locks(error=one_line(error))
    finally:
        if connection is not None:
            connection.close()


def _signed(number: int, bits: int) -> int:
    """Return the signed integer of so many bits that PostgreSQL shows as an unsigned one."""
    return number - (1 << bits) if number >> (bits - 1) else number
