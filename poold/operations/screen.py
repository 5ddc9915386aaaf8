"""A terminal as a screen of lines, and its keys; left as it was found, whatever ends the program."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from rich.cells import cell_len, set_cell_size

# Another screen without a cursor and without wrapping, and back to what was there.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST, _REVERSED, _PLAIN = "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[7m", "\x1b[0m"
_KEYS = {
    "\x1b[A": "up", "\x1bOA": "up", "\x1b[B": "down", "\x1bOB": "down", "\x1b[5~": "page up", "\x1b[6~": "page down",
    "\x1b[H": "home", "\x1bOH": "home", "\x1b[1~": "home", "\x1b[F": "end", "\x1bOF": "end", "\x1b[4~": "end",
    "\x1b": "escape", "\r": "enter", "\n": "enter",
}  # fmt: skip
_LONGEST_KEY = max(map(len, _KEYS))


class Screen:
    """The terminal that standard input and output are."""

    def __init__(self) -> None:
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._before = termios.tcgetattr(self._in)
        self._shown: tuple[object, ...] = ()

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        size = os.get_terminal_size(self._out)
        return size.columns or 80, size.lines or 24

    def show(self, lines: Sequence[str], marked: int | None) -> None:
        """Show these lines, the marked one reversed; nothing is written if that is there already."""
        width, height = self.size()
        now = (tuple(lines), marked, width, height)
        if now == self._shown:
            return
        self._shown = now
        shown = []
        for place, line in enumerate(lines[:height]):
            text = set_cell_size(line, width) if place == marked or cell_len(line) > width else line
            # Before the text: behind a line as wide as the screen the cursor stands on its last character.
            shown.append(_REST_OF_LINE + (_REVERSED + text + _PLAIN if place == marked else text))
        self._write(_HOME + "\r\n".join(shown) + ("\r\n" + _REST if len(shown) < height else ""))

    def keys(self, seconds: float) -> list[str]:
        """The keys that were pressed, waiting for so long at most for the first one."""
        ready, _, _ = select.select([self._in], [], [], seconds)
        if not ready:
            return []
        data = os.read(self._in, 1024)
        if not data:
            raise EOFError
        return list(_named(data.decode("ascii", "ignore")))

    def enter(self) -> None:
        """Take the terminal."""
        tty.setcbreak(self._in, termios.TCSANOW)  # what was typed ahead counts
        self._shown = ()
        self._write(_ENTER)

    def leave(self) -> None:
        """Give it back as it was."""
        with suppress(OSError, termios.error):  # it may be gone
            self._write(_LEAVE)
            termios.tcsetattr(self._in, termios.TCSADRAIN, self._before)

    def _write(self, text: str) -> None:
        data = text.encode(sys.stdout.encoding, sys.stdout.errors or "strict")
        while data:
            data = data[os.write(self._out, data) :]


def _named(text: str) -> Iterator[str]:
    """The keys in what the terminal has sent; other sequences are nothing."""
    at = 0
    while at < len(text):
        size = next((n for n in range(_LONGEST_KEY, 0, -1) if text[at : at + n] in _KEYS), 1)
        found = text[at : at + size]
        at += size
        if found == "\x1b" and text[at : at + 1] in ("[", "O"):
            at += 1
            while at < len(text) and not "@" <= text[at] <= "~":
                at += 1
            at += 1
            continue
        yield _KEYS.get(found, found)


@contextmanager
def taken_screen() -> Iterator[Screen]:
    """The terminal as a screen until the end; also when the program is stopped for a while, or told to end."""
    screen = Screen()

    def stopped(_: int, __: FrameType | None) -> None:
        screen.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        screen.enter()  # it goes on

    def ended(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    handlers = {signal.SIGTSTP: stopped, signal.SIGTERM: ended, signal.SIGHUP: ended}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        screen.enter()
        yield screen
    finally:
        screen.leave()
        for number, handler in before.items():
            signal.signal(number, handler)
