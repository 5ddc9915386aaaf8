"""Event scripts of what the broker asks by itself: whether the catalogs have changed, and who waits for a lock."""

from typing import Any

import pytest
from units import PLAIN_READ, SHORT, UNTRACKED, promote, table
from world import OK, World, failure

from client.wire.messages import TX_NONE
from poold.core import effects
from poold.core.facts import Completion, Loss, Server
from poold.core.pools.watch import LOOK_AFTER, LOOK_TIMEOUT, pids
from poold.core.requests.runs import QUESTION_TIMEOUT
from poold.core.state import BackendState as S
from poold.core.statements.catalog import COUNTS


def generation(world: World) -> int:
    return world.broker.groups["default"].statements.generation


def asks(world: World) -> int:
    return sum(each.unit == (effects.Plain(COUNTS),) for each in world.taken(effects.Execute))


def watching(**over: Any) -> tuple[World, int]:
    """A world with one backend at rest, which knows the catalogs' counts and is asked for them."""
    world = World(prepare="auto", max_size=1, **{**UNTRACKED, **over})
    world.client()
    request = world.query()
    world.connect_all()
    backend = world.running(request)
    world.complete(backend)
    world.broker.backends[backend].pool.watch.catalogs = b"7"
    world.pass_time(1.5)
    assert asks(world) == 1
    return world, backend


def told(world: World, backend: int, counts: bytes) -> None:
    done = Completion(TX_NONE, [table({"sum": 1700}, [counts])])
    world.broker.completed(backend, done, world.now)


def test_a_generation_ends_when_the_counts_have_moved_and_only_then() -> None:
    world, backend = watching()
    before = generation(world)
    told(world, backend, b"7")
    assert generation(world) == before
    world.pass_time(1.0)
    told(world, backend, b"8")
    assert generation(world) == before + 1
    assert world.state(backend) is S.IDLE


def test_a_question_that_fails_ends_it_too() -> None:
    world, backend = watching()
    before = generation(world)
    world.broker.completed(backend, Completion(TX_NONE, [], failure("57014")), world.now)
    assert generation(world) == before + 1


def test_a_question_whose_backend_is_lost_is_asked_again() -> None:
    world, backend = watching()
    world.broker.lost(backend, Loss("reset"), world.now)
    world.query()
    world.connect_all()
    (other,) = world.broker.backends
    world.complete(other)
    world.pass_time(1.5)
    assert asks(world) == 2


def test_a_question_that_is_never_answered_is_given_up_without_a_query_timeout_as_well() -> None:
    world, backend = watching(endpoint_settings={"query_timeout": 0.0})
    world.pass_time(QUESTION_TIMEOUT)
    assert [each.backend for each in world.taken(effects.Close)] == [backend]


def test_a_backend_that_is_only_asked_has_idled_all_the_while() -> None:
    world, backend = watching(max_idle=5.0)
    for _ in range(5):
        told(world, backend, b"7")
        world.pass_time(1.0)
    if backend in world.broker.backends:
        told(world, backend, b"7")
        world.pass_time(1.0)
    assert backend not in world.broker.backends


def test_where_nobody_can_be_asked_the_oldest_head_runs_again_alone_and_gets_no_company() -> None:
    world = World(prepare="auto", max_size=1, **UNTRACKED)
    world.client()
    promote(world, SHORT, is_short=True, proof=PLAIN_READ)
    first = world.query(statement=SHORT)
    world.connect_all()
    second = world.query(statement=SHORT)
    (backend,) = world.broker.backends
    world.broker.backends[backend].server = Server(160000, pid=42)
    world.pass_time(LOOK_AFTER + LOOK_TIMEOUT + LOOK_AFTER)
    assert world.taken(effects.Cancel) == [effects.Cancel(backend)]
    world.broker.completed(backend, Completion(TX_NONE, [], failure("57014"), bound=1), world.now)
    assert not world.is_answered(first)
    world.broker.cancelled(backend, world.now)
    world.complete(backend)
    assert world.outcome(second) == OK
    told(world, backend, b"0")  # who waits: nobody any more
    assert world.running(first) == backend
    world.query(statement=SHORT)
    assert len(world.broker.backends[backend].running) == 1


OTHER = b"SELECT 2"  # not short, so it waits for a backend


def test_a_read_that_may_wait_for_a_lock_lets_those_that_wait_for_its_backend_go_first() -> None:
    world = World(prepare="auto", max_size=1, **UNTRACKED)
    world.client()
    promote(world, SHORT, is_short=True, proof=PLAIN_READ)
    promote(world, OTHER, proof=PLAIN_READ)
    read = world.query(statement=SHORT)
    world.connect_all()
    (backend,) = world.broker.backends
    world.broker.backends[backend].server = Server(160000, pid=42)
    for cancels, times in enumerate((1, 2, 4)):
        waiting = world.query(statement=OTHER)
        assert world.running(read) == backend
        world.pass_time(times * LOOK_TIMEOUT - LOOK_AFTER)
        assert len(world.taken(effects.Cancel)) == cancels, "each time it may take twice as long"
        world.pass_time(2 * LOOK_AFTER + LOOK_TIMEOUT)
        assert len(world.taken(effects.Cancel)) == cancels + 1
        world.broker.completed(backend, Completion(TX_NONE, [], failure("57014"), bound=1), world.now)
        world.broker.cancelled(backend, world.now)
        told(world, backend, b"0")  # who waits: nobody any more
        assert not world.is_answered(read)
        assert world.running(waiting) == backend
        world.complete(backend)
        assert world.outcome(waiting) == OK
    world.complete(backend)
    assert world.outcome(read) == OK


def test_a_read_for_which_nobody_waits_is_let_be() -> None:
    world = World(prepare="auto", max_size=1, **UNTRACKED)
    world.client()
    promote(world, SHORT, is_short=True, proof=PLAIN_READ)
    world.query(statement=SHORT)
    world.connect_all()
    world.pass_time(3.0)
    assert world.taken(effects.Cancel) == []


def test_a_write_and_a_read_that_is_slow_by_itself_are_not_cancelled_for_those_that_wait() -> None:
    for is_slow in (True, False):
        world = World(prepare="auto", max_size=1, **UNTRACKED)
        world.client()
        statement = promote(world, SHORT, is_short=False, proof=PLAIN_READ) if is_slow else None
        if statement is not None:
            statement.expected = 1.0
        world.query(statement=SHORT if is_slow else b"UPDATE t SET a = 1")
        world.connect_all()
        world.query(statement=SHORT)
        (backend,) = world.broker.backends
        world.broker.backends[backend].server = Server(160000, pid=42)
        world.pass_time(3.0)
        assert world.taken(effects.Cancel) == []


@pytest.mark.parametrize(
    "rows", [b"D\0\0\0\6\0\0", b"D\0\0\0\x0b\0\1\0\0\0\1x", b"D", b"D\0\0\0\0", b"D\xff\xff\xff\xff\0\1\0\0\0\1"]
)
def test_who_waits_is_nobody_where_the_answer_is_none(rows: bytes) -> None:
    assert pids(rows) == set()
