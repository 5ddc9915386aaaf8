"""`poold drain` on a real broker: no connection is left where a server is to be worked on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
import pytest
from brokers import Broker, order, poold
from postgres import Postgres, PrivatePostgres
from test_reload import load
from waiting import wait_until

from client import DBConnectionError, PoolTimeout

StartBroker = Callable[..., Broker]
Factory = Callable[..., Postgres]
GROUPS: dict[str, dict[str, Any]] = {
    "default": {"min_size": 2, "max_size": 4},
    "transactions": {"autocommit": False, "min_size": 0, "max_size": 2},
}


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """A database of the test's own; it is there at the end or not."""
    postgres.execute("CREATE DATABASE maintained")
    yield "maintained"
    postgres.execute("DROP DATABASE IF EXISTS maintained WITH (FORCE)")


def test_a_database_without_connections_can_be_dropped_and_made_again_while_clients_wait(
    start_broker: StartBroker, postgres: Postgres, database: str, threads: ThreadPoolExecutor
) -> None:
    endpoint = {**postgres.parameters, "dbname": database}
    broker = start_broker(
        endpoints={"main": endpoint, "other": postgres.parameters},
        groups={
            "default": {"endpoints": ["main"], "min_size": 2},
            "other": {"endpoints": ["other"]},
        },
    )
    with load(broker) as busy, load(broker, "other", 1) as beside:
        busy.wait_for(100)
        told = order(broker, "drain", "--endpoint=main")
        assert (told["drained"], told["endpoint"]) == (True, "main")
        postgres.execute(f"DROP DATABASE {database}")  # raises if anybody is connected
        waiting = threads.submit(lambda: broker.handler().query("SELECT current_database()")[0][0])
        beside.wait_for(50)
        wait_until(lambda: broker.group()["waiting"] >= 1, what="requests that wait")
        assert broker.group()["state"] == "drained"
        assert broker.pool()["size"] == 0
        assert "drained" in poold("stats", f"--address={broker.address}").stdout
        postgres.execute(f"CREATE DATABASE {database}")
        order(broker, "resume", "--endpoint=main")
        assert waiting.result() == database
        busy.wait_for(50)
        assert not busy.errors
        assert not beside.errors


def test_a_drained_server_can_be_stopped_and_the_group_goes_on_where_it_is_needed(
    start_broker: StartBroker, fresh_postgres: Factory, postgres: Postgres
) -> None:
    other = fresh_postgres()
    groups = {"default": {"role": "any", "min_size": 2, "max_size": 4}}
    broker = start_broker(endpoints={"main": postgres.parameters, "other": other.parameters}, groups=groups)
    with load(broker) as busy:
        busy.wait_for(100)
        order(broker, "drain", "--endpoint=other")
        connected = [each for each in other.backends() if each["application_name"] == "poold"]
        assert not connected
        other.restart()
        busy.wait_for(100)
        assert broker.pool(endpoint="other")["size"] == 0
        order(broker, "resume", "--endpoint=other")
        wait_until(lambda: broker.pool(endpoint="other")["idle"] > 0, what="backends there again")
        busy.wait_for(50)
        assert not busy.errors


def test_of_a_drained_primary_nobody_asks_what_it_is(start_broker: StartBroker, fresh_postgres: Any) -> None:
    primary = fresh_postgres()
    standby = fresh_postgres.standby(primary)
    endpoints = {"one": primary.parameters, "two": standby.parameters}
    broker = start_broker(endpoints=endpoints, groups={"default": {"min_size": 1, "queue_timeout": 20}})
    assert broker.handler().query("SELECT pg_is_in_recovery()")[0][0] is False
    order(broker, "drain", "--endpoint=one")
    assert not [each for each in primary.backends() if each["application_name"] == "poold"]
    assert broker.stats()["endpoints"]["one"]["why"] == "an operator has drained it"
    if isinstance(primary, PrivatePostgres):
        primary.restart()
    order(broker, "resume")
    assert broker.handler().query("SELECT pg_is_in_recovery()")[0][0] is False


