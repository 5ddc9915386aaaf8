"""The data of a COPY as PostgreSQL sends it: its rows without the headers of the messages that carry them."""

from struct import Struct

from client.compiled import load

HEADER = 5
_length = Struct("!I").unpack_from


def payloads(data: bytes, missing: int) -> tuple[bytes, int]:
    """Return what the CopyData messages in data carry, and how many bytes of the last one are still to come.

    missing is that number before data. Data may end in the middle of a message, but not of its header.
    """
    at, end = 0, len(data)
    parts: list[bytes] = []
    while at < end:
        if not missing:
            missing = _length(data, at + 1)[0] - 4
            at += HEADER
        part = data[at : at + missing]
        parts.append(part)
        at += len(part)
        missing -= len(part)
    return b"".join(parts), missing


# In compiled code, where it is: each row has a header.
_ROWS = load("client.lane.rows")
if _ROWS is not None:
    payloads = _ROWS.payloads
