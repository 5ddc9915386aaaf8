"""Messages as bytes: one msgpack array each.

Everything a stranger sends passes `decode_request` and `decode_steps`, which raise nothing but ProtocolViolation.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import msgpack

from client.wire import fields
from client.wire.limits import MAX_STEPS, RULES, are_steps, is_query
from client.wire.messages import (
    BATCH_CODE,
    MESSAGES,
    TRANSACTION_CODE,
    BatchMessage,
    ProtocolViolation,
    Query,
    ResultMessage,
    Step,
    ToBroker,
    ToClient,
    TransactionMessage,
)
from client.wire.unpacking import LONGEST_AT_ONCE, unpack_message, unpack_steps

_CODES: dict[type, int] = {message: code for code, message in MESSAGES.items()}


def _rule(message: type, name: str) -> tuple[Callable[[Any], bool], str]:
    """Return a field's rule: the one for this message's field, else the one for all fields of that name."""
    return RULES.get(f"{message.__name__}.{name}") or RULES[name]


# Per code: the message and, in order, each field's name and rule. Resolved once; the decoder only goes through it.
_INBOUND: dict[int, tuple[type[ToBroker], tuple[tuple[str, Callable[[Any], bool], str], ...]]] = {
    code: (message, tuple((name, *_rule(message, name)) for name in message._fields))  # type: ignore[misc]  # code < 64
    for code, message in MESSAGES.items()
    if code < 64
}
# No message to the broker holds a longer array, a map or an extension: garbage is refused before it becomes objects.
_MAX_INBOUND_FIELDS = max(len(rules) for _, rules in _INBOUND.values()) + 1
# The first bytes of the messages with an array in their array: the values of their steps.
_HEADS_WITH_STEPS = (
    bytes((0x90 | (1 + len(TransactionMessage._fields)), TRANSACTION_CODE)),
    bytes((0x90 | (1 + len(BatchMessage._fields)), BATCH_CODE)),
)


# A Packer keeps its buffer for the next message; the GIL lets only one thread at a time use it.
_pack = msgpack.Packer().pack
_QUERY_CODE, _RESULT_CODE = _CODES[Query], _CODES[ResultMessage]
# How many packed steps a client keeps, and the longest texts for which it does, in bytes.
STEPS_KEPT = 256
LONGEST_STEPS_KEPT = 65536


def encode(message: ToBroker | ToClient) -> bytes:
    """Return the message as bytes."""
    return _pack((_CODES[type(message)], *message))  # type: ignore[no-any-return]  # msgpack is untyped


def packed(*fields: object) -> bytes:
    """Return the fields as a message has them, one behind the other."""
    return b"".join(map(_pack, fields))


def encode_around(message: Query | TransactionMessage, first: str, last: str) -> tuple[bytes, bytes]:
    """Return what is the same in all such messages, for compiled code: what is before these fields, and behind them.

    Of the first part the request, which comes behind two bytes, is left out.
    """
    begin, end = message._fields.index(first), message._fields.index(last) + 1
    before = encode(message)[:2] + b"".join(map(_pack, message[1:begin]))
    return before, b"".join(map(_pack, message[end:]))


def decode_request(frame: bytes) -> ToBroker:
    """Return a message to the broker from a stranger's bytes, fully checked; raises ProtocolViolation."""
    try:
        if len(frame) <= LONGEST_AT_ONCE:
            longest = MAX_STEPS if frame[:2] in _HEADS_WITH_STEPS else _MAX_INBOUND_FIELDS
            array = msgpack.unpackb(frame, use_list=False, max_array_len=longest, max_map_len=0, max_ext_len=0)
        else:
            array = unpack_message(frame, _MAX_INBOUND_FIELDS)
    except Exception as error:  # noqa: BLE001  msgpack raises many types, some of them undocumented
        raise ProtocolViolation(f"not a msgpack array: {type(error).__name__}") from None
    if type(array) is not tuple or not array or type(array[0]) is not int:
        raise ProtocolViolation("expected an array that begins with a message code")
    if array[0] == _QUERY_CODE and len(array) == 15 and is_query(*array):
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
    """Return the fields steps and values of a message with these steps."""
    shapes = tuple([step if isinstance(step, int) else (step[0], step[1], *step[3:]) for step in steps])
    values = tuple([step[2] for step in steps if not isinstance(step, int)])
    size = sum([len(shape[0]) for shape in shapes if not isinstance(shape, int)])
    return (_packed_steps if size <= LONGEST_STEPS_KEPT else _pack)(shapes), values


@lru_cache(maxsize=STEPS_KEPT)
def _packed_steps(shapes: tuple[Any, ...]) -> bytes:
    return _pack(shapes)  # type: ignore[no-any-return]  # msgpack is untyped


def decode_steps(packed: bytes) -> list[Step | int]:
    """Return a TransactionMessage's steps, fully checked and with empty values; raises ProtocolViolation."""
    try:
        shapes = unpack_steps(packed)
    except Exception as error:  # noqa: BLE001  msgpack raises many types, some of them undocumented
        raise ProtocolViolation(f"TransactionMessage.steps: not a msgpack array: {type(error).__name__}") from None
    if not are_steps(shapes):
        text = f"from 1 to {MAX_STEPS} statements, with savepoint blocks closed and references looking back"
        raise ProtocolViolation(f"TransactionMessage.steps: expected {text}")
    return [shape if type(shape) is int else Step._make((*shape[:2], b"", *shape[2:])) for shape in shapes]


def decode_reply(frame: bytes) -> ToClient:
    """Return a message to the client. The broker is trusted; a frame it could not have sent raises ProtocolViolation.

    A signal handler's exception may arise here, and has to reach the program unchanged. So a frame counts as unreadable
    only if reading it fails a second time in the same way.
    """
    try:
        array = msgpack.unpackb(frame, use_list=False)
        return ResultMessage._make(array[1:]) if array[0] == _RESULT_CODE else _other_reply(array)
    except Exception as error:
        why = error if isinstance(error, ProtocolViolation) else _why_unreadable(frame)
        if why is error or type(why) is not type(error):
            raise
        # Without the error's text: a KeyError's is the key, which may be nested deeper than repr goes.
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
    """Return what reading the frame raises; None if it can be read."""
    try:
        array = msgpack.unpackb(frame, use_list=False)
        _ = ResultMessage._make(array[1:]) if array[0] == _RESULT_CODE else _other_reply(array)
    except Exception as error:  # noqa: BLE001  msgpack raises many types, some of them undocumented
        return error
    return None
