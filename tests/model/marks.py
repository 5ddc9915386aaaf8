"""Settings that travel: which value of the marker setting is in force in a session, and for whom it may be.

Each request with settings brings a value for the marker, its tenant's (`requests.settings_for`). When one of its
statements runs, that value must be in force, whatever else was sent ahead, tried before, or runs in the same
connection. Where a request brings no settings none may be in force, except in a lease: there they hold to the end of
the transaction, so the last ones that were given in it do.

What is prepared means what the settings in force made of it: so those are kept with each name, and have to be the ones
that whoever runs it brings.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MARK = b"poold.mark"
_VALUE = re.compile(rb"poold\.mark\D+(\d+)")


class Marks:
    """The values that the marker was given in the transaction, in order; the last one is in force."""

    def __init__(self, mark_of: Callable[[int], int | None]) -> None:
        """mark_of tells the value that the request of a statement brings, by the statement's own; None for none."""
        self._mark_of = mark_of
        self._values: list[tuple[int, object]] = []  # and whose request gave it
        self._savepoints: list[int] = []  # how many values there were at each

    @property
    def in_force(self) -> int | None:
        """The value in force, None where there is none."""
        return self._values[-1][0] if self._values else None

    def set(self, sql: bytes, owner: object) -> None:
        """A setting for the transaction: the marker, perhaps."""
        if found := _VALUE.search(sql):
            self._values.append((int(found[1]), owner))

    def check_parsed(self, value: int, mark: int | None) -> None:
        """A statement with this value runs a name that was parsed while this was in force."""
        wanted = self._mark_of(value)
        assert mark == wanted, f"statement {value} brings {wanted}, and runs what was parsed with the setting {mark}"

    def savepoint(self) -> None:
        """A savepoint is set."""
        self._savepoints.append(len(self._values))

    def release(self) -> None:
        """The last savepoint is released: what was set since stays."""
        self._savepoints.pop()

    def undo(self) -> None:
        """Back to the last savepoint: what was set since is gone."""
        del self._values[self._savepoints[-1] :]

    def end(self) -> None:
        """The transaction is over."""
        self._values.clear()
        self._savepoints.clear()

    def check(self, owner: object, value: int, is_explicit: bool) -> None:
        """A statement of this owner, with this value, runs in a transaction; is_explicit: in one begun by BEGIN."""
        wanted, in_force = self._mark_of(value), self.in_force
        if wanted is None and in_force is not None and is_explicit and _is_lease(owner):
            giver = self._values[-1][1]
            assert giver == owner, f"{owner} runs with a setting of {giver}"
        else:
            assert in_force == wanted, f"statement {value} of {owner} runs with the setting {in_force}, not {wanted}"


def _is_lease(owner: object) -> bool:
    return isinstance(owner, tuple) and owner[0] in ("lease", "session")
