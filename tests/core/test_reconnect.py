"""`poold reconnect`: all backends are closed as they come to rest, and nobody notices."""

from __future__ import annotations

from typing import Any

import pytest
from world import World

from client.wire.messages import TX_ACTIVE, TX_NONE, Commit, Failure, ResultMessage
from poold.core import effects
from poold.core.broker import Broker
from poold.core.state import BackendState as S


def closed(world: World) -> list[int]:
    return [each.backend for each in world.taken(effects.Close) if each.reason == "reconnect"]


def test_idle_backends_are_closed_at_once_and_min_size_is_kept() -> None:
    world = World(min_size=2)
    world.connect_all()
    answer = world.ask("reconnect")
    assert answer == {"groups": ["default", "tx"], "endpoint": None, "closed": 4, "closing": 0}
    assert len(closed(world)) == 4
    world.connect_all()
    assert [group.count(S.IDLE) for group in world.broker.groups.values()] == [2, 2]


def test_what_runs_ends_first() -> None:
    world = World()
    world.client()
    request = world.query()
    world.connect_all()
    backend = world.running(request)
    assert world.ask("reconnect", group="default")["closing"] == 1
    assert closed(world) == []
    world.finish(request)
    assert isinstance(world.reply_to(request), ResultMessage)
    assert closed(world) == [backend]


def test_a_lease_keeps_its_backend_to_its_end() -> None:
    world = World()
    world.client()
    backend = world.begin(1)
    world.ask("reconnect")
    second = world.query(group="tx", lease=1)
    assert world.running(second) == backend
    world.complete(backend, TX_ACTIVE)
    assert closed(world) == []
    commit = world.end(Commit, 1)
    world.complete(backend, TX_NONE, command="COMMIT")
    assert isinstance(world.reply_to(commit), ResultMessage)
    assert closed(world) == [backend]


def test_what_is_being_opened_is_opened_once_more() -> None:
    world = World()
    world.client()
    request = world.query()
    first = next(iter(world.broker.backends))
    world.ask("reconnect")
    world.broker.opened(first, world.now)
    assert closed(world) == [first]
    world.connect_all()
    assert world.running(request) != first


def test_nothing_joins_a_backend_that_is_to_be_closed() -> None:
    world = World(max_size=1)
    world.client()
    first = world.query()
    world.connect_all()
    world.ask("reconnect")
    second = world.query()
    backend = world.running(first)
    world.finish(first)
    world.connect_all()
    assert world.running(second) != backend


def test_a_backend_that_is_opened_later_stays() -> None:
    world = World(min_size=1)
    world.connect_all()
    world.ask("reconnect")
    world.connect_all()
    before = set(world.broker.backends)
    world.pass_time(5.0)
    assert set(world.broker.backends) == before


def test_only_the_endpoint_that_is_named() -> None:
    world = World(("one", "two"), min_size=2)
    world.connect_all()
    assert world.ask("reconnect", endpoint="two", group=["tx"])["closed"] == 1
    assert len(closed(world)) == 1
    assert [pool.size for pool in world.broker.groups["default"].pools] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"group": "no such"}, "there is no group 'no such'; there are default, tx"),
        ({"group": ["tx", "no such"]}, "there is no group 'no such'; there are default, tx"),
        ({"endpoint": "no such"}, "there is no endpoint 'no such'; there are main"),
        ({"endpoint": ["main", "main"]}, "endpoint is given 2 times; give it once"),
        ({"endpoint": ""}, "the endpoint of reconnect is an empty text; give a value, or leave it out"),
        ({"group": ["tx", ""]}, "the group of reconnect is an empty text; give a value, or leave it out"),
        ({"force": "yes"}, "reconnect has no 'force'; it has group, endpoint"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(arguments: dict[str, Any], text: str) -> None:
    world = World(min_size=1)
    world.connect_all()
    told = world.ask("reconnect", **arguments)
    assert isinstance(told, Failure)
    assert (told.kind, told.outcome, told.message) == ("usage", "not executed", text)
    assert closed(world) == []


def test_an_endpoint_that_a_group_does_not_use_is_an_error_only_if_the_group_is_named() -> None:
    world = World(("one", "two"))
    config = world.config.groups
    config["tx"] = config["tx"].__class__(endpoints=("one",), role="any")
    world.broker = Broker(world.config, lambda: 0.5)
    told = world.ask("reconnect", endpoint="two", group="tx")
    assert isinstance(told, Failure)
    assert told.message == "group 'tx' does not use endpoint 'two'; it has one"
    assert world.ask("reconnect", endpoint="two")["groups"] == ["default"]
