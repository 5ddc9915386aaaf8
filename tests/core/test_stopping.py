"""A broker that is to stop, or is drained: what has begun is finished, and what waits is refused at once."""

from __future__ import annotations

import pytest
from test_lent import Lending
from test_reading import READS, reading, write
from test_stalled import STALLED, stalled
from units import READ, UNTRACKED, answer, begin, step
from world import OK, World

from client.wire.limits import IN_SESSION, OPENS_SESSION
from client.wire.messages import TX_ACTIVE, Commit, Failure
from poold.core import effects
from poold.core.facts import Loss
from poold.core.state import BrokerState


def end(world: World, how: str) -> None:
    """The broker is to stop, or an operator drains it."""
    if how == "stop":
        world.broker.drain(world.now)
    else:
        world.ask("drain", timeout=60)
    world.take()


def unserved(world: World, number: int, client: int = 1) -> bool:
    """Whether the request was refused in the way that has its client go to another broker."""
    if not world.is_answered(number, client):
        return False
    reply = world.reply_to(number, client)
    return isinstance(reply, Failure) and (reply.kind, reply.outcome) == ("unserved", "not executed")


HOW = pytest.mark.parametrize("how", ["stop", "drain"])


@HOW
def test_what_waits_in_the_queue_is_refused_at_once_and_what_runs_ends(how: str) -> None:
    world = World(max_size=1)
    world.client()
    running = world.query()
    world.connect_all()
    waiting = [
        world.query(),
        world.transaction(READ),
        world.query(lease=1, session=OPENS_SESSION),
        world.query(lease=2, begin=True),
    ]
    behind = world.query(lease=1, session=IN_SESSION)
    end(world, how)
    assert all(unserved(world, number) for number in waiting)
    lost = world.reply_to(behind)
    assert isinstance(lost, Failure)
    assert (lost.kind, lost.outcome) == ("transaction-lost", "not executed")
    executed = len(world.taken(effects.Execute))
    world.finish(running)
    assert world.is_answered(running)
    assert len(world.taken(effects.Execute)) == executed


@HOW
def test_what_is_held_for_a_client_that_does_not_read_is_refused(how: str) -> None:
    world = stalled(max_size=1)
    waiting = world.query(STALLED)
    end(world, how)
    assert unserved(world, waiting, STALLED)
    world.broker.client_reads(STALLED, world.now)
    world.take()
    assert not world.broker.groups["default"].queue.size


@HOW
def test_a_read_that_waits_for_replicas_is_refused(how: str) -> None:
    world = reading()
    write(world)
    waiting = world.query(group=READS)
    assert not world.is_answered(waiting)
    end(world, how)
    assert unserved(world, waiting)


@HOW
def test_an_open_transaction_goes_on_with_all_that_it_sends(how: str) -> None:
    world = World()
    world.client()
    backend = world.begin(1)
    running, behind = world.query(1, "tx", lease=1), world.query(1, "tx", lease=1)
    end(world, how)
    for number in (running, behind, world.query(1, "tx", lease=1)):
        world.complete(backend, TX_ACTIVE)
        assert not unserved(world, number)
    commit = world.end(Commit, 1)
    world.complete(backend, command="COMMIT")
    assert world.is_answered(commit)
    assert len(world.taken(effects.Stop)) == (how == "stop")


def test_what_the_lane_lets_wait_is_refused() -> None:
    world = Lending(max_size=1)
    backend = world.lent()
    running = world.runs(backend)
    queue = world.broker.groups["default"].queue
    before, behind = world.flight(), world.flight()
    for waiting in (before, behind):
        waiting.is_waiting = True
    queue.push(before)  # type: ignore[arg-type]  # stands where the core's requests do
    end(world, "stop")
    assert unserved(world, before.number)
    queue.push(behind)  # type: ignore[arg-type]  # the lane has not heard of the stop yet
    world.broker.waits(world.broker.groups["default"], world.now)
    world.take()
    assert unserved(world, behind.number)
    assert not world.is_answered(running.number)
    world.broker.handed_over(backend.number, world.now)
    world.end_one(backend.number)
    assert world.outcome(running.number)[0] == OK.command
    assert len(world.taken(effects.Stop)) == 1


def test_what_had_begun_and_is_to_run_again_is_not_refused() -> None:
    world = World(max_size=1)
    world.client()
    message = world.transaction(READ)
    world.connect_all()
    end(world, "stop")
    world.broker.lost(world.running(message), Loss("gone", unsent=1), world.now)
    world.take()
    assert not world.is_answered(message)
    assert world.broker.state is BrokerState.DRAINING
    world.connect_all()
    assert world.running(message)


# What is cut off.


def cut_off(world: World) -> dict[int, bool]:
    """The backends that were closed, and whether what runs there is to be cancelled before."""
    return {each.backend: each.is_cancelled for each in world.taken(effects.Close)}


def test_what_runs_at_the_end_is_cancelled_and_a_commit_is_not() -> None:
    world = World(max_size=6, drain_timeout=5.0)
    world.client()
    committing, working = world.begin(1), world.begin(2)
    world.end(Commit, 1)
    world.query(1, "tx", lease=2)
    query, message = world.query(), world.transaction(READ)
    idle = world.begin(3)
    world.connect_all()
    expected = {committing: False, working: True, world.running(query): True, world.running(message): True}
    world.broker.drain(world.now)
    world.pass_time(5.0)
    assert cut_off(world) == expected
    assert idle not in expected
    assert len(world.taken(effects.Stop)) == 1


def test_who_is_cut_off_is_named_in_the_log() -> None:
    world = World(drain_timeout=5.0)
    world.client()
    world.begin(1)
    world.broker.drain(world.now)
    world.pass_time(5.0)
    noted = [each for each in world.taken(effects.Note) if each.event == "cut off"]
    assert [(each.fields["what"], each.fields["pid"], each.fields["age_ms"]) for each in noted] == [
        ("transaction", 1001, 5000)
    ]


def test_a_message_whose_commit_is_on_its_way_by_itself_is_not_cancelled() -> None:
    world, backend = committing()
    world.broker.stop(world.now)
    world.take()
    assert cut_off(world) == {backend: False}


def committing() -> tuple[World, int]:
    """A message that has expected a row count, and commits."""
    world = World(**UNTRACKED)
    request, backend = begin(world, step(b"INSERT 1", low=1))
    answer(world, backend)
    assert world.running(request) == backend
    return world, backend


def test_what_a_removed_group_still_runs_at_the_end_of_its_time_is_cancelled() -> None:
    world = World(drain_timeout=5.0)
    world.client()
    backend = world.begin(1)
    world.query(1, "tx", lease=1)
    world.reconfigure(groups={"tx": None})
    world.pass_time(5.0)
    assert cut_off(world)[backend] is True
