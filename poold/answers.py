"""What a unit's answer consists of: a result for each command that runs something, a description for each prepared."""

from __future__ import annotations

import struct

from poold.core.effects import Bound, Plain, Prepare, Simple, Unit
from poold.core.facts import Outcome
from poold.wirefailures import WireError

# Of a command tag; PostgreSQL's own have at most 64 (COMPLETION_TAG_BUFSIZE).
MAX_TAG_BYTES = 256
_RUNNING = (Bound, Plain, Simple)


def next_place(unit: Unit, place: int) -> int:
    """The place of the command whose result follows that of the one at place, -1 at the begin. Behind the end: none."""
    if type(unit[0]) is Simple:
        return 0  # any number of results
    place += 1
    while place < len(unit) and type(unit[place]) not in _RUNNING:
        place += 1
    return place


def is_whole(unit: Unit, results: int, descriptions: int) -> bool:
    """Whether so many of both are all of its answer."""
    if type(unit[0]) is Simple:
        return results > 0
    kinds = [type(command) for command in unit]
    return results == kinds.count(Bound) + kinds.count(Plain) and descriptions == kinds.count(Prepare)


def read_tag(tag: bytes) -> tuple[str, int]:
    """A command tag, and the number of rows it tells or -1."""
    if len(tag) > MAX_TAG_BYTES:
        raise WireError(f"the server sent a command tag of {len(tag)} bytes, expected at most {MAX_TAG_BYTES}")
    text = tag.decode("utf-8", "replace")
    last = text.rpartition(" ")[2]
    return text, int(last) if last.isdecimal() else -1


def read_types(body: bytes) -> tuple[int, ...]:
    """The OIDs in a ParameterDescription."""
    count = len(body) // 4
    if len(body) != 2 + 4 * count:
        raise WireError(f"the server described parameters in {len(body)} bytes")
    return struct.unpack_from(f"!{count}I", body, 2)


def kind_of(outcome: Outcome) -> tuple[str, bool]:
    """What tells a result from others, whatever is in it: its tag without numbers, whether it has columns."""
    return outcome[0].rstrip("0123456789 "), outcome[2] is not None


def without_rows(outcome: Outcome) -> Outcome:
    """That there was such a result."""
    tag, count, columns, _rows, _notices = outcome
    return tag, count, None if columns is None else b"", b"", ()
