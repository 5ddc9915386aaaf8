"""What is left of a connection whose backend is gone: of a session nothing, as with psycopg2; else it goes on."""

import io
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

from client import DBConnectionError, TransactionLost, UsageError, dbapi
from client.session import Session
from client.wire.messages import Step

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


def lose(connection: Any, postgres: Postgres, is_between: bool = False) -> None:
    """End the connection's backend, of which nobody tells the program; is_between: between two transactions."""
    pid = one(connection, "SELECT pg_backend_pid()")
    if is_between:
        connection.commit()
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


# Those that ask the server; psycopg2 knows what info says without asking.
ASKING: dict[str, Callable[[Any], Any]] = {
    "execute": lambda connection: one(connection, "SELECT 1"),
    "reset": lambda connection: connection.reset(),
    "tpc_recover": lambda connection: connection.tpc_recover(),
    "info": lambda connection: connection.info.dbname,
    "info.server_version": lambda connection: connection.info.server_version,
    "info.backend_pid": lambda connection: connection.info.backend_pid,
    "info.parameter_status": lambda connection: connection.info.parameter_status("TimeZone"),
    "get_parameter_status": lambda connection: connection.get_parameter_status("TimeZone"),
    "get_dsn_parameters": lambda connection: connection.get_dsn_parameters(),
    "get_backend_pid": lambda connection: connection.get_backend_pid(),
    "server_version": lambda connection: connection.server_version,
}
# Those that tell the backend how statements begin, which is done with autocommit.
TELLING: dict[str, Callable[[Any], Any]] = {
    "set_session": lambda connection: connection.set_session(readonly=True),
    "isolation_level": lambda connection: setattr(connection, "isolation_level", 2),
    "readonly": lambda connection: setattr(connection, "readonly", True),
    "deferrable": lambda connection: setattr(connection, "deferrable", True),
}
# Those that end the open transaction.
ENDING: dict[str, Callable[[Any], Any]] = {
    "commit": lambda connection: connection.commit(),
    "rollback": lambda connection: connection.rollback(),
    "reset": lambda connection: connection.reset(),
    "set_isolation_level": lambda connection: connection.set_isolation_level(2),
}
FINDING = [
    *((name, call, state) for name, call in ASKING.items() for state in ("begun", "between", "autocommit")),
    *((name, call, "autocommit") for name, call in TELLING.items()),
    *((name, call, "begun") for name, call in ENDING.items()),
]
LOCAL = ("info", "server_version", "get_parameter_status", "get_dsn_parameters", "get_backend_pid")


@pytest.mark.parametrize("whose", ["psycopg2", "ours", "ours-without-broker"])
@pytest.mark.parametrize(("name", "call", "state"), FINDING, ids=[f"{name}-{state}" for name, _, state in FINDING])
def test_the_first_call_that_finds_the_session_lost_raises_an_operational_error(
    broker: Broker, postgres: Postgres, whose: str, name: str, call: Any, state: str
) -> None:
    if whose == "psycopg2":
        if name.startswith(LOCAL):
            return  # it does not ask
        connection = postgres.connect()
    else:
        connection = dbapi.connect(broker.address, session=True)
    connection.autocommit = state == "autocommit"
    if whose == "ours-without-broker":
        one(connection, "SELECT 1")
        if state == "between":
            connection.commit()
        connection._own._lease._channel.close()  # type: ignore[attr-defined]  # ours
    else:
        lose(connection, postgres, is_between=state == "between")
    with pytest.raises(theirs.OperationalError):
        call(connection)
    assert connection.closed == 2
    with pytest.raises(theirs.InterfaceError, match="already closed"):
        one(connection, "SELECT 1")
    connection.close()


def test_what_a_lost_connection_was_is_known_still(broker: Broker, postgres: Postgres) -> None:
    connection, direct = dbapi.connect(broker.address, session=True), postgres.connect()
    for each in (connection, direct):
        version = each.server_version
        lose(each, postgres)
        with pytest.raises(theirs.OperationalError):
            one(each, "SELECT 1")
        assert (each.server_version, each.info.server_version, each.info.backend_pid) == (version, 0, 0)
        for name in ("get_backend_pid", "get_dsn_parameters", "get_parameter_status"):
            with pytest.raises(theirs.InterfaceError, match="already closed"):
                ASKING[name](each)
        each.close()
        assert each.server_version == version


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


