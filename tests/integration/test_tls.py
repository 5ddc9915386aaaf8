"""TLS between the broker and PostgreSQL: whom the broker believes, who it is to the server, and real work over it."""

import asyncio
import contextlib
import os
import re
import selectors
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
import pytest
from brokers import Broker, poold
from encrypted import CANCEL_REQUEST, PASSWORD, SSL_REQUEST, EncryptedPostgres
from ledger import terminate
from postgres import server_folder
from proxy import Pair, Proxy
from waiting import wait_until

import client
from poold.config.model import EndpointConfig, GroupConfig
from poold.postgres import connect as connecting
from poold.postgres.libpq import EncryptedSocket

StartBroker = Callable[..., Broker]

# Where the server has to be fetched first.
pytestmark = pytest.mark.timeout(600)

IS_ENCRYPTED = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
GROUPS = {
    "default": {"max_size": 4},
    "transactions": {"autocommit": False, "max_size": 4},
    "lonely": {"autocommit": False, "max_size": 1},
    "impatient": {"max_size": 2, "queue_timeout": 0.3},
}
# What these tests are about; the server's certificate is for the name localhost, not for the address.
LOCALHOST, ADDRESS = {"host": "localhost"}, {"host": "127.0.0.1"}


@pytest.fixture(scope="module")
def server() -> Iterator[EncryptedPostgres]:
    with server_folder() as folder:
        made = EncryptedPostgres(folder)
        try:
            yield made
        finally:
            made.stop()


@pytest.fixture
def start(server: EncryptedPostgres, start_broker: StartBroker) -> Callable[..., Broker]:
    """A broker with one endpoint at the server; its settings are `EncryptedPostgres.endpoint`'s arguments."""
    return lambda **settings: start_broker(endpoints={"main": server.endpoint(**settings)}, groups=GROUPS)


@pytest.fixture
def broker(start: Callable[..., Broker]) -> Broker:
    """A broker that verifies everything."""
    return start(query_timeout=60)


def refusal(broker: Broker) -> str:
    """Why no backend can be opened, as the client is told; the broker's stats say the same on one line."""
    wait_until(lambda: broker.pool("impatient")["error"], 30, "the failed connect")
    with pytest.raises(client.DBOfflineError) as caught:
        broker.handler("impatient").query("SELECT 1")
    assert caught.value.outcome == "not executed"
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("no endpoint of group 'impatient' could be reached within")
    assert "main: " in text
    error = broker.pool("impatient")["error"]
    assert error
    assert error in text
    return text


# Whom the broker believes.


@pytest.mark.parametrize(
    ("settings", "is_encrypted"),
    [
        ({"sslmode": "disable", "user": "poold", "sslrootcert": None}, False),
        ({"sslmode": "prefer", "sslrootcert": None}, True),
        ({"sslmode": "require", "sslrootcert": None}, True),
        ({"sslmode": "verify-ca", **ADDRESS}, True),
        ({"sslmode": "verify-full", **LOCALHOST}, True),
    ],
)
def test_each_sslmode_connects_where_it_should(
    start: Callable[..., Broker], settings: dict[str, Any], is_encrypted: bool
) -> None:
    assert start(**settings).handler().query(IS_ENCRYPTED)[0].ssl is is_encrypted


def test_without_encryption_where_the_server_wants_it_the_servers_word_is_told(start: Callable[..., Broker]) -> None:
    assert 'pg_hba.conf rejects connection for host "127.0.0.1", user "encrypted"' in refusal(start(sslmode="disable"))


def test_verify_full_wants_the_name_in_the_certificate(start: Callable[..., Broker]) -> None:
    text = refusal(start(**ADDRESS))
    assert re.search('server certificate for "localhost".* does not match host name "127.0.0.1"', text)


@pytest.mark.parametrize("sslmode", ["verify-ca", "verify-full"])
def test_an_authority_that_is_not_trusted_is_refused(
    server: EncryptedPostgres, start: Callable[..., Broker], sslmode: str
) -> None:
    text = refusal(start(sslmode=sslmode, sslrootcert=str(server.stranger.certificate)))
    assert "certificate verify failed" in text


def test_poold_stats_shows_why_on_a_line(start: Callable[..., Broker]) -> None:
    broker = start(**ADDRESS)
    error = broker.pool("impatient")["error"] if refusal(broker) else ""
    shown = " ".join(poold("stats", f"--address={broker.address}").stdout.split())
    assert f"group impatient, endpoint main: {error}" in shown


