"""A connected client, as the core knows it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from client.wire.messages import Failure
    from poold.core.clients.access import Caller
    from poold.core.pools.group import Group
    from poold.core.records.flow import Line
    from poold.core.records.lease import Lease
    from poold.core.records.request import Request

# The reasons why leases were lost are kept until their client asks, at most so many of each client.
LOST_LEASES_KEPT = 64


class Place(Protocol):
    """Holds a number, with index 0: a list, or memory that others read."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, number: int, /) -> None: ...


@dataclass(slots=True, eq=False)
class Client:
    """A connected client.

    process is the unit that takes turns in the queue: all clients of one process share it if the kernel tells the
    process (ipc); else each client has its own.
    """

    key: int
    pid: int
    name: str
    # None if the transport does not know them.
    uid: int | None = None
    gid: int | None = None
    # The groups it may use, by name; for nearly all clients the broker's own mapping.
    open_groups: Mapping[str, Group] = field(default_factory=dict)
    # Unanswered requests by number: enter when accepted, leave with their reply.
    requests: dict[int, Request] = field(default_factory=dict)
    # Open leases by number: enter with the request that opens them, leave when the transaction or session is over.
    leases: dict[int, Lease] = field(default_factory=dict)
    # What to answer about leases that were lost, by number: enter when lost, leave with the client's release of a
    # session, or its rollback of a transaction; if there are too many the oldest leave.
    lost_leases: dict[int, Failure] = field(default_factory=dict)
    # Those of them that are sessions: a rollback does not end one, so more may be asked of it.
    lost_sessions: set[int] = field(default_factory=set)
    # Whose they were.
    lost_groups: dict[int, Group] = field(default_factory=dict)
    # Groups that it has sent requests to.
    groups: set[Group] = field(default_factory=set)
    heard: float = 0.0  # when it last sent something to the core
    # The lane's half of it, None without one; it tells as `heard` when the lane last heard of the client.
    line: Line | None = None
    # Whether it leaves replies unread: until it reads them, only requests of its open leases are begun.
    is_stalled: bool = False
    # Its requests that could have been begun meanwhile: enter when their turn comes, leave for the queue when it has
    # read its replies, or unexecuted.
    held: dict[Request, None] = field(default_factory=dict)
    bytes: int = 0  # the size of its unanswered requests in the core, as received
    # The greatest number of a request of which something may be on its way to PostgreSQL, in one place; the shell may
    # put one in that the client reads.
    begun: Place = field(default_factory=lambda: [0])
    caller: Caller | None = None  # who it is, for what it may use
    process: Hashable = field(init=False)

    def __post_init__(self) -> None:
        self.process = self.key if self.uid is None else (self.pid, self.uid)

    def last_heard(self) -> float:
        """When it last sent something."""
        return self.heard if self.line is None else max(self.heard, self.line.heard)

    def has_begun(self, number: int) -> None:
        """Note that this request begins."""
        if number > self.begun[0]:
            self.begun[0] = number

    def lease_lost(self, lease: Lease, failure: Failure) -> None:
        """Keep the reason why the lease was lost for when the client asks."""
        number = lease.number
        self.lost_leases[number] = failure
        self.lost_groups[number] = lease.group
        if lease.is_session:
            self.lost_sessions.add(number)
        if len(self.lost_leases) > LOST_LEASES_KEPT:
            self.forget_lost(next(iter(self.lost_leases)))

    def forget_lost(self, number: int) -> None:
        """The client knows that this lease is lost, and asks nothing more about it."""
        self.lost_leases.pop(number, None)
        self.lost_groups.pop(number, None)
        self.lost_sessions.discard(number)


NOBODY = Client(0, 0, "")  # the client of the broker's own requests
