"""Who dies, when, and what the others see: real processes, real signals, real servers."""

import os
import re
import signal
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest
from brokers import Broker, Worker
from postgres import ContainerPostgres, Factory, Postgres
from waiting import wait_until

import client

StartBroker = Callable[..., Broker]
StartWorker = Callable[..., Worker]

# Longer than any test runs: what should be cancelled would be noticed by its staying.
FOREVER = 60
SLOW = {"query_timeout": 0}

WORKER = """
import client
db = client.Handler(sys.argv[1])
"""


def backends(server: Postgres, pattern: str) -> list[dict[str, Any]]:
    """Client backends whose current or last query matches the LIKE pattern."""
    return [row for row in server.backends() if pattern in row["query"]]


@pytest.fixture
def own_broker(fresh_postgres: Factory, start_broker: StartBroker) -> tuple[Broker, Postgres]:
    """A broker on a server of the test's own, with small pools and no statement_timeout."""
    server = fresh_postgres()
    groups = {
        "default": {"autocommit": True, "max_size": 2, "min_size": 1, "queue_timeout": 20},
        "transactions": {"autocommit": False, "max_size": 2, "queue_timeout": 20},
    }
    return start_broker({"main": {**server.parameters, **SLOW}}, groups), server


# A worker that dies.


def test_a_killed_workers_statement_is_cancelled_and_its_backend_serves_others(
    own_broker: tuple[Broker, Postgres], start_worker: StartWorker
) -> None:
    broker, server = own_broker
    workers = [
        start_worker(WORKER + f"tell(1); db.query('SELECT pg_sleep({FOREVER})')", "default", address=broker.address)
        for _ in range(2)
    ]
    wait_until(lambda: broker.pool()["active"] == 2, what="both statements to run")
    pids = {row["pid"] for row in backends(server, "pg_sleep")}
    for worker in workers:
        worker.kill()
    wait_until(lambda: broker.pool()["idle"] == 2, what="both backends to be free again")
    assert {row["pid"] for row in server.backends()} >= pids, "the backends survived"
    assert broker.handler().query("SELECT 1 AS one").fetchone() == (1,)
    assert broker.group()["withdrawn"] == 2


def test_a_killed_workers_transaction_is_rolled_back(
    own_broker: tuple[Broker, Postgres], start_worker: StartWorker
) -> None:
    broker, server = own_broker
    server.execute("CREATE TABLE kept (id int)")
    worker = start_worker(
        WORKER + "db.query('INSERT INTO kept VALUES (1)'); tell(1); sys.stdin.readline()",
        "transactions",
        address=broker.address,
    )
    worker.hear()
    assert broker.pool("transactions")["leased"] == 1
    worker.kill()
    wait_until(lambda: broker.pool("transactions")["idle"] == 1, what="the lease to be rolled back")
    assert server.execute("SELECT count(*) FROM kept") == [(0,)]
    assert broker.group("transactions")["clients"] == 0


def test_a_worker_killed_during_a_statement_of_its_transaction_leaves_a_usable_backend(
    own_broker: tuple[Broker, Postgres], start_worker: StartWorker
) -> None:
    broker, server = own_broker
    worker = start_worker(
        WORKER + f"db.query('SELECT 1'); tell(1); db.query('SELECT pg_sleep({FOREVER})')",
        "transactions",
        address=broker.address,
    )
    worker.hear()
    wait_until(lambda: broker.pool("transactions")["active"] == 1, what="the statement to run")
    (before,) = backends(server, "pg_sleep")
    worker.kill()
    wait_until(lambda: broker.pool("transactions")["idle"] == 1, what="the backend to be free")
    with broker.handler("transactions") as db:
        assert db.query("SELECT pg_backend_pid()")[0][0] == before["pid"]


