"""Requests on backends: begun, continued, ended, cancelled, lost with their backend.

The kind of work decides what a request runs and what follows (`work.decision`). This module carries the decision out.
"""

from __future__ import annotations

import itertools

from client.wire.limits import BATCH
from client.wire.messages import TX_BROKEN, TX_NONE
from poold.config.current import CurrentConfig
from poold.core.agenda import Agenda
from poold.core.clients.accounts import Accounts
from poold.core.clients.leases import Leases
from poold.core.effects import Cancel, Close, Execute, Look
from poold.core.facts import Completion, Loss
from poold.core.pools.lifecycle import Lifecycle
from poold.core.records.backend import Backend
from poold.core.records.request import CATALOGS, PROBE, QUERY, Request, Verb
from poold.core.requests.copying import Copying
from poold.core.requests.flows import Flows
from poold.core.requests.rerouting import Rerouting
from poold.core.requests.waiting import Waiting
from poold.core.requests.watching import CatalogsWork, LocksWork
from poold.core.state import ACTIVE, CANCELLED, CANCELLING, DONE, RUNNING, BackendState, RequestState
from poold.core.statements.generations import Generations
from poold.core.statements.leftovers import NOTHING
from poold.core.statements.statement import PREPARED
from poold.core.work import decision, failures
from poold.core.work.decision import Answer, Decision, Next, Work
from poold.core.work.ending import EndingWork
from poold.core.work.inquiry import InquiryWork, inquiry_about
from poold.core.work.probe import ProbeWork
from poold.core.work.query import QueryWork
from poold.core.work.question import QuestionWork, question_before, question_behind
from poold.core.work.results import outcome_of
from poold.core.work.settings import SERVER_GRACE, was_changed
from poold.core.work.time_limits import GUARD, must_have_ended, not_heard
from poold.core.work.transaction import TransactionWork

# How long a question of the broker's own may take if the endpoint has no query_timeout. The questions around a
# statement have query_timeout and this on top. A server that says nothing for so long is given up.
QUESTION_TIMEOUT = 5.0
# How long the server may take to say whether it is at work.
LOOK_TIMEOUT = 5.0
# A cancel that has not ended its statement after this time never will: the connection is closed instead.
CANCEL_TIMEOUT = 5.0
# PostgreSQL ignores a cancel that comes before its statement. One that had no effect is repeated after this pause.
CANCEL_AGAIN = 0.05

_CANCELLABLE = (Verb.QUERY, Verb.TRANSACTION)


