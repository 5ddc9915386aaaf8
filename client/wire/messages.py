"""The language both sides speak: every message and its fields.

One message is one msgpack array, [code, field, field, ...], in one ZeroMQ frame. `MESSAGES` is the whole table: the
fields of a message are those of its NamedTuple in that order; `client.wire.limits` has each field's type and limit. A
change of either is a change of `VERSION` (the golden frames in tests/client/golden prove it).

A conversation begins with Hello and Welcome. After that each request (Query, BatchMessage, TransactionMessage, Commit,
Rollback, Release, Follow, Ask) carries a number that its client chose, greater than any before, and gets exactly one
final reply with the same number: ResultMessage, TransactionResult, Failure or Answer. CancelRequest names an earlier
request and has no reply of its own. A Failure with request 0 is about the conversation itself, and ends it.

Statements and results travel as PostgreSQL's own protocol has them, so that the broker passes them on unread:

    statement   SQL in which NUL stands for each parameter; NUL occurs in no SQL, so nobody has to look for quotes
    types       4 bytes per parameter, its type OID; 0 if PostgreSQL is to find out, as for a quoted literal
    values      per parameter 4 bytes length and that many bytes of text; length -1 is NULL (the middle of a Bind)
    columns     the body of RowDescription
    rows        DataRow messages one after the other, headers included

All numbers in these are big-endian. https://www.postgresql.org/docs/current/protocol-message-formats.html

Settings travel as name NUL value NUL, one pair after the other; they hold for the statement, or the transaction, alone.

origin says where in the program a request comes from, for whoever watches: a code place NUL a W3C traceparent, either
of which may be empty; b"" if both are (`client.wire.origins`). A traceparent travels only if its trace is recorded, and
asks for a Timing ahead of the reply.
`client.wire.codec` turns messages into bytes, and bytes into messages.
"""

from typing import Any, Final, Literal, NamedTuple

from client.wire.copy_messages import CopyBegun as CopyBegun
from client.wire.copy_messages import CopyEnd as CopyEnd
from client.wire.copy_messages import CopyIn as CopyIn
from client.wire.copy_messages import CopyOut as CopyOut
from client.wire.copy_messages import CopyTaken as CopyTaken
from client.wire.copy_messages import CopyWanted as CopyWanted
from client.wire.limits import NO_SESSION, NORMAL

VERSION = 8

# Outcomes: what is known of the statement's effect after an error; never a guess.
Outcome = Literal["not executed", "failed", "executed", "unknown"]
NOT_EXECUTED: Final = "not executed"
FAILED: Final = "failed"
EXECUTED: Final = "executed"
UNKNOWN: Final = "unknown"

# Transaction states in replies: the state of the client's lease.
TransactionStatus = Literal["none", "active", "failed", "lost", "broken"]
TX_NONE: Final = "none"
TX_ACTIVE: Final = "active"
TX_FAILED: Final = "failed"
TX_LOST: Final = "lost"


class ProtocolViolation(ValueError):
    """The bytes are not a message of this protocol; the text says why."""


class Hello(NamedTuple):
    """The client's first message."""

    version: int
    pid: int
    application_name: str
    release: str


class Query(NamedTuple):
    """One statement, or several in one string if it has no parameters.

    lease 0 is a statement of its own, which commits by itself. Any other number names an interactive transaction, or a
    session, unique per client. begin: BEGIN comes first, which opens the lease of an interactive transaction. session
    is one of client.wire.limits' NO_SESSION, OPENS_SESSION and IN_SESSION; a session is a lease that outlives its
    transactions and ends with Release. prepare false keeps parameters as literals, always. timeout bounds waiting and
    running together, in seconds. priority is one of client.wire.limits' INTERACTIVE, NORMAL and BATCH.
    """

    request: int
    group: str
    lease: int
    begin: bool
    statement: bytes
    types: bytes
    values: bytes
    prepare: bool
    timeout: float | None
    tag: str
    priority: int = NORMAL
    settings: bytes = b""
    session: int = NO_SESSION
    origin: bytes = b""


