"""The compiled modules: used if they are there and fit, said to be absent if not, and never needed."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from client import compiled

ROOT = Path(__file__).parent.parent
NAME = compiled.COMPILED[0]
IS_PURE = os.environ.get(compiled.PURE_VARIABLE, "0") not in ("", "0")


@pytest.fixture(autouse=True)
def _own_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_reasons", {})
    monkeypatch.delenv(compiled.PURE_VARIABLE, raising=False)


@pytest.mark.skipif(IS_PURE, reason="this run is without them")
@pytest.mark.parametrize("name", compiled.COMPILED)
def test_the_tests_run_with_the_modules_of_these_sources(name: str) -> None:
    assert compiled.load(name) is not None, compiled.describe()
    assert compiled.describe() == "compiled"


@pytest.mark.parametrize("value", ["1", "yes"])
def test_the_environment_turns_them_off(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(compiled.PURE_VARIABLE, value)
    assert compiled.load(NAME) is None
    assert compiled.describe() == "pure Python (POOLD_PURE is set)"


def test_one_that_is_not_built_is_not_missed() -> None:
    assert compiled.load("poold.lane.nowhere") is None
    assert compiled.describe() == "pure Python (not built)"


def test_one_that_cannot_be_loaded_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_module.py").write_text("raise ImportError('made for another Python')")
    monkeypatch.syspath_prepend(tmp_path)
    assert compiled.load("broken_module") is None
    assert compiled.describe() == "pure Python (not loaded: made for another Python)"


def test_one_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("an_old_one")
    module.SOURCES = 1  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "an_old_one", module)
    assert compiled.load("an_old_one") is None
    assert "built of other sources; build it again" in compiled.describe()
    monkeypatch.setattr(compiled, "sources", lambda: 0)  # an installed wheel holds none
    assert compiled.load("an_old_one") is module


def test_every_source_counts(tmp_path: Path) -> None:
    assert compiled.sources(tmp_path) == 0
    folder = tmp_path / "poold/lane"
    folder.mkdir(parents=True)
    (folder / "lane.pyx").write_text("first")
    first = compiled.sources(tmp_path)
    (folder / "lane.pxd").write_text("second")
    assert len({0, first, compiled.sources(tmp_path), compiled.sources()}) == 4


def test_without_a_compiler_the_package_is_built_all_the_same(tmp_path: Path) -> None:
    """With a compiler that fails each module is left out, and nothing else."""
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(tmp_path / "b")]
    environment = {**os.environ, "CC": "false"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "poold.lane.lane" in done.stderr
    built = {path.name for path in (tmp_path / "b").rglob("*") if path.is_file()}
    assert "daemon.py" in built
    assert not [name for name in built if name.endswith(".so")]
