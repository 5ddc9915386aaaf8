"""The requests that are not answered yet: each enters once, and leaves with its one reply."""

from __future__ import annotations

from client.wire.messages import Failure, ResultMessage, TransactionResult
from poold.core.agenda import Agenda
from poold.core.effects import Reply
from poold.core.records.request import Request
from poold.core.state import DONE, WITHDRAWN


class Accounts:
    """What clients wait for, and how many bytes of it there are."""

    def __init__(self, agenda: Agenda) -> None:
        self._agenda = agenda
        self._timers = agenda.timers
        self.bytes = 0  # of all clients' unanswered requests, as they came

    def open(self, request: Request) -> None:
        """From here on the request is owed a reply."""
        group, client = request.group, request.client
        client.requests[request.number] = request
        client.bytes += request.size
        self.bytes += request.size
        group.stats.requests += 1
        if group not in client.groups:
            client.groups.add(group)
            group.clients += 1

    def answer(self, request: Request, reply: ResultMessage | TransactionResult | Failure | None) -> None:
        """The request is done; reply is None if nobody is left to hear it. Whoever holds the request forgets it."""
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
