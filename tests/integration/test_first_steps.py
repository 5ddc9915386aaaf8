"""The first steps with the command line: what is said when the broker is ready, and what wrong inputs lead to."""

import contextlib
import os
import re
import shlex
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from brokers import Broker, poold, run, toml, wait_gone
from click.testing import CliRunner
from people import NOBODY, only_root, poold_as
from postgres import Postgres, free_port, server_folder

from poold import __version__
from poold.operations import cli

ERROR, USAGE = 1, 2
LEGACY = (
    "config = {'db': {'host': 'h', 'name': 'n', 'user': 'u', 'pass': None}, 'groups': {'g': {'connection_count': 1}}}"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with server_folder() as folder:
        yield folder


@pytest.fixture
def detach(folder: Path, postgres: Postgres) -> Iterator[Callable[..., str]]:
    """Starts detached brokers from configuration files; returns what is said, and ends them with the test."""
    pids: list[int] = []

    def detach(address: str, *arguments: str, config: dict[str, object] | None = None, **variables: str) -> str:
        file = folder / "poold.toml"
        tables = config or {"endpoints": {"main": postgres.parameters}, "groups": {"default": {}}}
        file.write_text(toml({"broker": {"address": address}, **tables}), "utf-8")
        started = poold("start", "--detach", "-c", str(file), *arguments, **variables)
        assert (started.returncode, started.stderr) == (0, "")
        pids.append(int(re.findall(r"\(process (\d+)\)", started.stdout)[0]))
        return started.stdout

    yield detach
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        wait_gone(pid)


def commands(said: str, word: str) -> list[str]:
    """The commands that follow a word of the announcement, one on each line."""
    [block] = re.findall(rf"^  {word}: (.*\n(?:       .*\n)*)", said + "\n", re.MULTILINE)
    return [line.strip() for line in block.splitlines()]


def in_a_shell(command: str) -> str:
    """What a command says to somebody who copies it into another shell."""
    paths = f'poold() {{ {shlex.quote(sys.executable)} -m poold "$@"; }}; python() {{ {sys.executable} "$@"; }}; '
    done = run("/bin/sh", "-c", paths + command)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["s.sock", "with space's $HOME"])
def test_the_commands_of_the_announcement_run_as_they_stand(
    detach: Callable[..., str], folder: Path, name: str
) -> None:
    address = f"ipc://{folder}/{name}"
    said = detach(address)
    assert f"poold {__version__} is ready at {address} (process " in said
    program, stats = commands(said, "try")
    assert "PostgreSQL" in in_a_shell(program)
    assert f"at {address}, process" in in_a_shell(f"COLUMNS=1000 {stats}")
    [stop] = commands(said, "stop")
    assert in_a_shell(stop).startswith("stopped process")


def test_a_broker_over_tcp_is_stopped_as_its_announcement_says(detach: Callable[..., str], folder: Path) -> None:
    said = detach(f"tcp://127.0.0.1:{free_port()}", f"--log-file={folder}/log")
    [stop] = commands(said, "stop")
    in_a_shell(stop)
    wait_gone(int(stop.split()[-1]))


@pytest.mark.parametrize("way", ["in the file", "by the option", "by option in spite of the file"])
def test_a_detached_broker_logs_beside_the_address_that_was_chosen(
    detach: Callable[..., str], folder: Path, way: str
) -> None:
    (folder / "chosen").mkdir()
    chosen, other = f"ipc://{folder}/chosen/broker.sock", f"ipc://{folder}/other/broker.sock"
    said = detach(chosen if way == "in the file" else other, *([] if way == "in the file" else [f"--address={chosen}"]))
    log = folder / "chosen/broker.log"
    assert f"log: {log}" in said
    assert "broker started" in log.read_text("utf-8")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert not (folder / "other").exists()


def test_a_detached_broker_makes_the_folder_that_its_users_may_enter(
    detach: Callable[..., str], folder: Path, postgres: Postgres
) -> None:
    tables = {"endpoints": {"main": postgres.parameters}, "groups": {"default": {}}}
    for name, lists, mode in (("group", {}, 0o750), ("listed", {"allow_uids": [NOBODY]}, 0o755)):
        broker = {"address": f"ipc://{folder}/{name}/s", **lists}
        detach("", config={**tables, "broker": broker})
        assert stat.S_IMODE((folder / name).stat().st_mode) == mode


