"""How a group's backends are spread over endpoints, where the next one opens, and which one a request is given."""

from __future__ import annotations

from collections.abc import Sequence

from poold.core.effects import Bind
from poold.core.pools.availability import AvailabilityState
from poold.core.pools.pool import Pool
from poold.core.records.backend import Backend
from poold.core.records.request import QUERY, Request
from poold.core.state import RUNNING
from poold.core.statements.leftovers import NOTHING
from poold.core.statements.statement import AHEAD_SECONDS
from poold.core.work.units import runs_prepared


def spread(pools: Sequence[Pool], max_size: int, min_size: int) -> None:
    """Set each pool's cap and floor: max_size and min_size dealt out by weight to the endpoints worth connecting to.

    Those without the role that the group wants get nothing.
    A quarantined endpoint keeps the backends that are open there, up to its share; the rest goes to the others
    meanwhile. An endpoint that is being probed gets one backend more. One that is paused is treated as quarantined.
    """
    for pool in pools:
        pool.cap = pool.floor = 0
    limits = {AvailabilityState.AVAILABLE: max_size, AvailabilityState.QUARANTINED: 0, AvailabilityState.PROBING: 1}
    most = [
        (
            pool,
            pool.open if pool.is_evaded else limits[state] + (0 if state is AvailabilityState.AVAILABLE else pool.open),
        )
        for pool in pools
        if pool.is_serving
        for state in (pool.availability.state,)
    ]
    _deal(most, max_size, "cap")
    _deal(most, min_size, "floor")


def _deal(most: list[tuple[Pool, int]], total: int, what: str) -> None:
    """Add total to the pools' attribute `what`, one at a time where most is missing, nowhere more than the limit."""
    while total > 0 and (pools := [pool for pool, limit in most if getattr(pool, what) < limit]):
        pool = min(pools, key=lambda each: (getattr(each, what) + 1) / each.endpoint.weight)
        setattr(pool, what, getattr(pool, what) + 1)
        total -= 1


def pool_to_open(pools: Sequence[Pool], below_floor: bool = False) -> Pool | None:
    """The pool where the next connect begins: of those that may open one the smallest, of equal ones the first."""
    chosen: Pool | None = None
    for pool in pools:
        if pool.may_open() and (not below_floor or pool.is_below_floor) and (chosen is None or pool.size < chosen.size):
            chosen = pool
    return chosen


def needs_room(pools: Sequence[Pool]) -> bool:
    """Whether a pool that may open a backend has fewer than it should keep, or none at all."""
    return any(pool.size < min(pool.cap, max(pool.floor, 1)) and pool.may_open() for pool in pools)


def idle_backend(pools: Sequence[Pool]) -> Backend | None:
    """An idle backend, of the pool whose turn it is.

    Within a pool the backend used last is used again: its caches are warm, and backends that are not needed stay idle
    and reach max_idle.
    """
    if len(pools) == 1:
        idle = pools[0].idle
        return next(reversed(idle.values())) if idle and not pools[0].is_paused else None
    found = [pool for pool in pools if pool.idle and not pool.is_paused]
    if not found:
        return None
    pool = found[0] if len(found) == 1 else whose_turn(found)
    return next(reversed(pool.idle.values()))


def whose_turn(pools: Sequence[Pool]) -> Pool:
    """The pool that is given the next request, of several that could take it; it pays for that.

    Turns are by weight. If the one whose turn it is has as much to do already as the next one would have with this
    request, for their weights, the next one gets it; so an endpoint that is slow gets less. What is owed to it is not
    kept for longer than a round.
    """
    total = 0.0
    for pool in pools:
        total += pool.endpoint.weight
    first = second = None
    for pool in pools:
        pool.credit = min(pool.credit + pool.endpoint.weight, total)
        if first is None or pool.credit > first.credit:
            first, second = pool, first
        elif second is None or pool.credit > second.credit:
            second = pool
    assert first is not None
    assert second is not None
    is_better = first.busy / first.endpoint.weight >= (second.busy + 1) / second.endpoint.weight
    chosen = second if is_better else first
    chosen.credit = max(chosen.credit - total, -total)
    return chosen


def backend_to_join(pools: Sequence[Pool], depth: int, now: float) -> Backend | None:
    """The backend with the fewest statements, fewer than depth, that another short one may join; None without any."""
    found: Backend | None = None
    for pool in pools:
        if pool.size > pool.cap or pool.inquiries or pool.questions or pool.is_paused:
            continue
        for backend in pool.active.values():
            if len(backend.running) < depth and is_company(backend, now):
                found, depth = backend, len(backend.running)
    return found


def may_be_lent(backend: Backend) -> bool:
    """Whether the lane may have this idle backend: it writes to its socket, and leaves alone what is to be replaced."""
    return not (backend.server.is_encrypted or backend.is_outdated or backend.is_refused or backend.pool.is_paused)


def may_join(request: Request) -> bool:
    """Whether the request may run behind others: a prepared autocommit statement that is known to be short."""
    statement = request.statement
    return (
        statement is not None
        and statement.is_short
        and statement.generation == request.group.statements.generation  # else its successor runs instead
        and request.lease is None
        and not request.is_alone
        and runs_prepared(request, statement)
    )


def is_company(backend: Backend, now: float) -> bool:
    """Whether a short statement may run behind the statements of this ACTIVE backend, which are short and prepared too.

    Their expected time, if all take as long as the first, must be small enough; the first must not have run longer
    than expected; and the backend must not be due for a reset or a replacement, for which it has to come to rest.
    """
    head = backend.running[0]
    statement = head.statement
    began = backend.begun(head)
    return (
        statement is not None
        and statement.is_short
        and head.verb is QUERY
        and head.lease is None
        and not head.is_alone
        and type(head.unit[-1]) is Bind
        and head.state is RUNNING
        and backend.left is NOTHING
        and len(backend.running) * statement.mean < AHEAD_SECONDS
        and now - began <= statement.patience
        and (backend.expires is None or now < backend.expires)
        and not backend.is_dismissed
    )
