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
from collections.abc import Collection, Iterable, Iterator
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
LOCK = "an advisory lock"
SLOT = "a replication slot"  # most stay on purpose, so it is not refused
CONNECTION = "a connection of dblink"
# That it leaves something is not true of these: they want what others have left.
SEQUENCE_VALUE = "what nextval() gave last"
LOCK_HELD = "an advisory lock that the session holds"
SEED = "what random() gives"
# Functions of pg_catalog whose calls leave or want something. Locks of a transaction (pg_advisory_xact_lock) end with
# it.
_CALLS = {
    b"pg_advisory_lock": LOCK,
    b"pg_advisory_lock_shared": LOCK,
    b"pg_try_advisory_lock": LOCK,
    b"pg_try_advisory_lock_shared": LOCK,
    b"pg_advisory_unlock": LOCK_HELD,
    b"pg_advisory_unlock_shared": LOCK_HELD,
    b"currval": SEQUENCE_VALUE,
    b"lastval": SEQUENCE_VALUE,
    b"setseed": SEED,
}
# Functions that go with these. A statement that calls both makes sense by itself; if not, PostgreSQL says so.
_PARTNERS = {
    LOCK: {b"pg_advisory_unlock", b"pg_advisory_unlock_shared", b"pg_advisory_unlock_all"},
    LOCK_HELD: {name for name, leaves in _CALLS.items() if leaves == LOCK},
    SEQUENCE_VALUE: {b"nextval"},
    CONNECTION: {b"dblink", b"dblink_exec", b"dblink_open", b"dblink_send_query", b"dblink_disconnect"},
    SEED: {b"random", b"random_normal", b"array_sample", b"array_shuffle"},
}
# Words behind which a row has its values, also those that the statement's own nextval() gave.
_ROW_MADE = (b"RETURNING", b"CONFLICT")
# Functions that leave what only the end of the connection takes away, whatever their schema; of slots only temporary
# ones.
_LASTING = {
    b"pg_replication_origin_session_setup": "a replication origin",
    b"pg_create_physical_replication_slot": SLOT,
    b"pg_create_logical_replication_slot": SLOT,
    b"pg_copy_physical_replication_slot": SLOT,
    b"pg_copy_logical_replication_slot": SLOT,
    b"dblink_connect": CONNECTION,
    b"dblink_connect_u": CONNECTION,
}

# Longer names are none of those above, and PostgreSQL cuts them; with quotes.
_MAX_NAME = 65
# The patterns below are for a statement's tokens with a blank behind each: words in upper case, quoted names in lower
# case and without quotes, constants as '?', or FALSE if they may mean that. Some are for the tokens outside of
# parentheses only, which they say.
_PG_TEMP = rb"(?i:pg_temp) \. "
# Of an EXPLAIN, what stands before its statement; and that it runs the statement.
_EXPLAIN = re.compile(rb"EXPLAIN (?:\( [^()]*\) |(?:(?:ANALY[SZ]E|VERBOSE) )*)")
_IS_RUN = re.compile(rb"ANALY[SZ]E (?!FALSE |off |false )")
_OFF = re.compile(rb"['\"]?(?:false|off|0)(?![\w.])", re.IGNORECASE)
# Outside of parentheses: a statement that calls nothing of what it names, and one of them that does run its query.
_DEFINES = re.compile(rb"(?:ALTER|COMMENT|CREATE|DROP|GRANT|IMPORT|REVOKE|SECURITY) ")
_QUERIED = re.compile(rb"CREATE (?:(?:GLOBAL|LOCAL|TEMP|TEMPORARY|UNLOGGED) )*(?:TABLE|MATERIALIZED VIEW) ")
# Outside of parentheses: CREATE of something temporary.
_TEMPORARY = re.compile(
    rb"CREATE (?:OR REPLACE )?(?:(?:GLOBAL|LOCAL) )?(?:TEMP|TEMPORARY) "
    rb"|CREATE (?:OR REPLACE )?(?:(?:FOREIGN|GLOBAL|LOCAL|MATERIALIZED|RECURSIVE|UNLOGGED) )*"
    rb"(?:AGGREGATE|COLLATION|CONVERSION|DOMAIN|FUNCTION|OPERATOR(?: CLASS| FAMILY)?|PROCEDURE|SEQUENCE|STATISTICS"
    rb"|TABLE|TEXT SEARCH [A-Z]+|TYPE|VIEW) (?:IF NOT EXISTS )?" + _PG_TEMP
)
# SELECT ... INTO a temporary table; a table may be called temp.
_INTO = re.compile(
    rb"(?<!\S)(?<!INSERT )(?<!MERGE )INTO (?:(?:(?:GLOBAL|LOCAL) )?(?:TEMP|TEMPORARY) (?=[\w\x80-\xff])"
    rb"(?!(?:EXCEPT|FETCH|FOR|FROM|GROUP|HAVING|INTERSECT|LIMIT|OFFSET|ORDER|UNION|WHERE|WINDOW) )"
    rb"|(?:TABLE )?" + _PG_TEMP + rb")"
)


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
_SETTING = Use(SETTING, wants_session=True)
_TABLE = Use("a temporary table", wants_session=True)
# What a statement leaves by its first tokens outside of parentheses.
_VERBS = (
    (re.compile(rb"LISTEN "), Use("a channel that it listens to", wants_session=True)),
    (re.compile(rb"LOAD "), Use("a library", is_lasting=True, wants_session=True)),
    (re.compile(rb"SET (?!LOCAL |TRANSACTION |CONSTRAINTS )."), _SETTING),
    (re.compile(rb"PREPARE (?!TRANSACTION )."), Use("a prepared statement", wants_session=True)),
    (re.compile(rb"DECLARE .*WITH HOLD "), Use("a cursor", wants_session=True)),
    (_TEMPORARY, _TABLE),
)


