"""How long a call waits for a broker: all of connect_wait or of its own timeout, and no longer."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from client import DBConnectionError, Handler
from client.channels import attempts

WAYS: dict[str, Callable[..., Any]] = {
    "query": lambda db, timeout: db.query("SELECT 1", timeout=timeout),
    "transaction": lambda db, timeout: db.run(["SELECT 1"], timeout=timeout),
    "copy_in": lambda db, timeout: db.copy_in("COPY a FROM STDIN", [b"1\n"], timeout=timeout),
    "copy_out": lambda db, timeout: db.copy_out("COPY a TO STDOUT", BytesIO(), timeout=timeout),
    "stream": lambda db, timeout: list(db.stream("SELECT 1", timeout=timeout)),
    "session": lambda db, timeout: db.session().query("SELECT 1", timeout=timeout),
}


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(attempts, "time", made)
    return made


@pytest.mark.parametrize(
    ("connect_wait", "timeout", "expected"),
    [(5, None, 5), (0.5, None, 0.5), (0.2, None, 0.2), (0, None, 0), (5, 1, 1), (30, 0.5, 0.5), (5, 3, 3), (1, 3, 1)],
)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_call_waits_as_long_as_it_says(
    clock: Clock, tmp_path: Path, way: Callable[..., Any], connect_wait: float, timeout: float | None, expected: float
) -> None:
    db = Handler(address=f"ipc://{tmp_path}/nobody.sock", connect_wait=connect_wait)
    began = clock.now
    with pytest.raises(DBConnectionError, match="no poold broker answers"):
        way(db, timeout)
    assert clock.now - began == pytest.approx(expected)


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.02, 0.3, 5.0])
def test_the_last_attempt_is_at_the_end(clock: Clock, seconds: float) -> None:
    made = attempts.Attempts(seconds)
    began = clock.now
    while made.another():
        pass
    assert clock.now - began == pytest.approx(seconds)
