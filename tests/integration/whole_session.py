"""A backend's whole session, in PostgreSQL's own words: whatever a client could find there of an earlier one.

The judge is PostgreSQL. One function reads all that a session is made of, on any connection: through poold, or
psycopg2's own, where the same comparison shows that a statement does leave something and that the judge sees it.
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from postgres import Postgres

Session = dict[str, Any]

# What setseed is called with in tests; a client that has not must not meet the numbers that follow.
SEEDS = (0.5, 0.25)
SEQUENCES = ("numbers", "cached", "serials_id_seq", "identities_id_seq")
PLACEHOLDERS = ("app.mine", "app.other")
# Not among pg_settings, where PostgreSQL hides them.
HIDDEN = ("role", "session_authorization", "is_superuser", "transaction_isolation", "transaction_read_only",
          "transaction_deferrable")  # fmt: skip

_ATTEMPTS = {
    "lastval": "SELECT pg_catalog.lastval()",
    **{f"currval of {name}": f"SELECT pg_catalog.currval('public.{name}')" for name in SEQUENCES},
    "replication origin": "SELECT pg_catalog.pg_replication_origin_session_is_setup()",
    "connections by dblink": "SELECT public.dblink_get_connections()",
}


def _array(expression: str, source: str) -> str:
    return f"ARRAY(SELECT {expression} FROM {source} ORDER BY 1)"


_FIELDS = {
    "pid": "pg_catalog.pg_backend_pid()",
    # First of all: the reader itself must not use up the numbers that a seed has left.
    "random": "drawn",
    "settings": "(SELECT pg_catalog.jsonb_object_agg(s.name, ARRAY[s.setting, s.reset_val, "
    "pg_catalog.current_setting(s.name, true)]) FROM pg_catalog.pg_settings s)",
    **{f"setting {name}": f"pg_catalog.current_setting('{name}')" for name in HIDDEN},
    **{f"placeholder {name}": f"nullif(pg_catalog.current_setting('{name}', true), '')" for name in PLACEHOLDERS},
    "users": "ARRAY[session_user, current_user]::text[]",
    "path": "pg_catalog.current_schemas(true)::text[] || ARRAY['explicitly'] || "
    "pg_catalog.current_schemas(false)::text[]",
    "prepared": _array("p.name || ': ' || p.statement", "pg_catalog.pg_prepared_statements p WHERE p.from_sql"),
    # The unnamed portal is the one in which this is read.
    "cursors": _array("c.name || ': ' || c.statement", "pg_catalog.pg_cursors c WHERE c.name <> ''"),
    "channels": _array("c", "pg_catalog.pg_listening_channels() c"),
    "locks": _array(
        "pg_catalog.concat_ws(' ', l.mode, l.classid, l.objid, l.objsubid)",
        "pg_catalog.pg_locks l WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'advisory'",
    ),
    "temporary relations": _array(
        "r.relname::text", "pg_catalog.pg_class r WHERE r.relnamespace = pg_catalog.pg_my_temp_schema()"
    ),
    "temporary functions": _array(
        "f.proname::text", "pg_catalog.pg_proc f WHERE f.pronamespace = pg_catalog.pg_my_temp_schema()"
    ),
    "temporary types": _array(
        "t.typname::text", "pg_catalog.pg_type t WHERE t.typnamespace = pg_catalog.pg_my_temp_schema()"
    ),
    "temporary slots": _array(
        "s.slot_name::text", "pg_catalog.pg_replication_slots s WHERE s.active_pid = pg_catalog.pg_backend_pid()"
    ),
    **{what: f"oracle.attempt($x${sql}$x$)" for what, sql in _ATTEMPTS.items()},
}

# plpgsql: the text that asks is the same innocent one for everything, and its library is there before it looks.
SETUP = """
CREATE SCHEMA oracle;
GRANT USAGE ON SCHEMA oracle TO PUBLIC;
CREATE FUNCTION oracle.attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE found text;
BEGIN
    EXECUTE statement INTO found;
    RETURN found;
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;
CREATE FUNCTION oracle.session() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    drawn float8 := pg_catalog.random();
    whole jsonb := '{}';
BEGIN
    -- fields
    RETURN whole;
END $$
""".replace(
    "-- fields",
    "\n    ".join(
        f"whole := whole || pg_catalog.jsonb_build_object('{name}', {value});" for name, value in _FIELDS.items()
    ),
)
LOOK = "SELECT oracle.session()"
OUTSIDE = """
SELECT state, xact_start IS NULL, application_name,
    ARRAY(SELECT locktype || ' ' || mode FROM pg_locks l WHERE l.pid = a.pid AND l.locktype <> 'virtualxid' ORDER BY 1)
FROM pg_stat_activity a WHERE pid = %s
"""
# A backend of poold's that nobody uses, seen so.
AT_REST = ["idle", True, "poold", []]


class Judge:
    """Reads sessions and says what differs."""

    def __init__(self, server: Postgres) -> None:
        self._eyes = server.connect(application_name="the test's own eyes")
        self._foreseen = {number for seed in SEEDS for number in _numbers_after(server, seed)}

    def session(self, first_cell: Callable[[str], Any]) -> Session:
        """What first_cell, which runs a statement and gives its first cell, finds in its session."""
        found: Session = json.loads(first_cell(LOOK))
        settings = found.pop("settings")
        found["random is foreseen"] = found.pop("random") in self._foreseen
        # Where the temporary schema is made it stays, empty; names in it are shown by themselves.
        found["path"] = [name for name in found["path"] if not re.fullmatch(r"pg_temp_\d+", name)]
        return {**found, **{f"setting {name}": values for name, values in settings.items()}}

    def outside(self, pid: int) -> list[Any]:
        """What another connection sees of that process."""
        return next(iter(self.execute(OUTSIDE, (pid,))), [])

    def execute(self, sql: str, params: Any = None) -> list[Any]:
        """Rows, on the connection that only looks."""
        with self._eyes.cursor() as cursor:
            cursor.execute(sql, params)
            return [list(row) for row in cursor.fetchall()]

    def close(self) -> None:
        self._eyes.close()


def differences(before: Session, after: Session, ignored: Iterable[str] = ("pid",)) -> dict[str, Any]:
    """What is not the same: before and after."""
    names = (before.keys() | after.keys()) - set(ignored)
    return {name: (before.get(name), after.get(name)) for name in sorted(names) if before.get(name) != after.get(name)}


def _numbers_after(server: Postgres, seed: float) -> list[float]:
    connection = server.connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT setseed(%s)", (seed,))
            cursor.execute("SELECT random() FROM generate_series(1, 200)")
            return [number for (number,) in cursor.fetchall()]
    finally:
        connection.close()
