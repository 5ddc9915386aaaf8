"""Reads on replicas: where they run, what they wait for, and what becomes of those that cannot run there."""

from dataclasses import replace
from typing import Any

import pytest
from test_roles import cluster, endpoint_of, open_all, seen, tell
from world import BEGUN, ROLLED_BACK, World, failure

from client.wire.limits import ON_REPLICAS, OPENS_SESSION
from client.wire.messages import (
    NOT_EXECUTED,
    TX_ACTIVE,
    TX_FAILED,
    TX_NONE,
    Answer,
    Failure,
    Follow,
    ResultMessage,
    Step,
    TransactionResult,
)
from poold.config.model import GroupConfig
from poold.core import effects
from poold.core.broker import Broker
from poold.core.effects import Locate
from poold.core.facts import Completion, Location, Loss
from poold.core.pools.cluster import Cluster
from poold.core.requests.observing import PATIENCE
from poold.core.state import RequestState

READS = "default" + ON_REPLICAS


def located(world: World, **positions: int) -> None:
    """Endpoints answer how far they have come, if they were asked."""
    for name, position in positions.items():
        if not world.broker.endpoints[name].is_located:
            is_standby = world.broker.endpoints[name].observation.is_in_recovery  # type: ignore[union-attr]
            world.broker.located(name, Location(is_standby, position, position), world.now)
    world.take()


def asked(world: World) -> list[str]:
    """The endpoints that were asked for their position and have not answered."""
    world.take()
    return [name for name, each in world.broker.endpoints.items() if not each.is_located]


def reading(*names: str, position: int = 0, **over: Any) -> World:
    """A cluster whose client has been told all about its own writes: it may read on replicas at once."""
    world = cluster(*(names or ("a", "b")), **over)
    request = world.query(group=READS)
    located(world, **dict.fromkeys(world.broker.endpoints, position))
    open_all(world)
    world.finish(request)
    assert isinstance(world.reply_to(request), ResultMessage)
    return world


def write(world: World, client: int = 1, **over: Any) -> None:
    request = world.query(client, **over)
    open_all(world)
    world.finish(request)
    assert isinstance(world.reply_to(request, client), ResultMessage)


def test_a_read_runs_on_a_replica_and_a_write_on_the_primary() -> None:
    world = reading()
    read, wrote = world.query(group=READS), world.query()
    open_all(world)
    assert endpoint_of(world, read) == "b"
    assert endpoint_of(world, wrote) == "a"


def test_their_sessions_write_nothing_even_if_a_replica_becomes_a_primary() -> None:
    world = reading()
    write(world)
    kinds = {(each.endpoint, each.is_read_only) for each in world.taken(effects.Connect)}
    assert kinds == {("a", False), ("b", True)}


def test_replicas_have_as_many_backends_again() -> None:
    world = reading("a", "b", "c", max_size=2)
    for _ in range(4):
        world.query(group=READS)
        world.query()
    open_all(world)
    sizes = {name: sum(pool.size for pool in group.pools) for name, group in world.broker.groups.items()}
    assert (sizes["default"], sizes[READS]) == (2, 2)


def test_who_is_new_counts_as_one_that_has_just_written() -> None:
    world = cluster()
    read = world.query(group=READS)
    assert asked(world) == ["a", "b"]
    located(world, b=0)
    located(world, a=500)
    assert not world.is_answered(read)
    world.pass_time(0.001)
    located(world, b=499)
    world.pass_time(0.002)
    assert not any(each.running for each in world.broker.backends.values())
    located(world, b=500)
    open_all(world)
    assert endpoint_of(world, read) == "b"


def test_behind_a_write_a_read_waits_for_the_replica() -> None:
    world = reading(position=100)
    write(world)
    read = world.query(group=READS)
    located(world, a=200, b=150)
    assert not any(each.running for each in world.broker.backends.values())
    world.pass_time(0.001)
    located(world, b=200)
    open_all(world)
    assert endpoint_of(world, read) == "b"


