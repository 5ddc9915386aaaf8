"""The documents: what they point to exists, and what they say of configuration, commands and errors is the code's."""

import dataclasses
import importlib
import inspect
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from documents import DOCUMENTS, PAGES, ROOT, Block, anchors, blocks, code_spans, links, name_of, prose, rows

import client
from client import Handler
from poold.config.file import parse
from poold.config.model import MOVE, REPLACE, RESTART, START, BrokerConfig, EndpointConfig, GroupConfig
from poold.config.pgdbpool import convert
from poold.operations.cli import main
from poold.operations.keygen import make_pair

DOCS = ROOT / "docs"
CONFIGURATION = DOCS / "configuration.md"
SECTIONS = {"## `[broker]`": BrokerConfig, "## `[endpoints.NAME]`": EndpointConfig, "## `[groups.NAME]`": GroupConfig}
# What is written if a key's default is no value that TOML has.
WORDS = {None: {"none"}, (): {"none", "all"}}
# Blocks of each page that are not run, each with its reason in a comment before it.
NOT_RUN = {"docs/from-pgbouncer.md": 1}
# What is a file of the repository if it stands in a document: the folder it begins with, the end of its name.
FOLDERS = "client|docs|examples|poold|scripts|tests"
SUFFIXES = ("", ".md", ".png", ".py", ".toml", ".yaml", ".yml")
LANGUAGES = ("python", "toml", "sh", "text")
LONGEST_LINE = 120

ENDPOINT = {"main": {"host": "localhost", "dbname": "app", "user": "app"}}


def page_blocks(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page, language)]


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)} links to {path}, which does not exist"
        assert target.is_relative_to(ROOT), f"{name_of(page)} links to {path}, which is outside of the repository"
        if anchor:
            assert anchor in anchors(target), f"{name_of(page)} links to {link}, and {target.name} has no such heading"


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_no_page_names_a_file_or_module_that_does_not_exist(page: Path) -> None:
    named = re.findall(rf"(?<![\w/.~-])(?:{FOLDERS})/[\w./*-]*[\w*]", page.read_text("utf-8"))
    for path in {each for each in named if Path(each).suffix in SUFFIXES}:
        assert [*ROOT.glob(path), *ROOT.glob(f"{path}.py")], f"{name_of(page)} names {path}, which does not exist"
    for span in code_spans(page):
        dotted = re.fullmatch(r"(?:(core|client|poold)((?:\.\w+)+))(?:\(.*\))?", span)
        if dotted and not span.endswith((".log", ".sock", ".toml", ".key")):
            name = {"core": "poold.core"}.get(dotted[1], dotted[1]) + dotted[2]
            assert exists(name), f"{name_of(page)} names {span}, which does not exist"


def exists(dotted: str) -> bool:
    """Whether this is a module, or something in one."""
    parts = dotted.split(".")
    found: Any = importlib.import_module(parts[0])
    for place, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(parts[:place]))
            except ModuleNotFoundError:
                return False
        found = getattr(found, part)
    return True


def test_the_code_map_names_every_package_and_every_module_there_is() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8").partition("## Code map")[2].partition("\n## ")[0]
    named = {part for span in re.findall(r"`([\w/]+)`", text) for part in span.split("/")}
    modules = [path for path in [*ROOT.glob("client/**/*.py"), *ROOT.glob("poold/**/*.py")] if path.stem[0] != "_"]
    missing = {path.stem for path in modules} | {path.parent.name for path in modules}
    assert missing <= named


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_lines_outside_of_tables_are_not_too_long(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return
    long = [
        n
        for n, line in enumerate(page.read_text("utf-8").splitlines(), 1)
        if len(line) > LONGEST_LINE and line[0] != "|"
    ]
    assert not long, f"{name_of(page)} has long lines: {long}"


def test_the_index_has_every_page() -> None:
    linked = {link.partition("#")[0] for link in links(DOCS / "README.md")}
    assert {page.name for page in PAGES if page.parent == DOCS} - {"README.md"} <= linked


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_has_a_language_that_is_checked_or_a_reason(page: Path) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block}: {block.language or 'no language'}"
    reasons = [block.why_not for block in blocks(page) if block.why_not]
    assert len(reasons) == NOT_RUN.get(name_of(page), 0), reasons


