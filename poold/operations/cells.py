"""What people are shown, as texts: numbers, times, words of strangers; and texts that are cut or folded to a width."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from poold.operations.log_format import printable
from poold.operations.output import encodable

MORE = "…"  # in the place of what is cut off


def cell(value: object) -> str:
    """A value as it is shown. Texts come from clients: they must not steer the terminal."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return number(value)
    return encodable(printable(str(value)))


def number(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def counted(count: int, noun: str) -> str:
    """So many of something."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


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


def cut(text: str, width: int) -> str:
    """The text if it is no wider, else its beginning, and a mark that there is more."""
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)) + MORE


def folded(text: str, width: int | None, indent: str = "") -> list[str]:
    """The text on lines of this width, the later ones indented; words are broken only if they are too long for one."""
    if width is None:
        return [text]
    lines: list[str] = []
    line, is_begun = "", False
    for word in text.split():
        if is_begun and cell_len(line) + 1 + cell_len(word) > width:
            lines.append(line)
            line, is_begun = indent, False
        line += f" {word}" if is_begun else word
        is_begun = True
        while cell_len(line) > width:
            end = min(len(line), width)
            while cell_len(line[:end]) > width and end > len(indent) + 1:
                end -= 1
            lines.append(line[:end])
            line = indent + line[end:]
    return [*lines, line] if is_begun else lines


def fitted(lines: Sequence[str], width: int | None, most: int | None) -> list[str]:
    """Lines that are no table: folded; and if there are more than most, the last one says that there is more."""
    found = [part for line in lines for part in folded(line, width)]
    if most is None or width is None or len(found) <= most:
        return found
    kept = found[: max(1, most)]
    return [*kept[:-1], cut(f"{kept[-1]} {MORE}", width)]
