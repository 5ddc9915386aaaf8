"""COPY in the core: windows, holds, cancels, deadlines, and clients that do not keep the rules."""

from typing import Any

import pytest
from world import FATAL, World, failure

from client.wire.limits import COPY_WINDOW
from client.wire.messages import (
    EXECUTED,
    FAILED,
    NOT_EXECUTED,
    TX_ACTIVE,
    TX_FAILED,
    TX_NONE,
    UNKNOWN,
    CopyBegun,
    CopyEnd,
    CopyIn,
    CopyMessage,
    CopyOut,
    CopyTaken,
    CopyWanted,
    Failure,
    ResultMessage,
)
from poold.core.effects import Cancel, Close, Drop, EndFeed, Execute, Feed, Hold, SimpleQuery, Tell
from poold.core.facts import Completion, Loss, StatementResult
from poold.core.requests.copying import HOLD_FROM
from poold.core.state import BackendState

COPIED = StatementResult("COPY 2", 2, None, b"", ())


def copy(world: World, is_in: bool = True, group: str = "default", **over: Any) -> int:
    """Send a COPY; returns its request number."""
    world._last_request += 1
    sql = b"COPY t FROM STDIN" if is_in else b"COPY t TO STDOUT"
    message = CopyMessage(world._last_request, group, 0, False, sql, is_in, None, "")._replace(**over)
    world.broker.request(1, message, world.now)
    return message.request


def begun(is_in: bool = True, world: World | None = None, **over: Any) -> tuple[World, int, int]:
    """A world with a COPY whose data may pass: the world, the request and its backend."""
    world = world or World(max_size=1)
    world.client()
    request = copy(world, is_in, **over)
    world.connect_all()
    number = world.running(request)
    world.tell(number)
    world.broker.copying.begun(number, world.now)
    world.take()
    return world, request, number


def say(world: World, message: CopyIn | CopyEnd | CopyTaken, client: int = 1) -> None:
    world.broker.copying.message(client, message, world.now)


def told(world: World) -> list[Any]:
    return [effect.body for effect in world.taken(Tell)]


def test_data_passes_in_and_what_was_fed_is_wanted_again() -> None:
    world, request, number = begun()
    assert told(world) == [CopyBegun(request, True)]
    say(world, CopyIn(request, b"1\n"))
    say(world, CopyIn(request, b"2\n"))
    assert world.taken(Feed) == [Feed(number, b"1\n"), Feed(number, b"2\n")]
    world.broker.copying.fed(number, 2, world.now)
    assert told(world)[-1] == CopyWanted(request, 2)
    say(world, CopyEnd(request, None))
    assert world.taken(EndFeed) == [EndFeed(number, None)]
    world.broker.copying.fed(number, 2, world.now)
    assert told(world)[-1] == CopyWanted(request, 2)  # the first; after the end nothing more is wanted
    world.broker.completed(number, Completion(TX_NONE, [COPIED]), world.now)
    reply = world.reply_to(request)
    assert isinstance(reply, ResultMessage)
    assert (reply.command, reply.rowcount) == ("COPY 2", 2)


def test_the_unit_says_which_way_the_data_passes() -> None:
    for is_in, sql in ((True, b"COPY t FROM STDIN"), (False, b"COPY t TO STDOUT")):
        world, _, number = begun(is_in)
        assert Execute(number, (SimpleQuery(sql, is_in),)) in world.taken(Execute)


def test_data_passes_out_and_is_held_until_the_client_has_taken_some() -> None:
    world, request, number = begun(is_in=False)
    half = b"x" * HOLD_FROM
    world.broker.copying.came(number, half, world.now)
    assert told(world)[1:] == [CopyOut(request, half)]
    assert world.taken(Hold) == [Hold(number, True)]
    world.broker.copying.came(number, b"rest", world.now)  # what was read already
    say(world, CopyTaken(request, 4))
    assert world.taken(Hold) == [Hold(number, True)]
    say(world, CopyTaken(request, 1))
    assert world.taken(Hold) == [Hold(number, True), Hold(number, False)]


