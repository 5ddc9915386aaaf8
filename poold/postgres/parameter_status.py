"""The settings whose changes PostgreSQL reports by itself: which of them the broker watches, and their values.

https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-ASYNC
"""

from __future__ import annotations

from collections.abc import Callable

from client.wire.limits import RELIED_ON

# Settings that a session may change for itself: if one differs from its first value, the backend has to be reset.
READ_ONLY = "default_transaction_read_only"
REPORTED = ("TimeZone", "application_name", "search_path", "session_authorization", READ_ONLY)

# How the values begin that the broker gives application_name (`poold.core.work.labels`).
LABEL = "poold:"
# Of a longer value only the beginning, the length and a hash are kept, to notice that it is another one.
LONGEST_VALUE = 4096


class ParameterStatus:
    """The settings that PostgreSQL reports on one connection."""

    __slots__ = ("_current", "_initial", "_relied_on", "is_changed")

    def __init__(self, value_of: Callable[[str], str | None], is_read_only: bool = False) -> None:
        """value_of gives a setting as it is when the connection opens, None if the server does not report it.

        is_read_only: whether the connection must not write. PostgreSQL reports that setting from version 14 on.
        """
        self._relied_on = (*RELIED_ON, READ_ONLY) if is_read_only else RELIED_ON
        self._initial = {name: value_of(name) for name in (*RELIED_ON, *REPORTED)}
        self._current = dict(self._initial)
        self.is_changed = False  # whether any differs from its first value

    def take(self, name: str, value: str) -> None:
        """Take a setting's value as PostgreSQL reports it."""
        if name in self._initial:
            if len(value) > LONGEST_VALUE:
                value = f"{value[:LONGEST_VALUE]}... {len(value)} {hash(value)}"
            if name == "application_name" and value.startswith(LABEL):
                value = self._initial[name] or ""  # the broker's, for one request or transaction
            self._current[name] = value
            self.is_changed = self._current != self._initial

    @property
    def is_unreliable(self) -> bool:
        """Whether a setting has changed on which clients, or a read-only group, rely."""
        return self.is_changed and any(self._current[name] != self._initial[name] for name in self._relied_on)
