"""COMMIT and ROLLBACK of a lease. What they do cannot be taken back, so they are neither cancelled nor repeated."""

from __future__ import annotations

from client.wire.messages import TX_LOST, TX_NONE, Failure, ResultMessage
from poold.core.effects import Unit
from poold.core.facts import Completion, Loss
from poold.core.records.backend import Backend
from poold.core.records.request import Request, Verb
from poold.core.work import failures
from poold.core.work.decision import Answer, Decision
from poold.core.work.query import QueryWork
from poold.core.work.results import explained, lease_lost_meanwhile, reply_of, rolled_back
from poold.core.work.units import COMMIT, ROLLBACK


class EndingWork:
    """The ends of interactive transactions."""

    def __init__(self, query: QueryWork, max_result_bytes: int) -> None:
        self._query = query
        self._max_result_bytes = max_result_bytes

    def begin(self, _backend: Backend, request: Request, _now: float) -> Unit:
        """Return the unit of COMMIT or ROLLBACK."""
        return COMMIT if request.verb is Verb.COMMIT else ROLLBACK

    def ended(self, backend: Backend, request: Request, done: Completion, now: float) -> Decision:
        """Answer the request. PostgreSQL answers a COMMIT with ROLLBACK if the transaction had failed before."""
        seconds = now - backend.begun(request)
        request.ran_for(seconds)
        self._query.committed(request, done)
        reply: ResultMessage | Failure
        lost = lease_lost_meanwhile(backend, request, done)
        if lost is not None:
            reply = lost
        elif done.failure is not None:
            reply = done.failure
        elif request.verb is Verb.COMMIT and done.results[-1].command == "ROLLBACK":
            reply = failures.commit_rolled_back()
        else:
            reply = reply_of(request, done, self._max_result_bytes)
        if type(reply) is Failure:
            reply = explained(backend, request, reply, done, seconds, now)
        return Answer(request, reply)

    def lost(self, backend: Backend, request: Request, loss: Loss, is_begun: bool, _now: float) -> Decision:
        """Answer what is known: without its backend a transaction is rolled back, unless a COMMIT had been sent."""
        endpoint, lease = backend.pool.endpoint.name, request.lease
        if request.verb is Verb.ROLLBACK:
            done = rolled_back(request.number)
            return Answer(
                request, done._replace(transaction=TX_LOST) if lease is not None and lease.is_session else done
            )
        if not is_begun and lease is not None:
            return Answer(request, failures.endpoint_lost(lease, endpoint, loss.error))
        is_inside = backend.transaction != TX_NONE
        return Answer(request, failures.connection_lost(request, endpoint, loss.error, is_inside))
