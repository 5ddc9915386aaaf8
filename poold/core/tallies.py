"""What each statement of a group has cost: how often it ran, its errors and rows, its times and their distribution.

Statements that differ by values alone are one (`client.wire.masking`), and so are those of a transaction message, or of
a batch, by its shape. As many are kept as `KEPT`; if there are more, the tenth of them that ran least is forgotten and
counted among the others, so nothing of the sums is lost. A statement is counted when its request is answered, so the
calls of all and the requests that were answered without having begun are the requests that were answered.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate

from poold.core.stats import BOUNDS

# Statements kept in each group: about 2.5 MB if all texts are of the longest.
KEPT = 1000
# Buckets are pairs of those of `stats.Times`, so that whoever has counted by those need not look again: each is 1.44
# times as long as the one before, and a percentile is right within a fifth.
BUCKETS = (len(BOUNDS) + 2) // 2
UPPER = tuple(BOUNDS[2 * place + 1] for place in range(BUCKETS - 1))

STATEMENT, TRANSACTION, BATCH = "statement", "transaction", "batch"


class Tally:
    """The sums of one statement."""

    __slots__ = ("buckets", "calls", "errors", "is_prepared", "kind", "lane", "rows", "seconds", "text")

    def __init__(self, kind: str, text: bytes) -> None:
        self.kind = kind  # STATEMENT, TRANSACTION or BATCH
        self.text = text  # masked
        self.calls = 0
        self.errors = 0  # of these
        self.rows = 0  # that it has returned or changed
        self.seconds = 0.0  # that backends have worked for it
        self.lane = 0  # how many of its calls the lane has run
        self.is_prepared = False  # whether it ran prepared the last time
        self.buckets = [0] * BUCKETS

    def add(self, calls: int, rows: int, seconds: float, buckets: Iterable[tuple[int, int]]) -> None:
        """Add so many calls, which took so long together; buckets are the places of some, each with its count."""
        self.calls += calls
        self.rows += rows
        self.seconds += seconds
        for place, count in buckets:
            self.buckets[place] += count

    def swallow(self, other: Tally) -> None:
        """Add all of another one's."""
        self.add(other.calls, other.rows, other.seconds, enumerate(other.buckets))
        self.errors += other.errors
        self.lane += other.lane

    def percentile_ms(self, share: float) -> float | None:
        """The time that this share of the calls did not exceed, in milliseconds; None without any call."""
        if not self.calls:
            return None
        place = bisect_left(list(accumulate(self.buckets)), share * self.calls)
        return round(UPPER[min(place, BUCKETS - 2)] / 1.2 * 1000, 4)  # the middle of the bucket, in the geometric sense

    def __repr__(self) -> str:
        return f"<Tally {self.text[:40].decode(errors='replace')} calls={self.calls}>"


class Tallies:
    """The sums of one group's statements."""

    def __init__(self) -> None:
        # Enter when first counted; leave for the others when there are too many, and all of them by `reset`.
        self._known: dict[tuple[str, bytes], Tally] = {}
        self.others = Tally(STATEMENT, b"")
        self.forgotten = 0  # how many statements the others are
        self.since: float | None = None  # when all began anew; None if never

    def __iter__(self) -> Iterator[Tally]:
        return iter(self._known.values())

    def __len__(self) -> int:
        return len(self._known)

    def find(self, kind: str, text: bytes) -> Tally:
        """The sums of this statement, known or new."""
        found = self._known.get((kind, text))
        if found is None:
            if len(self._known) >= KEPT:
                self._forget_some()
            found = self._known[kind, text] = Tally(kind, text)
        return found

    def count(self, tally: Tally, seconds: float, rows: int, is_error: bool) -> None:
        """Count one call."""
        tally.calls += 1
        tally.errors += is_error
        tally.rows += rows
        tally.seconds += seconds
        tally.buckets[bisect_left(UPPER, seconds) if seconds else 0] += 1

    def total(self) -> Tally:
        """The sums of all. O(statements)."""
        found = Tally(STATEMENT, b"")
        for each in (*self._known.values(), self.others):
            found.swallow(each)
        return found

    def reset(self, now: float) -> None:
        """Forget all, and begin anew."""
        self._known.clear()
        self.others = Tally(STATEMENT, b"")
        self.forgotten = 0
        self.since = now

    def _forget_some(self) -> None:
        """Count the tenth that ran least among the others; of those that ran equally often the oldest go."""
        least = sorted(self._known.items(), key=lambda each: each[1].calls)[: KEPT // 10]
        for key, tally in least:
            self.others.swallow(tally)
            del self._known[key]
        self.forgotten += len(least)
