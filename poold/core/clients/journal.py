"""What is told of requests and leases that took long: to the operator in the log, and to clients that record a trace.

Each is told of once: a long wait when it ends, by a backend or without one; a slow request when it ends; a lease when
it ends. Values of clients are never part of it, see `client.wire.masking`.
"""

from __future__ import annotations

from client.wire.cursors import described
from client.wire.masking import LONGEST_SHOWN, masked
from client.wire.messages import TX_NONE, Answer, Failure, ResultMessage, Timing, TransactionResult
from client.wire.origins import is_traced, place_in, trace_id_in
from poold.core.agenda import Agenda
from poold.core.effects import Note, Tell
from poold.core.records.lease import Lease
from poold.core.records.request import Request, Verb

# Statements of one message that are shown.
MOST_SHOWN = 5

_Reply = Answer | ResultMessage | TransactionResult | Failure | None


class Journal:
    """Tells of what took longer than its group's log_slow or log_long_wait."""

    def __init__(self, agenda: Agenda) -> None:
        self._agenda = agenda

    def begun(self, request: Request, waited: float) -> None:
        """The request was given to its backend, after so many seconds of waiting."""
        limit = request.group.config.log_long_wait
        if limit and waited >= limit and not request.is_told and request.began is None:
            request.is_told = True
            self._note("long wait", request, waited_ms=_ms(waited), outcome="begun")

    def ended(self, request: Request, reply: _Reply) -> None:
        """The request ends with this reply, None if nobody is left to hear it."""
        if request.verb is Verb.POSITION:
            return
        backend, config, now = request.backend, request.group.config, self._agenda.now
        ran: float | None = None
        if backend is None:
            waited = (now if request.began is None else request.began) - request.arrived
            if config.log_long_wait and waited >= config.log_long_wait and not request.is_told:
                self._note("long wait", request, waited_ms=_ms(waited), **_outcome(reply))
        else:
            # A statement that the server was asked about afterwards ended before that.
            began = backend.begun(request) if request.ended is None else request.started
            ran = now - began
            given = request.started if request.began is None else min(request.began, request.started)
            waited = given - request.arrived
            if config.log_slow and ran >= config.log_slow:
                self._note("slow request", request, waited_ms=_ms(waited), ran_ms=_ms(ran), **_outcome(reply))
        if is_traced(request.origin) and reply is not None:
            pid, address = (0, ("", 0, "")) if backend is None else (backend.server.pid, backend.pool.endpoint.address)
            told = Timing(request.number, waited, ran, pid, *address)
            self._agenda.effects.append(Tell(request.client.key, told))

    def lease_ended(self, lease: Lease, why: str, is_unknown: bool) -> None:
        """The lease, which had a backend, has ended; is_unknown: what it runs may commit its transaction."""
        limit, now = lease.group.config.log_slow, self._agenda.now
        if not limit or lease.backend is None or now - lease.began < limit:
            return
        idle = lease.idle + (0.0 if lease.idle_since is None else now - lease.idle_since)
        fields = {
            "group": lease.group.name,
            "endpoint": lease.backend.pool.endpoint.name,
            "server_pid": lease.backend.server.pid,
            "pid": lease.client.pid,
            "process": lease.client.name,
            "tag": lease.tag,
            "code": place_in(lease.origin),
            "trace_id": trace_id_in(lease.origin),
            "open_ms": _ms(now - lease.began),
            "idle_ms": _ms(idle),
            "requests": lease.requests,
            "end": _end_of(lease, why, is_unknown),
        }
        event = "slow session" if lease.is_session else "slow transaction"
        self._agenda.effects.append(Note(event, True, fields, is_frequent=True))

    def _note(self, event: str, request: Request, **times: object) -> None:
        backend, lease = request.backend, request.lease
        tag, origin = (request.tag, request.origin) if lease is None else (lease.tag, request.origin or lease.origin)
        fields = {
            "group": request.group.name,
            "endpoint": "" if backend is None else backend.pool.endpoint.name,
            "server_pid": None if backend is None else backend.server.pid,
            "pid": request.client.pid,
            "process": request.client.name,
            "tag": request.tag or tag,
            "code": place_in(origin),
            "trace_id": trace_id_in(origin),
            **times,
            "statement": _statement(request),
        }
        self._agenda.effects.append(Note(event, True, fields, is_frequent=True))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _outcome(reply: _Reply) -> dict[str, object]:
    """Return what the reply says of the request's fate, as fields."""
    if reply is None:
        return {"outcome": "withdrawn"}
    failure = reply if type(reply) is Failure else None
    if type(reply) is TransactionResult and reply.failure is not None:
        failure = Failure._make(reply.failure)
    if failure is not None:
        return {"outcome": failure.outcome, "error": failure.kind, "sqlstate": failure.sqlstate or ""}
    rows = {"rows": reply.rowcount} if type(reply) is ResultMessage and reply.rowcount >= 0 else {}
    return {"outcome": "executed", **rows}


def _end_of(lease: Lease, why: str, is_unknown: bool) -> str:
    """Return how the lease has ended, and why, if it was not its own COMMIT or ROLLBACK."""
    backend = lease.backend
    if not lease.is_session:
        return lease.outcome or f"{'unknown' if is_unknown else 'rolled back'}: {why}"
    if backend is None or backend.transaction == TX_NONE:
        return why
    return f"{why}; a transaction in it {'has an unknown outcome' if is_unknown else 'was rolled back'}"


def _statement(request: Request) -> str:
    """Return the request's statement, or the first ones of several, without values."""
    if request.verb in (Verb.COMMIT, Verb.ROLLBACK):
        return request.verb.name
    texts: list[bytes] = []
    if request.script is not None:
        texts = [step.statement for step in request.script.steps if not isinstance(step, int)]
    elif request.batch is not None:
        texts = request.batch.texts
    elif request.statement is not None:
        texts = [request.statement.sql]
    if request.fetched is not None:
        shown = described(texts[0], request.fetched)
    else:
        shown = "; ".join(map(masked, texts[:MOST_SHOWN]))
    shown = shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}..."
    return shown if len(texts) <= MOST_SHOWN else f"{shown}; ... ({len(texts)} statements)"
