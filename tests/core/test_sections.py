"""Who waits, for whom, and why, as `poold stats` tells it by section."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from world import World

from client.wire.arguments import packed_arguments
from client.wire.limits import BATCH, OPENS_SESSION
from client.wire.messages import TX_ACTIVE, Ask, Step
from poold.core.operations.selection import NotPossible
from poold.core.sections import wanted as asking
from poold.core.sections.queue import REASONS_SHOWN
from poold.core.sections.texts import LONGEST, shown
from poold.core.sections.wanted import OVERVIEW, SECTIONS, Wanted, wanted


def section(world: World, *names: str, reader: int | None = None, limit: int = 100, sort: str = "total") -> Any:
    return world.broker.snapshot(world.now, reader, Wanted(names, limit, sort))


def waiting(world: World) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = section(world, "queue")["queue"]
    return found


def why(world: World) -> str:
    """Why the one that waits does."""
    (found,) = waiting(world)
    return str(found["why"])


def test_work_has_the_tags_of_open_transactions_and_sessions_between_their_statements_too() -> None:
    world = World(max_size=2)
    world.client()
    request = world.query(1, "tx", lease=5, begin=True, tag="first")
    world.connect_all()
    world.finish(request, TX_ACTIVE)
    session = world.query(lease=6, session=OPENS_SESSION, tag="session")
    world.connect_all()
    world.finish(session)
    assert [(each["what"], each["tag"]) for each in world.broker.snapshot(world.now)["work"]] == [
        ("transaction", "first"),
        ("session", "session"),
    ]
    world.finish(world.query(1, "tx", lease=5, tag="second"), TX_ACTIVE)
    assert world.broker.snapshot(world.now)["work"][0]["tag"] == "second"


def full(**settings: Any) -> World:
    """A world with one backend, which runs a statement of client 1 since 1 s; client 2 is there."""
    world = World(max_size=1, **settings)
    world.client()
    world.client(2)
    world.query(tag="report", statement=b"SELECT slow\0()", types=b"\0\0\0\0", values=b"\0\0\0\1x")
    world.connect_all()
    world.now += 1
    return world


# What is asked for.


def asked(*pairs: tuple[str, str]) -> Wanted:
    return wanted(Ask(1, "stats", packed_arguments(pairs)))


def test_without_a_section_it_is_the_overview() -> None:
    assert asked() == OVERVIEW
    assert asked(("section", "queue"), ("limit", "7")) == Wanted(("queue",), 7)
    assert asked(("section", "backends"), ("limit", "999999")).limit == asking.MOST_ROWS


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        ([("section", "nothing")], "there are groups, endpoints, backends, clients, statements, queue"),
        ([("sort", "name")], "they are by total, calls, mean, p99, rows, errors"),
        ([("limit", "0")], "limit is '0'"),
        ([("limit", "-1")], "limit is '-1'"),
        ([("limit", "1"), ("limit", "2")], "given 2 times"),
        ([("limit", "")], "the limit of stats is an empty text"),
        ([("sort", "")], "the sort of stats is an empty text"),
        ([("locks", "yes")], "locks belong to section backends"),
        ([("reset", "yes")], "reset belongs to section statements"),
        ([("what", "x")], "stats has no 'what'"),
    ],
)
def test_what_cannot_be_asked_is_told_with_what_can(pairs: list[tuple[str, str]], text: str) -> None:
    with pytest.raises(NotPossible, match=text):
        asked(*pairs)


def test_nobody_pays_for_what_nobody_asks_for() -> None:
    world = full()
    assert {"groups", "endpoints", "processes", "work"} <= set(world.broker.snapshot(world.now))
    always = {"state", "clients"}
    for name in SECTIONS:
        keys = set(section(world, name)) - always
        own = {"endpoints": "pools", "clients": "processes"}.get(name, name)
        assert own in keys
        assert len(keys) <= 5


# Backends.


def test_a_backend_tells_what_it_runs_since_when_and_for_whom() -> None:
    world = full()
    (found,) = section(world, "backends")["backends"]
    assert (found["state"], found["group"], found["endpoint"]) == ("active", "default", "main")
    assert (found["client"], found["pid"], found["tag"]) == (1, 1001, "report")
    assert (found["statement"], found["statement_age_ms"]) == ("SELECT slow$1()", 1000)
    assert (found["lease"], found["idle_in_transaction_ms"], found["behind"]) == (None, None, 0)
    assert found["request"] == "1/1"


def test_a_lease_that_runs_nothing_tells_for_how_long_and_what_it_ran_last() -> None:
    world = World()
    world.client()
    request = world.query(group="tx", lease=7, begin=True, tag="shop", statement=b"UPDATE a SET b = 1")
    world.connect_all()
    world.now += 2
    world.complete(world.running(request), TX_ACTIVE)
    world.now += 3
    (found,) = section(world, "backends")["backends"]
    assert (found["state"], found["lease"], found["lease_kind"]) == ("leased", "1/7", "transaction")
    assert (found["lease_age_ms"], found["idle_in_transaction_ms"]) == (5000, 3000)
    assert (found["tag"], found["statement"], found["request"]) == ("shop", "UPDATE a SET b = ?", None)


def test_what_works_comes_first_and_what_is_left_out_is_counted() -> None:
    world = World(max_size=3, min_size=3)
    world.connect_all()
    world.client()
    world.query()
    found = section(world, "backends")["backends"]
    assert [each["state"] for each in found] == ["active"] + ["idle"] * (len(found) - 1)
    cut = section(world, "backends", limit=1)
    assert (len(cut["backends"]), cut["backends_not_shown"]) == (1, len(found) - 1)


def test_only_admins_are_shown_statements() -> None:
    world = full()
    world.query(2)
    assert waiting(world)[0]["statement"] == "SELECT ?"
    told = section(world, "backends", "queue", "statements", reader=2)
    assert "SELECT" not in str(told)
    assert told["backends"][0]["pid"] == 1001


def test_a_transaction_message_is_shown_with_its_statements() -> None:
    world = World()
    world.client()
    world.transaction(*[Step(b"SELECT %d" % n, b"", b"", True, (), 0, None) for n in range(2)])
    world.connect_all()
    (found,) = section(world, "backends")["backends"]
    assert found["statement"] == "BEGIN; SELECT ?; SELECT ?; COMMIT"


def test_texts_are_on_one_line_and_not_too_long() -> None:
    assert shown(b"SELECT\n  a\0b, \0") == "SELECT a$1b, $2"
    assert len(shown(b"x" * 100_000)) == LONGEST
    assert shown(b"\xff") == "�"


# Who waits.


def test_who_waits_is_told_with_those_who_have_the_backends() -> None:
    world = full()
    world.query(2, tag="page", priority=0)
    world.now += 0.5
    (found,) = waiting(world)
    assert (found["id"], found["pid"], found["group"], found["priority"], found["tag"]) == (
        "2/2", 1002, "default", "interactive", "page",
    )  # fmt: skip
    assert (found["age_ms"], found["state"]) == (500, "queued")
    assert found["why"] == (
        "no backend is free: of 1 backend, 1 run and 0 are leased (process 1001, request 1/1: runs for 1.5 s)"
    )


def test_an_idle_transaction_that_holds_a_backend_is_named_with_its_lease() -> None:
    world = World(max_size=1)
    world.client()
    world.client(2)
    world.begin(lease=9)
    world.now += 12
    world.query(2, "tx")
    assert why(world) == (
        "no backend is free: of 1 backend, 0 run and 1 are leased "
        "(process 1001, lease 1/9: idle in transaction for 12 s)"
    )


def test_of_many_holders_the_longest_are_named() -> None:
    world = World(max_size=5)
    world.client()
    for _ in range(5):
        world.query()
        world.connect_all()
        world.now += 1
    world.query()
    assert why(world).startswith(
        "no backend is free: of 5 backends, 5 run and 0 are leased (process 1001, request 1/1: runs for 5 s"
    )
    assert why(world).endswith("; and 2 more)")


def test_a_paused_group_says_so() -> None:
    world = full()
    world.client(9)
    world.ask("pause", 9)
    world.query(2)
    assert why(world) == "group default is paused; poold resume"
    world.ask("resume", 9)
    world.ask("pause", 9, endpoint="main")
    assert why(world) == "endpoint main is paused; poold resume"


def test_an_endpoint_that_is_away_says_why() -> None:
    world = World()
    world.client()
    world.query()
    (backend,) = world.broker.backends
    world.take()
    world.broker.connect_failed(backend, "refused\nby all", world.now)
    assert why(world).startswith("endpoint main is away: refused by all (next try in ")


def test_a_backend_that_is_being_opened_is_told() -> None:
    world = World()
    world.client()
    world.query()
    assert why(world) == "no backend is free: of 2 backends, 0 run and 0 are leased; 1 being opened"


def test_batch_waits_for_its_share() -> None:
    world = World(max_size=2, batch_share=0.5, min_size=2)
    world.connect_all()
    world.client()
    world.query(priority=BATCH)
    world.query(priority=BATCH)
    assert why(world).startswith("batch_share is used up: priority batch has 1 of 1 backends, of 2 backends, 1 run")


def test_a_statement_behind_another_one_of_its_lease_says_so() -> None:
    world = World()
    world.client()
    backend = world.begin(lease=3)
    world.query(group="tx", lease=3)
    world.now += 2
    world.query(group="tx", lease=3)
    assert why(world) == "behind its own transaction: process 1001, lease 1/3: runs for 2 s"
    world.complete(backend, TX_ACTIVE)
    assert not waiting(world)


def test_a_client_that_does_not_read_is_told() -> None:
    world = full()
    world.broker.client_stalled(2)
    world.query(2)
    assert why(world) == "its client leaves replies unread; it goes on when they are read"


def test_the_oldest_are_shown_and_the_others_counted() -> None:
    world = full()
    for _ in range(5):
        world.query(2)
        world.now += 1
    found = section(world, "queue", limit=2)
    assert [each["age_ms"] for each in found["queue"]] == [5000, 4000]
    assert found["queue_not_shown"] == 3


def test_how_many_wait_for_what_is_told_of_all_that_wait_however_many_are_shown() -> None:
    world = full()
    for place in range(40):
        world.query(2, priority=BATCH if place % 4 == 0 else 0)
    world.begin(lease=7)
    world.connect_all()
    for _ in range(3):
        world.query(group="tx", lease=7)
    found = section(world, "queue", limit=2)
    assert len(found["queue"]) == 2
    told = [(each["requests"], each["group"], each["why"].partition(":")[0]) for each in found["queue_reasons"]]
    assert told == [(40, "default", "no backend is free"), (2, "tx", "behind its own transaction")]
    assert found["queue_not_shown"] == 40


def test_who_is_kept_back_for_its_priority_is_counted_apart() -> None:
    world = World(max_size=2, batch_share=0.5)
    world.client()
    world.query(priority=BATCH)
    world.connect_all()
    world.query()
    world.connect_all()
    for place in range(5):
        world.query(priority=BATCH if place < 2 else 0)
    told = section(world, "queue")["queue_reasons"]
    assert [(each["requests"], each["why"].partition(":")[0]) for each in told] == [
        (3, "no backend is free"), (2, "batch_share is used up"),
    ]  # fmt: skip


def test_of_many_different_reasons_those_of_most_requests_are_told() -> None:
    world = World(max_size=40)
    for place in range(1, 30):
        world.client(place)
        world.begin(lease=7, client=place)
        world.connect_all()
        for _ in range(place + 1):
            world.query(place, group="tx", lease=7)
    counts = Counter(each["why"] for each in section(world, "queue", limit=1000)["queue"])
    assert len(counts) > REASONS_SHOWN
    told = section(world, "queue", limit=1)["queue_reasons"]
    assert [each["requests"] for each in told] == sorted(counts.values(), reverse=True)[:REASONS_SHOWN]
    assert all(each["requests"] == counts[each["why"]] for each in told)


def test_clients_are_as_many_as_are_asked_for() -> None:
    world = World()
    for place in range(1, 6):
        world.client(place)
        world.query(place)
    found = section(world, "clients", limit=2)
    assert (len(found["processes"]), found["processes_not_shown"]) == (2, 3)
    assert (len(found["work"]), found["work_not_shown"]) == (2, 3)


# Statements.


def run(world: World, statement: bytes, seconds: float, **over: Any) -> None:
    request = world.query(statement=statement, **over)
    world.connect_all()
    world.now += seconds
    world.finish(request)


def test_statements_are_ranked_and_the_others_are_one_line() -> None:
    world = World()
    world.client()
    for number in range(3):
        run(world, b"SELECT a FROM often WHERE b = %d" % number, 0.1)
    run(world, b"SELECT slow()", 1.0)
    run(world, b"SELECT fast()", 0.01)
    by_total = section(world, "statements")
    assert [each["text"] for each in by_total["statements"]] == [
        "SELECT slow()", "SELECT a FROM often WHERE b = ?", "SELECT fast()",
    ]  # fmt: skip
    first = by_total["statements"][0]
    assert (first["calls"], first["rows"], first["errors"], first["by_lane"], first["is_prepared"]) == (
        1,
        1,
        0,
        0,
        False,
    )
    assert (first["total_ms"], first["mean_ms"]) == (1000, 1000)
    assert first["share"] == pytest.approx(1 / 1.31, abs=0.001)
    assert by_total["statements_others"]["calls"] == 0
    by_calls = section(world, "statements", sort="calls", limit=1)
    assert [each["calls"] for each in by_calls["statements"]] == [3]
    assert (by_calls["statements_others"]["calls"], by_calls["statements_others"]["statements"]) == (2, 2)
    assert by_calls["statements_total"]["calls"] == 5


@pytest.mark.parametrize("sort", asking.ORDERS)
def test_each_order_ranks_the_largest_first(sort: str) -> None:
    world = World()
    world.client()
    for seconds in (0.1, 0.3, 0.2):
        run(world, b"SELECT f_%d()" % (seconds * 10), seconds)
    found = section(world, "statements", sort=sort)["statements"]
    assert [each["text"] for each in found] == ["SELECT f_3()", "SELECT f_2()", "SELECT f_1()"]
