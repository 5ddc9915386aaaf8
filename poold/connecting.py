"""Opening a backend: psycopg2 connects, authenticates and encrypts; then the session is made ready for clients."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import psycopg2
from psycopg2 import extensions

from poold.config import EndpointConfig, GroupConfig
from poold.core.facts import Server

log = logging.getLogger(__name__)

# How often a running query checks whether its client, the broker, is still there (PostgreSQL 14 and later).
CONNECTION_CHECK_INTERVAL = "5s"

# The cluster and its timeline; transaction ids mean the same only where both are the same. On a standby nothing is
# written. Statistics are dropped by a recovery from a crash, and then say so. The functions are for everybody: https://www.postgresql.org/docs/current/functions-info.html
_IDENTITY = (
    "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN '' ELSE pg_catalog.concat(system_identifier, '/', "
    "pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8)) END, "
    "(SELECT pg_catalog.concat(stats_reset) FROM pg_catalog.pg_stat_bgwriter) FROM pg_catalog.pg_control_system()"
)
# pg_current_xact_id and pg_xact_status came with 13.
_TELLS_OUTCOMES = 130000


async def connect(config: EndpointConfig, group: GroupConfig) -> tuple[Any, Server]:
    """A psycopg2 connection in asynchronous mode, idle, and what its server is.

    Raises psycopg2.Error, OSError or UnicodeError.
    """
    connection: Any = None
    try:
        connection = psycopg2.connect(async_=1, **await _parameters(config, group))
        await _finish_polling(connection)
        server = await _prepare_session(connection, group)
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    return connection, server


async def _parameters(config: EndpointConfig, group: GroupConfig) -> dict[str, Any]:
    """psycopg2's parameters. Names are resolved here, off the loop: libpq would block on them."""
    read_only = "-c default_transaction_read_only=on" if group.read_only else ""
    parameters: dict[str, Any] = {
        "host": config.host,
        "port": config.port,
        "dbname": config.dbname,
        "user": config.user,
        "password": config.password,
        "sslmode": config.sslmode,
        "sslrootcert": config.sslrootcert,
        "sslcert": config.sslcert,
        "sslkey": config.sslkey,
        "sslcrl": config.sslcrl,
        "channel_binding": config.channel_binding,
        "gssencmode": "disable",  # its bytes could not be read outside libpq
        "application_name": config.application_name,
        "client_encoding": "UTF8",
        # Later options win: what literals rely on cannot be set otherwise.
        "options": (
            f"-c statement_timeout={round(config.query_timeout * 1000)} -c temp_buffers={config.temp_buffers} "
            f"{config.options} {read_only} -c standard_conforming_strings=on -c DateStyle=ISO "
            "-c IntervalStyle=postgres"
        ),
        # A server that vanished from the network is noticed within a minute even where nothing is sent.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        # Nor do keepalives ask while something sent is not acknowledged; that is given up after as long.
        "tcp_user_timeout": 60_000,
    }
    if not config.host.startswith("/"):
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(each[4][0] for each in found))
        parameters["hostaddr"] = ",".join(map(str, addresses))
        parameters["host"] = ",".join([config.host] * len(addresses))
    return {name: value for name, value in parameters.items() if value is not None}


async def _finish_polling(connection: Any) -> None:
    """Wait until the connection is ready.

    While it connects its descriptor may change, even to another file of the same number, so the loop watches it for
    one event only and lets go of it before libpq may close it.
    """
    loop = asyncio.get_running_loop()
    while (state := connection.poll()) != extensions.POLL_OK:
        descriptor = connection.fileno()
        ready = loop.create_future()
        add, remove = (
            (loop.add_writer, loop.remove_writer)
            if state == extensions.POLL_WRITE
            else (loop.add_reader, loop.remove_reader)
        )
        add(descriptor, _set_ready, ready)
        try:
            await ready
        finally:
            remove(descriptor)


def _set_ready(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _prepare_session(connection: Any, group: GroupConfig) -> Server:
    """What each new backend gets before its first client."""
    cursor = connection.cursor()
    connection_check = ""
    if connection.server_version >= 140000:
        try:
            cursor.execute(
                "SELECT pg_catalog.set_config('client_connection_check_interval', %s, false)",
                (CONNECTION_CHECK_INTERVAL,),
            )
            await _finish_polling(connection)
            connection_check = CONNECTION_CHECK_INTERVAL
        except psycopg2.DataError as error:
            # Servers on platforms without POLLRDHUP refuse it; long queries there outlive a broker that is killed.
            log.info("client_connection_check_interval not set error=%s", " ".join(str(error).split()))
    names = 0
    if group.sqlprepare:
        cursor.execute('SELECT "SQLPrepare"."PrepareQueries"()')
        await _finish_polling(connection)
        cursor.execute("SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_statements")
        await _finish_polling(connection)
        (names,) = cursor.fetchone()
    identity = epoch = ""
    if group.track_outcome and connection.server_version >= _TELLS_OUTCOMES:
        try:
            cursor.execute(_IDENTITY)
            await _finish_polling(connection)
            identity, epoch = cursor.fetchone()
        except psycopg2.ProgrammingError as error:
            log.info("outcomes of COMMIT cannot be tracked error=%s", " ".join(str(error).split()))
    return Server(connection.server_version, identity, epoch, connection_check, connection.info.backend_pid, names)
