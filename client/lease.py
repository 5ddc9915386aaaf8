"""A lease as its Handler holds it: which one is open, who uses it, and what may have become of it.

An open lease has a channel for itself, so that it may be used by one thread after another, as a psycopg2 connection may
(`asyncio.to_thread` runs each call wherever there is room), and nobody else's call comes between. One call at a time
uses the lease; another call that begins meanwhile is refused.

If a lease is lost, what is reported depends on what it was doing. A call holds its message from before the first byte
is sent, so it is known whether that was a COMMIT: if so, nobody can say that the transaction was rolled back. All other
state of a lease is kept by the broker.
"""

from __future__ import annotations

import itertools
import os
import weakref
from typing import Any

from client.channels.channel import Channel
from client.channels.sockets import is_over
from client.errors import CommitOutcomeUnknown, DBConnectionError, DBError, TransactionLost, UsageError
from client.wire import commits
from client.wire.cursors import Cursors
from client.wire.messages import (
    NOT_EXECUTED,
    TX_LOST,
    UNKNOWN,
    Commit,
    Failure,
    Query,
    Release,
    Rollback,
    plain_failure,
)

Farewell = type[Rollback] | type[Release]

# Unique per process, so also per channel; next() on it is atomic.
_numbers = itertools.count(1)


def may_commit(message: object) -> bool:
    """Whether the message may commit a transaction that is open."""
    if isinstance(message, Query):
        return commits.may_commit(message.statement)
    return isinstance(message, Commit)


class Call:
    """One use of a lease, from before it begins until its reply was taken."""

    __slots__ = ("channel", "is_opening", "message")

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self.message: Any = None
        self.is_opening = False


