"""The small parts of the core: timers, queue, times."""

import itertools
import random

import pytest

from poold.core.stats import BOUNDS, WINDOW, Times
from poold.core.timers import COMPACT_FROM, Timers


def all_due(timers: Timers, now: float) -> list[object]:
    return list(iter(lambda: timers.pop_due(now), None))


def test_due_keys_come_in_order_and_only_once() -> None:
    timers = Timers()
    for key, when in (("c", 3.0), ("a", 1.0), ("b", 2.0)):
        timers.set(key, when)
    assert timers.next_deadline() == 1.0
    assert all_due(timers, 2.0) == ["a", "b"]
    assert all_due(timers, 2.0) == []
    assert timers.next_deadline() == 3.0


def test_a_deadline_that_moves_counts_where_it_moved() -> None:
    timers = Timers()
    timers.set("a", 1.0)
    timers.set("a", 5.0)
    assert all_due(timers, 4.0) == []
    timers.set("a", 4.5)
    assert all_due(timers, 4.5) == ["a"]
    assert all_due(timers, 9.0) == []


def test_acting_on_one_deadline_may_take_another_back() -> None:
    timers = Timers()
    timers.set("a", 1.0)
    timers.set("b", 1.0)
    assert timers.pop_due(1.0) == "a"
    timers.set("b", 2.0)
    assert timers.pop_due(1.0) is None


def test_a_cleared_deadline_never_comes() -> None:
    timers = Timers()
    timers.set("a", 1.0)
    timers.clear("a")
    timers.clear("unknown")
    assert timers.next_deadline() is None
    assert all_due(timers, 9.0) == []


def test_leftovers_do_not_pile_up() -> None:
    timers = Timers()
    timers.set("kept", 1e9)
    for key in range(100 * COMPACT_FROM):
        timers.set(key, 30.0 + key)
        timers.clear(key)
    assert len(timers._heap) <= 2 * COMPACT_FROM


def test_one_key_with_ever_later_deadlines_has_one_entry() -> None:
    timers = Timers()
    for when in range(10_000):
        timers.set("backend", float(when))
    assert len(timers._heap) == 1


def test_timers_agree_with_a_plain_dict_whatever_happens() -> None:
    dice = random.Random(20250101)
    timers, model, now = Timers(), dict[int, float](), 0.0
    for _ in range(20_000):
        match dice.randrange(4):
            case 0 | 1:
                key, when = dice.randrange(30), now + dice.random() * 10
                timers.set(key, when)
                model[key] = when
            case 2:
                key = dice.randrange(30)
                timers.clear(key)
                model.pop(key, None)
            case 3:
                now += dice.random()
                due = {key for key, when in model.items() if when <= now}
                assert set(all_due(timers, now)) == due
                for key in due:
                    del model[key]
        earliest = min(model.values(), default=None)
        told = timers.next_deadline()
        assert (told is None) if earliest is None else (told is not None and told <= earliest)


def test_percentiles_are_right_within_a_bucket() -> None:
    times = Times()
    for milliseconds in range(1, 1001):
        times.record(milliseconds / 1000)
    found = times.percentiles_ms()
    assert found["p50"] == pytest.approx(500, rel=0.2)
    assert found["p99"] == pytest.approx(990, rel=0.2)


def test_times_beyond_the_buckets_are_counted_at_their_ends() -> None:
    times = Times()
    times.record(0.0)
    assert times.percentiles_ms()["p50"] == pytest.approx(0.01, rel=0.2)
    for _ in range(10):
        times.record(1e6)
    found = times.percentiles_ms()["p99"]
    assert found is not None
    assert found > 100_000


def test_bounds_are_close_and_have_round_ones_among_them() -> None:
    assert list(BOUNDS) == sorted(set(BOUNDS))
    assert max(high / low for low, high in itertools.pairwise(BOUNDS)) < 1.202
    assert (BOUNDS[0], BOUNDS[-1]) == (1e-5, 500.0)
    assert {float(f"{figure}e{power}") for figure in ("1", "2.5", "5") for power in range(-5, 3)} <= set(BOUNDS)


def test_all_times_since_the_start_are_told_by_some_of_the_bounds() -> None:
    dice = random.Random(7)
    times, all_of_them, some = Times(), list[float](), (0.001, 0.0025, 0.1, 50.0)
    for window in range(6):
        for _ in range(500):
            seconds = dice.choice([0.0, 0.001, dice.lognormvariate(-4, 3)])
            all_of_them.append(seconds)
            times.record(seconds)
        many = [0] * (len(BOUNDS) + 1)
        many[BOUNDS.index(0.1)] = 3  # what somebody else has counted, of more than the bound before that
        times.add(many, 0.27)
        all_of_them += [0.09] * 3
        times.turn((window + 1) * WINDOW)
        expected = [sum(each <= bound for each in all_of_them) for bound in some]
        assert times.up_to(some) == [*expected, len(all_of_them)]
        assert times.sum == pytest.approx(sum(all_of_them))
    with pytest.raises(KeyError, match=r"0\.0011"):
        times.up_to((0.0011,))


def test_times_are_forgotten_after_two_windows() -> None:
    times = Times()
    assert times.percentiles_ms() == {"p50": None, "p99": None}
    times.record(1.0)
    times.turn(WINDOW)
    assert times.percentiles_ms()["p50"] is not None
    times.turn(WINDOW + 1)
    assert times.percentiles_ms()["p50"] is not None
    times.turn(2 * WINDOW)
    assert times.percentiles_ms()["p50"] is None
