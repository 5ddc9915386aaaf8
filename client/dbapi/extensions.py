"""psycopg2.extensions for connections and cursors of this package.

Adapters, casters and constants are psycopg2's own; what takes a connection or a cursor takes the ones of this package
as well.
"""

from __future__ import annotations

from typing import Any

from psycopg2 import extensions as _theirs
from psycopg2.extensions import (
    BINARYARRAY,
    BOOLEAN,
    BOOLEANARRAY,
    BYTES,
    BYTESARRAY,
    DATE,
    DATEARRAY,
    DATETIMEARRAY,
    DECIMAL,
    DECIMALARRAY,
    FLOAT,
    FLOATARRAY,
    INTEGER,
    INTEGERARRAY,
    INTERVAL,
    INTERVALARRAY,
    ISOLATION_LEVEL_AUTOCOMMIT,
    ISOLATION_LEVEL_DEFAULT,
    ISOLATION_LEVEL_READ_COMMITTED,
    ISOLATION_LEVEL_READ_UNCOMMITTED,
    ISOLATION_LEVEL_REPEATABLE_READ,
    ISOLATION_LEVEL_SERIALIZABLE,
    JSON,
    JSONARRAY,
    JSONB,
    JSONBARRAY,
    LONGINTEGER,
    LONGINTEGERARRAY,
    POLL_ERROR,
    POLL_OK,
    POLL_READ,
    POLL_WRITE,
    PYDATE,
    PYDATEARRAY,
    PYDATETIME,
    PYDATETIMEARRAY,
    PYDATETIMETZ,
    PYDATETIMETZARRAY,
    PYINTERVAL,
    PYINTERVALARRAY,
    PYTIME,
    PYTIMEARRAY,
    ROWIDARRAY,
    SQL_IN,
    STATUS_ASYNC,
    STATUS_BEGIN,
    STATUS_IN_TRANSACTION,
    STATUS_PREPARED,
    STATUS_READY,
    STATUS_SETUP,
    STATUS_SYNC,
    STRINGARRAY,
    TIME,
    TIMEARRAY,
    TRANSACTION_STATUS_ACTIVE,
    TRANSACTION_STATUS_IDLE,
    TRANSACTION_STATUS_INERROR,
    TRANSACTION_STATUS_INTRANS,
    TRANSACTION_STATUS_UNKNOWN,
    UNICODE,
    UNICODEARRAY,
    AsIs,
    Binary,
    Boolean,
    Column,
    DateFromPy,
    Diagnostics,
    Float,
    Int,
    IntervalFromPy,
    ISQLQuote,
    NoneAdapter,
    Notify,
    QueryCanceledError,
    QuotedString,
    TimeFromPy,
    TimestampFromPy,
    TransactionRollbackError,
    adapt,
    adapters,
    binary_types,
    encodings,
    encrypt_password,
    libpq_version,
    make_dsn,
    new_array_type,
    new_type,
    parse_dsn,
    register_adapter,
    string_types,
)  # fmt: skip

from client.dbapi.connection import Connection
from client.dbapi.cursor import Cursor
from client.dbapi.info import ConnectionInfo
from client.dbapi.xid import Xid
from client.values import offline

connection = Connection
cursor = Cursor

__all__ = [
    "AsIs", "BINARYARRAY", "BOOLEAN", "BOOLEANARRAY", "BYTES", "BYTESARRAY", "Binary", "Boolean", "Column",
    "Connection", "ConnectionInfo", "Cursor", "DATE", "DATEARRAY", "DATETIMEARRAY", "DECIMAL", "DECIMALARRAY",
    "DateFromPy", "Diagnostics", "FLOAT", "FLOATARRAY", "Float", "INTEGER", "INTEGERARRAY", "INTERVAL",
    "INTERVALARRAY", "ISOLATION_LEVEL_AUTOCOMMIT", "ISOLATION_LEVEL_DEFAULT", "ISOLATION_LEVEL_READ_COMMITTED",
    "ISOLATION_LEVEL_READ_UNCOMMITTED", "ISOLATION_LEVEL_REPEATABLE_READ", "ISOLATION_LEVEL_SERIALIZABLE",
    "ISQLQuote", "Int", "IntervalFromPy", "JSON", "JSONARRAY", "JSONB", "JSONBARRAY", "LONGINTEGER",
    "LONGINTEGERARRAY", "NoneAdapter", "Notify", "POLL_ERROR", "POLL_OK", "POLL_READ", "POLL_WRITE", "PYDATE",
    "PYDATEARRAY", "PYDATETIME", "PYDATETIMEARRAY", "PYDATETIMETZ", "PYDATETIMETZARRAY", "PYINTERVAL",
    "PYINTERVALARRAY", "PYTIME", "PYTIMEARRAY", "QueryCanceledError", "QuotedString", "ROWIDARRAY", "SQL_IN",
    "STATUS_ASYNC", "STATUS_BEGIN", "STATUS_IN_TRANSACTION", "STATUS_PREPARED", "STATUS_READY", "STATUS_SETUP",
    "STATUS_SYNC", "STRINGARRAY", "TIME", "TIMEARRAY", "TRANSACTION_STATUS_ACTIVE", "TRANSACTION_STATUS_IDLE",
    "TRANSACTION_STATUS_INERROR", "TRANSACTION_STATUS_INTRANS", "TRANSACTION_STATUS_UNKNOWN", "TimeFromPy",
    "TimestampFromPy", "TransactionRollbackError", "UNICODE", "UNICODEARRAY", "Xid", "adapt", "adapters",
    "binary_types", "connection", "cursor", "encodings", "encrypt_password", "libpq_version", "make_dsn",
    "new_array_type", "new_type", "parse_dsn", "quote_ident", "register_adapter", "register_type", "string_types",
]  # fmt: skip


def register_type(obj: Any, conn_or_curs: Any = None) -> None:
    """Register a caster: for one connection, for one cursor, or for all."""
    if isinstance(conn_or_curs, (Connection, Cursor)):
        conn_or_curs.own_casters.append(obj)
    else:
        _theirs.register_type(obj, conn_or_curs)


def quote_ident(ident: str, scope: Any) -> str:
    """Quote a name, as it stands in statements."""
    theirs = offline.own_cursor() if isinstance(scope, (Connection, Cursor)) else scope
    return str(_theirs.quote_ident(ident, theirs))
