"""A Handler that stays on one backend: for what outlives a statement, or a transaction, and must be found again.

    with db.session() as session:
        session.query('CREATE TEMP TABLE chosen AS SELECT id FROM orders WHERE total > 100')
        for row in session.query('SELECT * FROM chosen'):
            print(row.id)

Its first statement takes a lease; leaving the block gives the backend back, and the broker takes away what was left in
its session before anybody else is served there. Meanwhile the backend serves nobody else: the group's lease_timeout and
idle_in_transaction_timeout bound that.
"""

from __future__ import annotations

import contextlib
from typing import Any, NoReturn

from client.channel import Channel
from client.connection import channel_to
from client.errors import DBConnectionError, DBError, UsageError
from client.handler import Handler
from client.lease import Lease
from client.protocol import NOT_EXECUTED, TX_NONE, Commit, Query, Release, Rollback
from client.rules import IN_SESSION, OPENS_SESSION


class Session(Handler):
    """Made by `Handler.session`, in whose group it runs.

    Statements commit by themselves in an autocommit group, where BEGIN and COMMIT may be sent as statements; elsewhere
    the first one begins a transaction, until commit or rollback, and the next one another. Leaving the block commits
    what is open, leaving it by an exception rolls back. Where the session is lost, all that follows raises
    TransactionLost: what was left in it is gone, and only a new one can begin again.
    """

    def __init__(self, parent: Handler) -> None:
        self._share(parent)
        self._transaction = TX_NONE  # where the last reply left it

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, failed or lost."""
        return self._transaction != TX_NONE

    def commit(self) -> None:
        """Commit the open transaction; without one it does nothing. The session goes on."""
        if self.in_transaction:
            self._end(Commit)

    def rollback(self) -> None:
        """Roll back the open transaction; without one it does nothing. The session goes on, where it is not lost."""
        if self.in_transaction:
            with contextlib.suppress(DBConnectionError):
                self._end(Rollback)
            self._transaction = TX_NONE

    def close(self) -> None:
        """Give the backend back; what is open is rolled back. The next statement would open another session."""
        if self._lease.number:
            with contextlib.suppress(DBConnectionError):  # where the broker is gone, nothing of it is left
                channel = self._lease.channel()
                channel.call(Release(channel.next_request(), self._lease.number))
            self._lease.close()
        self._transaction = TX_NONE

    def transaction(self, **_: Any) -> NoReturn:
        """Not in a session: the broker runs a transaction message on any backend, and again where it lost a race."""
        raise UsageError(
            "a session runs its statements one by one; use query() and commit(), after query('BEGIN') in an autocommit "
            "group, or a transaction block of the Handler outside"
        )

    def session(self) -> NoReturn:
        """Not in a session."""
        raise UsageError("this is a session already; make another with the Handler's session()")

    def _leave(self) -> None:
        self.close()

    def _new_lease(self) -> Lease:
        return Lease("session", Release)

    def _route(self) -> tuple[Channel, int, bool, int]:
        lease, session = self._lease, IN_SESSION
        if lease.number:
            channel = lease.channel()
        else:
            channel, session = channel_to(self._address, self._keys), OPENS_SESSION
        begin = not self._check_group(channel) and not self.in_transaction
        if session == OPENS_SESSION:
            lease.open(channel)
        return channel, lease.number, begin, session

    def _is_opening(self, message: object) -> bool:
        return isinstance(message, Query) and message.session == OPENS_SESSION

    def _in_lease(self, channel: Channel, message: Query | Commit | Rollback, waits: float | None = None) -> Any:
        try:
            return super()._in_lease(channel, message, waits)
        except DBError as error:
            is_refused = error.outcome == NOT_EXECUTED and error.failure.transaction == TX_NONE
            if self._is_opening(message) and is_refused:
                self._lease.close()  # it has not got a backend
            raise

    def _follow(self, transaction: str) -> None:
        self._transaction = transaction
