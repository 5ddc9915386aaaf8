"""COPY through the broker: the same data as psycopg2's, nothing kept, nothing lost, the truth about what happened."""

import io
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from brokers import Broker, Worker
from postgres import Postgres
from psycopg2 import extensions
from waiting import wait_until

from client import DBConnectionError, DBQueryError, Handler, StatementRefused, TransactionLost, UsageError
from client.wire.limits import COPY_WINDOW

EVERY_TRANSPORT = True
SCHEMA = "copy_test"
IN = f"COPY {SCHEMA}.items FROM STDIN"
OUT = f"COPY (SELECT * FROM {SCHEMA}.items ORDER BY id) TO STDOUT"
# Rows with everything that the text format escapes, NULL and the empty string.
ROWS = b"".join([b"1\tplain\n", b"2\ta\\tb\\nc\\\\d\n", b"3\t\\N\n", b"4\t\n", "5\tä€😀\n".encode()])
# More data than any window or buffer between the two ends.
ENDLESS = "COPY (SELECT generate_series(1, 100000000), repeat('x', 100)) TO STDOUT"


@pytest.fixture(scope="module", autouse=True)
def schema(postgres: Postgres) -> Iterator[None]:
    postgres.execute(f"CREATE SCHEMA {SCHEMA}; CREATE TABLE {SCHEMA}.items (id integer, name text)")
    yield
    postgres.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


@pytest.fixture(autouse=True)
def empty(schema: None, postgres: Postgres) -> None:
    postgres.execute(f"TRUNCATE {SCHEMA}.items")


@pytest.fixture
def direct(postgres: Postgres) -> Iterator[extensions.connection]:
    """psycopg2 on a connection of its own."""
    connection = postgres.connect()
    yield connection
    connection.close()


def count(postgres: Postgres) -> int:
    return int(postgres.execute(f"SELECT count(*) FROM {SCHEMA}.items")[0][0])


def copied_out(db: Handler, statement: str = OUT, params: Any = None) -> bytes:
    sink = io.BytesIO()
    db.copy_out(statement, sink, params)
    return sink.getvalue()


def copying(postgres: Postgres) -> list[dict[str, Any]]:
    """The backends that are in the middle of a COPY."""
    return [each for each in postgres.backends() if each["state"] == "active" and "COPY" in each["query"]]


def counted(last: int) -> Iterator[bytes]:
    """Rows from 1 to last."""
    return (b"%d\tnumber %d\n" % (number, number) for number in range(1, last + 1))


class Waiting:
    """A file whose data comes when the test says so: a sink and a source that wait."""

    def __init__(self) -> None:
        self.is_reached = threading.Event()
        self.may_go_on = threading.Event()
        self.size = 0

    def pause(self) -> None:
        self.is_reached.set()
        assert self.may_go_on.wait(60)

    def write(self, data: bytes) -> None:
        self.size += len(data)
        self.pause()

    def rows(self) -> Iterator[bytes]:
        yield b"1\tone\n" * 100_000
        self.pause()
        yield b"2\ttwo\n" * 100_000


# The data.


@pytest.mark.parametrize(
    "source",
    [
        ROWS,
        ROWS.decode(),
        memoryview(ROWS),
        bytearray(ROWS),
        [ROWS[:7], ROWS[7:9].decode(), b"", ROWS[9:]],
        [bytes((each,)) for each in ROWS],
    ],
    ids=["bytes", "text", "memoryview", "bytearray", "parts", "single-bytes"],
)
def test_any_source_gives_the_same_rows(db: Handler, source: Any) -> None:
    result = db.copy_in(IN, source)
    assert (result.rowcount, result.statusmessage) == (5, "COPY 5")
    assert copied_out(db) == ROWS


