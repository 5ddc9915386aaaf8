"""Event scripts of transaction messages that are tried again, withdrawn, too late, or still there at the end."""

import pytest
from units import INSERT, READ, UNTRACKED, UPDATE, answer, begin, committed, failed, promote, sent, step
from world import World, failure

from client.wire.limits import END_SAVEPOINT, SAVEPOINT
from client.wire.messages import NOT_EXECUTED, Failure, Step, TransactionResult
from poold.core import effects
from poold.core.requests.runs import LOOK_TIMEOUT
from poold.core.state import BackendState as S
from poold.core.work.settings import SERVER_GRACE
from poold.core.work.transaction import FIRST_PAUSE, LONGEST_PAUSE

RACE = failure("40001", message="could not serialize access")
GONE_STALE = failure("0A000", message="cached plan must not change result type")


def lose_race(world: World, backend: int, sqlstate: str = "40001") -> None:
    """The message's INSERT fails because of another transaction, and is rolled back."""
    answer(world, backend, fails=b"INSERT 1", error=failure(sqlstate))
    answer(world, backend)


def tries(world: World) -> int:
    return sum(unit[0].endswith(b"BEGIN") for unit in sent(world))


# Lost races.


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
def test_a_message_that_lost_a_race_is_tried_again_after_a_pause(sqlstate: str) -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, INSERT, retries=2)
    lose_race(world, backend, sqlstate)
    assert world.state(backend) is S.IDLE, "the pause holds no backend"
    assert not world.is_answered(request)
    world.pass_time(FIRST_PAUSE * 0.9)
    assert tries(world) == 1
    world.pass_time(FIRST_PAUSE * 0.2)
    assert tries(world) == 2
    answer(world, backend)
    assert committed(world, request).tries == 2
    assert world.broker.groups["default"].stats.retries == 1


def test_a_commit_that_lost_a_race_is_tried_again() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, INSERT, retries=1)
    answer(world, backend, fails=b"COMMIT", error=RACE)
    world.pass_time(1.0)
    answer(world, backend)
    assert committed(world, request).tries == 2


def test_each_pause_is_twice_as_long_as_the_one_before_up_to_a_limit() -> None:
    world = World(**UNTRACKED)
    _, backend = begin(world, INSERT, retries=12)
    for count in range(1, 12):
        lose_race(world, backend)
        pause = min(FIRST_PAUSE * 2 ** (count - 1), LONGEST_PAUSE)
        world.pass_time(0.99 * pause)
        assert tries(world) == count
        world.pass_time(0.02 * pause)
        assert tries(world) == count + 1


def test_a_message_that_loses_every_race_is_told_so_with_its_number_of_tries() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, INSERT, retries=2)
    for _ in range(3):
        lose_race(world, backend)
        world.pass_time(1.0)
    reply = world.reply_to(request)
    assert isinstance(reply, TransactionResult)
    assert reply.tries == tries(world) == 3
    answered, place = failed(world, request)
    assert (answered.sqlstate, place) == ("40001", 0)


def test_a_race_lost_in_a_savepoint_block_is_a_race_lost_by_the_whole_message() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, UPDATE, SAVEPOINT, INSERT, END_SAVEPOINT, retries=1)
    lose_race(world, backend)
    world.pass_time(1.0)
    answer(world, backend)
    answer(world, backend)
    reply = committed(world, request)
    assert reply.tries == 2
    assert reply.results[2] is not None


def test_another_error_is_not_tried_again() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, INSERT, retries=5)
    lose_race(world, backend, "23505")
    assert failed(world, request)[0].sqlstate == "23505"


def test_during_the_pause_the_backend_serves_others_and_the_next_try_waits_its_turn() -> None:
    world = World(max_size=1, **UNTRACKED)
    request, backend = begin(world, INSERT, retries=1)
    other = world.query()
    lose_race(world, backend)
    assert world.running(other) == backend
    world.pass_time(1.0)
    assert tries(world) == 1
    world.complete(backend)
    assert tries(world) == 2
    answer(world, backend)
    committed(world, request)


def test_a_next_try_that_waits_too_long_is_told_how_long_it_has_waited_since_the_last_one() -> None:
    world = World(max_size=1, queue_timeout=3.0, **UNTRACKED)
    request, backend = begin(world, INSERT, retries=1)
    world.query()
    world.now = 2.0
    lose_race(world, backend)
    world.pass_time(FIRST_PAUSE)
    began = world.now
    world.pass_time(3.0)
    told = world.reply_to(request)
    assert isinstance(told, Failure)
    assert told.kind == "pool-timeout"
    assert "became free within 3 s, for another try (queue_timeout = 3 s)" in told.message
    assert world.now == began + 3.0


