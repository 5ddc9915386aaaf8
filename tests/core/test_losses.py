"""Event scripts of lost backends: what was certainly not begun runs elsewhere, of the rest the truth is told."""

from typing import Any

import pytest
from units import INSERT, answer, begin, committed, completion, failed, outcome_of, sent, step
from world import BEGUN, SERVER, World, failure

from client.protocol import NOT_EXECUTED, TransactionResult
from poold.core.losses import MAX_MOVES
from poold.core.script import XID
from poold.core.statements import PROBE_AFTER

ERROR = "server closed the connection unexpectedly"
WITH_ID = (BEGUN, outcome_of(XID))


# Messages, before COMMIT was sent.


def test_a_message_that_loses_its_backend_before_commit_runs_again_at_once() -> None:
    world = World()
    request, backend = begin(world, step(b"INSERT 1", low=1), retries=1)
    world.broker.lost(backend, ERROR, world.now, partial=WITH_ID)
    world.connect_all()
    again = world.running(request)
    answer(world, again)
    answer(world, again)
    assert committed(world, request).tries == 2
    assert world.broker.groups["default"].stats.retries == 1


def test_without_a_try_left_it_was_certainly_not_committed() -> None:
    world = World()
    request, backend = begin(world, step(b"INSERT 1", low=1))
    world.broker.lost(backend, ERROR, world.now)
    answered, _ = failed(world, request)
    assert (answered.kind, answered.outcome) == ("connection", NOT_EXECUTED)
    assert ERROR in answered.message


def test_a_message_that_was_not_written_yet_runs_elsewhere_and_that_is_no_try() -> None:
    world = World()
    request, backend = begin(world, INSERT)
    world.broker.lost(backend, ERROR, world.now, unsent=1)
    world.connect_all()
    answer(world, world.running(request))
    assert committed(world, request).tries == 1


def test_a_message_that_the_shell_has_not_taken_yet_is_never_run_there() -> None:
    world = World()
    world.client()
    request = world.transaction(INSERT)
    ((number, _),) = world.broker.backends.items()
    world.take()
    world.broker.opened(number, world.now, SERVER)
    world.broker.lost(number, ERROR, world.now)
    world.connect_all()
    assert len(sent(world)) == 1
    answer(world, world.running(request))
    assert committed(world, request).tries == 1


def test_a_message_that_is_never_written_is_given_up_after_a_number_of_moves() -> None:
    world = World()
    request, backend = begin(world, INSERT, retries=50)
    for _ in range(MAX_MOVES):
        world.broker.lost(backend, ERROR, world.now, unsent=1)
        world.connect_all()
        backend = world.running(request)
    world.broker.lost(backend, ERROR, world.now, unsent=1)
    reply = world.reply_to(request)
    assert isinstance(reply, TransactionResult)
    assert failed(world, request)[0].outcome == NOT_EXECUTED
    assert reply.tries == 0, "it was not run at all"


def test_a_withdrawn_message_that_loses_its_backend_does_not_run_again() -> None:
    world = World()
    request, backend = begin(world, step(b"INSERT 1", low=1), retries=5)
    world.broker.cancel(1, request, world.now)
    world.broker.lost(backend, ERROR, world.now)
    assert failed(world, request)[0].outcome == NOT_EXECUTED


@pytest.mark.parametrize("is_written", [True, False])
@pytest.mark.parametrize("steps", [(INSERT,), (step(b"INSERT 1", low=1),)])
def test_a_message_that_failed_is_told_so_whatever_becomes_of_its_rollback(
    steps: tuple[Any, ...], is_written: bool
) -> None:
    world = World()
    request, backend = begin(world, *steps, retries=5)
    answer(world, backend, fails=b"INSERT 1", error=failure("23505"))
    if is_written:
        world.take()
    world.broker.lost(backend, ERROR, world.now)
    answered, place = failed(world, request)
    assert (answered.sqlstate, place) == ("23505", 0)


def test_a_statement_is_probed_even_if_its_last_run_before_that_ended_in_a_loss() -> None:
    world = World(prepare="auto", max_size=1)
    for _ in range(PROBE_AFTER - 1):
        _, backend = begin(world, INSERT)
        answer(world, backend)
    _, backend = begin(world, INSERT, step(b"UPDATE 1", low=1))
    world.broker.lost(backend, ERROR, world.now, partial=completion(world, backend).results)
    for _ in range(PROBE_AFTER):
        _, backend = begin(world, INSERT)
        answer(world, backend)
        if sent(world)[-1] == [b"PREPARE INSERT 1"]:
            answer(world, backend)
    assert [b"PREPARE INSERT 1"] in sent(world)
