"""What must hold of the core whenever it has been told a fact, whatever came before.

Each check looks at one group, client or backend, so that who knows what a step has touched need not look at all.
Those of effects, of what is given to whom, are in `model.shell`; those of replies and commits in `model.books`.
"""

from __future__ import annotations

from typing import cast

from client.wire.limits import BATCH
from model.books import Books
from model.lending import Lending
from model.lines import Line
from model.shell import Shell
from poold.core.broker import Broker
from poold.core.pools.availability import AvailabilityState
from poold.core.pools.group import Group
from poold.core.records.backend import Backend
from poold.core.records.client import Client
from poold.core.records.flow import Flight
from poold.core.records.lease import Lease
from poold.core.records.request import Request, Verb
from poold.core.state import BackendState as S
from poold.core.state import BrokerState, RequestState
from poold.core.statements.statement import StatementState

_BUSY = (S.ACTIVE, S.CANCELLING, S.RESETTING)
_CANCELLING = (S.CANCELLING, S.SETTLING)


class Invariants:
    """The invariants of ARCHITECTURE.md that concern a state."""

    broker: Broker
    books: Books
    shell: Shell

    def check_all(self) -> None:
        """All there is; O(everything)."""
        for group in self.broker.directory.every():
            self.check_group(group)
            self.check_members(group)
            self.check_probes(group)
        for key in self.books.owed:
            self.check_client(key)
        self.check_clients_of_groups()
        self.check_counts()
        for backend in self.broker.backends.values():
            self.check_backend(backend)
        self.check_lines()
        self.check_deadlines()
        self.check_inquiries()
        self.check_lane()
        self.shell.copies.check()

    # Groups.

    def check_group(self, group: Group) -> None:
        """It is not larger than it may be, and nothing waits while a backend idles."""
        size = 0
        is_idle = False
        batched = {
            backend
            for pool in group.pools
            for members in pool.members
            for backend in members.values()
            if any(request.priority == BATCH for request in backend.running)
            or (backend.lease is not None and backend.lease.priority == BATCH)
        }
        assert group.batched == batched
        for pool in group.pools:
            size += pool.size
            is_idle = is_idle or (bool(pool.idle) and not pool.is_paused)
            if pool.inquiries or pool.questions:
                assert not pool.idle
                assert not pool.lent or any(each.is_recalled for each in pool.lent.values()), "nobody is recalled"
        self.shell.lifetimes.check_floor(group)
        self.shell.orders.check_group(group)
        self.shell.reloads.check_size(group, size)
        assert len(group.queue) == sum(1 for _ in group.queue)
        if group.queue.size:
            if is_idle:
                assert group.queue.first(group.priorities()) is None, f"one waits in {group.name} while a backend idles"
            assert size or group.is_paused or self.broker.agenda.timers.next_deadline() is not None
            self._check_growth(group)
        if isinstance(self.shell, Lending):
            self.shell.check_nobody_idles(group)

    def _check_growth(self, group: Group) -> None:
        """Where some wait and the group may have more backends, one is being opened, or will be tried soon."""
        if group.size >= group.config.max_size or group._wanted() <= 0 or self.broker.state is BrokerState.STOPPED:
            return
        if any(pool.is_paused for pool in group.pools if pool.is_serving):
            return  # until it is resumed
        if not any(pool.is_serving for pool in group.pools):
            assert group.has_roles, f"nobody serves {group.name}"
            return  # until its servers' roles change
        assert any(
            pool.connecting
            or (
                pool.availability.state is AvailabilityState.QUARANTINED
                and pool in self.broker.agenda.timers._deadlines
            )
            for pool in group.pools
        ), f"some wait in {group.name}, and nothing is done to let it grow"

    def check_members(self, group: Group) -> None:
        """A backend is in exactly the collection that its state names."""
        found: dict[int, S] = {}
        for pool in group.pools:
            for state in S:
                for number, backend in pool.members[state].items():
                    assert number not in found
                    assert backend.state is state
                    assert backend.pool is pool
                    assert self.broker.backends.get(number) is backend
                    found[number] = state
            assert pool.size == sum(len(members) for members in pool.members)
            assert pool.outdated == sum(each.is_outdated for members in pool.members for each in members.values())
        assert S.CLOSED not in found.values()
        assert found.keys() == {each.number for each in self.broker.backends.values() if each.group is group}

    def check_probes(self, group: Group) -> None:
        """A statement is probing only while a probe is on its way."""
        coming = set(group.probes)
        requests = [each for client in self.broker.clients.values() for each in _own(client)]
        for backend in self.broker.backends.values():
            requests += backend.running
        for request in requests:
            if request.verb is Verb.PROBE and request.statement is not None:
                coming.add(request.statement)
            elif request.script is not None:
                coming.update(request.script.to_probe)
        for statement in group.statements:
            is_of_today = statement.generation == group.statements.generation
            if statement.state is StatementState.PROBING and group.config.prepare == "auto" and is_of_today:
                assert statement in coming, f"{statement} waits for a probe that never comes"

    # Clients.

    def check_client(self, key: int) -> None:
        """What the client waits for is known and has its place; its leases are its own."""
        client = self.broker.clients[key]
        assert self.books.owed[key] == client.requests.keys()
        for request in client.requests.values():
            assert request.client is client
            if request.is_in_lane:
                self._check_flight(cast(Flight, request))
            else:
                self._check_request(request)
        for lease in client.leases.values():
            self._check_lease(client, lease)
        assert client.is_stalled or not client.held, f"client {key} reads, and is kept waiting"
        self._check_limits(client)

    def _check_limits(self, client: Client) -> None:
        """Of its requests there are not too many; its silence will be noticed."""
        config, requests = self.broker.config.broker, _own(client)
        assert client.bytes == sum(request.size for request in requests)
        if config.max_client_requests:
            asking = sum(request.verb in (Verb.QUERY, Verb.TRANSACTION) for request in requests)
            asking += len(client.requests) - len(requests)
            assert asking <= config.max_client_requests, f"client {client.key} has {asking} requests"
        if config.max_client_bytes and len(requests) > 1:
            assert client.bytes <= config.max_client_bytes + max(request.size for request in requests)
        if config.client_idle_timeout and client.key not in self.shell.dropped:
            due = self.broker.agenda.timers._deadlines.get(client)
            assert due is not None, f"client {client.key} may be silent for ever"
            assert due <= client.last_heard() + config.client_idle_timeout

    def _check_request(self, request: Request) -> None:
        held = self.broker.agenda.timers._deadlines
        state = request.state
        if request.is_waiting:
            is_pending = request.lease is not None and request in request.lease.pending
            places = {
                RequestState.PENDING: is_pending,
                RequestState.QUEUED: request in request.group.queue,
                RequestState.HELD: request in request.client.held,
            }
            found = [place for place, is_there in places.items() if is_there]
            assert found == ([] if state is RequestState.PAUSED else [state]), f"{request} is not where its state says"
            if not is_pending:  # behind another statement of its lease there is no limit but its own
                assert request in held, f"{request} could wait for ever"
            if request.deadline is not None:
                assert held[request] <= request.deadline
        elif state is RequestState.RUNNING or state is RequestState.CANCELLED:
            assert request.backend is not None
            is_counted = request.backend.counting is request
            assert (request in request.backend.running) is not is_counted, f"{request} runs nowhere"
            assert request.client.begun[0] >= request.number, f"the client of {request} believes that it has not begun"
            assert self.broker.backends.get(request.backend.number) is request.backend
            is_timed = request.deadline is not None and state is RequestState.RUNNING and not is_counted
            assert request in held or not is_timed, f"{request} may run beyond its deadline"
        else:
            assert state is RequestState.IN_DOUBT, f"{request} is not answered"

    def _check_flight(self, flight: Flight) -> None:
        """A request of the lane's: it waits in its group's queue, or runs on a backend of the lane's."""
        backends = self.broker.backends.values()
        places = sum(flight in each.flights for each in backends if each.state is S.LENT)
        is_queued = flight in flight.flow.group.queue  # type: ignore[comparison-overlap]  # stands where requests do
        assert (places, is_queued) == ((0, True) if flight.is_waiting else (1, False)), f"{flight.number} is nowhere"

    def _check_lease(self, client: Client, lease: Lease) -> None:
        assert lease.client is client
        backend = lease.backend
        if backend is None:
            begins = [each for each in client.requests.values() if each.lease is lease and each.opens]
            assert begins, f"lease {lease.number} has no backend and waits for none"
            return
        assert backend.lease is lease, f"lease {lease.number} is not its backend's"
        config = lease.limits
        if backend.state is S.LEASED and (config.lease_timeout or config.idle_in_transaction_timeout):
            assert lease in self.broker.agenda.timers._deadlines, f"lease {lease.number} could stay for ever"

    def check_clients_of_groups(self) -> None:
        """Each group knows how many clients have used it, and only what is connected waits."""
        clients = self.broker.clients
        for group in self.broker.directory.every():
            assert group.clients == sum(group in client.groups for client in clients.values())
            for request in group.queue:
                assert request.is_in_lane or request.state is RequestState.QUEUED
                assert clients.get(request.client.key) is request.client, f"the client of {request} is gone"
                assert request.client.requests.get(request.number) is request

    def check_counts(self) -> None:
        """Each request that was accepted is a call of some statement, has never begun, or is not answered yet."""
        unanswered = {each for client in self.broker.clients.values() for each in _own(client)}
        for backend in self.broker.backends.values():
            running = [*backend.running, backend.counting]
            unanswered |= {each for each in running if each is not None and each.verb < Verb.PROBE}
            unanswered |= {each.about for each in running if each is not None and each.about is not None}
        held = self.broker.agenda.timers._deadlines
        unanswered |= {key.about for key in held if isinstance(key, Request) and key.about is not None}
        flights = [
            each.flow.group  # type: ignore[attr-defined]  # a Flight
            for client in self.broker.clients.values()
            for each in client.requests.values()
            if each.is_in_lane
        ]
        fleets = self.shell.lane.fleets if isinstance(self.shell, Lending) else {}
        for group in self.broker.groups.values():
            fleet = fleets.get(group)
            accepted = group.stats.requests + (fleet.requests if fleet else 0)
            calls = group.tallies.total().calls + (len(fleet.calls) if fleet else 0)
            own = sum(each.group is group for each in unanswered) + flights.count(group)
            assert accepted == calls + group.stats.not_begun + own, f"{group.name} has lost count of its requests"

    # Backends.

    def check_backend(self, backend: Backend) -> None:
        """The core and its server agree, and its state will not stay for ever."""
        line = self.shell.lines[backend.number]
        state = backend.state
        assert not line.is_closed
        self.shell.orders.check_backend(backend)
        assert (state is S.CONNECTING) is (line.session is None)
        assert not line.orders or state in (*_BUSY, S.LENT)
        assert line.orders or state not in _BUSY
        assert len(backend.running) == (0 if state in (S.RESETTING, S.LENT) else len(line.orders))
        assert len(backend.flights) == (len(line.orders) if state is S.LENT else 0)
        assert bool(line.cancel) is (state in _CANCELLING)
        if state is S.IDLE:
            _check_idle(backend, line)
        lease = backend.lease
        if state is S.LEASED:
            assert lease is not None
        if lease is not None:
            assert lease.backend is backend
            assert lease.client.leases.get(lease.number) is lease
            assert self.broker.clients.get(lease.client.key) is lease.client, "leased to a client that is gone"
        if state not in (S.IDLE, S.LEASED, S.LENT):
            held = self.broker.agenda.timers._deadlines
            is_unlimited = backend.query_timeout == 0 and state is S.ACTIVE
            assert is_unlimited or backend in held or backend.request in held, f"{backend} could stay so for ever"

    def check_lines(self) -> None:
        """There are no backends but those whose connections are there, and the other way round."""
        lines = {number for number, line in self.shell.lines.items() if not line.is_closed}
        if self.broker.state is not BrokerState.STOPPED:
            assert lines == self.broker.backends.keys()

    # Time.

    def check_deadlines(self) -> None:
        """The next deadline told is not later than the earliest held."""
        deadlines = self.broker.agenda.timers._deadlines.values()
        told = self.broker.next_deadline()
        if deadlines:
            assert told is not None
            assert told <= min(deadlines)
        self.shell.lifetimes.check_looks()

    def check_inquiries(self) -> None:
        """Whoever is in doubt is being asked for, with a deadline."""
        held = self.broker.agenda.timers._deadlines
        asked = {key.about for key in held if isinstance(key, Request) and key.verb is Verb.INQUIRY}
        for client in self.broker.clients.values():
            for request in _own(client):
                if request.state is RequestState.IN_DOUBT:
                    assert request in asked, f"nobody asks what became of {request}"

    def check_lane(self) -> None:
        """The lane has what the core has lent, and nothing for long."""
        if isinstance(self.shell, Lending):
            self.shell.check_owners()
            self.shell.check_age()


def _own(client: Client) -> list[Request]:
    """The client's requests that are the core's."""
    return [each for each in client.requests.values() if not each.is_in_lane]


def _check_idle(backend: Backend, line: Line) -> None:
    session = line.session
    assert session is not None
    assert backend.lease is None
    assert session.work is None, "an idle backend is idle in PostgreSQL's sense"
    assert not session.left, f"an idle backend holds {session.left}"
    is_known = session.names.keys() <= backend.prepared._held.keys()
    assert is_known or backend.prepared._is_doubted, "what is prepared is known to be"
