"""The conversation of a COPY: data passes between program and broker until the final reply comes.

Between two messages the program's file is at work, for as long as it likes. That time is not the broker's: it does not
count as silence, and patience does not run. And what has come meanwhile is looked at before the file gets more to do,
as a failure among it (the COPY was cancelled, or its time is over) makes all that is still to be copied void.

A broker that stops reads nothing any more when the COPY is over for PostgreSQL and for the broker. What it has sent
lies in the socket then, and is read to its end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from client.interruptions import is_own
from client.wire.codec import encode
from client.wire.messages import CancelRequest, CopyTaken, Failure, ToBroker, UnderWay
from client.wire.zmtp import frame

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
    is_heard = True  # whether the broker still reads
    while True:
        reply = ahead.popleft() if ahead else channel.reply_to(request, patience, deadline)
        if not isinstance(reply, UnderWay):
            return reply
        since = time.monotonic()
        for each in go_on(reply):
            if each is not None:
                if is_heard and isinstance(each, (CopyTaken, CancelRequest)):
                    is_heard = _is_sent(channel, each, deadline)
                elif is_heard:
                    channel.send(each, deadline)
                since = time.monotonic()
                continue
            now = time.monotonic()
            if deadline is not None:
                deadline += now - since
            since = now
            has_reply = bool(ahead) and not isinstance(ahead[-1], UnderWay)  # then nothing follows but the end
            if now - looked >= LOOK_AFTER and not has_reply:
                looked = now
                ahead.extend(channel.replies_here(request))
                if ahead and isinstance(ahead[-1], Failure):
                    return ahead[-1]


def _is_sent(channel: Channel, message: ToBroker, deadline: float | None) -> bool:
    """Send what the broker needs to know only as long as it has more to send; False if it does not read any more."""
    data = frame(encode(message))
    try:
        if deadline is None:
            channel._socket.sendall(data)
        else:
            channel._socket.send_by(data, deadline)
    except (BrokenPipeError, ConnectionResetError) as error:
        if not is_own(error):
            raise
        return False
    return True
