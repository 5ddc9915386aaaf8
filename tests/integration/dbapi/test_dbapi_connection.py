"""Connections of client.dbapi: where their statements run, how their transactions begin and end, what they refuse."""

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2 as theirs
import pytest
from brokers import Broker
from postgres import Postgres
from psycopg2 import extras
from waiting import wait_until

from client import dbapi as psycopg2
from client.dbapi import extensions, pool
from client.errors import DBConnectionError, TransactionLost, UnconfiguredGroupError

StartBroker = Callable[..., Broker]
Connect = Callable[..., Any]


@pytest.fixture
def connect(broker: Broker) -> Iterator[Connect]:
    """Makes connections to the session's broker, closed with the test."""
    made = []

    def connect(**options: Any) -> Any:
        made.append(psycopg2.connect(broker.address, **options))
        return made[-1]

    yield connect
    for connection in made:
        connection.close()


def one(connection: Any, statement: str, params: Any = None) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement, params)
        return cursor.fetchone()[0]


def test_the_module_is_a_module_of_the_standard() -> None:
    assert (psycopg2.apilevel, psycopg2.threadsafety, psycopg2.paramstyle) == ("2.0", 2, "pyformat")
    assert psycopg2.Error is theirs.Error
    assert extensions.ISOLATION_LEVEL_SERIALIZABLE == theirs.extensions.ISOLATION_LEVEL_SERIALIZABLE


@pytest.mark.parametrize(
    ("ours", "base", "inherited"),
    [
        (
            extensions.connection,
            theirs.extensions.connection,
            {"notices", "notifies", "cursor_factory", "string_types", "binary_types"},
        ),
        (
            extensions.cursor,
            theirs.extensions.cursor,
            {"arraysize", "itersize", "row_factory", "tzinfo_factory", "typecaster"}
            | {"string_types", "binary_types", "connection", "cast"},
        ),
    ],
)
def test_nothing_of_psycopg2s_that_would_speak_to_a_server_is_inherited(
    ours: type, base: type, inherited: set[str]
) -> None:
    exceptions = {name for name, found in vars(theirs).items() if isinstance(found, type)}
    names = {name for name in vars(base) if name not in ("__new__", "__init__", "__doc__")} - exceptions
    assert {name for name in names if getattr(ours, name) is getattr(base, name)} == inherited


def test_a_backend_is_held_from_the_first_statement_to_the_end_of_the_transaction(start_broker: StartBroker) -> None:
    broker = start_broker(groups={"one": {"autocommit": True, "max_size": 1}})
    first = psycopg2.connect(broker.address, group="one")
    second = psycopg2.connect(broker.address, group="one", autocommit=True)
    pid = one(first, "SELECT pg_backend_pid()")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(one, second, "SELECT pg_backend_pid()")
        assert one(first, "SELECT pg_backend_pid()") == pid
        assert not waiting.done()
        first.rollback()
        assert waiting.result() == pid
    assert one(first, "SELECT 1") == 1
    first.commit()
    assert one(second, "SELECT 2") == 2
    first.close()
    second.close()


@pytest.mark.parametrize("group", ["default", "transactions"])
@pytest.mark.parametrize("session", [False, True])
def test_transactions_begin_by_themselves_in_any_group(
    connect: Connect, postgres: Postgres, group: str, session: bool
) -> None:
    connection = connect(group=group, session=session)
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE begun_alone (id int)")
    assert connection.status == extensions.STATUS_BEGIN
    assert connection.get_transaction_status() == extensions.TRANSACTION_STATUS_INTRANS
    assert postgres.execute("SELECT to_regclass('begun_alone')") == [(None,)]
    connection.rollback()
    assert connection.status == extensions.STATUS_READY
    with pytest.raises(psycopg2.errors.UndefinedTable) as caught:
        cursor.execute("SELECT * FROM begun_alone")
    assert caught.value.cursor is cursor
    assert connection.get_transaction_status() == extensions.TRANSACTION_STATUS_INERROR
    connection.rollback()
    connection.autocommit = True
    cursor.execute("CREATE TABLE begun_alone (id int)")
    assert connection.get_transaction_status() == extensions.TRANSACTION_STATUS_IDLE
    assert postgres.execute("SELECT count(*) FROM begun_alone") == [(0,)]
    cursor.execute("DROP TABLE begun_alone")


