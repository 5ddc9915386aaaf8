"""What statements leave in their session; that nobody else finds it; and leases that outlive their transactions."""

from typing import Any

import pytest
from units import INSERT, READ, SHORT, answer, begin, committed, current_unit, promote, sent, step, table
from world import OK, World, failure

from client.wire.limits import IN_SESSION, OPENS_SESSION
from client.wire.messages import (
    EXECUTED,
    NOT_EXECUTED,
    TX_ACTIVE,
    TX_BROKEN,
    TX_LOST,
    TX_NONE,
    UNKNOWN,
    Commit,
    Failure,
    Release,
    ResultMessage,
    Rollback,
)
from poold.core import effects
from poold.core.facts import Completion, Loss, Server
from poold.core.pools.lifecycle import RESET_TIMEOUT
from poold.core.state import BackendState as S
from poold.core.statements.leftovers import NOTHING, UNSEEN, left_by, reset, use_of
from poold.core.statements.proofs import Proof
from poold.core.statements.sql import MAX_TOKENS
from poold.core.statements.statement import StatementState

# What a text tells.


def sql_of(unit: effects.Unit) -> bytes:
    (command,) = unit
    assert isinstance(command, effects.SimpleQuery)
    return command.sql


@pytest.mark.parametrize(
    ("statement", "leaves"),
    [
        ("SET search_path = a", "a setting"),
        ("set session TIME ZONE 'UTC'", "a setting"),
        ("SET ROLE admin", "a setting"),
        ("SET SESSION AUTHORIZATION x", "a setting"),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "a setting"),
        ("LISTEN a", "a channel that it listens to"),
        ("PREPARE p AS SELECT 1", "a prepared statement"),
        ("/* x */ prepare p (int) AS SELECT $1", "a prepared statement"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "a cursor"),
        ("DECLARE c BINARY INSENSITIVE NO SCROLL CURSOR WITH HOLD FOR SELECT 1", "a cursor"),
        ("LOAD 'auto_explain'", "a library"),
        ("CREATE TEMP TABLE t (a int)", "a temporary table"),
        ("CREATE TEMPORARY VIEW v AS SELECT 1", "a temporary table"),
        ("CREATE LOCAL TEMP TABLE t (a int)", "a temporary table"),
        ("CREATE OR REPLACE TEMP VIEW v AS SELECT 1", "a temporary table"),
        ("CREATE TABLE pg_temp.t (a int)", "a temporary table"),
        ('CREATE TABLE "pg_temp".t (a int)', "a temporary table"),
        ('CREATE UNLOGGED TABLE IF NOT EXISTS PG_TEMP . "t" (a int)', "a temporary table"),
        ("CREATE OR REPLACE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "a temporary table"),
        ("CREATE TYPE pg_temp.t AS (a int)", "a temporary table"),
        ("CREATE RECURSIVE VIEW pg_temp.v (n) AS SELECT 1", "a temporary table"),
        ("CREATE TEMP TABLE t AS SELECT 1 WITH NO DATA", "a temporary table"),
        ("SELECT 1 INTO pg_temp.t", "a temporary table"),
        ("SELECT 1 INTO TABLE pg_temp.t FROM a", "a temporary table"),
        ("SELECT 1 INTO TEMP t", "a temporary table"),
        ("SELECT 1 INTO LOCAL TEMPORARY TABLE t", "a temporary table"),
        ("WITH a AS (SELECT 1) SELECT * INTO TEMP t FROM a", "a temporary table"),
        ("(SELECT 1 INTO TEMP t)", "a temporary table"),
        ("((SELECT lower('x') AS a INTO TEMPORARY t))", "a temporary table"),
        ("WITH a AS (SELECT 1) (SELECT * INTO LOCAL TEMP t FROM a)", "a temporary table"),
        ("EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1", "a temporary table"),
        ("EXPLAIN (VERBOSE, ANALYZE) CREATE TABLE pg_temp.t AS SELECT 1", "a temporary table"),
        ("EXPLAIN ANALYSE VERBOSE DECLARE c CURSOR WITH HOLD FOR SELECT 1", "a cursor"),
        ("EXPLAIN (ANALYZE true, COSTS off) DECLARE c CURSOR WITH HOLD FOR SELECT 1", "a cursor"),
        ("EXPLAIN (COSTS off, ANALYZE) SELECT pg_advisory_lock(1)", "an advisory lock"),
        ("EXPLAIN ANALYZE SELECT pg_advisory_lock(\0)", "an advisory lock"),
        ("CREATE TABLE t AS SELECT pg_advisory_lock(1)", "an advisory lock"),
        ("CREATE MATERIALIZED VIEW v (a) AS (SELECT pg_advisory_lock(1))", "an advisory lock"),
        ("EXPLAIN ANALYZE CREATE UNLOGGED TABLE t AS SELECT pg_advisory_lock(1)", "an advisory lock"),
        ("SELECT set_config('a.b', 'c', false)", "a setting"),
        ("SELECT pg_catalog.set_config('a.b', \0, 'f') AS it, \"set_config\"('c', '(', FALSE) /* x */", "a setting"),
        ("SELECT pg_advisory_lock(1)", "an advisory lock"),
        ("SELECT pg_catalog.pg_try_advisory_lock_shared(\0)", "an advisory lock"),
        ("UPDATE t SET a = 1 WHERE PG_ADVISORY_LOCK(1) IS NULL", "an advisory lock"),
        ('SELECT "pg_try_advisory_lock"(1)', "an advisory lock"),
    ],
)
def test_what_makes_sense_in_a_session_only_is_known_for_what_it_leaves(statement: str, leaves: str) -> None:
    for text in (statement, statement + " ;", f"-- x\n{statement}"):
        found = use_of(text.encode())
        assert (found.leaves, found.wants_session) == (leaves, True)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "SELECT 1;",
        "UPDATE t SET search_path = 1",
        "SET LOCAL search_path = a",
        "SET TRANSACTION READ ONLY",
        "SET CONSTRAINTS ALL DEFERRED",
        "PREPARE TRANSACTION 'a'",
        "UNLISTEN *",
        "NOTIFY a",
        "CLOSE c",
        "DECLARE c CURSOR FOR SELECT 1",
        "DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1",
        "CREATE TABLE t (temp int)",
        "CREATE TABLE temp (a int)",
        "CREATE UNLOGGED TABLE t (a int)",
        "INSERT INTO temp VALUES (1)",
        "SELECT temp FROM temperature",
        "SELECT 1 INTO t",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT pg_try_advisory_xact_lock_shared(1)",
        "SELECT pg_advisory_unlock_all()",
        "EXPLAIN CREATE TEMP TABLE t AS SELECT 1",
        "WITH a AS (INSERT INTO temp VALUES (1) RETURNING *) SELECT * FROM a",
        "SELECT set_config('a', 'b', true)",
        "SELECT set_config('a', 'b', false), f(1)",
        "SELECT set_config('a', 'b', false) FROM t",
        "WITH c AS MATERIALIZED (SELECT set_config('a', 'b', false)) SELECT * FROM c, t",
        "SELECT 'pg_advisory_lock(1)'",
        "SELECT 'LISTEN a; SET a = 1'",
        "CREATE FUNCTION f() RETURNS int SET search_path = a LANGUAGE sql AS 'SELECT 1'",
        "COMMIT",
        "",
        "\0",
    ],
)
def test_what_leaves_nothing_is_left_alone(statement: str) -> None:
    assert use_of(statement.encode()) is NOTHING


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE FUNCTION f() RETURNS int SECURITY DEFINER SET search_path = app, pg_temp LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE PROCEDURE p() LANGUAGE plpgsql SECURITY DEFINER SET search_path TO a, pg_temp AS 'x'",
        "CREATE FUNCTION f(pg_temp int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        'CREATE TABLE t (a int, "pg_temp" int)',
        "CREATE TABLE pg_temp (a int)",
        "CREATE TABLE a AS SELECT pg_temp.b FROM c AS pg_temp",
        "CREATE TYPE t AS (pg_temp int)",
        "CREATE INDEX i ON t (pg_temp)",
        "CREATE INDEX i ON t (a) WHERE pg_temp > 1",
        "CREATE VIEW v AS SELECT t.pg_temp FROM t",
        "CREATE POLICY p ON t USING (pg_temp = 1)",
        "CREATE STATISTICS s ON temp, pg_temp FROM t",
        "SELECT pg_temp INTO t FROM a",
        "SELECT temp INTO temp FROM t",
        "SELECT 1 INTO temp",
        'SELECT 1 INTO "temp x"',
        'SELECT 1 AS "INTO TEMP t"',
        "INSERT INTO pg_temp.t VALUES (1)",
    ],
)
def test_a_temporary_schema_counts_only_as_that_of_what_is_made(statement: str) -> None:
    assert use_of(statement.encode()) is NOTHING


