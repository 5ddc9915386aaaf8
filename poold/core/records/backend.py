"""One PostgreSQL connection, as the core knows it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from client.wire.messages import TX_NONE, TransactionStatus
from poold.core.facts import Server
from poold.core.state import BackendState
from poold.core.statements.leftovers import NOTHING
from poold.core.statements.prepared import Prepared

if TYPE_CHECKING:
    from poold.core.pools.pool import Pool
    from poold.core.records.lease import Lease
    from poold.core.records.request import Request


class Backend:
    """One PostgreSQL connection as the core knows it."""

    __slots__ = (
        "completed",
        "counting",
        "expires",
        "group",
        "idle_since",
        "is_outdated",
        "is_unused",
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
        # PostgreSQL's transaction state after the last statement.
        self.transaction: TransactionStatus = TX_NONE
        self.idle_since = 0.0
        self.is_unused = False  # it was only asked about the catalogs since, which keeps no backend that nobody needs
        self.expires: float | None = None  # max_lifetime, with jitter
        self.is_outdated = False  # that is near, or past: the janitor's mark

    @property
    def request(self) -> Request | None:
        """The request that PostgreSQL works on."""
        return self.running[0] if self.running else None

    def __repr__(self) -> str:
        return f"<Backend {self.number} {self.pool.endpoint.name} {self.state.name.lower()}>"
