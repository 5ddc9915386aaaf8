"""Event scripts of statements: seen as literals, probed, prepared where they are used, and what may go wrong then."""

import pytest
from units import answer, oids, packed, promote, sent, table
from world import OK, World, failure

from client.wire.messages import TX_ACTIVE, TX_NONE, Failure, ResultMessage
from poold.core import effects
from poold.core.effects import Bind, Prepare
from poold.core.facts import Completion, Loss, StatementResult
from poold.core.state import BackendState as S
from poold.core.statements.statement import PROBE_AFTER, StatementState

SQL = b"SELECT 1"
PROBE = [b"PREPARE " + SQL]
OTHER_COLUMNS = table({"a": 23}, [b"1"])


def auto(**settings: object) -> World:
    """A world whose statements are prepared, with a client."""
    world = World(prepare="auto", **settings)
    world.client()
    return world


def start(world: World, sql: bytes = SQL, **over: object) -> tuple[int, int]:
    """A query on its way: its request, and its backend."""
    request = world.query(statement=sql, **over)
    world.connect_all()
    return request, world.running(request)


def run(world: World, sql: bytes = SQL, **over: object) -> int:
    """A query from beginning to end; returns its backend."""
    request, backend = start(world, sql, **over)
    answer(world, backend)
    assert world.is_answered(request)
    return backend


def is_prepared(world: World, backend: int, **over: object) -> bool:
    """Whether the statement runs prepared there, the next time."""
    request, used = start(world, **over)
    assert used == backend
    unit = world.broker.backends[backend].running[0].unit
    answer(world, backend)
    assert world.outcome(request) == OK
    return type(unit[-1]) is Bind


def state(world: World, sql: bytes = SQL, types: bytes = b"") -> StatementState:
    return world.broker.groups["default"].statements.find(sql, types).state


# From literals to prepared.


def test_a_statement_seen_a_few_times_is_probed_by_nobodys_request_and_prepared_from_then_on() -> None:
    world = auto()
    for _ in range(PROBE_AFTER):
        assert PROBE not in sent(world)
        backend = run(world)
    assert sent(world)[-1] == PROBE
    replies = len(world.replies)
    answer(world, backend)
    assert world.state(backend) is S.IDLE
    assert len(world.replies) == replies
    assert world.broker.groups["default"].stats.requests == PROBE_AFTER
    assert is_prepared(world, backend)
    assert sent(world)[-1] == [SQL], "the probe has prepared it here"


def test_what_runs_prepared_means_what_ran_with_literals() -> None:
    world = auto()
    for number in range(PROBE_AFTER):
        backend = run(world, b"SELECT \0, \0", types=oids(23, 0), values=packed(b"%d" % number, None))
    answer(world, backend)
    request, _ = start(world, b"SELECT \0, \0", types=oids(23, 0), values=packed(b"9", b"x"))
    assert sent(world)[0] == [b"SELECT 0, NULL"]
    probe, last = [each.unit for each in world.taken(effects.Execute)][-2:]
    assert probe[-1] == Prepare(probe[-1].name, b"SELECT $1, $2", oids(23, 0))
    assert last == (Bind(probe[-1].name, 2, packed(b"9", b"x")),)
    answer(world, backend)
    assert world.is_answered(request)


def test_parameters_of_another_type_make_another_statement() -> None:
    world = auto()
    promote(world, b"SELECT \0", oids(23))
    _, backend = start(world, b"SELECT \0", types=oids(0), values=packed(b"x"))
    assert sent(world, backend) == [[b"SELECT 'x'"]]


def test_each_backend_prepares_the_statement_at_its_first_use() -> None:
    world = auto(max_size=2)
    promote(world, SQL)
    (first, one), (second, two) = start(world), start(world)
    answer(world, one)
    answer(world, two)
    run(world)
    assert {tuple(sent(world, each)[0]) for each in (one, two)} == {(PROBE[0], SQL)}
    assert sent(world)[-1] == [SQL]
    assert world.outcome(first) == world.outcome(second) == OK


@pytest.mark.parametrize(
    "sql", [b"SHOW all", b"SELECT 1; SELECT 2", b"SELECT interval '\0 days'", b"SELECT 1 ORDER BY \0"]
)
def test_what_must_not_be_prepared_is_not_even_probed(sql: bytes) -> None:
    world = auto()
    types = oids(23) * sql.count(0)
    for _ in range(2 * PROBE_AFTER):
        run(world, sql, types=types, values=packed(b"1") * sql.count(0))
    assert not any(b"PREPARE" in unit[0] for unit in sent(world))
    assert state(world, sql, types) is StatementState.REFUSED


