"""Clients: what they send, and what the books keep of it."""

from __future__ import annotations

from typing import Any

from model_books import PLACES, Books, Job, Lease
from model_postgres import INT4
from model_shell import Shell
from world import World

from client.protocol import Commit, Reference, Rollback, Step, Transaction, split_steps
from client.rules import END_SAVEPOINT, NORMAL, SAVEPOINT

TEMPLATES = (
    b"UPDATE a SET x = y WHERE id = \0 RETURNING id",
    b"SELECT id FROM b WHERE id = \0",
    b"SELECT id FROM c WHERE id = \0",
)
# Statements that change their session.
CONTROLS = (b"BEGIN /* \0 */", b"DISCARD ALL /* \0 */", b"DEALLOCATE ALL /* \0 */")
LEASE_CONTROLS = (b"COMMIT /* \0 */", b"ROLLBACK /* \0 */", b"DEALLOCATE ALL /* \0 */")
# What the steps of a message may be; a number is a template's.
STEPS = (0, 0, 1, 1, 2, "one row", "reference", "reference", "savepoint", "end")

_NULL = b"\xff\xff\xff\xff"


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

    def query_in_lease(self, client: int, statement: bytes, timeout: float | None) -> None:
        """Send a statement to the other group: the next of the client's lease, or the first of a new one."""
        lease = self.leases.get(client)
        begins = lease is None
        if lease is None:
            self._last_lease += 1
            lease = Lease(client, self._last_lease)
            self.leases[client] = lease
        lease.is_odd = lease.is_odd or statement in LEASE_CONTROLS[:2]
        job = self._job(client, "in lease", timeout, lease)
        self._send(job, statement, True, timeout, group="tx", lease=lease.number, begin=begins)

    def _send(self, job: Job, statement: bytes, prepare: bool, timeout: float | None, **more: Any) -> None:
        job.is_control = statement.startswith((b"BEGIN", b"COMMIT", b"ROLLBACK"))
        values = _packed(job.number * PLACES)
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
        steps = split_steps(_steps(job, kinds, prepare))
        message = Transaction(number, group, None, read_only, None, retries, *steps, timeout, "")
        self.shell.fact(self.world.broker.request, client, message, self.world.now)


def _packed(value: int) -> bytes:
    text = b"%d" % value
    return len(text).to_bytes(4, "big") + text


def _steps(job: Job, kinds: list[int | str], prepare: bool) -> list[Step | int]:
    """The steps of a message; job keeps what PostgreSQL should see of them."""
    steps: list[Step | int] = []
    depth = 0

    def statement(template: bytes, value: int, refers_to: int | None = None, low: int = 0) -> None:
        references = () if refers_to is None else (Reference(0, refers_to, 0, "id"),)
        values, types = (_packed(value), INT4) if refers_to is None else (_NULL, bytes(4))
        steps.append(Step(template, types, values, prepare, references, low, None))
        job.steps.append((template, value))

    def mark(which: int) -> None:
        steps.append(which)
        job.steps.append(None)

    for kind in kinds:
        earlier = [place for place, step in enumerate(job.steps) if step is not None and step[0] in TEMPLATES]
        value = job.number * PLACES + len(steps)
        if kind == "savepoint":
            depth += 1
            mark(SAVEPOINT)
        elif kind == "end" and depth:
            depth -= 1
            mark(END_SAVEPOINT)
        elif kind == "reference" and earlier:
            referred = job.steps[earlier[-1]]
            assert referred is not None
            statement(TEMPLATES[1], referred[1], earlier[-1])
        else:
            template = TEMPLATES[kind] if isinstance(kind, int) else TEMPLATES[0]
            statement(template, value, low=1 if kind == "one row" else 0)
    if all(step is None for step in job.steps):
        statement(TEMPLATES[0], job.number * PLACES + len(steps))
    for _ in range(depth):
        mark(END_SAVEPOINT)
    return steps
