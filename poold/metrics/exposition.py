"""Figures as text: Prometheus's format 0.0.4 and OpenMetrics 1.0. Pure, and the only place that knows the formats.

The two differ in little here: the name of a counter's family is without `_total` in OpenMetrics, which also has units,
a type for information and an end mark.

https://prometheus.io/docs/instrumenting/exposition_formats/
https://prometheus.io/docs/specs/om/open_metrics_spec/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from poold.metrics.catalog import LABELS, METRICS, Kind, Level, Metric

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
# A level's objects: the labels of each as text, and its figures.
_Rows = list[tuple[str, Mapping[str, Any]]]


class Format(Enum):
    """What the text may be; the value is its media type."""

    PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def exposition(figures: Mapping[str, Any], wanted: Format = Format.PROMETHEUS) -> Iterator[str]:
    """Yield the text for these figures: those of `poold.core.figures`, and of the process. O(groups * endpoints).

    Each part is one metric's, so whoever has other work can do some of it in between.
    """
    is_open = wanted is Format.OPENMETRICS
    rows = _rows(figures)
    for level, metrics in METRICS.items():
        for metric in metrics:
            lines = _description(metric, is_open)
            for labels, row in rows[level]:
                value = row[metric.key]
                if value is not None:
                    lines += _samples(metric, labels, value)
            lines.append("")
            yield "\n".join(lines)
    if is_open:
        yield "# EOF\n"


def label(name: str, value: str) -> str:
    """Return one label as text."""
    return f'{name}="{value.translate(_ESCAPES)}"'


def _rows(figures: Mapping[str, Any]) -> dict[Level, _Rows]:
    groups, endpoints = figures["groups"], figures["endpoints"]
    group_label, endpoint_label = LABELS[Level.POOL]
    return {
        Level.BROKER: [("", figures)],
        Level.PROCESS: [("", figures["process"])],
        Level.LANE: [] if figures["lane"] is None else [("", figures["lane"])],
        Level.GROUP: [(label(group_label, name), group) for name, group in groups.items()],
        Level.POOL: [
            (f"{label(group_label, name)},{label(endpoint_label, endpoint)}", pool)
            for name, group in groups.items()
            for endpoint, pool in group["endpoints"].items()
        ],
        Level.ENDPOINT: [(label(endpoint_label, name), endpoint) for name, endpoint in endpoints.items()],
    }


def _description(metric: Metric, is_open: bool) -> list[str]:
    """Return the lines above the metric's samples."""
    name, kind = metric.name, metric.kind
    if is_open:
        # There a family's name has no suffix, and each sample's has.
        name = name.removesuffix("_total").removesuffix("_info")
    elif kind is Kind.INFO:
        kind = Kind.GAUGE
    units = [f"# UNIT {name} {metric.unit}"] if is_open and metric.unit else []
    return [f"# HELP {name} {metric.help}", f"# TYPE {name} {kind.value}", *units]


def _samples(metric: Metric, labels: str, value: Any) -> Iterator[str]:
    """Yield the lines of one object's samples."""
    name = metric.name
    if metric.kind is Kind.INFO:
        yield _sample(name, ",".join(label(each, text) for each, text in value.items()), 1)
    elif metric.states:
        for state in metric.states:
            yield _sample(name, _joined(labels, label(metric.label, state)), value == state)
    elif metric.label:
        for each, part in value.items():
            yield from _plain(metric, _joined(labels, label(metric.label, each)), part)
    else:
        yield from _plain(metric, labels, value)


def _plain(metric: Metric, labels: str, value: Any) -> Iterator[str]:
    name = metric.name
    if metric.kind is not Kind.HISTOGRAM:
        yield _sample(name, labels, value)
        return
    start = f"{name}_bucket{{{labels}{',' if labels else ''}le="
    for bound, count in value["up_to"].items():
        yield f'{start}"{bound}"}} {count}'
    yield f'{start}"+Inf"}} {value["count"]}'
    yield _sample(f"{name}_sum", labels, value["sum"])
    yield _sample(f"{name}_count", labels, value["count"])


def _sample(name: str, labels: str, value: float) -> str:
    # bool is a number, 0 or 1; repr of a float is the shortest text that is read as the same number.
    return f"{name}{{{labels}}} {+value}" if labels else f"{name} {+value}"


def _joined(labels: str, more: str) -> str:
    return f"{labels},{more}" if labels else more
