"""Event scripts of statements that may commit by themselves: how many transactions they had, and what that tells."""

import pytest
from units import sent
from world import FATAL, OK, TX_ACTIVE, TX_NONE, World, executed, failure, numbered

from client.wire.limits import IN_SESSION, OPENS_SESSION
from client.wire.messages import (
    EXECUTED,
    FAILED,
    NOT_EXECUTED,
    TX_BROKEN,
    TX_FAILED,
    UNKNOWN,
    Commit,
    Failure,
    ResultMessage,
)
from poold.core import effects
from poold.core.facts import Completion, Loss
from poold.core.records.request import Verb
from poold.core.requests.runs import QUESTION_TIMEOUT
from poold.core.state import BackendState as S
from poold.core.work.outcomes import QUESTION, is_one_step, may_end_block

CALL = b"CALL p()"
ERROR = "server closed the connection unexpectedly"
CANCELLED = failure("57014", message="canceling statement due to user request")


def calling(
    sql: bytes = CALL, before: bytes = b"3/10", shows_resets: bool = False, **over: object
) -> tuple[World, int, int]:
    """A statement that runs, the question ahead of it answered; its request and its backend."""
    world = World(max_size=1, shows_resets=shows_resets)
    world.client()
    request = world.query(statement=sql, **over)  # type: ignore[arg-type]
    world.connect_all()
    backend = world.running(request)
    told(world, backend, before)
    return world, request, backend


def told(world: World, backend: int, number: bytes) -> None:
    """The answer to a question that the backend runs."""
    request = world.broker.backends[backend].request
    assert request is not None
    assert request.verb is Verb.QUESTION
    world.broker.completed(backend, Completion(TX_NONE, [numbered(number)]), world.now)
    world.take()


def fail(world: World, backend: int, error: Failure | None = None, transaction: str = TX_NONE) -> None:
    """The statement fails."""
    found = (error or failure())._replace(transaction=transaction)
    world.broker.completed(backend, Completion(transaction, [], found), world.now)
    world.take()


def outcome(world: World, request: int) -> str:
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    return reply.outcome


def asked(world: World, backend: int) -> list[effects.Unit]:
    return [each.unit for each in world.taken(effects.Execute) if each.backend == backend]


def test_the_question_goes_ahead_without_a_round_trip() -> None:
    world = World()
    world.client()
    request = world.query(statement=CALL)
    world.connect_all()
    backend = world.running(request)
    assert asked(world, backend) == [executed(backend, QUESTION).unit, executed(backend, CALL).unit]


@pytest.mark.parametrize("sql", [b"SELECT 1", b"(VALUES (1));", b"with a as (select 1) select 1", b"BEGIN", b""])
def test_what_cannot_commit_by_itself_is_not_asked_for(sql: bytes) -> None:
    world = World()
    world.client()
    request = world.query(statement=sql)
    world.connect_all()
    assert asked(world, world.running(request)) == [executed(0, sql).unit]


def test_what_succeeds_is_answered_at_once() -> None:
    world, request, backend = calling()
    world.broker.completed(backend, Completion(TX_NONE, [OK]), world.now)
    assert world.outcome(request) == OK


@pytest.mark.parametrize(
    ("after", "expected"),
    [(b"3/11", FAILED), (b"3/12", FAILED), (b"3/13", UNKNOWN), (b"4/12", UNKNOWN), (b"3/10", UNKNOWN), (b"", UNKNOWN)],
)
def test_a_failure_is_answered_when_the_server_has_told_how_many_transactions_it_had(
    after: bytes, expected: str
) -> None:
    world, request, backend = calling(shows_resets=True)
    fail(world, backend)
    assert not world.is_answered(request)
    told(world, backend, after)
    assert outcome(world, request) == expected
    assert sent(world, backend)[-2][0].startswith(b"RESET"), "it is reset as ever"


def test_without_the_first_answer_nobody_knows() -> None:
    world, request, backend = calling(before=b"")
    fail(world, backend)
    told(world, backend, b"3/12")
    assert outcome(world, request) == UNKNOWN


def test_what_a_string_left_open_is_rolled_back_before_the_question() -> None:
    world, request, backend = calling(b"INSERT 1; COMMIT; BEGIN; INSERT 2")
    world.broker.completed(backend, Completion(TX_ACTIVE, [OK]), world.now)
    assert asked(world, backend)[-1] == executed(backend, b"ROLLBACK; " + QUESTION).unit
    told(world, backend, b"3/13")
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert (reply.kind, reply.outcome) == ("usage", UNKNOWN)
    assert world.state(backend) is S.IDLE


