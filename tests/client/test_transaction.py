"""Transaction blocks: what is sent, what cannot be, and what else a Handler offers beside them."""

from collections.abc import Callable
from typing import Any

import pytest
from fake_channel import ADDRESS, FakeChannel, fields_of_result, raises, without_rows

from client import Handler, UnconfiguredGroupError, UsageError
from client.options import GRACE
from client.pending import PendingResult
from client.values.bind import Reference
from client.wire.limits import END_SAVEPOINT, MAX_RETRIES, MAX_STEPS, SAVEPOINT
from client.wire.messages import NOT_EXECUTED, Query, StepReference, TransactionMessage

INSERT_ORDER = "INSERT INTO orders (customer) VALUES (%s) RETURNING id"


# What is sent.


def test_the_block_is_sent_as_one_message_when_it_ends(db: Handler, channel: FakeChannel) -> None:
    channel.commits(without_rows(), without_rows())
    with db.transaction() as tx:
        tx.query("UPDATE a SET b = %s", (1,))
        tx.query("DELETE FROM a")
        assert channel.sent == []
        assert tx.tries == 0
    (message,) = channel.sent
    assert isinstance(message, TransactionMessage)
    assert (message.group, message.isolation, message.read_only, message.deferrable) == ("default", None, None, None)
    assert (message.retries, message.timeout, message.tag) == (3, None, "")
    assert [step.statement for step in message.steps] == [b"UPDATE a SET b = \0", b"DELETE FROM a"]
    assert [(step.low, step.high, step.prepare) for step in message.steps] == [(0, None, True)] * 2
    assert tx.tries == 1


def test_options_travel(channel: FakeChannel) -> None:
    db = Handler("interactive", address=ADDRESS, tag="nightly", prepare=False)
    channel.commits(without_rows(), without_rows(), tries=4)
    with db.transaction(
        isolation="REPEATABLE_READ", read_only=True, deferrable=False, retries=7, timeout=2.5
    ) as transaction:
        transaction.query("SELECT 1")
        transaction.query("SELECT 2", prepare=True)
    (message,) = channel.sent
    assert message[1:6] == ("interactive", "repeatable read", True, False, 7)
    assert message[8:10] == (2.5, "nightly")
    assert [step.prepare for step in message.steps] == [False, True]
    assert channel.patience == [2.5 + GRACE]
    assert transaction.tries == 4


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("serializable", "serializable"),
        ("Read Committed", "read committed"),
        ("read-uncommitted", "read uncommitted"),
        ("REPEATABLE_READ", "repeatable read"),
        (None, None),
    ],
)
def test_isolation_is_taken_in_any_spelling(db: Handler, channel: FakeChannel, given: Any, sent: Any) -> None:
    channel.commits(without_rows())
    with db.transaction(isolation=given) as tx:
        tx.query("SELECT 1")
    assert channel.sent[0].isolation == sent


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"isolation": "snapshot"}, "isolation is 'snapshot'; expected one of read uncommitted, "),
        ({"isolation": 3}, "isolation is 3"),
        ({"isolation": ["serializable"]}, "isolation is "),
        ({"read_only": 1}, "read_only is 1; expected True, False, or None"),
        ({"deferrable": "yes"}, "deferrable is 'yes'"),
        ({"retries": -1}, f"retries is -1; expected a whole number from 0 to {MAX_RETRIES}"),
        ({"retries": MAX_RETRIES + 1}, f"retries is {MAX_RETRIES + 1}"),
        ({"retries": True}, "retries is True"),
        ({"retries": 1.5}, "retries is 1.5"),
        ({"timeout": 0}, "timeout is 0; expected seconds, above 0 and up to 31622400, or None"),
        ({"timeout": True}, "timeout is True"),
        ({"timeout": "1"}, "timeout is '1'; expected seconds, above 0 and up to 31622400, or None"),
    ],
)
def test_options_that_cannot_be_sent_are_refused_at_the_call(db: Handler, options: Any, words: str) -> None:
    with raises(ValueError, words):
        db.transaction(**options)


