"""What a request that is answered adds to the figures of its statement."""

from __future__ import annotations

from client.wire.messages import (
    Answer,
    BatchMessage,
    Commit,
    Failure,
    GroupRequest,
    Query,
    ResultMessage,
    Rollback,
    TransactionMessage,
    TransactionResult,
)
from poold.core.effects import Plain, SimpleQuery
from poold.core.records.client import Client
from poold.core.records.request import Request, Verb
from poold.core.stats import Refusal
from poold.core.tallies import BATCH, STATEMENT, TRANSACTION

# Kinds of refusals that are counted where the limit is known.
_COUNTED = ("too-many-requests", "unserved")

Reply = Answer | ResultMessage | TransactionResult | Failure | None


def count(request: Request, reply: Reply) -> None:
    """Count the request, which ends with this reply."""
    group, seconds = request.group, request.ran
    if seconds is None:
        group.stats.not_begun += 1
        return
    tally = group.tallies.find(*_shape(request))
    tally.is_prepared = not any(type(each) in (Plain, SimpleQuery) for each in request.unit)
    rows, is_error = 0, False
    if type(reply) is ResultMessage:
        rows = max(0, reply.rowcount)
    elif type(reply) is TransactionResult:
        is_error = reply.failure is not None
        # An entry has the fields of a ResultMessage, or of the Failure that undid its block: then no number is there.
        rows = sum(each[3] for each in reply.results if each is not None and type(each[3]) is int and each[3] > 0)
    else:
        is_error = type(reply) is Failure
    group.tallies.count(tally, seconds, rows, is_error)


def count_at_once(client: Client, message: GroupRequest, failure: Failure) -> None:
    """Count an error in reply to what did not become a request, in its group, if the client may use that.

    It was refused. For a limit or a drain whoever did so has counted it, with the reason.
    """
    if isinstance(message, (Query, BatchMessage, TransactionMessage)):
        group = client.open_groups.get(message.group)
    else:
        group = client.lost_groups.get(message.lease) if isinstance(message, (Commit, Rollback)) else None
    if group is not None:
        group.stats.count_error(failure.sqlstate, failure.kind)
        if failure.kind == "transaction-lost":
            group.stats.refused_for[Refusal.TRANSACTION_LOST] += 1
        elif failure.kind not in _COUNTED:
            group.stats.refused_for[Refusal.MISTAKE] += 1


def _shape(request: Request) -> tuple[str, bytes]:
    """The kind of what the request runs, and its text without values."""
    if request.script is not None:
        return TRANSACTION, request.script.plan.masked
    if request.statement is None:
        return STATEMENT, b"COMMIT" if request.verb is Verb.COMMIT else b"ROLLBACK"
    if request.fetched is not None:
        return STATEMENT, b"%b: %b" % (request.statement.masked, request.fetched.shape)
    return (STATEMENT if request.batch is None else BATCH), request.statement.masked