def test_a_message_past_its_deadline_is_not_tried_again() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, INSERT, retries=5, timeout=1.0)
    world.now = 1.0
    lose_race(world, backend)
    assert failed(world, request)[0].sqlstate == "40001"


def test_a_pause_that_would_outlast_the_deadline_is_not_made() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, INSERT, retries=5, timeout=1.0)
    world.now = 1.0 - FIRST_PAUSE / 2
    lose_race(world, backend)
    world.pass_time(FIRST_PAUSE / 2)
    answered, _ = failed(world, request)
    assert answered.sqlstate == "40001", "that no backend became free is not what happened"


def test_a_pause_that_by_its_jitter_would_outlast_the_deadline_is_not_made() -> None:
    world = World(chance=0.9, **UNTRACKED)
    request, backend = begin(world, INSERT, retries=5, timeout=1.0)
    world.now = 1.0 - FIRST_PAUSE * 1.2
    lose_race(world, backend)
    assert failed(world, request)[0].sqlstate == "40001"


# Prepared statements that do not fit any more.


def test_a_message_with_a_stale_prepared_statement_runs_again_with_literals_and_that_is_no_try() -> None:
    world = World(prepare="auto", **UNTRACKED)
    promote(world, b"INSERT 1")
    request, backend = begin(world, INSERT)
    answer(world, backend, fails=b"INSERT 1", error=GONE_STALE, is_bound=False)
    answer(world, backend)
    assert sent(world)[-1] == [b"BEGIN", b"INSERT 1", b"COMMIT"]
    answer(world, backend)
    assert committed(world, request).tries == 1


def test_a_message_whose_statement_a_backend_does_not_parse_runs_again_with_literals() -> None:
    world = World(prepare="auto", **UNTRACKED)
    promote(world, b"INSERT 1")
    request, backend = begin(world, INSERT)
    answer(world, backend, fails=b"PREPARE INSERT 1", error=failure("42P01"))
    answer(world, backend)
    assert sent(world)[-1] == [b"BEGIN", b"INSERT 1", b"COMMIT"]
    answer(world, backend, fails=b"INSERT 1", error=failure("42P01"))
    answer(world, backend)
    answered, _ = failed(world, request)
    assert answered.sqlstate == "42P01", "with literals the error is the client's own"


def test_a_stale_statement_is_not_run_prepared_by_the_next_message() -> None:
    world = World(prepare="auto", **UNTRACKED)
    stale = promote(world, b"INSERT 1")
    _, backend = begin(world, INSERT)
    answer(world, backend, fails=b"INSERT 1", error=GONE_STALE, is_bound=False)
    answer(world, backend)
    answer(world, backend)
    world.transaction(INSERT)
    last = world.taken(effects.Execute)[-1].unit
    assert not any(type(command) is effects.Bind and command.name == stale.name for command in last)


def test_a_stale_statement_in_a_savepoint_block_is_nothing_the_client_gets_to_see() -> None:
    world = World(prepare="auto", **UNTRACKED)
    promote(world, b"INSERT 1")
    request, backend = begin(world, SAVEPOINT, INSERT, END_SAVEPOINT)
    answer(world, backend, fails=b"INSERT 1", error=GONE_STALE, is_bound=False)
    while not world.is_answered(request):
        answer(world, backend)
    assert committed(world, request).results[1][2] == "INSERT 0 1"


def test_a_begin_that_is_missing_on_the_backend_is_prepared_again() -> None:
    world = World(prepare="auto", **UNTRACKED)
    _, backend = begin(world, READ)
    answer(world, backend)
    request = world.transaction(READ)
    answer(world, backend, fails=b"BEGIN", error=failure("26000"), is_bound=False)
    assert sent(world)[-1] == [b"BEGIN", b"SELECT 1", b"COMMIT"]
    assert not any(type(each) is effects.Bind for each in world.taken(effects.Execute)[-1].unit)
    answer(world, backend)
    committed(world, request)
    world.transaction(READ)
    assert sent(world)[-1][:2] == [b"DEALLOCATE BEGIN", b"PREPARE BEGIN"]


