"""How backends are opened, spread, retired and reconnected."""

import itertools

import pytest
from world import World

from poold.core import effects
from poold.core.facts import Loss
from poold.core.pools import availability, janitor, pool
from poold.core.pools.availability import Availability, AvailabilityState
from poold.core.pools.janitor import REPLACE_AHEAD
from poold.core.records.client import NOBODY
from poold.core.records.request import Request, Verb
from poold.core.state import REQUEST_TRANSITIONS, TRANSITIONS, RequestState
from poold.core.state import BackendState as S


def sizes(world: World, group: str = "default") -> dict[str, int]:
    return {each.endpoint.name: each.size for each in world.broker.groups[group].pools}


def connecting(world: World, name: str) -> list[int]:
    backends = world.broker.backends.values()
    return [b.number for b in backends if b.state is S.CONNECTING and b.pool.endpoint.name == name]


def answer_connects(world: World, down: set[str]) -> None:
    """Every connect under way succeeds, or fails where its endpoint is down."""
    for backend in list(world.broker.backends.values()):
        if backend.state is S.CONNECTING and backend.number in world.broker.backends:
            if backend.pool.endpoint.name in down:
                world.broker.connect_failed(backend.number, "connection refused", world.now)
            else:
                world.broker.opened(backend.number, world.now)
    world.take()


def run_for(world: World, seconds: float, down: set[str]) -> None:
    """Time passes in small steps; connects are answered as they come."""
    for _ in range(round(seconds / 0.05)):
        answer_connects(world, down)
        world.pass_time(0.05)
    answer_connects(world, down)


def test_start_opens_min_size_of_each_group_few_at_a_time() -> None:
    world = World(start=False, min_size=5, max_size=8)
    world.broker.start(world.now)
    assert len(world.taken(effects.Connect)) == 2 * pool.CONNECTING_LIMIT, "two groups"
    world.connect_all()
    assert sizes(world) == {"main": 5}
    assert world.broker.groups["default"].count(S.IDLE) == 5


def test_a_hundred_waiting_requests_open_a_few_connections_at_a_time() -> None:
    world = World(max_size=50)
    world.client()
    for _ in range(100):
        world.query()
    while opening := connecting(world, "main"):
        assert len(opening) <= pool.CONNECTING_LIMIT
        world.broker.opened(opening[0], world.now)
    assert sizes(world) == {"main": 50}


def test_no_backend_is_opened_for_a_request_that_those_being_opened_already_cover() -> None:
    world = World(max_size=8)
    world.client()
    world.query()
    assert len(connecting(world, "main")) == 1


def test_backends_are_spread_over_the_endpoints_in_turn() -> None:
    world = World(("a", "b", "c"), min_size=7, max_size=8)
    run_for(world, 0.1, down=set())
    assert sizes(world) == {"a": 3, "b": 2, "c": 2}


def test_requests_take_turns_over_the_endpoints() -> None:
    world = World(("a", "b"), min_size=2, max_size=2)
    run_for(world, 0.1, down=set())
    world.client()
    used = []
    for _ in range(4):
        request = world.query()
        backend = world.broker.backends[world.running(request)]
        used.append(backend.pool.endpoint.name)
        world.finish(request)
    assert used in (["a", "b", "a", "b"], ["b", "a", "b", "a"])


def test_the_backend_used_last_is_used_again() -> None:
    world = World(min_size=3, max_size=3)
    world.connect_all()
    world.client()
    backends = set()
    for _ in range(5):
        request = world.query()
        backends.add(world.running(request))
        world.finish(request)
    assert len(backends) == 1


def test_an_endpoint_that_is_down_leaves_its_share_to_the_others() -> None:
    world = World(("a", "b"), min_size=4, max_size=4)
    run_for(world, 0.1, down={"b"})
    assert sizes(world)["a"] == 4


def test_an_endpoint_that_comes_back_gets_its_share_back() -> None:
    world = World(("a", "b"), min_size=4, max_size=4)
    run_for(world, 5.0, down={"b"})
    assert sizes(world) == {"a": 4, "b": 0}
    run_for(world, 30.0, down=set())
    assert sizes(world) == {"a": 2, "b": 2}


def test_a_full_group_makes_room_for_an_endpoint_that_comes_back_even_when_always_busy() -> None:
    world = World(("a", "b"), min_size=0, max_size=2)
    world.client()
    requests = [world.query() for _ in range(2)]
    run_for(world, 0.2, down={"b"})
    assert sizes(world) == {"a": 2, "b": 0}
    for _ in range(400):
        running = [request for request in requests if not world.is_answered(request)]
        world.finish(running[0])
        requests.append(world.query())
        run_for(world, 0.05, down=set())
    assert sizes(world) == {"a": 1, "b": 1}


