"""tcp:// with keys, through a real broker: who gets in, what it can do there, and what everybody else is told."""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zmq
from brokers import Broker, poold, run, run_worker
from keypairs import Keyring
from postgres import free_port
from waiting import wait_until

from client import DBConnectionError, Handler, UnconfiguredGroupError, UsageError
from client.channels.registry import broker_keys
from poold.operations.keygen import make_pair

StartBroker = Callable[..., Broker]


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path)


@pytest.fixture
def guarded(start_broker: StartBroker, keyring: Keyring) -> Broker:
    """A broker with keys on 127.0.0.1."""
    return start_broker(broker=keyring.broker)


@pytest.fixture
def handler(guarded: Broker, keyring: Keyring) -> Callable[..., Handler]:
    """Makes Handlers with the listed client's keys, or others."""
    return lambda group="default", **more: guarded.handler(group, **{**keyring.client, **more})


def open_transactions(db: Handler, last: str) -> int:
    """How many there are in PostgreSQL whose last statement was this."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND query = %s"
    return int(db.query(asked, (last,))[0].count)


# Who has a listed key


def test_a_group_for_named_keys_is_there_for_them_only(start_broker: StartBroker, keyring: Keyring) -> None:
    keyring.admit(keyring.stranger_public)
    groups = {"default": {}, "secrets": {"allow_users": ["key:client"]}}
    broker = start_broker(broker=keyring.broker, groups=groups)
    assert broker.handler("secrets", **keyring.client).query("SELECT 1").fetchone() == (1,)
    other = {**keyring.client, "key": str(keyring.stranger_secret)}
    assert broker.handler(**other).query("SELECT 1").fetchone() == (1,)
    with pytest.raises(UnconfiguredGroupError, match="no group 'secrets' for this client; it has default"):
        broker.handler("secrets", **other).query("SELECT 1")


def test_statements_and_transactions_run_as_without_keys(handler: Callable[..., Handler]) -> None:
    db = handler()
    assert db.query("SELECT %s::int + 1 AS n", (41,)).fetchone() == (42,)
    with db.transaction() as tx:
        first = tx.query("SELECT 7 AS n")
        second = tx.query("SELECT %s::int * 2", (first["n"],))
    assert second.fetchone() == (14,)
    with handler("transactions") as leased:
        own = leased.query("SELECT pg_backend_pid()").fetchone()
        assert leased.query("SELECT pg_backend_pid()").fetchone() == own


def test_large_requests_and_results_pass(handler: Callable[..., Handler]) -> None:
    text = "x" * 5_000_000
    assert handler().query("SELECT %s::text || 'y'", (text,)).fetchone() == (text + "y",)
    rows = handler().query("SELECT n, repeat('z', 100) FROM generate_series(1, 50000) AS n").fetchall()
    assert len(rows) == 50_000
    assert rows[-1][0] == 50_000


def test_each_thread_has_its_own_connection(guarded: Broker, handler: Callable[..., Handler]) -> None:
    db = handler()
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda n: db.query("SELECT %s::int", (n,)).fetchone()[0], range(200))) == [*range(200)]
    assert db.query("SELECT 1").fetchone() == (1,)


def test_a_broker_that_was_restarted_is_found_again(guarded: Broker, handler: Callable[..., Handler]) -> None:
    db = handler()
    assert db.query("SELECT 1").fetchone() == (1,)
    guarded.kill()
    with pytest.raises(DBConnectionError):
        db.query("SELECT 2")
    guarded.start()
    assert db.query("SELECT 3").fetchone() == (3,)


def test_a_broker_that_dies_during_a_statement_is_noticed(guarded: Broker, handler: Callable[..., Handler]) -> None:
    db = handler()
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(db.query, "SELECT pg_sleep(600)")
        watcher = handler()
        wait_until(
            lambda: watcher.query("SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)'").fetchone(),
            what="the statement",
        )
        guarded.kill()
        with pytest.raises(DBConnectionError) as caught:
            future.result()
    assert caught.value.outcome == "unknown"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silences that a channel bears are short."""
    for module in ("client.channels.timeouts", "client.channels.sockets", "client.channels.channel"):
        monkeypatch.setattr(f"{module}.PING_AFTER", 0.5, raising=False)
        monkeypatch.setattr(f"{module}.GONE_AFTER", 3.0)


