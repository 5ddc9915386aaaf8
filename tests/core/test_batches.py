"""Batches in the core: one unit for many statements, and what becomes of it if one of them fails or is cancelled."""

from typing import Any

import pytest
from units import INSERT, SHORT, WRITTEN, oids, packed, promote, sent, step, table
from world import BEGUN, OK, World, failure

from client.wire.codec import split_steps
from client.wire.limits import IN_SESSION, OPENS_SESSION, SAVEPOINT
from client.wire.messages import (
    FAILED,
    NOT_EXECUTED,
    TX_ACTIVE,
    TX_FAILED,
    TX_LOST,
    TX_NONE,
    BatchMessage,
    Commit,
    Failure,
    ResultMessage,
    Rollback,
    StepReference,
)
from poold.core.effects import Cancel, Execute
from poold.core.facts import Completion, Loss
from poold.core.work.batch import FAILING, NOTICES_KEPT

ADD = b"INSERT INTO t VALUES (\0)"


def adding(*numbers: int) -> list[Any]:
    return [step(ADD, types=oids(23), values=packed(b"%d" % number)) for number in numbers]


def batch(world: World, *steps: Any, lease: int = 1, begin: bool = True, **over: Any) -> int:
    """Send a batch; returns its request number."""
    world._last_request += 1
    message = BatchMessage(world._last_request, "tx", lease, begin, *split_steps(steps), None, "")._replace(**over)
    world.broker.request(1, message, world.now)
    return message.request


def begun(*steps: Any, world: World | None = None, **over: Any) -> tuple[World, int, int]:
    """A world with a batch that runs: the world, the request and its backend."""
    world = world or World(max_size=1)
    world.client()
    request = batch(world, *steps, **over)
    world.connect_all()
    return world, request, world.running(request)


def refusal(*steps: Any, **over: Any) -> Failure:
    world = World()
    world.client()
    reply = world.reply_to(batch(world, *steps, **over))
    assert isinstance(reply, Failure)
    assert reply.outcome == NOT_EXECUTED
    assert not world.broker.clients[1].leases
    return reply


def test_its_statements_are_one_unit_and_their_counts_are_added_up() -> None:
    world, request, backend = begun(*adding(1, 2, 3))
    added = [b"INSERT INTO t VALUES (%d)" % number for number in (1, 2, 3)]
    assert sent(world, backend) == [[b"BEGIN", *added]]
    results = [BEGUN, WRITTEN, WRITTEN._replace(rowcount=5, command="INSERT 0 5"), WRITTEN._replace(notices=("n",))]
    world.broker.completed(backend, Completion(TX_ACTIVE, results), world.now)
    assert world.reply_to(request) == ResultMessage(request, TX_ACTIVE, "INSERT 0 1", 7, None, b"", ("n",))
    second = batch(world, *adding(4, 5), begin=False)
    world.broker.completed(backend, Completion(TX_ACTIVE, [WRITTEN, WRITTEN._replace(rowcount=-1)]), world.now)
    reply = world.reply_to(second)
    assert isinstance(reply, ResultMessage)
    assert reply.rowcount == -1
    end = world.end(Commit, 1)
    world.complete(backend, TX_NONE)
    assert isinstance(world.reply_to(end), ResultMessage)


def test_its_rows_are_not_for_the_client() -> None:
    world, request, backend = begun(step(b"SELECT 1"), step(b"SELECT 2"))
    rows = [BEGUN, table({"a": 23}, [b"1"]), table({"a": 23}, [b"1"], [b"2"])._replace(rows=None)]
    world.broker.completed(backend, Completion(TX_ACTIVE, rows), world.now)
    assert world.reply_to(request) == ResultMessage(request, TX_ACTIVE, "SELECT 2", 3, None, b"", ())


def test_what_is_prepared_is_run_so() -> None:
    world = World(prepare="auto", max_size=1)
    promote(world, SHORT, group="tx")
    promote(world, b"BEGIN", group="tx")
    world, _, backend = begun(*[step(SHORT)] * 3, world=world)
    (unit,) = sent(world, backend)
    assert unit[-3:] == [SHORT] * 3
    assert unit.count(b"PREPARE " + SHORT) == 1


