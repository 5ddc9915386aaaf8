"""`poold pause` and `poold resume`: nothing begins, what runs comes to its end, nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest
from world import World

from client.wire.messages import TX_ACTIVE, TX_NONE, Answer, Commit, Failure, ResultMessage
from poold.core import effects
from poold.core.pools.pool import Pause

OPERATOR = 9


def world(*endpoints: str, **settings: Any) -> World:
    made = World(endpoints or ("main",), **settings)
    made.client()
    made.client(OPERATOR)
    return made


def answer(made: World, number: int) -> Any:
    """What the order is told; a Failure, or the Answer's body."""
    reply: Any = made.reply_to(number, OPERATOR)
    return reply.body if isinstance(reply, Answer) else reply


def pause(made: World, **arguments: Any) -> int:
    number = made.ask("pause", OPERATOR, **arguments)
    assert isinstance(number, int), number
    return number


def test_a_group_at_rest_is_paused_at_once_and_requests_wait_for_resume() -> None:
    made = world(min_size=1)
    made.connect_all()
    number = pause(made, group="default")
    assert answer(made, number) == {
        "groups": ["default"], "endpoint": None, "paused": True, "waited_ms": 0, "busy": [],
    }  # fmt: skip
    first, second = made.query(), made.query()
    assert not made.taken(effects.Execute)
    assert made.broker.snapshot(made.now)["groups"]["default"]["state"] == "paused"
    assert made.ask("resume") == {"groups": ["default"], "endpoint": None, "undone": 0}
    made.finish(first)
    made.connect_all()
    made.finish(second)
    assert isinstance(made.reply_to(first), ResultMessage)
    assert isinstance(made.reply_to(second), ResultMessage)


def test_what_waits_is_served_in_order_when_resumed() -> None:
    made = world(min_size=1, max_size=1)
    made.connect_all()
    pause(made, group="default")
    requests = [made.query() for _ in range(3)]
    made.ask("resume")
    for request in requests:
        backend = made.running(request)
        made.complete(backend)
        assert isinstance(made.reply_to(request), ResultMessage)


def test_the_answer_comes_when_what_runs_has_ended() -> None:
    made = world()
    request = made.query()
    made.connect_all()
    number = pause(made)
    assert not made.is_answered(number, OPERATOR)
    assert made.broker.snapshot(made.now)["groups"]["default"]["state"] == "pausing"
    made.now += 0.25
    made.finish(request)
    assert isinstance(made.reply_to(request), ResultMessage)
    assert answer(made, number)["waited_ms"] == 250


def test_a_lease_goes_on_to_its_end() -> None:
    made = world()
    backend = made.begin(1)
    number = pause(made, group="tx")
    request = made.query(group="tx", lease=1)
    made.complete(backend, TX_ACTIVE)
    assert isinstance(made.reply_to(request), ResultMessage)
    assert not made.is_answered(number, OPERATOR)
    other = made.query(group="tx", lease=2, begin=True)
    made.end(Commit, 1)
    made.complete(backend, TX_NONE, command="COMMIT")
    assert answer(made, number)["paused"] is True
    assert made.broker.clients[1].requests[other].is_waiting


@pytest.mark.parametrize(("timeout", "limit"), [(None, "queue_timeout"), (1.0, "the request's timeout")])
def test_what_waits_times_out_as_promised(timeout: float | None, limit: str) -> None:
    made = world(min_size=1, queue_timeout=5.0)
    made.connect_all()
    pause(made)
    request = made.query(timeout=timeout)
    made.pass_time((timeout or 5.0) - 0.1)
    assert not made.is_answered(request)
    made.pass_time(0.2)
    reply = made.reply_to(request)
    assert isinstance(reply, Failure)
    assert (reply.kind, reply.outcome) == ("pool-timeout", "not executed")
    assert "group 'default' was paused by an operator" in reply.message
    assert limit in reply.message


