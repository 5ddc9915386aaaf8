"""Another configuration holds from here on: what follows for endpoints, groups, backends, clients and who waits.

A backend ends when it rests if its group or endpoint has gone, or if it was opened with other settings than its group
and endpoint have by now. Groups and endpoints that did not change are left alone. A removed group refuses what waits
and what comes; what runs in it, and its leases, have drain_timeout to end by themselves.

It is all one step: between two facts there is one configuration.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from poold.config.changes import applied, are_backends_replaced, is_moved
from poold.config.current import CurrentConfig
from poold.config.model import Config, GroupConfig
from poold.core.agenda import Agenda
from poold.core.clients.access import Caller, open_to
from poold.core.operations.closing import cut_off
from poold.core.operations.pausing import Pausing
from poold.core.pools.directory import Directory
from poold.core.pools.endpoint import Endpoint
from poold.core.pools.group import Group, reading
from poold.core.pools.lifecycle import Lifecycle
from poold.core.pools.pool import Pool
from poold.core.records.client import Client
from poold.core.requests.observing import Observing
from poold.core.requests.runs import Runs
from poold.core.state import LENT
from poold.core.statements.generations import Generations

GROUP_REMOVED = "a reload of the configuration has removed its group"
ENDPOINT_REMOVED = "a reload of the configuration has removed its endpoint"
MOVED = "a reload of the configuration has moved its endpoint"
# What the lane still has when a removed group's time is over is the core's so many seconds later.
HAND_OVER = 0.1


@dataclass(slots=True, eq=False)
class Removal:
    """A group that was removed while something ran in it. Also a deadline's key: then all of it ends."""

    group: Group


