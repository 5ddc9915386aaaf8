"""Whose turn it is: priorities by weight, processes in turn, requests in order; and what a flood does to others."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from units import SHORT, promote
from world import World

from client.wire.limits import BATCH, INTERACTIVE, NORMAL, PRIORITIES
from client.wire.messages import NOT_EXECUTED, Failure, Rollback
from poold.config.model import Weights
from poold.core.pools.group import SHARING
from poold.core.records.client import Client
from poold.core.records.request import Request, Verb
from poold.core.shared.queue import Queue
from poold.core.state import BackendState as S
from poold.core.statements.statement import AHEAD_SECONDS, TRUSTED_FOR

ALL = len(PRIORITIES)


class Asker:
    """Makes requests of one process, numbered in their order."""

    def __init__(self, pid: int, key: int | None = None, uid: int | None = 0) -> None:
        self.client = Client(key or pid, pid, "", uid)
        self._last = 0

    def ask(self, priority: int = NORMAL) -> Request:
        self._last += 1
        request = Request(self.client, self._last, None, Verb.QUERY, float(self._last))  # type: ignore[arg-type]
        request.priority = priority
        return request


def queue(*requests: Request, weights: tuple[int, int, int] = (16, 4, 1)) -> Queue:
    made = Queue(weights)
    for request in requests:
        made.push(request)
    return made


def drained(waiting: Queue, priorities: int = ALL) -> list[Request]:
    found = []
    while (first := waiting.first(priorities)) is not None:
        assert waiting.pop(priorities) is first
        found.append(first)
    return found


def test_requests_of_one_process_come_in_their_order() -> None:
    one = Asker(1)
    requests = [one.ask() for _ in range(5)]
    assert drained(queue(*requests)) == requests


def test_a_process_with_many_requests_delays_another_by_one() -> None:
    many, single = Asker(1), Asker(2)
    flood = [many.ask() for _ in range(1000)]
    request = single.ask()
    assert drained(queue(*flood, request)) == [flood[0], request, *flood[1:]]


def test_processes_take_turns_in_the_order_they_came() -> None:
    first, second, third = Asker(1), Asker(2), Asker(3)
    a, b, c, d, e = first.ask(), second.ask(), first.ask(), third.ask(), second.ask()
    assert drained(queue(a, b, c, d, e)) == [a, b, d, c, e]


def test_the_threads_of_one_process_share_one_turn() -> None:
    threads = [Asker(1, key) for key in range(1, 101)]
    requests = [each.ask() for each in threads]
    other = Asker(2).ask()
    assert drained(queue(*requests, other))[:2] == [requests[0], other]


def test_where_nobody_vouches_for_a_pid_each_client_has_its_own_turn() -> None:
    near, far = Asker(1, key=1, uid=None), Asker(1, key=2, uid=None)
    a, b, c = near.ask(), near.ask(), far.ask()
    assert drained(queue(a, b, c)) == [a, c, b]


def test_priorities_are_served_by_their_weights_and_nobody_starves() -> None:
    one = Asker(1)
    flood = [one.ask(priority) for priority in (INTERACTIVE, NORMAL, BATCH) for _ in range(1000)]
    served = Counter(request.priority for request in drained(queue(*flood, weights=(16, 4, 1)))[:210])
    assert served == {INTERACTIVE: 160, NORMAL: 40, BATCH: 10}


def test_a_priority_that_nobody_used_has_saved_nothing_up() -> None:
    one = Asker(1)
    waiting = queue(*[one.ask() for _ in range(1000)], weights=(1, 1, 1))
    for _ in range(500):
        waiting.pop(ALL)
    for _ in range(100):
        waiting.push(one.ask(BATCH))
    assert Counter(waiting.pop(ALL).priority for _ in range(100)) == {NORMAL: 50, BATCH: 50}


def test_turns_of_long_ago_do_not_count_against_who_had_them() -> None:
    one = Asker(1)
    waiting = queue(*[one.ask(INTERACTIVE) for _ in range(1000)], weights=(1, 1, 1))
    drained(waiting)
    flood = [one.ask() for _ in range(100)]
    for request in flood:
        waiting.push(request)
    waiting.push(one.ask(INTERACTIVE))
    assert INTERACTIVE in [waiting.pop(ALL).priority for _ in range(2)]


@pytest.mark.parametrize("turns", [1, 2, 7])
@pytest.mark.parametrize("lonely", [INTERACTIVE, NORMAL, BATCH])
def test_who_waited_alone_does_not_wait_behind_others_for_it(lonely: int, turns: int) -> None:
    one = Asker(1)
    waiting = queue(weights=(16, 4, 1))
    for _ in range(turns):
        waiting.push(one.ask(lonely))
        waiting.pop(ALL)
    for priority in (BATCH, NORMAL, INTERACTIVE):
        waiting.push(one.ask(priority))
    assert [request.priority for request in drained(waiting)] == [INTERACTIVE, NORMAL, BATCH]


def test_a_priority_that_could_not_be_served_has_saved_nothing_up() -> None:
    one = Asker(1)
    waiting = queue(*[one.ask(priority) for priority in (NORMAL, BATCH) for _ in range(1000)], weights=(1, 1, 1))
    for _ in range(500):
        assert waiting.pop(BATCH).priority == NORMAL
    assert Counter(waiting.pop(ALL).priority for _ in range(100)) == {NORMAL: 50, BATCH: 50}


def test_what_had_its_turn_before_comes_first() -> None:
    one = Asker(1)
    a, b, c = one.ask(INTERACTIVE), one.ask(BATCH), one.ask(BATCH)
    waiting = queue(a)
    waiting.push_front(c)
    waiting.push_front(b)
    assert drained(waiting) == [b, c, a]


def test_the_last_priority_can_be_left_out() -> None:
    one = Asker(1)
    batch, normal = one.ask(BATCH), one.ask()
    waiting = queue(batch, normal)
    assert drained(waiting, BATCH) == [normal]
    assert len(waiting) == waiting.count(BATCH) == 1
    assert drained(waiting) == [batch]


@pytest.mark.parametrize("is_returned", [False, True])
def test_a_request_leaves_from_the_middle(is_returned: bool) -> None:
    first, second = Asker(1), Asker(2)
    a, b, c = first.ask(), first.ask(), second.ask()
    waiting = queue(a, b)
    (waiting.push_front if is_returned else waiting.push)(c)
    waiting.discard(c)
    waiting.discard(c)
    assert len(waiting) == 2
    assert waiting.oldest() is a
    waiting.discard(a)
    assert drained(waiting) == [b]
    assert len(waiting) == 0
    assert waiting.oldest() is None


# The same in the broker.


def busy(count: int = 1, **settings: Any) -> tuple[World, list[int]]:
    """A world whose backends all run something of client 1, and which."""
    world = World(max_size=count, **settings)
    world.client()
    requests = [world.query() for _ in range(count)]
    world.connect_all()
    return world, requests


def order(world: World, running: Iterable[int]) -> list[int]:
    """The requests that wait, in the order in which they are begun where each ends at once."""
    found = []
    ended = list(running)
    while ended:
        before = {each for b in world.broker.backends.values() for each in b.running}
        world.finish(ended.pop(0))
        begun = [each.number for b in world.broker.backends.values() for each in b.running if each not in before]
        found += begun
        ended += begun
    return found


def test_an_interactive_request_overtakes_a_flood_of_batch() -> None:
    world, running = busy()
    flood = [world.query(priority=BATCH) for _ in range(10)]
    request = world.query(priority=INTERACTIVE)
    assert order(world, running) == [request, *flood]


def test_the_weights_are_the_groups() -> None:
    world, running = busy(weights=Weights(interactive=1, normal=1, batch=2))
    batch = [world.query(priority=BATCH) for _ in range(4)]
    normal = [world.query() for _ in range(2)]
    begun = order(world, running)
    assert sorted(begun) == sorted(batch + normal)
    assert sum(request in batch for request in begun[:3]) == 2


def test_batch_holds_its_share_of_backends_and_no_more() -> None:
    world = World(max_size=4, min_size=4, batch_share=0.5)
    world.client()
    world.connect_all()
    batch = [world.query(priority=BATCH) for _ in range(4)]
    group = world.broker.groups["default"]
    assert (group.count(S.ACTIVE), group.count(S.IDLE), len(group.queue)) == (2, 2, 2)
    request = world.query()
    assert group.count(S.ACTIVE) == 3, "it does not wait for those of the lower priority"
    world.finish(batch[0])
    assert world.running(batch[2])
    world.finish(request)
    assert len(group.queue) == 1
    world.finish(batch[1])
    world.finish(batch[2])
    world.finish(batch[3])
    assert group.count(S.IDLE) == 4


def test_batch_has_one_backend_at_least() -> None:
    world = World(max_size=1, batch_share=0.0)
    world.client()
    request = world.query(priority=BATCH)
    world.connect_all()
    assert world.running(request)


def test_for_batch_beyond_its_share_no_backend_is_opened() -> None:
    world = World(max_size=8, batch_share=0.25)
    world.client()
    for _ in range(6):
        world.query(priority=BATCH)
    world.connect_all()
    assert len(world.broker.backends) == 2


def test_batch_does_not_push_into_pipelines_but_gets_its_turn_there() -> None:
    world = World(prepare="auto", max_size=2, min_size=2, batch_share=0.5)
    world.client()
    world.client(2)
    world.connect_all()
    promote(world, SHORT, is_short=True)
    for _ in range(2 * SHARING):
        world.query(statement=SHORT)
    batch = world.query(statement=SHORT, client=2, priority=BATCH)
    assert not any(each.number == batch for b in world.broker.backends.values() for each in b.running)
    world.query(statement=SHORT)  # waits: it would overtake
    first = next(iter(world.broker.backends.values()))
    world.complete(first.number)
    assert any(each.number == batch for b in world.broker.backends.values() for each in b.running)


def test_a_lease_of_batch_counts_for_its_share() -> None:
    world = World(max_size=2, min_size=2, batch_share=0.5)
    world.client()
    world.connect_all()
    first = world.query(group="tx", lease=1, begin=True, priority=BATCH)
    world.complete(world.running(first), "active")
    second = world.query(group="tx", lease=2, begin=True, priority=BATCH)
    assert len(world.broker.groups["tx"].queue) == 1
    assert not world.is_answered(second)
    world.broker.client_gone(1, world.now)
    world.take()
    assert len(world.broker.groups["tx"].queue) == 0


def waiting_for_a_lease_of_batch() -> tuple[World, int, int]:
    """A world with a lease of batch at rest in its backend, which is all of batch's share, and a request that waits."""
    world = World(max_size=2, min_size=2, batch_share=0.5)
    world.client()
    world.client(2)
    world.connect_all()
    request = world.query(group="tx", lease=1, begin=True, priority=BATCH)
    backend = world.running(request)
    world.complete(backend, "active")
    second = world.query(2, "tx", lease=1, begin=True, priority=BATCH)
    assert len(world.broker.groups["tx"].queue) == 1
    return world, backend, second


