"""What a question to the broker says besides its word: names and values, as they travel in Ask."""

from collections.abc import Iterable

# Of the question for figures: its sections, what statements are ranked by, the largest first, and how many rows of a
# section there are at most, as an answer has to fit into one reply.
SECTIONS = ("groups", "endpoints", "backends", "clients", "statements", "queue")
ORDERS = ("total", "calls", "mean", "p99", "rows", "errors")
MOST_ROWS = 1000
# Names and values of one question.
MAX_ARGUMENTS = 256
MAX_ARGUMENT_BYTES = 16384


def packed_arguments(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Return the pairs as bytes; a name may come several times. Raises ValueError if a text has NUL."""
    texts = [text for pair in pairs for text in pair]
    if any("\0" in text for text in texts):
        raise ValueError("names and values have no NUL")
    return b"".join(text.encode() + b"\0" for text in texts)


def unpacked_arguments(packed: bytes) -> dict[str, list[str]]:
    """Return the values by name, in their order."""
    texts = packed.decode().split("\0")[:-1]
    found: dict[str, list[str]] = {}
    for name, value in zip(texts[::2], texts[1::2], strict=True):
        found.setdefault(name, []).append(value)
    return found


def are_arguments(value: object) -> bool:
    """Whether these are arguments as they travel: names, none of them empty, and values, each ended by NUL."""
    if type(value) is not bytes or len(value) > MAX_ARGUMENT_BYTES or value[-1:] not in (b"", b"\0"):
        return False
    parts = value.split(b"\0")[:-1]
    if len(parts) % 2 or len(parts) > 2 * MAX_ARGUMENTS or not all(parts[::2]):
        return False
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
