"""Event scripts of cancels on a backend that several share: whom one hits, and when the next one's turn has come."""

import pytest
from units import SHORT, answer, completion, running, sharing
from world import OK, World, failure

from client.wire.messages import TX_ACTIVE, TX_FAILED, TX_NONE, Commit, Failure, ResultMessage, Rollback
from poold.core import effects
from poold.core.requests.runs import CANCEL_TIMEOUT
from poold.core.state import BackendState as S
from poold.core.work.settings import SERVER_GRACE
from poold.core.work.time_limits import GUARD


def failed(world: World, request: int) -> Failure:
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    return reply


def test_a_statement_that_another_ones_cancel_hit_runs_again() -> None:
    world, backend, (first, second) = sharing(2)
    world.broker.cancel(1, first, world.now)
    answer(world, backend)
    assert world.outcome(first) == OK, "it was faster than its cancel"
    answer(world, backend, fails=SHORT, error=failure("57014"))
    assert not world.is_answered(second)
    assert world.state(backend) is S.SETTLING
    world.broker.cancelled(backend, world.now)
    assert running(world, backend) == [second]
    answer(world, backend)
    assert world.outcome(second) == OK


def test_a_statement_that_runs_out_of_its_own_time_does_not_run_again() -> None:
    world, backend, (first, second) = sharing(2)
    answer(world, backend)
    answer(world, backend, fails=SHORT, error=failure("57014", message="statement timeout"))
    assert world.is_answered(first)
    assert failed(world, second).message == "statement timeout"


def test_a_statement_that_two_cancels_were_meant_for_does_not_run_again() -> None:
    world, backend, (first, second) = sharing(2)
    world.broker.cancel(1, first, world.now)
    world.broker.cancel(1, second, world.now)
    answer(world, backend)
    answer(world, backend, fails=SHORT, error=failure("57014"))
    assert failed(world, second).sqlstate == "57014"


def test_a_withdrawn_statement_is_cancelled_when_its_turn_comes() -> None:
    world, backend, (first, second, third) = sharing(3)
    world.broker.cancel(1, second, world.now)
    assert world.taken(effects.Cancel) == []
    answer(world, backend)
    assert world.outcome(first) == OK
    assert world.taken(effects.Cancel) == [effects.Cancel(backend)]
    answer(world, backend, fails=SHORT, error=failure("57014"))
    assert failed(world, second).sqlstate == "57014"
    world.broker.cancelled(backend, world.now)
    assert world.state(backend) is S.ACTIVE
    answer(world, backend)
    assert world.outcome(third) == OK


def test_a_withdrawn_statement_whose_turn_is_over_before_its_cancel_leaves_the_backend_to_settle() -> None:
    world, backend, (_, second) = sharing(2)
    world.broker.cancel(1, second, world.now)
    for _ in range(2):
        world.broker.completed(backend, completion(world, backend), world.now)
    assert world.state(backend) is S.SETTLING
    world.broker.cancelled(backend, world.now)
    assert world.state(backend) is S.IDLE


def test_a_second_cancel_waits_until_the_first_one_is_settled() -> None:
    world, backend, (first, second) = sharing(2)
    world.broker.cancel(1, first, world.now)
    world.broker.cancel(1, second, world.now)
    answer(world, backend, fails=SHORT, error=failure("57014"))
    assert len(world.taken(effects.Cancel)) == 1
    world.broker.cancelled(backend, world.now)
    world.pass_time(0.1)
    assert len(world.taken(effects.Cancel)) == 2


def test_a_deadline_that_passes_behind_others_is_kept_when_its_turn_comes() -> None:
    world, backend, requests = sharing(1)
    late = world.query(statement=SHORT, timeout=0.1)
    world.pass_time(0.1 + SERVER_GRACE)
    assert world.taken(effects.Cancel) == []
    assert running(world, backend) == [*requests, late]
    answer(world, backend)
    assert world.taken(effects.Cancel) == [effects.Cancel(backend)]
    answer(world, backend, fails=SHORT, error=failure("57014"))
    assert "timeout of 0.1 s" in failed(world, late).message


def test_the_statement_of_a_client_that_died_does_not_disturb_its_neighbours() -> None:
    world, backend, (first,) = sharing(1)
    world.client(2)
    world.query(2, statement=SHORT)
    third = world.query(statement=SHORT)
    world.broker.client_gone(2, world.now)
    for _ in range(3):
        answer(world, backend)
    world.broker.cancelled(backend, world.now)
    assert world.outcome(first) == world.outcome(third) == OK
    assert len(world.taken(effects.Reply)) == 2


