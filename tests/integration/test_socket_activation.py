"""A broker on a listening socket that it was given, as systemd gives one: nobody who connects is lost by a restart."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from brokers import ROOT, Broker, Successor, poold
from postgres import Postgres
from waiting import wait_until

from client import DBConnectionError
from poold.system import inherited_socket as inherited
from poold.system.inherited_socket import inherited_socket

GIVEN = """
import os
os.dup2({0}, 3)
os.environ |= {{"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "poold.socket"}}
"""
CLIENTS = 20


class Activated:
    """A broker, and the socket that outlives it."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(broker.socket))
        self.listener.listen(100)

    def start(self) -> Broker:
        number = self.listener.fileno()
        return self.broker.start(before=GIVEN.format(number), pass_fds=(number,))

    @property
    def waiting(self) -> int:
        """How many connections nobody has accepted yet: the kernel lists them without an inode."""
        lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
        return sum(line[6] == "0" for line in lines if line[7:] == [str(self.broker.socket)])


@pytest.fixture
def activated(start_broker: Callable[..., Broker]) -> Iterator[Activated]:
    activated = Activated(start_broker(start=False))
    yield activated
    activated.listener.close()
    if activated.broker.running:
        assert activated.broker.stop(now=True) == 0
    activated.broker.socket.unlink()


def ask(broker: Broker) -> Any:
    return broker.handler().query("SELECT 1").fetchone()


def test_clients_that_connect_while_no_broker_runs_are_served_when_one_starts(activated: Activated) -> None:
    with ThreadPoolExecutor(CLIENTS) as threads:
        futures = [threads.submit(ask, activated.broker) for _ in range(CLIENTS)]
        wait_until(lambda: activated.waiting == CLIENTS, what="the clients in the socket's queue")
        activated.start()
        assert [future.result() for future in futures] == [(1,)] * CLIENTS


def test_the_socket_outlives_the_broker_and_its_lock_does_not(activated: Activated) -> None:
    inode = activated.broker.socket.stat().st_ino
    activated.start()
    assert ask(activated.broker) == (1,)
    assert poold("start", f"--config={activated.broker.config}").returncode == 1
    assert activated.broker.stop() == 0
    assert sorted(path.name for path in activated.broker.folder.glob("s*")) == ["s"]
    assert activated.broker.socket.stat().st_ino == inode
    activated.start()
    assert ask(activated.broker) == (1,)


def test_who_connects_during_a_drain_waits_for_the_next_broker(activated: Activated) -> None:
    first = activated.start().pid
    with ThreadPoolExecutor(1) as threads, activated.broker.handler("transactions") as tx:
        tx.query("SELECT 1")
        activated.broker.signal(signal.SIGTERM)
        wait_until(lambda: "signal received name=SIGTERM" in activated.broker.log(), what="the drain")
        future = threads.submit(ask, activated.broker)
        wait_until(lambda: activated.waiting == 1, what="a client in the socket's queue")
        assert tx.query("SELECT 2").fetchone() == (2,)
        tx.commit()
        assert activated.broker.wait() == 0
        assert activated.start().pid != first
        assert future.result() == (1,)


def test_a_killed_broker_loses_nobody_who_connects_either(activated: Activated) -> None:
    activated.start()
    activated.broker.kill()
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(ask, activated.broker)
        wait_until(lambda: activated.waiting == 1, what="a client in the socket's queue")
        activated.start()
        assert future.result() == (1,)


def test_no_child_inherits_the_socket_and_the_variables_are_gone(activated: Activated) -> None:
    pid = activated.start().pid
    flags = Path(f"/proc/{pid}/fdinfo/3").read_text().split("flags:\t")[1].split()[0]
    assert int(flags, 8) & os.O_CLOEXEC
    assert stat.S_ISSOCK(os.stat(f"/proc/{pid}/fd/3").st_mode)


@pytest.mark.parametrize("kind", ["elsewhere", "datagram", "tcp", "file", "connection", "abstract"])
def test_a_descriptor_that_is_not_the_addresss_socket_is_refused(start_broker: Any, tmp_path: Path, kind: str) -> None:
    broker = start_broker(start=False)
    given: Any
    if kind == "file":
        given = open(tmp_path / "file", "w")  # noqa: SIM115  closed below
    elif kind == "connection":
        given, other = socket.socketpair()
        other.close()
    else:
        family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
        given = socket.socket(family, socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM)
        places = {
            "elsewhere": str(tmp_path / "s"),
            "datagram": str(tmp_path / "d"),
            "abstract": f"\0poold-{os.getpid()}",
        }
        given.bind(places.get(kind, ("127.0.0.1", 0)))
        if kind != "datagram":
            given.listen()
    said = {
        "elsewhere": f"has given the broker {tmp_path}/s",
        "datagram": "a socket of another kind",
        "tcp": "a socket of another kind",
        "file": "something that is no socket",
        "connection": r"a connection \(Accept=yes\)",
        "abstract": "a socket without a path",
    }
    with pytest.raises(AssertionError, match=rf"(?s){said[kind]}.*expected ListenStream={broker.socket} alone"):
        broker.start(before=GIVEN.format(given.fileno()), pass_fds=(given.fileno(),))
    given.close()


def test_a_descriptor_that_is_not_there_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inherited, "FIRST", 100_000)
    with pytest.raises(ValueError, match=r"LISTEN_FDS is 1, .* there is no descriptor 100000: whoever starts"):
        inherited_socket("ipc:///nowhere/s", {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())})


def test_what_another_process_was_given_is_not_touched() -> None:
    environment = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getppid()), "PATH": "/bin"}
    assert inherited_socket("ipc:///nowhere/s", environment) is None
    assert environment == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("mode", "lists", "said"),
    [
        (0o660, {}, ""),
        (0o666, {"allow_uids": [1]}, ""),
        (0o666, {}, "anybody on this machine may connect"),
        (0o660, {"allow_uids": [1]}, "users of allow_uids and allow_gids may be unable to connect"),
    ],
)
def test_a_mode_that_does_not_go_with_the_lists_is_told_by_start_and_by_restart(
    activated: Activated, postgres: Postgres, mode: int, lists: dict[str, Any], said: str
) -> None:
    broker = activated.broker
    broker.socket.chmod(mode)
    groups = {"default": {}}
    broker.configure({"main": postgres.parameters}, groups, lists)
    activated.start()
    assert said in broker.log()
    assert ("the socket's mode does not go with the configuration" in broker.log()) is bool(said)
    done = poold("restart", f"--address={broker.address}")
    assert done.returncode == 0
    assert (f"warning: {said}" in done.stderr) is bool(said)
    broker._earlier.append(broker.process)
    broker.process = Successor(broker.ask("ping")["pid"])
    assert stat.S_IMODE(broker.socket.stat().st_mode) == mode


def test_systemds_own_activation_serves(activated: Activated) -> None:
    program = shutil.which("systemd-socket-activate")
    if program is None:
        pytest.skip("there is no systemd-socket-activate here")
    broker = activated.broker
    activated.listener.close()
    broker.socket.unlink()
    command = [
        program,
        f"--listen={broker.socket}",
        "--",
        sys.executable,
        "-m",
        "poold",
        "start",
        f"--config={broker.config}",
    ]
    with (
        open(broker.folder / "log", "ab") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT) as process,
    ):
        wait_until(broker.socket.exists, what="the socket")
        wait_until(lambda: answers(broker), what="an answer")
        process.terminate()
        assert process.wait() == 0, broker.log()


def answers(broker: Broker) -> bool:
    try:
        return bool(ask(broker) == (1,))
    except DBConnectionError:
        return False
