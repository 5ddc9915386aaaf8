"""A connection as the core knows it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from model.books import Job
from model.postgres import Order, Session
from poold.core.pools.pool import Pool


@dataclass(eq=False)
class Line:
    """From the effect that opens it to its end."""

    number: int
    group: str
    endpoint: str
    pool: Pool | None = None  # None if the core has closed it in the very fact in which it was opened
    is_opening: bool = False  # Connect is carried out
    session: Session | None = None
    # Given and not yet told to be completed.
    orders: deque[Order] = field(default_factory=deque)
    given: int = 0
    ended: Job | None = None  # of the last unit
    cancel: str = ""  # decided, sent, spent (it has hit something); "" when settled
    is_closed: bool = False  # by the core
    # About COPY: the core has decided to read no more for now; the shell does so; bytes of a COPY that has failed that
    # the connection has still to take.
    is_held: bool = False
    is_paused: bool = False
    leftover: int = 0
