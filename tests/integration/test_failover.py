"""Servers that change places under a broker: what its clients are told, and what is in the tables afterwards."""

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2.errors
import pytest
from brokers import Broker, Worker
from clusters import STREAMING, Cluster, Node, cluster
from ledger import ADD_AT_COMMIT, TABLES, tags
from postgres import Factory, Postgres
from proxy import Proxy
from waiting import wait_until
from writers import ADD, READ, TABLE, Load

import client
from client import DBError, Handler, dbapi

StartBroker = Callable[..., Broker]
StartWorker = Callable[..., Worker]
Start = Callable[..., Broker]

WRITERS, READERS = 4, 2
# A process that only reads. Others have written, and wait where it does not have to.
READER = f"""
import client, select
db, answered, errors = client.Handler(read_only=True), 0, []
tell('ready')
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        db.query({READ!r})
        answered += 1
    except client.DBError as error:
        errors.append(repr(error))
tell([answered, errors])
"""
# What is proven to be a plain read: where it ran, only the broker can tell.
PLAIN_READ = "SELECT max(id) AS last FROM written"
# Backends by which the broker works on a server, and not those by which it asks what the server is.
AT_WORK = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'poold' AND query ~ 'written'"
GATE = 4711
DELAY = 200  # milliseconds
LAG = "64kB"
# More of the write-ahead log than LAG.
BULK = "INSERT INTO written SELECT -1, n FROM generate_series(1, 5000) AS n"


@pytest.fixture(scope="module")
def three(bindir: Callable[[], Path]) -> Iterator[Cluster]:
    """Three servers, in whatever state the last test has left them."""
    with cluster(bindir=bindir()) as servers:
        yield servers


@pytest.fixture
def servers(three: Cluster) -> Cluster:
    """A primary and two standbys that follow it, whichever these are, with empty tables."""
    primary = three.primary
    for node in three.nodes.values():
        node.thaw()
        if not node.server.running and (node is primary or is_standby(node)):
            node.start()
    primary.configure(synchronous_standby_names="")
    for standby in standbys(three):
        streams = is_standby(standby) and standby.execute(STREAMING, (primary.server.port,))
        if streams == [(primary.timeline(),)]:
            standby.configure(recovery_min_apply_delay="0")
            three.resume(standby.name)
        else:
            three.follow(standby.name, primary.name)
    primary.execute("DROP TABLE IF EXISTS written, ledger; DROP FUNCTION IF EXISTS at_commit")
    primary.execute(TABLE)
    primary.execute(TABLES)
    for standby in standbys(three):
        three.wait_until_replayed(standby.name)
    return three


@pytest.fixture
def start(servers: Cluster, start_broker: StartBroker) -> Start:
    """Starts a broker on the three servers; what is given is settings of its group "default"."""

    def start(*, endpoints: dict[str, Any] | None = None, **settings: Any) -> Broker:
        groups = {
            "default": {"max_size": 4, **settings},
            "transactions": {"autocommit": False, "max_size": 2},
            "replica": {"role": "replica", "max_size": 2},
            "prefer-replica": {"role": "prefer-replica", "max_size": 2},
        }
        known = {name: {**node.parameters, "query_timeout": 0} for name, node in servers.nodes.items()}
        broker = start_broker({**known, **(endpoints or {})}, groups, {"role_check_interval": 0.2})
        wait_until(lambda: sorted(roles(broker).values()) == ["primary", "replica", "replica"], what="all roles")
        return broker

    return start


def is_standby(node: Node) -> bool:
    return (node.server.cluster / "standby.signal").exists()


def standbys(servers: Cluster) -> list[Node]:
    return [node for node in servers.nodes.values() if node is not servers.primary]


def roles(broker: Broker) -> dict[str, str]:
    """What the broker takes each endpoint for."""
    return {name: each["role"] for name, each in broker.stats()["endpoints"].items()}


def why(broker: Broker, node: Node) -> str:
    return str(broker.stats()["endpoints"][node.name]["why"])


def wait_for_role(broker: Broker, node: Node, role: str) -> None:
    wait_until(lambda: roles(broker)[node.name] == role, 20, f"{node.name} to be {role} ({roles(broker)})")


