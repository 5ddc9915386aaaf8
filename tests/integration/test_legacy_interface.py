"""Programs written for pgdbpool work after their import line has changed; forks before and after the first use.

Each program is a process of its own, as it would be in life. `tell` prints a value for the test.
"""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from brokers import Broker, poold, run_worker, wait_gone
from postgres import Postgres
from waiting import wait_until

import client as dbpool
from client.channels import registry

SCHEMA = "legacy_test"


@pytest.fixture(scope="module", autouse=True)
def schema(postgres: Postgres) -> Iterator[None]:
    postgres.execute(
        f"CREATE SCHEMA {SCHEMA};"
        f"CREATE TABLE {SCHEMA}.table1 (id serial PRIMARY KEY, value text);"
        f"CREATE TABLE {SCHEMA}.table2 (id serial PRIMARY KEY, value text)"
    )
    yield
    postgres.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


@pytest.fixture(autouse=True)
def empty_tables(schema: None, postgres: Postgres) -> None:
    postgres.execute(f"TRUNCATE {SCHEMA}.table1, {SCHEMA}.table2")


def values(postgres: Postgres, table: str = "table1") -> list[str]:
    """What everybody can see in a table."""
    return sorted(row[0] for row in postgres.execute(f"SELECT value FROM {SCHEMA}.{table}"))


# pgdbpool's own examples.

PROGRAM = """
import client as dbpool

config = json.loads(sys.argv[1])
dbpool.Connection.init(config)

with dbpool.Handler('group1') as db:
    db.query('INSERT INTO legacy_test.table1 (value) VALUES (%s)', ('value1',))
    db.query('INSERT INTO legacy_test.table2 (value) VALUES (%s)', ('value2',))
    db.commit()  # Manual commit

sql = 'select * from legacy_test.table1'

with dbpool.Handler('default') as db:
    for rec in db.query(sql):
        tell([rec['value'], rec[1], len(rec)])

tell(dbpool.Connection.get_threading_model())
"""


@pytest.fixture
def config(postgres: Postgres) -> dict[str, Any]:
    """A configuration like the one of pgdbpool's README: two endpoints, which are the same server here."""
    server = postgres.parameters
    endpoint = {"host": server["host"], "port": server["port"], "name": server["dbname"], "user": server["user"]}
    endpoint["pass"] = server.get("password", "dbpass")
    return {
        "db": [endpoint, {**endpoint, "query_timeout": 3000, "connect_timeout": 5}],
        "groups": {
            "default": {"connection_count": 2, "autocommit": True},
            "group1": {"connection_count": 2, "autocommit": False},
        },
    }


@pytest.fixture
def imported(start_broker: Any, config: dict[str, Any]) -> Broker:
    """A broker that runs on what `poold import-config` makes of that configuration."""
    broker: Broker = start_broker(start=False)
    source = broker.folder / "pgdbpool.json"
    source.write_text(json.dumps(config), "utf-8")
    converted = poold("import-config", str(source))
    assert converted.returncode == 0, converted.stderr
    broker.config.write_text(converted.stdout, "utf-8")
    return broker.start(f"--address={broker.address}")


@pytest.mark.parametrize("model", [None, "threaded", "non-threaded"])
def test_the_readmes_examples_run_on_their_imported_configuration(
    imported: Broker, config: dict[str, Any], postgres: Postgres, start_worker: Any, model: str | None
) -> None:
    if model:
        config["type"] = model
    told = start_worker(PROGRAM, json.dumps(config), address=imported.address).finish()
    assert told == [["value1", "value1", 2], model or "threaded"]
    assert (values(postgres), values(postgres, "table2")) == (["value1"], ["value2"])
    for group in ("default", "group1"):
        assert sorted(imported.group(group)["endpoints"]) == ["db1", "db2"]


CONNECTS = """
import client as dbpool

dbpool.Connection.init(json.loads(sys.argv[1]))
tell(dbpool.Handler('default').query('SELECT 1 AS it').fetchone()['it'])
"""


