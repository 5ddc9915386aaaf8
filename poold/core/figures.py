"""The core's state and totals as plain values for whoever collects them. Times are seconds.

As `poold.core.snapshot`, without what takes longer the more clients and statements there are, and with what has been
counted since the start instead of percentiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from client.wire.limits import PRIORITIES
from poold.core.broker import Broker
from poold.core.pools.group import Group
from poold.core.pools.pool import Pool
from poold.core.snapshot import snapshot_endpoints, snapshot_pool, state_of
from poold.core.stats import Times

# Upper bounds of the buckets that are told, in seconds; each is one of `poold.core.stats.BOUNDS`.
BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 50.0, 250.0),
)
# Connects take longer than the least of these, and no longer than connect_timeout.
CONNECT_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# A priority for those that have had their turn and are to run again, which come before all others.
AGAIN = "again"


def figures(broker: Broker, now: float, reader: int | None = None) -> dict[str, Any]:
    """Return all that is counted. reader is a client's key: then only of the groups that it may use."""
    groups: Mapping[str, Group] = broker.groups if reader is None else broker.clients[reader].open_groups
    return {
        "state": broker.state.name.lower(),
        "clients": len(broker.clients),
        "groups": {name: _of_group(group, now) for name, group in groups.items()},
        "endpoints": snapshot_endpoints(groups.values(), now),
    }


def _of_group(group: Group, now: float) -> dict[str, Any]:
    oldest, stats = group.queue.oldest(), group.stats
    waiting = {name: group.queue.count(place) for place, name in enumerate(PRIORITIES)}
    return {
        "state": state_of(group),
        "is_refused": bool(group.obstacle),
        "max_size": group.config.max_size,
        "clients": group.clients,
        "waiting": {**waiting, AGAIN: len(group.queue) - sum(waiting.values())},
        "oldest_wait": 0.0 if oldest is None else max(0.0, now - oldest.arrived),
        "requests": stats.requests,
        "errors": stats.errors_by_class,
        "refused": {reason.value: count for reason, count in stats.refused_for.items()},
        "timeouts": stats.timeouts,
        "withdrawn": stats.withdrawn,
        "rerouted": stats.rerouted,
        "retries": stats.retries,
        "in_doubt": stats.in_doubt,
        "wait": _distribution(stats.wait_times, BOUNDS),
        "run": _distribution(stats.run_times, BOUNDS),
        "use": {use.value: _distribution(times, BOUNDS) for use, times in stats.use_times.items()},
        "endpoints": {pool.endpoint.name: _of_pool(pool, now) for pool in group.pools},
    }


def _of_pool(pool: Pool, now: float) -> dict[str, Any]:
    shown = snapshot_pool(pool, now)
    states = ("idle", "active", "leased", "connecting", "cancelling", "resetting")
    return {
        **shown,
        "backends": {state: shown[state] for state in states},
        "connect": _distribution(pool.stats.connect_times, CONNECT_BOUNDS),
    }


def _distribution(times: Times, bounds: tuple[float, ...]) -> dict[str, Any]:
    """How many times were not above each of the bounds, how many there were, and their sum."""
    *counts, count = times.up_to(bounds)
    return {"up_to": dict(zip(bounds, counts, strict=True)), "count": count, "sum": times.sum}
