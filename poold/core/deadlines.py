"""Deadlines: what follows when a time has come."""

from __future__ import annotations

from poold.core.effects import Close, Drop, Look
from poold.core.lifecycle import is_hopeless
from poold.core.machine import LOOK_TIMEOUT
from poold.core.pools import janitor
from poold.core.pools.group import Group
from poold.core.records.backend import Backend
from poold.core.records.client import Client
from poold.core.records.lease import Lease
from poold.core.records.request import Request, Verb
from poold.core.state import BackendState, RequestState
from poold.core.watching import Watching
from poold.core.work import failures

_CANCELLABLE = (Verb.QUERY, Verb.TRANSACTION)


class Deadlines(Watching):
    """The steps that time calls for."""

    def _request_due(self, request: Request, now: float) -> None:
        """A pause is over, a wait was too long, a running request must end, or its cancel had no effect."""
        if request.verb is Verb.INQUIRY and request.deadline is not None and request.deadline <= now:
            self._inquiry_overdue(request, now)
        elif request.state is RequestState.PAUSED and (request.deadline is None or now < request.deadline):
            self._resume(request, now)
        elif request.is_waiting:
            self._overdue(request, now)
        elif request.state is RequestState.RUNNING:
            self._cancel(request, RequestState.CANCELLED, failures.timeout_passed(request), now)
        elif request.backend is not None and request.backend.request is request:
            self._send_cancel(request.backend)

    def _overdue(self, request: Request, now: float) -> None:
        """The request waited too long: it leaves unexecuted."""
        request.group.stats.timeouts += 1
        is_own = request.deadline is not None and (request.deadline <= now or is_hopeless(request, now))
        waited = now - request.arrived
        is_held = request.state is RequestState.HELD
        self._discard(request, failures.unread(waited) if is_held else request.group.overdue(waited, is_own), now)

    def _backend_due(self, backend: Backend, now: float) -> None:
        """What the backend is doing takes too long."""
        request = backend.request
        if backend.state is BackendState.CONNECTING:
            timeout = backend.pool.endpoint.connect_timeout
            error = f"no connection within connect_timeout = {timeout:g} s"
            self._effects.append(Close(backend.number, error))
            self._connect_failed(backend, error, now)
        elif request is not None and backend.state is BackendState.CANCELLING and request.is_exposed:
            self._give_up(backend, "the server does not take a cancel", now)  # which was not meant to be told
        elif request is not None and request.state is RequestState.RUNNING and request.verb in _CANCELLABLE:
            if backend.looked_for is request or _must_have_ended(request):
                self._is_not_heard(backend, request, now)
            else:
                backend.looked_for = request
                self.timers.set(backend, now + LOOK_TIMEOUT)
                self._effects.append(Look(backend.number))
        elif request is not None:
            self._give_up(backend, "the server does not answer", now)
        elif backend.state is BackendState.SETTLING or backend.state is BackendState.RESETTING:
            self._give_up(backend, f"the server does not answer while {backend.state.name.lower()}", now)

    def _is_not_heard(self, backend: Backend, request: Request, now: float) -> None:
        """The server should have ended the request by itself."""
        timeout = backend.pool.endpoint.query_timeout
        reason = f"the endpoint did not end it after its query_timeout of {timeout:g} s"
        self._cancel(request, RequestState.CANCELLED, reason, now)

    def _looked(self, backend: Backend, is_at_work: bool, now: float) -> None:
        """The server was asked whether it works for the backend; if it does, it knows how long it may."""
        request, backend.looked_for = backend.looked_for, None
        if request is None or backend.request is not request or request.state is not RequestState.RUNNING:
            return
        if backend.state is not BackendState.ACTIVE:
            return
        if is_at_work:
            self._guard(backend, request, now)
        else:
            self._is_not_heard(backend, request, now)

    def _lease_due(self, lease: Lease, now: float) -> None:
        """The lease was idle, or held, for too long."""
        request = lease.backend.running[-1] if lease.backend is not None and lease.backend.running else None
        if request is not None and request.verb is not Verb.QUERY:
            return  # it is ending by itself
        config = lease.group.config
        if lease.expires is not None and lease.expires <= now:
            reason = f"it was open for longer than lease_timeout = {config.lease_timeout:g} s"
        else:
            reason = (
                f"it was idle for longer than idle_in_transaction_timeout = {config.idle_in_transaction_timeout:g} s"
            )
        self._lose_lease(lease, reason, now)
        if request is not None and request.state is RequestState.RUNNING:
            self._cancel(request, RequestState.CANCELLED, reason, now)

    def _client_due(self, client: Client, now: float) -> None:
        """The client may have been silent for too long; one that waits for replies has not."""
        timeout = self.config.broker.client_idle_timeout
        if client.requests:
            client.heard = now
        if now < client.heard + timeout:
            self.timers.set(client, client.heard + timeout)
        else:
            self._effects.append(Drop(client.key, f"it sent nothing for client_idle_timeout = {timeout:g} s"))

    def _connect_failed(self, backend: Backend, error: str, now: float) -> None:
        """The backend could not be opened: leave its endpoint alone for a while."""
        pool = backend.pool
        pool.stats.failed += 1
        self._remove(backend)
        if pool.endpoint.failed(error, now, self.chance(), is_beside=pool.open > 0):
            self.timers.set(pool, pool.endpoint.until)
            self._endpoint_changed(pool.group, now)
        else:
            self._grow(pool.group, now)  # there is room for one elsewhere

    def _endpoint_changed(self, group: Group, now: float) -> None:
        """An endpoint became worth connecting to, or ceased to be: deal out the group's sizes anew."""
        group.respread()
        for backend, reason in janitor.surplus(group):
            self._close(backend, reason)
        self._grow(group, now)


def _must_have_ended(request: Request) -> bool:
    """Whether the endpoint's query_timeout certainly held for the request.

    It may have a longer one: by its settings, by SET in its lease or its own text, by a function that anything called.
    Each statement of a string has one of its own, and what comes with a commit (deferred triggers, standbys that are
    waited for) has none.
    """
    statement = request.statement
    if request.lease is not None or statement is None or b"statement_timeout" in request.settings.lower():
        return False
    traits = statement.examine()
    return traits.is_plain and not traits.writes
