"""Transaction messages that lose their backend, or are given up: what is committed, and how often."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg2.errors
import pytest
from brokers import Broker, Worker
from gates import Gate, gate
from ledger import ADD, ADD_AT_COMMIT, ENDPOINT, TABLES, Kill, book, crash, drop_tables, tags, terminate
from postgres import Factory, Postgres
from proxy import Proxy
from waiting import wait_until

import client
from client import Transaction

StartBroker = Callable[..., Broker]
StartWorker = Callable[..., Worker]

GROUPS = {
    "default": {"max_size": 3, "track_outcome": True},
    "untracked": {"max_size": 1},
    "reading": {"max_size": 2, "read_only": True},
    "single": {"max_size": 1, "track_outcome": True},
}


@pytest.fixture
def server(postgres: Postgres) -> Iterator[Postgres]:
    """The session's server with this module's tables."""
    postgres.execute(TABLES)
    try:
        yield postgres
    finally:
        drop_tables(postgres)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Threads for clients that wait. One that waits too long ends with its broker."""
    made = ThreadPoolExecutor(8)
    yield made
    made.shutdown(wait=False, cancel_futures=True)


# A backend lost before COMMIT, and during it.


@pytest.fixture(params=[terminate, crash])
def lossy(request: pytest.FixtureRequest) -> tuple[Postgres, Kill]:
    """A server with this module's tables, and a way to end one of its processes."""
    if request.param is terminate:
        return request.getfixturevalue("server"), terminate
    made = request.getfixturevalue("fresh_postgres")()
    made.execute(TABLES)
    return made, crash


def lost_at(
    closed: Gate, place: str, broker: Broker, threads: ThreadPoolExecutor, group: str = "default", **options: Any
) -> "Future[Transaction]":
    """A transaction that waits at the gate, in a statement or in its COMMIT."""
    if place == "statement":
        return threads.submit(
            book, broker, (ADD, ("once",)), f"SELECT {closed.passage}", (ADD, ("too",)), group=group, **options
        )
    add = (ADD_AT_COMMIT, ("once", closed.key))
    return threads.submit(book, broker, add, (ADD, ("too",)), group=group, **options)


@pytest.mark.parametrize("place", ["statement", "commit"])
def test_a_transaction_that_lost_its_backend_is_run_again_and_committed_once(
    lossy: tuple[Postgres, Kill], start_broker: StartBroker, threads: ThreadPoolExecutor, place: str
) -> None:
    server, kill = lossy
    broker = start_broker({"main": {**server.parameters, **ENDPOINT}}, GROUPS)
    with gate(server) as closed:
        running = lost_at(closed, place, broker, threads)
        (pid,) = closed.arrived()
        kill(server, pid)
        if kill is terminate:
            wait_until(lambda: closed.waiting() not in ([], [pid]), what="the transaction to come again")
            closed.open()
        assert running.result(30).tries == 2
    assert tags(server) == ["once", "too"]
    assert (broker.group()["retries"], broker.group()["in_doubt"]) == (1, 0)


@pytest.mark.parametrize("place", ["statement", "commit"])
def test_without_retries_a_lost_backend_is_an_error_that_says_nothing_was_committed(
    server: Postgres, start_broker: StartBroker, threads: ThreadPoolExecutor, place: str
) -> None:
    broker = start_broker({"main": {**server.parameters, **ENDPOINT}}, GROUPS)
    with gate(server) as closed:
        running = lost_at(closed, place, broker, threads, retries=0)
        terminate(server, closed.arrived()[0])
        with pytest.raises(client.DBConnectionError, match="nothing was committed") as caught:
            running.result(20)
    assert (caught.value.outcome, caught.value.retryable) == ("not executed", True)
    assert tags(server) == []


@pytest.mark.parametrize(("group", "options"), [("default", {"read_only": True}), ("reading", {})])
@pytest.mark.parametrize("kill", [terminate, crash])
def test_a_transaction_that_only_says_it_reads_is_not_run_again_once_its_commit_was_sent(
    fresh_postgres: Factory,
    start_broker: StartBroker,
    threads: ThreadPoolExecutor,
    group: str,
    options: dict[str, bool],
    kill: Kill,
) -> None:
    server = fresh_postgres()
    broker = start_broker({"main": {**server.parameters, **ENDPOINT}}, GROUPS)
    with gate(server) as closed:
        running = threads.submit(book, broker, f"SELECT {closed.passage}", group=group, **options)
        kill(server, closed.arrived()[0])
        with pytest.raises(client.CommitOutcomeUnknown) as caught:
            running.result(30)
    assert caught.value.outcome == "unknown"


