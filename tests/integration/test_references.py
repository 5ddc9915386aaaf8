"""Array columns used by reference in a transaction block: as a program binds them that read them with psycopg2."""

from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from postgres import Postgres
from psycopg2 import extensions

from client import Handler

SCHEMA = "references_test"


@pytest.fixture(scope="module", autouse=True)
def types(postgres: Postgres) -> Iterator[None]:
    postgres.execute(
        f"CREATE SCHEMA {SCHEMA}; CREATE TYPE {SCHEMA}.mood AS ENUM ('ok', 'sad'); "
        f"CREATE DOMAIN {SCHEMA}.word AS text; CREATE DOMAIN {SCHEMA}.words AS text[]"
    )
    yield
    postgres.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


@pytest.fixture
def direct(postgres: Postgres) -> Iterator[extensions.connection]:
    connection = postgres.connect()
    yield connection
    connection.close()


def code_or(call: Any) -> Any:
    """What the call gives, or the SQLSTATE of its error."""
    try:
        return call()
    except psycopg2.Error as error:
        return error.pgcode or repr(error)


ARRAYS = [
    ("text[]", "{a,NULL}"), ("varchar[]", "{a,b}"), ("varchar(3)[]", "{{a,b},{c,d}}"), ("varchar[]", "[0:1]={a,b}"),
    ("varchar[]", "{}"), ("varchar[]", "{NULL}"), ("char(3)[]", "{a,b}"), ("name[]", '{"a b",c}'),
    ('"char"[]', "{a,b}"),
    ("inet[]", "{1.2.3.4,10.0.0.0/8}"), ("inet[]", "{}"), ("cidr[]", "{10.0.0.0/8}"),
    ("macaddr[]", "{08:00:2b:01:02:03}"), (f"{SCHEMA}.mood[]", "{ok,sad}"), (f"{SCHEMA}.word[]", "{a,b}"),
    (f"{SCHEMA}.words", "{a,b}"), ("int2vector", "1 2"), ("oidvector", "1 2"), ("oid[]", "{1,2}"),
    ("oid[]", "{4000000000}"), ("int4[]", "{1,2}"), ("date[]", "{2024-01-02}"),
]  # fmt: skip
USES = [
    "SELECT pg_typeof(%s)::text",
    "INSERT INTO {table} VALUES (%s) RETURNING a::text",
    "SELECT a::text FROM {table} WHERE a = %s",
    "SELECT it::text FROM unnest(%s) AS it",
]


@pytest.mark.parametrize(("kind", "value"), ARRAYS)
def test_an_array_column_is_bound_as_what_psycopg2_reads(
    db: Handler, direct: extensions.connection, postgres: Postgres, kind: str, value: str
) -> None:
    table = f"{SCHEMA}.holder"
    postgres.execute(f"DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (a {kind})")
    source = f"SELECT %s::{kind} AS a"
    cursor = direct.cursor()

    def ours(use: str) -> list[Any]:
        with db.transaction() as tx:
            found = tx.query(source, (value,))
            result = tx.query(use, (found["a"],))
        return [tuple(row) for row in result]

    def theirs(use: str) -> list[Any]:
        cursor.execute(source, (value,))
        cursor.execute(use, cursor.fetchone())
        return cursor.fetchall()

    for use in USES:
        wanted = use.format(table=table)
        assert code_or(lambda wanted=wanted: ours(wanted)) == code_or(lambda wanted=wanted: theirs(wanted)), use


@pytest.mark.parametrize("kind", ["varchar[]", "int4[]", "name[]"])
def test_a_column_of_arrays_is_an_array_with_one_more_dimension(
    db: Handler, direct: extensions.connection, kind: str
) -> None:
    source, use = f"VALUES ('{{1,2}}'::{kind}), ('{{3,4}}')", "SELECT pg_typeof(%s)::text, %s::text"
    cursor = direct.cursor()
    cursor.execute(source)
    lists = [row[0] for row in cursor.fetchall()]
    cursor.execute(use, (lists, lists))
    with db.transaction() as tx:
        found = tx.query(source).column(0)
        result = tx.query(use, (found, found))
    assert result.fetchall() == cursor.fetchall()


def test_a_description_names_the_table_of_each_column_as_in_psycopg2(
    db: Handler, direct: extensions.connection, postgres: Postgres
) -> None:
    postgres.execute(f"CREATE TABLE {SCHEMA}.described (a int, b {SCHEMA}.word, c numeric(7, 2))")
    statement = f"SELECT c, b, a + 1 AS sum, a, %s AS it FROM {SCHEMA}.described"
    cursor = direct.cursor()
    cursor.execute(statement, (1,))
    assert cursor.description is not None
    right = [(*each, each.table_oid, each.table_column) for each in cursor.description]
    for _ in range(12):  # with literals and prepared
        description = db.query(statement, (1,)).description
        assert description is not None
        assert [(*each, each.table_oid, each.table_column) for each in description] == right
        assert [len(each) for each in description] == [7] * 5
