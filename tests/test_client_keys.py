"""The keys of the broker section: what is reported, and who may connect after a change. And libzmq's questions."""

import logging
import shutil
import sys
from pathlib import Path

import pytest
import zmq
from keypairs import Keyring
from zmq.utils import z85

from client.wire.keyfiles import read_public, read_secret
from poold.clients import curve_auth
from poold.config.client_keys import ClientKeys, key_problems
from poold.config.file import ConfigError, at_address, describe, parse
from poold.operations.keygen import make_pair

TABLES = {"endpoints": {"main": {"host": "h", "dbname": "d", "user": "u"}}, "groups": {"default": {}}}


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path)


def problems(**broker: str) -> str:
    """What parsing says about this broker section, on one line; empty where it is good."""
    try:
        parse({**TABLES, "broker": broker}, "poold.toml")
    except ConfigError as error:
        return " | ".join(error.problems)
    return ""


def test_good_keys_are_taken_and_shown_as_paths(keyring: Keyring) -> None:
    described = describe(parse({**TABLES, "broker": keyring.broker}, "poold.toml"))["broker"]
    assert described["key_file"] == str(keyring.broker_secret)
    assert described["client_keys"] == str(keyring.clients)
    assert problems(**{**keyring.broker, "address": "tcp://0.0.0.0:1"}) == ""
    assert problems(**{**keyring.broker, "client_keys": str(keyring.client_public)}) == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "*", "[::]", "db.example.com"])
def test_an_address_of_the_network_without_keys_is_a_problem_that_says_what_to_do(host: str) -> None:
    assert "poold keygen" in problems(address=f"tcp://{host}:1")
    assert "key_file and client_keys" in problems(address=f"tcp://{host}:1")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert problems(address=f"tcp://{host}:1") == ""


def test_keys_for_an_ipc_address_are_a_problem(keyring: Keyring) -> None:
    assert "key_file and client_keys: found at address" in problems(**{**keyring.broker, "address": "ipc:///tmp/s"})
    with pytest.raises(ValueError, match="expected keys with tcp:// only"):
        at_address(parse({**TABLES, "broker": keyring.broker}, "poold.toml"), "ipc:///tmp/s")


def test_an_address_from_elsewhere_is_held_against_the_keys_as_well(keyring: Keyring) -> None:
    with_keys = parse({**TABLES, "broker": keyring.broker}, "poold.toml")
    assert at_address(with_keys, "tcp://0.0.0.0:1").broker.address == "tcp://0.0.0.0:1"
    with pytest.raises(ValueError, match="poold keygen"):
        at_address(parse(TABLES, "poold.toml"), "tcp://0.0.0.0:1")


@pytest.mark.parametrize(("missing", "other"), [("key_file", "client_keys"), ("client_keys", "key_file")])
def test_one_key_alone_is_a_problem(keyring: Keyring, missing: str, other: str) -> None:
    section = {key: value for key, value in keyring.broker.items() if key != missing}
    assert f"[broker] {missing}: missing, expected beside {other}" in problems(**section)


def test_every_problem_of_the_files_is_reported(keyring: Keyring) -> None:
    keyring.broker_secret.chmod(0o644)
    (keyring.clients / "bad.key").write_text("nothing")
    shutil.copy(keyring.stranger_secret, keyring.clients / "worse.key")
    found = problems(**keyring.broker)
    assert "key_file: key file" in found
    assert "mode 0644" in found
    assert "bad.key" in found
    assert "worse.key' holds a secret key" in found


def test_a_folder_without_clients_or_that_is_not_there_is_a_problem(keyring: Keyring) -> None:
    (keyring.clients / "client.key").unlink()
    (keyring.clients / "client.pub").write_text("not looked at")
    assert "without a file *.key" in problems(**keyring.broker)
    assert "No such file" in problems(**{**keyring.broker, "client_keys": "/nowhere"})
    assert "No such file" in problems(**{**keyring.broker, "key_file": "/nowhere"})


def test_what_is_right_is_no_problem(keyring: Keyring) -> None:
    assert key_problems(keyring.address, str(keyring.broker_secret), str(keyring.clients)) == []


def test_a_key_in_two_files_is_a_problem(keyring: Keyring) -> None:
    shutil.copy(keyring.client_public, keyring.clients / "zebra.key")
    assert "zebra.key' has the key of client.key, expected one of its own" in problems(**keyring.broker)


def test_keys_that_everybody_can_add_or_change_are_a_problem(keyring: Keyring) -> None:
    keyring.clients.chmod(0o777)
    (keyring.clients / "client.key").chmod(0o666)
    found = problems(**keyring.broker)
    assert f"client_keys: '{keyring.clients}' has mode 0777, so everybody can admit a client" in found
    assert "client.key' has mode 0666, so everybody can admit a client" in found


