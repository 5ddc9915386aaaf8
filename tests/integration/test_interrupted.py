"""Exceptions that leave a call in the middle, calls inside of calls, and calls that end while the broker hangs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import ROOT, Broker, Worker, poold
from keypairs import Keyring
from postgres import Postgres
from waiting import wait_until

from client import CommitOutcomeUnknown, DBConnectionError, TransactionLost

StartBroker = Callable[..., Broker]
StartWorker = Callable[..., Worker]

SCHEMA = "interrupted_test"
# A deferred trigger makes COMMIT wait as long as its row says.
TABLES = f"""
CREATE SCHEMA {SCHEMA};
CREATE TABLE {SCHEMA}.slow (seconds float);
CREATE FUNCTION {SCHEMA}.wait() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(NEW.seconds); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON {SCHEMA}.slow DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.wait()
"""


@pytest.fixture(scope="module", autouse=True)
def schema(postgres: Postgres) -> Iterator[None]:
    postgres.execute(TABLES)
    yield
    postgres.execute(f"DROP SCHEMA {SCHEMA} CASCADE; DROP TABLE IF EXISTS interrupted")


class Limit(Exception):
    """A time limit's, raised by a signal handler."""


@pytest.fixture
def limit() -> Iterator[Callable[[float], None]]:
    """Lets a Limit be raised after so many seconds, once."""

    def on_alarm(*_: Any) -> None:
        raise Limit

    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)  # type: ignore[return-value]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def committing(postgres: Postgres) -> bool:
    """Whether a COMMIT waits for the trigger."""
    found = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query ~* '^(/. it ./ )?(COMMIT|END)'"
    return bool(postgres.execute(found))


@pytest.mark.parametrize("transport", ["ipc", "tcp", "keys"])
def test_no_exception_at_any_moment_is_lost_or_leaves_a_wrong_answer_behind(
    start_broker: StartBroker, request: pytest.FixtureRequest, tmp_path: Path, transport: str
) -> None:
    alarms, seed = request.config.getoption("--alarms"), int.from_bytes(os.urandom(3), "big")
    keyring = Keyring(tmp_path)
    where = {"ipc": {}, "tcp": {"address": keyring.address}, "keys": keyring.broker}[transport]
    broker = start_broker(
        broker=where, groups={"default": {"max_size": 4}, "transactions": {"autocommit": False, "max_size": 4}}
    )
    keys = keyring.environment if transport == "keys" else {}
    done = subprocess.run(
        [sys.executable, "tests/interrupting.py", broker.address, str(alarms), str(seed)],
        env={**os.environ, **keys},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100 + alarms / 10,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["faults"], told["lost"]) == ([], []), f"seed {seed}"
    assert told["alarms"] >= alarms

    def leased() -> int:
        stats = json.loads(poold("stats", "--json", f"--address={broker.address}", **keys).stdout)
        return int(stats["groups"]["transactions"]["endpoints"]["main"]["leased"])

    wait_until(lambda: leased() == 0, what="the end of all leases")


# COMMIT without an answer.


@pytest.mark.parametrize("by", ["commit", "COMMIT", "/* it */ END", "SELECT 1; commit"])
@pytest.mark.parametrize("group", ["transactions", "default"])
def test_a_commit_that_was_interrupted_is_unknown_until_rollback(
    broker: Broker, postgres: Postgres, limit: Callable[[float], None], group: str, by: str
) -> None:
    postgres.execute(f"TRUNCATE {SCHEMA}.slow")
    outer = broker.handler(group)
    handler = outer.session() if group == "default" else outer
    if group == "default":
        handler.query("BEGIN")
    handler.query(f"INSERT INTO {SCHEMA}.slow VALUES (0.6)")
    limit(0.3)
    with pytest.raises(Limit):
        handler.commit() if by == "commit" else handler.query(by)
    others = [lambda: handler.run([("SELECT 1",)]), handler.transaction, handler.session] if handler is outer else []
    for again in (handler.commit, lambda: handler.query("SELECT 1"), *others, handler.commit):
        with pytest.raises(CommitOutcomeUnknown, match="may have been committed") as caught:
            again()
        assert (caught.value.outcome, caught.value.retryable) == ("unknown", False)
    handler.rollback()
    if group == "default":
        with pytest.raises(TransactionLost):
            handler.query("SELECT 1")  # a session that is lost stays so
        handler = outer
    assert handler.query("SELECT 1").fetchone() == (1,)
    handler.rollback()
    if by == "commit":
        wait_until(lambda: postgres.execute(f"SELECT * FROM {SCHEMA}.slow"), what="the commit, which nobody cancels")


@pytest.mark.parametrize("by", ["commit", "END"])
def test_a_commit_whose_broker_was_killed_is_unknown_in_every_later_answer(
    start_broker: StartBroker, postgres: Postgres, limit: Callable[[float], None], by: str
) -> None:
    broker = start_broker()
    tx = broker.handler("transactions")
    tx.query(f"INSERT INTO {SCHEMA}.slow VALUES (1)")

    def kill(*_: Any) -> None:
        assert committing(postgres)
        broker.kill()

    signal.signal(signal.SIGALRM, kill)
    limit(0.5)
    with pytest.raises(CommitOutcomeUnknown):
        tx.commit() if by == "commit" else tx.query(by)
    broker.start()
    for again in (tx.commit, lambda: tx.query("SELECT 1"), lambda: tx.run([("SELECT 1",)]), tx.transaction, tx.session):
        with pytest.raises(CommitOutcomeUnknown):
            again()
    tx.rollback()
    assert tx.query("SELECT 2").fetchone() == (2,)
    tx.rollback()