def test_a_statement_that_postgresql_refuses_to_prepare_keeps_its_literals_for_good() -> None:
    world = auto()
    for _ in range(PROBE_AFTER):
        backend = run(world)
    answer(world, backend, fails=PROBE[0], error=failure("42P18"))
    assert world.state(backend) is S.IDLE
    for _ in range(2 * PROBE_AFTER):
        assert not is_prepared(world, backend)
    assert sent(world).count(PROBE) == 1


def test_a_statement_that_is_described_otherwise_than_its_literals_were_is_refused() -> None:
    world = auto()
    for _ in range(PROBE_AFTER):
        backend = run(world)
    answer(world, backend, {SQL: OTHER_COLUMNS})
    assert state(world) is StatementState.REFUSED


def test_a_statement_whose_literals_change_its_columns_is_refused_without_a_probe() -> None:
    world = auto()
    for outcome in (OK, OTHER_COLUMNS, OK, OK):
        _, backend = start(world)
        answer(world, backend, {SQL: outcome})
    assert PROBE not in sent(world)
    assert state(world) is StatementState.REFUSED


@pytest.mark.parametrize("sqlstate", ["57014", "55P03"])
def test_a_probe_that_was_cut_off_is_made_again_some_runs_later(sqlstate: str) -> None:
    world = auto()
    for _ in range(PROBE_AFTER):
        backend = run(world)
    answer(world, backend, fails=PROBE[0], error=failure(sqlstate))
    for _ in range(PROBE_AFTER):
        assert sent(world).count(PROBE) == 1
        run(world)
    assert sent(world).count(PROBE) == 2
    answer(world, backend)
    assert is_prepared(world, backend)


def test_a_probe_whose_backend_was_lost_is_made_again_some_runs_later() -> None:
    world = auto()
    for _ in range(PROBE_AFTER):
        backend = run(world)
    world.broker.lost(backend, Loss("reset"), world.now)
    for _ in range(PROBE_AFTER):
        run(world)
    assert sent(world).count(PROBE) == 2


def test_a_probe_goes_before_those_who_wait() -> None:
    world = auto(max_size=1)
    for _ in range(PROBE_AFTER - 1):
        run(world)
    _, backend = start(world)
    waiting = world.query(statement=b"SELECT 'other'")
    answer(world, backend)
    assert sent(world)[-1] == PROBE
    answer(world, backend)
    assert world.running(waiting) == backend


def test_a_probe_that_is_never_answered_closes_its_backend() -> None:
    world = auto(endpoint_settings={"query_timeout": 5.0})
    for _ in range(PROBE_AFTER):
        backend = run(world)
    world.pass_time(60.0)
    assert world.taken(effects.Close)[0].backend == backend
    assert world.taken(effects.Cancel) == []


# Whoever does not want it.


def test_a_group_with_prepare_off_runs_everything_with_literals() -> None:
    world = World(prepare="off")
    world.client()
    for _ in range(2 * PROBE_AFTER):
        run(world)
    assert sent(world) == [[SQL]] * (2 * PROBE_AFTER)
    assert not world.broker.groups["default"].has_errands


def test_a_call_with_prepare_off_runs_with_literals_and_does_not_count() -> None:
    world = auto()
    for _ in range(2 * PROBE_AFTER):
        run(world, prepare=False)
    assert PROBE not in sent(world)
    promote(world, SQL)
    backend = run(world)
    assert not is_prepared(world, backend, prepare=False)
    assert is_prepared(world, backend)


# Prepared statements that do not fit any more.


@pytest.mark.parametrize("sqlstate", ["26000", "42P05"])
def test_a_name_the_session_has_lost_or_keeps_is_dropped_before_it_is_prepared_again(sqlstate: str) -> None:
    world = auto()
    kept = promote(world, SQL)
    promote(world, b"SELECT 2")
    backend = run(world)
    run(world, b"SELECT 2")
    request, _ = start(world)
    answer(world, backend, fails=SQL, error=failure(sqlstate), is_bound=False)
    assert sent(world)[-1] == [SQL]
    answer(world, backend)
    assert world.outcome(request) == OK
    assert world.broker.groups["default"].statements.find(SQL, b"") is kept
    for sql in (SQL, b"SELECT 2"):
        run(world, sql)
        # What one session forgot was all it had, most likely; where it was not, nothing is prepared twice.
        assert sent(world)[-1] == [b"DEALLOCATE " + sql, b"PREPARE " + sql, sql]
        run(world, sql)
        assert sent(world)[-1] == [sql]


@pytest.mark.parametrize("sqlstate", ["0A000", "XX000"])
def test_an_outdated_statement_runs_with_literals_and_begins_anew(sqlstate: str) -> None:
    world = auto()
    stale = promote(world, SQL)
    backend = run(world)
    request, _ = start(world)
    answer(world, backend, fails=SQL, error=failure(sqlstate), is_bound=False)
    assert world.broker.backends[backend].running[0].number == request
    assert sent(world)[-1] == [SQL]
    answer(world, backend)
    assert world.outcome(request) == OK
    assert world.broker.groups["default"].statements.find(SQL, b"") is not stale
    assert not is_prepared(world, backend)


