"""COPY: the data of a table from a program to PostgreSQL, and back.

    with open('orders.csv', 'rb') as file:
        db.copy_in("COPY orders FROM STDIN (FORMAT csv, HEADER)", file)
    with open('totals.csv', 'wb') as file:
        db.copy_out("COPY (SELECT id, total FROM orders) TO STDOUT (FORMAT csv)", file)

The data passes in pieces, and neither side sends more than the other one has room for, so neither the program nor the
broker ever has all of it. If the program's file fails in the middle, the COPY is ended by an error, nothing of it takes
effect, and the file's exception is raised.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from client.calls import Calls, renewed
from client.channels.channel import Channel
from client.channels.registry import give_back
from client.errors import DBError, UsageError
from client.interruptions import noted
from client.options import Settings, checked_priority, checked_read_only, packed_settings, patience
from client.origins import Origin
from client.values.blanks import BLANKS
from client.values.copy_data import payloads
from client.values.copy_files import SourceStopped, blocks_of, takes_text, write_all
from client.values.offline import render
from client.values.result import Result
from client.wire.limits import COPY_WINDOW, MAX_ERROR_CHARS, NO_SESSION
from client.wire.messages import (
    FAILED,
    UNKNOWN,
    CancelRequest,
    CopyEnd,
    CopyIn,
    CopyMessage,
    CopyOut,
    CopyTaken,
    CopyWanted,
    ResultMessage,
    ToBroker,
    UnderWay,
)

# Bytes of one message: large enough that the way through the broker costs little, small enough for its socket's buffer.
PIECE_BYTES = 32768
# What a message has besides its piece.
_OVERHEAD_BYTES = 64
# The client says that it has taken data each time it was so much.
_TELL_FROM = COPY_WINDOW // 8
_COPY = re.compile(BLANKS + rb"copy\b", re.IGNORECASE)
_NO_TIMEOUT = b"\0".join((b"statement_timeout", b"0", b""))


class CopyingCalls(Calls):
    """The calls of an Executor that copy data."""

    _tag: str
    _priority: int
    _settings: bytes
    _origin: Origin
    _read_only: bool
    _is_in_block: bool
    _unseen: str

    def copy_in(
        self,
        statement: Any,
        source: Any,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        timeout: float | None = None,
        *,
        priority: str | None = None,
        settings: Settings | None = None,
    ) -> Result:
        """Run a COPY ... FROM STDIN with the data of source; its rowcount is the number of rows.

        source is a file (with read), bytes or text, or an iterable of these. Text is sent as UTF-8. timeout bounds all
        of it, in seconds; without one a COPY may take as long as its data flows: the endpoint's query_timeout does not
        hold (in an interactive transaction from then on to its end), and the group's idle_in_transaction_timeout bounds
        the time without data. priority and settings are `query`'s. An error of the data is psycopg2's and names the
        line.
        """
        blocks = blocks_of(source, PIECE_BYTES)
        sending = _Sending(blocks)
        try:
            group = self._group_for(self._read_only)
            return self._copy(sending, statement, params, timeout, priority, settings, group)
        except DBError as error:
            if sending.error is not None:
                raise _noted(sending.error, error)  # noqa: B904  the program's own, as it would see it without us
            raise

    def copy_out(
        self,
        statement: Any,
        sink: Any,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        timeout: float | None = None,
        *,
        priority: str | None = None,
        settings: Settings | None = None,
        read_only: bool | None = None,
    ) -> Result:
        """Run a COPY ... TO STDOUT and write its data to sink; its rowcount is the number of rows.

        sink has write, for text if it is a text file, else for bytes; it gets pieces, which may end anywhere. What
        write returns is how many bytes or characters of the piece it has taken, and the rest is given to it again. If
        it is no number it has taken all; of a file without a buffer (io.RawIOBase) None says that it takes nothing. A
        sink that takes nothing is a BlockingIOError. read_only=True lets it run on a replica. The other arguments are
        `copy_in`'s.
        """
        receiving = _Receiving(sink)
        is_read_only = self._read_only if read_only is None else checked_read_only(read_only)
        group = self._group_for(is_read_only)
        try:
            result = self._copy(receiving, statement, params, timeout, priority, settings, group)
        except DBError as error:
            if receiving.error is not None:
                raise _noted(receiving.error, error)  # noqa: B904  as in copy_in
            raise
        receiving.finish()
        if receiving.error is not None:
            raise _noted(receiving.error, None)
        return result

    def _copy(
        self,
        part: _Sending | _Receiving,
        statement: Any,
        params: Sequence[Any] | Mapping[str, Any] | None,
        timeout: float | None,
        priority: str | None,
        settings: Settings | None,
        group: str,
    ) -> Result:
        """Run the statement, whose data passes by this part."""
        sql = render(statement, params)
        if _COPY.match(sql) is None:
            raise UsageError(f"{sql[:80].decode('utf-8', 'replace')!r} is no COPY; run other statements by query()")
        waits = None if timeout is None else patience(timeout)
        if self._is_in_block and (session := self._block_session(waits)) is not None:
            return session._copy(part, statement, params, timeout, priority, settings, session._group)
        if self._unseen:
            self._catch_up(waits)
        rank = self._priority if priority is None else checked_priority(priority)
        packed = wanted = self._settings if settings is None else packed_settings(settings)
        packed = self._settings_of_copy(packed, wanted)
        rest, origin = (sql, part.is_in, timeout, self._tag, rank, packed), self._origin()
        channel: Channel | None = None
        if not self._needs_lease():
            channel, waits = self._channel(waits)
            if self._commits_by_itself(channel):
                message = CopyMessage(channel.next_request(), group, 0, False, *rest, NO_SESSION, origin)
                reply: ResultMessage | None = None
                try:
                    reply = self._converse(channel, message, waits, part)
                except DBError as error:
                    if not channel.is_unserved(error):
                        raise
                finally:
                    give_back(channel, self._address, self._keys)
                if reply is None:
                    reply = self._until_served(
                        waits, lambda own, left: self._converse(own, renewed(message, own, left), left, part)
                    )
                return Result(reply)
        if wanted and self._settings:
            owed = self._settings_owed(sql, timeout, None) + (b"" if settings is None else wanted)
            rest = (*rest[:-1], self._settings_of_copy(owed, wanted))
        result = Result(
            self._in_lease(
                lambda own, lease, begin, session: CopyMessage(
                    own.next_request(), self._group_of_lease(group, begin), lease, begin, *rest, session, origin
                ),
                waits,
                channel,
                lambda own, message, patience: self._converse(own, message, patience, part),
            )
        )
        self._follow_settings(sql, has_told=settings is None or bool(settings))
        return result

    def _settings_of_copy(self, owed: bytes, wanted: bytes) -> bytes:
        """Return the settings that travel with a COPY: if the wanted ones have no limit, it has none."""
        return owed if b"statement_timeout\0" in wanted.lower() else owed + _NO_TIMEOUT

    def _settings_owed(self, sql: bytes, timeout: float | None, read_only: bool | None) -> bytes:
        raise NotImplementedError

    def _follow_settings(self, sql: bytes, *, has_told: bool) -> None:
        raise NotImplementedError

    def _block_session(self, waits: float | None) -> CopyingCalls | None:
        raise NotImplementedError

    def _catch_up(self, waits: float | None) -> None:
        raise NotImplementedError

    def _group_for(self, is_read_only: bool) -> str:
        raise NotImplementedError

    def _group_of_lease(self, group: str, is_first: bool) -> str:
        raise NotImplementedError

    def _converse(
        self, channel: Channel, message: CopyMessage, waits: float | None, part: _Sending | _Receiving
    ) -> ResultMessage:
        """Return the final reply to the message; until then data passes by the part."""
        part.begin(message.request, channel.welcome.max_request_bytes - _OVERHEAD_BYTES)
        try:
            reply: ResultMessage = self._call(channel, message, waits, part.go_on)
        except DBError as error:
            is_lost = error is channel.error and error.outcome == UNKNOWN
            # Without its end a COPY has no effect; of a string of several, what comes ahead may have one.
            if is_lost and part.is_in and not part.is_complete and b";" not in message.statement.rstrip(b"; \n"):
                what, _, _ = error.failure.message.partition("; the statement may have run")
                text = f"{what}; nothing of the COPY took effect, as its end had not been sent"
                error.failure = error.failure._replace(outcome=FAILED, message=text)
                error.args = (text,)
            raise
        return reply


class _Sending:
    """The program's data on its way to PostgreSQL."""

    is_in = True

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self.error: BaseException | None = None  # the program's own, raised by its source
        self.is_complete = False  # the end was sent
        self._blocks = blocks
        self._rest = memoryview(b"")  # of the last block
        self._is_over = False  # the source has no more
        self._room = COPY_WINDOW
        self._request = 0
        self._most = PIECE_BYTES

    def begin(self, request: int, most: int) -> None:
        """The request has this number, and a message at most so many bytes of data."""
        self._request, self._most = request, max(1, min(PIECE_BYTES, most))

    def go_on(self, told: UnderWay) -> Iterator[ToBroker | None]:
        """Yield what follows on a message of the broker's, and None each time the source was at work."""
        if isinstance(told, CopyWanted):
            self._room += told.size
        while self._room and not self.is_complete and self.error is None:
            if not self._rest:
                self._next_block()
                yield None
            if self.error is not None:
                yield CopyEnd(self._request, _in_words(self.error))
            elif self._rest:
                piece = self._rest[: min(self._room, self._most)]
                self._rest = self._rest[len(piece) :]
                self._room -= len(piece)
                yield CopyIn(self._request, bytes(piece))
            elif self._is_over:
                self.is_complete = True
                yield CopyEnd(self._request, None)

    def _next_block(self) -> None:
        """Fetch more from the source, if it has more and does not fail."""
        try:
            block = next(self._blocks, None)
            self._is_over = block is None
            self._rest = memoryview(block or b"")
        except SourceStopped as stopped:
            self.error = stopped.args[0]
        except BaseException as error:  # noqa: BLE001  raised again when the COPY has ended
            self.error = error


