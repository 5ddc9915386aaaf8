"""What a hostile client does to others: their p99 with it, without it, and beside a process that only burns as much.

Eight workers select single rows. In each round they do so alone, with a hostile client (benchmark.hostility has them),
and with a control that uses as much of the processors as that one and never talks to the broker: what the machine's
processors do to latencies is not the broker's doing. Shown are the medians over the rounds of p99 / p99 alone.
"""

import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click

from benchmark import processor
from benchmark.broker import Broker
from benchmark.contestants import Poold
from benchmark.crew import Crew, end_helpers, percentile_ms
from benchmark.database import Database
from benchmark.hostility import BEHAVIOURS
from benchmark.memory import resident_mb
from benchmark.workloads import WORKLOADS
from benchmark.workspace import Workspace

WORKERS = 8
BACKENDS = 8
SETTLE, TAIL = 0.3, 0.1
BOUND = 1.5
# A control works and sleeps in turns of this many seconds.
TURN = 0.01
BURN = """
import sys, time
share = float(sys.argv[1])
while True:
    end = time.process_time() + share * {turn}
    began = time.monotonic()
    while time.process_time() < end:
        pass
    time.sleep(max(0.0, {turn} - (time.monotonic() - began)))
"""


class Round(NamedTuple):
    """p99s in milliseconds, the hostile process's share of a processor, and the broker's memory with it."""

    alone: float
    control: float
    hostile: float
    share: float
    broker_mb: float


@click.command(help=__doc__, context_settings={"show_default": True})
@click.argument("names", nargs=-1, metavar="[BEHAVIOUR]...", type=click.Choice(list(BEHAVIOURS)))
@click.option("--rounds", type=click.IntRange(1), default=5)
@click.option(
    "--seconds", type=click.FloatRange(0.1), default=2.0, help="Of each measurement; there are three a round."
)
@click.option("--scale", type=click.IntRange(1), default=1, help="Of pgbench's tables.")
def main(names: tuple[str, ...], rounds: int, seconds: float, scale: int) -> None:
    """Show a line for each behaviour; exit status 1 where one is above the bound."""
    is_within = True
    with Workspace("poold-hostile") as workspace:
        workspace.callback(end_helpers)
        database = Database(workspace.folder / "postgresql", 4 * BACKENDS)
        workspace.launch(database.start, database.stop)
        database.load(scale)
        columns = ("p99 alone", "beside control", "with hostile", "its CPU", "broker MB", "p99/alone", "p99/control")
        click.echo(f"{'behaviour':12}" + "".join(f"{column:>16}" for column in columns))
        for name in names or BEHAVIOURS:
            found = Bench(workspace, database, name, seconds, scale).rounds(rounds)
            to_alone = median(each.hostile / each.alone for each in found)
            to_control = median(each.hostile / each.control for each in found)
            is_within = is_within and to_control <= BOUND
            values = [median(column) for column in zip(*found, strict=True)]
            shown = [f"{value:.2f} ms" for value in values[:3]]
            shown += [f"{values[3]:.0%}", f"{values[4]:.0f}", f"{to_alone:.2f}", f"{to_control:.2f}"]
            click.echo(f"{name:12}" + "".join(f"{text:>16}" for text in shown))
    sys.exit(0 if is_within else 1)


class Bench:
    """One behaviour: a broker of its own, whose workers stay for all rounds."""

    def __init__(self, workspace: Workspace, database: Database, name: str, seconds: float, scale: int) -> None:
        self._workspace = workspace
        self._name = name
        self._seconds = seconds
        self._broker = Broker(workspace.folder, database.dsn, BACKENDS)
        self._crew = Crew(WORKERS, Poold("poold", self._broker.address).connect)
        self._work = partial(WORKLOADS["select"].request, scale=scale)

    def rounds(self, count: int) -> list[Round]:
        """So many."""
        with ExitStack() as stack:
            stack.enter_context(self._workspace.running(self._broker.launch, self._broker.stop))
            stack.enter_context(self._workspace.running(self._crew.start, self._crew.stop))
            self._p99()  # statements become prepared
            share = self._with_hostile()[1]
            return [self._round(number, share) for number in range(count)]

    def _round(self, number: int, share: float) -> Round:
        """The three in changing order; the control burns what the hostile client did the time before."""
        alone = control = hostile = used = memory = 0.0
        for which in range(number, number + 3):
            if which % 3 == 0:
                alone = self._p99()
            elif which % 3 == 1:
                control = self._with_control(share)
            else:
                hostile, used, memory = self._with_hostile()
        self._broker.check()
        return Round(alone, control, hostile, used, memory)

    def _p99(self) -> float:
        self._crew.rehearse(self._work)
        self._crew.perform(self._seconds, SETTLE, TAIL)
        return percentile_ms(sorted(self._crew.collect().latencies), 0.99)

    def _with_control(self, share: float) -> float:
        with _process("-c", BURN.format(turn=TURN), f"{min(share, 1.0):.3f}"):
            return self._p99()

    def _with_hostile(self) -> tuple[float, float, float]:
        """p99, the process's share of a processor, the broker's memory."""
        program = str(Path(__file__).with_name("hostility.py"))
        path = self._broker.address.removeprefix("ipc://")
        with _process(program, self._name, path) as process:
            assert process.stdout is not None
            process.stdout.readline()  # it has begun
            before, began = processor.seconds([process.pid]), time.monotonic()
            p99 = self._p99()
            share = (processor.seconds([process.pid]) - before) / (time.monotonic() - began)
            return p99, share, resident_mb(self._broker.pid)


class _process(ExitStack):  # noqa: N801  used as a function
    """A Python program for the block."""

    def __init__(self, *arguments: str) -> None:
        super().__init__()
        self._arguments = arguments

    def __enter__(self) -> "subprocess.Popen[str]":  # type: ignore[override]  # gives what it starts
        root = str(Path(__file__).resolve().parent.parent.parent)
        process = subprocess.Popen(
            [sys.executable, *self._arguments], stdout=subprocess.PIPE, text=True, cwd=root, env={"PYTHONPATH": root}
        )
        self.callback(process.wait)
        self.callback(process.kill)
        return process


if __name__ == "__main__":
    main()
