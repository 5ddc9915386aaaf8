"""query_timeout, and limits of a client's own: what PostgreSQL lets run is not ended by anybody else."""

import io
import time
from collections.abc import Callable, Iterator

import pytest
from brokers import Broker
from flows import BLACK_HOLE
from postgres import Postgres
from proxy import Proxy

import client

StartBroker = Callable[..., Broker]

# Beyond the query_timeout of one second and all that the broker adds to it.
CLEAN_UP = "DROP TABLE IF EXISTS slowly"
LONG = 8
SLOW = f"SELECT pg_sleep({LONG}), 1 AS one"


@pytest.fixture
def broker(postgres: Postgres, start_broker: StartBroker) -> Broker:
    endpoint = {**postgres.parameters, "query_timeout": 1}
    groups = {
        "default": {"max_size": 8, "queue_timeout": 30},
        "transactions": {"autocommit": False, "max_size": 4, "queue_timeout": 30},
    }
    return start_broker({"main": endpoint}, groups)


def by_settings(broker: Broker) -> int:
    return int(broker.handler().query(SLOW, settings={"statement_timeout": "20s"})[0].one)


def by_set_local_in_a_lease(broker: Broker) -> int:
    db = broker.handler("transactions")
    db.query("SET LOCAL statement_timeout = '20s'")
    found = int(db.query(SLOW)[0].one)
    db.commit()
    return found


def by_a_function_in_a_lease(broker: Broker) -> int:
    db = broker.handler("transactions")
    db.query(
        "CREATE FUNCTION pg_temp.patience() RETURNS void LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM set_config('statement_timeout', '20s', true); END $$"
    )
    db.query("SELECT pg_temp.patience()")
    found = int(db.query(SLOW)[0].one)
    db.rollback()
    return found


def by_set_in_a_session(broker: Broker) -> int:
    with broker.handler().session() as db:
        db.query("SET statement_timeout = 0")
        return int(db.query(SLOW)[0].one)


def by_many_statements(broker: Broker) -> int:
    text = "SELECT pg_sleep(0.9); " * (LONG + 1) + "SELECT 1 AS one"
    return int(broker.handler().query(text)[0].one)


def by_copying_slowly(broker: Broker) -> int:
    db = broker.handler()
    db.query("CREATE TABLE IF NOT EXISTS slowly (line text)")

    def lines() -> Iterator[str]:
        yield "first\n"
        time.sleep(LONG)
        yield "last\n"

    return db.copy_in("COPY slowly FROM STDIN", lines()).rowcount - 1


def by_copying_what_takes_long(broker: Broker) -> int:
    """The server works before its first row, and between two."""
    slow = f"SELECT pg_sleep({LONG / 2}), 1 AS one UNION ALL {SLOW}"
    return broker.handler().copy_out(f"COPY ({slow}) TO STDOUT", io.StringIO()).rowcount - 1


WAYS = (
    by_settings,
    by_set_local_in_a_lease,
    by_a_function_in_a_lease,
    by_set_in_a_session,
    by_many_statements,
    by_copying_slowly,
    by_copying_what_takes_long,
)


@pytest.mark.parametrize("way", WAYS)
def test_a_longer_limit_of_the_clients_own_is_kept(broker: Broker, way: Callable[[Broker], int]) -> None:
    assert way(broker) == 1


def test_the_shorter_of_both_limits_holds(broker: Broker) -> None:
    with pytest.raises(client.DBQueryError, match="statement timeout") as caught:
        broker.handler().query("SELECT pg_sleep(60)", settings={"statement_timeout": "300ms"}, timeout=0.9)
    assert "query_timeout" not in str(caught.value)
    assert "timeout of" not in str(caught.value)


def test_an_error_by_query_timeout_says_so(broker: Broker) -> None:
    with pytest.raises(client.DBQueryError, match="query_timeout = 1 s of endpoint 'main'"):
        broker.handler().query("SELECT pg_sleep(60)")
    with pytest.raises(client.DBQueryError, match="query_timeout = 1 s"), broker.handler().transaction() as tx:
        tx.query("SELECT pg_sleep(60)")


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[Proxy]:
    with Proxy(postgres) as made:
        yield made


def test_a_server_that_is_not_heard_any_more_ends_a_lease_that_has_its_own_limit(
    proxy: Proxy, start_broker: StartBroker
) -> None:
    endpoint = {**proxy.parameters, "query_timeout": 0.5, "connect_timeout": 1}
    groups = {"transactions": {"autocommit": False, "max_size": 1, "queue_timeout": 30}}
    broker = start_broker({"main": endpoint}, groups)
    db = broker.handler("transactions")
    db.query("SET LOCAL statement_timeout = 0")
    proxy.infect(BLACK_HOLE)
    with pytest.raises(client.DBError):
        db.query("SELECT 1")
    proxy.heal()
