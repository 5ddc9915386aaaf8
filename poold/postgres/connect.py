"""Opening a backend: psycopg2 connects, authenticates and encrypts; then the session is made ready for clients."""

from __future__ import annotations

import asyncio
import logging
import socket
from enum import Enum
from functools import partial
from types import NoneType
from typing import Any

import psycopg2
from psycopg2 import extensions

from poold.config import passwords
from poold.config.model import EndpointConfig, GroupConfig
from poold.core.facts import Server
from poold.postgres import libpq, startup
from poold.system import descriptors
from poold.system.side_threads import Aside

log = logging.getLogger(__name__)

# The part of connect_timeout that a look-up or a file may take; after all of it the core gives up, without a reason.
ASIDE_SHARE = 0.9

# The cluster and its timeline, as transaction ids mean the same only if both are the same; on a standby, where nothing
# is written, "". Then stats_reset, which shows a recovery from a crash, as that drops the statistics. Every role may
# call the functions: https://www.postgresql.org/docs/current/functions-info.html
_IDENTITY = (
    "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN '' ELSE pg_catalog.concat(system_identifier, '/', "
    "pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8)) END, "
    "(SELECT pg_catalog.concat(stats_reset) FROM pg_catalog.pg_stat_bgwriter) FROM pg_catalog.pg_control_system()"
)
_STATE = "SELECT state, wait_event_type FROM pg_catalog.pg_stat_activity WHERE pid OPERATOR(pg_catalog.=) %s"
# pg_current_xact_id and pg_xact_status came with 13.
_TELLS_OUTCOMES = 130000


# In application_name, of connections that belong to no group.
EVERY_GROUP = "*"


class UnsuitableServer(OSError):
    """The connection must not be used; the text says why and what to do."""


class Learned:
    """What earlier connects to an endpoint have found out, and what is being looked up for it."""

    def __init__(self) -> None:
        self.refuses_check = False  # whether the server refuses client_connection_check_interval
        self.date_style = ""  # the DateStyle to ask for if the default of role or database is not ISO
        self.addresses: Aside[list[str]] = Aside("name")
        self.password: Aside[str | None] = Aside("password")


async def connect(config: EndpointConfig, group: GroupConfig, learned: Learned | None = None) -> tuple[Any, Server]:
    """Return a psycopg2 connection in asynchronous mode, idle, and what its server is.

    Raises psycopg2.Error, OSError or UnicodeError.
    """
    learned = learned or Learned()
    while True:
        has_check = startup.CHECK not in startup.given(config.options) and not learned.refuses_check
        date_style = learned.date_style
        parameters = await _parameters(config, learned)
        parameters["options"] = startup.options(config, group, has_check, date_style)
        connection: Any = None
        try:
            connection = _begun(parameters)
            _refuse_kept(connection)
            await _finish_polling(connection)
            _refuse_kept(connection)  # libpq may have tried another address
            settings = await _settings(connection, config, group)
            learned.date_style = startup.iso_for(settings) or date_style
            if learned.date_style == date_style:
                if wrong := startup.objections(settings, config, group):
                    raise UnsuitableServer(startup.advice(wrong, config.user))
                return connection, await _prepare_session(connection, group)
            connection.close()
        except BaseException as error:
            if connection is not None:
                connection.close()
            # Servers before 14 do not know CHECK, and others refuse it on platforms without POLLRDHUP: long queries
            # there outlive a broker that is killed. The error names the setting, whatever its language.
            if not has_check or not isinstance(error, psycopg2.OperationalError) or startup.CHECK not in str(error):
                raise
            learned.refuses_check = True
            log.info("startup option not set name=%s error=%s", startup.CHECK, " ".join(str(error).split()))


def _begun(parameters: dict[str, Any]) -> Any:
    """Return a connection that begins to connect; raises as connect does."""
    try:
        return psycopg2.connect(async_=1, **parameters)
    except psycopg2.OperationalError as error:
        if str(error).strip():
            raise
    # Without a socket libpq has no connection that could keep its text; what it has tried says it.
    try:
        socket.socket(socket.AF_UNIX).close()
    except OSError as error:
        raise UnsuitableServer(f"no socket can be opened: {error.strerror}; {descriptors.WAYS}") from None
    raise UnsuitableServer("libpq cannot begin to connect, and does not say why")


def _refuse_kept(connection: Any, what: str = "another backend", count: int = descriptors.KEPT) -> None:
    """Raise an error if the connection has one of so many descriptors that are kept for others."""
    if descriptors.is_kept(connection.fileno(), count):
        raise UnsuitableServer(
            f"no descriptor is left for {what}: this process may have {descriptors.limit()}, of which {count} are kept "
            f"for operators; {descriptors.WAYS}, or lower max_size"
        )


async def _parameters(config: EndpointConfig, learned: Learned) -> dict[str, Any]:
    """Return psycopg2's parameters. Names are resolved here, beside the loop: libpq would block the loop."""
    parameters: dict[str, Any] = {
        "host": config.host,
        "port": config.port,
        "dbname": config.dbname,
        "user": config.user,
        "password": await _password(config, learned),
        "sslmode": config.sslmode,
        "sslrootcert": config.sslrootcert,
        "sslcert": config.sslcert,
        "sslkey": config.sslkey,
        "sslcrl": config.sslcrl,
        "channel_binding": config.channel_binding,
        "gssencmode": "disable",  # its bytes could not be read outside libpq
        "application_name": config.named(EVERY_GROUP).application_name,  # if it still has a place for one
        "client_encoding": "UTF8",
        # A server that vanished from the network is noticed within a minute even if nothing is sent.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        # There are no keepalives while sent data is not acknowledged; the connection is given up after as long.
        "tcp_user_timeout": 60_000,
    }
    if not config.host.startswith("/"):
        addresses = await _addresses(config, learned)
        parameters["hostaddr"] = ",".join(addresses)
        parameters["host"] = ",".join([config.host] * len(addresses))
    return {name: value for name, value in parameters.items() if value is not None}


