"""What is known of a connection and its server: psycopg2's connection.info, answered by questions to the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import psycopg2
from psycopg2 import extensions

if TYPE_CHECKING:
    from client.values.result import Result

# The settings that PostgreSQL reports to its clients, https://www.postgresql.org/docs/current/protocol-flow.html
REPORTED = frozenset(
    (
        "application_name", "client_encoding", "DateStyle", "default_transaction_read_only", "in_hot_standby",
        "integer_datetimes", "IntervalStyle", "is_superuser", "scram_iterations", "search_path", "server_encoding",
        "server_version", "session_authorization", "standard_conforming_strings", "TimeZone",
    )
)  # fmt: skip
_SERVER = (
    "SELECT pg_catalog.current_database(), session_user, coalesce(pg_catalog.host(pg_catalog.inet_server_addr()), ''), "
    "pg_catalog.current_setting('port')::int, pg_catalog.current_setting('server_version_num')::int"
)
_CLOSED = (None,) * 5


class ConnectionInfo:
    """The attributes of psycopg2.extensions.ConnectionInfo that have a meaning where a broker is in between.

    Of a closed connection they are None.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._known: tuple[Any, ...] | None = None  # database, user, host, port and version, asked for once
        self._pid: int | None = None

    @property
    def dbname(self) -> str | None:
        """The database, of the broker's configuration."""
        found: str | None = self._server()[0]
        return found

    @property
    def user(self) -> str | None:
        """The user as which the broker has connected."""
        found: str | None = self._server()[1]
        return found

    @property
    def password(self) -> str | None:
        """Always empty: no client knows the broker's passwords."""
        return self._if_open("")

    @property
    def host(self) -> str | None:
        """The server's address as the server has it; empty if the broker connects by a unix socket."""
        found: str | None = self._server()[2]
        return found

    @property
    def port(self) -> int | None:
        """The server's port as the server has it."""
        found: int | None = self._server()[3]
        return found

    @property
    def options(self) -> str | None:
        """Always empty: the options of backends are the broker's."""
        return self._if_open("")

    @property
    def dsn_parameters(self) -> dict[str, str]:
        """The database and the user."""
        return {"dbname": self.dbname or "", "user": self.user or ""}

    @property
    def status(self) -> int:
        """0, libpq's CONNECTION_OK, if the connection is open, else 1."""
        return int(bool(self._connection.closed))

    @property
    def transaction_status(self) -> int:
        """psycopg2.extensions' TRANSACTION_STATUS_ number."""
        return int(self._connection.get_transaction_status())

    @property
    def protocol_version(self) -> int:
        """PostgreSQL's protocol between broker and server; 0 if the connection is closed."""
        return 0 if self._connection.closed else 3

    @property
    def server_version(self) -> int:
        """PostgreSQL's version, as in 150004; 0 if the connection is closed."""
        return int(self._server()[4] or 0)

    def last_version(self) -> int:
        """PostgreSQL's version, also of a closed connection; 0 if nobody has asked for it before."""
        found = self._server() if self._known is None else self._known
        return int(found[4] or 0)

    @property
    def backend_pid(self) -> int:
        """The process of the connection's backend; raises NotSupportedError if it has none of its own."""
        connection = self._connection
        if connection.is_over:
            return 0
        if not connection.is_session:
            text = (
                "this connection has no backend of its own: each transaction may run on another; connect with "
                "session=True, or ask for pg_backend_pid() in the transaction whose backend is meant"
            )
            raise psycopg2.NotSupportedError(connection.advised(text))
        if self._pid is None:
            self._pid = int(connection.ask("SELECT pg_catalog.pg_backend_pid()")[0][0])
        return self._pid

    @property
    def socket(self) -> NoReturn:
        """Refuse: there is no descriptor of PostgreSQL's in this process."""
        self._connection.fileno()
        raise AssertionError("fileno() refuses")

    @property
    def error_message(self) -> None:
        """Always None: errors are raised."""

    @property
    def needs_password(self) -> bool:
        """Always False, as password is empty."""
        return False

    @property
    def used_password(self) -> bool:
        """Always False, as password is empty."""
        return False

    @property
    def ssl_in_use(self) -> NoReturn:
        """Refuse: the broker's connections are configured, and told of, there."""
        raise psycopg2.NotSupportedError(
            "this process has no connection to PostgreSQL that might be encrypted; the broker's configuration says "
            "sslmode, and pg_stat_ssl says what the backends have"
        )

    def parameter_status(self, name: str) -> str | None:
        """The value of a setting that PostgreSQL reports to clients, None for any other."""
        if name not in REPORTED or self._connection.is_over:
            return None
        result: Result = self._connection.ask_in_place(f"SELECT pg_catalog.current_setting('{name}', true)")
        value = result[0][0]
        return None if value is None else str(value)

    def _if_open(self, value: str) -> str | None:
        return None if self._connection.closed else value

    def _server(self) -> tuple[Any, ...]:
        """Return what the server says of itself, as in _SERVER."""
        if self._connection.is_over:
            return _CLOSED
        if self._known is None:
            self._known = tuple(self._connection.ask(_SERVER)[0])
        return self._known


def encoding_of(name: str) -> str:
    """Return UTF8 for any of its names; raises NotSupportedError for another encoding."""
    known = str(name).upper().replace("-", "").replace("_", "")
    if extensions.encodings.get(str(name).upper(), "") != "utf_8" and known not in ("UTF8", "UNICODE"):
        raise psycopg2.NotSupportedError(
            f"client_encoding is always UTF8 here, because all clients share the broker's backends; got {name!r}"
        )
    return "UTF8"
