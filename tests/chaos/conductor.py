"""The conductor: which fault comes when, and how long it takes until all is well again."""

import time
from collections import defaultdict
from contextlib import ExitStack
from statistics import median

from faults import COMPANIONS, FIRST, OTHERS, Fault, nothing
from stage import LIVENESS, Stage

# How long a fault lasts, and how long all is well between two, in seconds: long enough for requests to begin in it.
LASTS = 0.2, 1.5
CALM = 0.1, 0.5
# Of how many faults another comes in the middle.
ACCOMPANIED = 0.25


class Conductor:
    """Plays rounds of all faults, each round in another order."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._chance = stage.chance
        # Per fault: how long after its end the first request, and a request of each group, was answered.
        self.recoveries: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def play(self, seconds: float) -> None:
        """At least one round, and more until so much time has passed. The broker lives through the second half."""
        begin = time.monotonic()
        until = begin + seconds
        rounds = 0
        while rounds == 0 or time.monotonic() < until:
            first = FIRST if rounds == 0 or time.monotonic() < begin + seconds / 2 else ()
            for fault in (*first, *self._chance.sample(OTHERS, len(OTHERS))):
                if rounds and time.monotonic() >= until:
                    break
                self._calm()
                self._strike(fault)
            rounds += 1

    def lines(self) -> list[str]:
        """A table of the recoveries."""
        rows = [f"{'recovered, seconds after the end of':40} {'times':>5} {'first':>13} {'all groups':>13}"]
        for name, found in sorted(self.recoveries.items()):
            first, last = ([each[place] for each in found] for place in (0, 1))
            rows.append(f"{name:40} {len(found):5} {_span(first):>13} {_span(last):>13}")
        return rows

    def _strike(self, fault: Fault) -> None:
        """One fault, or two at once, until all groups serve again."""
        faults = [fault]
        if self._chance.random() < ACCOMPANIED:
            faults.append(self._chance.choice([each for each in COMPANIONS if each is not fault]))
        lasts = False
        with ExitStack() as ends:
            for each in faults:
                end = ends.callback(each(self._stage))
                lasts = lasts or end is not nothing
                if each is not faults[-1]:
                    self._calm()
            if lasts:
                time.sleep(self._chance.uniform(*LASTS))
        recovery = self._stage.probes.wait_served(LIVENESS)
        self.recoveries[fault.__name__ if len(faults) == 1 else "two at once"].append(recovery)
        self._stage.fill()

    def _calm(self) -> None:
        time.sleep(self._chance.uniform(*CALM))


def _span(times: list[float]) -> str:
    """The median and the longest."""
    return f"{median(times):.2f} ({max(times):.1f})"
