"""The states of the broker, of a backend and of a request, and which may follow which.

A backend runs one statement, or several autocommit ones that wait in its connection one behind the other. Cancelling is
the one delicate part: PostgreSQL's cancel names the connection, not the statement, so a cancel on its way may hit
whatever runs there when it arrives. Before the backend may be given anything else, all that it runs must have ended and
the cancel must be settled, in either order:

    ACTIVE --cancel--> CANCELLING --completed--> SETTLING --cancelled--> at rest
                            \\----cancelled----> ACTIVE   --completed--> at rest

A neighbour of the cancelled statement that was hit instead has failed without effect, and is run again.

An idle backend may be lent to the lane (LENT), which gives requests to it and takes their answers by itself. It comes
back at rest, or with all that it runs.

At rest a backend goes to IDLE, to LEASED (its lease goes on), to ACTIVE (its lease has a next statement), to RESETTING
(a transaction is open that nobody owns) or is closed.
"""

from enum import IntEnum


class BrokerState(IntEnum):
    """Whether the broker takes work."""

    RUNNING = 0
    DRAINING = 1  # takes no new work, finishes what it has
    STOPPED = 2
    DRAINED = 3  # takes no new work by an operator's word, and stays


class BackendState(IntEnum):
    """The state of a backend; it names the collection of its pool that holds the backend."""

    CONNECTING = 0  # being opened; -> IDLE, CLOSED
    IDLE = 1  # free, no transaction open; -> ACTIVE, LENT, CLOSED
    ACTIVE = 2  # runs requests' statements, or a probe of the broker's; -> at rest, CANCELLING
    LEASED = 3  # inside a lease, waits for its client's next statement; -> ACTIVE, RESETTING, IDLE, CLOSED
    CANCELLING = 4  # runs a statement that a cancel is on its way to; -> SETTLING, ACTIVE, CLOSED
    SETTLING = 5  # runs nothing, a cancel may still arrive; -> at rest
    RESETTING = 6  # runs the broker's ROLLBACK; -> IDLE, CLOSED
    LENT = 7  # the lane's, which may run requests on it; -> IDLE, ACTIVE, CLOSED
    CLOSED = 8  # gone, in no collection; no successor


_S = BackendState
_AT_REST = (_S.IDLE, _S.LEASED, _S.ACTIVE, _S.RESETTING, _S.CLOSED)

# Indexed by state: its legal successors.
TRANSITIONS: tuple[tuple[BackendState, ...], ...] = (
    (_S.IDLE, _S.CLOSED),
    (_S.ACTIVE, _S.LENT, _S.CLOSED),
    (*_AT_REST, _S.CANCELLING),
    (_S.ACTIVE, _S.RESETTING, _S.IDLE, _S.CLOSED),
    (_S.SETTLING, _S.ACTIVE, _S.CLOSED),
    _AT_REST,
    (_S.IDLE, _S.CLOSED),
    (_S.IDLE, _S.ACTIVE, _S.CLOSED),
    (),
)


class RequestState(IntEnum):
    """The state of a request. In all states before RUNNING it waits."""

    ARRIVED = 0  # nowhere yet, or to be run again; -> QUEUED, PENDING, HELD, PAUSED, ASKING, RUNNING, DONE
    QUEUED = 1  # in its group's queue; -> HELD, RUNNING, DONE
    PENDING = 2  # behind another statement of its lease; -> RUNNING, DONE
    HELD = 3  # its turn has come, but its client leaves replies unread; -> QUEUED, DONE
    PAUSED = 4  # waits for its next try, or for a replica to catch up; -> QUEUED, HELD, ASKING, RUNNING, DONE
    ASKING = 5  # a question of the broker's own that waits for a backend of its server; -> RUNNING, DONE
    RUNNING = 6  # on a backend; -> ARRIVED (to be run again), PAUSED, ASKING, IN_DOUBT, CANCELLED, WITHDRAWN, DONE
    CANCELLED = 7  # on a backend, to be cancelled; the reply is still owed; -> IN_DOUBT, WITHDRAWN, DONE
    WITHDRAWN = 8  # on a backend, to be cancelled; nobody is left to reply to; -> DONE
    IN_DOUBT = 9  # its backend was lost during COMMIT, PostgreSQL is asked about it; -> ARRIVED, WITHDRAWN, DONE
    DONE = 10  # answered, or nobody is left; no successor


_R = RequestState
# Indexed by state: its legal successors.
REQUEST_TRANSITIONS: tuple[tuple[RequestState, ...], ...] = (
    (_R.RUNNING, _R.QUEUED, _R.PENDING, _R.HELD, _R.PAUSED, _R.ASKING, _R.DONE),
    (_R.RUNNING, _R.HELD, _R.DONE),
    (_R.RUNNING, _R.DONE),
    (_R.QUEUED, _R.DONE),
    (_R.RUNNING, _R.QUEUED, _R.HELD, _R.ASKING, _R.DONE),
    (_R.RUNNING, _R.DONE),
    (_R.DONE, _R.ARRIVED, _R.PAUSED, _R.ASKING, _R.IN_DOUBT, _R.CANCELLED, _R.WITHDRAWN),
    (_R.IN_DOUBT, _R.WITHDRAWN, _R.DONE),
    (_R.DONE,),
    (_R.ARRIVED, _R.WITHDRAWN, _R.DONE),
    (),
)


# Members used for every request, as plain globals: reading a member from an Enum costs five times as much.
IDLE, ACTIVE, CANCELLING = BackendState.IDLE, BackendState.ACTIVE, BackendState.CANCELLING
LENT, CLOSED, DRAINING = BackendState.LENT, BackendState.CLOSED, BrokerState.DRAINING
QUEUED, RUNNING = RequestState.QUEUED, RequestState.RUNNING
CANCELLED, WITHDRAWN, DONE = RequestState.CANCELLED, RequestState.WITHDRAWN, RequestState.DONE
