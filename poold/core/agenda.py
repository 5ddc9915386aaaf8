"""What is to be done: by the shell, at some time, and before the fact at hand is over.

The one thing that everybody in the core is handed. A step that changes something does not look after all that follows:
it says whom the change concerns, and when the steps of a fact are over `settling` looks after those, one by one. So no
step finds that another was taken in the middle of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from poold.core.effects import Effect, Execute
from poold.core.state import BrokerState
from poold.core.timers import Timers

if TYPE_CHECKING:
    from poold.core.pools.group import Group
    from poold.core.records.backend import Backend


class Agenda:
    """Effects decided, deadlines, and who is to be looked after."""

    def __init__(self, chance: Callable[[], float]) -> None:
        """chance gives random numbers in [0, 1); it is the core's only source."""
        self.chance = chance
        self.state = BrokerState.RUNNING
        self.turn = 0  # of the shell's: how often it has taken effects
        # Deadlines of requests, leases, backends, clients, watches and quarantined pools, by the object itself.
        self.timers = Timers()
        self.effects: list[Effect] = []  # since the shell took some, in order
        # Backends that run nothing and that no cancel is on its way to: what are they for next?
        self.resting: deque[Backend] = deque()
        # Groups where something changed, and whether somebody may be served there; else only more backends be wanted.
        self.unsettled: dict[Group, bool] = {}

    def serve(self, group: Group) -> None:
        """Who waits there may be served: a backend is free, or somebody's share."""
        self.unsettled[group] = True

    def grow(self, group: Group) -> None:
        """The group may want more backends than it has."""
        self.unsettled.setdefault(group, False)

    def revoke(self, backend: Backend) -> int:
        """Take back what the shell has not taken yet of what the backend is to run; returns how many units."""
        before = len(self.effects)
        self.effects = [
            effect for effect in self.effects if type(effect) is not Execute or effect.backend != backend.number
        ]
        return before - len(self.effects)
