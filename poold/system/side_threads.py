"""Runs what may block for long, a look-up of a name or the reading of a file, beside the loop.

Not in the loop's pool of threads, nor in any that is shared: a name server that does not answer would fill it, and what
others ask would wait behind. Each asker has an `Aside` of its own with very few threads. They are daemons, as nothing
ends a look-up that hangs, and the broker must end all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

THREADS = 2
# Who asks within so many seconds of another waits for the same answer.
SHARED_FOR = 1.0


T = TypeVar("T")


class Aside(Generic[T]):
    """One question, asked again and again, of which few are under way at once."""

    def __init__(self, name: str) -> None:
        """name is that of its threads."""
        self._name = name
        self._asked = 0.0  # when the newest was
        # Those under way, the newest last: enter with their thread, leave with its end.
        self._asking: list[asyncio.Future[T | Exception]] = []

    async def ask(self, function: Callable[[], T], seconds: float) -> T:
        """What function gives, or raises; TimeoutError where it does not within so many seconds.

        Where as many as may be are under way the newest answer has to do.
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
            except Exception as error:  # noqa: BLE001  it is the asker's, who may be gone
                answer = error
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(self._end, future, answer)

        threading.Thread(target=run, name=self._name, daemon=True).start()

    def _end(self, future: asyncio.Future[T | Exception], answer: T | Exception) -> None:
        self._asking.remove(future)
        future.set_result(answer)
