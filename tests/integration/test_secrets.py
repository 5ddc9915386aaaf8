"""Passwords, parameters and statements stay where they belong: they are in no log, stats, error or list of processes.

An error that PostgreSQL itself sends to the client whose statement it was may quote it: the client knows it.
"""

import os
from collections.abc import Callable
from pathlib import Path

import msgpack
import psycopg2
import pytest
import zmq
from brokers import Broker, Worker, poold
from gates import gate
from ledger import terminate
from postgres import Factory, Postgres, PrivatePostgres
from waiting import wait_until

import client
from client.wire.codec import encode
from client.wire.messages import VERSION, Ask, Hello, Query

StartBroker = Callable[..., Broker]

# Each is recognised by its first word, wherever it ends up.
SECRET = "opensesame"
PASSWORD, WRONG_PASSWORD, FILE_PASSWORD = f"{SECRET}-password", f"{SECRET}-wrong", f"{SECRET}-in-a-file"
VALUE, LITERAL = f"{SECRET}-value", f"{SECRET}-literal"
TABLES = """
CREATE TABLE vault (word text PRIMARY KEY);
CREATE FUNCTION wait_for(gate int, word text) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN EXECUTE format('SELECT pg_advisory_xact_lock_shared(%s), %L', gate, word); RETURN word; END $$;
CREATE ROLE keeper LOGIN PASSWORD '{password}'; CREATE ROLE filer LOGIN PASSWORD '{file_password}';
GRANT ALL ON vault TO keeper, filer; ALTER TABLE vault OWNER TO keeper
"""


