"""One client's exclusive use of a backend."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from client.wire.cursors import Cursors, CursorUse, Source
from client.wire.limits import NORMAL

if TYPE_CHECKING:
    from poold.config.model import GroupConfig
    from poold.core.pools.group import Group
    from poold.core.records.backend import Backend
    from poold.core.records.client import Client
    from poold.core.records.request import Request
    from poold.core.statements.statement import Statement


@dataclass(slots=True, eq=False)
class Lease:
    """One client's exclusive use of a backend, for one interactive transaction or for a session of any number of them.

    backend is None until the request that opens the lease is granted one, and again when the lease is over.
    """

    client: Client
    number: int
    group: Group
    priority: int = NORMAL
    is_session: bool = False
    begins: bool = False  # its first request begins a transaction
    backend: Backend | None = None
    began: float = 0.0  # when it was given its backend
    tag: str = ""  # of its last request that had one, and the origin of the one that opened it
    origin: bytes = b""
    requests: int = 0  # that have begun on its backend
    outcome: str = ""  # how its transaction ended, in words, if PostgreSQL has said so
    idle: float = 0.0  # how long its backend has waited for the client so far
    idle_since: float | None = None  # since when it does again
    expires: float | None = None  # lease_timeout after the grant
    # Settings were changed in it, or a statement ran that is not proven harmless: all that follows runs with literals.
    is_altered: bool = False
    # A statement ran after whose commit names may mean something else.
    outdates: bool = False
    # That ran last, for whoever looks at an open lease that runs nothing.
    statement: Statement | None = None
    fetched: Source | None = None  # what that fetches from
    cursors: Cursors | None = None  # that its statements have declared; None before the first
    # Requests of this lease that wait behind the one that runs, in order of arrival.
    pending: deque[Request] = field(default_factory=deque)
    # Its time limits, which are those that it began with, whatever its group has by now.
    limits: GroupConfig = field(init=False)

    def __post_init__(self) -> None:
        self.limits = self.group.config

    def source(self, use: CursorUse) -> Source | None:
        """Take note of a statement that does something with a cursor; return what it fetches from, if that is known."""
        if self.cursors is None:
            self.cursors = Cursors()
        return self.cursors.take(use)
