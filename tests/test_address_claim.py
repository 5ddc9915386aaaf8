"""The claim on an address."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.wire.address import IPC_PATH_LIMIT, check_address, default_address, runtime_dir
from poold.system.address_claim import AddressClaim, AddressInUse, is_claimed, lock_path
from poold.system.succession import Estate, estate_from


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/s"


def test_one_claim_at_a_time_and_the_holder_is_named(address: str) -> None:
    with AddressClaim(address), socket.socket(socket.AF_UNIX) as listener:
        assert is_claimed(address)
        gone = rf"process {os.getpid()}\).*; stop it with: kill {os.getpid()}, as there is no socket"
        with pytest.raises(AddressInUse, match=gone), AddressClaim(address):
            pass
        listener.bind(address.removeprefix("ipc://"))
        there = rf"process {os.getpid()}\).*; stop it with: poold stop --address {address}"
        with pytest.raises(AddressInUse, match=there), AddressClaim(address):
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


@pytest.fixture
def left(tmp_path: Path) -> Iterator[tuple[AddressClaim, Estate]]:
    """A claim with its socket, and what another broker gets of it."""
    address = f"ipc://{tmp_path}/s"
    with AddressClaim(address) as before, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/s")
        listener.listen()
        yield before, Estate(listener.fileno(), os.dup(before.lock), False, os.getpid())


@pytest.mark.parametrize("is_ready", [False, True])
def test_a_broker_that_takes_over_removes_the_socket_only_if_it_was_ready(
    left: tuple[AddressClaim, Estate], tmp_path: Path, is_ready: bool
) -> None:
    before, estate = left
    address = f"ipc://{tmp_path}/s"
    assert before.is_own
    with AddressClaim(address, estate=estate) as successor:
        assert not successor.is_own
        if is_ready:
            successor.own()
            before.leave()
    assert (tmp_path / "s").exists() is not is_ready
    assert is_claimed(address) is not is_ready
    before.__exit__()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False), (True, True), (False, False)])
def test_a_socket_that_is_taken_over_gets_the_mode_of_the_configuration_with_the_address(
    left: tuple[AddressClaim, Estate], tmp_path: Path, before: bool, after: bool
) -> None:
    modes = {True: 0o666, False: 0o660}
    (tmp_path / "s").chmod(modes[before])
    with AddressClaim(f"ipc://{tmp_path}/s", is_open=after, estate=left[1]) as successor:
        assert (tmp_path / "s").stat().st_mode & 0o777 == modes[before]
        assert successor.mode == modes[after]
        successor.own()
        assert (tmp_path / "s").stat().st_mode & 0o777 == modes[after]


def test_the_lock_names_the_broker_that_serves(left: tuple[AddressClaim, Estate], tmp_path: Path) -> None:
    lock = tmp_path / "s.lock"
    lock.write_text("1\n")
    with AddressClaim(f"ipc://{tmp_path}/s", estate=left[1]) as successor:
        assert lock.read_text() == "1\n"
        successor.own()
        assert lock.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("address", ["ipc://{}/other", "ipc:///nowhere/s", "tcp://127.0.0.1:6543"])
def test_a_socket_is_not_taken_over_for_another_address(
    left: tuple[AddressClaim, Estate], tmp_path: Path, address: str
) -> None:
    named = address.format(tmp_path)
    with (
        pytest.raises(
            ValueError, match=rf"address is {named}, .* serves ipc://{tmp_path}/s: .*cannot change its address"
        ),
        AddressClaim(named, estate=left[1]),
    ):
        pass


def test_a_socket_is_taken_over_by_another_name_of_its_folder(
    left: tuple[AddressClaim, Estate], tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with AddressClaim(f"ipc://{tmp_path}/link/s", estate=left[1]) as successor:
        assert not successor.is_own
    (tmp_path / "link").unlink()


def test_a_socket_whose_file_is_gone_is_not_taken_over(left: tuple[AddressClaim, Estate], tmp_path: Path) -> None:
    (tmp_path / "s").unlink()
    with (
        pytest.raises(ValueError, match=f"is gone or is no socket any more.*process {os.getpid()}"),
        AddressClaim(f"ipc://{tmp_path}/s", estate=left[1]),
    ):
        pass


@pytest.mark.parametrize(
    ("mode", "is_open", "said"),
    [
        (0o660, False, ""),
        (0o666, True, ""),
        (0o666, False, "anybody on this machine may connect"),
        (0o660, True, "users of allow_uids and allow_gids may be unable to connect"),
    ],
)
def test_the_mode_of_a_service_managers_socket_is_looked_at_and_left_alone(
    left: tuple[AddressClaim, Estate], tmp_path: Path, mode: int, is_open: bool, said: str
) -> None:
    (tmp_path / "s").chmod(mode)
    estate = left[1]._replace(is_managed=True)
    with AddressClaim(f"ipc://{tmp_path}/s", is_open=is_open, has_socket=True, estate=estate) as claim:
        assert claim.mode is None
        assert claim.exposure().startswith(said)
        assert bool(claim.exposure()) is bool(said)
        claim.own()
        assert (tmp_path / "s").stat().st_mode & 0o777 == mode


def test_what_a_broker_leaves_travels_as_text_and_what_a_later_release_adds_is_ignored() -> None:
    for estate in (Estate(3, 4, True, 7), Estate(3, 4, False, 7, 8, 5, ((9, 10), (11, 12)))):
        assert estate_from(str(estate)) == estate
        assert estate_from(str(estate)[:-1] + ', "later": 1}') == estate
    assert Estate(3, 4, False, 7).descriptors == [3, 4]
    assert Estate(3, 4, False, 7, 8, 5, ((9, 10),)).descriptors == [3, 4, 8, 5, 10]


@pytest.mark.parametrize("text", ["3,4", "3,4,1,5", "[]", "{}", "", '{"listener": 3}'])
def test_what_another_release_leaves_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot take over.*use poold stop, and then poold start"):
        estate_from(text)
