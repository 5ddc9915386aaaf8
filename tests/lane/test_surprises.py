"""Answers in pieces, or other than expected, at every byte: what follows is what would follow without a lane."""

import pytest
from stage import HARMLESS, READ, READY, WRITE, Client, Stage, error, message

from client.wire.messages import ToClient

ROW = message(b"D", b"\0\1\0\0\0\x011")
NOTICE = message(b"N", b"SNOTICE\0VNOTICE\0C00000\0Mlook\0\0")
STATUS = message(b"S", b"application_name\0other\0")


def outcome(made: tuple[Stage, Client], is_transaction: bool, pieces: list[bytes]) -> tuple[list[ToClient], int, bool]:
    """What becomes of two requests whose answers come in these pieces, and of the backend: its number, if it is left.

    Whatever of the answers is missing comes in the end, if the connection is still open.
    """
    stage, client = made
    (number,) = stage.broker.backends
    (stage.transaction if is_transaction else stage.query)(client, *([WRITE, READ] if is_transaction else []))
    stage.turn(client)
    if not is_transaction:
        stage.query(client)
        stage.turn(client)
    if stage.lane is not None:
        assert stage.backend(number).flights
    server = stage.servers[number]
    server.units.clear()
    for piece in pieces:
        if number in stage.servers:
            server.say(piece)
            stage.receive(number)
    for _ in range(10):
        stage.answer_all()
        stage.pass_time(0.03)
    return sorted(client.replies, key=lambda reply: reply.request), len(stage.servers), number in stage.servers  # type: ignore[union-attr]


def answers(stage: Stage, is_transaction: bool) -> bytes:
    """The usual answers to what `outcome` sends next."""
    number = stage._numbers + 1
    begun = message(b"2") + message(b"C", b"BEGIN\0")
    written = message(b"2") + message(b"C", b"UPDATE %d\0" % number)
    if is_transaction:
        return begun + written + _read(number) + message(b"2") + message(b"C", b"COMMIT\0") + READY
    return _read(number) + READY + _read(number + 1) + READY


def _read(number: int) -> bytes:
    value = b"%d" % number
    row = message(b"D", b"\0\1" + len(value).to_bytes(4, "big") + value)
    return message(b"2") + row + message(b"C", b"SELECT 1\0")


@pytest.mark.parametrize("is_transaction", [False, True], ids=["queries", "transaction"])
def test_an_answer_may_come_in_pieces(is_transaction: bool) -> None:
    size = 0
    place = 0
    while place <= size:
        made = _made(True)
        whole = answers(made[0], is_transaction)
        size = len(whole)
        replies, left, _ = outcome(made, is_transaction, [whole[:place], whole[place:]])
        made[0].close()
        cold = _made(False)
        assert replies == outcome(cold, is_transaction, [whole])[0]
        cold[0].close()
        assert left == 1
        place += 1


def _made(has_lane: bool) -> tuple[Stage, Client]:
    stage = Stage(has_lane, max_size=1)
    stage.promote(READ)
    stage.promote(WRITE, proof=HARMLESS)
    client = stage.client()
    for _ in range(3):
        stage.query(client)
        stage.turn(client)
        stage.answer_all()
        stage.transaction(client, WRITE, READ)
        stage.turn(client)
        stage.answer_all()
    client.replies.clear()
    return stage, client


@pytest.mark.parametrize("is_transaction", [False, True], ids=["queries", "transaction"])
@pytest.mark.parametrize("value", [0, 1, 32, 50, 67, 68, 90, 128, 255])
def test_a_wrong_byte_has_the_same_outcome_as_without_a_lane(value: int, is_transaction: bool) -> None:
    size = 1
    place = 0
    while place < size:
        seen = []
        for has_lane in (True, False):
            made = _made(has_lane)
            whole = answers(made[0], is_transaction)
            size = len(whole)
            seen.append(outcome(made, is_transaction, [whole[:place] + bytes((value,)) + whole[place + 1 :]]))
            made[0].close()
        assert seen[0] == seen[1], f"at {place} of {whole!r}"
        place += 1


@pytest.mark.parametrize("is_transaction", [False, True], ids=["queries", "transaction"])
@pytest.mark.parametrize("between", [NOTICE, STATUS, error(b"22012"), error(b"40001", b"E"), READY, ROW, b""])
def test_a_message_more_or_less_has_the_same_outcome_as_without_a_lane(between: bytes, is_transaction: bool) -> None:
    place = 0
    while True:
        seen = []
        for has_lane in (True, False):
            made = _made(has_lane)
            whole = answers(made[0], is_transaction)
            cuts = _cuts(whole)
            if place < len(cuts):
                at = cuts[place]
                skipped = 1 + int.from_bytes(whole[at + 1 : at + 5], "big") if not between and at < len(whole) else 0
                seen.append(outcome(made, is_transaction, [whole[:at] + between + whole[at + skipped :]]))
            made[0].close()
        if not seen:
            return
        assert seen[0] == seen[1], f"before message {place}"
        place += 1


def _cuts(whole: bytes) -> list[int]:
    """Where messages begin, and the end."""
    found, at = [0], 0
    while at < len(whole):
        at += 1 + int.from_bytes(whole[at + 1 : at + 5], "big")
        found.append(at)
    return found
