"""The states of a backend and of a request, and which may follow which.

A backend runs at most one statement. Cancelling is the one delicate part: PostgreSQL's cancel names the connection,
not the statement, so a cancel on its way may hit whatever runs there when it arrives. Two facts must come before the
backend may run anything else, that the statement ended and that the cancel was settled, in either order:

    ACTIVE --cancel--> CANCELLING --completed--> SETTLING --cancelled--> at rest
                            \\----cancelled----> ACTIVE   --completed--> at rest

At rest a backend goes to IDLE, to LEASED (its lease goes on), to ACTIVE (its lease has a next statement), to RESETTING
(a transaction is open that nobody owns) or is closed.
"""

from enum import IntEnum


class BackendState(IntEnum):
    """Where a backend is. Each names the collection of its pool that holds it."""

    CONNECTING = 0  # being opened; -> IDLE, CLOSED
    IDLE = 1  # free, no transaction open; -> ACTIVE, CLOSED
    ACTIVE = 2  # runs a request's statement; -> at rest, CANCELLING
    LEASED = 3  # inside a lease, waits for its client's next statement; -> ACTIVE, RESETTING, IDLE, CLOSED
    CANCELLING = 4  # runs a statement that a cancel is on its way to; -> SETTLING, ACTIVE, CLOSED
    SETTLING = 5  # runs nothing, a cancel may still arrive; -> at rest
    RESETTING = 6  # runs the broker's ROLLBACK; -> IDLE, CLOSED
    CLOSED = 7  # gone, in no collection; no successor


_S = BackendState
_AT_REST = (_S.IDLE, _S.LEASED, _S.ACTIVE, _S.RESETTING, _S.CLOSED)

# Indexed by state: its legal successors.
TRANSITIONS: tuple[tuple[BackendState, ...], ...] = (
    (_S.IDLE, _S.CLOSED),
    (_S.ACTIVE, _S.CLOSED),
    (*_AT_REST, _S.CANCELLING),
    (_S.ACTIVE, _S.RESETTING, _S.IDLE, _S.CLOSED),
    (_S.SETTLING, _S.ACTIVE, _S.CLOSED),
    _AT_REST,
    (_S.IDLE, _S.CLOSED),
    (),
)


class RequestState(IntEnum):
    """Where a request is."""

    WAITING = 0  # in its group's queue, or behind another statement of its lease; -> RUNNING, DONE
    RUNNING = 1  # on a backend; -> CANCELLED, WITHDRAWN, DONE
    CANCELLED = 2  # on a backend, to be cancelled; the reply is still owed; -> WITHDRAWN, DONE
    WITHDRAWN = 3  # on a backend, to be cancelled; nobody is left to reply to; -> DONE
    DONE = 4  # answered, or nobody is left; no successor
