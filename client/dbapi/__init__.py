"""poold for programs that were written for psycopg2: a module of DB-API 2.0 (PEP 249).

    from client import dbapi as psycopg2

    connection = psycopg2.connect(group="default")
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT %s", (1,))
        print(cursor.fetchone())

Exceptions, types, adapters and casters are psycopg2's own.
"""

import psycopg2
from psycopg2 import (
    BINARY,
    DATETIME,
    NUMBER,
    ROWID,
    STRING,
    Binary,
    DatabaseError,
    DataError,
    Date,
    DateFromTicks,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    Time,
    TimeFromTicks,
    Timestamp,
    TimestampFromTicks,
    Warning,
    __libpq_version__,
    apilevel,
    paramstyle,
    threadsafety,
)

from client.dbapi import errorcodes, errors, extensions, extras, pool, sql, tz
from client.dbapi.connecting import connect

# psycopg2's, as programs ask for it to know what they can use.
__version__: str = vars(psycopg2)["__version__"]

__all__ = [
    "BINARY", "Binary", "DATETIME", "DataError", "DatabaseError", "Date", "DateFromTicks", "Error", "IntegrityError",
    "InterfaceError", "InternalError", "NUMBER", "NotSupportedError", "OperationalError", "ProgrammingError", "ROWID",
    "STRING", "Time", "TimeFromTicks", "Timestamp", "TimestampFromTicks", "Warning", "__libpq_version__", "__version__",
    "apilevel", "connect", "errorcodes", "errors", "extensions", "extras", "paramstyle", "pool", "sql", "threadsafety",
    "tz",
]  # fmt: skip
