"""The moving parts: how requests, leases and backends change together, step by step.

`Broker` decides which step a fact calls for; the steps are here. A request goes _accept, _start, _finish, _answer; a
backend goes _open, _start, _rest, _idle, _close. Each step leaves everything consistent for the next.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from client.protocol import ROLLED_BACK_BODY, TX_BROKEN, TX_LOST, TX_NONE, Failure
from poold.config import Config
from poold.core import failures, janitor
from poold.core.effects import Cancel, Close, Connect, Effect, Execute, Reply, Reset
from poold.core.group import Group
from poold.core.pool import Backend, Pool
from poold.core.request import Client, Lease, Request, Verb
from poold.core.state import BackendState, RequestState
from poold.core.timers import Timers

# What a running statement may take beyond its endpoint's query_timeout before the broker itself cancels it: the
# server's statement_timeout comes first unless the server cannot be heard any more.
GUARD = 5.0
# A cancel that has not ended its statement by then never will: the connection is closed instead.
CANCEL_TIMEOUT = 5.0
RESET_TIMEOUT = 5.0
# Requests of one lease that may wait behind its running statement. A synchronous client has one at most.
LEASE_PENDING_LIMIT = 16


class BrokerState(IntEnum):
    """Whether the broker takes work."""

    RUNNING = 0
    DRAINING = 1  # takes no new work, finishes what it has
    STOPPED = 2


@dataclass(slots=True)
class Completion:
    """How a statement ended, as far as the core needs to know."""

    transaction: str  # one of client.protocol's TX_NONE, TX_ACTIVE, TX_FAILED, TX_BROKEN
    command: str  # PostgreSQL's command tag, "" after an error
    reply: bytes | Failure


class Machine:
    """Everything the broker knows, and the steps that change it."""

    def __init__(self, config: Config, chance: Callable[[], float]) -> None:
        """chance gives random numbers in [0, 1); it is the core's only source of them."""
        self.config = config
        self.chance = chance
        self.state = BrokerState.RUNNING
        self.groups = {name: Group(name, each, config.endpoints) for name, each in config.groups.items()}
        # Connected clients: enter by client_arrived, leave by client_gone.
        self.clients: dict[int, Client] = {}
        # Backends in all states but CLOSED: enter by _open, leave by _remove.
        self.backends: dict[int, Backend] = {}
        # Deadlines of requests, leases, backends and quarantined pools, by the object itself.
        self.timers = Timers()
        self._effects: list[Effect] = []
        self._numbers = itertools.count(1)

    # A request's life.

    def _accept(self, request: Request, now: float) -> Failure | None:
        """Let the request run, or wait: in its group's queue, or behind the statement that its lease runs."""
        group, client, lease = request.group, request.client, request.lease
        if lease is not None and not request.begin and len(lease.pending) >= LEASE_PENDING_LIMIT:
            return failures.usage(f"lease {lease.number} has {LEASE_PENDING_LIMIT} requests waiting already")
        client.requests[request.number] = request
        group.stats.requests += 1
        if group not in client.groups:
            client.groups.add(group)
            group.clients += 1
        if lease is not None and not request.begin:
            if lease.backend is not None and lease.backend.state is BackendState.LEASED:
                self._start(lease.backend, request, now)
            else:
                lease.pending.append(request)
                if request.deadline is not None:
                    self.timers.set(request, request.deadline)
            return None
        backend = None if len(group.queue) else group.take_idle()
        if backend is not None:
            self._start(backend, request, now)
            return None
        group.queue.push(request)
        limit = now + group.config.queue_timeout
        self.timers.set(request, limit if request.deadline is None else min(limit, request.deadline))
        self._grow(group, now)
        return None

    def _start(self, backend: Backend, request: Request, now: float) -> None:
        """Run the request's statement on the backend."""
        request.state = RequestState.RUNNING
        request.backend = backend
        request.started = now
        backend.request = request
        pool = backend.pool
        pool.stats.requests += 1
        request.group.stats.wait_times.record(now - request.arrived)
        lease = request.lease
        if lease is not None:
            if request.begin:
                lease.backend = backend
                backend.lease = lease
                if request.group.config.lease_timeout:
                    lease.expires = now + request.group.config.lease_timeout
            if lease.expires is None:
                self.timers.clear(lease)
            else:
                self.timers.set(lease, lease.expires)
        pool.move(backend, BackendState.ACTIVE)
        if pool.endpoint.query_timeout:
            self.timers.set(backend, now + pool.endpoint.query_timeout + GUARD)
        else:
            self.timers.clear(backend)
        if request.deadline is None:
            self.timers.clear(request)
        else:
            self.timers.set(request, request.deadline)
        self._effects.append(Execute(backend.number, request.statement, request.begin))

    def _finish(self, request: Request, backend: Backend, done: Completion, now: float) -> None:
        """Answer a request whose statement ended."""
        stats = request.group.stats
        stats.run_times.record(now - request.started)
        reply = done.reply
        if request.lease is None:
            if done.transaction not in (TX_NONE, TX_BROKEN):
                reply = failures.left_open()
        elif backend.lease is None and done.transaction != TX_NONE:
            # The lease was lost meanwhile. A transaction that its own statement ended is not rolled back, though.
            reason = request.client.lost_leases.get(request.lease.number, request.reason)
            reply = failures.transaction_lost(reason)
        elif request.verb is Verb.COMMIT and done.command == "ROLLBACK":
            reply = failures.commit_rolled_back()
        if type(reply) is Failure:
            stats.errors += 1
            if request.state is RequestState.CANCELLED and reply is done.reply:
                reply = failures.with_reason(reply, request.reason)
            if done.transaction == TX_BROKEN:
                reply = reply._replace(transaction=TX_NONE if request.lease is None else TX_LOST)
        self._answer(request, reply)

    def _answer(self, request: Request, reply: bytes | Failure | None) -> None:
        """The request is done; reply is None where nobody is left to hear it."""
        del request.client.requests[request.number]
        self.timers.clear(request)
        if reply is not None and request.state is not RequestState.WITHDRAWN:
            self._effects.append(Reply(request.client.key, request.number, reply))
        request.state = RequestState.DONE

    def _discard(self, request: Request, reply: bytes | Failure | None, now: float) -> None:
        """A waiting request leaves unexecuted."""
        lease = request.lease
        request.group.queue.discard(request)
        if lease is not None and request in lease.pending:
            lease.pending.remove(request)
        self._answer(request, reply)
        if lease is not None and request.begin:
            self._end_lease(lease, "its first statement did not run", now)

    def _cancel(self, request: Request, state: RequestState, reason: str, now: float) -> None:
        """Cancel a running statement. COMMIT and ROLLBACK are left alone: what they do cannot be taken back."""
        backend = request.backend
        assert backend is not None
        is_first = request.state is RequestState.RUNNING
        request.state = state
        request.reason = request.reason or reason
        if is_first and request.verb is Verb.QUERY:
            self.timers.clear(request)
            self.timers.set(backend, now + CANCEL_TIMEOUT)
            self._send_cancel(backend)

    def _send_cancel(self, backend: Backend) -> None:
        if backend.state is BackendState.ACTIVE:
            backend.pool.move(backend, BackendState.CANCELLING)
            self._effects.append(Cancel(backend.number))

    # A lease's end.

    def _end_lease(self, lease: Lease, reason: str, now: float) -> None:
        """The lease is over. Its backend, where it has one, belongs to nobody and comes to rest by itself."""
        client, backend = lease.client, lease.backend
        client.leases.pop(lease.number, None)
        self.timers.clear(lease)
        lease.backend = None
        for request in list(lease.pending):
            is_rollback = request.verb is Verb.ROLLBACK
            self._discard(request, ROLLED_BACK_BODY if is_rollback else failures.transaction_lost(reason), now)
        if backend is not None:
            backend.lease = None
            if backend.state is BackendState.LEASED:
                self._rest(backend, now)

    def _lose_lease(self, lease: Lease, reason: str, now: float) -> None:
        """As _end_lease, where the client did not ask for it and will want to know why."""
        lease.client.lease_lost(lease.number, reason)
        self._end_lease(lease, reason, now)

    # A backend between statements.

    def _rest(self, backend: Backend, now: float) -> None:
        """The backend runs nothing and no cancel is on its way: what is it for next?"""
        lease = backend.lease
        if backend.transaction == TX_NONE:
            if lease is not None:
                backend.lease = lease.backend = None
                self._end_lease(lease, "it had ended already", now)
            self._idle(backend, now)
        elif backend.transaction == TX_BROKEN:
            if lease is not None:
                backend.lease = lease.backend = None
                self._lose_lease(lease, "its last statement left the connection unusable", now)
            self._close(backend, "unusable after its last statement")
            self._grow(backend.group, now)
        elif lease is None:
            if backend.state is BackendState.RESETTING:
                self._close(backend, "still in a transaction after its reset")
                return
            backend.pool.move(backend, BackendState.RESETTING)
            self.timers.set(backend, now + RESET_TIMEOUT)
            self._effects.append(Reset(backend.number))
        elif lease.pending:
            self._start(backend, lease.pending.popleft(), now)
        else:
            backend.pool.move(backend, BackendState.LEASED)
            limits = [lease.expires] if lease.expires is not None else []
            if lease.group.config.idle_in_transaction_timeout:
                limits.append(now + lease.group.config.idle_in_transaction_timeout)
            if limits:
                self.timers.set(lease, min(limits))

    def _idle(self, backend: Backend, now: float) -> None:
        """The backend is free: for the next waiting request, or for later."""
        group = backend.group
        reason = janitor.reason_to_retire(group, backend, now)
        if reason is not None:
            self._close(backend, reason)
            self._grow(group, now)
            return
        backend.idle_since = now
        backend.pool.move(backend, BackendState.IDLE)
        while len(group.queue) and (free := group.take_idle()) is not None:
            self._start(free, group.queue.pop(), now)
        self._grow(group, now)

    def _grow(self, group: Group, now: float) -> None:
        """Open what the group needs."""
        if self.state is BrokerState.RUNNING or len(group.queue):
            while (pool := group.next_opening()) is not None:
                self._open(pool, now)

    def _open(self, pool: Pool, now: float) -> None:
        backend = Backend(next(self._numbers), pool)
        self.backends[backend.number] = backend
        pool.add(backend)
        self.timers.set(backend, now + pool.endpoint.connect_timeout)
        self._effects.append(Connect(backend.number, pool.group.name, pool.endpoint.name))

    def _close(self, backend: Backend, reason: str) -> None:
        backend.pool.stats.closed += 1
        self._remove(backend)
        self._effects.append(Close(backend.number, reason))

    def _remove(self, backend: Backend) -> None:
        self.timers.clear(backend)
        del self.backends[backend.number]
        backend.pool.move(backend, BackendState.CLOSED)

    def _lose(self, backend: Backend, error: str, now: float) -> None:
        """The backend's connection is gone, whoever ended it: say so to all who were using it."""
        request, lease = backend.request, backend.lease
        endpoint = backend.pool.endpoint.name
        backend.request = backend.lease = None
        self._remove(backend)
        if lease is not None:
            lease.backend = None
            self._lose_lease(lease, f"the connection to endpoint {endpoint!r} was lost ({error})", now)
        if request is not None:
            request.group.stats.errors += 1
            if request.verb is Verb.ROLLBACK:
                self._answer(request, ROLLED_BACK_BODY)
            else:
                self._answer(request, failures.connection_lost(request, endpoint, error))

    def _give_up(self, backend: Backend, why: str, now: float) -> None:
        """Close a backend that does not answer, and say so to all who were using it."""
        self._effects.append(Close(backend.number, why))
        backend.pool.stats.closed += 1
        self._lose(backend, why, now)
        self._grow(backend.group, now)
