"""Shows poold at work: 16 worker processes share 4 PostgreSQL connections, and not one transaction is lost.

Starts a private PostgreSQL and a broker, fills pgbench's tables through it, lets the workers read and transfer for some
seconds, compares the books with what the workers were told, and removes everything.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from random import Random

import click
from benchmark.broker import STATEMENTS, Broker
from benchmark.crew import START_METHOD, START_METHODS, Crew, CrewError, Tally, Window, Work, end_helpers, percentile_ms
from benchmark.service import ServiceError
from benchmark.tables import ACCOUNTS, SELECT, loading, random_account, random_transfer
from benchmark.workspace import Workspace
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from client import Connection, DBError, Handler
from poold.embedded.server import EmbeddedError, EmbeddedPostgres

# Backends that have run a statement since a point in time, as PostgreSQL counts them.
SERVING = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND query_start >= %s"
COUNT_INTERVAL = 0.5
# Branches: transactions on the same one wait for each other.
SCALE = 4
BOOKS = """
    SELECT (SELECT sum(abalance) FROM pgbench_accounts) AS accounts,
           (SELECT sum(tbalance) FROM pgbench_tellers) AS tellers,
           (SELECT sum(bbalance) FROM pgbench_branches) AS branches,
           coalesce(sum(delta), 0) AS history,
           count(*) AS rows
    FROM pgbench_history
"""


# What a worker does. This is all of it: no connection, no pool, nothing to configure but the broker's address.


def connect(address: str) -> Handler:
    """Begin a worker's life."""
    Connection.init({"address": address})
    return Handler(STATEMENTS)


def read_balance(db: Handler, chance: Random) -> None:
    """A point select: one row by its key."""
    db.query(SELECT, (random_account(SCALE, chance),)).fetchone()


def transfer(db: Handler, chance: Random) -> None:
    """pgbench's TPC-B transaction: the block collects it, and its end sends it as one message and commits."""
    what = random_transfer(SCALE, chance)
    with db.transaction() as tx:
        tx.query("UPDATE pgbench_accounts SET abalance = abalance + %(delta)s WHERE aid = %(aid)s", what)
        tx.query("SELECT abalance FROM pgbench_accounts WHERE aid = %(aid)s", what)
        tx.query("UPDATE pgbench_tellers SET tbalance = tbalance + %(delta)s WHERE tid = %(tid)s", what)
        tx.query("UPDATE pgbench_branches SET bbalance = bbalance + %(delta)s WHERE bid = %(bid)s", what)
        tx.query(
            "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) "
            "VALUES (%(tid)s, %(bid)s, %(aid)s, %(delta)s, CURRENT_TIMESTAMP)",
            what,
        )


