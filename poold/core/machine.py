"""A request's life: accepted, started on a backend, finished, answered; and the end of a lease.

A request goes _accept, _start, _finish, _answer. Most end there with the one statement they run; transaction messages
go on in `messages`, and what a lost backend leaves behind in `losses`.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable

from client.wire.limits import BATCH
from client.wire.messages import (
    NOT_EXECUTED,
    TX_ACTIVE,
    TX_BROKEN,
    TX_LOST,
    TX_NONE,
    Failure,
    ResultMessage,
    TransactionResult,
)
from client.wire.sqlstates import QUERY_CANCELED
from poold.core.counting import Counting
from poold.core.effects import Bind, Cancel, Execute, Reply, SimpleQuery
from poold.core.facts import Completion, StatementResult
from poold.core.pools.pool import Pool
from poold.core.records.backend import Backend
from poold.core.records.lease import Lease
from poold.core.records.request import PROBE, QUERY, Request, Verb
from poold.core.state import ACTIVE, CANCELLED, DONE, QUEUED, RUNNING, WITHDRAWN, BackendState, RequestState
from poold.core.statements import schema
from poold.core.statements.leftovers import NOTHING
from poold.core.statements.statement import PREPARED, Statement
from poold.core.work import failures, outcomes
from poold.core.work.early_failures import is_early
from poold.core.work.settings import SERVER_GRACE
from poold.core.work.units import runs_prepared, unit_for

# What a running statement may take beyond its endpoint's query_timeout before the broker itself cancels it: the
# server's statement_timeout comes first unless the server cannot be heard any more.
GUARD = 5.0
# What the broker asks by itself takes no longer than this, whatever the endpoint's query_timeout.
QUESTION_TIMEOUT = 5.0
# How long the server may take to say whether it is at work.
LOOK_TIMEOUT = 5.0
# The server's clock began before the broker's, and both have their own pace.
EARLY = 0.95
# A cancel that has not ended its statement by then never will: the connection is closed instead.
CANCEL_TIMEOUT = 5.0
# Requests of one lease that may wait behind its running statement. A synchronous client has one at most.
LEASE_PENDING_LIMIT = 16


class Machine(Counting):
    """The steps of requests and leases."""

    @abstractmethod
    def _joined(self, pool: Pool, now: float) -> None:
        """A statement waits behind another one."""

    def _accept(self, request: Request, now: float) -> Failure | None:
        """Let the request run, or wait: in its group's queue, or behind the statement that its lease runs."""
        group, client, lease = request.group, request.client, request.lease
        if lease is not None and not request.opens and len(lease.pending) >= LEASE_PENDING_LIMIT:
            return failures.usage(f"lease {lease.number} has {LEASE_PENDING_LIMIT} requests waiting already")
        client.requests[request.number] = request
        client.bytes += request.size
        self.bytes += request.size
        group.stats.requests += 1
        if group not in client.groups:
            client.groups.add(group)
            group.clients += 1
        if lease is None or request.opens:
            self._dispatch(request, now)
        elif lease.backend is not None and lease.backend.state is BackendState.LEASED:
            self._start(lease.backend, request, now)
        else:
            request.become(RequestState.PENDING)
            lease.pending.append(request)
            if request.deadline is not None:
                self.timers.set(request, request.deadline)
        return None

    def _dispatch(self, request: Request, now: float) -> None:
        """Give the request a backend, or let it wait for one."""
        group, priority = request.group, request.priority
        if request.client.is_stalled:
            request.become(RequestState.HELD)
            request.client.held[request] = None
            self._limit_wait(request, now)
            return
        if (not group.queue.size and priority != BATCH) or not group.is_busy_for(request):
            # One of priority batch takes what is idle; a place behind others it gets in its turn only.
            may_join = priority != BATCH and self._may_join(request)
            backend = group.take_sharing(self._turn, now) if may_join else None
            if backend is None:
                backend = group.take_idle()
                if backend is not None and may_join:
                    group.begin_sharing(backend, self._turn)
                elif may_join:
                    backend = group.take_company(now)
            if backend is not None:
                self._start(backend, request, now)
                return
        request.become(QUEUED)
        group.queue.push(request)
        self._limit_wait(request, now)
        self._waits(group, now)
        self._grow(group, now)

    def _start(self, backend: Backend, request: Request, now: float) -> None:
        """Run the request on the backend, which is free, or runs only short statements."""
        pool = backend.pool
        statement = request.statement
        if request.verb is QUERY and statement is not None and statement.state is not PREPARED:
            self._ask_before(backend, request, now)
        request.become(RUNNING)
        request.backend = backend
        request.started = now
        if statement is not None:
            statement.begun = now
        request.unit = unit = unit_for(backend, request, now)
        backend.running.append(request)
        if request.priority == BATCH:
            request.group.batched.add(backend)
        if request.leaves is not NOTHING:
            backend.left = backend.left.joined(request.leaves)
            if request.lease is not None:
                request.lease.is_altered = True
        if request.verb < PROBE:
            pool.stats.requests += 1
            request.group.stats.wait_times.record(now - request.arrived)
        if request.lease is not None:
            self._hold(backend, request, request.lease, now)
        if request.deadline is None:
            self.timers.clear(request)
        else:
            self.timers.set(request, request.deadline + SERVER_GRACE if request.is_timed else request.deadline)
        if len(backend.running) == 1:
            pool.move(backend, ACTIVE)
            self._guard(backend, request, now)
        elif not request.is_counted:
            pool.stats.joined += 1
            self._joined(pool, now)
        self._effects.append(Execute(backend.number, unit))

    def _guard(self, backend: Backend, request: Request, now: float) -> None:
        """How long the server may take for what the backend runs first, before somebody looks what it is at."""
        timeout = backend.pool.endpoint.query_timeout
        if timeout:
            statements = 1 if request.script is None else len(request.script.steps)
            self.timers.set(backend, now + timeout * statements + GUARD)
        elif request.verb > Verb.QUESTION:
            self.timers.set(backend, now + QUESTION_TIMEOUT)  # nobody would miss its answer
        else:
            self.timers.clear(backend)

    def _hold(self, backend: Backend, request: Request, lease: Lease, now: float) -> None:
        """The lease has, or goes on with, this backend."""
        if request.opens:
            lease.backend = backend
            backend.lease = lease
            if request.group.config.lease_timeout:
                lease.expires = now + request.group.config.lease_timeout
        if lease.expires is None:
            self.timers.clear(lease)
        else:
            self.timers.set(lease, lease.expires)

    def _may_join(self, request: Request) -> bool:
        """Whether the request may run behind others: a prepared autocommit statement that is known to be short."""
        statement = request.statement
        return (
            statement is not None
            and statement.is_short
            and statement.generation == request.group.statements.generation  # else it is another one where it runs
            and request.lease is None
            and not request.is_alone
            and runs_prepared(request, statement)
        )

    def _finish(self, request: Request, backend: Backend, done: Completion, now: float) -> None:
        """A query, commit or rollback has ended: answer it, or run it again where that is safe and helps."""
        group, statement, failure = request.group, request.statement, done.failure
        began = request.started if request.started > backend.completed else backend.completed
        group.stats.run_times.record(now - began)
        if failure is None:
            result = done.results[-1]
            if statement is not None:
                self._learn(backend, request, statement, done.results, now - began)
            reply: ResultMessage | Failure
            if result.rows is None:
                reply = failures.result_too_large(self.config.broker.max_result_bytes)
                reply = reply._replace(transaction=done.transaction)
            else:
                notices = result.notices if len(done.results) == 1 else _all_notices(done.results)
                reply = ResultMessage(
                    request.number,
                    done.transaction,
                    result.command,
                    result.rowcount,
                    result.columns,
                    result.rows,
                    notices,
                )
        else:
            if self._is_worth_another_run(request, backend, failure, done):
                self._again(request, now, is_last=request.yields > 0)  # those that waited for it go first
                return
            reply = failure
        lease = request.lease
        if lease is not None and lease.outdates and done.transaction == TX_NONE:
            # Others have found what was there before it was committed.
            lease.outdates = False
            self._begin_anew()
        if lease is None:
            if done.transaction not in (TX_NONE, TX_BROKEN):
                reply = failures.left_open()
        elif backend.lease is None and done.transaction not in (TX_NONE, TX_BROKEN):
            # The lease was lost meanwhile. A transaction that its own statement ended is not rolled back, though; and
            # what a statement did that left its connection unusable, its own failure tells.
            lost = failures.lease_lost(request.reason or "it was ended", lease.is_session)
            reply = request.client.lost_leases.get(lease.number, lost)
        elif request.verb is Verb.COMMIT and failure is None and done.results[-1].command == "ROLLBACK":
            reply = failures.commit_rolled_back()
        if type(reply) is Failure:
            group.stats.errors += 1
            if reply is failure:
                is_cancelled = request.state is CANCELLED
                why = out_of_time(request, reply, now) or by_query_timeout(backend, request, reply, now - began)
                reply = failures.with_reason(reply, request.reason if is_cancelled else why)
            if done.transaction == TX_BROKEN:
                reply = reply._replace(transaction=TX_NONE if request.lease is None else TX_LOST)
            if statement is not None and outcomes.may_commit(statement):
                reply = outcomes.judged(request, reply, done)
        self._answer(request, reply)

    def _learn(
        self, backend: Backend, request: Request, statement: Statement, results: list[StatementResult], seconds: float
    ) -> None:
        """The statement ran: what that tells of it, and of what is prepared on the backend."""
        last = results[-1]
        statement.record(seconds, self.config.broker.max_result_bytes if last.rows is None else len(last.rows))
        if type(request.unit[-1]) is Bind:
            return
        if any(result.command in ("DEALLOCATE ALL", "DISCARD ALL") for result in results):
            backend.prepared.clear()
        if self._forget_outdated(results) and request.lease is not None:
            request.lease.outdates = True
        group = request.group
        if (
            group.config.prepare == "auto"
            and request.prepare
            and request.is_base
            and statement.generation == group.statements.generation
            and statement.saw_columns(last.columns)
        ):
            group.probes.append(statement)

    def _forget_outdated(self, results: Iterable[StatementResult | None]) -> bool:
        """Let all statements begin anew if these may have changed what others mean. Returns whether so."""
        if not schema.outdates(results):
            return False
        self._begin_anew()
        return True

    def _begin_anew(self) -> None:
        """Names may mean something else than before: in all groups, as some may share a database."""
        for group in self.groups.values():
            group.statements.forget_all()

    def _is_worth_another_run(self, request: Request, backend: Backend, failure: Failure, done: Completion) -> bool:
        """Whether the failure is the broker's own doing, and the statement certainly had no effect."""
        statement = request.statement
        failed = None if type(request.unit[0]) is SimpleQuery else backend.prepared.failed(request.unit, done)
        is_own = failed is not None and (statement is None or failed.name != statement.name)
        is_unseen = is_early(
            request.group.statements, None if is_own else statement, failed, done, request.leaves is NOTHING
        )
        if request.lease is not None or request.state is not RUNNING:
            return False
        if failure.sqlstate == QUERY_CANCELED and request.is_exposed:
            return True  # only plain reads are
        request.is_literal = request.is_literal or is_unseen
        return is_unseen or (done.transaction == TX_BROKEN and failure.outcome == NOT_EXECUTED)

    def _answer(self, request: Request, reply: ResultMessage | TransactionResult | Failure | None) -> None:
        """The request is done; reply is None if nobody is left to hear it."""
        client = request.client
        del client.requests[request.number]
        client.bytes -= request.size
        self.bytes -= request.size
        self.timers.clear(request)
        if reply is not None and request.state is not WITHDRAWN:
            if type(reply) is Failure:
                reply = reply._replace(request=request.number)
            self._effects.append(Reply(client.key, reply))
        request.become(DONE)

    def _discard(self, request: Request, reply: ResultMessage | Failure | None, now: float) -> None:
        """A waiting request leaves unexecuted."""
        lease = request.lease
        request.group.queue.discard(request)
        request.client.held.pop(request, None)
        if lease is not None and request in lease.pending:
            lease.pending.remove(request)
            if type(reply) is Failure and reply.transaction == TX_NONE:
                reply = reply._replace(transaction=transaction_of(lease))  # its lease goes on
        self._answer(request, reply)
        if lease is not None and request.opens:
            self._lose_lease(lease, "its first statement did not run", now)

    def _cancel(self, request: Request, state: RequestState, reason: str, now: float) -> None:
        """Cancel a running statement. COMMIT and ROLLBACK are left alone: what they do cannot be taken back.

        One that still waits behind others in its backend's connection is cancelled when its turn comes.
        """
        backend = request.backend
        assert backend is not None
        is_first = request.state is RUNNING
        request.become(state)
        request.reason = request.reason or reason
        if is_first and request.verb in (QUERY, Verb.TRANSACTION):
            self.timers.clear(request)
            if backend.request is request:
                self.timers.set(backend, now + CANCEL_TIMEOUT)
                self._send_cancel(backend)

    def _send_cancel(self, backend: Backend) -> None:
        if backend.state is ACTIVE:
            backend.pool.move(backend, BackendState.CANCELLING)
            for neighbour in itertools.islice(backend.running, 1, None):
                neighbour.is_exposed = True
            self._effects.append(Cancel(backend.number))

    # A lease's end.

    def _end_lease(self, lease: Lease, reason: str, now: float) -> None:
        """The lease is over. Its backend, if it has one, belongs to nobody and comes to rest by itself."""
        client, backend = lease.client, lease.backend
        client.leases.pop(lease.number, None)
        self.timers.clear(lease)
        lease.backend = None
        for request in list(lease.pending):
            is_rollback = request.verb is Verb.ROLLBACK
            reply = rolled_back(request.number) if is_rollback else failures.lease_lost(reason, lease.is_session)
            self._discard(request, reply, now)
        if backend is not None:
            backend.lease = None
            lease.group.let_go(backend)
            if backend.state is BackendState.LEASED:
                self._rest(backend, now)
        if lease.priority == BATCH:
            self._serve(lease.group, now)  # others of its priority may be waiting for their share

    def _lose_lease(self, lease: Lease, reason: str, now: float) -> None:
        """End a lease whose client did not ask for it, and will want to know why."""
        lease.client.lease_lost(lease.number, failures.lease_lost(reason, lease.is_session))
        self._end_lease(lease, reason, now)


