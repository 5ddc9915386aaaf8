"""What travels with a request: settings, priority, a deadline; and what reaches it from outside, a cancel."""

import signal
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import psycopg2.errors
import pytest
from brokers import Broker, Worker, listening
from postgres import Postgres
from waiting import wait_until

from client import DBConnectionError, Handler, UsageError
from client.channels.channel import Channel
from client.wire.limits import CANCEL_KEY_BYTES
from client.wire.messages import Ask, CancelRequest, Query, ResultMessage

StartBroker = Callable[..., Broker]
StartWorker = Callable[..., Worker]

EVERY_TRANSPORT = True
CLEAN_UP = "DROP SCHEMA IF EXISTS one, two CASCADE; DROP TABLE IF EXISTS cancelled_message, refused_settings"

WORK_MEM = "SELECT current_setting('work_mem')"
# Text that no other statement has; after some runs it is prepared.
NEW = iter(range(1_000_000))


def fresh(sql: str) -> str:
    return f"{sql} /* {next(NEW)} */"


def test_a_setting_holds_for_its_statement_alone_prepared_or_not(db: Handler) -> None:
    for sql in (WORK_MEM, fresh(WORK_MEM)):
        for _ in range(8):
            assert db.query(sql, settings={"work_mem": "3MB"})[0][0] == "3MB"
            assert db.query(sql)[0][0] != "3MB"


def test_settings_are_of_any_plain_kind_and_many(db: Handler) -> None:
    settings = {"enable_seqscan": False, "work_mem": 4096, "random_page_cost": 1.5, "my.own": "a, b; 'c'"}
    names = ", ".join(f"current_setting('{name}')" for name in settings)
    row = db.query(f"SELECT {names}", settings=settings)[0]
    assert tuple(row) == ("off", "4MB", "1.5", "a, b; 'c'")


def test_search_path_travels_and_names_mean_what_it_says(db: Handler, postgres: Postgres) -> None:
    postgres.execute("CREATE SCHEMA IF NOT EXISTS one; CREATE SCHEMA IF NOT EXISTS two")
    for schema, kind in (("one", "int"), ("two", "text")):
        postgres.execute(f"DROP TABLE IF EXISTS {schema}.here; CREATE TABLE {schema}.here AS SELECT '7'::{kind} AS a")
    sql = fresh("SELECT a FROM here")
    for _ in range(6):
        assert db.query(sql, settings={"search_path": "one"})[0][0] == 7
        assert db.query(sql, settings={"search_path": "two, one"})[0][0] == "7"
    with pytest.raises(psycopg2.errors.UndefinedTable):
        db.query(sql)


def test_a_handler_has_settings_for_all_its_statements(broker: Broker) -> None:
    db = broker.handler(settings={"work_mem": "5MB"})
    assert db.query(WORK_MEM)[0][0] == "5MB"
    assert db.query(WORK_MEM, settings={"work_mem": "6MB"})[0][0] == "6MB"
    assert db.run([WORK_MEM])[0][0][0] == "5MB"


def test_settings_of_a_transaction_message_hold_for_all_of_it(db: Handler) -> None:
    with db.transaction(settings={"work_mem": "7MB"}, isolation="serializable") as tx:
        first, second = tx.query(WORK_MEM), tx.query("SHOW transaction_isolation")
        with tx.savepoint():
            third = tx.query(WORK_MEM)
    assert (first[0][0], second[0][0], third[0][0]) == ("7MB", "serializable", "7MB")
    assert db.query(WORK_MEM)[0][0] != "7MB"


def test_settings_in_an_interactive_transaction_hold_to_its_end(tx: Handler) -> None:
    assert tx.query(WORK_MEM, settings={"work_mem": "8MB"})[0][0] == "8MB"
    assert tx.query(WORK_MEM)[0][0] == "8MB"
    tx.rollback()
    assert tx.query(WORK_MEM)[0][0] != "8MB"


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"no_such_setting": "1"}, psycopg2.errors.UndefinedObject),
        ({"work_mem": "much"}, psycopg2.errors.InvalidParameterValue),
        ({"DateStyle": "German"}, UsageError),
        ({"client_encoding": "LATIN1"}, UsageError),
        ({"": "1"}, ValueError),
        ({"a\0b": "1"}, ValueError),
        ({"work_mem": None}, ValueError),
        (["work_mem"], TypeError),
        ({f"a.b{number}": "1" for number in range(65)}, ValueError),
    ],
)
def test_settings_that_cannot_be_are_refused_and_nothing_runs(
    db: Handler, postgres: Postgres, settings: Any, error: type[Exception]
) -> None:
    postgres.execute("CREATE TABLE IF NOT EXISTS refused_settings (a int)")
    with pytest.raises(error):
        db.query("INSERT INTO refused_settings VALUES (1)", settings=settings)
    assert postgres.execute("SELECT count(*) FROM refused_settings") == [(0,)]
    assert db.query("SELECT 1")[0][0] == 1


