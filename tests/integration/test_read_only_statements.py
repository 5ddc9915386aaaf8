"""What is said to be read-only writes nothing, whatever it is, where there is no replica to refuse it."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2.errors
import pytest
from brokers import Broker
from postgres import Postgres

from client.errors import UsageError

WRITES = [
    "INSERT INTO written VALUES (2)",
    "WITH new AS (INSERT INTO written VALUES (2) RETURNING id) SELECT * FROM new",
    "EXPLAIN ANALYZE INSERT INTO written VALUES (2)",
    "DO $$ BEGIN INSERT INTO written VALUES (2); END $$",
    "CALL write_it()",
    "SELECT written_by_function()",
    "TRUNCATE written",
    "DROP TABLE written",
    "ALTER TABLE written ADD COLUMN more int",
    "CREATE TABLE written_too (id int)",
    "CREATE TABLE written_too AS SELECT 1 AS id",
    "CREATE INDEX ON written (id)",
    "CREATE INDEX CONCURRENTLY ON written (id)",
    "CREATE DATABASE written_database",
    "GRANT SELECT ON written TO public",
    "COMMENT ON TABLE written IS 'more'",
    "SELECT id FROM written FOR UPDATE",
]


@pytest.fixture(scope="module")
def written(postgres: Postgres) -> Iterator[Postgres]:
    """A server with a table that holds 1, a procedure and a function that write there."""
    postgres.execute("CREATE TABLE written (id int)")
    postgres.execute("INSERT INTO written VALUES (1)")
    postgres.execute("CREATE PROCEDURE write_it() LANGUAGE sql AS $$ INSERT INTO written VALUES (2) $$")
    body = "$$ INSERT INTO written VALUES (2) RETURNING id $$"
    postgres.execute(f"CREATE FUNCTION written_by_function() RETURNS int LANGUAGE sql AS {body}")
    yield postgres
    postgres.execute("DROP FUNCTION written_by_function; DROP PROCEDURE write_it; DROP TABLE written")


@pytest.fixture(scope="module", params=["one endpoint", "two addresses of the primary"])
def broker_of(request: pytest.FixtureRequest, written: Postgres) -> Iterator[Broker]:
    names = ("a",) if request.param == "one endpoint" else ("a", "b")
    with closing(Broker(dict.fromkeys(names, written.parameters), {"default": {"max_size": 2}})) as broker:
        yield broker.start()


@pytest.mark.parametrize("statement", WRITES)
def test_it_writes_nothing(broker_of: Broker, written: Postgres, statement: str) -> None:
    reader = broker_of.handler(read_only=True)
    for _ in range(2):
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            reader.query(statement)
    assert written.execute("SELECT array_agg(id), obj_description('written'::regclass) FROM written") == [([1], None)]
    assert written.execute("SELECT count(*) FROM pg_class WHERE relname IN ('written_too', 'written_id_idx')") == [(0,)]


def test_several_statements_are_refused_with_the_reason(broker_of: Broker) -> None:
    with pytest.raises(UsageError, match="this string holds several statements"):
        broker_of.handler(read_only=True).query("SELECT 1; INSERT INTO written VALUES (2)")


def test_whoever_comes_next_may_write(broker_of: Broker, written: Postgres) -> None:
    db: Any = broker_of.handler()
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        db.query("TRUNCATE written", read_only=True)
    assert db.query("SHOW default_transaction_read_only").fetchone() == ("off",)
    assert db.query("SELECT count(*) FROM written", read_only=True).fetchone() == (1,)
