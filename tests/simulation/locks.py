"""Row locks of one server: one transaction holds a row, others wait for it in their order."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulation.servers import Process


class Locks:
    """Who holds which row, who waits for it, and at which commit it was last changed."""

    def __init__(self) -> None:
        self._holders: dict[int, Process] = {}
        self._waiting: dict[int, deque[Process]] = {}
        self._rows: dict[Process, list[int]] = {}  # that each holds
        self.commits = 0
        self.changed: dict[int, int] = {}  # the number of the commit that changed a row last

    @property
    def is_free(self) -> bool:
        """Whether nobody holds anything."""
        return not self._holders and not any(self._waiting.values())

    def take(self, process: Process, row: int) -> bool:
        """Lock the row; False where the process has to wait for it, and does from now on."""
        holder = self._holders.setdefault(row, process)
        if holder is process:
            rows = self._rows.setdefault(process, [])
            if row not in rows:
                rows.append(row)
            return True
        process.waits_for = row
        self._waiting.setdefault(row, deque()).append(process)
        return False

    def forget_wait(self, process: Process) -> None:
        """The process waits no more."""
        if process.waits_for is not None:
            self._waiting[process.waits_for].remove(process)
            process.waits_for = None

    def release(self, process: Process, commits: bool) -> list[Process]:
        """The transaction has ended; whoever was the first to wait for one of its rows has it now."""
        granted = []
        if commits:
            self.commits += 1
        for row in self._rows.pop(process, ()):
            if commits:
                self.changed[row] = self.commits
            del self._holders[row]
            if self._waiting.get(row):
                first = self._waiting[row].popleft()
                first.waits_for = None
                self.take(first, row)
                granted.append(first)
        return granted

    def is_deadlocked(self, process: Process) -> bool:
        """Whether the process waits, over others, for itself."""
        seen: list[Process] = []
        at: Process | None = process
        while at is not None and at.waits_for is not None and at not in seen:
            seen.append(at)
            at = self._holders[at.waits_for]
            if at is process:
                return True
        return False
