"""The decisions that may follow when a unit has ended or its backend was lost, and the interface of kinds of work.

A kind of work decides what its requests run and what follows. It updates what it learns: about the statement, the
backend's session, the request, and in the group's statistics. It moves no request: `requests.runs` carries its
decisions out.
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
    """The request goes on with this unit on the same backend."""

    request: Request
    unit: Unit


class Answer(NamedTuple):
    """The request is done, with this reply."""

    request: Request
    reply: ResultMessage | TransactionResult | Failure


class Again(NamedTuple):
    """The request is run once more: as the next one of its group, or if is_last behind those of its process."""

    request: Request
    is_last: bool = False


class Elsewhere(NamedTuple):
    """The request has failed as its server is a standby: it is run once more, on the primary."""

    request: Request


class Pause(NamedTuple):
    """The request waits until the given time, and is then run once more."""

    request: Request
    until: float


class Inquire(NamedTuple):
    """COMMIT's answer was lost with this backend: its server is asked what became of the transaction."""

    request: Request
    backend: Backend
    xid: bytes  # the transaction's id, in digits
    error: str  # why the backend was lost


class Ask(NamedTuple):
    """The question, an inquiry, waits for another backend of its server."""

    request: Request


class Count(NamedTuple):
    """Before the request can be answered, its backend must be asked how many transactions there were."""

    request: Request


class StepAside(NamedTuple):
    """The request waits for a lock while others wait for it: it is cancelled, and run again alone."""

    request: Request


# None: the request is one of the broker's own, and done.
Decision = Next | Answer | Again | Elsewhere | Pause | Inquire | Ask | Count | StepAside | None


class Work(Protocol):
    """One kind of work."""

    def begin(self, backend: Backend, request: Request, now: float) -> Unit:
        """Return the first unit of the request on this backend."""

    def ended(self, backend: Backend, request: Request, done: Completion, now: float) -> Decision:
        """The unit that the request ran has ended: decide what follows."""

    def lost(self, backend: Backend, request: Request, loss: Loss, is_begun: bool, now: float) -> Decision:
        """The request's backend is gone: decide what follows. is_begun: PostgreSQL may have begun with its unit."""
