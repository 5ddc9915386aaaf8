"""What a reload changes, key by key, and what it does about each: `reload` in the metadata of `poold.config.model`.

Most keys hold from the reload on, for what comes afterwards. Some are told to backends when these are opened, so that
backends are replaced. A few hold as long as the process: what clients are told when they connect, and what the broker
does once, at its start.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, fields, replace
from typing import Any, NamedTuple, TypeVar

from poold.config.current import CurrentConfig
from poold.config.model import MOVE, REPLACE, RESTART, START, BrokerConfig, Config, EndpointConfig, GroupConfig

Section = BrokerConfig | EndpointConfig | GroupConfig
AnySection = TypeVar("AnySection", BrokerConfig, GroupConfig)
# With either of them the socket file is open to everybody and lists decide; without both its mode does, from its making
# on. So the first entry and the last one need a restart.
_LISTS = ("allow_uids", "allow_gids")


class Change(NamedTuple):
    """One key that has another value, or one table that came or went."""

    table: str  # "broker", "endpoints.NAME", "groups.NAME"
    key: str  # "" for a whole table
    result: str  # one of the words below
    before: Any = None  # plain values; None of a secret, a file's content and a table
    after: Any = None
    is_shown: bool = True  # whether the values may be shown
    replaces: bool = False  # backends are replaced


APPLIED, ADDED, REMOVED = "applied", "added", "removed"
NEEDS_RESTART, NEEDS_START = "needs restart", "needs stop and start"


def what_changed(old: Config, new: Config, renewed: Collection[tuple[str, str]] = ()) -> list[Change]:
    """Return all changes. renewed: tables and keys that name files whose content has changed."""
    found = [*_changes_of("broker", old.broker, new.broker, _kept_keys(old.broker, new.broker))]
    for kind, before, after in (("endpoints", old.endpoints, new.endpoints), ("groups", old.groups, new.groups)):
        found += _changes_of_tables(kind, before, after)
    told = {(each.table, each.key) for each in found}
    for table, key in sorted(set(renewed) - told):
        result = NEEDS_RESTART if table == "broker" else APPLIED
        found.append(Change(table, key, result, is_shown=False, replaces=result is APPLIED))
    return found


def unchanged(config: Config, changes: Collection[Change]) -> list[str]:
    """Return the names of all keys of this configuration that the changes do not name, as in groups.web.max_size."""
    changed = {(each.table, each.key) for each in changes}
    sections: dict[str, Section] = {"broker": config.broker}
    sections |= {f"endpoints.{name}": each for name, each in config.endpoints.items()}
    sections |= {f"groups.{name}": each for name, each in config.groups.items()}
    return [
        f"{table}.{field.name}"
        for table, section in sections.items()
        if (table, "") not in changed
        for field in fields(section)
        if (table, field.name) not in changed
    ]


def applied(old: Config, new: Config) -> Config:
    """Return the configuration that holds from the reload on: the new one, with what needs a restart as it is."""
    broker = _with_kept(old.broker, new.broker, _kept_keys(old.broker, new.broker))
    groups = {
        name: _with_kept(old.groups[name], group, _keys(group, RESTART)) if name in old.groups else group
        for name, group in new.groups.items()
    }
    return Config(broker=broker, endpoints=new.endpoints, groups=groups)


def are_backends_replaced(old: Section, new: Section) -> bool:
    """Whether backends that were opened with the old values are not what they would be with the new ones."""
    return _differ(old, new, REPLACE) or _differ(old, new, MOVE)


def changed_endpoints(old: Config, new: Config | CurrentConfig, renewed: Collection[str] = ()) -> set[str]:
    """Return the names of endpoints that have gone, or to which one connects in another way than before."""
    names = old.endpoints.items()
    return {
        name
        for name, each in names
        if name in renewed or name not in new.endpoints or are_backends_replaced(each, new.endpoints[name])
    }


def is_moved(old: EndpointConfig, new: EndpointConfig) -> bool:
    """Whether the endpoint leads elsewhere: nothing that is known of its server may hold there."""
    return _differ(old, new, MOVE)


def _differ(old: Section, new: Section, what: str) -> bool:
    """Whether one of the keys about which a reload does this has another value."""
    return any(getattr(old, key) != getattr(new, key) for key in _keys(new, what))


def _keys(section: Section, what: str) -> list[str]:
    return [field.name for field in fields(section) if field.metadata.get("reload") == what]


def _kept_keys(old: BrokerConfig, new: BrokerConfig) -> list[str]:
    return [*_keys(new, RESTART), *_keys(new, START), *(_LISTS if old.has_lists is not new.has_lists else ())]


def _with_kept(old: AnySection, new: AnySection, keys: Collection[str]) -> AnySection:
    return replace(new, **{key: getattr(old, key) for key in keys})


def _changes_of_tables(kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for name in old.keys() - new.keys():
        yield Change(f"{kind}.{name}", "", REMOVED)
    for name, section in new.items():
        if name in old:
            yield from _changes_of(f"{kind}.{name}", old[name], section, _keys(section, RESTART))
        else:
            yield Change(f"{kind}.{name}", "", ADDED)


def _changes_of(table: str, old: Section, new: Section, kept: Collection[str]) -> Iterator[Change]:
    before, after = asdict(old), asdict(new)
    for field in fields(new):
        key, values = field.name, (before[field.name], after[field.name])
        if values[0] == values[1]:
            continue
        is_shown, reload = not field.metadata.get("secret"), field.metadata.get("reload")
        if key == "password" and (given := next((k for k in ("password_file", "password_env") if after[k]), "")):
            if before[given] != after[given]:
                continue  # the name of the file, or of the variable, tells
            key = given
        result = APPLIED if key not in kept else NEEDS_START if reload == START else NEEDS_RESTART
        replaces = reload in (REPLACE, MOVE)
        if key in ("password_file", "password_env"):
            replaces = before["password"] != after["password"]
        shown = values if is_shown else (None, None)
        yield Change(table, key, result, shown[0], shown[1], is_shown, replaces)