class Reconfiguring:
    """The steps of a reload."""

    def __init__(
        self,
        config: CurrentConfig,
        agenda: Agenda,
        directory: Directory,
        clients: Mapping[int, Client],
        lifecycle: Lifecycle,
        runs: Runs,
        generations: Generations,
        observing: Observing,
        pausing: Pausing,
    ) -> None:
        self._config = config
        self._agenda = agenda
        self._directory = directory
        self._clients = clients
        self._lifecycle = lifecycle
        self._runs = runs
        self._generations = generations
        self._observing = observing
        self._pausing = pausing
        # Pools that groups have got in this reload, each with those that its group had before.
        self._new: dict[Pool, tuple[Pool, ...]] = {}

    def apply(self, config: Config, renewed: Collection[str], now: float) -> None:
        """Let this configuration hold, but for what needs a restart.

        renewed: the names of endpoints whose files, as certificates, have another content under the same name.
        """
        before = self._config.as_it_is()
        self._config.become(applied(before, config))
        moved = self._change_endpoints(before, renewed, now)
        changed = self._change_groups(before, now)
        self._pausing.joined(self._new)
        self._new = {}
        if moved:
            self._generations.begin_anew()  # names may mean something else there
        self._change_clients(before, now)
        self._observing.changed(moved, now)
        for group in changed:
            self._lifecycle.shrink(group)
            self._lifecycle.endpoint_changed(group)
            self._agenda.serve(group)
        self._directory.sweep()

    def due(self, removal: Removal, now: float) -> None:
        """The time of a removed group is over: what is left in it ends, as if the broker stopped."""
        left = [backend for pool in removal.group.pools for backend in pool]
        ending = [backend for backend in left if backend.state is not LENT]
        self._agenda.effects += cut_off(ending, GROUP_REMOVED, now)
        for backend in left:
            if backend.state is LENT:
                self._lifecycle.recall(backend, at_once=True)
                self._agenda.timers.set(removal, now + HAND_OVER)
            else:
                self._runs.abandon(backend, GROUP_REMOVED, now)

    # Endpoints.

    def _change_endpoints(self, before: Config, renewed: Collection[str], now: float) -> list[Endpoint]:
        """Add, change and remove endpoints; returns those that lead elsewhere than before."""
        after, directory = self._config.endpoints, self._directory
        moved = []
        for name, config in after.items():
            old = before.endpoints.get(name)
            if old is None:
                endpoint, is_back = directory.add_endpoint(name, config)
                if is_back:
                    moved.append(endpoint)
                    self._replace(directory.pools_of(endpoint))
                continue
            endpoint = directory.endpoints[name]
            endpoint.configure(config)
            if is_moved(old, config):
                moved.append(endpoint)
                for pool in directory.pools_of(endpoint):
                    # Until it has said what it is; but what is open there goes on to its end.
                    pool.is_serving = not pool.left and not pool.group.has_roles
            if name in renewed or are_backends_replaced(old, config):
                self._replace(directory.pools_of(endpoint))
            elif old != config:
                self._respread(directory.pools_of(endpoint))
        for name in before.endpoints.keys() - after.keys():
            endpoint = directory.remove_endpoint(name)
            for pool in directory.pools_of(endpoint):
                self._leave(pool, ENDPOINT_REMOVED, now)
        return moved

    def _replace(self, pools: Iterable[Pool]) -> None:
        """Close the backends of these pools as they rest, and forget why none could be opened."""
        for pool in pools:
            self._lifecycle.reconnect(pool)
            if not pool.left:
                self._lifecycle.try_again(pool)
        self._respread(pools)

    def _respread(self, pools: Iterable[Pool]) -> None:
        for group in dict.fromkeys(pool.group for pool in pools):
            self._lifecycle.endpoint_changed(group)

    # Groups.

    def _change_groups(self, before: Config, now: float) -> list[Group]:
        """Add, change and remove groups; returns those that are others than before, and those that are new."""
        after, directory = self._config.groups, self._directory
        changed = []
        for name in before.groups.keys() - after.keys():
            self._remove(directory.groups[name], now)
        for name, config in after.items():
            old = before.groups.get(name)
            if old is None:
                made = directory.add(name, config)
                for each in (made, made.replicas):
                    if each is not None:
                        self._new |= dict.fromkeys(each.pools, ())
                        changed.append(each)
            elif old != config:
                changed += self._change(directory.groups[name], old, config, now)
        return changed

    def _remove(self, group: Group, now: float) -> None:
        """Refuse what waits in the group, and let end what runs. Reads on replicas go to the primary instead."""
        replicas, group.replicas = group.replicas, None
        if group.main is not None:
            group.main.replicas = None
        self._directory.remove(group)
        group.statements.forget_all()  # so that the lane runs nothing of it any more
        for pool in group.pools:
            self._leave(pool, GROUP_REMOVED, now)
        if group.size:
            self._agenda.timers.set(Removal(group), now + self._config.broker.drain_timeout)
        self._agenda.serve(group)
        if replicas is not None:
            self._remove(replicas, now)

    def _change(self, group: Group, old: GroupConfig, config: GroupConfig, now: float) -> list[Group]:
        """Change the group, and the one for reads on replicas; returns those that there are by now."""
        self._configure(group, config, now)
        if old.wanted != config.wanted:
            for pool in group.pools:
                pool.is_serving = not pool.left and not group.has_roles
            group.cluster = group.followed = None
        replicas = group.replicas
        if group.role != "primary":
            if replicas is not None:
                self._remove(replicas, now)
            return [group]
        if replicas is None:
            replicas = self._directory.add_reads(group)
            self._new |= dict.fromkeys(replicas.pools, group.pools)
        else:
            self._configure(replicas, reading(config), now)
        return [group, replicas]

    def _configure(self, group: Group, config: GroupConfig, now: float) -> None:
        """Let the group, or the one for reads on replicas, have this configuration."""
        old = group.config
        group.configure(config)
        if old.endpoints != config.endpoints:
            self._use_endpoints(group, config.endpoints, now)
        if are_backends_replaced(old, config):
            group.statements.configure(config.prepare == "auto", config.plans)
            group.statements.forget_all()
            for pool in group.pools:
                self._lifecycle.reconnect(pool)
        if old.max_lifetime != config.max_lifetime:
            self._lifecycle.shorten(group, now)

    def _use_endpoints(self, group: Group, names: Iterable[str], now: float) -> None:
        """Let the group have a pool on each of these endpoints; others end as their backends rest."""
        wanted = [self._directory.endpoints[name] for name in names]
        there = {pool.endpoint: pool for pool in group.pools}
        pools, new = [], []
        for endpoint in wanted:
            pool = there.pop(endpoint, None)
            if pool is None:
                pool = Pool(endpoint, group)
                new.append(pool)
            elif pool.left:
                self._lifecycle.come_back(pool)
            pools.append(pool)
        for pool in there.values():
            if not pool.left:
                self._leave(pool, f"group {group.configured} does not use its endpoint any more", now)
        old = group.pools
        group.use((*pools, *there.values()))
        self._new |= dict.fromkeys(new, old)

    def _leave(self, pool: Pool, why: str, now: float) -> None:
        """Take the pool away. Nobody is left to say there what became of a COMMIT, if it has no backend."""
        self._lifecycle.leave(pool, why)
        if pool.size:
            return
        for inquiry in list(pool.inquiries):
            pool.inquiries.remove(inquiry)
            self._runs.conclude(inquiry, self._runs.inquiry.replaced(inquiry, now), now)

    # Clients.

    def _change_clients(self, before: Config, now: float) -> None:
        """Let clients use the groups that they may use by now, and be silent for as long as they may be."""
        timeout, groups = self._config.broker.client_idle_timeout, self._directory.groups
        has_other_timeout = timeout != before.broker.client_idle_timeout
        everybodys = set(groups.values())
        for client in self._clients.values():
            client.open_groups = open_to(client.caller or Caller(client.uid), groups)
            is_for_all = client.open_groups is groups
            for group in client.groups - (everybodys if is_for_all else set(client.open_groups.values())):
                client.groups.discard(group)
                group.clients -= 1
            if has_other_timeout and timeout:
                self._agenda.timers.set(client, max(now, client.last_heard() + timeout))
            elif has_other_timeout:
                self._agenda.timers.clear(client)