def user_problems(broker: dict[str, str], *users: str) -> str:
    """What parsing says about these users of a group."""
    try:
        parse({**TABLES, "broker": broker, "groups": {"default": {"allow_users": list(users)}}}, "poold.toml")
    except ConfigError as error:
        return " | ".join(error.problems)
    return ""


def test_a_groups_users_are_keys_where_the_broker_has_keys(keyring: Keyring) -> None:
    assert user_problems(keyring.broker, "key:client") == ""
    assert user_problems(keyring.broker, "key:client", "root") == ""
    assert "has no key in guest.key, expected one of client" in user_problems(keyring.broker, "key:guest")
    assert "so nobody could use the group" in user_problems(keyring.broker, "root")
    assert "found 'key:client' without client_keys" in user_problems({}, "key:client")


# Who may connect


def test_a_change_of_the_folder_counts_for_the_next_question(keyring: Keyring) -> None:
    clients = ClientKeys(str(keyring.clients))
    known, stranger = read_public(keyring.client_public), read_public(keyring.stranger_public)
    assert (clients.name_of(known), clients.name_of(stranger)) == ("client", None)
    keyring.admit(keyring.stranger_public)
    assert clients.name_of(stranger) == "stranger"
    (keyring.clients / "client.key").unlink()
    assert (clients.name_of(known), clients.name_of(stranger)) == (None, "stranger")
    shutil.rmtree(keyring.clients)
    assert clients.name_of(stranger) is None


def test_a_bad_file_is_passed_over_and_logged(keyring: Keyring, caplog: pytest.LogCaptureFixture) -> None:
    clients = ClientKeys(str(keyring.clients))
    (keyring.clients / "bad.key").write_text("nothing")
    assert clients.name_of(read_public(keyring.client_public)) == "client"
    assert "client key ignored" in caplog.text
    assert "bad.key" in caplog.text


# libzmq's questions


class Questions:
    """Asks as libzmq does."""

    def __init__(self, keyring: Keyring) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.handler = curve_auth.ZapHandler(self.context, ClientKeys(str(keyring.clients)))
        self._asking = self.context.socket(zmq.REQ)
        self._asking.connect(curve_auth.ENDPOINT)

    def ask(self, public: Path, domain: bytes = curve_auth.DOMAIN, mechanism: bytes = b"CURVE", cut: int = 32) -> bytes:
        """The status of the answer."""
        key = z85.decode(read_public(public))[:cut]
        self._asking.send_multipart([b"1.0", b"7", domain, b"10.0.0.9", b"", mechanism, key])
        assert self.handler.socket.poll(10_000)
        self.handler.answer()
        version, number, status, *_ = self._asking.recv_multipart()
        assert (version, number) == (b"1.0", b"7")
        return status

    def close(self) -> None:
        self._asking.close(linger=0)
        self.handler.socket.close(linger=0)
        self.context.term()


@pytest.fixture
def questions(keyring: Keyring) -> object:
    asking = Questions(keyring)
    yield asking
    asking.close()


def test_only_a_listed_key_in_our_domain_by_curve_is_allowed(questions: Questions, keyring: Keyring) -> None:
    assert questions.ask(keyring.client_public) == b"200"
    assert questions.ask(keyring.stranger_public) == b"400"
    assert questions.ask(keyring.client_public, domain=b"other") == b"400"
    assert questions.ask(keyring.client_public, mechanism=b"PLAIN") == b"400"
    assert questions.ask(keyring.client_public, cut=31) == b"400"


def test_refusals_are_counted_all_and_logged_one_an_interval(
    questions: Questions, keyring: Keyring, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(curve_auth, "monotonic", lambda: now)
    caplog.set_level(logging.WARNING)
    for _ in range(5):
        questions.ask(keyring.stranger_public)
    now += curve_auth.LOG_INTERVAL
    questions.ask(keyring.stranger_public)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split()[-3] for line in lines] == ["count=1", "count=6"]
    assert all(f"key={read_public(keyring.stranger_public)} address=10.0.0.9" in line for line in lines)


def test_without_anybody_who_answers_nobody_is_let_in(keyring: Keyring) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
        public = curve_auth.ask_for_keys(router, read_secret(keyring.broker_secret))
        monitor = router.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
        dealer.linger = 0
        dealer.curve_serverkey = public
        dealer.curve_publickey, dealer.curve_secretkey = zmq.curve_keypair()
        router.bind("tcp://127.0.0.1:*")
        dealer.connect(router.getsockopt_string(zmq.LAST_ENDPOINT))
        event = int.from_bytes(monitor.recv_multipart()[0][:2], sys.byteorder)
        router.disable_monitor()
        monitor.close()
    assert event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


def test_a_pair_has_the_name_it_was_given(tmp_path: Path) -> None:
    assert [file.name for file in make_pair(tmp_path / "a.b")] == ["a.b.key_secret", "a.b.key"]