class StepReference(NamedTuple):
    """A parameter whose value an earlier step of the same transaction message returns.

    parameter counts from 0 within its statement, which has type 0 and value NULL in its place. step is the earlier
    step's number, from 0; column is the column's name, or its number from 0; row counts from 0, None takes all rows as
    an array.
    """

    parameter: int
    step: int
    row: int | None
    column: str | int


class Step(NamedTuple):
    """One statement of a transaction message; it must affect, or return, from low to high rows (None: no limit).

    On the wire its values travel apart from its other fields.
    """

    statement: bytes
    types: bytes
    values: bytes
    prepare: bool
    references: tuple[StepReference, ...]
    low: int
    high: int | None


class TransactionMessage(NamedTuple):
    """A whole transaction.

    steps holds Steps, and SAVEPOINT and END_SAVEPOINT in pairs, nested as blocks are; packed by `split_steps`, without
    the Steps' values, which are in values in the same order. So each side can recognise the steps that a program sends
    often. isolation is one of ISOLATIONS; None leaves isolation, read_only and deferrable to the server's defaults.
    retries is how often the broker may run the transaction again if that is certain to be safe.
    """

    request: int
    group: str
    isolation: str | None
    read_only: bool | None
    deferrable: bool | None
    retries: int
    steps: bytes
    values: tuple[bytes, ...]
    timeout: float | None
    tag: str
    priority: int = NORMAL
    settings: bytes = b""
    origin: bytes = b""


class BatchMessage(NamedTuple):
    """Statements that run one behind the other in a lease, as if each was a Query of its own; the first error ends it.

    steps and values are TransactionMessage's, without savepoints, references and row counts. Each statement is one that
    cannot commit by itself. The other fields are Query's. The reply is one ResultMessage without rows: its command is
    the last one's, its rowcount the sum, or -1 if one of them is. A Failure's diag has step if it is about a statement:
    the statement's number, from 0.
    """

    request: int
    group: str
    lease: int
    begin: bool
    steps: bytes
    values: tuple[bytes, ...]
    timeout: float | None
    tag: str
    priority: int = NORMAL
    settings: bytes = b""
    session: int = NO_SESSION
    origin: bytes = b""


class CopyMessage(NamedTuple):
    """A COPY from or to the client: of a lease or a statement of its own, with fields as Query's.

    is_in: COPY ... FROM STDIN; else COPY ... TO STDOUT. The broker says CopyBegun if PostgreSQL agrees. Then the data
    passes, in as CopyIn, out as CopyOut, in pieces that may end anywhere. Each side may have sent at most
    client.wire.limits' COPY_WINDOW bytes more than the other one has said it took, by CopyTaken and CopyWanted. The
    final reply is a ResultMessage or a Failure, as a Query's; after it nothing more is said of the request.
    """

    request: int
    group: str
    lease: int
    begin: bool
    statement: bytes
    is_in: bool
    timeout: float | None
    tag: str
    priority: int = NORMAL
    settings: bytes = b""
    session: int = NO_SESSION
    origin: bytes = b""


class Commit(NamedTuple):
    """End the lease's transaction with COMMIT."""

    request: int
    lease: int


class Rollback(NamedTuple):
    """End the lease's transaction with ROLLBACK; a lease that is gone counts as rolled back."""

    request: int
    lease: int


class Release(NamedTuple):
    """End a session; a transaction that is open in it is rolled back. One that is gone counts as released."""

    request: int
    lease: int


class Follow(NamedTuple):
    """What the client's process has to see when it reads on replicas of this group.

    position "" asks for it: it covers all that the process has written. Any other one, as it was answered to some
    process, is added to it. The Answer's body has the position.
    """

    request: int
    group: str
    position: str


class CancelRequest(NamedTuple):
    """Withdraw a request: drop it, or cancel its statement.

    key is b"" for a request of the same conversation; otherwise the cancel_key of the conversation of the request.
    """

    request: int
    key: bytes = b""


class Ask(NamedTuple):
    """A question, or an order, to the broker itself: one of client.wire.limits' QUESTIONS.

    arguments are names and values as `client.wire.arguments` packs them. The Answer may come later.
    """

    request: int
    what: str
    arguments: bytes = b""


IN_SESSIONS = "sessions"


