"""Two-phase commits, PEP 249's optional extension: a transaction that is prepared now and committed by anybody later.

PREPARE TRANSACTION ends the transaction's lease, as what is prepared belongs to no session; COMMIT PREPARED and
ROLLBACK PREPARED run on any backend. From the moment that PREPARE TRANSACTION is sent a lost connection rolls nothing
back: the errors say by which identifier the transaction is to be looked for, and none of them says that the transaction
may be repeated.
"""

from __future__ import annotations

from typing import Any

import psycopg2
from psycopg2 import extensions

from client.dbapi.runner import Runner
from client.dbapi.wording import IN_TWO_PHASES, rewrite
from client.dbapi.xid import Xid
from client.errors import DBConnectionError, DBError, error_from
from client.values.result import Result
from client.wire.messages import FAILED, NOT_EXECUTED, UNKNOWN, plain_failure
from client.wire.sqlstates import IN_FAILED_SQL_TRANSACTION, UNDEFINED_OBJECT

_BY_XID = "tpc_commit(xid) or tpc_rollback(xid)"
# What ends a prepared transaction, and what that is then.
_DONE = {"COMMIT PREPARED": "committed", "ROLLBACK PREPARED": "rolled back"}


class TwoPhase(Runner):
    """The tpc_ methods of a connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._two_phase_xid: Xid | None = None  # from tpc_begin to the end of that transaction
        self._is_prepared = False  # and from tpc_prepare on
        self._may_be_prepared = False  # PREPARE TRANSACTION was sent, and its answer is not known
        self._may_be: tuple[str, ...] = ()  # 'committed' or 'rolled back': that was sent, and its answer is not known

    @property
    def status(self) -> int:
        """psycopg2.extensions' STATUS_READY, STATUS_BEGIN or STATUS_PREPARED."""
        if self._is_prepared:
            return int(extensions.STATUS_PREPARED)
        # A transaction's first statement may be under way, from which only its answer tells that one is open.
        is_begun = self._own.in_transaction or self._is_beginning
        is_open = self._two_phase_xid is not None or (is_begun and not self.commits_by_itself)
        return int(extensions.STATUS_BEGIN if is_open else extensions.STATUS_READY)

    def xid(self, format_id: int, gtrid: str, bqual: str) -> Xid:
        """Make a transaction identifier."""
        self.check_open()
        return Xid(format_id, gtrid, bqual)

    def tpc_begin(self, xid: Xid | str) -> None:
        """Begin a transaction that can be prepared under this identifier."""
        with self._lock:
            self.check_open()
            if self.status == extensions.STATUS_BEGIN:
                raise psycopg2.ProgrammingError("tpc_begin cannot be used inside a transaction")
            self.refuse_prepared("tpc_begin")
            if self._autocommit:
                raise psycopg2.ProgrammingError("tpc_begin can't be called in autocommit mode")
            self._two_phase_xid = Xid.of(xid)
            self._lock.more_words = IN_TWO_PHASES

    def tpc_prepare(self) -> None:
        """Prepare the transaction: from here on PostgreSQL keeps it, whatever happens to this process."""
        with self._lock:
            self.check_open()
            self.refuse_prepared("tpc_prepare")
            if self._two_phase_xid is None:
                raise psycopg2.ProgrammingError("prepare must be called inside a two-phase transaction")
            if self._may_be_prepared:
                raise psycopg2.ProgrammingError(
                    f"whether {self._named} is prepared is not known; call tpc_commit() or tpc_rollback()"
                )
            lease = self._own._lease
            was_in_doubt = lease.is_in_doubt
            try:
                result = self.run("PREPARE TRANSACTION %s", (str(self._two_phase_xid),))
                self.mark += 1  # prepared or rolled back, it has ended here, and its cursors with it
            except BaseException as error:
                if not lease.is_in_doubt or was_in_doubt:
                    raise
                self._may_be_prepared = True
                self.mark += 1
                self._remains = f"; whether {self._named} is prepared is not known: look for it by tpc_recover()"
                if isinstance(error, DBError):
                    raise self._prepare_unknown(error) from error
                raise
            if result.statusmessage == "ROLLBACK":  # PostgreSQL's way to say so
                text = (
                    "PREPARE TRANSACTION rolled back: a statement of this transaction had failed, nothing is prepared"
                )
                raise error_from(plain_failure("query", FAILED, text, sqlstate=IN_FAILED_SQL_TRANSACTION))
            self._is_prepared = True
            self._remains = f"; {self._named} is prepared, and waits for tpc_commit(xid) or tpc_rollback(xid)"

    @property
    def _named(self) -> str:
        return _name_of(self._two_phase_xid)

    @property
    def _state(self) -> str:
        """What is known of the transaction since tpc_prepare."""
        if self._may_be:
            return f"may be {', '.join(self._may_be)}, or prepared still"
        return "is prepared" if self._is_prepared else "may be prepared"

    @property
    def _way(self) -> str:
        """What ends a prepared transaction."""
        if self._is_lost:
            return f"{_BY_XID} on another connection"
        return "tpc_commit() or tpc_rollback()"

    def tpc_commit(self, xid: Xid | str | None = None) -> None:
        """Commit the transaction, prepared or not; with xid one that was prepared before, by anybody."""
        self._finish(xid, "COMMIT PREPARED")

    def tpc_rollback(self, xid: Xid | str | None = None) -> None:
        """Roll the transaction back, prepared or not; with xid one that was prepared before, by anybody."""
        self._finish(xid, "ROLLBACK PREPARED")

    def tpc_recover(self) -> list[Xid]:
        """The transactions that are prepared on the server, in all its databases."""
        with self._lock:
            self.check_open()
            self.refuse_prepared("tpc_recover")
            found = []
            for row in self.ask("SELECT gid, prepared, owner, database FROM pg_catalog.pg_prepared_xacts"):
                xid = Xid.from_string(row[0])
                xid.prepared, xid.owner, xid.database = row[1], row[2], row[3]
                found.append(xid)
            return found

    def _finish(self, xid: Xid | str | None, command: str) -> None:
        with self._lock:
            self.check_open()
            if xid is not None:
                if self.status != extensions.STATUS_READY:
                    raise psycopg2.ProgrammingError(
                        "tpc_commit/tpc_rollback with a xid must be called outside a transaction"
                    )
                self._finish_by_xid(Xid.of(xid), command)
                return
            if self._two_phase_xid is None:
                raise psycopg2.ProgrammingError(
                    "tpc_commit/tpc_rollback with no parameter must be called in a two-phase transaction"
                )
            if self._is_prepared or self._may_be_prepared:
                self._finish_prepared(command)
            elif command == "COMMIT PREPARED":
                self._commit()
            else:
                self._rollback()
            self._forget_two_phase()

    def _finish_by_xid(self, xid: Xid, command: str) -> None:
        named, is_in_doubt = _name_of(xid), False
        try:
            self.ask(f"{command} {_quoted(xid)}")
        except BaseException as error:
            is_in_doubt = not isinstance(error, DBError) or _is_in_doubt(error)
            if not isinstance(error, DBConnectionError):
                raise
            if is_in_doubt:
                raise _end_unknown(error, named, command, self._way if self._is_lost else _BY_XID) from error
            text = (
                f"{command} was not executed; {named} waits for {_BY_XID}, if it is prepared: {error.failure.message}"
            )
            raise error_from(plain_failure("connection", UNKNOWN, text)) from error
        finally:
            if is_in_doubt and self._is_lost:
                self._remains = f"; {named} may be {_DONE[command]}, or prepared still: look for it by tpc_recover()"

    def _finish_prepared(self, command: str) -> None:
        is_rollback = command == "ROLLBACK PREPARED"
        if not self._is_prepared:
            self._rollback()  # gives the lost lease up
        try:
            self.ask(f"{command} {_quoted(self._two_phase_xid)}")
        except BaseException as error:
            if not isinstance(error, DBError):
                self._note_in_doubt(command)
                raise
            if error.pgcode != UNDEFINED_OBJECT:
                raise
            was_in_doubt = not self._is_prepared
            self._forget_two_phase()
            if not (was_in_doubt and is_rollback):
                raise

    def ask(self, statement: str | bytes) -> Result:
        """Run a question of the connection's own; what fails while a transaction is prepared does not end that."""
        try:
            return super().ask(statement)
        except DBError as error:
            if not (self._is_prepared or self._may_be_prepared):
                raise
            told = self._while_prepared(error, str(statement))
            if told is error:
                raise
            raise told from error

    def _prepare_unknown(self, error: DBError) -> DBError:
        text = (
            f"PREPARE TRANSACTION was sent and its answer was not taken{_reason(error)}: {self._named} is prepared, or "
            f"rolled back; look for it by tpc_recover(), and end it by {self._way}"
        )
        return error_from(plain_failure("commit-unknown", UNKNOWN, text))

    def _note_in_doubt(self, command: str) -> None:
        """Take note that this was sent, and its answer is not known."""
        if _DONE[command] not in self._may_be:
            self._may_be += (_DONE[command],)
        self._remains = f"; {self._named} {self._state}: look for it by tpc_recover()"

    def _while_prepared(self, error: DBError, statement: str) -> DBError:
        """Return the error to raise if a statement beside the prepared transaction failed, or one that ends it."""
        command = " ".join(statement.split()[:2])
        if command in _DONE and _is_in_doubt(error):
            self._note_in_doubt(command)
            return _end_unknown(error, self._named, command, self._way)
        text = error.failure.message
        if error.pgcode is None or isinstance(error, DBConnectionError) or self._is_lost:
            waits = f"PostgreSQL keeps it, and it waits for {self._way}"
            if self._may_be:
                waits = f"look for it by tpc_recover(), and if it is there end it by {self._way}"
            text = f"{self._named} {self._state}, {waits}: {text.rstrip()}"
        if isinstance(error, DBConnectionError):
            return error_from(plain_failure("connection", UNKNOWN, text))
        rewrite(error, text, UNKNOWN)
        return error

    def _forget_two_phase(self) -> None:
        self._two_phase_xid = None
        self._is_prepared = self._may_be_prepared = False
        self._may_be = ()
        self._remains = ""
        self._lock.more_words = ()

    def _refuse_in_two_phases(self, what: str) -> None:
        if self._two_phase_xid is not None:
            raise psycopg2.ProgrammingError(
                f"{what} cannot be used during a two-phase transaction; call tpc_commit() or tpc_rollback()"
            )

    def refuse_prepared(self, what: str) -> None:
        """Raise psycopg2's ProgrammingError between tpc_prepare and the end of the transaction."""
        if self._is_prepared:
            raise psycopg2.ProgrammingError(f"{what} cannot be used with a prepared two-phase transaction")


def _is_in_doubt(error: DBError) -> bool:
    """Whether what was sent may have taken effect: a backend may be ended behind a commit and before its answer."""
    return error.outcome == UNKNOWN or (isinstance(error, DBConnectionError) and error.outcome != NOT_EXECUTED)


def _end_unknown(error: DBError, named: str, command: str, way: str) -> DBError:
    """Return the error of an end that was sent, of which there is no answer."""
    text = (
        f"{command} was sent and its answer was not taken{_reason(error)}: {named} is {_DONE[command]}, or prepared "
        f"still; look for it by tpc_recover(), and if it is there end it by {way}"
    )
    kind = "commit-unknown" if command == "COMMIT PREPARED" else "connection"
    return error_from(plain_failure(kind, UNKNOWN, text))


def _name_of(xid: Xid | None) -> str:
    return f"the transaction {str(xid)!r}"


def _reason(error: DBError) -> str:
    """The broker's reason, if it has told one, to stand in the middle of a text."""
    return f" ({error.failure.message.rstrip()})" if error.failure.request else ""


def _quoted(xid: Xid | None) -> str:
    return "'" + str(xid).replace("'", "''") + "'"
