"""Event scripts of what runs prepared: only what begins in a session as it was opened, and keyed by its settings."""

import pytest
from units import PLAIN_READ, READ, SHORT, UNTRACKED, answer, begin, committed, current_unit, promote, sent, step, texts
from world import World

from client.wire.limits import END_SAVEPOINT, IN_SESSION, OPENS_SESSION, SAVEPOINT
from client.wire.messages import TX_ACTIVE, Commit
from poold.core.effects import Bind, Execute, Plain, SimpleQuery
from poold.core.facts import Completion, StatementResult
from poold.core.statements.literals import numbered
from poold.core.statements.proofs import Proof
from poold.core.statements.statement import PROBE_AFTER, StatementState

UNKNOWN = b"SELECT f()"
UNPROVEN_PREPARED = Proof(calls_unknown=True)
TENANT, OTHER = b"search_path\0a\0", b"search_path\0b\0"


def auto(**over: object) -> World:
    world = World(prepare="auto", **{**UNTRACKED, **over})
    world.client()
    return world


def kinds(world: World) -> list[type]:
    """How the last unit runs what it runs."""
    unit = world.taken(Execute)[-1].unit
    return [type(each) for each in unit if type(each) in (Bind, Plain, SimpleQuery)]


def kind_of(world: World, unit: tuple[object, ...], sql: bytes) -> type:
    """How the unit runs this."""
    (found,) = (type(each) for each in unit if texts(world, (each,)) == [sql])  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("proof", [None, UNPROVEN_PREPARED])
def test_in_a_lease_nothing_runs_prepared_behind_what_nobody_has_proven(proof: Proof | None) -> None:
    world = auto()
    promote(world, SHORT, group="tx")
    if proof is not None:
        promote(world, UNKNOWN, group="tx", proof=proof)
    request = world.query(1, "tx", lease=1, begin=True, statement=SHORT)
    world.connect_all()
    backend = world.running(request)
    assert kinds(world) == [Bind, Bind]
    answer(world, backend)
    world.query(1, "tx", lease=1, statement=UNKNOWN)
    assert kinds(world) == [SimpleQuery if proof is None else Bind]
    answer(world, backend)
    for _ in range(2):
        world.query(1, "tx", lease=1, statement=SHORT)
        assert kinds(world) == [SimpleQuery]
        answer(world, backend)
    world.end(Commit, 1)
    answer(world, backend)
    world.query(1, "tx", lease=2, begin=True, statement=SHORT)
    assert kinds(world) == [Bind, Bind], "the next lease begins in a session that was reset"


def test_in_a_session_it_stays_so_over_its_transactions() -> None:
    world = auto(max_size=1)
    promote(world, SHORT)
    opening = world.query(lease=1, session=OPENS_SESSION, statement=SHORT)
    world.connect_all()
    backend = world.running(opening)
    assert kinds(world) == [Bind]
    answer(world, backend)
    for sql in (UNKNOWN, b"BEGIN", SHORT, b"COMMIT", SHORT):
        world.query(lease=1, session=IN_SESSION, statement=sql)
        assert kinds(world) == [SimpleQuery]
        answer(world, backend)


def test_what_runs_in_an_altered_lease_is_not_counted_towards_a_probe() -> None:
    world = auto()
    backend = world.begin(lease=1)
    for _ in range(2 * PROBE_AFTER):
        world.query(1, "tx", lease=1, statement=SHORT)
        world.complete(backend, TX_ACTIVE)
    found = world.broker.groups["tx"].statements.find(SHORT, b"")
    assert found.sightings <= 1
    assert not world.broker.groups["tx"].probes


def test_a_setting_that_postgresql_reports_ends_what_runs_prepared_in_its_lease() -> None:
    world = auto()
    promote(world, SHORT, group="tx")
    request = world.query(1, "tx", lease=1, begin=True, statement=SHORT)
    world.connect_all()
    backend = world.running(request)
    done = Completion(
        TX_ACTIVE,
        [StatementResult("BEGIN", -1, None, b"", ()), StatementResult("SELECT 1", 1, b"\0\0", b"", ())],
        is_changed=True,
    )
    world.broker.completed(backend, done, world.now)
    world.query(1, "tx", lease=1, statement=SHORT)
    assert kinds(world) == [SimpleQuery]


