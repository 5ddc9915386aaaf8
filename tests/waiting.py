"""Waiting for what will be true soon: the tests' only way to synchronise with another process or thread."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_INTERVAL = 0.01


def wait_until(condition: Callable[[], T], timeout: float = 10.0, what: str = "the condition") -> T:
    """Return the condition's first true value; AssertionError that names `what` when it stays false for `timeout`."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come about within {timeout} s"
        time.sleep(POLL_INTERVAL)