@pytest.mark.usefixtures("impatient")
def test_a_broker_that_hangs_is_given_up_and_one_that_waits_is_not(
    guarded: Broker, handler: Callable[..., Handler]
) -> None:
    db = handler()
    assert db.query("SELECT 1 FROM pg_sleep(4)").fetchone() == (1,)
    guarded.signal(signal.SIGSTOP)
    with pytest.raises(DBConnectionError, match="went away before it answered"):
        db.query("SELECT 1")


def test_a_worker_that_is_killed_inside_a_transaction_leaves_nothing(
    guarded: Broker, handler: Callable[..., Handler], keyring: Keyring, start_worker: Any
) -> None:
    program = """
from client import Handler
db = Handler("transactions")
db.query("SELECT 4711")
tell("open")
sys.stdin.readline()
"""
    worker = start_worker(program, address=guarded.address, **keyring.environment)
    assert worker.hear() == "open"
    db = handler()
    assert open_transactions(db, "SELECT 4711") == 1
    worker.kill()
    wait_until(lambda: open_transactions(db, "SELECT 4711") == 0, what="the rollback")


def test_a_handler_made_before_a_fork_works_in_the_child_and_in_the_parent_and_nobody_is_warned(
    guarded: Broker, keyring: Keyring, start_worker: Any
) -> None:
    program = """
from client import Handler
db = Handler()
assert db.query("SELECT 1").fetchone() == (1,)
reading, writing = os.pipe()
for number in range(3):
    if os.fork() == 0:
        own = db.query("SELECT %s::int", (number,)).fetchone()[0]
        again = db.query("SELECT 100").fetchone()[0]
        os.write(writing, f"{own + again}\\n".encode())
        sys.exit(0)
    assert db.query("SELECT 2").fetchone() == (2,)
codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(3)]
os.close(writing)
with os.fdopen(reading) as pipe:
    tell([codes, sorted(map(int, pipe))])
"""
    worker = start_worker(program, address=guarded.address, **keyring.environment)
    told, errors = worker.process.communicate(timeout=60)
    assert (json.loads(told), errors) == ([[0, 0, 0], [100, 101, 102]], "")


def test_nobody_waits_for_a_connection_whose_context_is_deleted_as_at_the_end_of_a_program(start_worker: Any) -> None:
    program = """
import gc, zmq
from client.channels import curve
context = curve._own_context()
connection = context.socket(zmq.DEALER, socket_class=curve._Socket)
connection.connect("tcp://127.0.0.1:1")
curve._context = None
del connection
del context
gc.collect()
tell("deleted")
"""
    worker = start_worker(program)
    told, errors = worker.process.communicate(timeout=60)
    assert (json.loads(told), errors) == ("deleted", "")


def test_the_broker_sees_a_parent_die_whose_child_lives(
    guarded: Broker, handler: Callable[..., Handler], keyring: Keyring, start_worker: Any
) -> None:
    program = """
from client import Handler
db = Handler("transactions")
db.query("SELECT 4712")
child = os.fork()
if child == 0:
    os.close(1)
    os.close(2)
    time.sleep(3600)
tell(child)
sys.stdin.readline()
os.kill(os.getpid(), 9)
"""
    worker = start_worker(program, address=guarded.address, **keyring.environment)
    child = worker.hear()
    try:
        db = handler()
        assert open_transactions(db, "SELECT 4712") == 1
        worker.say()
        wait_until(lambda: open_transactions(db, "SELECT 4712") == 0, what="the rollback")
        os.kill(child, 0)  # it is still there
    finally:
        os.kill(child, signal.SIGKILL)


def test_the_command_line_takes_the_keys_from_the_environment(guarded: Broker, keyring: Keyring) -> None:
    answer = poold("ping", f"--address={guarded.address}", **keyring.environment)
    assert (answer.returncode, answer.stderr) == (0, "")
    refused = poold("ping", f"--address={guarded.address}")
    assert refused.returncode == 3
    assert "give server_key and key" in refused.stderr
    half = poold("ping", f"--address={guarded.address}", POOLD_KEY=str(keyring.client_secret))
    assert half.returncode == 2
    assert "POOLD_SERVER_KEY" in half.stderr


