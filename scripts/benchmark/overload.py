"""What the broker does with more work than it can do, and who gets it done. Everything is a ratio.

\b
goodput   requests answered in time while twice as many as possible are sent, / the capacity: with a bounded queue
          (max_waiting) and with deadlines alone; statements that sleep, and statements that burn
single    latencies of a process with one request at a time beside one with 1,000, and beside several, / without them
batch     latencies of interactive workers beside a flood of priority batch, / without it; then the same flood as normal
weights   what each priority gets where all three want everything

Backends are 8. The workers' statement and a flood of "brief" ones sleep 1 ms in PostgreSQL, "sleep" is 5 ms, "long" 20;
"burn" is some milliseconds of a processor. Two processors are enough for all but the last.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from random import Random
from statistics import median
from typing import NamedTuple

import click

from benchmark.broker import STATEMENTS, Broker
from benchmark.crew import NOTICE, Crew, Window, end_helpers, percentile_ms
from benchmark.database import Database
from benchmark.stream import Order, Report, Stream
from benchmark.workspace import Workspace
from client import Handler
from client.wire.limits import BATCH, INTERACTIVE, NORMAL, PRIORITIES
from poold.config.model import Weights

BACKENDS = 8
TIMEOUT = 0.5
# What is offered, in capacities.
OVERLOAD = 2.0
GOODPUT, BOUND = 0.9, 1.5
# Interactive ones; batch leaves them a backend each. Twice as many have to share.
WORKERS = 4
# In flight where a capacity is measured: no backend waits for the client.
BUSY = 4 * BACKENDS
FLOOD = 1000
FLOODING = 4  # processes
SETTLE, TAIL = 0.3, 0.1

# Time of nobody's processor, so that what is measured are the queue's decisions; and time of all processors.
SLEEP = "SELECT pg_sleep(0.005)"
BURN = "SELECT sum(number) FROM generate_series(1, 30000) number"
BRIEF = "SELECT pg_sleep(0.001)"
LONG = "SELECT pg_sleep(0.02)"


class Line(NamedTuple):
    """One line of the table: what it says, and whether the promise is kept; None where there is none."""

    text: str
    is_kept: bool | None = None

    def __str__(self) -> str:
        return f"{self.text:116}{'' if self.is_kept is None else 'kept' if self.is_kept else 'NOT KEPT'}"


class Bench:
    """Brokers, streams and crews of one run."""

    def __init__(self, workspace: Workspace, database: Database, rounds: int, seconds: float) -> None:
        self.rounds = rounds
        self._seconds = seconds
        self._workspace = workspace
        self._database = database
        self._stack = ExitStack()
        self._works: dict[Crew, partial[None]] = {}

    def broker(self, settings: str = "", backends: int = BACKENDS) -> Broker:
        """Another broker, in the place of the last one."""
        self._stack.close()
        broker = Broker(self._workspace.folder, self._database.dsn, backends, settings)
        self._stack.enter_context(self._workspace.running(broker.launch, broker.stop))
        return broker

    def streams(self, broker: Broker, count: int) -> list[Stream]:
        """Processes that send; they stay as long as the broker."""
        found = [Stream(broker.address) for _ in range(count)]
        for stream in found:
            self._stack.enter_context(self._workspace.running(stream.start, stream.stop))
        return found

    def crew(self, broker: Broker, count: int, priority: int, statement: str) -> Crew:
        """Workers that ask one thing at a time; they stay as long as the broker."""
        connect = partial(Handler, STATEMENTS, address=broker.address, priority=PRIORITIES[priority])
        crew = Crew(count, connect)
        self._stack.enter_context(self._workspace.running(crew.start, crew.stop))
        self._works[crew] = partial(_ask, statement)
        return crew

    def send(self, *pairs: tuple[Stream, Order]) -> list[Report]:
        """Let them send together, for one measurement."""
        window = self.window()
        for stream, order in pairs:
            stream.tell(order, window)
        return [stream.report() for stream, _ in pairs]

    def latencies(self, crew: Crew, *pairs: tuple[Stream, Order]) -> tuple[float, float, float, list[Report]]:
        """The crew's p50 and p99 in ms and requests per second while the streams send."""
        crew.rehearse(self._works[crew])
        window = crew.perform(self._seconds, SETTLE, TAIL)
        for stream, order in pairs:
            stream.tell(order, window)
        found = sorted(crew.collect().latencies)
        reports = [stream.report() for stream, _ in pairs]
        return percentile_ms(found, 0.5), percentile_ms(found, 0.99), len(found) / self._seconds, reports

    def window(self) -> Window:
        """The next measurement's."""
        begin = time.perf_counter() + NOTICE + SETTLE
        return Window(begin - SETTLE, begin, begin + self._seconds, begin + self._seconds + TAIL, False)

    def per_second(self, count: float) -> float:
        """So many in one measurement."""
        return count / self._seconds

    def close(self) -> None:
        """End the last broker."""
        self._stack.close()


