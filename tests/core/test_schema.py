"""Event scripts of changes to the schema: what was prepared before may mean something else after."""

import pytest
from units import INSERT, READ, UNTRACKED, answer, begin, committed, current_unit, promote, step, texts
from world import World

from client.wire.messages import Commit
from poold.core import effects
from poold.core.effects import Bind, Plain
from poold.core.facts import StatementResult
from poold.core.statements import schema

MADE = StatementResult("SELECT 5", 5, None, b"", ())
FOUND = StatementResult("SELECT 5", 5, b"\0\0", b"", ())
SQL = b"SELECT 1"


def tag(name: str) -> StatementResult:
    return StatementResult(name, -1, None, b"", ())


def is_bound(world: World) -> bool:
    """Whether the last unit ran its statement prepared."""
    return any(type(each) is Bind for each in world.taken(effects.Execute)[-1].unit)


@pytest.mark.parametrize(
    ("results", "outdates"),
    [
        ([], False),
        ([FOUND, tag("INSERT 0 1"), None], False),
        ([tag("SET"), tag("TRUNCATE TABLE"), tag("DROPPED")], False),
        ([FOUND, MADE], True),
        ([tag("CREATE TABLE")], True),
        ([tag("CREATE FUNCTION")], True),
        ([FOUND, tag("ALTER TABLE")], True),
        ([None, tag("DROP TABLE")], True),
        ([tag("IMPORT FOREIGN SCHEMA")], True),
        ([tag("DO")], True),
        ([tag("CALL")], True),
    ],
)
def test_a_result_tells_whether_names_mean_something_else_now(
    results: list[StatementResult | None], outdates: bool
) -> None:
    assert schema.outdates(results) is outdates


def test_after_a_table_is_made_in_a_lease_nothing_runs_prepared_in_it() -> None:
    world = World(prepare="auto")
    world.client()
    promote(world, SQL, group="tx")
    backend = world.begin(lease=1)
    world.query(1, "tx", lease=1, statement=SQL)
    assert is_bound(world)
    answer(world, backend)
    world.query(1, "tx", lease=1, statement=b"CREATE TEMP TABLE it (id int)")
    answer(world, backend)
    promote(world, SQL, group="tx")  # others have run it meanwhile
    world.query(1, "tx", lease=1, statement=SQL)
    assert not is_bound(world)
    answer(world, backend)
    world.end(Commit, 1)
    world.complete(backend)
    world.query(1, "tx", lease=2, begin=True, statement=SQL)
    assert not is_bound(world), "what was found before the commit may be another table"


def test_a_message_that_makes_a_table_runs_nothing_prepared() -> None:
    world = World(prepare="auto", **UNTRACKED)
    promote(world, SQL)
    request, backend = begin(world, step(b"CREATE TEMP TABLE it (id int)"), READ)
    unit = current_unit(world, backend)
    assert texts(world, unit)[1:] == [b"BEGIN", b"CREATE TEMP TABLE it (id int)", SQL, b"COMMIT"]
    assert [type(each) for each in unit[1:]] == [Bind, Plain, Plain, Plain]
    answer(world, backend)
    committed(world, request)


@pytest.mark.parametrize("way", ["query", "message"])
def test_what_alters_a_table_makes_the_statements_of_all_groups_begin_anew(way: str) -> None:
    world = World(prepare="auto", **UNTRACKED)
    world.client()
    old = promote(world, SQL), promote(world, SQL, group="tx")
    alter = b"ALTER TABLE it ALTER x TYPE text"
    request = world.query(statement=alter) if way == "query" else world.transaction(step(alter), INSERT)
    world.connect_all()
    answer(world, world.running(request))
    assert world.is_answered(request)
    for group in ("default", "tx"):
        assert world.broker.groups[group].statements.find(SQL, b"") not in old
