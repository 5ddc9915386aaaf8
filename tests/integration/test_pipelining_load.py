"""Pipelines under load: thousands of statements from many processes, also while their backends die."""

import random
from collections.abc import Callable, Iterator
from contextlib import suppress

import psycopg2
import pytest
from brokers import Broker, Worker
from crowd import Crowd
from ledger import TABLES, Kill, crash, tags, terminate
from postgres import Factory, Postgres
from waiting import wait_until

from client.values.result import Result

StartBroker = Callable[..., Broker]
StartWorker = Callable[..., Worker]

PROCESSES, BURSTS, DEPTH = 4, 60, 16
GROUPS = {
    "default": {"min_size": 2, "max_size": 2, "pipeline_depth": DEPTH},
    "reading": {"min_size": 2, "max_size": 2, "pipeline_depth": DEPTH, "read_only": True},
}
ECHO = """
CREATE FUNCTION echo(tag text, size int) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF size % 20 = 3 THEN RAISE 'no %', tag; END IF;
    IF size % 20 = 7 THEN RAISE NOTICE 'hear %', tag; END IF;
    RETURN tag || repeat('x', size);
END $$
"""

# A worker of so many clients that ask without waiting for each other; nobody stops the broker for them.
CROWD = f"""
sys.path[:0] = ['tests', 'tests/integration']
import client, random, select, types
from crowd import Crowd
broker = types.SimpleNamespace(address=os.environ['POOLD_ADDRESS'], signal=lambda number: None)
DEPTH = {DEPTH}
"""
ASKING = """
chance, mistakes = random.Random(os.getpid()), []

def question(tag, size):
    if size % 2:
        return 'SELECT echo(%s, %s) AS it', (tag, size)
    return 'SELECT %s || lpad(%s, %s, %s) AS it, n FROM generate_series(1, 3) n', (tag, '', size, 'x')

def expected(tag, size):
    if size % 20 == 3:
        return 'error', f'no {tag}'
    return [tag + 'x' * size] * (1 if size % 2 else 3), (f'NOTICE:  hear {tag}\\n',) if size % 20 == 7 else ()

def seen(answer):
    if isinstance(answer, client.DBError):
        return 'error', answer.diag.message_primary
    return [row.it for row in answer], answer.notices

with Crowd(broker, DEPTH) as crowd:
    for burst in range(int(sys.argv[1])):
        asked = [(f'{os.getpid()}/{burst}/{n}', min(int(chance.expovariate(1 / 500)), 30000)) for n in range(DEPTH)]
        crowd.ask([question(*each) for each in asked])
        for each, answer in zip(asked, crowd.answers()):
            if seen(answer) != expected(*each):
                mistakes.append([str(expected(*each))[:200], str(seen(answer))[:200]])
tell(mistakes)
"""


@pytest.fixture
def echoing(postgres: Postgres) -> Iterator[Postgres]:
    """The session's server with this module's function."""
    postgres.execute(ECHO)
    try:
        yield postgres
    finally:
        postgres.execute("DROP FUNCTION echo")


def test_of_thousands_of_statements_each_gets_the_answer_to_its_own_question(
    echoing: Postgres, start_broker: StartBroker, start_worker: StartWorker
) -> None:
    broker = start_broker(groups=GROUPS)
    for _ in range(60):  # until they are known as short ones
        broker.handler().query("SELECT echo(%s, %s) AS it", ("a", 1))
        broker.handler().query("SELECT %s || lpad(%s, %s, %s) AS it, n FROM generate_series(1, 3) n", ("a", "", 2, "x"))
    workers = [start_worker(CROWD + ASKING, str(BURSTS), address=broker.address) for _ in range(PROCESSES)]
    for worker in workers:
        assert worker.finish() == [[]]
    pool = broker.pool()
    assert pool["requests"] >= PROCESSES * BURSTS * DEPTH
    assert pool["joined"] > 0, "they really shared backends"
    assert pool["opened"] == 2


