"""The log as JSON: all that `poold start` says, also when it cannot start."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, environment, poold
from waiting import wait_until

StartBroker = Callable[..., Broker]


def said(*words: str, **variables: str) -> tuple[int, list[dict[str, Any]], str]:
    """The exit code of `poold start` with these words, each line on stderr, and stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "poold", "start", *words],
        capture_output=True, text=True, env=environment(**variables), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.returncode, [json.loads(line) for line in done.stderr.splitlines()], done.stdout


def test_a_file_that_is_not_there_is_told_in_the_format_of_the_command_line(tmp_path: Path) -> None:
    code, lines, out = said("--log-format", "json", f"--config={tmp_path}/missing.toml")
    assert (code, out) == (1, "")
    (line,) = lines
    assert line["level"] == "error"
    assert line["event"] == "broker not started"
    assert "missing.toml" in line["error"]


def test_a_mistake_in_the_file_is_told_as_text_unless_the_command_line_says_json(tmp_path: Path) -> None:
    file = tmp_path / "poold.toml"
    file.write_text('[broker]\nlog_format = "json"\nno_such_key = 1\n[groups.default]\n')
    code, lines, _ = said("--log-format", "json", f"--config={file}")
    assert code == 1
    assert "no_such_key" in lines[-1]["error"]
    done = poold("start", f"--config={file}")
    assert done.stderr.startswith("poold: ")
    assert "no_such_key" in done.stderr


def test_a_log_that_cannot_be_written_is_told_in_the_format_of_the_command_line(tmp_path: Path) -> None:
    code, lines, _ = said("--log-format", "json", f"--config={tmp_path}/x.toml", f"--log-file={tmp_path}")
    assert code == 1
    assert "cannot write the log" in lines[0]["error"]


def test_another_broker_at_the_address_is_told_as_json(start_broker: StartBroker) -> None:
    broker = start_broker(broker={"log_format": "json"})
    code, lines, _ = said(f"--config={broker.config}")
    assert code == 1
    assert "a broker already serves" in lines[-1]["error"] or broker.address in lines[-1]["error"]


def test_a_broker_that_is_ready_says_so_as_json_too(start_broker: StartBroker) -> None:
    broker = start_broker(broker={"log_format": "json"}, start=False)
    with subprocess.Popen(
        [sys.executable, "-m", "poold", "start", f"--config={broker.config}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), stdin=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            lines: list[dict[str, Any]] = []
            while not lines or lines[-1]["event"] != "broker ready":
                lines.append(json.loads(process.stdout.readline()))
            assert lines[-1]["address"] == broker.address
            assert lines[-1]["unready"] == []
        finally:
            process.terminate()
            rest = process.stdout.read() if process.stdout is not None else ""
    assert json.loads(rest.splitlines()[-1])["event"] == "broker stopped"


def test_the_next_broker_has_the_format_of_the_one_before(start_broker: StartBroker) -> None:
    broker = start_broker(start=False)
    broker.start("--log-format=json")
    pid = broker.pid
    broker.restart()
    wait_until(lambda: f'"broker stopped", "pid": {pid}' in broker.log(), what="the first broker's end")
    broker.stop()
    lines = [json.loads(line) for line in broker.log().splitlines()]
    assert len({line["pid"] for line in lines if line["event"] == "broker started"}) == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_utf_8_whatever_the_environment_says(encoding: str, tmp_path: Path) -> None:
    _, (line,), _ = said("--log-format=json", f"--config={tmp_path}/größe\u2028.toml", PYTHONIOENCODING=encoding)
    assert "größe" in line["error"]
