"""The broker's decisions: facts in, effects out.

A fact is a method call that carries `now`; what follows from it is appended to the effects, which the shell takes once
per turn. Which step a fact calls for is decided here, the steps themselves are `machine`'s.
"""

from __future__ import annotations

from typing import Any

from client.protocol import ROLLED_BACK_BODY, Commit, Failure, Query, Rollback
from poold.core import failures, janitor
from poold.core.effects import Close, Effect, Reply, Stop
from poold.core.group import Group
from poold.core.machine import BrokerState, Completion, Machine
from poold.core.pool import Backend, Pool
from poold.core.request import Client, Lease, Request, Verb
from poold.core.snapshot import snapshot_group
from poold.core.state import BackendState, RequestState

# PostgreSQL ignores a cancel that comes before its statement. One that had no effect is repeated after this pause.
CANCEL_AGAIN = 0.05

# Deadlines that belong to no object.
_JANITOR = "janitor"
_DRAIN = "drain"


class Broker(Machine):
    """Clients, requests, leases and backends, and what to do next."""

    # What the shell asks.

    def take(self) -> list[Effect]:
        """The effects since the last call, in order."""
        if self.state is BrokerState.DRAINING and not any(c.requests or c.leases for c in self.clients.values()):
            self._stop()
        effects, self._effects = self._effects, []
        return effects

    def next_deadline(self) -> float | None:
        """When tick must be called next, at the latest."""
        return self.timers.next_deadline()

    def snapshot(self, now: float) -> dict[str, Any]:
        """The state as plain values."""
        return {
            "state": self.state.name.lower(),
            "clients": len(self.clients),
            "groups": {name: snapshot_group(group, now) for name, group in self.groups.items()},
        }

    # Facts about the broker itself.

    def start(self, now: float) -> None:
        """The broker begins: backends are opened up to each group's min_size."""
        self.timers.set(_JANITOR, now + janitor.INTERVAL)
        for group in self.groups.values():
            self._grow(group, now)

    def tick(self, now: float) -> None:
        """Time has passed: act on every deadline that is due."""
        while (key := self.timers.pop_due(now)) is not None:
            if isinstance(key, Request):
                self._request_due(key, now)
            elif isinstance(key, Backend):
                self._backend_due(key, now)
            elif isinstance(key, Lease):
                self._lease_due(key, now)
            elif isinstance(key, Pool):
                key.endpoint.probe()
                self._endpoint_changed(key.group, now)
            elif key is _JANITOR:
                self.timers.set(_JANITOR, now + janitor.INTERVAL)
                for group in self.groups.values():
                    for backend, reason in janitor.retirements(group, now):
                        self._close(backend, reason)
                    self._grow(group, now)
            elif key is _DRAIN:
                self.stop(now)

    def drain(self, now: float) -> None:
        """Take no new work, finish what there is within drain_timeout, then Stop."""
        if self.state is BrokerState.RUNNING:
            self.state = BrokerState.DRAINING
            self.timers.set(_DRAIN, now + self.config.broker.drain_timeout)

    def stop(self, now: float) -> None:
        """Stop at once: whatever runs is lost."""
        for backend in list(self.backends.values()):
            self._lose(backend, "the broker was stopped", now)
        for client in self.clients.values():
            for request in list(client.requests.values()):
                if request.state is not RequestState.DONE:
                    self._discard(request, failures.draining(), now)
        self._stop()

    def _stop(self) -> None:
        if self.state is not BrokerState.STOPPED:
            self.state = BrokerState.STOPPED
            self._effects.append(Stop())

    # Facts about clients.

    def client_arrived(self, key: int, pid: int, name: str) -> None:
        """A client said Hello."""
        self.clients[key] = Client(key, pid, name)

    def client_gone(self, key: int, now: float) -> None:
        """A client's connection ended: its work is cancelled, its transactions are rolled back."""
        client = self.clients.pop(key, None)
        if client is None:
            return
        for request in list(client.requests.values()):
            if request.state is RequestState.DONE:
                continue  # it went with the request that was to begin its lease
            request.group.stats.withdrawn += 1
            if request.state is RequestState.WAITING:
                self._discard(request, None, now)
            else:
                self._cancel(request, RequestState.WITHDRAWN, "", now)
        for lease in list(client.leases.values()):
            self._end_lease(lease, "its client is gone", now)
        for group in client.groups:
            group.clients -= 1

    def cancel(self, key: int, number: int, now: float) -> None:
        """A client withdraws a request. It still gets its one reply."""
        client = self.clients.get(key)
        request = client.requests.get(number) if client else None
        if request is None:
            return
        request.group.stats.withdrawn += 1
        if request.state is RequestState.WAITING:
            self._discard(request, failures.withdrawn(), now)
        elif request.state is RequestState.RUNNING:
            self._cancel(request, RequestState.CANCELLED, "", now)

    def request(self, key: int, message: Query | Commit | Rollback, now: float) -> None:
        """A client sent a request."""
        client = self.clients.get(key)
        if client is None:
            return
        if message.request in client.requests:
            refusal = failures.protocol(f"request {message.request} is not answered yet, numbers must be new")
            self._effects.append(Reply(key, 0, refusal))
            return
        refused: Failure | None
        if type(message) is Query:
            refused = self._query(client, message, now)
        else:
            refused = self._end_transaction(client, message, now)  # type: ignore[arg-type]  # no Query
        if refused is not None:
            self._effects.append(Reply(key, message.request, refused))

    def _query(self, client: Client, message: Query, now: float) -> Failure | None:
        """Accept the query, or say why not."""
        group = self.groups.get(message.group)
        if group is None:
            return failures.unconfigured_group(message.group, list(self.groups))
        if group.config.autocommit is not (message.lease == 0):
            mode, wanted = ("autocommit", "no") if group.config.autocommit else ("not autocommit", "a")
            return failures.usage(f"group {group.name!r} is {mode}: its queries have {wanted} lease number")
        lease: Lease | None = None
        if message.lease and not message.begin:
            lease = client.leases.get(message.lease)
            if lease is None:
                return failures.transaction_lost(client.lost_leases.get(message.lease, "it had ended already"))
            if lease.group is not group:
                return failures.usage(f"lease {lease.number} belongs to group {lease.group.name!r}")
        elif self.state is not BrokerState.RUNNING:
            group.stats.refused += 1
            return failures.draining()
        elif message.lease in client.leases:
            return failures.protocol(f"lease {message.lease} is open already, numbers must be new")
        if lease is None and 0 < group.config.max_waiting <= len(group.queue):
            group.stats.refused += 1
            return group.full()
        if message.lease and lease is None:
            lease = client.leases[message.lease] = Lease(client, message.lease, group)
        deadline = None if message.timeout is None else now + message.timeout
        request = Request(
            client,
            message.request,
            group,
            message.statement,
            Verb.QUERY,
            message.begin,
            lease,
            now,
            deadline,
            message.tag,
        )
        return self._accept(request, now)

    def _end_transaction(self, client: Client, message: Commit | Rollback, now: float) -> Failure | None:
        """Accept the commit or rollback, or say why not."""
        verb = Verb.COMMIT if type(message) is Commit else Verb.ROLLBACK
        lease = client.leases.get(message.lease)
        if lease is None:
            reason = client.lost_leases.get(message.lease, "it had ended already")
            if verb is Verb.COMMIT:
                return failures.transaction_lost(reason)
            client.lost_leases.pop(message.lease, None)
            self._effects.append(Reply(client.key, message.request, ROLLED_BACK_BODY))
            return None
        statement = b"COMMIT" if verb is Verb.COMMIT else b"ROLLBACK"
        request = Request(client, message.request, lease.group, statement, verb, False, lease, now, None, "")
        return self._accept(request, now)

    # Facts about backends.

    def opened(self, number: int, now: float) -> None:
        """The backend is connected and ready."""
        backend = self.backends.get(number)
        if backend is None:
            return
        pool, group = backend.pool, backend.group
        pool.stats.opened += 1
        self.timers.clear(backend)
        lifetime = group.config.max_lifetime
        if lifetime:
            backend.expires = now + lifetime * (1 - janitor.LIFETIME_JITTER * self.chance())
        if pool.endpoint.opened():
            self._endpoint_changed(group, now)
        self._idle(backend, now)

    def connect_failed(self, number: int, error: str, now: float) -> None:
        """The backend could not be opened."""
        backend = self.backends.get(number)
        if backend is None:
            return
        pool = backend.pool
        pool.stats.failed += 1
        self._remove(backend)
        if pool.endpoint.failed(error, now, self.chance()):
            self.timers.set(pool, pool.endpoint.until)
            self._endpoint_changed(pool.group, now)

    def completed(self, number: int, done: Completion, now: float) -> None:
        """The statement, or the reset, of the backend has ended."""
        backend = self.backends.get(number)
        if backend is None:
            return
        backend.transaction = done.transaction
        request = backend.request
        if request is not None:
            backend.request = None
            self._finish(request, backend, done, now)
        if backend.state is BackendState.CANCELLING:
            backend.pool.move(backend, BackendState.SETTLING)
        else:
            self._rest(backend, now)

    def cancelled(self, number: int, now: float) -> None:
        """The backend's cancel is settled: PostgreSQL has delivered it, or it failed; it cannot hit anything later."""
        backend = self.backends.get(number)
        if backend is None:
            return
        if backend.state is BackendState.SETTLING:
            self._rest(backend, now)
        elif backend.state is BackendState.CANCELLING:
            backend.pool.move(backend, BackendState.ACTIVE)
            self.timers.set(backend.request, now + CANCEL_AGAIN)

    def lost(self, number: int, error: str, now: float) -> None:
        """The backend's connection is gone."""
        backend = self.backends.get(number)
        if backend is not None:
            backend.pool.stats.lost += 1
            self._lose(backend, error, now)
            self._grow(backend.group, now)

    # Deadlines.

    def _request_due(self, request: Request, now: float) -> None:
        """A waiting request has waited too long, a running one must end, or its cancel had no effect."""
        if request.state is RequestState.WAITING:
            request.group.stats.timeouts += 1
            is_own = request.deadline is not None and request.deadline <= now
            self._discard(request, request.group.overdue(now - request.arrived, is_own), now)
        elif request.state is RequestState.RUNNING:
            assert request.deadline is not None
            reason = f"the request's timeout of {request.deadline - request.arrived:g} s has passed"
            self._cancel(request, RequestState.CANCELLED, reason, now)
        elif request.backend is not None:
            self._send_cancel(request.backend)

    def _backend_due(self, backend: Backend, now: float) -> None:
        """What the backend is doing takes too long."""
        request = backend.request
        if backend.state is BackendState.CONNECTING:
            timeout = backend.pool.endpoint.connect_timeout
            error = f"no connection within connect_timeout = {timeout:g} s"
            self._effects.append(Close(backend.number, error))
            self.connect_failed(backend.number, error, now)
        elif request is not None and request.state is RequestState.RUNNING and request.verb is Verb.QUERY:
            timeout = backend.pool.endpoint.query_timeout
            reason = f"the endpoint did not end it after its query_timeout of {timeout:g} s"
            self._cancel(request, RequestState.CANCELLED, reason, now)
        elif request is not None:
            self._give_up(backend, "the server does not answer", now)
        elif backend.state is BackendState.SETTLING or backend.state is BackendState.RESETTING:
            self._give_up(backend, f"the server does not answer while {backend.state.name.lower()}", now)

    def _lease_due(self, lease: Lease, now: float) -> None:
        """The lease was idle, or held, for too long."""
        request = lease.backend.request if lease.backend is not None else None
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

    def _endpoint_changed(self, group: Group, now: float) -> None:
        """An endpoint became worth connecting to, or ceased to be: deal out the group's sizes anew."""
        group.respread()
        for backend, reason in janitor.surplus(group):
            self._close(backend, reason)
        self._grow(group, now)
