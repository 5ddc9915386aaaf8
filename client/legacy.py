"""pgdbpool's class Query, for programs that call it themselves with the numbers of connections."""

from collections.abc import Mapping, Sequence
from typing import Any

from client.errors import DBConnectionError, DBOfflineError
from client.handler import Handler
from client.interruptions import is_own
from client.values.result import Result


class Query:
    """pgdbpool's functions for statements on a numbered connection of a group.

    The broker owns the connections, so the number says nothing: each statement runs on any backend of the group, and
    commits by itself.
    """

    @staticmethod
    def execute(
        connection: tuple[str, int], sql_statement: Any, sql_params: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> Result:
        """Run one statement in the connection's group and return its result."""
        return Handler(connection[0], autocommit=True).query(sql_statement, sql_params)

    @staticmethod
    def execute_prepared(connection: tuple[str, int], sql_params: Sequence[Any] | Mapping[str, Any]) -> Any:
        """Call the group's prepared query, as Handler.query_prepared."""
        return Handler(connection[0], autocommit=True).query_prepared(sql_params)

    @staticmethod
    def check_db(connection: tuple[str, int]) -> None:
        """Raise DBOfflineError if a statement cannot be run in the connection's group."""
        try:
            Handler(connection[0], autocommit=True).query("SELECT 1")
        except DBConnectionError as error:
            if not is_own(error) or isinstance(error, DBOfflineError):
                raise
            raise DBOfflineError(str(error), error.failure) from error
