"""The connection of ENGINE = "poold.django": Django's own for PostgreSQL, on the broker's client.

A connection of Django's holds no backend here. Outside of `atomic()` Django is in autocommit mode, and each statement
is a message of its own; inside, the first statement takes a lease of one backend, and the end of the outermost block
gives it back. What Django sets in a session when it connects (the time zone, a role) travels with the statements
instead, and only as far as the server does not have it by itself.

Deliberately absent: anything that keeps a connection alive or looks whether it is. There is nothing to keep.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from typing import Any

from django.conf import settings as project
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql import base as django_base
from django.db.backends.postgresql.psycopg_any import IsolationLevel, is_psycopg3
from django.db.backends.signals import connection_created
from django.utils.asyncio import async_unsafe
from django.utils.functional import cached_property

from client import dbapi
from client.dbapi import extensions
from client.errors import UnconfiguredGroupError
from poold.django import values
from poold.django.client import DatabaseClient
from poold.django.creation import DatabaseCreation
from poold.django.features import DatabaseFeatures
from poold.django.operations import DatabaseOperations
from poold.django.options import WORDS, connect_options, mistakes, place_of
from poold.django.schema import DatabaseSchemaEditor
from poold.django.server import Server, server_at
from poold.django.toml import example
from poold.django.validation import DatabaseValidation

# A transaction that has failed or is lost takes no more statements.
_UNUSABLE = (extensions.TRANSACTION_STATUS_INERROR, extensions.TRANSACTION_STATUS_UNKNOWN)


class DatabaseWrapper(django_base.DatabaseWrapper):
    """One alias of DATABASES in one thread."""

    Database = dbapi
    SchemaEditorClass = DatabaseSchemaEditor
    client_class = DatabaseClient
    creation_class = DatabaseCreation
    features_class = DatabaseFeatures
    ops_class = DatabaseOperations
    validation_class = DatabaseValidation

    @property
    def pool(self) -> None:
        """None: the pool is the broker's."""

    # Connections.

    def connect(self) -> None:
        """Make a connection; it has no age, and no health to be checked."""
        super().connect()
        self.close_at = None
        self.health_check_enabled = False

    def get_connection_params(self) -> dict[str, Any]:
        """The arguments of `client.dbapi.connect`; raises ImproperlyConfigured."""
        found = mistakes(self.settings_dict)
        if found:
            raise ImproperlyConfigured(f"DATABASES[{self.alias!r}]: " + "; ".join(found))
        parameters = connect_options(self.settings_dict)
        if not parameters["group"]:
            raise ImproperlyConfigured(
                f"DATABASES[{self.alias!r}] names no group in which databases can be created and dropped, so there can "
                f"be no test database; give it as TEST = {{'ADMIN_GROUP': 'maintenance', ...}} and write into the "
                f"broker's configuration:\n{example('maintenance', 'postgres')}"
            )
        return parameters

    @async_unsafe
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Make a connection; the server is asked what it is if this process does not know."""
        level = self.settings_dict["OPTIONS"].get("isolation_level")
        self.isolation_level = _isolation_level(IsolationLevel.READ_COMMITTED if level is None else level)
        connection = self._opened(conn_params)
        server = self._server_by(connection)
        self._check_database(server)
        connection.use_settings(self._settings(server, conn_params))
        if level is not None:
            connection.isolation_level = getattr(extensions, f"ISOLATION_LEVEL_{self.isolation_level.name}")
        return connection

    def ensure_timezone(self) -> bool:
        """Run the following statements in the time zone that the project's settings have."""
        connection = self.connection
        if connection is None:
            return False
        wanted = self._settings(self._server_by(connection), self.get_connection_params())
        if "TimeZone" in connection.settings and self.timezone_name is not None:
            # Said even if the server runs in it: an open transaction would keep the one that has travelled before.
            wanted = {**wanted, "TimeZone": self.timezone_name}
        return bool(connection.use_settings(wanted))

    def _opened(self, parameters: dict[str, Any], **more: Any) -> Any:
        """A connection of the client's that reads values as Django wants them."""
        connection = extensions.connection(**parameters, **{"autocommit": True, **more})
        connection.advise(WORDS)
        for caster in values.casters:
            extensions.register_type(caster, connection)
        if is_psycopg3:
            from poold.django import psycopg3

            psycopg3.prepare(connection)
        return connection

    def _settings(self, server: Server, parameters: dict[str, Any]) -> dict[str, Any]:
        """PostgreSQL's settings that travel with each statement."""
        settings: dict[str, Any] = parameters["settings"]
        timezone = self.timezone_name  # None if the project has none, and takes the server's
        return settings if timezone is None or server.runs_in(timezone) else {**settings, "TimeZone": timezone}

    def _configure_connection(self, connection: Any) -> bool:
        return False  # time zone and role travel with the statements

    def _server_by(self, connection: Any) -> Server:
        """What is known of the server; raises ImproperlyConfigured if the broker has no such group."""
        try:
            return server_at(place_of(self.settings_dict), connection)
        except UnconfiguredGroupError as error:
            raise ImproperlyConfigured(
                f"DATABASES[{self.alias!r}]: {error}. Write into the broker's configuration, and start it again:\n"
                f"{example(place_of(self.settings_dict).group, self.settings_dict['NAME'] or 'postgres')}"
            ) from error

    def _check_database(self, server: Server) -> None:
        """Raise ImproperlyConfigured if NAME is another database than the group's: tests empty what they run in."""
        name = self.settings_dict["NAME"]
        if name and name != server.database:
            group = place_of(self.settings_dict).group
            raise ImproperlyConfigured(
                f"DATABASES[{self.alias!r}] has NAME {name!r}, but the broker's group {group!r} is in the database "
                f"{server.database!r}. Give OPTIONS the group of that database (for tests: TEST the GROUP), or write "
                f"into the broker's configuration:\n{example(group, name)}"
            )

    @cached_property
    def pg_version(self) -> int:
        """PostgreSQL's version, as in 150004; asked for once by each process."""
        with self.temporary_connection():
            return self._server_by(self.connection).version

    def is_usable(self) -> bool:
        """Whether statements can be sent, by what is known: to ask one backend says nothing about the next one."""
        connection = self.connection
        if connection is None or connection.closed:
            return False
        return connection.get_transaction_status() not in _UNUSABLE

    @contextmanager
    def _nodb_cursor(self) -> Iterator[Any]:
        """A cursor in TEST["ADMIN_GROUP"]; Django would take any database if it cannot have `postgres`."""
        with BaseDatabaseWrapper._nodb_cursor(self) as cursor:
            yield cursor

    # Cursors.

    @async_unsafe
    def create_cursor(self, name: str | None = None) -> Any:
        """A cursor; with a name one of the server's, outside of `atomic()` in a session of its own."""
        cursor = self.connection.cursor() if name is None else self._named_cursor(name)
        # The client's own way gives UTC for what comes in UTC. Another way is psycopg2's, which is slower.
        if not project.USE_TZ:
            cursor.tzinfo_factory = None
        elif self.timezone is not UTC:
            cursor.tzinfo_factory = self.tzinfo_factory
        return cursor

    def _named_cursor(self, name: str) -> Any:
        """A cursor of the server's: of the open transaction, or with a backend to itself until it is closed.

        In autocommit mode Django declares it WITH HOLD, so what it reads is settled when it begins, and no lock and no
        snapshot is kept while the program works on the rows.
        """
        if not self.connection.autocommit:
            return self.connection.cursor(name, scrollable=False)
        parameters = {**self.get_connection_params(), "settings": self.connection.settings}
        own = self._opened({**parameters, "cursor_factory": SessionCursor}, session=True)
        return own.cursor(name, scrollable=False, withhold=True)


class SessionCursor(extensions.cursor):
    """A named cursor that is the only one of its connection."""

    def close(self) -> None:
        """Close the cursor, and the connection, which gives the backend back."""
        try:
            super().close()
        finally:
            self.connection.close()


def _isolation_level(value: Any) -> IsolationLevel:
    """The level that OPTIONS["isolation_level"] says: Django's, which is psycopg 3's if that is installed."""
    try:
        return IsolationLevel(value)
    except ValueError:
        raise ImproperlyConfigured(
            f"Invalid transaction isolation level {value} specified. Use one of the psycopg.IsolationLevel values."
        ) from None


if is_psycopg3:
    from poold.django.psycopg3 import register_types

    connection_created.connect(register_types, sender=DatabaseWrapper)
