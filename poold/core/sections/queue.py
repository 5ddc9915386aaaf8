"""The section of the queue: who waits, since when, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

from client.wire.limits import BATCH, PRIORITIES
from poold.core.pools.availability import AvailabilityState
from poold.core.pools.group import Group
from poold.core.pools.pool import Pool
from poold.core.pools.shortage import paused_endpoints, wanted_role
from poold.core.records.client import Client
from poold.core.records.flow import Flight
from poold.core.records.lease import Lease
from poold.core.records.request import Request, Verb
from poold.core.sections.backends import begun, head_of, idle_in_transaction
from poold.core.sections.texts import text_of
from poold.core.state import BackendState, RequestState

# Of those who have a group's backends so many are named.
HOLDERS_NAMED = 3
# Of the different reasons to wait so many are told; each of many leases can be one.
REASONS_SHOWN = 20


def snapshot_queue(
    clients: Iterable[Client], groups: Iterable[Group], now: float, has_texts: bool, limit: int
) -> dict[str, Any]:
    """The requests in these groups that wait, at most limit, the oldest first; and how many wait for what, of all.

    has_texts: whether statements are shown. O(requests log n).
    """
    of_groups = set(groups)
    found: list[tuple[float, Request | Flight, Group]] = []
    for client in clients:
        for each in client.requests.values():
            group = cast(Flight, each).flow.group if each.is_in_lane else each.group
            if each.is_waiting and group in of_groups:
                found.append((each.arrived, each, group))
    found.sort(key=lambda each: each[0])
    reasons = _Reasons(now)
    shown = [_waiting(request, group, reasons, has_texts) for _, request, group in found[:limit]]
    counts = Counter(reasons.kind_of(request, group) for _, request, group in found)
    return {
        "queue": shown,
        "queue_not_shown": max(0, len(found) - limit),
        "queue_reasons": [
            {"group": kind.group.shown_name, "why": reasons.in_words(kind), "requests": count}
            for kind, count in counts.most_common(REASONS_SHOWN)
        ],
    }


def _waiting(request: Request | Flight, group: Group, reasons: _Reasons, has_texts: bool) -> dict[str, Any]:
    state = request.state if isinstance(request, Request) else RequestState.QUEUED
    return {
        "id": f"{request.client.key}/{request.number}",
        "client": request.client.key,
        "pid": request.client.pid,
        "group": group.shown_name,
        "priority": PRIORITIES[request.priority],
        "tag": request.tag,
        "state": state.name.lower(),
        "age_ms": round((reasons.now - request.arrived) * 1000, 3),
        "why": reasons.in_words(reasons.kind_of(request, group)),
        "statement": text_of(request) if has_texts else None,
    }


class _Kind(NamedTuple):
    """A reason to wait that requests of a group share; it is put into words only where it is shown."""

    group: Group
    is_kept_back: bool = False  # priority batch has what it may have
    behind: Lease | None = None
    own: str = ""  # what holds for the request alone, in words


class _Reasons:
    """Why requests wait, at one moment."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._in_words: dict[_Kind, str] = {}

    def kind_of(self, request: Request | Flight, group: Group) -> _Kind:
        """Why the request waits."""
        if isinstance(request, Request):
            state = request.state
            if state is RequestState.PENDING and request.lease is not None:
                return _Kind(group, behind=request.lease)
            if state is RequestState.HELD:
                return _Kind(group, own="its client leaves replies unread; it goes on when they are read")
            if state is RequestState.PAUSED and request.script is not None and request.script.tries:
                return _Kind(group, own=f"lost a race {request.script.tries} times; it is run again in a moment")
            if state is RequestState.PAUSED or request.verb is Verb.POSITION:
                return _Kind(group, own="replicas do not have yet what its process has written")
        return _Kind(group, is_kept_back=request.priority == BATCH and len(group.batched) >= group.batch_limit)

    def in_words(self, kind: _Kind) -> str:
        """The reason in words; what several share is found out once."""
        found = self._in_words.get(kind)
        if found is None:
            if kind.behind is not None:
                found = f"behind its own {_kind(kind.behind)}: {self._lease(kind.behind)}"
            else:
                found = kind.own or self._of_group(kind.group, kind.is_kept_back)
            self._in_words[kind] = found
        return found

    def _of_group(self, group: Group, is_kept_back: bool) -> str:
        """Why nobody of the group gets a backend, or nobody of priority batch, which is kept back."""
        if group.is_paused:
            endpoints = paused_endpoints(group)
            return f"{f'endpoint {endpoints}' if endpoints else f'group {group.configured}'} is paused; poold resume"
        serving = [pool for pool in group.pools if pool.is_serving]
        if not serving:
            known = "; ".join(each.in_words() for each in group.endpoints)
            return f"no endpoint is a {wanted_role(group)}: {known}"
        going = [pool for pool in serving if not pool.is_paused]
        away = [pool for pool in going if pool.availability.state is not AvailabilityState.AVAILABLE]
        paused = ", ".join(pool.endpoint.name for pool in serving if pool.is_paused)
        besides = f"; endpoint {paused} is paused" if paused else ""
        if len(away) == len(going) and not any(pool.open for pool in going):
            return f"{self._away(away)}{besides}"
        if is_kept_back:
            return (
                f"batch_share is used up: priority batch has {len(group.batched)} of {group.batch_limit} backends, "
                f"{self._holders(group, batch_only=True)}"
            )
        reason = f"no backend is free: {self._holders(group)}"
        if opening := group.count(BackendState.CONNECTING):
            reason += f"; {opening} being opened"
        reason += besides
        return f"{reason}; {self._away(away)}" if away else reason

    def _away(self, pools: list[Pool]) -> str:
        found = []
        for pool in pools:
            until = max(0.0, pool.availability.until - self.now)
            error = " ".join(pool.availability.error.split())
            found.append(f"endpoint {pool.endpoint.name} is away: {error} (next try in {_time(until)})")
        return "; ".join(found)

    def _holders(self, group: Group, batch_only: bool = False) -> str:
        """How many backends of the group are taken, and by whom, the longest first."""
        found: list[tuple[float, str]] = []
        leased = running = 0
        for backend in (each for pool in group.pools for each in pool):
            if batch_only and backend not in group.batched:
                continue
            head = head_of(backend)
            if backend.lease is not None:
                leased += 1
                found.append((self.now - backend.lease.began, self._lease(backend.lease)))
            elif head is not None:
                running += 1
                since = self.now - begun(backend, head)
                who = f"process {head.client.pid}" if head.client.key else "poold itself"
                name = f", request {head.client.key}/{head.number}" if head.client.key else ""
                found.append((since, f"{who}{name}: runs for {_time(since)}"))
        found.sort(key=lambda each: -each[0])
        named = "; ".join(text for _, text in found[:HOLDERS_NAMED])
        more = f"; and {len(found) - HOLDERS_NAMED} more" if len(found) > HOLDERS_NAMED else ""
        size = group.config.max_size
        counts = f"of {size} backend{'s' * (size != 1)}, {running} run and {leased} are leased"
        return counts + (f" ({named}{more})" if named else "")

    def _lease(self, lease: Lease) -> str:
        """Whose lease it is, and what it does."""
        who = f"process {lease.client.pid}, lease {lease.client.key}/{lease.number}"
        backend = lease.backend
        if backend is None:
            return f"{who}: waits for its backend"
        idle = idle_in_transaction(backend, self.now)
        if idle is not None:
            return f"{who}: idle in transaction for {_time(idle)}"
        head = head_of(backend)
        if head is not None:
            return f"{who}: runs for {_time(self.now - begun(backend, head))}"
        return f"{who}: open for {_time(self.now - lease.began)}"


def _kind(lease: Lease) -> str:
    return "session" if lease.is_session else "transaction"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"
