"""Messages of which only a part has come: they have to be finished in time, and together may not take much memory.

A message is sent in one go, so on this host it is whole within moments however large it is. Without limits, messages
that are begun on any number of connections and never finished would be held for ever.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Protocol

# A message has to be whole so many seconds after its first byte.
MESSAGE_TIMEOUT = 30.0
# The limit of all of them together, as a multiple of max_request_bytes. Beyond it the one in which nothing has come for
# longest is dropped.
LARGEST_MESSAGES = 8
SWEEP_INTERVAL = 1.0
# If a sweep comes so many seconds late, the broker was held up, and so were the clients: nobody is dropped then.
HELD_UP = 5.0


class Sender(Protocol):
    """A client that has sent a part of a message."""

    @property
    def is_heard(self) -> bool:
        """Whether the client is read from; if not, it cannot finish its message."""

    def drop_unfinished(self, size: int, reason: str) -> None:
        """Drop the client, which has sent size bytes of a message and not finished it."""


class PartialMessages:
    """All partial messages; first the one in which nothing has come for longest."""

    def __init__(
        self, max_request_bytes: int, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = monotonic
    ) -> None:
        self._most = LARGEST_MESSAGES * max_request_bytes
        self._loop = loop
        self._clock = clock
        # By client: when its message began and how many bytes have come. Enters, and moves to the end, when bytes have
        # come; leaves when the message is whole or the client is gone.
        self._messages: OrderedDict[Sender, tuple[float, int]] = OrderedDict()
        self._bytes = 0
        self._next_sweep = 0.0  # 0: no sweep is scheduled

    def note(self, sender: Sender, size: int) -> None:
        """Take note that the client has sent size bytes of a message that is not whole yet; 0: there is none."""
        began, before = self._messages.pop(sender, (None, 0))
        self._bytes += size - before
        if not size:
            return
        self._messages[sender] = self._clock() if began is None or size < before else began, size
        if not self._next_sweep:
            self._arm()
        if self._bytes > self._most:
            slowest = next(iter(self._messages))
            slowest.drop_unfinished(self._messages[slowest][1], "there are too many of those")
            self.note(slowest, 0)

    def _arm(self) -> None:
        self._next_sweep = self._clock() + SWEEP_INTERVAL
        self._loop.call_later(SWEEP_INTERVAL, self._sweep)

    def _sweep(self) -> None:
        now, expected, self._next_sweep = self._clock(), self._next_sweep, 0.0
        if now < expected + HELD_UP:
            for sender, (began, size) in list(self._messages.items()):
                if began <= now - MESSAGE_TIMEOUT and sender.is_heard:
                    sender.drop_unfinished(size, f"it was not whole after {MESSAGE_TIMEOUT:g} s")
                    self.note(sender, 0)
        if self._messages:
            self._arm()
