"""The requests of one group that wait for a backend, and whose turn it is.

Three kinds of order, from the outside in:

    priority    Each priority has a line, and lines are served by their weights: with 16 : 4 : 1 the first gets sixteen
                turns while the last gets one. A line that is alone gets all, and no weight is 0, so nobody starves.
                This is stride scheduling (Waldspurger and Weihl, 1995): the line that has used least of its share is
                next. Turns that a line did not want, or could not have, are not saved up for later, and when nobody
                waits any more all lines begin anew.
    process     Within a line processes take turns, one request each. A process with a thousand waiting requests delays
                another one no more than a process with two would.
    arrival     The requests of one process are served in the order of their arrival.

Requests that had their turn already and are to run again come before all of these. Every operation is O(1) unless it
says otherwise, leaving from the middle included (a client that died, a deadline that passed).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from typing import cast

from poold.core.records.flow import Flight
from poold.core.records.request import Request


class Line:
    """The waiting requests of one priority."""

    __slots__ = ("passed", "size", "stride", "turns")

    def __init__(self, weight: int) -> None:
        self.stride = 1.0 / weight  # what a turn costs
        self.passed = 0.0  # what its turns have cost so far; the line that has paid least is next
        # Requests by process, in the order of the processes' turns; a process is here while it has waiting requests.
        # OrderedDicts, as a plain dict finds its first entry in O(n) only after deletions at the front.
        self.turns: OrderedDict[Hashable, OrderedDict[Request, None]] = OrderedDict()
        self.size = 0

    def __iter__(self) -> Iterator[Request]:
        for requests in self.turns.values():
            yield from requests

    def first(self) -> Request:
        """The request whose turn it is. The line must not be empty."""
        return next(iter(next(iter(self.turns.values()))))

    def push(self, request: Request) -> None:
        """Add the request behind those of its process."""
        process = request.client.process
        requests = self.turns.get(process)
        if requests is None:
            requests = self.turns[process] = OrderedDict()
        requests[request] = None
        self.size += 1

    def pop(self) -> Request:
        """Take the request whose turn it is; the turn of its process comes again after those of the others."""
        process, requests = next(iter(self.turns.items()))
        request = requests.popitem(last=False)[0]
        if requests:
            self.turns.move_to_end(process)
        else:
            del self.turns[process]
        self.passed += self.stride
        self.size -= 1
        return request

    def replace(self, flight: Flight, request: Request) -> None:
        """Put the request in the flight's place. O(requests of its process)."""
        turns, process = self.turns, request.client.process
        before: list[Request | Flight] = list(turns[process])
        turns[process] = OrderedDict((request if each is flight else cast(Request, each), None) for each in before)

    def discard(self, request: Request) -> bool:
        """Take this request out; False if it is not here."""
        process = request.client.process
        requests = self.turns.get(process)
        if requests is None or request not in requests:
            return False
        del requests[request]
        if not requests:
            del self.turns[process]
        self.size -= 1
        return True


class Queue:
    """Waiting requests: enter by push or push_front, leave by pop when a backend is free for them, or by discard."""

    def __init__(self, weights: Sequence[int]) -> None:
        """weights are by priority, each at least 1."""
        self.size = 0
        self._lines = tuple(map(Line, weights))
        # What the line that was served last had paid before: a line that was empty begins here when a request comes.
        self._paid = 0.0
        # Requests that had their turn before and are to run again, the next one first.
        self._returned: OrderedDict[Request, None] = OrderedDict()

    def __len__(self) -> int:
        return self.size

    def reweigh(self, weights: Sequence[int]) -> None:
        """Let the priorities have these weights from here on."""
        for line, weight in zip(self._lines, weights, strict=True):
            line.stride = 1.0 / weight

    def __iter__(self) -> Iterator[Request]:
        """All of them, in no useful order. O(n)."""
        yield from self._returned
        for line in self._lines:
            yield from line

    def push(self, request: Request) -> None:
        """Add the request behind the waiting requests of its process and priority."""
        line = self._lines[request.priority]
        if not self.size:
            self._paid = max(each.passed for each in self._lines)
        if not line.turns:
            # While it was empty it saved nothing up: it begins with the others, not before them.
            line.passed = max(line.passed, self._paid)
        line.push(request)
        self.size += 1

    def push_front(self, request: Request) -> None:
        """Add a request that had its turn before."""
        self._returned[request] = None
        self._returned.move_to_end(request, last=False)
        self.size += 1

    def first(self, priorities: int) -> Request | None:
        """The request whose turn it is among the first so many priorities, and those to run again; None without any."""
        if self._returned:
            return next(iter(self._returned))
        line = self._next_line(priorities)
        return None if line is None else line.first()

    def pop(self, priorities: int) -> Request:
        """Take out the request that `first` returns. There must be one."""
        self.size -= 1
        if self._returned:
            return self._returned.popitem(last=False)[0]
        line = self._next_line(priorities)
        assert line is not None
        self._paid = max(self._paid, line.passed)
        for held in self._lines[priorities:]:
            # Nor does a line that may not be served save up: it would have all turns as soon as it may.
            held.passed = max(held.passed, line.passed)
        return line.pop()

    def replace(self, flight: Flight, request: Request) -> None:
        """Put the request in the place of a flight, which waits here. O(requests of its process)."""
        self._lines[request.priority].replace(flight, request)

    def discard(self, request: Request) -> None:
        """Take this request out, if it is here."""
        if request in self._returned:
            del self._returned[request]
            self.size -= 1
        elif self._lines[request.priority].discard(request):
            self.size -= 1

    def oldest(self) -> Request | None:
        """The request that has waited longest, None if nobody waits. O(processes that wait)."""
        oldest = min(self._returned, key=lambda request: request.arrived, default=None)
        since = float("inf") if oldest is None else oldest.arrived
        for line in self._lines:
            for requests in line.turns.values():
                for request in requests:
                    if request.arrived < since:
                        oldest, since = request, request.arrived
                    break  # those behind it in its turn came later
        return oldest

    def count(self, priority: int) -> int:
        """How many requests of this priority wait, not counting those that had their turn before."""
        return self._lines[priority].size

    def _next_line(self, priorities: int) -> Line | None:
        chosen: Line | None = None
        for line in self._lines[:priorities]:
            if line.turns and (chosen is None or line.passed < chosen.passed):
                chosen = line
        return chosen
