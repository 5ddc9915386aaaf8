"""Deadlines: each key has at most one, and the earliest is known at once.

A heap with lazy deletion. Moving a deadline later or clearing it leaves the heap entry where it is; when that entry
comes up, the deadline of its key decides. So a backend that serves thousands of statements per second, each with a new
deadline, has one entry in the heap, not thousands. set and clear are O(log n) at most, amortised.
"""

import heapq
from collections.abc import Hashable

# The heap is rebuilt when more than half of its entries are outdated and it has more than so many.
COMPACT_FROM = 64


class Timers:
    """Deadlines by key."""

    def __init__(self) -> None:
        # Every key with a deadline: enters by set, leaves by clear or pop_due.
        self._deadlines: dict[Hashable, float] = {}
        # The earliest heap entry of each key that has one; may be earlier than the key's deadline, never later.
        self._armed: dict[Hashable, float] = {}
        self._heap: list[tuple[float, int, Hashable]] = []
        self._serial = 0  # ties in the heap are broken by age, keys need not compare

    def __len__(self) -> int:
        return len(self._deadlines)

    def set(self, key: Hashable, when: float) -> None:
        """Give the key this deadline instead of any it had."""
        self._deadlines[key] = when
        armed = self._armed.get(key)
        if armed is None or when < armed:
            self._arm(key, when)

    def clear(self, key: Hashable) -> None:
        """Take the key's deadline away, if it has one."""
        if self._deadlines.pop(key, None) is not None and len(self._heap) > COMPACT_FROM + 2 * len(self._deadlines):
            self._compact()

    def next_deadline(self) -> float | None:
        """A time no later than the earliest deadline, earlier perhaps if deadlines were moved; None without any."""
        return self._heap[0][0] if self._deadlines else None

    def pop_due(self, now: float) -> Hashable | None:
        """Take away the earliest deadline if it is due, and return its key; None if none is due.

        One at a time, because acting on one deadline may move or clear another.
        """
        while self._heap and self._heap[0][0] <= now:
            when, _, key = heapq.heappop(self._heap)
            if self._armed.get(key) != when:
                continue  # outdated: the key was armed again for an earlier time
            del self._armed[key]
            deadline = self._deadlines.get(key)
            if deadline is None:
                continue
            if deadline <= now:
                del self._deadlines[key]
                return key
            self._arm(key, deadline)
        return None

    def _arm(self, key: Hashable, when: float) -> None:
        self._armed[key] = when
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, key))

    def _compact(self) -> None:
        self._heap.clear()
        self._armed.clear()
        for key, when in self._deadlines.items():
            self._arm(key, when)
