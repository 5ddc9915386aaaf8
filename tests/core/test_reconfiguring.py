"""Another configuration while requests run and wait: what follows for each, and what does not notice."""

from __future__ import annotations

from typing import Any

import pytest
from test_roles import cluster, seen, tell
from world import World

from client.wire.limits import IN_SESSION, OPENS_SESSION
from client.wire.messages import TX_ACTIVE, TX_NONE, Answer, Commit, Failure, ResultMessage
from poold.core import effects
from poold.core.clients.access import Caller
from poold.core.pools.directory import REMOVED_KEPT
from poold.core.state import BackendState as S


def busy(count: int, **over: Any) -> tuple[World, list[int]]:
    """So many requests of one client that run in `default`, and no others."""
    world = World(**{"max_size": count, **over})
    world.client()
    requests = [world.query() for _ in range(count)]
    world.connect_all()
    return world, requests


def size(world: World, group: str = "default") -> int:
    return world.broker.groups[group].size


def closed(world: World) -> dict[int, str]:
    return {each.backend: each.reason for each in world.taken(effects.Close)}


# Sizes and limits.


def test_a_group_that_may_have_more_backends_opens_them_at_once_for_those_that_wait() -> None:
    world, _ = busy(1)
    waiting = world.query()
    assert size(world) == 1
    world.reconfigure(groups={"default": {"max_size": 2}})
    world.connect_all()
    assert world.running(waiting)


def test_a_group_that_may_have_fewer_shrinks_as_backends_rest() -> None:
    world, requests = busy(4)
    world.reconfigure(groups={"default": {"max_size": 2}})
    assert size(world) == 4
    waiting = world.query()
    for request in requests[:2]:
        world.finish(request)
        assert isinstance(world.reply_to(request), ResultMessage)
    assert size(world) == 2
    assert set(closed(world).values()) == {"max_size"}
    assert not world.is_answered(waiting)
    world.finish(requests[2])
    assert size(world) == 2
    assert world.running(waiting)


def test_idle_backends_and_those_being_opened_go_at_once() -> None:
    world = World(min_size=4, max_size=4)
    world.connect_all()
    world.reconfigure(groups={"default": {"max_size": 1, "min_size": 1}})
    assert size(world) == 1
    assert world.broker.groups["default"].count(S.IDLE) == 1
    assert size(world, "tx") == 4


def test_requests_obey_the_limits_of_the_time_when_they_came() -> None:
    world, _ = busy(1, queue_timeout=30.0)
    patient = world.query()
    world.reconfigure(groups={"default": {"queue_timeout": 1.0, "max_waiting": 2}})
    hasty, refused = world.query(), world.query()
    assert world.reply_to(refused).kind == "too-many-requests"
    world.pass_time(2.0)
    assert world.reply_to(hasty).kind == "pool-timeout"
    assert not world.is_answered(patient)


def test_a_lease_keeps_the_limits_that_it_began_with() -> None:
    world = World(lease_timeout=100.0, idle_in_transaction_timeout=10.0)
    world.client()
    world.begin(1)
    world.reconfigure(groups={"tx": {"idle_in_transaction_timeout": 1.0, "lease_timeout": 2.0}})
    world.pass_time(5.0)
    assert 1 in world.broker.clients[1].leases
    world.pass_time(6.0)
    lost = world.outcome(world.query(group="tx", lease=1))
    assert isinstance(lost, Failure)
    assert "idle_in_transaction_timeout = 10 s" in lost.message


def test_max_lifetime_counts_from_the_reload_for_what_is_open() -> None:
    world = World(min_size=1, max_lifetime=0.0)
    world.connect_all()
    world.reconfigure(groups={"default": {"max_lifetime": 100.0}, "tx": {"max_lifetime": 0.0}})
    world.pass_time(101.0)
    world.connect_all()
    world.pass_time(1.0)
    assert list(closed(world).values()) == ["max_lifetime"]
    world.reconfigure(groups={"default": {"max_lifetime": 0.0}})
    world.pass_time(1000.0)
    assert len(closed(world)) == 1