def test_a_probe_that_fails_costs_the_others_one_backend_at_most() -> None:
    world = World(("a", "b"), min_size=4, max_size=4)
    run_for(world, 60.0, down={"b"})
    assert sizes(world)["a"] >= 3
    closed = world.taken(effects.Close)
    probes = sum(group.pools[1].availability.failures for group in world.broker.groups.values())
    assert 0 < len(closed) <= probes
    assert probes < 30, "of two groups: the pauses between them grow"


def test_an_endpoint_is_tried_again_after_growing_pauses() -> None:
    world = World(min_size=1, max_size=1)
    tried: list[float] = []
    for _ in range(3000):
        if opening := [b.number for b in world.broker.groups["default"].pools[0].connecting.values()]:
            tried.append(world.now)
            world.broker.connect_failed(opening[0], "refused", world.now)
        world.pass_time(0.01)
    pauses = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert pauses[0] == pytest.approx(availability.FIRST_PAUSE, abs=0.02)
    assert all(later > earlier * 1.5 for earlier, later in itertools.pairwise(pauses[:6]))


def test_the_pause_has_an_upper_bound_and_jitter() -> None:
    pauses = []
    for chance in (0.0, 0.999):
        away = Availability()
        for _ in range(2000):
            away.failed("x", 0.0, chance)
            away.probe()
        pauses.append(away.until)
    shortest, longest = pauses
    assert shortest == pytest.approx(availability.LONGEST_PAUSE * (1 - availability.JITTER))
    assert longest == pytest.approx(availability.LONGEST_PAUSE * (1 + availability.JITTER), rel=0.01)


def test_connects_that_fail_together_lengthen_the_pause_once() -> None:
    away = Availability()
    assert away.failed("first", 0.0, 0.5)
    assert not away.failed("second", 0.0, 0.5)
    assert (away.failures, away.error) == (1, "second")


def test_connects_that_fail_together_are_each_replaced_elsewhere() -> None:
    world = World(["a", "b"], min_size=4, max_size=4)
    group = world.broker.groups["default"]
    for number in list(group.pools[1].connecting):
        world.broker.opened(number, world.now)
    for number in list(group.pools[0].connecting):
        world.broker.connect_failed(number, "refused", world.now)
    assert [(pool.size, len(pool.connecting)) for pool in group.pools] == [(0, 0), (4, 2)]


def test_a_connect_that_succeeds_ends_the_quarantine() -> None:
    away = Availability()
    away.failed("x", 0.0, 0.5)
    assert away.opened()
    assert away.state is AvailabilityState.AVAILABLE
    assert not away.opened()


def test_one_connect_at_a_time_probes_an_endpoint() -> None:
    world = World(max_size=8)
    world.client()
    for _ in range(8):
        world.query()
    for number in connecting(world, "main"):
        world.broker.connect_failed(number, "refused", world.now)
    world.pass_time(0.2)
    assert len(connecting(world, "main")) == 1


def test_a_connect_that_hangs_is_given_up_after_connect_timeout() -> None:
    world = World(endpoint_settings={"connect_timeout": 3.0})
    world.client()
    world.query()
    (number,) = connecting(world, "main")
    world.pass_time(3.0)
    assert world.taken(effects.Close)[0].backend == number
    assert world.broker.groups["default"].pools[0].availability.failures == 1


def test_one_groups_failed_connects_do_not_quarantine_the_endpoint_for_another() -> None:
    world = World()
    world.client()
    world.query(group="tx", lease=1, begin=True)
    world.broker.connect_failed(connecting(world, "main")[0], "PrepareQueries failed", world.now)
    world.query()
    assert len(connecting(world, "main")) == 1


def test_idle_backends_above_min_size_are_closed_after_max_idle() -> None:
    world = World(min_size=1, max_size=3, max_idle=60.0)
    world.client()
    requests = [world.query() for _ in range(3)]
    world.connect_all()
    for request in requests:
        world.finish(request)
    assert sizes(world) == {"main": 3}
    world.pass_time(60.0 + 2 * janitor.INTERVAL)
    assert sizes(world) == {"main": 1}
    assert [close.reason for close in world.taken(effects.Close)] == ["max_idle"] * 2


