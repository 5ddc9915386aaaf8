"""Messages of clients become requests that run or wait, or get their reply at once."""

from __future__ import annotations

from client.wire.messages import (
    TX_NONE,
    Answer,
    BatchMessage,
    CopyMessage,
    Failure,
    Follow,
    GroupRequest,
    Query,
    Release,
    ResultMessage,
    TransactionMessage,
)
from poold.core.clients.accounts import Accounts
from poold.core.clients.admission import Admission
from poold.core.clients.counting import count_at_once
from poold.core.clients.leases import Leases, transaction_of
from poold.core.reading import Reading
from poold.core.records.client import Client
from poold.core.records.request import Request
from poold.core.records.transfer import Transfer
from poold.core.requests.runs import Runs
from poold.core.requests.waiting import Waiting
from poold.core.settling import Settling
from poold.core.state import CANCELLED, RUNNING, BackendState
from poold.core.work import failures, labels

# Requests of one lease that may wait behind its running statement. A synchronous client has one at most.
LEASE_PENDING_LIMIT = 16


class Reception:
    """Takes the messages of clients that are known."""

    def __init__(
        self,
        admission: Admission,
        accounts: Accounts,
        leases: Leases,
        waiting: Waiting,
        runs: Runs,
        settling: Settling,
        reading: Reading,
    ) -> None:
        self._admission = admission
        self._accounts = accounts
        self._reading = reading
        self._leases = leases
        self._waiting = waiting
        self._runs = runs
        self._settling = settling

    def take(
        self,
        client: Client,
        message: GroupRequest,
        now: float,
        size: int,
        clients: int,
    ) -> Answer | ResultMessage | Failure | None:
        """Take the message, of so many bytes. Returns the reply if there is one at once; clients is their number."""
        if isinstance(message, Follow):
            return self._reading.follow(client, message, now)
        if isinstance(message, Release):
            return self._release(client, message, now)
        transfer: Transfer | None = None
        if isinstance(message, CopyMessage):
            transfer = Transfer(message.is_in)
            message = as_query(message)
        if self._accounts.bytes + size > self._admission.most_bytes and isinstance(
            message, (Query, BatchMessage, TransactionMessage)
        ):
            refused = self._admission.share_exceeded(client, message.group, size, clients)
            if refused is not None:
                count_at_once(client, message, refused)
                return refused
        admitted: Request | ResultMessage | Failure | None = self._admission.request(client, message, now, size)
        if type(admitted) is Request:
            admitted.size = size
            admitted.transfer = transfer
            if isinstance(message, (Query, BatchMessage, TransactionMessage)):
                admitted.origin = message.origin
            labels.attach(admitted)
            admitted = self._accept(admitted, now)
        if type(admitted) is Failure:
            count_at_once(client, message, admitted)
            if admitted.transaction == TX_NONE and isinstance(message, (Query, BatchMessage)):
                lease = client.leases.get(message.lease)
                if lease is not None:
                    return admitted._replace(transaction=transaction_of(lease))  # the lease goes on
        return admitted  # type: ignore[return-value]  # no request

    def _accept(self, request: Request, now: float) -> Failure | None:
        """Let the request run, or wait: in its group's queue, or behind the statement that its lease runs.

        Returns the reply if too many requests of its lease wait already.
        """
        lease = request.lease
        if lease is not None and not request.opens and len(lease.pending) >= LEASE_PENDING_LIMIT:
            return failures.usage(f"lease {lease.number} has {LEASE_PENDING_LIMIT} requests waiting already")
        self._accounts.open(request)
        if lease is None or request.opens:
            if request.message is None:
                self._settling.dispatch(request, now)
            else:
                self._reading.begin(request, now)
        elif lease.backend is not None and lease.backend.state is BackendState.LEASED:
            self._runs.start(lease.backend, request, now)
        else:
            self._waiting.follow(request, lease)
        return None

    def _release(self, client: Client, message: Release, now: float) -> ResultMessage | Failure:
        """End the client's session: cancel what runs, discard what waits; its backend is reset."""
        lease = client.leases.get(message.lease)
        if lease is None:
            client.forget_lost(message.lease)
        elif not lease.is_session:
            return failures.usage(f"lease {lease.number} is a transaction, which ends with a commit or a rollback")
        else:
            reason = "it was released"
            for request in [each for each in client.requests.values() if each.lease is lease]:
                if request.state is RUNNING:
                    self._runs.cancel(request, CANCELLED, reason, now)
                elif request.is_waiting and request.opens:
                    self._waiting.discard(request, failures.lease_lost(reason, is_session=True))
            self._leases.end(lease, reason, now)
        return ResultMessage(message.request, TX_NONE, "RELEASE", -1, None, b"", ())


def as_query(copy: CopyMessage) -> Query:
    """Return the Query that runs the statement of a COPY; what passes of its data is told by a Transfer."""
    begin = (copy.request, copy.group, copy.lease, copy.begin, copy.statement, b"", b"", False)
    return Query(*begin, copy.timeout, copy.tag, copy.priority, copy.settings, copy.session, copy.origin)
