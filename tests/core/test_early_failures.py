"""Event scripts of failures before anything ran, by code and proof: run again unseen, or the client's own."""

import pytest
from units import (
    INSERT,
    SHORT,
    UNTRACKED,
    answer,
    begin,
    committed,
    failed,
    oids,
    packed,
    promote,
    sent,
    sharing,
    step,
    table,
)
from world import OK, S, World, failure

from client.wire.limits import END_SAVEPOINT, IN_SESSION, OPENS_SESSION, SAVEPOINT
from client.wire.messages import NOT_EXECUTED, TX_ACTIVE, TX_FAILED, TX_NONE, Failure, StepReference
from poold.core import effects
from poold.core.effects import Bind
from poold.core.facts import Completion
from poold.core.statements.proofs import UNPROVEN, Proof
from poold.core.statements.statement import StatementState

SQL = b"INSERT 1"
PARSE = b"PREPARE " + SQL
HARMLESS = Proof(is_harmless=True)
FUNCTION = Proof(calls_unknown=True)
PREPARED, REFUSED, LITERAL = StatementState.PREPARED, StatementState.REFUSED, StatementState.LITERAL


def auto(proof: Proof = HARMLESS, **over: object) -> World:
    world = World(prepare="auto", max_size=1, **{**UNTRACKED, **over})
    world.client()
    for group in ("default", "tx"):
        promote(world, SQL, group=group, proof=proof)
    return world


def state(world: World, group: str = "default") -> StatementState:
    return world.broker.groups[group].statements.find(SQL, b"").state


def start(world: World) -> tuple[int, int]:
    request = world.query(statement=SQL)
    world.connect_all()
    return request, world.running(request)


def is_running_with_literals(world: World) -> bool:
    (running,) = (each for backend in world.broker.backends.values() for each in backend.running)
    return type(running.unit[0]) is effects.SimpleQuery


CODES = [
    ("0A000", LITERAL),
    ("XX000", LITERAL),
    ("42P01", REFUSED),
    ("42883", REFUSED),
    ("P0001", REFUSED),
    ("22P02", PREPARED),
    ("22003", PREPARED),
    ("26000", PREPARED),
    ("40P01", PREPARED),
    ("53200", PREPARED),
    ("55P03", PREPARED),
]


@pytest.mark.parametrize(("code", "left"), CODES)
def test_a_bind_of_a_proven_statement_is_repeated_with_literals(code: str, left: StatementState) -> None:
    world = auto()
    request, backend = start(world)
    answer(world, backend, fails=SQL, error=failure(code), is_bound=False)
    assert is_running_with_literals(world)
    assert state(world) is left
    answer(world, backend)
    assert world.outcome(request) == ("INSERT 0 1", *world.outcome(request)[1:])  # type: ignore[index]


@pytest.mark.parametrize(("code", "left"), CODES)
@pytest.mark.parametrize("proof", [UNPROVEN, FUNCTION])
def test_a_bind_of_another_may_have_run_functions_and_is_the_clients(
    code: str, left: StatementState, proof: Proof
) -> None:
    world = auto(proof)
    request, backend = start(world)
    answer(world, backend, fails=SQL, error=failure(code), is_bound=False)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert reply.sqlstate == code
    assert state(world) is left
    assert sum(SQL in unit for unit in sent(world)) == 1


@pytest.mark.parametrize("proof", [UNPROVEN, FUNCTION, HARMLESS])
@pytest.mark.parametrize(
    "context",
    ["unnamed portal parameter $1 = '...'", "unnamed portal parameter $12", "unbenanntes Portal, Parameter $2"],
)
@pytest.mark.parametrize("code", ["22P02", "42P01", "42704"])
def test_a_parameter_that_cannot_be_read_has_run_nothing_and_tells_nothing_of_the_statement(
    code: str, context: str, proof: Proof
) -> None:
    world = auto(proof)
    _, backend = start(world)
    error = failure(code)._replace(diag={"severity": "ERROR", "context": context})
    answer(world, backend, fails=SQL, error=error, is_bound=False)
    assert is_running_with_literals(world)
    assert state(world) is PREPARED