@pytest.mark.parametrize(
    ("expect", "limits"),
    [(None, (0, None)), (1, (1, 1)), (0, (0, 0)), ((1, 10), (1, 10)), ((2, None), (2, None)), ((0, 0), (0, 0))],
)
def test_expect_becomes_the_limits_of_a_step(db: Handler, channel: FakeChannel, expect: Any, limits: Any) -> None:
    channel.commits(without_rows())
    with db.transaction() as tx:
        tx.query("UPDATE a SET b = 1", expect=expect)
    assert channel.sent[0].steps[0][-2:] == limits


@pytest.mark.parametrize("expect", [-1, True, "1", 1.0, (2, 1), (None, 1), (1,), (1, 2, 3), [1, 2], 2**63])
def test_an_expect_that_means_nothing_is_refused_at_the_call(db: Handler, expect: Any) -> None:
    with db.transaction() as tx, raises(ValueError, "expect is ", "; expected a number of rows, or "):
        tx.query("UPDATE a SET b = 1", expect=expect)


def test_cells_of_earlier_results_travel_as_references(db: Handler, channel: FakeChannel) -> None:
    one = fields_of_result(("1",))
    channel.commits(one, None, one, None, one)
    with db.transaction() as tx:
        first = tx.query(INSERT_ORDER, (7,))
        with tx.savepoint():
            second = tx.query("INSERT INTO t VALUES (%s, %s, %s)", (first["id"], 5, first[2]["sku"]))
        tx.query(
            "SELECT %s, %s, %s, %s, %s",
            (second[0][1], first.column("id"), second.column(0), first[0].id, second["a b"]),
        )
    steps = channel.sent[0].steps
    assert [steps[1], steps[3]] == [SAVEPOINT, END_SAVEPOINT]
    assert steps[0].references == ()
    assert steps[2].references == (StepReference(0, 0, 0, "id"), StepReference(2, 0, 2, "sku"))
    assert steps[4].references == (
        StepReference(0, 2, 0, 1),
        StepReference(1, 0, None, "id"),
        StepReference(2, 2, None, 0),
        StepReference(3, 0, 0, "id"),
        StepReference(4, 2, 0, "a b"),
    )


def test_a_block_left_by_an_exception_sends_nothing(db: Handler, channel: FakeChannel) -> None:
    with raises(ZeroDivisionError), db.transaction() as tx:
        result = tx.query("SELECT 1")
        with tx.savepoint() as attempt:
            tx.query("SELECT 2")
        raise ZeroDivisionError("no")
    assert channel.sent == []
    for read in (result.fetchone, lambda: attempt.error and result["id"]):
        with raises(UsageError, "nothing of this transaction block was sent, ", "ZeroDivisionError: no"):
            read()
    with raises(UsageError) as caught:
        result.fetchall()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert caught.value.outcome == NOT_EXECUTED


def test_an_empty_block_sends_nothing(db: Handler, channel: FakeChannel) -> None:
    with db.transaction() as tx, tx.savepoint() as attempt:
        pass
    assert channel.sent == []
    assert attempt.error is None
    assert tx.tries == 0


def test_an_empty_savepoint_block_is_not_sent(db: Handler, channel: FakeChannel) -> None:
    channel.commits(without_rows())
    with db.transaction() as tx:
        with tx.savepoint(), tx.savepoint():
            pass
        tx.query("SELECT 1")
    assert len(channel.sent[0].steps) == 1


# Inside the block.


@pytest.mark.parametrize(
    "read",
    [
        lambda result: result.fetchone(),
        lambda result: result.fetchmany(2),
        lambda result: result.fetchall(),
        lambda result: result.close(),
        lambda result: result.result(),
        lambda result: result.rowcount,
        lambda result: result.statusmessage,
        lambda result: result.description,
        lambda result: result.columns,
        lambda result: result.notices,
        lambda result: result.arraysize,
        lambda result: setattr(result, "arraysize", 5),
        lambda result: result[0:2],
        lambda result: len(result),
        lambda result: bool(result),
        lambda result: list(result),
        lambda result: next(result),
        lambda result: 1 in result,
        lambda result: list(result[0]),
        lambda result: bool(result[0]),
        lambda result: result[0].keys(),
        lambda result: result[0] == (1,),
        lambda result: result["id"] == 1,
        lambda result: result["id"] != 1,
        lambda result: bool(result["id"]),
        lambda result: f"order {result['id']}",
        lambda result: str(result["id"]),
        lambda result: result.column("id") == [1],
    ],
)
def test_reading_inside_the_block_says_what_to_do_instead(
    db: Handler, channel: FakeChannel, read: Callable[[PendingResult], object]
) -> None:
    channel.commits(without_rows())
    with db.transaction() as tx:
        result = tx.query("SELECT 1")
        with raises(UsageError) as caught:
            read(result)
    text = str(caught.value)
    assert "Read it after the block" in text
    assert "result['column']" in text
    assert "autocommit=False" in text