def test_a_statement_is_prepared_when_batches_have_run_it_often_enough() -> None:
    world, _, backend = begun(*adding(1, 2), world=World(prepare="auto", max_size=1))
    for _ in range(10):
        world.broker.completed(backend, Completion(TX_ACTIVE, [BEGUN, WRITTEN, WRITTEN]), world.now)
        world.end(Commit, 1)
        world.complete(backend, TX_NONE)
        if b"PREPARE INSERT INTO t VALUES ($1)" in sent(world, backend)[-1]:
            return
        batch(world, *adding(1, 2))
    pytest.fail("no probe in ten transactions")


@pytest.mark.parametrize("place", [0, 2])
def test_a_failure_tells_which_statement_it_was(place: int) -> None:
    world, request, backend = begun(*adding(1, 2, 3))
    results = [BEGUN, *[WRITTEN._replace(notices=("n",))] * place]
    world.broker.completed(backend, Completion(TX_FAILED, results, failure(transaction=TX_FAILED)), world.now)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert (reply.transaction, reply.sqlstate, reply.diag["step"]) == (TX_FAILED, "22012", str(place))
    assert reply.notices == ("n",) * place


def test_a_failure_ahead_of_its_statements_names_none() -> None:
    world, request, backend = begun(*adding(1, 2))
    world.broker.completed(backend, Completion(TX_NONE, [], failure()), world.now)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert "step" not in reply.diag


def test_only_the_last_notices_are_kept() -> None:
    world, request, backend = begun(*adding(*range(100)))
    results = [BEGUN, *(WRITTEN._replace(notices=(f"{number}",)) for number in range(100))]
    world.broker.completed(backend, Completion(TX_ACTIVE, results), world.now)
    reply = world.reply_to(request)
    assert isinstance(reply, ResultMessage)
    assert reply.notices == tuple(str(number) for number in range(100 - NOTICES_KEPT, 100))
    second = batch(world, *adding(1, 2), begin=False)
    results = [WRITTEN._replace(notices=("x" * 200_000,)), WRITTEN._replace(notices=("y" * 200_000,))]
    world.broker.completed(backend, Completion(TX_ACTIVE, results), world.now)
    reply = world.reply_to(second)
    assert isinstance(reply, ResultMessage)
    assert [each[0] for each in reply.notices] == ["y"]


# A backslash has two meanings, by a setting that the statement before may have changed.
AMBIGUOUS = [step(b"SELECT f(\0)", values=packed(each)) for each in (b"a", b"b\\", b"c", b"d\\")]


def test_literals_wait_for_the_report_of_a_changed_setting() -> None:
    world, request, backend = begun(*AMBIGUOUS)
    assert len(sent(world, backend)) == 1
    world.broker.completed(backend, Completion(TX_ACTIVE, [BEGUN, OK._replace(rowcount=1)]), world.now)
    assert not world.is_answered(request)
    world.broker.completed(backend, Completion(TX_ACTIVE, [OK._replace(rowcount=2)] * 2), world.now)
    assert not world.is_answered(request)
    world.broker.completed(backend, Completion(TX_FAILED, [], failure(transaction=TX_FAILED)), world.now)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert reply.diag["step"] == "3"
    assert [len(unit) for unit in sent(world, backend)] == [2, 2, 1]


def test_nothing_follows_values_that_cannot_be_literals() -> None:
    """PostgreSQL itself refuses them if the statement runs prepared, so they are not looked at on arrival."""
    world = World(prepare="auto", max_size=1)
    world, request, backend = begun(*adding(1), world=world)
    world.broker.completed(backend, Completion(TX_ACTIVE, [BEGUN, WRITTEN]), world.now)
    assert isinstance(world.reply_to(request), ResultMessage)
    promote(world, ADD, oids(23), group="tx")
    wrong = step(ADD, types=oids(23), values=packed(b"no number"))
    second = batch(world, *adding(2), wrong, *adding(3), begin=False)
    assert sent(world, backend)[-1] == [b"INSERT INTO t VALUES (2)", b""]
    refused = failure("42601", TX_ACTIVE, "empty")
    world.broker.completed(backend, Completion(TX_ACTIVE, [WRITTEN], refused), world.now)
    reply = world.reply_to(second)
    assert isinstance(reply, Failure)
    assert (reply.diag["step"], reply.transaction) == ("1", TX_ACTIVE)
    assert sent(world, backend)[-1] == [b"INSERT INTO t VALUES (2)", b""]


