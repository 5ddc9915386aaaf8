"""Compares poold with own connections and with pgbouncer: the same work, the same tables, the same run.

Every contestant is measured in every round, in changing order, because a machine's speed drifts. All of them talk
through unix sockets to one private PostgreSQL with its default durability (fsync is on).
"""

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version as distribution_version
from itertools import product
from pathlib import Path
from typing import Any

import click
import psycopg2
from benchmark import pgbouncer, processor, report
from benchmark.broker import Broker
from benchmark.contestants import Contestant, Poold, Psycopg2
from benchmark.crew import START_METHOD, START_METHODS, Crew, CrewError, end_helpers, percentile_ms
from benchmark.figures import Cell, Figures, Results
from benchmark.service import Service, ServiceError
from benchmark.tables import loading
from benchmark.workloads import WORKLOADS
from benchmark.workspace import Workspace
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from poold import __version__
from poold.embedded import EmbeddedError, EmbeddedPostgres

CONTESTANTS = POOLD, OWN, PGBOUNCER = "poold", "own connections", "pgbouncer"
# Seconds of work before the measured time begins and after it ends: then all workers are at work, none is starting.
SETTLE = 0.3
TAIL = 0.1
# Connections that are not the workers': superuser_reserved_connections, pools, this program.
SPARE_CONNECTIONS = 40
PROCESSORS = len(os.sched_getaffinity(0))
QUICK_ROUNDS = 2
QUICK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    rounds: int
    seconds: float
    workers: tuple[int, ...]
    workloads: tuple[str, ...]
    contestants: tuple[str, ...]
    backends: int
    scale: int
    install: bool
    start_method: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A contestant, and the process between its workers and PostgreSQL, if there is one."""

    contestant: Contestant
    between: Service | None


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--rounds", type=click.IntRange(1), default=5, help="How often everything is measured.")
@click.option("--seconds", type=click.FloatRange(0.1), default=2.0, help="How long one measurement takes.")
@click.option("--quick", is_flag=True, help=f"{QUICK_ROUNDS} rounds of {QUICK_SECONDS:g} s: for a first impression.")
@click.option("--workers", type=click.IntRange(1), multiple=True, default=(1, 16, 64), help="Processes; repeatable.")
@click.option(
    "--workload", type=click.Choice(list(WORKLOADS)), multiple=True, default=tuple(WORKLOADS), help="Repeatable."
)
@click.option("--contestant", type=click.Choice(CONTESTANTS), multiple=True, default=CONTESTANTS, help="Repeatable.")
@click.option("--backends", type=click.IntRange(1), default=8, help="Size of the pools of poold and pgbouncer.")
@click.option("--scale", type=click.IntRange(1), default=10, help="Of pgbench's tables; 1 is 100,000 accounts.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the results here as well.")
@click.option("--install", is_flag=True, help="Install pgbouncer with apt-get if it is missing (as root).")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default="/tmp",
    help="Where the temporary folder with the data is made: its disk is measured as well.",
)
@click.option("--start-method", type=click.Choice(START_METHODS), default=START_METHOD, hidden=True)
def main(
    json_file: Path | None,
    folder: Path,
    quick: bool,
    workload: tuple[str, ...],
    contestant: tuple[str, ...],
    **options: Any,
) -> None:
    """Show the table; exit status 1 and the reason where something did not work."""
    if sys.platform != "linux":
        raise click.UsageError("this reads the processor times from /proc, which only Linux has")
    if quick:
        options.update(rounds=QUICK_ROUNDS, seconds=QUICK_SECONDS)
    try:
        with Workspace("poold-bench", folder.resolve()) as workspace:
            run(workspace, Options(workloads=workload, contestants=contestant, **options), json_file)
    except (CrewError, ServiceError, EmbeddedError, psycopg2.Error, OSError) as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit("bench: interrupted; everything is removed")


def run(workspace: Workspace, options: Options, json_file: Path | None) -> None:
    """Set up, measure, report."""
    console = report.console()
    connections = max(options.workers) + 2 * options.backends + SPARE_CONNECTIONS
    workspace.callback(end_helpers)
    server = EmbeddedPostgres(workspace.folder / "postgresql", settings={"max_connections": str(connections)})
    workspace.launch(server.start, server.stop)
    console.print(f"PostgreSQL runs in {workspace.folder}; filling the tables (scale {options.scale})")
    version = load(server, options.scale)
    entries, missing = line_up(workspace, server, options)
    if not entries:
        raise ServiceError(f"{', '.join(missing)}: not installed, and nothing else was asked for; see --install")
    environment = describe(version)
    console.print(", ".join(f"{name} {value}" for name, value in environment.items()))
    results = Results()
    try:
        measure_all(workspace, results, entries, server, options)
    except CrewError as error:
        console.print(*(each.between.last_words() for each in entries if each.between is not None), sep="\n")
        raise error from None
    console.print(report.tables(results, POOLD, missing))
    if json_file is not None:
        settings = {"environment": environment, "options": asdict(options)}
        json_file.write_text(json.dumps(report.as_json(results, POOLD, settings), indent=2) + "\n")


def load(server: EmbeddedPostgres, scale: int) -> str:
    """Fill the tables; returns PostgreSQL's version."""
    connection = psycopg2.connect(server.dsn())
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in loading(scale):
                cursor.execute(statement)
            cursor.execute("CHECKPOINT")
        return connection.get_parameter_status("server_version") or "unknown"
    finally:
        connection.close()


