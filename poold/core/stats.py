"""Counters since start, and distributions of times over the last minutes.

A distribution counts times in buckets that grow by a fifth, so a percentile is right within ten percent and recording
costs one bisect. Two windows take turns, so what percentiles are shown of covers the last one to two minutes; the
counts of windows that are over are kept as one sum, so that all times since the start can be shown as well.
"""

from bisect import bisect_left
from collections.abc import Sequence
from enum import StrEnum
from itertools import accumulate

WINDOW = 60.0
# The classes of PostgreSQL's error codes. Functions may raise errors of any other, which count as one.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
ERROR_CLASSES = frozenset(
    {
        *("03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "20", "21", "22", "23", "24", "25", "26", "27", "28"),
        *("2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44", "53", "54", "55", "57", "58", "72"),
        *("F0", "HV", "P0", "XX"),
    }
)
OTHER_CLASS = "other"
# Errors without a code are the broker's own, and have their kind in its place.
KINDS = (
    *("commit-unknown", "connection", "expectation", "pool-timeout", "protocol", "result-too-large"),
    *("statement-refused", "too-many-requests", "transaction-lost", "unconfigured-group", "unserved", "usage"),
)
# These are told before there is any error of them: whoever compares two scrapes does not see the one with which a
# series begins.
USUAL_CLASSES = ("08", "22", "23", "25", "40", "42", "53", "55", "57", "XX", *KINDS)


def _bounds() -> tuple[float, ...]:
    """Return the upper bounds of the buckets in seconds, from 10 microseconds to 500 s; a last bucket takes the rest.

    1, 2.5 and 5 times each power of ten are among them, exactly, so that whoever wants fewer buckets can put some of
    these together.
    """
    found = [1e-5]
    for power in range(-5, 3):
        for low, high, steps in ((1.0, 2.5, 5), (2.5, 5.0, 4), (5.0, 10.0, 4)):
            if (power, high) == (2, 10.0):
                break
            start, end = float(f"{low}e{power}"), float(f"{high}e{power}")
            found += [start * (end / start) ** (step / steps) for step in range(1, steps)]
            found.append(end)
    return tuple(found)


BOUNDS = _bounds()
_PLACES = {bound: place for place, bound in enumerate(BOUNDS)}


class Times:
    """How long something took."""

    __slots__ = ("_current", "_past", "_previous", "_turned", "sum")

    def __init__(self) -> None:
        self._current = [0] * (len(BOUNDS) + 1)
        self._previous = [0] * (len(BOUNDS) + 1)
        self._past = [0] * (len(BOUNDS) + 1)  # of all windows before these
        self._turned = 0.0
        self.sum = 0.0  # of all times since the start, in seconds

    def record(self, seconds: float) -> None:
        """Count one time."""
        self._current[bisect_left(BOUNDS, seconds) if seconds else 0] += 1
        self.sum += seconds

    def add(self, counts: Sequence[int], seconds: float) -> None:
        """Count what somebody else has counted: how many times, by bucket, and their sum."""
        self._current = _sums(self._current, counts)
        self.sum += seconds

    def turn(self, now: float) -> None:
        """Begin a new window if the current one is over."""
        if now - self._turned >= WINDOW:
            self._past = _sums(self._past, self._previous)
            self._previous = self._current
            self._current = [0] * (len(BOUNDS) + 1)
            self._turned = now

    def up_to(self, bounds: Sequence[float]) -> list[int]:
        """Return how many times since the start were not above each of these, which are some of BOUNDS; then how many.

        Raises KeyError for another bound.
        """
        windows = zip(self._past, self._previous, self._current, strict=True)
        counts = list(accumulate([past + previous + current for past, previous, current in windows]))
        return [*(counts[place] for place in map(_PLACES.__getitem__, bounds)), counts[-1]]

    def percentiles_ms(self) -> dict[str, float | None]:
        """{'p50': milliseconds, 'p99': milliseconds}, None without any recorded time."""
        counts = _sums(self._current, self._previous)
        return {"p50": _percentile_ms(counts, 0.50), "p99": _percentile_ms(counts, 0.99)}


def _sums(some: Sequence[int], more: Sequence[int]) -> list[int]:
    return [one + other for one, other in zip(some, more, strict=True)]


def _percentile_ms(counts: list[int], share: float) -> float | None:
    total = sum(counts)
    if not total:
        return None
    place = min(bisect_left(list(accumulate(counts)), share * total), len(BOUNDS) - 1)
    # The middle of the bucket, in the geometric sense.
    middle: float = (BOUNDS[max(place - 1, 0)] * BOUNDS[place]) ** 0.5
    return round(middle * 1000, 4)


class Refusal(StrEnum):
    """Why a group does not accept a request."""

    CLIENT_LIMIT = "client_limit"  # max_client_requests, max_client_bytes
    MAX_BUFFERED_BYTES = "max_buffered_bytes"
    MAX_WAITING = "max_waiting"
    DRAINING = "draining"
    TRANSACTION_LOST = "transaction_lost"  # its transaction or session was over
    MISTAKE = "mistake"  # the program asked for what is not possible, as its message alone shows


class Use(StrEnum):
    """What a backend is held for, beyond one statement."""

    MESSAGE = "message"  # a transaction message, each try of it
    LEASE = "lease"  # an interactive transaction
    SESSION = "session"


class GroupStats:
    """One group's counters since start, and its times."""

    __slots__ = (
        "_marks",
        "errors_by_class",
        "in_doubt",
        "not_begun",
        "refused_for",
        "requests",
        "rerouted",
        "retries",
        "run_times",
        "timeouts",
        "transactions",
        "use_times",
        "wait_times",
        "withdrawn",
    )

    def __init__(self) -> None:
        self.requests = 0  # accepted
        self.transactions = 0  # of these: transaction messages, and statements with which a transaction begins
        self.not_begun = 0  # answered, or left by their client, without having begun on a backend
        # Answered with an error, accepted or not: by one of ERROR_CLASSES or KINDS, or OTHER_CLASS.
        self.errors_by_class = dict.fromkeys(USUAL_CLASSES, 0)
        self.refused_for = dict.fromkeys(Refusal, 0)  # not accepted
        self.timeouts = 0  # left the queue unexecuted at their deadline
        self.withdrawn = 0  # cancelled by their client, or left by a client that died
        self.rerouted = 0  # given to the primary instead of a replica
        self.retries = 0  # tries of transaction messages after the first
        self.in_doubt = 0  # transaction messages for which the outcome of COMMIT could not be found out
        # From arrival to when PostgreSQL begins with it: behind others in a pipeline that is when they have ended.
        self.wait_times = Times()
        self.run_times = Times()  # from then to the end
        self.use_times = {use: Times() for use in Use}  # from being given a backend to giving it back
        # When the last two windows of rates began, and the counters at that time.
        self._marks: list[tuple[float, int, int, int]] = []

    @property
    def errors(self) -> int:
        """Errors of all classes."""
        return sum(self.errors_by_class.values())

    @property
    def refused(self) -> int:
        """Requests that were not accepted, for any reason."""
        return sum(self.refused_for.values())

    def ran(self, seconds: float, is_message: bool) -> None:
        """Count a run, of a transaction message or of another request."""
        self.run_times.record(seconds)
        if is_message:
            self.use_times[Use.MESSAGE].record(seconds)

    def count_error(self, sqlstate: str | None, kind: str) -> None:
        """Count an answer that is an error, of this kind."""
        if sqlstate:
            found = sqlstate[:2] if sqlstate[:2] in ERROR_CLASSES else OTHER_CLASS
        else:
            found = kind if kind in KINDS else OTHER_CLASS
        self.errors_by_class[found] = self.errors_by_class.get(found, 0) + 1

    def turn(self, now: float) -> None:
        """Begin new windows of times and rates if the current ones are over."""
        self.wait_times.turn(now)
        self.run_times.turn(now)
        if not self._marks or now - self._marks[-1][0] >= WINDOW:
            self._marks = [*self._marks[-1:], (now, self.requests, self.errors, self.transactions)]

    def rates(self, now: float) -> dict[str, float | None]:
        """How many per second over the last one to two minutes, and over how many seconds that is."""
        names = ("requests", "errors", "transactions")
        if not self._marks or now <= self._marks[0][0]:
            return {"seconds": 0.0, **dict.fromkeys(names)}
        since, *before = self._marks[0]
        counts = (self.requests, self.errors, self.transactions)
        shown = {
            name: round((count - old) / (now - since), 3)
            for name, count, old in zip(names, counts, before, strict=True)
        }
        return {"seconds": round(now - since, 1), **shown}


class PoolStats:
    """One pool's counters since start."""

    __slots__ = ("closed", "connect_times", "failed", "joined", "lost", "opened", "requests")

    def __init__(self) -> None:
        self.requests = 0  # statements and transaction messages run
        self.joined = 0  # of these, sent to a backend that was running others
        self.opened = 0  # connects that succeeded
        self.connect_times = Times()  # of these
        self.failed = 0  # connects that did not
        self.closed = 0  # closed by the broker
        self.lost = 0  # connections that PostgreSQL or the network closed