def test_a_worker_killed_in_the_queue_is_forgotten_and_its_statement_never_runs(
    own_broker: tuple[Broker, Postgres], start_worker: StartWorker
) -> None:
    broker, server = own_broker
    server.execute("CREATE TABLE never (id int)")
    holders = [broker.handler("transactions") for _ in range(2)]
    for holder in holders:
        holder.query("SELECT 1")
    worker = start_worker(
        WORKER + "tell(1); db.query('INSERT INTO never VALUES (1)'); db.commit()",
        "transactions",
        address=broker.address,
    )
    wait_until(lambda: broker.group("transactions")["waiting"] == 1, what="the worker to wait")
    worker.kill()
    wait_until(lambda: broker.group("transactions")["waiting"] == 0, what="the worker to be forgotten")
    for holder in holders:
        holder.commit()
    assert broker.group("transactions")["requests"] == 5, "two queries, two commits, and the one that was dropped"
    assert server.execute("SELECT count(*) FROM never") == [(0,)]


def test_a_stopped_worker_does_not_hold_up_the_others(
    own_broker: tuple[Broker, Postgres], start_worker: StartWorker
) -> None:
    broker, _ = own_broker
    worker = start_worker(WORKER + "tell(1)\nwhile True: db.query('SELECT 1')", "default", address=broker.address)
    worker.hear()
    worker.signal(signal.SIGSTOP)
    db = broker.handler()
    assert [db.query("SELECT %s::int AS n", (n,))[0].n for n in range(200)] == list(range(200))
    worker.signal(signal.SIGCONT)


# A backend, or PostgreSQL, that dies.


def test_an_idle_backend_that_is_terminated_is_replaced_without_anybody_noticing(
    own_broker: tuple[Broker, Postgres],
) -> None:
    broker, server = own_broker
    wait_until(lambda: broker.pool()["idle"] >= 1, what="the first backend")
    server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'poold' AND backend_type = 'client backend'"
    )
    wait_until(lambda: broker.pool()["lost"] >= 1 and broker.pool()["idle"] >= 1, what="the replacement")
    assert broker.handler().query("SELECT 1")[0][0] == 1
    assert broker.group()["errors"] == 0


def test_a_backend_terminated_under_a_statement_gives_its_client_an_error_and_others_none(
    own_broker: tuple[Broker, Postgres], start_worker: StartWorker
) -> None:
    broker, server = own_broker
    worker = start_worker(
        WORKER
        + f"""
try:
    db.query('SELECT pg_sleep({FOREVER})')
except client.DBError as error:
    tell([isinstance(error, client.DBConnectionError), 'administrator' in str(error), error.pgcode, error.outcome])
tell(db.query('SELECT 7')[0][0])
""",
        "default",
        address=broker.address,
    )
    (row,) = wait_until(lambda: backends(server, "pg_sleep"), what="the statement to run")
    server.execute("SELECT pg_terminate_backend(%s)", (row["pid"],))
    # libpq may see the end of the connection before it has handed over PostgreSQL's last words as a result.
    assert worker.hear() in ([True, True, "57P01", "failed"], [True, True, None, "unknown"])
    assert worker.hear() == 7


def test_a_killed_server_loses_a_running_statement_whose_outcome_is_unknown(
    own_broker: tuple[Broker, Postgres], start_worker: StartWorker
) -> None:
    broker, server = own_broker
    worker = start_worker(
        WORKER
        + f"""
try:
    db.query('SELECT pg_sleep({FOREVER})')
except client.DBError as error:
    tell([type(error).__name__, error.outcome, 'main' in str(error)])
tell(db.query('SELECT 7')[0][0])
""",
        "default",
        address=broker.address,
    )
    (row,) = wait_until(lambda: backends(server, "pg_sleep"), what="the statement to run")
    if isinstance(server, ContainerPostgres):
        pytest.skip("a container's processes have other numbers out here")
    os.kill(row["pid"], signal.SIGKILL)
    assert worker.hear() == ["DBConnectionError", "unknown", True]
    assert worker.hear() == 7, "a request waits until the server has recovered"


def test_nothing_remains_of_a_transaction_whose_backend_dies_during_a_statement(
    own_broker: tuple[Broker, Postgres],
) -> None:
    broker, server = own_broker
    server.execute("CREATE TABLE begun (id int)")
    db = broker.handler("transactions")
    db.query("INSERT INTO begun VALUES (1)")
    with pytest.raises(client.TransactionLost, match="the transaction was rolled back") as caught:
        db.query(
            "WITH mine AS (INSERT INTO begun VALUES (2) RETURNING id) "
            "SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(%s) FROM mine",
            (FOREVER,),
        )
    assert (caught.value.outcome, caught.value.is_safe_to_repeat) == ("not executed", True)
    db.rollback()
    assert server.execute("SELECT count(*) FROM begun") == [(0,)]
    assert db.query("SELECT 1").scalar() == 1


