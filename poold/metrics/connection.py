"""One connection of a collector: what it has sent, what is to be sent to it, and how long it may take.

READING -> WAITING    a page is asked for, as soon as the request is whole
READING -> WRITING    anything else: the answer says why
WAITING -> WRITING    the page is there
WRITING -> READING    it is sent, and the connection goes on
WRITING -> ENDING     it is sent, and the connection ends: what comes is thrown away until the other side has ended,
                      as closing a socket with something unread takes back what was sent
"""

from __future__ import annotations

import math
import re
import socket
from enum import Enum
from http import HTTPStatus

from poold.metrics.exposition import Format
from poold.metrics.http import MAX_HEAD_BYTES, Request, read_head, response

# Seconds. Collectors send a request at once and take its answer at once; the kernel buffers most of it anyway.
REQUEST_TIMEOUT = 5.0
WRITE_TIMEOUT = 10.0
# Collectors come each minute or more often, most on the connection of the last time.
IDLE_TIMEOUT = 150.0
# For the end of the file after the last answer.
ENDING_TIMEOUT = 2.0

_END = re.compile(rb"\r?\n\r?\n")
_LINE_ENDS = b"\r\n"


class State(Enum):
    """What the connection does."""

    READING = "reading"
    WAITING = "waiting"
    WRITING = "writing"
    ENDING = "ending"


class Watch(Enum):
    """What of the socket is watched."""

    NOTHING = "nothing"
    READ = "read"
    WRITE = "write"


_WANTED = {
    State.READING: Watch.READ,
    State.WAITING: Watch.NOTHING,
    State.WRITING: Watch.WRITE,
    State.ENDING: Watch.READ,
}


class Connection:
    """One connection; the socket does not block."""

    def __init__(self, accepted: socket.socket, now: float) -> None:
        self._socket = accepted
        self.descriptor = accepted.fileno()
        self.state = State.READING
        self.deadline = now + REQUEST_TIMEOUT
        self.is_last = False  # it ends behind its next answer
        self.watched = Watch.NOTHING  # kept by whoever watches
        self._is_new = True  # nothing has been answered yet
        self._received = b""
        self._request = Request(HTTPStatus.BAD_REQUEST)
        self._unsent = memoryview(b"")

    @property
    def wants(self) -> Watch:
        """What has to be watched in this state."""
        return _WANTED[self.state]

    @property
    def wanted(self) -> Format:
        """The format of the page that it waits for."""
        return self._request.wanted

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer, as far as is known: whoever has just connected is about to ask."""
        return self.state is State.READING and not self._received and not self._is_new

    @property
    def has_more(self) -> bool:
        """Whether something came behind the last request."""
        return bool(self._received)

    def receive(self, now: float) -> bool:
        """Read what has come, a bounded part of it. Returns whether the connection is still open; raises OSError."""
        data = self._socket.recv(MAX_HEAD_BYTES)
        if self.state is State.READING:
            if not self._received:
                self.deadline = min(self.deadline, now + REQUEST_TIMEOUT)
            self._received += data
        return bool(data)

    def find_request(self) -> bool:
        """Go on to WAITING or WRITING if a request is whole, or will never be one. Returns whether that is so."""
        if self.state is not State.READING:
            return False
        self._received = self._received.lstrip(_LINE_ENDS)
        end = _END.search(self._received)
        if end is not None and end.end() <= MAX_HEAD_BYTES:
            self._request = read_head(self._received[: end.start()])
            self._received = self._received[end.end() :]
        elif len(self._received) >= MAX_HEAD_BYTES:
            self._request = Request(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            return False
        self.state = State.WAITING if self._request.status is HTTPStatus.OK else State.WRITING
        self.deadline = math.inf
        return True

    def answer(self, page: bytes, now: float, date: float) -> None:
        """Begin to answer the request; page is for one that waits. date is now in seconds since the epoch."""
        self._is_new = False
        self.is_last = self.is_last or not self._request.is_kept
        self._unsent = memoryview(response(self._request, page, date, is_kept=not self.is_last))
        self.state, self.deadline = State.WRITING, now + WRITE_TIMEOUT

    def send(self, now: float) -> None:
        """Send what the socket takes. If that is all, go on to READING or ENDING. Raises OSError."""
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return
        if self._unsent:
            return
        if self.is_last:
            self._received = b""
            self._socket.shutdown(socket.SHUT_WR)
            self.state, self.deadline = State.ENDING, now + ENDING_TIMEOUT
        else:
            self.state, self.deadline = State.READING, now + (REQUEST_TIMEOUT if self._received else IDLE_TIMEOUT)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
