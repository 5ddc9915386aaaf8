"""What clients do in sessions: statements that leave something, transactions of their own, releases at any moment.

A client goes by what it is told: outside of a transaction in a group without autocommit its next statement begins one.
Told that its session is lost it forgets it, or asks for it once more and is told again.
"""

from __future__ import annotations

from typing import Any

from model.books import Job, Lease
from model.kinds import COPIES
from model.leftovers import LEAVINGS
from model.requests import LEASE_CONTROLS

from client.wire.limits import IN_SESSION, OPENS_SESSION
from client.wire.messages import NOT_EXECUTED, TX_LOST, TX_NONE, Commit, Failure, Release, Rollback
from simulation.asking import Asking, Client

BEGIN = b"BEGIN /* \0 */"
_LEAVING = tuple(LEAVINGS)


class Sessions(Asking):
    """The session habits of clients."""

    def _in_session(self, client: Client) -> str:
        """The client's session begins, goes on, or ends."""
        random = self._world.random
        lease = client.session
        if lease is None:
            lease = client.session = self._new_lease(client)
            lease.is_session = True
            client.session_group = random.choice(("default", "default", "tx"))
            client.transaction = TX_NONE
            lease.is_autocommit = self._is_autocommit(client)
            return self._in_this_session(client, lease, self._some_statement(), OPENS_SESSION)
        what = random.random()
        if what < 0.12:
            return self._release(client)
        if client.transaction == TX_NONE:
            statement = BEGIN if what < 0.3 and self._is_autocommit(client) else self._some_statement()
            return self._in_this_session(client, lease, statement)
        if what < 0.25:
            return self._end_in_session(client, lease, Rollback if what < 0.15 else Commit)
        if what < 0.4:
            return self._in_this_session(client, lease, random.choice(LEASE_CONTROLS[:2]))
        return self._in_this_session(client, lease, self._some_statement())

    def _some_statement(self) -> bytes:
        random = self._world.random
        if self._world.scenario.has_copies and random.random() < 0.3:
            return random.choice(COPIES)
        return random.choice(_LEAVING) if random.random() < self._world.scenario.leaves else self._template()

    def _is_autocommit(self, client: Client) -> bool:
        return self._world.scenario.config.groups[client.session_group].autocommit

    def _in_this_session(self, client: Client, lease: Lease, statement: bytes, session: int = IN_SESSION) -> str:
        begin = client.transaction == TX_NONE and not self._is_autocommit(client)
        job = self._send_query(client, statement, client.session_group, self._timeout(), lease, begin, session)
        world = self._world
        if world.random.random() < 0.1:
            world.at(world.now + 4 * world.scenario.latency * world.random.random(), self._withdraw, client, job)
        if world.random.random() < 0.05:
            world.at(world.now + 0.01 * world.random.expovariate(1.0), self._release_early, client, lease)
        return f"client {client.key} sends query {job.number} in session {lease.number} {statement!r} {begin} {session}"

    def _end_in_session(self, client: Client, lease: Lease, verb: type[Commit] | type[Rollback]) -> str:
        job = self._job(client, "commit" if verb is Commit else "rollback", lease)
        self._send(client, job, verb(job.number, lease.number), None)
        return f"client {client.key} sends {job.kind} {job.number} of session {lease.number}"

    def _release(self, client: Client) -> str:
        lease, client.session = client.session, None
        assert lease is not None
        job = self._job(client, "release", lease)
        self._send(client, job, Release(job.number, lease.number), None)
        return f"client {client.key} releases session {lease.number}"

    def _release_early(self, client: Client, lease: Lease) -> str | None:
        """Something may be running in it."""
        return None if client.is_gone or client.session is not lease else self._release(client)

    def _follow(self, client: Client, job: Job, body: Any) -> None:
        """An answer in the client's session, by which it goes."""
        client.transaction = body.transaction
        is_refused = isinstance(body, Failure) and body.outcome == NOT_EXECUTED and body.transaction == TX_NONE
        is_first = job.lease is not None and job is job.lease.jobs[0]
        if (is_first and is_refused) or (body.transaction == TX_LOST and self._world.random.random() < 0.7):
            client.session = None
