"""Watches descriptors with an epoll of its own, which the event loop watches as one.

uvloop itself cannot be used for sockets: if a peer ends with something unread, a unix socket is in error, and libuv
then stops watching it without a word (uv__poll_io), so nobody would ever learn of that end. Here every event calls the
reader, whose recv tells. It is also one callback of the loop for all that is ready, not one each.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

_READ, _WRITE = select.EPOLLIN | select.EPOLLRDHUP, select.EPOLLOUT
_FAILED = select.EPOLLERR | select.EPOLLHUP


class Poller:
    """Watches descriptors, as an event loop's add_reader and its kin do; level-triggered."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        # By descriptor: enter by add_, leave by remove_.
        self._readers: dict[int, Callable[[], None]] = {}
        self._writers: dict[int, Callable[[], None]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._ready)

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call it whenever something can be read, or the connection has failed."""
        self._readers[descriptor] = callback
        self._change(descriptor, is_new=descriptor not in self._writers)

    def remove_reader(self, descriptor: int) -> None:
        """Look away; before the descriptor is closed."""
        if self._readers.pop(descriptor, None) is not None:
            self._change(descriptor)

    def add_writer(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call it whenever something can be written."""
        self._writers[descriptor] = callback
        self._change(descriptor, is_new=descriptor not in self._readers)

    def remove_writer(self, descriptor: int) -> None:
        """Look away; before the descriptor is closed."""
        if self._writers.pop(descriptor, None) is not None:
            self._change(descriptor)

    def close(self) -> None:
        """Stop watching."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _change(self, descriptor: int, is_new: bool = False) -> None:
        mask = (_READ if descriptor in self._readers else 0) | (_WRITE if descriptor in self._writers else 0)
        if not mask:
            self._epoll.unregister(descriptor)
        elif is_new:
            self._epoll.register(descriptor, mask)
        else:
            self._epoll.modify(descriptor, mask)

    def _ready(self) -> None:
        readers, writers = self._readers, self._writers
        for descriptor, events in self._epoll.poll(0):
            # A callback may have taken others away that were ready as well.
            if events & ~_WRITE and (reader := readers.get(descriptor)) is not None:
                reader()
            if events & (_WRITE | _FAILED) and (writer := writers.get(descriptor)) is not None:
                writer()
