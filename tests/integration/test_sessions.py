"""Session state on a real server: what one client leaves, no other finds; and `db.session()`, where it stays."""

import gc
import threading
from collections.abc import Callable, Iterator

import psycopg2.errors
import pytest
from brokers import Broker, listening
from postgres import Postgres
from waiting import wait_until

from client import Handler, Session, TransactionLost, UsageError
from poold.core.effects import SimpleQuery
from poold.core.work.batch import FAILING

StartBroker = Callable[..., Broker]

EVERY_TRANSPORT = True
CLEAN_UP = "DROP TABLE IF EXISTS in_session; DROP FUNCTION IF EXISTS hidden_zone"


@pytest.fixture(scope="module")
def single(postgres: Postgres, transport: str) -> Iterator[Broker]:
    """A broker whose groups have one backend each: whoever comes next gets the same one."""
    groups = {
        "default": {"min_size": 1, "max_size": 1},
        "transactions": {"min_size": 1, "max_size": 1, "autocommit": False},
    }
    broker = Broker({"main": postgres.parameters}, groups, listening(transport))
    try:
        yield broker.start()
    finally:
        broker.close()


def backend(handler: Handler) -> int:
    return int(handler.query("SELECT pg_backend_pid()")[0][0])


# What is left, as the next client would find it: a query, and what it gives in a fresh session.
TRACES = {
    "SET search_path = pg_catalog": ("SHOW search_path", '"$user", public'),
    "SET TIME ZONE 'Asia/Tokyo'": ("SELECT current_setting('TimeZone') = 'Asia/Tokyo'", False),
    "SELECT set_config('work_mem', '1MB', false)": ("SELECT current_setting('work_mem') = '1MB'", False),
    "SET ROLE pg_monitor": ("SELECT current_user = session_user", True),
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY": ("SHOW default_transaction_read_only", "off"),
    "SET statement_timeout = 1": ("SHOW statement_timeout", "5s"),
    "CREATE TEMP TABLE left_over (a int)": ("SELECT to_regclass('pg_temp.left_over')", None),
    "SELECT 1 AS a INTO TEMP left_over": ("SELECT to_regclass('pg_temp.left_over')", None),
    "LISTEN left_over": ("SELECT count(*) FROM pg_listening_channels()", 0),
    "PREPARE left_over AS SELECT 1": ("SELECT count(*) FROM pg_prepared_statements WHERE name = 'left_over'", 0),
    "DECLARE left_over CURSOR WITH HOLD FOR SELECT 1": ("SELECT count(*) FROM pg_cursors WHERE name = 'left_over'", 0),
    "SELECT pg_advisory_lock(4711)": (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND pid = pg_backend_pid()",
        0,
    ),
    "DO $$ BEGIN PERFORM set_config('work_mem', '1MB', false); END $$": (
        "SELECT current_setting('work_mem') = '1MB'",
        False,
    ),
    "RESET ALL": ("SHOW client_connection_check_interval", "5s"),
}


@pytest.mark.parametrize("statement", TRACES)
def test_nobody_finds_what_a_session_left(single: Broker, statement: str) -> None:
    query, fresh = TRACES[statement]
    db = single.handler()
    assert db.query(query)[0][0] == fresh
    with db.session() as session:
        pid = backend(session)
        session.query(statement)
        assert session.query("SELECT 1")[0][0] == 1
    assert db.query(query)[0][0] == fresh
    assert backend(db) == pid, "the same backend, reset"


@pytest.mark.parametrize("statement", TRACES)
def test_nobody_finds_what_a_transaction_left(single: Broker, statement: str) -> None:
    query, fresh = TRACES[statement]
    with single.handler("transactions") as tx:
        tx.query("SELECT 1")
        tx.query(statement)
    with single.handler("transactions") as tx:
        assert tx.query(query)[0][0] == fresh


@pytest.mark.parametrize("statement", [each for each in TRACES if not each.startswith("DECLARE")])
def test_nobody_finds_what_a_transaction_message_left(single: Broker, statement: str) -> None:
    query, fresh = TRACES[statement]
    db = single.handler()
    db.run([statement, "SELECT 1"])
    assert db.query(query)[0][0] == fresh


@pytest.mark.parametrize(
    "statement", [each for each in TRACES if not each.startswith(("SELECT set_config", "DO", "RESET"))]
)
def test_in_an_autocommit_group_the_error_names_the_way(single: Broker, statement: str) -> None:
    with pytest.raises(UsageError, match=r"db\.session\(\)") as caught:
        single.handler().query(statement)
    assert caught.value.outcome == "not executed"


def test_what_only_postgresql_sees_is_noticed_too(single: Broker, postgres: Postgres) -> None:
    postgres.execute(
        "CREATE OR REPLACE FUNCTION hidden_zone() RETURNS void LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM set_config('TimeZone', 'Asia/Tokyo', false); END $$"
    )
    db = single.handler()
    for _ in range(10):
        db.query("SELECT hidden_zone()")
        assert db.query("SHOW TimeZone")[0][0] != "Asia/Tokyo"


def test_a_worker_that_dies_in_its_session_leaves_nothing(single: Broker) -> None:
    db = single.handler()
    done = threading.Event()

    def leave() -> None:
        session = single.handler().session()
        session.query("CREATE TEMP TABLE left_over (a int)")
        done.set()

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    assert done.is_set()
    gc.collect()
    assert db.query("SELECT to_regclass('pg_temp.left_over')")[0][0] is None


# Sessions.


