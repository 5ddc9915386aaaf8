"""A soak: a broker under everything at once, for minutes; its memory, descriptors and latencies must stay flat.

Workers select, read up to 10,000 rows, send parameters up to a megabyte, transact in messages and interactively, and
make mistakes of all kinds. Now and then one of them is killed (-9) and replaced, PostgreSQL is restarted under all of
them, and all pause. Every few seconds there is a line. The verdict compares the median of the first third, after a
warm-up, with that of the last third; exit status 1 where something grew. Ctrl-C ends it with a verdict on what there
is.
"""

import json
import os
import random
import selectors
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import psycopg2
from benchmark.broker import Broker
from benchmark.crew import percentile_ms
from benchmark.database import Database
from benchmark.flatness import Limit, judge
from benchmark.memory import resident_mb
from benchmark.service import ServiceError
from benchmark.workspace import Workspace

from client import DBError
from client.channels.channel import Channel
from client.wire.messages import Answer, Ask

ROOT = Path(__file__).resolve().parent.parent
# Seconds from one to the next, on average; chosen anew each time from half to one and a half of it.
KILL_EACH = 12.0
RESTART_EACH = 75.0
LIMITS = (
    Limit("broker MB", 1.10, 10),
    Limit("descriptors", 1.0, 8),
    Limit("threads", 1.0, 1),
    Limit("clients", 1.0, 4),
    Limit("select p50 ms", 1.5, 0.2),
    Limit("select p99 ms", 2.0, 2.0),
)
ASK_TIMEOUT = 10.0
# Workers that end by themselves; each is a failure, and so many mean that none of them works.
MOST_FAILED = 20
LOG_LINES = 20
COLUMNS = (
    "s",
    "requests/s",
    "p50 ms",
    "p99 ms",
    "broker MB",
    "descriptors",
    "threads",
    "backends",
    "clients",
    "errors",
)


class SoakError(RuntimeError):
    """It cannot go on."""


@dataclass(slots=True)
class Interval:
    """What the workers have told since the last line."""

    requests: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    selects: list[float] = field(default_factory=list)


