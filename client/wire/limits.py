"""What a stranger may put into each field of a message to the broker, and the limits of both sides."""

from collections.abc import Callable
from typing import Any

from client.wire.arguments import MAX_ARGUMENT_BYTES, are_arguments
from client.wire.origins import MAX_PLACE_BYTES, is_origin

MAX_REQUEST_BYTES = 16 * 1024 * 1024
MAX_RESULT_BYTES = 64 * 1024 * 1024
# The most that a reply holds besides its cells; the client's frame limit is the broker's result limit plus this.
REPLY_OVERHEAD_BYTES = 1024 * 1024

MAX_NAME_CHARS = 128
MAX_NUMBER = 2**63 - 1
# A timeout beyond a year is a mistake in units.
MAX_TIMEOUT = 366 * 86400.0
# Bind counts parameters in 16 bits.
MAX_PARAMETERS = 65535
# Steps of one transaction message. A longer one is a data load, and would hold its backend for long.
MAX_STEPS = 1000
# References in all steps of a message together.
MAX_REFERENCES = 10_000
MAX_RETRIES = 100

# PostgreSQL's settings on which clients' literals and casters rely (see client.values.offline): the same on all
# backends.
RELIED_ON = ("standard_conforming_strings", "client_encoding", "DateStyle", "IntervalStyle")
# Bytes of a COPY's data that may be under way between a client and the broker, in either direction.
COPY_WINDOW = 1024 * 1024
# The text of a client's error, with which its COPY fails.
MAX_ERROR_CHARS = 1000
# Settings that travel with one request.
MAX_SETTINGS = 64
# Who is served first if requests wait. On the wire a priority is its index here.
PRIORITIES = ("interactive", "normal", "batch")
INTERACTIVE, NORMAL, BATCH = range(3)
# A query's part in a session: none; it opens one; it is in one.
NO_SESSION, OPENS_SESSION, IN_SESSION = range(3)
# What follows a group's name in a message whose statement only reads, and may run on a replica.
ON_REPLICAS = "/replicas"
# Whoever has a conversation's cancel key may cancel its requests from another one, so it is too long to be guessed.
CANCEL_KEY_BYTES = 16

QUESTIONS = (
    "ping",
    "stats",
    "metrics",
    "groups",
    "stop",
    "stop-now",
    "restart",
    "reload",
    "reconnect",
    "pause",
    "drain",
    "resume",
    "kill",
)
ISOLATIONS = ("read uncommitted", "read committed", "repeatable read", "serializable")

# Steps of a transaction message that are no statements.
SAVEPOINT = 1
END_SAVEPOINT = 2
# How many fields a Step, without its values, and a StepReference have; both travel as plain arrays.
STEP_FIELDS = 6
REFERENCE_FIELDS = 4


