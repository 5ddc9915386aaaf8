"""Who may do what: questions to the broker itself.

Who a client is, its transport knows: over ipc:// the kernel tells its user, over tcp:// nobody does. Root and the
broker's own user may do everything. A question that stands in no table is for admins, so that a new one is closed to
strangers until somebody decides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import IntEnum
from typing import NamedTuple

from client.protocol import Failure
from poold.core import failures


class Caller(NamedTuple):
    """Who asks."""

    uid: int | None = None  # None where nobody tells
    is_owner: bool = False  # root, or the broker's own user


class Audience(IntEnum):
    """Who may ask a question."""

    EVERYBODY = 0  # who may connect
    ADMINS = 1  # root, the broker's own user, and admin_uids


# All questions of client.rules.QUESTIONS, and who may ask them.
QUESTIONS: Mapping[str, Audience] = {
    "ping": Audience.EVERYBODY,
    "stats": Audience.EVERYBODY,
    "stop": Audience.ADMINS,
    "stop-now": Audience.ADMINS,
}


def is_admin(caller: Caller, admin_uids: Collection[int]) -> bool:
    """Whether this caller is root, the broker's own user or listed; where nobody tells who asks it is none of them."""
    return caller.is_owner or (caller.uid is not None and caller.uid in admin_uids)


def may_not_ask(what: str, caller: Caller, admin_uids: Collection[int]) -> Failure | None:
    """Why this caller is not answered; None where it is."""
    if QUESTIONS.get(what) is Audience.EVERYBODY or is_admin(caller, admin_uids):
        return None
    who = "this address does not tell who asks" if caller.uid is None else f"you are user {caller.uid}"
    return failures.usage(f"{what} is for root, the broker's own user and its admin_uids; {who}")