# In each gap of AMBIGUOUS, which is three units: how many statements have run.
GAPS = {1: [1], 3: [1, 2]}


def canceled_in_gap(ran: int, **over: Any) -> tuple[World, int, int]:
    """A batch that was cancelled while the last unit before this gap ran, which has ended well."""
    world, request, backend = begun(*AMBIGUOUS, **over)
    for number, count in enumerate(GAPS[ran]):
        if number == len(GAPS[ran]) - 1:
            world.broker.cancel(1, request, world.now)
        world.broker.completed(backend, Completion(TX_ACTIVE, [BEGUN] * (number == 0) + [OK] * count), world.now)
    return world, request, backend


@pytest.mark.parametrize("ran", GAPS)
@pytest.mark.parametrize("sqlstate", ["3B001", "57014"])
@pytest.mark.parametrize("is_session", [False, True])
def test_a_cancel_between_two_units_fails_the_transaction_at_the_next_statement(
    ran: int, sqlstate: str, is_session: bool
) -> None:
    world, request, backend = canceled_in_gap(ran, session=OPENS_SESSION if is_session else 0)
    assert not world.is_answered(request)
    assert world.taken(Execute)[-1].unit == FAILING
    # It fails by itself, or the cancel hits it.
    world.broker.completed(
        backend, Completion(TX_FAILED, [], failure(sqlstate, TX_FAILED, "no such savepoint")), world.now
    )
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert (reply.sqlstate, reply.outcome, reply.transaction) == ("57014", FAILED, TX_FAILED)
    assert reply.diag == {"severity": "ERROR", "step": str(ran)}
    assert reply.message.startswith("canceled before it ran, behind other statements of its message")
    assert len(sent(world, backend)) == len(GAPS[ran]) + 1
    world.broker.cancelled(backend, world.now)
    end = world.end(Rollback, 1)
    world.complete(backend, TX_NONE, command="ROLLBACK")
    assert isinstance(world.reply_to(end), ResultMessage)


@pytest.mark.parametrize("ran", GAPS)
def test_a_timeout_between_two_units_fails_the_transaction_too_and_says_so(ran: int) -> None:
    world, request, backend = begun(*AMBIGUOUS, timeout=5.0)
    for number, count in enumerate(GAPS[ran]):
        if number == len(GAPS[ran]) - 1:
            world.pass_time(5.0)
        world.broker.completed(backend, Completion(TX_ACTIVE, [BEGUN] * (number == 0) + [OK] * count), world.now)
    world.broker.completed(backend, Completion(TX_FAILED, [], failure("3B001", TX_FAILED)), world.now)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert (reply.sqlstate, reply.outcome, reply.transaction) == ("57014", FAILED, TX_FAILED)
    assert reply.message.endswith("(the request's timeout of 5 s has passed)")


@pytest.mark.parametrize("ran", GAPS)
def test_a_backend_that_is_lost_in_the_gap_has_lost_the_transaction(ran: int) -> None:
    world, request, backend = canceled_in_gap(ran)
    world.broker.lost(backend, Loss("reset by peer"), world.now)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert (reply.kind, reply.outcome, reply.transaction) == ("transaction-lost", NOT_EXECUTED, TX_LOST)


def test_a_cancel_behind_the_last_unit_changes_nothing() -> None:
    world, request, backend = begun(*AMBIGUOUS[:2])
    world.broker.completed(backend, Completion(TX_ACTIVE, [BEGUN, OK]), world.now)
    world.broker.cancel(1, request, world.now)
    world.broker.completed(backend, Completion(TX_ACTIVE, [OK]), world.now)
    assert isinstance(world.reply_to(request), ResultMessage)


