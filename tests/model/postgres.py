"""PostgreSQL as far as the core can see it: sessions that run the units they were sent, and what they commit.

A session runs one command at a time, so a connection can be lost between any two. A session whose connection is lost
runs on as a server does that has not noticed yet: what it was sent before may still be committed.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from client.protocol import EXECUTED, FAILED, TX_ACTIVE, TX_BROKEN, TX_FAILED, TX_NONE, Failure
from model.leftovers import DEALLOCATE_ALL, DISCARD_ALL, LEAVINGS, Leftovers, is_reset
from model.marks import Marks
from poold.core.effects import Bound, Command, Deallocate, Flush, Plain, Prepare, Simple, Unit
from poold.core.facts import Completion, Outcome
from poold.core.outcomes import QUESTION

INT4 = (23).to_bytes(4, "big")
COLUMNS = b"\0\1id\0" + bytes(6) + INT4 + bytes(8)
OTHER_COLUMNS = b"\0\1no\0" + bytes(6) + INT4 + bytes(8)

# What may befall a unit, and PostgreSQL's code for it.
ERRORS = {
    "error": "22012",
    "bad value": "22P02",  # in Bind; elsewhere as any error
    "timeout": "57014",
    "cancelled": "57014",
    "lost race": "40001",
    "deadlock": "40P01",
    "locked": "55P03",
    "stale": "0A000",  # in Bind of a client's statement; elsewhere nothing
}
# What may do so by itself; "cancelled" takes a cancel.
ENDINGS = (
    *(each for each in ERRORS if each != "cancelled"),
    "commit fails",
    "no rows",
    "too large",
    "other columns",
    "broken",
)

# Statements of the core that carry nobody's value.
SETTINGS = (b"SET LOCAL", b"SELECT pg_catalog.set_config")


_XACT_STATUS = re.compile(rb"pg_xact_status\('(\d+)'")
_EXITS = (b"COMMIT", b"ROLLBACK", b"ROLLBACK TO SAVEPOINT poold")


@dataclass(frozen=True)
class Fate:
    """What befalls a unit; place is which of its commands that can fail it hits."""

    ending: str = "ok"
    place: int = 0


@dataclass(eq=False)
class Order:
    """A unit that the core gave to a backend."""

    unit: Unit
    number: int  # counts the backend's units
    owner: object  # whose it is, None for the broker's own questions and resets
    is_written: bool = False  # Execute is carried out
    is_sent: bool = False  # the connection has taken at least a part of it
    is_exposed: bool = False  # to a cancel that was meant for one before it
    fate: Fate = Fate()


@dataclass(eq=False)
class Work:
    """One transaction in PostgreSQL."""

    is_explicit: bool
    owner: object = None
    has_failed: bool = False
    xid: bytes = b""
    # What it did: the statements that ran, as template and value.
    effects: list[tuple[bytes, int]] = field(default_factory=list)
    savepoints: list[int] = field(default_factory=list)  # the length of effects at each


def is_question(unit: Unit) -> bool:
    """Whether it is one of the broker's own, about the transactions that the session has had."""
    return type(unit[0]) is Simple and unit[0].sql.endswith(QUESTION)


class Cluster:
    """What all sessions of one server share: its identity, and what became of transactions."""

    def __init__(self, identity: str, last_xid: int = 0) -> None:
        self.identity = identity
        self.last_xid = last_xid
        self.statuses: dict[bytes, bytes] = {}


