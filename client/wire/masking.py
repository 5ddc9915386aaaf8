"""Statements for people to read, in logs and traces: short, in one line, and without the values in them.

Whatever could be a value becomes `?`: strings of all kinds, numbers, the value of SET. Comments go, as programs write
values there too. In doubt the rest of the text is hidden: from the first string on if a quote is not closed, or a word
follows at once; behind a string with a backslash before a quote, which whoever wrote the statement may have taken for
an escape. Names and keywords stay, so a program that writes a value without any quotes shows it.

Time is linear in what is read, which is limited.
"""

import re
from functools import lru_cache
from itertools import count

# Bytes of a statement that are read, and of what is shown; of one that is longer than either "..." stands for the rest.
MOST_READ = 8192
LONGEST_SHOWN = 1000
# Statements whose texts are kept.
TEXTS_KEPT = 256

_HIDDEN = b"..."
_TOKEN = re.compile(
    rb"(?P<blank>\s++|--[^\r\n]*+)"
    rb"|(?P<comment>/\*)"
    rb"|(?P<dollar>\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*+)?\$)"
    rb"|(?P<escaped>[eE]'(?:[^'\\]++|\\.|'')*+')"
    rb"|(?P<string>(?:[bBnNxX]|[uU]&)?'(?:[^']++|'')*+')"
    rb"|(?P<name>(?:[uU]&)?\"[^\"]*+\")"
    rb"|(?P<value>\0)"
    rb"|(?P<word>[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*+)"
    rb"|(?P<parameter>\$[0-9]++)"
    rb"|(?P<number>\.?[0-9][0-9A-Za-z_.]*+)"
    rb"|(?P<quote>['\"])"
    rb"|(?P<mark>.)",
    re.DOTALL,
)
_GLUED = re.compile(rb"[A-Za-z0-9_\x80-\xff]")  # behind a string: one of its quotes is rather part of a value
_EDGE = re.compile(rb"/\*|\*/")
# How many values a list has, and how many rows, is no part of what the statement is.
_VALUES = re.compile(rb"(\?|\$[0-9]+)(?: ?, ?(?:\?|\$[0-9]+)){2,}+")
_ROW = rb"\( ?(?:\?|\$[0-9]+)(?: ?, ?(?:\?|\$[0-9]+|\.\.\.))*+ ?\)"
_ROWS = re.compile(rb"(%b)(?: ?, ?%b)++" % (_ROW, _ROW))
_SETTING = re.compile(rb"((?:\A|;) ?(?:SET|ALTER\b[^;]*?\bSET) [^;=]*?(?:=|\bTO ) ?)[^;]++", re.IGNORECASE)


def masked(statement: bytes) -> str:
    """Return what is to be shown of a statement; NUL, which stands for each parameter, becomes $1, $2, ..."""
    return _masked(statement[:MOST_READ], len(statement) > MOST_READ)


@lru_cache(maxsize=TEXTS_KEPT)
def _masked(text: bytes, is_cut: bool) -> str:
    shown = b"".join(_parts(text)) + (_HIDDEN if is_cut else b"")
    shown = _ROWS.sub(rb"\1, ...", _VALUES.sub(rb"\1, ...", shown))
    if len(shown) > LONGEST_SHOWN:
        shown = shown[:LONGEST_SHOWN] + _HIDDEN
    return _SETTING.sub(rb"\1?", shown).decode("utf-8", "replace")


def _parts(text: bytes) -> list[bytes]:
    """Return the text's tokens, with one blank where there are any, masked."""
    numbers = count(1)
    parts: list[bytes] = []
    at, is_blank = 0, False
    first_string: int | None = None
    while at < len(text):
        found = _TOKEN.match(text, at)
        assert found is not None  # a mark is any byte
        kind, raw, at = found.lastgroup, found[0], found.end()
        if kind in ("blank", "comment"):
            is_blank = True
            at = _comment_end(text, at) if kind == "comment" else at
            continue
        if is_blank and parts:
            parts.append(b" ")
        is_blank = False
        if kind in ("escaped", "string"):
            first_string = len(parts) if first_string is None else first_string
            if _GLUED.match(text, at):
                return [*parts[:first_string], _HIDDEN]
        if kind == "dollar":
            end = text.find(raw, at)
            parts.append(b"?" if end >= 0 else _HIDDEN)
            at = end + len(raw) if end >= 0 else len(text)
        elif kind == "quote":
            # Which side of each quote is the value is not certain.
            return [*parts[:first_string], _HIDDEN]
        elif kind == "string" and b"\\'" in raw:
            parts += (b"? ", _HIDDEN)
            break
        elif kind == "value":
            parts.append(b"$%d" % next(numbers))
        else:
            parts.append(b"?" if kind in ("escaped", "string", "number") else raw)
    return parts


def _comment_end(text: bytes, at: int) -> int:
    """Return where the comment whose inside begins here ends; they nest, and one that does not end hides the rest."""
    depth = 1
    for edge in _EDGE.finditer(text, at):
        depth += 1 if edge[0] == b"/*" else -1
        if not depth:
            return edge.end()
    return len(text)
