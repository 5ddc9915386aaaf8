"""An output that cannot be written, or not in its encoding: one line and an exit code, for every command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from brokers import ROOT, Broker, environment, poold
from postgres import Postgres
from terminal import Terminal
from waiting import wait_until

COMMANDS = [
    ["stats"], ["stats", "statements"], ["stats", "--format", "prometheus"], ["stats", "--watch"],
    ["ping"], ["health"], ["reconnect"], ["version"], ["--help"],
    ["check-config", "FILE"], ["doctor", "FILE"], ["kill", "--request", "999999/1"],
]  # fmt: skip
StartBroker = Callable[..., Broker]
FOREIGN = "報告 \u202eright to left\u202c \x1b[31m"


def redirected(broker: Broker, words: list[str], where: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command with its standard output somewhere, as a shell has it done."""
    known = [str(broker.config) if word == "FILE" else word for word in words]
    is_asking = words[0] not in ("version", "--help", "check-config", "doctor")
    address = [f"--address={broker.address}"] if is_asking else []
    command = ["sh", "-c", f'exec "$@" {where}', "sh", sys.executable, "-m", "poold", *known, *address]
    encoding = variables.get("PYTHONIOENCODING", "utf-8")
    return subprocess.run(
        command, cwd=ROOT, env=environment(**variables), capture_output=True, encoding=encoding, timeout=60, check=False
    )


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("where", "reason"), [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
def test_an_output_that_cannot_be_written_is_one_line(
    broker: Broker, words: list[str], where: str, reason: str
) -> None:
    done = redirected(broker, words, where)
    assert (done.returncode, done.stdout) == (1, "")
    if words[0] == "kill":  # it has nothing to print, and says why
        assert done.stderr.startswith("poold: there is no client 999999;")
    else:
        behind = "; the command was carried out all the same" if words[0] == "reconnect" else ""
        assert done.stderr == f"poold: cannot write to standard output: {reason}{behind}\n"


@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pause"], "it is paused all the same, until: poold resume"),
        (["drain", "--json"], "it is drained all the same, until: poold resume"),
        (["stats", "statements", "--reset"], "the statements' figures are reset all the same"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_was_ordered_is_said_to_hold_though_it_could_not_be_printed(
    start_broker: StartBroker, words: list[str], told: str, where: str
) -> None:
    broker = start_broker()
    broker.handler().query("SELECT 1")
    with broker.handler("transactions").session() as session:
        session.query("SELECT 1")
        waiting = redirected(broker, ["pause", "--timeout", "0.1"], ">/dev/full")
        assert (waiting.returncode, waiting.stderr.count("the pause is undone")) == (1, 1)
        assert "all the same" not in waiting.stderr
    done = redirected(broker, words, where)
    assert done.stderr.endswith(f"; {told}{f' --address={broker.address}' * told.endswith('resume')}\n")
    assert done.returncode == 1
    if words[0] != "stats":
        assert poold("resume", f"--address={broker.address}").stdout.endswith(": resumed\n")


def test_whoever_has_read_enough_ends_it_without_a_word(broker: Broker) -> None:
    done = redirected(broker, ["stats", "--watch"], "| head -1", PYTHONUNBUFFERED="1")
    assert done.stdout.startswith("poold ")
    assert done.stderr == ""


def test_with_no_standard_error_either_it_only_ends(broker: Broker) -> None:
    done = redirected(broker, ["stats"], ">&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_what_the_encoding_lacks_is_shown_escaped(broker: Broker, encoding: str) -> None:
    holder = broker.handler("transactions", tag=FOREIGN)
    holder.query('SELECT 1 AS "日本"')
    try:
        for words in (["stats"], ["stats", "statements"], ["stats", "backends"], ["stats", "--format", "prometheus"]):
            done = redirected(broker, words, "", PYTHONIOENCODING=encoding)
            assert (done.returncode, done.stderr) == (0, ""), words
            assert "\x1b" not in done.stdout
            assert "\u202e" not in done.stdout
        done = redirected(broker, ["stats", "backends"], "", PYTHONIOENCODING=encoding)
        tag = r"報告 \u202eright to left\u202c \x1b[31m"
        shown = tag if encoding == "utf-8" else tag.encode("ascii", "backslashreplace").decode()
        assert shown in done.stdout
    finally:
        holder.rollback()


def test_a_text_that_is_cut_is_as_wide_as_its_column_in_any_encoding(start_broker: StartBroker) -> None:
    broker = start_broker()  # its own, as the statements of other tests would not leave it room on the screen
    broker.handler().query(f"SELECT 1 AS {'x' * 60}")
    broker.handler().query(f"SELECT 1 AS {'y' * 60}")
    for encoding, mark in (("latin-1", "~"), ("utf-8", "…")):
        terminal = Terminal("stats", "statements", f"--address={broker.address}", columns=70, PYTHONIOENCODING=encoding)
        assert terminal.finish() == 0
        shown = [line for line in terminal.shown() if "SELECT ? AS" in line]
        terminal.close()
        assert shown
        assert {line[-1] for line in shown if len(line) == 70} == {mark}
        assert max(map(len, shown)) == 70


def test_a_broker_serves_though_nobody_can_be_told_that_it_is_ready(broker: Broker, tmp_path: Path) -> None:
    text = broker.config.read_text()
    config = tmp_path / "poold.toml"
    address = f"ipc://{tmp_path}/b.sock"
    config.write_text(text.replace(broker.address, address))
    log = tmp_path / "log"
    for where in (">/dev/full", ">&-"):
        log.unlink(missing_ok=True)
        command = f'exec "$@" {where} 2>{log}'
        words = [sys.executable, "-m", "poold", "start", "--config", str(config)]
        process = subprocess.Popen(["sh", "-c", command, "sh", *words], cwd=ROOT, env=environment())
        try:
            wait_until(lambda: log.exists() and "announcement not written" in log.read_text(), what="the broker")
            assert poold("ping", f"--address={address}").returncode == 0
            assert poold("stop", f"--address={address}").returncode == 0
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()


def test_what_a_server_says_steers_no_terminal_when_a_broker_starts(
    broker: Broker, postgres: Postgres, tmp_path: Path
) -> None:
    text = broker.config.read_text()
    config, address = tmp_path / "poold.toml", f"ipc://{tmp_path}/b.sock"
    named = text.replace(f'dbname = "{postgres.parameters["dbname"]}"', r'dbname = "no\u001b[2J\u202edb"')
    assert named != text
    config.write_text(named.replace(broker.address, address))
    done = poold("start", "--detach", f"--config={config}", f"--log-file={tmp_path}/log")
    try:
        assert done.returncode == 0, done.stderr
        assert r'database "no\x1b[2J\u202edb" does not exist' in done.stdout
        assert not set(done.stdout) & {"\x1b", "\u202e"}
    finally:
        assert poold("stop", f"--address={address}").returncode == 0


def test_the_overview_is_whole_on_a_small_terminal_and_fits_it_if_it_is_watched(broker: Broker) -> None:
    headings = ("requests/s", "wait p99", "connecting", "leases")
    terminal = Terminal("stats", f"--address={broker.address}", columns=80, lines=60)
    assert terminal.finish() == 0
    for heading in (*headings, "opened", "age"):
        assert any(heading in line for line in terminal.shown()), heading
    assert "no room" not in "".join(terminal.shown())
    terminal.close()
    watched = Terminal("stats", "--watch", f"--address={broker.address}", columns=80, lines=24)
    shown = watched.wait("no room for")
    text = " ".join(" ".join(shown).split())
    for heading in ("requests/s", "wait p99", "connecting"):
        assert heading in text
    assert sum(line.startswith(("default ", "transactions ")) for line in shown) >= 6
    watched.press("\x03")
    assert watched.finish() == 0
    watched.close()


def test_rows_of_a_list_are_as_many_as_the_terminal_is_high_but_not_less_than_twenty(broker: Broker) -> None:
    db = broker.handler()
    for place in range(30):
        db.query(f"SELECT 1 AS {chr(ord('a') + place % 26)}{place}")
    for lines, most in ((10, 20), (26, 26)):
        terminal = Terminal("stats", "statements", f"--address={broker.address}", columns=80, lines=lines)
        assert terminal.finish() == 0
        terminal.resize(80, lines)
        last = [line for line in terminal.shown() if line][-1]
        terminal.close()
        others = int(last.split()[-2])
        assert last.split()[-1] == "others"
        told = json.loads(poold("stats", "statements", "--json", f"--address={broker.address}").stdout)
        assert told["statements_total"]["statements"] - others == most
