"""What of a configuration with mistakes can be tried all the same, so that one run of `poold doctor` tells everything.

An endpoint can be tried if nothing is wrong with the keys by which one logs in; a weight or an unknown key is no reason
not to. A group with a mistake is nothing to judge, but one can log in for it, with what is right of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from poold.config.model import BrokerConfig, Config, EndpointConfig, GroupConfig

# By these one logs in; with another value for one of them it would be another login. `_ENDPOINT` has all keys.
_LOGIN = {
    "host", "port", "dbname", "user", "password", "password_file", "password_env", "sslmode", "sslrootcert", "sslcert",
    "sslkey", "sslcrl", "channel_binding", "options",
}  # fmt: skip
_ENDPOINT = [field.name for field in fields(EndpointConfig)]

Tables = Mapping[str, Mapping[str, Any]]  # the right values of each table, by its name
Wrong = Mapping[str, Sequence[str]]  # of each table, by its name, what is wrong: "key: what", or ": what"


@dataclass(frozen=True, slots=True)
class Usable:
    """What can be tried."""

    config: Config  # endpoints to log in to, and groups with which nothing is wrong
    stand_ins: Mapping[str, GroupConfig]  # groups to log in for: those with a mistake, and "" for endpoints of none

    @property
    def for_logins(self) -> Config:
        """The configuration with all groups to log in for."""
        return replace(self.config, groups={**self.config.groups, **self.stand_ins})


def usable(
    broker: Mapping[str, Any], endpoints: Tables, groups: Tables, wrong_endpoints: Wrong, wrong_groups: Wrong
) -> Usable | None:
    """Return what can be tried, None if there is no endpoint to log in to.

    A group that loses endpoints takes any that are left.
    """
    left = {
        name: EndpointConfig(**values)
        for name, values in endpoints.items()
        if not any(_is_of_login(each) for each in wrong_endpoints[name])
    }
    good: dict[str, GroupConfig] = {}
    stand_ins: dict[str, GroupConfig] = {}
    for name, values in groups.items():
        names = tuple(dict.fromkeys(each for each in values["endpoints"] if each in left))
        if names:
            is_good, is_whole = not wrong_groups[name], names == values["endpoints"]
            role = values["role"] if is_good and is_whole else "any"
            group = GroupConfig(**{**values, "endpoints": names, "role": role})
            (good if is_good else stand_ins)[name] = group
    others = left.keys() - {each for group in (*good.values(), *stand_ins.values()) for each in group.endpoints}
    if others:
        stand_ins[""] = GroupConfig(endpoints=tuple(each for each in left if each in others), role="any")
    if not left:
        return None
    return Usable(Config(broker=BrokerConfig(**broker), endpoints=left, groups=good), stand_ins)


def _is_of_login(problem: str) -> bool:
    """Whether the problem is about a key by which one logs in, or about a word that is probably meant for one."""
    keys = problem.partition(":")[0].split(" and ")
    return any(nearest in _LOGIN for key in keys for nearest in difflib.get_close_matches(key, _ENDPOINT, n=1))
