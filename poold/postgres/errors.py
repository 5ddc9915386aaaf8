"""Errors between the broker and a server that are not PostgreSQL's own."""

from __future__ import annotations

from client.wire.limits import RELIED_ON
from client.wire.messages import TX_BROKEN, Failure, Outcome, plain_failure
from poold.postgres.parameter_status import READ_ONLY


class WireError(Exception):
    """The server does not speak the protocol, or not as expected; the connection is of no use."""


def two_texts(body: bytes) -> tuple[str, str]:
    """Return the two strings in the body, each of which has NUL at its end; raises WireError."""
    parts = body.split(b"\0")
    if len(parts) != 3:
        raise WireError(f"the server sent {body!r:.100} where two texts were expected")
    return parts[0].decode("utf-8", "replace"), parts[1].decode("utf-8", "replace")


def refused(text: str, outcome: Outcome) -> Failure:
    """Return the failure of a statement that poold does not run."""
    return plain_failure("statement-refused", outcome, text)


def relied_on_changed(outcome: Outcome) -> Failure:
    """Return the failure of a statement that changed such a setting, or ran behind it; its values are in doubt."""
    text = (
        f"a statement must not change {', '.join(RELIED_ON)}: the clients' literals and values rely on them; nor "
        f"{READ_ONLY} in a group that is read_only; the connection was closed, an open transaction rolled back"
    )
    return plain_failure("usage", outcome, text, TX_BROKEN)
