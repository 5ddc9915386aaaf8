"""A lease as its Handler holds it: which one is open, and where it may be used.

A lease lives with the channel it was opened through, which belongs to one thread of one process. Everything else that
a lease is, is the broker's.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref

from client.channel import Channel
from client.errors import TransactionLost, UsageError
from client.protocol import Release, Rollback

Farewell = type[Rollback] | type[Release]

# Unique per process, so also per channel; next() on it is atomic.
_numbers = itertools.count(1)


class Lease:
    """number is 0 where none is open."""

    __slots__ = ("_channel", "_farewell", "_noun", "_thread", "number")

    def __init__(self, noun: str, farewell: Farewell) -> None:
        """noun is what it is for, in words for errors; farewell is the message that ends it."""
        self.number = 0
        self._noun = noun
        self._farewell = farewell
        # Held weakly: the channel ends with its thread, which ends what the lease was for.
        self._channel: weakref.ref[Channel] | None = None
        self._thread = 0

    def open(self, channel: Channel) -> int:
        """A new number, of a lease of this thread's that the next request opens through the channel."""
        self.number = next(_numbers)
        self._channel = weakref.ref(channel)
        self._thread = threading.get_ident()
        return self.number

    def close(self) -> None:
        """It is over, or was never opened."""
        self.number = 0

    def channel(self) -> Channel:
        """Its channel; raises TransactionLost where that is gone and UsageError where it is not to be used here."""
        noun, channel = self._noun, self._opened_through()
        if channel is None:
            raise TransactionLost(
                f"this {noun}'s connection to the broker is gone and with it the {noun}, rolled back: the broker went "
                f"away, or the thread that began it ended; {self._remedy()}"
            )
        if channel.pid != os.getpid():
            raise UsageError(
                f"this Handler's {noun} was begun before the fork and belongs to the parent process; make a new "
                "Handler in the child"
            )
        if self._thread != threading.get_ident():
            raise UsageError(
                f"this Handler's {noun} belongs to the thread that began it; give each thread its own Handler"
            )
        if not channel.is_usable:
            raise TransactionLost(
                f"the broker at {channel.address} went away and with it this {noun}, rolled back; {self._remedy()}"
            )
        return channel

    def abandon(self) -> None:
        """Its Handler is being collected. Never raises, and never touches another thread's socket."""
        channel = self._opened_through() if self.number else None
        if channel is not None and channel.pid == os.getpid():
            if self._thread == threading.get_ident():
                channel.post(self._farewell(channel.next_request(), self.number))
            else:
                channel.abandon(self._farewell, self.number)

    def _opened_through(self) -> Channel | None:
        return self._channel() if self._channel is not None else None

    def _remedy(self) -> str:
        return "call rollback() and begin anew" if self._farewell is Rollback else f"open another {self._noun}"
