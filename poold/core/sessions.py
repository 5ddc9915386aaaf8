"""What a statement leaves in its session, and how that is taken away before the backend serves anybody else.

Settings, temporary tables, prepared statements, channels, advisory locks and cursors WITH HOLD outlive a transaction,
and the next client on the backend would find them. They are told from the statement's text: from verbs (SET, LISTEN),
from words (CREATE TEMP), and from the names of functions (pg_advisory_lock). What other code does nobody can see: a DO
or a CALL may have left anything, a function that a SELECT calls as well. The former are always cleaned up after; of the
latter PostgreSQL itself reports some settings, and `Completion.is_changed` says so.

A backend on which something may have been left runs one more unit before it is idle: what DISCARD ALL does, except that
prepared statements stay, those of the broker among them, where no client has made any.

https://www.postgresql.org/docs/current/sql-discard.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice

from poold.core.effects import Simple, Unit
from poold.core.facts import Server
from poold.core.sql import MAX_BYTES, MAX_TOKENS, tokens

# Most statements are one of these, without a word that could leave anything, and need not be read.
_INNOCENT = re.compile(rb"\s*+(?:SELECT|INSERT|UPDATE|DELETE|WITH|VALUES|MERGE|TABLE)\b", re.IGNORECASE)
_SUSPICIOUS = (b"advisory", b"set_config", b"temp")

SETTING = "a setting"
# Session-level locks; those of a transaction (pg_advisory_xact_lock) go with it.
_LOCKS = re.compile(rb"pg_(?:try_)?advisory_lock(?:_shared)?")
_TEMPORARY = (b"TEMP", b"TEMPORARY")
# What may stand between CREATE and it.
_BEFORE_TEMPORARY = (b"CREATE", b"OR", b"REPLACE", b"GLOBAL", b"LOCAL")
# After SET: what holds for the transaction only.
_LOCAL = (b"LOCAL", b"TRANSACTION", b"CONSTRAINTS")


@dataclass(frozen=True, slots=True)
class Use:
    """What a statement, or several, may leave in a session."""

    leaves: str = ""  # in words for its client; "" where nothing is known
    makes_names: bool = False  # prepared statements of the client's own
    is_lasting: bool = False  # nothing takes it away but the end of the connection
    # Whether it is one statement that makes sense only where others of its client follow in the same session.
    wants_session: bool = False

    def joined(self, other: Use) -> Use:
        """What both may leave."""
        if self is NOTHING or other is self:
            return other
        if other is NOTHING:
            return self
        return Use(
            other.leaves if self.leaves in ("", UNSEEN.leaves) else self.leaves,
            self.makes_names or other.makes_names,
            self.is_lasting or other.is_lasting,
        )


# The one Use of statements that leave nothing, compared by identity.
NOTHING = Use()
# Nobody knows what, as after code that the broker cannot read.
UNSEEN = Use("something")


def use_of(statement: bytes) -> Use:
    """What the statement, with NUL for each parameter, may leave. Linear; NOTHING after a glance for most."""
    if _INNOCENT.match(statement) and b";" not in statement.rstrip(b"; \t\r\n"):
        lower = statement.lower()
        if not any(word in lower for word in _SUSPICIOUS):
            return NOTHING
    reader = _Reader()
    read = tokens(statement, len(statement) > MAX_BYTES or 0 not in statement)
    for kind, text, _, _ in islice(read, MAX_TOKENS):
        reader.take(kind, text)
    # What is too long to be read may leave anything as well.
    return reader.use() if next(read, None) is None else reader.use().joined(UNSEEN)


def reset(use: Use, server: Server, in_transaction: bool) -> Unit | None:
    """The unit that takes it away, and rolls back what is open; None where only the end of the connection does."""
    if use.is_lasting:
        return None
    text = b"ROLLBACK; " if in_transaction else b""
    text += (
        b"RESET SESSION AUTHORIZATION; RESET ALL; CLOSE ALL; UNLISTEN *; "
        b"SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES"
    )
    if use.makes_names:
        text += b"; DEALLOCATE ALL"
    if server.connection_check:
        text += b"; SELECT pg_catalog.set_config('client_connection_check_interval', '%b', false)" % (
            server.connection_check.encode()
        )
    return (Simple(text),)


class _Reader:
    """Reads the tokens of a string of statements."""

    def __init__(self) -> None:
        self._count = 0  # of statements
        self._use = NOTHING
        self._depth = 0  # parentheses
        # Of the statement being read: its keywords so far, as many as tell what it is; and the last token.
        self._words: list[bytes] = []
        self._previous = b""

    def take(self, kind: str, text: bytes) -> None:
        if text == b";" and self._depth <= 0:
            self._words = []
            self._previous = b""
            return
        word = text.upper() if kind == "word" else b""
        if not self._previous:
            self._count += 1
        if kind in ("word", "name"):
            self._function(text.lower().strip(b'"'))
        if word and self._depth == 0:
            self._read(word)
        self._depth += (text == b"(") - (text == b")")
        self._previous = word or text

    def use(self) -> Use:
        """What was found."""
        use = self._use
        wants = use.leaves not in ("", UNSEEN.leaves) and self._count == 1
        return Use(use.leaves, use.makes_names, use.is_lasting, wants) if wants else use

    def _function(self, name: bytes) -> None:
        if _LOCKS.fullmatch(name):
            self._add(Use("an advisory lock"))
        elif name == b"set_config":
            self._add(UNSEEN)
        elif name == b"pg_temp" and self._words[:1] == [b"CREATE"]:
            self._add(Use("a temporary table"))

    def _read(self, word: bytes) -> None:
        words = self._words
        words.append(word)
        match words:
            case [b"DO" | b"CALL" | b"RESET"]:
                self._add(UNSEEN)  # the last one takes away what the broker itself has set up
            case [b"DISCARD"]:
                self._add(Use(UNSEEN.leaves, makes_names=True))  # or takes them away, the broker's as well
            case [b"LISTEN"]:
                self._add(Use("a channel that it listens to"))
            case [b"LOAD"]:
                self._add(Use("a library", is_lasting=True))
            case [b"SET", second] if second not in _LOCAL:
                self._add(Use(SETTING))
            case [b"PREPARE", second] if second != b"TRANSACTION":
                self._add(Use("a prepared statement", makes_names=True))
            case [b"DECLARE", *_, b"WITH", b"HOLD"]:
                self._add(Use("a cursor"))
            case [b"CREATE", *_] if word in _TEMPORARY and set(words[:-1]) <= set(_BEFORE_TEMPORARY):
                self._add(Use("a temporary table"))
            case [*_, before, b"INTO", second] if second in _TEMPORARY and before not in (b"INSERT", b"MERGE"):
                self._add(Use("a temporary table"))
            case [*_, b"INTO", b"LOCAL" | b"GLOBAL", second] if second in _TEMPORARY:
                self._add(Use("a temporary table"))

    def _add(self, use: Use) -> None:
        self._use = self._use.joined(use)
