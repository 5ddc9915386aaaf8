"""What cursors read: a statement that fetches does not say it, the one that has declared the cursor does.

For people, in logs, traces and figures; so a statement of an unusual form is at worst shown without its query.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import NamedTuple

from client.wire.masking import masked, shape

# Cursors of one lease that are remembered: a program closes few of those in a long session.
MOST_KEPT = 100

_NAME = rb"(?:\"[^\"]*+\"|[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*+)"
_STATEMENT = re.compile(
    rb"(?i)\s*+(?:DECLARE\s++(?P<declares>" + _NAME + rb")\s++(?:[A-Z]++\s++){1,8}?FOR\s++"
    rb"|(?:FETCH|MOVE)\s++(?:(?:[A-Z0-9+-]++\s++){0,4}?(?:FROM|IN)\s++)?(?P<fetches>" + _NAME + rb")"
    rb"|CLOSE\s++(?P<closes>" + _NAME + rb"))"
)


class CursorUse(NamedTuple):
    """What a statement does with a cursor."""

    verb: str  # declares, fetches or closes
    name: bytes
    query: bytes  # of a declaration, "" otherwise


class Source:
    """The query of a cursor."""

    def __init__(self, query: bytes) -> None:
        self.query = query  # with NUL for each parameter

    @cached_property
    def shape(self) -> bytes:
        """Without values, by which it is counted."""
        return shape(self.query)


class Cursors:
    """The cursors of one lease. One that has ended with its transaction stays until its name is used again."""

    def __init__(self) -> None:
        self._known: dict[bytes, Source] = {}

    def take(self, use: CursorUse) -> Source | None:
        """Take note of a statement in the lease; return what it fetches from, None if it does not, or nobody knows."""
        if use.verb == "fetches":
            return self._known.get(use.name)
        self._known.pop(use.name, None)
        if use.verb == "declares":
            self._known[use.name] = Source(use.query)
            if len(self._known) > MOST_KEPT:
                del self._known[next(iter(self._known))]
        return None


def described(statement: bytes, source: Source | None) -> str:
    """Return what is to be shown of a statement, and behind it that of the query from which it fetches."""
    return masked(statement) if source is None else f"{masked(statement)}: {masked(source.query)}"


def cursor_use(statement: bytes) -> CursorUse | None:
    """Return what the statement does with a cursor, None if it does nothing of that kind."""
    found = _STATEMENT.match(statement)
    if found is None:
        return None
    verb = str(found.lastgroup)
    name = found[verb]
    name = name[1:-1] if name[:1] == b'"' else name.lower()
    return CursorUse(verb, name, statement[found.end() :] if verb == "declares" else b"")
