"""executemany: sets of parameters for one statement, collected into as few messages as can be.

psycopg2 runs the statement with one set after the other. So it is here to look at: a set that does not fit ends it
behind what came before. Only sets are taken from the iterable ahead of being run. If the iterable fails, what was taken
and not sent has not run: whether it has raised the exception, or a signal handler that ran meanwhile, cannot be told,
and what a handler ends must not be sent any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from client.dbapi.sent import fixed
from client.errors import DBError, error_from, place_of
from client.interruptions import is_own
from client.values.bind import bind
from client.values.blanks import BLANKS
from client.values.result import Result
from client.wire.limits import MAX_STEPS
from client.wire.messages import UNKNOWN, Step

# Bytes of one message. More of them save no time that could be measured, and the broker has to keep them.
MESSAGE_BYTES = 1 << 20
# What a set has in a message besides its text and its values, at most.
_OVERHEAD_BYTES = 32
# Statements that PostgreSQL plans; all others may be about transactions or the session, and go by themselves.
_PLANNED = re.compile(BLANKS + rb"(?:DELETE|INSERT|MERGE|SELECT|TABLE|UPDATE|VALUES|WITH)\b", re.IGNORECASE)


@dataclass(slots=True)
class Progress:
    """How far an executemany has come."""

    count: int = 0  # rows of all sets, -1 if it is not known
    total: int | None = None  # how many sets there are, if that is known
    sets: int = 0  # how many have run
    committed: int = 0  # how many of these are committed, whatever becomes of the rest
    result: Result | None = None  # the last one
    last: Any = None  # the set that ran last, or failed
    is_unfit: bool = False  # a set does not fit the statement
    is_begun: bool = False  # the iterable is one
    running: int = 0  # how many sets have been sent, and their answer has not been taken
    has_failed: bool = False  # one of these, of which `failed` has told

    def add(self, result: Result, rows: int, sets: Sets, is_committed: bool) -> None:
        """Note that these sets have run."""
        self.count = -1 if -1 in (self.count, rows) else self.count + rows
        self.sets += len(sets.parameters)
        self.running = 0
        self.result = result
        self.last = sets.parameters[-1]
        if is_committed:
            self.committed = self.sets

    def failed(self, error: DBError, sets: Sets, is_told: bool) -> DBError:
        """Note that one of these sets has failed, the first one if that is not known.

        Return the error that says which one, in its text if is_told, and what of the sets before them is committed.
        """
        step = error.failure.diag.get("step")
        place = int(step) if step is not None else error.place.number if error.place is not None else 0
        self.last = sets.parameters[place]
        where = None
        if step is not None or error.place is not None or len(sets.parameters) == 1:
            where = place_of(self.sets + place, self.total, sets.text or sets.steps[place].statement)
        self.has_failed = True
        failure = error.failure
        if self.committed:
            behind = "it" if where is not None else f"these {len(sets.parameters)}"
            text = (
                f"{failure.message.rstrip()}; {_sets(self.committed)} before {behind} {_are(self.committed)} committed"
            )
            failure = failure._replace(outcome=UNKNOWN, message=text)
        is_alone = (self.total or self.sets + len(sets.parameters)) == 1
        is_told = is_told and where is not None and not is_alone
        told = error
        if is_told or failure is not error.failure:
            told = error_from(failure, where if is_told else None).with_traceback(error.__traceback__)
        told.place = where
        return told

    def note(self, commits_by_itself: bool) -> str:
        """What is committed, for the program's own exception that ends it all; "" if that is nothing."""
        found = [f"{_sets(self.committed)} before this {_are(self.committed)} committed"] if self.committed else []
        if self.running and commits_by_itself:
            found.append(f"whether the {_sets(self.running)} under way {_are(self.running)} committed is not known")
        return "; ".join(found)


class Sets(NamedTuple):
    """Sets for one message: their steps; or a single one that has to go by itself, and its text."""

    parameters: list[Any]
    steps: list[Step]
    text: bytes = b""

    def halves(self) -> list[Sets]:
        """Return the sets of two messages."""
        half = len(self.steps) // 2
        return [
            Sets(self.parameters[:half], self.steps[:half]),
            Sets(self.parameters[half:], self.steps[half:]),
        ]


def collected(
    statement: Any, parameters: Iterable[Any], prepare: bool, most_bytes: int, progress: Progress
) -> Iterator[Sets]:
    """The sets of each message; most_bytes is the largest request's.

    The error of a set that does not fit comes behind the sets before it, and any other exception at once.
    """
    parameters = iter(parameters)
    progress.is_begun = True
    most = min(MESSAGE_BYTES, most_bytes // 2)
    kept, size = Sets([], []), 0
    for given in parameters:
        each = fixed(given)  # the iterable may give the same object again, changed
        try:
            text, types, values, references = bind(statement, each)
        except Exception as error:
            if is_own(error):
                progress.is_unfit = True
                if kept.steps:
                    yield kept
            raise
        added = len(text) + len(types) + len(values) + _OVERHEAD_BYTES
        is_alone = added > most or bool(references) or not _is_planned(text)
        if kept.steps and (is_alone or size + added > most or len(kept.steps) == MAX_STEPS):
            yield kept
            kept, size = Sets([], []), 0
        if is_alone:
            yield Sets([each], [], text)
            continue
        kept.parameters.append(each)
        kept.steps.append(Step(text, types, values, prepare, (), 0, None))
        size += added
    if kept.steps:
        yield kept


def _sets(count: int) -> str:
    return "1 set" if count == 1 else f"{count} sets"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _is_planned(text: bytes) -> bool:
    """Whether it is a single statement that PostgreSQL plans; a semicolon in a literal only makes it go by itself."""
    return _PLANNED.match(text) is not None and b";" not in text.rstrip(b"; \t\r\n")
