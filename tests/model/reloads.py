"""Reloads of the configuration, and what they promise; held against what the core does afterwards.

1.  A group that did not change, on endpoints that did not, sees no effect: it keeps its backends, what runs and waits
    there, its statements and figures.
2.  Nothing begins in a pool that its group has lost, or whose group was removed, but what belongs to something that has
    begun; no backend rests there, none is lent for longer.
3.  A group has more than max_size backends only of those that it had when it shrank, and none of these rests.
    Nothing is given anew to any of its backends then.
4.  Backends that were opened in another way than by now are dismissed, as behind `reconnect` (`model.orders`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from client.wire.messages import Failure
from poold.config.model import Config, GroupConfig, Weights
from poold.core import effects
from poold.core.broker import Broker
from poold.core.pools.group import Group
from poold.core.pools.pool import Pool
from poold.core.state import BackendState as S

if TYPE_CHECKING:
    from model.books import Job
    from model.lines import Line
    from model.shell import Shell

T = TypeVar("T")
Pick = Callable[[Sequence[Any]], Any]

KINDS = (
    "sizes",
    "sizes",
    "limits",
    "login",
    "session",
    "remove group",
    "remove group",
    "add group",
    "add group",
    "remove endpoint",
    "add endpoint",
    "add endpoint",
    "use endpoints",
    "back",
)
EXTRA = "extra"


class Reloads:
    """What was reloaded."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._broker: Broker = shell.broker
        self._shrunk: dict[Group, int] = {}  # the last line that there was when the group was last changed

    def reload(self, config: Config, renewed: Sequence[str] = ()) -> None:
        """Let this configuration hold."""
        shell, broker = self._shell, self._broker
        before = broker.config.as_it_is()
        untouched = [group for group in broker.directory.every() if _is_untouched(group, before, config, renewed)]
        marks = {group: _mark(group) for group in untouched}
        numbers = {backend.number: group for group in untouched for pool in group.pools for backend in pool}
        known = set(map(id, broker.agenda.effects))
        there = {pool for group in broker.directory.every() for pool in group.pools}
        left = {pool for pool in there if not _stays(pool, config)}
        shell.orders.reconnect(pool for pool in there if _is_replaced(pool, before, config, renewed))
        shell.orders.leave(left)
        for group in broker.directory.every():
            self._shrunk[group] = shell.last_line
        shell.fact(broker.reconfigured, config, shell.world.now, renewed)
        new = [pool for group in broker.directory.every() for pool in group.pools if pool not in there]
        shell.orders.joined(new)
        shell.fairness.adopt()
        for effect in broker.agenda.effects:
            number = getattr(effect, "backend", None)
            is_new = id(effect) not in known and isinstance(number, int)
            assert not (is_new and number in numbers), f"{effect} is about {numbers.get(number or 0)}, not changed"
        for group, mark in marks.items():
            assert _mark(group) == mark, f"{group.name} is not what it was, and did not change"
        for group in broker.directory.every():
            for pool in group.pools:
                assert bool(pool.left) is (pool in shell.orders.left), f"{pool.endpoint.name} of {group.name}"

    def given(self, line: Line, job: Job | None) -> None:
        """The core gives something to the line; job is None if it is a question of its own, or a reset."""
        backend = self._broker.backends.get(line.number)
        if backend is None or job is None or job.lease is not None or line.orders or backend.lease is not None:
            return
        group = backend.group
        assert group.size <= group.config.max_size, f"{group.name} is too large, and goes on with {backend}"

    def refused(self, client: int, job: Job, body: Failure) -> None:
        """The core says that there is no such group, or that it is another one: what is open goes on all the same."""
        known = self._broker.clients.get(client)
        lease = None if known is None or job.lease is None else known.leases.get(job.lease.number)
        is_its = body.kind == "unconfigured-group" or (
            " in group " in body.message and lease and lease.group.is_removed
        )
        assert lease is None or not is_its, f"{job} is refused, and its lease is open"

    def check_size(self, group: Group, size: int) -> None:
        """The group is not larger than it may be, but for what it had when it shrank."""
        if size <= group.config.max_size:
            return
        for pool in group.pools:
            for backend in pool:
                assert backend.number <= self._shrunk.get(group, 0), f"{group.name} is too large for {backend}"
                assert backend.state not in (S.IDLE, S.CONNECTING), f"{group.name} is too large, and keeps {backend}"
                assert backend.state is not S.LENT or backend.is_recalled, f"{group.name} is too large, {backend} lent"


