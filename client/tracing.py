"""Spans of requests in the program's own traces: how long one waited for a backend, and how long it ran there.

The broker tells the times of a request that carries a traceparent (`Timing`); the spans are made here, by the tracer
that the program has configured, as children of its current span. Their names and attributes follow OpenTelemetry's
conventions for databases; statements are shown without values.

https://opentelemetry.io/docs/specs/semconv/database/postgresql/
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any

from client.channels.conversing import GoOn
from client.errors import DBError
from client.origins import API
from client.wire.codec import decode_steps
from client.wire.cursors import Cursors, cursor_use, described
from client.wire.limits import ON_REPLICAS
from client.wire.masking import masked
from client.wire.messages import (
    BatchMessage,
    Failure,
    Query,
    Timing,
    ToBroker,
    TransactionMessage,
    TransactionResult,
    UnderWay,
)
from client.wire.release import RELEASE

QUEUE, RUN = "poold.queue", "poold.run"
# Statements of one message that are shown.
MOST_SHOWN = 5


class Spans:
    """The spans of one request, from when it is sent."""

    def __init__(self, message: Any, go_on: GoOn | None, cursors: Cursors) -> None:
        """go_on is what other messages ahead of the reply lead to; cursors are those of the message's lease."""
        self._message = message
        use = cursor_use(message.statement) if type(message) is Query else None
        self._source = None if use is None else cursors.take(use)
        self._go_on = go_on
        self._began = time.time_ns()
        self._timing: Timing | None = None

    def go_on(self, told: UnderWay) -> Iterable[ToBroker | None]:
        """Take what the broker tells ahead of the reply; return what to send."""
        if isinstance(told, Timing):
            self._timing = told
            return ()
        return () if self._go_on is None else self._go_on(told)

    def end(self, reply: Any) -> None:
        """Make the spans; reply is what the request ended with, a DBError too."""
        timing, api = self._timing, sys.modules.get(API)
        if timing is None or api is None:
            return  # no broker has taken the request
        now = time.time_ns()
        waited, ran = round(timing.waited * 1e9), round((timing.ran or 0.0) * 1e9)
        # The way there and the way back are taken to be as long.
        arrived = self._began + max(0, now - self._began - waited - ran) // 2
        tracer: Any = api.get_tracer("poold", RELEASE)
        common = {"db.system.name": "postgresql", "poold.group": self._message.group.removesuffix(ON_REPLICAS)}
        if self._message.tag:
            common["poold.tag"] = self._message.tag
        error = _error(reply)
        queue = tracer.start_span(QUEUE, kind=api.SpanKind.INTERNAL, start_time=arrived, attributes=common)
        if timing.ran is None:
            _tell(api, queue, error)
        queue.end(end_time=arrived + waited)
        if timing.ran is not None:
            attributes = common | self._operation() | {
                "db.namespace": timing.dbname, "server.address": timing.host, "server.port": timing.port,
                "poold.server_pid": timing.pid,
            }  # fmt: skip
            run = tracer.start_span(RUN, kind=api.SpanKind.CLIENT, start_time=arrived + waited, attributes=attributes)
            _tell(api, run, error)
            run.end(end_time=arrived + waited + ran)

    def _operation(self) -> dict[str, Any]:
        """What the message runs, as attributes."""
        message = self._message
        if isinstance(message, (TransactionMessage, BatchMessage)):
            steps = [step for step in decode_steps(message.steps) if not isinstance(step, int)]
            shown = "; ".join([masked(step.statement) for step in steps[:MOST_SHOWN]])
            shown = shown if len(steps) <= MOST_SHOWN else f"{shown}; ..."
            return {"db.operation.name": "BATCH", "db.operation.batch.size": len(steps), "db.query.text": shown}
        shown = described(message.statement, self._source)
        name = shown.lstrip("( ").partition(" ")[0].rstrip(";").upper()
        return {"db.operation.name": name, "db.query.text": shown}


def _error(reply: Any) -> Failure | None:
    if isinstance(reply, DBError):
        return reply.failure
    if isinstance(reply, TransactionResult) and reply.failure is not None:
        return Failure._make(reply.failure)
    return None


def _tell(api: Any, span: Any, error: Failure | None) -> None:
    """Set what an error says; its text may quote values and is left out."""
    if error is None:
        return
    span.set_attribute("error.type", error.sqlstate or error.kind)
    span.set_attribute("poold.outcome", error.outcome)
    if error.sqlstate:
        span.set_attribute("db.response.status_code", error.sqlstate)
    span.set_status(api.Status(api.StatusCode.ERROR))