def _whole(low: int, high: int = MAX_NUMBER) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _text(longest: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is str and len(value) <= longest and "\0" not in value


def _all_bytes(value: Any) -> bool:
    return type(value) is tuple and set(map(type, value)) <= {bytes}


def _timeout(value: Any) -> bool:
    return value is None or (type(value) in (float, int) and 0 < value <= MAX_TIMEOUT)


def _types(value: Any) -> bool:
    return type(value) is bytes and len(value) % 4 == 0 and len(value) <= 4 * MAX_PARAMETERS


def are_settings(value: Any) -> bool:
    """Whether these are settings as they travel: names, none of them empty, and values, each ended by NUL."""
    if type(value) is not bytes or value[-1:] not in (b"", b"\0"):
        return False
    parts = value.split(b"\0")[:-1]
    return len(parts) % 2 == 0 and len(parts) <= 2 * MAX_SETTINGS and all(parts[::2])


def are_steps(value: Any) -> bool:
    """Whether these are steps, each a tuple of its fields, with references to earlier steps and closed savepoints."""
    if type(value) is not tuple or not 0 < len(value) <= MAX_STEPS:
        return False
    depth = 0
    for place, step in enumerate(value):
        if type(step) is int:
            depth += 1 if step == SAVEPOINT else -1
            if step not in (SAVEPOINT, END_SAVEPOINT) or depth < 0:
                return False
        elif not _step(step, place, value):
            return False
    return depth == 0


def _step(step: Any, place: int, steps: tuple[Any, ...]) -> bool:
    if type(step) is not tuple or len(step) != STEP_FIELDS:
        return False
    statement, types, prepare, references, low, high = step
    return (
        type(statement) is bytes
        and _types(types)
        and statement.count(0) * 4 == len(types)
        and type(prepare) is bool
        and type(references) is tuple
        and all(_reference(each, place, steps, len(types) // 4) for each in references)
        and _row_number(low)
        and (high is None or _row_number(high))
    )


def _reference(value: Any, place: int, steps: tuple[Any, ...], parameters: int) -> bool:
    if type(value) is not tuple or len(value) != REFERENCE_FIELDS:
        return False
    parameter, step, row, column = value
    return (
        type(parameter) is int
        and 0 <= parameter < parameters
        and type(step) is int
        and 0 <= step < place
        and type(steps[step]) is tuple
        and (row is None or _row_number(row))
        and (_row_number(column) or type(column) is str)
    )


_row_number = _whole(0)


# What a stranger may put into each field of a message to the broker, and the words for it.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "version": (_whole(1), "a whole number from 1"),
    "pid": (_whole(0), "a whole number from 0"),
    "application_name": (_text(MAX_NAME_CHARS), f"text of at most {MAX_NAME_CHARS} characters without NUL"),
    "release": (_text(MAX_NAME_CHARS), f"text of at most {MAX_NAME_CHARS} characters without NUL"),
    "request": (_whole(1), "a whole number from 1"),
    "group": (_text(MAX_NAME_CHARS), f"text of at most {MAX_NAME_CHARS} characters without NUL"),
    "lease": (_whole(0), "a whole number from 0"),
    "begin": (lambda value: type(value) is bool, "a boolean"),
    "statement": (lambda value: type(value) is bytes, "bytes"),
    "CopyMessage.statement": (lambda value: type(value) is bytes and 0 not in value, "bytes without NUL"),
    "types": (_types, f"4 bytes for each of at most {MAX_PARAMETERS} parameters"),
    "values": (lambda value: type(value) is bytes, "bytes"),
    "TransactionMessage.values": (_all_bytes, "an array of bytes"),
    "BatchMessage.values": (_all_bytes, "an array of bytes"),
    "prepare": (lambda value: type(value) is bool, "a boolean"),
    "isolation": (lambda value: value is None or value in ISOLATIONS, f"one of {', '.join(ISOLATIONS)}, or nil"),
    "read_only": (lambda value: value is None or type(value) is bool, "a boolean or nil"),
    "deferrable": (lambda value: value is None or type(value) is bool, "a boolean or nil"),
    "retries": (_whole(0, MAX_RETRIES), f"a whole number from 0 to {MAX_RETRIES}"),
    "steps": (lambda value: type(value) is bytes, "bytes"),
    "timeout": (_timeout, "seconds above 0 and below a year, or nil"),
    "tag": (_text(MAX_NAME_CHARS), f"text of at most {MAX_NAME_CHARS} characters without NUL"),
    "priority": (_whole(0, BATCH), f"a whole number from 0 to {BATCH}"),
    "settings": (are_settings, f"names and values of at most {MAX_SETTINGS} settings, each ended by NUL"),
    "session": (_whole(0, IN_SESSION), f"a whole number from 0 to {IN_SESSION}"),
    "origin": (is_origin, f"a code place of at most {MAX_PLACE_BYTES} bytes, NUL and a traceparent; or nothing"),
    "is_in": (lambda value: type(value) is bool, "a boolean"),
    "data": (lambda value: type(value) is bytes, "bytes"),
    "error": (
        lambda value: value is None or _text(MAX_ERROR_CHARS)(value),
        f"text of at most {MAX_ERROR_CHARS}, or nil",
    ),
    "size": (_whole(1), "a whole number from 1"),
    "key": (lambda value: type(value) is bytes, "bytes"),
    "position": (_text(MAX_NAME_CHARS), f"text of at most {MAX_NAME_CHARS} characters without NUL"),
    "what": (lambda value: value in QUESTIONS, f"one of {', '.join(QUESTIONS)}"),
    "arguments": (are_arguments, f"names and values in UTF-8, each ended by NUL, at most {MAX_ARGUMENT_BYTES} bytes"),
}


def is_query(
    _: int,
    request: Any,
    group: Any,
    lease: Any,
    begin: Any,
    statement: Any,
    types: Any,
    values: Any,
    prepare: Any,
    timeout: Any,
    tag: Any,
    priority: Any,
    settings: Any,
    session: Any,
    origin: Any,
) -> bool:
    """The rules of a Query in one expression, because nearly all messages are one. If false, RULES finds out why."""
    return (
        type(request) is int
        and 0 < request <= MAX_NUMBER
        and type(group) is str
        and len(group) <= MAX_NAME_CHARS
        and "\0" not in group
        and type(lease) is int
        and 0 <= lease <= MAX_NUMBER
        and type(begin) is bool
        and type(statement) is bytes
        and type(types) is bytes
        and len(types) <= 4 * MAX_PARAMETERS
        and statement.count(0) * 4 == len(types)
        and type(values) is bytes
        and type(prepare) is bool
        and (timeout is None or (type(timeout) is float and 0 < timeout <= MAX_TIMEOUT))
        and type(tag) is str
        and len(tag) <= MAX_NAME_CHARS
        and "\0" not in tag
        and type(priority) is int
        and 0 <= priority <= BATCH
        and (settings == b"" or are_settings(settings))
        and type(session) is int
        and 0 <= session <= IN_SESSION
        and (origin == b"" or is_origin(origin))
    )
