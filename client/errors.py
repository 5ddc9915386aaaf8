"""Every error a caller can meet, in one tree ordered by what the caller can do about it.

    DBError                     outcome says what is known of the statement, retryable whether to repeat it
      DBConnectionError         try again: no broker, or a connection was lost       (a psycopg2.OperationalError)
        DBOfflineError          no endpoint of the group can be reached
        PoolTimeout             no backend became free in time
        TooManyRequests         max_waiting requests wait already
        TransactionLost         the interactive transaction is gone, all of it rolled back
        CommitOutcomeUnknown    COMMIT was sent and its answer is not known
      DBQueryError              mend the statement: PostgreSQL refused it           (the matching psycopg2.errors class)
        StatementRefused        refused as psycopg2 refuses it: an empty statement, COPY
        ResultTooLarge          the statement ran, its result exceeds max_result_bytes
        ExpectationFailed       a row count is not what `expect` said; the statement was rolled back
      UnconfiguredGroupError    mend the configuration: no such group                (a psycopg2.OperationalError)
      UsageError                mend the program: a call out of place                (a psycopg2.InterfaceError)
      ProtocolError             report it: client and broker do not understand each other (a psycopg2.InternalError)

DBConnectionError, DBOfflineError, DBQueryError and UnconfiguredGroupError are pgdbpool's names. An error that
PostgreSQL sent is at the same time an instance of psycopg2's class for its SQLSTATE, so that
`except psycopg2.errors.UniqueViolation` works unchanged; the class is made when its SQLSTATE is first met. An error
that a statement of a transaction message caused says which one, in its text and by statement_index. All of them survive
pickling.
"""

from functools import cache
from typing import Any, NamedTuple

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from client.interruptions import is_own
from client.wire.messages import FAILED, NOT_EXECUTED, UNKNOWN, Failure, Outcome, plain_failure
from client.wire.sqlstates import ADMIN_SHUTDOWN, CANNOT_CONNECT_NOW, CRASH_SHUTDOWN, LOCK_NOT_AVAILABLE, LOST_RACES

# Errors that pass by themselves, by SQLSTATE or the two characters of its class; see
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_TRANSIENT_STATES = frozenset(
    (
        *LOST_RACES,
        LOCK_NOT_AVAILABLE,
        *(ADMIN_SHUTDOWN, CRASH_SHUTDOWN, CANNOT_CONNECT_NOW),
        "08",  # a connection that broke
        "53",  # memory, disk or connections that are used up at the moment
    )
)
# Kinds of failures without a SQLSTATE that pass: nobody there, or too many at once. The others are mistakes in the
# program or the configuration, which are the same the next time.
_TRANSIENT_KINDS = frozenset(
    ("connection", "unserved", "offline", "pool-timeout", "too-many-requests", "transaction-lost", "commit-unknown")
)

# How many characters of a statement are kept with an error, and how many are quoted in the error's text.
STATEMENT_CHARS = 200
QUOTED_CHARS = 60


class Diagnostics:
    """PostgreSQL's diagnostic fields, named as in psycopg2.extensions.Diagnostics; None if nothing was said."""

    FIELDS = (
        "column_name",
        "constraint_name",
        "context",
        "datatype_name",
        "internal_position",
        "internal_query",
        "message_detail",
        "message_hint",
        "message_primary",
        "schema_name",
        "severity",
        "severity_nonlocalized",
        "source_file",
        "source_function",
        "source_line",
        "sqlstate",
        "statement_position",
        "table_name",
    )
    __slots__ = FIELDS

    def __init__(self, fields: dict[str, str]) -> None:
        for name in self.FIELDS:
            setattr(self, name, fields.get(name))


class Place(NamedTuple):
    """A statement's place in a transaction message; the text of the statement's error begins with it."""

    number: int  # among the statements, from 0; savepoint marks do not count
    total: int | None  # of statements; None if it is not known, as of an executemany from a generator
    statement: str

    def __str__(self) -> str:
        among = "" if self.total is None else f" of {self.total}"
        return f"statement {self.number + 1}{among} ({_shortened(self.statement, QUOTED_CHARS)})"