def test_a_client_may_be_silent_for_as_long_as_the_configuration_says_by_now() -> None:
    world = World()
    world.client()
    world.reconfigure(broker={"client_idle_timeout": 5.0})
    world.pass_time(4.0)
    assert not world.taken(effects.Drop)
    world.pass_time(2.0)
    assert len(world.taken(effects.Drop)) == 1
    other = World(broker={"client_idle_timeout": 5.0})
    other.client()
    other.reconfigure(broker={"client_idle_timeout": 0.0})
    other.pass_time(100.0)
    assert not other.taken(effects.Drop)


def test_weights_and_the_share_of_batch_hold_for_those_who_wait() -> None:
    world, requests = busy(4, batch_share=0.25)
    waiting = [world.query(priority=2) for _ in range(4)]
    world.finish(requests[0])
    world.finish(requests[1])
    assert sum(world.is_answered(each) or any_running(world, each) for each in waiting) == 1
    world.reconfigure(groups={"default": {"batch_share": 1.0}})
    assert sum(any_running(world, each) for each in waiting) == 2


def any_running(world: World, request: int) -> bool:
    return any(each.number == request for b in world.broker.backends.values() for each in b.running)


# Groups.


def test_a_group_that_is_added_serves_clients_that_were_there_before() -> None:
    world = World()
    world.client()
    assert world.outcome(world.query(group="extra")).kind == "unconfigured-group"
    world.reconfigure(groups={"extra": {"min_size": 1}})
    request = world.query(group="extra")
    world.connect_all()
    world.finish(request)
    assert isinstance(world.reply_to(request), ResultMessage)


def test_a_removed_group_ends_what_runs_and_refuses_what_waits_and_what_comes() -> None:
    world, (running,) = busy(1)
    waiting = world.query()
    world.reconfigure(groups={"default": None})
    refused = world.reply_to(waiting)
    assert isinstance(refused, Failure)
    assert (refused.kind, refused.outcome) == ("unconfigured-group", "not executed")
    assert "a reload of its configuration has removed it" in refused.message
    assert "any more" in world.outcome(world.query()).message
    assert "any more" in world.outcome(world.transaction()).message
    world.finish(running)
    assert isinstance(world.reply_to(running), ResultMessage)
    assert not world.broker.backends
    world.pass_time(1.5)
    assert not world.broker.directory.leaving


def test_a_lease_of_a_removed_group_goes_on_to_its_end() -> None:
    world = World()
    world.client()
    backend = world.begin(1)
    world.reconfigure(groups={"tx": None})
    second = world.query(group="tx", lease=1)
    assert world.running(second) == backend
    world.complete(backend, TX_ACTIVE)
    commit = world.end(Commit, 1)
    world.complete(backend, TX_NONE, command="COMMIT")
    assert isinstance(world.reply_to(commit), ResultMessage)
    assert not world.broker.backends
    assert world.outcome(world.query(group="tx", lease=2, begin=True)).kind == "unconfigured-group"


def test_what_is_left_in_a_removed_group_ends_after_drain_timeout() -> None:
    world = World(drain_timeout=5.0)
    world.client()
    world.begin(1)
    world.reconfigure(groups={"tx": None})
    world.pass_time(4.9)
    assert world.broker.backends
    assert list(world.broker.snapshot(world.now)["groups"]) == ["default", "tx/removed"]
    world.pass_time(0.2)
    assert not world.broker.backends
    lost = world.outcome(world.query(group="tx", lease=1))
    assert isinstance(lost, Failure)
    assert lost.kind == "transaction-lost"
    assert "removed its group" in lost.message


def test_a_removed_group_that_comes_back_is_another_one() -> None:
    world, (running,) = busy(1)
    world.reconfigure(groups={"tx": {}, "default": None})
    old = world.broker.directory.leaving[0]
    world.reconfigure(groups={"default": {**vars_of(old)}})
    request = world.query()
    world.connect_all()
    assert world.running(request) != world.running(running)
    world.finish(running)
    world.finish(request)
    assert isinstance(world.reply_to(request), ResultMessage)
    assert size(world) == 1


