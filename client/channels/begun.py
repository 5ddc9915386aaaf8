"""A request that compiled code has begun, and leaves to its channel."""

from typing import NamedTuple


class Begun(NamedTuple):
    """A request of which something was sent, or may have been; what is not usual about it the channel finds out."""

    request: int
    unsent: bytes  # of its frame
    received: bytes | None  # what has come since, None if nothing has
