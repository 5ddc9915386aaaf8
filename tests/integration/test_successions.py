"""What the broker that takes over gets, when it takes over, and what is told if either of the two ends meanwhile."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from brokers import ROOT, Broker, Successor, environment, order, poold
from people import LISTED, NOBODY, Person, only_root
from postgres import Postgres
from waiting import wait_until

from client import UsageError
from client.channels.channel import Channel
from client.wire.messages import Ask
from poold.system.address_claim import lock_path

StartBroker = Callable[..., Broker]
Tables = dict[str, dict[str, Any]]

GROUPS: Tables = {
    "default": {"min_size": 1, "max_size": 4},
    "transactions": {"autocommit": False, "min_size": 0, "max_size": 4},
}
NOWHERE = {"host": "127.0.0.1", "port": 1, "dbname": "app", "user": "app"}
LONG = 60.0


@pytest.fixture
def endpoints(postgres: Postgres) -> Tables:
    return {"main": postgres.parameters}


@pytest.fixture
def broker(endpoints: Tables, start_broker: StartBroker) -> Broker:
    return start_broker(endpoints, GROUPS)


def refused(broker: Broker) -> str:
    """What `poold restart` says that does not come about; the broker goes on."""
    done = poold("restart", f"--address={broker.address}")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"poold: not restarted, process {broker.pid} goes on: " in done.stderr
    assert broker.ask("ping")["pid"] == broker.pid
    assert lock_path(broker.socket).read_text() == f"{broker.pid}\n"
    return done.stderr


def welcome_of(broker: Broker, uid: int) -> dict[str, bool] | str:
    """The groups that a user may use who comes, or why he may not come."""
    person = Person(broker, uid)
    person.close()
    return person.groups


def mode(broker: Broker) -> int:
    return stat.S_IMODE(broker.socket.stat().st_mode)


# The socket, and who gets in.


@only_root
def test_without_lists_any_more_strangers_are_kept_out_by_the_mode(broker: Broker, endpoints: Tables) -> None:
    broker.configure(endpoints, GROUPS, {"allow_uids": [LISTED]})
    broker.restart()
    assert mode(broker) == 0o666
    assert isinstance(welcome_of(broker, LISTED), dict)
    assert "allow_uids" in welcome_of(broker, NOBODY)
    broker.configure(endpoints, GROUPS)
    broker.restart()
    assert mode(broker) == 0o660
    for each in (LISTED, NOBODY):
        assert "kept out" in welcome_of(broker, each)


@only_root
def test_who_has_come_under_the_lists_and_was_not_accepted_yet_is_judged_by_them(
    broker: Broker, endpoints: Tables
) -> None:
    broker.configure(endpoints, GROUPS, {"allow_uids": [LISTED]})
    broker.restart()
    broker.configure(endpoints, GROUPS)
    with gated(broker) as (restart, open_gate):
        stranger: subprocess.Popen[str] | None = None
        with frozen(broker):
            open_gate()
            wait_until(lambda: f"broker started address={broker.address}" in latest(broker), LONG, "the start")
            program = (
                "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
                "print('connected', flush=True); print(s.makefile('rb').read())"
            )
            broker.folder.chmod(0o755)
            command = [sys.executable, "-c", program, str(broker.socket)]
            stranger = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # ended below
            assert stranger.stdout is not None
            assert stranger.stdout.readline() == "connected\n"
        told, _ = restart.communicate(timeout=LONG)
        said, _ = stranger.communicate(timeout=LONG)
        assert "is not allowed" in said
        succeeded(broker, told)


def test_a_restart_leaves_the_mode_if_the_lists_stay_what_they_are(broker: Broker) -> None:
    for _ in range(2):
        assert mode(broker) == 0o660
        broker.restart()


def test_another_address_is_refused_and_a_reload_says_what_helps(broker: Broker, endpoints: Tables) -> None:
    address, text = broker.address, broker.config.read_text("utf-8")
    for other in (f"ipc://{broker.folder}/other", "tcp://127.0.0.1:6543"):
        broker.config.write_text(text.replace(address, other), "utf-8")
        told = poold("reload", f"--address={address}").stdout.splitlines()
        assert told[0] == f'broker.address "{address}" -> "{other}": needs stop and start'
        assert told[-1].endswith("; 1 of them holds after: poold stop and poold start")
        said = refused(broker)
        assert f"address is {other}, and the broker serves {address}: " in said
        assert f"use poold stop --address {address}, and then poold start" in said
        assert sorted(path.name for path in broker.folder.glob("[os]*")) == ["s", "s.lock"]


def test_a_socket_that_somebody_has_removed_is_not_handed_over(broker: Broker) -> None:
    channel = Channel(broker.address)
    broker.socket.unlink()
    with pytest.raises(UsageError, match="is gone or is no socket any more"):
        channel.call(Ask(channel.next_request(), "restart"), LONG)
    channel.close()
    broker.signal(signal.SIGTERM)
    assert broker.wait() == 0


def test_an_end_behind_a_restart_still_accepts_who_asks(broker: Broker) -> None:
    broker.restart()
    with broker.handler("transactions") as tx:
        tx.query("SELECT 1")
        broker.signal(signal.SIGTERM)
        wait_until(lambda: "signal received name=SIGTERM" in broker.log(), what="the end to begin")
        assert broker.ask("ping")["state"] == "draining"
        tx.commit()
    assert broker.wait() == 0


# When it takes over.


def test_a_broker_that_cannot_serve_what_is_served_does_not_take_over_unless_it_is_forced(
    broker: Broker, endpoints: Tables
) -> None:
    assert broker.handler().query("SELECT 1").fetchone() == (1,)
    broker.configure({"main": NOWHERE}, GROUPS)
    said = refused(broker)
    assert "cannot serve what this broker serves (poold restart --force takes over all the same)" in said
    assert "group default: endpoint main: " in said
    assert "refused" in said
    assert broker.handler().query("SELECT 1").fetchone() == (1,)
    done = poold("restart", "--force", f"--address={broker.address}")
    assert done.returncode == 0, done.stderr
    assert "  group default is NOT READY, it tries on: endpoint main: " in done.stdout
    broker._earlier.append(broker.process)
    broker.process = Successor(broker.ask("ping")["pid"])


def test_a_group_that_opens_backends_as_needed_counts_as_well(start_broker: StartBroker, endpoints: Tables) -> None:
    groups = {"lazy": {"min_size": 0}, "unused": {"min_size": 0}}
    broker = start_broker(endpoints, groups)
    assert broker.handler("lazy").query("SELECT 1").fetchone() == (1,)
    broker.configure({"main": NOWHERE}, groups)
    said = refused(broker)
    assert "group lazy: endpoint main: " in said
    assert "group unused" not in said


def test_a_group_that_is_new_and_not_ready_is_told_and_no_obstacle(broker: Broker, endpoints: Tables) -> None:
    groups = {"default": {**GROUPS["default"], "endpoints": ["main"]}, "added": {"endpoints": ["nowhere"]}}
    broker.configure({**endpoints, "nowhere": NOWHERE}, groups)
    told = restarted(broker)
    assert list(told["unready"]) == ["added"]
    assert broker.handler().query("SELECT 1").fetchone() == (1,)


def test_where_the_server_is_down_for_both_the_restart_comes_about(
    start_broker: StartBroker, fresh_postgres: Callable[..., Postgres]
) -> None:
    server = fresh_postgres()
    broker = start_broker({"main": server.parameters}, GROUPS)
    assert broker.handler().query("SELECT 1").fetchone() == (1,)
    server.kill()
    wait_until(lambda: broker.pool()["failures"] > 0, what="the loss of the server")
    assert list(restarted(broker)["unready"]) == ["default", "transactions"]
    server.start()
    assert broker.handler().query("SELECT 1", timeout=LONG).fetchone() == (1,)


def test_the_one_that_is_not_ready_serves_nobody(broker: Broker) -> None:
    with gated(broker) as (restart, open_gate):
        for _ in range(20):
            assert broker.ask("ping")["pid"] == broker.pid
        second = poold("restart", f"--address={broker.address}")
        assert "a restart or a stop is under way already" in second.stderr
        open_gate()
        told, _ = restart.communicate(timeout=LONG)
        succeeded(broker, told)


def test_a_restart_says_of_a_pause_that_it_is_over(broker: Broker) -> None:
    assert poold("pause", "default", f"--address={broker.address}").returncode == 0
    assert restarted(broker)["warnings"] == ["group default was paused, and goes on"]
    assert broker.handler().query("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pause", "--endpoint=other"], ["endpoint other was paused, and goes on"]),
        (["drain", "--endpoint=other"], ["endpoint other was drained, and goes on"]),
        (["pause", "both", "--endpoint=other"], ["endpoint other of both was paused, and goes on"]),
        (
            ["drain"],
            [f"group {name} was drained, and goes on" for name in ("both", "alone")],
        ),
    ],
)
def test_a_restart_says_of_all_that_was_paused_or_drained_that_it_goes_on(
    start_broker: StartBroker, postgres: Postgres, words: list[str], told: list[str]
) -> None:
    groups = {"both": {"endpoints": ["main", "other"], "role": "any"}, "alone": {"endpoints": ["other"]}}
    broker = start_broker({"main": postgres.parameters, "other": postgres.parameters}, groups)
    order(broker, *words)
    assert restarted(broker)["warnings"] == told
    pools = [pool for group in broker.stats()["groups"].values() for pool in group["endpoints"].values()]
    assert not any(pool["is_paused"] or pool["is_drained"] for pool in pools)


# One of them ends meanwhile.


def test_if_the_old_broker_is_killed_the_new_one_goes_on_and_the_command_says_so(broker: Broker) -> None:
    with gated(broker) as (restart, open_gate):
        old = broker.pid
        broker.kill()
        open_gate()
        told, said = restart.communicate(timeout=LONG)
        assert (restart.returncode, told) == (1, "")
    pid = broker.ask("ping")["pid"]
    broker.process = Successor(pid)
    assert (
        f"process {old} ended before it had left {broker.address} to process {pid}, so what it ran is cut off" in said
    )
    assert broker.handler().query("SELECT 1").fetchone() == (1,)
    assert lock_path(broker.socket).read_text() == f"{pid}\n"
    assert "Errno" not in broker.log()
    assert "Broken pipe" not in broker.log()


def test_if_both_are_gone_the_command_says_so(broker: Broker) -> None:
    with gated(broker, "[broker]\nno_such_key = 1\n") as (restart, open_gate):
        old = broker.pid
        broker.kill()
        open_gate()
        _, said = restart.communicate(timeout=LONG)
    assert restart.returncode == 1
    assert f"process {old} ended during the restart, and no broker serves {broker.address}" in said
    broker.start()
    assert broker.handler().query("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("how", ["SIGTERM", "SIGQUIT", "stop", "stop --now"])
def test_an_end_of_the_old_broker_ends_the_restart(broker: Broker, how: str) -> None:
    with gated(broker) as (restart, open_gate):
        if how.startswith("SIG"):
            broker.signal(signal.Signals[how])
        else:
            assert poold(*how.split(), f"--address={broker.address}").returncode == 0
        assert broker.wait() == 0
        _, said = restart.communicate(timeout=LONG)
        assert "not restarted, this broker stops: it was told to stop meanwhile" in said
        assert restart.returncode == 1
        successor = Successor(int(broker.log().split("restart begun pid=")[1].split()[0]))
        open_gate()
        successor.wait(LONG)
    assert not list(broker.folder.glob("s*"))
    assert 'restart given up reason="it was told to stop meanwhile"' in broker.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_end_of_the_new_broker_changes_nothing(broker: Broker, number: signal.Signals) -> None:
    with gated(broker) as (restart, open_gate):
        pid = int(broker.log().split("restart begun pid=")[1].split()[0])
        os.kill(pid, number)
        _, said = restart.communicate(timeout=LONG)
        assert restart.returncode == 1
        why = f"it was (ended by {number.name}|told to stop before it had taken over)"
        assert re.search(f"not restarted, process {broker.pid} goes on: {why}", said)
        open_gate(nobody_reads=True)
    broker.restart()


# Help.


def restarted(broker: Broker) -> dict[str, Any]:
    """What a restart says; the new broker is the broker from then on."""
    done = poold("restart", "--json", f"--address={broker.address}")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    broker._earlier.append(broker.process)
    broker.process = Successor(told["pid"])
    return told


def succeeded(broker: Broker, told: str) -> None:
    """A restart in the background has come about, as it has told."""
    broker._earlier.append(broker.process)
    broker.process = Successor(int(told.split()[1]))
    assert broker.ask("ping")["pid"] == broker.pid


@contextmanager
def gated(broker: Broker, text: str | None = None) -> Iterator[tuple["subprocess.Popen[str]", Callable[..., None]]]:
    """A restart whose new broker waits for its configuration, which is this text, until the gate is opened."""
    kept = broker.config.read_text("utf-8")
    broker.config.unlink()
    os.mkfifo(broker.config)
    command = [sys.executable, "-m", "poold", "restart", f"--address={broker.address}"]
    begun = broker.log().count("restart begun")

    def open_gate(nobody_reads: bool = False) -> None:
        if not nobody_reads:
            with open(broker.config, "w", encoding="utf-8") as gate:
                put_back()
                gate.write(text if text is not None else kept)

    def put_back() -> None:
        beside = broker.config.with_name("kept")
        beside.write_text(kept, "utf-8")
        beside.rename(broker.config)

    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as restart:
        try:
            wait_until(lambda: broker.log().count("restart begun") > begun, LONG, "the start of the new broker")
            yield restart, open_gate
        finally:
            put_back()
            restart.kill()


@contextmanager
def frozen(broker: Broker) -> Iterator[None]:
    """The broker does nothing."""
    broker.signal(signal.SIGSTOP)
    yield
    broker.signal(signal.SIGCONT)


def latest(broker: Broker) -> str:
    """What was logged since the last restart has begun."""
    return broker.log().rpartition("restart begun")[2]
