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
    from collections.abc import Sequence

    from poold.core.pools.pool import Pool
    from poold.core.records.flow import Flight
    from poold.core.records.lease import Lease
    from poold.core.records.request import Request


class Backend:
    """One PostgreSQL connection as the core knows it."""

    __slots__ = (
        "completed",
        "counting",
        "expires",
        "flights",
        "group",
        "idle_since",
        "is_dismissed",
        "is_outdated",
        "is_recalled",
        "is_refused",
        "is_unused",
        "is_wanted",
        "lease",
        "left",
        "looked_for",
        "number",
        "pool",
        "prepared",
        "query_timeout",
        "resets",
        "running",
        "server",
        "since",
        "state",
        "transaction",
        "used_sequences",
    )

    def __init__(self, number: int, pool: Pool) -> None:
        self.number = number
        self.group = pool.group
        self.pool = pool
        self.state = BackendState.CONNECTING
        # Its session's statement_timeout in seconds, 0 for none: that of its endpoint when it was opened.
        self.query_timeout = pool.endpoint.query_timeout
        # The requests it runs, first the one that PostgreSQL works on; the others wait in the connection behind it.
        # Not empty in the states of a running statement, and only there. Enter by `Runs.start`, or as a question of the
        # broker's around a statement; leave when they have ended.
        self.running: deque[Request] = deque()
        # LENT: what the lane runs here, likewise; the lane's own list.
        self.flights: Sequence[Flight] = ()
        self.prepared = Prepared()
        # What may have been left in its session since it was opened or reset; if anything, a reset comes before others
        # are served.
        self.left = NOTHING
        self.resets = 0  # units of a reset that are still to end
        # Statements that are harmless otherwise have used sequences: their values are discarded before a statement that
        # could ask for them.
        self.used_sequences = False
        self.server = Server()
        # The request that takes so long that the server is being asked whether it still works on it.
        self.looked_for: Request | None = None
        self.completed = 0.0  # when its last request ended
        self.since = 0.0  # when it was opened; while it is CONNECTING, when that began
        # The request that failed here and waits for the server's count of transactions, see `work.outcomes`.
        self.counting: Request | None = None
        # The lease that holds it: always in LEASED, perhaps in the states of a running statement.
        self.lease: Lease | None = None
        # PostgreSQL's transaction state after the last statement.
        self.transaction: TransactionStatus = TX_NONE
        self.idle_since = 0.0
        # Its last request was only a question about the catalogs, which must not renew idle_since.
        self.is_unused = False
        # Its last request was one that the lane may run, so it is lent when it is idle.
        self.is_wanted = False
        # LENT: the lane gives it nothing more and gives it back when it rests.
        self.is_recalled = False
        # The lane could not have it: it is not lent before it has run something.
        self.is_refused = False
        self.expires: float | None = None  # when max_lifetime, shortened by jitter, is over
        self.is_outdated = False  # its end is near: marked by the janitor, as that time is, or dismissed
        self.is_dismissed = False  # an operator wants another one in its place: it is closed as soon as it rests

    @property
    def request(self) -> Request | None:
        """The request that PostgreSQL works on; None if it runs nothing."""
        return self.running[0] if self.running else None

    def begun(self, request: Request) -> float:
        """When PostgreSQL began with this request's unit: when it was given, or when the one before it had ended."""
        return request.started if request.started > self.completed else self.completed

    def ended(self, request: Request, behind: int, now: float) -> float:
        """When PostgreSQL ended the request's unit, whose end was read together with those of so many behind it.

        Then all of them share the time since it began.
        """
        begun = self.begun(request)
        return begun + (now - begun) / (behind + 1) if behind else now

    def broke_off(self, unsent: int, now: float) -> None:
        """The connection is lost, and so many of the last units were not written: the first one has run until then.

        What is behind it may have begun as well, but since when is not known.
        """
        if len(self.running) > unsent and self.running[0].was_begun:
            self.running[0].ran_for(now - self.begun(self.running[0]))

    def __repr__(self) -> str:
        return f"<Backend {self.number} {self.pool.endpoint.name} {self.state.name.lower()}>"
