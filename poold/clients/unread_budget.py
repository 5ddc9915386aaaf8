"""What all clients together leave unread has a bound, whose reaching costs those who do not read.

Each client may leave a good deal unread, so many clients could fill the memory of a host. Beyond the bound connections
are dropped: those of the processes that hold most first, and before those from whom the sockets still take something.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from time import monotonic
from typing import Protocol

from client.wire.limits import REPLY_OVERHEAD_BYTES
from poold.config.model import BrokerConfig

# What a client leaves unread may become so many of the largest results, besides client_buffer_bytes: then it is dropped
# without waiting. A client that has one request at a time never comes there.
UNREAD_RESULTS = 2
# Who has taken something within so many seconds is reading: the others go first.
TAKING = 1.0
# How much of the bound is left then: to look at all clients for each reply would be slow.
LEFT = 0.875


class Holder(Protocol):
    """A connection that may leave something unread."""

    pid: int
    uid: int | None
    taken_at: float  # when its socket last took something

    @property
    def unread(self) -> int:
        """Bytes; 0 if it is to be dropped already."""

    def drop_unread(self) -> None:
        """Drop it, and forget what it leaves."""


class UnreadBudget:
    """The sum, in bytes, and what it may be."""

    def __init__(self, config: BrokerConfig) -> None:
        self.size = 0
        self.most_by_one = config.client_buffer_bytes + UNREAD_RESULTS * config.max_result_bytes
        # Of the largest results at least one must fit.
        largest = config.client_buffer_bytes + config.max_result_bytes + REPLY_OVERHEAD_BYTES
        self.most = max(config.max_buffered_bytes, largest)

    def changed(self, by: int, holders: Iterable[Holder]) -> None:
        """So many bytes more; of less, who subtracts them himself need not tell."""
        self.size += by
        if self.size > self.most:
            self._make_room([holder for holder in holders if holder.unread])

    def _make_room(self, holding: list[Holder]) -> None:
        sizes: Counter[tuple[int, int | None]] = Counter()
        for holder in holding:
            sizes[holder.pid, holder.uid] += holder.unread
        since = monotonic() - TAKING
        holding.sort(key=lambda each: (each.taken_at < since, sizes[each.pid, each.uid], each.unread), reverse=True)
        for holder in holding:
            if self.size <= LEFT * self.most:
                return
            holder.drop_unread()
