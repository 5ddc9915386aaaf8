"""A worker of the ledger test: appends numbered entries in every way there is, and writes down what it was told.

It runs until its standard input says something. What it cannot explain, an error that no fault can cause, ends it.
"""

import io
import json
import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from audit import Fate

import client
from client import DBError, Handler, Transaction
from client.errors import DBConnectionError, DBQueryError
from client.pending import Savepoint
from client.wire.messages import EXECUTED, UNKNOWN

TABLE = """
CREATE TABLE entry (worker int, serial int, part int, token text);
CREATE INDEX ON entry (worker, serial);
CREATE FUNCTION noted(token text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN RAISE LOG 'noted %', token; RETURN token; END $$;
CREATE PROCEDURE add_parts(worker int, serial int, parts int, token text, fails boolean) LANGUAGE plpgsql AS $$
BEGIN
    FOR part IN 0..parts - 1 LOOP
        INSERT INTO entry VALUES (worker, serial, part, token);
        COMMIT;
    END LOOP;
    IF fails THEN RAISE division_by_zero; END IF;
END $$
"""
GROUPS: dict[str, dict[str, Any]] = {
    "default": {"min_size": 1, "max_size": 4},
    "tracked": {"min_size": 1, "max_size": 3, "track_outcome": True},
    "leases": {"min_size": 1, "max_size": 4, "autocommit": False, "idle_in_transaction_timeout": 5},
}
ADD = "INSERT INTO entry VALUES (%s, %s, %s, %s) RETURNING token"
# The server's log keeps that it ran, whatever becomes of its transaction.
ADD_NOTED = "INSERT INTO entry VALUES (%s, %s, %s, noted(%s)) RETURNING token"
COUNT = "SELECT count(*) AS n FROM entry WHERE worker = %s AND serial = %s"
MOST_STEPS = 6
DIVISION_BY_ZERO = "22012"
# After an error, so that a fault is not answered with a thousand attempts.
PAUSE = 0.02
# How long a worker that has started waits to be served, in seconds. Only what never recovers reaches it.
PATIENCE = 45.0
# Of how many attempts an alarm leaves by an exception, and how soon at the latest.
ALARMED, ALARM_AFTER = 0.15, 0.03
# Answers that go on for longer than a packet, to be cut in the middle.
LONG = "SELECT %s || n AS it FROM generate_series(1, %s) AS n"


def shape(chance: random.Random) -> tuple[list[float], int, bool, bool]:
    """Of a message: what its statements are like, how many are outside of its savepoint block, whether that fails, and
    whether it expects in vain. A block that fails is undone and the rest stays; such an expectation undoes everything.
    """
    plan = [chance.random() for _ in range(chance.randint(1, MOST_STEPS))]
    outside = chance.randint(1, len(plan)) if chance.random() < 0.4 else len(plan)
    return plan, outside, chance.random() < 0.5, chance.random() < 0.1


# As many as a program has, so that the broker's plans of them are soon complete and its memory is at rest.
SHAPES = [shape(random.Random(number)) for number in range(60)]


class Alarm(Exception):
    """What a program's own time limit raises, at any moment."""