class Runs:
    """The steps of requests that run."""

    def __init__(
        self,
        config: CurrentConfig,
        agenda: Agenda,
        accounts: Accounts,
        leases: Leases,
        waiting: Waiting,
        rerouting: Rerouting,
        lifecycle: Lifecycle,
        generations: Generations,
        copying: Copying,
    ) -> None:
        self._agenda = agenda
        self._timers = agenda.timers
        self._accounts = accounts
        self._leases = leases
        self._waiting = waiting
        self._rerouting = rerouting
        self._lifecycle = lifecycle
        self.copying = copying
        limit = config.broker.max_result_bytes
        self.query = QueryWork(generations, limit)
        self.transaction = TransactionWork(generations, agenda.chance)
        self.inquiry = InquiryWork(self.transaction)
        self.question = QuestionWork(self.query)
        ending = EndingWork(self.query, limit)
        self._flows = Flows(agenda)
        # By verb.
        self._work: tuple[Work, ...] = (
            self.query,
            ending,
            ending,
            self.transaction,
            ProbeWork(generations),
            self.inquiry,
            self.question,
            CatalogsWork(generations),
            LocksWork(),
        )

    def start(self, backend: Backend, request: Request, now: float) -> None:
        """Run the request on the backend, which is free or runs only short statements that it may join."""
        pool, statement = backend.pool, request.statement
        if request.verb is QUERY and statement is not None and statement.state is not PREPARED:
            question = question_before(backend, request, now)
            if question is not None:
                self._put(backend, question, now)
        request.become(RUNNING)
        request.backend = backend
        request.started = now
        if statement is not None:
            statement.begun = now
        request.unit = unit = self._work[request.verb].begin(backend, request, now)
        request.client.has_begun(request.number)
        backend.running.append(request)
        if request.priority == BATCH:
            request.group.batched.add(backend)
        if request.leaves is not NOTHING:
            backend.left = backend.left.joined(request.leaves)
            if request.lease is not None:
                request.lease.is_altered = True
        if request.verb < PROBE:
            pool.stats.requests += 1
            request.ran = request.ran or 0.0
            self._accounts.begun(request, now)
        if request.lease is not None:
            self._leases.hold(backend, request, request.lease, now)
        if request.deadline is None:
            self._timers.clear(request)
        else:
            self._timers.set(request, request.deadline + SERVER_GRACE if request.is_timed else request.deadline)
        if len(backend.running) == 1:
            pool.move(backend, ACTIVE)
            backend.is_refused = False
            request.begins(now)
            self._guard(backend, request, now)
            if request.group.queue.size:
                pool.watch.arm(self._timers, now)  # who waits may have come when nothing ran here
        elif not request.is_counted:
            pool.stats.joined += 1
            pool.watch.arm(self._timers, now)
        self._agenda.effects.append(Execute(backend.number, unit))

    def count(self, backend: Backend, now: float) -> None:
        """Ask a backend at rest how many transactions there were, as a request that failed there waits for that."""
        self._put(backend, question_behind(backend, now), now)

    def _put(self, backend: Backend, question: Request, now: float) -> None:
        """Run a question about a statement, before or behind it, on the statement's backend."""
        question.become(RUNNING)
        question.backend = backend
        question.started = now
        backend.running.append(question)
        backend.pool.move(backend, ACTIVE)
        self._timers.set(backend, now + backend.query_timeout + QUESTION_TIMEOUT)
        self._agenda.effects.append(Execute(backend.number, question.unit))

    def ended(self, backend: Backend, done: Completion, now: float) -> None:
        """The first of the units that the backend runs has ended."""
        backend.transaction = done.transaction
        running = backend.running
        request = running[0]
        request.client.heard = now  # a client that waits for a reply is not silent
        if request.lease is not None and done.transaction == TX_NONE:
            request.lease.outcome = outcome_of(request, done)
        if done.is_changed and done.transaction != TX_BROKEN:
            was_changed(backend, request)
        follows = self._work[request.verb].ended(backend, request, done, now)
        if type(follows) is Next:
            request.unit = follows.unit
            self._agenda.effects.append(Execute(backend.number, follows.unit))
            return
        running.popleft()
        if request.transfer is not None:
            self.copying.ended(backend, request.transfer)
        backend.is_wanted = self._agenda.has_lane and done.failure is None and self._flows.learn(request, now)
        if type(follows) is Answer and follows.request is request:  # the hot path
            self._accounts.answer(request, follows.reply)
        else:
            self.conclude(request, follows, now)
        backend.completed = backend.ended(request, done.behind, now)
        if request.priority == BATCH:
            request.group.let_go(backend)
            if request.group.queue.size:
                self._agenda.serve(request.group)  # others may wait for their share of backends
        if running:
            self._next_in_line(backend, running[0], now)
        elif backend.state is CANCELLING:
            backend.pool.move(backend, BackendState.SETTLING)
            if backend.transaction == TX_BROKEN and backend.lease is not None:
                self._leases.broken(backend.lease, now)  # what waits in the lease need not wait for the cancel
        else:
            backend.is_unused = request.verb is CATALOGS
            self._agenda.resting.append(backend)

    def conclude(self, request: Request, follows: Decision, now: float) -> None:
        """Carry out the decision.

        If request is a question of the broker's own, the decision may be about another request, the one it asked for.
        """
        if type(follows) is Answer:
            self._accounts.answer(follows.request, follows.reply)
        elif type(follows) is decision.Again:
            self._waiting.again(follows.request, now, follows.is_last)
        elif type(follows) is decision.Pause:
            self._waiting.pause(follows.request, follows.until)
        elif type(follows) is decision.Ask:
            self._waiting.ask(follows.request)
        elif type(follows) is decision.Count:
            backend = follows.request.backend
            assert backend is not None
            backend.counting = follows.request
        elif type(follows) is decision.Inquire:
            self._inquire(follows, now)
        elif type(follows) is decision.Elsewhere:
            self._rerouting.elsewhere(follows.request, now)
        elif type(follows) is decision.StepAside:
            self._step_aside(follows.request, now)
        if request.verb >= PROBE and request.state is not DONE and (follows is None or follows.request is not request):
            self._timers.clear(request)
            request.become(DONE)

    def _inquire(self, follows: decision.Inquire, now: float) -> None:
        request = follows.request
        if request.state is not RequestState.WITHDRAWN:
            request.become(RequestState.IN_DOUBT)
        self._timers.clear(request)
        self._waiting.ask(inquiry_about(request, follows.backend, follows.xid, follows.error, now))

    def _next_in_line(self, backend: Backend, request: Request, now: float) -> None:
        """PostgreSQL goes on with this request, which waited in the backend's connection."""
        request.begins(backend.completed)
        if backend.state is CANCELLING and request.state is RUNNING:
            self._timers.set(backend, now + max(backend.query_timeout, CANCEL_TIMEOUT) + GUARD)
        if backend.state is not ACTIVE:
            return
        if request.state is RUNNING:
            self._guard(backend, request, now)
            if backend.group.queue.size:
                self._agenda.serve(backend.group)  # a place in the backend's pipeline is free
        else:
            self._timers.set(backend, now + CANCEL_TIMEOUT)
            self.send_cancel(backend)

    def _guard(self, backend: Backend, request: Request, now: float) -> None:
        """Set the time after which the broker checks whether the server still works on the backend's first request."""
        timeout = backend.query_timeout
        if timeout:
            statements = request.batch or (request.script.steps if request.script is not None else (request,))
            self._timers.set(backend, now + timeout * len(statements) + GUARD)
        elif request.verb > Verb.QUESTION:
            self._timers.set(backend, now + QUESTION_TIMEOUT)  # no client waits for its answer
        else:
            self._timers.clear(backend)

    def go_on(self, backend: Backend, now: float) -> None:
        """The backend was the lane's and comes with all that it runs: look after its requests from here on."""
        backend.pool.move(backend, ACTIVE)
        self._guard(backend, backend.running[0], now)
        if len(backend.running) > 1 or backend.group.queue.size:
            backend.pool.watch.arm(self._timers, now)

    # Cancels.

    def cancel(self, request: Request, state: RequestState, reason: str, now: float) -> None:
        """Cancel a running request. COMMIT and ROLLBACK are not cancelled: what they do cannot be taken back.

        A request behind others in its backend's connection is cancelled when its turn comes. state is CANCELLED, or
        WITHDRAWN if nobody is left to reply to; reason is for the client.
        """
        backend = request.backend
        assert backend is not None
        is_first = request.state is RUNNING
        request.become(state)
        request.reason = request.reason or reason
        if is_first and request.verb in _CANCELLABLE:
            self._timers.clear(request)
            if backend.request is request:
                self._timers.set(backend, now + CANCEL_TIMEOUT)
                self.send_cancel(backend)
                self.copying.give_up(request)

    def send_cancel(self, backend: Backend) -> None:
        """Cancel the backend's first request. A neighbour that is hit instead failed without effect, and runs again."""
        if backend.state is ACTIVE:
            backend.pool.move(backend, CANCELLING)
            for neighbour in itertools.islice(backend.running, 1, None):
                neighbour.is_exposed = True
            self._agenda.effects.append(Cancel(backend.number))

    def _step_aside(self, request: Request, now: float) -> None:
        """Cancel the request, its backend's first, to run it again alone. The cancel can only hit plain reads."""
        backend = request.backend
        assert backend is not None
        if request.state is RUNNING:
            request.is_alone = request.is_exposed = True
            request.yields += 1
            self._timers.set(backend, now + CANCEL_TIMEOUT)
            self.send_cancel(backend)

    def cancelled(self, backend: Backend, now: float) -> None:
        """The backend's cancel is settled: PostgreSQL has delivered it, or it failed; it cannot hit anything later."""
        if backend.state is BackendState.SETTLING:
            self._agenda.resting.append(backend)
        elif backend.state is CANCELLING:
            backend.pool.move(backend, ACTIVE)
            request = backend.running[0]
            if request.state is RUNNING:
                self._guard(backend, request, now)  # the cancelled request has ended, this is the next
            else:
                self._timers.set(request, now + CANCEL_AGAIN)

    # Backends that take too long, or are gone.

    def overdue(self, backend: Backend, now: float) -> None:
        """The backend takes too long to connect, to answer, to be cancelled or to be reset."""
        request = backend.request
        if backend.state is BackendState.CONNECTING:
            error = f"no connection within connect_timeout = {backend.pool.endpoint.connect_timeout:g} s"
            self._agenda.effects.append(Close(backend.number, error))
            self._lifecycle.connect_failed(backend, error, now)
        elif request is not None and backend.state is CANCELLING and request.is_exposed:
            self._give_up(backend, "the server does not take a cancel", now)  # its client wanted no cancel
        elif request is not None and request.state is RUNNING and request.verb in _CANCELLABLE:
            if backend.looked_for is request or must_have_ended(request):
                self._is_not_heard(request, now)
            else:
                backend.looked_for = request
                self._timers.set(backend, now + LOOK_TIMEOUT)
                self._agenda.effects.append(Look(backend.number))
        elif request is not None:
            self._give_up(backend, "the server does not answer", now)
        elif backend.state is BackendState.SETTLING or backend.state is BackendState.RESETTING:
            self._give_up(backend, f"the server does not answer while {backend.state.name.lower()}", now)

    def looked(self, backend: Backend, is_at_work: bool, now: float) -> None:
        """The server was asked whether it works for the backend. If so, the statement is left to the server's limit."""
        request, backend.looked_for = backend.looked_for, None
        if request is None or backend.request is not request or request.state is not RUNNING:
            return
        if backend.state is not ACTIVE:
            return
        if is_at_work:
            self._guard(backend, request, now)
        else:
            self._is_not_heard(request, now)

    def _is_not_heard(self, request: Request, now: float) -> None:
        """Cancel the request: the server should have ended it by itself, and seems to be unreachable."""
        assert request.backend is not None
        self.cancel(request, CANCELLED, not_heard(request.backend, request), now)

    def _give_up(self, backend: Backend, why: str, now: float) -> None:
        """Close a backend that does not answer, and tell everybody who was using it.

        The idle backends of its pool are closed as well: their connections may be as dead, and each would cost some
        client a request whose outcome is unknown.
        """
        for idle in list(backend.pool.idle.values()):
            self._lifecycle.close(idle, "another one of its endpoint does not answer")
        self.abandon(backend, why, now)

    def abandon(self, backend: Backend, why: str, now: float) -> None:
        """Close a backend whatever it does, and tell everybody who was using it; what it runs is cancelled.

        PostgreSQL does not look at the connection while a statement runs, and would commit what nobody waits for. But a
        COMMIT is let go on, and so is what the broker itself has asked.
        """
        request = backend.request
        is_cancelled = request is not None and request.verb in _CANCELLABLE and not request.is_committing
        self._agenda.effects.append(Close(backend.number, why, is_cancelled))
        backend.pool.stats.closed += 1
        self.lose(backend, Loss(why), now)

    def lose(self, backend: Backend, loss: Loss, now: float) -> None:
        """The backend's connection is gone, whoever ended it: decide for every request that was on it.

        Two kinds of requests were certainly not begun, and may run elsewhere unnoticed: those that were not written,
        and those behind a statement during which PostgreSQL announced that it closes the connection.
        """
        self._agenda.doubt(backend.pool)
        running, lease = list(backend.running), backend.lease
        unsent = loss.unsent + self._agenda.revoke(backend)
        backend.broke_off(unsent, now)
        backend.running.clear()
        backend.lease = None
        self._lifecycle.remove(backend)
        if lease is not None:
            is_unknown = len(running) > unsent and failures.may_end(running[-1])
            self._leases.part(lease, now, "its backend was lost", is_unknown)
            reason = f"the connection to endpoint {backend.pool.endpoint.name!r} was lost ({loss.error})"
            self._leases.lose(lease, reason, now)
            if is_unknown:
                lease.client.lease_lost(lease, failures.end_unknown(reason, lease.is_session))
        # The last one first, as each goes to the front of the queue.
        for place in range(len(running) - 1, -1, -1):
            request = running[place]
            is_begun = place < len(running) - unsent and (place == 0 or loss.last is None)
            its_own = loss if place == 0 else Loss(loss.error)  # partial results belong to the first request
            self.conclude(request, self._work[request.verb].lost(backend, request, its_own, is_begun, now), now)
        if backend.counting is not None:
            self.conclude(backend.counting, self.question.unanswered(backend, now), now)
        self._agenda.serve(backend.group)
