"""Statements of different clients in one backend's pipeline: none notices the others, whatever becomes of them."""

import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from brokers import Broker
from crowd import Crowd
from gates import gate
from postgres import Postgres
from waiting import wait_until

import client
from client.values.result import Result

StartBroker = Callable[..., Broker]

DEPTH = 16
GROUPS = {
    "default": {"max_size": 1, "pipeline_depth": DEPTH},
    "alone": {"max_size": 1, "pipeline_depth": 1},
}
# Only what is proven to be a plain read shares a backend. READ does what its parameters say, so that a short one may
# turn out to be anything that a read can be; ACT does what no read does, among them.
TABLES = """
CREATE TABLE acted (n int);
CREATE TABLE one (nothing text);
INSERT INTO one VALUES ('');
CREATE SEQUENCE counted;
CREATE FUNCTION act(what text, n int) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    CASE what
        WHEN 'say' THEN RAISE NOTICE 'said %', n;
        WHEN 'write' THEN INSERT INTO acted VALUES (n);
        WHEN 'undo' THEN INSERT INTO acted VALUES (n); RAISE 'undone %', n USING ERRCODE = '22012';
        WHEN 'spoil' THEN PERFORM set_config('DateStyle', 'German', false);
        ELSE NULL;
    END CASE;
    RETURN what || ' ' || n;
END $$
"""
ACT = "SELECT act(%s, %s) AS it, '2024-02-29'::date AS day"
# The table keeps the planner from reading what only some of them read.
READ = """
SELECT CASE act.what
    WHEN 'fail' THEN (one.nothing || 'failed ' || act.n)::int::text
    WHEN 'fill' THEN repeat(act.n::text, 1000)
    WHEN 'slow' THEN left((SELECT count(*) FROM (SELECT generate_series(1, act.n)) x)::text || one.nothing, 0)
    ELSE '' END || CASE WHEN act.what IN ('fail', 'fill') THEN '' ELSE act.what || ' ' || act.n END AS it,
    '2024-02-29'::date AS day
FROM (SELECT %s::text AS what, %s::int AS n) act, one
"""
READS = ("do", "fail", "fill", "slow")
LASTS = """
SELECT 1 FROM pg_stat_activity
WHERE state = 'active' AND query LIKE '%generate\\_series%' AND pid <> pg_backend_pid()
AND clock_timestamp() - query_start > '100 ms'
"""
LONG = 2_000_000_000  # rows; what should be cancelled would be noticed by its staying


@pytest.fixture(scope="module")
def shared(postgres: Postgres) -> Iterator[Broker]:
    """A broker with one backend in each group, on the session's server with this module's tables."""
    postgres.execute(TABLES)
    made = Broker({"main": {**postgres.parameters, "query_timeout": 0}}, GROUPS)
    try:
        yield made.start()
    finally:
        made.close()
        postgres.execute("DROP TABLE acted, one; DROP SEQUENCE counted; DROP FUNCTION act")


@pytest.fixture
def server(postgres: Postgres, shared: Broker) -> Postgres:
    """The server, its tables empty."""
    postgres.execute("TRUNCATE acted")
    return postgres


@pytest.fixture
def broker(server: Postgres, shared: Broker) -> Broker:
    """The broker, which knows READ as a short statement."""
    learn(shared)
    return shared


def learn(broker: Broker, statement: str = READ, params: Any = ("do", 1)) -> int:
    """Run it until the broker lets it share a backend, also after it was slow for once; how many have shared so far."""
    db = broker.handler()
    with Crowd(broker, 3) as crowd:

        def is_shared() -> bool:
            before = broker.pool()["joined"]
            for _ in range(10):
                db.query(statement, params)
            crowd.ask([(statement, params)] * 3)
            crowd.answers()
            return bool(broker.pool()["joined"] > before)

        wait_until(is_shared, 30, "the statement to be known as a short one")
    return int(broker.pool()["joined"])