@pytest.mark.parametrize(
    ("is_in", "messages"),
    [
        (True, [CopyIn(1, b"x" * COPY_WINDOW), CopyIn(1, b"x")]),
        (True, [CopyTaken(1, 1)]),
        (False, [CopyIn(1, b"x")]),
        (False, [CopyEnd(1, None)]),
        (False, [CopyTaken(1, 1)]),
    ],
)
def test_a_client_that_breaks_the_rules_of_the_flow_is_dropped(is_in: bool, messages: list[Any]) -> None:
    world, request, _ = begun(is_in)
    assert request == 1
    for message in messages:
        say(world, message)
    assert [effect.client for effect in world.taken(Drop)] == [1]


def test_data_ahead_of_the_copys_beginning_drops_the_client() -> None:
    world = World()
    world.client()
    request = copy(world)
    say(world, CopyIn(request, b"x"))
    assert len(world.taken(Drop)) == 1


def test_data_of_a_copy_that_has_ended_is_ignored() -> None:
    world, request, number = begun()
    world.broker.completed(number, Completion(TX_NONE, [], failure("22P02")), world.now)
    world.tell(number)
    before = len(world.effects)
    for message in (CopyIn(request, b"x"), CopyEnd(request, None), CopyTaken(request, 5)):
        say(world, message)
    say(world, CopyIn(request, b"x"), client=9)
    world.broker.copying.fed(number, 3, world.now)
    world.broker.copying.came(number, b"x", world.now)
    assert world.take() == []
    assert len(world.effects) == before


def test_data_of_a_copy_whose_end_is_looked_into_is_ignored() -> None:
    world, request, number = begun()
    world.broker.completed(number, Completion(TX_NONE, [], failure("22P02")), world.now)
    for message in (CopyIn(request, b"x"), CopyEnd(request, None)):
        say(world, message)
    assert world.taken(Feed) == world.taken(EndFeed) == []
    world.tell(number)
    assert isinstance(world.reply_to(request), Failure)


def test_a_cancel_ends_the_data_as_postgresql_waits_for_it() -> None:
    world, request, number = begun()
    world.broker.cancel(1, request, world.now)
    assert world.taken(Cancel) == [Cancel(number)]
    assert [effect.backend for effect in world.taken(EndFeed)] == [number]
    assert world.taken(EndFeed)[0].error
    say(world, CopyIn(request, b"x"))  # on its way at that moment
    assert world.taken(Feed) == []


def test_a_cancel_lets_postgresql_send_the_rest_which_nobody_gets() -> None:
    world, request, number = begun(is_in=False)
    world.broker.copying.came(number, b"x" * COPY_WINDOW, world.now)
    world.broker.cancel(1, request, world.now)
    assert world.taken(Hold) == [Hold(number, True), Hold(number, False)]
    world.broker.copying.came(number, b"y" * COPY_WINDOW, world.now)
    assert len(told(world)) == 2
    assert world.taken(Hold)[-1] == Hold(number, False)


def test_a_copy_that_ends_well_behind_its_cancel_is_no_success_if_data_was_thrown_away() -> None:
    for is_cut in (True, False):
        world, request, number = begun(is_in=False, world=World(max_size=1, endpoint_settings={"query_timeout": 0.0}))
        world.broker.copying.came(number, b"x", world.now)
        world.broker.cancel(1, request, world.now)
        if is_cut:
            world.broker.copying.came(number, b"y", world.now)
        world.broker.completed(number, Completion(TX_NONE, [COPIED]), world.now)
        reply = world.reply_to(request)
        assert isinstance(reply, Failure if is_cut else ResultMessage)
        assert not isinstance(reply, Failure) or (reply.sqlstate, reply.outcome) == ("57014", EXECUTED)