def test_a_single_endpoint_may_be_a_dict_as_in_pgdbpool(broker: Broker, config: dict[str, Any]) -> None:
    config["db"] = config["db"][0]
    assert run_worker(CONNECTS, json.dumps(config), address=broker.address) == 1


THREADS = """
import threading
import client as dbpool

dbpool.Connection.init({'type': 'threaded', 'db': [], 'groups': {}})

def work(number):
    for step in range(10):
        with dbpool.Handler('transactions') as db:
            assert db.query('SELECT %s AS it', (number,)).fetchone()['it'] == number
            db.query('INSERT INTO legacy_test.table1 (value) VALUES (%s)', (f'{number}-{step}',))
            db.commit()

threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
tell('done')
"""


def test_a_threaded_program_makes_a_handler_in_each_thread(broker: Broker, postgres: Postgres) -> None:
    assert run_worker(THREADS, address=broker.address) == "done"
    assert values(postgres) == sorted(f"{number}-{step}" for number in range(8) for step in range(10))


NON_THREADED = """
import client as dbpool

dbpool.Connection.init({'type': 'non-threaded', 'db': [], 'groups': {}})
import threading
def fail(*_, **__):
    raise AssertionError('a lock was taken or a thread started')
threading.Lock = threading.RLock = threading.Thread.start = fail
for number in range(20):
    with dbpool.Handler('transactions') as db:
        db.query('INSERT INTO legacy_test.table1 (value) VALUES (%s)', (str(number),))
    with dbpool.Handler('default') as db:
        assert db.query('SELECT count(*) FROM legacy_test.table1').fetchone()[0] == number + 1
tell([threading.active_count(), dbpool.Connection.get_threading_model()])
"""


def test_a_non_threaded_program_needs_no_lock_and_no_thread(broker: Broker) -> None:
    assert run_worker(NON_THREADED, address=broker.address) == [1, "non-threaded"]


def test_rows_answer_as_those_of_psycopg2s_dict_cursor_did(broker: Broker) -> None:
    cursor = broker.handler().query("SELECT 1 AS id, 'Ann' AS name UNION ALL SELECT 2, NULL")
    assert cursor.rowcount == 2
    first, second = cursor.fetchone(), cursor.fetchone()
    assert (first["id"], first[0], first["name"], first[1]) == (1, 1, "Ann", "Ann")
    assert first == [1, "Ann"]
    assert dict(second) == {"id": 2, "name": None}
    assert (list(first.keys()), list(first.values())) == (["id", "name"], [1, "Ann"])
    assert list(first.items()) == [("id", 1), ("name", "Ann")]
    assert (first.get("name"), first.get("age"), first.get("age", 30)) == ("Ann", None, 30)
    assert first[0:2] == [1, "Ann"] or first[0:2] == (1, "Ann")
    assert json.dumps(first) == '[1, "Ann"]'


def test_errors_have_pgdbpools_names(broker: Broker) -> None:
    with pytest.raises(dbpool.DBQueryError):
        broker.handler().query("SELECT * FROM nowhere")
    with pytest.raises(dbpool.UnconfiguredGroupError):
        broker.handler("nowhere").query("SELECT 1")
    with pytest.raises(dbpool.DBConnectionError):
        dbpool.Handler("default", address=f"ipc://{broker.folder}/nobody").query("SELECT 1")


def test_an_endpoint_that_is_offline_gives_an_error_that_names_it_and_its_own_error(
    start_broker: Any, tmp_path: Path
) -> None:
    nowhere = {"host": str(tmp_path), "port": 5432, "dbname": "x", "user": "x"}
    groups = {"default": {"queue_timeout": 0.5}}
    broker = start_broker(endpoints={"gone": nowhere}, groups=groups)
    with pytest.raises(dbpool.DBOfflineError, match="gone") as caught:
        broker.handler().query("SELECT 1")
    assert f"{tmp_path}/.s.PGSQL.5432" in str(caught.value)
    assert (caught.value.outcome, caught.value.retryable) == ("not executed", True)
    assert isinstance(caught.value, dbpool.DBConnectionError | psycopg2.OperationalError)


