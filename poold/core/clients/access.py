"""Who may do what: questions to the broker itself, and groups.

The transport identifies a client: over ipc:// the kernel tells its user, over tcp:// libzmq tells the name of its key,
if there are keys. Root and the broker's own user may do everything. A question that QUESTIONS does not list is for
admins, so a new one is closed to strangers until somebody decides. An admin of the broker is not automatically a user
of a group.

To a client, a group that it may not use looks like one that does not exist: the answers are the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from client.wire.messages import IN_SESSIONS, Failure
from poold.config.model import KEY_PREFIX
from poold.core.work import failures

if TYPE_CHECKING:
    from poold.config.model import GroupConfig
    from poold.core.pools.group import Group


class Caller(NamedTuple):
    """Whoever asks, as far as the transport can tell."""

    uid: int | None = None  # None if unknown
    is_owner: bool = False  # root, or the broker's own user
    key: str = ""  # the name of its key file, without .key; empty if it has none


class Audience(IntEnum):
    """Who may ask a question."""

    EVERYBODY = 0  # all who may connect
    ADMINS = 1  # root, the broker's own user, and admin_uids


# All questions of client.wire.limits.QUESTIONS, and who may ask them.
QUESTIONS: Mapping[str, Audience] = {
    "ping": Audience.EVERYBODY,
    "stats": Audience.EVERYBODY,
    "metrics": Audience.EVERYBODY,
    "groups": Audience.EVERYBODY,
    "stop": Audience.ADMINS,
    "stop-now": Audience.ADMINS,
    "restart": Audience.ADMINS,
    "reload": Audience.ADMINS,
    "reconnect": Audience.ADMINS,
    "pause": Audience.ADMINS,
    "drain": Audience.ADMINS,
    "resume": Audience.ADMINS,
    "kill": Audience.ADMINS,
}


def is_admin(caller: Caller, admin_uids: Collection[int]) -> bool:
    """Whether this caller is root, the broker's own user or listed. An unknown caller is none of them."""
    return caller.is_owner or (caller.uid is not None and caller.uid in admin_uids)


def may_not_ask(what: str, caller: Caller, admin_uids: Collection[int]) -> Failure | None:
    """Why this caller may not ask the question; None if it may."""
    if QUESTIONS.get(what) is Audience.EVERYBODY or is_admin(caller, admin_uids):
        return None
    who = "this address does not tell who asks" if caller.uid is None else f"you are user {caller.uid}"
    return failures.usage(f"{what} is for root, the broker's own user and its admin_uids; {who}")


def may_use(caller: Caller, config: GroupConfig) -> bool:
    """Whether this caller may use a group of this configuration."""
    users = config.allow_users
    if not users or caller.is_owner or (caller.uid is not None and str(caller.uid) in users):
        return True
    return bool(caller.key) and KEY_PREFIX + caller.key in users


def modes(groups: Mapping[str, Group]) -> dict[str, bool | str]:
    """What a client is told of the groups that it may use."""
    return {name: _mode(group.config) for name, group in groups.items() if group.main is None}


def _mode(config: GroupConfig) -> bool | str:
    return IN_SESSIONS if config.legacy_session and config.autocommit else config.autocommit


def open_to(caller: Caller, groups: Mapping[str, Group]) -> Mapping[str, Group]:
    """The groups that this caller may use. If these are all, it is the mapping itself, so clients share one."""
    found = {name: group for name, group in groups.items() if may_use(caller, group.config)}
    return groups if len(found) == len(groups) else found