def test_a_position_that_was_asked_for_before_the_write_does_not_count() -> None:
    world = reading(position=100)
    write(world)
    first = world.query(group=READS)
    assert asked(world) == ["a", "b"]
    write(world, 1)  # acknowledged while the question is under way
    located(world, a=150, b=150)
    assert not any(each.running for each in world.broker.backends.values()), "150 is the first write's"
    world.pass_time(0.001)
    located(world, a=200, b=200)
    open_all(world)
    assert endpoint_of(world, first) == "b"


def test_all_replicas_have_to_have_it() -> None:
    world = reading("a", "b", "c", position=100)
    write(world)
    read = world.query(group=READS)
    located(world, a=200, b=200, c=199)
    assert not any(each.running for each in world.broker.backends.values())
    world.pass_time(0.001)
    located(world, c=201)
    open_all(world)
    assert endpoint_of(world, read) in ("b", "c")


def test_a_read_that_has_waited_for_catch_up_runs_on_the_primary() -> None:
    world = reading(position=100)
    write(world)
    read = world.query(group=READS)
    located(world, a=200, b=150)
    world.pass_time(0.05)
    open_all(world)
    assert endpoint_of(world, read) == "a"
    world.finish(read)
    assert isinstance(world.reply_to(read), ResultMessage)
    groups = world.broker.snapshot(world.now)["groups"]
    assert groups[READS]["rerouted"] == 1
    assert groups[READS]["requests"] == 2


def test_with_catch_up_0_it_runs_there_at_once() -> None:
    world = reading(position=100, catch_up=0.0)
    write(world)
    read = world.query(group=READS)
    open_all(world)
    assert endpoint_of(world, read) == "a"


def test_replicas_that_are_far_behind_are_not_waited_for() -> None:
    world = reading(position=100)
    for number in range(20):
        world.pass_time(0.1)
        tell(world, a=seen(position=200 + number, started="a"), b=seen(standby=True, started="b", position=100))
    write(world)
    read = world.query(group=READS)
    open_all(world)
    assert endpoint_of(world, read) == "a"


def test_a_replica_beyond_max_lag_is_left_out_and_comes_back() -> None:
    world = reading("a", "b", "c", position=100, max_lag=1.0)
    behind = world.broker.groups[READS].pools[1]
    for number in range(20):
        world.pass_time(0.1)
        here = 200 + number
        tell(
            world,
            a=seen(position=here, started="a"),
            b=seen(standby=True, started="b", position=100),
            c=seen(standby=True, started="c", position=here),
        )
    assert not behind.is_serving
    assert not behind.idle
    read = world.query(group=READS)
    open_all(world)
    assert endpoint_of(world, read) == "c"
    tell(world, b=seen(standby=True, started="b", position=300))
    assert behind.is_serving


def test_max_lag_may_be_a_size() -> None:
    world = reading("a", "b", position=100, max_lag="1kB")
    tell(world, a=seen(position=1100, started="a"))
    tell(world, b=seen(standby=True, started="b", position=100))
    assert world.broker.groups[READS].pools[1].is_serving
    world.pass_time(0.2)
    tell(world, a=seen(position=1200, started="a"))
    tell(world, b=seen(standby=True, started="b", position=100))
    assert not world.broker.groups[READS].pools[1].is_serving


def test_other_processes_do_not_wait_for_it() -> None:
    world = reading(position=100)
    world.client(2)
    other = world.query(2, group=READS)
    located(world, a=100, b=100)
    open_all(world)
    world.finish(other)
    write(world)
    read = world.query(2, group=READS)
    assert endpoint_of(world, read) == "b"


def test_all_connections_of_a_process_count_as_one() -> None:
    world = cluster()
    for key in (11, 12):
        world.broker.client_arrived(key, 4321, "two connections", 1000, 1000)
    for key in (11, 12):
        read = world.query(key, group=READS)
        located(world, a=100, b=100)
        open_all(world)
        world.finish(read)
    write(world, 11)
    read = world.query(12, group=READS)
    assert not any(each.running for each in world.broker.backends.values())
    located(world, a=200, b=200)
    assert endpoint_of(world, read) == "b"


