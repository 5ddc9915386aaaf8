"""The command line, each command as a process of its own: what it says, its exit codes, and what it leaves behind.

Exit codes: 0 ok, 1 error, 2 usage, 3 no broker is running at the address.
"""

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from brokers import ROOT, Broker, environment, is_gone, poold, toml, wait_gone
from postgres import Postgres, free_port, server_folder
from waiting import wait_until

from client import DBConnectionError, Handler, TransactionLost
from poold import __version__
from poold.embedded.programs import BINDIR_VARIABLE

NOT_RUNNING, USAGE, ERROR = 3, 2, 1
READING = [["stats"], ["stats", "--json"], ["ping"], ["ping", "--json"]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path that a private server's user may enter."""
    with server_folder() as folder:
        yield folder


@pytest.fixture
def address(folder: Path) -> str:
    """An address where nobody listens."""
    return f"ipc://{folder}/s"


@pytest.fixture
def config(folder: Path, address: str, postgres: Postgres) -> Path:
    """A configuration file for that address on the session's PostgreSQL."""
    file = folder / "poold.toml"
    tables = {"broker": {"address": address}, "endpoints": {"main": postgres.parameters}, "groups": {"default": {}}}
    file.write_text(toml(tables), "utf-8")
    return file


class Command:
    """A command that runs until it is told to end; it is the first of a process group, as in a terminal."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "poold", *arguments],
            cwd=ROOT,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )

    def read_until(self, text: str, stream: str = "stdout") -> str:
        """What it says on one of its streams, up to the line that has this text."""
        said = ""
        while text not in said:
            line = getattr(self.process, stream).readline()
            assert line, f"it ended after saying {said!r} and then {self.process.communicate()}"
            said += line
        return said

    def finish(self) -> tuple[int, str, str]:
        """Wait for its end: exit code, and what it said on either stream since the last read."""
        output, errors = self.process.communicate(timeout=60)
        return self.process.returncode, output, errors

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def run() -> Iterator[Callable[..., Command]]:
    """Starts commands that run on, and ends them with the test."""
    running: list[Command] = []

    def run(*arguments: str, **variables: str) -> Command:
        running.append(Command(*arguments, **variables))
        return running[-1]

    yield run
    for command in running:
        command.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


class Gate:
    """Statements that run until the test lets them go on."""

    KEY = 7_001
    STATEMENT = f"SELECT pg_advisory_xact_lock_shared({KEY}), 'through the gate' AS it"

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._connection = postgres.connect()
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (self.KEY,))

    def wait_for(self, count: int = 1) -> None:
        """Wait until that many statements stand at the gate."""
        wait_until(
            lambda: sum("advisory" in (each["wait_event"] or "") for each in self._postgres.backends()) == count,
            what=f"{count} statements at the gate",
        )

    def open(self) -> None:
        self._connection.close()


@pytest.fixture
def gate(postgres: Postgres) -> Iterator[Gate]:
    gate = Gate(postgres)
    yield gate
    gate.open()


@pytest.fixture
def patient(start_broker: Any, postgres: Postgres) -> Broker:
    """A broker on an endpoint where statements may take as long as a test."""
    broker: Broker = start_broker(endpoints={"main": {**postgres.parameters, "query_timeout": 0}})
    reap(broker)
    return broker


def at_the_gate(broker: Broker, threads: ThreadPoolExecutor, gate: Gate, group: str = "default") -> "Future[Any]":
    """A client whose statement stands at the gate; the future is what it gets."""
    future = threads.submit(lambda: broker.handler(group).query(Gate.STATEMENT).fetchone().it)
    gate.wait_for()
    return future


def is_refused(broker: Broker) -> bool:
    """Whether the broker takes no new work because it is about to end."""
    try:
        broker.handler().query("SELECT 1")
    except DBConnectionError as error:
        return "shutting down" in str(error)
    return False


def reap(broker: Broker) -> None:
    """Notice the broker's end at once: until its parent has noticed it, a process that has ended is still listed."""
    threading.Thread(target=broker.process.wait, daemon=True).start()


# Start.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_start_says_how_to_go_on_and_a_signal_ends_it_without_a_trace(
    run: Callable[..., Command], config: Path, folder: Path, address: str, number: signal.Signals
) -> None:
    command = run("start", f"--config={config}")
    said = command.read_until("stop:")
    assert f"poold {__version__} is ready at {address} (process {command.process.pid})" in said
    assert "group default: each statement by itself" in said
    assert f"poold stats --address {address}\n" in said
    command.process.send_signal(number)
    code, _, errors = command.finish()
    assert code == 0
    assert "broker stopped" in errors
    assert "Traceback" not in errors
    assert [path.name for path in folder.iterdir()] == [config.name]


