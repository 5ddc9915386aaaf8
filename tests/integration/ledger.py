"""A table that transactions write their tags into, and the ways in which tests run and disturb them."""

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest
from brokers import Broker
from postgres import Postgres, PrivatePostgres
from waiting import wait_until

from client import Transaction

Kill = Callable[[Postgres, int], None]

ENDPOINT = {"options": "-c deadlock_timeout=50ms", "query_timeout": 0}
# A row whose gate is not 0 makes its transaction wait there while it commits.
TABLES = """
CREATE TABLE ledger (tag text, amount int DEFAULT 1, gate bigint DEFAULT 0);
CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF NEW.gate <> 0 THEN PERFORM pg_advisory_xact_lock_shared(NEW.gate); END IF; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON ledger DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION at_commit()
"""
ADD = "INSERT INTO ledger (tag) VALUES (%s)"
ADD_AT_COMMIT = "INSERT INTO ledger (tag, gate) VALUES (%s, %s)"


def drop_tables(server: Postgres) -> None:
    """The end of TABLES."""
    server.execute("DROP TABLE ledger; DROP FUNCTION at_commit")


def tags(server: Postgres) -> list[str]:
    """What was committed."""
    return [tag for (tag,) in server.execute("SELECT tag FROM ledger ORDER BY tag")]


def book(broker: Broker, *statements: Any, group: str = "default", **options: Any) -> Transaction:
    """Run the statements as one transaction; its block."""
    with broker.handler(group).transaction(**options) as tx:
        for statement in statements:
            tx.query(*statement) if isinstance(statement, tuple) else tx.query(statement)
    return tx


def terminate(server: Postgres, pid: int) -> None:
    """End a process as an administrator does; PostgreSQL says so to the broker."""
    server.execute("SELECT pg_terminate_backend(%s)", (pid,))


def crash(server: Postgres, pid: int) -> None:
    """End a process as the kernel does when memory runs out; PostgreSQL ends all its processes and recovers.

    Returns when it has begun to: until then it would still take connections, only to end them.
    """
    if not isinstance(server, PrivatePostgres):
        pytest.skip("a container's processes have other numbers out here")
    connection = server.connect()

    def is_ended() -> bool:
        with contextlib.suppress(psycopg2.Error):
            connection.cursor().execute("SELECT 1")
        return connection.closed != 0

    os.kill(pid, signal.SIGKILL)
    try:
        wait_until(is_ended, what="the server to notice the crash")
    finally:
        connection.close()
