"""A connected client, as the core knows it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client.wire.messages import Failure
    from poold.core.pools.group import Group
    from poold.core.records.lease import Lease
    from poold.core.records.request import Request

# Reasons of lost transactions are kept until their client asks; a client that never does must not grow memory.
LOST_LEASES_KEPT = 64


@dataclass(slots=True, eq=False)
class Client:
    """A connected client.

    process is what its requests take turns as: those of one process share one, if somebody trustworthy tells of it.
    """

    key: int
    pid: int
    name: str
    # None if nobody tells them.
    uid: int | None = None
    gid: int | None = None
    # The groups it may use, by name; for nearly all clients the broker's own mapping.
    open_groups: Mapping[str, Group] = field(default_factory=dict)
    # Unanswered requests by number: enter when accepted, leave with their reply.
    requests: dict[int, Request] = field(default_factory=dict)
    # Open leases by number: enter with the request that begins them, leave when the transaction is over.
    leases: dict[int, Lease] = field(default_factory=dict)
    # What to answer about leases that were lost, by number: enter when lost, leave with the client's rollback or
    # release, the oldest first when many.
    lost_leases: dict[int, Failure] = field(default_factory=dict)
    # Groups it has sent requests to.
    groups: set[Group] = field(default_factory=set)
    heard: float = 0.0  # when it last sent something
    # Whether it leaves replies unread: nothing more is begun for it until it reads.
    is_stalled: bool = False
    # Its requests that could have been begun meanwhile: enter when their turn comes, leave to wait again when it reads,
    # or unexecuted.
    held: dict[Request, None] = field(default_factory=dict)
    bytes: int = 0  # of its unanswered requests, as they came
    process: Hashable = field(init=False)

    def __post_init__(self) -> None:
        self.process = self.key if self.uid is None else (self.pid, self.uid)

    def lease_lost(self, number: int, failure: Failure) -> None:
        """Keep the reason for when the client asks."""
        self.lost_leases[number] = failure
        if len(self.lost_leases) > LOST_LEASES_KEPT:
            del self.lost_leases[next(iter(self.lost_leases))]


NOBODY = Client(0, 0, "")  # whose requests the broker's own are
