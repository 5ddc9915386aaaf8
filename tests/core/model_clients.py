"""Clients: what they send, and what the books keep of it."""

from __future__ import annotations

from typing import Any

from model.books import PLACES, Books, Job, Lease
from model.postgres import INT4
from model.requests import LEASE_CONTROLS, packed, steps_of
from model.shell import Shell
from world import World

from client.protocol import Commit, Rollback, Transaction, split_steps
from client.rules import NORMAL


class Clients:
    """All clients, connected or not."""

    def __init__(self, world: World, books: Books, shell: Shell, is_read_only: bool) -> None:
        self.world = world
        self.books = books
        self.shell = shell
        self._is_read_only = is_read_only
        self._last_client = self._last_lease = 0
        self.leases: dict[int, Lease] = {}  # the open ones, as far as their clients know

    def arrive(self) -> None:
        self._last_client += 1
        self.books.owed[self._last_client] = set()
        self.world.client(self._last_client)
        self.shell.observe()

    def die(self, client: int) -> None:
        del self.books.owed[client]
        self.leases.pop(client, None)
        self.shell.fact(self.world.broker.client_gone, client, self.world.now)

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
    ) -> None:
        """Send a statement to the group with autocommit."""
        job = self._job(client, "query", timeout)
        job.is_repeatable = self._is_read_only
        self._send(job, statement, prepare, timeout, priority=priority)

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

    def _send(self, job: Job, statement: bytes, prepare: bool, timeout: float | None, **more: Any) -> None:
        job.is_control = statement.startswith((b"BEGIN", b"COMMIT", b"ROLLBACK"))
        values = packed(job.number * PLACES)
        more |= {"statement": statement, "types": INT4, "values": values, "prepare": prepare, "timeout": timeout}
        self.world.query(job.client, **more)
        self.shell.observe()

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
        kinds: list[int | str],
        prepare: bool,
        read_only: bool | None,
        retries: int,
        timeout: float | None,
    ) -> None:
        """Send a transaction message with steps of these kinds."""
        job = self._job(client, "message", timeout)
        job.retries = retries
        job.is_repeatable = read_only is True or self._is_read_only
        number = self.world._last_request = job.number
        steps = split_steps(steps_of(job, kinds, prepare))
        message = Transaction(number, group, None, read_only, None, retries, *steps, timeout, "")
        self.shell.fact(self.world.broker.request, client, message, self.world.now)
