"""What the lane gives back: backends at rest, backends with all that they run, and requests that wait.

The lane's requests are in their places already: among their client's, in the queue, on their backend. Each becomes a
Request there, in the state that it would have if the core had given it its unit itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from client.wire.codec import decode_request
from client.wire.messages import Query, TransactionMessage
from poold.config.current import CurrentConfig
from poold.core.agenda import Agenda
from poold.core.clients.accounts import Accounts
from poold.core.effects import Unit
from poold.core.pools.group import Group
from poold.core.records.backend import Backend
from poold.core.records.flow import Flight
from poold.core.records.request import QUERY, Request, Verb
from poold.core.requests.runs import Runs
from poold.core.requests.waiting import Waiting
from poold.core.state import QUEUED, RUNNING
from poold.core.work.script import Script
from poold.core.work.units import Runner


class HandOver:
    """The steps by which the lane's backends and requests become the core's."""

    def __init__(self, config: CurrentConfig, agenda: Agenda, accounts: Accounts, waiting: Waiting, runs: Runs) -> None:
        self._agenda = agenda
        self._accounts = accounts
        self._waiting = waiting
        self._runs = runs
        self._max_result_bytes = config.broker.max_result_bytes

    def lent_back(self, backend: Backend) -> None:
        """The backend rests."""
        backend.is_unused = True  # idle since the lane has used it last:
        backend.idle_since = max(backend.idle_since, backend.completed)
        backend.is_wanted = False
        self._is_back(backend)
        self._agenda.resting.append(backend)

    def handed_over(self, backend: Backend, now: float) -> list[Unit]:
        """The backend runs the lane's requests, whose answers are the core's to take. Returns their units."""
        flights, backend.flights = list(backend.flights), ()
        if not flights:
            self.lent_back(backend)
            return []
        self._is_back(backend)
        for flight in flights:
            request = self._request(flight)
            request.become(RUNNING)
            if flight is flights[0]:
                request.began = flight.began  # the lane has counted how long it has waited
            request.backend = backend
            request.started = flight.began
            request.ran = 0.0
            request.unit = flight.unit()
            if request.script is not None:
                request.runner = Runner(backend)
                request.runner.needed = {each.name: each for each in flight.flow.statements}
                request.script.begun()
            backend.running.append(request)
            if request.deadline is not None:
                self._agenda.timers.set(request, request.deadline)
        self._runs.go_on(backend, now)
        return [request.unit for request in backend.running]

    def queued(self, flights: Iterable[Flight], now: float) -> None:
        """The requests wait on, each in its place."""
        for flight in flights:
            flight.is_waiting = False
            request = self._request(flight)
            request.become(QUEUED)
            request.group.queue.replace(flight, request)
            self._waiting.limit(request, request.arrived)
            self._agenda.serve(request.group)

    def everything(self, backends: Iterable[Backend], groups: Iterable[Group], now: float) -> None:
        """All that is the lane's is the core's. A drain may be over before the lane has heard that it has begun."""
        for backend in backends:
            if backend.flights:
                self.handed_over(backend, now)
        for group in groups:
            self.queued([cast(Flight, each) for each in group.queue if each.is_in_lane], now)

    def _is_back(self, backend: Backend) -> None:
        backend.is_recalled = False
        backend.group.is_poked = False

    def _request(self, flight: Flight) -> Request:
        """Return the flight as a request of the core's, in the flight's place among its client's."""
        message, flow, client = decode_request(flight.message), flight.flow, flight.client
        assert isinstance(message, (Query, TransactionMessage))
        deadline = None if message.timeout is None else flight.arrived + message.timeout
        verb = QUERY if flow.plan is None else Verb.TRANSACTION
        request = Request(client, flight.number, flow.group, verb, flight.arrived, deadline)
        request.tag, request.origin = message.tag, message.origin
        request.priority = message.priority
        request.size = len(flight.message)
        if isinstance(message, Query):
            request.statement = flow.statements[0]
            request.values = message.values
        else:
            assert flow.plan is not None
            request.script = Script(message, flow.plan, flow.group.statements, False, self._max_result_bytes)
        if flow.group.main is not None:
            request.message = message
        self._accounts.take_over(request)
        return request
