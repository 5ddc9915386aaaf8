"""What all clients do: ask, and withdraw what they asked for. Requests take time to come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from model.books import PLACES, Job, Lease
from model.copying import Passing
from model.kinds import COPIES, COPY_IN
from model.leftovers import LEAVINGS
from model.postgres import INT4
from model.requests import BATCHED, CODE, OTHERS, TEMPLATES, batch_of, packed, settings_for

from client.wire.codec import split_steps
from client.wire.limits import NO_SESSION, ON_REPLICAS
from client.wire.messages import (
    TX_NONE,
    BatchMessage,
    Commit,
    CopyMessage,
    Query,
    Release,
    Rollback,
    TransactionMessage,
)

if TYPE_CHECKING:
    from simulation.world import World

Message = Query | BatchMessage | CopyMessage | TransactionMessage | Commit | Rollback | Release


@dataclass(eq=False)
class Client:
    """One client process, or one thread of it: one connection to the broker."""

    key: int
    habits: tuple[str, ...]  # what it does, each as often as it is in here
    priority: int
    lease: Lease | None = None  # as far as it knows
    session: Lease | None = None  # as far as it knows
    session_group: str = ""
    transaction: str = TX_NONE  # in its session, as it was told
    waits_for: dict[int, Job] = field(default_factory=dict)
    # When it wrote last, and when that comes: no message comes before the one sent before it.
    written_at: float = -1.0
    sent_at: float = 0.0
    is_gone: bool = False


class Asking:
    """All clients, and the requests on their way."""

    def __init__(self, world: World) -> None:
        self._world = world
        # Those whose process lives: enter when they connect, leave when they vanish.
        self.alive: dict[int, Client] = {}
        self.are_done = False  # they begin nothing any more
        self._last_client = self._last_number = self._last_lease = 0
        self._groups = list(world.scenario.config.groups)

    def _template(self) -> bytes:
        """An ordinary statement."""
        random = self._world.random
        if random.random() < self._world.scenario.others:
            return random.choice(OTHERS)
        if random.random() < self._world.scenario.writes:
            return TEMPLATES[0]
        return random.choice(TEMPLATES[1:])

    def _timeout(self) -> float | None:
        """A client's patience."""
        random = self._world.random
        if random.random() >= self._world.scenario.impatience:
            return None
        return float(random.choice((0.02, 0.2, 1.0, 3.0)))

    def _settings(self, job: Job) -> bytes:
        """That travel with it, mostly none."""
        random = self._world.random
        scenario = self._world.scenario
        return settings_for(job, random.randint(1, scenario.tenants)) if random.random() < scenario.settings else b""

    def _new_lease(self, client: Client) -> Lease:
        """A lease that is not open yet."""
        self._last_lease += 1
        return Lease(client.key, self._last_lease)

    def _job(self, client: Client, kind: str, lease: Lease | None = None) -> Job:
        self._last_number += 1
        return Job(self._last_number, client.key, kind, lease)

    def _send_query(
        self,
        client: Client,
        statement: bytes,
        group: str,
        timeout: float | None,
        lease: Lease | None = None,
        begin: bool = False,
        session: int = NO_SESSION,
    ) -> Job:
        if self._world.scenario.config.groups[group.removesuffix(ON_REPLICAS)].read_only and statement.startswith(CODE):
            statement = TEMPLATES[1]
        kind = "query" if lease is None else "in session" if lease.is_session else "in lease"
        job = self._job(client, kind, lease)
        job.steps = [(statement, job.number * PLACES)]
        job.is_promised = group.endswith(ON_REPLICAS)
        job.is_control = statement.startswith((b"BEGIN", b"COMMIT", b"ROLLBACK"))
        job.is_refused = lease is None and statement in LEAVINGS and LEAVINGS[statement].wants_session
        number = 0 if lease is None else lease.number
        prepare = self._world.random.random() < 0.9
        values = packed(job.number * PLACES)
        settings = self._settings(job) if b" /*" not in statement else b""
        rest = (client.priority, settings, session)
        if statement in COPIES:
            is_in, sql = statement == COPY_IN, statement.replace(b"\0", b"%d" % (job.number * PLACES))
            self._world.network.copies.all[job.number] = Passing(job, is_in)
            copy = CopyMessage(job.number, group, number, begin, sql, is_in, timeout, "", client.priority)
            settings = b"" if session else b"statement_timeout\x000\x00"
            self._send(client, job, copy._replace(settings=settings, session=session), timeout)
            return job
        if lease is not None and statement in TEMPLATES and job.number % BATCHED == 0:
            steps = batch_of(job, statement, prepare)
            batch = BatchMessage(job.number, group, number, begin, *split_steps(steps), timeout, "", *rest)
            self._send(client, job, batch, timeout)
            return job
        message = Query(job.number, group, number, begin, statement, INT4, values, prepare, timeout, "", *rest)
        self._send(client, job, message, timeout)
        return job

    def _send(self, client: Client, job: Job, message: Message, timeout: float | None) -> None:
        world = self._world
        client.waits_for[job.number] = job
        self._travel(client, self._comes, client, job, message, timeout)
        if timeout is not None and world.random.random() < 0.7:
            world.at(world.now + timeout * (0.5 + world.random.random()), self._withdraw, client, job)

    def _travel(self, client: Client, event: Callable[..., str | None], *args: Any) -> None:
        world = self._world
        if client.written_at != world.now:  # what is written at once comes at once
            client.written_at = world.now
            client.sent_at = max(client.sent_at, world.now + world.scenario.latency * world.random.random())
        world.tell_at(client.sent_at, event, *args)

    def _comes(self, client: Client, job: Job, message: Message, timeout: float | None) -> str:
        """The request has come to the broker."""
        world = self._world
        job.deadline = None if timeout is None else world.now + timeout
        if client.key not in world.books.owed:
            return f"request {job.number} of client {client.key}, which was dropped"
        world.books.add(job)
        if world.fleet is not None:
            world.fleet.asked(client.key, job)
        size = world.random.choice((50, 500, 5000))
        if not world.network.takes(client.key, message):
            world.network.about_client(client.key, world.broker.request, message, world.now, size)
        return f"request {job.number} of client {client.key}"

    def withdraw(self, number: int) -> str | None:
        """The client of this request does not want it any more."""
        job = self._world.books.jobs.get(number)
        client = None if job is None else self.alive.get(job.client)
        return None if client is None or job is None else self._withdraw(client, job)

    def _withdraw(self, client: Client, job: Job) -> str | None:
        if client.is_gone or job.number not in client.waits_for:
            return None
        self._travel(client, self._withdrawn, client, job)
        return f"client {client.key} withdraws {job.number}"

    def _withdrawn(self, client: Client, job: Job) -> str:
        world = self._world
        if job.number in world.books.owed.get(client.key, ()):
            job.is_withdrawn = True
        world.network.release(client.key)
        world.network.about_client(client.key, world.broker.cancel, job.number, world.now)
        return f"cancel of {job.number}"
