"""A result's columns and rows, from PostgreSQL's messages to Python's values, exactly as psycopg2 reads them.

A cell's value is made by the caster for its type, psycopg2's own or one that the program registered. Called from Python
a caster costs a third of a microsecond per cell. In C psycopg2 is several times faster, but only for a result that came
through libpq. So if there are many cells they are replayed: on a connection to nowhere (`client.values.offline`), whose
server side is kept open here, some query is sent and answered with the very columns and rows that came from the broker.
Nothing ever waits: what libpq is to read has been written before.

A replay serves one thread at a time, and one process: sharing its sockets would mix up two results. It is kept for the
next result; since rows are replayed in blocks, no result makes it hold much memory.
"""

import os
import struct
import weakref
from array import array
from collections.abc import Callable, Sequence
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any

import psycopg2
from psycopg2 import _psycopg, extensions

from client.interruptions import is_own, suppressed
from client.values.columns import are_columns, names_and_types, unnamed_column
from client.values.offline import _nowhere, connect_to_nowhere, message
from client.wire.messages import ProtocolViolation

Caster = Callable[[bytes | None, Any], Any]

# So many bytes of rows are replayed at once: enough to make a replay's own cost vanish, little enough for the socket's
# buffer (Linux allows 416 kB unless told otherwise), and for memory: decoded they take up to ten times as much.
BLOCK_BYTES = 256 * 1024
# A replay costs 5 us and 0.5 us per column, as much as reading one row by itself; each cell of the other rows costs a
# quarter. With so many of these cells a replay is faster, however many columns there are.
REPLAY_CELLS = 64
# Long cells are copied and decoded either way, and a replay copies them three times more: beyond 2 kB it is slower.
REPLAY_CELL_BYTES = 1024
# Replays kept open and unused; each has two descriptors. Threads seldom read large results at the same moment.
IDLE_REPLAYS = 4

# Types whose values may lie outside Python's calendar: date, time, timestamp, timestamptz, interval, timetz; arrays.
_CALENDAR = frozenset((1082, 1083, 1114, 1184, 1186, 1266, 1115, 1182, 1183, 1185, 1187, 1270))
# psycopg2's own casters, by identity, because they cannot be hashed. All give None for NULL.
_OWN = {
    id(found): found
    for module in (_psycopg, extensions)
    for found in vars(module).values()
    if type(found) is type(extensions.UNICODE)
}

_ROW_HEAD = struct.Struct("!BIH").unpack_from  # kind, length without the kind, number of cells
_CELL_HEAD = struct.Struct("!i").unpack_from
_DATA_ROW = ord("D")
_LENGTH = struct.Struct("!I").unpack_from
_ONE_NULL = message(b"D", struct.pack("!Hi", 1, -1))
_COMMAND = "REPLAY"
_END = message(b"C", _COMMAND.encode() + b"\0") + message(b"Z", b"I")
_NOT_WHOLE = "the broker sent rows that are not whole"


def parse_columns(columns: bytes) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the names and the type OIDs in the body of a RowDescription; raises ProtocolViolation."""
    if not are_columns(columns):
        raise ProtocolViolation(f"the broker sent columns that are no RowDescription: {columns!r:.200}")
    return names_and_types(columns)


def casters(oids: Sequence[int]) -> list[Caster]:
    """Return for each type OID the caster that psycopg2 would use now, programs' registrations included."""
    known = extensions.string_types
    found = []
    for oid in oids:  # a loop, which costs half of what a comprehension does for the usual few
        caster: Caster = known.get(oid, extensions.UNICODE)
        if id(caster) not in _OWN:
            caster = _foreign_caster(oid, caster)
        found.append(_calendar_caster(caster) if oid in _CALENDAR else caster)
    return found


