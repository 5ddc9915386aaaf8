"""Endpoints with roles: which are used, when that changes, and what becomes of what runs there."""

from typing import Any

import pytest
from world import BEGUN, ROLLED_BACK, World, failure

from client.wire.messages import (
    FAILED,
    NOT_EXECUTED,
    TX_FAILED,
    TX_NONE,
    UNKNOWN,
    Failure,
    ResultMessage,
    Step,
)
from poold.core import effects
from poold.core.effects import Note, Observe, Remember
from poold.core.facts import Completion, Loss, Observation, Server
from poold.core.pools.endpoint import Role
from poold.core.requests.observing import PATIENCE, URGENT_INTERVAL
from poold.core.state import BackendState as S

STANDBY = Server(160000, "", is_standby=True)
PRIMARY = Server(160000, "1/00000001", is_standby=False)


def seen(
    timeline: int = 1,
    standby: bool = False,
    started: str = "",
    system: str = "77",
    position: int = 0,
    catalogs: str = "",
) -> Observation:
    return Observation(system, standby, timeline, started, position, catalogs)


def cluster(*names: str, **over: Any) -> World:
    """A world whose first endpoint is the primary and whose others are standbys, all of which have said so."""
    names = names or ("a", "b")
    world = World(names, **{"role": "primary", **over})
    world.client()
    tell(world, **{name: seen(standby=name != names[0], started=name) for name in names})
    return world


def tell(world: World, **answers: Observation | str) -> None:
    """Endpoints answer what they are; a text is the error why one does not."""
    for name, answer in answers.items():
        if isinstance(answer, str):
            world.broker.unobserved(name, answer, world.now)
        else:
            world.broker.observed(name, answer, world.now)
    world.take()


def roles(world: World) -> dict[str, str]:
    return {name: each.role.name.lower() for name, each in world.broker.endpoints.items()}


def opened_on(world: World) -> list[str]:
    """The endpoints of all connects so far, in order."""
    return [each.endpoint for each in world.taken(effects.Connect)]


def open_all(world: World) -> None:
    """Every connect under way succeeds, on a server of its endpoint's kind."""
    while waiting := [each for each in world.broker.backends.values() if each.state is S.CONNECTING]:
        is_replica = waiting[0].pool.endpoint.role is Role.REPLICA
        world.broker.opened(waiting[0].number, world.now, STANDBY if is_replica else PRIMARY)
    world.take()


def endpoint_of(world: World, request: int) -> str:
    return world.broker.backends[world.running(request)].pool.endpoint.name


@pytest.mark.parametrize(("names", "over"), [(["a"], {}), (["a", "b"], {"role": "any"})])
def test_who_needs_no_roles_is_asked_nothing(names: list[str], over: dict[str, str]) -> None:
    world = World(names, **{"role": "auto", **over}, min_size=1)
    world.pass_time(5)
    assert not world.taken(Observe)
    assert opened_on(world), "and works at once"


def test_several_endpoints_without_a_word_use_their_primary() -> None:
    world = World(["a", "b", "c"], role="auto", min_size=2, max_size=3)
    assert [each.endpoint for each in world.taken(Observe)] == ["a", "b", "c"]
    tell(world, a=seen(standby=True), b=seen())
    assert not opened_on(world), "c has not answered, and may be a newer primary"
    tell(world, c=seen(standby=True))
    assert set(opened_on(world)) == {"b"}
    assert roles(world) == {"a": "replica", "b": "primary", "c": "replica"}
    assert world.taken(Remember) == [Remember("77", 1)]


def test_an_endpoint_that_says_nothing_is_not_waited_for_for_long() -> None:
    world = World(["a", "b"], role="auto", min_size=1)
    tell(world, a=seen())
    world.pass_time(PATIENCE)
    assert opened_on(world) == ["a", "a"], "for each of the two groups"


def test_one_that_cannot_be_reached_is_not_waited_for_at_all() -> None:
    world = World(["a", "b"], role="auto", min_size=1)
    tell(world, a=seen(), b="connection refused")
    assert opened_on(world) == ["a", "a"]


def test_requests_wait_for_a_primary_and_are_told_why_there_is_none() -> None:
    world = World(["a", "b"], role="primary", queue_timeout=3.0)
    world.client()
    request = world.query()
    tell(world, a=seen(standby=True, timeline=4), b="connection refused")
    world.pass_time(3)
    told = world.reply_to(request)
    assert isinstance(told, Failure)
    assert told.outcome == NOT_EXECUTED
    assert "no endpoint of group 'default' was a primary within 3 s (queue_timeout = 3 s)" in told.message
    assert "a: a replica on timeline 4; b: it does not answer (connection refused)" in told.message


