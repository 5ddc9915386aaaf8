"""When a Handler's own settings travel in an interactive transaction: once, and again behind what has undone them.

They hold to the transaction's end, and what the program sets there itself is not to be undone by its next statement.
"""

import re
from typing import Any

from client.values.blanks import BLANKS
from client.values.statements import is_single

_CONTROL = re.compile(BLANKS + rb"(?:savepoint|release|rollback|begin|start|commit|end|abort|prepare)\b", re.IGNORECASE)
_ROLLS_BACK = re.compile(BLANKS + rb"rollback\b", re.IGNORECASE)
_OF_TRANSACTIONS = (b"transaction_isolation", b"transaction_read_only", b"transaction_deferrable")
_RESETS = re.compile(rb"(?:\A|;)" + BLANKS + rb"(?:reset|discard)\b" + BLANKS + rb"all\b", re.IGNORECASE)


class OwedSettings:
    """Whether the open transaction has still to be told of them."""

    __slots__ = ("_is_at_begin", "_told")

    def __init__(self) -> None:
        self._told: Any = None  # the transaction that was told, as Executor._open_transaction has it
        self._is_at_begin = False  # so that no ROLLBACK TO SAVEPOINT undoes it

    def are_owed(self, transaction: Any) -> bool:
        """Whether they travel with the next statement in this transaction, None if it begins one."""
        are_owed = transaction is None or transaction != self._told
        if are_owed:
            self._is_at_begin = transaction is None
        return are_owed

    def follow(self, sql: bytes, transaction: Any, *, has_told: bool) -> None:
        """Take note that this statement has run, with what was owed or without, and what is open behind it."""
        if not self._is_at_begin and _ROLLS_BACK.match(sql):
            self._told = None
        elif has_told:
            self._told = transaction

    def renew(self) -> None:
        """Have them travel once more: there are other ones."""
        self._told, self._is_at_begin = None, False


def lasting(settings: bytes) -> tuple[dict[str, str], bytes]:
    """Part settings that travel: those that can hold in a session, and those that are each transaction's own."""
    parts = settings.split(b"\0")
    can_last, others = {}, b""
    for name, value in zip(parts[:-1:2], parts[1::2], strict=True):
        if name.lower() in _OF_TRANSACTIONS:
            others += b"%b\0%b\0" % (name, value)
        else:
            can_last[name.decode()] = value.decode()
    return can_last, others


def goes_alone(sql: bytes) -> bool:
    """Whether no settings can travel with this text: it is about transactions, or several statements."""
    return _CONTROL.match(sql) is not None or not is_single(sql)


def resets_all(sql: bytes) -> bool:
    """Whether a statement of the text undoes what was set in the session."""
    return _RESETS.search(sql) is not None
