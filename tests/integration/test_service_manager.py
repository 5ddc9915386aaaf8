"""What the real broker tells the service manager that started it, which the tests play."""

import contextlib
import ctypes
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic_ns

import pytest
from brokers import EXIT_TIMEOUT, Broker, order, poold
from postgres import Postgres
from waiting import wait_until

PATIENCE = 0.2


class Manager:
    """The service manager's socket."""

    def __init__(self, name: str) -> None:
        self.variable = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(name.replace("@", "\0", 1))

    def hear(self, seconds: float = EXIT_TIMEOUT) -> dict[str, str]:
        """The next message; raises TimeoutError."""
        self._socket.settimeout(seconds)
        return dict(line.split("=", 1) for line in self._socket.recv(65536).decode().splitlines())

    def hear_of(self, name: str, text: str = "") -> dict[str, str]:
        """The next message that has such a value."""
        while True:
            message = self.hear()
            if name in message and text in message[name]:
                return message

    def rest(self) -> list[dict[str, str]]:
        """What a broker that is gone has told, and nobody has heard yet."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.hear(0))
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """A service manager for the brokers that the test starts; PostgreSQL runs already."""
    del postgres
    with TemporaryDirectory(dir="/tmp") as folder:
        manager = Manager(f"{folder}/notify" if request.param == "path" else f"@poold-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", manager.variable)
        yield manager
        manager.close()


def test_the_manager_is_told_of_start_reload_and_end(manager: Manager, start_broker: Callable[..., Broker]) -> None:
    broker = start_broker()
    ready = manager.hear()
    assert ready["READY"] == "1"
    assert ready["STATUS"].startswith("running, groups: 2, backends: ")
    assert broker.handler().query("SELECT 1").fetchone() == (1,)
    began = monotonic_ns() // 1000
    broker.signal(signal.SIGHUP)
    reloading = manager.hear_of("RELOADING")
    assert reloading["RELOADING"] == "1"
    assert began <= int(reloading["MONOTONIC_USEC"]) <= monotonic_ns() // 1000
    assert manager.hear_of("READY") == {"READY": "1"}
    broker.signal(signal.SIGTERM)
    stopping = manager.hear_of("STOPPING")
    assert stopping["STOPPING"] == "1"
    assert stopping["STATUS"].startswith("draining, ")
    assert int(stopping["EXTEND_TIMEOUT_USEC"]) > 30e6
    assert broker.wait() == 0
    assert "not told" not in broker.log()


def test_a_stop_that_a_client_asks_for_is_told_as_well(manager: Manager, start_broker: Callable[..., Broker]) -> None:
    broker = start_broker()
    assert poold("stop", f"--address={broker.address}").returncode == 0
    assert manager.hear_of("STOPPING")["STOPPING"] == "1"


def test_a_reload_while_the_broker_stops_does_not_say_that_it_is_ready(
    manager: Manager, start_broker: Callable[..., Broker]
) -> None:
    broker = start_broker(groups={"transactions": {"autocommit": False}})
    db = broker.handler("transactions")
    db.query("SELECT 1")
    broker.signal(signal.SIGTERM)
    manager.hear_of("STOPPING")
    broker.signal(signal.SIGHUP)
    wait_until(lambda: "the broker ends; a new one reads" in broker.log(), what="the answer to the reload")
    db.commit()
    assert broker.wait() == 0
    assert not [each for each in manager.rest() if {"READY", "RELOADING"} & each.keys()]


def test_the_status_says_what_is_paused(manager: Manager, start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(groups={"one": {}, "other": {}})
    order(broker, "pause", "one")
    assert manager.hear_of("STATUS", "paused")["STATUS"].startswith("running, groups: 2, paused: one, backends: ")
    order(broker, "pause", "other")
    assert manager.hear_of("STATUS", "paused, ")["STATUS"].startswith("paused, groups: 2, backends: ")
    order(broker, "resume")
    assert manager.hear_of("STATUS", "running")["STATUS"].startswith("running, groups: 2, backends: ")


def test_the_status_says_what_runs_and_what_cannot(manager: Manager, start_broker: Callable[..., Broker]) -> None:
    nowhere = {"host": "127.0.0.1", "port": 1, "dbname": "app", "user": "app"}
    broker = start_broker(endpoints={"main": nowhere}, groups={"default": {}})
    told = manager.hear_of("STATUS", "group default has no backend on main: ")
    assert re.fullmatch(
        r"running, groups: 1, backends: 0, at work: 0, waiting: 0, clients: \d+, "
        r"group default has no backend on main: .*refused.*",
        told["STATUS"],
    )
    assert broker.stop(now=True) == 0


def test_it_counts_who_works_and_who_waits(manager: Manager, start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(groups={"transactions": {"autocommit": False, "max_size": 1}})
    with broker.handler("transactions") as tx:
        tx.query("SELECT 1")
        told = manager.hear_of("STATUS", "at work: 1")["STATUS"]
    assert "backends: 1, at work: 1, waiting: 0, clients: 1" in told


GATED = """
import ctypes
import os
from poold.reloading import Reloading
Reloading.begin = lambda self, tell: open({gate!r}).close()  # hangs until somebody opens the other end
"""


def test_a_loop_that_hangs_tells_the_watchdog_nothing(
    manager: Manager, start_broker: Callable[..., Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", str(round(PATIENCE * 1e6)))
    broker = start_broker(start=False)
    gate = Path(broker.folder / "gate")
    os.mkfifo(gate)
    broker.start(before=GATED.format(gate=str(gate)))
    manager.hear_of("READY")
    for _ in range(3):
        manager.hear_of("WATCHDOG")
    broker.signal(signal.SIGHUP)
    manager.hear_of("RELOADING")
    with pytest.raises(TimeoutError):
        manager.hear(PATIENCE * 5)
    gate.open("w").close()
    manager.hear_of("READY")
    manager.hear_of("WATCHDOG")
    # An end by the watchdog says where it was.
    broker.signal(signal.SIGHUP)
    manager.hear_of("RELOADING")
    broker.signal(signal.SIGABRT)
    assert broker.wait() == -signal.SIGABRT
    assert "Current thread" in broker.log()
    assert "in _reload_all" in broker.log()


def test_a_watchdog_of_another_process_is_not_told(
    manager: Manager, start_broker: Callable[..., Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    broker = start_broker()
    messages = [manager.hear_of("READY")]
    broker.signal(signal.SIGHUP)
    while "READY" not in messages[-1] or len(messages) == 1:
        messages.append(manager.hear())
    assert not [each for each in messages if "WATCHDOG" in each]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/nowhere/notify", 'service manager not told error="No such file or directory"'),
        ("vsock:2:1234", 'service manager not told name=vsock:2:1234 expected="a path, or @ and a name"'),
    ],
)
def test_a_manager_that_cannot_be_told_is_no_obstacle(
    start_broker: Callable[..., Broker], postgres: Postgres, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    broker = start_broker(endpoints={"main": postgres.parameters})
    assert broker.handler().query("SELECT 1").fetchone() == (1,)
    assert broker.stop() == 0
    assert broker.log().count("service manager not told") == 1
    assert why in broker.log()


# As MemoryDenyWriteExecute= in the unit; it holds for what the process runs afterwards, too.
BANNED = """
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, "-m", "poold", *sys.argv[1:]])
"""


def test_a_broker_that_may_make_no_memory_executable_serves(start_broker: Callable[..., Broker]) -> None:
    if ctypes.CDLL(None).prctl(66, 0, 0, 0, 0) < 0:
        pytest.skip("this kernel (before 6.3) has no such ban without systemd")
    broker = start_broker(start=False).start(before=BANNED)
    assert broker.handler().query("SELECT %s + 1", (1,)).fetchone() == (2,)
    with broker.handler("transactions") as tx:
        assert tx.query("SELECT 1").fetchone() == (1,)


def test_a_manager_is_told_on_behind_one_restart_and_another(
    manager: Manager, start_broker: Callable[..., Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    # So few messages that those of a whole restart have room in the socket, as nobody reads them meanwhile.
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    broker = start_broker()
    manager.hear_of("READY")
    for _ in range(2):
        with broker.handler("transactions") as tx:
            tx.query("SELECT 1")  # so the old broker goes on
            broker.restart()
            assert manager.hear_of("MAINPID") == {"MAINPID": str(broker.pid), "READY": "1"}
            heard = manager.hear()
            assert heard.get("STATUS", "").startswith("running, groups: 2, "), heard
            for _ in range(2):
                assert manager.hear_of("WATCHDOG") == {"WATCHDOG": "1"}
            tx.commit()
        assert broker._earlier[-1].wait(EXIT_TIMEOUT) == 0
    broker.signal(signal.SIGHUP)
    manager.hear_of("RELOADING")
    assert manager.hear_of("READY") == {"READY": "1"}
    broker.signal(signal.SIGTERM)
    assert manager.hear_of("STOPPING")["STATUS"].startswith("draining, ")
    broker.wait()


def test_one_that_has_been_replaced_tells_nothing_any_more(
    manager: Manager, start_broker: Callable[..., Broker]
) -> None:
    broker = start_broker()
    with broker.handler("transactions") as tx:
        tx.query("SELECT 1")
        broker.restart()
        manager.hear_of("MAINPID")
        manager.hear_of("STATUS", "running")
        old = broker._earlier[-1]
        old.send_signal(signal.SIGHUP)
        wait_until(lambda: "not reloaded" in broker.log(), what="the reload that is refused")
    assert old.wait(EXIT_TIMEOUT) == 0
    broker.signal(signal.SIGTERM)
    heard = [manager.hear()]
    while "STOPPING" not in heard[-1]:
        heard.append(manager.hear())
    assert not [each for each in heard if "RELOADING" in each]


def test_a_restart_that_fails_is_not_told(manager: Manager, start_broker: Callable[..., Broker]) -> None:
    broker = start_broker()
    manager.hear_of("READY")
    kept = broker.config.read_text("utf-8")
    broker.config.write_text("[broker]\n", "utf-8")
    assert poold("restart", f"--address={broker.address}").returncode == 1
    broker.config.write_text(kept, "utf-8")
    broker.signal(signal.SIGTERM)
    heard = [manager.hear()]
    while "STOPPING" not in heard[-1]:
        heard.append(manager.hear())
    assert not [each for each in heard if "MAINPID" in each or "READY" in each]
