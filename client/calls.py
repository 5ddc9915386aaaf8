"""How a Handler's messages get their replies: each through a channel of its own, or through the open lease's.

An exception may interrupt this code between any two instructions (see `client.channels.channel`). Outside of leases
that needs no care: a channel that is not given back is closed. In a lease each call first claims the lease
(`client.lease.Call`). If the call then ends in any way other than by its reply, the lease is told; it knows which
message may have been sent.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn

from client.channels.attempts import Attempts
from client.channels.begun import Begun
from client.channels.channel import Channel
from client.channels.conversing import GoOn
from client.channels.hello import ask_for_groups
from client.channels.registry import forget_free, give_back
from client.errors import DBConnectionError, DBError, UnconfiguredGroupError
from client.lease import Call, ClientLease, may_commit
from client.options import timeout_in
from client.tracing import Spans
from client.wire import messages
from client.wire.keyfiles import Keys
from client.wire.limits import NO_SESSION
from client.wire.messages import TX_NONE, UNKNOWN, Commit, Failure, Follow, Query, Release, Rollback, TransactionStatus
from client.wire.origins import is_traced

_TRACEABLE = (Query, messages.TransactionMessage)
_Message = Query | messages.TransactionMessage | messages.Follow | Begun


def renewed(message: Any, channel: Channel, waits: float | None) -> Any:
    """Return the message as this channel's next request, to be answered within so many seconds."""
    message = message._replace(request=channel.next_request())
    return message if waits is None or isinstance(message, Follow) else message._replace(timeout=timeout_in(waits))


