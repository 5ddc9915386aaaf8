"""Event scripts of transaction messages that lost their backend after COMMIT was sent: what became of it?"""

from typing import Any

import pytest
from units import INSERT, READ, answer, begin, committed, completion, failed, outcome_of, promote, sent, step, table
from world import BEGUN, SERVER, World, failure

from client.wire.messages import NOT_EXECUTED, UNKNOWN, Failure
from poold.core import effects
from poold.core.facts import Loss, Server
from poold.core.requests.runs import CANCEL_TIMEOUT
from poold.core.state import BackendState as S
from poold.core.statements.proofs import Proof
from poold.core.work.inquiry import ASK_AGAIN, OUTCOME_TIMEOUT
from poold.core.work.script import XID
from poold.core.work.settings import SERVER_GRACE

ERROR = "server closed the connection unexpectedly"
INQUIRY = b"SELECT pg_catalog.pg_xact_status('77'::pg_catalog.xid8)"
# What had come of the unit when the connection broke.
WITH_ID = (BEGUN, outcome_of(XID))


def status(word: bytes | None) -> dict[bytes, Any]:
    """What PostgreSQL answers to the inquiry."""
    return {INQUIRY: table({"pg_xact_status": 25}, [word])}


def tries(world: World) -> int:
    return sum(unit[0].endswith(b"BEGIN") for unit in sent(world))


def in_doubt(*steps: Any, settings: dict[str, Any] | None = None, **over: Any) -> tuple[World, int, int]:
    """A message that lost its backend after COMMIT was sent; the inquiry runs on another backend."""
    world = World(**(settings or {}))
    request, backend = begin(world, *(steps or (INSERT,)), **over)
    world.broker.lost(backend, Loss(ERROR, partial=WITH_ID), world.now)
    world.connect_all()
    (asking,) = world.broker.backends
    assert sent(world, asking) == [[INQUIRY]]
    return world, request, asking


def outcome(world: World, request: int) -> str:
    """What the client is told of its failed message's effect, in whichever reply."""
    reply = world.reply_to(request)
    return reply.outcome if isinstance(reply, Failure) else failed(world, request)[0].outcome


def unknown(world: World, request: int) -> Failure:
    """The reply to a message of which nobody can tell whether it was committed."""
    answered, place = failed(world, request)
    assert (answered.kind, answered.outcome, place) == ("commit-unknown", UNKNOWN, -1)
    assert ERROR in answered.message
    return answered


# What PostgreSQL says.


def test_a_commit_whose_answer_was_lost_is_asked_for_and_was_committed() -> None:
    world, request, asking = in_doubt(INSERT, READ)
    assert not world.is_answered(request)
    answer(world, asking, status(b"committed"))
    reply = committed(world, request)
    assert (reply.results, reply.tries) == ((None, None), 1), "the results are lost"
    assert world.state(asking) is S.IDLE


def test_results_that_came_before_the_loss_are_kept() -> None:
    world = World()
    request, backend = begin(world, READ, INSERT)
    world.broker.lost(backend, Loss(ERROR, partial=(*WITH_ID, outcome_of(b"SELECT 1"))), world.now)
    world.connect_all()
    answer(world, next(iter(world.broker.backends)), status(b"committed"))
    first, second = committed(world, request).results
    assert (first[2], second) == ("SELECT 1", None)


@pytest.mark.parametrize("tracked", [True, False])
def test_a_commit_whose_answer_had_come_needs_no_inquiry(tracked: bool) -> None:
    world = World(track_outcome=tracked)
    request, backend = begin(world, INSERT)
    world.broker.lost(backend, Loss(ERROR, partial=completion(world, backend).results), world.now)
    assert committed(world, request).results[0][2] == "INSERT 0 1"
    assert [INQUIRY] not in sent(world)


def test_a_commit_that_was_aborted_is_run_again() -> None:
    world, request, asking = in_doubt(retries=1)
    answer(world, asking, status(b"aborted"))
    answer(world, world.running(request))
    assert committed(world, request).tries == 2


def test_a_commit_that_was_aborted_without_a_try_left_was_certainly_not_committed() -> None:
    world, request, asking = in_doubt()
    answer(world, asking, status(b"aborted"))
    answered, _ = failed(world, request)
    assert (answered.kind, answered.outcome) == ("connection", NOT_EXECUTED)


def test_an_aborted_commit_past_the_deadline_is_not_run_again() -> None:
    world, request, asking = in_doubt(retries=5, timeout=1.0)
    world.pass_time(1.5)
    assert not world.is_answered(request), "the truth is worth the wait"
    answer(world, asking, status(b"aborted"))
    assert failed(world, request)[0].outcome == NOT_EXECUTED


def test_a_commit_in_progress_is_asked_for_again_until_it_is_over() -> None:
    world, request, asking = in_doubt()
    answer(world, asking, status(b"in progress"))
    assert world.state(asking) is S.IDLE
    world.pass_time(ASK_AGAIN * 0.9)
    assert len(sent(world, asking)) == 1
    world.pass_time(ASK_AGAIN * 0.2)
    answer(world, asking, status(b"committed"))
    assert sent(world, asking) == [[INQUIRY], [INQUIRY]]
    committed(world, request)


