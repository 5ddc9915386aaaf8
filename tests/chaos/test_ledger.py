"""The ledger test: whatever fails, what a worker was told of its transaction is true, and nothing is left behind."""

import random
import re
from collections import Counter
from pathlib import Path

import pytest
from audit import Attempt, Fate, audit, read_log
from census import Census, census
from conductor import Conductor
from postgres import Factory, PrivatePostgres
from stage import SETTLED, Stage
from waiting import wait_until

WORKERS = 14
# uvloop looks host names up in threads of libuv's, four at most, which stay.
LOOKUP_THREADS = 4
# What a broker keeps of statements, plans and times is soon complete: without faults it grows by 1.6 MB and
# stays there. Faults make it hold more at once, which the allocator keeps. A leak of 1 KiB per request is above this
# after 16,000 of them.
MEMORY_KEPT = 16 * 2**20


def test_under_chaos_every_answer_is_true_and_nothing_is_left_behind(
    fresh_postgres: Factory, tmp_path: Path, chance: random.Random, chaos_seconds: float, report: list[str]
) -> None:
    server = fresh_postgres()
    if not isinstance(server, PrivatePostgres):
        pytest.skip("a container's processes have other numbers out here")
    with Stage(server, tmp_path, chance, WORKERS) as stage:
        wait_until(lambda: not stage.restless(), SETTLED, "the broker to have its first backends")
        before = census(stage.broker)
        stage.begin()
        conductor = Conductor(stage)
        try:
            conductor.play(chaos_seconds)
        finally:
            report += conductor.lines()
        stage.end()

        found = server.execute("SELECT worker, serial, part FROM entry")
        attempts: list[Attempt] = []
        told_wrong = list(stage.probes.wrong)
        for log in sorted(tmp_path.glob("*.log")):
            some, wrong = read_log(log)
            attempts += some
            told_wrong += wrong
        result = audit(attempts, found, told_wrong)
        report += result.lines()
        assert result.wrong == []
        assert all(result.fates[fate] for fate in Fate), "each kind of answer was given"
        assert len(result.ways) == 10, "each way was gone"
        logs = server.server.data.glob("log*")  # of its last two starts
        noted = Counter(re.findall(r"LOG:  noted (\S+)", "".join(log.read_text(errors="replace") for log in logs)))
        assert noted, "the server's log tells what ran"
        assert [token for token, count in noted.items() if count > 1] == [], "whatever may have an effect ran once"
        report.append(f"before {before}")
        report.append(f"after  {census(stage.broker)}")
        wait_until(lambda: nothing_left(before, census(stage.broker)), SETTLED, "the broker's process to be at rest")
        assert server.execute("SELECT count(*) FROM pg_prepared_xacts") == [(0,)]


def nothing_left(before: Census, after: Census) -> bool:
    """Whether what the broker holds is what it held before."""
    return (
        after.descriptors == before.descriptors
        and after.threads <= before.threads + LOOKUP_THREADS
        and after.children == before.children
        and after.memory <= before.memory + MEMORY_KEPT
    )