def use_of(statement: bytes) -> Use:
    """What the statement may leave by its text, which has NUL for each parameter; NOTHING for most. Linear."""
    if _INNOCENT.match(statement) and b";" not in statement.rstrip(b"; \t\r\n"):
        lower = statement.lower()
        if not any(word in lower for word in _SUSPICIOUS):
            return NOTHING
    if _sets_only(statement):
        return _SETTING
    read = tokens(statement, len(statement) > MAX_BYTES or 0 not in statement)
    uses = [_use_of_single(each) for each in _statements(islice(read, MAX_TOKENS))]
    found = _all_joined(uses)
    if len(uses) > 1 and found.wants_session:
        found = replace(found, wants_session=False, wants_no_transaction=False)
    # A text that is too long to be read may do anything.
    return found if next(read, None) is None else found.joined(UNSEEN)


def is_pointless(uses: Collection[Use]) -> bool:
    """Whether a transaction of nothing but these statements makes no sense, as each of them wants others."""
    leaves = {use.leaves for use in uses}
    return bool(uses) and all(use.wants_session for use in uses) and not {LOCK, LOCK_HELD} <= leaves


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
    if len(statement) > MAX_BYTES or b"set_config" not in statement.lower():
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


def _statements(read: Iterator[tuple[str, bytes, int, int]]) -> Iterator[list[bytes]]:
    """The tokens of each statement that is not empty, as the patterns want them."""
    words: list[bytes] = []
    depth = 0  # parentheses
    for kind, text, _, _ in read:
        if text == b";" and depth <= 0:
            if words:
                yield words
            words = []
            continue
        depth += (text == b"(") - (text == b")")
        text = text[:_MAX_NAME]
        if kind == "word":
            words.append(b"FALSE" if _OFF.match(text) else text.upper())
        elif kind == "name":
            words.append(re.sub(rb"\W", b"_", text.strip(b'"').lower()))
        elif kind == "mark":
            words.append(text)
        elif text[:1] == b"(":  # a skimmed token may begin with a row of constants
            words += (b"(", b")")
        else:
            words.append(b"FALSE" if _OFF.match(text) else b"?")
    if words:
        yield words


def _use_of_single(words: list[bytes]) -> Use:
    """What one statement may leave."""
    text = b" ".join(words) + b" "
    is_run = True
    if head := _EXPLAIN.match(text):
        is_run = _IS_RUN.search(head[0]) is not None
        words, text = words[head[0].count(b" ") :], text[head.end() :]
    outer = _outer(words)
    calls = is_run and (_DEFINES.match(outer) is None or _fills(outer))
    uses: list[Use] = []
    if is_run:
        uses += [use for pattern, use in _VERBS if pattern.match(outer)]
    if calls and _INTO.search(text):
        uses.append(_TABLE)
    uses += _uses_of_calls(words, calls)
    uses.sort(key=lambda use: not use.wants_session)  # a client that is refused is told why
    found = _all_joined(uses)
    if len(uses) > 1:
        found = replace(
            found,
            wants_session=any(use.wants_session for use in uses),
            wants_no_transaction=any(use.wants_no_transaction for use in uses),
        )
    return found


def _all_joined(uses: Iterable[Use]) -> Use:
    """What all of them together may leave."""
    found = NOTHING
    for use in uses:
        found = found.joined(use)
    return found


def _fills(outer: bytes) -> bool:
    """Whether the statement makes a table of a query, and runs that."""
    return _QUERIED.match(outer) is not None and b" AS " in outer and not outer.endswith(b" WITH NO DATA ")


def _uses_of_calls(words: list[bytes], is_run: bool) -> list[Use]:
    """What the functions leave whose calls are written there; what is not run counts only if it is lasting."""
    names: set[bytes] = set()
    found: list[str] = []
    has_row = False
    for place, word in enumerate(words):
        has_row = has_row or word in _ROW_MADE
        if word != b"(" or place == 0:
            continue
        name = words[place - 1].lower()
        names.add(name)
        is_built_in = place < 3 or words[place - 2] != b"." or words[place - 3].lower() == b"pg_catalog"
        if name in _LASTING:
            found.append(_LASTING[name])
        elif name in _CALLS and is_run and is_built_in and not (has_row and _CALLS[name] == SEQUENCE_VALUE):
            found.append(_CALLS[name])
    uses = []
    for leaves in dict.fromkeys(found):
        wants = is_run and leaves != SLOT and names.isdisjoint(_PARTNERS.get(leaves, ()))
        uses.append(Use(leaves, leaves in _LASTING.values(), wants, wants and leaves == SEED))
    return uses


def _outer(words: list[bytes]) -> bytes:
    """The tokens outside of parentheses."""
    found = []
    depth = 0
    for word in words:
        depth -= word == b")"
        if depth <= 0 and word not in (b"(", b")"):
            found.append(word)
        depth += word == b"("
    return b" ".join(found) + b" "