def test_a_commit_in_progress_for_too_long_is_unknown() -> None:
    world, request, asking = in_doubt()
    while not world.is_answered(request):
        answer(world, asking, status(b"in progress"))
        world.pass_time(ASK_AGAIN)
    assert world.now == pytest.approx(OUTCOME_TIMEOUT, abs=2 * ASK_AGAIN)
    unknown(world, request)


def test_a_transaction_that_postgresql_has_forgotten_is_unknown() -> None:
    world, request, asking = in_doubt()
    answer(world, asking, status(None))
    assert "forgotten" in unknown(world, request).message
    assert world.broker.groups["default"].stats.in_doubt == 1


def test_a_server_that_does_not_tell_leaves_it_unknown() -> None:
    world, request, asking = in_doubt()
    answer(world, asking, fails=INQUIRY, error=failure("42501", message="permission denied"))
    assert "permission denied" in unknown(world, request).message


def test_another_server_at_the_same_address_is_not_asked() -> None:
    world = World()
    request, backend = begin(world, INSERT)
    world.broker.lost(backend, Loss(ERROR, partial=WITH_ID), world.now)
    (connecting,) = world.broker.backends
    world.broker.opened(connecting, world.now, Server(SERVER.version, "1/00000002"))
    assert sent(world, connecting) == []
    assert "another" in unknown(world, request).message


def test_without_an_answer_in_time_it_is_unknown() -> None:
    world, request, _ = in_doubt(settings={"endpoint_settings": {"query_timeout": 0.0}})
    world.pass_time(OUTCOME_TIMEOUT - 0.1)
    assert not world.is_answered(request)
    world.pass_time(0.2)
    unknown(world, request)


def test_without_a_backend_in_time_it_is_unknown() -> None:
    world = World()
    request, backend = begin(world, INSERT)
    world.broker.lost(backend, Loss(ERROR, partial=WITH_ID), world.now)
    world.pass_time(OUTCOME_TIMEOUT + 0.1)
    unknown(world, request)
    assert not world.broker.groups["default"].has_errands


def test_an_answer_that_comes_too_late_changes_nothing() -> None:
    world, request, asking = in_doubt(settings={"endpoint_settings": {"query_timeout": 0.0}})
    world.pass_time(OUTCOME_TIMEOUT)
    answer(world, asking, status(b"committed"))
    unknown(world, request)
    assert world.state(asking) is S.IDLE


@pytest.mark.parametrize(
    ("settings", "partial", "server"),
    [
        ({"track_outcome": False}, (), SERVER),
        ({}, (), SERVER),
        ({}, (BEGUN,), SERVER),
        ({}, WITH_ID, Server(SERVER.version, "")),
    ],
)
def test_what_cannot_be_asked_for_is_unknown_at_once(settings: dict[str, Any], partial: Any, server: Server) -> None:
    world = World(**settings)
    world.client()
    request = world.transaction(INSERT, retries=5)
    (backend,) = world.broker.backends
    world.broker.opened(backend, world.now, server)
    world.take()
    world.broker.lost(backend, Loss(ERROR, partial=partial), world.now)
    unknown(world, request)
    assert world.broker.groups["default"].stats.in_doubt == 1


def test_the_id_that_an_earlier_unit_brought_is_good_for_the_last_one() -> None:
    world = World()
    request, backend = begin(world, step(b"INSERT 1", low=1))
    answer(world, backend)
    world.broker.lost(backend, Loss(ERROR), world.now)
    world.connect_all()
    answer(world, next(iter(world.broker.backends)), status(b"committed"))
    assert committed(world, request).results[0][2] == "INSERT 0 1"


@pytest.mark.parametrize("settings", [{}, {"read_only": True}])
def test_a_message_of_plain_reads_whose_commit_was_lost_is_run_again(settings: dict[str, Any]) -> None:
    world = World(**settings)
    promote(world, b"SELECT 1").proof = Proof(is_harmless=True, is_plain_read=True)
    request, backend = begin(world, READ, retries=1)
    world.broker.lost(backend, Loss(ERROR), world.now)
    world.connect_all()
    answer(world, world.running(request))
    assert committed(world, request).tries == 2


@pytest.mark.parametrize("settings", [{}, {"read_only": True}])
@pytest.mark.parametrize("is_prepared", [True, False])
def test_a_read_only_message_that_is_not_proven_is_not_run_again(settings: dict[str, Any], is_prepared: bool) -> None:
    world = World(**settings)
    if is_prepared:
        promote(world, b"SELECT 1").proof = Proof(is_harmless=True)
    else:
        world.broker.groups["default"].statements.find(b"SELECT 1", b"").proof = Proof(is_plain_read=True)
    request, backend = begin(world, READ, read_only=True, retries=1)
    world.broker.lost(backend, Loss(ERROR), world.now)
    unknown(world, request)


# Who is asked, and when.


