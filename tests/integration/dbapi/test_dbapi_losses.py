"""What is left of a connection whose backend is gone: of a session nothing, as with psycopg2; else it goes on."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg2 as theirs
import pytest
from brokers import Broker
from postgres import Postgres
from psycopg2 import extensions
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from waiting import wait_until

from client import dbapi

StartBroker = Callable[..., Broker]

UNKNOWN = extensions.TRANSACTION_STATUS_UNKNOWN


def one(connection: Any, statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


@pytest.fixture(params=["psycopg2", "session", "session-autocommit"])
def connection(request: pytest.FixtureRequest, broker: Broker, postgres: Postgres) -> Iterator[Any]:
    """A connection with a backend of its own, that of psycopg2 and ours."""
    if request.param == "psycopg2":
        made = postgres.connect()
    else:
        made = dbapi.connect(broker.address, session=True, autocommit=request.param == "session-autocommit")
    yield made
    made.close()


def lose(connection: Any, postgres: Postgres) -> None:
    """End the connection's backend, of which nobody tells the program."""
    pid = one(connection, "SELECT pg_backend_pid()")
    postgres.execute("SELECT pg_terminate_backend(%s)", (pid,))
    wait_until(lambda: not postgres.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)), what="its end")


CALLS: dict[str, Callable[[Any], Any]] = {
    "commit": lambda connection: connection.commit(),
    "rollback": lambda connection: connection.rollback(),
    "cursor": lambda connection: connection.cursor(),
    "cancel": lambda connection: connection.cancel(),
    "reset": lambda connection: connection.reset(),
    "with": lambda connection: connection.__enter__(),
    "set_session": lambda connection: connection.set_session(readonly=True),
    "xid": lambda connection: connection.tpc_begin(connection.xid(1, "a", "b")),
}


def test_a_lost_connection_stays_closed_and_every_call_says_so(connection: Any, postgres: Postgres) -> None:
    cursor = connection.cursor()
    lose(connection, postgres)
    with pytest.raises(theirs.OperationalError):
        cursor.execute("SELECT 1")
    for _ in range(2):
        for name, call in CALLS.items():
            with pytest.raises(theirs.InterfaceError, match="already closed"):
                call(connection)
            assert connection.closed == 2, name
            assert connection.get_transaction_status() == UNKNOWN, name
        for call in (lambda: cursor.execute("SELECT 1"), cursor.fetchone, lambda: cursor.executemany("SELECT 1", [()])):
            with pytest.raises(theirs.InterfaceError, match="already closed"):
                call()
    connection.close()
    assert connection.closed


def test_a_rollback_that_finds_the_session_lost_says_so(connection: Any, postgres: Postgres) -> None:
    connection.autocommit = False
    lose(connection, postgres)
    with pytest.raises((theirs.OperationalError, theirs.InterfaceError)):
        connection.rollback()
    assert connection.closed == 2
    with pytest.raises(theirs.InterfaceError, match="already closed"):
        connection.rollback()


def test_a_commit_that_finds_the_session_lost_says_so(connection: Any, postgres: Postgres) -> None:
    connection.autocommit = False
    lose(connection, postgres)
    with pytest.raises(theirs.OperationalError):
        connection.commit()
    assert connection.closed == 2


def test_the_error_of_a_with_block_is_the_loss_and_not_its_rollback(broker: Broker, postgres: Postgres) -> None:
    connection = dbapi.connect(broker.address, session=True)
    lose(connection, postgres)
    with pytest.raises(theirs.OperationalError), connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    assert connection.closed == 2


def test_without_a_session_a_rollback_makes_the_connection_usable_again(broker: Broker, postgres: Postgres) -> None:
    connection = dbapi.connect(broker.address)
    lose(connection, postgres)
    with pytest.raises(theirs.OperationalError):
        one(connection, "SELECT 1")
    assert connection.closed == 0
    connection.rollback()
    assert one(connection, "SELECT 1") == 1
    connection.close()


@pytest.mark.parametrize("session", ["true", "false"])
def test_sqlalchemy_connects_anew_behind_a_loss(broker: Broker, postgres: Postgres, session: str) -> None:
    engine = create_engine(f"postgresql+poold:///default?address={broker.address}&session={session}")
    with engine.connect() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar()
        postgres.execute("SELECT pg_terminate_backend(%s)", (pid,))
        with pytest.raises(OperationalError) as caught:
            connection.execute(text("SELECT 1"))
        assert caught.value.connection_invalidated
        connection.rollback()
        assert connection.execute(text("SELECT 1")).scalar() == 1
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 2")).scalar() == 2
    engine.dispose()


def test_a_clients_session_stays_lost_behind_a_rollback(broker: Broker, postgres: Postgres) -> None:
    session = broker.handler().session()
    postgres.execute("SELECT pg_terminate_backend(%s)", (session.query("SELECT pg_backend_pid()").scalar(),))
    with pytest.raises(theirs.OperationalError):
        session.query("SELECT 1")
    session.rollback()
    assert session.is_lost
    session.close()
    assert not session.is_lost
    assert session.query("SELECT 1").scalar() == 1
    session.close()


def test_a_session_is_not_lost_by_being_looked_at_from_another_thread(broker: Broker) -> None:
    connection = dbapi.connect(broker.address, session=True)
    cursor = connection.cursor()
    cursor.execute("CREATE TEMP TABLE looked_at (id int)")
    connection.commit()
    seen: set[object] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            seen.update((connection.closed, connection._own.is_lost))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(60):
            cursor.executemany("INSERT INTO looked_at VALUES (%s)", [(number,) for number in range(1500)])
            connection.commit()
            with suppress(extensions.QueryCanceledError):
                connection.cancel()  # which is refused if the session counts as lost
                cursor.execute("SELECT count(*) FROM looked_at")
            connection.rollback()
    finally:
        is_over.set()
        watcher.join()
    assert seen == {0}  # and False
    connection.close()
    assert connection.closed == 1


def test_a_broker_that_has_gone_is_seen_without_a_call(start_broker: StartBroker) -> None:
    broker = start_broker()
    connection = dbapi.connect(broker.address, session=True)
    connection.cursor().execute("SELECT 1")
    assert connection.closed == 0
    broker.kill()
    wait_until(lambda: connection.closed == 2, what="the session to count as lost")
    connection.close()