def _ask(statement: str, db: Handler, chance: Random) -> None:
    db.query(statement).fetchone()


def goodput(bench: Bench) -> Iterator[Line]:
    """At twice the capacity."""
    kinds = {"sleep": SLEEP, "burn": BURN}
    queues = {"max_waiting = 100": "max_waiting = 100", "deadlines alone": ""}
    for queue, settings in queues.items():
        broker = bench.broker(settings)
        streams = bench.streams(broker, 2)
        for kind, statement in kinds.items():
            _capacity(bench, streams, statement)  # backends open, the statement becomes known: no capacity yet
            rounds = [_overloaded(bench, streams, statement) for _ in range(bench.rounds)]
            ratio = median(good / capacity for capacity, good, _ in rounds)
            capacity = median(capacity for capacity, _, _ in rounds)
            whole = sum((report for _, _, report in rounds), Report())
            found = sorted(whole.latencies)
            shares = ", ".join(f"{name} {count / whole.sent:.1%}" for name, count in sorted(whole.failures.items()))
            yield Line(f"goodput  {kind:6} {queue:18} {ratio:.3f} of {capacity:,.0f}/s", ratio >= GOODPUT)
            yield Line(
                f"         p50 {percentile_ms(found, 0.5):.0f} ms, p99 {percentile_ms(found, 0.99):.0f} ms, "
                f"most {found[-1] * 1000:.0f} ms; late {_late(found) / whole.sent:.1%}, {shares}"
            )