def test_a_backend_is_replaced_when_its_lifetime_is_over_even_if_it_never_idles_for_long() -> None:
    world = World(min_size=1, max_size=1, max_lifetime=100.0, chance=0.0)
    world.connect_all()
    world.client()
    for _ in range(105):
        world.finish(world.query())
        world.pass_time(1.0)
        world.connect_all()
    assert [close.reason for close in world.taken(effects.Close) if close.reason == "max_lifetime"]
    assert sizes(world) == {"main": 1}


def test_an_old_backend_stays_until_its_replacement_is_there() -> None:
    world = World(min_size=1, max_size=2, max_lifetime=100.0, chance=0.0)
    group = world.broker.groups["default"]
    world.connect_all()
    (old,) = group.pools[0].idle
    world.pass_time(100.0 - REPLACE_AHEAD - janitor.INTERVAL)
    assert group.size == 1
    world.pass_time(2 * janitor.INTERVAL)
    assert (group.count(S.IDLE), group.count(S.CONNECTING)) == (1, 1)
    world.pass_time(REPLACE_AHEAD + 2.0)
    assert world.now > 100.0
    assert group.pools[0].idle.keys() == {old}, "the replacement takes long"
    world.connect_all()
    world.pass_time(janitor.INTERVAL)
    closed = [each.backend for each in world.taken(effects.Close) if each.reason == "max_lifetime"]
    assert old in closed
    assert (group.count(S.IDLE), group.size) == (1, 1)


def test_backends_that_grow_old_together_are_all_replaced() -> None:
    world = World(min_size=2, max_size=4, max_lifetime=100.0, chance=0.0)
    group = world.broker.groups["default"]
    world.connect_all()
    old = set(group.pools[0].idle)
    for _ in range(110):
        world.pass_time(1.0)
        assert group.count(S.IDLE) >= 2
        assert group.size <= 4
        world.connect_all()
    assert not old & set(group.pools[0].idle)
    assert group.size == 2
    assert group.pools[0].outdated == 0


def test_an_old_backend_awaits_its_replacement_although_the_broker_stood_still_until_its_end() -> None:
    world = World(min_size=1, max_size=2, max_lifetime=100.0, chance=0.0)
    group = world.broker.groups["default"]
    world.connect_all()
    world.client()
    request = world.query()
    old = world.running(request)
    world.now += 101.0
    world.finish(request)  # comes before the tick, which is due as well
    assert group.pools[0].idle.keys() == {old}
    world.pass_time(0.0)
    assert (group.count(S.IDLE), group.count(S.CONNECTING)) == (1, 1)
    world.connect_all()
    world.pass_time(janitor.INTERVAL)
    assert (group.count(S.IDLE), group.size) == (1, 1)
    assert old not in group.pools[0].idle


def test_backends_that_are_old_together_do_not_all_go_at_once() -> None:
    world = World(min_size=2, max_size=6, max_lifetime=100.0, chance=0.0)
    pool = world.broker.groups["default"].pools[0]
    world.client()
    requests = [world.query() for _ in range(4)]
    world.connect_all()
    for request in requests:
        world.finish(request)
    assert len(pool.idle) == 4
    world.now += 101.0  # the broker stood still
    world.pass_time(0.0)
    assert (len(pool.idle), len(pool.connecting)) == (2, 2)


def test_backends_of_a_full_pool_that_are_old_together_are_replaced_one_by_one() -> None:
    world = World(min_size=2, max_size=2, max_lifetime=100.0, chance=0.0)
    pool = world.broker.groups["default"].pools[0]
    world.connect_all()
    old = set(pool.idle)
    for _ in range(110):
        world.pass_time(1.0)
        assert pool.idle
        world.connect_all()
    assert not old & set(pool.idle)


def test_where_another_pool_has_the_groups_room_an_old_backend_is_closed_first() -> None:
    never = {"query_timeout": 0.0}
    world = World(["a", "b"], min_size=1, max_size=3, max_lifetime=100.0, chance=0.0, endpoint_settings=never)
    world.client()
    requests = [world.query(), world.query(), world.query()]
    run_for(world, 1.0, down={"a"})
    run_for(world, 1.0, down=set())
    world.finish(requests[0])
    run_for(world, 1.0, down=set())
    assert sizes(world) == {"a": 1, "b": 2}, "more than its share, and busy"
    pool = world.broker.groups["default"].pools[0]
    (old,) = pool.idle
    world.pass_time(100.0)
    assert (list(pool.idle), len(pool.connecting)) == ([], 1), f"nothing could be opened while {old} stayed"


