"""The data of COPY in PostgreSQL's protocol, however the network cuts it."""

import itertools
import struct
from collections.abc import Iterator

import pytest

from client.compiled import load
from client.wire.messages import EXECUTED, FAILED, TX_NONE
from poold.core.effects import Plain, SimpleQuery
from poold.core.facts import Completion
from poold.postgres import answers, copies
from poold.postgres.errors import WireError
from poold.postgres.parameter_status import ParameterStatus
from poold.postgres.wire import Wire

_length = struct.Struct("!I").unpack_from


def python_rows_end(data: bytes, at: int, wanted: int = 0x44) -> tuple[int, int]:
    """`answers.rows_end` as it is without compiled code."""
    end, count = len(data), 0
    while at + 5 <= end and data[at] == wanted and (length := _length(data, at + 1)[0]) >= 4 and at + length < end:
        at, count = at + 1 + length, count + 1
    return at, count


@pytest.fixture(
    params=[
        False,
        pytest.param(True, marks=pytest.mark.skipif(load("poold.lane.cutting") is None, reason="nothing is compiled")),
    ],
    ids=["python", "compiled"],
    autouse=True,
)
def cutting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With compiled code that finds where rows end, and without."""
    if not request.param:
        monkeypatch.setattr(copies, "rows_end", python_rows_end)
    else:
        assert copies.rows_end is answers.rows_end
    return


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


READY = message(b"Z", b"I")
FORMATS = b"\0\0\1\0\0"
BEGINS_IN = message(b"G", FORMATS)
BEGINS_OUT = message(b"H", FORMATS)
ROWS = [b"", b"1\tone\n", b"x" * 300, b"2\ttwo\n"]
DATA = b"".join(message(b"d", row) for row in ROWS)
ENDED = message(b"c") + message(b"C", b"COPY 4\0") + READY
ERROR = message(b"E", b"SERROR\0VERROR\0C22P02\0Mno number\0\0")
OUT = SimpleQuery(b"COPY t TO STDOUT", False)
IN = SimpleQuery(b"COPY t FROM STDIN", True)


def running(*commands: SimpleQuery | Plain) -> Wire:
    wire = Wire(1 << 20, ParameterStatus(lambda _: ""))
    wire.send(commands)
    wire.outbox.clear()
    return wire


def taken(wire: Wire, *pieces: bytes) -> tuple[int, bytes, list[Completion]]:
    """How often a COPY began, its data, and the completions, if what comes is cut into these pieces."""
    begun, passed, done = 0, b"", []
    for piece in pieces:
        done += wire.received(piece)
        is_begun, data = wire.copies.take()
        begun += is_begun
        passed += data
    return begun, passed, done


def check_out(begun: int, passed: bytes, done: list[Completion]) -> None:
    assert (begun, passed) == (1, DATA)
    (completion,) = done
    assert (completion.failure, completion.transaction) == (None, TX_NONE)
    assert [(result.command, result.rowcount) for result in completion.results] == [("COPY 4", 4)]


# Out.


def test_data_cut_at_every_byte_is_the_same() -> None:
    answer = BEGINS_OUT + DATA + ENDED
    for first in range(len(answer)):
        for second in (first, len(BEGINS_OUT) + 3, len(answer) - len(ENDED), len(answer) - 1):
            pieces = sorted((0, first, second, len(answer)))
            check_out(*taken(running(OUT), *(answer[a:b] for a, b in itertools.pairwise(pieces))))


def test_data_that_comes_byte_by_byte_is_the_same() -> None:
    answer = BEGINS_OUT + DATA + ENDED
    check_out(*taken(running(OUT), *(answer[at : at + 1] for at in range(len(answer)))))


def test_a_huge_message_passes_in_parts_and_is_kept_nowhere() -> None:
    row = b"y" * (3 << 20)
    data = message(b"d", row) + message(b"d", b"1\n")
    answer = BEGINS_OUT + data + ENDED
    wire = running(OUT)
    passed = b""
    for at in range(0, len(answer), 65536):
        wire.received(answer[at : at + 65536])
        part = wire.copies.take()[1]
        assert len(part) >= min(65536, len(data) - len(passed)) - 64
        passed += part
    assert passed == data


@pytest.mark.parametrize("length", [0, 3])
@pytest.mark.parametrize("behind", [b"", message(b"d", b"ok")])
def test_a_length_that_is_none_ends_the_connection(length: int, behind: bytes) -> None:
    wire = running(OUT)
    with pytest.raises(WireError, match="message of length"):
        wire.received(BEGINS_OUT + behind + b"d" + length.to_bytes(4, "big") + bytes(8))


def test_an_error_in_the_middle_of_the_data_ends_it() -> None:
    answer = BEGINS_OUT + DATA + ERROR + READY
    for cut in range(len(answer)):
        begun, passed, (done,) = taken(running(OUT), answer[:cut], answer[cut:])
        assert (begun, passed) == (1, DATA)
        assert done.failure is not None
        assert done.failure.sqlstate == "22P02"


def test_of_several_in_one_string_the_first_has_its_data_only() -> None:
    answer = BEGINS_OUT + DATA + message(b"c") + message(b"C", b"COPY 4\0") + BEGINS_OUT + message(b"d", b"9\n") + ENDED
    for cut in range(len(answer)):
        begun, passed, (done,) = taken(running(OUT), answer[:cut], answer[cut:])
        assert (begun, passed) == (1, DATA)
        assert done.failure is not None
        assert (done.failure.kind, done.failure.outcome) == ("statement-refused", EXECUTED)


def test_data_that_nobody_takes_is_thrown_away() -> None:
    answer = BEGINS_OUT + DATA + ENDED
    for unit in (SimpleQuery(b"COPY t TO STDOUT"), Plain(b"COPY t TO STDOUT"), IN):
        for cut in range(len(answer)):
            begun, passed, (done,) = taken(running(unit), answer[:cut], answer[cut:])
            assert (begun, passed) == (0, b"")
            assert done.failure is not None
            assert done.failure.outcome == EXECUTED


def test_the_next_unit_has_nothing_of_the_data_before() -> None:
    wire = running(OUT)
    wire.send((SimpleQuery(b"COPY t TO STDOUT"),))
    begun, passed, done = taken(wire, BEGINS_OUT + DATA + ENDED + BEGINS_OUT + message(b"d", b"9\n") + ENDED)
    assert (begun, passed) == (1, DATA)
    assert [each.failure is None for each in done] == [True, False]


def test_what_ended_ahead_of_the_data_is_told_ahead_of_it() -> None:
    wire = running(SimpleQuery(b"BEGIN"))
    wire.send((OUT,))
    wire.received(message(b"C", b"BEGIN\0") + message(b"Z", b"T") + BEGINS_OUT + DATA)
    assert wire.copies.behind == 1
    assert wire.copies.take() == (True, DATA)
    wire.received(ENDED)
    assert not wire.copies.has_news


# In.


def test_data_goes_as_messages_and_its_end_as_well() -> None:
    wire = running(IN)
    assert taken(wire, BEGINS_IN)[0] == 1
    assert wire.feed(b"1\n")
    wire.end_feed(None)
    assert b"".join(wire.outbox) == message(b"d", b"1\n") + message(b"c")
    assert not wire.feed(b"2\n")
    wire.end_feed(None)
    assert b"".join(wire.outbox) == message(b"d", b"1\n") + message(b"c")


def test_an_end_by_an_error_is_text_whatever_it_says() -> None:
    wire = running(IN)
    wire.received(BEGINS_IN)
    wire.end_feed("ä\0\ud800")
    assert b"".join(wire.outbox) == message(b"f", "ä??".encode() + b"\0")


def test_behind_an_error_nothing_is_fed() -> None:
    answer = BEGINS_IN + ERROR + READY
    for cut in range(len(BEGINS_IN), len(answer)):
        wire = running(IN)
        wire.received(answer[:cut])
        is_over = cut >= len(BEGINS_IN) + len(ERROR)
        assert wire.feed(b"1\n") is not is_over
        (done,) = wire.received(answer[cut:])
        assert done.failure is not None
        assert done.failure.outcome == FAILED
        wire.outbox.clear()
        assert not wire.feed(b"2\n")
        wire.end_feed("too late")
        assert wire.outbox == []


def test_before_the_server_waits_nothing_is_fed() -> None:
    wire = running(IN)
    assert not wire.feed(b"1\n")
    wire.end_feed(None)
    assert wire.outbox == []


@pytest.mark.parametrize("unit", [SimpleQuery(b"COPY t FROM STDIN"), Plain(b"COPY t FROM STDIN"), OUT])
def test_a_server_that_waits_for_data_that_nobody_gives_is_told_so(unit: SimpleQuery | Plain) -> None:
    wire = running(unit)
    assert taken(wire, BEGINS_IN)[:2] == (0, b"")
    assert wire.outbox[0].startswith(b"f")
    assert not wire.feed(b"1\n")
    with pytest.raises(WireError, match="asked again"):
        wire.received(BEGINS_IN)


def test_the_second_of_a_string_gets_no_data() -> None:
    wire = running(IN)
    wire.received(BEGINS_IN)
    wire.end_feed(None)
    wire.outbox.clear()
    wire.received(message(b"C", b"COPY 0\0") + BEGINS_IN)
    assert wire.outbox == [b"f\0\0\0\x09COPY\0"]
    (done,) = wire.received(ERROR + READY)
    assert done.failure is not None
    assert done.failure.outcome == FAILED
