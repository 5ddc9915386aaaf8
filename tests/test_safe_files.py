"""Traps in folders where others may write: links, foreign files and pipes at the paths that the broker opens."""

import logging
import os
import socket
from pathlib import Path

import pytest

from client.wire.address import folder_trap
from poold.system import safe_files
from poold.system.address_claim import AddressClaim, is_claimed, lock_path
from poold.system.safe_files import make_folder, open_own, remove_socket

WRITE = os.O_RDWR | os.O_CREAT
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
SOMEBODY = 4242


@pytest.fixture
def treasure(tmp_path: Path) -> Path:
    """A file of ours that no trap may reach."""
    file = tmp_path / "treasure"
    file.write_text("precious")
    return file


def test_a_file_that_is_made_is_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        os.close(open_own(tmp_path / "new", WRITE))
    finally:
        os.umask(mask)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_one_of_ours_is_opened_again(treasure: Path) -> None:
    descriptor = open_own(treasure, os.O_RDONLY)
    assert os.read(descriptor, 100) == b"precious"
    os.close(descriptor)


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_no_link_is_followed(tmp_path: Path, treasure: Path, make: object) -> None:
    make(treasure, tmp_path / "trap")  # type: ignore[operator]
    with pytest.raises(PermissionError, match="expected a file of user"):
        open_own(tmp_path / "trap", WRITE | os.O_TRUNC if make is os.symlink else WRITE)
    assert treasure.read_text() == "precious"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for flags in (os.O_RDONLY, os.O_RDWR):
        with pytest.raises(PermissionError, match="no regular file"):
            open_own(tmp_path / "pipe", flags)


@only_root
def test_somebody_elses_file_is_refused(treasure: Path) -> None:
    os.chown(treasure, SOMEBODY, SOMEBODY)
    with pytest.raises(PermissionError, match=f"belongs to user {SOMEBODY}"):
        open_own(treasure, WRITE)


# The claim on an address.


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_a_lock_that_is_a_link_is_refused_and_its_target_left_alone(
    tmp_path: Path, treasure: Path, make: object
) -> None:
    make(treasure, lock_path(tmp_path / "s"))  # type: ignore[operator]
    assert not is_claimed(f"ipc://{tmp_path}/s")
    with pytest.raises(PermissionError, match=r"s\.lock"), AddressClaim(f"ipc://{tmp_path}/s"):
        pass
    assert treasure.read_text() == "precious"


def test_a_file_in_the_sockets_place_is_not_removed(tmp_path: Path, treasure: Path) -> None:
    treasure.rename(tmp_path / "s")
    with pytest.raises(FileExistsError, match="is no socket"), AddressClaim(f"ipc://{tmp_path}/s"):
        pass
    assert (tmp_path / "s").read_text() == "precious"
    assert not lock_path(tmp_path / "s").exists()


def test_a_link_in_the_sockets_place_is_not_followed(tmp_path: Path, treasure: Path) -> None:
    (tmp_path / "s").symlink_to(treasure)
    with pytest.raises(FileExistsError, match="is no socket"):
        remove_socket(tmp_path / "s")
    assert treasure.read_text() == "precious"


def test_a_socket_that_cannot_be_removed_is_told_with_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))

    def refuse(_: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(PermissionError, match=f"belongs to user {os.getuid()}, who may pose as the broker"):
        remove_socket(tmp_path / "s")


# Folders.


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_folder_that_is_made_is_never_for_everybody_to_write(tmp_path: Path, mode: int) -> None:
    mask = os.umask(0)
    try:
        make_folder(tmp_path / "a" / "b", mode)
    finally:
        os.umask(mask)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == mode
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755


def test_the_default_folder_is_opened_for_users_who_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_files, "runtime_dir", lambda: tmp_path)
    tmp_path.chmod(0o700)
    make_folder(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    make_folder(tmp_path, safe_files.OPEN_FOLDER)
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_a_chosen_folder_where_everybody_may_remove_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError, match="has mode 0777, so anybody could put a socket"):
        make_folder(tmp_path)


def test_a_chosen_folder_like_tmp_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o1777)
    with caplog.at_level(logging.WARNING):
        make_folder(tmp_path)
    assert f"folder={tmp_path}" in caplog.text


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_the_default_folder_is_nobody_elses_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    monkeypatch.setattr(safe_files, "runtime_dir", lambda: tmp_path)
    tmp_path.chmod(0o755)
    make_folder(tmp_path)
    tmp_path.chmod(mode)
    with pytest.raises(PermissionError, match="could pose as the broker"):
        make_folder(tmp_path)


def test_a_link_is_no_default_folder_wherever_it_leads(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "trap").symlink_to(tmp_path / "real")
    assert folder_trap(tmp_path / "real") is None
    assert "could pose as the broker" in str(folder_trap(tmp_path / "trap"))


@only_root
def test_somebody_elses_folder_is_no_default_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, SOMEBODY, SOMEBODY)
    assert f"belongs to user {SOMEBODY}" in str(folder_trap(tmp_path))


def test_a_default_folder_that_is_missing_is_no_trap(tmp_path: Path) -> None:
    assert folder_trap(tmp_path / "none") is None
