"""What the broker asks a pool's server again and again: whether the catalogs have changed, and who waits for locks.

Reads that share a backend's pipeline wait for the first of them. If the first waits for a lock, the client that holds
the lock may itself wait for a read behind it: a deadlock that PostgreSQL cannot see. The same happens if every backend
is busy with a read that waits for a lock, and the lock's holder waits for a backend. So a plain read that waits for a
lock steps aside: it is cancelled, the others go first, and it may then run for twice as long before it steps aside
again.

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

# The first statement of a backend is looked at when it has run for so long, and again after as long.
LOOK_AFTER = 0.05
# If no backend was free to be asked for so long, a statement may be taken to wait for a lock: see `outlives`.
LOOK_TIMEOUT = 0.25


class Watch:
    """What is asked of one pool's server, and what it answered. Also the key of the deadline for the next look."""

    __slots__ = ("catalogs", "is_armed", "is_asking", "looked", "pool")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.catalogs = b""  # the catalogs' counts, b"" before the first answer
        self.is_asking = False  # whether a question for these counts is under way
        self.is_armed = False  # whether pipelines are looked at soon
        self.looked: float | None = None  # since when a question who waits is under way; None if none is

    def arm(self, timers: Timers, now: float) -> None:
        """A request waits: look soon at the statements that it waits for."""
        if not self.is_armed:
            self.is_armed = True
            timers.set(self, now + LOOK_AFTER)

    def have_changed(self, counts: bytes) -> bool:
        """Keep the catalogs' counts. Returns whether they differ from those before, if there were any.

        Those of a replica tell only the time; if its primary tells of changes they do not matter.
        """
        if self.pool.is_told:
            return False
        before, self.catalogs = self.catalogs, counts
        return before not in (b"", counts)

    def suspects(self, now: float) -> list[Backend]:
        """Backends whose first statement, a plain read, runs for long while others wait; the longest one first."""
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
        """Whether any request waits: for a backend, or behind others on one."""
        # A statement behind a cancelled one may wait for a lock as well.
        members = (self.pool.active, self.pool.members[BackendState.CANCELLING])
        return self.pool.group.queue.size > 0 or any(
            len(each.running) > 1 for some in members for each in some.values()
        )


def outlives(backend: Backend, now: float) -> bool:
    """Whether the backend's first statement is taken to wait for a lock although no server could be asked.

    Yes if others wait behind it, as these must not wait for long. A statement alone that is known to be slow is not
    cancelled, as its work would be lost.
    """
    head = backend.running[0]
    is_slow = head.statement is None or head.statement.expected > LOOK_AFTER
    return len(backend.running) > 1 or (not is_slow and now - began(backend) >= LOOK_TIMEOUT * 2**head.yields)


def _is_read(request: Request) -> bool:
    """Whether the request is a client's plain read outside of a lease, which may be cancelled and run again."""
    statement = request.statement
    return (
        statement is not None
        and statement.proof.is_plain_read
        and request.verb is Verb.QUERY  # no probe
        and request.lease is None
    )


def began(backend: Backend) -> float:
    """When the first of the backend's statements began to run."""
    return backend.begun(backend.running[0])


def who_waits(backends: Iterable[Backend]) -> Unit:
    """The question which of these backends wait for a lock."""
    pids = ",".join(str(each.server.pid) for each in backends)
    text = (
        "SELECT DISTINCT pid FROM pg_catalog.pg_locks "
        f"WHERE NOT granted AND pid OPERATOR(pg_catalog.=) ANY ('{{{pids}}}'::pg_catalog.int4[])"
    )
    return (Plain(text.encode()),)


def pids(rows: bytes) -> set[int]:
    """The process ids in the DataRow messages of the answer; none if these are not what was asked for."""
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
