"""The broker's decisions: facts in, effects out.

A fact is a method call that carries `now`; what follows from it is appended to the effects, which the shell takes once
per turn. Which step a fact calls for is decided here; the steps are those of `lifecycle`, `machine`, `messages`,
`losses` and `deadlines`, each built on the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from client.wire.limits import BATCH
from client.wire.messages import (
    TX_BROKEN,
    TX_NONE,
    Commit,
    Failure,
    Query,
    Release,
    ResultMessage,
    Rollback,
    TransactionMessage,
)
from poold.config.model import Config
from poold.core.clients.access import Caller, open_to
from poold.core.clients.admission import Admission
from poold.core.effects import Effect, Reply, Stop
from poold.core.facts import Completion, Server, StatementResult
from poold.core.lifecycle import BrokerState
from poold.core.machine import CANCEL_TIMEOUT, GUARD, transaction_of
from poold.core.pools import janitor
from poold.core.pools.group import Group
from poold.core.pools.pool import Pool
from poold.core.pools.watch import Watch
from poold.core.records.backend import Backend
from poold.core.records.client import Client
from poold.core.records.lease import Lease
from poold.core.records.request import CATALOGS, INQUIRY, PROBE, QUESTION, Request
from poold.core.releases import Releases
from poold.core.snapshot import snapshot_group, snapshot_processes
from poold.core.state import ACTIVE, CANCELLING, RUNNING, BackendState, RequestState
from poold.core.statements.leftovers import NOTHING, UNSEEN
from poold.core.statements.proofs import Examination
from poold.core.work import failures
from poold.core.work.probe import Examine

# PostgreSQL ignores a cancel that comes before its statement. One that had no effect is repeated after this pause.
CANCEL_AGAIN = 0.05

# Deadlines that belong to no object.
_JANITOR = "janitor"
_DRAIN = "drain"


class Broker(Releases):
    """Clients, requests, leases and backends, and what to do next."""

    def __init__(self, config: Config, chance: Callable[[], float], examine: Examine = Examination) -> None:
        """chance gives random numbers in [0, 1); it is the core's only source. examine reads trees of probes."""
        super().__init__(config, chance, examine)
        self._admission = Admission(config.broker)

    # What the shell asks.

    def take(self) -> list[Effect]:
        """The effects since the last call, in order."""
        if self.state is BrokerState.DRAINING and not any(c.requests or c.leases for c in self.clients.values()):
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
            elif isinstance(key, Client):
                self._client_due(key, now)
            elif isinstance(key, Watch):
                self._watch_due(key, now)
            elif isinstance(key, Pool):
                key.endpoint.probe()
                self._endpoint_changed(key.group, now)
            elif key is _JANITOR:
                self.timers.set(_JANITOR, now + janitor.INTERVAL)
                for group in self.groups.values():
                    janitor.mark_outdated(group, now)
                    for backend, reason in janitor.retirements(group, now):
                        self._close(backend, reason)
                    self._grow(group, now)
                    for pool in group.pools:
                        self._look_at_catalogs(pool, now)
            elif key is _DRAIN:
                self.stop(now)

    def drain(self, now: float) -> None:
        """Take no new work, finish what there is within drain_timeout, then Stop."""
        if self.state is BrokerState.RUNNING:
            self.state = BrokerState.DRAINING
            self._admission.is_open = False
            self.timers.set(_DRAIN, now + self.config.broker.drain_timeout)

    def stop(self, now: float) -> None:
        """Stop at once: whatever runs is lost."""
        if self.state is BrokerState.STOPPED:
            return
        self.state = BrokerState.STOPPED
        self._admission.is_open = False
        for backend in list(self.backends.values()):
            self._lose(backend, "the broker was stopped", now)
        for client in self.clients.values():
            for request in list(client.requests.values()):
                if request.state is RequestState.IN_DOUBT:
                    self._unknown(request, "the broker was stopped", "PostgreSQL was not asked", now)
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
        now: float = 0.0,
    ) -> Mapping[str, Group]:
        """A client said Hello; the groups it may use."""
        groups = open_to(caller or Caller(uid), self.groups)
        client = self.clients[key] = Client(key, pid, name, uid, gid, groups)
        client.heard = now
        if self.config.broker.client_idle_timeout:
            self.timers.set(client, now + self.config.broker.client_idle_timeout)
        return groups

    def client_gone(self, key: int, now: float) -> None:
        """A client's connection ended: its work is cancelled, its transactions are rolled back."""
        client = self.clients.pop(key, None)
        if client is None:
            return
        self.timers.clear(client)
        for request in list(client.requests.values()):
            if request.state is RequestState.DONE:
                continue  # it went with the request that was to begin its lease
            request.group.stats.withdrawn += 1
            if request.is_waiting:
                self._discard(request, None, now)
            elif request.state is RequestState.IN_DOUBT:
                request.become(RequestState.WITHDRAWN)
            else:
                self._cancel(request, RequestState.WITHDRAWN, "", now)
        for lease in list(client.leases.values()):
            self._end_lease(lease, "its client is gone", now)
        for group in client.groups:
            group.clients -= 1

    def client_stalled(self, key: int) -> None:
        """A client leaves replies unread: until it reads nothing more is begun for it but what its leases wait for."""
        client = self.clients.get(key)
        if client is not None:
            client.is_stalled = True

    def client_reads(self, key: int, now: float) -> None:
        """The client has read what there was."""
        client = self.clients.get(key)
        if client is None:
            return
        client.is_stalled = False
        held = list(client.held)
        client.held.clear()
        for request in held:
            request.become(RequestState.QUEUED)
            request.group.queue.push(request)
        for group in dict.fromkeys(request.group for request in held):
            self._serve(group, now)

    def cancel(self, key: int, number: int, now: float) -> None:
        """A client withdraws a request. It still gets its one reply."""
        client = self.clients.get(key)
        request = client.requests.get(number) if client else None
        if request is None:
            return
        request.group.stats.withdrawn += 1
        if request.is_waiting:
            self._discard(request, failures.withdrawn(), now)
        elif request.state is RUNNING:
            self._cancel(request, RequestState.CANCELLED, "", now)
        elif request.state is RequestState.IN_DOUBT and request.script is not None:
            request.script.retries = 0  # what became of it is still told

    def request(
        self, key: int, message: Query | TransactionMessage | Commit | Rollback | Release, now: float, size: int = 0
    ) -> None:
        """A client sent a request of so many bytes."""
        client = self.clients.get(key)
        if client is None:
            return
        client.heard = now
        if message.request in client.requests:
            text = f"request {message.request} is not answered yet, numbers must be new"
            self._effects.append(Reply(key, failures.protocol(text)))
            return
        if isinstance(message, Release):
            self._effects.append(Reply(key, self._release(client, message, now)))
            return
        if self.bytes + size > self._admission.most_bytes and isinstance(message, (Query, TransactionMessage)):
            refused = self._admission.share_exceeded(client, size, len(self.clients))
            if refused is not None:
                self._effects.append(Reply(key, refused._replace(request=message.request)))
                return
        admitted: Request | ResultMessage | Failure | None = self._admission.request(client, message, now, size)
        if type(admitted) is Request:
            admitted.size = size
            admitted = self._accept(admitted, now)
        if type(admitted) is Failure and admitted.transaction == TX_NONE and type(message) is Query:
            lease = client.leases.get(message.lease)
            if lease is not None:
                admitted = admitted._replace(transaction=transaction_of(lease))  # it goes on
        if admitted is not None:
            self._effects.append(Reply(key, admitted._replace(request=message.request)))  # type: ignore[union-attr]

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
        if (backend := self.backends.get(number)) is not None:
            self._connect_failed(backend, error, now)

    def completed(self, number: int, done: Completion, now: float) -> None:
        """The first of the backend's units has ended."""
        backend = self.backends.get(number)
        if backend is None:
            return
        backend.transaction = done.transaction
        running = backend.running
        if not running:
            self._reset_ended(backend, done, now)
            return
        request = running[0]
        request.client.heard = now  # who was waiting for this has not been silent
        if done.is_changed and done.transaction != TX_BROKEN:
            self._was_changed(backend, request)
        if request.then and self._goes_on(backend, request, done):
            return
        if request.script is not None:
            if self._advance(backend, request, done, now):
                return
            running.popleft()
        elif request.verb < PROBE:
            running.popleft()
            if not (request.is_counted and self._wants_count(request, backend, done)):
                self._finish(request, backend, done, now)
        else:
            if request.verb is PROBE and self._probe_goes_on(backend, request, done):
                return
            running.popleft()
            self._own_ended(request, backend, done, now)
        backend.completed = now
        if request.priority == BATCH:
            request.group.let_go(backend)
        if running:
            self._next_in_line(backend, running[0], now)
        elif backend.state is CANCELLING:
            backend.pool.move(backend, BackendState.SETTLING)
            if backend.transaction == TX_BROKEN and backend.lease is not None:
                self._lose_broken(backend.lease, now)  # what waits in it need not wait for the cancel
        else:
            idle_since = backend.idle_since
            self._rest(backend, now)
            if request.verb is CATALOGS:
                backend.idle_since = idle_since  # whoever asks by himself keeps no backend that nobody needs
        if (request.priority == BATCH or request.backend is None) and request.group.queue.size:
            self._serve(request.group, now)  # others may wait for its priority's share, or it runs again elsewhere

    def _own_ended(self, request: Request, backend: Backend, done: Completion, now: float) -> None:
        """A question of the broker's own has ended."""
        if request.verb is INQUIRY:
            self._inquired(request, done, now)
        elif request.verb is QUESTION:
            self._counted(backend, done, now)
        elif request.verb is not PROBE:
            self._told_by_server(backend, request, done, now)

    def _was_changed(self, backend: Backend, request: Request) -> None:
        """PostgreSQL reports a setting that is not what it was."""
        if backend.left is NOTHING and request.statement is not None and request.lease is None:
            request.statement.refuse()  # whatever was proven of it
        backend.left = backend.left.joined(UNSEEN)
        if request.lease is not None:
            request.lease.is_altered = True
        if request.runner is not None:
            request.runner.is_base = False

    def _next_in_line(self, backend: Backend, request: Request, now: float) -> None:
        """PostgreSQL goes on with the next request in the backend's connection."""
        if backend.state is CANCELLING and request.state is RUNNING:
            self.timers.set(backend, now + max(backend.pool.endpoint.query_timeout, CANCEL_TIMEOUT) + GUARD)
        if backend.state is not ACTIVE:
            return
        if request.state is RUNNING:
            self._guard(backend, request, now)
            if backend.group.queue.size:
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
        elif backend.state is CANCELLING:
            backend.pool.move(backend, ACTIVE)
            request = backend.running[0]
            if request.state is RUNNING:
                self._guard(backend, request, now)  # the cancelled one has ended, this one came after it
            else:
                self.timers.set(request, now + CANCEL_AGAIN)

    def looked(self, number: int, is_at_work: bool, now: float) -> None:
        """Another connection has asked whether the server is at work for the backend, or could not ask."""
        if (backend := self.backends.get(number)) is not None:
            self._looked(backend, is_at_work, now)

    def lost(
        self,
        number: int,
        error: str,
        now: float,
        unsent: int = 0,
        partial: Sequence[StatementResult] = (),
        last: Failure | None = None,
    ) -> None:
        """The backend's connection is gone.

        unsent of its units were not written at all. partial are the results of the first of the others, as far as they
        came, and last is the FATAL error that ended it.
        """
        if (backend := self.backends.get(number)) is not None:
            backend.pool.stats.lost += 1
            self._lose(backend, error, now, unsent, partial, last)
