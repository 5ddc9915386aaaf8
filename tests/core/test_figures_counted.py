"""What is counted beside requests: how long backends are held and connects take, classes of errors, refusals."""

from typing import Any

import pytest
from units import INSERT, UNTRACKED, answer, begin, step
from world import World, failure

from client import errors
from client.wire.limits import OPENS_SESSION
from client.wire.messages import TX_ACTIVE, TX_NONE, Commit, Release, Rollback
from poold.core.facts import Completion, Loss, StatementResult
from poold.core.stats import ERROR_CLASSES, KINDS, OTHER_CLASS, USUAL_CLASSES, GroupStats, Use


def counted(world: World, group: str = "tx") -> dict[str, tuple[int, float]]:
    """How often backends were held, and for how long all in all."""
    times = world.broker.groups[group].stats.use_times
    return {use.value: (times[use].up_to(())[-1], times[use].sum) for use in Use if times[use].up_to(())[-1]}


def test_a_transaction_holds_its_backend_from_its_first_statement_to_its_end() -> None:
    world = World()
    world.client()
    world.now += 5
    backend = world.begin(1)
    world.now += 2
    request = world.query(group="tx", lease=1)
    world.now += 1
    world.finish(request, TX_ACTIVE)
    assert counted(world) == {}
    world.now += 4
    end = world.end(Commit, 1)
    world.now += 0.5
    world.complete(backend, TX_NONE, command="COMMIT")
    assert world.is_answered(end)
    assert counted(world) == {"lease": (1, pytest.approx(7.5))}


@pytest.mark.parametrize("how", ["lost", "gone", "timeout", "rollback"])
def test_a_transaction_that_ends_in_another_way_is_counted_once_as_well(how: str) -> None:
    world = World(idle_in_transaction_timeout=3.0)
    world.client()
    backend = world.begin(1)
    if how == "timeout":
        world.pass_time(3.0)
    else:
        world.now += 3
    if how == "lost":
        world.broker.lost(backend, Loss("gone"), world.now)
    elif how == "gone":
        world.broker.client_gone(1, world.now)
    elif how == "rollback":
        world.end(Rollback, 1)
        world.complete(backend, TX_NONE, command="ROLLBACK")
    assert counted(world) == {"lease": (1, pytest.approx(3.0))}


def test_a_session_is_counted_apart_and_what_never_had_a_backend_is_not() -> None:
    world = World(max_size=1, queue_timeout=2.0)
    world.client()
    first = world.query(session=OPENS_SESSION, lease=1)
    world.connect_all()
    late = world.query(session=OPENS_SESSION, lease=2)
    world.finish(first)
    world.pass_time(2.0)
    assert world.is_answered(late)
    world.now += 1
    world.broker.request(1, Release(77, 1), world.now)
    assert counted(world, "default") == {"session": (1, pytest.approx(3.0))}


def test_a_transaction_message_holds_its_backend_while_it_runs() -> None:
    world = World(track_outcome=False)
    _, backend = begin(world, INSERT)
    world.now += 0.25
    answer(world, backend)
    assert counted(world, "default") == {"message": (1, pytest.approx(0.25))}


def test_connects_that_succeed_are_timed() -> None:
    world = World(min_size=1, start=False)
    world.now = 10.0
    world.broker.start(world.now)
    connects = [effect for effect in world.take() if type(effect).__name__ == "Connect"]
    assert len(connects) == 2
    world.now += 0.5
    world.broker.opened(connects[0].backend, world.now)
    world.broker.connect_failed(connects[1].backend, "no", world.now)
    found = [group.pools[0].stats.connect_times for group in world.broker.groups.values()]
    assert sorted((times.up_to(())[-1], times.sum) for times in found) == [(0, 0.0), (1, 0.5)]


def test_errors_are_counted_by_their_class_and_any_other_class_as_one() -> None:
    stats = GroupStats()
    assert (stats.errors, set(stats.errors_by_class)) == (0, {*USUAL_CLASSES})
    for sqlstate in ("23505", "23503", "40001", "ZZ123", "ABCDE"):
        stats.count_error(sqlstate, "query")
    for kind in ("connection", "pool-timeout", "pool-timeout", "of a broker to come"):
        stats.count_error(None, kind)
    assert stats.errors == 9
    assert {name: count for name, count in stats.errors_by_class.items() if count} == {
        "23": 2,
        "40": 1,
        "connection": 1,
        "pool-timeout": 2,
        OTHER_CLASS: 3,
    }
    assert {*USUAL_CLASSES} - {*KINDS} < ERROR_CLASSES
    assert {*KINDS} == {*errors.KINDS} - {"offline", "query"}, "an error of the broker's own has its kind for a class"
    assert len(ERROR_CLASSES) < 50


