"""What fuzzing has found, each as a test of its own."""

import tracemalloc
from collections.abc import Callable

import msgpack
import pytest
from corpus import INT4, columns, fields, message, row

from client.wire.codec import decode_reply, decode_request, decode_steps, split_steps
from client.wire.messages import ProtocolViolation, Step, StepReference
from client.wire.zmtp import FRAMES_AT_ONCE, GREETING, PING, SERVER, ZmtpConnection, command, frame
from poold.clients.curve_auth import ZapHandler
from poold.core.effects import Bind, Plain, Prepare, SimpleQuery, Unit
from poold.core.facts import StatementResult
from poold.core.statements import sql
from poold.core.statements.statement import Statements
from poold.core.work import references
from poold.core.work.transaction_plan import Plan
from poold.postgres import diagnostics
from poold.postgres.errors import WireError
from poold.postgres.parameter_status import ParameterStatus
from poold.postgres.wire import Wire

COLUMNS = columns(id=INT4)
READY = message(b"Z", b"I")


def wire(*units: Unit, limit: int = 1 << 20) -> Wire:
    made = Wire(limit, ParameterStatus(lambda _: "on"))
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
            wire((SimpleQuery(b"SELECT 1"),)).received(kind + length.to_bytes(4, "big") + bytes(20))


@pytest.mark.parametrize("body", [b"", b"\0", b"DateStyle\0", b"\0\0\0\1channel\0", b"1234a\0b\0c\0d\0"])
@pytest.mark.parametrize("kind", [b"S", b"A"])
def test_a_setting_or_a_notification_of_one_text_is_none(kind: bytes, body: bytes) -> None:
    with pytest.raises(WireError, match="two texts"):
        wire().received(message(kind, body))


def test_a_ready_for_query_that_does_not_say_where_it_stands_is_a_broken_backend() -> None:
    (done,) = wire((SimpleQuery(b"SELECT 1"),)).received(message(b"C", b"SELECT 1\0") + message(b"Z", b""))
    assert done.transaction == "broken"


def test_more_results_than_statements_are_no_answer() -> None:
    result = message(b"2", b"") + message(b"C", b"SELECT 1\0")
    with pytest.raises(WireError, match="nobody asked"):
        wire((Prepare(b"p", b"SELECT 1", b""), Bind(b"p", 0, b""))).received(result + result)


@pytest.mark.parametrize(
    "unit",
    [
        (SimpleQuery(b"SELECT 1"),),
        (Bind(b"p", 0, b""),),
        (Prepare(b"p", b"SELECT 1", b""),),
        (Prepare(b"p", b"SELECT 1", b""), Bind(b"p", 0, b"")),
    ],
)
def test_an_answer_without_what_was_asked_for_is_none(unit: Unit) -> None:
    with pytest.raises(WireError, match="before it had said all"):
        wire(unit).received(READY)


def test_a_description_of_what_was_not_prepared_is_no_answer() -> None:
    described = message(b"t", b"\0\0") + message(b"T", COLUMNS)
    with pytest.raises(WireError, match="not prepared"):
        wire((Prepare(b"p", b"SELECT 1", b""), Bind(b"p", 0, b""))).received(described + described)


def test_a_command_tag_with_thousands_of_digits_is_none() -> None:
    with pytest.raises(WireError, match="command tag of 5007 bytes"):
        wire((SimpleQuery(b"SELECT 1"),)).received(message(b"C", b"SELECT " + b"9" * 5000 + b"\0"))


@pytest.mark.parametrize("position", ["²", "٣", "9" * 5000, "-1", "0", ""])
def test_an_error_at_a_place_that_is_no_number_is_told_without_it(position: str) -> None:
    body = fields(S="ERROR", C="42601", M="syntax error", P=position)
    assert diagnostics.failure(body, "none", b"SELECT", ()).message == "syntax error\n"


def test_a_reference_into_columns_that_end_too_early_is_missing() -> None:
    outcome = StatementResult("SELECT 1", 1, b"\0\5" + COLUMNS[2:], row(b"1"), ())
    with pytest.raises(references.ReferenceMissing, match="did not describe"):
        references.resolved(bytes(4), b"\xff" * 4, [StepReference(0, 0, 0, "id")], [outcome])


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


# A statement whose answer is larger than anybody wants to keep.

TABLE = message(b"T", COLUMNS)
LIMIT = 100_000
ROW = row(b"x" * 60_000)


def answer(*results: bytes) -> bytes:
    return b"".join(result + message(b"C", b"SELECT 1\0") for result in results) + READY


def test_of_several_statements_in_one_only_the_last_ones_rows_are_kept() -> None:
    unit = (SimpleQuery(b"SELECT; SELECT; SELECT"),)
    (done,) = wire(unit, limit=LIMIT).received(answer(TABLE + ROW, TABLE + ROW, TABLE + ROW))
    assert [(result.command, result.columns is None, len(result.rows or b"")) for result in done.results] == [
        ("SELECT 1", False, 0),
        ("SELECT 1", False, len(ROW)),
    ]


