"""What became of a COMMIT whose answer was lost: only the server that it was sent to knows, by the transaction's id.

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

# How long PostgreSQL is asked what became of a COMMIT, and how often while it is still at it. A server notices the end
# of a connection within client_connection_check_interval.
OUTCOME_TIMEOUT = 10.0
ASK_AGAIN = 0.05
# pg_xact_status says so of an id that was not given yet: with it a crash has taken all that its transaction did.
_IN_THE_FUTURE = INVALID_PARAMETER_VALUE


def inquiry_about(request: Request, backend: Backend, xid: bytes, error: str, now: float) -> Request:
    """The question; error is why the answer was lost."""
    inquiry = Request(NOBODY, 0, request.group, Verb.INQUIRY, now, now + OUTCOME_TIMEOUT)
    inquiry.about = request
    inquiry.pool = backend.pool
    inquiry.reason = error
    inquiry.identity = backend.server.identity
    inquiry.epoch = backend.server.epoch
    inquiry.unit = (SimpleQuery(b"SELECT pg_catalog.pg_xact_status('%b'::pg_catalog.xid8)" % xid),)
    return inquiry


class InquiryWork:
    """Inquiries. What they are told decides about the transaction that they are about."""

    def __init__(self, transaction: TransactionWork) -> None:
        self._transaction = transaction

    def can_be_told(self, backend: Backend, inquiry: Request) -> bool:
        """Whether this backend's server is the one that the COMMIT was sent to."""
        return backend.server.identity == inquiry.identity

    def begin(self, _backend: Backend, request: Request, _now: float) -> Unit:
        """The question."""
        return request.unit

    def ended(self, _backend: Backend, request: Request, done: Completion, now: float) -> Decision:
        """PostgreSQL has answered, or not.

        After a recovery from a crash the id may have been given again, to another transaction: only if that was not
        committed either, or has not come yet, is it known that this one was not. A COMMIT that was answered, or could
        have been, survives any crash.
        """
        if request.state is DONE:
            return None  # its time was up
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
        """Another backend may be asked, as long as there is time."""
        return None if request.state is DONE else Ask(request)

    def overdue(self, inquiry: Request, now: float) -> Decision:
        """PostgreSQL could not be asked in time. If it is being asked, the answer comes too late."""
        return self.told(inquiry, f"PostgreSQL could not tell within {OUTCOME_TIMEOUT:g} s", now)

    def replaced(self, inquiry: Request, now: float) -> Decision:
        """Where the server was is another one."""
        return self.told(inquiry, "the server is another one now", now)

    def told(self, inquiry: Request, status: str, now: float) -> Decision:
        """Now it is known, as far as it can be, what became of the transaction."""
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
