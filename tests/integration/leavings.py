"""A grammar of ways to leave something in a session: statements by themselves, and code that other statements reach.

A deed leaves something; a carrier is a statement that comes to run a deed, openly or by what it touches. Each deed
can be done by each carrier. What is here must run on PostgreSQL as it stands, and (but for what says otherwise) leave
something there: the tests try it on a connection of psycopg2's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SETUP = """
CREATE ROLE other LOGIN;
CREATE ROLE app LOGIN;
GRANT CREATE, USAGE ON SCHEMA public TO other, app;
GRANT TEMP ON DATABASE postgres TO other, app;
CREATE SEQUENCE numbers;
CREATE SEQUENCE cached CACHE 20;
CREATE TABLE serials (id serial, code text);
CREATE TABLE identities (id int GENERATED ALWAYS AS IDENTITY, code text);
CREATE TABLE plain (code text);
CREATE TABLE one_row (id int PRIMARY KEY, n int);
INSERT INTO one_row VALUES (1, 1);

CREATE FUNCTION leave(what text) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    CASE what
        WHEN 'setting' THEN PERFORM set_config('work_mem', '7MB', false);
        WHEN 'path' THEN PERFORM set_config('search_path', 'pg_catalog, public', false);
        WHEN 'zone' THEN PERFORM set_config('TimeZone', 'Asia/Tokyo', false);
        WHEN 'style' THEN PERFORM set_config('DateStyle', 'SQL, DMY', false);
        WHEN 'strings' THEN PERFORM set_config('standard_conforming_strings', 'off', false);
        WHEN 'planner' THEN EXECUTE 'SET enable_seqscan = off';
        WHEN 'placeholder' THEN PERFORM set_config('app.mine', 'left', false);
        WHEN 'reading' THEN EXECUTE 'SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY';
        WHEN 'deferring' THEN
            EXECUTE 'SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE';
        WHEN 'role' THEN PERFORM set_config('role', 'other', false);
        WHEN 'user' THEN PERFORM set_config('session_authorization', 'other', false);
        WHEN 'channel' THEN EXECUTE 'LISTEN left_over';
        WHEN 'lock' THEN PERFORM pg_advisory_lock(7);
        WHEN 'shared lock' THEN PERFORM pg_advisory_lock_shared(7, 8);
        WHEN 'tried lock' THEN PERFORM pg_try_advisory_lock(9);
        WHEN 'table' THEN EXECUTE 'CREATE TEMP TABLE IF NOT EXISTS left_over (a int)';
        WHEN 'function' THEN EXECUTE 'CREATE OR REPLACE FUNCTION pg_temp.left_over() RETURNS int RETURN 1';
        WHEN 'name' THEN EXECUTE 'PREPARE left_over AS SELECT 1';
        WHEN 'cursor' THEN EXECUTE 'DECLARE left_over CURSOR WITH HOLD FOR SELECT 1';
        WHEN 'seed' THEN PERFORM setseed(0.5);
        WHEN 'number' THEN PERFORM nextval('public.numbers');
        WHEN 'set number' THEN PERFORM setval('public.numbers', 5);
        WHEN 'identity' THEN INSERT INTO public.identities (code) VALUES ('left');
    END CASE;
    RETURN 1;
