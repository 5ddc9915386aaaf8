"""The backends of one group on one endpoint."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from poold.core.endpoint import Endpoint, EndpointState
from poold.core.facts import Server
from poold.core.prepared import Prepared
from poold.core.request import Lease, Request
from poold.core.sessions import NOTHING
from poold.core.state import TRANSITIONS, BackendState
from poold.core.stats import PoolStats
from poold.core.watch import Watch

if TYPE_CHECKING:
    from poold.core.group import Group

# Connects under way at once in one pool. A PostgreSQL that is starting or short of memory is not helped by a hundred at
# once; PgBouncer opens one at a time per pool, two hide the round trip of a remote one.
CONNECTING_LIMIT = 2


class Backend:
    """One PostgreSQL connection as the core knows it."""

    __slots__ = (
        "completed",
        "counting",
        "expires",
        "group",
        "idle_since",
        "is_outdated",
        "lease",
        "left",
        "looked_for",
        "number",
        "pool",
        "prepared",
        "resets",
        "running",
        "server",
        "state",
        "transaction",
        "used_sequences",
    )

    def __init__(self, number: int, pool: Pool) -> None:
        self.number = number
        self.group = pool.group
        self.pool = pool
        self.state = BackendState.CONNECTING
        # The requests it runs, the one that PostgreSQL works on first; the others wait in the connection behind it.
        # Not empty in the states of a running statement, and only there. Enter by _start, leave when completed.
        self.running: deque[Request] = deque()
        self.prepared = Prepared()
        # What may have been left in its session since it was opened or reset; nobody is served before a reset.
        self.left = NOTHING
        self.resets = 0  # units of a reset that are still to end
        # Sequences were used by statements that are harmless otherwise: who may ask for their values must not see it.
        self.used_sequences = False
        self.server = Server()
        # The request that took so long that the server is being asked whether it is still at work for it.
        self.looked_for: Request | None = None
        self.completed = 0.0  # when its last unit was
        # The request that failed here and waits to be told what that means: the server is to be asked, see outcomes.
        self.counting: Request | None = None
        # The lease that holds it: in LEASED always, in the states of a running statement perhaps.
        self.lease: Lease | None = None
        # PostgreSQL's transaction state after the last statement, one of client.protocol's TX_ constants.
        self.transaction = "none"
        self.idle_since = 0.0
        self.expires: float | None = None  # max_lifetime, with jitter
        self.is_outdated = False  # that is near, or past: the janitor's mark

    @property
    def request(self) -> Request | None:
        """The request that PostgreSQL works on."""
        return self.running[0] if self.running else None

    def __repr__(self) -> str:
        return f"<Backend {self.number} {self.pool.endpoint.name} {self.state.name.lower()}>"


class Pool:
    """Backends by state: each sits in exactly the collection its state names; `move` is the only way between them."""

    def __init__(self, endpoint: Endpoint, group: Group) -> None:
        self.endpoint = endpoint
        self.group = group
        # How many backends the group may have here, and keeps here; `routing.spread` decides.
        self.cap = 0
        self.floor = 0
        self.members: tuple[dict[int, Backend], ...] = tuple({} for _ in BackendState)
        self.size = 0  # backends in all states but CLOSED
        self.outdated = 0  # of these, marked by the janitor
        self.stats = PoolStats()
        self.idle = self.members[BackendState.IDLE]  # in the order they became idle; the last is taken first
        self.connecting = self.members[BackendState.CONNECTING]
        self.active = self.members[BackendState.ACTIVE]
        # Inquiries that wait for a backend here: what became of a COMMIT only its own server knows.
        self.inquiries: deque[Request] = deque()
        # Other questions to its server, likewise.
        self.questions: deque[Request] = deque()
        self.watch = Watch(self)

    def add(self, backend: Backend) -> None:
        """A new backend, CONNECTING."""
        self.connecting[backend.number] = backend
        self.size += 1

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
        """How many backends are there, those not counted that are being opened."""
        return self.size - len(self.connecting)

    @property
    def is_below_floor(self) -> bool:
        """Whether it keeps fewer backends than it should, those whose end is near not counted."""
        return self.size - self.outdated < self.floor

    def may_open(self) -> bool:
        """Whether another connect may begin here, as far as this pool is concerned."""
        state = self.endpoint.state
        if state is EndpointState.QUARANTINED or self.size >= self.cap:
            return False
        return len(self.connecting) < (1 if state is EndpointState.PROBING else CONNECTING_LIMIT)
