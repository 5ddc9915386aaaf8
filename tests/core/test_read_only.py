"""What is refused in a group that is read_only, and what is not."""

import pytest
from units import READ, begin, step
from world import TX_ACTIVE, TX_NONE, World

from client.wire.limits import IN_SESSION, OPENS_SESSION
from client.wire.messages import NOT_EXECUTED, Failure
from poold.core.work.read_only import objection

LIFTING = (
    b"SET TRANSACTION READ WRITE",
    b"set transaction isolation level serializable, read /* a */ write",
    b"SET SESSION CHARACTERISTICS AS TRANSACTION READ\nWRITE",
    b"BEGIN READ WRITE",
    b"START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ WRITE",
    b"SELECT 1; BEGIN READ WRITE",
    b"SET transaction_read_only = off",
    b"SET LOCAL Transaction_Read_Only TO off",
    b'SET "default_transaction_read_only" = off',
    b'SET SESSION U&"d\\0065fault_transaction_read_only" = off',
    b"SET U&\"d!0065fault_transaction_read_only\" UESCAPE '!' = off",
    b"RESET transaction_read_only",
    b"SELECT set_config('transaction_read_only', 'off', true)",
    b"SELECT pg_catalog.\"set_config\"('Default_Transaction_Read_Only', 'off', false)",
    b"WITH a AS (SELECT set_config($$default_transaction_read_only$$, 'off', false)) SELECT 1",
    b"UPDATE pg_settings SET setting = 'off' WHERE name LIKE 'default%'",
    b"EXPLAIN ANALYZE UPDATE pg_catalog.\"pg_settings\" SET setting = 'off'",
    b"WITH a AS (UPDATE pg_settings SET setting = 'off') SELECT 1",
    b"SELECT f(); COMMIT; INSERT INTO t VALUES (1)",
    b"SELECT f(); END; INSERT INTO t VALUES (1)",
    b"SELECT f(); (SELECT 1); rollback and chain; INSERT INTO t VALUES (1)",
    b"BEGIN; PREPARE TRANSACTION 'a'; INSERT INTO t VALUES (1)",
)
CODE = (b"CALL p()", b"/* a */ do $$ BEGIN COMMIT; END $$")
HARMLESS = (
    b"SELECT 1",
    b"SELECT read, write FROM t WHERE a = 'READ WRITE'",
    b"SHOW transaction_read_only",
    b"SELECT current_setting('transaction_read_only')",
    b"SELECT * FROM pg_settings WHERE name = 'default_transaction_read_only'",
    b"SELECT set_config('search_path', 'a', true)",
    b"SET TRANSACTION READ ONLY",
    b"SET search_path = a",
    b"BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; SELECT 2; COMMIT;",
    b"BEGIN; SAVEPOINT a; SELECT 1; ROLLBACK TO a; SELECT 2; ROLLBACK WORK TO SAVEPOINT a; SELECT 3; COMMIT",
    b"PREPARE p AS SELECT 1; EXECUTE p",
    b"SELECT 1; SELECT 'do'; SELECT 2",
)


@pytest.mark.parametrize("sql", LIFTING)
@pytest.mark.parametrize("is_in_block", [True, False])
def test_what_would_write_is_refused(sql: bytes, is_in_block: bool) -> None:
    assert "read_only" in objection(sql, b"", is_in_block)


@pytest.mark.parametrize("sql", CODE)
def test_code_runs_only_where_it_cannot_commit(sql: bytes) -> None:
    assert "transaction" in objection(sql, b"", is_in_block=False)
    assert objection(sql, b"", is_in_block=True) == ""


def test_a_block_that_sets_it_is_refused_everywhere() -> None:
    assert objection(b"DO $$ BEGIN SET default_transaction_read_only = off; END $$", b"", is_in_block=True)


@pytest.mark.parametrize("sql", HARMLESS)
def test_all_else_is_taken(sql: bytes) -> None:
    assert objection(sql, b"", is_in_block=False) == ""


def test_the_name_may_be_a_parameter() -> None:
    sql = b"SELECT set_config(\0, \0, false)"
    assert objection(sql, b"\0\0\0\x1dDEFAULT_transaction_read_only\0\0\0\3off", is_in_block=True)
    assert not objection(sql, b"\0\0\0\x0bsearch_path\0\0\0\1a", is_in_block=True)


def test_what_is_too_long_to_be_read_is_refused() -> None:
    assert "too long" in objection(b"SELECT 1;" + b"a b " * 60_000, b"", is_in_block=True)


def refused(world: World, request: int) -> str:
    reply = world.reply_to(request)
    assert isinstance(reply, Failure)
    assert (reply.kind, reply.outcome) == ("usage", NOT_EXECUTED)
    return reply.message


def test_statements_messages_and_settings_are_refused_before_anything_runs() -> None:
    world = World(read_only=True)
    world.client()
    for request in (
        world.query(statement=b"BEGIN READ WRITE"),
        world.query(statement=b"CALL p()"),
        world.query(settings=b"Transaction_read_only\0off\0"),
        world.transaction(READ, read_only=False),
        world.transaction(READ, settings=b"default_transaction_read_only\0off\0"),
        world.transaction(step(b"SET TRANSACTION READ WRITE")),
        world.query(group="tx", lease=1, begin=True, statement=b"SET TRANSACTION READ WRITE"),
    ):
        assert "read_only" in refused(world, request)
    assert not world.broker.backends


def test_other_groups_do_as_they_like() -> None:
    world = World()
    begin(world, step(b"SET TRANSACTION READ WRITE"), read_only=False)


def test_code_runs_in_a_message_in_a_lease_and_in_a_session_that_has_begun() -> None:
    world = World(read_only=True)
    begin(world, step(b"CALL p()"))
    backend = world.begin(1)
    call = world.query(group="tx", lease=1, statement=b"CALL p()")
    assert world.running(call) == backend


def test_in_a_session_only_inside_of_its_transaction() -> None:
    world = World(read_only=True)
    world.client()
    world.query(lease=1, session=OPENS_SESSION)
    world.connect_all()
    (backend,) = world.broker.backends
    world.complete(backend, TX_NONE)
    assert "read_only" in refused(world, world.query(lease=1, session=IN_SESSION, statement=b"CALL p()"))
    world.query(lease=1, session=IN_SESSION, statement=b"BEGIN")
    assert "read_only" in refused(world, world.query(lease=1, session=IN_SESSION, statement=b"CALL p()")), "it may fail"
    world.complete(backend, TX_ACTIVE)
    call = world.query(lease=1, session=IN_SESSION, statement=b"CALL p()")
    assert world.running(call) == backend
