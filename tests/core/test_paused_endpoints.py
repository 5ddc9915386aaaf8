"""Pauses of the one endpoint that a group may use: the group is paused by it, and whoever waits is told."""

from __future__ import annotations

import pytest
from test_pausing import OPERATOR, answer, pause
from test_roles import cluster, open_all, seen, tell
from world import World

from client.wire.messages import Failure, ResultMessage
from poold.core import effects
from poold.core.sections.wanted import QUEUE, Wanted


def state(made: World) -> str:
    return str(made.broker.snapshot(made.now)["groups"]["default"]["state"])


def assert_it_runs(made: World, request: int) -> None:
    """The group goes on, and serves the request that waited."""
    assert state(made) == "running"
    open_all(made)
    made.finish(request)
    assert isinstance(made.reply_to(request), ResultMessage)


@pytest.mark.parametrize(
    ("role", "endpoint", "others"),
    [
        ("primary", "a", "no other endpoint is a primary: b: a replica on timeline 1"),
        ("replica", "b", "no other endpoint is a replica: a: the primary on timeline 1"),
    ],
)
def test_a_group_whose_only_useful_endpoint_is_paused_is_paused(role: str, endpoint: str, others: str) -> None:
    made = cluster("a", "b", role=role, queue_timeout=3.0)
    made.client(OPERATOR)
    begun = made.query()
    open_all(made)
    number = pause(made, endpoint=endpoint)
    assert state(made) == "pausing"
    made.finish(begun)
    assert answer(made, number)["paused"] is True
    assert state(made) == "paused"
    request = made.query()
    made.pass_time(3.1)
    told = made.reply_to(request)
    assert isinstance(told, Failure)
    assert (told.kind, told.outcome) == ("pool-timeout", "not executed")
    assert told.message.startswith(
        f"endpoint {endpoint} of group 'default' was paused by an operator, and not resumed within 3"
    )
    assert told.message.endswith(others)
    request = made.query()
    made.ask("resume", endpoint=endpoint)
    assert_it_runs(made, request)


def test_it_goes_on_where_another_one_becomes_useful() -> None:
    made = cluster("a", "b")
    made.client(OPERATOR)
    pause(made, endpoint="a")
    assert state(made) == "paused"
    request = made.query()
    tell(made, b=seen(2, started="b"))
    assert_it_runs(made, request)


def test_a_paused_endpoint_of_another_role_pauses_nothing() -> None:
    made = cluster("a", "b")
    made.client(OPERATOR)
    pause(made, endpoint="b")
    assert state(made) == "running"


def test_a_group_whose_primary_is_drained_is_drained() -> None:
    made = cluster("a", "b")
    made.client(OPERATOR)
    request = made.query()
    open_all(made)
    made.ask("drain", OPERATOR, endpoint="a")
    assert state(made) == "draining"
    made.finish(request)
    assert state(made) == "drained"
    made.ask("resume")
    assert state(made) == "running"


def test_where_the_others_are_away_that_and_the_pause_are_told() -> None:
    made = World(("one", "two"), queue_timeout=3.0)
    made.client()
    made.client(OPERATOR)
    pause(made, endpoint="one")
    request = made.query()
    while connects := [each for each in made.taken(effects.Connect) if each.backend in made.broker.backends]:
        for each in connects:
            made.broker.connect_failed(each.backend, "refused", made.now)
        made.take()
    assert state(made) == "running"
    shown = made.broker.snapshot(made.now, wanted=Wanted((QUEUE,)))["queue"][0]["why"]
    assert shown.startswith("endpoint two is away: refused")
    assert shown.endswith("; endpoint one is paused")
    made.pass_time(3.1)
    told = made.reply_to(request)
    assert isinstance(told, Failure)
    assert "no endpoint of group 'default' could be reached within 3" in told.message
    assert told.message.endswith("two: refused; endpoint one is paused by an operator")