def test_a_missing_authority_is_named(start: Callable[..., Broker]) -> None:
    assert "root certificate file" in refusal(start(sslrootcert=None))


@pytest.mark.parametrize("sslmode", ["verify-ca", "verify-full"])
def test_an_expired_certificate_is_refused_and_its_successor_taken(
    server: EncryptedPostgres, start: Callable[..., Broker], sslmode: str
) -> None:
    server.show(server.authority.sign("localhost", names=("localhost",), expired=True))
    try:
        broker = start(sslmode=sslmode)
        assert "certificate verify failed" in refusal(broker)
    finally:
        server.show(server.certificate)
    assert broker.handler().query(IS_ENCRYPTED)[0].ssl is True


def test_a_revoked_certificate_is_refused_and_another_on_the_list_is_not(
    server: EncryptedPostgres, start: Callable[..., Broker]
) -> None:
    other = server.authority.sign("localhost", names=("localhost",))
    good = start(sslcrl=str(server.authority.revoke(other)))
    assert good.handler().query(IS_ENCRYPTED)[0].ssl is True
    revoked = start(sslcrl=str(server.authority.revoke(other, server.certificate)))
    assert "certificate verify failed" in refusal(revoked)


# Who the broker is to the server.


def test_a_client_certificate_logs_in(server: EncryptedPostgres, start: Callable[..., Broker]) -> None:
    own = server.authority.sign("certified")
    broker = start(user="certified", sslcert=str(own.certificate), sslkey=str(own.key))
    row = broker.handler().query("SELECT current_user, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()")[0]
    assert row == ("certified", "/CN=certified")


@pytest.mark.parametrize(
    ("whose", "error"),
    [
        ("nobody's", "connection requires a valid client certificate"),
        ("another's", 'certificate authentication failed for user "certified"'),
        # The server ends the connection after its word, which does not always arrive.
        ("stranger's", "unknown ca|server closed the connection|reset by peer"),
    ],
)
def test_without_the_right_client_certificate_the_servers_word_is_told(
    server: EncryptedPostgres, start: Callable[..., Broker], whose: str, error: str
) -> None:
    settings = {}
    if whose != "nobody's":
        own = server.authority.sign("somebody") if whose == "another's" else server.stranger.sign("certified")
        settings = {"sslcert": str(own.certificate), "sslkey": str(own.key)}
    assert re.search(error, refusal(start(user="certified", **settings)))


def test_a_client_key_that_others_can_read_is_refused(server: EncryptedPostgres, start: Callable[..., Broker]) -> None:
    own = server.authority.sign("certified")
    own.key.chmod(0o644)
    text = refusal(start(user="certified", sslcert=str(own.certificate), sslkey=str(own.key)))
    assert "has group or world access" in text


@pytest.mark.parametrize("sslmode", ["disable", "verify-full"])
def test_scram_logs_in_with_the_right_password_and_tells_of_a_wrong_one_without_it(
    start: Callable[..., Broker], sslmode: str
) -> None:
    good = start(user="scrammed", password=PASSWORD, sslmode=sslmode)
    assert good.handler().query("SELECT current_user")[0] == ("scrammed",)
    wrong = start(user="scrammed", password="opensesame-wrong", sslmode=sslmode)
    text = refusal(wrong)
    assert 'password authentication failed for user "scrammed"' in text
    assert "opensesame" not in text + wrong.log() + str(wrong.stats())
    assert "no password supplied" in refusal(start(user="scrammed", sslmode=sslmode))


def test_channel_binding_can_be_required(start: Callable[..., Broker]) -> None:
    bound = start(user="scrammed", password=PASSWORD, channel_binding="require")
    assert bound.handler().query("SELECT current_user")[0] == ("scrammed",)
    plain = start(user="scrammed", password=PASSWORD, channel_binding="require", sslmode="disable")
    assert "channel binding required" in refusal(plain)
    trusted = start(user="encrypted", channel_binding="require")
    assert "channel binding required" in refusal(trusted)


# Work.


def test_large_parameters_and_results_pass_whole(broker: Broker) -> None:
    db = broker.handler()
    text = "".join(chr(33 + n % 90) for n in range(1_000_003)) * 7
    assert db.query("SELECT length(%s)", (text,), timeout=60)[0].length == len(text)
    assert db.query("SELECT %s::text AS t", (text,), timeout=60)[0].t == text
    rows = db.query("SELECT n, repeat('z', n % 200) AS z FROM generate_series(1, 100000) AS n", timeout=60).fetchall()
    assert [(row.n, len(row.z)) for row in rows] == [(n, n % 200) for n in range(1, 100_001)]