def wait_for_waiting(broker: Broker, count: int, group: str = "default") -> None:
    wait_until(lambda: broker.group(group)["waiting"] >= count, 20, f"{count} requests to wait")


def node_of(db: Handler) -> str:
    return str(db.query(READ)[0].node)


def synchronous(servers: Cluster, to: Node) -> None:
    """What the primary acknowledges is on this standby."""
    primary = servers.primary
    primary.configure(synchronous_standby_names=to.name)
    asked = "SELECT sync_state FROM pg_stat_replication WHERE application_name = %s"
    wait_until(lambda: primary.execute(asked, (to.name,)) == [("sync",)], what=f"{to.name} to be synchronous")


@contextmanager
def asked(*calls: Callable[[], Any]) -> Iterator[list[Any]]:
    """Let threads call these; at the end of the block the list has the results, or the errors."""
    results: list[Any] = []
    with ThreadPoolExecutor(len(calls)) as threads:
        futures = [threads.submit(call) for call in calls]
        yield results
        for future in futures:
            error = future.exception(30)
            results.append(error or future.result())


# Promotions.


@pytest.mark.parametrize("ending", ["killed", "stopped"])
def test_writes_wait_for_the_promotion_after_the_primary_is_gone_and_reads_go_on(
    servers: Cluster, start: Start, start_worker: StartWorker, ending: str
) -> None:
    old, (new, other) = servers.primary, standbys(servers)
    broker = start()

    def wait_for_reads(more: int) -> None:
        until = broker.group("default/replicas")["requests"] + more
        wait_until(lambda: broker.group("default/replicas")["requests"] >= until, 20, "reads")

    if ending == "killed":
        synchronous(servers, new)  # or acknowledged writes would be lost, which a broker cannot prevent
    reader = start_worker(READER, address=broker.address)
    assert reader.hear() == "ready"
    with Load(broker.handler, WRITERS) as load:
        load.wait_for_writes(100)
        wait_for_reads(20)
        old.kill() if ending == "killed" else old.stop()
        wait_for_waiting(broker, WRITERS)
        told = len(load.errors())
        wait_for_reads(100)
        servers.promote(new.name)
        load.wait_for_writes(100)
        servers.follow(other.name, new.name)
        load.wait_for_writes(20)
    assert load.audit(new) == []
    assert told <= WRITERS, "what ran when the server went, and nothing else"
    assert len(load.errors()) == told, "what waited was served"
    assert {error.outcome for error in load.errors()} <= {"unknown", "failed"}
    reader.say("stop")
    answered, errors = reader.hear()
    assert errors == []
    assert answered > 100
    assert roles(broker)[new.name] == "primary"


def test_an_old_primary_that_is_back_gets_nothing_until_it_is_rewound_and_then_reads(
    servers: Cluster, start: Start
) -> None:
    old, (new, other) = servers.primary, standbys(servers)
    broker = start()
    synchronous(servers, new)
    with Load(broker.handler, WRITERS, READERS) as load:
        load.wait_for_writes(50)
        old.kill()
        servers.promote(new.name)
        servers.follow(other.name, new.name)
        load.wait_for_writes(20)
        old.start()
        before = old.execute("SELECT id, part FROM written ORDER BY 1, 2"), old.position()
        wait_until(lambda: broker.stats()["endpoints"][old.name]["answers"], what="an answer of the old primary")
        assert roles(broker) == {**roles(broker), old.name: "fenced", new.name: "primary"}
        assert "gone on" in why(broker, old)
        load.wait_for_writes(100)
        load.wait_for_reads(100)
        assert old.execute("SELECT id, part FROM written ORDER BY 1, 2") == before[0]
        assert old.execute("SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'written'") in ([], [(0,)])
        assert old.execute(AT_WORK) == [(0,)]
        assert roles(broker)[old.name] == "fenced"
        since = len(load.reads)
        assert old.name not in {each.node for each in load.reads[since - 100 : since]}
        servers.follow(old.name, new.name)
        wait_for_role(broker, old, "replica")
    assert load.audit(new) == []
    # Now that this process writes no more, its reads need not wait for replicas.
    with Load(broker.handler, writers=0, readers=4) as reads:
        reads.wait_for_reads(10, old.name)
    assert reads.errors() == []
    assert len(load.errors()) <= WRITERS
    servers.wait_until_replayed(old.name)
    assert load.audit(old) == []


