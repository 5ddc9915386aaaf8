"""What the chaos happens to: a server, a network, a broker and its workers, all real."""

import random
import signal
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg2
from bookkeeper import GROUPS, TABLE
from brokers import ROOT, Broker, Worker
from census import backends
from postgres import PrivatePostgres
from probes import Probes
from proxy import Proxy
from waiting import wait_until

# The server ends a statement after this, the broker GUARD and CANCEL_TIMEOUT later where the server cannot.
QUERY_TIMEOUT = 2.0
ENDPOINT = {"query_timeout": QUERY_TIMEOUT, "connect_timeout": 2.0, "options": "-c deadlock_timeout=100ms"}
# What recovery from anything may take: a statement in a black hole takes QUERY_TIMEOUT, GUARD and CANCEL_TIMEOUT, an
# endpoint's quarantine some ten seconds, and the machine may be busy. Only what never recovers reaches it.
LIVENESS = 45.0
SETTLED = 30.0
ASK_TIMEOUT = 2  # libpq takes no less

PROGRAM = f"""
sys.path[:0] = {[str(ROOT / "tests" / "chaos")]!r}
import bookkeeper
bookkeeper.main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
"""
SERVED = "SELECT pid FROM pg_stat_activity WHERE application_name = 'poold' AND backend_type = 'client backend'"


class Stage:
    """Everything that can be hurt. A block: its end ends it all."""

    def __init__(self, server: PrivatePostgres, folder: Path, chance: random.Random, workers: int) -> None:
        self.server = server
        self.chance = chance
        self.folder = folder
        self.proxy = Proxy(server, chance)
        self.broker: Broker
        self.probes: Probes
        # Those that run, and how many were ever started: each has its number, which no other gets.
        self.workers: list[Worker] = []
        self.started = 0
        self._count = workers
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.server.execute(TABLE)
            stack.enter_context(self.proxy)
            self.broker = Broker({"main": {**self.proxy.parameters, **ENDPOINT}}, GROUPS, {"drain_timeout": 5})
            stack.callback(self.broker.close)
            self.broker.start()
            stack.callback(self._end_workers)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def begin(self) -> None:
        """Let the workers come, and those who ask all the time whether somebody is served."""
        self.fill()
        self.probes = self._cleanup.enter_context(Probes(self.broker.address, list(GROUPS)))
        self.probes.wait_served(LIVENESS)

    def fill(self) -> None:
        """Start workers for those that are gone, which must have been killed."""
        for worker in [each for each in self.workers if each.process.poll() is not None]:
            if worker.process.returncode != -signal.SIGKILL:
                worker.finish()  # says what it had to complain of
                raise AssertionError("a worker has ended before it was told to")
            worker.close()
            self.workers.remove(worker)
        while len(self.workers) < self._count:
            self.started += 1
            log = self.folder / f"{self.started}.log"
            seed = self.chance.randrange(2**32)
            worker = Worker(PROGRAM, str(self.started), str(log), str(seed), address=self.broker.address)
            self.workers.append(worker)

    def end(self) -> None:
        """Let the workers finish what they do, and wait until nothing is under way any more."""
        self.fill()
        self.probes.close()
        for worker in self.workers:
            worker.say("stop")
        for worker in self.workers:
            worker.finish()
        try:
            wait_until(lambda: not self.restless(), SETTLED, "the end of everything that was under way")
        except AssertionError as error:
            error.add_note(f"still under way: {self.restless()}")
            raise

    def _end_workers(self) -> None:
        for worker in self.workers:
            worker.close()

    def restless(self) -> list[Any]:
        """What is still under way in the broker and in the server."""
        found: list[Any] = []
        stats = self.broker.stats()
        if stats["clients"] > 1 or any(each["requests"] or each["leases"] for each in stats["processes"]):
            found += stats["processes"]  # who asks is one of them
        for name, group in stats["groups"].items():
            busy = {"waiting": group["waiting"]}
            for pool in group["endpoints"].values():
                busy.update((state, pool[state]) for state in ("active", "leased", "cancelling", "resetting"))
                busy["away"] = pool["size"] - pool["idle"]
            found += [(name, what, count) for what, count in busy.items() if count]
        there = [each for each in self.server.backends() if each["application_name"] == "poold"]
        found += [dict(each) for each in there if each["state"] != "idle"]
        if len(there) != backends(stats):
            found.append((len(there), "processes of the server for backends", backends(stats)))
        return found

    def serving(self) -> list[int]:
        """The server's processes that serve the broker; none where the server cannot say."""
        return [pid for (pid,) in self.ask(SERVED)]

    def ask(self, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Ask the server, past the proxy; no rows where another fault keeps it from answering."""
        try:
            connection = self.server.connect(connect_timeout=ASK_TIMEOUT)
        except psycopg2.OperationalError:
            return []
        with closing(connection), connection.cursor() as cursor, suppress(psycopg2.OperationalError):
            cursor.execute(sql, parameters)
            return cursor.fetchall()
        return []