def test_the_neighbour_of_a_cancelled_statement_has_its_whole_time() -> None:
    world, backend, (first, _) = sharing(2, endpoint_settings={"query_timeout": 5.0})
    world.broker.cancel(1, first, world.now)
    answer(world, backend, fails=SHORT, error=failure("57014"))
    world.broker.cancelled(backend, world.now)
    world.pass_time(5.0 + GUARD - 0.1)
    assert len(world.taken(effects.Cancel)) == 1
    world.pass_time(0.2)
    assert len(world.taken(effects.Cancel)) == 2


def test_a_cancel_that_never_settles_is_not_the_neighbours_fault() -> None:
    world, backend, (first, second) = sharing(2)
    world.broker.cancel(1, first, world.now)
    answer(world, backend, fails=SHORT, error=failure("57014"))
    world.pass_time(CANCEL_TIMEOUT + 0.1)
    answer(world, backend, fails=SHORT, error=failure("57014"))
    assert not world.is_answered(second), "the cancel was meant for the other one: it runs again"


def in_transaction(has_lane: bool, **settings: int) -> tuple[World, int]:
    """A world with a transaction, lease 1, in which nothing runs; and its backend."""
    world = World(**settings)
    world.broker.agenda.has_lane = has_lane
    world.client()
    return world, world.begin(1)


ENDS = pytest.mark.parametrize("verb", [Commit, Rollback])
LANES = pytest.mark.parametrize("has_lane", [False, True])


@ENDS
@LANES
def test_an_end_that_waits_behind_the_settling_of_a_cancel_is_not_cancelled(
    verb: type[Commit] | type[Rollback], has_lane: bool
) -> None:
    world, backend = in_transaction(has_lane)
    statement = world.query(group="tx", lease=1)
    world.broker.cancel(1, statement, world.now)
    world.complete(backend, TX_FAILED, failure("57014", TX_FAILED))
    end = world.end(verb, 1)
    assert world.state(backend) is S.SETTLING
    world.broker.cancel(1, end, world.now)
    assert not world.is_answered(end)
    world.broker.cancelled(backend, world.now)
    assert running(world, backend) == [end]
    world.complete(backend, TX_NONE, command="ROLLBACK")
    reply = world.reply_to(end)
    assert reply.transaction == TX_NONE
    assert (type(reply) is ResultMessage) == (verb is Rollback), "a COMMIT that rolls back is told so"
    assert len(world.taken(effects.Cancel)) == 1


@ENDS
@LANES
def test_an_end_that_waits_behind_a_statement_is_not_cancelled(
    verb: type[Commit] | type[Rollback], has_lane: bool
) -> None:
    world, backend = in_transaction(has_lane)
    statement = world.query(group="tx", lease=1)
    end = world.end(verb, 1)
    world.broker.cancel(1, end, world.now)
    assert not world.is_answered(end)
    assert world.taken(effects.Cancel) == [], "nor is the statement"
    world.complete(backend, TX_ACTIVE)
    assert isinstance(world.reply_to(statement), ResultMessage)
    assert running(world, backend) == [end]
    world.complete(backend, TX_NONE, command=verb.__name__.upper())
    assert isinstance(world.reply_to(end), ResultMessage)


@ENDS
@LANES
def test_an_end_that_runs_is_not_cancelled(verb: type[Commit] | type[Rollback], has_lane: bool) -> None:
    world, backend = in_transaction(has_lane)
    end = world.end(verb, 1)
    assert running(world, backend) == [end]
    world.broker.cancel(1, end, world.now)
    world.pass_time(CANCEL_TIMEOUT)
    assert world.taken(effects.Cancel) == []
    world.complete(backend, TX_NONE, command=verb.__name__.upper())
    assert isinstance(world.reply_to(end), ResultMessage)
    assert world.state(backend) is S.IDLE


@LANES
def test_an_end_behind_the_statement_that_opens_its_lease_ends_with_that_one(has_lane: bool) -> None:
    world, _ = in_transaction(has_lane, max_size=1)
    opening = world.query(group="tx", lease=2, begin=True)
    end = world.end(Rollback, 2)
    world.broker.cancel(1, end, world.now)
    assert not world.is_answered(end)
    assert not world.is_answered(opening)
    world.broker.cancel(1, opening, world.now)
    assert failed(world, opening).outcome == "not executed"
    assert isinstance(world.reply_to(end), ResultMessage)
