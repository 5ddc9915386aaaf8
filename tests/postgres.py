"""PostgreSQL servers for tests: made in half a second, killed, restarted, followed by standbys.

Both kinds of server, private ones from programs and containers, have the same interface; `factory` makes either.
Servers do not live in pytest's tmp_path: that is closed to everybody but its owner, and root's servers run as another
user.
"""

import itertools
import os
import shutil
import signal
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extras
import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class
from psycopg2.extensions import make_dsn
from waiting import wait_until

from poold.embedded.programs import Account, Programs
from poold.embedded.server import EmbeddedPostgres

# Nothing in a test survives a power failure anyway.
TEST_SETTINGS = {"fsync": "off", "wal_level": "replica"}
IMAGE = "postgres:16"

# Whatever has a number as only users' objects have, but for what is made and removed with others: indexes, columns'
# types, temporary tables.
CONTENTS = """
    WITH made (catalog, oid) AS (
        SELECT tableoid, oid FROM pg_class WHERE relkind = ANY ('{r,v,m,S,p,f,c}') AND relpersistence <> 't'
        UNION ALL SELECT tableoid, oid FROM pg_type WHERE typtype IN ('d', 'e', 'r')
        UNION ALL SELECT tableoid, oid FROM pg_proc
        UNION ALL SELECT tableoid, oid FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'
        UNION ALL SELECT tableoid, oid FROM pg_extension
        UNION ALL SELECT tableoid, oid FROM pg_authid
        UNION ALL SELECT tableoid, oid FROM pg_database WHERE datname <> 'postgres'
    )
    SELECT named.type || ' ' || named.identity FROM made, pg_identify_object(made.catalog, made.oid, 0) AS named
    WHERE made.oid >= 16384 AND named.schema IS DISTINCT FROM 'pg_toast'
    UNION ALL SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts
    UNION ALL SELECT 'settings of ' || coalesce(setrole::regrole::text, 'everybody') FROM pg_db_role_setting
    ORDER BY 1
"""


