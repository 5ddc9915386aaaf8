"""One statement of a client: run, run again if that is safe and helps, answered.

A statement that may commit by itself is preceded by a question and, if it fails, followed by another one, in units of
their own; see `outcomes` for what the answers tell.
"""

from __future__ import annotations

from client.wire.messages import NOT_EXECUTED, TX_ACTIVE, TX_BROKEN, TX_NONE, UNKNOWN, Failure, ResultMessage
from client.wire.sqlstates import QUERY_CANCELED
from poold.core.effects import Bind, SimpleQuery, Unit
from poold.core.facts import Completion, Loss, StatementResult
from poold.core.records.backend import Backend
from poold.core.records.request import Request
from poold.core.state import CANCELLED, RUNNING
from poold.core.statements.generations import Generations
from poold.core.statements.leftovers import NOTHING
from poold.core.statements.statement import Statement
from poold.core.work import failures, outcomes
from poold.core.work.batch import Batch
from poold.core.work.decision import Again, Answer, Count, Decision, Elsewhere, Next
from poold.core.work.early_failures import is_early
from poold.core.work.results import explained, lease_lost_meanwhile, reply_of
from poold.core.work.units import unit_for

# How often a request is given to another backend because one was lost.
MAX_MOVES = 3
_answer = Answer._make  # costs two thirds of Answer(...)


class QueryWork:
    """Statements of clients."""

    def __init__(self, generations: Generations, max_result_bytes: int) -> None:
        self._generations = generations
        self._max_result_bytes = max_result_bytes

    # The unit of the statement, or one that has to come before it.
    begin = staticmethod(unit_for)

    def ended(self, backend: Backend, request: Request, done: Completion, now: float) -> Decision:
        """Answer it or run it again, unless more is to be run, or asked, first."""
        if request.then:
            following, request.then = request.then, ()
            if done.failure is None and request.state is RUNNING:
                request.number_before = outcomes.number_in(done) if request.is_counted else b""
                return Next(request, following)
            _not_begun(request, done)
        if request.batch is not None:
            following = self._rest_of_batch(backend, request, request.batch, done)
            if following:
                return Next(request, following)
        if request.ended is None:
            request.ran_for(backend.ended(request, done.behind, now) - backend.begun(request))
        if request.is_counted and request.ended is None and wants_count(request, done):
            request.ended = done
            return Count(request)
        statement, lease = request.statement, request.lease
        assert statement is not None
        seconds = request.last_run
        reply: ResultMessage | Failure
        if done.failure is None and request.batch is not None:
            self._outdate(request, done.results)
            reply = request.batch.result(request.number, done)
        elif done.failure is None:
            self._learn(backend, request, statement, done.results, seconds)
            reply = reply_of(request, done, self._max_result_bytes)
        elif self._is_for_another(backend, request, done.failure):
            request.moves += 1
            return Elsewhere(request)
        elif self._is_worth_another_run(backend, request, done.failure, done):
            return Again(request, is_last=request.yields > 0)  # after those that it was cancelled for
        else:
            reply = done.failure
        if lease is not None:
            self.committed(request, done)
            reply = lease_lost_meanwhile(backend, request, done) or reply
        elif done.transaction not in (TX_NONE, TX_BROKEN):
            reply = failures.left_open()
        if type(reply) is Failure:
            reply = explained(backend, request, reply, done, seconds, now)
            if outcomes.may_commit(statement):
                reply = outcomes.judged(request, reply, done)
        elif request.transfer is not None and request.transfer.is_cut and type(reply) is ResultMessage:
            reply = failures.data_cut(request.reason, reply.transaction)
        return _answer((request, reply))

    def _rest_of_batch(self, backend: Backend, request: Request, batch: Batch, done: Completion) -> Unit:
        """Take the results of a unit of the batch; return the next unit, () if there is none.

        Changes done to the completion of a request that failed: it tells of the statement.
        """
        batch.take(done)
        if request.group.config.prepare == "auto":
            request.group.probes.extend(batch.to_probe)  # also of a batch that fails
        batch.to_probe.clear()
        if batch.is_given_up and done.failure is not None and done.transaction != TX_BROKEN:
            done.failure = failures.canceled_between(done.failure)
        if done.failure is not None or batch.is_sent:
            return ()
        if request.state is not RUNNING or backend.lease is None:
            if backend.lease is not None and done.transaction == TX_ACTIVE and not batch.is_given_up:
                return batch.give_up()
            # Statements of it have run, so its outcome is not that of a request that was not begun.
            done.failure = failures.withdrawn()._replace(outcome=UNKNOWN, transaction=done.transaction)
            return ()
        runner = request.runner
        assert runner is not None
        following = batch.unit([], request, runner)
        request.leaves = request.leaves.joined(runner.leaves)
        if request.leaves is not NOTHING:
            backend.left = backend.left.joined(request.leaves)
            backend.lease.is_altered = True
        return following

    def _outdate(self, request: Request, results: list[StatementResult]) -> None:
        """Forget what is known of names if these results tell that they may mean something else."""
        if self._generations.forget_outdated(results) and request.lease is not None:
            request.lease.outdates = True

    def _is_for_another(self, backend: Backend, request: Request, failure: Failure) -> bool:
        """Whether the statement failed because its server is a standby, where nothing can take effect."""
        is_free = request.lease is None and request.state is RUNNING and request.moves < MAX_MOVES
        return is_free and failures.is_of_standby(backend, failure)

    def committed(self, request: Request, done: Completion) -> None:
        """A request of a lease has ended. If its transaction has, what it changed in the schema is visible to all.

        Then all statements begin a new generation if the changes may affect what names mean.
        """
        lease = request.lease
        if lease is not None and lease.outdates and done.transaction == TX_NONE:
            # Until the commit, other sessions have looked names up in the old schema.
            lease.outdates = False
            self._generations.begin_anew()

    def _learn(
        self, backend: Backend, request: Request, statement: Statement, results: list[StatementResult], seconds: float
    ) -> None:
        """Learn from a successful run: the profile, what is still prepared on the backend, whether to probe."""
        last = results[-1]
        statement.record(seconds, self._max_result_bytes if last.rows is None else len(last.rows))
        if type(request.unit[-1]) is Bind:
            return
        if any(result.command in ("DEALLOCATE ALL", "DISCARD ALL") for result in results):
            backend.prepared.clear()
        self._outdate(request, results)
        group = request.group
        if (
            group.config.prepare == "auto"
            and request.prepare
            and request.is_base
            and statement.generation == group.statements.generation
            and statement.saw_columns(last.columns)
        ):
            group.probes.append(statement)

    def _is_worth_another_run(self, backend: Backend, request: Request, failure: Failure, done: Completion) -> bool:
        """Whether to run the statement again: it certainly had no effect, and failed by the broker's own doing.

        Such reasons are a prepared form that does not fit, a cancel meant for another statement, or a connection that
        broke before the statement was executed.
        """
        failed = None if type(request.unit[0]) is SimpleQuery else backend.prepared.failed(request.unit, done)
        statement = request.statement
        if request.batch is not None and failed is not None:
            statement = request.batch.named(failed.name)
        is_own = failed is not None and (statement is None or failed.name != statement.name)
        is_unseen = is_early(
            request.group.statements, None if is_own else statement, failed, done, request.leaves is NOTHING
        )
        if request.state is CANCELLED and request.lease is None and is_unseen:
            # Nobody wants it any more, and what failed was no statement of the client's.
            done.failure = failures.withdrawn()._replace(transaction=done.transaction)
        if request.lease is not None or request.state is not RUNNING:
            return False
        if failure.sqlstate == QUERY_CANCELED and request.is_exposed:
            return True  # only plain reads are exposed
        request.is_literal = request.is_literal or is_unseen
        return is_unseen or (done.transaction == TX_BROKEN and failure.outcome == NOT_EXECUTED)

    def lost(self, backend: Backend, request: Request, loss: Loss, is_begun: bool, _now: float) -> Decision:
        """Run the request again if it was certainly not begun or is a plain read; else answer with what is known."""
        is_begun = is_begun and not request.then
        # On a replica nothing takes effect.
        may_repeat = not is_begun or _is_plain_read(request) or request.group.main is not None
        if may_repeat and request.lease is None and request.state is RUNNING and request.moves < MAX_MOVES:
            request.moves += 1
            return Again(request)
        endpoint = backend.pool.endpoint.name
        if not is_begun and request.lease is None:
            return Answer(request, failures.not_run(endpoint, loss.error))
        if loss.last is not None and request.lease is None and not loss.last.notices and not _may_commit(request):
            return Answer(request, loss.last)
        if not is_begun and request.lease is not None and not request.then:
            return Answer(request, failures.endpoint_lost(request.lease, endpoint, loss.error))
        # In a lease all statements are in a transaction, except in a session without an open one.
        is_inside = request.begin or backend.transaction != TX_NONE
        return Answer(request, failures.connection_lost(request, endpoint, loss.error, is_inside))


