"""Event scripts of transaction messages: what goes out in which unit, and what the client is told of it."""

from typing import Any

import pytest
from units import (
    INSERT,
    READ,
    UNTRACKED,
    UPDATE,
    WRITTEN,
    answer,
    begin,
    committed,
    completion,
    current_unit,
    failed,
    oids,
    packed,
    promote,
    sent,
    step,
    table,
)
from world import OK, World, executed, failure

from client.wire.limits import END_SAVEPOINT, SAVEPOINT
from client.wire.messages import (
    EXECUTED,
    FAILED,
    NOT_EXECUTED,
    TX_ACTIVE,
    TX_BROKEN,
    TX_NONE,
    UNKNOWN,
    Failure,
    ResultMessage,
    StepReference,
    TransactionResult,
)
from poold.core import effects
from poold.core.effects import Plain
from poold.core.facts import Completion, StatementResult
from poold.core.state import BackendState as S
from poold.core.work.script import XID

ROLLBACK = [b"ROLLBACK"]


# Units.


def test_a_message_without_references_and_expectations_is_one_unit() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, INSERT, READ)
    assert sent(world) == [[b"BEGIN", b"INSERT 1", b"SELECT 1", b"COMMIT"]]
    assert not world.is_answered(request)
    answer(world, backend)
    reply = committed(world, request)
    assert [entry[2:] for entry in reply.results] == [WRITTEN, OK]
    assert (reply.tries, reply.step) == (1, -1)
    assert world.state(backend) is S.IDLE


def test_a_message_is_cut_where_a_step_needs_a_result_of_the_same_unit() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(
        world,
        step(b"SELECT id"),
        INSERT,
        step(b"UPDATE \0", StepReference(0, 0, 0, "id")),
        step(b"UPDATE 2 \0", StepReference(0, 0, 0, "id")),
    )
    assert sent(world) == [[b"BEGIN", b"SELECT id", b"INSERT 1"]]
    answer(world, backend, {b"SELECT id": table({"id": 23}, [b"42"])})
    assert sent(world)[1:] == [[b"UPDATE 42", b"UPDATE 2 42", b"COMMIT"]], "the result is known, no other cut"
    answer(world, backend)
    assert len(committed(world, request).results) == 4


def test_a_message_is_cut_at_the_end_of_each_savepoint_block() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, SAVEPOINT, INSERT, END_SAVEPOINT, UPDATE, SAVEPOINT, READ, END_SAVEPOINT)
    answer(world, backend)
    answer(world, backend)
    answer(world, backend)
    units = [[text.split()[0] for text in unit] for unit in sent(world)]
    assert units == [
        [b"BEGIN", b"SAVEPOINT", b"INSERT"],
        [b"RELEASE", b"UPDATE", b"SAVEPOINT", b"SELECT"],
        [b"RELEASE", b"COMMIT"],
    ]
    kept = [None if entry is None else entry[2] for entry in committed(world, request).results]
    assert kept == [None, "INSERT 0 1", None, "UPDATE 1", None, "SELECT 1", None]


def test_a_message_is_cut_before_commit_where_a_row_count_is_expected() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, step(b"UPDATE 1", low=1, high=1), READ)
    assert sent(world) == [[b"BEGIN", b"UPDATE 1", b"SELECT 1"]]
    answer(world, backend)
    assert sent(world)[1:] == [[b"COMMIT"]]
    answer(world, backend)
    committed(world, request)


@pytest.mark.parametrize(
    ("over", "begin_words"),
    [
        ({}, b"BEGIN"),
        ({"isolation": "repeatable read"}, b"BEGIN ISOLATION LEVEL REPEATABLE READ"),
        ({"read_only": True}, b"BEGIN READ ONLY"),
        ({"read_only": False, "deferrable": False}, b"BEGIN READ WRITE NOT DEFERRABLE"),
        (
            {"isolation": "serializable", "read_only": True, "deferrable": True},
            b"BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE",
        ),
    ],
)
def test_begin_says_what_the_message_asks_for(over: dict[str, Any], begin_words: bytes) -> None:
    world = World()
    begin(world, READ, **over)
    assert sent(world)[0][0] == begin_words


def test_the_transactions_id_is_asked_for_and_flushed_ahead_of_what_is_written() -> None:
    world = World()
    begin(world, READ, INSERT)
    assert sent(world) == [[b"BEGIN", XID, b"FLUSH", b"SELECT 1", b"INSERT 1", b"COMMIT"]]


@pytest.mark.parametrize(
    ("settings", "steps", "over"),
    [
        ({}, [READ], {}),
        ({}, [READ, INSERT], {"read_only": True}),
        ({"track_outcome": False}, [INSERT], {}),
    ],
)
def test_what_writes_nothing_needs_no_transaction_id(
    settings: dict[str, Any], steps: list[Any], over: dict[str, Any]
) -> None:
    world = World(**settings)
    begin(world, *steps, **over)
    assert XID not in sent(world)[0]
    assert b"FLUSH" not in sent(world)[0]


