"""A plugin for the pytest that runs SQLAlchemy's and Alembic's own suites: poold's dialect in psycopg2's place.

Their tests ask for the driver's name to know what a database can: what they know of psycopg2 has to be true of poold.
Connections are in a pool as psycopg2's are: the tests change private parts of pools, and use connections that have been
given back.
"""

from typing import Any

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.pool import QueuePool

from client.sqlalchemy import PooldDialect


class TestedDialect(PooldDialect):
    """poold's dialect by psycopg2's name."""

    __test__ = False
    driver = "psycopg2"
    poolclass = QueuePool
    supports_statement_cache = True

    @classmethod
    def get_pool_class(cls, url: Any) -> Any:
        """The same for all URLs."""
        return cls.poolclass

    @classmethod
    def load_provisioning(cls) -> None:
        """PostgreSQL's own: how the tests make and clean what they need in a database."""
        PGDialect.load_provisioning()


registry.register("postgresql.poold", "poold_dialect", "TestedDialect")
