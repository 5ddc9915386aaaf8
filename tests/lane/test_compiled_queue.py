"""The compiled queue, beside the one that it stands for: the same order whatever happens."""

import random

import pytest

from poold.core.records.client import Client
from poold.core.records.request import Request, Verb
from poold.core.shared import queue as core
from poold.lane import queue as lane

STEPS = 600


@pytest.mark.parametrize("seed", range(150))
def test_both_queues_agree(seed: int) -> None:
    chance = random.Random(seed)
    weights = chance.choice([(16, 4, 1), (1, 1, 1), (3, 2, 7)])
    both = core.Queue(weights), lane.Queue(weights)
    clients = [Client(key, key // 2, "", 0) for key in range(chance.choice([1, 4, 9]))]
    waiting: list[Request] = []
    for number in range(STEPS):
        what = chance.random()
        if what < 0.5:
            request = Request(chance.choice(clients), number, None, Verb.QUERY, float(number))  # type: ignore[arg-type]
            request.priority = chance.randrange(3)
            waiting.append(request)
            for each in both:
                each.push(request)
        elif what < 0.75:
            priorities = chance.choice([2, 3])
            first = both[0].first(priorities)
            if first is not None:
                assert both[0].pop(priorities) is first
                assert both[1].pop(priorities) is first
                waiting.remove(first)
                if chance.random() < 0.3:
                    waiting.append(first)
                    for each in both:
                        each.push_front(first)
        elif waiting and what < 0.85:
            request = waiting.pop(chance.randrange(len(waiting)))
            for each in both:
                each.discard(request)
                each.discard(request)
        elif waiting:
            old = chance.choice([each for each in waiting if each not in both[0]._returned] or [None])
            if old is not None:
                new = Request(old.client, number, None, Verb.QUERY, old.arrived)  # type: ignore[arg-type]
                new.priority = old.priority
                waiting[waiting.index(old)] = new
                for each in both:
                    each.replace(old, new)  # type: ignore[arg-type]  # in the place of a flight
        for priorities in (2, 3):
            assert both[0].first(priorities) is both[1].first(priorities)
        assert len(both[0]) == len(both[1]) == both[1].size == len(waiting)
        assert [both[0].count(each) for each in range(3)] == [both[1].count(each) for each in range(3)]
        assert set(both[0]) == set(both[1]) == set(waiting)
        oldest = both[0].oldest(), both[1].oldest()
        assert (oldest[0] and oldest[0].arrived) == (oldest[1] and oldest[1].arrived)
