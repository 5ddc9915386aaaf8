"""Events to come, by simulated time."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

# What an event does; it returns a line for the trace, or None where it has become void meanwhile.
Event = Callable[..., "str | None"]


class Agenda:
    """A heap of events; those of the same time happen in the order in which they were planned."""

    def __init__(self) -> None:
        self.now = 0.0
        # Until then the broker's process stands still; what is for it waits here, in order.
        self._suspended_until = 0.0
        self._waiting: deque[tuple[Event, tuple[Any, ...]]] = deque()
        self.is_stopped = False  # it has ended
        self.is_calm = False  # nothing goes wrong any more
        self._heap: list[tuple[float, int, bool, Event, tuple[Any, ...]]] = []
        self._serial = 0

    def at(self, when: float, event: Event, *args: Any) -> None:
        """Let this happen then."""
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, False, event, args))

    def tell_at(self, when: float, event: Event, *args: Any) -> None:
        """Let this happen to the broker, then or, where its process stands still, when it goes on."""
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, True, event, args))

    def happen(self) -> str | None:
        """The next event happens; a line about it, or None where there was nothing to it."""
        when, _, is_told, event, args = heapq.heappop(self._heap)
        if when > self.now:
            self.now = when
        if is_told:
            if self.is_stopped:
                return None
            if self._waiting or self.now < self._suspended_until:
                self._waiting.append((event, args))
                return None
        return event(*args)

    def suspend(self, seconds: float) -> None:
        """The broker's process stands still for so long."""
        self._suspended_until = max(self._suspended_until, self.now + seconds)
        self.at(self._suspended_until, self._resume)

    def go_on(self) -> None:
        """The broker's process goes on, if it stood still."""
        self._suspended_until = self.now
        self._resume()

    def _resume(self) -> str | None:
        if self.now < self._suspended_until or not self._waiting:
            return None
        count = len(self._waiting)
        while self._waiting:
            event, args = self._waiting.popleft()
            self.tell_at(0.0, event, *args)  # before all that has come since
        return f"the broker goes on with {count}"

    @property
    def is_suspended(self) -> bool:
        """Whether the broker's process stands still, or has not come to what waited meanwhile."""
        return self.now < self._suspended_until or bool(self._waiting)

    @property
    def is_over(self) -> bool:
        """Whether nothing is going to happen any more."""
        return not self._heap

    def jump(self, seconds: float) -> None:
        """The clock jumps forward: all processes stood still, and what has become due happens at once."""
        self.now += seconds
