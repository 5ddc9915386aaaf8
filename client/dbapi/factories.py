"""Classes of connections and cursors that programs derive from psycopg2's own, made to work here.

    class Mine(psycopg2.extensions.cursor): ...

overrides methods of psycopg2's cursor; it is given those of this package to override.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from psycopg2 import extensions

from client.dbapi.guards import guarded_methods

# Programs have a few; one that makes classes in a loop must not grow memory for ever.
CLASSES_KEPT = 256


def checked_factory(name: str, factory: Any) -> Any:
    """Return the factory, if it can be called or is None."""
    if factory is not None and not callable(factory):
        raise TypeError(f"{name} is {factory!r:.200}; expected a class, or a function that makes one's instances")
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
