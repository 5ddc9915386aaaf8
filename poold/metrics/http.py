"""HTTP/1.1 as far as `GET /metrics` needs it: the head of a request in, the bytes of a response out. Pure.

A request with a body is not read: whoever sends one is answered and disconnected. Nothing a stranger sends raises
anything; what is no request has a status as its answer.

https://www.rfc-editor.org/rfc/rfc9112
"""

from __future__ import annotations

import re
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple

from poold.metrics.exposition import Format

PATH = "/metrics"
# Of a request's head. Prometheus sends about 300.
MAX_HEAD_BYTES = 8192
END_OF_HEAD = b"\r\n\r\n"

_REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) ([!-~]+) HTTP/([0-9])\.([0-9])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_ABSOLUTE = re.compile(r"http://[^/?#]*", re.IGNORECASE)
_QUALITY = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
# What of a request is answered by a page.
_METHODS = ("GET", "HEAD")
_PLAIN = "text/plain; charset=utf-8"
_HINTS = {
    HTTPStatus.BAD_REQUEST: "this is no request of HTTP/1.1",
    HTTPStatus.NOT_FOUND: f"there is only {PATH}",
    HTTPStatus.METHOD_NOT_ALLOWED: "there is only GET and HEAD",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "a request has no body here",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"a request's head has at most {MAX_HEAD_BYTES} bytes",
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: "this is HTTP/1.1",
}


class Request(NamedTuple):
    """What is asked for."""

    status: HTTPStatus  # OK: the page; else the answer
    wanted: Format = Format.PROMETHEUS
    is_head: bool = False  # the answer is to be without its body
    is_kept: bool = False  # the connection goes on behind the answer


def read_head(head: bytes) -> Request:
    """Return what this head, with the empty line at its end, asks for."""
    lines = head.removesuffix(END_OF_HEAD).lstrip(b"\r\n").split(b"\r\n")
    first = _REQUEST_LINE.fullmatch(lines[0])
    if first is None:
        return Request(HTTPStatus.BAD_REQUEST)
    method, target = first[1].decode(), first[2].decode()
    is_head = method == "HEAD"
    if first[3] != b"1":
        return Request(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, is_head=is_head)
    is_newest = first[4] != b"0"
    fields: dict[str, list[str]] = {}
    for line in lines[1:]:
        found = _FIELD.fullmatch(line)
        if found is None:
            return Request(HTTPStatus.BAD_REQUEST, is_head=is_head)
        fields.setdefault(found[1].decode().lower(), []).append(found[2].decode("latin-1").strip(" \t"))
    if len(fields.get("host", ())) != 1 and (is_newest or "host" in fields):
        return Request(HTTPStatus.BAD_REQUEST, is_head=is_head)
    options = [each.lower() for each in _listed(fields.get("connection", []))]
    is_kept = "close" not in options and (is_newest or "keep-alive" in options)
    has_body = "transfer-encoding" in fields or any(each != "0" for each in fields.get("content-length", ()))
    if _ABSOLUTE.sub("", target, count=1).partition("?")[0] != PATH:
        return Request(HTTPStatus.NOT_FOUND, is_head=is_head, is_kept=is_kept and not has_body)
    if method not in _METHODS:
        return Request(HTTPStatus.METHOD_NOT_ALLOWED, is_kept=is_kept and not has_body)
    if has_body:
        return Request(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, is_head=is_head)
    return Request(HTTPStatus.OK, _preferred(fields.get("accept", [])), is_head, is_kept)


def response(request: Request, body: bytes, now: float, is_kept: bool | None = None) -> bytes:
    """Return the response: the page, or if the request is answered otherwise a line that says why.

    now is in seconds since the epoch; is_kept False closes the connection although the client would keep it.
    """
    status, media_type = request.status, request.wanted.value
    more = ""
    if status is not HTTPStatus.OK:
        body, media_type = f"{_HINTS[status]}\n".encode(), _PLAIN
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        more = f"Allow: {', '.join(_METHODS)}\r\n"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Date: {formatdate(now, usegmt=True)}\r\n"
        f"Content-Type: {media_type}\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Vary: Accept\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        f"{more}Connection: {'keep-alive' if request.is_kept and is_kept is not False else 'close'}\r\n\r\n"
    )
    return head.encode() + (b"" if request.is_head else body)


def _listed(values: list[str]) -> list[str]:
    return [each.strip(" \t") for value in values for each in value.split(",")]


def _preferred(accepted: list[str]) -> Format:
    """Return the format that Accept prefers; of equal ones, and if it takes none, Prometheus's own."""
    found = {wanted: max((_quality(each, wanted) for each in _listed(accepted)), default=0.0) for wanted in Format}
    return max(Format, key=lambda wanted: found[wanted])


def _quality(accepted: str, wanted: Format) -> float:
    """How much one entry of Accept wants the format, 0 if not at all."""
    media_type, *parameters = (each.strip(" \t").lower() for each in accepted.split(";"))
    name, version, *_ = wanted.value.split("; ")
    if media_type not in (name, "*/*" if wanted is Format.PROMETHEUS else name):
        return 0.0
    given = dict(each.partition("=")[::2] for each in parameters)
    if given.get("version", version.partition("=")[2]) != version.partition("=")[2]:
        return 0.0
    quality = given.get("q", "1")
    return float(quality) if _QUALITY.fullmatch(quality) else 0.0