def test_a_program_whose_file_name_is_no_utf8_works(broker: Broker) -> None:
    program = "sys.argv[0] = os.fsdecode(b'/srv/caf\\xe9.py')\nfrom client import Handler\ntell(Handler().autocommit)"
    assert run_worker(program, address=broker.address) is True


# Settings.


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes back what a test gives to Connection.init."""
    monkeypatch.setattr(registry, "_settings", registry._settings)
    monkeypatch.delenv(registry.ADDRESS_VARIABLE, raising=False)


@pytest.mark.usefixtures("settings")
def test_the_address_is_the_arguments_then_inits_then_the_environments(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = [f"ipc://{broker.folder}/nobody{number}" for number in range(2)]
    monkeypatch.setenv("POOLD_ADDRESS", nobody[0])
    with pytest.raises(dbpool.DBConnectionError, match=nobody[0]):
        dbpool.Handler("default").query("SELECT 1")
    dbpool.Connection.init({"address": nobody[1]})
    with pytest.raises(dbpool.DBConnectionError, match=nobody[1]):
        dbpool.Handler("default").query("SELECT 1")
    assert dbpool.Handler("default", address=broker.address).autocommit is True
    dbpool.Connection.init({"address": broker.address})
    assert dbpool.Handler("default").autocommit is True
    dbpool.Connection.init({})
    monkeypatch.setenv("POOLD_ADDRESS", broker.address)
    assert dbpool.Handler("default").autocommit is True


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    ("config", "error", "text"),
    [
        ("threaded", TypeError, "wants a dict"),
        ({"type": "greenlets"}, ValueError, "'threaded', 'non-threaded'"),
        ({"address": "somewhere"}, ValueError, "ipc:///absolute/path"),
        ({"address": "ipc://relative/path"}, ValueError, "absolute path"),
        ({"address": "ipc:///" + "x" * 120}, ValueError, "107"),
        ({"address": "tcp://localhost"}, ValueError, "HOST:PORT"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(config: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        dbpool.Connection.init(config)


# Prepared queries.

SQLPREPARE = f"""
CREATE SCHEMA "SQLPrepare";
CREATE TABLE {SCHEMA}.prepared (pid integer);
CREATE FUNCTION "SQLPrepare"."PrepareQueries"() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {SCHEMA}.prepared VALUES (pg_backend_pid());
    EXECUTE 'PREPARE addition (integer, integer) AS SELECT $1 + $2';
END $$;
CREATE FUNCTION "SQLPrepare"."ExecuteQuery"(a integer, b integer) RETURNS json LANGUAGE plpgsql AS $$
DECLARE result integer;
BEGIN
    EXECUTE format('EXECUTE addition (%s, %s)', a, b) INTO result;
    RETURN json_build_object('sum', result, 'pid', pg_backend_pid());