def remove_and_add(world: World, group: str = "tx") -> None:
    """A group is removed by one reload, and put back by the next one."""
    config = world.broker.config.as_it_is()
    world.reconfigure(groups={group: None})
    world.broker.reconfigured(config, world.now)
    world.take()


@pytest.mark.parametrize("is_session", [False, True])
def test_what_is_open_in_a_removed_group_goes_on_beside_another_group_of_its_name(is_session: bool) -> None:
    world = World()
    world.client()
    opens = {"session": OPENS_SESSION} if is_session else {"begin": True}
    within = {"session": IN_SESSION} if is_session else {}
    first = world.query(group="tx", lease=1, **opens)
    world.connect_all()
    backend = world.running(first)
    world.complete(backend, TX_NONE if is_session else TX_ACTIVE)
    remove_and_add(world)
    second = world.query(group="tx", lease=1, **within)
    assert world.running(second) == backend
    assert world.broker.backends[backend].group.is_removed
    world.complete(backend, TX_NONE if is_session else TX_ACTIVE)
    other = world.query(group="tx", lease=2, begin=True)
    world.connect_all()
    assert world.running(other) != backend
    if not is_session:
        commit = world.end(Commit, 1)
        world.complete(backend, TX_NONE, command="COMMIT")
        assert isinstance(world.reply_to(commit), ResultMessage)


def test_groups_that_were_removed_under_one_name_are_all_seen() -> None:
    world = World()
    world.client()
    for lease in (1, 2):
        world.begin(lease)
        remove_and_add(world)
    groups = world.broker.snapshot(world.now)["groups"]
    assert list(groups) == ["default", "tx", "tx/removed", "tx/removed-2"]
    shown = world.broker.snapshot(world.now)["work"]
    assert [each["group"] for each in shown] == ["tx/removed", "tx/removed-2"]


@pytest.mark.parametrize("named", [{}, {"group": "tx"}, {"endpoint": "main"}])
@pytest.mark.parametrize("what", ["pause", "drain"])
def test_a_pause_and_a_drain_wait_for_what_is_open_in_a_removed_group(what: str, named: dict[str, str]) -> None:
    world = World()
    world.client()
    backend = world.begin(1)
    remove_and_add(world)
    number = world.ask(what, timeout=60, **named)
    assert not world.is_answered(number)
    world.end(Commit, 1)
    world.complete(backend, TX_NONE, command="COMMIT")
    assert world.is_answered(number)
    assert not world.broker.backends
    world.ask("resume")
    request = world.query(group="tx", lease=2, begin=True)
    world.connect_all()
    assert world.running(request)


def test_a_pause_that_fails_names_what_is_open_in_a_removed_group() -> None:
    world = World()
    world.client()
    world.begin(1)
    world.reconfigure(groups={"tx": None})
    number = world.ask("pause", timeout=1)
    world.pass_time(1.1)
    reply = world.reply_to(number)
    assert isinstance(reply, Answer)
    assert [each["group"] for each in reply.body["busy"]] == ["tx/removed"]


def vars_of(group: Any) -> dict[str, Any]:
    return {"max_size": group.config.max_size}


def test_who_may_not_use_a_group_any_more_is_told_so_as_if_it_were_not_there() -> None:
    world = World()
    world.broker.client_arrived(1, 1, "one", caller=Caller(1000))
    request = world.query()
    world.connect_all()
    world.finish(request)
    world.reconfigure(groups={"default": {"allow_users": ("1001",)}})
    refused = world.outcome(world.query())
    assert refused.message == "the broker has no group 'default' for this client; it has tx"
    assert world.broker.groups["default"].clients == 0
    world.reconfigure(groups={"default": {"allow_users": ()}})
    assert not world.is_answered(world.query())


