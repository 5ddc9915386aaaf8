"""A group: what clients ask for by name. Its queue, its pools, and what its limits mean."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from client.wire.limits import BATCH, ON_REPLICAS
from poold.config.model import GroupConfig
from poold.core.pools import roles, routing
from poold.core.pools.availability import AvailabilityState
from poold.core.pools.cluster import Cluster
from poold.core.pools.endpoint import Endpoint
from poold.core.pools.pool import Pool
from poold.core.pools.steps import Adopt, Dismiss, Examine, Grant, Hold, Lend, Open, Poke, Recall, Refuse, Reroute, Step
from poold.core.records.backend import Backend
from poold.core.records.client import Client
from poold.core.records.flow import Flight
from poold.core.records.request import Request
from poold.core.shared.queue import Queue
from poold.core.state import ACTIVE, BackendState
from poold.core.statements.statement import Statement, Statements, StatementState
from poold.core.stats import GroupStats
from poold.core.tallies import Tallies
from poold.core.work.time_limits import is_hopeless
from poold.core.work.transaction_plan import Plans

# Short statements of one turn that share a backend.
SHARING = 4


class Group:
    """One group over its endpoints, a pool on each."""

    def __init__(
        self, name: str, config: GroupConfig, endpoints: Mapping[str, Endpoint], make_queue: type[Queue] = Queue
    ) -> None:
        self.name = name
        self.shown_name = name  # to operators; another one once it is removed
        self.is_removed = False  # by a reload: what runs comes to its end, what waits is refused
        # The database cluster of its endpoints, if roles matter and it is known.
        self.cluster: Cluster | None = None
        # The group for reads on replicas that belongs to this one; and on its side, the one that it belongs to.
        self.replicas: Group | None = None
        self.main: Group | None = None
        self.is_uneven = False  # a request was given a backend while an endpoint had none at all
        self.followed: Cluster | None = None  # the cluster, if its replicas are read: writes are noted there
        self.obstacle = ""  # why its endpoints cannot make a group; then all of its requests are refused
        self.queue = make_queue(_turns(config))
        # The backends that they hold: enter when one of them begins there, leave when `let_go` finds none of them left,
        # or when closed. Kept, as counting them for each request would cost more than the rest of its admission.
        self.batched: set[Backend] = set()
        self.stats = GroupStats()
        self.tallies = Tallies()  # by statement
        self.clients = 0  # connected clients that have used the group
        self.statements = Statements(config.prepare == "auto", config.plans)
        self.plans = Plans(self.statements)
        # Statements to be probed as soon as a backend is free: enter when seen often enough, leave when one is.
        self.probes: deque[Statement] = deque()
        # The backend that was last given a short statement while idle, and the turn in which that was.
        self._sharing: Backend | None = None
        self._sharing_turn = 0
        # Whether the lane was told that one of its backends here is wanted, and has not given one back yet.
        self.is_poked = False
        self.pools: tuple[Pool, ...] = ()
        self.configure(config)
        self.use(tuple(Pool(endpoints[each], self) for each in config.endpoints))

    def configure(self, config: GroupConfig) -> None:
        """Have what the configuration says, from here on; `use` has to follow if that is about endpoints or roles."""
        self.config = config
        self.role = config.wanted
        # Whether it uses only endpoints with certain roles; if not, all of them are equals.
        self.has_roles = self.role != "any"
        self.most_lag = roles.most_lag(config.max_lag)
        self.queue.reweigh(_turns(config))
        # How many backends requests and leases of priority batch may hold at once.
        self.batch_limit = max(1, int(config.max_size * config.batch_share))
        self._sharing_depth = min(SHARING, config.pipeline_depth)

    def use(self, pools: tuple[Pool, ...]) -> None:
        """Have these pools, among them those that a reload has taken away and that are not over."""
        self.pools = pools
        self.endpoints = tuple(pool.endpoint for pool in pools if not pool.left)
        self.respread()

    @property
    def size(self) -> int:
        """Backends over all endpoints, those still opening included."""
        return sum(pool.size for pool in self.pools)

    @property
    def has_errands(self) -> bool:
        """Whether requests of the broker's own wait for a backend: probes, inquiries and other questions."""
        for pool in self.pools:  # asked after every request, and a loop costs half of what any() does
            if pool.inquiries or pool.questions:
                return True
        return bool(self.probes)

    def count(self, state: BackendState) -> int:
        """Backends in that state over all endpoints."""
        return sum(len(pool.members[state]) for pool in self.pools)

    @property
    def is_paused(self) -> bool:
        """Whether nothing begins in it, by an operator's word."""
        is_used = False
        for pool in self.pools:  # asked again and again while requests wait
            if pool.is_serving:
                if not pool.is_paused:
                    return False
                is_used = True
        return is_used or all(pool.is_paused for pool in self.pools)

    @property
    def useful(self) -> list[Pool]:
        """The pools that its requests may use; all of them if they may use none."""
        return [pool for pool in self.pools if pool.is_serving] or list(self.pools)

    @property
    def has_lent(self) -> bool:
        """Whether the lane has any backend of the group."""
        return any(pool.lent for pool in self.pools)

    @property
    def configured(self) -> str:
        """The name of the group in the configuration."""
        return self.name if self.main is None else self.main.name

    @property
    def routes_reads(self) -> bool:
        """Whether plain reads leave it for replicas, even if nobody says that they only read."""
        return self.replicas is not None and self.config.route_reads

    @property
    def is_reachable(self) -> bool:
        """Whether any of its requests may be expected to run soon."""
        return any(
            pool.is_serving
            and not pool.is_evaded
            and (pool.open or pool.availability.state is AvailabilityState.AVAILABLE)
            for pool in self.pools
        )

    @property
    def is_slow(self) -> bool:
        """Whether its replicas were too far behind, when they were last asked, to be waited for."""
        return any(pool.endpoint.lag > self.config.catch_up for pool in self.pools if pool.is_serving)

    def is_current(self, client: Client) -> bool:
        """Whether its replicas have replayed what the client's process has written."""
        if self.cluster is None:
            return False
        wanted = self.cluster.wanted(client.process)
        return wanted is not None and all(pool.endpoint.position >= wanted for pool in self.pools if pool.is_serving)

    @property
    def is_primary_missing(self) -> bool:
        """Whether it needs a primary, and none is known that answers."""
        return self.role == "primary" and not any(pool.is_serving and pool.endpoint.is_heard for pool in self.pools)

    def respread(self) -> None:
        """Distribute the group's sizes over its pools again; to be called when an endpoint's state has changed."""
        routing.spread(self.pools, self.config.max_size, self.config.min_size)

    def take_idle(self) -> Backend | None:
        """An idle backend for a request; endpoints take turns. It stays IDLE until moved."""
        backend = routing.idle_backend(self.pools)
        if len(self.pools) > 1 and backend is not None:
            self.is_uneven = any(pool.is_empty and pool.may_open() for pool in self.pools)
        return backend

    def begin_sharing(self, backend: Backend, turn: int) -> None:
        """Note that a short statement goes to this backend, which was idle."""
        self._sharing = backend
        self._sharing_turn = turn

    def take_sharing(self, turn: int, now: float) -> Backend | None:
        """The backend that was given a short statement in this very turn, if another may join it; else None.

        To send, to wake the server's process and to receive cost more than a short statement itself. So the short
        statements of one turn share all three, even if another backend is idle.
        """
        backend = self._sharing
        if backend is None or self._sharing_turn != turn or backend.state is not ACTIVE or self.probes:
            return None
        if backend.pool.is_paused:
            return None
        is_room = len(backend.running) < self._sharing_depth
        return backend if is_room and routing.is_company(backend, now) else None

    def take_company(self, now: float) -> Backend | None:
        """The backend with the shortest pipeline that a short statement may join; None if there is none.

        While a statement waits to be probed nothing may join, as the probe needs a backend that comes to rest.
        """
        if self.probes:
            return None
        return routing.backend_to_join(self.pools, self.config.pipeline_depth, now)

    def next_step(self, now: float, is_served: bool, is_open: bool) -> Step | None:
        """The group's next step; None if nothing is left to do.

        is_served: waiting requests may be served, not only backends opened. is_open: the broker takes new work; if not
        only what has begun before is served, and backends are opened only for that.
        """
        is_paused = bool(self.queue.size) and self.is_paused
        if self.queue.size and (not is_open or (self.is_removed and self.main is None)):
            first = self.queue.first(BATCH + 1)
            assert first is not None
            if first.is_in_lane or self.is_removed or is_paused or not first.was_begun:
                return Adopt(cast(Flight, first)) if first.is_in_lane else Dismiss(first)
        if self.main is not None and self.queue.size and not self.is_reachable:
            first = self.queue.first(BATCH + 1)
            assert first is not None
            return Adopt(cast(Flight, first)) if first.is_in_lane else Reroute(first)
        if is_served:
            step = self._next_errand() if self.has_errands else None
            if step is None and self.queue.size and not is_paused:
                step = self._next_served(now)
            if step is not None:
                return step
        if (self.queue.size or self.probes) and self._is_to_be_poked():
            return Poke()
        if is_open or self.queue.size or any(pool.inquiries for pool in self.pools):
            pool = self.next_opening()
            if pool is not None:
                return Open(pool)
        return None

    def _next_errand(self) -> Step | None:
        """The step for one of the broker's own questions. These come first, as they are few and short."""
        for pool in self.pools:
            questions = pool.inquiries or pool.questions
            if questions and pool.idle:
                return Grant(next(reversed(pool.idle.values())), questions.popleft())
            if questions and pool.lent and not any(each.is_recalled for each in pool.lent.values()):
                return Recall(next(iter(pool.lent.values())))
        while self.probes and (free := self.take_idle()) is not None:
            statement = self.probes.popleft()
            if statement.state is StatementState.PROBING and statement.generation == self.statements.generation:
                return Examine(free, statement)
        return None

    def _next_served(self, now: float) -> Step | None:
        """The step for the request whose turn it is; None if no request can be served.

        Under overload each request would wait nearly until its deadline, be begun and be cancelled, and its work be
        lost. So a request that, by its statement's profile, cannot end before its deadline leaves unexecuted.
        """
        request = self.queue.first(self.priorities())
        if request is None:
            return None
        if request.is_in_lane:
            return self._next_of_lane(cast(Flight, request))
        if request.client.is_stalled:
            self.queue.discard(request)
            return Hold(request)
        if is_hopeless(request, now):
            return Refuse(request)
        if self.main is not None and not self.is_current(request.client):
            return Reroute(request)  # a replica has joined that is behind the others
        backend = self.take_idle()
        if backend is None and routing.may_join(request):
            backend = self.take_company(now)
        if backend is None:
            return None
        self.queue.pop(self.priorities())
        return Grant(backend, request)

    def _next_of_lane(self, flight: Flight) -> Step | None:
        """The step for a request of the lane: lend it the backend that is idle. A busy one may be lent later."""
        backend = routing.idle_backend(self.pools)
        if backend is not None and not routing.may_be_lent(backend):
            return Adopt(flight)
        return None if backend is None else Lend(backend)

    def _is_to_be_poked(self) -> bool:
        """Whether the lane has backends here, does not know that one is wanted, and it is for none of its own."""
        if self.is_poked or not self.has_lent:
            return False
        first = self.queue.first(self.priorities())
        return bool(self.probes) or (first is not None and not first.is_in_lane)

    def next_opening(self) -> Pool | None:
        """The pool where a backend should be opened now; None if none is needed or allowed.

        Needed are backends up to each pool's floor, one for each waiting request that those being opened do not
        cover, one where an endpoint could have a part of the work and has no backend, and one for inquiries of a pool
        that has none.
        """
        if self.size >= self.config.max_size:
            return None
        pool = next((each for each in self.pools if each.must_ask()), None)
        if pool is None:
            pool = routing.pool_to_open(self.pools, below_floor=True)
        if pool is None and self.queue.size and self.count(BackendState.CONNECTING) < self._wanted():
            pool = routing.pool_to_open(self.pools)
        if pool is None and self.is_uneven:
            self.is_uneven = False
            pool = next((each for each in self.pools if each.is_empty and each.may_open()), None)
        if pool is None:
            pool = next((each for each in self.pools if each.inquiries and not each.size and each.may_open()), None)
        return pool

    def priorities(self) -> int:
        """How many priorities, counted from the first, may be given a backend now: all, or all but batch."""
        if self.queue.count(BATCH) and self._batch_room() <= 0:
            return BATCH
        return BATCH + 1

    def is_busy_for(self, request: Request) -> bool:
        """Whether the request must wait, even if a backend is idle: behind others, or for its priority's share."""
        queue = self.queue
        if request.priority == BATCH:
            return queue.size > 0 or self._batch_room() <= 0
        # If only requests wait that may not be served now, this one overtakes nobody.
        return queue.size > queue.count(BATCH) or (queue.size > 0 and self.priorities() > BATCH)

    def let_go(self, backend: Backend) -> None:
        """A request or a lease of priority batch has ended on this backend: does it still hold the backend?"""
        if backend.lease is not None and backend.lease.priority == BATCH:
            return
        if not any(request.priority == BATCH for request in backend.running):
            self.batched.discard(backend)

    def _batch_room(self) -> int:
        """How many more backends the priority batch may hold."""
        return self.batch_limit - len(self.batched)

    def _wanted(self) -> int:
        """How many of the waiting requests may be given a backend as soon as there is one."""
        waiting = self.queue.count(BATCH)
        return self.queue.size - waiting + (min(waiting, max(0, self._batch_room())) if waiting else 0)

    def is_surplus(self, backend: Backend) -> bool:
        """Whether this backend, at rest, should make room for one on an endpoint that came back."""
        pool = backend.pool
        return (
            pool.size > pool.cap
            and self.size >= self.config.max_size
            and pool.availability.state is AvailabilityState.AVAILABLE
            and routing.needs_room(self.pools)
        )


def _turns(config: GroupConfig) -> tuple[int, int, int]:
    """The weights by priority."""
    weights = config.weights
    return weights.interactive, weights.normal, weights.batch


def reading(config: GroupConfig) -> GroupConfig:
    """What the group for reads on replicas has, beside a group with this configuration."""
    return replace(config, role="replica", min_size=config.min_size if config.route_reads else 0)


def for_reads(group: Group, endpoints: Mapping[str, Endpoint], make_queue: type[Queue] = Queue) -> Group:
    """Make the group for reads on replicas that belongs to this one."""
    made = group.replicas = Group(f"{group.name}{ON_REPLICAS}", reading(group.config), endpoints, make_queue)
    made.main = group
    return made