@pytest.mark.parametrize("call", ["currval('s')", "lastval()", "pg_try_advisory_lock(1)", "pg_advisory_unlock(1)"])
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE t (a int DEFAULT {})",
        "CREATE TABLE t (a int, CHECK ({} IS NULL))",
        "CREATE VIEW v AS SELECT {}",
        "CREATE TABLE t AS SELECT {} WITH NO DATA",
        "CREATE DOMAIN d AS text CHECK (value <> {})",
        "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW WHEN ({}) EXECUTE FUNCTION f()",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN {}",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT {}; END",
        "CREATE POLICY p ON t USING ({})",
        "CREATE RULE r AS ON INSERT TO t DO ALSO SELECT {}",
        "ALTER TABLE t ALTER COLUMN a SET DEFAULT {}",
        "DROP FUNCTION {}",
        "COMMENT ON FUNCTION {} IS 'x'",
        "GRANT EXECUTE ON FUNCTION {} TO public",
        "REVOKE EXECUTE ON FUNCTION {} FROM public",
        "SECURITY LABEL ON FUNCTION {} IS 'x'",
        "EXPLAIN SELECT {}",
        "EXPLAIN VERBOSE SELECT {}",
        "EXPLAIN (ANALYZE false) SELECT {}",
        "EXPLAIN (ANALYZE off, VERBOSE) SELECT {}",
        "EXPLAIN (ANALYZE 0) SELECT {}",
        "EXPLAIN (VERBOSE, ANALYZE 'off') SELECT {}, \0",
        'EXPLAIN (ANALYZE "off") SELECT {}',
        "EXPLAIN (COSTS off) SELECT {}",
        "EXPLAIN (SELECT {})",
        "SELECT app.{}",
        'SELECT "app" . {}',
    ],
)
def test_what_is_not_run_or_not_built_in_is_no_call(statement: str, call: str) -> None:
    assert use_of(statement.format(call).encode()) is NOTHING