def test_settings_do_not_travel_with_several_statements(db: Handler) -> None:
    for sql, said in (
        ("SELECT 1; SELECT 2", "several statements; .* settings .* want a single one: send each by itself"),
        ("BEGIN", "settings travel with a statement that is neither .* BEGIN.*; send this one without settings"),
    ):
        with pytest.raises(UsageError, match=said):
            db.query(sql, settings={"work_mem": "1MB"})


# Deadlines.


def test_the_server_itself_ends_a_statement_at_its_deadline(broker: Broker) -> None:
    db = broker.handler()
    cancels = broker.pool()["closed"]
    for sql in ("SELECT pg_sleep(30)", fresh("SELECT pg_sleep(30)")):
        with pytest.raises(psycopg2.errors.QueryCanceled, match=r"statement timeout \(the request's timeout of 0.2 s"):
            db.query(sql, timeout=0.2)
    assert broker.pool()["closed"] == cancels, "the backends survive"


def test_a_deadline_longer_than_the_endpoints_own_changes_nothing(db: Handler) -> None:
    assert db.query("SHOW statement_timeout", timeout=60.0)[0][0] == "5s"
    assert db.query("SELECT current_setting('statement_timeout')", timeout=2.0)[0][0] != "5s"
    assert db.query("SELECT current_setting('statement_timeout')")[0][0] == "5s"


def test_what_cannot_share_a_transaction_is_cancelled_at_its_deadline_all_the_same(db: Handler) -> None:
    with pytest.raises(psycopg2.errors.QueryCanceled, match=r"the request's timeout of 0.2 s"):
        db.query("DO $$ BEGIN PERFORM pg_sleep(30); END $$", timeout=0.2)
    db.query("VACUUM pg_catalog.pg_class", timeout=4.0)


def test_a_message_ends_at_its_deadline(db: Handler) -> None:
    with pytest.raises(psycopg2.errors.QueryCanceled, match=r"the request's timeout of 0.3 s"):
        db.run(["SELECT 1", "SELECT pg_sleep(30)"], timeout=0.3)


# Cancels.


def waits(broker: Broker, group: str = "default") -> bool:
    return any(pool["active"] + pool["leased"] for pool in broker.group(group)["endpoints"].values())


@pytest.mark.parametrize("group", ["default", "transactions"])
def test_another_thread_cancels_what_a_handler_waits_for(broker: Broker, group: str) -> None:
    db = broker.handler(group)
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            db.query("SELECT pg_sleep(4), 'to be cancelled'")
        except psycopg2.errors.QueryCanceled as error:
            caught.append(error)
        finally:
            db.rollback()

    assert db.cancel() == 0
    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: waits(broker, group), what="the statement to run")
    assert db.cancel() == 1
    thread.join()
    assert len(caught) == 1
    assert db.cancel() == 0
    assert db.query("SELECT 1")[0][0] == 1
    db.rollback()


def test_nobody_cancels_anothers_request_without_its_key(broker: Broker) -> None:
    victim, stranger = Channel(broker.address), Channel(broker.address)
    try:
        request = victim.next_request()
        victim.send(Query(request, "default", 0, False, b"SELECT pg_sleep(1)", b"", b"", True, None, ""))
        wait_until(lambda: waits(broker), what="the statement to run")
        for key in (b"", bytes(CANCEL_KEY_BYTES), stranger.welcome.cancel_key, b"x" * 5):
            stranger.post(CancelRequest(request, key))
        stranger.call(Ask(stranger.next_request(), "ping"))
        assert isinstance(victim.reply_to(request, 20), ResultMessage), "it ran to its end"
    finally:
        victim.close()
        stranger.close()


