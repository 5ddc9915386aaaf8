"""Statements without the values in them: for people, in logs, traces and figures, and to count what differs by values.

Whatever could be a value becomes `?`: strings of all kinds, numbers with their sign, what SET gives a setting, a
password. Comments go, as programs write values there too. In doubt the rest of the text is hidden: from the first
string on if a quote is not closed, or a word follows at once; behind a string with a backslash before a quote, which
whoever wrote the statement may have taken for an escape. Names and keywords stay, so a program that writes a value
without any quotes shows it, unless it stands where only a value can.

The text is read in tokens as PostgreSQL's scanner does, with standard_conforming_strings on as in all backends; one
step takes all up to the next token that is not simply kept. Time is linear in what is read, which is limited.

https://www.postgresql.org/docs/current/sql-syntax-lexical.html
"""

import re
from functools import lru_cache
from itertools import count, islice

# Bytes of a statement that are read, and of what is shown; of one that is longer than either "..." stands for the rest.
MOST_READ = 8192
LONGEST_SHOWN = 1000
# Of a statement that is counted less is read: that is done once for each text, and a program that writes its values
# into its statements sends ever new ones. A token that begins before the limit is read to its end.
MOST_COUNTED = 1024
# Parts of one token that are read: of a string between doubled quotes, of a comment between its edges. What has more
# hides the rest.
MOST_PARTS = 1000
# Statements whose texts are kept.
TEXTS_KEPT = 256

_HIDDEN = b"..."
_IN_WORD = rb"[A-Za-z0-9_$\x80-\xff]"
_WORD = rb"[A-Za-z_\x80-\xff]" + _IN_WORD + rb"*+"
_NAME = rb"(?:\"[^\"]*+\"|" + _WORD + rb")"
# What is kept, then a token that is not. No alternative that is repeated fails half-way: Python 3.11.2 has an error
# there, so what must not follow is looked for first.
_STEP = re.compile(
    rb"(?P<kept>(?:" + _WORD + rb"|[^A-Za-z_\x80-\xff0-9\s\0'\"$./-]++"
    rb"|(?! (?:\s|--|/\*|\Z)) |(?!\.[0-9])\.|(?!--)-|(?!/\*)/|(?=\"[^\"]*+\")\"[^\"]*+\")*+)"
    rb"(?:(?P<blank>(?:\s++|(?=--)-[^\r\n]*+)++)"
    rb"|(?P<string>'[^'\\]*+'(?=[),;:=\]]| [^\s'-]))"
    rb"|(?P<quote>')"
    rb"|(?P<number>\.?[0-9](?:(?=[eE][+-][0-9])[eE][+-]|[0-9A-Za-z_.\x80-\xff])*+)"
    rb"|(?P<value>\0)"
    rb"|(?P<comment>/\*)"
    rb"|(?P<dollar>\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*+)?\$)"
    rb"|(?P<parameter>\$[0-9]++)(?!" + _IN_WORD + rb")"
    rb"|(?P<junk>\$[0-9]++[A-Za-z0-9_\x80-\xff]++)"
    rb"|(?P<open>\")"
    rb"|(?P<end>\Z)"
    rb"|(?P<mark>.))",
    re.DOTALL,
)
_PREFIX = re.compile(rb"(?<!" + _IN_WORD + rb")([bBeEnNxX]|[uU]&)\Z")
_EDGE = re.compile(rb"/\*|\*/")
# The inside of E'...' up to the first quote that is not escaped.
_ESCAPED = re.compile(rb"(?:[^'\\]++|\\(?:.|\Z))*+", re.DOTALL)
# A string goes on behind the end of a line; each part is of the first one's kind.
_GOES_ON = re.compile(rb"[^\S\r\n]*+(?:--[^\r\n]*+)?[\r\n](?:\s++|(?=--)-[^\r\n]*+)*+'")
_GLUED = re.compile(rb"[A-Za-z0-9_\x80-\xff]")  # behind a string: one of its quotes is rather part of a value
_ESCAPE_CLAUSE = re.compile(rb"(?i:ESCAPE) ?\Z")

# How many values a list has, and how many rows, is no part of what the statement is.
_VALUES = re.compile(rb"(\?|\$[0-9]+)(?: ?, ?(?:\?|\$[0-9]+)){2,}+")
_LISTED = re.compile(rb"\?(?: ?, ?\?)++")
_ROW = rb"\( ?(?:\?|\$[0-9]+)(?: ?, ?(?:\?|\$[0-9]+|\.\.\.))*+ ?\)"
_ROWS = re.compile(rb"(%b)(?: ?, ?%b)++" % (_ROW, _ROW))
_SIGN = re.compile(rb"(?<=[(,=<>])( ?)- ?(?=[?\0])")

