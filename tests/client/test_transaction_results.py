"""Transaction blocks: what their results, savepoint blocks and errors say when they have ended."""

import pickle

import psycopg2
import psycopg2.errors
import pytest
from fake_channel import FakeChannel, failure, fields_of_result, raises, without_rows

from client import (
    CommitOutcomeUnknown,
    DBConnectionError,
    DBError,
    DBQueryError,
    ExpectationFailed,
    Handler,
    Result,
    UsageError,
)
from client.errors import connection_error, error_from, place_of
from client.values.bind import Reference
from client.wire.messages import EXECUTED, FAILED, NOT_EXECUTED, TX_NONE, UNKNOWN, ResultMessage

INSERT_ORDER = "INSERT INTO orders (customer) VALUES (%s) RETURNING id"
INSERT_ITEM = "INSERT INTO items (order_id) VALUES (%s)"


# After the block.


def test_results_are_read_after_the_block(db: Handler, channel: FakeChannel) -> None:
    channel.commits(
        fields_of_result(("1", "10"), ("2", None), names=("id", "n")),
        without_rows("UPDATE 3", 3, ("NOTICE:  slow\n",)),
        fields_of_result(),
    )
    with db.transaction() as tx:
        two = tx.query("SELECT id, n FROM a")
        update = tx.query("UPDATE a SET n = 0")
        none = tx.query("SELECT id FROM b")
    assert (two["id"], two[1]["id"], two[0][1], two[1].n, two[-1]["id"]) == (1, 2, 10, None, 2)
    assert (two.column("n"), two.column(0), two[0:1]) == ([10, None], [1, 2], [(1, 10)])
    assert (len(two), two.rowcount, two.columns, bool(two), bool(none)) == (2, 2, ("id", "n"), True, False)
    assert two.description is not None
    assert [column.name for column in two.description] == ["id", "n"]
    assert two.fetchone() == (1, 10)
    two.arraysize = 5
    assert (two.arraysize, two.fetchmany(), two.fetchone()) == (5, [(2, None)], None)
    assert (update.rowcount, update.statusmessage, update.columns) == (3, "UPDATE 3", None)
    assert (update.notices, two.notices) == (("NOTICE:  slow\n",), ())
    assert none.fetchall() == list(none) == none.column("id") == []
    assert isinstance(two.result(), Result)
    two.close()
    assert two.fetchall() == []


def test_a_row_that_is_not_there_is_an_index_error_that_says_so(db: Handler, channel: FakeChannel) -> None:
    channel.commits(fields_of_result(), fields_of_result(("1",)), without_rows())
    with db.transaction() as tx:
        empty, one, update = tx.query("SELECT 1 AS id"), tx.query("SELECT 2 AS id"), tx.query("UPDATE a SET b = 1")
    for read in (lambda: empty["id"], lambda: empty[0]["id"]):
        with raises(IndexError, "no row 0: the statement gave 0 rows"):
            read()
    with raises(KeyError, "no column 'sku'"):
        one["sku"]
    with raises(psycopg2.ProgrammingError, "no results to fetch"):
        update["id"]


def test_a_result_lost_with_the_connection_says_that_the_statement_was_executed(
    db: Handler, channel: FakeChannel
) -> None:
    channel.commits(None, without_rows())
    with db.transaction() as tx:
        lost, kept = tx.query("UPDATE a SET b = 1"), tx.query("UPDATE a SET b = 2")
    assert kept.rowcount == 1
    with raises(DBConnectionError, "was committed, but this result was lost with the connection") as caught:
        lost.fetchall()
    assert caught.value.outcome == EXECUTED
    assert not caught.value.retryable


# After a failure.


