"""The inquiry what became of a COMMIT whose answer was lost. Only its server knows, by the transaction's id.

https://www.postgresql.org/docs/current/functions-info.html, pg_xact_status
"""

from __future__ import annotations

from client.wire.sqlstates import INVALID_PARAMETER_VALUE
from poold.core.effects import SimpleQuery, Unit
from poold.core.facts import Completion, Loss
from poold.core.records.backend import Backend
from poold.core.records.client import NOBODY
from poold.core.records.request import Request, Verb
from poold.core.state import DONE
from poold.core.work.decision import Ask, Decision, Pause
from poold.core.work.references import only_cell
from poold.core.work.transaction import TransactionWork

# For how long PostgreSQL is asked, and the pause before it is asked again if the transaction is still in progress. A
# server notices the end of a connection within client_connection_check_interval.
OUTCOME_TIMEOUT = 10.0
ASK_AGAIN = 0.05
# pg_xact_status fails with this for an id that was not given yet: a crash has undone the transaction and forgotten its
# id.
_IN_THE_FUTURE = INVALID_PARAMETER_VALUE


def inquiry_about(request: Request, backend: Backend, xid: bytes, error: str, now: float) -> Request:
    """The inquiry about this request; error is why COMMIT's answer was lost."""
    inquiry = Request(NOBODY, 0, request.group, Verb.INQUIRY, now, now + OUTCOME_TIMEOUT)
    inquiry.about = request
    inquiry.pool = backend.pool
    inquiry.reason = error
    inquiry.identity = backend.server.identity
    inquiry.epoch = backend.server.epoch
    inquiry.unit = (SimpleQuery(b"SELECT pg_catalog.pg_xact_status('%b'::pg_catalog.xid8)" % xid),)
    return inquiry


class InquiryWork:
    """Inquiries. The answer decides what follows for the request that an inquiry is about."""

    def __init__(self, transaction: TransactionWork) -> None:
        self._transaction = transaction

    def can_be_told(self, backend: Backend, inquiry: Request) -> bool:
        """Whether this backend's server, by its identity, is the one that the COMMIT was sent to."""
        return backend.server.identity == inquiry.identity

    def begin(self, _backend: Backend, request: Request, _now: float) -> Unit:
        """Return the question."""
        return request.unit

    def ended(self, _backend: Backend, request: Request, done: Completion, now: float) -> Decision:
        """Decide by PostgreSQL's answer, or ask again later if the transaction is in progress.

        After the recovery from a crash the id may have been given again, to another transaction. So "committed" tells
        nothing then. Any other status tells that this transaction was not committed, as a COMMIT that may have been
        answered survives a crash.
        """
        if request.state is DONE:
            return None  # the answer comes after the deadline
        is_recovered = request.backend is not None and request.backend.server.epoch != request.epoch
        if done.failure is not None and done.failure.sqlstate == _IN_THE_FUTURE:
            return self.told(request, "aborted", now)
        if done.failure is not None:
            return self.told(request, f"PostgreSQL does not tell ({done.failure.message.strip()})", now)
        status = only_cell(done.results[-1].rows or b"")
        if is_recovered and status == b"committed":
            return self.told(request, "the server crashed since, and may have used its id again", now)
        if is_recovered and status == b"in progress":
            status = b"aborted"
        if status != b"in progress":
            return self.told(request, status.decode() if status else "PostgreSQL has forgotten it", now)
        assert request.deadline is not None
        return Pause(request, min(now + ASK_AGAIN, request.deadline))

    def lost(self, _backend: Backend, request: Request, _loss: Loss, _is_begun: bool, _now: float) -> Decision:
        """Ask another backend, unless the deadline has passed."""
        return None if request.state is DONE else Ask(request)

    def overdue(self, inquiry: Request, now: float) -> Decision:
        """The deadline has passed. An answer that is still under way comes too late."""
        return self.told(inquiry, f"PostgreSQL could not tell within {OUTCOME_TIMEOUT:g} s", now)

    def replaced(self, inquiry: Request, now: float) -> Decision:
        """The endpoint leads to a server with another identity."""
        return self.told(inquiry, "the server is another one now", now)

    def told(self, inquiry: Request, status: str, now: float) -> Decision:
        """Conclude the transaction: status is "committed", "aborted", or else the reason why it is unknown."""
        request = inquiry.about
        assert request is not None
        assert request.backend is not None
        if request.state is DONE:
            return None
        if status == "committed":
            return self._transaction.committed(request)
        if status == "aborted":
            return self._transaction.elsewhere(request.backend, request, inquiry.reason, now)
        return self._transaction.unknown(request, inquiry.reason, status, now)
