"""A network that fails when the test says so: a TCP proxy between a broker and its PostgreSQL.

It runs in a thread of the test. What the test wants is carried out by that thread between two waits, so when a method
returns it has happened. Each wish holds for the connections that there are, or for a share of them, and where it is a
toxic also for those that come until `heal`.

What `heal` cannot mend: a connection that has lost a byte in a black hole. It stays as it is until one of its ends
goes; then, or where one is gone already, the other is broken off, as the first packet over a mended network would do.
"""

import contextlib
import random
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Protocol, Self

from flows import BOTH, CHUNK, HEALTHY, Aborted, Direction, Flow, Severed, Toxic, break_off

# How long the server may take to be connected to: its kernel answers, whatever its processes do.
CONNECT_TIMEOUT = 5.0
# What the thread may take to carry a wish out.
SETTLE_TIMEOUT = 10.0


class Target(Protocol):
    """Where connections go: a server's host and port."""

    @property
    def parameters(self) -> dict[str, Any]: ...


class Pair:
    """A connection: two flows between two ends."""

    def __init__(self, broker: socket.socket, server: socket.socket) -> None:
        self.ends = broker, server
        self.flows = {
            Direction.TO_SERVER: Flow(Direction.TO_SERVER, broker, server),
            Direction.TO_BROKER: Flow(Direction.TO_BROKER, server, broker),
        }
        # A slow close: one end was told of the end, the other learns of nothing until `heal`.
        self.lingers = False
        # What the thread waits for at each end; 0 where for nothing.
        self.watched: dict[socket.socket, int] = {}

    @property
    def is_over(self) -> bool:
        return all(flow.is_over for flow in self.flows.values())

    @property
    def is_busy(self) -> bool:
        return any(flow.held or flow.has_ended for flow in self.flows.values())

    @property
    def is_beyond_help(self) -> bool:
        """Whether one end is gone and the other cannot be told in good order."""
        flows = self.flows.values()
        return self.lingers or (any(flow.has_lost for flow in flows) and any(flow.has_ended for flow in flows))


