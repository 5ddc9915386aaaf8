"""An operator, who gives orders at any moment."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from client.wire.arguments import packed_arguments
from client.wire.messages import Answer, Ask
from poold.core.operations.selection import select

if TYPE_CHECKING:
    from simulation.world import World

# Keys of operators' connections begin here.
FIRST_KEY = 1_000_000
# Mean steps from one order to the next.
EVERY = 200


class Operator:
    """Gives orders; its chance is its own, so that a world with one is otherwise as it would be."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._random = Random(seed)
        self._every = EVERY * self._random.choice((1, 1, 10))
        self._last_request = 0
        self._kinds = (self._reconnect,)

    def act(self) -> str | None:
        """Give an order, at times; a line about it."""
        world = self._world
        if world.is_suspended or world.is_stopped or self._random.random() * self._every >= 1.0:
            return None
        kind = self._random.choice(self._kinds)
        world.tally[kind.__name__.strip("_")] += 1
        return kind()

    def _reconnect(self) -> str:
        pairs = self._some()
        message = self._ask("reconnect", pairs)
        orders = self._world.network.orders
        orders.reconnect(self._chosen(pairs))
        told = self._tell(message)
        assert isinstance(told, Answer)
        return f"reconnect {pairs}: {told.body['closed']} and {told.body['closing']}"

    def _some(self) -> list[tuple[str, str]]:
        """Some groups, or an endpoint, or both, or all there is."""
        broker, random = self._world.broker, self._random
        groups = [name for name, group in broker.groups.items() if group.main is None]
        pairs = [("group", name) for name in random.sample(groups, random.choice((0, 1)))]
        if random.random() < 0.4:
            pairs.append(("endpoint", random.choice(list(broker.endpoints))))
        return pairs

    def _chosen(self, pairs: list[tuple[str, str]]) -> tuple[object, ...]:
        named = {name: [value for each, value in pairs if each == name] for name, _ in pairs}
        return select(self._world.broker.groups, self._world.broker.endpoints, named).pools

    def _ask(self, what: str, pairs: list[tuple[str, str]]) -> Ask:
        self._last_request += 1
        return Ask(self._last_request, what, packed_arguments(pairs))

    def _tell(self, message: Ask, key: int = FIRST_KEY) -> object:
        world = self._world
        return world.network.about_client(key, world.broker.ask, message, world.now)
