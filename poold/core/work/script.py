"""The run of one transaction message: its units one by one, and its result.

The steps are sent in as few units as possible. A unit ends where the broker has to look at results before it can go on:

    before a step that refers to a result of the same unit     the value has to be known
    at the end of a savepoint block                            an error in it undoes the block and not the rest
    before COMMIT, if a row count is expected                  if it is not met, nothing may be committed

Without any of these the message is one unit, from BEGIN to COMMIT, and one round trip.

If the outcome is tracked, the transaction's id is asked for right after BEGIN and flushed ahead of the work: with it
the server can be asked what became of a COMMIT whose answer was lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from client.wire.limits import END_SAVEPOINT, MAX_NUMBER, SAVEPOINT
from client.wire.messages import (
    FAILED,
    TX_NONE,
    Failure,
    Step,
    TransactionMessage,
    TransactionResult,
    TransactionStatus,
    plain_failure,
)
from client.wire.sqlstates import QUERY_CANCELED
from poold.core.effects import Bind, Command, Flush, Plain, Prepare, SimpleQuery, Unit, in_order
from poold.core.facts import Completion, StatementResult
from poold.core.statements.statement import Statement, Statements
from poold.core.work import failures, references, settings
from poold.core.work.labels import set_locally
from poold.core.work.transaction_plan import Plan, begin_text, is_ambiguous
from poold.core.work.units import DISCARD_BEFORE_BEGIN, Runner

XID = b"SELECT pg_catalog.pg_current_xact_id()"
_SAVEPOINT = b"SAVEPOINT poold"
_RELEASE = b"RELEASE SAVEPOINT poold"
_UNDO = b"ROLLBACK TO SAVEPOINT poold"

# What a result in a unit belongs to if not to a step: another statement of the broker's, the question for the
# transaction's id, COMMIT.
_OWN, _XID, _COMMIT = -1, -2, -3


@dataclass(frozen=True, slots=True)
class Verdict:
    """The transaction is over on its backend: committed, or rolled back because of a failure.

    step is the place of the step that failed, -1 if the failure belongs to none.
    """

    failure: Failure | None = field(default=None, repr=False)
    step: int = -1


class Script:
    """The state of the message's current try, and what all tries have in common."""

    def __init__(
        self,
        message: TransactionMessage,
        plan: Plan,
        statements: Statements,
        tracked: bool,
        max_result_bytes: int,
        read_only: bool = False,
    ) -> None:
        """tracked: whether to find out the outcome of a COMMIT whose answer is lost.

        read_only: whether the group is read-only, which holds unless the message says otherwise.
        """
        self.label = b""  # the application_name with which it runs
        self.steps = plan.steps
        self.retries = message.retries
        self.tries = 0
        self.is_read_only = read_only if message.read_only is None else message.read_only
        # Statements seen often enough to be probed: enter here, leave when `work.transaction` hands them to the group.
        self.to_probe: list[Statement] = []
        # Run everything with literals: prepared statements turned out to be outdated, or the settings decide on plans.
        self.literal_only = settings.choose_plans(message.settings)
        # From group to steps, as the message has them.
        self.shape = message[1:7]
        self.plan = plan
        self._values = message.values
        self._settings = message.settings
        self._max_result_bytes = max_result_bytes
        self._statements = statements
        self.begin_text = begin_text(message)
        self._is_tracked = tracked and plan.writes and not self.is_read_only and not plan.begins_with_set
        self._restart()

    def _restart(self) -> None:
        self.xid = b""
        # Whether COMMIT is in a unit handed out: from then on a lost backend leaves the outcome in doubt.
        self.commit_sent = False
        self.is_stale = False  # whether the try failed as a prepared statement did not fit any more
        self._next = 0  # the step to send next
        self._sent: list[int] = []  # step, or _OWN, _XID, _COMMIT, of each result of the unit on its way
        self.outcomes: list[StatementResult | None] = [None] * len(self.steps)
        self._held = 0  # bytes of rows and notices in them
        self._contained: dict[int, Failure] = {}  # failures that only undid their savepoint block
        # By step: statements that run with literals as they are not prepared yet, until their results have come.
        self._literal: dict[int, Statement] = {}
        # How the transaction ended, or will have ended when the ROLLBACK on its way has.
        self.verdict: Verdict | None = None
        # A reference that cannot be resolved; it counts if the unit on its way does not fail before.
        self._unresolved: Verdict | None = None

    def start(self, run: Runner, milliseconds: int = 0) -> Unit:
        """Begin another try, whose statements have so long (0: as the session's own), and return its first unit."""
        self._restart()
        self.tries += 1
        commands: list[Command] = []
        if run.used_sequences and not self._is_proven():
            run.used_sequences = False
            commands += map(Plain, DISCARD_BEFORE_BEGIN)
        self._sent = [_OWN] * (len(commands) + 1)
        commands += self._own(self.begin_text, run)
        if self._is_tracked:
            commands += self._own(XID, run)
            commands.append(Flush())
            self._sent.append(_XID)
        if self._settings:
            commands += settings.commands(self._statements, self._settings, 0, self.literal_only, run.own)
            self._sent += [_OWN] * settings.count(self._settings)
        if self.label:
            commands.append(set_locally(self.label))
            self._sent.append(_OWN)
        if milliseconds:
            # SET instead of set_config, which is a query: no SET TRANSACTION could follow it.
            commands.append(Plain(b"SET LOCAL statement_timeout = %d" % milliseconds))
            self._sent.append(_OWN)
        return self._whole_unit(commands, run) if self.plan.is_whole else self._rest_of_unit(commands, run)

    def begun(self) -> None:
        """Take note that the whole message was sent as one unit: each statement prepared, from BEGIN to COMMIT."""
        self._restart()
        self.tries += 1
        self._sent = [_OWN, *range(len(self.steps)), _COMMIT]
        self._next = len(self.steps)
        self.commit_sent = True

    @property
    def is_committing(self) -> bool:
        """Whether its COMMIT is on its way by itself: all statements before it have ended."""
        return self._sent == [_COMMIT]

    @property
    def is_plain(self) -> bool:
        """Whether its one unit holds nothing but BEGIN, its steps, which may be prepared, and COMMIT."""
        return (
            self.plan.is_whole
            and not self._settings
            and not self._is_tracked
            and not self.literal_only
            and all(step.prepare for step in self.steps)  # type: ignore[union-attr]  # no marks in a whole one
        )

    def _is_proven(self) -> bool:
        """Whether all statements are proven harmless; with a reference, whose type is not known yet, none is."""
        steps = enumerate(self.steps)
        return not self.literal_only and all(
            isinstance(step, int) or (step.prepare and not step.references and self._statement(place).is_harmless)
            for place, step in steps
        )

    def _statement(self, place: int) -> Statement:
        """The statement of this step. Its types are those of the message: references may change them later."""
        if not self._settings:
            return self.plan.statement(place)
        step = self.steps[place]
        assert isinstance(step, Step)
        return self._statements.find(step.statement, step.types, self._settings)

    def _whole_unit(self, commands: list[Command], run: Runner) -> Unit:
        """The hot path: the unit of a message in which nothing has to be looked at before COMMIT."""
        steps, sent = self.steps, self._sent
        find = self._statement if self._settings else self.plan.statement
        for place, values in enumerate(self._values):
            statement = find(place)
            if not run.is_base and is_ambiguous(statement, values):
                self._next = place
                return in_order(commands)
            is_literal = self.literal_only or not steps[place].prepare  # type: ignore[union-attr]  # no marks here
            self._add(commands, place, statement, values, is_literal, run)
            sent.append(place)
        commands += self._own(b"COMMIT", run)
        sent.append(_COMMIT)
        self._next = len(steps)
        self.commit_sent = True
        return in_order(commands)

    def _own(self, text: bytes, run: Runner) -> list[Command]:
        """The commands that run a statement of the broker's own."""
        return run.own(self._statements.own(text), b"", self.literal_only)

    def _add(
        self, commands: list[Command], place: int, statement: Statement, values: bytes, is_literal: bool, run: Runner
    ) -> None:
        """Add the commands of a step, and note whether it runs with literals because it is not prepared yet."""
        is_base = run.is_base
        added = run(statement, values, is_literal)
        if is_base and not is_literal and type(added[-1]) is Plain:
            self._literal[place] = statement
        commands += added

    def advance(self, done: Completion, run: Runner) -> Unit | Verdict:
        """A unit has ended: return the next one, or how the transaction ended."""
        if self.verdict is not None:
            return self.verdict
        failure, step = self._take(done.results)
        if self.verdict is not None:
            return self.verdict
        if failure is None and done.failure is not None:
            failure, step = done.failure, self._failed_step(done)
        unresolved, self._unresolved = self._unresolved, None
        if failure is None and unresolved is not None:
            failure, step = unresolved.failure, unresolved.step
        if failure is None:
            if done.transaction == TX_NONE:
                return Verdict(failures.ended_early())
            self._sent = []
            return self._rest_of_unit([], run)
        block = self.plan.block[step] if step >= 0 else None
        if block is None or self.is_stale or failures.is_lost_race(failure) or done.transaction == TX_NONE:
            return self._abort(Verdict(failure, step), done.transaction)
        self._undo(block, step, failure)
        self._sent = [_OWN, _OWN]
        commands = self._own(_UNDO, run) + self._own(_RELEASE, run)
        return self._rest_of_unit(commands, run)

    def stop(self, done: Completion, cancelled: Failure) -> Verdict:
        """A unit has ended, and the message is to be cancelled: return how its transaction ended, or fail it.

        cancelled is the failure if PostgreSQL gave none that ended the transaction.
        """
        if self.verdict is None:
            self._take(done.results)
        if done.failure is None or self._is_contained(done):
            return self.verdict or Verdict(cancelled)
        return self.verdict or Verdict(done.failure, self._failed_step(done))

    def values(self) -> Iterator[tuple[Statement, bytes]]:
        """The message's statements with their values as sent, that is, without the values of references."""
        for place, at in enumerate(self.plan.places):
            if at >= 0:
                yield self._statement(place), self._values[at]

    def is_own(self, command: Prepare | Bind) -> bool:
        """Whether the command runs or prepares a statement of the broker's own."""
        return self._statements.is_own(command.name)

    def is_special(self, number: int) -> bool:
        """Whether the broker itself reads the values of this statement, counted from 0: for references or literals."""
        step = self.steps[self.plan.places.index(number)]
        return isinstance(step, Step) and (bool(step.references) or not step.prepare)

    def lost(self, partial: list[StatementResult]) -> None:
        """The backend is gone: keep the results that had come of the unit on its way."""
        if self.verdict is None:
            self._take(partial)

    def result(self, request: int, verdict: Verdict) -> TransactionResult:
        """The reply. Results that were lost with the backend are None."""
        if verdict.failure is not None:
            return TransactionResult(request, self.tries, (), tuple(verdict.failure), verdict.step)
        entries: list[tuple[object, ...] | None] = []
        for place, result in enumerate(self.outcomes):
            if place in self._contained:
                entries.append(tuple(self._contained[place]))
            elif result is None:
                entries.append(None)
            elif result.rows is None:
                entries.append(tuple(failures.result_too_large(self._max_result_bytes)))
            else:
                entries.append((0, TX_NONE, *result))
        return TransactionResult(request, self.tries, tuple(entries), None, -1)

    def _rest_of_unit(self, commands: list[Command], run: Runner) -> Unit:
        """Add steps to the commands until the broker has to look at results, or up to COMMIT; return the unit."""
        first = len(self._sent)
        is_checked = False
        is_altered = False  # whether a step of this unit may have changed a setting
        while self._next < len(self.steps):
            step = self.steps[self._next]
            if step == SAVEPOINT:
                if is_checked and self.plan.block[self._next] is not None:
                    # A count that is not met undoes the block around this one; as all savepoints have the same name,
                    # ROLLBACK TO would undo only this one.
                    return in_order(commands)
                commands += self._own(_SAVEPOINT, run)
                self._sent.append(_OWN)
            elif step == END_SAVEPOINT:
                if self._has_steps(first):
                    return in_order(commands)
                commands += self._own(_RELEASE, run)
                self._sent.append(_OWN)
            else:
                assert isinstance(step, Step)
                if any(each.step in self._sent[first:] for each in step.references):
                    return in_order(commands)
                values = self._values[self.plan.places[self._next]]
                if step.references:
                    try:
                        types, values = references.resolved(step.types, values, step.references, self.outcomes)
                    except references.ReferenceMissing as error:
                        failure = plain_failure("expectation", FAILED, str(error))
                        self._unresolved = Verdict(failure, self._next)
                        return in_order(commands) or (SimpleQuery(b"SELECT"),)
                    statement = self._statements.find(step.statement, types, self._settings)
                else:
                    statement = self._statement(self._next)
                if is_altered and is_ambiguous(statement, values):
                    return in_order(commands)
                self._add(commands, self._next, statement, values, self.literal_only or not step.prepare, run)
                is_altered = not run.is_base
                self._sent.append(self._next)
                is_checked = is_checked or step.low > 0 or step.high is not None
            self._next += 1
        if is_checked:
            return in_order(commands)
        commands += self._own(b"COMMIT", run)
        self._sent.append(_COMMIT)
        self.commit_sent = True
        return in_order(commands)

    def _has_steps(self, first: int) -> bool:
        return any(each >= 0 for each in self._sent[first:])

    def _take(self, results: list[StatementResult]) -> tuple[Failure | None, int]:
        """Keep the results. Returns the failure and the step of the first unexpected row count, else None and -1."""
        unexpected: tuple[Failure | None, int] = None, -1
        for what, result in zip(self._sent, results, strict=False):
            if what == _COMMIT:
                is_committed = result.command == "COMMIT"
                self.verdict = Verdict() if is_committed else Verdict(failures.commit_rolled_back())
                if result.notices:
                    self._append_notices(result.notices)
            elif what == _XID:
                self.xid = references.only_cell(result.rows or b"")
            elif what >= 0:
                self.outcomes[what] = self._within_limit(result)
                statement = self._literal.pop(what, None)
                if statement is not None and statement.saw_columns(result.columns):
                    self.to_probe.append(statement)
                step = self.steps[what]
                assert isinstance(step, Step)
                is_met = step.low <= max(result.rowcount, 0) <= (MAX_NUMBER if step.high is None else step.high)
                if not is_met and unexpected[0] is None:
                    unexpected = failures.unexpected_count(result.rowcount, step.low, step.high), what
        return unexpected

    def _within_limit(self, result: StatementResult) -> StatementResult:
        """The result, without its rows if the reply would become larger than a client takes."""
        size = len(result.rows or b"") + sum(map(len, result.notices))
        if result.rows is not None and self._held + size > self._max_result_bytes:
            return result._replace(rows=None, notices=())
        self._held += size
        return result

    def _append_notices(self, late: tuple[str, ...]) -> None:
        """Add the notices raised at COMMIT (by deferred triggers) to those of the last result, if they still fit."""
        self._held += sum(map(len, late))
        if self._held > self._max_result_bytes:
            return
        for place in reversed(range(len(self.outcomes))):
            if (last := self.outcomes[place]) is not None:
                self.outcomes[place] = last._replace(notices=(*last.notices, *late))
                return

    def _abort(self, verdict: Verdict, transaction: TransactionStatus) -> Unit | Verdict:
        if transaction == TX_NONE:
            return verdict
        self.verdict = verdict
        return (SimpleQuery(b"ROLLBACK"),)

    def _is_contained(self, done: Completion) -> bool:
        """Whether the unit failed in a savepoint block and not by a cancel, so its failure is not the transaction's."""
        step = self._failed_step(done)
        is_own = done.failure is not None and done.failure.sqlstate != QUERY_CANCELED
        return is_own and step >= 0 and self.plan.block[step] is not None

    def _failed_step(self, done: Completion) -> int:
        """The step that failed if one of the unit on its way did, -1 if that was no step of the message's."""
        at = len(done.results)
        return max(self._sent[at], -1) if at < len(self._sent) else -1

    def _undo(self, block: int, step: int, failure: Failure) -> None:
        """Note that the block that begins at step `block` is undone by the failure of `step`; go on after its end."""
        end = self.plan.block_end[block]
        for place in range(block, end):
            self.outcomes[place] = None
            self._contained.pop(place, None)
        self._contained[step] = failure
        self._next = end + 1
