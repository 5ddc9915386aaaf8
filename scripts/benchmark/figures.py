"""What was measured: the figures of a cell in each round, their medians, and poold's ratio to the others.

A machine's speed drifts, so rounds are compared pairwise: a ratio is the median of the ratios within each round.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from statistics import median
from typing import Any, NamedTuple

# Figures of which poold's ratio to others says something.
COMPARED = ("per_second", "p50_ms", "p99_ms", "short_p99_ms", "server_mb")


class Place(NamedTuple):
    """What is done, and by how many: there all contestants are compared."""

    workload: str
    backends: int
    workers: int


class Cell(NamedTuple):
    """One line of the table."""

    place: Place
    contestant: str

    def __str__(self) -> str:
        workload, backends, workers = self.place
        return f"{self.contestant}: {workload}, {workers} workers, {backends} backends"


@dataclass(frozen=True, slots=True)
class Figures:
    """One cell in one round, or its medians. The times of processors are microseconds per request."""

    per_second: float
    p50_ms: float
    p99_ms: float
    short_p99_ms: float | None  # of requests not counted apart; None where the workload has one kind
    clients_us: float
    middle_us: float | None  # the broker or pgbouncer; None where nothing is between
    server_us: float
    network_us: float | None  # the process that delays; None where none does
    server_mb: float  # anonymous memory of the backends that serve clients
    server_backends: float  # how many these are
    middle_mb: float | None  # resident memory of the broker or pgbouncer
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

    def others_percent(self) -> tuple[float, float]:
        """What other processes used of the machine, median and most: above a few percent the figures are doubtful."""
        shares = [figures.others_percent for rounds in self.cells.values() for figures in rounds]
        return median(shares), max(shares)

    def ratio(self, cell: Cell, other: str, name: str) -> float | None:
        """The cell's figure of that name divided by the other contestant's; None where one of them was not measured."""
        ours = self.cells.get(cell)
        theirs = self.cells.get(cell._replace(contestant=other))
        if not ours or not theirs:
            return None
        pairs = [(getattr(our, name), getattr(their, name)) for our, their in zip(ours, theirs, strict=True)]
        if any(our is None or not their for our, their in pairs):
            return None
        return float(median(our / their for our, their in pairs))