class Welcome(NamedTuple):
    """The broker's answer to Hello.

    groups maps the name of each group that the client may use to the group's autocommit; to IN_SESSIONS if statements
    commit by themselves and the with block of a Handler is a session. Whoever has cancel_key may
    cancel this conversation's requests from another one. ledger and ledger_key are the place and the key of the
    client's entry in the memory whose descriptor comes along (`client.wire.ledger`), -1 if none does.
    """

    version: int
    pid: int
    release: str
    max_request_bytes: int
    max_result_bytes: int
    groups: dict[str, bool | str]
    cancel_key: bytes = b""
    ledger: int = -1
    ledger_key: int = 0


class ResultMessage(NamedTuple):
    """A statement's result. rowcount is psycopg2's; columns is None if the statement returns no rows.

    notices are PostgreSQL's messages to the client, as psycopg2's connection.notices has them.
    """

    request: int
    transaction: TransactionStatus
    command: str
    rowcount: int
    columns: bytes | None
    rows: bytes
    notices: tuple[str, ...]


class Failure(NamedTuple):
    """What went wrong. kind picks the client's error class; diag holds PostgreSQL's diagnostic fields by name."""

    request: int
    transaction: TransactionStatus
    kind: str
    outcome: Outcome
    message: str
    sqlstate: str | None
    diag: dict[str, str]
    notices: tuple[str, ...] = ()


def plain_failure(
    kind: str, outcome: Outcome, message: str, transaction: TransactionStatus = TX_NONE, sqlstate: str | None = None
) -> Failure:
    """Make a failure that no PostgreSQL server reported and that belongs to no request yet."""
    return Failure(0, transaction, kind, outcome, message, sqlstate, {} if sqlstate is None else {"severity": "ERROR"})


class TransactionResult(NamedTuple):
    """What became of a transaction message.

    results has one entry per step: the fields of its ResultMessage; the fields of its Failure, if its savepoint block
    was undone for it; None for savepoint marks, for the other steps of an undone block, and if the result is not known.
    failure holds the fields of the Failure that ended the transaction (results is empty then), None if it was
    committed; step is the step to which failure belongs, -1 if to none. tries counts how often the message was run.
    """

    request: int
    tries: int
    results: tuple[Any, ...]
    failure: tuple[Any, ...] | None
    step: int


class Timing(NamedTuple):
    """How long a request with a traceparent waited for its backend, and ran there; its reply follows.

    Both are seconds; ran is None, pid 0, host and dbname "" and port 0 if no backend has begun with it. pid is the
    server process; the others are its endpoint's, as configured.
    """

    request: int
    waited: float
    ran: float | None
    pid: int
    host: str
    port: int
    dbname: str


class Answer(NamedTuple):
    """The reply to Ask and to Follow."""

    request: int
    body: dict[str, Any]


# About a request whose reply comes later.
UnderWay = CopyBegun | CopyOut | CopyWanted | Timing
# What runs in a group, or tells of one.
GroupRequest = Query | BatchMessage | CopyMessage | TransactionMessage | Commit | Rollback | Release | Follow
Request = GroupRequest | Ask
ToBroker = (
    Hello | Query | BatchMessage | CopyMessage | CopyIn | CopyEnd | CopyTaken | TransactionMessage | Commit | Rollback
    | Release | Follow | CancelRequest | Ask
)  # fmt: skip
ToClient = Welcome | ResultMessage | TransactionResult | Failure | Answer | UnderWay

# The state of a backend that a statement has left unusable. Never on the wire.
TX_BROKEN: Final = "broken"

TRANSACTION_CODE = 7
BATCH_CODE = 14

# Codes below 64 travel to the broker, the others to the client.
MESSAGES: dict[int, type[ToBroker] | type[ToClient]] = {
    1: Hello,
    2: Query,
    3: Commit,
    4: Rollback,
    5: CancelRequest,
    6: Ask,
    TRANSACTION_CODE: TransactionMessage,
    8: Release,
    9: Follow,
    10: CopyMessage,
    11: CopyIn,
    12: CopyEnd,
    13: CopyTaken,
    BATCH_CODE: BatchMessage,
    64: Welcome,
    65: ResultMessage,
    66: Failure,
    67: Answer,
    68: TransactionResult,
    69: CopyBegun,
    70: CopyOut,
    71: CopyWanted,
    72: Timing,
}
