"""Requests as a part of the program's traces: with OpenTelemetry's own SDK."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2.errors
import pytest
from brokers import Broker, Worker
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from waiting import wait_until

from client import Handler, PoolTimeout, dbapi

StartWorker = Callable[..., Worker]
SECRET = "opensesame"
GROUPS: dict[str, dict[str, Any]] = {
    "default": {"max_size": 1, "log_slow": 0.05, "queue_timeout": 0.2},
    "transactions": {"autocommit": False, "max_size": 2},
}
TRACER = trace.get_tracer("program")


@pytest.fixture(scope="module")
def broker(postgres: Any) -> Iterator[Broker]:
    broker = Broker({"main": postgres.parameters}, GROUPS, {"log_format": "json"})
    try:
        yield broker.start()
    finally:
        broker.close()


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """What the program's tracer has recorded; a process has one provider for its life."""
    made = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    trace.set_tracer_provider(provider)
    return made


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Callable[[], list[ReadableSpan]]:
    exporter.clear()
    return lambda: [each for each in exporter.get_finished_spans() if each.name.startswith("poold.")]


Spans = Callable[[], list[ReadableSpan]]


def test_a_request_has_two_spans_below_the_current_one(broker: Broker, spans: Spans, postgres: Any) -> None:
    db = broker.handler(tag="report")
    with TRACER.start_as_current_span("work") as work:
        (pid,) = db.query("SELECT pg_backend_pid(), 'a literal', %s", (SECRET,))[0][:1]
    queue, run = spans()
    assert (queue.name, run.name) == ("poold.queue", "poold.run")
    for span in (queue, run):
        assert span.parent is not None
        assert span.context is not None
        assert span.parent.span_id == work.get_span_context().span_id
        assert span.context.trace_id == work.get_span_context().trace_id
    assert queue.kind is trace.SpanKind.INTERNAL
    assert run.kind is trace.SpanKind.CLIENT
    assert queue.attributes == {"db.system.name": "postgresql", "poold.group": "default", "poold.tag": "report"}
    parameters = postgres.parameters
    assert run.attributes == {
        "db.system.name": "postgresql", "poold.group": "default", "poold.tag": "report",
        "db.namespace": parameters["dbname"], "db.operation.name": "SELECT",
        "db.query.text": "SELECT pg_backend_pid(), ?, $1",
        "server.address": parameters["host"], "server.port": parameters["port"], "poold.server_pid": pid,
    }  # fmt: skip
    assert SECRET not in queue.to_json() + run.to_json()
    assert run.status.status_code is trace.StatusCode.UNSET


def test_the_spans_follow_each_other_within_the_current_one(broker: Broker, spans: Spans) -> None:
    with TRACER.start_as_current_span("work") as work:
        broker.handler().query("SELECT pg_sleep(0.03)")
    queue, run = spans()
    assert isinstance(work, ReadableSpan)
    times = [work.start_time, queue.start_time, queue.end_time, run.start_time, run.end_time, work.end_time]
    assert all(isinstance(each, int) for each in times)
    assert times == sorted(times, key=lambda each: each or 0)
    assert (run.end_time or 0) - (run.start_time or 0) >= 30_000_000


def test_the_slow_log_has_the_trace(broker: Broker, spans: Spans) -> None:
    with TRACER.start_as_current_span("work") as work:
        broker.handler().query("SELECT pg_sleep(0.06)")
    trace_id = f"{work.get_span_context().trace_id:032x}"
    wait_until(lambda: f'"trace_id": "{trace_id}"' in broker.log(), what="the line")
    (line,) = [json.loads(each) for each in broker.log().splitlines() if trace_id in each]
    assert line["event"] == "slow request"