class DBError(Exception):
    """The root of all errors, made from a Failure that the broker sent or that the client itself made."""

    # The cursor whose statement failed, as psycopg2's errors have it; only client.dbapi has cursors.
    cursor: Any = None
    # Whether a broker may well be there, and lets this user not in.
    is_kept_out = False
    # Whether whoever has the address takes what is sent, and says nothing.
    is_unanswered = False

    def __init__(self, message: str, failure: Failure | None = None, place: Place | None = None) -> None:
        super().__init__(message)
        # As on the wire; request 0 says that the client noticed the failure, without the broker.
        self.failure = failure or plain_failure(kind_of(type(self)), NOT_EXECUTED, message)
        # Where in its transaction message, or its executemany, the failed statement stands; None for all other errors.
        self.place = place

    @property
    def outcome(self) -> Outcome:
        """What is known of the statement: 'not executed', 'failed', 'executed' or 'unknown'.

        'not executed' is also what a statement in a transaction was that was lost while it ran: all was rolled back.
        """
        return self.failure.outcome

    @property
    def is_safe_to_repeat(self) -> bool:
        """Whether the statement (in a transaction: the whole of it) certainly had no effect."""
        return self.failure.outcome in (NOT_EXECUTED, FAILED)

    @property
    def is_transient(self) -> bool:
        """Whether the same may succeed later: a lost race, a lock, a server or broker that is away or full."""
        sqlstate = self.failure.sqlstate
        if sqlstate:
            return sqlstate in _TRANSIENT_STATES or sqlstate[:2] in _TRANSIENT_STATES
        return self.failure.kind in _TRANSIENT_KINDS

    @property
    def retryable(self) -> bool:
        """Whether to repeat the statement, in a transaction the whole of it: it is safe and may succeed."""
        return self.is_safe_to_repeat and self.is_transient

    @property
    def statement_index(self) -> int | None:
        """Which statement of a transaction message, or set of an executemany, failed, from 0; None if it was none."""
        return None if self.place is None else self.place.number

    @property
    def statement(self) -> str | None:
        """The statement that failed, at most 200 characters of it, its parameters written %s; None if there is none."""
        return None if self.place is None else self.place.statement

    @property
    def notices(self) -> tuple[str, ...]:
        """PostgreSQL's messages to the client before the error, as psycopg2's connection.notices has them."""
        return self.failure.notices

    @property
    def pgcode(self) -> str | None:
        """The SQLSTATE, None if PostgreSQL said nothing.

        psycopg2 sets pgcode, pgerror and diag from a server's result, which only the broker had; hence properties.
        """
        return self.failure.sqlstate

    @property
    def pgerror(self) -> str | None:
        """PostgreSQL's message as psycopg2 has it, beginning with its severity; None if it said nothing."""
        if self.failure.sqlstate is None:
            return None
        severity = self.failure.diag.get("severity", "ERROR") + ":  "
        message = self.failure.message
        return message if message.startswith(severity) else severity + message

    @property
    def diag(self) -> Diagnostics:
        """PostgreSQL's diagnostic fields."""
        return Diagnostics(self.failure.diag)

    def __reduce__(self) -> tuple[Any, ...]:
        # Given to a function, as psycopg2's classes take no state but their own.
        kept = {name: value for name, value in self.__dict__.items() if name not in ("failure", "place", "cursor")}
        return _revived, (self.failure, self.place, {**kept, "args": self.args})


class DBConnectionError(DBError, psycopg2.OperationalError):  # type: ignore[misc,override]  # see DBError.pgcode
    """The broker or PostgreSQL could not be reached, or a connection was lost; see outcome."""


class DBOfflineError(DBConnectionError):
    """No endpoint of the group could be reached within queue_timeout. Nothing was executed."""


class PoolTimeout(DBConnectionError):
    """No backend became free within queue_timeout or the request's timeout, or too late. Nothing was executed."""


class TooManyRequests(DBConnectionError):
    """max_waiting requests of the group are waiting already. Nothing was executed."""


class TransactionLost(DBConnectionError):
    """The interactive transaction was lost and rolled back; rollback() makes its Handler usable again."""


class CommitOutcomeUnknown(DBConnectionError):
    """A transaction's COMMIT was sent and not answered: it was committed, or it was not.

    PostgreSQL remembers what became of a transaction message, but could not be asked. Look for what the transaction
    would have written before sending it again; outcome is 'unknown'. In an interactive transaction all that follows
    raises this too, until rollback().
    """


class DBQueryError(DBError, psycopg2.Error):  # type: ignore[misc,override]  # see DBError.pgcode
    """PostgreSQL refused the statement."""


class StatementRefused(DBQueryError, psycopg2.ProgrammingError):  # type: ignore[misc,override]  # see DBError.pgcode
    """The broker refuses the statement, as psycopg2 does: it is empty, or a COPY."""


class ResultTooLarge(DBQueryError, psycopg2.DataError):  # type: ignore[misc,override]  # see DBError.pgcode
    """The statement was executed, but its result exceeds the broker's max_result_bytes."""


class ExpectationFailed(DBQueryError, psycopg2.IntegrityError):  # type: ignore[misc,override]  # see DBError.pgcode
    """A statement affected, or returned, another number of rows than its `expect` said, and was rolled back.

    It is a psycopg2.IntegrityError, because the data does not meet the caller's condition, as with a violated
    constraint; sending the same again does not help.
    """


class UnconfiguredGroupError(DBError, psycopg2.OperationalError):  # type: ignore[misc,override]  # see DBError.pgcode
    """The broker has no group of that name, or none that this client may use: it does not tell which."""


