"""What a statement may leave in its session, and how that is taken away before the backend serves anybody else.

Settings, temporary tables, prepared statements, channels, advisory locks, values of sequences and cursors WITH HOLD
outlive a transaction, and the next client on the backend would find them. The statements that leave something cannot be
listed, as views, operators, casts and triggers may call any function. So the backend is reset after every statement
that is not proven harmless (`poold.core.statements.proofs`).

The text tells two more things. If a statement makes sense only if others follow in the same session, it is refused
outside of one, with the reason. And if only the end of the connection takes away what a statement leaves, as with a
loaded library, the connection is closed instead of reset.

Prepared statements of the broker's own stay. PostgreSQL tells which ones were made by PREPARE, also in a function; if
clients have made any, all prepared statements are dropped.

https://www.postgresql.org/docs/current/sql-discard.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import islice

from poold.core.effects import SimpleQuery, Unit
from poold.core.facts import Server
from poold.core.statements.sql import MAX_BYTES, MAX_TOKENS, tokens

# Most statements begin with one of these, contain none of the words below, and need not be read.
_INNOCENT = re.compile(rb"\s*+(?:SELECT|INSERT|UPDATE|DELETE|WITH|VALUES|MERGE|TABLE)\b", re.IGNORECASE)
_SUSPICIOUS = (
    b"advisory", b"temp", b"currval", b"lastval", b"setseed", b"set_config", b"replication", b"dblink_connect", b"u&"
)  # fmt: skip

SETTING = "a setting"
# Of a statement's tokens, constants and parameters as 0: it does nothing but set, for the session.
_SETS_ONLY = re.compile(
    rb"select(?: (?:pg_catalog \. )?set_config \( [^()]+ , false \)(?: (?:as )?\w+)?(?: ,(?= )|\Z))+", re.IGNORECASE
)
_FALSE = re.compile(rb"'\s*(?:f(?:a(?:l(?:se?)?)?)?|no?|off?|0)\s*'", re.IGNORECASE)
# That it leaves something is not true of these: they want what others have left.
SEQUENCE_VALUE = "what nextval() gave last"
LOCK_HELD = "an advisory lock that the session holds"
# Session-level locks; those of a transaction (pg_advisory_xact_lock) end with it.
_LOCKS = re.compile(rb"pg_(?:try_)?advisory_lock(?:_shared)?")
_UNLOCKS = (b"pg_advisory_unlock", b"pg_advisory_unlock_shared")
# Functions that leave what only the end of the connection takes away; of slots only temporary ones.
_LASTING = {
    b"pg_replication_origin_session_setup": "a replication origin",
    b"pg_create_physical_replication_slot": "a replication slot",
    b"pg_create_logical_replication_slot": "a replication slot",
    b"pg_copy_physical_replication_slot": "a replication slot",
    b"pg_copy_logical_replication_slot": "a replication slot",
    b"dblink_connect": "a connection of dblink",
    b"dblink_connect_u": "a connection of dblink",
}
_TEMPORARY = (b"TEMP", b"TEMPORARY")
# Words that may stand before TEMPORARY in a CREATE.
_BEFORE_TEMPORARY = (b"CREATE", b"OR", b"REPLACE", b"GLOBAL", b"LOCAL")
# Words after SET for a setting that holds for the transaction only.
_LOCAL = (b"LOCAL", b"TRANSACTION", b"CONSTRAINTS")


@dataclass(frozen=True, slots=True)
class Use:
    """What a statement, or several, may leave in a session."""

    leaves: str = ""  # in words for its client; "" if nothing is known
    is_lasting: bool = False  # only the end of the connection takes it away
    # Whether it is one statement that makes sense only if others of its client run in the same session.
    wants_session: bool = False
    # Whether a transaction is not enough for that.
    wants_no_transaction: bool = False

    def joined(self, other: Use) -> Use:
        """What both together may leave."""
        if self is NOTHING or other is self:
            return other
        if other is NOTHING:
            return self
        return Use(
            other.leaves if self.leaves in ("", UNSEEN.leaves) else self.leaves,
            self.is_lasting or other.is_lasting,
        )


# How many prepared statements were made by PREPARE, also in a DO block, and how many there are. A client can replace
# one of the broker's only by PREPARE.
_NAMES_HELD = (
    b"SELECT pg_catalog.concat(pg_catalog.count(*) FILTER (WHERE from_sql), ' ', pg_catalog.count(*)) "
    b"FROM pg_catalog.pg_prepared_statement()"
)
DEALLOCATE_ALL: Unit = (SimpleQuery(b"DEALLOCATE ALL"),)

# The one Use of statements whose text tells nothing, and of backends in which nothing is left; compared by identity.
NOTHING = Use()
# Something unknown, as after any statement that is not proven harmless.
UNSEEN = Use("something")
# Prepared statements that are not the broker's; all of them are being dropped.
NAMES = Use("prepared statements")


def use_of(statement: bytes) -> Use:
    """What the statement may leave by its text, which has NUL for each parameter; NOTHING for most. Linear."""
    if _INNOCENT.match(statement) and b";" not in statement.rstrip(b"; \t\r\n"):
        lower = statement.lower()
        if not any(word in lower for word in _SUSPICIOUS):
            return NOTHING
    reader = _Reader()
    read = tokens(statement, len(statement) > MAX_BYTES or 0 not in statement)
    for kind, text, _, _ in islice(read, MAX_TOKENS):
        reader.take(kind, text)
    if reader.calls_set_config and _sets_only(statement):
        return Use(SETTING, wants_session=True)
    # A text that is too long to be read may do anything.
    return reader.use() if next(read, None) is None else reader.use().joined(UNSEEN)


def left_by(use: Use) -> Use:
    """What a statement that is not proven harmless may leave, if its text tells this use."""
    return UNSEEN if use is NOTHING else use


def reset(use: Use, in_transaction: bool, seed: float) -> tuple[Unit, ...]:
    """The units that roll back an open transaction and take away what was left; () if only closing takes it away.

    There are two, each a transaction of its own. The second reads tables, so it must begin after the first has reset
    what SET SESSION CHARACTERISTICS may have left, under which it might wait for others. seed, from -1 to 1, is for
    random().
    """
    if use.is_lasting:
        return ()
    first = b"ROLLBACK; " if in_transaction else b""
    first += b"RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL"
    second = (
        b"CLOSE ALL; UNLISTEN *; SELECT pg_catalog.pg_advisory_unlock_all(), pg_catalog.setseed('%b'); "
        b"DISCARD TEMP; DISCARD SEQUENCES"
    ) % repr(seed).encode()
    second += b"; " + _NAMES_HELD
    return (SimpleQuery(first),), (SimpleQuery(second),)


def names_held(server: Server, own: int) -> bytes:
    """The last result of a reset if the session holds only its first prepared statements and `own` of the broker's."""
    return b"%d %d" % (server.names, server.names + own)