@pytest.mark.parametrize(
    "statement",
    [
        "EXPLAIN (ANALYZE false) CREATE TEMP TABLE x AS SELECT 1",
        "EXPLAIN (ANALYZE off) DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "EXPLAIN SELECT set_config('a.b', '1', false)",
        "CREATE VIEW v AS SELECT set_config('a.b', '1', false)",
        "SELECT app.setseed(1)",
        "EXPLAIN (COSTS off) SELECT setseed(0.5)",
    ],
)
def test_what_is_only_planned_or_defined_leaves_nothing(statement: str) -> None:
    assert use_of(statement.encode()) is NOTHING


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT app.dblink_connect('a', 'b')",
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql RETURN dblink_connect('a', 'b')",
        "EXPLAIN SELECT dblink_connect('a', 'b')",
        "SELECT dblink_connect('a', 'b'), dblink_exec('a', 'c')",
        "SELECT pg_create_physical_replication_slot('a')",
        "SET a.b = 1; LOAD 'x'",
        "SELECT 1; (SELECT * FROM pg_replication_origin_session_setup('a'))",
    ],
)
def test_what_may_be_lasting_closes_the_connection_wherever_it_stands(statement: str) -> None:
    found = use_of(statement.encode())
    assert found.is_lasting
    assert found.wants_session == (statement == "SELECT app.dblink_connect('a', 'b')")


@pytest.mark.parametrize(
    "statement",
    ["DO $$ BEGIN END $$", "CALL p()", "DISCARD PLANS", "EXECUTE p", "DEALLOCATE p", "SELECT 1; DO 'x'", "RESET ALL"],
)
def test_what_only_a_reset_knows_of_is_not_told_by_the_text(statement: str) -> None:
    assert use_of(statement.encode()) is NOTHING
    assert left_by(NOTHING) is UNSEEN


@pytest.mark.parametrize(
    ("statement", "wants_no_transaction"),
    [
        ("SELECT setseed(0.5)", True),
        ("SELECT pg_catalog . setseed (\0)", True),
        ("SELECT pg_advisory_unlock(1)", False),
        ("SELECT * FROM PG_ADVISORY_UNLOCK_SHARED(\0, 2)", False),
        ("SELECT currval('s')", False),
        ("SELECT * FROM t WHERE id = LASTVAL()", False),
        ('SELECT "currval"(\0)', False),
    ],
)
def test_what_a_session_remembers_is_asked_for_in_one(statement: str, wants_no_transaction: bool) -> None:
    found = use_of(statement.encode())
    assert (found.wants_session, found.wants_no_transaction) == (True, wants_no_transaction)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT nextval('s'), currval('s')",
        "SELECT pg_catalog.nextval('s'), LASTVAL()",
        "WITH n AS (SELECT nextval('s')) SELECT currval('s') FROM n",
        "INSERT INTO t SELECT currval('s') FROM (SELECT nextval('s')) AS n",
        "INSERT INTO t (a) VALUES (1) RETURNING currval('t_id_seq')",
        "INSERT INTO t (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET b = LASTVAL()",
        "WITH i AS (INSERT INTO t (a) VALUES (1) RETURNING id) SELECT currval('t_id_seq') FROM i",
        "SELECT pg_advisory_lock(1), pg_advisory_unlock(1)",
        "WITH l AS MATERIALIZED (SELECT pg_advisory_lock(1)) SELECT pg_advisory_unlock_all() FROM l",
        "SELECT setseed(0.5), random()",
        "WITH s AS MATERIALIZED (SELECT setseed(0.5)) SELECT random() FROM s, generate_series(1, 3)",
    ],
)
def test_a_statement_that_does_itself_what_it_wants_needs_no_other(statement: str) -> None:
    found = use_of(statement.encode())
    assert not found.wants_session
    assert left_by(found) is not NOTHING, "it is reset"
    world = World()
    world.client()
    for request in (
        world.query(statement=statement.encode()),
        world.transaction(step(statement.encode())),
    ):
        world.connect_all()
        assert not world.is_answered(request), "it runs"


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT currval('s'), 'nextval('",
        "SELECT nextval('s'); LISTEN a",
        "LISTEN a",
        "SELECT nextval('s'), currval('s'), pg_advisory_lock(1)",
        "INSERT INTO t (a) VALUES (currval('s')) RETURNING id",
        "SELECT setseed(0.5), pg_advisory_unlock(1), currval('s'), nextval('s')",
        "SELECT random(), pg_advisory_lock(1)",
    ],
)
def test_another_need_is_not_met_by_that(statement: str) -> None:
    assert use_of(statement.encode()).wants_session == (";" not in statement)