def test_the_brokers_own_statements_are_prepared_once_per_backend() -> None:
    world = World(prepare="auto", **UNTRACKED)
    promote(world, b"SELECT 1")
    _, backend = begin(world, READ)
    answer(world, backend)
    world.transaction(READ)
    assert sent(world) == [
        [b"PREPARE BEGIN", b"BEGIN", b"PREPARE SELECT 1", b"SELECT 1", b"PREPARE COMMIT", b"COMMIT"],
        [b"BEGIN", b"SELECT 1", b"COMMIT"],
    ]


def test_behind_a_step_that_nobody_has_examined_the_brokers_own_statements_are_not_prepared_either() -> None:
    world = World(prepare="auto", **UNTRACKED)
    _, backend = begin(world, READ)
    assert sent(world) == [[b"PREPARE BEGIN", b"BEGIN", b"SELECT 1", b"COMMIT"]]
    assert [type(each) for each in current_unit(world, backend)[-2:]] == [Plain, Plain]


def test_a_backend_in_a_message_serves_nobody_else_between_its_units() -> None:
    world = World(max_size=1, **UNTRACKED)
    request, backend = begin(world, step(b"UPDATE 1", low=1))
    other = world.query(statement=b"SELECT 'other'")
    answer(world, backend)
    assert sent(world)[-1] == [b"COMMIT"]
    answer(world, backend)
    assert world.running(other) == backend
    committed(world, request)


# What is refused.


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        (b"COPY t FROM STDIN", "COPY"),
        (b"SELECT 1; SELECT 2", "several statements"),
        (b"COMMIT", "begins or ends a transaction"),
        (b"SAVEPOINT mine", "begins or ends a transaction"),
        (b"-- nothing", "is empty"),
    ],
)
def test_what_cannot_be_part_of_a_message_is_refused_before_it_runs(sql: bytes, words: str) -> None:
    world = World()
    world.client()
    reply = world.reply_to(world.transaction(READ, step(sql)))
    assert isinstance(reply, Failure)
    assert (reply.kind, reply.outcome) == ("usage", NOT_EXECUTED)
    assert "statement 2" in reply.message
    assert words in reply.message
    assert world.taken(effects.Execute) == world.taken(effects.Connect) == []


def test_values_that_are_none_are_refused_before_anything_runs() -> None:
    world = World()
    world.client()
    reply = world.reply_to(world.transaction(step(b"SELECT \0", types=oids(23), values=packed(b"1; DROP TABLE t"))))
    assert isinstance(reply, Failure)
    assert reply.outcome == NOT_EXECUTED


@pytest.mark.parametrize("over", [{"values": ()}, {"values": (b"", b"")}, {"steps": b""}, {"steps": b"\x91\x02"}])
def test_what_no_client_of_ours_sends_is_refused(over: dict[str, Any]) -> None:
    world = World()
    world.client()
    reply = world.reply_to(world.transaction(READ, **over))
    assert isinstance(reply, Failure)
    assert (reply.kind, reply.outcome) == ("protocol", NOT_EXECUTED)


def test_messages_that_differ_in_their_values_share_what_is_known_of_their_steps() -> None:
    world = World(**UNTRACKED)
    for value in (b"1", b"2"):
        _, backend = begin(world, step(b"UPDATE \0", types=oids(23), values=packed(value)))
        answer(world, backend)
    assert [unit[1] for unit in sent(world)] == [b"UPDATE 1", b"UPDATE 2"]
    assert len(world.broker.groups["default"].plans) == 1


@pytest.mark.parametrize(
    ("settings", "group", "kind"),
    [({}, "nope", "unconfigured-group"), ({"max_size": 1, "max_waiting": 1}, "default", "too-many-requests")],
)
def test_a_message_is_refused_as_a_query_is(settings: dict[str, Any], group: str, kind: str) -> None:
    world = World(**settings)
    world.client()
    world.query()
    reply = world.reply_to(world.transaction(READ, group=group))
    assert isinstance(reply, Failure)
    assert reply.kind == kind


# A step that fails.


def test_a_step_that_fails_ends_the_transaction_and_is_reported_once_it_is_rolled_back() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, INSERT, UPDATE, READ)
    answer(world, backend, fails=b"UPDATE 1", error=failure("23505", message="duplicate key"))
    assert sent(world)[1:] == [ROLLBACK]
    assert not world.is_answered(request)
    answer(world, backend)
    answered, place = failed(world, request)
    assert (answered.sqlstate, answered.transaction, place) == ("23505", TX_NONE, 1)
    assert world.state(backend) is S.IDLE


def test_a_step_of_a_later_unit_is_found_as_well() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, SAVEPOINT, READ, END_SAVEPOINT, INSERT, UPDATE)
    answer(world, backend)
    answer(world, backend, fails=b"UPDATE 1")
    answer(world, backend)
    assert failed(world, request)[1] == 4


def test_a_begin_that_fails_belongs_to_no_step_and_needs_no_rollback() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, READ)
    answer(world, backend, fails=b"BEGIN", error=failure("53200"))
    assert sent(world)[1:] == []
    answered, place = failed(world, request)
    assert (answered.sqlstate, place) == ("53200", -1)