@pytest.mark.parametrize(
    "context",
    [
        "PL/pgSQL function f(integer) line 3 at RAISE\nunnamed portal parameter $1",
        'PL/pgSQL function "$1"() line 1 at RAISE',
        "SQL function \"f $1 = '...'\" during inlining",
        'SQL expression "$1 = 5"',
        "",
    ],
)
def test_code_that_ran_while_a_statement_was_bound_is_not_run_again(context: str) -> None:
    world = auto(FUNCTION)
    request, backend = start(world)
    error = failure("22P02")._replace(diag={"severity": "ERROR", "context": context})
    answer(world, backend, fails=SQL, error=error, is_bound=False)
    assert isinstance(world.reply_to(request), Failure)
    assert sum(SQL in unit for unit in sent(world)) == 1


@pytest.mark.parametrize("proof", [UNPROVEN, FUNCTION, HARMLESS])
@pytest.mark.parametrize("code", ["42P01", "0A000", "22P02", "42P05", "53200"])
def test_a_parse_is_repeated_with_literals_whatever_it_is(code: str, proof: Proof) -> None:
    world = auto(proof)
    _, backend = start(world)
    answer(world, backend, fails=PARSE, error=failure(code))
    assert is_running_with_literals(world)
    assert state(world) is (PREPARED if code in ("42P05", "53200") else REFUSED)


def test_a_bind_behind_a_parse_that_failed_is_repeated_although_the_proof_is_gone() -> None:
    world, backend, requests = sharing(2)
    answer(world, backend, fails=b"PREPARE " + SHORT, error=failure("42P01"))
    answer(world, backend, fails=SHORT, error=failure("26000"), is_bound=False)
    for _ in requests:
        assert is_running_with_literals(world)
        answer(world, backend)
    assert [world.outcome(request) for request in requests] == [OK, OK]


def test_who_cancelled_a_bind_behind_a_parse_that_failed_is_told_no_more_than_that() -> None:
    world, backend, requests = sharing(2)
    world.broker.cancel(1, requests[1], world.now)
    answer(world, backend, fails=b"PREPARE " + SHORT, error=failure("42P01"))
    answer(world, backend, fails=SHORT, error=failure("26000"), is_bound=False)
    told = world.reply_to(requests[1])
    assert isinstance(told, Failure)
    assert (told.sqlstate, told.outcome) == ("57014", NOT_EXECUTED)


@pytest.mark.parametrize("proof", [UNPROVEN, HARMLESS])
@pytest.mark.parametrize("code", ["0A000", "26000", "42P05", "XX000", "22P02", "42P01", "40001", "57014"])
def test_what_fails_while_it_runs_is_run_once_with_any_code(code: str, proof: Proof) -> None:
    world = auto(proof)
    request, backend = start(world)
    answer(world, backend, fails=SQL, error=failure(code))
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert reply.sqlstate == code
    assert state(world) is PREPARED
    assert sum(SQL in unit for unit in sent(world)) == 1


@pytest.mark.parametrize("code", ["0A000", "26000", "42P05", "XX000", "23505", "57014"])
def test_what_fails_at_the_commit_is_run_once_with_any_code(code: str) -> None:
    """A deferred trigger raises behind the statement's result: nothing tells of a command."""
    world = auto()
    request, backend = start(world)
    inserted = ("INSERT 0 1", 1, None, b"", ())
    done = Completion(TX_NONE, [inserted], failure(code), prepared=[None], bound=1)
    world.broker.completed(backend, done, world.now)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert reply.sqlstate == code
    assert state(world) is PREPARED
    assert sum(SQL in unit for unit in sent(world)) == 1


@pytest.mark.parametrize("command", [PARSE, SQL])
def test_what_is_cancelled_before_it_runs_is_not_run_again_behind_its_time(command: bytes) -> None:
    """It waited for a lock: with literals it would wait again, for as long."""
    world = auto()
    request, backend = start(world)
    answer(world, backend, fails=command, error=failure("57014"), is_bound=False)
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert reply.sqlstate == "57014"
    assert state(world) is PREPARED


def test_values_of_the_repetition_are_in_their_places() -> None:
    world = auto()
    promote(world, b"SELECT \0", oids(23), proof=HARMLESS)
    request = world.query(statement=b"SELECT \0", types=oids(23), values=packed(b"7"))
    world.connect_all()
    backend = world.running(request)
    answer(world, backend, fails=b"SELECT $1", error=failure("0A000"), is_bound=False)
    assert sent(world)[-1] == [b"SELECT 7"]
    answer(world, backend)
    assert world.outcome(request) == OK


