"""What operators order of a broker while one starts, above all to take over from it: refused with a reason, or kept."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from brokers import ROOT, Broker, environment, order, poold
from postgres import Postgres
from test_signals import logged, open_files
from test_successions import GROUPS, LONG, Tables, succeeded
from waiting import wait_until

from client import UsageError
from client.channels.channel import Channel
from client.wire.messages import Ask
from poold.system.address_claim import lock_path

StartBroker = Callable[..., Broker]

# A broker that reloads has read its configuration, and then waits until somebody writes to this pipe.
_SLOW_READING = """
from poold import reloading
read = reloading._read
def slowly(source):
    found = read(source)
    open({gate!r}).read()
    return found
reloading._read = slowly
"""


class Waiting:
    """A restart in the background whose new broker has read its configuration and is not ready yet."""

    def __init__(self, broker: Broker, endpoints: Tables, groups: Tables) -> None:
        self.broker, self.endpoints, self.groups = broker, endpoints, groups
        self._mute = socket.create_server(("127.0.0.1", 0))
        self._mute.settimeout(LONG)
        host, port = self._mute.getsockname()
        mute = {"host": host, "port": port, "dbname": "app", "user": "app", "connect_timeout": 600}
        broker.configure({**endpoints, "mute": mute}, {**self._on_main(groups), "late": {"endpoints": ["mute"]}})
        command = [sys.executable, "-m", "poold", "restart", f"--address={broker.address}"]
        self.restart = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._connection, _ = self._mute.accept()  # by the new broker: the old one knows nothing of that endpoint

    def configure(self, groups: Tables) -> None:
        """Write another configuration than the new broker has read."""
        self.broker.configure(self.endpoints, self._on_main(groups))

    def end(self) -> str:
        """Let the new broker be ready, and wait until it has taken over; returns what the command warns of."""
        self._mute.close()
        self._connection.close()
        told, warned = self.restart.communicate(timeout=LONG)
        assert self.restart.returncode == 0, warned
        succeeded(self.broker, told)
        return warned

    def close(self) -> None:
        """End what is left."""
        self._mute.close()
        self._connection.close()
        self.restart.kill()
        self.restart.communicate()

    def _on_main(self, groups: Tables) -> Tables:
        return {name: {**each, "endpoints": list(self.endpoints)} for name, each in groups.items()}


@pytest.fixture
def endpoints(postgres: Postgres) -> Tables:
    return {"main": postgres.parameters}


@pytest.fixture
def broker(endpoints: Tables, start_broker: StartBroker) -> Broker:
    return start_broker(endpoints, GROUPS)


@pytest.fixture
def log(endpoints: Tables, start_broker: StartBroker) -> tuple[Broker, Path]:
    """A broker that logs to a file of its own, and the file."""
    broker = start_broker(endpoints, GROUPS, start=False)
    file = broker.folder / "poold.log"
    return broker.start(f"--log-file={file}"), file


@contextmanager
def waiting(broker: Broker, endpoints: Tables, groups: Tables = GROUPS) -> Iterator[Waiting]:
    """A restart that waits for its end, for a block."""
    made = Waiting(broker, endpoints, groups)
    try:
        yield made
    finally:
        made.close()


def reasons(broker: Broker, words: str) -> list[str]:
    """The reasons of these lines of the log."""
    return [line.partition("reason=")[2] for line in broker.log().splitlines() if words in line]


# Refused.


def test_a_reload_is_refused_and_one_behind_the_restart_holds(broker: Broker, endpoints: Tables) -> None:
    with waiting(broker, endpoints) as restart:
        restart.configure({**GROUPS, "default": {"min_size": 1, "max_size": 9}})
        done = poold("reload", f"--address={broker.address}")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("poold: not reloaded: a restart is under way")
        assert "wait for the end of the restart, then: poold reload" in done.stderr
        broker.signal(signal.SIGHUP)
        wait_until(lambda: len(reasons(broker, "configuration not reloaded")) == 2, what="the refusal in the log")
        assert all("a restart is under way" in each for each in reasons(broker, "configuration not reloaded"))
        assert broker.group()["max_size"] == 4
        restart.end()
    assert broker.group()["max_size"] == 4
    assert poold("reload", f"--address={broker.address}").returncode == 0
    assert broker.group()["max_size"] == 9
    broker.restart()
    assert broker.group()["max_size"] == 9


def test_so_is_one_that_is_not_over_when_the_restart_begins(start_broker: StartBroker, endpoints: Tables) -> None:
    broker = start_broker(endpoints, GROUPS, start=False)
    gate = broker.folder / "gate"
    os.mkfifo(gate)
    broker.start(before=_SLOW_READING.format(gate=str(gate)))
    with ThreadPoolExecutor(1) as threads:
        reloading = threads.submit(poold, "reload", f"--address={broker.address}")
        wait_until(lambda: "reload requested" in broker.log(), what="the reload")
        with waiting(broker, endpoints) as restart:
            gate.write_text("go on", "utf-8")
            assert "poold: not reloaded: a restart is under way" in reloading.result(LONG).stderr
            restart.end()
    assert set(broker.stats()["groups"]) >= {"default", "transactions", "late"}


@pytest.mark.parametrize("what", ["pause", "drain", "reconnect"])
def test_what_would_end_with_the_old_broker_is_refused(broker: Broker, endpoints: Tables, what: str) -> None:
    with waiting(broker, endpoints) as restart:
        done = poold(what, f"--address={broker.address}")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("poold: a restart is under way")
        assert f"wait for the end of the restart, then: poold {what}" in done.stderr
        assert f"order refused what={what} on=everything" in broker.log()
        assert broker.group()["state"] == "running"
        assert "goes on" not in restart.end()
    order(broker, what)
    order(broker, "resume")


def test_a_second_restart_is_refused_and_the_log_says_why(broker: Broker, endpoints: Tables) -> None:
    with waiting(broker, endpoints) as restart:
        done = poold("restart", f"--address={broker.address}")
        assert "not restarted: a restart or a stop is under way already" in done.stderr
        assert reasons(broker, "restart refused pid=") == ['"a restart or a stop is under way already"']
        restart.end()


@pytest.mark.parametrize("what", ["stop", "stop-now", "restart", "reload", "pause", "drain", "resume", "reconnect"])
def test_who_still_talks_to_the_one_that_has_been_replaced_is_told_so(broker: Broker, what: str) -> None:
    channel = Channel(broker.address)
    with broker.handler("transactions") as holder:
        holder.query("SELECT 1")
        broker.restart()
        with pytest.raises(UsageError, match=f"process {broker.pid} has taken over from this broker"):
            channel.call(Ask(channel.next_request(), what), LONG)
        assert broker.handler().query("SELECT 1").fetchone() == (1,)
        holder.commit()
    channel.close()


# Kept.


def test_a_resume_holds_in_the_new_one_as_well(broker: Broker, endpoints: Tables) -> None:
    order(broker, "pause", "default")
    with waiting(broker, endpoints) as restart:
        assert order(broker, "resume")["groups"] == ["default"]
        assert broker.handler().query("SELECT 1").fetchone() == (1,)
        assert "goes on" not in restart.end()
    assert broker.handler().query("SELECT 1").fetchone() == (1,)


def test_a_reset_of_the_figures_holds_in_the_new_one_as_well(broker: Broker, endpoints: Tables) -> None:
    broker.handler().query("SELECT 1")
    with waiting(broker, endpoints) as restart:
        order(broker, "stats", "statements", "--reset")
        restart.end()
    assert order(broker, "stats", "statements")["statements"] == []


# The log.


def test_a_log_that_is_moved_meanwhile_is_left_by_the_new_one_as_well(
    log: tuple[Broker, Path], endpoints: Tables
) -> None:
    broker, file = log
    moved = file.with_suffix(".1")
    with waiting(broker, endpoints) as restart:
        file.rename(moved)
        os.kill(int(lock_path(broker.socket).read_text()), signal.SIGUSR1)
        logged(file, "log reopened")
        restart.end()
    broker.signal(signal.SIGUSR2)
    logged(file, "signal ignored name=SIGUSR2")
    assert not [each for each in open_files(broker) if each == str(moved)]


def test_one_that_is_not_moved_is_left_alone(log: tuple[Broker, Path]) -> None:
    broker, file = log
    broker.restart()
    broker.signal(signal.SIGUSR2)
    logged(file, "signal ignored name=SIGUSR2")
    assert "log reopened" not in file.read_text("utf-8")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_those_that_have_been_replaced_and_have_not_ended_follow_as_well(
    log: tuple[Broker, Path], number: signal.Signals
) -> None:
    broker, file = log
    moved = file.with_suffix(".1")
    with broker.handler("transactions") as first, broker.handler("transactions") as second:
        first.query("SELECT 1")
        broker.restart()
        second.query("SELECT 1")
        broker.restart()
        file.rename(moved)
        broker.signal(number)
        wait_until(
            lambda: file.exists() and file.read_text("utf-8").count("log reopened") == 3, what="three brokers' answers"
        )
        first.commit()
        second.commit()
    for each in broker._earlier:
        logged(file, f"broker stopped pid={each.pid}")


# The start of the only one.


def test_a_reload_that_removes_a_group_which_a_start_waits_for_holds(
    start_broker: StartBroker, endpoints: Tables
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(LONG)
        host, port = mute.getsockname()
        silent = {"host": host, "port": port, "dbname": "app", "user": "app", "connect_timeout": 600}
        kept: Tables = {"default": {"endpoints": ["main"]}}
        groups = {**kept, "late": {"endpoints": ["mute"]}}
        broker = start_broker({**endpoints, "mute": silent}, groups, start=False)
        with ThreadPoolExecutor(1) as threads:
            starting = threads.submit(broker.start)
            connection, _ = mute.accept()  # from here on it waits for the group, for seconds
            wait_until(lambda: "broker started" in broker.log(), what="the broker")
            broker.configure(endpoints, kept)
            assert "groups.late: removed" in poold("reload", f"--address={broker.address}").stdout
            starting.result(LONG)
        connection.close()
    assert broker.handler().query("SELECT 1").fetchone() == (1,)
