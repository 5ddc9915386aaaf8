"""The broker's decisions: facts in, effects out.

A fact is a method call that carries `now`. The broker passes it to the object that owns the subject, which takes the
steps that follow; then `settling` looks after everything those steps concern. Effects collect in the agenda, and the
shell takes them once per turn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from client.wire.messages import Answer, Ask, Failure, GroupRequest
from poold.config.current import CurrentConfig
from poold.config.model import Config
from poold.core.agenda import Agenda
from poold.core.clients.access import Caller, open_to
from poold.core.clients.accounts import Accounts
from poold.core.clients.admission import Admission
from poold.core.clients.leases import Leases
from poold.core.deadlines import Deadlines
from poold.core.effects import Effect, Reply, Stop, Unit
from poold.core.facts import Completion, Location, Loss, Observation, Server
from poold.core.operations.closing import Closing, cut_off
from poold.core.operations.killing import Killing
from poold.core.operations.operating import Operating
from poold.core.operations.pausing import Pausing
from poold.core.operations.reconfiguring import Reconfiguring
from poold.core.pools import janitor
from poold.core.pools.directory import Directory
from poold.core.pools.endpoint import Endpoint
from poold.core.pools.group import Group
from poold.core.pools.lifecycle import Lifecycle
from poold.core.reading import Reading
from poold.core.reception import Reception
from poold.core.records.backend import Backend
from poold.core.records.client import Client
from poold.core.records.flow import Flight
from poold.core.requests.copying import Copying
from poold.core.requests.handover import HandOver
from poold.core.requests.observing import Observing
from poold.core.requests.rerouting import Rerouting
from poold.core.requests.runs import Runs
from poold.core.requests.waiting import Waiting
from poold.core.requests.watching import Watching
from poold.core.requests.withdrawal import Withdrawal
from poold.core.sections.wanted import OVERVIEW, Wanted
from poold.core.settling import Settling
from poold.core.shared.queue import Queue
from poold.core.snapshot import snapshot_sections
from poold.core.state import BrokerState
from poold.core.statements.generations import Generations
from poold.core.statements.proofs import Examination
from poold.core.work import failures
from poold.core.work.probe import Examine

# Keys of the broker's own deadlines. Every other deadline has the object it belongs to as its key.
_JANITOR = "janitor"
_DRAIN = "drain"


class Broker:
    """Clients, requests, leases and backends, and what to do next."""

    def __init__(
        self,
        config: Config,
        chance: Callable[[], float],
        examine: Examine = Examination,
        has_lane: bool = False,
        make_queue: type[Queue] = Queue,
        timelines: Mapping[str, int] | None = None,
    ) -> None:
        """chance returns random numbers in [0, 1), the core's only ones. examine reads the parse trees of probes.

        has_lane: whether the shell has a lane, to which backends may be lent. make_queue: the lane's queue, which does
        what `Queue` does. timelines: the newest one of each database cluster by its system identifier, as remembered.
        """
        self.config = current = CurrentConfig(config)
        self.directory = directory = Directory(current, make_queue)
        self.endpoints: Mapping[str, Endpoint] = directory.endpoints
        self.groups: Mapping[str, Group] = directory.groups
        # Connected clients: enter by client_arrived, leave by client_gone.
        self.clients: dict[int, Client] = {}
        self.agenda = agenda = Agenda(chance, has_lane)
        self.generations = Generations(lambda: (group.statements for group in directory.every()))
        self.accounts = Accounts(agenda)
        self.leases = Leases(agenda, self.accounts)
        self.waiting = Waiting(agenda, self.accounts, self.leases)
        self.lifecycle = Lifecycle(agenda)
        self.backends: Mapping[int, Backend] = self.lifecycle.backends
        self.admission = Admission(current, directory.removed)
        self.rerouting = Rerouting(agenda, self.accounts, self.waiting, self.admission)
        # COPY has facts of its own.
        self.copying = Copying(agenda, self.backends, self.clients)
        self.runs = Runs(
            current,
            agenda,
            self.accounts,
            self.leases,
            self.waiting,
            self.rerouting,
            self.lifecycle,
            self.generations,
            self.copying,
        )
        self.withdrawal = Withdrawal(self.leases, self.waiting, self.runs)
        self.watching = Watching(agenda, self.waiting)
        self.hand_over = HandOver(current, agenda, self.accounts, self.waiting, self.runs)
        steps = agenda, self.leases, self.waiting, self.lifecycle, self.runs
        self.observing = Observing(current, directory, timelines or {}, *steps, self.generations)
        self.pausing = Pausing(agenda, directory, self.clients, self.lifecycle, self.observing)
        self.settling = Settling(*steps, self.hand_over, self.observing, self.rerouting, self.pausing, examine)
        self.reading = Reading(agenda, self.accounts, self.observing, self.rerouting, self.settling)
        self.closing = Closing(agenda, self.admission, directory, self.clients, self.lifecycle, self.waiting)
        killing = Killing(agenda, self.clients, self.leases, self.waiting, self.runs)
        self.operating = Operating(directory, self.lifecycle, self.pausing, killing, self.closing)
        more = self.runs, self.generations, self.observing, self.pausing
        self.reconfiguring = Reconfiguring(current, agenda, directory, self.clients, self.lifecycle, *more)
        self.deadlines = Deadlines(
            current,
            *steps,
            self.watching,
            self.observing,
            self.settling,
            self.reading,
            self.pausing,
            self.reconfiguring,
        )
        self.reception = Reception(
            self.admission, self.accounts, self.leases, self.waiting, self.runs, self.settling, self.reading
        )

    # Questions of the shell.

    @property
    def state(self) -> BrokerState:
        """Whether the broker takes work."""
        return self.agenda.state

    def take(self) -> list[Effect]:
        """Return the effects since the last call, in order, and begin a new turn."""
        agenda = self.agenda
        if agenda.may_end and not any(c.requests or c.leases for c in self.clients.values()):
            agenda.state = BrokerState.STOPPED
            self.pausing.stop()
            agenda.effects.append(Stop())
        effects, agenda.effects = agenda.effects, []
        agenda.turn += 1
        return effects

    def next_deadline(self) -> float | None:
        """When tick must be called next, at the latest."""
        return self.agenda.timers.next_deadline()

    def snapshot(self, now: float, reader: int | None = None, wanted: Wanted = OVERVIEW) -> dict[str, Any]:
        """The state as plain values, as far as it is wanted.

        reader is a client's key: then only the groups that it may use are shown, and no statements.
        """
        groups = self.directory.shown() if reader is None else self.clients[reader].open_groups
        shown = {"state": self.state.name.lower(), "clients": len(self.clients)}
        return shown | snapshot_sections(self.clients, groups, now, wanted, has_texts=reader is None)

    # Facts about the broker itself.

    def start(self, now: float) -> None:
        """The broker begins: open backends up to each group's min_size."""
        self.agenda.timers.set(_JANITOR, now + janitor.INTERVAL)
        for group in self.groups.values():
            group.stats.turn(now)
            self.agenda.grow(group)
        self.observing.start(now)
        self.settling.settle(now)

    def tick(self, now: float) -> None:
        """Time has passed: act on every deadline that is due."""
        self.agenda.now = now
        while (key := self.agenda.timers.pop_due(now)) is not None:
            if key is _JANITOR:
                self.agenda.timers.set(_JANITOR, now + janitor.INTERVAL)
                self.deadlines.tidy(list(self.directory.every()), self.clients.values(), now)
                self.directory.sweep()
            elif key is _DRAIN:
                self.stop(now)
            else:
                self.deadlines.due(key, now)
                self.settling.settle(now)

    def drain(self, now: float) -> None:
        """Refuse what waits and finish what has begun. Stop follows then, or when drain_timeout is over."""
        if self.closing.end():
            self.agenda.timers.set(_DRAIN, now + self.config.broker.drain_timeout)
            self.settling.settle(now)

    def stop(self, now: float) -> None:
        """Stop at once: whatever runs is lost."""
        self.agenda.now = now
        if self.state is BrokerState.STOPPED:
            return
        self.agenda.state = BrokerState.STOPPED
        self.admission.is_open = False
        self.pausing.stop()
        self.agenda.effects += cut_off(self.backends.values(), "the broker stops", now)
        self.hand_over.everything(self.backends.values(), self.directory.every(), now)
        for backend in list(self.backends.values()):
            if backend.running:
                self.runs.abandon(backend, "the broker was stopped", now)
            else:
                self.runs.lose(backend, Loss("the broker was stopped"), now)
        for client in self.clients.values():
            self.withdrawal.cut_off(client, now)
        self.settling.settle(now)
        self.agenda.effects.append(Stop())

    def reconfigured(self, config: Config, now: float, renewed: Collection[str] = ()) -> None:
        """Another configuration holds from here on, but for what needs a restart (`poold.config.changes`).

        renewed: the names of endpoints whose files have another content.
        """
        self.agenda.now = now
        self.reconfiguring.apply(config, renewed, now)
        self.settling.settle(now)

    def ask(self, key: int, message: Ask, now: float) -> Answer | Failure | None:
        """An admin asks for something. None: the answer comes later, as an effect."""
        self.agenda.now = now
        answer = self.operating.ask(key, message, now)
        self.settling.settle(now)
        return answer

    # Facts about clients.

    def client_arrived(
        self, key: int, pid: int, name: str, uid: int | None = None, gid: int | None = None,
        caller: Caller | None = None, now: float = 0.0,
    ) -> Mapping[str, Group]:  # fmt: skip
        """A client said Hello. Returns the groups it may use."""
        groups = open_to(caller or Caller(uid), self.groups)
        client = self.clients[key] = Client(key, pid, name, uid, gid, groups, caller=caller)
        client.heard = now
        if self.config.broker.client_idle_timeout:
            self.agenda.timers.set(client, now + self.config.broker.client_idle_timeout)
        return groups

    def client_gone(self, key: int, now: float) -> None:
        """A client's connection ended: its work is cancelled, its transactions are rolled back."""
        self.agenda.now = now
        client = self.clients.pop(key, None)
        if client is None:
            return
        self.agenda.timers.clear(client)
        self.withdrawal.leave(client, now)
        self.pausing.leave(key)
        self.settling.settle(now)

    def client_stalled(self, key: int) -> None:
        """A client leaves replies unread. Until it reads them, only requests of its open leases are begun."""
        client = self.clients.get(key)
        if client is not None:
            client.is_stalled = True

    def client_reads(self, key: int, now: float) -> None:
        """The client has read all its replies: its held requests wait for their turn again."""
        client = self.clients.get(key)
        if client is not None:
            client.is_stalled = False
            self.waiting.release(client, now)
            self.settling.settle(now)

    def cancel(self, key: int, number: int, now: float) -> None:
        """A client withdraws a request. It still gets its one reply."""
        self.agenda.now = now
        client = self.clients.get(key)
        request = client.requests.get(number) if client else None
        if request is not None:
            self.withdrawal.withdraw(request, now)
        else:
            self.pausing.withdraw(key, number)
        self.settling.settle(now)

    def request(self, key: int, message: GroupRequest, now: float, size: int = 0) -> None:
        """A client sent a request; size is that of its message in bytes."""
        self.agenda.now = now
        client = self.clients.get(key)
        if client is None:
            return
        client.heard = now
        if message.request in client.requests:
            text = f"request {message.request} is not answered yet, numbers must be new"
            self.agenda.effects.append(Reply(key, failures.protocol(text)))  # unnumbered: no reply to the first one
            return
        reply = self.reception.take(client, message, now, size, len(self.clients))
        if reply is not None:
            self.agenda.effects.append(Reply(key, reply._replace(request=message.request)))
        if self.agenda.resting or self.agenda.unsettled:  # rarely
            self.settling.settle(now)

    # Facts about endpoints.

    def observed(self, name: str, observation: Observation, now: float) -> None:
        """The endpoint's server says what it is."""
        if (endpoint := self.endpoints.get(name)) is not None:
            self.agenda.now = now
            self.observing.observed(endpoint, observation, now)
            self.reading.roles_told(now)
            self.settling.settle(now)

    def unobserved(self, name: str, error: str, now: float) -> None:
        """The endpoint's server could not be asked what it is."""
        if (endpoint := self.endpoints.get(name)) is not None:
            self.agenda.now = now
            self.observing.unobserved(endpoint, error, now)
            self.reading.roles_told(now)
            self.settling.settle(now)

    def located(self, name: str, location: Location, now: float) -> None:
        """The endpoint's server says how far it has come."""
        if (endpoint := self.endpoints.get(name)) is not None:
            self.reading.located(endpoint, location, now)
            self.settling.settle(now)

    # Facts about backends.

    def opened(self, number: int, now: float, server: Server | None = None) -> None:
        """The backend is connected and ready."""
        if (backend := self.backends.get(number)) is not None:
            self.lifecycle.opened(backend, server, now)
            self.settling.settle(now)

    def connect_failed(self, number: int, error: str, now: float) -> None:
        """The backend could not be opened."""
        self.agenda.now = now
        if (backend := self.backends.get(number)) is not None:
            self.lifecycle.connect_failed(backend, error, now)
            self.settling.settle(now)

    def completed(self, number: int, done: Completion, now: float) -> None:
        """The first of the backend's units has ended."""
        self.agenda.now = now
        if (backend := self.backends.get(number)) is not None:
            if backend.running:
                self.runs.ended(backend, done, now)
            else:
                self.lifecycle.reset_ended(backend, done)
            self.settling.settle(now)

    def lent_back(self, number: int, now: float, is_refused: bool = False) -> None:
        """The lane has given back a backend that runs nothing, or could not have it (is_refused)."""
        if (backend := self.backends.get(number)) is not None:
            backend.is_refused = is_refused
            self.hand_over.lent_back(backend)
            self.settling.settle(now)

    def handed_over(self, number: int, now: float) -> list[Unit]:
        """The lane has given back a backend with all that it runs. Returns the units that were sent and not completed.

        For each of them completed or lost follows, as if the core had had them executed.
        """
        backend = self.backends.get(number)
        if backend is None:  # the broker has stopped
            return []
        units = self.hand_over.handed_over(backend, now)
        self.observing.handed_over(backend, now)
        self.settling.settle(now)
        return units

    def queued(self, flights: Sequence[Flight], now: float) -> None:
        """These requests of the lane's, which wait in their groups' queues, are the core's from here on."""
        self.hand_over.queued(flights, now)
        self.settling.settle(now)

    def waits(self, group: Group, now: float) -> None:
        """A request of the lane's begins to wait in the group's queue, perhaps for what runs in the core."""
        self.waiting.watch(group, now)
        if self.state is not BrokerState.RUNNING:
            self.agenda.serve(group)
            self.settling.settle(now)

    def cancelled(self, number: int, now: float) -> None:
        """The backend's cancel is settled: PostgreSQL has delivered it, or it failed; it cannot hit anything later."""
        if (backend := self.backends.get(number)) is not None:
            self.agenda.now = now
            self.runs.cancelled(backend, now)
            self.settling.settle(now)

    def looked(self, number: int, is_at_work: bool, now: float) -> None:
        """Another connection asked whether the server is at work for the backend; False also if it could not ask."""
        if (backend := self.backends.get(number)) is not None:
            self.agenda.now = now
            self.runs.looked(backend, is_at_work, now)
            self.settling.settle(now)

    def lost(self, number: int, loss: Loss, now: float) -> None:
        """The backend's connection is gone."""
        self.agenda.now = now
        if (backend := self.backends.get(number)) is not None:
            backend.pool.stats.lost += 1
            self.runs.lose(backend, loss, now)
            self.settling.settle(now)
