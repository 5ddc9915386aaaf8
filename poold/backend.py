"""Backends: PostgreSQL connections on the event loop, by psycopg2 in its asynchronous mode.

Effects of the core come in as method calls, facts go back to it. On the hot path, Execute and its completion, there is
no coroutine, no task and no thread: the statement is sent, the descriptor becomes readable, the result is packed.
Opening a backend is a coroutine; cancelling one takes a thread, because psycopg2's cancel() blocks.

The broker decodes no value: every caster of a backend is BYTES, so a cell stays PostgreSQL's text. (A type that
psycopg2 does not know comes as str, decoded and encoded again; so one byte sequence of a user-defined type in an
SQL_ASCII database that is not UTF-8 makes a result unreadable.) libpq reads a result whole before it can be measured,
so a result above max_result_bytes passes through the broker's memory once before it is refused.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import psycopg2
from psycopg2 import extensions

from client.errors import Diagnostics
from client.protocol import (
    EXECUTED,
    FAILED,
    TX_ACTIVE,
    TX_BROKEN,
    TX_FAILED,
    TX_NONE,
    Failure,
    array_header,
    encode_result_body,
    encode_value,
)
from poold.config import Config, EndpointConfig, GroupConfig
from poold.core.broker import Broker
from poold.core.machine import Completion

log = logging.getLogger(__name__)

# Rows fetched and packed at once: a result that is too large is noticed before all of it is packed.
FETCH_ROWS = 1000
# A statement of this size fits the socket's buffer of an idle connection; a longer one may need another push.
SENT_AT_ONCE = 8192
# Cancels under way at once. Each blocks a thread for as long as the server takes to answer.
CANCEL_THREADS = 8
# What clients' literals and casters rely on (see client.values); PostgreSQL reports changes of these by itself.
RELIED_ON = ("standard_conforming_strings", "client_encoding", "DateStyle", "IntervalStyle")
# How often a running query checks whether its client, the broker, is still there (PostgreSQL 14 and later).
CONNECTION_CHECK_INTERVAL = "5s"

_TRANSACTIONS = {
    extensions.TRANSACTION_STATUS_IDLE: TX_NONE,
    extensions.TRANSACTION_STATUS_INTRANS: TX_ACTIVE,
    extensions.TRANSACTION_STATUS_INERROR: TX_FAILED,
}


class Backends:
    """All backends of the broker, by number.

    An effect may name a backend that was lost after the core decided and before the turn came to it. The core has been
    told by then, and has answered the request; the effect is void.
    """

    def __init__(self, config: Config, broker: Broker, wake: Callable[[], None]) -> None:
        """wake is called after each fact given to broker: there may be effects to take."""
        self._config = config
        self._broker = broker
        self._wake = wake
        self._open: dict[int, Backend] = {}
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._cancels = ThreadPoolExecutor(CANCEL_THREADS, thread_name_prefix="cancel")

    def connect(self, number: int, group: str, endpoint: str) -> None:
        """Begin to open a backend."""
        opening = self._open_backend(number, self._config.groups[group], endpoint)
        self._opening[number] = asyncio.get_running_loop().create_task(opening)

    def execute(self, number: int, statement: bytes, begin: bool) -> None:
        """Run a statement."""
        if (backend := self._open.get(number)) is not None:
            backend.execute(statement, begin)

    def reset(self, number: int) -> None:
        """Roll back."""
        self.execute(number, b"ROLLBACK", False)

    def cancel(self, number: int) -> None:
        """Cancel what the backend runs."""
        if (backend := self._open.get(number)) is not None:
            backend.cancel(self._cancels)

    def close(self, number: int, reason: str) -> None:
        """Close a backend, open or still opening."""
        task = self._opening.pop(number, None)
        if task is not None:
            task.cancel()
        backend = self._open.pop(number, None)
        if backend is not None:
            log.debug("backend closed number=%d reason=%s", number, reason)
            backend.close()

    def close_all(self) -> None:
        """Close every backend; for the end of the broker."""
        for number in [*self._opening, *self._open]:
            self.close(number, "the broker stops")
        self._cancels.shutdown(wait=False, cancel_futures=True)

    async def _open_backend(self, number: int, group: GroupConfig, endpoint: str) -> None:
        config = self._config.endpoints[endpoint]
        connection: Any = None
        try:
            connection = psycopg2.connect(async_=1, **await _connection_parameters(config))
            await _finish_polling(connection)
            await _prepare_session(connection, group)
        except (psycopg2.Error, OSError, UnicodeError) as error:
            if connection is not None:
                connection.close()
            log.warning("connect failed endpoint=%s error=%s", endpoint, _one_line(error))
            self._opening.pop(number, None)
            self._broker.connect_failed(number, _one_line(error), monotonic())
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        else:
            del self._opening[number]
            limit = self._config.broker.max_result_bytes
            self._open[number] = Backend(number, connection, limit, self._broker, self._wake, self._forget)
            log.debug("backend opened number=%d endpoint=%s", number, endpoint)
            self._broker.opened(number, monotonic())
        self._wake()

    def _forget(self, number: int) -> None:
        self._open.pop(number, None)


class Backend:
    """One open connection. It runs at most one statement at a time."""

    def __init__(
        self,
        number: int,
        connection: Any,
        max_result_bytes: int,
        broker: Broker,
        wake: Callable[[], None],
        forget: Callable[[int], None],
    ) -> None:
        self._number = number
        self._connection = connection
        self._max_result_bytes = max_result_bytes
        self._broker = broker
        self._wake = wake
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._descriptor: int = connection.fileno()
        self._cursor = connection.cursor()
        self._is_running = False
        self._after_begin: bytes | None = None  # the statement that BEGIN makes way for
        self._cancelling: asyncio.Future[None] | None = None
        self._is_writing = False
        self._relied_on = [connection.get_parameter_status(name) for name in RELIED_ON]
        connection.notices = connection.notifies = _Discard()
        connection.string_types.update(dict.fromkeys(extensions.string_types, extensions.BYTES))
        self._loop.add_reader(self._descriptor, self._progress)

    def execute(self, statement: bytes, begin: bool) -> None:
        """Send the statement, after BEGIN where the transaction begins with it."""
        if begin:
            self._after_begin = statement
            statement = b"BEGIN"
        self._is_running = True
        try:
            self._cursor.execute(statement)
        except psycopg2.Error as error:
            self._fail(error)
            return
        if len(statement) > SENT_AT_ONCE:
            self._progress()

    def cancel(self, threads: ThreadPoolExecutor) -> None:
        """Ask the server to cancel, in a thread; the fact comes when the server has taken it."""
        self._cancelling = self._loop.run_in_executor(threads, self._connection.cancel)
        self._cancelling.add_done_callback(self._cancel_settled)

    def close(self) -> None:
        """Close the connection; with a cancel under way, when that is over: it uses the connection's memory."""
        self._loop.remove_reader(self._descriptor)
        if self._is_writing:
            self._loop.remove_writer(self._descriptor)
        if self._cancelling is None:
            self._connection.close()
        else:
            self._cancelling.add_done_callback(lambda _: self._connection.close())

    def _cancel_settled(self, done: "asyncio.Future[None]") -> None:
        self._cancelling = None
        if not done.cancelled() and (error := done.exception()) is not None:
            log.warning("cancel failed backend=%d error=%s", self._number, _one_line(error))
        self._broker.cancelled(self._number, monotonic())
        self._wake()

    def _progress(self) -> None:
        """The descriptor is ready: the result has come, or more is needed, or the connection is gone."""
        try:
            state = self._connection.poll()
        except psycopg2.Error as error:
            self._fail(error)
            return
        if state == extensions.POLL_OK:
            if self._is_running:
                self._succeed()
        elif (state == extensions.POLL_WRITE) is not self._is_writing:
            self._is_writing = not self._is_writing
            if self._is_writing:
                self._loop.add_writer(self._descriptor, self._progress)
            else:
                self._loop.remove_writer(self._descriptor)

    def _succeed(self) -> None:
        if self._after_begin is not None:
            statement, self._after_begin = self._after_begin, None
            self.execute(statement, False)
            return
        transaction = _TRANSACTIONS.get(self._connection.get_transaction_status(), TX_BROKEN)
        if [self._connection.get_parameter_status(name) for name in RELIED_ON] != self._relied_on:
            self._complete(Completion(TX_BROKEN, "", _relied_on_failure()))
            return
        try:
            reply = self._pack(transaction)
        except UnicodeDecodeError as error:
            text = f"the result holds text that is not UTF-8, which no client can read: {error}"
            reply = Failure(0, transaction, "query", EXECUTED, text, None, {})
        self._complete(Completion(transaction, self._cursor.statusmessage or "", reply))

    def _fail(self, error: psycopg2.Error) -> None:
        """The statement failed, or the connection did: conn.closed tells, the error's class does not."""
        if self._connection.closed:
            self._forget(self._number)
            self.close()
            self._broker.lost(self._number, _one_line(error), monotonic())
            self._wake()
        elif self._is_running:
            transaction = _TRANSACTIONS.get(self._connection.get_transaction_status(), TX_BROKEN)
            self._complete(Completion(transaction, "", _failure(error, transaction)))
        else:
            log.warning("unexpected error on an idle backend number=%d error=%s", self._number, _one_line(error))

    def _complete(self, done: Completion) -> None:
        self._is_running = False
        self._after_begin = None
        self._broker.completed(self._number, done, monotonic())
        self._wake()

    def _pack(self, transaction: str) -> bytes | Failure:
        """The result as the body of its reply, or the error that it is too large."""
        cursor = self._cursor
        description = cursor.description
        command, count = cursor.statusmessage or "", cursor.rowcount
        if description is None:
            return encode_result_body((transaction, command, count, None, []))
        columns = [(each.name, each.type_code, each.internal_size, each.precision, each.scale) for each in description]
        if count <= FETCH_ROWS:
            body = encode_result_body((transaction, command, count, columns, cursor.fetchall()))
            return body if len(body) <= self._max_result_bytes else self._too_large(transaction)
        # Each batch is an array of its own to msgpack; its header is cut off and one for all rows put in front.
        parts = [encode_result_body((transaction, command, count, columns)), array_header(count)]
        size = 0
        while rows := cursor.fetchmany(FETCH_ROWS):
            parts.append(encode_value(rows)[len(array_header(len(rows))) :])
            size += len(parts[-1])
            if size > self._max_result_bytes:
                return self._too_large(transaction)
        self._cursor = self._connection.cursor()  # the old one would keep the result's memory until the next statement
        return b"".join(parts)

    def _too_large(self, transaction: str) -> Failure:
        self._cursor = self._connection.cursor()
        text = (
            f"the statement was executed, but its result exceeds {self._max_result_bytes} bytes (max_result_bytes in "
            "[broker]); ask for less at a time (LIMIT, fewer columns) or raise the limit"
        )
        return Failure(0, transaction, "result-too-large", EXECUTED, text, None, {})


