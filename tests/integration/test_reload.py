"""`poold reload` and SIGHUP on a real broker under load: who is not touched notices nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, Worker, poold
from encrypted import EncryptedPostgres
from postgres import Postgres, PrivatePostgres, server_folder
from waiting import wait_until

from client import DBOfflineError, Handler, UnconfiguredGroupError

StartBroker = Callable[..., Broker]
Factory = Callable[..., Postgres]
GROUPS: dict[str, dict[str, Any]] = {
    "default": {"min_size": 1, "max_size": 4},
    "transactions": {"autocommit": False, "min_size": 0, "max_size": 2},
}


class Load:
    """Threads that query a group again and again."""

    def __init__(self, broker: Broker, group: str, threads: int) -> None:
        self._broker = broker
        self._group = group
        self.done = 0
        self.errors: list[Exception] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        for each in self._threads:
            each.start()

    def _run(self) -> None:
        db = Handler(self._group, address=self._broker.address)
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                if number % 20:
                    assert db.query("SELECT %s::int AS n", (number,))[0].n == number
                else:
                    with db.transaction() as tx:
                        found = tx.query("SELECT %s::int AS n", (number,))
                    assert found[0].n == number
            except Exception as error:  # noqa: BLE001  the test looks at it
                self.errors.append(error)
            self.done += 1

    def wait_for(self, more: int) -> None:
        """Wait until so many more have ended, well or not."""
        wanted = self.done + more
        wait_until(lambda: self.done >= wanted, what=f"{more} more requests")

    def stop(self) -> None:
        self._stop.set()
        for each in self._threads:
            each.join()


@contextmanager
def load(broker: Broker, group: str = "default", threads: int = 3) -> Iterator[Load]:
    """Requests of some threads, until the block is over."""
    made = Load(broker, group, threads)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def broker(start_broker: StartBroker) -> Broker:
    return start_broker(groups=GROUPS)


@pytest.fixture
def endpoints(postgres: Postgres) -> dict[str, dict[str, Any]]:
    return {"main": dict(postgres.parameters)}


def reload(broker: Broker) -> Any:
    """What the command prints as JSON."""
    done = poold("reload", "--json", f"--address={broker.address}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def pid_of(db: Handler) -> int:
    return int(db.query("SELECT pg_backend_pid()")[0][0])


def test_groups_and_endpoints_come_change_and_go_beside_a_busy_one_that_notices_nothing(
    broker: Broker, endpoints: dict[str, dict[str, Any]]
) -> None:
    with load(broker) as busy:
        busy.wait_for(200)
        before = broker.pool()["closed"]
        for turn in range(3):
            broker.configure(
                {**endpoints, "other": endpoints["main"]},
                {
                    "default": {**GROUPS["default"], "endpoints": ["main"]},
                    "extra": {"min_size": 1, "max_size": 2 + turn},
                },
            )
            told = reload(broker)
            assert [each["table"] for each in told["changes"] if each["result"] == "added"] == [
                "endpoints.other",
                "groups.extra",
            ]
            assert broker.handler("extra").query("SELECT 1").fetchone() == (1,)
            busy.wait_for(100)
            broker.configure(endpoints, GROUPS)
            told = reload(broker)
            assert "groups.extra" in [each["table"] for each in told["changes"] if each["result"] == "removed"]
            with pytest.raises(UnconfiguredGroupError, match="a reload of its configuration has removed it"):
                broker.handler("extra").query("SELECT 1")
            busy.wait_for(100)
        assert not busy.errors
        assert broker.pool()["closed"] == before, "a backend of the busy group was replaced"
        assert broker.group()["requests"] >= busy.done - 3
    assert broker.group()["errors"] == 0


def test_a_group_grows_at_once_and_shrinks_as_backends_rest(
    broker: Broker, endpoints: dict[str, dict[str, Any]]
) -> None:
    sizes = []
    with load(broker, threads=8) as busy:
        for size in (1, 6, 2):
            broker.configure(endpoints, {**GROUPS, "default": {"min_size": size, "max_size": size}})
            reload(broker)
            wait_until(lambda: broker.pool()["size"] == size, what=f"{size} backends")  # noqa: B023  called at once
            busy.wait_for(100)
            sizes.append(broker.pool()["size"])
        assert not busy.errors
    assert sizes == [1, 6, 2]
    assert broker.group()["max_size"] == 2


def test_a_transaction_in_a_removed_group_goes_on_to_its_commit(
    broker: Broker, endpoints: dict[str, dict[str, Any]], postgres: Postgres
) -> None:
    postgres.execute("CREATE TABLE IF NOT EXISTS reloaded (n int)")
    try:
        db = broker.handler("transactions")
        db.query("INSERT INTO reloaded VALUES (1)")
        broker.configure(endpoints, {"default": GROUPS["default"]})
        reload(broker)
        assert "transactions/removed" in broker.stats()["groups"]
        db.query("INSERT INTO reloaded VALUES (2)")
        db.commit()
        assert postgres.execute("SELECT count(*) FROM reloaded") == [(2,)]
        with pytest.raises(UnconfiguredGroupError):
            db.query("SELECT 1")
        wait_until(lambda: "transactions/removed" not in broker.stats()["groups"], what="the group's end")
    finally:
        postgres.execute("DROP TABLE reloaded")


def test_a_transaction_goes_on_in_a_group_that_was_removed_and_put_back(
    broker: Broker, endpoints: dict[str, dict[str, Any]]
) -> None:
    db, session = broker.handler("transactions"), broker.handler("transactions").session()
    session.query("CREATE TEMPORARY TABLE kept (n int)")
    first = pid_of(db)
    broker.configure(endpoints, {"default": GROUPS["default"]})
    reload(broker)
    broker.configure(endpoints, GROUPS)
    reload(broker)
    assert pid_of(db) == first
    db.commit()
    assert session.query("SELECT count(*) FROM kept")[0][0] == 0
    session.close()
    assert pid_of(db) != first
    db.rollback()
    wait_until(lambda: "transactions/removed" not in broker.stats()["groups"], what="the end of the removed group")


def test_whoever_comes_after_a_reload_is_told_what_it_has_removed(
    broker: Broker, endpoints: dict[str, dict[str, Any]]
) -> None:
    broker.configure(endpoints, {"default": GROUPS["default"]})
    reload(broker)
    program = """
