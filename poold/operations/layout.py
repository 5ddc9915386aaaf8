"""Tables that fit a terminal: what is less important gives way, and no number is ever cut.

A table that is too wide first loses the ends of its long texts, down to what each column needs at least, and then its
least important columns; what room is left goes to the next columns that fit, and to the texts of the most important
ones. If not even what must be seen fits side by side, each row is a few lines of `name: value`. Where there is a height
as well, tables share its lines, each has some, and the least important ones go first; what is not shown is counted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from shutil import get_terminal_size

from rich.cells import cell_len

from poold.operations.cells import cell, counted, cut, folded

GAP = 2  # between columns
# What a text is cut down to before columns are left out.
LEAST_TEXT = 12
# Where there is no terminal a text may be so long, so that the columns behind it can be found.
LONGEST_TEXT = 400
# For columns up to this rank texts are cut down to the least; for those behind it, to what is good to read.
WANTED = 2
# Below its head each table has so many lines, if it has as many, before another one has more.
LEAST_LINES = 3
# A long text in a row of `name: value` may take so many lines.
TEXT_LINES = 3


@dataclass(frozen=True, slots=True)
class Column:
    """A column. Texts stand left and may be cut, numbers stand right and may not.

    rank: the one with the highest goes first if there is no room; 0 has to be seen. is_whole: a text that is not cut,
    as a command to copy. good: how much of a text can be read, if that is more than the least.
    """

    heading: str
    rank: int = 0
    is_text: bool = False
    least: int = LEAST_TEXT
    good: int = 0
    is_whole: bool = False


@dataclass(slots=True)
class Table:
    """A table. What the title says first is its name.

    notes stand below the title. pinned: rows that stand before all others and are not counted. more: rows that there
    are and that nobody has sent; rest is a row with their sums, for where all others are shown. nothing: what is said
    if there are no rows. rank: if there is no room for all tables, the one with the highest goes first.
    """

    title: str
    columns: Sequence[Column]
    rows: list[list[str]] = field(default_factory=list)
    more: int = 0
    notes: list[str] = field(default_factory=list)
    pinned: list[list[str]] = field(default_factory=list)
    rest: list[str] | None = None
    nothing: str = ""
    rank: int = 0

    def add(self, *cells: object) -> None:
        """Add a row; None is a dash."""
        self.rows.append(row(*cells))


def row(*values: object) -> list[str]:
    """The cells of a row; None is a dash."""
    return [cell(each) for each in values]


@dataclass(frozen=True, slots=True)
class Room:
    """The size of the terminal, or of a part of it; None if there is no limit.

    has_blocks: whether rows that are too wide may take more than a line.
    """

    width: int | None = None
    height: int | None = None
    has_blocks: bool = True

    @classmethod
    def here(cls) -> Room:
        """That of standard output."""
        if not sys.stdout.isatty():
            return cls()
        size = get_terminal_size()
        return cls(max(20, size.columns), max(8, size.lines))


def render(tables: Sequence[Table], room: Room, used: int = 0) -> list[str]:
    """The lines of all tables, with a blank line between two; used lines of the screen are others'."""
    forms = [_Form(table, room) for table in tables]
    height = None if room.height is None else room.height - used
    shares = _shares(forms, height)
    lines: list[str] = []
    for place, share in shares.items():
        lines += [""] if lines else []
        lines += forms[place].lines(share)
    if missing := [form.table.title.partition(";")[0] for place, form in enumerate(forms) if place not in shares]:
        text = f"no room for {counted(len(missing), 'table')}: {'; '.join(missing)}"
        lines.append(text if room.width is None else cut(text, room.width))
    return lines if height is None else lines[: max(1, height)]


def head_of(table: Table, width: int) -> int:
    """How many lines stand above the first row, where rows have one line each."""
    return len(_above(table, width)) + 1 + len(table.pinned)


def _above(table: Table, width: int | None) -> list[str]:
    return [line for text in (table.title, *table.notes) for line in folded(text, width)]


class _Form:
    """A table in the form that its room allows."""

    def __init__(self, table: Table, room: Room) -> None:
        self.table = table
        self._width = room.width
        self._above = _above(table, room.width)
        rows = [*table.pinned, *table.rows, *([table.rest] if table.rest else [])]
        # Each row on lines of its own; None if it is one line of a table.
        self._blocks: list[list[str]] | None = None
        if room.width is not None and room.has_blocks and _chosen(table.columns, rows, room.width, True) is None:
            self._blocks = [_block(table.columns, row, room.width) for row in rows]
        self._tail = bool(table.more) and table.rest is None
        is_empty = not rows and not table.more
        self._nothing = folded(table.nothing, room.width) if is_empty and table.nothing else []
        self.head = len(self._above) + (self._blocks is None)
        self.body = len(rows) if self._blocks is None else sum(map(len, self._blocks))
        self.body += self._tail + len(self._nothing)
        self.least = min(self.body, LEAST_LINES)

    def lines(self, limit: int) -> list[str]:
        """The table, with so many lines at most below its head; the last one says how many rows are missing."""
        table = self.table
        rows = [*table.pinned, *table.rows, *([table.rest] if table.rest else [])]
        kept = rows
        missing = table.more if self._tail else 0
        if self.body > limit:
            count = self._fitting(limit - 1)
            kept = rows[:count]
            missing = len(table.rows) - max(0, count - len(table.pinned)) + table.more
        lines = list(self._above)
        if self._blocks is not None:
            lines += [line for block in self._blocks[: len(kept)] for line in block]
        else:
            shown, widths = _fitted(table.columns, kept, self._width)
            headings = [column.heading for column in table.columns]
            lines += [_line(row, table.columns, shown, widths) for row in (headings, *kept)]
            if self._width is not None:
                lines = [cut(line, self._width) for line in lines]
        return [*lines, *self._nothing, *([f"{missing} more are not shown"] if missing and limit > 0 else [])]

    def _fitting(self, limit: int) -> int:
        """How many rows fit on so many lines, without the one for the rest."""
        most = len(self.table.pinned) + len(self.table.rows)
        if self._blocks is None:
            return max(0, min(limit, most))
        count = used = 0
        while count < most and used + len(self._blocks[count]) <= limit:
            used += len(self._blocks[count])
            count += 1
        return count


