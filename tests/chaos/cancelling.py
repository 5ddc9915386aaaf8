"""Workers of the cancel test: who cancels at random, and who never does and must not notice.

Both are many clients in one process that ask without waiting for each other. A statement names itself, so a reply
that belongs to another is seen; and those that write leave a row that must be there once.
"""

import os
import random
import select
import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any

from crowd import Crowd

from client import DBError
from client.values.result import Result
from client.wire.messages import NOT_EXECUTED

TABLE = "CREATE TABLE written (token text)"
# Of built-in functions alone, so it shares backends; and about as long as a cancel takes, so that many come when the
# next one runs already: to count so many numbers takes some hundred nanoseconds each.
SHORT = "SELECT max(%s) AS it FROM pg_catalog.generate_series(0, %s)"
WRITE = "INSERT INTO written VALUES (%s) RETURNING token AS it"
# Never short enough to share a backend.
LONG = "SELECT %s AS it, pg_sleep(%s)"
CANCELED = "57014"
# What can come of a cancel: it comes to a statement that waits, to one that runs, or when all is over.
CAN_COME = ("not begun", "hit", "too late")


class Bystanders:
    """Clients that never cancel."""

    def __init__(self, count: int, chance: random.Random) -> None:
        self._broker: Any = SimpleNamespace(address=os.environ["POOLD_ADDRESS"], signal=lambda number: None)
        self._count = count
        self.chance = chance
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self) -> None:
        """Ask until the standard input says something."""
        with Crowd(self._broker, self._count) as crowd:
            number = 0
            while not select.select([sys.stdin], [], [], 0)[0]:
                number += 1
                tokens = [f"{os.getpid()}/{number}/{place}" for place in range(self._count)]
                crowd.ask([(WRITE, (each,)) if self.chance.random() < 0.3 else (SHORT, (each, 0)) for each in tokens])
                for token, answer in zip(tokens, crowd.answers(), strict=True):
                    self.hear(token, answer)

    def hear(self, token: str, answer: Result | DBError) -> None:
        """It has to be the answer to its own question."""
        self.counts["answers"] += 1
        if isinstance(answer, DBError):
            self.wrong.append(f"{token}: {answer!r} {answer.pgcode}")
        elif answer[0].it != token:
            self.wrong.append(f"{token} got {answer[0].it}")


class Cancellers(Bystanders):
    """Clients that withdraw half of what they ask, at any time, and leave now and then."""

    def __init__(self, count: int, chance: random.Random, cancels: int) -> None:
        super().__init__(count, chance)
        self._cancels = cancels

    def run(self) -> None:
        """Ask until so many statements were withdrawn, and each thing that can come of it has come."""
        number = 0
        with Crowd(self._broker, self._count) as crowd:
            while self.counts["cancels"] < self._cancels or not all(self.counts[each] for each in CAN_COME):
                number += 1
                self._round(crowd, number)

    def _round(self, crowd: Crowd, number: int) -> None:
        is_slow = self.chance.random() < 0.1
        chance, places = self.chance, list(range(self._count))
        tokens = {place: f"{os.getpid()}/{number}/{place}" for place in places}
        asked: list[int] = []
        withdrawn: set[int] = set()

        def withdraw(place: int) -> None:
            withdrawn.add(place)
            self.counts["cancels"] += 1
            crowd.cancel(place)

        for place in chance.sample(places, len(places)):
            crowd.ask_alone(place, self._question(tokens[place], is_slow))
            asked.append(place)
            if chance.random() < 0.15:
                withdraw(place)
            if chance.random() < 0.15:
                withdraw(chance.choice(asked))
        for place in chance.sample(places, len(places)):
            if chance.random() < 0.01:
                self.counts["left"] += 1
                crowd.leave(place)
                crowd.come_back(place)
                continue
            if chance.random() < 0.2:
                withdraw(place)
            answer = crowd.answer(place)
            if place in withdrawn and isinstance(answer, DBError):
                self._hear_end(tokens[place], answer)
            else:
                self.counts["too late"] += place in withdrawn
                self.hear(tokens[place], answer)

    def _question(self, token: str, is_slow: bool) -> tuple[Any, ...]:
        if is_slow and self.chance.random() < 0.3:
            return LONG, (token, self.chance.uniform(0.005, 0.03))
        return SHORT, (token, self.chance.randrange(2000))

    def _hear_end(self, token: str, error: DBError) -> None:
        if error.outcome == NOT_EXECUTED:
            self.counts["not begun"] += 1
        elif error.pgcode == CANCELED:
            self.counts["hit"] += 1
        else:
            self.wrong.append(f"{token} was withdrawn: {error!r}")


def main(tell: Any, kind: str, count: int, seed: int, cancels: int) -> None:
    """Run, and tell how often what happened, and what was wrong."""
    chance = random.Random(seed)
    clients = Bystanders(count, chance) if kind == "bystanders" else Cancellers(count, chance, cancels)
    clients.run()
    tell([clients.counts, clients.wrong])
