"""The language both sides speak: every message, its fields, their types and limits, and the codec.

One message is one msgpack array, [code, field, field, ...], in one ZeroMQ frame. `MESSAGES` is the whole table: the
fields of a message are those of its NamedTuple in that order, `client.wire.limits` has each field's type and limit. A
change of either is a change of `VERSION` (the golden frames in tests/client/golden prove it).

A conversation begins with Hello and Welcome. After that each request (Query, TransactionMessage, Commit, Rollback,
Release, Ask) carries a number that its client chose, greater than any before, and gets exactly one final reply with the
same number: ResultMessage, TransactionResult, Failure or Answer. CancelRequest is a remark about an earlier request and
has no reply of its own. A Failure with request 0 is about the conversation itself, which is over with it.

Statements and results travel as PostgreSQL's own protocol has them, so that the broker passes them on unread:

    statement   SQL in which NUL stands for each parameter; NUL occurs in no SQL, so nobody has to look for quotes
    types       4 bytes per parameter, its type OID; 0 if PostgreSQL is to find out, as for a quoted literal
    values      per parameter 4 bytes length and that many bytes of text; length -1 is NULL (the middle of a Bind)
    columns     the body of RowDescription
    rows        DataRow messages one after the other, headers included

Settings travel as name NUL value NUL, one pair after the other; they hold for the statement, or the transaction, alone.

All numbers in them are big-endian. https://www.postgresql.org/docs/current/protocol-message-formats.html
Everything a stranger sends passes `decode_request`, which raises nothing but ProtocolViolation.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import msgpack

from client.wire import fields
from client.wire.limits import MAX_STEPS, NO_SESSION, NORMAL, RULES, are_steps, is_query
from client.wire.unpacking import LONGEST_AT_ONCE, unpack_message, unpack_steps

VERSION = 3

# Outcomes: what is known of the statement's effect after an error. DESIGN: three-valued, never a guess.
NOT_EXECUTED = "not executed"
FAILED = "failed"
EXECUTED = "executed"
UNKNOWN = "unknown"

# Transaction states in replies: where the client's lease stands now.
TX_NONE = "none"
TX_ACTIVE = "active"
TX_FAILED = "failed"
TX_LOST = "lost"


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

    lease 0 is a statement of its own in an autocommit group. Any other number names an interactive transaction, or a
    session, unique per client. begin: BEGIN comes first, which opens the lease of an interactive transaction. session
    is one of client.wire.limits' NO_SESSION, OPENS_SESSION and IN_SESSION; a session is a lease that outlives its
    transactions and ends with Release. prepare false keeps parameters as literals, always. timeout is what is left of
    the caller's patience, in seconds. priority is one of
    client.wire.limits' INTERACTIVE, NORMAL and BATCH.
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


class StepReference(NamedTuple):
    """A parameter whose value an earlier step of the same transaction message returns.

    parameter counts from 0 within its statement, where types has 0 and values NULL in its place. step is the earlier
    one's place among the steps; column its name, or its number from 0; row counts from 0, None takes all rows as an
    array.
    """

    parameter: int
    step: int
    row: int | None
    column: str | int


class Step(NamedTuple):
    """One statement of a transaction message; it must affect, or return, from low to high rows (None: no limit).

    On the wire its values travel apart from the rest.
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
    the values, which are the Steps' in their order. So both sides need not look twice at what a program sends often.
    isolation is one of ISOLATIONS; None leaves isolation, read_only and deferrable to the server's defaults. retries is
    how often the broker may run it again where that is certain to be safe.
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


class CancelRequest(NamedTuple):
    """Withdraw a request: drop it, or cancel its statement.

    key is b"" for a request of the conversation that says so; otherwise the cancel_key of the one it belongs to.
    """

    request: int
    key: bytes = b""


class Ask(NamedTuple):
    """A question to the broker itself: ping, stats, stop (drain first) or stop-now."""

    request: int
    what: str


class Welcome(NamedTuple):
    """The broker's answer to Hello. groups maps the name of each group it may use to its
    autocommit.

    Whoever has cancel_key may cancel this conversation's requests, from another one.
    """

    version: int
    pid: int
    release: str
    max_request_bytes: int
    max_result_bytes: int
    groups: dict[str, bool]
    cancel_key: bytes = b""