def test_where_no_backend_can_be_opened_an_old_one_is_closed_first() -> None:
    world = World(min_size=1, max_size=2, max_lifetime=100.0, chance=0.0)
    group = world.broker.groups["default"]
    world.connect_all()
    world.pass_time(100.0 - REPLACE_AHEAD + 1.0)
    for _ in range(round(REPLACE_AHEAD / 0.01)):
        answer_connects(world, down={"main"})
        world.pass_time(0.01)
    assert not group.pools[0].open
    assert {close.reason for close in world.taken(effects.Close)} == {"max_lifetime"}


def test_one_refused_connect_does_not_freeze_a_pool_whose_backends_work() -> None:
    world = World(max_size=6, queue_timeout=30.0)
    world.client()
    for _ in range(2):
        world.query()
    world.connect_all()
    for _ in range(6):
        world.query()
    run_for(world, 10.0, down={"main"})
    assert sizes(world)["main"] in (2, 3), "those that work, and one that tries"
    run_for(world, availability.LONGEST_PAUSE_BESIDE * 2, down=set())
    assert sizes(world) == {"main": 6}


def test_who_waits_while_backends_work_is_told_that_none_became_free() -> None:
    world = World(max_size=2, queue_timeout=3.0)
    world.client()
    world.query()
    world.connect_all()
    waiting = world.query()
    run_for(world, 4.0, down={"main"})
    (answer,) = [reply.body for reply in world.taken(effects.Reply) if reply.body.request == waiting]
    assert answer.kind == "pool-timeout"
    assert "connection refused" in answer.message


def test_an_endpoint_that_refuses_more_keeps_what_is_open_and_leaves_the_rest_to_others() -> None:
    world = World(("a", "b"), min_size=0, max_size=6, endpoint_settings={"query_timeout": 0.0})
    world.client()
    for _ in range(4):
        world.query()
        run_for(world, 0.1, down=set())
    assert sizes(world) == {"a": 2, "b": 2}
    for _ in range(4):
        world.query()
    run_for(world, 10.0, down={"b"})
    pools = {pool.endpoint.name: pool.open for pool in world.broker.groups["default"].pools}
    assert pools["b"] == 2
    assert pools["a"] >= 3
    for backend in list(world.broker.groups["default"].pools[1].active):
        world.broker.lost(backend, Loss("gone"), world.now)
    run_for(world, 0.3, down={"b"})
    assert world.broker.groups["default"].pools[0].open >= 5, "what is lost there is made up for"


def test_a_backend_in_use_is_not_closed_for_its_age() -> None:
    world = World(min_size=0, max_size=1, max_lifetime=10.0, endpoint_settings={"query_timeout": 0.0})
    world.client()
    request = world.query()
    world.connect_all()
    world.pass_time(50.0)
    assert world.taken(effects.Close) == []
    world.finish(request)
    assert [close.reason for close in world.taken(effects.Close)] == ["max_lifetime"]


def test_lifetimes_of_backends_opened_together_differ() -> None:
    chances = iter((0.0, 0.9))
    world = World(start=False, min_size=2, max_lifetime=100.0)
    world.broker.agenda.chance = lambda: next(chances, 0.0)
    world.broker.start(0.0)
    numbers = [b.number for b in world.broker.groups["default"].pools[0].connecting.values()]
    for number in numbers:
        world.broker.opened(number, 0.0)
    first, second = (world.broker.backends[number].expires for number in numbers)
    assert first == 100.0
    assert second == pytest.approx(91.0)


def test_the_transition_table_has_a_row_for_each_state_and_lets_nothing_leave_closed() -> None:
    assert len(TRANSITIONS) == len(S)
    assert TRANSITIONS[S.CLOSED] == ()
    world = World(min_size=1)
    backend = next(iter(world.broker.backends.values()))
    with pytest.raises(AssertionError, match="cannot become leased"):
        backend.pool.move(backend, S.LEASED)


@pytest.mark.parametrize("state", RequestState)
def test_a_request_goes_only_where_its_table_lets_it(state: RequestState) -> None:
    request = Request(NOBODY, 0, World().broker.groups["default"], Verb.QUERY, 0.0)
    request.state = state
    assert len(REQUEST_TRANSITIONS) == len(RequestState)
    assert request.is_waiting is (state < RequestState.RUNNING)
    for wrong in set(RequestState) - set(REQUEST_TRANSITIONS[state]):
        with pytest.raises(AssertionError, match=f"cannot become {wrong.name.lower()}"):
            request.become(wrong)
    for right in REQUEST_TRANSITIONS[state]:
        request.state = state
        request.become(right)
        assert request.state is right
