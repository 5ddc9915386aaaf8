"""What becomes of requests and leases when their backend is lost.

What was certainly not begun is run elsewhere and nobody notices: what the shell had not written yet, and what waited in
the connection behind a statement during which PostgreSQL said that it closes the connection. What may have run is
reported so, but for what is proven to be a plain read: that is run again.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from client.wire.messages import TX_NONE, Failure
from poold.core.effects import Bind, Close, Execute
from poold.core.facts import StatementResult
from poold.core.machine import rolled_back
from poold.core.messages import Messages
from poold.core.records.backend import Backend
from poold.core.records.request import Request, Verb
from poold.core.state import RequestState
from poold.core.work import failures
from poold.core.work.outcomes import may_commit

# How often a request is given to another backend because one was lost.
MAX_MOVES = 3


class Losses(Messages):
    """The steps of a loss."""

    @abstractmethod
    def _unasked(self, question: Request) -> None:
        """The backend that was asked is gone."""

    def _lose(
        self,
        backend: Backend,
        error: str,
        now: float,
        unsent: int = 0,
        partial: Sequence[StatementResult] = (),
        last: Failure | None = None,
    ) -> None:
        """The backend's connection is gone, whoever ended it: say so to all who were using it.

        unsent of its units were not written at all. partial are the results of the first of the others, as far as they
        came, and last is the FATAL error that ended it.
        """
        running, lease = list(backend.running), backend.lease
        endpoint = backend.pool.endpoint.name
        unsent += self._revoke(backend)
        backend.running.clear()
        backend.lease = None
        self._remove(backend)
        if lease is not None:
            lease.backend = None
            reason = f"the connection to endpoint {endpoint!r} was lost ({error})"
            self._lose_lease(lease, reason, now)
            if len(running) > unsent and failures.may_end(running[-1]):
                lease.client.lease_lost(lease.number, failures.end_unknown(reason))
        # The last ones first, as each goes to the front of the queue.
        for place in range(len(running) - 1, -1, -1):
            request = running[place]
            is_begun = place < len(running) - unsent and (place == 0 or last is None)
            if request.verb is Verb.PROBE:
                assert request.statement is not None
                request.statement.unprobed()
            elif request.verb is Verb.INQUIRY:
                if request.state is not RequestState.DONE:
                    self._ask(request, now)
            elif request.verb > Verb.QUESTION:
                self._unasked(request)
            elif request.verb is Verb.QUESTION:
                pass
            elif request.script is not None:
                if place == 0:
                    request.script.lost(list(partial))
                self._lose_message(request, backend, error, now, is_begun)
            else:
                self._lose_statement(request, backend, error, now, is_begun, last if place == 0 else None)
        self._lose_count(backend, now)
        self._serve(backend.group, now)
        self._grow(backend.group, now)

    def _revoke(self, backend: Backend) -> int:
        """Take back what the shell has not taken yet; returns how many units that were."""
        before = len(self._effects)
        self._effects = [
            effect for effect in self._effects if type(effect) is not Execute or effect.backend != backend.number
        ]
        return before - len(self._effects)

    def _lose_statement(
        self, request: Request, backend: Backend, error: str, now: float, is_begun: bool, last: Failure | None
    ) -> None:
        group = request.group
        is_begun = is_begun and not request.then
        may_repeat = not is_begun or _is_plain_read(request)
        if (
            may_repeat
            and request.verb is Verb.QUERY
            and request.lease is None
            and request.state is RequestState.RUNNING
            and request.moves < MAX_MOVES
        ):
            request.moves += 1
            self._again(request, now)
            return
        group.stats.errors += 1
        reply: Failure | None
        if request.verb is Verb.ROLLBACK:
            self._answer(request, rolled_back(request.number))
            return
        if not is_begun and request.lease is None:
            reply = failures.not_run(backend.pool.endpoint.name, error)
        elif last is not None and request.lease is None and not last.notices and not _may_commit(request):
            reply = last
        elif not is_begun and request.lease is not None and not request.then:
            reason = f"the connection to endpoint {backend.pool.endpoint.name!r} was lost ({error})"
            reply = failures.lease_lost(reason, request.lease.is_session)
        else:
            # All of a lease's statements are in a transaction, but those of a session that has begun none.
            is_inside = request.begin or backend.transaction != TX_NONE
            reply = failures.connection_lost(request, backend.pool.endpoint.name, error, is_inside)
        self._answer(request, reply)

    def _lose_message(self, request: Request, backend: Backend, error: str, now: float, is_begun: bool) -> None:
        script = request.script
        assert script is not None
        self._take_probes(request, script)
        if script.verdict is not None:
            self._conclude(request, script, script.verdict, now)
            return
        if is_begun and script.commit_sent:
            self._doubt(request, backend, error, now)
            return
        if not is_begun:
            script.tries -= 1
            request.moves += 1
        if request.moves > MAX_MOVES:
            script.retries = -1
        self._retry_elsewhere(request, backend, error, now)

    def _give_up(self, backend: Backend, why: str, now: float) -> None:
        """Close a backend that does not answer, and say so to all who were using it.

        Those of its pool that idle may be in the same black hole, and each would cost somebody a request whose fate is
        unknown: they are opened anew.
        """
        self._effects.append(Close(backend.number, why))
        backend.pool.stats.closed += 1
        for idle in list(backend.pool.idle.values()):
            self._close(idle, "another one of its endpoint does not answer")
        self._lose(backend, why, now)


def _is_plain_read(request: Request) -> bool:
    """Whether it may run any number of times, by its proof, which is one of the prepared statement."""
    statement = request.statement
    return statement is not None and statement.proof.is_plain_read and type(request.unit[-1]) is Bind


def _may_commit(request: Request) -> bool:
    """Whether the statement may have committed a part of its work before its connection was lost."""
    return request.statement is not None and may_commit(request.statement)
