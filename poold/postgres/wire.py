"""PostgreSQL's protocol 3.0 on an open connection, as bytes in and bytes out: no socket, no clock.

A unit of commands goes out as a simple query, or as messages of the extended protocol with one Sync at their end; any
number of units may be on their way at once. Each ends with ReadyForQuery, for which `received` gives one Completion.
Rows are not looked at: their messages are counted and cut out of the stream as they are, for the client to read.

https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-PIPELINING
"""

from __future__ import annotations

import struct
from collections import deque

from client.wire.messages import EXECUTED, FAILED, TX_ACTIVE, TX_BROKEN, TX_FAILED, TX_NONE, Failure, TransactionStatus
from poold.core.effects import Bind, Deallocate, Prepare, SimpleQuery, Unit
from poold.core.facts import Completion, StatementResult
from poold.postgres import answers, diagnostics
from poold.postgres.answers import is_whole, next_place, prepares, rows_end, whole_answers
from poold.postgres.copies import COPY_DATA, Copies
from poold.postgres.errors import WireError, refused, relied_on_changed, two_texts
from poold.postgres.messages import SYNC, bind, bind_head, encoded, no_data, query
from poold.postgres.notices import Notices, Notifications
from poold.postgres.parameter_status import ParameterStatus

MAX_MESSAGE_BYTES = 1 << 20  # of a message that is no row, error or notice: columns are at most 1,664
# Errors and notices are cut to so many bytes. A client gets an error as text and fields, about three times as much.
LONGEST_TEXT = 1 << 16
_TAGS_KEPT = 1000
# Bytes of the column descriptions of all that is prepared on one connection, and of all results of a unit.
MAX_DESCRIPTIONS_BYTES = 16 << 20
_LARGE = 32768  # bytes that come in larger pieces belong to a large result, and no piece is a whole answer

_TRANSACTIONS: dict[bytes, TransactionStatus] = {b"I": TX_NONE, b"T": TX_ACTIVE, b"E": TX_FAILED}
_length = struct.Struct("!I").unpack_from
_UNPROMPTED = b"ENSA"  # what a server says unasked: errors, notices, settings, notifications
_TEXTS = b"EN"
_UNASKED = "the server answered what nobody asked"


