"""Event scripts of names that are parsed anew after five runs, so that the planner sees the values each time."""

import pytest
from units import UNTRACKED, UPDATE, answer, committed, current_unit, failed, promote, sent, step
from world import World, failure

from client.wire.messages import Commit
from poold.core.effects import Bind, Command, Deallocate, Execute, Prepare
from poold.core.statements.proofs import Proof
from poold.core.statements.statement import CUSTOM_PLANS

SQL = b"UPDATE 1"
CUSTOM = Proof(is_harmless=True)


def auto(**over: object) -> World:
    world = World(prepare="auto", max_size=1, **{**UNTRACKED, **over})
    world.client()
    return world


def run(world: World) -> int:
    request = world.query(statement=SQL)
    world.connect_all()
    backend = world.running(request)
    answer(world, backend)
    assert world.is_answered(request)
    return backend


def checked(units: list[tuple[Command, ...]], name: bytes) -> int:
    """The units as a backend runs them: names exist and are new where they have to be, and no plan is the sixth."""
    runs: int | None = None
    for command in (command for unit in units for command in unit if getattr(command, "name", b"") == name):
        if type(command) is Prepare:
            assert runs is None, "PostgreSQL would answer 42P05"
            runs = 0
        elif type(command) is Deallocate:
            runs = None
        else:
            assert runs is not None, "PostgreSQL would answer 26000"
            runs += 1
            assert runs <= CUSTOM_PLANS
    return sum(type(command) is Bind and command.name == name for unit in units for command in unit)


def units(world: World) -> list[tuple[Command, ...]]:
    return [each.unit for each in world.taken(Execute)]


def test_after_five_runs_a_name_is_closed_and_parsed_again() -> None:
    world = auto()
    found = promote(world, SQL, proof=CUSTOM)
    for _ in range(2 * CUSTOM_PLANS + 1):
        run(world)
    assert sent(world)[CUSTOM_PLANS] == [b"DEALLOCATE " + SQL, b"PREPARE " + SQL, SQL]
    assert checked(units(world), found.name) == 2 * CUSTOM_PLANS + 1


@pytest.mark.parametrize(
    ("proof", "plans"), [(Proof(is_harmless=True, may_be_generic=True), "custom"), (CUSTOM, "auto")]
)
def test_where_plans_may_be_generic_it_stays(proof: Proof, plans: str) -> None:
    world = auto(plans=plans)
    promote(world, SQL, proof=proof)
    for _ in range(3 * CUSTOM_PLANS):
        run(world)
    assert sent(world)[1:] == [[SQL]] * (3 * CUSTOM_PLANS - 1)


def test_in_leases_runs_are_counted_over_all_of_them() -> None:
    world = auto()
    found = promote(world, SQL, proof=CUSTOM, group="tx")
    for lease in range(1, 5):
        for number in range(4):
            request = world.query(1, "tx", lease=lease, begin=number == 0, statement=SQL)
            world.connect_all()
            backend = world.running(request)
            answer(world, backend)
        world.end(Commit, lease)
        answer(world, backend)
    assert checked(units(world), found.name) == 16


@pytest.mark.parametrize("before", range(CUSTOM_PLANS + 1))
@pytest.mark.parametrize("steps", [1, CUSTOM_PLANS, CUSTOM_PLANS + 1, 3 * CUSTOM_PLANS])
def test_in_a_message_it_is_parsed_anew_between_its_uses(before: int, steps: int) -> None:
    world = auto()
    found = promote(world, SQL, proof=CUSTOM)
    for _ in range(before):
        run(world)
    request = world.transaction(*[UPDATE] * steps)
    world.connect_all()
    answer(world, world.running(request))
    committed(world, request)
    assert checked(units(world), found.name) == before + steps


def test_a_parse_that_fails_in_between_leaves_no_name() -> None:
    world = auto()
    promote(world, SQL, proof=CUSTOM)
    for _ in range(CUSTOM_PLANS):
        backend = run(world)
    request = world.query(statement=SQL)
    answer(world, backend, fails=b"PREPARE " + SQL, error=failure("53200"))
    answer(world, backend)
    assert world.is_answered(request)
    run(world)
    assert sent(world)[-1] == [b"PREPARE " + SQL, SQL], "its Deallocate was carried out"


@pytest.mark.parametrize("fails", [b"BEGIN", SQL, b"DELETE 1"])
def test_a_failure_before_the_second_parse_of_a_unit_leaves_the_name_that_was_there(fails: bytes) -> None:
    world = auto()
    promote(world, SQL, proof=CUSTOM)
    promote(world, b"DELETE 1", proof=CUSTOM)
    for _ in range(CUSTOM_PLANS - 1):
        backend = run(world)
    request = world.transaction(step(b"DELETE 1"), *[UPDATE] * 3)
    code = "26000" if fails == b"BEGIN" else "23505"
    before = [type(each) for each in current_unit(world, backend)].count(Deallocate)
    assert before == 1
    answer(world, backend, fails=fails, error=failure(code), is_bound=fails != b"BEGIN")
    answer(world, backend)
    if fails != b"BEGIN":
        assert failed(world, request)[0].sqlstate == "23505"
    run(world)
    assert sent(world)[-1] == [b"DEALLOCATE " + SQL, b"PREPARE " + SQL, SQL], "a Parse alone would meet the old name"