# Configuration


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_key_of_the_configuration_is_described_with_its_default(heading: str) -> None:
    described = {row[0].strip("`"): row[1:] for row in rows(CONFIGURATION, heading)}
    known = {field.name: field.default for field in dataclasses.fields(SECTIONS[heading])}
    assert described.keys() == known.keys()
    for key, default in known.items():
        cell, meaning = described[key]
        assert meaning, f"{key} is not described"
        if key == "address":
            assert cell == "[per user](#where-is-the-broker)"
        elif default is dataclasses.MISSING:
            assert cell == "required", key
        elif default in WORDS:
            assert cell in WORDS[default], key
        else:
            value = tomllib.loads("it = " + re.findall(r"`([^`]*)`", cell)[0])["it"]
            wanted = dataclasses.asdict(default) if dataclasses.is_dataclass(default) else default
            assert (value, type(value) is bool) == (wanted, type(wanted) is bool), (
                f"{key}: {cell}, and the code has {wanted!r}"
            )


@pytest.mark.parametrize(
    "size",
    [row for heading in SECTIONS for row in rows(CONFIGURATION, heading) if "MiB" in row[1]],
    ids=lambda row: row[0],
)
def test_sizes_in_words_are_the_sizes_in_figures(size: list[str]) -> None:
    figure, words = re.findall(r"\d+", size[1])
    assert int(figure) == int(words) * 1024 * 1024


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """What the examples have in /etc/poold."""
    (tmp_path / "main.password").write_text("secret\n")
    (tmp_path / "root.crt").write_text("")
    make_pair(tmp_path / "broker")
    (tmp_path / "clients").mkdir()
    _, public = make_pair(tmp_path / "worker")
    public.rename(tmp_path / "clients" / public.name)
    return tmp_path


@pytest.mark.parametrize("block", page_blocks("toml"), ids=str)
def test_every_configuration_is_one(block: Block, etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_PASSWORD", "secret")
    parse(block.code.replace("/etc/poold/", f"{etc}/"), str(block))


def test_what_import_config_makes_of_the_example_is_what_the_page_shows() -> None:
    page = DOCS / "from-pgdbpool.md"
    source, shown = blocks(page, "python")[0], blocks(page, "toml")[0]
    assert tomllib.loads(convert(source.code, "settings.py")) == tomllib.loads(shown.code)


# Commands


def commands() -> list[Any]:
    """Each command line of poold in a block, as words."""
    found = []
    for block in page_blocks("sh"):
        for number, line in enumerate(block.code.replace("\\\n", " ").splitlines()):
            words = shlex.split(line, comments=True)
            if words[:1] == ["poold"]:
                found.append(pytest.param(words[1:], id=f"{block}+{number}"))
    return found


@pytest.mark.parametrize("words", commands())
def test_every_command_line_is_understood(words: list[str]) -> None:
    with main.make_context("poold", list(words)) as context:
        name, command, rest = main.resolve_command(context, words)
        assert command is not None
        command.make_context(name, rest, parent=context).close()


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_every_command_and_option_in_prose_exists(page: Path) -> None:
    for span in code_spans(page):
        words = span.replace("[", " ").replace("]", " ").replace("...", " ").split()
        if words[0] != "poold" or len(words) == 1:
            continue
        command = main.commands.get(words[1])
        assert command is not None, f"{name_of(page)} names {span}: there is no such command"
        options = {each for param in command.params if isinstance(param, click.Option) for each in param.opts}
        unknown = {word for word in words if word.startswith("--")} - options
        assert not unknown, f"{name_of(page)} names {span}: it has no {', '.join(unknown)}"


def test_the_table_of_commands_has_every_command_and_option() -> None:
    table = {row[0].strip("`").split()[1]: " ".join(row) for row in rows(DOCS / "operations.md", "## Commands")}
    assert table.keys() == main.commands.keys()
    for name, command in main.commands.items():
        options = [
            max(each.opts, key=len) for each in command.params if isinstance(each, click.Option) and not each.hidden
        ]
        assert [each for each in options if each not in table[name] and each != "--address"] == []


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_every_script_in_a_block_exists_and_knows_its_options(page: Path) -> None:
    for block in blocks(page, "sh"):
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0].startswith("scripts/"):
                name = words[0].partition("/")[2]
                files = [ROOT / f"scripts/{name}{each}" for each in ("", ".py")]
                files += [ROOT / f"scripts/benchmark/{name}.py", ROOT / "tests/conftest.py"]
                text = "\n".join(file.read_text("utf-8") for file in files if file.exists())
                for option in [word.partition("=")[0] for word in words if word.startswith("--")]:
                    assert f'"{option}"' in text, f"{block}: {words[0]} has no {option}"


