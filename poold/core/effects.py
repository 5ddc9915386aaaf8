"""What the core wants done: small values, taken by the shell once per turn and carried out in order.

A backend is named by its number, a client by the number its frontend gave it. The shell answers with facts: Connect
with opened or connect_failed; Execute and Reset with completed or lost; Cancel with cancelled. Close, Reply and Stop
need no answer. For a backend that was closed, facts that still arrive are ignored.
"""

from dataclasses import dataclass

from client.protocol import Failure


@dataclass(slots=True)
class Connect:
    """Open a backend."""

    backend: int
    group: str
    endpoint: str


@dataclass(slots=True)
class Execute:
    """Run the statement, after a BEGIN of its own when begin."""

    backend: int
    statement: bytes
    begin: bool


@dataclass(slots=True)
class Cancel:
    """Ask PostgreSQL to cancel what the backend runs. Until cancelled() comes, the cancel may still hit."""

    backend: int


@dataclass(slots=True)
class Reset:
    """Roll back whatever is open on the backend."""

    backend: int


@dataclass(slots=True)
class Close:
    """Close the backend, whatever it does; no fact about it counts from here on."""

    backend: int
    reason: str


@dataclass(slots=True)
class Reply:
    """The final reply to a request: a Result's body, as the backend encoded it, or a Failure."""

    client: int
    request: int
    body: bytes | Failure


@dataclass(slots=True)
class Stop:
    """The drain is over; nothing is left to do."""


Effect = Connect | Execute | Cancel | Reset | Close | Reply | Stop