def test_a_cancelled_statement_is_asked_for_when_the_cancel_is_settled() -> None:
    world, request, backend = calling()
    world.broker.cancel(1, request, world.now)
    fail(world, backend, CANCELLED)
    assert world.state(backend) is S.SETTLING
    assert not world.is_answered(request)
    count = len(asked(world, backend))
    world.broker.cancelled(backend, world.now)
    assert len(asked(world, backend)) == count + 1
    told(world, backend, b"3/12")
    assert outcome(world, request) == FAILED


def test_a_cancel_while_the_question_ahead_runs_waits_for_its_statement() -> None:
    world = World()
    world.client()
    request = world.query(statement=CALL)
    world.connect_all()
    backend = world.running(request)
    world.broker.cancel(1, request, world.now)
    assert not world.taken(effects.Cancel)
    told(world, backend, b"3/10")
    assert world.taken(effects.Cancel) == [effects.Cancel(backend)]


def test_a_cancel_while_it_is_asked_for_is_not_sent() -> None:
    world, request, backend = calling()
    fail(world, backend)
    world.broker.cancel(1, request, world.now)
    assert not world.taken(effects.Cancel)
    told(world, backend, b"3/13")
    assert outcome(world, request) == UNKNOWN


def test_a_client_that_goes_while_it_is_asked_for_leaves_a_backend_that_is_reset() -> None:
    world, _, backend = calling(shows_resets=True)
    fail(world, backend)
    world.broker.client_gone(1, world.now)
    told(world, backend, b"3/12")
    assert world.state(backend) is S.RESETTING


@pytest.mark.parametrize("how", ["lost", "stop", "silent"])
def test_a_backend_that_goes_before_it_has_told_leaves_the_outcome_unknown(how: str) -> None:
    world, request, backend = calling()
    fail(world, backend)
    if how == "lost":
        world.broker.lost(backend, Loss(ERROR), world.now)
    elif how == "stop":
        world.broker.stop(world.now)
    else:
        world.pass_time(world.config.endpoints["main"].query_timeout + QUESTION_TIMEOUT)
    assert outcome(world, request) == UNKNOWN
    assert backend not in world.broker.backends


@pytest.mark.parametrize("last", [None, FATAL])
def test_a_backend_that_is_lost_while_it_runs_leaves_the_outcome_unknown(last: Failure | None) -> None:
    world, request, backend = calling()
    world.broker.lost(backend, Loss(ERROR, last=last), world.now)
    assert outcome(world, request) == UNKNOWN


@pytest.mark.parametrize("over", [{"last": FATAL}, {"unsent": 1}, {"unsent": 2}])
def test_one_that_was_lost_before_it_began_runs_elsewhere(over: dict[str, object]) -> None:
    world = World(max_size=1)
    world.client()
    request = world.query(statement=CALL)
    world.connect_all()
    world.broker.lost(world.running(request), Loss(ERROR, **over), world.now)  # type: ignore[arg-type]
    world.connect_all()
    another = world.running(request)
    told(world, another, b"5/1")
    fail(world, another)
    told(world, another, b"5/3")
    assert outcome(world, request) == FAILED


def test_code_that_leaves_its_connection_unusable_may_have_committed() -> None:
    world, request, backend = calling()
    fail(world, backend, transaction=TX_BROKEN)
    assert outcome(world, request) == UNKNOWN


def test_a_drain_waits_for_the_answer() -> None:
    world, request, backend = calling()
    world.broker.drain(world.now)
    fail(world, backend)
    assert not world.taken(effects.Stop)
    told(world, backend, b"3/12")
    assert outcome(world, request) == FAILED
    assert world.taken(effects.Stop)


def test_an_interrupted_drop_of_a_database_may_have_left_something() -> None:
    world, request, backend = calling(b"DROP DATABASE a")
    fail(world, backend, CANCELLED)
    told(world, backend, b"3/12")
    assert outcome(world, request) == UNKNOWN


# Settings.


def test_settings_go_ahead_with_the_question_and_the_session_is_reset() -> None:
    world = World(max_size=1, shows_resets=True)
    world.client()
    request = world.query(statement=CALL, settings=b"work_mem\x001MB\0")
    world.connect_all()
    backend = world.running(request)
    assert sent(world, backend) == [[b"SELECT pg_catalog.set_config('work_mem', '1MB', false)", QUESTION]]
    world.broker.completed(backend, Completion(TX_NONE, [OK, numbered(b"3/10")]), world.now)
    assert sent(world, backend)[-1] == [CALL]
    fail(world, backend)
    told(world, backend, b"3/12")
    assert outcome(world, request) == FAILED
    assert b"RESET ALL" in sent(world, backend)[-2][0]


def test_where_a_setting_is_refused_nothing_else_is_sent() -> None:
    world = World(max_size=1)
    world.client()
    request = world.query(statement=CALL, settings=b"work_mem\x00x\0")
    world.connect_all()
    backend = world.running(request)
    fail(world, backend, failure("22023"))
    assert outcome(world, request) == FAILED
    assert [CALL] not in sent(world, backend)


