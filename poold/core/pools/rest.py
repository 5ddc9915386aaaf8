"""The next use of a backend at rest, that is, one that runs nothing and that no cancel is on its way to."""

from __future__ import annotations

from enum import IntEnum

from client.wire.messages import TX_BROKEN, TX_NONE
from poold.core.records.backend import Backend
from poold.core.statements.leftovers import NOTHING


class Disposition(IntEnum):
    """What is done with a backend at rest."""

    COUNT = 0  # ask it how many transactions there were: a request that failed there waits for that
    LEASED = 1  # its lease goes on
    CLOSE = 2  # nobody can use it
    RESET = 3  # a transaction is open that nobody owns, or something may be left in the session
    IDLE = 4  # it is free


# As plain globals: reading a member from an Enum costs five times as much.
COUNT, LEASED, CLOSE = Disposition.COUNT, Disposition.LEASED, Disposition.CLOSE
RESET, IDLE = Disposition.RESET, Disposition.IDLE


def disposition(backend: Backend) -> Disposition:
    """What is done with this backend at rest; in the last three cases its lease, if it has one, is over."""
    lease, transaction = backend.lease, backend.transaction
    if transaction == TX_NONE and lease is None and backend.left is NOTHING and backend.counting is None:
        return IDLE  # nearly always
    if backend.counting is not None:
        return COUNT
    if transaction == TX_BROKEN:
        return CLOSE
    if lease is not None and (lease.is_session or transaction != TX_NONE):
        return LEASED
    if transaction != TX_NONE or backend.left is not NOTHING:
        return RESET
    return IDLE
