"""A Handler's own settings in transactions and sessions: there from the beginning, and in nobody's way."""

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import psycopg2.errors
import pytest
from brokers import Broker
from postgres import Postgres

from client import Handler, UsageError, dbapi
from client.executor import Executor

EVERY_TRANSPORT = True
SETTINGS = {"work_mem": "5MB", "my.own": "a, 'b'; %s"}
CLEAN_UP = "DROP TABLE IF EXISTS set_in_leases"


def shown(executor: Executor, name: str = "work_mem") -> Any:
    return executor.query("SELECT current_setting(%s)", (name,)).scalar()


@pytest.fixture(params=["transaction", "session", "session with autocommit", "session that begins"])
def lease(request: pytest.FixtureRequest, broker: Broker) -> Iterator[Executor]:
    """Something that keeps a backend, with SETTINGS; nothing has run there."""
    way = request.param
    group = "default" if "autocommit" in way or "begins" in way else "transactions"
    handler = broker.handler(group, settings=SETTINGS)
    if way == "transaction":
        yield handler
        handler.rollback()
        return
    with handler.session() as session:
        if "begins" in way:
            session.query("BEGIN")
        yield session
        session.rollback()


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "behind another"])
@pytest.mark.parametrize(
    "statement",
    [
        "SAVEPOINT a",
        "SELECT 1; SELECT 2",
        "/* a */ savepoint b; SELECT 1",
        "CREATE TEMP TABLE t (a int)",
        "SHOW my.own",
    ],
)
def test_any_statement_runs_and_they_hold(lease: Executor, statement: str, is_first: bool) -> None:
    if not is_first:
        lease.query("SELECT 1")
    try:
        lease.query(statement)
    except psycopg2.errors.NoActiveSqlTransaction:
        assert "savepoint" in statement.lower()  # in a session that has no transaction open
        assert lease.transaction_status == "none"
    assert (shown(lease), shown(lease, "my.own")) == ("5MB", "a, 'b'; %s")


def test_what_the_program_sets_stays(lease: Executor) -> None:
    lease.query("SELECT 1")
    word = "SET" if lease.transaction_status == "none" else "SET LOCAL"
    lease.query(f"{word} work_mem = '6MB'")
    assert [shown(lease) for _ in range(3)] == ["6MB"] * 3
    assert lease.query("SELECT current_setting('work_mem')", settings={"work_mem": "7MB"}).scalar() == "7MB"
    if lease.transaction_status == "active":
        lease.query("SAVEPOINT a")
        lease.query("SET LOCAL work_mem = '8MB'")
        lease.query("ROLLBACK TO SAVEPOINT a")
        assert (shown(lease), shown(lease, "my.own")) == ("7MB", "a, 'b'; %s")
    out = BytesIO()
    lease.copy_out("COPY (SELECT current_setting('my.own')) TO STDOUT", out)
    assert out.getvalue() == b"a, 'b'; %s\n"


def test_they_are_there_in_the_next_transaction(lease: Executor) -> None:
    for _ in range(3):
        assert shown(lease) == "5MB"
        if lease.transaction_status == "active":
            lease.query("SET LOCAL work_mem = '6MB'")
        lease.rollback()
        assert shown(lease) == "5MB"
        lease.commit()


def test_behind_an_error_they_are_there_again(lease: Executor) -> None:
    with pytest.raises(psycopg2.errors.DivisionByZero):
        lease.query("SELECT 1 / 0")
    lease.rollback()
    assert (shown(lease), shown(lease, "my.own")) == ("5MB", "a, 'b'; %s")


def test_other_ones_hold_instead(lease: Executor) -> None:
    usual = lease.query("SELECT reset_val FROM pg_settings WHERE name = 'work_mem'").scalar()
    lease.use_settings({"my.own": "c", "statement_timeout": 12345})
    assert (shown(lease, "my.own"), shown(lease, "statement_timeout")) == ("c", "12345ms")
    lease.rollback()
    assert (shown(lease, "my.own"), shown(lease, "statement_timeout")) == ("c", "12345ms")
    assert lease.query("SELECT setting FROM pg_settings WHERE name = 'work_mem'").scalar() == usual
    lease.rollback()
    lease.use_settings(None)
    assert shown(lease, "statement_timeout") != "12345ms"


