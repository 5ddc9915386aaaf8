"""Results read in blocks: `stream` of Handlers and sessions, and what becomes of one that does not end as it should."""

import gc
import itertools
import json
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from brokers import Broker, run_worker
from postgres import Postgres
from psycopg2 import sql
from psycopg2.extras import Json
from waiting import wait_until

from client import DBConnectionError, DBQueryError, Handler, ResultTooLarge, TransactionLost, UsageError

NUMBERS = "SELECT n AS id, 'row ' || n AS name FROM generate_series(1, %s) AS n"


@pytest.fixture(autouse=True)
def table(postgres: Postgres) -> Iterator[None]:
    postgres.execute("CREATE TABLE streamed (id integer)")
    yield
    postgres.execute("DROP TABLE streamed")


@pytest.fixture
def own(start_broker: Any) -> Broker:
    """A broker with one backend for each group."""
    groups = {"default": {"max_size": 1}, "transactions": {"max_size": 1, "autocommit": False}}
    broker: Broker = start_broker(groups=groups)
    return broker


def written(postgres: Postgres) -> int:
    return int(postgres.execute("SELECT count(*) FROM streamed")[0][0])


def is_free(broker: Broker, group: str = "default") -> bool:
    """Whether the group's only backend serves others: a lease would keep it."""
    return bool(broker.handler(group, autocommit=True).query("SELECT 1", timeout=5).scalar())


# Rows


@pytest.mark.parametrize("group", ["default", "transactions"])
def test_a_stream_gives_all_rows_and_gives_its_backend_back(own: Broker, group: str) -> None:
    for count, size in ((0, 3), (1, 3), (3, 3), (10, 3), (9, 3), (10, 1), (5000, 2000), (10, 100), (10, 2**31 - 1)):
        expected = [(number, f"row {number}") for number in range(1, count + 1)]
        stream = own.handler(group).stream(NUMBERS, (count,), size)
        assert list(stream) == expected
        assert (next(stream, None), list(stream), stream.columns) == (None, [], ("id", "name"))
        assert is_free(own, group)


def test_nothing_is_sent_before_the_first_row_is_asked_for(start_broker: Any) -> None:
    broker = start_broker(start=False)
    stream = broker.handler().stream(NUMBERS, (3,))
    broker.start()
    assert stream.columns == ("id", "name")
    assert [row.id for row in stream] == [1, 2, 3]


def test_what_a_stream_takes_is_what_query_takes(db: Handler) -> None:
    assert [row[0] for row in db.stream("SELECT generate_series(1, %(last)s)", {"last": 3}, 2)] == [1, 2, 3]
    assert [row.it for row in db.stream(sql.SQL("SELECT 1 AS {}").format(sql.Identifier("it")))] == [1]
    assert [row[0] for row in db.stream(b"/* % */ (VALUES (1), (2));")] == [1, 2]
    assert [row[0] for row in db.stream("-- one\n WITH a AS (SELECT 7) TABLE a")] == [7]
    chosen = "SELECT id FROM generate_series(1, 3) AS id WHERE id IN %s"
    assert [row.id for row in db.stream(chosen, ((1, 3),))] == [1, 3]
    assert list(db.stream(NUMBERS, (2,), rows="dict"))[1] == {"id": 2, "name": "row 2"}
    options = {"settings": {"work_mem": "3MB"}, "priority": "batch", "timeout": 20}
    seen = "SELECT current_setting('work_mem'), current_setting('cursor_tuple_fraction') FROM generate_series(1, 5)"
    assert {tuple(row) for row in db.stream(seen, None, 2, **options)} == {("3MB", "1")}
    assert {row[1] for row in db.stream(seen, settings={"cursor_tuple_fraction": 0.5})} == {"0.5"}
    reads = "SELECT current_setting('transaction_read_only')"
    assert [[row[0] for row in db.stream(reads, read_only=each)] for each in (True, False)] == [["on"], ["off"]]
    dicts = Handler(address=db._address, rows="dict", settings={"work_mem": "2MB"})
    assert next(dicts.stream("SELECT current_setting('work_mem') AS it")) == {"it": "2MB"}


