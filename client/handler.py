"""The Handler: how a program runs SQL.

In an autocommit group each query is a statement of its own, run on any free backend. In a group with autocommit off the
first query takes a lease, exclusive use of one backend, and begins a transaction there; commit or rollback ends both.
Which of the two holds is the group's configuration, so the broker says it when the channel opens.
"""

import contextlib
import itertools
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from client import protocol
from client.channel import Channel
from client.connection import broker_address, channel_to
from client.errors import DBConnectionError, DBError, TransactionLost, UnconfiguredGroupError, UsageError
from client.protocol import NOT_EXECUTED, TX_NONE, Commit, Query, Rollback
from client.rows import Result
from client.values import render

DEFAULT_GROUP = "default"
# A broker cancels an overdue statement and says so; a client gives up only when even that does not come.
GRACE = 15.0

# Numbers of leases. Unique per process, so also per channel; next() on it is atomic.
_lease_numbers = itertools.count(1)


class Handler:
    """Runs queries in one group of the broker.

        with Handler('orders') as db:
            for row in db.query('SELECT id, total FROM orders WHERE customer = %s', (7,)):
                print(row.id, row['total'])

    Leaving the block commits an open transaction; leaving it by an exception rolls back. A Handler may be made before a
    fork and used after it, and shared by threads, except that an open transaction belongs to the thread that began it.
    tag is free text, at most 128 characters, shown by `poold stats` for requests that wait.

    Raises DBConnectionError where no broker is there and UnconfiguredGroupError where it has no such group.
    """

    def __init__(self, group: str = DEFAULT_GROUP, *, address: str | None = None, tag: str = "") -> None:
        self._group = group
        self._address = broker_address(address)
        self._tag = _checked_tag(tag)
        # The open transaction: its lease's number (0: none), and the channel and thread it was begun through.
        self._lease = 0
        # Held weakly: the channel ends with its thread, which rolls the transaction back.
        self._lease_channel: weakref.ref[Channel] | None = None
        self._lease_thread = 0
        self._check_group(channel_to(self._address))

    @property
    def autocommit(self) -> bool:
        """Whether each statement of this group commits by itself."""
        return self._check_group(channel_to(self._address))

    @property
    def in_transaction(self) -> bool:
        """Whether an interactive transaction is open, failed or lost: whether commit or rollback is still owed."""
        return self._lease != 0

    def query(
        self,
        statement: Any,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Result:
        """Run one statement and return its result.

        statement and params are psycopg2's: %s and %(name)s, %% for a percent sign, tuples for IN, lists for arrays.
        timeout bounds waiting and running together, in seconds; without it the group's queue_timeout and the endpoint's
        query_timeout hold. Raises the errors of `client.errors`; a PostgreSQL error is also its psycopg2.errors class.
        """
        rendered = render(statement, params)
        if timeout is not None and (isinstance(timeout, bool) or not 0 < timeout <= protocol.MAX_TIMEOUT):
            raise ValueError(f"timeout is {timeout!r}; expected seconds above 0, or None")
        patience = None if timeout is None else timeout + GRACE
        if self._lease == 0:
            channel = channel_to(self._address)
            request = channel.next_request()
            # The hot path; the lookup repeats _check_group, which says what is wrong where there is no such group.
            if channel.welcome.groups.get(self._group) or self._check_group(channel):
                message = Query(request, self._group, 0, False, rendered, timeout, self._tag)
                return Result(channel.call(message, patience))  # type: ignore[arg-type]  # a Query gets a Result
            self._lease = next(_lease_numbers)
            self._lease_channel = weakref.ref(channel)
            self._lease_thread = threading.get_ident()
            message = Query(request, self._group, self._lease, True, rendered, timeout, self._tag)
        else:
            channel = self._owned_channel()
            message = Query(channel.next_request(), self._group, self._lease, False, rendered, timeout, self._tag)
        return Result(self._in_lease(channel, message, patience))

    def query_prepared(self, params: Sequence[Any] | Mapping[str, Any], timeout: float | None = None) -> Any:
        """Call "SQLPrepare"."ExecuteQuery" with params and return the first column of its first row.

        The functions are pg_extensions' prep_queries; with `sqlprepare = true` the broker calls
        "SQLPrepare"."PrepareQueries" on each new backend of the group. Returns None where it gives no row.
        """
        if params is None:
            raise TypeError("query_prepared wants the parameters of the prepared query, got None")
        if isinstance(params, Mapping):
            arguments = ", ".join(f'"{name}" := %({name})s' for name in params)
        else:
            arguments = ", ".join(["%s"] * len(params))
        row = self.query(f'SELECT * FROM "SQLPrepare"."ExecuteQuery"({arguments})', params, timeout).fetchone()
        return None if row is None else row[0]

    def commit(self) -> None:
        """Commit the open transaction; without one it does nothing, as psycopg2's commit.

        Raises where nothing was committed: a DBQueryError (a deferred constraint, or a statement of this transaction
        had failed), TransactionLost, or DBConnectionError, whose outcome is 'unknown' where the answer was lost.
        """
        self._end(Commit)

    def rollback(self) -> None:
        """Roll back the open transaction; without one, or where it was lost, it does nothing.

        Never fails for a broker that is gone: its backends are closed then, and PostgreSQL rolls back.
        """
        with contextlib.suppress(DBConnectionError):
            self._end(Rollback)
        self._lease = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.commit()
            else:
                self.rollback()
        except DBError as second:
            if error is None:
                raise
            error.add_note(f"rolling back after it failed as well: {second}")
        finally:
            self._lease = 0

    def __del__(self) -> None:
        # Never raise here, and never touch another thread's socket.
        lease = getattr(self, "_lease", 0)
        channel = self._lease_channel() if lease and self._lease_channel is not None else None
        if channel is not None and channel.pid == os.getpid():
            if self._lease_thread == threading.get_ident():
                channel.post(Rollback(channel.next_request(), lease))
            else:
                channel.abandon(lease)

    def _end(self, verb: type[Commit] | type[Rollback]) -> None:
        if self._lease:
            channel = self._owned_channel()
            self._in_lease(channel, verb(channel.next_request(), self._lease))

    def _in_lease(self, channel: Channel, message: Query | Commit | Rollback, patience: float | None = None) -> Any:
        """The reply. The transaction goes on where the reply says so, and where the broker said nothing."""
        begins = isinstance(message, Query) and message.begin
        try:
            reply = channel.call(message, patience)
        except DBError as error:
            unsaid = error.failure.request == 0
            if unsaid and begins and error.outcome == NOT_EXECUTED:
                self._lease = 0
            elif not unsaid:
                self._follow(error.failure.transaction)
            raise
        assert isinstance(reply, protocol.Result)
        self._follow(reply.transaction)
        return reply

    def _follow(self, transaction: str) -> None:
        """A failed or lost transaction still waits for its rollback; one that is over does not."""
        if transaction == TX_NONE:
            self._lease = 0

    def _owned_channel(self) -> Channel:
        """The channel of the open transaction, checked to be usable here and now."""
        channel = self._lease_channel() if self._lease_channel is not None else None
        if channel is None:
            raise TransactionLost(
                "this transaction's connection to the broker is gone and with it the transaction, rolled back: the "
                "broker went away, or the thread that began it ended; call rollback() and begin anew"
            )
        if channel.pid != os.getpid():
            raise UsageError(
                "this Handler's transaction was begun before the fork and belongs to the parent process; "
                "make a new Handler in the child"
            )
        if self._lease_thread != threading.get_ident():
            raise UsageError(
                "this Handler's transaction belongs to the thread that began it; give each thread its own Handler"
            )
        if not channel.is_usable:
            raise TransactionLost(
                f"the broker at {self._address} went away and with it this transaction, rolled back; "
                "call rollback() and begin anew"
            )
        return channel

    def _check_group(self, channel: Channel) -> bool:
        """The group's autocommit; raises UnconfiguredGroupError where the broker has no such group."""
        groups = channel.welcome.groups
        autocommit = groups.get(self._group)
        if autocommit is None:
            raise UnconfiguredGroupError(
                f"the broker at {self._address} has no group {self._group!r}; it has {', '.join(sorted(groups))}"
            )
        return autocommit


def _checked_tag(tag: str) -> str:
    """The tag, if it can be sent; the broker would take any other for a breach of the protocol."""
    if not isinstance(tag, str) or len(tag) > protocol.MAX_NAME_CHARS or "\0" in tag:
        raise ValueError(
            f"tag is {tag!r:.200}; expected text of at most {protocol.MAX_NAME_CHARS} characters without NUL"
        )
    tag.encode()  # a lone surrogate says so itself
    return tag
