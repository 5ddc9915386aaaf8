"""Operators' commands on a real broker: what they say, and what clients notice."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from brokers import Broker, poold
from waiting import wait_until

from client import Handler

StartBroker = Callable[..., Broker]
GROUPS: dict[str, dict[str, Any]] = {
    "default": {"min_size": 2, "max_size": 4},
    "transactions": {"autocommit": False, "min_size": 0, "max_size": 2},
}


def order(broker: Broker, *words: str) -> Any:
    """What the command prints as JSON."""
    done = poold(*words, "--json", f"--address={broker.address}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def pid_of(db: Handler) -> int:
    return int(db.query("SELECT pg_backend_pid()")[0][0])


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
    assert done.stdout.endswith(" more follow as they come to rest\n")


def test_a_name_that_is_not_there_is_an_error_with_those_that_are(broker: Broker) -> None:
    address = f"--address={broker.address}"
    done = poold("reconnect", "missing", address)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "poold: there is no group 'missing'; there are default, transactions\n"
    done = poold("reconnect", "--endpoint=missing", address)
    assert (done.returncode, done.stderr) == (1, "poold: there is no endpoint 'missing'; there are main\n")


def test_an_order_needs_a_broker() -> None:
    done = poold("reconnect", "--address=ipc:///tmp/poold-nobody-is-here")
    assert (done.returncode, done.stdout) == (3, "")