def line_up(workspace: Workspace, server: EmbeddedPostgres, options: Options) -> tuple[list[Entry], list[str]]:
    """Start what is between workers and server; returns the contestants, and the names of those that are missing."""
    entries = []
    if POOLD in options.contestants:
        broker = Broker(workspace.folder, server.dsn(), options.backends)
        workspace.launch(broker.launch, broker.stop)
        entries.append(Entry(Poold(POOLD, broker.address), broker))
    if OWN in options.contestants:
        entries.append(Entry(Psycopg2(OWN, server.dsn()), None))
    if PGBOUNCER in options.contestants:
        program = pgbouncer.find(options.install)
        if program is None:
            return entries, [PGBOUNCER]
        account = server.programs.account
        bouncer = pgbouncer.PgBouncer(program, workspace.folder / PGBOUNCER, server.dsn(), options.backends, account)
        workspace.launch(bouncer.launch, bouncer.stop)
        entries.append(Entry(Psycopg2(PGBOUNCER, bouncer.dsn), bouncer))
    return entries, []


def describe(server_version: str) -> dict[str, Any]:
    """What was measured with what: figures of different machines and versions cannot be compared."""
    program = pgbouncer.find(may_install=False)
    return {
        "processors": PROCESSORS,
        "Python": platform.python_version(),
        "PostgreSQL": server_version,
        "poold": __version__,
        "psycopg2": distribution_version("psycopg2-binary"),
        "pgbouncer": pgbouncer.version(program) if program else "not installed",
    }


def measure_all(
    workspace: Workspace, results: Results, entries: Sequence[Entry], server: EmbeddedPostgres, options: Options
) -> None:
    """All rounds. In each the contestants take turns at each place, and another one begins."""
    places = list(product(options.workloads, options.workers))
    # Places in the order of the table, whoever is measured first.
    for (workload, workers), entry in product(places, entries):
        results.cells[Cell(workload, workers, entry.contestant.name)] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = report.console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=options.rounds * len(places) * len(entries))
        for number in range(options.rounds):
            first = number % len(entries)
            for (workload, workers), entry in product(places, [*entries[first:], *entries[:first]]):
                cell = Cell(workload, workers, entry.contestant.name)
                progress.update(task, description=f"round {number + 1}: {workload}, {workers}, {cell.contestant}")
                results.add(cell, measure(workspace, cell, entry, server, options))
                progress.advance(task)


def measure(workspace: Workspace, cell: Cell, entry: Entry, server: EmbeddedPostgres, options: Options) -> Figures:
    """One cell in one round."""
    between = [] if entry.between is None else [entry.between.pid]
    postmaster = server.pid
    assert postmaster is not None
    crew = Crew(cell.workers, entry.contestant.connect, options.start_method)
    with workspace.running(crew.start, crew.stop):
        crew.rehearse(partial(WORKLOADS[cell.workload], scale=options.scale))
        window = crew.perform(options.seconds, SETTLE, TAIL)
        used = []
        for point in (window.begin, window.end):
            time.sleep(max(0.0, point - time.perf_counter()))
            family = processor.family_seconds(postmaster)
            used.append((processor.seconds(crew.pids), processor.seconds(between), family, processor.machine_seconds()))
        tally = crew.collect()
    if entry.between is not None:
        entry.between.check()
    count = len(tally.latencies)
    if not count:
        raise CrewError(f"{cell}: no request ended within {options.seconds:g} s; give it more --seconds")
    latencies = sorted(tally.latencies)
    clients, middle, family, machine = (after - before for before, after in zip(*used, strict=True))
    return Figures(
        per_second=count / options.seconds,
        p50_ms=percentile_ms(latencies, 0.50),
        p99_ms=percentile_ms(latencies, 0.99),
        clients_us=clients / count * 1e6,
        middle_us=middle / count * 1e6 if between else None,
        server_us=family / count * 1e6,
        others_percent=(machine - clients - middle - family) / (PROCESSORS * options.seconds) * 100,
    )


if __name__ == "__main__":
    main()
