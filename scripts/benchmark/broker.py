"""A broker of a run's own: the real `poold start --config FILE` in a process of its own."""

import sys
from pathlib import Path

from psycopg2.extensions import parse_dsn

from benchmark.service import Service
from client import DBConnectionError, Handler

# The groups: single statements, and interactive transactions.
STATEMENTS = "default"
TRANSACTIONS = "transactions"

CONFIG = """\
[broker]
address = "{address}"

[endpoints.private]
host = "{host}"
port = {port}
user = "{user}"
dbname = "{dbname}"
query_timeout = 60   # loading the tables is one statement

[groups.{statements}]
max_size = {backends}
{settings}

[groups.{transactions}]
max_size = {backends}
autocommit = false
"""


class Broker(Service):
    """A broker with the groups STATEMENTS and TRANSACTIONS, at most `backends` backends each."""

    def __init__(self, folder: Path, dsn: str, backends: int, settings: str = "") -> None:
        """Its configuration, socket and log are in folder; dsn names the PostgreSQL server.

        settings: more lines of configuration for the group STATEMENTS.
        """
        self.address = f"ipc://{folder}/poold.sock"
        self.config_file = folder / "poold.toml"
        self._config = CONFIG.format(
            address=self.address,
            backends=backends,
            settings=settings,
            statements=STATEMENTS,
            transactions=TRANSACTIONS,
            **parse_dsn(dsn),
        )
        command = self.poold("start", "--config", str(self.config_file))
        super().__init__("the broker", command, folder / "poold.log", {})

    @staticmethod
    def poold(*arguments: str) -> list[str]:
        """The command line `poold ARGUMENTS` in this environment; -P: no package of the working directory's."""
        return [sys.executable, "-P", "-m", "poold", *arguments]

    def launch(self) -> None:
        """Write the configuration, start the broker and wait until clients may come."""
        self.config_file.write_text(self._config)
        self.start(self._answers)

    def _answers(self) -> bool:
        try:
            Handler(STATEMENTS, address=self.address).query("SELECT 1")
        except DBConnectionError:
            return False
        return True
