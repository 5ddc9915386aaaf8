"""What is kept of statements, and for how long: names on a backend, statements in a group, and what their runs told."""

import pytest
from units import PLAIN_READ, UNTRACKED, answer, oids, packed, promote, sent, step
from world import World

from client.wire.codec import split_steps
from client.wire.messages import Rollback
from poold.core import effects
from poold.core.facts import StatementResult
from poold.core.statements import prepared
from poold.core.statements import statement as statements
from poold.core.statements.statement import (
    PATIENCE_SECONDS,
    PROBE_AFTER,
    SHORT_BYTES,
    SHORT_SECONDS,
    TRUSTED_AFTER,
    Statement,
    Statements,
    StatementState,
)
from poold.core.work import transaction_plan
from poold.core.work.transaction_plan import Plans


def run(world: World, *sql: bytes) -> int:
    """Queries from beginning to end, one after the other; returns the backend of the last."""
    world.client()
    backend = 0
    for each in sql:
        request = world.query(statement=each)
        world.connect_all()
        backend = world.running(request)
        answer(world, backend)
    return backend


# Names on a backend.


@pytest.fixture
def _two_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "PREPARED_KEPT", 2)


@pytest.mark.usefixtures("_two_names")
def test_the_name_used_least_recently_makes_room_for_another_one() -> None:
    world = World(prepare="auto", max_size=1)
    for sql in (b"SELECT 1", b"SELECT 2", b"SELECT 3"):
        promote(world, sql)
    run(world, b"SELECT 1", b"SELECT 2", b"SELECT 1", b"SELECT 3", b"SELECT 1", b"SELECT 2")
    assert sent(world)[2:] == [
        [b"SELECT 1"],
        [b"DEALLOCATE SELECT 2", b"PREPARE SELECT 3", b"SELECT 3"],
        [b"SELECT 1"],
        [b"DEALLOCATE SELECT 3", b"PREPARE SELECT 2", b"SELECT 2"],
    ]


@pytest.mark.usefixtures("_two_names")
def test_what_is_forgotten_comes_first_where_an_error_cannot_skip_it() -> None:
    world = World(prepare="auto", max_size=1, **UNTRACKED)
    promote(world, b"SELECT 1")
    promote(world, b"SELECT 2")
    backend = run(world, b"SELECT 1")
    world.transaction(step(b"SELECT 2"))
    (unit,) = sent(world, backend)[1:]
    assert unit == [
        b"DEALLOCATE SELECT 1", b"PREPARE BEGIN", b"BEGIN", b"PREPARE SELECT 2", b"SELECT 2", b"PREPARE COMMIT",
        b"COMMIT",
    ]  # fmt: skip


def check_names(units: list[effects.Unit]) -> int:
    """PostgreSQL would run these units one after the other on one backend; returns how many names it has then."""
    held: set[bytes] = set()
    for command in (command for unit in units for command in unit):
        match command:
            case effects.Deallocate(name):
                held.discard(name)
            case effects.Prepare(name):
                assert name not in held, "PostgreSQL would answer 42P05"
                held.add(name)
            case effects.Bind(name):
                assert name in held, "PostgreSQL would answer 26000"
    return len(held)


@pytest.mark.usefixtures("_two_names")
def test_the_begin_of_a_lease_is_forgotten_before_it_is_prepared_again() -> None:
    world = World(prepare="auto", max_size=1)
    world.client()
    for lease, sql in enumerate((b"SELECT 1", b"SELECT 2"), 1):
        promote(world, sql, group="tx")
        request = world.query(1, "tx", lease=lease, begin=True, statement=sql)
        world.connect_all()
        backend = world.running(request)
        answer(world, backend)
        world.query(1, "tx", lease=lease, statement=sql)
        answer(world, backend)
        world.end(Rollback, lease)
        answer(world, backend)
    units = [each.unit for each in world.taken(effects.Execute)]
    assert check_names(units) == len(world.broker.backends[backend].prepared)


@pytest.mark.usefixtures("_two_names")
def test_a_unit_with_more_statements_than_there_are_names_forgets_none_of_its_own() -> None:
    world = World(prepare="auto", max_size=1, **UNTRACKED)
    world.client()
    for sql in (b"SELECT 1", b"SELECT 2", b"SELECT 3"):
        promote(world, sql)
    world.transaction(step(b"SELECT 1"), step(b"SELECT 2"), step(b"SELECT 3"), step(b"SELECT 1"))
    world.connect_all()
    (execute,) = world.taken(effects.Execute)
    kept = world.broker.backends[execute.backend].prepared
    assert check_names([execute.unit]) == len(kept), "what the broker believes is what is so"


@pytest.mark.usefixtures("_two_names")
def test_probes_leave_no_more_names_on_a_backend_than_are_kept() -> None:
    world = World(prepare="auto", max_size=1)
    for number in range(5):
        backend = run(world, *[b"SELECT %d" % number] * PROBE_AFTER)
        answer(world, backend)
    assert sent(world)[-1][-1:] == [b"PREPARE SELECT 4"]
    assert len(world.broker.backends[backend].prepared) <= 2


# Statements of a group.


def test_a_group_keeps_the_statements_used_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "STATEMENTS_KEPT", 2)
    known = Statements()
    first, second = known.find(b"SELECT 1", b""), known.find(b"SELECT 2", b"")
    assert known.find(b"SELECT 1", b"") is first
    known.find(b"SELECT 3", b"")
    assert len(known) == 2
    assert known.find(b"SELECT 1", b"") is first
    assert known.find(b"SELECT 2", b"") is not second