async def _addresses(config: EndpointConfig, learned: Learned) -> list[str]:
    def look_up() -> list[str]:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(each[4][0]) for each in found))

    timeout = ASIDE_SHARE * config.connect_timeout
    try:
        return await learned.addresses.ask(look_up, timeout)
    except TimeoutError:
        text = f"the name {config.host!r} was not resolved within {timeout:.3g} s: the name server does not answer"
        raise UnsuitableServer(text) from None


async def _password(config: EndpointConfig, learned: Learned) -> str | None:
    if config.password_file is None:
        return config.password
    timeout = ASIDE_SHARE * config.connect_timeout
    try:
        return await learned.password.ask(partial(passwords.current, config), timeout)
    except TimeoutError:
        text = f"password_file {config.password_file} could not be read within {timeout:.3g} s"
        raise UnsuitableServer(text) from None


async def _finish_polling(connection: Any) -> None:
    """Wait until the connection is ready.

    While it connects its descriptor may change, even to another file of the same number, so the loop watches it for
    one event only and stops watching before libpq may close it.
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


async def plain(config: EndpointConfig, learned: Learned) -> Any:
    """Return a connection in asynchronous mode for the broker's own questions; raises as connect does."""
    connection = _begun(await _parameters(config, learned))
    try:
        await _finish_polling(connection)
    except BaseException:
        connection.close()
        raise
    return connection


class Doing(Enum):
    """What a server process does for its client."""

    WORKING = "it is at work, or nobody can tell"
    WAITING = "it runs a statement, and waits for bytes of its client's, or for its client to take some"
    IDLE = "it has nothing to do, or is gone"


async def doing(config: EndpointConfig, learned: Learned, pid: int) -> Doing:
    """What the server process does for its client, asked by another connection.

    Raises as connect does, also if there is no answer within connect_timeout.
    """
    connection: Any = None
    try:
        async with asyncio.timeout(config.connect_timeout):
            connection = await plain(config, learned)
            _refuse_kept(connection, "a question about a backend", descriptors.LAST)
            rows = await ask(connection, _STATE, (pid,))
            if not rows:
                return await _without(connection)
    except psycopg2.OperationalError as error:
        if "FATAL" not in str(error):
            raise
        return Doing.WORKING  # the server lets no other connection in, but it answers
    finally:
        if connection is not None:
            connection.close()
    if any(str(state).startswith("idle") for state, _ in rows):
        return Doing.IDLE
    return Doing.WAITING if any(waits_for == "Client" for _, waits_for in rows) else Doing.WORKING


async def _without(connection: Any) -> Doing:
    """What a process does that the server does not list: it is gone, unless something in between made up its pid."""
    ((pid,),) = await ask(connection, "SELECT pg_catalog.pg_backend_pid()")
    return Doing.IDLE if pid == connection.get_backend_pid() else Doing.WORKING


async def _settings(connection: Any, config: EndpointConfig, group: GroupConfig) -> list[startup.Setting]:
    """Return the settings that the session has, and those that RESET gives it."""
    rows = await ask(connection, startup.QUESTION, (startup.names(config, group),))
    if not all(len(row) == 6 and all(type(cell) in (str, NoneType) for cell in row) for row in rows):
        raise UnsuitableServer("the server was asked for its settings and answered with something else")
    return [startup.Setting(*row) for row in rows if row[0] is not None]


async def _prepare_session(connection: Any, group: GroupConfig) -> Server:
    """Do what each new backend needs before its first client; return what the server is."""
    names = 0
    if group.sqlprepare:
        await ask(connection, 'SELECT "SQLPrepare"."PrepareQueries"()')
        ((names,),) = await ask(connection, "SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_statements")
    identity = epoch = ""
    if group.track_outcome and connection.server_version >= _TELLS_OUTCOMES:
        try:
            ((identity, epoch),) = await ask(connection, _IDENTITY)
        except (psycopg2.ProgrammingError, ValueError) as error:
            log.info("outcomes of COMMIT cannot be tracked error=%s", " ".join(str(error).split()))
    pid = int(connection.get_backend_pid())
    is_encrypted = libpq.is_encrypted(connection)
    is_standby = None if group.wanted == "any" else await _is_standby(connection)
    return Server(connection.server_version, str(identity), str(epoch), pid, names, is_encrypted, is_standby)


async def _is_standby(connection: Any) -> bool:
    """Whether the server is a standby. From PostgreSQL 14 on it says so by itself."""
    told = connection.get_parameter_status("in_hot_standby")
    if told is not None:
        return bool(told == "on")
    ((is_in_recovery,),) = await ask(connection, "SELECT pg_catalog.pg_is_in_recovery()")
    return bool(is_in_recovery)


async def ask(connection: Any, sql: str, values: tuple[Any, ...] | None = None) -> list[tuple[Any, ...]]:
    """Run a statement and return its rows."""
    cursor = connection.cursor()
    cursor.execute(sql, values)
    await _finish_polling(connection)
    try:
        return list(cursor.fetchall())
    except (ValueError, TypeError, ArithmeticError) as error:
        # psycopg2 casts by the types that the server names, and a value may not fit its type.
        raise UnsuitableServer(f"the server sent a value that is not of its type ({type(error).__name__})") from None
