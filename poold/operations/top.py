"""`poold top`: the sections of `poold stats` live on the whole screen, where rows can be chosen and ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import click

from client.wire.arguments import ORDERS
from poold.operations import tables
from poold.operations.asking import PlainCommand, address_option, fail, target_of
from poold.operations.cells import cell, counted, cut, duration, fitted
from poold.operations.layout import Room, Table, head_of, joined, render
from poold.operations.polling import Order, Polling
from poold.operations.screen import Screen, taken_screen

# How long a key may wait for what it does to be seen, in seconds.
TICK = 0.1
ROWS = 500
PAUSE_TIMEOUT = 30.0
LEAST_COLUMNS, LEAST_LINES = 20, 6
# A table that has fewer lines has one for its title.
LEAST_FOR_TITLES = 8

_SECTIONS = {
    "g": "groups", "e": "endpoints", "b": "backends", "c": "clients", "w": "queue", "t": "statements",
}  # fmt: skip
Row = Mapping[str, Any]


def _largest(key: str) -> Callable[[Row], float]:
    return lambda row: -(row.get(key) or 0)


# How the rows of a section can be sorted; statements are sorted by the broker.
_ORDERS: dict[str, dict[str, Callable[[Row], Any]]] = {
    "groups": {
        "name": lambda row: row["name"],
        "requests/s": lambda row: -(row["rates"]["requests"] or 0),
        "waiting": _largest("waiting"),
        "errors": _largest("errors"),
    },
    "endpoints": {"name": lambda row: (row["group"], row["endpoint"]), "active": _largest("active")},
    "backends": {
        "work": lambda row: 0,
        "age": _largest("statement_age_ms"),
        "idle": _largest("idle_in_transaction_ms"),
        "lease age": _largest("lease_age_ms"),
        "number": lambda row: row["number"],
    },
    "clients": {
        "leases": _largest("leases"),
        "requests": _largest("requests"),
        "clients": _largest("clients"),
        "pid": lambda row: row["pid"],
    },
    "queue": {"age": _largest("age_ms"), "group": lambda row: row["group"], "pid": lambda row: row["pid"]},
}
# What tells a row from others, so that the chosen one stays chosen when others come and go.
_IDENTITIES = {
    "groups": ("name",),
    "endpoints": ("group", "endpoint"),
    "backends": ("number",),
    "clients": ("pid", "uid", "gid", "name"),
    "queue": ("id",),
    "statements": ("group", "kind", "text"),
}
HELP = (
    ("g", "groups"), ("e", "endpoints"), ("b", "backends"), ("c", "clients"), ("w", "who waits, and why"),
    ("t", "statements"),
    ("up, down, page up, page down, home, end", "choose a row"),
    ("s", "sort by something else"),
    ("k", "end what is chosen: a lease or a request, in clients a process (asks first)"),
    ("p", "pause the group of what is chosen, or let it go on (asks first)"),
    ("h", "this help; any key ends it"),
    ("q", "quit"),
)  # fmt: skip
# What stands below, as much of it as fits.
_KEYS = (
    "g e b c w t: sections  s sort  k kill  p pause  h help  q quit",
    "g e b c w t  s k p  h help  q quit",
    "h help  q quit",
)


class Top:
    """What is shown, what is chosen, and what the keys do."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.section = "groups"
        self._orders = dict.fromkeys([*_ORDERS, "statements"], 0)  # by section: which of its orders
        self._polling = Polling(target, self._question())
        self._chosen = 0
        self._first = 0  # the first row on the screen
        self._has_help = False
        self._order: Order | None = None
        # What y does, and the question for it.
        self._confirm: tuple[str, Callable[[], Order]] | None = None
        self._note = ""
        self._rows: list[Row] = []

    def _question(self) -> list[tuple[str, str]]:
        found = [("section", self.section), ("limit", str(ROWS))]
        return [*found, ("sort", self.order)] if self.section == "statements" else found

    @property
    def order(self) -> str:
        """What the section is sorted by."""
        names = ORDERS if self.section == "statements" else tuple(_ORDERS[self.section])
        return names[self._orders[self.section] % len(names)]

    def press(self, key: str) -> bool:
        """Do what the key is for; False if that is to quit."""
        if self._has_help:
            self._has_help = False
        elif self._confirm is not None:
            act = self._confirm[1]
            self._confirm = None
            if key in ("y", "Y"):
                self._order = act()
            else:
                self._note = "nothing is done"
        elif key == "q":
            return False
        elif key in _SECTIONS:
            self.section = _SECTIONS[key]
            self._chosen = self._first = 0
            self._rows = []
            self._clear()
            self._polling.ask(self._question())
        elif key in ("h", "?"):
            self._has_help = True
        elif key == "s":
            self._orders[self.section] += 1
            self._polling.ask(self._question())
        elif key in ("k", "p"):
            self._clear()
            (self._kill if key == "k" else self._pause)()
        else:
            self._move(key)
        return True

    def _clear(self) -> None:
        self._note = ""
        self._order = None

    def _move(self, key: str) -> None:
        steps = {"up": -1, "down": 1, "page up": -10, "page down": 10, "home": -len(self._rows), "end": len(self._rows)}
        self._chosen = min(max(0, self._chosen + steps.get(key, 0)), max(0, len(self._rows) - 1))

    def _take(self, rows: list[Row]) -> None:
        """These are the rows from here on; the one that was chosen stays so if it is among them."""
        names = _IDENTITIES[self.section]
        old = self._row()
        wanted = None if old is None else [old.get(name) for name in names]
        self._rows = rows
        found = [place for place, row in enumerate(rows) if [row.get(name) for name in names] == wanted]
        self._chosen = found[0] if found else self._chosen
        self._move("")

    def _row(self) -> Row | None:
        return self._rows[self._chosen] if self._chosen < len(self._rows) else None

    def _kill(self) -> None:
        row = self._row()
        kind, name = ("", "") if row is None else self._victim(row)
        if row is None or not kind:
            self._note = "nothing here can be ended; choose a lease, a request or a process"
            return
        who = f" of process {row['pid']}" if kind != "pid" else ""
        tag = f" ({cell(row['tag'])})" if row.get("tag") else ""
        text = f"end {kind} {name}{who}{tag}"
        self._confirm = (f"{text}? y/n", lambda: Order(self._target, "kill", [(kind, name)], PAUSE_TIMEOUT, text))

    def _victim(self, row: Row) -> tuple[str, str]:
        """What is ended with the row, by the words of `poold kill`; ("", "") if nothing can be."""
        if self.section == "clients":
            return "pid", str(row["pid"])
        if self.section == "queue":
            return "request", row["id"]
        if self.section == "backends" and row["client"] is not None:
            return ("lease", row["lease"]) if row["lease"] else ("request", row["request"] or "")
        return "", ""

    def _pause(self) -> None:
        row = self._row()
        name = None if row is None else row.get("group", row.get("name") if self.section == "groups" else None)
        if name is None:
            self._note = "choose a row of a group"
            return
        name = str(name).partition("/")[0]
        is_paused = self.section == "groups" and row is not None and row["state"] != "running"
        if self.section == "endpoints" and row is not None:
            is_paused = row["is_paused"]
        what, text = ("resume", f"resume group {name}") if is_paused else ("pause", f"pause group {name}")
        arguments = [("group", name)] + ([] if is_paused else [("timeout", str(PAUSE_TIMEOUT))])
        self._confirm = (f"{text}? y/n", lambda: Order(self._target, what, arguments, PAUSE_TIMEOUT + 10, text))

    # What is shown.

    def lines(self, width: int, height: int) -> tuple[list[str], int | None]:
        """The screen, and which line is chosen."""
        if width < LEAST_COLUMNS or height < LEAST_LINES:
            return ["too small"], None
        if self._has_help:
            return joined(HELP, width)[:height], None
        taken = self._polling.taken
        figures = taken.figures if taken.figures is not None and self._is_current(taken.figures) else None
        above = [cut(line, width) for line in (self._title(taken.figures), self._status(taken.error, taken.news))]
        keys = next((line for line in _KEYS if len(line) <= width), _KEYS[-1])
        if figures is None:
            return [*above, *[""] * (height - 3), keys], None
        tables_found, rows = self._tables(figures, taken.before)
        self._take(rows)
        below = self._detail(width, 3 if height >= 20 else 1)
        room = height - len(above) - len(below) - 1
        shown, marked = self._main(tables_found[0], width, room)
        shown += self._others(tables_found[1:], width, room - len(shown))
        filled = [*above, *shown]
        filled += [""] * (height - 1 - len(below) - len(filled))
        return [*filled, *below, keys], None if marked is None else len(above) + marked

    def _is_current(self, figures: Row) -> bool:
        """Whether the figures are those of the section, and not of the one before."""
        return {"endpoints": "pools", "clients": "processes"}.get(self.section, self.section) in figures

    def _title(self, figures: Row | None) -> str:
        if figures is None:
            return f"poold at {self._target}"
        memory = figures["memory_kb"] or figures["max_memory_kb"]
        return (
            f"{self.section} by {self.order} | poold {figures['version']}, process {figures['pid']}, "
            f"{figures['state']}, up {duration(figures['uptime_s'] * 1000)}, {counted(figures['clients'], 'client')}, "
            f"{memory // 1024} MB"
        )

    def _status(self, error: str, news: str) -> str:
        if self._confirm is not None:
            return self._confirm[0]
        if error:
            return cell(f"no answer, trying again: {error}")
        return cell(self._note or (self._order.outcome if self._order is not None else "") or news)

    def _tables(self, figures: Row, before: Row | None) -> tuple[list[Table], list[Row]]:
        """The tables of the section, the one whose rows can be chosen first, and these rows."""
        key = {"endpoints": "pools", "clients": "processes"}.get(self.section, self.section)
        rows = figures[key]
        if self.section == "groups":
            rows = [{"name": name, **group} for name, group in rows.items()]
        if self.section != "statements":
            rows = sorted(rows, key=_ORDERS[self.section][self.order])
        ordered = {**figures, key: {row["name"]: row for row in rows} if self.section == "groups" else rows}
        found, _ = tables.of_section(self.section, ordered, tables.Rates(figures, before))
        return found, list(rows)

    def _main(self, table: Table, width: int, room: int) -> tuple[list[str], int | None]:
        """The lines of the table around the chosen row, and which of them that is."""
        if room < LEAST_FOR_TITLES:
            table = replace(table, title=cut(table.title, width))
        head = head_of(table, width)
        most = max(1, room - head - 1)
        self._first = min(max(self._first, self._chosen - most + 1), self._chosen)
        rows = table.rows[self._first : self._first + most]
        hidden = len(table.rows) - len(rows)
        if hidden:
            table = replace(table, rows=rows, more=table.more + hidden, rest=None)
        lines = render([table], Room(width, room, has_blocks=False))
        return lines, head + self._chosen - self._first if self._rows and rows else None

    def _others(self, others: list[Table], width: int, room: int) -> list[str]:
        return ["", *render(others, Room(width, room - 1, has_blocks=False))] if others and room > 4 else []

    def _detail(self, width: int, most: int) -> list[str]:
        """What the chosen row is, in full: its statement, or why it waits."""
        row = self._row() or {}
        text = " | ".join(str(row[key]) for key in ("why", "statement", "text", "error") if row.get(key))
        text = cell(text)
        return fitted([text], width, most) or [""]


def watch(screen: Screen, top: Top) -> None:
    """Show and obey until that is over."""
    while True:
        screen.show(*top.lines(*screen.size()))
        for key in screen.keys(TICK):
            if not top.press(key):
                return


@click.command(cls=PlainCommand)
@address_option
def top(address: str | None) -> None:
    """Show what the broker is doing live on the whole screen; choose rows and end them. h is help, q quits."""
    target = target_of(address)
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        fail("top needs a terminal with a screen for its input and output; elsewhere use: poold stats --watch")
    try:
        with taken_screen() as screen:
            watch(screen, Top(target))
    except (KeyboardInterrupt, EOFError):
        return
