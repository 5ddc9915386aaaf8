"""What is still to be done: effects for the shell, deadlines, and what `settling` looks after before the fact is over.

All of the core shares one agenda. A step that changes something does not act on the consequences itself: it notes here
which backend or group the change concerns, and `settling` looks after them one by one when the fact's own steps are
over. So no step is interrupted by another one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from poold.core.effects import Effect, Execute
from poold.core.state import BrokerState
from poold.core.timers import Timers

if TYPE_CHECKING:
    from poold.core.pools.endpoint import Endpoint
    from poold.core.pools.group import Group
    from poold.core.pools.pool import Pool
    from poold.core.records.backend import Backend


class Agenda:
    """Effects decided, deadlines, and the backends and groups to be looked after."""

    def __init__(self, chance: Callable[[], float], has_lane: bool = False) -> None:
        """chance returns random numbers in [0, 1), the core's only ones. has_lane: whether backends may be lent."""
        self.chance = chance
        self.has_lane = has_lane
        self.state = BrokerState.RUNNING
        self.awaits_others = False  # whether other processes still finish work, and a drain is not over before that
        self.now = 0.0  # when the fact came that is looked after
        self.turn = 0  # how often the shell has taken effects
        # Deadlines of requests, leases, backends, clients, watches and quarantined pools; the key is the object itself.
        self.timers = Timers()
        self.effects: list[Effect] = []  # since the shell last took them, in order
        # Backends that wait for their next use: enter when they run nothing and no cancel is on its way, leave by
        # settling.
        self.resting: deque[Backend] = deque()
        # Groups in which something changed; True if a waiting request may be served, False if only more backends may
        # be wanted. Leave when their next step is None.
        self.unsettled: dict[Group, bool] = {}
        # Endpoints whose role may have changed; True if one turned out to be a standby. Leave when they are asked.
        self.doubted: dict[Endpoint, bool] = {}

    @property
    def may_end(self) -> bool:
        """Whether the broker is to stop as soon as it has nothing left to do."""
        return self.state is BrokerState.DRAINING and not self.awaits_others

    def serve(self, group: Group) -> None:
        """Note that a waiting request of the group may be served: a backend, or a place on one, is free."""
        self.unsettled[group] = True

    def grow(self, group: Group) -> None:
        """Note that the group may want more backends than it has."""
        self.unsettled.setdefault(group, False)

    def doubt(self, pool: Pool) -> None:
        """Note that the role of the pool's endpoint may have changed, if roles matter to its group."""
        if pool.group.has_roles:
            self.doubted.setdefault(pool.endpoint, False)

    def revoke(self, backend: Backend) -> int:
        """Take back the backend's units that the shell has not taken yet. Returns how many there were. O(effects)."""
        before = len(self.effects)
        self.effects = [
            effect for effect in self.effects if type(effect) is not Execute or effect.backend != backend.number
        ]
        return before - len(self.effects)
