"""What statements leave in a session, and who may find it there: nobody but its owner.

A reset takes it away command by command: each takes what PostgreSQL's manual says of it, and nothing else. Some of what
was left is told by a statement's text; what views and functions leave is not, and one of those settings PostgreSQL
reports.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

RESET_ALL = b"RESET ALL"
DEALLOCATE_ALL = b"DEALLOCATE ALL"
SEED = b"pg_catalog.setseed('"


@dataclass(frozen=True)
class Leaving:
    """A statement that leaves something."""

    tag: str  # of its result; "" where it returns rows
    what: str
    taken_by: bytes  # the command that takes it away, b"" where only the end of the session does
    wants_session: bool = True  # it makes no sense where each statement runs by itself
    is_transactional: bool = True  # a rollback takes it away
    is_reported: bool = False  # PostgreSQL tells that a setting is not what it was


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
    # These look as any other.
    b"SELECT id FROM e WHERE id = \0 AND f(7)": Leaving(
        "", "a reported setting", RESET_ALL, wants_session=False, is_reported=True
    ),
    b"SELECT id FROM v WHERE id = \0": Leaving("", "a setting of a function", RESET_ALL, wants_session=False),
    b"SELECT id FROM q WHERE id = \0 AND a = '{1}'": Leaving(
        "", "a setting of a check", RESET_ALL, wants_session=False
    ),
    b"SELECT id FROM z WHERE id = \0": Leaving("", "a table of a function", b"DISCARD TEMP", wants_session=False),
    b"SELECT id FROM k WHERE id = \0": Leaving(
        "",
        "a lock of a function",
        b"SELECT pg_catalog.pg_advisory_unlock_all()",
        wants_session=False,
        is_transactional=False,
    ),
    b"SELECT id FROM r WHERE id = \0": Leaving(
        "", "what random() gives", SEED, wants_session=False, is_transactional=False
    ),
}
# Those whose text tells nothing.
UNSEEN = tuple(template for template, leaving in LEAVINGS.items() if not leaving.tag and not leaving.wants_session)
REPORTED = next(leaving.what for leaving in LEAVINGS.values() if leaving.is_reported)
# What DISCARD ALL stands for.
DISCARD_ALL = tuple(
    dict.fromkeys(leaving.taken_by for leaving in LEAVINGS.values() if leaving.taken_by not in (b"", SEED))
)
# What takes something away, wherever it stands.
RESETTING = (*DISCARD_ALL, SEED)


def is_reset(text: bytes) -> bool:
    """Whether the text has a command that takes something away."""
    return any(each in text for each in DISCARD_ALL)


@dataclass
class Leftover:
    """Something that was left."""

    owner: object
    taken_by: bytes  # a command that takes it away has this in it
    work: object = None  # the transaction that takes it away when it rolls back


class Leftovers:
    """What is in one session, by what it is."""

    def __init__(self) -> None:
        self.found: dict[str, Leftover] = {}

    def __bool__(self) -> bool:
        return bool(self.found)

    def __repr__(self) -> str:
        return ", ".join(f"{what} of {each.owner}" for what, each in self.found.items())

    def leave(self, leaving: Leaving, owner: object, work: object) -> None:
        """The owner's statement has left it."""
        if leaving.what not in self.found:
            transaction = work if leaving.is_transactional else None
            self.found[leaving.what] = Leftover(owner, leaving.taken_by, transaction)

    def leave_setting(self, owner: object) -> None:
        """A setting that should have held for a transaction only."""
        self.found["a setting that was to travel"] = Leftover(owner, RESET_ALL)

    @property
    def is_reported(self) -> bool:
        """Whether PostgreSQL tells that a setting is not what it was."""
        return REPORTED in self.found

    def check(self, owner: object) -> None:
        """A unit of this owner begins: it must not find what somebody else has left."""
        for what, each in self.found.items():
            assert each.owner == owner, f"{owner} finds {what} of {each.owner}"

    def roll_back(self, work: object) -> None:
        """The transaction is rolled back."""
        self._drop(lambda _, each: each.work is work)

    def take_away(self, commands: Collection[bytes]) -> None:
        """These commands have run, in order."""
        for command in commands:
            self._drop(lambda _, each: each.taken_by != b"" and each.taken_by in command)  # noqa: B023  called at once

    def _drop(self, is_gone: Callable[[str, Leftover], bool]) -> None:
        self.found = {what: each for what, each in self.found.items() if not is_gone(what, each)}
