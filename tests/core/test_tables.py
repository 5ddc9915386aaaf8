"""The tables of `poold stats` from what a core tells: every section fits a small terminal, rates are per second."""

from __future__ import annotations

from typing import Any

import pytest
from world import World

from poold.core.sections.wanted import MOST_ROWS, SECTIONS, Wanted
from poold.operations.figures import lines_of
from poold.operations.layout import Room, render
from poold.operations.tables import Rates, of_section, overview

GENERAL = {
    "pid": 7, "version": "0", "address": "ipc:///x", "uptime_s": 10.0, "cpu_s": 0.5, "memory_kb": 2048,
    "max_memory_kb": 4096, "lane": {"state": "compiled", "requests": 1, "handed_over": 0, "given_back": 0},
}  # fmt: skip


def figures(world: World, *names: str, **over: Any) -> dict[str, Any]:
    return {**GENERAL, **world.broker.snapshot(world.now, None, Wanted(names, MOST_ROWS)), **over}


def busy() -> World:
    """A world in which some run, some wait, and one is idle in its transaction."""
    world = World(max_size=2)
    world.client()
    world.begin(lease=5)
    for number in range(30):
        world.query(statement=b"SELECT %d, 'a rather long text'" % number, tag=f"tag {number}")
        world.query(group="tx", tag="a tag")
    world.connect_all()
    world.now += 1234.5
    return world


@pytest.mark.parametrize("name", SECTIONS)
@pytest.mark.parametrize("size", [(40, 12), (80, 24), (200, 60)])
def test_every_section_fits_the_terminal(name: str, size: tuple[int, int]) -> None:
    told = figures(busy(), name)
    found, _ = of_section(name, told, Rates(told))
    lines = render(found, Room(*size))
    assert len(lines) <= size[1]
    assert max(map(len, lines)) <= size[0]


def test_elsewhere_all_rows_are_there() -> None:
    told = figures(busy(), "queue", "backends")
    lines = lines_of(told, None, ("queue", "backends"))
    assert sum("tag " in line and "no backend is free" in line for line in lines) >= 28
    assert "not shown" not in "".join(lines)
    assert "memory 2 MB now, 4 MB at most" in lines[0]


def test_the_overview_is_told_without_a_section() -> None:
    world = busy()
    told = {**GENERAL, **world.broker.snapshot(world.now)}
    text = "\n".join(lines_of(told, None, ()))
    assert overview(told, Rates(told))
    for heading in ("requests/s", "wait p99", "connecting", "leases", "age", "oldest"):
        assert heading in text


def test_rates_are_those_between_two_looks_or_those_that_the_broker_has_counted() -> None:
    group = {"requests": 100, "transactions": 10, "errors": 0, "rates": {"seconds": 61.0, "requests": 0.5}}
    first = {"pid": 7, "uptime_s": 10.0, "groups": {"default": group}}
    second = {"pid": 7, "uptime_s": 12.0, "groups": {"default": {**group, "requests": 150}}}
    alone = Rates(second)
    assert (alone.title, alone.of("default", group, "requests")) == ("per second over the last 61 s", 0.5)
    both = Rates(second, first)
    assert (both.title, both.of("default", second["groups"]["default"], "requests")) == ("per second now", 25.0)  # type: ignore[index]
    assert both.of("new", group, "requests") is None
    restarted = Rates({**second, "pid": 8}, first)
    assert restarted.title == "per second over the last 61 s"


def test_what_is_said_below_the_queue_is_of_all_that_wait_whatever_is_shown() -> None:
    world = busy()
    whole = {**GENERAL, **world.broker.snapshot(world.now, None, Wanted(("queue",), MOST_ROWS))}
    few = {**GENERAL, **world.broker.snapshot(world.now, None, Wanted(("queue",), 3))}
    below = [of_section("queue", told, Rates(told))[1] for told in (whole, few)]
    assert below[0] == below[1]
    assert sum(int(line.split()[0]) for line in below[0]) == len(whole["queue"])


@pytest.mark.parametrize("height", [None, 8, 9, 12, 24, 60])
@pytest.mark.parametrize("limit", [1, 3, 7, 29, 30, 100])
def test_statements_that_are_not_shown_are_counted_truly(limit: int, height: int | None) -> None:
    world = World()
    world.client()
    for number in range(30):
        request = world.query(statement=b"SELECT a_%d FROM t" % number)
        world.connect_all()
        world.now += 0.01
        world.finish(request)
    told = {**GENERAL, **world.broker.snapshot(world.now, None, Wanted(("statements",), limit))}
    assert told["statements_total"]["statements"] == 30
    lines = render(of_section("statements", told, Rates(told))[0], Room(200, height))
    shown = sum("SELECT a_" in line for line in lines)
    said = [line for line in lines if "others" in line.split() or "other" in line.split() or "not shown" in line]
    assert len(said) <= 1
    hidden = [int(word) for line in said for word in line.split()[-2 if "other" in line else 0 :][:1]]
    assert shown + sum(hidden) == 30
    assert sum("all of them" in line for line in lines) == 1


