"""Event scripts of lost backends: what was certainly not begun runs elsewhere, of the rest the truth is told."""

from typing import Any

import pytest
from units import INSERT, SHORT, answer, begin, committed, completion, failed, outcome_of, running, sent, sharing, step
from world import BEGUN, OK, SERVER, World, failure

from client.wire.limits import PRIORITIES
from client.wire.messages import FAILED, NOT_EXECUTED, UNKNOWN, Failure, TransactionResult
from poold.core import effects
from poold.core.facts import Loss
from poold.core.pools.watch import LOOK_AFTER, LOOK_TIMEOUT
from poold.core.requests.runs import CANCEL_TIMEOUT
from poold.core.statements.proofs import Proof
from poold.core.statements.statement import PROBE_AFTER
from poold.core.work.query import MAX_MOVES
from poold.core.work.script import XID
from poold.core.work.settings import SERVER_GRACE

ERROR = "server closed the connection unexpectedly"
WITH_ID = (BEGUN, outcome_of(XID))
FATAL = failure("57P01", message="terminating connection due to administrator command")._replace(kind="connection")


def test_where_one_backend_does_not_answer_those_that_idle_are_opened_anew() -> None:
    world = World(min_size=2, max_size=2)
    world.client()
    world.connect_all()
    request = world.query(timeout=1.0)
    backend = world.running(request)
    (pool,) = world.broker.groups["default"].pools
    (idle,) = pool.idle
    world.pass_time(1.0 + SERVER_GRACE + CANCEL_TIMEOUT)
    assert {each.backend for each in world.taken(effects.Close)} == {backend, idle}
    world.connect_all()
    assert pool.size == 2


# Messages, before COMMIT was sent.


def test_a_message_that_loses_its_backend_before_commit_runs_again_at_once() -> None:
    world = World()
    request, backend = begin(world, step(b"INSERT 1", low=1), retries=1)
    world.broker.lost(backend, Loss(ERROR, partial=WITH_ID), world.now)
    world.connect_all()
    again = world.running(request)
    answer(world, again)
    answer(world, again)
    assert committed(world, request).tries == 2
    assert world.broker.groups["default"].stats.retries == 1


def test_without_a_try_left_it_was_certainly_not_committed() -> None:
    world = World()
    request, backend = begin(world, step(b"INSERT 1", low=1))
    world.broker.lost(backend, Loss(ERROR), world.now)
    answered, _ = failed(world, request)
    assert (answered.kind, answered.outcome) == ("connection", NOT_EXECUTED)
    assert ERROR in answered.message


def test_a_message_that_was_not_written_yet_runs_elsewhere_and_that_is_no_try() -> None:
    world = World()
    request, backend = begin(world, INSERT)
    world.broker.lost(backend, Loss(ERROR, unsent=1), world.now)
    world.connect_all()
    answer(world, world.running(request))
    assert committed(world, request).tries == 1


def test_a_message_that_the_shell_has_not_taken_yet_is_never_run_there() -> None:
    world = World()
    world.client()
    request = world.transaction(INSERT)
    ((number, _),) = world.broker.backends.items()
    world.take()
    world.broker.opened(number, world.now, SERVER)
    world.broker.lost(number, Loss(ERROR), world.now)
    world.connect_all()
    assert len(sent(world)) == 1
    answer(world, world.running(request))
    assert committed(world, request).tries == 1


def test_a_message_that_is_never_written_is_given_up_after_a_number_of_moves() -> None:
    world = World()
    request, backend = begin(world, INSERT, retries=50)
    for _ in range(MAX_MOVES):
        world.broker.lost(backend, Loss(ERROR, unsent=1), world.now)
        world.connect_all()
        backend = world.running(request)
    world.broker.lost(backend, Loss(ERROR, unsent=1), world.now)
    reply = world.reply_to(request)
    assert isinstance(reply, TransactionResult)
    assert failed(world, request)[0].outcome == NOT_EXECUTED
    assert reply.tries == 0, "it was not run at all"


def test_a_withdrawn_message_that_loses_its_backend_does_not_run_again() -> None:
    world = World()
    request, backend = begin(world, step(b"INSERT 1", low=1), retries=5)
    world.broker.cancel(1, request, world.now)
    world.broker.lost(backend, Loss(ERROR), world.now)
    assert failed(world, request)[0].outcome == NOT_EXECUTED