def test_what_is_wanted_is_named_before_what_is_only_left() -> None:
    found = use_of(b"SELECT nextval('s'), currval('s'), pg_advisory_lock(1)")
    assert (found.leaves, found.wants_session) == ("an advisory lock", True)


@pytest.mark.parametrize("function", ["currval('s')", "lastval()", "setseed(0.5)"])
def test_it_is_refused_outside_of_a_lease_and_setseed_outside_of_a_session(function: str) -> None:
    world = World()
    world.client()
    sql = b"SELECT " + function.encode()
    assert refused(world, world.query(statement=sql)).kind == "usage"
    assert world.is_answered(world.transaction(step(b"INSERT INTO t"), step(sql))) is function.startswith("setseed")
    world.connect_all()
    in_transaction = world.query(1, "tx", lease=1, begin=True, statement=sql)
    world.connect_all()
    assert world.is_answered(in_transaction) is function.startswith("setseed")
    world.query(lease=2, session=OPENS_SESSION, statement=sql)
    world.connect_all()
    assert [sql] in sent(world)


@pytest.mark.parametrize(
    "statements",
    [
        [b"SELECT pg_advisory_lock(\0)"],
        [b"SELECT pg_advisory_lock(\0)"] * 3,
        [b"LISTEN a", b"LISTEN b"],
        [b"SET work_mem = 1"],
        [b"CREATE TEMP TABLE t ()", b"SELECT lastval()"],
        [b"SELECT pg_advisory_unlock(\0)"],
        [b"SELECT pg_advisory_lock(\0)", b"SET a.b = 1"],
    ],
)
def test_a_transaction_of_nothing_else_is_refused(statements: list[bytes]) -> None:
    world = World()
    world.client()
    failure = refused(world, world.transaction(*map(step, statements)))
    assert (failure.kind, failure.outcome) == ("usage", NOT_EXECUTED)
    assert "nothing else in the transaction goes with this" in failure.message
    assert not world.is_answered(world.transaction(*map(step, statements), step(b"SELECT 1")))


@pytest.mark.parametrize("function", ["pg_advisory_lock", "pg_try_advisory_lock_shared"])
def test_a_transaction_that_takes_a_lock_and_gives_it_back_runs(function: str) -> None:
    world = World()
    world.client()
    lock = b"SELECT %b(1)" % function.encode()
    assert not world.is_answered(world.transaction(step(lock), step(b"SELECT pg_advisory_unlock(1)")))


def test_who_asks_for_a_sequences_value_is_told_how_to_get_it() -> None:
    world = World()
    world.client()
    text = refused(world, world.query(statement=b"SELECT lastval()")).message
    for words in ("nextval() gave last in the same session", "RETURNING", "one transaction", "db.session() block"):
        assert words in text


def test_several_statements_in_one_string_make_sense_together() -> None:
    found = use_of(b"SET search_path = a; SELECT 1; PREPARE p AS SELECT 2")
    assert (found.leaves, found.wants_session) == ("a setting", False)


def test_what_is_too_long_to_be_read_may_leave_anything() -> None:
    assert use_of(b"SELECT pg_catalog.temp(" + b"+a" * MAX_TOKENS + b")") is UNSEEN


def test_a_reset_takes_away_what_was_left_and_keeps_the_brokers_own_names() -> None:
    first, second = (sql_of(unit) for unit in reset(UNSEEN, in_transaction=False, seed=-0.25))
    assert first == b"RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL"
    for words in (b"CLOSE ALL", b"UNLISTEN *", b"pg_advisory_unlock_all()", b"DISCARD TEMP", b"DISCARD SEQUENCES"):
        assert words in second
    assert b"setseed('-0.25')" in second, "a sign without quotes would be an operator"
    assert b"DEALLOCATE" not in first + second


def test_a_reset_inside_a_transaction_rolls_it_back_first() -> None:
    first, second = (sql_of(unit) for unit in reset(UNSEEN, in_transaction=True, seed=0.0))
    assert first.startswith(b"ROLLBACK; RESET")
    assert b"ROLLBACK" not in second


def test_names_are_counted_last() -> None:
    _, second = reset(UNSEEN, in_transaction=False, seed=0.0)
    assert sql_of(second).endswith(b"FROM pg_catalog.pg_prepared_statement()")


def test_what_is_lasting_cannot_be_reset() -> None:
    assert reset(use_of(b"LOAD 'a'"), in_transaction=False, seed=0.0) == ()


# In the broker: nobody else finds it.

SET = b"SET search_path = a"
CALL = b"CALL p()"


def refused(world: World, request: int, client: int = 1) -> Failure:
    reply = world.reply_to(request, client)
    assert isinstance(reply, Failure)
    return reply


def resets(world: World, backend: int) -> list[bytes]:
    return [unit[0] for unit in sent(world, backend) if b"RESET ALL" in unit[0]]


def reset_ends(world: World, backend: int) -> None:
    """Both units of the reset end; where names are counted, they are as before."""
    count = b"0 %d" % len(world.broker.backends[backend].prepared)
    world.complete(backend)
    world.broker.completed(backend, Completion(TX_NONE, [table({"concat": 25}, [count])]), world.now)


