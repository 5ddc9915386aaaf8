"""What fuzzing has found, each as a test of its own."""

import tracemalloc
from collections.abc import Callable

import msgpack
import pytest
from corpus import INT4, columns, fields, message, row

from client.protocol import ProtocolViolation, Reference, decode_reply, decode_request, decode_steps
from poold import wiretext
from poold.core import references
from poold.core.effects import Bound, Prepare, Simple, Unit
from poold.pgwire import Wire
from poold.wirefailures import RELIED_ON, WireError
from poold.zap import ZapHandler

COLUMNS = columns(id=INT4)
READY = message(b"Z", b"I")


def wire(*units: Unit, limit: int = 1 << 20) -> Wire:
    made = Wire(limit, dict.fromkeys(RELIED_ON, "on"))
    for unit in units:
        made.send(unit)
    return made


# A server, or who is in between, that says what PostgreSQL never would.


@pytest.mark.parametrize(
    "answer", [message(each, b"\0\0\0\0\0") for each in (b"T", b"t", b"n", b"I", b"G", b"H", b"1", b"d")]
)
def test_what_nobody_asked_for_is_no_answer(answer: bytes) -> None:
    with pytest.raises(WireError, match="nobody asked"):
        wire().received(answer)


@pytest.mark.parametrize("kind", [b"S", b"A", b"C", b"Z", b"D", b"E", b"N", b"T"])
def test_a_message_shorter_than_its_own_length_is_none(kind: bytes) -> None:
    for length in range(4):
        with pytest.raises(WireError, match=f"of length {length}, expected at least 4"):
            wire((Simple(b"SELECT 1"),)).received(kind + length.to_bytes(4, "big") + bytes(20))


@pytest.mark.parametrize("body", [b"", b"\0", b"DateStyle\0", b"\0\0\0\1channel\0", b"1234a\0b\0c\0d\0"])
@pytest.mark.parametrize("kind", [b"S", b"A"])
def test_a_setting_or_a_notification_of_one_text_is_none(kind: bytes, body: bytes) -> None:
    with pytest.raises(WireError, match="two texts"):
        wire().received(message(kind, body))


def test_a_ready_for_query_that_does_not_say_where_it_stands_is_a_broken_backend() -> None:
    (done,) = wire((Simple(b"SELECT 1"),)).received(message(b"Z", b""))
    assert done.transaction == "broken"


def test_more_results_than_statements_are_no_answer() -> None:
    result = message(b"2", b"") + message(b"C", b"SELECT 1\0")
    with pytest.raises(WireError, match="nobody asked"):
        wire((Prepare(b"p", b"SELECT 1", b""), Bound(b"p", 0, b""))).received(result + result)


def test_a_description_of_what_was_not_prepared_is_no_answer() -> None:
    described = message(b"t", b"\0\0") + message(b"T", COLUMNS)
    with pytest.raises(WireError, match="not prepared"):
        wire((Prepare(b"p", b"SELECT 1", b""), Bound(b"p", 0, b""))).received(described + described)


def test_a_command_tag_with_thousands_of_digits_is_none() -> None:
    with pytest.raises(WireError, match="command tag of 5007 bytes"):
        wire((Simple(b"SELECT 1"),)).received(message(b"C", b"SELECT " + b"9" * 5000 + b"\0"))


@pytest.mark.parametrize("position", ["²", "٣", "9" * 5000, "-1", "0", ""])
def test_an_error_at_a_place_that_is_no_number_is_told_without_it(position: str) -> None:
    body = fields(S="ERROR", C="42601", M="syntax error", P=position)
    assert wiretext.failure(body, "none", b"SELECT", ()).message == "syntax error\n"


def test_a_reference_into_columns_that_end_too_early_is_missing() -> None:
    outcome = ("SELECT 1", 1, b"\0\5" + COLUMNS[2:], row(b"1"), ())
    with pytest.raises(references.ReferenceMissing, match="did not describe"):
        references.resolved(bytes(4), b"\xff" * 4, [Reference(0, 0, 0, "id")], [outcome])


@pytest.mark.parametrize("question", [[], [b""], [b"1.0", b"1", b"poold", b"127.0.0.1", b""]])
def test_a_question_of_too_few_frames_is_answered_with_no(question: list[bytes]) -> None:
    answer = object.__new__(ZapHandler)._answer(question)
    assert (answer[0], answer[2], len(answer)) == (b"1.0", b"400", 6)


# A client that sends what becomes much more than it was.


def peak(decode: Callable[[bytes], object], data: bytes) -> int:
    """Bytes of memory held at the same time while the data are refused."""
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolViolation):
            decode(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_arrays_said_to_be_long_get_no_room_for_what_is_not_there() -> None:
    assert peak(decode_steps, b"\xdc\xff\xff" * 140) < 100_000
    assert peak(decode_request, b"\x9b\x07" + b"\xdc\x03\xe8" * 140) < 2_000_000


@pytest.mark.parametrize("head", [b"", b"\x9b\x07", b"\x9b\x02"])
def test_a_megabyte_of_arrays_does_not_become_thirty(head: bytes) -> None:
    tree = b"\x91\xc0"
    while len(tree) < 1_000_000:
        tree = b"\x9b" + tree * 11
    assert peak(decode_request, head + tree) < 100_000
    assert peak(decode_steps, head + tree) < 100_000


def test_references_without_number_are_refused() -> None:
    shapes = msgpack.packb(
        [[b"SELECT 1", b"", True, [], 0, None], [b"\0", bytes(4), True, [[0, 0, 0, ""]] * 10_001, 0, None]]
    )
    assert peak(decode_steps, shapes) < 100_000


# A broker that sends what a broker would not.


def test_an_answer_nested_deeper_than_it_can_be_told_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation, match="cannot read"):
        decode_reply(b"\x91" * 1020 + b"\xc0")


@pytest.mark.parametrize("field", range(8))
def test_a_failure_whose_fields_have_other_types_is_a_violation(field: int) -> None:
    fields: list[object] = [0, "none", "query", "failed", "no", "22012", {}, []]
    decode_reply(msgpack.packb([66, *fields]))
    fields[field] = 1.5
    with pytest.raises(ProtocolViolation, match="Failure with fields of other types"):
        decode_reply(msgpack.packb([66, *fields]))
