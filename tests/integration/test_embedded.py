"""The private PostgreSQL: it starts, keeps its data, has one owner, and never outlives it."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
from postgres import Factory, PrivatePostgres, free_port, primary, server_folder, standby
from waiting import wait_until

from poold.embedded.programs import BINDIR_VARIABLE, Account, environment, locate
from poold.embedded.server import EmbeddedError, EmbeddedPostgres, default_data_dir

FAST = {"fsync": "off"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide programs from the server's user")

# Starts a server from a thread that ends, says the postmaster's process id, and stays until it is killed.
OWNER = """
import os, sys, threading, time
from pathlib import Path
from poold.embedded.server import EmbeddedPostgres

server = EmbeddedPostgres(Path(sys.argv[1]), bindir=Path(sys.argv[2]), settings={"fsync": "off"})
starter = threading.Thread(target=server.start)
starter.start()
starter.join()
while os.path.exists(f"/proc/self/task/{starter.native_id}"):
    time.sleep(0.001)
print(server.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with server_folder() as folder:
        yield folder


@pytest.fixture
def make(folder: Path, bindir: Callable[[], Path]) -> Callable[..., EmbeddedPostgres]:
    """Makes servers on the same data folder, not started; the test stops them."""

    def make(data: Path = folder / "data", **settings: str) -> EmbeddedPostgres:
        return EmbeddedPostgres(data, bindir=bindir(), settings={**FAST, **settings})

    return make


@pytest.fixture
def owner(folder: Path, bindir: Callable[[], Path]) -> Iterator["subprocess.Popen[str]"]:
    """Another process that owns a server on the data folder of `make`; it prints the postmaster's process id."""
    command = [sys.executable, "-c", OWNER, str(folder / "data"), str(bindir())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def query(server: EmbeddedPostgres, sql: str, **over: object) -> object:
    """Run SQL on a connection of its own; the first cell, None if there is none."""
    connection = psycopg2.connect(server.dsn(**over))
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone()[0] if cursor.description else None
    finally:
        connection.close()


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def start_by_hand(server: EmbeddedPostgres, bindir: Path, folder: Path) -> "subprocess.Popen[bytes]":
    """A postmaster on the cluster of a stopped server, with nobody who cares for it."""
    account = Account.for_server()
    sockets = folder / "by-hand"
    sockets.mkdir()
    account.give(sockets)
    settings = ["-c", f"unix_socket_directories={sockets}", "-c", "listen_addresses=", "-c", "fsync=off"]
    return subprocess.Popen(
        [bindir / "postgres", "-D", server.cluster, *settings],
        cwd="/",
        env=environment(),
        stderr=subprocess.DEVNULL,
        **account.identity,
    )


# -- starting and stopping


def test_a_server_starts_answers_and_stops(make: Callable[..., EmbeddedPostgres]) -> None:
    server = make()
    with server:
        pid = server.pid
        assert server.running
        assert pid is not None
        assert query(server, "SELECT current_user") == "poold"
    assert not server.running
    assert server.pid is None
    assert is_gone(pid)
    assert not server.socket_dir.exists()


def test_the_defaults_are_durable_private_and_utf8(folder: Path, bindir: Callable[[], Path]) -> None:
    with EmbeddedPostgres(folder / "data", bindir=bindir()) as server:
        assert query(server, "SHOW fsync") == "on"
        assert query(server, "SHOW listen_addresses") == ""
        assert query(server, "SHOW max_connections") == "100"
        assert query(server, "SHOW shared_buffers") == "128MB"
        assert query(server, "SHOW server_encoding") == "UTF8"
        assert stat.S_IMODE(server.socket_dir.stat().st_mode) == 0o700
        assert stat.S_IMODE(server.cluster.stat().st_mode) == 0o700


def test_settings_override_the_defaults(make: Callable[..., EmbeddedPostgres]) -> None:
    with make(max_connections="17", application_name="with 'quotes' and spaces") as server:
        assert query(server, "SHOW fsync") == "off"
        assert query(server, "SHOW max_connections") == "17"
        assert query(server, "SHOW application_name") == "with 'quotes' and spaces"


def test_a_port_opens_tcp_on_this_machine_only(folder: Path, bindir: Callable[[], Path]) -> None:
    port = free_port()
    with EmbeddedPostgres(folder / "data", bindir=bindir(), settings=FAST, port=port) as server:
        assert server.port == port
        assert query(server, "SHOW listen_addresses") == "127.0.0.1"
        assert query(server, "SELECT inet_server_port()", host="127.0.0.1") == port
        assert query(server, "SELECT inet_server_port()") is None


def test_a_second_start_keeps_the_data(make: Callable[..., EmbeddedPostgres]) -> None:
    with make() as server:
        query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    with make() as server:
        assert query(server, "SELECT answer FROM kept") == 42


def test_a_restart_keeps_the_address_and_the_data(make: Callable[..., EmbeddedPostgres]) -> None:
    with make() as server:
        query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
        dsn, pid = server.dsn(), server.pid
        server.restart()
        assert server.dsn() == dsn
        assert server.pid != pid
        assert query(server, "SELECT answer FROM kept") == 42


def test_a_killed_server_starts_again_while_its_backends_are_still_busy(make: Callable[..., EmbeddedPostgres]) -> None:
    with make() as server:
        query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
        connection = psycopg2.connect(server.dsn(), async_=True)
        wait_until(lambda: connection.poll() == psycopg2.extensions.POLL_OK, what="the connection")
        # A backend that computes notices the death of the postmaster only when it is done.
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM generate_series(1, 3000000)")
        wait_until(lambda: query(server, "SELECT count(*) FROM pg_stat_activity WHERE state = 'active'") == 2)
        server.kill()
        assert not server.running
        server.start()
        assert query(server, "SELECT answer FROM kept") == 42
        connection.close()


def test_stopping_twice_or_without_a_start_does_nothing(make: Callable[..., EmbeddedPostgres]) -> None:
    server = make()
    server.stop()
    server.start()
    server.stop()
    server.stop()
    assert not server.running


def test_a_client_that_stays_connected_does_not_hold_up_a_fast_stop(make: Callable[..., EmbeddedPostgres]) -> None:
    server = make()
    server.start()
    connection = psycopg2.connect(server.dsn())
    server.stop()
    assert not server.running
    connection.close()


def test_the_server_is_not_in_the_process_group_of_a_terminals_interrupt(make: Callable[..., EmbeddedPostgres]) -> None:
    with make() as server:
        assert server.pid is not None
        assert os.getsid(server.pid) == server.pid
        assert os.getpgid(server.pid) != os.getpgrp()


# -- one owner


def test_a_second_owner_is_refused_and_told_who_the_first_is(
    make: Callable[..., EmbeddedPostgres], owner: "subprocess.Popen[str]"
) -> None:
    assert owner.stdout is not None
    postmaster = int(owner.stdout.readline())
    with pytest.raises(EmbeddedError, match=f"in use by process {owner.pid};"):
        make().start()
    assert not is_gone(postmaster)


def test_two_servers_of_one_process_cannot_share_a_folder(make: Callable[..., EmbeddedPostgres]) -> None:
    with make() as server:
        with pytest.raises(EmbeddedError, match=f"in use by process {os.getpid()};"):
            make().start()
        with pytest.raises(EmbeddedError, match=f"already started, as process {server.pid}"):
            server.start()
        assert query(server, "SELECT 1") == 1


def test_a_killed_owner_leaves_no_postmaster_running(
    make: Callable[..., EmbeddedPostgres], owner: "subprocess.Popen[str]"
) -> None:
    assert owner.stdout is not None
    postmaster = int(owner.stdout.readline())
    owner.kill()
    wait_until(lambda: is_gone(postmaster), what="the end of the postmaster")
    with make() as server:
        assert query(server, "SELECT 1") == 1


def test_a_server_outlives_the_thread_that_started_it(
    make: Callable[..., EmbeddedPostgres], owner: "subprocess.Popen[str]"
) -> None:
    assert owner.stdout is not None
    assert int(owner.stdout.readline())
    # The thread is gone by now. A server on its way down refuses new connections.
    assert [query(make(), "SELECT 1") for _ in range(20)] == [1] * 20


def test_an_orphan_is_stopped_before_a_new_server_starts(
    make: Callable[..., EmbeddedPostgres], bindir: Callable[[], Path], folder: Path
) -> None:
    with make() as server:
        query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    orphan = start_by_hand(server, bindir(), folder)
    try:
        wait_until((folder / "by-hand" / ".s.PGSQL.5432").exists, what="the orphan's socket")
        with server:
            assert orphan.wait(10) == 0
            assert server.pid != orphan.pid
            assert query(server, "SELECT answer FROM kept") == 42
    finally:
        orphan.kill()
        orphan.wait()


def test_a_process_that_got_a_dead_servers_id_is_left_alone(make: Callable[..., EmbeddedPostgres]) -> None:
    with make() as server:
        server.kill()
    pidfile = server.cluster / "postmaster.pid"
    lines = pidfile.read_text().splitlines(keepends=True)
    with subprocess.Popen(["/bin/sh", "-c", "read line"], stdin=subprocess.PIPE) as bystander:
        pidfile.write_text("".join([f"{bystander.pid}\n", *lines[1:]]))
        assert server._postmaster() is None
        bystander.kill()


# -- what can be wrong


def test_programs_that_were_asked_for_are_not_replaced_by_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EmbeddedError, match=r"the folder given, .*/empty, .*: no such folder"):
        EmbeddedPostgres(folder / "data", bindir=folder / "empty").start()
    (folder / "empty").mkdir()
    monkeypatch.setenv(BINDIR_VARIABLE, str(folder / "empty"))
    with pytest.raises(EmbeddedError, match=rf"{BINDIR_VARIABLE}, .*/empty, .*: no initdb, postgres, pg_ctl"):
        EmbeddedPostgres(folder / "data").start()


def test_broken_programs_are_named_with_their_complaint(folder: Path) -> None:
    broken = folder / "broken"
    broken.mkdir()
    for name in ("initdb", "postgres", "pg_ctl"):
        (broken / name).write_text("#!/bin/sh\necho 'wrong machine' >&2\nexit 1\n")
        (broken / name).chmod(0o755)
    server = EmbeddedPostgres(folder / "data", bindir=broken)
    with pytest.raises(EmbeddedError, match=r"has no working PostgreSQL programs: wrong machine"):
        server.start()
    # The folder was given up and can be used at once.
    with EmbeddedPostgres(folder / "data", settings=FAST) as server:
        assert query(server, "SELECT 1") == 1


def test_without_any_programs_the_error_says_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BINDIR_VARIABLE, raising=False)
    monkeypatch.setattr("poold.embedded.programs._candidates", lambda: iter([("pg_config", Path("/nonexistent"))]))
    with pytest.raises(EmbeddedError, match=r"pip install '\.\[embedded\]'") as caught:
        locate()
    assert "pg_config: /nonexistent: no such folder" in str(caught.value)