def test_files_of_bytes_and_of_text_are_read_and_written(db: Handler, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(ROWS)
    with open(tmp_path / "in", "rb") as file:
        assert db.copy_in(IN, file).rowcount == 5
    with open(tmp_path / "in", encoding="utf-8") as text:
        assert db.copy_in(IN, text).rowcount == 5
    with tempfile.NamedTemporaryFile("w+", encoding="utf-8") as text:
        assert db.copy_out(OUT, text).rowcount == 10
        text.seek(0)
        assert sorted(text) == sorted(2 * ROWS.decode().splitlines(keepends=True))
    with open(tmp_path / "out", "wb") as file:
        db.copy_out(OUT, file)
    assert sorted((tmp_path / "out").read_bytes().splitlines()) == sorted(2 * ROWS.splitlines())


def test_an_empty_source_and_an_empty_table_are_no_errors(db: Handler) -> None:
    assert db.copy_in(IN, b"").rowcount == 0
    assert db.copy_in(IN, []).rowcount == 0
    assert copied_out(db) == b""


@pytest.mark.parametrize("options", ["", "(FORMAT csv, HEADER, NULL 'nil')", "(FORMAT binary)"])
def test_the_data_is_byte_for_byte_what_psycopg2_gets(db: Handler, direct: extensions.connection, options: str) -> None:
    db.copy_in(IN, ROWS)
    mine, theirs = copied_out(db, f"{OUT} {options}"), io.BytesIO()
    with direct.cursor() as cursor:
        cursor.copy_expert(f"{OUT} {options}", theirs)
    assert mine == theirs.getvalue()
    assert db.copy_in(f"{IN} {options}", mine).rowcount == 5


def test_parameters_become_literals(db: Handler) -> None:
    db.copy_in(IN, ROWS)
    statement = f"COPY (SELECT id FROM {SCHEMA}.items WHERE id > %s ORDER BY id) TO STDOUT"
    assert copied_out(db, statement, (3,)) == b"4\n5\n"


def test_rows_larger_than_a_result_may_be_pass(start_broker: Callable[..., Broker], postgres: Postgres) -> None:
    db = start_broker(broker={"max_result_bytes": 1 << 20, "max_request_bytes": 1 << 20}).handler()
    large = 20 << 20
    assert db.copy_in(IN, (b"7\t" + b"x" * large, b"\n8\tsmall\n")).rowcount == 2
    assert postgres.execute(f"SELECT id, length(name) FROM {SCHEMA}.items ORDER BY id") == [(7, large), (8, 5)]
    assert copied_out(db) == b"7\t" + b"x" * large + b"\n8\tsmall\n"


def test_many_rows_pass_both_ways_unchanged(db: Handler, postgres: Postgres) -> None:
    expected = b"".join(counted(300_000))
    assert len(expected) > 4 * COPY_WINDOW
    assert db.copy_in(IN, counted(300_000)).rowcount == 300_000
    assert copied_out(db) == expected


def test_copies_of_several_threads_run_side_by_side(db: Handler, postgres: Postgres) -> None:
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda _: db.copy_in(IN, counted(50_000)).rowcount, range(8))
        assert list(found) == [50_000] * 8
        outs = set(threads.map(lambda _: copied_out(db), range(4)))
    assert len(outs) == 1
    assert count(postgres) == 400_000


# Transactions and sessions.


def test_in_a_transaction_a_copy_is_part_of_it(tx: Handler, postgres: Postgres) -> None:
    tx.copy_in(IN, ROWS)
    assert copied_out(tx) == ROWS
    assert count(postgres) == 0
    tx.rollback()
    tx.copy_in(IN, ROWS)
    tx.query(f"DELETE FROM {SCHEMA}.items WHERE id = 1")
    tx.commit()
    assert count(postgres) == 4


def test_in_a_transaction_the_query_timeout_does_not_end_a_copy_that_comes_first(tx: Handler) -> None:
    tx.copy_in(IN, ROWS)
    assert tx.query("SHOW statement_timeout").fetchall() == [("0",)]
    tx.commit()


def test_a_session_copies_into_its_temporary_table(db: Handler) -> None:
    with db.session() as session:
        session.query("CREATE TEMP TABLE chosen (id integer, name text)")
        assert session.copy_in("COPY chosen FROM STDIN", ROWS).rowcount == 5
        assert copied_out(session, "COPY chosen TO STDOUT") == ROWS
        with pytest.raises(UsageError, match="by query"):
            session.copy_in("COPY chosen FROM STDIN", ROWS, settings={"work_mem": "64MB"})
        assert session.query("SELECT count(*) FROM chosen")[0][0] == 5


