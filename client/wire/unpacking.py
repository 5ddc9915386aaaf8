"""msgpack from strangers, read item by item: the memory taken is never much more than the bytes that were sent.

msgpack's own decoder makes objects of whatever comes, to be checked afterwards. An array of one nil has 2 bytes and
becomes 56; an array said to have 65,000 items gets room for them because of 3 bytes alone, and so does an array in it.
Short messages can do no harm that way and are read at once, which is ten times as fast. In longer ones arrays are only
opened where the protocol has some: for arrays in arrays msgpack takes 46 microseconds per kilobyte.
"""

from typing import Any

import msgpack

from client.wire.limits import MAX_REFERENCES, MAX_STEPS, REFERENCE_FIELDS, STEP_FIELDS

# Messages up to this size may take thirty times as much memory for a moment.
LONGEST_AT_ONCE = 4096

# An item's first byte, its head (https://github.com/msgpack/msgpack/blob/master/spec.md), and how many bytes of length
# follow it: for arrays; for bytes and text. _SIZES: how many bytes of value follow the heads of floats, unsigned and
# signed integers. All other heads are the item itself, or have their length in them, or are refused by msgpack.
_ARRAY_LENGTHS = {0xDC: 2, 0xDD: 4}
_BINARY_LENGTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_TEXT_LENGTHS = {**_BINARY_LENGTHS, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_SIZES = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}


def unpack_message(frame: bytes, most_fields: int) -> tuple[Any, ...]:
    """Return a message's fields, one of which may be an array of bytes; raises ValueError and msgpack's own errors."""
    items = _Items(frame)
    fields: list[Any] = []
    for _ in range(items.open_array(most_fields)):
        if items.is_array() and not any(type(each) is tuple for each in fields):
            fields.append(items.all_bytes(MAX_STEPS))
        else:
            fields.append(items.next())
    items.end()
    return tuple(fields)


def unpack_steps(packed: bytes) -> tuple[Any, ...]:
    """Return a TransactionMessage's steps as plain tuples and marks; raises ValueError and msgpack's own errors."""
    items = _Items(packed)
    left = MAX_REFERENCES
    steps: list[Any] = []
    for _ in range(items.open_array(MAX_STEPS)):
        if not items.is_array():
            steps.append(items.next())
            continue
        step: list[Any] = []
        for _ in range(items.open_array(STEP_FIELDS)):
            if not items.is_array():
                step.append(items.next())
                continue
            count = items.open_array(left)
            left -= count
            step.append(tuple([items.plain_tuple(REFERENCE_FIELDS) for _ in range(count)]))
        steps.append(tuple(step))
    items.end()
    return tuple(steps)


class _Items:
    """Reads the items packed in some bytes, one after the other. Items: numbers, bytes, text, arrays and so on."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed
        self._at = 0

    def is_array(self) -> bool:
        """Whether the next item is an array."""
        head = self._head()
        return head & 0xF0 == 0x90 or head in _ARRAY_LENGTHS

    def open_array(self, most: int) -> int:
        """Read the head of an array, which is the next item; return how many items it has, at most most."""
        head = self._head()
        if head & 0xF0 == 0x90:
            count, size = head & 0x0F, 0
        elif head in _ARRAY_LENGTHS:
            size = _ARRAY_LENGTHS[head]
            count = self._length(self._at + 1, self._at + 1 + size)
        else:
            raise ValueError("expected an array")
        if count > most:
            raise ValueError(f"an array of {count} items, expected at most {most}")
        self._at += 1 + size
        return count

    def plain_tuple(self, most: int) -> tuple[Any, ...]:
        """Read an array of items that are no arrays."""
        return tuple([self.next() for _ in range(self.open_array(most))])

    def all_bytes(self, most: int) -> tuple[bytes, ...]:
        """Read an array of bytes, of which there may be very many."""
        count, packed, at = self.open_array(most), self._packed, self._at
        found = []
        for _ in range(count):
            size = _BINARY_LENGTHS.get(packed[at]) if at < len(packed) else None
            if size is None:
                raise ValueError("expected bytes")
            begin = at + 1 + size
            at = begin + (packed[at + 1] if size == 1 and begin <= len(packed) else self._length(at + 1, begin))
            found.append(packed[begin:at])
        if at > len(packed):
            raise ValueError("the message ends too early")
        self._at = at
        return tuple(found)

    def next(self) -> Any:
        """Read the next item; raises if it is an array that is not empty."""
        packed, begin, head = self._packed, self._at, self._head()
        if head in _TEXT_LENGTHS:
            body = begin + 1 + _TEXT_LENGTHS[head]
            end = self._at = body + self._length(begin + 1, body)
            if head in _BINARY_LENGTHS and end <= len(packed):
                return packed[body:end]  # large bytes are copied only once
        else:
            end = self._at = begin + 1 + (head & 0x1F if head & 0xE0 == 0xA0 else _SIZES.get(head, 0))
        return msgpack.unpackb(packed[begin:end], max_array_len=0, max_map_len=0, max_ext_len=0)

    def end(self) -> None:
        """Raise if anything follows."""
        if self._at != len(self._packed):
            raise ValueError("bytes behind the message")

    def _length(self, begin: int, end: int) -> int:
        return int.from_bytes(self._packed[begin:end], "big")

    def _head(self) -> int:
        if self._at >= len(self._packed):
            raise ValueError("the message ends too early")
        return self._packed[self._at]