def until_shared(broker: Broker, scenario: Callable[[], None]) -> None:
    """Play it, which holds in any company, until most of its statements have shared the backend.

    Where the server has just reported that the catalogs changed, what is proven is to be proven anew.
    """
    for _ in range(10):
        joined = learn(broker)
        scenario()
        if broker.pool()["joined"] >= joined + DEPTH // 2:
            return
    pytest.fail("they never shared the backend")


def question(what: str, n: int) -> tuple[str, tuple[str, int]]:
    return (READ if what in READS else ACT), (what, n)


def check(what: str, n: int, answer: Any) -> None:
    """The answer is the one to this question."""
    if what == "fail":
        assert isinstance(answer, psycopg2.errors.InvalidTextRepresentation), answer
        assert answer.diag.message_primary == f'invalid input syntax for type integer: "failed {n}"'
        assert (answer.outcome, answer.notices) == ("failed", ())
        return
    if what == "undo":
        assert isinstance(answer, psycopg2.errors.DivisionByZero), answer
        assert answer.diag.message_primary == f"undone {n}"
        assert (answer.outcome, answer.notices) == ("failed", ())
        return
    assert isinstance(answer, Result), answer
    ((it, day),) = answer.fetchall()
    assert it == (str(n) * 1000 if what == "fill" else f"{what} {n}")
    assert day.isoformat() == "2024-02-29"
    assert answer.notices == ((f"NOTICE:  said {n}\n",) if what == "say" else ())


def ask(crowd: Crowd, acts: list[tuple[str, int]]) -> None:
    crowd.ask([question(*act) for act in acts])


# Neighbours.


def test_a_crowd_shares_one_backend_and_nobody_gets_anothers_error_notice_or_answer(
    broker: Broker, server: Postgres
) -> None:
    chance, written, before = random.Random(1), [], broker.pool()
    with Crowd(broker, DEPTH) as crowd:
        for round_ in range(30):
            acts = [
                (chance.choice(["do", "fail", "fill"] * 3 + ["say", "write", "undo"]), round_ * 100 + place)
                for place in range(DEPTH)
            ]
            ask(crowd, acts)
            for act, answer in zip(acts, crowd.answers(), strict=True):
                check(*act, answer)
            written += [n for what, n in acts if what == "write"]
    assert [n for (n,) in server.execute("SELECT n FROM acted ORDER BY n")] == sorted(written)
    assert broker.pool()["joined"] >= before["joined"] + DEPTH, "they really shared it"
    assert broker.pool()["opened"] == before["opened"]


def test_without_depth_nobody_shares(broker: Broker) -> None:
    alone = broker.handler("alone")
    for _ in range(30):
        alone.query(READ, ("do", 1))
    with Crowd(broker, DEPTH, "alone") as crowd:
        ask(crowd, [("do", n) for n in range(DEPTH)])
        for n, answer in enumerate(crowd.answers()):
            check("do", n, answer)
    assert broker.pool("alone")["joined"] == 0


@pytest.mark.parametrize("place", [0, 7, DEPTH - 1])
@pytest.mark.parametrize("how", ["cancel", "leave", "timeout"])
def test_one_that_is_slow_is_ended_and_no_neighbour_is_touched(
    broker: Broker, server: Postgres, place: int, how: str
) -> None:

    def scenario() -> None:
        questions: list[Any] = [(READ, ("do", n)) for n in range(DEPTH)]
        questions[place] = (READ, ("slow", LONG), 0.3 if how == "timeout" else None)
        with Crowd(broker, DEPTH) as crowd:
            crowd.ask(questions)
            if how != "timeout":
                wait_until(lambda: server.execute(LASTS), what="the slow one")
                crowd.cancel(place) if how == "cancel" else crowd.leave(place)
            for n in range(DEPTH):
                if n != place:
                    check("do", n, crowd.answer(n))
                elif how != "leave":
                    ended = crowd.answer(n)
                    assert isinstance(ended, psycopg2.errors.QueryCanceled)
                    assert ("timeout of 0.3 s" in str(ended)) == (how == "timeout")

    until_shared(broker, scenario)


