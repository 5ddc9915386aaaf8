"""Transaction messages: run unit by unit, tried again if that is safe, inquired about if COMMIT's answer was lost."""

from __future__ import annotations

from collections.abc import Callable

from client.wire.messages import TX_NONE, Failure, ProtocolViolation
from poold.core.effects import Bind, Unit
from poold.core.facts import Completion, Loss
from poold.core.records.backend import Backend
from poold.core.records.request import Request
from poold.core.state import CANCELLED, RUNNING, RequestState
from poold.core.statements.generations import Generations
from poold.core.statements.leftovers import NOTHING
from poold.core.statements.statement import StatementState
from poold.core.work import failures
from poold.core.work.decision import Again, Answer, Decision, Elsewhere, Inquire, Next, Pause
from poold.core.work.early_failures import is_early
from poold.core.work.query import MAX_MOVES
from poold.core.work.script import Script, Verdict
from poold.core.work.time_limits import by_query_timeout, out_of_time
from poold.core.work.units import Runner, server_timeout

# Pauses in seconds before the next try of a transaction that lost a race (a serialization failure or a deadlock):
# doubled each time, with jitter, so that the same transactions do not collide again.
FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.5


class TransactionWork:
    """Transaction messages of clients."""

    def __init__(self, generations: Generations, chance: Callable[[], float]) -> None:
        """chance returns random numbers in [0, 1)."""
        self._generations = generations
        self._chance = chance

    def begin(self, backend: Backend, request: Request, now: float) -> Unit:
        """The first unit of another try."""
        script = request.script
        assert script is not None
        runner = request.runner = Runner(backend)
        unit = script.start(runner, server_timeout(backend, request, now))
        request.leaves = runner.leaves
        return unit

    def ended(self, backend: Backend, request: Request, done: Completion, now: float) -> Decision:
        """A unit of the message has ended: go on with the next one, or conclude this try."""
        script, runner = request.script, request.runner
        assert script is not None
        assert runner is not None
        if done.failure is not None:
            self._note_stale(backend, request, script, done)
        is_late = done.failure is not None and out_of_time(request, done.failure, now) != ""
        if request.state is not RUNNING or is_late:
            verdict = script.stop(done, failures.withdrawn())
            if script.is_stale and verdict.failure is done.failure and not is_late:
                verdict = Verdict(failures.withdrawn())  # what failed was no statement of the client's
        else:
            following = script.advance(done, runner)
            request.leaves = runner.leaves
            if request.leaves is not NOTHING:
                backend.left = backend.left.joined(request.leaves)
            if not isinstance(following, Verdict):
                return Next(request, following)
            verdict = following
        _take_probes(request, script)
        request.ran_for(now - request.started)
        return self._concluded(request, script, verdict, now)

    def lost(self, backend: Backend, request: Request, loss: Loss, is_begun: bool, now: float) -> Decision:
        """Run the message again, unless COMMIT was sent: then PostgreSQL has to be asked whether it took effect."""
        script = request.script
        assert script is not None
        script.lost(list(loss.partial))
        _take_probes(request, script)
        if script.verdict is not None:
            return self._concluded(request, script, script.verdict, now)
        if is_begun and script.commit_sent:
            return self._in_doubt(backend, request, script, loss.error, now)
        if not is_begun:
            script.tries -= 1
            request.moves += 1
        if request.moves > MAX_MOVES:
            script.retries = -1
        return self.elsewhere(backend, request, loss.error, now)

    def _in_doubt(self, backend: Backend, request: Request, script: Script, error: str, now: float) -> Decision:
        """The backend was lost after COMMIT was sent: inquire, or run again a message that only reads."""
        if _only_reads(request, script):
            return self.elsewhere(backend, request, error, now)
        if not script.xid.isdigit() or not backend.server.identity:
            return self.unknown(request, error, "its transaction's id was not known", now)
        if request.state is CANCELLED:
            script.retries = 0
        return Inquire(request, backend, script.xid, error)

    def committed(self, request: Request) -> Decision:
        """PostgreSQL says that the COMMIT whose answer was lost took place."""
        assert request.script is not None
        return Answer(request, request.script.result(request.number, Verdict()))

    def elsewhere(self, backend: Backend, request: Request, error: str, now: float) -> Decision:
        """Nothing of the message was committed: run it on another backend, or answer that it was not run."""
        script = request.script
        assert script is not None
        if self._may_try_again(request, script, now):
            request.group.stats.retries += 1
            return Again(request)
        return self._failed(request, Verdict(failures.not_run(backend.pool.endpoint.name, error)), now)

    def unknown(self, request: Request, error: str, why: str, now: float) -> Decision:
        """Nobody can tell whether the COMMIT took effect: answer that, with the reason why."""
        request.group.stats.in_doubt += 1
        return self._failed(request, Verdict(failures.commit_unknown(error, why)), now)

    def _note_stale(self, backend: Backend, request: Request, script: Script, done: Completion) -> None:
        """Note in the script whether the unit failed because of a prepared statement that does not fit any more.

        Prepared statements run only behind statements that are proven harmless, so the whole message may be tried
        again, with literals.
        """
        failed = backend.prepared.failed(request.unit, done)
        found = None
        if failed is not None and request.runner is not None and not script.is_own(failed):
            # By name, as another generation may have begun since the unit was made.
            found = request.runner.needed.get(failed.name)
        script.is_stale = is_early(request.group.statements, found, failed, done, request.leaves is NOTHING)

    def _concluded(self, request: Request, script: Script, verdict: Verdict, now: float) -> Decision:
        """This try is over: answer, or try again."""
        backend = request.backend
        if verdict.failure is None:
            if request.leaves is not NOTHING:
                self._generations.forget_outdated(script.outcomes)
            return Answer(request, script.result(request.number, verdict))
        if script.is_stale and not script.literal_only and request.state is RUNNING:
            script.literal_only = True
            script.tries -= 1
            return Again(request)
        is_free = request.state is RUNNING and request.moves < MAX_MOVES
        if is_free and backend is not None and failures.is_of_standby(backend, verdict.failure):
            request.moves += 1
            script.tries -= 1
            return Elsewhere(request)
        if failures.is_lost_race(verdict.failure):
            until = now + self._next_pause(script) * (0.5 + self._chance())
            if self._may_try_again(request, script, until):
                request.group.stats.retries += 1
                return Pause(request, until)
        return self._failed(request, verdict, now)

    def _may_try_again(self, request: Request, script: Script, now: float) -> bool:
        is_wanted = request.state in (RequestState.RUNNING, RequestState.IN_DOUBT)
        in_time = request.deadline is None or now < request.deadline
        return is_wanted and in_time and script.tries <= script.retries

    def _next_pause(self, script: Script) -> float:
        """The mean of the pause before the next try, in seconds."""
        return float(min(FIRST_PAUSE * 2 ** min(script.tries - 1, 16), LONGEST_PAUSE))

    def _failed(self, request: Request, verdict: Verdict, now: float) -> Decision:
        script, failure = request.script, verdict.failure
        assert script is not None
        assert failure is not None
        is_cancelled = request.state is CANCELLED
        why = request.reason if is_cancelled else out_of_time(request, failure, now)
        if not why and not is_cancelled and (backend := request.backend) is not None:
            why = by_query_timeout(backend, request, failure, now - backend.begun(request))
        failure = failures.with_reason(failure, why)
        verdict = Verdict(failure._replace(request=request.number, transaction=TX_NONE), verdict.step)
        return Answer(request, script.result(request.number, verdict))


def _take_probes(request: Request, script: Script) -> None:
    """Hand statements that have run often enough over to the group, to be probed."""
    if script.to_probe:
        if request.group.config.prepare == "auto":
            request.group.probes.extend(script.to_probe)
        script.to_probe.clear()


def _only_reads(request: Request, script: Script) -> bool:
    """Whether all statements of the message are plain reads and ran prepared in its last unit, so it may run again.

    Proofs hold for the prepared form only.
    """
    prepared = {command.name for command in request.unit if type(command) is Bind}
    return all(statement.proof.is_plain_read and statement.name in prepared for statement, _ in script.values())


def refusal(script: Script) -> Failure | None:
    """Why the message's values cannot be taken, None if they can.

    PostgreSQL itself checks the values of statements that run prepared.
    """
    for place, (statement, values) in enumerate(script.values()):
        if statement.state is not StatementState.PREPARED or script.is_special(place):
            try:
                statement.rendered(values)
            except ProtocolViolation as violation:
                return failures.protocol(f"statement {place + 1} of the transaction: {violation}")
    return None