def test_while_there_is_no_primary_endpoints_are_asked_often() -> None:
    world = World(["a", "b"], role="primary")
    tell(world, a=seen(standby=True), b=seen(standby=True))
    before = len(world.taken(Observe))
    world.pass_time(URGENT_INTERVAL)
    assert len(world.taken(Observe)) == before + 2
    tell(world, a=seen(2), b=seen(1, standby=True))
    world.pass_time(URGENT_INTERVAL * 2)
    assert len(world.taken(Observe)) == before + 2
    world.pass_time(1)
    assert len(world.taken(Observe)) == before + 4


def test_waiting_writes_go_to_the_server_that_is_promoted() -> None:
    world = cluster()
    waiting = [world.query() for _ in range(3)]
    open_all(world)
    for backend in list(world.broker.backends.values()):
        world.broker.lost(backend.number, Loss("gone", unsent=1), world.now)
    world.take()
    tell(world, a="refused", b=seen(2, started="b"))
    assert roles(world) == {"a": "fenced", "b": "primary"}
    open_all(world)
    for request in waiting[:2]:
        assert endpoint_of(world, request) == "b"
        world.finish(request)
    world.finish(waiting[2])
    assert all(isinstance(world.reply_to(each), ResultMessage) for each in waiting)
    assert world.taken(Remember)[-1] == Remember("77", 2)


def test_an_old_primary_that_comes_back_gets_nothing() -> None:
    world = cluster()
    tell(world, a="refused", b=seen(2, started="b"))
    tell(world, a=seen(1, started="later"))
    assert roles(world) == {"a": "fenced", "b": "primary"}
    note = [each for each in world.taken(Note) if each.is_bad][-1]
    assert "endpoint has a role endpoint=a role=fenced reason=it was the primary on timeline 1" in note.text
    assert "pg_rewind" in note.text
    request = world.query()
    open_all(world)
    assert endpoint_of(world, request) == "b"
    tell(world, a=seen(2, standby=True))
    assert roles(world)["a"] == "replica"


def test_a_remembered_timeline_fences_an_old_primary_that_answers_alone() -> None:
    world = World(["a", "b"], role="primary", start=False, timelines={"77": 3})
    world.broker.start(world.now)
    tell(world, a=seen(2), b="refused")
    assert roles(world)["a"] == "fenced"
    assert not opened_on(world)


def test_a_standby_that_receives_a_newer_timeline_fences_the_old_primary() -> None:
    world = cluster("a", "b")
    tell(world, b=seen(2, standby=True))
    assert roles(world) == {"a": "fenced", "b": "replica"}


def test_two_primaries_on_one_timeline_are_both_fenced_until_one_is_gone() -> None:
    world = cluster("a", "b", queue_timeout=5.0)
    tell(world, b=seen(1, started="b"))
    assert roles(world) == {"a": "fenced", "b": "fenced"}
    request = world.query()
    assert "a" in opened_on(world) or not opened_on(world)
    assert not [each for each in world.broker.backends.values() if each.running]
    stats = world.broker.snapshot(world.now)["endpoints"]
    assert "it and b both say that they are the primary on timeline 1" in stats["a"]["why"]
    tell(world, b="refused")
    assert roles(world) == {"a": "primary", "b": "fenced"}
    open_all(world)
    assert endpoint_of(world, request) == "a"


def test_one_server_under_two_addresses_is_one_primary() -> None:
    world = World(["a", "b"], role="primary", min_size=4, max_size=4)
    tell(world, a=seen(started="noon"), b=seen(started="noon"))
    assert roles(world) == {"a": "primary", "b": "primary"}
    open_all(world)
    assert sorted(opened_on(world)) == ["a"] * 4 + ["b"] * 4, "of each of the two groups half"


def test_endpoints_of_different_clusters_are_refused_with_what_to_do() -> None:
    world = World(["a", "b"], role="auto")
    world.client()
    waiting = world.query()
    tell(world, a=seen(system="1"), b=seen(system="2"))
    later = world.query()
    for request in (waiting, later):
        told = world.reply_to(request)
        assert isinstance(told, Failure)
        assert (told.kind, told.outcome) == ("usage", NOT_EXECUTED)
        assert "(system identifiers: a: 1, b: 2)" in told.message
        assert 'role = "any"' in told.message
    assert not opened_on(world)


def test_an_endpoint_that_leads_to_another_cluster_later_is_not_used() -> None:
    world = cluster("a", "b")
    tell(world, a="refused", b=seen(9, system="2"))
    assert not world.broker.groups["default"].obstacle
    assert not any(pool.is_serving for pool in world.broker.groups["default"].pools if pool.endpoint.name == "b")
    assert any("endpoint not used endpoint=b group=default" in each.text for each in world.taken(Note) if each.is_bad)