def test_a_failed_copy_fails_its_transaction(tx: Handler, postgres: Postgres) -> None:
    tx.query(f"INSERT INTO {SCHEMA}.items VALUES (9, 'nine')")
    with pytest.raises(psycopg2.errors.InvalidTextRepresentation):
        tx.copy_in(IN, b"no number\tx\n")
    with pytest.raises(psycopg2.errors.InFailedSqlTransaction):
        tx.query("SELECT 1")
    tx.rollback()
    assert count(postgres) == 0
    assert tx.copy_in(IN, ROWS).rowcount == 5
    tx.rollback()


# What goes wrong.


def test_an_error_names_the_line_and_nothing_takes_effect(db: Handler, postgres: Postgres) -> None:
    rows = [*counted(200_000), b"no number\tx\n", *counted(200_000)]
    with pytest.raises(psycopg2.errors.InvalidTextRepresentation, match="line 200001") as caught:
        db.copy_in(IN, rows)
    assert isinstance(caught.value, DBQueryError)
    assert caught.value.outcome == "failed"
    assert count(postgres) == 0
    assert db.copy_in(IN, ROWS).rowcount == 5


def test_the_programs_own_exception_reaches_it_and_nothing_takes_effect(
    db: Handler, tx: Handler, postgres: Postgres
) -> None:
    def failing() -> Iterator[bytes]:
        yield from counted(100_000)
        raise ZeroDivisionError("mine")

    for handler in (db, tx):
        with pytest.raises(ZeroDivisionError, match="mine"):
            handler.copy_in(IN, failing())
    with pytest.raises(psycopg2.errors.InFailedSqlTransaction):
        tx.query("SELECT 1")
    tx.rollback()
    assert count(postgres) == 0
    with pytest.raises(TypeError, match="expected bytes or text"):
        db.copy_in(IN, [b"1\tx\n", 5])
    assert count(postgres) == 0
    assert db.query("SELECT 1")[0][0] == 1


def test_a_sinks_exception_reaches_the_program_and_ends_the_copy(db: Handler, tx: Handler, postgres: Postgres) -> None:
    class Full:
        def write(self, data: bytes) -> None:
            raise OSError(28, "no space left")

    for handler in (db, tx):
        with pytest.raises(OSError, match="no space left"):
            handler.copy_out(ENDLESS, Full())
    tx.rollback()
    wait_until(lambda: not copying(postgres), what="the COPY has ended")
    assert db.query("SELECT 1")[0][0] == 1
    assert tx.query("SELECT 1")[0][0] == 1


@pytest.mark.parametrize(
    ("statement", "is_in", "error", "outcome"),
    [
        ("SELECT 1", True, "is no COPY", "not executed"),
        ("/**/" * 1000 + "SELECT 1", True, "is no COPY", "not executed"),
        (OUT, True, "copies the other way", "executed"),
        (IN, False, "copies the other way", "failed"),
        (f"COPY {SCHEMA}.missing FROM STDIN", True, "does not exist", "failed"),
        (f"{IN}; {IN}", True, "several statements; a COPY.* a single one: send each by itself", "not executed"),
        (f"{OUT}; SELECT 1", False, "several statements; a COPY.* a single one: send each by itself", "not executed"),
    ],
)
def test_what_cannot_be_copied_is_refused(
    db: Handler, postgres: Postgres, statement: str, is_in: bool, error: str, outcome: str
) -> None:
    with pytest.raises((UsageError, DBQueryError), match=error) as caught:
        db.copy_in(statement, ROWS) if is_in else db.copy_out(statement, io.BytesIO())
    assert caught.value.outcome == outcome
    assert count(postgres) == 0
    assert db.query("SELECT 1")[0][0] == 1


@pytest.mark.parametrize(("statement", "hint"), [(IN, "db.copy_in"), (OUT, "db.copy_out")])
def test_a_query_says_how_to_copy(db: Handler, statement: str, hint: str) -> None:
    with pytest.raises(StatementRefused, match=hint):
        db.query(statement)


def test_sources_and_sinks_of_other_types_are_refused_before_anything_is_sent(db: Handler) -> None:
    with pytest.raises(TypeError, match="expected a file, bytes, text, or an iterable"):
        db.copy_in(IN, 5)
    with pytest.raises(TypeError, match="something else with write"):
        db.copy_out(OUT, b"")