def _not_begun(request: Request, done: Completion) -> None:
    """The unit before the statement has failed, or the request was cancelled: the statement is not sent.

    Changes done to the completion of a request that failed in this way.
    """
    request.is_counted = False
    failure = done.failure or failures.withdrawn()
    if done.transaction == TX_BROKEN:
        failure = failure._replace(outcome=NOT_EXECUTED)  # whatever happened to the backend, the statement was not sent
    done.failure = failure._replace(transaction=done.transaction)


def wants_count(request: Request, done: Completion) -> bool:
    """Whether the server has to be asked for its count of transactions before the request can be answered.

    Not after a success that left no transaction open, not if the connection is unusable, and not if the statement
    left a transaction open in a lease, as the question would disturb it.
    """
    is_open = done.transaction != TX_NONE
    if (done.failure is None and not is_open) or (is_open and request.lease is not None):
        return False
    return done.transaction != TX_BROKEN


def _is_plain_read(request: Request) -> bool:
    """Whether the request ran a statement that is proven a plain read; the proof holds for its prepared form only."""
    statement = request.statement
    return statement is not None and statement.proof.is_plain_read and type(request.unit[-1]) is Bind


def _may_commit(request: Request) -> bool:
    """Whether the statement may have committed a part of its work before its connection was lost."""
    return request.statement is not None and outcomes.may_commit(request.statement)
