"""The statements of a batch, which run one behind the other in a lease and are answered together.

They are one unit, so PostgreSQL goes through them without waiting for anybody, and an error skips the rest. There are
more units only where a statement may have changed how literals are read and the next one's depend on that: it then
waits for PostgreSQL's report of such a change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from client.wire.messages import ResultMessage, Step
from poold.core.effects import Bind, Command, Plain, SimpleQuery, Unit, in_order
from poold.core.facts import Completion
from poold.core.statements.statement import Statement
from poold.core.work.transaction_plan import is_ambiguous

if TYPE_CHECKING:
    from poold.core.records.request import Request
    from poold.core.work.units import Runner

# Fails in any transaction, whatever it has: PostgreSQL then waits for its rollback.
FAILING: Unit = (SimpleQuery(b"ROLLBACK TO SAVEPOINT poold_canceled_between_two_statements"),)
# As many as psycopg2 keeps, and as a result has; and their characters, as those of a unit.
NOTICES_KEPT = 50
CHARACTERS_KEPT = 262_144


class Batch:
    """What is still to be sent of a batch, and what has come."""

    __slots__ = ("_ahead", "_command", "_comment", "_first", "_literal", "_next", "_notices", "_ran", "_rowcount",
                 "_steps", "is_given_up", "to_probe")  # fmt: skip

    def __init__(self, steps: Sequence[Step], comment: bytes = b"") -> None:
        """The steps have their values, and no references and row counts. comment is added to their texts."""
        self._comment = comment
        self._steps = steps
        self._first = self._next = 0  # the first step of the unit on its way, and the first one not sent yet
        self.is_given_up = False  # it was cancelled between two units, and its transaction is made to fail
        self._ahead = 0  # results of the unit on its way that come before those of steps
        self._rowcount = 0
        self._command = ""
        self._notices: deque[str] = deque(maxlen=NOTICES_KEPT)
        # The statements that ran prepared, by name.
        self._ran: dict[bytes, Statement] = {}
        # Statements that run with literals as they are not prepared yet, by step, until their results have come; and
        # those that have run often enough to be probed.
        self._literal: dict[int, Statement] = {}
        self.to_probe: list[Statement] = []

    def __len__(self) -> int:
        """How many statements it has."""
        return len(self._steps)

    @property
    def texts(self) -> list[bytes]:
        """Its statements."""
        return [step.statement for step in self._steps]

    @property
    def is_sent(self) -> bool:
        """Whether no statement is left for another unit."""
        return self._next == len(self._steps)

    def unit(self, commands: list[Command], request: Request, run: Runner) -> Unit:
        """Return the next unit: the commands, which have to come before, and as many statements as may follow."""
        statements, settings = request.group.statements, request.settings
        self._ahead = sum(type(each) in (Bind, Plain) for each in commands)
        self._first = self._next
        for place in range(self._first, len(self._steps)):
            text, types, values, is_prepared, *_ = self._steps[place]
            statement = statements.find(text + self._comment, types, settings)
            if place > self._first and not run.is_base and is_ambiguous(statement, values):
                break
            is_base, is_literal = run.is_base, request.is_literal or not is_prepared
            added = run(statement, values, is_literal)
            if type(added[-1]) is Bind:
                self._ran[statement.name] = statement
            elif is_base and not is_literal:
                self._literal[place] = statement
            commands += added
            self._next = place + 1
            if type(added[-1]) is Plain and not added[-1].sql:
                break  # values that cannot be literals: it fails, but PostgreSQL would go on to the next statement
        return in_order(commands)

    def give_up(self) -> Unit:
        """Return the unit that has the transaction fail, as a cancel of the next statement would.

        Else a program could commit what has run of a batch whose error it was told.
        """
        self.is_given_up = True
        self._first, self._ahead = self._next, 0
        return FAILING

    def take(self, done: Completion) -> None:
        """Take the results of the unit on its way. A failure of the completion is told its statement's number."""
        for result in done.results:
            self._notices.extend(result.notices)
        for place, result in enumerate(done.results[self._ahead :], self._first):
            self._command = result.command
            self._rowcount = -1 if -1 in (self._rowcount, result.rowcount) else self._rowcount + result.rowcount
            statement = self._literal.pop(place, None)
            if statement is not None and statement.saw_columns(result.columns):
                self.to_probe.append(statement)
        if done.failure is None:
            return
        place = self._first + len(done.results) - self._ahead
        kept = (*self._kept_notices(), *done.failure.notices)[-NOTICES_KEPT:]
        diag = done.failure.diag | ({"step": str(place)} if self._first <= place < len(self._steps) else {})
        done.failure = done.failure._replace(diag=diag, notices=kept)

    def result(self, number: int, done: Completion) -> ResultMessage:
        """The reply to the request of this number: all statements have run, the last ones in this unit."""
        return ResultMessage(number, done.transaction, self._command, self._rowcount, None, b"", self._kept_notices())

    def named(self, name: bytes) -> Statement | None:
        """The statement of this name, if the batch has run it prepared."""
        return self._ran.get(name)

    def _kept_notices(self) -> tuple[str, ...]:
        """The last notices, no more than a reply has room for."""
        kept: deque[str] = deque()
        size = 0
        for notice in reversed(self._notices):
            size += len(notice)
            if size > CHARACTERS_KEPT:
                break
            kept.appendleft(notice)
        return tuple(kept)
