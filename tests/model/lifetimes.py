"""That backends end when they are old, and that another one is there before they do.

With `expires` for the end of a backend's max_lifetime, and a look for what the janitor does at most once per INTERVAL:

1.  Nothing joins a pipeline at `expires` or later.
2.  From rest nothing is begun after a look, or a coming to rest, that is later than `expires`; but for a backend that
    awaits its replacement. It does while its pool has no more open backends than its floor, and another one is being
    opened there, or can be: the endpoint is not left alone, and neither the pool nor the group is full.
3.  The first look after `expires` - REPLACE_AHEAD marks the backend. One that is marked does not count for the floor of
    its pool: what the pool lacks without it is opened at once, where it can be.
4.  No pool has fewer open backends than its floor because one was closed for max_lifetime, where another one was being
    opened or could have been; where the endpoint is not known to be available, or is paused, nothing is promised.

What the core decides within one fact is seen after it. So 2 and 4 look at the pool as it was before the fact and as it
is after it, and are content with either; where connects of the group failed in between, its floors may have been any in
the meantime, and neither is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from poold.core.broker import Broker
from poold.core.pools.availability import AvailabilityState
from poold.core.pools.group import Group
from poold.core.pools.janitor import INTERVAL, REPLACE_AHEAD
from poold.core.pools.pool import CONNECTING_LIMIT, Pool
from poold.core.records.backend import Backend
from poold.core.records.request import Request, Verb
from poold.core.state import BrokerState


@dataclass(frozen=True, slots=True)
class _Strength:
    """How a pool stands."""

    floor: int
    open: int  # its backends, those being opened not counted
    opening: int
    cap: int
    room: int  # for how many more, as far as sizes tell
    is_available: bool
    can_open: bool  # another one, at once
    failures: int  # of connects in its group, so far

    @property
    def replaces(self) -> bool:
        """Whether another backend is being opened, or can be."""
        return self.opening > 0 or self.can_open


def _strength(pool: Pool) -> _Strength:
    opening, state = len(pool.connecting), pool.availability.state
    room = 0 if pool.is_paused else min(pool.cap - pool.size, pool.group.config.max_size - pool.group.size)
    limit = {
        AvailabilityState.AVAILABLE: CONNECTING_LIMIT,
        AvailabilityState.PROBING: 1,
        AvailabilityState.QUARANTINED: 0,
    }[state]
    is_available = state is AvailabilityState.AVAILABLE
    failures = sum(each.stats.failed for each in pool.group.pools)
    can_open = room > 0 and opening < limit
    return _Strength(pool.floor, pool.size - opening, opening, pool.cap, room, is_available, can_open, failures)


class Lifetimes:
    """What is known of looks, of backends at rest, and of what the last fact found."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._looked = 0.0
        self._before: dict[Pool, _Strength] = {}  # of each pool, before the fact
        # Of this fact: pools whose backends were closed for max_lifetime, or for other reasons; and that open some.
        self._retired: list[Pool] = []
        self._closed: list[Pool] = []
        self._opened: list[Pool] = []
        # Backends that were seen to have come to rest at this moment.
        self._rested_at = -1.0
        self._rested: set[int] = set()
        self._begun: dict[int, tuple[Request, float]] = {}  # the last one on each backend

    # A fact, from its beginning to its end.

    def fact(self) -> None:
        """The core is about to be told something."""
        self._before = {pool: _strength(pool) for pool in self._pools}
        self._retired.clear()
        self._closed.clear()
        self._opened.clear()

    @property
    def _pools(self) -> list[Pool]:
        """Those in which backends become too old."""
        every = self._broker.directory.every()
        return [pool for group in every if group.config.max_lifetime for pool in group.pools]

    def opens(self, pool: Pool | None) -> None:
        """The core opens a backend."""
        if pool is not None:
            self._opened.append(pool)

    def closes(self, pool: Pool | None, reason: str) -> None:
        """The core closes a backend."""
        if pool is not None:
            (self._retired if reason == "max_lifetime" else self._closed).append(pool)

    def given(self, backend: Backend, request: Request, now: float) -> None:
        """The request is begun on the backend, or goes on there."""
        if not backend.group.config.max_lifetime or self._begun.get(backend.number) == (request, request.started):
            return
        self._begun[backend.number] = request, request.started
        assert backend.expires is not None, f"{backend} has no end"
        assert backend.expires <= now + backend.group.config.max_lifetime, f"{backend} lives too long"
        if now < backend.expires or (backend.lease is not None and not request.opens):
            return
        joined = [each for each in backend.running if each.verb is not Verb.QUESTION]
        assert len(joined) == 1, f"{request} joins others on {backend}, which is past its end"
        self._look_at_rest(backend, now)

    def given_by_lane(self, backend: Backend, now: float) -> None:
        """The lane has begun a request on the backend."""
        if backend.expires is not None and now >= backend.expires:
            assert len(backend.flights) == 1, f"one joins others on {backend}, which is past its end"
            self._look_at_rest(backend, now)

    def told(self, now: float, is_tick: bool) -> None:
        """The core has been told."""
        if is_tick and now >= self._looked + INTERVAL:
            self._looked = now
            for backend in self._open_backends():
                is_near = backend.expires is not None and now >= backend.expires - REPLACE_AHEAD
                assert backend.is_outdated or not is_near, f"{backend} is near its end, and not marked"
            for pool in self._pools:
                for backend in pool.idle.values():
                    self._check_rest(backend, now)
        for pool in self._pools:
            for backend in reversed(pool.idle.values()):
                if backend.idle_since != now:
                    break
                self._look_at_rest(backend, now)
        for pool in self._retired:
            self._check_retired(pool)

    # What is checked.

    def check_floor(self, group: Group) -> None:
        """What its pools lack without those whose end is near is being opened, where it can be."""
        if self._broker.state is BrokerState.RUNNING:
            for pool in group.pools:
                is_low = pool.size - pool.outdated < pool.floor
                assert not is_low or not _strength(pool).can_open, f"{pool.endpoint.name} lacks what it could open"

    def check_looks(self) -> None:
        """The janitor looks in time."""
        if self._pools and self._broker.state is not BrokerState.STOPPED:
            told = self._broker.next_deadline()
            assert told is not None
            assert told <= self._looked + INTERVAL, "the janitor does not look"

    def _look_at_rest(self, backend: Backend, now: float) -> None:
        """The backend has come to rest in this fact, or has been at rest before it."""
        if self._rested_at != now:
            self._rested_at = now
            self._rested.clear()
        if backend.idle_since == now and backend.number not in self._rested:
            self._check_rest(backend, now)
            self._rested.add(backend.number)

    def _check_rest(self, backend: Backend, now: float) -> None:
        """A backend was looked at, and is kept."""
        if backend.expires is None or now < backend.expires:
            return
        if backend.pool not in self._before:
            return  # max_lifetime has come with this fact
        found = self._before[backend.pool], _strength(backend.pool)
        if found[0].failures != found[1].failures:
            return
        is_needed = min(each.open for each in found) <= max(each.floor for each in found)
        assert is_needed, f"{backend} is past its end, and not needed"
        assert any(each.replaces for each in found), f"{backend} is past its end, and awaits nothing"

    def _check_retired(self, pool: Pool) -> None:
        """A backend was closed for max_lifetime."""
        if pool not in self._before:
            return
        before, after = self._before[pool], _strength(pool)
        if (before.failures, before.cap) != (after.failures, after.cap):
            return  # in the same fact another endpoint came back, or was lost
        elsewhere = sum(each is not pool and each.group is pool.group for each in self._opened)
        could = before.is_available and (before.opening > 0 or before.room > elsewhere)
        is_short = after.open + self._closed.count(pool) < min(before.floor, after.floor)
        is_running = self._broker.state is BrokerState.RUNNING
        assert not (could and is_short and is_running), f"{pool.endpoint.name} has {after.open} of {after.floor} left"

    def _open_backends(self) -> Iterator[Backend]:
        for pool in self._pools:
            for members in pool.members:
                yield from members.values()
