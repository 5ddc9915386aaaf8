"""COPY in worlds: its data takes time in both directions, and clients and servers take theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from model.copying import Copies, Passing

from client.wire.messages import CopyBegun, CopyEnd, CopyIn, CopyOut, CopyTaken, CopyWanted
from poold.core import effects

if TYPE_CHECKING:
    from model.lines import Line

    from simulation.asking import Client
    from simulation.network import Network

# How long a client takes for its next piece, and how long one does that has forgotten it.
NEXT_PIECE, FORGOTTEN = 0.01, (0.5, 5.0)


class TravellingCopies(Copies):
    """All COPYs, and their data on its way."""

    _shell: Network

    def carry_out(self, effect: effects.Effect) -> None:
        """What was decided is sent."""
        network, world = self._shell, self._shell.sim
        match effect:
            case effects.Tell(key, body):
                client = world.clients.alive.get(key)
                if client is not None:
                    when = world.now + world.scenario.latency * world.random.random()
                    world.at(when, self._hears, client, body)
            case effects.Feed(number) | effects.EndFeed(number) if number in network.lines:
                network._travel(network.lines[number], False, self._comes, effect)
            case effects.Hold():
                super().carry_out(effect)

    def _comes(self, effect: effects.Feed | effects.EndFeed) -> str:
        super().carry_out(effect)
        return f"data of a COPY comes to {effect.backend}"

    def tell(self, line: Line, call: Callable[..., None], *args: Any) -> None:
        """The core is told, later."""
        self._shell._travel(line, True, self._told_core, line, call, args)  # type: ignore[arg-type]  # a Wire

    def _told_core(self, wire: Any, call: Callable[..., None], args: tuple[Any, ...]) -> str | None:
        if wire.number not in self._shell.lines or wire.is_reset:
            return None
        self._shell.about(wire.number, call, *args, self._shell.sim.now)
        return f"{wire.number} {call.__name__} {args}"

    # Clients.

    def _hears(self, client: Client, body: CopyBegun | CopyOut | CopyWanted) -> str | None:
        passing = self.all[body.request]
        if client.is_gone or body.request not in client.waits_for:
            return None
        if isinstance(body, CopyBegun):
            passing.is_begun = True
        elif isinstance(body, CopyWanted):
            passing.room += body.size
        else:
            passing.received += len(body.data)
        self._think(client, passing)
        return f"client {client.key} hears {type(body).__name__} of {body.request}"

    def _think(self, client: Client, passing: Passing) -> None:
        world = self._shell.sim
        if passing.is_acting or passing.end or not (passing.room if passing.is_in else passing.received):
            return
        passing.is_acting = True
        seconds = NEXT_PIECE * world.random.expovariate(1.0)
        if world.random.random() < 0.03 and not world.clients.are_done:
            seconds += world.random.choice(FORGOTTEN)
        world.at(world.now + seconds, self._acts, client, passing)

    def _acts(self, client: Client, passing: Passing) -> str | None:
        passing.is_acting = False
        if client.is_gone or passing.job.number not in client.waits_for or not passing.is_begun:
            return None
        random = self._shell.sim.random.random()
        self.act(passing, "error" if random < 0.03 else "done" if random < 0.25 else "some" if random < 0.5 else "all")
        self._think(client, passing)
        return f"client {client.key} goes on with COPY {passing.job.number}"

    def _say(self, passing: Passing, message: CopyIn | CopyEnd | CopyTaken) -> None:
        client = self._shell.sim.clients.alive[passing.job.client]
        self._shell.sim.clients._travel(client, self._says, client.key, message)

    def _says(self, key: int, message: CopyIn | CopyEnd | CopyTaken) -> str | None:
        if key not in self._books.owed:
            return None
        self._note(message)
        self._shell.about_client(key, self._broker.copying.message, message, self._shell.sim.now)
        return f"{type(message).__name__} of {message.request} by client {key}"
