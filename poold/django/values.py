"""Values between Django and psycopg2: adapters for what Django sends, casters for what it wants to read otherwise."""

from typing import Any

from django.db.backends.postgresql.psycopg_any import is_psycopg3
from django.utils.safestring import SafeString

from client.dbapi import extensions, extras

Inet = extras.Inet


class Jsonb(extras.Json):
    """A value of Django's JSONField on its way to a column of type jsonb."""

    def getquoted(self) -> bytes:
        """The literal; its type is said, as PostgreSQL would take json for some operators."""
        literal: bytes = super().getquoted()
        return literal + b"::jsonb"


# Django's JSONField decodes the text itself, by a decoder of the field's.
_JSONB = extensions.new_type((3802,), "JSONB", extensions.UNICODE)
_JSONB_ARRAY = extensions.new_array_type((3807,), "JSONB[]", _JSONB)
_INET_ARRAY = extensions.new_array_type((1041,), "INET[]", extensions.UNICODE)

# For this process: Django does the same if psycopg 3 is not installed.
extensions.register_adapter(SafeString, extensions.QuotedString)
extras.register_uuid()
extensions.register_type(_INET_ARRAY)

# Casters of each of Django's connections, as other parts of the program may read jsonb in psycopg2's way.
casters: list[Any] = [_JSONB, _JSONB_ARRAY]
if is_psycopg3:
    from poold.django import psycopg3

    casters += psycopg3.casters
