"""A statement's text without its values, so that what differs by values alone is one statement in the figures.

Constants and parameters become ?, lists of them one, comments are left out, blanks in a row are one. This is for
people and for counting: nothing is decided by it, so a text that is read wrongly is at worst counted by itself. Time is
linear, and limited by MASKED_BYTES: it is done once for each statement that a program sends, and a program that writes
its values into its statements sends ever new ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# What is behind so many bytes of a text is not looked at, and not shown.
MASKED_BYTES = 1024

_IN_WORD = rb"[A-Za-z0-9_$\x80-\xff]"
# What is kept, what is a blank, and what is a constant or a parameter; anything else is skipped, and so kept as well.
# It begins with a set of characters, as Python then looks for these first; the branches look back at what was found.
_TOKEN = re.compile(
    rb"[\s\"'0-9eE$./\0-](?:"
    rb"(?<=\0)"
    rb"|(?<=[0-9])(?<!" + _IN_WORD + rb"[0-9])[0-9]*+(?:\.[0-9]*+)?(?:[eE][+-]?[0-9]++)?"
    rb"|(?<=')(?:[^']++|'')*+'?"
    rb"|(?<=[eE])(?<!" + _IN_WORD + rb"[eE])'(?:[^'\\]++|\\(?:.|\Z)|'')*+'?"
    rb"|(?P<blank>(?:(?<=[\t\r\n])|(?<=\s)\s|(?<=-)-[^\n\r]*+|(?<=/)\*(?:[^*]++|\*(?!/))*+(?:\*/)?)\s*+)"
    rb"|(?P<kept>(?<=\")[^\"]*+\"?)"
    rb"|(?<=-)(?:(?<=[(,=<>]-)|(?<=[(,=<>] -))\s?(?=[0-9.])"
    rb"|(?<=\.)(?<!" + _IN_WORD + rb"\.)[0-9]++(?:[eE][+-]?[0-9]++)?"
    rb"|(?<=\$)(?<!" + _IN_WORD + rb"\$)(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*+)?\$)",
    re.DOTALL,
)
_BLANKS = re.compile(rb"  ++")
_LIST = re.compile(rb"\?(?: ?, ?\?)++")
_ROWS = re.compile(rb"(\(\?(?:, \.\.\.)?\))(?: ?, ?\(\?(?:, \.\.\.)?\))++")


def masked(statement: bytes) -> bytes:
    """The statement without its values."""
    text = _BLANKS.sub(b" ", _without_values(statement[:MASKED_BYTES]))
    text = _ROWS.sub(rb"\1, ...", _LIST.sub(b"?, ...", text)).strip(b" ;")
    return text if len(statement) <= MASKED_BYTES else text + b" ..."


def joined(texts: Iterable[bytes]) -> bytes:
    """Several masked statements as one text; what comes several times in a row stands there once."""
    found: list[bytes] = []
    size = 0
    for text in texts:
        if found and text == found[-1]:
            found.append(b"...")
        elif len(found) < 2 or found[-1] != b"..." or text != found[-2]:
            found.append(text)
            size += len(text)
        if size > MASKED_BYTES:
            found.append(b"...")
            break
    return b"; ".join(found)


def _without_values(text: bytes) -> bytes:
    """Replace each constant and parameter by ?, and what is no word by a blank."""
    parts: list[bytes] = []
    at = 0
    while (found := _TOKEN.search(text, at)) is not None:
        parts.append(text[at : found.start()])
        at = found.end()
        token, kind = found[0], found.lastgroup
        if kind is not None:
            parts.append(token if kind == "kept" else b" ")
        elif token[:1] != b"-":  # the sign of a number
            if token[:1] == b"$" and token[-1:] == b"$":
                close = text.find(token, at)
                at = len(text) if close < 0 else close + len(token)
            parts.append(b"?")
    parts.append(text[at:])
    return b"".join(parts)