def test_a_broker_that_starts_remembers_the_promotion_and_lets_writes_wait(servers: Cluster, start: Start) -> None:
    old, (new, other) = servers.primary, standbys(servers)
    broker = start()
    old.kill()
    servers.promote(new.name)
    broker.handler().query(ADD, (1, 0))
    assert broker.stop() == 0
    for node in (new, other):
        node.kill()
    old.start()
    broker.start()
    wait_for_role(broker, old, "fenced")
    with asked(lambda: broker.handler().query(ADD, (2, 0))) as told:
        wait_for_waiting(broker, 1)
        new.start()
    assert not isinstance(told[0], BaseException)
    assert [servers.missing(node.name, "written", [1, 2]) for node in (old, new)] == [{1, 2}, set()]


def test_a_broker_that_reaches_the_old_primary_only_works_there_until_it_sees_the_new_one(
    servers: Cluster, start: Start
) -> None:
    old, (new, other) = servers.primary, standbys(servers)
    with Proxy(new) as far, Proxy(other) as away:
        broker = start(endpoints={new.name: far.parameters, other.name: away.parameters})
        with Load(broker.handler, WRITERS) as load:
            load.wait_for_writes(20)
            for proxy in (far, away):
                proxy.down()
                proxy.reset()
            wait_until(lambda: not broker.stats()["endpoints"][new.name]["answers"], what="the partition")
            servers.promote(new.name)
            load.wait_for_writes(50)
            assert roles(broker)[old.name] == "primary", "it cannot know better"
            on_new = new.execute("SELECT count(*) FROM written")
            far.up()
            wait_for_role(broker, old, "fenced")
            on_old = set(old.execute("SELECT id, part FROM written"))
            load.wait_for_writes(50)
            assert new.execute("SELECT count(*) FROM written") > on_new
            assert set(old.execute("SELECT id, part FROM written")) == on_old, "not one more"
        # Each write that was acknowledged is on one of the two, and on the right one since it was seen.
        elsewhere = {number for number, _ in on_old}
        assert load.audit(new, are_all=False) == []
        lost = set(load.lost(new))
        assert lost
        assert lost <= elsewhere
        assert {error.outcome for error in load.errors()} <= {"unknown", "failed"}
        assert roles(broker)[new.name] == "primary"
        broker.close()


def test_two_primaries_on_one_timeline_are_both_fenced_until_one_is_stopped(servers: Cluster, start: Start) -> None:
    primary, (second, _) = servers.primary, standbys(servers)
    broker = start()
    broker.handler().query(ADD, (1, 0))
    servers.wait_until_replayed(second.name)
    second.stop()
    (second.server.cluster / "standby.signal").unlink()
    second.start()
    wait_for_role(broker, primary, "fenced")
    assert roles(broker)[second.name] == "fenced"
    assert second.name in why(broker, primary)
    assert primary.name in why(broker, second)
    try:
        db = broker.handler()
        with pytest.raises(client.DBOfflineError) as caught:
            db.query(ADD, (2, 0), 0.3)
        for node, rival in ((primary, second), (second, primary)):
            assert f"{node.name}: it and {rival.name} both say that they are the primary" in str(caught.value)
        assert caught.value.outcome == "not executed"
        with asked(lambda: broker.handler().query(ADD, (3, 0))) as told:
            wait_for_waiting(broker, 1)
            assert [node.execute("SELECT id FROM written") for node in (primary, second)] == [[(1,)], [(1,)]]
            second.kill()
        assert not isinstance(told[0], BaseException)
        assert primary.execute("SELECT id FROM written ORDER BY 1") == [(1,), (3,)]
    finally:
        second.kill()
        servers.follow(second.name, primary.name)


# What is open when the primary goes.