def cast_row(row_casters: Sequence[Caster], rows: bytes, at: int) -> list[Any]:
    """Return the values of the row that begins at byte at; raises ProtocolViolation. The hot path of small results."""
    width = len(row_casters)
    try:
        kind, length, count = _ROW_HEAD(rows, at)
    except struct.error as error:
        if not is_own(error):
            raise
        raise ProtocolViolation(_NOT_WHOLE) from None
    end = at + 1 + length
    if kind != _DATA_ROW or count != width or end > len(rows):
        raise ProtocolViolation(f"the broker sent rows that are not {width} columns each, or not whole")
    cursor = _nowhere()
    values: list[Any] = []
    at += 7
    for cast in row_casters:
        try:
            (size,) = _CELL_HEAD(rows, at)
        except struct.error as error:  # a caster may raise it too, so no caster is called within this try
            if not is_own(error):
                raise
            break
        at += 4
        if size < 0:
            values.append(cast(None, cursor))
        else:
            try:
                values.append(cast(rows[at : at + size], cursor))
            except psycopg2.Error:
                if at + size > end:  # the caster was given bytes behind the row
                    raise ProtocolViolation(_NOT_WHOLE) from None
                raise
            at += size
    if at != end or len(values) != width:
        raise ProtocolViolation(_NOT_WHOLE)
    return values


def _foreign_caster(oid: int, theirs: Caster) -> Caster:
    """Wrap a program's caster. psycopg2 gives it NULL too, as None, but only from within C: that costs a replay."""

    def cast(cell: bytes | None, cursor: Any) -> Any:
        if cell is not None:
            return theirs(cell, cursor)
        rows = replay(unnamed_column(oid), _ONE_NULL)
        return rows[0][0] if rows is not None else None

    return cast


# What casters raise for values that Python's calendar cannot hold.
_BEYOND = (ValueError, OverflowError, psycopg2.DataError)


def _calendar_caster(theirs: Caster) -> Caster:
    """Wrap a caster: give PostgreSQL's text for what Python's calendar cannot hold (years before 1, after 9999)."""

    def cast(cell: bytes | None, cursor: Any) -> Any:
        try:
            return theirs(cell, cursor)
        except _BEYOND as error:
            first = error
        try:
            theirs(cell, cursor)
        except _BEYOND:
            return cell.decode() if cell is not None else None
        raise first  # a signal handler's: what a caster cannot read it cannot read twice

    return cast


def is_worth_replay(count: int, width: int, size: int) -> bool:
    """Whether so many rows of so many columns, in so many bytes, are read faster by a replay."""
    return (count - 1) * width >= REPLAY_CELLS and size <= count * width * REPLAY_CELL_BYTES


def row_end(rows: bytes, at: int) -> int:
    """Return the byte behind the row that begins at byte at."""
    try:
        return at + 1 + int(_LENGTH(rows, at + 1)[0])
    except struct.error as error:
        if not is_own(error):
            raise
        raise ProtocolViolation(_NOT_WHOLE) from None


def row_starts(rows: bytes, at: int, end: int) -> "array[int]":
    """Return the byte where each row between two bytes begins; raises ProtocolViolation."""
    starts = array("Q")
    try:
        while at < end:
            starts.append(at)
            at += 1 + _LENGTH(rows, at + 1)[0]
    except struct.error as error:
        if not is_own(error):
            raise
        at = -1
    if at != end:
        raise ProtocolViolation(_NOT_WHOLE)
    return starts


def block_end(rows: bytes, at: int, end: int) -> int:
    """Return the byte behind the block that begins at byte at: at least one row, and end at the latest."""
    if end - at <= BLOCK_BYTES:
        return end
    most = at + BLOCK_BYTES
    at = row_end(rows, at)
    while at < end and (behind := row_end(rows, at)) <= most:
        at = behind
    return at


def replay(columns: bytes, rows: bytes | memoryview) -> list[tuple[Any, ...]] | None:
    """Return the values of a block of rows, read in C; None if that cannot be done.

    Raises what the casters raise, and psycopg2's errors if the bytes are no result.
    """
    if len(rows) > BLOCK_BYTES:
        return None  # one long row, which is better read without a replay
    try:
        server = _borrow()
    except OSError as error:
        if not is_own(error):
            raise
        return None  # no descriptors left, or no folder for the socket
    try:
        return list(server.play(columns, rows).fetchall())
    finally:
        _give_back(server)


def replay_by(prepare: Callable[[Any], None], columns: bytes, rows: bytes | memoryview) -> list[tuple[Any, ...]]:
    """Return the values of these rows, read by a psycopg2 cursor that prepare has given casters of its own.

    Raises what the casters raise, and OSError if there are no descriptors left for the replay.
    """
    server = _borrow()
    try:
        return list(server.play(columns, rows, prepare).fetchall())
    finally:
        _give_back(server)


