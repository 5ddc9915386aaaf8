"""What a Handler and a Session share: running statements one by one, and the with block around them."""

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from client.channels.begun import Begun
from client.channels.channel import Channel
from client.channels.registry import FREE_KEPT, channel_to, free_channels, give_back, new_channel
from client.channels.timeouts import TRUSTED_FOR
from client.compiled import load
from client.copying import CopyingCalls
from client.errors import DBError, UsageError
from client.interruptions import is_own, noted
from client.lease import ClientLease
from client.options import (
    Settings,
    checked_prepare,
    checked_priority,
    checked_read_only,
    packed_settings,
    patience,
    wants_dicts,
)
from client.origins import Origin
from client.owed_settings import OwedSettings, goes_alone
from client.values import bind as binding
from client.values.bind import bind
from client.values.result import Result
from client.wire.codec import split_steps
from client.wire.limits import NO_SESSION, ON_REPLICAS
from client.wire.messages import (
    TX_FAILED,
    TX_LOST,
    TX_NONE,
    Ask,
    BatchMessage,
    CancelRequest,
    Query,
    ResultMessage,
    Step,
    TransactionStatus,
)

# Does the usual requests in compiled code, where it is.
_REQUESTS, _PARAMETERS = load("client.lane.requests"), load("client.lane.parameters")
_CONVERSIONS, _METHODS = load("client.lane.conversions"), load("client.lane.methods")
# In seconds. If opening a channel takes less, a timeout is not shortened by it; at least so much of a timeout is left.
OPENED_AT_ONCE = 0.01
# As many as psycopg2 keeps with a connection.
MAX_NOTICES = 50


