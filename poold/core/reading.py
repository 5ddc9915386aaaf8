"""Reads on replicas: begun where the replicas have what the client's process has written, else given to the primary.

Until then a read waits, for catch_up at most: for the primary's position behind the process's writes, and for the
replicas to have replayed so much. Both are asked while anybody waits. While processes read on replicas, writers'
positions are asked for beforehand, so that they are not taken later, and higher, than they have to be.
"""

from __future__ import annotations

import re

from client.wire.messages import NOT_EXECUTED, Answer, Failure, Follow, plain_failure
from poold.core.agenda import Agenda
from poold.core.clients.accounts import Accounts
from poold.core.effects import Locate
from poold.core.facts import Location
from poold.core.pools.cluster import Cluster
from poold.core.pools.endpoint import Endpoint, Role
from poold.core.records.client import Client
from poold.core.records.request import Request, Verb
from poold.core.requests.observing import Observing
from poold.core.requests.rerouting import Rerouting
from poold.core.settling import Settling
from poold.core.state import RequestState
from poold.core.work import failures

# Seconds between two questions for positions while no read waits. While one does it is this part of the time for which
# it has waited, within limits.
INTERVAL = 0.005
SHORTEST_PAUSE = 0.00025
PATIENCE = 0.25
# So many seconds a read waits for endpoints to say what they are: longer than `requests.observing` does.
PATIENCE_AT_START = 2.0
# One that is behind is asked so often whether it still is, while processes read.
SLOW_INTERVAL = 0.02
# For so many seconds behind the last read that was looked after here, writers' positions are asked for beforehand.
AHEAD = 10.0