def test_a_pause_that_takes_too_long_is_undone_and_says_what_is_busy() -> None:
    made = world(max_size=1)
    made.begin(1)
    number = pause(made, group="tx", timeout=2)
    waiting = made.query(group="default")
    made.connect_all()
    made.finish(waiting)
    late = made.query(group="tx")
    made.pass_time(2.1)
    told = answer(made, number)
    assert told["paused"] is False
    assert told["busy"] == [
        {"group": "tx", "endpoint": "main", "what": "transaction", "client": 1, "pid": 1001, "age_ms": 2000}
    ]
    assert (told["busy_not_shown"], told["in_doubt"]) == (0, 0)
    assert not any(pool.is_paused for pool in made.broker.groups["tx"].pools)
    made.end(Commit, 1)
    made.complete(1, TX_NONE, command="COMMIT")
    assert made.running(late) == 1


def test_a_pause_whose_caller_is_gone_is_undone_but_one_that_was_answered_stays() -> None:
    made = world()
    request = made.query()
    made.connect_all()
    pause(made, group="default")
    answered = pause(made, group="tx")
    made.broker.client_gone(OPERATOR, made.now)
    assert not made.broker.groups["default"].is_paused
    assert made.broker.groups["tx"].is_paused
    assert isinstance(made.replies, list)
    assert answered
    made.finish(request)


def test_a_pause_can_be_withdrawn() -> None:
    made = world()
    made.query()
    made.connect_all()
    number = pause(made)
    made.broker.cancel(OPERATOR, number, made.now)
    assert answer(made, number).outcome == "not executed"
    assert not made.broker.groups["default"].is_paused


def test_a_resume_ends_a_pause_that_waits() -> None:
    made = world()
    made.query()
    made.connect_all()
    number = pause(made)
    made.ask("resume", group="default")
    told = answer(made, number)
    assert isinstance(told, Failure)
    assert told.message == "another command has resumed it before it came to rest"
    assert not any(group.is_paused for group in made.broker.groups.values())


def test_two_commands_do_not_wait_for_one_pause() -> None:
    made = world()
    made.query()
    made.connect_all()
    pause(made)
    told = made.ask("pause", group="default")
    assert isinstance(told, Failure)
    assert told.message == "default, tx: another command waits for this pause; wait for it, or resume"


def test_a_pause_of_what_is_paused_fails_without_ending_the_first() -> None:
    made = world(min_size=1)
    made.begin(1)
    made.connect_all()
    assert answer(made, pause(made, group="default"))["paused"] is True
    number = pause(made, timeout=1)
    made.pass_time(1.1)
    assert answer(made, number)["paused"] is False
    assert made.broker.groups["default"].is_paused
    assert not made.broker.groups["tx"].is_paused


def test_who_waits_for_a_pause_is_not_silent() -> None:
    made = World(broker={"client_idle_timeout": 1.0})
    made.client(OPERATOR)
    made.client()
    made.begin(1)
    pause(made, timeout=10)
    made.pass_time(5.0)
    assert OPERATOR not in [each.client for each in made.taken(effects.Drop)]


# Endpoints.


def test_other_endpoints_take_over_what_a_paused_one_did() -> None:
    made = world("one", "two", min_size=2, max_size=4)
    made.connect_all()
    assert answer(made, pause(made, endpoint="one"))["groups"] == ["default", "tx"]
    one, two = made.broker.groups["default"].pools
    assert (one.size, one.cap, two.cap) == (0, 0, 4)
    requests = [made.query() for _ in range(4)]
    made.connect_all()
    assert {made.broker.backends[made.running(each)].pool for each in requests} == {two}
    made.ask("resume", endpoint="one")
    assert (one.cap, two.cap) == (2, 2)


def test_a_group_goes_on_only_where_its_endpoint_is_not_paused() -> None:
    made = world("one", "two")
    pause(made, endpoint="one")
    pause(made, group="default")
    made.ask("resume", group="default")
    one, two = made.broker.groups["default"].pools
    assert (one.pauses, two.pauses) == ({Pause.ENDPOINT}, set())
    made.ask("resume")
    assert not any(pool.is_paused for group in made.broker.groups.values() for pool in group.pools)


