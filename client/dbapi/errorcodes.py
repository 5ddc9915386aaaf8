"""psycopg2.errorcodes: PostgreSQL's error codes by name."""

from psycopg2.errorcodes import *  # noqa: F403
from psycopg2.errorcodes import lookup

__all__ = ["lookup"]
