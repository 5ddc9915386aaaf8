"""The section of statements: what each has cost, those that cost most first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from poold.core.pools.group import Group
from poold.core.tallies import Tally

_KEYS: Mapping[str, Callable[[Tally], float]] = {
    "total": lambda tally: tally.seconds,
    "calls": lambda tally: tally.calls,
    "mean": lambda tally: tally.seconds / tally.calls if tally.calls else 0.0,
    "p99": lambda tally: tally.percentile_ms(0.99) or 0.0,
    "rows": lambda tally: tally.rows,
    "errors": lambda tally: tally.errors,
}


def snapshot_statements(
    groups: Mapping[str, Group], sort: str, limit: int, has_texts: bool, now: float
) -> dict[str, Any]:
    """The statements of these groups, at most limit, ranked by sort; then the sums of the others, and of all.

    has_texts: whether statements are shown. O(statements log n).
    """
    found = [(group, tally) for group in groups.values() for tally in group.tallies]
    found.sort(key=lambda each: (-_KEYS[sort](each[1]), -each[1].seconds))
    total, others = Tally("", b""), Tally("", b"")
    forgotten = 0
    for group in groups.values():
        total.swallow(group.tallies.total())
        others.swallow(group.tallies.others)
        forgotten += group.tallies.forgotten
    for _, tally in found[limit:]:
        others.swallow(tally)
    sinces = [group.tallies.since for group in groups.values()]
    return {
        "statements": [
            {
                "group": group.shown_name,
                "kind": tally.kind,
                "text": tally.text.decode(errors="replace") if has_texts else None,
                "is_prepared": tally.is_prepared,
                **_figures(tally, total.seconds),
            }
            for group, tally in found[:limit]
        ],
        "statements_others": {
            "statements": forgotten + max(0, len(found) - limit),
            "forgotten": forgotten,
            **_figures(others, total.seconds),
        },
        "statements_total": {"statements": forgotten + len(found), **_figures(total, total.seconds)},
        "statements_sort": sort,
        "statements_since_s": min((round(now - each, 1) for each in sinces if each is not None), default=None),
    }


def _figures(tally: Tally, all_seconds: float) -> dict[str, Any]:
    mean = tally.seconds / tally.calls * 1000 if tally.calls else None
    return {
        "calls": tally.calls,
        "errors": tally.errors,
        "rows": tally.rows,
        "total_ms": round(tally.seconds * 1000, 3),
        "mean_ms": None if mean is None else round(mean, 4),
        "p50_ms": tally.percentile_ms(0.50),
        "p99_ms": tally.percentile_ms(0.99),
        "share": round(tally.seconds / all_seconds, 4) if all_seconds else 0.0,
        "by_lane": tally.lane,
    }