def another(config: Config, original: Config, kind: str, pick: Pick) -> Config:
    """Another configuration than this one; original is the one of the beginning."""
    groups, endpoints = {**config.groups}, {**config.endpoints}
    name = pick(sorted(groups))
    match kind:
        case "sizes":
            size = pick((1, 2, 3, 6))
            groups[name] = replace(groups[name], max_size=size, min_size=min(size, pick((0, 1, 2))))
        case "limits":
            groups[name] = replace(
                groups[name],
                max_waiting=pick((0, 3, 50)),
                batch_share=pick((0.0, 0.5, 1.0)),
                pipeline_depth=pick((1, 4, 16)),
                max_lifetime=pick((0.0, 2.0, 30.0)),
                max_idle=pick((0.5, 20.0)),
                lease_timeout=pick((0.0, 1.0, 10.0)),
                idle_in_transaction_timeout=pick((0.0, 0.2, 2.0)),
                weights=pick((Weights(), Weights(interactive=1, normal=1, batch=1))),
            )
        case "login":
            endpoint = pick(sorted(endpoints))
            endpoints[endpoint] = replace(endpoints[endpoint], password=f"{endpoints[endpoint].password}+")
        case "session":
            groups[name] = replace(groups[name], sqlprepare=not groups[name].sqlprepare)
        case "remove group" if len(groups) > 1:
            del groups[name]
        case "add group":
            missing = sorted(original.groups.keys() - groups.keys()) or [EXTRA]
            chosen = pick(missing)
            made = original.groups.get(chosen) or original.groups["default"]
            groups[chosen] = _on(made, made.endpoints, tuple(endpoints))
        case "remove endpoint" if len(endpoints) > 1:
            del endpoints[pick(sorted(endpoints))]
            groups = {each: _on(group, group.endpoints, tuple(endpoints)) for each, group in groups.items()}
        case "add endpoint":
            for each in sorted(original.endpoints.keys() - endpoints.keys())[:1]:
                endpoints[each] = original.endpoints[each]
                groups = {one: replace(group, endpoints=(*group.endpoints, each)) for one, group in groups.items()}
        case "use endpoints":
            chosen = tuple(each for each in endpoints if pick((True, True, False))) or tuple(endpoints)
            groups[name] = replace(groups[name], endpoints=chosen)
        case "back":
            return original
    return replace(config, groups=groups, endpoints=endpoints)


def _on(group: GroupConfig, wanted: Sequence[str], there: Sequence[str]) -> GroupConfig:
    return replace(group, endpoints=tuple(each for each in wanted if each in there) or tuple(there))


def _is_untouched(group: Group, before: Config, after: Config, renewed: Sequence[str]) -> bool:
    name = group.configured
    return (
        not group.has_roles
        and not group.is_removed
        and after.groups.get(name) == before.groups[name]
        and all(
            before.endpoints[each] == after.endpoints.get(each) and each not in renewed
            for each in before.groups[name].endpoints
        )
    )


def _mark(group: Group) -> tuple[object, ...]:
    """What may not change in it."""
    backends = {backend.number: (backend.state, backend.is_dismissed) for pool in group.pools for backend in pool}
    pauses = [(pool, set(pool.pauses), pool.cap, pool.floor) for pool in group.pools if not pool.left]
    queue = group.queue.size, group.statements.generation, group.stats.errors, group.stats.requests
    return backends, pauses, queue, group.clients, group.batch_limit


def _stays(pool: Pool, after: Config) -> bool:
    """Whether the pool is its group's by the configuration."""
    group = pool.group
    config = after.groups.get(group.configured)
    if group.is_removed or config is None or (group.main is not None and config.wanted != "primary"):
        return False
    return pool.endpoint.name in config.endpoints


def _is_replaced(pool: Pool, before: Config, after: Config, renewed: Sequence[str]) -> bool:
    """Whether its backends were opened in another way."""
    endpoint, name = pool.endpoint.name, pool.group.configured
    old, new = before.endpoints.get(endpoint), after.endpoints.get(endpoint)
    if endpoint in renewed or (old is not None and new is not None and old.password != new.password):
        return True
    if old is None and new is not None:
        return True  # it comes back, and may have been anything meanwhile
    if pool.group.is_removed or name not in before.groups or name not in after.groups:
        return False
    return before.groups[name].sqlprepare is not after.groups[name].sqlprepare


def about(effect: effects.Effect) -> str:
    """What a trace says of effects that only reloads have."""
    return f"leave {effect.endpoint}" if isinstance(effect, effects.Leave) else ""