def finish(world: World, request: int, transaction: str = TX_NONE) -> int:
    backend = world.running(request)
    world.complete(backend, transaction)
    return backend


@pytest.mark.parametrize(
    "statement", [b"SET a.b = 1", b"LISTEN a", b"CREATE TEMP TABLE t (a int)", b"SELECT pg_advisory_lock(1)"]
)
def test_in_an_autocommit_group_it_is_refused_with_the_way(statement: bytes) -> None:
    world = World()
    world.client()
    failed = refused(world, world.query(statement=statement))
    assert (failed.kind, failed.outcome) == ("usage", NOT_EXECUTED)
    assert "db.session()" in failed.message
    assert world.taken(effects.Execute) == []


def test_behind_what_nobody_has_proven_the_backend_is_reset_before_the_next_client() -> None:
    world = World(max_size=1, shows_resets=True)
    world.client()
    world.client(2)
    request, waiting = world.query(statement=CALL), world.query(2)
    world.connect_all()
    backend = finish(world, request)
    assert world.outcome(request) == OK, "its client does not wait for the reset"
    assert world.state(backend) is S.RESETTING
    assert len(resets(world, backend)) == 1
    reset_ends(world, backend)
    assert world.running(waiting) == backend
    world.complete(backend)
    assert len(resets(world, backend)) == 2, "a plain SELECT may have called anything as well"


def test_a_setting_that_postgresql_reports_is_taken_away_and_its_statement_no_longer_believed() -> None:
    world = World(max_size=1, prepare="auto", shows_resets=True)
    world.client()
    statement = promote(world, SHORT, is_short=True)
    request = world.query(statement=SHORT)
    world.connect_all()
    backend = world.running(request)
    world.broker.completed(backend, Completion(TX_NONE, [OK], is_changed=True), world.now)
    assert world.outcome(request) == OK
    assert len(resets(world, backend)) == 1
    reset_ends(world, backend)
    again, behind = world.query(statement=SHORT), world.query(statement=SHORT)
    assert world.running(again) == backend
    assert sent(world, backend)[-1] == [SHORT]
    assert not any(each.number == behind for b in world.broker.backends.values() for each in b.running)
    assert statement.state is StatementState.REFUSED


@pytest.mark.parametrize("unit", [0, 1])
@pytest.mark.parametrize(
    "done", [Completion(TX_NONE, [], failure("0A000")), Completion(TX_NONE, [OK], is_changed=True)], ids=repr
)
def test_a_reset_that_fails_or_changes_nothing_closes_the_backend(unit: int, done: Completion) -> None:
    world = World(max_size=1, shows_resets=True)
    world.client()
    request = world.query(statement=CALL)
    world.connect_all()
    backend = finish(world, request)
    waiting = world.query()
    for _ in range(unit):
        world.complete(backend)
    world.broker.completed(backend, done, world.now)
    (closed,) = world.taken(effects.Close)
    assert (closed.backend, closed.reason) == (backend, "its reset failed")
    world.broker.completed(backend, done, world.now)  # the other unit's answer was on its way
    world.connect_all()
    assert world.running(waiting) != backend


@pytest.mark.parametrize("unit", [0, 1])
def test_a_reset_that_does_not_end_is_given_up(unit: int) -> None:
    world = World(max_size=1, shows_resets=True)
    world.client()
    request = world.query(statement=CALL)
    world.connect_all()
    backend = finish(world, request)
    for _ in range(unit):
        world.complete(backend)
    world.pass_time(RESET_TIMEOUT)
    assert [each.backend for each in world.taken(effects.Close)] == [backend]


@pytest.mark.parametrize("unit", [0, 1])
def test_a_backend_lost_during_its_reset_is_nobodys_loss(unit: int) -> None:
    world = World(max_size=1, shows_resets=True)
    world.client()
    request = world.query(statement=CALL)
    world.connect_all()
    backend = finish(world, request)
    waiting = world.query()
    for _ in range(unit):
        world.complete(backend)
    world.broker.lost(backend, Loss("reset by peer"), world.now)
    world.connect_all()
    finish(world, waiting)
    assert world.outcome(request) == world.outcome(waiting) == OK


# What the last result of a reset tells: names made by PREPARE, and all of them.


def in_lease_with_a_name(**over: Any) -> tuple[World, int]:
    """A lease's backend on which the broker holds two names, its transaction's own among them."""
    world = World(prepare="auto", shows_resets=True, max_size=1, **over)
    world.client()
    promote(world, SHORT, group="tx")
    request = world.query(1, "tx", lease=1, begin=True, statement=SHORT)
    world.connect_all()
    backend = world.running(request)
    answer(world, backend)
    assert len(world.broker.backends[backend].prepared) == 2
    return world, backend


def end_with(world: World, backend: int, sql: bytes) -> None:
    """The lease runs this and is committed; the first unit of the reset has ended."""
    world.query(1, "tx", lease=1, statement=sql)
    world.complete(backend, TX_ACTIVE)
    world.end(Commit, 1)
    world.complete(backend)
    assert len(resets(world, backend)) == 1
    world.complete(backend)