def test_an_error_has_its_code_and_not_its_text(broker: Broker, spans: Spans) -> None:
    with TRACER.start_as_current_span("work"), pytest.raises(psycopg2.errors.InvalidTextRepresentation):
        broker.handler().query("SELECT %s::int", (SECRET,))
    _, run = spans()
    assert run.attributes is not None
    assert run.attributes["error.type"] == run.attributes["db.response.status_code"] == "22P02"
    assert run.attributes["poold.outcome"] == "failed"
    assert run.status.status_code is trace.StatusCode.ERROR
    assert SECRET not in run.to_json()


def test_a_request_that_never_ran_has_only_waited(broker: Broker, spans: Spans, start_worker: StartWorker) -> None:
    holder = broker.handler()
    with holder.session() as session:
        session.query("SELECT 1")
        with TRACER.start_as_current_span("work"), pytest.raises(PoolTimeout):
            broker.handler().query("SELECT 2")
    (queue,) = spans()
    assert queue.name == "poold.queue"
    assert queue.attributes is not None
    assert queue.attributes["error.type"] == "pool-timeout"
    assert queue.status.status_code is trace.StatusCode.ERROR
    assert (queue.end_time or 0) - (queue.start_time or 0) >= 200_000_000


def test_a_transaction_message_is_a_batch(broker: Broker, spans: Spans) -> None:
    db = broker.handler()
    with TRACER.start_as_current_span("work"), db.transaction() as tx:
        first = tx.query("SELECT %s", (1,))
        tx.query("SELECT 2")
    assert first[0][0] == 1
    _, run = spans()
    assert run.attributes is not None
    assert run.attributes["db.operation.name"] == "BATCH"
    assert run.attributes["db.operation.batch.size"] == 2
    assert run.attributes["db.query.text"] == "SELECT $1; SELECT ?"


def test_statements_of_transactions_copies_streams_and_the_dbapi_have_spans(broker: Broker, spans: Spans) -> None:
    with TRACER.start_as_current_span("work"):
        with broker.handler("transactions") as db:
            db.query("SELECT 1")
        assert len(spans()) == 2
        broker.handler().copy_out("COPY (SELECT 1) TO STDOUT", _Sink())
        assert [each.attributes["db.operation.name"] for each in spans()[3::2] if each.attributes] == ["COPY"]
        with broker.handler().stream("SELECT generate_series(1, 10)") as rows:
            assert len(list(rows)) == 10
        texts = [each.attributes["db.query.text"] for each in spans()[-3::2] if each.attributes]
        assert texts == [
            "DECLARE poold_stream_0 NO SCROLL CURSOR FOR SELECT generate_series(?, ?)",
            "FETCH ? FROM poold_stream_0: SELECT generate_series(?, ?)",
        ]
        before = len(spans())
        connection = dbapi.connect(broker.address, group="transactions")
        cursor = connection.cursor()
        cursor.execute("SELECT %s", (1,))
        cursor.executemany("SELECT %s", [(1,), (2,)])
        connection.commit()
        connection.close()
        assert len(spans()) > before + 2


class _Sink:
    def write(self, data: bytes) -> None:
        assert data == b"1\n"


def test_what_is_not_recorded_leaves_no_trace(broker: Broker, spans: Spans) -> None:
    broker.handler().query("SELECT 1")  # no span
    off = TracerProvider(sampler=ALWAYS_OFF).get_tracer("program")
    with off.start_as_current_span("work"):
        broker.handler().query("SELECT 1")
    with TRACER.start_as_current_span("work"):
        broker.handler(trace=False).query("SELECT 1")
        with broker.handler(trace=False).transaction() as tx:
            tx.query("SELECT 1")
    assert spans() == []


def test_a_broker_that_restarts_in_between_is_nothing_a_trace_sees(broker: Broker, spans: Spans) -> None:
    db: Handler = broker.handler()
    db.query("SELECT 1")
    broker.stop()
    broker.start()
    with TRACER.start_as_current_span("work"):
        assert db.query("SELECT 1")[0][0] == 1
    assert [each.name for each in spans()] == ["poold.queue", "poold.run"]