def test_a_cancel_ends_a_copy_that_waits_for_its_program(db: Handler, postgres: Postgres) -> None:
    file = Waiting()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(db.copy_in, IN, file.rows())
        assert file.is_reached.wait(60)
        assert db.cancel() == 1
        wait_until(lambda: not copying(postgres), what="PostgreSQL has ended the COPY")
        file.may_go_on.set()
        with pytest.raises(psycopg2.errors.QueryCanceled):
            running.result(60)
    assert count(postgres) == 0


def test_a_cancel_ends_a_copy_whose_program_takes_nothing(db: Handler, postgres: Postgres) -> None:
    file = Waiting()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(db.copy_out, ENDLESS, file)
        assert file.is_reached.wait(60)
        assert db.cancel() == 1
        wait_until(lambda: not copying(postgres), what="PostgreSQL has ended the COPY")
        file.may_go_on.set()
        with pytest.raises(psycopg2.errors.QueryCanceled):
            running.result(60)


def test_a_cancel_ends_a_copy_that_waits_for_a_lock(
    db: Handler, direct: extensions.connection, postgres: Postgres
) -> None:
    with direct.cursor() as cursor:
        cursor.execute(f"BEGIN; LOCK {SCHEMA}.items")
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(db.copy_in, IN, ROWS)
        wait_until(lambda: any(each["wait_event_type"] == "Lock" for each in copying(postgres)), what="it waits")
        assert db.cancel() == 1
        with pytest.raises(psycopg2.errors.QueryCanceled):
            running.result(60)


def test_a_timeout_bounds_the_whole_copy(db: Handler, postgres: Postgres) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"1\tone\n"

    with pytest.raises(psycopg2.errors.QueryCanceled, match=r"timeout of 0\.5 s"):
        db.copy_in(IN, endless(), timeout=0.5)
    with pytest.raises(psycopg2.errors.QueryCanceled, match=r"timeout of 0\.5 s"):
        db.copy_out(ENDLESS, io.BytesIO(), timeout=0.5)
    assert count(postgres) == 0


def test_without_a_timeout_the_query_timeout_does_not_hold(
    start_broker: Callable[..., Broker], postgres: Postgres
) -> None:
    db = start_broker({"main": {**postgres.parameters, "query_timeout": 0.2}}).handler()
    slow = "COPY (SELECT pg_sleep(0.05) FROM generate_series(1, 12)) TO STDOUT"
    assert db.copy_out(slow, io.BytesIO()).rowcount == 12
    with pytest.raises(psycopg2.errors.QueryCanceled):
        db.copy_out(slow, io.BytesIO(), settings={"statement_timeout": "100ms"})
    with pytest.raises(psycopg2.errors.QueryCanceled, match="query_timeout"):
        db.query("SELECT pg_sleep(5)")  # nothing of it was left behind


@pytest.mark.parametrize("is_in", [True, False])
def test_a_program_that_stops_in_the_middle_loses_its_backend(
    start_broker: Callable[..., Broker], postgres: Postgres, is_in: bool
) -> None:
    group = {"max_size": 1, "idle_in_transaction_timeout": 0.5}
    db = start_broker(groups={"default": group}).handler()
    file = Waiting()
    with ThreadPoolExecutor(1) as threads:
        call = partial(db.copy_in, IN, file.rows()) if is_in else partial(db.copy_out, ENDLESS, file)
        running = threads.submit(call)
        assert file.is_reached.wait(60)
        assert db.query("SELECT 1")[0][0] == 1  # on the only backend
        file.may_go_on.set()
        with pytest.raises(psycopg2.errors.QueryCanceled, match=r"idle_in_transaction_timeout = 0\.5 s"):
            running.result(60)
    assert count(postgres) == 0


def test_a_slow_sink_makes_postgresql_wait_and_nobody_else(
    start_broker: Callable[..., Broker], postgres: Postgres
) -> None:
    broker = start_broker(groups={"default": {"max_size": 2}})
    db, file = broker.handler(), Waiting()
    before = peak_memory(broker.pid)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(db.copy_out, ENDLESS, file)
        assert file.is_reached.wait(60)
        wait_until(lambda: any(each["wait_event"] == "ClientWrite" for each in copying(postgres)), what="it waits")
        assert [db.query("SELECT %s", (number,))[0][0] for number in range(100)] == list(range(100))
        assert peak_memory(broker.pid) - before < 30 << 20
        db.cancel()
        file.may_go_on.set()
        with pytest.raises(psycopg2.errors.QueryCanceled):
            running.result(60)
    assert file.size < 8 * COPY_WINDOW