class Executor(CopyingCalls):
    """Runs statements in one group of the broker: a Handler on any backend, a Session on one of its own."""

    _tag: str
    _prepare: bool
    _priority: int
    _settings: bytes
    _read_only: bool
    _origin: Origin
    _dicts: bool  # whether the rows of results are dicts
    # How many with blocks were entered and not left, and whether they may have a session.
    _blocks = 0
    _is_in_block = False
    # Another process's position that the first call has to hand over.
    _unseen = ""
    # The short way of statements that need no lease; None if there is none.
    _lane: Any

    def _share(self, other: "Executor") -> None:
        """Take over the group and the options of the other, with notices and a lease of one's own."""
        for name in (
            "_group", "_address", "_keys", "_tag", "_prepare", "_priority", "_settings", "_read_only", "_autocommit",
            "_dicts", "_connect_wait", "_origin",
        ):  # fmt: skip
            setattr(self, name, getattr(other, name))
        self._begin_anew()

    def _new_lease(self) -> ClientLease:
        """Return a lease, not open yet, for the statements that have to run in one."""
        raise NotImplementedError

    def _begin_anew(self) -> None:
        self.notices = deque(maxlen=MAX_NOTICES)
        self._lease = self._new_lease()
        self._transaction = TX_NONE
        self._owed = OwedSettings()
        self._calls = {}
        self._leased_group = self._group
        self._find_lane()

    def _find_lane(self) -> None:
        has_lane = _REQUESTS is not None and self._keys is None and self._autocommit is not False and not self._unseen
        self._lane = self._new_lane() if has_lane else None
        if self._lane is not None:
            self._lane.dicts = self._dicts

    def _new_lane(self) -> Any:
        """Return the short way of statements that need no lease, None if all do."""
        return None

    @property
    def autocommit(self) -> bool:
        """Whether each statement commits by itself; asks the broker for its group's, unless it was given."""
        return bool(self._mode()) if self._autocommit is None else self._autocommit

    @property
    def transaction_status(self) -> TransactionStatus:
        """What is open: 'none', 'active', 'failed' if it wants a rollback, or 'lost'."""
        return TX_LOST if self._lease.is_lost else self._transaction

    def use_settings(self, settings: Settings | None) -> None:
        """Have these settings travel with the following statements, instead of those that were given before.

        In an open transaction what has travelled already holds to its end, if it is not among the new ones.
        """
        self._settings = packed_settings(settings)
        self._owed.renew()
        if self._lane is not None:
            self._find_lane()

    def query(
        self,
        statement: Any,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        timeout: float | None = None,
        *,
        prepare: bool | None = None,
        priority: str | None = None,
        settings: Settings | None = None,
        read_only: bool | None = None,
        rows: str | None = None,
    ) -> Result:
        """Run one statement and return its result.

        statement and params are psycopg2's: %s and %(name)s, %% for a percent sign, tuples for IN, lists for arrays.
        timeout bounds waiting and running together, in seconds; without it the group's queue_timeout and the endpoint's
        query_timeout hold. prepare=True lets the broker prepare what is sent often, False keeps parameters in the
        statement as literals. priority is 'interactive', 'normal' or 'batch': who comes first if requests wait.
        settings are PostgreSQL's, as in {'work_mem': '64MB'}; they hold for this statement alone, in an interactive
        transaction to its end. read_only=True: the statement only reads, and may run on a replica if the group has any;
        what writes fails. An interactive transaction begins so with its first statement. rows='dict' gives each row as
        a dict, 'row' as a Row. If prepare, priority, settings, read_only or rows is None, the Handler's is used. Raises
        the errors of `client.errors`; a PostgreSQL error is also its psycopg2.errors class.
        """
        sql, types, values, references = bind(statement, params)
        if references:
            raise UsageError(
                "a parameter is a result of a statement in a transaction block, which has no value yet; use it in a "
                "later statement of that block, or read it after the block and pass the value"
            )
        waits = None if timeout is None else patience(timeout)
        if self._is_in_block and (session := self._block_session(waits)) is not None:
            options: dict[str, Any] = {"prepare": prepare, "priority": priority, "settings": settings, "rows": rows}
            return session.query(statement, params, timeout, **options)
        prepare = self._prepare if prepare is None else checked_prepare(prepare)
        rank = self._priority if priority is None else checked_priority(priority)
        packed = self._settings if settings is None else packed_settings(settings)
        group = self._group_for(self._read_only if read_only is None else checked_read_only(read_only))
        dicts = self._dicts if rows is None else wants_dicts(rows)
        if self._unseen:
            self._catch_up(waits)
        origin = self._origin()
        channel = None
        if not self._needs_lease():
            channel, waits = self._channel(waits)
            # The hot path: looked up here first; _check_group raises if there is no such group.
            if channel.welcome.groups.get(self._group) or self._commits_by_itself(channel):
                number = channel.next_request()
                rest = (sql, types, values, prepare, timeout, self._tag, rank, packed, NO_SESSION, origin)
                message = Query(number, group, 0, False, *rest)
                return Result(self._ask(channel, message, waits), dicts)
        if packed and self._settings:
            packed = self._settings_owed(sql, timeout, read_only) + (b"" if settings is None else packed)
            if channel is not None and self._lease.number:
                give_back(channel, self._address, self._keys)
                channel = None
        asked = (sql, types, values, prepare, timeout, self._tag, rank, packed)
        result = Result(
            self._in_lease(
                lambda own, lease, begin, session: Query(
                    own.next_request(), self._group_of_lease(group, begin), lease, begin, *asked, session, origin
                ),
                waits,
                channel,
            ),
            dicts,
        )
        self._follow_settings(sql, has_told=settings is None or bool(settings))
        return result

    def _settings_owed(self, sql: bytes, timeout: float | None, read_only: bool | None) -> bytes:
        """Return those of the own settings that travel with this statement in a lease."""
        if not self._settings or self._transaction == TX_FAILED:
            return b""
        if not self._owed.are_owed(self._open_transaction()):
            return b""
        if not goes_alone(sql):
            return self._settings
        self.query("SELECT", None, timeout, read_only=read_only)
        return b""

    def _follow_settings(self, sql: bytes, *, has_told: bool) -> None:
        """Take note that this statement has run in a lease, with the own settings as far as they were owed or not."""
        if self._settings:
            self._owed.follow(sql, self._open_transaction(), has_told=has_told)

    def _run_steps(self, steps: Sequence[Step]) -> ResultMessage:
        """Run statements one behind the other in the lease, as one message; the first one opens it, if need be.

        steps are a BatchMessage's, and so is the reply, or that of a Query for a single one.
        """
        packed = self._settings_owed(steps[0].statement, None, None)
        if self._unseen:
            self._catch_up(None)
        group = self._group_for(self._read_only)
        rest, origin = (None, self._tag, self._priority, packed), self._origin()
        kind: Any = Query if len(steps) == 1 else BatchMessage
        asked: tuple[Any, ...] = steps[0][:4] if len(steps) == 1 else split_steps(steps)
        reply = self._in_lease(
            lambda own, lease, begin, session: kind(
                own.next_request(), self._group_of_lease(group, begin), lease, begin, *asked, *rest, session, origin
            )
        )
        self._follow_settings(steps[0].statement, has_told=True)
        return reply

    def _request_limit(self) -> int:
        """Return how many bytes a request may have; asks the broker if no channel is open."""
        if self._lease.number:
            return self._lease.check().welcome.max_request_bytes
        channel, _ = self._channel(None)
        limit = channel.welcome.max_request_bytes
        give_back(channel, self._address, self._keys)
        return limit

    def _open_transaction(self) -> Any:
        """Return what tells the open interactive transaction from those before and after it; None without one."""
        return self._lease.number or None

    def _catch_up(self, waits: float | None) -> None:
        """Hand over the position that is not to be read behind; called before anything is read."""
        raise NotImplementedError

    def _group_for(self, is_read_only: bool) -> str:
        """Return the group that a message names."""
        return self._group + ON_REPLICAS if is_read_only else self._group

    def _group_of_lease(self, group: str, is_first: bool) -> str:
        """Return the group that a message in the lease names: that of its first statement."""
        if is_first:
            self._leased_group = group
        return self._leased_group

    def cancel(self) -> int:
        """Cancel what this Handler's threads wait for; call it from another thread, or a signal handler.

        Each of them gets psycopg2's QueryCanceled, unless its statement has ended by then. Returns how many waited,
        once the broker knows of the cancels. What waits for a broker that another one has replaced is not reached, and
        not counted.
        """
        calls = [(each(), request) for each, request in list(self._calls.items())]
        # In a child, what waits in the parent is the parent's.
        waiting = [(each, request) for each, request in calls if each is not None and each.pid == os.getpid()]
        if not waiting:
            return 0
        channel = new_channel(self._address, self._keys)  # of its own: this thread's may be in the middle of a call
        try:
            reached = [each for each in waiting if each[0].welcome.pid == channel.welcome.pid]
            for other, request in reached:
                channel.post(CancelRequest(request, other.welcome.cancel_key))
            channel.call(Ask(channel.next_request(), "ping"))
        finally:
            channel.close()
        return len(reached)

    def query_prepared(self, params: Sequence[Any] | Mapping[str, Any], timeout: float | None = None) -> Any:
        """Call "SQLPrepare"."ExecuteQuery" with params and return the first column of its first row.

        The functions are pg_extensions' prep_queries; with `sqlprepare = true` the broker calls
        "SQLPrepare"."PrepareQueries" on each new backend of the group. Returns None if it gives no row.
        """
        if params is None:
            raise TypeError("query_prepared wants the parameters of the prepared query, got None")
        if isinstance(params, Mapping):
            arguments = ", ".join(f'"{name}" := %({name})s' for name in params)
        else:
            arguments = ", ".join(["%s"] * len(params))
        return self.query(f'SELECT * FROM "SQLPrepare"."ExecuteQuery"({arguments})', params, timeout).scalar()

    def commit(self) -> None:
        """Commit the open transaction; without one do nothing."""
        raise NotImplementedError

    def rollback(self) -> None:
        """Roll back the open transaction; without one do nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._blocks += 1
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
            noted(error, f"rolling back after it failed as well: {second}")
        finally:
            self._blocks -= 1
            self._leave()

    def _leave(self) -> None:
        """Give up what is still open when the block is left."""
        self._close_lease()

    def _channel(self, waits: float | None) -> tuple[Channel, float | None]:
        """Return a channel for one call, and how many seconds are left to wait for its reply."""
        if waits is None:
            return channel_to(self._address, self._keys, None, self._connect_wait), None
        began = time.monotonic()
        channel = channel_to(self._address, self._keys, waits, self._wait_within(waits))
        took = time.monotonic() - began
        return channel, waits if took < OPENED_AT_ONCE else max(waits - took, OPENED_AT_ONCE)

    def _mode(self, waits: float | None = None) -> bool | str:
        """Return the group's autocommit, as Welcome has it; asks the broker."""
        channel, _ = self._channel(waits)
        mode = self._check_group(channel)
        give_back(channel, self._address, self._keys)
        return mode

    def _block_session(self, waits: float | None) -> "Executor | None":
        """Return the session in which statements of the with block run, None if it is none."""
        return None


if _REQUESTS is not None and _PARAMETERS is not None and _CONVERSIONS is not None:
    _REQUESTS.use(free_channels, FREE_KEPT, TRUSTED_FOR, Begun, Result)
    _PARAMETERS.use(binding._template_of_str)
    _CONVERSIONS.use(binding.cell_of)
if _METHODS is not None:
    _METHODS.before(Executor, "query")
