"""Whether it is worth connecting to an endpoint, as one group knows it.

A failed connect quarantines the endpoint for a pause that doubles with each failure in a row. After the pause it is
probed with one connection; a connect that succeeds makes it available again from any state. Backends that are open
there stay in use meanwhile: a server that refuses one more connection (a limit of a role, or its own) still serves
those that it has. Each group has its own view: a connect may fail because of something that only one group asks for
(`sqlprepare`), and that must not close the endpoint to the others.
"""

from enum import IntEnum

# The first pause covers PostgreSQL's restart; the longest limits how long a returned server goes unnoticed. Jitter of
# 20 % either way keeps the brokers of many hosts from connecting in step.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
# The longest if backends are open there: the server runs, and may have room again at any moment.
LONGEST_PAUSE_BESIDE = 2.0
JITTER = 0.2


class AvailabilityState(IntEnum):
    """Whether to connect to the endpoint."""

    AVAILABLE = 0  # connects succeed, or none was tried; -> QUARANTINED
    QUARANTINED = 1  # a connect failed, none is begun before `until`; -> PROBING, AVAILABLE
    PROBING = 2  # the pause is over, one connect may try; -> AVAILABLE, QUARANTINED


class Availability:
    """An endpoint's state for one group, how many connects failed in a row, and the last error."""

    def __init__(self) -> None:
        self.state = AvailabilityState.AVAILABLE
        self.failures = 0
        self.error = ""
        self.until = 0.0

    def opened(self) -> bool:
        """A connect succeeded. Returns whether the endpoint was not available before."""
        was_away = self.state is not AvailabilityState.AVAILABLE
        self.state = AvailabilityState.AVAILABLE
        self.failures = 0
        return was_away

    def failed(self, error: str, now: float, chance: float, is_beside: bool = False) -> bool:
        """A connect failed; chance is a random number in [0, 1). Returns whether a pause begins.

        is_beside: other backends are open there.
        Connects that were under way together fail together: only the first of them lengthens the pause.
        """
        self.error = error
        if self.state is AvailabilityState.QUARANTINED:
            return False
        self.state = AvailabilityState.QUARANTINED
        self.failures += 1
        # The exponent is bounded: 2**1100 is no float.
        longest = LONGEST_PAUSE_BESIDE if is_beside else LONGEST_PAUSE
        pause = min(FIRST_PAUSE * 2 ** min(self.failures - 1, 16), longest)
        self.until = now + pause * (1 - JITTER + 2 * JITTER * chance)
        return True

    def probe(self) -> None:
        """The pause is over: one connect may try."""
        if self.state is AvailabilityState.QUARANTINED:
            self.state = AvailabilityState.PROBING
