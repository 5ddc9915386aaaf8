"""Two-phase commits that lose what they are sent through: what is prepared stays, and the errors say so."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2 as theirs
import pytest
from brokers import Broker
from postgres import Postgres
from waiting import wait_until

from client import CommitOutcomeUnknown, DBError, TransactionLost, dbapi
from client.errors import error_from
from client.wire.messages import plain_failure

StartBroker = Callable[..., Broker]

BACKENDS = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
TABLE = """
    DROP TABLE IF EXISTS kept, slow;
    CREATE TABLE kept (id int);
    CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;
    CREATE TABLE slow (id int);
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION slow();
"""


@pytest.fixture
def server(preparing_postgres: Postgres) -> Postgres:
    """A server that prepares transactions, and has none prepared."""
    preparing_postgres.execute("ALTER SYSTEM RESET synchronous_standby_names")
    preparing_postgres.execute("SELECT pg_reload_conf()")
    for gid in prepared(preparing_postgres):
        preparing_postgres.execute("ROLLBACK PREPARED %s", (gid,))
    preparing_postgres.execute(TABLE)
    return preparing_postgres


@pytest.fixture
def broker(server: Postgres, start_broker: StartBroker) -> Broker:
    return start_broker({"main": server.parameters})


@pytest.fixture(params=["plain", "session"])
def connection(request: pytest.FixtureRequest, broker: Broker) -> Iterator[Any]:
    made = dbapi.connect(broker.address, session=request.param == "session")
    yield made
    made.close()


def begun(connection: Any, table: str = "kept") -> str:
    """Begin a transaction and return its identifier's text."""
    xid = connection.xid(1, "orphan", "b")
    connection.tpc_begin(xid)
    connection.cursor().execute(f"INSERT INTO {table} VALUES (1)")
    return str(xid)


def prepared(server: Postgres) -> list[str]:
    return [gid for (gid,) in server.execute("SELECT gid FROM pg_prepared_xacts")]


def kill(server: Postgres) -> None:
    """End the backends that there are."""
    pids = [pid for (pid,) in server.execute(BACKENDS)]
    server.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", (pids,))
    wait_until(lambda: not server.execute(f"{BACKENDS} AND pid = ANY (%s::int[])", (pids,)), what="their end")


def while_it_waits(server: Postgres, call: Callable[[], object], end: Callable[[], object], wait: str) -> DBError:
    """Return the error of a call if this end comes while the call waits in the server for such an event."""
    caught: list[DBError] = []

    def run() -> None:
        with pytest.raises(DBError) as error:
            call()
        caught.append(error.value)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(
        lambda: server.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = %s", (wait,)), what="the call to wait"
    )
    end()
    thread.join()
    return caught[0]


def assert_is_not_to_be_repeated(error: DBError, gid: str) -> None:
    assert gid in str(error)
    assert (error.outcome, error.is_safe_to_repeat, error.retryable) == ("unknown", False, False)
    assert isinstance(error, theirs.OperationalError)
    assert not isinstance(error, TransactionLost)
    assert "rolled back:" not in str(error)


@pytest.mark.parametrize("ending", ["tpc_commit", "tpc_rollback"])
@pytest.mark.parametrize("gone", ["backend", "broker"])
def test_what_is_prepared_waits_behind_a_loss(
    connection: Any, server: Postgres, broker: Broker, gone: str, ending: str
) -> None:
    gid = begun(connection)
    connection.tpc_prepare()
    if gone == "broker":
        broker.kill()
    kill(server)
    if connection.is_session or gone == "broker":
        with pytest.raises(DBError) as caught:
            getattr(connection, ending)()
        assert_is_not_to_be_repeated(caught.value, gid)
        assert "tpc_commit" in str(caught.value)
        assert prepared(server) == [gid]
        if gone == "broker":
            broker.start()
    if connection.is_session:
        assert connection.closed == 2
        with pytest.raises(theirs.InterfaceError, match="is prepared, and waits for tpc_commit"):
            connection.tpc_rollback()
        other = dbapi.connect(broker.address)
        (xid,) = other.tpc_recover()
        assert str(xid) == gid
        getattr(other, ending)(xid)
        other.close()
    else:
        getattr(connection, ending)()
        assert connection.status == theirs.extensions.STATUS_READY
    assert prepared(server) == []
    assert len(server.execute("SELECT * FROM kept")) == (ending == "tpc_commit")