def test_a_transaction_message_is_cancelled_and_nothing_of_it_committed(broker: Broker, postgres: Postgres) -> None:
    postgres.execute("CREATE TABLE IF NOT EXISTS cancelled_message (a int)")
    db = broker.handler()
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            db.run(["INSERT INTO cancelled_message VALUES (1)", "SELECT pg_sleep(4)"])
        except psycopg2.errors.QueryCanceled as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: waits(broker), what="the message to run")
    db.cancel()
    thread.join()
    assert len(caught) == 1
    assert postgres.execute("SELECT count(*) FROM cancelled_message") == [(0,)]


def test_ctrl_c_in_a_worker_cancels_its_statement(
    broker: Broker, start_worker: StartWorker, postgres: Postgres
) -> None:
    worker = start_worker(
        "from client import Handler\n"
        "db = Handler()\n"
        "tell('ready')\n"
        "try:\n"
        "    db.query(\"SELECT pg_sleep(4), 'interrupted'\")\n"
        "except KeyboardInterrupt:\n"
        "    tell(db.query('SELECT 1')[0][0])\n"
    )
    assert worker.hear() == "ready"

    def running() -> list[Any]:
        sql = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s AND pid <> pg_backend_pid()"
        return postgres.execute(sql, ("%interrupted%",))

    wait_until(lambda: bool(running()), what="the statement to run")
    worker.signal(signal.SIGINT)
    assert worker.hear() == 1
    wait_until(lambda: not running(), what="the statement to be cancelled")


# Priorities.


def test_interactive_work_overtakes_batch_work_that_waits(start_broker: StartBroker, postgres: Postgres) -> None:
    broker = start_broker(groups={"default": {"max_size": 1, "min_size": 1}})
    ran_at: dict[str, datetime] = {}  # by the server's clock: threads hear of it in any order

    def work(priority: str) -> None:
        ran_at[priority] = broker.handler().query("SELECT clock_timestamp()", priority=priority)[0][0]

    gate = postgres.connect()
    gate.cursor().execute("SELECT pg_advisory_lock(815)")
    first = threading.Thread(target=broker.handler().query, args=("SELECT pg_advisory_xact_lock(815)",))
    first.start()
    wait_until(lambda: broker.pool()["active"] == 1, what="the gate to be waited at")
    threads = []
    for count, priority in enumerate(("batch", "normal", "interactive")):
        threads.append(threading.Thread(target=work, args=(priority,)))
        threads[-1].start()
        wait_until(lambda count=count: broker.group()["waiting"] == count + 1, what="it to wait")  # type: ignore[misc]
    assert broker.group()["waiting_by_priority"] == {"interactive": 1, "normal": 1, "batch": 1}
    gate.close()
    for thread in [first, *threads]:
        thread.join()
    assert sorted(ran_at, key=ran_at.__getitem__) == ["interactive", "normal", "batch"]


def test_a_priority_that_does_not_exist_is_refused(db: Handler) -> None:
    with pytest.raises(ValueError, match="expected one of interactive, normal, batch"):
        db.query("SELECT 1", priority="urgent")
    with pytest.raises(ValueError, match="expected one of interactive, normal, batch"):
        Handler(priority="urgent")


# Clients that are silent.


def test_a_silent_client_is_disconnected_and_comes_back_unharmed(start_broker: StartBroker, transport: str) -> None:
    broker = start_broker(broker={**listening(transport), "client_idle_timeout": 0.3})
    db = broker.handler()
    assert db.query("SELECT 1")[0][0] == 1
    wait_until(lambda: broker.stats()["clients"] == 1, what="the client to be disconnected")
    assert "client_idle_timeout = 0.3 s" in broker.log()
    for _ in range(3):
        assert db.query("SELECT 1")[0][0] == 1


def test_a_silent_clients_transaction_is_rolled_back_and_it_learns_of_it(
    start_broker: StartBroker, transport: str
) -> None:
    broker = start_broker(broker={**listening(transport), "client_idle_timeout": 0.3})
    tx = broker.handler("transactions")
    tx.query("SELECT 1")
    wait_until(lambda: broker.pool("transactions")["leased"] == 0, what="its transaction to end")
    with pytest.raises(DBConnectionError):
        tx.query("SELECT 1")
    tx.rollback()
    assert tx.query("SELECT 1")[0][0] == 1
    tx.rollback()


def test_a_client_that_waits_is_not_silent(start_broker: StartBroker, transport: str) -> None:
    broker = start_broker(broker={**listening(transport), "client_idle_timeout": 0.2})
    assert broker.handler().query("SELECT 1 FROM pg_sleep(1)")[0][0] == 1