def test_a_server_that_does_not_start_is_reported_with_its_log(make: Callable[..., EmbeddedPostgres]) -> None:
    server = make(max_connections="many")
    with pytest.raises(EmbeddedError, match=r'(?s)PostgreSQL ended while starting.*invalid value.*"max_connections"'):
        server.start()
    with make() as server:
        assert query(server, "SELECT 1") == 1


def test_a_killed_initdb_leaves_nothing_half_made(make: Callable[..., EmbeddedPostgres], folder: Path) -> None:
    leftover = folder / "data" / "unfinished-abc"
    (leftover / "base").mkdir(parents=True)
    (folder / "data").chmod(0o755)
    with make() as server:
        assert query(server, "SELECT 1") == 1
    assert not leftover.exists()


def test_an_initdb_that_fails_leaves_no_cluster(folder: Path) -> None:
    broken = folder / "broken"
    broken.mkdir()
    for name in ("initdb", "postgres", "pg_ctl"):
        (broken / name).write_text('#!/bin/sh\n[ "$1" = --version ] || { echo "disk full" >&2; exit 1; }\n')
        (broken / name).chmod(0o755)
    server = EmbeddedPostgres(folder / "data", bindir=broken)
    with pytest.raises(EmbeddedError, match="disk full"):
        server.start()
    assert sorted(path.name for path in (folder / "data").iterdir()) == ["lock"]


