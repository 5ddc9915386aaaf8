"""The lane keeps to what the core has found out since it was taught, and to what holds of the core's own requests."""

import gc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from stage import INT, PREFIX, READ, WRITE, Client, Stage, is_right

from poold.core.statements import statement
from poold.core.statements.proofs import Proof
from poold.core.work import transaction_plan

MOST_WAYS = 1000  # as in poold.lane.lane
LIMITED = Proof(is_harmless=True)


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[Stage] = []

    def make(**settings: Any) -> Stage:
        made.append(Stage(**settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def bound(stage: Stage, sql: bytes) -> bytes:
    """How a Bind of the statement, as it is known now, begins."""
    return b"\0" + PREFIX + stage.group.statements.find(sql, INT).name + b"\0"


def warm(stage: Stage, client: Client, sql: bytes = READ) -> None:
    """The statement has gone well once, and its backend is lent."""
    stage.query(client, sql)
    stage.turn(client)
    stage.answer_all()
    assert stage.lent() == [1]


def test_a_statement_that_a_transaction_runs_twice_is_parsed_anew_after_five_runs(make: Any) -> None:
    stage = make(max_size=1)
    client = stage.client()
    stage.promote(WRITE, proof=LIMITED)
    runs = parsed = 0
    for _ in range(10):
        stage.transaction(client, WRITE, WRITE)
        stage.turn(client)
        for unit in list(stage.servers[1].units):
            for kind, body in unit:
                if kind == b"P" and b"UPDATE" in body:
                    runs, parsed = 0, parsed + 1
                elif kind == b"B" and bound(stage, WRITE) in body:
                    runs += 1
                    assert runs <= 5, "a sixth plan may be one for any values"
        stage.answer_all()
    assert parsed > 3
    assert stage.lane.counts["requests"] > 3
    assert [is_right(reply, reply.request, [WRITE, WRITE]) for reply in client.replies] == [True] * 10


def test_what_waits_in_the_lane_while_names_change_runs_by_its_new_name(make: Any) -> None:
    stage = make(max_size=1, pipeline_depth=1)
    client = stage.client()
    stage.promote(READ)
    warm(stage, client)
    stage.query(client)
    stage.turn(client)
    stage.query(client)
    stage.turn(client)  # waits, as the one before runs
    old = bound(stage, READ)
    stage.broker.generations.begin_anew()
    stage.answer(1)
    assert not any(old in body for unit in stage.servers[1].units for kind, body in unit if kind == b"B")
    stage.answer_all()
    assert [is_right(reply, reply.request, [READ]) for reply in client.replies] == [True] * 3


@pytest.mark.parametrize("how", ["refuse", "forget"])
def test_a_statement_that_is_not_to_be_prepared_any_more_is_the_cores(make: Any, how: str) -> None:
    stage = make(max_size=1)
    client = stage.client()
    statement = stage.promote(READ)
    warm(stage, client)
    if how == "refuse":
        statement.refuse()
    else:
        stage.group.statements.forget(statement)
    stage.query(client)
    stage.turn(client)
    assert not stage.backend(1).flights
    stage.answer_all()
    assert [is_right(reply, reply.request, [READ]) for reply in client.replies] == [True] * 2


def test_a_client_that_reads_nothing_has_nothing_begun_that_waits_in_the_lane(make: Any) -> None:
    stage = make(max_size=1, pipeline_depth=1)
    client, other = stage.client(), stage.client()
    stage.promote(READ)
    warm(stage, client)
    stage.query(other)
    stage.turn(other)
    stage.answer_all()
    stage.query(other)
    stage.turn(other)
    waiting = stage.query(client)
    stage.turn(client)
    stage.broker.client_stalled(client.key)
    stage.answer(1)
    assert not stage.servers[1].units
    assert [each.number for each in stage.broker.clients[client.key].held] == [waiting]
    stage.broker.client_reads(client.key, stage.now)
    stage.settle()
    stage.answer_all()
    assert [is_right(reply, reply.request, [READ]) for reply in client.replies] == [True] * 2


@pytest.mark.parametrize("is_query", [True, False], ids=["query", "transaction"])
def test_what_is_too_long_for_the_lane_gets_no_backend_of_the_lanes(make: Any, is_query: bool) -> None:
    stage = make(max_size=1)
    client = stage.client()
    long = READ + b" -- " + b"x" * 1000
    stage.promote(long)
    for _ in range(3):
        number = stage.query(client, long) if is_query else stage.transaction(client, long)
        stage.turn(client)
        stage.answer_all()
        assert stage.lent() == []
        assert client.replies[-1].request == number
    stage.promote(READ)
    warm(stage, client)  # a shorter one gets it


def test_what_the_lane_forgets_it_is_taught_again_if_it_is_used_again(make: Any) -> None:
    stage = make(max_size=1)
    client = stage.client()
    texts = [READ + b" -- %d" % number for number in range(MOST_WAYS + 20)]
    for sql in texts:
        stage.promote(sql)
        stage.query(client, sql)
        stage.turn(client)
        stage.answer_all()
    flows = [stage.group.statements.find(sql, INT).flow for sql in texts]
    assert [flow.is_taught for flow in flows] == [False] * 20 + [True] * MOST_WAYS

    def served_by_lane(sql: bytes) -> bool:
        before = stage.lane.counts["requests"]
        stage.query(client, sql)
        stage.turn(client)
        stage.answer_all()
        return bool(stage.lane.counts["requests"] > before)

    assert not served_by_lane(texts[0])
    assert flows[0].is_taught
    assert not flows[20].is_taught
    assert served_by_lane(texts[0])


@pytest.mark.parametrize("is_query", [True, False], ids=["statements", "transactions"])
def test_what_core_and_lane_have_forgotten_is_freed_at_once(
    make: Any, monkeypatch: pytest.MonkeyPatch, is_query: bool
) -> None:
    monkeypatch.setattr(statement, "STATEMENTS_KEPT", 20)
    monkeypatch.setattr(transaction_plan, "PLANS_KEPT", 10)
    stage = make(max_size=1)
    client = stage.client()
    gc.collect()
    gc.disable()
    try:
        for number in range(MOST_WAYS + 200):
            steps = [
                READ + b" -- %d" % (number if is_query else number >> bit & 1) for bit in range(1 if is_query else 11)
            ]
            for sql in set(steps):
                stage.promote(sql)
            if is_query:
                stage.query(client, *steps)
            else:
                stage.transaction(client, *steps)
            stage.turn(client)
            stage.answer_all()
            stage.effects.clear()
            client.replies.clear()
        kept = Counter(type(each).__name__ for each in gc.get_objects())
    finally:
        gc.enable()
    assert MOST_WAYS <= kept["Flow"] <= MOST_WAYS + 20
    assert kept["Plan"] <= MOST_WAYS + 20
    assert kept["Statement"] <= MOST_WAYS + 50


def test_a_number_that_is_in_use_is_what_it_is_without_a_lane(make: Any) -> None:
    outcomes = []
    for has_lane in (True, False):
        stage = make(has_lane=has_lane)
        client = stage.client()
        stage.promote(READ)
        stage.query(client)
        stage.turn(client)
        stage.answer_all()
        for _ in range(2):
            stage.query(client)
            stage.turn(client)
            stage._numbers -= 1
        stage.answer_all()
        outcomes.append(([repr(reply) for reply in client.replies], client.is_quiet, 1 in stage.broker.clients))
    assert outcomes[0] == outcomes[1]
