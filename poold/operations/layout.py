"""Tables of text that fit a terminal: what is less important gives way, and no number is ever cut.

A table that is too wide first loses the ends of its long texts, down to what each column needs at least, and then its
least important columns; what room is left goes to the texts of the most important ones. Tables that are too high for
the screen share its lines, and say how many rows are not shown. Without a terminal nothing is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from shutil import get_terminal_size
from textwrap import wrap

from rich.cells import cell_len, set_cell_size

from poold.operations.log_format import printable

GAP = 2  # between columns
# What a text is cut down to before columns are left out.
LEAST_TEXT = 12
# Where there is no terminal a text may be so long, so that the columns behind it can be found.
LONGEST_TEXT = 400


@dataclass(frozen=True, slots=True)
class Column:
    """A column. Texts stand left and may be cut, numbers stand right and may not.

    rank: the one with the highest goes first if there is no room; 0 stays.
    """

    heading: str
    rank: int = 0
    is_text: bool = False
    least: int = LEAST_TEXT


@dataclass(slots=True)
class Table:
    """A table; more counts rows that there are and that nobody has sent."""

    title: str
    columns: Sequence[Column]
    rows: list[list[str]] = field(default_factory=list)
    more: int = 0

    def add(self, *cells: object) -> None:
        """Add a row; None is a dash."""
        self.rows.append([cell(each) for each in cells])


@dataclass(frozen=True, slots=True)
class Room:
    """The size of the terminal, None if there is none."""

    width: int | None = None
    height: int | None = None

    @classmethod
    def here(cls) -> Room:
        """That of standard output."""
        if not sys.stdout.isatty():
            return cls()
        size = get_terminal_size()
        return cls(max(20, size.columns), max(8, size.lines))


def cell(value: object) -> str:
    """A value as it is shown. Texts come from clients: they must not steer the terminal."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return number(value)
    return printable(str(value))


def number(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def duration(milliseconds: float | None) -> str | None:
    """A time for people."""
    if milliseconds is None:
        return None
    seconds = milliseconds / 1000
    if seconds < 1:
        return f"{milliseconds:.0f}ms" if milliseconds >= 1 else f"{milliseconds:.1g}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 48 else f"{hours // 24}d{hours % 24:02}h"


def render(tables: Sequence[Table], room: Room, used: int = 0) -> list[str]:
    """The lines of all tables, with a blank line between two; used lines of the screen are others'."""
    limits = _shares(tables, None if room.height is None else room.height - used)
    lines: list[str] = []
    for table, limit in zip(tables, limits, strict=True):
        if limit >= 0:
            lines += [""] if lines else []
            lines += _lines(table, room.width, limit)
    return lines


def wrapped(lines: Sequence[str], room: Room) -> list[str]:
    """Lines that are no table, as many as a part of the screen holds."""
    if room.width is None or room.height is None:
        return list(lines)
    found = [part for line in lines for part in wrap(line, room.width)]
    return found[: max(1, room.height // 4)]


def _shares(tables: Sequence[Table], height: int | None) -> list[int]:
    """How many lines each table has below its head, -1 if there is no room even for that; the first ones come first."""
    wanted = [len(table.rows) + bool(table.more) for table in tables]
    if height is None:
        return wanted
    limits: list[int] = []
    left = height
    for each in wanted:
        least = 2 + bool(limits) + bool(each)
        is_room = left >= least or not limits
        limits.append(bool(each) if is_room else -1)
        left -= least if is_room else 0
    while left > 0 and (hungry := [n for n, each in enumerate(limits) if 0 <= each < wanted[n]]):
        for place in hungry[:left]:
            limits[place] += 1
        left -= len(hungry)
    return limits


def _lines(table: Table, width: int | None, limit: int) -> list[str]:
    """The table, with so many lines below its head; the last one says how many rows are missing."""
    is_whole = len(table.rows) + bool(table.more) <= limit
    rows = table.rows if is_whole else table.rows[: max(0, limit - 1)]
    missing = len(table.rows) - len(rows) + table.more
    shown, widths = _fitted(table, rows, width)
    lines = [table.title, _line([table.columns[place].heading for place in shown], table.columns, shown, widths)]
    lines += [_line([row[place] for place in shown], table.columns, shown, widths) for row in rows]
    lines += [f"{missing} more are not shown"] if missing else []
    return [line if width is None else set_cell_size(line, min(cell_len(line), width)) for line in lines]


def _line(cells: list[str], columns: Sequence[Column], shown: list[int], widths: list[int]) -> str:
    parts = []
    for text, place, width in zip(cells, shown, widths, strict=True):
        size = cell_len(text)
        if size > width:
            parts.append(set_cell_size(text, max(0, width - 1)) + "…")
        else:
            blank = " " * (width - size)
            parts.append(text + blank if columns[place].is_text else blank + text)
    return (" " * GAP).join(parts).rstrip()


def _fitted(table: Table, rows: list[list[str]], width: int | None) -> tuple[list[int], list[int]]:
    """The columns that are shown, and their widths."""
    columns = table.columns
    full = [max((cell_len(row[place]) for row in rows), default=0) for place in range(len(columns))]
    full = [max(size, cell_len(column.heading)) for size, column in zip(full, columns, strict=True)]
    full = [min(size, LONGEST_TEXT) if column.is_text else size for size, column in zip(full, columns, strict=True)]
    least = [
        min(size, max(column.least, cell_len(column.heading))) if column.is_text else size
        for size, column in zip(full, columns, strict=True)
    ]
    shown = list(range(len(columns)))
    if width is None:
        return shown, full
    while len(shown) > 1 and _sum(least, shown) > width:
        shown.remove(max(shown, key=lambda place: (columns[place].rank, place)))
    widths = {place: least[place] for place in shown}
    left = width - _sum(least, shown)
    for place in sorted(shown, key=lambda place: columns[place].rank):
        given = min(full[place] - widths[place], left)
        widths[place] += given
        left -= given
    return shown, [widths[place] for place in shown]


def _sum(widths: list[int], shown: list[int]) -> int:
    return sum(widths[place] for place in shown) + GAP * (len(shown) - 1)