class _Discard:
    """Takes psycopg2's notices and notifications and keeps nothing; its own lists grow."""

    def append(self, _: object) -> None:
        """Drop it."""


async def _connection_parameters(config: EndpointConfig) -> dict[str, Any]:
    """psycopg2's parameters. Names are resolved here, off the loop: libpq would block on them."""
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
        "application_name": config.application_name,
        "client_encoding": "UTF8",
        # Later options win: what literals rely on cannot be set otherwise.
        "options": (
            f"-c statement_timeout={round(config.query_timeout * 1000)} -c temp_buffers={config.temp_buffers} "
            f"{config.options} -c standard_conforming_strings=on -c DateStyle=ISO -c IntervalStyle=postgres"
        ),
        # A server that vanished from the network is noticed within a minute even where nothing is sent.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
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


def _set_ready(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


async def _prepare_session(connection: Any, group: GroupConfig) -> None:
    """What each new backend gets before its first client."""
    cursor = connection.cursor()
    if connection.server_version >= 140000:
        try:
            cursor.execute(
                "SELECT pg_catalog.set_config('client_connection_check_interval', %s, false)",
                (CONNECTION_CHECK_INTERVAL,),
            )
            await _finish_polling(connection)
        except psycopg2.DataError as error:
            # Servers on platforms without POLLRDHUP refuse it; long queries there outlive a broker that is killed.
            log.info("client_connection_check_interval not set error=%s", _one_line(error))
    if group.sqlprepare:
        cursor.execute('SELECT "SQLPrepare"."PrepareQueries"()')
        await _finish_polling(connection)


def _failure(error: psycopg2.Error, transaction: str) -> Failure:
    """PostgreSQL's error for the wire. After FATAL it closes the connection, having rolled the statement back."""
    diag = {name: value for name in Diagnostics.FIELDS if (value := getattr(error.diag, name, None)) is not None}
    kind = "connection" if diag.get("severity_nonlocalized") in ("FATAL", "PANIC") else "query"
    if error.pgcode is None and isinstance(error, psycopg2.ProgrammingError):
        kind = "statement-refused"
    return Failure(0, transaction, kind, FAILED, str(error), error.pgcode, diag)


def _relied_on_failure() -> Failure:
    text = (
        f"a statement must not change {', '.join(RELIED_ON)}: the clients' literals and values rely on them; "
        "the connection was closed, an open transaction rolled back"
    )
    return Failure(0, TX_BROKEN, "usage", FAILED, text, None, {})


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
