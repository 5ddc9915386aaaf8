"""Brokers and worker processes for tests: the real `poold start`, and programs that use the client.

A broker of a test runs on a socket in a temporary folder of its own, so any number run side by side. Workers are fresh
Python processes that talk to the test in lines of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from postgres import free_port
from waiting import wait_until

import client.channels.registry as connection
from client.channels.channel import Channel
from client.channels.registry import ADDRESS_VARIABLE
from client.errors import DBConnectionError
from client.handler import Handler
from client.wire.arguments import packed_arguments
from client.wire.messages import Answer, Ask

ROOT = Path(__file__).resolve().parent.parent
# What may pass until a process that was told to end is gone; far beyond what it takes, so only a hang reaches it.
EXIT_TIMEOUT = 30.0

Tables = Mapping[str, Mapping[str, Any]]


def toml(tables: Mapping[str, Any]) -> str:
    """TOML for a configuration: tables of plain values, and tables of such tables."""
    lines = []
    for name, table in tables.items():
        inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
        lines.append(f"[{name}]")
        # JSON's strings, numbers, booleans and lists are TOML as well.
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items() if key not in inner]
        for key, values in inner.items():
            lines.append(f"[{name}.{json.dumps(key)}]")
            lines += [f"{word} = {json.dumps(value)}" for word, value in values.items()]
    return "\n".join([*lines, ""])


def environment(**over: str) -> dict[str, str]:
    """This process's variables without those that tell where a broker or a server is, and with `over`."""
    kept = {name: value for name, value in os.environ.items() if name != ADDRESS_VARIABLE and name[:2] != "PG"}
    return {**kept, **over}


def listening(transport: str) -> dict[str, Any]:
    """The `[broker]` settings for ipc or tcp; for tcp with a port that is free."""
    return {"address": f"tcp://127.0.0.1:{free_port()}"} if transport == "tcp" else {}


class Successor:
    """A broker that another one has started, as far as subprocess.Popen's methods are of use for it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """0 when it has ended: nobody but its parent learns its exit code."""
        return 0 if select.select([self._descriptor], [], [], 0)[0] else None

    def wait(self, timeout: float | None = None) -> int:
        if not select.select([self._descriptor], [], [], timeout)[0]:
            raise AssertionError(f"process {self.pid} has not ended")
        return 0

    def send_signal(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        os.close(self._descriptor)


class Broker:
    """One broker process. `start` it again after `kill` or `stop`: its address and its configuration stay the same."""

    def __init__(self, endpoints: Tables, groups: Tables, broker: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="poold-b-", dir="/tmp"))
        self.socket = self.folder / "s"
        self.address = f"ipc://{self.socket}"
        self.config = self.folder / "poold.toml"
        self.process: subprocess.Popen[bytes] | Successor
        # Those that have left the address to another one.
        self._earlier: list[subprocess.Popen[bytes] | Successor] = []
        self._log = self.folder / "log"
        self.configure(endpoints, groups, broker)

    def configure(self, endpoints: Tables, groups: Tables, broker: Mapping[str, Any] | None = None) -> None:
        """Write the configuration of the next start."""
        own = {"address": self.address, "state_dir": str(self.folder / "timelines")}
        tables = {"broker": {**own, **(broker or {})}, "endpoints": endpoints, "groups": groups}
        self.config.write_text(toml(tables), "utf-8")
        self.address = tables["broker"]["address"]

    def start(self, *arguments: str, before: str = "", pass_fds: tuple[int, ...] = ()) -> Self:
        """Start the process and wait until clients may come; before is code that runs in it first."""
        ready, ready_end = os.pipe()
        poold = ["-c", f"{before}\nfrom poold.operations.cli import main\nmain()"] if before else ["-m", "poold"]
        command = [sys.executable, *poold, "start", f"--config={self.config}", f"--ready-fd={ready_end}"]
        with open(self._log, "ab") as log, os.fdopen(ready) as pipe:
            try:
                self.process = subprocess.Popen(
                    [*command, *arguments],
                    cwd=ROOT,
                    env=environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[ready_end, *pass_fds],
                )
            finally:
                os.close(ready_end)
            is_ready = pipe.read() != ""
        if not is_ready:
            code = self.process.wait(EXIT_TIMEOUT)
            raise AssertionError(f"the broker ended with code {code} while starting:\n{self.log()}")
        return self

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return hasattr(self, "process") and self.process.poll() is None

    def handler(self, group: str = "default", **more: Any) -> Handler:
        """A Handler of this process on this broker."""
        return Handler(group, address=self.address, **more)

    def ask(self, what: str, *arguments: tuple[str, str]) -> dict[str, Any]:
        """The broker's answer to a question of the protocol, through a channel of its own."""
        channel = Channel(self.address)
        try:
            answer = channel.call(Ask(channel.next_request(), what, packed_arguments(arguments)), EXIT_TIMEOUT)
        finally:
            channel.close()
        assert isinstance(answer, Answer)
        return answer.body

    def stats(self) -> dict[str, Any]:
        """What `poold stats --json` shows; the asking channel is one of its `clients`."""
        return self.ask("stats")

    def group(self, name: str = "default") -> dict[str, Any]:
        """One group of `stats`."""
        return dict(self.stats()["groups"][name])

    def pool(self, group: str = "default", endpoint: str = "main") -> dict[str, Any]:
        """One pool of `stats`: a group's backends on one endpoint."""
        return dict(self.group(group)["endpoints"][endpoint])

    def server_pids(self) -> set[int]:
        """PostgreSQL's processes of its backends; its own questions have other ones, by the same application_name."""
        return {each["server_pid"] for each in self.ask("stats", ("section", "backends"))["backends"]}

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = EXIT_TIMEOUT) -> int:
        """Wait for the process's end; its exit code."""
        return self.process.wait(timeout)

    def stop(self, *, now: bool = False) -> int:
        """Stop it in good order, or at once with whatever runs; the exit code."""
        if now:
            wait_until(self._ends_now, EXIT_TIMEOUT, "the broker's end")
        else:
            self.signal(signal.SIGTERM)
        return self.wait()

    def is_deaf(self) -> bool:
        """Whether nobody can connect: over ipc:// a broker that ends reads nothing from anybody any more then."""
        with socket.socket(socket.AF_UNIX) as made:
            return made.connect_ex(str(self.socket)) != 0

    def _ends_now(self) -> bool:
        """Whether it has ended; if not, it is told to once more."""
        if self.running and self.address.startswith("tcp:"):
            # Nobody may ask it to stop there. The second signal is the one that cuts off; two at once would be one.
            self.signal(signal.SIGTERM)
        elif self.running:
            # Where it is about to end by itself, nobody answers any more; where max_clients have only just gone, nobody
            # does yet.
            with contextlib.suppress(DBConnectionError):
                self.ask("stop-now")
        return not self.running

    def restart(self) -> Successor:
        """Let another process take over by `poold restart`; it is the broker from then on. The old one may go on."""
        done = poold("restart", "--json", f"--address={self.address}")
        assert done.returncode == 0, done.stderr
        self._earlier.append(self.process)
        self.process = Successor(json.loads(done.stdout)["pid"])
        return self.process

    def kill(self) -> None:
        """End the process as kill -9 does: its socket and its lock stay."""
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        """Everything it has logged, over all starts."""
        return self._log.read_text("utf-8", errors="replace") if self._log.exists() else ""

    def close(self) -> None:
        """End of the test: the broker must still be able to stop in good order, and leave no socket and no lock."""
        # A channel whose broker is gone would stay as long as its thread.
        for channels in (connection._per_thread.channels, connection._per_process):
            for where, channel in list(channels.items()):
                if channel.address == self.address:
                    channels.pop(where).close()
        try:
            if self.running:
                self.signal(signal.SIGCONT)
                code = self.stop(now=True)
                assert code == 0, f"the broker ended with code {code}:\n{self.log()}"
                left = [path.name for path in self.folder.glob(f"{self.socket.name}*")]
                assert not left, f"the broker left {left}:\n{self.log()}"
            for each in self._earlier:
                assert each.wait(EXIT_TIMEOUT) == 0, self.log()
        finally:
            for process in (*self._earlier, self.process) if hasattr(self, "process") else ():
                if process.poll() is None:
                    process.kill()
                    process.wait()
            shutil.rmtree(self.folder, ignore_errors=True)