def test_a_server_restart_ends_an_open_transaction_with_the_truth_and_later_ones_work(
    own_broker: tuple[Broker, Postgres],
) -> None:
    broker, server = own_broker
    server.execute("CREATE TABLE t (id int)")
    db = broker.handler("transactions")
    db.query("INSERT INTO t VALUES (1)")
    server.restart()
    wait_until(lambda: broker.pool("transactions")["lost"] >= 1, what="the broker to notice")
    with pytest.raises(client.TransactionLost) as caught:
        db.query("INSERT INTO t VALUES (2)")
    assert caught.value.outcome == "not executed"
    with pytest.raises(client.TransactionLost):
        db.commit()
    db.rollback()
    db.query("INSERT INTO t VALUES (3)")
    db.commit()
    assert server.execute("SELECT id FROM t") == [(3,)]


def test_requests_wait_for_a_server_that_is_away_and_are_served_when_it_is_back(
    own_broker: tuple[Broker, Postgres], start_worker: StartWorker
) -> None:
    broker, server = own_broker
    server.kill()
    worker = start_worker(WORKER + "tell(db.query('SELECT 5')[0][0])", "default", address=broker.address)
    wait_until(lambda: broker.group()["waiting"] == 1, what="the request to wait")
    wait_until(lambda: broker.pool()["state"] != "available", what="the quarantine")
    server.start()
    assert worker.hear() == 5


def test_an_endpoint_that_stays_away_is_named_in_the_error_with_its_own_words(
    postgres: Postgres, start_broker: StartBroker
) -> None:
    gone = {**postgres.parameters, "host": "/nonexistent-folder"}
    broker = start_broker({"lost": gone}, {"default": {"queue_timeout": 0.5}})
    with pytest.raises(client.DBOfflineError, match=r"lost.*nonexistent-folder") as caught:
        broker.handler().query("SELECT 1")
    assert caught.value.outcome == "not executed"
    assert isinstance(caught.value, psycopg2.OperationalError)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"host": "no-such-host.invalid"}, "no-such-host.invalid|resolve|not known|resolution"),
        ({"dbname": "no_such_db"}, "no_such_db"),
        ({"user": "no_such_user"}, "no_such_user"),
        ({"options": "-c no_such_setting=1"}, "no_such_setting"),
        ({"host": "127.0.0.1", "port": 1}, "refused"),
    ],
)
def test_a_wrong_endpoint_setting_is_told_in_postgresqls_words(
    postgres: Postgres, start_broker: StartBroker, wrong: dict[str, Any], words: str
) -> None:
    broker = start_broker({"main": {**postgres.parameters, **wrong}}, {"default": {"queue_timeout": 0.5}})
    with pytest.raises(client.DBConnectionError):
        broker.handler().query("SELECT 1")
    error = wait_until(lambda: broker.pool()["error"], what="the error in stats")
    assert any(word in error for word in words.split("|"))


# Several endpoints.


