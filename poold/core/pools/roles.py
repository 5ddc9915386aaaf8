"""What endpoints are, by what their servers say of themselves; and which of them a group may use.

PostgreSQL decides nothing here, and poold neither: whoever promotes a standby makes it write a new timeline, and that
is seen. Of servers that say they are the primary of one database cluster the one with the newest timeline is it. An
older one came back, or was cut off from those who promoted another: it is fenced, nothing is written to it. If two
servers are on the same timeline nobody can tell which one is right, and both are fenced.

https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-TIMELINES
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from poold.config.model import SIZES
from poold.core.pools.endpoint import Endpoint, Role

if TYPE_CHECKING:
    from poold.core.pools.group import Group
    from poold.core.pools.pool import Pool


# Seconds for which a replica may be behind, and still be read by those who have to see what they have written.
LEFT_BEHIND = 0.5


class Verdict(NamedTuple):
    """A role, and why it is this one, in words."""

    role: Role
    why: str


def newest_timeline(members: Iterable[Endpoint], known: int) -> int:
    """The newest timeline that a database cluster is known to have; known is what was known before."""
    return max([known, *(each.observation.timeline for each in members if each.observation is not None)])


def judged(members: Sequence[Endpoint], newest: int) -> list[Verdict]:
    """The roles of all endpoints of one database cluster, whose newest timeline this is."""
    claims = [each for each in members if each.is_heard and _is_claim(each, newest)]
    return [_judged(each, claims, newest) for each in members]


def _is_claim(endpoint: Endpoint, newest: int) -> bool:
    """Whether its server says that it is the primary, on the newest timeline."""
    seen = endpoint.observation
    return seen is not None and not seen.is_in_recovery and seen.timeline >= newest


def _judged(endpoint: Endpoint, claims: Sequence[Endpoint], newest: int) -> Verdict:
    seen = endpoint.observation
    if seen is None:
        return Verdict(Role.UNKNOWN, endpoint.why)
    if seen.is_in_recovery:
        return Verdict(Role.REPLICA, f"a replica on timeline {seen.timeline}")
    if seen.timeline < newest:
        return Verdict(
            Role.FENCED,
            f"it was the primary on timeline {seen.timeline}, and its cluster has gone on to timeline {newest} "
            "without it; make it a replica of the new primary (pg_rewind)",
        )
    # The same start is the same server, under another address.
    others = [each.name for each in claims if each.observation is not None and each.observation.started != seen.started]
    if others and endpoint.is_heard:
        return Verdict(
            Role.FENCED,
            f"it and {' and '.join(others)} both say that they are the primary on timeline {newest}; "
            "stop the one that should not be",
        )
    if others:
        return Verdict(Role.FENCED, f"it does not answer, and {' and '.join(others)} is the primary")
    return Verdict(Role.PRIMARY, f"the primary on timeline {seen.timeline}")


def mixed(endpoints: Iterable[Endpoint]) -> str:
    """Why these endpoints cannot make one group, in words; "" if they can, as far as is known."""
    found = [each for each in endpoints if each.observation is not None]
    if len({each.observation.system for each in found if each.observation is not None}) < 2:
        return ""
    names = ", ".join(f"{each.name}: {each.observation.system}" for each in found if each.observation is not None)
    return f"its endpoints belong to different database clusters (system identifiers: {names})"


def is_foreign(endpoint: Endpoint, group: Group) -> bool:
    """Whether the endpoint leads to another database cluster than the one that the group began with."""
    cluster, seen = group.cluster, endpoint.observation
    return cluster is not None and seen is not None and seen.system != cluster.system


def most_lag(limit: float | str) -> tuple[float, float]:
    """The seconds and the bytes that a replica may be behind, by max_lag."""
    if isinstance(limit, str):
        return float("inf"), int(limit[:-2]) * SIZES[limit[-2:]]
    return limit or float("inf"), float("inf")


def is_behind(endpoint: Endpoint, group: Group, now: float) -> bool:
    """Whether the replica is further behind its primary than the group allows."""
    seconds, size = group.most_lag
    cluster = group.cluster
    if cluster is None:
        return False
    seen = endpoint.observation
    if seen is not None and seen.timeline < cluster.timeline:
        return True  # whatever its position is: it may have another history than the primary behind the promotion
    silent = 0.0 if endpoint.is_heard else now - endpoint.observed
    if endpoint.lag + silent > seconds or cluster.bytes_behind(endpoint.position) > size:
        return True
    return group.main is not None and _is_left_behind(endpoint, group)


def _is_left_behind(endpoint: Endpoint, group: Group) -> bool:
    """Whether the replica would keep those waiting who have written, while another one would not."""
    if endpoint.lag <= max(LEFT_BEHIND, group.config.catch_up):
        return False
    return any(
        each.role is Role.REPLICA and each.is_heard and each.lag <= group.config.catch_up
        for each in group.endpoints
        if each is not endpoint
    )


def serves(pool: Pool, group: Group, now: float) -> bool:
    """Whether the group's requests may run on this pool's endpoint."""
    role = pool.endpoint.role
    if pool.left or is_foreign(pool.endpoint, group):
        return False
    if group.role == "primary":
        return role is Role.PRIMARY
    if group.role == "replica":
        return role is Role.REPLICA and not is_behind(pool.endpoint, group, now)
    if group.role == "prefer-replica":
        replicas = [each for each in group.endpoints if _is_preferred(each, group, now)]
        return pool.endpoint in replicas if replicas else role is Role.PRIMARY
    return True


def _is_preferred(endpoint: Endpoint, group: Group, now: float) -> bool:
    return endpoint.role is Role.REPLICA and endpoint.is_heard and not is_behind(endpoint, group, now)
