"""The steps of leases: given a backend, waiting for their client, ended, lost."""

from __future__ import annotations

from client.wire.limits import BATCH
from client.wire.messages import TX_ACTIVE, TX_NONE, TransactionStatus
from poold.core.agenda import Agenda
from poold.core.clients.accounts import Accounts
from poold.core.records.backend import Backend
from poold.core.records.lease import Lease
from poold.core.records.request import Request, Verb
from poold.core.state import BackendState
from poold.core.stats import Use
from poold.core.work import failures
from poold.core.work.results import rolled_back


class Leases:
    """The steps of leases."""

    def __init__(self, agenda: Agenda, accounts: Accounts) -> None:
        self._agenda = agenda
        self._timers = agenda.timers
        self._accounts = accounts

    def hold(self, backend: Backend, request: Request, lease: Lease, now: float) -> None:
        """Note that the lease's request runs on this backend, which becomes the lease's if the request opens it."""
        lease.requests += 1
        if lease.idle_since is not None:
            lease.idle += now - lease.idle_since
            lease.idle_since = None
        if request.opens:
            lease.backend = backend
            lease.began = now
            lease.tag, lease.origin = request.tag, request.origin
            backend.lease = lease
            if lease.limits.lease_timeout:
                lease.expires = now + lease.limits.lease_timeout
        lease.tag = request.tag or lease.tag
        if request.statement is not None:
            lease.statement = request.statement
            if request.statement.cursor is not None:
                request.fetched = lease.source(request.statement.cursor)
            lease.fetched = request.fetched
        if lease.expires is None:
            self._timers.clear(lease)
        else:
            self._timers.set(lease, lease.expires)

    def wait(self, backend: Backend, lease: Lease, now: float) -> None:
        """Let the lease's backend wait for the client's next statement."""
        backend.pool.move(backend, BackendState.LEASED)
        lease.idle_since = now
        limits = [lease.expires] if lease.expires is not None else []
        if lease.limits.idle_in_transaction_timeout:
            limits.append(now + lease.limits.idle_in_transaction_timeout)
        if limits:
            self._timers.set(lease, min(limits))

    def end(self, lease: Lease, reason: str, now: float) -> None:
        """End the lease and answer its pending requests. Its backend belongs to nobody and comes to rest by itself."""
        client, backend = lease.client, lease.backend
        client.leases.pop(lease.number, None)
        self._timers.clear(lease)
        while lease.pending:
            request = lease.pending.popleft()
            is_rollback = request.verb is Verb.ROLLBACK
            reply = rolled_back(request.number) if is_rollback else failures.lease_lost(reason, lease.is_session)
            self._accounts.answer(request, reply)
        if backend is not None:
            is_unknown = len(backend.running) > 0 and failures.may_end(backend.running[-1])
            self.part(lease, now, reason, is_unknown)
            backend.lease = None
            lease.group.let_go(backend)
            if backend.state is BackendState.LEASED:
                self._agenda.resting.append(backend)
        if lease.priority == BATCH:
            self._agenda.serve(lease.group)  # others of this priority may wait for their share

    def part(self, lease: Lease, now: float, why: str, is_unknown: bool) -> None:
        """The lease has its backend no more; is_unknown: what runs there may commit."""
        self._accounts.journal.lease_ended(lease, why, is_unknown)
        lease.backend = None
        lease.group.stats.use_times[Use.SESSION if lease.is_session else Use.LEASE].record(now - lease.began)

    def lose(self, lease: Lease, reason: str, now: float) -> None:
        """End a lease that its client did not end, and keep the reason for when the client asks."""
        lost = failures.lease_lost(reason, lease.is_session)
        lease.client.lease_lost(lease, lost)
        self.end(lease, reason, now)

    def broken(self, lease: Lease, now: float) -> None:
        """Lose the lease, as its last statement left its backend unusable."""
        self.lose(lease, "its last statement left the connection unusable", now)


def transaction_of(lease: Lease) -> TransactionStatus:
    """The transaction state to report to the client with a failure: that after what runs has ended, if it is known."""
    backend = lease.backend
    if not lease.is_session:
        return TX_ACTIVE
    if backend is None:
        return TX_ACTIVE if lease.begins else TX_NONE
    return TX_ACTIVE if any(request.begin for request in backend.running) else backend.transaction
