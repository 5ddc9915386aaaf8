"""Locks of one server: rows that one transaction holds, tables that many may read; others wait in their order."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulation.servers import Process

# A row by its number, a table by its name.
Lockable = int | bytes


class Locks:
    """Who holds what, who waits for it, and at which commit a row was last changed."""

    def __init__(self) -> None:
        # By what is locked: who holds it, and whether others may read it as well.
        self._holders: dict[Lockable, dict[Process, bool]] = {}
        self._waiting: dict[Lockable, deque[tuple[Process, bool]]] = {}
        self._held: dict[Process, list[Lockable]] = {}
        self.commits = 0
        self.changed: dict[Lockable, int] = {}  # the number of the commit that changed a row last

    @property
    def is_free(self) -> bool:
        """Whether nobody holds anything."""
        return not any(self._holders.values()) and not any(self._waiting.values())

    def take(self, process: Process, what: Lockable, is_shared: bool = False) -> bool:
        """Lock it; False where the process has to wait for it, and does from now on."""
        holders = self._holders.setdefault(what, {})
        if process in holders and (is_shared or not holders[process]):
            return True
        if not self._waiting.get(what) and self._is_open(what, process, is_shared):
            self._grant(process, what, is_shared)
            return True
        process.waits_for = what
        self._waiting.setdefault(what, deque()).append((process, is_shared))
        return False

    def _is_open(self, what: Lockable, process: Process, is_shared: bool) -> bool:
        return all(each is process or (is_shared and shared) for each, shared in self._holders[what].items())

    def _grant(self, process: Process, what: Lockable, is_shared: bool) -> None:
        self._holders[what][process] = is_shared
        held = self._held.setdefault(process, [])
        if what not in held:
            held.append(what)

    def forget_wait(self, process: Process) -> list[Process]:
        """The process waits no more; those behind it that need not wait any longer."""
        what, process.waits_for = process.waits_for, None
        if what is None:
            return []
        self._waiting[what] = deque(each for each in self._waiting[what] if each[0] is not process)
        return self._serve(what)

    def release(self, process: Process, commits: bool) -> list[Process]:
        """The transaction has ended; those that waited for something of it and have it now."""
        granted = []
        if commits:
            self.commits += 1
        for what in self._held.pop(process, ()):
            if commits:
                self.changed[what] = self.commits
            del self._holders[what][process]
            granted += self._serve(what)
        return granted

    def _serve(self, what: Lockable) -> list[Process]:
        """Whoever was the first to wait has it, as far as it is free."""
        granted, waiting = [], self._waiting.get(what)
        while waiting and self._is_open(what, *waiting[0]):
            first, is_shared = waiting.popleft()
            first.waits_for = None
            self._grant(first, what, is_shared)
            granted.append(first)
        return granted

    def is_deadlocked(self, process: Process) -> bool:
        """Whether the process waits, over others, for itself."""
        seen: list[Process] = []
        found = self._ahead_of(process)
        while found:
            each = found.pop()
            if each is process:
                return True
            if each not in seen:
                seen.append(each)
                found += self._ahead_of(each)
        return False

    def _ahead_of(self, process: Process) -> list[Process]:
        """Those that the process waits for."""
        what = process.waits_for
        if what is None:
            return []
        found = [each for each in self._holders[what] if each is not process]
        for each, _ in self._waiting[what]:
            if each is process:
                break
            found.append(each)
        return found
