"""How much of the broker's time metrics may take: a share in the long run, and a little at once."""

from __future__ import annotations

# Of all time. A scrape takes a few milliseconds and comes every few seconds, so only who floods ever reaches it.
SHARE = 0.05
# Seconds that are there after a while without any work.
MOST = 0.05


class Budget:
    """The time that may be used, in seconds; below 0 it was used in advance."""

    def __init__(self, now: float) -> None:
        self._left = MOST
        self._at = now

    def use(self, seconds: float, now: float) -> None:
        """Take note of work that has been done."""
        self._left = min(MOST, self._left + (now - self._at) * SHARE) - seconds
        self._at = now

    def rest(self, now: float) -> float:
        """Return how long nothing may be done, 0 if something may."""
        return max(0.0, -(self._left + (now - self._at) * SHARE) / SHARE)