class Calls:
    """What a Handler and a session have in common below their statements."""

    _group: str
    _address: str
    _keys: Keys | None
    _connect_wait: float  # seconds to wait for a broker
    _lease: ClientLease
    # Whether each statement commits by itself; None: as the broker's configuration says for the group.
    _autocommit: bool | None
    # The open transaction as the last reply reported it.
    _transaction: TransactionStatus
    # PostgreSQL's latest messages (RAISE NOTICE and the like), the newest last, as psycopg2's connection.notices. Each
    # result and each error adds those that came with it; threads sharing a Handler share them.
    notices: deque[str]
    # Requests that wait for their replies, by channel: one for each thread that is in a call. Channels are held weakly,
    # so that one whose call was interrupted is closed as soon as nothing else refers to it.
    _calls: dict[weakref.ref[Channel], int]

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: two of them would share a lease, and another process has no part in it."""
        raise TypeError(
            f"a {type(self).__name__} belongs to its process and can be neither pickled nor copied; make another "
            "Handler from the same arguments"
        )

    def _channel(self, waits: float | None) -> tuple[Channel, float | None]:
        """Return a channel for one call, and how many seconds are left to wait for its reply."""
        raise NotImplementedError

    def _ask(self, channel: Channel, message: _Message, waits: float | None) -> Any:
        """Return the reply to a message outside of leases, and give its channel back for the next call.

        This is the hot path, so the code of `_call` is repeated here.
        """
        if type(message) in _TRACEABLE and is_traced(message.origin):  # type: ignore[union-attr]  # they have it
            return self._ask_traced(channel, message, waits)
        calls, mine = self._calls, weakref.ref(channel)
        began = 0.0 if waits is None else time.monotonic()
        calls[mine] = message[0]
        try:
            reply: Any = channel.call(message, waits)
        except DBError as error:
            self.notices.extend(error.notices)
            give_back(channel, self._address, self._keys)
            if type(message) is Begun or not channel.is_unserved(error):
                raise
            reply = None
        finally:
            calls.pop(mine, None)
        if reply is None:
            left = None if waits is None else waits + began - time.monotonic()
            return self._until_served(left, lambda own, rest: self._call(own, renewed(message, own, rest), rest))
        give_back(channel, self._address, self._keys)
        if type(reply) is messages.ResultMessage and reply.notices:
            self.notices.extend(reply.notices)
        return reply

    def _ask_traced(self, channel: Channel, message: _Message, waits: float | None) -> Any:
        """Return the reply as `_ask` does; `_call` makes the spans."""
        until = None if waits is None else time.monotonic() + waits
        try:
            return self._call(channel, message, waits)
        except DBError as error:
            if not channel.is_unserved(error):
                raise
        finally:
            give_back(channel, self._address, self._keys)
        left = None if until is None else until - time.monotonic()
        return self._until_served(left, lambda own, rest: self._call(own, renewed(message, own, rest), rest))

    def _attempts(self, waits: float | None, at_once: int = 0) -> Attempts:
        """Return the attempts at a broker of a call for which so many seconds are left."""
        return Attempts(self._connect_wait if waits is None else self._wait_within(waits), at_once)

    def _wait_within(self, waits: float) -> float:
        """Return for how many seconds a broker is waited for by a call for which so many are left."""
        return min(self._connect_wait, timeout_in(waits))

    def _until_served(self, waits: float | None, attempt: Callable[[Channel, float | None], Any]) -> Any:
        """Return what the attempt with a channel returns, if one has failed as no broker had begun its request.

        waits is how many seconds are left for all. The first attempt is made at once, on a new connection.
        """
        attempts = self._attempts(waits)
        until = None if waits is None else time.monotonic() + waits
        while True:
            forget_free(self._address, self._keys)
            channel, left = self._channel(None if until is None else max(0.001, until - time.monotonic()))
            try:
                return attempt(channel, left)
            except DBError as error:
                if not channel.is_unserved(error) or not attempts.another():
                    raise
            finally:
                give_back(channel, self._address, self._keys)

    def _needs_lease(self) -> bool:
        """Whether the next statement runs in a lease: one is open, or has to be opened for it."""
        return self._lease.number != 0 or self._autocommit is False

    def _place(self, channel: Channel, call: Call) -> tuple[int, bool, int]:
        """Return the lease of the call's statement, whether BEGIN comes first, and Query.session (as NO_SESSION)."""
        return self._lease.number, call.is_opening, NO_SESSION

    def _end(self, verb: type[Commit] | type[Rollback] | type[Release]) -> None:
        if self._lease.number:
            self._in_lease(lambda channel, lease, *_: verb(channel.next_request(), lease))
        else:
            self._lease.check_unused()

    def _finish(self, verb: type[Rollback] | type[Release]) -> None:
        """End the lease, or the transaction open in it; it is no error if the lease is lost, as it has ended then."""
        try:
            self._end(verb)
        except DBConnectionError as error:
            if error is not self._lease.error:
                raise

    def _call(self, channel: Channel, message: Any, waits: float | None, go_on: GoOn | None = None) -> Any:
        """Return the reply; until it comes `cancel` can find the request. Notices are kept. go_on: `Channel.call`'s."""
        spans = Spans(message, go_on, self._lease.cursors) if is_traced(getattr(message, "origin", b"")) else None
        calls, mine = self._calls, weakref.ref(channel)
        calls[mine] = message[0]
        try:
            reply: Any = channel.call(message, waits, go_on if spans is None else spans.go_on)
        except DBError as error:
            self.notices.extend(error.notices)
            if spans is not None:
                spans.end(error)
            raise
        finally:
            calls.pop(mine, None)
        if spans is not None:
            spans.end(reply)
        if type(reply) is messages.ResultMessage and reply.notices:
            self.notices.extend(reply.notices)
        return reply

    def _in_lease(
        self,
        message: Callable[..., Any] | None,
        waits: float | None = None,
        channel: Channel | None = None,
        converse: Callable[[Channel, Any, float | None], messages.ResultMessage] | None = None,
        ahead: Call | None = None,
    ) -> messages.ResultMessage:
        """Return the reply to a message in the lease; if none is open, open one, through channel if it is given.

        converse has the message answered, instead of `_call`. ahead is a call whose message was sent before; there is
        no other message then. The reply says whether the transaction goes on. If no reply is returned, the lease has
        been told why.
        """
        attempts: Attempts | None = None
        until = None if waits is None else time.monotonic() + waits
        while True:
            call = Call() if ahead is None else ahead
            try:
                return self._once_in_lease(call, message, waits, channel, converse)
            except DBError as error:
                opening = call.channel if call.is_opening else None
                if opening is None or self._lease.number or not opening.is_unserved(error):
                    raise
                attempts = attempts or self._attempts(waits, at_once=1)
                if not attempts.another():
                    raise
                forget_free(self._address, self._keys)
                channel, waits = None, None if until is None else max(0.001, until - time.monotonic())

    def _once_in_lease(
        self,
        call: Call,
        message: Callable[..., Any] | None,
        waits: float | None,
        channel: Channel | None,
        converse: Callable[[Channel, Any, float | None], messages.ResultMessage] | None,
    ) -> messages.ResultMessage:
        """Return the reply to a message in the lease, as `_in_lease`; what no broker has begun it does not repeat."""
        lease = self._lease
        try:
            try:
                if message is None:
                    own, request = call.channel, Begun(call.message.request, b"", None)
                    assert own is not None
                else:
                    own = lease.begin(call)
                    if own is None:
                        if channel is None:
                            channel, waits = self._channel(waits)
                        self._check_group(channel)
                        lease.open(call, channel)
                        own = channel
                    request = call.message = message(own, *self._place(own, call))
                reply: messages.ResultMessage = (converse or self._call)(own, request, waits)
                self._follow(reply.transaction, call)
                lease.end(call)
            except BaseException as error:
                instead = self._failed(call, error) if lease.has(call) else None
                if instead is not None:
                    raise instead from error
                raise
        except BaseException:
            if lease.has(call):  # another exception came while the first one was being handled
                lease.lose(is_in_doubt=may_commit(call.message))
                lease.end(call)
            raise
        return reply

    def _failed(self, call: Call, error: BaseException) -> DBError | None:
        """Tell the lease that the call has no result; return the error to raise instead, None to raise this one."""
        lease = self._lease
        failure = lease.told(call, error)
        instead = None
        if failure is None:
            instead = lease.left(call, error)
        elif failure.outcome == UNKNOWN and may_commit(call.message) and self._is_over(failure):
            lease.lose(is_in_doubt=True)
        else:
            self._follow_failure(failure, call)
        lease.end(call)
        return instead

    def _is_over(self, failure: Failure) -> bool:
        """Whether the lease ends if a statement that may have committed fails: a Handler's transaction always does."""
        return True

    def _follow_failure(self, failure: Failure, call: Call) -> None:
        self._follow(failure.transaction, call)

    def _follow(self, transaction: TransactionStatus, call: Call) -> None:
        """Close the lease if its transaction is over; a failed or lost one still waits for its rollback."""
        self._transaction = transaction
        if transaction == TX_NONE:
            self._close_lease(call)

    def _close_lease(self, call: Call | None = None) -> None:
        self._transaction = TX_NONE
        channel = self._lease.close(call)
        if channel is not None:
            give_back(channel, self._address, self._keys)

    def _commits_by_itself(self, channel: Channel) -> bool:
        """Whether each statement commits by itself; raises as `_check_group`."""
        autocommit = self._check_group(channel)
        return bool(autocommit) if self._autocommit is None else self._autocommit

    def _check_group(self, channel: Channel) -> bool | str:
        """Return the group's autocommit, as the broker has told it.

        Raises UnconfiguredGroupError if there is no such group, and DBConnectionError if the broker is gone.
        """
        groups = channel.welcome.groups
        autocommit = groups.get(self._group)
        if autocommit is None:
            ask_for_groups(channel, self._group)  # a reload may have added it since Welcome
            autocommit = groups.get(self._group)
        if autocommit is None:
            raise UnconfiguredGroupError(
                f"the broker at {self._address} has no group {self._group!r} for this client; "
                f"it has {', '.join(sorted(groups)) or 'none'}"
            )
        return autocommit
