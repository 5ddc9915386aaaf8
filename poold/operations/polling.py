"""Asking a broker again and again beside the screen, so that keys are heard while it does not answer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from client.channels.channel import Channel
from client.channels.registry import broker_keys
from client.errors import DBError
from poold.operations.asking import call

INTERVAL = 1.0
# Seconds. A broker that takes longer for its figures counts as one that does not answer.
PATIENCE = 3.0
# Answers for which it is told that another broker serves.
NEWS_KEPT = 15

Pairs = Sequence[tuple[str, str]]


class Taken(NamedTuple):
    """What is known of the broker."""

    figures: dict[str, Any] | None = None  # the last answer, None before the first
    before: dict[str, Any] | None = None  # the answer before it, of the same question
    question: Pairs = ()
    error: str = ""  # why there is no newer one
    news: str = ""  # what has changed about the broker itself a moment ago
    answers: int = 0  # since then


class Polling:
    """A thread that asks for figures, once every INTERVAL and whenever the question changes."""

    def __init__(self, target: str, question: Pairs) -> None:
        self._target = target
        self._question = question
        self._is_wanted = threading.Event()
        self.taken = Taken()
        threading.Thread(target=self._run, name="figures", daemon=True).start()

    def ask(self, question: Pairs) -> None:
        """Ask for this from here on, at once."""
        self._question = question
        self._is_wanted.set()

    def _run(self) -> None:
        channel: Channel | None = None
        while True:
            question, old = self._question, self.taken
            try:
                if channel is not None and not channel.is_usable:
                    channel.close()
                    channel = None
                    # What was news is none any more, and to find out whether another broker is there takes a while.
                    self.taken = old = _failed(old, "the connection is lost")
                if channel is None:
                    channel = Channel(self._target, broker_keys(self._target), PATIENCE, PATIENCE)
                figures = call(channel, "stats", question, PATIENCE)
            except (DBError, ValueError) as error:
                if channel is not None:
                    channel.close()
                    channel = None
                self.taken = _failed(old, " ".join(str(error).split()))
            else:
                self.taken = _next(old, figures, question)
            self._is_wanted.wait(INTERVAL)
            self._is_wanted.clear()


def _next(old: Taken, figures: dict[str, Any], question: Pairs) -> Taken:
    last, answers = old.figures, old.answers + 1
    news = old.news if answers < NEWS_KEPT else ""
    if last is not None and last["pid"] != figures["pid"]:
        news, answers = f"another broker serves: process {figures['pid']}", 0
    return Taken(figures, last if old.question == question else None, question, "", news, answers)


def _failed(old: Taken, why: str) -> Taken:
    return old._replace(error=why, news="")


class Order:
    """An order that is given beside the screen, and what came of it."""

    def __init__(self, target: str, what: str, arguments: Pairs, seconds: float, text: str) -> None:
        """text says what is done; the answer may take so many seconds."""
        self.outcome = f"{text} ..."
        self._thread = threading.Thread(target=self._give, args=(target, what, arguments, seconds, text), daemon=True)
        self._thread.start()

    def _give(self, target: str, what: str, arguments: Pairs, seconds: float, text: str) -> None:
        try:
            channel = Channel(target, broker_keys(target), PATIENCE, PATIENCE)
            try:
                answer = call(channel, what, arguments, seconds)
            finally:
                channel.close()
        except (DBError, ValueError) as error:
            self.outcome = " ".join(str(error).split())
        else:
            is_done = answer.get("paused", True)
            self.outcome = f"{text}: done" if is_done else f"{text}: not at rest in time, undone"
