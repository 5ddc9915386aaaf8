"""Ends by an operator's word: of a request, of a lease, of a client, of all clients of a process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from client.wire.messages import Ask
from poold.core.agenda import Agenda
from poold.core.clients.leases import Leases
from poold.core.effects import Drop
from poold.core.operations.selection import NotPossible, arguments_of
from poold.core.records.client import Client
from poold.core.records.lease import Lease
from poold.core.records.request import Request
from poold.core.requests.runs import Runs
from poold.core.requests.waiting import Waiting
from poold.core.state import CANCELLED, RUNNING, RequestState
from poold.core.work import failures

# The arguments that say what.
REQUEST, LEASE, CLIENT, PID = "request", "lease", "client", "pid"
KINDS = (REQUEST, LEASE, CLIENT, PID)
REASON = "an administrator ended it"
LISTED = "`poold stats --json` lists those that there are"


class Killing:
    """The steps by which operators end what is others'."""

    def __init__(
        self, agenda: Agenda, clients: Mapping[int, Client], leases: Leases, waiting: Waiting, runs: Runs
    ) -> None:
        self._agenda = agenda
        self._clients = clients
        self._leases = leases
        self._waiting = waiting
        self._runs = runs

    def concerns(self, message: Ask) -> list[int]:
        """The keys of the clients that the order is about; none if it is no order that can be carried out."""
        if message.what != "kill":
            return []
        try:
            return [client.key for client in self._meant(*self._target(message))]
        except NotPossible:
            return []

    def kill(self, asker: int, message: Ask, now: float) -> dict[str, Any]:
        """End what the order names; asker is the client who gives it, and is spared if its own process is named."""
        kind, text = self._target(message)
        clients = self._meant(kind, text)
        if kind == REQUEST:
            client, number = clients[0], _number(text)
            request = client.requests.get(number)
            if request is None:
                raise NotPossible(f"client {client.key} has no request {number}; {LISTED}")
            self._end_request(request, now)
        elif kind == LEASE:
            client, number = clients[0], _number(text)
            lease = client.leases.get(number)
            if lease is None:
                raise NotPossible(f"client {client.key} has no lease {number}; {LISTED}")
            self._end_lease(lease, now)
        else:
            clients = [client for client in clients if client.key != asker]
            if not clients:
                raise NotPossible(f"{kind} {text} is the one who asks")
            for client in clients:
                self._end_client(client)
        return {"what": kind, "id": text, "clients": [client.key for client in clients]}

    def _target(self, message: Ask) -> tuple[str, str]:
        """What kind of thing the order names, and which one."""
        found = [(name, value) for name, values in arguments_of(message, *KINDS).items() for value in values]
        if len(found) != 1:
            raise NotPossible(f"kill ends one thing at a time, {len(found)} are named; give one of {', '.join(KINDS)}")
        return found[0]

    def _meant(self, kind: str, text: str) -> list[Client]:
        """The clients of what is named. O(clients)."""
        number = text.partition("/")[0] if kind in (REQUEST, LEASE) else text
        if not (number.isascii() and number.isdecimal() and len(number) < 20):
            form = "CLIENT/NUMBER" if kind in (REQUEST, LEASE) else "a number"
            raise NotPossible(f"{text!r} is no {kind}: expected {form}, as `poold stats` shows it")
        if kind == PID:
            found = [client for client in self._clients.values() if client.pid == int(number)]
        else:
            found = [self._clients[int(number)]] if int(number) in self._clients else []
        if not found:
            what = f"process {number} has no client here" if kind == PID else f"there is no client {number}"
            raise NotPossible(f"{what}; {LISTED}")
        return found

    def _end_request(self, request: Request, now: float) -> None:
        """End the request: it gets its one reply, which says who has ended it."""
        if request.is_ending and request.is_waiting:
            raise NotPossible(f"a {request.verb.name} waits, and will end its transaction; end the lease instead")
        _refuse_what_cannot_end(request)
        if request.is_waiting:
            request.group.stats.withdrawn += 1
            self._waiting.discard(request, failures.killed(REASON))
        elif request.state is RUNNING:
            request.group.stats.withdrawn += 1
            self._runs.cancel(request, CANCELLED, REASON, now)

    def _end_lease(self, lease: Lease, now: float) -> None:
        """Lose the lease; what it runs is cancelled, and its transaction rolled back."""
        own = [each for each in lease.client.requests.values() if not each.is_in_lane and each.lease is lease]
        for request in own:
            if not request.is_waiting:
                _refuse_what_cannot_end(request)
        for request in own:
            if request.opens and request.is_waiting:
                self._waiting.discard(request, failures.lease_lost(REASON, lease.is_session))
                return
        self._leases.lose(lease, REASON, now)
        for request in own:
            if request.state is RUNNING:
                self._runs.cancel(request, CANCELLED, REASON, now)

    def _end_client(self, client: Client) -> None:
        """Disconnect the client. What waits is answered; what runs is cancelled when its connection has ended."""
        for request in list(client.requests.values()):
            if request.is_waiting and request.lease is None:
                self._waiting.discard(request, failures.killed(REASON))
        self._agenda.effects.append(Drop(client.key, REASON))


def _number(text: str) -> int:
    """The number behind the client's in the name of a request or a lease."""
    number = text.partition("/")[2]
    if not (number.isascii() and number.isdecimal() and len(number) < 20):
        raise NotPossible(f"{text!r}: expected CLIENT/NUMBER, as `poold stats` shows it")
    return int(number)


def _refuse_what_cannot_end(request: Request) -> None:
    if request.is_ending and not request.is_waiting:
        raise NotPossible(f"a {request.verb.name} runs, and is not ended: what it does cannot be taken back")
    if request.state is RUNNING and request.is_committing:
        raise NotPossible("the transaction's COMMIT runs, and is not ended: what it does cannot be taken back")
    if request.state is RequestState.IN_DOUBT:
        raise NotPossible("the request waits to hear what became of its COMMIT; nothing runs that could be ended")
