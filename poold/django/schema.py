"""How Django writes literals into the statements of migrations."""

from typing import Any

from django.db.backends.postgresql import schema as django_schema

from client.values.offline import render


class DatabaseSchemaEditor(django_schema.DatabaseSchemaEditor):
    """Django's schema editor for PostgreSQL."""

    def quote_value(self, value: Any) -> str:
        """The value as a literal, as psycopg2 writes it for the server's settings."""
        return render("%s", (value,)).decode()
