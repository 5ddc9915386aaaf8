"""`poold drain`: as a pause, and no backend is left; of the whole broker, which stays and takes no work."""

from __future__ import annotations

from typing import Any

from test_roles import cluster, roles, seen, tell
from world import World

from client.wire.messages import TX_NONE, Answer, Commit, Failure, ResultMessage
from poold.core import effects
from poold.core.state import BrokerState


def told(world: World, number: int) -> dict[str, Any]:
    reply = world.reply_to(number)
    assert isinstance(reply, Answer)
    return reply.body


def test_a_drained_group_has_no_backends_and_opens_none() -> None:
    world = World(min_size=2)
    world.client()
    world.connect_all()
    number = world.ask("drain", group="default", timeout=5)
    answer = told(world, number)
    assert (answer["drained"], answer["groups"], answer["endpoint"]) == (True, ["default"], None)
    assert {each.reason for each in world.taken(effects.Close)} == {"it is drained"}
    waiting = world.query()
    world.pass_time(2.0)
    assert world.broker.groups["default"].size == 0
    assert world.broker.groups["tx"].size == 2
    assert world.broker.snapshot(world.now)["groups"]["default"]["state"] == "drained"
    world.ask("resume", group="default")
    world.connect_all()
    assert world.running(waiting)


def test_what_runs_ends_first_and_what_is_being_opened_is_given_up() -> None:
    world = World()
    world.client()
    running = world.query()
    world.connect_all()
    second = world.query()
    number = world.ask("drain", group="default", timeout=5)
    assert not world.is_answered(number)
    assert world.broker.groups["default"].size == 1
    assert world.broker.snapshot(world.now)["groups"]["default"]["state"] == "draining"
    world.finish(running)
    assert told(world, number)["drained"] is True
    assert not world.is_answered(second)


def test_a_drain_that_takes_too_long_is_undone_and_names_who_holds_what() -> None:
    world = World()
    world.client()
    backend = world.begin(1)
    number = world.ask("drain", group="tx", timeout=1)
    world.pass_time(1.1)
    answer = told(world, number)
    assert answer["drained"] is False
    assert [(each["what"], each["client"]) for each in answer["busy"]] == [("transaction", 1)]
    assert not world.broker.groups["tx"].is_paused
    commit = world.end(Commit, 1)
    world.complete(backend, TX_NONE, command="COMMIT")
    assert isinstance(world.reply_to(commit), ResultMessage)


def test_the_other_endpoints_do_the_part_of_a_drained_one() -> None:
    world = World(("a", "b"), min_size=2, max_size=2)
    world.client()
    world.connect_all()
    number = world.ask("drain", endpoint="a", timeout=5)
    assert told(world, number)["drained"] is True
    world.connect_all()
    assert [pool.size for pool in world.broker.groups["default"].pools] == [0, 2]
    assert world.ask("resume", endpoint="a")["groups"] == ["default", "tx"]
    world.connect_all()
    assert world.broker.groups["default"].pools[0].cap == 1


def test_a_drained_primary_is_not_asked_what_it_is_until_it_is_resumed() -> None:
    world = cluster("a", "b")
    world.connect_all()
    number = world.ask("drain", endpoint="a", timeout=5)
    assert told(world, number)["drained"] is True
    assert effects.Leave("a") in world.effects
    tell(world, b=seen(started="b", standby=True))
    world.effects.clear()
    world.pass_time(3.0)
    asked = [each.endpoint for each in world.taken(effects.Observe)]
    assert "a" not in asked
    assert "b" in asked
    assert (roles(world)["a"], world.broker.endpoints["a"].why) == ("unknown", "an operator has drained it")
    waiting = world.query()
    world.ask("resume", endpoint="a")
    world.pass_time(0.1)
    assert effects.Observe("a", world.taken(effects.Observe)[-1].question) in world.effects
    tell(world, a=seen(started="a"))
    world.connect_all()
    assert world.running(waiting)


def test_an_endpoint_that_somebody_uses_is_asked_on() -> None:
    world = cluster("a", "b")
    world.connect_all()
    number = world.ask("drain", group="tx", timeout=5)
    assert told(world, number)["drained"] is True
    assert not world.taken(effects.Leave)
    assert roles(world)["a"] == "primary"


def test_a_group_that_comes_to_a_drained_endpoint_opens_nothing_there() -> None:
    world = World(("a", "b"), min_size=1)
    world.client()
    told(world, world.ask("drain", endpoint="a", timeout=5))
    world.reconfigure(groups={"extra": {"min_size": 2}})
    world.connect_all()
    assert [pool.size for pool in world.broker.groups["extra"].pools] == [0, 2]


def test_a_group_with_a_role_that_comes_where_another_is_drained_has_its_endpoints_asked() -> None:
    world = cluster("a", "b")
    world.connect_all()
    for group in ("default", "tx"):
        told(world, world.ask("drain", group=group, timeout=5))
    assert world.broker.endpoints["a"].is_resting
    world.effects.clear()
    world.reconfigure(groups={"extra": {}})
    assert {each.endpoint for each in world.taken(effects.Observe)} == {"a", "b"}


def test_a_drained_broker_refuses_what_comes_and_waits_as_unserved_and_stays() -> None:
    world = World(max_size=1)
    world.client()
    running = world.query()
    world.connect_all()
    waiting = world.query()
    number = world.ask("drain", timeout=5)
    for refused in (world.reply_to(waiting), world.outcome(world.query()), world.outcome(world.transaction())):
        assert isinstance(refused, Failure)
        assert (refused.kind, refused.outcome) == ("unserved", "not executed")
        assert "drained" in refused.message
    world.finish(running)
    assert told(world, number)["drained"] is True
    assert world.broker.state is BrokerState.DRAINED
    assert not world.broker.backends
    assert world.broker.snapshot(world.now)["state"] == "drained"
    world.pass_time(100.0)
    assert not world.taken(effects.Stop)
    refused = world.ask("resume", group="default")
    assert "whole broker is drained" in refused.message
    world.ask("resume")
    assert world.broker.state is BrokerState.RUNNING
    again = world.query()
    world.connect_all()
    assert world.running(again)


def test_a_drain_of_the_broker_that_fails_opens_it_again() -> None:
    world = World()
    world.client()
    world.begin(1)
    number = world.ask("drain", timeout=1)
    world.pass_time(1.1)
    assert told(world, number)["drained"] is False
    assert world.broker.state is BrokerState.RUNNING
    request = world.query()
    world.connect_all()
    assert world.running(request)


def test_a_drained_broker_can_be_stopped() -> None:
    world = World()
    world.client()
    told(world, world.ask("drain", timeout=5))
    world.broker.drain(world.now)
    assert isinstance(world.take()[-1], effects.Stop)
