"""Compares poold with own connections, with pgbouncer and with others: the same work, the same tables, the same run.

Every contestant is measured in every round, in changing order, because a machine's speed drifts. All of them talk
through unix sockets to one private PostgreSQL with its default durability (fsync is on). Each measurement starts broker
or pgbouncer anew, and the workers, which are processes; what is committed is counted afterwards.
"""

import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import psycopg2
from benchmark import environment, lineup, report, targets
from benchmark.crew import START_METHOD, START_METHODS, CrewError, end_helpers
from benchmark.database import Database, DatabaseError
from benchmark.figures import Cell, Results
from benchmark.measurement import Bench
from benchmark.network import Network
from benchmark.service import ServiceError
from benchmark.settings import Settings
from benchmark.workloads import USUAL, WORKLOADS
from benchmark.workspace import Workspace
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from poold.embedded.server import EmbeddedError

DEFAULT_CONTESTANTS = (lineup.POOLD, lineup.OWN, lineup.PGBOUNCER)
ALL = "all"
QUICK_ROUNDS = 2
QUICK_SECONDS = 1.0
# Each session is a descriptor in the broker, in pgbouncer, and in the process that holds the idle ones.
DESCRIPTORS = 65536


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--rounds", type=click.IntRange(1), default=5, help="How often everything is measured.")
@click.option("--seconds", type=click.FloatRange(0.1), default=2.0, help="How long one measurement takes.")
@click.option("--quick", is_flag=True, help=f"{QUICK_ROUNDS} rounds of {QUICK_SECONDS:g} s: for a first impression.")
@click.option(
    "--workload",
    "workloads",
    type=click.Choice(list(WORKLOADS)),
    multiple=True,
    default=USUAL,
    help="Repeatable. " + "; ".join(f"{name}: {each.summary}" for name, each in WORKLOADS.items()) + ".",
)
@click.option("--workers", type=click.IntRange(1), multiple=True, default=(1, 16, 64), help="Processes; repeatable.")
@click.option(
    "--connected",
    type=click.IntRange(0),
    default=0,
    help="Sessions that are open, whether at work or not: what is missing to this number is held by one more process "
    "(for poold by one thread each). 0: only the workers'.",
)
@click.option(
    "--backends",
    type=click.IntRange(1),
    multiple=True,
    default=(8,),
    help="Size of the pools of poold and pgbouncer; repeatable.",
)
@click.option(
    "--delay",
    "delay_ms",
    type=click.FloatRange(0),
    default=0.0,
    metavar="MS",
    help="Added network between PostgreSQL and whoever connects to it (broker, pgbouncer, own connections): "
    "milliseconds per round trip, half of them in each direction.",
)
@click.option(
    "--contestant",
    "contestants",
    type=click.Choice([*lineup.names(), ALL]),
    multiple=True,
    default=DEFAULT_CONTESTANTS,
    help="Repeatable.",
)
@click.option("--scale", type=click.IntRange(1), default=10, help="Of pgbench's tables; 1 is 100,000 accounts.")
@click.option("--targets", "show_targets", is_flag=True, help="Show what poold wants to reach beside what it did.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the results here as well.")
@click.option(
    "--plots",
    type=click.Path(path_type=Path, file_okay=False),
    help="Draw throughput and p99 over workers into this folder, where two numbers of workers or more are measured.",
)
@click.option("--install", is_flag=True, help="Install pgbouncer with apt-get if it is missing (as root).")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default="/tmp",
    help="Where the temporary folder with the data is made: its disk is measured as well.",
)
@click.option("--start-method", type=click.Choice(START_METHODS), default=START_METHOD, hidden=True)
def main(
    folder: Path,
    quick: bool,
    contestants: tuple[str, ...],
    show_targets: bool,
    json_file: Path | None,
    plots: Path | None,
    **options: Any,
) -> None:
    """Show the table; exit status 1 and the reason where something did not work."""
    if sys.platform != "linux":
        raise click.UsageError("this reads processor times and memory from /proc, which only Linux has")
    if quick:
        options.update(rounds=QUICK_ROUNDS, seconds=QUICK_SECONDS)
    if plots is not None and find_spec("matplotlib") is None:
        raise click.UsageError("--plots wants matplotlib, which is not installed; scripts/bench says why")
    chosen = [name for name in lineup.names() if name in contestants or ALL in contestants]
    if any(WORKLOADS[name].has_objects for name in options["workloads"]):
        if find_spec("sqlalchemy") is None:
            raise click.UsageError("the orm workloads want SQLAlchemy, which is not installed")
        if without := [name for name in chosen if not lineup.has_objects(name)]:
            raise click.UsageError(f"the orm workloads do not go by {', '.join(without)}")
    for name in ("workloads", "workers", "backends"):
        options[name] = tuple(dict.fromkeys(options[name]))  # a place named twice is still one
    settings = Settings(contestants=tuple(chosen), **options)
    raise_descriptor_limit()
    try:
        with Workspace("poold-bench", folder.resolve()) as workspace:
            Run(workspace, settings).finish(show_targets, json_file, plots)
    except (CrewError, ServiceError, EmbeddedError, DatabaseError, psycopg2.Error, OSError) as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit("bench: interrupted; everything is removed")