def test_a_commit_that_fails_belongs_to_no_step_and_needs_no_rollback() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, INSERT)
    answer(world, backend, fails=b"COMMIT", error=failure("23503"))
    assert sent(world)[1:] == []
    answered, place = failed(world, request)
    assert (answered.sqlstate, answered.outcome, place) == ("23503", FAILED, -1)


def test_a_transaction_id_that_cannot_be_had_belongs_to_no_step() -> None:
    world = World()
    request, backend = begin(world, INSERT)
    answer(world, backend, fails=XID, error=failure("42501"))
    answer(world, backend)
    assert failed(world, request)[1] == -1


def test_a_commit_answered_with_rollback_is_an_error() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, INSERT)
    answer(world, backend, {b"COMMIT": StatementResult("ROLLBACK", -1, None, b"", ())})
    assert failed(world, request)[0].sqlstate == "25P02"


def test_a_statement_that_ends_the_transaction_leaves_its_outcome_unknown() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, step(b"CALL p()", low=0, high=9))
    done = completion(world, backend)
    done.transaction = TX_NONE
    world.broker.completed(backend, done, world.now)
    assert failed(world, request)[0].outcome == UNKNOWN
    assert not any(b"COMMIT" in unit for unit in sent(world)[1:]), (
        "a COMMIT would end somebody else's transaction, or none"
    )


def test_a_commit_that_leaves_the_connection_unusable_is_a_commit() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, step(b"SELECT sets_datestyle()"), INSERT)
    done = completion(world, backend)
    done.transaction = TX_BROKEN
    done.failure = failure(transaction=TX_BROKEN)._replace(kind="usage")
    world.broker.completed(backend, done, world.now)
    for _ in sent(world)[1:]:
        world.broker.completed(backend, done, world.now)
    reply = world.reply_to(request)
    assert isinstance(reply, TransactionResult)
    assert reply.failure is None or reply.failure[3] == EXECUTED, "it is not to be called rolled back"
    assert backend not in world.broker.backends


def test_a_result_too_large_to_keep_is_an_entry_and_the_transaction_is_committed() -> None:
    world = World(**UNTRACKED)
    request, backend = begin(world, READ, INSERT)
    answer(world, backend, {b"SELECT 1": StatementResult("SELECT 9", 9, b"\0\0", None, ())})
    first, second = committed(world, request).results
    assert (first[2], first[3]) == ("result-too-large", EXECUTED)
    assert second[2:] == WRITTEN


def test_results_are_held_to_the_limit_together_whatever_units_they_came_in() -> None:
    world = World(**UNTRACKED)
    large = b"x" * (world.config.broker.max_result_bytes // 3)
    again = step(b"SELECT \0", StepReference(0, 0, 0, "small"))
    request, backend = begin(world, READ, READ, again, step(b"SELECT 2"))
    answer(world, backend, {b"SELECT 1": table({"id": 23, "small": 23}, [large, b"5"])})
    (text,) = [text for text in sent(world, backend)[-1] if text not in (b"SELECT 2", b"COMMIT")]
    answer(world, backend, {text: table({"id": 23}, [large]), b"SELECT 2": table({"id": 23}, [b"6"])})
    results = committed(world, request).results
    assert [result[2] for result in results] == ["SELECT 1", "SELECT 1", "result-too-large", "SELECT 1"]


# Counters.


def test_messages_are_counted_as_requests_and_their_failures_as_errors() -> None:
    world = World(**UNTRACKED)
    _, backend = begin(world, INSERT)
    answer(world, backend)
    world.transaction(INSERT)
    answer(world, backend, fails=b"INSERT 1")
    answer(world, backend)
    stats = world.broker.groups["default"].stats
    assert (stats.requests, stats.errors, stats.retries, stats.in_doubt) == (2, 1, 0, 0)
    assert world.broker.groups["default"].pools[0].stats.requests == 2


def test_the_rollback_of_a_failed_message_is_not_a_reset_of_the_backend() -> None:
    world = World(**UNTRACKED)
    _, backend = begin(world, INSERT)
    answer(world, backend, fails=b"INSERT 1")
    assert world.state(backend) is S.ACTIVE
    assert world.taken(effects.Execute)[-1] == executed(backend, b"ROLLBACK")


def test_who_comes_after_a_failed_message_gets_a_backend_without_transaction() -> None:
    world = World(max_size=1, **UNTRACKED)
    request, backend = begin(world, INSERT)
    other = world.query()
    answer(world, backend, fails=b"INSERT 1")
    assert not world.is_answered(request)
    world.broker.completed(backend, Completion(TX_ACTIVE, [StatementResult("ROLLBACK", -1, None, b"", ())]), world.now)
    assert world.resets() == [backend, backend], "the ROLLBACK did not help, another follows before anybody's turn"
    answer(world, backend)
    world.finish(other)
    reply = world.reply_to(other)
    assert isinstance(reply, ResultMessage)
    assert tuple(reply)[2:] == OK
