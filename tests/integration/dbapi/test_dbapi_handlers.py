"""Signal handlers that use a connection in the middle of a call of its: whatever they did is true afterwards."""

import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2 as theirs
import pytest
from brokers import Broker
from postgres import Postgres
from waiting import wait_until

from client import UsageError, dbapi

# A lock of PostgreSQL's for which a call waits while the handler runs.
LOCK = 4713
WAIT = f"SELECT 7 FROM pg_advisory_xact_lock_shared({LOCK})"
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"
HELD = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND pid <> pg_backend_pid()"


@pytest.fixture(params=["plain", "session", "autocommit"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def connection(broker: Broker, kind: str) -> Iterator[Any]:
    with closing(dbapi.connect(broker.address, session=kind == "session", autocommit=kind == "autocommit")) as made:
        yield made


@pytest.fixture
def observer(postgres: Postgres) -> Iterator[Any]:
    with closing(theirs.connect(postgres.dsn())) as made:
        made.autocommit = True
        with made.cursor() as cursor:
            yield cursor


def count(cursor: Any, query: str) -> int:
    cursor.execute(query, (LOCK,))
    found: int = cursor.fetchone()[0]
    return found


@contextmanager
def handled(observer: Any, handler: Callable[[], Any], *, frees: bool = True) -> Iterator[list[Any]]:
    """Run the handler in this thread while the block waits for the lock, which is free then; what became of it."""
    told: list[Any] = []
    has_run = threading.Event()

    def handle(*_: Any) -> None:
        try:
            told.append(handler())
        except dbapi.Error as error:
            told.append(error)
        finally:
            has_run.set()

    def interrupt() -> None:
        wait_until(lambda: count(observer, WAITING) > 0)
        os.kill(os.getpid(), signal.SIGUSR1)
        has_run.wait(30)
        if frees:
            free()

    def free() -> None:
        observer.execute("SELECT pg_advisory_unlock_all()")

    before = signal.signal(signal.SIGUSR1, handle)
    observer.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield told
    finally:
        thread.join()
        free()
        signal.signal(signal.SIGUSR1, before)


def test_what_is_closed_in_a_call_is_closed_behind_it(connection: Any, observer: Any) -> None:
    cursor = connection.cursor()
    with handled(observer, connection.close) as told:
        cursor.execute(WAIT)  # returns as psycopg2's
    assert told == [None]
    assert (connection.closed, cursor.closed, cursor.rowcount) == (1, True, 1)
    wait_until(lambda: count(observer, HELD) == 0)
    with pytest.raises(dbapi.InterfaceError, match="already closed"):
        connection.commit()


def test_a_handler_may_close_and_raise(connection: Any, observer: Any) -> None:
    def end() -> None:
        connection.close()
        raise SystemExit(3)

    with pytest.raises(SystemExit), handled(observer, end):
        connection.cursor().execute(WAIT)
    assert connection.closed == 1
    wait_until(lambda: count(observer, HELD) == 0)


def test_what_is_closed_between_the_messages_of_executemany_runs_no_further(broker: Broker) -> None:
    with closing(dbapi.connect(broker.address)) as connection, connection.cursor() as cursor:

        def sets() -> Iterator[tuple[int]]:
            yield from ((n,) for n in range(1500))
            connection.close()
            yield (0,)

        with pytest.raises(dbapi.InterfaceError, match="already closed"):
            cursor.executemany("SELECT %s", sets())


@pytest.mark.parametrize("session", [False, True])
def test_a_file_may_close_the_connection_of_its_copy(broker: Broker, session: bool) -> None:
    with closing(dbapi.connect(broker.address, session=session)) as connection, connection.cursor() as cursor:

        class Closing(io.StringIO):
            def write(self, text: str) -> int:
                connection.close()
                return super().write(text)

        file = Closing()
        cursor.copy_expert("COPY (SELECT 1) TO STDOUT", file)
        assert file.getvalue() == "1\n"
        assert connection.closed == 1


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_transaction_that_cannot_end_in_a_call_goes_on(connection: Any, kind: str, observer: Any, end: str) -> None:
    cursor = connection.cursor()
    with handled(observer, getattr(connection, end)) as told:
        cursor.execute(WAIT)
    assert cursor.fetchone() == (7,)
    if kind == "autocommit":
        assert told == [None]
        return
    assert isinstance(told[0], UsageError)
    assert connection.get_transaction_status() == dbapi.extensions.TRANSACTION_STATUS_INTRANS
    connection.rollback()


@pytest.mark.parametrize("call", ["commit", "rollback", "named.close", "execute"])
@pytest.mark.parametrize("session", [False, True])
def test_named_cursors_live_on_if_a_handler_cannot_end_their_transaction(
    broker: Broker, observer: Any, session: bool, call: str
) -> None:
    with closing(dbapi.connect(broker.address, session=session)) as made:
        named = made.cursor("named")
        named.execute("SELECT n FROM generate_series(1, 3) AS n")
        assert named.fetchone() == (1,)
        other = made.cursor()
        calls: dict[str, Callable[[], Any]] = {
            "commit": made.commit,
            "rollback": made.rollback,
            "named.close": named.close,
            "execute": lambda: made.cursor().execute("SELECT 5"),
        }
        with handled(observer, calls[call]) as told:
            other.execute(WAIT)
        assert isinstance(told[0], UsageError)
        assert other.fetchone() == (7,)
        assert not named.closed
        assert named.fetchall() == [(2,), (3,)]
        named.close()


def test_a_named_cursor_that_is_being_declared_is_not_closed_elsewhere(broker: Broker, observer: Any) -> None:
    with closing(dbapi.connect(broker.address)) as connection:
        named = connection.cursor("named")
        with handled(observer, named.close) as told:
            connection.cursor().execute(WAIT)  # the transaction's first statement
        assert isinstance(told[0], UsageError)
        assert not named.closed


def test_a_call_is_cancelled_by_a_handler(connection: Any, observer: Any) -> None:
    with handled(observer, connection.cancel, frees=False) as told, pytest.raises(dbapi.extensions.QueryCanceledError):
        connection.cursor().execute(WAIT)
    assert told == [None]
    connection.rollback()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