def test_of_very_many_statements_in_one_each_kind_is_told_once() -> None:
    tags = [b"INSERT 0 %d" % number for number in range(1000)] + [b"CREATE TABLE", b"SELECT 5", b"SELECT 0"]
    (done,) = wire((SimpleQuery(b"..."),)).received(b"".join(message(b"C", tag + b"\0") for tag in tags) + READY)
    assert [result.command for result in done.results] == ["INSERT 0 0", "CREATE TABLE", "SELECT 5", "SELECT 0"]


def test_the_results_of_a_unit_together_are_held_to_the_limit() -> None:
    made = wire(tuple(Bind(b"s", 0, b"") for _ in range(3)), limit=LIMIT)
    made._columns[b"s"] = COLUMNS
    bound = message(b"2", b"")
    (done,) = made.received(answer(bound + ROW, bound + ROW, bound + row(b"y")))
    assert [result.rows for result in done.results] == [ROW, None, row(b"y")]


def test_the_last_notices_are_kept_and_no_more_than_a_reply_has_room_for() -> None:
    made = wire((SimpleQuery(b"DO"),))
    for number in range(1000):
        assert made.received(message(b"N", fields(S="NOTICE", M=str(number)))) == []
    (done,) = made.received(message(b"C", b"DO\0") + READY)
    assert done.results[0].notices == tuple(f"NOTICE:  {number}\n" for number in range(950, 1000))
    made = wire((Plain(b"DO"), Plain(b"DO")))
    said = message(b"N", fields(S="NOTICE", M="x" * 60_000)) * 10
    done_tag = message(b"C", b"DO\0")
    (done,) = made.received(said + done_tag + said + done_tag + READY)
    assert [len(result.notices) for result in done.results] == [4, 0]


@pytest.mark.parametrize("pieces", [1, 1000, 70_000, 10_000_000])
@pytest.mark.parametrize("kind", [b"E", b"N"])
def test_a_text_of_megabytes_is_cut_and_the_rest_skipped(kind: bytes, pieces: int) -> None:
    made = wire((SimpleQuery(b"SELECT 1"),), (SimpleQuery(b"SELECT 2"),))
    size = 5_000_000 if pieces > 1 else 200_000
    stream = message(kind, fields(S="ERROR", C="P0001", M="x" * size)) + TABLE + row(b"5") + answer(b"") + answer(b"")
    done = [each for at in range(0, len(stream), pieces) for each in made.received(stream[at : at + pieces])]
    assert len(done) == 2
    text = done[0].failure.message if done[0].failure else done[0].results[0].notices[0]
    assert 60_000 < len(text) < 70_000
    assert done[1].failure is None


def test_rows_before_a_text_of_megabytes_stay_whole() -> None:
    made = wire((SimpleQuery(b"SELECT 1"),))
    stream = TABLE + row(b"5") * 2 + message(b"N", fields(S="NOTICE", M="x" * 500_000)) + row(b"6") + answer(b"")
    done = [each for at in range(0, len(stream), 90_000) for each in made.received(stream[at : at + 90_000])]
    assert done[0].results[0].rows == row(b"5") * 2 + row(b"6")


def test_a_server_that_asks_again_and_again_for_data_does_not_fill_memory() -> None:
    asking = message(b"G", b"\0\0\0")
    found = wire((SimpleQuery(b"COPY t FROM STDIN"),))
    found.received(asking)
    size = len(found.outbox)
    with pytest.raises(WireError, match="asked again"):
        found.received(asking)
    assert len(found.outbox) == size


def test_what_copy_sends_is_skipped_as_it_comes() -> None:
    made = wire((SimpleQuery(b"COPY t TO STDOUT"),))
    made.received(message(b"H", b"\0\0\1\0\0"))
    copied = message(b"d", b"x" * 50_000_000)
    tracemalloc.start()
    try:
        for at in range(0, len(copied), 1_000_000):
            made.received(copied[at : at + 1_000_000])
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    (done,) = made.received(message(b"c", b"") + message(b"C", b"COPY 1\0") + READY)
    assert done.failure is not None


@pytest.mark.parametrize("kind", [b"T", b"S", b"C", b"x"])
def test_what_is_neither_row_nor_text_is_no_message_of_megabytes(kind: bytes) -> None:
    with pytest.raises(WireError, match="a message of 2000001 bytes"):
        wire((SimpleQuery(b"SELECT 1"),)).received(kind + (2_000_000).to_bytes(4, "big"))


def test_a_row_of_megabytes_is_kept_up_to_the_limit() -> None:
    cell = b"x" * 5_000_000
    for limit, expected in ((10_000_000, row(cell)), (1_000_000, None)):
        made = wire((SimpleQuery(b"SELECT 1"),), limit=limit)
        stream = TABLE + row(cell) + answer(b"")
        (done,) = [each for at in range(0, len(stream), 65536) for each in made.received(stream[at : at + 65536])]
        assert done.results[0].rows == expected


