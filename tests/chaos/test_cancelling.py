"""A cancel never hits another client's statement, however many there are and whenever they come."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from brokers import ROOT, Broker, Worker
from cancelling import SHORT, TABLE, WRITE
from postgres import Postgres
from waiting import wait_until

CANCELLERS, CLIENTS = 4, 25  # processes, and clients in each
BYSTANDERS, WITNESSES = 2, 8
# Each process of cancellers withdraws so many statements; more where the chaos is to last longer.
CANCELS_PER_SECOND = 30
# Few backends for so many: pipelines are full, and cancels come for statements at any place in them.
GROUPS = {"default": {"min_size": 3, "max_size": 3, "pipeline_depth": 16}}

PROGRAM = f"""
sys.path[:0] = {[str(ROOT / "tests" / name) for name in ("", "integration", "chaos")]!r}
import cancelling
cancelling.main(tell, sys.argv[1], *map(int, sys.argv[2:]))
"""


@pytest.fixture
def broker(postgres: Postgres) -> Iterator[Broker]:
    """One whose short statements are known as such."""
    postgres.execute(TABLE)
    made = Broker({"main": postgres.parameters}, GROUPS)
    try:
        made.start()
        db = made.handler()
        while made.group()["statements"]["prepared"] < 2:
            db.query(SHORT, ("a", 0))
            db.query(WRITE, ("a",))
        postgres.execute("DELETE FROM written")
        yield made
    finally:
        made.close()
        postgres.execute("DROP TABLE written")


def test_a_cancel_never_hits_another_clients_statement(
    broker: Broker, postgres: Postgres, chance: random.Random, chaos_seconds: float, report: list[str]
) -> None:
    with ExitStack() as stack:

        def start(kind: str, count: int) -> Worker:
            cancels = round(chaos_seconds * CANCELS_PER_SECOND)
            numbers = count, chance.randrange(2**32), cancels
            worker = Worker(PROGRAM, kind, *map(str, numbers), address=broker.address)
            stack.callback(worker.close)
            return worker

        begin = time.monotonic()
        bystanders = [start("bystanders", WITNESSES) for _ in range(BYSTANDERS)]
        cancellers = [start("cancellers", CLIENTS) for _ in range(CANCELLERS)]
        cancelled, of_cancellers = finish(cancellers)
        for worker in bystanders:
            worker.say("stop")
        heard, of_bystanders = finish(bystanders)
    report.append(f"{time.monotonic() - begin:.0f} s, of those who cancel: {dict(cancelled)}, others: {dict(heard)}")
    report.append(f"statements that joined others: {broker.pool()['joined']} of {broker.pool()['requests']}")
    assert of_bystanders == []
    assert of_cancellers == []
    assert cancelled["cancels"] >= CANCELLERS * chaos_seconds * CANCELS_PER_SECOND
    assert cancelled["left"] > 0
    assert heard["answers"] > 1000
    assert broker.pool()["joined"] > 0, "statements shared backends"
    wait_until(lambda: broker.pool()["idle"] == broker.pool()["size"], what="all backends to be free")
    assert broker.pool()["lost"] == 0
    assert postgres.execute("SELECT token FROM written GROUP BY token HAVING count(*) > 1") == [], "none ran twice"


def finish(workers: list[Worker]) -> tuple[Counter[str], list[str]]:
    """What happened to all of them together, and what was wrong."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for worker in workers:
        ((some, mistakes),) = worker.finish()
        counts.update(some)
        wrong += mistakes
    return counts, wrong
