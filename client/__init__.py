"""The thin client of poold: `from client import Handler`.

Programs written for pgdbpool change their import line to `import client as dbpool`.
"""

from client.connection import Connection
from client.errors import (
    DBConnectionError,
    DBError,
    DBOfflineError,
    DBQueryError,
    PoolTimeout,
    ProtocolError,
    ResultTooLarge,
    StatementRefused,
    TooManyRequests,
    TransactionLost,
    UnconfiguredGroupError,
    UsageError,
)
from client.handler import Handler
from client.rows import Result, Row

__all__ = [
    "Handler",
    "Connection",
    "Result",
    "Row",
    "DBError",
    "DBConnectionError",
    "DBOfflineError",
    "PoolTimeout",
    "TooManyRequests",
    "TransactionLost",
    "DBQueryError",
    "StatementRefused",
    "ResultTooLarge",
    "UnconfiguredGroupError",
    "UsageError",
    "ProtocolError",
]
