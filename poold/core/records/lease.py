"""One client's exclusive use of a backend."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from client.wire.limits import NORMAL

if TYPE_CHECKING:
    from poold.core.pools.group import Group
    from poold.core.records.backend import Backend
    from poold.core.records.client import Client
    from poold.core.records.request import Request


@dataclass(slots=True, eq=False)
class Lease:
    """One client's exclusive use of a backend: for an interactive transaction, or a session, which outlives its own.

    backend is None until the request that begins it is granted one, and again when the lease is over: then the backend
    is no longer the lease's.
    """

    client: Client
    number: int
    group: Group
    priority: int = NORMAL
    is_session: bool = False
    backend: Backend | None = None
    expires: float | None = None  # lease_timeout, from the grant on
    # A statement ran in it that is not proven harmless, or settings: nothing is prepared, or run prepared, any more.
    is_altered: bool = False
    # Names may mean something else when it is committed.
    outdates: bool = False
    # Requests of this lease behind the one that runs, in order.
    pending: deque[Request] = field(default_factory=deque)
