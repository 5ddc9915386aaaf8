"""What time limits tell of a request: whether it can still be begun, and which of them ended it."""

from __future__ import annotations

from client.wire.messages import Failure
from client.wire.sqlstates import QUERY_CANCELED
from poold.core.records.backend import Backend
from poold.core.records.request import Request
from poold.core.statements.statement import AHEAD_SECONDS, TRUSTED_AFTER, TRUSTED_FOR
from poold.core.work import failures

# What a running statement may take beyond its endpoint's query_timeout before the broker itself cancels it: the
# server's statement_timeout comes first unless the server cannot be heard any more.
GUARD = 5.0
# The server's clock began before the broker's, and both have their own pace.
EARLY = 0.95


def is_hopeless(request: Request, now: float) -> bool:
    """Whether the request cannot count on ending before its deadline, as far as its statement's profile tells.

    Where requests wait until just before their deadlines, what takes its mean ends too late every other time; so they
    must have time for what it rarely exceeds, and, if it may, for running behind others. A profile that no run has
    renewed for long tells nothing: without that a statement that was slow once might never run again.
    """
    deadline, statement = request.deadline, request.statement
    return (
        deadline is not None
        and statement is not None
        and statement.runs >= TRUSTED_AFTER
        and now + statement.expected + (AHEAD_SECONDS if statement.is_short else 0.0) > deadline
        and now < statement.begun + TRUSTED_FOR
    )


def out_of_time(request: Request, failure: Failure, now: float) -> str:
    """Why the server cancelled it, if it was to do so at the request's deadline; "" otherwise."""
    is_late = request.is_timed and request.deadline is not None and request.deadline <= now
    return failures.timeout_passed(request) if is_late and failure.sqlstate == QUERY_CANCELED else ""


def by_query_timeout(backend: Backend, request: Request, failure: Failure, seconds: float) -> str:
    """Why the server cancelled it, if it ran as long as its endpoint lets it; "" otherwise.

    PostgreSQL says it in words of any language, so time has to tell.
    """
    endpoint = backend.pool.endpoint
    if failure.sqlstate != QUERY_CANCELED or not endpoint.query_timeout or "user request" in failure.message:
        return ""
    is_own = b"statement_timeout" in request.settings.lower()
    if is_own or not EARLY * endpoint.query_timeout <= seconds <= endpoint.query_timeout + GUARD:
        return ""
    return failures.query_timeout_passed(endpoint.name, endpoint.query_timeout)


def must_have_ended(request: Request) -> bool:
    """Whether the endpoint's query_timeout certainly held for the request.

    It may have a longer one: by its settings, by SET in its lease or its own text, by a function that anything called.
    Each statement of a string has one of its own, and what comes with a commit (deferred triggers, standbys that are
    waited for) has none.
    """
    statement = request.statement
    if request.lease is not None or statement is None or b"statement_timeout" in request.settings.lower():
        return False
    traits = statement.examine()
    return traits.is_plain and not traits.writes
