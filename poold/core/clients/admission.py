"""Admission: whether a message becomes a request, and why not.

A client's message is checked against the broker's state: the group, its limits, the client's leases. If it is admitted
it becomes a Request, which the broker answers exactly once. If not it gets its one reply at once, and nothing of it is
kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from client.wire.limits import NO_SESSION, ON_REPLICAS, OPENS_SESSION
from client.wire.messages import (
    TX_LOST,
    BatchMessage,
    Commit,
    Failure,
    ProtocolViolation,
    Query,
    ResultMessage,
    Rollback,
    TransactionMessage,
)
from poold.config.current import CurrentConfig
from poold.config.model import GroupConfig
from poold.core.clients.access import Caller, may_use
from poold.core.clients.objections import (
    READ_ONLY,
    batch_objection,
    message_would_write,
    not_in,
    statement_objection,
    would_write,
)
from poold.core.pools import shortage
from poold.core.pools.group import Group
from poold.core.records.client import Client
from poold.core.records.flow import MAX_MESSAGE_BYTES, Flight
from poold.core.records.lease import Lease
from poold.core.records.request import QUERY, Request, Verb
from poold.core.statements.statement import PREPARED
from poold.core.stats import Refusal
from poold.core.work import failures, settings
from poold.core.work.batch import Batch
from poold.core.work.labels import comment_of
from poold.core.work.results import rolled_back
from poold.core.work.script import Script
from poold.core.work.transaction import refusal


class Admission:
    """Turns messages into requests, or refuses them."""

    def __init__(self, config: CurrentConfig, removed: Mapping[str, GroupConfig] | None = None) -> None:
        """removed: the groups that a reload has removed."""
        self.is_drained = False  # if not: whether an operator's word is the reason
        self.is_open = True  # whether new work is taken; an open lease may always be ended
        self._removed = removed if removed is not None else {}
        self._config = config

    @property
    def most_bytes(self) -> int:
        """Bytes of all clients' unanswered requests from which on a client is limited to its share.

        At least two of the largest requests.
        """
        config = self._config.broker
        return max(config.max_buffered_bytes, 2 * config.max_request_bytes)

    def request(
        self,
        client: Client,
        message: Query | BatchMessage | TransactionMessage | Commit | Rollback,
        now: float,
        size: int,
    ) -> Request | ResultMessage | Failure:
        """Return the request, or the reply if the message is refused or there is nothing to do.

        The message's number must not be in use. size is the message's, in bytes.
        """
        if client.requests:
            refused = self._too_many(client, message, size)
            if refused is not None:
                return refused
        if isinstance(message, Query):
            return self._query(client, message, now)
        if isinstance(message, BatchMessage):
            return self._batch(client, message, now)
        if isinstance(message, TransactionMessage):
            return self._transaction(client, message, now)
        return self._end(client, message, now)

    def on_primary(self, request: Request) -> Request | Failure:
        """Return a request for the same on the primary, in the group that its own belongs to; or why it cannot run."""
        message, main = request.message, request.group.main
        assert message is not None
        assert main is not None
        is_promised = message.group != main.name and not main.config.read_only
        message = message._replace(group=main.name)
        if isinstance(message, TransactionMessage):
            made = self._transaction(request.client, message, request.arrived, is_accepted=True)
        else:
            if is_promised:
                message = message._replace(settings=message.settings + READ_ONLY)
            made = self._of_statement(request.client, main, message, None, request.arrived)
            if request.lease is not None and isinstance(made, Request):
                made.lease, made.begin, made.opens = request.lease, request.begin, request.opens
                request.lease.group = main
        if isinstance(made, Request):
            made.size, made.moves, made.origin = request.size, request.moves, request.origin
            made.is_alone, made.yields = request.is_alone, request.yields
            made.transfer, made.batch = request.transfer, request.batch
        return made

    def _query(self, client: Client, message: Query, now: float) -> Request | Failure:
        group = _going_on(client, message) or client.open_groups.get(message.group)
        if group is None:
            lost = client.lost_leases.get(message.lease)
            return lost or self._without_replicas(client, message, now) or self.unconfigured(client, message.group)
        refused: Failure | None = None
        lease: Lease | None = None
        opens = False
        if message.lease or message.session or message.begin:
            if not message.lease:
                return failures.protocol("what begins or goes on with a session or a transaction has a lease number")
            opens = message.session == OPENS_SESSION or (message.begin and not message.session)
            if not opens:
                lease = client.leases.get(message.lease)
                refused = not_in(lease, client, group, message)
                group = group if lease is None else lease.group
            elif message.lease in client.leases:
                refused = failures.protocol(f"lease {message.lease} is open already, numbers must be new")
        if refused is None and lease is None and (group.queue.size or not self.is_open):
            refused = self._no_room(group)
        if refused is not None:
            return refused
        if group.routes_reads and _is_routed(group, message):
            group = cast(Group, group.replicas)
        made = self._of_statement(client, group, message, lease, now)
        if type(made) is not Request or not message.lease:
            return made
        if lease is None:
            lease = Lease(client, message.lease, group, message.priority, message.session != NO_SESSION)
            lease.begins = message.begin
            client.leases[message.lease] = lease
        made.lease, made.begin, made.opens = lease, message.begin, opens
        return made

    def _without_replicas(self, client: Client, message: Query, now: float) -> Request | Failure | None:
        """Return the request of a statement that only reads, in a group without replicas; None if it names none."""
        name = message.group.removesuffix(ON_REPLICAS)
        group = client.open_groups.get(name)
        if group is None or name == message.group:
            return None
        is_safe = group.config.read_only or group.role == "replica" or (message.lease and not message.begin)
        settings = message.settings if is_safe else message.settings + READ_ONLY
        return self._query(client, message._replace(group=name, settings=settings), now)

    def _batch(self, client: Client, message: BatchMessage, now: float) -> Request | Failure:
        """The request is that of the message's first statement, and has all of them as its batch."""
        open_groups, name = client.open_groups, message.group
        group = _going_on(client, message) or open_groups.get(name) or open_groups.get(name.removesuffix(ON_REPLICAS))
        if group is None:
            return client.lost_leases.get(message.lease) or self.unconfigured(client, name)
        try:
            plan = group.plans.find(message.steps)
        except ProtocolViolation as violation:
            return failures.protocol(str(violation))
        if not message.lease:
            return failures.protocol("a batch runs in a session or a transaction, which has a lease number")
        if not plan.is_whole or len(message.values) != plan.count:
            return failures.protocol("a batch holds statements alone, with values for each")
        refused = batch_objection(group, plan, message)
        if refused is not None:
            return refused
        steps = [step._replace(values=values) for step, values in zip(plan.steps, message.values, strict=True)]  # type: ignore[union-attr]  # no marks
        first = steps[0]
        begin = (message.request, message.group, message.lease, message.begin, *first[:4])
        options = (message.timeout, message.tag, message.priority, message.settings, message.session, message.origin)
        query = Query._make((*begin, *options))
        made = self._query(client, query, now)
        if type(made) is Request:
            made.batch = Batch(steps, comment_of(made.group.config.show_tags, message.tag))
        return made

    def _of_statement(
        self, client: Client, group: Group, message: Query, lease: Lease | None, now: float
    ) -> Request | Failure:
        """Return the request of the message's statement in this group, or why it cannot run; lease is the open one."""
        text = message.statement + comment_of(group.config.show_tags, message.tag)
        statement = group.statements.find(text, message.types, message.settings)
        if statement.state is not PREPARED:
            try:
                statement.rendered(message.values)
            except ProtocolViolation as violation:
                return failures.protocol(str(violation))
        # The hot path: what most requests do not have is left to the class's defaults, and not checked again.
        is_special = statement.is_remarkable or message.settings
        refused = statement_objection(statement, message) if is_special else None
        if refused is None and group.config.read_only:
            refused = would_write(statement, message, lease)
        if refused is not None:
            return refused
        deadline = None if message.timeout is None else now + message.timeout
        request = Request(client, message.request, group, QUERY, now, deadline)
        request.tag = message.tag
        request.priority = message.priority
        request.statement, request.values, request.prepare = statement, message.values, message.prepare
        if group.main is not None:
            request.message = message
        if is_special:
            request.settings = message.settings
            request.is_literal = settings.choose_plans(message.settings)
        return request

    def _transaction(
        self, client: Client, message: TransactionMessage, now: float, is_accepted: bool = False
    ) -> Request | Failure:
        """is_accepted: the transaction was admitted before, and has to run on the primary."""
        group = client.open_groups.get(message.group)
        if group is None:
            return self.unconfigured(client, message.group)
        if not is_accepted:
            if message.read_only and message.isolation != "serializable" and group.replicas is not None:
                group = group.replicas
            refused = self._no_room(group)
            if refused is not None:
                return refused
        try:
            plan = group.plans.find(message.steps, comment_of(group.config.show_tags, message.tag))
        except ProtocolViolation as violation:
            return failures.protocol(str(violation))
        obstacle = plan.obstacle or settings.objection(message.settings)
        if obstacle:
            return failures.usage(obstacle)
        if len(message.values) != plan.count:
            return failures.protocol(f"{plan.count} statements have {len(message.values)} values")
        config, limit = group.config, self._config.broker.max_result_bytes
        if config.read_only and (refused := message_would_write(plan, message)) is not None:
            return refused
        script = Script(message, plan, group.statements, config.track_outcome, limit, config.read_only)
        refused = refusal(script)
        if refused is not None:
            return refused
        deadline = None if message.timeout is None else now + message.timeout
        request = Request(client, message.request, group, Verb.TRANSACTION, now, deadline)
        request.tag, request.priority = message.tag, message.priority
        request.script, request.settings = script, message.settings
        if group.main is not None:
            request.message = message
        return request

    def _too_many(
        self, client: Client, message: Query | BatchMessage | TransactionMessage | Commit | Rollback, size: int
    ) -> Failure | None:
        """Why a client that waits for replies already may not send this message; None if it may.

        A message that ends a lease is always taken, as it makes room.
        """
        if not isinstance(message, (Query, BatchMessage, TransactionMessage)):
            return None
        config, count = self._config.broker, len(client.requests)
        if 0 < config.max_client_requests <= count:
            reason = f"{count} unanswered requests, max_client_requests = {config.max_client_requests}"
        elif 0 < config.max_client_bytes < _unanswered_bytes(client, config.max_client_bytes - size) + size:
            reason = (
                f"unanswered requests of {_unanswered_bytes(client, 0)} bytes and this one has {size}, "
                f"max_client_bytes = {config.max_client_bytes}"
            )
        else:
            return None
        if (group := client.open_groups.get(message.group)) is not None:
            group.stats.refused_for[Refusal.CLIENT_LIMIT] += 1
        return failures.too_many(f"this client has {reason}; wait for replies")

    def share_exceeded(self, client: Client, name: str, size: int, clients: int) -> Failure | None:
        """Why the client may not send so many bytes to the group while all clients have too many; None if it may.

        clients is their number. Each may have an equal share of the limit, so a client with few unanswered bytes is
        not refused because of others that have many.
        """
        if client.bytes + size <= self.most_bytes // clients:
            return None
        if (group := client.open_groups.get(name)) is not None:
            group.stats.refused_for[Refusal.MAX_BUFFERED_BYTES] += 1
        return failures.too_many(
            f"requests of all clients wait with {self.most_bytes} bytes (max_buffered_bytes), and this client's would "
            f"have {client.bytes + size}, more than its part; wait for replies, or send less at a time"
        )

    def unconfigured(self, client: Client, name: str) -> Failure:
        """The failure of a message for a group that there is not, or is not for this client: one text for both."""
        known = [each for each, group in client.open_groups.items() if group.main is None]
        return self.removal(client, name) or failures.unconfigured_group(name, known)

    def removal(self, client: Client, name: str) -> Failure | None:
        """The failure of a message for a group that a reload has removed, and that the client could use; else None."""
        removed = self._removed.get(name.removesuffix(ON_REPLICAS))
        is_told = removed is not None and may_use(client.caller or Caller(client.uid), removed)
        return failures.removed(name) if is_told else None

    def _no_room(self, group: Group) -> Failure | None:
        """Why the group takes no new requests at the moment; None if it does."""
        if not self.is_open:
            group.stats.refused_for[Refusal.DRAINING] += 1
            return failures.drained() if self.is_drained else failures.draining()
        if 0 < group.config.max_waiting <= len(group.queue):
            group.stats.refused_for[Refusal.MAX_WAITING] += 1
            return shortage.full(group)
        return None

    def _end(self, client: Client, message: Commit | Rollback, now: float) -> Request | ResultMessage | Failure:
        verb = Verb.COMMIT if type(message) is Commit else Verb.ROLLBACK
        lease = client.leases.get(message.lease)
        if lease is None:
            if verb is Verb.COMMIT:
                # An earlier COMMIT may have ended the transaction without its client having heard of it.
                unknown = failures.end_unknown("it had ended already", message.lease in client.lost_sessions)
                return client.lost_leases.get(message.lease, unknown)
            if message.lease in client.lost_sessions:
                # Whatever else the client asks of this session is not executed.
                client.lost_leases[message.lease] = failures.lease_lost("it had ended already", is_session=True)
                return rolled_back(message.request)._replace(transaction=TX_LOST)
            client.forget_lost(message.lease)
            return rolled_back(message.request)
        return Request(client, message.request, lease.group, verb, now, lease=lease)


