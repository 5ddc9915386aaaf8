"""The wire: golden frames, and what a stranger may send."""

from pathlib import Path
from typing import Any

import msgpack
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from client.wire import limits
from client.wire.arguments import MAX_ARGUMENT_BYTES, MAX_ARGUMENTS, packed_arguments, unpacked_arguments
from client.wire.codec import decode_reply, decode_request, decode_steps, encode, split_steps
from client.wire.messages import (
    MESSAGES,
    VERSION,
    Answer,
    Ask,
    BatchMessage,
    CancelRequest,
    Commit,
    CopyBegun,
    CopyEnd,
    CopyIn,
    CopyMessage,
    CopyOut,
    CopyTaken,
    CopyWanted,
    Failure,
    Follow,
    Hello,
    ProtocolViolation,
    Query,
    Release,
    ResultMessage,
    Rollback,
    Step,
    StepReference,
    Timing,
    TransactionMessage,
    TransactionResult,
    Welcome,
)
from client.wire.origins import MAX_PLACE_BYTES

GOLDEN = Path(__file__).parent / "golden"

TYPES = b"\0\0\0\x17\0\0\0\0"
VALUES = b"\0\0\0\x0242\xff\xff\xff\xff"
STEP = Step(b"SELECT \0, \0", TYPES, VALUES, True, (), 1, None)
REFERENCE = StepReference(1, 0, None, "id")
SHAPE = (*STEP[:2], *STEP[3:])
STEPS = (STEP, 1, STEP._replace(references=(REFERENCE,)), 2)

ORIGIN = b"shop.orders.pay orders.py:7\x0000-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

