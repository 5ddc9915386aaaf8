"""How poold is installed: what the texts tell people to do, and what the build says while it does so."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from client.wire.release import RELEASE
from poold.embedded.programs import INSTALL_HINT

ROOT = Path(__file__).parent.parent
SUFFIXES = {".cfg", ".html", ".ini", ".md", ".py", ".pyi", ".pyx", ".rst", ".sh", ".toml", ".txt", ".yaml", ".yml"}
# A command up to its end, or to the end of the quotation in a text.
INSTALLING = re.compile(
    r"\b(?:pip[\d.]*|pipx|uv|poetry|pdm|conda|mamba)\b[^\n`]*?\b(?:install|add|download)\b([^\n`#&;|]*)"
)
# The name as an index knows it: no path, no part of another name, no word of a text, and without where it comes from.
BY_NAME = re.compile(r"(?<![\w./@:-])poold(?:\[[\w,\s]*\])?+(?![\w./-])(?!'s\b|\s*@)")


def texts() -> list[Path]:
    """Every file of the repository that people read or run."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:  # no checkout: everything but what is made
        found = [path for path in ROOT.rglob("*") if not path.relative_to(ROOT).parts[0].startswith((".", "build"))]
    else:
        found = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in found if path.is_file() and (path.suffix in SUFFIXES or path.parent.name == "scripts")]


def by_name(text: str) -> list[str]:
    """The lines of a text that install poold by its name from an index."""
    return [line.strip() for line in text.splitlines() if any(map(BY_NAME.search, INSTALLING.findall(line)))]


@pytest.mark.parametrize(
    "line",
    [
        "pip install poold",
        "python -m pip install -U 'poold[embedded]'",
        "uv add poold==0.1",
        "RUN pip3 install psycopg2-binary poold && true",
        "`pipx install poold`.",
    ],
)
def test_the_search_finds_an_installation_by_name(line: str) -> None:
    assert by_name(line) == [line]


@pytest.mark.parametrize(
    "line",
    [
        "pip install '.[embedded]'  # in the folder of poold",
        "pip install '.[embedded]' in poold's checkout",
        "pip install ./poold",
        "pip install /srv/poold[django]",
        "pip install 'poold[django] @ git+https://example.com/poold.git'",
        "pip install git+https://example.com/poold.git",
        "`pip install` builds it, and `poold version` tells",
    ],
)
def test_the_search_leaves_other_ways_alone(line: str) -> None:
    assert by_name(line) == []


def test_no_text_installs_poold_by_a_name_that_is_another_projects_in_the_index() -> None:
    read = texts()
    assert ROOT / "README.md" in read
    wrong = {
        str(path.relative_to(ROOT)): lines
        for path in read
        if path != Path(__file__).resolve() and (lines := by_name(path.read_text("utf-8", "replace")))
    }
    assert wrong == {}


def test_what_is_missing_is_installed_from_the_checkout() -> None:
    assert "pip install '.[embedded]' in poold's checkout" in INSTALL_HINT


def test_the_build_warns_of_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "always", "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [line for line in (done.stdout + done.stderr).splitlines() if re.search("warning|deprecat", line, re.I)]
    assert said == []
    [metadata] = tmp_path.glob("*.egg-info/PKG-INFO")
    assert {"License-Expression: MIT", f"Version: {RELEASE}"} <= set(metadata.read_text("utf-8").splitlines())
