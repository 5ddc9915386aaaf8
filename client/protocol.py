"""The language both sides speak: every message, its fields, their types and limits, and the codec.

One message is one msgpack array, [code, field, field, ...], in one ZeroMQ frame. `MESSAGES` is the whole table: the
fields of a message are those of its NamedTuple in that order, `_RULES` holds each field's type and limit. A change of
either is a change of `VERSION` (the golden frames in tests/client/golden prove it).

A conversation begins with Hello and Welcome. After that each request (Query, Commit, Rollback, Ask) carries a number
that its client chose, greater than any before, and gets exactly one final reply with the same number: Result, Failure
or Answer. Cancel is a remark about an earlier request and has no reply of its own. A Failure with request 0 is about
the conversation itself.

Rows travel undecoded: a cell is None or PostgreSQL's text as bytes, and only the client turns it into an object.
Everything a stranger sends passes `decode_request`, which raises nothing but ProtocolViolation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

VERSION = 1

MAX_REQUEST_BYTES = 16 * 1024 * 1024
MAX_RESULT_BYTES = 64 * 1024 * 1024
# What a reply holds besides its cells; the client's frame limit is the broker's result limit plus this.
REPLY_OVERHEAD_BYTES = 1024 * 1024

MAX_NAME_CHARS = 128
MAX_NUMBER = 2**63 - 1
# A timeout beyond a year is a mistake in units.
MAX_TIMEOUT = 366 * 86400.0

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
    """One SQL string with its literals in place.

    lease 0 is a statement of its own in an autocommit group. Any other number names an interactive transaction, unique
    per client; begin says that this statement opens it. timeout is what is left of the caller's patience, in seconds.
    """

    request: int
    group: str
    lease: int
    begin: bool
    statement: bytes
    timeout: float | None
    tag: str


class Commit(NamedTuple):
    """End the lease's transaction with COMMIT."""

    request: int
    lease: int


class Rollback(NamedTuple):
    """End the lease's transaction with ROLLBACK; a lease that is gone counts as rolled back."""

    request: int
    lease: int


class Cancel(NamedTuple):
    """Nobody waits for this request any more: drop it, or cancel its statement."""

    request: int


class Ask(NamedTuple):
    """A question to the broker itself: ping, stats, stop (drain first) or stop-now."""

    request: int
    what: str


class Welcome(NamedTuple):
    """The broker's answer to Hello. groups maps each group's name to its autocommit."""

    version: int
    pid: int
    release: str
    max_request_bytes: int
    max_result_bytes: int
    groups: dict[str, bool]


class Result(NamedTuple):
    """A statement's result. A column is (name, type OID, internal size, precision, scale)."""

    request: int
    transaction: str
    command: str
    rowcount: int
    columns: tuple[tuple[str, int, int, int | None, int | None], ...] | None
    rows: tuple[tuple[bytes | None, ...], ...]


class Failure(NamedTuple):
    """What went wrong. kind picks the client's error class; diag holds PostgreSQL's diagnostic fields by name."""

    request: int
    transaction: str
    kind: str
    outcome: str
    message: str
    sqlstate: str | None
    diag: dict[str, str]


class Answer(NamedTuple):
    """The reply to Ask."""

    request: int
    body: dict[str, Any]


Request = Query | Commit | Rollback | Ask
ToBroker = Hello | Query | Commit | Rollback | Cancel | Ask
ToClient = Welcome | Result | Failure | Answer

# Where a backend stands after a statement that left it unusable (inside COPY, or disconnected). Never on the wire.
TX_BROKEN = "broken"

QUESTIONS = ("ping", "stats", "stop", "stop-now")
QUERY_CODE = 2
RESULT_CODE = 65

# Codes below 64 travel to the broker, the others to the client.
MESSAGES: dict[int, type[ToBroker] | type[ToClient]] = {
    1: Hello,
    QUERY_CODE: Query,
    3: Commit,
    4: Rollback,
    5: Cancel,
    6: Ask,
    64: Welcome,
    RESULT_CODE: Result,
    66: Failure,
    67: Answer,
}
_CODES: dict[type, int] = {message: code for code, message in MESSAGES.items()}