class Log:
    """The worker's file. Each line is one write, which a kill cannot divide."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, **entry: Any) -> None:
        os.write(self._descriptor, json.dumps(entry).encode() + b"\n")


class Bookkeeper:
    """One worker."""

    def __init__(self, number: int, log: Log, chance: random.Random) -> None:
        self._number = number
        self._log = log
        self._chance = chance
        self._serial = 0
        self._last: tuple[int, int] | None = None  # a committed one, and how many parts it has
        self._is_committing = False  # the lease's COMMIT may be on its way
        self._handlers = {group: patiently(group) for group in GROUPS}

    def work(self) -> None:
        """One attempt at something, which an alarm may leave at any moment."""
        ways = (self._single, self._lease, self._message, self._message, self._read, self._steps, self._copy)
        way = self._chance.choice(ways)
        try:
            if self._chance.random() < ALARMED:
                signal.setitimer(signal.ITIMER_REAL, self._chance.uniform(0.0001, ALARM_AFTER))
            way()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Alarm:
            self._alarmed()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _alarmed(self) -> None:
        """Nobody was told what became of the attempt; where its COMMIT was on its way, another one tells the truth."""
        db = self._handlers["leases"]
        try:
            if self._is_committing and db.in_transaction:
                db.commit()
                self._end(Fate.COMMITTED)
        except DBError as error:
            self._end_by(error)
        self._is_committing = False
        db.rollback()

    # Each way.

    def _single(self) -> None:
        is_noted = self._chance.random() < 0.3
        db, token = self._autocommit(), self._begin("noted" if is_noted else "single", [0], is_sent=True)
        try:
            result = db.query(ADD_NOTED if is_noted else ADD, (self._number, self._serial, 0, token), self._timeout())
        except DBError as error:
            self._end_by(error)
        else:
            self._check([token], [row.token for row in result])
            self._end(Fate.COMMITTED, parts=1)

    def _steps(self) -> None:
        """What commits part by part, and may fail then: told as failed it would have left nothing."""
        kind, count, fails = self._chance.choice(("CALL", "DO", "script")), self._chance.randint(1, 3), self._fails()
        token = self._begin(f"steps {kind}", list(range(count)), is_sent=True, is_stepwise=True)
        adds = [
            f"INSERT INTO entry VALUES ({self._number}, {self._serial}, {part}, '{token}')" for part in range(count)
        ]
        script = "; COMMIT; ".join(adds) + ("; COMMIT; SELECT 1 / 0" if fails else "")
        block = "; COMMIT; ".join(adds) + "; COMMIT; " + ("RAISE division_by_zero;" if fails else "")
        db, timeout = self._autocommit(), self._timeout()
        try:
            if kind == "CALL":
                db.query(
                    "CALL add_parts(%s, %s, %s, %s, %s)", (self._number, self._serial, count, token, fails), timeout
                )
            else:
                db.query(script if kind == "script" else f"DO $$ BEGIN {block} END $$", None, timeout)
        except DBError as error:
            self._end_by(error)
        else:
            self._check([False], [fails])
            self._end(Fate.COMMITTED, parts=count)

    def _copy(self) -> None:
        """Rows by COPY, some of them more than any buffer holds, and some with one that is none at their end."""
        parts, width = list(range(self._chance.choice((1, 30, 300)))), self._chance.choice((1, 100, 10_000))
        db, token, fails = self._autocommit(), self._begin("copy", parts, is_sent=True), self._fails()

        def rows() -> Iterator[str]:
            for part in parts:
                yield f"{self._number}\t{self._serial}\t{part}\t{token}{'x' * width}\n"
            if fails:
                yield "none\n"

        try:
            result = db.copy_in("COPY entry FROM STDIN", rows(), timeout=self._timeout())
        except DBError as error:
            self._end_by(error)
        else:
            self._check([False, len(parts)], [fails, result.rowcount])
            self._end(Fate.COMMITTED, parts=len(parts))

    def _lease(self) -> None:
        db, parts = self._handlers["leases"], list(range(self._chance.randint(1, 4)))
        token = self._begin("lease", parts, is_sent=False)
        self._is_committing = False
        try:
            for part in parts:
                mine = f"{token}/{part}"
                if self._chance.random() < 0.1:
                    row = f"{self._number}\t{self._serial}\t{part}\t{mine}\n"
                    db.copy_in("COPY entry FROM STDIN", row, timeout=self._timeout())
                    continue
                result = db.query(ADD, (self._number, self._serial, part, mine), self._timeout())
                self._check([mine], [row.token for row in result])
            self._check([len(parts)], [row.n for row in db.query(COUNT, (self._number, self._serial))])
            if self._chance.random() < 0.2:
                db.rollback()
                self._end(Fate.ABSENT)
                return
            self._log.write(commit=self._serial)
            self._is_committing = True
            db.commit()
        except DBError as error:
            # Without COMMIT nothing can have been committed, whatever became of its statements.
            self._end_by(error, None if self._is_committing else Fate.ABSENT)
            self._is_committing = False
            db.rollback()
        else:
            self._is_committing = False
            self._end(Fate.COMMITTED, parts=len(parts))

    def _message(self) -> None:
        group, (plan, outside, fails, is_vain) = self._chance.choice(list(GROUPS)), self._chance.choice(SHAPES)
        block = [] if fails else list(range(outside, len(plan)))
        token = self._begin(f"message {group}", list(range(outside)), is_sent=True, block=block)
        tx = self._handlers[group].transaction(timeout=self._timeout(), retries=self._chance.choice((0, 3)))
        try:
            with tx:
                pending, savepoint = self._fill(tx, token, plan, outside, fails)
                if is_vain:
                    tx.query(COUNT, (self._number, self._serial), expect=7)
        except DBError as error:
            # What a savepoint block contains never ends the transaction, whatever else happens to it.
            if (isinstance(error, client.ExpectationFailed) and not is_vain) or error.pgcode == DIVISION_BY_ZERO:
                raise
            self._end_by(error)
            return
        self._check([False], [is_vain])
        there = outside
        if savepoint is not None:
            # An error of its own, a statement_timeout perhaps, undoes a block and not its transaction.
            is_undone = savepoint.error is not None
            self._check([True], [is_undone or not fails])
            there = outside if is_undone else len(plan)
            if block:
                self._log.write(block_there=not is_undone, serial=self._serial)
        self._end(Fate.COMMITTED, parts=there)
        for mine, result in pending[:there]:
            self._check_pending(mine, result)

    def _fill(
        self, tx: Transaction, token: str, plan: list[float], outside: int, fails: bool
    ) -> tuple[list[tuple[str, Any]], Savepoint | None]:
        """Put the message's statements together; each entry's token and result, and the block of the last ones."""
        pending: list[tuple[str, Any]] = []

        def add(part: int) -> None:
            mine = f"{token}/{part}"
            value: Any = mine
            if pending and plan[part] < 0.3:
                mine, first = pending[0]
                value = first["token"]
            expect = 1 if plan[part] > 0.7 else None
            pending.append((mine, tx.query(ADD, (self._number, self._serial, part, value), expect)))

        for part in range(outside):
            add(part)
        if outside == len(plan):
            return pending, None
        with tx.savepoint() as savepoint:
            for part in range(outside, len(plan)):
                add(part)
            if fails:
                tx.query("SELECT 1 / %s", (0,))
        return pending, savepoint

    def _read(self) -> None:
        db, mine = self._autocommit(), f"{self._number}:{self._chance.random()}:"
        try:
            if self._last is not None and self._chance.random() < 0.5:
                serial, parts = self._last
                self._check([parts], [row.n for row in db.query(COUNT, (self._number, serial), self._timeout())])
            size = self._chance.choice((1, 3, 200))
            if self._chance.random() < 0.3:
                size, sink = size * 100, io.StringIO()
                db.copy_out(f"COPY ({LONG}) TO STDOUT", sink, (mine, size), self._timeout())
                self._check([f"{mine}{n}" for n in range(1, size + 1)], sink.getvalue().splitlines())
                return
            rows = db.query(LONG, (mine, size), self._timeout())
            self._check([f"{mine}{n}" for n in range(1, size + 1)], [row.it for row in rows])
        except DBError as error:
            self._bear(error)

    # What is told.

    def _begin(
        self, way: str, parts: list[int], is_sent: bool, block: Sequence[int] = (), is_stepwise: bool = False
    ) -> str:
        self._serial += 1
        more = {"is_stepwise": True} if is_stepwise else {}
        self._log.write(begin=self._serial, way=way, parts=parts, block=block, is_sent=is_sent, **more)
        return f"{self._number}/{self._serial}/{self._chance.random()}"

    def _end(self, fate: Fate, error: str = "", parts: int = 0) -> None:
        self._log.write(end=self._serial, fate=fate, error=error)
        if fate is Fate.COMMITTED and parts:
            self._last = self._serial, parts

    def _end_by(self, error: DBError, fate: Fate | None = None) -> None:
        told = {UNKNOWN: Fate.UNKNOWN, EXECUTED: Fate.COMMITTED}.get(error.outcome, Fate.ABSENT)
        self._end(fate or told, f"{type(error).__name__} {error.outcome}")
        self._bear(error)

    def _bear(self, error: DBError) -> None:
        """Go on after an error that a fault explains."""
        if not isinstance(error, DBConnectionError | DBQueryError):
            raise error
        time.sleep(PAUSE)

    def _check(self, wanted: list[Any], got: list[Any]) -> None:
        if wanted != got:
            self._log.write(wrong=f"serial {self._serial}: wanted {wanted!r:.200}, got {got!r:.200}")

    def _check_pending(self, mine: str, result: Any) -> None:
        try:
            got = [row.token for row in result.result()]
        except DBConnectionError as error:
            if error.outcome != EXECUTED:
                raise  # the transaction was committed, says its block
            return
        self._check([mine], got)

    def _autocommit(self) -> Handler:
        return self._handlers[self._chance.choice(("default", "tracked"))]

    def _fails(self) -> bool:
        return self._chance.random() < 0.3

    def _timeout(self) -> float | None:
        return self._chance.uniform(0.2, 4) if self._chance.random() < 0.3 else None


def _raise_alarm(*_: Any) -> None:
    raise Alarm


def patiently(group: str) -> Handler:
    """A Handler, as soon as it is served; raises what keeps it from that for too long."""
    db = Handler(group)
    until = time.monotonic() + PATIENCE
    while True:
        try:
            db.query("SELECT 1")
            db.rollback()
            return db
        except DBConnectionError:
            if time.monotonic() > until:
                raise
            db.rollback()  # its transaction may be the one that was lost
            time.sleep(PAUSE)


def main(number: int, path: str, seed: int) -> None:
    """Work until told to stop."""
    signal.signal(signal.SIGALRM, _raise_alarm)
    log = Log(path)
    step: Callable[[], None] = Bookkeeper(number, log, random.Random(seed)).work
    while not select.select([sys.stdin], [], [], 0)[0]:
        step()
