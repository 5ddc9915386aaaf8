"""Log lines about what strangers do, limited in number: strangers must not decide how much is logged."""

import logging
from collections.abc import Callable
from time import monotonic

# How many lines may be logged at once, and how many per second after that.
BURST = 50
RATE = 5.0


class RateLimitedLog:
    """Logs warnings; if there are many, only some are logged and the others are counted."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = monotonic) -> None:
        self._log = log
        self._clock = clock
        self._room = float(BURST)  # lines that may be logged now
        self._at = clock()  # when _room was computed
        self._left_out = 0

    def warning(self, text: str, *values: object) -> None:
        """Log the warning, or only count it."""
        now = self._clock()
        self._room = min(BURST, self._room + (now - self._at) * RATE)
        self._at = now
        if self._room < 1:
            self._left_out += 1
            return
        self._room -= 1
        if self._left_out:
            self._log.warning("warnings left out count=%d", self._left_out)
            self._left_out = 0
        self._log.warning(text, *values)