@pytest.mark.parametrize("session", [False, True])
@pytest.mark.parametrize("autocommit", [False, True])
def test_each_transaction_has_the_connections_characteristics(
    connect: Connect, session: bool, autocommit: bool
) -> None:
    connection = connect(session=session, autocommit=autocommit)
    connection.set_session(isolation_level="SERIALIZABLE", readonly=True, deferrable=True)
    for _ in range(2):
        for name, value in (("isolation", "serializable"), ("read_only", "on"), ("deferrable", "on")):
            assert one(connection, f"SHOW transaction_{name}") == value
        connection.commit()
    connection.set_session(isolation_level="default", readonly=False, deferrable="default")
    assert (connection.isolation_level, connection.readonly, connection.deferrable) == (None, False, None)
    assert one(connection, "SHOW transaction_isolation") == "read committed"
    assert one(connection, "SHOW transaction_read_only") == "off"


def test_characteristics_change_outside_of_transactions_only(connect: Connect) -> None:
    connection = connect()
    one(connection, "SELECT 1")
    for change in ({"autocommit": True}, {"readonly": True}, {"isolation_level": 3}):
        with pytest.raises(psycopg2.ProgrammingError, match="inside a transaction"):
            connection.set_session(**change)
    with pytest.raises(psycopg2.ProgrammingError, match="inside a transaction"):
        connection.autocommit = True
    connection.set_isolation_level(extensions.ISOLATION_LEVEL_AUTOCOMMIT)
    assert connection.autocommit
    with pytest.raises(ValueError, match="between 0 and 4"):
        connection.set_isolation_level(5)


def test_what_cannot_be_sent_begins_no_transaction(connect: Connect) -> None:
    connection = connect()
    connection.isolation_level = "serializable"
    with pytest.raises(psycopg2.ProgrammingError, match="can't adapt"):
        one(connection, "SELECT %s", (object(),))
    assert connection.status == extensions.STATUS_READY


def test_a_session_keeps_what_outlives_transactions(connect: Connect) -> None:
    connection = connect(session=True)
    pid = connection.get_backend_pid()
    cursor = connection.cursor()
    cursor.execute("SET work_mem = '7MB'")
    cursor.execute("CREATE TEMP TABLE kept AS SELECT 5 AS n")
    connection.commit()
    assert one(connection, "SELECT n FROM kept") == 5
    assert one(connection, "SHOW work_mem") == "7MB"
    assert one(connection, "SELECT pg_backend_pid()") == pid
    connection.reset()
    assert one(connection, "SHOW work_mem") != "7MB"


def test_what_needs_a_session_says_how_to_get_one(connect: Connect) -> None:
    connection = connect(autocommit=True)
    for statement in ("SET work_mem = '7MB'", "LISTEN news", "CREATE TEMP TABLE chosen (id int)", "BEGIN"):
        with pytest.raises(psycopg2.InterfaceError, match="session=True"):
            one(connection, statement)
    with pytest.raises(psycopg2.NotSupportedError, match="session=True"):
        connection.get_backend_pid()
    with pytest.raises(psycopg2.NotSupportedError, match="session=True"):
        connection.cursor("held", withhold=True)


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("dbname=shop user=me password=secret", {}),
        ("postgresql://me:secret@db/shop", {}),
        (None, {"dbname": "shop", "password": "secret"}),
        (None, {"dsn": "dbname=shop password=secret"}),
        (None, {"host": "db", "port": 5432, "password": "secret"}),
    ],
)
def test_servers_are_not_named_by_programs(address: str | None, options: dict[str, Any]) -> None:
    with pytest.raises(psycopg2.ProgrammingError, match=r"group='\.\.\.'") as caught:
        psycopg2.connect(address, **options)
    assert "secret" not in str(caught.value)


