"""Shows a failover live: threads write and read through a broker while the servers under it change places.

A primary and two standbys. The primary is killed (-9), a standby is promoted, the old primary is started again as it
was, and at last made a standby of the new one. Each second has a line. In the end: how long after the promotion the
first write was, what the clients were told, and how many acknowledged writes are not in the new primary's table.
"""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
# The servers and the ledger are the tests'.
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from brokers import Broker, listening  # noqa: E402
from clusters import Cluster, cluster  # noqa: E402
from writers import TABLE, Entry, Fate, Load  # noqa: E402

OLD, NEW, OTHER = "a", "b", "c"
# Between two requests of a thread, in seconds: the servers share this machine with all the rest.
PAUSE = 0.002
POLL_INTERVAL = 0.001
BINS_PER_SECOND = 4
SIZE_INCHES = (9.0, 5.0)
DPI = 120


@dataclass(frozen=True, slots=True)
class Event:
    """Something that is done to the servers, and when: a part of the whole time."""

    moment: float
    text: str
    action: Callable[[], None]


class Play:
    """What happens to the servers, in its order, in a thread of its own."""

    def __init__(self, servers: Cluster) -> None:
        self.events = [
            Event(0.2, f"{OLD} is killed", servers[OLD].kill),
            Event(0.35, f"{NEW} is promoted", self._promote),
            Event(0.45, f"{OTHER} follows {NEW}", lambda: servers.follow(OTHER, NEW)),
            Event(0.55, f"{OLD} is started as it was", servers[OLD].start),
            Event(0.75, f"{OLD} is rewound", lambda: servers.follow(OLD, NEW)),
        ]
        self.begun: list[tuple[float, str]] = []  # when, and what
        self.promoted = 0.0  # when the new primary took writes
        self.failure: BaseException | None = None
        self._servers = servers

    def run(self, begin: float, seconds: float) -> None:
        """Play it; times are by time.monotonic."""
        try:
            for event in self.events:
                time.sleep(max(0.0, begin + event.moment * seconds - time.monotonic()))
                self.begun.append((time.monotonic(), event.text))
                event.action()
        except BaseException as error:  # noqa: BLE001  the main thread raises it
            self.failure = error

    def _promote(self) -> None:
        # pg_ctl looks ten times a second whether it is done, which would be too late here.
        promotion = threading.Thread(target=self._servers.promote, args=(NEW,))
        with closing(self._servers[NEW].connect()) as connection, connection.cursor() as cursor:
            promotion.start()
            while not self.promoted:
                cursor.execute("SELECT pg_is_in_recovery()")
                if cursor.fetchone() == (False,):
                    self.promoted = time.monotonic()
                time.sleep(POLL_INTERVAL)
        promotion.join()


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--seconds", type=click.FloatRange(10), default=20.0, help="How long it takes.")
@click.option("--writers", type=click.IntRange(1), default=4, help="Threads that write.")
@click.option("--readers", type=click.IntRange(0), default=2, help="Threads that read, on replicas.")
@click.option("--asynchronous", is_flag=True, help="Let COMMIT wait for no standby: then writes can be lost.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Where to save a picture (PNG).")
def main(seconds: float, writers: int, readers: int, asynchronous: bool, plot: Path | None) -> None:
    """Exit status 1 where a write that was acknowledged by synchronous servers is lost, or what was told is wrong."""
    try:
        with cluster() as servers:
            servers[OLD].execute(TABLE)
            if not asynchronous:
                servers[OLD].configure(synchronous_standby_names=NEW)
            endpoints = {name: node.parameters for name, node in servers.nodes.items()}
            # Over tcp each thread counts as a process of its own: those who read do not wait for what others write.
            broker = Broker(endpoints, {"default": {"max_size": writers + readers}}, listening("tcp"))
            try:
                broker.start()
                play = Play(servers)
                load, begin = perform(broker, play, writers, readers, seconds)
            finally:
                broker.close()
            is_right = show_end(load, servers, play, are_all=not asynchronous)
    except KeyboardInterrupt:
        sys.exit("failover: interrupted; everything is removed")
    if plot is not None:
        draw(plot, load, begin, seconds, play.begun)
        print(f"picture: {plot}")
    if not is_right:
        sys.exit(1)


