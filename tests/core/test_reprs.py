"""What the core's objects show as text: no statement, no value, no result. It may end in a log or in an error."""

from collections import deque
from collections.abc import Iterator
from typing import Any

from world import World

from client.wire.codec import split_steps
from client.wire.messages import Step
from poold.core.facts import Completion, StatementResult

SECRET = b"opensesame"
VALUE = len(SECRET).to_bytes(4, "big") + SECRET
SQL = b"SELECT \0, 'opensesame'"
TYPES = bytes(4)


def reachable(root: object) -> Iterator[Any]:
    """The objects of poold.core that hang on this one."""
    seen: set[int] = set()
    waiting: list[Any] = [root]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, dict):
            waiting += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple | set | deque):
            waiting += each
        elif type(each).__module__.startswith("poold.core"):
            yield each
            names = [name for kind in type(each).__mro__ for name in getattr(kind, "__slots__", ())]
            waiting += [getattr(each, name, None) for name in names]
            waiting += getattr(each, "__dict__", {}).values()


def test_no_object_of_the_core_shows_what_clients_sent_or_get() -> None:
    world = World(max_size=1, prepare="auto")
    world.client(1)
    world.query(1, statement=SQL, types=TYPES, values=VALUE)
    world.query(1, group="tx", lease=1, begin=True, statement=SQL, types=TYPES, values=VALUE)
    steps, values = split_steps([Step(SQL, TYPES, VALUE, True, (), 0, None)])
    world.transaction(client=1, steps=steps, values=values)
    objects = [*reachable(world.broker)]  # all of them wait
    world.connect_all()
    first = next(iter(world.broker.backends))
    world.complete(first, reply=("SELECT 1", 1, b"columns", SECRET, (SECRET.decode(),)))
    world.take()
    completion = Completion("none", [StatementResult("SELECT 1", 1, b"columns", SECRET, (SECRET.decode(),))])
    objects += [*reachable(world.broker), *reachable(world.effects), completion]
    kinds = {type(each).__name__ for each in objects}
    wanted = {"Request", "Statement", "Script", "Group", "Backend", "Connect", "Execute", "SimpleQuery", "Reply"}
    assert wanted <= kinds, kinds
    assert [each for each in map(repr, objects) if SECRET.decode() in each] == []
