"""What errors about paths say: which place is wrong, what it is, and what to do."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from poold.system.file_errors import explained, in_words


def error_of(work: Callable[[], object]) -> OSError:
    with pytest.raises(OSError) as caught:  # noqa: PT011  the words are what is tested
        work()
    return caught.value


def make(path: Path) -> OSError:
    return error_of(lambda: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))


def test_a_missing_folder_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "a/b/file"
    said = in_words(path, make(path))
    assert said == f"there is no folder {tmp_path}/a; make it (mkdir -p {tmp_path}/a/b), or choose another path"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert in_words(path, error_of(path.read_text)) == f"there is no {path}"


def test_a_file_on_the_way_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    for path in (tmp_path / "a/b", tmp_path / "a/b/c"):
        assert in_words(path, make(path)) == f"{tmp_path}/a is no folder; choose another path"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "is a folder, expected a file" in in_words(tmp_path, error_of(tmp_path.read_text))
    assert "is a folder, expected the name of a new file" in in_words(tmp_path, make(tmp_path))


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    assert in_words(path, make(path)) == f"{path} is there already, and is not overwritten; remove it, or choose " + (
        "another path"
    )


def test_who_is_refused_hears_by_what_and_whose_it_is(tmp_path: Path) -> None:
    denied = PermissionError(13, "Permission denied", str(tmp_path / "file"))
    tmp_path.chmod(0o500)
    said = explained(denied)
    assert f"Permission denied for user {os.geteuid()}: {tmp_path} belongs to user {os.geteuid()}" in said
    assert "with mode 0500" in said
    (tmp_path / "file").touch(mode=0o400)
    assert f"{tmp_path}/file belongs to user {os.geteuid()}" in explained(denied)


def test_other_errors_keep_the_systems_words() -> None:
    assert explained(OSError(28, "No space left on device", "/x")) == "/x: No space left on device"
    assert explained(OSError("not about a path")) == "not about a path"
    assert explained(ValueError("another kind")) == "another kind"
