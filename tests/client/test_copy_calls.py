"""COPY from the client's side: brokers that go away in the middle, and signal handlers that raise there."""

import io
import itertools
import signal
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_broker import ScriptedBroker, scripted

from client import DBConnectionError, Handler, TransactionLost
from client.compiled import load
from client.values import copy_data
from client.wire.codec import encode
from client.wire.limits import COPY_WINDOW
from client.wire.messages import (
    FAILED,
    TX_ACTIVE,
    TX_NONE,
    UNKNOWN,
    CopyBegun,
    CopyEnd,
    CopyIn,
    CopyMessage,
    CopyOut,
    CopyTaken,
    CopyWanted,
    Failure,
    Query,
    ResultMessage,
    ToClient,
)
from client.wire.zmtp import frame

ROW = b"x" * 1000
OUT = "COPY t TO STDOUT"
IN = "COPY t FROM STDIN"


def rows(count: int, row: bytes = ROW) -> bytes:
    """CopyData messages, as PostgreSQL sends them."""
    return (b"d" + struct.pack("!I", len(row) + 4) + row) * count


def say(*messages: ToClient) -> list[bytes | None]:
    return [frame(encode(each)) for each in messages]


def done(request: int, transaction: Any = TX_NONE, command: str = "COPY 1") -> ResultMessage:
    return ResultMessage(request, transaction, command, 1, None, b"", ())


class Copier:
    """Answers queries, and copies by what each message of the conversation leads to."""

    def __init__(self, begin: Iterable[ToClient | None]) -> None:
        self.begin = list(begin)  # what follows a COPY; None ends the connection
        self.given: list[Any] = []
        self.on_data: Callable[[Any], Iterable[bytes | None]] = lambda _: ()

    def __call__(self, message: Any) -> Iterable[bytes | None]:
        if isinstance(message, Query):
            yield from say(done(message.request, TX_ACTIVE if message.lease else TX_NONE, "SELECT 1"))
        elif isinstance(message, CopyMessage):
            for each in self.begin:
                yield None if each is None else frame(encode(each._replace(request=message.request)))
        else:
            self.given.append(message)
            yield from self.on_data(message)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[ScriptedBroker]:
    with scripted(tmp_path, Copier(())) as made:
        yield made


def serves(db: Handler, broker: ScriptedBroker) -> bool:
    """Whether the Handler works, on a connection of its own if the last one is gone."""
    broker.answer = Copier(())
    return db.query("SELECT 1").statusmessage == "SELECT 1"


# Brokers that go away.


@pytest.mark.parametrize(
    ("is_in", "begin", "outcome"),
    [
        (True, [None], FAILED),
        (True, [CopyBegun(0, True), None], FAILED),
        (False, [None], UNKNOWN),
        (False, [CopyBegun(0, False), None], UNKNOWN),
        (False, [CopyBegun(0, False), CopyOut(0, rows(10)), None], UNKNOWN),
        # So much that the client says that it has taken some, to a broker that is gone.
        (False, [CopyBegun(0, False), *[CopyOut(0, rows(140))] * 4, None], UNKNOWN),
    ],
)
def test_a_broker_that_goes_away_in_the_middle_ends_the_call(
    broker: ScriptedBroker, is_in: bool, begin: list[Any], outcome: str
) -> None:
    broker.answer = Copier(begin)
    db = Handler(address=broker.address)
    call = partial(db.copy_in, IN, itertools.repeat(ROW)) if is_in else partial(db.copy_out, OUT, io.BytesIO())
    with pytest.raises(DBConnectionError) as caught:
        call()
    assert caught.value.outcome == outcome
    assert serves(db, broker)
    assert broker.connections == 2