def test_while_the_backend_of_a_lease_of_batch_is_reset_another_has_its_share() -> None:
    world, backend, second = waiting_for_a_lease_of_batch()
    world.broker.client_gone(1, world.now)
    assert world.state(backend) is S.RESETTING
    assert world.running(second)


def test_a_lease_of_batch_counts_while_a_cancel_is_yet_to_settle() -> None:
    world, backend, second = waiting_for_a_lease_of_batch()
    world.broker.cancel(2, second, world.now)
    request = world.query(group="tx", lease=1)
    world.broker.cancel(1, request, world.now)
    world.complete(backend, "active")
    assert world.state(backend) is S.SETTLING
    world.query(2, "tx", lease=2, begin=True, priority=BATCH)
    assert len(world.broker.groups["tx"].queue) == 1
    world.broker.cancelled(backend, world.now)
    assert world.state(backend) is S.LEASED
    assert len(world.broker.groups["tx"].queue) == 1


# Limits of one client.


def failed(world: World, request: int, client: int = 1) -> Failure:
    reply = world.reply_to(request, client)
    assert isinstance(reply, Failure)
    return reply


def test_a_client_may_have_so_many_requests_unanswered() -> None:
    world = World(max_size=1, broker={"max_client_requests": 2})
    world.client()
    world.client(2)
    first, second, third = world.query(), world.query(), world.query()
    refused = failed(world, third)
    assert (refused.kind, refused.outcome) == ("too-many-requests", NOT_EXECUTED)
    assert "max_client_requests = 2" in refused.message
    assert not world.is_answered(world.query(client=2), client=2)
    world.connect_all()
    world.finish(first)
    assert not world.is_answered(second)
    assert not world.is_answered(world.query())