def perform(broker: Broker, play: Play, writers: int, readers: int, seconds: float) -> tuple[Load, float]:
    """Play it under load, with a line for each second."""
    load = Load(broker.handler, writers, readers, PAUSE)
    print("  s  writes/s  reads/s  errors               endpoints")
    with load:
        begin = time.monotonic()
        thread = threading.Thread(target=play.run, args=(begin, seconds), daemon=True)
        thread.start()
        for second in range(1, int(seconds) + 1):
            time.sleep(max(0.0, begin + second - time.monotonic()))
            show_second(second, load, begin, broker, play.begun)
        thread.join()
    if play.failure is not None:
        raise play.failure
    return load, begin


def show_second(second: int, load: Load, begin: float, broker: Broker, begun: Sequence[tuple[float, str]]) -> None:
    """One line: what was done in this second, and what the endpoints are at its end."""
    since, until = begin + second - 1, begin + second
    writes, reads = ([each for each in ended if since <= each.when < until] for ended in both(load))
    errors = outcomes([*writes, *reads])
    told = ", ".join(f"{count} {outcome}" for outcome, count in errors.items()) or "-"
    roles = "  ".join(f"{name} {each['role']}" for name, each in broker.stats()["endpoints"].items())
    happened = "; ".join(text for when, text in begun if since <= when < until)
    line = f"{second:3}  {served(writes):8,}  {served(reads):7,}  {told:20} {roles}"
    print(f"{line}   <- {happened}" if happened else line, flush=True)


def show_end(load: Load, servers: Cluster, play: Play, are_all: bool) -> bool:
    """What came of it; whether all is right."""
    writes, reads = both(load)
    first = min((each.when for each in writes if each.fate is Fate.THERE and each.when > play.promoted), default=None)
    told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes([*writes, *reads]).items())
    lost = load.lost(servers[NEW])
    wrong = load.audit(servers[NEW], are_all)
    waited = "none" if first is None else f"{(first - play.promoted) * 1000:.0f} ms"
    print(f"\nfirst write after the promotion: {waited}")
    print(f"writes acknowledged: {served(writes):,}, reads answered: {served(reads):,}")
    print(f"errors: {told or 'none'}")
    print(f"acknowledged writes lost: {len(lost)}")
    for mistake in wrong[:10]:
        print(f"WRONG: {mistake}")
    return first is not None and not wrong


def both(load: Load) -> tuple[list[Entry], list[Entry]]:
    """Writes and reads that have ended so far."""
    return list(load.writes.values()), list(load.reads)


def served(entries: Sequence[Entry]) -> int:
    """How many had a result."""
    return sum(each.error is None for each in entries)


def outcomes(entries: Sequence[Entry]) -> Counter[str]:
    """How many ended with an error, by its outcome."""
    return Counter(each.error.outcome for each in entries if each.error is not None)


def draw(path: Path, load: Load, begin: float, seconds: float, begun: Sequence[tuple[float, str]]) -> None:
    """Throughput above, errors below, over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    bins = int(seconds * BINS_PER_SECOND)
    for name, entries in zip(("writes", "reads"), both(load), strict=True):
        good = [each.when - begin for each in entries if each.error is None]
        weights = [BINS_PER_SECOND] * len(good)
        above.hist(good, bins, range=(0, seconds), weights=weights, histtype="step", label=name, linewidth=1.5)
    bad: dict[str, list[float]] = {}
    for each in [*both(load)[0], *both(load)[1]]:
        if each.error is not None:
            bad.setdefault(each.error.outcome, []).append(each.when - begin)
    if bad:
        below.hist(list(bad.values()), bins, range=(0, seconds), stacked=True, label=list(bad))
        below.legend()
    _label(above, "per second", begin, begun)
    _label(below, "errors", begin, begun)
    below.yaxis.get_major_locator().set_params(integer=True)
    above.legend()
    above.set_title("A primary is killed and a standby promoted", fontsize="medium")
    below.set_xlabel("seconds")
    figure.savefig(path, dpi=DPI)


def _label(axes: Any, label: str, begin: float, begun: Sequence[tuple[float, str]]) -> None:
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    for when, text in begun:
        axes.axvline(when - begin, color="black", linestyle=":", linewidth=1)
        if label == "per second":
            axes.annotate(text, (when - begin, 0.02), xycoords=("data", "axes fraction"), rotation=90, fontsize="small")


if __name__ == "__main__":
    main()
