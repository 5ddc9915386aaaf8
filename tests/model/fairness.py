"""Whose turn it is: that batch holds no more than its share, and that no priority is overtaken for ever.

The turns of processes within a priority are in `model.turns`.
"""

from __future__ import annotations

from collections import defaultdict
from math import ceil

from client.wire.limits import BATCH
from model.books import Books, Job
from model.turns import WatchedQueue
from poold.core.broker import Broker
from poold.core.pools.group import Group
from poold.core.records.flow import Flight
from poold.core.records.request import Request
from poold.core.state import BackendState as S

_HELD = (S.ACTIVE, S.LEASED, S.CANCELLING, S.SETTLING)
# Turns that others may have besides those of their weights: where several are given in one step, for each priority.
_SLACK = 4


class Fairness:
    """What is given to backends, in order."""

    def __init__(self, broker: Broker, books: Books) -> None:
        self._broker = broker
        self._books = books
        # By group: how many of other priorities were served while one of this waited and could have been.
        self._overtaken: defaultdict[Group, list[int]] = defaultdict(lambda: [0, 0, 0])
        self._queues: list[WatchedQueue] = []
        self.adopt()

    def adopt(self) -> None:
        """Watch the queues of groups that are new; weights may be others."""
        self._overtaken.clear()
        for group in self._broker.directory.every():
            if not isinstance(group.queue, WatchedQueue):
                assert not group.queue.size
                weights = group.config.weights
                group.queue = queue = WatchedQueue((weights.interactive, weights.normal, weights.batch))
                self._queues.append(queue)

    def fact(self) -> None:
        """The core is about to be told something."""
        for queue in self._queues:
            queue.fact()

    def given(self, request: Request, job: Job) -> None:
        """The request has got a backend. What had one before comes first, and counts for nothing here."""
        is_first = not job.was_given and (request.lease is None or request.opens)
        job.was_given = True
        group = request.group
        assert isinstance(group.queue, WatchedQueue)
        # A message that is tried again after a pause waits for a turn as any other.
        is_in_turn = group.queue.is_begun_in_turn(request)
        if not is_first and not is_in_turn:
            return
        if not is_in_turn:
            group.queue.check_nobody_waits(request)
        assert not request.client.is_stalled, f"{request} is begun, whose client reads nothing"
        if request.priority == BATCH:
            held = self._held_by_batch(group)
            assert held <= _batch_limit(group), f"batch holds {held} backends of {group.name}"
        self._count(group, request.priority)

    def given_by_lane(self, flight: Flight, job: Job) -> None:
        """The lane has begun a request: in its turn, or as nobody waits."""
        job.was_given = True
        group = flight.flow.group
        assert isinstance(group.queue, WatchedQueue)
        if not group.queue.is_begun_in_turn(flight):
            group.queue.check_nobody_waits(flight)
        assert not flight.client.is_stalled, f"request {flight.number} is begun, whose client reads nothing"
        self._count(group, flight.priority)

    def _count(self, group: Group, served: int) -> None:
        queue, overtaken, weights = group.queue, self._overtaken[group], group.config.weights
        if not queue.size:
            overtaken[:] = 0, 0, 0
            return
        shares = weights.interactive, weights.normal, weights.batch
        for priority, share in enumerate(shares):
            if priority == served or not queue.count(priority) or priority >= group.priorities():
                overtaken[priority] = 0
                continue
            overtaken[priority] += 1
            most = sum(ceil(each / share) + _SLACK for each in shares)
            assert overtaken[priority] <= most, f"{overtaken[priority]} are served before one of priority {priority}"

    def _held_by_batch(self, group: Group) -> int:
        return sum(
            (backend.lease is not None and backend.lease.priority == BATCH)
            or any(self._is_batch(request) for request in backend.running)
            for pool in group.pools
            for state in _HELD
            for backend in pool.members[state].values()
        )

    def _is_batch(self, request: Request) -> bool:
        """What was given back, and has another backend without waiting for its share, does not count."""
        if request.priority != BATCH or request.lease is not None:
            return False
        job = self._books.jobs[request.number]
        return not job.was_lost and not job.has_failed


def _batch_limit(group: Group) -> int:
    return max(1, int(group.config.max_size * group.config.batch_share))
