"""Operators' commands on a real broker: what they say, and what clients notice."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import psycopg2
import pytest
from brokers import Broker, order, poold
from waiting import wait_until

from client import DBConnectionError, Handler, PoolTimeout, TransactionLost

StartBroker = Callable[..., Broker]
GROUPS: dict[str, dict[str, Any]] = {
    "default": {"min_size": 2, "max_size": 4},
    "transactions": {"autocommit": False, "min_size": 0, "max_size": 2},
}


def pid_of(db: Handler) -> int:
    return int(db.query("SELECT pg_backend_pid()")[0][0])


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.fixture
def broker(start_broker: StartBroker) -> Broker:
    broker = start_broker(groups=GROUPS)
    wait_until(lambda: broker.pool()["idle"] == 2, what="min_size backends")
    return broker


def test_reconnect_replaces_what_rests_at_once_and_an_open_transaction_behind_its_end(broker: Broker) -> None:
    db = broker.handler()
    for _ in range(50):  # so that the lane has it
        first = pid_of(db)
    holder = broker.handler("transactions")
    held = pid_of(holder)
    told = order(broker, "reconnect")
    assert (told["groups"], told["endpoint"]) == (["default", "transactions"], None)
    assert told["closed"] + told["closing"] >= 3
    assert told["closing"] >= 1
    assert pid_of(db) != first
    assert pid_of(holder) == held
    assert broker.pool("transactions")["outdated"] == 1
    holder.commit()
    wait_until(lambda: broker.pool("transactions")["outdated"] == 0, what="the end of the backend that was leased")
    assert pid_of(holder) != held
    holder.rollback()
    wait_until(lambda: broker.pool()["idle"] == 2, what="min_size backends again")
    assert broker.group()["errors"] == broker.pool()["lost"] == 0
    done = poold("reconnect", "default", "--endpoint=main", f"--address={broker.address}")
    assert done.stdout.startswith("endpoint main in default: ")
    assert " backend" in done.stdout
    assert done.stdout.endswith(" to rest\n")


def test_a_name_that_is_not_there_is_an_error_with_those_that_are(broker: Broker) -> None:
    address = f"--address={broker.address}"
    done = poold("reconnect", "missing", address)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "poold: there is no group 'missing'; there are default, transactions\n"
    done = poold("reconnect", "--endpoint=missing", address)
    assert (done.returncode, done.stderr) == (1, "poold: there is no endpoint 'missing'; there are main\n")


@pytest.mark.parametrize("what", ["pause", "drain", "reconnect", "resume"])
def test_an_endpoint_without_a_name_or_with_two_does_not_mean_everything_or_the_last(broker: Broker, what: str) -> None:
    address = f"--address={broker.address}"
    opened = broker.pool()["opened"]
    for words in (["--endpoint="], ["--endpoint", ""], ["--endpoint=missing", "--endpoint=main"]):
        assert poold(what, *words, address).returncode == 2
        found = broker.stats()
        assert {each["state"] for each in (found, *found["groups"].values())} == {"running"}
    assert broker.pool()["opened"] == opened


def test_a_command_that_ends_one_thing_refuses_two(broker: Broker) -> None:
    holders = [broker.handler("transactions"), broker.handler("transactions")]
    for each in holders:
        each.query("SELECT 1")
    ids = [each["id"] for each in broker.stats()["work"] if each["what"] == "transaction"]
    done = poold("kill", f"--lease={ids[0]}", f"--lease={ids[1]}", f"--address={broker.address}")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "Error: --lease is given 2 times; give it once")
    for each in holders:
        assert each.query("SELECT 1").fetchone() == (1,)
        each.rollback()


def test_an_order_needs_a_broker() -> None:
    done = poold("reconnect", "--address=ipc:///tmp/poold-nobody-is-here")
    assert (done.returncode, done.stdout) == (3, "")


# Pauses.


def begin(db: Handler, statement: str, threads: ThreadPoolExecutor) -> Future[Any]:
    return threads.submit(lambda: db.query(statement)[0][0])


def test_a_pause_waits_for_what_runs_and_resume_serves_who_waits(broker: Broker, threads: ThreadPoolExecutor) -> None:
    db = broker.handler()
    for _ in range(50):  # so that the lane has it
        db.query("SELECT 1")
    holder = broker.handler("transactions")
    holder.query("SELECT 1")
    pausing = threads.submit(order, broker, "pause")
    wait_until(lambda: broker.group("transactions")["state"] == "pausing", what="the pause")
    late = begin(broker.handler(), "SELECT 2", threads)
    wait_until(lambda: broker.group()["waiting"] == 1, what="the request that waits")
    assert holder.query("SELECT 3")[0][0] == 3
    assert not pausing.done()
    holder.commit()
    assert pausing.result()["paused"] is True
    assert [broker.group(name)["state"] for name in GROUPS] == ["paused", "paused"]
    assert broker.pool()["is_paused"] is True
    assert "paused" in poold("stats", f"--address={broker.address}").stdout
    assert not late.done()
    done = poold("resume", f"--address={broker.address}")
    assert done.stdout == "default, transactions: resumed\n"
    assert late.result() == 2
    assert poold("resume", f"--address={broker.address}").stdout.endswith("nothing of it was paused\n")


def test_a_pause_that_takes_too_long_says_who_is_busy_and_is_undone(broker: Broker) -> None:
    holder = broker.handler("transactions")
    holder.query("SELECT 1")
    done = poold("pause", "transactions", "--timeout=0.2", f"--address={broker.address}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "transactions: not at rest within 0.2 s, the pause is undone; 1 backend is busy" in done.stderr
    assert f"transactions on main: transaction of process {os.getpid()}, client " in done.stderr
    assert broker.group("transactions")["state"] == "running"
    assert holder.query("SELECT 2")[0][0] == 2
    holder.rollback()


def test_a_pause_whose_command_dies_is_undone(broker: Broker) -> None:
    holder = broker.handler("transactions")
    holder.query("SELECT 1")
    command = subprocess.Popen([sys.executable, "-m", "poold", "pause", f"--address={broker.address}"])
    wait_until(lambda: broker.group("transactions")["state"] == "pausing", what="the pause")
    assert broker.group()["state"] == "paused"
    command.kill()
    command.wait()
    wait_until(lambda: broker.group()["state"] == "running", what="the end of the pause")
    assert broker.handler().query("SELECT 1")[0][0] == 1
    holder.rollback()


def test_what_waits_in_a_paused_broker_that_is_stopped_was_not_executed(
    broker: Broker, threads: ThreadPoolExecutor
) -> None:
    order(broker, "pause", "default")
    waiting = begin(broker.handler(), "SELECT 1", threads)
    wait_until(lambda: broker.group()["waiting"] == 1, what="the request that waits")
    broker.ask("stop")
    with pytest.raises(DBConnectionError) as caught:
        waiting.result()
    assert caught.value.outcome == "not executed"
    assert broker.wait() == 0


def test_what_waits_in_a_pause_times_out_with_the_reason(start_broker: StartBroker) -> None:
    broker = start_broker(groups={"default": {"queue_timeout": 0.1}})
    order(broker, "pause")
    with pytest.raises(PoolTimeout, match="group 'default' was paused by an operator") as caught:
        broker.handler().query("SELECT 1")
    assert caught.value.outcome == "not executed"
    order(broker, "resume")
    assert broker.handler().query("SELECT 1")[0][0] == 1


def test_a_pause_of_an_endpoint_leaves_its_part_to_the_others(start_broker: StartBroker, postgres: Any) -> None:
    endpoints = {"one": postgres.parameters, "two": postgres.parameters}
    broker = start_broker(endpoints=endpoints, groups={"default": {"role": "any", "min_size": 2}})
    order(broker, "pause", "--endpoint=one")
    assert broker.pool("default", "one")["size"] == 0
    assert broker.group()["state"] == "running"
    db = broker.handler()
    before = broker.pool("default", "one")["requests"]
    for _ in range(20):
        assert db.query("SELECT 1")[0][0] == 1
    assert broker.pool("default", "one")["requests"] == before
    order(broker, "resume", "--endpoint=one")
    wait_until(lambda: broker.pool("default", "one")["idle"] > 0, what="backends on the endpoint")


# Kills.


def work(broker: Broker, what: str, **wanted: Any) -> dict[str, Any]:
    """The one piece of work of this kind that `poold stats` lists."""

    def found() -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(poold("stats", "--json", f"--address={broker.address}").stdout)[
            "work"
        ]
        return [each for each in listed if each["what"] == what and wanted.items() <= each.items()]

    wait_until(lambda: len(found()) == 1, what=f"a {what}")
    return found()[0]


def test_a_killed_statement_ends_with_an_error_that_says_by_whom(broker: Broker, threads: ThreadPoolExecutor) -> None:
    running = begin(broker.handler(tag="slow report"), "SELECT pg_sleep(60)", threads)
    found = work(broker, "request", tag="slow report", state="running")
    assert found["pid"] == os.getpid()
    assert found["id"] in poold("stats", f"--address={broker.address}").stdout
    done = poold("kill", f"--request={found['id']}", f"--address={broker.address}")
    assert done.stdout == f"request {found['id']} is ended\n"
    with pytest.raises(psycopg2.errors.QueryCanceled, match="an administrator ended it"):
        running.result()


def test_a_killed_transaction_is_rolled_back_and_its_client_told_why(broker: Broker) -> None:
    db = broker.handler("transactions")
    db.query("CREATE TABLE killed (n int)")
    found = work(broker, "transaction", group="transactions")
    assert order(broker, "kill", f"--lease={found['id']}")["clients"] == [found["client"]]
    with pytest.raises(TransactionLost, match="an administrator ended it"):
        db.query("SELECT 1")
    db.rollback()
    assert db.query("SELECT to_regclass('killed')")[0][0] is None
    db.rollback()


def test_a_killed_process_is_disconnected_and_told_why(broker: Broker) -> None:
    program = """
