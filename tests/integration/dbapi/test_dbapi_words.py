"""What errors advise can be done by the program that reads it, and what a connection shows while it is in a call."""

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2 as theirs
import pytest
from brokers import Broker
from postgres import Postgres
from psycopg2 import extensions
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from waiting import wait_until

from client import DBError, dbapi

StartBroker = Callable[..., Broker]
# Words of the Handler's that mean nothing to a program with connections.
STRANGE = ("Handler", "db.", "query()", "copy_in", "copy_out", "timeout=...", "open another")


def told(call: Callable[[], object]) -> str:
    with pytest.raises(theirs.Error) as caught:
        call()
    assert not [word for word in STRANGE if word in str(caught.value)]
    return str(caught.value)


@pytest.fixture(params=["plain", "session", "autocommit", "session-autocommit"])
def connection(request: pytest.FixtureRequest, broker: Broker) -> Iterator[Any]:
    words = request.param.split("-")
    made = dbapi.connect(broker.address, session="session" in words, autocommit="autocommit" in words)
    yield made
    made.close()


def lose(connection: Any, postgres: Postgres) -> None:
    cursor = connection.cursor()
    cursor.execute("SELECT pg_backend_pid()")
    (pid,) = cursor.fetchone()
    postgres.execute("SELECT pg_terminate_backend(%s)", (pid,))
    wait_until(lambda: not postgres.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)), what="its end")


CALLS: dict[str, Callable[[Any], Any]] = {
    "execute": lambda connection: connection.cursor().execute("SELECT 1"),
    "executemany": lambda connection: connection.cursor().executemany("SELECT %s", [(1,), (2,)]),
    "commit": lambda connection: connection.commit(),
    "tpc_recover": lambda connection: connection.tpc_recover(),
    "get_backend_pid": lambda connection: connection.get_backend_pid(),
    "info": lambda connection: connection.info.dbname,
    "reset": lambda connection: connection.reset(),
    "rollback": lambda connection: connection.rollback(),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_call_says_the_same_of_a_lost_session(broker: Broker, postgres: Postgres, name: str) -> None:
    connection = dbapi.connect(broker.address, session=True)
    lose(connection, postgres)
    assert told(lambda: CALLS[name](connection)).endswith("; connect anew")
    connection.close()


@pytest.mark.parametrize("session", [True, False])
def test_an_interrupted_commit_says_how_to_go_on(
    broker: Broker, session: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = dbapi.connect(broker.address, session=session)
    connection.cursor().execute("SELECT 1")
    connection._own._lease.lose(is_in_doubt=True)
    text = told(connection.commit)
    assert text.endswith("; connect anew" if session else "; call rollback() to go on with this connection")
    connection.close()


def test_a_loss_in_two_phases_says_tpc_rollback(broker: Broker, postgres: Postgres) -> None:
    connection = dbapi.connect(broker.address)
    connection.tpc_begin("lost")
    lose(connection, postgres)
    assert "call tpc_rollback()" in told(lambda: connection.cursor().execute("SELECT 1"))
    assert "call tpc_rollback()" in told(connection.tpc_commit)
    connection.tpc_rollback()
    lose(connection, postgres)
    assert "call rollback()" in told(lambda: connection.cursor().execute("SELECT 1"))
    connection.rollback()


@pytest.mark.parametrize("session", [True, False])
def test_a_forked_child_is_told_to_connect(broker: Broker, session: bool) -> None:
    connection = dbapi.connect(broker.address, session=session)
    connection.cursor().execute("SELECT 1")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            connection.cursor().execute("SELECT 1")
        except BaseException as error:  # noqa: BLE001  told to the parent
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as heard:
        said = heard.read()
    os.waitpid(child, 0)
    assert "connect anew in the child" in said
    assert "Handler" not in said
    connection.close()


WANTS_SESSION = (
    "SET work_mem = '2MB'",
    "CREATE TEMP TABLE mine (id int)",
    "SELECT pg_advisory_unlock(1)",
    "SELECT lastval()",
)


def test_an_engine_is_told_of_its_url(broker: Broker) -> None:
    engine = create_engine(f"postgresql+poold:///default?address={broker.address}", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in (*WANTS_SESSION, "BEGIN"):
            with pytest.raises(DBAPIError) as caught:
                connection.execute(text(statement))
            said = str(caught.value.orig)
            assert "?session=true" in said
            assert "connect(..., session" not in said
            assert "connect with" not in said
        with pytest.raises(theirs.NotSupportedError, match=r"\?session=true"):
            connection.connection.get_backend_pid()  # type: ignore[attr-defined]  # the driver's
    engine.dispose()
    given = create_engine(
        f"postgresql+poold:///default?address={broker.address}", connect_args={"options": "-c search_path=app"}
    )
    with pytest.raises(DBAPIError, match=r"settings=\{'search_path': 'app'\}"):
        given.connect()


def test_a_message_of_postgresqls_is_left_alone(connection: Any) -> None:
    words = "call rollback(); open another session or make a new Handler in the child"
    with pytest.raises(DBError) as caught:
        connection.cursor().execute("DO $$ BEGIN RAISE EXCEPTION '" + words + "'; END $$")
    assert words in str(caught.value)


# While a call is under way.


def test_status_while_a_call_is_under_way_is_psycopg2s(connection: Any, postgres: Postgres) -> None:
    direct = postgres.connect()
    direct.autocommit = connection.autocommit
    keys = iter(range(4))
    for _ in range(2):  # without a transaction, and in it
        seen = []
        for each in (direct, connection):
            cursor, key = each.cursor(), next(keys)
            thread = threading.Thread(target=cursor.execute, args=("SELECT pg_advisory_xact_lock(77, %s)", (key,)))
            holder = postgres.connect()
            holder.cursor().execute("SELECT pg_advisory_lock(77, %s)", (key,))
            thread.start()
            waits = f"SELECT 1 FROM pg_locks WHERE classid = 77 AND objid = {key} AND NOT granted"
            wait_until(lambda waits=waits: postgres.execute(waits), what="the call to wait")
            during = (each.status, each.get_transaction_status(), each.info.transaction_status)
            holder.close()
            thread.join()
            seen.append((*during, each.status, each.get_transaction_status()))
        assert seen[0] == seen[1]
        assert seen[1][1] == extensions.TRANSACTION_STATUS_ACTIVE
    direct.close()
