"""Whatever way a statement goes from what was made with read_only=True, it writes nothing."""

import io
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2.errors
import pytest
from brokers import Broker
from postgres import Postgres

from client import dbapi

INSERT = "INSERT INTO kept VALUES (2) RETURNING id"
COPY_IN = "COPY kept FROM STDIN"
COPY_OUT = f"COPY ({INSERT}) TO STDOUT"


def begun(db: Any, way: Callable[[Any], Any], *, behind_a_read: bool = False) -> None:
    """Go this way in an interactive transaction, and commit."""
    with db:
        if behind_a_read:
            db.query("SELECT 1")
        way(db)


def copied_in(db: Any) -> None:
    db.copy_in(COPY_IN, "2\n")


def copied_out(db: Any) -> None:
    db.copy_out(COPY_OUT, io.StringIO())


def queried(db: Any) -> None:
    db.query(INSERT)


def streamed(db: Any) -> None:
    list(db.stream("SELECT kept_by_function()"))


def sent_together(db: Any) -> None:
    with db.transaction() as transaction:
        transaction.query("SELECT 1")
        transaction.query(INSERT)


BY_THEMSELVES: dict[str, Callable[[Any], Any]] = {
    "query": queried,
    "copy_in": copied_in,
    "copy_in with settings": lambda db: db.copy_in(COPY_IN, "2\n", settings={"work_mem": "1MB"}),
    "copy_in without data": lambda db: db.copy_in(COPY_IN, ""),
    "copy_out": copied_out,
    "stream": streamed,
    "transaction": sent_together,
    "run": lambda db: db.run([INSERT]),
}
IN_TRANSACTIONS: dict[str, Callable[[Any], Any]] = {
    "query": queried,
    "copy_in": copied_in,
    "copy_out": copied_out,
    "stream": streamed,
}
OF_CURSORS: dict[str, Callable[[Any], Any]] = {
    "execute": lambda cursor: cursor.execute(INSERT),
    "executemany": lambda cursor: cursor.executemany("INSERT INTO kept VALUES (%s)", [(2,), (3,)]),
    "executemany of one": lambda cursor: cursor.executemany("INSERT INTO kept VALUES (%s)", [(2,)]),
    "callproc": lambda cursor: cursor.callproc("kept_by_function"),
    "copy_from": lambda cursor: cursor.copy_from(io.StringIO("2\n"), "kept"),
    "copy_expert in": lambda cursor: cursor.copy_expert(COPY_IN, io.StringIO("2\n")),
    "copy_expert out": lambda cursor: cursor.copy_expert(COPY_OUT, io.StringIO()),
}


@pytest.fixture(scope="module")
def kept(postgres: Postgres) -> Iterator[Postgres]:
    """A server with a table that holds 1, and a function that writes there."""
    postgres.execute("CREATE TABLE kept (id int)")
    postgres.execute("INSERT INTO kept VALUES (1)")
    body = f"$$ {INSERT} $$"
    postgres.execute(f"CREATE FUNCTION kept_by_function() RETURNS int LANGUAGE sql AS {body}")
    yield postgres
    postgres.execute("DROP FUNCTION kept_by_function; DROP TABLE kept")


@pytest.fixture(scope="module", params=["one endpoint", "two addresses of the primary"])
def broker_of(request: pytest.FixtureRequest, kept: Postgres) -> Iterator[Broker]:
    names = ("a",) if request.param == "one endpoint" else ("a", "b")
    groups = {"default": {"max_size": 2}, "transactions": {"max_size": 2, "autocommit": False}}
    with closing(Broker(dict.fromkeys(names, kept.parameters), groups)) as broker:
        yield broker.start()


def refused(kept: Postgres, way: Callable[[], Any]) -> str:
    """Go this way, which PostgreSQL refuses as it writes; return its error's text."""
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction) as info:
        way()
    assert kept.execute("SELECT array_agg(id) FROM kept") == [([1],)]
    return str(info.value)


@pytest.mark.parametrize("way", BY_THEMSELVES.values(), ids=BY_THEMSELVES)
def test_a_statement_by_itself(broker_of: Broker, kept: Postgres, way: Callable[[Any], Any]) -> None:
    for _ in range(2):
        refused(kept, lambda: way(broker_of.handler(read_only=True)))
    way(broker_of.handler(read_only=False))
    kept.execute("DELETE FROM kept WHERE id <> 1")


@pytest.mark.parametrize("behind_a_read", [False, True], ids=["first", "behind a read"])
@pytest.mark.parametrize("way", IN_TRANSACTIONS.values(), ids=IN_TRANSACTIONS)
def test_in_an_interactive_transaction(
    broker_of: Broker, kept: Postgres, way: Callable[[Any], Any], behind_a_read: bool
) -> None:
    db = broker_of.handler("transactions", read_only=True)
    for _ in range(2):
        refused(kept, lambda: begun(db, way, behind_a_read=behind_a_read))
    begun(broker_of.handler("transactions"), way, behind_a_read=behind_a_read)
    kept.execute("DELETE FROM kept WHERE id <> 1")