@pytest.mark.parametrize("sql", [b"PREPARE p AS SELECT 1", CALL, b"DO 'x'"])
@pytest.mark.parametrize("held", [b"1 3", b"1 2", b"0 1", b"0 0", b""])
def test_names_that_are_others_than_before_all_go(sql: bytes, held: bytes) -> None:
    world, backend = in_lease_with_a_name()
    end_with(world, backend, sql)
    world.broker.completed(backend, Completion(TX_NONE, [table({"concat": 25}, [held])]), world.now)
    assert sent(world, backend)[-1] == [b"DEALLOCATE ALL"]
    assert world.state(backend) is S.RESETTING
    world.complete(backend)
    assert world.state(backend) is S.IDLE
    assert len(world.broker.backends[backend].prepared) == 0


def test_names_that_are_as_before_are_kept() -> None:
    world, backend = in_lease_with_a_name()
    end_with(world, backend, CALL)
    world.broker.completed(backend, Completion(TX_NONE, [table({"concat": 25}, [b"0 2"])]), world.now)
    assert world.state(backend) is S.IDLE
    assert len(world.broker.backends[backend].prepared) == 2


def test_a_backend_whose_names_cannot_be_dropped_is_closed() -> None:
    world, backend = in_lease_with_a_name()
    end_with(world, backend, CALL)
    world.broker.completed(backend, Completion(TX_NONE, [table({"concat": 25}, [b"1 3"])]), world.now)
    world.broker.completed(backend, Completion(TX_NONE, [], failure("53200")), world.now)
    assert [each.reason for each in world.taken(effects.Close)] == ["its reset failed"]


def test_a_group_with_names_of_its_own_gets_a_new_backend_where_there_are_others() -> None:
    world = World(sqlprepare=True, shows_resets=True)
    world.client()
    request = world.query(statement=b"DO 'x'")
    (backend,) = world.broker.backends
    world.broker.opened(backend, world.now, Server(160000, names=3))
    world.finish(request)
    world.complete(backend)
    world.complete(backend, reply=table({"concat": 25}, [b"4 4"]))
    assert [each.backend for each in world.taken(effects.Close)] == [backend]


# Who ends with something left.


def test_what_a_transaction_set_is_reset_after_it_and_nothing_runs_prepared_in_it() -> None:
    world = World(prepare="auto", shows_resets=True)
    world.client()
    promote(world, SHORT, group="tx")
    backend = world.begin(lease=1)
    world.query(1, "tx", lease=1, statement=SET)
    world.complete(backend, TX_ACTIVE)
    world.query(1, "tx", lease=1, statement=SHORT)
    assert sent(world, backend)[-1] == [SHORT]
    assert type(current_unit(world, backend)[0]) is effects.SimpleQuery
    world.complete(backend, TX_ACTIVE)
    world.end(Rollback, 1)
    assert resets(world, backend) == [], "not before the ROLLBACK has ended"
    world.complete(backend)
    assert len(resets(world, backend)) == 1


def test_what_a_message_set_is_reset_after_it() -> None:
    world = World(track_outcome=False, shows_resets=True)
    request, backend = begin(world, step(SET), INSERT)
    answer(world, backend)
    committed(world, request)
    assert len(resets(world, backend)) == 1
    reset_ends(world, backend)
    assert world.state(backend) is S.IDLE


def test_a_message_of_which_all_is_proven_needs_no_reset() -> None:
    world = World(prepare="auto", track_outcome=False, shows_resets=True)
    promote(world, b"INSERT 1", proof=Proof(is_harmless=True))
    request, backend = begin(world, INSERT, INSERT)
    answer(world, backend)
    committed(world, request)
    assert world.state(backend) is S.IDLE


def test_a_message_that_failed_is_reset_as_well() -> None:
    world = World(track_outcome=False, shows_resets=True)
    request, backend = begin(world, READ, INSERT)
    answer(world, backend, fails=b"INSERT 1")
    assert sent(world, backend)[-1] == [b"ROLLBACK"]
    answer(world, backend)
    assert world.is_answered(request)
    assert len(resets(world, backend)) == 1


def test_a_library_stays_as_long_as_its_connection() -> None:
    world = World(track_outcome=False)
    request, backend = begin(world, step(b"LOAD 'a'"), READ)
    answer(world, backend)
    committed(world, request)
    assert [each.backend for each in world.taken(effects.Close)] == [backend]


def test_a_client_that_dies_with_things_left_open_leaves_a_clean_backend() -> None:
    world = World(shows_resets=True)
    world.client()
    backend = world.begin(lease=1)
    world.query(1, "tx", lease=1, statement=SET)
    world.complete(backend, TX_ACTIVE)
    world.broker.client_gone(1, world.now)
    assert resets(world, backend)[0].startswith(b"ROLLBACK; RESET SESSION")
    reset_ends(world, backend)
    assert world.state(backend) is S.IDLE