@dataclass(frozen=True, slots=True)
class Phase:
    """One kind of work, done for a while, and how it went."""

    name: str
    tally: Tally
    seconds: float
    backends: int  # how many of PostgreSQL's processes ran it


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--seconds", type=click.FloatRange(0.1), default=4.0, help="How long each kind of work is done.")
@click.option("--workers", type=click.IntRange(1), default=16, help="Worker processes.")
@click.option("--backends", type=click.IntRange(1), default=4, help="PostgreSQL connections for each kind of work.")
@click.option("--start-method", type=click.Choice(START_METHODS), default=START_METHOD, hidden=True)
def main(seconds: float, workers: int, backends: int, start_method: str) -> None:
    """Exit status 0 where the books are right, else 1."""
    console = Console(highlight=False)
    try:
        with Workspace("poold-demo") as workspace:
            console.print(
                f"poold demo: {workers} worker processes share {backends} PostgreSQL connections.\n"
                f"Everything is in {workspace.folder} and is removed at the end.\n"
            )
            broker = set_up(workspace, backends, console)
            crew = Crew(workers, partial(connect, broker.address), start_method)
            workspace.callback(end_helpers)
            workspace.launch(crew.start, crew.stop)
            try:
                phases = [
                    perform(crew, "point selects", read_balance, STATEMENTS, seconds, console),
                    perform(crew, "TPC-B transactions", transfer, STATEMENTS, seconds, console),
                ]
            except (CrewError, DBError):
                broker.check()  # its end explains more than what workers make of it
                raise
            show_phases(phases, workers, console)
            mistakes = check_books(phases[1].tally.acknowledged, console)
            broker.check()
            show_stats(broker, console)
    except (CrewError, ServiceError, EmbeddedError, DBError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit("demo: interrupted; everything is removed")
    if mistakes:
        sys.exit(1)


def set_up(workspace: Workspace, backends: int, console: Console) -> Broker:
    """Start PostgreSQL and the broker, and fill the tables through it."""
    with timed("a private PostgreSQL", console):
        server = EmbeddedPostgres(workspace.folder / "postgresql")
        workspace.launch(server.start, server.stop)
    with timed("the broker", console):
        broker = Broker(workspace.folder, server.dsn(), backends)
        workspace.launch(broker.launch, broker.stop)
    Connection.init({"address": broker.address})
    what = f"{SCALE * ACCOUNTS:,} accounts, {10 * SCALE} tellers, {SCALE} branches, filled in through the broker"
    with timed(what, console):
        db = Handler(STATEMENTS)
        for statement in loading(scale=SCALE):
            db.query(statement)
    return broker


@contextmanager
def timed(what: str, console: Console) -> Iterator[None]:
    """Say what was done in the block and how long it took."""
    began = time.perf_counter()
    with console.status(f"starting: {what}"):
        yield
    console.print(f"  {time.perf_counter() - began:5.1f} s  {what}")


def perform(crew: Crew, name: str, work: Work, group: str, seconds: float, console: Console) -> Phase:
    """Let the crew do one kind of work, with a progress bar where somebody looks."""
    crew.rehearse(work)
    observer = Observer(group)
    columns = (TextColumn("  {task.description}"), BarColumn(), TextColumn("{task.fields[count]:,} done"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=seconds, count=0)
        window = crew.perform(seconds, progress=True)

        def show(count: int) -> None:
            progress.update(task, completed=time.perf_counter() - window.begin, count=count)
            observer.look(window)

        tally = crew.collect(show)
    if not tally.latencies:
        raise CrewError(f"none of the {name} ended within {seconds:g} s; give it more --seconds")
    console.print(f"  {seconds:5.1f} s  {name}: {len(tally.latencies):,}")
    return Phase(name, tally, seconds, observer.most)


class Observer:
    """Counts the backends that work for a group, through the broker like everybody, as one more client."""

    def __init__(self, group: str) -> None:
        self.most = 0
        self._db = Handler(group)
        with self._db as db:
            self._since = db.query("SELECT clock_timestamp()")[0][0]
        self._next = 0.0

    def look(self, window: Window) -> None:
        """Count, unless that was done a moment ago or the work is over."""
        now = time.perf_counter()
        if self._next <= now < window.end:
            self._next = now + COUNT_INTERVAL
            with self._db as db:
                self.most = max(self.most, db.query(SERVING, (self._since,))[0][0])


def show_phases(phases: list[Phase], workers: int, console: Console) -> None:
    """What the workers measured, and the connections they did without."""
    table = Table("", box=None, pad_edge=False)
    for column in ("per second", "p50 ms", "p99 ms", "connections to PostgreSQL"):
        table.add_column(column, justify="right")
    for phase in phases:
        latencies = sorted(phase.tally.latencies)
        times = (f"{percentile_ms(latencies, share):.2f}" for share in (0.50, 0.99))
        table.add_row(phase.name, f"{len(latencies) / phase.seconds:,.0f}", *times, str(phase.backends))
    console.print()
    console.print(table)
    most = max(phase.backends for phase in phases)
    console.print(
        f"\nPostgreSQL counted {most} connections at work for {workers} workers; with pools of their own these would "
        f"have held at least {workers}. (Each of the transactions updates the row of one of {SCALE} branches.)"
    )


def check_books(acknowledged: int, console: Console) -> list[str]:
    """Compare what PostgreSQL has with what the workers were told; returns what is wrong."""
    books = Handler(STATEMENTS).query(BOOKS)[0]
    mistakes = []
    if books.rows != acknowledged:
        mistakes.append(f"{acknowledged:,} transactions were acknowledged, but the history has {books.rows:,}")
    sums = {name: books[name] for name in ("accounts", "tellers", "branches", "history")}
    if len(set(sums.values())) != 1:
        mistakes.append(f"the sums differ: {', '.join(f'{name} {value:,}' for name, value in sums.items())}")
    if mistakes:
        for mistake in mistakes:
            console.print(f"\n[bold red]WRONG: {mistake}[/]")
    else:
        console.print(
            f"\nThe books are right: {acknowledged:,} transactions were acknowledged, the history has {books.rows:,}; "
            f"none was lost, none doubled. Accounts, tellers, branches and history all add up to {books.history:,}."
        )
    return mistakes


def show_stats(broker: Broker, console: Console) -> None:
    """What the broker itself says."""
    console.print("\npoold stats:")
    sys.stdout.flush()
    subprocess.run(broker.poold("stats", "--address", broker.address), check=True)


if __name__ == "__main__":
    main()