# -- paths


def test_a_path_too_long_for_a_socket_gets_a_short_folder(make: Callable[..., EmbeddedPostgres], folder: Path) -> None:
    data = folder / ("a long name, with a comma " * 5)
    server = make(data)
    with server:
        short = server.socket_dir
        assert short.parent == Path("/tmp")
        assert (data / "socket").resolve() == short
        server.restart()
        assert server.socket_dir == short
        assert query(server, "SELECT 1") == 1
    assert not short.exists()
    assert not (data / "socket").is_symlink()


def test_a_path_with_commas_and_quotes_is_taken_as_it_is(make: Callable[..., EmbeddedPostgres], folder: Path) -> None:
    with make(folder / 'it\'s "one", two') as server:
        assert query(server, "SELECT 1") == 1


def test_a_short_socket_folder_of_a_killed_owner_is_removed(
    folder: Path, make: Callable[..., EmbeddedPostgres]
) -> None:
    data = folder / ("long" * 30)
    left = folder / "left-behind"
    left.mkdir()
    data.mkdir()
    (data / "socket").symlink_to(left)
    with make(data):
        assert not left.exists()


@needs_root
def test_programs_in_a_closed_folder_are_copied_once(folder: Path) -> None:
    closed = folder / "closed"
    package = locate().parent.parent
    for tree in (package, package.with_name(f"{package.name}.libs")):
        if tree.is_dir():
            shutil.copytree(tree, closed / tree.name, ignore=shutil.ignore_patterns("include", "*.a"))
    closed.chmod(0o700)
    bindir = closed / locate().relative_to(package.parent)
    with EmbeddedPostgres(folder / "data", bindir=bindir, settings=FAST) as server:
        copy = server.programs.bindir
        assert copy.is_relative_to(folder / "data")
        assert query(server, "SELECT 1") == 1
    made = copy.stat().st_ctime_ns
    with EmbeddedPostgres(folder / "data", bindir=bindir, settings=FAST) as server:
        assert server.programs.bindir == copy
        assert copy.stat().st_ctime_ns == made
    assert not list((folder / "data").glob("unfinished-*"))