def peak_memory(pid: int) -> int:
    """The most memory that the process has had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


# Losses.


@pytest.mark.parametrize("name", ["default", "transactions"])
def test_a_broker_that_is_killed_has_committed_nothing_of_a_copy_without_its_end(
    start_broker: Callable[..., Broker], postgres: Postgres, name: str
) -> None:
    broker = start_broker()
    db, file = broker.handler(name), Waiting()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(db.copy_in, IN, file.rows())
        assert file.is_reached.wait(60)
        broker.kill()
        file.may_go_on.set()
        with pytest.raises(DBConnectionError) as caught:
            running.result(60)
    assert caught.value.outcome in ("failed", "not executed")
    wait_until(lambda: not copying(postgres), what="PostgreSQL has noticed")
    assert count(postgres) == 0


@pytest.mark.parametrize("name", ["default", "transactions"])
def test_a_backend_that_is_lost_has_committed_nothing_of_a_copy_without_its_end(
    broker: Broker, postgres: Postgres, name: str
) -> None:
    db, file = broker.handler(name), Waiting()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(db.copy_in, IN, file.rows())
        assert file.is_reached.wait(60)
        wait_until(lambda: len(copying(postgres)) == 1, what="PostgreSQL copies")
        postgres.execute("SELECT pg_terminate_backend(%s)", (copying(postgres)[0]["pid"],))
        # Behind the end of the data it would not be known; so the broker has to see the loss first.
        wait_until(
            lambda: not any(each["active"] for each in broker.stats()["groups"][name]["endpoints"].values()),
            what="the broker knows that the backend is gone",
        )
        file.may_go_on.set()
        with pytest.raises((DBConnectionError, TransactionLost)) as caught:
            running.result(60)
    assert caught.value.outcome in ("failed", "not executed")
    db.rollback()
    assert count(postgres) == 0
    assert db.copy_in(IN, ROWS).rowcount == 5
    db.rollback()


def test_a_client_that_is_killed_leaves_nothing(start_worker: Callable[..., Worker], postgres: Postgres) -> None:
    program = f"""
import itertools
from client import Handler
print('begin', flush=True)
Handler().copy_in({IN!r}, itertools.repeat(b'1\\tone\\n'))
"""
    worker = start_worker(program)
    wait_until(lambda: len(copying(postgres)) == 1, what="it copies")
    os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: not copying(postgres), what="the COPY has ended")
    assert count(postgres) == 0


def test_notices_of_a_copy_come_with_its_result(db: Handler, postgres: Postgres) -> None:
    postgres.execute(f"""
        CREATE OR REPLACE FUNCTION {SCHEMA}.tell() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE NOTICE 'row %', NEW.id; RETURN NEW; END $$;
        DROP TABLE IF EXISTS {SCHEMA}.told;
        CREATE TABLE {SCHEMA}.told (id integer);
        CREATE TRIGGER tell BEFORE INSERT ON {SCHEMA}.told FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.tell()
    """)
    result = db.copy_in(f"COPY {SCHEMA}.told FROM STDIN", b"1\n2\n")
    assert [each.strip() for each in result.notices] == ["NOTICE:  row 1", "NOTICE:  row 2"]
    assert list(db.notices)[-2:] == list(result.notices)


def test_a_file_that_has_no_data_yet_is_no_end_of_data(db: Handler, postgres: Postgres) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.write(writing, b"1\tone\n")
    with (
        os.fdopen(reading, "rb", buffering=0) as file,
        os.fdopen(writing, "wb"),
        pytest.raises(BlockingIOError, match="has no data yet"),
    ):
        db.copy_in(IN, file)
    assert count(postgres) == 0


def test_a_file_without_a_buffer_gets_all_of_the_data_or_an_error_is_raised(db: Handler) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with (
        os.fdopen(reading, "rb"),
        os.fdopen(writing, "wb", buffering=0) as file,
        pytest.raises(BlockingIOError, match="takes nothing now"),
    ):
        db.copy_out(ENDLESS, file)
    with tempfile.TemporaryFile("w+b", buffering=0) as raw:
        db.copy_in(IN, ROWS)
        db.copy_out(OUT, raw)
        raw.seek(0)
        assert raw.read() == ROWS