# One of each message; the file of the same name holds its bytes in hex. A change here is a change of VERSION.
EXAMPLES: dict[str, Any] = {
    "hello": Hello(8, 4711, "worker.py", "0.1.0"),
    "query": Query(1, "default", 0, False, b"SELECT 1", b"", b"", True, 2.5, "report"),
    "query-parameters": Query(3, "default", 0, False, b"SELECT \0, \0", TYPES, VALUES, False, None, ""),
    "query-begin": Query(2, "transactions", 7, True, "SELECT 'é'".encode(), b"", b"", True, None, ""),
    "query-session": Query(2, "default", 8, False, b"SET x = 1", b"", b"", True, None, "", 0, b"", 1),
    "query-settings": Query(2, "default", 0, False, b"SELECT 1", b"", b"", True, None, "", 2, b"work_mem\0001MB\0"),
    "query-origin": Query(2, "default", 0, False, b"SELECT 1", b"", b"", True, None, "", 1, b"", 0, ORIGIN),
    "transaction": TransactionMessage(9, "default", "serializable", False, None, 3, *split_steps(STEPS), 1.5, "t"),
    "batch": BatchMessage(
        8,
        "default",
        7,
        True,
        *split_steps([Step(b"SELECT \0", b"\0\0\0\x17", b"\0\0\0\x015", True, (), 0, None)]),
        2.5,
        "load",
        1,
        b"work_mem\x0064MB\0",
        1,
    ),
    "copy-message": CopyMessage(1, "default", 0, False, b"COPY t FROM STDIN", True, 2.5, "load", 1, b"", 0),
    "copy-in": CopyIn(1, b"1\t2\n"),
    "copy-end": CopyEnd(1, None),
    "copy-end-error": CopyEnd(1, "ValueError: no number"),
    "copy-taken": CopyTaken(1, 131072),
    "copy-begun": CopyBegun(1, True),
    "copy-out": CopyOut(1, b"d\0\0\0\x081\t2\n"),
    "copy-wanted": CopyWanted(1, 65536),
    "commit": Commit(3, 7),
    "rollback": Rollback(4, 7),
    "release": Release(4, 8),
    "follow": Follow(6, "default", "7712976759682531058:0/3000060"),
    "cancel": CancelRequest(4),
    "cancel-other": CancelRequest(4, b"0123456789abcdef"),
    "ask": Ask(5, "stats"),
    "ask-groups": Ask(5, "groups"),
    "ask-reload": Ask(5, "reload"),
    "ask-drain": Ask(5, "drain", b"endpoint\0main\0timeout\x0030.0\0"),
    "ask-arguments": Ask(5, "reconnect", b"group\0default\0endpoint\0main\0"),
    "welcome": Welcome(
        8, 42, "0.1.0", 16777216, 67108864, {"default": True, "transactions": False}, b"0123456789abcdef", 4096, 300
    ),
    "welcome-sessions": Welcome(5, 42, "0.1.0", 16777216, 67108864, {"old": "sessions"}, b"0123456789abcdef"),
    "result": ResultMessage(1, "none", "SELECT 1", 1, b"\0\0", b"D\0\0\0\6\0\0", ("NOTICE:  careful\n",)),
    "result-no-rows": ResultMessage(1, "active", "UPDATE 3", 3, None, b"", ()),
    "transaction-result": TransactionResult(9, 2, ((0, "none", "UPDATE 3", 3, None, b"", ()), None), None, -1),
    "transaction-failure": TransactionResult(9, 1, (), (9, "none", "query", "failed", "no", "42P01", {}, ()), 1),
    "failure": Failure(2, "failed", "query", "failed", "no", "42P01", {"severity": "ERROR"}, ()),
    "answer": Answer(5, {"pid": 42}),
    "timing": Timing(1, 0.25, 1.5, 4711, "db1", 5432, "app"),
    "timing-not-begun": Timing(1, 0.25, None, 0, "", 0, ""),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_golden_frames_do_not_change(name: str) -> None:
    expected = bytes.fromhex((GOLDEN / f"{name}.hex").read_text())
    assert encode(EXAMPLES[name]) == expected
    decode = decode_request if expected[1] < 64 else decode_reply
    assert decode(expected) == EXAMPLES[name]


def test_each_rule_for_one_message_is_for_a_field_that_it_has() -> None:
    fields = {f"{message.__name__}.{field}" for message in MESSAGES.values() for field in message._fields}
    assert {name for name in limits.RULES if "." in name} <= fields


def test_there_is_a_golden_frame_for_every_message_in_this_version() -> None:
    assert VERSION == 8
    assert {type(example) for example in EXAMPLES.values()} == set(MESSAGES.values())


def but(message: Any, **fields: Any) -> bytes:
    return encode(message._replace(**fields))


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"", "not a msgpack array"),
        (b"\xc1", "not a msgpack array"),
        (b"\x93\x02", "not a msgpack array"),
        (encode(EXAMPLES["commit"]) + b"\x00", "not a msgpack array"),
        (msgpack.packb(5), "expected an array"),
        (msgpack.packb([]), "expected an array"),
        (msgpack.packb(["x"]), "expected an array"),
        (msgpack.packb([True, 1, 2]), "expected an array"),
        (msgpack.packb({1: 2}), "not a msgpack array"),
        (msgpack.packb([99, 1]), "unknown message code 99"),
        (msgpack.packb([64, 1, 2, "", 1, 1, []]), "unknown message code 64"),
        (msgpack.packb([3, 1]), "Commit has 2 fields, got 1"),
        (msgpack.packb([3, 1, 2, 3]), "Commit has 2 fields, got 3"),
        (but(EXAMPLES["query"], request=0), "Query.request"),
        (but(EXAMPLES["query"], request=-1), "Query.request"),
        (but(EXAMPLES["query"], request=True), "Query.request"),
        (but(EXAMPLES["query"], request=2**63), "Query.request"),
        (but(EXAMPLES["query"], request="1"), "Query.request"),
        (but(EXAMPLES["query"], group=b"default"), "Query.group"),
        (but(EXAMPLES["query"], group="x" * 129), "Query.group"),
        (but(EXAMPLES["query"], group="a\0"), "Query.group"),
        (but(EXAMPLES["query"], lease=-1), "Query.lease"),
        (but(EXAMPLES["query"], begin=1), "Query.begin"),
        (but(EXAMPLES["batch"], values=(1,)), "BatchMessage.values"),
        (but(EXAMPLES["batch"], steps=""), "BatchMessage.steps"),
        (but(EXAMPLES["batch"], session=3), "BatchMessage.session"),
        (but(EXAMPLES["copy-message"], statement=b"COPY \0 TO STDOUT"), "CopyMessage.statement"),
        (but(EXAMPLES["copy-message"], is_in=1), "CopyMessage.is_in"),
        (but(EXAMPLES["copy-in"], data="1"), "CopyIn.data"),
        (but(EXAMPLES["copy-end"], error="a\0"), "CopyEnd.error"),
        (but(EXAMPLES["copy-end"], error="a" * 1001), "CopyEnd.error"),
        (but(EXAMPLES["copy-taken"], size=0), "CopyTaken.size"),
        (but(EXAMPLES["query"], statement="SELECT"), "Query.statement"),
        (but(EXAMPLES["query"], statement=b"SELECT\0"), "Query.types"),
        (but(EXAMPLES["query"], types=b"\0\0\0\0"), "Query.types"),
        (but(EXAMPLES["query"], types=b"\0"), "Query.types"),
        (but(EXAMPLES["query"], types=""), "Query.types"),
        (but(EXAMPLES["query"], values=None), "Query.values"),
        (but(EXAMPLES["query"], prepare=1), "Query.prepare"),
        (but(EXAMPLES["transaction"], isolation="none"), "TransactionMessage.isolation"),
        (but(EXAMPLES["transaction"], isolation=[]), "TransactionMessage.isolation"),
        (but(EXAMPLES["transaction"], read_only=1), "TransactionMessage.read_only"),
        (but(EXAMPLES["transaction"], deferrable="yes"), "TransactionMessage.deferrable"),
        (but(EXAMPLES["transaction"], retries=-1), "TransactionMessage.retries"),
        (but(EXAMPLES["transaction"], retries=limits.MAX_RETRIES + 1), "TransactionMessage.retries"),
        (but(EXAMPLES["transaction"], steps=()), "TransactionMessage.steps"),
        (but(EXAMPLES["transaction"], values=b""), "TransactionMessage.values"),
        (but(EXAMPLES["transaction"], values=("",)), "TransactionMessage.values"),
        (but(EXAMPLES["query"], timeout=0), "Query.timeout"),
        (but(EXAMPLES["query"], timeout=-1.0), "Query.timeout"),
        (but(EXAMPLES["query"], timeout=float("nan")), "Query.timeout"),
        (but(EXAMPLES["query"], timeout=float("inf")), "Query.timeout"),
        (but(EXAMPLES["query"], timeout=False), "Query.timeout"),
        (but(EXAMPLES["query"], tag=None), "Query.tag"),
        (but(EXAMPLES["query"], tag=[[]]), "Query.tag"),
        (but(EXAMPLES["query"], priority=3), "Query.priority"),
        (but(EXAMPLES["query"], priority=-1), "Query.priority"),
        (but(EXAMPLES["query"], priority=True), "Query.priority"),
        (but(EXAMPLES["query"], priority="batch"), "Query.priority"),
        (but(EXAMPLES["query"], origin=""), "Query.origin"),
        (but(EXAMPLES["query"], origin=b"no NUL"), "Query.origin"),
        (but(EXAMPLES["query"], origin=b"x" * (MAX_PLACE_BYTES + 1) + b"\0"), "Query.origin"),
        (but(EXAMPLES["query"], origin=b"\xff\0"), "Query.origin"),
        (but(EXAMPLES["query"], origin=ORIGIN + b"0"), "Query.origin"),
        (but(EXAMPLES["query"], origin=ORIGIN.upper()), "Query.origin"),
        (but(EXAMPLES["transaction"], origin=b"x"), "TransactionMessage.origin"),
        (but(EXAMPLES["batch"], origin=b"x"), "BatchMessage.origin"),
        (but(EXAMPLES["copy-message"], origin=b"x"), "CopyMessage.origin"),
        (but(EXAMPLES["query"], settings=""), "Query.settings"),
        (but(EXAMPLES["query"], settings=b"work_mem"), "Query.settings"),
        (but(EXAMPLES["query"], settings=b"work_mem\0"), "Query.settings"),
        (but(EXAMPLES["query"], settings=b"work_mem\0001MB\0a"), "Query.settings"),
        (but(EXAMPLES["query"], settings=b"\0001MB\0"), "Query.settings"),
        (but(EXAMPLES["query"], settings=b"a\0b\0" * (limits.MAX_SETTINGS + 1)), "Query.settings"),
        (but(EXAMPLES["query"], session=True), "Query.session"),
        (but(EXAMPLES["query"], session=3), "Query.session"),
        (but(EXAMPLES["transaction"], priority=3), "TransactionMessage.priority"),
        (but(EXAMPLES["transaction"], settings=b"x"), "TransactionMessage.settings"),
        (but(EXAMPLES["cancel"], key=""), "CancelRequest.key"),
        (but(EXAMPLES["ask"], what="shutdown"), "Ask.what"),
        (but(EXAMPLES["ask"], arguments=""), "Ask.arguments"),
        (but(EXAMPLES["ask"], arguments=b"group"), "Ask.arguments"),
        (but(EXAMPLES["ask"], arguments=b"group\0"), "Ask.arguments"),
        (but(EXAMPLES["ask"], arguments=b"\0default\0"), "Ask.arguments"),
        (but(EXAMPLES["ask"], arguments=b"group\0\xff\0"), "Ask.arguments"),
        (but(EXAMPLES["ask"], arguments=b"a\0b\0" * (MAX_ARGUMENTS + 1)), "Ask.arguments"),
        (but(EXAMPLES["ask"], arguments=b"group\0" + b"x" * MAX_ARGUMENT_BYTES + b"\0"), "Ask.arguments"),
        (but(EXAMPLES["hello"], version=0), "Hello.version"),
        (but(EXAMPLES["hello"], application_name="x" * 129), "Hello.application_name"),
    ],
)
def test_what_is_no_message_is_refused_with_the_reason(frame: bytes, why: str) -> None:
    with pytest.raises(ProtocolViolation, match=why.replace("[", r"\[")):
        decode_request(frame)


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        msgpack.packb(5),
        *(
            msgpack.packb(shapes)
            for shapes in (
                (),
                (SHAPE,) * (limits.MAX_STEPS + 1),
                (1,),
                (SHAPE, 2),
                (3, 2),
                (True, 2),
                (SHAPE[:-1],),
                ((SHAPE[0], b"", *SHAPE[2:]),),
                ((*SHAPE[:4], -1, None),),
                ((*SHAPE[:4], 0, "1"),),
                ((*SHAPE[:3], (REFERENCE,), 0, None),),
                *(
                    (SHAPE, 1, 2, (*SHAPE[:3], (wrong,), 0, None))
                    for wrong in (
                        REFERENCE[:-1],
                        REFERENCE._replace(parameter=2),
                        REFERENCE._replace(step=1),
                        REFERENCE._replace(step=3),
                        REFERENCE._replace(row=-1),
                        REFERENCE._replace(column=None),  # type: ignore[arg-type]  # that is what is wrong
                    )
                ),
            )
        ),
    ],
)
def test_what_are_no_steps_is_refused(packed: bytes) -> None:
    with pytest.raises(ProtocolViolation, match=r"TransactionMessage\.steps"):
        decode_steps(packed)