@pytest.mark.parametrize("command", [PARSE, SQL])
@pytest.mark.parametrize("is_session", [False, True])
def test_in_a_lease_or_session_it_fails_at_most_once(command: bytes, is_session: bool) -> None:
    world = auto()
    group = "default" if is_session else "tx"
    over = {"session": OPENS_SESSION} if is_session else {"begin": True}
    request = world.query(1, group, lease=1, statement=SQL, **over)
    world.connect_all()
    backend = world.running(request)
    answer(world, backend, fails=command, error=failure("42P01"), is_bound=False)
    assert isinstance(world.reply_to(request), Failure)
    assert state(world, group) is REFUSED
    world.query(1, group, lease=1, session=IN_SESSION if is_session else 0, statement=SQL)
    assert is_running_with_literals(world)


def test_the_first_of_a_lease_whose_begin_has_no_name_fails_once_and_the_next_begins_anew() -> None:
    world = auto()
    for lease in (1, 2):
        request = world.query(1, "tx", lease=lease, begin=True, statement=SQL)
        world.connect_all()
        backend = world.running(request)
        if lease == 1:
            answer(world, backend)
            world.broker.client_gone(1, world.now)
            answer(world, backend)
            world.client()
    answer(world, backend, fails=b"BEGIN", error=failure("26000"), is_bound=False)
    assert isinstance(world.reply_to(request), Failure)
    assert 2 not in world.broker.clients[1].leases, "no transaction was begun"
    world.query(1, "tx", lease=3, begin=True, statement=SQL)
    assert sent(world)[-1][:2] == [b"DEALLOCATE BEGIN", b"DEALLOCATE " + SQL]


# In messages.


@pytest.mark.parametrize("command", [PARSE, SQL])
@pytest.mark.parametrize("code", ["0A000", "42P01", "22P02"])
@pytest.mark.parametrize("settings", [b"", b"search_path\0a\0"])
def test_a_message_runs_again_with_literals_and_that_is_no_try(command: bytes, code: str, settings: bytes) -> None:
    world = auto()
    statements = world.broker.groups["default"].statements
    keyed = statements.find(SQL, b"", settings)
    keyed.state, keyed.proof, keyed.is_harmless, keyed.numbered = PREPARED, HARMLESS, True, SQL
    request, backend = begin(world, INSERT, INSERT, settings=settings)
    answer(world, backend, fails=command, error=failure(code), is_bound=False)
    answer(world, backend)
    assert Bind not in map(type, world.taken(effects.Execute)[-1].unit)
    answer(world, backend)
    assert committed(world, request).tries == 1
    expected = {"0A000": REFUSED if command == PARSE else LITERAL, "42P01": REFUSED}.get(code)
    if expected is None:
        expected = REFUSED if command == PARSE else PREPARED
    assert statements.find(SQL, b"", settings).state is expected


def test_although_another_generation_has_begun_meanwhile() -> None:
    """Somebody's ALTER TABLE is what makes the Bind fail."""
    world = auto()
    request, backend = begin(world, INSERT)
    world.broker.groups["default"].statements.forget_all()
    answer(world, backend, fails=SQL, error=failure("0A000"), is_bound=False)
    answer(world, backend)
    answer(world, backend)
    assert committed(world, request).tries == 1


def test_a_step_with_references_as_well() -> None:
    world = auto()
    statements = world.broker.groups["default"].statements
    found = statements.find(b"INSERT \0", oids(23))
    found.state, found.proof, found.is_harmless, found.numbered = PREPARED, HARMLESS, True, b"INSERT $1"
    promote(world, b"SELECT 1", proof=HARMLESS)
    request, backend = begin(world, step(b"SELECT 1"), step(b"INSERT \0", StepReference(0, 0, 0, 0)))
    answer(world, backend, {b"SELECT 1": table({"id": 23}, [b"7"])})
    answer(world, backend, fails=b"INSERT $1", error=failure("0A000"), is_bound=False)
    answer(world, backend)
    answer(world, backend, {b"SELECT 1": table({"id": 23}, [b"7"])})
    assert sent(world)[-1][0] == b"INSERT 7"
    answer(world, backend)
    committed(world, request)


