"""How many files the broker may have open: what does not fit is refused before, and operators always get in."""

import os
import resource
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from brokers import Broker, order, poold, run
from postgres import Postgres, free_port
from waiting import wait_until

import client
from client.channels.channel import Channel
from client.errors import DBConnectionError
from poold.config.descriptors import OWN, RESERVED_CLIENTS
from poold.system.descriptors import KEPT

StartBroker = Callable[..., Broker]

# Enough for OWN, RESERVED_CLIENTS, one endpoint, and a few clients and backends.
LIMIT = OWN + RESERVED_CLIENTS + 24
BEFORE = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT}))"
FITTING = {"default": {"max_size": 8}}
TOO_LARGE = {"default": {"max_size": 8}, "other": {"max_size": 60}}


def free(pid: int) -> list[int]:
    """The lowest descriptors that the process does not have, in their order.

    Whoever has just left it still has one, so nobody has left it in these tests.
    """
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return [each for each in range(max(taken) + 20) if each not in taken]


def allow(broker: Broker, soft: int, hard: int) -> None:
    resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_a_broker_whose_backends_have_too_few_descriptors_does_not_start(start_broker: StartBroker) -> None:
    broker = start_broker(groups=TOO_LARGE, start=False)
    done = run("bash", "-c", f"ulimit -n {LIMIT}; exec {sys.executable} -m poold start --config {broker.config}")
    assert done.returncode == 1
    assert f"({8 + 60} for backends (" in done.stderr
    assert f"this process may have {LIMIT}; raise the limit" in done.stderr
    assert "Traceback" not in done.stderr
    # Doctor says the same of this machine's limit.
    done = run("bash", "-c", f"ulimit -n {LIMIT}; exec {sys.executable} -m poold doctor {broker.config}")
    assert f"PROBLEM  open files: the limit is {LIMIT}; backends need up to 68" in done.stdout


def test_backends_on_replicas_count_as_well(start_broker: StartBroker, postgres: Postgres) -> None:
    endpoint = dict(postgres.parameters)
    groups = {"default": {"max_size": 15, "role": "primary"}}
    broker = start_broker(endpoints={"main": endpoint, "other": endpoint}, groups=groups, start=False)
    done = run("bash", "-c", f"ulimit -n {LIMIT}; exec {sys.executable} -m poold start --config {broker.config}")
    assert done.returncode == 1
    assert "(30 for backends (" in done.stderr


def test_a_soft_limit_is_raised_before_anything_is_refused(start_broker: StartBroker) -> None:
    broker = start_broker(groups=TOO_LARGE, start=False)
    soft = f"resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))"
    broker.start(before=f"import resource; {soft}")
    assert broker.handler().query("SELECT 1").fetchone() == (1,)


def test_a_reload_or_a_restart_with_too_many_backends_is_refused_and_the_broker_goes_on(
    start_broker: StartBroker, postgres: Postgres
) -> None:
    broker = start_broker(groups=FITTING, start=False).start(before=BEFORE)
    db = broker.handler()
    assert db.query("SELECT 1").fetchone() == (1,)
    endpoints = {"main": dict(postgres.parameters)}
    broker.configure(endpoints, TOO_LARGE)
    at = f"--address={broker.address}"
    for words in (["reload"], ["restart"]):
        done = poold(*words, at)
        assert done.returncode == 1
        assert f"this process may have {LIMIT}; raise the limit" in done.stderr, done.stderr
        assert poold("ping", at).returncode == 0
    assert list(broker.stats()["groups"]) == ["default"]
    assert db.query("SELECT 1").fetchone() == (1,)
    broker.configure(endpoints, {"default": {"max_size": 9}})
    assert [each["to"] for each in order(broker, "reload")["changes"]] == [9]


