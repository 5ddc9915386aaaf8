"""Worker processes that do the same work at the same time, and measure each request.

A run has three steps, so that nothing but the work itself is measured:

    rehearse(work)     every worker opens its session and works a little; returns when all have: the barrier
    perform(seconds)   tells all of them when to begin, when the measured time begins and ends, and when to stop
    collect()          waits for the end and adds up

Owner and workers talk through a pipe each: no shared memory, no semaphore that a killed process could leave behind,
and a worker that dies is noticed by its pipe's end.
"""

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from typing import Any

# forkserver: quick as fork, and the workers inherit neither threads nor sockets of their owner.
START_METHODS = tuple(multiprocessing.get_all_start_methods())
START_METHOD = "forkserver" if "forkserver" in START_METHODS else "spawn"
# Imported once for all workers of a forkserver: what each of them needs for itself, or for the program's main module,
# which each of them imports. What is not installed is passed over.
PRELOADED = [
    *("benchmark.measurement", "benchmark.report", "benchmark.targets", "benchmark.environment"),
    *("click", "rich.progress", "rich.table", "psycopg", "psycopg_pool", "pgdbpool.pool"),
]

# Requests of the rehearsal: enough to open connections and fill the caches of client and server.
REHEARSALS = 3
# Between the order and the beginning of a performance: long enough for it to reach every worker.
NOTICE = 0.05
PROGRESS_INTERVAL = 0.1
# Workers that do not end by themselves in this time are ended.
STOP_TIMEOUT = 1.0
# A worker that says nothing for so long after its answer was due hangs. Opening hundreds of connections on a busy
# machine takes seconds.
PATIENCE = 60.0

# What a worker does again and again: one request through its session. Those that return True are counted apart.
Work = Callable[[Any, Random], bool | None]


class CrewError(RuntimeError):
    """A worker failed or died; the text has its traceback."""


@dataclass(frozen=True, slots=True)
class Window:
    """When to do what; points in time by perf_counter, which is one clock for all processes of the machine."""

    start: float
    begin: float  # requests that begin in [begin, end) are measured
    end: float
    stop: float
    progress: bool  # whether workers report how far they are


@dataclass(frozen=True, slots=True)
class Tally:
    """What workers report, and what they report together."""

    latencies: "array[float]"  # seconds, of the measured requests
    apart: "array[float]"  # the same of those for which work returned True
    processor_seconds: float  # what the workers used for the measured requests
    acknowledged: int  # all requests that ended without an error, the rehearsal's included


@dataclass(frozen=True, slots=True)
class _Failed:
    traceback: str


