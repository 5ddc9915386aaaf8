"""PostgreSQL servers: processes that take their time, wait for row locks, are cancelled, die.

A process runs the commands of `model.postgres.Session`, one event for each that takes time. What the session leaves to
fate is drawn or follows here: a statement fails by itself, meets its statement_timeout, a cancel, a deadlock, or a row
that another transaction has changed since its snapshot.

Rows are locked by those that write them, tables by those that read them, and by those that say so. Locks are held until
the transaction has failed or ended; where it has savepoints, until it has ended, which is longer than PostgreSQL holds
them.
"""

from __future__ import annotations

import re
from bisect import bisect
from itertools import accumulate
from typing import TYPE_CHECKING

from model.copying import STRIKES
from model.kinds import LOCK, UPDATE
from model.postgres import ERRORS, SETTINGS, Cluster, Fate, Order, Session, Work

from poold.core.effects import Bind, Command, Plain, Prepare, SimpleQuery
from poold.core.facts import Completion
from poold.core.statements.catalog import COUNTS
from simulation.locks import Lockable, Locks

if TYPE_CHECKING:
    from simulation.network import Wire
    from simulation.world import World

_UPDATE = UPDATE.split(b"=")[0]
_READ = re.compile(rb"SELECT id FROM (\w)")
_LOCK = LOCK.split(b" /*")[0]
_INSTANT = (
    *SETTINGS,
    COUNTS,
    b"BEGIN",
    b"SAVEPOINT",
    b"RELEASE",
    b"DISCARD SEQUENCES",
    b"SELECT pg_catalog.pg_current",
)
# What may befall a statement by itself, and how often where mishaps is 1.
_MISHAPS = {
    "error": 0.01,
    "bad value": 0.003,
    "locked": 0.003,
    "lost race": 0.005,
    "stale": 0.003,
    "commit fails": 0.004,
    "no rows": 0.01,
    "too large": 0.002,
    "other columns": 0.02,
    "broken": 0.001,
}
_NAMES = tuple(_MISHAPS)
_SHARES = tuple(accumulate(_MISHAPS.values()))
# These are the unit's, and show at its end.
_OF_UNIT = ("commit fails", "no rows", "too large", "other columns", "broken")
_INFINITE = float("inf")
# In whichever form the core writes it: as a literal, or as a value with its length before it.
_TIMEOUT = re.compile(rb"statement_timeout\D+(\d+)")