@pytest.mark.parametrize("way", ["by itself", "in a transaction", "in a session"])
def test_what_becomes_of_its_parameters_later_is_nothing_to_a_stream(db: Handler, tx: Handler, way: str) -> None:
    session = tx.session()
    executor: Any = {"by itself": db, "in a transaction": tx, "in a session": session}[way]
    by_name: dict[str, Any] = {}
    in_order, items, document, settings = [0], [1, 2], {"a": 1}, {"work_mem": "2MB"}
    asked = []
    for number in range(3):
        by_name["x"] = in_order[0] = number
        asked.append(executor.stream("SELECT %(x)s AS it", by_name))
        asked.append(executor.stream("SELECT %s AS it", in_order))
    lists = executor.stream("SELECT %s AS it", (items,))
    documents = executor.stream("SELECT %s::json AS it", (Json(document),))
    set_so = executor.stream("SELECT current_setting('work_mem') AS it", settings=settings)
    by_name.clear()
    in_order.clear()
    items.append(3)
    document["a"] = 2
    settings["work_mem"] = "3MB"
    assert [[row.it for row in each] for each in (set_so, *asked)] == [["2MB"], [0], [0], [1], [1], [2], [2]]
    assert ([row.it for row in lists], [row.it for row in documents]) == ([[1, 2]], [{"a": 1}])
    tx.rollback()
    session.close()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda db: db.stream("UPDATE streamed SET id = 1"),
            UsageError,
            "reads the rows of SELECT, VALUES, TABLE or WITH",
        ),
        (lambda db: db.stream("/* SELECT */ DELETE FROM streamed"), UsageError, "call query"),
        (lambda db: db.stream("selected"), UsageError, "call query"),
        (lambda db: db.stream("/**/" * 1000 + "("), UsageError, "call query"),
        (lambda db: db.stream("SELECT 1", size=0), ValueError, "size is 0; expected from 1 to 2147483647 rows"),
        (lambda db: db.stream("SELECT 1", size=2**31), ValueError, "size is 2147483648; expected from 1 to 2147483647"),
        (lambda db: db.stream("SELECT 1; SELECT 2"), UsageError, "of one statement, and this text holds several"),
        (lambda db: db.stream("SELECT %s; SELECT 2", (1,)), UsageError, "this text holds several"),
        (lambda db: db.stream("   "), UsageError, "blanks, comments or semicolons, and no statement"),
        (lambda db: db.stream(" ; -- nothing\n ; /* here */"), UsageError, "and no statement"),
        (lambda db: db.stream(""), psycopg2.ProgrammingError, "can't execute an empty query"),
        (lambda db: db.stream("SELECT 1", timeout=1e12), ValueError, "above 0 and up to 31622400, or None"),
        (lambda db: db.stream("SELECT 1", timeout=-1), ValueError, "timeout is -1"),
        (lambda db: db.stream("SELECT 1", priority="high"), ValueError, "priority is 'high'"),
        (lambda db: db.stream("SELECT 1", settings={"": 1}), ValueError, "settings has the name ''"),
        (lambda db: db.stream("SELECT 1", rows="list"), ValueError, "rows is 'list'"),
        (lambda db: db.stream("SELECT %s", ()), IndexError, "out of range"),
    ],
)
def test_what_cannot_be_streamed_is_an_error_at_once(
    db: Handler, call: Callable[[Handler], Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        call(db)


# Transactions


def test_a_stream_behind_its_last_row_has_committed_and_one_left_early_has_rolled_back(
    db: Handler, postgres: Postgres
) -> None:
    postgres.execute(
        "CREATE OR REPLACE FUNCTION note(integer) RETURNS integer LANGUAGE sql AS "
        "'INSERT INTO streamed VALUES ($1) RETURNING id'"
    )
    writes = "SELECT note(n) FROM generate_series(1, 10) AS n"
    with db.stream(writes, size=3) as rows:
        assert next(rows)[0] == 1
    assert written(postgres) == 0
    assert [row[0] for row in db.stream(writes, size=3)] == [*range(1, 11)]
    assert written(postgres) == 10
    postgres.execute("DROP FUNCTION note(integer)")


def test_in_an_open_transaction_streams_see_its_work_and_end_with_it(tx: Handler) -> None:
    tx.query("INSERT INTO streamed SELECT generate_series(1, 10)")
    streams = [tx.stream("SELECT id FROM streamed ORDER BY id", size=size) for size in (1, 3, 20)]
    seen = [[row.id for row in each] for each in itertools.zip_longest(*streams)]
    assert seen == [[number] * 3 for number in range(1, 11)]
    tx.query("TRUNCATE streamed")  # which is refused while a cursor is open
    tx.query("INSERT INTO streamed SELECT generate_series(1, 10)")
    with tx.stream("SELECT id FROM streamed", size=2) as left:
        next(left)
    tx.query("TRUNCATE streamed")
    tx.query("INSERT INTO streamed VALUES (1), (2), (3)")
    rest = tx.stream("SELECT id FROM streamed", size=2)
    next(rest)
    tx.commit()
    tx.query("SELECT 1")
    assert next(rest).id == 2
    with pytest.raises(UsageError, match="the transaction in which this stream was opened has ended"):
        next(rest)
    assert tx.query("SELECT 5").scalar() == 5  # its transaction has not suffered
    with pytest.raises(UsageError, match="has ended before its last row"):
        next(rest)


@pytest.mark.parametrize("second", ["DELETE FROM streamed", "/* ; */ SELECT 2", "COMMIT; SELECT 3"])
def test_of_several_statements_none_runs_also_in_an_open_transaction(
    tx: Handler, db: Handler, postgres: Postgres, second: str
) -> None:
    tx.query("INSERT INTO streamed VALUES (1)")
    with pytest.raises(UsageError, match="this text holds several"):
        tx.stream(f"SELECT ';' ; {second}")
    tx.commit()
    with db.session() as session:
        session.query("BEGIN")
        with pytest.raises(UsageError, match="this text holds several"):
            session.stream(f"SELECT $a$;$a$;{second};")
        session.query("COMMIT")
    assert written(postgres) == 1


def test_a_semicolon_behind_the_statement_and_comments_are_no_second_one(tx: Handler) -> None:
    tx.query("SELECT 1")
    for behind in (";", " ; ", ";;", "; -- one; two", ";/* a; /* b; */ */ ;", "\n;--"):
        assert [row[0] for row in tx.stream(f"SELECT ';'{behind}")] == [";"]
    tx.rollback()


def test_a_session_streams_in_its_transaction(db: Handler, broker: Broker) -> None:
    with db.session() as session:
        with pytest.raises(UsageError, match=r"call query\('BEGIN'\) first"):
            session.stream(NUMBERS, (5,))
        session.query("CREATE TEMP TABLE chosen AS SELECT generate_series(1, 5) AS id")
        session.query("BEGIN")
        rows = session.stream("SELECT id FROM chosen", size=2)
        assert [next(rows).id, next(rows).id] == [1, 2]
        session.query("COMMIT")
        session.query("BEGIN")
        with pytest.raises(UsageError, match="has ended"):
            next(rows)
        assert [row.id for row in session.stream("SELECT id FROM chosen", size=2)] == [1, 2, 3, 4, 5]
    with broker.handler("transactions").session() as session:
        assert len([*session.stream(NUMBERS, (5,), 2)]) == 5


# Ends


def test_a_stream_that_is_left_early_gives_its_backend_back(own: Broker) -> None:
    db = own.handler()
    for size in (1, 3):
        for row in db.stream(NUMBERS, (10,), size):
            if row.id == 2:
                break
        assert is_free(own)
        with db.stream(NUMBERS, (10,), size) as rows:
            next(rows)
        assert is_free(own)
        with pytest.raises(UsageError, match="ended before its last row, by close"):
            next(rows)
        rows = db.stream(NUMBERS, (10,), size)
        next(rows)
        del rows
        assert is_free(own)
    with db.stream(NUMBERS, (10,)):
        pass  # none was read
    assert is_free(own)


def fail_in_the_middle(db: Handler, kept: list[Any]) -> None:
    with db.stream(NUMBERS, (10,), 2) as rows:
        kept.append(rows)
        for row in rows:
            1 // (row.id - 3)


def test_an_exception_of_the_program_ends_the_stream(own: Broker) -> None:
    kept: list[Any] = []
    with pytest.raises(ZeroDivisionError):
        fail_in_the_middle(own.handler(), kept)
    assert is_free(own)


def test_a_stream_in_a_circle_ends_when_it_is_collected(own: Broker) -> None:
    circle: list[Any] = [own.handler().stream(NUMBERS, (10,), 2)]
    next(circle[0])
    circle.append(circle)
    del circle
    gc.collect()
    assert is_free(own)


@pytest.mark.parametrize("size", [1, 2, 100])
def test_an_error_in_the_middle_is_postgresqls_and_ends_the_stream(own: Broker, size: int) -> None:
    rows = own.handler().stream("SELECT 1 / (n - 5) FROM generate_series(1, 10) AS n", size=size)
    read = []
    with pytest.raises(psycopg2.errors.DivisionByZero) as caught:
        read.extend(rows)
    assert (caught.value.outcome, len(read)) == ("failed", {1: 4, 2: 4, 100: 0}[size])
    assert is_free(own)
    with pytest.raises(UsageError, match="by close"):
        next(rows)


def test_a_statement_with_a_mistake_is_an_error_of_the_first_row(own: Broker) -> None:
    for statement in ("SELECT nothing FROM streamed", "WITH a AS (DELETE FROM streamed RETURNING id) TABLE a"):
        rows = own.handler().stream(statement)
        with pytest.raises(DBQueryError):
            next(rows)
        with pytest.raises(UsageError, match="by close"):
            rows.columns  # noqa: B018  reading it is the test
        assert is_free(own)


def test_a_block_that_is_too_large_says_what_to_do(start_broker: Any) -> None:
    broker = start_broker(broker={"max_result_bytes": 65536})
    wide = "SELECT repeat('x', 1000) FROM generate_series(1, 200)"
    with pytest.raises(ResultTooLarge) as caught:
        next(broker.handler().stream(wide))
    assert str(caught.value).endswith("; give stream() a smaller size than 2000, its rows in a block")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(ResultTooLarge, match=r"the row is too large$"):
        next(broker.handler().stream("SELECT repeat('x', 100000)", size=1))
    assert len([*broker.handler().stream(wide, size=20)]) == 200


def test_a_timeout_bounds_each_block(own: Broker) -> None:
    slow = "SELECT n, pg_sleep(CASE WHEN n < 5 THEN 0 ELSE 60 END) FROM generate_series(1, 9) AS n"
    rows = own.handler().stream(slow, size=2, timeout=0.5)
    assert [next(rows)[0] for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(psycopg2.errors.QueryCanceled):
        next(rows)
    assert is_free(own)


def test_the_handlers_cancel_reaches_a_stream_that_waits(own: Broker, postgres: Postgres) -> None:
    db = own.handler()
    rows = db.stream("SELECT n, pg_sleep(CASE WHEN n < 3 THEN 0 ELSE 60 END) FROM generate_series(1, 9) AS n", size=2)
    assert [next(rows)[0], next(rows)[0]] == [1, 2]

    def cancel() -> None:
        wait_until(lambda: db._calls, what="the wait")
        assert db.cancel() == 1

    other = threading.Thread(target=cancel)
    other.start()
    with pytest.raises(psycopg2.errors.QueryCanceled):
        next(rows)
    other.join()
    assert is_free(own)


def test_a_pause_beyond_the_groups_timeout_loses_the_stream(start_broker: Any) -> None:
    broker = start_broker(groups={"default": {"max_size": 1, "idle_in_transaction_timeout": 0.3}})
    rows = broker.handler().stream(NUMBERS, (10,), 2)
    assert next(rows).id == 1
    assert is_free(broker)  # which waits for the backend, until it is taken from the stream
    assert next(rows).id == 2
    with pytest.raises(TransactionLost) as caught:
        list(rows)
    assert str(caught.value) == (
        "the stream has ended before its last row: it was idle for longer than idle_in_transaction_timeout = 0.3 s; "
        "open another one"
    )
    assert caught.value.outcome == "not executed"
    with pytest.raises(UsageError, match="by close"):
        next(rows)


def test_a_broker_that_dies_is_an_error_of_the_next_block(start_broker: Any) -> None:
    broker = start_broker()
    rows = broker.handler().stream(NUMBERS, (10,), 2)
    assert next(rows).id == 1
    broker.kill()
    assert next(rows).id == 2
    with pytest.raises(DBConnectionError):
        list(rows)
    broker.start()
    assert len([*broker.handler().stream(NUMBERS, (10,), 2)]) == 10


PROGRAM = """
from client import Handler
rows = Handler().stream("SELECT n AS id FROM generate_series(1, 1000) AS n", size=10)
tell(next(rows).id)
sys.stdin.readline()
"""


def test_a_process_that_is_killed_leaves_nothing(own: Broker, start_worker: Any) -> None:
    worker = start_worker(PROGRAM, address=own.address)
    assert worker.hear() == 1
    worker.kill()
    assert is_free(own)


INTERRUPTED = """
import gc
from client import Handler
db = Handler()
try:
    slow = "SELECT n, pg_sleep(CASE WHEN n < 5 THEN 0 ELSE 60 END) FROM generate_series(1, 9) AS n"
    for row in db.stream(slow, size=2):
        tell(row[0])
except KeyboardInterrupt:
    tell(db.query("SELECT 'gone on'", timeout=20).scalar())
"""


def test_ctrl_c_ends_a_stream_that_waits(own: Broker, start_worker: Any, postgres: Postgres) -> None:
    worker = start_worker(INTERRUPTED, address=own.address)
    assert [worker.hear() for _ in range(4)] == [1, 2, 3, 4]
    wait_until(
        lambda: any("FETCH" in each["query"] and each["state"] == "active" for each in postgres.backends()),
        what="FETCH",
    )
    worker.signal(signal.SIGINT)
    assert worker.hear() == "gone on"


FORKED = """
import os
from client import Handler, UsageError
rows = Handler().stream("SELECT n AS id FROM generate_series(1, 10) AS n", size=3)
next(rows)
if os.fork() == 0:
    try:
        list(rows)
    except UsageError as error:
        os._exit(7 if 'before the fork' in str(error) else 8)
    os._exit(9)
tell([os.waitstatus_to_exitcode(os.wait()[1]), [row.id for row in rows]])
"""


def test_a_forked_child_cannot_read_on_and_takes_nothing_from_its_parent(own: Broker) -> None:
    assert run_worker(FORKED, address=own.address) == [7, [*range(2, 11)]]


def test_rows_as_dicts_are_json(db: Handler) -> None:
    assert json.dumps([*db.stream(NUMBERS, (1,), rows="dict")]) == '[{"id": 1, "name": "row 1"}]'
