"""Places where statements wait until the test lets them go on: advisory locks of a connection of the test's own."""

from collections.abc import Iterator
from contextlib import contextmanager

from postgres import Postgres
from waiting import wait_until


class Gate:
    """Closed from the beginning; statements that call `passage` wait at it."""

    def __init__(self, server: Postgres, key: int) -> None:
        self.key = key
        # Shared, so that all who wait go on at once.
        self.passage = f"pg_advisory_xact_lock_shared({key})"
        self._server = server
        self._connection = server.connect()
        self._execute(f"SELECT pg_advisory_lock({key})")

    def waiting(self) -> list[int]:
        """The server processes that wait."""
        found = self._server.execute(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            " AND (classid::bigint << 32) + objid::bigint = %s ORDER BY waitstart",
            (self.key,),
        )
        return [pid for (pid,) in found]

    def arrived(self, count: int = 1) -> list[int]:
        """Wait until so many wait; their processes."""
        wait_until(lambda: len(self.waiting()) >= count, 20, f"{count} statements to wait at the gate")
        return self.waiting()

    def open(self) -> None:
        """Let all go on."""
        self._execute(f"SELECT pg_advisory_unlock({self.key})")

    def close(self) -> None:
        """The end of it; whoever waits goes on."""
        self._connection.close()

    def _execute(self, sql: str) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(sql)


@contextmanager
def gate(server: Postgres, key: int = 4711) -> Iterator[Gate]:
    """A closed Gate, for a block."""
    made = Gate(server, key)
    try:
        yield made
    finally:
        made.close()
