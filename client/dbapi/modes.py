"""How a connection's transactions begin, as psycopg2's connections are told: autocommit, isolation, read only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psycopg2
from psycopg2 import extensions

from client.dbapi.characteristics import LEVELS, Characteristics, choice_of, level_of
from client.dbapi.two_phase import TwoPhase
from client.session import Session

_DEFAULTS = (
    "RESET default_transaction_isolation; RESET default_transaction_read_only; RESET default_transaction_deferrable"
)


class Modes(TwoPhase):
    """The attributes and methods that say how transactions begin.

    With autocommit no BEGIN can say it, so psycopg2 changes the session's defaults: by what is set while there is
    autocommit, or with it, and by nothing that was set before. Without autocommit again they are the server's.
    """

    # What a session's backend has been told by `_characterise`.
    _told_modes = ""

    @property
    def autocommit(self) -> bool:
        """Whether each statement commits by itself; may be set outside of transactions."""
        return self._autocommit

    @autocommit.setter
    def autocommit(self, value: Any) -> None:
        with self._lock:
            self._check_outside("set_session")
            self._become(bool(value))

    def _become(self, autocommit: bool, **given: Any) -> None:
        self._characteristics = replace(self._characteristics, **given)
        self._defaults = replace(self._defaults, **given) if autocommit else Characteristics()
        if isinstance(self._own, Session):
            self._own.autocommit = autocommit
        self._autocommit = autocommit
        self._characterise()

    def set_session(
        self, isolation_level: Any = None, readonly: Any = None, deferrable: Any = None, autocommit: Any = None
    ) -> None:
        """Say how the following transactions begin; what is None stays as it is, 'default' is the server's."""
        with self._lock:
            self._check_outside("set_session")
            given: dict[str, Any] = {} if isolation_level is None else {"isolation": level_of(isolation_level)}
            given |= {} if readonly is None else {"readonly": choice_of(readonly)}
            given |= {} if deferrable is None else {"deferrable": choice_of(deferrable)}
            self._become(self._autocommit if autocommit is None else bool(autocommit), **given)

    def set_isolation_level(self, level: Any) -> None:
        """Roll back, and begin the following transactions at this level; 0 is autocommit, None the server's default."""
        with self._lock:
            self.check_open()
            self.refuse_prepared("isolation_level")
            if isinstance(level, int) and not 0 <= level <= max(LEVELS):
                raise ValueError(f"isolation level must be between 0 and 4, got {level}")
            self._rollback()
            if level == extensions.ISOLATION_LEVEL_AUTOCOMMIT:
                self._become(True)
                return
            self._become(False, isolation=level_of(level))

    @property
    def isolation_level(self) -> int | None:
        """psycopg2.extensions' ISOLATION_LEVEL_ number, None for the server's default."""
        return self._characteristics.isolation

    @isolation_level.setter
    def isolation_level(self, value: Any) -> None:
        self.set_session(isolation_level="default" if value is None else value)

    @property
    def readonly(self) -> bool | None:
        """Whether transactions may write; None for the server's default."""
        return self._characteristics.readonly

    @readonly.setter
    def readonly(self, value: Any) -> None:
        self.set_session(readonly="default" if value is None else value)

    @property
    def deferrable(self) -> bool | None:
        """Whether serializable transactions that only read wait for a moment without conflicts; None: the server's."""
        return self._characteristics.deferrable

    @deferrable.setter
    def deferrable(self, value: Any) -> None:
        self.set_session(deferrable="default" if value is None else value)

    def _check_outside(self, what: str) -> None:
        self.check_open()
        if self.status == extensions.STATUS_BEGIN:
            raise psycopg2.ProgrammingError(f"{what} cannot be used inside a transaction")
        self.refuse_prepared(what)

    def _characterise(self) -> None:
        """Tell a session's backend how statements that commit by themselves begin; nobody else's needs to know."""
        if not isinstance(self._own, Session):
            return
        modes = self._defaults.modes
        if modes != self._told_modes:
            self.ask(_DEFAULTS)
            if modes:
                self.ask(f"SET SESSION CHARACTERISTICS AS TRANSACTION {modes}")
            self._told_modes = modes