def test_a_cancel_ahead_of_the_beginning_ends_the_data_when_it_begins() -> None:
    world = World(max_size=1)
    world.client()
    request = copy(world)
    world.connect_all()
    number = world.running(request)
    world.tell(number)
    world.broker.cancel(1, request, world.now)
    world.broker.copying.begun(number, world.now)
    assert [effect.backend for effect in world.taken(EndFeed)] == [number]
    assert told(world) == []


def test_a_client_that_is_gone_gives_and_takes_nothing_more() -> None:
    for is_in in (True, False):
        world, _, number = begun(is_in)
        world.broker.copying.came(number, b"x" * COPY_WINDOW, world.now)
        world.broker.client_gone(1, world.now)
        assert world.taken(Cancel) == [Cancel(number)]
        assert len(world.taken(EndFeed)) == is_in
        assert not is_in or world.taken(EndFeed)[0].error


@pytest.mark.parametrize("is_in", [True, False])
def test_a_client_that_does_its_part_too_late_loses_its_copy(is_in: bool) -> None:
    world, request, number = begun(
        is_in, World(max_size=1, idle_in_transaction_timeout=10, endpoint_settings={"query_timeout": 0.0})
    )
    if not is_in:
        world.pass_time(60)  # PostgreSQL is the one that takes so long
        world.broker.copying.came(number, b"x" * COPY_WINDOW, world.now)
    world.pass_time(9)
    assert world.taken(Cancel) == []
    world.pass_time(2)
    assert world.taken(Cancel) == [Cancel(number)]
    world.broker.cancelled(number, world.now)
    world.broker.completed(number, Completion(TX_NONE, [], failure("57014", message="canceled")), world.now)
    world.tell(number)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert "idle_in_transaction_timeout = 10 s" in reply.message


def test_postgresql_may_take_its_time_with_what_it_was_given() -> None:
    world, request, number = begun(
        True, World(max_size=1, idle_in_transaction_timeout=10, endpoint_settings={"query_timeout": 0.0})
    )
    say(world, CopyIn(request, b"1\n"))
    world.pass_time(60)  # it waits for a lock
    assert world.taken(Cancel) == []
    world.broker.copying.fed(number, 2, world.now)
    say(world, CopyEnd(request, None))
    world.pass_time(60)
    assert world.taken(Cancel) == []


def test_a_deadline_holds_while_data_passes() -> None:
    world, request, _ = begun(timeout=5.0)
    for _ in range(4):
        world.pass_time(1.1)
        say(world, CopyIn(request, b"1\n"))
    assert world.taken(Cancel) == []
    world.pass_time(1)
    assert len(world.taken(Cancel)) == 1


@pytest.mark.parametrize(
    ("is_in", "has_begun", "end", "outcome"),
    [
        (True, False, None, UNKNOWN),
        (True, True, None, FAILED),
        (True, True, CopyEnd(1, "mine"), FAILED),
        (True, True, CopyEnd(1, None), UNKNOWN),
        (False, True, None, UNKNOWN),
    ],
)
def test_what_a_lost_backend_leaves_is_told(is_in: bool, has_begun: bool, end: CopyEnd | None, outcome: str) -> None:
    world = World(max_size=1)
    if has_begun:
        world, request, number = begun(is_in, world)
    else:
        world.client()
        request = copy(world)
        world.connect_all()
        number = world.running(request)
        world.tell(number)
    if end is not None:
        say(world, end)
    world.broker.lost(number, Loss("gone", 0, (), None), world.now)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert reply.outcome == outcome


def test_what_a_string_has_committed_ahead_of_its_copy_is_not_denied() -> None:
    sql = b"COPY t FROM '/file'; COMMIT; COPY t FROM STDIN"
    world, request, number = begun(statement=sql)
    world.broker.lost(number, Loss("gone", 0, (), None), world.now)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert reply.outcome == UNKNOWN


def test_a_copy_of_which_data_has_passed_is_never_run_again() -> None:
    world, request, number = begun(is_in=False, world=World(endpoints=("a", "b"), max_size=1))
    world.broker.copying.came(number, b"x", world.now)
    world.broker.lost(number, Loss("gone", 0, (), FATAL), world.now)
    world.connect_all()
    assert isinstance(world.reply_to(request), Failure)


