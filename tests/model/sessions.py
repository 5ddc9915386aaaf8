"""What a session's answers mean: its statements commit by themselves, or in transactions that begin and end in it.

A statement that was answered inside a transaction is among the session's open_jobs until that ends. Where the end is
not known, they are no longer, and nothing is said of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from client.wire.messages import (
    EXECUTED,
    FAILED,
    NOT_EXECUTED,
    TX_LOST,
    TX_NONE,
    UNKNOWN,
    Failure,
    ResultMessage,
    TransactionResult,
)

if TYPE_CHECKING:
    from model.books import Job, Lease
    from poold.core.broker import Broker


def check_told(broker: Broker, job: Job, body: ResultMessage | TransactionResult | Failure) -> None:
    """In a session that runs nothing its client is told the transaction as it is: by that it goes."""
    client = broker.clients.get(job.client)
    if job.lease is None or not job.lease.is_session or client is None or isinstance(body, TransactionResult):
        return
    lease = client.leases.get(job.lease.number)
    is_usage = isinstance(body, Failure) and body.kind in ("usage", "protocol")
    if lease is not None and lease.backend is not None and not lease.backend.running and not is_usage:
        is_it = lease.backend.transaction
        assert body.transaction == is_it, f"{job} is told {body.transaction}, the session's transaction is {is_it}"


def check_result(job: Job, lease: Lease, body: ResultMessage) -> None:
    """The client is told that its request was done."""
    if job.kind == "release":
        if not _may_be_committing(lease):
            _roll_back(lease)
        return
    assert job.kind == "rollback" or not lease.is_lost, f"{job} is done, its session was lost"
    if _is_end(job):
        if body.command == "COMMIT":
            _commit(job, lease)
        else:
            _roll_back(lease)
    elif not job.is_control:
        _done(job, lease, body.transaction)


def check_failure(job: Job, lease: Lease, failure: Failure) -> None:
    """The client is told that its request has failed, or that nobody knows."""
    is_ended = failure.transaction == TX_LOST or failure.kind == "transaction-lost"
    if failure.outcome == UNKNOWN:
        is_plain = job.kind == "in session" and b" /*" not in job.steps[0][0]  # type: ignore[index]  # has no marks
        assert not (is_plain and lease.open_jobs), f"{job} is in a transaction, nothing of it is unknown"
        lease.open_jobs.clear()
    elif failure.outcome == EXECUTED:
        if _is_end(job):
            _commit(job, lease)
        elif not job.is_control:
            _done(job, lease, failure.transaction)
    else:
        assert failure.outcome in (FAILED, NOT_EXECUTED)
        if job.kind == "in session":
            job.is_denied = True
            assert not job.commits, f"{job} is committed, its client is told {failure}"
        is_ended = is_ended or (_is_end(job) and failure.outcome == FAILED)
    if is_ended and not _may_be_committing(lease):
        _roll_back(lease)
    if failure.transaction == TX_LOST and not any(each.reply is None for each in lease.jobs):
        lease.is_lost = True


def _is_end(job: Job) -> bool:
    """Whether it ends a transaction."""
    if job.kind != "in session":
        return job.kind in ("commit", "rollback")
    return job.steps[0][0].startswith((b"COMMIT", b"ROLLBACK"))  # type: ignore[index]  # it has no marks


def _may_be_committing(lease: Lease) -> bool:
    return any(each.reply is None and _is_end(each) for each in lease.jobs)


def _done(job: Job, lease: Lease, transaction: str) -> None:
    if transaction in (TX_NONE, TX_LOST):
        assert lease.is_autocommit or transaction == TX_LOST, f"{job} ran outside of a transaction"
        assert job.commits, f"{job} is answered and not committed"
    else:
        lease.open_jobs.append(job)


def _commit(job: Job, lease: Lease) -> None:
    for each in lease.open_jobs:
        assert each.commits, f"{each} is not committed, {job} succeeded"
    lease.open_jobs.clear()


def _roll_back(lease: Lease) -> None:
    for each in lease.open_jobs:
        each.is_denied = True
        assert not each.commits, f"{each} is committed, its client is told that it was rolled back"
    lease.open_jobs.clear()
