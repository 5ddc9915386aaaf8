"""Signals to the real broker: which end it and how, which reopen its log, and that no other one harms it."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from brokers import ROOT, Broker, poold
from waiting import wait_until

from client import DBConnectionError
from poold.system.early_signals import harmless
from poold.system.signals import name_of

LOGROTATE = ROOT / "examples" / "service" / "logrotate.conf"
TIMES = 40


@pytest.fixture
def log(start_broker: Callable[..., Broker]) -> tuple[Broker, Path]:
    """A broker that logs to a file of its own, and the file."""
    broker = start_broker(start=False)
    file = broker.folder / "poold.log"
    return broker.start(f"--log-file={file}"), file


def logged(file: Path, text: str) -> None:
    wait_until(lambda: file.exists() and text in file.read_text("utf-8"), what=f"{text!r} in {file.name}")


def open_files(broker: Broker) -> list[str]:
    """The targets of all its descriptors; one that is closed meanwhile is none."""
    found = []
    for each in Path(f"/proc/{broker.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(each))
    return found


def is_ignored(broker: Broker, number: int) -> bool:
    """Whether the log says so, perhaps with what the signal means."""
    return re.search(rf"signal ignored name={re.escape(name_of(number))}( meaning=.*)?\n", broker.log()) is not None


def test_the_limit_of_processor_time_is_named(broker: Broker) -> None:
    broker.signal(signal.SIGXCPU)
    wait_until(lambda: 'name=SIGXCPU meaning="the soft limit of processor time' in broker.log(), what="its meaning")


@pytest.mark.parametrize("number", [each for each in harmless() if each not in (signal.SIGHUP, signal.SIGUSR1)])
def test_a_signal_that_is_meant_for_nothing_is_logged_and_ends_nothing(broker: Broker, number: int) -> None:
    broker.process.send_signal(number)
    wait_until(lambda: is_ignored(broker, number), what="the signal in the log")
    assert broker.handler().query("SELECT 1").fetchone() == (1,)


def test_what_by_default_ends_a_process_is_either_harmless_or_meant_to() -> None:
    meant = ("ABRT", "BUS", "FPE", "ILL", "INT", "KILL", "QUIT", "SEGV", "TERM")
    stops = ("STOP", "TSTP", "TTIN", "TTOU", "CONT", "CHLD", "URG", "WINCH")  # ends no process
    python = ("PIPE", "XFSZ")  # ignored by Python
    others = {each for each in signal.valid_signals() if each < 32} - {
        getattr(signal, f"SIG{each}") for each in [*meant, *stops, *python]
    }
    assert others <= set(harmless())
    assert {each for each in signal.valid_signals() if each >= signal.SIGRTMIN} <= set(harmless())


def test_all_harmless_signals_at_once_are_harmless(broker: Broker) -> None:
    for _ in range(3):
        broker.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, broker.pid, os.WSTOPPED | os.WNOWAIT)
        for number in harmless():
            os.kill(broker.pid, number)
        broker.signal(signal.SIGCONT)
        assert broker.handler().query("SELECT 1").fetchone() == (1,)
    wait_until(lambda: all(f"name={name_of(number)}" in broker.log() for number in harmless()), what="all in the log")


@pytest.mark.parametrize("number", [signal.SIGPIPE, signal.SIGXFSZ])
def test_what_python_ignores_is_ignored(broker: Broker, number: signal.Signals) -> None:
    broker.signal(number)
    assert broker.handler().query("SELECT 1").fetchone() == (1,)


def test_signals_during_the_start_wait_for_the_loop(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(start=False)
    # The broker has read its configuration, and there is no loop yet.
    sent = "".join(f"os.kill(os.getpid(), {int(number)})\n    " for number in harmless())
    broker.start(
        before="import os\nfrom poold import daemon\nrun = daemon.run\n"
        f"def run_later(*arguments):\n    {sent}return run(*arguments)\n"
        "daemon.run = run_later"
    )
    wait_until(lambda: f"name={name_of(harmless()[-1])}\n" in broker.log(), what="the last signal in the log")
    for number in harmless():
        assert re.search(rf"signal (ignored|received) name={re.escape(name_of(number))}( meaning=.*)?\n", broker.log())


def test_signals_before_the_imports_of_a_start_wait_for_the_loop(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(start=False)
    sent = "; ".join(f"os.kill(os.getpid(), {int(number)})" for number in (signal.SIGUSR1, signal.SIGHUP))
    broker.start(
        before="import os, runpy, sys\n"
        "class Finder:\n    def find_spec(self, name, *_):\n"
        f"        if name == 'click': {sent}\n"
        "sys.meta_path.insert(0, Finder())\n"
        "runpy.run_module('poold', run_name='__main__')"
    )
    for number in (signal.SIGUSR1, signal.SIGHUP):
        wait_until(lambda number=number: f"signal received name={number.name}\n" in broker.log(), what=number.name)


def test_a_broker_that_another_process_starts_has_them_wait_from_its_first_instruction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_broker: Callable[..., Broker]
) -> None:
    sent = "\n    ".join(f"os.kill(os.getpid(), {int(number)})" for number in (signal.SIGUSR1, signal.SIGHUP))
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif any(each.startswith(('--estate=', '--ready-fd=')) for each in sys.orig_argv):\n"
        f"    {sent}\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    detached = start_broker(start=False)
    file = detached.folder / "poold.log"
    started = poold("start", "--detach", f"--config={detached.config}", f"--log-file={file}")
    assert started.returncode == 0, started.stderr
    try:
        for expected in (1, 2):
            for number in (signal.SIGUSR1, signal.SIGHUP):
                wait_until(
                    lambda number=number, expected=expected: (
                        file.read_text("utf-8").count(f"signal received name={number.name}\n") == expected
                    ),
                    what=number.name,
                )
            if expected == 1:
                done = poold("restart", f"--address={detached.address}")
                assert done.returncode == 0, done.stderr
    finally:
        assert poold("stop", f"--address={detached.address}").returncode == 0


@pytest.mark.parametrize(
    ("command", "module"), [("start", "click"), ("start", "uvloop"), ("stats", "click"), ("check-config", "click")]
)
def test_an_interrupt_during_the_imports_ends_a_command_without_a_traceback(
    start_broker: Callable[..., Broker], command: str, module: str
) -> None:
    broker = start_broker(start=False)
    code = (
        "import os, runpy, sys\n"
        "class Finder:\n    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), {int(signal.SIGINT)})\n"
        "sys.meta_path.insert(0, Finder())\n"
        "runpy.run_module('poold', run_name='__main__')"
    )
    given = {"start": [f"--config={broker.config}"], "check-config": [str(broker.config)]}.get(command, [])
    done = subprocess.run(
        [sys.executable, "-c", code, command, *given], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_an_interrupt_that_is_ignored_stays_so_during_the_imports() -> None:
    code = (
        "import os, signal, sys\n"
        f"signal.signal({int(signal.SIGINT)}, signal.SIG_IGN)\n"
        "from poold.system.early_signals import ended_by_interrupt\n"
        "with ended_by_interrupt():\n"
        f"    os.kill(os.getpid(), {int(signal.SIGINT)})\n"
        "assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_log_that_cannot_be_opened_is_why_a_restart_fails(log: tuple[Broker, Path]) -> None:
    broker, file = log
    file.rename(file.with_suffix(".1"))
    file.mkdir()
    done = poold("restart", f"--address={broker.address}")
    assert done.returncode == 1
    assert f"goes on: cannot write the log: {file}" in done.stderr
    assert broker.handler().query("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_a_log_that_was_moved_is_opened_again_and_no_line_is_lost(
    log: tuple[Broker, Path], number: signal.Signals
) -> None:
    broker, file = log
    moved = file.with_suffix(".1")
    broker.signal(signal.SIGUSR2)
    logged(file, "SIGUSR2")
    file.rename(moved)
    broker.signal(signal.SIGALRM)
    logged(moved, "SIGALRM")
    broker.signal(number)
    logged(file, "log reopened")
    broker.signal(signal.SIGVTALRM)
    logged(file, "SIGVTALRM")
    before, after = moved.read_text("utf-8"), file.read_text("utf-8")
    assert before.index("SIGUSR2") < before.index("SIGALRM") < before.index(number.name)
    assert "SIGVTALRM" not in before
    assert "SIGALRM" not in after
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_log_that_goes_to_stderr_stays_and_says_so(broker: Broker) -> None:
    broker.signal(signal.SIGUSR1)
    wait_until(lambda: "log not reopened: it goes to stderr" in broker.log(), what="the answer in the log")


def test_a_log_that_cannot_be_opened_again_goes_on_where_it_is(log: tuple[Broker, Path]) -> None:
    broker, file = log
    moved = file.with_suffix(".1")
    file.rename(moved)
    file.mkdir()
    broker.signal(signal.SIGUSR1)
    logged(moved, "log not reopened: it goes on as it is")
    assert broker.handler().query("SELECT 1").fetchone() == (1,)


def test_a_log_whose_disk_is_full_can_be_left_for_another_file(log: tuple[Broker, Path]) -> None:
    broker, file = log
    file.unlink()
    file.symlink_to("/dev/full")
    broker.signal(signal.SIGUSR1)
    wait_until(lambda: "/dev/full" in open_files(broker), what="the log on the full disk")
    broker.signal(signal.SIGUSR2)
    assert broker.handler().query("SELECT 1").fetchone() == (1,)
    file.unlink()
    broker.signal(signal.SIGUSR1)
    logged(file, "log reopened")
    logged(file, 'log lines lost: the file of before did not take its last ones error="No space left on device"')
    broker.signal(signal.SIGVTALRM)
    logged(file, "SIGVTALRM")
    assert "/dev/full" not in open_files(broker)


def test_hup_reloads_the_configuration(broker: Broker) -> None:
    broker.signal(signal.SIGHUP)
    text = f"configuration reloaded source={broker.config} changes=0 needing_restart=0"
    wait_until(lambda: text in broker.log(), what="the answer in the log")


def test_a_detached_broker_takes_its_stderr_along_and_opens_nobody_elses_file(
    start_broker: Callable[..., Broker],
) -> None:
    broker = start_broker(start=False)
    file = broker.folder / "s.log"
    started = poold("start", "--detach", f"--config={broker.config}", POOLD_ADDRESS=broker.address)
    assert started.returncode == 0, started.stderr
    pid = broker.ask("ping")["pid"]
    try:
        file.rename(moved := file.with_suffix(".1"))
        os.kill(pid, signal.SIGUSR1)
        logged(file, "log reopened")
        now = file.stat()
        for descriptor in (1, 2):
            assert os.path.samestat(os.stat(f"/proc/{pid}/fd/{descriptor}"), now)
        assert moved.exists()
        file.unlink()
        (broker.folder / "treasure").write_text("precious")
        file.symlink_to(broker.folder / "treasure")
        os.kill(pid, signal.SIGUSR1)
        wait_until(lambda: "log not reopened" in Path(f"/proc/{pid}/fd/2").read_text("utf-8"), what="a refusal")
        assert (broker.folder / "treasure").read_text() == "precious"
    finally:
        assert poold("stop", f"--address={broker.address}").returncode == 0


def rotation(broker: Broker, file: Path) -> str:
    """The example, for this broker and this file, and without a user that is not on this machine."""
    text = LOGROTATE.read_text("utf-8").replace("/var/log/poold/poold.log", str(file))
    text = text.replace("/run/poold/poold.sock.lock", f"{broker.socket}.lock")
    return text.replace("create 0640 poold poold", "create 0640").replace("    compress\n", "")


def test_the_example_for_logrotate_loses_no_line(log: tuple[Broker, Path]) -> None:
    program = shutil.which("logrotate") or shutil.which("/usr/sbin/logrotate")
    if program is None:
        pytest.skip("there is no logrotate here")
    broker, file = log
    config, state = broker.folder / "logrotate.conf", broker.folder / "rotations"
    config.write_text(rotation(broker, file), "utf-8")
    config.chmod(0o644)
    for count in range(TIMES):
        broker.signal(signal.SIGUSR2)
        wait_until(lambda: ignored(file) == count + 1, what="a line of the log")  # noqa: B023  called at once
        if count % 10 == 9:
            done = subprocess.run(
                [program, "--force", f"--state={state}", str(config)], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            wait_until(lambda: "log reopened" in file.read_text("utf-8"), what="the reopened log")
    files = sorted(path.name for path in file.parent.glob(f"{file.name}*"))
    assert files == [file.name, *(f"{file.name}.{number}" for number in range(1, 5))]
    assert file.stat().st_mode & 0o777 == 0o640


def ignored(file: Path) -> int:
    """How many lines all files of a log have about a signal that was ignored."""
    texts = [path.read_text("utf-8") for path in file.parent.glob(f"{file.name}*")]
    return sum(text.count("signal ignored name=SIGUSR2") for text in texts)


def test_what_the_example_does_after_a_rotation_ends_no_process_that_is_no_broker(
    start_broker: Callable[..., Broker],
) -> None:
    broker = start_broker()
    broker.kill()
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        Path(f"{broker.socket}.lock").write_text(f"{bystander.pid}\n")
        script = re.search(r"postrotate\n(.*)endscript", rotation(broker, broker.folder / "log"), re.DOTALL)
        assert script is not None
        done = subprocess.run(["sh", "-ec", script[1]], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        bystander.terminate()
        assert bystander.wait() == -signal.SIGTERM
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_to_stop_lets_run_what_runs_and_quit_cuts_it_off(
    start_broker: Callable[..., Broker], start_worker: Callable[..., object], number: signal.Signals
) -> None:
    broker = start_broker()
    with broker.handler("transactions") as open_one:
        open_one.query("SELECT 1")
        broker.signal(number)
        wait_until(lambda: broker.ask("ping")["state"] == "draining", what="the drain")
        assert open_one.query("SELECT 2").fetchone() == (2,)
        broker.signal(signal.SIGQUIT)
        assert broker.wait() == 0
        with pytest.raises(DBConnectionError):
            open_one.query("SELECT 3")
        open_one.rollback()
    assert "broker stopped" in broker.log()


def test_quit_stops_at_once_and_leaves_nothing_behind(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker()
    with broker.handler("transactions") as open_one:
        open_one.query("SELECT 1")
        broker.signal(signal.SIGQUIT)
        assert broker.wait() == 0
        open_one.rollback()
    assert sorted(path.name for path in broker.folder.glob("s*")) == []
