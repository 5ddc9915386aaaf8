"""Log lines about what strangers do, limited in number: strangers must not decide how much is logged."""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

# How many lines may be logged at once, and how many per second after that.
BURST = 50
RATE = 5.0
# For how many seconds lines that are left out are counted before that is told: soon enough for whoever reads along, and
# few lines beside those that RATE lets pass.
COUNTED_FOR = 5.0

# Logs that have left lines out and not told it yet.
_untold: "dict[RateLimitedLog, None]" = {}


class RateLimitedLog:
    """Logs warnings; if there are many, only some are logged and the others are counted.

    The count is logged COUNTED_FOR seconds after the first of them, by a timer of the running loop; without one, with
    the first warning after that.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = monotonic, loop: Any = None) -> None:
        """loop is that of the timer, None for the running one."""
        self._log = log
        self._clock = clock
        self._loop = loop
        self._room = float(BURST)  # lines that may be logged now
        self._at = clock()  # when _room was computed
        self._left_out = 0
        self._since = 0.0  # when the first of them was
        self._timer: asyncio.TimerHandle | None = None  # that will tell them

    def warning(self, text: str, *values: object) -> None:
        """Log the warning, or only count it."""
        now = self._clock()
        self._room = min(BURST, self._room + (now - self._at) * RATE)
        self._at = now
        if self._left_out and now - self._since >= COUNTED_FOR:
            self.tell()
        if self._room < 1:
            if not self._left_out:
                self._since = now
                _untold[self] = None
                self._wait()
            self._left_out += 1
            return
        self._room -= 1
        self._log.warning(text, *values)

    def tell(self) -> None:
        """Log how many were left out, if any were."""
        if self._left_out:
            self._log.warning("warnings left out count=%d", self._left_out)
        self._left_out = 0
        _untold.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        loop = self._loop
        if loop is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                return
        self._timer = loop.call_later(COUNTED_FOR, self.tell)


def tell_all() -> None:
    """Log what is counted and not told yet, as the process ends."""
    for each in list(_untold):
        each.tell()
