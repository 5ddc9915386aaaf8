"""What a server sends besides results: notices and notifications, of which only the last ones are kept.

Notices are kept as they came and become text when a result takes them, no more than a reply has room for: a program
in a loop may raise any number, of which nobody sees more than the last few.
"""

from __future__ import annotations

from collections import deque

from poold.postgres import diagnostics

# For each result; as many as psycopg2 keeps.
NOTICES_KEPT = 50
# Characters of all notices of a unit: a part of the REPLY_OVERHEAD_BYTES (client.wire.limits) that a reply has besides
# its rows.
CHARACTERS_KEPT = 262_144
# Bytes of notices that wait to become text. They also hold their fields' names and where PostgreSQL raised them.
BYTES_KEPT = 2 * CHARACTERS_KEPT
# To mark a place in a statement its whole text is looked through. The notices and errors of a unit have marks until the
# texts looked through have so many bytes together, then only the position's number. A single text may be longer.
MARKED_BYTES = 4_000_000
# How many notifications are kept, and their characters.
NOTIFICATIONS_KEPT = 1000
NOTIFIED_CHARACTERS_KEPT = 65536


class Notifications(deque[tuple[int, str, str]]):
    """The last notifications, each as the process that sent it, its channel and its payload."""

    def __init__(self) -> None:
        super().__init__(maxlen=NOTIFICATIONS_KEPT)
        self._size = 0

    def add(self, process: int, channel: str, payload: str) -> None:
        """Keep a notification, and forget the oldest ones if there are too many."""
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
        self._room = CHARACTERS_KEPT  # what the notices of the unit's earlier results have left of it
        self._marked = 0  # bytes of statements looked through for marks

    def add(self, body: bytes, sql: bytes | None) -> None:
        """Keep a notice, and forget the oldest ones if there are too many; sql is its statement's text, if known."""
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
        """Return the statement's text to mark a place in it; None if there is no place, or too much was looked at."""
        if sql is None or not diagnostics.has_position(body) or self._marked >= MARKED_BYTES:
            return None
        self._marked += len(sql)
        return sql