@pytest.mark.parametrize("is_lost", [False, True])
def test_what_may_have_been_written_counts_as_written(is_lost: bool) -> None:
    """A failure whose outcome is unknown, and a request whose client is gone."""
    world = reading(position=100)
    world.broker.client_arrived(2, 1001, "the same process")
    request = world.query(prepare=False)
    open_all(world)
    backend = world.running(request)
    world.tell(backend)
    world.broker.lost(backend, Loss("gone"), world.now) if is_lost else world.finish(request, reply=failure())
    world.take()
    read = world.query(group=READS)
    assert not [each for each in world.broker.backends.values() if read in [one.number for one in each.running]]


def test_what_was_not_executed_is_no_write() -> None:
    world = reading(position=100, queue_timeout=1.0)
    refused = world.query(group="default", lease=5)
    assert isinstance(world.reply_to(refused), Failure)
    read = world.query(group=READS)
    assert endpoint_of(world, read) == "b"


def test_without_a_replica_reads_run_on_the_primary_in_a_read_only_transaction() -> None:
    world = cluster()
    tell(world, b="refused")
    for pool in world.broker.groups[READS].pools:
        pool.availability.failed("refused", world.now, 0.5)
    read = world.query(group=READS)
    open_all(world)
    assert endpoint_of(world, read) == "a"
    (unit,) = [each.unit for each in world.taken(effects.Execute) if each.backend == world.running(read)]
    assert any(b"transaction_read_only" in getattr(each, "sql", getattr(each, "values", b"")) for each in unit)


def test_reads_that_wait_for_a_replica_s_backend_go_to_the_primary_when_it_is_gone() -> None:
    world = reading(max_size=1)
    running, waiting = world.query(group=READS), world.query(group=READS)
    assert endpoint_of(world, running) == "b"
    world.broker.lost(world.running(running), Loss("gone"), world.now)
    (connecting,) = [each for each in world.broker.backends.values() if not each.running]
    world.broker.connect_failed(connecting.number, "refused", world.now)
    world.take()
    open_all(world)
    assert endpoint_of(world, running) == "a", "nothing takes effect on a replica, so it may run again"
    world.finish(running)
    assert endpoint_of(world, waiting) == "a"


@pytest.mark.parametrize("sqlstate", ["25006", "0A000", "55000", "40001"])
def test_what_a_replica_cannot_do_runs_on_the_primary(sqlstate: str) -> None:
    world = reading()
    read = world.query(group=READS)
    world.finish(read, reply=failure(sqlstate))
    open_all(world)
    assert not world.is_answered(read)
    assert endpoint_of(world, read) == "a"
    world.finish(read, reply=failure(sqlstate))
    assert isinstance(world.reply_to(read), Failure), "and there the answer counts"


def test_other_errors_of_a_replica_are_the_statement_s() -> None:
    world = reading()
    read = world.query(group=READS)
    world.finish(read, reply=failure("22012"))
    assert isinstance(world.reply_to(read), Failure)


def test_a_read_only_transaction_runs_on_a_replica_and_may_move_to_the_primary() -> None:
    world = reading()
    step = Step(b"SELECT 2", b"", b"", True, (), 0, None)
    here = world.transaction(step, read_only=True)
    assert endpoint_of(world, here) == "b"
    world.broker.completed(world.running(here), Completion(TX_FAILED, [BEGUN], failure("55000", TX_FAILED)), world.now)
    world.broker.completed(world.running(here), Completion(TX_NONE, [ROLLED_BACK]), world.now)
    world.take()
    open_all(world)
    assert endpoint_of(world, here) == "a"
    commit = BEGUN._replace(command="COMMIT")
    world.broker.completed(world.running(here), Completion(TX_NONE, [BEGUN, BEGUN, commit]), world.now)
    found = world.reply_to(here)
    assert isinstance(found, TransactionResult)
    assert found.failure is None


@pytest.mark.parametrize("over", [{"isolation": "serializable"}, {"read_only": False}, {"read_only": None}])
def test_other_transactions_stay_on_the_primary(over: dict[str, Any]) -> None:
    world = reading()
    request = world.transaction(Step(b"SELECT 2", b"", b"", True, (), 0, None), **{"read_only": True, **over})
    open_all(world)
    assert endpoint_of(world, request) == "a"


def test_an_interactive_transaction_that_reads_has_its_lease_on_a_replica() -> None:
    world = reading()
    first = world.query(group="tx" + ON_REPLICAS, lease=5, begin=True)
    located(world, a=0, b=0)
    open_all(world)
    assert endpoint_of(world, first) == "b"
    world.complete(world.running(first), TX_ACTIVE)
    second = world.query(group="tx" + ON_REPLICAS, lease=5)
    assert endpoint_of(world, second) == "b"


