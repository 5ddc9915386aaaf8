"""What is not known yet inside a transaction block: the results of its statements, and what became of its savepoints.

The statements of a block are sent together when it ends, so inside it a result can only be referred to: its cells are
References, which the broker replaces by what the earlier statement returned. After the block the same expressions
give the values themselves. Deliberately nothing here waits for a result; reading one too early raises an error.
"""

from collections.abc import Iterator
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any, Self, overload

from client.compiled import load
from client.errors import DBError, UsageError
from client.interruptions import is_own
from client.values.bind import Reference
from client.values.result import Column, Result
from client.wire import messages
from client.wire.limits import MAX_NUMBER

TOO_EARLY = (
    "this result cannot be read inside its transaction block: the statements are sent together when the block ends. "
    "Read it after the block; to use a value of it in a later statement of the block, give result['column'] as a "
    "parameter; to decide by a value, use query and commit of a Handler(autocommit=False)"
)
UNSENT = "what a transaction block has not sent yet cannot be pickled: it belongs to its block; pickle it after that"


RESULT_FIELDS = len(messages.ResultMessage._fields)


_METHODS = load("client.lane.methods")

if TYPE_CHECKING:
    _Fields = object
else:
    # Compiled code, where it is, works on the fields too.
    _Fields = getattr(load("client.lane.records"), "PendingFields", object)


class PendingResult(_Fields):
    """The result of one statement of a transaction block; after the block it reads like a Result.

    Inside the block result['id'], result[0]['id'] and result.column('id') are parameters for later statements, and any
    other use raises UsageError. After it they are the first row's value, that row's value, and the column's values as a
    list. If there is no result, because the transaction or its savepoint block failed, reading it raises an error
    that says so.
    """

    __slots__ = ("_dicts", "_known", "around") if _Fields is object else ()

    def __init__(self, around: "Savepoint | None", dicts: bool = False) -> None:
        self._dicts = dicts  # whether rows are dicts
        # The innermost savepoint block around the statement.
        self.around = around
        # None inside the block; then the result, as the fields of its ResultMessage until it is read, or the error
        # that reading it raises.
        self._known: Result | tuple[Any, ...] | DBError | None = None

    @property
    def is_settled(self) -> bool:
        """Whether it is known what became of the statement."""
        return self._known is not None

    def __reduce__(self) -> tuple[Any, ...]:
        """What pickle keeps: the result, to be read from its first row, or why there is none."""
        if self._known is None:
            raise UsageError(UNSENT)
        return _revived, (self._known, self._dicts)

    def __copy__(self) -> "PendingResult":
        return self if self._known is None else _revived(copy(self._known), self._dicts)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PendingResult":
        return self if self._known is None else _revived(deepcopy(self._known, memo), self._dicts)

    def settle(self, known: tuple[Any, ...] | DBError) -> None:
        """Take what became of the statement, if it is not known yet; the transaction calls this."""
        if self._known is None:
            self._known = known

    def result(self) -> Result:
        """The Result itself; raises UsageError inside the block, or the error for which there is none."""
        known = self._known
        if type(known) is tuple:
            known = self._known = Result.from_fields(known, self._dicts)
        if isinstance(known, Result):
            return known
        if isinstance(known, DBError):
            raise known
        raise UsageError(TOO_EARLY)

    @overload
    def __getitem__(self, place: str) -> Any: ...
    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> list[Any]: ...
    def __getitem__(self, place: str | int | slice) -> Any:
        if self._known is None:
            if isinstance(place, slice):
                raise UsageError(TOO_EARLY)
            if isinstance(place, str):
                return Cell(self, 0, place)
            return PendingRow(self, _number(place, "row"))
        if isinstance(place, str):
            return self._row(0)[place]
        return self.result()[place] if isinstance(place, slice) else self._row(place)

    def column(self, name: str | int) -> Any:
        """All values of a column, by name or number: a list; inside the block an array for a later statement."""
        if self._known is None:
            return Cell(self, None, name if isinstance(name, str) else _number(name, "column"))
        result = self.result()
        if self._dicts and not isinstance(name, str) and result.columns is not None:
            name = result.columns[name]
        return [row[name] for row in result[:]]

    @property
    def rowcount(self) -> int:
        """The number of rows affected or returned."""
        return self.result().rowcount

    @property
    def statusmessage(self) -> str:
        """PostgreSQL's command tag."""
        return self.result().statusmessage

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The column names, None if the statement returns no rows."""
        return self.result().columns

    @property
    def description(self) -> tuple[Column, ...] | None:
        """DB-API 2.0's description, None if the statement returns no rows."""
        return self.result().description

    @property
    def notices(self) -> tuple[str, ...]:
        """PostgreSQL's messages to the client, as in psycopg2's connection.notices."""
        return self.result().notices

    @property
    def arraysize(self) -> int:
        """How many rows fetchmany gives."""
        return self.result().arraysize

    @arraysize.setter
    def arraysize(self, size: int) -> None:
        self.result().arraysize = size

    def fetchone(self) -> Any:
        """The next row, None after the last."""
        return self.result().fetchone()

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """The next size rows (default: arraysize), fewer at the end."""
        return self.result().fetchmany(size)

    def fetchall(self) -> list[Any]:
        """All remaining rows."""
        return self.result().fetchall()

    def first(self) -> Any:
        """The first row, None if there is none."""
        return self.result().first()

    def one(self) -> Any:
        """The only row; raises LookupError if there is none, or more than one."""
        return self.result().one()

    def scalar(self) -> Any:
        """The first column of the first row, None if there is no row."""
        return self.result().scalar()

    def close(self) -> None:
        """Forget the rows."""
        self.result().close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.result())

    def __next__(self) -> Any:
        return next(self.result())

    def __len__(self) -> int:
        return len(self.result())

    def __repr__(self) -> str:
        if self._known is None:
            return "<PendingResult not sent yet>"
        if isinstance(self._known, DBError):
            return f"<PendingResult without a result: {self._known}>"
        return repr(self.result())

    def _row(self, place: int) -> Any:
        result = self.result()
        try:
            return result[place]
        except IndexError as error:
            if not is_own(error):
                raise
            raise IndexError(f"no row {place}: the statement gave {len(result)} rows ({result!r})") from None