def _shares(forms: Sequence[_Form], height: int | None) -> dict[int, int]:
    """How many lines the tables have below their heads; those that are not there have no room."""
    if height is None:
        return {place: form.body for place, form in enumerate(forms)}
    kept = list(range(len(forms)))

    def needed() -> int:
        gaps = len(kept) - 1 + (len(kept) < len(forms))
        return gaps + sum(forms[place].head + forms[place].least for place in kept)

    while len(kept) > 1 and needed() > height:
        kept.remove(max(kept, key=lambda place: (forms[place].table.rank, place)))
    shares = {place: forms[place].least for place in kept}
    left = height - needed()
    if left < 0:
        return {place: max(0, share + left) for place, share in shares.items()}
    while left > 0 and (hungry := [place for place in kept if shares[place] < forms[place].body]):
        for place in hungry[:left]:
            shares[place] += 1
        left -= len(hungry)
    return shares


def _line(cells: Sequence[str], columns: Sequence[Column], shown: list[int], widths: list[int]) -> str:
    parts = []
    for place, width in zip(shown, widths, strict=True):
        text = cut(cells[place], width)
        blank = " " * (width - cell_len(text))
        parts.append(text + blank if columns[place].is_text else blank + text)
    return (" " * GAP).join(parts).rstrip()


def _block(columns: Sequence[Column], row: Sequence[str], width: int) -> list[str]:
    """A row as `name: value`, as many of them on a line as fit; numbers and commands are whole, long texts are cut."""
    items = []
    for column, value in zip(columns, row, strict=True):
        if value != "-" and column.rank <= WANTED:
            text = value if column.is_whole or not column.is_text else cut(value, TEXT_LINES * width)
            items.append((column.heading, text))
    return joined(items, width)


def joined(items: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Lines of `name: value`, as many of them on a line as fit; all but the first are indented.

    A value that is too long for the rest of its line, and not for one of its own, gets that.
    """
    lines: list[str] = []
    is_open = False  # whether the last line has whole items, behind which another one can stand
    for name, text in items:
        item = f"{name}: {text}"
        if is_open and cell_len(lines[-1]) + GAP + cell_len(item) <= width:
            lines[-1] += " " * GAP + item
            continue
        indent = "  " if lines else ""
        own = folded(item, width - len(indent), "  ")
        if len(own) > 1 and len(indent) + 2 + cell_len(text) <= width:
            own = [f"{name}:", f"  {text}"]
        lines += [indent + line for line in own]
        is_open = len(own) == 1
    return lines


def _full(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[int]:
    """How wide the columns are if nothing is cut."""
    full = [max((cell_len(row[place]) for row in rows), default=0) for place in range(len(columns))]
    full = [max(size, cell_len(column.heading)) for size, column in zip(full, columns, strict=True)]
    return [
        min(size, LONGEST_TEXT) if _can_be_cut(column) else size for size, column in zip(full, columns, strict=True)
    ]


def _can_be_cut(column: Column) -> bool:
    return column.is_text and not column.is_whole


def _down_to(columns: Sequence[Column], full: Sequence[int], is_good: bool) -> list[int]:
    """How wide the columns are if texts are cut down to the least, or to what is good to read."""
    return [
        min(size, max(column.least, column.good * is_good, cell_len(column.heading))) if _can_be_cut(column) else size
        for size, column in zip(full, columns, strict=True)
    ]


def _chosen(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int, is_strict: bool = False
) -> list[int] | None:
    """The columns that are shown; None if is_strict and one that has to be seen has no room."""
    full = _full(columns, rows)
    least, good = _down_to(columns, full, False), _down_to(columns, full, True)
    shown: list[int] = []
    for place in sorted(range(len(columns)), key=lambda place: columns[place].rank):
        sizes = least if columns[place].rank <= WANTED else good
        if not shown or _sum(sizes, [*shown, place]) <= width:
            shown.append(place)
        elif is_strict and columns[place].rank == 0:
            return None
    if is_strict and _sum(least, shown) > width:
        return None
    return sorted(shown)


def _fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> tuple[list[int], list[int]]:
    """The columns that are shown, and their widths."""
    full = _full(columns, rows)
    if width is None:
        return list(range(len(columns))), full
    shown = _chosen(columns, rows, width) or []
    least, good = _down_to(columns, full, False), _down_to(columns, full, True)
    widths = {place: least[place] for place in shown}
    left = width - _sum(least, shown)
    for sizes in (good, full):
        for place in sorted(shown, key=lambda place: columns[place].rank):
            given = max(0, min(sizes[place] - widths[place], left))
            widths[place] += given
            left -= given
    return shown, [widths[place] for place in shown]


def _sum(widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum(widths[place] for place in shown) + GAP * (len(shown) - 1)
