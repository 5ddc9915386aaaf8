"""What the broker asks a pool's server again and again: whether the catalogs have changed, and who waits for locks.

Reads that share a backend's pipeline wait for the first of them. If that waits for a lock, they would wait for somebody
who may wait for one of them, in a way that PostgreSQL cannot see. So would those that wait for a backend where each one
waits for a lock: whoever holds the lock may be among them, and reads elsewhere. So what waits for a lock and is a plain
read lets others go first, each time for twice as long.

https://www.postgresql.org/docs/current/monitoring-stats.html
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from client.wire.messages import ProtocolViolation
from poold.core.effects import Plain, Unit
from poold.core.records.request import Verb
from poold.core.state import BackendState
from poold.core.statements.literals import split_values
from poold.core.timers import Timers

if TYPE_CHECKING:
    from poold.core.pools.pool import Pool
    from poold.core.records.backend import Backend
    from poold.core.records.request import Request

# The first statement in a pipeline is looked at when it has run for so long, and again after as long.
LOOK_AFTER = 0.05
# If all backends are busy for so long that none can be asked, the oldest is taken to wait.
LOOK_TIMEOUT = 0.25


class Watch:
    """What is asked of one pool's server, and what it said; also the key of its own deadline."""

    __slots__ = ("catalogs", "is_armed", "is_asking", "looked", "pool")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.catalogs = b""  # the counts, b"" before any were told
        self.is_asking = False  # for them, at the moment
        self.is_armed = False  # whether pipelines are looked at soon
        self.looked: float | None = None  # since when it is asked who waits; None while it is not

    def arm(self, timers: Timers, now: float) -> None:
        """Somebody waits: have a look soon at those before him."""
        if not self.is_armed:
            self.is_armed = True
            timers.set(self, now + LOOK_AFTER)

    def have_changed(self, counts: bytes) -> bool:
        """The catalogs' counts were told; whether they are not what they were."""
        before, self.catalogs = self.catalogs, counts
        return before not in (b"", counts)

    def suspects(self, now: float) -> list[Backend]:
        """Backends whose statement runs for long while others wait for it, the one that does for longest first."""
        are_waiting = self.pool.group.queue.size > 0
        found = [
            each
            for each in self.pool.active.values()
            if len(each.running) > (0 if are_waiting else 1)
            and _is_read(each.running[0])
            and now - began(each) >= LOOK_AFTER * 2 ** each.running[0].yields
        ]
        return sorted(found, key=began)

    def has_company(self) -> bool:
        """Whether anybody waits: for a backend, or behind others in one."""
        members = (self.pool.active, self.pool.members[BackendState.CANCELLING])  # the next one may wait as well
        return self.pool.group.queue.size > 0 or any(
            len(each.running) > 1 for some in members for each in some.values()
        )


def outlives(backend: Backend, now: float) -> bool:
    """Whether what the backend runs is taken to wait for a lock, if nobody can be asked.

    Behind what has company nobody may wait for long. What is merely slow is let be, as to cancel it would be work lost.
    """
    head = backend.running[0]
    is_slow = head.statement is None or head.statement.expected > LOOK_AFTER
    return len(backend.running) > 1 or (not is_slow and now - began(backend) >= LOOK_TIMEOUT * 2**head.yields)


def _is_read(request: Request) -> bool:
    """Whether it may have company, and run again."""
    statement = request.statement
    return (
        statement is not None
        and statement.proof.is_plain_read
        and request.verb is Verb.QUERY  # no probe
        and request.lease is None
    )


def began(backend: Backend) -> float:
    """When the first of the backend's statements did."""
    head = backend.running[0]
    return head.started if head.started > backend.completed else backend.completed


def who_waits(backends: Iterable[Backend]) -> Unit:
    """The question which of these wait for a lock."""
    pids = ",".join(str(each.server.pid) for each in backends)
    text = (
        "SELECT DISTINCT pid FROM pg_catalog.pg_locks "
        f"WHERE NOT granted AND pid OPERATOR(pg_catalog.=) ANY ('{{{pids}}}'::pg_catalog.int4[])"
    )
    return (Plain(text.encode()),)


def pids(rows: bytes) -> set[int]:
    """The answer, from its DataRow messages; nobody if they are not what was asked for."""
    found, at = set(), 0
    try:
        while at < len(rows):
            size = 1 + int.from_bytes(rows[at + 1 : at + 5], "big")
            (cell,) = split_values(rows[at + 7 : at + size], 1)
            found.add(int(cell or b"0"))
            at += size
    except (ProtocolViolation, ValueError):
        return set()
    return found