def test_a_session_finds_what_it_left(db: Handler) -> None:
    with db.session() as session:
        assert isinstance(session, Session)
        session.query("SET search_path = pg_catalog")
        session.query("CREATE TEMP TABLE mine (a int)")
        session.query("INSERT INTO mine VALUES (%s), (%s)", (1, 2))
        assert session.query("SHOW search_path")[0][0] == "pg_catalog"
        assert session.query("SELECT sum(a) FROM mine")[0][0] == 3
        assert len({backend(session) for _ in range(5)}) == 1


def test_a_session_holds_a_lock_over_statements_and_nobody_gets_it(db: Handler) -> None:
    with db.session() as first, db.session() as second:
        first.query("SELECT pg_advisory_lock(42)")
        assert second.query("SELECT pg_try_advisory_lock(42)")[0][0] is False
        first.close()
        wait_until(lambda: bool(second.query("SELECT pg_try_advisory_lock(42)")[0][0]), what="the lock to be free")


def test_statements_of_a_session_commit_by_themselves_and_transactions_are_its_own(
    db: Handler, postgres: Postgres
) -> None:
    postgres.execute("CREATE TABLE IF NOT EXISTS in_session (a int)")
    postgres.execute("TRUNCATE in_session")
    with db.session() as session:
        session.query("INSERT INTO in_session VALUES (1)")
        assert postgres.execute("SELECT count(*) FROM in_session") == [(1,)]
        session.query("BEGIN")
        assert session.in_transaction
        session.query("INSERT INTO in_session VALUES (2)")
        assert postgres.execute("SELECT count(*) FROM in_session") == [(1,)]
        session.rollback()
        assert not session.in_transaction
        session.query("BEGIN")
        session.query("INSERT INTO in_session VALUES (3)")
        session.commit()
        session.query("BEGIN")
        session.query("INSERT INTO in_session VALUES (4)")
    assert postgres.execute("SELECT a FROM in_session ORDER BY a") == [(1,), (3,), (4,)]


def test_in_a_group_of_transactions_each_begins_by_itself(tx: Handler, postgres: Postgres) -> None:
    with tx.session() as session:
        session.query("CREATE TEMP TABLE mine (a int)")
        session.commit()
        session.query("INSERT INTO mine VALUES (1)")
        session.rollback()
        assert session.query("SELECT count(*) FROM mine")[0][0] == 0


def test_an_exception_that_leaves_the_block_rolls_back(db: Handler, postgres: Postgres) -> None:
    postgres.execute("CREATE TABLE IF NOT EXISTS in_session (a int)")
    postgres.execute("TRUNCATE in_session")

    def fail() -> None:
        with db.session() as session:
            session.query("BEGIN")
            session.query("INSERT INTO in_session VALUES (1)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert postgres.execute("SELECT count(*) FROM in_session") == [(0,)]


def test_an_error_in_its_first_statement_does_not_end_a_session(db: Handler) -> None:
    with db.session() as session:
        with pytest.raises(psycopg2.errors.DivisionByZero):
            session.query("SELECT 1/0")
        pid = backend(session)
        with pytest.raises(psycopg2.errors.DivisionByZero):
            session.query("SELECT 1/0")
        assert backend(session) == pid


def test_a_session_that_is_lost_says_so_until_its_end(start_broker: StartBroker, postgres: Postgres) -> None:
    broker = start_broker()
    db = broker.handler()
    with db.session() as session:
        session.query("CREATE TEMP TABLE mine (a int)")
        postgres.execute("SELECT pg_terminate_backend(%s)", (backend(session),))
        wait_until(lambda: broker.pool()["lost"] == 1, what="the broker to notice")
        for _ in range(2):
            with pytest.raises(TransactionLost, match="session"):
                session.query("SELECT 1")
        session.rollback()
        with pytest.raises(TransactionLost, match="session"):
            session.query("SELECT 1")
        session.rollback()
    assert db.query("SELECT 1")[0][0] == 1


def test_a_session_is_bounded_by_the_lease_limits(start_broker: StartBroker) -> None:
    group = {"max_size": 1, "idle_in_transaction_timeout": 0.2}
    broker = start_broker(groups={"default": group})
    session = broker.handler().session()
    session.query("SELECT 1")
    assert broker.handler().query("SELECT 1")[0][0] == 1, "it got the backend when the session's time was over"
    with pytest.raises(TransactionLost, match="idle_in_transaction_timeout"):
        session.query("SELECT 1")
    session.close()


def test_what_has_no_place_in_a_session_says_what_instead(db: Handler) -> None:
    with db.session() as session:
        with pytest.raises(UsageError, match="one by one"):
            session.transaction()
        with pytest.raises(UsageError, match="already"):
            session.session()


def test_a_session_is_closed_for_good(db: Handler) -> None:
    session = db.session()
    session.query("CREATE TEMP TABLE mine (a int)")
    session.close()
    session.close()
    with pytest.raises(UsageError, match="this session is over"), session:
        pass


@pytest.mark.parametrize("before", [(), ("SAVEPOINT other",), ("SAVEPOINT other", "RELEASE other")])
def test_what_fails_the_transaction_of_a_canceled_batch_fails_any(db: Handler, before: tuple[str, ...]) -> None:
    (failing,) = FAILING
    assert isinstance(failing, SimpleQuery)
    with db.session() as session:
        session.query("BEGIN")
        for statement in before:
            session.query(statement)
        with pytest.raises(psycopg2.errors.InvalidSavepointSpecification):
            session.query(failing.sql)
        assert session.transaction_status == "failed"
        session.rollback()


def test_the_pool_is_clean_after_all(broker: Broker) -> None:
    def is_clean() -> bool:
        pools = [broker.pool(group) for group in ("default", "transactions")]
        return all(pool["leased"] == pool["resetting"] == 0 for pool in pools)

    wait_until(is_clean, what="no backend to be leased")
