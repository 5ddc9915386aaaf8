"""How many statements a text holds, by its tokens alone: PostgreSQL would run all of them, one after the other.

https://www.postgresql.org/docs/current/sql-syntax-lexical.html, with standard_conforming_strings on, as all backends
have it.
"""

import re

# The rest of a string, behind its first quote. Two parts with the end of a line between them are one string.
_ESCAPED = rb"'(?:[^'\\]|\\.|'')*(?:'\s*[\n\r]\s*'(?:[^'\\]|\\.|'')*)*'?"
_TOKEN = re.compile(
    rb"(?P<blank>\s+|--[^\n\r]*)|(?P<comment>/\*)|(?P<dollar>\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$)"
    rb"|(?P<end>;)|[eE]" + _ESCAPED + rb"|[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*|'[^']*'?|\"[^\"]*\"?|.",
    re.DOTALL,
)
_EDGE = re.compile(rb"/\*|\*/")


def is_single(sql: bytes) -> bool:
    """Whether nothing but blanks, comments and semicolons follows the first semicolon."""
    at, has_ended = 0, False
    while at < len(sql):
        token = _TOKEN.match(sql, at)
        assert token is not None  # any byte is one
        kind, at = token.lastgroup, token.end()
        if kind == "comment":
            at = _behind_comment(sql, at)
        elif kind == "end":
            has_ended = True
        elif kind != "blank":
            if has_ended:
                return False
            if kind == "dollar":
                end = sql.find(token[0], at)
                at = len(sql) if end < 0 else end + len(token[0])
    return True


def _behind_comment(sql: bytes, at: int) -> int:
    """Return where the comment, which may have others in it, ends."""
    depth = 1
    for edge in _EDGE.finditer(sql, at):
        depth += 1 if edge[0] == b"/*" else -1
        if not depth:
            return edge.end()
    return len(sql)
