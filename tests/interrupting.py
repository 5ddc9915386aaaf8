"""A program whose signal handler raises at any moment of its calls: python tests/interrupting.py ADDRESS ALARMS SEED

Alarms come at random moments of small and large requests and results, transactions by lease and by message, sessions,
rollbacks, and COPY, while other threads ask as well. It prints one JSON object: how many alarms came, and what went
wrong of what a program may rely on:

- The exception that the signal handler raised is the one that arrives, the very object, and never lost.
- The next statement has its own result, at once.
- What was told of a transaction is true: `committed` is there, `not executed` or `failed` is not.
"""

import faulthandler
import io
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import psycopg2

from client import DBConnectionError, DBError, Handler

# A statement that takes longer than this hangs: none takes a tenth of a second on an idle machine.
HANGS_AFTER = 60.0
LARGE = 300_000


class Limit(Exception):
    """A time limit's."""


class Farewell(BaseException):
    """As KeyboardInterrupt and gevent's Timeout, no Exception."""


# What signal handlers raise. Some are what the client itself meets and deals with, if they come from elsewhere.
RAISED: tuple[Callable[[], BaseException], ...] = (
    Limit,
    Farewell,
    KeyboardInterrupt,
    TimeoutError,
    lambda: BlockingIOError(11, "a stranger's"),
    lambda: OSError(98, "a stranger's"),
    lambda: IndexError("a stranger's"),
    lambda: ValueError("a stranger's"),
    lambda: KeyError("a stranger's"),
    lambda: psycopg2.OperationalError("a stranger's"),
    lambda: DBConnectionError("a stranger's"),
)


