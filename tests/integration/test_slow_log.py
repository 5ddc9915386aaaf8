"""The log of what takes long, on real brokers and servers, in both formats."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2.errors
import pytest
from brokers import Broker, poold
from waiting import wait_until

from client import Handler, PoolTimeout

StartBroker = Callable[..., Broker]
SECRET = "opensesame"
HERE = Path(__file__).name


def lines(broker: Broker) -> list[dict[str, Any]]:
    """Each line of the log, which is JSON."""
    return [json.loads(line) for line in broker.log().splitlines()]


def logged(broker: Broker, event: str, **fields: Any) -> dict[str, Any]:
    """The only line of this event with these fields, as soon as it is there."""

    def found() -> list[dict[str, Any]]:
        return [line for line in lines(broker) if line["event"] == event and fields.items() <= line.items()]

    wait_until(found, what=f"{event} with {fields} in the log")
    (line,) = found()
    return line


@pytest.fixture
def slow(start_broker: StartBroker) -> Broker:
    common = {"max_size": 1, "log_slow": 0.05, "log_long_wait": 0.1}
    groups = {
        "default": common | {"queue_timeout": 0.3},
        "transactions": common | {"autocommit": False},
        "lane": {"max_size": 1, "log_slow": 0.01, "log_long_wait": 0.05},
        "quiet": {"max_size": 1},
    }
    return start_broker(groups=groups, broker={"log_format": "json"})


def test_a_slow_statement_is_logged_with_all_that_is_known_and_without_values(slow: Broker) -> None:
    db = slow.handler(tag="night report", code_place=True)
    (pid,) = db.query("SELECT pg_backend_pid(), pg_sleep(%s), %s, 'literal'", (0.06, SECRET))[0][:1]
    line = logged(slow, "slow request")
    assert line.pop("time") < "9"
    assert 60 <= line.pop("ran_ms") < 5000
    assert line.pop("waited_ms") >= 0
    function, _, file = line.pop("code").partition(" ")
    assert function == f"{__name__}.test_a_slow_statement_is_logged_with_all_that_is_known_and_without_values"
    assert file.startswith(f"{HERE}:")
    assert line.pop("process")
    assert line == {
        "level": "warning", "logger": "poold.notes", "group": "default", "endpoint": "main", "server_pid": pid,
        "pid": os.getpid(), "tag": "night report", "outcome": "executed", "rows": 1, "event": "slow request",
        "statement": "SELECT pg_backend_pid(), pg_sleep($1), $2, ?",
    }  # fmt: skip
    assert SECRET not in slow.log()
    assert "literal" not in slow.log()


def test_a_slow_failure_has_its_sqlstate_and_no_message(slow: Broker) -> None:
    db = slow.handler()
    with pytest.raises(psycopg2.errors.RaiseException):
        db.query(f"DO $$ BEGIN PERFORM pg_sleep(0.06); RAISE '{SECRET}'; END $$")
    line = logged(slow, "slow request", outcome="failed", sqlstate="P0001")
    assert (line["error"], line["statement"]) == ("query", "DO ?")
    assert SECRET not in slow.log()


def test_a_transaction_message_is_logged_as_one(slow: Broker) -> None:
    db = slow.handler()
    with db.transaction() as tx:
        tx.query("SELECT %s", (SECRET,))
        tx.query("SELECT pg_sleep(0.06)")
    line = logged(slow, "slow request")
    assert line["statement"] == "SELECT $1; SELECT pg_sleep(?)"


def test_an_interactive_transaction_that_was_open_for_long_is_logged(slow: Broker) -> None:
    with slow.handler("transactions", tag="shop", code_place=True) as db:
        db.query("SELECT 1")
        threading.Event().wait(0.06)
    line = logged(slow, "slow transaction")
    assert line["open_ms"] >= 60
    assert line["idle_ms"] >= 55
    assert (line["tag"], line["requests"], line["code"].split(":")[0].split()[1]) == ("shop", 2, HERE)


def test_the_slow_block_of_a_stream_names_its_query(slow: Broker) -> None:
    assert len(list(slow.handler("quiet").stream("SELECT 1"))) == 1
    rows = list(
        slow.handler().stream("SELECT pg_sleep(0.02), %s AS kind FROM generate_series(1, 5)", (SECRET,), size=3)
    )
    assert len(rows) == 5
    line = logged(slow, "slow request")
    query = "SELECT pg_sleep(?), $1 AS kind FROM generate_series(?, ?)"
    assert line["statement"] == f"FETCH ? FROM poold_stream_0: {query}"
    stats = json.loads(poold("stats", "statements", "--json", f"--address={slow.address}").stdout)
    shape = "SELECT pg_sleep(?), ? AS kind FROM generate_series(?, ...)"
    assert f"FETCH ? FROM poold_stream_?: {shape}" in [each["text"] for each in stats["statements"]]


def test_a_wait_is_logged_when_it_ends_by_a_backend_or_without_one(slow: Broker) -> None:
    blocker, waiter = slow.handler(), slow.handler(tag="waiter")
    thread = threading.Thread(target=blocker.query, args=("SELECT pg_sleep(0.8)",))
    thread.start()
    wait_until(lambda: slow.pool()["active"] == 1, what="the blocker to run")
    with pytest.raises(PoolTimeout):
        waiter.query("SELECT 2", timeout=None)
    line = logged(slow, "long wait", tag="waiter")
    assert (line["outcome"], line["error"]) == ("not executed", "pool-timeout")
    assert "server_pid" not in line
    assert line["waited_ms"] >= 300
    thread.join()


def test_what_the_lane_runs_or_lets_wait_is_logged_by_limits_below_its_own(slow: Broker) -> None:
    db = slow.handler("lane", tag="laned", code_place=True)
    statement = "SELECT count(*) FROM generate_series(1, %s)"
    for _ in range(60):
        db.query(statement, (1,))
    assert slow.stats()["lane"].get("requests", 1) > 0, "the lane has run none of them"
    slow.handler("lane", tag="slow", code_place=True).query(statement, (500_000,))
    line = logged(slow, "slow request", tag="slow")
    assert line["ran_ms"] >= 10
    assert line["statement"] == "SELECT count(*) FROM generate_series(?, $1)"
    assert HERE in line["code"]


def test_without_limits_nothing_is_logged(slow: Broker) -> None:
    slow.handler("quiet").query("SELECT pg_sleep(0.3)")
    slow.handler("default").query("SELECT pg_sleep(0.06)")
    logged(slow, "slow request")
    assert not [line for line in lines(slow) if line.get("group") == "quiet"]


def test_many_slow_statements_are_counted_and_not_all_logged(start_broker: StartBroker) -> None:
    broker = start_broker(groups={"default": {"log_slow": 0.000001, "max_size": 2}}, broker={"log_format": "json"})
    db = broker.handler()
    for _ in range(300):
        db.query("SELECT 1")
    wait_until(lambda: any(line["event"] == "slow request" for line in lines(broker)), what="the first lines")
    shown = sum(line["event"] == "slow request" for line in lines(broker))
    assert 0 < shown < 200


def test_hostile_tags_and_names_are_values_in_both_formats(start_broker: StartBroker) -> None:
    tag = 'a" outcome="forged\n{"event": "x"}\x1b[2J\u2028'
    for form in ("json", "text"):
        broker = start_broker(groups={"default": {"log_slow": 0.01}}, broker={"log_format": form})
        broker.handler(tag=tag).query("SELECT pg_sleep(0.02)")
        wait_until(lambda broker=broker: "slow request" in broker.log(), what="the line")  # type: ignore[misc]  # its own
        found = [line for line in broker.log().split("\n") if "slow request" in line]
        assert len(found) == 1
        if form == "json":
            assert json.loads(found[0])["tag"] == tag
        else:
            assert f"tag={json.dumps(tag)}" in found[0].replace("\u2028", "\\u2028")


def test_all_that_a_broker_says_is_json_from_its_first_line_to_its_last(start_broker: StartBroker) -> None:
    broker = start_broker(broker={"log_format": "text"}, start=False)
    broker.start("--log-format", "json", "--verbose")
    Handler(address=broker.address).query("SELECT 1")
    broker.stop()
    found = lines(broker)
    assert {"broker started", "backend opened", "broker stopped"} <= {line["event"] for line in found}
    for line in found:
        assert {"time", "level", "logger", "event"} <= line.keys()
        assert line["time"].endswith("Z")
    (started,) = [line for line in found if line["event"] == "broker started"]
    assert started["pid"] > 1
