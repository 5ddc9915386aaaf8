"""COPY with a program's file that is slow: what the broker says meanwhile is heard, and waits for nobody's file."""

import fcntl
import signal
import termios
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2.errors
import pytest
from brokers import Broker
from postgres import Postgres
from waiting import wait_until

import client
from client import Handler
from client.channels import channel as channels
from client.channels.channel import Channel
from client.wire.messages import Query, ResultMessage

EVERY_TRANSPORT = True
SCHEMA = "slow_copies"
IN = f"COPY {SCHEMA}.items FROM STDIN"
# More data than any window or buffer between the two ends.
ENDLESS = "COPY (SELECT generate_series(1, 100000000), repeat('x', 100)) TO STDOUT"


@pytest.fixture(scope="module", autouse=True)
def schema(postgres: Postgres) -> Iterator[None]:
    postgres.execute(f"CREATE SCHEMA {SCHEMA}; CREATE TABLE {SCHEMA}.items (id integer)")
    yield
    postgres.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any file is a slow one, and a broker has no time beyond a COPY's timeout."""
    monkeypatch.setattr("client.options.GRACE", 0.0)
    monkeypatch.setattr("client.values.copy_files.SEND_AFTER", 0.0)
    monkeypatch.setattr("client.channels.conversing.LOOK_AFTER", 0.0)


def count(postgres: Postgres) -> int:
    return int(postgres.execute(f"SELECT count(*) FROM {SCHEMA}.items")[0][0])


class Slow:
    """A file: while it is at work for the first time, it waits until PostgreSQL has ended the COPY.

    It has no end, but nobody may ask it for long after that.
    """

    def __init__(self, postgres: Postgres, meanwhile: Callable[[], Any] = bool) -> None:
        self._postgres, self._meanwhile = postgres, meanwhile
        self._calls, self._ended = 0, 0.0

    def _is_copying(self) -> bool:
        return any(each["state"] == "active" and "COPY" in each["query"] for each in self._postgres.backends())

    def _pause(self) -> None:
        self._calls += 1
        if self._calls == 1:
            wait_until(self._is_copying, what="PostgreSQL to begin the COPY")
            self._meanwhile()
            wait_until(lambda: not self._is_copying(), what="PostgreSQL to end the COPY")
            self._ended = time.monotonic()
        assert time.monotonic() < self._ended + 30, "the file is still at work for a COPY that has ended"

    def read(self, _size: int) -> bytes:
        self._pause()
        return b"1\n"

    def __iter__(self) -> Iterator[str]:
        while True:
            yield self.read(0).decode()

    def write(self, _data: bytes) -> None:
        self._pause()


def copied(executor: Any, kind: str, file: Slow, timeout: float | None = None) -> None:
    if kind == "write":
        executor.copy_out(ENDLESS, file, timeout=timeout)
    else:
        executor.copy_in(IN, file if kind == "read" else iter(file), timeout=timeout)


@pytest.mark.parametrize("way", ["autocommit", "transaction", "session"])
@pytest.mark.parametrize("kind", ["read", "iterable", "write"])
def test_a_timeout_that_passes_while_the_file_is_at_work_ends_the_copy(
    db: Handler, tx: Handler, postgres: Postgres, way: str, kind: str
) -> None:
    executor: Any = {"autocommit": db, "transaction": tx, "session": db.session()}[way]
    file = Slow(postgres)
    with pytest.raises(psycopg2.errors.QueryCanceled, match=r"timeout of 0\.3 s") as caught:
        copied(executor, kind, file, timeout=0.3)
    assert caught.value.outcome == "failed"  # type: ignore[attr-defined]
    executor.rollback()
    assert executor.query("SELECT 1").scalar() == 1, "what it runs in is not lost"
    executor.rollback()
    assert count(postgres) == 0
    if way == "session":
        executor.close()


@pytest.mark.parametrize("kind", ["read", "iterable", "write"])
def test_a_cancel_takes_effect_between_two_pieces(db: Handler, postgres: Postgres, kind: str) -> None:
    with pytest.raises(psycopg2.errors.QueryCanceled):
        copied(db, kind, Slow(postgres, db.cancel))


def test_the_time_of_the_file_is_no_silence_of_the_broker(
    db: Handler, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.channels.channel.PING_AFTER", 0.05)

    def source() -> Iterator[str]:
        (channel,) = (each() for each in db._calls)
        assert channel is not None
        yield "1\n"
        channel._heard -= 3600  # as if this had taken an hour

    postgres.execute(f"ALTER TABLE {SCHEMA}.items ADD CHECK (id > 0 AND pg_sleep(0.3) IS NOT NULL)")
    try:
        assert db.copy_in(IN, source()).rowcount == 1
    finally:
        postgres.execute(f"TRUNCATE {SCHEMA}.items; ALTER TABLE {SCHEMA}.items DROP CONSTRAINT items_id_check")


def test_a_source_that_gives_little_is_not_silent(start_broker: Callable[..., Broker], postgres: Postgres) -> None:
    db = start_broker().handler()

    def source() -> Iterator[str]:
        yield "1\n"
        progress = "SELECT bytes_processed FROM pg_stat_progress_copy"
        wait_until(lambda: postgres.execute(progress) != [(0,)], what="PostgreSQL to have the first row")
        yield "2\n"

    assert db.copy_in(IN, source()).rowcount == 2
    postgres.execute(f"TRUNCATE {SCHEMA}.items")


def _unread(channel: Channel) -> int:
    """How many bytes have come and were not read."""
    return array("i", fcntl.ioctl(channel._socket.fileno(), termios.FIONREAD, bytes(4)))[0]


def test_a_reply_that_lies_there_is_taken_however_late(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "RECEIVE_BYTES", 1000)  # so that it is read by several calls
    channel = Channel(broker.address)
    number = channel.next_request()
    channel.send(Query(number, "default", 0, False, b"SELECT repeat('x', 10000)", b"", b"", True, None, ""))
    wait_until(lambda: _unread(channel) > 10_000, what="all of the reply to come")
    reply = channel.reply_to(number, 1.0, 0.0)
    assert isinstance(reply, ResultMessage)
    channel.close()


class Stopping:
    """A sink: at its first piece the broker is stopped, and ends as far as PostgreSQL and the client's words go."""

    def __init__(self, broker: Broker, is_copying: Callable[[], bool]) -> None:
        self._broker, self._is_copying = broker, is_copying
        self.size = 0

    def write(self, piece: bytes) -> None:
        if not self.size:
            wait_until(lambda: not self._is_copying(), what="PostgreSQL to send the last row")
            self._broker.signal(signal.SIGTERM)
            wait_until(self._broker.is_deaf, what="the broker to read nothing any more")
        self.size += len(piece)


@pytest.mark.parametrize("size", [1500, 4500], ids=["in the socket", "more than that"])
def test_a_broker_that_stops_lets_a_slow_sink_have_the_end_of_its_copy(
    start_broker: Callable[..., Broker], postgres: Postgres, size: int
) -> None:
    own = start_broker()
    sink = Stopping(own, Slow(postgres)._is_copying)
    done = own.handler().copy_out(f"COPY (SELECT repeat('x', 99) FROM generate_series(1, {size})) TO STDOUT", sink)
    assert (done.rowcount, sink.size) == (size, size * 100)
    assert own.wait() == 0
    with pytest.raises(client.DBConnectionError):
        own.handler(connect_wait=0).query("SELECT 1")
