"""The results for people, as tables, and for programs, as JSON."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

from benchmark.figures import COMPARED, Cell, Figures, Results, medians
from benchmark.workloads import WORKLOADS

# What all columns need; a narrower terminal breaks the lines, which loses nothing.
WIDTH = 165


@dataclass(frozen=True, slots=True)
class Column:
    """One figure: how it is called and shown."""

    title: str
    figure: str  # a field of Figures
    form: str = ".0f"
    # As a ratio it is the hero's figure divided by this line's.
    is_ratio: bool = False


COLUMNS = (
    Column("per\nsecond", "per_second", ",.0f"),
    Column("p50\nms", "p50_ms", ".2f"),
    Column("p99\nms", "p99_ms", ".2f"),
    Column("short\np99 ms", "short_p99_ms", ".2f"),
    Column("clients\nCPU us", "clients_us"),
    Column("between\nCPU us", "middle_us"),
    Column("server\nCPU us", "server_us"),
    Column("network\nCPU us", "network_us"),
    Column("back-\nends", "server_backends"),
    Column("server\nMB", "server_mb", ".1f"),
    Column("between\nMB", "middle_mb", ".1f"),
    Column("{hero}:\nrate", "per_second", ".2f", is_ratio=True),
    Column("{hero}:\np50", "p50_ms", ".2f", is_ratio=True),
    Column("{hero}:\np99", "p99_ms", ".2f", is_ratio=True),
    Column("short\np99", "short_p99_ms", ".2f", is_ratio=True),
    Column("{hero}:\nMB", "server_mb", ".2f", is_ratio=True),
)


def console() -> Console:
    """For this process's output."""
    return Console(highlight=False, soft_wrap=True)


def show(*what: RenderableType) -> None:
    """Print tables."""
    Console(highlight=False, width=max(WIDTH, Console().width)).print(*what, sep="\n")


def tables(results: Results, hero: str, missing: Mapping[str, str], memory_kind: str) -> Iterator[RenderableType]:
    """A table for each workload and number of backends. missing are contestants that need something not installed."""
    for (workload, backends), cells in groupby(results.cells, key=lambda cell: cell.place[:2]):
        yield _table(results, hero, f"{workload}: {WORKLOADS[workload].summary}", backends, list(cells))
    yield (
        "medians of the rounds; CPU: microseconds per request; server MB: anonymous memory of the backends "
        f"({memory_kind}); between MB: resident; {hero}: its figure divided by this line's, the median of the ratios "
        "within each round"
    )
    yield "other processes used {:.0f} % of the processors meanwhile, at most {:.0f} %".format(
        *results.others_percent()
    )
    for name, what in missing.items():
        yield f"{name} was not measured: {what} is not installed"


def as_json(results: Results, hero: str, run: Mapping[str, Any]) -> dict[str, Any]:
    """run (what describes it), and for each cell its medians, its rounds and hero's ratios to it."""
    cells = []
    for cell, rounds in results.cells.items():
        ratios = {name: results.ratio(cell._replace(contestant=hero), cell.contestant, name) for name in COMPARED}
        cells.append(
            {
                **cell.place._asdict(),
                "contestant": cell.contestant,
                "median": asdict(medians(rounds)),
                "rounds": [asdict(figures) for figures in rounds],
                f"{hero}_ratio": ratios,
            }
        )
    return {**run, "cells": cells}


def _table(results: Results, hero: str, title: str, backends: int, cells: Sequence[Cell]) -> Table:
    lines = {cell: medians(results.cells[cell]) for cell in cells}
    has_ratios = any(cell.contestant != hero for cell in cells) and any(cell.contestant == hero for cell in cells)
    columns = [
        column
        for column in COLUMNS
        if (has_ratios or not column.is_ratio)
        and any(getattr(line, column.figure) is not None for line in lines.values())
    ]
    table = Table(title=f"{title}; pools of {backends}", title_justify="left", box=None, pad_edge=False)
    table.add_column("workers", justify="right")
    table.add_column("by way of", no_wrap=True)
    for column in columns:
        table.add_column(column.title.format(hero=hero), justify="right", no_wrap=True)
    for workers, group in groupby(cells, key=lambda cell: cell.place.workers):
        for cell in group:
            figure, ratio = _figures(lines[cell]), _ratios(results, hero, cell)
            texts = [ratio(column) if column.is_ratio else figure(column) for column in columns]
            table.add_row(str(workers), cell.contestant, *texts)
        table.add_section()
    return table


def _figures(figures: Figures) -> Callable[[Column], str]:
    def text(column: Column) -> str:
        value = getattr(figures, column.figure)
        return "-" if value is None else format(value, column.form)

    return text


def _ratios(results: Results, hero: str, cell: Cell) -> Callable[[Column], str]:
    def text(column: Column) -> str:
        value = results.ratio(cell._replace(contestant=hero), cell.contestant, column.figure)
        return "" if value is None or cell.contestant == hero else f"{value:{column.form}} x"

    return text