class Proxy:
    """Passes on what goes between the broker and the server, as well as the test allows."""

    def __init__(self, server: Target, chance: random.Random | None = None) -> None:
        """chance decides which connections a share is."""
        self.target = server
        self.answered = 0  # bytes passed on from the server
        self.sends = 0  # how often something was sent to either end
        self._chance = chance or random.Random(0)
        # Keeps the port while nobody listens, and never listens itself.
        self._place = _bound(0)
        self._listener: socket.socket | None = None
        self._pairs: dict[socket.socket, Pair] = {}  # by each of their ends
        # What new connections get, and how many of them.
        self._toxics = dict.fromkeys(BOTH, HEALTHY)
        self._share = 1.0
        self._is_ending = False
        self._wishes: SimpleQueue[tuple[Callable[[], None], Future[None]]] = SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._listen()

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of the server, by way of the proxy."""
        port = self._place.getsockname()[1]
        return {**self.target.parameters, "host": "127.0.0.1", "port": port, "sslmode": "disable"}

    @property
    def connections(self) -> int:
        """Those of which the proxy still has an end."""
        return len(self._pairs) // 2

    @property
    def lossy(self) -> int:
        """Connections that have lost a byte, and never pass another."""
        pairs = set(self._pairs.values())
        return sum(1 for pair in pairs if any(flow.has_lost for flow in pair.flows.values()))

    # What a test may wish.

    def infect(self, toxic: Toxic, *directions: Direction, share: float = 1.0) -> None:
        """Let connections suffer in these directions, or in both, until `heal`."""
        self._wish(lambda: self._infect(toxic, directions or BOTH, share))

    def hold(self) -> None:
        """Keep what the server answers from now on."""
        self.infect(Toxic(holds=True), Direction.TO_BROKER)

    def heal(self) -> None:
        """Let everything through again that can be."""
        self._wish(self._heal)

    def cut(self, target: Target | None = None) -> None:
        """End all connections and heal; new ones go through, to another server where one is given."""
        self.target = target or self.target
        self._wish(self._cut)

    def reset(self, share: float = 1.0) -> None:
        """Break connections off: both ends get RST."""

        def break_some_off() -> None:
            for pair in self._some(share):
                self._close(pair, break_off)

        self._wish(break_some_off)

    def sever(self, kinds: bytes, share: float = 1.0) -> None:
        """End each connection in the middle of the next message of these kinds (b"D": a row) from the server."""

        def arm() -> None:
            for pair in self._some(share):
                pair.flows[Direction.TO_BROKER].severs = kinds

        self._wish(arm)

    def slow_close(self, direction: Direction, share: float = 1.0) -> None:
        """Tell the end in this direction that the connection has ended; the other learns of nothing until `heal`."""

        def close_slowly() -> None:
            for pair in self._some(share):
                if not pair.lingers:
                    pair.lingers = True
                    for each, flow in pair.flows.items():
                        if each is direction:
                            flow.drop()
                            flow.finish()
                        else:
                            flow.toxic = Toxic(holds=True)
                    self._watch(pair)

        self._wish(close_slowly)

    def down(self) -> None:
        """Refuse new connections."""
        self._wish(self._stop_listening)

    def up(self) -> None:
        """Take new connections again."""
        self._wish(self._listen)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_ending = True
        self._waker.send(b"!")
        self._thread.join()
        for pair in set(self._pairs.values()):
            self._close(pair)
        self._stop_listening()
        self._selector.close()
        for each in (self._place, self._wake, self._waker):
            each.close()

    def _wish(self, action: Callable[[], Any]) -> None:
        done: Future[None] = Future()
        self._wishes.put((action, done))
        self._waker.send(b"!")
        done.result(SETTLE_TIMEOUT)  # a TimeoutError here: the thread has ended

    # The thread.

    def _run(self) -> None:
        while True:
            for key, mask in self._selector.select(self._patience()):
                if key.fileobj is self._wake:
                    self._wake.recv(CHUNK)
                elif key.fileobj is self._listener:
                    self._accept(self._listener)
                elif (pair := self._pairs.get(key.fileobj)) is not None:  # type: ignore[call-overload]  # sockets only
                    self._ready(pair, key.fileobj, mask)  # type: ignore[arg-type]  # sockets only
            if self._is_ending:
                return
            while not self._wishes.empty():
                self._carry_out(*self._wishes.get())
            for pair in [each for each in set(self._pairs.values()) if each.is_busy]:
                self._pass_on(pair)

    def _patience(self) -> float | None:
        """How long until something held may go on."""
        times = [flow.due for pair in self._pairs.values() for flow in pair.flows.values()]
        due = min((time for time in times if time is not None), default=None)
        return None if due is None else max(0.0, due - time.monotonic())

    def _carry_out(self, action: Callable[[], None], done: Future[None]) -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001  it is the test's to see
            done.set_exception(error)
        else:
            done.set_result(None)

    def _accept(self, listener: socket.socket) -> None:
        broker, _ = listener.accept()
        host, port = str(self.target.parameters["host"]), self.target.parameters["port"]
        try:
            server = socket.create_connection(("127.0.0.1" if host.startswith("/") else host, port), CONNECT_TIMEOUT)
        except OSError:
            break_off(broker)
            return
        for end in (broker, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = Pair(broker, server)
        if self._chance.random() < self._share:
            for direction, toxic in self._toxics.items():
                pair.flows[direction].toxic = toxic
        for end in pair.ends:
            self._pairs[end] = pair
        self._watch(pair)

    def _ready(self, pair: Pair, end: socket.socket, mask: int) -> None:
        for flow in pair.flows.values():
            if mask & selectors.EVENT_WRITE and flow.sink is end:
                flow.is_blocked = False
            elif mask & selectors.EVENT_READ and flow.source is end and flow.wants_input:
                try:
                    flow.take_in(time.monotonic())
                except Aborted:
                    self._close(pair, break_off)
                    return
        self._watch(pair)

    def _pass_on(self, pair: Pair) -> None:
        now = time.monotonic()
        for direction, flow in pair.flows.items():
            before = flow.sends
            try:
                passed = flow.pass_on(now)
            except Severed:
                self._close(pair)
                return
            except Aborted:
                self._close(pair, break_off)
                return
            self.sends += flow.sends - before
            if direction is Direction.TO_BROKER:
                self.answered += passed
        if pair.is_over:
            self._close(pair)
        elif pair.is_beyond_help and not pair.lingers and all(each is HEALTHY for each in self._toxics.values()):
            self._close(pair, break_off)
        else:
            self._watch(pair)

    def _watch(self, pair: Pair) -> None:
        """Look at each end for what its flows want."""
        for end in pair.ends:
            events = 0
            for flow in pair.flows.values():
                if flow.source is end and flow.wants_input:
                    events |= selectors.EVENT_READ
                if flow.sink is end and flow.is_blocked:
                    events |= selectors.EVENT_WRITE
            known = pair.watched.get(end, 0)
            if events == known:
                continue
            if not known:
                self._selector.register(end, events)
            elif not events:
                self._selector.unregister(end)
            else:
                self._selector.modify(end, events)
            pair.watched[end] = events

    def _close(self, pair: Pair, how: Callable[[socket.socket], None] | None = None) -> None:
        for end in pair.ends:
            if self._pairs.pop(end, None) is not None:
                if pair.watched.pop(end, 0):
                    self._selector.unregister(end)
                (how or _end)(end)

    # Wishes, in the thread.

    def _some(self, share: float) -> Iterable[Pair]:
        return [pair for pair in dict.fromkeys(self._pairs.values()) if self._chance.random() < share]

    def _infect(self, toxic: Toxic, directions: Iterable[Direction], share: float) -> None:
        self._share = share
        for direction in directions:
            self._toxics[direction] = toxic
        for pair in self._some(share):
            for direction in directions:
                pair.flows[direction].toxic = toxic

    def _heal(self) -> None:
        self._toxics = dict.fromkeys(BOTH, HEALTHY)
        self._share = 1.0
        for pair in set(self._pairs.values()):
            if pair.is_beyond_help:
                self._close(pair, break_off)
                continue
            for flow in pair.flows.values():
                flow.toxic = HEALTHY
                flow.severs = b""

    def _cut(self) -> None:
        for pair in set(self._pairs.values()):
            self._close(pair)
        self._heal()

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = _bound(self._place.getsockname()[1])
            self._listener.listen(128)
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None


def _bound(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made


def _end(end: socket.socket) -> None:
    """Close it in good order."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
