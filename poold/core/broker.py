"""The broker's decisions: facts in, effects out.

A fact is a method call that carries `now`; what follows from it is appended to the effects, which the shell takes once
per turn. Which step a fact calls for is decided here; the steps are those of `lifecycle`, `machine`, `messages`,
`losses` and `deadlines`, each built on the one before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from client.protocol import Commit, Failure, ProtocolViolation, Query, Rollback, Transaction
from poold.core import failures, janitor
from poold.core.access import Caller, open_to
from poold.core.deadlines import Deadlines
from poold.core.effects import Effect, Execute, Reply, Stop
from poold.core.facts import Completion, Outcome, Server
from poold.core.group import Group
from poold.core.lifecycle import BrokerState
from poold.core.machine import CANCEL_TIMEOUT, GUARD, rolled_back
from poold.core.messages import refusal
from poold.core.pool import Backend, Pool
from poold.core.request import Client, Lease, Request, Verb
from poold.core.script import Script
from poold.core.snapshot import snapshot_group, snapshot_processes
from poold.core.state import BackendState, RequestState
from poold.core.statements import StatementState

# As plain globals: to name a member of an Enum costs five times as much, and these are named for every request.
_RUNNING = RequestState.RUNNING
_ACTIVE = BackendState.ACTIVE
_CANCELLING = BackendState.CANCELLING
_PREPARED = StatementState.PREPARED
_QUERY = Verb.QUERY
_PROBE = Verb.PROBE
_INQUIRY = Verb.INQUIRY
_IS_RUNNING = BrokerState.RUNNING
_IS_DRAINING = BrokerState.DRAINING

# PostgreSQL ignores a cancel that comes before its statement. One that had no effect is repeated after this pause.
CANCEL_AGAIN = 0.05

# Deadlines that belong to no object.
_JANITOR = "janitor"
_DRAIN = "drain"


class Broker(Deadlines):
    """Clients, requests, leases and backends, and what to do next."""

    # What the shell asks.

    def take(self) -> list[Effect]:
        """The effects since the last call, in order."""
        if self.state is _IS_DRAINING and not any(c.requests or c.leases for c in self.clients.values()):
            self.state = BrokerState.STOPPED
            self._effects.append(Stop())
        effects, self._effects = self._effects, []
        self._turn += 1
        return effects

    def next_deadline(self) -> float | None:
        """When tick must be called next, at the latest."""
        return self.timers.next_deadline()

    def snapshot(self, now: float, reader: int | None = None) -> dict[str, Any]:
        """The state as plain values; with the key of a client only the groups that it may use."""
        groups = self.groups if reader is None else self.clients[reader].open_groups
        return {
            "state": self.state.name.lower(),
            "clients": len(self.clients),
            **snapshot_processes(self.clients.values()),
            "groups": {name: snapshot_group(group, now) for name, group in groups.items()},
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
        if self.state is _IS_RUNNING:
            self.state = _IS_DRAINING
            self.timers.set(_DRAIN, now + self.config.broker.drain_timeout)

    def stop(self, now: float) -> None:
        """Stop at once: whatever runs is lost."""
        if self.state is BrokerState.STOPPED:
            return
        self.state = BrokerState.STOPPED
        for backend in list(self.backends.values()):
            self._lose(backend, "the broker was stopped", now)
        for client in self.clients.values():
            for request in list(client.requests.values()):
                if request.state is RequestState.IN_DOUBT:
                    self._unknown(request, "the broker was stopped", "PostgreSQL was not asked")
                elif request.state is not RequestState.DONE:
                    self._discard(request, failures.draining(), now)
        self._effects.append(Stop())

    # Facts about clients.

    def client_arrived(
        self,
        key: int,
        pid: int,
        name: str,
        uid: int | None = None,
        gid: int | None = None,
        caller: Caller | None = None,
    ) -> Mapping[str, Group]:
        """A client said Hello; the groups it may use."""
        groups = open_to(caller or Caller(uid), self.groups)
        self.clients[key] = Client(key, pid, name, uid, gid, groups)
        return groups

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
            elif request.state is RequestState.IN_DOUBT:
                request.state = RequestState.WITHDRAWN
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
        elif request.state is _RUNNING:
            self._cancel(request, RequestState.CANCELLED, "", now)
        elif request.state is RequestState.IN_DOUBT and request.script is not None:
            request.script.retries = 0  # what became of it is still told

    def request(self, key: int, message: Query | Transaction | Commit | Rollback, now: float) -> None:
        """A client sent a request."""
        client = self.clients.get(key)
        if client is None:
            return
        if message.request in client.requests:
            text = f"request {message.request} is not answered yet, numbers must be new"
            self._effects.append(Reply(key, failures.protocol(text)))
            return
        refused: Failure | None
        if isinstance(message, Query):
            refused = self._query(client, message, now)
        elif isinstance(message, Transaction):
            refused = self._transaction(client, message, now)
        else:
            refused = self._end_transaction(client, message, now)
        if refused is not None:
            self._effects.append(Reply(key, refused._replace(request=message.request)))

    def _query(self, client: Client, message: Query, now: float) -> Failure | None:
        """Accept the query, or say why not."""
        group = client.open_groups.get(message.group)
        if group is None:
            return failures.unconfigured_group(message.group, list(client.open_groups))
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
        elif self.state is not _IS_RUNNING:
            group.stats.refused += 1
            return failures.draining()
        elif message.lease in client.leases:
            return failures.protocol(f"lease {message.lease} is open already, numbers must be new")
        if lease is None and 0 < group.config.max_waiting <= len(group.queue):
            group.stats.refused += 1
            return group.full()
        statement = group.statements.find(message.statement, message.types)
        if statement.state is not _PREPARED:
            try:
                statement.rendered(message.values)
            except ProtocolViolation as violation:
                return failures.protocol(str(violation))
        if message.lease and lease is None:
            lease = client.leases[message.lease] = Lease(client, message.lease, group)
        deadline = None if message.timeout is None else now + message.timeout
        request = Request(client, message.request, group, _QUERY, now, deadline, lease)
        request.tag = message.tag
        request.begin = message.begin
        request.statement = statement
        request.values = message.values
        request.prepare = message.prepare
        return self._accept(request, now)

    def _transaction(self, client: Client, message: Transaction, now: float) -> Failure | None:
        """Accept the transaction message, or say why not."""
        group = client.open_groups.get(message.group)
        if group is None:
            return failures.unconfigured_group(message.group, list(client.open_groups))
        if self.state is not _IS_RUNNING:
            group.stats.refused += 1
            return failures.draining()
        if 0 < group.config.max_waiting <= len(group.queue):
            group.stats.refused += 1
            return group.full()
        try:
            plan = group.plans.find(message.steps)
        except ProtocolViolation as violation:
            return failures.protocol(str(violation))
        if plan.obstacle:
            return failures.usage(plan.obstacle)
        if len(message.values) != plan.count:
            return failures.protocol(f"{plan.count} statements have {len(message.values)} values")
        config, limit = group.config, self.config.broker.max_result_bytes
        script = Script(message, plan, group.statements, config.track_outcome, limit, config.read_only)
        refused = refusal(script)
        if refused is not None:
            return refused
        deadline = None if message.timeout is None else now + message.timeout
        request = Request(client, message.request, group, Verb.TRANSACTION, now, deadline)
        request.tag = message.tag
        request.script = script
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
            self._effects.append(Reply(client.key, rolled_back(message.request)))
            return None
        request = Request(client, message.request, lease.group, verb, now, lease=lease)
        return self._accept(request, now)

    # Facts about backends.

    def opened(self, number: int, now: float, server: Server | None = None) -> None:
        """The backend is connected and ready."""
        backend = self.backends.get(number)
        if backend is None:
            return
        pool, group = backend.pool, backend.group
        pool.stats.opened += 1
        backend.server = server or backend.server
        self.timers.clear(backend)
        lifetime = group.config.max_lifetime
        if lifetime:
            backend.expires = now + lifetime * (1 - janitor.LIFETIME_JITTER * self.chance())
        if pool.endpoint.opened():
            self._endpoint_changed(group, now)
        self._idle(backend, now)
        self._grow(group, now)

    def connect_failed(self, number: int, error: str, now: float) -> None:
        """The backend could not be opened."""
        backend = self.backends.get(number)
        if backend is not None:
            self._connect_failed(backend, error, now)

    def completed(self, number: int, done: Completion, now: float) -> None:
        """The first of the backend's units has ended."""
        backend = self.backends.get(number)
        if backend is None:
            return
        backend.transaction = done.transaction
        running = backend.running
        if not running:
            self._rest(backend, now)  # its reset
            return
        request = running[0]
        if request.then and self._goes_on(backend, request, done):
            return
        if request.script is not None:
            if self._advance(backend, request, done, now):
                return
            running.popleft()
        else:
            running.popleft()
            if request.verb is _PROBE:
                self._probed(request, backend, done)
            elif request.verb is _INQUIRY:
                self._inquired(request, done, now)
            else:
                self._finish(request, backend, done, now)
        backend.completed = now
        if running:
            self._next_in_line(backend, running[0], now)
        elif backend.state is _CANCELLING:
            backend.pool.move(backend, BackendState.SETTLING)
        else:
            self._rest(backend, now)

    def _goes_on(self, backend: Backend, request: Request, done: Completion) -> bool:
        """BEGIN has succeeded: its statement follows, unless nobody wants it any more."""
        following, request.then = request.then, ()
        if done.failure is None and request.state is _RUNNING:
            request.unit = following
            self._effects.append(Execute(backend.number, following))
            return True
        done.failure = done.failure or failures.withdrawn()._replace(transaction=done.transaction)
        return False

    def _next_in_line(self, backend: Backend, request: Request, now: float) -> None:
        """PostgreSQL goes on with the next request in the backend's connection."""
        if backend.state is _CANCELLING and request.state is _RUNNING:
            self.timers.set(backend, now + max(backend.pool.endpoint.query_timeout, CANCEL_TIMEOUT) + GUARD)
        if backend.state is not _ACTIVE:
            return
        if request.state is _RUNNING:
            self._guard(backend, request, now)
            if backend.group.queue.waiting:
                self._refill(backend, now)
        else:
            self.timers.set(backend, now + CANCEL_TIMEOUT)
            self._send_cancel(backend)

    def cancelled(self, number: int, now: float) -> None:
        """The backend's cancel is settled: PostgreSQL has delivered it, or it failed; it cannot hit anything later."""
        backend = self.backends.get(number)
        if backend is None:
            return
        if backend.state is BackendState.SETTLING:
            self._rest(backend, now)
        elif backend.state is _CANCELLING:
            backend.pool.move(backend, _ACTIVE)
            request = backend.running[0]
            if request.state is _RUNNING:
                self._guard(backend, request, now)  # the cancelled one has ended, this one came after it
            else:
                self.timers.set(request, now + CANCEL_AGAIN)

    def lost(
        self,
        number: int,
        error: str,
        now: float,
        unsent: int = 0,
        partial: Sequence[Outcome] = (),
        last: Failure | None = None,
    ) -> None:
        """The backend's connection is gone.

        unsent of its units were not written at all. partial are the results of the first of the others, as far as they
        came, and last is the FATAL error that ended it.
        """
        backend = self.backends.get(number)
        if backend is not None:
            backend.pool.stats.lost += 1
            self._lose(backend, error, now, unsent, partial, last)
