"""Standard output for commands: what cannot be encoded is shown escaped, and what cannot be written is an error.

Python gives up on both with a traceback, on the second sometimes only when the interpreter ends, and it says nothing at
all if standard output was closed. Here a failure to write is an exception of its own, as `except OSError` elsewhere is
about other files; `written` makes one line and an exit code of it.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_ERRORS = "poold-escaped"
EXIT_ERROR = 1
# What holds though it could not be printed: entered by `carried_out`.
_done: list[str] = []


class UnwrittenError(Exception):
    """Standard output cannot be written."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(f"cannot write to standard output: {reason.strerror or reason}")
        # Who reads has had enough, as `head` has: that is no reason to complain.
        self.is_left = reason.errno == errno.EPIPE


def carried_out(what: str = "the command was carried out all the same") -> None:
    """Say this, too, if standard output cannot be written from here on: what was ordered has been done."""
    _done[:] = [what]


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """Python's escapes for what cannot be encoded; the mark of a text that is cut must not become longer than it."""
    if isinstance(error, UnicodeEncodeError) and error.object[error.start] == "…":
        return "~", error.start + 1
    if isinstance(error, UnicodeEncodeError):
        marked = error.object.find("…", error.start, error.end)
        if marked >= 0:
            error.end = marked
    return codecs.backslashreplace_errors(error)


codecs.register_error(_ERRORS, _escaped)


def encodable(text: str) -> str:
    """The text with escapes for what standard output cannot encode, so that its width is known."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, _ERRORS).decode(encoding)


class _Output(io.TextIOWrapper):
    """Standard output that says of itself what failed."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise UnwrittenError(error) from error

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise UnwrittenError(error) from error


class _Closed(io.RawIOBase):
    """What there is if standard output was closed before the program began."""

    def writable(self) -> bool:
        return True

    def write(self, _: object) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


@contextmanager
def written() -> Iterator[None]:
    """Let commands print; if that fails the program ends with a line that says so, and EXIT_ERROR."""
    _occupy()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  until the program ends
    if sys.stdout is None:
        sys.stdout = _Output(io.BufferedWriter(_Closed()), encoding="utf-8", errors=_ERRORS, write_through=True)
    elif type(sys.stdout) is io.TextIOWrapper:
        old = sys.stdout
        is_lined = old.line_buffering
        sys.stdout = _Output(old.detach(), encoding=old.encoding, errors=_ERRORS, line_buffering=is_lined)
        # Others look there for the terminal.
        sys.__stdout__ = sys.stdout  # type: ignore[misc]
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except UnwrittenError as error:
        forget_output()
        if not error.is_left or _done:
            with suppress(OSError):
                sys.stderr.write(f"poold: {'; '.join((str(error), *_done))}\n")
        sys.exit(EXIT_ERROR)


def _occupy() -> None:
    """Open what is closed of the standard descriptors: another file would get the number, and what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest number that is free


def forget_output() -> None:
    """Write nothing any more, also not what could not be written by now, which else is tried at the end again."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  until the program ends