@pytest.mark.parametrize("how", ["killed", "fenced"])
def test_what_is_open_on_a_primary_that_goes_is_lost_with_a_reason_that_names_it(
    servers: Cluster, start: Start, how: str
) -> None:
    old, (new, _) = servers.primary, standbys(servers)
    broker = start()
    db = broker.handler("transactions")
    db.query(ADD, (1, 0))

    def use_session() -> None:
        with broker.handler().session() as session:
            session.query("SET work_mem = '5MB'")
            if how == "killed":
                old.kill()
            servers.promote(new.name)
            wait_for_role(broker, new, "primary")
            wait_until(lambda: broker.pool("transactions", old.name)["size"] == 0, what="the end of the lease")
            session.query(ADD, (2, 0))

    with pytest.raises(client.TransactionLost) as in_session:
        use_session()
    with pytest.raises(client.TransactionLost) as in_transaction:
        db.query(ADD, (3, 0))
    for caught in (in_session, in_transaction):
        assert f"endpoint {old.name!r}" in str(caught.value)
        assert caught.value.outcome == "not executed"
    with pytest.raises(client.TransactionLost):
        db.commit()
    db.rollback()
    db.query(ADD, (4, 0))
    db.commit()
    with broker.handler().session() as session:
        session.query(ADD, (5, 0))
    assert new.execute("SELECT id FROM written ORDER BY 1") == [(4,), (5,)]
    if how == "fenced":
        assert old.execute("SELECT id FROM written") == []


def test_a_statement_that_runs_on_a_primary_that_is_fenced_is_unknown(servers: Cluster, start: Start) -> None:
    old, (new, _) = servers.primary, standbys(servers)
    broker = start()
    slow = "INSERT INTO written SELECT 1, 0 FROM pg_sleep(60)"
    with asked(lambda: broker.handler().query(slow)) as told:
        wait_until(lambda: broker.pool(endpoint=old.name)["active"] == 1, what="the statement to run")
        servers.promote(new.name)
    assert isinstance(told[0], DBError)
    assert (told[0].outcome, old.name in str(told[0])) == ("unknown", True)


@pytest.mark.parametrize("is_received", [False, True])
def test_a_commit_that_was_on_its_way_is_in_doubt_and_the_new_primary_is_not_believed(
    servers: Cluster, start: Start, is_received: bool
) -> None:
    old, (new, _) = servers.primary, standbys(servers)
    broker = start(track_outcome=True)

    def write() -> None:
        with broker.handler().transaction() as tx:
            tx.query(ADD_AT_COMMIT, ("it", 0 if is_received else GATE))

    if is_received:
        # Its COMMIT has come to the standby, and waits for a server that does not exist.
        old.configure(synchronous_standby_names="nobody")
        wanted = "wait_event = 'SyncRep'"
    else:
        wanted = "wait_event_type = 'Lock' AND wait_event = 'advisory'"
    with closing(old.connect()) as holder:
        holder.cursor().execute("SELECT pg_advisory_lock(%s)", (GATE,))
        with asked(write) as told:
            wait_until(
                lambda: old.execute(f"SELECT 1 FROM pg_stat_activity WHERE {wanted}"), what="the COMMIT to be there"
            )
            if is_received:
                # Behind it: what is received in order has the COMMIT before this.
                position = old.execute("SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn")[0][0]
                wait_until(lambda: new.received() >= position, what="the COMMIT on the standby")
            old.kill()
            servers.promote(new.name)
            wait_for_role(broker, new, "primary")
    assert isinstance(told[0], client.CommitOutcomeUnknown)
    assert told[0].outcome == "unknown"
    assert tags(new) == (["it"] if is_received else []), "and it was not run again"
    with broker.handler().transaction() as tx:
        tx.query(ADD_AT_COMMIT, ("next", 0))
    assert tags(new)[-1] == "next"


# No server.


