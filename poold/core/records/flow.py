"""What the lane may run: flows, and the requests that it runs itself.

The lane works on the core's own records. A request of the lane stands where the core's stand: among its client's, in
its group's queue, on its backend. Only whoever owns the backend (LENT: the lane) touches it, and the core makes a
Request of it, in its place, as soon as it is the core's to look after.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from poold.core.effects import Unit
    from poold.core.pools.group import Group
    from poold.core.records.client import Client
    from poold.core.statements.statement import Statement
    from poold.core.work.transaction_plan import Plan


# A message that has more bytes than this is not the lane's.
MAX_MESSAGE_BYTES = 1024
# How often the lane looks for what has become too old for it.
TICK_SECONDS = 0.005


@dataclass(slots=True, eq=False)
class Flow:
    """A statement, or a transaction's steps, that the lane may run with any values, as their messages name them.

    key is a message's bytes from group to types, or to steps. All statements are prepared and proven harmless;
    those of a transaction begin with BEGIN and end with COMMIT.
    """

    key: bytes
    group: Group
    statements: tuple[Statement, ...]
    generation: int  # of its statements; in another one they may mean something else
    plan: Plan | None = None  # of a transaction
    asked: str = ""  # the group as a query's messages name it
    rests_until: float = 0.0  # the lane leaves it to the core until then, as it was surprised too often
    is_taught: bool = False  # the lane has it; it forgets those that hold no longer, and the oldest of very many


class Line(Protocol):
    """The lane's half of a client."""

    heard: float


class Flight(Protocol):
    """A request that the lane runs, or lets wait in its group's queue."""

    is_in_lane: bool  # True
    client: Client
    number: int
    flow: Flow
    tag: str  # read from the message each time
    message: bytes
    priority: int
    arrived: float
    began: float  # when it was given to its backend
    is_waiting: bool  # in its group's queue, and the lane's still

    def unit(self) -> Unit:
        """The unit that was sent for it."""
