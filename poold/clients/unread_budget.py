"""A bound for the replies that all clients together leave unread; beyond it clients that do not read are dropped.

Each client may leave a good deal unread, so many clients could fill the memory of a host. Beyond the bound connections
are dropped until there is room: first those whose sockets take nothing any more, and among these first those of the
processes that hold most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from time import monotonic
from typing import Protocol

from client.wire.limits import REPLY_OVERHEAD_BYTES
from poold.config.current import CurrentConfig

# A client that leaves more unread than so many of the largest results, besides client_buffer_bytes, is dropped at once.
# A client that has one request at a time never comes there.
UNREAD_RESULTS = 2
# A client whose socket has taken something within so many seconds is reading: the others are dropped first.
TAKING = 1.0
# Clients are dropped down to this part of the bound: to look at all clients for each reply would be slow.
LEFT = 0.875


class Holder(Protocol):
    """A connection that may leave replies unread."""

    pid: int
    uid: int | None
    taken_at: float  # when its socket last took something

    @property
    def unread(self) -> int:
        """Bytes left unread; 0 if the connection is to be dropped already."""

    def drop_unread(self) -> None:
        """Drop the connection, and forget its unread replies."""


class UnreadBudget:
    """How much all clients together leave unread, in bytes, and how much they may."""

    def __init__(self, config: CurrentConfig) -> None:
        self._config = config
        self.size = 0

    @property
    def most_by_one(self) -> int:
        """How much one client may leave unread."""
        config = self._config.broker
        return config.client_buffer_bytes + UNREAD_RESULTS * config.max_result_bytes

    @property
    def most(self) -> int:
        """How much all of them may; at least one of the largest results must fit."""
        config = self._config.broker
        largest = config.client_buffer_bytes + config.max_result_bytes + REPLY_OVERHEAD_BYTES
        return max(config.max_buffered_bytes, largest)

    def changed(self, by: int, holders: Iterable[Holder]) -> None:
        """Add so many bytes, and make room if that is too much. To take bytes away, subtract them from size."""
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