def test_whoever_could_not_use_a_removed_group_is_not_told_that_there_was_one() -> None:
    world = World()
    world.reconfigure(groups={"secret": {"allow_users": ("1001",)}})
    world.reconfigure(groups={"secret": None})
    for key, uid in ((1, 1000), (2, 1001)):
        world.broker.client_arrived(key, key, "", caller=Caller(uid))
    assert "any more" not in world.outcome(world.query(1, group="secret"), 1).message
    assert "any more" in world.outcome(world.query(2, group="secret"), 2).message


def test_the_names_of_removed_groups_are_known_up_to_a_number() -> None:
    world = World()
    world.client()
    names = [f"g{count}" for count in range(REMOVED_KEPT + 1)]
    world.reconfigure(groups={name: {} for name in names})
    for name in names:
        world.reconfigure(groups={name: None})
    assert "any more" not in world.outcome(world.query(group=names[0])).message
    assert "any more" in world.outcome(world.query(group=names[1])).message
    assert len(world.broker.directory.removed) == REMOVED_KEPT


def test_a_group_that_did_not_change_keeps_its_backends_statements_and_figures() -> None:
    world, (running,) = busy(1)
    group = world.broker.groups["default"]
    before = group, group.pools, group.statements.generation, group.stats, dict(world.broker.backends)
    world.reconfigure(
        groups={"extra": {}, "tx": {"max_size": 1, "read_only": True}}, endpoints={"main": {"weight": 2.0}}
    )
    assert before == (group, group.pools, group.statements.generation, group.stats, dict(world.broker.backends))
    assert not closed(world)
    world.finish(running)
    assert isinstance(world.reply_to(running), ResultMessage)


@pytest.mark.parametrize("over", [{"read_only": True}, {"sqlprepare": True}, {"prepare": "auto"}, {"plans": "auto"}])
def test_what_backends_are_told_when_they_are_opened_replaces_them_as_they_rest(over: dict[str, Any]) -> None:
    world, requests = busy(2)
    world.finish(requests[0])
    generation = world.broker.groups["default"].statements.generation
    world.reconfigure(groups={"default": over})
    assert list(closed(world).values()) == ["reconnect"]
    world.finish(requests[1])
    assert list(closed(world).values()) == ["reconnect"] * 2
    assert world.broker.groups["default"].statements.generation > generation


# Endpoints.


def test_an_endpoint_that_is_added_takes_its_part() -> None:
    world, _ = busy(1)
    world.reconfigure(endpoints={"other": {}}, groups={"default": {"max_size": 2}})
    request = world.query()
    world.connect_all()
    assert world.broker.backends[world.running(request)].pool.endpoint.name == "other"


def test_backends_of_a_removed_endpoint_end_as_they_rest() -> None:
    world = World(("a", "b"), max_size=2, min_size=2)
    world.client()
    world.connect_all()
    requests = [world.query(), world.query()]
    by_name = {world.broker.backends[world.running(each)].pool.endpoint.name: each for each in requests}
    world.reconfigure(endpoints={"b": None})
    assert [pool.endpoint.name for pool in world.broker.groups["default"].pools] == ["a", "b"]
    for request in requests:
        world.finish(request)
    assert "removed its endpoint" in closed(world)[max(closed(world))]
    world.pass_time(1.5)
    assert [pool.endpoint.name for pool in world.broker.groups["default"].pools] == ["a"]
    world.connect_all()
    assert size(world) == 2
    assert by_name.keys() == {"a", "b"}


def test_an_endpoint_that_comes_back_before_its_last_backend_has_ended_is_the_same() -> None:
    world = World(("a", "b"), max_size=2, min_size=2)
    world.client()
    world.connect_all()
    requests = [world.query(), world.query()]
    pools = world.broker.groups["default"].pools
    world.reconfigure(endpoints={"b": None})
    world.reconfigure(endpoints={"b": {}})
    assert world.broker.groups["default"].pools == pools
    assert not any(pool.left for pool in pools)
    for request in requests:
        world.finish(request)
    world.connect_all()
    assert [pool.size for pool in pools] == [1, 1]


