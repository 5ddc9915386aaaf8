"""`poold health`: exit codes and words for a broker that lives, one that cannot serve, and one that is not there."""

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, order, poold
from postgres import Postgres
from waiting import wait_until

from client import PoolTimeout

NOWHERE = {"host": "127.0.0.1", "port": 1, "dbname": "app", "user": "app"}


def health(address: str, *options: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the report; people are told the same."""
    done = poold("health", f"--address={address}", *options, "--json")
    report = json.loads(done.stdout)
    said = poold("health", f"--address={address}", *options)
    assert (done.returncode, done.stderr, said.returncode) == (int(not report["ok"]), "", done.returncode)
    assert len(said.stdout.splitlines()) == max(1, len(report["problems"]))
    return done.returncode, report


@pytest.mark.parametrize("asked", ["live", "ready"])
def test_a_broker_that_serves_lives_and_is_ready(broker: Broker, asked: str) -> None:
    assert broker.handler().query("SELECT 1").fetchone() == (1,)
    assert broker.handler("transactions").query("SELECT 1").fetchone() == (1,)
    report = {"address": broker.address, "asked": asked, "state": "running", "ok": True, "problems": []}
    assert health(broker.address, f"--{asked}") == (0, report)
    words = {"live": "lives", "ready": "is ready"}[asked]
    said = poold("health", f"--{asked}", f"--address={broker.address}")
    assert said.stdout == f"poold at {broker.address} {words}\n"


def test_a_group_that_reaches_nobody_is_not_ready_and_the_others_are_not_named(
    start_broker: Callable[..., Broker], postgres: Postgres
) -> None:
    broker = start_broker(
        endpoints={"main": postgres.parameters, "away": NOWHERE},
        groups={"default": {"endpoints": ["main"]}, "lost": {"endpoints": ["away"]}},
    )
    assert broker.handler().query("SELECT 1").fetchone() == (1,)
    wait_until(lambda: broker.pool("lost", "away")["failed"] > 0, what="a connect that failed")
    code, report = health(broker.address)
    assert code == 1
    [problem] = report["problems"]
    assert problem.startswith("group lost cannot serve: endpoint away: ")
    assert "refused" in problem
    assert "next try in" in problem
    assert health(broker.address, "--live")[0] == 0


def test_one_endpoint_is_enough(start_broker: Callable[..., Broker], postgres: Postgres) -> None:
    endpoints = {"main": postgres.parameters, "away": NOWHERE}
    broker = start_broker(endpoints=endpoints, groups={"default": {"role": "any", "min_size": 2}})
    wait_until(lambda: broker.pool("default", "away")["failed"] > 0, what="a connect that failed")
    wait_until(lambda: broker.pool("default", "main")["opened"] > 0, what="a backend")
    assert health(broker.address)[0] == 0


def test_a_group_that_opens_backends_when_they_are_needed_is_ready_without_any(
    start_broker: Callable[..., Broker], postgres: Postgres
) -> None:
    broker = start_broker(endpoints={"main": postgres.parameters}, groups={"default": {"min_size": 0}})
    assert broker.pool()["size"] == 0
    assert health(broker.address)[0] == 0


def test_a_group_whose_first_backend_is_being_opened_is_not_ready(start_broker: Callable[..., Broker]) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        host, port = mute.getsockname()
        broker = start_broker(
            endpoints={"main": {**NOWHERE, "host": host, "port": port, "connect_timeout": 600}}, groups={"default": {}}
        )
        wait_until(lambda: broker.pool()["connecting"] > 0, what="a connect")
        code, report = health(broker.address)
        assert (code, report["problems"]) == (
            1,
            ["group default cannot serve: endpoint main: the first backend is being opened"],
        )


def test_without_a_primary_a_group_that_needs_one_is_not_ready(
    start_broker: Callable[..., Broker], postgres: Postgres
) -> None:
    broker = start_broker(endpoints={"main": postgres.parameters}, groups={"default": {"role": "replica"}, "fine": {}})
    assert broker.handler("fine").query("SELECT 1").fetchone() == (1,)
    wait_until(lambda: broker.stats()["endpoints"]["main"]["role"] == "primary", what="the endpoint's role")
    code, report = health(broker.address)
    assert code == 1
    assert report["problems"][0].startswith("group default cannot serve: endpoint main is not used, it is primary: ")


def test_a_broker_that_drains_lives_and_is_not_ready(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker()
    with broker.handler("transactions") as tx:
        tx.query("SELECT 1")
        broker.signal(signal.SIGTERM)
        wait_until(lambda: broker.ask("ping")["state"] == "draining", what="the drain")
        assert health(broker.address, "--live")[0] == 0
        code, report = health(broker.address, "--ready")
        assert (code, report["problems"]) == (1, ["the broker is draining and takes no new work"])


@pytest.mark.parametrize("asked", ["--live", "--ready"])
def test_no_broker_is_neither(tmp_path: Path, asked: str) -> None:
    code, report = health(f"ipc://{tmp_path}/s", asked)
    assert (code, report["state"], len(report["problems"])) == (1, None, 1)
    assert f"{tmp_path}/s" in report["problems"][0]


def test_a_broker_that_hangs_does_not_live(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker()
    broker.signal(signal.SIGSTOP)
    try:
        code, report = health(broker.address, "--live", "--timeout=0.5")
        assert (code, report["ok"]) == (1, False)
        # It is there: whoever starts another one, as nobody would be, finds the address taken.
        done = poold("kill", "--pid=1", f"--address={broker.address}")
        assert (done.returncode, done.stdout) == (4, "")
        assert "did not answer as a poold broker within" in done.stderr
    finally:
        broker.signal(signal.SIGCONT)


def test_both_at_once_and_a_wrong_address_are_mistakes_of_usage() -> None:
    assert poold("health", "--live", "--ready").returncode == 2
    wrong = poold("health", "--address=nowhere")
    assert wrong.returncode == 2
    assert "expected ipc:///absolute/path" in wrong.stderr


def test_a_group_whose_only_useful_endpoint_is_paused_is_not_ready_and_says_which(
    start_broker: Callable[..., Broker], fresh_postgres: Any
) -> None:
    primary = fresh_postgres()
    standby = fresh_postgres.standby(primary)
    broker = start_broker(
        endpoints={"one": primary.parameters, "two": standby.parameters},
        groups={"default": {"queue_timeout": 0.3}, "reports": {"role": "replica", "queue_timeout": 0.3}},
    )
    wait_until(lambda: health(broker.address)[0] == 0, what="both groups to be ready")
    for group, used, other in (("default", "one", "two"), ("reports", "two", "one")):
        order(broker, "pause", f"--endpoint={used}")
        assert (broker.group(group)["state"], broker.pool(group, used)["is_paused"]) == ("paused", True)
        code, report = health(broker.address)
        assert code == 1
        [problem] = report["problems"]
        assert problem.startswith(f"group {group} cannot serve: ")
        assert f"endpoint {used} is paused by an operator" in problem
        assert f"endpoint {other} is not used, it is " in problem
        assert problem.endswith(f"; go on with: poold resume --address={broker.address}")
        with pytest.raises(PoolTimeout, match=f"endpoint {used} of group '{group}' was paused by an operator"):
            broker.handler(group).query("SELECT 1")
        order(broker, "resume", f"--endpoint={used}")
        assert broker.handler(group).query("SELECT 1").fetchone() == (1,)
        assert (broker.group(group)["state"], health(broker.address)[0]) == ("running", 0)
    order(broker, "drain", "--endpoint=one")
    assert broker.group()["state"] == "drained"
    assert (
        "endpoint one is drained by an operator; endpoint two is not used" in health(broker.address)[1]["problems"][0]
    )


def test_so_is_one_whose_other_endpoint_is_away(start_broker: Callable[..., Broker], postgres: Postgres) -> None:
    endpoints = {"main": postgres.parameters, "away": NOWHERE}
    broker = start_broker(endpoints=endpoints, groups={"default": {"role": "any", "min_size": 2}})
    wait_until(lambda: broker.pool("default", "main")["opened"] > 0, what="a backend")
    order(broker, "pause", "--endpoint=main")
    wait_until(lambda: broker.pool("default", "away")["failed"] > 0, what="a connect that failed")
    code, report = health(broker.address)
    assert code == 1
    [problem] = report["problems"]
    assert problem.startswith("group default cannot serve: endpoint main is paused by an operator; endpoint away: ")