@pytest.fixture
def private(bindir: Callable[[], Path]) -> dict[str, str]:
    """The environment of a `start` with a private server: where PostgreSQL's programs are."""
    return {BINDIR_VARIABLE: str(bindir())}


def postmaster(data: Path) -> int:
    """The process id of the private server on that folder."""
    return int((data / "cluster" / "postmaster.pid").read_text().partition("\n")[0])


def test_start_without_a_configuration_brings_a_private_server_and_takes_it_away(
    run: Callable[..., Command], folder: Path, address: str, private: dict[str, str]
) -> None:
    data = folder / "data"
    for number, expected in ((signal.SIGTERM, ["first"]), (signal.SIGINT, ["first", "second"])):
        command = run("start", f"--data={data}", f"--address={address}", **private)
        said = command.read_until("stop:")
        assert "group default: each statement by itself" in said
        assert "group transactions: transactions" in said
        assert f"private PostgreSQL in {data}" in said
        [dsn] = re.findall(r"psql '(.*)'", said)
        psycopg2.connect(dsn).close()
        db = Handler("default", address=address)
        db.query("CREATE TABLE IF NOT EXISTS kept (value text)")
        with Handler("transactions", address=address) as tx:
            tx.query("INSERT INTO kept VALUES (%s)", (expected[-1],))
        assert [row.value for row in db.query("SELECT value FROM kept ORDER BY value")] == expected
        server = postmaster(data)
        command.process.send_signal(number)
        assert command.finish()[0] == 0
        assert is_gone(server)
        assert not (data / "socket").exists()
        assert [path.name for path in folder.iterdir()] == ["data"]


