"""What the broker has begun of a client's requests, as the client can still read it when the broker was killed."""

from __future__ import annotations

import mmap
import os
import sys
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from client.channels.sockets import Greeted
from client.interruptions import is_own
from client.wire.ledger import ENTRY

if TYPE_CHECKING:
    from client.channels.curve import CurveSocket
    from client.wire.messages import Welcome


# A map keeps a descriptor of its own open, unless it is told not to.
_WITHOUT_DESCRIPTOR: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
# The memory that this process has, by its device and inode: all of its conversations with a broker share it.
_known: WeakValueDictionary[tuple[int, int], _Memory] = WeakValueDictionary()


class _Memory:
    """A broker's memory; the map itself cannot be referred to weakly by all versions of Python."""

    def __init__(self, descriptor: int) -> None:
        self.bytes = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ, **_WITHOUT_DESCRIPTOR)


class Ledger:
    """The entry of one conversation; the broker's side of it is `poold.clients.ledger`."""

    def __init__(self, memory: _Memory | None, at: int, key: int) -> None:
        self._memory = memory
        self._at = at
        self._key = key

    def has_not_begun(self, request: int) -> bool:
        """Whether the broker, which has gone, has certainly given nothing of the request to PostgreSQL."""
        if self._memory is None:
            return False
        key, begun = ENTRY.unpack_from(self._memory.bytes, self._at)
        # A broker that lives may give the entry to another client meanwhile.
        again, _ = ENTRY.unpack_from(self._memory.bytes, self._at)
        return bool(key == again == self._key and request > begun)


NOTHING_SHARED = Ledger(None, 0, 0)


def shared(greeted: Greeted | CurveSocket, welcome: Welcome) -> Ledger:
    """Return the entry that Welcome names, in the memory that came along with it, if it did."""
    descriptor = greeted.greeted() if isinstance(greeted, Greeted) else None
    if descriptor is None:
        return NOTHING_SHARED
    try:
        status = os.fstat(descriptor)
        place = status.st_dev, status.st_ino
        memory = _known.get(place)
        if memory is None:
            memory = _known[place] = _Memory(descriptor)
        is_there = 0 <= welcome.ledger <= len(memory.bytes) - ENTRY.size
        return Ledger(memory, welcome.ledger, welcome.ledger_key) if is_there else NOTHING_SHARED
    except (OSError, ValueError) as error:
        if not is_own(error):
            raise
        return NOTHING_SHARED  # no memory is left, say: then it is not known what the broker has begun
    finally:
        os.close(descriptor)
