"""A network of a run's own: `benchmark.delay` between everybody and PostgreSQL, in a process of its own."""

import sys
import time
from pathlib import Path
from statistics import median

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from benchmark.service import Service
from poold.embedded.programs import Account

PROGRAM = Path(__file__).with_name("delay.py")
# What libpq calls a server's socket: the folder is its "host", the number its "port".
SOCKET = ".s.PGSQL.{port}"
ROUND_TRIPS = 100


class Network(Service):
    """PostgreSQL, but further away; `dsn` leads there."""

    def __init__(self, folder: Path, server_dsn: str, delay_ms: float, account: Account) -> None:
        """folder is made for its socket, and lets in whom the server's own folder lets in: the account and root."""
        parts = parse_dsn(server_dsn)
        self.dsn = make_dsn(server_dsn, host=str(folder))
        self._folder = folder
        self._account = account
        name = SOCKET.format(port=parts["port"])
        command = [
            *(sys.executable, "-P", str(PROGRAM)),
            *(str(folder / name), str(Path(parts["host"], name)), str(delay_ms)),
        ]
        super().__init__("the network's delay", command, folder.with_suffix(".log"), {})

    def launch(self) -> None:
        """Start it and wait until it lets somebody through."""
        self._folder.mkdir()
        self._account.give(self._folder)
        self.start(self._answers)

    def added_ms(self, server_dsn: str) -> float:
        """What it really adds to a round trip, measured: the delay, and the time of the relay itself."""
        return _round_trip_ms(self.dsn) - _round_trip_ms(server_dsn)

    def _answers(self) -> bool:
        try:
            psycopg2.connect(self.dsn).close()
        except psycopg2.OperationalError:
            return False
        return True


def _round_trip_ms(dsn: str) -> float:
    connection = psycopg2.connect(dsn)
    try:
        connection.autocommit = True
        times = []
        with connection.cursor() as cursor:
            for _ in range(ROUND_TRIPS):
                before = time.perf_counter()
                cursor.execute("SELECT 1")
                times.append(time.perf_counter() - before)
        return median(times) * 1000
    finally:
        connection.close()