def test_a_client_may_have_so_many_bytes_unanswered_and_one_request_of_any_size() -> None:
    world = World(max_size=1, broker={"max_client_bytes": 1000})
    world.client()
    first = world.query(size=5000)
    refused = failed(world, world.query(size=1))
    assert (refused.kind, refused.outcome) == ("too-many-requests", NOT_EXECUTED)
    assert "max_client_bytes = 1000" in refused.message
    world.connect_all()
    world.finish(first)
    second = world.query(size=600)
    assert failed(world, world.query(size=600)).outcome == NOT_EXECUTED
    world.finish(second)
    assert not world.is_answered(world.query(size=600))


def test_a_client_at_its_limit_may_end_its_lease() -> None:
    world = World(max_size=2, broker={"max_client_requests": 1})
    world.client()
    backend = world.begin(lease=1)
    world.query()
    world.end(Rollback, 1)
    assert world.state(backend) is S.ACTIVE


# What cannot end in time.


def test_what_cannot_end_before_its_deadline_leaves_unexecuted() -> None:
    world, running = busy()
    slow = world.broker.groups["default"].statements.find(b"SELECT 2", b"")
    for _ in range(5):
        slow.record(1.0, 100)
    hopeless = world.query(statement=b"SELECT 2", timeout=1.5)
    hopeful = world.query(statement=b"SELECT 2", timeout=9.0)
    world.pass_time(1.0)
    world.finish(running[0])
    refused = failed(world, hopeless)
    assert (refused.kind, refused.outcome) == ("pool-timeout", NOT_EXECUTED)
    assert refused.message == (
        "not begun after 1 s in the queue: it usually takes up to 1.32 s, and 0.5 s are left of the request's timeout "
        "of 1.5 s; give it a longer timeout, or group 'default' more backends (max_size = 1)"
    )
    assert world.running(hopeful)


