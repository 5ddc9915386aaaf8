"""The core's own error texts: what a client is told where PostgreSQL has no word in it."""

from __future__ import annotations

import re

from client.protocol import (
    FAILED,
    NOT_EXECUTED,
    TX_LOST,
    TX_NONE,
    UNKNOWN,
    Failure,
)
from poold.core.request import Request, Verb

# A statement of a transaction that may have ended it: where one of these words occurs, nobody can tell after a loss.
_MAY_COMMIT = re.compile(rb"\b(commit|end|prepare|call|do)\b", re.IGNORECASE)


def usage(text: str) -> Failure:
    """A request out of place."""
    return Failure(0, TX_NONE, "usage", NOT_EXECUTED, text, None, {})


def protocol(text: str) -> Failure:
    """A request that no client of ours sends."""
    return Failure(0, TX_NONE, "protocol", NOT_EXECUTED, text, None, {})


def unconfigured_group(name: str, known: list[str]) -> Failure:
    """No such group."""
    text = f"the broker has no group {name!r}; it has {', '.join(sorted(known))}"
    return Failure(0, TX_NONE, "unconfigured-group", NOT_EXECUTED, text, None, {})


def draining() -> Failure:
    """No new work is taken."""
    text = "the broker is shutting down and takes no new work; try again when it is back"
    return Failure(0, TX_NONE, "connection", NOT_EXECUTED, text, None, {})


def transaction_lost(reason: str) -> Failure:
    """The lease is gone."""
    text = f"the transaction was rolled back: {reason}; call rollback() and begin anew"
    return Failure(0, TX_LOST, "transaction-lost", NOT_EXECUTED, text, None, {})


def withdrawn() -> Failure:
    """Cancelled by its client before it ran."""
    return Failure(0, TX_NONE, "query", NOT_EXECUTED, "canceled before it ran", "57014", {"severity": "ERROR"})


def commit_rolled_back() -> Failure:
    """COMMIT was answered with ROLLBACK: PostgreSQL's way to say that the transaction had failed before."""
    text = "COMMIT rolled back: a statement of this transaction had failed, nothing was committed"
    return Failure(0, TX_NONE, "query", FAILED, text, "25P02", {"severity": "ERROR"})


def left_open() -> Failure:
    """An autocommit statement began a transaction."""
    text = (
        "the statement left a transaction open, which was rolled back: this group is autocommit, each statement may "
        "run on another backend; use a group with autocommit = false"
    )
    return Failure(0, TX_NONE, "usage", FAILED, text, None, {})


def connection_lost(request: Request, endpoint: str, error: str) -> Failure:
    """The backend went away under a running statement; says what can be known of it."""
    where = f"the connection to endpoint {endpoint!r} was lost"
    if request.lease is not None and request.verb is Verb.QUERY and not _MAY_COMMIT.search(request.statement):
        return transaction_lost(f"{where} ({error})")
    what = "COMMIT was" if request.verb is Verb.COMMIT else "the statement was"
    text = f"{where} while {what} running, it may have taken effect: {error}"
    return Failure(0, TX_NONE, "connection", UNKNOWN, text, None, {})


def with_reason(failure: Failure, reason: str) -> Failure:
    """PostgreSQL's own failure with why the broker cancelled."""
    return failure._replace(message=f"{failure.message.rstrip()} ({reason})") if reason else failure
