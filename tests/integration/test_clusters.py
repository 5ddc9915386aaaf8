"""The tests' own clusters: servers that change places, fall behind, stand still, and come back as what they were."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2
import psycopg2.errors
import pytest
from clusters import Cluster, Node, cluster
from waiting import wait_until

LATE = 3_600_000  # milliseconds: not while a test lasts
TABLE = "CREATE TABLE written (id integer PRIMARY KEY)"


@pytest.fixture(scope="module")
def healthy(bindir: Callable[[], Path]) -> Iterator[Cluster]:
    """Three servers for those who leave them as they were: "a" the primary, the others with all that it has."""
    with cluster(bindir=bindir()) as servers:
        servers["a"].execute(TABLE)
        yield servers


@pytest.fixture
def servers(bindir: Callable[[], Path]) -> Iterator[Cluster]:
    """Three servers of the test's own, with a table."""
    with cluster(bindir=bindir()) as servers:
        servers["a"].execute(TABLE)
        yield servers


def write(node: Node, *ids: int) -> None:
    for each in ids:
        node.execute("INSERT INTO written VALUES (%s)", (each,))


def test_three_servers_run_and_two_have_what_one_writes(healthy: Cluster) -> None:
    write(healthy["a"], 1, 2)
    assert [node.is_in_recovery() for node in healthy.nodes.values()] == [False, True, True]
    assert [node.timeline() for node in healthy.nodes.values()] == [1, 1, 1]
    assert healthy["a"].execute("SELECT application_name FROM pg_stat_replication ORDER BY 1") == [("b",), ("c",)]
    for name in ("b", "c"):
        healthy.wait_until_replayed(name)
        assert healthy.missing(name, "written", [1, 2, 3]) == {3}
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            write(healthy[name], 3)
        with closing(psycopg2.connect(**healthy[name].tcp_parameters)) as connection:
            assert connection.info.host == "127.0.0.1"


def test_a_delayed_standby_has_what_it_does_not_show_yet(healthy: Cluster) -> None:
    healthy.delay("b", LATE)
    write(healthy["a"], 10)
    written = healthy["a"].position()
    healthy.wait_until_replayed("c")
    wait_until(lambda: healthy["b"].received() >= written, what="what the primary has written")
    assert healthy["b"].position() < written
    assert [healthy.missing(name, "written", [10]) for name in "abc"] == [set(), {10}, set()]
    healthy.delay("b", 0)
    healthy.wait_until_replayed("b")
    assert healthy.missing("b", "written", [10]) == set()


def test_a_paused_standby_shows_nothing_new(healthy: Cluster) -> None:
    healthy.pause("c")
    write(healthy["a"], 20)
    healthy.wait_until_replayed("b")
    assert [healthy.missing(name, "written", [20]) for name in "abc"] == [set(), set(), {20}]
    healthy.resume("c")
    healthy.wait_until_replayed("c")
    assert healthy.missing("c", "written", [20]) == set()


def test_a_frozen_server_answers_nothing_and_goes_on_where_it_was(healthy: Cluster) -> None:
    with ThreadPoolExecutor() as threads:
        healthy["b"].freeze()
        try:
            asked = threads.submit(healthy["b"].execute, "SELECT count(*) FROM written WHERE id = 30")
            write(healthy["a"], 30)
            healthy.wait_until_replayed("c")
            assert not asked.done()
        finally:
            healthy["b"].thaw()
        ((found,),) = asked.result(10)
        assert found in (0, 1)
    healthy.wait_until_replayed("b")
    assert healthy.missing("b", "written", [30]) == set()


def test_a_killed_server_leaves_no_process_even_if_it_is_frozen(healthy: Cluster) -> None:
    node = healthy["c"]
    with closing(node.connect()) as connection:
        processes = node.freeze()
        assert connection.info.backend_pid in processes
        node.kill()
    assert not [pid for pid in processes if is_there(pid)]
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        node.connect(host="127.0.0.1")
    write(healthy["a"], 40)
    node.start()
    healthy.wait_until_replayed("c")
    assert healthy.missing("c", "written", [40]) == set()


def is_there(pid: int) -> bool:
    """Whether a process runs; one that nobody has asked about since its end does not."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and ") Z " not in status.read_text()


def test_an_old_primary_comes_back_as_a_second_one_until_it_is_told_to_follow(servers: Cluster) -> None:
    a, b, c = servers.nodes.values()
    write(a, 1)
    servers.wait_until_replayed("b")
    servers.detach("b")
    write(a, 2)
    servers.wait_until_replayed("c")
    a.kill()

    servers.promote("b")
    assert servers.primary is b
    assert (b.timeline(), c.timeline()) == (2, 1)
    write(b, 3)
    assert servers.missing("b", "written", [1, 2, 3]) == {2}

    a.start()
    assert (a.is_in_recovery(), a.timeline()) == (False, 1)
    write(a, 4)
    assert servers.missing("a", "written", [1, 2, 3, 4]) == {3}
    a.kill()

    # One is rewound. The other has more than the new primary ever had, and is a standby: it is copied.
    for name in ("a", "c"):
        port = servers[name].parameters["port"]
        servers.follow(name, "b")
        assert servers[name].parameters["port"] == port
        assert (servers[name].is_in_recovery(), servers[name].timeline()) == (True, 2)
    write(b, 5)
    for name in ("a", "c"):
        servers.wait_until_replayed(name)
        assert servers.missing(name, "written", [1, 2, 3, 4, 5]) == {2, 4}


def test_servers_change_places_again_and_again(servers: Cluster) -> None:
    a, b, c = servers.nodes.values()
    # In good order: everybody has everything, and follows.
    write(a, 1)
    for name in ("b", "c"):
        servers.wait_until_replayed(name)
    servers.promote("b")
    for name in ("c", "a"):
        servers.follow(name, "b")
    assert [node.timeline() for node in (a, b, c)] == [2, 2, 2]
    write(b, 2)
    for name in ("a", "c"):
        servers.wait_until_replayed(name)
        assert servers.missing(name, "written", [1, 2]) == set()

    # Two that do not know of each other: that their timelines have the same number misleads nobody.
    b.stop()
    servers.detach("c")
    servers.promote("a")
    servers.follow("b", "a")
    write(a, 3)
    servers.wait_until_replayed("b")
    a.kill()
    servers.promote("c")
    assert a.lineage() == b.lineage() == c.lineage()
    write(c, 4)
    for name in ("a", "b"):
        servers.follow(name, "c")
        assert servers[name].timeline() == 3
        servers.wait_until_replayed(name)
        assert servers.missing(name, "written", [1, 2, 3, 4]) == {3}
    assert c.execute("SELECT application_name FROM pg_stat_replication ORDER BY 1") == [("a",), ("b",)]