class ResultMessage(NamedTuple):
    """A statement's result. rowcount is psycopg2's; columns is None if the statement returns no rows.

    notices are PostgreSQL's messages to the client, as psycopg2's connection.notices has them.
    """

    request: int
    transaction: str
    command: str
    rowcount: int
    columns: bytes | None
    rows: bytes
    notices: tuple[str, ...]


class Failure(NamedTuple):
    """What went wrong. kind picks the client's error class; diag holds PostgreSQL's diagnostic fields by name."""

    request: int
    transaction: str
    kind: str
    outcome: str
    message: str
    sqlstate: str | None
    diag: dict[str, str]
    notices: tuple[str, ...] = ()


class TransactionResult(NamedTuple):
    """What became of a transaction message.

    results has one entry per step: the fields of its Result; the fields of its Failure where its savepoint block was
    undone for it; None for savepoint marks, for what an undone block left, and if the result is not known. failure
    holds the fields of the Failure that ended the transaction (results is empty then), None if it was committed;
    step is the step it belongs to, -1 where it is none's. tries counts how often the message was run.
    """

    request: int
    tries: int
    results: tuple[Any, ...]
    failure: tuple[Any, ...] | None
    step: int


class Answer(NamedTuple):
    """The reply to Ask."""

    request: int
    body: dict[str, Any]


Request = Query | TransactionMessage | Commit | Rollback | Release | Ask
ToBroker = Hello | Query | TransactionMessage | Commit | Rollback | Release | CancelRequest | Ask
ToClient = Welcome | ResultMessage | TransactionResult | Failure | Answer

# Where a backend stands after a statement that left it unusable. Never on the wire.
TX_BROKEN = "broken"

TRANSACTION_CODE = 7

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
    64: Welcome,
    65: ResultMessage,
    66: Failure,
    67: Answer,
    68: TransactionResult,
}
_CODES: dict[type, int] = {message: code for code, message in MESSAGES.items()}


_FIELDS = {f"{message.__name__}.{field}" for message in MESSAGES.values() for field in message._fields}
assert all(name in _FIELDS for name in RULES if "." in name), "a rule is for a message, or a field, that is not there"


def _rule(message: type, name: str) -> tuple[Callable[[Any], bool], str]:
    """The rule of a field: of this message's, or of all fields of that name."""
    return RULES.get(f"{message.__name__}.{name}") or RULES[name]


# Per code: the message and, in order, each field's name and rule. Resolved once, the decoder only walks it.
_INBOUND: dict[int, tuple[type[ToBroker], tuple[tuple[str, Callable[[Any], bool], str], ...]]] = {
    code: (message, tuple((name, *_rule(message, name)) for name in message._fields))  # type: ignore[misc]  # code < 64
    for code, message in MESSAGES.items()
    if code < 64
}
# No message to the broker holds a longer array, a map or an extension: garbage is refused before it becomes objects.
_MAX_INBOUND_FIELDS = max(len(rules) for _, rules in _INBOUND.values()) + 1
# Only this one holds an array in its array, the values of its steps.
_TRANSACTION_HEAD = bytes((0x90 | (1 + len(TransactionMessage._fields)), TRANSACTION_CODE))


# A Packer keeps its buffer; one at a time is used, by whoever holds the GIL.
_pack = msgpack.Packer().pack
_QUERY_CODE, _RESULT_CODE = _CODES[Query], _CODES[ResultMessage]
# Packed steps that a client keeps, and the longest texts it keeps them for.
STEPS_KEPT = 256
LONGEST_STEPS_KEPT = 65536


def encode(message: ToBroker | ToClient) -> bytes:
    """The message as bytes."""
    return _pack((_CODES[type(message)], *message))  # type: ignore[no-any-return]  # msgpack is untyped


