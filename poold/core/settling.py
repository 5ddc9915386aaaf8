"""The last part of each fact: backends at rest get their next use, waiting requests are served, backends are opened.

One step at a time until nothing is left to do, as each step depends on what the one before has changed.
"""

from __future__ import annotations

from client.wire.limits import BATCH
from client.wire.messages import Failure
from poold.core import effects
from poold.core.agenda import Agenda
from poold.core.clients.leases import Leases
from poold.core.operations.pausing import Pausing
from poold.core.pools import janitor, rest, routing
from poold.core.pools.group import Group
from poold.core.pools.lifecycle import Lifecycle
from poold.core.pools.steps import Adopt, Dismiss, Examine, Grant, Hold, Lend, Open, Poke, Recall, Refuse, Reroute, Step
from poold.core.records.backend import Backend
from poold.core.records.client import NOBODY
from poold.core.records.request import INQUIRY, Request, Verb
from poold.core.requests.handover import HandOver
from poold.core.requests.observing import Observing
from poold.core.requests.rerouting import Rerouting
from poold.core.requests.runs import Runs
from poold.core.requests.waiting import Waiting
from poold.core.state import CLOSED, IDLE, LENT, BrokerState
from poold.core.work import failures
from poold.core.work.probe import Examine as Examination
from poold.core.work.probe import Probe


class Settling:
    """Brings backends and the requests that wait for them together."""

    def __init__(
        self,
        agenda: Agenda,
        leases: Leases,
        waiting: Waiting,
        lifecycle: Lifecycle,
        runs: Runs,
        hand_over: HandOver,
        observing: Observing,
        rerouting: Rerouting,
        pausing: Pausing,
        examine: Examination,
    ) -> None:
        """examine reads the parse trees of probes."""
        self._agenda = agenda
        self._leases = leases
        self._waiting = waiting
        self._lifecycle = lifecycle
        self._runs = runs
        self._hand_over = hand_over
        self._observing = observing
        self._rerouting = rerouting
        self._pausing = pausing
        self._examine = examine

    def settle(self, now: float) -> None:
        """Look after all backends that came to rest and all groups in which something changed."""
        resting, unsettled, doubted = self._agenda.resting, self._agenda.unsettled, self._agenda.doubted
        state = self._agenda.state
        self._agenda.now = now
        while resting or unsettled or doubted:
            if doubted:
                self._observing.doubt(now)
            elif resting:
                self._rest(resting.popleft(), now)
            else:
                group, is_served = next(iter(unsettled.items()))
                step = group.next_step(now, is_served, is_open=state is BrokerState.RUNNING)
                if step is None or (type(step) is Open and state is BrokerState.STOPPED):
                    del unsettled[group]
                else:
                    self._take(step, group, now)
        if self._pausing.pending:
            self._pausing.look(now)

    def dispatch(self, request: Request, now: float) -> None:
        """Give the request a backend, or let it wait for one."""
        group, priority = request.group, request.priority
        if request.client.is_stalled:
            self._waiting.hold(request)
            self._waiting.limit(request, now)
            return
        if (not group.queue.size and priority != BATCH) or not group.is_busy_for(request):
            # A request of priority batch may take an idle backend here; it joins a pipeline only from the queue.
            may_join = priority != BATCH and routing.may_join(request)
            backend = group.take_sharing(self._agenda.turn, now) if may_join else None
            if backend is None:
                backend = group.take_idle()
                if backend is not None and may_join:
                    group.begin_sharing(backend, self._agenda.turn)
                elif may_join:
                    backend = group.take_company(now)
            if backend is not None:
                self._runs.start(backend, request, now)
                if group.is_uneven:
                    self._agenda.grow(group)
                return
        self._waiting.queue(request, now)
        self._agenda.grow(group)

    def _take(self, step: Step, group: Group, now: float) -> None:
        """Carry out a group's next step."""
        if type(step) is Grant:
            if step.request.verb is INQUIRY and not self._runs.inquiry.can_be_told(step.backend, step.request):
                self._runs.conclude(step.request, self._runs.inquiry.replaced(step.request, now), now)
            else:
                self._runs.start(step.backend, step.request, now)
        elif type(step) is Reroute:
            self._rerouting.to_primary(step.request, now)
        elif type(step) is Open:
            self._lifecycle.open(step.pool, now)
        elif type(step) is Examine:
            request = Request(NOBODY, 0, group, Verb.PROBE, now)
            request.statement = step.statement
            request.probe = Probe(step.statement, self._examine if group.config.proofs else None)
            self._runs.start(step.backend, request, now)
        elif type(step) is Hold:
            self._waiting.hold(step.request)
        elif type(step) is Refuse:
            self._waiting.refuse(step.request, now)
        elif type(step) is Dismiss:
            self._waiting.discard(step.request, self._why_dismissed(group))
        elif type(step) is Lend:
            self._lend(step.backend)
        elif type(step) is Adopt:
            self._hand_over.queued([step.flight], now)
        elif type(step) is Poke:
            group.is_poked = True
            self._agenda.effects.append(effects.Poke(group.name))
        elif type(step) is Recall:
            self._lifecycle.recall(step.backend)

    def _why_dismissed(self, group: Group) -> Failure:
        if group.is_removed:
            return failures.removed(group.name)
        return failures.not_served(self._agenda.state)

    def _rest(self, backend: Backend, now: float) -> None:
        """Give a backend its next use; it runs nothing and no cancel is on its way to it."""
        if backend.state is CLOSED:
            return
        found, lease = rest.disposition(backend), backend.lease
        if found is rest.IDLE and lease is None:
            self._idle(backend, now)
        elif found is rest.COUNT:
            self._runs.count(backend, now)
        elif found is rest.LEASED:
            assert lease is not None
            if lease.pending:
                self._runs.start(backend, lease.pending.popleft(), now)
            else:
                self._leases.wait(backend, lease, now)
        elif found is rest.CLOSE:
            if lease is not None:
                self._leases.broken(lease, now)
            self._lifecycle.close(backend, "unusable after its last statement")
        else:
            if lease is not None:
                self._leases.end(lease, "it had ended already", now)
            if found is rest.RESET:
                self._lifecycle.reset(backend, now)
            else:
                self._idle(backend, now)

    def _idle(self, backend: Backend, now: float) -> None:
        """The backend is free: close it if it is due, else let it serve the broker's questions and waiting requests."""
        group = backend.group
        reason = janitor.reason_to_retire(group, backend, now)
        if reason is not None:
            self._lifecycle.close(backend, reason)
            return
        if backend.is_unused:
            backend.is_unused = False
        else:
            backend.idle_since = now
        backend.pool.move(backend, IDLE)
        if group.queue.size or group.has_errands:
            self._agenda.serve(group)
        elif backend.is_wanted and self._agenda.has_lane and routing.may_be_lent(backend):
            self._lend(backend)

    def _lend(self, backend: Backend) -> None:
        """Lend the backend, and one of each other endpoint of its group, so that the lane can share work out."""
        pools = backend.group.pools
        for pool in pools:
            if len(pools) > 1 and pool is not backend.pool and pool.idle and not pool.lent:
                other = next(reversed(pool.idle.values()))
                if routing.may_be_lent(other):
                    self._give(other)
        self._give(backend)

    def _give(self, backend: Backend) -> None:
        backend.pool.move(backend, LENT)
        self._agenda.effects.append(effects.Lend(backend.number))
