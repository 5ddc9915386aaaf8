"""Pictures of the results: throughput and p99 over the number of workers, a line for each contestant."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmark.figures import Cell, Results, medians
from benchmark.lineup import names
from benchmark.workloads import WORKLOADS

SIZE_INCHES = (8.0, 5.0)
DPI = 120
MARKERS = "osD^vP*X"


@dataclass(frozen=True, slots=True)
class Kind:
    """One picture of a workload."""

    name: str
    figure: str  # a field of Figures
    label: str
    is_log: bool  # latencies span orders of magnitude, throughput is compared by height


KINDS = (
    Kind("throughput", "per_second", "requests per second", is_log=False),
    Kind("p99", "p99_ms", "99th percentile of latency, milliseconds", is_log=True),
    Kind("short-p99", "short_p99_ms", "99th percentile of the short requests' latency, milliseconds", is_log=True),
)


def write(results: Results, folder: Path, conditions: str) -> list[Path]:
    """Write all of them; conditions is shown with each title. Nothing where only one number of workers was measured."""
    if len({cell.place.workers for cell in results.cells}) < 2:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    return list(_write_all(results, folder, conditions))


def _write_all(results: Results, folder: Path, conditions: str) -> Iterator[Path]:
    for (workload, backends), cells in groupby(results.cells, key=lambda cell: cell.place[:2]):
        lines = _lines(list(cells))
        for kind in KINDS:
            points = {name: list(_points(results, line, kind)) for name, line in lines.items()}
            if any(points.values()):
                path = folder / f"{workload}-{kind.name}-{backends}-backends.png"
                title = f"{workload}: {WORKLOADS[workload].summary}\npools of {backends}, {conditions}"
                _draw(path, title, kind, points)
                yield path


def _lines(cells: list[Cell]) -> dict[str, list[Cell]]:
    """The cells of each contestant."""
    lines: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.place.workers):
        lines.setdefault(cell.contestant, []).append(cell)
    return lines


def _points(results: Results, line: list[Cell], kind: Kind) -> Iterator[tuple[int, float]]:
    for cell in line:
        value = getattr(medians(results.cells[cell]), kind.figure)
        if value is not None:
            yield cell.place.workers, value


def _draw(path: Path, title: str, kind: Kind, points: dict[str, list[tuple[int, float]]]) -> None:
    # Without pyplot nothing is shown and no display is wanted: savefig draws with Agg.
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    for name, line in points.items():
        place = names().index(name)  # a contestant looks the same in each picture
        workers, values = zip(*line, strict=True) if line else ((), ())
        axes.plot(workers, values, label=name, color=f"C{place}", marker=MARKERS[place % len(MARKERS)])
    _scale(axes, kind, sorted({workers for line in points.values() for workers, _ in line}))
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("workers (processes)")
    axes.set_ylabel(kind.label)
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=DPI)


def _scale(axes: Any, kind: Kind, workers: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(workers, [str(count) for count in workers])
    axes.minorticks_off()
    if kind.is_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:,.0f}")
