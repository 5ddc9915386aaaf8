"""The broker's own statements mean the same whatever a role's search_path is, and whoever can create things in it.

A role whose search_path begins with somebody else's schema runs that one's functions, operators and types wherever a
name is not qualified (CVE-2018-1058). `TRAPS` makes such a schema, with a twin of everything that PostgreSQL brings
along; each twin counts its uses. What a client's own statements call is the client's affair: here they are qualified.
"""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from brokers import Broker
from gates import gate
from ledger import terminate
from postgres import Factory, Postgres, PrivatePostgres

import client

StartBroker = Callable[..., Broker]

ROLE = "victim"
# Twins of all functions, operators, types and relations of pg_catalog, as far as SQL can make them.
TRAPS = f"""
CREATE ROLE {ROLE} LOGIN;
CREATE SCHEMA evil;
CREATE SEQUENCE evil.uses;
CREATE TABLE evil.twins (kind text);
CREATE FUNCTION evil.touch() RETURNS bigint LANGUAGE sql VOLATILE SECURITY DEFINER
    AS $$ SELECT pg_catalog.nextval('evil.uses') $$;
DO $$
DECLARE
    twin record;
    ends text;
BEGIN
    FOR twin IN SELECT *, format('evil.%I', proname) AS name, pg_get_function_arguments(oid) AS arguments,
        pg_get_function_result(oid) AS result FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
        AND prokind = 'f' LOOP
        ends := CASE WHEN twin.proretset OR twin.result IN ('void', 'record') OR twin.proargmodes IS NOT NULL THEN ''
            ELSE ' NULL' END;
        BEGIN
            EXECUTE format('CREATE FUNCTION %s(%s) RETURNS %s LANGUAGE plpgsql AS %L', twin.name, twin.arguments,
                twin.result, 'BEGIN PERFORM evil.touch(); RETURN' || ends || '; END');
            INSERT INTO evil.twins VALUES ('function');
        EXCEPTION WHEN OTHERS THEN NULL;  -- pseudo-types, and what only C can do
        END;
    END LOOP;
    FOR twin IN SELECT oprname, format_type(oprleft, NULL) AS l, format_type(oprright, NULL) AS r,
        format_type(oprresult, NULL) AS result, oid FROM pg_operator WHERE oprkind = 'b' LOOP
        BEGIN
            EXECUTE format('CREATE FUNCTION evil.op%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS %L', twin.oid, twin.l,
                twin.r, twin.result, 'BEGIN PERFORM evil.touch(); RETURN NULL; END');
            EXECUTE format('CREATE OPERATOR evil.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil.op%s)',
                twin.oprname, twin.l, twin.r, twin.oid);
            INSERT INTO evil.twins VALUES ('operator');
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
    FOR twin IN SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype = 'b'
        AND typelem = 0 LOOP
        BEGIN
            EXECUTE format('CREATE DOMAIN evil.%I AS pg_catalog.%I CHECK (evil.touch() IS NOT NULL)', twin.typname,
                twin.typname);
            INSERT INTO evil.twins VALUES ('type');
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
    FOR twin IN SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v')
        LOOP
        BEGIN
            EXECUTE format('CREATE VIEW evil.%I AS SELECT *, evil.touch() FROM pg_catalog.%I', twin.relname,
                twin.relname);
            INSERT INTO evil.twins VALUES ('relation');
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
END $$;
CREATE FUNCTION evil.as_text(bigint) RETURNS text LANGUAGE sql AS $$ SELECT 'x' FROM (SELECT evil.touch()) t $$;
CREATE CAST (bigint AS text) WITH FUNCTION evil.as_text(bigint) AS IMPLICIT;
GRANT USAGE ON SCHEMA evil TO {ROLE};
GRANT ALL ON ALL TABLES IN SCHEMA evil TO {ROLE};
ALTER ROLE {ROLE} SET search_path = evil, pg_catalog, public;
"""
# A row waits at its gate while its transaction commits.
LEDGER = f"""
CREATE TABLE ledger (tag text, gate bigint);
CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(NEW.gate); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON ledger DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION at_commit();
GRANT ALL ON ledger TO {ROLE};
"""
# Ends the text of each statement of the test's own.
MARK = "/* a client's */"


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, session_folder: object, bindir: object) -> Iterator[Postgres]:
    factory = Factory(request.config.getoption("--postgres"), session_folder, bindir)  # type: ignore[arg-type]
    try:
        made = factory(log_statement="all", log_line_prefix="")
        made.execute(TRAPS)
        made.execute(LEDGER)
        yield made
    finally:
        factory.close()


@pytest.fixture
def broker(server: Postgres, start_broker: StartBroker) -> Broker:
    endpoint = {**server.parameters, "user": ROLE, "query_timeout": 0}
    groups = {
        "default": {"max_size": 2, "track_outcome": True},
        "leased": {"autocommit": False, "max_size": 1, "track_outcome": True},
        "reading": {"read_only": True, "max_size": 1},
    }
    return start_broker(endpoints={"main": endpoint}, groups=groups)


def uses(server: Postgres) -> int:
    """How often a twin was used."""
    return int(server.execute("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM evil.uses")[0][0])


