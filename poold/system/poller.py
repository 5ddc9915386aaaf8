"""Watches descriptors with an epoll of its own, which the event loop watches as one descriptor.

uvloop itself cannot be used for sockets: if a peer ends without having read everything, a unix socket is in error, and
libuv then silently stops watching it (uv__poll_io), so nobody would ever learn of that end. Here every event calls the
reader, whose recv finds out. It also takes one callback of the loop for all ready descriptors, not one for each.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

_READ, _WRITE = select.EPOLLIN | select.EPOLLRDHUP, select.EPOLLOUT
_FAILED = select.EPOLLERR | select.EPOLLHUP


class Lane(Protocol):
    """Serves descriptors of its own, which are watched here as well."""

    def wait(self, epoll: int) -> list[tuple[int, int]]:
        """Serve what is ready; return descriptors that are others', each with its events."""

    def enter(self, descriptor: int, peer: Any, client: Any) -> None:
        """Serve a client, too, while its connection is quiet."""

    def cool(self, descriptor: int) -> None:
        """The connection is not quiet any more."""

    def leave(self, descriptor: int) -> None:
        """The connection is being closed."""


class Poller:
    """Watches descriptors, with methods like an event loop's; level-triggered."""

    def __init__(self, lane: Lane | None = None) -> None:
        self._epoll = select.epoll()
        self._lane = lane
        self._wait = partial(self._epoll.poll, 0) if lane is None else partial(lane.wait, self._epoll.fileno())
        # Callbacks by descriptor: enter by add_reader and add_writer, leave by remove_reader and remove_writer.
        self._readers: dict[int, Callable[[], None]] = {}
        self._writers: dict[int, Callable[[], None]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._ready)

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call callback whenever something can be read, or the connection has failed."""
        self._readers[descriptor] = callback
        self._change(descriptor, is_new=descriptor not in self._writers)

    def leave(self, descriptor: int) -> None:
        """Let the lane forget a client whose connection is being closed."""
        if self._lane is not None:
            self._lane.leave(descriptor)

    def remove_reader(self, descriptor: int) -> None:
        """Stop watching for something to read; to be called before the descriptor is closed."""
        if self._readers.pop(descriptor, None) is not None:
            self._change(descriptor)
            if self._lane is not None:
                self._lane.cool(descriptor)

    def add_writer(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call callback whenever something can be written, or the connection has failed."""
        self._writers[descriptor] = callback
        self._change(descriptor, is_new=descriptor not in self._readers)
        if self._lane is not None:
            self._lane.cool(descriptor)

    def enter(self, descriptor: int, peer: Any, client: Any) -> None:
        """Let the lane, if there is one, serve a client while its peer says that its connection is quiet."""
        if self._lane is not None:
            self._lane.enter(descriptor, peer, client)

    def remove_writer(self, descriptor: int) -> None:
        """Stop watching for room to write; to be called before the descriptor is closed."""
        if self._writers.pop(descriptor, None) is not None:
            self._change(descriptor)

    def close(self) -> None:
        """Stop watching all descriptors."""
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
        for descriptor, events in self._wait():
            # An earlier callback may have removed this one.
            if events & ~_WRITE and (reader := readers.get(descriptor)) is not None:
                reader()
            if events & (_WRITE | _FAILED) and (writer := writers.get(descriptor)) is not None:
                writer()