def test_two_endpoints_share_the_work_one_is_killed_and_restarted_under_load_and_nothing_is_lost(
    fresh_postgres: Factory, start_broker: StartBroker, start_worker: StartWorker
) -> None:
    servers = {"one": fresh_postgres(), "two": fresh_postgres()}
    for name, server in servers.items():
        server.execute("CREATE TABLE who (name text)")
        server.execute("INSERT INTO who VALUES (%s)", (name,))
    broker = start_broker(
        {name: server.parameters for name, server in servers.items()},
        {"default": {"role": "any", "min_size": 4, "max_size": 4}},
    )
    program = """
import client
db = client.Handler()
asked = answered = unknown = 0
seen = set()
import select
tell('ready')
while not select.select([sys.stdin], [], [], 0)[0]:
    asked += 1
    try:
        row = db.query('SELECT name, %s::int AS n FROM who', (asked,)).fetchone()
        assert row.n == asked, 'an answer to another question'
        seen.add(row.name)
        answered += 1
    except client.DBError as error:
        assert error.outcome in ('unknown', 'failed'), (error, error.outcome)
        unknown += 1
tell([asked, answered, unknown, sorted(seen)])
"""
    workers = [start_worker(program, address=broker.address) for _ in range(4)]
    assert [worker.hear() for worker in workers] == ["ready"] * 4

    def served(name: str) -> int:
        return int(broker.pool(endpoint=name)["requests"])

    wait_until(lambda: served("one") > 100 and served("two") > 100, what="both endpoints to serve")
    servers["two"].kill()
    wait_until(lambda: broker.pool(endpoint="one")["idle"] + broker.pool(endpoint="one")["active"] == 4,
               what="the first endpoint to take the share of the second")  # fmt: skip
    at_kill = served("one")
    wait_until(lambda: served("one") > at_kill + 100, what="the first endpoint to go on")
    servers["two"].start()
    at_return = served("two")
    wait_until(lambda: served("two") > at_return + 100, 30, "the second endpoint to serve again")
    for worker in workers:
        worker.say("stop")
    for worker in workers:
        asked, answered, unknown, seen = worker.hear()
        assert asked == answered + unknown
        assert unknown <= 3, "only what ran on the killed server has no answer"
        assert seen == ["one", "two"]


# A broker that dies.


def test_clients_of_a_killed_broker_are_told_what_may_have_run_and_reconnect_by_themselves(
    own_broker: tuple[Broker, Postgres], start_worker: StartWorker
) -> None:
    broker, server = own_broker
    worker = start_worker(
        WORKER
        + f"""
tell(db.query('SELECT 1')[0][0])
try:
    db.query('SELECT pg_sleep({FOREVER})')
except client.DBConnectionError as error:
    tell([error.outcome, 'may have run' in str(error)])
sys.stdin.readline()
try:
    db.query('SELECT 1')
except client.DBConnectionError as error:
    tell([error.outcome, 'poold start' in str(error)])
sys.stdin.readline()
tell(db.query('SELECT 2')[0][0])
""",
        "default",
        address=broker.address,
    )
    assert worker.hear() == 1
    wait_until(lambda: backends(server, "pg_sleep"), what="the statement to run")
    broker.kill()
    assert worker.hear() == ["unknown", True]
    worker.say()
    assert worker.hear() == ["not executed", True]
    broker.start()
    worker.say()
    assert worker.hear() == 2
    wait_until(lambda: not backends(server, "pg_sleep"), 20, "the statement to end with its broker")


def test_a_transaction_of_a_killed_broker_is_lost_and_said_so(own_broker: tuple[Broker, Postgres]) -> None:
    broker, server = own_broker
    server.execute("CREATE TABLE t (id int)")
    db = broker.handler("transactions")
    db.query("INSERT INTO t VALUES (1)")
    broker.kill()
    with pytest.raises(client.DBConnectionError):
        db.query("INSERT INTO t VALUES (2)")
    broker.start()
    with pytest.raises(client.TransactionLost):
        db.commit()
    db.rollback()
    db.query("INSERT INTO t VALUES (3)")
    db.commit()
    assert server.execute("SELECT id FROM t") == [(3,)]


def test_a_drain_lets_running_work_finish_and_refuses_new_work(
    own_broker: tuple[Broker, Postgres], start_worker: StartWorker
) -> None:
    broker, server = own_broker
    server.execute("CREATE TABLE t (id int)")
    worker = start_worker(
        WORKER + "db.query('INSERT INTO t VALUES (1)'); tell(1); sys.stdin.readline(); db.commit(); tell('committed')",
        "transactions",
        address=broker.address,
    )
    worker.hear()
    broker.signal(signal.SIGTERM)
    wait_until(lambda: broker.stats()["state"] == "draining", what="the drain")
    with pytest.raises(client.DBConnectionError, match="shutting down") as caught:
        broker.handler().query("SELECT 1")
    assert caught.value.outcome == "not executed"
    worker.say()
    assert worker.hear() == "committed"
    assert broker.wait() == 0
    assert server.execute("SELECT id FROM t") == [(1,)]


# Many at once.