def test_a_lease_on_a_paused_endpoint_goes_on() -> None:
    made = world("one", "two")
    backend = made.begin(1)
    name = made.broker.backends[backend].pool.endpoint.name
    number = pause(made, endpoint=name)
    made.query(group="tx", lease=1)
    made.complete(backend, TX_ACTIVE)
    made.end(Commit, 1)
    made.complete(backend, TX_NONE, command="COMMIT")
    assert answer(made, number)["paused"] is True
    assert backend not in made.broker.backends


# The end of a paused broker.


def test_a_drain_tells_those_who_wait_that_they_were_not_executed() -> None:
    made = world(min_size=1)
    made.connect_all()
    pause(made, group="default")
    request = made.query()
    made.broker.drain(made.now)
    reply = made.reply_to(request)
    assert isinstance(reply, Failure)
    assert (reply.kind, reply.outcome) == ("unserved", "not executed")
    assert "shutting down" in reply.message
    assert made.taken(effects.Stop)


def test_a_stop_answers_the_order_that_waits() -> None:
    made = world()
    made.query()
    made.connect_all()
    number = pause(made)
    made.broker.stop(made.now)
    assert answer(made, number).outcome == "not executed"


def test_a_pause_during_a_drain_lets_nobody_wait() -> None:
    made = world(max_size=1)
    running = made.query()
    made.connect_all()
    waiting = made.query()
    made.broker.drain(made.now)
    for order in ("pause", "drain"):
        told = made.ask(order)
        assert isinstance(told, Failure)
        assert "the broker ends" in told.message
    reply = made.reply_to(waiting)
    assert isinstance(reply, Failure)
    assert reply.outcome == "not executed"
    made.finish(running)
    assert made.taken(effects.Stop)


@pytest.mark.parametrize("timeout", ["", "0", "-1", "soon", "nan", "inf"])
def test_a_timeout_that_is_none_is_refused(timeout: str) -> None:
    made = world()
    told = made.ask("pause", timeout=timeout) if timeout else made.ask("pause", timeout=["1", "2"])
    assert isinstance(told, Failure)
    assert "timeout is" in told.message


@pytest.mark.parametrize("what", ["pause", "drain"])
def test_a_group_that_is_added_while_all_are_paused_waits_with_them(what: str) -> None:
    made = world(min_size=1)
    made.connect_all()
    assert answer(made, made.ask(what, OPERATOR))[f"{what}d" if what == "pause" else "drained"] is True
    made.reconfigure(groups={"extra": {}})
    if what == "pause":
        waiting = made.query(group="extra")
        made.connect_all()
        assert not made.is_answered(waiting)
    assert made.broker.groups["extra"].is_paused
    made.ask("resume", OPERATOR)
    assert not made.broker.groups["extra"].is_paused


def test_a_group_that_is_added_while_another_one_goes_on_does_not_wait() -> None:
    made = world()
    answer(made, pause(made, group="default"))
    made.reconfigure(groups={"extra": {}})
    assert not made.broker.groups["extra"].is_paused


def test_a_resume_says_what_it_did_to_pauses_that_still_wait() -> None:
    made = world()
    made.begin(1)
    waits = pause(made)
    told = made.ask("resume", OPERATOR, group="default")
    assert (told["groups"], told["undone"]) == (["default", "tx"], 1)
    assert answer(made, waits).message == "another command has resumed it before it came to rest"
    assert not any(made.broker.groups[name].is_paused for name in ("default", "tx"))
    told = made.ask("resume", OPERATOR)
    assert (told["groups"], told["undone"], told["still"]) == ([], 0, [])


def test_a_resume_that_finds_nothing_says_what_is_paused_in_another_way() -> None:
    made = world("a", "b")
    answer(made, pause(made, endpoint="a"))
    told = made.ask("resume", OPERATOR, group="default")
    assert (told["groups"], told["still"]) == ([], ["a"])
    made.ask("resume", OPERATOR)
    answer(made, pause(made, group="tx"))
    told = made.ask("resume", OPERATOR, endpoint="a")
    assert (told["groups"], told["still"]) == ([], ["tx"])
