"""A backend's life: opened, at rest, given to who needs it, closed.

Together with `machine`, `messages` and `losses` these are the broker's steps; `Broker` decides which step a fact calls
for. Each step leaves everything consistent for the next.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import IntEnum

from client.wire.messages import TX_BROKEN, TX_NONE
from poold.config.model import Config
from poold.core.effects import Close, Connect, Effect, Execute, Unit
from poold.core.facts import Completion
from poold.core.pools import janitor
from poold.core.pools.endpoint import EndpointState
from poold.core.pools.group import Group
from poold.core.pools.pool import Pool
from poold.core.records.backend import Backend
from poold.core.records.client import NOBODY, Client
from poold.core.records.lease import Lease
from poold.core.records.request import Request, Verb
from poold.core.state import IDLE, QUEUED, BackendState, RequestState
from poold.core.statements import leftovers
from poold.core.statements.leftovers import NOTHING
from poold.core.statements.statement import AHEAD_SECONDS, TRUSTED_AFTER, TRUSTED_FOR, StatementState
from poold.core.timers import Timers
from poold.core.work.probe import Examine, Probe
from poold.core.work.references import only_cell
from poold.core.work.units import ROLLBACK

RESET_TIMEOUT = 5.0


class BrokerState(IntEnum):
    """Whether the broker takes work."""

    RUNNING = 0
    DRAINING = 1  # takes no new work, finishes what it has
    STOPPED = 2


class Lifecycle(ABC):
    """Everything the broker knows, and the steps of backends."""

    def __init__(self, config: Config, chance: Callable[[], float], examine: Examine) -> None:
        """chance gives random numbers in [0, 1); it is the core's only source. examine reads trees of probes."""
        self.config = config
        self.chance = chance
        self._examine = examine
        self.state = BrokerState.RUNNING
        self.groups = {name: Group(name, each, config.endpoints) for name, each in config.groups.items()}
        self.bytes = 0  # of all clients' unanswered requests, as they came
        # Connected clients: enter by client_arrived, leave by client_gone.
        self.clients: dict[int, Client] = {}
        # Backends in all states but CLOSED: enter by _open, leave by _remove.
        self.backends: dict[int, Backend] = {}
        # Deadlines of requests, leases, backends and quarantined pools, by the object itself.
        self.timers = Timers()
        self._effects: list[Effect] = []
        self._turn = 0  # of the shell's: how often it has taken effects
        self._numbers = itertools.count(1)

    @abstractmethod
    def _start(self, backend: Backend, request: Request, now: float) -> None:
        """Run the request on the backend."""

    @abstractmethod
    def _may_join(self, request: Request) -> bool:
        """Whether the request may run behind others on a backend."""

    @abstractmethod
    def _waits(self, group: Group, now: float) -> None:
        """A request waits for a backend of the group."""

    @abstractmethod
    def _ask_after(self, backend: Backend, now: float) -> None:
        """Ask the server what a failed request left."""

    @abstractmethod
    def _overdue(self, request: Request, now: float) -> None:
        """The request waited too long."""

    @abstractmethod
    def _end_lease(self, lease: Lease, reason: str, now: float) -> None:
        """The lease is over."""

    @abstractmethod
    def _lose_lease(self, lease: Lease, reason: str, now: float) -> None:
        """The lease is over, and its client will want to know why."""

    @abstractmethod
    def _inquire(self, backend: Backend, inquiry: Request, now: float) -> bool:
        """Ask what became of a COMMIT; False if this backend's server cannot know."""

    def _rest(self, backend: Backend, now: float) -> None:
        """The backend runs nothing and no cancel is on its way: what is it for next?"""
        lease, transaction = backend.lease, backend.transaction
        if backend.counting is not None:
            self._ask_after(backend, now)
            return
        if lease is not None and transaction == TX_BROKEN:
            self._lose_broken(lease, now)
            lease = None
        elif lease is not None and transaction == TX_NONE and not lease.is_session:
            self._end_lease(lease, "it had ended already", now)
            lease = None
        if transaction == TX_BROKEN:
            self._close(backend, "unusable after its last statement")
            self._grow(backend.group, now)
        elif lease is not None:
            self._go_on(backend, lease, now)
        elif transaction != TX_NONE or backend.left is not NOTHING:
            self._reset(backend, now)
        else:
            self._idle(backend, now)

    def _lose_broken(self, lease: Lease, now: float) -> None:
        """The lease's last statement left its backend unusable."""
        self._lose_lease(lease, "its last statement left the connection unusable", now)

    def _go_on(self, backend: Backend, lease: Lease, now: float) -> None:
        """The next statement of the lease, or a wait for it."""
        if lease.pending:
            self._start(backend, lease.pending.popleft(), now)
            return
        backend.pool.move(backend, BackendState.LEASED)
        limits = [lease.expires] if lease.expires is not None else []
        if lease.group.config.idle_in_transaction_timeout:
            limits.append(now + lease.group.config.idle_in_transaction_timeout)
        if limits:
            self.timers.set(lease, min(limits))

    def _reset(self, backend: Backend, now: float) -> None:
        """Roll back what is open, and take away what was left in the session."""
        in_transaction = backend.transaction != TX_NONE
        units: tuple[Unit, ...] = (ROLLBACK,)
        if backend.left is not NOTHING:
            units = leftovers.reset(backend.left, in_transaction, 2 * self.chance() - 1)
        if not units or (backend.state is BackendState.RESETTING and in_transaction):
            self._close(backend, "what was left in its session cannot be reset")
            self._grow(backend.group, now)
            return
        backend.pool.move(backend, BackendState.RESETTING)
        self.timers.set(backend, now + RESET_TIMEOUT)
        backend.resets = len(units)
        for unit in units:
            self._effects.append(Execute(backend.number, unit))

    def _reset_ended(self, backend: Backend, done: Completion, now: float) -> None:
        """A unit of the reset has ended. One that did not take all away leaves a backend that nobody may use."""
        backend.resets -= 1
        if done.failure is not None or (done.is_changed and backend.left is not NOTHING):
            self._close(backend, "its reset failed")
            self._grow(backend.group, now)
            return
        if backend.resets:
            return
        if backend.left is leftovers.NAMES:
            backend.prepared.clear()
        elif backend.left is not NOTHING and backend.transaction == TX_NONE:
            held = only_cell(done.results[-1].rows or b"")
            if held != leftovers.names_held(backend.server, len(backend.prepared)):
                self._drop_names(backend, now)
                return
        if backend.left is not NOTHING:
            backend.used_sequences = False
        backend.left = NOTHING
        self._rest(backend, now)

    def _drop_names(self, backend: Backend, now: float) -> None:
        """Prepared statements are not those that the broker made; a group's own cannot be told from the clients'."""
        if backend.server.names:
            self._close(backend, "its prepared statements are not what they were")
            self._grow(backend.group, now)
            return
        backend.left, backend.resets = leftovers.NAMES, 1
        self._effects.append(Execute(backend.number, leftovers.DEALLOCATE_ALL))

    def _idle(self, backend: Backend, now: float) -> None:
        """The backend is free: for the broker's own questions, for who waits, or for later."""
        group = backend.group
        reason = janitor.reason_to_retire(group, backend, now)
        if reason is not None:
            self._close(backend, reason)
            self._grow(group, now)
            return
        backend.idle_since = now
        backend.pool.move(backend, IDLE)
        self._serve(group, now)

    def _serve(self, group: Group, now: float) -> None:
        """Give idle backends of the group to who waits for one."""
        if not group.queue.size and not group.has_errands:
            return
        for pool in group.pools:
            while pool.inquiries and pool.idle:
                self._inquire(next(reversed(pool.idle.values())), pool.inquiries.popleft(), now)
            while pool.questions and pool.idle:
                self._start(next(reversed(pool.idle.values())), pool.questions.popleft(), now)
        while group.probes and (free := group.take_idle()) is not None:
            self._probe(free, group, now)
        while (
            group.queue.size
            and (request := self._next_waiting(group, now)) is not None
            and (free := group.take_idle()) is not None
        ):
            group.queue.pop(group.priorities())
            self._start(free, request, now)
        self._grow(group, now)

    def _next_waiting(self, group: Group, now: float) -> Request | None:
        """The request whose turn it is, None if none may be given a backend.

        One whose client does not read its replies is set aside. One that cannot end before its deadline, as far as its
        statement's profile tells, leaves unexecuted: under overload each would wait nearly until its deadline, be begun
        and be cancelled, and the work be lost.
        """
        while (request := group.queue.first(group.priorities())) is not None:
            if request.client.is_stalled:
                group.queue.discard(request)
                request.become(RequestState.HELD)
                request.client.held[request] = None
            elif is_hopeless(request, now):
                self._overdue(request, now)
            else:
                break
        return request

    def _refill(self, backend: Backend, now: float) -> None:
        """A place in the backend's pipeline is free: for those who wait, in their order."""
        group = backend.group
        while (request := self._next_waiting(group, now)) is not None and self._may_join(request):
            company = group.take_company(now)
            if company is None:
                return
            group.queue.pop(group.priorities())
            self._start(company, request, now)

    def _probe(self, backend: Backend, group: Group, now: float) -> None:
        """Find out whether a statement can be prepared."""
        statement = group.probes.popleft()
        if statement.state is not StatementState.PROBING:
            return
        if statement.generation != group.statements.generation:
            return
        request = Request(NOBODY, 0, group, Verb.PROBE, now)
        request.statement = statement
        request.probe = Probe(statement, self._examine if group.config.proofs else None)
        self._start(backend, request, now)

    def _grow(self, group: Group, now: float) -> None:
        """Open what the group needs."""
        if self.state is BrokerState.STOPPED:
            return
        if self.state is BrokerState.RUNNING or len(group.queue) or any(pool.inquiries for pool in group.pools):
            while (pool := group.next_opening()) is not None:
                self._open(pool, now)

    def _open(self, pool: Pool, now: float) -> None:
        backend = Backend(next(self._numbers), pool)
        self.backends[backend.number] = backend
        pool.add(backend)
        self.timers.set(backend, now + pool.endpoint.connect_timeout)
        self._effects.append(Connect(backend.number, pool.group.name, pool.endpoint.name))

    def _close(self, backend: Backend, reason: str) -> None:
        backend.pool.stats.closed += 1
        self._remove(backend)
        self._effects.append(Close(backend.number, reason))

    def _remove(self, backend: Backend) -> None:
        self.timers.clear(backend)
        del self.backends[backend.number]
        backend.pool.move(backend, BackendState.CLOSED)
        if backend.pool.endpoint.state is not EndpointState.AVAILABLE:
            backend.group.respread()  # where nothing can be opened its share is what is open

    def _again(self, request: Request, now: float, is_last: bool = False) -> None:
        """Run it once more: it is the next of its group, or the last one."""
        group = request.group
        request.wait_again()
        free = group.take_idle()
        if free is not None:
            self._start(free, request, now)
        else:
            request.become(QUEUED)
            if is_last:
                group.queue.push(request)
            else:
                group.queue.push_front(request)
            self._limit_wait(request, now)
            self._waits(group, now)

    def _limit_wait(self, request: Request, now: float) -> None:
        """A waiting request waits for queue_timeout, or as long as its client wants."""
        limit = now + request.group.config.queue_timeout
        self.timers.set(request, limit if request.deadline is None else min(limit, request.deadline))


def is_hopeless(request: Request, now: float) -> bool:
    """Whether the request cannot count on ending before its deadline, as far as its statement's profile tells.

    Where requests wait until just before their deadlines, what takes its mean ends too late every other time; so they
    must have time for what it rarely exceeds, and, if it may, for running behind others. A profile that no run has
    renewed for long tells nothing: without that a statement that was slow once might never run again.
    """
    deadline, statement = request.deadline, request.statement
    return (
        deadline is not None
        and statement is not None
        and statement.runs >= TRUSTED_AFTER
        and now + statement.expected + (AHEAD_SECONDS if statement.is_short else 0.0) > deadline
        and now < statement.begun + TRUSTED_FOR
    )
