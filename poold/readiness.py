"""Which groups can serve when the broker says that it is ready, and why others cannot.

A broker serves its address at once, and starts as well if a server is down. Who starts it wants to know more: whether
each group has opened its first backend. So that is waited for, for a bounded time, before the broker says "ready".
"""

import asyncio
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from poold.config.model import GroupConfig

# Seconds. A backend is opened in milliseconds; a server that is being started, or is far away, takes longer.
READY_TIMEOUT = 5.0
# An endpoint that has failed so often in a row is not waited for: the second try is a tenth of a second later.
TRIES = 2
POLL_INTERVAL = 0.02

# What `poold stats` shows.
Figures = Mapping[str, Any]


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
        missing = {name: figures["groups"][name] for name in awaited if not _has_opened(figures["groups"][name])}
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
