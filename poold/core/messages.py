"""Transaction messages: unit after unit, tried again where that is safe, asked for where COMMIT's answer was lost."""

from __future__ import annotations

from client.wire.messages import TX_NONE, Failure, ProtocolViolation
from client.wire.sqlstates import INVALID_PARAMETER_VALUE
from poold.core.effects import Bind, Execute, SimpleQuery
from poold.core.facts import Completion
from poold.core.machine import Machine, by_query_timeout, out_of_time
from poold.core.records.backend import Backend
from poold.core.records.client import NOBODY
from poold.core.records.request import Request, Verb
from poold.core.state import RequestState
from poold.core.statements.leftovers import NOTHING, UNSEEN
from poold.core.statements.statement import StatementState
from poold.core.work import failures
from poold.core.work.early_failures import is_early
from poold.core.work.references import only_cell
from poold.core.work.script import Script, Verdict

# Pauses before the next try of a transaction that lost a race: doubled each time, with jitter, so that those that
# raced do not meet again.
FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.5
# How long PostgreSQL is asked what became of a COMMIT, and how often while it is still at it. A server notices the end
# of a connection within client_connection_check_interval.
OUTCOME_TIMEOUT = 10.0
ASK_AGAIN = 0.05
# pg_xact_status says so of an id that was not given yet: with it a crash has taken all that its transaction did.
_IN_THE_FUTURE = INVALID_PARAMETER_VALUE


