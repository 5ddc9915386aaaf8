"""A private PostgreSQL's data and the versions of the programs: those that fit serve it, and no others try."""

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from brokers import poold
from postgres import server_folder

from poold.embedded import programs
from poold.embedded.programs import BINDIR_VARIABLE
from poold.embedded.server import EmbeddedError, EmbeddedPostgres

FAST = {"fsync": "off"}


@functools.cache
def installed() -> dict[str, Path]:
    """A folder of programs for each major version that is here, those that are taken first at the beginning."""
    found: dict[str, Path] = {}
    for _, folder in programs._candidates():
        if programs._problem(folder) is None:
            found.setdefault(programs._version(folder).partition(".")[0], folder)
    return found


needs_two = pytest.mark.skipif(len(installed()) < 2, reason="there is one version of PostgreSQL only")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv(BINDIR_VARIABLE, raising=False)
    with server_folder() as folder:
        yield folder


def version(server: EmbeddedPostgres) -> str:
    """The server's major version."""
    connection = psycopg2.connect(server.dsn())
    try:
        return str(connection.info.server_version // 10000)
    finally:
        connection.close()


def made_by(number: str, data: Path) -> None:
    """Make a cluster of that version."""
    with EmbeddedPostgres(data, bindir=installed()[number], settings=FAST) as server:
        assert version(server) == number


@pytest.mark.parametrize("number", installed())
def test_data_of_any_version_that_is_here_are_served(folder: Path, number: str) -> None:
    made_by(number, folder / "data")
    with EmbeddedPostgres(folder / "data", settings=FAST) as server:
        assert version(server) == number


@needs_two
def test_new_data_get_the_first_version(folder: Path) -> None:
    with EmbeddedPostgres(folder / "data", settings=FAST) as server:
        assert version(server) == next(iter(installed()))


@needs_two
def test_data_that_nothing_here_fits_are_told_with_what_was_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = installed()
    made_by(first, folder / "data")
    for copy in (folder / "data").glob("postgresql-*"):
        shutil.rmtree(copy)
    other = installed()[second]
    monkeypatch.setattr(programs, "_candidates", lambda: iter([("pg_config", other), ("a place", folder / "none")]))
    with pytest.raises(EmbeddedError) as caught:
        EmbeddedPostgres(folder / "data").start()
    said = str(caught.value)
    assert said.startswith(f"{folder}/data/cluster was made by PostgreSQL {first}, and only programs of that version")
    assert f"pg_config: {other}: version {second}" in said
    assert f"a place: {folder}/none: no such folder" in said
    for way in (BINDIR_VARIABLE, "--data", "pg_dump", "pg_upgrade"):
        assert way in said
    # Nothing was done to the data.
    monkeypatch.undo()
    with EmbeddedPostgres(folder / "data", bindir=installed()[first], settings=FAST) as server:
        assert version(server) == first


@needs_two
def test_programs_that_were_chosen_and_do_not_fit_are_refused(folder: Path) -> None:
    first, second, *_ = installed()
    made_by(first, folder / "data")
    words = ["start", f"--data={folder}/data", f"--address=ipc://{folder}/s"]
    done = poold(*words, **{BINDIR_VARIABLE: str(installed()[second])})
    assert (done.returncode, done.stdout) == (1, "")
    assert f"was made by PostgreSQL {first}" in done.stderr
    assert f"{BINDIR_VARIABLE}: {installed()[second]}: version {second}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_copy_serves_data_whose_programs_are_gone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bindir = next(iter(installed().values()))
    number = next(iter(installed()))
    made_by(number, folder / "data")
    copy = programs._copy(bindir, folder / "data")
    monkeypatch.setattr(programs, "_candidates", lambda: iter(()))
    with EmbeddedPostgres(folder / "data", settings=FAST) as server:
        assert server.programs.bindir == copy
        assert version(server) == number


def test_of_similar_numbers_one_version_fits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    numbers = {"16.14": "16", "18beta1": "18", "9.6.24": "9.6", "1.6": "1"}
    for full, major in numbers.items():
        monkeypatch.setattr(programs, "_version", lambda _, full=full: full)
        assert [each for each in (*numbers.values(), "6", "9", "180") if programs._fits(tmp_path, each)] == (
            ["9.6", "9"] if major == "9.6" else [major]
        )
        assert programs._fits(tmp_path, "")
