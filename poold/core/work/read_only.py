"""Refusal of statements that could write in a read_only group, as far as their text shows it.

Each transaction of such a group begins read-only, by default_transaction_read_only, and PostgreSQL lets none become
READ WRITE once it has run a query. So there are few ways to write, and each has a guard:

    SET TRANSACTION or BEGIN ... READ WRITE       refused here
    the two settings, by SET, set_config,         refused here; if the name is put together as it runs, PostgreSQL
    pg_settings, settings that travel             reports the change, and the connection is closed before its next use
    what goes on after a COMMIT of its own:       could do both in one go, so it is refused: CALL and DO run in a
    CALL, DO, strings of several statements       transaction block, if they cannot commit

Names are compared as PostgreSQL reads them: in any case, quoted or not. Those with Unicode escapes are not decoded.
"""

from __future__ import annotations

import re
from itertools import islice

from poold.core.statements.sql import MAX_TOKENS, tokens
from poold.core.work.settings import pairs

_SETTINGS = (b"transaction_read_only", b"default_transaction_read_only")
# A statement without any of these cannot write. (With ; there may be several, and one may end the transaction.)
_SUSPICIOUS = re.compile(rb"write|read_only|set_config|pg_settings|&\s*\"|;|\b(?:CALL|DO)\b", re.IGNORECASE)
_BEGINNING = (b"BEGIN", b"START")
_SETTING = (b"SET", b"RESET")
_ENDING = (b"COMMIT", b"END", b"ROLLBACK", b"ABORT", b"PREPARE")

_ADVICE = "; this group is read_only"
_LIFTS = "the statement would let its transaction write"
_COMMITS = "CALL and DO could end their transaction and begin another: run them in a transaction"
_GOES_ON = "statements behind a COMMIT or ROLLBACK run in a transaction of their own: send them by themselves"


def objection(statement: bytes, values: bytes, is_in_block: bool) -> str:
    """Why the statement, with NUL for each parameter, cannot run in a read_only group; "" if it can."""
    if not _SUSPICIOUS.search(statement):
        return ""
    reader = _Reader(values.lower())
    read = tokens(statement, is_skimmed=True)
    for kind, text, _, _ in islice(read, MAX_TOKENS):
        reader.take(kind, text)
    reason = reader.reason
    if not reason and next(read, None) is not None:
        reason = "the statement is too long to be read"
    if not reason and reader.is_code and not is_in_block:
        reason = _COMMITS
    return reason and reason + _ADVICE


def settings_objection(settings: bytes) -> str:
    """Why settings that travel would let a statement write; "" if they do not."""
    if any(name.strip().lower() in _SETTINGS for name, _ in pairs(settings)):
        return _LIFTS + _ADVICE
    return ""


class _Reader:
    """Reads the tokens of a string of statements; `reason` tells why it is refused."""

    def __init__(self, values: bytes) -> None:
        self.reason = ""
        self._values = values
        self._count = 0
        self._has_ended = False  # whether a statement before this one may have ended the transaction
        self._was_code = False
        self._begin()

    @property
    def is_code(self) -> bool:
        """Whether it is a single CALL or DO; among several statements these cannot end the transaction."""
        return self._count == 1 and self._was_code

    def _begin(self) -> None:
        self._verb = b""
        self._previous = b""
        self._is_first = True
        # set_config occurs, UPDATE occurs, one of the two settings is named in a string or a value.
        self._sets = self._updates = self._is_named = False

    def take(self, kind: str, text: bytes) -> None:
        if text == b";":
            self._begin()
            return
        word = text.upper() if kind == "word" else b""
        if self._is_first:
            self._is_first = text == b"("
            self._count += not self._is_first
            self._verb = word
            if self._has_ended and not self._is_first:
                self.reason = self.reason or _GOES_ON
            self._has_ended = self._has_ended or word in _ENDING
            self._was_code = self._was_code or word in (b"CALL", b"DO")
        elif word == b"TO" if self._verb == b"ROLLBACK" else self._previous == b"PREPARE" and word != b"TRANSACTION":
            self._has_ended = False  # ROLLBACK TO, or PREPARE of a statement
        self._look(kind, text, word)
        self._previous = word or text

    def _look(self, kind: str, text: bytes, word: bytes) -> None:
        verb = self._verb
        name = text.lower().strip(b'"') if kind in ("word", "name") else b""
        if kind in ("string", "escaped", "dull"):
            lower = text.lower()
            self._is_named |= b"transaction_read_only" in lower
        if b"\0" in text:
            self._is_named |= b"transaction_read_only" in self._values
        self._sets |= name == b"set_config"
        self._updates |= word == b"UPDATE"
        is_update = self._updates and name == b"pg_settings"
        is_setting = verb in _SETTING and (name in _SETTINGS or (kind == "name" and self._previous == b"&"))
        is_write = word == b"WRITE" and self._previous == b"READ" and verb in (*_SETTING, *_BEGINNING)
        is_hidden = self._is_named and (self._sets or verb == b"DO")
        if is_setting or is_write or is_hidden or is_update:
            self.reason = self.reason or _LIFTS
