"""What statements leave in a session, and who may find it there: nobody but its owner.

A reset takes it away command by command: each takes what PostgreSQL's manual says of it, and nothing else. Some of what
was left is told by a statement's text; a setting that a function changed unseen is known to the core when the
completion of its unit has told of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

RESET_ALL = b"RESET ALL"
DEALLOCATE_ALL = b"DEALLOCATE ALL"
# Each session of the broker's has it set from the beginning, and RESET ALL takes it away as well.
CHECK = b"SELECT pg_catalog.set_config('client_connection_check_interval', "


@dataclass(frozen=True)
class Leaving:
    """A statement that leaves something."""

    tag: str  # of its result; "" where it returns rows
    what: str
    taken_by: bytes  # the command that takes it away, b"" where only the end of the session does
    wants_session: bool = True  # it makes no sense where each statement runs by itself
    is_transactional: bool = True  # a rollback takes it away
    is_unseen: bool = False  # the text does not tell, PostgreSQL reports it


# By template, as in model.requests. A block and a procedure may do anything; here each does one thing.
LEAVINGS = {
    b"SET work_mem TO 9 /* \0 */": Leaving("SET", "a setting", RESET_ALL),
    b"CREATE TEMP TABLE t () /* \0 */": Leaving("CREATE TABLE", "a table", b"DISCARD TEMP"),
    b"DECLARE c CURSOR WITH HOLD FOR SELECT 1 /* \0 */": Leaving("DECLARE CURSOR", "a cursor", b"CLOSE ALL"),
    b"PREPARE p AS SELECT 1 /* \0 */": Leaving("PREPARE", "a name", DEALLOCATE_ALL, is_transactional=False),
    b"LISTEN c /* \0 */": Leaving("LISTEN", "a channel", b"UNLISTEN *"),
    b"LOAD 'l' /* \0 */": Leaving("LOAD", "a library", b"", is_transactional=False),
    b"SELECT id FROM d WHERE id = \0 AND pg_advisory_lock(7) IS NULL": Leaving(
        "", "a lock", b"SELECT pg_catalog.pg_advisory_unlock_all()", is_transactional=False
    ),
    b"DO 'x' /* \0 */": Leaving(
        "DO", "a sequence's value", b"DISCARD SEQUENCES", wants_session=False, is_transactional=False
    ),
    b"CALL p() /* \0 */": Leaving("CALL", "another role", b"RESET SESSION AUTHORIZATION", wants_session=False),
    b"SELECT id FROM e WHERE id = \0 AND f(7)": Leaving(
        "", "a reported setting", RESET_ALL, wants_session=False, is_unseen=True
    ),
}
UNSEEN = next(template for template, leaving in LEAVINGS.items() if leaving.is_unseen)
# What DISCARD ALL stands for: all of them.
DISCARD_ALL = tuple(dict.fromkeys(leaving.taken_by for leaving in LEAVINGS.values() if leaving.taken_by))


def is_reset(text: bytes) -> bool:
    """Whether the text has a command that takes something away."""
    return any(command in DISCARD_ALL for command in text.split(b"; "))


@dataclass
class Leftover:
    """Something that was left."""

    owner: object
    known_from: int | None  # the unit with which the core knows of it; None while it does not
    taken_by: bytes  # a command that takes it away begins so
    work: object = None  # the transaction that takes it away when it rolls back


class Leftovers:
    """What is in one session, by what it is."""

    def __init__(self) -> None:
        self.has_check = False  # the session has the setting of CHECK from its beginning
        self.found: dict[str, Leftover] = {}

    def __bool__(self) -> bool:
        return bool(self.found)

    def __repr__(self) -> str:
        return ", ".join(f"{what} of {each.owner}" for what, each in self.found.items())

    def leave(self, leaving: Leaving, owner: object, unit: int, work: object) -> None:
        """The owner's statement in this unit has left it."""
        if leaving.what not in self.found:
            known_from = None if leaving.is_unseen else unit
            transaction = work if leaving.is_transactional else None
            self.found[leaving.what] = Leftover(owner, known_from, leaving.taken_by, transaction)

    def leave_setting(self, owner: object, unit: int) -> None:
        """A setting that should have held for a transaction only."""
        self.found["a setting that was to travel"] = Leftover(owner, unit, RESET_ALL)

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

    def take_away(self, commands: Collection[bytes], owner: object, unit: int) -> None:
        """These commands of the owner have run, in order."""
        for command in commands:
            self._drop(lambda _, each: each.taken_by != b"" and command.startswith(each.taken_by))  # noqa: B023  called at once
            if command == RESET_ALL and self.has_check:
                self.found["no client_connection_check_interval"] = Leftover(owner, unit, CHECK)

    def _drop(self, is_gone: Callable[[str, Leftover], bool]) -> None:
        self.found = {what: each for what, each in self.found.items() if not is_gone(what, each)}
