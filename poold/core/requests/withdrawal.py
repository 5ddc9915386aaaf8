"""Requests and leases that end before their time: their client wants no more of them, or is gone."""

from __future__ import annotations

from poold.core.clients.leases import Leases
from poold.core.records.client import Client
from poold.core.records.request import Request
from poold.core.requests.runs import Runs
from poold.core.requests.waiting import Waiting
from poold.core.state import CANCELLED, RUNNING, WITHDRAWN, RequestState
from poold.core.work import failures


class Withdrawal:
    """The steps by which others than the broker end what is a client's."""

    def __init__(self, leases: Leases, waiting: Waiting, runs: Runs) -> None:
        self._leases = leases
        self._waiting = waiting
        self._runs = runs

    def withdraw(self, request: Request, now: float) -> None:
        """The client withdraws the request, which still gets its one reply.

        COMMIT and ROLLBACK of a lease go on also if they wait, behind a statement whose own cancel is not settled yet,
        say. A rollback() that fails would leave the transaction open, for a later commit() to commit.
        """
        if request.is_ending:
            return
        request.group.stats.withdrawn += 1
        if request.is_waiting:
            self._waiting.discard(request, failures.withdrawn())
        elif request.state is RUNNING:
            self._runs.cancel(request, CANCELLED, "", now)
        elif request.state is RequestState.IN_DOUBT and request.script is not None:
            request.script.retries = 0  # no other try; the client is still told the outcome of this one

    def leave(self, client: Client, now: float) -> None:
        """The client is gone: cancel its work, and roll its transactions back."""
        for request in list(client.requests.values()):
            if request.state is RequestState.DONE:
                continue  # answered in this loop, together with the request that was to open its lease
            request.group.stats.withdrawn += 1
            if request.is_waiting:
                self._waiting.discard(request, None)
            elif request.state is RequestState.IN_DOUBT:
                request.become(WITHDRAWN)
            else:
                self._runs.cancel(request, WITHDRAWN, "", now)
        for lease in list(client.leases.values()):
            self._leases.end(lease, "its client is gone", now)
        for group in client.groups:
            group.clients -= 1

    def cut_off(self, client: Client, now: float) -> None:
        """The broker stops, and all backends are lost: answer what the client still waits for."""
        for request in list(client.requests.values()):
            if request.state is RequestState.IN_DOUBT:
                why = "PostgreSQL was not asked"
                unknown = self._runs.transaction.unknown(request, "the broker was stopped", why, now)
                self._runs.conclude(request, unknown, now)
            elif request.state is not RequestState.DONE:
                self._waiting.discard(request, failures.draining())
