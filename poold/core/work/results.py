"""The replies to single statements: a result as the client gets it, or a failure with what is known about it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from client.wire.messages import TX_BROKEN, TX_LOST, TX_NONE, Failure, ResultMessage
from poold.core.facts import Completion, StatementResult
from poold.core.records.backend import Backend
from poold.core.records.request import Request
from poold.core.state import CANCELLED
from poold.core.work import failures
from poold.core.work.time_limits import by_query_timeout, out_of_time

# How a transaction has ended, by the tag of the command that ended it.
_ENDS = {"COMMIT": "committed", "ROLLBACK": "rolled back", "PREPARE TRANSACTION": "prepared"}


def reply_of(request: Request, done: Completion, max_result_bytes: int) -> ResultMessage | Failure:
    """The reply to a statement that succeeded: the result of the last one, with the notices of all."""
    result = done.results[-1]
    if result.rows is None:
        return failures.result_too_large(max_result_bytes)._replace(transaction=done.transaction)
    notices = result.notices if len(done.results) == 1 else _all_notices(done.results)
    return ResultMessage(
        request.number, done.transaction, result.command, result.rowcount, result.columns, result.rows, notices
    )


def lease_lost_meanwhile(backend: Backend, request: Request, done: Completion) -> Failure | None:
    """The failure to report if the statement's lease was lost while it ran, None if it was not.

    None as well if the statement itself ended its transaction, so nothing is rolled back, and if the connection is
    unusable, as the statement's own failure tells why.
    """
    lease = request.lease
    if lease is None or backend.lease is not None or done.transaction in (TX_NONE, TX_BROKEN):
        return None
    lost = failures.lease_lost(request.reason or "it was ended", lease.is_session)
    return request.client.lost_leases.get(lease.number, lost)


def explained(
    backend: Backend, request: Request, reply: Failure, done: Completion, seconds: float, now: float
) -> Failure:
    """The failure with the reason why the statement was cancelled, if it was, and its transaction's state.

    seconds is how long the statement ran.
    """
    if reply is done.failure:
        is_cancelled = request.state is CANCELLED
        why = out_of_time(request, reply, now) or by_query_timeout(backend, request, reply, seconds)
        reply = failures.with_reason(reply, request.reason if is_cancelled else why)
    if done.transaction == TX_BROKEN:
        reply = reply._replace(transaction=TX_NONE if request.lease is None else TX_LOST)
    return reply


def outcome_of(request: Request, done: Completion) -> str:
    """How a transaction ended, in words for the log, as its last request left none open."""
    if done.failure is not None:
        code = done.failure.sqlstate
        what = "COMMIT" if failures.may_end(request) else "its statement"
        return f"rolled back: {what} failed" + (f" with {code}" if code else "")
    command = next((each.command for each in reversed(done.results) if each.command in _ENDS), "")
    if command == "ROLLBACK" and failures.may_end(request):
        return "rolled back: COMMIT came behind a statement that had failed"
    return _ENDS.get(command, "ended")


def rolled_back(number: int) -> ResultMessage:
    """The reply to a Rollback if the transaction is gone already."""
    return ResultMessage(number, TX_NONE, "ROLLBACK", -1, None, b"", ())


def _all_notices(results: Sequence[StatementResult]) -> tuple[str, ...]:
    return tuple(itertools.chain.from_iterable(result.notices for result in results))