class UsageError(DBError, psycopg2.InterfaceError):  # type: ignore[misc,override]  # see DBError.pgcode
    """A call out of place; the text says what to do instead."""


class ProtocolError(DBError, psycopg2.InternalError):  # type: ignore[misc,override]  # see DBError.pgcode
    """Client and broker do not understand each other."""


QUERY = "query"
# The broker has gone, or goes, and has certainly not begun the request: a broker that comes, or has come, may run it.
UNSERVED = "unserved"
# Failure.kind on the wire and the class it stands for; of two kinds with the same class the last one is the class's.
KINDS: dict[str, type[DBError]] = {
    UNSERVED: DBConnectionError,
    "connection": DBConnectionError,
    "offline": DBOfflineError,
    "pool-timeout": PoolTimeout,
    "too-many-requests": TooManyRequests,
    "transaction-lost": TransactionLost,
    "commit-unknown": CommitOutcomeUnknown,
    QUERY: DBQueryError,
    "statement-refused": StatementRefused,
    "result-too-large": ResultTooLarge,
    "expectation": ExpectationFailed,
    "unconfigured-group": UnconfiguredGroupError,
    "usage": UsageError,
    "protocol": ProtocolError,
}
_KIND_OF = {error: kind for kind, error in KINDS.items()}


def kind_of(error: type[DBError]) -> str:
    """The Failure.kind of an error class; a class made for a SQLSTATE is a query error."""
    return _KIND_OF.get(error, QUERY)


def error_from(failure: Failure, place: Place | None = None) -> DBError:
    """The exception for a Failure; place says which statement of a transaction message it is about."""
    found = KINDS.get(failure.kind, ProtocolError)
    if failure.sqlstate:
        found = _with_psycopg2_class(kind_of(found), failure.sqlstate)
    return found(failure.message if place is None else f"{place}: {failure.message}", failure, place)


def _revived(failure: Failure, place: Place | None, kept: dict[str, Any]) -> DBError:
    error = error_from(failure, place)
    for name, value in kept.items():
        setattr(error, name, value)
    return error


def place_of(number: int, total: int | None, statement: bytes) -> Place:
    """The Place of a statement as it travels; NUL stands for its parameters."""
    text = statement.replace(b"\0", b"%s").decode(errors="replace")
    return Place(number, total, _shortened(" ".join(text.split()), STATEMENT_CHARS))


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 4] + " ..."


def connection_error(message: str, outcome: Outcome = UNKNOWN, is_kept_out: bool = False) -> DBError:
    """A DBConnectionError that the client noticed by itself."""
    error = error_from(plain_failure("connection", outcome, message))
    error.is_kept_out = is_kept_out
    return error


def unanswered(message: str, outcome: Outcome = UNKNOWN) -> DBError:
    """A DBConnectionError of a client that has waited for too long."""
    error = connection_error(message, outcome)
    error.is_unanswered = True
    return error


def unserved(message: str) -> DBError:
    """A DBConnectionError that the client noticed by itself: no broker has begun the request."""
    return error_from(plain_failure(UNSERVED, NOT_EXECUTED, message))


@cache
def _with_psycopg2_class(kind: str, sqlstate: str) -> type[DBError]:
    """A class that is both ours and psycopg2's own for this SQLSTATE. SQLSTATEs are few, so all are kept."""
    try:
        theirs = psycopg2.errors.lookup(sqlstate)
    except KeyError as error:
        if not is_own(error):
            raise
        theirs = _class_by_prefix(sqlstate)
    return type(theirs.__name__, (KINDS[kind], theirs), {"__module__": __name__, "__doc__": theirs.__doc__})


# SQLSTATE classes and psycopg2's base classes for codes it has no name for, as in its pqpath.c.
_BY_PREFIX: dict[str, type[psycopg2.Error]] = {
    **dict.fromkeys(("0A",), psycopg2.NotSupportedError),
    **dict.fromkeys(("20", "21", "3D", "3F", "42", "44"), psycopg2.ProgrammingError),
    **dict.fromkeys(("22",), psycopg2.DataError),
    **dict.fromkeys(("23",), psycopg2.IntegrityError),
    **dict.fromkeys(("24", "25", "2B", "2D", "2F", "38", "39", "3B"), psycopg2.InternalError),
    **dict.fromkeys(("08", "26", "27", "28", "34"), psycopg2.OperationalError),
    **dict.fromkeys(("40",), psycopg2.extensions.TransactionRollbackError),
}

_BY_LETTER: dict[str, type[psycopg2.Error]] = {
    **dict.fromkeys(("5", "H"), psycopg2.OperationalError),
    **dict.fromkeys(("F", "P", "X"), psycopg2.InternalError),
}


def _class_by_prefix(sqlstate: str) -> type[psycopg2.Error]:
    return _BY_PREFIX.get(sqlstate[:2]) or _BY_LETTER.get(sqlstate[:1], psycopg2.DatabaseError)
