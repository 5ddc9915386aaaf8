"""What a cursor has sent, for its attribute query: parameters as they were, whatever becomes of the program's objects.

Rendering each statement would cost as much as sending it. So parameters of the usual kinds are kept, which nothing can
change; of any other the literal is kept that its adapter gives when the statement is bound, once, as by psycopg2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Self
from uuid import UUID

import psycopg2
from psycopg2 import extensions

from client.errors import DBError
from client.interruptions import is_own
from client.values import offline
from client.values.bind import Reference

Params = Sequence[Any] | Mapping[str, Any] | None

# Their values never change.
_FIXED = frozenset((int, str, float, bool, type(None), bytes, Decimal, date, datetime, time, timedelta, UUID))


class Literal:
    """A parameter of another kind, and its literal from the moment on when it was asked for."""

    __slots__ = ("_connection", "_literal", "_value")

    def __init__(self, value: Any) -> None:
        self._value = value
        self._connection: Any = None
        self._literal: bytes | None = None

    # psycopg2 calls these three.

    def __conform__(self, protocol: Any) -> Self:
        return self

    def prepare(self, connection: Any) -> None:
        """Note the connection, which says how to quote."""
        self._connection = connection

    def getquoted(self) -> bytes:
        """Return the literal; raises what the adapter raises."""
        if self._literal is None:
            adapted: Any = extensions.adapt(self._value)
            if self._connection is not None and hasattr(adapted, "prepare"):
                adapted.prepare(self._connection)
            quoted = adapted.getquoted()
            self._literal = quoted.encode() if isinstance(quoted, str) else bytes(quoted)
            self._value = None
        return self._literal


def fixed(params: Any) -> Any:
    """Return parameters that mean the same and do not change, if they are in a tuple, a list or a dict."""
    kind = type(params)
    if kind is tuple:
        for value in params:
            if type(value) not in _FIXED:
                return tuple(map(_fixed, params))
        return params
    if kind is list:
        return list(map(_fixed, params))
    return {name: _fixed(value) for name, value in params.items()} if kind is dict else params


def statement_of(query: Any) -> Any:
    """Return the text of a statement; raises psycopg2's errors if it is none."""
    text = offline.plain(query)
    if not isinstance(text, (str, bytes)):
        raise TypeError(f"argument 1 must be a string or unicode object: got {type(text).__name__} instead")
    if not text:
        raise psycopg2.ProgrammingError("can't execute an empty query")
    return text


def _fixed(value: Any) -> Any:
    kind = type(value)
    if kind in _FIXED or kind is Reference:
        return value
    if kind is list or kind is tuple:
        return kind(map(_fixed, value))
    return Literal(value)


class Sent:
    """A statement that is or was under way, with its parameters."""

    __slots__ = ("_params", "_statement")

    def __init__(self, statement: Any, params: Any) -> None:
        """params are those that `fixed` has returned."""
        self._statement = statement
        self._params = params

    def text(self) -> bytes | None:
        """Return the statement with literals in the place of its parameters; None if it cannot be written so."""
        try:
            return offline.render(self._statement, self._params)
        except Exception as error:
            if not is_own(error):
                raise
            return None

    def settled(self) -> Sent | None:
        """Return what was sent, in a form that does not change; called behind its end."""
        if self._params is None or type(self._params) in (tuple, list, dict):
            return self
        text = self.text()
        return None if text is None else Sent(text, None)

    def left(self, error: BaseException) -> Sent | None:
        """Return what was sent, as `settled`, behind a call that has ended so; None if nothing could be."""
        if isinstance(error, DBError) or not isinstance(error, Exception):
            return self.settled()
        if is_own(error):
            return None
        try:  # of an adapter of the program's, or of a signal handler
            offline.render(self._statement, self._params)
        except Exception as second:
            if type(second) is not type(error) and not is_own(second):
                raise
            return None
        return self.settled()
