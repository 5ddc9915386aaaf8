"""Messages of which only a part has come: their clients may not leave it at that, nor make the broker hold very much.

A message is sent in one go, so on this host it is whole within moments however large it is. What is said in any number
of connections and never ended would be held for ever.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Protocol

# A message has to be whole so many seconds after its first byte.
MESSAGE_TIMEOUT = 30.0
# All of them together, in the largest requests there may be: beyond it the one that stands still for longest goes.
LARGEST_MESSAGES = 8
SWEEP_INTERVAL = 1.0
# A sweep that comes so much later than it should was held up, and so were the clients.
HELD_UP = 5.0


class Sender(Protocol):
    """A client with such a message."""

    @property
    def is_heard(self) -> bool:
        """Whether it is read from; if not, it cannot finish."""

    def drop_unfinished(self, size: int, reason: str) -> None:
        """Drop the client: it has been too slow, with so many bytes of a message."""


class PartialMessages:
    """All of them, the one that has stood still for longest first."""

    def __init__(
        self, max_request_bytes: int, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = monotonic
    ) -> None:
        self._most = LARGEST_MESSAGES * max_request_bytes
        self._loop = loop
        self._clock = clock
        # When it began and how many bytes there are: enters and moves to the end when some have come.
        self._messages: OrderedDict[Sender, tuple[float, int]] = OrderedDict()
        self._bytes = 0
        self._next_sweep = 0.0  # 0: nothing is to be swept

    def note(self, sender: Sender, size: int) -> None:
        """So many bytes of a message have come from this client and are no whole one yet; 0: there is none."""
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
