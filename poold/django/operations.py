"""How Django writes values and statements, where psycopg2's way of doing so differs from psycopg 3's.

Django's own module decides for psycopg 3 if that is installed. These are the methods with which it does, for psycopg2
whatever else is installed.
"""

from typing import Any

from django.db.backends.postgresql import operations as django_operations

from poold.django.values import Inet, Jsonb


class DatabaseOperations(django_operations.DatabaseOperations):
    """Django's operations on PostgreSQL, with psycopg2's values."""

    def compose_sql(self, sql: Any, params: Any) -> str:
        """The statement with literals in the place of its parameters."""
        with self.connection.cursor() as cursor:
            text: bytes = cursor.mogrify(sql, params)
        return text.decode()

    def last_executed_query(self, cursor: Any, sql: Any, params: Any) -> str | None:
        """The cursor's last statement with literals in the place of its parameters."""
        text: bytes | None = cursor.query
        return None if text is None else text.decode()

    def adapt_integerfield_value(self, value: Any, internal_type: str) -> Any:
        """The value itself: psycopg2's literals of integers need no type."""
        return value

    def adapt_ipaddressfield_value(self, value: Any) -> Any:
        """The value as psycopg2 sends addresses."""
        return Inet(value) if value else None

    def adapt_json_value(self, value: Any, encoder: Any) -> Any:
        """The value as psycopg2 sends jsonb."""
        return Jsonb(value, dumps=django_operations.get_json_dumps(encoder))
