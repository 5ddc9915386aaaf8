"""What follows when a unit has ended, or its backend was lost; and what kinds of work decide it.

Each kind says what a request of its is to run, and what becomes of it then. It changes what it has learned, of its
statement and in its group's figures, and nothing else: where a request goes is for `requests` to carry out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from client.wire.messages import Failure, ResultMessage, TransactionResult
from poold.core.effects import Unit
from poold.core.facts import Completion, Loss

if TYPE_CHECKING:
    from poold.core.records.backend import Backend
    from poold.core.records.request import Request


class Next(NamedTuple):
    """The request runs on, on the same backend."""

    request: Request
    unit: Unit


class Answer(NamedTuple):
    """The request is done."""

    request: Request
    reply: ResultMessage | TransactionResult | Failure


class Again(NamedTuple):
    """The request is run once more, as the next of its group or as the last one."""

    request: Request
    is_last: bool = False


class Pause(NamedTuple):
    """The request goes on at that time."""

    request: Request
    until: float


class Inquire(NamedTuple):
    """COMMIT's answer was lost with this backend: the request waits for what its server says of the transaction."""

    request: Request
    backend: Backend
    xid: bytes
    error: str  # why it was lost


class Ask(NamedTuple):
    """The question waits for another backend of its server."""

    request: Request


class Count(NamedTuple):
    """The request cannot be answered before its backend was asked how many transactions there were."""

    request: Request


class StepAside(NamedTuple):
    """The request waits for a lock, and others wait for its backend: it is run again by itself."""

    request: Request


# None: nobody waits for an answer, and the request is done.
Decision = Next | Answer | Again | Pause | Inquire | Ask | Count | StepAside | None


class Work(Protocol):
    """One kind of work."""

    def begin(self, backend: Backend, request: Request, now: float) -> Unit:
        """What the request is to run on this backend first."""

    def ended(self, backend: Backend, request: Request, done: Completion, now: float) -> Decision:
        """The unit that the request ran has ended."""

    def lost(self, backend: Backend, request: Request, loss: Loss, is_begun: bool, now: float) -> Decision:
        """The backend that the request ran on is gone; is_begun: PostgreSQL may have begun with its unit."""
