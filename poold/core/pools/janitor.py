"""When a backend is retired: idle and not needed, old, or in the way of one on an endpoint that came back.

The janitor works in two rhythms, as PgBouncer's does: it looks at each backend when that comes to rest, and at all
backends once per INTERVAL.

An old backend that its pool needs is replaced first: from REPLACE_AHEAD before its end it no longer counts for the
pool's floor, so another one is opened, and the old one stays until that is connected. If the pool may hold no more
backends the old one is closed first.
"""

from __future__ import annotations

from collections.abc import Iterator

from poold.core.pools.group import Group
from poold.core.records.backend import Backend

INTERVAL = 1.0
# A backend's lifetime is shortened by up to a tenth, at random, so that those opened together do not end together.
LIFETIME_JITTER = 0.1
# Long enough for a connect over a network, with TLS, to a busy server, and for two rounds of the janitor at least.
REPLACE_AHEAD = 3.0


def reason_to_retire(group: Group, backend: Backend, now: float) -> str | None:
    """Why this backend, at rest, should be closed instead of used again; None if it should not."""
    pool = backend.pool
    if not pool.is_serving:
        return None if pool.left and pool.inquiries else pool.why_unused
    if group.size > group.config.max_size:
        return "max_size"
    if backend.is_dismissed:
        return "reconnect"
    if pool.is_evaded and not pool.inquiries:
        return pool.why_evaded
    if backend.expires is not None and now >= backend.expires and not _awaits_replacement(backend):
        return "max_lifetime"
    if group.is_surplus(backend):
        return "rebalanced"
    return None


def _awaits_replacement(backend: Backend) -> bool:
    """Whether the backend stays until another one is open, which the janitor's next round sees to if necessary."""
    pool, group = backend.pool, backend.group
    is_needed = pool.size - len(pool.connecting) <= pool.floor
    is_room = group.size < group.config.max_size and pool.may_open()
    return is_needed and (is_room or bool(pool.connecting))


def mark_outdated(group: Group, now: float) -> None:
    """Mark the backends whose end is near."""
    if group.config.max_lifetime:
        for pool in group.pools:
            for members in pool.members:
                for backend in members.values():
                    if backend.expires is not None and now >= backend.expires - REPLACE_AHEAD:
                        pool.outdate(backend)


def retirements(group: Group, now: float) -> Iterator[tuple[Backend, str]]:
    """The idle backends to close now, and why. Turns the windows of the group's statistics as well.

    The caller must close each backend before it asks for the next: so of several that are old together those that are
    needed stay.
    """
    group.stats.turn(now)
    for pool in group.pools:
        for backend in list(pool.idle.values()):
            reason = reason_to_retire(group, backend, now)
            is_spare = group.size > group.config.min_size
            if reason is None and is_spare and now - backend.idle_since >= group.config.max_idle:
                reason = "max_idle"
            if reason is not None:
                yield backend, reason
                if reason == "rebalanced":
                    break  # one at a time: this one may have made enough room


def surplus(group: Group) -> list[tuple[Backend, str]]:
    """One idle backend that should make room for an endpoint that came back, if there is any."""
    for pool in group.pools:
        for backend in pool.idle.values():
            if group.is_surplus(backend):
                return [(backend, "rebalanced")]
    return []