def test_requests_wait_for_servers_that_are_all_gone_and_overdue_ones_are_told_their_roles(
    servers: Cluster, start: Start
) -> None:
    broker = start()
    db = broker.handler()
    db.query(ADD, (1, 0))
    for node in servers.nodes.values():
        node.kill()
    wait_until(
        lambda: not any(each["answers"] for each in broker.stats()["endpoints"].values()), 20, "the end of all answers"
    )
    patient, reader = broker.handler(), broker.handler(read_only=True)
    with asked(lambda: patient.query(ADD, (2, 0)), lambda: node_of(reader)) as told:
        wait_for_waiting(broker, 1)
        with pytest.raises(client.DBOfflineError) as caught:
            db.query(ADD, (3, 0), 0.5)
        for node in servers.nodes.values():
            node.start()
    assert caught.value.outcome == "not executed"
    assert [name for name in servers.nodes if f"{name}: " not in str(caught.value)] == [], str(caught.value)
    assert not [each for each in told if isinstance(each, BaseException)]
    assert servers.primary.execute("SELECT id FROM written ORDER BY 1") == [(1,), (2,)]


# Replicas.


def test_a_standby_that_is_too_far_behind_is_left_out_until_it_has_caught_up(servers: Cluster, start: Start) -> None:
    late, other = standbys(servers)
    broker = start(max_lag=LAG)
    with Load(broker.handler, writers=0, readers=READERS) as load:
        load.wait_for_reads(5, late.name)
        servers.pause(late.name)
        servers.primary.execute(BULK)
        servers.wait_until_replayed(other.name)
        wait_until(lambda: not broker.pool("default/replicas", late.name)["is_serving"], what="it to be left out")
        assert roles(broker)[late.name] == "replica"
        load.wait_for_reads(READERS)  # one that was under way may have been there
        since = len(load.reads)
        load.wait_for_reads(100, other.name)
        assert late.name not in {each.node for each in load.reads[since:]}
        servers.resume(late.name)
        load.wait_for_reads(5, late.name)
    assert load.errors() == []


def test_a_standby_that_is_killed_and_back_costs_no_read(servers: Cluster, start: Start) -> None:
    gone, other = standbys(servers)
    broker = start()
    with Load(broker.handler, writers=1, readers=4) as load:
        load.wait_for_reads(20, gone.name)
        gone.kill()
        load.wait_for_reads(100)
        wait_until(lambda: not broker.stats()["endpoints"][gone.name]["answers"], what="its end to be seen")
        load.wait_for_reads(20)
        gone.start()
        load.wait_for_reads(20, gone.name)
        load.wait_for_reads(20, other.name)
    assert load.errors() == []
    assert load.audit(servers.primary) == []


def test_groups_on_replicas_read_there_and_only_one_of_them_on_the_primary(servers: Cluster, start: Start) -> None:
    broker = start()
    strict, loose = broker.handler("replica"), broker.handler("prefer-replica")
    names = {node.name for node in standbys(servers)}
    for db in (strict, loose):
        assert {node_of(db) for _ in range(20)} <= names
        with pytest.raises(client.DBQueryError) as caught:
            db.query(ADD, (1, 0))
        assert caught.value.pgcode == "25006"
        assert servers.primary.execute("SELECT 1 FROM written") == []
    for node in standbys(servers):
        node.kill()
    with asked(lambda: node_of(strict)) as told:
        wait_for_waiting(broker, 1, "replica")
        assert node_of(loose) == servers.primary.name
        with pytest.raises(client.DBOfflineError) as offline:
            broker.handler("replica").query(READ, None, 0.3)
        assert [name for name in names if f"{name}: " not in str(offline.value)] == [], str(offline.value)
        for node in standbys(servers):
            node.start()
    assert told[0] in names
    wait_until(lambda: node_of(loose) in names, what="reads on replicas")


# Who writes reads what it wrote.


