"""The requests that are not answered yet: each enters once, and leaves with its one reply."""

from __future__ import annotations

from client.wire.messages import Answer, Failure, ResultMessage, TransactionResult
from poold.core.agenda import Agenda
from poold.core.clients.counting import count
from poold.core.clients.journal import Journal
from poold.core.effects import Reply
from poold.core.records.request import Request
from poold.core.state import DONE, WITHDRAWN
from poold.core.work.writes import has_written, is_flushed


class Accounts:
    """All requests that a reply is owed to, and their size in bytes."""

    def __init__(self, agenda: Agenda) -> None:
        self._agenda = agenda
        self._timers = agenda.timers
        self.journal = Journal(agenda)
        self.bytes = 0  # the size of all clients' unanswered requests in the core, as received

    def open(self, request: Request) -> None:
        """Note that a reply is owed to the request from here on."""
        group, client = request.group, request.client
        client.requests[request.number] = request
        client.bytes += request.size
        self.bytes += request.size
        group.stats.requests += 1
        group.stats.transactions += request.begin or request.script is not None
        if group not in client.groups:
            client.groups.add(group)
            group.clients += 1

    def take_over(self, request: Request) -> None:
        """A reply is owed to the request already, by the lane so far."""
        request.client.requests[request.number] = request
        request.client.bytes += request.size
        self.bytes += request.size

    def begun(self, request: Request, now: float) -> None:
        """Take note that the request begins on its backend."""
        if request.group.config.log_long_wait:
            self.journal.begun(request, now - request.arrived)

    def replace(self, old: Request, new: Request) -> None:
        """The new request takes the place of the old one, which ends without a reply of its own."""
        self._timers.clear(old)
        count(old, None)
        old.become(DONE)
        old.client.bytes -= old.size
        self.bytes -= old.size
        self.open(new)

    def answer(self, request: Request, reply: Answer | ResultMessage | TransactionResult | Failure | None) -> None:
        """End the request with its reply, None if nobody is left to hear it.

        The caller takes the request out of whatever queue or lease holds it.
        """
        client = request.client
        del client.requests[request.number]
        client.bytes -= request.size
        self.bytes -= request.size
        self._timers.clear(request)
        count(request, reply)
        cluster = request.group.followed
        if cluster is not None and has_written(request, reply):
            cluster.wrote(client.process, is_loose=not is_flushed(request))
        config = request.group.config
        if config.log_slow or config.log_long_wait or request.origin:
            self.journal.ended(request, None if request.state is WITHDRAWN else reply)
        if reply is not None and request.state is not WITHDRAWN:
            if type(reply) is Failure:
                request.group.stats.count_error(reply.sqlstate, reply.kind)
                reply = reply._replace(request=request.number)
            elif type(reply) is TransactionResult and reply.failure is not None:
                failure = Failure._make(reply.failure)
                request.group.stats.count_error(failure.sqlstate, failure.kind)
            self._agenda.effects.append(Reply(client.key, reply))
        request.become(DONE)