END $$
"""


@pytest.fixture
def sqlprepare(postgres: Postgres) -> Iterator[None]:
    postgres.execute(SQLPREPARE)
    yield
    postgres.execute(f'DROP SCHEMA "SQLPrepare" CASCADE; DROP TABLE {SCHEMA}.prepared')


def prepared(postgres: Postgres) -> list[int]:
    """The backends on which PrepareQueries was called, once for each call."""
    return sorted(row[0] for row in postgres.execute(f"SELECT pid FROM {SCHEMA}.prepared"))


@pytest.mark.usefixtures("sqlprepare")
@pytest.mark.parametrize("autocommit", [True, False])
def test_sqlprepare_prepares_each_new_backend_once_and_query_prepared_finds_its_queries(
    start_broker: Any, postgres: Postgres, autocommit: bool
) -> None:
    group = {"min_size": 3, "max_size": 3, "sqlprepare": True, "autocommit": autocommit}
    broker = start_broker(groups={"default": group})
    wait_until(lambda: broker.pool()["idle"] == 3, what="three backends")
    pids = prepared(postgres)
    assert len(set(pids)) == len(pids) == 3
    with broker.handler() as db:
        for params in ((2, 3), [2, 3], {"a": 2, "b": 3}, {"b": 3, "a": 2}):
            answer = db.query_prepared(params)
            assert answer["sum"] == 5
            assert answer["pid"] in pids
    assert prepared(postgres) == pids
    postgres.execute("SELECT pg_terminate_backend(%s)", (pids[0],))
    wait_until(lambda: len(prepared(postgres)) == 4, what="a backend in place of the one that was ended")
    wait_until(lambda: broker.pool()["idle"] == 3, what="three backends again")
    assert len(set(prepared(postgres))) == 4


@pytest.mark.usefixtures("sqlprepare")
def test_query_prepared_raises_what_the_query_raises(start_broker: Any) -> None:
    db = start_broker(groups={"default": {"sqlprepare": True}}).handler()
    with pytest.raises(dbpool.DBQueryError) as caught:
        db.query_prepared((2147483647, 1))
    assert isinstance(caught.value, psycopg2.errors.NumericValueOutOfRange)
    with pytest.raises(psycopg2.errors.UndefinedFunction):
        db.query_prepared(("no number",) * 3)
    with pytest.raises(TypeError):
        db.query_prepared(None)


def test_a_group_with_sqlprepare_where_the_function_is_missing_says_so(start_broker: Any) -> None:
    broker = start_broker(groups={"default": {"sqlprepare": True, "queue_timeout": 0.5}})
    with pytest.raises(dbpool.DBOfflineError, match="SQLPrepare"):
        broker.handler().query("SELECT 1")


# Forks.

# Each begins with this: `fork(work)` runs work in a child, which ends as programs do; `join()` waits for all of them.
FORKS = """
import signal
import client as dbpool

children = []

def fork(work):
    pid = os.fork()
    if pid == 0:
        work()
        sys.exit(0)
    children.append(pid)
    return pid

def join():
    for pid in children:
        _, status = os.waitpid(pid, 0)
        assert status == 0, f'child {pid} ended with status {status}'

def add(db, value):
    db.query('INSERT INTO legacy_test.table1 (value) VALUES (%s)', (value,))

"""

BEFORE_FIRST_USE = """
def work(name):
    for _ in range(5):
        with dbpool.Handler(sys.argv[1]) as db:
            add(db, name)

for number in range(4):
    fork(lambda: work(f'child {number}'))
work('parent')
join()
tell('done')
"""


@pytest.mark.parametrize("group", ["default", "transactions"])
def test_a_fork_before_first_use_is_safe(broker: Broker, postgres: Postgres, group: str) -> None:
    assert run_worker(FORKS + BEFORE_FIRST_USE, group, address=broker.address) == "done"
    names = [*(f"child {number}" for number in range(4)), "parent"]
    assert values(postgres) == sorted(name for name in names for _ in range(5))


AFTER_FIRST_USE = """
dbpool.Connection.init({'type': sys.argv[2]})
db = dbpool.Handler(sys.argv[1])
mine = db.query('SELECT 1').fetchone()
db.commit()

def work(name):
    for step in range(20):
        assert db.query('SELECT %s', (name,)).fetchone() == (name,)
        add(db, name)
        db.commit()

for number in range(3):
    fork(lambda: work(f'child {number}'))
work('parent')
join()
work('parent again')
tell('done')
"""


@pytest.mark.parametrize("model", ["threaded", "non-threaded"])
@pytest.mark.parametrize("group", ["default", "transactions"])
def test_after_a_fork_parent_and_children_go_on_with_the_same_handler(
    broker: Broker, postgres: Postgres, group: str, model: str
) -> None:
    assert run_worker(FORKS + AFTER_FIRST_USE, group, model, address=broker.address) == "done"
    names = [*(f"child {number}" for number in range(3)), "parent", "parent again"]
    assert values(postgres) == sorted(name for name in names for _ in range(20))


INSIDE_A_TRANSACTION = """
db = dbpool.Handler('transactions')
add(db, 'parent before')

def work():
    for use in (lambda: db.query('SELECT 1'), db.commit):
        try:
            use()
        except dbpool.UsageError as error:
            assert 'parent process' in str(error)
        else:
            raise AssertionError('the child used the transaction of its parent')
    with dbpool.Handler('transactions') as own:
        add(own, 'child')

