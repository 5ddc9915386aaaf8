"""Whether the fields of a message have the types that its class declares: for messages from one's own broker.

Messages from strangers are checked by `client.wire.limits`, against limits as well.
"""

from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints


def fit(message: tuple[Any, ...]) -> bool:
    """Whether a NamedTuple's fields have their declared types; the contents of tuples and dicts are not checked."""
    return all(map(isinstance, message, _declared(type(message))))


@cache
def _declared(kind: type) -> tuple[tuple[type, ...], ...]:
    return tuple([_classes(hint) for hint in get_type_hints(kind).values()])


def _classes(hint: Any) -> tuple[type, ...]:
    """Return the classes that isinstance needs for a type hint."""
    if hint is Any:
        return (object,)
    if isinstance(hint, UnionType):
        return tuple([each for part in get_args(hint) for each in _classes(part)])
    if get_origin(hint) is Literal:
        return (str,)  # a broker of another release may know more of them
    return (NoneType if hint is None else get_origin(hint) or hint,)