def describe(columns: bytes) -> tuple[Any, ...]:
    """Return psycopg2's description of these columns."""
    server = _borrow()
    try:
        return tuple(server.play(columns, b"").description)
    finally:
        _give_back(server)


class _Replay:
    """A connection to nowhere and its server side, which answers every query with the result to be replayed."""

    def __init__(self) -> None:
        self._connection, self._server = connect_to_nowhere()
        self._descriptor = self._connection.fileno()
        self._pid = os.getpid()
        self._is_playing = False
        self._server.setblocking(False)
        with suppressed(OSError):  # if the system refuses so much, _answer takes some more turns
            self._server.setsockopt(SOL_SOCKET, SO_SNDBUF, 2 * BLOCK_BYTES)
        _open.add(self)

    @property
    def is_usable(self) -> bool:
        """Whether it belongs to this process, its last replay was completed, and no caster has closed it."""
        return self._pid == os.getpid() and not self._is_playing and not self._connection.closed

    def play(self, columns: bytes, rows: bytes | memoryview, prepare: Callable[[Any], None] | None = None) -> Any:
        """Return a cursor that holds this result, prepared before it has it; raises ProtocolViolation."""
        self._is_playing = True
        cursor = self._connection.cursor()
        if prepare is not None:
            prepare(cursor)
        cursor.execute("x")
        self._server.recv(64)  # the query
        self._answer(b"".join((message(b"T", columns), rows, _END)))
        if cursor.statusmessage != _COMMAND:
            # The rows contained a result's end, and the rows behind it would be missing.
            raise ProtocolViolation(_NOT_WHOLE)
        self._is_playing = False
        return cursor

    def close(self) -> None:
        """End the connection, unless a fork has done so already."""
        if self in _open:
            _open.discard(self)  # first: a child forked later must not close another file with the same descriptor
            self._connection.close()
            self._server.close()

    def abandon(self) -> None:
        """Close a child's copies of its parent's descriptors.

        Not through libpq, which would send a goodbye to the server side, and that is the parent's. psycopg2 finishes no
        connection of another process, so nobody closes the descriptor a second time.
        """
        _open.discard(self)
        self._server.close()
        with suppressed(OSError):
            os.close(self._descriptor)

    def _answer(self, data: bytes) -> None:
        """Give libpq the data as fast as it takes them, until it has the whole result; raises ProtocolViolation."""
        unsent = memoryview(data)
        # Each turn moves a page at least. If the rows were cut short, libpq would wait for the rest for ever.
        for _ in range(len(data) // 1024 + 16):
            if unsent:
                try:
                    unsent = unsent[self._server.send(unsent) :]
                except BlockingIOError as error:
                    if not is_own(error):
                        raise
            if self._connection.poll() == extensions.POLL_OK:
                return
        raise ProtocolViolation(_NOT_WHOLE)


# The replays of this process, so that the child of a fork can close them: from their making until they are closed. If
# an exception interrupts the use of one, it is closed when nothing refers to it any more.
_open: "weakref.WeakSet[_Replay]" = weakref.WeakSet()
# The replays that nobody uses at the moment. append and pop are atomic, so this needs no lock.
_idle: list[_Replay] = []


def _borrow() -> _Replay:
    """Return a replay for the caller alone. The first costs 0.4 ms."""
    while _idle:
        try:
            found = _idle.pop()
        except IndexError as error:
            if not is_own(error):
                raise
            break  # another thread was faster
        if found.is_usable:
            return found
        found.abandon()  # this process was forked without Python's knowledge
    return _Replay()


def _give_back(server: _Replay) -> None:
    """Keep the replay for the next caller, if it is usable and few are kept; else close it."""
    if server.is_usable and len(_idle) < IDLE_REPLAYS:
        _idle.append(server)
    else:
        server.close()


def _after_fork_in_child() -> None:
    """Close the parent's replays, also those that its other threads were using."""
    _idle.clear()
    for server in list(_open):
        server.abandon()


os.register_at_fork(after_in_child=_after_fork_in_child)