@needs_root
def test_data_in_a_closed_folder_are_refused_with_the_folders_name(folder: Path) -> None:
    closed = folder / "closed"
    (closed / "inner").mkdir(parents=True)
    closed.chmod(0o700)
    with pytest.raises(EmbeddedError, match=rf"cannot enter {closed} on the way to {closed}/inner/data;"):
        EmbeddedPostgres(closed / "inner" / "data").start()


def test_the_default_data_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data_dir() == Path("/var/lib/poold")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/data/of/mine")
    assert default_data_dir() == Path("/data/of/mine/poold")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_data_dir() == Path("/home/somebody/.local/share/poold")


# -- the tests' own servers


def test_a_standby_streams_from_its_primary(folder: Path, bindir: Callable[[], Path]) -> None:
    first = primary(folder / "primary", bindir=bindir())
    try:
        second = standby(first, folder / "standby")
        try:
            assert second.execute("SELECT pg_is_in_recovery()") == [(True,)]
            first.execute("CREATE TABLE streamed AS SELECT 42 AS answer")
            wait_until(lambda: second.execute("SELECT to_regclass('streamed')") != [(None,)], what="the table")
            assert second.execute("SELECT answer FROM streamed") == [(42,)]
            assert first.execute("SELECT state FROM pg_stat_replication") == [("streaming",)]
        finally:
            second.stop()
    finally:
        first.stop()


def test_backends_shows_the_connections_of_others(fresh_postgres: Factory) -> None:
    server = fresh_postgres()
    wait_until(lambda: server.backends() == [], what="the end of the fixture's own backend")
    connection = server.connect(application_name="somebody")
    # The server may still list whoever asked before.
    wait_until(
        lambda: [row["application_name"] for row in server.backends()] == ["somebody"], what="nobody but this one"
    )
    connection.close()
    wait_until(lambda: server.backends() == [], what="the end of the backend")


def test_a_killed_test_server_keeps_its_address(fresh_postgres: Factory) -> None:
    server = fresh_postgres()
    dsn = server.dsn()
    server.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    server.kill()
    with pytest.raises(psycopg2.OperationalError):
        server.connect()
    server.start()
    assert server.dsn() == dsn
    server.restart()
    assert server.execute("SELECT answer FROM kept") == [(42,)]


def test_the_shared_server_answers_on_both_addresses(postgres: PrivatePostgres) -> None:
    if not isinstance(postgres, PrivatePostgres):
        pytest.skip("a container has no unix socket")
    assert postgres.execute("SELECT inet_server_addr()") == [(None,)]
    connection = postgres.connect(host="127.0.0.1")
    assert connection.info.host == "127.0.0.1"
    connection.close()
