"""A client that leaves replies unread: nothing more is begun for it, and nobody waits for it, until it reads."""

from units import READ
from world import World

from client.wire.limits import BATCH, OPENS_SESSION
from client.wire.messages import TX_ACTIVE, Commit, Failure
from poold.core import effects

STALLED, OTHER = 1, 2


def stalled(**group: object) -> World:
    """A world with a client that reads nothing and one that does, and idle backends."""
    world = World(**group)
    world.client(STALLED)
    world.client(OTHER)
    for number in [world.query(OTHER) for _ in range(world.config.groups["default"].max_size)]:
        world.connect_all()
        world.finish(number)
    world.broker.client_stalled(STALLED)
    return world


def test_what_it_asks_for_is_begun_when_it_reads_in_the_order_it_came() -> None:
    world = stalled(max_size=1)
    first, message = world.query(STALLED), world.transaction(READ, client=STALLED)
    opening = world.query(STALLED, lease=1, session=OPENS_SESSION)
    before = len(world.taken(effects.Execute))
    world.pass_time(1.0)
    assert len(world.taken(effects.Execute)) == before
    world.broker.client_reads(STALLED, world.now)
    world.finish(first)
    assert world.running(message)
    assert not world.is_answered(opening, STALLED)


def test_others_are_served_although_its_requests_came_before_theirs() -> None:
    world = World(max_size=1)
    world.client(STALLED)
    world.client(OTHER)
    running = world.query(OTHER)
    world.connect_all()
    waiting = [world.query(STALLED) for _ in range(3)]
    other = world.query(OTHER)
    world.broker.client_stalled(STALLED)
    world.finish(running)
    world.finish(other)
    assert world.reply_to(other, OTHER)
    assert not world.broker.groups["default"].queue.size
    world.broker.client_reads(STALLED, world.now)
    for number in waiting:
        world.finish(number)
        assert world.reply_to(number, STALLED)


def test_what_runs_goes_on_and_so_does_its_transaction() -> None:
    world = World()
    world.client(STALLED)
    backend = world.begin(1, STALLED)
    world.broker.client_stalled(STALLED)
    second = world.query(STALLED, "tx", lease=1)
    assert world.running(second) == backend
    commit = world.end(Commit, 1, STALLED)
    world.complete(backend, TX_ACTIVE)
    world.complete(backend)
    assert world.reply_to(commit, STALLED)


def test_it_leaves_unexecuted_with_the_reason_when_its_time_is_over() -> None:
    world = stalled(queue_timeout=2.0)
    request = world.query(STALLED)
    world.pass_time(2.0)
    reply = world.reply_to(request, STALLED)
    assert isinstance(reply, Failure)
    assert (reply.kind, reply.outcome) == ("pool-timeout", "not executed")
    assert "within 2 s (queue_timeout = 2 s): this client leaves earlier replies unread" in reply.message
    world.broker.client_reads(STALLED, world.now)
    assert not world.broker.clients[STALLED].held


def test_it_may_be_withdrawn_and_goes_with_its_client() -> None:
    world = stalled()
    request, _ = world.query(STALLED), world.query(STALLED, priority=BATCH)
    world.broker.cancel(STALLED, request, world.now)
    assert isinstance(world.reply_to(request, STALLED), Failure)
    world.broker.client_gone(STALLED, world.now)
    world.broker.client_reads(STALLED, world.now)
    world.broker.client_stalled(STALLED)
    world.pass_time(60.0)
    assert not world.broker.clients.keys() - {OTHER}


def test_it_takes_no_place_among_those_that_may_wait() -> None:
    world = stalled(max_size=1, max_waiting=1)
    for _ in range(5):
        world.query(STALLED)
    running, waiting = world.query(OTHER), world.query(OTHER)
    world.finish(running)
    assert world.running(waiting)
