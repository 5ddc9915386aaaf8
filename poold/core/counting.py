"""What comes before a statement and behind it in units of their own: BEGIN, settings, what is discarded, two questions.

The questions are those around a statement that may commit by itself: see outcomes for what they tell.
"""

from __future__ import annotations

from abc import abstractmethod

from client.wire.messages import NOT_EXECUTED, TX_BROKEN, TX_NONE
from poold.core.effects import Execute, SimpleQuery
from poold.core.facts import Completion
from poold.core.lifecycle import Lifecycle
from poold.core.records.backend import Backend
from poold.core.records.client import NOBODY
from poold.core.records.request import Request, Verb
from poold.core.state import BackendState, RequestState
from poold.core.work import failures
from poold.core.work.outcomes import QUESTION, is_one_step, may_commit, number_in
from poold.core.work.units import DISCARD_SEQUENCES

# Beyond what a statement may take. A server that says nothing for so long is given up.
QUESTION_TIMEOUT = 5.0


class Counting(Lifecycle):
    """What goes before and behind."""

    @abstractmethod
    def _finish(self, request: Request, backend: Backend, done: Completion, now: float) -> None:
        """The request has ended: answer it."""

    def _ask_before(self, backend: Backend, request: Request, now: float) -> None:
        """Put the question ahead of a statement that may commit by itself."""
        assert request.statement is not None
        if backend.transaction != TX_NONE or request.begin or not may_commit(request.statement):
            return
        request.is_counted = True
        if request.settings and request.lease is None:
            return  # it goes with them
        text = QUESTION
        if backend.used_sequences and (request.lease is None or request.opens):
            # In the same transaction: one of its own would be counted.
            backend.used_sequences = False
            text = DISCARD_SEQUENCES + b"; " + QUESTION
        self._put_question(backend, text, now)

    def _goes_on(self, backend: Backend, request: Request, done: Completion) -> bool:
        """What comes first has succeeded: the statement follows, unless nobody wants it any more."""
        following, request.then = request.then, ()
        if done.failure is None and request.state is RequestState.RUNNING:
            request.unit = following
            request.number_before = number_in(done) if request.is_counted else b""
            self._effects.append(Execute(backend.number, following))
            return True
        request.is_counted = False
        failure = done.failure or failures.withdrawn()
        if done.transaction == TX_BROKEN:
            failure = failure._replace(outcome=NOT_EXECUTED)  # whatever befell the backend, this was not sent yet
        done.failure = failure._replace(transaction=done.transaction)
        return False

    def _put_question(self, backend: Backend, text: bytes, now: float) -> None:
        asking = Request(NOBODY, 0, backend.group, Verb.QUESTION, now)
        asking.become(RequestState.RUNNING)
        asking.backend = backend
        asking.started = now
        asking.unit = (SimpleQuery(text),)
        backend.running.append(asking)
        backend.pool.move(backend, BackendState.ACTIVE)
        self.timers.set(backend, now + backend.pool.endpoint.query_timeout + QUESTION_TIMEOUT)
        self._effects.append(Execute(backend.number, asking.unit))

    def _wants_count(self, request: Request, backend: Backend, done: Completion) -> bool:
        """Whether the server has to be asked before the request can be answered; it is asked as soon as it is at rest.

        What began a transaction block in a session has to be left as it is.
        """
        is_open = done.transaction != TX_NONE
        if (done.failure is None and not is_open) or (is_open and request.lease is not None):
            return False
        if done.transaction == TX_BROKEN:
            return False
        backend.counting = request
        request.ended = done
        return True

    def _ask_after(self, backend: Backend, now: float) -> None:
        """Put the question behind the statement that failed, and roll back what it left open."""
        self._put_question(backend, QUESTION if backend.transaction == TX_NONE else b"ROLLBACK; " + QUESTION, now)

    def _counted(self, backend: Backend, done: Completion, now: float) -> None:
        """The server has answered."""
        number = number_in(done)
        request, backend.counting = backend.counting, None
        if request is None:
            backend.running[0].number_before = number
            return
        request.is_in_one_step = is_one_step(request.number_before, number)
        assert request.ended is not None
        self._finish(request, backend, request.ended, now)

    def _lose_count(self, backend: Backend, now: float) -> None:
        """The backend was lost before it could be asked."""
        request, backend.counting = backend.counting, None
        if request is not None:
            assert request.ended is not None
            if request.ended.failure is not None:
                request.ended.transaction = TX_BROKEN  # as if the statement itself had left it so
            self._finish(request, backend, request.ended, now)
