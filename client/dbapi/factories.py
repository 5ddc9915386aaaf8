"""Classes of connections and cursors that programs derive from psycopg2's own, made to work here.

    class Mine(psycopg2.extensions.cursor): ...

overrides methods of psycopg2's cursor; it is given those of this package to override.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import psycopg2
from psycopg2 import _psycopg, extensions

from client.dbapi.guards import guarded_methods

# Programs have a few; one that makes classes in a loop must not grow memory for ever.
CLASSES_KEPT = 256


def checked_factory(name: str, factory: Any) -> Any:
    """Return the factory, if it can be called or is None; a class has to be one of psycopg2's side or of ours.

    name is cursor_factory or connection_factory.
    """
    if factory is None:
        return None
    base: Any = extensions.cursor if name == "cursor_factory" else extensions.connection
    kind = name.removesuffix("_factory")
    if not callable(factory) or (isinstance(factory, type) and not issubclass(factory, base)):
        raise TypeError(
            f"{name} is {factory!r:.200}; expected a class derived from psycopg2.extensions.{kind} or "
            f"client.dbapi.extensions.{kind}, or a function that makes one's instances"
        )
    if isinstance(factory, type) and issubclass(factory, (_psycopg.ReplicationConnection, _psycopg.ReplicationCursor)):
        raise psycopg2.NotSupportedError(
            f"{name} is {factory!r:.200}, and the broker passes no messages of replication; "
            "connect to PostgreSQL with psycopg2 for that"
        )
    return factory


def with_ours(factory: Any, ours: type) -> Any:
    """Return the factory; if it is a class of psycopg2's side, one that stands on ours."""
    if not isinstance(factory, type) or issubclass(factory, ours):
        return factory
    if factory in (extensions.cursor, extensions.connection):
        return ours
    derived: Any = _derived  # classes can be hashed, though mypy has its doubts
    return derived(factory, ours) if issubclass(factory, ours.__mro__[-2]) else factory


@lru_cache(CLASSES_KEPT)
def _derived(theirs: Any, ours: Any) -> Any:
    own = {"__module__": theirs.__module__, "__doc__": theirs.__doc__}
    return type(theirs.__name__, (theirs, ours), {**own, **guarded_methods(theirs, ours)})
