"""A clear error for classes whose methods call psycopg2's own past this package.

    class Logged(psycopg2.extensions.cursor):
        def execute(self, query, vars=None):
            psycopg2.extensions.cursor.execute(self, query, vars)

calls C code, on a connection to nowhere. That refuses (`client.dbapi.executors`), and its words are about something
else: asynchronous connections.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from types import FunctionType
from typing import Any, NoReturn

import psycopg2
from psycopg2 import extensions

# Of the methods with such names the others may be called by the interpreter at any moment, or by what is done here.
_SPECIAL = frozenset(("__init__", "__enter__", "__exit__", "__iter__", "__next__"))
# What psycopg2's C code says of a connection on which an asynchronous statement is under way, and of cursors on it; and
# of keywords that only this package has.
_REFUSED = re.compile(r"asynchronous|no results to fetch|scroll destination out of bounds|PQcancel\(\)")
_UNKNOWN_KEYWORD = re.compile(r"invalid keyword argument")


def guarded_methods(theirs: type, ours: type) -> dict[str, Callable[..., Any]]:
    """Return the methods that a program's class defines, each guarded; psycopg2's own classes call what they should.

    ours is the class of this package that takes the place of psycopg2's.
    """
    found: dict[str, Callable[..., Any]] = {}
    for name in {name for base in theirs.__mro__ for name in vars(base)}:
        owner = next(base for base in theirs.__mro__ if name in vars(base))
        is_programs = owner is not object and owner.__module__.partition(".")[0] != "psycopg2"
        method = vars(owner)[name]
        if is_programs and isinstance(method, FunctionType) and (name in _SPECIAL or not name.startswith("__")):
            found[name] = _guarded(method, f"{owner.__name__}.{name}", ours)
    return found


def _guarded(method: Any, name: str, ours: Any) -> Callable[..., Any]:
    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            result = method(self, *args, **kwargs)
        except (psycopg2.Error, TypeError) as error:
            if _is_of_theirs(error, method):
                _refuse(name, ours, error)
            raise
        finally:
            if _was_closed_past(self):
                ours.close(self)
        if isinstance(result, extensions.cursor) and result.connection is self and not hasattr(result, "noted"):
            _refuse(name, ours, None)
        return result

    return call


def _is_of_theirs(error: BaseException, method: Any) -> bool:
    """Whether C code has raised it that was called by the program, for a connection to nowhere."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None or str(place.tb_frame.f_globals.get("__name__")).startswith("client."):
        return False
    words = _REFUSED
    if isinstance(error, TypeError):
        if method.__name__ != "__init__":
            return False
        words = _UNKNOWN_KEYWORD
    return words.search(str(error)) is not None


def _was_closed_past(made: Any) -> bool:
    """Whether psycopg2's own close() was called, which closes nothing here."""
    theirs: Any = extensions.cursor if isinstance(made, extensions.cursor) else extensions.connection
    return not made._is_closed and bool(theirs.closed.__get__(made))


def _refuse(name: str, ours: type, error: BaseException | None) -> NoReturn:
    kind = "cursor" if issubclass(ours, extensions.cursor) else "connection"
    raise psycopg2.InterfaceError(
        f"{name}() calls a method of psycopg2's own {kind} class past client.dbapi, where it leads nowhere: nothing "
        f"was sent; call super() there instead, as in super().execute(query, vars), or derive the class from "
        f"client.dbapi.extensions.{kind} and call the methods of that"
    ) from error