@pytest.mark.parametrize("over", [{"password": "other"}, {"sslmode": "require"}, {"query_timeout": 1.0}])
def test_another_login_replaces_backends_as_they_rest(over: dict[str, Any]) -> None:
    world, requests = busy(2)
    world.finish(requests[0])
    world.reconfigure(endpoints={"main": over})
    assert list(closed(world).values()) == ["reconnect"]
    world.finish(requests[1])
    assert list(closed(world).values()) == ["reconnect"] * 2


def test_a_file_with_another_content_is_another_login() -> None:
    world, requests = busy(1)
    world.reconfigure()
    world.finish(requests[0])
    assert not closed(world)
    world.reconfigure(renewed=["main"])
    assert list(closed(world).values()) == ["reconnect"]


def test_another_login_is_tried_at_once() -> None:
    world = World()
    world.client()
    waiting = world.query()
    (number,) = world.broker.backends
    world.broker.connect_failed(number, "password authentication failed", world.now)
    world.take()
    assert not world.broker.backends
    world.reconfigure(endpoints={"main": {"password": "right"}})
    world.connect_all()
    assert world.running(waiting)


def test_what_runs_keeps_the_limit_that_its_session_has() -> None:
    world, (request,) = busy(1, endpoint_settings={"query_timeout": 100.0})
    world.reconfigure(endpoints={"main": {"query_timeout": 1.0}})
    world.pass_time(50.0)
    assert not world.taken(effects.Cancel)
    assert not world.is_answered(request)


def test_statements_mean_something_else_where_an_endpoint_leads_elsewhere() -> None:
    world, _ = busy(1)
    generations = [group.statements.generation for group in world.broker.groups.values()]
    world.reconfigure(endpoints={"main": {"weight": 3.0, "connect_timeout": 1.0}})
    assert generations == [group.statements.generation for group in world.broker.groups.values()]
    world.reconfigure(endpoints={"main": {"dbname": "other"}})
    assert all(
        group.statements.generation > was for group, was in zip(world.broker.groups.values(), generations, strict=True)
    )


# Roles.


def test_a_moved_primary_is_asked_again_and_what_is_open_there_goes_on() -> None:
    world = cluster("a", "b")
    backend = world.begin(1)
    world.reconfigure(endpoints={"a": {"host": "/elsewhere"}})
    assert effects.Leave("a") in world.effects
    assert world.broker.endpoints["a"].role.name == "UNKNOWN"
    waiting = world.query()
    second = world.query(group="tx", lease=1)
    assert world.running(second) == backend
    world.complete(backend, TX_ACTIVE)
    assert not world.is_answered(waiting)
    tell(world, a=seen(started="a"))
    world.connect_all()
    assert world.running(waiting)
    world.end(Commit, 1)
    world.complete(backend, TX_NONE, command="COMMIT")
    assert closed(world)[backend] == "reconnect"


def test_a_late_answer_of_an_endpoint_that_is_gone_is_nothing() -> None:
    world = cluster("a", "b")
    world.reconfigure(endpoints={"b": None})
    tell(world, b=seen(started="b"))
    world.broker.unobserved("b", "gone", world.now)
    assert "b" not in world.broker.endpoints


def test_a_group_of_endpoints_that_nobody_knows_waits_until_all_have_answered() -> None:
    """As at the start: an old primary that answers first must not be taken for the primary."""
    world = World()
    world.client()
    world.reconfigure(
        endpoints={"old": {}, "new": {}},
        groups={
            "default": {"endpoints": ("main",)},
            "tx": {"endpoints": ("main",)},
            "pair": {"role": "primary", "endpoints": ("old", "new"), "min_size": 1},
        },
    )
    tell(world, old=seen(timeline=1, started="old"))
    assert not any(pool.is_serving for pool in world.broker.groups["pair"].pools)
    tell(world, new=seen(timeline=2, started="new"))
    assert [pool.is_serving for pool in world.broker.groups["pair"].pools] == [False, True]