@pytest.mark.parametrize("sqlstate", ["0A000", "XX000"])
def test_an_outdated_statement_in_a_lease_is_reported_and_begins_anew(sqlstate: str) -> None:
    world = auto()
    promote(world, SQL, group="tx")
    backend = world.begin(lease=1)
    request = world.query(1, "tx", lease=1, statement=SQL)
    answer(world, backend, fails=SQL, error=failure(sqlstate), is_bound=False)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert reply.sqlstate == sqlstate
    world.query(1, "tx", lease=1, statement=SQL)
    assert type(world.taken(effects.Execute)[-1].unit[-1]) is effects.SimpleQuery


@pytest.mark.parametrize(("sqlstate", "left"), [("42P01", StatementState.REFUSED), ("53200", StatementState.PREPARED)])
def test_a_parse_that_fails_runs_with_literals_and_ends_it_unless_it_tells_nothing(
    sqlstate: str, left: StatementState
) -> None:
    world = auto()
    promote(world, SQL)
    request, backend = start(world)
    assert sent(world)[-1] == [*PROBE, SQL]
    answer(world, backend, fails=PROBE[0], error=failure(sqlstate))
    assert sent(world)[-1] == [SQL]
    answer(world, backend)
    assert world.outcome(request) == OK
    assert state(world) is left


def test_a_value_that_does_not_fit_is_shown_in_its_place_in_the_statement() -> None:
    world = auto()
    promote(world, b"SELECT \0", oids(0))
    request, backend = start(world, b"SELECT \0", types=oids(0), values=packed(b"x"))
    answer(world, backend, fails=b"SELECT $1", error=failure("22P02"), is_bound=False)
    assert sent(world)[-1] == [b"SELECT 'x'"]
    answer(world, backend, fails=b"SELECT 'x'", error=failure("22P02", message="LINE 1"))
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert reply.message == "LINE 1"
    assert state(world, b"SELECT \0", oids(0)) is StatementState.PREPARED


def test_an_error_while_it_runs_is_the_clients_own() -> None:
    world = auto()
    promote(world, SQL)
    request, backend = start(world)
    answer(world, backend, fails=SQL)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert reply.sqlstate == "22012"
    assert state(world) is StatementState.PREPARED


def test_a_withdrawn_statement_is_not_run_again_with_literals() -> None:
    world = auto()
    promote(world, SQL)
    request, backend = start(world)
    world.broker.cancel(1, request, world.now)
    answer(world, backend, fails=SQL, error=failure("0A000"))
    assert world.is_answered(request)
    world.broker.cancelled(backend, world.now)
    assert world.state(backend) is S.IDLE


@pytest.mark.parametrize("sql", [b"DISCARD ALL", b"DEALLOCATE ALL", b"SET a = 1; DISCARD ALL; SELECT 2"])
def test_a_client_that_discards_everything_is_noticed(sql: bytes) -> None:
    world = auto()
    promote(world, SQL)
    backend = run(world)
    start(world, sql)
    said = [StatementResult(each.strip().decode(), -1, None, b"", ()) for each in sql.split(b";")]
    results = [OK if each.command == "SELECT 2" else each for each in said]
    world.broker.completed(backend, Completion(TX_NONE, results), world.now)
    run(world)
    assert sent(world)[-1] == [*PROBE, SQL]


# In a lease.


def test_a_lease_begins_with_a_prepared_statement_in_one_unit() -> None:
    world = auto()
    promote(world, SQL, group="tx")
    request = world.query(1, "tx", lease=1, begin=True, statement=SQL)
    world.connect_all()
    backend = world.running(request)
    assert sent(world) == [[b"PREPARE BEGIN", b"BEGIN", *PROBE, SQL]]
    answer(world, backend)
    assert world.outcome(request) == OK
    reply = world.reply_to(request)
    assert isinstance(reply, ResultMessage)
    assert reply.transaction == TX_ACTIVE
    assert world.state(backend) is S.LEASED


def test_a_lease_whose_first_statement_is_withdrawn_during_begin_is_still_open() -> None:
    world = auto()
    request = world.query(1, "tx", lease=1, begin=True, statement=SQL)
    world.connect_all()
    backend = world.running(request)
    assert sent(world) == [[b"BEGIN"]]
    world.broker.cancel(1, request, world.now)
    answer(world, backend)
    world.broker.cancelled(backend, world.now)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert (reply.transaction == TX_ACTIVE) is (1 in world.broker.clients[1].leases)