def test_results_of_every_size_around_a_record_pass_whole(broker: Broker) -> None:
    db = broker.handler()
    sizes = [*range(1, 300, 7), *range(8100, 8300, 3), *range(16300, 16500, 3), *range(65400, 65700, 7)]
    assert [len(db.query("SELECT repeat('x', %s)", (n,))[0][0]) for n in sizes] == sizes


@pytest.mark.parametrize("size", [100, 5000])
def test_what_openssl_holds_after_a_read_is_read_as_well(
    server: EncryptedPostgres, start_broker: StartBroker, size: int
) -> None:
    """No descriptor tells of it: the broker would wait for ever."""
    broker = start_broker(endpoints={"main": server.endpoint()}, start=False)
    broker.start(before=f"import poold.postgres.backends; poold.postgres.backends.RECEIVE_BYTES = {size}")
    db = broker.handler()
    sizes = [*range(1, 12_000, 371)]
    assert [len(db.query("SELECT repeat('x', %s)", (n,), timeout=10)[0][0]) for n in sizes] == sizes


def test_many_clients_share_encrypted_pipelines(server: EncryptedPostgres, start_broker: StartBroker) -> None:
    broker = start_broker(endpoints={"main": server.endpoint()}, groups={"default": {"max_size": 1}})

    def ask(number: int) -> list[int]:
        db = broker.handler()
        return [db.query("SELECT %s::int + 1", (number * 1000 + n,))[0][0] for n in range(150)]

    def have_shared() -> bool:
        with ThreadPoolExecutor(12) as threads:
            answers = list(threads.map(ask, range(12)))
        assert answers == [[number * 1000 + n + 1 for n in range(150)] for number in range(12)]
        return bool(broker.pool()["joined"])

    # A machine that is busy with other things may make the statement a long one for a while.
    wait_until(have_shared, 60, "statements to share the backend")


def test_transactions_in_messages_and_by_lease_run(broker: Broker, server: EncryptedPostgres) -> None:
    server.postgres.execute("CREATE TABLE ledger (tag text PRIMARY KEY); GRANT ALL ON ledger TO encrypted")
    try:
        with broker.handler().transaction() as tx:
            first = tx.query("INSERT INTO ledger VALUES (%s) RETURNING tag || 'x' AS more", ("a",), expect=1)
            with tx.savepoint() as attempt:
                tx.query("INSERT INTO ledger VALUES ('a')")
            tx.query("INSERT INTO ledger VALUES (%s)", (first["more"],))
        assert attempt.error is not None
        with broker.handler("transactions") as leased:
            leased.query("INSERT INTO ledger VALUES ('leased')")
        with pytest.raises(psycopg2.errors.UniqueViolation):
            broker.handler().run(["INSERT INTO ledger VALUES ('gone')", "INSERT INTO ledger VALUES ('a')"])
        found = server.postgres.execute("SELECT tag FROM ledger ORDER BY tag")
        assert [tag for (tag,) in found] == ["a", "ax", "leased"]
    finally:
        server.postgres.execute("DROP TABLE ledger")


class Watched(Proxy):
    """A proxy that keeps how each connection begins."""

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        self.openings: list[bytes] = []
        self._opened: set[socket.socket] = set()

    def _ready(self, pair: Pair, end: socket.socket, mask: int) -> None:
        broker = pair.ends[0]
        if end is broker and mask & selectors.EVENT_READ and broker not in self._opened:
            self._opened.add(broker)
            self.openings.append(broker.recv(8, socket.MSG_PEEK))
        super()._ready(pair, end, mask)


def test_a_cancel_is_encrypted_too_and_the_backend_lives_on(
    server: EncryptedPostgres, start: Callable[..., Broker]
) -> None:
    with Watched(server.postgres) as proxy:
        port = proxy.parameters["port"]
        broker = start(port=port, query_timeout=60)
        db = broker.handler("lonely")
        pid = db.query("SELECT pg_backend_pid()")[0][0]
        db.rollback()
        before = len(proxy.openings)
        with pytest.raises(psycopg2.errors.QueryCanceled):
            db.query("SELECT pg_sleep(60)", timeout=0.3)
        db.rollback()
        assert db.query("SELECT pg_backend_pid()")[0][0] == pid
        db.rollback()
        assert len(proxy.openings) > before, "the cancel has a connection of its own"
        assert set(proxy.openings) == {SSL_REQUEST}
        assert not any(CANCEL_REQUEST in each for each in proxy.openings)
        broker.stop()


