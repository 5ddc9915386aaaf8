"""A connection as psycopg2 has it, on executors of the broker's client.

It holds no backend. With autocommit each statement is by itself on any free one; without it the first statement takes a
lease of one backend, in which a transaction begins, and commit or rollback gives the backend back. A connection with
session=True has one backend for its life. Threads may share a connection: one call at a time goes through, the others
wait for it.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, NoReturn, Self

import psycopg2
from psycopg2 import extensions

from client.dbapi.addresses import refuse_servers
from client.dbapi.cursor import Cursor
from client.dbapi.factories import checked_factory, with_ours
from client.dbapi.info import ConnectionInfo, encoding_of
from client.dbapi.modes import Modes
from client.handler import DEFAULT_GROUP
from client.options import DEFAULT_PRIORITY, Settings, checked_flag
from client.session import Session
from client.wire.messages import TX_ACTIVE, TX_FAILED, TX_NONE

_STATUSES = {
    TX_NONE: extensions.TRANSACTION_STATUS_IDLE,
    TX_ACTIVE: extensions.TRANSACTION_STATUS_INTRANS,
    TX_FAILED: extensions.TRANSACTION_STATUS_INERROR,
}


class Connection(Modes):
    """What `client.dbapi.connect` returns; its arguments are documented there. A base class for connection_factory."""

    # Until __init__; a subclass may go on after an error of it.
    _is_closed = True
    _dsn = ""
    _info: ConnectionInfo | None = None

    def __init__(
        self,
        address: str | None = None,
        *,
        group: str = DEFAULT_GROUP,
        autocommit: bool = False,
        session: bool = False,
        cursor_factory: Any = None,
        tag: str = "",
        priority: str = DEFAULT_PRIORITY,
        prepare: bool = True,
        settings: Settings | None = None,
        read_only: bool = False,
        after: str = "",
        server_key: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        connect_wait: float | None = None,
        code_place: bool | None = None,
        trace: bool | None = None,
    ) -> None:
        refuse_servers(address, {})
        if isinstance(address, str):
            address = str(address)  # of a subclass, perhaps
        options: dict[str, Any] = {
            "address": address, "server_key": server_key, "key": key, "tag": tag, "prepare": prepare,
            "priority": priority, "settings": settings, "read_only": read_only, "after": after,
            "connect_wait": connect_wait, "code_place": code_place, "trace": trace,
        }  # fmt: skip
        super().__init__(group, checked_flag("autocommit", autocommit), checked_flag("session", session), options)
        self.cursor_factory = checked_factory("cursor_factory", cursor_factory)
        self._dsn = f"group={group}" if address is None else f"group={group} address={address}"

    def __repr__(self) -> str:
        return f"<connection object at {id(self):#x}; dsn: {self._dsn!r}, closed: {self.closed}>"

    __str__ = __repr__

    # PEP 249.

    def cursor(
        self,
        name: str | None = None,
        cursor_factory: Any = None,
        withhold: bool = False,
        scrollable: bool | None = None,
    ) -> Any:
        """A new cursor, of the class cursor_factory; with a name it is a cursor of the server's, read in parts."""
        self.check_open()
        factory = checked_factory("cursor_factory", self.cursor_factory if cursor_factory is None else cursor_factory)
        factory = factory or Cursor
        made = with_ours(factory, Cursor)(self, name)
        if not isinstance(made, Cursor):
            raise TypeError(f"cursor factory must be subclass of client.dbapi.extensions.cursor, got {factory!r}")
        if made._is_closed and made.connection is self:  # its __init__ has called psycopg2's, past ours
            made._begin(self, name)
        made.withhold = withhold
        made.scrollable = scrollable
        return made

    def commit(self) -> None:
        """Commit the open transaction and give its backend back; without one do nothing."""
        with self._lock:
            self.check_open()
            self._refuse_in_two_phases("commit")
            self._commit()

    def rollback(self) -> None:
        """Roll the open transaction back and give its backend back; without one do nothing.

        Raises an OperationalError if this finds the session lost; `closed` is 2 then.
        """
        with self._lock:
            self.check_open()
            self._refuse_in_two_phases("rollback")
            self._rollback()

    def close(self) -> None:
        """Close the connection; what is open is rolled back, unless it was begun by a parent process.

        If a signal handler closes it in the middle of a call, the end of that call does this, and returns its result.
        """
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._end_own()

    def _end_own(self) -> None:
        """End the transaction or the session, unless a call is in the middle: the end of that comes here again."""
        self._lock.at_end = None
        if self._own._lease.is_inherited:
            return
        if self._own._lease.is_in_use:
            self._lock.at_end = self._end_own
        elif isinstance(self._own, Session):
            self._own.close()
        else:
            self._own.rollback()

    @property
    def closed(self) -> int:
        """0 if it is open, 1 if it was closed, 2 if it has lost its session, which it does not get back."""
        if self._is_closed:
            return 1
        return 2 if self._is_lost else 0

    def __enter__(self) -> Self:
        self.check_open()
        if self._is_entered:
            raise psycopg2.ProgrammingError("the connection cannot be re-entered recursively")
        self._is_entered = True
        if isinstance(self._own, Session) and not self._own.in_transaction:
            self._own.autocommit = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.commit()
            elif not self._has_told_of_loss and (self._own.in_transaction or not self._is_lost):
                self.rollback()  # else the error of the block says so, or there is nothing to roll back
        finally:
            self._is_entered = False
            if isinstance(self._own, Session) and not self._own.in_transaction:
                self._own.autocommit = self._autocommit

    # What it is, and what became of it.

    def get_transaction_status(self) -> int:
        """psycopg2.extensions' TRANSACTION_STATUS_ number; UNKNOWN if the connection or its transaction is lost."""
        if not self._is_closed and self._is_waiting:
            return int(extensions.TRANSACTION_STATUS_ACTIVE)
        if self.closed:
            return int(extensions.TRANSACTION_STATUS_UNKNOWN)
        return int(_STATUSES.get(self._own.transaction_status, extensions.TRANSACTION_STATUS_UNKNOWN))

    @property
    def info(self) -> ConnectionInfo:
        """What is known of the connection and its server."""
        if self._info is None:
            self._info = ConnectionInfo(self)
        return self._info

    @property
    def dsn(self) -> str:
        """Where the connection leads: the broker's address and the group."""
        return self._dsn

    @property
    def server_version(self) -> int:
        """PostgreSQL's version, as in 150004; of a closed connection the one that was asked for before, or 0."""
        return self.info.last_version()

    @property
    def protocol_version(self) -> int:
        """PostgreSQL's protocol between broker and server."""
        return 3

    @property
    def encoding(self) -> str:
        """Always UTF8."""
        return "UTF8"

    @property
    def async_(self) -> int:
        """Always 0: there are no asynchronous connections."""
        return 0

    locals()["async"] = async_

    def set_client_encoding(self, encoding: str) -> None:
        """Do nothing for UTF8; raises NotSupportedError for any other."""
        self.check_open()
        encoding_of(encoding)

    def get_parameter_status(self, parameter: str) -> str | None:
        """The value of a setting that PostgreSQL reports to clients, None for any other; asks the server."""
        self.check_open()
        return self.info.parameter_status(parameter)

    def get_dsn_parameters(self) -> dict[str, str]:
        """The database and the user, of the server; never a password."""
        self.check_open()
        return self.info.dsn_parameters

    def get_backend_pid(self) -> int:
        """The process of this connection's backend; only a session has one of its own."""
        self.check_open()
        return self.info.backend_pid

    def cancel(self) -> None:
        """Cancel what other threads wait for on this connection."""
        self.check_open()
        self.refuse_prepared("cancel")
        self._by_itself.cancel()
        self._own.cancel()

    def reset(self) -> None:
        """Roll back, and make the connection as it was when it was opened."""
        with self._lock:
            self.check_open()
            self._rollback()
            self._become(False, isolation=None, readonly=None, deferrable=None)
            if self.is_session:
                self.ask("RESET ALL")
                self.ask("RESET SESSION AUTHORIZATION")
            self._forget_two_phase()

    def fileno(self) -> NoReturn:
        """Refuse: there is no descriptor of PostgreSQL's in this process."""
        raise psycopg2.NotSupportedError(
            "this connection has no descriptor of its own to wait for: its statements travel to poold's broker; run "
            "calls in threads (asyncio.to_thread) instead"
        )

    def poll(self) -> NoReturn:
        """Refuse: there are no asynchronous connections."""
        raise psycopg2.NotSupportedError(
            "poll() belongs to asynchronous connections and to notifications, which poold does not have; run calls in "
            "threads (asyncio.to_thread) instead"
        )

    def lobject(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: large objects are read by functions of PostgreSQL's protocol that the broker does not have."""
        raise psycopg2.NotSupportedError(
            "large objects cannot be used as files; call lo_get, lo_put and lo_from_bytea in statements, or use bytea"
        )

    def get_native_connection(self) -> NoReturn:
        """Refuse: there is no connection of libpq's to PostgreSQL in this process."""
        raise psycopg2.NotSupportedError("this process has no connection of libpq's to PostgreSQL; the broker has them")

    @property
    def pgconn_ptr(self) -> None:
        """Always None, see get_native_connection."""

    def isexecuting(self) -> bool:
        """Always False: a call returns when it is done."""
        self.check_open()
        return False