class Interrupter:
    """Runs calls, of which one alarm may make an exception leave."""

    def __init__(self, address: str, chance: random.Random) -> None:
        self.chance = chance
        self.faults: list[str] = []
        self.alarms = 0
        self._is_armed = False  # an alarm that comes too late, by way of another thread, is none
        self._raised: BaseException | None = None
        signal.signal(signal.SIGALRM, self._on_alarm)
        self.db = Handler(address=address)
        self.tx = Handler("transactions", address=address)
        self.told: dict[str, str] = {}  # what is known of each transaction's token

    def _on_alarm(self, *_: Any) -> None:
        if self._is_armed:
            self._is_armed, self._raised = False, self.chance.choice(RAISED)()
            raise self._raised

    def run(self, what: str, call: Callable[[], Any], longest: float) -> Any:
        """What the call gives, or the exception that it ends with; an alarm comes within longest seconds."""
        self._raised, outcome = None, None
        try:
            try:
                self._is_armed = True
                signal.setitimer(signal.ITIMER_REAL, self.chance.uniform(1e-6, longest))
                outcome = call()
            finally:
                self._is_armed = False
                signal.setitimer(signal.ITIMER_REAL, 0)
        except BaseException as error:  # noqa: BLE001  it is the result
            outcome = error
        raised = self._raised
        if raised is not None:
            self.alarms += 1
            if outcome is not raised:
                self.faults.append(f"{what}: {raised!r} was lost, there came {outcome!r:.300}")
        elif isinstance(outcome, BaseException) and not isinstance(outcome, DBError):
            self.faults.append(f"{what}: {outcome!r:.300} out of nowhere")
        return outcome

    def expect(self, what: str, got: Any, right: Any) -> None:
        if not isinstance(got, BaseException) and got != right:
            self.faults.append(f"{what}: {got!r:.100}, not {right!r:.100}")

    # Scenes.

    def statement(self, handler: Handler, name: str) -> None:
        number = self.chance.randrange(1_000_000)
        kind = self.chance.randrange(4)
        if kind == 0:
            got = self.run(f"{name} small", lambda: handler.query("SELECT %s", (number,))[0][0], 0.002)
            self.expect(name, got, number)
        elif kind == 1:
            text = str(number) * (LARGE // 6)
            got = self.run(f"{name} request", lambda: handler.query("SELECT length(%s)", (text,))[0][0], 0.006)
            self.expect(name, got, len(text))
        elif kind == 2:
            sql = f"SELECT repeat('{number % 10}', {LARGE})"
            got = self.run(f"{name} result", lambda: handler.query(sql)[0][0], 0.006)
            self.expect(name, got, str(number % 10) * LARGE)
        else:
            sql = f"SELECT n, 'row ' || n FROM generate_series({number}, {number + 500}) n"
            got = self.run(f"{name} rows", lambda: handler.query(sql).fetchall()[-1][0], 0.006)
            self.expect(name, got, number + 500)

    def check(self, handler: Handler, name: str) -> None:
        """Without an alarm everything is right again."""
        number = self.chance.randrange(1_000_000)
        try:
            got = handler.query("SELECT %s", (number,))[0][0]
        except BaseException as error:  # noqa: BLE001  it is the fault
            self.faults.append(f"after {name}: {error!r:.300}")
        else:
            self.expect(f"after {name}", got, number)

    def autocommit(self) -> None:
        self.statement(self.db, "autocommit")
        self.check(self.db, "autocommit")

    def lease(self) -> None:
        """A transaction of some statements, and its end."""
        token, tx = f"{os.getpid()}-{len(self.told)}", self.tx
        self.told[token] = "not executed"
        got: Any = None
        if self.chance.random() < 0.5:
            got = self.run("lease insert", lambda: self.insert(tx, token), 0.002)
        else:
            self.insert(tx, token)
        if not isinstance(got, BaseException):
            if self.chance.random() < 0.5:
                self.statement(tx, "lease")
            if self.chance.random() < 0.8:
                self.commit(token)
        got = self.run("rollback", tx.rollback, 0.002)
        tx.rollback()
        if tx.in_transaction:
            self.faults.append("after rollback the transaction is open")
        self.check(tx, "lease")
        tx.rollback()

    def insert(self, tx: Handler, token: str) -> None:
        tx.query("INSERT INTO interrupted VALUES (%s)", (token,))

    def commit(self, token: str) -> None:
        """COMMIT, by any way, and once more where an exception left it; the last word counts."""
        tx = self.tx
        by_text = self.chance.random() < 0.4
        sql = self.chance.choice(("COMMIT", "commit;", "/* it */ END", "SELECT 1;\n COMMIT", "End Transaction"))
        got = self.run("commit", (lambda: tx.query(sql)) if by_text else tx.commit, 0.002)
        for _ in range(2):
            if isinstance(got, BaseException):
                try:
                    got = tx.commit()
                except DBError as error:
                    got = error
        self.told[token] = got.outcome if isinstance(got, DBError) else "committed"

    def session(self) -> None:
        """A temporary table is found again as long as the session lives."""
        try:
            with self.db.session() as session:
                session.query("CREATE TEMP TABLE kept AS SELECT 7 AS n")
                self.statement(session, "session")
                got = self.run("session temporary", lambda: session.query("SELECT n FROM kept")[0][0], 0.002)
                self.expect("session", got, 7)
                session.query("SELECT n FROM kept")
        except DBConnectionError as error:
            if error.outcome == "executed":
                self.faults.append(f"session: {error!r:.300}")
        self.check(self.db, "session")

    def copy(self) -> None:
        """Data that passes both ways, in statements of their own and in a transaction."""
        token, db = f"{os.getpid()}-{len(self.told)}", self.db
        rows = f"{token}\n" + f"{'y' * 1000}\n" * self.chance.choice((0, 400))
        got = self.run("copy in", lambda: db.copy_in("COPY interrupted FROM STDIN", rows).rowcount, 0.004)
        self.expect("copy in", got, rows.count("\n"))
        self.told[token] = "unknown" if isinstance(got, BaseException) else "committed"
        self.check(db, "copy in")
        sink, count = io.BytesIO(), self.chance.choice((10, 20_000))
        out = f"COPY (SELECT n FROM generate_series(1, {count}) n) TO STDOUT"
        handler = self.chance.choice((db, self.tx))
        got = self.run("copy out", lambda: handler.copy_out(out, sink).rowcount, 0.01)
        self.expect("copy out", got, count)
        if not isinstance(got, BaseException):
            self.expect("copied out", sink.getvalue().split(), [b"%d" % n for n in range(1, count + 1)])
        handler.rollback()
        self.check(handler, "copy out")
        handler.rollback()

    def opening(self) -> None:
        """A call that opens a connection to the broker, and closes it."""

        def ask() -> Any:
            with self.db.session() as session:
                return session.query("SELECT 8")[0][0]

        self.expect("opening", self.run("opening", ask, 0.003), 8)
        self.check(self.db, "opening")

    def message(self) -> None:
        token = f"{os.getpid()}-{len(self.told)}"
        steps = [("INSERT INTO interrupted VALUES (%s)", (token,)), "SELECT repeat('y', 20000)"]
        got = self.run("message", lambda: self.db.run(steps)[1][0][0], 0.004)
        self.expect("message", got, "y" * 20000)
        self.told[token] = "unknown" if isinstance(got, BaseException) else "committed"
        self.check(self.db, "message")

    def audit(self) -> None:
        """Hold what was told against what is there."""
        end = time.monotonic() + 10
        busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%interrupted%' AND state <> 'idle'"
        while self.db.query(f"{busy} AND pid <> pg_backend_pid()")[0][0] and time.monotonic() < end:
            time.sleep(0.05)
        there = {row[0] for row in self.db.query("SELECT token FROM interrupted")}
        for token, told in self.told.items():
            if told == "committed" and token not in there:
                self.faults.append(f"{token} was told to be committed, and is not there")
            if told in ("not executed", "failed") and token in there:
                self.faults.append(f"{token} was told to be {told}, and is there")


def keep_asking(address: str, number: int, is_over: threading.Event, faults: list[str]) -> None:
    """Another thread, whose answers are its own."""
    db, asked = Handler(address=address), 0
    try:
        while not is_over.wait(0.001):
            asked += 1
            value = number * 1_000_000 + asked
            got = db.query("SELECT %s", (value,))[0][0]
            if got != value:
                faults.append(f"thread {number}: {got}, not {value}")
    except BaseException as error:  # noqa: BLE001  it is the fault
        faults.append(f"thread {number}: {error!r:.300}")


def main(address: str, alarms: int, seed: int) -> None:
    lost: list[str] = []
    # What is raised where nobody can catch it, in a destructor, say, is lost.
    sys.unraisablehook = lambda told: lost.append(f"lost in {told.object!r:.100}: {told.exc_value!r}")
    interrupter = Interrupter(address, random.Random(seed))
    interrupter.db.query("CREATE TABLE IF NOT EXISTS interrupted (token text)")
    is_over = threading.Event()
    threads = [
        threading.Thread(target=keep_asking, args=(address, number, is_over, interrupter.faults), daemon=True)
        for number in (1, 2)
    ]
    for thread in threads:
        thread.start()
    scenes = (
        [interrupter.autocommit] * 4
        + [interrupter.lease] * 3
        + [interrupter.session, interrupter.message]
        + [interrupter.copy] * 2
        + [interrupter.opening] * 2
    )
    while interrupter.alarms < alarms and len(interrupter.faults) < 20:
        faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
        interrupter.chance.choice(scenes)()
    faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
    is_over.set()
    for thread in threads:
        thread.join()
    interrupter.audit()
    kinds: dict[str, int] = {}
    for told in interrupter.told.values():
        kinds[told] = kinds.get(told, 0) + 1
    print(json.dumps({"alarms": interrupter.alarms, "told": kinds, "faults": interrupter.faults, "lost": lost}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
