"""psycopg2.sql: psycopg2's own; as_string takes connections and cursors of this package."""

from psycopg2.sql import DEFAULT, NULL, SQL, Composable, Composed, Identifier, Literal, Placeholder

__all__ = ["DEFAULT", "NULL", "SQL", "Composable", "Composed", "Identifier", "Literal", "Placeholder"]
