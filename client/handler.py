"""The Handler: how a program runs SQL.

In an autocommit group each query is a statement of its own, run on any free backend. In a group with autocommit off the
first query takes a lease, exclusive use of one backend, and begins a transaction there; commit or rollback ends both.
Which of the two holds is the group's configuration, so the broker says it when the channel opens. A transaction block
collects its statements and is sent as one message, in a group of either kind.
"""

import os
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from client.calls import Calls
from client.channels.channel import Channel
from client.channels.registry import broker_address, broker_keys, channel_to, give_back
from client.errors import DBError, UsageError
from client.interruptions import is_own
from client.lease import Lease
from client.options import (
    DEFAULT_PRIORITY,
    DEFAULT_RETRIES,
    Options,
    Settings,
    checked_choice,
    checked_isolation,
    checked_prepare,
    checked_priority,
    checked_retries,
    checked_tag,
    packed_settings,
    patience,
)
from client.transaction import Transaction
from client.values.bind import bind
from client.values.result import Result
from client.wire import messages
from client.wire.messages import (
    Ask,
    Cancel,
    Commit,
    Query,
    Rollback,
    Step,
    TransactionResult,
    split_steps,
)

if TYPE_CHECKING:
    from client.session import Session

DEFAULT_GROUP = "default"
# Where a channel is opened faster, what is left of a timeout is all of it.
OPENED_AT_ONCE = 0.01
# psycopg2 keeps as many notices with a connection.
MAX_NOTICES = 50


