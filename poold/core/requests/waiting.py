"""Where a request is that does not run: held, queued, behind another one of its lease, paused; and how it leaves."""

from __future__ import annotations

from client.wire.messages import TX_NONE, Failure, ResultMessage
from poold.core.agenda import Agenda
from poold.core.clients.accounts import Accounts
from poold.core.clients.leases import Leases, transaction_of
from poold.core.records.client import Client
from poold.core.records.lease import Lease
from poold.core.records.request import INQUIRY, Request
from poold.core.state import QUEUED, RequestState
from poold.core.work import failures
from poold.core.work.time_limits import is_hopeless


class Waiting:
    """The steps of requests that wait."""

    def __init__(self, agenda: Agenda, accounts: Accounts, leases: Leases) -> None:
        self._agenda = agenda
        self._accounts = accounts
        self._leases = leases

    def queue(self, request: Request, now: float) -> None:
        """The request waits for a backend of its group."""
        request.become(QUEUED)
        request.group.queue.push(request)
        self.limit(request, now)
        self._watch(request, now)

    def hold(self, request: Request) -> None:
        """The request could be begun, but its client does not read its replies."""
        request.become(RequestState.HELD)
        request.client.held[request] = None

    def release(self, client: Client) -> None:
        """The client reads: what was held for it waits for its turn once more."""
        held = list(client.held)
        client.held.clear()
        for request in held:
            request.become(QUEUED)
            request.group.queue.push(request)
            self._agenda.serve(request.group)

    def follow(self, request: Request, lease: Lease) -> None:
        """The request waits for those of its lease before it."""
        request.become(RequestState.PENDING)
        lease.pending.append(request)
        if request.deadline is not None:
            self._agenda.timers.set(request, request.deadline)

    def again(self, request: Request, now: float, is_last: bool = False) -> None:
        """The request is run once more: it is the next of its group, or the last one."""
        request.wait_again()
        request.become(QUEUED)
        if is_last:
            request.group.queue.push(request)
        else:
            request.group.queue.push_front(request)
        self.limit(request, now)
        self._watch(request, now)
        self._agenda.serve(request.group)

    def pause(self, request: Request, until: float) -> None:
        """The request goes on at that time."""
        request.become(RequestState.PAUSED)
        request.backend = None
        self._agenda.timers.set(request, until)

    def ask(self, question: Request) -> None:
        """A question of the broker's own waits for a backend of its server."""
        assert question.pool is not None
        question.become(RequestState.ASKING)
        if question.verb is INQUIRY:
            assert question.deadline is not None
            question.pool.inquiries.append(question)
            self._agenda.timers.set(question, question.deadline)
        else:
            question.pool.questions.append(question)
        self._agenda.serve(question.group)

    def discard(self, request: Request, reply: ResultMessage | Failure | None) -> None:
        """A waiting request leaves unexecuted."""
        lease = request.lease
        request.group.queue.discard(request)
        request.client.held.pop(request, None)
        if lease is not None and request in lease.pending:
            lease.pending.remove(request)
            if type(reply) is Failure and reply.transaction == TX_NONE:
                reply = reply._replace(transaction=transaction_of(lease))  # its lease goes on
        self._accounts.answer(request, reply)
        if lease is not None and request.opens:
            self._leases.lose(lease, "its first statement did not run")

    def overdue(self, request: Request, now: float) -> None:
        """The request waited too long: it leaves unexecuted."""
        request.group.stats.timeouts += 1
        is_own = request.deadline is not None and (request.deadline <= now or is_hopeless(request, now))
        waited = now - request.arrived
        is_held = request.state is RequestState.HELD
        self.discard(request, failures.unread(waited) if is_held else request.group.overdue(waited, is_own))

    def limit(self, request: Request, now: float) -> None:
        """It waits for queue_timeout, or as long as its client wants."""
        limit = now + request.group.config.queue_timeout
        self._agenda.timers.set(request, limit if request.deadline is None else min(limit, request.deadline))

    def _watch(self, request: Request, now: float) -> None:
        """Have a look soon at what the backends run that it waits for."""
        for pool in request.group.pools:
            if pool.active:
                pool.watch.arm(self._agenda.timers, now)
