"""How a conversation begins: what a client says of itself, and what it expects to hear."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from client.channels.timeouts import WELCOME_TIMEOUT
from client.errors import UNSERVED, DBConnectionError, connection_error, error_from, unanswered, unserved
from client.wire.arguments import packed_arguments
from client.wire.limits import MAX_NAME_CHARS
from client.wire.messages import NOT_EXECUTED, VERSION, Answer, Ask, Failure, Hello, ToClient, Welcome
from client.wire.release import RELEASE

if TYPE_CHECKING:
    from client.channels.channel import Channel


def greet(channel: Channel, patience: float) -> Welcome:
    """Go through ZeroMQ's handshake on this channel, then poold's: send Hello and return Welcome.

    patience bounds it, in seconds; raises DBConnectionError if nobody answers as a broker would.
    """
    address, deadline = channel.address, time.monotonic() + patience
    reply: ToClient | None = None
    try:
        if channel.shake_hands(deadline):
            channel.send(hello(channel.pid), deadline)
            reply = channel.next_reply(deadline)
    except DBConnectionError as error:
        if error is not channel.error:
            raise
        text = f"{address} closed the connection before it said Welcome ({error})"
        if error.failure.kind == UNSERVED:
            raise unserved(text) from None
        raise connection_error(text, NOT_EXECUTED, error.is_kept_out) from None
    if isinstance(reply, Failure):
        raise error_from(reply)
    if not isinstance(reply, Welcome):
        raise unanswered(
            f"something listens at {address} but did not answer as a poold broker within {patience:g} s: it hangs, or "
            "is none; check the address",
            NOT_EXECUTED,
        )
    return reply


def ask_for_groups(channel: Channel, wanted: str) -> None:
    """Note in the channel's Welcome which groups the broker has by now; raises DBError if it does not say so.

    If the broker knows what has become of the one that is wanted, the error says that.
    """
    arguments = packed_arguments([("group", wanted)])
    answer = channel.call(Ask(channel.next_request(), "groups", arguments), WELCOME_TIMEOUT)
    assert isinstance(answer, Answer)
    groups = channel.welcome.groups
    groups.clear()
    groups.update(answer.body)


def hello(pid: int) -> Hello:
    """Return the first message of this process."""
    return Hello(VERSION, pid, _application_name(), RELEASE)


def _application_name() -> str:
    """What `poold stats` shows for this client: the program's file name."""
    name = os.path.basename(sys.argv[0] if sys.argv else "")
    return os.fsencode(name).decode("utf-8", "replace")[:MAX_NAME_CHARS]
