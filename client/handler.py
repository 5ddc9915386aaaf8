"""The Handler: how a program runs SQL.

With autocommit each query is a statement of its own, run on any free backend. Without it the first query takes a lease,
exclusive use of one backend, and begins a transaction there; commit or rollback ends both. The program decides, or else
the group's configuration, of which the broker tells when the channel opens. A transaction block collects its statements
and is sent as one message, with autocommit or without.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from client.channels.registry import broker_address, broker_keys, channel_to, connect_wait_of, give_back
from client.compiled import load
from client.errors import DBConnectionError, UsageError
from client.executor import _REQUESTS, Executor
from client.interruptions import is_own
from client.lease import ClientLease
from client.options import (
    DEFAULT_PRIORITY,
    DEFAULT_RETRIES,
    Options,
    Settings,
    checked_autocommit,
    checked_choice,
    checked_group,
    checked_isolation,
    checked_position,
    checked_prepare,
    checked_priority,
    checked_read_only,
    checked_retries,
    checked_tag,
    packed_settings,
    patience,
    wants_dicts,
)
from client.origins import Origin
from client.session import Session
from client.stream import BLOCK_ROWS, Cursor, CursorOfItsOwn, Stream, asked
from client.transaction import Transaction
from client.values.result import Result
from client.wire.address import ipc_path
from client.wire.codec import encode_around, split_steps
from client.wire.messages import (
    IN_SESSIONS,
    Commit,
    Follow,
    Query,
    Rollback,
    Step,
    TransactionMessage,
    TransactionResult,
)

DEFAULT_GROUP = "default"
_STEPS, _METHODS = load("client.lane.steps"), load("client.lane.methods")
# Of so many combinations of a transaction's options the encoded bytes are kept.
FORMS_KEPT = 64
# How long a Handler that is made waits for its broker to answer, in seconds; its first call waits as every call does.
LOOK_TIMEOUT = 0.5


class Handler(Executor):
    """Runs queries in one group of the broker.

        with Handler('orders') as db:
            for row in db.query('SELECT id, total FROM orders WHERE customer = %s', (7,)):
                print(row.id, row['total'])

    Leaving the block commits an open transaction; leaving it by an exception rolls back. A Handler may be made before a
    fork and used after it, and shared by threads and greenlets; they may use its open transaction one after another,
    one call at a time.
    tag is free text, at most 128 characters, shown by `poold stats` for requests that wait. prepare, priority,
    settings, read_only and rows are the defaults of its statements, see `query`. after is another process's `position`:
    from the first call on, what this process reads on replicas is not older than that. autocommit says whether each
    query commits by itself; None: as its group's configuration has it. server_key and key are files, for a tcp://
    address whose broker has keys: the broker's public key, and this client's secret one. They are read once, here.
    code_place=True sends with each request the place in the program that calls, for the broker's log; None: if
    POOLD_CODE_PLACE is 1. trace says whether requests are part of the program's traces; None: if it uses OpenTelemetry.

    A Handler may be made before there is a broker: each call waits connect_wait seconds for one, and sends again by
    itself what a broker that stops, or restarts, has certainly not begun; then it raises DBConnectionError. If
    connect_wait is None, it is Connection.init's, POOLD_CONNECT_WAIT, or 5 seconds. Raises UnconfiguredGroupError if
    the broker has no such group: here, if a broker answers at once over ipc://, else the first call does.
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
        read_only: bool = False,
        after: str = "",
        autocommit: bool | None = None,
        rows: str = "row",
        connect_wait: float | None = None,
        code_place: bool | None = None,
        trace: bool | None = None,
    ) -> None:
        self._group = checked_group(group)
        self._address = broker_address(address)
        self._keys = broker_keys(self._address, server_key, key)
        self._connect_wait = connect_wait_of(connect_wait)
        self._origin = Origin(code_place, trace)
        self._tag = checked_tag(tag)
        self._prepare = checked_prepare(prepare)
        self._priority = checked_priority(priority)
        self._settings = packed_settings(settings)
        self._read_only = checked_read_only(read_only)
        self._autocommit = checked_autocommit(autocommit)
        self._dicts = wants_dicts(rows)
        self._usual_options = Options(
            read_only=self._read_only or None, priority=self._priority, settings=self._settings
        )
        self._unseen = checked_position(after)
        # The session of its with block, in a group with legacy_session, from the first statement on.
        self._session: Session | None = None
        self._begin_anew()
        if ipc_path(self._address) is not None:
            self._look()

    def _look(self) -> None:
        """Find a mistaken group now, if a broker is there to tell; over a network even to look may take long."""
        try:
            channel = channel_to(self._address, self._keys, LOOK_TIMEOUT, 0.0)
            self._check_group(channel)
            give_back(channel, self._address, self._keys)
        except DBConnectionError as error:
            if not is_own(error):
                raise  # of a signal handler

    def _new_lane(self) -> Any:
        assert _REQUESTS is not None
        self._forms: dict[Options, tuple[bytes, bytes]] = {}
        rest = (self._prepare, None, self._tag, self._priority, self._settings)
        usual = Query(0, self._group_for(self._read_only), 0, False, b"", b"", b"", *rest)
        query = encode_around(usual, "statement", "values")
        return _REQUESTS.Lane(self._address, self._group, query, self._form(self._usual_options), self._origin)

    def _new_lease(self) -> ClientLease:
        """Return the lease of interactive transactions, not open yet."""
        return ClientLease("transaction", Rollback)

    def use_settings(self, settings: Settings | None) -> None:
        """Have these settings travel with the following statements and transactions; see `Executor.use_settings`."""
        self._usual_options = self._usual_options._replace(settings=packed_settings(settings))
        super().use_settings(settings)

    @property
    def position(self) -> str:
        """What this process has to see when it reads on replicas, for another process: Handler(after=...).

        It covers all that this process has written. A text without a meaning of its own; "" in a group without roles,
        where there is only one state to see. Asks the broker.
        """
        return self._see(self._unseen, None)

    def _catch_up(self, waits: float | None) -> None:
        self._see(self._unseen, waits)
        self._unseen = ""
        self._find_lane()

    def _see(self, position: str, waits: float | None) -> str:
        channel, waits = self._channel(waits)
        self._check_group(channel)
        answer = self._ask(channel, Follow(channel.next_request(), self._group, position), waits)
        return str(answer.body["position"])

    @property
    def in_transaction(self) -> bool:
        """Whether an interactive transaction is open, failed or lost: whether commit or rollback is still owed."""
        return self._lease.number != 0 or (self._session is not None and self._session.in_transaction)

    def __enter__(self) -> Self:
        self._is_in_block = self._autocommit is None
        return super().__enter__()

    def _leave(self) -> None:
        if not self._blocks:  # one inside of another is in its session
            session, self._session, self._is_in_block = self._session, None, False
            if session is not None:
                self._find_lane()
                session.close()
        super()._leave()

    def _block_session(self, waits: float | None) -> Session | None:
        """Return the session of the with block; only a group with legacy_session has one."""
        if self._session is None:
            self._is_in_block = self._mode(waits) == IN_SESSIONS  # asked once for each block
            if not self._is_in_block:
                return None
            self._lane = None  # which knows nothing of it
            self._session = Session(self)
            # So cancel finds what waits there, and the notices are the Handler's.
            self._session._calls, self._session.notices = self._calls, self.notices
        return self._session

    def session(self) -> Session:
        """A session, whose statements stay on one backend as long as its block lasts; see `client.session`."""
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
        rows: str | None = None,
    ) -> Transaction:
        """A block of statements that are sent together when it ends, and run as one transaction.

            with db.transaction() as tx:
                order = tx.query('INSERT INTO orders (customer) VALUES (%s) RETURNING id', (7,))
                tx.query('INSERT INTO items (order_id, sku) VALUES (%s, %s)', (order['id'], 'A1'), expect=1)
            print(order['id'])

        isolation is 'read uncommitted', 'read committed', 'repeatable read' or 'serializable'. If isolation, read_only
        or deferrable is None, the server's default holds. With read_only=True the transaction may run on a replica, if
        the group has any and it is not serializable. The broker runs the transaction again, at most retries times,
        if it lost a race (serialization failure, deadlock) or its backend before COMMIT. timeout bounds the whole
        transaction, in seconds; priority, settings and rows are those of `query`, for the whole transaction. See
        `client.transaction.Transaction`.
        """
        if self._lease.number or self._session is not None:
            self._check_no_lease()
        if timeout is not None:
            patience(timeout)
        # Most transactions have none of these options. DEFAULT_RETRIES is a small number, of which there is one object.
        is_usual = isolation is None and read_only is None and deferrable is None and retries is DEFAULT_RETRIES
        if is_usual and timeout is None and priority is None and settings is None:
            options = self._usual_options
        else:
            options = Options(
                checked_isolation(isolation),
                checked_choice("read_only", self._usual_options.read_only if read_only is None else read_only),
                checked_choice("deferrable", deferrable),
                checked_retries(retries),
                timeout,
                self._priority if priority is None else checked_priority(priority),
                self._settings if settings is None else packed_settings(settings),
            )
        dicts = self._dicts if rows is None else wants_dicts(rows)
        return Transaction(self._send_transaction, options, self._prepare, self._collector(options, dicts), dicts)

    def stream(
        self,
        statement: Any,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        size: int = BLOCK_ROWS,
        *,
        timeout: float | None = None,
        priority: str | None = None,
        settings: Settings | None = None,
        read_only: bool | None = None,
        rows: str | None = None,
    ) -> Stream:
        """The rows of one statement, for results that do not fit: read in blocks of size rows.

            with db.stream('SELECT * FROM events WHERE day = %s', (day,)) as events:
                for event in events:
                    print(event.id)

        The statement is a SELECT, VALUES, TABLE or WITH that does not write. In an open interactive transaction the
        stream is part of it. Else it has a transaction of its own, which keeps a backend from the first row to the
        last, and on a replica with read_only=True if there are any; it is committed behind the last row and rolled back
        if the stream is left early. timeout bounds the wait for each block, in seconds; all other options are those of
        `query`. See `client.stream.Stream`.
        """
        if self._session is not None:
            options: dict[str, Any] = {"priority": priority, "settings": settings, "rows": rows}
            return self._session.stream(statement, params, size, timeout=timeout, **options)
        dicts = self._dicts if rows is None else wants_dicts(rows)
        options = {"priority": priority, "settings": settings, "read_only": read_only}
        request = asked(statement, params, size, timeout, dicts, **options)
        return Stream(Cursor(self, request) if self._lease.number else CursorOfItsOwn(self, request))

    def run(self, statements: Iterable[Any], **options: Any) -> list[Result]:
        """Run these statements as one transaction and return their results.

            db.run([('UPDATE stock SET n = n - 1 WHERE sku = %s', ('A1',)), 'SELECT sum(n) FROM stock'])

        Each is a statement, or a tuple of the arguments of Transaction.query; options are those of transaction().
        """
        if isinstance(statements, (str, bytes)) or not isinstance(statements, Iterable):
            raise TypeError(f"run wants a list of statements, got {statements!r:.80}; for a single one call query")
        with self.transaction(**options) as tx:
            pending = [tx.query(*each) if isinstance(each, (tuple, list)) else tx.query(each) for each in statements]
        return [each.result() for each in pending]

    def _run_step(self, step: Step) -> Result:
        """Run a statement that is bound already, by itself."""
        if self._unseen:
            self._catch_up(None)
        channel, waits = self._channel(None)
        self._check_group(channel)
        rest = (*step[:4], None, self._tag, self._priority, self._settings)
        group, origin = self._group_for(self._read_only), self._origin()
        message = Query(channel.next_request(), group, 0, False, *rest, origin=origin)
        return Result(self._ask(channel, message, waits), self._dicts)

    def commit(self) -> None:
        """Commit the open transaction; without one it does nothing, as psycopg2's commit.

        Raises if nothing was committed: a DBQueryError (a deferred constraint, or a statement of this transaction had
        failed) or TransactionLost. If COMMIT was sent and its answer was lost, or an exception interrupted the wait for
        it, this and all that follows raises a DBConnectionError whose outcome is 'unknown', until rollback().
        """
        if self._session is not None:
            self._session.commit()
        self._end(Commit)

    def rollback(self) -> None:
        """Roll back the open transaction; without one, or if it was lost, it does nothing.

        Does not fail if the broker is gone: its backends are closed then, and PostgreSQL rolls back. If a COMMIT was
        sent and not answered, rollback() does not undo it; it only makes the Handler usable again.
        """
        if self._session is not None:
            self._session.rollback()
        if self._lease.number:
            self._finish(Rollback)
            self._close_lease()
        else:
            self._lease.check_unused()

    def _send_transaction(self, options: Options, steps: tuple[Step | int, ...]) -> TransactionResult:
        """Send a transaction message of these steps and return what became of it."""
        self._check_no_lease()
        timeout = options.timeout
        waits = None if timeout is None else patience(timeout)
        if self._unseen:
            self._catch_up(waits)
        channel, waits = self._channel(waits)
        self._check_group(channel)
        message = TransactionMessage(
            channel.next_request(),
            self._group,
            *options[:4],
            *split_steps(steps),
            timeout,
            self._tag,
            options.priority,
            options.settings,
            self._origin(),
        )
        return self._noted(self._ask(channel, message, waits))

    def _collector(self, options: Options, dicts: bool) -> Any:
        """Return what collects a transaction's statements in compiled code, None if Python code has to."""
        if self._lane is None or options.timeout is not None or _STEPS is None:
            return None
        return _STEPS.Collector(self._lane, self, self._form(options), self._prepare, dicts)

    def _form(self, options: Options) -> tuple[bytes, bytes]:
        """Return a transaction message with these options, as bytes before its steps and behind its values."""
        form = self._forms.get(options)
        if form is None:
            if len(self._forms) >= FORMS_KEPT:
                self._forms.clear()
            usual = TransactionMessage(
                0, self._group, *options[:4], b"", (), None, self._tag, options.priority, options.settings
            )
            form = self._forms[options] = encode_around(usual, "steps", "values")
        return form

    def _noted(self, reply: TransactionResult) -> TransactionResult:
        """Return the reply; its notices are kept."""
        for fields in (*reply.results, reply.failure):
            if fields is not None:
                self.notices.extend(fields[-1])  # notices are the last field of both ResultMessage and Failure
        return reply

    def _check_no_lease(self) -> None:
        if self._session is not None:
            raise UsageError(
                "this with block is a session on a backend of its own, and this would run on another one, without what "
                "the block has set; use query('BEGIN') and commit(), or another Handler"
            )
        if self._lease.number:
            self._lease.check()
            raise UsageError(
                "this Handler's interactive transaction is open, and a transaction block would run on another backend, "
                "beside it; call commit() or rollback() first"
            )


if _METHODS is not None:
    _METHODS.before(Handler, "transaction")
