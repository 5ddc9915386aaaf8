"""One PostgreSQL address: what is known of it for all groups. Whether each can connect there is `availability`'s."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Endpoint:
    """One PostgreSQL address, and how long its servers are waited for, in seconds (0: for any time)."""

    name: str
    query_timeout: float = 0.0
    connect_timeout: float = 10.0