fork(work)
join()
add(db, 'parent after')
db.commit()
tell('done')
"""


def test_a_transaction_stays_with_the_parent_and_survives_the_end_of_the_child(
    broker: Broker, postgres: Postgres
) -> None:
    assert run_worker(FORKS + INSIDE_A_TRANSACTION, address=broker.address) == "done"
    assert values(postgres) == ["child", "parent after", "parent before"]


CHILD_IN_THE_BLOCK = """
try:
    with dbpool.Handler('transactions') as db:
        add(db, 'parent')
        pid = os.fork()
        if pid == 0:
            raise SystemExit(0)  # leaves the block in the child, as the end of a worker function may
        os.waitpid(pid, 0)
except SystemExit:
    os._exit(0)
tell('done')
"""


def test_a_child_that_leaves_the_block_of_its_parent_ends_nothing(broker: Broker, postgres: Postgres) -> None:
    assert run_worker(FORKS + CHILD_IN_THE_BLOCK, address=broker.address) == "done"
    assert values(postgres) == ["parent"]


FROM_A_THREAD = """
import threading
ready, go = threading.Event(), threading.Event()

def thread():
    db = dbpool.Handler('transactions')
    add(db, 'thread')
    ready.set()
    go.wait()
    db.commit()

worker = threading.Thread(target=thread)
worker.start()
ready.wait()

def work():
    with dbpool.Handler('transactions') as db:
        add(db, 'child')

fork(work)
join()
go.set()
worker.join()
tell('done')
"""


def test_a_fork_beside_a_thread_in_a_transaction_leaves_the_thread_alone(broker: Broker, postgres: Postgres) -> None:
    assert run_worker(FORKS + FROM_A_THREAD, address=broker.address) == "done"
    assert values(postgres) == ["child", "thread"]


ORPHANED = """
db = dbpool.Handler('transactions')
add(db, 'parent')

def work():
    signal.sigwait({signal.SIGUSR1})
    with dbpool.Handler('transactions') as own:
        add(own, 'child')
    tell('child')

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
tell(fork(work))
signal.pause()
"""


def test_a_killed_parents_transaction_is_rolled_back_though_its_child_lives_on(
    broker: Broker, postgres: Postgres, start_worker: Any
) -> None:
    worker = start_worker(FORKS + ORPHANED)
    child = worker.hear()
    try:
        assert broker.pool("transactions")["leased"] == 1
        worker.signal(signal.SIGKILL)
        wait_until(lambda: broker.pool("transactions")["leased"] == 0, what="the end of the parent's transaction")
        os.kill(child, signal.SIGUSR1)
        assert worker.hear() == "child"
    finally:
        os.kill(child, signal.SIGKILL)
    wait_gone(child)
    assert values(postgres) == ["child"]


# A module of its own: processes that are spawned import it.
JOB = """
import multiprocessing
import sys
from client import Handler

db = None

def work(number):
    global db
    db = db or Handler('default')
    return db.query('SELECT %s * 2', (number,)).fetchone()[0]

def main(method):
    before = work(0)
    with multiprocessing.get_context(method).Pool(2) as pool:
        return [before, *pool.map(work, range(20)), work(1)]
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_works_with_every_start_method(broker: Broker, tmp_path: Path, method: str) -> None:
    (tmp_path / "job.py").write_text(JOB, "utf-8")
    program = f"sys.path.insert(0, {str(tmp_path)!r})\nimport job\ntell(job.main({method!r}))"
    answers = run_worker(program, address=broker.address)
    assert answers == [0, *(number * 2 for number in range(20)), 2]


# What an import costs.

HEAVY = ("click", "poold", "rich", "uvloop", "asyncio", "multiprocessing")


def test_importing_the_client_loads_no_broker_and_starts_no_thread() -> None:
    program = "import client\ntell([sorted(sys.modules), len(os.listdir('/proc/self/task'))])"
    modules, threads = run_worker(program)
    assert "client.handler" in modules
    assert [name for name in HEAVY if name in modules] == []
    assert threads == 1
