"""Metrics as text: the catalogue keeps to Prometheus's rules, others' parsers read both formats; requests for it."""

import random
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import pytest
from documents import ROOT, rows
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families as families

from poold.core.figures import AGAIN, BOUNDS, CONNECT_BOUNDS
from poold.core.pools.availability import AvailabilityState
from poold.core.stats import BOUNDS as FINE
from poold.metrics.budget import MOST, SHARE, Budget
from poold.metrics.catalog import LABELS, METRICS, Kind, Level, Metric
from poold.metrics.exposition import Format, exposition
from poold.metrics.http import MAX_HEAD_BYTES, Request, read_head, response
from poold.metrics.process import process_figures

ALL = [(level, metric) for level, metrics in METRICS.items() for metric in metrics]
EACH = pytest.mark.parametrize(("level", "metric"), ALL, ids=[metric.name for _, metric in ALL])
# What is not to be a name's unit, as promtool has it.
NO_UNITS = ("milliseconds", "microseconds", "ms", "us", "minutes", "hours", "days", "kilobytes", "kb", "mb", "percent")
WORST = 'a"b\\c\nd{e}=,\u00e9 f'


@EACH
def test_a_metric_s_name_says_what_it_is_in_base_units(level: Level, metric: Metric) -> None:
    prefix = "process_" if level is Level.PROCESS else "poold_"
    assert re.fullmatch(rf"{prefix}[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert metric.name.endswith("_info") == (metric.kind is Kind.INFO)
    words = metric.name.split("_")
    assert not {*NO_UNITS, "counter", "gauge", "histogram", "bucket", "sum", "count"} & set(words)
    assert metric.kind is not Kind.HISTOGRAM or metric.unit == "seconds"
    assert ("seconds" in words or "bytes" in words) == bool(metric.unit)


@EACH
def test_a_metric_s_help_is_a_sentence_and_its_labels_are_names(level: Level, metric: Metric) -> None:
    assert re.fullmatch(r"[A-Z1][^\n\\\"]+\.", metric.help)
    assert bool(metric.states) <= bool(metric.label)
    for label in (*LABELS[level], metric.label):
        assert re.fullmatch(r"[a-z_]*", label)
        assert label not in ("le", "quantile", "job", "instance")


def test_no_name_is_another_s_or_could_be_a_sample_of_another_s() -> None:
    names = [metric.name for _, metric in ALL]
    assert len(set(names)) == len(names)
    bases = [name.removesuffix("_total").removesuffix("_info") for name in names]
    assert len(set(bases)) == len(bases)
    samples = {f"{base}{end}" for base in bases for end in ("_bucket", "_count", "_sum", "_created")}
    assert not samples & {*names, *bases}


def test_bounds_are_unions_of_what_is_counted() -> None:
    for bounds in (BOUNDS, CONNECT_BOUNDS):
        assert set(bounds) <= set(FINE)
        assert list(bounds) == sorted(set(bounds))


def distribution(bounds: tuple[float, ...] = BOUNDS, count: int = 100) -> dict[str, Any]:
    return {"up_to": {bound: min(place * 7, count) for place, bound in enumerate(bounds)}, "count": count, "sum": 0.1}


def made_up(group: str = "default", endpoint: str = "main") -> dict[str, Any]:
    """Figures of one group on one endpoint; the numbers are all different."""
    numbers = iter(range(1000, 2000))

    def row(level: Level, **own: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for metric in METRICS[level]:
            found[metric.key] = next(numbers)
            if metric.states:
                found[metric.key] = metric.states[1]
            elif metric.kind is Kind.HISTOGRAM:
                found[metric.key] = distribution()
        return found | own

    priorities = {"interactive": 1, "normal": 2, "batch": 3, AGAIN: 4}
    pool = row(Level.POOL, backends={"idle": 3, "active": 4}, connect=distribution(CONNECT_BOUNDS), is_paused=True)
    errors, uses = {"none": 1, "23": 2}, {"message": distribution(), "lease": distribution()}
    of_group = row(Level.GROUP, waiting=priorities, errors=errors, refused={"draining": 1}, use=uses, is_refused=False)
    return row(
        Level.BROKER,
        build={"version": "1.0", "lane": WORST},
        process=process_figures(),
        lane=row(Level.LANE),
        groups={group: {**of_group, "endpoints": {endpoint: pool}}},
        endpoints={endpoint: row(Level.ENDPOINT, role="replica", answers=True)},
    )


def parsed(figures: Mapping[str, Any], wanted: Format = Format.PROMETHEUS) -> dict[tuple[str, frozenset[Any]], float]:
    """The samples of the text as another program reads them, by name and labels."""
    text = "".join(exposition(figures, wanted))
    assert text.endswith("# EOF\n" if wanted is Format.OPENMETRICS else "\n")
    read = open_families if wanted is Format.OPENMETRICS else families
    found: dict[tuple[str, frozenset[Any]], float] = {}
    for family in read(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def test_both_formats_say_the_same() -> None:
    figures = made_up()
    plain, open_metrics = parsed(figures), parsed(figures, Format.OPENMETRICS)
    assert plain == open_metrics
    assert len(plain) > 100
    own = frozenset({("group", "default"), ("endpoint", "main")})
    assert plain["poold_backends", own | {("state", "active")}] == 4
    assert plain["poold_endpoint_paused", own] == 1
    states = {state: plain["poold_endpoint_state", own | {("state", state)}] for state in ("available", "quarantined")}
    assert states == {"available": 0, "quarantined": 1}
    assert len(AvailabilityState) == len([1 for name, _ in plain if name == "poold_endpoint_state"])


@pytest.mark.parametrize("wanted", Format)
def test_every_metric_is_described_once_with_its_type_and_unit(wanted: Format) -> None:
    text = "".join(exposition(made_up(), wanted))
    read = open_families if wanted is Format.OPENMETRICS else families
    found = {family.name: family for family in read(text)}
    assert len(found) == len(ALL)
    for _, metric in ALL:
        base = metric.name.removesuffix("_total") if metric.kind is Kind.COUNTER else metric.name
        if wanted is Format.OPENMETRICS:
            base = base.removesuffix("_info")
            assert found[base].unit == metric.unit
        kind = "gauge" if metric.kind is Kind.INFO and wanted is Format.PROMETHEUS else metric.kind.value
        assert (found[base].type, found[base].documentation) == (kind, metric.help)
        assert text.count(f"# HELP {base}") >= 1


@pytest.mark.parametrize("wanted", Format)
def test_names_with_quotes_backslashes_and_line_ends_come_back_as_they_are(wanted: Format) -> None:
    found = parsed(made_up(group=WORST, endpoint=f"{WORST}/2"), wanted)
    labels = [dict(labels) for name, labels in found if name == "poold_backends"]
    assert {each["group"] for each in labels} == {WORST}
    assert {each["endpoint"] for each in labels} == {f"{WORST}/2"}
    (build,) = [dict(labels) for name, labels in found if name == "poold_build_info"]
    assert build["lane"] == WORST


def test_what_is_not_known_has_no_series_and_where_there_is_no_lane_there_are_none_of_it() -> None:
    figures = made_up()
    figures["lane"] = None
    figures["process"]["descriptors"] = None
    figures["endpoints"]["main"]["position"] = None
    names = {name for name, _ in parsed(figures)}
    assert not [name for name in names if "lane" in name]
    assert {"process_open_fds", "poold_endpoint_wal_bytes"} & names == set()
    assert {"process_max_fds", "poold_endpoint_timeline"} <= names


def test_the_process_is_the_kernel_s_word_for_it() -> None:
    found = process_figures()
    assert found["cpu"] > 0
    assert 0 < found["resident"] < found["virtual"]
    assert 2 < found["descriptors"] < found["most_descriptors"]
    assert found == {**process_figures(), **{key: found[key] for key in ("cpu", "resident", "virtual", "descriptors")}}


# The document.

PAGE = ROOT / "docs" / "metrics.md"
HEADINGS = {
    Level.BROKER: "### The broker",
    Level.PROCESS: "### Its process",
    Level.LANE: "### Compiled code",
    Level.GROUP: "### Groups",
    Level.POOL: "### Backends",
    Level.ENDPOINT: "### Servers",
}


@pytest.mark.parametrize("level", Level)
def test_every_metric_is_described_with_its_type_and_labels_and_none_that_is_not_there(level: Level) -> None:
    described = {row[0].strip("`"): (row[1], re.findall(r"`(\w+)`", row[2])) for row in rows(PAGE, HEADINGS[level])}
    own = {Kind.INFO: ["version", "lane"]}
    assert described == {
        metric.name: (metric.kind.value, own.get(metric.kind, [*LABELS[level], *filter(None, [metric.label])]))
        for metric in METRICS[level]
    }
    assert all(row[3] for row in rows(PAGE, HEADINGS[level]))


@pytest.mark.parametrize("metric", [each for _, each in ALL if each.states], ids=lambda metric: metric.name)
def test_every_state_is_in_its_metric_s_description(metric: Metric) -> None:
    (row,) = [row for heading in HEADINGS.values() for row in rows(PAGE, heading) if row[0] == f"`{metric.name}`"]
    assert set(metric.states) == set(re.findall(r"`(\w+)`", row[3]))


def test_what_the_page_says_of_other_exporters_names_metrics_that_are_there() -> None:
    named = re.findall(r"`(poold_\w+)`", " ".join(row[2] for row in rows(PAGE, "## From other exporters")))
    assert named
    assert {*named} <= {metric.name for _, metric in ALL}


# HTTP.

HOST = b"Host: localhost:9127\r\n"
PROMETHEUS = (
    b"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    b"application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    b"text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


def ask(line: bytes, *fields: bytes) -> Request:
    return read_head(b"\r\n".join([line, *fields]))


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (PROMETHEUS, Format.OPENMETRICS),
        (b"", Format.PROMETHEUS),
        (b"*/*", Format.PROMETHEUS),
        (b"text/html, */*;q=0.8", Format.PROMETHEUS),
        (b"application/openmetrics-text", Format.OPENMETRICS),
        (b"Application/OpenMetrics-Text ; Version=1.0.0", Format.OPENMETRICS),
        (b"application/openmetrics-text;version=2.0.0, text/plain;q=0.1", Format.PROMETHEUS),
        (b"application/openmetrics-text;q=0, text/plain;q=0.001", Format.PROMETHEUS),
        (b"application/openmetrics-text;q=0.5;version=1.0.0, text/plain;q=0.6", Format.PROMETHEUS),
        (b"application/openmetrics-text;q=nan, text/plain;q=0.1", Format.PROMETHEUS),
        (b";;;,,q=1", Format.PROMETHEUS),
    ],
)
def test_the_format_is_the_one_that_is_preferred(accept: bytes, wanted: Format) -> None:
    request = ask(b"GET /metrics HTTP/1.1", b"Host: a", b"Accept: " + accept)
    assert request == Request(HTTPStatus.OK, wanted, is_head=False, is_kept=True)


@pytest.mark.parametrize(
    ("head", "status", "is_kept"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: a", 200, True),
        (b"HEAD /metrics?collect[]=x HTTP/1.1\r\nHost: a", 200, True),
        (b"GET http://a:9/metrics HTTP/1.1\r\nHost: a", 200, True),
        (b"GET /metrics HTTP/1.0", 200, False),
        (b"GET /metrics HTTP/1.0\r\nConnection: Keep-Alive", 200, True),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE", 200, False),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0", 200, True),
        (b"GET /metrics HTTP/1.1", 400, False),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b", 400, False),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\n folded: x", 400, False),
        (b"GET /metrics HTTP/1.1\r\nHost : a", 400, False),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nX: a\x00b", 400, False),
        (b"GET  /metrics HTTP/1.1\r\nHost: a", 400, False),
        (b"get /metrics HTTP/1.1\r\nHost: a", 400, False),
        (b"GET /metrics\r\nHost: a", 400, False),
        (b"GET /metrics HTTP/1.1\nHost: a", 400, False),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, False),
        (b"", 400, False),
        (b"PRI * HTTP/2.0", 505, False),
        (b"GET / HTTP/1.1\r\nHost: a", 404, True),
        (b"GET /metrics/ HTTP/1.1\r\nHost: a", 404, True),
        (b"GET /../metrics HTTP/1.1\r\nHost: a", 404, True),
        (b"OPTIONS * HTTP/1.1\r\nHost: a", 404, True),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4", 404, False),
        (b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 4", 405, False),
        (b"DELETE /metrics HTTP/1.1\r\nHost: a", 405, True),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 4", 413, False),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: +0", 413, False),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked", 413, False),
    ],
)
def test_a_request_is_answered_by_its_status(head: bytes, status: int, is_kept: bool) -> None:
    request = read_head(head)
    assert (request.status, request.is_kept) == (status, is_kept)
    answer = response(request, b"page", 0.0)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (b"\r\nConnection: keep-alive\r\n" if is_kept else b"\r\nConnection: close\r\n") in answer
    assert (b"\r\nAllow: GET, HEAD\r\n" in answer) == (status == 405)
    body = answer.partition(b"\r\n\r\n")[2]
    assert (body == b"page") == (status == 200 and not head.startswith(b"HEAD"))
    assert b"\r\nConnection: close\r\n" in response(request, b"page", 0.0, is_kept=False)


