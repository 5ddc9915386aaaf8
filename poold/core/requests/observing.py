"""The roles of endpoints: their servers are asked again and again, and what follows when one has another role.

Asked is every `role_check_interval`, more often while a group has no primary, and at once when something tells of a
change: a connection that is lost or refused, a server that turns out to be a standby. The rules: `pools.roles`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from poold.config.current import CurrentConfig
from poold.core.agenda import Agenda
from poold.core.clients.leases import Leases
from poold.core.effects import Leave, Note, Observe, Remember
from poold.core.facts import Observation
from poold.core.pools import roles
from poold.core.pools.cluster import Cluster
from poold.core.pools.directory import Directory
from poold.core.pools.endpoint import Endpoint, Role
from poold.core.pools.group import Group
from poold.core.pools.lifecycle import Lifecycle
from poold.core.pools.pool import Pool
from poold.core.records.backend import Backend
from poold.core.records.request import QUERY
from poold.core.requests.runs import Runs
from poold.core.requests.waiting import Waiting
from poold.core.state import CANCELLED, LENT, RUNNING
from poold.core.statements.catalog import COUNTS
from poold.core.statements.generations import Generations
from poold.core.work import failures

# At the start no endpoint is used before all have answered, or failed to, so that an old primary that answers first is
# not taken for the primary. One that says nothing for so long is not waited for.
PATIENCE = 1.0
# While a group has no primary endpoints are asked so often; and never more often than GAP.
URGENT_INTERVAL = 0.1
GAP = 0.02

_COUNTS = COUNTS.decode()


class Observing:
    """Asks the endpoints that have roles, and acts on what they say. Also the key of the deadline of the start."""

    def __init__(
        self,
        config: CurrentConfig,
        directory: Directory,
        timelines: Mapping[str, int],
        agenda: Agenda,
        leases: Leases,
        waiting: Waiting,
        lifecycle: Lifecycle,
        runs: Runs,
        generations: Generations,
    ) -> None:
        """timelines: the newest one of each database cluster, as far as it was remembered."""
        self._config = config
        self._directory = directory
        self._agenda = agenda
        self._leases = leases
        self._waiting = waiting
        self._lifecycle = lifecycle
        self._runs = runs
        self._generations = generations
        self._timelines = dict(timelines)
        self.clusters: dict[str, Cluster] = {}  # by system identifier
        self._is_started = False
        # Endpoints of another database cluster than their group's, of which the operator was told.
        self._foreign: set[tuple[Group, Endpoint]] = set()
        # Groups that a reload has given endpoints of which nothing is known, and that have no other: until when all of
        # them are waited for, as at the start. Leave when all have answered, or at that time.
        self._awaiting: dict[Group, float] = {}
        self._look_around()

    def _look_around(self) -> None:
        """Find out whose roles matter."""
        every = list(self._directory.every())
        self._groups = [group for group in every if group.has_roles]
        # Groups that may write; known are those of them whose cluster is known.
        self._writing = [group for group in every if group.main is None and group.role != "replica"]
        # The endpoints that are asked for their roles.
        self.endpoints = list(dict.fromkeys(endpoint for group in self._groups for endpoint in group.endpoints))

    def changed(self, moved: Iterable[Endpoint], now: float) -> None:
        """Groups and endpoints are others than before; moved are endpoints that lead elsewhere."""
        before = self.endpoints
        for endpoint in moved:
            self.forget(endpoint, "it was moved elsewhere, and has not said yet what it is")
        self._look_around()
        for endpoint in before:
            if endpoint not in self.endpoints:
                self.forget(endpoint, "its role is not known yet")
        self._foreign = {(group, each) for group, each in self._foreign if each in group.endpoints}
        for group in {*self._groups, *self._writing}:
            group.obstacle = ""
            systems = {each.observation.system for each in group.endpoints if each.observation is not None}
            if group.cluster is not None and group.cluster.system not in systems:
                group.cluster = None
            if group.followed is not None and group.followed.system not in systems:
                group.followed = None
        for group in self._groups:
            if not (any(pool.is_serving for pool in group.pools) or all(each.is_asked for each in group.endpoints)):
                self._awaiting[group] = now + PATIENCE
                self._agenda.timers.set(self, now + PATIENCE)
        for endpoint in self.endpoints:
            if not all(pool.is_drained for pool in self._directory.pools_of(endpoint)):
                self.wake(endpoint)
            self.look(endpoint, now)
        self._judge(now)

    def forget(self, endpoint: Endpoint, why: str) -> None:
        """Forget what is known of the endpoint's server, and what it is being asked; why, in words."""
        if endpoint.is_asked or endpoint.is_looking or not endpoint.is_located:
            self._agenda.effects.append(Leave(endpoint.name))
        self._agenda.timers.clear(endpoint)
        self._agenda.doubted.pop(endpoint, None)
        endpoint.forget(why)
        for cluster in self.clusters.values():
            if cluster.primary is endpoint:
                cluster.primary = None

    def start(self, now: float) -> None:
        """Ask all endpoints."""
        if self.endpoints:
            self._agenda.timers.set(self, now + PATIENCE)
        for endpoint in self.endpoints:
            self.look(endpoint, now)

    def due(self, now: float) -> None:
        """Those that have not answered are not waited for any longer."""
        self._is_started = True
        self._judge(now)

    def replicas(self, cluster: Cluster) -> list[Endpoint]:
        """The cluster's replicas."""
        mine = [each for each in self.endpoints if each.observation and each.observation.system == cluster.system]
        return [each for each in mine if each.role is Role.REPLICA]

    def rest(self, endpoint: Endpoint) -> None:
        """Leave the endpoint alone until `wake`, as an operator has drained it; then it may be anything."""
        endpoint.is_resting = True
        self.forget(endpoint, "an operator has drained it")
        for group in self._groups:
            for pool in group.pools:
                if pool.endpoint is endpoint:
                    pool.is_serving = False

    def wake(self, endpoint: Endpoint) -> None:
        """Ask the endpoint again what it is, at once, if it was left alone."""
        if endpoint.is_resting:
            endpoint.is_resting = False
            endpoint.why = "its role is not known yet"
            if endpoint in self.endpoints:
                self._agenda.timers.set(endpoint, 0.0)

    def look(self, endpoint: Endpoint, now: float) -> None:
        """Ask the endpoint's server what it is."""
        if endpoint.is_looking or endpoint.is_resting:
            return
        if now < endpoint.looked + GAP:
            self._agenda.timers.set(endpoint, endpoint.looked + GAP)
            return
        endpoint.is_looking = True
        endpoint.looked = now
        self._agenda.timers.clear(endpoint)
        self._agenda.effects.append(Observe(endpoint.name, _COUNTS))

    def doubt(self, now: float) -> None:
        """Something tells that roles may have changed: ask. What turned out to be a standby is no primary any more."""
        doubted = self._agenda.doubted
        told = [endpoint for endpoint, is_standby in doubted.items() if is_standby]
        concerned = [group for group in self._groups if not doubted.keys().isdisjoint(group.endpoints)]
        asked = [endpoint for group in concerned for endpoint in group.endpoints]
        for endpoint in doubted:
            endpoint.position = 0  # a standby that starts again may show less than before
        doubted.clear()
        for endpoint in told:
            if endpoint.observation is not None:
                endpoint.observation = replace(endpoint.observation, is_in_recovery=True)
        if told:
            self._judge(now)
        for endpoint in dict.fromkeys(asked):
            self.look(endpoint, now)

    def observed(self, endpoint: Endpoint, observation: Observation, now: float) -> None:
        """The endpoint's server has answered."""
        endpoint.observation = observation
        endpoint.observed = now
        endpoint.position = observation.position
        if endpoint.is_asked and not endpoint.is_heard:
            self._agenda.effects.append(Note("endpoint answers again", False, {"endpoint": endpoint.name}))
        endpoint.is_heard = True
        self._answered(endpoint, now)

    def unobserved(self, endpoint: Endpoint, error: str, now: float) -> None:
        """The endpoint's server did not answer."""
        if endpoint.is_heard or not endpoint.is_asked:
            self._agenda.effects.append(
                Note("endpoint does not answer", True, {"endpoint": endpoint.name, "error": error})
            )
        endpoint.is_heard = False
        endpoint.is_located = True
        endpoint.position = 0
        if endpoint.observation is None:
            endpoint.why = f"it does not answer ({error})"
        self._answered(endpoint, now)

    def _answered(self, endpoint: Endpoint, now: float) -> None:
        endpoint.is_looking = False
        endpoint.is_asked = True
        self._is_started = self._is_started or all(each.is_asked for each in self.endpoints)
        self._judge(now)
        is_missing = any(group.is_primary_missing for group in self._groups)
        interval = self._config.broker.role_check_interval
        pause = min(interval, URGENT_INTERVAL) if is_missing else interval
        self._agenda.timers.set(endpoint, now + pause)

    def handed_over(self, backend: Backend, now: float) -> None:
        """The lane has given the backend back with all that it runs: if its endpoint is fenced it is abandoned."""
        pool = backend.pool
        if pool.endpoint.role is Role.FENCED and not pool.is_serving:
            self._runs.abandon(backend, pool.endpoint.in_words(), now)

    def _judge(self, now: float) -> None:
        """Find out the roles of all endpoints, and act where they have changed."""
        if not self._is_started:
            return
        clusters: dict[str, list[Endpoint]] = {}
        for endpoint in self.endpoints:
            if endpoint.observation is not None:
                clusters.setdefault(endpoint.observation.system, []).append(endpoint)
        fenced = []
        for system, members in clusters.items():
            known = self._timelines.get(system, 0)
            newest = roles.newest_timeline(members, known)
            if newest > known:
                self._timelines[system] = newest
                self._agenda.effects.append(Remember(system, newest))
            for endpoint, verdict in zip(members, roles.judged(members, newest), strict=True):
                if verdict.role is Role.FENCED and endpoint.role is not Role.FENCED:
                    fenced.append(endpoint)
                self._note(endpoint, verdict)
                endpoint.role, endpoint.why = verdict
            self._follow(system, members, now)
        for group in self._groups:
            if not self._is_awaiting(group, now):
                self._apply(group, now)
        for group in self._writing:
            if group.followed is None:
                seen = next((each.observation for each in group.endpoints if each.observation is not None), None)
                group.followed = None if seen is None else self.clusters.get(seen.system)
        for endpoint in fenced:
            self._abandon(endpoint, now)

    def _is_awaiting(self, group: Group, now: float) -> bool:
        """Whether the group's endpoints are still waited for."""
        until = self._awaiting.get(group)
        if until is None:
            return False
        if now < until and not all(each.is_asked for each in group.endpoints):
            return True
        del self._awaiting[group]
        return False

    def _follow(self, system: str, members: list[Endpoint], now: float) -> None:
        """Note which endpoint is the cluster's primary, and how far it has come."""
        cluster = self.clusters.setdefault(system, Cluster(system))
        primary = next((each for each in members if each.role is Role.PRIMARY), None)
        if primary is not None and primary.observation is not None:
            seen = primary.observation
            if cluster.reign not in ((), (seen.timeline, seen.started)):
                cluster.begin_anew()
                self._generations.begin_anew()
            cluster.reign = (seen.timeline, seen.started)
            cluster.timeline = seen.timeline
            cluster.note(seen.position, now)
            if primary.observed == now and cluster.have_catalogs_changed(seen.catalogs, seen.position):
                self._generations.begin_anew()
        cluster.primary = primary
        behind = [each for each in members if each.role is Role.REPLICA and each.position < cluster.changed_at]
        if cluster.changed_at and not behind:
            cluster.changed_at = 0  # what was proven on replicas meanwhile may have been proven by the old catalogs
            self._generations.begin_anew()
        for endpoint in members:
            if endpoint.role is Role.REPLICA and endpoint.observed == now:
                endpoint.lag = cluster.lag(endpoint.position, now)

    def _note(self, endpoint: Endpoint, verdict: roles.Verdict) -> None:
        if (endpoint.role, endpoint.why) != verdict:
            is_bad = verdict.role is Role.FENCED
            fields = {"endpoint": endpoint.name, "role": verdict.role.name.lower(), "reason": verdict.why}
            self._agenda.effects.append(Note("endpoint has a role", is_bad, fields))

    def _apply(self, group: Group, now: float) -> None:
        """Use the group's endpoints that have the role it wants, and no others."""
        self._look_at_clusters(group)
        changed = []
        for pool in group.pools:
            is_serving = not group.obstacle and roles.serves(pool, group, now)
            if is_serving is not pool.is_serving:
                pool.is_serving = is_serving
                changed.append(pool)
        if changed:
            for pool in changed:
                if not pool.is_serving:
                    self._retire(pool, now)
            self._lifecycle.endpoint_changed(group)

    def _look_at_clusters(self, group: Group) -> None:
        """All endpoints of a group belong to one database cluster, the one that it begins with."""
        if group.cluster is None and not group.obstacle:
            obstacle = roles.mixed(group.endpoints)
            if obstacle:
                self._refuse(group, obstacle)
            else:
                systems = [each.observation.system for each in group.endpoints if each.observation is not None]
                group.cluster = self.clusters[systems[0]] if systems else None
        for endpoint in group.endpoints:
            if roles.is_foreign(endpoint, group) and (group, endpoint) not in self._foreign:
                self._foreign.add((group, endpoint))
                fields = {"endpoint": endpoint.name, "group": group.name, "reason": roles.mixed(group.endpoints)}
                self._agenda.effects.append(Note("endpoint not used", True, fields))

    def _refuse(self, group: Group, obstacle: str) -> None:
        """Refuse the group's requests from here on, as its endpoints do not fit together."""
        group.obstacle = (
            f"group {group.name!r} has role = {group.role!r}, but {obstacle}; put each cluster into a group of its "
            'own, or give the group role = "any" if they are equals'
        )
        self._agenda.effects.append(Note("group refused", True, {"group": group.name, "reason": group.obstacle}))
        for request in list(group.queue):
            self._waiting.discard(request, failures.usage(group.obstacle))

    def _retire(self, pool: Pool, now: float) -> None:
        """The pool's endpoint is not used any more. If it was the primary its transactions and sessions end."""
        if pool.group.role != "primary":
            return
        reason = f"endpoint {pool.endpoint.name!r} is not used any more: {pool.endpoint.why}"
        for backend in [each for members in pool.members for each in members.values() if each.lease is not None]:
            request = backend.running[-1] if backend.running else None
            if backend.lease is None or (request is not None and request.verb is not QUERY):
                continue  # a COMMIT or ROLLBACK is ending the lease
            self._leases.lose(backend.lease, reason, now)
            if request is not None and request.state is RUNNING:
                self._runs.cancel(request, CANCELLED, reason, now)
        for inquiry in list(pool.inquiries):
            pool.inquiries.remove(inquiry)
            self._runs.conclude(inquiry, self._runs.inquiry.replaced(inquiry, now), now)

    def _abandon(self, endpoint: Endpoint, now: float) -> None:
        """The endpoint is fenced: what has begun there must not be taken for done."""
        for pool in [each for group in self._groups for each in group.pools if each.endpoint is endpoint]:
            for backend in [each for members in pool.members for each in members.values()]:
                if backend.state is LENT:
                    self._lifecycle.recall(backend, at_once=True)
                else:
                    self._runs.abandon(backend, endpoint.in_words(), now)
