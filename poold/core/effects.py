"""Effects: what the core wants done, as small values that the shell takes once per turn and carries out in order.

A backend is named by its number, a client by the number its frontend gave it. The shell answers with facts: Connect
with opened or connect_failed; Execute with completed or lost; Cancel with cancelled; Drop with client_gone; Observe
with observed, Locate with located, either with unobserved; Feed with fed. The others need no
answer. For a backend that was closed, facts that still arrive are ignored.

Execute carries a unit: commands that PostgreSQL runs one after the other up to its ReadyForQuery. An error skips the
rest of its unit and nothing else, so several units may be on their way to a backend at once; each is answered by one
completed, in order.

The repr of an effect shows no statement, no value and no result, as logs and error reports are read by others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from client.wire.messages import (
    Answer,
    CopyBegun,
    CopyOut,
    CopyWanted,
    Failure,
    ResultMessage,
    Timing,
    TransactionResult,
)

if TYPE_CHECKING:
    from poold.core.records.flow import Flow


@dataclass(slots=True)
class SimpleQuery:
    """A string of any number of statements, alone in its unit."""

    sql: bytes = field(repr=False)
    is_in: bool | None = None  # whether the client gives (True) or takes (False) the data of a COPY; None: neither


@dataclass(slots=True)
class Plain:
    """One statement without parameters."""

    sql: bytes = field(repr=False)


@dataclass(slots=True)
class Prepare:
    """Prepare a statement under a name; it has no result of its own."""

    name: bytes  # the core's; on the backend it has a prefix that nobody can guess
    sql: bytes = field(repr=False)  # with $1, $2, ...
    types: bytes


@dataclass(slots=True)
class Bind:
    """Run a prepared statement with these values."""

    name: bytes
    count: int
    values: bytes = field(repr=False)


@dataclass(slots=True)
class Deallocate:
    """Forget a prepared statement; it has no result of its own."""

    name: bytes


@dataclass(slots=True)
class Flush:
    """Send the results so far without waiting for the end of the unit."""


Command = SimpleQuery | Plain | Prepare | Bind | Deallocate | Flush
Unit = tuple[Command, ...]


def in_order(commands: list[Command]) -> Unit:
    """The commands as a unit, each Deallocate moved to the front: an error before it would skip it.

    A Deallocate of a name that the unit uses before stays in its place, between that use and the next Prepare.
    """
    if Deallocate not in map(type, commands):
        return tuple(commands)
    first: list[Command] = []
    others: list[Command] = []
    used: set[bytes] = set()
    for command in commands:
        if type(command) is Deallocate and command.name not in used:
            first.append(command)
            continue
        others.append(command)
        if type(command) is Bind or type(command) is Prepare:
            used.add(command.name)
    return (*first, *others)


@dataclass(slots=True)
class Connect:
    """Open a backend."""

    backend: int
    group: str
    endpoint: str
    is_read_only: bool = False  # its session writes nothing, even if the server becomes a primary


@dataclass(slots=True)
class Execute:
    """Run the unit, after those that the backend has already."""

    backend: int
    unit: Unit = field(repr=False)


@dataclass(slots=True)
class Feed:
    """Give the backend the next piece of the data that its COPY waits for; fed follows."""

    backend: int
    data: bytes = field(repr=False)


@dataclass(slots=True)
class EndFeed:
    """There is no more data for the backend's COPY; with an error the COPY fails."""

    backend: int
    error: str | None


@dataclass(slots=True)
class Hold:
    """Read no more of the data of the backend's COPY, or (not is_held) go on."""

    backend: int
    is_held: bool


@dataclass(slots=True)
class Cancel:
    """Ask PostgreSQL to cancel what the backend runs. Until cancelled() comes, the cancel may still take effect."""

    backend: int


@dataclass(slots=True)
class Look:
    """Find out, by another connection, whether the server is still at work for the backend; looked() follows."""

    backend: int


@dataclass(slots=True)
class Close:
    """Close the backend, whatever it does; later facts about it are ignored."""

    backend: int
    reason: str
    # Whether it runs something that is not to go on without anybody who waits for it: it is cancelled before.
    is_cancelled: bool = False


@dataclass(slots=True)
class Reply:
    """The final reply to a request."""

    client: int
    body: Answer | ResultMessage | TransactionResult | Failure = field(repr=False)


@dataclass(slots=True)
class Tell:
    """A message about a request that is under way; its final reply comes later."""

    client: int
    body: CopyBegun | CopyOut | CopyWanted | Timing = field(repr=False)


@dataclass(slots=True)
class Drop:
    """Disconnect a client; client_gone follows."""

    client: int
    reason: str


@dataclass(slots=True)
class Teach:
    """The lane may run messages of this flow."""

    flow: Flow = field(repr=False)


@dataclass(slots=True)
class Lend:
    """The backend, which is idle, is the lane's until lent_back or handed_over."""

    backend: int


@dataclass(slots=True)
class Recall:
    """The lane is to give the backend back: at once with all that it runs, or when it rests."""

    backend: int
    at_once: bool


@dataclass(slots=True)
class Poke:
    """The lane is to give back a backend of the group, one that rests or the next that does."""

    group: str


@dataclass(slots=True)
class Observe:
    """Ask the endpoint's server what it is, and this question; observed or unobserved follows."""

    endpoint: str
    question: str = field(default="", repr=False)


@dataclass(slots=True)
class Locate:
    """Ask the endpoint's server how far its log has come; located, or unobserved, follows."""

    endpoint: str


@dataclass(slots=True)
class Leave:
    """Close the connection on which the endpoint's server is asked; what it is asked is not answered any more."""

    endpoint: str


@dataclass(slots=True)
class Remember:
    """Keep over restarts that the database cluster has reached this timeline."""

    system: str
    timeline: int


@dataclass(slots=True)
class Note:
    """Tell the operator, in the log: an event in constant words, and its fields; those without a value are left out.

    is_bad: somebody should look after it. is_frequent: there may be many, so the log may leave some out.
    """

    event: str
    is_bad: bool
    fields: Mapping[str, object] = field(default_factory=dict)
    is_frequent: bool = False

    @property
    def text(self) -> str:
        """All of it in one line."""
        return " ".join([self.event, *[f"{name}={value}" for name, value in self.fields.items()]])


@dataclass(slots=True)
class Stop:
    """End the program: the drain is over, or the broker was stopped."""


ToBackend = Connect | Execute | Feed | EndFeed | Hold | Cancel | Look | Close
ToClient = Reply | Tell | Drop
ToLane = Teach | Lend | Recall | Poke
ToEndpoint = Observe | Locate | Leave
Effect = ToBackend | ToClient | ToLane | ToEndpoint | Remember | Note | Stop
