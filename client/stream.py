"""Results that do not fit: a Stream reads the rows of one statement in blocks, through a cursor of PostgreSQL.

    for row in db.stream('SELECT * FROM events ORDER BY id'):
        print(row.id)

A cursor lives in a transaction. If its Handler or session has one open, the stream's cursor is another one in it, and
its statements go between the program's. Else the stream has a lease of its own, as an interactive transaction has: it
begins with the first row and ends with the last. Nobody else uses that lease, so the next block is asked for before the
program reads the present one, and PostgreSQL works meanwhile: by `scripts/streams` a program has 1.2 times as many rows
per second if it counts them, and 1.1 times if it writes them as CSV (medians of 8 rounds on 2 cores). No more than one
block is ahead, so a slow program holds up PostgreSQL and not the broker's memory.

A stream that is dropped without a word (garbage, or an exception of a signal handler's) closes its channel, which takes
no round trip and raises nothing: the broker rolls back then, as for a client that died.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from itertools import chain
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self

from client.errors import DBError, ResultTooLarge, TransactionLost, UsageError
from client.executor import Executor
from client.interruptions import is_own, noted, suppressed
from client.lease import Call, ClientLease
from client.options import DEFAULT_PRIORITY, Settings, checked_priority, packed_settings, patience
from client.values.bind import Bound, bind
from client.values.blanks import BLANKS
from client.values.offline import plain, render
from client.values.result import Result
from client.values.statements import is_single
from client.wire.messages import Commit, Failure, Query, Rollback

# Enough for the round trip of a block to be little beside its rows' way; psycopg2's named cursors have as many.
BLOCK_ROWS = 2000
# PostgreSQL's grammar reads FETCH's number as an int4: https://www.postgresql.org/docs/current/sql-fetch.html
MAX_BLOCK_ROWS = 2**31 - 1
# What DECLARE takes, behind comments and parentheses. It refuses a WITH that writes by itself.
_READS = re.compile(BLANKS + rb"(?:\(" + BLANKS + rb")*+(?:select|values|table|with)\b", re.IGNORECASE)
_NOTHING = re.compile(rb"(?:" + BLANKS + rb";)*+" + BLANKS)
# Of cursors among the program's own statements: unique per process, so also in each transaction. One in a lease of its
# own is the only one there, and always has the same, so the same statement is the same text each time.
_numbers = itertools.count(1)
# How the broker's text begins if a lease is lost; the reason follows, and behind a semicolon what to do.
_ROLLED_BACK = "the transaction was rolled back: "
# All rows are wanted, where PostgreSQL plans for the first tenth of a cursor's. What the program sets counts.
_PLAN = packed_settings({"cursor_tuple_fraction": 1.0})


class Asked(NamedTuple):
    """What a stream reads, and how: the arguments of `Handler.stream`, checked."""

    bound: Bound  # so what becomes of the parameters later is nothing to the stream
    size: int
    timeout: float | None
    dicts: bool
    options: dict[str, Any]  # of query, for the first statement


def asked(statement: Any, params: Any, size: int, timeout: float | None, dicts: bool, **options: Any) -> Asked:
    """Return the request, if the statement is one whose rows a cursor can read and its parameters fit."""
    statement = plain(statement)
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= MAX_BLOCK_ROWS:
        raise ValueError(f"size is {size!r}; expected from 1 to {MAX_BLOCK_ROWS} rows, to be read in one block")
    if timeout is not None:
        patience(timeout)
    checked_priority(options.get("priority") or DEFAULT_PRIORITY)
    if options.get("settings"):
        packed_settings(options["settings"])
        options["settings"] = dict(options["settings"])
    bound = bind(statement, params)
    if bound.references:
        raise UsageError("a parameter is a result of a statement in a transaction block; read it after the block")
    sent = render(statement, params)
    if _NOTHING.fullmatch(sql := statement.encode() if isinstance(statement, str) else statement) is not None:
        raise UsageError("stream() was given blanks, comments or semicolons, and no statement")
    if not is_single(sent):
        raise UsageError(
            "stream() reads the rows of one statement, and this text holds several, all of which PostgreSQL would run; "
            "run the others by query()"
        )
    if _READS.match(sql) is None:
        raise UsageError(
            "stream() reads the rows of SELECT, VALUES, TABLE or WITH, which PostgreSQL can read in blocks; for any "
            "other statement call query()"
        )
    return Asked(bound, size, timeout, dicts, options)


class Stream:
    """The rows of one statement, one after the other, read in blocks; made by `stream` of a Handler or a session.

    It is an iterator, and a context manager that closes it. Nothing is sent before the first row is asked for. An error
    in the middle is that of a statement in an interactive transaction; nothing can be read after it.
    """

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        # Nothing in here refers to the Stream, so that one that nobody has any more is gone at once.
        self._blocks = _blocks(cursor)
        self._rows: Iterator[Any] = chain.from_iterable(self._blocks)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Stream can be neither pickled nor copied, its rows can; open another one for them")

    @property
    def columns(self) -> tuple[str, ...]:
        """The column names; reads the first block, if none was read."""
        if self._cursor.columns is None:
            self._rows = chain(next(self._blocks, ()), self._rows)
        if self._cursor.columns is None:
            raise self._closed()
        return self._cursor.columns

    def close(self) -> None:
        """Give back what the stream holds; of rows that were not read nothing is known then."""
        self._rows = iter(())
        self._cursor.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        for row in self._rows:
            return row
        if not self._cursor.is_complete:
            raise self._closed()
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except DBError as second:
            if error is None or not is_own(second):
                raise
            noted(error, f"closing the stream after it failed as well: {second}")

    def _closed(self) -> UsageError:
        return UsageError("this stream has ended before its last row, by close() or an error; open another one")


def _blocks(cursor: Cursor) -> Iterator[Result]:
    """Yield the blocks. If this is left before its end, the cursor is given up."""
    try:
        while (block := cursor.fetch()) is not None:
            yield block
    finally:
        cursor.give_up()


class Cursor:
    """A cursor in the transaction that is open in its executor, among the program's own statements."""

    def __init__(self, executor: Executor, asked: Asked, number: int | None = None) -> None:
        """number tells its cursor from others of the transaction; None: any."""
        self._executor = executor
        self._asked = asked
        self._name = f"poold_stream_{next(_numbers) if number is None else number}"
        # A line of its own: PostgreSQL's errors show the statement's lines and no other.
        self._declare_as = f"DECLARE {self._name} NO SCROLL CURSOR FOR\n"
        self._fetch = f"FETCH {asked.size} FROM {self._name}"
        self._transaction: Any = None  # in which it was declared; as Executor._open_transaction
        self.columns: tuple[str, ...] | None = None
        # Whether all rows were read, and whether there is nothing more to do, for whatever reason.
        self.is_complete = False
        self._has_ended = False

    def fetch(self) -> Result | None:
        """Return the next block of rows, None if there is none."""
        if self._has_ended:
            return None
        try:
            if self._transaction is None:
                self._declare()
            block = self._next_block()
            self.columns = block.columns
            if len(block) < self._asked.size:
                self.is_complete = self._has_ended = True
                self._complete()
            else:
                self._look_ahead()
        except BaseException as error:
            self.is_complete, self._has_ended = False, True
            if isinstance(error, DBError) and is_own(error):
                self._explain(error)
            self._failed(error)
            raise
        return block

    def _explain(self, error: DBError) -> None:
        """Have the error say what a stream's program has to know of it."""
        failure = error.failure
        if isinstance(error, ResultTooLarge):
            size = self._asked.size
            way = (
                "the row is too large"
                if size == 1
                else f"give stream() a smaller size than {size}, its rows in a block"
            )
            failure = failure._replace(message=f"{failure.message}; {way}")
        elif self._transaction is None:
            failure = _as_written(failure, len(self._declare_as))
        error.failure, error.args = failure, (failure.message,)

    def close(self) -> None:
        """End before the last row, if it has not ended."""
        if not self._has_ended:
            self._has_ended = True
            if self._transaction is not None:
                self._leave()

    def give_up(self) -> None:
        """End without waiting for anything and without an error: a cursor ends with its transaction."""
        self._has_ended = True

    def _declare(self) -> None:
        bound = self._asked.bound
        self._query(bound._replace(statement=self._declare_as.encode() + bound.statement), **self._asked.options)
        self._transaction = self._executor._open_transaction()

    def _next_block(self) -> Result:
        if self._executor._open_transaction() != self._transaction:
            raise UsageError(
                "the transaction in which this stream was opened has ended, and its rows are gone with it; read them "
                "before commit() and rollback(), or open the stream in no transaction"
            )
        return self._query(self._fetch)

    def _look_ahead(self) -> None:
        """Ask for the next block, if nothing comes between."""

    def _complete(self) -> None:
        """Do what follows when all rows are there."""
        self._query(f"CLOSE {self._name}")

    def _leave(self) -> None:
        if self._executor._open_transaction() == self._transaction:
            self._complete()

    def _failed(self, error: BaseException) -> None:
        """Do what follows on an error."""

    def _query(self, statement: str | Bound, **options: Any) -> Result:
        rows = "dict" if self._asked.dicts else "row"
        return self._executor.query(statement, None, self._asked.timeout, prepare=False, rows=rows, **options)


