"""Key files: what is read, what is refused, and that no error shows a key."""

import os
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.auth

from client import Connection, Handler, dbapi
from client.channels.registry import KEY_VARIABLE, SERVER_KEY_VARIABLE, broker_keys
from client.wire.keyfiles import Keys, read_public, read_secret
from poold.operations.keygen import make_pair

TCP, IPC = "tcp://127.0.0.1:1", "ipc:///tmp/no-broker-listens-here"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A secret and a public key file."""
    return make_pair(tmp_path / "one")


def test_a_pair_is_read_as_zeromqs_own_programs_read_it(pair: tuple[Path, Path]) -> None:
    secret, public = pair
    assert (secret.name, public.name) == ("one.key_secret", "one.key")
    theirs = zmq.auth.load_certificate(secret)
    assert theirs == (read_public(public).encode(), read_secret(secret).encode())
    assert zmq.auth.load_certificate(public) == (theirs[0], None)
    assert zmq.curve_public(theirs[1] or b"") == theirs[0]


def test_a_pair_of_zeromqs_own_programs_is_read(tmp_path: Path) -> None:
    public, secret = zmq.auth.create_certificates(tmp_path, "theirs", {"name": "worker"})
    os.chmod(secret, 0o600)
    assert zmq.auth.load_certificate(secret) == (read_public(public).encode(), read_secret(secret).encode())


def test_a_secret_is_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        secret, public = make_pair(tmp_path / "one")
    finally:
        os.umask(before)
    assert secret.stat().st_mode & 0o777 == 0o600
    assert public.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("there", ["one.key", "one.key_secret"])
def test_nothing_is_overwritten_and_nothing_is_left_half_made(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(FileExistsError):
        make_pair(tmp_path / "one")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o644, 0o666])
def test_a_secret_that_others_can_read_is_refused(pair: tuple[Path, Path], mode: int) -> None:
    pair[0].chmod(mode)
    with pytest.raises(ValueError, match=f"mode {mode:04o}.*chmod") as caught:
        read_secret(pair[0])
    pair[0].chmod(0o600)
    assert read_secret(pair[0]) not in str(caught.value)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_roots_secret_may_belong_to_a_group_another_users_may_not(pair: tuple[Path, Path]) -> None:
    pair[0].chmod(0o640)
    assert read_secret(pair[0])
    os.chown(pair[0], 12345, 12345)
    with pytest.raises(ValueError, match="mode 0640, expected 0600"):
        read_secret(pair[0])


def test_a_secret_key_is_never_taken_for_a_public_one(pair: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="holds a secret key, expected only a public one") as caught:
        read_public(pair[0])
    assert read_secret(pair[0]) not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "public-key = ",
        'public-key = "too short"',
        f'public-key = "{"a" * 41}"',
        f'public-key = "{"~" * 40}"',
        f'public-key = "{"#" * 40}"',  # Z85's last digit, eight numbers of more than 32 bits
        f'# public-key = "{"a" * 40}"',
        "\0\xff",
    ],
)
def test_what_is_no_key_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "some.key"
    file.write_text(text, "latin-1")
    file.chmod(0o600)
    with pytest.raises(ValueError, match=r"some\.key' has no line public-key .* poold keygen"):
        read_public(file)
    with pytest.raises(ValueError, match=r"some\.key' has no line secret-key .* poold keygen"):
        read_secret(file)


def test_a_file_that_cannot_be_read_is_an_error_with_its_reason(tmp_path: Path) -> None:
    for read in (read_public, read_secret):
        with pytest.raises(ValueError, match=r"nothing': No such file"):
            read(tmp_path / "nothing")
        with pytest.raises(ValueError, match="Is a directory"):
            read(tmp_path)


# Which keys a client uses


def test_the_argument_comes_before_the_program_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [make_pair(tmp_path / name) for name in ("argument", "program", "environment")]
    expected = [Keys(read_public(public), read_secret(secret)) for secret, public in pairs]
    for variable in (SERVER_KEY_VARIABLE, KEY_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    assert broker_keys(TCP) is None
    monkeypatch.setenv(SERVER_KEY_VARIABLE, str(pairs[2][1]))
    monkeypatch.setenv(KEY_VARIABLE, str(pairs[2][0]))
    assert broker_keys(TCP) == expected[2]
    try:
        Connection.init({"server_key": pairs[1][1], "key": pairs[1][0]})
        assert broker_keys(TCP) == expected[1]
        assert broker_keys(TCP, pairs[0][1], pairs[0][0]) == expected[0]
        assert broker_keys(IPC) is None
    finally:
        Connection.init({})


def test_one_of_two_keys_is_an_error_that_names_the_other(pair: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match=KEY_VARIABLE):
        Handler(address=TCP, server_key=pair[1])
    with pytest.raises(ValueError, match=SERVER_KEY_VARIABLE):
        Handler(address=TCP, key=pair[0])


def test_keys_for_an_ipc_address_are_an_error(pair: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="are for tcp:// addresses"):
        Handler(address=IPC, server_key=pair[1], key=pair[0])


def test_keys_show_no_secret(pair: tuple[Path, Path]) -> None:
    keys = Keys(read_public(pair[1]), read_secret(pair[0]))
    assert keys.server in repr(keys)
    assert keys.secret not in repr(keys)


@pytest.mark.parametrize("name", ["server_key", "key"])
@pytest.mark.parametrize("wrong", ["", False, 0, b"a.key", ()])
def test_a_key_file_that_is_none_is_not_the_same_as_no_keys(name: str, wrong: Any) -> None:
    for call in (
        lambda: Handler(address=TCP, **{name: wrong}),
        lambda: Handler(address=IPC, **{name: wrong}),
        lambda: dbapi.connect(address=TCP, **{name: wrong}),
        lambda: Connection.init({name: wrong}),
    ):
        with pytest.raises((TypeError, ValueError), match=f"{name}.* is .*; expected the path of a key file, or None"):
            call()


def test_the_program_is_told_nothing_that_is_not_known() -> None:
    with pytest.raises(ValueError, match=r"config has 'adress', 'bogus'; expected of type, address, "):
        Connection.init({"adress": IPC, "bogus": 1})
    Connection.init({"type": "threaded", "db": [], "groups": {}})
