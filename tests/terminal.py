"""A real terminal for a program: a pseudo terminal, its keys, and what its screen shows."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pyte
from brokers import ROOT, environment

# A program of its own session, whose terminal is its standard input: so Ctrl-C and the terminal's end reach it.
_BECOME = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
PATIENCE = 60.0


class Terminal:
    """`poold ARGUMENTS` on a terminal of this size."""

    def __init__(self, *arguments: str, columns: int = 100, lines: int = 24, **variables: str) -> None:
        self._end, theirs = os.openpty()
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""  # all that it has written
        self.resize(columns, lines)
        command = [sys.executable, "-c", _BECOME, sys.executable, "-m", "poold", *arguments]
        known = environment(**{"TERM": "xterm", **variables})
        self.process = subprocess.Popen(command, cwd=ROOT, env=known, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)

    def resize(self, columns: int, lines: int) -> None:
        """Give it another size."""
        self._screen.resize(lines, columns)
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._end, keys.encode())

    def shown(self) -> list[str]:
        """The lines on the screen, after what has been written by now."""
        while select.select([self._end], [], [], 0.05)[0]:
            try:
                data = os.read(self._end, 65536)
            except OSError:  # nobody has the other end any more
                break
            if not data:
                break
            self.raw += data
            self._stream.feed(data)
        return [line.rstrip() for line in self._screen.display]

    def wait(self, text: str) -> list[str]:
        """Wait until the screen shows this text; returns its lines."""
        deadline = time.monotonic() + PATIENCE
        while not any(text in line for line in self.shown()):
            assert time.monotonic() < deadline, f"{text!r} is not shown:\n" + "\n".join(self.shown())
        return self.shown()

    def finish(self) -> int:
        """Wait for the program's end; returns its exit code."""
        deadline = time.monotonic() + PATIENCE
        while (code := self.process.poll()) is None:
            self.shown()
            assert time.monotonic() < deadline, "it does not end:\n" + "\n".join(self.shown())
        self.shown()
        return code

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self._end)
