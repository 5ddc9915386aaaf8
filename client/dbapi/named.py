"""What a cursor with a name has of its own: the cursor of the server's, from which each fetch brings some rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import extensions

from client.values import offline

if TYPE_CHECKING:
    from client.dbapi.connection import Connection
    from client.dbapi.rows import Rows
    from client.values.result import Result


class OnServer:
    """The part of a cursor that knows of the server's cursor."""

    connection: Connection
    _name: str | None = None
    _quoted_name: str
    _scrollable: bool | None = None
    _withhold: bool
    _mark: int  # of the transaction to which it belongs
    # What was sent last; None before execute.
    _sent: Any
    _rows: Rows | None

    @property
    def name(self) -> str | None:
        """The name of the server's cursor; None without one, where all rows come with the result."""
        return self._name

    @property
    def scrollable(self) -> bool | None:
        """Whether a named cursor moves backwards too; None: if its statement lets it."""
        return self._scrollable

    @scrollable.setter
    def scrollable(self, value: Any) -> None:
        if value is not None and self.name is None:
            raise psycopg2.ProgrammingError("trying to set .scrollable on unnamed cursor")
        self._scrollable = None if value is None else bool(value)

    @property
    def withhold(self) -> bool:
        """Whether a named cursor outlives its transaction; only in a connection with session=True."""
        return self._withhold

    @withhold.setter
    def withhold(self, value: Any) -> None:
        if value and self.name is None:
            raise psycopg2.ProgrammingError("trying to set .withhold on unnamed cursor")
        if value and not self.connection.is_session:
            text = (
                "a cursor WITH HOLD outlives its transaction in one backend, and this connection gives its backend "
                "back at commit; connect with session=True"
            )
            raise psycopg2.NotSupportedError(self.connection.advised(text))
        self._withhold = bool(value)

    def _check_may_declare(self) -> None:
        if self._sent is not None:
            raise psycopg2.ProgrammingError("can't call .execute() on named cursors more than once")
        if self.connection.autocommit and not self._withhold:
            raise psycopg2.ProgrammingError("can't use a named cursor outside of transactions")
        self._check_mark()

    def _check_mark(self) -> None:
        if self._mark != self.connection.mark and not self._withhold:
            raise psycopg2.ProgrammingError("named cursor isn't valid anymore")

    def _is_alive_on_server(self) -> bool:
        if self.connection.closed:
            return False
        status = self.connection.get_transaction_status()
        if status in (extensions.TRANSACTION_STATUS_UNKNOWN, extensions.TRANSACTION_STATUS_INERROR):
            return False
        is_idle = status == extensions.TRANSACTION_STATUS_IDLE
        if self._sent is not None:
            # Behind an end that was sent as a statement the mark is the same.
            return self._withhold or not is_idle or self._mark != self.connection.mark
        # It was not made here; another cursor may have made it.
        if is_idle and not self.connection.is_session:
            return False
        look = offline.render("SELECT 1 FROM pg_catalog.pg_cursors WHERE name = %s", (self.name,))
        return len(self.connection.ask_in_place(look)) > 0

    def _fetch(self, which: str) -> Rows:
        """Fetch rows of the server's cursor."""
        self._check_mark()
        self._keep(self._on_server(f"FETCH {which} FROM {self._quoted_name}"))
        assert self._rows is not None
        return self._rows

    def _on_server(self, statement: str) -> Result:
        """Run a statement about the server's cursor; for one that outlives transactions it begins none."""
        run = self.connection.ask_in_place if self._withhold else self.connection.run
        found: Result = self.noted(run, statement)
        return found

    def noted(self, run: Callable[..., Any], *arguments: Any) -> Any:
        """Return what run returns; an error is given the cursor."""
        raise NotImplementedError

    def _keep(self, result: Result, has_rows: bool = True) -> None:
        raise NotImplementedError


def checked_name(name: Any) -> str:
    """Return a cursor's name as text, which ends before a NUL, as in psycopg2."""
    if isinstance(name, bytes):
        name = name.decode()
    if not isinstance(name, str):
        raise TypeError(f"Expected bytes or unicode string, got {type(name).__name__} instead")
    name.encode()  # raises UnicodeEncodeError for what PostgreSQL cannot be told
    return str(name).partition("\0")[0]