def test_a_commit_whose_backend_was_lost_is_not_taken_for_done_by_the_next(
    broker: Broker, postgres: Postgres, limit: Callable[[float], None]
) -> None:
    tx = broker.handler("transactions")
    tx.query(f"INSERT INTO {SCHEMA}.slow VALUES (2)")
    pid = tx.query("SELECT pg_backend_pid()")[0][0]

    def terminate(*_: Any) -> None:
        postgres.execute("SELECT pg_terminate_backend(%s)", (pid,))

    signal.signal(signal.SIGALRM, terminate)
    limit(0.3)
    with pytest.raises(DBConnectionError) as caught:
        tx.commit()
    if caught.value.outcome == "unknown":
        with pytest.raises(CommitOutcomeUnknown):
            tx.commit()
    tx.rollback()
    assert tx.query("SELECT 1").fetchone() == (1,)
    tx.rollback()


def test_a_statement_that_was_interrupted_loses_its_transaction_and_says_so(
    broker: Broker, postgres: Postgres, limit: Callable[[float], None]
) -> None:
    tx = broker.handler("transactions")
    tx.query(f"INSERT INTO {SCHEMA}.slow VALUES (0)")
    limit(0.2)
    with pytest.raises(Limit):
        tx.query("SELECT 'interrupt', CASE WHEN true THEN pg_sleep(30) END")
    wait_until(lambda: broker.pool("transactions")["leased"] == 0, what="the end of the lost transaction")
    with pytest.raises(TransactionLost) as caught:
        tx.commit()
    assert (caught.value.outcome, caught.value.retryable) == ("not executed", True)
    tx.rollback()
    assert tx.query("SELECT 1").fetchone() == (1,)
    tx.rollback()


# Calls inside of calls.

NESTED = """
import signal
from client import Connection, Handler, UsageError
Connection.init({"type": sys.argv[1]})
db = Handler(sys.argv[2])
inner = []
def on_alarm(*_):
    try:
        inner.append(db.query("SELECT 'inner', pg_sleep(0.5)")[0][0])
    except UsageError as error:
        inner.append(str(error))
signal.signal(signal.SIGALRM, on_alarm)
for _ in range(3):
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    tell(db.query("SELECT 'outer', pg_sleep(0.3)")[0][0])
tell(inner)
tell(db.query("SELECT 'after'")[0][0])
db.rollback()
"""


@pytest.mark.parametrize("model", ["threaded", "non-threaded"])
def test_a_signal_handler_asks_on_a_channel_of_its_own_and_not_inside_a_transaction(
    start_worker: StartWorker, model: str
) -> None:
    told = start_worker(NESTED, model, "default").finish()
    assert told == [*["outer"] * 3, ["inner"] * 3, "after"]
    *outer, inner, after = start_worker(NESTED, model, "transactions").finish()
    assert (outer, after) == (["outer"] * 3, "after")
    assert len(inner) == 3
    assert all("in the middle of a call" in each for each in inner)


# A broker that hangs.


@pytest.mark.parametrize("size", [1, 8_000_000])
@pytest.mark.parametrize("is_open", [True, False])
def test_a_timeout_bounds_the_call_while_the_broker_hangs(start_broker: StartBroker, size: int, is_open: bool) -> None:
    broker = start_broker()
    db = broker.handler()
    assert db.query("SELECT 1").fetchone() == (1,)
    if not is_open:
        for channels in broker_channels():
            channels.close()
    broker.signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        with pytest.raises(DBConnectionError) as caught:
            db.query("SELECT length(%s)", ("x" * size,), timeout=0.5)
        took = time.monotonic() - began
    finally:
        broker.signal(signal.SIGCONT)
    # Far from the 10 s and 30 s for which a broker is given time otherwise; the limit itself is 1.5 s.
    assert took < 8
    # What was not sent whole is not run.
    assert caught.value.outcome == ("unknown" if is_open and size == 1 else "not executed")
    assert db.query("SELECT 2").fetchone() == (2,)


def broker_channels() -> list[Any]:
    from client.channels import registry

    return list(registry._per_thread.channels.values())


# One transaction by many.


def test_steps_of_a_session_may_run_in_different_threads(broker: Broker) -> None:
    import asyncio

    async def work(number: int) -> int:
        session = broker.handler().session()
        await asyncio.to_thread(session.query, f"CREATE TEMP TABLE mine AS SELECT {number} AS n")
        await asyncio.sleep(0)
        found = await asyncio.to_thread(session.query, "SELECT n FROM mine")
        await asyncio.to_thread(session.close)
        return int(found[0][0])

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*map(work, range(4)))

    assert asyncio.run(all_of_them()) == list(range(4))
