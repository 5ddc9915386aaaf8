"""Tags of requests in PostgreSQL: in pg_stat_activity, and in the server's own log.

A group's show_tags says how. With "application_name" the tag is a setting that travels ahead of the statement, in the
same round trip and in the same transaction, and ends with it. With "comment" it is part of the statement's text, so
each statement is another one for each tag: prepared, proven and kept as such. A traceparent is another one for each
request; so a request whose trace is recorded runs with literals.

A tag is a client's, and is written so that it can mean nothing else: in a setting only harmless characters stay, in a
comment all others are percent-encoded, as sqlcommenter does.

https://google.github.io/sqlcommenter/spec/
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from client.wire.origins import is_traced, traceparent_in
from poold.core.effects import Plain

if TYPE_CHECKING:
    from poold.core.records.request import Request

OFF, APPLICATION_NAME, COMMENT = "off", "application_name", "comment"
SETTING = b"application_name"
PREFIX = b"poold:"
# Of PostgreSQL's names, NAMEDATALEN - 1.
MOST_BYTES = 63
# Tags of which the written form is kept.
TAGS_KEPT = 1024

_UNSAFE = re.compile(r"[^A-Za-z0-9 _.,:;/@+#=()\[\]{}<>!?*&|~^-]")
_ENCODED = re.compile(rb"[^A-Za-z0-9_.~-]")
_END = b"*/"


def comment_of(show_tags: str, tag: str) -> bytes:
    """What is added to the text of the statements of a request with this tag; b"" for nothing."""
    return _comment(b"tag", tag) if tag and show_tags == COMMENT else b""


def attach(request: Request) -> None:
    """Note in an admitted request how its tag is shown."""
    show_tags, tag = request.group.config.show_tags, request.tag
    if show_tags == OFF:
        return
    request.is_shown = bool(tag) or is_traced(request.origin)
    if show_tags == APPLICATION_NAME and tag:
        request.label = _label(tag)
        if request.script is not None:
            request.script.label = request.label
    elif show_tags == COMMENT and request.script is None and is_traced(request.origin):
        request.prepare = False


def commented(request: Request, text: bytes) -> bytes:
    """The text of a single statement with literals, with the request's traceparent if the group shows such."""
    if not is_traced(request.origin) or request.group.config.show_tags != COMMENT:
        return text
    trace = _comment(b"traceparent", traceparent_in(request.origin))
    tag = comment_of(COMMENT, request.tag)
    if tag and text.endswith(tag):
        return text.removesuffix(_END) + b"," + trace.lstrip(b"\n/*")
    return text + trace


def set_locally(label: bytes) -> Plain:
    """The command that shows the label to the end of the transaction; no query, so SET TRANSACTION may follow it."""
    return Plain(b"SET LOCAL %b = '%b'" % (SETTING, label))


@lru_cache(maxsize=TAGS_KEPT)
def _label(tag: str) -> bytes:
    return (PREFIX + _UNSAFE.sub("?", tag).encode())[:MOST_BYTES]


@lru_cache(maxsize=TAGS_KEPT)
def _comment(key: bytes, value: str) -> bytes:
    # On a line of its own: the statement may end with a comment to the end of its line, and PostgreSQL's errors quote
    # the line in which they are.
    encoded = _ENCODED.sub(lambda found: b"%%%02X" % found[0][0], value.encode("utf-8", "replace"))
    return b"\n/*%b='%b'%b" % (key, encoded, _END)
