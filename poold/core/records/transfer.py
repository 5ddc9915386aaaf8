"""The data of one COPY on its way between a client and a backend."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Transfer:
    """What has passed of a COPY's data, and whether more may; belongs to the request that runs the COPY.

    is_in: from the client to PostgreSQL; else the other way.
    """

    is_in: bool
    is_begun: bool = False  # PostgreSQL waits for the data, or sends it
    is_over: bool = False  # the client has said that there is no more, or the request was cancelled
    is_cut: bool = False  # data that PostgreSQL sent after a cancel was thrown away
    is_complete: bool = False  # the client has given all of it to PostgreSQL
    pending: int = 0  # bytes that were sent to the receiving side and that it has not taken yet
    is_held: bool = False  # nothing is read from the backend until the client has taken more
    moved: float = 0.0  # when data last passed