def test_connect_says_at_once_what_is_not_there(broker: Broker) -> None:
    with pytest.raises(psycopg2.OperationalError) as caught:
        psycopg2.connect("ipc:///nowhere/poold.sock")
    assert isinstance(caught.value, DBConnectionError)
    with pytest.raises(psycopg2.OperationalError, match="it has default, transactions") as caught:
        psycopg2.connect(broker.address, group="none")
    assert isinstance(caught.value, UnconfiguredGroupError)
    with pytest.raises(psycopg2.NotSupportedError, match="to_thread"):
        psycopg2.connect(broker.address, async_=True)


def test_a_transaction_that_is_lost_ends_with_rollback_and_the_connection_goes_on(
    connect: Connect, postgres: Postgres
) -> None:
    connection = connect()
    pid = one(connection, "SELECT pg_backend_pid()")
    postgres.execute("SELECT pg_terminate_backend(%s)", (pid,))
    with pytest.raises(psycopg2.OperationalError):
        one(connection, "SELECT 1")
    with pytest.raises(TransactionLost):
        connection.commit()
    assert connection.get_transaction_status() == extensions.TRANSACTION_STATUS_UNKNOWN
    assert connection.closed == 0
    connection.rollback()
    assert one(connection, "SELECT 1") == 1


def test_a_session_that_is_lost_closes_its_connection(connect: Connect, postgres: Postgres) -> None:
    connection = connect(session=True, autocommit=True)
    postgres.execute("SELECT pg_terminate_backend(%s)", (connection.get_backend_pid(),))
    with pytest.raises(psycopg2.OperationalError):
        one(connection, "SELECT 1")
    assert connection.closed == 2


def test_threads_take_turns_on_a_connection(connect: Connect) -> None:
    connection = connect()
    one(connection, "CREATE TEMP TABLE turns (thread int); SELECT 1")

    def work(thread: int) -> None:
        cursor = connection.cursor()
        for _ in range(20):
            cursor.execute("INSERT INTO turns VALUES (%s)", (thread,))

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    assert one(connection, "SELECT count(*) FROM turns") == 120
    connection.rollback()


def test_each_step_of_a_transaction_may_run_in_another_thread(connect: Connect) -> None:
    async def steps() -> Any:
        connection = await asyncio.to_thread(connect)
        pids = [await asyncio.to_thread(one, connection, "SELECT pg_backend_pid()") for _ in range(5)]
        await asyncio.to_thread(connection.commit)
        return pids

    assert len(set(asyncio.run(steps()))) == 1


@pytest.mark.parametrize("autocommit", [False, True])
def test_another_thread_cancels(connect: Connect, postgres: Postgres, autocommit: bool) -> None:
    connection = connect(autocommit=autocommit)

    def is_asleep() -> bool:
        return any("pg_sleep(987)" in row["query"] and row["state"] == "active" for row in postgres.backends())

    def cancel() -> None:
        wait_until(is_asleep, 30, "a statement that sleeps")
        connection.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(psycopg2.errors.QueryCanceled):
        one(connection, "SELECT pg_sleep(987)")
    canceller.join()
    connection.rollback()


def test_notices_are_kept_the_newest_last(connect: Connect) -> None:
    connection = connect()
    for number in range(60):
        connection.cursor().execute(f"DO $$ BEGIN RAISE NOTICE 'number {number}'; END $$")
    assert connection.notices == [f"NOTICE:  number {number}\n" for number in range(10, 60)]
    connection.notices = None
    connection.cursor().execute("DO $$ BEGIN RAISE NOTICE 'unheard'; END $$")