def decode_request(frame: bytes) -> ToBroker:
    """A message to the broker from a stranger's bytes, fully checked; raises ProtocolViolation."""
    try:
        if len(frame) <= LONGEST_AT_ONCE:
            longest = MAX_STEPS if frame[:2] == _TRANSACTION_HEAD else _MAX_INBOUND_FIELDS
            array = msgpack.unpackb(frame, use_list=False, max_array_len=longest, max_map_len=0, max_ext_len=0)
        else:
            array = unpack_message(frame, _MAX_INBOUND_FIELDS)
    except Exception as error:  # noqa: BLE001  msgpack raises many types, some of them undocumented
        raise ProtocolViolation(f"not a msgpack array: {type(error).__name__}") from None
    if type(array) is not tuple or not array or type(array[0]) is not int:
        raise ProtocolViolation("expected an array that begins with a message code")
    if array[0] == _QUERY_CODE and len(array) == 14 and is_query(*array):
        return Query._make(array[1:])
    found = _INBOUND.get(array[0])
    if found is None:
        raise ProtocolViolation(f"unknown message code {array[0]}")
    message, rules = found
    if len(array) != len(rules) + 1:
        raise ProtocolViolation(f"{message.__name__} has {len(rules)} fields, got {len(array) - 1}")
    for value, (name, is_valid, expected) in zip(array[1:], rules, strict=True):
        if not is_valid(value):
            raise ProtocolViolation(f"{message.__name__}.{name}: expected {expected}")
    if message is Query and array[5].count(0) * 4 != len(array[6]):
        raise ProtocolViolation("Query.types: expected 4 bytes for each NUL in statement")
    return message._make(array[1:])


def split_steps(steps: Iterable[Step | int]) -> tuple[bytes, tuple[bytes, ...]]:
    """A TransactionMessage's steps and values."""
    shapes = tuple([step if isinstance(step, int) else (step[0], step[1], *step[3:]) for step in steps])
    values = tuple([step[2] for step in steps if not isinstance(step, int)])
    size = sum([len(shape[0]) for shape in shapes if not isinstance(shape, int)])
    return (_packed_steps if size <= LONGEST_STEPS_KEPT else _pack)(shapes), values


@lru_cache(maxsize=STEPS_KEPT)
def _packed_steps(shapes: tuple[Any, ...]) -> bytes:
    return _pack(shapes)  # type: ignore[no-any-return]  # msgpack is untyped


def decode_steps(packed: bytes) -> list[Step | int]:
    """A TransactionMessage's steps, fully checked and with empty values; raises ProtocolViolation."""
    try:
        shapes = unpack_steps(packed)
    except Exception as error:  # noqa: BLE001  msgpack raises many types, some of them undocumented
        raise ProtocolViolation(f"TransactionMessage.steps: not a msgpack array: {type(error).__name__}") from None
    if not are_steps(shapes):
        text = f"from 1 to {MAX_STEPS} statements, with savepoint blocks closed and references looking back"
        raise ProtocolViolation(f"TransactionMessage.steps: expected {text}")
    return [shape if type(shape) is int else Step._make((*shape[:2], b"", *shape[2:])) for shape in shapes]


def decode_reply(frame: bytes) -> ToClient:
    """A message to the client. The broker is trusted; a frame it could not have sent raises ProtocolViolation.

    A signal handler's exception may arise here, which has to go on as it is: only what cannot be read twice is taken
    for unreadable.
    """
    try:
        array = msgpack.unpackb(frame, use_list=False)
        return ResultMessage._make(array[1:]) if array[0] == _RESULT_CODE else _other_reply(array)
    except Exception as error:
        why = error if isinstance(error, ProtocolViolation) else _why_unreadable(frame)
        if why is error or type(why) is not type(error):
            raise
        # Not its text: a KeyError's is the key, which may be nested deeper than repr goes.
        text = f"the broker sent what this client cannot read: {type(error).__name__}"
        raise ProtocolViolation(text) from error


def _other_reply(array: Any) -> ToClient:
    message = MESSAGES[array[0]]
    if array[0] < 64:
        raise ProtocolViolation(f"{message.__name__} does not travel to clients")
    reply: Any = message._make(array[1:])
    if not fields.fit(reply):
        raise ProtocolViolation(f"the broker sent a {message.__name__} with fields of other types")
    return reply  # type: ignore[no-any-return]  # codes from 64 are ToClient


def _why_unreadable(frame: bytes) -> Exception | None:
    """What reading it raises; None if it can be read."""
    try:
        array = msgpack.unpackb(frame, use_list=False)
        _ = ResultMessage._make(array[1:]) if array[0] == _RESULT_CODE else _other_reply(array)
    except Exception as error:  # noqa: BLE001  msgpack raises many types, some of them undocumented
        return error
    return None
