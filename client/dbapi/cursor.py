"""A cursor as psycopg2 has it: statements and their rows, or with a name a cursor of the server's.

Without a name all rows of a result have come when execute returns. With a name DECLARE makes the cursor in the
transaction's backend, and each fetch brings some rows from there.

A cursor is one of psycopg2's class too, whose connection leads to nowhere (`client.dbapi.executors`): C code of
psycopg2's that is given a cursor, as a caster is, reads its memory. Of its own it keeps there row_factory,
tzinfo_factory, arraysize, itersize and the casters registered for it; it does nothing else by itself. The name is kept
here, or C code would look for a cursor of the server's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

import psycopg2
from psycopg2 import extensions

from client.dbapi.copying import Copying, quoted_name
from client.dbapi.many import Progress
from client.dbapi.named import OnServer, checked_name
from client.dbapi.rows import NO_ROWS, Rows, Values, rows_of
from client.dbapi.sent import Params, Sent, fixed, statement_of
from client.errors import DBError
from client.values import offline
from client.values.result import Result

if TYPE_CHECKING:
    from client.dbapi.connection import Connection

    _Theirs = object
else:
    _Theirs = extensions.cursor


class Cursor(OnServer, Copying, _Theirs):
    """What Connection.cursor() returns. A base class for cursor_factory.

    row_factory, if it is set, is called with the cursor for each row and returns a sequence whose items are then
    assigned, as psycopg2's cursors do.
    """

    # psycopg2's own; string_types has the casters registered for this cursor, by the OIDs of their types.
    connection: Connection
    arraysize: int
    itersize: int
    row_factory: Any
    tzinfo_factory: Any
    string_types: dict[int, Any] | None
    _is_closed = True  # until __init__; a subclass may forget to call it

    def __init__(
        self, conn: Connection, name: str | None = None, scrollable: bool | None = None, withhold: bool = False
    ) -> None:
        theirs: Any = extensions.cursor
        theirs.__init__(self, conn)
        self._begin(conn, name)
        self.scrollable = scrollable
        self.withhold = withhold

    def _begin(self, conn: Connection, name: Any) -> None:
        """Do what __init__ does beside calling psycopg2's; a program's class may have called that alone."""
        self._name = None if name is None else checked_name(name)
        self._quoted_name = "" if self._name is None else quoted_name(self._name)
        self._is_closed = False
        self._withhold = False
        self._mark = conn.mark
        self._count = -1
        self._status: str | None = None
        self._result: Result | None = None
        self._rows: Rows | None = None
        # What was sent last, to be written with literals if somebody asks.
        self._sent: Sent | None = None

    def __repr__(self) -> str:
        return f"<cursor object at {id(self):#x}; closed: {-1 if self._is_closed else 0}>"

    __str__ = __repr__

    # Statements.

    def execute(self, query: Any, vars: Params = None) -> None:
        """Run a statement; query and vars are psycopg2's."""
        self._check("execute")
        if self.name is not None:
            self._check_may_declare()
        query = statement_of(query)
        self._clear()
        if self.name is None:
            self._run(query, vars)
            return
        scroll = {None: "", False: "NO SCROLL ", True: "SCROLL "}[self.scrollable]
        hold = "WITH" if self._withhold else "WITHOUT"
        text = offline.render(query, vars)
        self._run(f"DECLARE {self._quoted_name} {scroll}CURSOR {hold} HOLD FOR ".encode() + text, None)

    def executemany(self, query: Any, vars_list: Iterable[Any]) -> None:
        """Run a statement with each of these parameters; rowcount is that of all together.

        Up to 1,000 of them are one message. With autocommit these commit together, or none of them does. If none
        is run, the statement before stays the cursor's.
        """
        self._check("executemany")
        if self.name is not None:
            raise psycopg2.ProgrammingError("can't call .executemany() on named cursors")
        progress = Progress()
        try:
            self.noted(self.connection.run_each, query, vars_list, progress)
        except BaseException:
            if progress.has_failed:
                self._clear()
                self._sent = Sent(query, progress.last).settled()
                raise
            # Of the iterable, or of a set that does not fit: some sets before it may have run.
            if progress.result is not None or progress.is_unfit:
                self._clear()
            if progress.result is not None:
                self._sent = None if progress.is_unfit else Sent(query, progress.last).settled()
                self._status = progress.result.statusmessage
            self._count = -1 if progress.is_unfit or not progress.is_begun else progress.count
            raise
        if progress.result is not None:
            self._clear()
            self._sent = Sent(query, progress.last).settled()
            self._keep(progress.result, has_rows=False)
        self._count = progress.count

    def callproc(self, procname: str, parameters: Params = None) -> Params:
        """Call a function and fetch its result with the fetch methods; returns the parameters, None for a mapping."""
        self._check("callproc")
        if self.name is not None:
            raise psycopg2.ProgrammingError("can't call .callproc() on named cursors")
        if isinstance(parameters, Mapping) and parameters:
            for name in parameters:
                if not isinstance(name, (str, bytes)):
                    raise TypeError(f"argument names must be strings, got {name!r}")
            arguments = ",".join(f"{quoted_name(_text(name)).replace('%', '%%')}:=%s" for name in parameters)
            values: list[Any] = list(parameters.values())
        else:
            values = list(parameters or ())
            arguments = ",".join(["%s"] * len(values))
        self._clear()
        self._run(f"SELECT * FROM {procname}({arguments})", values)
        return None if isinstance(parameters, Mapping) and parameters else parameters

    def mogrify(self, query: Any, vars: Params = None) -> bytes:
        """The statement with literals in the place of its parameters."""
        return offline.render(query, vars)

    @property
    def query(self) -> bytes | None:
        """The last statement with literals in the place of its parameters, None if there was none."""
        return None if self._sent is None else self._sent.text()

    # Rows.

    def fetchone(self) -> Any:
        """The next row, None after the last."""
        rows = self._readable("fetchone")
        if self.name is not None:
            rows = self._fetch(1)
        values = rows.one()
        return None if values is None else self._made(values)

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """The next size rows (default: arraysize), fewer at the end."""
        wanted = self.arraysize if size is None else size
        rows = self._readable("fetchmany")
        if self.name is not None:
            rows = self._fetch(int(wanted))
        return self._all_made(rows.all() if wanted < 0 else rows.many(wanted))

    def fetchall(self) -> list[Any]:
        """All remaining rows."""
        rows = self._readable("fetchall")
        if self.name is not None:
            rows = self._fetch(None)
        return self._all_made(rows.all())

    def scroll(self, value: int, mode: str = "relative") -> None:
        """Move to the row that is value rows on, or with mode 'absolute' to that row, counted from 0.

        A named cursor takes any other mode for 'relative', as psycopg2's.
        """
        self._check("scroll", is_sending=self.name is not None)
        if not isinstance(mode, str):
            raise TypeError(f"argument 2 must be str, not {type(mode).__name__}")
        if self.name is None and mode not in ("relative", "absolute"):
            raise psycopg2.ProgrammingError(f"scroll mode must be 'relative' or 'absolute', got {mode!r}")
        if self.name is not None:
            self._scroll(value, mode == "absolute")
            return
        if self._rows is None:
            raise psycopg2.ProgrammingError("no results to scroll")
        target = value if mode == "absolute" else self._rows.position + value
        if not 0 <= target < self._rows.count:
            raise psycopg2.ProgrammingError("scroll destination out of bounds")
        self._rows.move(target)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        rows = self._readable("next")
        if self.name is not None:
            self._check_mark()
        if self.name is not None and rows.position >= rows.count:
            rows = self._fetch(self.itersize)
        values = rows.one()
        if values is None:
            raise StopIteration
        return self._made(values)

    @property
    def description(self) -> Any:
        """PEP 249's description, None if there are no rows."""
        return None if self._result is None else self._result.description

    @property
    def rowcount(self) -> int:
        """How many rows the last statement has returned or affected, -1 if that is not known."""
        return self._count

    @property
    def statusmessage(self) -> str | None:
        """PostgreSQL's word for what the last statement has done, None if there was none."""
        return self._status

    @property
    def rownumber(self) -> int:
        """The number of the next row, from 0."""
        return 0 if self._rows is None else self._rows.position

    @property
    def lastrowid(self) -> int:
        """The OID of the row inserted last; 0, as PostgreSQL's tables have had none since version 12."""
        words = (self._status or "").split()
        return int(words[1]) if len(words) == 3 and words[0] == "INSERT" else 0

    @property
    def pgresult_ptr(self) -> None:
        """Always None: there is no result of libpq's."""

    # PEP 249's other methods.

    def nextset(self) -> NoReturn:
        """Refuse: PostgreSQL gives one set of rows."""
        self._check("nextset")
        raise psycopg2.NotSupportedError("not supported by PostgreSQL")

    def setinputsizes(self, sizes: Any) -> None:
        """Do nothing."""
        self._check("setinputsizes")

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """Do nothing."""
        self._check("setoutputsize")

    def close(self) -> None:
        """Close the cursor; with a name the server's cursor too, if its transaction still lives."""
        if self._is_closed:
            return
        if self.name is not None and self._is_alive_on_server():
            self._check_mark()
            # It begins no transaction: the cursor could not be in that.
            self.noted(self.connection.ask_in_place, f"CLOSE {self._quoted_name}")
        self._is_closed = True

    @property
    def closed(self) -> bool:
        """Whether the cursor or its connection is closed."""
        return self._is_closed or bool(self.connection.closed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What all of them do.

    def _check(self, what: str, *, is_sending: bool = True) -> None:
        """Raise psycopg2's errors if the call is out of place; is_sending: it has to send something."""
        if self._is_closed:
            raise psycopg2.InterfaceError("cursor already closed")
        self.connection.check_open()
        if is_sending:
            self.connection.refuse_prepared(what)

    def noted(self, run: Callable[..., Any], *arguments: Any) -> Any:
        """Return what run returns; an error is given the cursor, as psycopg2's errors have it."""
        try:
            return run(*arguments)
        except DBError as error:
            error.cursor = self
            if error.failure.sqlstate:
                self._status = ""  # the command tag of PostgreSQL's error
            raise

    def _clear(self) -> None:
        self._result = None
        self._rows = None
        self._sent = None
        self._count = -1

    def _run(self, statement: Any, params: Params) -> None:
        params = fixed(params)
        sent = self._sent = Sent(statement, params)
        try:
            result = self.noted(self.connection.run, statement, params)
        except BaseException as error:
            self._sent = sent.left(error)
            raise
        self._sent = sent.settled()
        self._keep(result)

    def _keep(self, result: Result, has_rows: bool = True) -> None:
        self._result = result if has_rows else None
        self._count = result.rowcount
        self._status = result.statusmessage
        if has_rows and result.columns is not None:
            self._rows = rows_of(result, self)
        else:
            self._rows = None

    def _readable(self, what: str) -> Rows:
        """Return the rows; raises psycopg2's errors if there can be none."""
        self._check(what, is_sending=self.name is not None)
        if self._rows is None:
            if self.name is None:
                raise psycopg2.ProgrammingError("no results to fetch")
            return NO_ROWS
        return self._rows

    def _made(self, values: Values) -> Any:
        if self.row_factory is None:
            return values
        row = self.row_factory(self)
        for place, value in enumerate(values):
            row[place] = value
        return row

    def _all_made(self, rows: list[Values]) -> list[Any]:
        return rows if self.row_factory is None else [self._made(values) for values in rows]


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