class Wire:
    """One connection's conversation: `send` units, hand what came to `received`, take `outbox`."""

    def __init__(self, max_result_bytes: int, reported: ParameterStatus, prefix: bytes = b"poold_") -> None:
        """prefix goes before the names of prepared statements, so that clients cannot guess or replace these."""
        self.outbox: list[bytes] = []
        self._prefix = prefix
        # Units sent and not completed, in order: enter by send, leave with their ReadyForQuery.
        self.units: deque[Unit] = deque()
        self.fatal: str | None = None  # the text of the error with which PostgreSQL closes the connection
        self.notifications = Notifications()
        self.copies = Copies()
        # The completions of the last `received`; if that has raised, these units had ended before.
        self.completed: list[Completion] = []
        self._max_result_bytes = max_result_bytes
        self._reported = reported
        # Columns of the statements that are prepared here, by name: enter when described, leave when deallocated.
        self._columns: dict[bytes, bytes | None] = {}
        self._heads: dict[bytes, bytes] = {}  # the heads of their Bind messages, likewise
        self._tags: dict[bytes, tuple[str, int]] = {}  # command tags that were read already
        # The parts of a message that is not whole yet, and how many bytes of it are missing at least.
        self._chunks: list[bytes] = []
        self._missing = 0
        self._skipping = 0  # bytes of a row too large to keep that are still to come
        # The part of an answer up to a Flush, which comes ahead of the rest and is read together with it.
        self._ahead = b""
        self._is_fresh = True  # the next message begins a unit's answer, and no setting has changed
        self._begin()

    def _begin(self) -> None:
        """Begin a new unit's answer."""
        self._results: list[StatementResult] = []
        self._notices = Notices()
        self._held = 0  # bytes of the rows in _results, which are kept to the unit's end
        self._described_bytes = 0  # of the descriptions of all results
        # The kinds of a simple query's earlier results; of each kind one is kept, without its rows.
        self._kinds: set[tuple[str, bool]] = set()
        self._failure: Failure | None = None
        self._prepared: list[bytes | None] = []
        self._parameters: list[tuple[int, ...]] = []  # their types
        self._bound = 0
        self._place = -1  # of the command whose result comes, -1 before the first
        self._is_describing = False
        self._begin_result()

    def _begin_result(self) -> None:
        self._described: bytes | None = None  # this result's own description
        self._rows: list[bytes] = []
        self._row_count = 0
        self._size = 0

    # Commands as messages.

    def send(self, unit: Unit) -> None:
        """Put the unit into outbox."""
        self.units.append(unit)
        outbox = self.outbox
        first = unit[0]
        if type(first) is SimpleQuery:
            outbox.append(query(first.sql))
            return
        for command in unit:
            if type(command) is Bind:
                head, values = self._heads.get(command.name) or self._make_head(command), command.values
                outbox.append(bind(head, values))
            else:
                # If the unit prepares the name anew, the old columns are for answers that are still on their way.
                if type(command) is Deallocate and not prepares(unit, command.name):
                    self._columns.pop(command.name, None)
                    self._heads.pop(command.name, None)
                outbox.append(encoded(command, self._prefix))
        outbox.append(SYNC)

    def _make_head(self, command: Bind) -> bytes:
        """What Bind has before the values; kept for the next one."""
        head = self._heads[command.name] = bind_head(self._prefix + command.name, command.count)
        return head

    def prepared(self, name: bytes, count: int) -> tuple[bytes, bytes | None] | None:
        """Return the head of Bind and the columns of a prepared statement, None if it was not described here."""
        if name not in self._columns:
            return None
        return self._heads.get(name) or self._make_head(Bind(name, count, b"")), self._columns[name]

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is on its way, and no part of a message has come."""
        return self._is_fresh and not (self.units or self.outbox or self._chunks or self._skipping or self._ahead)

    def feed(self, data: bytes) -> bool:
        """Put the next piece of a COPY's data into outbox; False if PostgreSQL waits for none."""
        messages = self.copies.fed(data)
        self.outbox += messages
        return bool(messages)

    def end_feed(self, error: str | None) -> None:
        """Put the end of a COPY's data into outbox, if PostgreSQL waits for any."""
        self.outbox += self.copies.fed_up(error)

    # Answers.

    def received(self, data: bytes) -> list[Completion]:
        """Take received bytes; return the completions of the units that ended with them. Raises WireError."""
        if self._skipping or self._chunks:
            data = self._join(data)
        elif self.copies.is_passing:
            data = self.copies.pass_rest(data)
        elif self._ahead:
            data, self._ahead = self._ahead + data, b""
        done = self.completed = []
        position, end = 0, len(data)
        if self._is_fresh and end < _LARGE:
            found, position = whole_answers(data, self.units, self._columns, self._tags, self._max_result_bytes)
            for results in found:
                self.units.popleft()
                done.append(Completion(TX_NONE, results, bound=len(results)))
            if position < 0:  # flushed so far: the rest of the unit's answer comes behind
                self._ahead, position = data[~position:], end
        rows_from = -1  # where the rows not yet cut out begin
        while position + 5 <= end:
            kind = data[position]
            self._is_fresh = False
            if kind == COPY_DATA and (behind := self.copies.pass_on(data, position, len(done))) > position:
                position = behind
                continue
            after = position + 1 + _length(data, position + 1)[0]
            if after < position + 5:
                raise WireError(f"the server sent a message of length {after - position - 1}, expected at least 4")
            if after > end:
                if rows_from >= 0:
                    self._add_rows(data[rows_from:position])
                    rows_from = -1
                position = self._begin_long(kind, data, position, after)
                break
            if kind == 0x44:  # DataRow
                if rows_from < 0:
                    rows_from = position
                position, count = rows_end(data, position)
                self._row_count += count
                continue
            if rows_from >= 0:
                self._add_rows(data[rows_from:position])
                rows_from = -1
            if kind == 0x43:  # CommandComplete
                self._end_result(data[position + 5 : after - 1])
            elif kind == 0x5A:  # ReadyForQuery
                done.append(self._end_unit(data[position + 5 : after]))
            elif kind == 0x32:  # BindComplete
                self._bound += 1
            else:
                self._take(kind, data[position + 5 : after])
            position = after
        if rows_from >= 0:
            self._add_rows(data[rows_from:position])
        if position < end:
            self._chunks.append(data[position:])
            if end - position < 5:
                self._missing = 5 - (end - position)
        return done

    def _join(self, data: bytes) -> bytes:
        """Return the kept parts with data, or b"" while the message is not whole: joining each would be quadratic."""
        if self._skipping:
            skipped = min(self._skipping, len(data))
            self._skipping -= skipped
            return data[skipped:]
        self._chunks.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return b""
        joined = b"".join(self._chunks)
        self._chunks.clear()
        return joined

    def _begin_long(self, kind: int, data: bytes, position: int, after: int) -> int:
        """Begin a message that goes on behind data; return from where on data is to be kept until more has come."""
        end = len(data)
        self._missing = after - end
        if kind == 0x44 and after - position > self._max_result_bytes:
            # A row larger than any result may be: count it, keep nothing of it.
            self._row_count += 1
            self._rows.clear()
            self._size = self._max_result_bytes + 1
        elif kind in _TEXTS and after - position > LONGEST_TEXT:
            if end - position < LONGEST_TEXT:
                self._missing = LONGEST_TEXT - (end - position)
                return position
            self._take(kind, data[position + 5 :])
        elif kind != COPY_DATA:
            if kind != 0x44 and after - position > MAX_MESSAGE_BYTES:
                raise WireError(f"the server sent a message of {after - position} bytes")
            return position
        self._skipping = after - end
        return end

    def last_failure(self) -> Failure | None:
        """Return the FATAL error of the unit that is being answered, None if there was none."""
        is_last = self._failure is not None and self._failure.kind == "connection"
        return self._failure._replace(notices=self._notices.take()) if self._failure and is_last else None

    def partial(self) -> list[StatementResult]:
        """Return the results so far of the unit that is being answered, when nothing more will come."""
        if self._ahead:
            data, self._ahead, self._is_fresh = self._ahead, b"", False
            self.received(data)
        return self._results

    def _add_rows(self, rows: bytes) -> None:
        self._size += len(rows)
        if self._held + self._size > self._max_result_bytes:
            self._rows.clear()
        else:
            self._rows.append(rows)

    def _take(self, kind: int, body: bytes) -> None:
        """Take a message of a kind that is not in every answer."""
        if not self.units and kind not in _UNPROMPTED:
            raise WireError(_UNASKED)
        match chr(kind):
            case "T":
                self._describe(body)
            case "n":
                self._describe(None)
            case "t":
                self._is_describing = True
                self._parameters.append(answers.read_types(body))
            case "E":
                self._fail(body)
            case "N":
                self._notices.add(body[:LONGEST_TEXT], self._sql())
            case "S":
                self._reported.take(*two_texts(body))
            case "A":
                channel, payload = two_texts(body[4:])
                self.notifications.add(_length(body)[0], channel, payload)
            case "I":
                self._failure = refused("can't execute an empty query", FAILED)
            case "G":
                if (failure := self.copies.begin(self.units[0], True, len(self.completed))) is None:
                    return
                if self._failure is failure:  # each is answered, and who does not read would fill the outbox
                    raise WireError("the server asked again for data that it does not get")
                self._failure = failure
                self.outbox.append(no_data(self.units[0]))
            case "H":
                self._failure = self.copies.begin(self.units[0], False, len(self.completed)) or self._failure
            case "1" | "3" | "s" | "d" | "c":
                pass
            case other:
                raise WireError(f"the server sent a message of type {other!r}, which does not belong here")

    def _describe(self, body: bytes | None) -> None:
        if body is not None:
            answers.check_description(body)
        if self._is_describing:
            self._is_describing = False
            names = [each.name for each in self.units[0] if type(each) is Prepare]
            if len(self._prepared) >= len(names):
                raise WireError("the server described a statement that was not prepared")
            self._columns[names[len(self._prepared)]] = body
            self._prepared.append(body)
            answers.check_sum(self._columns.values(), MAX_DESCRIPTIONS_BYTES)
        else:
            self._described = body
            self._described_bytes += len(body or b"")
            if self._described_bytes > MAX_DESCRIPTIONS_BYTES:
                self._described, self._size = b"", self._max_result_bytes + 1

    def _fail(self, body: bytes) -> None:
        body = body[:LONGEST_TEXT]
        self.copies.is_feeding = False  # PostgreSQL ignores what else comes
        if not self.units:
            diag = diagnostics.fields(body)
            self.fatal = diag.get("message_primary", "the server closed the connection")
            return
        if self._failure is None or self._failure.kind != "statement-refused":
            self._failure = diagnostics.failure(body, TX_NONE, self._notices.marked(body, self._sql()), ())
        if self._failure.kind == "connection":
            # Clients whose statements waited behind this one get this text as well, so it is without detail and
            # context, in which PostgreSQL quotes statements and values.
            self.fatal = self._failure.diag.get("message_primary", "the server closed the connection")

    def _sql(self) -> bytes | None:
        """Return the text of the statement that runs, None if it is not known."""
        return answers.text_at(self.units[0], self._next_place()) if self.units else None

    def _next_place(self) -> int:
        """Return the place in its unit of the command whose result comes next."""
        return next_place(self.units[0], self._place) if self.units else 0

    def _end_result(self, tag: bytes) -> None:
        self._place = self._next_place()
        if not self.units or self._place >= len(self.units[0]):
            raise WireError(_UNASKED)
        command = self.units[0][self._place]
        columns = self._columns.get(command.name) if type(command) is Bind else self._described
        word = self._tags.get(tag)
        if word is None:
            word = answers.read_tag(tag)
            if len(self._tags) < _TAGS_KEPT:
                self._tags[tag] = word
        is_simple = type(command) is SimpleQuery
        if is_simple and self._results:
            answers.forget_rows(self._results, self._kinds)
        is_too_large = self._held + self._size > self._max_result_bytes
        rows = self._rows
        self._held += 0 if is_simple or is_too_large else self._size
        count = word[1] if columns is None else self._row_count
        kept = None if is_too_large else rows[0] if len(rows) == 1 else b"".join(rows)
        notices = () if is_simple else self._notices.take()
        self._results.append(StatementResult(word[0], count, columns, kept, notices))
        self._begin_result()

    def _end_unit(self, status: bytes) -> Completion:
        if not self.units:
            raise WireError(_UNASKED)
        failure, unit = self._failure, self.units.popleft()
        if failure is None and not is_whole(unit, len(self._results), len(self._prepared)):
            raise WireError("the server ended an answer before it had said all of it")
        transaction = _TRANSACTIONS.get(status, TX_BROKEN)
        reported = self._reported
        if reported.is_unreliable:
            failure = failure or relied_on_changed(EXECUTED if transaction == TX_NONE else FAILED)
            transaction = TX_BROKEN
        if failure is not None:
            failure = failure._replace(transaction=transaction, notices=failure.notices or self._notices.take())
        elif self._results and (late := self._notices.take()):
            # Notices raised at the commit, or by a command without a result of its own.
            self._results[-1] = answers.with_notices(self._results[-1], late)
        described = self._prepared, self._parameters
        done = Completion(transaction, self._results, failure, *described, self._bound, reported.is_changed)
        self._is_fresh = not reported.is_changed
        self._begin()
        self.copies.end_unit()
        return done
