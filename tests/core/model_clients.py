"""Clients: what they send, and what the books keep of it."""

from __future__ import annotations

from typing import Any

from model.books import PLACES, Books, Job, Lease
from model.copying import WINDOW, Passing
from model.kinds import COPIES, COPY_IN
from model.leftovers import LEAVINGS
from model.postgres import INT4
from model.requests import BATCHED, CODE, LEASE_CONTROLS, TEMPLATES, batch_of, packed, settings_for, steps_of
from model.shell import Shell
from world import World

from client.wire.codec import split_steps
from client.wire.limits import IN_SESSION, NO_SESSION, NORMAL, OPENS_SESSION
from client.wire.messages import (
    NOT_EXECUTED,
    TX_LOST,
    TX_NONE,
    BatchMessage,
    Commit,
    CopyMessage,
    Failure,
    Release,
    Rollback,
    Step,
    TransactionMessage,
)


class Clients:
    """All clients, connected or not."""

    def __init__(self, world: World, books: Books, shell: Shell, is_read_only: bool) -> None:
        self.world = world
        self.books = books
        self.shell = shell
        self._is_read_only = is_read_only
        self._last_client = self._last_lease = 0
        self.leases: dict[int, Lease] = {}  # the open ones, as far as their clients know
        self.sessions: dict[int, Lease] = {}

    def arrive(self) -> None:
        self._last_client += 1
        self.books.owed[self._last_client] = set()
        self.world.client(self._last_client)
        self.shell.observe()

    def die(self, client: int) -> None:
        del self.books.owed[client]
        self.leases.pop(client, None)
        self.sessions.pop(client, None)
        self.shell.fact(self.world.broker.client_gone, client, self.world.now)

    def stall(self, client: int) -> None:
        self.shell.fact(self.world.broker.client_stalled, client)

    def read(self, client: int) -> None:
        self.shell.fact(self.world.broker.client_reads, client, self.world.now)

    def cancel(self, client: int, number: int) -> None:
        self.books.jobs[number].is_withdrawn = True
        self.shell.fact(self.world.broker.cancel, client, number, self.world.now)

    def query(
        self,
        client: int,
        statement: bytes,
        prepare: bool = True,
        timeout: float | None = None,
        priority: int = NORMAL,
        has_settings: bool = False,
    ) -> None:
        """Send a statement to the group with autocommit."""
        job = self._job(client, "query", timeout)
        job.is_refused = statement in LEAVINGS and LEAVINGS[statement].wants_session
        settings = settings_for(job, 1 + job.number % 2) if has_settings and b" /*" not in statement else b""
        self._send(job, statement, prepare, timeout, priority=priority, settings=settings)

    def query_in_lease(self, client: int, statement: bytes, timeout: float | None, priority: int = NORMAL) -> None:
        """Send a statement to the other group: the next of the client's lease, or the first of a new one."""
        lease = self.leases.get(client)
        begins = lease is None
        if lease is None:
            self._last_lease += 1
            lease = Lease(client, self._last_lease)
            self.leases[client] = lease
        lease.is_odd = lease.is_odd or statement in LEASE_CONTROLS[:2]
        job = self._job(client, "in lease", timeout, lease)
        more = {"group": "tx", "lease": lease.number, "begin": begins, "priority": priority}
        self._send(job, statement, True, timeout, **more)

    def in_session(
        self, client: int, what: bytes | type[Commit | Rollback | Release], group: str, timeout: float | None
    ) -> None:
        """Open a session in the group, or do something in the one that is open; whoever waits for an answer waits."""
        lease = self.sessions.get(client)
        if lease is not None and self._has_failed_to_open(lease):
            lease = None
        if lease is None and not isinstance(what, bytes):
            return
        if lease is None:
            self._last_lease += 1
            lease = Lease(client, self._last_lease, is_session=True)
            lease.is_autocommit = group == "default"
        if what is not Release and any(each.reply is None for each in lease.jobs):
            return
        if isinstance(what, bytes):
            self._query_in_session(client, lease, what, timeout)
            return
        number = lease.number
        if what is Release:
            del self.sessions[client]
            job = self._job(client, "release", lease=lease)
            self.world._last_request = job.number
            self.shell.fact(self.world.broker.request, client, Release(job.number, number), self.world.now)
        else:
            self._job(client, "commit" if what is Commit else "rollback", lease=lease)
            self.world.end(Commit if what is Commit else Rollback, number, client)
            self.shell.observe()

    def _has_failed_to_open(self, lease: Lease) -> bool:
        """Whether its first statement was refused, or its client knows that it is lost."""
        reply = lease.jobs[-1].reply
        is_first = len(lease.jobs) == 1 and isinstance(reply, Failure) and reply.transaction == TX_NONE
        is_refused = is_first and reply.outcome == NOT_EXECUTED
        return reply is not None and (is_refused or (reply.transaction == TX_LOST and lease.number % 2 == 0))

    def _query_in_session(self, client: int, lease: Lease, statement: bytes, timeout: float | None) -> None:
        is_outside = not lease.jobs or lease.jobs[-1].reply.transaction == TX_NONE
        if statement.startswith(b"BEGIN") and not (is_outside and lease.is_autocommit):
            return
        self.sessions[client] = lease
        session = IN_SESSION if lease.jobs else OPENS_SESSION
        job = self._job(client, "in session", timeout, lease)
        more = {"group": "default" if lease.is_autocommit else "tx", "session": session}
        begin = is_outside and not lease.is_autocommit
        self._send(job, statement, True, timeout, lease=lease.number, begin=begin, **more)

    def _send(self, job: Job, statement: bytes, prepare: bool, timeout: float | None, **more: Any) -> None:
        if self._is_read_only and statement.startswith(CODE):
            statement = TEMPLATES[1]
        job.is_control = statement.startswith((b"BEGIN", b"COMMIT", b"ROLLBACK"))
        job.steps = [(statement, job.number * PLACES)]
        if statement in COPIES:
            self._send_copy(job, statement, timeout, **more)
            return
        if more.get("lease") and statement in TEMPLATES and job.number % BATCHED == 0:
            self._send_batch(job, batch_of(job, statement, prepare), timeout, **more)
            return
        values = packed(job.number * PLACES)
        more |= {"statement": statement, "types": INT4, "values": values, "prepare": prepare, "timeout": timeout}
        self.world.query(job.client, **more)
        self.shell.observe()

    def _send_batch(
        self,
        job: Job,
        steps: list[Step],
        timeout: float | None,
        *,
        group: str = "default",
        lease: int = 0,
        begin: bool = False,
        priority: int = NORMAL,
        session: int = NO_SESSION,
        settings: bytes = b"",
    ) -> None:
        """Send statements for a lease as one message."""
        rest = (*split_steps(steps), timeout, "", priority, settings, session)
        self.world._last_request = job.number
        message = BatchMessage(job.number, group, lease, begin, *rest)
        self.shell.fact(self.world.broker.request, job.client, message, self.world.now)

    def _send_copy(
        self,
        job: Job,
        statement: bytes,
        timeout: float | None,
        *,
        group: str = "default",
        lease: int = 0,
        begin: bool = False,
        priority: int = NORMAL,
        session: int = NO_SESSION,
        settings: bytes = b"",
    ) -> None:
        """Send a COPY, without a limit of the server's, as far as settings can travel with it."""
        sql, is_in = statement.replace(b"\0", b"%d" % (job.number * PLACES)), statement == COPY_IN
        self.shell.copies.all[job.number] = Passing(job, is_in)
        settings = settings or (b"" if session else b"statement_timeout\x000\x00")
        message = CopyMessage(job.number, group, lease, begin, sql, is_in, timeout, "", priority, settings, session)
        self.world._last_request = job.number
        self.shell.fact(self.world.broker.request, job.client, message, self.world.now)

    def copy_on(self) -> None:
        """All clients give and take the data of their COPYs, as soon as they may; some end it by an error."""
        for passing in self.shell.copies.open():
            end = "error" if passing.job.number % 5 == 0 else "done"
            self.shell.copies.act(passing, end if len(passing.given) > WINDOW else "all")

    def end_lease(self, client: int, verb: type[Commit] | type[Rollback]) -> None:
        lease = self.leases.pop(client)
        self._job(client, "commit" if verb is Commit else "rollback", lease=lease)
        self.world.end(verb, lease.number, client)
        self.shell.observe()

    def _job(self, client: int, kind: str, timeout: float | None = None, lease: Lease | None = None) -> Job:
        """The books' entry for the next request."""
        job = Job(self.world._last_request + 1, client, kind, lease)
        job.deadline = None if timeout is None else self.world.now + timeout
        self.books.add(job)
        return job

    def transaction(
        self,
        client: int,
        group: str,
        kinds: list[int | str | bytes],
        prepare: bool,
        read_only: bool | None,
        retries: int,
        timeout: float | None,
    ) -> None:
        """Send a transaction message with steps of these kinds."""
        job = self._job(client, "message", timeout)
        job.retries = retries
        number = self.world._last_request = job.number
        steps = split_steps(steps_of(job, kinds, prepare))
        message = TransactionMessage(number, group, None, read_only, None, retries, *steps, timeout, "")
        self.shell.fact(self.world.broker.request, client, message, self.world.now)
