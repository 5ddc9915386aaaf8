"""PostgreSQL's errors and notices as text and fields, as libpq and psycopg2 give them.

The body of ErrorResponse and NoticeResponse is a list of fields, each a letter and a string:
https://www.postgresql.org/docs/current/protocol-error-fields.html. From these libpq makes the text that psycopg2 shows,
with the line of the statement where it went wrong and a mark under the place (PQresultErrorMessage, default verbosity).
"""

from __future__ import annotations

import re

from client.wire.messages import FAILED, Failure, TransactionStatus
from poold.postgres.libpq import columns

# Letters of the fields and psycopg2.extensions.Diagnostics' names for them.
NAMES = {
    "S": "severity",
    "V": "severity_nonlocalized",
    "C": "sqlstate",
    "M": "message_primary",
    "D": "message_detail",
    "H": "message_hint",
    "P": "statement_position",
    "p": "internal_position",
    "q": "internal_query",
    "W": "context",
    "s": "schema_name",
    "t": "table_name",
    "c": "column_name",
    "d": "datatype_name",
    "n": "constraint_name",
    "F": "source_file",
    "L": "source_line",
    "R": "source_function",
}
# A character's number from 1; in no statement it has more than ten digits.
_POSITION = re.compile("[1-9][0-9]{0,9}")
# How much of a long line is shown, and how close to its right end the place may come; libpq's numbers.
_SHOWN = 60
_RIGHT = 10


def fields(body: bytes) -> dict[str, str]:
    """Return the fields of an ErrorResponse or NoticeResponse by psycopg2's names; unknown letters are left out."""
    found = {}
    for part in body.split(b"\0"):
        name = NAMES.get(chr(part[0])) if part else None
        if name is not None:
            found[name] = part[1:].decode("utf-8", "replace")
    return found


def failure(body: bytes, transaction: TransactionStatus, sql: bytes | None, notices: tuple[str, ...]) -> Failure:
    """Return the error as a Failure; sql is the statement's text, None if it is not known."""
    diag = fields(body)
    kind = "connection" if is_fatal(diag) else "query"
    return Failure(0, transaction, kind, FAILED, _text(diag, sql), diag.get("sqlstate"), diag, notices)


def is_fatal(diag: dict[str, str]) -> bool:
    """Whether PostgreSQL closes the connection after this error."""
    return diag.get("severity_nonlocalized", diag.get("severity")) in ("FATAL", "PANIC")


def has_position(body: bytes) -> bool:
    """Whether the error or notice names a position in the statement's text."""
    return b"\0P" in body or body[:1] == b"P"


def notice(body: bytes, sql: bytes | None) -> str:
    """Return a notice as in psycopg2's connection.notices; sql is the statement's text, None if it is not known."""
    diag = fields(body)
    diag.pop("context", None)  # libpq shows it for errors only
    return f"{diag.get('severity', 'NOTICE')}:  {_text(diag, sql)}"


def _text(diag: dict[str, str], sql: bytes | None) -> str:
    text = diag.get("message_primary", "")
    position, query = diag.get("statement_position"), None
    if position is None:
        position, query = diag.get("internal_position"), diag.get("internal_query")
    elif sql is not None:
        query = sql.decode("utf-8", "replace")
    place = ""
    if position is not None and _POSITION.fullmatch(position):
        if query is None:
            text += f" at character {position}"
        else:
            place = _place(query, int(position))
    text += "\n" + place
    for name, title in (
        ("message_detail", "DETAIL"),
        ("message_hint", "HINT"),
        ("internal_query", "QUERY"),
        ("context", "CONTEXT"),
    ):
        if name in diag:
            text += f"{title}:  {diag[name]}\n"
    return text


def _place(query: str, position: int) -> str:
    """Return the line of the query that holds the character at position (from 1), and a mark under it."""
    place = position - 1
    if place > len(query):
        return ""
    # As libpq: tabs count as blanks, and a line ends with either character or both.
    number = query.count("\n", 0, place) + query.count("\r", 0, place) - query.count("\r\n", 0, place) + 1
    start = max(query.rfind("\n", 0, place), query.rfind("\r", 0, place)) + 1
    ends = [end for end in (query.find("\n", place), query.find("\r", place)) if end >= 0]
    line = query[start : min(ends, default=len(query))].replace("\t", " ")
    at = place - start
    begin, end = 0, len(line)
    # Each character has at least one column, so no more than that many characters need to be looked at.
    if columns(line[: _SHOWN + 1]) > _SHOWN:
        # Cut on the right, unless that would bring the place too close to the end; then on the left.
        if columns(line[: min(at, _SHOWN)]) + _RIGHT <= _SHOWN:
            end = min(end, _SHOWN)
            while columns(line[:end]) > _SHOWN:
                end -= 1
        else:
            end = min(end, at + _RIGHT)
            while columns(line[at:end]) > _RIGHT:
                end -= 1
            begin = max(0, end - _SHOWN)
            while columns(line[begin:end]) > _SHOWN:
                begin += 1
    head = f"LINE {number}: " + ("..." if begin > 0 else "")
    tail = "..." if end < len(line) else ""
    mark = " " * (columns(head) + columns(line[begin:at]))
    return f"{head}{line[begin:end]}{tail}\n{mark}^\n"
