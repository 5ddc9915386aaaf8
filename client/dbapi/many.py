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

from client.errors import DBError, error_from, place_of
from client.interruptions import is_own
from client.values.bind import bind
from client.values.blanks import BLANKS
from client.values.result import Result
from client.wire.limits import MAX_STEPS
from client.wire.messages import Step

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
    sets: int = 0  # how many have run
    result: Result | None = None  # the last one
    last: Any = None  # the set that ran last, or failed
    is_unfit: bool = False  # a set does not fit the statement

    def add(self, result: Result, rows: int, sets: Sets) -> None:
        """Note that these sets have run."""
        self.count = -1 if -1 in (self.count, rows) else self.count + rows
        self.sets += len(sets.parameters)
        self.result = result
        self.last = sets.parameters[-1]

    def failed(self, error: DBError, sets: Sets) -> None:
        """Note that one of these sets has failed, the first one if that is not known; tell the error which one."""
        step = error.failure.diag.get("step")
        place = 0 if step is None else int(step)
        self.last = sets.parameters[place]
        if step is not None or len(sets.steps) == 1:
            number = self.sets + place
            error.place = place_of(number, self.sets + len(sets.parameters), sets.steps[place].statement)


class Sets(NamedTuple):
    """Sets for one message: their steps, none if it is a single one that has to go by itself."""

    parameters: list[Any]
    steps: list[Step]

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
    most = min(MESSAGE_BYTES, most_bytes // 2)
    kept, size = Sets([], []), 0
    for each in parameters:
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
            yield Sets([each], [])
            continue
        kept.parameters.append(each)
        kept.steps.append(Step(text, types, values, prepare, (), 0, None))
        size += added
    if kept.steps:
        yield kept


def placed(error: DBError, ran: int, total: int, sets: Sets) -> DBError:
    """The error of a transaction message's statement, with its place among all sets; so many ran before the message."""
    place = error.place
    if place is not None:
        place = place._replace(number=place.number + ran, total=total)
    elif len(sets.steps) == 1 < total:
        place = place_of(ran, total, sets.steps[0].statement)
    else:
        return error
    return error_from(error.failure, place).with_traceback(error.__traceback__)


def _is_planned(text: bytes) -> bool:
    """Whether it is a single statement that PostgreSQL plans; a semicolon in a literal only makes it go by itself."""
    return _PLANNED.match(text) is not None and b";" not in text.rstrip(b"; \t\r\n")