@pytest.mark.parametrize(
    ("role", "expected"),
    [("primary", {"a"}), ("replica", {"b", "c"}), ("prefer-replica", {"b", "c"}), ("any", {"a", "b", "c"})],
)
def test_a_group_uses_the_endpoints_that_it_asks_for(role: str, expected: set[str]) -> None:
    world = World(["a", "b", "c"], role=role, min_size=6, max_size=6)
    if role != "any":
        tell(world, a=seen(), b=seen(standby=True), c=seen(standby=True))
    open_all(world)
    assert set(opened_on(world)) == expected


def test_a_group_that_prefers_replicas_uses_the_primary_while_there_is_none() -> None:
    world = cluster("a", "b", role="prefer-replica", min_size=1, max_size=1)
    open_all(world)
    assert set(opened_on(world)) == {"b"}
    for backend in list(world.broker.backends.values()):
        world.broker.lost(backend.number, Loss("gone"), world.now)
    tell(world, b="refused")
    open_all(world)
    assert {b.pool.endpoint.name for b in world.broker.backends.values()} == {"a"}
    tell(world, b=seen(standby=True))
    open_all(world)
    assert {b.pool.endpoint.name for b in world.broker.backends.values()} == {"b"}, (
        "idle ones on the primary are closed"
    )


def fail_as_standby(world: World, request: int, sqlstate: str) -> None:
    text = "cannot execute INSERT in a read-only transaction"
    world.finish(request, reply=failure(sqlstate, message=text))


@pytest.mark.parametrize("sqlstate", ["25006", "0A000", "55000"])
def test_what_a_standby_refuses_runs_on_the_primary_unseen(sqlstate: str) -> None:
    world = cluster()
    request = world.query()
    (backend,) = world.broker.backends.values()
    world.broker.opened(backend.number, world.now, PRIMARY)
    backend.server = STANDBY  # the server is another one by now, and nobody has noticed
    fail_as_standby(world, request, sqlstate)
    assert not world.is_answered(request)
    assert roles(world)["a"] == "replica", "known at once"
    assert backend.state is S.CLOSED
    tell(world, a=seen(2, standby=True), b=seen(2, started="b"))
    open_all(world)
    assert endpoint_of(world, request) == "b"
    world.finish(request)
    assert isinstance(world.reply_to(request), ResultMessage)


def test_the_same_error_of_a_primary_is_the_statement_s() -> None:
    world = cluster()
    request = world.query()
    open_all(world)
    fail_as_standby(world, request, "25006")
    assert isinstance(world.reply_to(request), Failure)
    assert roles(world)["a"] == "primary"


def test_a_transaction_message_that_met_a_standby_runs_on_the_primary_even_without_retries() -> None:
    world = cluster()
    request = world.transaction(Step(b"INSERT", b"", b"", True, (), 0, None), retries=0)
    open_all(world)
    world.broker.backends[world.running(request)].server = STANDBY
    world.broker.completed(
        world.running(request), Completion(TX_FAILED, [BEGUN], failure("25006", TX_FAILED)), world.now
    )
    world.broker.completed(world.running(request), Completion(TX_NONE, [ROLLED_BACK]), world.now)
    assert not world.is_answered(request)
    tell(world, a=seen(2, standby=True), b=seen(2, started="b"))
    open_all(world)
    assert endpoint_of(world, request) == "b"


def test_a_connect_that_finds_a_standby_is_learned_from_at_once() -> None:
    world = cluster()
    request = world.query()
    (backend,) = world.broker.backends.values()
    before = len(world.taken(Observe))
    world.pass_time(0.1)
    world.broker.opened(backend.number, world.now, STANDBY)
    world.take()
    assert backend.state is S.CLOSED
    assert len(world.taken(Observe)) == before + 2
    assert not world.is_answered(request)


def test_a_lost_connection_has_all_endpoints_asked() -> None:
    world = cluster()
    world.query()
    open_all(world)
    world.pass_time(0.05)
    before = len(world.taken(Observe))
    world.broker.lost(next(iter(world.broker.backends)), Loss("gone"), world.now)
    assert [each.endpoint for each in world.taken(Observe)[before:]] == ["a", "b"]


def test_on_a_fenced_endpoint_nothing_counts_as_done() -> None:
    world = cluster("a", "b", max_size=3, prepare="off")
    lease = world.begin(5)
    autocommit = world.query()
    open_all(world)
    assert endpoint_of(world, autocommit) == "a"
    world.tell(world.running(autocommit))
    backend = world.running(autocommit)
    tell(world, b=seen(2, started="b"))
    assert roles(world) == {"a": "fenced", "b": "primary"}
    told = world.reply_to(autocommit)
    assert isinstance(told, Failure)
    assert told.outcome == UNKNOWN
    assert "a: it was the primary on timeline 1" in told.message
    closed = {each.backend for each in world.taken(effects.Close)}
    assert {lease, backend} <= closed
    later = world.query(group="tx", lease=5)
    told = world.reply_to(later)
    assert isinstance(told, Failure)
    assert (told.kind, told.outcome) == ("transaction-lost", NOT_EXECUTED)
    assert "gone on to timeline 2" in told.message


