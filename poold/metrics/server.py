"""Serves `GET /metrics` on a TCP socket, in the broker's own loop and without hurting the broker.

Whoever can reach the address is a stranger. So there are few connections, each with little memory and a deadline for
whatever it is to do next; one that idles makes room for one that comes. A page is made in slices, with the broker's
turns in between, once for all that wait for it. What all of this takes of the broker's time has a limit
(`poold.metrics.budget`): beyond it nothing is accepted or read for a while, and the kernel lets the others wait.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterator
from time import monotonic, time

from poold.metrics.budget import Budget
from poold.metrics.connection import Connection, State, Watch
from poold.metrics.exposition import Format
from poold.system.poller import Poller
from poold.system.tcp_listener import listening_socket

log = logging.getLogger(__name__)

# A handful of collectors, and people who look.
MAX_CONNECTIONS = 16
# How long the broker's turns may wait for a part of a page, in seconds.
SLICE = 0.0005
# How long the broker's end may wait for the last answers, in seconds.
LAST_ANSWERS = 1.0
# How often deadlines are looked at, in seconds.
LOOK = 0.5
# How long to wait before accepting again after that was not possible, as no descriptor was left.
ACCEPT_AGAIN = 0.5

# Makes a page, part by part.
Page = Callable[[Format], Iterator[str]]


def metrics_socket(address: str | None, inherited: int) -> socket.socket | None:
    """Return the socket that listens at metrics_address, None if there is none.

    inherited is the descriptor of one that the broker before this one has left, -1 if it has not. Raises OSError with
    what is wrong, and what to do.
    """
    if address is not None:
        return listening_socket("metrics_address", address, inherited)
    if inherited >= 0:
        os.close(inherited)
    return None


class MetricsServer:
    """The listening socket, its connections, and the page that is being made."""

    def __init__(self, listener: socket.socket | None, poller: Poller, page: Page) -> None:
        """Serve nobody yet. listener is this object's to close; without one nobody is ever served."""
        self._listener = listener
        self._poller = poller
        self._page = page
        self._loop = asyncio.get_running_loop()
        self._budget = Budget(monotonic())
        # All that are open, the one that was last answered first: enter by `_accept`, leave by `_drop`.
        self._connections: dict[int, Connection] = {}
        # Those that wait for their page to begin, in the order of their requests, and then those whose page is made.
        self._waiting: list[Connection] = []
        self._served: list[Connection] = []
        # The page: its parts so far, and what makes the others; None if nobody wants one.
        self._parts: list[str] = []
        self._maker: Iterator[str] | None = None
        self._is_listening = False  # whether the listener is watched
        self._is_leaving = False  # whether nobody else is accepted any more
        self._failures = 0  # how often in a row nobody could be accepted; the first of them is logged
        self._ended: asyncio.Future[None] | None = None  # whoever waits for the last connection to end
        self._is_resting = False  # whether the budget is used up
        self._postponed: list[Callable[[], None]] = []  # what was to be done meanwhile
        # The next of `_look`, `_resume` and `_listen`.
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}

    @property
    def descriptor(self) -> int:
        """The descriptor of the listening socket; -1 if there is none."""
        return -1 if self._listener is None else self._listener.fileno()

    def start(self) -> None:
        """Serve whoever connects, from here on."""
        self._listen()

    def leave(self) -> None:
        """Leave the listening socket to another process; answer whoever has connected once more, if he asks."""
        if self._is_leaving:
            return
        self._stop_listening()
        for connection in list(self._connections.values()):
            connection.is_last = True
            if connection.is_idle:
                self._read(connection)  # its next request may be there
                if connection in self._connections.values() and connection.is_idle:
                    self._drop(connection)

    async def finish(self) -> None:
        """Leave, and wait until all have their answers, but not for long."""
        self.leave()
        if self._connections:
            self._ended = self._loop.create_future()
            await asyncio.wait([self._ended], timeout=LAST_ANSWERS)

    def close(self) -> None:
        """Close everything."""
        self._stop_listening()
        for connection in list(self._connections.values()):
            self._drop(connection)
        for timer in self._timers.values():
            timer.cancel()

    # Accepting.

    def _stop_listening(self) -> None:
        self._is_leaving = True
        self._unlisten()
        if self._listener is not None:
            self._listener.close()

    def _listen(self) -> None:
        if not (self._listener is None or self._is_listening or self._is_leaving or self._is_resting):
            self._is_listening = True
            self._poller.add_reader(self.descriptor, self._counted(self._accept))

    def _unlisten(self) -> None:
        if self._is_listening:
            self._is_listening = False
            self._poller.remove_reader(self.descriptor)

    def _accept(self) -> None:
        """Accept one connection. If there is no room, the one that has done nothing for longest makes some."""
        if len(self._connections) >= MAX_CONNECTIONS:
            idle = next((each for each in self._connections.values() if each.state is not State.WAITING), None)
            if idle is None:
                self._unlisten()  # until their page is made
                return
            self._drop(idle)
        assert self._listener is not None
        try:
            accepted, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # No descriptor or no memory is left; or only this connection has failed, which is rare enough.
            if not self._failures:
                log.warning("metrics not served error=%s", error.strerror)
            self._failures += 1
            self._unlisten()
            self._later(ACCEPT_AGAIN, self._listen)
            return
        if self._failures:
            log.warning("metrics are served again failures=%d", self._failures)
            self._failures = 0
        accepted.setblocking(False)
        connection = Connection(accepted, monotonic())
        self._connections[connection.descriptor] = connection
        self._watch(connection)
        self._later(LOOK, self._look)

    # Connections.

    def _watch(self, connection: Connection) -> None:
        """Watch for what the connection's state wants, and for nothing else."""
        descriptor = connection.descriptor
        wanted = Watch.NOTHING if self._is_resting else connection.wants
        if wanted is connection.watched:
            return
        self._poller.remove_reader(descriptor)
        self._poller.remove_writer(descriptor)
        connection.watched = wanted
        if wanted is Watch.WRITE:
            self._poller.add_writer(descriptor, self._counted(lambda: self._send(connection)))
        elif wanted is Watch.READ:
            self._poller.add_reader(descriptor, self._counted(lambda: self._read(connection)))

    def _read(self, connection: Connection) -> None:
        """Take what has come."""
        try:
            is_open = connection.receive(monotonic())
        except BlockingIOError:
            return
        except OSError:
            is_open = False
        # Who has ended his side may still wait for the answer to what he has sent.
        if not self._look_for_request(connection) and not is_open:
            self._drop(connection)

    def _look_for_request(self, connection: Connection) -> bool:
        """Answer a request that is whole, or let it wait for its page. Returns whether there was one."""
        if not connection.find_request():
            return False
        if connection.state is State.WAITING:
            self._watch(connection)
            self._waiting.append(connection)
            if self._maker is None:
                self._begin_page()
        else:
            self._answer(connection, b"")
        return True

    def _answer(self, connection: Connection, page: bytes) -> None:
        connection.answer(page, monotonic(), time())
        self._send(connection)

    def _send(self, connection: Connection) -> None:
        """Send on; then there may be another request, or the connection ends."""
        try:
            connection.send(monotonic())
        except OSError:
            self._drop(connection)
            return
        if connection.state is not State.WRITING:  # it has been answered, so it is the last one to make room for others
            self._connections[connection.descriptor] = self._connections.pop(connection.descriptor)
        self._watch(connection)
        if connection.state is State.READING and connection.has_more:
            # Others have their turn before the request behind the last one.
            self._loop.call_soon(self._counted(lambda: self._go_on(connection)))

    def _go_on(self, connection: Connection) -> None:
        if self._connections.get(connection.descriptor) is connection:
            self._look_for_request(connection)

    def _drop(self, connection: Connection) -> None:
        """Close the connection."""
        del self._connections[connection.descriptor]
        self._poller.remove_reader(connection.descriptor)
        self._poller.remove_writer(connection.descriptor)
        connection.close()
        for those in (self._waiting, self._served):
            if connection in those:
                those.remove(connection)
        if self._ended is not None and not self._connections and not self._ended.done():
            self._ended.set_result(None)

    # Pages.

    def _begin_page(self) -> None:
        """Begin the page of whoever waits first, and of all that want the same."""
        wanted = self._waiting[0].wanted
        self._served = [each for each in self._waiting if each.wanted is wanted]
        self._waiting = [each for each in self._waiting if each.wanted is not wanted]
        self._maker, self._parts = self._page(wanted), []
        self._loop.call_soon(self._counted(self._make))

    def _make(self) -> None:
        """Make a slice of the page; send it if it was the last one."""
        until = monotonic() + SLICE
        assert self._maker is not None
        while monotonic() < until:
            part = next(self._maker, None)
            if part is None:
                self._end_page()
                return
            self._parts.append(part)
        self._loop.call_soon(self._counted(self._make))

    def _end_page(self) -> None:
        page = "".join(self._parts).encode()
        served, self._served, self._parts, self._maker = self._served, [], [], None
        for connection in served:
            self._answer(connection, page)
        if self._waiting:
            self._begin_page()
        self._listen()

    # Time.

    def _counted(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return the work as a callback whose time is counted; it comes later while the server rests."""

        def counted() -> None:
            if self._is_resting:
                self._postponed.append(counted)
                return
            began = monotonic()
            work()
            ended = monotonic()
            self._budget.use(ended - began, ended)
            rest = self._budget.rest(ended)
            if rest and not self._is_resting:
                self._rest(rest)

        return counted

    def _rest(self, seconds: float) -> None:
        """Do nothing for so long."""
        self._unlisten()
        self._is_resting = True
        for connection in self._connections.values():
            self._watch(connection)
        self._later(seconds, self._resume)

    def _resume(self) -> None:
        self._is_resting = False
        for connection in self._connections.values():
            self._watch(connection)
        self._listen()
        postponed, self._postponed = self._postponed, []
        for work in postponed:
            self._loop.call_soon(work)

    def _look(self) -> None:
        """Drop connections that take too long."""
        now = monotonic()
        for connection in list(self._connections.values()):
            if connection.deadline < now:
                self._drop(connection)
        if self._connections:
            self._later(LOOK, self._look)

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        """Call what after so many seconds, if that is not to come already."""
        if what not in self._timers:
            self._timers[what] = self._loop.call_later(seconds, self._due, what)

    def _due(self, what: Callable[[], None]) -> None:
        del self._timers[what]
        what()