def test_a_group_keeps_a_bounded_number_of_bytes_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "TEXT_KEPT", 100)
    known = Statements()
    for number in range(9):
        known.find(b"SELECT %30d" % number, b"")
    assert len(known) == 2
    huge = known.find(b"SELECT %500d" % 1, b"")
    assert list(known) == [huge], "one is kept, however long"
    known.find(b"SELECT 1", b"")
    assert [each.sql for each in known] == [b"SELECT 1"]


def test_what_was_forgotten_is_not_counted_as_text_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "TEXT_KEPT", 100)
    known = Statements()
    for _ in range(9):
        known.forget(known.find(b"SELECT %50d" % 1, b""))
    kept = known.find(b"SELECT %40d" % 1, b"")
    known.find(b"SELECT %40d" % 2, b"")
    assert known.find(b"SELECT %40d" % 1, b"") is kept


def test_a_statement_that_was_forgotten_gets_another_name() -> None:
    known = Statements()
    old = known.find(b"SELECT 1", b"")
    known.forget(old)
    assert known.find(b"SELECT 1", b"").name != old.name


def test_to_forget_an_old_statement_twice_leaves_the_new_one() -> None:
    known = Statements()
    old = known.find(b"SELECT 1", b"")
    known.forget(old)
    new = known.find(b"SELECT 1", b"")
    known.forget(old)
    assert known.find(b"SELECT 1", b"") is new


def test_statements_are_counted_by_their_state() -> None:
    world = World(prepare="auto", max_size=1)
    promote(world, b"SELECT 1")
    run(world, b"SHOW all", *[b"SHOW all"] * PROBE_AFTER, b"SELECT 2", *[b"SELECT 3"] * PROBE_AFTER)
    counts = world.broker.groups["default"].statements.counts()
    assert counts == {"literal": 1, "probing": 1, "prepared": 1, "refused": 1, "harmless": 1, "plain_reads": 1}


def test_a_group_keeps_the_plans_used_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction_plan, "PLANS_KEPT", 2)
    plans = Plans(Statements())
    one, two, three = (split_steps([step(b"SELECT %d" % number)])[0] for number in range(3))
    first, second = plans.find(one), plans.find(two)
    assert plans.find(one) is first
    plans.find(three)
    assert len(plans) == 2
    assert plans.find(one) is first
    assert plans.find(two) is not second


def test_a_group_keeps_a_bounded_number_of_bytes_of_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction_plan, "BYTES_KEPT", 100)
    plans = Plans(Statements())
    for number in range(9):
        plans.find(split_steps([step(b"SELECT %30d" % number)])[0])
    assert len(plans) == 2
    plans.find(split_steps([step(b"SELECT %500d" % 1)])[0])
    assert len(plans) == 1, "one is kept, however long"


def test_a_plan_finds_anew_what_was_forgotten() -> None:
    known = Statements()
    found = Plans(known).find(split_steps([step(b"SELECT 1")])[0])
    old = found.statement(0)
    known.forget(old)
    assert found.statement(0) is known.find(b"SELECT 1", b"")
    assert found.statement(0) is not old


# Profiles.


def statement(state: StatementState = StatementState.PREPARED) -> Statement:
    made = Statement(1, b"SELECT 1", b"")
    made.state = state
    made.proof = PLAIN_READ
    return made


def test_a_statement_is_short_after_enough_short_runs() -> None:
    made = statement()
    for _ in range(TRUSTED_AFTER - 1):
        made.record(0.001, 100)
        assert not made.is_short
    made.record(0.001, 100)
    assert made.is_short


def test_only_what_is_prepared_counts_as_short() -> None:
    made = statement(StatementState.LITERAL)
    for _ in range(2 * TRUSTED_AFTER):
        made.record(0.001, 100)
    assert not made.is_short


@pytest.mark.parametrize(("seconds", "size"), [(SHORT_SECONDS, 100), (0.001, SHORT_BYTES)])
def test_what_takes_long_or_returns_much_is_not_short(seconds: float, size: int) -> None:
    made = statement()
    for _ in range(2 * TRUSTED_AFTER):
        made.record(seconds, size)
    assert not made.is_short


def test_a_mean_that_is_short_does_not_help_where_times_vary() -> None:
    made = statement()
    for number in range(40):
        made.record(0.012 if number % 2 else 0.0, 100)
    assert made.mean < SHORT_SECONDS
    assert not made.is_short


def test_one_long_run_ends_the_company_and_short_ones_bring_it_back() -> None:
    made = statement()
    for _ in range(TRUSTED_AFTER):
        made.record(0.001, 100)
    made.record(1.0, 100)
    assert not made.is_short
    for _ in range(50):
        made.record(0.001, 100)
    assert made.is_short


def test_patience_is_twice_what_is_expected_and_never_too_little() -> None:
    quick, slow = statement(), statement()
    for _ in range(50):
        quick.record(0.0001, 100)
        slow.record(0.1, 100)
    assert quick.patience == 2 * PATIENCE_SECONDS
    assert slow.patience == pytest.approx(0.2, rel=0.01)


def test_a_result_too_large_to_keep_is_not_a_small_one() -> None:
    world = World(prepare="auto", max_size=1)
    found = promote(world, b"SELECT 1")
    world.client()
    for _ in range(2 * TRUSTED_AFTER):
        request = world.query(statement=b"SELECT 1")
        world.connect_all()
        answer(world, world.running(request), {b"SELECT 1": StatementResult("SELECT 9", 9, b"\0\0", None, ())})
    assert not found.is_short


def test_values_that_are_none_are_refused_where_the_statement_runs_with_literals() -> None:
    world = World(prepare="auto", max_size=1)
    promote(world, b"SELECT \0", oids(23))
    world.client()
    request = world.query(statement=b"SELECT \0", types=oids(23), values=packed(b"1; DROP"), prepare=False)
    world.connect_all()
    assert world.is_answered(request) or sent(world) == [[b""]], "PostgreSQL refuses an empty statement"