def test_of_a_short_statement_the_error_counts_those_ahead_of_it() -> None:
    world, running = busy()
    short = promote(world, b"SELECT 2", is_short=True)
    hopeless = world.query(statement=b"SELECT 2", timeout=1.0)
    world.pass_time(0.998)
    world.finish(running[0])
    said = failed(world, hopeless).message
    needed = short.expected + AHEAD_SECONDS
    assert f"it usually takes up to {needed:.3g} s with those ahead of it, and 0.002 s are left" in said


@pytest.mark.parametrize(
    ("timeout", "limit"), [(None, "queue_timeout = 3 s"), (2.0, "the request's timeout of 2 s"), (9.0, "queue_timeout")]
)
def test_who_waits_too_long_is_told_by_which_limit(timeout: float | None, limit: str) -> None:
    world, _ = busy(queue_timeout=3.0)
    slow = world.broker.groups["default"].statements.find(b"SELECT 2", b"")
    for _ in range(5):
        slow.record(8.0, 100)  # would also not end in 9 s, but that is not what happened
    waiting = world.query(statement=b"SELECT 3" if timeout == 2.0 else b"SELECT 2", timeout=timeout)
    world.pass_time(3.0)
    said = failed(world, waiting).message
    assert f"no backend of group 'default' became free within {min(timeout or 3.0, 3.0):g} s ({limit}" in said


def test_a_leases_statement_behind_another_one_is_told_that() -> None:
    world = World()
    world.client()
    world.begin(1)
    world.query(group="tx", lease=1)
    behind = world.query(group="tx", lease=1, timeout=2.0)
    world.pass_time(2.0)
    said = failed(world, behind)
    assert said.message == (
        "not begun within 2 s (the request's timeout of 2 s): the statement before it in its transaction has not ended"
    )
    assert (said.kind, said.outcome, said.transaction) == ("pool-timeout", NOT_EXECUTED, "active")


def test_what_takes_longer_now_and_then_has_time_for_that_or_is_not_begun() -> None:
    world, running = busy()
    varying = world.broker.groups["default"].statements.find(b"SELECT 2", b"")
    for seconds in (0.2, 1.8) * 10:
        varying.record(seconds, 100)
    world.query(statement=b"SELECT 2", timeout=2.5)
    hopeful = world.query(statement=b"SELECT 2", timeout=9.0)
    world.pass_time(1.0)
    world.finish(running[0])
    assert world.running(hopeful), "of the other was time for the mean only"


def test_a_statement_that_was_slow_long_ago_gets_its_chance() -> None:
    world, running = busy(endpoint_settings={"query_timeout": 0.0})
    world.pass_time(2 * TRUSTED_FOR)
    slow = world.broker.groups["default"].statements.find(b"SELECT 2", b"")
    for _ in range(5):
        slow.record(5.0, 100)
    request = world.query(statement=b"SELECT 2", timeout=1.0)
    world.finish(running[0])
    assert world.running(request)
    again = world.query(statement=b"SELECT 2", timeout=1.0)
    other = world.query()
    world.finish(request)
    assert failed(world, again).outcome == NOT_EXECUTED, "one has been tried"
    assert world.running(other)


def test_a_statement_that_nobody_knows_gets_its_chance() -> None:
    world, running = busy()
    request = world.query(statement=b"SELECT 2", timeout=1.5)
    world.pass_time(1.4)
    world.finish(running[0])
    assert world.running(request)