class Handler(Calls):
    """Runs queries in one group of the broker.

        with Handler('orders') as db:
            for row in db.query('SELECT id, total FROM orders WHERE customer = %s', (7,)):
                print(row.id, row['total'])

    Leaving the block commits an open transaction; leaving it by an exception rolls back. A Handler may be made before a
    fork and used after it, and shared by threads and greenlets; a transaction that is open in it may be used by one
    after the other, each call by itself.
    tag is free text, at most 128 characters, shown by `poold stats` for requests that wait. prepare, priority and
    settings are those of statements that do not say it themselves, see `query`. server_key and key are files, for a
    tcp:// address whose broker has keys: the broker's public key, and this client's secret one, read here and once.

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
        priority: str = DEFAULT_PRIORITY,
        settings: Settings | None = None,
    ) -> None:
        self._group = group
        self._address = broker_address(address)
        self._keys = broker_keys(self._address, server_key, key)
        self._tag = checked_tag(tag)
        self._prepare = checked_prepare(prepare)
        self._priority = checked_priority(priority)
        self._settings = packed_settings(settings)
        self._begin_anew()
        self._is_autocommit()

    def _share(self, other: "Handler") -> None:
        """Be a Handler of the same kind as the other."""
        for name in ("_group", "_address", "_keys", "_tag", "_prepare", "_priority", "_settings"):
            setattr(self, name, getattr(other, name))
        self._begin_anew()

    def _new_lease(self) -> Lease:
        """What the open transaction runs in, as soon as there is one."""
        return Lease("transaction", Rollback)

    def _begin_anew(self) -> None:
        self.notices = deque(maxlen=MAX_NOTICES)
        self._lease = self._new_lease()
        self._calls = {}

    @property
    def autocommit(self) -> bool:
        """Whether each statement of this group commits by itself."""
        return self._is_autocommit()

    @property
    def in_transaction(self) -> bool:
        """Whether an interactive transaction is open, failed or lost: whether commit or rollback is still owed."""
        return self._lease.number != 0

    def query(
        self,
        statement: Any,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        timeout: float | None = None,
        *,
        prepare: bool | None = None,
        priority: str | None = None,
        settings: Settings | None = None,
    ) -> Result:
        """Run one statement and return its result.

        statement and params are psycopg2's: %s and %(name)s, %% for a percent sign, tuples for IN, lists for arrays.
        timeout bounds waiting and running together, in seconds; without it the group's queue_timeout and the endpoint's
        query_timeout hold. prepare=True lets the broker prepare what is sent often, False keeps parameters in the
        statement as literals. priority is 'interactive', 'normal' or 'batch': who comes first where requests wait.
        settings are PostgreSQL's, as in {'work_mem': '64MB'}; they hold for this statement alone, in an interactive
        transaction to its end. All three are the Handler's where they are None. Raises the errors of `client.errors`; a
        PostgreSQL error is also its psycopg2.errors class.
        """
        sql, types, values, references = bind(statement, params)
        if references:
            raise UsageError(
                "a parameter is a result of a statement in a transaction block, which has no value yet; use it in a "
                "later statement of that block, or read it after the block and pass the value"
            )
        waits = None if timeout is None else patience(timeout)
        prepare = self._prepare if prepare is None else checked_prepare(prepare)
        rank = self._priority if priority is None else checked_priority(priority)
        packed = self._settings if settings is None else packed_settings(settings)
        channel = None
        if not self._needs_lease():
            channel, waits = (channel_to(self._address, self._keys), None) if waits is None else self._channel(waits)
            # The hot path; the lookup repeats _check_group, which says what is wrong where there is no such group.
            if channel.welcome.groups.get(self._group) or self._check_group(channel):
                number = channel.next_request()
                message = Query(
                    number, self._group, 0, False, sql, types, values, prepare, timeout, self._tag, rank, packed
                )
                return Result(self._ask(channel, message, waits))
        rest = (sql, types, values, prepare, timeout, self._tag, rank, packed)
        return Result(
            self._in_lease(
                lambda own, lease, begin, session: Query(own.next_request(), self._group, lease, begin, *rest, session),
                waits,
                channel,
            )
        )

    def cancel(self) -> int:
        """Cancel what this Handler's threads wait for; to be called from another thread, or a signal handler.

        Each of them gets psycopg2's QueryCanceled, unless its statement has ended by then. Returns how many there were,
        when the broker has been told.
        """
        calls = [(each(), request) for each, request in list(self._calls.items())]
        waiting = [(channel, request) for channel, request in calls if channel is not None]
        if not waiting:
            return 0
        channel = Channel(self._address, self._keys)  # of its own: this thread's may be in the middle of a call
        try:
            for other, request in waiting:
                channel.post(Cancel(request, other.welcome.cancel_key))
            channel.call(Ask(channel.next_request(), "ping"))
        finally:
            channel.close()
        return len(waiting)

    def session(self) -> "Session":
        """A Handler that stays on one backend as long as its block lasts; see `client.session`."""
        from client.session import Session  # which is a Handler

        self._check_no_lease()
        return Session(self)

    def transaction(
        self,
        *,
        isolation: str | None = None,
        read_only: bool | None = None,
        deferrable: bool | None = None,
        retries: int = DEFAULT_RETRIES,
        timeout: float | None = None,
        priority: str | None = None,
        settings: Settings | None = None,
    ) -> Transaction:
        """A block of statements that are sent together when it ends, and run as one transaction.

            with db.transaction() as tx:
                order = tx.query('INSERT INTO orders (customer) VALUES (%s) RETURNING id', (7,))
                tx.query('INSERT INTO items (order_id, sku) VALUES (%s, %s)', (order['id'], 'A1'), expect=1)
            print(order['id'])

        isolation is 'read uncommitted', 'read committed', 'repeatable read' or 'serializable'; it, read_only and
        deferrable are the server's defaults where they are None. The broker runs the transaction again, at most retries
        times, where it lost a race (serialization failure, deadlock) or its backend before COMMIT. timeout bounds all
        of it, in seconds; priority and settings are those of `query`, for all of it. See
        `client.transaction.Transaction`.
        """
        self._check_no_lease()
        if timeout is not None:
            patience(timeout)
        options = Options(
            checked_isolation(isolation),
            checked_choice("read_only", read_only),
            checked_choice("deferrable", deferrable),
            checked_retries(retries),
            timeout,
            self._priority if priority is None else checked_priority(priority),
            self._settings if settings is None else packed_settings(settings),
        )
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
        had failed) or TransactionLost. Where COMMIT was sent and its answer was lost, or an exception kept it from
        being taken, this and all that follows raises a DBConnectionError whose outcome is 'unknown', until rollback().
        """
        self._end(Commit)

    def rollback(self) -> None:
        """Roll back the open transaction; without one, or where it was lost, it does nothing.

        Never fails for a broker that is gone: its backends are closed then, and PostgreSQL rolls back. Where a COMMIT
        was sent and not answered it changes nothing of that; the Handler is as new.
        """
        if self._lease.number:
            self._finish(Rollback)
            self._close_lease()

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
            if error is None or not is_own(second):
                raise
            error.add_note(f"rolling back after it failed as well: {second}")
        finally:
            self._leave()

    def _leave(self) -> None:
        """The block is over, and whatever was open in it."""
        self._close_lease()

    def _channel(self, waits: float | None) -> tuple[Channel, float | None]:
        """A channel for one call, and what is left to wait for its reply."""
        if waits is None:
            return channel_to(self._address, self._keys), None
        began = time.monotonic()
        channel = channel_to(self._address, self._keys, waits)
        took = time.monotonic() - began
        return channel, waits if took < OPENED_AT_ONCE else max(waits - took, OPENED_AT_ONCE)

    def _send_transaction(self, options: Options, steps: tuple[Step | int, ...]) -> TransactionResult:
        """What became of a transaction message of these steps."""
        self._check_no_lease()
        timeout = options.timeout
        channel, waits = self._channel(None if timeout is None else patience(timeout))
        self._check_group(channel)
        message = messages.Transaction(
            channel.next_request(),
            self._group,
            *options[:4],
            *split_steps(steps),
            timeout,
            self._tag,
            options.priority,
            options.settings,
        )
        reply = self._ask(channel, message, waits)
        assert isinstance(reply, TransactionResult)
        for fields in (*reply.results, reply.failure):
            if fields is not None:
                self.notices.extend(fields[-1])  # of a Result as of a Failure
        return reply

    def _check_no_lease(self) -> None:
        if self._lease.number:
            self._lease.check()
            raise UsageError(
                "this Handler's interactive transaction is open, and a transaction block would run on another backend, "
                "beside it; call commit() or rollback() first"
            )

    def _is_autocommit(self) -> bool:
        channel, _ = self._channel(None)
        autocommit = self._check_group(channel)
        give_back(channel, self._address, self._keys)
        return autocommit
