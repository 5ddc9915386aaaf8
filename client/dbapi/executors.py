"""What a connection is made of: its executors, its lock, whether it is open, and its own questions.

A connection is one of psycopg2's class too, connected to nowhere (`client.values.offline`): that knows how to quote and
keeps the casters that were registered for it, so psycopg2's own functions take it. Its C code never sends anything:
for it an asynchronous statement is under way for ever, so each method of psycopg2's own classes that would send one
raises an error, of this connection and of all cursors on it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import _psycopg, extensions

from client.dbapi.characteristics import Characteristics
from client.dbapi.wording import WORDS, Turns, Words
from client.handler import Handler
from client.options import packed_settings
from client.session import Session
from client.values import offline
from client.values.result import Result
from client.wire.messages import TX_LOST

if TYPE_CHECKING:
    _Theirs = object
else:
    _Theirs = extensions.connection

# As many as psycopg2 keeps.
MAX_NOTICES = 50


class _Unchecked(Handler):
    """A Handler that does not look for its group when it is made: `connect` does so once for both of a connection."""

    def _look(self) -> None:
        pass


class Executors(_Theirs):
    """The executors of one connection, and its lock: calls of several threads go through one after the other."""

    # psycopg2's own: the class of cursors, and the casters registered for this connection by the OIDs of their types.
    cursor_factory: Any
    string_types: dict[int, Any]

    def __init__(self, group: str, autocommit: bool, session: bool, options: Mapping[str, Any]) -> None:
        """options are the Handlers'."""
        _, server = offline.connect_to_nowhere(self._connected_to)
        theirs: Any = _psycopg.cursor  # which nobody replaces
        theirs.execute(theirs(self), "SELECT")  # to which nobody will ever answer
        server.close()
        # psycopg2's list of PostgreSQL's messages to the client, the newest last; a program may put another one here.
        self.notices: Any = []
        # So often a transaction has ended; a named cursor belongs to one.
        self.mark = 0
        self._lock = Turns()
        self._is_entered = False  # in a with block, which is a transaction even with autocommit
        self._autocommit = autocommit
        self._characteristics = Characteristics()
        self._defaults = Characteristics()  # of what commits by itself; see Modes
        # Statements that are by themselves, and the connection's own questions.
        self._by_itself = _Unchecked(group, autocommit=True, **options)
        # Settings that travel with statements.
        self._settings: dict[str, Any] = dict(options.get("settings") or {})
        begun = _Unchecked(group, autocommit=False, **options)
        # The connection's transactions; in a session all its statements.
        self._own: Handler | Session = begun.session() if session else begun
        if isinstance(self._own, Session):
            self._own.autocommit = autocommit
        self._is_closed = False
        self._was_told = False  # of the session's loss, by a rollback
        self._remains = ""  # what a loss does not end, for its error's text

    def _connected_to(self, dsn: str) -> Any:
        theirs: Any = extensions.connection
        theirs.__init__(self, dsn, async_=1)
        return self

    @property
    def commits_by_itself(self) -> bool:
        """Whether the next statement does."""
        return self._autocommit and not self._is_entered

    @property
    def _is_waiting(self) -> bool:
        """Whether a request is under way; the connection's socket is not looked at."""
        return _is_asking(self._own) or _is_asking(self._by_itself)

    @property
    def _is_beginning(self) -> bool:
        """Whether a statement is under way that runs in a transaction, and no question of the connection's own."""
        return self._own._autocommit is False and _is_asking(self._own)

    @property
    def _is_by_itself(self) -> bool:
        """Whether the next statement runs in no session and no transaction of the connection's."""
        return self.commits_by_itself and not self.is_session

    @property
    def settings(self) -> dict[str, Any]:
        """PostgreSQL's settings that travel with the statements."""
        return dict(self._settings)

    def use_settings(self, settings: Mapping[str, Any] | None) -> bool:
        """Have these settings travel with the following statements; returns whether they are other ones.

        In an open transaction they hold from the next statement on; what is not among them stays as it was set.
        """
        with self._lock:
            packed_settings(settings)  # refuses what is none
            wanted = dict(settings or {})
            if wanted == self._settings:
                return False
            for executor in (self._by_itself, self._own):
                executor.use_settings(wanted)
            self._settings = wanted
            return True

    def advise(self, words: Words) -> None:
        """Have the errors' advice speak of what the program can do; words replace those of this package's.

        For frameworks, whose programs do not call `connect` and `rollback` themselves.
        """
        self._lock.words = (*WORDS, *words)

    def advised(self, text: str) -> str:
        """Return the text with its advice in the words of the program."""
        return self._lock.in_words(text)

    def check_group(self) -> None:
        """Raise DBConnectionError if no broker is there, and UnconfiguredGroupError if it has no such group."""
        self._by_itself._mode()

    def check_open(self) -> None:
        """Raise psycopg2's InterfaceError if the connection is closed, by close() or with its session."""
        if self._is_closed:
            raise psycopg2.InterfaceError("connection already closed")
        if self._has_told_of_loss:
            lost = "connection already closed: it has lost its session; connect anew"
            raise psycopg2.InterfaceError(lost + self._remains)

    @property
    def _is_lost(self) -> bool:
        """Whether its session is gone, and with it all that was left there; one of a parent process is not."""
        own = self._own
        return isinstance(own, Session) and own.is_lost and not own._lease.is_inherited

    @property
    def _has_told_of_loss(self) -> bool:
        """Whether a call has found its session lost; the one that does raises an OperationalError."""
        own = self._own
        if not isinstance(own, Session) or not self._is_lost:
            return False
        return self._was_told or own._was_lost or own._transaction == TX_LOST or own._lease._is_lost

    @property
    def is_over(self) -> bool:
        """Whether it was closed, or a call has found its session lost."""
        return self._is_closed or self._has_told_of_loss

    def ask(self, statement: str | bytes) -> Result:
        """Run a question of the connection's own, outside of its transactions, but in its session."""
        with self._lock:
            self.check_open()
            own = self._own
            if not isinstance(own, Session):
                return self._by_itself.query(statement)
            if own.in_transaction:
                return own.query(statement)
            own.autocommit = True
            try:
                return own.query(statement)
            finally:
                if not own.in_transaction:  # it is if it is lost
                    own.autocommit = self.commits_by_itself

    def ask_in_place(self, statement: str | bytes) -> Result:
        """Run a question where the connection's open transaction, if there is one, can be seen."""
        with self._lock:
            self.check_open()
            is_begun = self._own.in_transaction or self._is_beginning
            return self._own.query(statement) if is_begun else self.ask(statement)

    @property
    def is_session(self) -> bool:
        """Whether one backend is this connection's for its life."""
        return isinstance(self._own, Session)

    def _take_notices(self) -> None:
        append = getattr(self.notices, "append", None)  # a program may have put anything there, also None
        for executor in (self._by_itself, self._own):
            while executor.notices:
                notice = executor.notices.popleft()
                if append is not None:
                    append(notice)
        if isinstance(self.notices, list) and len(self.notices) > MAX_NOTICES:
            del self.notices[:-MAX_NOTICES]


def _is_asking(executor: Handler | Session) -> bool:
    """Whether a request of this very process is under way."""
    if not executor._calls:
        return False
    channels = [each() for each in list(executor._calls)]
    return any(channel is not None and channel.pid == os.getpid() for channel in channels)
