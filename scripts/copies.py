"""Copies rows in and out through poold and through psycopg2 on a connection of its own, and says how the rates compare.

The two take turns in each round, on the same table and the same data. Printed are the medians of poold's rate divided
by psycopg2's (above 1 poold is faster), and how much memory client and broker took. Exit status 1: one of the ratios is
below --least.
"""

import io
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import click
import psycopg2
from benchmark.broker import Broker
from benchmark.database import Database
from benchmark.memory import peak_mb
from benchmark.workspace import Workspace

from client import Handler

IN, OUT = "COPY copied FROM STDIN", "COPY copied TO STDOUT"


class Counter:
    """A sink that only counts."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: bytes) -> None:
        """Count the data."""
        self.size += len(data)


def seconds(run: Callable[[], Any]) -> float:
    """Return how long it takes."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


@click.command(help=__doc__)
@click.option("--rows", type=click.IntRange(1), default=1_000_000)
@click.option("--rounds", type=click.IntRange(1), default=7)
@click.option("--least", type=float, default=0.8)
def main(rows: int, rounds: int, least: float) -> None:
    """Run it; exit status 1 if poold is slower than it may be."""
    data = b"".join(b"%d\tsome text of row number %d\n" % (number, number) for number in range(rows))
    ratios: dict[str, list[float]] = {"in": [], "out": []}
    with Workspace("poold-copies") as workspace:
        database = Database(workspace.folder / "postgresql", 8)
        workspace.launch(database.start, database.stop)
        broker = Broker(workspace.folder, database.dsn, 2)
        workspace.launch(broker.launch, broker.stop)
        db = Handler(address=broker.address)
        own = psycopg2.connect(database.dsn)
        own.autocommit = True
        cursor = own.cursor()
        db.query("CREATE UNLOGGED TABLE copied (id integer, name text)")
        for number in range(rounds):
            took: dict[str, list[float]] = {}
            for way in ("poold", "psycopg2") if number % 2 else ("psycopg2", "poold"):
                db.query("TRUNCATE copied")
                if way == "poold":
                    runs = lambda: db.copy_in(IN, io.BytesIO(data)), lambda: db.copy_out(OUT, Counter())
                else:
                    runs = lambda: cursor.copy_expert(IN, io.BytesIO(data)), lambda: cursor.copy_expert(OUT, Counter())
                took[way] = [seconds(run) for run in runs]
            for each, other, mine in zip(ratios, took["psycopg2"], took["poold"], strict=True):
                ratios[each].append(other / mine)
        broker_mb = peak_mb(broker.pid)
    medians = {each: statistics.median(found) for each, found in ratios.items()}
    for each, found in ratios.items():
        click.echo(f"copy_{each}: {medians[each]:.2f} ({', '.join(f'{ratio:.2f}' for ratio in found)})")
    click.echo(f"broker {broker_mb:.0f} MB, for {len(data) / 1e6:.0f} MB of data")
    sys.exit(0 if min(medians.values()) >= least else 1)


if __name__ == "__main__":
    main()
