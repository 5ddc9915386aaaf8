"""The claim on an address."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from client.wire.address import IPC_PATH_LIMIT, check_address, default_address, runtime_dir
from poold.system.address_claim import AddressClaim, AddressInUse, is_claimed, lock_path
from poold.system.succession import Estate, estate_from


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/s"


def test_one_claim_at_a_time_and_the_holder_is_named(address: str) -> None:
    with AddressClaim(address):
        assert is_claimed(address)
        with pytest.raises(AddressInUse, match=f"process {os.getpid()}"), AddressClaim(address):
            pass
    assert not is_claimed(address)


def test_nothing_is_left_after_a_claim(address: str, tmp_path: Path) -> None:
    with AddressClaim(address), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_holder_left_is_no_obstacle(address: str, tmp_path: Path) -> None:
    program = f"""
import os, signal, socket
from poold.system.address_claim import AddressClaim
AddressClaim({address!r}).__enter__()
socket.socket(socket.AF_UNIX).bind({str(tmp_path / "s")!r})
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    assert lock_path(tmp_path / "s").exists()
    assert not is_claimed(address)
    with AddressClaim(address):
        assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("is_open", "mode"), [(False, 0o750), (True, 0o755)])
def test_a_missing_folder_is_open_to_those_who_may_use_the_socket(tmp_path: Path, is_open: bool, mode: int) -> None:
    mask = os.umask(0o077)
    try:
        with AddressClaim(f"ipc://{tmp_path}/above/made/s", is_open=is_open):
            assert (tmp_path / "above/made").stat().st_mode & 0o777 == mode
            assert (tmp_path / "above").stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(mask)


def test_lists_are_of_no_use_in_a_folder_that_keeps_others_out_which_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with AddressClaim(f"ipc://{closed}/s"):
        assert caplog.text == ""
    with AddressClaim(f"ipc://{closed}/s", is_open=True):
        assert "may be unable to enter a folder" in caplog.text
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:5000", "tcp://10.1.2.3:5000", "tcp://*:5000", "tcp://[::]:5000"])
def test_tcp_beyond_this_machine_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="neither encrypts nor authenticates"), AddressClaim(address):
        pass


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:5000", "tcp://localhost:5000", "tcp://[::1]:5000"])
def test_tcp_on_this_machine_needs_no_lock(address: str) -> None:
    with AddressClaim(address):
        assert not is_claimed(address)


@pytest.mark.parametrize(
    "address",
    ["", "poold.sock", "/run/poold.sock", "ipc://relative", "ipc://", "http://x:1", "tcp://x", "tcp://:1", "tcp://x:0",
     "tcp://x:99999", "ipc:///" + "x" * IPC_PATH_LIMIT],
)  # fmt: skip
def test_an_address_of_no_known_form_is_refused_with_what_is_expected(address: str) -> None:
    with pytest.raises(ValueError, match=r"ipc://|tcp://|choose a shorter"):
        check_address(address)


def test_the_default_is_the_users_own_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    before = default_address()
    for name in list(os.environ):
        monkeypatch.delenv(name)
    assert default_address() == before
    assert check_address(before)
    monkeypatch.setattr(os, "getuid", lambda: 424242)
    assert str(runtime_dir()) == "/tmp/poold-424242"


def test_a_folder_that_is_made_for_listed_users_lets_them_in(tmp_path: Path) -> None:
    with AddressClaim(f"ipc://{tmp_path}/made/s", is_open=True):
        assert (tmp_path / "made").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("is_ready", [False, True])
def test_a_broker_that_takes_over_removes_the_socket_only_if_it_was_ready(tmp_path: Path, is_ready: bool) -> None:
    address = f"ipc://{tmp_path}/s"
    before = AddressClaim(address)
    before.__enter__()
    assert before.is_own
    (tmp_path / "s").touch()
    successor = AddressClaim(address, estate=Estate(-1, os.dup(before.lock), is_managed=False))
    with successor:
        assert not successor.is_own
        if is_ready:
            successor.own()
            before.leave()
    assert (tmp_path / "s").exists() is not is_ready
    assert is_claimed(address) is not is_ready
    before.__exit__()
    assert list(tmp_path.iterdir()) == []


def test_what_a_broker_leaves_travels_as_text_and_an_older_release_s_as_well() -> None:
    for estate in (Estate(3, 4, True), Estate(3, 4, False, 5)):
        assert estate_from(str(estate)) == estate
    assert str(Estate(3, 4, True)) == "3,4,1"
    assert Estate(3, 4, False).descriptors == [3, 4]
    assert Estate(3, 4, False, 5).descriptors == [3, 4, 5]
    with pytest.raises(ValueError, match="not enough values"):
        estate_from("3,4")
