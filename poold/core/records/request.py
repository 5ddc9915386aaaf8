"""One request on its way through the broker: what its client wants, where it is, and what became of it so far."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from client.wire.limits import NORMAL
from poold.core.state import REQUEST_TRANSITIONS, RUNNING, RequestState
from poold.core.statements.leftovers import NOTHING

if TYPE_CHECKING:
    from client.wire.cursors import Source
    from client.wire.messages import Query, TransactionMessage
    from poold.core.effects import Unit
    from poold.core.facts import Completion
    from poold.core.pools.group import Group
    from poold.core.pools.pool import Pool
    from poold.core.records.backend import Backend
    from poold.core.records.client import Client
    from poold.core.records.lease import Lease
    from poold.core.records.transfer import Transfer
    from poold.core.statements.statement import Statement
    from poold.core.work.batch import Batch
    from poold.core.work.probe import Probe
    from poold.core.work.script import Script
    from poold.core.work.units import Runner


class Verb(IntEnum):
    """The kind of a request."""

    QUERY = 0  # runs the client's statement
    COMMIT = 1  # ends the lease's transaction
    ROLLBACK = 2
    TRANSACTION = 3  # a transaction message
    # The broker's own, nobody waits for a reply:
    PROBE = 4  # whether a statement can be prepared
    INQUIRY = 5  # what became of a COMMIT whose answer was lost
    QUESTION = 6  # how many transactions the session has had, see `work.outcomes`
    CATALOGS = 7  # whether the catalogs have changed
    LOCKS = 8  # who waits for a lock
    # A client's again:
    POSITION = 9  # asks for the position that covers what its process has written; never runs


# Members used for every request, as plain globals: reading a member from an Enum costs five times as much.
QUERY, PROBE, INQUIRY, QUESTION, CATALOGS = Verb.QUERY, Verb.PROBE, Verb.INQUIRY, Verb.QUESTION, Verb.CATALOGS


class Request:
    """One statement, or one transaction message, on its way through the broker.

    The defaults of most fields are class attributes: to set all of them in each request would cost more than everything
    else that happens to a request here.
    """

    is_in_lane = False
    tag = ""
    origin = b""  # where in its program it comes from, as it travels
    label = b""  # the application_name with which it runs, see `work.labels`
    is_shown = False  # whether its tag or trace is to be seen in PostgreSQL
    is_told = False  # whether its long wait was logged
    priority = NORMAL
    size = 0  # of its message in bytes, as received
    opens = False  # begins its lease
    begin = False  # runs after a BEGIN
    settings = b""  # settings that hold for this request alone, as they travel
    leaves = NOTHING  # what may be left in the session by what it runs
    is_base = True  # nothing ran in its transaction or session before that is not proven harmless
    runner: Runner | None = None  # of a transaction message or a batch
    probe: Probe | None = None
    is_timed = False  # whether the server was told to end it at its deadline
    # What its client sent, if it is for replicas: it may have to become a request for the primary.
    message: Query | TransactionMessage | None = None
    statement: Statement | None = None
    fetched: Source | None = None  # the query of the cursor from which it fetches
    values = b""
    prepare = True
    transfer: Transfer | None = None  # of a COPY whose data the client gives or takes
    script: Script | None = None
    batch: Batch | None = None  # the statements of a BatchMessage; statement and values are those of the first
    # INQUIRY: the request whose outcome is asked for. Of this and other questions: the pool whose server is asked, and
    # for an INQUIRY which server that must be (`facts.Server`).
    about: Request | None = None
    pool: Pool | None = None
    identity = ""
    epoch = ""
    backend: Backend | None = None
    started = 0.0  # when it was given to its backend
    began: float | None = None  # when PostgreSQL first began with it
    waits_since: float | None = None  # if it has run before and waits to run once more
    # How long backends have worked for it so far, and of that for its last try; None if it has not begun.
    ran: float | None = None
    last_run = 0.0
    # The unit that it runs, and the unit that follows if the first one succeeds.
    unit: Unit = ()
    then: Unit = ()
    # Runs with literals: its prepared statement turned out to be outdated, or its settings decide about plans.
    is_literal = False
    # How often it was given to another backend after one was lost.
    moves = 0
    # A cancel meant for a neighbour was on its way while it ran, and may have hit it instead.
    is_exposed = False
    # It waited for a lock while others waited behind it: it runs by itself.
    is_alone = False
    # How often it was cancelled, while it waited for a lock, to let others go first.
    yields = 0
    # Why it is to be cancelled, in words for the client; of an INQUIRY, why the answer to COMMIT was lost.
    reason = ""
    # Of a statement that may commit by itself (see `work.outcomes`): whether it is counted, the session's number before
    # it, how it ended, and what the numbers before and after it tell.
    is_counted = False
    number_before = b""
    ended: Completion | None = None
    is_in_one_step: bool | None = None

    def __init__(
        self,
        client: Client,
        number: int,
        group: Group,
        verb: Verb,
        arrived: float,
        deadline: float | None = None,
        lease: Lease | None = None,
    ) -> None:
        """arrived and deadline are times of the core's clock; the deadline is the client's, None without any."""
        self.client = client
        self.number = number
        self.group = group
        self.verb = verb
        self.arrived = arrived
        self.deadline = deadline
        self.lease = lease
        self.state = RequestState.ARRIVED

    @property
    def is_ending(self) -> bool:
        """Whether it ends its lease's transaction: nobody can cancel it, neither while it waits nor while it runs."""
        return self.verb is Verb.COMMIT or self.verb is Verb.ROLLBACK

    @property
    def is_committing(self) -> bool:
        """Whether what it runs is a COMMIT and nothing else."""
        return self.verb is Verb.COMMIT or (self.script is not None and self.script.is_committing)

    @property
    def is_waiting(self) -> bool:
        """Whether it has not begun, or waits to begin once more."""
        return self.state < RUNNING

    @property
    def was_begun(self) -> bool:
        """Whether a backend has been given it, perhaps to no effect."""
        return self.ran is not None

    def become(self, state: RequestState) -> None:
        """Change the state; a transition that the table does not know is a bug and raises."""
        if state not in REQUEST_TRANSITIONS[self.state]:
            raise AssertionError(f"{self!r} cannot become {state.name.lower()}")
        self.state = state

    def begins(self, at: float) -> None:
        """PostgreSQL begins with it. What is run again has waited until its first run."""
        if self.verb < PROBE and self.began is None:
            self.began = at
            self.group.stats.wait_times.record(at - self.arrived)

    def ran_for(self, seconds: float) -> None:
        """A backend has worked for it so long."""
        self.ran = (self.ran or 0.0) + seconds
        self.last_run = seconds
        self.group.stats.ran(seconds, self.script is not None)

    def wait_again(self) -> None:
        """Become ARRIVED again, to be run once more: forget what was noted about its last backend and unit."""
        self.become(RequestState.ARRIVED)
        self.backend = None
        self.unit = self.then = ()
        self.is_exposed = self.is_timed = self.is_counted = False
        self.number_before = b""
        self.ended = self.is_in_one_step = None

    def __repr__(self) -> str:
        return f"<Request {self.number} {self.verb.name.lower()} {self.state.name.lower()}>"