def _whole(low: int, high: int = MAX_NUMBER) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _text(longest: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is str and len(value) <= longest and "\0" not in value


def _timeout(value: Any) -> bool:
    return value is None or (type(value) in (float, int) and 0 < value <= MAX_TIMEOUT)


def _statement(value: Any) -> bool:
    return type(value) is bytes and b"\0" not in value


# What a stranger may put into each field of a message to the broker, and the words for it.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "version": (_whole(1), "a whole number from 1"),
    "pid": (_whole(0), "a whole number from 0"),
    "application_name": (_text(MAX_NAME_CHARS), f"text of at most {MAX_NAME_CHARS} characters without NUL"),
    "release": (_text(MAX_NAME_CHARS), f"text of at most {MAX_NAME_CHARS} characters without NUL"),
    "request": (_whole(1), "a whole number from 1"),
    "group": (_text(MAX_NAME_CHARS), f"text of at most {MAX_NAME_CHARS} characters without NUL"),
    "lease": (_whole(0), "a whole number from 0"),
    "begin": (lambda value: type(value) is bool, "a boolean"),
    "statement": (_statement, "bytes without NUL"),
    "timeout": (_timeout, "seconds above 0 and below a year, or nil"),
    "tag": (_text(MAX_NAME_CHARS), f"text of at most {MAX_NAME_CHARS} characters without NUL"),
    "what": (lambda value: value in QUESTIONS, f"one of {', '.join(QUESTIONS)}"),
}
# Per code: the message and, in order, each field's name and rule. Resolved once, the decoder only walks it.
_INBOUND: dict[int, tuple[type[ToBroker], tuple[tuple[str, Callable[[Any], bool], str], ...]]] = {
    code: (message, tuple((name, *_RULES[name]) for name in message._fields))  # type: ignore[misc]  # code < 64
    for code, message in MESSAGES.items()
    if code < 64
}
# No message to the broker holds a longer array, a map or an extension: garbage is refused before it becomes objects.
_MAX_INBOUND_FIELDS = max(len(rules) for _, rules in _INBOUND.values()) + 1


def encode(message: ToBroker | ToClient) -> bytes:
    """The message as bytes."""
    return msgpack.packb((_CODES[type(message)], *message))  # type: ignore[no-any-return]  # msgpack is untyped


def encode_result_body(fields: tuple[Any, ...]) -> bytes:
    """A Result, or its first fields, without its request number: what a backend makes of a finished statement."""
    return encode_value(fields)[len(array_header(len(fields))) :]


def encode_value(value: Any) -> bytes:
    """Any plain value as msgpack: a part of a message that is put together elsewhere."""
    return msgpack.packb(value)  # type: ignore[no-any-return]  # msgpack is untyped


def array_header(length: int) -> bytes:
    """msgpack's header of an array of that many elements.

    https://github.com/msgpack/msgpack/blob/master/spec.md#array-format-family
    """
    if length < 16:
        return bytes((0x90 | length,))
    if length < 65536:
        return b"\xdc" + length.to_bytes(2, "big")
    return b"\xdd" + length.to_bytes(4, "big")


_RESULT_HEAD = array_header(1 + len(Result._fields)) + bytes((RESULT_CODE,))
# The reply to a Rollback whose transaction is gone already.
ROLLED_BACK_BODY = encode_result_body((TX_NONE, "ROLLBACK", -1, None, []))


def encode_result(request: int, body: bytes) -> bytes:
    """A whole Result from its number and its body."""
    return b"".join((_RESULT_HEAD, encode_value(request), body))


def decode_request(frame: bytes) -> ToBroker:
    """A message to the broker from a stranger's bytes, fully checked; raises ProtocolViolation."""
    try:
        array = msgpack.unpackb(frame, use_list=False, max_array_len=_MAX_INBOUND_FIELDS, max_map_len=0, max_ext_len=0)
    except Exception as error:  # noqa: BLE001  msgpack raises many types, some of them undocumented
        raise ProtocolViolation(f"not a msgpack array: {type(error).__name__}") from None
    if type(array) is not tuple or not array or type(array[0]) is not int:
        raise ProtocolViolation("expected an array that begins with a message code")
    found = _INBOUND.get(array[0])
    if found is None:
        raise ProtocolViolation(f"unknown message code {array[0]}")
    message, rules = found
    if len(array) != len(rules) + 1:
        raise ProtocolViolation(f"{message.__name__} has {len(rules)} fields, got {len(array) - 1}")
    for value, (name, is_valid, expected) in zip(array[1:], rules, strict=True):
        if not is_valid(value):
            raise ProtocolViolation(f"{message.__name__}.{name}: expected {expected}")
    return message._make(array[1:])


def decode_reply(frame: bytes) -> ToClient:
    """A message to the client. The broker is trusted; a frame it could not have sent raises ProtocolViolation."""
    try:
        array = msgpack.unpackb(frame, use_list=False)
        message = MESSAGES[array[0]]
        if array[0] < 64:
            raise ProtocolViolation(f"{message.__name__} does not travel to clients")
        return message._make(array[1:])  # type: ignore[return-value]  # codes from 64 are ToClient
    except ProtocolViolation:
        raise
    except Exception as error:
        raise ProtocolViolation(f"the broker sent what this client cannot read: {error!r}") from error