def test_what_keygen_writes_is_used_as_it_says(start_broker: StartBroker, tmp_path: Path) -> None:
    for name in ("broker", "worker"):
        made = poold("keygen", str(tmp_path / name))
        assert (made.returncode, made.stderr) == (0, "")
        assert f'key_file = "{tmp_path}/{name}.key_secret"' in made.stdout
        assert f"POOLD_KEY={tmp_path}/{name}.key_secret" in made.stdout
    address = f"tcp://127.0.0.1:{free_port()}"
    section = {"address": address, "key_file": f"{tmp_path}/broker.key_secret", "client_keys": f"{tmp_path}/worker.key"}
    broker = start_broker(broker=section)
    keys = {"POOLD_SERVER_KEY": f"{tmp_path}/broker.key", "POOLD_KEY": f"{tmp_path}/worker.key_secret"}
    program = "from client import Handler\ntell(list(Handler().query('SELECT 5').fetchone()))"
    assert run_worker(program, address=broker.address, **keys) == [5]


# Who has none


def test_a_key_that_is_not_listed_is_refused_by_name(
    guarded: Broker, handler: Callable[..., Handler], keyring: Keyring
) -> None:
    with pytest.raises(DBConnectionError, match="refused this client's key") as caught:
        handler(key=keyring.stranger_secret).query("SELECT 1")
    assert caught.value.outcome == "not executed"
    public = keyring.stranger_public.read_text().rpartition("public-key = ")[2].strip().strip('"')
    wait_until(lambda: public in guarded.log(), what="the line in the log")
    assert "client refused" in guarded.log()


def test_a_key_counts_from_the_next_connection_on_after_it_was_added_and_not_after_it_was_removed(
    handler: Callable[..., Handler], keyring: Keyring
) -> None:
    with pytest.raises(DBConnectionError, match="refused"):
        handler(key=keyring.stranger_secret).query("SELECT 1")
    keyring.admit(keyring.stranger_public)
    assert handler(key=keyring.stranger_secret).query("SELECT 1").fetchone() == (1,)
    (keyring.clients / keyring.client_public.name).unlink()
    with pytest.raises(DBConnectionError, match="refused"):
        handler().query("SELECT 1")


def test_a_wrong_server_key_is_an_error_that_says_so(handler: Callable[..., Handler], keyring: Keyring) -> None:
    with pytest.raises(DBConnectionError, match="the server key is not this broker's"):
        handler(server_key=keyring.stranger_public).query("SELECT 1")


def test_a_client_without_keys_is_told_to_have_some(guarded: Broker) -> None:
    with pytest.raises(DBConnectionError, match="a broker with keys does so: give server_key and key"):
        guarded.handler().query("SELECT 1")


def test_a_client_with_keys_at_a_broker_without_is_told_what_may_be_wrong(
    start_broker: StartBroker, keyring: Keyring
) -> None:
    broker = start_broker(broker={"address": keyring.address})
    with pytest.raises(DBConnectionError, match="or it has no keys"):
        broker.handler(**keyring.client).query("SELECT 1")
    assert broker.handler().query("SELECT 1").fetchone() == (1,)


def test_where_nobody_listens_the_error_is_the_same_as_without_keys(keyring: Keyring) -> None:
    with pytest.raises(DBConnectionError, match="no poold broker answers at"):
        Handler(address=keyring.address, **keyring.client).query("SELECT 1")


def test_a_name_that_does_not_exist_is_an_error_with_its_reason(keyring: Keyring) -> None:
    with pytest.raises(DBConnectionError, match=r"no poold broker answers at tcp://nowhere\.invalid:1 \("):
        Handler(address="tcp://nowhere.invalid:1", **keyring.client).query("SELECT 1")


def test_libzmq_with_a_random_key_gets_no_message_through(guarded: Broker, keyring: Keyring) -> None:
    public = keyring.broker_public.read_text().rpartition("public-key = ")[2].strip().strip('"').encode()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.curve_serverkey = public
        dealer.curve_publickey, dealer.curve_secretkey = zmq.curve_keypair()
        monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        dealer.connect(guarded.address)
        event = int.from_bytes(monitor.recv_multipart()[0][:2], sys.byteorder)
        assert event == zmq.EVENT_HANDSHAKE_FAILED_AUTH
        dealer.disable_monitor()
        monitor.close()