@pytest.mark.parametrize("call", ["reset", "info", "close"])
def test_other_calls_tell_of_the_prepared_transaction_too(connection: Any, server: Postgres, call: str) -> None:
    gid = begun(connection)
    connection.tpc_prepare()
    kill(server)
    calls: dict[str, Callable[[], Any]] = {
        "reset": connection.reset, "info": lambda: connection.info.dbname, "close": connection.close,
    }  # fmt: skip
    if connection.is_session and call != "close":
        with pytest.raises(DBError) as caught:
            calls[call]()
        assert_is_not_to_be_repeated(caught.value, gid)
    else:
        calls[call]()
    assert prepared(server) == [gid]


def test_a_loss_before_prepare_is_a_rollback(connection: Any, server: Postgres) -> None:
    begun(connection)
    kill(server)
    with pytest.raises(TransactionLost) as caught:
        connection.tpc_prepare()
    assert caught.value.retryable
    assert "call rollback()" not in str(caught.value)
    if not connection.is_session:
        assert "call tpc_rollback()" in str(caught.value)
        connection.tpc_rollback()
        connection.cursor().execute("SELECT 1")
    assert prepared(server) == []


@pytest.mark.parametrize("ending", ["tpc_commit", "tpc_rollback"])
@pytest.mark.parametrize("gone", ["backend", "broker"])
def test_a_prepare_that_is_not_answered_may_have_prepared(
    connection: Any, server: Postgres, broker: Broker, gone: str, ending: str
) -> None:
    gid = begun(connection, "slow")

    def end() -> None:
        if gone == "broker":
            broker.kill()
        kill(server)

    error = while_it_waits(server, connection.tpc_prepare, end, "PgSleep")
    assert_is_not_to_be_repeated(error, gid)
    assert isinstance(error, CommitOutcomeUnknown)
    assert "tpc_recover()" in str(error)
    if connection.is_session:
        with pytest.raises(theirs.InterfaceError, match="is not known: look for it by tpc_recover"):
            connection.tpc_commit()
        return
    if gone == "broker":
        broker.start()
    with pytest.raises(theirs.ProgrammingError, match="is not known; call tpc_commit"):
        connection.tpc_prepare()
    if ending == "tpc_commit":
        with pytest.raises(theirs.errors.UndefinedObject):
            connection.tpc_commit()
    else:
        connection.tpc_rollback()
    assert connection.status == theirs.extensions.STATUS_READY
    begun(connection)
    connection.tpc_commit()
    assert server.execute("SELECT * FROM kept") == [(1,)]