def test_a_failed_statement_is_named_by_the_error_of_the_block(db: Handler, channel: FakeChannel) -> None:
    channel.fails(failure(), step=4, tries=2)
    with raises(psycopg2.errors.UniqueViolation) as caught, db.transaction() as tx:
        first = tx.query(INSERT_ORDER, (7,))
        with tx.savepoint() as attempt:
            second = tx.query("SELECT 1")
        third = tx.query("INSERT   INTO items\n (order_id) VALUES (%s)", (first["id"],))
    error = caught.value
    assert isinstance(error, DBQueryError)
    assert str(error) == f"statement 3 of 3 ({INSERT_ITEM}): duplicate key"
    assert (error.statement_index, error.statement) == (2, INSERT_ITEM)
    assert (error.pgcode, error.pgerror, error.outcome) == ("23505", "ERROR:  duplicate key", FAILED)
    assert tx.tries == 2
    with raises(psycopg2.errors.UniqueViolation) as again:
        third.fetchone()
    assert again.value is error
    for result in (first, second):
        with raises(UsageError, "nothing of this transaction was committed: statement 3 of 3") as other:
            result["id"]
        assert other.value.__cause__ is error
        assert other.value.outcome == FAILED
    assert isinstance(attempt.error, UsageError)
    assert repr(first).startswith("<PendingResult without a result: nothing of this transaction")


def test_long_statements_are_shortened_in_errors() -> None:
    error = error_from(failure(), place_of(0, 1, b"SELECT " + b"\0, " * 200))
    assert error.statement is not None
    assert len(error.statement) == 200
    assert error.statement.startswith("SELECT %s, %s, ")
    assert error.statement.endswith(" ...")
    assert len(str(error)) < 120


def test_an_error_of_no_statement_is_raised_as_it_is(db: Handler, channel: FakeChannel) -> None:
    channel.fails(failure("deferred constraint", "23503"))
    with raises(psycopg2.errors.ForeignKeyViolation, "deferred constraint"), db.transaction() as tx:
        result = tx.query("SELECT 1")
    with raises(UsageError, "nothing of this transaction was committed: deferred constraint"):
        result.fetchone()


def test_an_error_of_a_savepoint_mark_names_no_statement(db: Handler, channel: FakeChannel) -> None:
    channel.fails(failure("out of memory", "53200"), step=0)
    with (
        raises(psycopg2.errors.OutOfMemory, "out of memory") as caught,
        db.transaction() as tx,
        tx.savepoint() as attempt,
    ):
        tx.query("SELECT 1")
    assert (caught.value.statement_index, caught.value.statement) == (None, None)
    assert isinstance(attempt.error, UsageError)


def test_an_unmet_expectation_is_an_integrity_error(db: Handler, channel: FakeChannel) -> None:
    channel.fails(failure("expected 1 row, got 0", None, kind="expectation"), step=0)
    with (
        raises(ExpectationFailed, "statement 1 of 1 (UPDATE a SET b = 1): expected 1 row, got 0") as caught,
        db.transaction() as tx,
    ):
        tx.query("UPDATE a SET b = 1", expect=1)
    assert isinstance(caught.value, psycopg2.IntegrityError)
    assert isinstance(caught.value, DBQueryError)
    assert (caught.value.outcome, caught.value.retryable, caught.value.pgerror) == (FAILED, False, None)


def test_an_unknown_commit_is_told_as_such(db: Handler, channel: FakeChannel) -> None:
    channel.fails(failure("COMMIT was not answered", None, kind="commit-unknown", outcome=UNKNOWN))
    with raises(CommitOutcomeUnknown, "not answered") as caught, db.transaction() as tx:
        result = tx.query("SELECT 1")
    assert isinstance(caught.value, DBConnectionError)
    assert not caught.value.retryable
    with raises(UsageError, "whether this transaction was committed is not known: COMMIT was") as other:
        result.fetchone()
    assert other.value.outcome == UNKNOWN


@pytest.mark.parametrize(
    ("error", "words", "outcome"),
    [
        (
            connection_error("no broker", NOT_EXECUTED),
            "nothing of this transaction was committed: no broker",
            NOT_EXECUTED,
        ),
        (connection_error("went away"), "whether this transaction was committed is not known: went away", UNKNOWN),
        (
            connection_error("too large", EXECUTED),
            "this transaction was committed, but its results are lost: too large",
            EXECUTED,
        ),
        (KeyboardInterrupt(), "whether this transaction was committed is not known: KeyboardInterrupt()", UNKNOWN),
    ],
)
def test_a_message_without_an_answer_leaves_no_result_without_a_reason(
    db: Handler, channel: FakeChannel, error: BaseException, words: str, outcome: str
) -> None:
    channel.answer = lambda message: error
    with raises(type(error)) as caught, db.transaction() as tx:
        result = tx.query("SELECT 1")
    assert caught.value is error
    with raises(UsageError, words) as other:
        result.fetchone()
    assert other.value.__cause__ is error
    assert other.value.outcome == outcome
    assert tx.tries == 0


