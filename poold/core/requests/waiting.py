"""Requests that do not run: held, queued, behind another one of their lease, paused, asking; and how they leave."""

from __future__ import annotations

from client.wire.messages import TX_NONE, Failure, ResultMessage
from poold.core.agenda import Agenda
from poold.core.clients.accounts import Accounts
from poold.core.clients.leases import Leases, transaction_of
from poold.core.pools import shortage
from poold.core.pools.group import Group
from poold.core.records.client import Client
from poold.core.records.lease import Lease
from poold.core.records.request import INQUIRY, Request
from poold.core.state import QUEUED, RequestState
from poold.core.work import failures
from poold.core.work.time_limits import too_little


class Waiting:
    """The steps of requests that wait."""

    def __init__(self, agenda: Agenda, accounts: Accounts, leases: Leases) -> None:
        self._agenda = agenda
        self._accounts = accounts
        self._leases = leases

    def queue(self, request: Request, now: float) -> None:
        """Let the request wait for a backend of its group. If the group cannot have any, it is refused."""
        if request.group.obstacle:
            self.discard(request, failures.usage(request.group.obstacle))
            return
        request.become(QUEUED)
        request.group.queue.push(request)
        self.limit(request, now)
        self.watch(request.group, now)

    def hold(self, request: Request) -> None:
        """Hold the request, as its client leaves replies unread; `release` lets it go on."""
        request.become(RequestState.HELD)
        request.client.held[request] = None

    def release(self, client: Client, now: float) -> None:
        """Queue the client's held requests again, as it has read its replies."""
        held = list(client.held)
        client.held.clear()
        for request in held:
            request.become(QUEUED)
            request.group.queue.push(request)
            self.watch(request.group, now)
            self._agenda.serve(request.group)

    def follow(self, request: Request, lease: Lease) -> None:
        """Let the request wait for the requests of its lease before it."""
        request.become(RequestState.PENDING)
        lease.pending.append(request)
        if request.deadline is not None:
            self._agenda.timers.set(request, request.deadline)

    def again(self, request: Request, now: float, is_last: bool = False) -> None:
        """Run the request once more: as the next one of its group, or if is_last behind those of its process."""
        request.wait_again()
        request.waits_since = now
        request.become(QUEUED)
        if is_last:
            request.group.queue.push(request)
        else:
            request.group.queue.push_front(request)
        self.limit(request, now)
        self.watch(request.group, now)
        self._agenda.serve(request.group)

    def pause(self, request: Request, until: float) -> None:
        """Let the request wait until the given time."""
        request.become(RequestState.PAUSED)
        request.backend = None
        request.waits_since = until
        self._agenda.timers.set(request, until)

    def ask(self, question: Request) -> None:
        """Let a question of the broker's own wait for a backend of its server, `question.pool`."""
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
        """Take a waiting request out, unexecuted, with this reply. If it was to open a lease, the lease is lost."""
        lease = request.lease
        request.group.queue.discard(request)
        request.client.held.pop(request, None)
        if lease is not None and request in lease.pending:
            lease.pending.remove(request)
            if type(reply) is Failure and reply.transaction == TX_NONE:
                reply = reply._replace(transaction=transaction_of(lease))  # the lease goes on
        self._accounts.answer(request, reply)
        if lease is not None and request.opens:
            # It has had no backend, so there is no time to be counted.
            self._leases.lose(lease, "its first statement did not run", lease.began)

    def overdue(self, request: Request, now: float) -> None:
        """The request waited too long: take it out, unexecuted."""
        waited, limit = self._waited(request, now), self._limit(request, now)
        if request.state is RequestState.HELD:
            failure = failures.unread(waited, limit)
        elif request.state is RequestState.PENDING and request.lease is not None:
            failure = failures.behind(waited, limit, request.lease.is_session)
        else:
            failure = shortage.overdue(request.group, waited, limit)
        request.group.stats.timeouts += 1
        self.discard(request, failure)

    def refuse(self, request: Request, now: float) -> None:
        """The request would not end in time: take it out, unexecuted."""
        request.group.stats.timeouts += 1
        failure = shortage.overdue(request.group, self._waited(request, now), too_little(request, now), True)
        self.discard(request, failure)

    def _waited(self, request: Request, now: float) -> str:
        """How long the request has waited, in words."""
        since = request.waits_since
        return f"{now - request.arrived:.3g} s" if since is None else f"{now - since:.3g} s, for another try"

    def _limit(self, request: Request, now: float) -> str:
        """The limit, in words, until which the request has waited."""
        if request.deadline is not None and request.deadline <= now:
            return failures.own_timeout(request)
        return f"queue_timeout = {request.group.config.queue_timeout:g} s"

    def limit(self, request: Request, now: float) -> None:
        """Let the request wait for queue_timeout, but not beyond its own deadline."""
        limit = now + request.group.config.queue_timeout
        self._agenda.timers.set(request, limit if request.deadline is None else min(limit, request.deadline))

    def watch(self, group: Group, now: float) -> None:
        """Let the group's pools look soon for statements that wait for a lock, as a request waits for them."""
        for pool in group.pools:
            if pool.active:
                pool.watch.arm(self._agenda.timers, now)