# Where settings are given values. No `;` is in what is left of a statement but at its end.
_MAY_SET = re.compile(rb"(?i)(?:\A|;)[^\w;]*+(?:SET|ALTER|CREATE)\b")
_TOKEN = re.compile(rb"\"[^\"]*+\"|;|" + _WORD)
_PATH = _NAME + rb"(?: ?\. ?" + _NAME + rb")*+"
# Behind SET. In most statements it needs a `=` or TO to be one of settings.
_ASSIGNED = re.compile(rb"(?i) ?(?:" + _PATH + rb" ?(?:=|TO\b)|TIME ZONE\b) ?")
_SET = re.compile(
    rb"(?i) ?(?:(?:LOCAL|SESSION)\b(?! ?[.=]) ?)?"
    rb"(?:(?P<kept>(?:TRANSACTION|CHARACTERISTICS|CONSTRAINTS|ROLE|AUTHORIZATION)\b(?! ?(?:[.=]|TO\b)))"
    rb"|TIME ZONE\b|(?:" + _PATH + rb")?(?: ?(?:=|TO\b))?) ?"
)
_PASSWORD = re.compile(rb" ?(?=[^\s?;])(?!(?i:NULL)\b)")
_WITH_SETTINGS = (b"ROLE", b"USER", b"GROUP", b"DATABASE", b"SYSTEM")
_WITH_PASSWORDS = (b"ROLE", b"USER", b"GROUP")

# Names that programs number, one for each use: of savepoints and cursors.
_NUMBERED = re.compile(
    rb"(?i)((?:\A|;) ?(?:SAVEPOINT|RELEASE(?: SAVEPOINT)?|ROLLBACK(?: WORK| TRANSACTION)? TO(?: SAVEPOINT)?"
    rb"|DECLARE|CLOSE|DEALLOCATE(?: PREPARE)?|(?:FETCH|MOVE)(?: [A-Za-z?-]++(?= ))*) )(" + _NAME + rb")"
)
_DIGITS = re.compile(rb"(?<=[_-])[0-9a-f]*[0-9][0-9a-f]*(?![A-Za-z0-9])|[0-9]+")


def masked(statement: bytes) -> str:
    """Return what is to be shown of a statement; NUL, which stands for each parameter, becomes $1, $2, ..."""
    return _masked(statement[:MOST_READ], len(statement) > MOST_READ)


def shape(statement: bytes) -> bytes:
    """Return what a statement has in common with those that differ from it by values alone, by which it is counted.

    Parameters are values here like others, and so are the numbers in the names of savepoints and cursors.
    """
    shown = _without_settings(_without_values(statement, MOST_COUNTED)).replace(b"\0", b"?")
    shown = _ROWS.sub(rb"\1, ...", _LISTED.sub(b"?, ...", shown)).strip(b" ;")
    return _NUMBERED.sub(_without_digits, shown)


@lru_cache(maxsize=TEXTS_KEPT)
def _masked(text: bytes, is_cut: bool) -> str:
    numbers = count(1)
    shown = _without_settings(_without_values(text, MOST_READ) + (_HIDDEN if is_cut else b"")).strip(b" ")
    shown = b"".join(
        [b"$%d" % next(numbers) + part if place else part for place, part in enumerate(shown.split(b"\0"))]
    )
    shown = _ROWS.sub(rb"\1, ...", _VALUES.sub(rb"\1, ...", shown))
    if len(shown) > LONGEST_SHOWN:
        shown = shown[:LONGEST_SHOWN] + _HIDDEN
    return shown.decode("utf-8", "replace")


def _without_values(text: bytes, limit: int) -> bytes:
    """Return the text with `?` for each value that it holds, NUL for each parameter, and one blank where any are."""
    parts: list[bytes] = []
    at, is_blank, size = 0, False, min(len(text), limit)
    first_string: int | None = None
    while at < size:
        found = _STEP.match(text, at, size)
        assert found is not None  # a mark is any byte
        kind, kept, start, at = found.lastgroup, found[1], found.end(1), found.end()
        if kept:
            if is_blank and parts and kept[:1] != b" ":
                parts.append(b" ")
            is_blank = False
            parts.append(kept)
        if kind == "blank" or kind == "comment":
            is_blank = True
            at = _comment_end(text, at) if kind == "comment" else at
            continue
        if is_blank and parts:
            parts.append(b" ")
        is_blank = False
        if kind == "string":  # the usual one: in one part, and nothing in it or behind it is in doubt
            if kept and (prefix := _prefix(kept)):
                parts[-1] = kept[:-prefix]
            first_string = len(parts) if first_string is None else first_string
            parts.append(b"?")
        elif kind == "quote":
            prefix = _prefix(kept)
            is_escaped = prefix == 1 and kept[-1:] in b"eE"
            if prefix:
                parts[-1] = kept[:-prefix]
            first_string = len(parts) if first_string is None else first_string
            at = _string_end(text, at, is_escaped)
            if at < 0 or _GLUED.match(text, at):
                # Which side of each quote is the value is not certain.
                return b"".join(parts[:first_string]) + _HIDDEN
            if not is_escaped and text.find(b"\\'", start, at) >= 0 and not _is_escape_clause(parts, text[start:at]):
                return b"".join(parts) + b"? " + _HIDDEN
            parts.append(b"?")
        elif kind == "dollar":
            close = text.find(found[0][-(at - start) :], at)
            if close < 0:
                return b"".join(parts) + _HIDDEN
            parts.append(b"?")
            at = close + at - start
        elif kind == "open" and text.find(b'"', at) < 0:
            return b"".join(parts if first_string is None else parts[:first_string]) + _HIDDEN
        elif kind == "open":
            at = size  # where it ends is behind the limit
            parts.append(_HIDDEN)
        elif kind == "value":
            parts.append(b"\0")
        else:
            parts.append(b"?" if kind in ("number", "junk") else text[start:at])
    shown = _SIGN.sub(rb"\1", b"".join(parts))
    return shown if at >= len(text) or shown.endswith(_HIDDEN) else shown + b" " + _HIDDEN


