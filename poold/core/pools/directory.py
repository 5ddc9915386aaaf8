"""All endpoints and groups of the broker, and those that a reload has removed as long as anything is left of them."""

from __future__ import annotations

from collections.abc import Iterator

from poold.config.current import CurrentConfig
from poold.config.model import EndpointConfig, GroupConfig
from poold.core.pools.endpoint import Endpoint
from poold.core.pools.group import Group, for_reads
from poold.core.pools.pool import Pool
from poold.core.shared.queue import Queue

# What stands behind the name of a group that was removed, and in which something still runs.
REMOVED = "/removed"
# So many names of removed groups are known.
REMOVED_KEPT = 100


class Directory:
    """Endpoints and groups by name."""

    def __init__(self, config: CurrentConfig, make_queue: type[Queue] = Queue) -> None:
        """make_queue: what does what `Queue` does."""
        self._make_queue = make_queue
        self.endpoints: dict[str, Endpoint] = {}
        # What clients may ask for, with the groups for reads on replicas. Clients share this very mapping, so who comes
        # and who leaves is seen by them at once.
        self.groups: dict[str, Group] = {}
        # Enter by `remove`, leave by `sweep` when nothing is left of them.
        self.leaving: list[Group] = []
        # What was removed and is not there again, so that who asks for it is told why; the last of them.
        self.removed: dict[str, GroupConfig] = {}
        # Endpoints that are not configured any more, while there is a pool of theirs: one that comes back is the same.
        self._left: dict[str, Endpoint] = {}
        for name, each in config.endpoints.items():
            self.add_endpoint(name, each)
        made = [Group(name, each, self.endpoints, make_queue) for name, each in config.groups.items()]
        for group in made:
            self.groups[group.name] = group
        for group in made:
            if group.role == "primary":
                self.add_reads(group)

    def every(self) -> Iterator[Group]:
        """All groups, those that are leaving behind the others."""
        yield from self.groups.values()
        yield from self.leaving

    def shown(self) -> dict[str, Group]:
        """All groups by the names under which operators see them."""
        return {group.shown_name: group for group in self.every()}

    def pools_of(self, endpoint: Endpoint) -> list[Pool]:
        """All pools on the endpoint, those that are leaving as well."""
        return [pool for group in self.every() for pool in group.pools if pool.endpoint is endpoint]

    def add_endpoint(self, name: str, config: EndpointConfig) -> tuple[Endpoint, bool]:
        """Add an endpoint; returns it, and whether it was here before and something is left of it."""
        found = self._left.pop(name, None)
        endpoint = self.endpoints[name] = found or Endpoint(name)
        endpoint.configure(config)
        return endpoint, found is not None

    def remove_endpoint(self, name: str) -> Endpoint:
        """Remove an endpoint; its pools leave their groups before."""
        endpoint = self._left[name] = self.endpoints.pop(name)
        return endpoint

    def add(self, name: str, config: GroupConfig) -> Group:
        """Add a group, with another one for reads on replicas if it has any."""
        made = self.groups[name] = Group(name, config, self.endpoints, self._make_queue)
        self.removed.pop(name, None)
        if made.role == "primary":
            self.add_reads(made)
        return made

    def add_reads(self, group: Group) -> Group:
        """Add the group for reads on replicas that belongs to this one."""
        made = for_reads(group, self.endpoints, self._make_queue)
        self.groups[made.name] = made
        return made

    def remove(self, group: Group) -> None:
        """Offer the group no more; what is left of it stays until it is over."""
        del self.groups[group.name]
        group.is_removed = True
        group.shown_name = self._removed_name(group.name)
        self.leaving.append(group)
        if group.main is None:
            self.removed.pop(group.name, None)
            self.removed[group.name] = group.config
            if len(self.removed) > REMOVED_KEPT:
                del self.removed[next(iter(self.removed))]

    def _removed_name(self, name: str) -> str:
        """A name that is left: NAME/removed, or if there is another group of that name, NAME/removed-2."""
        taken, found, count = {group.shown_name for group in self.leaving}, f"{name}{REMOVED}", 1
        while found in taken:
            count += 1
            found = f"{name}{REMOVED}-{count}"
        return found

    def sweep(self) -> None:
        """Forget what is over."""
        for group in self.every():
            if any(pool.is_over for pool in group.pools):
                group.use(tuple(pool for pool in group.pools if not pool.is_over))
        self.leaving = [group for group in self.leaving if group.pools or group.queue.size]
        if self._left:
            used = {pool.endpoint for group in self.every() for pool in group.pools}
            self._left = {name: each for name, each in self._left.items() if each in used}
