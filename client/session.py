"""Statements that stay on one backend, for state that later statements need: temporary tables, settings, locks.

    with db.session() as session:
        session.query('CREATE TEMP TABLE chosen AS SELECT id FROM orders WHERE total > 100')
        for row in session.query('SELECT * FROM chosen'):
            print(row.id)

The first statement takes a lease; leaving the block gives the backend back, and the broker clears what was left in
its session before another client is served there. During the session the backend serves nobody else; the group's
lease_timeout and idle_in_transaction_timeout bound that time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn, Self

from client.channels.channel import Channel
from client.errors import UsageError
from client.executor import Executor
from client.lease import Call, ClientLease
from client.options import Settings, checked_autocommit, packed_settings, timeout_in, wants_dicts
from client.owed_settings import lasting, resets_all
from client.stream import BLOCK_ROWS, Cursor, Stream, asked
from client.values.bind import bind
from client.wire.limits import IN_SESSION, OPENS_SESSION
from client.wire.messages import (
    NOT_EXECUTED,
    TX_LOST,
    TX_NONE,
    Commit,
    Failure,
    Query,
    Release,
    ResultMessage,
    Rollback,
    TransactionStatus,
)


class Session(Executor):
    """A session in its Handler's group; made by `Handler.session`.

    Statements commit by themselves if its Handler's do, and BEGIN and COMMIT may be sent as statements then. Else the
    first statement begins a transaction, and so does the first one after each commit or rollback. Leaving the block
    commits what is open, leaving it by an exception rolls back, and the session is over then: all that follows raises
    UsageError. If it is lost, all that follows raises TransactionLost, except rollback(), which acknowledges that: what
    was left in it is gone, and only a new session can begin again. A session is never on a replica.
    """

    def __init__(self, parent: Executor) -> None:
        self._share(parent)
        # The Handler's settings are the session's from its first statement on.
        self._lasting, self._settings = lasting(self._settings)
        self._others = self._settings  # which cannot last, and travel
        self._owes_lasting = bool(self._lasting)
        self._was_lasting: set[str] = set()  # the names of those that the backend has been told
        self._ended = 0  # how many replies have reported that none is open
        self._was_lost = False  # and rolled back or closed since, which brings nothing back
        self._is_closed = False

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, failed or lost: whether commit or rollback is still owed."""
        return self._transaction != TX_NONE

    @property
    def autocommit(self) -> bool:
        """Whether each statement commits by itself, as its Handler's; may be set while no transaction is open."""
        return super().autocommit

    @autocommit.setter
    def autocommit(self, value: bool | None) -> None:
        self._check_open()
        if self.in_transaction:
            raise UsageError("autocommit cannot change in an open transaction; call commit() or rollback() first")
        self._autocommit = checked_autocommit(value)

    @property
    def is_lost(self) -> bool:
        """Whether its backend is gone, or was before the session ended; only another session can go on."""
        return self._was_lost or self._transaction == TX_LOST or self._lease.is_lost

    @property
    def transaction_status(self) -> TransactionStatus:
        """What is open: 'none', 'active', 'failed' if it wants a rollback; 'lost' if the session is."""
        return TX_LOST if self.is_lost else self._transaction

    def commit(self) -> None:
        """Commit the open transaction; without one it does nothing. The session goes on.

        Raises as `query` if the session is known to be lost, also if nothing was open in it.
        """
        self._check_open()
        self._lease.check_unused()
        if self.in_transaction or self.is_lost:
            self._end(Commit)

    def rollback(self) -> None:
        """Roll back the open transaction; without one it does nothing. The session goes on, if it is not lost."""
        self._check_open()
        self._lease.check_unused()
        if self.in_transaction:
            self._finish(Rollback)
            self._was_lost = self.is_lost
            self._lease.acknowledge()
            self._transaction = TX_NONE

    def close(self) -> None:
        """End the session and give its backend back; what is open is rolled back. Again it does nothing."""
        self._lease.check_unused()
        self._owes_lasting = False
        if self._lease.number:
            self._finish(Release)
            self._was_lost = self.is_lost
            self._close_lease()
        self._transaction = TX_NONE
        self._is_closed = True

    def cancel(self) -> int:
        """Cancel what threads wait for in this session; see `Executor.cancel`."""
        self._check_open()
        return super().cancel()

    def use_settings(self, settings: Settings | None) -> None:
        """Have these settings hold in the session, instead of those that it was given before.

        In an open transaction what held holds to its end, if it is not among the new ones.
        """
        self._check_open()
        super().use_settings(settings)
        self._lasting, self._others = lasting(self._settings)
        self._owes_lasting = True
        if not self.in_transaction:
            self._settings = self._others

    def __enter__(self) -> Self:
        self._check_open()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._was_lost:
            self._leave()  # the program knows
        elif not self._is_closed:  # by the program, in its block
            super().__exit__(kind, error, trace)

    def transaction(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: the broker runs a transaction message on any backend, and again if it lost a race."""
        self._check_open()
        raise UsageError(
            "a session runs its statements one by one; use query() and commit(), after query('BEGIN') in an autocommit "
            "group, or a transaction block of a Handler outside"
        )

    run = transaction

    def session(self) -> NoReturn:
        """Refuse: a session has no sessions in it."""
        self._check_open()
        raise UsageError("this is a session already; make another with the Handler's session()")

    def stream(
        self,
        statement: Any,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        size: int = BLOCK_ROWS,
        *,
        timeout: float | None = None,
        priority: str | None = None,
        settings: Settings | None = None,
        rows: str | None = None,
    ) -> Stream:
        """The rows of one statement, for results that do not fit; as `Handler.stream`, in the open transaction."""
        self._check_open()
        if self.autocommit and not self.in_transaction and not self.is_lost:  # which its first statement tells
            raise UsageError(
                "rows are streamed in a transaction, and none is open in this session, where each statement commits by "
                "itself; call query('BEGIN') first, or stream() of a Handler outside"
            )
        dicts = self._dicts if rows is None else wants_dicts(rows)
        request = asked(statement, params, size, timeout, dicts, priority=priority, settings=settings)
        return Stream(Cursor(self, request))

    def _check_open(self) -> None:
        if self._is_closed:
            raise UsageError("this session is over; open another with db.session()")

    def _in_lease(
        self,
        message: Callable[..., Any] | None,
        waits: float | None = None,
        channel: Channel | None = None,
        converse: Callable[[Channel, Any, float | None], ResultMessage] | None = None,
        ahead: Call | None = None,
    ) -> ResultMessage:
        self._check_open()
        if self._owes_lasting and not self.in_transaction:
            began = time.monotonic()
            self._set_lasting(waits, channel)
            channel, waits = None, None if waits is None else max(0.001, waits - (time.monotonic() - began))
        return super()._in_lease(message, waits, channel, converse, ahead)

    def _set_lasting(self, waits: float | None, channel: Channel | None) -> None:
        """Set what is to last in the session, and back what was to."""
        gone = self._was_lasting - {name.lower() for name in self._lasting}
        if gone:
            words = "SELECT pg_catalog.set_config(name, reset_val, false) FROM pg_catalog.pg_settings"
            self._say(f"{words} WHERE pg_catalog.lower(name) = ANY(%s)", [list(gone)], waits, channel)
            self._was_lasting, channel = self._was_lasting - gone, None
        if self._lasting:
            words = ", ".join(["pg_catalog.set_config(%s, %s, false)"] * len(self._lasting))
            # They travel with it as well: so the broker refuses those that values rely on.
            values = [word for pair in self._lasting.items() for word in pair]
            self._say(f"SELECT {words}", values, waits, channel, packed_settings(self._lasting))
            self._was_lasting |= {name.lower() for name in self._lasting}
        self._settings, self._owes_lasting = self._others, False

    def _say(
        self, statement: str, params: list[Any], waits: float | None, channel: Channel | None, settings: bytes = b""
    ) -> None:
        """Run a statement of our own, which commits by itself."""
        sql, types, values, _ = bind(statement, params)
        timeout = None if waits is None else timeout_in(waits)
        rest = (sql, types, values, self._prepare, timeout, self._tag, self._priority, settings)
        super()._in_lease(
            lambda own, lease, _, session: Query(own.next_request(), self._group, lease, False, *rest, session),
            waits,
            channel,
        )

    def _follow_settings(self, sql: bytes, *, has_told: bool) -> None:
        super()._follow_settings(sql, has_told=has_told)
        if self._lasting and resets_all(sql):
            self._owes_lasting = True
            if self.in_transaction:  # in which they travel again
                self._settings = packed_settings(self._lasting) + self._others
                self._owed.renew()

    def _group_for(self, is_read_only: bool) -> str:
        return self._group  # a session may do anything, so it is on the primary

    def _settings_of_copy(self, owed: bytes, wanted: bytes) -> bytes:
        if wanted and not self.in_transaction:
            raise UsageError(
                "settings do not travel with a COPY in a session; change them by query('SET ...') before it"
            )
        return owed

    def _leave(self) -> None:
        self.close()

    def _new_lease(self) -> ClientLease:
        return ClientLease("session", Release)

    def _needs_lease(self) -> bool:
        return True

    def _place(self, channel: Channel, call: Call) -> tuple[int, bool, int]:
        begin = not self._commits_by_itself(channel) and not self.in_transaction
        return self._lease.number, begin, OPENS_SESSION if call.is_opening else IN_SESSION

    def _is_over(self, failure: Failure) -> bool:
        """Whether the session's backend is lost; else it goes on, even if a statement failed behind a COMMIT."""
        return failure.transaction == TX_LOST

    def _follow_failure(self, failure: Failure, call: Call) -> None:
        super()._follow_failure(failure, call)
        if call.is_opening and failure.outcome == NOT_EXECUTED and failure.transaction == TX_NONE:
            self._close_lease(call)  # it has not got a backend

    def _follow(self, transaction: TransactionStatus, call: Call) -> None:
        # Behind its rollback nothing is owed to a lost session, however often it is told that it is lost.
        self._transaction = TX_NONE if self._was_lost else transaction
        self._ended += transaction == TX_NONE

    def _open_transaction(self) -> Any:
        return (self._lease.number, self._ended) if self.in_transaction else None
