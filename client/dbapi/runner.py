"""Where a connection's statements run: by themselves, in its transaction, or in its session."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import replace
from typing import Any

from client.dbapi.executors import Executors
from client.dbapi.many import Progress, Sets, collected
from client.errors import DBError, UsageError, error_from
from client.handler import Handler
from client.interruptions import noted
from client.session import Session
from client.values.bind import bind
from client.values.result import Result
from client.wire.messages import (
    NOT_EXECUTED,
    TX_ACTIVE,
    TX_FAILED,
    TX_LOST,
    UNKNOWN,
    ResultMessage,
    plain_failure,
)


class Runner(Executors):
    """Runs statements of one connection."""

    def run(self, statement: Any, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Result:
        """Run a statement where this connection's next one has to run; the transaction begins with it, if need be."""
        with self._lock:
            self.check_open()
            own = self._own
            try:
                if self._is_by_itself:
                    if (self._settings or self._defaults.modes) and _is_several(statement):
                        return self._run_several(statement, params)
                    if not self._defaults.modes:
                        return self._by_itself.query(statement, params)
                    return self._run_alone(statement, params)
                if not own.in_transaction:
                    self._begin(statement, params)
                return own.query(statement, params)
            finally:
                self._take_notices()

    def run_each(self, statement: Any, parameters: Iterable[Any], progress: Progress) -> None:
        """Run a statement with each of these parameters, in as few messages as can be; notes the progress.

        The lock is not held while the program's iterable is at work.
        """
        with self._lock:
            self.check_open()
            executor = self._by_itself if self._is_by_itself else self._own
            limit = executor._request_limit()
        progress.total = len(parameters) if isinstance(parameters, Sized) else None
        try:
            for sets in collected(statement, parameters, executor._prepare, limit, progress):
                with self._lock:
                    self.check_open()
                    self._run_sets(statement, sets, progress)
        except BaseException as error:
            note = "" if progress.has_failed else progress.note(self.commits_by_itself)
            if note:
                noted(error, note)
            raise

    def _run_sets(self, statement: Any, sets: Sets, progress: Progress) -> None:
        """Run the statement with these sets, where this connection's next statement has to run."""
        is_by_itself = self._is_by_itself
        try:
            progress.running = len(sets.parameters)
            if not sets.steps:
                result = self.run(statement, sets.parameters[0])
                # As psycopg2 counts: only what the tag of the statement counts.
                rows = result.rowcount if result.statusmessage[-1:].isdigit() else -1
            elif is_by_itself:
                result, rows = self._send_by_itself(sets)
            else:
                result, rows = self._send_steps(statement, sets)
        except DBError as error:
            # A message may hold so many words only, and no statement that makes sense in a session alone. As few sets
            # as can be are told so one by one.
            is_refused = isinstance(error, UsageError) and error.outcome == NOT_EXECUTED and error.failure.request != 0
            if is_refused and len(sets.steps) > 1:
                for half in sets.halves():
                    self._run_sets(statement, half, progress)
                return
            told = progress.failed(error, sets, is_by_itself)
            if told is error:
                raise
            raise told from error.__cause__
        else:
            progress.add(result, rows, sets, self.commits_by_itself and not self._own.in_transaction)
        finally:
            self._take_notices()

    def _send_by_itself(self, sets: Sets) -> tuple[Result, int]:
        """Run these steps as one transaction message, or a single one as a query; with how many rows there were."""
        characteristics = self._defaults
        if len(sets.steps) == 1 and not characteristics.modes:
            result = self._by_itself._run_step(sets.steps[0])
            return result, result.rowcount
        with self._by_itself.transaction(**characteristics.options) as transaction:
            pending = transaction._add(sets.steps)
        results = [each.result() for each in pending]
        counts = [each.rowcount for each in results]
        return results[-1], -1 if -1 in counts else sum(counts)

    def _send_steps(self, statement: Any, sets: Sets) -> tuple[Result, int]:
        """Run these steps as one message in the transaction; in a session with autocommit as one of their own."""
        reply = self._sent(statement, sets)
        return Result(reply, self._own._dicts), reply.rowcount

    def _sent(self, statement: Any, sets: Sets) -> ResultMessage:
        own = self._own
        if own.in_transaction or not self.commits_by_itself:
            if not own.in_transaction:
                self._begin(statement, sets.parameters[0])
            return own._run_steps(sets.steps)
        assert isinstance(own, Session)
        own.autocommit = False
        try:
            reply = own._run_steps(sets.steps)
            own.commit()
            return reply
        finally:
            if own.transaction_status in (TX_ACTIVE, TX_FAILED):
                own.rollback()
            if not own.in_transaction:
                own.autocommit = True

    def copy(self, statement: bytes, file: Any, reads: bool) -> Result:
        """Run a COPY that reads the file, or writes it."""
        with self._lock:
            self.check_open()
            own = self._own
            is_by_itself = self._is_by_itself
            try:
                if is_by_itself and not self._defaults.modes:
                    return _copied(self._by_itself, statement, file, reads)
                if not own.in_transaction:
                    self._begin(statement, None, even_by_itself=is_by_itself)
                result = _copied(own, statement, file, reads)
                if is_by_itself:
                    own.commit()
                return result
            finally:
                if is_by_itself:
                    own.rollback()
                self._take_notices()

    def _begin(self, statement: Any, params: Any, *, even_by_itself: bool = False) -> None:
        """Begin a transaction that has characteristics, by a statement of its own, as psycopg2's BEGIN is.

        Not in one string with the statement: PostgreSQL's errors would tell of other lines and positions.
        """
        chosen = self._defaults if even_by_itself else self._characteristics
        if not chosen.modes or (self.commits_by_itself and not even_by_itself):
            return
        bind(statement, params)  # what cannot be sent begins no transaction
        wants_primary = chosen.is_for_primary
        if wants_primary and chosen.readonly is None and self._own._read_only and not self.is_session:
            chosen = replace(chosen, readonly=True)
        # Settings would be a statement before it.
        reads = False if wants_primary else None
        self._own.query(f"SET TRANSACTION {chosen.modes}", settings={}, read_only=reads)

    def _run_alone(self, statement: Any, params: Any) -> Result:
        """Run one statement as a transaction message; an error does not say which statement of it has failed."""
        try:
            return self._by_itself.run([(statement, params)], retries=0, **self._defaults.options)[0]
        except DBError as error:
            error.place, error.args = None, (error.failure.message,)
            raise

    def _run_several(self, statement: Any, params: Any) -> Result:
        """Run a string of several statements by itself; with settings or characteristics it is a transaction here.

        It is one for PostgreSQL as well.
        """
        own = self._own
        try:
            self._begin(statement, params, even_by_itself=True)
            result = own.query(statement, params)
            own.commit()
            return result
        finally:
            own.rollback()

    def _commit(self) -> None:
        self._own._lease.check_unused()  # by what a signal handler interrupts
        self.mark += 1
        if self._own.transaction_status == TX_FAILED:
            self._own.rollback()  # so does PostgreSQL, and psycopg2's commit() is silent about it
            return
        try:
            self._own.commit()
        finally:
            self._take_notices()

    def _rollback(self) -> None:
        self._own._lease.check_unused()
        self.mark += 1
        self._own.rollback()
        if self._is_lost:
            self._was_told = True
            raise _session_lost(self._remains)


def _session_lost(remains: str) -> DBError:
    """The error of a call that finds the connection's session lost, and is not told by the broker why."""
    text = f"the session of this connection is lost, and with it what was open in it; connect anew{remains}"
    if remains:
        return error_from(plain_failure("connection", UNKNOWN, text, TX_LOST))
    return error_from(plain_failure("transaction-lost", NOT_EXECUTED, text, TX_LOST))


def _is_several(statement: Any) -> bool:
    """Whether a text may be several statements: wrong for a semicolon in a literal, which does no harm."""
    if isinstance(statement, bytes):
        return b";" in statement.rstrip(b"; \t\r\n")
    return not isinstance(statement, str) or ";" in statement.rstrip("; \t\r\n")


def _copied(executor: Handler | Session, statement: bytes, file: Any, reads: bool) -> Result:
    return executor.copy_in(statement, file) if reads else executor.copy_out(statement, file)