def test_the_endpoint_of_the_lost_backend_is_asked_and_no_other() -> None:
    world = World(endpoints=("one", "two"), min_size=2, max_size=4)
    world.connect_all()
    request, backend = begin(world, INSERT)
    endpoint = world.broker.backends[backend].pool.endpoint.name
    world.broker.lost(backend, Loss(ERROR, partial=WITH_ID), world.now)
    world.connect_all()
    (asking,) = [b for b in world.broker.backends.values() if b.running]
    assert asking.pool.endpoint.name == endpoint
    answer(world, asking.number, status(b"committed"))
    committed(world, request)


def test_an_inquiry_goes_before_those_who_wait() -> None:
    world = World(max_size=1)
    request, backend = begin(world, INSERT)
    other = world.query()
    world.broker.lost(backend, Loss(ERROR, partial=WITH_ID), world.now)
    world.connect_all()
    (asking,) = world.broker.backends
    answer(world, asking, status(b"committed"))
    committed(world, request)
    assert world.running(other) == asking


def test_an_inquiry_whose_own_backend_is_lost_is_asked_again() -> None:
    world, request, asking = in_doubt()
    world.broker.lost(asking, Loss(ERROR), world.now)
    world.connect_all()
    (another,) = world.broker.backends
    answer(world, another, status(b"committed"))
    committed(world, request)


def test_nobody_joins_a_backend_that_an_inquiry_waits_for() -> None:
    world = World(prepare="auto", max_size=2)
    world.client()
    promote(world, b"SELECT short", is_short=True)
    request, backend = begin(world, INSERT)
    world.query(statement=b"SELECT short")
    world.connect_all()
    busy = next(b for b in world.broker.backends.values() if b.number != backend)
    world.query(statement=b"SELECT short")
    assert len(busy.running) == 2
    world.broker.lost(backend, Loss(ERROR, partial=WITH_ID), world.now)
    world.query(statement=b"SELECT short")
    assert len(busy.running) == 2, "else it never comes to rest while there is work"
    assert not world.is_answered(request)


# Who has gone meanwhile.


def test_a_client_that_is_gone_while_its_commit_is_asked_for_gets_no_answer() -> None:
    world, _, asking = in_doubt(retries=5)
    world.broker.client_gone(1, world.now)
    answer(world, asking, status(b"aborted"))
    assert tries(world) == 1, "nobody wants it any more"
    assert world.taken(effects.Reply) == []
    assert world.state(asking) is S.IDLE


def test_a_withdrawn_message_in_doubt_still_learns_that_it_was_committed() -> None:
    world, request, asking = in_doubt()
    world.broker.cancel(1, request, world.now)
    assert not world.is_answered(request)
    answer(world, asking, status(b"committed"))
    committed(world, request)


def test_a_message_withdrawn_while_in_doubt_is_not_run_again() -> None:
    world, request, asking = in_doubt(retries=5)
    world.broker.cancel(1, request, world.now)
    answer(world, asking, status(b"aborted"))
    assert failed(world, request)[0].outcome == NOT_EXECUTED
    assert tries(world) == 1


def test_a_message_withdrawn_before_it_came_into_doubt_is_not_run_again() -> None:
    world = World()
    request, backend = begin(world, INSERT, retries=5)
    world.broker.cancel(1, request, world.now)
    world.broker.lost(backend, Loss(ERROR, partial=WITH_ID), world.now)
    world.connect_all()
    answer(world, next(iter(world.broker.backends)), status(b"aborted"))
    assert failed(world, request)[0].outcome == NOT_EXECUTED
    assert tries(world) == 1


def test_a_drain_waits_for_what_became_of_a_commit() -> None:
    world, request, asking = in_doubt()
    world.broker.drain(world.now)
    assert world.taken(effects.Stop) == []
    answer(world, asking, status(b"committed"))
    committed(world, request)
    assert len(world.taken(effects.Stop)) == 1


def test_a_broker_that_stops_while_a_commit_runs_does_not_call_it_not_executed() -> None:
    world = World()
    request, backend = begin(world, step(b"INSERT 1", low=1))
    answer(world, backend)
    assert sent(world)[-1] == [b"COMMIT"]
    world.broker.stop(world.now)
    assert outcome(world, request) == UNKNOWN


def test_a_broker_that_stops_while_a_commit_is_asked_for_does_not_call_it_not_executed() -> None:
    world, request, _ = in_doubt()
    world.broker.stop(world.now)
    assert outcome(world, request) == UNKNOWN


def test_a_server_that_does_not_end_a_cancelled_commit_is_given_up_and_asked() -> None:
    world = World()
    request, backend = begin(world, step(b"INSERT 1", low=1), timeout=1.0)
    answer(world, backend)
    world.pass_time(1.0 + SERVER_GRACE + CANCEL_TIMEOUT)
    assert world.taken(effects.Close)[0].backend == backend
    world.connect_all()
    answer(world, next(iter(world.broker.backends)), status(b"committed"))
    committed(world, request)


def test_a_message_that_stops_with_the_broker_before_commit_was_not_executed() -> None:
    world = World()
    request, _ = begin(world, step(b"INSERT 1", low=1), retries=5)
    world.broker.stop(world.now)
    assert outcome(world, request) == NOT_EXECUTED