def test_in_a_message_nothing_runs_prepared_behind_an_unproven_step() -> None:
    world = auto()
    promote(world, SHORT)
    request, backend = begin(world, READ, step(UNKNOWN), READ)
    assert kinds(world) == [Bind, Bind, Plain, Plain, Plain]
    answer(world, backend)
    committed(world, request)
    world.transaction(READ, READ)
    assert kinds(world) == [Bind] * 4


def test_nor_in_a_later_unit_of_it() -> None:
    world = auto()
    promote(world, SHORT)
    _, backend = begin(world, step(UNKNOWN, low=1), READ)
    assert kinds(world)[-1] is Plain
    answer(world, backend)
    assert Bind not in kinds(world)
    assert sent(world, backend)[-1] == [b"COMMIT"]


def test_undoing_a_savepoint_block_does_not_make_the_session_what_it_was() -> None:
    """A setting and a table are undone, a function's other effects are not."""
    world = auto()
    promote(world, SHORT)
    request, backend = begin(world, SAVEPOINT, step(UNKNOWN), END_SAVEPOINT, READ)
    answer(world, backend, fails=UNKNOWN)
    unit = current_unit(world, backend)
    assert b"ROLLBACK TO SAVEPOINT poold" in texts(world, unit)
    assert {type(each) for each in unit} == {Plain}
    answer(world, backend)
    committed(world, request)


def promoted_with(world: World, settings: bytes, group: str = "default") -> object:
    found = world.broker.groups[group].statements.find(SHORT, b"", settings)
    found.state, found.proof, found.is_harmless = StatementState.PREPARED, PLAIN_READ, True
    found.numbered = numbered(SHORT)
    return found


def test_settings_that_travel_have_prepared_statements_of_their_own() -> None:
    world = auto(max_size=1)
    promote(world, SHORT)
    promoted_with(world, TENANT)
    names = []
    for settings, expected in ((b"", Bind), (TENANT, Bind), (OTHER, Plain), (TENANT, Bind)):
        request = world.query(statement=SHORT, settings=settings)
        world.connect_all()
        assert kinds(world)[-1] is expected
        last = world.taken(Execute)[-1].unit[-1]
        names.append(getattr(last, "name", None))
        answer(world, world.running(request))
    assert names[0] != names[1] == names[3]


def test_so_have_the_steps_of_a_message() -> None:
    world = auto(max_size=1)
    own = promoted_with(world, TENANT)
    request, backend = begin(world, READ, READ, settings=TENANT)
    names = [each.name for each in current_unit(world, backend) if type(each) is Bind]
    assert names.count(own.name) == 2  # type: ignore[attr-defined]
    answer(world, backend)
    committed(world, request)
    world.transaction(READ, settings=OTHER)
    assert own.name not in [getattr(each, "name", b"") for each in current_unit(world, backend)]  # type: ignore[attr-defined]


def test_a_statement_with_settings_is_probed_under_them() -> None:
    world = auto(max_size=1)
    for _ in range(PROBE_AFTER):
        request = world.query(statement=SHORT, settings=TENANT)
        world.connect_all()
        backend = world.running(request)
        answer(world, backend)
    unit = sent(world, backend)[-1]
    assert unit[-1] == b"PREPARE " + SHORT
    assert unit[0] == b"SELECT pg_catalog.set_config('search_path', 'a', true)"
    answer(world, backend)
    request = world.query(statement=SHORT, settings=TENANT)
    assert kinds(world)[-1] is Bind
    answer(world, backend)
    world.query(statement=SHORT)
    assert kinds(world) == [SimpleQuery], "without them nothing is known of it"


def test_in_a_lease_settings_end_what_runs_prepared_after_them() -> None:
    world = auto(max_size=1)
    promote(world, SHORT, group="tx")
    promoted_with(world, TENANT, "tx")
    request = world.query(1, "tx", lease=1, begin=True, statement=SHORT, settings=TENANT)
    world.connect_all()
    backend = world.running(request)
    assert kinds(world)[-1] is Bind
    answer(world, backend)
    world.query(1, "tx", lease=1, statement=SHORT)
    assert kinds(world) == [SimpleQuery], "they hold until the transaction's end"


def test_settings_that_choose_plans_keep_literals() -> None:
    world = auto(max_size=1)
    promoted_with(world, b"plan_cache_mode\0auto\0")
    world.query(statement=SHORT, settings=b"plan_cache_mode\0auto\0")
    world.connect_all()
    assert Bind not in kinds(world)