def test_what_takes_too_long_is_named_and_the_drain_undone(start_broker: StartBroker) -> None:
    broker = start_broker(groups=GROUPS)
    holder = broker.handler("transactions")
    holder.query("SELECT 1")
    done = poold("drain", "--group=transactions", "--timeout=0.2", f"--address={broker.address}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "poold: transactions: not at rest within 0.2 s, the drain is undone; 1 backend is busy, 0 requests wait"
    )
    assert "transactions on main: transaction of process " in done.stderr
    assert broker.group("transactions")["state"] == "running"
    holder.rollback()
    done = poold("drain", "transactions", f"--address={broker.address}")
    left = "transactions: drained, no connection is left"
    assert done.stdout == f"{left}; go on with: poold resume --address={broker.address}\n"
    assert poold("drain", "--group=default", "--endpoint=main", f"--address={broker.address}").returncode == 2
    done = poold("drain", "main", f"--address={broker.address}")
    assert (done.returncode, done.stderr) == (
        1,
        "poold: there is no group 'main'; there are default, transactions; 'main' is an endpoint: --endpoint main\n",
    )


def test_a_client_of_a_drained_group_is_told_why_it_waited_in_vain(start_broker: StartBroker) -> None:
    broker = start_broker(groups={"default": {"queue_timeout": 0.3}})
    order(broker, "drain", "--group=default")
    with pytest.raises(PoolTimeout, match="paused by an operator"):
        broker.handler().query("SELECT 1")


def test_a_drained_broker_stays_and_answers_and_clients_wait_for_one_that_serves(
    start_broker: StartBroker, postgres: Postgres
) -> None:
    broker = start_broker(groups=GROUPS)
    assert broker.handler().query("SELECT 1").fetchone() == (1,)
    told = order(broker, "drain")
    assert told["drained"] is True
    assert broker.ask("ping")["state"] == "drained"
    assert not [each for each in postgres.backends() if each["application_name"] == "poold-drained"]
    assert sum(broker.pool(name)["size"] for name in GROUPS) == 0
    impatient = broker.handler(connect_wait=0.2)
    with pytest.raises(DBConnectionError, match="drained the broker") as caught:
        impatient.query("SELECT 1")
    assert caught.value.outcome == "not executed"
    answers: list[Any] = []
    patient = threading.Thread(target=lambda: answers.append(broker.handler(connect_wait=30).query("SELECT 7")[0][0]))
    patient.start()
    wait_until(lambda: broker.group()["refused"] > 1, what="a client that tries again")
    done = poold("resume", f"--address={broker.address}")
    assert done.stdout == "default, transactions: resumed\n"
    patient.join()
    assert answers == [7]
    order(broker, "drain")
    assert broker.stop() == 0


def test_a_drained_or_paused_group_is_not_ready_and_the_broker_lives(start_broker: StartBroker) -> None:
    broker = start_broker(groups=GROUPS)
    address = f"--address={broker.address}"
    for word, state in (("drain", "drained"), ("pause", "paused")):
        order(broker, word, *(["--group=default"] if word == "drain" else ["default"]))
        done = poold("health", "--ready", address)
        assert done.returncode == 1
        remedy = f"go on with: poold resume --address={broker.address}"
        assert done.stdout == f"group default is {state} by an operator; {remedy}\n"
        assert poold("health", "--live", address).returncode == 0
        order(broker, "resume")
        assert poold("health", address).returncode == 0
    order(broker, "drain")
    done = poold("health", address)
    assert done.stdout == f"the broker is drained by an operator and takes no new work; {remedy}\n"
    assert poold("health", "--live", address).returncode == 0


def test_a_drained_broker_can_be_reloaded_and_replaced(start_broker: StartBroker, postgres: Postgres) -> None:
    broker = start_broker(groups=GROUPS)
    order(broker, "drain")
    broker.configure({"main": postgres.parameters}, {**GROUPS, "more": {"min_size": 1}})
    assert poold("reload", f"--address={broker.address}").returncode == 0
    with pytest.raises(DBConnectionError):
        broker.handler("more", connect_wait=0.1).query("SELECT 1")
    broker.restart()
    assert broker.handler("more").query("SELECT 1").fetchone() == (1,)


def test_nobody_is_connected_while_a_statement_that_wants_that_runs(
    start_broker: StartBroker, postgres: Postgres, database: str
) -> None:
    """ALTER DATABASE ... RENAME is refused if anybody is connected, without waiting."""
    endpoint = {**postgres.parameters, "dbname": database}
    broker = start_broker(endpoints={"main": endpoint}, groups={"default": {"min_size": 2}})
    assert broker.handler().query("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg2.Error):
        postgres.execute(f"ALTER DATABASE {database} RENAME TO renamed")
    order(broker, "drain", "--endpoint=main")
    postgres.execute(f"ALTER DATABASE {database} RENAME TO renamed")
    postgres.execute(f"ALTER DATABASE renamed RENAME TO {database}")
    order(broker, "resume")
    assert broker.handler().query("SELECT 1").fetchone() == (1,)
