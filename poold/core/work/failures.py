"""The core's own failures, with their texts for clients: those that are not PostgreSQL's errors."""

from __future__ import annotations

from client.wire.commits import may_commit
from client.wire.limits import RELIED_ON
from client.wire.messages import (
    EXECUTED,
    FAILED,
    NOT_EXECUTED,
    TX_LOST,
    TX_NONE,
    UNKNOWN,
    Failure,
    TransactionStatus,
    plain_failure,
)
from client.wire.sqlstates import IN_FAILED_SQL_TRANSACTION, LOST_RACES, NOT_ON_STANDBY, QUERY_CANCELED
from poold.core.records.backend import Backend
from poold.core.records.lease import Lease
from poold.core.records.request import Request, Verb
from poold.core.state import BrokerState
from poold.core.statements.leftovers import LOCK_HELD, SEQUENCE_VALUE, SETTING
from poold.core.work.outcomes import may_commit_block


def usage(text: str) -> Failure:
    """The client asked for something that is not possible here."""
    return plain_failure("usage", NOT_EXECUTED, text)


def protocol(text: str) -> Failure:
    """A message breaks the protocol; poold's own client sends none such."""
    return plain_failure("protocol", NOT_EXECUTED, text)


def unconfigured_group(name: str, known: list[str]) -> Failure:
    """There is no such group, or the client may not use it: one text for both. known are the groups that it may use."""
    text = f"the broker has no group {name!r} for this client; it has {', '.join(sorted(known)) or 'none'}"
    return plain_failure("unconfigured-group", NOT_EXECUTED, text)


def removed(name: str) -> Failure:
    """The request waited for a group that a reload has removed."""
    text = f"the broker has no group {name!r} any more: a reload of its configuration has removed it"
    return plain_failure("unconfigured-group", NOT_EXECUTED, text)


def too_many(text: str) -> Failure:
    """A limit on waiting or unanswered requests is reached."""
    return plain_failure("too-many-requests", NOT_EXECUTED, text)


def unread(waited: str, limit: str) -> Failure:
    """A held request waited until its time was over, as its client did not read earlier replies."""
    text = f"not begun within {waited} ({limit}): this client leaves earlier replies unread; read them first"
    return plain_failure("pool-timeout", NOT_EXECUTED, text)


def behind(waited: str, limit: str, is_session: bool) -> Failure:
    """A lease's request waited until its time was over, as the one before it had not ended."""
    where = "session" if is_session else "transaction"
    text = f"not begun within {waited} ({limit}): the statement before it in its {where} has not ended"
    return plain_failure("pool-timeout", NOT_EXECUTED, text)


def draining() -> Failure:
    """The broker is shutting down and takes no new work."""
    text = "the broker is shutting down and takes no new work; try again when it is back"
    return plain_failure("unserved", NOT_EXECUTED, text)


def drained() -> Failure:
    """An operator has drained the broker."""
    text = "an operator has drained the broker, and it takes no new work until it is resumed; try again later"
    return plain_failure("unserved", NOT_EXECUTED, text)


def not_served(state: BrokerState) -> Failure:
    """The broker takes no new work, and the request had not begun."""
    return drained() if state is BrokerState.DRAINED else draining()


def lease_lost(reason: str, is_session: bool = False) -> Failure:
    """The lease is lost, and with it its transaction or session."""
    if is_session:
        text = f"the session is over, and with it what was open in it: {reason}; open another"
    else:
        text = f"the transaction was rolled back: {reason}; call rollback() and begin anew"
    return plain_failure("transaction-lost", NOT_EXECUTED, text, TX_LOST)


def endpoint_lost(lease: Lease, endpoint: str, error: str) -> Failure:
    """The lease is lost with its backend."""
    return lease_lost(f"the connection to endpoint {endpoint!r} was lost ({error})", lease.is_session)


