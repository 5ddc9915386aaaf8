"""The thin client of poold: `from client import Handler`.

Programs written for pgdbpool change their import line to `import client as dbpool`.
"""

from client.channels.registry import Connection
from client.errors import (
    CommitOutcomeUnknown,
    DBConnectionError,
    DBError,
    DBOfflineError,
    DBQueryError,
    ExpectationFailed,
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
from client.legacy import Query
from client.pending import PendingResult, Savepoint
from client.session import Session
from client.stream import Stream
from client.transaction import Transaction
from client.values.result import Result
from client.values.row import Row

__all__ = [
    "Handler",
    "Connection",
    "Query",
    "Result",
    "Row",
    "Transaction",
    "PendingResult",
    "Savepoint",
    "Session",
    "Stream",
    "DBError",
    "DBConnectionError",
    "DBOfflineError",
    "PoolTimeout",
    "TooManyRequests",
    "TransactionLost",
    "CommitOutcomeUnknown",
    "DBQueryError",
    "StatementRefused",
    "ResultTooLarge",
    "ExpectationFailed",
    "UnconfiguredGroupError",
    "UsageError",
    "ProtocolError",
]
