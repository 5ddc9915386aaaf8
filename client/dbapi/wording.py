"""The broker's advice in the words of this package: it speaks of the Handler's methods, which a connection lacks.

Each connection has a table of such words, as a program that has its connections from a framework cannot do what one can
that calls `connect` itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from client.errors import DBError
from client.wire.messages import Outcome
from client.wire.sqlstates import QUERY_CANCELED

# What is replaced, and by what; one after the other.
Words = tuple[tuple[str, str], ...]

WORDS: Words = (
    ("in a db.session() block", "on a connection made by connect(..., session=True)"),
    ("use db.transaction(), db.session() or Handler(autocommit=False)", "set autocommit = False, or connect with "
     "session=True"),
    ("use db.session()", "connect with session=True"),
    ("use db.copy_in(statement, source)", "use copy_expert(sql, file)"),
    ("use db.copy_out(statement, sink)", "use copy_expert(sql, file)"),
    ("use db.copy_in for COPY FROM STDIN, db.copy_out for COPY TO STDOUT", "write FROM STDIN or TO STDOUT behind COPY, "
     "with nothing but space between the words"),
    ("use copy_in() or copy_out()", "use copy_expert()"),
    ("run other statements by query()", "run other statements by execute()"),
    ("give each its own query()", "give each its own execute()"),
    ("run it with query()", "run it with execute()"),
    ("change them by query('SET ...')", "change them by execute('SET ...')"),
    ("; open another session", "; connect anew"),
    ("; open another", "; connect anew"),
    ("; open it by db.session()", "; connect anew"),
    ("this Handler's", "this connection's"),
    ("make a new Handler in the child", "connect anew in the child"),
    ("or use another Handler", "or use another connection"),
    ("to go on with this Handler", "to go on with this connection"),
    ("let the setting travel with each statement: settings={'name': 'value'}", "let the setting travel with each "
     "statement: connect(..., settings={'name': 'value'})"),
    ("a limit of its own: settings={'statement_timeout': '1min'}; timeout=... bounds a call, and does not raise this "
     "limit", "a limit of its own: connect(..., settings={'statement_timeout': '1min'})"),
)  # fmt: skip
# In a transaction that tpc_begin() has begun.
IN_TWO_PHASES: Words = (("call rollback()", "call tpc_rollback()"),)


class Turns:
    """The lock of a connection: calls take turns, and the errors that leave them speak the connection's words."""

    __slots__ = ("_locks", "at_end", "more_words", "words")

    def __init__(self) -> None:
        # By processes: in a child the parent's may be held by a thread that is not there, for ever.
        self._locks: dict[int, Any] = {}
        # What a signal handler could not do in the middle of this thread's call; it is tried at the end of each call.
        self.at_end: Callable[[], None] | None = None
        self.words = WORDS
        # For the state in which the connection is; replaced behind those.
        self.more_words: Words = ()

    def __enter__(self) -> None:
        pid = os.getpid()
        lock = self._locks.get(pid)
        if lock is None:
            lock = self._locks.setdefault(pid, threading.RLock())
        lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.at_end is not None:
                self.at_end()
        finally:
            lock = self._locks.get(os.getpid())
            if lock is not None and lock._is_owned():  # else the process was forked in the middle of this call
                lock.release()
        # What PostgreSQL says is left alone, but for the broker's reason behind it.
        if isinstance(error, DBError) and error.failure.sqlstate in (None, QUERY_CANCELED):
            rewrite(error, self.in_words(error.failure.message))

    def in_words(self, text: str) -> str:
        """Return the text with its advice in the connection's words."""
        for theirs, ours in (*self.words, *self.more_words):
            text = text.replace(theirs, ours)
        return text


def rewrite(error: DBError, text: str, outcome: Outcome | None = None) -> None:
    """Have the error say this, and that its outcome is this one."""
    failure = error.failure
    if text != failure.message:
        error.args = (text if error.place is None else f"{error.place}: {text}",)
    error.failure = failure._replace(message=text, outcome=failure.outcome if outcome is None else outcome)
