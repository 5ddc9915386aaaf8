"""PostgreSQL as far as the core can see it: sessions that run the units they were sent, and what they commit.

A session runs one command at a time, so a connection can be lost between any two. A session whose connection is lost
runs on as a server does that has not noticed yet: what it was sent before may still be committed.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from client.wire.messages import EXECUTED, FAILED, TX_ACTIVE, TX_BROKEN, TX_FAILED, TX_NONE, Failure
from model.books import Job
from model.kinds import QUESTION, Kind, is_clients, kind_of, template_of, tree_of
from model.leftovers import DEALLOCATE_ALL, DISCARD_ALL, LEAVINGS, Leftovers, is_reset
from model.marks import Marks
from poold.core.effects import Bind, Command, Deallocate, Flush, Plain, Prepare, SimpleQuery, Unit
from poold.core.facts import Completion, StatementResult
from poold.core.statements.catalog import COUNTS
from poold.core.work.outcomes import QUESTION as TRANSACTIONS

INT4 = (23).to_bytes(4, "big")
COLUMNS = b"\0\1id\0" + bytes(6) + INT4 + bytes(8)
OTHER_COLUMNS = b"\0\1no\0" + bytes(6) + INT4 + bytes(8)

INTERVAL = 1186

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

# A deferred trigger may fail the commit with any code, those of names that are unknown among them.
COMMIT_FAILS = ("23503", "0A000", "26000", "XX000", "42P05", "23505")

# Statements of the core that carry nobody's value.
SETTINGS = (b"SET LOCAL", b"SELECT pg_catalog.set_config")
NAMES_HELD = b"SELECT pg_catalog.concat(pg_catalog.count(*) FILTER (WHERE from_sql)"
DISCARD_SEQUENCES = b"DISCARD SEQUENCES"
_DISCARDING = (DISCARD_SEQUENCES, b"BEGIN; " + DISCARD_SEQUENCES)
# Plans that PostgreSQL makes for the values given, before it may make one for all values.
CUSTOM_PLANS = 5

_VALUE = re.compile(rb"(?:= |\* )(\d+)")
_CONTROLS = (b"BEGIN", b"COMMIT", b"ROLLBACK", b"SAVEPOINT", b"RELEASE")
_XACT_STATUS = re.compile(rb"pg_xact_status\('(\d+)'")
_CATALOGS = re.compile(QUESTION + rb"(\d+)")
_WHO_WAITS = re.compile(rb"pg_locks .*'\{([\d,]*)\}'")
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
    is_ready: bool = True  # the data of its COPY has passed, if it has one
    asks_about: Job | None = None  # the one that has failed, where it is the question behind that
    known_schema: int = 0  # the core had been told of changes up to this one when it gave it
    # What the core is told with its end: up to which change of the schema, by a result or by the catalogs' counts.
    tells_schema: int = 0
    tells_counts: tuple[bytes, int] | None = None


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
    return type(unit[0]) is SimpleQuery and unit[0].sql.endswith(TRANSACTIONS)


@dataclass(eq=False)
class Name:
    """A prepared statement."""

    sql: bytes
    is_from_sql: bool = False  # made by a client's PREPARE
    mark: int | None = None  # the marker that was in force when it was parsed
    schema: int = 0  # how often the schema had changed until then
    plans: int = 0  # made for it


class Cluster:
    """What all sessions of one server share: its identity, what became of transactions, its catalogs."""

    def __init__(self, identity: str, last_xid: int = 0, schema: int = 0) -> None:
        self.identity = identity
        self.last_xid = last_xid
        self.statuses: dict[bytes, bytes] = {}
        self.schema = schema  # how often it has changed
        self.lost_counts = 0  # how often the catalogs' counts began anew
        self.sessions: dict[int, Session] = {}  # by pid

    @property
    def counts(self) -> bytes:
        """The catalogs' counts."""
        return b"%d" % (17 * self.schema + 1000 * self.lost_counts)


