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
# that tells the relation.
_WAITS = """
SELECT l.pid, l.locktype, l.mode,
    (SELECT n.nspname::pg_catalog.text OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) c.relname::pg_catalog.text
        FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
        WHERE c.oid OPERATOR(pg_catalog.=) coalesce(l.relation, (SELECT t.relation FROM pg_catalog.pg_locks AS t
            WHERE t.pid OPERATOR(pg_catalog.=) l.pid AND t.granted AND t.locktype OPERATOR(pg_catalog.=) 'tuple'
            LIMIT 1))),
    pg_catalog.pg_blocking_pids(l.pid)
FROM pg_catalog.pg_locks AS l
WHERE NOT l.granted AND l.pid OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.int4[])
ORDER BY l.pid
"""
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
    error: str = ""  # why it has not


async def locks(config: EndpointConfig, learned: Learned, pids: Collection[int]) -> Locks:
    """Ask which of these server processes wait for a lock; within TIMEOUT there is an answer, or the reason why not."""
    connection: Any = None
    try:
        async with asyncio.timeout(TIMEOUT):
            connection = await plain(config, learned)
            waits = tuple(Wait(*row) for row in await ask(connection, _WAITS, (list(pids),)))
            others = sorted({pid for wait in waits for pid in wait.blockers})
            sessions = await ask(connection, _SESSIONS, (others,)) if others else []
            return Locks(waits, tuple(Session(*row) for row in sessions))
    except TimeoutError:
        return Locks(error=f"no answer within {TIMEOUT:g} s")
    except (TypeError, UnsuitableServer):
        return Locks(error="it answered with something else")
    except (psycopg2.Error, OSError, UnicodeError) as error:
        return Locks(error=one_line(error))
    finally:
        if connection is not None:
            connection.close()
