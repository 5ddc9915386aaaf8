"""Why a group has no backend for a request, or no place to wait for one: in words, and as failures."""

from __future__ import annotations

from client.wire.messages import NOT_EXECUTED, Failure, plain_failure
from poold.core.pools.availability import AvailabilityState
from poold.core.pools.group import Group
from poold.core.pools.pool import OF_GROUPS
from poold.core.state import BackendState
from poold.core.work import failures


def overdue(group: Group, waited: str, limit: str, is_hopeless: bool = False) -> Failure:
    """The failure of a request that waited for so long, and no longer because of this limit; both in words.

    is_hopeless: the limit is not reached yet, and the request would not end before it.
    """
    if group.is_paused:
        endpoints = paused_endpoints(group)
        what = f"endpoint {endpoints} of group {group.name!r}" if endpoints else f"group {group.name!r}"
        text = f"{what} was paused by an operator, and not resumed within {waited} ({limit})"
        # Those of other roles.
        others = [pool.endpoint.in_words() for pool in group.pools if pool not in group.useful and not pool.left]
        if others:
            text += f"; no other endpoint is a {wanted_role(group)}: {'; '.join(others)}"
        return plain_failure("pool-timeout", NOT_EXECUTED, text)
    serving = [pool for pool in group.pools if pool.is_serving]
    known = "; ".join(each.in_words() for each in group.endpoints)
    if not serving:
        text = f"no endpoint of group {group.name!r} was a {wanted_role(group)} within {waited} ({limit}): {known}"
        return plain_failure("offline", NOT_EXECUTED, text)
    going = [pool for pool in serving if not pool.is_paused]
    unreachable = [pool for pool in going if pool.availability.state is not AvailabilityState.AVAILABLE]
    errors = "; ".join(f"{pool.endpoint.name}: {pool.availability.error}" for pool in unreachable)
    paused = ", ".join(pool.endpoint.name for pool in serving if pool.is_paused)
    besides = f"; endpoint {paused} is paused by an operator" if paused else ""
    if len(unreachable) == len(going) and not any(pool.open for pool in group.pools if not pool.is_paused):
        roles = f" ({known})" if group.has_roles else ""
        text = f"no endpoint of group {group.name!r} could be reached within {waited} ({limit}): {errors}{roles}"
        return plain_failure("offline", NOT_EXECUTED, f"{text}{besides}")
    if is_hopeless:
        text = (
            f"not begun after {waited} in the queue: {limit}; give it a longer timeout, or group {group.name!r} "
            f"more backends (max_size = {group.config.max_size})"
        )
    else:
        text = f"no backend of group {group.name!r} became free within {waited} ({limit}); {load(group)}"
    if unreachable:
        text += f"; no further connection: {errors}"
    return plain_failure("pool-timeout", NOT_EXECUTED, f"{text}{besides}")


def full(group: Group) -> Failure:
    """The failure of a request that finds max_waiting others waiting."""
    text = f"group {group.name!r} has max_waiting = {group.config.max_waiting} requests waiting; {load(group)}"
    return failures.too_many(text)


def load(group: Group) -> str:
    """The group's state in words, for error texts."""
    opening = group.count(BackendState.CONNECTING)
    resting = sum(not each.flights for pool in group.pools for each in pool.lent.values())
    busy = group.size - group.count(BackendState.IDLE) - resting - opening
    return f"of {group.config.max_size} backends {busy} busy, {opening} connecting; {len(group.queue)} requests waiting"


def paused_endpoints(group: Group) -> str:
    """The endpoints that an operator has paused or drained, by themselves, so that nothing begins; "" if the group."""
    return ", ".join(pool.endpoint.name for pool in group.useful if pool.pauses.isdisjoint(OF_GROUPS))


def wanted_role(group: Group) -> str:
    """The role of the endpoints that it needs."""
    return "replica" if group.role == "replica" else "primary"
