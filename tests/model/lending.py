"""The shell with a lane: messages that are the lane's go past the core, answers on its backends as well.

What the lane does is looked at here, as `model.shell` looks at what the core decides. I1 to I9 are the promises of the
contract between the two:

    I1  A backend, and a request, has one owner.                              `check_owners`
    I2  A message is answered once.                                           `model.books`
    I3  The units handed over are those that were sent.                       `tells`
    I4  Nothing in the lane is older than its PATIENCE.                       `check_age`
    I5  Nobody is overtaken.                                                  `model.fairness`
    I6  What it runs is prepared there, proven harmless, and of today.        `_check_flow`
    I7  A message is counted once.                                            `fact`
    I8  The broker ends with nothing lent.                                    `_stop`
    I9  The names that it runs are there.                                     `model.postgres`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from client.wire.messages import Failure, ResultMessage, TransactionResult
from model.books import Books
from model.company import check_company
from model.kinds import is_clients, kind_of
from model.lane import PATIENCE, Lane, longest_wait
from model.lent import Flight, Lent
from model.lines import Line
from model.postgres import Order, Session
from model.shell import Scene, Shell
from poold.core import effects
from poold.core.facts import Completion, StatementResult
from poold.core.pools.group import Group
from poold.core.records.backend import Backend
from poold.core.records.flow import Flow
from poold.core.state import BackendState, BrokerState
from poold.core.statements.leftovers import NOTHING
from poold.core.statements.statement import PREPARED


class Lending(Shell):
    """A shell that has a lane; the core makes use of it or not."""

    def __init__(self, world: Scene, books: Books) -> None:
        super().__init__(world, books)
        self.lane = Lane(self, lambda: self.world.now)
        self.heard: dict[int, float] = {}  # when the lane last took a message of this client's
        self._groups: dict[Group, None] = {}  # all that there have been
        self.used: dict[int, float] = {}  # when a request of the lane's last ended on this backend

    # Clients.

    def takes(self, key: int, message: object) -> bool:
        """Whether the message is the lane's; if not the core is to be told. Nothing is read in the middle of a turn."""
        client = self.broker.clients.get(key)
        if client is None or self.todo:
            return False
        self.fairness.fact()
        before = self._counted()
        is_taken = self.lane.takes(client, message)
        assert self._counted() == before + is_taken, "a message of the lane's is not counted once"
        if is_taken:
            self.heard[key] = self.world.now
        return is_taken

    def release(self, key: int) -> None:
        """The client withdraws something, or is gone: all that is its is the core's first."""
        client = self.broker.clients.get(key)
        if client is not None:
            self.lane.release(client)

    def fact(self, call: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Tell the core; what it counts as accepted is a message that it was just told of."""
        before = self._counted()
        told = super().fact(call, *args, **more)
        assert self._counted() - before <= (call == self.broker.request), "a message is counted twice"
        return told

    def _counted(self) -> int:
        """How many requests; one that goes to the primary instead of a replica is counted by both groups."""
        self._groups.update(dict.fromkeys(self.broker.directory.every()))
        told = sum(group.stats.requests - group.stats.rerouted for group in self._groups)
        return told + sum(fleet.requests for fleet in self.lane.fleets.values())

    # What the lane does.

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call then."""
        raise NotImplementedError

    def starts(self, lent: Lent, flight: Flight) -> bool:
        """Send the flight's unit to its backend; False if the connection does not take it now."""
        line, job, unit = self.lines[lent.backend.number], self.books.jobs[flight.number], flight.commands
        self._check_line(line)
        self._check_job(line, job)
        self.orders.given_by_lane(lent.backend, flight.number)
        self._check_flow(lent.backend, flight.flow)
        self.fairness.given_by_lane(flight, job)
        self.lifetimes.given_by_lane(lent.backend, self.world.now)
        job.is_proven = True
        if line.orders:
            statements = [each.flow.statements[0] for each in lent.flights]
            check_company(lent.backend.group, statements, line.orders, unit, job, self.books)
        order = self._ordered(line, unit, job)
        self._send(line, order)
        return order.is_sent

    def _check_flow(self, backend: Backend, flow: Flow) -> None:
        for each in flow.statements:
            assert each.generation == flow.generation or each is flow.statements[0] or each is flow.statements[-1]
            assert each.state is PREPARED, f"the lane runs {each}"
            assert each.is_harmless, f"the lane runs {each}, which is not harmless"
            assert not each.is_forgotten, f"the lane runs {each}, which is forgotten"
            assert each.name in backend.prepared.held, f"the lane runs {each}, which {backend} has not prepared"
        assert flow.generation == flow.group.statements.generation, "the lane runs what is of another generation"

    def answers(self, flight: Flight, body: ResultMessage | TransactionResult) -> None:
        """Reply to the flight's client."""
        cluster, flow = flight.flow.group.followed, flight.flow
        if cluster is not None and not all(each.proof.is_plain_read for each in flow.statements):
            cluster.wrote(flight.client.process, False)
        self._decided(effects.Reply(flight.client.key, body))
        self._reply(flight.client.key, body)

    def tells(self, text: str, call: Callable[..., Any], *args: Any) -> None:
        """Tell the core what is its own from here on; the units of a backend are those that were sent to it."""
        if call != self.broker.handed_over:
            self.fact(call, *args)
            return
        is_void = args[0] not in self.broker.backends
        sent = [] if is_void else [order.unit for order in self.lines[args[0]].orders]
        told = self.fact(call, *args)
        assert told == sent, f"the core is given {told}, sent was {sent}"

    # What the core decides.

    def _decided(self, effect: effects.Effect) -> None:
        super()._decided(effect)
        match effect:
            case effects.Teach(flow):
                self._check_taught(flow)
            case effects.Lend(number):
                self._check_lent(self.broker.backends[number], self.lines[number])
            case effects.Close(number, "max_idle"):
                due = self.used.get(number, 0.0) + _max_idle(self.lines[number])
                assert due <= self.world.now, f"{number} is closed as idle, where the lane has just used it"
            case effects.Drop(client) if client not in self.orders.killed:
                due = self.heard.get(client, 0.0) + self.broker.config.broker.client_idle_timeout
                assert due <= self.world.now, f"client {client} is dropped, which the lane has heard"

    def _check_taught(self, flow: Flow) -> None:
        clients = [each for each in flow.statements if is_clients(each.numbered)]
        assert clients, "a flow of no client's"
        for each in clients:
            assert kind_of(each.sql).is_harmless, f"the lane is taught {each.sql!r}, which is not harmless"
            assert flow.plan is not None or kind_of(each.sql).is_plain_read or not flow.group.config.read_only

    def _check_lent(self, backend: Backend, line: Line) -> None:
        session = line.session
        assert session is not None
        assert backend.state is BackendState.LENT
        assert not line.orders, "what runs is not lent"
        assert not line.cancel, "a cancel would hit what the lane runs"
        assert backend.left is NOTHING, f"{backend} is lent with what was left in its session"
        assert backend.lease is None, f"{backend} is leased, and lent"
        assert not session.left, f"{backend} is lent with {session.left}"
        assert not backend.is_outdated, f"{backend} is to be replaced, and lent"

    def _carry_out_other(self, effect: effects.Effect) -> None:
        match effect:
            case effects.Teach(flow):
                self.lane.teach(flow)
            case effects.Lend(number):
                self._lend(number)
            case effects.Recall(number, at_once):
                self.lane.recall(number, at_once)
                assert not at_once or number not in self.lane.lent, f"the lane keeps {number}, which is wanted at once"
            case effects.Poke(group):
                if group in self.broker.groups:
                    self.lane.poke(self.broker.groups[group])

    def _lend(self, number: int) -> None:
        backend = self.broker.backends.get(number)
        if backend is not None and number in self.lines:
            self.fairness.fact()
            self.lane.lend(backend)

    def _stop(self) -> None:
        assert not self.lane.lent, f"the broker ends, and the lane has {list(self.lane.lent)}"
        super()._stop()

    # What comes of it.

    def tell_completed(self, line: Line, session: Session, order: Order, done: Completion) -> None:
        """A unit has ended: the lane's, or the core's, to which the lane gives what surprises it."""
        if line.number in self.lane.lent and self.lane.is_surprised(line.number, done):
            self.lane.hand_over(line.number)
        super().tell_completed(line, session, order, done)

    def _tell_end(self, line: Line, done: Completion) -> None:
        if line.number in self.lane.lent:
            self.fairness.fact()
            self.used[line.number] = self.world.now
            self.lane.ended(line.number, done)
        else:
            super()._tell_end(line, done)

    def tell_lost(self, line: Line, partial: list[StatementResult], last: Failure | None) -> None:
        """The connection is lost; what runs there is the core's first."""
        if line.number in self.lane.lent:
            self.lane.hand_over(line.number)
        super().tell_lost(line, partial, last)

    # What must hold.

    def check_owners(self) -> None:
        """The lane has what the core has lent, and nothing else; when the broker stops it may not have heard of it."""
        if self.broker.state is BrokerState.STOPPED:
            return
        todo = (*self.todo, *self.broker.agenda.effects)
        coming = {each.backend for each in todo if type(each) is effects.Lend}
        backends = self.broker.backends
        for number, lent in self.lane.lent.items():
            assert backends.get(number) is lent.backend, f"the lane has {number}, which is gone"
            assert lent.backend.state is BackendState.LENT, f"the lane has {lent.backend}"
        for number, backend in backends.items():
            is_lent = backend.state is BackendState.LENT
            assert is_lent is (number in self.lane.lent or number in coming), f"nobody has {backend}"

    def check_age(self) -> None:
        """Nothing in the lane is older than its patience, unless it stands still."""
        lane, now = self.lane, self.world.now
        waiting = [each for each in lane.waiting if each.is_waiting]
        if lane.due is None or lane.due <= now:
            assert lane.due is not None or not (lane.lent or waiting), "the lane does not look at what it has"
            return
        for lent in lane.lent.values():
            assert not lent.flights or now - lent.age_from <= PATIENCE, f"{lent.backend} is kept for too long"
        for flight in waiting:
            assert now - flight.arrived <= longest_wait(flight), (
                f"request {flight.number} waits in the lane for too long"
            )

    def check_nobody_idles(self, group: Group) -> None:
        """Who is the core's does not wait while a backend of the lane's rests."""
        fleet = self.lane.fleets.get(group)
        first = group.queue.first(group.priorities())
        if fleet is None or first is None or first.is_in_lane:
            return
        todo = (*self.todo, *self.broker.agenda.effects)
        is_told = any(type(each) is effects.Poke and each.group == group.name for each in todo)
        assert is_told or all(each.flights for each in fleet.lents), (
            f"one waits in {group.name} while a backend of the lane's idles"
        )


def _max_idle(line: Line) -> float:
    return 0.0 if line.pool is None else line.pool.group.config.max_idle
