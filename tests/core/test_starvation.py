"""Nobody starves: whoever waits is begun within so many turns, although others never cease to ask.

Each script keeps all backends busy with short prepared statements of one process, a new one for each that ends, and
counts how many of them are served before the one that is not like them.
"""

from collections.abc import Callable
from typing import Any

import pytest
from units import SHORT, answer, promote, step
from world import World

from client.wire.limits import BATCH, INTERACTIVE, NORMAL
from poold.config.model import Weights

DEPTH = 4
LITERAL = b"SELECT pg_sleep(1)"
FLOOD, OTHER = 1, 2
# Until somebody is said to starve.
MANY = 500


def flooded(size: int, waiting: int, priority: int = NORMAL, **settings: Any) -> World:
    """A world whose backends have full pipelines, and with so many short statements that wait."""
    world = World(prepare="auto", max_size=size, min_size=size, pipeline_depth=DEPTH, **settings)
    world.client(FLOOD)
    world.client(OTHER)
    promote(world, SHORT, is_short=True)
    world.connect_all()
    for _ in range(size * DEPTH + waiting):
        world.query(FLOOD, statement=SHORT, priority=priority)
        world.take()
    return world


def turns_until_begun(world: World, request: int, priority: int = NORMAL) -> int:
    """How many statements of the flood end, each followed by another one, until the request runs."""
    for turn in range(MANY):
        runs = {each.number: b for b in world.broker.backends.values() for each in b.running}
        if request in runs:
            return turn
        world.complete(list(runs.values())[turn % len(runs)].number)
        world.query(FLOOD, statement=SHORT, priority=priority)
        world.take()
    pytest.fail(f"{MANY} others were served, and it still waits")


OTHERS: dict[str, Callable[..., int]] = {
    "short": lambda world, **more: world.query(OTHER, statement=SHORT, **more),
    "literals": lambda world, **more: world.query(OTHER, statement=LITERAL, **more),
    "message": lambda world, **more: world.transaction(step(LITERAL), client=OTHER, **more),
    "session": lambda world, **more: world.query(OTHER, statement=LITERAL, lease=1, session=1, **more),
}


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("waiting", [0, 100])
@pytest.mark.parametrize("what", OTHERS)
def test_what_may_not_join_a_pipeline_gets_a_backend_as_soon_as_one_has_served_its_own(
    what: str, waiting: int, size: int
) -> None:
    world = flooded(size, waiting)
    request = OTHERS[what](world)
    assert turns_until_begun(world, request) <= size * (DEPTH + 1)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("waiting", [0, 100])
@pytest.mark.parametrize("what", OTHERS)
def test_batch_gets_its_turn_where_interactive_requests_never_cease(what: str, waiting: int, size: int) -> None:
    world = flooded(size, waiting, INTERACTIVE, weights=Weights(interactive=16, normal=4, batch=1))
    requests = [OTHERS[what](world, priority=BATCH) for _ in range(1 if what == "session" else 3)]
    for request in requests:
        assert turns_until_begun(world, request, INTERACTIVE) <= 16 + size * (DEPTH + 1)
        answer(world, world.running(request))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_an_interactive_request_waits_for_no_more_than_a_pipeline_of_batch(size: int) -> None:
    world = flooded(size, 100, BATCH)
    request = world.query(OTHER, statement=LITERAL, priority=INTERACTIVE)
    assert turns_until_begun(world, request, BATCH) <= 1
