"""Several byte strings as one, for decoders that take several: any bytes are such a list."""

from collections.abc import Sequence

_LENGTH_BYTES = 2


def join(parts: Sequence[bytes]) -> bytes:
    """All but the last with their length before them."""
    *first, last = parts
    return b"".join([len(part).to_bytes(_LENGTH_BYTES, "big") + part for part in first]) + last


def split(data: bytes, count: int) -> list[bytes]:
    """So many of them; lengths that are too large take what is there."""
    found = []
    for _ in range(count - 1):
        length = int.from_bytes(data[:_LENGTH_BYTES], "big")
        found.append(data[_LENGTH_BYTES : _LENGTH_BYTES + length])
        data = data[_LENGTH_BYTES + length :]
    return [*found, data]


def split_all(data: bytes) -> list[bytes]:
    """As many as there are."""
    found = []
    while data:
        length = int.from_bytes(data[:_LENGTH_BYTES], "big")
        found.append(data[_LENGTH_BYTES : _LENGTH_BYTES + length])
        data = data[_LENGTH_BYTES + length :]
    return found


def chunks(data: bytes) -> list[bytes]:
    """A stream as the network may cut it: the first byte says how, 0 not at all."""
    size = data[0] if data else 0
    stream = data[1:]
    return [stream[at : at + size] for at in range(0, len(stream), size)] if size else [stream]