def test_an_error_of_a_statement_has_its_class_and_a_lost_connection_its_kind() -> None:
    world = World(max_size=1)
    world.client()
    first = world.query()
    world.connect_all()
    world.complete(world.running(first), reply=failure("42P01"))
    second = world.query(statement=b"UPDATE t SET a = 1")
    world.take()
    world.broker.lost(world.running(second), Loss("gone"), world.now)
    stats = world.broker.groups["default"].stats
    assert errors_of(world) == {"42": 1, "connection": 1}
    assert stats.errors == 2


def errors_of(world: World, group: str = "default") -> dict[str, int]:
    """The errors of each class of which there are any."""
    return {name: count for name, count in world.broker.groups[group].stats.errors_by_class.items() if count}


def test_what_ends_in_the_queue_is_an_error_of_its_kind_and_what_nobody_hears_is_none() -> None:
    world = World(max_size=1, queue_timeout=1.0)
    world.client()
    world.client(2)
    first = world.query()
    world.connect_all()
    world.query()
    world.pass_time(1.5)
    assert errors_of(world) == {"pool-timeout": 1}
    withdrawn = world.query()
    world.broker.cancel(1, withdrawn, world.now)
    assert errors_of(world) == {"pool-timeout": 1, "57": 1}
    world.query(2)
    world.broker.client_gone(2, world.now)
    world.finish(first)
    assert errors_of(world) == {"pool-timeout": 1, "57": 1}


def test_an_expectation_that_fails_and_a_result_that_is_too_large_are_errors_of_their_kinds() -> None:
    world = World(**UNTRACKED)
    _, number = begin(world, step(b"UPDATE 1", low=1, high=1))
    answer(world, number, {b"UPDATE 1": StatementResult("UPDATE 0", 0, None, b"", ())})
    answer(world, number)
    assert errors_of(world) == {"expectation": 1}
    backend = world.running(world.query())
    world.broker.completed(backend, Completion(TX_NONE, [StatementResult("SELECT 1", 1, None, None, ())]), world.now)
    assert errors_of(world) == {"expectation": 1, "result-too-large": 1}


def test_each_answer_of_a_lost_transaction_is_an_error() -> None:
    world = World(max_size=1)
    world.client()
    world.broker.lost(world.begin(5), Loss("gone"), world.now)
    world.query(1, "tx", lease=5)
    world.end(Commit, 5)
    world.end(Rollback, 5)
    assert errors_of(world, "tx") == {"transaction-lost": 2}, "a rollback of it is no error"


def test_what_is_refused_is_an_error_of_the_group_that_refuses_it() -> None:
    world = World(max_size=1, max_waiting=1)
    world.client()
    world.query(statement=b"SET client_encoding = latin1")
    world.query(group="unknown")
    assert errors_of(world) == {"usage": 1}
    for _ in range(3):
        world.query()
    assert errors_of(world) == {"usage": 1, "too-many-requests": 2}
    assert errors_of(world, "tx") == {}


def refused(world: World, group: str = "default") -> dict[str, Any]:
    found = world.broker.groups[group].stats
    assert found.refused == sum(found.refused_for.values())
    return {reason.value: count for reason, count in found.refused_for.items() if count}


def test_each_error_is_one_of_a_request_that_was_accepted_or_refused() -> None:
    """Else more of the requests might fail than there are."""
    world = World(max_size=1, max_waiting=1)
    world.client()
    world.broker.lost(world.begin(5), Loss("gone"), world.now)
    accepted = world.broker.groups["tx"].stats.requests
    world.query(1, "tx", lease=5)
    world.query(1, "tx", lease=5)
    world.end(Commit, 5)
    world.query(statement=b"SET client_encoding = latin1")
    world.query(statement=b"SET search_path = x")
    world.query(group="unknown")
    assert refused(world, "tx") == {"transaction_lost": 3}
    assert refused(world) == {"mistake": 2}
    for _ in range(3):
        world.query()
    assert refused(world) == {"mistake": 2, "max_waiting": 2}
    world.broker.drain(world.now)
    world.query(statement=b"SET client_encoding = latin1")
    world.query()
    assert world.broker.groups["tx"].stats.requests == accepted
    groups = world.broker.groups
    assert groups["tx"].stats.errors == groups["tx"].stats.refused
    assert groups["default"].stats.errors == groups["default"].stats.refused + 1, "one had been accepted, and waited"


def test_refusals_are_counted_by_their_reason() -> None:
    world = World(max_size=1, max_waiting=1)
    world.client()
    world.query()
    world.query()
    assert refused(world) == {"max_waiting": 1}
    world.broker.drain(world.now)
    world.query()
    assert refused(world) == {"max_waiting": 1, "draining": 1}


def test_what_is_refused_for_a_client_s_own_limits_is_counted_as_well() -> None:
    world = World(broker={"max_client_requests": 1})
    world.client()
    world.query()
    world.query()
    assert refused(world) == {"client_limit": 1}
    world = World(broker={"max_request_bytes": 4096, "max_buffered_bytes": 1048576})
    world.client()
    world.client(2)
    world.query(client=1, size=524289)
    world.query(client=2, size=524289)
    assert refused(world) == {"max_buffered_bytes": 1}