def _sets_only(statement: bytes) -> bool:
    """Whether all that the statement does is set_config(..., false)."""
    if len(statement) > MAX_BYTES:
        return False
    read: list[bytes] = []
    for kind, text, _, _ in tokens(statement):
        if kind == "string" and _FALSE.fullmatch(text):
            text = b"false"
        elif kind == "name":
            text = text.strip(b'"')
        elif kind in ("string", "escaped", "number", "parameter"):
            text = b"0"
        read.append(text)
    while read[-1:] == [b";"]:
        read.pop()
    return _SETS_ONLY.fullmatch(b" ".join(read)) is not None


class _Reader:
    """Reads the tokens of a string of statements; `use` tells what they may leave."""

    def __init__(self) -> None:
        self._count = 0  # of statements
        self._use = NOTHING
        self._is_seeding = False
        self._calls_nextval = False
        self.calls_set_config = False
        self._depth = 0  # parentheses
        # Of the statement being read: its words and names outside of parentheses so far, and its last token.
        self._words: list[bytes] = []
        self._previous = b""
        self._before = b""  # the token before that one
        self._is_run = False  # what is behind an EXPLAIN is run
        self._name = b""  # the last token, if it is a name

    def take(self, kind: str, text: bytes) -> None:
        if text == b";" and self._depth <= 0:
            self._words = []
            self._previous = self._before = b""
            self._is_run = False
            return
        word = text.upper() if kind == "word" else b""
        if not self._previous:
            self._count += 1
        if text[:1] == b"(":  # a skimmed token may begin with it as well
            self._function(self._name)
        self._name = text.lower().strip(b'"') if kind in ("word", "name") else b""
        if self._words[:1] == [b"EXPLAIN"]:
            self._is_run = self._is_run or word in (b"ANALYZE", b"ANALYSE")
            if self._is_run and self._depth == 0 and word in (b"CREATE", b"DECLARE"):
                self._words = []
        if word in _TEMPORARY and self._is_into():
            self._add(Use("a temporary table"))
        if self._name == b"pg_temp" and (self._words[:1] == [b"CREATE"] or self._previous == b"INTO"):
            self._add(Use("a temporary table"))
        if self._depth == 0 and (word or kind == "name"):
            self._read(word or text)
        self._depth += (text == b"(") - (text == b")")
        self._before, self._previous = self._previous, word or text

    def _is_into(self) -> bool:
        """Whether the token before this one is the INTO of a SELECT."""
        if self._previous in (b"LOCAL", b"GLOBAL"):
            return self._before == b"INTO"
        return self._previous == b"INTO" and self._before not in (b"INSERT", b"MERGE")

    def use(self) -> Use:
        """What the statements read so far may leave."""
        use = self._use
        wants = use.leaves not in ("", UNSEEN.leaves) and self._count == 1
        if use.leaves == SEQUENCE_VALUE and self._calls_nextval:
            wants = False  # it may ask for what it has made itself; if it has not, PostgreSQL says so
        return replace(use, wants_session=True, wants_no_transaction=self._is_seeding) if wants else use

    def _function(self, name: bytes) -> None:
        if _LOCKS.fullmatch(name):
            self._add(Use("an advisory lock"))
        elif name in _UNLOCKS:
            self._add(Use(LOCK_HELD))
        elif name in (b"currval", b"lastval"):
            self._add(Use(SEQUENCE_VALUE))
        elif name == b"nextval":
            self._calls_nextval = True
        elif name == b"set_config":
            self.calls_set_config = True
        elif name in _LASTING:
            self._add(Use(_LASTING[name], is_lasting=True))
        elif name == b"setseed":
            self._is_seeding = True
            self._add(Use("what random() gives"))

    def _read(self, word: bytes) -> None:
        words = self._words
        words.append(word)
        match words:
            case [b"LISTEN"]:
                self._add(Use("a channel that it listens to"))
            case [b"LOAD"]:
                self._add(Use("a library", is_lasting=True))
            case [b"SET", second] if second not in _LOCAL:
                self._add(Use(SETTING))
            case [b"PREPARE", second] if second != b"TRANSACTION":
                self._add(Use("a prepared statement"))
            case [b"DECLARE", *_, b"WITH", b"HOLD"]:
                self._add(Use("a cursor"))
            case [b"CREATE", *_] if word in _TEMPORARY and set(words[:-1]) <= set(_BEFORE_TEMPORARY):
                self._add(Use("a temporary table"))

    def _add(self, use: Use) -> None:
        self._use = self._use.joined(use)
