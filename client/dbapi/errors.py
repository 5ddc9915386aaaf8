"""psycopg2.errors: the classes of PostgreSQL's errors, which errors from the broker are instances of."""

from typing import Any

from psycopg2 import errors
from psycopg2.errors import lookup

__all__ = ["lookup"]


def __getattr__(name: str) -> Any:
    return getattr(errors, name)
