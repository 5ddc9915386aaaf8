"""Counters since start, and distributions of times over the last minutes.

A distribution counts times in buckets that grow by a fifth, so a percentile is right within ten percent and recording
costs one bisect. Two windows take turns, so what is shown covers the last one to two minutes.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

# Upper bounds of the buckets in seconds, from 10 microseconds to about 9 minutes; a last bucket takes the rest.
BOUNDS = tuple(1e-5 * 1.2**step for step in range(98))
WINDOW = 60.0


class Times:
    """How long something took."""

    __slots__ = ("_current", "_previous", "_turned")

    def __init__(self) -> None:
        self._current = [0] * (len(BOUNDS) + 1)
        self._previous = [0] * (len(BOUNDS) + 1)
        self._turned = 0.0

    def record(self, seconds: float) -> None:
        """Count one time."""
        self._current[bisect_left(BOUNDS, seconds) if seconds else 0] += 1

    def add(self, counts: Sequence[int]) -> None:
        """Count what somebody else has counted: how many times, by bucket."""
        self._current = [own + more for own, more in zip(self._current, counts, strict=True)]

    def turn(self, now: float) -> None:
        """Begin a new window if the current one is over."""
        if now - self._turned >= WINDOW:
            self._previous = self._current
            self._current = [0] * (len(BOUNDS) + 1)
            self._turned = now

    def percentiles_ms(self) -> dict[str, float | None]:
        """{'p50': milliseconds, 'p99': milliseconds}, None without any recorded time."""
        counts = [new + old for new, old in zip(self._current, self._previous, strict=True)]
        return {"p50": _percentile_ms(counts, 0.50), "p99": _percentile_ms(counts, 0.99)}


def _percentile_ms(counts: list[int], share: float) -> float | None:
    total = sum(counts)
    if not total:
        return None
    place = bisect_left(list(accumulate(counts)), share * total)
    # The middle of the bucket, in the geometric sense.
    middle: float = BOUNDS[min(place, len(BOUNDS) - 1)] / 1.2**0.5
    return round(middle * 1000, 4)


class GroupStats:
    """One group's counters since start, and its times."""

    __slots__ = (
        "errors",
        "in_doubt",
        "refused",
        "requests",
        "rerouted",
        "retries",
        "run_times",
        "timeouts",
        "wait_times",
        "withdrawn",
    )

    def __init__(self) -> None:
        self.requests = 0  # accepted
        self.errors = 0  # answered with an error of PostgreSQL, or of a lost connection
        self.refused = 0  # not accepted: max_waiting, draining
        self.timeouts = 0  # left the queue unexecuted at their deadline
        self.withdrawn = 0  # cancelled by their client, or left by a client that died
        self.rerouted = 0  # given to the primary instead of a replica
        self.retries = 0  # tries of transaction messages after the first
        self.in_doubt = 0  # transaction messages for which the outcome of COMMIT could not be found out
        self.wait_times = Times()  # from arrival to start
        self.run_times = Times()  # from start to end


class PoolStats:
    """One pool's counters since start."""

    __slots__ = ("closed", "failed", "joined", "lost", "opened", "requests")

    def __init__(self) -> None:
        self.requests = 0  # statements and transaction messages run
        self.joined = 0  # of these, sent to a backend that was running others
        self.opened = 0  # connects that succeeded
        self.failed = 0  # connects that did not
        self.closed = 0  # closed by the broker
        self.lost = 0  # connections that PostgreSQL or the network closed