@pytest.mark.parametrize("place", [-1, True, None, 1.5, 2**63])
def test_rows_and_columns_that_cannot_be_referred_to(db: Handler, channel: FakeChannel, place: Any) -> None:
    channel.commits(without_rows())
    with db.transaction() as tx:
        result = tx.query("SELECT 1")
        with raises(UsageError, "row ", "cannot be referred to", "; expected a number from 0"):
            result[place]
        for column in (result.column, result[0].__getitem__):
            with raises(UsageError, "column ", "; expected a name or a number from 0"):
                column(place)
        with raises(AttributeError):
            result[0].__len_hint__  # noqa: B018  reading it is the test


def test_a_savepoints_error_is_not_known_inside_the_block(db: Handler, channel: FakeChannel) -> None:
    channel.commits(None, without_rows(), None)
    with db.transaction() as tx:
        with tx.savepoint() as attempt:
            tx.query("SELECT 1")
        with raises(UsageError, "read error after it"):
            attempt.error  # noqa: B018  reading it is the test
    assert attempt.error is None


def test_pending_results_show_where_they_stand(db: Handler, channel: FakeChannel) -> None:
    channel.commits(fields_of_result(("1",)))
    with db.transaction() as tx:
        result = tx.query("SELECT 1 AS id")
        assert repr(result) == "<PendingResult not sent yet>"
        assert repr(result[3]) == "<PendingRow 3>"
    assert repr(result) == repr(result.result())


# Calls out of place.


def test_a_reference_to_another_block_is_refused(db: Handler, channel: FakeChannel) -> None:
    channel.commits(without_rows())
    with db.transaction() as first:
        one = first.query("SELECT 1 AS id")
        with db.transaction() as second:
            with raises(UsageError, "parameter 2 is a result of a statement that is not in this"):
                second.query("SELECT %s, %s", (1, one["id"]))
            with raises(UsageError, "parameter 1 is "):
                second.query("SELECT %s", (Reference(None, 0, "id"),))
    assert len(channel.sent) == 1


def test_a_reference_in_a_handlers_query_is_refused(db: Handler, channel: FakeChannel) -> None:
    channel.commits(without_rows())
    with db.transaction() as tx:
        one = tx.query("SELECT 1 AS id")
        with raises(UsageError, "a parameter is a result of a statement in a transaction block"):
            db.query("SELECT %s", (one["id"],))
    assert len(channel.sent) == 1


def test_bad_parameters_are_refused_at_the_call(db: Handler, channel: FakeChannel) -> None:
    channel.commits(without_rows())
    with db.transaction() as tx:
        with raises((TypeError, IndexError)):
            tx.query("SELECT %s, %s", (1,))
        with raises(TypeError, "prepare is 'off'"):
            tx.query("SELECT 1", prepare="off")  # type: ignore[arg-type]  # the point
        tx.query("SELECT 1")
    assert len(channel.sent[0].steps) == 1


def test_a_block_is_entered_once_and_used_only_inside(db: Handler) -> None:
    tx = db.transaction()
    for call in (lambda: tx.query("SELECT 1"), lambda: tx.savepoint().__enter__()):
        with raises(UsageError, "this transaction has not begun; write: with "):
            call()
    with tx, raises(UsageError, "entered only once"):
        tx.__enter__()
    for call in (lambda: tx.query("SELECT 1"), lambda: tx.savepoint().__enter__()):
        with raises(UsageError, "this transaction's block has ended"):
            call()
    with raises(UsageError, "entered only once"):
        tx.__enter__()


