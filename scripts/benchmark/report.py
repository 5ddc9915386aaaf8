"""The results for people, as tables, and for programs, as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from benchmark.figures import Cell, Figures, Results, medians

CAPTION = (
    "medians of the rounds; CPU: microseconds per request; poold is: its throughput relative to this row's, the median "
    "of the ratios within each round"
)
COLUMNS = ("per second", "p50 ms", "p99 ms", "clients CPU", "between CPU", "server CPU", "poold is")
# Where nobody looks at a terminal, tables are not squeezed into 80 columns.
PIPED_WIDTH = 120


def console() -> Console:
    """For this process's output."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=PIPED_WIDTH)


def tables(results: Results, hero: str, missing: Sequence[str]) -> Group:
    """A table for each workload. hero's ratio to each other contestant is shown; missing ones are not installed."""
    parts = []
    for workload, cells in groupby(results.cells, key=lambda cell: cell.workload):
        table = Table(title=workload, title_justify="left", box=None, pad_edge=False)
        table.add_column("workers", justify="right")
        table.add_column("by way of", no_wrap=True)
        for column in COLUMNS:
            table.add_column(column, justify="right", no_wrap=True)
        for workers, row in groupby(cells, key=lambda cell: cell.workers):
            for cell in row:
                ratio = results.throughput_ratio(cell._replace(contestant=hero), cell.contestant)
                figures = _shown(medians(results.cells[cell]))
                table.add_row(str(workers), cell.contestant, *figures, _ratio(cell, hero, ratio))
            for name in missing:
                table.add_row(str(workers), name, "not installed")
            table.add_section()
        parts.append(table)
    others = f"other processes used {results.others_percent():.0f} % of the processors meanwhile"
    return Group(*parts, f"{CAPTION}; {others}")


def as_json(results: Results, hero: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """settings, and for each cell its medians, its rounds and hero's ratio to it."""
    cells = []
    for cell, rounds in results.cells.items():
        ratio = results.throughput_ratio(cell._replace(contestant=hero), cell.contestant)
        entry = {"median": asdict(medians(rounds)), "rounds": [asdict(figures) for figures in rounds]}
        cells.append({**cell._asdict(), **entry, f"{hero}_throughput_ratio": ratio})
    return {"settings": dict(settings), "cells": cells}


def _shown(figures: Figures) -> list[str]:
    between = "-" if figures.middle_us is None else f"{figures.middle_us:.0f}"
    return [
        f"{figures.per_second:,.0f}",
        f"{figures.p50_ms:.2f}",
        f"{figures.p99_ms:.2f}",
        f"{figures.clients_us:.0f}",
        between,
        f"{figures.server_us:.0f}",
    ]


def _ratio(cell: Cell, hero: str, ratio: float | None) -> str:
    return "" if cell.contestant == hero or ratio is None else f"{ratio:.2f} x"
