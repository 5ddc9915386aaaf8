"""What a group wants done next. It asks for one step at a time, as each depends on the one before."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from poold.core.pools.pool import Pool
    from poold.core.records.backend import Backend
    from poold.core.records.flow import Flight
    from poold.core.records.request import Request
    from poold.core.statements.statement import Statement


class Grant(NamedTuple):
    """The backend runs the request; it is idle, or runs only statements that the request may run behind."""

    backend: Backend
    request: Request


class Examine(NamedTuple):
    """The backend, which is idle, is asked whether the statement can be prepared."""

    backend: Backend
    statement: Statement


class Hold(NamedTuple):
    """The request's turn has come, but its client does not read its replies."""

    request: Request


class Refuse(NamedTuple):
    """The request's turn has come, but it cannot end before its deadline."""

    request: Request


class Dismiss(NamedTuple):
    """The request will not run: its group is removed, or the broker takes no new work."""

    request: Request


class Reroute(NamedTuple):
    """The request waits for a replica and there is none: it is for the primary."""

    request: Request


class Open(NamedTuple):
    """One more backend is wanted in this pool."""

    pool: Pool


class Lend(NamedTuple):
    """The backend, which is idle, is for a request that waits and is the lane's."""

    backend: Backend


class Adopt(NamedTuple):
    """The request that waits is the lane's, which has no backend here; it becomes the core's."""

    flight: Flight


class Poke(NamedTuple):
    """Somebody who is the core's waits, and the lane has backends here: it is to give one back."""


class Recall(NamedTuple):
    """A question to this backend's server waits; the backend is lent."""

    backend: Backend


Step = Grant | Examine | Hold | Refuse | Dismiss | Reroute | Open | Lend | Adopt | Poke | Recall
