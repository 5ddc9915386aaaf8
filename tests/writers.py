"""Threads that write and read all the time while servers change places, and the ledger of what they were told."""

import itertools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Any, NamedTuple, Self

from postgres import Postgres
from waiting import wait_until

from client import DBError, Handler
from client.wire.messages import EXECUTED, UNKNOWN

TABLE = "CREATE TABLE written (id integer, part integer)"
ADD = "INSERT INTO written VALUES (%s, %s)"
# What a server of tests/clusters.py calls itself.
READ = "SELECT current_setting('cluster_name') AS node, max(id) AS last FROM written"
BLOCK = 2  # statements of a transaction block
# After an error, so that a fault is not answered with a thousand attempts.
PAUSE = 0.01


class Fate(StrEnum):
    """What a writer was told of a write."""

    THERE = "acknowledged"
    ABSENT = "refused"  # not executed, or failed
    UNKNOWN = "unknown"  # either


class Entry(NamedTuple):
    """A write, or a read, that has ended."""

    when: float  # by time.monotonic
    fate: Fate
    error: DBError | None = None
    parts: int = 0  # rows that a write is of
    node: str = ""  # where a read was


class Load:
    """Writers and readers with a Handler each. A block: at its end they end what they do; a hang is an error.

    Every other write is a transaction block of BLOCK rows, the rest are single statements.
    """

    def __init__(
        self,
        connect: Callable[..., Handler],
        writers: int = 4,
        readers: int = 0,
        pause: float = 0.0,
    ) -> None:
        """connect makes a Handler of a group; pause is between two requests of a thread, in seconds."""
        self.writes: dict[int, Entry] = {}  # by id
        self.reads: list[Entry] = []
        self._pause = pause
        self._ids = itertools.count(1)
        self._is_over = threading.Event()
        self._broken: list[BaseException] = []
        works = [self._write] * writers + [self._read] * readers
        self._threads = [
            threading.Thread(target=self._live, args=(work, connect(read_only=work == self._read)), daemon=True)
            for work in works
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(30 if kind is None else 1)
        if kind is None:
            assert not any(thread.is_alive() for thread in self._threads), "a request was never answered"
            if self._broken:
                raise self._broken[0]

    # What came of it.

    def count(self, fate: Fate = Fate.THERE) -> int:
        """How many writes ended so."""
        return sum(entry.fate is fate for entry in list(self.writes.values()))

    def errors(self) -> list[DBError]:
        """What writers and readers were told instead of a result."""
        return [entry.error for entry in [*list(self.writes.values()), *self.reads] if entry.error is not None]

    def wait_for_writes(self, more: int, timeout: float = 20.0) -> None:
        """Wait until so many more writes were acknowledged."""
        until = self.count() + more
        self._wait(lambda: self.count() >= until, timeout, f"{more} more writes")

    def wait_for_reads(self, more: int, node: str = "", timeout: float = 20.0) -> None:
        """Wait until so many more reads were answered, by the node if one is named."""
        before = len(self.reads)

        def are_there() -> bool:
            return sum(each.error is None and node in ("", each.node) for each in self.reads[before:]) >= more

        self._wait(are_there, timeout, f"{more} more reads {f'on {node}' if node else ''}")

    def audit(self, server: Postgres, are_all: bool = True) -> list[str]:
        """What is wrong in the server's table, by what the writers were told; are_all: nothing may have been lost."""
        there: dict[int, Counter[int]] = defaultdict(Counter)
        for number, part in server.execute("SELECT id, part FROM written"):
            there[number][part] += 1
        wrong = []
        for number, entry in self.writes.items():
            found, whole = there.pop(number, Counter()), Counter(range(entry.parts))
            if entry.fate is Fate.THERE and found != whole and (found or are_all):
                wrong.append(f"{number} was acknowledged: of {entry.parts} rows {dict(found)} are there")
            elif entry.fate is Fate.ABSENT and found:
                wrong.append(f"{number} is there: {entry.error!r} ({entry.error and entry.error.outcome})")
            elif found and found != whole:
                wrong.append(f"{number} is there in part, or more than once: of {entry.parts} rows {dict(found)}")
        return wrong + [f"{number} is there, which nobody has finished" for number in there]

    def lost(self, server: Postgres) -> list[int]:
        """Writes that were acknowledged and are not in the server's table."""
        there = {number for (number,) in server.execute("SELECT DISTINCT id FROM written")}
        return [number for number, entry in self.writes.items() if entry.fate is Fate.THERE and number not in there]

    # How.

    def _wait(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        wait_until(lambda: self._broken or condition(), timeout, what)
        if self._broken:
            raise self._broken[0]

    def _live(self, work: Callable[[Handler], None], db: Handler) -> None:
        try:
            while not self._is_over.is_set():
                work(db)
                if self._pause:
                    self._is_over.wait(self._pause)
        except BaseException as error:  # noqa: BLE001  the test raises it
            self._broken.append(error)

    def _write(self, db: Handler) -> None:
        number = next(self._ids)
        parts = BLOCK if number % 2 else 1
        error = self._try(lambda: self._add(db, number, parts))
        self.writes[number] = Entry(time.monotonic(), _fate(error), error, parts)

    def _add(self, db: Handler, number: int, parts: int) -> None:
        if parts == 1:
            db.query(ADD, (number, 0))
            return
        with db.transaction() as tx:
            for part in range(parts):
                tx.query(ADD, (number, part), expect=1)

    def _read(self, db: Handler) -> None:
        rows: list[Any] = []
        error = self._try(lambda: rows.append(db.query(READ)[0]))
        node = rows[0].node if rows else ""
        self.reads.append(Entry(time.monotonic(), _fate(error), error, node=node))

    def _try(self, action: Callable[[], None]) -> DBError | None:
        try:
            action()
        except DBError as error:
            self._is_over.wait(PAUSE)
            return error
        return None


def _fate(error: DBError | None) -> Fate:
    if error is None or error.outcome == EXECUTED:
        return Fate.THERE
    return Fate.UNKNOWN if error.outcome == UNKNOWN else Fate.ABSENT
