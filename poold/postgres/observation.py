"""Asking an endpoint's server what it is: a primary or a standby, of which database cluster, how far it has come.

Each endpoint that is asked has one connection for that, which is kept. Any role may ask. The timeline that a standby
receives is told to members of pg_read_all_stats only; others are told the one that it has on disk, which follows a
promotion some time later. A primary's timeline is that of the file it writes, which follows at once.

https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-RECOVERY-CONTROL
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection
from time import monotonic
from typing import Any

import psycopg2

from poold.config.changes import changed_endpoints
from poold.config.current import CurrentConfig
from poold.config.model import Config
from poold.core.broker import Broker
from poold.core.facts import Location, Observation
from poold.postgres import connect as connecting
from poold.postgres.backend import one_line

# A server that takes longer for its answer counts as one that does not answer.
ANSWER_TIMEOUT = 2.0
_WHAT = """
SELECT (SELECT c.system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system() AS c),
    r.is_in_recovery,
    CASE WHEN r.is_in_recovery THEN coalesce(
        (SELECT w.received_tli FROM pg_catalog.pg_stat_get_wal_receiver() AS w),
        (SELECT greatest(c.timeline_id, r.min_recovery_end_timeline)
            FROM pg_catalog.pg_control_checkpoint() AS c, pg_catalog.pg_control_recovery() AS r))
    ELSE ('x' OPERATOR(pg_catalog.||) pg_catalog.substr(
        pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8))::pg_catalog.bit(32)::pg_catalog.int4
    END,
    pg_catalog.pg_postmaster_start_time()::pg_catalog.text,
    pg_catalog.pg_wal_lsn_diff(
        CASE WHEN r.is_in_recovery THEN pg_catalog.pg_last_wal_replay_lsn()
        ELSE pg_catalog.pg_current_wal_flush_lsn() END, '0/0')::pg_catalog.int8,
    (%s),
    EXISTS (SELECT FROM pg_catalog.pg_db_role_setting AS s,
        pg_catalog.unnest(s.setconfig) AS each
        WHERE each OPERATOR(pg_catalog.~~) 'synchronous_commit=%%'
        AND s.setrole IN (0, (SELECT o.oid FROM pg_catalog.pg_roles AS o
            WHERE o.rolname OPERATOR(pg_catalog.=) current_user))
        AND s.setdatabase IN (0, (SELECT d.oid FROM pg_catalog.pg_database AS d
            WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())))
FROM (SELECT pg_catalog.pg_is_in_recovery() AS is_in_recovery) AS r
"""


# How far it has come. What is not flushed yet counts where COMMIT does not wait for that.
_WHERE = """
SELECT r.is_in_recovery,
    pg_catalog.pg_wal_lsn_diff(CASE WHEN r.is_in_recovery THEN pg_catalog.pg_last_wal_replay_lsn()
        WHEN pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'off'
        THEN pg_catalog.pg_current_wal_insert_lsn()
        ELSE pg_catalog.pg_current_wal_flush_lsn() END, '0/0')::pg_catalog.int8,
    pg_catalog.pg_wal_lsn_diff(CASE WHEN r.is_in_recovery THEN pg_catalog.pg_last_wal_replay_lsn()
        ELSE pg_catalog.pg_current_wal_insert_lsn() END, '0/0')::pg_catalog.int8
FROM (SELECT pg_catalog.pg_is_in_recovery() AS is_in_recovery) AS r
"""
_WHAT_TYPES = [str, bool, int, str, int, str, bool]
_WHERE_TYPES = [bool, int, int]


class Observers:
    """One connection to each endpoint that is asked what it is."""

    def __init__(self, config: CurrentConfig, broker: Broker, wake: Callable[[], None]) -> None:
        """wake is called after each fact given to broker."""
        self._config = config
        self._broker = broker
        self._wake = wake
        self._learned: defaultdict[str, connecting.Learned] = defaultdict(connecting.Learned)
        # Enter when a connection is open, leave when its server does not answer.
        self._connections: dict[str, Any] = {}
        # Endpoints whose login has changed: enter by `reconfigured`, leave with the next question.
        self._outdated: set[str] = set()
        # Questions until they are answered, by endpoint. Of one endpoint one is asked after the other.
        self._asking: defaultdict[str, set[asyncio.Task[None]]] = defaultdict(set)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def observe(self, endpoint: str, question: str) -> None:
        """Ask the endpoint's server what it is, and this question; the core gets an answer in any case."""
        self._begin(endpoint, _WHAT % question, _WHAT_TYPES)

    def locate(self, endpoint: str) -> None:
        """Ask the endpoint's server how far it has come; the core gets an answer in any case."""
        self._begin(endpoint, _WHERE, _WHERE_TYPES)

    def _begin(self, endpoint: str, question: str, types: list[type]) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(endpoint, question, types))
        self._asking[endpoint].add(task)
        task.add_done_callback(self._asking[endpoint].discard)

    def leave(self, endpoint: str) -> None:
        """Close the connection to the endpoint's server; what it is being asked is not answered any more."""
        if not self._asking[endpoint]:
            self._disconnect(endpoint)
        for task in self._asking[endpoint]:
            task.cancel()  # it closes its connection, which the loop watches until then

    def reconfigured(self, before: Config, renewed: Collection[str]) -> None:
        """Log in anew where that has changed; renewed are endpoints with other files."""
        for name in changed_endpoints(before, self._config, renewed):
            self._learned.pop(name, None)
            self._outdated.add(name)

    def close(self) -> None:
        """Close all connections; for the end of the broker."""
        for endpoint in [*self._connections, *self._asking]:
            self.leave(endpoint)

    async def _answer(self, endpoint: str, question: str, types: list[type]) -> None:
        """Ask, and tell the core what the answer is."""
        try:
            async with self._turns[endpoint]:
                row = await self._ask(endpoint, question, types)
        except asyncio.CancelledError:
            self._disconnect(endpoint)
            raise
        except (psycopg2.Error, OSError, UnicodeError) as error:
            self._disconnect(endpoint)
            text = one_line(error) if not isinstance(error, TimeoutError) else f"nothing heard for {ANSWER_TIMEOUT:g} s"
            self._broker.unobserved(endpoint, text, monotonic())
        else:
            if types is _WHAT_TYPES:
                self._broker.observed(endpoint, Observation(*row), monotonic())
            else:
                self._broker.located(endpoint, Location(*row), monotonic())
        self._wake()

    def _disconnect(self, endpoint: str) -> None:
        connection = self._connections.pop(endpoint, None)
        if connection is not None:
            connection.close()

    async def _ask(self, endpoint: str, question: str, types: list[type]) -> tuple[Any, ...]:
        """Return the one row of the answer; raises psycopg2.Error, OSError or UnicodeError."""
        config = self._config.endpoints.get(endpoint)
        if config is None:
            raise OSError("a reload has removed it")  # the core waits for no answer
        if endpoint in self._outdated:
            self._outdated.discard(endpoint)
            self._disconnect(endpoint)
        if endpoint not in self._connections:
            async with asyncio.timeout(config.connect_timeout):
                self._connections[endpoint] = await connecting.plain(config, self._learned[endpoint])
        async with asyncio.timeout(ANSWER_TIMEOUT):
            rows = await connecting.ask(self._connections[endpoint], question)
        if len(rows) != 1 or [type(cell) for cell in rows[0]] != types:
            raise connecting.UnsuitableServer("the server was asked what it is and answered with something else")
        return rows[0]
