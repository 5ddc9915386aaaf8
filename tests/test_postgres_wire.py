"""PostgreSQL's answers, however the network cuts them."""

import itertools

import pytest

from client.wire.messages import TX_NONE
from poold.core.effects import Bind, Flush, Unit
from poold.core.facts import Completion
from poold.postgres.parameter_status import ParameterStatus
from poold.postgres.wire import Wire

UNIT: Unit = (Bind(b"b", 0, b""), Bind(b"x", 0, b""), Flush(), Bind(b"i", 0, b""), Bind(b"s", 0, b""))
ONE_COLUMN = b"\0\1id\0" + bytes(18)
BOUND = b"2\0\0\0\4"
READY = b"Z\0\0\0\5I"


def message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def row(cell: bytes) -> bytes:
    return message(b"D", b"\0\1" + len(cell).to_bytes(4, "big") + cell)


AHEAD = BOUND + message(b"C", b"BEGIN\0") + BOUND + row(b"4711") + message(b"C", b"SELECT 1\0")
REST = BOUND + message(b"C", b"INSERT 0 1\0") + BOUND + row(b"1") + row(b"2") + message(b"C", b"SELECT 2\0")
ANSWER = AHEAD + REST + READY
TAGS = ["BEGIN", "SELECT 1", "INSERT 0 1", "SELECT 2"]


def sending(times: int = 1) -> Wire:
    """A wire with this many units on their way, whose statements are described."""
    wire = Wire(1 << 20, ParameterStatus(lambda _: ""))
    wire._columns.update({b"b": None, b"x": ONE_COLUMN, b"i": None, b"s": ONE_COLUMN})
    for _ in range(times):
        wire.send(UNIT)
    return wire


def check(done: Completion) -> None:
    assert (done.failure, done.transaction) == (None, TX_NONE)
    assert [result[0] for result in done.results] == TAGS
    assert [result[3] for result in done.results] == [b"", row(b"4711"), b"", row(b"1") + row(b"2")]


@pytest.mark.parametrize("is_second", [False, True], ids=["first", "tags known"])
def test_an_answer_cut_anywhere_is_the_same(is_second: bool) -> None:
    for first in range(len(ANSWER)):
        for second in (first, len(AHEAD), len(ANSWER) - 1):
            wire = sending(2)
            if is_second:
                wire.received(ANSWER)
            pieces = sorted((0, first, second, len(ANSWER)))
            done = [each for a, b in itertools.pairwise(pieces) for each in wire.received(ANSWER[a:b])]
            assert len(done) == 1
            check(done[0])


def test_of_an_answer_that_never_ends_the_results_that_came_are_there() -> None:
    for end in range(len(ANSWER)):
        wire = sending(2)
        wire.received(ANSWER)
        wire.received(ANSWER[:end])
        whole = [tag for tag in TAGS if message(b"C", tag.encode() + b"\0") in ANSWER[:end]]
        assert [result[0] for result in wire.partial()] == whole, end
        if end >= len(AHEAD):
            assert wire.partial()[1][3] == row(b"4711"), "the transaction's id, for which it was flushed"


def test_answers_of_several_units_come_in_any_pieces() -> None:
    stream = 3 * ANSWER
    for size in range(1, len(stream)):
        wire = sending(3)
        done = [each for at in range(0, len(stream), size) for each in wire.received(stream[at : at + size])]
        assert len(done) == 3
        for each in done:
            check(each)


def test_last_words_for_others_are_without_detail_and_context() -> None:
    wire = sending(2)
    words = {b"S": b"FATAL", b"V": b"FATAL", b"C": b"57P01", b"M": b"the end", b"D": b"a value", b"W": b"a statement"}
    wire.received(BOUND + message(b"E", b"".join(k + v + b"\0" for k, v in words.items()) + b"\0"))
    assert wire.fatal == "the end"
