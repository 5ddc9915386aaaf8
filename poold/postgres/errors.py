"""What goes wrong between the broker and a server without being one of PostgreSQL's own errors."""

from __future__ import annotations

from client.wire.limits import RELIED_ON
from client.wire.messages import TX_BROKEN, Failure, Outcome, plain_failure
from poold.postgres.parameter_status import READ_ONLY


class WireError(Exception):
    """The server does not speak the protocol, or not as expected; the connection is of no use."""


def two_texts(body: bytes) -> tuple[str, str]:
    """Two strings, each with NUL at its end."""
    parts = body.split(b"\0")
    if len(parts) != 3:
        raise WireError(f"the server sent {body!r:.100} where two texts were expected")
    return parts[0].decode("utf-8", "replace"), parts[1].decode("utf-8", "replace")


def refused(text: str, outcome: Outcome) -> Failure:
    """For a statement that poold does not run."""
    return plain_failure("statement-refused", outcome, text)


def relied_on_changed(outcome: Outcome) -> Failure:
    """For the statement that changed them, and for those behind it, whose values may be written in another way."""
    text = (
        f"a statement must not change {', '.join(RELIED_ON)}: the clients' literals and values rely on them; nor "
        f"{READ_ONLY} in a group that is read_only; the connection was closed, an open transaction rolled back"
    )
    return plain_failure("usage", outcome, text, TX_BROKEN)
