"""Event scripts of several clients' statements on one backend: who may join, whom a cancel hits, who comes next."""

from typing import Any

import pytest
from units import INSERT, SHORT, UNTRACKED, answer, promote, running, sent, sharing
from world import OK, World, failure

from client.wire.messages import Failure
from poold.core import effects
from poold.core.facts import Loss
from poold.core.pools.group import SHARING
from poold.core.state import BackendState as S
from poold.core.statements.statement import AHEAD_SECONDS, PATIENCE_SECONDS, PROBE_AFTER
from poold.core.work.time_limits import GUARD

SLOW = b"SELECT pg_sleep(1)"


def short(world: World, **over: Any) -> int:
    return world.query(statement=SHORT, **over)


def failed(world: World, request: int) -> Failure:
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    return reply


# Who may join.


def test_a_short_statement_joins_one_that_runs_and_each_gets_its_own_answer() -> None:
    world, backend, (first, second, third) = sharing(3)
    assert sent(world) == [[b"PREPARE " + SHORT, SHORT], [SHORT], [SHORT]]
    answer(world, backend)
    assert world.outcome(first) == OK
    answer(world, backend, fails=SHORT, error=failure("22012"))
    assert failed(world, second).sqlstate == "22012"
    answer(world, backend)
    assert world.outcome(third) == OK, "an error touches nobody else"
    assert world.state(backend) is S.IDLE
    assert world.broker.groups["default"].pools[0].stats.joined == 2


def two_idle(**settings: Any) -> World:
    """A world whose group has two idle backends."""
    world = World(prepare="auto", min_size=2, max_size=2, **settings)
    world.connect_all()
    world.client()
    promote(world, SHORT, is_short=True)
    return world


def loads(world: World) -> list[int]:
    """How many statements each backend of the group runs, the busiest first."""
    (pool,) = world.broker.groups["default"].pools
    return sorted((len(backend.running) for states in pool.members for backend in states.values()), reverse=True)


def test_an_idle_backend_is_used_before_a_busy_one() -> None:
    world = two_idle()
    for expected in ([1, 0], [1, 1], [2, 1]):
        short(world)
        world.take()
        assert loads(world) == expected


def test_the_backend_with_the_fewest_statements_is_joined() -> None:
    world = two_idle()
    for _ in range(8):
        short(world)
        world.take()
    assert loads(world) == [4, 4]


def test_some_short_statements_of_one_turn_share_a_backend_although_another_one_idles() -> None:
    world = two_idle()
    for _ in range(SHARING):
        short(world)
    assert loads(world) == [SHARING, 0]
    short(world)
    assert loads(world) == [SHARING, 1]


def test_who_joins_waits_no_longer_for_those_before_than_keeps_the_server_busy() -> None:
    world, backend, requests = sharing(1)
    statement = world.broker.groups["default"].statements.find(SHORT, b"")
    statement.mean = 0.4 * AHEAD_SECONDS
    joined = [short(world) for _ in range(2)]
    waiting = short(world)
    assert running(world, backend) == [*requests, *joined]
    answer(world, backend)
    assert running(world, backend) == [*joined, waiting]


def test_what_is_not_short_shares_no_turn() -> None:
    world = two_idle()
    world.query(statement=SLOW)
    short(world)
    assert loads(world) == [1, 1]


def test_a_turn_is_not_shared_beyond_pipeline_depth() -> None:
    world = two_idle(pipeline_depth=2)
    for _ in range(3):
        short(world)
    assert loads(world) == [2, 1]


def test_a_backend_that_was_lost_in_this_turn_is_not_shared() -> None:
    world = two_idle()
    first = short(world)
    world.broker.lost(world.running(first), Loss("reset"), world.now)
    second = short(world)
    assert world.running(first) == world.running(second)


def test_a_busy_backend_is_joined_before_another_one_is_opened() -> None:
    world, _, _ = sharing(2, max_size=2)
    assert len(world.taken(effects.Connect)) == 1


@pytest.mark.parametrize(
    ("group", "over"),
    [
        ("default", {"statement": SLOW}),
        ("default", {"statement": b"SELECT 'unknown'"}),
        ("default", {"statement": SHORT, "prepare": False}),
        ("tx", {"statement": SHORT, "lease": 1, "begin": True}),
    ],
)
def test_only_a_prepared_autocommit_statement_known_to_be_short_joins(group: str, over: dict[str, Any]) -> None:
    world, backend, requests = sharing(1)
    world.query(group=group, **over)
    assert running(world, backend) == requests


@pytest.mark.parametrize("sql", [SLOW, b"SELECT 'unknown'"])
def test_nobody_joins_what_is_not_known_to_be_short(sql: bytes) -> None:
    world = World(prepare="auto", max_size=1)
    world.client()
    promote(world, SHORT, is_short=True)
    promote(world, SLOW)
    first = world.query(statement=sql)
    world.connect_all()
    waiting = short(world)
    (backend,) = world.broker.backends
    assert running(world, backend) == [first]
    answer(world, backend)
    assert running(world, backend) == [waiting]


