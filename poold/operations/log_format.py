"""How log lines look: one event, one line, and no statements or values of clients.

Some of what is logged comes from strangers, as the release that a client claims to be. It cannot begin a line of its
own, steer a terminal, or fill the disk. An exception that nobody expected is logged with its traceback but without its
text, which may quote a statement, a parameter or a row.
"""

import logging
import re
import traceback
from types import TracebackType

# Characters of one event. The longest useful one is an endpoint's error with all its addresses.
LONGEST = 2000
# All control characters, also those that a terminal takes for the end of a line or the beginning of a command.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_Info = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def printable(text: str) -> str:
    """Return the text with Python's escape in the place of each control character."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def origin(error: BaseException) -> str:
    """Return where an exception came from: types and lines of code, its causes first, no texts."""
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = [origin(earlier), "which led to"] if earlier is not None else []
    lines += ["Traceback (most recent call last):", *map(str.rstrip, traceback.format_tb(error.__traceback__))]
    kind = type(error)
    return "\n".join(
        [*lines, f"{kind.__module__}.{kind.__qualname__} (its text may quote statements and is not shown)"]
    )


class LineFormatter(logging.Formatter):
    """The formatter of the broker's log."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """Return the record's line, cut and without control characters."""
        line = printable(super().formatMessage(record)[: LONGEST + 1])
        return line if len(line) <= LONGEST else line[:LONGEST] + "..."

    def formatException(self, ei: _Info) -> str:  # noqa: N802  logging's name
        """Return what follows the line: where the exception came from."""
        return "" if ei[1] is None else origin(ei[1])