def test_or_on_the_primary_if_there_is_none() -> None:
    world = cluster()
    tell(world, b=seen(9, standby=True, system="2"))
    first = world.query(group="tx" + ON_REPLICAS, lease=5, begin=True)
    open_all(world)
    assert endpoint_of(world, first) == "a"
    world.complete(world.running(first), TX_ACTIVE)
    second = world.query(group="tx" + ON_REPLICAS, lease=5)
    assert endpoint_of(world, second) == "a"
    assert world.broker.clients[1].leases[5].group is world.broker.groups["tx"]


def test_a_group_without_replicas_takes_reads_as_well_and_lets_them_write_nothing() -> None:
    world = World(["a"])
    world.client()
    read = world.query(group=READS)
    world.connect_all()
    assert endpoint_of(world, read) == "a"
    (unit,) = [each.unit for each in world.taken(effects.Execute) if each.backend == world.running(read)]
    assert any(b"transaction_read_only" in getattr(each, "sql", b"") for each in unit)


def test_a_group_that_is_not_there_is_named_without_its_replicas() -> None:
    world = cluster()
    told = world.reply_to(world.query(group="other" + ON_REPLICAS))
    assert isinstance(told, Failure)
    assert told.kind == "unconfigured-group"
    assert told.message.endswith("it has default, tx")


def test_after_a_promotion_positions_of_the_old_primary_count_no_more() -> None:
    world = reading("a", "b", "c", position=100)
    tell(world, a="refused", b=seen(2, started="b", position=50), c=seen(2, standby=True, started="c", position=50))
    read = world.query(group=READS)
    assert asked(world) == ["b", "c"]
    located(world, b=60, c=60)
    open_all(world)
    assert endpoint_of(world, read) == "c"


def test_while_there_is_no_primary_reads_go_on() -> None:
    world = reading("a", "b", position=100)
    world.client(2)
    tell(world, a="refused")
    known, new = world.query(group=READS), world.query(2, group=READS)
    open_all(world)
    assert {endpoint_of(world, known), endpoint_of(world, new)} == {"b"}


def test_who_wrote_just_before_the_primary_died_waits_for_the_next_one() -> None:
    world = reading("a", "b", "c", position=100)
    write(world)
    for backend in [each for each in world.broker.backends.values() if each.pool.endpoint.name == "a"]:
        world.broker.lost(backend.number, Loss("gone"), world.now)
    tell(world, a="refused")
    read = world.query(group=READS)
    world.pass_time(0.06)
    assert not any(each.running for each in world.broker.backends.values())
    tell(world, b=seen(2, started="b", position=300), c=seen(2, standby=True, started="c", position=300))
    open_all(world)
    assert endpoint_of(world, read) == "b", "it waits for the primary by now"


def test_a_replica_that_starts_again_may_know_less_than_before() -> None:
    world = reading(position=100)
    idle = next(each for each in world.broker.backends.values() if each.pool.endpoint.name == "b")
    world.broker.lost(idle.number, Loss("gone"), world.now)
    read = world.query(group=READS)
    located(world, b=50)
    open_all(world)
    assert not any(each.running for each in world.broker.backends.values())
    world.pass_time(0.001)
    located(world, b=100)
    open_all(world)
    assert endpoint_of(world, read) == "b"


def test_a_withdrawn_read_is_answered_once_and_forgotten() -> None:
    world = reading(position=100)
    write(world)
    read = world.query(group=READS)
    assert world.broker.clients[1].requests[read].state is RequestState.PAUSED
    world.broker.cancel(1, read, world.now)
    told = world.reply_to(read)
    assert isinstance(told, Failure)
    assert told.outcome == NOT_EXECUTED
    located(world, a=200, b=200)
    world.pass_time(1)
    assert not any(each.running for each in world.broker.backends.values())


