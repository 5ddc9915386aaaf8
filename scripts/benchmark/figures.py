"""What was measured: the figures of a cell in each round, their medians, and poold's ratio to the others.

A machine's speed drifts, so rounds are compared pairwise: a ratio is the median of the ratios within each round.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from statistics import mean, median
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """One place in the table."""

    workload: str
    workers: int
    contestant: str


@dataclass(frozen=True, slots=True)
class Figures:
    """One cell in one round, or its medians. The times of processors are microseconds per request."""

    per_second: float
    p50_ms: float
    p99_ms: float
    clients_us: float
    middle_us: float | None  # the broker or pgbouncer; None where nothing is between
    server_us: float
    others_percent: float  # of all processors' time, used by processes that are no part of this


def medians(rounds: Sequence[Figures]) -> Figures:
    """Each figure's median by itself."""
    columns: dict[str, Any] = {}
    for name in (each.name for each in fields(Figures)):
        values = [getattr(figures, name) for figures in rounds]
        columns[name] = None if None in values else median(values)
    return Figures(**columns)


@dataclass(slots=True)
class Results:
    """All cells of a run; each has one entry per round."""

    cells: dict[Cell, list[Figures]] = field(default_factory=dict)

    def add(self, cell: Cell, figures: Figures) -> None:
        """Add the next round's."""
        self.cells.setdefault(cell, []).append(figures)

    def others_percent(self) -> float:
        """What other processes used of the machine, on average: above a few percent the figures are doubtful."""
        return mean(figures.others_percent for rounds in self.cells.values() for figures in rounds)

    def throughput_ratio(self, cell: Cell, other: str) -> float | None:
        """The cell's requests per second divided by the other contestant's; None where that was not measured."""
        theirs = self.cells.get(cell._replace(contestant=other))
        if theirs is None or cell not in self.cells:
            return None
        pairs = zip(self.cells[cell], theirs, strict=True)
        return median(ours.per_second / others.per_second for ours, others in pairs)
