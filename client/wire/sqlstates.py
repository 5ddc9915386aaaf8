"""PostgreSQL's error codes (SQLSTATEs) that client or broker act on, under PostgreSQL's own names for them.

https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

FEATURE_NOT_SUPPORTED = "0A000"
INVALID_PARAMETER_VALUE = "22023"
IN_FAILED_SQL_TRANSACTION = "25P02"
INVALID_CURSOR_NAME = "34000"  # there is no such cursor
INVALID_SQL_STATEMENT_NAME = "26000"  # no statement is prepared under that name
UNDEFINED_OBJECT = "42704"
SERIALIZATION_FAILURE = "40001"
DEADLOCK_DETECTED = "40P01"
DUPLICATE_PREPARED_STATEMENT = "42P05"
LOCK_NOT_AVAILABLE = "55P03"  # somebody else held it (NOWAIT, lock_timeout)
QUERY_CANCELED = "57014"  # by a cancel, or statement_timeout
ADMIN_SHUTDOWN = "57P01"
CRASH_SHUTDOWN = "57P02"
CANNOT_CONNECT_NOW = "57P03"
INTERNAL_ERROR = "XX000"

READ_ONLY_SQL_TRANSACTION = "25006"
OBJECT_NOT_IN_PREREQUISITE_STATE = "55000"
# What a standby answers to that which only a primary does.
NOT_ON_STANDBY = (READ_ONLY_SQL_TRANSACTION, FEATURE_NOT_SUPPORTED, OBJECT_NOT_IN_PREREQUISITE_STATE)

# A transaction that lost a race: run again from its beginning it may succeed.
# https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html
LOST_RACES = (SERIALIZATION_FAILURE, DEADLOCK_DETECTED)