# References: a client chooses how many, and to what.


def resolved(outcome: StatementResult, *wanted: StepReference) -> tuple[bytes, bytes]:
    count = len(wanted)
    return references.resolved(bytes(4 * count), b"\xff" * 4 * count, wanted, [outcome])


def test_many_references_to_one_large_result_read_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scans = []
    offsets = references._offsets
    monkeypatch.setattr(references, "_offsets", lambda *given: scans.append(1) or offsets(*given))
    outcome = StatementResult("SELECT 1000", 1000, COLUMNS, b"".join(row(b"%d" % number) for number in range(1000)), ())
    _, values = resolved(outcome, *(StepReference(number, 0, number, "id") for number in range(1000)))
    assert values.endswith(b"\0\0\0\x03999")
    assert len(scans) == 1


def test_references_to_more_than_a_request_may_have_are_refused() -> None:
    outcome = StatementResult("SELECT 1", 1, COLUMNS, row(b"x" * 1_000_000), ())
    resolved(outcome, *(StepReference(number, 0, 0, 0) for number in range(16)))
    with pytest.raises(references.ReferenceMissing, match="more than 16777216 bytes"):
        resolved(outcome, *(StepReference(number, 0, 0, 0) for number in range(17)))


def test_references_past_very_many_cells_are_refused() -> None:
    wide = columns(**{f"c{number}": INT4 for number in range(1000)})
    outcome = StatementResult("SELECT 1", 600, wide, row(*[None] * 1000) * 600, ())
    resolved(outcome, StepReference(0, 0, None, "c999"))
    with pytest.raises(references.ReferenceMissing, match="more than 1000000 cells"):
        resolved(outcome, StepReference(0, 0, None, "c999"), StepReference(1, 0, None, "c999"))
    with pytest.raises(references.ReferenceMissing, match="more than 1000000 cells"):
        resolved(StatementResult("SELECT 1", 1, COLUMNS, row(None) * 1_000_001, ()), StepReference(0, 0, 0, 0))


# A text that takes long to read.


@pytest.mark.parametrize("unit", [b"a ", b"(", b"1,a", b"/**/ a", b"E'a' ", b"$$a$$ "])
def test_no_text_is_read_for_longer_than_its_first_tokens(unit: bytes) -> None:
    found = sql.examine(unit * (1_000_000 // len(unit)), b"")
    assert not found.is_read
    assert found.tokens == sql.MAX_TOKENS + 1
    assert found.writes
    assert found.obstacle


def test_a_bulk_load_is_read_to_its_end() -> None:
    rows = b", ".join([b"(1, 'text', NULL, -5.5, '2024-01-01'::date)"] * 100_000)
    assert sql.examine(b"INSERT INTO t VALUES " + rows, b"").is_read


def test_a_messages_statements_are_read_together_up_to_the_limit() -> None:
    def plan(count: int) -> Plan:
        text = b"SELECT " + b"a," * 2_000
        steps = [Step(text + b"%d" % number, b"", b"", True, (), 0, None) for number in range(count)]
        return Plan(split_steps(steps)[0], Statements())

    assert plan(12).obstacle == ""
    assert "statement 13 of the transaction is too long to be read: more than 50000 words" in plan(14).obstacle


def test_of_a_message_no_statement_is_taken_that_is_not_read_to_its_end() -> None:
    step = Step(b"SELECT " + b"a," * 10_000 + b"a; COMMIT", b"", b"", True, (), 0, None)
    assert "more than 5000 words" in Plan(split_steps([step])[0], Statements()).obstacle


def test_comments_that_nest_without_end_are_not_read() -> None:
    for text in (b"/*" * 1_000_000, b"SELECT 1 " + b"/*" * 10_000 + b"*/" * 10_000 + b"; COMMIT"):
        found = sql.examine(text, b"")
        assert not found.is_read
        assert found.writes


@pytest.mark.parametrize("frames", [frame(b"") * 1000, PING * 1000, b"\x01\x00" * 1000])
def test_a_broker_takes_some_frames_at_once_and_the_others_when_it_is_asked(frames: bytes) -> None:
    connection = ZmtpConnection(1000, SERVER)
    ready = command(b"READY", b"\x0bSocket-Type\0\0\0\x06DEALER")
    connection.received(GREETING + ready + frames + frame(b"last"))
    turns = 1
    while connection.is_behind:
        assert len(connection.inbox) < FRAMES_AT_ONCE * turns
        assert connection.unfinished
        connection.received(b"")
        turns += 1
    assert turns == 1002 // FRAMES_AT_ONCE + 1
    assert connection.unfinished == 0
    assert connection.inbox.pop() in (b"last", None)