def test_arguments_come_back_by_name_and_in_order() -> None:
    packed = packed_arguments([("group", "b"), ("endpoint", "é"), ("group", "a")])
    assert unpacked_arguments(packed) == {"group": ["b", "a"], "endpoint": ["é"]}
    assert unpacked_arguments(packed_arguments([])) == {}
    with pytest.raises(ValueError, match="no NUL"):
        packed_arguments([("group", "a\0b")])


def test_steps_come_back_without_their_values() -> None:
    packed, values = split_steps(STEPS)
    assert values == (VALUES, VALUES)
    assert decode_steps(packed) == [step if isinstance(step, int) else step._replace(values=b"") for step in STEPS]


@given(st.binary(max_size=400))
@examples(3000)
def test_random_bytes_raise_nothing_but_the_protocols_error(frame: bytes) -> None:
    try:
        message = decode_request(frame)
    except ProtocolViolation:
        return
    assert decode_request(encode(message)) == message


@given(st.sampled_from(list(EXAMPLES)), st.data())
@examples(2000)
def test_damaged_messages_raise_nothing_but_the_protocols_error(name: str, data: st.DataObject) -> None:
    frame = bytearray(encode(EXAMPLES[name]))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(frame) - 1))
        frame[place] = data.draw(st.integers(0, 255))
    cut = bytes(frame[: data.draw(st.integers(0, len(frame)))])
    for decode in (decode_request, decode_reply):
        try:
            decode(cut)
        except ProtocolViolation:
            continue