class Crew:
    """A number of workers with a session each."""

    def __init__(self, workers: int, connect: Callable[[], Any], start_method: str = START_METHOD) -> None:
        """connect opens a session, in the worker. Like each work it must survive pickling."""
        self._connect = connect
        self._workers = workers
        self._context: Any = multiprocessing.get_context(start_method)
        # In the order of their numbers; from start to stop.
        self._processes: list[multiprocessing.Process] = []
        self._pipes: list[Connection] = []
        # When the last of them must have reported, by perf_counter.
        self._deadline = 0.0

    @property
    def pids(self) -> list[int]:
        """The workers' process ids."""
        return [process.pid for process in self._processes if process.pid is not None]

    def start(self) -> None:
        """Start the processes; they connect when they rehearse."""
        # multiprocessing's helpers would import packages of these names from the working directory.
        os.environ["PYTHONSAFEPATH"] = "1"
        if self._context.get_start_method() == "forkserver":
            _start_forkserver()
        for number in range(self._workers):
            mine, theirs = self._context.Pipe()
            process = self._context.Process(target=_live, args=(theirs, self._connect, number), daemon=True)
            self._processes.append(process)
            self._pipes.append(mine)
            process.start()
            theirs.close()

    def stop(self) -> None:
        """End the processes, in the middle of their work if need be."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):  # it is gone already
                pipe.send(None)
        deadline = time.monotonic() + STOP_TIMEOUT
        started = [process for process in self._processes if process.pid is not None]
        for process in started:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in started:
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in self._pipes:
            pipe.close()
        self._processes, self._pipes = [], []

    def rehearse(self, work: Work) -> None:
        """Let every worker connect and do the work a few times; returns when all of them have."""
        self._tell_all(work)
        deadline = time.monotonic() + PATIENCE
        for number in range(self._workers):
            if not self._pipes[number].poll(max(0.0, deadline - time.monotonic())):
                raise CrewError(f"worker {number} has not connected and worked once within {PATIENCE:g} s")
            self._receive(number)

    def perform(self, seconds: float, settle: float = 0.0, tail: float = 0.0, progress: bool = False) -> Window:
        """Let them work for this long, and unmeasured before (settle) and after it (tail): returns at once."""
        start = time.perf_counter() + NOTICE
        begin = start + settle
        window = Window(start, begin, begin + seconds, begin + seconds + tail, progress)
        self._deadline = window.stop + PATIENCE
        self._tell_all(window)
        return window

    def collect(self, show: Callable[[int], None] = lambda count: None) -> Tally:
        """Wait until all have stopped. With progress, show gets the number of requests done so far, now and then."""
        counts = [0] * self._workers
        tallies: dict[int, Tally] = {}
        numbers = {pipe: number for number, pipe in enumerate(self._pipes)}
        while len(tallies) < self._workers:
            for pipe in wait([pipe for pipe, number in numbers.items() if number not in tallies], PROGRESS_INTERVAL):
                number = numbers[pipe]  # type: ignore[index]  # only pipes were waited for
                report = self._receive(number)
                if isinstance(report, Tally):
                    tallies[number] = report
                else:
                    counts[number] = report
            show(sum(counts))
            if time.perf_counter() > self._deadline:
                hanging = sorted(set(range(self._workers)) - set(tallies))
                raise CrewError(f"{PATIENCE:g} s after the end these workers still wait for a reply: {hanging}")
        return _sum(list(tallies.values()))

    def _tell_all(self, order: Work | Window) -> None:
        for pipe in self._pipes:
            with contextlib.suppress(OSError):  # a worker that died is noticed when its answer is due
                pipe.send(order)

    def _receive(self, number: int) -> Any:
        try:
            message = self._pipes[number].recv()
        except (EOFError, OSError):
            raise CrewError(f"worker {number} (process {self._processes[number].pid}) died") from None
        if isinstance(message, _Failed):
            raise CrewError(f"worker {number} failed:\n{message.traceback}")
        return message


def end_helpers() -> None:
    """End multiprocessing's helper processes: they would outlive this one, if only by a moment.

    Every crew must have stopped: workers hold the forkserver's life line as well. The methods are those of
    multiprocessing's own tests; there is no public way.
    """
    helpers: list[Any] = [forkserver._forkserver, resource_tracker._resource_tracker]
    for helper in helpers:
        helper._stop()


def percentile_ms(latencies: Sequence[float], share: float) -> float:
    """The latency in milliseconds that this share of the requests does not exceed; they must be sorted."""
    return latencies[min(int(len(latencies) * share), len(latencies) - 1)] * 1000


def _start_forkserver() -> None:
    """Unless it runs. It looks for what it imports where the environment says, not where this process does."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    folders = os.environ.get("PYTHONPATH")
    scripts = str(Path(__file__).parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([scripts, folders] if folders else [scripts])
    try:
        forkserver.ensure_running()
    finally:
        if folders is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = folders


def _live(pipe: Connection, connect: Callable[[], Any], number: int) -> None:
    """A worker's life."""
    # Ctrl-C reaches the whole terminal; the owner decides what ends, and may have handlers that fork has copied here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        _serve(pipe, connect, Random(number))
    except EOFError:
        pass  # the owner is gone
    except Exception:  # noqa: BLE001 - whatever it is, the owner raises it
        report = _Failed(traceback.format_exc())
        with contextlib.suppress(OSError):  # unless the owner has stopped listening, because another worker failed
            pipe.send(report)


def _serve(pipe: Connection, connect: Callable[[], Any], chance: Random) -> None:
    session = connect()
    while (work := pipe.recv()) is not None:
        for _ in range(REHEARSALS):
            work(session, chance)
        pipe.send(0)
        window = pipe.recv()
        if window is None:
            return
        pipe.send(_measure(pipe, window, work, session, chance))


def _measure(pipe: Connection, window: Window, work: Work, session: Any, chance: Random) -> Tally:
    """Work until the window's stop, and remember what was begun between its begin and its end."""
    latencies, apart, unmeasured = array("d"), array("d"), array("d")
    word = Word(pipe, window.start if window.progress else float("inf"))
    time.sleep(max(0.0, window.start - time.perf_counter()))
    _work_until(window.begin, word, work, session, chance, unmeasured, unmeasured)
    before = time.process_time()
    _work_until(window.end, word, work, session, chance, latencies, apart)
    used = time.process_time() - before
    _work_until(window.stop, word, work, session, chance, unmeasured, unmeasured)
    return Tally(latencies, apart, used, REHEARSALS + word.done)


@dataclass(slots=True)
class Word:
    """What a worker says about its progress."""

    pipe: Connection
    due: float  # when it is said next
    done: int = 0

    def say(self, now: float) -> None:
        self.due = now + PROGRESS_INTERVAL
        self.pipe.send(self.done)


def _work_until(
    moment: float,
    word: Word,
    work: Work,
    session: Any,
    chance: Random,
    latencies: "array[float]",
    apart: "array[float]",
) -> None:
    """Begin requests until then. A turn costs well below a microsecond, which counts as latency."""
    clock = time.perf_counter
    now = clock()
    while now < moment:
        before = now
        is_apart = work(session, chance)
        now = clock()
        (apart if is_apart else latencies).append(now - before)
        word.done += 1
        if now >= word.due:
            word.say(now)


def _sum(tallies: Sequence[Tally]) -> Tally:
    latencies, apart = array("d"), array("d")
    for tally in tallies:
        latencies.extend(tally.latencies)
        apart.extend(tally.apart)
    used = sum(tally.processor_seconds for tally in tallies)
    return Tally(latencies, apart, used, sum(tally.acknowledged for tally in tallies))