@pytest.mark.parametrize("gone", ["backend", "broker"])
@pytest.mark.parametrize("mode", ["psycopg2", "session", "session-autocommit"])
@pytest.mark.parametrize("is_begun", [True, False], ids=["begun", "idle"])
def test_the_end_of_a_with_block_finds_the_loss_of_what_is_open(
    start_broker: StartBroker, postgres: Postgres, gone: str, mode: str, is_begun: bool
) -> None:
    broker = start_broker()
    if mode == "psycopg2":
        connection: Any = postgres.connect()
        connection.autocommit = False
    else:
        connection = dbapi.connect(broker.address, session=True, autocommit=mode == "session-autocommit")
    pid = one(connection, "SELECT pg_backend_pid()")
    connection.commit()
    own = LookupError("of the block")

    def block() -> None:
        if is_begun:
            one(connection, "SELECT 1")
        if gone == "backend" or mode == "psycopg2":
            lose_pid(postgres, pid)
        else:
            broker.kill()
            wait_until(lambda: connection.closed == 2, what="the session to count as lost")
        raise own

    with pytest.raises((theirs.OperationalError, LookupError)) as caught, connection:
        block()
    if is_begun:
        assert isinstance(caught.value, theirs.OperationalError)
        assert caught.value.__context__ is own
    else:
        assert caught.value is own
        with pytest.raises(theirs.OperationalError):
            one(connection, "SELECT 1")
    assert connection.closed == 2
    with pytest.raises(theirs.InterfaceError, match="already closed"):
        one(connection, "SELECT 1")
    connection.close()


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


def lost_session(broker: Broker, postgres: Postgres, begin: bool = True) -> Session:
    session = broker.handler().session()
    if begin:
        session.query("BEGIN")
    lose_pid(postgres, session.query("SELECT pg_backend_pid()").scalar())
    return session


def lose_pid(postgres: Postgres, pid: int) -> None:
    postgres.execute("SELECT pg_terminate_backend(%s)", (pid,))
    wait_until(lambda: not postgres.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)), what="its end")


OF_A_SESSION: dict[str, Callable[[Session], Any]] = {
    "query": lambda session: session.query("SELECT 1"),
    "query_prepared": lambda session: session.query_prepared(()),
    "copy_in": lambda session: session.copy_in("COPY pg_class FROM STDIN", ""),
    "copy_out": lambda session: session.copy_out("COPY pg_class TO STDOUT", io.BytesIO()),
    "commit": lambda session: session.commit(),
}


@pytest.mark.parametrize("begin", [True, False], ids=["begun", "idle"])
@pytest.mark.parametrize("first", ["query", "rollback", "commit"])
def test_a_clients_session_stays_lost_behind_a_rollback(
    broker: Broker, postgres: Postgres, first: str, begin: bool
) -> None:
    if not begin and first != "query":
        return  # which ask nobody
    session = lost_session(broker, postgres, begin)
    if first == "rollback":
        session.rollback()
    else:
        with pytest.raises(TransactionLost):
            OF_A_SESSION[first](session)
        assert session.in_transaction
        with pytest.raises(TransactionLost):
            session.commit()
    for call in (*OF_A_SESSION.values(), *OF_A_SESSION.values()):
        session.rollback()
        assert (session.in_transaction, session.is_lost, session.transaction_status) == (False, True, "lost")
        with pytest.raises(TransactionLost):
            call(session)
        assert (session.in_transaction, session.is_lost) == (False, True)
    session.close()
    assert session.is_lost


def test_the_block_of_a_session_whose_loss_is_acknowledged_ends_quietly(broker: Broker, postgres: Postgres) -> None:
    with broker.handler().session() as session:
        lose_pid(postgres, session.query("SELECT pg_backend_pid()").scalar())
        with pytest.raises(TransactionLost):
            session.query("SELECT 1")
        session.rollback()


def test_a_commit_says_that_the_broker_has_gone(start_broker: StartBroker) -> None:
    broker = start_broker()
    session = broker.handler().session()
    session.query("SELECT 1")
    broker.kill()
    wait_until(lambda: session.is_lost, what="the session to count as lost")
    for _ in range(2):
        with pytest.raises(DBConnectionError):
            session.commit()


@pytest.mark.parametrize("end", ["with", "close"])
def test_a_session_that_is_over_takes_no_other_backend(start_broker: StartBroker, end: str) -> None:
    broker = start_broker(groups={"default": {"max_size": 1}})
    session = broker.handler().session()
    if end == "with":
        with session:
            session.query("SELECT 1")
    else:
        with session:
            session.query("SELECT 1")
            session.close()
    calls: dict[str, Callable[[Session], Any]] = {
        **OF_A_SESSION,
        "rollback": lambda session: session.rollback(),
        "cancel": lambda session: session.cancel(),
        "stream": lambda session: session.stream("SELECT 1"),
        "enter": lambda session: session.__enter__(),
        "use_settings": lambda session: session.use_settings({"work_mem": "1MB"}),
        "autocommit": lambda session: setattr(session, "autocommit", False),
        "steps": lambda session: session._run_steps([Step(b"SELECT 1", b"", b"", False, (), 0, None)]),
    }
    for call in calls.values():
        with pytest.raises(UsageError, match=r"^this session is over; open another with db\.session\(\)$"):
            call(session)
    session.close()
    assert not session.in_transaction
    assert broker.handler().query("SELECT 1").scalar() == 1
    assert broker.pool()["leased"] == 0


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