@pytest.mark.parametrize("is_written", [True, False])
@pytest.mark.parametrize("steps", [(INSERT,), (step(b"INSERT 1", low=1),)])
def test_a_message_that_failed_is_told_so_whatever_becomes_of_its_rollback(
    steps: tuple[Any, ...], is_written: bool
) -> None:
    world = World()
    request, backend = begin(world, *steps, retries=5)
    done = completion(world, backend, fails=b"INSERT 1", error=failure("23505"))
    world.broker.completed(backend, done, world.now)
    if is_written:
        world.take()
    world.broker.lost(backend, Loss(ERROR), world.now)
    answered, place = failed(world, request)
    assert (answered.sqlstate, place) == ("23505", 0)


def test_a_statement_is_probed_even_if_its_last_run_before_that_ended_in_a_loss() -> None:
    world = World(prepare="auto", max_size=1)
    for _ in range(PROBE_AFTER - 1):
        _, backend = begin(world, INSERT)
        answer(world, backend)
    _, backend = begin(world, INSERT, step(b"UPDATE 1", low=1))
    world.broker.lost(backend, Loss(ERROR, partial=completion(world, backend).results), world.now)
    for _ in range(PROBE_AFTER):
        request = world.transaction(INSERT)
        world.connect_all()
        while not world.is_answered(request):
            answer(world, next(iter(world.broker.backends)))
    assert [b"PREPARE INSERT 1"] in sent(world)


# Statements that share a backend.


def again(world: World) -> list[int]:
    """The requests that run on the backend that replaces the lost one, in their order."""
    world.connect_all()
    return [request for backend in world.broker.backends for request in running(world, backend)]


def outcomes(world: World, requests: list[int]) -> list[str]:
    replies = [world.reply_to(request) for request in requests]
    return [reply.outcome for reply in replies if isinstance(reply, Failure)]


def test_reads_that_share_a_backend_run_elsewhere_whether_they_were_written_or_not() -> None:
    world, backend, requests = sharing(4)
    world.broker.lost(backend, Loss(ERROR, unsent=2), world.now)
    assert not any(world.is_answered(request) for request in requests)
    assert again(world)[0] == requests[0]


def test_what_the_shell_has_not_taken_yet_runs_elsewhere() -> None:
    world, backend, (first,) = sharing(1)
    late = world.query(statement=SHORT)
    world.broker.lost(backend, Loss(ERROR), world.now)
    assert again(world) == [first, late]  # the second one behind the first
    assert len(sent(world, backend)) == 1


@pytest.mark.parametrize(("unsent", "outcome"), [(0, UNKNOWN), (1, NOT_EXECUTED)])
def test_what_is_no_plain_read_may_have_run_if_it_was_written(unsent: int, outcome: str) -> None:
    world = World(max_size=1)
    world.client()
    request = world.query(statement=b"INSERT 1")
    world.connect_all()
    for _ in range(1 + unsent * MAX_MOVES):
        world.broker.lost(world.running(request), Loss(ERROR, unsent=unsent), world.now)
        world.connect_all()
    assert outcomes(world, [request]) == [outcome]


def test_what_postgresql_ended_with_a_fatal_error_has_failed() -> None:
    world = World(max_size=1)
    world.client()
    request = world.query(statement=b"INSERT 1")
    world.connect_all()
    world.broker.lost(world.running(request), Loss(ERROR, last=FATAL), world.now)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert (reply.sqlstate, reply.outcome) == ("57P01", FAILED), "PostgreSQL has said what became of it"


def test_a_fatal_error_after_a_warning_may_come_after_the_commit() -> None:
    world = World(max_size=1)
    world.client()
    request = world.query(statement=b"INSERT 1")
    world.connect_all()
    last = FATAL._replace(notices=("WARNING:  canceling the wait for synchronous replication",))
    world.broker.lost(world.running(request), Loss(ERROR, last=last), world.now)
    assert outcomes(world, [request]) == [UNKNOWN]


def test_what_runs_elsewhere_keeps_its_order_and_its_place_before_those_who_wait() -> None:
    world, backend, requests = sharing(3)
    requests += [world.query(statement=b"SELECT 'slow'"), world.query(statement=SHORT)]
    world.broker.lost(backend, Loss(ERROR, unsent=3), world.now)
    queue = world.broker.groups["default"].queue
    assert [queue.pop(len(PRIORITIES)).number for _ in requests] == requests
    assert len(queue) == 0


def prove(world: World, proof: Proof = Proof(is_harmless=True, is_plain_read=True)) -> None:  # noqa: B008 - frozen
    """The short statement is known for what it is."""
    world.broker.groups["default"].statements.find(SHORT, b"").proof = proof