class Postgres(ABC):
    """A running server, as a test sees it."""

    @property
    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """What to connect with: host, port, user, dbname, and password where one is needed."""

    @abstractmethod
    def kill(self) -> None:
        """End the server as SIGKILL does: no goodbye to its clients."""

    @abstractmethod
    def start(self) -> None:
        """Start it again after `kill`."""

    @abstractmethod
    def restart(self) -> None:
        """Stop and start it in good order; the address stays the same."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it for good."""

    def dsn(self, **over: Any) -> str:
        """A libpq connection string; `over` replaces or adds parameters, as in host='127.0.0.1'."""
        return str(make_dsn(**{**self.parameters, **over}))

    def connect(self, **over: Any) -> Connection:
        """A connection in autocommit mode; the caller closes it."""
        connection = psycopg2.connect(self.dsn(**over))
        connection.autocommit = True
        return connection

    def execute(self, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Run SQL on a connection of its own; its rows, none for a statement without a result."""
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, parameters)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def backends(self) -> list[dict[str, Any]]:
        """The rows of pg_stat_activity for all client connections but the one that asks."""
        connection = self.connect(application_name="the test's own eyes")
        try:
            with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
                cursor.execute(
                    "SELECT * FROM pg_stat_activity"
                    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY backend_start"
                )
                return [dict(row) for row in cursor.fetchall()]
        finally:
            connection.close()

    def contents(self) -> list[str]:
        """What was made in its database and for all of them and is still there, in words: `table public.items`."""
        return [each for (each,) in self.execute(CONTENTS)]


class PrivatePostgres(Postgres):
    """A server from programs on this machine, on a unix socket and on 127.0.0.1 with the same port."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.server = server

    @property
    def parameters(self) -> dict[str, Any]:
        """By way of the unix socket; give host='127.0.0.1' for TCP."""
        return {
            "host": str(self.server.socket_dir),
            "port": self.server.port,
            "user": self.server.user,
            "dbname": "postgres",
        }

    def kill(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()

    def restart(self) -> None:
        self.server.restart()

    def stop(self) -> None:
        # A test's data are thrown away: no checkpoint.
        self.server.stop("immediate")

    def processes(self) -> list[int]:
        """All processes of the server, the postmaster first; none if it does not run."""
        postmaster = self.server.pid
        if postmaster is None:
            return []
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        return [postmaster, *map(int, children)]


class ContainerPostgres(Postgres):
    """A server in a container, for --postgres=testcontainers. TCP only."""

    def __init__(self, **settings: str) -> None:
        from docker.errors import DockerException

        try:
            from testcontainers.community.postgres import PostgresContainer
        except ModuleNotFoundError:
            from testcontainers.postgres import PostgresContainer  # where it was before testcontainers 4.15

        options = [word for name, value in {**TEST_SETTINGS, **settings}.items() for word in ("-c", f"{name}={value}")]
        # A port that Docker picks changes when the container is started again.
        self._port = free_port()
        try:
            container = PostgresContainer(IMAGE, username="poold", password="poold", dbname="postgres", driver=None)
            self._container = container.with_bind_ports(5432, self._port).with_command(options)
            self._container.start()
        except DockerException as error:
            # What was asked for cannot be had: one message for the whole run, not one for each test.
            pytest.exit(f"--postgres=testcontainers wants a Docker engine that answers: {error}", returncode=1)

    @property
    def parameters(self) -> dict[str, Any]:
        host = self._container.get_container_host_ip()
        return {"host": host, "port": self._port, "user": "poold", "password": "poold", "dbname": "postgres"}

    def kill(self) -> None:
        self._container.get_wrapped_container().kill("SIGKILL")

    def start(self) -> None:
        self._container.get_wrapped_container().start()
        wait_until(self._answers, 30, "an answer from the container")

    def restart(self) -> None:
        self._container.get_wrapped_container().restart()
        wait_until(self._answers, 30, "an answer from the container")

    def stop(self) -> None:
        self._container.stop()

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg2.OperationalError:
            return False
        return True


def primary(folder: Path, *, bindir: Path | None = None, **settings: str) -> PrivatePostgres:
    """A new server whose data are in `folder`, which the server's user must be able to enter."""
    settings = {**TEST_SETTINGS, **settings}
    server = EmbeddedPostgres(folder, bindir=bindir, port=free_port(), settings=settings)
    server.start()
    return PrivatePostgres(server)


def standby(of_primary: PrivatePostgres, folder: Path, **settings: str) -> PrivatePostgres:
    """A new streaming standby, open for reading."""
    settings = {**TEST_SETTINGS, **settings}
    bindir = of_primary.server.programs.bindir
    server = EmbeddedPostgres(folder, bindir=bindir, port=free_port(), settings=settings, standby_of=of_primary.dsn())
    server.start()
    return PrivatePostgres(server)


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to those that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server_folder() -> Iterator[Path]:
    """A temporary folder that everybody may enter, with a path short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="poold-test-", dir="/tmp"))
    os.chmod(folder, 0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def runnable_bindir(folder: Path) -> Path:
    """PostgreSQL's programs; copied into `folder`, once for all tests, where the server's user cannot reach them."""
    return Programs.for_account(Account.for_server(), folder).bindir


class Factory:
    """Makes servers and stops them all in the end: `factory()` a primary, `factory.standby(primary)` a standby."""

    def __init__(self, kind: str, folder: Path, bindir: Callable[[], Path]) -> None:
        self._kind = kind
        self._folder = folder
        self._bindir = bindir
        self._servers: list[Postgres] = []

    def __call__(self, **settings: str) -> Postgres:
        if self._kind == "testcontainers":
            return self._keep(ContainerPostgres(**settings))
        return self._keep(primary(self._new_folder(), bindir=self._bindir(), **settings))

    def standby(self, of_primary: Postgres, **settings: str) -> Postgres:
        if not isinstance(of_primary, PrivatePostgres):
            pytest.skip("a standby needs --postgres=embedded")
        return self._keep(standby(of_primary, self._new_folder(), **settings))

    def close(self) -> None:
        # Standbys before their primaries.
        while self._servers:
            self._servers.pop().stop()

    def _keep(self, server: Postgres) -> Postgres:
        self._servers.append(server)
        return server

    def _new_folder(self) -> Path:
        # EmbeddedPostgres makes it, with the modes that its user needs.
        return self._folder / f"server-{next(_numbers)}"


# Names the servers' folders; more than one factory works in the session's folder.
_numbers = itertools.count(1)
