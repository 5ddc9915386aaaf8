"""Replies that a client's socket has not taken yet."""

from __future__ import annotations

from collections import deque
from itertools import islice

# From this size on a copy of a reply costs more than sending the reply and its head as two buffers.
COPY_BELOW = 65536
# Buffers of replies given to the system in one call.
BUFFERS_AT_ONCE = 64


class SendBuffer:
    """A queue of bytes to send.

    Small replies are joined, as an object for each would be larger than the replies; large ones are not copied.
    """

    __slots__ = ("_buffers", "size")

    def __init__(self) -> None:
        self._buffers: deque[bytearray | memoryview] = deque()
        self.size = 0  # bytes

    def add(self, buffer: bytes) -> None:
        """Append the buffer."""
        buffers = self._buffers
        self.size += len(buffer)
        if len(buffer) >= COPY_BELOW:
            buffers.append(memoryview(buffer))
        elif buffers and isinstance(last := buffers[-1], bytearray) and len(last) < COPY_BELOW:
            last += buffer
        else:
            buffers.append(bytearray(buffer))

    def next(self) -> list[bytearray | memoryview]:
        """Return the buffers to be sent next, for one sendmsg."""
        return list(islice(self._buffers, BUFFERS_AT_ONCE))

    def take_away(self, sent: int) -> None:
        """Remove the first bytes, which the socket has taken."""
        self.size -= sent
        while sent:
            first = self._buffers.popleft()
            if sent < len(first):
                self._buffers.appendleft(first[sent:])
                return
            sent -= len(first)