def test_a_prepare_whose_answer_is_lost_is_ended_by_the_same_connection(
    broker: Broker, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = dbapi.connect(broker.address)
    gid = begun(connection)
    run = type(connection).run

    def interrupted(*arguments: Any) -> None:
        run(*arguments)
        connection._own._lease.is_in_doubt = True
        raise KeyboardInterrupt

    monkeypatch.setattr(type(connection), "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        connection.tpc_prepare()
    monkeypatch.undo()
    assert prepared(server) == [gid]
    connection.tpc_rollback()
    assert prepared(server) == []
    connection.close()


@pytest.fixture
def no_answer(server: Postgres) -> Callable[[], None]:
    """COMMIT PREPARED and ROLLBACK PREPARED wait for a standby that there is not."""

    def apply() -> None:
        server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        server.execute("SELECT pg_reload_conf()")
        shown = "SHOW synchronous_standby_names"
        wait_until(lambda: server.execute(shown) == [("nobody",)], what="the setting")

    return apply


def answer(server: Postgres) -> None:
    server.execute("ALTER SYSTEM RESET synchronous_standby_names")
    server.execute("SELECT pg_reload_conf()")


def prepare(connection: Any, way: str) -> tuple[str, tuple[Any, ...]]:
    """Prepare a transaction; return its identifier's text, and the arguments that end it this way."""
    gid = begun(connection)
    connection.tpc_prepare()
    if way == "own":
        return gid, ()
    connection.reset()  # leaves it to others
    (xid,) = connection.tpc_recover()
    return gid, (xid,)


@pytest.mark.parametrize("way", ["own", "by xid"])
@pytest.mark.parametrize("ending", ["tpc_commit", "tpc_rollback"])
def test_an_end_that_is_not_answered_is_unknown(
    connection: Any, server: Postgres, no_answer: Callable[[], None], ending: str, way: str
) -> None:
    gid, xids = prepare(connection, way)
    no_answer()
    error = while_it_waits(server, lambda: getattr(connection, ending)(*xids), lambda: kill(server), "SyncRep")
    assert_is_not_to_be_repeated(error, gid)
    assert "or prepared still" in str(error)
    assert isinstance(error, CommitOutcomeUnknown) == (ending == "tpc_commit")
    answer(server)
    if connection.is_session:
        done = "committed" if ending == "tpc_commit" else "rolled back"
        for call in (connection.rollback, connection.tpc_rollback, connection.cursor, connection.tpc_recover):
            with pytest.raises(theirs.InterfaceError, match=f"{gid}' may be {done}, or prepared still: look for it"):
                call()
    else:
        with pytest.raises(theirs.errors.UndefinedObject):  # so it has ended
            getattr(connection, ending)(*xids)
        assert connection.status == theirs.extensions.STATUS_READY


@pytest.mark.parametrize("way", ["own", "by xid"])
@pytest.mark.parametrize("ending", ["tpc_commit", "tpc_rollback"])
def test_an_end_that_is_answered_by_the_backends_end_is_unknown(
    broker: Broker, server: Postgres, ending: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = dbapi.connect(broker.address)
    gid, xids = prepare(connection, way)
    text = "terminating connection due to administrator command\n"
    # What the broker says of a backend that is ended when it is about to run the statement, or has just run it.
    shutdown = plain_failure("connection", "failed", text, sqlstate="57P01")._replace(request=1)

    def ended(*_: object) -> None:
        raise error_from(shutdown)

    for _ in range(2):
        monkeypatch.setattr(connection._by_itself, "query", ended)
        with pytest.raises(DBError) as caught:
            getattr(connection, ending)(*xids)
        assert_is_not_to_be_repeated(caught.value, gid)
        assert "administrator command): the" in str(caught.value)
        assert "prepared still; look for it by tpc_recover()" in str(caught.value)
        if not xids:
            with pytest.raises(DBError) as caught:
                connection.ask("SELECT 1")
            assert_is_not_to_be_repeated(caught.value, gid)
            assert "or prepared still" in str(caught.value)
        monkeypatch.undo()
    getattr(connection, ending)(*xids)
    assert prepared(server) == []
    connection.close()


@pytest.mark.parametrize("way", ["own", "by xid"])
def test_an_end_that_is_interrupted_is_unknown_in_a_session(
    broker: Broker, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = dbapi.connect(broker.address, session=True)
    gid, xids = prepare(connection, way)

    def interrupted(*_: object) -> None:
        connection._own._lease.lose(is_in_doubt=False)
        raise KeyboardInterrupt

    monkeypatch.setattr(connection._own, "query", interrupted)
    with pytest.raises(KeyboardInterrupt):
        connection.tpc_commit(*xids)
    monkeypatch.undo()
    with pytest.raises(theirs.InterfaceError, match=f"{gid}' may be committed, or prepared still"):
        connection.cursor()
    connection.close()


def test_an_end_by_xid_that_cannot_be_sent_names_the_transaction(broker: Broker, server: Postgres) -> None:
    connection = dbapi.connect(broker.address, connect_wait=0)
    gid, (xid,) = prepare(connection, "by xid")
    broker.kill()
    with pytest.raises(DBError) as caught:
        connection.tpc_commit(xid)
    assert_is_not_to_be_repeated(caught.value, gid)
    broker.start()
    connection.tpc_commit(xid)
    assert prepared(server) == []
    connection.close()


def test_a_failed_transaction_is_not_prepared(connection: Any, server: Postgres) -> None:
    begun(connection)
    with pytest.raises(theirs.errors.DivisionByZero):
        connection.cursor().execute("SELECT 1 / 0")
    with pytest.raises(theirs.errors.InFailedSqlTransaction, match="nothing is prepared"):
        connection.tpc_prepare()
    assert connection.status == theirs.extensions.STATUS_BEGIN
    connection.tpc_rollback()
    assert connection.status == theirs.extensions.STATUS_READY
