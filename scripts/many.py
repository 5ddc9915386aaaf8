"""Runs executemany in an open transaction through poold and through psycopg2 on a connection of its own.

The ways take turns in each round, with the same statement and sets, and each transaction is rolled back. Printed are
the medians in milliseconds: of executemany through poold, of the same sets executed one by one there, and of psycopg2's
executemany. Exit status 1: poold's executemany is not --least times as fast as psycopg2's.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import click
import psycopg2
from benchmark.broker import Broker
from benchmark.database import Database
from benchmark.workspace import Workspace

from client import dbapi

INSERT = "INSERT INTO many (id, name, total) VALUES (%s, %s, %s)"
UPDATE = "UPDATE many SET name = %s WHERE id = %s"
WARM_UP = 3


def seconds(run: Callable[[], Any]) -> float:
    """Return how long it takes."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def one_by_one(cursor: Any) -> Callable[[str, Any], None]:
    """Return what executes a statement with each of some sets."""

    def run(statement: str, sets: Any) -> None:
        for each in sets:
            cursor.execute(statement, each)

    return run


@click.command(help=__doc__)
@click.option("--sets", "count", type=click.IntRange(1), default=1000)
@click.option("--rounds", type=click.IntRange(1), default=15)
@click.option("--least", type=float, default=1.0)
def main(count: int, rounds: int, least: float) -> None:
    """Run it; exit status 1 if poold is slower than it may be."""
    statements = {
        "INSERT": (INSERT, [(number, f"name {number}", number / 4) for number in range(count)]),
        "UPDATE": (UPDATE, [(f"other {number}", -number) for number in range(count)]),
    }
    with Workspace("poold-many") as workspace:
        database = Database(workspace.folder / "postgresql", 8)
        workspace.launch(database.start, database.stop)
        broker = Broker(workspace.folder, database.dsn, 2)
        workspace.launch(broker.launch, broker.stop)
        mine, own = dbapi.connect(broker.address).cursor(), psycopg2.connect(database.dsn).cursor()
        own.execute("CREATE TABLE many (id integer PRIMARY KEY, name text, total float8)")
        own.execute("INSERT INTO many SELECT -n, 'name', n FROM generate_series(1, %s) AS n", (count,))
        own.connection.commit()
        ways = {"executemany": mine.executemany, "one by one": one_by_one(mine), "psycopg2": own.executemany}
        took: dict[tuple[str, str], list[float]] = {}
        for number in range(rounds + WARM_UP):
            for way in list(ways) if number % 2 else reversed(ways):
                cursor = own if way == "psycopg2" else mine
                for name, (statement, sets) in statements.items():
                    cursor.execute("SELECT 1")  # the transaction is open
                    spent = seconds(lambda way=way, what=(statement, sets): ways[way](*what))  # type: ignore[misc]
                    cursor.connection.rollback()
                    if number >= WARM_UP:
                        took.setdefault((name, way), []).append(1000 * spent)
    medians = {key: statistics.median(found) for key, found in took.items()}
    for name in statements:
        click.echo(f"{name}: " + ", ".join(f"{way} {medians[name, way]:.1f} ms" for way in ways))
    factors = [medians[name, "psycopg2"] / medians[name, "executemany"] for name in statements]
    sys.exit(0 if min(factors) >= least else 1)


if __name__ == "__main__":
    main()