def test_a_broker_that_goes_away_behind_the_end_of_the_data_leaves_it_unknown(broker: ScriptedBroker) -> None:
    copier = broker.answer = Copier([CopyBegun(0, True)])
    copier.on_data = lambda message: [None] if isinstance(message, CopyEnd) else []
    db = Handler(address=broker.address)
    with pytest.raises(DBConnectionError) as caught:
        db.copy_in(IN, ROW)
    assert caught.value.outcome == UNKNOWN
    assert copier.given == [CopyIn(copier.given[0].request, ROW), CopyEnd(copier.given[0].request, None)]


def test_of_a_string_that_may_have_committed_before_nothing_is_denied(broker: ScriptedBroker) -> None:
    broker.answer = Copier([CopyBegun(0, True), None])
    with pytest.raises(DBConnectionError) as caught:
        Handler(address=broker.address).copy_in("COPY t FROM '/file'; COMMIT; COPY t FROM STDIN", itertools.repeat(ROW))
    assert caught.value.outcome == UNKNOWN


class Vanishing(io.BytesIO):
    """A sink during whose first write the broker goes away."""

    def __init__(self, broker: ScriptedBroker) -> None:
        super().__init__()
        self._broker = broker

    def write(self, data: Any) -> int:
        self._broker.end_connections()
        return super().write(data)


def test_what_the_client_says_in_between_is_no_request(broker: ScriptedBroker) -> None:
    """A COPY that returns what it deletes may have ended long before its client is told."""
    broker.answer = Copier([CopyBegun(0, False), CopyOut(0, rows(200))])
    db = Handler(address=broker.address)
    sink = Vanishing(broker)
    with pytest.raises(DBConnectionError) as caught:
        db.copy_out("COPY (DELETE FROM t RETURNING *) TO STDOUT", sink)
    assert caught.value.outcome == UNKNOWN
    assert sink.getvalue() == ROW * 200
    assert serves(db, broker)


@pytest.mark.parametrize("is_in", [True, False])
def test_a_transaction_whose_broker_goes_away_in_a_copy_is_lost(broker: ScriptedBroker, is_in: bool) -> None:
    tx = Handler("interactive", address=broker.address)
    tx.query("SELECT 1")
    broker.answer = Copier([CopyBegun(0, is_in), None])
    call = partial(tx.copy_in, IN, itertools.repeat(ROW)) if is_in else partial(tx.copy_out, OUT, io.BytesIO())
    with pytest.raises(DBConnectionError):
        call()
    with pytest.raises(TransactionLost):
        tx.query("SELECT 1")
    tx.rollback()
    assert serves(tx, broker)


# Signal handlers that raise.


class Alarm(Exception):
    """A time limit's."""


class Farewell(BaseException):
    """As KeyboardInterrupt, no Exception."""


@pytest.fixture(params=[Alarm, Farewell, KeyboardInterrupt, TimeoutError, lambda: BlockingIOError(11, "stranger")])
def raised(request: pytest.FixtureRequest) -> Iterator[BaseException]:
    """What the handler of SIGALRM raises."""
    error: BaseException = request.param()

    def on_alarm(*_: Any) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, on_alarm)
    yield error
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def ring() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.05)


@pytest.mark.parametrize("is_in", [True, False])
@pytest.mark.parametrize("name", ["default", "interactive"])
def test_an_exception_while_a_copy_waits_for_its_broker_reaches_the_program(
    broker: ScriptedBroker, raised: BaseException, is_in: bool, name: str
) -> None:
    db = Handler(name, address=broker.address)
    db.query("SELECT 1")
    begin = [CopyBegun(0, is_in)] if is_in else [CopyBegun(0, is_in), CopyOut(0, rows(3))]
    broker.answer = Copier(begin)
    caught: BaseException | None = None
    ring()
    try:
        if is_in:
            db.copy_in(IN, itertools.repeat(ROW))  # the broker wants no more than its window
        else:
            db.copy_out(OUT, io.BytesIO())
    except BaseException as error:  # noqa: BLE001  it is the result
        caught = error
    assert caught is raised
    broker.answer = Copier(())
    if name == "interactive":
        with pytest.raises(TransactionLost):
            db.query("SELECT 1")
        db.rollback()
    assert serves(db, broker)
    assert broker.connections == 2