def test_a_read_with_a_short_timeout_leaves_half_of_it_to_the_primary() -> None:
    world = reading(position=100, catch_up=5.0)
    write(world)
    read = world.query(group=READS, timeout=0.5)
    world.pass_time(0.2)
    assert not any(each.running for each in world.broker.backends.values())
    world.pass_time(0.1)
    open_all(world)
    assert endpoint_of(world, read) == "a"


def test_a_read_before_roles_are_known_waits_for_them() -> None:
    world = World(["a", "b"], role="primary")
    world.client()
    read = world.query(group=READS)
    tell(world, b=seen(standby=True, started="b", position=100))
    world.pass_time(PATIENCE)
    open_all(world)
    assert endpoint_of(world, read) == "b", "no primary has answered, and it is not waited for"


def test_without_a_primary_who_is_new_has_to_see_what_the_furthest_replica_shows() -> None:
    world = World(["a", "b", "c"], role="primary")
    world.client()
    tell(world, a="refused", b=seen(standby=True, position=100), c=seen(standby=True, position=900))
    read = world.query(group=READS)
    open_all(world)
    assert not any(each.running for each in world.broker.backends.values())
    located(world, b=900, c=900)
    open_all(world)
    assert endpoint_of(world, read) in ("b", "c")


def test_a_replica_that_keeps_writers_waiting_is_left_out_while_another_does_not() -> None:
    world = reading("a", "b", "c", position=100)
    group = world.broker.groups[READS]
    for number in range(12):
        world.pass_time(0.1)
        here = 200 + number
        tell(world, a=seen(position=here, started="a"), b=seen(standby=True, started="b", position=100))
        tell(world, c=seen(standby=True, started="c", position=here))
    assert [pool.is_serving for pool in group.pools] == [False, False, True]
    tell(world, c=seen(standby=True, started="c", position=100))
    assert [pool.is_serving for pool in group.pools] == [False, True, True], "both are behind, so both are used"


@pytest.mark.parametrize("role", ["replica", "prefer-replica"])
def test_behind_a_promotion_nobody_reads_what_the_old_primary_has_left(role: str) -> None:
    world = World(["a", "b", "c"], role=role)
    tell(world, a=seen(started="a"), b=seen(standby=True), c=seen(standby=True, position=500))
    tell(world, a="refused", b=seen(2, started="b", position=100), c=seen(1, standby=True, position=500))
    serving = [pool.endpoint.name for pool in world.broker.groups["default"].pools if pool.is_serving]
    assert serving == (["b"] if role == "prefer-replica" else [])


def test_writes_in_other_groups_on_the_cluster_count() -> None:
    """One endpoint makes a group without roles; what is written there is written to the cluster."""
    world = reading(position=100)
    other = GroupConfig(endpoints=("a",), min_size=0, prepare="off")
    config = replace(world.config, groups={**world.config.groups, "one": other})
    world.broker = Broker(config, lambda: 0.5)
    world.broker.start(0.0)
    world.client()
    tell(world, a=seen(started="a"), b=seen(standby=True, started="b"))
    assert world.broker.groups["one"].followed is world.broker.groups["default"].cluster


def test_positions_are_refused_where_they_would_mean_nothing() -> None:
    world = cluster(role="prefer-replica")
    found = told(world, follow(world, "77:0/1"))
    assert isinstance(found, Failure)
    assert "has role = 'prefer-replica': it shows what its replicas have" in found.message


def test_writers_positions_are_asked_for_beforehand_while_somebody_reads() -> None:
    world = reading(position=100)
    write(world)
    before = len(world.taken(Locate))
    world.pass_time(0.006)
    assert [each.endpoint for each in world.taken(Locate)[before:]] == ["a"]
    located(world, a=200)
    world.broker.observed("b", seen(standby=True, started="b", position=200), world.now)
    read = world.query(group=READS)
    assert endpoint_of(world, read) == "b", "at once"


def test_where_nobody_reads_on_replicas_nobody_is_asked() -> None:
    world = cluster()
    for _ in range(3):
        write(world)
        world.pass_time(0.5)
    assert not world.taken(Locate)


def test_a_session_is_on_the_primary() -> None:
    world = reading()
    request = world.query(lease=3, session=OPENS_SESSION)
    open_all(world)
    assert endpoint_of(world, request) == "a"


