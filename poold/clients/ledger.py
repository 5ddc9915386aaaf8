"""Memory that clients share with the broker, in which it says which of their requests have begun.

A broker that is killed says nothing any more. What it had read and not yet given to PostgreSQL has certainly not run:
its client can send it again, if it knows. So the core writes the number of a request here before anything of it is on
its way to PostgreSQL, and the memory outlives the broker, as the client has it too.

It comes to the client as a descriptor beside Welcome (SCM_RIGHTS), sealed: nobody but the broker can write to it or
change its size. A client trusts only an entry with its own key.
https://man7.org/linux/man-pages/man2/memfd_create.2.html
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
from collections import deque
from dataclasses import dataclass

from client.wire.ledger import ENTRY

# One descriptor for so many bytes of entries.
MEMORY_BYTES = 65536
# No memory that can be written to may be mapped from here on (Linux 5.1); fcntl has no name for it.
_F_SEAL_FUTURE_WRITE = 0x10

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One client's place: at which byte of which descriptor's memory, and its key and number there."""

    descriptor: int
    place: int
    key: memoryview
    begun: memoryview


class Ledger:
    """The entries of all clients."""

    def __init__(self) -> None:
        # That nobody has; the one that was left first is taken first, as whoever had it may still want to read it.
        self._free: deque[Entry] = deque()
        self._descriptors: list[int] = []
        self._is_possible = hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")

    def enter(self, key: int) -> Entry | None:
        """Return the place of the client with this key; None if the system cannot share memory so."""
        if not self._free and self._is_possible:
            self._add_memory()
        if not self._free:
            return None
        entry = self._free.popleft()
        entry.key[0] = entry.begun[0] = 0
        entry.key[0] = key
        return entry

    def leave(self, entry: Entry) -> None:
        """Take note that the client is gone. What its entry says stays, until another client gets it."""
        self._free.append(entry)

    def close(self) -> None:
        """Close the descriptors; the memory stays as long as anybody has it."""
        self._free.clear()
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _add_memory(self) -> None:
        try:
            descriptor = os.memfd_create("poold-begun", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            self._descriptors.append(descriptor)
            os.ftruncate(descriptor, MEMORY_BYTES)
            memory = memoryview(mmap.mmap(descriptor, MEMORY_BYTES)).cast("Q")
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE)
        except OSError as error:
            self._is_possible = False
            log.info("clients of a broker that is killed do not learn what it had not begun error=%s", error.strerror)
            return
        for place in range(0, MEMORY_BYTES, ENTRY.size):
            at = place // 8
            self._free.append(Entry(descriptor, place, memory[at : at + 1], memory[at + 1 : at + 2]))
