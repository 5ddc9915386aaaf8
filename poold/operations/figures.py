"""`poold stats`: what the broker is asked for, and how it is shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import click

from client.wire.arguments import MOST_ROWS, ORDERS, SECTIONS
from poold.operations import tables
from poold.operations.asking import PlainCommand, address_option, ask, fail, json_option, print_json, target_of
from poold.operations.cells import fitted
from poold.operations.layout import Room, Table, render
from poold.operations.output import carried_out

WATCH_INTERVAL = 1.0
# Rows of a list on a terminal, if it has not more lines.
USUAL_ROWS = 20
# What an answer with these sections has.
_PROOFS = {"endpoints": "pools", "clients": "processes"}

Take = Callable[[], dict[str, Any]]


@click.command(cls=PlainCommand)
@click.argument("sections", nargs=-1, metavar="[SECTION]...", type=click.Choice(SECTIONS))
@address_option
@json_option
@click.option("--watch", is_flag=True, help="Show it again every second until Ctrl-C, with rates of that second.")
@click.option("--sort", type=click.Choice(ORDERS), help="statements: rank them by this; else by total.")
@click.option(
    "--limit",
    type=click.IntRange(1, MOST_ROWS),
    metavar="N",
    help="Show so many backends, clients, statements or waiting requests at most; else 20, or as many as the terminal "
    "has lines, and without a terminal 1000.",
)
@click.option("--locks", is_flag=True, help="backends: ask PostgreSQL who waits for whose lock. For admins.")
@click.option(
    "--format",
    "text_format",
    type=click.Choice(["prometheus", "openmetrics"]),
    help="Print all metrics as text for monitoring systems.",
)
@click.option("--reset", is_flag=True, help="statements: show the figures, then begin anew. For admins.")
def stats(
    sections: tuple[str, ...],
    address: str | None,
    as_json: bool,
    watch: bool,
    sort: str | None,
    limit: int | None,
    locks: bool,
    text_format: str | None,
    reset: bool,
) -> None:
    """Show what the broker is doing: at a glance, or by section.

    Sections: groups, endpoints, backends, clients, statements, queue.
    """
    sections = tuple(dict.fromkeys(sections))
    if (sort or reset) and sections != ("statements",):
        raise click.UsageError(f"{'--sort' if sort else '--reset'} is for: poold stats statements")
    if locks and "backends" not in sections:
        raise click.UsageError("--locks is for: poold stats backends")
    if watch and as_json:
        raise click.UsageError("--watch is for people, --json for programs: give one of them")
    if watch and reset:
        raise click.UsageError("--reset begins anew once; give it without --watch")
    target = target_of(address)
    if text_format is not None:
        if as_json or watch:
            raise click.UsageError("--format goes with neither --json nor --watch")
        if sections or limit:
            raise click.UsageError("--format prints all metrics; give it without sections and --limit")
        click.echo(ask(target, "metrics", [("format", text_format)])["text"], nl=False)
        return
    height = None if as_json else Room.here().height
    rows = limit or (MOST_ROWS if height is None else max(height, USUAL_ROWS))
    shown = rows if sections else limit  # the overview has its own measure
    arguments = [("section", name) for name in sections]
    if sections:
        arguments.append(("limit", str(rows)))
    arguments += [("sort", sort)] if sort else []
    arguments += [("locks", "yes")] if locks else []
    arguments += [("reset", "yes")] if reset else []

    def take() -> dict[str, Any]:
        figures = ask(target, "stats", arguments)
        for name in sections:
            if _PROOFS.get(name, name) not in figures:
                fail(f"the broker (poold {figures['version']}) does not know section {name}; restart it")
        if reset:
            carried_out("the statements' figures are reset all the same")
        return figures

    if watch:
        show_continuously(take, sections, shown)
    elif as_json:
        print_json(take())
    else:
        print_lines(lines_of(take(), None, sections, Room(Room.here().width), shown))


def lines_of(
    figures: dict[str, Any],
    before: dict[str, Any] | None,
    sections: tuple[str, ...],
    room: Room | None = None,
    most: int | None = None,
) -> list[str]:
    """The figures as lines that fit the room, with so many rows of lists at most."""
    room = Room() if room is None else room
    rates = tables.Rates(figures, before)
    found: list[Table] = []
    below: list[str] = []
    parts = [tables.of_section(name, figures, rates, most) for name in sections] or [
        tables.overview(figures, rates, most)
    ]
    for some, lines in parts:
        found += some
        below += lines
    part = None if room.height is None else room.height // 4
    top, below = fitted(tables.head(figures), room.width, part), fitted(below, room.width, part)
    return [*top, "", *render(found, room, len(top) + 1 + len(below)), *below]


def print_lines(lines: list[str]) -> None:
    """Print lines as they are: they come from strangers, and are no markup."""
    for line in lines:
        click.echo(line)


def show_continuously(take: Take, sections: tuple[str, ...], most: int | None) -> None:
    """Show new figures every second until Ctrl-C: in place on a terminal, else one after the other."""
    from rich.console import Console  # which takes as long to import as all other commands need
    from rich.live import Live
    from rich.text import Text

    before = None
    try:
        if not sys.stdout.isatty():
            while True:
                figures = take()
                print_lines(lines_of(figures, before, sections, most=most))
                sys.stdout.flush()
                before = figures
                time.sleep(WATCH_INTERVAL)
        with Live(Text(""), console=Console(highlight=False), auto_refresh=False, screen=True) as live:
            while True:
                figures = take()
                shown = "\n".join(lines_of(figures, before, sections, Room.here(), most))
                live.update(Text(shown, no_wrap=True, overflow="crop"), refresh=True)
                before = figures
                time.sleep(WATCH_INTERVAL)
    except KeyboardInterrupt:
        return