class _Receiving:
    """PostgreSQL's data on its way to the program."""

    is_in = False
    is_complete = True

    def __init__(self, sink: Any) -> None:
        if not callable(getattr(sink, "write", None)):
            raise TypeError(f"sink is {sink!r:.200}; expected a file, or something else with write()")
        self.error: BaseException | None = None  # the program's own, raised by its sink
        self._sink = sink
        self._decoder = codecs.getincrementaldecoder("utf-8")() if takes_text(sink) else None
        self._missing = self._taken = self._request = 0

    def begin(self, request: int, _most: int) -> None:
        """The request has this number."""
        self._request = request

    def go_on(self, told: UnderWay) -> Iterator[ToBroker | None]:
        """Yield what follows on a message of the broker's, and None each time the sink was at work."""
        if not isinstance(told, CopyOut):
            return
        if self.error is None:
            data, self._missing = payloads(told.data, self._missing)
            try:
                write_all(self._sink, data if self._decoder is None else self._decoder.decode(data))
            except BaseException as error:  # noqa: BLE001  raised again when the COPY has ended
                self.error = error
                yield CancelRequest(self._request)
            yield None
        self._taken += len(told.data)
        if self._taken >= _TELL_FROM:
            taken, self._taken = self._taken, 0
            yield CopyTaken(self._request, taken)

    def finish(self) -> None:
        """All data has come; the error is what the decoder says if it ends in the middle of a character."""
        if self._decoder is not None and self.error is None:
            try:
                self._decoder.decode(b"", True)
            except UnicodeDecodeError as error:
                self.error = error


def _in_words(error: BaseException) -> str:
    """The program's exception as PostgreSQL and the broker's log are told of it."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  an exception's own code; the program still gets the exception itself
        text = type(error).__name__
    return text.replace("\0", "?")[:MAX_ERROR_CHARS].encode("utf-8", "replace").decode()


def _noted(own: BaseException, failure: DBError | None) -> BaseException:
    """Return the program's own exception with a note that says what became of the COPY; failure is how it ended."""
    if failure is None:
        noted(own, "the COPY had been executed when this ended the copying of its data")
    else:
        noted(own, f"the COPY ended by this has the outcome {failure.outcome!r} ({type(failure).__name__})")
    return own
