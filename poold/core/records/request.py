"""One request on its way through the broker: what its client wants, where it is, and what became of it so far."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from client.wire.limits import NORMAL
from poold.core.state import REQUEST_TRANSITIONS, RUNNING, RequestState
from poold.core.statements.leftovers import NOTHING

if TYPE_CHECKING:
    from poold.core.effects import Unit
    from poold.core.facts import Completion
    from poold.core.pools.group import Group
    from poold.core.pools.pool import Pool
    from poold.core.records.backend import Backend
    from poold.core.records.client import Client
    from poold.core.records.lease import Lease
    from poold.core.statements.statement import Statement
    from poold.core.work.probe import Probe
    from poold.core.work.script import Script
    from poold.core.work.units import Runner


class Verb(IntEnum):
    """What a request is."""

    QUERY = 0  # runs the client's statement
    COMMIT = 1  # ends the lease's transaction
    ROLLBACK = 2
    TRANSACTION = 3  # a transaction message
    # The broker's own, nobody waits for a reply:
    PROBE = 4  # whether a statement can be prepared
    INQUIRY = 5  # what became of a COMMIT whose answer was lost
    QUESTION = 6  # how many transactions the session has had, see outcomes
    CATALOGS = 7  # whether the catalogs have changed
    LOCKS = 8  # who waits for a lock


# What is named for every request, as plain globals: to name a member of an Enum costs five times as much.
QUERY, PROBE, INQUIRY, QUESTION, CATALOGS = Verb.QUERY, Verb.PROBE, Verb.INQUIRY, Verb.QUESTION, Verb.CATALOGS


class Request:
    """One statement, or one transaction message, on its way through the broker.

    Most fields keep their defaults, which are the class's: to set them all costs more than all else of a request here.
    """

    tag = ""
    priority = NORMAL
    size = 0  # in bytes, as it came
    opens = False  # begins its lease
    begin = False  # runs after a BEGIN
    settings = b""  # that hold for it alone, as they travel
    leaves = NOTHING  # what may be left in its session by what it runs
    is_base = True  # its statement begins in a session as it was opened
    runner: Runner | None = None  # of a transaction message
    probe: Probe | None = None
    is_timed = False  # the server itself was told to end it at its deadline
    statement: Statement | None = None
    values = b""
    prepare = True
    script: Script | None = None
    # INQUIRY: the request whose outcome is asked for, and where.
    about: Request | None = None
    pool: Pool | None = None
    identity = ""
    epoch = ""
    backend: Backend | None = None
    started = 0.0
    # The unit it runs, and the one that follows when that has succeeded.
    unit: Unit = ()
    then: Unit = ()
    # Runs with literals, because its prepared statement turned out to be out of date.
    is_literal = False
    # How often it was given to another backend after one was lost.
    moves = 0
    # A cancel meant for a neighbour was on its way while it ran, and may have hit it instead.
    is_exposed = False
    # It waited for a lock while others waited behind it: it runs by itself.
    is_alone = False
    # How often it was cancelled for those that waited for it.
    yields = 0
    # Why it is to be cancelled, in words for the client.
    reason = ""
    # It may commit by itself: the session's number before, how it ended, and what the two numbers tell (see outcomes).
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
        """deadline is the client's own."""
        self.client = client
        self.number = number
        self.group = group
        self.verb = verb
        self.arrived = arrived
        self.deadline = deadline
        self.lease = lease
        self.state = RequestState.ARRIVED

    @property
    def is_waiting(self) -> bool:
        """Whether it has not begun, or is to begin once more."""
        return self.state < RUNNING

    def become(self, state: RequestState) -> None:
        """Change the state; a transition that the table does not know is a bug and raises."""
        if state not in REQUEST_TRANSITIONS[self.state]:
            raise AssertionError(f"{self!r} cannot become {state.name.lower()}")
        self.state = state

    def wait_again(self) -> None:
        """Be run once more: what was noted for its backend and unit does not hold for the next."""
        self.become(RequestState.ARRIVED)
        self.backend = None
        self.unit = self.then = ()
        self.is_exposed = self.is_timed = self.is_counted = False
        self.number_before = b""
        self.ended = self.is_in_one_step = None

    def __repr__(self) -> str:
        return f"<Request {self.number} {self.verb.name.lower()} {self.state.name.lower()}>"