def test_ctrl_c_in_a_terminal_lets_a_statement_on_the_private_server_finish(
    run: Callable[..., Command],
    folder: Path,
    address: str,
    private: dict[str, str],
    threads: ThreadPoolExecutor,
) -> None:
    command = run("start", f"--data={folder / 'data'}", f"--address={address}", **private)
    [dsn] = re.findall(r"psql '(.*)'", command.read_until("stop:"))
    holder = psycopg2.connect(dsn)
    holder.cursor().execute("SELECT pg_advisory_lock(%s)", (Gate.KEY,))
    future = threads.submit(lambda: Handler("default", address=address).query(Gate.STATEMENT).fetchone().it)
    # psycopg2 has begun a transaction: what another one sees of the locks is asked for outside of it.
    holder.commit()

    def is_waiting() -> bool:
        with holder, holder.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            return cursor.fetchone() == (1,)

    wait_until(is_waiting, what="the statement at the gate")
    # Ctrl-C goes to the whole process group.
    os.killpg(command.process.pid, signal.SIGINT)
    command.read_until("signal received name=SIGINT", "stderr")
    holder.close()
    assert future.result() == "through the gate"
    assert command.finish()[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_while_the_private_server_stops_leaves_nothing_behind_either(
    run: Callable[..., Command], folder: Path, address: str, private: dict[str, str], number: signal.Signals
) -> None:
    data = folder / "data"
    command = run("start", f"--data={data}", f"--address={address}", **private)
    command.read_until("stop:")
    server = postmaster(data)
    os.kill(server, signal.SIGSTOP)
    try:
        command.process.send_signal(number)
        # The broker's own part is over, it waits for the server.
        wait_until(lambda: not (folder / "s.lock").exists(), what="the end of the broker's claim on its address")
        command.process.send_signal(number)
    finally:
        os.kill(server, signal.SIGCONT)
    code, _, errors = command.finish()
    wait_gone(server)
    assert (code, "Traceback" in errors) == (0, False), errors
    assert not (data / "socket").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_start_leaves_nothing_behind(
    run: Callable[..., Command], folder: Path, address: str, private: dict[str, str], number: signal.Signals
) -> None:
    data = folder / "data"
    command = run("start", f"--data={data}", f"--address={address}", **private)
    # The server is being started, or is there already.
    wait_until(lambda: (data / "cluster" / "postmaster.pid").exists(), what="the private server")
    command.process.send_signal(number)
    _, _, errors = command.finish()
    assert "Traceback" not in errors
    assert not (data / "cluster" / "postmaster.pid").exists()
    assert not (data / "socket").exists()
    assert [path.name for path in folder.iterdir()] == ["data"]


def test_a_detached_broker_is_ready_when_start_returns_and_stop_waits_for_its_end(
    folder: Path, address: str, private: dict[str, str]
) -> None:
    data = folder / "data"
    started = poold("start", "--detach", f"--data={data}", f"--address={address}", **private)
    assert (started.returncode, started.stderr) == (0, "")
    log = folder / "s.log"
    assert f"is ready at {address}" in started.stdout
    assert f"log: {log}" in started.stdout
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    pid = json.loads(poold("ping", "--json", f"--address={address}").stdout)["pid"]
    try:
        assert f"(process {pid})" in started.stdout
        assert os.getsid(pid) == pid
        server = postmaster(data)
        stopped = poold("stop", f"--address={address}")
        assert (stopped.returncode, stopped.stdout) == (0, f"stopped process {pid} at {address}\n")
        assert (is_gone(pid), is_gone(server)) == (True, True)
    finally:
        if not is_gone(pid):
            os.kill(pid, signal.SIGKILL)
    assert "broker stopped" in log.read_text("utf-8")
    assert sorted(path.name for path in folder.iterdir()) == ["data", "s.log"]


def test_an_address_over_tcp_is_said_as_it_is_configured(postgres: Postgres, start_broker: Any, folder: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    broker = start_broker({"main": postgres.parameters}, broker={"address": address}, start=False)
    started = poold("start", "--detach", f"--config={broker.config}", f"--log-file={folder / 'log'}")
    assert f"is ready at {address} (process " in started.stdout
    assert "ffff" not in started.stdout
    pid = int(started.stdout.split("(process ")[1].split(")")[0])
    os.kill(pid, signal.SIGTERM)
    wait_gone(pid)
    assert f"broker started address={address} " in (folder / "log").read_text("utf-8")


def test_a_detached_broker_that_cannot_start_says_why(config: Path, folder: Path) -> None:
    config.write_text(config.read_text("utf-8").replace("[groups", "[grups"), "utf-8")
    started = poold("start", "--detach", f"--config={config}", f"--log-file={folder / 'log'}")
    assert (started.returncode, started.stdout) == (ERROR, "")
    assert "did you mean groups?" in started.stderr


def test_start_writes_its_log_where_it_is_told(run: Callable[..., Command], config: Path, folder: Path) -> None:
    command = run("start", f"--config={config}", f"--log-file={folder / 'log'}", "--verbose")
    command.read_until("stop:")
    wait_until(lambda: "backend opened" in (folder / "log").read_text("utf-8"), what="an opened backend in the log")
    command.process.terminate()
    assert command.finish() == (0, "", "")
    assert "broker stopped" in (folder / "log").read_text("utf-8")


def test_a_second_broker_at_the_same_address_is_refused_and_the_first_serves_on(broker: Broker, folder: Path) -> None:
    second = poold("start", f"--config={broker.config}")
    assert second.returncode == ERROR
    assert f"a broker (process {broker.pid}) already serves {broker.address}" in second.stderr
    data = folder / "data"
    private = poold("start", f"--data={data}", f"--address={broker.address}")
    assert private.returncode == ERROR
    assert f"already serves {broker.address}" in private.stderr
    assert not data.exists()
    detached = poold("start", "--detach", f"--config={broker.config}", f"--log-file={folder / 'log'}")
    assert detached.returncode == ERROR
    assert "already serves" in detached.stderr
    assert broker.handler().query("SELECT 1").fetchone() == (1,)


def test_what_a_killed_broker_left_is_no_obstacle_for_the_next(start_broker: Any) -> None:
    broker = start_broker()
    broker.kill()
    assert sorted(path.name for path in broker.folder.glob("s*")) == ["s", "s.lock"]
    assert poold("ping", f"--address={broker.address}").returncode == NOT_RUNNING
    broker.start()
    assert broker.handler().query("SELECT 1").fetchone() == (1,)


def test_brokers_that_start_at_the_same_moment_agree_on_one(run: Callable[..., Command], config: Path) -> None:
    commands = [run("start", f"--config={config}") for _ in range(4)]
    wait_until(lambda: sum(each.process.poll() is not None for each in commands) >= 3, 60, "the end of all but one")
    [winner] = [each for each in commands if each.process.poll() is None]
    winner.read_until("stop:")
    for loser in commands:
        if loser is not winner:
            code, _, errors = loser.finish()
            assert (code, "already serves" in errors) == (ERROR, True)
    winner.process.terminate()
    assert winner.finish()[0] == 0


def test_a_configuration_with_mistakes_is_refused_with_all_of_them_and_nothing_starts(
    folder: Path, address: str
) -> None:
    config = folder / "poold.toml"
    tables = {
        "broker": {"address": address, "max_result_byte": 1},
        "endpoints": {"main": {"host": 5, "dbname": "app", "user": "app", "port": 99999}},
        "groups": {"default": {"min_size": 5, "max_size": 2, "endpoints": ["mian"]}},
    }
    config.write_text(toml(tables), "utf-8")
    started = poold("start", f"--config={config}")
    assert (started.returncode, started.stdout) == (ERROR, "")
    for problem in ("did you mean max_result_bytes?", "host: found 5", "port: found 99999", "did you mean main?"):
        assert problem in started.stderr
    assert "min_size: found 5, expected at most max_size, which is 2" in started.stderr
    assert [path.name for path in folder.iterdir()] == ["poold.toml"]
    checked = poold("check-config", str(config), "--json")
    assert checked.returncode == ERROR
    report = json.loads(checked.stdout)
    assert report["ok"] is False
    assert len(report["problems"]) == 5
    assert all(problem in started.stderr for problem in report["problems"])


@pytest.mark.parametrize("command", ["start --config=", "check-config ", "import-config "])
def test_a_file_that_cannot_be_read_is_an_error(command: str, folder: Path) -> None:
    done = poold(*f"{command}{folder}/nothing".split())
    assert done.returncode == ERROR
    assert f"{folder}/nothing" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def taken() -> Iterator[str]:
    """An address where something else listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["taken", "impossible", "reachable from outside"])
def test_an_address_that_cannot_be_bound_is_an_error(config: Path, taken: str, kind: str) -> None:
    other = {"impossible": "ipc:///dev/null/s", "reachable from outside": "tcp://0.0.0.0:6543"}
    started = poold("start", f"--config={config}", f"--address={other.get(kind, taken)}")
    assert (started.returncode, started.stdout) == (ERROR, "")
    assert "Traceback" not in started.stderr
    assert started.stderr.strip().splitlines()[-1].startswith("poold: ")


def test_a_private_server_is_stopped_when_the_broker_cannot_start(
    folder: Path, taken: str, private: dict[str, str]
) -> None:
    data = folder / "data"
    started = poold("start", f"--data={data}", f"--address={taken}", **private)
    assert started.returncode == ERROR
    assert f"cannot listen at {taken}" in started.stderr
    assert (data / "cluster").is_dir()
    assert not (data / "cluster" / "postmaster.pid").exists()


@pytest.mark.parametrize(
    "command",
    [
        "",
        "strat",
        "start --no-such-option",
        "start --config=a --data=b",
        "start --address=somewhere",
        "start --address=ipc://relative",
        f"ping --address=ipc:///{'x' * 200}",
        "stats --watch --json --address=ipc:///tmp/nobody",
        "ping too much",
        "check-config",
        "import-config",
        "stop --later",
    ],
)
def test_mistakes_on_the_command_line_are_usage_errors(command: str) -> None:
    done = poold(*command.split())
    assert done.returncode == USAGE
    assert "Usage:" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_the_address_of_the_environment_is_used_and_a_wrong_one_is_an_error(broker: Broker, address: str) -> None:
    assert poold("ping", POOLD_ADDRESS=broker.address).returncode == 0
    assert poold("ping", f"--address={broker.address}", POOLD_ADDRESS=address).returncode == 0
    wrong = poold("ping", POOLD_ADDRESS="somewhere")
    assert wrong.returncode in (ERROR, USAGE)
    assert "'somewhere'" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_where_no_broker_runs_the_exit_code_is_3_and_the_text_says_how_to_start_one(
    address: str, threads: ThreadPoolExecutor
) -> None:
    commands = [*READING, ["stats", "--watch"], ["stop"], ["stop", "--now"]]
    expected = f"poold: no poold broker answers at {address}; start one there with: poold start --address {address}\n"
    for done in threads.map(lambda command: poold(*command, f"--address={address}"), commands):
        assert (done.returncode, done.stdout, done.stderr) == (NOT_RUNNING, "", expected), done.args


# Stop.


def test_stop_lets_running_work_finish_and_refuses_new_work(
    patient: Broker, threads: ThreadPoolExecutor, gate: Gate, run: Callable[..., Command]
) -> None:
    tx = patient.handler("transactions")
    tx.query("SELECT 1")
    future = at_the_gate(patient, threads, gate)
    stop = run("stop", f"--address={patient.address}")
    wait_until(lambda: is_refused(patient), what="the broker's drain")
    assert "is draining" in poold("ping", f"--address={patient.address}").stdout
    assert json.loads(poold("stats", "--json", f"--address={patient.address}").stdout)["state"] == "draining"
    gate.open()
    assert future.result() == "through the gate"
    # An open transaction is work as well.
    assert tx.query("SELECT 2").fetchone() == (2,)
    assert stop.process.poll() is None
    tx.commit()
    assert stop.finish() == (0, f"stopped process {patient.pid} at {patient.address}\n", "")
    assert patient.wait() == 0
    assert not patient.socket.exists()


def test_stop_now_does_not_wait_and_every_client_is_told(
    patient: Broker, threads: ThreadPoolExecutor, gate: Gate
) -> None:
    tx = patient.handler("transactions")
    tx.query("SELECT 1")
    future = at_the_gate(patient, threads, gate)
    stopped = poold("stop", "--now", f"--address={patient.address}")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert patient.wait() == 0
    with pytest.raises(DBConnectionError) as caught:
        future.result()
    assert caught.value.outcome == "unknown"
    with pytest.raises(TransactionLost):
        tx.commit()
    assert not patient.socket.exists()
    gate.open()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once_while_a_long_statement_runs(
    patient: Broker, threads: ThreadPoolExecutor, gate: Gate, number: signal.Signals
) -> None:
    future = at_the_gate(patient, threads, gate)
    patient.signal(number)
    wait_until(lambda: is_refused(patient), what="the broker's drain")
    assert patient.running
    patient.signal(number)
    assert patient.wait() == 0
    with pytest.raises(DBConnectionError):
        future.result()
    assert not patient.socket.exists()
    gate.open()
    gate.wait_for(0)


def test_a_drain_ends_after_its_timeout(
    start_broker: Any, postgres: Postgres, threads: ThreadPoolExecutor, gate: Gate
) -> None:
    endpoints = {"main": {**postgres.parameters, "query_timeout": 0}}
    broker = start_broker(endpoints=endpoints, broker={"drain_timeout": 0.2})
    reap(broker)
    future = at_the_gate(broker, threads, gate)
    assert poold("stop", f"--address={broker.address}").returncode == 0
    assert broker.wait() == 0
    with pytest.raises(DBConnectionError):
        future.result()
    gate.open()


def test_a_broker_that_ends_under_load_logs_no_unexpected_error_and_answers_everybody(start_broker: Any) -> None:
    broker = start_broker()
    for how in ("stop", "stop-now", "stop", "stop-now"):
        going = threading.Barrier(9)

        def work(going: threading.Barrier = going) -> None:
            db = broker.handler()
            going.wait(60)
            while True:
                db.query("SELECT 1")

        with ThreadPoolExecutor(8) as clients:
            futures = [clients.submit(work) for _ in range(8)]
            going.wait(60)
            assert broker.ask(how)["pid"] == broker.pid
            for future in futures:
                assert isinstance(future.exception(), DBConnectionError)
        assert broker.wait() == 0
        assert "Traceback" not in broker.log()
        assert not broker.socket.exists()
        broker.start()


def test_a_broker_at_a_tcp_address_serves_and_is_stopped_by_a_signal_only(
    run: Callable[..., Command], config: Path
) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    command = run("start", f"--config={config}", f"--address={address}")
    command.read_until("stop:")
    assert Handler(address=address).query("SELECT 1").fetchone() == (1,)
    second = poold("start", f"--config={config}", f"--address={address}")
    assert second.returncode == ERROR
    assert f"cannot listen at {address}" in second.stderr
    stopped = poold("stop", f"--address={address}")
    assert stopped.returncode == ERROR
    assert "this address does not tell who asks" in stopped.stderr
    command.process.terminate()
    assert command.finish()[0] == 0


def test_stop_does_not_wait_for_the_brokers_parent_to_notice_its_end(start_broker: Any) -> None:
    broker = start_broker()
    # Nobody waits for the process meanwhile, as in a container whose first process is no init.
    stopped = poold("stop", f"--address={broker.address}", timeout=15)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert broker.wait() == 0


# Reading commands.

GROUP_FIELDS = {
    "autocommit", "max_size", "clients", "waiting", "waiting_by_priority", "oldest_wait_ms", "oldest_tag", "oldest_pid",
    "requests", "errors", "refused", "timeouts", "withdrawn", "retries", "in_doubt", "statements", "wait_ms", "run_ms",
    "endpoints", "role", "obstacle", "rerouted", "state", "transactions", "not_begun", "rates",
}  # fmt: skip
POOL_FIELDS = {
    "state", "failures", "error", "next_try_ms", "size", "idle", "active", "leased", "connecting", "cancelling",
    "resetting", "requests", "joined", "opened", "failed", "closed", "lost", "role",
    "is_serving", "is_paused", "is_drained", "outdated",
}  # fmt: skip


def test_stats_shows_who_works_who_waits_and_for_how_long(start_broker: Any, threads: ThreadPoolExecutor) -> None:
    group = {"autocommit": False, "max_size": 1}
    broker = start_broker(groups={"transactions": group, "other": {"min_size": 0}})
    holder = broker.handler("transactions")
    holder.query("SELECT 1")
    with pytest.raises(psycopg2.errors.DivisionByZero):
        holder.query("SELECT 1/0")

    def wait_in_line() -> Any:
        with broker.handler("transactions", tag="report 7") as waiter:
            return waiter.query("SELECT 2").fetchone()

    future = threads.submit(wait_in_line)
    wait_until(lambda: broker.group("transactions")["waiting"] == 1, what="the waiting request")
    snapshot = json.loads(poold("stats", "--json", f"--address={broker.address}").stdout)
    text = poold("stats", f"--address={broker.address}").stdout
    holder.rollback()
    assert future.result() == (2,)

    assert (snapshot["pid"], snapshot["version"], snapshot["state"]) == (broker.pid, __version__, "running")
    assert (snapshot["address"], snapshot["clients"]) == (broker.address, 3)
    assert {"uptime_s", "cpu_s", "max_memory_kb", "protocol_violations", "dropped_replies"} < set(snapshot)
    ours = {"pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid(), "clients": 2, "requests": 1, "leases": 2}
    process, asking = snapshot["processes"]
    assert {key: process[key] for key in ours} == ours
    assert (asking["uid"], asking["clients"], asking["leases"]) == (os.getuid(), 1, 0)
    assert snapshot["processes_not_shown"] == 0
    assert set(snapshot["groups"]) == {"transactions", "other"}
    group = snapshot["groups"]["transactions"]
    pool = group["endpoints"]["main"]
    assert (set(group), set(pool)) == (GROUP_FIELDS, POOL_FIELDS)
    assert (group["autocommit"], group["clients"], group["waiting"]) == (False, 2, 1)
    assert (group["oldest_tag"], group["oldest_pid"]) == ("report 7", os.getpid())
    assert group["oldest_wait_ms"] > 0
    assert (group["requests"], group["errors"]) == (3, 1)
    assert 0 < group["run_ms"]["p50"] <= group["run_ms"]["p99"]
    assert 0 < group["wait_ms"]["p50"] <= group["wait_ms"]["p99"]
    assert (pool["state"], pool["size"], pool["leased"], pool["active"], pool["idle"]) == ("available", 1, 1, 0, 0)
    assert (pool["requests"], pool["opened"], pool["connecting"], pool["error"]) == (2, 1, 0, None)
    idle = snapshot["groups"]["other"]
    assert (idle["oldest_wait_ms"], idle["run_ms"]) == (None, {"p50": None, "p99": None})

    lines = [line.split() for line in text.splitlines()]
    assert ["transactions", "2", "1"] in [line[:3] for line in lines]
    assert ["transactions", "main", "available", "1", "0", "1", "0", "0"] in [line[:8] for line in lines]
    assert ["other", "0", "0", "-"] in [line[:4] for line in lines]
    owner = [str(os.getpid()), str(os.getuid()), str(os.getgid())]
    assert [line[-4:] for line in lines if line[:3] == owner] == [["2", "1", "0", "2"]]


def test_stats_shows_why_an_endpoint_is_away(start_broker: Any, tmp_path: Path) -> None:
    gone = {"host": str(tmp_path), "dbname": "app", "user": "app"}
    broker = start_broker(endpoints={"gone": gone}, groups={"default": {}})
    wait_until(lambda: broker.pool(endpoint="gone")["failures"], what="the failed connect")
    pool = broker.pool(endpoint="gone")
    assert pool["state"] in ("quarantined", "probing")
    assert f"{tmp_path}/.s.PGSQL.5432" in pool["error"]
    text = poold("stats", f"--address={broker.address}").stdout
    assert "group default, endpoint gone: connection to server on socket" in " ".join(text.split())


def test_stats_watches_until_ctrl_c(broker: Broker) -> None:
    terminal, terminal_end = os.openpty()
    command = [sys.executable, "-m", "poold", "stats", "--watch", f"--address={broker.address}"]
    variables = environment(TERM="xterm", COLUMNS="200", LINES="50")
    process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=terminal_end, stderr=subprocess.PIPE, text=True)
    os.close(terminal_end)
    try:
        # The heading of the first table, and again when it is shown anew.
        shown = b""
        while shown.count(b"wait p50") < 2:
            shown += os.read(terminal, 65536)
        assert b"transactions" in shown
        process.send_signal(signal.SIGINT)
        drain = threading.Thread(target=_read_all, args=(terminal,), daemon=True)
        drain.start()
        _, errors = process.communicate(timeout=60)
        drain.join()
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.communicate()
        os.close(terminal)


def _read_all(terminal: int) -> None:
    """Read what a process says on its way out; the terminal gives an error when nobody is left to say anything."""
    with contextlib.suppress(OSError):
        while os.read(terminal, 65536):
            pass


def test_ping_tells_that_the_broker_is_there(broker: Broker) -> None:
    text = poold("ping", f"--address={broker.address}")
    assert text.returncode == 0
    start = f"poold {__version__} at {broker.address} is running (process {broker.pid}), round trip "
    assert text.stdout.startswith(start)
    answer = json.loads(poold("ping", "--json", f"--address={broker.address}").stdout)
    assert answer.pop("round_trip_ms") > 0
    assert answer == {"address": broker.address, "pid": broker.pid, "version": __version__, "state": "running"}


def test_version_tells_what_poold_stands_on() -> None:
    found = json.loads(poold("version", "--json").stdout)
    assert found["poold"] == __version__
    assert found.pop("lacking") == []
    assert set(found) == {"poold", "lane", "python", "psycopg2", "libpq", "pyzmq", "libzmq", "msgpack", "uvloop"}
    text = poold("version")
    assert (text.returncode, text.stdout) == (0, "".join(f"{name} {number}\n" for name, number in found.items()))


def test_help_names_every_command() -> None:
    shown = poold("--help")
    assert (shown.returncode, shown.stdout) == (0, poold("-h").stdout)
    for command in ("start", "stop", "stats", "ping", "check-config", "import-config", "version"):
        assert re.search(rf"^  {command} ", shown.stdout, re.MULTILINE)
        assert poold(command, "--help").stdout.startswith(f"Usage: python -m poold {command} ")


def test_check_config_tells_what_is_in_a_good_configuration(config: Path, address: str) -> None:
    text = poold("check-config", str(config))
    assert (text.returncode, text.stderr) == (0, "")
    assert text.stdout == f"{config} is good: groups default on endpoints main, at {address}\n"
    report = json.loads(poold("check-config", "--json", str(config)).stdout)
    assert report["ok"] is True
    assert report["config"]["broker"]["address"] == address
    assert report["config"]["groups"]["default"]["endpoints"] == ["main"]
    assert report["config"]["endpoints"]["main"]["query_timeout"] == 5.0


LEGACY = """
config = {
    'type': 'non-threaded',
    'db': [{'host': 'db1.example.com', 'name': 'app', 'user': 'app', 'pass': 'hidden', 'query_timeout': 2500}],
    'groups': {'web': {'connection_count': 20, 'autocommit': True}},
}
"""


def test_import_config_writes_what_check_config_accepts(folder: Path) -> None:
    source, target = folder / "pgdbpool_config.py", folder / "poold.toml"
    source.write_text(LEGACY, "utf-8")
    shown = poold("import-config", str(source))
    assert (shown.returncode, shown.stderr) == (0, "")
    written = poold("import-config", str(source), "-o", str(target))
    assert written.returncode == 0
    assert target.read_text("utf-8") == shown.stdout
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    report = json.loads(poold("check-config", "--json", str(target)).stdout)["config"]
    assert report["endpoints"]["db1"]["query_timeout"] == 2.5
    assert (report["groups"]["web"]["max_size"], report["groups"]["web"]["autocommit"]) == (20, True)
    again = poold("import-config", str(source), "-o", str(target))
    assert again.returncode == ERROR
    assert str(target) in again.stderr
    assert target.read_text("utf-8") == shown.stdout


def test_import_config_refuses_what_it_cannot_read_with_all_reasons(folder: Path) -> None:
    source = folder / "config.json"
    source.write_text('{"db": {"host": "h", "nam": "app"}, "groups": {"web": {"connection_count": 0}}}', "utf-8")
    done = poold("import-config", str(source), "-o", str(folder / "out.toml"))
    assert (done.returncode, done.stdout) == (ERROR, "")
    for problem in ("did you mean name?", "user", "connection_count"):
        assert problem in done.stderr
    assert not (folder / "out.toml").exists()


# Secrets.


def test_a_password_appears_in_no_output_no_log_and_no_process_list(
    run: Callable[..., Command], folder: Path, address: str, postgres: Postgres
) -> None:
    secret = "correct-horse-battery"
    (folder / "secret").write_text(secret + "\n", "utf-8")
    ways = {"password": secret, "password_file": str(folder / "secret"), "password_env": "POOLD_TEST_SECRET"}
    server = {name: value for name, value in postgres.parameters.items() if name != "password"}
    endpoints = {f"by_{way}": {**server, way: given} for way, given in ways.items()}
    endpoints["away"] = {"host": str(folder), "dbname": "app", "user": "app", "password": secret}
    groups = {"default": {"endpoints": list(endpoints)[:3], "min_size": 3}, "other": {"endpoints": ["away"]}}
    groups["other"]["queue_timeout"] = 0.2
    tables = {"broker": {"address": address}, "endpoints": endpoints, "groups": groups}
    config = folder / "poold.toml"
    config.write_text(toml(tables), "utf-8")
    variables = {"POOLD_TEST_SECRET": secret}
    command = run("start", f"--config={config}", "--verbose", **variables)
    outputs = [command.read_until("stop:")]
    with pytest.raises(DBConnectionError) as caught:
        Handler("other", address=address).query("SELECT 1")
    outputs += [str(caught.value), repr(caught.value.failure)]
    for words in READING:
        done = poold(*words, f"--address={address}")
        assert done.returncode == 0
        outputs += [done.stdout, done.stderr]
    for words in (["check-config"], ["check-config", "--json"]):
        done = poold(*words, str(config), **variables)
        assert done.returncode == 0
        outputs += [done.stdout, done.stderr]
    outputs += [path.read_text(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline") if _is_readable(path)]
    command.process.terminate()
    code, output, log = command.finish()
    assert code == 0
    assert "connect failed endpoint=away" in log
    # A mistake beside it does not bring it to light either.
    config.write_text(toml({**tables, "groups": {"default": {"max_size": "many"}}}), "utf-8")
    for words in (["start", "--config"], ["check-config"], ["check-config", "--json"]):
        done = poold(*words, str(config), **variables)
        assert done.returncode == ERROR
        outputs += [done.stdout, done.stderr]
    assert [text for text in [*outputs, output, log] if secret in text] == []


def _is_readable(path: Path) -> bool:
    """Whether a process is still there to tell its command line."""
    try:
        return bool(path.read_bytes())
    except OSError:
        return False
