"""What the broker asks servers about themselves: one connection to each, apart from those in which it works.

Answers are those of the moment in which the server has the question; they may be late, or not come at all.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from poold.core.facts import Location, Observation

if TYPE_CHECKING:
    from simulation.world import World

ANSWER_TIMEOUT = 2.0
_LATE = (0.0,) * 30 + (0.01, 0.2, 1.0)


class Watchers:
    """The connections, one for each endpoint."""

    def __init__(self, world: World) -> None:
        self._world = world
        # Questions by endpoint, True for where, the first of them being asked.
        self._asked: dict[str, deque[bool]] = {}
        self._connected: set[str] = set()
        self._eras: Counter[str] = Counter()  # how often it was left: what was on its way then is void
        self.blind_until: dict[str, float] = {}  # nothing is heard, whatever becomes of other connections

    def ask(self, name: str, where: bool) -> None:
        """Ask what the server is, or where in its log; one after the other."""
        asked = self._asked.setdefault(name, deque())
        asked.append(where)
        if len(asked) == 1:
            self._send(name)

    def leave(self, name: str) -> None:
        """Close the connection, and forget what is being asked."""
        self._eras[name] += 1
        self._asked.pop(name, None)
        self._connected.discard(name)

    def cut(self, name: str) -> str | None:
        """The connection is lost."""
        if name not in self._connected:
            return None
        self._connected.discard(name)
        return f"the watcher of {name} is cut off"

    def _latency(self) -> float:
        return self._world.scenario.latency * (0.5 + self._world.random.random())

    def _send(self, name: str) -> None:
        world = self._world
        trips = 1 if name in self._connected else 3
        world.at(
            world.now + trips * self._latency(), self._comes, name, self._eras[name], world.now, name in self._connected
        )

    def _comes(self, name: str, era: int, since: float, was_connected: bool) -> str | None:
        """The question has come to the server."""
        if era != self._eras[name]:
            return None
        world, random = self._world, self._world.random
        server = world.servers[name]
        until = max(server.unreachable_until, server.frozen_until, self.blind_until.get(name, 0.0))
        if until > world.now and not world.is_calm:
            world.at(min(until, since + ANSWER_TIMEOUT), self._goes_on, name, era, since, was_connected)
            return None
        is_cut = was_connected and name not in self._connected
        if not server.is_up or is_cut or (not world.is_calm and random.random() < 0.005):
            world.tell_at(world.now + self._latency(), self._fails, name, era)
            return None
        self._connected.add(name)
        where = self._asked[name][0]
        answer = server.located() if where else server.observed()
        late = 0.0 if world.is_calm else random.choice(_LATE)
        world.tell_at(world.now + self._latency() + late * random.random(), self._tell, name, era, answer)
        return None

    def _goes_on(self, name: str, era: int, since: float, was_connected: bool) -> str | None:
        world = self._world
        if world.now < since + ANSWER_TIMEOUT:
            return self._comes(name, era, since, was_connected)
        world.tell_at(world.now, self._fails, name, era)
        return None

    def _fails(self, name: str, era: int) -> str | None:
        if era != self._eras[name]:
            return None
        self._connected.discard(name)
        self._world.network.roles.heard(name, None)
        self._world.network.fact(self._world.broker.unobserved, name, "it does not answer", self._world.now)
        self._next(name)
        return f"{name} does not answer"

    def _tell(self, name: str, era: int, answer: Observation | Location) -> str | None:
        if era != self._eras[name]:
            return None
        world = self._world
        if isinstance(answer, Observation):
            world.network.roles.heard(name, answer)
            world.network.fact(world.broker.observed, name, answer, world.now)
        else:
            world.network.fact(world.broker.located, name, answer, world.now)
        self._next(name)
        return f"{name}: {answer}"

    def _next(self, name: str) -> None:
        asked = self._asked[name]
        asked.popleft()
        if asked:
            self._send(name)
