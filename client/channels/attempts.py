"""Attempts at what no broker serves at the moment: one may be on its way up, or about to take over."""

from __future__ import annotations

import time

from client.channels.timeouts import CONNECT_AGAIN, CONNECT_SELDOM


class Attempts:
    """The attempts within so many seconds, which begin now.

    at_once: so many more follow the first one without a wait, however few the seconds are. A broker that ends has let
    go of its address before it refuses anything, so a broker that has taken over serves the next attempt.
    """

    def __init__(self, seconds: float, at_once: int = 0) -> None:
        self._until = time.monotonic() + seconds
        self._pause = CONNECT_AGAIN
        self._at_once = at_once

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return max(0.0, self._until - time.monotonic())

    def another(self) -> bool:
        """Wait, if need be, and return True; False at once if the time is over. The last attempt is at its end."""
        if self._at_once:
            self._at_once -= 1
            return True
        left = self.left
        if not left:
            return False
        time.sleep(min(self._pause, left))
        self._pause = min(2 * self._pause, CONNECT_SELDOM)
        return True
