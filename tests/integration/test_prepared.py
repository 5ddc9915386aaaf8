"""Prepared statements outlive what they were made for: tables change, sessions forget. Nobody must notice.

Everything is compared with what psycopg2 would do, which prepares nothing and so has nothing to get wrong.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import psycopg2.errors
import pytest
from brokers import Broker
from postgres import Postgres
from ways import RUNS, Ways

import client

SCHEMA = "prepared_test"
GROUPS = {
    "default": {"max_size": 1},
    "leases": {"max_size": 1, "autocommit": False},
    "pair": {"min_size": 2, "max_size": 2},
    "never": {"max_size": 1, "prepare": "off"},
}
KINDS = ["query", "transaction", "lease"]
NUMBERS = itertools.count()


def tables(postgres: Postgres) -> None:
    """An empty schema with a table in it."""
    postgres.execute(
        f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE; CREATE SCHEMA {SCHEMA}; SET search_path = {SCHEMA};"
        " CREATE TABLE it (id int PRIMARY KEY, x int); INSERT INTO it VALUES (1, 10), (2, 20)"
    )


def broker_for(postgres: Postgres) -> Iterator[Broker]:
    tables(postgres)
    made = Broker({"main": {**postgres.parameters, "options": f"-c search_path={SCHEMA}"}}, GROUPS)
    try:
        yield made.start()
    finally:
        made.close()
        postgres.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


shared_broker = pytest.fixture(broker_for, scope="module", name="shared_broker")
own_broker = pytest.fixture(broker_for, name="own_broker")


class Runner:
    """Runs statements as autocommit queries, as one transaction message, or in one lease; gives the last one's rows."""

    def __init__(self, broker: Broker, kind: str) -> None:
        self.kind = kind
        self._db = broker.handler("leases" if kind == "lease" else "default")

    def __call__(self, *statements: Any) -> Any:
        split = [each if isinstance(each, tuple) else (each,) for each in statements]
        if self.kind == "transaction":
            result: Any = self._db.run(split)[-1]
        elif self.kind == "lease":
            with self._db:
                result = [self._db.query(*each) for each in split][-1]
        else:
            result = [self._db.query(*each) for each in split][-1]
        return None if result.description is None else [tuple(row) for row in result]

    def repeat(self, *statements: Any) -> Any:
        """Until all of them are prepared."""
        return [self(*statements) for _ in range(RUNS)][-1]


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest, shared_broker: Broker, postgres: Postgres) -> Runner:
    """A Runner of each kind, and the tables made anew."""
    tables(postgres)
    return Runner(shared_broker, request.param)


@pytest.fixture
def read() -> str:
    """A statement that nobody has sent before."""
    return f"SELECT * FROM it WHERE id = %s /* {next(NUMBERS)} */"


# Sessions forget.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["DEALLOCATE ALL", "DISCARD ALL", "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$"])
def test_a_session_that_forgot_its_statements_is_as_good_as_before(
    own_broker: Broker, read: str, kind: str, how: str
) -> None:
    run, everybody = Runner(own_broker, kind), own_broker.handler()
    assert run.repeat((read, (1,)), "SELECT 1") == [(1,)]
    everybody.run([(read, (1,))])
    if kind == "transaction" and not how.startswith("DO"):
        with pytest.raises(client.UsageError, match="drops what all clients of a backend have prepared"):
            run(how)
    elif how == "DISCARD ALL" and kind == "lease":
        with pytest.raises(psycopg2.errors.ActiveSqlTransaction):
            run(how)
    else:
        run(how)
    for number in (1, 2, 1):
        assert run((read, (number,))) == [(number, 10 * number)]
        assert [tuple(row) for row in everybody.run([(read, (number,)), "SELECT 5"])[0]] == [(number, 10 * number)]
        assert everybody.query(read, (number,))[0].x == 10 * number


