"""What each statement costs: counted once for each request that has run, in bounded memory."""

from typing import Any

import pytest
from units import SHORT, answer, sharing
from world import World, failure

from client.wire.limits import MAX_NUMBER
from client.wire.masking import shape
from client.wire.messages import TX_ACTIVE, Commit, Step
from poold.core.facts import Completion
from poold.core.stats import BOUNDS
from poold.core.tallies import BUCKETS, KEPT, STATEMENT, UPPER, Tallies
from poold.core.work.transaction_plan import joined


def tallies(world: World, group: str = "default") -> dict[bytes, tuple[str, int, int, int]]:
    found = world.broker.groups[group].tallies
    return {each.text: (each.kind, each.calls, each.errors, each.rows) for each in found}


def ran(world: World, statement: bytes, seconds: float = 0.1, **over: Any) -> None:
    request = world.query(statement=statement, **over)
    world.connect_all()
    world.now += seconds
    world.finish(request)


def test_buckets_are_pairs_of_those_of_times() -> None:
    assert len(UPPER) == BUCKETS - 1
    assert all(each in BOUNDS for each in UPPER)


def test_statements_that_differ_by_values_are_one() -> None:
    world = World()
    world.client()
    for number in range(3):
        ran(world, b"SELECT name FROM item WHERE id = %d" % number)
    assert tallies(world) == {b"SELECT name FROM item WHERE id = ?": (STATEMENT, 3, 0, 3)}
    (tally,) = world.broker.groups["default"].tallies
    assert tally.seconds == pytest.approx(0.3)
    assert tally.percentile_ms(0.99) == pytest.approx(100, rel=0.2)


def test_an_error_is_a_call_and_what_never_began_is_none() -> None:
    world = World(max_size=1, queue_timeout=1.0)
    world.client()
    first = world.query(statement=b"SELECT 1/0")
    world.query(statement=b"SELECT 2")
    world.connect_all()
    world.pass_time(2)
    world.finish(first, reply=failure())
    group = world.broker.groups["default"]
    assert tallies(world) == {b"SELECT ?/?": (STATEMENT, 1, 1, 0)}
    assert (group.stats.requests, group.stats.not_begun) == (2, 1)


def test_a_transaction_message_is_one_call_of_its_shape() -> None:
    world = World()
    world.client()
    steps = [Step(b"UPDATE a SET x = %d" % number, b"", b"", True, (), 0, None) for number in range(3)]
    request = world.transaction(*steps)
    world.connect_all()
    world.broker.completed(world.running(request), Completion(TX_ACTIVE, [], failure(transaction=TX_ACTIVE)), world.now)
    world.complete(world.running(request))
    assert tallies(world) == {b"UPDATE a SET x = ?; ...": ("transaction", 1, 1, 0)}
    assert world.broker.groups["default"].stats.transactions == 1


def test_statements_of_a_message_that_are_the_same_in_a_row_are_shown_once() -> None:
    assert joined([b"a", b"a", b"a", b"b", b"a"]) == b"a; ...; b; a"
    assert joined([b"a", b"a"]) == joined([b"a"] * 40) == b"a; ..."
    assert joined([b"x" * 600] + [b"y%d" % n for n in range(1000)]).endswith(b"; ...")


def test_the_statements_of_a_lease_and_its_end_are_calls() -> None:
    world = World()
    world.client()
    backend = world.begin(lease=7)
    world.end(Commit, 7)
    world.complete(backend, command="COMMIT")
    assert tallies(world, "tx") == {b"SELECT ?": (STATEMENT, 1, 0, 1), b"COMMIT": (STATEMENT, 1, 0, 1)}
    assert world.broker.groups["tx"].stats.transactions == 1


def test_in_a_pipeline_a_run_begins_when_the_one_ahead_has_ended_and_before_that_it_waits() -> None:
    world, backend, _ = sharing(3)
    stats = world.broker.groups["default"].stats
    waits, runs = list(stats.wait_times._current), list(stats.run_times._current)
    tally = world.broker.groups["default"].tallies.find(STATEMENT, shape(SHORT))
    before = tally.seconds
    for seconds in (0.010, 0.001, 0.001):
        world.now += seconds
        answer(world, backend)
    assert tally.seconds - before == pytest.approx(0.012)
    new = [stats.run_times._current[place] - runs[place] for place in range(len(runs))]
    assert sum(new) == 3
    waited = [stats.wait_times._current[place] - waits[place] for place in range(len(waits))]
    assert sum(waited) == 2, "the first one's wait was over before"
    longest = max(place for place, count in enumerate(waited) if count)
    assert BOUNDS[longest - 1] < 0.011 <= BOUNDS[longest]


def test_units_whose_ends_are_read_together_share_the_time() -> None:
    world, number, requests = sharing(3)
    backend = world.broker.backends[number]
    began = backend.begun(backend.running[0])
    world.now = began + 0.3
    ends = []
    for behind in (2, 1, 0):
        ends.append(backend.ended(backend.running[0], behind, world.now) - began)
        backend.completed = began + ends[-1]
        backend.running.popleft()
    assert ends == pytest.approx([0.1, 0.2, 0.3])
    assert len(requests) == 3


def test_the_least_used_are_forgotten_and_no_call_is_lost() -> None:
    found = Tallies()
    often = found.find(STATEMENT, b"often")
    for _ in range(50):
        found.count(often, 0.001, 1, is_error=False)
    for number in range(3 * KEPT):
        found.count(found.find(STATEMENT, b"%d" % number), 0.5, 2, is_error=number % 2 == 0)
        assert len(found) <= KEPT
    total = found.total()
    assert (total.calls, total.rows, total.errors) == (50 + 3 * KEPT, 50 + 6 * KEPT, 3 * KEPT // 2)
    assert found.find(STATEMENT, b"often") is often
    assert found.forgotten + len(found) == 3 * KEPT + 1
    assert total.percentile_ms(0.5) == pytest.approx(500, rel=0.2)


def test_a_reset_begins_anew() -> None:
    found = Tallies()
    found.count(found.find(STATEMENT, b"a"), 1.0, MAX_NUMBER, is_error=True)
    found.reset(12.0)
    assert (len(found), found.total().calls, found.since) == (0, 0, 12.0)
    assert found.total().percentile_ms(0.5) is None


def test_rates_are_those_of_the_last_one_to_two_minutes() -> None:
    world = World()
    world.client()
    stats = world.broker.groups["default"].stats
    assert stats.rates(world.now)["requests"] is None
    for _ in range(180):
        ran(world, b"SELECT 1", 0.25)
        world.pass_time(0.75)
    shown = stats.rates(world.now)
    assert 60 <= (shown["seconds"] or 0) <= 120
    assert shown["requests"] == pytest.approx(1.0, rel=0.05)
    world.pass_time(300)
    assert stats.rates(world.now)["requests"] == 0