def follow(world: World, position: str = "", client: int = 1, group: str = "default") -> int:
    world._last_request += 1
    world.broker.request(client, Follow(world._last_request, group, position), world.now)
    return world._last_request


def told(world: World, request: int, client: int = 1) -> Any:
    reply: Any = world.reply_to(request, client)
    return reply.body["position"] if isinstance(reply, Answer) else reply


def test_a_position_is_told_behind_the_writes_and_read_by_another_process() -> None:
    world = reading(position=0x100)
    write(world)
    request = follow(world)
    assert not world.is_answered(request)
    located(world, a=0x200)
    assert told(world, request) == "77:0/200"
    assert told(world, follow(world)) == "77:0/200", "known by now"
    world.client(2)
    other = world.query(2, group=READS)
    located(world, a=0x100, b=0x100)
    open_all(world)
    world.finish(other)
    assert told(world, follow(world, "77:0/300", 2), 2) == "77:0/300"
    read = world.query(2, group=READS)
    assert not any(each.running for each in world.broker.backends.values())
    world.pass_time(0.001)
    located(world, b=0x2FF)
    world.pass_time(0.002)
    located(world, b=0x300)
    assert endpoint_of(world, read) == "b"


def test_a_position_covers_what_its_process_was_shown() -> None:
    world = reading(position=0x100)
    follow(world, "77:1/0")
    assert told(world, follow(world)) == "77:1/0"


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("78:0/1", "the position is one of database cluster 78, and group 'default' is on 77"),
        ("nonsense", "'nonsense' is no position; pass what db.position has given"),
        ("77:0/123456789", "is no position"),
    ],
)
def test_a_position_that_is_none_is_refused(position: str, expected: str) -> None:
    world = reading()
    found = told(world, follow(world, position))
    assert isinstance(found, Failure)
    assert expected in found.message


def test_where_no_primary_answers_nobody_waits_for_a_position_for_ever() -> None:
    world = reading(queue_timeout=2.0)
    write(world)
    tell(world, a="refused")
    request = follow(world)
    world.pass_time(2)
    found = told(world, request)
    assert isinstance(found, Failure)
    assert "no primary of group 'default' told its position within 2 s" in found.message


def test_a_client_that_leaves_while_it_asks_is_forgotten() -> None:
    world = reading()
    write(world)
    follow(world)
    world.broker.client_gone(1, world.now)
    located(world, a=0x200)
    assert not world.broker.reading._asking


def test_without_roles_there_is_only_one_state_to_see() -> None:
    world = World(["a"])
    world.client()
    assert told(world, follow(world)) == ""
    assert told(world, follow(world, "77:0/1")) == "77:0/1"


class TestCluster:
    def test_lag_is_the_time_since_the_primary_was_where_the_replica_is(self) -> None:
        found = Cluster("1")
        for second, position in enumerate((100, 200, 300)):
            found.note(position, float(second))
        assert [found.lag(each, 2.5) for each in (300, 299, 200, 199, 100, 99)] == [0.0, 0.5, 0.5, 1.5, 1.5, 2.5]
        assert found.bytes_behind(250) == 50

    def test_one_answer_serves_all_writes_before_it_and_none_behind(self) -> None:
        found = Cluster("1")
        found.wrote("p", is_loose=False)
        found.wrote("q", is_loose=False)
        found.asked += 1
        found.wrote("q", is_loose=False)
        found.located(found.asked, 10, 20, 0.0)
        assert found.wanted("p") == 20, "who is new may have written before, in any way"
        assert found.wanted("q") is None
        found.asked += 1
        found.wrote("p", is_loose=False)
        found.located(found.asked, 30, 40, 0.0)
        assert found.wanted("p") is None
        found.asked += 1
        found.located(found.asked, 50, 60, 0.0)
        assert found.wanted("p") == 50
        found.wrote("p", is_loose=True)
        found.asked += 1
        found.located(found.asked, 70, 80, 0.0)
        assert found.wanted("p") == 80

    def test_processes_that_are_gone_are_forgotten(self) -> None:
        found = Cluster("1")
        for process in range(1000):
            found.wrote(process, is_loose=False)
        found.asked += 1
        found.located(found.asked, 10, 10, 0.0)
        found.forget([5])
        assert found.wanted(5) == 10
        assert found.wanted(6) is None
