"""Another client of the broker: a thread of its own, and so a connection of its own, that does what the test tells."""

import gc
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class Someone:
    """A client who stays: what is done here is done by the same one. A block: its end closes the connection."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)

    def do(self, call: Callable[..., T], *arguments: Any, **more: Any) -> T:
        """Have it done, and wait; what it gives or raises."""
        return self.begin(call, *arguments, **more).result()

    def begin(self, call: Callable[..., T], *arguments: Any, **more: Any) -> "Future[T]":
        """Have it begun."""
        return self._thread.submit(call, *arguments, **more)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()


def vanish_after(call: Callable[[], Any]) -> None:
    """A client does this, whatever comes of it, and is gone with all that it has open.

    What the call leaves open must be reachable from its own frame only, or it would go on living.
    """

    def life() -> None:
        try:
            kept = call()
        except Exception:  # noqa: BLE001 - whoever asks for this looks at what is left, not at what was said
            kept = None
        del kept

    thread = threading.Thread(target=life)
    thread.start()
    thread.join()
    gc.collect()


def attempt(call: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """What the call gives, or the exception that it ends with."""
    try:
        return call(*arguments, **more)
    except Exception as error:  # noqa: BLE001 - it is the result
        return error