def test_the_hooks_and_the_workflow_run_what_the_scripts_run() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    tools = re.findall(r'^"\$python" (-m (?!pytest).*)$', (ROOT / "scripts/check").read_text("utf-8"), re.MULTILINE)
    assert tools
    assert re.findall(r"entry: \.venv/bin/python (.*)", hooks) == tools
    workflow = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
    assert re.findall(r"run: (.*)", workflow) == ["scripts/check", "scripts/test"]


# The client


def test_the_client_pages_name_every_argument() -> None:
    handler = " ".join(row[0] for row in rows(DOCS / "client.md", "## The Handler"))
    assert parameters(Handler.__init__) <= set(re.findall(r"`(\w+)`", handler))
    assert f"`query({signature(Handler.query)})`" in prose(DOCS / "client.md").replace("\n", " ")
    for call in (Handler.copy_in, Handler.copy_out):
        assert f"`{call.__name__}({signature(call)})`" in prose(DOCS / "copy.md").replace("\n", " ")
    transaction = " ".join(row[0] for row in rows(DOCS / "transactions.md", "### Options"))
    assert parameters(Handler.transaction) == set(re.findall(r"`(\w+)`", transaction))
    assert f"`tx.query({signature(client.Transaction.query)})`" in prose(DOCS / "transactions.md").replace("\n", " ")


def parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self"}


def signature(function: Any) -> str:
    """As in a document: without annotations."""
    found = inspect.signature(function)
    plain = [
        each.replace(annotation=inspect.Parameter.empty) for each in found.parameters.values() if each.name != "self"
    ]
    return str(inspect.Signature(plain))[1:-1]


def test_the_page_on_failures_names_every_error() -> None:
    errors = {name for name in client.__all__ if issubclass(getattr(client, name), client.DBError)} - {"DBError"}
    table = " ".join(row[0] for row in rows(DOCS / "failures.md", "## Errors and what to do"))
    assert set(re.findall(r"`(\w+)`", table)) == errors


def test_what_a_reload_does_about_each_key_is_the_codes() -> None:
    section = (ROOT / "docs" / "configuration.md").read_text().split("## What a reload changes")[1].split("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| `")]
    told = {tuple(re.findall(r"`(\w+)`", row[1])): row[2] for row in rows}
    assert len(told) == 4
    for what, words in (
        (RESTART, "need a restart"),
        (START, "`poold stop` and `poold start`"),
        (MOVE, "leads elsewhere"),
        (REPLACE, "backends are replaced"),
    ):
        sections = (BrokerConfig, EndpointConfig, GroupConfig)
        keys = [
            each.name for cls in sections for each in dataclasses.fields(cls) if each.metadata.get("reload") == what
        ]
        assert words in told[tuple(keys)]
