"""What a server says besides results. Notices: the last ones, and no more than a reply has room for.

They are kept as they came and become text when a result is given them: a program in a loop may raise any number, of
which nobody sees more than the last few.
"""

from __future__ import annotations

from collections import deque

from poold.postgres import diagnostics

# For each result; as many as psycopg2 keeps.
NOTICES_KEPT = 50
# Characters of all of a unit's: besides its rows a reply has REPLY_OVERHEAD_BYTES (client.wire.limits), and this is a
# part.
CHARACTERS_KEPT = 262_144
# Bytes of those that wait to become text. They hold their fields' names and where PostgreSQL raised them as well.
BYTES_KEPT = 2 * CHARACTERS_KEPT
# A mark in the statement's text costs a look at all of it: the unit's notices and errors have them as long as the texts
# looked at are no longer together, then a number. Any single text may have one.
MARKED_BYTES = 4_000_000
# Notifications kept until somebody wants them, and their characters.
NOTIFICATIONS_KEPT = 1000
NOTIFIED_CHARACTERS_KEPT = 65536


class Notifications(deque[tuple[int, str, str]]):
    """The last ones: the process that sent it, the channel and what it says."""

    def __init__(self) -> None:
        super().__init__(maxlen=NOTIFICATIONS_KEPT)
        self._size = 0

    def add(self, process: int, channel: str, payload: str) -> None:
        """The server passes one on."""
        if len(self) == self.maxlen:
            self._forget()
        self.append((process, channel, payload))
        self._size += len(channel) + len(payload)
        while self._size > NOTIFIED_CHARACTERS_KEPT:
            self._forget()

    def _forget(self) -> None:
        _, channel, payload = self.popleft()
        self._size -= len(channel) + len(payload)


class Notices:
    """The notices since the last result."""

    __slots__ = ("_kept", "_marked", "_room", "_size")

    def __init__(self) -> None:
        # Each with the text of the statement that it is about, if that is known.
        self._kept: deque[tuple[bytes, bytes | None]] = deque()
        self._size = 0
        self._room = CHARACTERS_KEPT  # what those of earlier results have left
        self._marked = 0

    def add(self, body: bytes, sql: bytes | None) -> None:
        """The server said this."""
        self._kept.append((body, sql))
        self._size += len(body)
        while len(self._kept) > NOTICES_KEPT or self._size > BYTES_KEPT:
            self._size -= len(self._kept.popleft()[0])

    def take(self) -> tuple[str, ...]:
        """Return the notices since the last result, as text, and start a new list."""
        if not self._kept:
            return ()
        texts: deque[str] = deque()
        while self._kept and self._room > 0:
            body, sql = self._kept.pop()
            text = diagnostics.notice(body, self.marked(body, sql))
            self._room -= len(text)
            if self._room >= 0:
                texts.appendleft(text)
        self._kept.clear()
        self._size = 0
        return tuple(texts)

    def marked(self, body: bytes, sql: bytes | None) -> bytes | None:
        """The statement's text for a mark in it; None if there is none to make, or too much was looked at."""
        if sql is None or not diagnostics.has_position(body) or self._marked >= MARKED_BYTES:
            return None
        self._marked += len(sql)
        return sql