@pytest.mark.parametrize("way", ["read_only", "route_reads", "messages", "session"])
def test_a_process_reads_what_it_has_written_from_delayed_replicas(
    request: pytest.FixtureRequest, servers: Cluster, start: Start, way: str
) -> None:
    count = request.config.getoption("--pairs")
    broker = start(route_reads=way == "route_reads")
    db, reader = broker.handler(), broker.handler(read_only=way in ("read_only", "session"))

    def write(number: int) -> None:
        if way == "messages":
            with db.transaction() as tx:
                tx.query(ADD, (number, 0))
        elif way == "session":
            with db.session() as session:
                session.query(ADD, (number, 0))
        else:
            db.query(ADD, (number, 0))

    def read() -> int:
        """The last write that is seen."""
        if way == "messages":
            with reader.transaction(read_only=True) as tx:
                pending = tx.query(PLAIN_READ)
            return int(pending[0].last)
        return int(reader.query(PLAIN_READ)[0].last)

    def on_replicas() -> int:
        pools = broker.group("default/replicas")["endpoints"].values()
        return sum(pool["requests"] for pool in pools)

    for node in standbys(servers):
        servers.delay(node.name, DELAY)
    stale = []
    for number in range(1, count + 1):
        write(number)
        if (seen := read()) < number:
            stale.append((number, seen))
    assert stale == []
    print(f"{way}: {on_replicas() / count:.1%} of the reads behind a write were on a replica")
    # What was replayed is read on a replica, as soon as the broker has asked how far it is.
    for number in range(count + 1, count + 6):
        write(number)
        for node in standbys(servers):
            servers.wait_until_replayed(node.name)
        before = on_replicas()
        wait_until(lambda: read() == number and on_replicas() > before, what="a read on a replica")  # noqa: B023


def test_threads_of_one_process_read_what_any_of_them_has_written(servers: Cluster, start: Start) -> None:
    broker = start()
    for node in standbys(servers):
        servers.delay(node.name, DELAY)
    written, is_over, stale = [0], threading.Event(), []

    def write() -> None:
        db = broker.handler()
        for number in range(1, 301):
            db.query(ADD, (number, 0))
            written.append(number)
        is_over.set()

    def read() -> int:
        db, count = broker.handler(read_only=True), 0
        while not is_over.is_set():
            least = written[-1]
            row = db.query(READ)[0]
            count += 1
            if (row.last or 0) < least:
                stale.append((least, row))
        return count

    with asked(write, read, read, read) as told:
        pass
    assert not [each for each in told if isinstance(each, BaseException)]
    assert min(told[1:]) > 0
    assert stale == []


# Servers that have nothing to do with each other.


@pytest.fixture
def strangers(fresh_postgres: Factory) -> dict[str, Postgres]:
    """Two servers that are no cluster."""
    found = {name: fresh_postgres(cluster_name=name) for name in ("one", "two")}
    for server in found.values():
        server.execute(TABLE)
    return found


def test_unrelated_servers_are_equals_or_refused(strangers: dict[str, Postgres], start_broker: StartBroker) -> None:
    endpoints = {name: server.parameters for name, server in strangers.items()}
    broker = start_broker(endpoints, {"default": {"max_size": 4}, "equals": {"role": "any", "min_size": 4}})
    db = broker.handler("equals")
    wait_until(lambda: {node_of(db) for _ in range(4)} == set(strangers), what="both to serve")
    wait_until(lambda: broker.group()["obstacle"], what="the obstacle")
    with pytest.raises(DBError) as caught:
        broker.handler().query(ADD, (1, 0))
    assert 'put each cluster into a group of its own, or give the group role = "any"' in str(caught.value)
    assert caught.value.outcome == "not executed"
    for server in strangers.values():
        ((system,),) = server.execute("SELECT system_identifier::text FROM pg_control_system()")
        assert system in str(caught.value)
        assert server.execute("SELECT 1 FROM written") == []


def test_what_only_reads_copies_nothing_in(servers: Cluster, start: Start) -> None:
    address = start().address
    copy_out = "COPY (INSERT INTO written VALUES (1, 0) RETURNING id) TO STDOUT"
    for group in ("default", "transactions"):
        db = Handler(group, address=address, read_only=True)
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            db.copy_in("COPY written FROM STDIN", "1\t0\n")
        db.rollback()
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            db.copy_out(copy_out, io.StringIO())
        db.rollback()
    for level in ("REPEATABLE READ", "SERIALIZABLE"):
        with closing(dbapi.connect(address, read_only=True)) as connection:
            connection.set_session(isolation_level=level)
            with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
                connection.cursor().copy_from(io.StringIO("1\t0\n"), "written")
    with closing(dbapi.connect(address, read_only=True)) as connection:
        connection.set_session(readonly=False)
        connection.cursor().copy_from(io.StringIO("1\t0\n"), "written")
        connection.rollback()
    assert servers.primary.execute("SELECT count(*) FROM written") == [(0,)]