class Run:
    """All measurements of one call, and what is made of them."""

    def __init__(self, workspace: Workspace, settings: Settings) -> None:
        self._workspace = workspace
        self._settings = settings
        self._console = report.console()
        # Contestants that cannot be measured, with what they lack.
        self._missing: dict[str, str] = {}
        self._results = Results()

    def finish(self, show_targets: bool, json_file: Path | None, plots: Path | None) -> None:
        """Set up, measure, report."""
        say, settings = self._console.print, self._settings
        contestants = self._available()
        self._workspace.callback(end_helpers)
        database = self._database()
        surroundings = environment.describe(database.version)
        say(*(f"{name} {value}" for name, value in surroundings.items()), sep=", ")
        network = self._network(database)
        if network is not None:
            surroundings["added_round_trip_ms"] = round(network.added_ms(database.dsn), 3)
            say(f"network: {settings.delay_ms:g} ms per round trip; {surroundings['added_round_trip_ms']} measured")
        bench = Bench(self._workspace, database, network, settings)
        self._measure_all(bench, contestants)
        report.show(*report.tables(self._results, lineup.POOLD, self._missing, bench.memory_kind))
        if show_targets:
            report.show(targets.table(self._results, settings))
        if json_file is not None:
            self._write_json(json_file, surroundings, bench.memory_kind)
        if plots is not None:
            self._draw(plots)

    def _available(self) -> list[str]:
        contestants = []
        for name in self._settings.contestants:
            lack = lineup.missing(name, self._settings.install)
            if lack is None:
                contestants.append(name)
            else:
                self._missing[name] = lack
        if not contestants:
            lacks = ", ".join(sorted(set(self._missing.values())))
            raise ServiceError(f"not installed: {lacks}, and nothing else was asked for; see --install")
        return contestants

    def _database(self) -> Database:
        settings = self._settings
        connections = settings.sessions + 2 * max(settings.backends)
        database = Database(self._workspace.folder / "postgresql", connections)
        self._workspace.launch(database.start, database.stop)
        self._console.print(f"PostgreSQL runs in {self._workspace.folder}; filling the tables (scale {settings.scale})")
        database.load(settings.scale)
        return database

    def _network(self, database: Database) -> Network | None:
        if not self._settings.delay_ms:
            return None
        folder = self._workspace.folder / "network"
        network = Network(folder, database.dsn, self._settings.delay_ms, database.account)
        self._workspace.launch(network.launch, network.stop)
        return network

    def _measure_all(self, bench: Bench, contestants: Sequence[str]) -> None:
        """All rounds. In each the contestants take turns at each place, and another one begins."""
        places, rounds = self._settings.places, self._settings.rounds
        # In the order of the table, whoever is measured first.
        for place in places:
            self._results.cells.update({Cell(place, name): [] for name in contestants})
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        is_seen = self._console.is_terminal
        with Progress(*columns, console=self._console, transient=True, disable=not is_seen) as progress:
            task = progress.add_task("", total=rounds * len(places) * len(contestants))
            for number in range(rounds):
                first = number % len(contestants)
                for place in places:
                    for name in (*contestants[first:], *contestants[:first]):
                        cell = Cell(place, name)
                        progress.update(task, description=f"round {number + 1}: {cell}")
                        self._results.add(cell, bench.measure(cell))
                        progress.advance(task)

    def _write_json(self, file: Path, surroundings: dict[str, Any], memory_kind: str) -> None:
        run = {
            "environment": {**surroundings, "server_memory": memory_kind},
            "settings": asdict(self._settings),
            "not_measured": self._missing,
            "targets": [
                {**asdict(target), "ratio": ratio, "met": None if ratio is None else target.is_met(ratio)}
                for target, ratio in targets.outcomes(self._results, self._settings)
            ],
        }
        file.write_text(json.dumps(report.as_json(self._results, lineup.POOLD, run), indent=2) + "\n")

    def _draw(self, folder: Path) -> None:
        from benchmark import plots  # takes a second, and matplotlib may be missing where nobody wants pictures

        settings = self._settings
        conditions = [f"rounds: {settings.rounds} of {settings.seconds:g} s, medians"]
        if settings.delay_ms:
            conditions.append(f"{settings.delay_ms:g} ms of added network")
        if settings.connected:
            conditions.append(f"{settings.connected:,} connected")
        written = plots.write(self._results, folder, ", ".join(conditions))
        self._console.print(
            f"{len(written)} pictures are in {folder}" if written else "one number of workers: no pictures"
        )


def raise_descriptor_limit() -> None:
    """For this process and all that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    main()