def test_nobody_joins_a_message() -> None:
    world, backend, _ = sharing(1, **UNTRACKED)
    answer(world, backend)
    message = world.transaction(INSERT)
    short(world)
    assert running(world, backend) == [message]


def test_nobody_joins_a_lease() -> None:
    world = World(prepare="auto", max_size=1, autocommit=False)
    world.client()
    promote(world, SHORT, is_short=True)
    first = short(world, lease=1, begin=True)
    world.connect_all()
    backend = world.running(first)
    short(world, lease=2, begin=True)
    assert running(world, backend) == [first]


def test_no_more_than_pipeline_depth_share_a_backend() -> None:
    world, backend, requests = sharing(3, pipeline_depth=3)
    waiting = short(world)
    assert running(world, backend) == requests
    answer(world, backend)
    assert running(world, backend) == [*requests[1:], waiting]


def test_a_pipeline_depth_of_one_is_no_company() -> None:
    world, backend, requests = sharing(1, pipeline_depth=1)
    waiting = short(world)
    assert running(world, backend) == requests
    answer(world, backend)
    assert running(world, backend) == [waiting]


def test_nobody_joins_a_statement_that_has_outlived_its_patience() -> None:
    world, backend, requests = sharing(1)
    world.now += 1.9 * PATIENCE_SECONDS
    requests.append(short(world))
    world.now += 0.2 * PATIENCE_SECONDS
    short(world)
    assert running(world, backend) == requests


def test_patience_counts_from_a_statements_own_turn() -> None:
    world, backend, requests = sharing(4)
    for _ in range(3):
        world.now += 1.2 * PATIENCE_SECONDS
        answer(world, backend)
    late = short(world)
    assert running(world, backend) == [requests[3], late]


def test_nobody_joins_while_a_statement_waits_to_be_probed() -> None:
    world, backend, requests = sharing(1)
    group = world.broker.groups["default"]
    other = group.statements.find(b"SELECT 'often'", b"")
    for _ in range(PROBE_AFTER):
        other.saw_columns(b"\0\0")
    group.probes.append(other)
    waiting = short(world)
    assert running(world, backend) == requests
    answer(world, backend)
    assert sent(world)[-1] == [b"PREPARE SELECT 'often'"]
    answer(world, backend)
    assert running(world, backend) == [waiting]


def test_nobody_joins_on_a_backend_that_is_to_be_replaced() -> None:
    world, backend, requests = sharing(1)
    world.broker.backends[backend].expires = world.now
    waiting = short(world)
    assert running(world, backend) == requests
    answer(world, backend)
    assert world.taken(effects.Close)[-1].backend == backend
    world.connect_all()
    assert world.running(waiting) != backend


def test_nobody_joins_on_a_backend_above_its_pools_share() -> None:
    world, backend, requests = sharing(2)
    pool = world.broker.backends[backend].pool
    pool.cap = 0  # another endpoint has come back
    short(world)
    assert running(world, backend) == requests


def test_nobody_joins_what_is_to_be_cancelled() -> None:
    world, backend, requests = sharing(2)
    world.broker.cancel(1, requests[0], world.now)
    short(world)
    assert running(world, backend) == requests
    world.broker.cancelled(backend, world.now)
    assert world.state(backend) is S.ACTIVE
    short(world)
    assert running(world, backend) == requests, "it was too early, another cancel will follow"


# Who comes next.


def test_nobody_overtakes_those_who_wait() -> None:
    world, backend, requests = sharing(1)
    slow, late = world.query(statement=SLOW), short(world)
    assert running(world, backend) == requests
    answer(world, backend)
    assert running(world, backend) == [slow]
    answer(world, backend)
    assert running(world, backend) == [late]


def test_a_pipeline_is_refilled_from_the_queue_in_order_up_to_what_cannot_join() -> None:
    world, backend, requests = sharing(2, pipeline_depth=2)
    waiting = [short(world), short(world), world.query(statement=SLOW), short(world)]
    answer(world, backend)
    assert running(world, backend) == [requests[1], waiting[0]]
    answer(world, backend)
    assert running(world, backend) == waiting[:2]
    answer(world, backend)
    assert running(world, backend) == [waiting[1]], "the slow one waits for a backend of its own"
    answer(world, backend)
    answer(world, backend)
    assert running(world, backend) == [waiting[3]]


def test_a_statement_that_is_taken_from_the_queue_has_its_own_time() -> None:
    world, backend, requests = sharing(2, pipeline_depth=2, endpoint_settings={"query_timeout": 5.0})
    world.pass_time(0.2)
    answer(world, backend)
    world.pass_time(5.0 + GUARD - 0.1)
    assert world.taken(effects.Cancel) == []
    world.pass_time(0.2)
    assert world.taken(effects.Cancel) == [effects.Cancel(backend)]
    assert running(world, backend) == requests[1:]