def transaction_of(lease: Lease) -> str:
    """The lease's transaction once what runs in it has ended, as far as can be told; by that its client goes."""
    backend = lease.backend
    if not lease.is_session:
        return TX_ACTIVE
    if backend is None:
        return TX_NONE if lease.group.config.autocommit else TX_ACTIVE
    return TX_ACTIVE if any(request.begin for request in backend.running) else backend.transaction


def out_of_time(request: Request, failure: Failure, now: float) -> str:
    """Why the server cancelled it, if it was to do so at the request's deadline; "" otherwise."""
    is_late = request.is_timed and request.deadline is not None and request.deadline <= now
    return failures.timeout_passed(request) if is_late and failure.sqlstate == QUERY_CANCELED else ""


def by_query_timeout(backend: Backend, request: Request, failure: Failure, seconds: float) -> str:
    """Why the server cancelled it, if it ran as long as its endpoint lets it; "" otherwise.

    PostgreSQL says it in words of any language, so time has to tell.
    """
    endpoint = backend.pool.endpoint
    if failure.sqlstate != QUERY_CANCELED or not endpoint.query_timeout or "user request" in failure.message:
        return ""
    is_own = b"statement_timeout" in request.settings.lower()
    if is_own or not EARLY * endpoint.query_timeout <= seconds <= endpoint.query_timeout + GUARD:
        return ""
    return failures.query_timeout_passed(endpoint.name, endpoint.query_timeout)


def rolled_back(number: int) -> ResultMessage:
    """The reply to a Rollback whose transaction is gone already."""
    return ResultMessage(number, TX_NONE, "ROLLBACK", -1, None, b"", ())


def _all_notices(results: list[StatementResult]) -> tuple[str, ...]:
    return tuple(itertools.chain.from_iterable(result.notices for result in results))