def test_deep_and_wide_garbage_is_refused_before_it_becomes_objects() -> None:
    for frame in (
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdc\xff\xff" + b"\xc0" * 65535,
        b"\xdf\xff\xff\xff\xff",
    ):
        with pytest.raises(ProtocolViolation):
            decode_request(frame)


text = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=128)
words = st.binary(max_size=20).map(lambda value: value.replace(b"\0", b""))


@given(
    st.builds(
        Query,
        request=st.integers(1, limits.MAX_NUMBER),
        group=text,
        lease=st.integers(0, limits.MAX_NUMBER),
        begin=st.booleans(),
        statement=st.binary().map(lambda value: value.replace(b"\0", b"") + b"\0\0"),
        types=st.binary(min_size=8, max_size=8),
        values=st.binary(),
        prepare=st.booleans(),
        timeout=st.none() | st.floats(1e-6, limits.MAX_TIMEOUT),
        tag=text,
        priority=st.integers(0, limits.BATCH),
        settings=st.lists(st.tuples(words.filter(bool), words), max_size=limits.MAX_SETTINGS).map(
            lambda pairs: b"".join(b"%b\0%b\0" % pair for pair in pairs)
        ),
        session=st.integers(0, limits.IN_SESSION),
        origin=st.sampled_from([b"", b"shop.pay shop.py:7\0", ORIGIN, ORIGIN[ORIGIN.index(b"\0") :]]),
    )
)
def test_every_valid_query_survives_the_wire(message: Query) -> None:
    assert decode_request(encode(message)) == message