def test_no_backend_keeps_more_statements_than_it_should(own_broker: Broker) -> None:
    db = own_broker.handler()
    for number in range(RUNS):
        for place in range(520):
            assert db.query(f"SELECT %s + {place} AS n", (number,))[0].n == number + place
    assert db.query("SELECT count(*) FROM pg_prepared_statements")[0][0] <= 500


def test_a_transaction_of_more_statements_than_a_backend_keeps_is_right_on_every_backend(own_broker: Broker) -> None:
    pair = own_broker.handler("pair")
    for number in range(2 * RUNS):
        results = pair.run([(f"SELECT %s + {place} AS n", (number,)) for place in range(600)])
        assert [result[0].n for result in results] == [number + place for place in range(600)]


def test_whoever_does_not_want_it_gets_nothing_prepared(own_broker: Broker, read: str) -> None:
    db, off, never = own_broker.handler(), own_broker.handler(prepare=False), own_broker.handler("never")
    for _ in range(RUNS):
        assert off.query(read, (1,)).fetchone() == never.query(read, (1,)).fetchone() == (1, 10)
        assert db.query(read + " AND x > %s", (1, 5), prepare=False)[0].x == 10
        off.run([(read, (2,))])
        never.run([(read, (2,), 1)])
    for group in ("default", "never"):
        assert own_broker.group(group)["statements"]["prepared"] == 0
    for _ in range(RUNS):
        assert off.query(read, (1,), prepare=True).fetchone() == (1, 10)
    assert own_broker.group()["statements"]["prepared"] == 1


# Tables change.

CHANGES = [
    ("ALTER TABLE it ALTER x TYPE text", [(1, "10")]),
    ("ALTER TABLE it ADD y text DEFAULT 'new'", [(1, 10, "new")]),
    ("ALTER TABLE it DROP x", [(1,)]),
    ("ALTER TABLE it RENAME x TO z", [(1, 10)]),
    ("ALTER TABLE it ALTER id TYPE int8", [(1, 10)]),
    ("DROP TABLE it; CREATE TABLE it (id text, x text); INSERT INTO it VALUES ('1', 'another')", None),
    ("CREATE INDEX ON it (x)", [(1, 10)]),
    ("ALTER TABLE it RENAME TO old; CREATE VIEW it AS SELECT x AS id, id AS x FROM old", []),
]


@pytest.mark.parametrize(("change", "rows"), CHANGES, ids=[change for change, _ in CHANGES])
def test_a_table_changed_by_somebody_else_is_read_as_it_is(
    postgres: Postgres, run: Runner, read: str, change: str, rows: Any
) -> None:
    assert run.repeat((read, (1,))) == [(1, 10)]
    postgres.execute(f"SET search_path = {SCHEMA}; {change}")
    if rows is None:
        with pytest.raises(psycopg2.errors.UndefinedFunction):
            run((read, (1,)))
        rows = [("1", "another")]
        assert run((read, ("1",))) == rows
        return
    try:
        assert run((read, (1,))) == rows
    except psycopg2.errors.FeatureNotSupported:
        # Within a lease's transaction there is no other try; once it is known, there is no other error.
        assert run.kind == "lease"
    for _ in range(RUNS):
        assert run((read, (1,))) == rows


@pytest.mark.parametrize(("change", "rows"), CHANGES[:5], ids=[change for change, _ in CHANGES[:5]])
def test_a_table_changed_by_the_same_client_is_read_as_it_is(run: Runner, read: str, change: str, rows: Any) -> None:
    assert run.repeat((read, (1,))) == [(1, 10)]
    assert run(change, (read, (1,))) == rows
    assert run.repeat((read, (1,))) == rows


def test_text_goes_into_a_column_of_a_new_type_as_it_is_written(run: Runner) -> None:
    # A prepared statement reads its text by the type that the column had.
    add = f"INSERT INTO it (id, x) VALUES (%s, %s) /* {next(NUMBERS)} */"
    for number in range(10, 10 + RUNS):
        run((add, (number, "007")))
    run("ALTER TABLE it ALTER x TYPE text")
    run((add, (99, "007")))
    assert run("SELECT x FROM it WHERE id = 99") == [("007",)]


