"""Where in a program a request comes from, as it travels: a code place, NUL, and a W3C traceparent.

A code place is `module.function file.py:123`. A traceparent travels only if its trace is recorded ("sampled").
https://www.w3.org/TR/trace-context/#traceparent-header
"""

import re

MAX_PLACE_BYTES = 200

_TRACEPARENT = rb"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}"
_ORIGIN = re.compile(rb"([^\0]{0,%d})\0(?:%b)?" % (MAX_PLACE_BYTES, _TRACEPARENT))


def packed_origin(place: bytes, traceparent: str = "") -> bytes:
    """Return both as they travel."""
    return b"%b\0%b" % (place, traceparent.encode()) if place or traceparent else b""


def is_origin(value: object) -> bool:
    """Whether this is an origin as it travels."""
    if type(value) is not bytes or (value and _ORIGIN.fullmatch(value) is None):
        return False
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def is_traced(origin: bytes) -> bool:
    """Whether the origin has a traceparent."""
    return origin[-1:] not in (b"", b"\0")


def place_in(origin: bytes) -> str:
    """Return the code place, "" without one."""
    return origin.partition(b"\0")[0].decode()


def traceparent_in(origin: bytes) -> str:
    """Return the traceparent, "" without one."""
    return origin.partition(b"\0")[2].decode()


def trace_id_in(origin: bytes) -> str:
    """Return the id of the trace, "" without one."""
    return traceparent_in(origin)[3:35]
