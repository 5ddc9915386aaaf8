"""Transaction messages: a whole transaction collected in a block, sent as one message when the block ends.

    with db.transaction() as tx:
        order = tx.query('INSERT INTO orders (customer) VALUES (%s) RETURNING id', (7,))
        tx.query('INSERT INTO items (order_id, sku) VALUES (%s, %s)', (order['id'], 'A1'), expect=1)
    print(order['id'])

An interactive transaction holds a backend while the program thinks between its statements. Here the broker has all of
them at once: it needs the backend for one stretch, can run the transaction again if that is safe, and can find out
what became of a COMMIT whose answer was lost. The price is that no result can be read before the end: later statements
use values of earlier ones by References, and instead of checks in the program there are row counts (expect).
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from client.compiled import load
from client.errors import DBError, UsageError, connection_error, error_from, kind_of, place_of
from client.options import Options, checked_prepare
from client.pending import RESULT_FIELDS, PendingResult, Savepoint
from client.values.bind import Reference, bind
from client.wire import limits, messages
from client.wire.limits import END_SAVEPOINT, MAX_STEPS, SAVEPOINT
from client.wire.messages import (
    EXECUTED,
    FAILED,
    NOT_EXECUTED,
    UNKNOWN,
    Failure,
    Outcome,
    Step,
    TransactionResult,
    plain_failure,
)

Expectation = int | tuple[int, int | None] | None


# Sends a message of these steps and waits for what became of it.
Send = Callable[[Options, tuple[Step | int, ...]], TransactionResult]
_STEPS, _METHODS = load("client.lane.steps"), load("client.lane.methods")

if TYPE_CHECKING:
    _Fields = object
else:
    # Compiled code, where it is, works on the fields too.
    _Fields = getattr(load("client.lane.records"), "BlockFields", object)


class Phase(Enum):
    """Where the block stands."""

    NEW = "new"  # -> OPEN
    OPEN = "open"  # -> ENDED
    ENDED = "ended"


class Transaction(_Fields):
    """The block of `Handler.transaction`. It belongs to one thread and is entered once.

    Nothing is sent before the end of the block, and nothing at all if an exception leaves it or it holds no statement.
    The end of the block raises the error that ended the transaction; nothing was committed then, unless the error's
    outcome says otherwise.
    """

    __slots__ = () if _Fields is not object else (
        "_collector", "_collector_to_be", "_dicts", "_open", "_options", "_phase", "_prepare", "_savepoints", "_send",
        "_statements", "_steps", "tries",
    )  # fmt: skip

    def __init__(self, send: Send, options: Options, prepare: bool, collector: Any = None, dicts: bool = False) -> None:
        # How often the message was run; 0 if it was not sent or its answer did not come.
        self.tries = 0
        self._send = send
        self._options = options
        self._prepare = prepare
        self._dicts = dicts  # whether the rows of the results are dicts
        self._phase = Phase.NEW
        # Compiled code that collects the statements, until the block begins; and from then on as long as all is usual.
        # Nothing that follows is used then.
        self._collector_to_be = collector
        self._collector: Any = None
        self._steps: list[Step | int] = []
        # Each statement among the steps, in their order, with its step.
        self._statements: dict[PendingResult, int] = {}
        # Each savepoint block that was begun, an outer one before those in it; and those not left yet.
        self._savepoints: list[Savepoint] = []
        self._open: list[Savepoint] = []

    def __reduce__(self) -> NoReturn:
        raise TypeError("a transaction block can be neither pickled nor copied, the results of its statements can")

    def query(
        self,
        statement: Any,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        expect: Expectation = None,
        prepare: bool | None = None,
    ) -> PendingResult:
        """Add a statement; statement, params and prepare are those of Handler.query.

        expect=1 wants exactly one row affected or returned, expect=(1, 10) from 1 to 10, expect=(1, None) at least one;
        any other count is an ExpectationFailed. Raises what psycopg2 raises for parameters that do not fit.
        """
        if self._collector is not None:
            self._take_over()
        if self._phase is not Phase.OPEN:
            self._check_open()
        low, high = _NO_LIMITS if expect is None else _row_limits(expect)
        is_prepared = self._prepare if prepare is None else checked_prepare(prepare)
        sql, types, values, references = bind(statement, params)
        earlier: tuple[messages.StepReference, ...] = ()
        if references:
            earlier = tuple(self._on_the_wire(parameter, reference) for parameter, reference in references)
        steps, blocks = self._steps, self._open
        if len(steps) + len(blocks) >= MAX_STEPS:
            self._need_room(1, "statement")
        pending = PendingResult(blocks[-1] if blocks else None, self._dicts)
        self._statements[pending] = len(steps)
        steps.append(Step._make((sql, types, values, is_prepared, earlier, low, high)))
        return pending

    def _add(self, steps: Sequence[Step]) -> list[PendingResult]:
        """Add statements that are bound already, at most MAX_STEPS."""
        self._check_open()
        self._take_over()
        pending = [PendingResult(None, self._dicts) for _ in steps]
        self._statements.update(zip(pending, range(len(self._steps), MAX_STEPS), strict=False))
        self._steps.extend(steps)
        return pending

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[Savepoint]:
        """A block of statements that succeed or fail together: an error in it does not end the transaction."""
        self._check_open()
        self._take_over()
        self._need_room(2, "savepoint block")
        savepoint = Savepoint(len(self._steps), self._innermost)
        self._savepoints.append(savepoint)
        self._open.append(savepoint)
        self._steps.append(SAVEPOINT)
        try:
            yield savepoint
        except BaseException as error:
            self._take_out(savepoint, error)
            raise
        self._check_open()
        if self._innermost is not savepoint:
            raise UsageError("savepoint blocks overlap; leave the one that was entered last first")
        self._open.pop()
        if len(self._steps) == savepoint.mark + 1:
            self._steps.pop()
        else:
            self._steps.append(END_SAVEPOINT)

    def __enter__(self) -> Self:
        if self._phase is not Phase.NEW:
            raise UsageError("a transaction's block is entered only once; call transaction() for another")
        self._phase = Phase.OPEN
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._phase = Phase.ENDED
        self._take_over()
        if error is not None:
            self._give_up(_unsent("transaction", error))
        elif self._open:
            misuse = UsageError("the transaction's block ends inside a savepoint block; leave the savepoint's first")
            self._give_up(_unsent("transaction", misuse))
            raise misuse
        elif self._steps:
            self._run(None)
        else:
            self._settle(())

    @property
    def _innermost(self) -> Savepoint | None:
        return self._open[-1] if self._open else None

    def _check_open(self) -> None:
        if self._phase is Phase.NEW:
            raise UsageError("this transaction has not begun; write: with db.transaction() as tx")
        if self._phase is Phase.ENDED:
            raise UsageError("this transaction's block has ended; call transaction() for another")

    def _need_room(self, more: int, what: str) -> None:
        # Each open savepoint block still needs its end.
        if len(self._steps) + len(self._open) + more > MAX_STEPS:
            raise UsageError(
                f"this {what} is one too many: a transaction block holds at most {MAX_STEPS} steps, and a savepoint "
                "block counts as two; split the transaction, or let one statement do the work of many"
            )

    def _on_the_wire(self, parameter: int, reference: Reference) -> messages.StepReference:
        step = self._statements.get(reference.source)
        if step is None:
            raise UsageError(
                f"parameter {parameter + 1} is a result of a statement that is not in this transaction block; have "
                "both in one block, or read the value after the other block has ended"
            )
        return messages.StepReference(parameter, step, reference.row, reference.column)

    def _take_out(self, outermost: Savepoint, cause: BaseException) -> None:
        """Remove a savepoint block that an exception leaves; if it is caught, the transaction goes on without it."""
        if outermost not in self._open:
            return  # removed with the block around it
        error = _unsent("savepoint", cause)
        for savepoint in self._savepoints[self._savepoints.index(outermost) :]:
            savepoint.settle(error)
        for pending in [each for each, step in self._statements.items() if step > outermost.mark]:
            pending.settle(error)
            del self._statements[pending]
        del self._steps[outermost.mark :]
        del self._open[self._open.index(outermost) :]

    def _take_over(self) -> None:
        """Go on with the statements that compiled code has collected."""
        if self._collector is not None:
            steps: list[Step | int] = []
            statements: dict[PendingResult, int] = {}
            for sql, types, values, pending in self._collector.contents():
                statements[pending] = len(steps)
                steps.append(Step(sql, types, values, self._prepare, (), *_NO_LIMITS))
            # If an exception interrupts this, all is done again.
            self._steps, self._statements, self._savepoints, self._open = steps, statements, [], []
            self._collector = None

    def _run(self, reply: TransactionResult | None) -> None:
        """Tell the results and savepoint blocks what became of the message; send it, if there is no reply yet."""
        try:
            self._take_over()
            if reply is None:
                reply = self._send(self._options, tuple(self._steps))
        except BaseException as error:
            self._fail(error)
            raise
        self.tries = reply.tries
        if reply.failure is None:
            self._settle(reply.results)
            return
        failed = error_from(Failure(*reply.failure))
        for index, (pending, step) in enumerate(self._statements.items()):
            if step == reply.step:
                failed = self._error(reply.failure, index, step)
                pending.settle(failed)
        self._give_up(_after(failed))
        raise failed

    def _fail(self, error: BaseException) -> None:
        """Settle everything after an exception that left the call."""
        self._take_over()
        self._give_up(_after(error))

    def _give_up(self, error: DBError) -> None:
        """Settle everything with this error: there are no results, and reading one raises it."""
        for pending in self._statements:
            pending.settle(error)
        for savepoint in self._savepoints:
            savepoint.settle(error)

    def _settle(self, results: tuple[Any, ...]) -> None:
        """Settle everything after a commit: each statement has its result, or a reason for having none."""
        for index, (pending, step) in enumerate(self._statements.items()):
            fields = results[step]
            if fields is not None and len(fields) == RESULT_FIELDS:
                pending.settle(fields)
            elif fields is not None:
                error = self._error(fields, index, step)
                pending.settle(error)
                if pending.around is not None:
                    pending.around.settle(error)
        # Outer blocks come first, so the block around each one is settled already.
        for savepoint in self._savepoints:
            savepoint.settle(_undone(savepoint.around))
        for pending in self._statements:
            if not pending.is_settled:
                pending.settle(_undone(pending.around) or _lost())

    def _error(self, fields: tuple[Any, ...], index: int, step: int) -> DBError:
        failed = self._steps[step]
        assert isinstance(failed, Step)
        return error_from(Failure(*fields), place_of(index, len(self._statements), failed.statement))


_NO_LIMITS = (0, None)


def _row_limits(expect: Any) -> tuple[int, int | None]:
    """The fewest and the most rows (None: no limit) that expect allows."""
    low, high = expect if isinstance(expect, tuple) and len(expect) == 2 else (expect, expect)
    if _is_count(low) and (high is None or (_is_count(high) and low <= high)):
        return low, high
    raise ValueError(
        f"expect is {expect!r}; expected a number of rows, or (fewest, most), where most may be None for no limit"
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limits.MAX_NUMBER


def _unsent(what: str, cause: BaseException) -> DBError:
    text = f"nothing of this {what} block was sent, because it was left by {type(cause).__name__}: {cause}"
    return _no_result(text, NOT_EXECUTED, cause)


# What is known of the other statements' effects when a transaction ended with an error of this outcome.
_FATE = {
    NOT_EXECUTED: "nothing of this transaction was committed",
    FAILED: "nothing of this transaction was committed",
    EXECUTED: "this transaction was committed, but its results are lost",
    UNKNOWN: "whether this transaction was committed is not known",
}


def _after(cause: BaseException) -> DBError:
    """The error for the results of a transaction that ended with this one."""
    outcome = cause.outcome if isinstance(cause, DBError) else UNKNOWN
    why = str(cause) if isinstance(cause, DBError) else repr(cause)
    return _no_result(f"{_FATE[outcome]}: {why}", outcome, cause)


def _undone(savepoint: Savepoint | None) -> DBError | None:
    """The error for a statement or block in this savepoint block; None if there is none, or it took effect."""
    cause = savepoint.error if savepoint is not None else None
    return None if cause is None else _no_result(f"undone with its savepoint block: {cause}", FAILED, cause)


def _lost() -> DBError:
    text = "the transaction was committed, but this result was lost with the connection to PostgreSQL"
    return connection_error(text, EXECUTED)


def _no_result(text: str, outcome: Outcome, cause: BaseException) -> DBError:
    error = UsageError(text, plain_failure(kind_of(UsageError), outcome, text))
    error.__cause__ = cause
    return error


if _STEPS is not None:
    _STEPS.use(PendingResult)
if _METHODS is not None:
    _METHODS.use(Transaction, Phase.NEW, Phase.OPEN, Phase.ENDED)
    _METHODS.before(Transaction, "__enter__", "query", "__exit__")
