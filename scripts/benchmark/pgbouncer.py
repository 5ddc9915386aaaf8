"""A pgbouncer of a run's own: its own configuration and unix socket, away from any that the system runs.

It pools transactions and is configured as poold is: as many server connections, no authentication. It refuses to run
as root and runs as PostgreSQL's user. Settings: https://www.pgbouncer.org/config.html
"""

import os
import shutil
import subprocess
from pathlib import Path

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from benchmark.service import Service
from poold.embedded.programs import Account

PORT = 6432
# Debian's place, which is not on every PATH.
PROGRAM = "/usr/sbin/pgbouncer"
# What listen(2) gets; workers that start together connect together. The kernel's own limit is as much.
BACKLOG = 4096
# The one that asks whether it serves.
SPARE_CLIENTS = 10

CONFIG = """\
[databases]
{dbname} = host={host} port={port} dbname={dbname} user={user}

[pgbouncer]
unix_socket_dir = {folder}
listen_port = {own_port}
auth_type = any
pool_mode = transaction
default_pool_size = {backends}
max_client_conn = {clients}
listen_backlog = {backlog}
"""


def find(may_install: bool) -> str | None:
    """The program, None where it is not installed; with may_install root gets it from apt-get."""
    found = shutil.which("pgbouncer") or shutil.which(PROGRAM)
    if found is None and may_install and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "pgbouncer"], stdout=subprocess.DEVNULL, check=False)
        found = shutil.which("pgbouncer") or shutil.which(PROGRAM)
    return found


def version(program: str) -> str:
    """As in "1.18.0"."""
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return answer.stdout.split()[1]


class PgBouncer(Service):
    """One pgbouncer in front of one PostgreSQL server."""

    def __init__(
        self, program: str, folder: Path, server_dsn: str, backends: int, account: Account, clients: int
    ) -> None:
        """folder is made for it and given to the account, whose process it is; so many clients may come."""
        parts = parse_dsn(server_dsn)
        self.dsn = make_dsn(host=str(folder), port=PORT, user=parts["user"], dbname=parts["dbname"])
        self._folder = folder
        self._account = account
        self._config = CONFIG.format(
            folder=folder,
            own_port=PORT,
            backends=backends,
            clients=clients + SPARE_CLIENTS,
            backlog=BACKLOG,
            **parts,
        )
        command = [program, "-q", str(folder / "pgbouncer.ini")]
        super().__init__("pgbouncer", command, folder / "pgbouncer.log", account.identity)

    def launch(self) -> None:
        """Write the configuration, start it and wait until it serves."""
        self._folder.mkdir(exist_ok=True)
        self._account.give(self._folder)
        config = self._folder / "pgbouncer.ini"
        config.write_text(self._config)
        config.chmod(0o644)
        self.start(self._answers)

    def _answers(self) -> bool:
        try:
            psycopg2.connect(self.dsn).close()
        except psycopg2.OperationalError:
            return False
        return True
