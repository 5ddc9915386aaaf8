"""What the broker asks a pool's server again and again: whether the catalogs have changed, and who waits for locks.

A proof holds as long as the catalogs stand still, and so does what names mean. Each catalog counts the rows that were
inserted, updated and deleted; while the sum is the same nobody has made, altered or dropped anything. A session reports
its counts when it comes to rest, and within ten seconds where it does so again and again.

Reads that share a backend's pipeline wait for the first of them. If that waits for a lock, they would wait for somebody
who may wait for one of them, in a way that PostgreSQL cannot see.

https://www.postgresql.org/docs/current/monitoring-stats.html
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from client.protocol import ProtocolViolation
from poold.core.effects import Plain, Unit
from poold.core.literals import split_values
from poold.core.state import BackendState

if TYPE_CHECKING:
    from poold.core.pool import Backend, Pool
    from poold.core.request import Request

# How often the catalogs' counts are asked for while statements of the group are prepared.
CATALOGS_INTERVAL = 1.0
# The first statement in a pipeline is looked at when it has run for so long, and again after as long.
LOOK_AFTER = 0.05
# Where all backends are busy for so long that none can be asked, the oldest is taken to wait.
LOOK_TIMEOUT = 0.25

# pg_class, attribute, proc, type, operator, cast, constraint, trigger, rewrite, policy, index, inherits, attrdef,
# namespace, aggregate, opclass, amop, amproc, enum, range, collation, partitioned_table, opfamily, extension;
# authid and auth_members, as policies are for roles.
_CATALOGS = (
    "{1259,1249,1255,1247,2617,2605,2606,2620,2618,3256,2610,2611,2604,2615,2600,2616,2602,2603,3501,3541,3456,3350,"
    "2753,3079,1260,1261}"
)
# A standby counts nothing of what it replays: there all is asked again from time to time.
STANDBY_INTERVAL = 10
COUNTS = (
    "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.floor(pg_catalog.date_part('epoch', "
    f"pg_catalog.clock_timestamp()) OPERATOR(pg_catalog./) {STANDBY_INTERVAL})::pg_catalog.text "
    "ELSE pg_catalog.sum(pg_catalog.pg_stat_get_tuples_inserted(each) OPERATOR(pg_catalog.+) "
    "pg_catalog.pg_stat_get_tuples_updated(each) OPERATOR(pg_catalog.+) "
    "pg_catalog.pg_stat_get_tuples_deleted(each))::pg_catalog.text END "
    f"FROM pg_catalog.unnest('{_CATALOGS}'::pg_catalog.oid[]) AS each"
).encode()


class Watch:
    """Of one pool; also the key of its own deadline."""

    __slots__ = ("catalogs", "is_armed", "is_asking", "looked", "pool")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.catalogs = b""  # the counts, b"" before any were told
        self.is_asking = False  # for them, at the moment
        self.is_armed = False  # whether pipelines are looked at soon
        self.looked: float | None = None  # since when it is asked who waits; None while it is not

    def have_changed(self, counts: bytes) -> bool:
        """The catalogs' counts were told; whether they are not what they were."""
        before, self.catalogs = self.catalogs, counts
        return before not in (b"", counts)

    def suspects(self, now: float) -> list[Backend]:
        """Backends in which others wait behind a statement that runs for long, the one that does for longest first."""
        found = [each for each in self.pool.active.values() if len(each.running) > 1 and _is_read(each.running[0])]
        found = [each for each in found if now - began(each) >= LOOK_AFTER]
        return sorted(found, key=began)

    def has_company(self) -> bool:
        """Whether there is any backend in which others wait."""
        members = (self.pool.active, self.pool.members[BackendState.CANCELLING])  # the next one may wait as well
        return any(len(each.running) > 1 for some in members for each in some.values())


def _is_read(request: Request) -> bool:
    """Whether it may have company, and run again."""
    return request.statement is not None and request.statement.proof.is_plain_read


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
    """The answer, from its DataRow messages; nobody where they are not what was asked for."""
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
