"""The lane: what it runs, what it gives back, and that nobody can tell who ran it."""

from collections.abc import Iterator
from typing import Any

import pytest
from stage import HARMLESS, READ, WRITE, Stage, is_right


@pytest.fixture
def stages() -> Iterator[list[Stage]]:
    made: list[Stage] = []
    yield made
    for each in made:
        each.close()


@pytest.fixture
def make(stages: list[Stage]) -> Any:
    def make(**settings: Any) -> Stage:
        stage = Stage(**settings)
        stages.append(stage)
        return stage

    return make


def test_a_statement_that_went_well_is_the_lanes(make: Any) -> None:
    stage = make()
    client = stage.client()
    stage.promote(READ)
    first = stage.query(client)
    stage.turn(client)
    stage.answer_all()
    assert stage.lent() == [1]
    second = stage.query(client)
    stage.turn(client)
    assert type(stage.backend(1).flights[0]).__name__ == "Flight"
    stage.answer(1)
    assert [reply.request for reply in client.replies] == [first, second]
    assert all(is_right(reply, reply.request, [READ]) for reply in client.replies)
    assert stage.lane.counts["requests"] == 1


def test_a_transaction_is_the_lanes(make: Any) -> None:
    stage = make()
    client = stage.client()
    stage.promote(READ)
    stage.promote(WRITE, proof=HARMLESS)
    for _ in range(3):
        stage.transaction(client, WRITE, READ)
        stage.turn(client)
        stage.answer_all()
    assert [is_right(reply, reply.request, [WRITE, READ]) for reply in client.replies] == [True] * 3
    assert stage.lane.counts["requests"] == 2