def test_the_server_tells_what_it_is(connect: Connect, postgres: Postgres) -> None:
    connection = connect()
    ((version,),) = postgres.execute("SELECT current_setting('server_version_num')::int")
    assert connection.server_version == connection.info.server_version == version
    assert connection.info.dbname == postgres.parameters["dbname"]
    assert connection.get_dsn_parameters() == {"dbname": connection.info.dbname, "user": connection.info.user}
    assert connection.status == extensions.STATUS_READY
    connection.cursor().execute("SET LOCAL TimeZone = 'Asia/Tokyo'")
    assert connection.get_parameter_status("TimeZone") == "Asia/Tokyo"
    connection.rollback()
    assert connection.get_parameter_status("TimeZone") != "Asia/Tokyo"
    assert connection.get_parameter_status("work_mem") is None
    connection.set_client_encoding("utf-8")
    with pytest.raises(psycopg2.NotSupportedError, match="UTF8"):
        connection.set_client_encoding("LATIN1")
    for refused in (connection.fileno, connection.poll, connection.lobject, connection.get_native_connection):
        with pytest.raises(psycopg2.NotSupportedError):
            refused()


def test_a_closed_connection_does_nothing_more(connect: Connect) -> None:
    connection = connect()
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    connection.close()
    connection.close()
    assert connection.closed == 1
    assert cursor.closed
    for call in (connection.commit, connection.rollback, connection.cursor, connection.cancel, cursor.fetchone):
        with pytest.raises(psycopg2.InterfaceError, match="connection already closed"):
            call()


def test_a_connection_that_nobody_refers_to_rolls_back(connect: Connect, broker: Broker) -> None:
    other = connect(autocommit=True)
    connection = psycopg2.connect(broker.address)
    assert one(connection, "SELECT pg_try_advisory_xact_lock(4711)")
    assert one(other, "SELECT pg_try_advisory_xact_lock(4711)") is False
    del connection
    gc.collect()
    wait_until(lambda: one(other, "SELECT pg_try_advisory_xact_lock(4711)"), 30, "the end of the transaction")


def test_a_child_of_a_fork_goes_on_with_a_transaction_of_its_own(connect: Connect) -> None:
    connection = connect()
    assert one(connection, "SELECT 1") == 1
    connection.commit()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if one(connection, "SELECT 2") == 2 else 1
            connection.commit()
            connection.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert one(connection, "SELECT 3") == 3


def test_classes_derived_from_psycopg2s_own_work_here(connect: Connect) -> None:
    class Mine(theirs.extensions.connection):
        def commit(self) -> None:
            said.append("commit")
            super().commit()

    said: list[str] = []
    connection = connect(connection_factory=Mine, cursor_factory=extras.RealDictCursor)
    assert isinstance(connection, Mine)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 AS a, 'x' AS b")
        assert cursor.fetchall() == [{"a": 1, "b": "x"}]
    assert said == ["commit"]
    with connection.cursor(cursor_factory=extras.NamedTupleCursor) as cursor:
        cursor.execute("SELECT 1 AS a")
        assert cursor.fetchone().a == 1
    with connection.cursor(cursor_factory=theirs.extensions.cursor) as cursor:
        cursor.execute("SELECT 1 AS a")
        assert cursor.fetchone() == (1,)
    with pytest.raises(TypeError, match="must be subclass"):
        connection.cursor(cursor_factory=lambda *_: object())


def test_pools_give_connections_of_this_package(broker: Broker) -> None:
    connections = pool.ThreadedConnectionPool(1, 2, broker.address, group="default")
    first, second = connections.getconn(), connections.getconn()
    assert one(first, "SELECT 1") == one(second, "SELECT 1") == 1
    with pytest.raises(pool.PoolError, match="exhausted"):
        connections.getconn()
    connections.putconn(first)
    assert first.status == extensions.STATUS_READY
    connections.closeall()
    assert second.closed


def test_a_child_closes_what_its_parent_goes_on_with(connect: Connect) -> None:
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        pid = os.fork()
        if not pid:
            status = 1
            try:
                connection.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        cursor.execute("SELECT 2")
        assert cursor.fetchone() == (2,)