import sys
from client import Handler, DBConnectionError
db = Handler()
print("ready", flush=True)
try:
    db.query("SELECT pg_sleep(60)")
except DBConnectionError as error:
    print(error.outcome, error, flush=True)
print(db.query("SELECT 1")[0][0])
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "POOLD_ADDRESS": broker.address},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        work(broker, "request", pid=process.pid, state="running")
        told = order(broker, "kill", f"--pid={process.pid}")
        assert len(told["clients"]) == 1
        output = process.communicate(timeout=30)[0].splitlines()
    assert output[0] == "ready"
    assert output[1].startswith("unknown ")
    assert "disconnected: an administrator ended it" in output[1]
    assert output[2] == "1"


def test_a_stream_of_large_blocks_is_told_who_has_ended_it(broker: Broker) -> None:
    """What it has not read yet is more than a socket holds, and the reason comes behind it."""
    db = broker.handler()
    with db.stream("SELECT repeat('x', 1000000) FROM generate_series(1, 100)", size=4) as rows:
        next(iter(rows))
        order(broker, "kill", f"--pid={os.getpid()}")
        with pytest.raises(DBConnectionError, match="an administrator ended it"):
            list(rows)
    assert db.query("SELECT 1")[0][0] == 1


@pytest.mark.parametrize("named", ["pid", "client"])
@pytest.mark.parametrize("what", ["query", "commit", "in a session"])
def test_whoever_has_a_transaction_open_is_told_who_has_ended_it(broker: Broker, named: str, what: str) -> None:
    """It rests when its client is disconnected, and hears of it by its next call."""
    db = broker.handler("transactions")
    stack = ExitStack()
    session = stack.enter_context(db.session()) if what == "in a session" else db
    session.query("SELECT 1")
    kind = "session" if what == "in a session" else "transaction"
    found = work(broker, kind, group="transactions")
    assert order(broker, "kill", f"--{named}={found['pid' if named == 'pid' else 'client']}")["clients"]
    with pytest.raises(DBConnectionError, match="an administrator ended it") as caught:
        session.commit() if what == "commit" else session.query("SELECT 1")
    assert caught.value.outcome == "not executed"
    with contextlib.suppress(DBConnectionError):
        stack.close()
    db.rollback()
    assert db.query("SELECT 2")[0][0] == 2
    db.rollback()


