"""What it costs to be watched: a point select with and without code places, tags, logs and traces, as ratios.

    PYTHONPATH=scripts .venv/bin/python scripts/benchmark/watched.py [--rounds N] [--quick]

One client asks one broker for one row again and again, and waits for each reply; that is where each microsecond shows
most. The ways take turns within each round, so that a machine whose speed drifts is fair to all. Shown is each way's
rate divided by the plain one's of the same round, as the median of the rounds and the bounds of their middle half; and
its processor time in client and broker, divided by the plain one's.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from benchmark.broker import Broker
from benchmark.processor import seconds as processor_seconds
from benchmark.workspace import Workspace
from client import Handler
from poold.embedded.server import EmbeddedPostgres

SELECT = "SELECT abalance FROM accounts WHERE aid = %s"
ROWS = 1000
WARM_UP = 200
# Statements of one way in each round: so few that whatever else the machine does disturbs few of them.
STATEMENTS = 50
QUICK_ROUNDS = 20
GROUPS = """
log_slow = 0

[groups.logged]
log_slow = 1
log_long_wait = 1

[groups.closely]
log_slow = 0.001
log_long_wait = 0.001

[groups.name]
show_tags = "application_name"

[groups.comment]
show_tags = "comment"
"""


def rate(db: Handler) -> float:
    """Statements per second."""
    began = time.perf_counter()
    for number in range(STATEMENTS):
        db.query(SELECT, (number,))
    return STATEMENTS / (time.perf_counter() - began)


@contextlib.contextmanager
def in_span(provider: Any) -> Iterator[None]:
    with provider.get_tracer("benchmark").start_as_current_span("work"):
        yield


def ways(address: str, is_traced: bool) -> dict[str, tuple[Handler, Callable[[], Any]]]:
    """The Handlers by what is watched, and the context in which each asks."""

    def handler(group: str = "default", **more: Any) -> Handler:
        return Handler(group, address=address, **more)

    nothing = contextlib.nullcontext
    if is_traced:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

        on, off = TracerProvider(), TracerProvider(sampler=ALWAYS_OFF)
        return {
            "plain (trace=False)": (handler(trace=False), nothing),
            "OpenTelemetry loaded, no span": (handler(), nothing),
            "in a span that is not recorded": (handler(), lambda: in_span(off)),
            "in a span that is recorded": (handler(), lambda: in_span(on)),
        }
    return {
        "plain": (handler(trace=False), nothing),
        "as it is without options": (handler(), nothing),
        "with a tag, show_tags off": (handler(tag="shop"), nothing),
        "code_place=True": (handler(code_place=True), nothing),
        "log_slow, log_long_wait = 1": (handler("logged"), nothing),
        "log_slow, log_long_wait = 0.001": (handler("closely"), nothing),
        "show_tags = application_name, tagged": (handler("name", tag="shop"), nothing),
        "show_tags = application_name, no tag": (handler("name"), nothing),
        "show_tags = comment, tagged": (handler("comment", tag="shop"), nothing),
    }


def compare(address: str, pid: int, rounds: int, is_traced: bool) -> None:
    """Measure all ways in turns, and show their ratios."""
    watched = ways(address, is_traced)
    for db, context in watched.values():
        with context():
            for number in range(WARM_UP):
                db.query(SELECT, (number,))
    found: dict[str, list[float]] = {name: [] for name in watched}
    spent = dict.fromkeys(watched, 0.0)
    pids = [os.getpid(), pid]
    for _ in range(rounds):
        for name, (db, context) in watched.items():
            before = processor_seconds(pids)
            with context():
                found[name].append(rate(db))
            spent[name] += processor_seconds(pids) - before
    first, least = next(iter(found.values())), next(iter(spent.values()))
    for name, rates in found.items():
        ratios = sorted(each / base for each, base in zip(rates, first, strict=True))
        low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
        shown = f"{name:40} {median(ratios):5.2f}   ({low:.2f} to {high:.2f})"
        print(f"{shown}   processor time {spent[name] / least:5.2f}", flush=True)


def main() -> None:
    """Start a server and a broker; measure without OpenTelemetry, and in a process of its own with it."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="a first impression")
    parser.add_argument("--traced", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--pid", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    rounds = QUICK_ROUNDS if arguments.quick else arguments.rounds
    if arguments.traced:
        compare(arguments.traced, arguments.pid, rounds, is_traced=True)
        return
    with Workspace("poold-watched") as workspace:
        server = workspace.enter_context(EmbeddedPostgres(workspace.folder / "data"))
        broker = Broker(workspace.folder, server.dsn(), 4, GROUPS)
        workspace.callback(broker.stop)
        broker.launch()
        db = Handler(address=broker.address)
        db.query("CREATE TABLE accounts AS SELECT n AS aid, 0 AS abalance FROM generate_series(0, %s) AS n", (ROWS,))
        db.query("ALTER TABLE accounts ADD PRIMARY KEY (aid)")
        compare(broker.address, broker.pid, rounds, is_traced=False)
        words = [
            sys.executable,
            __file__,
            "--traced",
            broker.address,
            "--pid",
            str(broker.pid),
            "--rounds",
            str(rounds),
        ]
        subprocess.run([*words, *(["--quick"] if arguments.quick else [])], check=True, env=dict(os.environ))


if __name__ == "__main__":
    main()
