"""Who asks all the time whether each group serves, and so measures how long a recovery takes."""

import itertools
import threading
import time
from types import TracebackType
from typing import Self

from waiting import wait_until

from client import DBError, Handler
from client.errors import DBConnectionError

# A probe that is not answered asks anew; the broker cancels what it had asked.
PROBE_TIMEOUT = 0.5
PAUSE = 0.01


class Probes:
    """One thread for each group. A block."""

    def __init__(self, address: str, groups: list[str]) -> None:
        self._address = address
        # When the last request of each group was answered.
        self._served = dict.fromkeys(groups, 0.0)
        self.wrong: list[str] = []
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(group,), daemon=True) for group in groups]

    def served_after(self, when: float) -> list[float]:
        """For each group that was served after this time: its last time."""
        return [served for served in self._served.values() if served > when]

    def wait_served(self, timeout: float) -> tuple[float, float]:
        """Wait until each group has served a request after now; how long the first and the last of them took."""
        begin = time.monotonic()
        first = min(wait_until(lambda: self.served_after(begin), timeout, "any group to serve")) - begin
        wait_until(lambda: len(self.served_after(begin)) == len(self._served), timeout, "all groups to serve")
        return first, time.monotonic() - begin

    def close(self) -> None:
        """Ask no more."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, group: str) -> None:
        db: Handler | None = None
        for number in itertools.count():
            if self._is_over.wait(PAUSE):
                return
            token = f"{group} {number}"
            try:
                db = db or Handler(group, address=self._address)
                got = db.query("SELECT %s AS it", (token,), PROBE_TIMEOUT)[0].it
                if got != token:
                    self.wrong.append(f"{token} was answered with {got}")
                self._served[group] = time.monotonic()
                db.rollback()
            except DBError as error:
                if db is not None:
                    db.rollback()
                if not isinstance(error, DBConnectionError) and error.pgcode != "57014":
                    self.wrong.append(f"{token}: {error!r}")
