"""What the broker needs to know about a statement before it may prepare it, from its lexical structure alone.

A statement comes with NUL in place of each parameter. At first it runs with literals there, as psycopg2 sends it; later
it may run prepared, with $1, $2 and so on, and must mean the same. PostgreSQL itself refuses most statements that
cannot be prepared, and then nothing is lost. This module looks for the others, of which both forms are accepted but
differ in meaning:

    utility statements     they take no parameters, or they change what prepared statements rest on
    hidden parameters      interval '\\0 days': the literal is part of a string, $1 would be text in it
    glued parameters       E\\0: one token with the literal, two with $1
    column positions       ORDER BY \\0: the literal 1 is the first column, $1 a constant

This is no parser: one pass over the tokens knows a few keywords and counts parentheses. In doubt it finds an obstacle,
or a write. It cannot see what functions do. Nothing raises or recurses. Time is linear, two microseconds per token, and
limited by MAX_TOKENS, as nobody else is served meanwhile.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat

# Beyond these limits a statement is a bulk load, and the next one will differ in length: not worth preparing.
MAX_BYTES = 100_000
MAX_PARAMETERS = 1_000
# Beyond so many tokens a text is not read to its end: nothing is known about it, and it runs with literals. An ORM's
# largest statements have hundreds. If a text is skimmed, a row of constants is one token, so bulk loads are read; as
# such a token takes longer, it counts as one more for every DULL_BYTES, up to DULL_TOKENS.
MAX_TOKENS = 5_000
DULL_TOKENS, DULL_BYTES = 10, 64

_PREPARABLE = frozenset(b"DELETE INSERT MERGE SELECT TABLE UPDATE VALUES WITH".split())  # PostgreSQL's PreparableStmt
_READING = frozenset(b"EXPLAIN SELECT SHOW TABLE VALUES WITH".split())
_MODIFYING = frozenset(b"ANALYSE ANALYZE DELETE INSERT MERGE UPDATE".split())  # in EXPLAIN and WITH, columns' names too
_TRANSACTION = frozenset(b"ABORT BEGIN COMMIT END RELEASE ROLLBACK SAVEPOINT START".split())  # and PREPARE TRANSACTION

# Types whose values may be written as a whole number without quotes: int8, int2, int4, numeric.
_NUMBERS = frozenset(oid.to_bytes(4, "big") for oid in (20, 21, 23, 1700))
# Words after which commas, within the same parentheses, no longer divide the elements of such a list.
_ENDING = (b"SELECT", b"RETURNING")
# Words that make the number before them part of a longer expression.
_CONTINUING = frozenset(b"AND AT BETWEEN COLLATE ILIKE IN IS ISNULL LIKE NOT NOTNULL OPERATOR OR SIMILAR".split())
# Words that may stand before an element, which still begins after them: GROUP BY DISTINCT ROLLUP (1).
_GROUPING = frozenset(b"ALL CUBE DISTINCT GROUPING ROLLUP SETS".split())

# Tokens with standard_conforming_strings on, as in all backends. A string with a doubled quote is read as two strings,
# which end where the one would.
# https://www.postgresql.org/docs/current/sql-syntax-lexical.html
# Possessive repeats keep time linear. A group is repeated so only if its body never fails half-way, as Python 3.11.2
# has an error there.
_IN_WORD = rb"[A-Za-z0-9_$\x80-\xff]"
_WORD = rb"[A-Za-z_\x80-\xff]" + _IN_WORD + rb"*+"
_ESCAPED = rb"'(?:[^'\\]++|\\(?:.|\Z))*+'?"
_ANY = (
    rb"(?P<escaped>[eE]" + _ESCAPED + rb")|(?P<word>" + _WORD + rb")|(?P<number>[0-9]+(?:\.[0-9]*)?)"
    rb"|(?P<string>'[^']*'?)|(?P<name>\"[^\"]*\"?)|(?P<line>--[^\n\r]*)|(?P<block>/\*)|(?P<parameter>\$[0-9]+)"
    rb"|(?P<dollar>\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*+)?\$)|(?P<mark>.)"
)
# What fills the rows of a bulk INSERT: constants, casts, and E'...' if no second part can follow it.
_CONSTANT = (
    rb"(?:[\s,=<>+*%|!~#\[\]\0]++|[0-9]++(?:\.[0-9]*+)?|\.(?=[0-9])|-(?!-)|/(?!\*)|'[^']*+'|::\s*+" + _WORD + rb"(?!')"
    rb"|[eE]'(?>(?:[^'\\]++|\\.|''){0,99})'(?=\s*+[,)\]:])"
    rb"|(?i:NULL|TRUE|FALSE|DEFAULT|ARRAY)(?!'|" + _IN_WORD + rb"))"
)
_DULL = rb"(?P<dull>(?>(?:" + _CONSTANT + rb"|\((?>" + _CONSTANT + rb"{0,999})\)){1,999}))"
_TOKEN = re.compile(rb"\s*+(?:" + _ANY + rb")", re.DOTALL)
_SKIMMED = re.compile(rb"\s*+(?:" + _DULL + rb"|" + _ANY + rb")", re.DOTALL)
_CONTINUED, _COMMENT_EDGE = re.compile(_ESCAPED, re.DOTALL), re.compile(rb"/\*|\*/")
# Bytes in a literal whose meaning depends on a setting that all backends share.
AMBIGUOUS = re.compile(rb"[\\\x80-\xff]")
_NEAR = rb"[A-Za-z0-9_$'\".\x80-\xff\0]"
_GLUED = re.compile(rb"\0(?:" + _NEAR + rb"|(?<=" + _NEAR + rb"\0)|(?<=[uU]&\0)(?<!" + _IN_WORD + rb"[uU]&\0))")


@dataclass(frozen=True, slots=True)
class Traits:
    """What a statement's text shows."""

    verb: str  # the first statement's first keyword in upper case, parentheses skipped; "" if there is none
    obstacle: str  # why it cannot be prepared with the same meaning; "" if nothing speaks against trying
    writes: bool  # some statement may write, or assigns a transaction id as SELECT ... FOR UPDATE does
    is_copy: bool  # some statement is COPY
    is_several: bool  # more than one statement; a ';' with nothing behind it makes no second one
    is_empty: bool  # nothing but blanks, comments and ';'
    controls_transaction: bool  # some statement begins, divides or ends a transaction: see _TRANSACTION
    tokens: int = field(default=0, compare=False)  # how many were read
    is_read: bool = True  # False if it has more than MAX_TOKENS: nothing is known of the rest

    @property
    def is_plain(self) -> bool:
        """Whether it is a single statement that PostgreSQL can plan, so it may share a transaction with others."""
        return self.is_read and not self.is_several and self.verb.encode() in _PREPARABLE