def _revived(known: Any, dicts: bool) -> PendingResult:
    made = PendingResult(None, dicts)
    made.settle(known)
    return made


if _METHODS is not None:
    _METHODS.before(PendingResult, "result", "fetchone", "fetchall")


class _Unsent:
    """Something of a statement that was not sent: a copy of it is itself, and nothing of it can be pickled."""

    __slots__ = ()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise UsageError(UNSENT)


class PendingRow(_Unsent):
    """One row of a PendingResult inside the block; row['id'], row.id and row[0] are parameters for later statements."""

    __slots__ = ("_place", "_source")

    def __init__(self, source: PendingResult, place: int) -> None:
        self._source = source
        self._place = place

    def __getitem__(self, column: str | int) -> Reference:
        name = column if isinstance(column, str) else _number(column, "column")
        return Cell(self._source, self._place, name)

    def __getattr__(self, name: str) -> Reference:
        # Python's own look-ups (of copy, pickle and the like) are for names that begin with an underscore.
        if name.startswith("_"):
            raise AttributeError(f"a row that was not read yet has no attribute {name!r}")
        if name in ("keys", "values", "items", "get"):
            raise UsageError(TOO_EARLY)
        return self[name]

    # Without this Python would iterate by number, and get a Reference for each, without end.
    def __iter__(self) -> Iterator[Any]:
        raise UsageError(TOO_EARLY)

    def __len__(self) -> int:
        raise UsageError(TOO_EARLY)

    def __eq__(self, other: object) -> bool:
        raise UsageError(TOO_EARLY)

    def __repr__(self) -> str:
        return f"<PendingRow {self._place}>"


class Cell(_Unsent, Reference):
    """A value that is not known yet and can only be a parameter.

    Comparing it or making text of it raises: a program would otherwise decide by, or store, nonsense.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        raise UsageError(TOO_EARLY)

    def __eq__(self, other: object) -> bool:
        raise UsageError(TOO_EARLY)

    def __str__(self) -> str:
        raise UsageError(TOO_EARLY)

    def __format__(self, how: str) -> str:
        raise UsageError(TOO_EARLY)


class Savepoint:
    """A block inside a transaction block; an error from PostgreSQL undoes this block alone; the transaction goes on.

    After the transaction's block error is that error, or None if the block took effect. A Python exception that
    leaves the block takes its statements out of the transaction; if nothing catches it on its way, it leaves the
    transaction's block too, and nothing is sent.
    """

    def __init__(self, mark: int, around: "Savepoint | None") -> None:
        # Its first step, and the innermost savepoint block around it.
        self.mark = mark
        self.around = around
        self._error: DBError | None = None
        self._is_settled = False

    @property
    def error(self) -> DBError | None:
        """What undid the block, None if it took effect; inside the transaction's block UsageError."""
        if not self._is_settled:
            raise UsageError(
                "whether a savepoint block succeeds is not known inside its transaction block: the statements are sent "
                "together when that ends; read error after it"
            )
        return self._error

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._is_settled:
            raise UsageError(UNSENT)
        return _settled, (self.mark, self._error)

    def __copy__(self) -> "Savepoint":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Savepoint":
        return self if not self._is_settled else _settled(self.mark, deepcopy(self._error, memo))

    def settle(self, error: DBError | None) -> None:
        """Take what became of the block, if it is not known yet; the transaction calls this."""
        if not self._is_settled:
            self._is_settled = True
            self._error = error


def _settled(mark: int, error: DBError | None) -> Savepoint:
    made = Savepoint(mark, None)
    made.settle(error)
    return made


def _number(value: Any, what: str) -> int:
    """Return a row's or column's number, if it can be one; how many there are is not known before the block ends."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_NUMBER:
        return value
    raise UsageError(
        f"{what} {value!r} cannot be referred to inside a transaction block; expected "
        f"{'a name or ' if what == 'column' else ''}a number from 0"
    )
