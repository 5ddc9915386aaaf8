"""Event scripts of generations: names may mean something else, so all statements begin anew."""

import pytest
from units import SHORT, UNTRACKED, answer, promote, sent, sharing
from world import World

from client.wire.messages import TX_ACTIVE, TX_NONE, Commit
from poold.core import effects
from poold.core.facts import Completion, StatementResult


def test_what_waited_over_a_change_of_names_runs_with_literals_and_joins_nobody() -> None:
    world, backend, _ = sharing(2, pipeline_depth=2)
    waiting = world.query(statement=SHORT)
    world.broker.generations.begin_anew()
    answer(world, backend)
    assert [each.number for each in world.broker.backends[backend].running] != [waiting]
    assert all(each.number != waiting for each in world.broker.backends[backend].running)
    answer(world, backend)
    assert world.running(waiting) == backend
    assert sent(world, backend)[-1] == [SHORT]
    assert type(world.taken(effects.Execute)[-1].unit[0]) is effects.SimpleQuery


@pytest.mark.parametrize("tag", ["CREATE TABLE", "ALTER TABLE", "DROP VIEW", "DO", "CALL"])
def test_a_change_in_a_lease_ends_one_at_once_and_another_at_its_commit(tag: str) -> None:
    world = World(prepare="auto", **UNTRACKED)
    world.client()
    promote(world, SHORT)
    statements = world.broker.groups["default"].statements
    backend = world.begin(lease=1)
    before = statements.generation
    world.query(1, "tx", lease=1, statement=b"SELECT 'ddl'")
    world.broker.completed(backend, Completion(TX_ACTIVE, [StatementResult(tag, -1, None, b"", ())]), world.now)
    assert statements.generation == before + 1
    world.end(Commit, 1)
    world.broker.completed(backend, Completion(TX_NONE, [StatementResult("COMMIT", -1, None, b"", ())]), world.now)
    assert statements.generation == before + 2
