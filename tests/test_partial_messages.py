"""Messages of which only a part has come, and log lines of which only some are wanted."""

import logging
from typing import Any

import pytest

from poold.clients.partial_messages import LARGEST_MESSAGES, MESSAGE_TIMEOUT, SWEEP_INTERVAL, PartialMessages
from poold.system.rate_limited_log import BURST, COUNTED_FOR, RateLimitedLog, tell_all


class Sender:
    def __init__(self) -> None:
        self.dropped = ""
        self.is_heard = True

    def drop_unfinished(self, size: int, reason: str) -> None:
        self.dropped = f"{size}: {reason}"


class Loop:
    """Keeps what is to be called later."""

    def __init__(self) -> None:
        self.later: list[Any] = []

    def call_later(self, seconds: float, callback: Any) -> None:
        self.later.append(callback)


class World:
    def __init__(self, limit: int = 1000) -> None:
        self.now = 100.0
        self.loop: Any = Loop()
        self.unfinished = PartialMessages(limit, self.loop, lambda: self.now)

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end and self.loop.later:
            self.now += SWEEP_INTERVAL
            self.loop.later.pop()()
        self.now = end


def test_a_message_has_to_be_whole_in_time_however_it_trickles() -> None:
    world, slow, quick = World(), Sender(), Sender()
    for size in range(1, int(MESSAGE_TIMEOUT) + 1):
        world.unfinished.note(slow, size)
        world.unfinished.note(quick, size)
        world.unfinished.note(quick, 0)
        world.pass_time(1.0)
    assert slow.dropped == f"{int(MESSAGE_TIMEOUT)}: it was not whole after 30 s"
    assert quick.dropped == ""
    assert world.loop.later == [], "nothing is swept where there is nothing"


def test_the_next_message_of_the_same_client_has_its_own_time() -> None:
    world, sender = World(), Sender()
    for _ in range(40):
        world.unfinished.note(sender, 500)
        world.pass_time(2.0)
        world.unfinished.note(sender, 20)  # the rest, and the beginning of another
    assert sender.dropped == ""


def test_a_broker_that_was_held_up_gives_clients_another_moment() -> None:
    world, sender = World(), Sender()
    world.unfinished.note(sender, 1)
    world.now += 10 * MESSAGE_TIMEOUT
    world.loop.later.pop()()
    assert sender.dropped == ""
    world.pass_time(2.0)
    assert sender.dropped


def test_who_is_not_read_from_cannot_be_late() -> None:
    world, sender = World(), Sender()
    sender.is_heard = False
    world.unfinished.note(sender, 1)
    world.pass_time(3 * MESSAGE_TIMEOUT)
    assert sender.dropped == ""
    sender.is_heard = True
    world.pass_time(2.0)
    assert sender.dropped


def test_of_too_many_bytes_those_that_stand_still_for_longest_go() -> None:
    world = World(limit=1000)
    senders = [Sender() for _ in range(LARGEST_MESSAGES + 1)]
    for sender in senders[:-1]:
        world.unfinished.note(sender, 500)
    for sender in senders[:-1][::-1]:
        world.unfinished.note(sender, 1000)
    assert [sender for sender in senders if sender.dropped] == []
    world.unfinished.note(senders[-1], 1)
    assert [sender for sender in senders if sender.dropped] == [senders[-2]]


def test_of_many_lines_some_are_logged_and_the_others_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    sparing = RateLimitedLog(logging.getLogger("test"), lambda: now)
    for number in range(10 * BURST):
        sparing.warning("line %d", number)
    assert messages(caplog) == [f"line {number}" for number in range(BURST)]
    now = 1.0
    for number in range(10):
        sparing.warning("again %d", number)
    assert messages(caplog) == [f"again {number}" for number in range(5)]
    now = COUNTED_FOR
    sparing.warning("later")
    assert messages(caplog) == [f"warnings left out count={9 * BURST + 5}", "later"]


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged since the last look."""
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


class Timer:
    """Calls later what a loop would, until it is cancelled."""

    def __init__(self) -> None:
        self.later: list[Any] = []

    def call_later(self, seconds: float, callback: Any) -> Any:
        assert seconds == COUNTED_FOR
        self.later.append(callback)
        return self

    def cancel(self) -> None:
        self.later.clear()


def test_what_was_left_out_is_told_without_another_line(caplog: pytest.LogCaptureFixture) -> None:
    timer = Timer()
    sparing = RateLimitedLog(logging.getLogger("test"), lambda: 0.0, timer)
    for _ in range(BURST + 7):
        sparing.warning("line")
    messages(caplog)
    (told,) = timer.later
    told()
    assert messages(caplog) == ["warnings left out count=7"]
    sparing.warning("line")
    assert len(timer.later) == 1
    tell_all()
    assert messages(caplog) == ["warnings left out count=1"]
    assert timer.later == []
    tell_all()
    assert messages(caplog) == []