def examine(statement: bytes, types: bytes) -> Traits:
    """The traits of a statement with NUL for each parameter; types holds 4 bytes of type OID for each."""
    statements, positions, previous = _Statements(), _Positions(types), b""
    # The places of parameters matter only if the text has any and may be prepared.
    is_skimmed = len(statement) > MAX_BYTES or 0 not in statement or statement.count(0) > MAX_PARAMETERS
    count = 0
    for kind, text, _, _ in tokens(statement, is_skimmed):
        count += 1 if kind != "dull" else min(1 + len(text) // DULL_BYTES, DULL_TOKENS)
        if count > MAX_TOKENS:
            count = MAX_TOKENS + 1
            break
        word = text.upper() if kind == "word" and previous not in (b".", b"AS") else b""  # t.order, AS into: names
        statements.take(kind, text, word, previous)
        if not is_skimmed:
            positions.take(text, word, previous)
        previous = word or text
    positions.take(b";", b"", previous)
    return Traits(
        verb=statements.verb.decode(errors="replace"),
        obstacle=_obstacle(statement, statements, positions, count <= MAX_TOKENS),
        writes=statements.writes or count > MAX_TOKENS,
        is_copy=statements.is_copy,
        is_several=statements.count > 1,
        is_empty=statements.count == 0,
        controls_transaction=statements.controls_transaction,
        tokens=count,
        is_read=count <= MAX_TOKENS,
    )


def tokens(statement: bytes, is_skimmed: bool = False) -> Iterator[tuple[str, bytes, int, int]]:
    """The tokens in order, without blanks and comments: kind, text, begin, end.

    Kinds: word (keywords and names), name ("quoted"), number, parameter ($1), string ('...' and $$...$$; U&, N, B and X
    are tokens before it), escaped (E'...'), mark (any other byte). An unclosed token goes to the end of the text. With
    is_skimmed, constants, commas and operators in a row are one token of kind dull. If comments are nested too often,
    more than MAX_TOKENS marks follow, so that the text counts as too long.
    """
    end, escapes = 0, False  # escapes: the last token is an E'...', which a quote would continue
    while found := (_SKIMMED if is_skimmed and not escapes else _TOKEN).match(statement, end):
        kind = str(found.lastgroup)
        begin, end = found.span(kind)
        if kind in ("line", "block"):
            end = _comment_end(statement, begin) if kind == "block" else end
            if end < 0:
                yield from repeat(("mark", b"/", begin, begin + 1), MAX_TOKENS + 1)
                return
            continue
        if kind == "dollar":
            kind, closing = "string", statement.find(found[kind], end)
            end = len(statement) if closing < 0 else closing + end - begin
        elif kind == "string" and escapes and (continued := _CONTINUED.match(statement, begin)):
            kind, end = "escaped", continued.end()
        escapes = kind == "escaped"
        yield kind, statement[begin:end], begin, end


def _comment_end(statement: bytes, begin: int) -> int:
    """The end of the comment that begins there; comments nest. -1 if it takes too long to find."""
    depth = 0
    for number, edge in enumerate(_COMMENT_EDGE.finditer(statement, begin)):
        depth += 1 if edge[0] == b"/*" else -1
        if depth == 0:
            return edge.end()
        if number > MAX_TOKENS:
            return -1
    return len(statement)


class _Statements:
    """Tells the statements of a string apart, and notes what their verbs and words show."""

    def __init__(self) -> None:
        self.count = 0  # statements that are not empty
        self.verb = b""  # the first one's
        self.writes = self.is_copy = self.controls_transaction = False
        self.makes_table = self.changes_settings = self.has_own_parameters = False
        # Of the statement being read: its verb, None before its first token, b"(" while there are only parentheses.
        self._verb: bytes | None = None
        self._depth = 0  # parentheses
        self._blocks = 0  # BEGIN ATOMIC of CREATE FUNCTION, and CASE within it: END closes either

    def take(self, kind: str, text: bytes, word: bytes, previous: bytes) -> None:
        """The next token; word is its keyword in upper case, b"" if it is none; previous is the one before."""
        if text == b";" and self._depth <= 0 and self._blocks == 0:
            self._verb = None
            return
        if self._verb is None:
            self._verb, self.count = b"(", self.count + 1
        self._depth += (text == b"(") - (text == b")")
        if self._verb != b"(":
            self._read(word, previous)
        elif text != b"(":
            self._begin(word)
        self.has_own_parameters |= kind == "parameter"
        self.changes_settings |= text.lower() in (b"set_config", b'"set_config"')

    def _begin(self, verb: bytes) -> None:
        self._verb = verb
        self.verb = verb[:63] if self.count == 1 else self.verb  # cut as PostgreSQL cuts names
        self.writes |= verb not in _READING
        self.is_copy |= verb == b"COPY"
        self.controls_transaction |= verb in _TRANSACTION

    def _read(self, word: bytes, previous: bytes) -> None:
        self.makes_table |= word == b"INTO" and previous not in (b"INSERT", b"MERGE")
        locks = word in (b"UPDATE", b"SHARE") and previous in (b"FOR", b"KEY")
        self.writes |= self.makes_table or locks or (word in _MODIFYING and self._verb in (b"EXPLAIN", b"WITH"))
        self.controls_transaction |= word == b"TRANSACTION" and previous == self._verb == b"PREPARE"
        if self._blocks:
            self._blocks += (word == b"CASE") - (word == b"END")
        elif word == b"ATOMIC" and previous == b"BEGIN" and self._verb == b"CREATE":
            self._blocks = 1


class _Positions:
    """Looks for a number that is a whole element of an ORDER BY, GROUP BY or DISTINCT ON list.

    PostgreSQL ignores parentheses around the number, and folds a minus into it. Lists in OVER (...) and array_agg(...)
    have no column positions but are treated alike, as nobody writes a number there.
    """

    def __init__(self, types: bytes) -> None:
        self.found = False
        self.parameters = 0  # so far
        self._types = types
        self._is_list = False  # commas within these parentheses divide elements of such a list
        self._is_inner = False  # the list began outside of these parentheses: GROUP BY (a, b)
        self._outer: list[tuple[bool, bool]] = []  # these two of each parenthesis or bracket around
        self._is_start = False  # an element may begin here
        self._is_number = False  # the last token is a number that began an element, which may go on

    def take(self, text: bytes, word: bytes, previous: bytes) -> None:
        """The next token, as for _Statements; ';' also at the very end."""
        is_start, self._is_start = self._is_start, False
        was_number, self._is_number = self._is_number, False
        if word:
            self.found |= was_number and word not in _CONTINUING
            self._read(word, previous, is_start)
        elif text == b"\0":
            self._is_number = is_start and self._types[4 * self.parameters : 4 * self.parameters + 4] in _NUMBERS
            self.parameters += 1
        elif text in (b"(", b"["):
            self._outer.append((self._is_list, self._is_inner))
            self._is_start = is_start and text == b"("
            self._is_list, self._is_inner = self._is_start, self._is_start and self._is_list
        elif text in (b")", b"]"):
            self._is_number = was_number and self._is_inner
            self.found |= was_number and not self._is_inner
            self._is_list, self._is_inner = self._outer.pop() if self._outer else (False, False)
        elif text in (b",", b";"):
            self.found |= was_number
            self._is_start = self._is_list
        else:
            self._is_start = is_start and text == b"-"

    def _read(self, word: bytes, previous: bytes, is_start: bool) -> None:
        if word == b"BY" and previous in (b"ORDER", b"GROUP"):
            self._is_list, self._is_inner, self._is_start = True, False, True
        elif word == b"ON" and previous == b"DISTINCT":
            self._is_start = True
        elif word in _ENDING:
            self._is_list = False
        else:
            self._is_start = is_start and word in _GROUPING


# The fields decide how a literal is read: '5'::interval day is five days, but $1::interval day is five seconds.
_FIELDS = re.compile(rb"\binterval\s+(?:year|month|day|hour|minute|second)\b", re.IGNORECASE)


def _obstacle(statement: bytes, statements: _Statements, positions: _Positions, is_read: bool) -> str:
    parameters = statement.count(0)
    if len(statement) > MAX_BYTES:
        return "too long to keep"  # so it is not looked at any further
    if not is_read:
        return "too long to be read"
    obstacles = (
        (parameters > MAX_PARAMETERS, "too many parameters"),
        (statements.count == 0, "empty"),
        (statements.count > 1, "several statements"),
        (statements.verb not in _PREPARABLE, "not a statement that can be prepared"),
        (statements.has_own_parameters, "$1 in the text"),
        (parameters > positions.parameters, "a parameter inside a string, quoted name or comment"),
        (_GLUED.search(statement) is not None, "a parameter glued to another token"),
        (positions.found, "a parameter for a column position"),
        (parameters > 0 and _FIELDS.search(statement) is not None, "an interval with fields"),
        (statements.makes_table, "SELECT INTO makes a table"),
        (statements.changes_settings, "changes settings"),
    )
    return next((text for is_so, text in obstacles if is_so), "")
