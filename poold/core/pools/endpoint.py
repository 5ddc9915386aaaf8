"""One PostgreSQL address: what all groups know of it. Whether a group can connect there: `availability`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Endpoint:
    """One PostgreSQL address and its time limits in seconds; query_timeout 0 is no limit."""

    name: str
    query_timeout: float = 0.0
    connect_timeout: float = 10.0
