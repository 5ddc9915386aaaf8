"""How many transactions a backend's session has had: asked before and behind what may commit by itself.

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
    """The question, for this backend and no other."""
    asking = Request(NOBODY, 0, backend.group, Verb.QUESTION, now)
    asking.unit = (SimpleQuery(text),)
    return asking


def question_before(backend: Backend, request: Request, now: float) -> Request | None:
    """The question ahead of a statement that may commit by itself; None if there is none, or it goes with the unit."""
    assert request.statement is not None
    if backend.transaction != TX_NONE or request.begin or not may_commit(request.statement):
        return None
    request.is_counted = True
    if request.settings and request.lease is None:
        return None  # it goes with them
    text = QUESTION
    if backend.used_sequences and (request.lease is None or request.opens):
        # In the same transaction: one of its own would be counted.
        backend.used_sequences = False
        text = DISCARD_SEQUENCES + b"; " + QUESTION
    return question(backend, text, now)


def question_behind(backend: Backend, now: float) -> Request:
    """The question behind a statement that failed, which rolls back what it left open."""
    return question(backend, QUESTION if backend.transaction == TX_NONE else b"ROLLBACK; " + QUESTION, now)


class QuestionWork:
    """Both questions. The second one's answer is what its statement was waiting for."""

    def __init__(self, query: QueryWork) -> None:
        self._query = query

    def begin(self, _backend: Backend, request: Request, _now: float) -> Unit:
        """The question."""
        return request.unit

    def ended(self, backend: Backend, _request: Request, done: Completion, now: float) -> Decision:
        """The server has answered."""
        number = number_in(done)
        request, backend.counting = backend.counting, None
        if request is None:
            backend.running[1].number_before = number  # that of the statement behind it
            return None
        assert request.ended is not None
        request.is_in_one_step = is_one_step(request.number_before, number)
        return self._query.ended(backend, request, request.ended, now)

    def lost(self, _backend: Backend, _request: Request, _loss: Loss, _is_begun: bool, _now: float) -> Decision:
        """Nobody asks again: the count was this session's."""
        return None

    def unanswered(self, backend: Backend, now: float) -> Decision:
        """The backend was lost before it could be asked."""
        request, backend.counting = backend.counting, None
        if request is None:
            return None
        assert request.ended is not None
        if request.ended.failure is not None:
            request.ended.transaction = TX_BROKEN  # as if the statement itself had left it so
        return self._query.ended(backend, request, request.ended, now)