def test_one_that_waits_behind_a_slow_one_is_cancelled_in_its_turn_and_the_slow_one_goes_on(
    broker: Broker, server: Postgres
) -> None:

    def scenario() -> None:
        acts = [("do", n) for n in range(DEPTH)]
        acts[2] = ("slow", 5_000_000)
        unwanted = (5, 9, DEPTH - 1)
        with Crowd(broker, DEPTH) as crowd:
            ask(crowd, acts)
            for place in unwanted:
                crowd.cancel(place)
            for place, act in enumerate(acts):
                answer = crowd.answer(place)
                if place not in unwanted or isinstance(answer, Result):
                    check(*act, answer)
                else:
                    assert isinstance(answer, psycopg2.errors.QueryCanceled)

    until_shared(broker, scenario)


def test_a_storm_of_cancels_hits_nobody_but_those_it_is_meant_for(broker: Broker) -> None:
    chance = random.Random(2)
    hit, before = 0, broker.pool()
    with Crowd(broker, DEPTH) as crowd:
        for round_ in range(30):
            if round_ % 10 == 0:
                learn(broker)
            acts = [(chance.choice(["do", "do", "slow", "write"]), chance.randrange(1, 30_000)) for _ in range(DEPTH)]
            unwanted = chance.sample(range(DEPTH), 5)
            ask(crowd, acts)
            for place in unwanted:
                crowd.cancel(place)
            for place, (act, answer) in enumerate(zip(acts, crowd.answers(), strict=True)):
                if place in unwanted and isinstance(answer, psycopg2.errors.QueryCanceled):
                    hit += 1
                else:
                    check(*act, answer)
    assert hit > 0
    assert broker.pool()["joined"] >= before["joined"] + DEPTH
    wait_until(lambda: broker.pool()["idle"] == 1, what="the backend to be free")
    assert broker.pool()["opened"] == before["opened"]


def test_the_servers_own_timeout_ends_the_slow_one_alone(server: Postgres, start_broker: StartBroker) -> None:
    broker = start_broker({"main": {**server.parameters, "query_timeout": 0.5}}, GROUPS)

    def scenario() -> None:
        acts = [("do", n) for n in range(DEPTH)]
        acts[4] = ("slow", LONG)
        with Crowd(broker, DEPTH) as crowd:
            ask(crowd, acts)
            for place, (act, answer) in enumerate(zip(acts, crowd.answers(), strict=True)):
                if place == 4:
                    assert isinstance(answer, psycopg2.errors.QueryCanceled)
                    assert answer.diag.message_primary == "canceling statement due to statement timeout"
                else:
                    check(*act, answer)

    until_shared(broker, scenario)


def test_one_that_spoils_the_session_is_not_shared_and_spoils_no_answer(broker: Broker) -> None:
    before = broker.pool()["joined"]
    with Crowd(broker, DEPTH) as crowd:
        for _ in range(10):
            acts = [("do", n) for n in range(DEPTH)]
            acts[4] = ("spoil", 4)
            ask(crowd, acts)
            for place, (act, answer) in enumerate(zip(acts, crowd.answers(), strict=True)):
                if place == 4 and isinstance(answer, client.DBError):
                    assert answer.outcome in ("unknown", "executed")  # what ran must not be said to have had no effect
                elif place == 4:
                    assert answer[0].it == "spoil 4"
                else:
                    check(*act, answer)
    assert broker.pool()["joined"] > before
    learn(broker)