def test_a_client_that_dies_while_its_statement_runs_leaves_a_clean_backend() -> None:
    world = World(shows_resets=True)
    world.client()
    request = world.query()
    world.connect_all()
    backend = world.running(request)
    world.broker.client_gone(1, world.now)
    world.broker.completed(backend, Completion(TX_NONE, [], failure("57014")), world.now)
    assert resets(world, backend) == [], "the cancel may still hit"
    world.broker.cancelled(backend, world.now)
    assert len(resets(world, backend)) == 1
    reset_ends(world, backend)
    assert world.state(backend) is S.IDLE


def test_a_transaction_of_proven_statements_is_only_rolled_back() -> None:
    world, backend = in_lease_with_a_name()
    world.broker.client_gone(1, world.now)
    assert sent(world, backend)[-1] == [b"ROLLBACK"]
    world.complete(backend)
    assert world.state(backend) is S.IDLE
    assert len(world.broker.backends[backend].prepared) == 2


# Sessions.


def session(world: World, lease: int = 1, client: int = 1, group: str = "default", **over: Any) -> int:
    """A session whose first statement has ended; returns its backend."""
    request = world.query(client, group, lease=lease, session=OPENS_SESSION, **over)
    world.connect_all()
    return finish(world, request, TX_ACTIVE if over.get("begin") else TX_NONE)


def ask(world: World, lease: int = 1, group: str = "default", **over: Any) -> int:
    return world.query(1, group, lease=lease, session=IN_SESSION, **over)


def release(world: World, lease: int = 1, client: int = 1) -> int:
    world._last_request += 1
    world.broker.request(client, Release(world._last_request, lease), world.now)
    return world._last_request


def test_a_session_keeps_its_backend_over_statements_and_transactions() -> None:
    world = World(max_size=2)
    world.client()
    backend = session(world, statement=SET)
    assert world.state(backend) is S.LEASED
    for statement, transaction in ((b"SELECT 1", TX_NONE), (b"BEGIN", TX_ACTIVE), (b"COMMIT", TX_NONE)):
        request = ask(world, statement=statement)
        assert finish(world, request, transaction) == backend
        assert world.state(backend) is S.LEASED
    assert resets(world, backend) == []


def test_a_released_session_is_reset_before_anybody_else_has_its_backend() -> None:
    world = World(max_size=1, shows_resets=True)
    world.client()
    world.client(2)
    backend = session(world, statement=SET)
    waiting = world.query(2)
    released = world.reply_to(release(world))
    assert isinstance(released, ResultMessage)
    assert released.transaction == TX_NONE
    assert len(resets(world, backend)) == 1
    assert not world.is_answered(waiting, 2)
    reset_ends(world, backend)
    assert world.running(waiting) == backend


def test_a_session_that_left_nothing_needs_no_reset() -> None:
    world = World(max_size=1, prepare="auto", shows_resets=True)
    world.client()
    promote(world, SHORT)
    backend = session(world, statement=SHORT)
    release(world)
    assert world.state(backend) is S.IDLE


def test_a_transaction_open_at_the_release_is_rolled_back() -> None:
    world = World(max_size=1)
    world.client()
    backend = session(world)
    finish(world, ask(world, statement=b"BEGIN"), TX_ACTIVE)
    release(world)
    assert sent(world, backend)[-1] == [b"ROLLBACK"]


def test_in_a_group_of_transactions_each_begins_and_the_session_goes_on() -> None:
    world = World()
    world.client()
    backend = session(world, group="tx", begin=True)
    assert sent(world, backend) == [[b"BEGIN"], [b"SELECT 1"]]
    world.end(Commit, 1)
    world.complete(backend)
    assert world.state(backend) is S.LEASED
    finish(world, ask(world, group="tx", begin=True), TX_ACTIVE)
    assert sent(world, backend)[-2:] == [[b"BEGIN"], [b"SELECT 1"]]
    world.end(Rollback, 1)
    world.complete(backend)
    assert world.state(backend) is S.LEASED


def test_a_release_withdraws_what_still_runs_and_what_waits() -> None:
    world = World(max_size=1)
    world.client()
    backend = session(world)
    running, waiting = ask(world), ask(world)
    release(world)
    assert refused(world, waiting).kind == "transaction-lost"
    assert world.taken(effects.Cancel) == [effects.Cancel(backend)]
    world.complete(backend, reply=failure("57014"))
    world.broker.cancelled(backend, world.now)
    assert refused(world, running).sqlstate == "57014"
    assert world.state(backend) is S.IDLE


@pytest.mark.parametrize("group", ["default", "tx"])
def test_what_leaves_a_session_unexecuted_is_told_the_transaction_as_it_is(group: str) -> None:
    """In a group of transactions the next statement would else run outside of one."""
    world = World(max_size=1)
    world.client()
    is_tx = group == "tx"
    backend = session(world, group=group, begin=is_tx)
    if is_tx:
        world.end(Rollback, 1)
        world.complete(backend)
    cancelled = ask(world, group=group, begin=is_tx)
    world.broker.cancel(1, cancelled, world.now)
    world.broker.completed(backend, Completion(TX_NONE, [], failure("57014")), world.now)
    assert world.state(backend) is S.SETTLING
    waiting = ask(world, group=group, begin=is_tx)
    world.broker.cancel(1, waiting, world.now)
    assert refused(world, waiting).transaction == TX_NONE