def everything(broker: Broker, server: Postgres) -> None:
    """All that makes the broker run statements of its own."""
    db, leased, reading = (broker.handler(name) for name in ("default", "leased", "reading"))
    for _ in range(10):
        db.query(f"SELECT %s {MARK}", ("text",))  # from the fourth on prepared, after a probe
        reading.query(f"SELECT %s {MARK}", ("text",), timeout=30)
        leased.query(f"SELECT %s {MARK}", ("text",))
        leased.commit()
    leased.query(f"SELECT 1 {MARK}")
    leased.rollback()
    with db.transaction(isolation="serializable") as tx:
        first = tx.query(f"SELECT 7 AS n {MARK}", expect=1)
        tx.query(f"SELECT %s {MARK}", (first["n"],))
        with tx.savepoint():
            tx.query(f"INSERT INTO public.ledger VALUES ('kept', 0) {MARK}")
    with pytest.raises(client.DBError):
        db.query(f"SELECT pg_catalog.pg_sleep(60) {MARK}", timeout=0.2)
    with pytest.raises(client.DBError):
        db.query(f"BEGIN {MARK}")  # left open, so the backend is reset
    lost_commit(broker, server)


def lost_commit(broker: Broker, server: Postgres) -> None:
    """A COMMIT whose answer is lost: the broker asks what became of it."""
    with gate(server) as closed, ThreadPoolExecutor(1) as threads:
        insert = f"INSERT INTO public.ledger VALUES ('lost', {closed.key}) {MARK}"
        running = threads.submit(broker.handler().run, [insert], retries=0)
        terminate(server, closed.arrived()[0])
        assert isinstance(running.exception(60), client.DBError)


def test_the_traps_work(server: Postgres) -> None:
    twins = dict(server.execute("SELECT kind, count(*) FROM evil.twins GROUP BY kind"))
    assert twins["function"] > 1500
    assert twins["operator"] > 500
    assert twins["type"] > 30
    assert twins["relation"] > 50
    connection = server.connect(user=ROLE)
    try:
        with connection.cursor() as cursor:
            for statement in (
                "SELECT pg_is_in_recovery()",
                "SELECT set_config('work_mem', '4MB', false)",
                "SELECT 1 = 1",
                "SELECT '7'::xid8",
                "SELECT * FROM pg_stat_bgwriter",
            ):
                before = uses(server)
                cursor.execute(statement)
                assert uses(server) > before, statement
    finally:
        connection.close()


def test_none_of_the_brokers_statements_uses_anything_outside_pg_catalog(server: Postgres, broker: Broker) -> None:
    before = uses(server)
    everything(broker, server)
    assert uses(server) == before


# Names that are followed by a parenthesis and call nothing.
KEYWORDS = ("SELECT", "CASE", "WHEN", "THEN", "FROM", "AND", "OR", "NOT", "IN", "AS", "END", "FILTER", "ANY")


def unqualified(statement: str) -> list[str]:
    """Names of functions, types and relations, and operators, that a search_path could give another meaning."""
    bare = re.sub(r"'(?:[^']|'')*'", "''", statement)
    bare = re.sub(r"OPERATOR\(pg_catalog\.[^)]+\)", "", bare)
    names = re.findall(r'(?<![\w."])([a-zA-Z_]\w*)\s*\(', bare) + re.findall(r"::\s*([a-z]\w*)(?!\w*\.)", bare)
    names += re.findall(r"\b(?:FROM|JOIN)\s+([a-z_]\w*)(?![\w.(])", bare)
    return [name for name in names if name.upper() not in KEYWORDS] + re.findall(r"[-+*/<>=~!@#%^&|`?]+", bare)


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("SELECT pg_catalog.lower('x = y(1)')", []),
        ("SELECT '7'::pg_catalog.xid8", []),
        ("SELECT (SELECT 1)", []),
        ("SELECT lower('x')", ["lower"]),
        ("SELECT '7'::xid8", ["xid8"]),
        ("SELECT 1 = 1", ["="]),
        ("SELECT 1 OPERATOR(pg_catalog.=) 1", []),
        ("SELECT 1 OPERATOR(public.=) 1", ["OPERATOR", "="]),
        ("SELECT evil.x(now())", ["now"]),
        ("SELECT 1 FROM pg_catalog.pg_class", []),
        ("SELECT 1 FROM pg_class", ["pg_class"]),
    ],
)
def test_what_is_not_qualified_is_found(statement: str, found: list[str]) -> None:
    assert unqualified(statement) == found


def test_all_of_the_brokers_statements_that_the_server_logs_are_qualified(server: Postgres, broker: Broker) -> None:
    if not isinstance(server, PrivatePostgres):
        pytest.skip("a container's log is out of reach")
    begin = len(server.server.log.read_text())
    everything(broker, server)
    logged = re.findall(r"^LOG:  (?:statement|execute [^:]*): (.*)$", server.server.log.read_text()[begin:], re.M)
    # What the gate and other connections of the test itself ask.
    tests = ("pg_locks", "pg_advisory", "pg_terminate", "evil.uses")
    own = {each for each in logged if MARK not in each and not any(word in each for word in tests)}
    assert {"BEGIN", "ROLLBACK"} <= own
    assert any("set_config" in each for each in own)
    assert any("pg_control_system" in each for each in own)
    assert any("pg_xact_status" in each for each in own)
    queries = [each for each in own if each.startswith(("SELECT", "VALUES", "WITH", "TABLE"))]
    assert {each: unqualified(each) for each in queries if unqualified(each)} == {}
