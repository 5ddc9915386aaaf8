"""Which sections a question for figures wants, and how; so that nobody pays for what nobody reads."""

from __future__ import annotations

from dataclasses import dataclass

from client.wire.arguments import MOST_ROWS, ORDERS, SECTIONS
from client.wire.messages import Ask
from poold.core.operations.selection import NotPossible, arguments_of, only

GROUPS, ENDPOINTS, BACKENDS, CLIENTS, STATEMENTS, QUEUE = SECTIONS
USUAL_ROWS = 100  # of each section, if the question does not say


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for. The defaults are the overview."""

    sections: tuple[str, ...] = (GROUPS, CLIENTS)
    limit: int = USUAL_ROWS
    sort: str = ORDERS[0]
    locks: bool = False  # what the backends that wait for locks wait for, which only their servers can tell
    reset: bool = False  # forget the statements' figures when they are told

    def has(self, *sections: str) -> bool:
        """Whether it wants any of these."""
        return not set(sections).isdisjoint(self.sections)


OVERVIEW = Wanted()


def wanted(message: Ask) -> Wanted:
    """Read the question; raises NotPossible, with what there is instead."""
    found = arguments_of(message, "section", "limit", "sort", "locks", "reset")
    sections = tuple(dict.fromkeys(found.get("section", ())))
    for name in sections:
        if name not in SECTIONS:
            raise NotPossible(f"there is no section {name!r}; there are {', '.join(SECTIONS)}")
    sort = only(found, "sort") or ORDERS[0]
    if sort not in ORDERS:
        raise NotPossible(f"statements are not sorted by {sort!r}; they are by {', '.join(ORDERS)}")
    limit = only(found, "limit") or str(USUAL_ROWS)
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 9 and int(limit)):
        raise NotPossible(f"limit is {limit!r}; give a number of rows above 0")
    asked = Wanted(
        sections or OVERVIEW.sections, min(int(limit), MOST_ROWS), sort, bool(only(found, "locks")),
        bool(only(found, "reset")),
    )  # fmt: skip
    if asked.locks and not asked.has(BACKENDS):
        raise NotPossible(f"locks belong to section {BACKENDS}")
    if asked.reset and asked.sections != (STATEMENTS,):
        raise NotPossible(f"reset belongs to section {STATEMENTS}, and to no other")
    return asked
