"""What follows when a deadline has come."""

from __future__ import annotations

from collections.abc import Iterable

from poold.config.current import CurrentConfig
from poold.core.agenda import Agenda
from poold.core.clients.leases import Leases
from poold.core.effects import Drop
from poold.core.operations.pausing import Pausing, PendingPause
from poold.core.operations.reconfiguring import Reconfiguring, Removal
from poold.core.pools.cluster import Cluster
from poold.core.pools.endpoint import Endpoint
from poold.core.pools.group import Group
from poold.core.pools.lifecycle import Lifecycle
from poold.core.pools.pool import Pool
from poold.core.pools.watch import Watch
from poold.core.reading import Reading
from poold.core.records.backend import Backend
from poold.core.records.client import Client
from poold.core.records.lease import Lease
from poold.core.records.request import Request, Verb
from poold.core.requests.observing import Observing
from poold.core.requests.runs import Runs
from poold.core.requests.waiting import Waiting
from poold.core.requests.watching import Watching
from poold.core.settling import Settling
from poold.core.state import CANCELLED, RUNNING, RequestState
from poold.core.work import failures


class Deadlines:
    """The steps that follow from deadlines."""

    def __init__(
        self,
        config: CurrentConfig,
        agenda: Agenda,
        leases: Leases,
        waiting: Waiting,
        lifecycle: Lifecycle,
        runs: Runs,
        watching: Watching,
        observing: Observing,
        settling: Settling,
        reading: Reading,
        pausing: Pausing,
        reconfiguring: Reconfiguring,
    ) -> None:
        self._config = config
        self._agenda = agenda
        self._leases = leases
        self._waiting = waiting
        self._lifecycle = lifecycle
        self._runs = runs
        self._watching = watching
        self._observing = observing
        self._settling = settling
        self._reading = reading
        self._pausing = pausing
        self._reconfiguring = reconfiguring

    def tidy(self, groups: Iterable[Group], clients: Iterable[Client], now: float) -> None:
        """Look through all groups, as is due from time to time."""
        for group in groups:
            self._lifecycle.retire(group, now)
            self._settling.settle(now)
            for pool in group.pools:
                self._watching.look_at_catalogs(pool, now)
            self._settling.settle(now)
        processes = {client.process for client in clients} if self._observing.clusters else ()
        for cluster in self._observing.clusters.values():
            cluster.forget(processes)

    def due(self, key: object, now: float) -> None:
        """The deadline of this request, backend, lease, client, watch, pool, endpoint or cluster has come."""
        if isinstance(key, Request):
            self._request_due(key, now)
        elif isinstance(key, Backend):
            self._runs.overdue(key, now)
        elif isinstance(key, Lease):
            self._lease_due(key, now)
        elif isinstance(key, Client):
            self._client_due(key, now)
        elif isinstance(key, Watch):
            follows = self._watching.look_at_pipelines(key, now)
            if follows is not None:
                self._runs.conclude(follows.request, follows, now)
        elif isinstance(key, Pool):
            key.availability.probe()
            self._lifecycle.endpoint_changed(key.group)
        elif isinstance(key, Endpoint):
            self._observing.look(key, now)
        elif isinstance(key, Cluster):
            self._reading.locate(key, now)
        elif isinstance(key, PendingPause):
            self._pausing.due(key, now)
        elif isinstance(key, Removal):
            self._reconfiguring.due(key, now)
        elif isinstance(key, Observing):
            self._observing.due(now)
            self._reading.roles_told(now)

    def _request_due(self, request: Request, now: float) -> None:
        """End the request's pause or wait, cancel it if it runs, or repeat a cancel that had no effect."""
        if request.verb is Verb.INQUIRY:
            self._inquiry_due(request, now)
        elif request.verb is Verb.POSITION:
            self._reading.unanswered(request, now)
        elif self._reading.is_waiting(request) and (request.deadline is None or now < request.deadline):
            self._reading.overdue(request, now)
        elif request.state is RequestState.PAUSED and (request.deadline is None or now < request.deadline):
            self._settling.dispatch(request, now)
        elif request.is_waiting:
            self._waiting.overdue(request, now)
        elif request.state is RUNNING:
            self._running_due(request, now)
        elif request.backend is not None and request.backend.request is request:
            self._runs.send_cancel(request.backend)

    def _running_due(self, request: Request, now: float) -> None:
        """The request has run until its deadline, or its COPY has waited for its client for too long."""
        idle_until = self._runs.copying.idle_until(request)
        if self._runs.copying.may_wait_longer(request, now):
            return
        if request.deadline is not None and (now >= request.deadline or idle_until is None):
            reason = failures.timeout_passed(request)
        else:
            limit = request.group.config.idle_in_transaction_timeout
            reason = f"its client gave or took no data of COPY for idle_in_transaction_timeout = {limit:g} s"
        self._runs.cancel(request, CANCELLED, reason, now)

    def _inquiry_due(self, inquiry: Request, now: float) -> None:
        """Ask once more after a pause, or conclude that there is no time left."""
        assert inquiry.deadline is not None
        assert inquiry.pool is not None
        if now < inquiry.deadline:
            self._waiting.ask(inquiry)
            return
        if inquiry in inquiry.pool.inquiries:
            inquiry.pool.inquiries.remove(inquiry)
        self._runs.conclude(inquiry, self._runs.inquiry.overdue(inquiry, now), now)

    def _lease_due(self, lease: Lease, now: float) -> None:
        """The lease was idle, or held, for too long."""
        request = lease.backend.running[-1] if lease.backend is not None and lease.backend.running else None
        if request is not None and request.verb is not Verb.QUERY:
            return  # a COMMIT or ROLLBACK is ending the lease
        config = lease.limits
        if lease.expires is not None and lease.expires <= now:
            reason = f"it was open for longer than lease_timeout = {config.lease_timeout:g} s"
        else:
            reason = (
                f"it was idle for longer than idle_in_transaction_timeout = {config.idle_in_transaction_timeout:g} s"
            )
        self._leases.lose(lease, reason, now)
        if request is not None and request.state is RUNNING:
            self._runs.cancel(request, CANCELLED, reason, now)

    def _client_due(self, client: Client, now: float) -> None:
        """Drop the client if it was silent for too long; one that waits for replies does not count as silent."""
        timeout = self._config.broker.client_idle_timeout
        if client.requests or self._pausing.is_waited_for(client.key):
            client.heard = now
        if now < client.last_heard() + timeout:
            self._agenda.timers.set(client, client.last_heard() + timeout)
        else:
            self._agenda.effects.append(Drop(client.key, f"it sent nothing for client_idle_timeout = {timeout:g} s"))
