"""What may block for long, beside the loop: few threads, shared answers, errors for who asks."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from poold.config import passwords
from poold.config.model import EndpointConfig
from poold.system.side_threads import THREADS, Aside


def test_who_asks_together_shares_one_answer() -> None:
    asked = []

    async def ask() -> list[int]:
        aside: Aside[int] = Aside("test")
        may_answer = threading.Event()

        def answer() -> int:
            asked.append(may_answer.wait(10))
            return 7

        both = asyncio.gather(aside.ask(answer, 10), aside.ask(answer, 10))
        await asyncio.sleep(0)
        may_answer.set()
        return await both

    assert asyncio.run(ask()) == [7, 7]
    assert asked == [True]


def test_what_hangs_takes_few_threads_and_ends_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poold.system.side_threads.SHARED_FOR", -1.0)
    may_answer, asked = threading.Event(), []

    def hang() -> int:
        asked.append(may_answer.wait(10))
        return 7

    async def ask() -> None:
        aside: Aside[int] = Aside("test")
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await aside.ask(hang, 0.01)
        assert sum(each.name == "test" for each in threading.enumerate()) == THREADS
        may_answer.set()
        assert await aside.ask(hang, 10) == 7

    asyncio.run(ask())


def test_an_error_is_the_askers() -> None:
    async def ask() -> None:
        aside: Aside[int] = Aside("test")
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                await aside.ask(lambda: int(Path("/nowhere/at/all").read_text()), 10)

    asyncio.run(ask())


def config(path: Path) -> EndpointConfig:
    return EndpointConfig(host="x", dbname="x", user="x", password="at the start", password_file=str(path))


def test_a_password_is_what_the_file_says_at_this_moment(tmp_path: Path) -> None:
    path = tmp_path / "password"
    for text in ("one", "two"):
        path.write_text(f"{text}\n")
        assert passwords.current(config(path)) == text
    path.write_text("\n")
    with pytest.raises(OSError, match="expected the password in its first line"):
        passwords.current(config(path))
    path.unlink()
    with pytest.raises(OSError, match=f"password_file {path}: expected a file that can be read"):
        passwords.current(config(path))


def test_a_pipe_gives_its_password_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert passwords.current(config(tmp_path / "pipe")) == "at the start"