def wants_session(leaves: str) -> Failure:
    """The statement makes sense only if others of its client run in the same session."""
    if leaves == SEQUENCE_VALUE:
        return usage(
            "currval() and lastval() give what nextval() gave last in the same session, and the statement that called "
            "it may have run in another one; let that statement return the value (INSERT ... RETURNING, SELECT "
            "nextval(...)), or run both in one transaction or in a db.session() block"
        )
    if leaves == LOCK_HELD:
        return usage(
            "this statement gives back an advisory lock that its session holds, and runs in another session than the "
            "one that took the lock; run both in one transaction or in a db.session() block, or take a lock that ends "
            "with its transaction: pg_advisory_xact_lock()"
        )
    text = (
        f"this statement leaves {leaves} in its session, which is reset before the next statement may run in it; run "
        "what belongs together in a db.session() block"
    )
    if leaves == SETTING:
        text += ", or let the setting travel with each statement: settings={'name': 'value'}"
    return usage(text)


def no_single(is_several: bool, is_reading: bool) -> Failure:
    """What has settings is several statements, or none; is_reading: the setting is that it only reads."""
    if is_several:
        # COPY and streams have settings that their programs did not give, so all are named.
        return usage(
            "this string holds several statements; a COPY, a stream, settings and read_only=True want a single one: "
            "send each by itself"
        )
    what, without = ("what only reads is", "read_only") if is_reading else ("settings travel with", "settings")
    return usage(
        f"{what} a statement that is neither empty nor BEGIN, COMMIT or the like; send this one without {without}"
    )


def relied_on() -> Failure:
    """The statement changes a setting that all clients' literals and values rely on."""
    names = ", ".join(RELIED_ON)
    text = f"a statement must not change {names}: the clients' literals and values rely on them; convert in SQL instead"
    return usage(text)


def withdrawn() -> Failure:
    """The request was cancelled by its client before it ran."""
    return plain_failure("query", NOT_EXECUTED, "canceled before it ran", sqlstate=QUERY_CANCELED)


def canceled_between(failure: Failure) -> Failure:
    """A batch was cancelled between two of its statements; failure is how its transaction was made to fail then."""
    text = "canceled before it ran, behind other statements of its message, which end with the transaction's rollback"
    diag = {name: value for name, value in failure.diag.items() if name in ("severity", "step")}
    return failure._replace(message=text, sqlstate=QUERY_CANCELED, diag=diag)


def killed(reason: str) -> Failure:
    """Somebody else has ended the request before it ran."""
    return plain_failure("query", NOT_EXECUTED, f"canceled before it ran ({reason})", sqlstate=QUERY_CANCELED)


def commit_rolled_back() -> Failure:
    """COMMIT was answered with ROLLBACK: PostgreSQL's way to say that the transaction had failed before."""
    text = "COMMIT rolled back: a statement of this transaction had failed, nothing was committed"
    return plain_failure("query", FAILED, text, sqlstate=IN_FAILED_SQL_TRANSACTION)


def left_open() -> Failure:
    """An autocommit statement left a transaction open."""
    text = (
        "the statement left a transaction open, which was rolled back: it commits by itself, and the next one may "
        "run on another backend; use db.transaction(), db.session() or Handler(autocommit=False)"
    )
    return plain_failure("usage", FAILED, text)


def may_end(request: Request) -> bool:
    """Whether the request may have committed its lease's transaction."""
    sql = request.statement.sql if request.statement is not None else b""
    return request.verb is Verb.COMMIT or (request.verb is Verb.QUERY and may_commit(sql) and may_commit_block(sql))


def end_unknown(reason: str, is_session: bool) -> Failure:
    """The lease is gone, and the broker does not know how its transaction ended."""
    remedy = "look for what it did; open another session" if is_session else "call rollback() and look for what it did"
    text = f"whether the transaction was committed is not known: {reason}; {remedy}"
    return plain_failure("transaction-lost", UNKNOWN, text, TX_LOST)


def connection_lost(request: Request, endpoint: str, error: str, in_transaction: bool) -> Failure:
    """The backend was lost while the statement ran; the failure tells what is known of the outcome.

    in_transaction: whether the statement ran in a transaction block, whose work only COMMIT makes permanent.
    """
    where = f"the connection to endpoint {endpoint!r} was lost"
    lease = request.lease
    if lease is not None and request.verb is Verb.QUERY and in_transaction and not may_end(request):
        return lease_lost(f"{where} ({error})", lease.is_session)
    transaction: TransactionStatus = TX_NONE if lease is None or not lease.is_session else TX_LOST
    transfer = request.transfer
    is_cut_short = transfer is not None and transfer.is_in and transfer.is_begun and not transfer.is_complete
    if is_cut_short and not may_end(request):  # of a string, what comes ahead of the COPY may be committed
        text = f"{where} before all data of the COPY was sent, so nothing of it took effect: {error}"
        return plain_failure("connection", FAILED, text, transaction)
    what = "COMMIT was" if request.verb is Verb.COMMIT else "the statement was"
    text = f"{where} while {what} running, it may have taken effect: {error}"
    return plain_failure("connection", UNKNOWN, text, transaction)


