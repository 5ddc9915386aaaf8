"""Replies that a client's socket did not take yet."""

from __future__ import annotations

from collections import deque
from itertools import islice

# From this size on a copy of a reply costs more than sending its head and itself as two buffers.
COPY_BELOW = 65536
# Buffers of replies given to the system in one call.
BUFFERS_AT_ONCE = 64


class SendBuffer:
    """Small replies are joined, as an object for each would be larger than they are; large ones are not copied."""

    __slots__ = ("_buffers", "size")

    def __init__(self) -> None:
        self._buffers: deque[bytearray | memoryview] = deque()
        self.size = 0  # bytes

    def add(self, buffer: bytes) -> None:
        """Keep it behind the others."""
        buffers = self._buffers
        self.size += len(buffer)
        if len(buffer) >= COPY_BELOW:
            buffers.append(memoryview(buffer))
        elif buffers and isinstance(last := buffers[-1], bytearray) and len(last) < COPY_BELOW:
            last += buffer
        else:
            buffers.append(bytearray(buffer))

    def next(self) -> list[bytearray | memoryview]:
        """What is to be sent next."""
        return list(islice(self._buffers, BUFFERS_AT_ONCE))

    def take_away(self, sent: int) -> None:
        """The socket took so many bytes."""
        self.size -= sent
        while sent:
            first = self._buffers.popleft()
            if sent < len(first):
                self._buffers.appendleft(first[sent:])
                return
            sent -= len(first)
