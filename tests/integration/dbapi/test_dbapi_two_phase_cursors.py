"""Cursors behind tpc_prepare(): rows that have come can be read, and a named cursor has ended with its transaction."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg2 as theirs
import pytest
from brokers import Broker
from postgres import Postgres

from client import dbapi

StartBroker = Callable[..., Broker]


@pytest.fixture
def server(preparing_postgres: Postgres) -> Postgres:
    return preparing_postgres


@pytest.fixture
def broker(server: Postgres, start_broker: StartBroker) -> Broker:
    server.execute("DROP TABLE IF EXISTS kept; CREATE TABLE kept (id int)")
    return start_broker({"main": server.parameters})


@pytest.fixture(params=["psycopg2", "plain", "session"])
def connection(request: pytest.FixtureRequest, server: Postgres, broker: Broker) -> Iterator[Any]:
    """A connection in a two-phase transaction."""
    if request.param == "psycopg2":
        made = server.connect()
        made.autocommit = False
    else:
        made = dbapi.connect(broker.address, session=request.param == "session")
    made.tpc_begin(made.xid(1, "cursors", "b"))
    yield made
    made.close()
    for (gid,) in server.execute("SELECT gid FROM pg_prepared_xacts"):
        server.execute("ROLLBACK PREPARED %s", (gid,))


READS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "fetchone": (lambda cursor: [cursor.fetchone(), cursor.fetchone(), cursor.fetchone()], [(1,), (2,), None]),
    "fetchmany": (lambda cursor: cursor.fetchmany(1), [(1,)]),
    "fetchall": (lambda cursor: cursor.fetchall(), [(1,), (2,)]),
    "iteration": (list, [(1,), (2,)]),
    "scroll": (lambda cursor: (cursor.scroll(1), cursor.fetchone())[1], (2,)),
}


@pytest.mark.parametrize("read", READS)
def test_rows_that_have_come_are_read_behind_prepare(connection: Any, read: str) -> None:
    cursor = connection.cursor()
    cursor.execute("INSERT INTO kept VALUES (1), (2) RETURNING id")
    connection.tpc_prepare()
    call, expected = READS[read]
    assert call(cursor) == expected
    with pytest.raises(theirs.ProgrammingError, match="prepared two-phase transaction"):
        cursor.execute("SELECT 1")
    connection.tpc_commit()


def named(connection: Any) -> Any:
    connection.cursor().execute("INSERT INTO kept VALUES (1)")
    cursor = connection.cursor("rows")
    cursor.execute("SELECT generate_series(1, 10)")
    cursor.fetchone()
    return cursor


def assert_can_end(connection: Any, server: Postgres, ending: str) -> None:
    """Assert that the prepared transaction is ended by this connection, which has begun no other one."""
    extensions = theirs.extensions
    assert connection.status == extensions.STATUS_PREPARED
    assert connection.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE
    getattr(connection, ending)()
    assert server.execute("SELECT gid FROM pg_prepared_xacts") == []
    assert len(server.execute("SELECT * FROM kept")) == (ending == "tpc_commit")
    assert connection.status == extensions.STATUS_READY
    connection.cursor().execute("SELECT 1")


@pytest.mark.parametrize("ending", ["tpc_commit", "tpc_rollback"])
def test_a_named_cursor_is_closed_behind_prepare_without_a_transaction(
    connection: Any, server: Postgres, ending: str
) -> None:
    cursor = named(connection)
    connection.tpc_prepare()
    for _ in range(2):
        with pytest.raises(theirs.ProgrammingError, match="isn't valid anymore"):
            cursor.close()
    assert_can_end(connection, server, ending)


def test_a_block_of_a_named_cursor_ends_behind_prepare_without_a_transaction(connection: Any, server: Postgres) -> None:
    with pytest.raises(theirs.ProgrammingError, match="isn't valid anymore"), named(connection):
        connection.tpc_prepare()
    assert_can_end(connection, server, "tpc_commit")


@pytest.mark.parametrize("call", ["fetchone", "fetchmany", "fetchall", "__next__", "scroll"])
def test_a_named_cursor_is_not_read_behind_prepare(connection: Any, server: Postgres, call: str) -> None:
    cursor = named(connection)
    connection.tpc_prepare()
    with pytest.raises(theirs.ProgrammingError):
        getattr(cursor, call)(*((1,) if call == "scroll" else ()))
    assert_can_end(connection, server, "tpc_commit")


def test_a_named_cursor_that_was_not_executed_is_closed_behind_prepare(connection: Any, server: Postgres) -> None:
    cursor = connection.cursor("never")
    connection.cursor().execute("INSERT INTO kept VALUES (1)")
    connection.tpc_prepare()
    cursor.close()
    assert_can_end(connection, server, "tpc_commit")


@pytest.mark.parametrize("session", [False, True])
def test_a_named_cursor_closed_behind_an_end_in_a_statement_begins_no_transaction(
    broker: Broker, server: Postgres, session: bool
) -> None:
    connection = dbapi.connect(broker.address, session=session)
    cursor = named(connection)
    connection.cursor().execute("COMMIT")
    cursor.close()
    assert cursor.closed
    assert connection.get_transaction_status() == theirs.extensions.TRANSACTION_STATUS_IDLE
    connection.close()
