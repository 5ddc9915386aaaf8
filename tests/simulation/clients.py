"""Client processes: what they send and when, what they make of the answers, how they end.

A client asks, waits for the answer, thinks, asks again. Some ask several things at once, some lose patience and
withdraw what they asked for, some hold a lease and forget it. A child of a fork is a client of its own.
"""

from __future__ import annotations

from typing import Any

from model.books import Job
from model.kinds import CODE, COPIES, LOCK, READ_C, SCHEMA
from model.leftovers import LEAVINGS
from model.requests import CONTROLS, LEASE_CONTROLS, OTHERS, STEPS, TEMPLATES, UTILITIES, steps_of

from client.wire.codec import split_steps
from client.wire.limits import ISOLATIONS, ON_REPLICAS
from client.wire.messages import (
    NOT_EXECUTED,
    TX_ACTIVE,
    TX_FAILED,
    Commit,
    Failure,
    Rollback,
    TransactionMessage,
    TransactionResult,
)
from simulation.asking import Client
from simulation.sessions import Sessions

# The steps of messages that are sent again and again; two of them run one statement twice.
PLAIN_MESSAGES = ((0,), (0, 1), (0, 0), (1, 2, 0), (2, 2))


class Clients(Sessions):
    """All of them, and the requests on their way."""

    # Coming and going.

    def arrive(self) -> Client:
        """A process starts and says Hello."""
        world = self._world
        self._last_client += 1
        scenario = world.scenario
        client = Client(
            self._last_client, world.random.choice(scenario.habits), world.random.choice(scenario.priorities)
        )
        self.alive[client.key] = client
        self._travel(client, self._said_hello, client)
        self._think(client)
        return client

    def vanish(self, client: Client) -> None:
        """A process ends, and its socket with it."""
        client.is_gone = True
        del self.alive[client.key]
        self._travel(client, self._gone, client)

    def drop(self, key: int) -> None:
        """The broker has disconnected this client, which finds out and connects anew."""
        world = self._world
        client = self.alive.pop(key, None)
        if client is not None:
            client.is_gone = True
            if not self.are_done:
                self.arrive()
        world.tally["client is dropped"] += 1
        world.tell_at(world.now, self._gone, client or Client(key, (), 0))

    def _said_hello(self, client: Client) -> str:
        world = self._world
        world.books.owed[client.key] = set()
        threads = world.scenario.threads
        uid = 1000 if threads > 1 else None  # who it is, and so which clients are one process, is known or not
        who = (1000 + client.key // threads, f"client {client.key}", uid, None, None, world.now)
        world.network.about_client(client.key, world.broker.client_arrived, *who)
        return f"client {client.key} is here"

    def _gone(self, client: Client) -> str | None:
        world = self._world
        if client.key not in world.books.owed:
            return None  # it was dropped before
        world.network.release(client.key)
        del world.books.owed[client.key]
        world.network.about_client(client.key, world.broker.client_gone, world.now)
        return f"client {client.key} is gone"

    # Asking.

    def _think(self, client: Client, is_turned_away: bool = False) -> None:
        """is_turned_away: its last request was not executed; who asks again at once is no help to anybody."""
        world = self._world
        seconds = world.scenario.think * world.random.expovariate(1.0)
        if is_turned_away and world.random.random() < 0.9:
            seconds += world.random.expovariate(1.0)
        if (client.lease is not None or client.session is not None) and world.random.random() < 0.03:
            seconds += world.random.choice((0.5, 3.0, 20.0))  # it has forgotten its lease
        if client.lease is not None and "locker" in client.habits:
            seconds += world.random.choice((0.0, 0.0, 0.5, 2.0))
        world.at(world.now + seconds, self._act, client)

    def _act(self, client: Client) -> str | None:
        """What the client does next."""
        if client.is_gone or client.waits_for:
            return None
        random = self._world.random
        if self.are_done:
            if client.session is not None:
                return self._release(client)
            if client.lease is None:
                return None
            return self._end_lease(client, Commit)
        habit = random.choice(client.habits)
        if client.lease is not None:
            return self._go_on(client, habit)
        if client.session is not None:
            return self._in_session(client)
        match habit:
            case "session":
                return self._in_session(client)
            case "query":
                return self._query(client, self._template())
            case "odd":
                return self._query(client, self._odd(CONTROLS))
            case "burst":
                template = self._template()
                return "; ".join(self._query(client, template) for _ in range(1 + random.randrange(self._burst())))
            case "copy":
                return self._query(client, random.choice(COPIES))
            case "code":
                return self._query(client, random.choice((*CODE, *UTILITIES)))
            case "locker":
                return self._query_in_lease(client, LOCK)
            case "message":
                return "; ".join(self._message(client) for _ in range(1 + random.randrange(self._burst()) // 4))
            case "reader":
                job = self._send_query(client, self._read(), f"default{ON_REPLICAS}", self._timeout())
                return f"client {client.key} sends read {job.number}"
            case "read message":
                return self._message(client, is_read=True)
            case "read lease":
                return self._query_in_lease(client, self._read(), f"tx{ON_REPLICAS}")
            case "plain message":
                return self._plain_message(client)
            case _:
                return self._query_in_lease(client, self._template())

    def _odd(self, controls: tuple[bytes, ...]) -> bytes:
        """A statement that changes its session, or the schema."""
        if self._world.scenario.changes_schema and self._world.random.random() < 0.3:
            return self._world.random.choice((SCHEMA, *CODE))
        if self._world.random.random() < self._world.scenario.leaves:
            return self._world.random.choice(tuple(LEAVINGS))
        return self._world.random.choice(controls)

    def _burst(self) -> int:
        return self._world.scenario.burst

    def _go_on(self, client: Client, habit: str) -> str:
        """The client has a lease: another statement in it, or its end. Who holds a lock reads elsewhere as well."""
        random = self._world.random
        if habit == "locker" and random.random() < 0.6:
            return self._query(client, READ_C)
        if habit == "changer" and random.random() < 0.5:
            return self._query_in_lease(client, random.choice((SCHEMA, *CODE)))
        if habit == "copy":
            return self._query_in_lease(client, random.choice(COPIES))
        if habit == "odd":
            return self._query_in_lease(client, self._odd(LEASE_CONTROLS))
        if random.random() < 0.5:
            return self._query_in_lease(client, self._template())
        return self._end_lease(client, Rollback if random.random() < 0.2 else Commit)

    def ask(self, group: str) -> Job:
        """A new client asks the group for something; in a lease, which it ends."""
        client = self.arrive()
        if self._world.scenario.config.groups[group].autocommit:
            return self._send_query(client, TEMPLATES[1], group, None)
        client.lease = self._new_lease(client)
        return self._send_query(client, TEMPLATES[1], group, None, client.lease, begin=True)

    def _query(self, client: Client, statement: bytes) -> str:
        group = "default"
        if statement in (*TEMPLATES[1:], *OTHERS) and "reads" in self._groups and self._world.random.random() < 0.5:
            group = "reads"
        job = self._send_query(client, statement, group, self._timeout())
        return f"client {client.key} sends query {job.number} to {group}"

    def _read(self) -> bytes:
        return self._world.random.choice(TEMPLATES[1:])

    def _query_in_lease(self, client: Client, statement: bytes, group: str = "tx") -> str:
        lease = client.lease
        begins = lease is None
        if lease is None:
            lease = client.lease = self._new_lease(client)
        lease.is_odd = lease.is_odd or statement in LEASE_CONTROLS[:2]
        job = self._send_query(client, statement, group, self._timeout(), lease, begins)
        lease.is_promised = lease.is_promised or group != "tx"
        job.is_promised = lease.is_promised
        return f"client {client.key} sends query {job.number} in lease {lease.number}{' begin' if begins else ''}"

    def _message(self, client: Client, is_read: bool = False) -> str:
        """A transaction message."""
        random = self._world.random
        group = random.choice(("default", "tx"))
        read_only = True if is_read else random.choice((None, None, None, None, True))
        timeout = self._timeout()
        job = self._job(client, "message")
        job.retries = random.choice((0, 1, 3))
        count = random.choice((1, 2, 3, 7))
        kinds: list[int | str | bytes] = [random.choice((1, 2)) if is_read else self._kind() for _ in range(count)]
        job.is_promised = bool(read_only) and self._world.fleet is not None
        if random.random() < 0.2:
            kinds = [*kinds[:1], "savepoint", *kinds[1:], "end"]
        steps, values = split_steps(steps_of(job, kinds, random.random() < 0.9))
        isolation = random.choice((None, None, ISOLATIONS[2], ISOLATIONS[3]))
        rest = (job.retries, steps, values, timeout, "", client.priority, self._settings(job))
        message = TransactionMessage(job.number, group, isolation, read_only, None, *rest)
        self._send(client, job, message, timeout)
        return f"client {client.key} sends message {job.number} to {group}: {kinds}"

    def _plain_message(self, client: Client) -> str:
        """One of few transaction messages, as a program sends them again and again."""
        random = self._world.random
        kinds = random.choice(PLAIN_MESSAGES)
        timeout = self._timeout()
        job = self._job(client, "message")
        job.retries = 1
        steps, values = split_steps(steps_of(job, kinds, prepare=True))
        rest = (None, None, None, job.retries, steps, values, timeout, "", client.priority)
        self._send(client, job, TransactionMessage(job.number, "default", *rest), timeout)
        return f"client {client.key} sends message {job.number} to default: {kinds}"

    def _kind(self) -> int | str | bytes:
        """Of a step."""
        random = self._world.random
        if random.random() < 0.2 * self._world.scenario.leaves:
            return random.choice(tuple(LEAVINGS))
        if random.random() < self._world.scenario.others:
            return random.choice(OTHERS)
        if random.random() < self._world.scenario.writes:
            return random.choice((0, 0, 0, "one row"))
        return "schema" if self._world.scenario.changes_schema and random.random() < 0.05 else random.choice(STEPS)

    def _end_lease(self, client: Client, verb: type[Commit] | type[Rollback]) -> str:
        lease, client.lease = client.lease, None
        assert lease is not None
        job = self._job(client, "commit" if verb is Commit else "rollback", lease)
        self._send(client, job, verb(job.number, lease.number), None)
        return f"client {client.key} sends {job.kind} {job.number} of lease {lease.number}"

    # Answers.

    def deliver(self, key: int, body: Any) -> None:
        """An answer is on its way."""
        client = self.alive.get(key)
        if client is not None:
            world = self._world
            world.at(world.now + world.scenario.latency * world.random.random(), self._receive, client, body)

    def _receive(self, client: Client, body: Any) -> str | None:
        if client.is_gone:
            return None
        job = client.waits_for.pop(body.request)  # a KeyError is an answer to no question
        outcome = _outcome(body)
        self._world.outcomes[job.kind, outcome] += 1
        if job.lease is client.session and client.session is not None:
            self._follow(client, job, body)
        if job.lease is client.lease and client.lease is not None:
            is_open = not isinstance(body, TransactionResult) and body.transaction in (TX_ACTIVE, TX_FAILED)
            # Some end what is over already, and are told so.
            if not is_open and self._world.random.random() < 0.8:
                client.lease = None
        if not client.waits_for:
            self._think(client, outcome.endswith(NOT_EXECUTED))
        return f"client {client.key} has its answer to {body.request}"

    # The end.

    def finish(self) -> None:
        """Begin nothing new; whoever has a lease or a session ends it."""
        self.are_done = True
        world = self._world
        for client in self.alive.values():
            if client.lease is not None or client.session is not None:
                world.at(world.now, self._act, client)


def _outcome(body: Any) -> str:
    if isinstance(body, TransactionResult):
        if body.failure is None:
            return "done"
        body = Failure._make(body.failure)
    return f"{body.kind}, {body.outcome}" if isinstance(body, Failure) else "done"
