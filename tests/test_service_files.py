"""The files in examples/service: they are what systemd and container engines read, and agree with one another."""

import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from poold.config.file import parse
from poold.operations.cli import main

SERVICE = Path(__file__).resolve().parent.parent / "examples" / "service"
ROOT = SERVICE.parent.parent
PROGRAM = "/opt/poold/bin/poold"
# Out of 10, by systemd's own reckoning; a service without any restriction has 9.6.
EXPOSURE = 2.0


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with a program that exists."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    for unit in SERVICE.glob("poold.s*"):
        (tmp_path / unit.name).write_text(unit.read_text("utf-8").replace(PROGRAM, "/bin/true"), "utf-8")
    return tmp_path


def analyze(folder: Path, *words: str) -> str:
    done = subprocess.run(["systemd-analyze", *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_finds_nothing_wrong_with_the_units(units: Path) -> None:
    assert analyze(units, "verify", "./poold.service", "./poold.socket") == ""
    (units / "poold.service").write_text((units / "poold.service").read_text("utf-8") + "\n[Service]\nTypo=yes\n")
    assert "Typo" in analyze(units, "verify", "./poold.service")


def test_the_service_can_do_little_besides_its_work(units: Path) -> None:
    said = analyze(units, "security", "--offline=yes", f"--threshold={round(EXPOSURE * 10)}", "./poold.service")
    exposure = re.search(r"Overall exposure level for poold.service: ([0-9.]+)", said)
    assert exposure is not None
    assert float(exposure[1]) <= EXPOSURE


def test_all_files_mean_the_same_socket_user_and_program() -> None:
    service, activation, image, rotation = (
        (SERVICE / name).read_text("utf-8")
        for name in ("poold.service", "poold.socket", "Containerfile", "logrotate.conf")
    )
    config = parse(tomllib.loads((SERVICE / "poold.toml").read_text("utf-8")), "poold.toml")
    path = config.broker.address.removeprefix("ipc://")
    assert f"ListenStream={path}\n" in activation
    assert f"{path}.lock" in rotation
    assert f"POOLD_ADDRESS=ipc://{path}" in image
    assert os.path.dirname(path) == "/run/" + value(service, "RuntimeDirectory")
    assert value(service, "User") == value(activation, "SocketUser")
    assert value(service, "Group") == value(activation, "SocketGroup")
    assert f"create 0640 {value(service, 'User')} {value(service, 'Group')}" in rotation
    assert value(service, "ExecStart").split()[0] == PROGRAM
    assert config.broker.drain_timeout < float(value(service, "TimeoutStopSec"))


def value(unit: str, name: str) -> str:
    found = re.search(rf"^{name}=(.+)$", unit, re.MULTILINE)
    assert found is not None, name
    return found[1]


def instructions() -> list[tuple[str, str]]:
    """The lines of the Containerfile, by instruction."""
    text = (SERVICE / "Containerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def test_every_command_line_in_the_files_is_understood() -> None:
    lines = [value((SERVICE / "poold.service").read_text("utf-8"), "ExecStart").split()[1:]]
    for name, rest in instructions():
        if name in ("CMD", "HEALTHCHECK"):
            lines.append([word for word in re.findall(r'"([^"]*)"', rest) if word != "poold"])
        lines += [shlex.split(each)[1:] for each in re.findall(r"/bin/(poold [a-z-]+)", rest) if name == "RUN"]
    assert len(lines) >= 3
    for words in lines:
        with main.make_context("poold", list(words)) as context:
            name, command, rest = main.resolve_command(context, words)
            assert command is not None
            command.make_context(name, rest, parent=context).close()


def test_the_image_is_made_of_what_is_there_and_runs_as_a_plain_user() -> None:
    known = {"FROM", "RUN", "COPY", "ENV", "USER", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    found = instructions()
    assert {name for name, _ in found} <= known
    for name, rest in found:
        if name == "COPY" and not rest.startswith("--from"):
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest
    assert [rest.split(":")[0] for name, rest in found if name == "USER"] == ["10001"]


@pytest.mark.parametrize("number", [index for index, (name, _) in enumerate(instructions()) if name == "RUN"])
def test_the_shell_understands_what_the_image_runs(number: int) -> None:
    subprocess.run(["sh", "-nc", instructions()[number][1]], check=True)