def test_statements_whose_table_is_gone_fail_each_for_itself_and_others_go_on(
    server: Postgres, start_broker: StartBroker
) -> None:
    broker = start_broker(groups={"default": {"min_size": 2, "max_size": 2}})
    db, gone = broker.handler(), "SELECT n + %s AS n FROM gone"
    server.execute("CREATE TABLE gone (n int)")
    learn(broker, gone, (1,))
    # One of the two backends has not prepared it.
    server.execute("SELECT pg_terminate_backend(%s)", (db.query("SELECT pg_backend_pid()")[0][0],))
    wait_until(lambda: (broker.pool()["lost"], broker.pool()["idle"]) == (1, 2), what="another backend")
    learn(broker)

    def transactions_on_both() -> None:
        pid = "SELECT pg_backend_pid() AS pid"
        with gate(server, 1) as first, gate(server, 2) as second, Crowd(broker, 1) as one, Crowd(broker, 1) as two:
            one.ask([(f"SELECT {first.passage}",)])
            first.arrived()
            pids = {db.run([pid])[0][0].pid}
            two.ask([(f"SELECT {second.passage}",)])
            second.arrived()
            first.open()
            one.answer(0)
            pids.add(db.run([pid])[0][0].pid)
        assert len(pids) == 2

    transactions_on_both()
    server.execute("DROP TABLE gone")
    with Crowd(broker, DEPTH) as crowd:
        for _ in range(3):
            crowd.ask([(gone, (n,)) for n in range(DEPTH)])
            for answer in crowd.answers():
                assert isinstance(answer, psycopg2.errors.UndefinedTable), answer
    transactions_on_both()
    learn(broker)


# Each is a transaction of its own.


def numbered_rows(broker: Broker, statement: str) -> list[Any]:
    """What the statement gives each of many clients, which ask at once: three rows for each, its number among them."""
    rows: list[Any] = []
    with Crowd(broker, DEPTH) as crowd:
        for _ in range(3):
            crowd.ask([(statement, (n,)) for n in range(DEPTH)])
            answers = crowd.answers()
            assert [answer[0].n for answer in answers] == list(range(DEPTH))
            rows += [answer[0] for answer in answers]
    return rows


def test_each_statement_has_its_own_clock_and_chance(broker: Broker) -> None:
    statement = """
        SELECT %s::int AS n, now() AS began, statement_timestamp() AS asked, clock_timestamp() AS at, random() AS chance
        FROM one
    """
    joined = learn(broker, statement, (0,))
    rows = numbered_rows(broker, statement)
    assert broker.pool()["joined"] >= joined + DEPTH - 1
    rows.sort(key=lambda row: row.at)
    for column in ("began", "asked", "at", "chance"):
        assert len({row[column] for row in rows}) == len(rows), f"{column} is each one's own"
    for earlier, later in pairwise(rows):
        assert earlier.at < later.began <= later.at


def test_transactions_ids_locks_and_sequences_are_each_statements_own(broker: Broker, server: Postgres) -> None:
    statement = """
        WITH locks AS MATERIALIZED (
            SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
        )
        SELECT %s::int AS n, locks.n AS locks, pg_advisory_xact_lock(77), txid_current() AS id,
            nextval('counted') AS next
        FROM locks
    """
    rows = numbered_rows(broker, statement)
    rows.sort(key=lambda row: row.id)
    for earlier, later in pairwise(rows):
        assert earlier.id < later.id
        assert earlier.next < later.next
    assert {row.locks for row in rows} == {0}, "a transaction's locks end with it"
    assert server.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]


def test_what_one_wrote_the_next_one_sees(broker: Broker) -> None:
    statement = "WITH added AS (INSERT INTO acted VALUES (%s) RETURNING n) SELECT count(*) AS n FROM acted"
    before = broker.handler().query("SELECT count(*) FROM acted")[0][0]
    with Crowd(broker, DEPTH) as crowd:
        crowd.ask([(statement, (n,)) for n in range(DEPTH)])
        assert sorted(answer[0].n for answer in crowd.answers()) == list(range(before, before + DEPTH))
