"""The question how many transactions a session has had, asked before and after a statement that may commit by itself.

See `outcomes` for what the two answers tell.
"""

from __future__ import annotations

from client.wire.messages import TX_BROKEN, TX_NONE
from poold.core.effects import SimpleQuery, Unit
from poold.core.facts import Completion, Loss
from poold.core.records.backend import Backend
from poold.core.records.client import NOBODY
from poold.core.records.request import Request, Verb
from poold.core.work.decision import Decision
from poold.core.work.outcomes import QUESTION, is_one_step, may_commit, number_in
from poold.core.work.query import QueryWork
from poold.core.work.units import DISCARD_SEQUENCES


def question(backend: Backend, text: bytes, now: float) -> Request:
    """The question as a request, to be run on this backend and no other."""
    asking = Request(NOBODY, 0, backend.group, Verb.QUESTION, now)
    asking.unit = (SimpleQuery(text),)
    return asking


def question_before(backend: Backend, request: Request, now: float) -> Request | None:
    """The question ahead of a statement that may commit by itself, in a unit of its own.

    None if the statement needs no question, or if its settings go ahead and the question with them. Notes in the
    request whether it is counted.
    """
    assert request.statement is not None
    if backend.transaction != TX_NONE or request.begin or not may_commit(request.statement):
        return None
    request.is_counted = True
    if request.settings and request.lease is None:
        return None  # the question is in the unit of the settings
    text = QUESTION
    if backend.used_sequences and (request.lease is None or request.opens):
        # In the question's transaction, as one of its own would be counted.
        backend.used_sequences = False
        text = DISCARD_SEQUENCES + b"; " + QUESTION
    return question(backend, text, now)


def question_behind(backend: Backend, now: float) -> Request:
    """The question behind a statement that failed. A transaction that the statement left open is rolled back first."""
    return question(backend, QUESTION if backend.transaction == TX_NONE else b"ROLLBACK; " + QUESTION, now)


class QuestionWork:
    """Both questions. The statement waits for the answer to the second one."""

    def __init__(self, query: QueryWork) -> None:
        self._query = query

    def begin(self, _backend: Backend, request: Request, _now: float) -> Unit:
        """Return the question."""
        return request.unit

    def ended(self, backend: Backend, _request: Request, done: Completion, now: float) -> Decision:
        """Keep the first answer with the statement behind it, or finish the statement by the second answer."""
        number = number_in(done)
        request, backend.counting = backend.counting, None
        if request is None:
            backend.running[1].number_before = number  # the statement that the question comes before
            return None
        assert request.ended is not None
        request.is_in_one_step = is_one_step(request.number_before, number)
        return self._query.ended(backend, request, request.ended, now)

    def lost(self, _backend: Backend, _request: Request, _loss: Loss, _is_begun: bool, _now: float) -> Decision:
        """Nothing follows: the count was this session's, and it is gone."""
        return None

    def unanswered(self, backend: Backend, now: float) -> Decision:
        """The backend was lost before the second answer: finish the statement without it."""
        request, backend.counting = backend.counting, None
        if request is None:
            return None
        assert request.ended is not None
        if request.ended.failure is not None:
            request.ended.transaction = TX_BROKEN  # as if the statement itself had left it so
        return self._query.ended(backend, request, request.ended, now)