def test_what_leaves_a_session_behind_one_that_begins_a_transaction_is_told_of_that() -> None:
    world = World(max_size=1)
    world.client()
    session(world, group="tx", begin=True)
    world.end(Rollback, 1)
    world.complete(1)
    ask(world, group="tx", begin=True)
    waiting = ask(world, group="tx")
    world.broker.cancel(1, waiting, world.now)
    assert refused(world, waiting).transaction == TX_ACTIVE


def test_a_session_that_never_got_a_backend_can_be_released() -> None:
    world = World(max_size=1)
    world.client()
    busy = world.query()
    world.connect_all()
    opening = world.query(lease=1, session=OPENS_SESSION)
    release(world)
    assert refused(world, opening).kind == "transaction-lost"
    finish(world, busy)
    assert world.broker.clients[1].leases == {}


def test_a_session_that_is_gone_is_not_opened_again_unseen() -> None:
    world = World()
    world.client()
    backend = session(world)
    world.broker.lost(backend, Loss("reset by peer"), world.now)
    for request in (ask(world), ask(world, begin=True)):
        failed = refused(world, request)
        assert (failed.kind, failed.outcome, failed.transaction) == ("transaction-lost", NOT_EXECUTED, TX_LOST)
        assert "reset by peer" in failed.message
        assert "session" in failed.message
    assert isinstance(world.reply_to(release(world)), ResultMessage)
    assert "had ended" in refused(world, ask(world)).message


def test_a_lost_session_whose_loss_is_known_commits_nothing() -> None:
    world = World()
    world.client()
    world.broker.lost(session(world), Loss("reset by peer"), world.now)
    for _ in range(2):
        assert isinstance(world.reply_to(world.end(Rollback, lease=1)), ResultMessage)
        for request in (ask(world), world.end(Commit, lease=1)):
            failed = refused(world, request)
            assert (failed.kind, failed.outcome, failed.transaction) == ("transaction-lost", NOT_EXECUTED, TX_LOST)
            assert "session" in failed.message
    release(world)
    assert not world.broker.clients[1].lost_leases
    assert not world.broker.clients[1].lost_sessions


def test_a_statement_of_a_session_whose_backend_is_lost_may_have_taken_effect() -> None:
    world = World()
    world.client()
    backend = session(world)
    request = ask(world, statement=b"INSERT 1")
    world.take()
    world.broker.lost(backend, Loss("reset by peer"), world.now)
    failed = refused(world, request)
    assert (failed.outcome, failed.transaction) == (UNKNOWN, TX_LOST)


def test_inside_a_transaction_of_a_session_it_certainly_has_not() -> None:
    world = World()
    world.client()
    backend = session(world)
    finish(world, ask(world, statement=b"BEGIN"), TX_ACTIVE)
    request = ask(world, statement=b"INSERT 1")
    world.take()
    world.broker.lost(backend, Loss("reset by peer"), world.now)
    assert refused(world, request).outcome == NOT_EXECUTED


def test_a_session_is_bounded_as_every_lease_is() -> None:
    for limit in ("idle_in_transaction_timeout", "lease_timeout"):
        world = World(shows_resets=True, **{"idle_in_transaction_timeout": 0.0, "lease_timeout": 0.0, limit: 3.0})
        world.client()
        backend = session(world, statement=SET)
        world.pass_time(3.0)
        assert len(resets(world, backend)) == 1
        assert limit in refused(world, ask(world)).message


def test_a_session_whose_connection_becomes_unusable_is_lost() -> None:
    world = World()
    world.client()
    session(world)
    finish(world, ask(world), TX_BROKEN)
    assert refused(world, ask(world)).kind == "transaction-lost"


def test_what_waits_in_a_session_that_becomes_unusable_does_not_wait_for_a_cancel_to_settle() -> None:
    world = World()
    world.client()
    backend = session(world)
    first, second = ask(world), ask(world)
    world.broker.cancel(1, first, world.now)
    finish(world, first, TX_BROKEN)
    assert world.state(backend) is S.SETTLING
    assert refused(world, second).kind == "transaction-lost"


def test_what_a_statement_did_is_told_though_its_session_was_released_and_its_connection_is_unusable() -> None:
    world = World()
    world.client()
    backend = session(world)
    request = ask(world)
    release(world)
    broken = Failure(0, TX_BROKEN, "usage", EXECUTED, "changed DateStyle", None, {})
    world.broker.completed(backend, Completion(TX_BROKEN, [OK], broken), world.now)
    failed = refused(world, request)
    assert (failed.kind, failed.outcome, failed.transaction) == ("usage", EXECUTED, TX_LOST)


def test_a_lease_is_what_it_was_opened_as() -> None:
    world = World()
    world.client()
    session(world)
    world.begin(lease=2)
    for request in (
        world.query(1, "tx", lease=1),
        world.query(1, "tx", lease=2, session=IN_SESSION),
        release(world, 2),
        world.query(1, "default", lease=0, session=OPENS_SESSION),
    ):
        assert refused(world, request).kind in ("usage", "protocol")
