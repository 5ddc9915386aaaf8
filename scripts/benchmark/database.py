"""The private PostgreSQL of a run: its tables, and the backends that serve its clients."""

import time
from pathlib import Path
from typing import Any

import psycopg2

from benchmark.tables import HISTORY_LENGTH, TIDYING, loading, loading_report
from poold.embedded.programs import Account
from poold.embedded.server import EmbeddedPostgres

BACKENDS = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
# Connections that are not the contestants': superuser_reserved_connections, this program's, autovacuum's.
SPARE_CONNECTIONS = 40
# Hundreds of backends take seconds to end.
QUIET_TIMEOUT = 30.0
QUIET_INTERVAL = 0.02


class DatabaseError(RuntimeError):
    """PostgreSQL is not in the state that it should be in."""


class Database:
    """One server with its default durability (fsync is on), and a connection to look after it."""

    def __init__(self, folder: Path, connections: int) -> None:
        """connections is how many the contestants may open."""
        settings = {"max_connections": str(connections + SPARE_CONNECTIONS)}
        self._server = EmbeddedPostgres(folder, settings=settings)
        self._connection: Any = None

    @property
    def dsn(self) -> str:
        return self._server.dsn()

    @property
    def account(self) -> Account:
        """The user it runs as."""
        return self._server.programs.account

    @property
    def postmaster(self) -> int:
        """Its process id: the parent of all its processes."""
        pid = self._server.pid
        if pid is None:
            raise DatabaseError("PostgreSQL has ended")
        return pid

    @property
    def version(self) -> str:
        return self._connection.get_parameter_status("server_version") or "unknown"

    def start(self) -> None:
        self._server.start()
        self._connection = psycopg2.connect(self.dsn)
        self._connection.autocommit = True

    def stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._server.stop()

    def restart(self) -> None:
        """Stop and start the server under its clients."""
        self._connection.close()
        self._server.restart()
        self._connection = psycopg2.connect(self.dsn)
        self._connection.autocommit = True

    def load(self, scale: int) -> None:
        """Make and fill the tables."""
        for statement in (*loading(scale), *loading_report(), "CHECKPOINT"):
            self._ask(statement)

    def tidy(self) -> None:
        """Make the tables ready for a measurement that writes."""
        for statement in TIDYING:
            self._ask(statement)

    def backends(self) -> list[int]:
        """The process ids of the backends that serve contestants."""
        return [pid for (pid,) in self._ask(BACKENDS)]

    def wait_until_quiet(self) -> None:
        """Wait until the backends of the measurement before have ended: no contestant pays for another."""
        deadline = time.monotonic() + QUIET_TIMEOUT
        while left := self.backends():
            if time.monotonic() > deadline:
                raise DatabaseError(f"{len(left)} backends of nobody are left after {QUIET_TIMEOUT:g} s")
            time.sleep(QUIET_INTERVAL)

    def check_history(self, expected: int) -> None:
        """What clients were told to be committed must be there, and nothing twice; counted since `tidy`."""
        ((found,),) = self._ask(HISTORY_LENGTH)
        if found != expected:
            raise DatabaseError(f"{expected} transactions were acknowledged, but pgbench_history has {found} rows")

    def _ask(self, statement: str) -> list[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            return [] if cursor.description is None else cursor.fetchall()
