"""What was asked, what was answered, and what PostgreSQL committed: the three must agree.

Each statement carries a value that is its own, PLACES times its request's number and, in a transaction message, its
place. So whatever a server commits is known to be somebody's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from client.wire.messages import (
    EXECUTED,
    FAILED,
    NOT_EXECUTED,
    TX_ACTIVE,
    TX_BROKEN,
    TX_FAILED,
    TX_LOST,
    TX_NONE,
    UNKNOWN,
    Failure,
    ResultMessage,
    TransactionResult,
)
from model import sessions
from model.kinds import Kind, kind_of

if TYPE_CHECKING:
    from model.postgres import Work
from poold.core.work.time_limits import GUARD

PLACES = 100
STALE = ("26000", "42P05", "0A000")
STALE_MESSAGE = "an error"  # in contrast to those of a commit


@dataclass(eq=False)
class Lease:
    """One interactive transaction, or session, as its client sees it."""

    client: int
    number: int
    jobs: list[Job] = field(default_factory=list)
    is_odd: bool = False  # its client ends it by a statement of its own, and gets what it asked for
    is_denied: bool = False  # its client was told that nothing of it is committed
    is_session: bool = False
    is_promised: bool = False  # it only reads, as its client says
    is_autocommit: bool = True  # a session's statements may run outside of a transaction
    line: int = 0  # the connection that it is in, once it is
    # A session's, see model.sessions.
    open_jobs: list[Job] = field(default_factory=list)
    is_lost: bool = False

    @property
    def owner(self) -> object:
        return ("session" if self.is_session else "lease", self.client, self.number)


@dataclass(eq=False)
class Job:
    """A request, what its client was told, and what was committed of it."""

    number: int
    client: int
    kind: str  # query, in lease, in session, commit, rollback, release, message
    lease: Lease | None = None
    steps: list[tuple[bytes, int] | None] = field(default_factory=list)  # template and value, None for marks
    retries: int = 0
    mark: int | None = None  # what the marker is to be set to for it, see model.marks
    begins: int = 0  # how often its transaction has begun
    is_proven: bool = False  # the core knew all its statements to be harmless when it was given to a backend
    is_alone: bool = False  # it was cancelled for those that waited behind it
    deadline: float | None = None
    is_control: bool = False  # its statement begins or ends a transaction, and has no effect of its own
    is_refused: bool = False  # it makes no sense where it is asked for
    is_withdrawn: bool = False
    was_cancelled: bool = False  # a cancel was meant for it
    given_at: float = 0.0  # when it was last given to a backend
    is_overdue: bool = False  # it took longer than it may
    timed_out: bool = False  # PostgreSQL's own statement_timeout ended it
    is_over: bool = False  # PostgreSQL ended it, or was asked to: to be told, not to be run again
    was_given: bool = False  # to a backend
    has_failed: bool = False  # a unit of it, after which it may run again
    is_broken: bool = False  # it left a connection that nobody can ask
    is_untold: bool = False  # the server did not tell how many transactions it took
    was_lost: bool = False  # a connection was lost while it was there
    reply: Any = None
    is_denied: bool = False
    commits: list[Work] = field(default_factory=list)
    # About reads on replicas.
    is_promised: bool = False  # its client says that it only reads
    must_see: tuple[Work, ...] = ()  # what its process was told to be done before
    missed: list[Work] = field(default_factory=list)  # of these, when it ran
    is_on_replicas: bool = False
    is_refused_there: bool = False  # by the server, for being a standby
    begun: int = 0  # how many units of it
    begun_in: int = 0  # the backend of the last one

    def __repr__(self) -> str:
        return f"<request {self.number}, {self.kind}>"

    @property
    def is_read(self) -> bool:
        """Whether it may run, and be committed, any number of times: all of it is plain reads."""
        own = self.kind in ("query", "message")
        return own and all(step is None or kind_of(step[0]).is_plain_read for step in self.steps)

    @property
    def owner(self) -> object:
        if self.lease is not None:
            return self.lease.owner
        return self.number if self.kind == "query" else ("message", self.number)


class Books:
    """All requests, by their numbers."""

    def __init__(self, query_timeout: float = 5.0) -> None:
        # After query_timeout and some time for the server to see to it the core cancels by itself.
        self._patience = query_timeout + GUARD if query_timeout else float("inf")
        self.jobs: dict[int, Job] = {}
        self._runs: Counter[int] = Counter()  # by value: how often a statement has begun to run
        self._by_owner: dict[object, list[Job]] = {}
        # Connected clients, and the requests they wait for.
        self.owed: dict[int, set[int]] = {}
        self.is_stopped = False

    def add(self, job: Job) -> None:
        """A client is about to send this."""
        self.jobs[job.number] = job
        self._by_owner.setdefault(job.owner, []).append(job)
        self.owed[job.client].add(job.number)
        if job.lease is not None:
            job.lease.jobs.append(job)

    def of(self, owner: object) -> list[Job]:
        """The requests that this owner's transaction runs for."""
        return self._by_owner.get(owner, [])

    def owner_of(self, value: int) -> object:
        return self.jobs[value // PLACES].owner

    def mark_of(self, value: int) -> int | None:
        return self.jobs[value // PLACES].mark

    def begun(self, owner: object) -> None:
        """A transaction has begun."""
        if isinstance(owner, tuple) and owner[0] == "message":
            self.jobs[owner[1]].begins += 1

    def ran(self, value: int, kind: Kind) -> None:
        """A statement has begun to run: it may have done what no rollback takes away, so it must not do so again.

        In each try of a message once.
        """
        job = self.jobs[value // PLACES]
        if kind.is_plain_read:
            return
        self._runs[value] += 1
        limit = job.begins if job.kind == "message" else 1
        assert self._runs[value] <= limit, f"statement {value} of {job} runs {self._runs[value]} times"

    def committed(self, work: Work) -> None:
        """A server has committed."""
        numbers = {value // PLACES for _, value in work.effects}
        if isinstance(work.owner, tuple) and work.owner[0] == "message":
            numbers.add(work.owner[1])  # all it did may have been undone by savepoints
        for number in numbers:
            job = self.jobs[number]
            job.commits.append(work)
            if job.is_read and (job.was_lost or self.is_stopped):
                continue  # it was run again, or may still be running where it was lost
            assert len(job.commits) == 1, f"{job} is committed twice"
            assert not job.is_denied, f"{job} is committed, its client was told that it is not"
            assert job.lease is None or not job.lease.is_denied, f"{job} is committed, its lease was lost"

    def reply(
        self, client: int, body: ResultMessage | TransactionResult | Failure, is_lease_open: bool | None, now: float
    ) -> None:
        """The core answers. is_lease_open: whether its lease goes on, None where both may be said."""
        job = self.jobs[body.request]
        job.is_overdue = now - job.given_at >= self._patience or (job.deadline is not None and job.deadline <= now)
        assert client == job.client
        assert job.reply is None, "answered twice"
        job.reply = body
        if client not in self.owed:
            return  # it is gone, and so is the reply
        self.owed[client].remove(job.number)
        if job.is_refused:
            assert isinstance(body, Failure)
            assert body.outcome == NOT_EXECUTED, f"{job} is not refused: {body}"
        if isinstance(body, TransactionResult):
            assert -1 <= body.step < len(job.steps), f"step {body.step} is none"
            assert body.tries <= job.retries + 1
            if body.failure is None:
                self._check_message(job, body)
            else:
                self._check_failure(job, Failure._make(body.failure))
        elif isinstance(body, ResultMessage):
            self._check_lease(job, body.transaction, is_lease_open)
            if job.lease is not None and job.lease.is_session:
                sessions.check_result(job, job.lease, body)
                if job.kind == "in session" and not job.is_control:
                    self._check_rows(job, body.rows, job.number * PLACES)
            else:
                self._check_result(job, body)
        else:
            if body.kind not in ("usage", "protocol"):
                self._check_lease(job, body.transaction, is_lease_open)
            self._check_failure(job, body)

    def _check_lease(self, job: Job, transaction: str, is_open: bool | None) -> None:
        """The client goes by this: it forgets a lease whose transaction is none."""
        assert transaction != TX_BROKEN
        if job.lease is None:
            assert transaction == TX_NONE
        elif job.lease.is_session and is_open:
            assert transaction != TX_LOST, f"{job} is told {transaction}, its session is open"
        elif is_open:
            assert transaction in (TX_ACTIVE, TX_FAILED), f"{job} is told {transaction}, its lease is open"
        elif is_open is False:
            assert transaction in (TX_NONE, TX_LOST), f"{job} is told {transaction}, its lease is over"

    def _check_result(self, job: Job, body: ResultMessage) -> None:
        if job.kind == "commit":
            assert body.command == "COMMIT"
            assert job.lease is not None
            for each in job.lease.jobs:
                if isinstance(each.reply, ResultMessage) and each.kind == "in lease" and not each.is_control:
                    assert each.commits, f"{each} is not committed, COMMIT succeeded"
        elif job.kind == "rollback":
            self._deny_lease(job)
        elif not job.is_control:
            assert job.kind == "in lease" or job.commits, f"{job} is answered and not committed"
            self._check_rows(job, body.rows, job.number * PLACES)

    def _check_rows(self, job: Job, rows: bytes, value: int) -> None:
        assert rows == b"" or rows.endswith(b"%d" % value), f"{job} is answered with another one's rows"

    def _check_message(self, job: Job, body: TransactionResult) -> None:
        assert job.commits, f"{job} is answered as committed"
        assert len(body.results) == len(job.steps)
        told: Counter[tuple[bytes, int]] = Counter()
        for entry, step in zip(body.results, job.steps, strict=True):
            if entry is None:
                assert step is None or job.was_lost or None in job.steps, "a result is missing"
            elif len(entry) == len(ResultMessage._fields):
                assert step is not None
                self._check_rows(job, entry[ResultMessage._fields.index("rows")], step[1])
                told[step] += 1
            else:
                failure = Failure._make(entry)
                assert failure.sqlstate != "57014" or job.timed_out or job.was_cancelled
                self._check_stale(job, failure)
                told[step] += failure.outcome == EXECUTED  # type: ignore[index]  # marks have no entry
        done = Counter(job.commits[-1].effects)
        assert told <= done if job.was_lost else +told == done, f"{job} is told {told}, committed is {done}"

    def _check_failure(self, job: Job, failure: Failure) -> None:
        assert failure.transaction != TX_BROKEN
        if failure.sqlstate == "57014":
            is_its_own = job.was_cancelled or job.timed_out or job.is_overdue or job.is_withdrawn
            assert is_its_own, f"{job} is hit by another one's cancel"
        if job.lease is None and not job.is_withdrawn and not job.is_overdue and not job.was_cancelled:
            self._check_stale(job, failure)
        if failure.outcome == UNKNOWN:
            is_lost = job.was_lost or self.is_stopped
            assert is_lost or _is_in_the_dark(job), f"{job} is not known without need: {failure}"
        if job.lease is not None and job.lease.is_session:
            sessions.check_failure(job, job.lease, failure)
        elif failure.outcome == UNKNOWN:
            pass
        elif failure.outcome == EXECUTED:
            assert job.kind not in ("query", "message") or job.is_control or job.commits
        else:
            assert failure.outcome in (FAILED, NOT_EXECUTED)
            self._deny(job, failure)

    def _check_stale(self, job: Job, failure: Failure) -> None:
        """What did not fit any more was not run, unless it may have run functions, or a trigger fails with its code."""
        is_stale = failure.sqlstate in STALE and failure.message == STALE_MESSAGE
        assert not is_stale or not job.is_proven, f"{job} could be run again: {failure}"

    def _deny(self, job: Job, failure: Failure) -> None:
        """The client is told that nothing of this is committed, so nothing may be, now or later."""
        if job.kind in ("query", "in lease", "message"):
            job.is_denied = True
            may_run_on = job.is_read and (job.was_lost or self.is_stopped)
            assert not job.commits or may_run_on, f"{job} is committed, its client is told {failure}"
        if job.kind == "commit" or failure.kind == "transaction-lost":
            self._deny_lease(job)

    def _deny_lease(self, job: Job) -> None:
        lease = job.lease
        if lease is not None and not lease.is_odd:
            lease.is_denied = True
            assert not any(each.commits for each in lease.jobs), f"{job} is told that the transaction was rolled back"


def _is_in_the_dark(job: Job) -> bool:
    """Whether it may have committed something by itself, and nobody can tell."""
    template = job.steps[0][0] if job.steps and job.steps[0] is not None else b""
    is_utility = job.kind in ("query", "in session") and b" /*" in template
    if is_utility and (kind_of(template).commits_in_parts or job.is_broken or job.is_untold):
        return True
    return job.lease is not None and any(each is not job and _may_have_ended(each) for each in job.lease.jobs)


def _may_have_ended(job: Job) -> bool:
    """Whether it may have committed its lease's transaction, or its client was told that there is none any more."""
    is_told = isinstance(job.reply, (ResultMessage, Failure)) and job.reply.transaction == TX_NONE
    is_code = (
        bool(job.steps) and job.steps[0] is not None and job.steps[0][0].startswith((b"CALL ", b"DO ", b"PREPARE "))
    )
    return job.kind == "commit" or job.is_control or is_code or is_told
