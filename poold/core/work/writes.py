"""What a request may have written, as its client must see it when it reads on a replica afterwards."""

from __future__ import annotations

from client.wire.messages import NOT_EXECUTED, Answer, Failure, ResultMessage, TransactionResult
from poold.core.effects import Bind
from poold.core.records.request import QUERY, Request, Verb
from poold.core.statements.leftovers import NOTHING


def has_written(request: Request, reply: Answer | ResultMessage | TransactionResult | Failure | None) -> bool:
    """Whether the request, which ends with this reply, may have written something.

    Proofs hold for prepared forms only. None is no reply, as nobody is left to hear it.
    """
    if request.verb > Verb.TRANSACTION or (type(reply) is Failure and reply.outcome == NOT_EXECUTED):
        return False
    if request.verb is QUERY:
        statement = request.statement
        if request.batch is not None:
            return True
        return statement is None or not statement.proof.is_plain_read or not _is_prepared(request)
    # What is not proven harmless may have made its transaction READ WRITE.
    return request.script is None or not request.script.is_read_only or request.leaves is not NOTHING


def is_flushed(request: Request) -> bool:
    """Whether its COMMIT was certainly answered only when it was flushed, unless the server's own settings say else."""
    if request.settings or request.lease is not None:
        return False
    if request.verb is Verb.TRANSACTION:
        return request.leaves is NOTHING
    return request.statement is not None and request.statement.is_harmless and _is_prepared(request)


def _is_prepared(request: Request) -> bool:
    return bool(request.unit) and type(request.unit[-1]) is Bind