class Workers:
    """Processes of benchmark.soaking; one that is killed is replaced."""

    def __init__(self, count: int, address: str, dice: random.Random, log: Path) -> None:
        self._count = count
        self._log = log  # what they say when they fail
        self._address = address
        self._dice = dice
        self._began = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pieces: dict[int, bytes] = {}  # of lines that are not whole, by descriptor
        self.interval = Interval()
        self.failed = 0  # that ended by themselves

    def start(self) -> None:
        """All of them."""
        for _ in range(self._count):
            self._start_one()

    def stop(self) -> None:
        """End all of them."""
        for process in list(self._processes):
            self._end(process)
        self._selector.close()

    def kill_one(self) -> None:
        """One dies in the middle of whatever it does, and another comes."""
        self._end(self._dice.choice(self._processes))
        self._start_one()

    def hear(self, seconds: float) -> None:
        """Take what they tell, for so long at most."""
        for key, _ in self._selector.select(seconds):
            process: subprocess.Popen[bytes] = key.data
            data = os.read(key.fd, 1 << 20)
            if not data:
                self.failed += 1
                self._end(process)
                if self.failed > MOST_FAILED:
                    raise SoakError(f"workers end by themselves; their last words:\n{self.last_words()}")
                self._start_one()
                continue
            *lines, self._pieces[key.fd] = (self._pieces.get(key.fd, b"") + data).split(b"\n")
            for line in lines:
                self._take(json.loads(line))

    def last_words(self) -> str:
        """What those that ended by themselves said."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_LINES:]) if self._log.exists() else ""

    def _take(self, told: dict[str, Any]) -> None:
        self.interval.requests += told["requests"]
        self.interval.errors.update(told["errors"])
        self.interval.selects += told["selects"]

    def _start_one(self) -> None:
        program = ["-P", "-m", "benchmark.soaking", self._address, str(self._dice.randrange(10**6)), str(self._began)]
        variables = {**os.environ, "PYTHONPATH": f"{ROOT / 'scripts'}"}
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *program], stdout=subprocess.PIPE, stderr=log, env=variables, start_new_session=True
            )
        assert process.stdout is not None
        self._processes.append(process)
        self._selector.register(process.stdout, selectors.EVENT_READ, process)

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        self._pieces.pop(process.stdout.fileno(), None)
        self._selector.unregister(process.stdout)
        self._processes.remove(process)
        process.kill()
        process.wait()
        process.stdout.close()


class Soak:
    """One run."""

    def __init__(self, database: Database, broker: Broker, workers: Workers, dice: random.Random) -> None:
        self._database, self._broker, self._workers, self._dice = database, broker, workers, dice
        self._samples: dict[str, list[tuple[float, float]]] = {limit.name: [] for limit in LIMITS}
        self._total, self._errors = 0, Counter[str]()

    def run(self, seconds: float, interval: float) -> None:
        """Until then, or Ctrl-C."""
        began = time.monotonic()
        kill, restart, line = self._soon(KILL_EACH), self._soon(RESTART_EACH), began + interval
        click.echo(" ".join(f"{column:>11}" for column in COLUMNS))
        while (now := time.monotonic()) < began + seconds:
            self._workers.hear(min(0.2, max(0.0, line - now)))
            self._broker.check()
            if now >= line:
                self._tell(now - began, interval)
                line += interval
            if now >= kill:
                self._workers.kill_one()
                kill = self._soon(KILL_EACH)
            if now >= restart:
                self._database.restart()
                restart = self._soon(RESTART_EACH)

    def is_flat(self) -> bool:
        """Say so, figure by figure."""
        errors = ", ".join(f"{name} {count}" for name, count in self._errors.most_common()) or "none"
        click.echo(
            f"\n{self._total:,} requests; errors: {errors}; workers that ended by themselves: {self._workers.failed}"
        )
        verdicts = [judge(limit, self._samples[limit.name]) for limit in LIMITS]
        known = [verdict for verdict in verdicts if verdict is not None]
        click.echo("\n".join(map(str, known)) or "too short for a verdict")
        if self._workers.failed:
            click.echo(self._workers.last_words())
        return all(verdict.is_flat for verdict in known) and not self._workers.failed

    def _soon(self, seconds: float) -> float:
        return time.monotonic() + seconds * self._dice.uniform(0.5, 1.5)

    def _tell(self, at: float, interval: float) -> None:
        told, self._workers.interval = self._workers.interval, Interval()
        self._total += told.requests
        self._errors.update(told.errors)
        pid, selects = self._broker.pid, sorted(each / 1000 for each in told.selects)
        values: dict[str, float | None] = {
            "broker MB": resident_mb(pid),
            "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
            "threads": len(os.listdir(f"/proc/{pid}/task")),
            "clients": self._clients(),
            "select p50 ms": percentile_ms(selects, 0.5) if selects else None,
            "select p99 ms": percentile_ms(selects, 0.99) if selects else None,
        }
        for name, value in values.items():
            if value is not None:
                self._samples[name].append((at, value))
        shown = [
            f"{at:.0f}",
            f"{told.requests / interval:,.0f}",
            _ms(values["select p50 ms"]),
            _ms(values["select p99 ms"]),
        ]
        shown += [f"{values['broker MB']:.1f}", f"{values['descriptors']:.0f}", f"{values['threads']:.0f}"]
        shown += [self._backends(), "-" if values["clients"] is None else f"{values['clients']:.0f}"]
        errors = " ".join(f"{name}={count}" for name, count in sorted(told.errors.items()))
        click.echo(" ".join(f"{each:>11}" for each in shown) + f"  {errors}")

    def _clients(self) -> float | None:
        """As the broker counts them; the one that asks among them."""
        try:
            channel = Channel(self._broker.address)
            try:
                answer = channel.call(Ask(channel.next_request(), "stats"), ASK_TIMEOUT)
            finally:
                channel.close()
        except DBError:
            return None
        assert isinstance(answer, Answer)
        return float(answer.body["clients"])

    def _backends(self) -> str:
        try:
            return str(len(self._database.backends()))
        except psycopg2.Error:
            return "-"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--minutes", type=click.FloatRange(0.1), default=10.0)
@click.option("--seed", type=int, help="Of what happens when; told at the start where none is given.")
@click.option("--workers", type=click.IntRange(1), default=12)
@click.option("--backends", type=click.IntRange(1), default=4, help="Of each group: statements, and transactions.")
@click.option("--interval", type=click.FloatRange(1.0), default=10.0, help="Seconds from line to line.")
def main(minutes: float, seed: int | None, workers: int, backends: int, interval: float) -> None:
    """Run it; exit status 1 where something is not flat."""
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    dice = random.Random(seed)
    with Workspace("poold-soak") as workspace:
        click.echo(f"seed {seed}; filling the tables in {workspace.folder}")
        database = Database(workspace.folder / "postgresql", 4 * backends)
        workspace.launch(database.start, database.stop)
        database.load(1)
        broker = Broker(workspace.folder, database.dsn, backends)
        workspace.launch(broker.launch, broker.stop)
        crew = Workers(workers, broker.address, dice, workspace.folder / "workers.log")
        workspace.launch(crew.start, crew.stop)
        soak = Soak(database, broker, crew, dice)
        try:
            soak.run(minutes * 60, interval)
        except KeyboardInterrupt:
            click.echo("interrupted")
        except (SoakError, ServiceError) as error:
            sys.exit(f"soak: {error}")
        is_flat = soak.is_flat()
    sys.exit(0 if is_flat else 1)


if __name__ == "__main__":
    main()
