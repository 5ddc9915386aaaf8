"""The tokens of a statement as PostgreSQL reads them: quotes taken off, escapes decoded, parts of strings joined.

The value of a constant or a name cannot be searched for in the text: 'now' may also be written E'n\\x6fw',
U&'n\\006fw', $$now$$, or in two parts on two lines.

https://www.postgresql.org/docs/current/sql-syntax-lexical.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from client.wire.limits import RELIED_ON
from poold.core.statements.sql import MAX_TOKENS, tokens

WORD, NAME, STRING, OTHER = "word", "name", "string", "other"
_UESCAPE = (WORD, b"uescape")

# Words in a constant that PostgreSQL replaces by a point in time when it reads the constant.
_MOMENT = re.compile(rb"(?<![a-z])(?:now|today|tomorrow|yesterday)(?![a-z])", re.IGNORECASE)
# Settings on which every literal and every value relies; `names` is SET's other word for client_encoding.
RELIED_ON_WORDS = tuple(name.lower().encode() for name in RELIED_ON)
_RELIED_ON = re.compile(b"|".join(RELIED_ON_WORDS), re.IGNORECASE)
_MAY_SET = re.compile(rb"set|u&", re.IGNORECASE)
# In other spellings: with escapes, or in two parts.
_IN_PARTS = rb"'[^\S\r\n]*+(?:--[^\r\n]*+)?[\r\n]"
_MAY_NAME = re.compile(rb"names|u&|\\|" + _IN_PARTS + b"|" + b"|".join(RELIED_ON_WORDS), re.IGNORECASE)
_SCOPES = (b"local", b"session")
# Values that these have on each backend; dumps begin with statements that set them.
_HELD = {
    b"client_encoding": (b"utf8", b"utf-8"),
    b"names": (b"utf8", b"utf-8"),
    b"standard_conforming_strings": (b"on", b"true"),
}
_ENDS: tuple[list[tuple[str, bytes]], ...] = ([], [(OTHER, b";")])

_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_UNICODE = re.compile(rb"\\(?:([0-9A-Fa-f]{4})|\+([0-9A-Fa-f]{6})|(\\))")
_CONTROLS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
# Between two parts of one string: a line ends, comments to the end of a line may stand before that.
_LINE_BREAK = re.compile(rb"(?=[^\n\r]*+[\n\r])(?:\s|--[^\n\r]*+)*+")


def lexemes(statement: bytes) -> Iterator[tuple[str, bytes]]:
    """Kind and text of each token, of MAX_TOKENS at most: words in lower case, names and strings without quotes."""
    kind, end = "", -1  # of the string or name that may go on
    parts: list[bytes] = []  # its text, joined only at its end: joining at each part would copy all before
    is_unicode = False
    before: list[tuple[str, bytes, int]] = []  # U and &, which may begin a string or name
    for token, raw, begin, after in islice(tokens(statement), MAX_TOKENS):
        this = NAME if token == "name" else STRING if token in ("string", "escaped") else OTHER
        if this != OTHER:
            body = _body(token, raw)
            if kind == this and (begin == end or (this == STRING and _LINE_BREAK.fullmatch(statement, end, begin))):
                parts += (raw[:1], body) if begin == end else (body,)
                end = after
                continue
            if kind:
                yield kind, _joined(parts, is_unicode)
            is_unicode = len(before) == 2 and before[1][2] == begin
            if not is_unicode:
                yield from ((each, shown) for each, shown, _ in before)
            before = []
            kind, parts, end = this, [body], after
            continue
        if kind:
            yield kind, _joined(parts, is_unicode)
            kind = ""
        word = (WORD, raw.lower()) if token == "word" else (OTHER, raw)
        if (not before and word[1] == b"u") or (len(before) == 1 and raw == b"&" and before[0][2] == begin):
            before.append((*word, after))
            continue
        yield from ((each, shown) for each, shown, _ in before)
        before = [(*word, after)] if word[1] == b"u" else []
        if not before:
            yield word
    if kind:
        yield kind, _joined(parts, is_unicode)
    yield from ((each, shown) for each, shown, _ in before)


def names_moment(statement: bytes) -> bool:
    """Whether a constant in the statement may stand for the moment at which it is read."""
    if b"'" not in statement and b"$" not in statement:
        return False
    # With UESCAPE any character may take the place of the backslash.
    return any(
        _MOMENT.search(text) if kind == STRING else (kind, text) == _UESCAPE for kind, text in lexemes(statement)
    )


def holds_structure(statement: bytes) -> bool:
    """Whether a constant in the statement may be an array, a row or a range: reading one may run checks of domains."""
    if b"'" not in statement and b"$" not in statement:
        return False
    return any(
        text.lstrip()[:1] in (b"{", b"[", b"(") if kind == STRING else (kind, text) == _UESCAPE
        for kind, text in lexemes(statement)
    )


def sets_relied_on(statement: bytes) -> bool:
    """Whether the statement changes, as far as its text shows, a setting that literals and values rely on.

    SET to the value that it has is no change, if it is written plainly.
    """
    if not _MAY_SET.search(statement) or not _MAY_NAME.search(statement):
        return False
    is_named = is_hidden = may_set = has_target = is_update = False
    before, previous = b"", b""
    found = list(lexemes(statement))
    for place, (kind, text) in enumerate(found, 1):
        word = text.lower()
        if (kind, text) == (OTHER, b";"):
            is_update = False
            before = previous = b""
            continue
        if kind in (WORD, NAME):
            # In UPDATE and ON CONFLICT DO UPDATE a name after SET is a column.
            is_target = not is_update and (previous == b"set" or (before == b"set" and previous in _SCOPES))
            is_names = kind == WORD and word == b"names"
            if is_target and (word in RELIED_ON_WORDS or is_names) and not _is_held(word, found[place : place + 3]):
                return True
            may_set = may_set or word == b"set_config" or (kind == WORD and word == b"do" and not previous)
            is_update = is_update or (kind == WORD and word == b"update")
            may_set = may_set or (word == b"pg_settings" and is_update)
            has_target = has_target or is_target
        # With UESCAPE any name may be written unrecognizably.
        is_hidden = is_hidden or (kind, text) == _UESCAPE
        is_named = is_named or (kind == STRING and _RELIED_ON.search(text) is not None)
        before, previous = previous, word
    return (is_named and may_set) or (is_hidden and (may_set or has_target))


def _is_held(name: bytes, behind: list[tuple[str, bytes]]) -> bool:
    """Whether SET gives the setting of this name the value that it has; behind are the lexemes after the name."""
    if name != b"names":
        if behind[:1] not in ([(OTHER, b"=")], [(WORD, b"to")]):
            return False
        behind = behind[1:]
    values = [text.lower() for kind, text in behind[:1] if kind in (WORD, STRING)]
    return behind[1:2] in _ENDS and any(value in _HELD.get(name, ()) for value in values)


def _body(token: str, raw: bytes) -> bytes:
    """The text in the quotes of one part, escapes of E'...' decoded."""
    if raw[:1] == b"$":
        tag = raw[: raw.index(b"$", 1) + 1]
        return raw[len(tag) :].removesuffix(tag)
    if token == "escaped":
        raw = raw.lstrip(b"eE")
        return _ESCAPE.sub(_character, raw[1:].removesuffix(b"'"))
    return raw[1:].removesuffix(raw[:1])


def _character(found: re.Match[bytes]) -> bytes:
    octal, hexadecimal, short, long, other = found.groups()
    if octal:
        return bytes((int(octal, 8) & 255,))
    if hexadecimal:
        return bytes((int(hexadecimal, 16),))
    if other is not None:
        return _CONTROLS.get(other, other)
    return _encoded(int(short or long, 16))


def _joined(parts: list[bytes], is_unicode: bool) -> bytes:
    text = b"".join(parts)
    return _unescaped(text) if is_unicode else text


def _unescaped(text: bytes) -> bytes:
    return _UNICODE.sub(lambda found: found[3] or _encoded(int(found[1] or found[2], 16)), text)


def _encoded(point: int) -> bytes:
    return chr(point).encode("utf-8", "replace") if point < 0x110000 else b"?"
