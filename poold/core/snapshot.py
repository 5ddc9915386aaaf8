"""The core's state as plain values, for `poold stats` and error reports. The names of times end with their unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from client.wire.limits import PRIORITIES
from poold.core.operations.pausing import busy
from poold.core.pools.availability import AvailabilityState
from poold.core.pools.endpoint import Endpoint
from poold.core.pools.group import Group
from poold.core.pools.pool import Pool
from poold.core.records.client import Client
from poold.core.records.flow import Flight
from poold.core.sections.backends import snapshot_backends
from poold.core.sections.queue import snapshot_queue
from poold.core.sections.statements import snapshot_statements
from poold.core.sections.wanted import BACKENDS, CLIENTS, ENDPOINTS, GROUPS, QUEUE, STATEMENTS, Wanted
from poold.core.state import BackendState

# Nobody reads ten thousand processes, and the answer must fit into one reply.
PROCESSES_SHOWN = 100
KEYS_SHOWN = 10  # of the clients of one process
WORK_SHOWN = 100


def snapshot_sections(
    clients: Mapping[int, Client], groups: Mapping[str, Group], now: float, wanted: Wanted, has_texts: bool
) -> dict[str, Any]:
    """The sections that are wanted, of these groups; has_texts: whether statements are shown."""
    found: dict[str, Any] = {}
    if wanted.has(CLIENTS):
        found |= snapshot_processes(clients.values(), wanted.limit)
        found |= snapshot_work(clients.values(), groups, now, wanted.limit)
    if wanted.has(GROUPS):
        found["groups"] = {name: snapshot_group(group, now) for name, group in groups.items()}
    if wanted.has(GROUPS, ENDPOINTS):
        found["endpoints"] = snapshot_endpoints(groups.values(), now)
    if wanted.has(ENDPOINTS):
        pools = [pool for group in groups.values() for pool in group.pools]
        found["pools"] = [
            {"group": pool.group.shown_name, "endpoint": pool.endpoint.name, **snapshot_pool(pool, now)}
            for pool in pools
        ]
    if wanted.has(BACKENDS):
        found |= snapshot_backends(groups.values(), now, has_texts, wanted.limit)
    if wanted.has(STATEMENTS):
        found |= snapshot_statements(groups, wanted.sort, wanted.limit, has_texts, now)
    if wanted.has(QUEUE):
        found |= snapshot_queue(clients.values(), groups.values(), now, has_texts, wanted.limit)
    return found


def snapshot_group(group: Group, now: float) -> dict[str, Any]:
    """One group: what waits, what has been served, how long it took, and its pools."""
    oldest = group.queue.oldest()
    stats = group.stats
    return {
        "state": state_of(group),
        "autocommit": group.config.autocommit,
        "max_size": group.config.max_size,
        "role": group.role,
        "obstacle": group.obstacle or None,
        "clients": group.clients,
        "waiting": len(group.queue),
        "waiting_by_priority": {name: group.queue.count(place) for place, name in enumerate(PRIORITIES)},
        "oldest_wait_ms": None if oldest is None else round((now - oldest.arrived) * 1000, 3),
        "oldest_tag": None if oldest is None else oldest.tag,
        "oldest_pid": None if oldest is None else oldest.client.pid,
        "requests": stats.requests,
        "transactions": stats.transactions,
        "not_begun": stats.not_begun,
        "errors": stats.errors,
        "rates": stats.rates(now),
        "refused": stats.refused,
        "timeouts": stats.timeouts,
        "withdrawn": stats.withdrawn,
        "retries": stats.retries,
        "rerouted": stats.rerouted,
        "in_doubt": stats.in_doubt,
        "statements": group.statements.counts(),
        "wait_ms": stats.wait_times.percentiles_ms(),
        "run_ms": stats.run_times.percentiles_ms(),
        "endpoints": {pool.endpoint.name: snapshot_pool(pool, now) for pool in group.pools},
    }


def state_of(group: Group) -> str:
    """Whether requests begin in the group; if not, whether what had begun has come to its end."""
    if not group.is_paused:
        # Nobody asks what is drained, so it is not used.
        has_drained = any(pool.endpoint.is_resting and not pool.left for pool in group.pools)
        return "drained" if has_drained and not any(pool.is_serving for pool in group.pools) else "running"
    if all(pool.is_drained for pool in group.useful):
        return "draining" if group.size else "drained"
    return "pausing" if any(busy(group.pools)) else "paused"


def snapshot_endpoints(groups: Iterable[Group], now: float) -> dict[str, Any]:
    """The endpoints whose roles matter to any of these groups: what they are, and what tells so."""
    found = dict.fromkeys(pool.endpoint for group in groups if group.has_roles for pool in group.pools)
    return {endpoint.name: _snapshot_endpoint(endpoint, now) for endpoint in found}


def _snapshot_endpoint(endpoint: Endpoint, now: float) -> dict[str, Any]:
    seen = endpoint.observation
    return {
        "role": endpoint.role.name.lower(),
        "why": endpoint.why,
        "answers": endpoint.is_heard,
        "system": seen and seen.system,
        "timeline": seen and seen.timeline,
        "position": seen and seen.position,
        "observed_ms": None if seen is None else round((now - endpoint.observed) * 1000),
    }


def snapshot_processes(clients: Iterable[Client], limit: int = PROCESSES_SHOWN) -> dict[str, Any]:
    """The clients' processes, those with most leases and requests first. O(clients log n).

    At most limit are told, and never more than PROCESSES_SHOWN.
    """
    limit = min(limit, PROCESSES_SHOWN)
    processes: dict[tuple[int, int | None, int | None, str], dict[str, Any]] = {}
    for client in clients:
        key = client.pid, client.uid, client.gid, client.name
        process = processes.get(key)
        if process is None:
            process = dict(zip(("pid", "uid", "gid", "name"), key, strict=True))
            processes[key] = process = process | dict.fromkeys(("clients", "requests", "held", "leases"), 0)
            process["keys"] = []
        process["clients"] += 1
        if len(process["keys"]) < KEYS_SHOWN:
            process["keys"].append(client.key)
        process["requests"] += len(client.requests)
        process["held"] += len(client.held)
        process["leases"] += len(client.leases)
    order = sorted(processes.values(), key=lambda each: (-each["leases"], -each["requests"], each["pid"]))
    return {"processes": order[:limit], "processes_not_shown": max(0, len(order) - limit)}


def snapshot_work(
    clients: Iterable[Client], groups: Mapping[str, Group], now: float, limit: int = WORK_SHOWN
) -> dict[str, Any]:
    """The requests and leases in these groups, the oldest first. O(requests log n).

    At most limit are told, and never more than WORK_SHOWN.
    """
    limit = min(limit, WORK_SHOWN)
    shown = set(groups.values())
    found = []
    for client in clients:
        for request in client.requests.values():
            if request.is_in_lane:
                flight = cast(Flight, request)
                if flight.flow.group in shown:
                    state = "queued" if flight.is_waiting else "running"
                    found.append(
                        _work("request", client, flight.number, flight.flow.group, state, flight.arrived, flight.tag)
                    )
            elif request.group in shown:
                state = request.state.name.lower()
                found.append(
                    _work("request", client, request.number, request.group, state, request.arrived, request.tag)
                )
        for lease in client.leases.values():
            if lease.group in shown and lease.backend is not None:
                what = "session" if lease.is_session else "transaction"
                state = lease.backend.state.name.lower()
                found.append(_work(what, client, lease.number, lease.group, state, lease.began, lease.tag))
    found.sort(key=lambda each: each[0])
    work = [{**each, "age_ms": round((now - since) * 1000, 3)} for since, each in found[:limit]]
    return {"work": work, "work_not_shown": max(0, len(found) - limit)}


def _work(
    what: str, client: Client, number: int, group: Group, state: str, since: float, tag: str
) -> tuple[float, dict[str, Any]]:
    """Return since when it is there, and what it is; id is the name by which it can be killed."""
    own = {"what": what, "id": f"{client.key}/{number}", "client": client.key, "pid": client.pid}
    return since, {**own, "group": group.shown_name, "state": state, "tag": tag}


def snapshot_pool(pool: Pool, now: float) -> dict[str, Any]:
    """One pool: whether its endpoint can be reached, how many backends are in each state, and its counters."""
    members, availability = pool.members, pool.availability
    is_away = availability.state is not AvailabilityState.AVAILABLE
    busy = sum(1 for backend in pool.lent.values() if backend.flights)
    return {
        "state": availability.state.name.lower(),
        "role": pool.endpoint.role.name.lower() if pool.group.has_roles else None,
        "is_serving": pool.is_serving,
        "is_paused": pool.is_paused,
        "is_drained": pool.is_drained,
        "failures": availability.failures,
        "error": availability.error if is_away else None,
        "next_try_ms": round(max(0.0, availability.until - now) * 1000) if is_away else None,
        "size": pool.size,
        "idle": len(members[BackendState.IDLE]) + len(pool.lent) - busy,
        "active": len(members[BackendState.ACTIVE]) + busy,
        "leased": len(members[BackendState.LEASED]),
        "connecting": len(members[BackendState.CONNECTING]),
        "cancelling": len(members[BackendState.CANCELLING]) + len(members[BackendState.SETTLING]),
        "resetting": len(members[BackendState.RESETTING]),
        "outdated": pool.outdated,
        "requests": pool.stats.requests,
        "joined": pool.stats.joined,
        "opened": pool.stats.opened,
        "failed": pool.stats.failed,
        "closed": pool.stats.closed,
        "lost": pool.stats.lost,
    }
