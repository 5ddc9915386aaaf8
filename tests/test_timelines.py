"""The newest timelines, remembered in files."""

import os
from pathlib import Path

import pytest

from poold.system.timelines import Timelines, default_folder


def test_what_was_kept_is_read_again(tmp_path: Path) -> None:
    kept = Timelines(tmp_path / "new" / "folder")
    assert kept.read() == {}
    kept.keep("7712976759682531058", 3)
    kept.keep("18446744073709551615", 1)
    assert Timelines(kept.folder).read() == {"7712976759682531058": 3, "18446744073709551615": 1}


def test_an_older_timeline_replaces_none(tmp_path: Path) -> None:
    """Another broker on the same folder may know a newer one."""
    one, other = Timelines(tmp_path), Timelines(tmp_path)
    one.keep("77", 5)
    other.keep("77", 4)
    assert one.read() == {"77": 5}
    other.keep("77", 6)
    assert one.read() == {"77": 6}


@pytest.mark.parametrize("content", [b"", b"five", b"-1", b"\xff\xfe", b"1" * 40])
def test_a_file_that_holds_no_number_is_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "77.timeline").write_bytes(content)
    kept = Timelines(tmp_path)
    assert kept.read() == {}
    kept.keep("77", 2)
    assert kept.read() == {"77": 2}


def test_other_files_are_left_alone_and_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "x.timeline").write_text("4")
    kept = Timelines(tmp_path)
    kept.keep("../../etc/passwd", 9)
    kept.keep("", 9)
    assert kept.read() == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "x.timeline"]


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    Timelines(tmp_path).keep("77", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["77.timeline"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="Permission"):
        Timelines(tmp_path).keep("77", 2)


def test_systemd_s_state_folder_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/home/web/state")
    assert default_folder() == Path("/home/web/state/poold")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/poold:/var/lib/other")
    assert default_folder() == Path("/var/lib/poold")