class Server:
    """One endpoint's PostgreSQL: its cluster, its locks, its processes."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.cluster = Cluster(f"{name}/1")
        self.epoch = 0
        self.locks = Locks()
        # Enter when a connection is accepted, leave when they end. In order, so that what befalls all is repeatable.
        self.processes: dict[Process, None] = {}
        self.is_up = True
        self.unreachable_until = 0.0  # connects hang
        self.frozen_until = 0.0  # the machine stands still
        # What was ever committed here, as template and value: the database.
        self.ledger: list[tuple[bytes, int]] = []

    def committed(self, work: Work) -> None:
        """A transaction is committed."""
        self.ledger += work.effects
        self.world.books.committed(work)

    def accept(self, wire: Wire) -> Process:
        """A connection has come."""
        return Process(self, wire)

    def crash(self) -> None:
        """All processes end at once. Ids of transactions that left no trace are given again after the recovery."""
        self.is_up = False
        for process in list(self.processes):
            process.end()
        cluster = self.cluster
        last = max((int(xid) for xid, status in cluster.statuses.items() if status == b"committed"), default=0)
        cluster.last_xid = max(last, cluster.last_xid - self.world.random.choice((0, 1, 2, 100)))
        for xid in [each for each in cluster.statuses if int(each) > cluster.last_xid]:
            del cluster.statuses[xid]
        cluster.lost_counts += 1
        self.epoch += 1

    def come_up(self) -> str | None:
        """The server is back."""
        if self.is_up:
            return None
        self.is_up = True
        return f"server {self.name} is back"

    def heal(self) -> None:
        """All is well with the server."""
        self.is_up = True
        self.unreachable_until = self.frozen_until = self.world.now

    def fail_over(self) -> None:
        """A standby takes over. What was committed is there; of other transactions it tells what is not so."""
        old = self.cluster
        name, timeline = old.identity.split("/")
        self.cluster = Cluster(f"{name}/{int(timeline) + 1}", old.last_xid, old.schema)
        self.cluster.lost_counts = old.lost_counts + self.world.random.choice((0, 1))
        self.cluster.statuses = dict.fromkeys(old.statuses, b"aborted")
        self.locks = Locks()
        self.processes = {}


class Process(Session):
    """One connection's server process, in time."""

    def __init__(self, server: Server, wire: Wire) -> None:
        plans = "custom" if wire.pool is None else wire.pool.group.config.plans
        super().__init__(server.cluster, wire.number, server.world.books, server.committed, plans)
        self.server = server
        self.world = server.world
        self.locks = server.locks
        self.wire = wire
        self.waits_for: Lockable | None = None
        self._row: Lockable = 0  # that its command changes
        self.is_busy = False
        self.is_cut = False  # nobody listens
        self.is_gone = False
        self._backlog: list[Order] = []  # what has come while the machine stands still
        self._ending = ""  # what befalls the command that runs
        self._seconds = 0.0  # what it takes, locks aside
        self.ends_at = 0.0  # where nothing comes in its way
        self._limit = _INFINITE  # its statement_timeout
        self._local_timeout = 0.0  # the transaction's own, 0 where it has none
        self._token = 0  # of the command that runs: an event of an earlier one is void
        self._is_strict = False  # the transaction's isolation level has snapshots
        self._snapshot: int | None = None
        server.processes[self] = None

    # What comes from the connection.

    def take(self, order: Order) -> str | None:
        """A unit has come."""
        if self.is_gone or self.is_cut:
            return None
        world, server = self.world, self.server
        if self._backlog or world.now < server.frozen_until:
            if not self._backlog:
                world.at(server.frozen_until, self._thaw)
            self._backlog.append(order)
            return f"unit {order.number} comes to {self.wire.number}, which is frozen"
        self.queue.append(order)
        if not self.is_busy:
            self._go_on()
        return f"unit {order.number} comes to {self.wire.number}"

    def _thaw(self) -> str | None:
        backlog, self._backlog = self._backlog, []
        for order in backlog:
            self.take(order)
        return None

    def interrupt(self) -> bool:
        """A cancel hits what runs; False where nothing does."""
        if not self.is_busy:
            return False
        self._finish_command("cancelled")
        return True

    def cut(self) -> str | None:
        """The end of the connection has come; who is at work finds out later."""
        if self.is_gone or self.is_cut:
            return None
        self.is_cut = True
        if self.is_busy:
            self.world.at(self.world.now + self.world.random.uniform(0.0, 5.0), self._notice)
        else:
            self.end()
        return f"the process of {self.wire.number} is alone"

    def _notice(self) -> str | None:
        if self.is_gone:
            return None
        self.end()
        return f"the process of {self.wire.number} has noticed it"

    def end(self) -> None:
        """The process ends, its transaction is rolled back."""
        self.is_gone = True
        self.is_busy = False
        self._token += 1
        self._forget_wait()
        self.server.processes.pop(self, None)
        self.die()
        self._release(commits=False)

    # Commands in time.

    def _go_on(self) -> None:
        """Run what takes no time, and begin what does."""
        self.is_busy = False
        while self.queue and not self.is_gone:
            order = self.queue[0]
            if self._place == len(order.unit):
                self.wire.answer(order, self.finish())
            elif self.done.failure is None and self._takes_time(order, order.unit[self._place]):
                self._begin_command(order, order.unit[self._place])
                return
            else:
                self.step()
        if self.is_cut and not self.is_gone:
            self.end()

    def _takes_time(self, order: Order, command: Command) -> bool:
        match command:
            case SimpleQuery():
                return True
            case Bind(name, count):
                text = self._text_of(name)
                return (count > 0 and not text.startswith(SETTINGS)) or text.startswith(b"COMMIT")
            case Plain(sql):
                return not sql.startswith(_INSTANT)
            case Prepare():
                return order.owner is None
        return False

    def _begin_command(self, order: Order, command: Command) -> None:
        world, scenario = self.world, self.world.scenario
        self.is_busy = True
        self._token += 1
        timeout = self._local_timeout or scenario.query_timeout
        self._limit = world.now + timeout if timeout else _INFINITE
        if not order.is_ready:
            self._begin_part(order, command)
            return
        text, value = self._read(command)
        is_write = text.startswith(_UPDATE) and type(command) is not Prepare
        if text.startswith(b"ROLLBACK"):  # nothing comes in its way
            self._seconds, self._ending, self._limit = 0.0, "", _INFINITE
        else:
            self._seconds = self._draw_seconds(scenario.write if is_write else scenario.short)
            self._draw_ending(order, command)
        if self._is_strict and self._snapshot is None:
            self._snapshot = self.locks.commits
        if not is_write or self.work is None or not self.work.has_failed:
            self._row = value * 7919 // 100 % scenario.rows
            if not self._has_locks(command, text, is_write):
                if self._limit < _INFINITE:
                    world.at(self._limit, self._time_out, self._token)
                world.at(world.now + scenario.deadlock_timeout, self._look_for_deadlock, self._token)
                return
            if is_write:
                self._check_snapshot()
        self._let_run()

    def _begin_part(self, order: Order, command: Command) -> None:
        """The next part of a COPY, or a look for one."""
        self._limit, self._ending = _INFINITE, ""
        self._seconds = 0.005 * self.world.random.expovariate(1.0)
        if order.fate.ending == "ok" and self.world.random.random() < 0.2:
            self._draw_ending(order, command)
        self._let_run()

    def _has_locks(self, command: Command, text: bytes, is_write: bool) -> bool:
        """Whether it has what it needs, or waits for it from now on."""
        if is_write:
            return self.locks.take(self, self._row)
        if type(command) is not Prepare and (found := _READ.match(text)):
            return self.locks.take(self, found[1], is_shared=True)
        return not text.startswith(_LOCK) or self.locks.take(self, b"b")

    def _read(self, command: Command) -> tuple[bytes, int]:
        """The command's text, and its value or 0."""
        if type(command) is Bind:
            return self._text_of(command.name), int(command.values[4:]) if command.count == 1 else 0
        text: bytes = getattr(command, "sql", b"")
        digits = text.partition(b"id = ")[2].split(b" ", 1)[0]
        return text, int(digits) if digits.isdigit() else 0

    def _text_of(self, name: bytes) -> bytes:
        held = self.names.get(name)
        return b"" if held is None else held.sql

    def _draw_seconds(self, mean: float) -> float:
        random = self.world.random
        slow = self.world.scenario.slow
        if slow and not self.world.is_calm and random.random() < slow:
            return random.choice((10 * mean, 0.05, 0.5, 2.0, 8.0, 60.0))
        return mean * random.expovariate(1.0)

    def _draw_ending(self, order: Order, command: Command) -> None:
        self._ending = ""
        mishaps = self.world.scenario.mishaps
        if not mishaps or self.world.is_calm:
            return
        place = bisect(_SHARES, self.world.random.random() / mishaps)
        if place < len(_NAMES):
            ending = _NAMES[place]
            if ending not in _OF_UNIT:
                self._ending = ending
            elif ending != "broken" or self.work is None or not self.work.has_failed:
                order.fate = Fate(ending)  # what a rollback changes is only back to what it was

    def _check_snapshot(self) -> None:
        if self._snapshot is not None and self.locks.changed.get(self._row, 0) > self._snapshot:
            self._ending = "lost race"

    def _let_run(self) -> None:
        """Nothing is in the way: run until its end, or its statement_timeout."""
        world = self.world
        self.ends_at = world.now + self._seconds
        if self.ends_at > self._limit:
            world.at(max(self._limit, world.now), self._time_out, self._token)
        else:
            world.at(self.ends_at, self._end_command, self._token)

    def _end_command(self, token: int) -> str | None:
        if token != self._token:
            return None
        if self.world.now < self.server.frozen_until:
            self.world.at(self.server.frozen_until, self._end_command, token)
            return None
        ending = self._ending
        self._finish_command(ending)
        return f"{self.wire.number} has run a command {ending}"

    def _time_out(self, token: int) -> str | None:
        if token != self._token:
            return None
        for job in self.world.books.of(self.queue[0].owner):
            job.timed_out = True
        self._finish_command("timeout")
        return f"statement_timeout of {self.wire.number}"

    def _look_for_deadlock(self, token: int) -> str | None:
        if token != self._token or self.waits_for is None or not self.locks.is_deadlocked(self):
            return None
        self._finish_command("deadlock")
        self.world.tally["deadlock"] += 1
        return f"deadlock of {self.wire.number}"

    def _finish_command(self, ending: str) -> None:
        self._forget_wait()
        self._token += 1
        order = self.queue[0]
        if not order.is_ready:
            assert self.wire.network is not None
            if not self.wire.network.copies.goes_on(self.wire, order, Fate(ending or "ok")):
                self._go_on()  # with the next part of its data
                return
            order.is_ready = True
            ending = order.fate.ending if order.fate.ending in STRIKES else ""
        self._ending = ending
        self.step()
        self._ending = ""
        self._go_on()

    def _forget_wait(self) -> None:
        for process in self.locks.forget_wait(self):
            process._granted()

    @property
    def waits(self) -> bool:
        return self.waits_for is not None

    def _granted(self) -> None:
        """What it waited for is its own."""
        self._token += 1
        self._check_snapshot()
        self._let_run()

    # What the session asks or tells.

    def _strikes(self, order: Order, *endings: str) -> bool:
        ending = self._ending
        if ending not in endings:
            return False
        command = order.unit[self._place]
        if ending == "stale" and not (type(command) is Bind and command.count == 1):
            return False
        self._ending = ""
        self._fail(ERRORS[ending])
        return True

    def _set_local(self, order: Order, sql: bytes) -> None:
        super()._set_local(order, sql)
        if found := _TIMEOUT.search(sql):
            self._local_timeout = int(found[1]) / 1000

    def finish(self) -> Completion:
        done = super().finish()
        if self.work is None:
            self._local_timeout = 0.0
        return done

    def _control(self, owner: object, sql: bytes, verb: bytes) -> None:
        super()._control(owner, sql, verb)
        if verb == b"BEGIN":
            self._is_strict = b"SERIALIZABLE" in sql or b"REPEATABLE" in sql

    def _fail(self, sqlstate: str, message: str = "an error") -> None:
        super()._fail(sqlstate, message)
        if self.work is None or (self.work.is_explicit and not self.work.savepoints):
            self._release(commits=False)

    def _end(self, commits: bool) -> None:
        super()._end(commits)
        self._is_strict = False
        self._snapshot = None
        self._release(commits)

    def _release(self, commits: bool) -> None:
        for process in self.locks.release(self, commits):
            process._granted()