# What a group that cannot serve is told of.


def test_ready_is_said_when_each_group_has_a_backend(start_broker: Callable[..., Broker], postgres: Postgres) -> None:
    groups = {"first": {}, "second": {"autocommit": False, "min_size": 2}, "later": {"min_size": 0}}
    broker = start_broker(groups=groups)
    opened = {name: broker.pool(name)["opened"] for name in groups}
    assert opened["first"] >= 1
    assert opened["second"] >= 1
    assert opened["later"] == 0


def test_a_group_that_cannot_serve_is_told_with_its_reason_and_the_broker_runs(
    detach: Callable[..., str], folder: Path, postgres: Postgres
) -> None:
    endpoints = {"main": postgres.parameters, "gone": {"host": str(folder), "dbname": "d", "user": "u"}}
    wrong = {**postgres.parameters, "dbname": "no such database"}
    groups = {
        "broken": {"endpoints": ["gone"]},
        "mistaken": {"endpoints": ["wrong"]},
        "whole": {"endpoints": ["main"]},
        "half": {"endpoints": ["gone", "main"], "role": "any", "min_size": 2},
    }
    address = f"ipc://{folder}/s"
    said = detach(address, config={"endpoints": {**endpoints, "wrong": wrong}, "groups": groups})
    assert f"runs, but 2 of 4 groups cannot serve yet, at {address}" in said
    lines = said.splitlines()
    broken, mistaken = (
        lines[lines.index(f"  group {name}: each statement by itself") + 1] for name in list(groups)[:2]
    )
    assert broken.startswith("    NOT READY, it tries on: endpoint gone: ")
    assert f"{folder}/.s.PGSQL.5432" in broken
    assert '"no such database" does not exist' in mistaken
    assert said.count("NOT READY") == 2
    program, _ = commands(said, "try")
    assert '"whole"' in program
    assert "PostgreSQL" in in_a_shell(program)


def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_that(
    detach: Callable[..., str], folder: Path
) -> None:
    # Nobody accepts there, and the backlog takes the connection.
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent_endpoint = {"host": "127.0.0.1", "port": silent.getsockname()[1], "dbname": "d", "user": "u"}
        said = detach(f"ipc://{folder}/s", config={"endpoints": {"silent": silent_endpoint}, "groups": {"default": {}}})
    assert "endpoint silent: no backend was opened within 5 s" in said


# Wrong inputs.


def parameters() -> list[tuple[str, click.Parameter]]:
    """Each option and argument that takes a value, with its command."""
    commands = cli.main.commands.items()
    return [
        (name, each)
        for name, command in commands
        for each in command.params
        if not (isinstance(each, click.Option) and each.is_flag)
    ]


def with_empty_text(name: str, parameter: click.Parameter) -> list[str]:
    """The command with an empty text as this parameter's value."""
    needed = ["x" for each in cli.main.commands[name].params if isinstance(each, click.Argument) and each.required]
    return [name, ""] if isinstance(parameter, click.Argument) else [name, *needed, f"{parameter.opts[-1]}="]


@pytest.mark.parametrize("words", [with_empty_text(*each) for each in parameters()], ids=" ".join)
def test_an_empty_text_is_a_mistake_and_means_neither_all_nor_the_usual_value(words: list[str]) -> None:
    done = CliRunner().invoke(cli.main, words)
    assert (done.exit_code, done.stdout) == (USAGE, "")
    assert "expected a value, found an empty text" in done.stderr


def given_twice() -> list[list[str]]:
    found = []
    for name, each in parameters():
        if isinstance(each, click.Option) and not each.multiple:
            words = with_empty_text(name, each)
            found.append([*words[:-1], f"{each.opts[0]}=1", f"{each.opts[-1]}=2"])
    return found


@pytest.mark.parametrize("words", given_twice(), ids=" ".join)
def test_an_option_that_is_given_twice_is_a_mistake_of_which_none_is_ignored(words: list[str]) -> None:
    done = CliRunner().invoke(cli.main, words)
    assert (done.exit_code, done.stdout) == (USAGE, "")
    assert f"{words[-1].partition('=')[0]} is given 2 times; give it once" in done.stderr


OUTPUTS = {"keygen": lambda path: ["keygen", path], "import-config": lambda path: ["import-config", "FILE", "-o", path]}