def test_one_that_does_not_answer_is_not_waited_for_longer_than_at_the_start() -> None:
    world = World()
    world.reconfigure(
        endpoints={"b": {}},
        groups={"default": {"role": "primary", "endpoints": ("main", "b")}, "tx": {"endpoints": ("main",)}},
    )
    tell(world, b=seen(started="b"))
    assert not any(pool.is_serving for pool in world.broker.groups["default"].pools)
    world.pass_time(1.1)
    assert [pool.is_serving for pool in world.broker.groups["default"].pools] == [False, True]


def test_reads_go_to_the_primary_when_there_are_no_replicas_any_more() -> None:
    world = cluster("a", "b", route_reads=True, max_size=2)
    reads = world.query(group="default/replicas")
    world.reconfigure(groups={"default": {"role": "any"}, "tx": {"role": "any"}})
    world.pass_time(0.1)
    world.connect_all()
    assert world.running(reads)
    assert world.broker.backends[world.running(reads)].group is world.broker.groups["default"]
    assert "default/replicas" not in world.broker.groups
    again = world.query(group="default/replicas")
    world.connect_all()
    assert world.running(again)


def test_a_group_that_gets_a_role_reads_on_replicas_from_then_on() -> None:
    world = World(("a", "b"))
    world.client()
    world.reconfigure(groups={"default": {"role": "primary", "route_reads": True}})
    tell(world, a=seen(started="a"), b=seen(started="b", standby=True))
    assert world.broker.groups["default"].replicas is world.broker.groups["default/replicas"]
    assert [pool.is_serving for pool in world.broker.groups["default/replicas"].pools] == [False, True]


# Beside other orders.


def test_what_joins_a_paused_group_is_paused_and_goes_on_with_it() -> None:
    world = World(min_size=1)
    world.client()
    world.connect_all()
    world.ask("pause", group="default")
    world.reconfigure(endpoints={"b": {}})
    waiting = world.query()
    world.connect_all()
    assert not any_running(world, waiting)
    assert world.broker.groups["default"].is_paused
    world.ask("resume", group="default")
    world.connect_all()
    assert world.running(waiting)


def test_what_joins_a_pause_that_fails_goes_on_as_the_others() -> None:
    world, _ = busy(1)
    order = world.ask("pause", group="default", timeout=1.0)
    world.reconfigure(endpoints={"b": {}})
    world.pass_time(1.1)
    assert world.reply_to(order).body["paused"] is False  # type: ignore[union-attr]  # an Answer
    assert not any(pool.is_paused for pool in world.broker.groups["default"].pools)


def test_a_group_that_joins_a_paused_endpoint_begins_nothing_there() -> None:
    world = World(("a", "b"))
    world.client()
    world.ask("pause", endpoint="a")
    world.reconfigure(groups={"extra": {}})
    assert [pool.is_paused for pool in world.broker.groups["extra"].pools] == [True, False]


def test_a_pause_of_a_group_that_is_removed_is_answered_when_it_has_come_to_rest() -> None:
    world, (running,) = busy(1)
    order = world.ask("pause", group="default")
    world.reconfigure(groups={"default": None})
    assert not world.is_answered(order)
    world.finish(running)
    assert world.reply_to(order).body["paused"] is True  # type: ignore[union-attr]  # an Answer


def test_what_needs_a_restart_stays_as_it_is() -> None:
    world = World()
    world.reconfigure(
        broker={"address": "ipc:///tmp/y", "max_result_bytes": 5000, "drain_timeout": 7.0, "allow_uids": (5,)},
        groups={"tx": {"autocommit": True, "max_size": 9}},
    )
    config = world.broker.config
    assert (config.broker.address, config.broker.max_result_bytes) == ("ipc:///tmp/x", 64 * 1024 * 1024)
    assert (config.broker.drain_timeout, config.broker.allow_uids) == (7.0, ())
    assert (config.groups["tx"].autocommit, config.groups["tx"].max_size) == (False, 9)