class Messages(Machine):
    """The steps of transaction messages, and of the broker's own questions."""

    def _advance(self, backend: Backend, request: Request, done: Completion, now: float) -> bool:
        """A unit of the message has ended. Returns whether the message runs on."""
        script = request.script
        assert script is not None
        if done.failure is not None:
            self._note_stale(backend, request, script, done)
        is_late = done.failure is not None and out_of_time(request, done.failure, now) != ""
        if request.state is not RequestState.RUNNING or is_late:
            verdict = script.stop(done, failures.withdrawn())
        else:
            assert request.runner is not None
            following = script.advance(done, request.runner)
            request.leaves = request.runner.leaves
            if request.leaves is not NOTHING:
                backend.left = backend.left.joined(request.leaves)
            if not isinstance(following, Verdict):
                request.unit = following
                self._effects.append(Execute(backend.number, following))
                return True
            verdict = following
        self._take_probes(request, script)
        request.group.stats.run_times.record(now - request.started)
        self._conclude(request, script, verdict, now)
        return False

    def _note_stale(self, backend: Backend, request: Request, script: Script, done: Completion) -> None:
        """The unit failed: was it about a prepared statement that does not fit, before any step had run unproven?

        What is prepared runs only behind what is proven harmless; so the whole message may be tried again.
        """
        failed = backend.prepared.failed(request.unit, done)
        found = None
        if failed is not None and request.runner is not None and not script.is_own(failed):
            # By the name: since then another generation may have begun.
            found = request.runner.needed.get(failed.name)
        script.is_stale = is_early(request.group.statements, found, failed, done, request.leaves is NOTHING)

    def _take_probes(self, request: Request, script: Script) -> None:
        """Statements that the message ran often enough are to be probed."""
        if script.to_probe:
            if request.group.config.prepare == "auto":
                request.group.probes.extend(script.to_probe)
            script.to_probe.clear()

    def _conclude(self, request: Request, script: Script, verdict: Verdict, now: float) -> None:
        """Known is what became of this try: answer, or try again."""
        if verdict.failure is None:
            if request.leaves is not NOTHING:
                self._forget_outdated(script.outcomes)
            self._answer(request, script.result(request.number, verdict))
        elif script.is_stale and not script.literal_only and request.state is RequestState.RUNNING:
            script.literal_only = True
            script.tries -= 1
            self._again(request, now)
        elif not failures.is_lost_race(verdict.failure) or not self._pauses(request, script, now):
            self._fail(request, verdict, now)

    def _may_try_again(self, request: Request, script: Script, now: float) -> bool:
        is_wanted = request.state in (RequestState.RUNNING, RequestState.IN_DOUBT)
        in_time = request.deadline is None or now < request.deadline
        return is_wanted and in_time and script.tries <= script.retries

    def _pauses(self, request: Request, script: Script, now: float) -> bool:
        """Try it again a little later, if it may be and that is in time."""
        pause = self._next_pause(script) * (0.5 + self.chance())
        if not self._may_try_again(request, script, now + pause):
            return False
        request.group.stats.retries += 1
        request.become(RequestState.PAUSED)
        request.backend = None
        self.timers.set(request, now + pause)
        return True

    def _next_pause(self, script: Script) -> float:
        """The mean of the pause before the next try."""
        return float(min(FIRST_PAUSE * 2 ** min(script.tries - 1, 16), LONGEST_PAUSE))

    def _fail(self, request: Request, verdict: Verdict, now: float) -> None:
        script, failure = request.script, verdict.failure
        assert script is not None
        assert failure is not None
        request.group.stats.errors += 1
        is_cancelled = request.state is RequestState.CANCELLED
        why = request.reason if is_cancelled else out_of_time(request, failure, now)
        if not why and not is_cancelled and (backend := request.backend) is not None:
            why = by_query_timeout(backend, request, failure, now - max(request.started, backend.completed))
        failure = failures.with_reason(failure, why)
        verdict = Verdict(failure._replace(request=request.number, transaction=TX_NONE), verdict.step)
        self._answer(request, script.result(request.number, verdict))

    # A COMMIT whose answer was lost.

    def _doubt(self, request: Request, backend: Backend, error: str, now: float) -> None:
        """The backend was lost after COMMIT was sent."""
        script = request.script
        assert script is not None
        if _only_reads(request, script):
            self._retry_elsewhere(request, backend, error, now)
            return
        if not script.xid.isdigit() or not backend.server.identity:
            self._unknown(request, error, "its transaction's id was not known", now)
            return
        if request.state is RequestState.CANCELLED:
            script.retries = 0
        if request.state is not RequestState.WITHDRAWN:
            request.become(RequestState.IN_DOUBT)
        self.timers.clear(request)
        inquiry = Request(NOBODY, 0, request.group, Verb.INQUIRY, now, now + OUTCOME_TIMEOUT)
        inquiry.about = request
        inquiry.pool = backend.pool
        inquiry.reason = error
        inquiry.identity = backend.server.identity
        inquiry.epoch = backend.server.epoch
        inquiry.unit = (SimpleQuery(b"SELECT pg_catalog.pg_xact_status('%b'::pg_catalog.xid8)" % script.xid),)
        self._ask(inquiry, now)

    def _ask(self, inquiry: Request, now: float) -> None:
        """Let the question wait for a backend of its server. Whoever calls this lets _serve follow."""
        assert inquiry.pool is not None
        assert inquiry.deadline is not None
        inquiry.become(RequestState.ASKING)
        inquiry.pool.inquiries.append(inquiry)
        self.timers.set(inquiry, inquiry.deadline)

    def _inquire(self, backend: Backend, inquiry: Request, now: float) -> bool:
        """Ask what became of a COMMIT; False if this backend's server cannot know."""
        if backend.server.identity != inquiry.identity:
            self.timers.clear(inquiry)
            self._told(inquiry, "the server is another one now", now)
            return False
        self._start(backend, inquiry, now)
        return True

    def _inquired(self, inquiry: Request, done: Completion, now: float) -> None:
        """PostgreSQL has answered, or not.

        After a recovery from a crash the id may have been given again, to another transaction: only if that was not
        committed either, or has not come yet, is it known that this one was not. A COMMIT that was answered, or could
        have been, survives any crash.
        """
        if inquiry.state is RequestState.DONE:
            return  # its time was up
        self.timers.clear(inquiry)
        is_recovered = inquiry.backend is not None and inquiry.backend.server.epoch != inquiry.epoch
        if done.failure is not None and done.failure.sqlstate == _IN_THE_FUTURE:
            self._told(inquiry, "aborted", now)
            return
        if done.failure is not None:
            self._told(inquiry, f"PostgreSQL does not tell ({done.failure.message.strip()})", now)
            return
        status = only_cell(done.results[-1].rows or b"")
        if is_recovered and status == b"committed":
            self._told(inquiry, "the server crashed since, and may have used its id again", now)
            return
        if is_recovered and status == b"in progress":
            status = b"aborted"
        if status != b"in progress":
            self._told(inquiry, status.decode() if status else "PostgreSQL has forgotten it", now)
            return
        assert inquiry.deadline is not None
        inquiry.become(RequestState.PAUSED)
        self.timers.set(inquiry, min(now + ASK_AGAIN, inquiry.deadline))

    def _inquiry_overdue(self, inquiry: Request, now: float) -> None:
        """PostgreSQL could not be asked in time. If it is being asked, the answer comes too late."""
        assert inquiry.pool is not None
        if inquiry in inquiry.pool.inquiries:
            inquiry.pool.inquiries.remove(inquiry)
        self._told(inquiry, f"PostgreSQL could not tell within {OUTCOME_TIMEOUT:g} s", now)

    def _told(self, inquiry: Request, status: str, now: float) -> None:
        """Now it is known, as far as it can be, what became of the transaction."""
        request = inquiry.about
        assert request is not None
        script = request.script
        assert script is not None
        inquiry.become(RequestState.DONE)
        if request.state is RequestState.DONE:
            return
        if status == "committed":
            self._answer(request, script.result(request.number, Verdict()))
        elif status == "aborted":
            backend = request.backend
            assert backend is not None
            self._retry_elsewhere(request, backend, inquiry.reason, now)
        else:
            self._unknown(request, inquiry.reason, status, now)

    def _unknown(self, request: Request, error: str, why: str, now: float) -> None:
        request.group.stats.in_doubt += 1
        self._fail(request, Verdict(failures.commit_unknown(error, why)), now)

    def _retry_elsewhere(self, request: Request, backend: Backend, error: str, now: float) -> None:
        """Run a message of which nothing was committed on another backend, or say that nothing was."""
        script = request.script
        assert script is not None
        if self._may_try_again(request, script, now):
            request.group.stats.retries += 1
            self._again(request, now)
        else:
            self._fail(request, Verdict(failures.not_run(backend.pool.endpoint.name, error)), now)

    # Whether a statement can be prepared.

    def _probe_goes_on(self, backend: Backend, request: Request, done: Completion) -> bool:
        """A unit of the probe has ended; whether another follows."""
        assert request.probe is not None
        is_first = not request.probe.counts
        following = request.probe.advance(done, backend.prepared, request.group.statements)
        if is_first and request.probe.counts and backend.pool.watch.have_changed(request.probe.counts):
            self._begin_anew()
        if following is None:
            if not request.probe.statement.is_harmless:
                backend.left = backend.left.joined(UNSEEN)  # by what ran while it was parsed
            return False
        request.unit = following
        self._effects.append(Execute(backend.number, following))
        return True

    def _resume(self, request: Request, now: float) -> None:
        """A pause is over."""
        if request.verb is Verb.INQUIRY:
            self._ask(request, now)
            self._serve(request.group, now)
        else:
            self._dispatch(request, now)


def _only_reads(request: Request, script: Script) -> bool:
    """Whether the message, all of it in the unit with its COMMIT, may run any number of times.

    A proof is one of the prepared statement.
    """
    prepared = {command.name for command in request.unit if type(command) is Bind}
    return all(statement.proof.is_plain_read and statement.name in prepared for statement, _ in script.values())


def refusal(script: Script) -> Failure | None:
    """Why these values cannot be taken, None if they can. Those of prepared statements PostgreSQL looks at."""
    for place, (statement, values) in enumerate(script.values()):
        if statement.state is not StatementState.PREPARED or script.is_special(place):
            try:
                statement.rendered(values)
            except ProtocolViolation as violation:
                return failures.protocol(f"statement {place + 1} of the transaction: {violation}")
    return None
