"""What a cursor with a name has of its own: the cursor of the server's, from which each fetch brings some rows.

A result is at most max_result_bytes long, and rows that a FETCH has passed and that do not come are gone: most cursors
cannot go back. So many rows come in parts, whose size follows from the bytes of the rows before: one row first, then
more. If a part is too large all the same, or its answer was not taken, all that follows raises an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import extensions

from client.dbapi.rows import NO_ROWS, Rows
from client.dbapi.sent import Sent
from client.dbapi.wording import rewrite
from client.errors import DBError, ResultTooLarge
from client.values import offline
from client.values.result import Result
from client.wire.messages import NOT_EXECUTED, TX_NONE
from client.wire.sqlstates import INVALID_CURSOR_NAME

if TYPE_CHECKING:
    from client.dbapi.connection import Connection

# What a part should have at most.
_PART_BYTES = 1 << 20
# A part is that much smaller than the largest result, for rows that are larger than those before.
_MARGIN = 16
# A part has at most so many times the rows of the part before.
_GROWTH = 64


class OnServer:
    """The part of a cursor that knows of the server's cursor."""

    connection: Connection
    _name: str | None = None
    _quoted_name: str
    _scrollable: bool | None = None
    _withhold: bool
    _mark: int  # of the transaction to which it belongs
    # What was sent last; None before execute.
    _sent: Sent | None
    _rows: Rows | None
    _result: Result | None
    _count: int
    _status: str | None
    # The rows of the last part, 0 before the first one; and the bytes of a row, as far as is known.
    _part_rows = 0
    _row_bytes = 1
    # Rows were passed that have not come.
    _has_passed: bool = False

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

    def _fetch(self, count: int | None) -> Rows:
        """Fetch so many rows of the server's cursor, None: all."""
        self._check_mark()
        self._check_place()
        with self.connection._lock:
            try:
                self._keep(self._in_parts(count))
            except BaseException as error:
                self._result, self._rows, self._count = None, None, -1
                self._has_passed |= not isinstance(error, DBError)
                raise
        assert self._rows is not None
        return self._rows

    def _in_parts(self, count: int | None) -> Result:
        most = self._most_bytes()
        parts: list[Result] = []
        rows = 0
        while True:
            wanted = self._next_part(most) if count is None else min(self._next_part(most), count - rows)
            if count is not None and count < 1:
                wanted = count  # the row where the cursor is, or those before it
            try:
                part = self._on_server(f"FETCH FORWARD {wanted} FROM {self._quoted_name}")
                parts.append(part)
                rows += len(part)
                if len(part):
                    self._part_rows = max(self._part_rows, wanted)
                    self._row_bytes = max(self._row_bytes, len(part.as_sent()[1]) // len(part))
                if len(part) < wanted or rows == count or wanted < 1:
                    return _joined(parts, rows)
            except BaseException as error:
                self._explain_too_large(error, wanted)
                self._has_passed = bool(parts) or not _is_where_it_was(error)
                raise

    def _most_bytes(self) -> int:
        """How many bytes a part should have at most."""
        channel = self.connection._own._lease._channel
        return _PART_BYTES if channel is None else min(_PART_BYTES, channel.welcome.max_result_bytes // _MARGIN)

    def _next_part(self, most_bytes: int) -> int:
        """How many rows to fetch: one at first, then as many as are likely to fit, but not many more at once."""
        return max(1, min(most_bytes // self._row_bytes, self._part_rows * _GROWTH))

    def _explain_too_large(self, error: BaseException, rows: int) -> None:
        if isinstance(error, ResultTooLarge):
            self._row_bytes = max(self._row_bytes, _PART_BYTES)
            way = (
                "the row is too large"
                if rows == 1
                else "give a smaller itersize, or call fetchmany(size) for fewer rows"
            )
            rewrite(error, f"{error.failure.message}; {way}: the server's cursor has moved past {rows} of its rows")

    def _check_place(self) -> None:
        """Raise ProgrammingError if rows would be missing before those that come next."""
        status = self.connection.get_transaction_status()
        if self._has_passed and status in (extensions.TRANSACTION_STATUS_INTRANS, extensions.TRANSACTION_STATUS_IDLE):
            raise psycopg2.ProgrammingError(
                f"the server's cursor {self.name!r} has moved past rows that have not come: a part was too large, or a "
                "call ended by an exception; read them again by another cursor, with a smaller itersize or by "
                "fetchmany(size), or scroll(0, 'absolute') if it is scrollable"
            )

    def _scroll(self, value: int, is_absolute: bool) -> None:
        """Move the server's cursor."""
        self._check_mark()
        if not is_absolute:
            self._check_place()
        how = "ABSOLUTE " if is_absolute else ""
        self._status = self._on_server(f"MOVE {how}{int(value)} FROM {self._quoted_name}").statusmessage
        self._rows = None if self._rows is None else NO_ROWS
        self._has_passed = False

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


def _is_where_it_was(error: BaseException) -> bool:
    """Whether a FETCH that ended by this error has passed no rows: it was not run, or there is no such cursor."""
    return isinstance(error, DBError) and (
        error.outcome == NOT_EXECUTED or error.failure.sqlstate == INVALID_CURSOR_NAME
    )


def checked_name(name: Any) -> str:
    """Return a cursor's name as text, which ends before a NUL, as in psycopg2."""
    if isinstance(name, bytes):
        name = name.decode()
    if not isinstance(name, str):
        raise TypeError(f"Expected bytes or unicode string, got {type(name).__name__} instead")
    name.encode()  # raises UnicodeEncodeError for what PostgreSQL cannot be told
    return str(name).partition("\0")[0]


def _joined(parts: list[Result], rows: int) -> Result:
    """Return the rows of all parts as one result, as if one FETCH had brought them."""
    if len(parts) == 1:
        return parts[0]
    notices = tuple(notice for part in parts for notice in part.notices)
    columns = parts[0].as_sent()[0]
    data = b"".join(part.as_sent()[1] for part in parts)
    return Result.from_fields((0, TX_NONE, f"FETCH {rows}", rows, columns, data, notices))