class Worker:
    """A fresh Python process that runs a program, with the broker's address in its environment.

    The program prints JSON, one value a line (`tell` is there for it), and reads lines from its standard input.
    Warnings are errors in it.
    """

    PRELUDE = "import json, os, sys, time\ndef tell(value):\n    print(json.dumps(value), flush=True)\n"

    def __init__(self, program: str, *arguments: str, address: str = "", **variables: str) -> None:
        if address:
            variables[ADDRESS_VARIABLE] = address
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-W", "error", "-c", self.PRELUDE + program, *arguments],
            cwd=ROOT,
            env=environment(**variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self) -> Any:
        """The next value the program tells."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            assert self.process.stderr is not None
            raise AssertionError(f"the worker said nothing more; on its stderr:\n{self.process.stderr.read()}")
        return json.loads(line)

    def say(self, text: str = "") -> None:
        """A line for the program's standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def finish(self) -> list[Any]:
        """Close its input and wait for its end, which must be a success; the values it told meanwhile."""
        try:
            told, errors = self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # so it says where it is
            _, errors = self.process.communicate(timeout=60)
            raise AssertionError(f"the worker did not end:\n{errors}") from None
        assert self.process.returncode == 0, f"the worker ended with code {self.process.returncode}:\n{errors}"
        return [json.loads(line) for line in told.splitlines()]

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.kill()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def run_worker(program: str, *arguments: str, address: str = "", **variables: str) -> Any:
    """Run a program to its end in a fresh process; the last value it told."""
    worker = Worker(program, *arguments, address=address, **variables)
    try:
        return worker.finish()[-1]
    finally:
        worker.close()


def poold(*arguments: str, timeout: float = 60, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the command line to its end, as run does."""
    return run(sys.executable, "-m", "poold", *arguments, timeout=timeout, **variables)


def order(broker: Broker, *words: str) -> Any:
    """What the command prints as JSON."""
    done = poold(*words, "--json", f"--address={broker.address}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def run(*command: str, timeout: float = 60, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; its exit code and what it said are for the caller to judge."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_gone(pid: int) -> None:
    """Wait until a process, whoever's child it is, has ended."""
    wait_until(lambda: is_gone(pid), EXIT_TIMEOUT, f"the end of process {pid}")