def test_sixty_four_processes_at_once_get_their_own_answers_over_four_backends(
    postgres: Postgres, start_broker: StartBroker, start_worker: StartWorker
) -> None:
    broker = start_broker(groups={"default": {"max_size": 4}, "transactions": {"max_size": 4, "autocommit": False}})
    postgres.execute("CREATE TABLE tally (worker int, n int)")
    try:
        program = """
import client
me = int(sys.argv[1])
db = client.Handler()
for n in range(50):
    assert db.query('SELECT %s::int, %s::int', (me, n)).fetchone() == (me, n)
for n in range(5):
    with client.Handler('transactions') as tx:
        tx.query('INSERT INTO tally VALUES (%s, %s)', (me, n))
        assert tx.query('SELECT count(*) FROM tally WHERE worker = %s', (me,))[0].count == n + 1
tell('done')
"""
        workers = [start_worker(program, str(number), address=broker.address) for number in range(64)]
        for worker in workers:
            assert worker.finish() == ["done"]
        assert postgres.execute("SELECT count(*), count(DISTINCT worker) FROM tally") == [(320, 64)]
        stats = broker.stats()["groups"]
        assert stats["default"]["requests"] == 64 * 50
        assert stats["default"]["endpoints"]["main"]["opened"] <= 4
        assert stats["transactions"]["endpoints"]["main"]["opened"] <= 4
        wait_until(lambda: broker.group()["clients"] == 0, what="all clients to be gone")
    finally:
        postgres.execute("DROP TABLE tally")


def test_limits_of_the_queue_hold_for_real(own_broker: tuple[Broker, Postgres], start_broker: StartBroker) -> None:
    _, server = own_broker
    groups = {"transactions": {"autocommit": False, "max_size": 1, "max_waiting": 1, "queue_timeout": 0.5}}
    broker = start_broker({"main": {**server.parameters, **SLOW}}, groups)
    holder = broker.handler("transactions")
    holder.query("SELECT 1")
    with pytest.raises(client.PoolTimeout, match="queue_timeout"):
        broker.handler("transactions").query("SELECT 1")
    with pytest.raises(client.PoolTimeout, match="the request's timeout"):
        broker.handler("transactions").query("SELECT 1", timeout=0.1)
    holder.commit()
    assert broker.handler("transactions").query("SELECT 1")[0][0] == 1


def test_an_idle_transaction_is_ended_by_its_groups_limit(
    own_broker: tuple[Broker, Postgres], start_broker: StartBroker
) -> None:
    _, server = own_broker
    groups = {"transactions": {"autocommit": False, "max_size": 1, "idle_in_transaction_timeout": 0.3}}
    broker = start_broker({"main": server.parameters}, groups)
    db = broker.handler("transactions")
    db.query("SELECT 1")
    wait_until(lambda: broker.pool("transactions")["idle"] == 1, what="the transaction to be ended")
    with pytest.raises(client.TransactionLost, match="idle_in_transaction_timeout"):
        db.commit()


def test_backends_are_retired_by_max_idle_and_max_lifetime_for_real(
    own_broker: tuple[Broker, Postgres], start_broker: StartBroker
) -> None:
    _, server = own_broker
    groups = {
        "idle": {"min_size": 0, "max_size": 3, "max_idle": 0.1},
        "old": {"min_size": 1, "max_size": 1, "max_lifetime": 1.0},
    }
    broker = start_broker({"main": server.parameters}, groups)
    broker.handler("idle").query("SELECT 1")
    first = broker.handler("old").query("SELECT pg_backend_pid()")[0][0]
    wait_until(lambda: broker.pool("idle")["size"] == 0, what="the idle backend to be closed")
    wait_until(
        lambda: broker.handler("old").query("SELECT pg_backend_pid()")[0][0] != first, what="the old one's replacement"
    )


def test_the_replacement_of_an_old_backend_is_opened_before_it_is_closed(start_broker: StartBroker) -> None:
    broker = start_broker(groups={"default": {"min_size": 1, "max_size": 2, "max_lifetime": 4.0}}, start=False)
    broker.start("--verbose")
    wait_until(lambda: "backend closed" in broker.log(), 30, what="the first backend's end")
    events = re.findall(r"backend (opened|closed) number=(\d+)(?:.*reason=(.*))?", broker.log())
    assert [event[:2] for event in events[:3]] == [("opened", "1"), ("opened", "2"), ("closed", "1")]
    assert events[2][2] == "max_lifetime"