def _capacity(bench: Bench, streams: list[Stream], statement: str) -> float:
    """What is answered in a second where all backends are busy and nothing waits for long."""
    full = Order(statement, unanswered=BUSY // len(streams), timeout=TIMEOUT)
    return bench.per_second(sum(report.served for report in bench.send(*((each, full) for each in streams))))


def _overloaded(bench: Bench, streams: list[Stream], statement: str) -> tuple[float, float, Report]:
    """The capacity, what was answered in time at twice of it, and the rest of it."""
    capacity = _capacity(bench, streams, statement)
    flood = Order(statement, rate=OVERLOAD * capacity / len(streams), timeout=TIMEOUT)
    report = sum(bench.send(*((each, flood) for each in streams)), Report())
    return capacity, bench.per_second(len(report.latencies) - _late(report.latencies)), report


def _late(latencies: Iterable[float]) -> int:
    return sum(each > TIMEOUT for each in latencies)


def single(bench: Bench) -> Iterator[Line]:
    """One with a single request at a time."""
    for kind, statement in {"sleep": SLEEP, "brief": BRIEF}.items():
        broker = bench.broker()
        crew = bench.crew(broker, 1, NORMAL, statement)
        streams = bench.streams(broker, FLOODING)
        one = [(streams[0], Order(statement, unanswered=FLOOD))]
        more = [(each, Order(statement, unanswered=FLOOD)) for each in streams]
        for name, pairs in {"one process": one, f"{FLOODING} processes": more}.items():
            yield Line(_compared(bench, crew, f"single   {kind:6} with {FLOOD:,} of {name}", pairs)[0])


def _compared(bench: Bench, crew: Crew, title: str, pairs: list[tuple[Stream, Order]]) -> tuple[str, float]:
    """The crew's latencies with the streams / without them."""
    alone, beside = [], []
    for number in range(bench.rounds):
        for is_alone in (True, False) if number % 2 else (False, True):
            (alone if is_alone else beside).append(bench.latencies(crew, *(() if is_alone else pairs)))
    p50, p99 = (median(b[which] / a[which] for a, b in zip(alone, beside, strict=True)) for which in (0, 1))
    flood = median(bench.per_second(sum(report.served for report in each[3])) for each in beside)
    before, after = (median(each[1] for each in rounds) for rounds in (alone, beside))
    rates = [median(each[2] for each in rounds) for rounds in (alone, beside)]
    text = (
        f"{title:44} p50 x {p50:.2f}, p99 x {p99:.2f} ({before:.1f} -> {after:.1f} ms), "
        f"{rates[0]:,.0f} -> {rates[1]:,.0f}/s beside {flood:,.0f}/s"
    )
    return text, p99


def batch(bench: Bench) -> Iterator[Line]:
    """Interactive workers beside a flood."""
    for workers in (WORKERS, 2 * WORKERS):
        for kind, statement in {"long": LONG, "brief": BRIEF}.items():
            broker = bench.broker()
            crew = bench.crew(broker, workers, INTERACTIVE, BRIEF)
            streams = bench.streams(broker, 2)
            floods = {"batch": BATCH, "normal": NORMAL} if workers == WORKERS else {"batch": BATCH}
            for name, priority in floods.items():
                pairs = [(each, Order(statement, unanswered=FLOOD // 2, priority=priority)) for each in streams]
                title = f"batch    {workers} interactive, {kind} flood of {name}"
                text, p99 = _compared(bench, crew, title, pairs)
                yield Line(text, p99 <= BOUND if priority == BATCH else None)


def weights(bench: Bench) -> Iterator[Line]:
    """What each priority gets."""
    configured = Weights()
    by_priority = (configured.interactive, configured.normal, configured.batch)
    broker = bench.broker("batch_share = 1.0")
    streams = bench.streams(broker, len(PRIORITIES))
    for kind, long in {"sleep": SLEEP, "long batch": LONG}.items():
        pairs = [
            (each, Order(long if priority == BATCH else SLEEP, unanswered=200, priority=priority))
            for priority, each in enumerate(streams)
        ]
        rounds = [[report.served for report in bench.send(*pairs)] for _ in range(bench.rounds)]
        served = [median(column) for column in zip(*rounds, strict=True)]
        texts = [
            f"{name} {count / sum(served):.1%} for {weight / sum(by_priority):.1%}"
            for name, count, weight in zip(PRIORITIES, served, by_priority, strict=True)
        ]
        yield Line(f"weights  {kind:12} {', '.join(texts)}", min(served) > 0)


MEASUREMENTS: dict[str, Callable[[Bench], Iterator[Line]]] = {
    each.__name__: each for each in (goodput, single, batch, weights)
}


@click.command(help=__doc__, context_settings={"show_default": True})
@click.argument("names", nargs=-1, metavar="[MEASUREMENT]...", type=click.Choice(list(MEASUREMENTS)))
@click.option("--rounds", type=click.IntRange(1), default=3)
@click.option("--seconds", type=click.FloatRange(0.1), default=0.8, help="Of each measurement.")
def main(names: tuple[str, ...], rounds: int, seconds: float) -> None:
    """Show a line for each; exit status 1 where a promise is not kept."""
    is_kept = True
    with Workspace("poold-overload") as workspace:
        workspace.callback(end_helpers)
        database = Database(workspace.folder / "postgresql", 4 * BACKENDS)
        workspace.launch(database.start, database.stop)
        bench = Bench(workspace, database, rounds, seconds)
        workspace.callback(bench.close)
        for name in names or MEASUREMENTS:
            for line in MEASUREMENTS[name](bench):
                is_kept = is_kept and line.is_kept is not False
                click.echo(line)
        click.echo("load of the machine in the last minute {:.1f}, in the last five {:.1f}".format(*os.getloadavg()))
    sys.exit(0 if is_kept else 1)


if __name__ == "__main__":
    main()
