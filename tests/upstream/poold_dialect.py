"""A plugin for the pytest that runs SQLAlchemy's and Alembic's own suites: poold's dialect in psycopg2's place.

Their tests ask for the driver's name to know what a database can: what they know of psycopg2 has to be true of poold.
Sessions, of which some tests look at what becomes of them in a pool, are pooled as psycopg2's connections are; other
connections are made anew each time, as the tests change private parts of pools.
"""

from typing import Any

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.pool import NullPool, QueuePool

from client.sqlalchemy import PooldDialect


class TestedDialect(PooldDialect):
    """poold's dialect by psycopg2's name."""

    __test__ = False
    driver = "psycopg2"
    supports_statement_cache = True

    @classmethod
    def get_pool_class(cls, url: Any) -> Any:
        """Another pool than poold's dialect has."""
        return QueuePool if "session" in url.query else NullPool

    @classmethod
    def load_provisioning(cls) -> None:
        """PostgreSQL's own: how the tests make and clean what they need in a database."""
        PGDialect.load_provisioning()


registry.register("postgresql.poold", "poold_dialect", "TestedDialect")
