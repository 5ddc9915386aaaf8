"""Scrapes of a broker's metrics as a collector makes them, and their samples as another program reads them."""

from __future__ import annotations

import http.client
import math
import urllib.request
from collections.abc import Mapping
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families as families

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
TIMEOUT = 30.0


def scrape(port: int, accept: str = "text/plain") -> str:
    """One scrape over a connection of its own."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        return str(answer.read().decode())


def statuses(port: int, *asked: tuple[str, str]) -> list[int]:
    """The statuses of these methods and paths, one after another on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    found = []
    for method, path in asked:
        connection.request(method, path)
        with connection.getresponse() as answer:
            answer.read()
            found.append(answer.status)
    connection.close()
    return found


class Samples(dict[tuple[str, frozenset[Any]], float]):
    """The samples of one scrape, by name and labels."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.types: dict[str, str] = {}
        for family in (open_families if text.endswith("# EOF\n") else families)(text):
            self.types[family.name] = family.type
            for sample in family.samples:
                self[sample.name, frozenset(sample.labels.items())] = sample.value

    def of(self, name: str, **labels: str) -> float:
        """The sum of all series with this name and these labels, perhaps among others."""
        found = [value for (each, pairs), value in self.items() if each == name and set(labels.items()) <= pairs]
        assert found, f"there is no {name} with {labels}"
        return sum(found)

    def growing(self) -> dict[tuple[str, frozenset[Any]], float]:
        """Those that may only grow."""
        kinds = {
            **{f"{name}_total": kind for name, kind in self.types.items() if kind == "counter"},
            **{
                f"{name}{end}": kind
                for name, kind in self.types.items()
                if kind == "histogram"
                for end in ("_bucket", "_count", "_sum")
            },
        }
        return {key: value for key, value in self.items() if key[0] in kinds}

    def histograms(self) -> list[tuple[list[tuple[float, float]], float, float]]:
        """Each histogram's buckets by bound, its count and its sum."""
        found = []
        for name, kind in self.types.items():
            if kind == "histogram":
                for labels in {pairs for each, pairs in self if each == f"{name}_count"}:
                    buckets = sorted(
                        (float(dict(pairs)["le"]), value)
                        for (each, pairs), value in self.items()
                        if each == f"{name}_bucket" and labels < pairs
                    )
                    found.append((buckets, self[f"{name}_count", labels], self[f"{name}_sum", labels]))
        return found


def check_histograms(samples: Samples) -> int:
    """Hold all histograms against the rules for them; returns how many have counted something."""
    filled = 0
    for buckets, count, total in samples.histograms():
        counts = [value for _, value in buckets]
        assert counts == sorted(counts)
        assert buckets[-1] == (math.inf, count)
        filled += count > 0
        low = most = before = least = 0.0
        for bound, value in buckets:
            least, most = least + (value - before) * low, most + ((value - before) * bound if value > before else 0.0)
            low, before = bound, value
        assert least * (1 - 1e-9) <= total <= most * (1 + 1e-9)
    return filled


def shrunken(before: Mapping[Any, float], after: Mapping[Any, float]) -> list[Any]:
    """What is less afterwards, or is gone."""
    return [key for key, value in before.items() if after.get(key, -1.0) < value]