def test_a_backend_that_ends_is_told_in_the_servers_words(broker: Broker, server: EncryptedPostgres) -> None:
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(broker.handler().query, "SELECT pg_sleep(600), 'to be ended'")
        asks = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%to be ended%' AND usename = 'encrypted'"
        wait_until(lambda: server.postgres.execute(asks), what="the statement")
        terminate(server.postgres, server.postgres.execute(asks)[0][0])
        error = asked.exception(20)
    assert isinstance(error, client.DBConnectionError)
    assert "terminating connection due to administrator command" in str(error)


def test_a_backend_that_dies_without_a_word_is_noticed(broker: Broker, server: EncryptedPostgres) -> None:
    db = broker.handler("transactions")
    pid = db.query("SELECT pg_backend_pid()")[0][0]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: broker.pool("transactions")["lost"] == 1, what="the loss")
    with pytest.raises(client.TransactionLost, match="the encrypted connection broke"):
        db.query("SELECT 1")
    db.rollback()
    wait_until(lambda: _answers(broker), 30, "the server's recovery")


def _answers(broker: Broker) -> bool:
    try:
        return bool(broker.handler().query(IS_ENCRYPTED)[0].ssl)
    except client.DBError:
        return False


def test_a_restarted_server_is_found_again(broker: Broker, server: EncryptedPostgres) -> None:
    db = broker.handler()
    assert db.query(IS_ENCRYPTED)[0].ssl is True
    server.postgres.restart()
    wait_until(lambda: _answers(broker), 30, "the server")
    assert [db.query("SELECT %s::int", (n,))[0][0] for n in range(20)] == list(range(20))


# Bugs.


def test_a_failed_handshake_elsewhere_breaks_no_other_encrypted_connection(
    server: EncryptedPostgres, start_broker: StartBroker
) -> None:
    endpoints = {
        "good": server.endpoint(),
        "bad": server.endpoint(sslrootcert=str(server.stranger.certificate)),
    }
    groups = {"default": {"endpoints": ["good"], "max_size": 1}, "failing": {"endpoints": ["bad"], "max_size": 4}}
    broker = start_broker(endpoints=endpoints, groups=groups)
    db = broker.handler()
    failed = broker.pool("failing", "bad")["failed"]
    answered = 0

    def work() -> bool:
        nonlocal answered
        for _ in range(20):
            answered += db.query("SELECT 1")[0][0]
        return bool(broker.pool("failing", "bad")["failed"] >= failed + 5)

    wait_until(work, 30, "five failed handshakes")
    assert answered >= 20
    assert (broker.pool(endpoint="good")["lost"], broker.pool(endpoint="good")["opened"]) == (0, 1)


async def _opened(settings: dict[str, Any]) -> Any:
    connection, _ = await connecting.connect(EndpointConfig(**settings), GroupConfig())
    return connection


def test_what_a_failed_handshake_leaves_behind_is_not_taken_for_this_connections_end(
    server: EncryptedPostgres,
) -> None:
    async def run() -> None:
        connection = await _opened(server.endpoint())
        bad = server.endpoint(sslrootcert=str(server.stranger.certificate))
        encrypted = EncryptedSocket(connection)
        for use in (lambda: encrypted.recv(65536), lambda: encrypted.send(b"")):
            with pytest.raises(psycopg2.OperationalError, match="certificate verify failed"):
                await _opened(bad)
            try:
                use()
            except BlockingIOError:
                pass  # there is nothing to read
        connection.close()

    asyncio.run(run())


def test_of_a_message_that_does_not_fit_what_was_sent_is_told(server: EncryptedPostgres) -> None:
    """Else a statement that the server has got, and may have run, would count as not executed."""
    text = b"SELECT length('" + b"x" * 30_000_000 + b"')\0"
    data = b"Q" + (len(text) + 4).to_bytes(4, "big") + text

    async def run() -> None:
        connection = await _opened(server.endpoint())
        encrypted = EncryptedSocket(connection)
        pid = connection.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            sent = encrypted.send(data)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert 0 < sent < len(data)
        answer = b""

        def go_on() -> bool:
            nonlocal sent, answer
            with contextlib.suppress(BlockingIOError):
                sent += encrypted.send(data[sent:]) if sent < len(data) else 0
            with contextlib.suppress(BlockingIOError):
                answer += encrypted.recv(65536)
            return answer.endswith(b"Z\0\0\0\x05I")

        wait_until(go_on, 60, "the answer")
        assert b"30000000" in answer
        connection.close()

    asyncio.run(run())
