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