from client import Handler, UnconfiguredGroupError
for group in ("transactions", "missing"):
    try:
        Handler(group).query("SELECT 1")
    except UnconfiguredGroupError as error:
        tell(str(error))
"""
    worker = Worker(program, address=broker.address)
    removed, missing = worker.finish()
    worker.close()
    assert "a reload of its configuration has removed it" in removed
    assert missing.endswith("has no group 'missing' for this client; it has default")


def test_what_is_left_of_a_removed_group_ends_after_drain_timeout(
    broker: Broker, endpoints: dict[str, dict[str, Any]]
) -> None:
    db = broker.handler("transactions")
    db.query("SELECT 1")
    broker.configure(endpoints, {"default": GROUPS["default"]}, {"drain_timeout": 0.2})
    reload(broker)
    wait_until(lambda: "transactions/removed" not in broker.stats()["groups"], what="the end of the transaction")
    with pytest.raises(Exception, match="removed its group"):
        db.query("SELECT 1")


def test_a_process_that_was_there_before_uses_a_group_that_is_added(
    broker: Broker, endpoints: dict[str, dict[str, Any]]
) -> None:
    assert broker.handler().query("SELECT 1").fetchone() == (1,)
    with pytest.raises(UnconfiguredGroupError, match="it has default, transactions"):
        broker.handler("later")
    broker.configure(endpoints, {**GROUPS, "later": {"autocommit": False}})
    reload(broker)
    db = broker.handler("later")
    assert db.query("SELECT 1").fetchone() == (1,)
    assert db.in_transaction
    db.rollback()


def test_a_file_with_mistakes_is_refused_whole(broker: Broker, endpoints: dict[str, dict[str, Any]]) -> None:
    broker.configure(endpoints, {"default": {"max_size": 7, "min_sise": 1}, "more": {"endpoints": ["nowhere"]}})
    done = poold("reload", f"--address={broker.address}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "not reloaded, the configuration of before goes on" in done.stderr
    assert "min_sise: unknown key" in done.stderr
    assert "'nowhere'" in done.stderr or '"nowhere"' in done.stderr
    assert broker.group()["max_size"] == 4
    assert list(broker.stats()["groups"]) == ["default", "transactions"]
    assert "configuration not reloaded" in broker.log()
    broker.config.unlink()
    done = poold("reload", f"--address={broker.address}")
    assert (done.returncode, "cannot read the file" in done.stderr) == (1, True)


def test_what_needs_a_restart_is_told_and_all_else_holds(broker: Broker, endpoints: dict[str, dict[str, Any]]) -> None:
    groups = {
        "default": {**GROUPS["default"], "max_size": 5, "autocommit": False},
        "transactions": GROUPS["transactions"],
    }
    broker.configure(endpoints, groups, {"max_result_bytes": 100_000})
    done = poold("reload", f"--address={broker.address}")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[:-1] == [
        "broker.max_result_bytes 67108864 -> 100000: needs restart",
        "groups.default.max_size 4 -> 5: applied",
        "groups.default.autocommit true -> false: needs restart",
    ]
    assert lines[-1].startswith(f"{broker.config} is reloaded: 3 changes, ")
    assert lines[-1].endswith("; 2 of them hold after: poold restart")
    broker.restart()
    assert poold("reload", f"--address={broker.address}").stdout.startswith(f"{broker.config} is reloaded: 0 changes, ")


def test_unchanged_keys_are_counted_or_listed_and_secrets_are_not_shown(
    broker: Broker, endpoints: dict[str, dict[str, Any]]
) -> None:
    broker.configure({"main": {**endpoints["main"], "password": "very secret"}}, GROUPS)
    done = poold("reload", "--verbose", f"--address={broker.address}")
    assert "endpoints.main.password changed: applied; its backends are replaced as they rest" in done.stdout
    assert "groups.default.max_size: unchanged" in done.stdout
    told = broker.log() + done.stdout
    assert "very secret" not in told
    assert "key=endpoints.main.password result=applied" in told


def test_hup_reloads_as_well(broker: Broker, endpoints: dict[str, dict[str, Any]]) -> None:
    broker.configure(endpoints, {**GROUPS, "default": {"max_size": 9}})
    broker.signal(signal.SIGHUP)
    wait_until(lambda: broker.group()["max_size"] == 9, what="the new size")
    wait_until(lambda: "configuration changed key=groups.default.max_size from=4 to=9" in broker.log(), what="the log")
    broker.config.write_text("[")
    broker.signal(signal.SIGHUP)
    wait_until(lambda: "configuration not reloaded" in broker.log(), what="the refusal in the log")
    assert broker.handler().query("SELECT 1").fetchone() == (1,)


def test_the_service_manager_is_told_of_a_reload_that_a_command_asks_for(
    start_broker: StartBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = f"@poold-reload-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:])
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        broker = start_broker(groups=GROUPS)
        while "READY=1" not in manager.recv(4096).decode():
            pass
        reload(broker)
        told = []
        while not told or "READY=1" not in told[-1]:
            told.append(manager.recv(4096).decode())
    assert any(each.startswith("RELOADING=1\nMONOTONIC_USEC=") for each in told)


def test_reloads_at_once_are_all_answered(broker: Broker, endpoints: dict[str, dict[str, Any]]) -> None:
    broker.configure(endpoints, {**GROUPS, "default": {"max_size": 3}})
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(broker.ask("reload"))) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(answers) == 8
    assert sum(bool(each["changes"]) for each in answers) >= 1
    assert broker.group()["max_size"] == 3


def test_whoever_may_not_use_a_group_any_more_cannot(broker: Broker, endpoints: dict[str, dict[str, Any]]) -> None:
    """Root may use all groups, so this is seen in what another user is told."""
    broker.configure(endpoints, {**GROUPS, "later": {"allow_users": ["4321"]}})
    reload(broker)
    assert broker.handler("later").query("SELECT 1").fetchone() == (1,)
    assert sorted(broker.ask("groups")) == ["default", "later", "transactions"]


# Logins.


@pytest.fixture
def locked(fresh_postgres: Factory) -> PrivatePostgres:
    """A server that wants a password over TCP."""
    made = fresh_postgres()
    if not isinstance(made, PrivatePostgres):
        pytest.skip("a container's pg_hba.conf is out of reach")
    made.execute("CREATE ROLE keeper LOGIN PASSWORD 'first'")
    rules = made.server.cluster / "pg_hba.conf"
    rules.write_text("host all keeper 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
    made.execute("SELECT pg_reload_conf()")
    return made


def test_a_password_that_was_changed_on_the_server_and_in_its_file_replaces_backends_as_they_rest(
    locked: PrivatePostgres, start_broker: StartBroker, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    file.chmod(0o600)
    endpoint = {**locked.parameters, "host": "127.0.0.1", "user": "keeper", "password_file": str(file)}
    broker = start_broker(endpoints={"main": endpoint}, groups=GROUPS)
    holder = broker.handler("transactions")
    held = pid_of(holder)
    with load(broker) as busy:
        busy.wait_for(100)
        first = pid_of(broker.handler())
        locked.execute("ALTER ROLE keeper PASSWORD 'second'")
        file.write_text("second\n")
        told = reload(broker)
        assert [(each["table"], each["key"], each["result"]) for each in told["changes"]] == [
            ("endpoints.main", "password_file", "applied")
        ]
        assert told["changes"][0]["replaces_backends"] is True
        assert "from" not in told["changes"][0]
        wait_until(lambda: broker.pool()["outdated"] == 0, what="the end of all old backends")
        busy.wait_for(100)
        assert not busy.errors
    assert first not in {
        row[0] for row in locked.execute("SELECT pid FROM pg_stat_activity WHERE usename = 'keeper'")
    } - {held}
    assert pid_of(holder) == held
    holder.commit()
    assert pid_of(holder) != held
    holder.rollback()
    assert reload(broker)["changes"] == []


def test_a_wrong_password_that_is_mended_is_tried_at_once(locked: PrivatePostgres, start_broker: StartBroker) -> None:
    endpoint = {**locked.parameters, "host": "127.0.0.1", "user": "keeper", "password": "wrong"}
    groups = {"default": {"queue_timeout": 0.5}}
    broker = start_broker(endpoints={"main": endpoint}, groups=groups)
    with pytest.raises(DBOfflineError):
        broker.handler().query("SELECT 1")
    broker.configure({"main": {**endpoint, "password": "first"}}, groups)
    reload(broker)
    assert broker.handler().query("SELECT 1").fetchone() == (1,)


def test_an_authority_whose_file_has_another_content_counts_from_the_reload_on(start_broker: StartBroker) -> None:
    with server_folder() as folder:
        server = EncryptedPostgres(folder)
        try:
            file = folder / "trusted.pem"
            file.write_bytes(server.authority.certificate.read_bytes())
            endpoint = server.endpoint(sslrootcert=str(file))
            broker = start_broker(endpoints={"main": endpoint}, groups={"default": {"queue_timeout": 1, "max_size": 1}})
            before = pid_of(broker.handler())
            file.write_bytes(server.stranger.certificate.read_bytes())
            told = reload(broker)
            assert [(each["table"], each["key"]) for each in told["changes"]] == [("endpoints.main", "sslrootcert")]
            with pytest.raises(DBOfflineError, match="certificate verify failed"):
                broker.handler().query("SELECT 1")
            file.write_bytes(server.authority.certificate.read_bytes())
            reload(broker)
            assert pid_of(broker.handler()) != before
            assert reload(broker)["changes"] == []
        finally:
            server.stop()


def test_an_endpoint_that_leads_elsewhere_takes_what_comes_and_not_what_is_open(
    start_broker: StartBroker, fresh_postgres: Factory, postgres: Postgres, endpoints: dict[str, dict[str, Any]]
) -> None:
    other = fresh_postgres()
    broker = start_broker(groups=GROUPS)
    holder = broker.handler("transactions")
    here = "SELECT system_identifier FROM pg_control_system()"
    first, second = postgres.execute(here)[0][0], other.execute(here)[0][0]
    assert holder.query(here)[0][0] == first
    with load(broker) as busy:
        busy.wait_for(50)
        broker.configure({"main": dict(other.parameters)}, GROUPS)
        reload(broker)
        wait_until(lambda: broker.handler().query(here)[0][0] == second, what="the other server")
        busy.wait_for(100)
        assert not busy.errors
    assert holder.query(here)[0][0] == first
    holder.rollback()
    assert holder.query(here)[0][0] == second
    holder.rollback()