# Savepoint blocks.


def test_an_undone_savepoint_block_leaves_the_rest_committed(db: Handler, channel: FakeChannel) -> None:
    channel.commits(without_rows(), None, None, tuple(failure()), None, None, without_rows())
    with db.transaction() as tx:
        before = tx.query("SELECT 1")
        with tx.savepoint() as attempt:
            first = tx.query("SELECT 2")
            second = tx.query(INSERT_ITEM, (1,))
            third = tx.query("SELECT 4")
        after = tx.query("SELECT 5")
    assert (before.rowcount, after.rowcount) == (1, 1)
    assert isinstance(attempt.error, psycopg2.errors.UniqueViolation)
    assert str(attempt.error) == f"statement 3 of 5 ({INSERT_ITEM}): duplicate key"
    with raises(psycopg2.errors.UniqueViolation) as caught:
        second.fetchone()
    assert caught.value is attempt.error
    for result in (first, third):
        with raises(UsageError, "undone with its savepoint block: statement 3 of 5") as other:
            result.fetchone()
        assert other.value.__cause__ is attempt.error


def test_an_outer_savepoint_block_takes_the_inner_ones_with_it(db: Handler, channel: FakeChannel) -> None:
    channel.commits(None, None, None, None, tuple(failure()), None)
    with db.transaction() as tx, tx.savepoint() as outer:
        with tx.savepoint() as inner:
            first = tx.query("SELECT 1")
        tx.query("SELECT 2")
    assert isinstance(outer.error, psycopg2.errors.UniqueViolation)
    assert isinstance(inner.error, UsageError)
    assert inner.error.__cause__ is outer.error
    with raises(UsageError, "undone with its savepoint block: "):
        first.fetchone()


def test_an_inner_savepoint_block_fails_alone(db: Handler, channel: FakeChannel) -> None:
    channel.commits(None, without_rows(), None, tuple(failure()), None, without_rows(), None)
    with db.transaction() as tx, tx.savepoint() as outer:
        tx.query("SELECT 1")
        with tx.savepoint() as inner:
            tx.query("SELECT 2")
        last = tx.query("SELECT 3")
    assert outer.error is None
    assert isinstance(inner.error, psycopg2.errors.UniqueViolation)
    assert last.rowcount == 1


def test_an_exception_through_a_savepoint_block_sends_nothing(db: Handler, channel: FakeChannel) -> None:
    with raises(ZeroDivisionError), db.transaction() as tx:
        tx.query("SELECT 1")
        with tx.savepoint():
            raise ZeroDivisionError
    assert channel.sent == []


def test_an_exception_caught_around_a_savepoint_block_takes_out_the_block(db: Handler, channel: FakeChannel) -> None:
    channel.commits(without_rows(), without_rows())
    with db.transaction() as tx:
        tx.query("SELECT 'before'")
        try:
            with tx.savepoint() as attempt:
                inside = tx.query("SELECT 'inside'")
                with tx.savepoint() as inner:
                    tx.query("SELECT 'deep inside'")
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        after = tx.query("SELECT 'after'")
        with raises(UsageError, "not in this transaction block"):
            tx.query("SELECT %s", (Reference(inside, 0, 0),))
    assert [step.statement for step in channel.sent[0].steps] == [b"SELECT 'before'", b"SELECT 'after'"]
    assert after.rowcount == 1
    for error in (attempt.error, inner.error):
        assert isinstance(error, UsageError)
        assert isinstance(error.__cause__, ZeroDivisionError)
    with raises(UsageError, "nothing of this savepoint block was sent, because it was left by ZeroDiv"):
        inside.fetchone()


