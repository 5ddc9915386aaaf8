"""The requests that are not answered yet: each enters once, and leaves with its one reply."""

from __future__ import annotations

from client.wire.messages import Failure, ResultMessage, TransactionResult
from poold.core.agenda import Agenda
from poold.core.effects import Reply
from poold.core.records.request import Request
from poold.core.state import DONE, WITHDRAWN


class Accounts:
    """All requests that a reply is owed to, and their size in bytes."""

    def __init__(self, agenda: Agenda) -> None:
        self._agenda = agenda
        self._timers = agenda.timers
        self.bytes = 0  # the size of all clients' unanswered requests in the core, as received

    def open(self, request: Request) -> None:
        """Note that a reply is owed to the request from here on."""
        group, client = request.group, request.client
        client.requests[request.number] = request
        client.bytes += request.size
        self.bytes += request.size
        group.stats.requests += 1
        if group not in client.groups:
            client.groups.add(group)
            group.clients += 1

    def take_over(self, request: Request) -> None:
        """A reply is owed to the request already, by the lane so far."""
        request.client.requests[request.number] = request
        request.client.bytes += request.size
        self.bytes += request.size

    def answer(self, request: Request, reply: ResultMessage | TransactionResult | Failure | None) -> None:
        """End the request with its reply, None if nobody is left to hear it.

        The caller takes the request out of whatever queue or lease holds it.
        """
        client = request.client
        del client.requests[request.number]
        client.bytes -= request.size
        self.bytes -= request.size
        self._timers.clear(request)
        if reply is not None and request.state is not WITHDRAWN:
            if type(reply) is Failure:
                reply = reply._replace(request=request.number)
            self._agenda.effects.append(Reply(client.key, reply))
        request.become(DONE)
