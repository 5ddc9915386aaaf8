"""What statements leave in a session, and who may find it there: nobody but its owner.

A reset takes most of it away. Some is told by a statement's text; a setting that a function changed unseen is known to
the core when the completion of its unit has told of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Leaving:
    """A statement that leaves something."""

    tag: str  # of its result; "" where it returns rows
    what: str
    wants_session: bool = True  # it makes no sense where each statement runs by itself
    is_transactional: bool = True  # a rollback takes it away
    is_unseen: bool = False  # the text does not tell, PostgreSQL reports it


LIBRARY, NAME = "a library", "a name"

# By template, as in model.requests.
LEAVINGS = {
    b"SET work_mem TO 9 /* \0 */": Leaving("SET", "a setting"),
    b"CREATE TEMP TABLE t () /* \0 */": Leaving("CREATE TABLE", "a table"),
    b"PREPARE p AS SELECT 1 /* \0 */": Leaving("PREPARE", NAME, is_transactional=False),
    b"LISTEN c /* \0 */": Leaving("LISTEN", "a channel"),
    b"LOAD 'l' /* \0 */": Leaving("LOAD", LIBRARY, is_transactional=False),
    b"SELECT id FROM d WHERE id = \0 AND pg_advisory_lock(7) IS NULL": Leaving("", "a lock", is_transactional=False),
    b"DO 'x' /* \0 */": Leaving("DO", "what a block did", wants_session=False),
    b"CALL p() /* \0 */": Leaving("CALL", "what a procedure did", wants_session=False),
    b"SELECT id FROM e WHERE id = \0 AND f(7)": Leaving("", "a reported setting", wants_session=False, is_unseen=True),
}
UNSEEN = next(template for template, leaving in LEAVINGS.items() if leaving.is_unseen)


@dataclass
class Leftover:
    """Something that was left."""

    owner: object
    known_from: int | None  # the unit with which the core knows of it; None while it does not
    work: object = None  # the transaction that takes it away when it rolls back


class Leftovers:
    """What is in one session, by what it is."""

    def __init__(self) -> None:
        self.found: dict[str, Leftover] = {}

    def __bool__(self) -> bool:
        return bool(self.found)

    def __repr__(self) -> str:
        return ", ".join(f"{what} of {each.owner}" for what, each in self.found.items())

    def leave(self, leaving: Leaving, owner: object, unit: int, work: object) -> None:
        """The owner's statement in this unit has left it."""
        if leaving.what not in self.found:
            known_from = None if leaving.is_unseen else unit
            self.found[leaving.what] = Leftover(owner, known_from, work if leaving.is_transactional else None)

    def leave_setting(self, owner: object, unit: int) -> None:
        """A setting that should have held for a transaction only."""
        self.found["a setting that was to travel"] = Leftover(owner, unit)

    @property
    def is_reported(self) -> bool:
        """Whether PostgreSQL tells that a setting is not what it was."""
        return LEAVINGS[UNSEEN].what in self.found

    def told(self, given: int) -> None:
        """The core is told of what is reported; so many units it had given before."""
        each = self.found.get(LEAVINGS[UNSEEN].what)
        if each is not None and each.known_from is None:
            each.known_from = given

    def check(self, owner: object, unit: int) -> None:
        """A unit of this owner begins: it must not find what somebody else has left, as far as the core could know."""
        for what, each in self.found.items():
            is_known = each.known_from is not None and each.known_from < unit
            assert each.owner == owner or not is_known, f"{owner} finds {what} of {each.owner}"

    def roll_back(self, work: object) -> None:
        """The transaction is rolled back."""
        self._drop(lambda _, each: each.work is work)

    def reset(self, drops_names: bool) -> None:
        """A reset has run, with DEALLOCATE ALL or not."""
        self._drop(lambda what, _: what != LIBRARY and (drops_names or what != NAME))

    def deallocate(self) -> None:
        """DEALLOCATE ALL has run."""
        self.found.pop(NAME, None)

    def _drop(self, is_gone: Callable[[str, Leftover], bool]) -> None:
        self.found = {what: each for what, each in self.found.items() if not is_gone(what, each)}
