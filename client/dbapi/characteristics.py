"""How a connection's transactions begin: isolation, read only, deferrable, as psycopg2's set_session takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import extensions

# psycopg2's numbers and PostgreSQL's names.
LEVELS = {
    extensions.ISOLATION_LEVEL_READ_UNCOMMITTED: "READ UNCOMMITTED",
    extensions.ISOLATION_LEVEL_READ_COMMITTED: "READ COMMITTED",
    extensions.ISOLATION_LEVEL_REPEATABLE_READ: "REPEATABLE READ",
    extensions.ISOLATION_LEVEL_SERIALIZABLE: "SERIALIZABLE",
}


@dataclass(frozen=True, slots=True)
class Characteristics:
    """What each transaction of a connection begins with; None is the server's default."""

    isolation: int | None = None
    readonly: bool | None = None
    deferrable: bool | None = None

    @property
    def modes(self) -> str:
        """The transaction modes as SQL has them behind SET TRANSACTION, "" if all are the server's defaults."""
        words = [] if self.isolation is None else ["ISOLATION LEVEL " + LEVELS[self.isolation]]
        if self.readonly is not None:
            words.append("READ ONLY" if self.readonly else "READ WRITE")
        if self.deferrable is not None:
            words.append("DEFERRABLE" if self.deferrable else "NOT DEFERRABLE")
        return ", ".join(words)

    @property
    def is_for_primary(self) -> bool:
        """Whether no replica can run such a transaction."""
        return self.readonly is False or self.isolation == extensions.ISOLATION_LEVEL_SERIALIZABLE

    @property
    def options(self) -> dict[str, Any]:
        """The same as the options of a transaction message."""
        return {
            "isolation": None if self.isolation is None else LEVELS[self.isolation].lower(),
            "read_only": self.readonly,
            "deferrable": self.deferrable,
        }


def level_of(value: Any) -> int | None:
    """Return the number of an isolation level; None for the server's default.

    value is one of psycopg2.extensions' ISOLATION_LEVEL_ numbers from 1 on, a level's name, 'default' or None.
    """
    if value is None:
        return None
    if isinstance(value, int):
        if value not in LEVELS:
            raise ValueError(f"isolation_level must be between 1 and 4, got {value}")
        return value
    name = _text(value, "isolation_level").upper()
    for number, known in LEVELS.items():
        if name == known:
            return number
    if name == "DEFAULT":
        return None
    raise ValueError(f"bad value for isolation_level: {value!r}; expected one of {', '.join(LEVELS.values())}, DEFAULT")


def choice_of(value: Any) -> bool | None:
    """Return True, False, or None for the server's default, which is 'default' or None."""
    if value is None:
        return None
    if isinstance(value, (str, bytes)):
        if _text(value, "a transaction's mode").lower() != "default":
            raise ValueError(f"the only string accepted is 'default'; got {value!r}")
        return None
    return bool(value)


def _text(value: Any, what: str) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        raise psycopg2.ProgrammingError(f"{what} is {value!r}; expected a name, a number or None")
    return value
