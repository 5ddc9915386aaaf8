"""One measurement: a contestant is set up, its workers work, and what they and everybody else used is read.

Each one begins from the start, broker and pgbouncer included, and waits until the backends of the one before are gone:
what one contestant leaves behind is not another's burden, and all backends that are there are its own.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple, Self

from benchmark import memory, processor
from benchmark.crew import Crew, CrewError, Tally, percentile_ms
from benchmark.database import Database, DatabaseError
from benchmark.figures import Cell, Figures
from benchmark.lineup import Entry, Middle, Site, enter
from benchmark.network import Network
from benchmark.settings import Settings
from benchmark.workloads import WORKLOADS
from benchmark.workspace import Workspace

# Seconds of work before the measured time begins and after it ends: then all workers are at work, none is starting, and
# what is prepared or learned from the first requests is.
SETTLE = 0.5
TAIL = 0.1


class Bench:
    """Where measurements are made: a database, and the way to it."""

    def __init__(self, workspace: Workspace, database: Database, network: Network | None, settings: Settings) -> None:
        self._workspace = workspace
        self._database = database
        self._network = network
        self._settings = settings
        self._memory_kind = memory.kind(database.postmaster)

    @property
    def memory_kind(self) -> str:
        """What the kernel calls the memory that is summed up over the backends."""
        return self._memory_kind[1]

    def measure(self, cell: Cell) -> Figures:
        """One cell in one round."""
        self._database.wait_until_quiet()
        if WORKLOADS[cell.place.workload].writes:
            self._database.tidy()
        entry = enter(cell.contestant, self._site(cell))
        try:
            with ExitStack() as stack:
                return self._measure(cell, entry, stack)
        except (CrewError, DatabaseError) as error:
            if self._network is not None:
                self._network.check()  # its end explains more than what others make of it
            words = "" if entry.middle is None else f"\n{entry.middle.last_words()}"
            raise CrewError(f"{cell}: {error}{words}") from None

    def _site(self, cell: Cell) -> Site:
        database, sessions = self._database, self._settings.sessions
        dsn = database.dsn if self._network is None else self._network.dsn
        return Site(self._workspace.folder, dsn, cell.place.backends, sessions, database.account)

    def _measure(self, cell: Cell, entry: Entry, stack: ExitStack) -> Figures:
        settings, workers = self._settings, cell.place.workers
        if entry.middle is not None:
            stack.enter_context(self._workspace.running(entry.middle.launch, entry.middle.stop))
        idle = self._hold(entry, max(settings.connected, entry.connected) - workers, stack)
        crew = Crew(workers, entry.contestant.connect, settings.start_method)
        stack.enter_context(self._workspace.running(crew.start, crew.stop))
        crew.rehearse(partial(WORKLOADS[cell.place.workload].request, scale=settings.scale))
        meter = Meter(self._database.postmaster, entry.middle, self._network, idle)
        window = crew.perform(settings.seconds, SETTLE, TAIL)
        _sleep_until(window.begin)
        before = meter.read()
        _sleep_until(window.end)
        after = meter.read()
        tally = crew.collect()
        used = meter.between(before, after).scaled(settings.seconds)
        if entry.middle is not None:
            entry.middle.check()
        self._check(cell, tally)
        return self._figures(tally, used, entry.middle)

    def _hold(self, entry: Entry, count: int, stack: ExitStack) -> list[int]:
        """Open sessions that do nothing, all in one process; returns its id."""
        if count <= 0:
            return []
        holder = Crew(1, partial(entry.contestant.hold, count), self._settings.start_method)
        stack.enter_context(self._workspace.running(holder.start, holder.stop))
        holder.rehearse(_do_nothing)
        return holder.pids

    def _check(self, cell: Cell, tally: Tally) -> None:
        if not tally.latencies:
            raise CrewError(f"no request began within {self._settings.seconds:g} s; give it more --seconds")
        history = WORKLOADS[cell.place.workload].history
        if history:
            self._database.check_history(tally.acknowledged * history)

    def _figures(self, tally: Tally, used: "Reading", middle: Middle | None) -> Figures:
        """What it comes to. All sessions are still open, so the memory is that of all of them."""
        seconds = self._settings.seconds
        backends = self._database.backends()
        latencies = sorted([*tally.latencies, *tally.apart])
        micro = 1e6 / len(latencies)
        clients = tally.processor_seconds + used.idle
        others = used.machine - clients - used.middle - used.server - used.network
        return Figures(
            per_second=len(latencies) / seconds,
            p50_ms=percentile_ms(latencies, 0.50),
            p99_ms=percentile_ms(latencies, 0.99),
            short_p99_ms=percentile_ms(sorted(tally.latencies), 0.99) if tally.apart else None,
            clients_us=clients * micro,
            middle_us=None if middle is None else used.middle * micro,
            server_us=used.server * micro,
            network_us=None if self._network is None else used.network * micro,
            server_mb=memory.anonymous_mb(backends, self._memory_kind),
            server_backends=len(backends),
            middle_mb=None if middle is None else memory.resident_mb(middle.pid),
            others_percent=others / (processor.COUNT * seconds) * 100,
        )


class Reading(NamedTuple):
    """The time, and processor seconds used since whenever or between two readings. The workers measure their own."""

    time: float
    middle: float
    network: float
    idle: float
    server: float
    machine: float

    def minus(self, earlier: Self) -> Self:
        return type(self)(*(after - before for after, before in zip(self, earlier, strict=True)))

    def scaled(self, seconds: float) -> Self:
        """As it would have been in so many seconds: on a busy machine a reading comes when it comes."""
        return type(self)(*(each * seconds / self.time for each in self))


class Meter:
    """Reads what everybody but the workers has used.

    A reading must be quick: this process competes with all the workers for the processor, and what takes it a
    millisecond of work may take a hundred to be done. So whose clocks to read is found out before.
    """

    def __init__(self, postmaster: int, middle: Middle | None, network: Network | None, idle: Sequence[int]) -> None:
        self._middle = [] if middle is None else [middle.pid]
        self._network = [] if network is None else [network.pid]
        self._idle = idle
        self._postmaster = postmaster
        self._family = [postmaster, *processor.children(postmaster)]

    def read(self) -> Reading:
        return Reading(
            time.perf_counter(),
            processor.seconds(self._middle),
            processor.seconds(self._network),
            processor.seconds(self._idle),
            processor.seconds(self._family) + processor.reaped_seconds(self._postmaster),
            processor.machine_seconds(),
        )

    def between(self, before: Reading, after: Reading) -> Reading:
        """The difference; what PostgreSQL's processes that have begun meanwhile used belongs to it."""
        used = after.minus(before)
        begun = set(processor.children(self._postmaster)) - set(self._family)
        return used._replace(server=used.server + processor.seconds(begun))


def _do_nothing(*_: Any) -> None:
    pass


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.perf_counter()))