def not_run(endpoint: str, error: str) -> Failure:
    """The backend was lost before anything could take effect, and no other try is left."""
    text = f"the connection to endpoint {endpoint!r} was lost, nothing was committed: {error}"
    return plain_failure("connection", NOT_EXECUTED, text)


def commit_unknown(error: str, why: str) -> Failure:
    """The answer to COMMIT was lost, and it could not be found out whether it took effect."""
    text = f"the connection was lost during COMMIT ({error}) and {why}: it may have been committed, or not"
    return plain_failure("commit-unknown", UNKNOWN, text)


def is_lost_race(failure: Failure) -> bool:
    """Whether the transaction lost a race against others, so that running it again may succeed."""
    return failure.sqlstate in LOST_RACES


def is_of_standby(backend: Backend, failure: Failure) -> bool:
    """Whether the failure may be due to the server's being a standby, and a primary may do better.

    A standby also ends what is in the way of its replay, as if that had lost a race.
    """
    if backend.group.main is not None:
        return failure.sqlstate in (*NOT_ON_STANDBY, *LOST_RACES)
    return failure.sqlstate in NOT_ON_STANDBY and backend.server.is_standby is True and backend.group.role == "primary"


def ended_early() -> Failure:
    """A statement of a transaction message ended the transaction."""
    text = "a statement ended the transaction before its end; what it did before that may have been committed"
    return plain_failure("usage", UNKNOWN, text)


def unexpected_count(count: int, low: int, high: int | None) -> Failure:
    """A statement of a transaction message did not affect as many rows as its client expects."""
    expected = f"at least {low}" if high is None else f"{low}" if low == high else f"from {low} to {high}"
    text = f"expected {expected} rows, got {max(count, 0)}"
    return plain_failure("expectation", FAILED, text)


def data_cut(reason: str, transaction: TransactionStatus) -> Failure:
    """A COPY TO STDOUT was cancelled and ended well all the same: its client has not got all of its data."""
    text = f"the COPY was executed, but the rest of its data was thrown away: {reason or 'it was canceled'}"
    return plain_failure("query", EXECUTED, text, transaction, QUERY_CANCELED)


def result_too_large(limit: int) -> Failure:
    """The statement ran, but its result is too large to keep; limit is in bytes."""
    text = (
        f"the statement was executed, but its result exceeds {limit} bytes (max_result_bytes in [broker]); ask for "
        "less at a time (LIMIT, fewer columns) or raise the limit"
    )
    return plain_failure("result-too-large", EXECUTED, text)


def own_timeout(request: Request) -> str:
    """The limit, in words, that the request's client has given it."""
    assert request.deadline is not None
    return f"the request's timeout of {request.deadline - request.arrived:g} s"


def timeout_passed(request: Request) -> str:
    """The reason, in words, why a request is cancelled at its deadline."""
    return f"{own_timeout(request)} has passed"


def query_timeout_passed(endpoint: str, timeout: float) -> str:
    """The reason, in words, why the server ended a statement by the endpoint's query_timeout (seconds)."""
    return (
        f"query_timeout = {timeout:g} s of endpoint {endpoint!r}; raise it there, or give what may take longer a limit "
        "of its own: settings={'statement_timeout': '1min'}; timeout=... bounds a call, and does not raise this limit"
    )


def with_reason(failure: Failure, reason: str) -> Failure:
    """PostgreSQL's failure with the reason of the cancel added; unchanged if the reason is "" or is told already.

    The reason belongs to the message proper, ahead of what PostgreSQL says of the place: "LINE 1: ...", "CONTEXT: ...".
    """
    message = failure.message.rstrip()
    if not reason or f"({reason})" in message:
        return failure
    primary = failure.diag.get("message_primary", "").rstrip()
    if not primary or not message.startswith(primary):
        primary = message.partition("\n")[0]
    return failure._replace(message=f"{primary} ({reason}){message[len(primary) :]}")
