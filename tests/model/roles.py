"""What the core was told of endpoints' roles, and what it must not do then.

1.  For a group on the primary nothing is begun where the server was told to be a standby, or a primary on an older
    timeline than the newest, or one of two on the newest; nothing that may write is begun on a replica for anybody.
2.  What was committed by a server that is known to be wrong is not acknowledged.
3.  What a replica refuses, or ends for its own reasons, is run on the primary.
4.  A read shows what its process was told to be done before, unless a promotion has lost it.
5.  A pool that serves nobody has no idle backend; where that was the primary no lease stays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from client.wire.messages import Failure, ResultMessage, TransactionResult
from model.books import Books, Job
from model.kinds import kind_of
from poold.core.broker import Broker
from poold.core.facts import Observation
from poold.core.pools.endpoint import Role
from poold.core.pools.group import Group
from poold.core.records.backend import Backend
from poold.core.state import BackendState
from poold.core.work.query import MAX_MOVES

_STANDBY = "it is a standby"


class Roles:
    """The last answers of all endpoints."""

    def __init__(self, broker: Broker, books: Books) -> None:
        self._broker = broker
        self._books = books
        self._said: dict[str, Observation] = {}
        self._heard: set[str] = set()
        self._newest = 0

    def heard(self, endpoint: str, observation: Observation | None) -> None:
        """The core is about to be told this; None is that there is no answer."""
        if observation is None:
            self._heard.discard(endpoint)
            return
        self._said[endpoint] = observation
        self._heard.add(endpoint)
        self._newest = max(self._newest, observation.timeline)

    def left(self, endpoint: str) -> None:
        """The core forgets what the endpoint has said, and asks anew if it asks at all."""
        self._said.pop(endpoint, None)
        self._heard.discard(endpoint)

    def opened(self, endpoint: str, is_standby: bool | None) -> None:
        """The core is about to be told so by a connection of its own."""
        if is_standby and endpoint in self._said:
            self._said[endpoint] = replace(self._said[endpoint], is_in_recovery=True)

    def wrong(self, endpoint: str) -> str:
        """Why nothing may be written to this endpoint; "" if it may."""
        said = self._said.get(endpoint)
        if said is None:
            return "nothing is known of it"
        if said.is_in_recovery:
            return _STANDBY
        if said.timeline < self._newest:
            return f"it was left behind by timeline {self._newest}"
        others = [
            name
            for name in self._heard
            if not (other := self._said[name]).is_in_recovery
            and other.timeline == self._newest
            and other.started != said.started
        ]
        return f"so does {others[0]}" if others else ""

    def given(self, backend: Backend, jobs: list[Job]) -> None:
        """Something of these requests is begun there, or goes on."""
        group, endpoint = backend.group, backend.pool.endpoint
        if not jobs or not group.has_roles or backend.is_recalled or backend.pool.left:
            return
        jobs[-1].is_on_replicas, jobs[-1].is_refused_there = group.main is not None, False
        jobs[-1].begun += 1
        goes_on, jobs[-1].begun_in = jobs[-1].begun_in == backend.number, backend.number
        if group.role == "primary":
            wrong = self.wrong(endpoint.name)
            if wrong == _STANDBY and goes_on:
                return  # where nothing takes effect, it is to learn that
            assert not wrong, f"{jobs[-1]} is begun on {endpoint.name}, which is wrong: {wrong}"
            assert endpoint.role is Role.PRIMARY, f"{jobs[-1]} is begun on {endpoint.name}, a {endpoint.role.name}"
        elif group.main is not None:
            steps = [step for step in jobs[-1].steps if step is not None]
            is_read = jobs[-1].is_promised or all(kind_of(template).is_plain_read for template, _ in steps)
            assert is_read, f"{jobs[-1]} may write, and is begun on {endpoint.name}, a replica"

    def answered(self, job: Job, body: Any, endpoint: str) -> None:
        """The core answers; endpoint is where the request has written, "" where it has not."""
        failure = body if isinstance(body, Failure) else None
        if isinstance(body, TransactionResult) and body.failure is not None:
            failure = Failure._make(body.failure)
        if failure is None and isinstance(body, (ResultMessage, TransactionResult)):
            wrong = self.wrong(endpoint) if endpoint else ""
            is_known = wrong and not wrong.startswith((_STANDBY, "nothing"))
            assert not is_known, f"{job} is acknowledged by {endpoint}, which is wrong: {wrong}"
            assert not job.missed, f"{job} does not show what its process has written"
        elif failure is not None and job.is_refused_there and job.kind in ("query", "message"):
            is_told = failure.sqlstate in ("40001", "25006", "0A000") and job.begun <= MAX_MOVES
            assert not is_told or job.is_withdrawn or job.is_overdue, f"{job} is told what a standby says: {failure}"

    def check_rest(self, group: Group) -> None:
        """Nothing rests where nobody is served."""
        if group.has_roles:
            for pool in [each for each in group.pools if not each.left]:
                is_kept = group.role == "primary" and pool.members[BackendState.LEASED]
                assert pool.is_serving or not is_kept, f"a lease stays on {pool.endpoint.name}, which is not used"
                assert pool.is_serving or not pool.idle, f"a backend idles on {pool.endpoint.name}, which is not used"
