"""Which groups can serve when the broker says that it is ready, and why others cannot.

A broker serves its address at once, and starts as well if a server is down. Who starts it wants to know more: whether
each group has opened its first backend. So that is waited for, for a bounded time, before the broker says "ready".
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import monotonic
from typing import Any

from poold.config.model import Config, GroupConfig
from poold.postgres.examination import visit_all

# Seconds. A backend is opened in milliseconds; a server that is being started, or is far away, takes longer.
READY_TIMEOUT = 5.0
# An endpoint that has failed so often in a row is not waited for: the second try is a tenth of a second later.
TRIES = 2
POLL_INTERVAL = 0.02

# What `poold stats` shows.
Figures = Mapping[str, Any]


def serving_groups(groups: Figures) -> list[str]:
    """Return the groups that can serve, as far as one knows: they have a backend, or could have one the last time."""
    return [name for name, group in groups.items() if _can_serve(group)]


def _can_serve(group: Figures) -> bool:
    pools = group["endpoints"].values()
    if any(pool["size"] > pool["connecting"] for pool in pools):
        return True
    could = any(pool["opened"] and not pool["failures"] and not pool["is_drained"] for pool in pools)
    return could and not group["obstacle"]


async def refused_groups(config: Config) -> dict[str, str]:
    """Log in for groups that open no backend before it is needed; return those that no endpoint lets in, and why.

    For a broker that takes over, which has to know it of all groups. Each endpoint is tried once, for the first of them
    that uses it, so that takes a bounded time, as `unready_groups`.
    """
    lazy = {name: group for name, group in config.groups.items() if not group.min_size}
    endpoints = {
        name: replace(each, connect_timeout=min(each.connect_timeout, READY_TIMEOUT))
        for name, each in config.endpoints.items()
    }
    first: dict[str, GroupConfig] = {}
    tried: set[str] = set()
    for name, group in lazy.items():
        if untried := tuple(each for each in group.endpoints if each not in tried):
            first[name] = replace(group, endpoints=untried)
            tried.update(untried)
    visits = await visit_all(replace(config, groups=first, endpoints=endpoints))
    failures = {name: why for name, visit in visits.items() for why in visit.failures.values()}
    return {
        name: "; ".join(f"endpoint {each}: {failures[each]}" for each in group.endpoints)
        for name, group in lazy.items()
        if all(each in failures for each in group.endpoints)
    }


async def unready_groups(
    look: Callable[[], Figures], groups: Mapping[str, GroupConfig], stopped: "asyncio.Future[None]"
) -> dict[str, str]:
    """Wait for the first backend of each group; return the groups that have none, with the reasons.

    A group with min_size = 0 opens backends when they are needed, and is not waited for. Returns early if every group
    has a backend or no prospect of one, and if the broker stops.
    """
    awaited = [name for name, group in groups.items() if group.min_size]
    deadline = monotonic() + READY_TIMEOUT
    while True:
        figures = look()
        there = figures["groups"]  # a reload may have removed some
        missing = {name: there[name] for name in awaited if name in there and not _has_opened(there[name])}
        if all(map(_is_hopeless, missing.values())) or stopped.done() or monotonic() > deadline:
            return {name: _reason(group, figures["endpoints"]) for name, group in missing.items()}
        await asyncio.wait([stopped], timeout=POLL_INTERVAL)


def _has_opened(group: Figures) -> bool:
    return any(pool["opened"] for pool in group["endpoints"].values())


def _is_hopeless(group: Figures) -> bool:
    return bool(group["obstacle"]) or all(pool["failures"] >= TRIES for pool in group["endpoints"].values())


def _reason(group: Figures, endpoints: Figures) -> str:
    """Say on one line for each endpoint why it has no backend. endpoints has those whose roles matter."""
    if group["obstacle"]:
        return str(group["obstacle"])
    reasons = []
    for name, pool in group["endpoints"].items():
        why = pool["error"] or f"no backend was opened within {READY_TIMEOUT:g} s"
        if name in endpoints and not pool["is_serving"]:
            why = endpoints[name]["why"]
        reasons.append(f"endpoint {name}: {' '.join(why.split())}")
    return "; ".join(reasons)