def test_savepoint_blocks_that_are_not_nested_send_nothing(db: Handler, channel: FakeChannel) -> None:
    with raises(UsageError, "ends inside a savepoint block"), db.transaction() as tx:
        block = tx.savepoint()
        block.__enter__()
        tx.query("SELECT 1")
    with raises(UsageError, "has ended"):
        block.__exit__(None, None, None)
    with raises(UsageError, "savepoint blocks overlap"), db.transaction() as tx:
        outer, inner = tx.savepoint(), tx.savepoint()
        outer.__enter__()
        inner.__enter__()
        outer.__exit__(None, None, None)
    assert channel.sent == []


def test_an_inner_savepoint_block_left_open_goes_with_the_outer_one(db: Handler, channel: FakeChannel) -> None:
    with raises(ZeroDivisionError), db.transaction() as tx:
        inner = tx.savepoint()
        with raises(ZeroDivisionError), tx.savepoint():
            inner.__enter__()
            raise ZeroDivisionError
        inner.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        raise ZeroDivisionError
    assert channel.sent == []


# run and notices.


def test_run_is_a_transaction_in_one_line(db: Handler, channel: FakeChannel) -> None:
    channel.commits(without_rows(), fields_of_result(("5",)), without_rows())
    results = db.run([("UPDATE a SET b = %s", (1,), 1), ("SELECT 5 AS id", None), "SELECT 1"], retries=0)
    assert [type(result) for result in results] == [Result] * 3
    assert results[1].fetchall() == [(5,)]
    (message,) = channel.sent
    assert (message.retries, message.steps[0].low, message.steps[0].high) == (0, 1, 1)
    assert db.run([]) == []
    with raises(TypeError, "run wants a list of statements"):
        db.run("SELECT 1")
    assert len(channel.sent) == 1


def test_run_raises_where_a_result_is_lost(db: Handler, channel: FakeChannel) -> None:
    channel.commits(None)
    with raises(DBConnectionError) as caught:
        db.run(["SELECT 1"])
    assert caught.value.outcome == EXECUTED


def test_notices_are_kept_with_the_handler_the_latest_fifty(db: Handler, channel: FakeChannel) -> None:
    channel.commits(without_rows(notices=("NOTICE:  one\n",)), None, tuple(failure(notices=("NOTICE:  two\n",))), None)
    with db.transaction() as tx:
        tx.query("SELECT 1")
        with tx.savepoint() as attempt:
            tx.query("SELECT 2")
    assert list(db.notices) == ["NOTICE:  one\n", "NOTICE:  two\n"]
    assert attempt.error is not None
    assert attempt.error.notices == ("NOTICE:  two\n",)

    channel.fails(failure(notices=("three",)))
    with raises(DBQueryError):
        db.run(["SELECT 1"])
    channel.answer = lambda message: error_from(failure(notices=("four",)))
    with raises(DBQueryError):
        db.run(["SELECT 1"])
    with raises(DBQueryError):
        db.query("SELECT 1")
    channel.answer = lambda message: ResultMessage(1, TX_NONE, "DO", -1, None, b"", ("five",))
    db.query("SELECT 1")
    assert list(db.notices)[2:] == ["three", "four", "four", "five"]
    for _ in range(100):
        db.query("SELECT 1")
    assert len(db.notices) == 50


# Pickling.


def test_errors_with_a_place_survive_pickling() -> None:
    for kind, made in (("query", DBQueryError), ("expectation", ExpectationFailed), ("commit-unknown", DBError)):
        error = error_from(failure(kind=kind, notices=("hm",)), place_of(1, 5, INSERT_ITEM.encode()))
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert isinstance(copy, made)
        assert str(copy) == str(error) == f"statement 2 of 5 ({INSERT_ITEM}): duplicate key"
        assert (copy.statement_index, copy.statement, copy.notices) == (1, INSERT_ITEM, ("hm",))
    plain = pickle.loads(pickle.dumps(error_from(failure())))
    assert (str(plain), plain.statement_index, plain.statement) == ("duplicate key", None, None)


def test_errors_of_results_survive_pickling(db: Handler, channel: FakeChannel) -> None:
    channel.fails(failure(outcome=FAILED), step=0)
    with raises(DBQueryError), db.transaction() as tx:
        tx.query("SELECT 1")
        other = tx.query("SELECT 2")
    with raises(UsageError) as caught:
        other.fetchone()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy), copy.outcome) == (UsageError, str(caught.value), FAILED)