class Reading:
    """The reads that wait for replicas."""

    def __init__(
        self, agenda: Agenda, accounts: Accounts, observing: Observing, rerouting: Rerouting, settling: Settling
    ) -> None:
        self._agenda = agenda
        self._accounts = accounts
        self._observing = observing
        self._rerouting = rerouting
        self._settling = settling
        # With the time since when they wait, in that order: enter by begin, leave when the replicas have replayed
        # enough, at their time limit, or unexecuted.
        self._waiting: dict[Request, float] = {}
        # Those of them that have come before endpoints have said what they are.
        self._early: dict[Request, None] = {}
        # Those that ask for their process's position, likewise.
        self._asking: dict[Request, None] = {}

    def begin(self, request: Request, now: float) -> None:
        """Run the request on a replica, let it wait for one, or give it to the primary."""
        group, cluster = request.group, request.group.cluster
        if cluster is None and not group.obstacle:
            self._early[request] = None
            self._wait(request, now + PATIENCE_AT_START, now)
        elif cluster is None or not group.is_reachable:
            self._rerouting.to_primary(request, now)
        else:
            self._begin(request, cluster, now)

    def _begin(self, request: Request, cluster: Cluster, now: float) -> None:
        group = request.group
        cluster.read = now
        if self._is_current(request, cluster):
            self._settling.dispatch(request, now)
        elif not group.config.catch_up or group.is_slow:
            self._rerouting.to_primary(request, now)
        else:
            patience = group.config.catch_up
            if request.deadline is not None:
                patience = min(patience, (request.deadline - now) / 2)  # it has to run in what is left
            self._wait(request, now + patience, now)
            self.locate(cluster, now)

    def _wait(self, request: Request, until: float, now: float) -> None:
        if request.state is not RequestState.PAUSED:
            request.become(RequestState.PAUSED)
        self._agenda.timers.set(request, until if request.deadline is None else min(until, request.deadline))
        self._waiting[request] = now

    def roles_told(self, now: float) -> None:
        """Begin the reads that have waited for endpoints to say what they are."""
        for request in [each for each in self._early if each.group.cluster is not None or each.group.obstacle]:
            del self._early[request]
            if self._waiting.pop(request, None) is not None and request.state is RequestState.PAUSED:
                self.begin(request, now)

    def _is_current(self, request: Request, cluster: Cluster) -> bool:
        group = request.group
        if group.is_current(request.client):
            return True
        if cluster.primary is not None and cluster.primary.is_heard:
            return False
        cluster.assume(max((each.position for each in self._observing.replicas(cluster)), default=0))
        return group.is_current(request.client)

    def is_waiting(self, request: Request) -> bool:
        """Whether the request waits for replicas to catch up."""
        return request in self._waiting

    def overdue(self, request: Request, now: float) -> None:
        """The replicas have not caught up in time, or nobody has said what he is."""
        self._waiting.pop(request, None)
        self._early.pop(request, None)
        self._rerouting.to_primary(request, now)

    def follow(self, client: Client, message: Follow, now: float) -> Answer | Failure | None:
        """Tell the client what its process has to see, or add to it; None: the answer comes when the primary's has."""
        group = client.open_groups.get(message.group)
        if group is None or group.main is not None:
            return self._rerouting.unconfigured(client, message.group)
        cluster = group.followed
        if group.role in ("replica", "prefer-replica"):
            text = f"group {group.name!r} has role = {group.role!r}: it shows what its replicas have"
            return failures.usage(f"{text}; positions are for a group on the primary, and read_only=True")
        if cluster is None and not group.has_roles:
            return _told(message.request, message.position)  # there is only one state to see
        if cluster is None:
            text = f"no endpoint of group {group.name!r} has said yet what it is; try again"
            return plain_failure("offline", NOT_EXECUTED, text)
        if message.position:
            return _shown(cluster, client, message)
        wanted = cluster.wanted(client.process)
        if wanted is not None:
            return _told(message.request, written(cluster, wanted))
        request = Request(client, message.request, group, Verb.POSITION, now, now + group.config.queue_timeout)
        self._accounts.open(request)
        request.become(RequestState.PAUSED)
        self._agenda.timers.set(request, now + group.config.queue_timeout)
        self._asking[request] = None
        self.locate(cluster, now)
        return None

    def unanswered(self, request: Request, now: float) -> None:
        """The primary has not told its position in time."""
        self._asking.pop(request, None)
        text = f"no primary of group {request.group.name!r} told its position within {now - request.arrived:.3g} s"
        self._accounts.answer(request, plain_failure("offline", NOT_EXECUTED, text))

    def _answer(self, cluster: Cluster) -> None:
        """Answer those who asked for the position of their process, as far as it is known."""
        for request in [each for each in self._asking if each.group.followed is cluster]:
            wanted = cluster.wanted(request.client.process)
            if request.state is not RequestState.PAUSED:
                del self._asking[request]  # it was withdrawn
            elif wanted is not None:
                del self._asking[request]
                self._accounts.answer(request, _told(request.number, written(cluster, wanted)))

    def locate(self, cluster: Cluster, now: float) -> None:
        """Ask the primary and the replicas, as far as somebody wants to know."""
        primary = cluster.primary
        if primary is not None and primary.is_located and cluster.is_due:
            cluster.asked += 1
            self._ask(primary)
        is_waited_for = self._oldest(cluster) is not None
        for endpoint in self._observing.replicas(cluster):
            is_wanted = is_waited_for or (endpoint.lag > 0 and now - endpoint.observed >= SLOW_INTERVAL)
            if is_wanted and endpoint.is_located and endpoint.is_heard:
                self._ask(endpoint)
        self._again(cluster, now)

    def _oldest(self, cluster: Cluster) -> float | None:
        """Since when the oldest of the cluster's reads waits; None if none does."""
        if any(request.group.followed is cluster for request in self._asking):
            return cluster.read
        return next((since for request, since in self._waiting.items() if request.group.cluster is cluster), None)

    def _again(self, cluster: Cluster, now: float) -> None:
        """Ask again soon, as long as processes read on replicas."""
        since = self._oldest(cluster)
        if since is not None:
            self._agenda.timers.set(cluster, now + min(max(SHORTEST_PAUSE, PATIENCE * (now - since)), INTERVAL))
        elif now - cluster.read <= AHEAD:
            self._agenda.timers.set(cluster, now + INTERVAL)
        else:
            self._agenda.timers.clear(cluster)

    def _ask(self, endpoint: Endpoint) -> None:
        endpoint.is_located = False
        self._agenda.effects.append(Locate(endpoint.name))

    def located(self, endpoint: Endpoint, location: Location, now: float) -> None:
        """The endpoint's server has told how far it has come."""
        endpoint.is_located = True
        seen = endpoint.observation
        if seen is None or location.is_in_recovery is not seen.is_in_recovery:
            self._observing.look(endpoint, now)
            return
        cluster = self._observing.clusters[seen.system]
        endpoint.position = location.flushed
        endpoint.observed = now
        if endpoint is cluster.primary:
            flushed = location.inserted if endpoint.is_loose or seen.is_loose else location.flushed
            cluster.located(cluster.asked, flushed, location.inserted, now)
            self._answer(cluster)
        elif endpoint.role is Role.REPLICA:
            endpoint.lag = cluster.lag(endpoint.position, now)
        self._go_on(cluster, now)

    def _go_on(self, cluster: Cluster, now: float) -> None:
        """Begin the reads for which the replicas have replayed enough."""
        for request in [each for each in self._waiting if each.group.cluster is cluster]:
            if request.state is not RequestState.PAUSED:
                del self._waiting[request]  # it was withdrawn
            elif request.group.is_current(request.client):
                del self._waiting[request]
                self._settling.dispatch(request, now)
        self._again(cluster, now)


# A position as clients know it: the cluster's system identifier, and the place in its log as PostgreSQL writes it.
_POSITION = re.compile(r"([0-9]{1,20}):([0-9A-F]{1,8})/([0-9A-F]{1,8})")


def written(cluster: Cluster, position: int) -> str:
    """The position as clients know it."""
    return f"{cluster.system}:{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def _told(number: int, position: str) -> Answer:
    return Answer(number, {"position": position})


def _shown(cluster: Cluster, client: Client, message: Follow) -> Answer | Failure:
    """Let the client's process see the message's position."""
    found = _POSITION.fullmatch(message.position)
    if found is None:
        return failures.usage(f"{message.position!r} is no position; pass what db.position has given")
    if found[1] != cluster.system:
        text = f"the position is one of database cluster {found[1]}, and group {message.group!r} is on {cluster.system}"
        return failures.usage(text)
    cluster.show(client.process, (int(found[2], 16) << 32) + int(found[3], 16))
    return _told(message.request, message.position)
