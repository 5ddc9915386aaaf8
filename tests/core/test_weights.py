"""How work is shared out over endpoints: by weight, and less to those that are slow."""

from collections import Counter

import pytest
from world import World

from poold.core.pools.routing import whose_turn


def world_of(weights: dict[str, float], **over: object) -> World:
    """A world whose endpoints are equals with these weights, all backends open."""
    world = World(list(weights), role="any", start=False, **{"min_size": 20, "max_size": 20, **over})  # type: ignore[arg-type]
    for name, weight in weights.items():
        world.broker.endpoints[name].weight = weight
    for group in world.broker.groups.values():
        group.respread()
    world.broker.start(world.now)
    world.client()
    world.connect_all()
    return world


def served(world: World, count: int, at_once: int = 1) -> Counter[str]:
    """Run so many requests, at_once at a time, each as fast as the others; where they ran."""
    where: Counter[str] = Counter()
    for _ in range(count // at_once):
        requests = [world.query() for _ in range(at_once)]
        for request in requests:
            where[world.broker.backends[world.running(request)].pool.endpoint.name] += 1
        for request in requests:
            world.finish(request)
        world.take()
    return where


@pytest.mark.parametrize("at_once", [1, 3, 12])
@pytest.mark.parametrize(
    "weights", [{"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 5, "b": 3, "c": 2}, {"a": 0.5, "b": 0.1}]
)
def test_shares_are_in_proportion_to_weights(weights: dict[str, float], at_once: int) -> None:
    where = served(world_of(weights), 1200, at_once)
    for name, weight in weights.items():
        assert where[name] / 1200 == pytest.approx(weight / sum(weights.values()), abs=0.05)


def test_backends_are_as_well() -> None:
    world = world_of({"a": 3, "b": 1})
    assert {pool.endpoint.name: pool.size for pool in world.broker.groups["default"].pools} == {"a": 15, "b": 5}


def test_a_slow_endpoint_gets_less() -> None:
    """On b each request takes as long as eight on a."""
    world = world_of({"a": 1, "b": 1})
    slow: list[tuple[int, int]] = []
    where: Counter[str] = Counter()
    for number in range(400):
        request = world.query()
        name = world.broker.backends[world.running(request)].pool.endpoint.name
        where[name] += 1
        if name == "b":
            slow.append((number + 8, request))
        else:
            world.finish(request)
        while slow and slow[0][0] <= number:
            world.finish(slow.pop(0)[1])
        world.take()
    assert where["b"] < 0.25 * where["a"]
    assert where["b"] > 0


def test_what_was_not_given_to_an_endpoint_is_not_made_up_for_later() -> None:
    world = world_of({"a": 1, "b": 1})
    pools = world.broker.groups["default"].pools
    for _ in range(50):
        assert whose_turn(pools[:1] + pools[:1]) is pools[0], "b cannot take any"
    chosen = [whose_turn(pools).endpoint.name for _ in range(10)]
    assert 3 <= chosen.count("b") <= 7


def test_an_endpoint_without_a_backend_gets_one_as_soon_as_there_is_work() -> None:
    """Else one idle backend elsewhere would do all of a single client's work for ever."""
    world = World(["a", "b"], role="any", min_size=1, max_size=4)
    world.client()
    world.connect_all()
    pools = world.broker.groups["default"].pools
    assert [pool.size for pool in pools] == [1, 0]
    request = world.query()
    world.connect_all()
    world.finish(request)
    assert [pool.size for pool in pools] == [1, 1]
    assert served(world, 100)["b"] == 50


def test_but_not_beyond_max_size() -> None:
    world = World(["a", "b"], role="any", min_size=1, max_size=1)
    world.client()
    world.connect_all()
    request = world.query()
    world.take()
    assert world.broker.groups["default"].size == 1
    world.finish(request)
