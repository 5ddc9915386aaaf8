"""Runs functions that may block for long, to look up a name or read a file, in threads beside the loop.

Not in the loop's pool of threads, nor in any other that is shared: a name server that does not answer would fill it,
and all other work would wait. Each question has an `Aside` of its own with very few threads. They are daemon threads,
as nothing can end a look-up that hangs, and the broker must be able to end all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

THREADS = 2
# Whoever asks within so many seconds after another waits for the same answer.
SHARED_FOR = 1.0


T = TypeVar("T")


class Aside(Generic[T]):
    """One question that is asked again and again; at most THREADS threads look for the answer at once."""

    def __init__(self, name: str) -> None:
        """name is given to the threads."""
        self._name = name
        self._asked = 0.0  # when the newest thread was started
        # The answers being looked for, the newest last: enter with their thread, leave with its end.
        self._asking: list[asyncio.Future[T | Exception]] = []

    async def ask(self, function: Callable[[], T], seconds: float) -> T:
        """Return or raise what function does, in a thread; raises TimeoutError if that takes longer than seconds.

        If another call was made a moment ago, or no more threads may be started, its answer is used instead.
        """
        now = monotonic()
        if not self._asking or (len(self._asking) < THREADS and now > self._asked + SHARED_FOR):
            self._asked = now
            self._begin(function)
        newest = self._asking[-1]
        await asyncio.wait((newest,), timeout=seconds)
        if not newest.done():
            raise TimeoutError
        answer = newest.result()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _begin(self, function: Callable[[], T]) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T | Exception] = loop.create_future()
        self._asking.append(future)

        def run() -> None:
            answer: T | Exception
            try:
                answer = function()
            except Exception as error:  # noqa: BLE001  raised by ask, if anybody still waits
                answer = error
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(self._end, future, answer)

        threading.Thread(target=run, name=self._name, daemon=True).start()

    def _end(self, future: asyncio.Future[T | Exception], answer: T | Exception) -> None:
        self._asking.remove(future)
        future.set_result(answer)