class Witness(Protocol):
    """Who is told what servers do."""

    def mark_of(self, value: int) -> int | None:
        """The setting that the request of this value brings."""

    def owner_of(self, value: int) -> object:
        """Whose it is."""

    def committed(self, work: Work) -> None:
        """A transaction is committed."""

    def begun(self, owner: object) -> None:
        """The owner's transaction has begun."""

    def ran(self, value: int, kind: Kind) -> None:
        """A statement has begun to run: what it does besides its transaction is done."""


class Session:
    """One connection's server process."""

    def __init__(
        self, cluster: Cluster, pid: int, books: Witness, committed: Callable[[Work], None], plans: str = "custom"
    ) -> None:
        """committed is told of what is. plans: as the setting of the group that the session is for."""
        self.cluster = cluster
        self.pid = pid
        cluster.sessions[pid] = self
        # Sent and not yet run to the end.
        self.queue: deque[Order] = deque()
        self.work: Work | None = None
        self.names: dict[bytes, Name] = {}
        # For each name the orders that prepare it, and how many orders were given when the core learned it is gone.
        self.promised: dict[bytes, list[int]] = {}
        self.told_gone: dict[bytes, list[int]] = {}
        self.is_broken = False
        self.transactions = 0  # it has had so many
        self.left = Leftovers()
        self.marks = Marks(books.mark_of)
        # Whose statement that is not harmless has run since it was opened or reset: from then on nobody knows what
        # anything means here.
        self.altered_by: object = None
        self.drawn_by: object = None  # whose statement asked a sequence last
        self.may_write = True  # until the transaction ends
        self.is_telling = False  # trees of what it parses, until the transaction ends
        self.is_blocked = False  # what it runs waits for a lock
        self._plans = plans
        self._books = books
        self._committed = committed
        self._begin()

    @property
    def waits(self) -> bool:
        """Whether what it runs waits for a lock."""
        return self.is_blocked

    def _begin(self) -> None:
        self.done = Completion(TX_NONE)  # of the first in queue, as far as it has come
        self._place = 0
        self._tells_schema = 0

    def step(self) -> bool:
        """Run one command of the first unit; False where none is left before its end."""
        order = self.queue[0]
        if self._place == len(order.unit) or not order.is_ready:
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
        is_taking_away = type(first) is SimpleQuery and (first.sql.startswith(b"ROLLBACK") or is_reset(first.sql))
        if order.owner is not None or not is_taking_away:
            self.left.check(order.owner)

    def finish(self) -> Completion:
        """Run the first unit to its end."""
        while self.step():
            pass
        order, done = self.queue.popleft(), self.done
        if self.work is not None and not self.work.is_explicit:
            if done.failure is None and order.fate.ending == "commit fails":
                self._fail(COMMIT_FAILS[order.number % len(COMMIT_FAILS)], "at the commit")
            self._end(commits=done.failure is None)
        if self.work is None:
            self.transactions += 1
            self.marks.end()
            self.is_telling, self.may_write = False, True
        order.tells_schema = self._tells_schema if done.failure is None else 0
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
        self.cluster.sessions.pop(self.pid, None)
        if self.work is not None:
            self._end(commits=False)

    def run_on(self) -> None:
        """Nobody listens any more: run what was sent, then end."""
        while self.queue and self.queue[0].is_ready:
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
            case Bind(name, _, values):
                self._bound(order, name, values)
            case Plain(sql):
                if not self._refuses(sql):
                    self.done.bound += 1
                    self._statement(order, sql)
            case SimpleQuery(sql):
                self._statement(order, sql)

    def _prepare(self, order: Order, name: bytes, sql: bytes) -> None:
        if self._refuses(sql) or self._strikes(order, *ERRORS):
            return
        assert name not in self.names, f"{name!r} is prepared already"
        if is_clients(sql):
            kind = kind_of(template_of(sql))
            assert self.altered_by is None, f"{name!r} is parsed behind an unproven statement of {self.altered_by}"
            assert not kind.names_moment, f"{sql!r} is parsed, which names the moment of that"
            if kind.runs_when_parsed:
                assert not self.may_write, f"{sql!r} is parsed by nobody's request, and may write"
                self.left.leave(LEAVINGS[template_of(sql)], order.owner, self.work)
            if self.is_telling and self.done.results:
                last = self.done.results[-1]
                self.done.results[-1] = last._replace(notices=(*last.notices, tree_of(sql)))
        self.names[name] = Name(sql, False, self.marks.in_force, self.cluster.schema)
        columns = OTHER_COLUMNS if order.fate.ending == "other columns" else COLUMNS
        self.done.prepared.append(columns if b"$1" in sql else None)
        is_interval = is_clients(sql) and kind_of(template_of(sql)).holds_interval
        self.done.parameters.append((INTERVAL if is_interval else 23,) * sql.count(b"$"))

    def _bound(self, order: Order, name: bytes, values: bytes) -> None:
        held = self.names.get(name)
        if held is None:
            self._check_excuse(order, name)
            self._fail("26000")
            return
        if self._refuses(held.sql):
            return
        assert not held.is_from_sql, f"{order.owner} runs what a client has put in the place of {name!r}"
        is_struck = self._strikes(order, "bad value", "stale")
        if is_clients(held.sql):
            self._check_name(order, held, int(values[4:]), is_struck)
        if not is_struck:
            self.done.bound += 1
            self._statement(order, held.sql.replace(b"$1", values[4:]))

    def _check_name(self, order: Order, held: Name, value: int, is_struck: bool) -> None:
        """A client's statement is run by its name: it must mean what it would with literals."""
        kind = kind_of(template_of(held.sql))
        self.marks.check_parsed(value, held.mark)
        assert self.altered_by is None, f"{value} runs prepared behind an unproven statement of {self.altered_by}"
        is_of_today = held.schema >= order.known_schema
        assert is_of_today, f"{value} runs what was parsed before change {order.known_schema}, which the core knows of"
        assert not kind.runs_when_parsed, f"{value} has a constant that was read for another run"
        assert not kind.holds_interval, f"{value} is an interval, and no literal"
        if is_struck:
            if not kind.is_harmless:  # it was planned, and that runs functions
                self._ran(order.owner, value, kind)
            return
        held.plans += 1
        is_for_values = held.plans <= CUSTOM_PLANS or kind.proof.may_be_generic or self._plans == "auto"
        assert is_for_values, f"{value} has a plan for other values"

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
        if fate.ending == "stale" and not (type(command) is Bind and command.count == 1):
            return False
        self._fail(ERRORS[fate.ending])
        return True

    def _refuses(self, sql: bytes) -> bool:
        """A failed transaction takes nothing but its end."""
        if self.work is None or not self.work.has_failed or sql in _EXITS or sql.startswith((b"COMMIT", b"ROLLBACK")):
            return False
        self._fail("25P02")
        return True

    def _fail(self, sqlstate: str, message: str = "an error") -> None:
        self.done.failure = Failure(0, TX_NONE, "query", FAILED, message, sqlstate, {"severity": "ERROR"})
        if self.work is not None and self.work.is_explicit:
            self.work.has_failed = True

    # One statement.

    def _statement(self, order: Order, sql: bytes) -> None:
        if self._refuses(sql):
            return
        if sql.startswith(_DISCARDING):
            self.drawn_by = None
            self._take_away(order, [DISCARD_SEQUENCES])
            before, _, sql = sql.partition(DISCARD_SEQUENCES)
            sql = sql.removeprefix(b"; COMMIT; " if before else b"; ") or DISCARD_SEQUENCES
        if self._strikes(order, *ERRORS.keys() - {"stale"}):
            if self.work is not None and sql.startswith(b"COMMIT"):
                self._end(commits=False)
            elif found := _VALUE.search(sql):
                template = sql.replace(found[1], b"\0")
                if not template.startswith(_CONTROLS):
                    self._ran(order.owner, int(found[1]), kind_of(template))  # before it failed
                    if kind_of(template).commits_in_parts and self.work is None and order.number % 3:
                        self._commit_part(Work(False, order.owner, effects=[(template, int(found[1]))]))
            return
        if order.owner is None and is_reset(sql) and not sql.endswith(TRANSACTIONS):
            self._reset(order, sql)
            return
        if sql == DISCARD_SEQUENCES:
            self.done.results.append(StatementResult(sql.decode(), -1, None, b"", ()))
            return
        if sql.endswith(TRANSACTIONS):
            if sql != TRANSACTIONS:
                assert self.work is not None, "nothing to roll back"
                self._end(commits=False)
            self._result(b"%d/%d" % (self.pid, self.transactions))
            return
        verb = sql.split()[0]
        if sql.startswith(SETTINGS):
            self._set_local(order, sql)
            self.done.results.append(StatementResult("SELECT 1", 1, b"\0\0", b"D\0\0\0\6\0\0", ()))
            return
        value = _VALUE.search(sql)
        owner = order.owner if value is None else self._books.owner_of(int(value[1]))
        assert owner == order.owner, f"{owner} runs for {order.owner}"
        if verb in _CONTROLS:
            self._control(None if self._is_for_discard(order) else owner, sql, verb)
        elif value is not None:
            self._affect(order, owner, sql.replace(value[1], b"\0"), int(value[1]))
        else:
            self._answer(order, sql)

    def _is_for_discard(self, order: Order) -> bool:
        """Whether it begins or ends the transaction, of its own, in which values of sequences are discarded."""
        neighbours = order.unit[max(self._place - 1, 0) : self._place + 2]
        return any(type(each) is Plain and each.sql == DISCARD_SEQUENCES for each in neighbours)

    def _answer(self, order: Order, sql: bytes) -> None:
        """A question of the broker's."""
        if status := _XACT_STATUS.search(sql):
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
        elif sql == COUNTS:
            order.tells_counts = self.cluster.counts, self.cluster.schema
            self._result(self.cluster.counts)
        elif asked := _CATALOGS.match(sql):
            self._result(asked[1])
        elif asked := _WHO_WAITS.search(sql):
            sessions = self.cluster.sessions
            pids = [int(each) for each in asked[1].split(b",")]
            self._results([b"%d" % each for each in pids if each in sessions and sessions[each].waits])
        else:
            self.done.results.append(StatementResult("SELECT 1", 1, b"\0\0", b"D\0\0\0\6\0\0", ()))

    def _set_local(self, order: Order, sql: bytes) -> None:
        """A setting for the transaction."""
        if not sql.startswith(b"SET LOCAL") and b"true)" not in sql:
            self.left.leave_setting(order.owner)
        else:
            self.marks.set(sql, order.owner)
            self.is_telling = self.is_telling or b"debug_print_rewritten" in sql
            self.may_write = self.may_write and b"'transaction_read_only', 'on', true" not in sql

    def _reset(self, order: Order, sql: bytes) -> None:
        """Roll back what is open, and take away what was left, as far as these commands do."""
        commands = sql.split(b"; ")
        if commands[0] == b"ROLLBACK":
            if self.work is not None:
                self._end(commits=False)
        else:
            assert self.work is None, "a reset inside a transaction"
        self._take_away(order, commands)
        if DISCARD_SEQUENCES in commands:  # it comes last, behind what gives tables and settings back
            self.drawn_by = self.altered_by = None
        if commands[-1].startswith(NAMES_HELD):
            made = sum(each.is_from_sql for each in self.names.values())
            self._result(b"%d %d" % (made, len(self.names)))
        else:
            self.done.results.append(StatementResult(commands[-1].decode(), -1, None, b"", ()))

    def _take_away(self, order: Order, commands: Collection[bytes]) -> None:
        self.left.take_away(commands)
        if DEALLOCATE_ALL in commands:
            self.names.clear()

    def forget_names(self) -> None:
        """A function has dropped all prepared statements; no completion tells."""
        self.left.take_away([DEALLOCATE_ALL])
        self.names.clear()

    def _affect(self, order: Order, owner: object, template: bytes, value: int) -> None:
        if self.work is None:
            self.work = Work(is_explicit=False, owner=owner)
            is_alone = isinstance(owner, int) or (isinstance(owner, tuple) and owner[0] == "session")
            assert is_alone, f"{owner} runs outside of its transaction"
        self._claim(owner)
        self.work.effects.append((template, value))
        self.marks.check(owner, value, self.work.is_explicit)
        assert not self.is_telling, f"the tree of {value} is told"
        kind = kind_of(template)
        self._ran(owner, value, kind)
        self._touch_names(kind)
        if kind.commits_in_parts and not self.work.is_explicit:
            self._commit_part(self.work)
            self.work = Work(is_explicit=False, owner=owner)
        ending = order.fate.ending
        leaving = LEAVINGS.get(template)
        if leaving is not None:
            self.left.leave(leaving, owner, self.work)
            if leaving.tag == "PREPARE":
                self.names.setdefault(b"client's", Name(b"SELECT 1", is_from_sql=True))
        if leaving is not None and leaving.tag:
            self.done.results.append(StatementResult(leaving.tag, -1, None, b"", ()))
        elif b" /*" in template:
            if template.startswith(b"DEALLOCATE"):
                self._take_away(order, [DEALLOCATE_ALL])
            elif template.startswith(b"DISCARD"):
                self._take_away(order, DISCARD_ALL)
                self.drawn_by = None
            tag = template[: template.index(b" /*")] if not template.startswith(b"DO") else b"DO"
            self.done.results.append(StatementResult(tag.decode(), -1, None, b"", ()))
        else:
            self._result(None if ending == "no rows" else b"%d" % value, is_too_large=ending == "too large")

    def _commit_part(self, work: Work) -> None:
        """A procedure commits what it has done so far, and goes on."""
        self.work = work
        self._end(commits=True)
        self.transactions += 1

    def _ran(self, owner: object, value: int, kind: Kind) -> None:
        """The statement has run, or begun to: what no rollback takes away is done."""
        self._books.ran(value, kind)
        if kind.asks:
            assert self.drawn_by in (None, owner), f"{owner} may see what a sequence gave {self.drawn_by}"
        if kind.draws:
            self.drawn_by = owner
        if not kind.is_harmless:
            self.altered_by = owner

    def _touch_names(self, kind: Kind) -> None:
        """Code may do anything to prepared statements."""
        if kind.drops_names:
            self.forget_names()
        if kind.replaces_name and self.names:
            self.names[next(iter(self.names))] = Name(b"SELECT 1", is_from_sql=True)
        if kind.makes_name:
            self.names[b"function's"] = Name(b"SELECT 1", is_from_sql=True)

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
            self._books.begun(owner)
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
        self.done.results.append(StatementResult(tag, -1, None, b"", ()))

    def _result(self, cell: bytes | None, is_too_large: bool = False) -> None:
        self._results([] if cell is None else [cell], is_too_large)

    def _results(self, cells: list[bytes], is_too_large: bool = False) -> None:
        """A result with one column."""
        rows = b"".join(b"D%b\0\1%b%b" % (_int4(len(cell) + 10), _int4(len(cell)), cell) for cell in cells)
        count = len(cells)
        outcome = StatementResult(f"SELECT {count}", count, COLUMNS, None if is_too_large else rows, ())
        self.done.results.append(outcome)

    def _end(self, commits: bool) -> None:
        work, self.work = self.work, None
        assert work is not None
        self.marks.end()
        if work.xid:
            self.cluster.statuses[work.xid] = b"committed" if commits else b"aborted"
        if commits:
            if any(kind_of(template).changes_schema for template, _ in work.effects):
                self.cluster.schema += 1
                self._tells_schema = self.cluster.schema
            self._committed(work)
        elif self.left:
            self.left.roll_back(work)


def _int4(number: int) -> bytes:
    return number.to_bytes(4, "big")