def test_a_type_that_was_made_anew_is_known(postgres: Postgres, run: Runner) -> None:
    make = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE moods (mood mood); INSERT INTO moods VALUES ('ok')"
    postgres.execute(f"SET search_path = {SCHEMA}; {make}")
    read = f"SELECT count(*) FROM moods WHERE mood = %s /* {next(NUMBERS)} */"
    assert run.repeat((read, ("ok",))) == [(1,)]
    postgres.execute(f"SET search_path = {SCHEMA}; DROP TABLE moods; DROP TYPE mood; {make}")
    try:
        assert run((read, ("ok",))) == [(1,)]
    except psycopg2.errors.InternalError_:
        assert run.kind == "lease"
    for _ in range(RUNS):
        assert run((read, ("ok",))) == [(1,)]


def test_a_temporary_table_of_each_transaction_is_its_own(run: Runner) -> None:
    if run.kind == "query":
        pytest.skip("there each statement is a transaction")
    for number in range(2 * RUNS):
        rows = run(
            "CREATE TEMP TABLE own (n int) ON COMMIT DROP",
            ("INSERT INTO own SELECT generate_series(1, %s)", (number,)),
            ("SELECT count(*) FROM own WHERE n > %s", (0,)),
        )
        assert rows == [(number,)]


def test_a_temporary_table_hides_another_of_the_same_name(run: Runner) -> None:
    if run.kind == "query":
        pytest.skip("there each statement is a transaction")
    count = ("SELECT count(*) FROM it WHERE id > %s", (0,))
    # The session has a schema for temporary tables from the first one on.
    run.repeat("CREATE TEMP TABLE first (n int) ON COMMIT DROP", count)
    assert run("CREATE TEMP TABLE it (id int) ON COMMIT DROP", count) == [(0,)]
    assert run(count) == [(2,)]


def test_a_search_path_leads_to_the_tables_in_it(own_broker: Broker, postgres: Postgres, read: str) -> None:
    direct = postgres.connect(options=f"-c search_path={SCHEMA}")
    try:
        ways = Ways(own_broker, direct)
        ways.agree(read, (1,))
        postgres.execute(f"CREATE SCHEMA {SCHEMA}_other; CREATE TABLE {SCHEMA}_other.it (id int, other text)")
        for path in (f"{SCHEMA}_other", SCHEMA, f"{SCHEMA}_other, {SCHEMA}"):
            direct.cursor().execute(f"SET search_path = {path}")
            with ways.handler.session() as session:
                session.query(f"SET search_path = {path}")
                Ways(own_broker, direct, session).agree(read, (1,))
            travelling = own_broker.handler(settings={"search_path": path})
            Ways(own_broker, direct, travelling).agree(read, (1,))
        direct.cursor().execute(f"SET search_path = {SCHEMA}")
        ways.agree(read, (1,))
    finally:
        direct.close()
        postgres.execute(f"DROP SCHEMA {SCHEMA}_other CASCADE")


def test_an_error_in_a_transaction_has_the_text_it_has_in_psycopg2(postgres: Postgres, run: Runner) -> None:
    cast = f"SELECT %s::int AS it /* {next(NUMBERS)} */"
    with pytest.raises(psycopg2.errors.InvalidTextRepresentation) as direct:
        postgres.execute(cast, ("x",))
    run.repeat((cast, ("1",)))
    with pytest.raises(psycopg2.errors.InvalidTextRepresentation) as caught:
        run((cast, ("x",)))
    assert isinstance(caught.value, client.DBQueryError)
    assert (caught.value.pgcode, caught.value.outcome) == (direct.value.pgcode, "failed")
    if run.kind == "lease":
        # There is no other try within its transaction, so what PostgreSQL says of the value is all.
        assert caught.value.diag.message_primary == direct.value.diag.message_primary
    else:
        assert str(caught.value).endswith(str(direct.value))