class ClientLease:
    """The lease of a Handler or a session, opened and closed many times; number is 0 if it is not open."""

    __slots__ = (
        "_channel", "_error", "_farewell", "_is_lost", "_noun", "_use", "_was_in_doubt", "cursors", "is_in_doubt",
        "number",
    )  # fmt: skip

    def __init__(self, noun: str, farewell: Farewell) -> None:
        """noun is the lease's name in error texts; farewell is the message that ends it."""
        self.number = 0
        self.cursors = Cursors()  # that traced statements have declared in it
        self._noun = noun
        self._farewell = farewell
        self._channel: Channel | None = None  # its own as long as it is open
        self._is_lost = False
        # Whether a COMMIT was sent in it and not answered, or its outcome was reported as unknown.
        self.is_in_doubt = False
        self._was_in_doubt = False  # and the program knows
        # The last error that told of the lease's loss; held weakly, as a channel's.
        self._error: weakref.ref[DBConnectionError] | None = None
        # The one call that uses it, by its process: in a child the parent's is over. A dict, because setdefault lets
        # exactly one of several threads through.
        self._use: dict[int, Call] = {}

    def begin(self, call: Call) -> Channel | None:
        """Give the call the use of the lease; return the lease's channel, None if no lease is open.

        Raises UsageError if another call uses it, or if a parent process opened it, and TransactionLost or
        CommitOutcomeUnknown if it is lost.
        """
        if self._use.setdefault(os.getpid(), call) is not call:
            raise self._used()
        if not self.number:
            return None
        call.channel = self.check()
        return call.channel

    def check_unused(self) -> None:
        """Raise UsageError if a call uses it: whether a transaction is open only the answer to that will tell."""
        if self.is_in_use:
            raise self._used()

    def _used(self) -> UsageError:
        return UsageError(
            f"this Handler's {self._noun} is in the middle of a call: of another thread's, or of the call that a "
            f"signal handler interrupted; wait until that has returned, or use another Handler"
        )

    def check(self) -> Channel:
        """Return the channel of the open lease; raises as `begin` if nothing more can be done in it."""
        channel = self._channel
        if channel is not None and channel.pid != os.getpid():
            raise UsageError(
                f"this Handler's {self._noun} was begun before the fork and belongs to the parent process; make a new "
                "Handler in the child"
            )
        if self._is_lost or channel is None or not channel.is_usable:
            self._is_lost = True
            raise self.loss()
        return channel

    def open(self, call: Call, channel: Channel) -> int:
        """Return a new number, for the lease that the call's message opens through the channel."""
        self._is_lost = self.is_in_doubt = self._was_in_doubt = False
        call.is_opening = True
        call.channel = self._channel = channel
        self.number = next(_numbers)
        return self.number

    def has(self, call: Call) -> bool:
        """Whether the call uses the lease."""
        return self._use.get(os.getpid()) is call

    def end(self, call: Call) -> None:
        """Let other calls use the lease: this one has its reply, or will never have it."""
        if self._use.get(os.getpid()) is call:
            del self._use[os.getpid()]

    def told(self, call: Call, error: BaseException) -> Failure | None:
        """Return the failure with which the broker answered the call; None if the error is another one."""
        channel, message = call.channel, call.message
        if channel is None or message is None or error is not channel.error:
            return None
        if not isinstance(error, DBError) or not channel.was_answered(message.request):
            return None
        if isinstance(error, DBConnectionError):
            self._error = weakref.ref(error)
        return error.failure

    def left(self, call: Call, error: BaseException) -> DBError | None:
        """Take note that the call ends by an error that is not its answer; return what to raise instead, if anything.

        If a byte of its message may have been sent, nothing more can be said in this conversation, and the lease is
        lost.
        """
        channel, message = call.channel, call.message
        if channel is None or message is None or not channel.was_sent(message.request):
            if call.is_opening:
                self.close(call)
            return None
        is_own = error is channel.error
        if is_own and isinstance(error, DBConnectionError):
            self._error = weakref.ref(error)
        is_unsent = is_own and isinstance(error, DBError) and error.outcome == NOT_EXECUTED
        if is_unsent and call.is_opening:
            self.close(call)
            return None
        self.lose(is_in_doubt=not is_unsent and may_commit(message))
        return self.loss() if is_own and self.is_in_doubt else None

    def lose(self, *, is_in_doubt: bool) -> None:
        """Mark the lease as lost and close its channel."""
        self._is_lost = True
        self.is_in_doubt = is_in_doubt
        if self._channel is not None and self._channel.pid == os.getpid():
            self._channel.close()

    def acknowledge(self) -> None:
        """Take note that the program knows of a COMMIT in doubt: what follows is told of the loss alone."""
        self._was_in_doubt |= self.is_in_doubt
        self.is_in_doubt = False

    @property
    def is_lost(self) -> bool:
        """Whether it is open and known to be gone. Another thread may be in the middle of a call."""
        channel = self._channel
        return self.number != 0 and (
            self._is_lost or channel is None or channel.pid != os.getpid() or is_over(channel._socket.fileno())
        )

    @property
    def is_in_use(self) -> bool:
        """Whether a call of this process uses it: of another thread, or one that a signal handler has interrupted."""
        return os.getpid() in self._use

    @property
    def is_inherited(self) -> bool:
        """Whether it was opened before a fork, and belongs to the parent process."""
        return self._channel is not None and self._channel.pid != os.getpid()

    @property
    def error(self) -> DBConnectionError | None:
        """The last error that told of the lease's loss, None if nothing refers to it any more."""
        return None if self._error is None else self._error()

    def loss(self) -> DBConnectionError:
        """Return the error that tells of the lease's loss."""
        found: DBConnectionError
        is_transaction = self._noun == "transaction"
        if self.is_in_doubt and self._farewell is Rollback and self._noun != "transaction":
            text = (
                f"all rows of this {self._noun} were read, and the answer to the COMMIT behind them was not taken: "
                "what its statement has written may have been committed, or not; look for that"
            )
            found = CommitOutcomeUnknown(text, plain_failure("commit-unknown", UNKNOWN, text, TX_LOST))
        elif self.is_in_doubt:
            remedy = "call rollback() to go on with this Handler" if is_transaction else f"open another {self._noun}"
            text = (
                f"COMMIT was sent in this {self._noun} and its answer was not taken: it may have been committed, or "
                f"not; look for what it would have written; {remedy}"
            )
            found = CommitOutcomeUnknown(text, plain_failure("commit-unknown", UNKNOWN, text, TX_LOST))
        elif self._was_in_doubt:
            text = (
                f"this {self._noun} was lost when the answer to its COMMIT was not taken, and with it what was left in "
                f"it; open another {self._noun}"
            )
            found = TransactionLost(text, plain_failure("transaction-lost", NOT_EXECUTED, text, TX_LOST))
        else:
            end = ", rolled back" if is_transaction else ""
            remedy = "call rollback() and begin anew" if is_transaction else f"open another {self._noun}"
            said = None if self._channel is None else self._channel.goodbye
            why = "the broker went away, or an exception left a call in the middle" if said is None else said.message
            text = (
                f"this {self._noun}'s connection to the broker is gone, and with it what was open in it{end}: "
                f"{why}; {remedy}"
            )
            found = TransactionLost(text, plain_failure("transaction-lost", NOT_EXECUTED, text, TX_LOST))
        self._error = weakref.ref(found)
        return found

    def close(self, call: Call | None = None) -> Channel | None:
        """End the lease, if one is open; return its channel if it is not lost and no other call uses it."""
        channel, self._channel = self._channel, None
        self.number = 0
        is_lost, self._is_lost, self.is_in_doubt = self._is_lost, False, False
        return None if is_lost or self._use.get(os.getpid(), call) is not call else channel