def test_a_name_that_is_taken_on_the_backend_is_not_tried_again() -> None:
    world = World(prepare="auto", **UNTRACKED)
    _, backend = begin(world, READ)
    (first,) = (each.unit[0] for each in world.taken(effects.Execute))
    answer(world, backend, fails=b"PREPARE BEGIN", error=failure("42P05"))
    answer(world, backend)
    world.transaction(READ)
    again = world.taken(effects.Execute)[2].unit
    assert again[0] == effects.Deallocate(first.name), "each message would fail here"


@pytest.mark.parametrize("sql", [b"DEALLOCATE ALL", b"DISCARD ALL"])
def test_a_message_that_would_drop_what_others_have_prepared_is_refused(sql: bytes) -> None:
    world = World()
    world.client()
    refused = world.reply_to(world.transaction(Step(sql, b"", b"", True, (), 0, None)))
    assert isinstance(refused, Failure)
    assert (refused.kind, refused.outcome) == ("usage", "not executed")
    assert "query()" in refused.message


def test_a_message_that_ran_nothing_prepared_is_not_run_again_for_it() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, INSERT)
    answer(world, backend, fails=b"INSERT 1", error=failure("0A000", message="not implemented"))
    answer(world, backend)
    assert tries(world) == 1
    assert failed(world, request)[0].sqlstate == "0A000"


# Withdrawn and too late.


def test_a_withdrawn_message_that_waits_is_never_run() -> None:
    world = World(max_size=1, **UNTRACKED)
    world.client()
    other, request = world.query(), world.transaction(INSERT)
    world.connect_all()
    world.broker.cancel(1, request, world.now)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert reply.outcome == NOT_EXECUTED
    world.finish(other)
    assert tries(world) == 0


def test_a_withdrawn_message_that_pauses_is_not_tried_again() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, INSERT, retries=5)
    lose_race(world, backend)
    world.broker.cancel(1, request, world.now)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert reply.outcome == NOT_EXECUTED
    world.pass_time(2.0)
    assert tries(world) == 1


def test_a_withdrawn_message_that_runs_is_cancelled_rolled_back_and_answered_once() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, INSERT, retries=5)
    world.broker.cancel(1, request, world.now)
    assert world.taken(effects.Cancel) == [effects.Cancel(backend)]
    answer(world, backend, fails=b"INSERT 1", error=failure("57014"))
    assert failed(world, request)[0].sqlstate == "57014"
    assert world.resets() == [], "the cancel may still arrive and would hit the ROLLBACK"
    world.broker.cancelled(backend, world.now)
    assert world.resets() == [backend]
    answer(world, backend)
    assert world.state(backend) is S.IDLE


def test_a_withdrawn_message_that_lost_a_race_is_not_tried_again() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, INSERT, retries=5)
    world.broker.cancel(1, request, world.now)
    answer(world, backend, fails=b"INSERT 1", error=RACE)
    assert failed(world, request)[0].sqlstate == "40001"
    world.broker.cancelled(backend, world.now)
    answer(world, backend)
    world.pass_time(2.0)
    assert tries(world) == 1


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_withdrawn_message_with_a_stale_statement_is_not_run_again(is_gone: bool) -> None:
    world = World(prepare="auto", max_size=1, **UNTRACKED)
    promote(world, b"INSERT 1")
    request, backend = begin(world, INSERT)
    if is_gone:
        world.broker.client_gone(1, world.now)
    else:
        world.broker.cancel(1, request, world.now)
    answer(world, backend, fails=b"INSERT 1", error=GONE_STALE, is_bound=False)
    assert world.is_answered(request) is not is_gone
    world.broker.cancelled(backend, world.now)
    answer(world, backend)
    assert tries(world) == 1


def test_a_withdrawn_message_ends_after_the_unit_that_the_cancel_came_too_late_for() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, step(b"UPDATE 1", low=1))
    world.broker.cancel(1, request, world.now)
    answer(world, backend)
    answered, place = failed(world, request)
    assert (answered.outcome, answered.sqlstate, place) == (NOT_EXECUTED, "57014", -1)
    assert not any(b"COMMIT" in unit for unit in sent(world))
    world.broker.cancelled(backend, world.now)
    assert world.resets() == [backend]


def test_a_withdrawn_message_that_was_faster_than_its_cancel_is_committed() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, INSERT)
    world.broker.cancel(1, request, world.now)
    answer(world, backend)
    committed(world, request)
    assert world.state(backend) is S.SETTLING