def test_an_exception_of_a_source_ends_the_data_and_keeps_the_channel(
    broker: ScriptedBroker, raised: BaseException
) -> None:
    copier = broker.answer = Copier([CopyBegun(0, True)])

    def refuse(message: Any) -> Iterable[bytes | None]:
        if isinstance(message, CopyEnd):
            assert message.error is not None
            yield from say(Failure(message.request, TX_NONE, "query", FAILED, message.error, "57014", {}))

    copier.on_data = refuse

    def source() -> Iterator[bytes]:
        yield ROW
        signal.raise_signal(signal.SIGALRM)

    db = Handler(address=broker.address)
    caught: BaseException | None = None
    try:
        db.copy_in(IN, source())
    except BaseException as error:  # noqa: BLE001  it is the result
        caught = error
    assert caught is raised
    assert copier.given[-1].error.startswith(type(raised).__name__)
    assert serves(db, broker)
    assert broker.connections == 1


# What passes.


def test_the_client_gives_no_more_than_the_window(broker: ScriptedBroker) -> None:
    copier = broker.answer = Copier([CopyBegun(0, True)])
    sizes: list[int] = []

    def take(message: Any) -> Iterable[bytes | None]:
        if isinstance(message, CopyEnd):
            yield from say(done(message.request))
            return
        sizes.append(len(message.data))
        if sum(sizes) == COPY_WINDOW:
            for _ in range(4):
                yield from say(CopyWanted(message.request, COPY_WINDOW // 4))

    copier.on_data = take
    assert Handler(address=broker.address).copy_in(IN, b"y" * (COPY_WINDOW + COPY_WINDOW // 2)).rowcount == 1
    assert sum(sizes) == COPY_WINDOW + COPY_WINDOW // 2


def test_the_client_says_what_it_has_taken(broker: ScriptedBroker) -> None:
    copier = broker.answer = Copier([CopyBegun(0, False), *[CopyOut(0, rows(200))] * 3])

    def take(message: Any) -> Iterable[bytes | None]:
        assert isinstance(message, CopyTaken)
        if sum(each.size for each in copier.given) == 3 * len(rows(200)):
            yield from say(done(message.request))

    copier.on_data = take
    sink = io.BytesIO()
    Handler(address=broker.address).copy_out(OUT, sink)
    assert sink.getvalue() == ROW * 600


# The compiled code does as the Python code.

HEADER = copy_data.HEADER
_compiled = load("client.lane.rows")


def _plain() -> Callable[[bytes, int], tuple[bytes, int]]:
    """`payloads` as it is without compiled code."""
    import importlib.util
    from unittest.mock import patch

    spec = importlib.util.find_spec("client.values.copy_data")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with patch("client.compiled.load", lambda _: None):
        spec.loader.exec_module(module)
    return module.payloads  # type: ignore[no-any-return]  # a module that was made here


@pytest.mark.skipif(_compiled is None, reason="there is no compiled code")
@given(rows=st.lists(st.binary(max_size=40), max_size=20), places=st.lists(st.integers(0, 900), max_size=8))
def test_both_forms_take_the_same_rows_from_any_pieces(rows: list[bytes], places: list[int]) -> None:
    data = b"".join(b"d" + struct.pack("!I", len(row) + 4) + row for row in rows)
    headers: set[int] = set()
    at = 0
    for row in rows:
        headers.update(range(at + 1, at + HEADER))
        at += HEADER + len(row)
    cuts = [0, *sorted({place for place in places if place < len(data)} - headers), len(data)]
    plain, compiled = _plain(), _compiled.payloads
    missing, found = 0, b""
    for first, last in itertools.pairwise(cuts):
        told = plain(data[first:last], missing)
        assert compiled(data[first:last], missing) == told
        part, missing = told
        found += part
    assert missing == 0
    assert found == b"".join(rows)