# COMMIT's answer is lost on its way.


def lose_the_answer(
    proxy: Proxy, broker: Broker, threads: ThreadPoolExecutor, group: str, other: Postgres | None = None
) -> "Future[Transaction]":
    """A transaction that is committed, of which the broker hears nothing; then new connections lead to other."""
    server = proxy.target
    wait_until(lambda: broker.pool(group)["idle"] == 1, what="a backend")
    with gate(server) as closed:
        before = proxy.answered
        running = lost_at(closed, "statement", broker, threads, group)
        closed.arrived()
        if group != "untracked":
            wait_until(lambda: proxy.answered > before, what="the transaction's id to pass")
        proxy.hold()
        closed.open()
        wait_until(lambda: tags(server), what="the commit")
        proxy.cut(other)
    return running


def test_a_commit_whose_answer_was_lost_is_a_success_without_results(
    server: Postgres, start_broker: StartBroker, threads: ThreadPoolExecutor
) -> None:
    with Proxy(server) as proxy:
        broker = start_broker({"main": {**proxy.parameters, **ENDPOINT}}, GROUPS)
        running = lose_the_answer(proxy, broker, threads, "single").result(20)
        assert running.tries == 1
        for result in running._statements:
            with pytest.raises(client.DBConnectionError, match="was committed") as caught:
                result.result()
            assert caught.value.outcome == "executed"
        assert tags(server) == ["once", "too"]
        assert book(broker, (ADD, ("yet",)), group="single").tries == 1
        assert (broker.group("single")["retries"], broker.group("single")["in_doubt"]) == (0, 0)
        broker.stop()