@pytest.fixture
def server(fresh_postgres: Factory) -> Postgres:
    """A server that wants passwords over TCP."""
    made = fresh_postgres()
    if not isinstance(made, PrivatePostgres):
        pytest.skip("a container's pg_hba.conf is out of reach")
    made.execute(TABLES.format(password=PASSWORD, file_password=FILE_PASSWORD))
    rules = made.server.cluster / "pg_hba.conf"
    rules.write_text("host all keeper,filer 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
    made.execute("SELECT pg_reload_conf()")
    return made


@pytest.fixture
def broker(server: Postgres, start_broker: StartBroker, tmp_path: Path) -> Broker:
    """A broker that logs everything; its endpoints have their passwords in every way, and one a wrong password."""
    here = {**server.parameters, "host": "127.0.0.1", "query_timeout": 60}
    (tmp_path / "password").write_text(FILE_PASSWORD + "\n")
    endpoints = {
        "main": {**here, "user": "keeper", "password": PASSWORD},
        "filed": {**here, "user": "filer", "password_file": str(tmp_path / "password")},
        "wrong": {**here, "user": "keeper", "password": WRONG_PASSWORD},
    }
    groups = {
        "default": {"endpoints": ["main"], "max_size": 2},
        "filed": {"endpoints": ["filed"], "track_outcome": True},
        "leased": {"endpoints": ["main"], "autocommit": False},
        "wrong": {"endpoints": ["wrong"], "queue_timeout": 0.3},
    }
    return start_broker(endpoints=endpoints, groups=groups, start=False).start("--verbose")


def all_lanes(broker: Broker) -> None:
    """Values as literals, prepared, in a transaction message and in a lease."""
    db, leased = broker.handler(tag="a tag"), broker.handler("leased")
    for prepare in (False, True):
        for _ in range(12):
            assert db.query("SELECT %s::text AS x", (VALUE,), prepare=prepare)[0][0] == VALUE
    db.query(f"SELECT '{LITERAL}'; SELECT '{LITERAL}'")
    with broker.handler("filed").transaction() as tx:
        first = tx.query("INSERT INTO vault VALUES (%s) RETURNING word", (VALUE,))
        with tx.savepoint() as attempt:
            tx.query("INSERT INTO vault VALUES (%s)", (first["word"],))
    assert VALUE in str(attempt.error), "PostgreSQL tells its own client"
    leased.query("SELECT %s::text", (VALUE,))
    leased.rollback()


def failures(broker: Broker) -> None:
    """Errors of each kind that PostgreSQL has for a value, and a notice."""
    db = broker.handler()
    for statement, values in (
        ("SELECT %s::int", (VALUE,)),
        ("INSERT INTO vault VALUES (%s)", (VALUE,)),
        (f"SELECT '{LITERAL}'::int", None),
        (f"SELEC '{LITERAL}'", None),
        (f"DO $$ BEGIN RAISE EXCEPTION '{LITERAL}' USING DETAIL = '{LITERAL}'; END $$", None),
        ("SELECT pg_sleep(30), %s", (VALUE,)),
    ):
        with pytest.raises(psycopg2.Error):
            db.query(statement, values, timeout=0.3 if "sleep" in statement else None)
    db.query(f"DO $$ BEGIN RAISE WARNING '{LITERAL}'; END $$")
    assert LITERAL in db.notices[-1]
    with pytest.raises(client.DBError):
        db.query("COPY vault FROM STDIN")
    with pytest.raises(client.DBOfflineError) as caught:
        broker.handler("wrong").query("SELECT %s", (VALUE,))
    assert 'password authentication failed for user "keeper"' in str(caught.value)
    assert SECRET not in str(caught.value)


def violations(broker: Broker) -> None:
    """Messages that are none of the protocol, with values in every place."""
    hello = Hello(VERSION, 1, "stranger", "0")
    query = Query(1, "default", 0, False, f"SELECT '{LITERAL}'".encode(), b"", b"", True, None, "")
    word = VALUE.encode()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(broker.address)
        for frame in (
            encode(query),  # before Hello
            encode(hello),
            encode(query._replace(types=word * 4)),
            encode(query._replace(statement=b"SELECT \0", types=bytes(4), values=word)),
            encode(query._replace(group=VALUE * 50)),
            encode(Ask(2, VALUE)),
            msgpack.packb([2, VALUE, VALUE]),
            msgpack.packb([VALUE]),
            word,
        ):
            dealer.send(frame)
            assert dealer.poll(10_000)
            dealer.recv()


def losses(broker: Broker, server: Postgres) -> None:
    """Connections that end while a function with a value runs, with PostgreSQL's word and without."""
    for group in ("default", "leased"):
        with gate(server) as closed:
            program = f"""
import client
try:
    client.Handler("{group}").query("SELECT wait_for({closed.key}, %s)", ("{VALUE}",))
except client.DBError as error:
    tell(str(error))
"""

            worker = Worker(program, address=broker.address)
            try:
                (pid,) = closed.arrived()
                terminate(server, pid)
                assert "terminating connection" in worker.hear()
            finally:
                worker.close()


def clients_that_die(broker: Broker, server: Postgres) -> None:
    """A client that is killed while its statement runs."""

    with gate(server) as closed:
        query = f"import client; client.Handler().query('SELECT wait_for({closed.key}, %s)', ('{VALUE}',))"
        worker = Worker(query, address=broker.address)
        try:
            closed.arrived()
            worker.kill()
            wait_until(lambda: not closed.waiting(), what="the cancel")
        finally:
            worker.close()


def processes(pid: int) -> list[int]:
    """The process and its children."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def test_no_secret_is_in_log_stats_output_or_list_of_processes(broker: Broker, server: Postgres) -> None:
    all_lanes(broker)
    failures(broker)
    violations(broker)
    losses(broker, server)
    clients_that_die(broker, server)
    address = f"--address={broker.address}"
    outputs = [poold(*words) for words in (
        ("stats", address), ("stats", "--json", address), ("ping", "--json", address),
        ("check-config", str(broker.config)), ("check-config", "--json", str(broker.config)),
    )]  # fmt: skip
    assert [each.returncode for each in outputs] == [0] * len(outputs)
    said = "".join(each.stdout + each.stderr for each in outputs)
    said += "".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in processes(broker.pid))
    broker.stop()
    for event in ("backend opened", "backend closed", "connect failed", "protocol violation", "password exposed"):
        assert event in broker.log(), "the test did not go where it was meant to"
    assert SECRET not in broker.log() + said


def test_the_private_server_gets_none_of_the_owners_variables(fresh_postgres: Factory) -> None:
    os.environ["THE_SERVICES_SECRET"] = SECRET
    try:
        server = fresh_postgres()
    finally:
        del os.environ["THE_SERVICES_SECRET"]
    if not isinstance(server, PrivatePostgres):
        pytest.skip("a container has an environment of its own")
    variables = Path(f"/proc/{server.server.pid}/environ").read_bytes()
    assert b"LC_ALL=C" in variables
    assert SECRET.encode() not in variables


# A bug.


CRASHING = """
from poold.core.broker import Broker

def completed(self, number, done, now):
    raise {error}(f"no place for {{done.results}}")

Broker.completed = completed
"""


@pytest.mark.parametrize("error", ["KeyError", "ValueError"])
def test_a_crash_is_logged_without_the_text_that_quotes_a_result(start_broker: StartBroker, error: str) -> None:
    broker = start_broker(groups={"default": {"max_size": 1}}, start=False)
    broker.start("--verbose", before=CRASHING.format(error=error))
    with pytest.raises(client.DBConnectionError):
        broker.handler().query("SELECT %s::text", (VALUE,))
    assert broker.wait() == 1
    text = broker.log()
    assert f"the broker ends error={error}" in text
    assert "in completed" in text, "where it came from"
    assert f"poold: the broker ended for an unexpected {error}; its log says where" in text
    assert SECRET not in text