def _as_written(failure: Failure, ahead: int) -> Failure:
    """Return PostgreSQL's failure with its place in the statement, before which came a line of ahead characters."""
    position, primary = failure.diag.get("statement_position", ""), failure.diag.get("message_primary", "")
    if not position.isdecimal() or int(position) <= ahead:
        return failure
    place = str(int(position) - ahead)
    message, start = failure.message, f"{primary}\nLINE "
    if message.startswith(start):
        number, _, rest = message.removeprefix(start).partition(": ")
        line, _, rest = rest.partition("\n")
        fewer = len(number) - len(shown := str(int(number) - 1))  # by so much less the mark is indented
        message = f"{start}{shown}: {line}\n{rest[fewer:]}"
    return failure._replace(message=message, diag=failure.diag | {"statement_position": place})


class _Reader(Executor):
    """Runs the statements of one stream, in a lease of their own with a transaction in it."""

    def __init__(self, parent: Executor, settings: Settings | None) -> None:
        self._share(parent)
        self._parent = parent
        # They travel with the first statement, and hold to the transaction's end.
        self._settings = _PLAN + (parent._settings if settings is None else packed_settings(settings))
        # So the parent can cancel what waits here, and has its notices.
        self._calls, self.notices = parent._calls, parent.notices
        self._ahead: Call | None = None  # that was sent, and of which nothing was read

    def query(self, *arguments: Any, **options: Any) -> Result:
        """Run a statement; the parent's position, if it has to be seen first, is handed over before."""
        if self._parent._unseen:
            self._parent._catch_up(None)
        result = super().query(*arguments, **options)
        self._settings = b""
        return result

    def commit(self) -> None:
        """End the transaction; what its statement has done remains."""
        self._end(Commit)

    def rollback(self) -> None:
        """End the transaction, open or lost."""
        if self._lease.number:
            self._finish(Rollback)
            self._close_lease()

    def ask(self, statement: bytes, timeout: float | None) -> None:
        """Send a statement; `answer` returns its result."""
        call = Call()
        try:
            channel = self._lease.begin(call)
            assert channel is not None
            number, rest = channel.next_request(), (False, timeout, self._tag, self._priority, b"")
            call.message = Query(number, self._leased_group, self._lease.number, False, statement, b"", b"", *rest)
            channel.send(call.message)
        except DBError as error:
            if self._lease.has(call):
                self._failed(call, error)
            raise
        self._ahead = call

    def answer(self, waits: float | None, dicts: bool) -> Result | None:
        """Return the result of the statement that was sent, None if none was."""
        call, self._ahead = self._ahead, None
        if call is None:
            return None
        if call.channel is not None and call.channel.pid != os.getpid():
            raise UsageError("this stream was begun before the fork and belongs to the parent process; open another")
        return Result(self._in_lease(None, waits, ahead=call), dicts)

    def give_up(self) -> None:
        """Close the channel: the broker rolls back."""
        self._ahead = None
        if self._lease.number:
            self._lease.lose(is_in_doubt=False)
            self._lease.close()

    @property
    def is_ahead(self) -> bool:
        """Whether a statement was sent and its result not taken."""
        return self._ahead is not None

    def _new_lease(self) -> ClientLease:
        return ClientLease("stream", Rollback)

    def _needs_lease(self) -> bool:
        return True


