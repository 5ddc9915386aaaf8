"""What a server may answer besides the truth: its clients are told an error, and the broker serves others as before."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from brokers import Broker
from cheats import READY, CheatingServer, described, error, message, notice, row, tag
from postgres import Postgres
from waiting import wait_until

import client
from client.wire.messages import ProtocolViolation

StartBroker = Callable[..., Broker]

MEGABYTE = b"x" * (1 << 20)
ONE = described((b"a", 23))


def raw(kind: bytes, length: int, body: bytes = b"") -> bytes:
    """A message that tells any length."""
    return kind + struct.pack("!I", length & 0xFFFFFFFF) + body


# Answers that are none: what was asked may have run, and there is no result.
WRONG = {
    "a count of 100 digits": tag(b"INSERT 0 " + b"9" * 100) + READY,
    "a count of 64 bits": tag(b"INSERT 0 18446744073709551615") + READY,
    "a long tag": tag(b"x" * 1000) + READY,
    "nothing but the end": READY,
    "a length of 0": raw(b"C", 0),
    "a length of 3": raw(b"D", 3, b"\0\0\0"),
    "a negative length": raw(b"T", -1) + bytes(100),
    "a message of a gigabyte": raw(b"S", 1 << 30) + bytes(70_000),
    "no kind that there is": message(b"\xff", b"") + READY,
    "a password, please": message(b"R", struct.pack("!I", 3)) + READY,
    "columns without an end": raw(b"T", 50, struct.pack("!H", 2) + b"a" * 44) + tag(b"SELECT 0") + READY,
    "65,535 columns, of which none comes": message(b"T", b"\xff\xff") + tag(b"SELECT 0") + READY,
    "names of a megabyte": described((MEGABYTE[:-100], 25)) + tag(b"SELECT 0") + READY,
    "a setting without a value": message(b"S", b"TimeZone\0") + tag(b"SELECT 0") + READY,
    "a notification of two bytes": message(b"A", b"ab") + tag(b"SELECT 0") + READY,
    "data of COPY asked for again and again": message(b"G", b"\0\0\0") * 1000,
    "results of thousands of kinds": b"".join(
        tag(b"K" + b"x" * (n % 200) + str(n).encode() + b"y") for n in range(3000)
    ),
    "an end of the connection": error(b"bye", b"57P01", b"FATAL") + READY,
}


@pytest.fixture
def cheat(tmp_path: Path, postgres: Postgres, start_broker: StartBroker) -> Iterator[tuple[Broker, CheatingServer]]:
    folder = tmp_path / "s"
    folder.mkdir()
    with CheatingServer(folder) as server:
        groups = {
            "default": {"endpoints": ["main"], "max_size": 1},
            "cheated": {"endpoints": ["odd"], "max_size": 1, "min_size": 0, "queue_timeout": 10},
        }
        yield start_broker({"main": postgres.parameters, "odd": server.parameters}, groups), server


def check_serves(broker: Broker) -> None:
    assert broker.process.poll() is None
    assert broker.handler("default").query("SELECT 1")[0][0] == 1


def test_what_is_no_answer_is_an_error_and_the_broker_goes_on(cheat: tuple[Broker, CheatingServer]) -> None:
    broker, server = cheat
    for name, answer in WRONG.items():
        server.answer = lambda answer=answer: answer  # type: ignore[misc]
        try:
            found = broker.handler("cheated").query("SELECT 'cheat'")
        except client.DBError:
            check_serves(broker)
        else:
            pytest.fail(f"{name} is taken for {found!r}")


def test_what_is_only_odd_comes_through(cheat: tuple[Broker, CheatingServer]) -> None:
    broker, server = cheat
    db = broker.handler("cheated")

    def told(answer: bytes) -> client.Result:
        server.answer = lambda: answer
        return db.query("SELECT 'cheat'")

    assert told(tag(b"INSERT 0 9223372036854775807") + READY).rowcount == 2**63 - 1
    assert told(tag("INSERT 0 \u0663".encode()) + READY).rowcount == -1
    odd = told(described((b"a", 0xFFFFFFFF)) + row(b"x") + tag(b"SELECT 1") + READY)
    assert odd[0][0] == "x"
    below = message(b"D", struct.pack("!Hi", 1, -2))  # NULL is any negative length, as for libpq
    assert told(ONE + below + tag(b"SELECT 1") + READY)[0][0] is None
    flood = b"".join(message(b"S", b"TimeZone\0%d\0" % n) for n in range(20_000)) + message(b"S", b"TimeZone\0UTC\0")
    told(flood + tag(b"SELECT 0") + READY)
    told(tag(b"SELECT 0") + READY + READY)
    told(message(b"S", b"search_path\0" + MEGABYTE[:-100] + b"\0") + tag(b"SELECT 0") + READY)
    told(message(b"A", struct.pack("!I", 1) + b"channel\0" + MEGABYTE[:-100] + b"\0") * 20 + tag(b"SELECT 0") + READY)
    check_serves(broker)


def test_rows_that_are_none_are_an_error_where_they_are_read(cheat: tuple[Broker, CheatingServer]) -> None:
    broker, server = cheat
    for wrong in (
        message(b"D", b""),
        message(b"D", struct.pack("!H", 7)),
        message(b"D", struct.pack("!Hi", 1, 1_000_000) + b"x"),
        row(b"1", b"2"),
    ):
        server.answer = lambda wrong=wrong: ONE + wrong * 100 + tag(b"SELECT 100") + READY  # type: ignore[misc]
        with pytest.raises((client.DBError, ProtocolViolation)):
            list(broker.handler("cheated").query("SELECT 'cheat'"))
        check_serves(broker)


def test_errors_of_any_text_are_told(cheat: tuple[Broker, CheatingServer]) -> None:
    broker, server = cheat
    for wrong in (
        error(b"\xff\xfe", b"\0\0"),
        error(b"", b""),
        error(b"m" * 60_000, b"c" * 3000),
        message(b"E", b"P99999999999999999999\0M?\0\0"),
        message(b"E", b"P-1\0p\0q\0M?\0\0"),
        message(b"E", b""),
        message(b"E", b"M" * 70_000 + b"\0\0"),
        error(b"again") * 10_000,
    ):
        server.answer = lambda wrong=wrong: wrong + READY  # type: ignore[misc]
        with pytest.raises(client.DBError):
            broker.handler("cheated").query("SELECT 'cheat'")
        check_serves(broker)


def test_of_notices_a_bounded_sum_is_kept(cheat: tuple[Broker, CheatingServer]) -> None:
    broker, server = cheat
    db = broker.handler("cheated")
    server.answer = lambda: notice(b"n" * 30_000) * 5000 + tag(b"SELECT 0") + READY
    notices = db.query("SELECT 'cheat'").notices
    assert 0 < sum(map(len, notices)) <= 262_144
    server.answer = lambda: notice(b"", b"P1\0") * 100_000 + tag(b"SELECT 0") + READY
    assert len(db.query("SELECT 'cheat'" + " " * 5_000_000).notices) == 50
    check_serves(broker)


def test_a_server_that_does_not_tell_its_settings_is_not_used(
    tmp_path: Path, start_broker: StartBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cheats

    for answer in (
        tag(b"SELECT 0") + READY,
        described((b"n", 25)) + row(b"statement_timeout") + tag(b"SELECT 1") + READY,
        described((b"n", 23)) + row(b"no number") + tag(b"SELECT 1") + READY,
        cheats.SETTINGS_ANSWER.replace(b"ISO, MDY", b"SQL, MDY"),
        cheats.SETTINGS_ANSWER.replace(b"UTF8", b"SJIS"),
        READY,
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        monkeypatch.setattr(cheats, "SETTINGS_ANSWER", answer)
        with CheatingServer(folder) as server:
            broker = start_broker({"odd": server.parameters}, {"default": {"min_size": 0, "queue_timeout": 0.5}})
            with pytest.raises(client.DBOfflineError):
                broker.handler().query("SELECT 1")
            wait_until(lambda b=broker: b.process.poll() is None)
            broker.close()
