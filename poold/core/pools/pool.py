"""The backends of one group on one endpoint."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING

from poold.core.pools.availability import Availability, AvailabilityState
from poold.core.pools.endpoint import Endpoint, Role
from poold.core.pools.watch import Watch
from poold.core.records.backend import Backend
from poold.core.records.request import Request
from poold.core.state import TRANSITIONS, BackendState
from poold.core.stats import PoolStats

if TYPE_CHECKING:
    from poold.core.pools.group import Group

# Connects under way at once in one pool: a hundred would hurt a PostgreSQL that is starting or short of memory.
# PgBouncer opens one at a time per pool; two hide the round trip to a remote server.
CONNECTING_LIMIT = 2


class Pause(IntEnum):
    """What an operator has paused, or drained: what is drained keeps no backend."""

    GROUP = 0
    ENDPOINT = 1
    GROUP_DRAIN = 2
    ENDPOINT_DRAIN = 3


PAUSES = tuple(Pause)
OF_GROUPS, OF_ENDPOINTS = (Pause.GROUP, Pause.GROUP_DRAIN), (Pause.ENDPOINT, Pause.ENDPOINT_DRAIN)
DRAINS = frozenset((Pause.GROUP_DRAIN, Pause.ENDPOINT_DRAIN))
_EVADED = frozenset((Pause.ENDPOINT, *DRAINS))


class Pool:
    """Backends by state: each is in exactly the collection its state names, and only `move` changes that."""

    def __init__(self, endpoint: Endpoint, group: Group) -> None:
        self.endpoint = endpoint
        self.availability = Availability()
        self.group = group
        # Whether the group's requests may run here, by the endpoint's role; decided by `requests.observing`.
        self.is_serving = not group.has_roles
        # Why a reload has taken it away from the group, "" if it has not: its backends end as they rest, and nothing
        # begins here but what belongs to something that has begun.
        self.left = ""
        # What of it is paused: then nothing begins here but what belongs to something that has begun.
        self.pauses: set[Pause] = set()
        self.is_paused = False  # whether anything is
        # How many backends the group may have here at most, and keeps here at least; set by `routing.spread`.
        self.cap = 0
        self.floor = 0
        self.credit = 0.0  # turns that are owed to it, see `routing.whose_turn`
        self.members: tuple[dict[int, Backend], ...] = tuple({} for _ in BackendState)
        self.size = 0  # backends in all states but CLOSED
        self.outdated = 0  # how many of these are marked, as their end is near
        self.stats = PoolStats()
        self.idle = self.members[BackendState.IDLE]  # in the order they became idle; the last is taken first
        self.connecting = self.members[BackendState.CONNECTING]
        self.active = self.members[BackendState.ACTIVE]
        self.lent = self.members[BackendState.LENT]
        # Inquiries that wait for a backend here, as only the server of a COMMIT knows what became of it: enter by
        # `Waiting.ask`, leave when granted a backend or at their deadline.
        self.inquiries: deque[Request] = deque()
        # Other questions to this pool's server, likewise but without a deadline.
        self.questions: deque[Request] = deque()
        self.watch = Watch(self)

    def add(self, backend: Backend) -> None:
        """Add a new backend, in state CONNECTING."""
        self.connecting[backend.number] = backend
        self.size += 1

    def __iter__(self) -> Iterator[Backend]:
        """All backends but those that are CLOSED."""
        for members in self.members:
            yield from members.values()

    def pause(self, kind: Pause) -> None:
        """Begin nothing here, until it is resumed."""
        self.pauses.add(kind)
        self.is_paused = True

    def resume(self, kind: Pause) -> None:
        """Go on, unless it is paused for another reason as well."""
        self.pauses.discard(kind)
        self.is_paused = bool(self.pauses)

    @property
    def is_evaded(self) -> bool:
        """Whether it keeps no backends, as it is drained or its endpoint is paused: other endpoints do its part."""
        return not self.pauses.isdisjoint(_EVADED)

    @property
    def is_drained(self) -> bool:
        """Whether an operator wants no connection here."""
        return not self.pauses.isdisjoint(DRAINS)

    @property
    def why_evaded(self) -> str:
        """Why its backends are closed if it is evaded."""
        return "it is drained" if self.is_drained else "its endpoint is paused"

    def outdate(self, backend: Backend) -> None:
        """Note that the backend's end is near: it does not count for the floor."""
        if not backend.is_outdated:
            backend.is_outdated = True
            self.outdated += 1

    def move(self, backend: Backend, state: BackendState) -> None:
        """Change the backend's state; a transition that the table does not know is a bug and raises."""
        if state not in TRANSITIONS[backend.state]:
            raise AssertionError(f"{backend!r} cannot become {state.name.lower()}")
        del self.members[backend.state][backend.number]
        backend.state = state
        if state is BackendState.CLOSED:
            self.size -= 1
            self.outdated -= backend.is_outdated
            self.group.batched.discard(backend)
        else:
            self.members[state][backend.number] = backend

    @property
    def open(self) -> int:
        """How many backends are connected: all but those being opened."""
        return self.size - len(self.connecting)

    @property
    def why_unused(self) -> str:
        """Why its backends are closed if it does not serve."""
        if self.left:
            return self.left
        return f"its endpoint is not used by group {self.group.name}: {self.endpoint.why}"

    @property
    def is_told(self) -> bool:
        """Whether the primary of this replica is asked whether the catalogs have changed; a replica cannot tell."""
        cluster = self.group.cluster
        if self.endpoint.role is not Role.REPLICA or cluster is None or cluster.primary is None:
            return False
        return cluster.primary.is_heard

    @property
    def busy(self) -> int:
        """How many backends are at work here."""
        resting = len(self.idle) + len(self.connecting)
        for backend in self.lent.values():
            resting += not backend.flights
        return self.size - resting

    @property
    def is_over(self) -> bool:
        """Whether a reload has taken it away, and nothing is left of it."""
        return bool(self.left) and not self.size and not self.inquiries

    @property
    def is_empty(self) -> bool:
        """Whether it could do a part of the work and has no backend, not even one being opened."""
        return self.is_serving and not self.size

    @property
    def is_below_floor(self) -> bool:
        """Whether the pool has fewer backends than it should keep, not counting those whose end is near."""
        return self.size - self.outdated < self.floor

    def may_open(self) -> bool:
        """Whether another connect may begin here, as far as this pool is concerned."""
        state = self.availability.state
        if state is AvailabilityState.QUARANTINED or self.is_paused or self.size >= self.cap:
            return False
        return len(self.connecting) < (1 if state is AvailabilityState.PROBING else CONNECTING_LIMIT)

    def must_ask(self) -> bool:
        """Whether it is paused and has no backend for the inquiries that wait: what has begun is brought to its end."""
        is_wanted = self.is_paused and self.inquiries and not self.size
        return bool(is_wanted) and self.is_serving and self.availability.state is not AvailabilityState.QUARANTINED
