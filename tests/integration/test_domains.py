"""Domains: their checks may run any code, also while a statement is parsed, and a cast to one depends on who writes it.

A literal of an array or a composite type over a domain is read when the statement is parsed, so whoever parses it runs
the checks. Everything is compared with psycopg2, which prepares nothing and examines nothing.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from brokers import Broker
from postgres import Postgres
from ways import RUNS

SCHEMA = "domains_test"
TABLES = f"""
DROP SCHEMA IF EXISTS {SCHEMA} CASCADE; CREATE SCHEMA {SCHEMA}; SET search_path = {SCHEMA};
CREATE SEQUENCE counted; CREATE TABLE noted (n int);
CREATE FUNCTION does(what text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
    IF what = 'sets' THEN SET work_mem = '2MB'; END IF;
    IF what = 'locks' THEN PERFORM pg_advisory_lock(4711); END IF;
    IF what = 'counts' THEN PERFORM nextval('{SCHEMA}.counted'); END IF;
    IF what = 'writes' THEN INSERT INTO {SCHEMA}.noted VALUES (1); END IF;
    RETURN 1;
END $$;
CREATE FUNCTION compared(int, int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
    SET work_mem = '2MB'; RETURN btint4cmp($1, $2);
END $$;
CREATE OPERATOR CLASS comparing FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=,
    OPERATOR 5 >, FUNCTION 1 compared(int, int);
CREATE TYPE spread AS RANGE (subtype = int, subtype_opclass = comparing);
CREATE DOMAIN sets AS int CHECK (does('sets') = 1);
CREATE DOMAIN locks AS int CHECK (does('locks') = 1);
CREATE DOMAIN counts AS int CHECK (does('counts') = 1);
CREATE DOMAIN writes AS int CHECK (does('writes') = 1);
CREATE TYPE pair AS (a sets, b int);
CREATE TABLE kept (a sets[]);
CREATE DOMAIN code AS varchar(3); CREATE DOMAIN codes AS varchar(3)[]; CREATE DOMAIN inner_code AS code;
CREATE DOMAIN bits AS bit(3); CREATE DOMAIN letters AS char(3); CREATE TYPE coded AS (c code, n int);
CREATE TABLE texts (c code);
"""
CONSTANTS = [
    "SELECT '{1}'::sets[]",
    "SELECT '(1,2)'::pair",
    "SELECT '{\"(1,2)\"}'::pair[]",
    "INSERT INTO kept VALUES ('{1}')",
    "SELECT 1 FROM kept WHERE a = '{1}'",
    "SELECT NULL::sets[] = '{1}'",
    "SELECT 1 WHERE '(1,2)'::pair IS NULL",
    "SELECT '[1,5)'::spread",
    "SELECT '{\"[1,5)\"}'::spread[]",
    "SELECT '{1}'::locks[]",
]
CASTS = {
    "%s::code": "abcd",
    "CAST(%s AS code)": "abcd",
    "(%s)::code": "abcd",
    "%s::inner_code": "abcd",
    "%s::code::text": "abcd",
    "%s::codes": "{abcd}",
    "ARRAY[%s]::code[]": "abcd",
    "%s::bits": "10",
    "%s::bits::text": "10101",
    "%s::letters": "abcd",
    "ROW(%s, 1)::coded": "abcd",
    "coalesce(%s::code, 'x')": "abcd",
    "'abc' IN (%s::code)": "abcd",
    "%s::varchar(3)": "abcd",
}


@pytest.fixture(scope="module")
def broker(postgres: Postgres) -> Iterator[Broker]:
    """A broker with one backend for each group, where names are found in the schema."""
    postgres.execute(TABLES)
    options = f"-c search_path={SCHEMA},public"
    made = Broker({"main": {**postgres.parameters, "options": options}}, {"default": {"max_size": 1}})
    try:
        yield made.start()
    finally:
        made.close()
        postgres.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


def session_of(db: Any) -> Any:
    """What others find in the session: a setting and the locks it holds. Proven harmless, so it resets nothing."""
    (setting,) = db.query("SELECT current_setting('work_mem')")
    (locks,) = db.query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    return setting[0], locks[0]


@pytest.mark.parametrize("runs", [2, 3, 4, 7])
@pytest.mark.parametrize("statement", CONSTANTS)
def test_a_constant_whose_reading_runs_code_leaves_nothing(broker: Broker, statement: str, runs: int) -> None:
    db, other = broker.handler(), broker.handler()
    for _ in range(RUNS):
        session_of(other)
    before = session_of(other)
    text = f"{statement} -- {runs}"
    for _ in range(runs):
        db.query(text)
        assert session_of(other) == before
    assert [session_of(other) for _ in range(RUNS)] == [before] * RUNS


@pytest.mark.parametrize("kind", ["query", "message", "lease"])
def test_a_constant_whose_reading_has_an_effect_has_it_once_with_each_run(
    broker: Broker, postgres: Postgres, kind: str
) -> None:
    db = broker.handler()
    counts: list[Any] = []
    for n in range(RUNS + 2):
        text = f"SELECT '{{1}}'::counts[], '{{1}}'::writes[] -- {kind}"
        if kind == "query":
            db.query(text)
        elif kind == "message":
            db.run([(text,), ("SELECT 1",)])
        else:
            with db.session() as session:
                session.query(text)
        (counted,) = postgres.execute(f"SELECT last_value, is_called FROM {SCHEMA}.counted")
        (noted,) = postgres.execute(f"SELECT count(*) FROM {SCHEMA}.noted")
        counts.append((int(counted[0]) if counted[1] else 0, noted[0], n))
    first = counts[0][0]
    assert [counted - first for counted, _, _ in counts] == list(range(RUNS + 2))
    assert [noted - counts[0][1] for _, noted, _ in counts] == list(range(RUNS + 2))


@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("kind", ["query", "message", "insert"])
def test_a_cast_to_a_domain_cuts_as_ever(broker: Broker, postgres: Postgres, kind: str, cast: str) -> None:
    db, value = broker.handler(), CASTS[cast]
    statement = f"SELECT ({cast})::text"
    if kind == "insert":
        statement = f"INSERT INTO texts SELECT left(({cast})::text, 3) RETURNING c"
    with postgres.connect() as direct, direct.cursor() as cursor:
        cursor.execute(f"SET search_path = {SCHEMA}")
        cursor.execute(statement, (value,))
        expected = cursor.fetchall()
    for _ in range(RUNS + 2):
        got = db.run([(statement, (value,))])[-1] if kind == "message" else db.query(statement, (value,))
        assert [tuple(row) for row in got] == expected