def test_who_goes_away_between_two_units_leaves_nothing_running() -> None:
    world, _, backend = begun(*AMBIGUOUS)
    world.broker.client_gone(1, world.now)
    world.broker.completed(backend, Completion(TX_ACTIVE, [BEGUN, OK]), world.now)
    world.broker.cancelled(backend, world.now)
    assert FAILING not in [each.unit for each in world.taken(Execute)]
    assert backend in world.resets()


@pytest.mark.parametrize("is_session", [False, True])
def test_its_backend_is_lost(is_session: bool) -> None:
    world, request, backend = begun(*adding(1, 2), session=OPENS_SESSION if is_session else 0)
    world.broker.lost(backend, Loss("reset by peer"), world.now)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert (reply.kind, reply.transaction) == ("transaction-lost", TX_LOST)
    again = batch(world, *adding(1, 2), begin=False, session=IN_SESSION if is_session else 0)
    reply = world.reply_to(again)
    assert isinstance(reply, Failure)
    assert (reply.kind, reply.outcome) == ("transaction-lost", NOT_EXECUTED)


def test_each_statement_may_take_the_whole_query_timeout() -> None:
    world = World(max_size=1, endpoint_settings={"query_timeout": 10.0})
    world, _, _ = begun(*adding(*range(5)), world=world)
    world.pass_time(45.0)
    assert not world.taken(Cancel)
    world.pass_time(30.0)
    assert world.taken(Cancel)


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ([step(b"COMMIT")], "begins or ends a transaction"),
        ([INSERT, step(b"SELECT 1; SELECT 2")], "statement 2 of the transaction holds several"),
        ([step(b"COPY t FROM STDIN")], "COPY"),
        ([step(b"")], "empty"),
        ([step(b"CALL f()")], "statement 1 of the batch"),
        ([step(b"VACUUM t")], "statement 1 of the batch"),
        ([step(b"SET standard_conforming_strings = off")], "refused"),
        ([step(b"SELECT \0", StepReference(0, 0, 0, 0))], "references"),
        ([SAVEPOINT, INSERT, 2], "statements alone"),
        ([step(b"INSERT 1", low=1)], "statements alone"),
        ([step(b"SELECT \0", types=oids(23), values=packed(b"no number"))], "statement 1 of the batch"),
    ],
)
def test_what_a_batch_refuses(steps: list[Any], why: str) -> None:
    assert why in refusal(*steps).message


def test_what_a_batch_has_to_have() -> None:
    assert "lease number" in refusal(INSERT, lease=0, begin=False).message
    assert "values for each" in refusal(INSERT, values=()).message
    assert "no group 'missing'" in refusal(INSERT, group="missing").message
    assert "steps: not a msgpack array" in refusal(INSERT, steps=b"\x00").message


def test_a_refused_batch_leaves_its_transaction_as_it_is() -> None:
    world, _, backend = begun(*adding(1))
    world.broker.completed(backend, Completion(TX_ACTIVE, [BEGUN, WRITTEN]), world.now)
    reply = world.reply_to(batch(world, step(b"COMMIT"), begin=False))
    assert isinstance(reply, Failure)
    assert reply.transaction == TX_ACTIVE


def test_in_a_read_only_group_each_statement_only_reads() -> None:
    world = World(read_only=True)
    world.client()
    reply = world.reply_to(
        batch(world, step(b"SELECT 1"), step(b"SELECT set_config('transaction_read_only', 'off', true)"))
    )
    assert isinstance(reply, Failure)
    assert "read_only" in reply.message


def test_a_statement_of_a_batch_that_fails_is_probed_all_the_same() -> None:
    """It waits for a probe from its last result on; without one it would never be prepared."""
    world, _, backend = begun(*adding(1, 2), world=World(prepare="auto", max_size=1))
    for _ in range(10):
        result = failure(transaction=TX_FAILED)
        world.broker.completed(backend, Completion(TX_FAILED, [BEGUN, WRITTEN], result), world.now)
        world.end(Rollback, 1)
        world.complete(backend, TX_NONE)
        if b"PREPARE INSERT INTO t VALUES ($1)" in sent(world, backend)[-1]:
            return
        batch(world, *adding(1, 2))
    pytest.fail("no probe in ten transactions")
