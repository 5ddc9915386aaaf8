"""The Handler: how a program runs SQL.

In an autocommit group each query is a statement of its own, run on any free backend. In a group with autocommit off the
first query takes a lease, exclusive use of one backend, and begins a transaction there; commit or rollback ends both.
Which of the two holds is the group's configuration, so the broker says it when the channel opens. A transaction block
collects its statements and is sent as one message, in a group of either kind.
"""

import contextlib
import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from client import protocol, rules
from client.channel import Channel
from client.connection import broker_address, broker_keys, channel_to
from client.errors import DBConnectionError, DBError, TransactionLost, UnconfiguredGroupError, UsageError
from client.parameters import bind
from client.protocol import NOT_EXECUTED, TX_NONE, Commit, Query, Rollback, Step, TransactionResult, split_steps
from client.rows import Result
from client.transaction import DEFAULT_RETRIES, Options, Transaction, checked_options, checked_prepare

DEFAULT_GROUP = "default"
# A broker cancels an overdue statement and says so; a client gives up only when even that does not come.
GRACE = 15.0
# psycopg2 keeps as many notices with a connection.
MAX_NOTICES = 50

# Numbers of leases. Unique per process, so also per channel; next() on it is atomic.
_lease_numbers = itertools.count(1)


class Handler:
    """Runs queries in one group of the broker.

        with Handler('orders') as db:
            for row in db.query('SELECT id, total FROM orders WHERE customer = %s', (7,)):
                print(row.id, row['total'])

    Leaving the block commits an open transaction; leaving it by an exception rolls back. A Handler may be made before a
    fork and used after it, and shared by threads, except that an open transaction belongs to the thread that began it.
    tag is free text, at most 128 characters, shown by `poold stats` for requests that wait. prepare is what statements
    do that do not say it themselves: True lets the broker prepare what is sent often, False keeps parameters in the
    statement as literals. server_key and key are files, for a tcp:// address whose broker has keys: the broker's public
    key, and this client's secret one. They are read here, once.

    Raises DBConnectionError where no broker is there and UnconfiguredGroupError where it has no such group.
    """

    def __init__(
        self,
        group: str = DEFAULT_GROUP,
        *,
        address: str | None = None,
        server_key: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        tag: str = "",
        prepare: bool = True,
    ) -> None:
        self._group = group
        self._address = broker_address(address)
        self._keys = broker_keys(self._address, server_key, key)
        self._tag = _checked_tag(tag)
        self._prepare = checked_prepare(prepare)
        # PostgreSQL's latest messages (RAISE NOTICE and the like), the newest last, as psycopg2's connection.notices.
        # Each result and each error of this Handler adds those that came with it; threads sharing it share them.
        self.notices: deque[str] = deque(maxlen=MAX_NOTICES)
        # The open transaction: its lease's number (0: none), and the channel and thread it was begun through.
        self._lease = 0
        # Held weakly: the channel ends with its thread, which rolls the transaction back.
        self._lease_channel: weakref.ref[Channel] | None = None
        self._lease_thread = 0
        self._check_group(channel_to(self._address, self._keys))

    @property
    def autocommit(self) -> bool:
        """Whether each statement of this group commits by itself."""
        return self._check_group(channel_to(self._address, self._keys))

    @property
    def in_transaction(self) -> bool:
        """Whether an interactive transaction is open, failed or lost: whether commit or rollback is still owed."""
        return self._lease != 0

    def query(
        self,
        statement: Any,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        timeout: float | None = None,
        *,
        prepare: bool | None = None,
    ) -> Result:
        """Run one statement and return its result.

        statement and params are psycopg2's: %s and %(name)s, %% for a percent sign, tuples for IN, lists for arrays.
        timeout bounds waiting and running together, in seconds; without it the group's queue_timeout and the endpoint's
        query_timeout hold. prepare is the Handler's where it is None. Raises the errors of `client.errors`; a
        PostgreSQL error is also its psycopg2.errors class.
        """
        sql, types, values, references = bind(statement, params)
        if references:
            raise UsageError(
                "a parameter is a result of a statement in a transaction block, which has no value yet; use it in a "
                "later statement of that block, or read it after the block and pass the value"
            )
        patience = None if timeout is None else _patience(timeout)
        prepare = self._prepare if prepare is None else checked_prepare(prepare)
        # The hot path; the lookup repeats _check_group, which says what is wrong where there is no such group.
        lease, begin = self._lease, False
        if lease:
            channel = self._owned_channel()
        else:
            channel = channel_to(self._address, self._keys)
            if not (channel.welcome.groups.get(self._group) or self._check_group(channel)):
                lease, begin = self._begin(channel), True
        request = channel.next_request()
        message = Query(request, self._group, lease, begin, sql, types, values, prepare, timeout, self._tag)
        try:
            reply: Any = self._in_lease(channel, message, patience) if lease else channel.call(message, patience)
        except DBError as error:
            self.notices.extend(error.notices)
            raise
        if reply.notices:
            self.notices.extend(reply.notices)
        return Result(reply)

    def transaction(
        self,
        *,
        isolation: str | None = None,
        read_only: bool | None = None,
        deferrable: bool | None = None,
        retries: int = DEFAULT_RETRIES,
        timeout: float | None = None,
    ) -> Transaction:
        """A block of statements that are sent together when it ends, and run as one transaction.

            with db.transaction() as tx:
                order = tx.query('INSERT INTO orders (customer) VALUES (%s) RETURNING id', (7,))
                tx.query('INSERT INTO items (order_id, sku) VALUES (%s, %s)', (order['id'], 'A1'), expect=1)
            print(order['id'])

        isolation is 'read uncommitted', 'read committed', 'repeatable read' or 'serializable'; it, read_only and
        deferrable are the server's defaults where they are None. The broker runs the transaction again, at most retries
        times, where it lost a race (serialization failure, deadlock) or its backend before COMMIT. timeout bounds all
        of it, in seconds. See `client.transaction.Transaction`.
        """
        self._check_no_lease()
        if timeout is not None:
            _patience(timeout)
        options = checked_options(isolation, read_only, deferrable, retries, timeout)
        return Transaction(self._send_transaction, options, self._prepare)

    def run(self, statements: Iterable[Any], **options: Any) -> list[Result]:
        """Run these statements as one transaction and return their results.

            db.run([('UPDATE stock SET n = n - 1 WHERE sku = %s', ('A1',)), 'SELECT sum(n) FROM stock'])

        Each is a statement, or a tuple of the arguments of Transaction.query; options are those of transaction().
        """
        if isinstance(statements, (str, bytes)):
            raise TypeError("run wants a list of statements; for a single one call query")
        with self.transaction(**options) as tx:
            pending = [tx.query(*each) if isinstance(each, (tuple, list)) else tx.query(each) for each in statements]
        return [each.result() for each in pending]

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

    def _begin(self, channel: Channel) -> int:
        """A lease of this thread's for a transaction that the next request opens through the channel."""
        self._lease = next(_lease_numbers)
        self._lease_channel = weakref.ref(channel)
        self._lease_thread = threading.get_ident()
        return self._lease

    def _send_transaction(self, options: Options, steps: tuple[Step | int, ...]) -> TransactionResult:
        """What became of a transaction message of these steps."""
        self._check_no_lease()
        channel = channel_to(self._address, self._keys)
        self._check_group(channel)
        isolation, read_only, deferrable, retries, timeout = options
        request = channel.next_request()
        message = protocol.Transaction(
            request, self._group, isolation, read_only, deferrable, retries, *split_steps(steps), timeout, self._tag
        )
        try:
            reply = channel.call(message, None if timeout is None else _patience(timeout))
        except DBError as error:
            self.notices.extend(error.notices)
            raise
        assert isinstance(reply, TransactionResult)
        for fields in (*reply.results, reply.failure):
            if fields is not None:
                self.notices.extend(fields[-1])  # of a Result as of a Failure
        return reply

    def _check_no_lease(self) -> None:
        if self._lease:
            raise UsageError(
                "this Handler's interactive transaction is open, and a transaction block would run on another backend, "
                "beside it; call commit() or rollback() first"
            )

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
                f"the broker at {self._address} has no group {self._group!r} for this client; "
                f"it has {', '.join(sorted(groups)) or 'none'}"
            )
        return autocommit


def _patience(timeout: float) -> float:
    """How long to wait for the reply to a request with this timeout; raises ValueError where it cannot be sent."""
    if isinstance(timeout, bool) or not 0 < timeout <= rules.MAX_TIMEOUT:
        raise ValueError(f"timeout is {timeout!r}; expected seconds above 0, or None")
    return timeout + GRACE


def _checked_tag(tag: str) -> str:
    """The tag, if it can be sent; the broker would take any other for a breach of the protocol."""
    if not isinstance(tag, str) or len(tag) > rules.MAX_NAME_CHARS or "\0" in tag:
        raise ValueError(f"tag is {tag!r:.200}; expected text of at most {rules.MAX_NAME_CHARS} characters without NUL")
    tag.encode()  # a lone surrogate says so itself
    return tag