def test_a_backend_lost_under_the_settings_has_not_begun() -> None:
    world = World(max_size=1, shows_resets=True)
    world.client()
    request = world.query(statement=CALL, settings=b"work_mem\x001MB\0")
    world.connect_all()
    world.broker.lost(world.running(request), Loss(ERROR), world.now)
    world.connect_all()
    assert world.running(request)


# Sessions and leases.


def in_session(world: World) -> int:
    world.client()
    world.query(lease=1, session=OPENS_SESSION)
    world.connect_all()
    (backend,) = world.broker.backends
    world.complete(backend)
    return backend


def test_a_session_outside_of_a_transaction_is_asked_and_goes_on() -> None:
    world = World(max_size=1)
    backend = in_session(world)
    request = world.query(lease=1, session=IN_SESSION, statement=CALL)
    told(world, backend, b"3/10")
    fail(world, backend)
    told(world, backend, b"3/14")
    assert outcome(world, request) == UNKNOWN
    assert world.state(backend) is S.LEASED


@pytest.mark.parametrize(
    ("sql", "expected"),
    [(b"INSERT 1; COMMIT; BEGIN; INSERT 2", UNKNOWN), (b"BEGIN; INSERT 1; SAVEPOINT a; INSERT 2", FAILED)],
)
def test_a_transaction_that_a_string_has_begun_in_a_session_is_left_alone(sql: bytes, expected: str) -> None:
    world = World(max_size=1)
    backend = in_session(world)
    request = world.query(lease=1, session=IN_SESSION, statement=sql)
    told(world, backend, b"3/10")
    fail(world, backend, transaction=TX_FAILED)
    assert outcome(world, request) == expected
    assert world.broker.backends[backend].transaction == TX_FAILED


@pytest.mark.parametrize(
    ("sql", "expected"),
    [(b"COMMIT; INSERT 1", UNKNOWN), (b"INSERT 1; INSERT 2", FAILED), (CALL, FAILED), (b"COMMIT", FAILED)],
)
def test_in_a_lease_only_a_string_with_a_commit_may_have_committed(sql: bytes, expected: str) -> None:
    world = World()
    world.client()
    backend = world.begin(1)
    request = world.query(group="tx", lease=1, statement=sql)
    assert asked(world, backend)[-1] == executed(backend, sql).unit
    fail(world, backend, transaction=TX_FAILED)
    assert outcome(world, request) == expected


@pytest.mark.parametrize(("unsent", "expected"), [(0, UNKNOWN), (1, NOT_EXECUTED)])
def test_a_lease_that_was_lost_during_its_commit_is_unknown_in_every_later_answer(unsent: int, expected: str) -> None:
    world = World()
    world.client()
    backend = world.begin(1)
    commit = world.end(Commit, 1)
    world.take()
    world.broker.lost(backend, Loss(ERROR, unsent=unsent), world.now)
    later = [world.query(group="tx", lease=1), world.end(Commit, 1)]
    assert [outcome(world, each) for each in (commit, *later)] == [expected] * 3


def test_a_commit_of_what_had_ended_already_is_unknown() -> None:
    world = World()
    world.client()
    backend = world.begin(1)
    commit = world.end(Commit, 1)
    world.complete(backend, command="COMMIT")
    assert isinstance(world.reply_to(commit), ResultMessage)
    assert outcome(world, world.end(Commit, 1)) == UNKNOWN


# What is told by texts and numbers.


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (b"COMMIT", False),
        (b"COMMIT; SELECT 1", True),
        (b"SELECT 1; /* a */ end;", True),
        (b"SELECT 'a; commit'; SELECT 2", False),
        (b"SELECT 1; ROLLBACK; SELECT 2", False),
        (b"PREPARE p AS SELECT 1; EXECUTE p", False),
        (b"PREPARE TRANSACTION 'a'; SELECT 1", True),
        (b"SELECT commit FROM t; SELECT a AS end", False),
    ],
)
def test_strings_that_may_end_their_transaction(sql: bytes, expected: bool) -> None:
    assert may_end_block(sql) is expected


def test_what_is_too_long_to_be_read_may_end_it() -> None:
    assert may_end_block(b"SELECT 1;" + b"a b " * 60_000)


def test_numbers_of_one_session_tell_and_others_do_not() -> None:
    assert is_one_step(b"3/9", b"3/11") is True
    assert is_one_step(b"3/9", b"3/12") is False
    assert is_one_step(b"3/9", b"4/11") is None
    assert is_one_step(b"", b"") is None


def test_a_result_that_is_too_large_was_executed() -> None:
    world, request, backend = calling()
    world.broker.completed(backend, Completion(TX_NONE, [OK._replace(rows=None)]), world.now)
    assert outcome(world, request) == EXECUTED
