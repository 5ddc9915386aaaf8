"""`manage.py dbshell`: only the broker's clients can speak to the broker, so it tells how to reach the server."""

import re
import shlex
from collections.abc import Sequence
from typing import NoReturn

from django.core.management.base import CommandError
from django.db.backends.base.client import BaseDatabaseClient

# The last column is NULL for who may not read that setting.
_QUESTION = """
    SELECT pg_catalog.host(pg_catalog.inet_server_addr()), pg_catalog.current_setting('port'),
           session_user, pg_catalog.current_database(),
           (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'unix_socket_directories')
"""

# The first folder of a list as PostgreSQL reads it: in quotes, with those within doubled, or up to a comma.
_FIRST_FOLDER = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,]*))')


class DatabaseClient(BaseDatabaseClient):
    """Refuses to run psql, and names the command that would reach the server."""

    executable_name = "psql"

    def runshell(self, parameters: list[str]) -> NoReturn:
        """Raise CommandError with the psql command that reaches the group's server."""
        with self.connection.cursor() as cursor:
            cursor.execute(_QUESTION)
            command, where = _command(parameters, *cursor.fetchone())
        raise CommandError(
            f"psql speaks PostgreSQL's protocol, and the broker of {self.connection.alias!r} its own. The server "
            f"behind it is reached, {where}, by: {command}"
        )


def _command(
    parameters: Sequence[str], address: str | None, port: str, user: str, database: str, folders: str | None
) -> tuple[str, str]:
    """The psql command for the server, and where it can be run."""
    host = address or first_folder(folders or "")
    words = ["psql", *(["-h", host] if host else []), "-p", port, "-U", user, *parameters, database]
    return shlex.join(words), "from where that address leads to it" if address else "on the broker's host"


def first_folder(folders: str) -> str:
    """The first of unix_socket_directories, "" if there is none."""
    found = _FIRST_FOLDER.match(folders)
    assert found is not None  # it matches any text
    quoted, bare = found.groups()
    return bare.strip() if quoted is None else quoted.replace('""', '"')