def test_what_backends_may_take_is_not_for_clients(start_broker: StartBroker) -> None:
    broker = start_broker(groups=FITTING, start=False).start(before=BEFORE)
    room = LIMIT - OWN - RESERVED_CLIENTS - 1 - 8
    with ExitStack() as cleanup:
        for _ in range(room):
            cleanup.callback(Channel(broker.address).close)
        with pytest.raises(
            DBConnectionError, match=f"it has {room} clients already, and descriptors for {room}: raise the limit"
        ):
            Channel(broker.address)


def test_backends_leave_the_last_descriptors_to_operators(start_broker: StartBroker) -> None:
    groups = {"default": {"min_size": 0, "max_size": 8, "autocommit": False, "queue_timeout": 0.5}}
    broker = start_broker(groups=groups)
    handlers = [broker.handler() for _ in range(3)]
    with ExitStack() as cleanup:
        # Two clients in a transaction, with a backend each; the third is a client, and its backend has no descriptor.
        limit = free(broker.pid)[4] + KEPT
        allow(broker, limit, limit)
        for each in handlers[:2]:
            each.query("SELECT 1")
            cleanup.callback(each.rollback)
        with pytest.raises(client.DBError, match="no descriptor is left for another backend"):
            handlers[2].query("SELECT 1")
        assert f"this process may have {limit}, of which {KEPT} are kept for operators" in broker.log()
        assert poold("stats", f"--address={broker.address}").returncode == 0
        # It reads its files, and would not have begun with so few descriptors.
        assert f"this process may have {limit}; raise" in poold("reload", f"--address={broker.address}").stderr
    assert poold("stop", f"--address={broker.address}").returncode == 0


def test_crowds_leave_the_last_descriptors_to_those_with_few_clients(start_broker: StartBroker) -> None:
    broker = start_broker(broker={"max_clients": 50})
    with ExitStack() as cleanup:
        cleanup.callback(Channel(broker.address).close)
        limit = free(broker.pid)[1] + KEPT
        allow(broker, limit, limit)
        # One of these gets a low descriptor; the next ones are those of a user who has few clients.
        for _ in range(3):
            cleanup.callback(Channel(broker.address).close)
        with pytest.raises(DBConnectionError, match="it has no descriptors left for more clients: raise the limit"):
            Channel(broker.address)
    assert "reason=descriptors" in broker.log()


def test_that_nobody_can_be_accepted_is_logged_once_and_why_nobody_can_be_connected(
    start_broker: StartBroker,
) -> None:
    broker = start_broker(groups={"default": {"min_size": 0, "queue_timeout": 0.5}, "open": {"max_size": 1}})
    db = broker.handler()
    assert broker.handler("open").query("SELECT 1").fetchone() == (1,)  # by the channel that db uses as well
    soft, hard = resource.prlimit(broker.pid, resource.RLIMIT_NOFILE)
    allow(broker, free(broker.pid)[0], hard)
    with pytest.raises(client.DBError, match="Too many open files"):
        db.query("SELECT 1")
    assert 'error="no socket can be opened: Too many open files; raise the limit' in broker.log()
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(broker.socket))
        wait_until(lambda: "accept failed" in broker.log(), what="the line in the log")
        allow(broker, soft, hard)
        wait_until(lambda: "clients are accepted again failures=" in broker.log(), what="the other line")
    assert broker.log().count("accept failed") == 1
    assert db.query("SELECT 1").fetchone() == (1,)


def test_that_metrics_cannot_be_served_is_logged_once(start_broker: StartBroker) -> None:
    port = free_port()
    broker = start_broker(groups={"default": {"min_size": 1}}, broker={"metrics_address": f"127.0.0.1:{port}"})
    soft, hard = resource.prlimit(broker.pid, resource.RLIMIT_NOFILE)
    allow(broker, free(broker.pid)[0], hard)
    with socket.create_connection(("127.0.0.1", port)) as one:
        one.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: "metrics not served error=" in broker.log(), what="the line in the log")
        allow(broker, soft, hard)
        assert one.recv(100).startswith(b"HTTP/1.1 200")
    assert "metrics are served again failures=" in broker.log()
    assert broker.log().count("metrics not served") == 1
