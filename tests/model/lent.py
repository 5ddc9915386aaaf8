"""What the model's lane keeps of flows, requests, clients and backends, beside the core's own records."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from client.wire.messages import Query, TransactionMessage
from poold.core.effects import Bind, Unit
from poold.core.pools.group import Group
from poold.core.pools.routing import whose_turn
from poold.core.records.backend import Backend
from poold.core.records.client import Client
from poold.core.records.flow import Flow
from poold.core.statements.statement import PREPARED
from poold.core.stats import Times
from poold.core.tallies import STATEMENT, TRANSACTION

# A flow that surprises so often in so many runs is left to the core for REST seconds.
MOST_SURPRISES, RUNS_COUNTED, REST = 3, 100, 10.0

Message = Query | TransactionMessage


@dataclass(eq=False)
class Half:
    """The lane's half of a client."""

    heard: float


@dataclass(eq=False)
class Way:
    """How messages of a flow are run, and how often that has gone wrong."""

    flow: Flow
    fleet: Fleet
    counted: int = 0
    surprises: int = 0

    def holds(self) -> bool:
        """Whether it is as it was taught: names mean what they did, and its statements are to be prepared."""
        is_of_today = self.flow.generation == self.flow.group.statements.generation
        return is_of_today and all(each.state is PREPARED and not each.is_forgotten for each in self.flow.statements)

    def went_well(self) -> None:
        """One more run has ended well."""
        self.counted += 1
        if self.counted == RUNS_COUNTED:
            self.counted = self.surprises = 0

    def surprised(self, now: float) -> None:
        """A run did not go as usual."""
        self.surprises += 1
        if self.surprises == MOST_SURPRISES:
            self.counted = self.surprises = 0
            self.flow.rests_until = now + REST


class Flight:
    """A request of the lane's; it has what `poold.core.records.flow.Flight` has, and no more that the core sees."""

    is_in_lane = True
    lease = None

    def __init__(self, client: Client, message: Message, encoded: bytes, way: Way, now: float) -> None:
        self.client = client
        self.number = message.request
        self.tag = message.tag
        self.priority = message.priority
        self.message = encoded
        self.flow = way.flow
        self.arrived = now
        self.began = 0.0
        self.is_waiting = False
        self.way = way
        values = (b"", *message.values, b"") if isinstance(message, TransactionMessage) else (message.values,)
        commands = zip(way.flow.statements, values, strict=True)
        self.commands = tuple(Bind(each.name, each.count, own) for each, own in commands)

    def unit(self) -> Unit:
        """The unit that was sent for it."""
        return self.commands

    @property
    def is_short(self) -> bool:
        """Whether it may share a backend."""
        return self.flow.plan is None and self.flow.statements[0].is_short


@dataclass(eq=False)
class Lent:
    """A backend that is the lane's."""

    backend: Backend
    fleet: Fleet
    flights: list[Flight] = field(default_factory=list)
    completed: float = 0.0
    is_recalled: bool = False
    requests: int = 0  # begun here and not told to the core's records yet
    joined: int = 0

    @property
    def age_from(self) -> float:
        """When its first flight began to run."""
        return max(self.flights[0].began, self.completed)

    def has_prepared(self, flow: Flow) -> bool:
        """Whether it can run the flow's names as they are, and has runs of each left."""
        held, wanted = self.backend.prepared.held, Counter(each.name for each in flow.statements)
        return all(held.get(name, 0) >= count for name, count in wanted.items())

    def note_runs(self, flow: Flow) -> None:
        """A request of the flow is begun here: note what its statements have used."""
        held = self.backend.prepared.held
        for each in flow.statements:
            held[each.name] -= 1
            if each.proof.uses_sequences:
                self.backend.used_sequences = True

    def fold(self) -> None:
        """Tell the core's records what was counted since the last time."""
        self.backend.completed = self.completed
        self.backend.pool.stats.requests += self.requests
        self.backend.pool.stats.joined += self.joined
        self.requests = self.joined = 0


@dataclass(eq=False)
class Fleet:
    """The backends of one group that are the lane's, the one that rested last at the end."""

    group: Group
    lents: list[Lent] = field(default_factory=list)
    is_poked: bool = False
    sharing: Lent | None = None  # was given a short statement while idle, at that moment
    sharing_at: float = -1.0
    requests: int = 0  # accepted and not told to the core's records yet
    transactions: int = 0  # of these
    wait_times: Times = field(default_factory=Times)  # likewise
    run_times: Times = field(default_factory=Times)
    # Calls by statement, likewise: seconds and rows of each.
    calls: list[tuple[Flow, float, int]] = field(default_factory=list)

    def idle(self) -> Lent | None:
        """The one to be used next; endpoints take turns."""
        resting = [each for each in self.lents if not each.flights]
        found = [pool for pool in self.group.pools if any(each.backend.pool is pool for each in resting)]
        if not found:
            return None
        chosen = found[0] if len(found) == 1 else whose_turn(found)
        return [each for each in resting if each.backend.pool is chosen][-1]

    def fold(self) -> None:
        """Tell the core's records what was counted since the last time."""
        stats = self.group.stats
        stats.requests += self.requests
        stats.transactions += self.transactions
        for flow, seconds, rows in self.calls:
            plan = flow.plan
            what = (TRANSACTION, plan.masked) if plan is not None else (STATEMENT, flow.statements[0].masked)
            tally = self.group.tallies.find(*what)
            self.group.tallies.count(tally, seconds, rows, is_error=False)
            tally.lane += 1
            tally.is_prepared = True
        self.calls = []
        stats.wait_times.add(self.wait_times._current, self.wait_times.sum)
        stats.run_times.add(self.run_times._current, self.run_times.sum)
        self.requests, self.transactions = 0, 0
        self.wait_times, self.run_times = Times(), Times()
