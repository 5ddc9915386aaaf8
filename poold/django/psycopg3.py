"""What has to be bridged if psycopg 3 is installed as well: Django decides for it in all modules that are not ours.

`django.contrib.postgres` makes psycopg 3's Range of what its fields are given, expects it of the database, and asks a
new connection for psycopg 3's registry of types to put hstore and citext into. This backend's statements are psycopg2's
all the same. So psycopg 3's ranges are sent as psycopg2's, ranges that come are made psycopg 3's, and a connection has
a registry that nobody reads, while the types are registered with psycopg2 by the signal's receiver here.

Imported only if `django.db.backends.postgresql.psycopg_any` has found psycopg 3.
"""

import datetime
import re
from collections.abc import Callable
from typing import Any

from django.apps import apps
from django.contrib.postgres.signals import get_citext_oids, get_hstore_oids
from django.db.backends.base.base import NO_DB_ALIAS
from psycopg import adapters
from psycopg.adapt import AdaptersMap
from psycopg.types.range import Range

from client.dbapi import extensions, extras

# The OIDs of each range type and of its arrays, and psycopg2's class for it.
_RANGES = (
    (3904, 3905, extras.NumericRange),  # int4range
    (3906, 3907, extras.NumericRange),  # numrange
    (3926, 3927, extras.NumericRange),  # int8range
    (3908, 3909, extras.DateTimeRange),  # tsrange
    (3910, 3911, extras.DateTimeTZRange),  # tstzrange
    (3912, 3913, extras.DateRange),  # daterange
)

# What is escaped within quotes in a range.
_QUOTED = re.compile(r'["\\]')


def _adapt(value: Any) -> Any:
    """Return psycopg2's adapter for a range of psycopg 3's."""
    bound = value.lower if value.lower is not None else value.upper
    if isinstance(bound, str):
        return extensions.adapt(_text(value))
    if isinstance(bound, datetime.datetime):
        kind = extras.DateTimeTZRange  # for naive ones too, as Django has no other ranges of moments
    elif isinstance(bound, datetime.date):
        kind = extras.DateRange
    else:
        kind = extras.NumericRange
    made = kind(empty=True) if value.isempty else kind(value.lower, value.upper, value.bounds)
    return extensions.adapt(made)


def _text(value: Any) -> str:
    """Return a range of texts as PostgreSQL reads it, of whichever type it is wanted."""
    ends = ["" if end is None else '"' + _QUOTED.sub(r"\\\g<0>", end) + '"' for end in (value.lower, value.upper)]
    return f"{value.bounds[0]}{ends[0]},{ends[1]}{value.bounds[1]}"


def _caster(oid: int) -> Callable[[str | None, Any], Any]:
    """Return a function that casts as psycopg2 does and makes psycopg 3's range of it."""
    theirs = extensions.string_types[oid]

    def cast(text: str | None, cursor: Any) -> Any:
        found = None if text is None else theirs(text.encode(), cursor)
        if found is None:
            return None
        return Range(empty=True) if found.isempty else Range(found.lower, found.upper, found._bounds)

    return cast


extensions.register_adapter(Range, _adapt)
casters: list[Any] = []
for _oid, _array, _kind in _RANGES:
    _one = extensions.new_type((_oid,), f"RANGE {_oid}", _caster(_oid))
    casters += [_one, extensions.new_array_type((_array,), f"RANGE[] {_array}", _one)]


def prepare(connection: Any) -> None:
    """Give a new connection the registry that contrib.postgres puts types into."""
    connection.adapters = AdaptersMap(adapters)


def register_types(connection: Any, **_: Any) -> None:
    """Register hstore and citext with psycopg2, for a connection that Django has made: a receiver of its signal.

    Django asks for their OIDs once for each alias and process.
    """
    if connection.alias == NO_DB_ALIAS or not apps.is_installed("django.contrib.postgres"):
        return
    oids, arrays = get_hstore_oids(connection.alias)
    if oids:
        extras.register_hstore(connection.connection, globally=True, oid=oids, array_oid=arrays)
    _, arrays = get_citext_oids(connection.alias)
    if arrays:
        extensions.register_type(extensions.new_array_type(arrays, "citext[]", extensions.UNICODE), None)
