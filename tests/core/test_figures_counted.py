"""What is counted beside requests: how long backends are held and connects take, classes of errors, refusals."""

from typing import Any

import pytest
from units import INSERT, answer, begin
from world import World, failure

from client.wire.limits import OPENS_SESSION
from client.wire.messages import TX_ACTIVE, TX_NONE, Commit, Release, Rollback
from poold.core.facts import Loss
from poold.core.stats import ERROR_CLASSES, NO_CLASS, OTHER_CLASS, USUAL_CLASSES, GroupStats, Use


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
    for sqlstate in ("23505", "23503", "40001", "ZZ123", "ABCDE", None):
        stats.count_error(sqlstate)
    assert stats.errors == 6
    assert {name: count for name, count in stats.errors_by_class.items() if count} == {
        NO_CLASS: 1,
        "23": 2,
        "40": 1,
        OTHER_CLASS: 2,
    }
    assert {*USUAL_CLASSES} - {NO_CLASS} < ERROR_CLASSES
    assert len(ERROR_CLASSES) < 50


def test_an_error_of_a_statement_has_its_class_and_a_lost_connection_none() -> None:
    world = World(max_size=1)
    world.client()
    first = world.query()
    world.connect_all()
    world.complete(world.running(first), reply=failure("42P01"))
    second = world.query(statement=b"UPDATE t SET a = 1")
    world.take()
    world.broker.lost(world.running(second), Loss("gone"), world.now)
    stats = world.broker.groups["default"].stats
    assert (stats.errors, stats.errors_by_class[NO_CLASS], stats.errors_by_class["42"]) == (2, 1, 1)


def refused(world: World) -> dict[str, Any]:
    found = world.broker.groups["default"].stats
    assert found.refused == sum(found.refused_for.values())
    return {reason.value: count for reason, count in found.refused_for.items() if count}


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