def test_other_ones_behind_a_savepoint_are_told_again_when_it_is_rolled_back(broker: Broker) -> None:
    tx = broker.handler("transactions", settings=SETTINGS)
    tx.query("SAVEPOINT a")
    tx.use_settings({"work_mem": "9MB"})
    assert shown(tx) == "9MB"
    tx.query("ROLLBACK TO SAVEPOINT a")
    assert shown(tx) == "9MB"
    tx.rollback()


@pytest.mark.parametrize("statement", ["RESET ALL", "DISCARD ALL", "/* all */ reset all"])
def test_what_resets_all_of_a_session_leaves_what_it_was_made_with(broker: Broker, statement: str) -> None:
    with broker.handler("default", settings=SETTINGS).session() as session:
        session.query("SET work_mem = '6MB'")
        session.query("SET enable_seqscan = off")
        session.query(statement)
        assert (shown(session), shown(session, "enable_seqscan")) == ("5MB", "on")


def test_what_wants_no_transaction_runs_in_a_session(broker: Broker, postgres: Postgres) -> None:
    postgres.execute("DROP TABLE IF EXISTS set_in_leases; CREATE TABLE set_in_leases (a int)")
    with broker.handler("default", settings=SETTINGS).session() as session:
        session.query("VACUUM set_in_leases")
        session.query("CREATE INDEX CONCURRENTLY ON set_in_leases (a)")
        assert session.copy_in("COPY set_in_leases FROM STDIN", [b"1\n"]).rowcount == 1
        session.query("BEGIN")
        session.query("ROLLBACK")
        assert shown(session) == "5MB"


