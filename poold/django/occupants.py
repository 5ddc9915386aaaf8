"""Nobody in a database: PostgreSQL copies and drops none in which somebody is connected.

Whoever rests in a test database is ended, the broker's own backends above all. One that is just being opened, reset or
closed does not rest yet, and one that is being opened is not to be seen either. So occupants are looked at again and
again until nobody is left, and a statement that meets one all the same has further tries.
"""

import re
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

from django.db import OperationalError

from client.dbapi import errors

# How long a statement waits for others to leave, in seconds; PostgreSQL itself waits for 5 more.
PATIENCE = 10.0

_LOOK_INTERVAL = 0.05

# The databases in which a statement of Django's suffers nobody, each as it is quoted there.
_NEEDED_EMPTY = re.compile(r'(?P<drops>\bDROP DATABASE|\bTEMPLATE) "(?P<name>.*)"\s*$')

# Lists all others; the last column ends whoever rests, if it may be ended (see pg_terminate_backend in PostgreSQL's
# manual). PostgreSQL ends autovacuum by itself.
_LOOK = """
    WITH me AS (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = CURRENT_USER), others AS (
        SELECT a.pid, a.usename, a.application_name, a.state,
            COALESCE(me.rolsuper OR NOT r.rolsuper AND (pg_catalog.pg_has_role(a.usesysid, 'USAGE')
                OR pg_catalog.pg_has_role('pg_signal_backend', 'USAGE')), false) AS may_be_ended
        FROM me, pg_catalog.pg_stat_activity AS a LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.usesysid
        WHERE a.datname = %s AND a.pid <> pg_catalog.pg_backend_pid()
            AND a.backend_type IS DISTINCT FROM 'autovacuum worker'
    )
    SELECT pid, usename, application_name, state, may_be_ended,
        CASE WHEN %s AND may_be_ended AND state = 'idle' THEN pg_catalog.pg_terminate_backend(pid) ELSE false END
    FROM others ORDER BY pid
"""
_PREPARED = "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = %s ORDER BY gid"


class Occupant(NamedTuple):
    """A session in a database."""

    pid: int
    role: str | None
    application: str | None
    # As in pg_stat_activity; None if this role may not see it.
    state: str | None
    may_be_ended: bool

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.role}, {self.application or 'no application_name'}, {self.state or 'hidden'})"


class AdminCursor:
    """A cursor of Django's whose DROP DATABASE and copies of databases wait until nobody is in the database.

    may_end tells of a copy's source whether those who rest there may be ended; a database to be dropped needs no leave.
    """

    def __init__(self, cursor: Any, may_end: Callable[[str], bool]) -> None:
        self._cursor = cursor
        self._may_end = may_end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, sql: str, params: Any = None) -> Any:
        """Execute a statement; an error that somebody is in the database says who that is, and what to do."""
        found = _NEEDED_EMPTY.search(sql)
        if found is None:
            return self._cursor.execute(sql, params)
        database = found["name"]
        ends = found["drops"].startswith("DROP") or self._may_end(database)
        deadline = time.monotonic() + PATIENCE
        first = {each.pid for each in self._look(database, ends)}
        while True:
            self._wait_until_empty(database, ends, deadline)
            try:
                return self._cursor.execute(sql, params)
            except OperationalError as error:
                if not isinstance(error.__cause__, errors.ObjectInUse):
                    raise
                if time.monotonic() >= deadline:
                    told = advice(self._look(database, False), self._prepared(database), first if ends else None)
                    raise OperationalError(f"{error}{told}") from error.__cause__

    def _wait_until_empty(self, database: str, ends: bool, deadline: float) -> None:
        """Return if nobody is there, or at the deadline."""
        while self._look(database, ends) and time.monotonic() < deadline:
            time.sleep(_LOOK_INTERVAL)

    def _look(self, database: str, ends: bool) -> list[Occupant]:
        self._cursor.execute(_LOOK, [database, ends])
        return [Occupant(*row[:-1]) for row in self._cursor.fetchall()]

    def _prepared(self, database: str) -> list[str]:
        """Transactions that are prepared, which PostgreSQL counts as well."""
        self._cursor.execute(_PREPARED, [database])
        return [gid for (gid,) in self._cursor.fetchall()]


def advice(left: Iterable[Occupant], prepared: Iterable[str], first: Collection[int] | None) -> str:
    """Return what to do if a database is in use, to be appended to PostgreSQL's error; empty if nothing is known.

    first has the pids of those who were there when ending began; it is None if nobody may be ended in this database.
    """
    by_remedy: dict[str, list[Occupant]] = {}
    for each in left:
        by_remedy.setdefault(_remedy(each, first), []).append(each)
    told = [
        f"; {', '.join(map(str, found))} {'is' if len(found) == 1 else 'are'} there: {remedy}"
        for remedy, found in by_remedy.items()
    ]
    if names := ", ".join(map(repr, prepared)):
        told.append(f"; prepared there: {names}; end it in that database by COMMIT PREPARED or ROLLBACK PREPARED")
    return "".join(told)


def _remedy(occupant: Occupant, first: Collection[int] | None) -> str:
    if occupant.state not in (None, "idle"):
        return "let it come to its end, or end it with pg_terminate_backend(pid)"
    if first is None:
        return "who rests in a database that is no test database is not ended; let it disconnect"
    if not occupant.may_be_ended:
        return "the role of the admin group may not end it; let it disconnect, or make that role a member of its role"
    if occupant.pid in first:
        return "let it disconnect"
    return (
        "it came after those who rested had been ended. If the broker has opened it, set min_size = 0 in the group of "
        "this database; else let the client disconnect"
    )
