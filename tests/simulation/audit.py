"""The end of a world: what clients were told, held against what is in the databases.

`model.books` has checked each answer and each commit when it came. Here all of it is looked at once more, from the
other side: by what the databases hold in the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from model.books import PLACES, Books, Job, Lease

from client.wire.messages import EXECUTED, UNKNOWN, Failure, ResultMessage, TransactionResult
from simulation.servers import Server


def audit(books: Books, servers: Iterable[Server]) -> list[int]:
    """Check every request; the numbers of those whose outcome their clients could not be told."""
    ledger = Counter(entry for server in servers for entry in server.ledger)
    for _, value in ledger:
        assert value // PLACES in books.jobs, f"{value} was never asked for"
    unknown = []
    for job in books.jobs.values():
        found = _found(job, ledger)
        is_once = found <= Counter(job.steps) or (job.is_read and job.was_lost)
        assert is_once, f"{job} is in the database more than once: {found}"
        if _is_unknown(job):
            unknown.append(job.number)
        elif job.kind in ("query", "message"):
            _check(job, found)
        elif job.kind == "in lease" and job.lease is not None and not job.lease.is_odd:
            _check_in_lease(job, job.lease, found)
    return unknown


def _found(job: Job, ledger: Counter[tuple[bytes, int]]) -> Counter[tuple[bytes, int]]:
    """What the databases hold of this request."""
    steps = [step for step in job.steps if step is not None]
    return Counter({step: ledger[step] for step in steps if step in ledger})


def _failure(job: Job) -> Failure | None:
    """Why the client was told that it failed, None where it was not."""
    if isinstance(job.reply, TransactionResult):
        return None if job.reply.failure is None else Failure._make(job.reply.failure)
    return job.reply if isinstance(job.reply, Failure) else None


def _is_unknown(job: Job) -> bool:
    """Whether the client was told that nobody knows, or told nothing as it is gone."""
    failure = _failure(job)
    return job.reply is None or (failure is not None and failure.outcome == UNKNOWN)


def _is_done(job: Job) -> bool:
    """Whether the client was told that it had its effect."""
    failure = _failure(job)
    return job.reply is not None and (failure is None or failure.outcome == EXECUTED)


def _check(job: Job, found: Counter[tuple[bytes, int]]) -> None:
    failure = _failure(job)
    if failure is not None and failure.outcome != EXECUTED:
        assert not found or job.is_read, f"{job} failed, and is in the database"
    elif job.kind == "query" and not job.is_control:
        assert found, f"{job} is answered, and not in the database"
    elif isinstance(job.reply, TransactionResult):
        told = [step for step, entry in zip(job.steps, job.reply.results, strict=True) if _is_result(entry)]
        assert Counter(told) <= found, f"{job} is told {told}, the database has {found}"


def _is_result(entry: object) -> bool:
    return isinstance(entry, tuple) and len(entry) == len(ResultMessage._fields)


def _check_in_lease(job: Job, lease: Lease, found: Counter[tuple[bytes, int]]) -> None:
    """A statement of an interactive transaction that its client did not end in some way of its own."""
    ends = [each for each in lease.jobs if each.kind == "commit"]
    if any(_is_done(each) for each in ends):
        assert found or job.is_control or not isinstance(job.reply, ResultMessage), f"{job} is committed, and not there"
    elif not any(_is_unknown(each) for each in ends):
        assert not found, f"{job} is in the database, its transaction was not committed"
