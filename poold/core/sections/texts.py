"""What runs or waits, in words: a statement's text with $1, $2, ... for its parameters, and ? for values in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from client.wire.cursors import Source, described
from client.wire.limits import SAVEPOINT
from poold.core.records.flow import Flight
from poold.core.records.request import Request, Verb

LONGEST = 400  # characters of one text

_OWN = {
    Verb.PROBE: "poold asks what a statement is: ",
    Verb.INQUIRY: "poold asks what became of a COMMIT",
    Verb.QUESTION: "poold asks how many transactions there were",
    Verb.CATALOGS: "poold asks whether the catalogs have changed",
    Verb.LOCKS: "poold asks who waits for a lock",
}


def text_of(request: Request | Flight) -> str:
    """What the request runs."""
    if isinstance(request, Request):
        return _of_request(request)
    return _joined(statement.sql for statement in request.flow.statements)


def shown(statement: bytes, fetched: Source | None = None) -> str:
    """A statement on one line, shortened, and without values; behind it the query from which it fetches, if any."""
    text = described(statement, fetched)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _of_request(request: Request) -> str:
    own = _OWN.get(request.verb, "")
    if request.script is not None:
        return _joined(_steps(request.script.steps))
    if request.batch is not None and request.statement is not None:
        return f"{len(request.batch)} statements in one message: {shown(request.statement.sql)}"
    if request.statement is not None:
        return own + shown(request.statement.sql, request.fetched)
    return own or request.verb.name


def _steps(steps: Iterable[object]) -> Iterator[bytes]:
    yield b"BEGIN"
    for step in steps:
        if isinstance(step, int):
            yield b"SAVEPOINT" if step == SAVEPOINT else b"RELEASE"
        else:
            yield step.statement  # type: ignore[attr-defined]  # a Step
    yield b"COMMIT"


def _joined(statements: Iterable[bytes]) -> str:
    text = ""
    for statement in statements:
        text += ("; " if text else "") + shown(statement)
        if len(text) > LONGEST:
            return text[: LONGEST - 3] + "..."
    return text