def test_a_copy_that_was_not_sent_runs_elsewhere() -> None:
    world = World(max_size=1)
    world.client()
    request = copy(world)
    world.connect_all()
    number = world.running(request)
    world.broker.lost(number, Loss("gone", 2), world.now)
    world.connect_all()
    again = world.running(request)
    assert again != number
    world.tell(again)
    world.broker.copying.begun(again, world.now)
    assert told(world) == [CopyBegun(request, True)]


def test_in_a_transaction_begin_goes_ahead() -> None:
    world = World(max_size=1)
    world.client()
    request = copy(world, group="tx", lease=7, begin=True)
    world.connect_all()
    number = world.running(request)
    assert world.taken(Execute)[-1].unit != (SimpleQuery(b"COPY t FROM STDIN", True),)
    world.broker.completed(number, Completion(TX_ACTIVE, [COPIED._replace(command="BEGIN")]), world.now)
    assert world.taken(Execute)[-1].unit == (SimpleQuery(b"COPY t FROM STDIN", True),)
    world.broker.copying.begun(number, world.now)
    say(world, CopyEnd(request, None))
    world.broker.completed(number, Completion(TX_ACTIVE, [COPIED]), world.now)
    assert isinstance(world.reply_to(request), ResultMessage)
    assert world.state(number) is BackendState.LEASED


def test_a_lease_that_ends_takes_its_copy_along() -> None:
    world = World(max_size=1, lease_timeout=10)
    world.client()
    request = copy(world, group="tx", lease=7, begin=True)
    world.connect_all()
    number = world.running(request)
    world.broker.completed(number, Completion(TX_ACTIVE, [COPIED._replace(command="BEGIN")]), world.now)
    world.broker.copying.begun(number, world.now)
    for _ in range(11):
        say(world, CopyIn(request, b"1\n"))
        world.broker.copying.fed(number, 2, world.now)
        world.pass_time(1)
    assert world.taken(Cancel) == [Cancel(number)]
    assert len(world.taken(EndFeed)) == 1
    assert world.taken(Close) == []


def test_a_full_queue_refuses_a_copy_as_any_request() -> None:
    world = World(max_size=1, max_waiting=1)
    world.client()
    for _ in range(2):
        world.query()
    copy(world)
    request = copy(world)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert (reply.kind, reply.outcome) == ("too-many-requests", NOT_EXECUTED)


def test_a_backend_is_read_from_again_when_its_copy_has_ended() -> None:
    world, request, number = begun(is_in=False)
    world.broker.copying.came(number, b"x" * HOLD_FROM, world.now)
    world.broker.completed(number, Completion(TX_NONE, [COPIED]), world.now)  # it came in the same piece
    assert isinstance(world.reply_to(request), ResultMessage)
    assert world.taken(Hold) == [Hold(number, True), Hold(number, False)]


@pytest.mark.parametrize("is_in", [True, False])
def test_what_is_left_of_an_earlier_copys_data_is_not_counted(is_in: bool) -> None:
    world = World(max_size=1)
    world.client()
    request = copy(world, group="tx", lease=7, begin=True)
    world.connect_all()
    number = world.running(request)
    world.broker.completed(number, Completion(TX_ACTIVE, [COPIED._replace(command="BEGIN")]), world.now)
    world.broker.copying.begun(number, world.now)
    say(world, CopyIn(request, b"x" * 10))
    world.broker.completed(number, Completion(TX_FAILED, [], failure("22P02")), world.now)
    world.take()
    again = copy(world, is_in, group="tx", lease=7)
    assert world.running(again) == number
    before = told(world)
    world.broker.copying.fed(number, 10, world.now)  # PostgreSQL reads it, and ignores it
    assert told(world) == before
    transfer = world.broker.clients[1].requests[again].transfer
    assert transfer is not None
    assert transfer.pending == 0