def test_pipelines_of_more_statements_than_a_backend_keeps_are_answered_right(start_broker: StartBroker) -> None:
    broker = start_broker(groups={"default": {"max_size": 1, "pipeline_depth": DEPTH}})
    chance, kept = random.Random(5), 500
    templates = [f"SELECT %s + {number} AS it" for number in range(kept + 60)]
    with Crowd(broker, DEPTH) as crowd:
        for burst in range(400):
            # In the end the same few by turns with all others: some are forgotten while others wait behind them.
            some = templates[:40] + templates[-40:] if burst > 300 else templates
            asked = [(chance.randrange(len(some)), chance.randrange(1000)) for _ in range(DEPTH)]
            crowd.ask([(some[place], (number,)) for place, number in asked])
            for (place, number), answer in zip(asked, crowd.answers(), strict=True):
                assert isinstance(answer, Result), answer
                assert f"SELECT %s + {answer[0].it - number} AS it" == some[place]
    assert broker.group()["statements"]["prepared"] > kept
    assert broker.group()["errors"] == 0
    assert broker.handler().query("SELECT count(*) FROM pg_prepared_statements")[0][0] <= kept


WORKING = """
outcomes, failed = {}, []
with Crowd(broker, DEPTH) as writers, Crowd(broker, DEPTH, 'reading') as readers:
    tell('ready')
    while not select.select([sys.stdin], [], [], 0)[0]:
        tags = [f'{os.getpid()}/{len(outcomes) + n}' for n in range(DEPTH)]
        writers.ask([('INSERT INTO ledger (tag) VALUES (%s)', (tag,)) for tag in tags])
        readers.ask([('SELECT %s || %s AS it', (tag, '!')) for tag in tags])
        for tag, written, read in zip(tags, writers.answers(), readers.answers()):
            outcomes[tag] = written.outcome if isinstance(written, client.DBError) else 'committed'
            if isinstance(read, client.DBError) or read[0].it != tag + '!':
                failed.append(repr(read))
tell([outcomes, failed])
"""


@pytest.mark.parametrize(("kill", "times"), [(terminate, 10), (crash, 2)])
def test_while_backends_die_every_statement_is_answered_with_the_truth(
    fresh_postgres: Factory, start_broker: StartBroker, start_worker: StartWorker, kill: Kill, times: int
) -> None:
    server, chance, killed = fresh_postgres(), random.Random(3), set()
    server.execute(TABLES)
    broker = start_broker({"main": {**server.parameters, "query_timeout": 0}}, GROUPS)
    workers = [start_worker(CROWD + WORKING, address=broker.address) for _ in range(2)]
    assert [worker.hear() for worker in workers] == ["ready"] * 2

    def victims() -> list[int]:
        served = "SELECT pid FROM pg_stat_activity WHERE application_name = 'poold'"
        with suppress(psycopg2.OperationalError):  # it still recovers
            return [pid for (pid,) in server.execute(served) if pid in broker.server_pids() - killed]
        return []

    def lost() -> int:
        return sum(int(broker.pool(group)[how]) for group in GROUPS for how in ("lost", "failed"))

    def served() -> bool:
        pools = [broker.pool("default"), broker.pool("reading")]
        return all(pool["size"] == 2 and pool["connecting"] == 0 for pool in pools)

    for _ in range(times):
        wait_until(served, 30, "all backends to be there")
        requests, before = broker.group("default")["requests"], lost()
        wait_until(lambda at=requests: broker.group("default")["requests"] > at + 200, 30, "work to be done")
        pid = chance.choice(wait_until(victims, 20, "the server to answer"))
        kill(server, pid)
        killed.add(pid)
        wait_until(lambda at=before: lost() > at, what="the broker to notice")
    wait_until(served, 30, "all backends to be there")
    for worker in workers:
        worker.say("stop")
    outcomes: dict[str, str] = {}
    for worker in workers:
        ((some, failed),) = worker.finish()
        outcomes.update(some)
        assert failed == [], "what only reads is run again"
    found = tags(server)
    there = set(found)
    assert len(found) == len(there), "none was run twice"
    assert there <= set(outcomes)
    for tag, outcome in outcomes.items():
        if outcome != "unknown":
            assert (tag in there) == (outcome == "committed"), (tag, outcome)
    assert sum(outcome != "committed" for outcome in outcomes.values()) <= times * 2 * DEPTH
    assert broker.pool("reading")["joined"] > 0, "they really shared backends"