def test_any_bytes_have_an_answer() -> None:
    dice = random.Random(3)
    seeds = [b"GET /metrics HTTP/1.1\r\n" + HOST + b"Accept: " + PROMETHEUS, b"POST / HTTP/1.0\r\nContent-Length: 1"]
    seen = set()
    for _ in range(5000):
        head = bytearray(dice.choice(seeds))
        for _ in range(dice.randrange(1, 12)):
            place = dice.randrange(len(head))
            head[place : place + dice.randrange(3)] = dice.choice(
                [b"", bytes([dice.randrange(256)]), b"\r\n", b":", b"\xff", b" ", b"0"]
            )
        seen.add(read_head(bytes(head)).status)
        assert response(read_head(bytes(head)), b"", 0.0)
    assert {HTTPStatus.OK, HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND} <= seen
    assert read_head(b"GET /metrics HTTP/1.1\r\nHost: " + b"a" * MAX_HEAD_BYTES).status is HTTPStatus.OK


# The budget.


def test_beyond_the_budget_nothing_may_be_done_until_its_share_of_time_has_passed() -> None:
    budget = Budget(100.0)
    budget.use(MOST, 100.0)
    assert budget.rest(100.0) == 0
    budget.use(0.01, 100.0)
    assert budget.rest(100.0) == pytest.approx(0.01 / SHARE)
    assert budget.rest(100.0 + 0.005 / SHARE) == pytest.approx(0.005 / SHARE)
    assert budget.rest(100.0 + 0.01 / SHARE) == pytest.approx(0)


def test_what_is_not_used_is_not_saved_up() -> None:
    budget = Budget(0.0)
    budget.use(0.0, 1e6)
    budget.use(MOST + 0.001, 1e6)
    assert budget.rest(1e6) == pytest.approx(0.001 / SHARE)
