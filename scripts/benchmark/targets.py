"""What poold wants to reach, as data, and what became of it in a run."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from benchmark.figures import Cell, Place, Results
from benchmark.lineup import OWN, PGBOUNCER, POOLD, POOLD_ALONE, POOLD_CROWDED
from benchmark.settings import Settings

# Of the pools, where a target does not say otherwise.
BACKENDS = 8


@dataclass(frozen=True, slots=True)
class Target:
    """poold's figure divided by another contestant's, at one place."""

    workload: str
    workers: int
    figure: str  # a field of Figures
    other: str
    bound: float
    is_least: bool  # the ratio shall be at least the bound; else at most
    backends: int = BACKENDS
    delay_ms: float = 0.0

    def __str__(self) -> str:
        relation = ">=" if self.is_least else "<="
        network = f", {self.delay_ms:g} ms network" if self.delay_ms else ""
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        where = f"{self.workload}, {workers}, pools of {self.backends}{network}"
        return f"{where}: {TITLES[self.figure]} {relation} {self.bound:.3g} x that of {self.other}"

    def is_met(self, ratio: float) -> bool:
        return ratio >= self.bound if self.is_least else ratio <= self.bound


TITLES = {"per_second": "throughput", "p50_ms": "p50", "p99_ms": "p99", "server_mb": "server memory"}
TARGETS = (
    Target("tpcb", 64, "per_second", PGBOUNCER, 3.0, is_least=True),
    Target("tpcb", 64, "per_second", OWN, 3.0, is_least=True),
    Target("tpcb", 1, "p50_ms", PGBOUNCER, 0.35, is_least=False),
    Target("tpcb", 1, "p50_ms", OWN, 0.35, is_least=False),
    Target("select", 64, "per_second", PGBOUNCER, 1.3, is_least=True),
    Target("select", 64, "p99_ms", PGBOUNCER, 0.6, is_least=False),
    Target("select", 64, "per_second", OWN, 1.2, is_least=True),
    Target("rows", 16, "per_second", PGBOUNCER, 0.8, is_least=True),
    Target("select", 64, "server_mb", OWN, 1 / 6, is_least=False),
    Target("tpcb", 64, "server_mb", OWN, 1 / 6, is_least=False),
    Target("stalls", 16, "p99_ms", POOLD_ALONE, 1.2, is_least=False),
    # At least 95 % of the throughput are left with 936 others connected.
    Target("select", 64, "per_second", POOLD_CROWDED, 1 / 0.95, is_least=False),
    Target("tpcb", 64, "per_second", POOLD_CROWDED, 1 / 0.95, is_least=False),
    Target("select", 64, "per_second", PGBOUNCER, 4.0, is_least=True, backends=4, delay_ms=1.0),
)


def table(results: Results, settings: Settings) -> Table:
    """Each target, what was measured, and whether that is enough."""
    shown = Table(title="targets", title_justify="left", box=None, pad_edge=False)
    shown.add_column("target", no_wrap=True)
    shown.add_column("measured", justify="right", no_wrap=True)
    shown.add_column("")
    for target, ratio in outcomes(results, settings):
        if ratio is None:
            shown.add_row(str(target), "-", "not measured")
        else:
            shown.add_row(str(target), f"{ratio:.2f} x", "met" if target.is_met(ratio) else "[bold]missed[/]")
    return shown


def outcomes(results: Results, settings: Settings) -> Iterator[tuple[Target, float | None]]:
    """Each target with its ratio, None where this run did not measure it."""
    for target in TARGETS:
        cell = Cell(Place(target.workload, target.backends, target.workers), POOLD)
        is_here = target.delay_ms == settings.delay_ms and settings.connected <= target.workers
        yield target, results.ratio(cell, target.other, target.figure) if is_here else None