def test_a_commit_in_doubt_is_not_asked_of_another_timeline() -> None:
    world = cluster("a", "b")
    request = world.transaction(Step(b"INSERT", b"", b"", True, (), 0, None))
    open_all(world)
    backend = world.running(request)
    partial = [BEGUN, BEGUN._replace(command="SELECT 1", columns=b"\0\1", rows=b"D\0\0\0\x0b\0\1\0\0\0\x0117"[:12])]
    world.broker.lost(backend, Loss("gone", partial=partial), world.now)
    tell(world, a="refused", b=seen(2, started="b"))
    told = world.reply_to(request)
    assert told.failure is not None  # type: ignore[union-attr]
    assert "unknown" in told.failure or NOT_EXECUTED in told.failure  # type: ignore[union-attr,operator]
    assert not [each for each in world.broker.backends.values() if each.running and each.pool.endpoint.name == "b"]


def test_an_idle_backend_of_an_endpoint_that_is_not_used_any_more_is_closed() -> None:
    world = cluster("a", "b", min_size=2)
    open_all(world)
    tell(world, a=seen(2, standby=True), b=seen(2, started="b"))
    open_all(world)
    assert {b.pool.endpoint.name for b in world.broker.backends.values()} == {"b"}


def test_a_running_statement_of_a_demoted_endpoint_ends_as_it_ends() -> None:
    world = cluster("a", "b")
    request = world.query()
    open_all(world)
    backend = world.running(request)
    tell(world, a=seen(2, standby=True), b=seen(2, started="b"))
    assert not world.is_answered(request)
    world.finish(request, reply=failure("57014")._replace(outcome=FAILED))
    assert isinstance(world.reply_to(request), Failure)
    assert backend not in world.broker.backends


def test_answers_that_cannot_change_anything_open_nothing_twice() -> None:
    world = cluster("a", "b", min_size=1)
    open_all(world)
    connects = len(opened_on(world))
    for _ in range(5):
        tell(world, a=seen(started="a"), b=seen(standby=True, started="b"))
    world.pass_time(3)
    assert len(opened_on(world)) == connects
    assert len([each for each in world.taken(Note) if "endpoint=a role=" in each.text]) == 1, "told once"


def test_a_session_on_a_demoted_endpoint_ends_with_the_reason() -> None:
    world = cluster("a", "b")
    lease = 7
    request = world.query(lease=lease, session=1)
    open_all(world)
    world.finish(request)
    tell(world, a=seen(2, standby=True), b=seen(2, started="b"))
    told = world.reply_to(world.query(lease=lease, session=2))
    assert isinstance(told, Failure)
    assert "endpoint 'a' is not used any more: a replica on timeline 2" in told.message


def generations(world: World) -> list[int]:
    return [group.statements.generation for group in world.broker.groups.values()]


def test_a_change_of_the_catalogs_is_noticed_on_the_primary_and_again_when_replicas_have_it() -> None:
    world = cluster("a", "b")
    tell(world, a=seen(started="a", catalogs="5", position=100), b=seen(standby=True, started="b", position=100))
    before = generations(world)
    tell(world, a=seen(started="a", catalogs="5", position=200))
    assert generations(world) == before
    tell(world, a=seen(started="a", catalogs="6", position=300))
    assert generations(world) == [each + 1 for each in before]
    tell(world, b=seen(standby=True, started="b", position=299, catalogs="1234"))
    assert generations(world) == [each + 1 for each in before], "what a replica says of its catalogs is only the time"
    tell(world, b=seen(standby=True, started="b", position=300, catalogs="1235"))
    assert generations(world) == [each + 2 for each in before]
    tell(world, a=seen(started="a", catalogs="6", position=400), b=seen(standby=True, started="b", position=400))
    assert generations(world) == [each + 2 for each in before]


def test_a_replica_s_own_counts_matter_only_while_no_primary_tells() -> None:
    world = cluster("a", "b")
    watch = world.broker.groups["default/replicas"].pools[1].watch
    assert [watch.have_changed(counts) for counts in (b"1", b"2", b"3")] == [False, False, False]
    tell(world, a="refused")
    assert [watch.have_changed(counts) for counts in (b"4", b"4", b"5")] == [False, False, True]


def test_after_a_promotion_nothing_is_taken_for_proven() -> None:
    world = cluster("a", "b")
    before = generations(world)
    tell(world, a="refused", b=seen(2, started="b"))
    assert generations(world) == [each + 1 for each in before]
