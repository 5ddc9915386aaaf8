"""`poold top` on a real terminal: what it shows, what its keys do, and that the terminal is left as it was."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from brokers import Broker, poold
from terminal import Terminal
from waiting import wait_until

from client import TransactionLost

StartBroker = Callable[..., Broker]
StartTop = Callable[..., Terminal]
GROUPS: dict[str, dict[str, Any]] = {
    "default": {"min_size": 1, "max_size": 2},
    "transactions": {"autocommit": False, "min_size": 0, "max_size": 2},
}
UP, DOWN, CTRL_C = "\x1b[A", "\x1b[B", "\x03"
LEFT_THE_SCREEN = b"\x1b[?1049l"


@pytest.fixture
def broker(start_broker: StartBroker) -> Broker:
    return start_broker(groups=GROUPS)


@pytest.fixture
def start_top(broker: Broker) -> Iterator[StartTop]:
    with ExitStack() as cleanup:

        def start_top(**more: Any) -> Terminal:
            made = Terminal("top", f"--address={broker.address}", **more)
            cleanup.callback(made.close)
            return made

        yield start_top


def test_the_keys_go_through_the_sections_and_q_leaves_the_terminal_as_it_was(
    broker: Broker, start_top: StartTop
) -> None:
    broker.handler().query("SELECT 1 AS shown")
    top = start_top()
    top.wait("transactions/s")
    for key, heading in (
        ("b", "server pid"),
        ("c", "leases"),
        ("t", "SELECT ? AS shown"),
        ("w", "waits"),
        ("e", "joined"),
    ):
        top.press(key)
        top.wait(heading)
    top.press("h")
    shown = " ".join(" ".join(top.wait("asks first")).split())
    assert "h: this help" in shown
    assert "w: who waits, and why" in shown
    top.resize(40, 12)
    shown = " ".join(" ".join(top.wait("q: quit")).split())
    assert "let it go on (asks first)" in shown
    top.resize(100, 24)
    top.press("xg")
    top.wait("groups by name")
    top.press("s")
    top.wait("groups by requests/s")
    top.press("q")
    assert top.finish() == 0
    assert top.raw.endswith(LEFT_THE_SCREEN)
    assert "Traceback" not in "".join(top.shown())


def test_a_small_terminal_and_another_size_are_filled_and_not_overrun(broker: Broker, start_top: StartTop) -> None:
    top = start_top(columns=40, lines=12)
    top.wait("default")
    for section, heading in (("b", "pid"), ("t", "total"), ("c", "clients"), ("w", "why"), ("g", "waiting")):
        top.press(section)
        lines = top.wait(heading)
        assert len(lines) == 12
        assert lines[-1].startswith("g e b c w t")
    top.resize(120, 30)
    assert "withdrawn" not in " ".join(top.wait("transactions/s")[:3])
    assert top.wait("h help  q quit")[-1].endswith("q quit")
    top.resize(15, 5)
    top.wait("too small")
    top.resize(80, 24)
    top.wait("transactions")
    top.press(CTRL_C)
    assert top.finish() == 0
    assert top.raw.endswith(LEFT_THE_SCREEN)


def test_a_line_that_is_as_wide_as_the_screen_is_shown_to_its_last_character(
    broker: Broker, start_top: StartTop
) -> None:
    holders = [broker.handler("transactions", tag=f"holder {place}") for place in range(2)]
    for each in holders:
        each.query('SELECT 1 AS "a rather long name of a column that no terminal has room for beside others"')
    top = start_top(columns=80)
    top.wait("transactions")
    top.press("b")
    lines = [line for line in top.wait("holder 1") if line.startswith("transactions")]
    assert len(lines) == 2
    for line in lines:
        assert (len(line), line[-1]) == (80, "…")
    # Real terminals, unlike this one, stay on the last character that they have written, so nothing is cleared behind.
    for cleared in re.finditer(rb"\x1b\[[JK]", top.raw):
        assert top.raw[: cleared.start()].endswith((b"\x1b[H", b"\r\n"))
    for each in holders:
        each.rollback()


def test_what_is_chosen_is_ended_after_a_yes_and_not_without(broker: Broker, start_top: StartTop) -> None:
    holder = broker.handler("transactions", tag="holder")
    holder.query("SELECT 1")
    top = start_top()
    top.wait("transactions")
    top.press("b")
    top.wait("holder")
    top.press("k")
    top.wait("(holder)? y/n")
    top.press("n")
    top.wait("nothing is done")
    assert holder.query("SELECT 2").fetchone() == (2,)
    top.press("k")
    top.wait("(holder)? y/n")
    top.press("y")
    top.wait(": done")
    with pytest.raises(TransactionLost, match="an administrator ended it"):
        holder.query("SELECT 3")
    top.press(DOWN + DOWN + DOWN + "k")
    top.wait("nothing here can be ended")


def test_a_group_is_paused_and_goes_on(broker: Broker, start_top: StartTop) -> None:
    top = start_top()
    top.wait("transactions")
    top.press(DOWN + UP + "p")
    top.wait("pause group default? y/n")
    top.press("y")
    top.wait("pause group default: done")
    assert broker.group()["state"] == "paused"
    top.wait("paused")
    top.press("p")
    top.wait("resume group default? y/n")
    top.press("y")
    top.wait("resume group default: done")
    assert broker.group()["state"] == "running"


def test_it_outlives_the_broker_and_says_so(broker: Broker, start_top: StartTop) -> None:
    top = start_top()
    top.wait("running")
    broker.stop()
    top.wait("no answer, trying again")
    broker.start()
    top.wait(f"another broker serves: process {broker.pid}")
    broker.kill()
    assert "another broker serves" not in "".join(top.wait("no answer, trying again"))
    broker.start()
    top.wait(f"another broker serves: process {broker.pid}")
    top.press("q")
    assert top.finish() == 0


def test_a_broker_that_hangs_does_not_keep_keys_from_being_heard(broker: Broker, start_top: StartTop) -> None:
    top = start_top()
    top.wait("running")
    broker.signal(signal.SIGSTOP)
    try:
        top.press("h")
        top.wait("this help")
        top.press("xq")
        assert top.finish() == 0
    finally:
        broker.signal(signal.SIGCONT)


def test_told_to_end_or_stopped_for_a_while_it_gives_the_terminal_back(broker: Broker, start_top: StartTop) -> None:
    top = start_top()
    top.wait("running")
    top.process.send_signal(signal.SIGTSTP)
    wait_until(lambda: bool(top.shown()) and top.raw.endswith(LEFT_THE_SCREEN), what="the terminal given back")
    top.process.send_signal(signal.SIGCONT)
    wait_until(lambda: bool(top.shown()) and not top.raw.endswith(LEFT_THE_SCREEN), what="the screen taken again")
    top.wait("running")
    top.process.send_signal(signal.SIGTERM)
    assert top.finish() == 128 + signal.SIGTERM
    assert top.raw.endswith(LEFT_THE_SCREEN)


def test_without_a_terminal_it_says_what_to_use(broker: Broker, start_top: StartTop) -> None:
    done = poold("top", f"--address={broker.address}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "poold stats --watch" in done.stderr
    dumb = start_top(TERM="dumb")
    assert dumb.finish() == 1
    assert "top needs a terminal" in " ".join(dumb.shown())