class CursorOfItsOwn(Cursor):
    """A cursor in a lease of its own, for which the next block is on its way while the present one is read."""

    _executor: _Reader

    def __init__(self, parent: Executor, asked: Asked) -> None:
        options = dict(asked.options)
        super().__init__(_Reader(parent, options.pop("settings")), asked._replace(options=options), 0)
        self._waits = None if asked.timeout is None else patience(asked.timeout)

    def _explain(self, error: DBError) -> None:
        super()._explain(error)
        if isinstance(error, TransactionLost):
            # The transaction is the stream's own, of which the program knows nothing.
            _, _, reason = error.failure.message.partition(_ROLLED_BACK)
            if reason:
                text = f"the stream has ended before its last row: {reason.rpartition('; ')[0]}; open another one"
                error.failure, error.args = error.failure._replace(message=text), (text,)

    def give_up(self) -> None:
        super().give_up()
        self._executor.give_up()

    def _next_block(self) -> Result:
        block = self._executor.answer(self._waits, self._asked.dicts)
        return self._query(self._fetch) if block is None else block

    def _look_ahead(self) -> None:
        # If it could not be sent the lease is lost, and the next fetch says so: first the rows that are there.
        with suppressed(DBError):
            self._executor.ask(self._fetch.encode(), self._asked.timeout)

    def _complete(self) -> None:
        self._executor.commit()

    def _leave(self) -> None:
        if self._executor.is_ahead:
            self._executor.give_up()  # its answer may take long
        else:
            self._executor.rollback()

    def _failed(self, error: BaseException) -> None:
        if not isinstance(error, DBError) or not is_own(error):
            self._executor.give_up()
            return
        try:
            self._executor.rollback()
        except DBError as second:
            self._executor.give_up()
            if not is_own(second):
                raise
            noted(error, f"rolling back after it failed as well: {second}")
