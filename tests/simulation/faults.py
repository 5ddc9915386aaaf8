"""What goes wrong, at any moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from client.wire.messages import TX_NONE
from poold.core.facts import Completion, Loss
from poold.core.records.backend import Backend
from poold.core.state import BackendState as S

if TYPE_CHECKING:
    from simulation.asking import Client
    from simulation.network import Wire
    from simulation.servers import Server
    from simulation.world import World

_RARE = (S.CANCELLING, S.SETTLING, S.RESETTING, S.LEASED)


class Faults:
    """The kinds of faults, and their strikes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._kinds: tuple[Callable[[], str | None], ...] = (
            *(self._reset,) * 6,
            *(self._terminate,) * 4,
            *(self._commit_is_lost,) * 8,
            *(self._black_hole,) * 3,
            *(self._company_is_cancelled,) * 3,
            *(self._client_vanishes,) * 4,
            *(self._client_forks,) * 2,
            *(self._client_reads_nothing,) * 4,
            *(self._clock_jumps,) * 2,
            *(self._broker_is_suspended,) * 2,
            *(self._server_crashes,) * 1,
            *(self._server_shuts_down,) * 1,
            *(self._server_fails_over,) * 1,
            *(self._server_freezes,) * 1,
            *(self._server_is_unreachable,) * 1,
            *(self._names_are_forgotten,) * 1,
            *(self._schema_is_changed,) * 2,
            *(self._facts_come_late,) * 2,
        )

    def strike(self) -> str | None:
        """One of them, where it can; a line about it."""
        random, favourite = self._world.random, self._world.scenario.favourite
        if favourite and random.random() < 0.5:
            kind = next(each for each in self._kinds if _name(each) == favourite)
        else:
            kind = random.choice(self._kinds)
        text = kind()
        if text is not None:
            self._world.tally[_name(kind)] += 1
        return text

    # Connections.

    def _some_wire(self) -> Wire | None:
        """One that is open or being opened; those in rare states more often."""
        world = self._world
        lines = {number: line for number, line in world.network.lines.items() if line.is_opening}
        if not lines:
            return None
        if world.random.random() < 0.4:
            rare = [number for number, each in world.broker.backends.items() if each.state in _RARE]
            rare = [number for number in rare if number in lines]
            rare += [number for number, line in lines.items() if line.session is None]
            if rare:
                return lines[world.random.choice(rare)]
        return lines[world.random.choice(list(lines))]

    def _reset(self) -> str | None:
        wire = self._some_wire()
        if wire is None or wire.is_reset:
            return None
        self._world.network.reset(wire)
        return f"reset {wire.number}"

    def _terminate(self) -> str | None:
        wire = self._some_wire()
        if wire is None or wire.is_reset or wire.process is None or wire.process.is_gone:
            return None
        has_words = self._world.random.random() < 0.7
        self._world.network.terminate(wire, has_words)
        return f"terminate {wire.number} {has_words}"

    def _black_hole(self) -> str | None:
        wire = self._some_wire()
        random = self._world.random
        if wire is None or wire.is_reset or wire.is_stuck:
            return None
        seconds, is_full, heals = random.choice((0.05, 1.0, 10.0)), random.random() < 0.5, random.random() < 0.5
        self._world.network.stick(wire, seconds, is_full, heals)
        return f"black hole {wire.number} for {seconds} s, {is_full} {heals}"

    def _commit_is_lost(self) -> str:
        """The answer to the next COMMIT will not come: it is lost on its way, or while the server is at it."""
        self._world.network.ambush = self._ambush
        return "an ambush for the next COMMIT"

    def _ambush(self, wire: Wire, is_done: bool) -> None:
        """The COMMIT was sent, and is done or not."""
        world, network = self._world, self._world.network
        random = world.random
        if is_done is (random.random() < 0.5):
            network.ambush = None
            world.tally["answer to COMMIT lost" if is_done else "lost during COMMIT"] += 1
            server = world.servers[wire.endpoint]
            client = world.clients.alive.get(network.commits_for(wire))
            if not is_done and client is not None and random.random() < 0.3:
                world.at(world.now, self._vanish, client)
            elif not is_done:
                delay = world.scenario.latency * 1.5 + world.scenario.write * random.choice((0.1, 0.5, 2.0))
                world.at(world.now + delay, self._strike_at, wire)
            elif random.random() < 0.4:
                network.reset(wire)
            elif random.random() < 0.4:
                world.at(world.now, lambda: self._crash(server))
            else:
                world.at(world.now, lambda: self._fail_over(server))

    def _strike_at(self, wire: Wire) -> str | None:
        network = self._world.network
        process = wire.process
        is_at_work = process is not None and process.is_busy and not wire.is_reset and wire.number in network.lines
        if not is_at_work:
            if not self._world.is_calm:
                network.ambush = self._ambush  # too late for this one
            return None
        if self._world.random.random() < 0.5:
            return self._crash(self._world.servers[wire.endpoint], seconds=0.1)
        network.reset(wire)
        return f"reset {wire.number} while it commits"

    def _names_are_forgotten(self) -> str | None:
        wire = self._some_wire()
        if wire is None or wire.session is None:
            return None
        wire.session.forget_names()
        return f"names are forgotten by {wire.number}"

    def _schema_is_changed(self) -> str:
        """Another program does it."""
        server = self._some_server()
        server.cluster.schema += 1
        return f"the schema of {server.name} is changed"

    # Clients.

    def _client_vanishes(self) -> str | None:
        world = self._world
        clients = world.clients
        if not clients.alive:
            return None
        return self._vanish(clients.alive[world.random.choice(list(clients.alive))])

    def _vanish(self, client: Client) -> str | None:
        if client.is_gone:
            return None
        self._world.clients.vanish(client)
        self._world.clients.arrive()
        return f"client {client.key} vanishes"

    def _client_reads_nothing(self) -> str | None:
        """What it was told stays unread for a while; it may ask for more all the same."""
        world = self._world
        if not world.books.owed:
            return None
        key = world.random.choice(list(world.books.owed))
        seconds = world.random.choice((0.001, 0.05, 1.0, 20.0))
        world.network.about_client(key, world.broker.client_stalled)
        world.at(world.now + seconds, self._client_reads, key)
        return f"client {key} reads nothing for {seconds} s"

    def _client_reads(self, key: int) -> str:
        self._world.network.about_client(key, self._world.broker.client_reads, self._world.now)
        return f"client {key} reads"

    def _company_is_cancelled(self) -> str:
        """A client withdraws what runs before others on a backend: its cancel may hit one of these."""
        world = self._world

        def spoil(backend: Backend) -> None:
            world.tally["withdrawn in company"] += 1
            world.clients.withdraw((*backend.running, *backend.flights)[0].number)

        world.network.spoiler = spoil
        return "the next in company will be withdrawn"

    def _client_forks(self) -> str | None:
        """The child connects anew; where there are too many, the parent ends."""
        world = self._world
        clients = world.clients
        if not clients.alive:
            return None
        parent = clients.alive[world.random.choice(list(clients.alive))]
        child = clients.arrive()
        child.habits = parent.habits
        if len(clients.alive) > 2 * world.scenario.clients:
            clients.vanish(parent)
        return f"client {parent.key} forks {child.key}"

    # Processes and clocks.

    def _clock_jumps(self) -> str:
        world = self._world
        seconds = world.random.choice((0.01, 0.3, 2.0, 7.0, 40.0))
        world.jump(seconds)
        world.network.stood_still()
        return f"the clock jumps by {seconds} s"

    def _broker_is_suspended(self) -> str:
        world = self._world
        seconds = world.random.choice((0.01, 0.3, 2.0, 7.0, 40.0))
        world.suspend(seconds)
        return f"the broker is suspended for {seconds} s"

    def _facts_come_late(self) -> str | None:
        """Facts about a backend that is gone, or never was, change nothing."""
        world = self._world
        broker, random = world.broker, world.random
        number = random.randint(-3, world.network.last_line + 2)
        if number in broker.backends:
            return None
        before, size = list(broker.agenda.effects), len(broker.backends)
        match random.randrange(5):
            case 0:
                broker.opened(number, world.now)
            case 1:
                broker.connect_failed(number, "late", world.now)
            case 2:
                broker.completed(number, Completion(TX_NONE), world.now)
            case 3:
                broker.cancelled(number, world.now)
            case 4:
                broker.lost(number, Loss("late"), world.now)
        assert broker.agenda.effects == before, "a fact about a backend that is gone had effects"
        assert len(broker.backends) == size
        return f"a late fact about {number}"

    # Servers.

    def _some_server(self) -> Server:
        world = self._world
        return world.servers[world.random.choice(list(world.servers))]

    def _server_crashes(self) -> str | None:
        """All its processes end without a word; after its recovery it may give ids of transactions again."""
        return self._crash(self._some_server())

    def _crash(self, server: Server, seconds: float | None = None) -> str | None:
        if not server.is_up:
            return None
        for process in list(server.processes):
            self._cut_off(process.wire)
        server.crash()
        return self._comes_back(server, "crashes", seconds)

    def cut_all(self, server: Server) -> None:
        """All its processes end without a word."""
        for process in list(server.processes):
            self._cut_off(process.wire)

    def _server_shuts_down(self) -> str | None:
        """All its processes end with an error."""
        server = self._some_server()
        if not server.is_up:
            return None
        for process in list(server.processes):
            self._world.network.terminate(process.wire, has_words=True)
        server.is_up = False
        return self._comes_back(server, "shuts down")

    def _comes_back(self, server: Server, what: str, seconds: float | None = None) -> str:
        world = self._world
        seconds = seconds or world.random.choice((0.1, 1.0, 15.0))
        world.at(world.now + seconds, server.come_up)
        return f"server {server.name} {what} for {seconds} s"

    def _server_fails_over(self) -> str | None:
        """The primary is gone, its connections with it or in a black hole; a standby has its place."""
        return self._fail_over(self._some_server())

    def _fail_over(self, server: Server) -> str | None:
        world = self._world
        if not server.is_up:
            return None
        for process in list(server.processes):
            wire = process.wire
            if world.random.random() < 0.5:
                process.end()
                if not wire.is_stuck and not wire.is_reset:
                    world.network.stick(wire, world.random.choice((1.0, 20.0)), is_full=False, heals=False)
            else:
                self._cut_off(wire)
        server.fail_over()
        return f"server {server.name} fails over"

    def _cut_off(self, wire: Wire) -> None:
        """The server is gone; what it has sent comes, or does not."""
        network = self._world.network
        if self._world.random.random() < 0.5:
            network.reset(wire)
        network.terminate(wire, has_words=False)

    def _server_freezes(self) -> str:
        server = self._some_server()
        seconds = self._world.random.choice((0.1, 1.0, 15.0))
        server.frozen_until = max(server.frozen_until, self._world.now + seconds)
        return f"server {server.name} freezes for {seconds} s"

    def _server_is_unreachable(self) -> str:
        server = self._some_server()
        seconds = self._world.random.choice((0.1, 1.0, 15.0))
        server.unreachable_until = self._world.now + seconds
        return f"server {server.name} is unreachable for {seconds} s"


def _name(kind: Callable[[], str | None]) -> str:
    return kind.__name__.strip("_").replace("_", " ")
