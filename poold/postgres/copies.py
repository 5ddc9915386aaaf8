"""The data of a COPY in PostgreSQL's protocol: out of the stream as it came, and into it.

What comes is passed on with PostgreSQL's own headers, a message for each row, and may be cut anywhere: so rows of any
size pass, and nobody here looks at them. A unit has one COPY; of others in the same string nothing is passed on.

https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-COPY
"""

from __future__ import annotations

import struct

from client.wire.messages import EXECUTED, FAILED, Failure
from poold.core.effects import SimpleQuery, Unit
from poold.postgres.answers import rows_end
from poold.postgres.errors import WireError, refused

COPY_DATA = 0x64
_length = struct.Struct("!I").unpack_from
_head = struct.Struct("!cI").pack
_DONE = b"c\0\0\0\4"
_NO_DATA = refused("COPY FROM STDIN has no data in a query; use db.copy_in(statement, source)", FAILED)
_NO_RESULT = refused("COPY TO STDOUT has no result in a query; use db.copy_out(statement, sink)", EXECUTED)
_OTHER_WAY = "the statement copies the other way; use db.copy_in for COPY FROM STDIN, db.copy_out for COPY TO STDOUT"
_OTHER_WAY_IN, _OTHER_WAY_OUT = refused(_OTHER_WAY, FAILED), refused(_OTHER_WAY, EXECUTED)


class Copies:
    """What passes of the data of the COPY in a wire's first unit."""

    def __init__(self) -> None:
        # What came since it was last taken: whether a COPY began, its data, and how many units had ended before.
        self.is_begun = False
        self.pieces: list[bytes] = []
        self.behind = 0
        self.is_feeding = False  # PostgreSQL waits for data
        self._is_taking = False  # PostgreSQL sends data, and somebody wants it
        self._passing = 0  # bytes still to come of a message of which a part was passed on
        self._has_copied = False

    @property
    def has_news(self) -> bool:
        """Whether something came that was not taken yet."""
        return self.is_begun or bool(self.pieces)

    @property
    def is_passing(self) -> bool:
        """Whether a message of which a part was passed on goes on."""
        return self._passing > 0

    def end_unit(self) -> None:
        """The unit has ended."""
        self._has_copied = self.is_feeding = self._is_taking = False

    def begin(self, unit: Unit, is_in: bool, completed: int) -> Failure | None:
        """PostgreSQL begins to copy in this unit; return why nobody gives or takes the data, None if somebody does."""
        command = unit[0]
        wanted = command.is_in if type(command) is SimpleQuery else None
        if wanted is None or self._has_copied:
            self._is_taking = False
            return _NO_DATA if is_in else _NO_RESULT
        if wanted is not is_in:
            return _OTHER_WAY_IN if is_in else _OTHER_WAY_OUT
        self._has_copied = self.is_begun = True
        self.is_feeding, self._is_taking = is_in, not is_in
        self.behind = completed
        return None

    def pass_rest(self, data: bytes) -> bytes:
        """Pass on the rest of a message that was passed on in part; return what is behind it."""
        part = data[: self._passing]
        self._passing -= len(part)
        self._pass(part, 0)
        return data[len(part) :]

    def pass_on(self, data: bytes, position: int, completed: int) -> int:
        """Pass on all data from position on; return the position behind it, as it was if there is none."""
        if not self._is_taking:
            return position
        after, _ = rows_end(data, position, COPY_DATA)
        if after + 5 <= len(data) and data[after] == COPY_DATA:
            length = _length(data, after + 1)[0]
            if length < 4:
                raise WireError(f"the server sent a message of length {length}, expected at least 4")
            self._passing = after + 1 + length - len(data)
            after = len(data)
        if after > position:
            self._pass(data[position:after], completed)
        return after

    def _pass(self, piece: bytes, completed: int) -> None:
        if not self.has_news:
            self.behind = completed
        self.pieces.append(piece)

    def take(self) -> tuple[bool, bytes]:
        """Return whether a COPY began, and the data that came."""
        news = self.is_begun, self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        self.is_begun, self.pieces = False, []
        return news

    # Data for PostgreSQL.

    def fed(self, data: bytes) -> list[bytes]:
        """Return the messages that give PostgreSQL this data; none if it waits for no data any more."""
        return [_head(b"d", len(data) + 4), data] if self.is_feeding else []

    def fed_up(self, error: str | None) -> list[bytes]:
        """Return the message that ends the data, with an error or as it should; none as for `fed`."""
        if not self.is_feeding:
            return []
        self.is_feeding = False
        text = None if error is None else error.encode("utf-8", "replace").replace(b"\0", b"?") + b"\0"
        return [_DONE if text is None else _head(b"f", len(text) + 4) + text]