def test_the_log_says_who_ordered_what_about_what_and_what_came_of_it(broker: Broker) -> None:
    holder = broker.handler("transactions")
    holder.query("SELECT 1")
    poold("pause", "transactions", "--timeout=0.2", f"--address={broker.address}")
    command = subprocess.Popen([sys.executable, "-m", "poold", "drain", f"--address={broker.address}"])
    wait_until(lambda: "order begun what=drain" in broker.log(), what="the drain")
    command.kill()
    command.wait()
    wait_until(lambda: "order undone what=drain" in broker.log(), what="the end of the drain")
    found = work(broker, "transaction", group="transactions")
    order(broker, "kill", f"--lease={found['id']}")
    poold("kill", "--lease=1/999", f"--address={broker.address}")
    order(broker, "pause", "default")
    order(broker, "resume")
    lines = [line.partition("poold.clients.audit ")[2] for line in broker.log().splitlines() if ".audit " in line]
    me = f"uid={os.getuid()} result="
    wanted = [
        ('order begun what=pause on="group=transactions"', "it waits for what runs"),
        ('order undone what=pause on="group=transactions"', f"transaction of pid {os.getpid()} in"),
        ("order begun what=drain on=everything", "it waits for what runs"),
        ("order undone what=drain on=everything", "its command has ended before it came to rest"),
        (f'order done what=kill on="lease={found["id"]}"', f"client {found['client']} (pid {os.getpid()})"),
        ('order refused what=kill on="lease=1/999"', "there is no client 1; "),
        ('order begun what=pause on="group=default"', "it waits for what runs"),
        ('order done what=pause on="group=default"', "at rest after "),
        ("order done what=resume on=everything", "goes on: default"),
    ]
    for line, (begin, result) in zip(lines, wanted, strict=True):
        assert line.startswith(begin)
        assert me in line
        assert result in line
    with contextlib.suppress(DBConnectionError):
        holder.rollback()


def test_what_is_gone_already_is_an_error(broker: Broker) -> None:
    done = poold("kill", "--request=1/999", f"--address={broker.address}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "poold stats --json" in done.stderr
    assert poold("kill", f"--address={broker.address}").returncode == 2
    assert poold("kill", "--pid=1", "--client=1", f"--address={broker.address}").returncode == 2