def test_nothing_of_it_is_left_on_the_backend(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(groups={"default": {"max_size": 1}})
    usual = shown(broker.handler())
    with broker.handler(settings=SETTINGS).session() as session:
        assert shown(session) == "5MB"
    assert shown(broker.handler()) == usual


def test_a_setting_that_cannot_be_fails_each_statement_of_a_session(broker: Broker) -> None:
    with broker.handler("default", settings={"work_mem": "much"}).session() as session:
        for _ in range(2):
            with pytest.raises(psycopg2.errors.InvalidParameterValue, match="work_mem"):
                session.query("SELECT 1")
    with broker.handler("default", settings={"client_encoding": "latin1"}).session() as session:
        for _ in range(2):
            with pytest.raises(UsageError):
                session.query("SELECT 1")


OWN = {"role": "set_in_leases", "work_mem": "3MB", "my.own": "a"}
SEEN = "SELECT current_user::text, current_setting('work_mem'), current_setting('my.own')"
FIRST: dict[str, Callable[[Handler], Any]] = {
    "query": lambda tx: tx.query("SELECT 1", settings={"work_mem": "8MB"}),
    "copy_out": lambda tx: tx.copy_out("COPY (SELECT 1) TO STDOUT", BytesIO(), settings={"work_mem": "8MB"}),
    "own first": lambda tx: (tx.query("SELECT 1"), tx.query("SELECT 1", settings={"work_mem": "8MB"})),
}


@pytest.mark.parametrize("autocommit", [False, None])
@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
def test_those_of_a_call_are_added_to_them_in_a_transaction(
    broker: Broker, postgres: Postgres, first: Callable[[Handler], Any], autocommit: bool | None
) -> None:
    postgres.execute("CREATE ROLE set_in_leases")
    try:
        tx = broker.handler("transactions", settings=OWN, autocommit=autocommit)
        first(tx)
        assert tuple(tx.query(SEEN)[0]) == ("set_in_leases", "8MB", "a")
        tx.rollback()
        assert tuple(tx.query(SEEN)[0]) == ("set_in_leases", "3MB", "a")
        tx.rollback()
    finally:
        postgres.execute("DROP ROLE set_in_leases")


@pytest.mark.parametrize(
    "statement", ["RESET ALL", "SET enable_seqscan = off; RESET ALL", "/* x */ reset /* y */ all", "RESET ALL;"]
)
@pytest.mark.parametrize("begin", ["", "BEGIN"])
def test_what_resets_all_of_a_session_does_so_anywhere(broker: Broker, statement: str, begin: str) -> None:
    with broker.handler("default", settings=SETTINGS).session() as session:
        if begin:
            session.query(begin)
        session.query("SET work_mem = '6MB'")
        session.query(statement)
        assert [shown(session), shown(session, "enable_seqscan")] == ["5MB", "on"]
        session.commit()
        assert [shown(session), shown(session, "enable_seqscan")] == ["5MB", "on"]


WRITES: dict[str, Callable[[Handler, Any], Any]] = {
    "INSERT": lambda db, settings: db.query("INSERT INTO set_in_leases VALUES (1)", settings=settings),
    "TRUNCATE": lambda db, settings: db.query("TRUNCATE set_in_leases", settings=settings),
    "DO": lambda db, settings: db.query("DO $$ BEGIN INSERT INTO set_in_leases VALUES (1); END $$", settings=settings),
    "CREATE": lambda db, settings: db.query("CREATE TABLE set_in_leases_too (a int)", settings=settings),
    "COPY": lambda db, settings: db.copy_in("COPY set_in_leases FROM STDIN", "1\n", settings=settings),
    "message": lambda db, settings: db.run(["INSERT INTO set_in_leases VALUES (1)"], settings=settings),
}


@pytest.mark.parametrize("name", ["transaction_read_only", "default_transaction_read_only"])
@pytest.mark.parametrize("value", ["on", True, "TRUE", 1])
@pytest.mark.parametrize("way", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("of_call", [True, False], ids=["of the call", "of the handler"])
def test_what_makes_a_statement_read_only_does_so_by_any_name(
    broker: Broker, postgres: Postgres, name: str, value: Any, way: Callable[[Handler, Any], Any], of_call: bool
) -> None:
    postgres.execute("CREATE TABLE IF NOT EXISTS set_in_leases (a int)")
    settings = {name: value}
    db = broker.handler("default", settings=None if of_call else settings)
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        way(db, settings if of_call else None)
    usual = broker.handler("default")
    usual.query("INSERT INTO set_in_leases VALUES (1)")  # nothing of it is left


def test_what_makes_a_transaction_read_only_does_so_in_each(broker: Broker, postgres: Postgres) -> None:
    for settings in ({"transaction_read_only": True}, {"default_transaction_read_only": "on"}):
        with broker.handler("transactions", settings=settings).session() as session:
            for _ in range(2):
                with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
                    session.query("CREATE TABLE set_in_leases_too (a int)")
                session.rollback()


def test_a_with_block_of_pgdbpools_has_them(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(groups={"default": {"max_size": 1, "legacy_session": True}})
    with broker.handler(settings=SETTINGS) as db:
        assert isinstance(db, Handler)
        assert shown(db) == "5MB"
        db.query("SET work_mem = '6MB'")
        db.query("BEGIN")
        assert shown(db) == "6MB"


@pytest.mark.parametrize("autocommit", [True, False])
def test_connections_with_a_session_have_them(broker: Broker, autocommit: bool) -> None:
    connection = dbapi.connect(broker.address, group="default", autocommit=autocommit, session=True, settings=SETTINGS)
    cursor = connection.cursor()
    cursor.execute("SET work_mem = '6MB'")
    cursor.execute("SAVEPOINT a" if not autocommit else "DISCARD PLANS")
    cursor.execute("SHOW work_mem")
    assert cursor.fetchone() == ("6MB",)
    connection.commit()
    cursor.execute("SHOW work_mem")
    assert cursor.fetchone() == ("6MB",)
    connection.reset()
    cursor.execute("SHOW work_mem")
    assert cursor.fetchone() == ("5MB",)
    connection.close()