def _is_escape_clause(parts: list[bytes], string: bytes) -> bool:
    """Whether the string can be nothing else than what stands behind ESCAPE."""
    return string == b"'\\'" and _ESCAPE_CLAUSE.search(b"".join(parts[-2:])) is not None


def _prefix(kept: bytes) -> int:
    """Return how many bytes before a string say of which kind it is."""
    found = _PREFIX.search(kept[-3:])
    return len(found[1]) if found is not None else 0


def _string_end(text: bytes, at: int, is_escaped: bool) -> int:
    """Return where the string whose inside begins here ends, with all of its parts; -1 if that cannot be found."""
    for _ in range(MOST_PARTS):
        if is_escaped:
            found = _ESCAPED.match(text, at, at + MOST_READ)
            assert found is not None  # it may be empty
            at = found.end() if found.end() < min(at + MOST_READ, len(text)) else -1
        else:
            at = text.find(b"'", at)
        if at < 0:
            return -1
        at += 1
        if text[at : at + 1] == b"'":
            at += 1  # a doubled quote is one in the string
        elif (more := _GOES_ON.match(text, at)) is not None:
            at = more.end()
        else:
            return at
    return -1


def _comment_end(text: bytes, at: int) -> int:
    """Return where the comment whose inside begins here ends; they nest, and one that does not end hides the rest."""
    depth = 1
    for edge in islice(_EDGE.finditer(text, at), MOST_PARTS):
        depth += 1 if edge[0] == b"/*" else -1
        if not depth:
            return edge.end()
    return len(text)


def _without_settings(text: bytes) -> bytes:
    """Return the text, in which values of other forms are `?`, with `?` for those that settings are given."""
    if _MAY_SET.search(text) is None:
        return text
    parts: list[bytes] = []
    words: list[bytes] = []  # the first two of the statement, without those of CREATE OR REPLACE
    shown = 0  # up to where the text is in the parts
    hidden: int | None = None  # from where on the statement is hidden
    for token in _TOKEN.finditer(text):
        word = token[0].upper()
        if word == b";":
            shown = _hide(text, parts, shown, hidden, token.start())
            words, hidden = [], None
            continue
        if hidden is not None or token.end() < shown:
            continue
        if len(words) < 2 and word not in (b"OR", b"REPLACE"):
            words.append(word)
        verb, what = words[0] if words else b"", words[-1] if words else b""
        if word == b"SET":
            is_setting = len(words) == 1 or (verb == b"ALTER" and what in _WITH_SETTINGS)
            if is_setting and verb in (b"SET", b"ALTER"):
                found = _SET.match(text, token.end())
            else:
                found = _ASSIGNED.match(text, token.end()) if verb in (b"ALTER", b"CREATE") else None
            if found is not None and not found.groupdict().get("kept"):
                hidden = found.end()
        elif word == b"PASSWORD" and verb in (b"ALTER", b"CREATE") and what in _WITH_PASSWORDS:
            found = _PASSWORD.match(text, token.end())
            hidden = found.end() if found is not None else None
    shown = _hide(text, parts, shown, hidden, len(text))
    return b"".join(parts) + text[shown:]


def _hide(text: bytes, parts: list[bytes], shown: int, hidden: int | None, end: int) -> int:
    """Add the text up to where it is hidden, and `?` if anything is. Return up to where the text is in the parts."""
    if hidden is None or not text[hidden:end].strip():
        return shown
    parts += (text[shown:hidden], b"?" if text[hidden - 1 : hidden] in b" =" else b" ?")
    return end


def _without_digits(found: re.Match[bytes]) -> bytes:
    return found[1] + _DIGITS.sub(b"?", found[2])
