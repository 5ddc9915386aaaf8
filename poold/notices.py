"""The notices that come with a unit's results: the last ones, and no more than a reply has room for."""

from __future__ import annotations

from collections import deque

# For each result; as many as psycopg2 keeps.
NOTICES_KEPT = 50
# Characters of all of a unit's: besides its rows a reply has REPLY_OVERHEAD_BYTES (client.rules), and this is a part.
CHARACTERS_KEPT = 262_144


class Notices:
    """Those since the last result; a program in a loop may raise any number."""

    __slots__ = ("_kept", "_room", "_size")

    def __init__(self) -> None:
        self._kept: deque[str] = deque()
        self._size = 0
        self._room = CHARACTERS_KEPT  # what those of earlier results have left

    def add(self, text: str) -> None:
        """The server said this."""
        self._kept.append(text)
        self._size += len(text)
        while self._kept and (len(self._kept) > NOTICES_KEPT or self._size > self._room):
            self._size -= len(self._kept.popleft())

    def all(self) -> tuple[str, ...]:
        """Those that are kept."""
        return tuple(self._kept)

    def take(self) -> tuple[str, ...]:
        """As all; they belong to a result, and the next ones to another."""
        taken = tuple(self._kept)
        self._kept.clear()
        self._room -= self._size
        self._size = 0
        return taken