def test_the_statement_beyond_the_limit_is_refused(db: Handler, channel: FakeChannel) -> None:
    channel.commits(*[without_rows()] * MAX_STEPS)
    with db.transaction() as tx:
        for _ in range(MAX_STEPS):
            tx.query("SELECT 1")
        with raises(UsageError, "this statement is one too many", f"at most {MAX_STEPS} steps", "split"):
            tx.query("SELECT 1")
    assert len(channel.sent[0].steps) == MAX_STEPS


def test_a_savepoint_block_keeps_room_for_its_end(db: Handler, channel: FakeChannel) -> None:
    channel.commits(*[without_rows()] * (MAX_STEPS - 3), None, without_rows(), None)
    with db.transaction() as tx:
        for _ in range(MAX_STEPS - 3):
            tx.query("SELECT 1")
        with tx.savepoint() as attempt:
            tx.query("SELECT 2")
            with raises(UsageError, "this statement is one too many"):
                tx.query("SELECT 3")
        with raises(UsageError, "this savepoint block is one too many"), tx.savepoint():
            pass
    assert len(channel.sent[0].steps) == MAX_STEPS
    assert attempt.error is None


def test_a_handler_with_an_open_transaction_refuses_a_block(channel: FakeChannel) -> None:
    db = Handler("interactive", address=ADDRESS)
    db.query("SELECT 1")
    with raises(UsageError, "interactive transaction is open", "commit() or rollback() first"):
        db.transaction()


def test_an_interactive_transaction_begun_inside_a_block_keeps_it_from_being_sent(channel: FakeChannel) -> None:
    db = Handler("interactive", address=ADDRESS)
    with raises(UsageError, "interactive transaction is open"), db.transaction() as tx:
        result = tx.query("SELECT 1")
        db.query("SELECT 2")
    assert [type(message) for message in channel.sent] == [Query]
    with raises(UsageError, "nothing of this transaction was committed: "):
        result.fetchone()


def test_a_group_that_is_gone_is_named(db: Handler, channel: FakeChannel) -> None:
    with raises(UnconfiguredGroupError, "no group 'default'"), db.transaction() as tx:
        tx.query("SELECT 1")
        channel.welcome.groups.clear()
    assert channel.sent == []


def test_blocks_inside_each_other_are_messages_of_their_own(db: Handler, channel: FakeChannel) -> None:
    channel.commits(without_rows())
    with db.transaction() as outer:
        outer.query("SELECT 'outer'")
        with db.transaction() as inner:
            inner.query("SELECT 'inner'")
    assert [message.steps[0].statement for message in channel.sent] == [b"SELECT 'inner'", b"SELECT 'outer'"]


# The query of one statement.


def test_a_query_says_how_it_is_to_be_prepared(channel: FakeChannel) -> None:
    db = Handler(address=ADDRESS, tag="t", prepare=False)
    db.query("SELECT %s", (1,))
    db.query("SELECT 1", None, 2.0, prepare=True)
    Handler(address=ADDRESS).query("SELECT 1")
    first, second, third = channel.sent
    assert (first.group, first.lease, first.begin, first.statement) == ("default", 0, False, b"SELECT \0")
    assert (first.prepare, first.timeout, first.tag) == (False, None, "t")
    assert (second.prepare, second.timeout, third.prepare) == (True, 2.0, True)
    assert channel.patience == [None, 2.0 + GRACE, None]
    with raises(TypeError, "prepare is 'off'"):
        db.query("SELECT 1", prepare="off")  # type: ignore[arg-type]  # the point
    with raises(TypeError, "prepare is None"):
        Handler(address=ADDRESS, prepare=None)  # type: ignore[arg-type]  # the point


def test_an_interactive_transaction_is_begun_by_its_first_query(channel: FakeChannel) -> None:
    db = Handler("interactive", address=ADDRESS)
    db.query("SELECT 1")
    db.query("SELECT 2")
    first, second = channel.sent
    assert first.lease == second.lease != 0
    assert (first.begin, second.begin, db.in_transaction) == (True, False, True)
