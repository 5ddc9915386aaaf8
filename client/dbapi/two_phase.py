"""Two-phase commits, PEP 249's optional extension: a transaction that is prepared now and committed by anybody later.

PREPARE TRANSACTION ends the transaction's lease, as what is prepared belongs to no session; COMMIT PREPARED and
ROLLBACK PREPARED run on any backend.
"""

from __future__ import annotations

from typing import Any

import psycopg2
from psycopg2 import extensions

from client.dbapi.runner import Runner
from client.dbapi.xid import Xid


class TwoPhase(Runner):
    """The tpc_ methods of a connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._two_phase_xid: Xid | None = None  # from tpc_begin to the end of that transaction
        self._is_prepared = False  # and from tpc_prepare on

    @property
    def status(self) -> int:
        """psycopg2.extensions' STATUS_READY, STATUS_BEGIN or STATUS_PREPARED."""
        if self._is_prepared:
            return int(extensions.STATUS_PREPARED)
        is_open = self._two_phase_xid is not None or (self._own.in_transaction and not self.commits_by_itself)
        return int(extensions.STATUS_BEGIN if is_open else extensions.STATUS_READY)

    def xid(self, format_id: int, gtrid: str, bqual: str) -> Xid:
        """Make a transaction identifier."""
        self.check_open()
        return Xid(format_id, gtrid, bqual)

    def tpc_begin(self, xid: Xid | str) -> None:
        """Begin a transaction that can be prepared under this identifier."""
        with self._lock:
            self.check_open()
            if self.status == extensions.STATUS_BEGIN:
                raise psycopg2.ProgrammingError("tpc_begin cannot be used inside a transaction")
            self.refuse_prepared("tpc_begin")
            if self._autocommit:
                raise psycopg2.ProgrammingError("tpc_begin can't be called in autocommit mode")
            self._two_phase_xid = Xid.of(xid)

    def tpc_prepare(self) -> None:
        """Prepare the transaction: from here on PostgreSQL keeps it, whatever happens to this process."""
        with self._lock:
            self.check_open()
            self.refuse_prepared("tpc_prepare")
            if self._two_phase_xid is None:
                raise psycopg2.ProgrammingError("prepare must be called inside a two-phase transaction")
            self.run("PREPARE TRANSACTION %s", (str(self._two_phase_xid),))
            self._is_prepared = True

    def tpc_commit(self, xid: Xid | str | None = None) -> None:
        """Commit the transaction, prepared or not; with xid one that was prepared before, by anybody."""
        self._finish(xid, "COMMIT PREPARED")

    def tpc_rollback(self, xid: Xid | str | None = None) -> None:
        """Roll the transaction back, prepared or not; with xid one that was prepared before, by anybody."""
        self._finish(xid, "ROLLBACK PREPARED")

    def tpc_recover(self) -> list[Xid]:
        """The transactions that are prepared on the server, in all its databases."""
        with self._lock:
            self.check_open()
            self.refuse_prepared("tpc_recover")
            found = []
            for row in self.ask("SELECT gid, prepared, owner, database FROM pg_catalog.pg_prepared_xacts"):
                xid = Xid.from_string(row[0])
                xid.prepared, xid.owner, xid.database = row[1], row[2], row[3]
                found.append(xid)
            return found

    def _finish(self, xid: Xid | str | None, command: str) -> None:
        with self._lock:
            self.check_open()
            if xid is not None:
                if self.status != extensions.STATUS_READY:
                    raise psycopg2.ProgrammingError(
                        "tpc_commit/tpc_rollback with a xid must be called outside a transaction"
                    )
                self.ask(f"{command} {_quoted(Xid.of(xid))}")
                return
            if self._two_phase_xid is None:
                raise psycopg2.ProgrammingError(
                    "tpc_commit/tpc_rollback with no parameter must be called in a two-phase transaction"
                )
            if self._is_prepared:
                self.ask(f"{command} {_quoted(self._two_phase_xid)}")
            elif command == "COMMIT PREPARED":
                self._commit()
            else:
                self._rollback()
            self._forget_two_phase()

    def _forget_two_phase(self) -> None:
        self._two_phase_xid = None
        self._is_prepared = False

    def _refuse_in_two_phases(self, what: str) -> None:
        if self._two_phase_xid is not None:
            raise psycopg2.ProgrammingError(
                f"{what} cannot be used during a two-phase transaction; call tpc_commit() or tpc_rollback()"
            )

    def refuse_prepared(self, what: str) -> None:
        """Raise psycopg2's ProgrammingError between tpc_prepare and the end of the transaction."""
        if self._is_prepared:
            raise psycopg2.ProgrammingError(f"{what} cannot be used with a prepared two-phase transaction")


def _quoted(xid: Xid) -> str:
    return "'" + str(xid).replace("'", "''") + "'"
