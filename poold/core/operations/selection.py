"""Which groups and pools an operator means, by the words of the question."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from client.wire.arguments import unpacked_arguments
from client.wire.messages import Ask
from poold.core.pools.endpoint import Endpoint
from poold.core.pools.group import Group
from poold.core.pools.pool import Pool

# The arguments that say which.
GROUP, ENDPOINT, TIMEOUT = "group", "endpoint", "timeout"


class NotPossible(Exception):
    """Nobody can do what the operator asks for; the text says why, and what there is instead."""


class Selection(NamedTuple):
    """What an operator means: pools, and how they were named."""

    groups: tuple[Group, ...]  # none of those for reads on replicas, which go with the ones they belong to
    endpoint: str  # "" if all of the groups' endpoints are meant
    pools: tuple[Pool, ...]
    is_all: bool  # nothing was named: also groups are meant that a reload adds later

    @property
    def names(self) -> list[str]:
        """The groups' names."""
        return [group.name for group in self.groups]


def arguments_of(message: Ask, *known: str) -> dict[str, list[str]]:
    """Return the question's arguments, which have to be of the known ones.

    An empty value is refused: of a variable that is not set, say, it must not mean everything.
    """
    found = unpacked_arguments(message.arguments)
    for name, values in found.items():
        if name not in known:
            raise NotPossible(f"{message.what} has no {name!r}; it has {', '.join(known)}")
        if "" in values:
            raise NotPossible(f"the {name} of {message.what} is an empty text; give a value, or leave it out")
    return found


def only(arguments: Mapping[str, list[str]], name: str) -> str:
    """Return the argument's one value, "" if it was not given."""
    values = arguments.get(name, [""])
    if len(values) != 1:
        raise NotPossible(f"{name} is given {len(values)} times; give it once")
    return values[0]


def select(
    groups: Mapping[str, Group],
    endpoints: Mapping[str, Endpoint],
    arguments: Mapping[str, list[str]],
    leaving: Iterable[Group] = (),
) -> Selection:
    """Return what the arguments group and endpoint name; all groups if they name none.

    leaving: groups that a reload has removed and in which something is still open. Their pools are meant as well, by
    the name that they had, or if none is named.
    """
    there = {name: group for name, group in groups.items() if group.main is None}
    named = dict.fromkeys(arguments.get(GROUP, ()))
    for name in named:
        if name not in there:
            hint = f"; {name!r} is an endpoint: --endpoint {name}" if name in endpoints else ""
            raise NotPossible(f"there is no group {name!r}; there are {_words(there)}{hint}")
    endpoint = only(arguments, ENDPOINT)
    if endpoint and endpoint not in endpoints:
        hint = f"; {endpoint!r} is a group, and is named without --endpoint" if endpoint in there else ""
        raise NotPossible(f"there is no endpoint {endpoint!r}; there are {_words(endpoints)}{hint}")
    found = [there[name] for name in named] or list(there.values())
    if endpoint:
        uses = [group for group in found if any(each.name == endpoint for each in group.endpoints)]
        if named and len(uses) < len(found):
            other = next(group for group in found if group not in uses)
            has = _words([each.name for each in other.endpoints])
            raise NotPossible(f"group {other.name!r} does not use endpoint {endpoint!r}; it has {has}")
        if not uses:
            raise NotPossible(f"no group uses endpoint {endpoint!r}")
        found = uses
    with_replicas = [each for group in found for each in (group, group.replicas) if each is not None]
    pools = (
        pool
        for each in (*with_replicas, *(each for each in leaving if not named or each.configured in named))
        for pool in each.pools
        if not endpoint or pool.endpoint.name == endpoint
    )
    return Selection(tuple(found), endpoint, tuple(pools), not named and not endpoint)


def _words(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
