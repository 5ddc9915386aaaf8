"""The conversation of a COPY: data passes between program and broker until the final reply comes.

Between two messages the program's file is at work, for as long as it likes. That time is not the broker's: it does not
count as silence, and patience does not run. And what has come meanwhile is looked at before the file gets more to do,
as a failure among it (the COPY was cancelled, or its time is over) makes all that is still to be copied void.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from client.wire.messages import Failure, ToBroker, UnderWay

if TYPE_CHECKING:
    from client.channels.channel import Channel

# What a message ahead of a request's reply leads to: messages to send, and None each time the program's file was at
# work.
GoOn = Callable[[UnderWay], Iterable[ToBroker | None]]
# Seconds between two looks at what has come: to look costs a system call, which a fast file should not pay per piece.
LOOK_AFTER = 0.05


def conversed(channel: Channel, message: Any, patience: float | None, go_on: GoOn) -> Any:
    """Send the request and what go_on returns for each message ahead of its reply; return the reply.

    patience bounds the time for which the broker is waited for, in seconds.
    """
    request = message[0]
    deadline = None if patience is None else time.monotonic() + patience
    channel.send(message, deadline)
    ahead: deque[Any] = deque()  # what has come and is not gone on with yet
    looked = time.monotonic()
    while True:
        reply = ahead.popleft() if ahead else channel.reply_to(request, patience, deadline)
        if not isinstance(reply, UnderWay):
            return reply
        since = time.monotonic()
        for each in go_on(reply):
            if each is not None:
                channel.send(each, deadline)
                since = time.monotonic()
                continue
            now = time.monotonic()
            if deadline is not None:
                deadline += now - since
            since = now
            if now - looked >= LOOK_AFTER:
                looked = now
                ahead.extend(channel.replies_here(request))
                if ahead and isinstance(ahead[-1], Failure):
                    return ahead[-1]
