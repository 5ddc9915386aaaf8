"""Test databases: `manage.py test` creates and drops them through one group, and runs the tests in another.

    "TEST": {"GROUP": "test", "ADMIN_GROUP": "maintenance"}

A group of the broker is in one database for good, so the test database has a group of its own: GROUP, and with
`--parallel` one more for each process, GROUP_1, GROUP_2 and so on. CREATE DATABASE and DROP DATABASE run in
ADMIN_GROUP. PostgreSQL copies and drops no database in which somebody is connected, so idle backends, the broker's own,
are ended first (`poold.django.occupants`); with min_size = 0 the broker opens none before the tests ask for it.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.conf import settings as project
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.creation import BaseDatabaseCreation
from django.db.backends.postgresql import creation as django_creation

from client.dbapi import errors
from poold.django.occupants import AdminCursor
from poold.django.options import group_of
from poold.django.toml import example


class DatabaseCreation(django_creation.DatabaseCreation):
    """Creates and drops test databases, and moves the alias into their group and back."""

    # The group of the alias outside of tests, while the alias is in a test database.
    _usual_group: str | None = None
    # The test database that is just being copied, for one of several processes.
    _copied: str | None = None

    def test_db_signature(self) -> tuple[Any, ...]:
        """What tells test databases apart: aliases in several groups of one database share one."""
        settings = self.connection.settings_dict
        return (settings["OPTIONS"].get("address"), settings["ENGINE"], self._get_test_db_name())

    def set_as_test_mirror(self, primary_settings_dict: Mapping[str, Any]) -> None:
        """Run the tests of this alias in the test database of another one, in that one's group."""
        super().set_as_test_mirror(primary_settings_dict)
        self._move_to(group_of(primary_settings_dict))

    def get_test_db_clone_settings(self, suffix: str) -> dict[str, Any]:
        """The entry of the alias in one of several processes."""
        settings: dict[str, Any] = super().get_test_db_clone_settings(suffix)
        options = settings["OPTIONS"]
        return {**settings, "OPTIONS": {**options, "group": f"{group_of(settings)}_{suffix}"}}

    def destroy_test_db(
        self, old_database_name: str | None = None, verbosity: int = 1, keepdb: bool = False, suffix: str | None = None
    ) -> None:
        """Drop the test database; the alias is back in its own group then."""
        super().destroy_test_db(old_database_name, verbosity, keepdb, suffix)
        if suffix is None and self._usual_group is not None:
            self._move_to(self._usual_group)
            self._usual_group = None

    def _get_test_db_name(self) -> str:
        settings = self.connection.settings_dict
        if not settings["TEST"]["NAME"] and not settings["NAME"]:
            raise ImproperlyConfigured(
                f"DATABASES[{self.connection.alias!r}] has no NAME, so its test database has none: give the NAME of "
                f"the group's database, or TEST = {{'NAME': ...}}"
            )
        return str(super()._get_test_db_name())

    def _create_test_db(self, verbosity: int, autoclobber: bool, keepdb: bool = False) -> str:
        group = self.connection.settings_dict["TEST"].get("GROUP")
        name = self._get_test_db_name()
        if not group:
            raise ImproperlyConfigured(
                f"DATABASES[{self.connection.alias!r}] names no group for the test database {name!r}; give it as "
                f"TEST = {{'GROUP': 'test', 'ADMIN_GROUP': 'maintenance'}} and write into the broker's configuration:\n"
                f"{example('test', name)}\n\n{example('maintenance', 'postgres')}"
            )
        made = str(super()._create_test_db(verbosity, autoclobber, keepdb))
        self._usual_group = group_of(self.connection.settings_dict)
        self._move_to(group)
        return made

    def _execute_create_test_db(self, cursor: Any, parameters: Mapping[str, str], keepdb: bool = False) -> None:
        """Create a database; Django's own looks for the errors of psycopg 3 if that is installed."""
        if keepdb and self._database_exists(cursor, parameters["dbname"]):
            return
        try:
            BaseDatabaseCreation._execute_create_test_db(self, cursor, parameters, keepdb)
        except Exception as error:
            if isinstance(error.__cause__, errors.DuplicateDatabase):
                if not keepdb:
                    raise
                return
            self.log(f"Got an error creating the test database: {error}")
            sys.exit(2)

    def _clone_test_db(self, suffix: str, verbosity: int, keepdb: bool = False) -> None:
        self._copied = self.connection.settings_dict["NAME"]
        try:
            super()._clone_test_db(suffix, verbosity, keepdb)
        finally:
            self._copied = None

    @contextmanager
    def _nodb_cursor(self) -> Iterator[AdminCursor]:
        """A cursor in ADMIN_GROUP that empties the databases which it drops, and the test database that it copies."""
        with super()._nodb_cursor() as cursor:
            yield AdminCursor(cursor, lambda database: database == self._copied)

    def _move_to(self, group: str) -> None:
        """Put the alias into a group, for all threads."""
        self.connection.close()
        for settings in (self.connection.settings_dict, project.DATABASES[self.connection.alias]):
            settings["OPTIONS"] = {**settings["OPTIONS"], "group": group}