END $$;
-- As people do who want an index on it.
CREATE FUNCTION leave_quietly(what text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
    PERFORM public.leave(what);
    RETURN 1;
END $$;
CREATE FUNCTION leave_by_sql(what text) RETURNS int LANGUAGE sql AS $$ SELECT public.leave(what) $$;
CREATE PROCEDURE leave_by_call(what text) LANGUAGE plpgsql AS $$ BEGIN PERFORM public.leave(what); END $$;
CREATE PROCEDURE leave_and_commit(what text) LANGUAGE plpgsql AS $$
BEGIN PERFORM public.leave(what); COMMIT; INSERT INTO public.plain VALUES ('after'); END $$;
CREATE PROCEDURE set_and_commit() LANGUAGE plpgsql AS $$ BEGIN SET work_mem = '7MB'; COMMIT; END $$;
CREATE FUNCTION leave_as_state(state int, what text) RETURNS int LANGUAGE sql AS $$ SELECT public.leave(what) $$;
CREATE AGGREGATE leaving (text) (SFUNC = leave_as_state, STYPE = int, INITCOND = '0');
CREATE FUNCTION leave_as_operator(what text, n int) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN RETURN public.leave(what) = n; END $$;
CREATE OPERATOR #!# (FUNCTION = leave_as_operator, LEFTARG = text, RIGHTARG = int);
CREATE TYPE deed AS (what text);
CREATE FUNCTION leave_as_cast(deed) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN public.leave($1.what); END $$;
CREATE CAST (deed AS int) WITH FUNCTION leave_as_cast AS IMPLICIT;
CREATE FUNCTION is_left(what text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN public.leave(what) = 1; END $$;
CREATE DOMAIN leaver AS text CHECK (is_left(VALUE));

CREATE FUNCTION leave_as_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM public.leave(NEW.what); RETURN NEW; END $$;
CREATE TABLE deeds (what text);
CREATE TABLE triggered (what text);
CREATE TRIGGER leave BEFORE INSERT OR UPDATE ON triggered FOR EACH ROW EXECUTE FUNCTION leave_as_trigger();
CREATE TABLE deferred (what text);
CREATE CONSTRAINT TRIGGER leave AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION leave_as_trigger();
CREATE TABLE ruled (what text);
CREATE RULE leave AS ON INSERT TO ruled DO ALSO SELECT leave(NEW.what);
CREATE TABLE generated (what text, n int GENERATED ALWAYS AS (leave_quietly(what)) STORED);
CREATE TABLE indexed (what text);
CREATE INDEX ON indexed (leave_quietly(what));
CREATE TABLE partly_indexed (what text);
CREATE INDEX ON partly_indexed (what) WHERE leave_quietly(what) > 0;
CREATE TABLE checked (what text CHECK (leave_quietly(what) > 0));
CREATE TABLE of_domain (what leaver);
CREATE TABLE partitioned (what text) PARTITION BY LIST (leave_quietly(what));
CREATE TABLE partition_one PARTITION OF partitioned FOR VALUES IN (1);
CREATE TABLE defaulted (code text, n int DEFAULT leave('setting'));
CREATE TABLE rewritten (n int);
INSERT INTO rewritten VALUES (1);
CREATE VIEW viewed AS SELECT what, leave(what) AS n FROM deeds;
CREATE VIEW instead AS SELECT what FROM deeds;
CREATE TRIGGER leave INSTEAD OF INSERT ON instead FOR EACH ROW EXECUTE FUNCTION leave_as_trigger();
CREATE TABLE guarded (what text);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY leave ON guarded USING (leave(what) > 0);
GRANT ALL ON ALL TABLES IN SCHEMA public TO other, app;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO other, app;

CREATE FUNCTION leave_as_event() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE what text := substring(current_query() FROM 'plain IS ''([a-z ]+)''');
BEGIN IF what IS NOT NULL THEN PERFORM public.leave(what); END IF; END $$;
CREATE EVENT TRIGGER leave ON ddl_command_end WHEN TAG IN ('COMMENT') EXECUTE FUNCTION leave_as_event();
"""

DEEDS = ("setting", "path", "zone", "style", "strings", "planner", "placeholder", "reading", "deferring", "role",
         "user", "channel", "lock", "shared lock", "tried lock", "table", "function", "name", "cursor", "seed",
         "number", "set number", "identity")  # fmt: skip
ROWS = f"INSERT INTO deeds SELECT unnest(ARRAY{list(DEEDS)!r}); INSERT INTO guarded SELECT what FROM deeds"


@dataclass(frozen=True)
class Way:
    """Statements that come one after the other, the last of which (at the latest) leaves something."""

    steps: tuple[str, ...]
    leaves: bool = True  # something, on a connection of psycopg2's own in autocommit mode
    settings: Mapping[str, str] = field(default_factory=dict)  # that travel with each
    params: tuple[Any, ...] | None = None  # of the only step
    user: str = ""  # who must run it; "" is the server's superuser
    needs: str = ""  # a library or extension of PostgreSQL's

    def __str__(self) -> str:
        return " / ".join(self.steps) + (f" with {dict(self.settings)}" if self.settings else "")


def way(*steps: str, **more: Any) -> Way:
    return Way(steps, **more)


CARRIERS = (
    "SELECT leave('{}')",
    "SELECT public.\"leave\"('{}')",
    "SELECT 1 AS it WHERE leave('{}') > 0",
    "SELECT 1 AS it ORDER BY leave('{}')",
    "SELECT 1 AS it LIMIT leave('{}')",
    "SELECT sum(leave(what)) FROM deeds WHERE what = '{}'",
    "SELECT leaving(what) FROM deeds WHERE what = '{}'",
    "SELECT rank() OVER (ORDER BY leave(what)) FROM deeds WHERE what = '{}'",
    "SELECT leave_by_sql('{}')",
    "SELECT * FROM leave('{}')",
    "SELECT d.what, l FROM deeds d, LATERAL leave(d.what) l WHERE d.what = '{}'",
    "WITH c AS MATERIALIZED (SELECT leave('{}') AS n) SELECT n FROM c",
    "VALUES (leave('{}'))",
    "SELECT (SELECT leave('{}'))",
    "SELECT CASE WHEN leave('{}') > 0 THEN 1 END",
    "SELECT generate_series(1, leave('{}'))",
    "SELECT * FROM viewed WHERE what = '{}'",
    "TABLE deeds UNION SELECT leave('{}')::text",
    "SELECT '{}' #!# 1",
    "SELECT ROW('{}')::deed::int",
    "SELECT abs(ROW('{}')::deed)",
    "SELECT '{}'::leaver",
    "SELECT CAST(ARRAY['{}'] AS leaver[])",
    "SELECT leave_quietly('{}')",
    "SELECT n FROM one_row WHERE id = leave_quietly('{}')",
    "INSERT INTO plain VALUES ('x') RETURNING leave('{}')",
    "INSERT INTO plain VALUES (leave('{}')::text)",
    "UPDATE one_row SET n = leave('{}') WHERE id = 1",
    "DELETE FROM one_row WHERE leave('{}') = 0",
    "INSERT INTO one_row AS o VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET n = leave('{}')",
    "MERGE INTO one_row USING (SELECT 1 AS a) s ON true WHEN MATCHED AND leave('{}') > 0 THEN DO NOTHING",
    "WITH w AS (UPDATE one_row SET n = leave('{}') RETURNING n) SELECT 1 AS it",
    "INSERT INTO triggered VALUES ('{}')",
    "INSERT INTO deferred VALUES ('{}')",
    "INSERT INTO ruled VALUES ('{}')",
    "INSERT INTO generated (what) VALUES ('{}')",
    "INSERT INTO indexed VALUES ('{}')",
    "INSERT INTO partly_indexed VALUES ('{}')",
    "INSERT INTO checked VALUES ('{}')",
    "INSERT INTO of_domain VALUES ('{}')",
    "INSERT INTO partitioned VALUES ('{}')",
    "INSERT INTO instead VALUES ('{}')",
    "EXPLAIN (ANALYZE, COSTS OFF) SELECT leave('{}')",
    "EXPLAIN SELECT leave_quietly('{}')",
    "EXPLAIN ANALYZE INSERT INTO triggered VALUES ('{}')",
    "SELECT * FROM ts_stat($$SELECT to_tsvector(leave('{}')::text)$$)",
    "COPY (SELECT leave('{}')) TO '/dev/null'",
    "ALTER TABLE rewritten ALTER n TYPE int USING leave('{}')",
    "COMMENT ON TABLE plain IS '{}'",
    "DO $$ BEGIN PERFORM leave('{}'); END $$",
    "DO $$ BEGIN PERFORM leave('{}'); COMMIT; END $$",
    "CALL leave_by_call('{}')",
    "CALL leave_and_commit('{}')",
    "SELECT 1 AS it; SELECT leave('{}')",
    "SELECT leave('{}'); SELECT 1 AS it",
)


def carried(carrier: str, deed: str) -> Way:
    """The deed done by that carrier."""
    return way(carrier.replace("{}", deed))


# As text, or as what is left in quotes, comments, other spellings, several statements in one string.
SET = [
    way(sql)
    for sql in (
        "SET work_mem = '7MB'", 'SET "work_mem" = \'7MB\'', "sEt WORK_MEM tO '7MB'", "SET/**/work_mem/**/=/**/7000",
        "/* SELECT */ SET work_mem = '7MB'", "-- SELECT\nSET work_mem = '7MB'", "SET SESSION work_mem = '7MB'",
        'SET SESSION "work_mem" TO 7000', 'SET U&"work\\005fmem" = \'7MB\'',
        "SET u&\"work!005fmem\" UESCAPE '!' = '7MB'", "\n\t ;SET work_mem = '7MB'", "SET TIME ZONE 'Asia/Tokyo'",
        "SET TIME ZONE INTERVAL '+05:30' HOUR TO MINUTE", "SET TimeZone TO 'Asia/Tokyo'",
        'SET "TimeZone" = \'Asia/Tokyo\'', "SET NAMES 'LATIN1'", "SET client_encoding = 'LATIN1'",
        "SET SCHEMA 'pg_catalog'", "SET search_path = pg_temp, public", "SET \"search_path\" = 'pg_catalog'",
        "SET DateStyle = 'ISO, DMY'", "SET \"DateStyle\" = 'German'", "SET IntervalStyle = 'sql_standard'",
        "SET standard_conforming_strings = off", 'SET "standard_conforming_strings" = off',
        "SET bytea_output = 'escape'", "SET extra_float_digits = 0", "SET statement_timeout = 1234567",
        "SET lock_timeout = 1234567", "SET idle_in_transaction_session_timeout = 1234567",
        "SET client_min_messages = error", "SET application_name = 'left'", "SET temp_buffers = '2MB'",
        "SET client_connection_check_interval = 12345", "SET default_transaction_read_only = on",
        "SET default_transaction_isolation = 'serializable'", "SET default_transaction_deferrable = on",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET SESSION CHARACTERISTICS AS TRANSACTION DEFERRABLE, READ ONLY, ISOLATION LEVEL SERIALIZABLE",
        "set session/**/characteristics AS transaction read only, deferrable", "SET session_replication_role = replica",
        "SET row_security = off", "SET enable_seqscan = off", "SET plan_cache_mode = force_generic_plan",
        "SET quote_all_identifiers = on", "SET transform_null_equals = on", "SET XML OPTION DOCUMENT",
        "SET seed = 0.5", "SET SEED TO 0.25", "SET ROLE other", 'SET "role" = other', "SET SESSION ROLE other",
        "SET role TO 'other'", "set/**/role/**/'other'", "SET SESSION AUTHORIZATION other",
        "SET SESSION SESSION AUTHORIZATION 'other'", "SET session_authorization = other",
        'SET U&"session\\005fauthorization" = other', "BEGIN; SET work_mem = '7MB'; COMMIT",
        "SELECT 1 AS it; SET work_mem = '7MB'", "SET work_mem = '7MB'; SELECT 1 AS it",
        "SET LOCAL work_mem = '8MB'; SET work_mem = '7MB'", "SET app.mine = 'x'", "SET \"app\".mine = 'x'",
    )
] + [
    way(sql, leaves=False)
    for sql in (
        "SET LOCAL work_mem = '7MB'", "SET LOCAL ROLE other", "SET LOCAL SESSION AUTHORIZATION other",
        "SET TRANSACTION READ ONLY", "SET CONSTRAINTS ALL DEFERRED", "SET TIME ZONE LOCAL",
        "SET app.mine TO DEFAULT", "SET LOCAL app.other = 'x'",
        # These take away; poold's own settings are none of theirs.
        "RESET ALL", "RESET work_mem", 'RESET "statement_timeout"', "RESET ROLE", "RESET SESSION AUTHORIZATION",
        "RESET TIME ZONE", "DISCARD ALL", "DISCARD TEMP", "DISCARD PLANS", "DISCARD SEQUENCES", "DEALLOCATE ALL",
        "DEALLOCATE PREPARE ALL", "UNLISTEN *", "CLOSE ALL", "SET SESSION AUTHORIZATION DEFAULT", "NOTIFY left_over",
        "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$", "DO $$ BEGIN EXECUTE 'RESET ALL'; END $$",
        "DO $$ BEGIN EXECUTE 'DISCARD PLANS'; END $$", "SELECT pg_advisory_xact_lock(7)",
        "SELECT pg_advisory_unlock_all()", "CREATE TEMP TABLE left_over (a int) ON COMMIT DROP",
    )
]  # fmt: skip
SET_CONFIG = [
    way(sql)
    for sql in (
        "SELECT set_config('work_mem', '7MB', false)", "SELECT pg_catalog.set_config('role', 'other', false)",
        'SELECT "set_config"(\'work_mem\', \'7MB\', false)',
        "SELECT U&\"set\\005fconfig\"('work_mem', '7MB', false)",
        'SELECT pg_catalog . "set_config" /**/ (\'session_authorization\', \'other\', false)',
        "SELECT * FROM set_config('search_path', 'pg_catalog', false)", "VALUES (set_config('work_mem', '7MB', false))",
        "WITH c AS MATERIALIZED (SELECT set_config('work_mem', '7MB', false)) TABLE c",
        "SELECT 1 AS it ORDER BY set_config('work_mem', '7MB', false)",
        "SELECT 1 AS it LIMIT length(set_config('work_mem', '7MB', false))",
        "INSERT INTO plain VALUES ('x') RETURNING set_config('work_mem', '7MB', false)",
        "UPDATE one_row SET n = length(set_config('work_mem', '7MB', false))",
        "INSERT INTO defaulted (code) VALUES ('x')", "INSERT INTO defaulted DEFAULT VALUES",
        "UPDATE pg_settings SET setting = '7000' WHERE name = 'work_mem'",
        "UPDATE pg_catalog.pg_settings s SET setting = 'Asia/Tokyo' WHERE s.name = 'TimeZone'",
        'update "pg_settings" set setting = \'on\' where name = \'default_transaction_read_only\'',
        "UPDATE U&\"pg\\005fsettings\" SET setting = 'pg_catalog' WHERE name = 'search_path'",
        "EXPLAIN ANALYZE SELECT set_config('work_mem', '7MB', false)",
        "EXPLAIN (ANALYZE, FORMAT JSON) SELECT set_config('role', 'other', false)",
        "EXPLAIN ANALYZE UPDATE pg_settings SET setting = '7000' WHERE name = 'work_mem'",
        "SELECT set_config('seed', '0.5', false)", "SELECT set_config(name, '7MB', false) FROM pg_settings "
        "WHERE name = 'work_mem'", "SELECT ts_rewrite('a'::tsquery, $$SELECT 'a'::tsquery, "
        "set_config('work_mem', '7MB', false)::tsquery$$)",
    )
]  # fmt: skip
TEMPORARY = [
    way(sql)
    for sql in (
        "CREATE TEMP TABLE left_over (a int)", "CREATE TEMPORARY TABLE left_over (a int)",
        "CREATE LOCAL TEMPORARY TABLE left_over (a int)", "CREATE GLOBAL TEMP TABLE left_over (a int)",
        "create/**/temp/**/table left_over (a int)", "CREATE TEMP TABLE IF NOT EXISTS left_over (a int)",
        "CREATE TABLE pg_temp.left_over (a int)", 'CREATE TABLE "pg_temp".left_over (a int)',
        'CREATE TABLE U&"pg\\005ftemp".left_over (a int)', "CREATE TEMP TABLE left_over AS SELECT 1 AS a",
        "CREATE TABLE pg_temp.left_over AS TABLE deeds", "CREATE TABLE PG_TEMP.left_over AS VALUES (1)",
        "CREATE TEMP TABLE left_over (LIKE plain)", "CREATE TEMP TABLE left_over (a int) ON COMMIT DELETE ROWS",
        "CREATE TEMP TABLE left_over (a serial)", "CREATE TEMP VIEW left_over AS SELECT 1 AS a",
        "CREATE OR REPLACE TEMP VIEW left_over AS SELECT 1 AS a",
        "CREATE TEMP RECURSIVE VIEW left_over (n) AS VALUES (1)", "CREATE VIEW pg_temp.left_over AS SELECT 1 AS a",
        "CREATE TEMP SEQUENCE left_over", "CREATE SEQUENCE pg_temp.left_over",
        "CREATE FUNCTION pg_temp.left_over() RETURNS int RETURN 1", "CREATE TYPE pg_temp.left_over AS (a int)",
        "CREATE DOMAIN pg_temp.left_over AS int", "CREATE TYPE pg_temp.left_over AS ENUM ('a')",
        "SELECT 1 AS a INTO TEMP left_over", "SELECT 1 AS a INTO TEMPORARY TABLE left_over",
        "SELECT 1 AS a INTO LOCAL TEMP left_over", "SELECT 1 AS a INTO pg_temp.left_over",
        'SELECT 1 AS a INTO TABLE "pg_temp"."left_over"', 'SELECT 1 AS a INTO U&"pg\\005ftemp".left_over',
        "(SELECT 1 AS a INTO TEMP left_over)", "WITH w AS (SELECT 1 AS a) SELECT a INTO TEMP left_over FROM w",
        "SELECT 1 AS a INTO TEMP left_over UNION SELECT 2", "EXPLAIN ANALYZE CREATE TEMP TABLE left_over AS SELECT 1",
        "EXPLAIN (ANALYZE) CREATE TABLE pg_temp.left_over AS SELECT 1 AS a",
        "EXPLAIN ANALYZE SELECT 1 AS a INTO TEMP left_over",
        "SELECT 1 AS it; CREATE TEMP TABLE left_over (a int)",
        "DO $$ BEGIN CREATE TEMP TABLE left_over (a int); END $$",
        "DO $$ BEGIN CREATE TABLE pg_temp.left_over (a int); COMMIT; END $$",
    )
] + [
    way("CREATE TABLE left_over (a int)", settings={"search_path": "pg_temp"}),
    way("CREATE TABLE left_over AS SELECT 1 AS a", settings={"search_path": '"pg_temp", public'}),
    way("SELECT 1 AS a INTO left_over", settings={"search_path": "pg_temp, pg_catalog"}),
    way("CREATE SEQUENCE left_over", settings={"search_path": "pg_temp"}),
    way("BEGIN; SET LOCAL search_path = pg_temp; CREATE TABLE left_over (a int); COMMIT"),
    way("SET search_path = pg_temp, public", "CREATE TABLE left_over (a int)"),
    way("SELECT set_config('search_path', 'pg_temp', false)", "SELECT 1 AS a INTO left_over"),
    way("CREATE TEMP TABLE left_over (a int)", "INSERT INTO left_over VALUES (1)", "ALTER TABLE left_over ADD b int"),
]  # fmt: skip
OTHERS = [
    way(sql)
    for sql in (
        "PREPARE left_over AS SELECT 1 AS a", 'PREPARE "left over" (int) AS SELECT $1 AS a',
        "prepare/**/left_over as select 1 as a", "SELECT 1 AS it; PREPARE left_over AS SELECT 1 AS a",
        "DO $$ BEGIN EXECUTE 'PREPARE left_over AS SELECT 1'; END $$",
        "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; EXECUTE 'PREPARE left_over AS SELECT 1'; COMMIT; END $$",
        "DECLARE left_over CURSOR WITH HOLD FOR SELECT 1",
        "DECLARE left_over BINARY SCROLL CURSOR WITH HOLD FOR VALUES (1)",
        'declare "left over" insensitive cursor with hold for table deeds',
        "DO $$ BEGIN EXECUTE 'DECLARE left_over CURSOR WITH HOLD FOR SELECT 1'; END $$",
        "BEGIN; DECLARE left_over CURSOR WITH HOLD FOR SELECT 1; COMMIT",
        "LISTEN left_over", 'LISTEN "Left Over"', 'LISTEN U&"left\\005fover"', "listen/**/left_over",
        "DO $$ BEGIN EXECUTE 'LISTEN left_over'; END $$", "SELECT 1 AS it; LISTEN left_over",
        "SELECT pg_advisory_lock(7)", "SELECT pg_advisory_lock(7, 8)", "SELECT pg_advisory_lock_shared(7)",
        "SELECT pg_try_advisory_lock(7)", "SELECT pg_try_advisory_lock_shared(7, 8)",
        'SELECT pg_catalog."pg_advisory_lock"(7)', 'SELECT U&"pg\\005fadvisory_lock"(7)',
        "SELECT Pg_Advisory_Lock /* of mine */ (7)", "SELECT * FROM pg_advisory_lock(7)",
        "SELECT 1 AS it WHERE pg_try_advisory_lock(7)", "SELECT count(pg_advisory_lock(7)) FROM deeds",
        "SELECT bool_and(pg_try_advisory_lock(n)) FROM generate_series(1, 5) n",
        "INSERT INTO plain SELECT pg_try_advisory_lock(7)::text", "DO $$ BEGIN PERFORM pg_advisory_lock(7); END $$",
        "SELECT pg_advisory_lock(7), pg_advisory_lock(7), pg_advisory_unlock(7)",
        "EXPLAIN ANALYZE SELECT pg_advisory_lock(7)",
        "DELETE FROM plain WHERE pg_try_advisory_lock(7) AND code = 'none'",
        "SELECT nextval('numbers')", "SELECT pg_catalog . nextval ('cached')",
        'SELECT "nextval"(\'numbers\'::regclass)',
        "SELECT setval('numbers', 5)", "SELECT setval('numbers', 5, true)", "INSERT INTO serials DEFAULT VALUES",
        "INSERT INTO identities (code) VALUES ('x')", "INSERT INTO identities (code) SELECT what FROM deeds",
        "UPDATE serials SET id = DEFAULT", "COPY serials (code) FROM PROGRAM 'echo x'",
        "MERGE INTO serials USING (SELECT 1 AS a) s ON false WHEN NOT MATCHED THEN INSERT (code) VALUES ('x')",
        "WITH w AS (INSERT INTO serials DEFAULT VALUES RETURNING id) SELECT id FROM w",
        "SELECT setseed(0.5)", "SELECT setseed(0.25), random()", "SELECT * FROM pg_catalog.setseed(0.5)",
        'SELECT "setseed"(0.5)', "DO $$ BEGIN PERFORM setseed(0.5); END $$",
        "DO $$ BEGIN SET work_mem = '7MB'; END $$",
        "DO LANGUAGE plpgsql $x$ BEGIN SET work_mem = '7MB'; COMMIT; END $x$",
        "DO 'BEGIN PERFORM set_config(''role'', ''other'', false); END'", "CALL set_and_commit()",
        "DO $$ BEGIN SET SESSION AUTHORIZATION other; END $$", "DO $$ BEGIN SET ROLE other; COMMIT; END $$",
        "BEGIN", "START TRANSACTION READ ONLY", "SELECT 1 AS it; BEGIN; SELECT 2 AS it",
        "BEGIN; INSERT INTO plain VALUES ('open')", "BEGIN; CREATE TEMP TABLE left_over (a int); COMMIT; BEGIN",
        "BEGIN; COMMIT AND CHAIN",
    )
] + [
    way("SELECT leave(%s)", params=("setting",)),
    way("SELECT set_config('work_mem', %s, false)", params=("7MB",)),
    way("SELECT set_config(%s, %s, %s)", params=("role", "other", False)),
    way("SELECT pg_advisory_lock(%s)", params=(7,)),
    way("SELECT setseed(%s)", params=(0.5,)),
    way("SELECT nextval(%s)", params=("numbers",)),
    way("UPDATE pg_settings SET setting = %s WHERE name = %s", params=("7000", "work_mem")),
    way("INSERT INTO triggered VALUES (%s)", params=("lock",)),
    way("INSERT INTO deferred VALUES (%s)", params=("role",)),
    way("INSERT INTO identities (code) VALUES (%s)", params=("x",)),
    way("SET work_mem = %s", params=("7MB",)),
    way("PREPARE left_over AS SELECT set_config('work_mem', '7MB', false)", "EXECUTE left_over"),
    way("PREPARE left_over AS SELECT 1 AS a", "CREATE TEMP TABLE left_over AS EXECUTE left_over"),
    way("PREPARE left_over AS SELECT leave('user')", "EXPLAIN ANALYZE EXECUTE left_over"),
    way("SELECT nextval('numbers')", "SELECT currval('numbers')"),
    way("INSERT INTO serials DEFAULT VALUES", "SELECT lastval()"),
    way("SELECT pg_advisory_lock(7)", "SELECT pg_advisory_lock(7)", "SELECT pg_advisory_unlock(7)"),
    way("SELECT what FROM guarded WHERE what = 'setting'", user="app"),
    way("SELECT count(*) FROM guarded WHERE what = 'channel'", user="app"),
    way("UPDATE guarded SET what = what WHERE what = 'lock'", user="app"),
    way("SELECT pg_replication_origin_session_setup('left_over')"),
    way("SELECT pg_create_physical_replication_slot('left_over', true, true)"),
    way("LOAD 'vector'", needs="vector"),
    way("SELECT dblink_connect('left_over', 'dbname=postgres')", needs="dblink"),
]  # fmt: skip
WAYS = [*SET, *SET_CONFIG, *TEMPORARY, *OTHERS]
