"""The shell's turns: facts wait for the next one, effects are taken once in each, and carried out whole or in parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from model.lending import Lending
from model.lent import Flight, Lent
from model.roles import Roles

from client.wire.messages import Failure
from poold.core import effects

if TYPE_CHECKING:
    from simulation.world import World


class Turns(Lending):
    """The shell in time, and what it notes for the trace and for the checks."""

    def __init__(self, world: World) -> None:
        super().__init__(world, world.books)
        self.sim = world
        self.said: list[str] = []  # what the core has decided in this step, for the trace
        # Backends and clients that this step was about or had effects on; a tick may be about all.
        self.touched: list[int] = []
        self.touched_clients: list[int] = []
        self.has_ticked = False
        self.roles = Roles(world.broker, world.books)
        self.remembered = 0  # the newest timeline
        self.has_turn = False  # there are facts, and a turn is to follow
        self._armed: float | None = None
        self._arming = 0  # of the timer: an event of an earlier one is void

    def fact(self, call: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Tell the core, look at what it decides, and have a turn soon."""
        self.sim.facts += 1
        told = super().fact(call, *args, **more)
        self.wake()
        return told

    def about(self, number: int, call: Callable[..., None], *args: Any) -> None:
        """A fact about a backend."""
        self.touched.append(number)
        self.fact(call, number, *args)

    def about_client(self, key: int, call: Callable[..., Any], *args: Any) -> Any:
        """A fact about a client."""
        self.touched_clients.append(key)
        return self.fact(call, key, *args)

    def forget_touched(self) -> None:
        """They were looked at."""
        self.touched.clear()
        self.touched_clients.clear()
        self.has_ticked = False

    def wake(self) -> None:
        """There are facts: have a turn soon. Facts that come until then share it."""
        if not self.has_turn:
            self.has_turn = True
            world = self.sim
            lag = world.scenario.lag
            world.tell_at(world.now + (world.random.random() * lag if lag else 0.0), self.turn_of_shell)

    def turn_of_shell(self) -> str:
        """One turn, or as much of it as the shell comes to."""
        world = self.sim
        self.has_turn = True  # what follows from a deadline belongs to this turn
        text = "turn"
        deadline = self.broker.next_deadline()
        if deadline is not None and deadline <= world.now:
            self.has_ticked = True
            self.fact(self.broker.tick, world.now)
            text = "tick"
        self.has_turn = False
        self.take()
        partial = world.scenario.partial
        if partial and self.todo and world.random.random() < partial:
            self.carry_out(world.random.randrange(len(self.todo)))
            text += f", {len(self.todo)} left"
            self.wake()
        else:
            self.carry_out()
        deadline = self.broker.next_deadline()
        if deadline != self._armed:
            self._armed = deadline
            self._arming += 1
            if deadline is not None:
                world.tell_at(max(deadline, world.now), self._on_time, self._arming)
        return text

    def _on_time(self, arming: int) -> str | None:
        if arming != self._arming:
            return None
        self._armed = None
        self.has_turn = True
        return self.turn_of_shell()

    def _carry_out_other(self, effect: effects.Effect) -> None:
        match effect:
            case effects.Observe(name):
                self.sim.watchers.ask(name, where=False)
            case effects.Locate(name):
                self.sim.watchers.ask(name, where=True)
            case effects.Leave(name):
                self.sim.watchers.leave(name)
            case effects.Remember(_, timeline):
                assert timeline > self.remembered
                self.remembered = timeline
            case _:
                super()._carry_out_other(effect)

    # The lane.

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call then."""
        self.sim.tell_at(self.sim.now + seconds, self._lane_looks, call)

    def _lane_looks(self, call: Callable[[], None]) -> str | None:
        call()
        return "the lane looks" if self.said else None

    def starts(self, lent: Lent, flight: Flight) -> bool:
        """Send the flight's unit to its backend."""
        self._noted("starts", lent.backend.number, [flight])
        if self.sim.fleet is not None:
            self.roles.given(lent.backend, [self.books.jobs[flight.number]])
        return super().starts(lent, flight)

    def tells(self, text: str, call: Callable[..., Any], *args: Any) -> None:
        """Tell the core of this."""
        number = args[0] if isinstance(args[0], int) else 0
        backend = self.broker.backends.get(number)
        self._noted(text, number, list(args[0] if not number else () if backend is None else backend.flights))
        super().tells(text, call, *args)

    def _noted(self, text: str, number: int, flights: list[Any]) -> None:
        """The lane does this: for the trace, the tally and the checks."""
        requests = " ".join(str(each.number) for each in flights)
        self.said.append(f"lane {text} {number} {requests}".rstrip())
        self.sim.tally[f"lane {text}"] += 1
        self.touched.append(number)
        self.touched_clients.extend(each.client.key for each in flights)

    def _is_lease_open(self, number: int) -> bool | None:
        # Where many deadlines come at once, what is told about the first is seen after the last.
        return None if self.has_ticked else super()._is_lease_open(number)

    def _decided(self, effect: effects.Effect) -> None:
        super()._decided(effect)
        match effect:
            case effects.Execute(number):
                self.said.append(f"execute {number}")
                self.touched.append(number)
                backend = self.broker.backends.get(number)
                if backend is not None and self.sim.fleet is not None:
                    self.roles.given(backend, self.books.of(self.lines[number].orders[-1].owner))
                if backend is not None and backend.running:
                    self.touched_clients.append(backend.running[-1].client.key)
            case effects.Reply(client, body):
                kind = type(body).__name__ if type(body) is not Failure else f"{body.kind} {body.sqlstate}"
                self.said.append(f"reply {client} {body.request} {kind}")
                if self.sim.fleet is not None and client not in self.orders.operators:
                    self.sim.fleet.replied(client, self.books.jobs[body.request], body)
                self.touched_clients.append(client)
            case effects.Connect(number, group, endpoint):
                self.said.append(f"connect {number} {group} {endpoint}")
                self.touched.append(number)
            case effects.Cancel(number):
                self.said.append(f"cancel {number}")
                self.touched.append(number)
            case effects.Close(number, reason):
                self.said.append(f"close {number} {reason}")
            case effects.Drop(client, reason):
                self.said.append(f"drop {client} {reason}")
                self.touched_clients.append(client)
            case effects.Lend(number):
                self.said.append(f"lend {number}")
                self.touched.append(number)
            case effects.Recall(number, at_once):
                self.said.append(f"recall {number} {at_once}")
            case effects.Poke(group):
                self.said.append(f"poke {group}")
            case effects.Observe(name):
                self.said.append(f"observe {name}")
            case effects.Leave(name):
                self.roles.left(name)
                self.said.append(f"leave {name}")
            case effects.Note(text):
                self.said.append(f"note {text}")
            case effects.Remember(_, timeline):
                self.said.append(f"remember {timeline}")
            case effects.Stop():
                self.said.append("stop")