def test_what_is_proven_to_be_a_plain_read_runs_again() -> None:
    world, backend, requests = sharing(3)
    prove(world)
    world.broker.lost(backend, Loss(ERROR, unsent=1), world.now)
    assert not any(world.is_answered(request) for request in requests)
    for request in requests:
        world.connect_all()
        (another,) = world.broker.backends
        assert running(world, another)[0] == request
        answer(world, another)
        assert world.outcome(request) == OK


def test_nothing_else_does_even_in_a_group_that_is_read_only() -> None:
    world, backend, requests = sharing(3, read_only=True)
    prove(world, Proof(is_harmless=True))
    world.broker.lost(backend, Loss(ERROR), world.now)
    assert outcomes(world, requests) == [UNKNOWN] * 3


def test_a_proof_is_one_of_the_prepared_statement() -> None:
    world, backend, (request,) = sharing(1, max_size=2, read_only=True)
    prove(world)
    literal = world.query(statement=SHORT, prepare=False)
    world.connect_all()
    other = world.running(literal)
    world.broker.lost(other, Loss(ERROR), world.now)
    assert outcomes(world, [literal]) == [UNKNOWN]
    assert running(world, backend) == [request]


@pytest.mark.parametrize("unsent", [1, 0])
def test_a_statement_moves_to_another_backend_only_so_often(unsent: int) -> None:
    world, backend, (request,) = sharing(1)
    prove(world)
    for _ in range(MAX_MOVES):
        world.broker.lost(backend, Loss(ERROR, unsent=unsent), world.now)
        assert again(world) == [request]
        (backend,) = world.broker.backends
    world.broker.lost(backend, Loss(ERROR, unsent=unsent), world.now)
    assert outcomes(world, [request]) == [NOT_EXECUTED if unsent else UNKNOWN]


def test_a_withdrawn_statement_does_not_move() -> None:
    world, backend, requests = sharing(3)
    world.broker.cancel(1, requests[1], world.now)
    world.broker.cancel(1, requests[2], world.now)
    world.broker.lost(backend, Loss(ERROR, unsent=1), world.now)
    assert outcomes(world, requests[1:]) == [UNKNOWN, NOT_EXECUTED]
    assert again(world) == requests[:1]


def test_the_statement_of_a_client_that_is_gone_does_not_move() -> None:
    world, backend, _ = sharing(1)
    world.broker.client_gone(1, world.now)
    world.broker.lost(backend, Loss(ERROR, unsent=1), world.now)
    assert again(world) == []
    assert world.taken(effects.Reply) == []


def test_a_statement_past_its_deadline_does_not_move_for_long() -> None:
    world, backend, _ = sharing(1)
    late = world.query(statement=SHORT, timeout=1.0)
    world.now = 1.5
    world.broker.lost(backend, Loss(ERROR, unsent=1), world.now)
    world.broker.tick(world.now)
    assert outcomes(world, [late]) == [NOT_EXECUTED]


def test_reads_on_a_backend_that_is_given_up_run_elsewhere() -> None:
    world, backend, requests = sharing(2, endpoint_settings={"query_timeout": 5.0})
    world.pass_time(LOOK_AFTER + LOOK_TIMEOUT + 0.1)
    assert world.taken(effects.Cancel) == [effects.Cancel(backend)], "the first one may wait for a lock"
    world.pass_time(CANCEL_TIMEOUT)
    assert world.taken(effects.Close)[0].backend == backend
    assert not any(world.is_answered(request) for request in requests)
    world.connect_all()
    (another,) = world.broker.backends
    answer(world, another)  # who waits for a lock, which was asked for before
    assert again(world) == requests[:1]


def test_the_first_of_many_does_not_prepare_and_those_behind_it_run_with_literals_too() -> None:
    world, backend, requests = sharing(2)
    answer(world, backend, fails=b"PREPARE " + SHORT, error=failure("53200"))
    answer(world, backend, fails=SHORT, error=failure("26000"), is_bound=False)
    assert not any(world.is_answered(request) for request in requests)
    answer(world, backend)
    answer(world, backend)
    assert [world.outcome(request) for request in requests] == [OK, OK]


def test_a_stopped_broker_says_what_it_knows_of_each() -> None:
    world, _, requests = sharing(2)
    requests += [world.query(statement=SHORT), world.query(statement=b"SELECT 'slow'")]
    world.broker.stop(world.now)
    assert outcomes(world, requests) == [NOT_EXECUTED] * 4, "of reads nothing can have stayed"


def test_a_stopped_broker_opens_nothing() -> None:
    world = World(min_size=1)
    world.connect_all()
    opened = len(world.taken(effects.Connect))
    world.broker.stop(world.now)
    assert len(world.taken(effects.Connect)) == opened
    assert world.broker.backends == {}
