"""Logging in to every endpoint as the broker would, for each group, and asking once what the server is and allows."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg2

from poold.config.model import GROUP, Config, EndpointConfig, GroupConfig
from poold.postgres.backend import one_line
from poold.postgres.connect import Learned, UnsuitableServer, ask, connect
from poold.postgres.parameter_status import LABEL

# Sessions of others are counted by what every role may see of them. Settings are in milliseconds, None on servers that
# do not have them.
_QUESTION = """
SELECT pg_catalog.pg_is_in_recovery(),
    (SELECT c.system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system() AS c),
    pg_catalog.pg_postmaster_start_time()::pg_catalog.text,
    r.rolsuper,
    pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'MEMBER'),
    pg_catalog.current_setting('max_connections')::pg_catalog.int4,
    pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int4 OPERATOR(pg_catalog.+)
        coalesce(pg_catalog.current_setting('reserved_connections', true)::pg_catalog.int4, 0),
    r.rolconnlimit,
    d.datconnlimit,
    (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity AS a
        WHERE a.datid IS NOT NULL AND a.usesysid IS NOT NULL
        AND (a.usename OPERATOR(pg_catalog.=) current_user
            AND a.application_name OPERATOR(pg_catalog.~~) ANY (%s)) IS NOT TRUE),
    (SELECT s.setting::pg_catalog.int8 FROM pg_catalog.pg_settings AS s WHERE s.name = 'idle_session_timeout'),
    (SELECT s.setting::pg_catalog.int8 FROM pg_catalog.pg_settings AS s
        WHERE s.name = 'idle_in_transaction_session_timeout'),
    (SELECT s.setting::pg_catalog.int8 FROM pg_catalog.pg_settings AS s WHERE s.name = 'transaction_timeout')
FROM pg_catalog.pg_roles AS r, pg_catalog.pg_database AS d
WHERE r.rolname OPERATOR(pg_catalog.=) current_user
AND d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a login has found out."""

    version: int  # as libpq counts, 160002
    is_encrypted: bool
    is_standby: bool
    system: str  # the database cluster's identifier
    started: str  # with system: whether two endpoints are one server
    is_superuser: bool
    sees_statistics: bool  # whether the role is a member of pg_read_all_stats
    max_connections: int
    reserved: int  # of these, for superusers and members of pg_use_reserved_connections
    role_limit: int  # -1 is none
    database_limit: int  # -1 is none
    others: int  # sessions now that are not a broker's with this role and application_name
    idle_session_timeout: int | None
    idle_in_transaction_session_timeout: int | None
    transaction_timeout: int | None


@dataclass(frozen=True, slots=True)
class Visit:
    """How logging in to one endpoint went."""

    failures: Mapping[str, str]  # the error of each group for which it failed
    found: Found | None  # None if it failed for all


def examine(config: Config) -> dict[str, Visit]:
    """Return how it went with each endpoint that a group uses; all are visited at once."""
    return asyncio.run(visit_all(config))


async def visit_all(config: Config) -> dict[str, Visit]:
    """As `examine`, in a loop that runs."""
    users = {
        name: {group: each for group, each in config.groups.items() if name in each.endpoints}
        for name in config.endpoints
    }
    used = {name: groups for name, groups in users.items() if groups}
    visits = await asyncio.gather(*(_visit(config.endpoints[name], groups) for name, groups in used.items()))
    return dict(zip(used, visits, strict=True))


async def _visit(endpoint: EndpointConfig, groups: Mapping[str, GroupConfig]) -> Visit:
    """Log in for one group after the other, as a server may have little room."""
    failures, found, learned = {}, None, Learned()
    for name, group in groups.items():
        try:
            async with asyncio.timeout(endpoint.connect_timeout):
                found = await _login(endpoint, group, learned)
        except TimeoutError:
            failures[name] = f"no login within connect_timeout, {endpoint.connect_timeout:g} s"
        except (psycopg2.Error, OSError, UnicodeError) as error:
            failures[name] = one_line(error)
    return Visit(failures, found)


def _names(endpoint: EndpointConfig) -> list[str]:
    """Patterns of the application_names that a broker's sessions may have: of any group, or of a request's tag."""
    escaped = re.sub(r"([\\\\%_])", r"\\\1", endpoint.application_name)
    return [escaped.replace(GROUP, "%"), f"{LABEL}%"]


async def _login(endpoint: EndpointConfig, group: GroupConfig, learned: Learned) -> Found:
    connection: Any
    connection, server = await connect(endpoint, group, learned)
    try:
        rows = await ask(connection, _QUESTION, (_names(endpoint),))
    finally:
        connection.close()
    if len(rows) != 1:
        raise UnsuitableServer("the server was asked what it is and answered with something else")
    names = (name for name in Found.__slots__ if name not in ("version", "is_encrypted"))
    return Found(version=server.version, is_encrypted=server.is_encrypted, **dict(zip(names, rows[0], strict=True)))