class Session:
    """One connection's server process."""

    def __init__(
        self,
        cluster: Cluster,
        owner_of: Callable[[int], object],
        mark_of: Callable[[int], int | None],
        committed: Callable[[Work], None],
    ) -> None:
        """By a statement's value owner_of tells whose it is, mark_of which setting it brings. committed: is told so."""
        self.cluster = cluster
        # Sent and not yet run to the end.
        self.queue: deque[Order] = deque()
        self.work: Work | None = None
        self.names: dict[bytes, bytes] = {}  # prepared statements' texts
        # For each name the orders that prepare it, and how many orders were given when the core learned it is gone.
        self.promised: dict[bytes, list[int]] = {}
        self.told_gone: dict[bytes, list[int]] = {}
        self.is_broken = False
        self.transactions = 0  # it has had so many
        self.left = Leftovers()
        self.marks = Marks(owner_of, mark_of)
        self._owner_of = owner_of
        self._committed = committed
        self._begin()

    def _begin(self) -> None:
        self.done = Completion(TX_NONE)  # of the first in queue, as far as it has come
        self._place = 0

    def step(self) -> bool:
        """Run one command of the first unit; False where none is left before its end."""
        order = self.queue[0]
        if self._place == len(order.unit):
            return False
        if self._place == 0 and self.left:
            self._check_left(order)
        if self.done.failure is None:
            self._run(order, order.unit[self._place])
        self._place += 1
        return True

    def _check_left(self, order: Order) -> None:
        first = order.unit[0]
        if is_question(order.unit):
            return
        is_taking_away = type(first) is Simple and (first.sql.startswith(b"ROLLBACK") or is_reset(first.sql))
        if order.owner is not None or not is_taking_away:
            self.left.check(order.owner, order.number)

    def finish(self) -> Completion:
        """Run the first unit to its end."""
        while self.step():
            pass
        order, done = self.queue.popleft(), self.done
        if self.work is not None and not self.work.is_explicit:
            if done.failure is None and order.fate.ending == "commit fails":
                self._fail("23503")
            self._end(commits=done.failure is None)
        if self.work is None:
            self.transactions += 1
            self.marks.end()
        if self.left:
            done.is_changed = self.left.is_reported
        done.transaction = TX_NONE if self.work is None else TX_FAILED if self.work.has_failed else TX_ACTIVE
        self.is_broken = self.is_broken or (order.fate.ending == "broken" and done.failure is None)
        if self.is_broken:
            # Before a COMMIT the end of the connection, which follows, rolls back.
            outcome = EXECUTED if self.work is None else FAILED
            done.transaction = TX_BROKEN
            broken = Failure(0, TX_BROKEN, "usage", outcome, "changed DateStyle", None, {})
            done.failure = done.failure or broken
        if done.failure is not None:
            done.failure = done.failure._replace(transaction=done.transaction)
        self._begin()
        return done

    def die(self) -> None:
        """The process ends; its transaction is rolled back, what is left in the queue never runs."""
        self.queue.clear()
        if self.work is not None:
            self._end(commits=False)

    def run_on(self) -> None:
        """Nobody listens any more: run what was sent, then end."""
        while self.queue:
            self.finish()
        self.die()

    # One command.

    def _run(self, order: Order, command: Command) -> None:
        match command:
            case Flush():
                pass
            case Deallocate(name):
                self.names.pop(name, None)
            case Prepare(name, sql, _):
                self._prepare(order, name, sql)
            case Bound(name, _, values):
                text = self.names.get(name)
                if text is None:
                    self._check_excuse(order, name)
                    self._fail("26000")
                elif not self._refuses(text) and not self._strikes(order, "bad value", "stale"):
                    self.done.bound += 1
                    self._statement(order, text.replace(b"$1", values[4:]))
            case Plain(sql):
                if not self._refuses(sql):
                    self.done.bound += 1
                    self._statement(order, sql)
            case Simple(sql):
                self._statement(order, sql)

    def _prepare(self, order: Order, name: bytes, sql: bytes) -> None:
        if len(order.unit) == 1:
            assert self.work is None, "a probe inside a transaction"
        if self._refuses(sql) or self._strikes(order, *ERRORS):
            return
        assert name not in self.names, f"{name!r} is prepared already"
        self.names[name] = sql
        columns = OTHER_COLUMNS if order.fate.ending == "other columns" else COLUMNS
        self.done.prepared.append(columns if b"$1" in sql else None)

    def _check_excuse(self, order: Order, name: bytes) -> None:
        """A statement that is not there may be asked for as long as the core could not know it."""
        promised = [number for number in self.promised.get(name, ()) if number <= order.number]
        assert promised, f"{name!r} was never prepared here"
        told = [number for number in self.told_gone.get(name, ()) if promised[-1] <= number < order.number]
        assert not told, f"{name!r} is not prepared here, and the core was told so"

    def _strikes(self, order: Order, *endings: str) -> bool:
        """Whether the unit's fate strikes at this command, if it is one of these endings; then it has failed."""
        fate = order.fate
        if fate.ending not in endings:
            return False
        places = [place for place, command in enumerate(order.unit) if type(command) not in (Flush, Deallocate)]
        command = order.unit[self._place]
        if places[fate.place % len(places)] != self._place:
            return False
        if fate.ending == "stale" and not (type(command) is Bound and command.count):
            return False
        self._fail(ERRORS[fate.ending])
        return True

    def _refuses(self, sql: bytes) -> bool:
        """A failed transaction takes nothing but its end."""
        if self.work is None or not self.work.has_failed or sql in _EXITS or sql.startswith((b"COMMIT", b"ROLLBACK")):
            return False
        self._fail("25P02")
        return True

    def _fail(self, sqlstate: str) -> None:
        self.done.failure = Failure(0, TX_NONE, "query", FAILED, "an error", sqlstate, {"severity": "ERROR"})
        if self.work is not None and self.work.is_explicit:
            self.work.has_failed = True

    # One statement.

    def _statement(self, order: Order, sql: bytes) -> None:
        if self._refuses(sql) or self._strikes(order, *ERRORS.keys() - {"stale"}):
            if self.work is not None and sql.startswith(b"COMMIT"):
                self._end(commits=False)
            return
        verb = sql.split()[0]
        if sql.endswith(QUESTION):
            if sql != QUESTION:
                assert self.work is not None, "nothing to roll back"
                self._end(commits=False)
            self._result(b"%d/%d" % (id(self), self.transactions))
            return
        if order.owner is None and is_reset(sql):
            self._reset(order, sql)
            return
        if sql.startswith(SETTINGS):
            self._set_local(order, sql)
            self.done.results.append(("SELECT 1", 1, b"\0\0", b"D\0\0\0\6\0\0", ()))
            return
        value = re.search(rb"(?:= |\* )(\d+)", sql)
        owner = order.owner if value is None else self._owner_of(int(value[1]))
        assert owner == order.owner, f"{owner} runs for {order.owner}"
        if verb in (b"BEGIN", b"COMMIT", b"ROLLBACK", b"SAVEPOINT", b"RELEASE"):
            self._control(owner, sql, verb)
        elif status := _XACT_STATUS.search(sql):
            assert self.work is None, "a question inside a transaction"
            if int(status[1]) > self.cluster.last_xid:
                self._fail("22023")  # "transaction ID is in the future"
            else:
                self._result(self.cluster.statuses.get(status[1]))
        elif b"pg_current_xact_id" in sql:
            assert self.work is not None
            self.cluster.last_xid += 1
            self.work.xid = b"%d" % self.cluster.last_xid
            self.cluster.statuses[self.work.xid] = b"in progress"
            self._result(self.work.xid)
        elif value is None:
            self.done.results.append(("SELECT 1", 1, b"\0\0", b"D\0\0\0\6\0\0", ()))
        else:
            self._affect(order, owner, sql.replace(value[1], b"\0"), int(value[1]))

    def _set_local(self, order: Order, sql: bytes) -> None:
        """A setting for the transaction."""
        if not sql.startswith(b"SET LOCAL") and not sql.endswith(b"true)"):
            self.left.leave_setting(order.owner, order.number)
        else:
            self.marks.set(sql)

    def _reset(self, order: Order, sql: bytes) -> None:
        """Roll back what is open, and take away what was left, as far as these commands do."""
        commands = sql.split(b"; ")
        if commands[0] == b"ROLLBACK":
            if self.work is not None:
                self._end(commits=False)
        else:
            assert self.work is None, "a reset inside a transaction"
        self._take_away(order, commands)
        self.done.results.append((commands[-1].decode(), -1, None, b"", ()))

    def _take_away(self, order: Order, commands: Collection[bytes]) -> None:
        self.left.take_away(commands, order.owner, order.number)
        if DEALLOCATE_ALL in commands:
            self.names.clear()

    def _affect(self, order: Order, owner: object, template: bytes, value: int) -> None:
        if self.work is None:
            self.work = Work(is_explicit=False, owner=owner)
            is_alone = isinstance(owner, int) or (isinstance(owner, tuple) and owner[0] == "session")
            assert is_alone, f"{owner} runs outside of its transaction"
        self._claim(owner)
        self.work.effects.append((template, value))
        self.marks.check(owner, value, self.work.is_explicit)
        ending = order.fate.ending
        leaving = LEAVINGS.get(template)
        if leaving is not None:
            self.left.leave(leaving, owner, order.number, self.work)
        if leaving is not None and leaving.tag:
            self.done.results.append((leaving.tag, -1, None, b"", ()))
        elif b" /*" in template:
            if template.startswith(b"DEALLOCATE"):
                self._take_away(order, [DEALLOCATE_ALL])
            elif template.startswith(b"DISCARD"):
                self._take_away(order, DISCARD_ALL)
            self.done.results.append((template[: template.index(b" /*")].decode(), -1, None, b"", ()))
        else:
            self._result(None if ending == "no rows" else b"%d" % value, is_too_large=ending == "too large")

    def _claim(self, owner: object) -> None:
        """Whoever is the first in a transaction is the only one."""
        work = self.work
        if work is not None and owner is not None:
            work.owner = work.owner or owner
            assert work.owner == owner, f"{owner} runs in the transaction of {work.owner}"

    def _control(self, owner: object, sql: bytes, verb: bytes) -> None:
        self._claim(owner)
        work = self.work
        tag = verb.decode()
        if verb == b"BEGIN":
            assert work is None, "BEGIN inside a transaction"
            self.work = Work(is_explicit=True, owner=owner)
        elif verb == b"SAVEPOINT":
            assert work is not None
            work.savepoints.append(len(work.effects))
            self.marks.savepoint()
        elif verb == b"RELEASE":
            assert work is not None
            work.savepoints.pop()
            self.marks.release()
        elif b"TO SAVEPOINT" in sql:
            assert work is not None
            del work.effects[work.savepoints[-1] :]
            self.marks.undo()
            work.has_failed = False
        elif work is not None:
            commits = verb == b"COMMIT" and not work.has_failed
            tag = "COMMIT" if commits else "ROLLBACK"
            self._end(commits)
        self.done.results.append((tag, -1, None, b"", ()))

    def _result(self, cell: bytes | None, is_too_large: bool = False) -> None:
        rows = b"" if cell is None else b"D%b\0\1%b%b" % (_int4(len(cell) + 10), _int4(len(cell)), cell)
        count = 0 if cell is None else 1
        outcome: Outcome = (f"SELECT {count}", count, COLUMNS, None if is_too_large else rows, ())
        self.done.results.append(outcome)

    def _end(self, commits: bool) -> None:
        work, self.work = self.work, None
        assert work is not None
        self.marks.end()
        if work.xid:
            self.cluster.statuses[work.xid] = b"committed" if commits else b"aborted"
        if commits:
            self._committed(work)
        elif self.left:
            self.left.roll_back(work)


def _int4(number: int) -> bytes:
    return number.to_bytes(4, "big")
