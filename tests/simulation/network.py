"""The network: what the broker wants done takes time, and what comes of it comes later or never.

Each connection keeps its order in both directions. It may be reset, with or without what is on its way; it may be a
black hole for a while, in which the broker's socket takes what is sent, or is full; its server may end it with an
error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from model.lines import Line
from model.postgres import Order

from client.wire.messages import FAILED, TX_NONE, Failure
from poold.core.effects import Flush
from poold.core.facts import Completion, Server, StatementResult
from poold.core.pools.watch import LOOK_AFTER
from poold.core.records.backend import Backend
from poold.core.records.request import Verb
from poold.core.state import RequestState
from simulation.copying import TravellingCopies
from simulation.fleet import Member
from simulation.servers import Process
from simulation.turns import Turns

if TYPE_CHECKING:
    from simulation.world import World

FATAL = Failure(0, TX_NONE, "connection", FAILED, "terminating connection", "57P01", {"severity": "FATAL"})
VERSION = 160000
# A wait for a lock is looked for every 0.05 s, asked for on a backend that is to be free within 0.25 s, and ended one
# after the other; the network comes in addition.
BLOCKED_FOR = 1.0


@dataclass(eq=False)
class Wire(Line):
    """A connection and what is on its way in it."""

    network: Network | None = None
    process: Process | None = None  # from when the server has accepted it
    # No message comes before the one sent before it.
    there_at: float = 0.0
    here_at: float = 0.0
    # Answers on their way, with their units.
    coming: deque[tuple[Order, Completion]] = field(default_factory=deque)
    is_stuck: bool = False
    is_full: bool = False  # stuck, and its socket takes nothing more
    held: list[tuple[Any, ...]] = field(default_factory=list)  # events that happen when it is not stuck any more
    is_reset: bool = False  # nothing comes any more but the end
    # Of a process that was ended: the unit it was at, with the results until then; and whether it said so.
    left: tuple[Order, list[StatementResult]] | None = None
    # Since when others wait behind a statement that waits for a lock, None where they do not.
    blocked_from: float | None = None
    has_last_words: bool = False

    def answer(self, order: Order, done: Completion) -> None:
        """The server has ended a unit."""
        assert self.network is not None
        self.network.answer(self, order, done)


class Network(Turns):
    """The connections of the simulated world."""

    line_type = Wire
    copies_type = TravellingCopies
    lines: dict[int, Wire]  # type: ignore[assignment]  # all of them are made by line_type

    def __init__(self, world: World) -> None:
        super().__init__(world)
        # Is told of each COMMIT that is sent or done, until it strikes.
        self.ambush: Callable[[Wire, bool], None] | None = None
        # Is told of each backend that runs several statements, once.
        self.spoiler: Callable[[Backend], None] | None = None

    # What the shell does.

    def _latency(self) -> float:
        return self.sim.scenario.latency * (0.5 + self.sim.random.random())

    def _connect(self, line: Line) -> None:
        super()._connect(line)
        line.network = self  # type: ignore[attr-defined]  # a Wire
        self.sim.at(self.sim.now + self._latency(), self._come_to_server, line)

    def _send(self, line: Line, order: Order) -> None:
        assert isinstance(line, Wire)
        order.is_written = True
        if not line.is_full:
            order.is_sent = True
            self._go_there(line, order)
            self._tell_waylayers(line, is_done=False)

    def _tell_waylayers(self, wire: Wire, is_done: bool) -> None:
        backend = self.broker.backends.get(wire.number)
        if backend is None or not (backend.running or backend.flights) or wire.is_reset:
            return
        if self.spoiler is not None and max(len(backend.running), len(backend.flights)) > 1 and not is_done:
            spoiler, self.spoiler = self.spoiler, None
            spoiler(backend)
        if self.ambush is not None and _commits(backend):
            self.ambush(wire, is_done)

    def _go_there(self, wire: Wire, order: Order) -> None:
        assert wire.process is not None
        self._travel(wire, False, wire.process.take, order)

    def commits_for(self, wire: Wire) -> int:
        """The client whose COMMIT runs there."""
        backend = self.broker.backends[wire.number]
        first = next(iter((*backend.running, *backend.flights)), None)
        return 0 if first is None else first.client.key

    def _cancel(self, line: Line) -> None:
        assert isinstance(line, Wire)
        super()._cancel(line)
        world = self.sim
        slow = world.random.choice((0.0, 0.0, 0.0, 0.02, 1.0, 8.0))
        world.at(world.now + self._latency() + slow * world.random.random(), self._cancel_comes, line)

    def _reply(self, client: int, body: Any) -> None:
        self.sim.clients.deliver(client, body)

    def _drop(self, client: int) -> None:
        self.sim.clients.drop(client)

    def _stop(self) -> None:
        super()._stop()
        self.sim.is_stopped = True

    def close_all(self) -> None:
        """The broker's process has ended, its connections with it."""
        for wire in list(self.lines.values()):
            self._end(wire)

    def _end(self, line: Line) -> None:
        assert isinstance(line, Wire)
        del self.lines[line.number]
        process = line.process
        if process is not None and not process.is_gone:
            world = self.sim
            # A server that can be reached hears of it; else its own keepalives tell, a good while later.
            delay = world.random.uniform(5.0, 30.0) if line.is_stuck else self._latency()
            world.at(max(world.now + delay, line.there_at), process.cut)
        line.held.clear()

    def _travel(self, wire: Wire, is_here: bool, event: Callable[..., str | None], *args: Any) -> None:
        """Let the event happen when what was sent has come; is_here: to the broker."""
        if wire.is_stuck:
            wire.held.append((is_here, event, *args))
            return
        world = self.sim
        when = world.now + self._latency()
        if is_here:
            wire.here_at = when = max(when, wire.here_at)
            world.tell_at(when, event, *args)
        else:
            wire.there_at = when = max(when, wire.there_at)
            world.at(when, event, *args)

    # Connecting.

    def _come_to_server(self, wire: Wire) -> str | None:
        if wire.number not in self.lines:
            return None
        world = self.sim
        server = world.servers[wire.endpoint]
        until = max(server.unreachable_until, server.frozen_until)
        if until > world.now:
            world.at(until + self._latency(), self._come_to_server, wire)
            return f"connect {wire.number} hangs"
        is_refused = not server.is_up or world.random.random() < world.scenario.refused
        if is_refused and not world.is_calm:
            world.tell_at(world.now + self._latency(), self._refused, wire)
            return f"connect {wire.number} is refused"
        wire.process = server.accept(wire)
        slow = world.random.choice((0.0, 0.0, 0.0, 0.1, 4.0))
        wire.here_at = world.now + self._latency() + (0.0 if world.is_calm else slow * world.random.random())
        world.tell_at(wire.here_at, self._accepted, wire, self._server(wire))
        return f"connect {wire.number} is accepted"

    def _server(self, wire: Wire) -> Server:
        member = self.sim.servers[wire.endpoint]
        is_told = isinstance(member, Member) and self.sim.scenario.has_identity
        is_standby = member.is_standby if is_told and isinstance(member, Member) else None
        return Server(VERSION, *self._identity(wire), pid=wire.number, is_standby=is_standby)

    def _identity(self, wire: Wire) -> tuple[str, str]:
        server = self.sim.servers[wire.endpoint]
        return (server.cluster.identity, str(server.epoch)) if self.sim.scenario.has_identity else ("", "")

    def _looks(self, line: Line) -> None:
        """The answer comes by another connection, or there is none."""
        super()._looks(line)
        server = self.sim.servers[line.endpoint]
        if server.is_up and max(server.unreachable_until, server.frozen_until) <= self.sim.now:
            self.sim.tell_at(self.sim.now + 2 * self._latency(), self._looked, line)

    def _looked(self, line: Line) -> str | None:
        if line.number not in self.lines or line.is_closed:
            return None
        is_at_work = not self.sim.is_calm and self.sim.random.random() < 0.5
        self.about(line.number, self.broker.looked, is_at_work, self.sim.now)
        return f"looked for {line.number}"

    def _refused(self, wire: Wire) -> str | None:
        if wire.number not in self.lines or wire.is_reset:
            return None
        self.touched.append(wire.number)
        self.connect_failed(wire.number)
        return f"refused {wire.number}"

    def _accepted(self, wire: Wire, server: Server) -> str | None:
        if wire.number not in self.lines or wire.is_reset:
            return None
        wire.session = wire.process
        if wire.number in self.broker.backends:
            self.roles.opened(wire.endpoint, server.is_standby)
        self.about(wire.number, self.broker.opened, self.sim.now, server)
        return f"opened {wire.number}"

    def connect_failed(self, number: int) -> None:
        """The core is told that the connection could not be opened."""
        process = self.lines[number].process
        if process is not None:
            self.sim.at(self.sim.now + self._latency(), process.cut)
        super().connect_failed(number)

    # Units and their answers.

    def answer(self, wire: Wire, order: Order, done: Completion) -> None:
        """The server has ended a unit, and says so."""
        wire.coming.append((order, done))
        self._travel(wire, True, self._completed, wire)
        if done.failure is None:
            self._tell_waylayers(wire, is_done=True)

    def _completed(self, wire: Wire) -> str | None:
        if wire.number not in self.lines or wire.is_reset:
            return None
        order, done = wire.coming.popleft()
        assert order is wire.orders[0]
        assert wire.session is not None
        self.touched.append(wire.number)
        self.tell_completed(wire, wire.session, order, done)
        return f"completed {wire.number} {done.transaction} {done.failure.sqlstate if done.failure else ''}"

    # Cancels.

    def _cancel_comes(self, wire: Wire) -> str | None:
        world = self.sim
        server = world.servers[wire.endpoint]
        until = max(server.unreachable_until, server.frozen_until)
        if until > world.now:
            world.at(until + self._latency(), self._cancel_comes, wire)
            return None
        if self._is_neighbour_next(wire) and world.random.random() < 0.5:
            world.at(wire.process.ends_at, self._cancel_comes, wire)  # type: ignore[union-attr]  # it is at work
            return f"cancel of {wire.number} dawdles"
        hits = False
        if server.is_up and wire.process is not None and wire.cancel == "sent" and world.random.random() < 0.95:
            hits = wire.process.interrupt()
            wire.cancel = "spent"
        world.tell_at(world.now + self._latency(), self._cancel_settled, wire)
        world.tally["cancel hits" if hits else "cancel misses"] += 1
        return f"cancel {'hits' if hits else 'misses'} {wire.number}"

    def _is_neighbour_next(self, wire: Wire) -> bool:
        """Whether what the cancel is meant for ends soon, and another statement follows."""
        process, now = wire.process, self.sim.now
        if process is None or not process.is_busy or len(wire.orders) < 2 or wire.orders[0].is_exposed:
            return False
        return process.queue[0] is wire.orders[0] and now < process.ends_at < now + 1.0

    def _cancel_settled(self, wire: Wire) -> str | None:
        if wire.number in self.lines:
            self.touched.append(wire.number)
            self.settled(wire.number)
        else:
            self.about(wire.number, self.broker.cancelled, self.sim.now)
        return f"cancelled {wire.number}"

    # Ends.

    def check_blocked(self, is_awake: bool) -> None:
        """Nobody waits for long behind a statement that waits for a lock, where the broker and the server can act."""
        for wire in self.lines.values():
            if not self._keeps_waiting(wire) or not self._is_blocked(wire) or not is_awake:
                wire.blocked_from = None
            elif wire.blocked_from is None:
                wire.blocked_from = self.sim.now
            else:
                seconds = self.sim.now - wire.blocked_from
                limit = BLOCKED_FOR * self._patience(wire) + 10 * self.sim.scenario.latency
                assert seconds < limit, f"{len(wire.orders) - 1} wait behind a lock on {wire.number}"

    def _keeps_waiting(self, wire: Wire) -> bool:
        """Whether others wait for what runs there: behind it, or for a backend where it is a short plain read."""
        if len(wire.orders) > 1:
            return True
        backend = self.broker.backends.get(wire.number)
        if backend is None or not backend.running or not backend.group.queue.size:
            return False
        request = backend.running[0]
        is_read = request.verb is Verb.QUERY and request.lease is None and request.state is RequestState.RUNNING
        statement = request.statement
        return is_read and statement is not None and statement.proof.is_plain_read and statement.expected < LOOK_AFTER

    def _patience(self, wire: Wire) -> int:
        """How many times as long as others the first there may keep them waiting, as it has gone behind them before."""
        backend = self.broker.backends.get(wire.number)
        is_alone = backend is not None and len(backend.running) == 1
        return 2 ** backend.running[0].yields if is_alone and backend is not None else 1

    def stood_still(self) -> None:
        """So did all processes: nobody could act."""
        for wire in self.lines.values():
            wire.blocked_from = None

    def _is_blocked(self, wire: Wire) -> bool:
        process, server = wire.process, self.sim.servers[wire.endpoint]
        is_waiting = process is not None and process.waits and process.queue[0] is wire.orders[0]
        is_clean = not (wire.is_stuck or wire.is_reset or wire.coming or wire.cancel or wire.is_closed)
        until = max(server.unreachable_until, server.frozen_until)
        return is_waiting and is_clean and server.is_up and until <= self.sim.now

    def reset(self, wire: Wire) -> None:
        """The connection is torn down; what is on its way to the broker is lost."""
        wire.is_reset = True
        self.sim.tell_at(self.sim.now + self._latency(), self._lost, wire)

    def terminate(self, wire: Wire, has_words: bool) -> None:
        """The server's process ends; what it has sent comes, its last words among it where it has any."""
        process = wire.process
        assert process is not None
        if process.queue:
            wire.left = process.queue[0], list(process.done.results)
        process.end()
        wire.has_last_words = has_words
        self._travel(wire, True, self._lost, wire)

    def _lost(self, wire: Wire) -> str | None:
        """The broker sees the end of the connection."""
        if wire.number not in self.lines:
            return None
        if wire.session is None:
            self.touched.append(wire.number)
            self.connect_failed(wire.number)
            return f"lost {wire.number} while it was being opened"
        partial, last = self._seen_of(wire)
        self.touched.append(wire.number)  # is gone, but the groups are to be looked at
        self.tell_lost(wire, partial, last)
        return f"lost {wire.number} {len(partial)} {last is not None}"

    def _seen_of(self, wire: Wire) -> tuple[list[StatementResult], Failure | None]:
        """The results of the first unit that have come, and the error that ended it."""
        if not wire.orders or not wire.orders[0].is_sent:
            return [], None
        process = wire.process
        assert process is not None
        results: list[StatementResult] = []
        if wire.has_last_words and not wire.is_reset:
            return (wire.left[1] if wire.left is not None and wire.left[0] is wire.orders[0] else []), FATAL
        if wire.coming:
            results = wire.coming[0][1].results
        elif wire.left is not None and wire.left[0] is wire.orders[0]:
            results = wire.left[1]
        elif process.queue and process.queue[0] is wire.orders[0]:
            results = process.done.results
        # What the server was to send ahead of the rest has come, if anything has.
        ahead = next((at for at, command in enumerate(wire.orders[0].unit) if type(command) is Flush), 0)
        least = min(ahead, len(results)) if self.sim.random.random() < 0.7 else 0
        return results[: self.sim.random.randint(least, len(results))], None

    # Black holes.

    def stick(self, wire: Wire, seconds: float, is_full: bool, heals: bool) -> None:
        """Nothing comes through any more, for a while; then all of it does, or the connection is reset."""
        wire.is_stuck, wire.is_full = True, is_full
        self.sim.tell_at(self.sim.now + seconds, self.unstick, wire, heals)

    def unstick(self, wire: Wire, heals: bool) -> str | None:
        """What was held comes, unless the connection is reset."""
        if wire.number not in self.lines or not wire.is_stuck:
            return None
        wire.is_stuck = wire.is_full = False
        held, wire.held = wire.held, []
        if not heals or (wire.process is not None and wire.process.is_gone):
            self.reset(wire)
            return f"{wire.number} was a black hole and is reset"
        for is_here, event, *args in held:
            self._travel(wire, is_here, event, *args)
        if wire.process is not None:
            for order in wire.orders:
                if order.is_written and not order.is_sent:
                    order.is_sent = True
                    self._go_there(wire, order)
        return f"{wire.number} was a black hole and is none"


def _commits(backend: Backend) -> bool:
    """Whether a COMMIT was sent with the first that runs there, the lane's or the core's."""
    if backend.flights:
        return backend.flights[0].flow.plan is not None
    request = backend.running[0]
    return request.verb is Verb.COMMIT or (request.script is not None and request.script.commit_sent)
