"""Why a message cannot become a request: as its statement is, by its lease, in a group that is read-only."""

from __future__ import annotations

from typing import cast

from client.wire.limits import NO_SESSION
from client.wire.messages import TX_NONE, BatchMessage, Failure, ProtocolViolation, Query, Step, TransactionMessage
from poold.core.pools.group import Group
from poold.core.records.backend import Backend
from poold.core.records.client import Client
from poold.core.records.lease import Lease
from poold.core.statements.statement import PREPARED, Statement
from poold.core.work import failures, read_only, settings
from poold.core.work.transaction_plan import Plan

# The settings that hold for what only reads, and has to run on the primary: for the transaction that it runs in, and
# for one that it begins by itself.
READ_ONLY = b"transaction_read_only\0on\0default_transaction_read_only\0on\0"


def not_in(lease: Lease | None, client: Client, group: Group, message: Query) -> Failure | None:
    """Why the message cannot run in the lease that it names, None if it can; lease is None if it is not open."""
    is_session = message.session != NO_SESSION
    if lease is None:
        return _gone(client, message.lease, is_session)
    if lease.group not in (group, group.main) or lease.is_session is not is_session:
        what = "session" if lease.is_session else "transaction"
        return failures.usage(f"lease {lease.number} is a {what} in group {lease.group.name!r}")
    return None


def statement_objection(statement: Statement, message: Query) -> Failure | None:
    """Why the statement may not run, must run in a session, or cannot have these settings; None if it can run."""
    if statement.is_forbidden:
        return failures.relied_on()
    use = statement.use
    if use.wants_session and not (message.session if use.wants_no_transaction else message.lease):
        return failures.wants_session(use.leaves)
    if not message.settings:
        return None
    traits = statement.examine()
    if traits.is_several or traits.controls_transaction or traits.is_empty:
        return failures.no_single(traits.is_several, message.settings.endswith(READ_ONLY))
    reason = settings.objection(message.settings)
    return failures.usage(reason) if reason else None


def would_write(statement: Statement, message: Query, lease: Lease | None) -> Failure | None:
    """Why the statement cannot run in a read-only group; None if it can."""
    is_in_block = message.begin or (
        lease is not None
        and (not lease.is_session or (lease.backend is not None and _is_in_block(lease.backend, lease)))
    )
    reason = read_only.settings_objection(message.settings) or read_only.objection(
        statement.sql, message.values, is_in_block
    )
    return failures.usage(reason) if reason else None


def _is_in_block(backend: Backend, lease: Lease) -> bool:
    """Whether the lease is certainly inside a transaction block when its next statement runs."""
    return backend.transaction != TX_NONE and not backend.running and not lease.pending


def batch_objection(group: Group, plan: Plan, message: BatchMessage) -> Failure | None:
    """Why the batch cannot run, None if it can, as far as its statements tell."""
    if plan.obstacle:
        return failures.usage(plan.obstacle)
    for place, values in enumerate(message.values):
        statement = plan.statement(place)
        if not statement.examine().is_plain:
            return failures.usage(f"statement {place + 1} of the batch may not be planned by PostgreSQL; use query()")
        if group.config.read_only and (reason := read_only.objection(statement.sql, values, is_in_block=True)):
            return failures.usage(reason)
        if statement.state is not PREPARED or not cast(Step, plan.steps[place]).prepare:
            try:
                statement.rendered(values)
            except ProtocolViolation as violation:
                return failures.protocol(f"statement {place + 1} of the batch: {violation}")
    return None


def message_would_write(plan: Plan, message: TransactionMessage) -> Failure | None:
    reason = read_only.settings_objection(message.settings)
    if message.read_only is False:
        reason = "this group is read_only, its transactions cannot be READ WRITE"
    for place, at in enumerate(plan.places):
        if at >= 0 and not reason:
            reason = read_only.objection(plan.statement(place).sql, message.values[at], is_in_block=True)
    return failures.usage(reason) if reason else None


def _gone(client: Client, number: int, is_session: bool = False) -> Failure:
    """The failure that tells what became of a lease that is not open."""
    return client.lost_leases.get(number) or failures.lease_lost("it had ended already", is_session)
