"""The same arrivals at a broker with a lane and at one without: the same replies, and the same figures in `stats`."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from stage import HARMLESS, INT, OTHER, PLAIN_READ, READ, WRITE, Stage, is_right

from poold.core.stats import BOUNDS, Times, Use

SEEDS = 40
ROUNDS = 40
# What both have to count alike. How many statements share a backend depends on whose turn it is.
FIGURES = (
    "requests", "transactions", "not_begun", "errors", "refused", "timeouts", "withdrawn", "retries", "in_doubt",
)  # fmt: skip


@contextmanager
def stage(has_lane: bool, **settings: Any) -> Iterator[Stage]:
    made = Stage(has_lane, **settings)
    try:
        for sql, proof in ((READ, PLAIN_READ), (OTHER, PLAIN_READ), (WRITE, HARMLESS)):
            made.promote(sql, proof=proof)
        yield made
    finally:
        made.close()


def play(played: Stage, seed: int) -> dict[int, list[bytes]]:
    """Let clients send at random, and servers answer all; returns what was asked, by request."""
    chance = random.Random(seed)
    clients = [played.client(pid=1000 + place // 2) for place in range(chance.choice([1, 3, 6]))]
    asked: dict[int, list[bytes]] = {}
    for _ in range(ROUNDS):
        for _ in range(chance.randrange(1, 8)):
            client, kind = chance.choice(clients), chance.random()
            priority = chance.choice([0, 1, 1, 1, 2])
            timeout = chance.choice([None, None, 5.0])
            if kind < 0.6:
                sql = [chance.choice([READ, OTHER])]
                asked[played.query(client, sql[0], priority=priority, timeout=timeout)] = sql
            elif kind < 0.9:
                sql = [WRITE, *chance.choices([READ, WRITE], k=chance.randrange(3))]
                asked[played.transaction(client, *sql, priority=priority)] = sql
            else:
                sql = [b"SELECT 1 AS cold, \0"]
                asked[played.query(client, sql[0], types=INT)] = sql
        for client in clients:
            played.turn(client)
        if chance.random() < 0.8:
            played.answer_all()
        played.pass_time(chance.choice([0.001, 0.001, 0.03]))
    for _ in range(5):
        for client in clients:
            played.turn(client)
        played.answer_all()
        played.pass_time(0.03)
    if played.lane is not None:
        played.lane.fold()
    return asked


def figures(played: Stage) -> dict[str, Any]:
    shown = played.broker.snapshot(played.now)["groups"]["default"]
    stats = played.group.stats
    times: dict[str, Times] = {"wait": stats.wait_times, "run": stats.run_times, **stats.use_times}
    return {
        **{name: shown[name] for name in FIGURES},
        "run": shown["endpoints"]["main"]["requests"],
        "statements": shown["statements"],
        "runs": {each.sql: each.runs for each in played.group.statements},
        "tallies": {(each.kind, each.text): (each.calls, each.errors, each.rows) for each in played.group.tallies},
        **{name: each.up_to(())[-1] for name, each in times.items()},
    }


def is_plausible(times: Times) -> bool:
    """Whether the sum can be that of the times which the buckets have counted."""
    counts = times.up_to(BOUNDS)
    counted = [count - before for count, before in zip(counts, [0, *counts], strict=False)]
    least = sum(count * bound for count, bound in zip(counted, [0.0, *BOUNDS], strict=True))
    most = sum(count * bound for count, bound in zip(counted, [*BOUNDS, math.inf], strict=True) if count)
    return least - 1e-9 <= times.sum <= most + 1e-9


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nobody_can_tell_who_ran_a_request(seed: int) -> None:
    settings = {"max_size": random.Random(seed).choice([1, 2, 4])}
    with stage(True, **settings) as hot, stage(False, **settings) as cold:
        asked = play(hot, seed)
        assert play(cold, seed) == asked
        for key, client in hot.clients.items():
            replies = {reply.request: reply for reply in client.replies}  # type: ignore[union-attr]  # no Welcome
            assert len(replies) == len(client.replies)
            assert all(is_right(reply, number, asked[number]) for number, reply in replies.items())
            assert replies == {reply.request: reply for reply in cold.clients[key].replies}  # type: ignore[union-attr]
        assert figures(hot) == figures(cold)
        for each in (hot, cold):
            stats = each.group.stats
            assert all(map(is_plausible, (stats.wait_times, stats.run_times, *stats.use_times.values())))
            assert stats.run_times.sum >= stats.use_times[Use.MESSAGE].sum - 1e-9
        assert hot.lane is not None
        assert hot.lane.counts["requests"] > 0
