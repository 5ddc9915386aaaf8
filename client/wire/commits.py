"""Which statements may commit the transaction that is open.

The client and the broker ask the same question of the same text: if the connection is lost during such a statement, the
outcome is unknown; during any other one in a transaction, everything was rolled back.
"""

import re

# They begin a statement, so they stand at the beginning of the text, or behind a semicolon, a comment or the end of a
# line. Inside quotes they are found by mistake, and an outcome is unknown that could be known; the reverse does not
# happen. CALL and DO cannot commit where a transaction is open.
_MAY_COMMIT = re.compile(
    rb"(?:\A|;|\*/|[\r\n])\s*(?:commit\b|prepare\b|end\s*(?:;|\Z|--|/\*|work\b|transaction\b|and\b))", re.IGNORECASE
)


def may_commit(statement: bytes) -> bool:
    """Whether this text may commit a transaction that is open."""
    return _MAY_COMMIT.search(statement) is not None