def _unanswered_bytes(client: Client, most: int) -> int:
    """The bytes of the client's unanswered requests, or fewer if they are certainly not more than most."""
    if client.bytes + MAX_MESSAGE_BYTES * len(client.requests) <= most:
        return client.bytes
    flights = (cast(Flight, each) for each in client.requests.values() if each.is_in_lane)
    return client.bytes + sum(len(each.message) for each in flights)


def _going_on(client: Client, message: Query | BatchMessage) -> Group | None:
    """The group of the open lease that the message names, if it is not what the client has under that name by now.

    What is open goes on to its end where it was begun: in a group that is removed, even if another one has its name, or
    in one that is not this client's any more.
    """
    lease = client.leases.get(message.lease) if message.lease else None
    if lease is None or message.group.removesuffix(ON_REPLICAS) != lease.group.configured:
        return None
    group = lease.group
    return group if group.is_removed or message.group not in client.open_groups else None


def _is_routed(group: Group, message: Query) -> bool:
    """Whether the message's statement is proven to be a plain read, and so may run on a replica."""
    if message.lease or message.settings or not message.prepare:
        return False
    statement = group.statements.find(
        message.statement + comment_of(group.config.show_tags, message.tag), message.types, b""
    )
    return statement.state is PREPARED and statement.proof.is_plain_read and not statement.is_forgotten
