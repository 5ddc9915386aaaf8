"""The section of backends: what each one does, since when, and for whom."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from client.wire.messages import TX_NONE
from poold.core.pools.group import Group
from poold.core.records.backend import Backend
from poold.core.records.flow import Flight
from poold.core.records.request import Request
from poold.core.sections.texts import shown, text_of
from poold.core.state import BackendState

_AT_REST = ("idle", "connecting")


def snapshot_backends(groups: Iterable[Group], now: float, has_texts: bool, limit: int) -> dict[str, Any]:
    """The backends of these groups, at most limit: those that work first, the longest at it before others.

    has_texts: whether statements are shown. O(backends log n).
    """
    found = [snapshot_backend(each, now, has_texts) for group in groups for pool in group.pools for each in pool]
    found.sort(key=_order)
    return {"backends": found[:limit], "backends_not_shown": max(0, len(found) - limit)}


def _order(shown: dict[str, Any]) -> tuple[bool, float, int]:
    busy = max(shown["statement_age_ms"] or 0.0, shown["idle_in_transaction_ms"] or 0.0, shown["lease_age_ms"] or 0.0)
    return shown["state"] in _AT_REST, -busy, shown["number"]


def state_of(backend: Backend) -> str:
    """Its state in a word; those of the lane's work or rest like others."""
    if backend.state is BackendState.LENT:
        return "active" if backend.flights else "idle"
    return backend.state.name.lower()


def head_of(backend: Backend) -> Request | Flight | None:
    """What PostgreSQL works on there."""
    return backend.flights[0] if backend.flights else backend.request


def begun(backend: Backend, head: Request | Flight) -> float:
    """When PostgreSQL began with it."""
    started = head.started if isinstance(head, Request) else head.began
    return max(started, backend.completed)


def idle_in_transaction(backend: Backend, now: float) -> float | None:
    """For how many seconds its client has left a transaction open without running anything; None if it has not."""
    lease = backend.lease
    if lease is None or backend.state is not BackendState.LEASED or backend.transaction == TX_NONE:
        return None
    return now - max(backend.completed, lease.began)


def snapshot_backend(backend: Backend, now: float, has_texts: bool) -> dict[str, Any]:
    """One backend. Of a lease that runs nothing the tag and the statement are those that it had last."""
    lease, head = backend.lease, head_of(backend)
    idle = idle_in_transaction(backend, now)
    client = lease.client if lease is not None else None if head is None else head.client
    tag, text = "", None
    if head is not None:
        tag, text = head.tag, text_of(head) if has_texts else None
    elif lease is not None:
        tag = lease.tag
        text = shown(lease.statement.sql, lease.fetched) if has_texts and lease.statement is not None else None
    running = len(backend.flights) or len(backend.running)
    is_ours = client is not None and client.key > 0
    return {
        "number": backend.number,
        "group": backend.group.shown_name,
        "endpoint": backend.pool.endpoint.name,
        "state": state_of(backend),
        "server_pid": backend.server.pid or None,
        "age_ms": _ms(now - backend.since),
        "transaction": backend.transaction,
        "client": cast(Any, client).key if is_ours else None,
        "pid": cast(Any, client).pid if is_ours else None,
        "tag": tag,
        "lease": None if lease is None else f"{lease.client.key}/{lease.number}",
        "lease_kind": None if lease is None else "session" if lease.is_session else "transaction",
        "lease_age_ms": None if lease is None else _ms(now - lease.began),
        "idle_in_transaction_ms": None if idle is None else _ms(idle),
        "request": None if head is None or not is_ours else f"{head.client.key}/{head.number}",
        "statement": text,
        "statement_age_ms": None if head is None else _ms(now - begun(backend, head)),
        "behind": max(0, running - 1),
    }


def _ms(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000, 3)