def test_a_commit_that_goes_on_without_its_connection_is_waited_for(
    server: Postgres, start_broker: StartBroker, threads: ThreadPoolExecutor
) -> None:
    asks = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_catalog.pg_xact_status(%'"
    with Proxy(server) as proxy:
        broker = start_broker({"main": {**proxy.parameters, **ENDPOINT}}, GROUPS)
        with gate(server) as closed:
            running = lost_at(closed, "commit", broker, threads)
            closed.arrived()
            proxy.cut()
            wait_until(lambda: server.execute(asks) != [(0,)], what="the broker to ask what became of it")
            assert not running.done()
            closed.open()
            assert running.result(20).tries == 1
        assert tags(server) == ["once", "too"]
        broker.stop()


@pytest.mark.parametrize("why", ["another server", "a promoted standby", "not tracked"])
def test_where_nobody_can_tell_what_became_of_a_commit_the_error_says_so(
    fresh_postgres: Factory, start_broker: StartBroker, threads: ThreadPoolExecutor, why: str
) -> None:
    server = fresh_postgres()
    server.execute(TABLES)
    group, other = "single", None
    if why == "another server":
        other = fresh_postgres()
    elif why == "a promoted standby":
        other = fresh_postgres.standby(server)
        assert other.execute("SELECT pg_promote()") == [(True,)]
    else:
        group = "untracked"
    with Proxy(server) as proxy:
        broker = start_broker({"main": {**proxy.parameters, **ENDPOINT}}, GROUPS)
        running = lose_the_answer(proxy, broker, threads, group, other)
        with pytest.raises(client.CommitOutcomeUnknown, match="may have been committed, or not") as caught:
            running.result(20)
        assert (caught.value.outcome, caught.value.retryable) == ("unknown", False)
        assert broker.group(group)["in_doubt"] == 1
        broker.stop()


def test_a_transaction_id_that_is_used_again_after_a_crash_is_not_taken_for_the_lost_one(
    fresh_postgres: Factory, start_broker: StartBroker, threads: ThreadPoolExecutor
) -> None:
    # PostgreSQL forgets an id whose transaction had written nothing to disk, and gives it to another.
    server = fresh_postgres()
    server.execute(TABLES)
    with Proxy(server) as proxy:
        broker = start_broker(
            {"main": {**proxy.parameters, **ENDPOINT}}, {"default": {"max_size": 1, "track_outcome": True}}
        )
        wait_until(lambda: broker.pool()["idle"] == 1, what="a backend")
        with gate(server) as closed:
            before = proxy.answered
            running = threads.submit(book, broker, f"SELECT {closed.passage}", (ADD, ("lost",)), retries=0)
            (pid,) = closed.arrived()
            ((lost,),) = server.execute("SELECT backend_xid::text::bigint FROM pg_stat_activity WHERE pid = %s", (pid,))
            wait_until(lambda: proxy.answered > before, what="the transaction's id to pass")
            proxy.hold()
            crash(server, pid)
        used = "INSERT INTO ledger (tag) VALUES ('of another') RETURNING pg_current_xact_id()::text::bigint"
        wait_until(lambda: answers(server), 20, "the server's recovery")
        wait_until(lambda: server.execute(used)[0][0] >= lost, what="the id to be used again")
        proxy.cut()
        with pytest.raises(client.DBConnectionError):
            running.result(20)
        assert "lost" not in tags(server)
        broker.stop()


def answers(server: Postgres) -> bool:
    """Whether it takes connections."""
    try:
        server.execute("SELECT 1")
    except psycopg2.OperationalError:
        return False
    return True


# A worker that dies or gives up.

WAITER = """
import client
db = client.Handler()
try:
    with db.transaction() as tx:
        tx.query("INSERT INTO ledger (tag) VALUES ('mine')")
        tx.query(f"SELECT {sys.argv[1]}")
except KeyboardInterrupt:
    tell('interrupted')
tell(db.run(['SELECT count(*) FROM ledger'])[0][0][0])
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_worker_that_dies_or_is_interrupted_takes_its_transaction_back(
    server: Postgres, start_broker: StartBroker, start_worker: StartWorker, how: signal.Signals
) -> None:
    broker = start_broker({"main": {**server.parameters, **ENDPOINT}}, GROUPS)
    with gate(server) as closed:
        worker = start_worker(WAITER, closed.passage, address=broker.address)
        closed.arrived()
        worker.signal(how)
        wait_until(lambda: closed.waiting() == [], what="the transaction to be cancelled")
        if how == signal.SIGINT:
            assert [worker.hear(), worker.hear()] == ["interrupted", 0]
    wait_until(lambda: broker.pool()["active"] + broker.pool()["cancelling"] == 0, what="the backend to be free")
    assert tags(server) == []
    assert broker.group()["withdrawn"] == 1


def test_a_timeout_ends_a_transaction_that_runs_and_one_that_waits(
    server: Postgres, start_broker: StartBroker, threads: ThreadPoolExecutor
) -> None:
    broker = start_broker({"main": {**server.parameters, **ENDPOINT}}, GROUPS)
    with gate(server) as closed:
        running = lost_at(closed, "statement", broker, threads, "single", timeout=0.5)
        closed.arrived()
        waiting = lost_at(closed, "statement", broker, threads, "single", timeout=0.1)
        with pytest.raises(client.PoolTimeout, match="the request's timeout") as caught:
            waiting.result(20)
        assert caught.value.outcome == "not executed"
        with pytest.raises(psycopg2.errors.QueryCanceled, match=r"timeout of 0\.5 s"):
            running.result(20)
    assert tags(server) == []
    assert book(broker, (ADD, ("in time",)), group="single", timeout=20).tries == 1


def test_a_transaction_waits_for_a_server_that_is_away_and_says_so_where_it_stays_away(
    fresh_postgres: Factory, start_broker: StartBroker, threads: ThreadPoolExecutor
) -> None:
    server = fresh_postgres()
    server.execute(TABLES)
    impatient = {"max_size": 1, "queue_timeout": 0.3}
    broker = start_broker({"main": {**server.parameters, **ENDPOINT}}, {**GROUPS, "impatient": impatient})
    server.kill()
    waiting = threads.submit(book, broker, (ADD, ("later",)))
    with pytest.raises(client.DBConnectionError, match="main") as caught:
        book(broker, (ADD, ("never",)), group="impatient")
    assert caught.value.outcome == "not executed"
    assert not waiting.done()
    server.start()
    assert waiting.result(20).tries == 1
    assert tags(server) == ["later"]


def test_a_drain_waits_for_a_running_transaction(
    server: Postgres, start_broker: StartBroker, threads: ThreadPoolExecutor
) -> None:
    broker = start_broker({"main": {**server.parameters, **ENDPOINT}}, GROUPS)
    with gate(server) as closed:
        running = lost_at(closed, "statement", broker, threads)
        closed.arrived()
        broker.signal(signal.SIGTERM)
        wait_until(lambda: broker.stats()["state"] == "draining", what="the drain")
        closed.open()
        assert running.result(20).tries == 1
    assert broker.wait() == 0
    assert tags(server) == ["once", "too"]