def test_a_listener_that_says_nothing_is_given_up(keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.channels.timeouts.WELCOME_TIMEOUT", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", int(keyring.address.rpartition(":")[2])))
        listener.listen()
        with pytest.raises(DBConnectionError, match="did not answer the handshake"):
            Handler(address=keyring.address, **keyring.client).query("SELECT 1")


def test_a_libzmq_without_curve_is_an_error_that_says_so(keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "has", lambda what: False)
    with pytest.raises(UsageError, match="without CURVE"):
        Handler(address=keyring.address, **keyring.client).query("SELECT 1")


FIRST_CALL = """
import random, signal, sys

import client

class Limit(Exception):
    pass

def on_alarm(*_):
    raise Limit

chance = random.Random(int(sys.argv[2]))
signal.signal(signal.SIGALRM, on_alarm)
try:
    signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.001, 0.06))
    db = client.Handler(address=sys.argv[1])
    db.query("SELECT 1")
except Limit:
    pass
finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
assert client.Handler(address=sys.argv[1]).query("SELECT 1").fetchone() == (1,)
"""


@pytest.mark.parametrize("seed", range(12))
def test_an_exception_in_the_middle_of_the_first_call_spoils_no_later_one(
    guarded: Broker, keyring: Keyring, seed: int
) -> None:
    done = run(sys.executable, "-c", FIRST_CALL, guarded.address, str(seed), **keyring.environment)
    assert (done.returncode, done.stderr) == (0, "")


# A broker that must not start


OPEN = """
import sys
from poold.config import client_keys as clientkeys
clientkeys.ClientKeys.name_of = lambda self, key: "anybody"
from poold.operations.cli import main
main(sys.argv[1:])
"""
NO_ANSWER = """
import sys
from poold.clients import curve_auth
curve_auth.PROBE_TIMEOUT = 0.2
curve_auth.ZapHandler.answer = lambda self: None
from poold.operations.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("program", "words"), [(OPEN, "was let in"), (NO_ANSWER, "could not find out")], ids=["open", "no answer"]
)
def test_a_broker_whose_door_is_not_seen_to_be_closed_does_not_start(
    start_broker: StartBroker, keyring: Keyring, program: str, words: str
) -> None:
    broker = start_broker(broker=keyring.broker, start=False)
    started = run(sys.executable, "-c", program, "start", f"--config={broker.config}")
    assert started.returncode == 1
    assert words in started.stderr
    assert "Traceback" not in started.stderr
    assert "ready" not in started.stdout


def test_an_address_of_the_network_wants_keys_also_where_it_comes_from_the_command_line(
    start_broker: StartBroker, keyring: Keyring
) -> None:
    broker = start_broker(start=False)
    started = poold("start", f"--config={broker.config}", "--address=tcp://0.0.0.0:1")
    assert started.returncode == 1
    assert "poold keygen" in started.stderr


def test_with_keys_a_broker_serves_the_network(start_broker: StartBroker, keyring: Keyring) -> None:
    port = free_port()
    start_broker(broker={**keyring.broker, "address": f"tcp://0.0.0.0:{port}"})
    db = Handler(address=f"tcp://127.0.0.1:{port}", **keyring.client)
    assert db.query("SELECT 1").fetchone() == (1,)


def test_no_secret_is_ever_logged(guarded: Broker, handler: Callable[..., Handler], keyring: Keyring) -> None:
    assert handler().query("SELECT 1").fetchone() == (1,)
    with pytest.raises(DBConnectionError):
        handler(key=keyring.stranger_secret).query("SELECT 1")
    wait_until(lambda: "client refused" in guarded.log(), what="the line in the log")
    for file in (keyring.broker_secret, keyring.client_secret, keyring.stranger_secret):
        secret = file.read_text().rpartition("secret-key = ")[2].strip().strip('"')
        assert len(secret) == 40
        assert secret not in guarded.log()
    assert secret not in repr(broker_keys(guarded.address, keyring.broker_public, keyring.stranger_secret))


def test_a_pair_made_twice_is_refused(tmp_path: Path) -> None:
    make_pair(tmp_path / "one")
    again = poold("keygen", str(tmp_path / "one"))
    assert again.returncode == 1
    assert f"{tmp_path}/one.key_secret is there already" in again.stderr
