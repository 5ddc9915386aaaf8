"""SQLAlchemy's dialect for poold: `create_engine("postgresql+poold:///GROUP")`.

It is SQLAlchemy's psycopg2 dialect on `client.dbapi`, so types, reflection and SQL are the same. What differs is what
a connection is: one of poold's holds no backend between transactions, and is opened without a round trip. So an engine
needs no limit for them, and none is lost with a server.
"""

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.engine.url import URL
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool, Pool, QueuePool

from client.errors import DBConnectionError, PoolTimeout, TooManyRequests

# What may stand behind ? in a URL, as `client.dbapi.connect` has it; the others are texts.
FLAGS = ("code_place", "prepare", "read_only", "session", "trace")
TEXTS = ("address", "after", "connect_wait", "key", "priority", "server_key", "tag")
OPTIONS = "options"
# What a program with an engine can do where an error says what one with a connection can.
WORDS = (
    ("on a connection made by connect(..., session=True)", "on a connection of an engine whose URL has ?session=true"),
    ("set autocommit = False, or connect with session=True", "do without isolation_level='AUTOCOMMIT', or make an "
     "engine whose URL has ?session=true"),
    ("connect with session=True", "make an engine whose URL has ?session=true"),
    ("connect(..., settings={'name': 'value'})", "create_engine(..., connect_args={'settings': {'name': 'value'}})"),
    ("connect(..., settings={'statement_timeout': '1min'})", "create_engine(..., connect_args={'settings': "
     "{'statement_timeout': '1min'}})"),
)  # fmt: skip
_TRUTH = {
    **dict.fromkeys(("1", "true", "on", "yes"), True),
    **dict.fromkeys(("0", "false", "off", "no"), False),
}


class Connections(QueuePool):
    """As many connections as are used at once, kept for those that come: a quarter of a millisecond to make one.

    They are objects of this process, and nothing in the broker or in PostgreSQL. pool_size and max_overflow limit them
    all the same, if a program gives them.
    """

    def __init__(self, creator: Any, pool_size: int = 0, **options: Any) -> None:
        super().__init__(creator, pool_size, **options)


class PooldDialect(PGDialect_psycopg2):
    """psycopg2's dialect with connections to a broker.

    Its arguments in create_engine are those of psycopg2's dialect.
    """

    driver = "poold"
    supports_statement_cache = True

    @classmethod
    def get_pool_class(cls, url: URL) -> type[Pool]:
        """Return Connections; for sessions, each of which has a backend to itself, NullPool: it keeps none."""
        return NullPool if _options(url).get("session") else Connections

    @classmethod
    def import_dbapi(cls) -> Any:
        """Return the module whose connect() makes the connections."""
        from client import dbapi

        return dbapi

    def create_connect_args(self, url: URL) -> tuple[Sequence[Any], dict[str, Any]]:
        """Return the arguments of connect() that a URL stands for; raises ArgumentError if there is none such.

        postgresql+poold://[HOST:PORT]/[GROUP][?address=ipc:///PATH&tag=TEXT&options=-c NAME=VALUE...]
        """
        if url.username or url.password:
            raise ArgumentError(
                f"{_shown(url)} has a user or a password, and poold's broker logs in to PostgreSQL by its own "
                "configuration: leave them out; the group stands where the database does"
            )
        options = _options(url)
        if url.host:
            if "address" in options:
                raise ArgumentError(f"{_shown(url)} has a host and an address= as well: give one of them")
            if not url.port:
                raise ArgumentError(f"{_shown(url)} has a host and no port: write HOST:PORT, as the broker's address")
            host = f"[{url.host}]" if ":" in url.host else url.host
            options["address"] = f"tcp://{host}:{url.port}"
        if url.database:
            options["group"] = url.database
        return [], options

    def connect(self, *cargs: Any, **cparams: Any) -> Any:
        """Make a connection whose errors advise what can be done with an engine."""
        made = super().connect(*cargs, **cparams)
        made.advise(WORDS)
        return made

    def is_disconnect(self, e: Exception, connection: Any, cursor: Any) -> bool:
        """Whether the error says that broker or server is gone, or with them what the connection had open.

        A full group is no loss: SQLAlchemy tries again after a loss, and more requests are not what is wanted then.
        """
        if isinstance(e, DBConnectionError):
            return not isinstance(e, (PoolTimeout, TooManyRequests))
        return bool(super().is_disconnect(e, connection, cursor))  # type: ignore[no-untyped-call]  # it has no types

    def _set_backslash_escapes(self, connection: Any) -> None:
        """Nobody may change standard_conforming_strings in poold, so there is nothing to ask."""
        self._backslash_escapes = False


def _options(url: URL) -> dict[str, Any]:
    """Return what stands behind ? in a URL as arguments of connect()."""
    found: dict[str, Any] = {}
    for name, value in url.query.items():
        if not isinstance(value, str):
            raise ArgumentError(f"{_shown(url)} has {name}= more than once: give it once")
        if name == OPTIONS:
            found["settings"] = _settings(value, url)
        elif name in FLAGS:
            if value.lower() not in _TRUTH:
                raise ArgumentError(f"{_shown(url)} has {name}={value}: expected true or false")
            found[name] = _TRUTH[value.lower()]
        elif name in TEXTS:
            found[name] = value
        else:
            known = ", ".join(sorted((*FLAGS, *TEXTS, OPTIONS)))
            raise ArgumentError(f"{_shown(url)} has {name}=, which poold does not know; it knows {known}")
    return found


def _settings(value: str, url: URL) -> dict[str, str]:
    """Return PostgreSQL's settings in libpq's options: -c NAME=VALUE or --NAME=VALUE; a backslash keeps a space."""
    found: dict[str, str] = {}
    # As PostgreSQL splits a connection's options.
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|\S)+", value)]
    while words:
        word = words.pop(0)
        text = words.pop(0) if word == "-c" and words else word.removeprefix("-c").removeprefix("--")
        name, is_set, meaning = text.partition("=")
        if not is_set or not name or name.startswith("-") or not word.startswith("-"):
            raise ArgumentError(f"{_shown(url)} has options={value}: expected -c NAME=VALUE, once or more")
        found[name.replace("-", "_")] = meaning
    return found


def _shown(url: URL) -> str:
    return repr(url.render_as_string(hide_password=True))


dialect = PooldDialect