@pytest.mark.parametrize("command", OUTPUTS)
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing/a", "there is no folder {0}/missing; make it (mkdir -p {0}/missing)"),
        ("file/a", "{0}/file is no folder"),
        ("folder", "{0}/folder is a folder, expected the name of a new file"),
        ("there", "is there already, and is not overwritten"),
    ],
)
def test_what_cannot_be_written_is_told_in_words(folder: Path, command: str, path: str, said: str) -> None:
    (folder / "folder").mkdir()
    for name in ("file", "there", "there.key_secret"):
        (folder / name).touch()
    (folder / "legacy.py").write_text(LEGACY)
    words = OUTPUTS[command](str(folder / path))
    done = poold(*(str(folder / "legacy.py") if word == "FILE" else word for word in words))
    assert (done.returncode, done.stdout) == (ERROR, "")
    assert said.format(folder) in done.stderr
    assert "Errno" not in done.stderr
    assert sorted(each.name for each in folder.iterdir()) == [
        "file",
        "folder",
        "legacy.py",
        "there",
        "there.key_secret",
    ]


@only_root
def test_who_may_not_write_is_told_where(folder: Path) -> None:
    folder.chmod(0o755)
    done = poold_as(NOBODY, "keygen", f"{folder}/a")
    assert done.returncode == ERROR
    assert f"for user {NOBODY}: {folder} belongs to user 0 and group 0 with mode 0755" in done.stderr


def test_what_cannot_be_read_is_told_in_words(folder: Path) -> None:
    (folder / "latin.py").write_bytes(b"config = '\xe9'")
    for path, said in ((folder, "is a folder, expected a file"), (folder / "latin.py", "is no text in UTF-8")):
        done = poold("import-config", str(path))
        assert (done.returncode, done.stdout) == (ERROR, "")
        assert said in done.stderr


@only_root
def test_a_user_without_a_home_is_told_of_the_option_for_the_data(folder: Path) -> None:
    done = poold_as(NOBODY, "start", f"--address=ipc://{folder}/s")
    assert done.returncode == ERROR
    assert "--data" in done.stderr
    assert "Traceback" not in done.stderr


def test_where_no_home_is_known_the_option_for_the_data_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from poold.embedded import server

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    with pytest.raises(server.EmbeddedError, match="name a folder for it with --data"):
        server.default_data_dir()


# What the command line says of itself.


def test_version_and_config_have_their_usual_options(folder: Path) -> None:
    done = poold("--version")
    assert (done.returncode, done.stdout) == (0, f"poold {__version__}\n")
    assert f"{folder}/nothing" in poold("start", "-c", f"{folder}/nothing").stderr


@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_the_list_of_commands_cuts_no_sentence_off(columns: str) -> None:
    shown = poold("--help", COLUMNS=columns).stdout
    words = " ".join(shown.split())
    assert "..." not in shown.partition("Commands:")[2]
    for command in cli.main.commands.values():
        first = " ".join((command.help or "").partition("\n\n")[0].split())
        assert first.partition(". ")[0].rstrip(".") in words


# pgdbpool's configuration.


def test_a_configuration_that_is_built_by_a_call_is_imported_as_the_error_says(folder: Path) -> None:
    source = folder / "settings of the app.d" / "pool_config.py"
    source.parent.mkdir()
    source.write_text(f"import os\n{LEGACY}\ndef make():\n    return dict(config, type='threaded')\nconfig = make()\n")
    refused = poold("import-config", str(source))
    assert (refused.returncode, refused.stdout) == (ERROR, "")
    assert "found make(...), expected a literal, because the file is not run" in refused.stderr
    advice = refused.stderr.strip().rpartition("made of: ")[2]
    assert "\n[endpoints.db1]\n" in in_a_shell(advice)


def test_a_configuration_with_its_password_in_the_environment_is_imported_without_it(folder: Path) -> None:
    source, target = folder / "settings.py", folder / "poold.toml"
    source.write_text("import os\n" + LEGACY.replace("None", 'os.environ["APP_PASSWORD"]'))
    assert poold("import-config", str(source), "-o", str(target)).returncode == 0
    assert 'password_env = "APP_PASSWORD"' in target.read_text("utf-8")
    assert "APP_PASSWORD" in poold("check-config", str(target)).stderr
    assert poold("check-config", str(target), APP_PASSWORD="secret").returncode == 0
