"""Requests that were to run on a replica and cannot: they become requests for the primary, in the same place."""

from __future__ import annotations

from client.wire.messages import Failure
from poold.core.agenda import Agenda
from poold.core.clients.accounts import Accounts
from poold.core.clients.admission import Admission
from poold.core.records.client import Client
from poold.core.records.request import Request
from poold.core.requests.waiting import Waiting
from poold.core.work import labels


class Rerouting:
    """Gives requests to the group that their own, for reads on replicas, belongs to."""

    def __init__(self, agenda: Agenda, accounts: Accounts, waiting: Waiting, admission: Admission) -> None:
        self._agenda = agenda
        self._accounts = accounts
        self._waiting = waiting
        self._admission = admission

    def unconfigured(self, client: Client, name: str) -> Failure:
        """The failure of a message for a group that there is not."""
        return self._admission.unconfigured(client, name)

    def elsewhere(self, request: Request, now: float) -> None:
        """Run a request on the primary that was refused as its server is a standby."""
        backend = request.backend
        assert backend is not None
        if request.group.main is None:
            self._agenda.doubted[backend.pool.endpoint] = True
            self._waiting.again(request, now)
        else:
            request.wait_again()
            self.to_primary(request, now)

    def to_primary(self, request: Request, now: float) -> None:
        """Let the request, which runs nowhere, wait for the primary."""
        request.group.queue.discard(request)
        request.group.stats.rerouted += 1
        admitted = self._admission.on_primary(request)
        if isinstance(admitted, Failure):
            self._waiting.discard(request, admitted)
            return
        labels.attach(admitted)
        self._accounts.replace(request, admitted)
        self._waiting.queue(admitted, now)
        self._agenda.serve(admitted.group)
