"""A worker of scripts/soak: a program that does a bit of everything, for ever, and says each second how it goes.

    python -m benchmark.soaking ADDRESS SEED BEGAN

BEGAN is a point in time by monotonic(), the same for all workers: from it on all of them pause together now and then.
Each second it prints a line of JSON: how many requests there were, errors by class, and how many milliseconds each
single-row select took.
"""

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

import psycopg2

from benchmark.broker import STATEMENTS, TRANSACTIONS
from benchmark.tables import READ_ACCOUNT, SELECT, TPCB, random_account, random_transfer
from client import Connection, Handler

TELL_INTERVAL = 1.0
# Every minute all workers do nothing for a while.
PAUSE_EACH, PAUSE = 60.0, 4.0
MOST_ROWS = 10_000
MOST_BYTES = 1_000_000
SLOWEST = 0.2
# What is wrong with these, PostgreSQL, the broker or the client says.
WRONG: tuple[tuple[str, Any], ...] = (
    ("SELECT 1 / %s", (0,)),
    ("SELEC 1", None),
    ("SELECT * FROM no_such_table", None),
    ("INSERT INTO pgbench_branches (bid, bbalance) VALUES (%s, 0)", (1,)),
    ("COPY pgbench_branches TO STDOUT", None),
    ("SELECT %s::date", ("no date",)),
    ("", None),
    ("DO $$ BEGIN RAISE EXCEPTION 'wrong: %%', repeat('x', %s); END $$", (100_000,)),
)


class Worker:
    """What it does, and what it has to tell."""

    def __init__(self, seed: int) -> None:
        self._dice = Random(seed)
        self._numbers = count(seed * 1_000_000)
        self._db = Handler(STATEMENTS)
        self.requests = 0
        self.errors: Counter[str] = Counter()
        self.selects: list[float] = []  # milliseconds
        works: tuple[tuple[int, Callable[[], None]], ...] = (
            (60, self._select), (8, self._rows), (8, self._large), (8, self._message), (6, self._interactive),
            (4, self._wrong), (2, self._late), (2, self._text), (1, self._notices), (1, self._rest),
        )  # fmt: skip
        self._works = [work for weight, work in works for _ in range(weight)]

    def work(self) -> None:
        """One thing, whatever comes of it."""
        self.requests += 1
        try:
            self._dice.choice(self._works)()
        except psycopg2.Error as error:  # the broker's are; an empty statement the client refuses with psycopg2's own
            self.errors[type(error).__name__] += 1

    def told(self) -> dict[str, Any]:
        """Since it was asked last."""
        told = {"requests": self.requests, "errors": dict(self.errors), "selects": self.selects}
        self.requests, self.errors, self.selects = 0, Counter(), []
        return told

    def _select(self) -> None:
        began = time.perf_counter()
        self._db.query(SELECT, (random_account(1, self._dice),)).fetchone()
        self.selects.append(round((time.perf_counter() - began) * 1000, 3))

    def _rows(self) -> None:
        rows = int(MOST_ROWS ** self._dice.random())  # as many small results as large ones
        found = self._db.query("SELECT n, n::text, n / 7.0 FROM generate_series(1, %s) n", (rows,)).fetchall()
        assert len(found) == rows

    def _large(self) -> None:
        text = "x" * int(MOST_BYTES ** self._dice.random())
        (length,) = self._db.query("SELECT length(%s)", (text,)).fetchone()
        assert length == len(text)

    def _message(self) -> None:
        transfer = random_transfer(1, self._dice)
        with self._db.transaction() as tx:
            account = tx.query(READ_ACCOUNT, transfer)
            for statement in TPCB:
                tx.query(statement, transfer)
            with tx.savepoint():
                tx.query("SELECT %s::int + 1", (account["aid"],))
        assert account[0][0] == transfer["aid"]

    def _interactive(self) -> None:
        transfer = random_transfer(1, self._dice)
        with contextlib.suppress(_Undone), Handler(TRANSACTIONS) as db:
            for statement in TPCB:
                db.query(statement, transfer)
            if self._dice.random() < 0.3:
                raise _Undone

    def _wrong(self) -> None:
        self._db.query(*self._dice.choice(WRONG))

    def _late(self) -> None:
        self._db.query("SELECT pg_sleep(%s)", (self._dice.random() * SLOWEST,), timeout=SLOWEST / 2)

    def _text(self) -> None:
        """A statement that nobody has sent before."""
        number = next(self._numbers)
        assert self._db.query(f"SELECT {number}")[0][0] == number

    def _notices(self) -> None:
        self._db.query("DO $$ BEGIN FOR i IN 1..100 LOOP RAISE NOTICE 'number %', i; END LOOP; END $$")

    def _rest(self) -> None:
        time.sleep(self._dice.random() * SLOWEST)


class _Undone(Exception):
    """Leaves a transaction's block so that it is rolled back."""


def main() -> None:
    """Work until the end."""
    address, seed, began = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    Connection.init({"address": address})
    worker = Worker(seed)
    told = time.monotonic()
    while True:
        now = time.monotonic()
        if now - told >= TELL_INTERVAL:
            print(json.dumps(worker.told()), flush=True)
            told = now
        left = PAUSE - (now - began) % PAUSE_EACH
        if left > 0 and now - began > PAUSE_EACH:
            time.sleep(min(left, TELL_INTERVAL))
        else:
            worker.work()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        main()
