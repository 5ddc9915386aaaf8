"""What the seams do, written a second time: as plainly as can be, without regard to speed.

Nothing here is taken from the product but its messages and limits. What is refused is told as REFUSED, whatever the
product's words for it.
"""

from __future__ import annotations

from typing import Any

import msgpack

from client.wire.limits import MAX_STEPS, RULES
from client.wire.messages import MESSAGES, Query

REFUSED = "refused"


def frames(data: bytes, longest: int, may_be_several: bool) -> tuple[list[tuple[int, bytes]], str | int]:
    """Flags and bodies of all whole frames, and how many bytes are left over, or REFUSED.

    https://rfc.zeromq.org/spec/23/
    """
    found: list[tuple[int, bytes]] = []
    while len(data) >= 2:
        has_more, is_long, is_command = bool(data[0] & 1), bool(data[0] & 2), bool(data[0] & 4)
        if data[0] > 7 or (has_more and (is_command or not may_be_several)):
            return found, REFUSED
        size = data[1:9] if is_long else data[1:2]
        if is_long and len(size) < 8:
            break
        length = 0
        for byte in size:
            length = 256 * length + byte
        if length > (512 if is_command else longest):
            return found, REFUSED
        rest = data[1 + len(size) :]
        if len(rest) < length:
            break
        found.append((data[0], rest[:length]))
        data = rest[length:]
    return found, len(data)


def request(frame: bytes) -> Any:
    """The message to the broker, or REFUSED."""
    try:
        array = msgpack.unpackb(frame, use_list=False, strict_map_key=False)
    except Exception:  # noqa: BLE001  as the product says of the library: many types
        return REFUSED
    if type(array) is not tuple or not array or type(array[0]) is not int or array[0] >= 64:
        return REFUSED
    kind = MESSAGES.get(array[0])
    if kind is None or len(kind._fields) != len(array) - 1:
        return REFUSED
    for name, value in zip(kind._fields, array[1:], strict=True):
        is_valid, _ = RULES.get(f"{kind.__name__}.{name}") or RULES[name]
        if not is_valid(value) or (type(value) is tuple and len(value) > MAX_STEPS):
            return REFUSED
    if kind is Query and 4 * array[5].count(b"\0") != len(array[6]):
        return REFUSED
    return kind(*array[1:])


def encoded(message: Any) -> bytes:
    """The message as bytes: an array of its code and its fields."""
    code = next(code for code, kind in MESSAGES.items() if kind is type(message))
    return bytes(msgpack.packb([code, *message]))


def bind(name: bytes, values: list[bytes | None]) -> bytes:
    """Bind of the unnamed portal with parameters as text, and Execute without a limit.

    https://www.postgresql.org/docs/current/protocol-message-formats.html
    """
    body = bytearray()
    body += b"\0"  # the portal's name
    body += name + b"\0"
    body += (0).to_bytes(2, "big")  # no format codes: all parameters are text
    body += len(values).to_bytes(2, "big")
    for value in values:
        body += (-1 if value is None else len(value)).to_bytes(4, "big", signed=True)
        body += value or b""
    body += (0).to_bytes(2, "big")  # no format codes: all results are text
    execute = b"\0" + (0).to_bytes(4, "big")
    return _message(b"B", bytes(body)) + _message(b"E", execute)


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + (4 + len(body)).to_bytes(4, "big") + body


def rows_end(data: bytes, at: int) -> tuple[int, int]:
    """The byte behind the whole rows from byte at, and how many these are."""
    count = 0
    while data[at : at + 1] == b"D" and len(data) >= at + 5:
        length = int.from_bytes(data[at + 1 : at + 5], "big")
        if length < 4 or len(data) < at + 1 + length:
            break
        at, count = at + 1 + length, count + 1
    return at, count


def cells(rows: bytes, width: int) -> list[list[bytes | None]] | str:
    """The cells of the rows, or REFUSED if they are not whole."""
    found: list[list[bytes | None]] = []
    while rows:
        if len(rows) < 7 or rows[:1] != b"D" or int.from_bytes(rows[5:7], "big") != width:
            return REFUSED
        length = int.from_bytes(rows[1:5], "big")
        body, rows = rows[7 : 1 + length], rows[1 + length :]
        if len(body) != length - 6:
            return REFUSED
        row: list[bytes | None] = []
        for _ in range(width):
            size = int.from_bytes(body[:4], "big", signed=True)
            if len(body) < 4 or len(body) < 4 + size:
                return REFUSED
            row.append(None if size < 0 else body[4 : 4 + size])
            body = body[4 + max(size, 0) :]
        if body:
            return REFUSED
        found.append(row)
    return found