def test_a_message_whose_deadline_comes_while_a_savepoint_block_fails_is_told_of_its_deadline() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, UPDATE, SAVEPOINT, INSERT, END_SAVEPOINT, timeout=2.0)
    world.pass_time(2.0 + SERVER_GRACE)
    answer(world, backend, fails=b"INSERT 1", error=failure("23505"))
    answered, place = failed(world, request)
    assert (answered.outcome, answered.sqlstate, place) == (NOT_EXECUTED, "57014", -1)
    assert "timeout of 2 s" in answered.message


def test_a_message_that_the_server_ends_at_its_deadline_in_a_savepoint_block_does_not_go_on() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, UPDATE, SAVEPOINT, INSERT, END_SAVEPOINT, timeout=2.0)
    world.pass_time(2.0)
    answer(world, backend, fails=b"INSERT 1", error=failure("57014"))
    answered, _ = failed(world, request)
    assert answered.sqlstate == "57014"
    assert "timeout of 2 s" in answered.message
    assert sent(world, backend)[-1] == [b"ROLLBACK"]


def test_a_cancel_that_hits_a_savepoint_block_is_told_as_postgresql_told_it() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, UPDATE, SAVEPOINT, INSERT, END_SAVEPOINT)
    world.broker.cancel(1, request, world.now)
    answer(world, backend, fails=b"INSERT 1", error=failure("57014"))
    assert (failed(world, request)[0].outcome, failed(world, request)[0].sqlstate) == ("failed", "57014")


def test_a_message_is_cancelled_at_its_deadline_and_told_why_once() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, step(b"UPDATE 1", low=1), timeout=2.0)
    world.pass_time(2.0 + SERVER_GRACE)
    assert world.taken(effects.Cancel) == [effects.Cancel(backend)]
    answer(world, backend)
    assert failed(world, request)[0].message.count("timeout of 2 s") == 1


def test_a_message_whose_client_is_gone_is_cancelled_and_rolled_back_and_nobody_is_answered() -> None:
    world = World(**UNTRACKED)
    _, backend = begin(world, INSERT, retries=5)
    world.broker.client_gone(1, world.now)
    assert world.taken(effects.Cancel) == [effects.Cancel(backend)]
    answer(world, backend, fails=b"INSERT 1", error=failure("57014"))
    world.broker.cancelled(backend, world.now)
    answer(world, backend)
    assert world.state(backend) is S.IDLE
    assert world.taken(effects.Reply) == []
    assert world.broker.groups["default"].stats.withdrawn == 1


def test_a_client_that_is_gone_during_the_pause_leaves_nothing_behind() -> None:
    world = World(**UNTRACKED)
    _, backend = begin(world, INSERT, retries=5)
    lose_race(world, backend)
    world.broker.client_gone(1, world.now)
    world.pass_time(5.0)
    assert tries(world) == 1
    assert world.taken(effects.Reply) == []


def test_a_cancel_during_the_rollback_changes_nothing() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, INSERT)
    answer(world, backend, fails=b"INSERT 1", error=failure("23505"))
    world.broker.cancel(1, request, world.now)
    answer(world, backend)
    assert failed(world, request)[0].sqlstate == "23505"


def test_a_message_may_take_query_timeout_for_each_of_its_steps() -> None:
    world = World(endpoint_settings={"query_timeout": 5.0}, **UNTRACKED)
    begin(world, READ, READ, READ)
    world.pass_time(19.9)
    assert world.taken(effects.Look) == []
    world.pass_time(0.2)
    assert len(world.taken(effects.Look)) == 1, "a function in it may have set another limit"
    world.pass_time(LOOK_TIMEOUT)
    assert len(world.taken(effects.Cancel)) == 1


# The end of the broker.


def test_a_drain_waits_for_every_unit_and_every_try_of_a_message() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, step(b"INSERT 1", low=1), retries=1)
    world.broker.drain(world.now)
    refused = world.reply_to(world.transaction(READ))
    assert isinstance(refused, Failure)
    assert refused.outcome == NOT_EXECUTED
    lose_race(world, backend)
    world.pass_time(1.0)
    answer(world, backend)
    assert world.taken(effects.Stop) == []
    answer(world, backend)
    committed(world, request)
    assert len(world.taken(effects.Stop)) == 1
