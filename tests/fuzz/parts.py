"""Several byte strings as one, for decoders that take several: any bytes are such a list."""

from collections.abc import Sequence

_LENGTH_BYTES = 2


def join(parts: Sequence[bytes]) -> bytes:
    """All but the last with their length before them."""
    *first, last = parts
    return b"".join([len(part).to_bytes(_LENGTH_BYTES, "big") + part for part in first]) + last


def split(data: bytes, count: int) -> list[bytes]:
    """So many of them; lengths that are too large take what is there."""
    found, at = [], 0
    for _ in range(count - 1):
        part, at = _part(data, at)
        found.append(part)
    return [*found, data[at:]]


def split_all(data: bytes) -> list[bytes]:
    """As many as there are."""
    found, at = [], 0
    while at < len(data):
        part, at = _part(data, at)
        found.append(part)
    return found


def _part(data: bytes, at: int) -> tuple[bytes, int]:
    body = at + _LENGTH_BYTES
    end = body + int.from_bytes(data[at:body], "big")
    return data[body:end], end


def chunks(data: bytes) -> list[bytes]:
    """A stream as the network may cut it: the first byte says how, 0 not at all."""
    size = data[0] if data else 0
    stream = data[1:]
    return [stream[at : at + size] for at in range(0, len(stream), size)] if size else [stream]
