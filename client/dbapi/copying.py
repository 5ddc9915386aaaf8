"""COPY as psycopg2's cursors have it: copy_from and copy_to for a table, copy_expert for any statement."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

import psycopg2

from client.dbapi.sent import Sent
from client.values import offline
from client.values.copy_files import has_no_buffer, takes_text

if TYPE_CHECKING:
    from client.dbapi.connection import Connection
    from client.values.result import Result

# Quoted texts and comments, in which the words below mean nothing.
_ASIDE = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/", re.DOTALL)
_DIRECTION = re.compile(r"\b(?:(?P<reads>FROM\s+STDIN)|TO\s+STDOUT)\b", re.IGNORECASE)


class Copying:
    """The copy_ methods of a cursor."""

    connection: Connection

    def copy_from(
        self,
        file: Any,
        table: str,
        sep: str = "\t",
        null: str = "\\N",
        size: int = 8192,
        columns: Iterable[str | bytes] | None = None,
    ) -> None:
        """Write the lines of a file into a table."""
        if not hasattr(file, "read"):
            raise TypeError("argument 1 must have a .read() method")
        self._copy(_table_copy(table, columns, "FROM stdin", sep, null), file, True)

    def copy_to(
        self, file: Any, table: str, sep: str = "\t", null: str = "\\N", columns: Iterable[str | bytes] | None = None
    ) -> None:
        """Write a table into a file, line by line."""
        if not hasattr(file, "write"):
            raise TypeError("argument 1 must have a .write() method")
        self._copy(_table_copy(table, columns, "TO stdout", sep, null), file, False)

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
        """Run a COPY ... FROM STDIN that reads the file, or a COPY ... TO STDOUT that writes it."""
        if not hasattr(file, "read") and not hasattr(file, "write"):
            raise TypeError(
                "file must be a readable file-like object for COPY FROM; a writable file-like object for COPY TO."
            )
        statement = offline.render(sql, None)
        found = [match["reads"] for match in _DIRECTION.finditer(_ASIDE.sub("''", statement.decode(errors="replace")))]
        self._copy(statement, file, bool(found and found[-1]))

    def _copy(self, statement: bytes, file: Any, reads: bool) -> None:
        self._check("copy_from" if reads else "copy_to")
        self._clear()
        self._sent, self._status = Sent(statement, None), ""
        self._keep(self.noted(self.connection.copy, statement, file if reads else _sink(file), reads))

    _sent: Sent | None
    _status: str | None

    def _check(self, what: str) -> None:
        raise NotImplementedError

    def noted(self, run: Callable[..., Any], *arguments: Any) -> Any:
        """Return what run returns; an error is given the cursor."""
        raise NotImplementedError

    def _clear(self) -> None:
        raise NotImplementedError

    def _keep(self, result: Result, has_rows: bool = True) -> None:
        raise NotImplementedError


class _Sink:
    """A file to which all is written by one call, whatever that returns: psycopg2 does not look at it."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes | str) -> None:
        """Have the file write the data."""
        told = self._file.write(data)
        if isinstance(told, Coroutine):
            told.close()
            raise TypeError(f"the file's write() gave {told!r:.200}, to be awaited; expected one that writes")


class _TextSink(_Sink):
    """One that takes text."""

    encoding = "utf-8"


def _sink(file: Any) -> Any:
    """Return what to write to instead of the file: a sink that takes all of a piece.

    A file without a buffer is written to as it is. What it does not take psycopg2 would lose.
    """
    if has_no_buffer(file) or not callable(getattr(file, "write", None)):
        return file
    return (_TextSink if takes_text(file) else _Sink)(file)


def _table_copy(table: str, columns: Iterable[str | bytes] | None, direction: str, sep: str, null: str) -> bytes:
    for number, given in enumerate((table, sep, null), 2):
        if not isinstance(given, str):
            kind = "None" if given is None else type(given).__name__
            raise TypeError(f"argument {number} must be str, not {kind}")
    # No columns at all are no list: PostgreSQL refuses that, and would copy all columns without the parentheses.
    listed = "" if columns is None else f"({', '.join(quoted_name(_column(name)) for name in columns)})"
    names = f"{quoted_name(table)}{listed}".replace("%", "%%")
    return offline.render(f"COPY {names} {direction} WITH DELIMITER AS %s NULL AS %s", (sep, null))


def _column(name: Any) -> str:
    if isinstance(name, str):
        return name
    if not isinstance(name, bytes):
        raise TypeError(f"Expected bytes or unicode string, got {type(name).__name__} instead")
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise psycopg2.InterfaceError(f"the column {name!r} is no name in UTF-8: {error}; give it as str") from error


def quoted_name(name: str) -> str:
    """Return a name as an identifier in a statement, whatever it consists of."""
    return '"' + name.replace('"', '""') + '"'