def test_a_copy_says_why(broker_of: Broker, kept: Postgres) -> None:
    text = refused(kept, lambda: copied_in(broker_of.handler(read_only=True)))
    assert text.startswith("cannot execute COPY FROM in a read-only transaction")


def test_a_copy_that_reads_writes_its_sink(broker_of: Broker) -> None:
    sink = io.StringIO()
    broker_of.handler(read_only=True).copy_out("COPY kept TO STDOUT", sink)
    assert sink.getvalue() == "1\n"


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize(
    "characteristics",
    [{}, {"isolation_level": "SERIALIZABLE"}, {"deferrable": True}],
    ids=["usual", "serializable", "deferrable"],
)
@pytest.mark.parametrize("settings", [None, {"work_mem": "1MB"}], ids=["no settings", "settings"])
@pytest.mark.parametrize("way", OF_CURSORS.values(), ids=OF_CURSORS)
def test_a_connection(
    broker_of: Broker,
    kept: Postgres,
    way: Callable[[Any], Any],
    settings: Any,
    characteristics: Any,
    autocommit: bool,
) -> None:
    options = {"read_only": True, "autocommit": autocommit, "settings": settings}
    with closing(dbapi.connect(broker_of.address, **options)) as connection:
        if characteristics:
            connection.set_session(**characteristics)

        def go() -> None:
            with connection.cursor() as cursor:
                way(cursor)
            connection.commit()

        for _ in range(2):
            refused(kept, go)
            connection.rollback()


def test_a_named_cursor(broker_of: Broker, kept: Postgres) -> None:
    with closing(dbapi.connect(broker_of.address, read_only=True)) as connection:
        cursor = connection.cursor("rows")

        def go() -> None:
            cursor.execute("SELECT kept_by_function()")
            cursor.fetchall()

        refused(kept, go)


def test_a_transaction_of_two_phases(broker_of: Broker, kept: Postgres) -> None:
    with closing(dbapi.connect(broker_of.address, read_only=True)) as connection:
        connection.tpc_begin("kept")
        refused(kept, lambda: connection.cursor().copy_from(io.StringIO("2\n"), "kept"))
        connection.tpc_rollback()


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_connection_that_only_reads_has_characteristics(broker_of: Broker, autocommit: bool) -> None:
    with closing(dbapi.connect(broker_of.address, read_only=True, autocommit=autocommit)) as connection:
        connection.set_session(isolation_level="SERIALIZABLE", deferrable=True)
        cursor = connection.cursor()
        names = ("transaction_isolation", "transaction_read_only", "transaction_deferrable")
        for _ in range(2):
            cursor.execute(f"SELECT {', '.join(f'current_setting({name!r})' for name in names)}")
            assert cursor.fetchall() == [("serializable", "on", "on")]
            sink = io.StringIO()
            cursor.copy_to(sink, "kept")
            assert sink.getvalue() == "1\n"
            connection.commit()


@pytest.mark.parametrize("session", [False, True])
@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("way", OF_CURSORS.values(), ids=OF_CURSORS)
def test_a_connection_that_is_told_to_read_only(
    broker_of: Broker, kept: Postgres, way: Callable[[Any], Any], autocommit: bool, session: bool
) -> None:
    with closing(dbapi.connect(broker_of.address, autocommit=autocommit, session=session)) as connection:
        connection.set_session(readonly=True)
        refused(kept, lambda: way(connection.cursor()))


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_connection_whose_transactions_are_to_write_does(broker_of: Broker, kept: Postgres, autocommit: bool) -> None:
    with closing(dbapi.connect(broker_of.address, read_only=True, autocommit=autocommit)) as connection:
        connection.set_session(readonly=False)
        connection.cursor().copy_from(io.StringIO("2\n"), "kept")
        connection.cursor().execute("INSERT INTO kept VALUES (3)")
        connection.commit()
    assert kept.execute("DELETE FROM kept WHERE id <> 1 RETURNING id") == [(2,), (3,)]


def test_a_transaction_that_has_begun_to_read_stays_so(broker_of: Broker, kept: Postgres) -> None:
    db = broker_of.handler("transactions", read_only=True)
    db.query("SELECT 1")
    with pytest.raises(psycopg2.errors.ActiveSqlTransaction):
        db.query("SET TRANSACTION READ WRITE")
    db.rollback()
    assert kept.execute("SELECT array_agg(id) FROM kept") == [([1],)]


def test_a_session_may_write(broker_of: Broker, kept: Postgres) -> None:
    """It is on the primary, for temporary tables and the like, which a transaction that only reads cannot make."""
    with broker_of.handler(read_only=True).session() as session:
        session.query("CREATE TEMP TABLE chosen (id int)")
        session.copy_in("COPY chosen FROM STDIN", "2\n")
        session.query("INSERT INTO kept SELECT id FROM chosen")
    assert kept.execute("DELETE FROM kept WHERE id <> 1 RETURNING id") == [(2,)]
