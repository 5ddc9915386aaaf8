"""Time limits of requests: whether a request can still be begun, and which limit ended it."""

from __future__ import annotations

from client.wire.messages import Failure
from client.wire.sqlstates import QUERY_CANCELED
from poold.core.records.backend import Backend
from poold.core.records.request import Request
from poold.core.statements.statement import AHEAD_SECONDS, TRUSTED_AFTER, TRUSTED_FOR, Statement
from poold.core.work import failures

# Seconds that a running statement may take beyond its endpoint's query_timeout before the broker acts: the server's
# own statement_timeout comes first, unless the server is not heard any more.
GUARD = 5.0
# Share of query_timeout from which on a cancel is taken to be the server's own: the two clocks are not the same.
EARLY = 0.95


def is_hopeless(request: Request, now: float) -> bool:
    """Whether the request is not likely to end before its deadline, by its statement's profile.

    Under overload requests begin just before their deadlines, and with time for the mean every other one would end too
    late. So the time left must cover what the statement rarely exceeds and, if it may join a pipeline, the statements
    ahead. A profile is trusted only for a while after the last run began: otherwise a statement that was slow once
    might never run again.
    """
    deadline, statement = request.deadline, request.statement
    return (
        deadline is not None
        and statement is not None
        and statement.runs >= TRUSTED_AFTER
        and now + _needed(statement) > deadline
        and now < statement.begun + TRUSTED_FOR
    )


def _needed(statement: Statement) -> float:
    return statement.expected + (AHEAD_SECONDS if statement.is_short else 0.0)


def too_little(request: Request, now: float) -> str:
    """The limit, in words, because of which a hopeless request is not begun."""
    statement, deadline = request.statement, request.deadline
    assert statement is not None
    assert deadline is not None
    needed = f"{_needed(statement):.3g} s" + (" with those ahead of it" if statement.is_short else "")
    return f"it usually takes up to {needed}, and {deadline - now:.3g} s are left of {failures.own_timeout(request)}"


def out_of_time(request: Request, failure: Failure, now: float) -> str:
    """The reason of the failure, if the server cancelled the request at its deadline; "" otherwise."""
    is_late = request.is_timed and request.deadline is not None and request.deadline <= now
    return failures.timeout_passed(request) if is_late and failure.sqlstate == QUERY_CANCELED else ""


def by_query_timeout(backend: Backend, request: Request, failure: Failure, seconds: float) -> str:
    """The reason of the failure, if the server cancelled the request by the endpoint's query_timeout; "" otherwise.

    PostgreSQL's message may be in any language, so this is told by the seconds that the request ran.
    """
    limit = backend.query_timeout
    if failure.sqlstate != QUERY_CANCELED or not limit or "user request" in failure.message:
        return ""
    is_own = b"statement_timeout" in request.settings.lower()
    if is_own or not EARLY * limit <= seconds <= limit + GUARD:
        return ""
    return failures.query_timeout_passed(backend.pool.endpoint.name, limit)


def not_heard(backend: Backend, request: Request) -> str:
    """The reason, in words, why the broker does not wait for the request any longer."""
    endpoint = backend.pool.endpoint
    if must_have_ended(request):
        return f"endpoint {endpoint.name!r} did not end it after its query_timeout of {backend.query_timeout:g} s"
    return f"endpoint {endpoint.name!r} sends nothing and is not at work for it"


def must_have_ended(request: Request) -> bool:
    """Whether the endpoint's query_timeout certainly held for the request.

    A request may have a longer limit: by its settings, by SET in its lease or its own text, or by a function that it
    calls. Each statement of a string has the limit for itself, and what happens at a commit (deferred triggers, waiting
    for standbys) has none.
    """
    statement = request.statement
    if request.lease is not None or statement is None or b"statement_timeout" in request.settings.lower():
        return False
    traits = statement.examine()
    return traits.is_plain and not traits.writes