def test_the_overview_fits_a_small_screen_with_rows_of_every_table_that_is_there() -> None:
    told = {**GENERAL, **busy().broker.snapshot(1234.5)}
    lines = lines_of(told, None, (), Room(80, 24), 24)
    assert len(lines) <= 24
    text = "\n".join(lines)
    for heading in ("requests/s", "wait p99", "connecting", "leases"):
        assert heading in text
    assert "no room for 2 tables: " in lines[-1]
    assert "backends since the start" in lines[-1]
    assert sum(line.startswith(("default", "tx")) for line in lines) >= 6


def test_without_a_height_nothing_of_the_overview_is_missing() -> None:
    told = {**GENERAL, **busy().broker.snapshot(1234.5)}
    text = "\n".join(lines_of(told, None, (), Room(80), 24))
    for heading in ("requests/s", "wait p99", "connecting", "joined", "leases", "age"):
        assert heading in text
    assert "no room" not in text


@pytest.mark.parametrize("width", [30, 40, 60, 80])
def test_the_lines_above_are_whole_at_any_width(width: int) -> None:
    told = {**GENERAL, **busy().broker.snapshot(1234.5)}
    lines = lines_of(told, None, ("groups",), Room(width))
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert "lane: compiled, 1 request, 0 backends handed over with what they ran, 0 given back" in text
    assert "up 10.0s, cpu 500ms, memory 2 MB now, 4 MB at most, 1 client " in text


def waiting_for_locks(count: int) -> dict[str, Any]:
    waiter = {
        "pid": 21932, "tag": "checkout", "statement_age_ms": 4100.0, "lease": "30/1", "request": None,
        "lock": {"in_words": "a row of public.accounts"}, "statement": "UPDATE accounts SET balance = 0 WHERE id = ?",
        "idle_in_transaction_ms": None, "is_own": True, "waits": True, "state": "leased", "server_pid": 9,
    }  # fmt: skip
    holder = {**waiter, "tag": "admin page", "lease": "27/1", "idle_in_transaction_ms": 9900.0, "waits": False}
    prepared = {"is_own": False, "server_pid": None, "state": "prepared transaction"}
    stranger = {"is_own": False, "server_pid": 12345, "application_name": "psql", "user": "root", "state": "idle"}
    return {"locks": [{**waiter, "blocked_by": [holder, stranger, prepared]}] * count, "locks_unknown": {}}


@pytest.mark.parametrize("width", [40, 60, 80, 90, 100, 120, 200])
def test_who_holds_a_lock_and_what_ends_it_is_told_at_any_width(width: int) -> None:
    told = figures(busy(), "backends", **waiting_for_locks(1))
    lines = lines_of(told, None, ("backends",), Room(width))
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for said in ("30/1", "checkout", "4.1s", "poold kill --lease 27/1", "SELECT pg_terminate_backend(12345)"):
        assert said in text
    for command in ("poold kill --lease 27/1", "SELECT pg_terminate_backend(12345)"):
        assert any(command in line for line in lines), "it can be copied"
    assert "a prepared transaction" in text
    assert "ROLLBACK PREPARED; see pg_prepared_xacts" in text
    assert "process 21932 (admin page): idle in transac" in text


def test_that_nobody_waits_for_a_lock_and_of_whom_nothing_is_known_stands_where_locks_would() -> None:
    told = figures(busy(), "backends", **waiting_for_locks(0))
    lines = render(of_section("backends", told, Rates(told))[0], Room(80))
    assert lines[0] == "statements that wait for a lock"
    assert "nobody waits for a lock" in lines[2]
    told["locks_unknown"] = {"main": "no answer within 3 s"}
    lines = render(of_section("backends", told, Rates(told))[0], Room(80))
    assert lines[1] == "not known of endpoint main: no answer within 3 s"
    assert "nobody is known to wait for a lock" in lines[:4]


def test_a_small_terminal_shows_for_whom_backends_work_and_at_what() -> None:
    told = figures(busy(), "backends")
    lines = render(of_section("backends", told, Rates(told))[0], Room(80))
    for heading in ("group", "state", "age", "lease", "pid", "tag", "statement"):
        assert heading in lines[1].split()
    assert max(map(len, lines)) == 80
