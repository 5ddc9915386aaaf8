"""Reads millions of rows through streams, and says how fast and how much memory client and broker took for it.

Each round reads all rows once in each way, in a process of its own: a stream; a stream that asks for the next block
only when the present one was read; and psycopg2's named cursor on a connection of its own. The rows are counted, or
written as CSV. Exit status 1: client or broker took more than --limit.
"""

import json
import subprocess
import sys
from typing import Any

import click
from benchmark.broker import Broker
from benchmark.database import Database
from benchmark.memory import peak_mb
from benchmark.workspace import Workspace

WAYS = ("stream", "stream without looking ahead", "psycopg2")
WORKS = ("count", "csv")
STATEMENT = "SELECT n AS id, n % 1000 AS customer, 'row ' || n AS name, now() AS at FROM generate_series(1, {}) AS n"

READER = """
import csv, json, sys, time
from pathlib import Path
way, work, statement, size, address, dsn = sys.argv[1:]
if way == "psycopg2":
    import psycopg2
    rows = psycopg2.connect(dsn).cursor("reader")
    rows.itersize = int(size)
    begin = time.perf_counter()
    rows.execute(statement)
else:
    from client import Handler
    from client.stream import Cursor, CursorOfItsOwn
    if way != "stream":
        CursorOfItsOwn._look_ahead = Cursor._look_ahead
    begin = time.perf_counter()
    rows = Handler(address=address).stream(statement, size=int(size))
if work == "csv":
    with open("/dev/null", "w", encoding="utf-8") as file:
        write, count = csv.writer(file).writerow, 0
        for row in rows:
            write(row)
            count += 1
else:
    count = sum(1 for _ in rows)
seconds = time.perf_counter() - begin
status = Path("/proc/self/status").read_text()
print(json.dumps([count, seconds, int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6]))
"""


def read(*arguments: str) -> Any:
    """Return how many rows a process has read, in how many seconds, and the most memory it had, in MB."""
    command = [sys.executable, "-c", READER, *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


@click.command(help=__doc__)
@click.option("--rows", type=click.IntRange(1), default=10_000_000)
@click.option("--size", type=click.IntRange(1), default=2000, help="Rows of a block.")
@click.option("--rounds", type=click.IntRange(1), default=1)
@click.option("--work", type=click.Choice(WORKS), multiple=True, default=WORKS)
@click.option("--way", type=click.Choice(WAYS), multiple=True, default=WAYS)
@click.option("--limit", type=float, default=60.0, help="In MB, for client and broker each.")
def main(rows: int, size: int, rounds: int, work: tuple[str, ...], way: tuple[str, ...], limit: float) -> None:
    """Run it; exit status 1 where too much memory was taken."""
    is_small = True
    with Workspace("poold-streams") as workspace:
        database = Database(workspace.folder / "postgresql", 8)
        workspace.launch(database.start, database.stop)
        broker = Broker(workspace.folder, database.dsn, 2)
        workspace.launch(broker.launch, broker.stop)
        for done in [each for _ in range(rounds) for each in work]:
            for each in way:
                statement = STATEMENT.format(rows)
                count, seconds, client_mb = read(each, done, statement, str(size), broker.address, database.dsn)
                if count != rows:
                    sys.exit(f"streams: {each} has read {count} of {rows} rows")
                broker_mb = peak_mb(broker.pid)
                is_small = is_small and (each == "psycopg2" or max(client_mb, broker_mb) <= limit)
                memory = f"client {client_mb:.0f} MB, broker {broker_mb:.0f} MB"
                click.echo(f"{done}, {each}: {rows / seconds:,.0f} rows/s; {memory}")
    sys.exit(0 if is_small else 1)


if __name__ == "__main__":
    main()
