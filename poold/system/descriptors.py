"""How many files this process may have open, and which of them are kept for those who come when all others are taken.

A descriptor gets the lowest number that is free, so one with a high number says that all below it were taken. Neither
backends nor crowds of clients keep one of the highest, and cancels and questions to servers, which may be many at once
where a network is down, none of the very highest: so there is always one for `poold stats`, or a file to be read.
"""

from __future__ import annotations

import resource

# So many of the highest descriptors are kept from backends and crowds; and from whatever is done for them.
KEPT = 32
LAST = 8
# Of a process without a limit.
_UNLIMITED = 1 << 30
WAYS = "raise the limit (ulimit -n, LimitNOFILE= of systemd)"


def limit() -> int:
    """Return how many descriptors the process may have; raises the soft limit to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in (soft, hard):
        return _UNLIMITED if soft == resource.RLIM_INFINITY else soft
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def is_kept(descriptor: int, count: int = KEPT) -> bool:
    """Whether it is one of so many highest that the process may have."""
    return descriptor >= limit() - count