BEFORE_PLANNING = [
    ("0A000", {"source_function": "RevalidateCachedQuery"}, LITERAL),
    ("26000", {"source_function": "FetchPreparedStatement"}, PREPARED),
    ("42883", {"source_function": "op_error", "statement_position": "15"}, REFUSED),
    ("42P01", {"source_function": "parserOpenTable", "statement_position": "15"}, REFUSED),
]


@pytest.mark.parametrize(("code", "diag", "left"), BEFORE_PLANNING)
@pytest.mark.parametrize("proof", [UNPROVEN, FUNCTION])
def test_what_failed_before_it_was_planned_has_run_no_functions(
    code: str, diag: dict[str, str], left: StatementState, proof: Proof
) -> None:
    world = auto(proof)
    _, backend = start(world)
    answer(world, backend, fails=SQL, error=failure(code)._replace(diag=diag), is_bound=False)
    assert is_running_with_literals(world)
    assert state(world) is left


@pytest.mark.parametrize(
    "more",
    [
        {"context": "PL/pgSQL function f(integer) line 3 at RETURN"},
        {"context": 'SQL function "f" during inlining', "internal_position": "8"},
        {"internal_position": "8"},
        {"is_bound": True},
    ],
)
@pytest.mark.parametrize(("code", "diag", "left"), BEFORE_PLANNING)
def test_what_a_function_meets_in_its_own_statements_is_not_run_again(
    code: str, diag: dict[str, str], left: StatementState, more: dict[str, object]
) -> None:
    world = auto(FUNCTION)
    request, backend = start(world)
    error = failure(code)._replace(diag={**diag, **more})
    answer(world, backend, fails=SQL, error=error, is_bound="is_bound" in more)
    assert isinstance(world.reply_to(request), Failure)
    assert sum(SQL in unit for unit in sent(world)) == 1


def test_a_message_is_not_repeated_for_an_unproven_statements_bind() -> None:
    world = auto(FUNCTION)
    request, backend = begin(world, INSERT)
    answer(world, backend, fails=SQL, error=failure("0A000"), is_bound=False)
    answer(world, backend)
    assert failed(world, request)[0].sqlstate == "0A000"


def test_nor_for_what_fails_while_it_runs_in_a_savepoint_block() -> None:
    world = auto()
    request, backend = begin(world, SAVEPOINT, INSERT, END_SAVEPOINT)
    answer(world, backend, fails=SQL, error=failure("0A000"))
    answer(world, backend)
    assert committed(world, request).results[1][4] == "division by zero"
    assert sum(SQL in unit for unit in sent(world)) == 1


def test_a_repetition_in_a_lease_is_never_seen() -> None:
    world = auto()
    request = world.query(1, "tx", lease=1, begin=True, statement=SQL)
    world.connect_all()
    backend = world.running(request)
    answer(world, backend, fails=SQL, error=failure("22P02"), is_bound=False)
    assert isinstance(world.reply_to(request), Failure)
    assert world.broker.backends[backend].transaction != TX_ACTIVE
    assert state(world, "tx") is PREPARED


def test_a_message_that_runs_again_need_not_wait_for_the_reset_of_its_backend() -> None:
    world = World(prepare="auto", max_size=2, **UNTRACKED, shows_resets=True)
    world.client()
    promote(world, SQL, proof=HARMLESS)
    message = world.transaction(step(SQL), step(b"SELECT 2"))
    world.connect_all()
    backend = world.running(message)
    answer(world, backend, fails=SQL, error=failure("26000", TX_FAILED), is_bound=False)
    answer(world, backend)  # ROLLBACK
    assert world.state(backend) is S.RESETTING
    assert len(world.taken(effects.Connect)) == 2
    world.connect_all()
    assert world.running(message) != backend


def test_in_a_lease_that_may_have_replaced_prepared_statements_the_brokers_own_go_as_text() -> None:
    world = auto()
    lease = {"lease": 7, "settings": b"search_path\0a\0"}
    world.query(1, "tx", begin=True, statement=b"DO 'EXECUTE ...'", **lease)
    world.connect_all()
    (backend,) = world.broker.backends
    for _ in range(3):
        answer(world, backend)
        world.query(1, "tx", statement=SQL, **lease)
    kinds = {type(each) for each in world.broker.backends[backend].running[0].unit}
    assert kinds == {effects.Plain}
